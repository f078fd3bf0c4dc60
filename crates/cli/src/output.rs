//! What goes to standard output.
//!
//! Owns: the four formats. Results go to standard output, everything said about them to standard
//! error, so a pipe sees results only.

use std::io::{self, Write as _};

use serde_json::Value;

use crate::exit::Failure;

/// How results are printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// The answer of the API, indented.
    Json,
    /// Comma separated, with a header (RFC 4180).
    Csv,
    /// Tab separated, without a header.
    Raw,
}

/// Rows under column names.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// Names, in order.
    pub(crate) columns: Vec<String>,
    /// One value per column each. `None` is SQL's NULL.
    pub(crate) rows: Vec<Vec<Option<String>>>,
}

/// Prints text as it is.
///
/// # Errors
///
/// When standard output is closed.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Prints one line.
///
/// # Errors
///
/// When standard output is closed.
pub(crate) fn line(line: &str) -> Result<(), Failure> {
    text(&format!("{line}\n"))
}

/// Prints a JSON document, indented.
///
/// # Errors
///
/// When standard output is closed.
pub(crate) fn json(value: &Value) -> Result<(), Failure> {
    line(&format!("{value:#}"))
}

/// Prints names and values, aligned.
///
/// # Errors
///
/// When standard output is closed.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> Result<(), Failure> {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: String = pairs
        .iter()
        .map(|(name, value)| {
            format!(
                "{:<width$}  {value}\n",
                format!("{name}:"),
                width = width + 1
            )
        })
        .collect();
    text(&lines)
}

impl Rows {
    /// Prints them in `format`; [`Format::Json`] prints an array of objects.
    ///
    /// # Errors
    ///
    /// When standard output is closed.
    pub(crate) fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Table => line(&self.table()),
            Format::Json => json(&self.objects()),
            Format::Csv => text(&self.csv()),
            Format::Raw => text(&self.raw()),
        }
    }

    fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(self.columns.iter().map(|name| printable(name)));
        for row in &self.rows {
            table.add_row(
                row.iter()
                    .map(|value| printable(value.as_deref().unwrap_or(""))),
            );
        }
        table
            .lines()
            .map(|line| {
                line.strip_prefix(' ')
                    .unwrap_or(&line)
                    .trim_end()
                    .to_owned()
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn objects(&self) -> Value {
        let object = |row: &Vec<Option<String>>| {
            self.columns
                .iter()
                .cloned()
                .zip(row.iter().map(|value| {
                    value
                        .as_ref()
                        .map_or(Value::Null, |value| Value::String(value.clone()))
                }))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        Value::Array(self.rows.iter().map(object).collect())
    }

    fn csv(&self) -> String {
        let record = |values: Vec<&str>| {
            let fields: Vec<_> = values.into_iter().map(csv_field).collect();
            fields.join(",") + "\n"
        };
        let mut text = record(self.columns.iter().map(String::as_str).collect());
        for row in &self.rows {
            text += &record(row.iter().map(|v| v.as_deref().unwrap_or("")).collect());
        }
        text
    }

    fn raw(&self) -> String {
        self.rows
            .iter()
            .map(|row| {
                let values: Vec<_> = row.iter().map(|v| v.as_deref().unwrap_or("")).collect();
                values.join("\t") + "\n"
            })
            .collect()
    }
}

/// Control characters would let a value write all over a terminal.
fn printable(value: &str) -> String {
    value
        .chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

fn csv_field(value: &str) -> String {
    if value.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        Rows {
            columns: vec!["id".into(), "note".into()],
            rows: vec![
                vec![Some("1".into()), Some("a,\"b\"\nc".into())],
                vec![Some("22".into()), None],
            ],
        }
    }

    #[test]
    fn csv_quotes_what_must_be_quoted() {
        assert_eq!(rows().csv(), "id,note\n1,\"a,\"\"b\"\"\nc\"\n22,\n");
    }

    #[test]
    fn raw_has_no_header() {
        assert_eq!(rows().raw(), "1\ta,\"b\"\nc\n22\t\n");
    }

    #[test]
    fn json_keeps_null_apart_from_empty() {
        assert_eq!(rows().objects()[1]["note"], Value::Null);
    }

    #[test]
    fn a_value_cannot_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
