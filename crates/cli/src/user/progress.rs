//! What somebody who waits sees: how much is done, on a terminal only.

use std::{io::IsTerminal as _, time::Duration};

use tokio::task::JoinHandle;

/// Between two looks. Often enough to be seen to move.
const LOOK_EVERY: Duration = Duration::from_millis(250);

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
        if quiet || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        Self(Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                eprint!("\r{what} {}\x1b[K", text(done(), all));
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
}
