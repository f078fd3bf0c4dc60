//! Numbers for operators.
//!
//! Owns: what a worker counts beside its tenants, how long things took, and the page that Prometheus
//! reads, with a bounded number of series for tenants. Does not own: the counters of tenants
//! (`stats`).
//!
//! Everything is counted where it happens, in plain numbers of one worker, and added up when
//! somebody asks: nothing is locked or shared on the way of a query.

mod page;
mod series;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use model::insight::TIMES;

use crate::stats::{Totals, add};

pub(crate) use model::insight::BOUNDS_US;
pub use page::Reader;

/// How often something took how long.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Times {
    /// One count for each of the bounds, and one for what took longer than all.
    pub counts: [u64; TIMES],
    /// All together, microseconds.
    pub sum_us: u64,
}

impl Times {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn take_over(&mut self, other: &Self) {
        for (own, other) in self.counts.iter_mut().zip(other.counts) {
            *own += other;
        }
        self.sum_us += other.sum_us;
    }
}

/// [`Times`] as they are counted.
#[derive(Debug, Default)]
pub(crate) struct Clocked {
    counts: [Cell<u64>; TIMES],
    sum_us: Cell<u64>,
}

impl Clocked {
    /// Notes that it took so long once more.
    #[inline]
    pub(crate) fn note(&self, took_us: u64) {
        self.note_at(place(took_us), took_us);
    }

    /// The same, when its [`place`] is known.
    #[inline]
    pub(crate) fn note_at(&self, place: usize, took_us: u64) {
        add(&self.counts[place], 1);
        add(&self.sum_us, took_us);
    }

    pub(crate) fn times(&self) -> Times {
        Times {
            counts: std::array::from_fn(|at| self.counts[at].get()),
            sum_us: self.sum_us.get(),
        }
    }
}

/// Where a time is counted: below [`TIMES`].
#[inline]
pub(crate) fn place(took_us: u64) -> usize {
    BOUNDS_US.partition_point(|bound| *bound < took_us)
}

/// In whole microseconds.
#[inline]
pub(crate) fn micros(time: Duration) -> u64 {
    time.as_secs() * 1_000_000 + u64::from(time.subsec_micros())
}

/// How often each of a few words was said. The words are ours, so there are not many.
#[derive(Debug, Default)]
pub(crate) struct Tally(RefCell<Words>);

/// A word and how often.
pub type Words = BTreeMap<&'static str, u64>;

impl Tally {
    pub(crate) fn add(&self, word: &'static str) {
        *self.0.borrow_mut().entry(word).or_default() += 1;
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) logins_refused: Tally,
    pub(crate) sessions_ended: Tally,
    pub(crate) statements_refused: Tally,
    pub(crate) limits_reached: Tally,
    pub(crate) memory_unlimited: Tally,
    pub(crate) pins: Tally,
    pub(crate) opens_failed: Tally,
    pub(crate) opened: Cell<u64>,
    pub(crate) evicted: Cell<u64>,
    pub(crate) expired: Cell<u64>,
    pub(crate) cancels: Cell<u64>,
    pub(crate) login_time: Clocked,
    pub(crate) wait_time: Clocked,
    pub(crate) open_time: Clocked,
    pub(crate) busy_time: Clocked,
    /// What tenants did that were forgotten.
    pub(crate) forgotten: Cell<Totals>,
    /// Times that a tenant came into use.
    pub(crate) lives: Cell<u64>,
}

/// What workers counted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WorkerCounts {
    /// Clients that did not get as far as a session, by SQLSTATE, or `left` and `http`.
    pub logins_refused: Words,
    /// Sessions that ended: `left`, `lost`, `server`, or the SQLSTATE that the client was told.
    pub sessions_ended: Words,
    /// Statements that got no server connection, by SQLSTATE.
    pub statements_refused: Words,
    /// Limits of tenants that ended a statement or a session, by the name of the limit.
    pub limits_reached: Words,
    /// Server connections on which a limit of memory does not hold: `elsewhere` or `refused`.
    pub memory_unlimited: Words,
    /// Times that a session had something that kept it on its server connection, by what it was.
    pub pins: Words,
    /// Server connections that could not be opened: `refused`, `full` or `down`.
    pub opens_failed: Words,
    /// Server connections that were opened.
    pub opened: u64,
    /// Idle server connections that were closed because another tenant waited.
    pub evicted: u64,
    /// Server connections that were closed because nobody used them.
    pub expired: u64,
    /// Cancel requests of clients that named a session.
    pub cancels: u64,
    /// From the first byte of a client to the end of its login.
    pub login_time: Times,
    /// From asking for a server connection to having it.
    pub wait_time: Times,
    /// Opening a server connection.
    pub open_time: Times,
    /// From a client's question to the end of the answer.
    pub busy_time: Times,
}

impl Counted {
    pub(crate) fn counts(&self) -> WorkerCounts {
        WorkerCounts {
            logins_refused: self.logins_refused.0.borrow().clone(),
            sessions_ended: self.sessions_ended.0.borrow().clone(),
            statements_refused: self.statements_refused.0.borrow().clone(),
            limits_reached: self.limits_reached.0.borrow().clone(),
            memory_unlimited: self.memory_unlimited.0.borrow().clone(),
            pins: self.pins.0.borrow().clone(),
            opens_failed: self.opens_failed.0.borrow().clone(),
            opened: self.opened.get(),
            evicted: self.evicted.get(),
            expired: self.expired.get(),
            cancels: self.cancels.get(),
            login_time: self.login_time.times(),
            wait_time: self.wait_time.times(),
            open_time: self.open_time.times(),
            busy_time: self.busy_time.times(),
        }
    }

    /// Keeps what a tenant did that is forgotten now.
    pub(crate) fn forget(&self, totals: Totals) {
        self.forgotten.set(self.forgotten.get() + totals);
    }
}

impl WorkerCounts {
    /// Adds what another worker counted.
    pub(crate) fn take_over(&mut self, other: &Self) {
        for (own, other) in [
            (&mut self.logins_refused, &other.logins_refused),
            (&mut self.sessions_ended, &other.sessions_ended),
            (&mut self.statements_refused, &other.statements_refused),
            (&mut self.limits_reached, &other.limits_reached),
            (&mut self.memory_unlimited, &other.memory_unlimited),
            (&mut self.pins, &other.pins),
            (&mut self.opens_failed, &other.opens_failed),
        ] {
            for (word, count) in other {
                *own.entry(word).or_default() += count;
            }
        }
        self.opened += other.opened;
        self.evicted += other.evicted;
        self.expired += other.expired;
        self.cancels += other.cancels;
        self.login_time.take_over(&other.login_time);
        self.wait_time.take_over(&other.wait_time);
        self.open_time.take_over(&other.open_time);
        self.busy_time.take_over(&other.busy_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_for_the_first_bound_that_is_not_below_it() {
        let clocked = Clocked::default();
        for took in [0, 100, 101, 60_000_000, 60_000_001] {
            clocked.note(took);
        }
        let times = clocked.times();
        assert_eq!((times.counts[0], times.counts[1]), (2, 1));
        assert_eq!((times.counts[17], times.counts[18]), (1, 1));
        assert_eq!((times.count(), times.sum_us), (5, 120_000_202));
    }
}
