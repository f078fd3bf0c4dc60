//! Lines of statements that a tenant wants to have noted, until somebody takes them.
//!
//! Owns: which statements are noted, and the room for them. Does not own: when a statement ended (`watch`),
//! or what becomes of lines (the control plane takes them every few seconds).
//!
//! Of a tenant that wants nothing, nothing is touched but one number. Lines are bounded by
//! [`Limits::log_lines_max`](crate::Limits) for each tenant and
//! [`Limits::log_lines_worker_max`](crate::Limits) for each worker; what has no room is counted. Those that
//! neither failed nor were slow may have half of a tenant's room, so that they never crowd out the others.

use std::{
    cell::{Cell, RefCell},
    hash::{BuildHasher, RandomState},
    rc::Rc,
    time::SystemTime,
};

use model::{
    Limits, Login, TenantId,
    insight::{LogLine, TenantLog},
    limits::StatementLog,
};

use super::{Outcome, shape::Shape};

/// Room for the lines of all tenants of a worker.
#[derive(Debug)]
pub(crate) struct LogRoom {
    used: Cell<usize>,
    max: usize,
    tenant_max: usize,
    /// For choosing samples.
    chance: RandomState,
}

impl LogRoom {
    pub(crate) fn new(limits: &crate::Limits) -> Rc<Self> {
        Rc::new(Self {
            used: Cell::new(0),
            max: limits.log_lines_worker_max,
            tenant_max: limits.log_lines_max,
            chance: RandomState::new(),
        })
    }
}

/// What is noted.
#[derive(Clone, Copy, Debug, Default)]
struct Keeps {
    errors: bool,
    slow: bool,
    /// One of so many others; 0: none.
    others: u32,
}

/// Of one tenant.
#[derive(Debug)]
pub(super) struct Log {
    keeps: Cell<Keeps>,
    /// Others since the last sample was chosen, and which of them is noted.
    others: Cell<u32>,
    chosen: Cell<u32>,
    lines: RefCell<Vec<Line>>,
    dropped: Cell<u64>,
    room: Rc<LogRoom>,
}

#[derive(Debug)]
struct Line {
    at: SystemTime,
    login: Login,
    shape: Option<Rc<Shape>>,
    took_us: Option<u64>,
    outcome: Outcome,
}

impl Log {
    pub(super) fn new(room: &Rc<LogRoom>) -> Self {
        Self {
            keeps: Cell::default(),
            others: Cell::default(),
            chosen: Cell::default(),
            lines: RefCell::default(),
            dropped: Cell::default(),
            room: room.clone(),
        }
    }

    /// What is noted from now on. What was noted before stays.
    pub(super) fn heed(&self, limits: &Limits) {
        let (errors, slow, others) = match limits.statement_log {
            StatementLog::Off => (false, false, 0),
            StatementLog::Errors => (true, false, 0),
            StatementLog::Slow => (true, true, 0),
            StatementLog::All => (true, true, 1),
            StatementLog::Sampled => (true, true, limits.statement_log_sample),
        };
        self.keeps.set(Keeps {
            errors,
            slow,
            others,
        });
        self.choose(others);
    }

    /// Another one of the next so many. Of each so many exactly one is noted, and nobody can say which: a client
    /// that does the same in turns does not have the same statement noted each time.
    fn choose(&self, of: u32) {
        let drawn = self.room.chance.hash_one(SystemTime::now());
        self.others.set(0);
        self.chosen.set((drawn % u64::from(of.max(1))) as u32);
    }

    #[inline]
    fn wants(&self, outcome: Outcome) -> bool {
        let keeps = self.keeps.get();
        if (keeps.errors && outcome.error.is_some()) || (keeps.slow && outcome.is_slow) {
            return true;
        }
        keeps.others > 0 && self.is_chosen(keeps.others)
    }

    fn is_chosen(&self, of: u32) -> bool {
        let place = self.others.get();
        let is_chosen = place == self.chosen.get();
        match place + 1 {
            next if next < of => self.others.set(next),
            _ if of > 1 => self.choose(of),
            _ => {}
        }
        is_chosen
    }

    /// A statement ended. `took_us` 0: nobody knows how long it took.
    #[inline]
    pub(super) fn note(
        &self,
        login: &Login,
        shape: Option<&Rc<Shape>>,
        took_us: u64,
        outcome: Outcome,
    ) {
        if self.wants(outcome) {
            self.add(login, shape, took_us, outcome);
        }
    }

