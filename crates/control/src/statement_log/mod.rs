//! The log of a tenant's statements.
//!
//! Owns: taking lines from the proxy of this process, the room for those that wait to be written, and when they
//! are written and removed (`store`); showing them ([`http`]). Does not own: which statements are kept, and
//! without what (`proxy`), or when a pass is made (`insight`).
//!
//! While the catalog is away lines wait here, the oldest give way first, and what gave way is counted as what the
//! proxy had no room for.

pub(crate) mod http;
mod store;

use std::{collections::VecDeque, time::Duration};

use model::insight::{Question, TenantLog};
use tokio::sync::Mutex;

use crate::{api::App, catalog::CatalogError};

/// Lines that wait to be written. 12 MB.
const DUE_LINES_MAX: usize = 100_000;
/// Parts that wait, of which some may have no lines any more, only a count of them.
const DUE_PARTS_MAX: usize = 20_000;
/// Parts that are written in one transaction.
const BATCH: usize = 100;
/// Lines after which it is looked at whether there are too many of all tenants, at the latest; and passes.
const SWEEP_LINES: usize = 20_000;
const SWEEP_EVERY: u32 = 60;

/// What this process knows beside the catalog.
#[derive(Default)]
pub(crate) struct StatementLog(Mutex<Due>);

/// What is not written yet.
#[derive(Default)]
struct Due {
    parts: VecDeque<Part>,
    lines: usize,
    passes: u32,
    written: usize,
}

/// Lines of a tenant that were taken at once.
struct Part {
    /// Nobody else's.
    number: i64,
    log: TenantLog,
}

impl Due {
    /// Takes in what a proxy gave. Returns how many lines had no room, there or here.
    fn take(&mut self, logs: Vec<TenantLog>) -> u64 {
        let mut dropped = 0;
        for log in logs {
            dropped += log.dropped;
            self.lines += log.lines.len();
            self.parts.push_back(Part {
                number: rand::random_range(0..=i64::MAX),
                log,
            });
        }
        let mut oldest = self.parts.iter_mut();
        while self.lines > DUE_LINES_MAX
            && let Some(Part { log, .. }) = oldest.next()
        {
            let lost = log.lines.len();
            self.lines -= lost;
            log.dropped += lost as u64;
            dropped += lost as u64;
            (log.lines, log.statements) = Default::default();
        }
        while self.parts.len() > DUE_PARTS_MAX
            && let Some(part) = self.parts.pop_front()
        {
            self.lines -= part.log.lines.len();
            dropped += part.log.lines.len() as u64;
        }
        dropped
    }

    /// So many of the first ones are written.
    fn written(&mut self, parts: usize) -> usize {
        let lines = self.parts.drain(..parts).map(|part| part.log.lines.len());
        let lines: usize = lines.sum();
        self.lines -= lines;
        self.written += lines;
        lines
    }
}

/// Takes what there is, writes it, and removes what is too old or too much.
pub(crate) async fn round(app: &App) -> Result<(), CatalogError> {
    let mut due = app.statement_log.0.lock().await;
    // Also while nothing can be written: the proxy has less room.
    if let Some(logs) = app.insight.ask(Question::Log).await {
        let dropped = due.take(logs);
        app.counted.log_dropped(dropped);
    }
    due.passes = due.passes.wrapping_add(1);
    let limits = &app.config.limits;
    let mut client = app.catalog.get().await?;
    while !due.parts.is_empty() {
        let count = due.parts.len().min(BATCH);
        let some: Vec<&Part> = due.parts.iter().take(count).collect();
        store::add(&mut client, &some, limits.log_lines_max).await?;
        let lines = due.written(count);
        app.counted.log_written(lines as u64);
    }
    if due.written >= SWEEP_LINES || due.passes % SWEEP_EVERY == 0 {
        let keep = app.config.statement_log_keep;
        store::sweep(&client, keep, limits.log_lines_all_max).await?;
        due.written = 0;
    }
    Ok(())
}

/// As an interval is made of it.
fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use model::{Role, insight::LogLine};

    use super::*;

    fn log(lines: usize) -> TenantLog {
        let line = LogLine {
            at: std::time::SystemTime::UNIX_EPOCH,
            login: Role::Admin.into(),
            statement: None,
            took_us: None,
            rows: 0,
            error: None,
            is_slow: false,
        };
        TenantLog {
            tenant: "abcdefghijkl".parse().unwrap(),
            lines: vec![line; lines],
            statements: Vec::new(),
            dropped: 1,
        }
    }

    /// The catalog may stay away for ever.
    #[test]
    fn what_waits_is_bounded_and_the_oldest_gives_way() {
        let mut due = Due::default();
        assert_eq!(due.take(vec![log(DUE_LINES_MAX), log(0)]), 2);
        assert_eq!(due.take(vec![log(2)]), 1 + DUE_LINES_MAX as u64);
        assert_eq!((due.lines, due.parts.len()), (2, 3));
        assert_eq!(due.parts[0].log.dropped, 1 + DUE_LINES_MAX as u64);
        let many = (0..DUE_PARTS_MAX).map(|_| log(1)).collect();
        due.take(many);
        assert_eq!((due.lines, due.parts.len()), (DUE_PARTS_MAX, DUE_PARTS_MAX));
        assert_eq!(due.written(DUE_PARTS_MAX), DUE_PARTS_MAX);
        assert_eq!(due.lines, 0);
    }
}
