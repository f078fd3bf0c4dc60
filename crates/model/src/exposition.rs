//! Numbers in the text format that Prometheus reads, version 0.0.4.
//!
//! Owns: how names, labels, values and histograms are written, and how one part of the process asks
//! another for its page. Does not own: any number.

use std::fmt::Write;

use tokio::sync::{mpsc, oneshot};

/// What an HTTP answer with a [`Page`] says it is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Asks a part of the process for its page, as text. Whoever asks waits for the answer; one that is
/// dropped says that the part is gone.
pub type Pages = mpsc::Sender<oneshot::Sender<String>>;

/// Families of numbers, one after the other. Each must be written once, and whole.
#[derive(Debug, Default)]
pub struct Page(String);

/// A name and a help text with samples to come.
#[derive(Debug)]
pub struct Family<'p> {
    page: &'p mut String,
    name: &'static str,
}

/// A value as it is written.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// A count. Exact up to 2^53, where Prometheus' own numbers end.
    Whole(u64),
    /// Seconds and shares.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl Page {
    /// Numbers that only rise. The name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        debug_assert!(name.ends_with("_total"), "{name}");
        self.family(name, "counter", help)
    }

    /// Numbers that rise and fall.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// How often something took how long. The name ends in `_seconds`.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        debug_assert!(name.ends_with("_seconds"), "{name}");
        self.family(name, "histogram", help)
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        let _ = writeln!(self.0, "# HELP {name} {}", Escaped(help, false));
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        Family {
            page: &mut self.0,
            name,
        }
    }

    /// The text, with the page of another part behind it.
    pub fn into_text(mut self, other: &str) -> String {
        self.0.push_str(other);
        self.0
    }
}

impl Family<'_> {
    /// One sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) -> &mut Self {
        self.line("", labels, None, value.into());
        self
    }

    /// One histogram: `counts[i]` is how many were at most `bounds_us[i]` microseconds and more than
    /// the bound before it; the last count is of those above all bounds.
    pub fn times(
        &mut self,
        labels: &[(&str, &str)],
        bounds_us: &[u64],
        counts: &[u64],
        sum_us: u64,
    ) -> &mut Self {
        debug_assert_eq!(counts.len(), bounds_us.len() + 1);
        let mut total = 0;
        for (bound, count) in bounds_us.iter().zip(counts) {
            total += count;
            let bound = (*bound as f64 / 1e6).to_string();
            self.line("_bucket", labels, Some(&bound), total.into());
        }
        total += counts.last().copied().unwrap_or_default();
        self.line("_bucket", labels, Some("+Inf"), total.into());
        self.line("_sum", labels, None, (sum_us as f64 / 1e6).into());
        self.line("_count", labels, None, total.into());
        self
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], le: Option<&str>, value: Value) {
        let page = &mut *self.page;
        let _ = write!(page, "{}{suffix}", self.name);
        let mut open = '{';
        for (name, value) in labels.iter().copied().chain(le.map(|le| ("le", le))) {
            let _ = write!(page, "{open}{name}=\"{}\"", Escaped(value, true));
            open = ',';
        }
        if open == ',' {
            page.push('}');
        }
        let _ = match value {
            Value::Whole(value) => writeln!(page, " {value}"),
            Value::Real(value) => writeln!(page, " {value}"),
        };
    }
}

/// A help text, or the value of a label, which also escapes quotes.
struct Escaped<'a>(&'a str, bool);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.1 => f.write_str("\\\"")?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_prometheus_wants_it() {
        let mut page = Page::default();
        page.counter("a_total", "Of \"a\",\nwith \\.")
            .sample(&[], 3_u64)
            .sample(&[("x", "1\"2\\3\n4"), ("y", "")], 4_u32);
        page.gauge("b", "B.").sample(&[], 0.5);
        page.histogram("c_seconds", "C.").times(
            &[("x", "y")],
            &[100, 2_500_000],
            &[1, 2, 3],
            1_500_000,
        );
        assert_eq!(
            page.into_text("# other\n"),
            "# HELP a_total Of \"a\",\\nwith \\\\.\n# TYPE a_total counter\na_total 3\n\
             a_total{x=\"1\\\"2\\\\3\\n4\",y=\"\"} 4\n\
             # HELP b B.\n# TYPE b gauge\nb 0.5\n\
             # HELP c_seconds C.\n# TYPE c_seconds histogram\n\
             c_seconds_bucket{x=\"y\",le=\"0.0001\"} 1\nc_seconds_bucket{x=\"y\",le=\"2.5\"} 3\n\
             c_seconds_bucket{x=\"y\",le=\"+Inf\"} 6\nc_seconds_sum{x=\"y\"} 1.5\n\
             c_seconds_count{x=\"y\"} 6\n# other\n"
        );
    }
}
