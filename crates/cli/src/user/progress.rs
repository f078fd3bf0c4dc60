//! What somebody who waits sees: how much is done, or for how long it has been going on. On a terminal only.

use std::{collections::VecDeque, io::IsTerminal as _, time::Duration};

use tokio::{task::JoinHandle, time::Instant};

/// Between two looks. Often enough to be seen to move.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks that the rate is of: five seconds.
const RATE_LOOKS: usize = 20;

/// A line on standard error, gone when this is dropped.
pub(super) struct Progress(Option<JoinHandle<()>>);

impl Progress {
    /// Shows `what` and the bytes that `done` tells, of `all` where that is known. Nothing when
    /// `quiet`, or where nobody looks.
    pub(super) fn show(
        what: &'static str,
        quiet: bool,
        all: Option<u64>,
        done: impl Fn() -> u64 + Send + 'static,
    ) -> Self {
        let mut rate = Rate::new(Instant::now());
        Self::line(quiet, move || {
            let bytes = done();
            let rate = rate.after(Instant::now(), bytes);
            format!("{what} {}, {}/s", text(bytes, all), size(rate))
        })
    }

    /// Shows `what` the server is at, and for how long: that is all it tells before the end. Nothing when
    /// `quiet`, or where nobody looks.
    pub(super) fn wait(what: &'static str, quiet: bool) -> Self {
        let begun = Instant::now();
        Self::line(quiet, move || format!("{what}, {}", time(begun.elapsed())))
    }

    fn line(quiet: bool, mut text: impl FnMut() -> String + Send + 'static) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        Self(Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                eprint!("\r{}\x1b[K", text());
            }
        })))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            eprint!("\r\x1b[K");
        }
    }
}

/// Why what somebody waits for does not get on: each reason is told once, also where nobody looks at a terminal, since
/// without it a wait of an hour looks like any other.
pub(super) struct Reasons {
    quiet: bool,
    told: String,
}

impl Reasons {
    /// Tells none when `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        let told = String::new();
        Self { quiet, told }
    }

    /// `why` it did not work when it was tried last; empty: nothing is known.
    pub(super) fn tell(&mut self, why: &str) {
        if self.quiet || why.is_empty() || why == self.told {
            return;
        }
        let clear = match std::io::stderr().is_terminal() {
            true => "\r\x1b[K",
            false => "",
        };
        eprintln!("{clear}waiting: {why}; it is tried again");
        self.told = why.to_owned();
    }
}

/// How fast it goes: over the last looks, since a mean of hours would not show that it stands still.
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    fn new(now: Instant) -> Self {
        Self([(now, 0)].into())
    }

    /// Bytes a second when there are so many `bytes` now.
    fn after(&mut self, now: Instant, bytes: u64) -> u64 {
        if self.0.len() >= RATE_LOOKS {
            self.0.pop_front();
        }
        self.0.push_back((now, bytes));
        let Some((since, before)) = self.0.front() else {
            return 0;
        };
        let within_ms = now.duration_since(*since).as_millis().max(1);
        let rate = u128::from(bytes.saturating_sub(*before)) * 1000 / within_ms;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

fn text(done: u64, all: Option<u64>) -> String {
    match all.filter(|all| *all > 0) {
        Some(all) => format!(
            "{} of {} ({} %)",
            size(done),
            size(all),
            (u128::from(done) * 100 / u128::from(all)).min(100)
        ),
        None => size(done),
    }
}

/// A time for people who wait.
fn time(passed: Duration) -> String {
    let seconds = passed.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// Bytes for people, in units of 1,024.
pub(super) fn size(bytes: u64) -> String {
    let mut unit = "B";
    let (mut whole, mut tenth) = (bytes, 0);
    for larger in ["kB", "MB", "GB", "TB"] {
        if whole < 1024 {
            break;
        }
        tenth = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit = larger;
    }
    if unit == "B" {
        format!("{whole} B")
    } else {
        format!("{whole}.{tenth} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_in_the_unit_that_fits() {
        for (bytes, is) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 kB"),
            (5 * 1024 * 1024, "5.0 MB"),
        ] {
            assert_eq!(size(bytes), is);
        }
        assert_eq!(text(512, Some(1024)), "512 B of 1.0 kB (50 %)");
    }

    #[test]
    fn times_are_said_in_the_units_that_fit() {
        for (seconds, is) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3599, "59 min 59 s"),
            (3660, "1 h 1 min"),
        ] {
            assert_eq!(time(Duration::from_secs(seconds)), is);
        }
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let begin = Instant::now();
        let mut rate = Rate::new(begin);
        assert_eq!(rate.after(begin + LOOK_EVERY, 1000), 4000);
        let looks = u32::try_from(RATE_LOOKS).unwrap();
        for look in 2..looks * 2 {
            rate.after(begin + LOOK_EVERY * look, 1000);
        }
        assert_eq!(rate.after(begin + LOOK_EVERY * looks * 2, 1000), 0);
    }
}
