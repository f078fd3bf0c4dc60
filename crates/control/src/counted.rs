//! What this process did for users beside their sessions, counted since its start: holds, copies of
//! databases, SQL over HTTP.
//!
//! Owns: the counters, their words, and their part of the page of metrics. Does not own: what is counted
//! (`hold`, `branch`, `sql`), or who may read the page (`api::metrics`).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::exposition::{Family, Page};
use tokio::time::Instant;

/// Upper bounds of the times that are told apart, microseconds: from a hold of some milliseconds to a copy
/// of an hour.
const BOUNDS_US: [u64; 14] = [
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    30_000_000,
    120_000_000,
    600_000_000,
    3_600_000_000,
];

/// How often something took how long.
#[derive(Clone, Debug, Default)]
struct Times {
    counts: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl Times {
    fn note(&mut self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[BOUNDS_US.partition_point(|bound| *bound < took_us)] += 1;
        self.sum_us = self.sum_us.saturating_add(took_us);
    }

    fn write(&self, labels: &[(&str, &str)], family: &mut Family<'_>) {
        family.times(labels, &BOUNDS_US, &self.counts, self.sum_us);
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Counted(Mutex<Numbers>);

/// Words are ours, so there are not many.
#[derive(Debug, Default)]
struct Numbers {
    holds: BTreeMap<&'static str, u64>,
    hold_time: Times,
    copies: BTreeMap<&'static str, Copies>,
    copies_failed: BTreeMap<&'static str, u64>,
    backups: [u64; 2],
    alert_messages: BTreeMap<&'static str, u64>,
    log_written: u64,
    log_dropped: u64,
    requests: BTreeMap<(&'static str, &'static str), u64>,
    request_time: BTreeMap<&'static str, Times>,
    request_rows: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
struct Copies {
    bytes: u64,
    time: Times,
}

impl Counted {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A hold has ended, or never began, and this is how. `lasted`: for so long clients may have waited.
    pub(crate) fn hold(&self, how: &'static str, lasted: Option<Duration>) {
        let mut numbers = self.numbers();
        *numbers.holds.entry(how).or_default() += 1;
        if let Some(lasted) = lasted {
            numbers.hold_time.note(lasted);
        }
    }

    /// A database was copied.
    pub(crate) fn copy(&self, path: &'static str, took: Duration, bytes: Option<u64>) {
        let mut numbers = self.numbers();
        let copies = numbers.copies.entry(path).or_default();
        copies.bytes = copies.bytes.saturating_add(bytes.unwrap_or(0));
        copies.time.note(took);
    }

    /// It was not.
    pub(crate) fn copy_failed(&self, why: &'static str) {
        *self.numbers().copies_failed.entry(why).or_default() += 1;
    }

    /// A database was backed up.
    pub(crate) fn backup_made(&self) {
        self.numbers().backups[0] += 1;
    }

    /// It was not, this time.
    pub(crate) fn backup_failed(&self) {
        self.numbers().backups[1] += 1;
    }

    /// A message of an alert was sent to a webhook, and this came of it.
    pub(crate) fn alert_message(&self, result: &'static str) {
        *self.numbers().alert_messages.entry(result).or_default() += 1;
    }

    /// So many lines of statement logs were written.
    pub(crate) fn log_written(&self, lines: u64) {
        self.numbers().log_written += lines;
    }

    /// For so many there was no room.
    pub(crate) fn log_dropped(&self, lines: u64) {
        self.numbers().log_dropped += lines;
    }

    /// A request for SQL over HTTP begins.
    pub(crate) fn request(&self, endpoint: &'static str) -> SqlRequest<'_> {
        SqlRequest {
            counted: self,
            endpoint,
            began: Instant::now(),
            result: LEFT,
            rows: 0,
        }
    }

    /// Its part of the page.
    pub(crate) fn write(&self, page: &mut Page) {
        let numbers = self.numbers();
        let mut family = page.counter(
            "tenantry_holds_total",
            "Times that a tenant was to be held for a copy, by how it ended; held: it was let go of in time.",
        );
        for (how, count) in &numbers.holds {
            family.sample(&[("how", how)], *count);
        }
        let mut family = page.histogram(
            "tenantry_hold_seconds",
            "From the first word to proxies to letting go: so long new transactions of a tenant waited.",
        );
        numbers.hold_time.write(&[], &mut family);

        let mut family = page.histogram(
            "tenantry_branch_copy_seconds",
            "Copying a parent's database for a branch, by the way it took.",
        );
        for (path, copies) in &numbers.copies {
            copies.time.write(&[("path", path)], &mut family);
        }
        let mut family = page.counter(
            "tenantry_branch_copied_bytes_total",
            "Size of the databases that were copied, as their files show it, by the way it took.",
        );
        for (path, copies) in &numbers.copies {
            family.sample(&[("path", path)], copies.bytes);
        }
        let mut family = page.counter(
            "tenantry_branch_copies_failed_total",
            "Attempts to copy a parent's database that failed; most are made again.",
        );
        for (why, count) in &numbers.copies_failed {
            family.sample(&[("why", why)], *count);
        }

        let mut family = page.counter(
            "tenantry_backup_attempts_total",
            "Attempts to back a database up; failed ones are repeated.",
        );
        for (result, count) in ["made", "failed"].iter().zip(numbers.backups) {
            family.sample(&[("result", result)], count);
        }

        let lines = [
            ("written", numbers.log_written),
            ("dropped", numbers.log_dropped),
        ];
        let mut family = page.counter(
            "tenantry_statement_log_lines_total",
            "Lines of the statement logs of databases; dropped: there was no room for them.",
        );
        for (result, count) in lines {
            family.sample(&[("result", result)], count);
        }

        let mut family = page.counter(
            "tenantry_alert_messages_total",
            "Attempts to send a message of an alert to its webhook; failed: it is tried again; given_up: no more.",
        );
        for (result, count) in &numbers.alert_messages {
            family.sample(&[("result", result)], *count);
        }

        let mut family = page.counter(
            "tenantry_sql_http_requests_total",
            "Requests for SQL over HTTP; error: PostgreSQL refused a statement; refused: we did, or the login failed; left: the client did not wait.",
        );
        for ((endpoint, result), count) in &numbers.requests {
            family.sample(&[("endpoint", endpoint), ("result", result)], *count);
        }
        let mut family = page.histogram(
            "tenantry_sql_http_seconds",
            "Requests for SQL over HTTP, from when they are understood to the end of the work.",
        );
        for (endpoint, times) in &numbers.request_time {
            times.write(&[("endpoint", endpoint)], &mut family);
        }
        let mut family = page.counter(
            "tenantry_sql_http_rows_total",
            "Rows in answers to SQL over HTTP.",
        );
        for (endpoint, count) in &numbers.request_rows {
            family.sample(&[("endpoint", endpoint)], *count);
        }
    }
}

/// What a request is counted as when nobody says something else: its future was dropped.
const LEFT: &str = "left";

/// A request that is being worked on. Counted when it is dropped.
pub(crate) struct SqlRequest<'a> {
    counted: &'a Counted,
    endpoint: &'static str,
    began: Instant,
    result: &'static str,
    rows: u64,
}

impl SqlRequest<'_> {
    /// All was done, with so many rows in the answer.
    pub(crate) fn done(&mut self, rows: usize) {
        self.result = "done";
        self.rows = rows as u64;
    }

    /// PostgreSQL refused.
    pub(crate) fn failed(&mut self) {
        self.result = "error";
    }

    /// We did.
    pub(crate) fn refused(&mut self) {
        self.result = "refused";
    }
}

impl Drop for SqlRequest<'_> {
    fn drop(&mut self) {
        let mut numbers = self.counted.numbers();
        let key = (self.endpoint, self.result);
        *numbers.requests.entry(key).or_default() += 1;
        let times = numbers.request_time.entry(self.endpoint).or_default();
        times.note(self.began.elapsed());
        *numbers.request_rows.entry(self.endpoint).or_default() += self.rows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_counted_once_under_its_words() {
        let counted = Counted::default();
        counted.hold("held", Some(Duration::from_millis(70)));
        counted.hold("taken", None);
        counted.copy("wal_log", Duration::from_secs(2), Some(1000));
        counted.copy("wal_log", Duration::from_secs(7200), Some(24));
        counted.copy_failed("in_use");
        counted.request("api").done(3);
        counted.request("api").failed();
        let request = counted.request("neon");
        tokio::time::advance(Duration::from_secs(3)).await;
        drop(request);
        let mut page = Page::default();
        counted.write(&mut page);
        let page = page.into_text("");
        for line in [
            "tenantry_holds_total{how=\"held\"} 1",
            "tenantry_holds_total{how=\"taken\"} 1",
            "tenantry_hold_seconds_bucket{le=\"0.05\"} 0",
            "tenantry_hold_seconds_bucket{le=\"0.1\"} 1",
            "tenantry_hold_seconds_count 1",
            "tenantry_branch_copy_seconds_bucket{path=\"wal_log\",le=\"3600\"} 1",
            "tenantry_branch_copy_seconds_bucket{path=\"wal_log\",le=\"+Inf\"} 2",
            "tenantry_branch_copy_seconds_sum{path=\"wal_log\"} 7202",
            "tenantry_branch_copied_bytes_total{path=\"wal_log\"} 1024",
            "tenantry_branch_copies_failed_total{why=\"in_use\"} 1",
            "tenantry_sql_http_requests_total{endpoint=\"api\",result=\"done\"} 1",
            "tenantry_sql_http_requests_total{endpoint=\"api\",result=\"error\"} 1",
            "tenantry_sql_http_requests_total{endpoint=\"neon\",result=\"left\"} 1",
            "tenantry_sql_http_seconds_count{endpoint=\"api\"} 2",
            "tenantry_sql_http_seconds_sum{endpoint=\"neon\"} 3",
            "tenantry_sql_http_rows_total{endpoint=\"api\"} 3",
        ] {
            assert!(page.lines().any(|own| own == line), "{line}:\n{page}");
        }
    }
}