    #[cold]
    fn add(&self, login: &Login, shape: Option<&Rc<Shape>>, took_us: u64, outcome: Outcome) {
        let is_usual = outcome.error.is_none() && !outcome.is_slow;
        let mut lines = self.lines.borrow_mut();
        let room = &self.room;
        let most = match is_usual {
            true => room.tenant_max.div_ceil(2),
            false => room.tenant_max,
        };
        if lines.len() >= most || room.used.get() >= room.max {
            self.dropped.set(self.dropped.get() + 1);
            return;
        }
        room.used.set(room.used.get() + 1);
        lines.push(Line {
            at: SystemTime::now(),
            login: *login,
            shape: shape.cloned(),
            took_us: (took_us > 0).then_some(took_us),
            outcome,
        });
    }

    /// Whether there is anything to take.
    pub(super) fn has_news(&self) -> bool {
        self.dropped.get() > 0 || !self.lines.borrow().is_empty()
    }

    /// All lines, which are no longer here.
    pub(super) fn take(&self, tenant: &TenantId) -> TenantLog {
        let taken = self.lines.take();
        self.give_back(taken.len());
        let mut statements: Vec<(u64, String)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        let mut place_of = |shape: &Rc<Shape>| {
            *places.entry(shape.number).or_insert_with(|| {
                statements.push((shape.number, shape.text()));
                statements.len() - 1
            })
        };
        let lines = taken.iter().map(|line| LogLine {
            at: line.at,
            login: line.login,
            statement: line.shape.as_ref().map(&mut place_of),
            took_us: line.took_us,
            rows: line.outcome.rows,
            error: line.outcome.error,
            is_slow: line.outcome.is_slow,
        });
        let lines = lines.collect();
        TenantLog {
            tenant: tenant.clone(),
            lines,
            statements,
            dropped: self.dropped.take(),
        }
    }

    fn give_back(&self, lines: usize) {
        let used = &self.room.used;
        used.set(used.get() - lines);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.give_back(self.lines.borrow().len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(tenant_max: usize, max: usize) -> (Log, Rc<LogRoom>) {
        let room = LogRoom::new(&crate::Limits {
            log_lines_max: tenant_max,
            log_lines_worker_max: max,
            ..crate::Limits::default()
        });
        (Log::new(&room), room)
    }

    fn heed(log: &Log, mode: StatementLog, sample: u32) {
        log.heed(&Limits {
            statement_log: mode,
            statement_log_sample: sample,
            ..Limits::default()
        });
    }

    const USUAL: Outcome = Outcome {
        rows: 1,
        error: None,
        is_slow: false,
    };
    const SLOW: Outcome = Outcome {
        is_slow: true,
        ..USUAL
    };
    const FAILED: Outcome = Outcome {
        error: Some(*b"22012"),
        ..USUAL
    };

    fn taken(log: &Log) -> (usize, u64) {
        let taken = log.take(&"abcdefghijkl".parse().unwrap());
        (taken.lines.len(), taken.dropped)
    }

    /// Columns: usual ones, slow ones, failed ones that are kept, of ten each.
    #[test]
    fn each_mode_keeps_what_it_says() {
        let (log, _room) = log(1_000, 1_000);
        for (mode, want) in [
            (StatementLog::Off, [0, 0, 0]),
            (StatementLog::Errors, [0, 0, 10]),
            (StatementLog::Slow, [0, 10, 10]),
            (StatementLog::All, [10, 10, 10]),
            (StatementLog::Sampled, [2, 10, 10]),
        ] {
            heed(&log, mode, 5);
            for (outcome, want) in [USUAL, SLOW, FAILED].into_iter().zip(want) {
                for _ in 0..10 {
                    log.note(&model::Role::Admin.into(), None, 7, outcome);
                }
                assert_eq!(taken(&log), (want, 0), "{mode:?} {outcome:?}");
            }
        }
        assert!(!log.has_news());
    }

    #[test]
    fn lines_are_bounded_and_what_has_no_room_is_counted() {
        let (one, room) = log(10, 14);
        let other = Log::new(&room);
        for log in [&one, &other] {
            heed(log, StatementLog::All, 1);
        }
        let note = |log: &Log, outcome, count| {
            for _ in 0..count {
                log.note(&model::Role::Admin.into(), None, 7, outcome);
            }
        };
        note(&one, USUAL, 20);
        note(&one, FAILED, 20);
        assert_eq!(room.used.get(), 10, "five of each");
        note(&other, SLOW, 20);
        assert_eq!(taken(&other), (4, 16), "all of the worker's");
        assert_eq!(taken(&one), (10, 30));
        assert_eq!((room.used.get(), taken(&one)), (0, (0, 0)));
        note(&other, SLOW, 3);
        drop(other);
        assert_eq!(room.used.get(), 0, "all is given back");
    }
}
