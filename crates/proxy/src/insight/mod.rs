//! What a tenant's statements are, how often they run, how long they take and how they end.
//!
//! Owns: for each tenant, errors by class, a histogram of times, and the statements that count most by
//! how often they run or how long they take, under their shapes (`statement::normalise`): no
//! constant, parameter or secret is ever kept; and a log of them (`log`). Does not own: plain counters
//! (`stats`), or which answer belongs to which statement (`watch`).
//!
//! All of it is plain memory of the tenant's home worker, goes with the tenant's state, and is bounded:
//! by [`Limits::insight_statements_max`](crate::Limits) for each tenant and
//! [`Limits::insight_bytes_max`](crate::Limits) for each worker. What falls out of a tenant's table is
//! kept in one sum, so the sum of all is always right.

mod log;
mod shape;
mod top;
mod watch;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use model::{
    Limits, Login, TenantId,
    insight::{Statement, TIMES, TenantLog},
};
use statement::Encoding;
use tokio::time::Instant;

use crate::{
    metrics::{Clocked, Times, micros, place},
    stats::Totals,
};
use log::Log;
pub(crate) use log::LogRoom;
pub(crate) use shape::ShapeBytes;
use shape::{Shape, Texts};
use top::Top;
pub(crate) use watch::Watch;

/// Classes of errors told apart for a tenant. PostgreSQL has 43; its users can make others.
const CLASSES_MAX: usize = 64;
/// What further ones are counted under.
const OTHER_CLASSES: [u8; 2] = *b"??";

/// Of one tenant, since it is in use.
#[derive(Debug)]
pub(crate) struct Insight {
    /// Whether statements are told apart.
    is_on: bool,
    /// From which time on a statement is slow, microseconds.
    slow_us: Cell<u64>,
    /// Statements that were.
    slow: Cell<u64>,
    times: Clocked,
    /// Errors by the first two characters of their SQLSTATE.
    errors: RefCell<Vec<([u8; 2], u64)>>,
    texts: RefCell<Texts>,
    top: RefCell<Top>,
    bytes: Rc<ShapeBytes>,
    log: Log,
}

/// How a statement ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Rows sent or changed.
    pub(crate) rows: u64,
    pub(crate) error: Option<Sqlstate>,
    /// It took as long as its tenant calls slow.
    pub(crate) is_slow: bool,
}

/// As the server wrote it.
pub(crate) type Sqlstate = [u8; 5];

impl Insight {
    pub(crate) fn new(statements_max: usize, bytes: &Rc<ShapeBytes>, room: &Rc<LogRoom>) -> Self {
        Self {
            is_on: statements_max > 0,
            slow_us: Cell::new(u64::MAX),
            slow: Cell::default(),
            times: Clocked::default(),
            errors: RefCell::default(),
            texts: RefCell::default(),
            top: RefCell::new(Top::new(statements_max)),
            bytes: bytes.clone(),
            log: Log::new(room),
        }
    }

    /// What its limits say of its statements, from now on, for open sessions too.
    pub(crate) fn heed(&self, limits: &Limits) {
        let slow = limits.slow_statement_time;
        self.slow_us.set(slow.map_or(u64::MAX, micros));
        self.log.heed(limits);
    }

    /// The shape of a text, as far as it is there. `None`: nobody asks, or there is no room for
    /// another one.
    #[inline]
    pub(crate) fn shape(
        &self,
        text: &[u8],
        is_whole: bool,
        encoding: Encoding,
    ) -> Option<Rc<Shape>> {
        if !self.is_on {
            return None;
        }
        let top = self.top.borrow();
        self.texts
            .borrow_mut()
            .shape(text, is_whole, encoding, &top, &self.bytes)
    }

    /// Notes an error that a client was told.
    pub(crate) fn failed(&self, code: Sqlstate) {
        let mut errors = self.errors.borrow_mut();
        let class = [code[0], code[1]];
        let has_room = errors.len() < CLASSES_MAX - 1;
        let class = match class.iter().all(u8::is_ascii_alphanumeric) {
            true if has_room || errors.iter().any(|(own, _)| *own == class) => class,
            _ => OTHER_CLASSES,
        };
        match errors.iter_mut().find(|(own, _)| *own == class) {
            Some((_, count)) => *count += 1,
            None => errors.push((class, 1)),
        }
    }

    /// Notes that a statement ended; with its shape and the time, if it is told apart.
    #[inline]
    fn ended(
        &self,
        run: Option<(&Rc<Shape>, Instant)>,
        took_us: u64,
        outcome: Outcome,
        login: &Login,
    ) {
        let outcome = Outcome {
            is_slow: took_us >= self.slow_us.get(),
            ..outcome
        };
        self.slow.set(self.slow.get() + u64::from(outcome.is_slow));
        self.times.note_at(place(took_us), took_us);
        self.top.borrow_mut().note(run, took_us, outcome);
        let shape = run.map(|(shape, _)| shape);
        self.log.note(login, shape, took_us, outcome);
    }

    /// Notes that something was refused before it was a statement: only the log has it.
    fn refused(&self, shape: Option<&Rc<Shape>>, outcome: Outcome, login: &Login) {
        if let Some(shape) = shape {
            shape.ended(outcome.error);
        }
        self.log.note(login, shape, 0, outcome);
    }

    /// Whether there are lines to take.
    pub(crate) fn has_log(&self) -> bool {
        self.log.has_news()
    }

    /// All lines of the log, which are no longer here.
    pub(crate) fn take_log(&self, tenant: &TenantId) -> TenantLog {
        self.log.take(tenant)
    }

    /// How long its statements took.
    pub(crate) fn times(&self) -> Times {
        self.times.times()
    }

    /// How many of its statements were slow.
    pub(crate) fn slow(&self) -> u64 {
        self.slow.get()
    }

    /// The statements that take most time together, and as many that run most often.
    pub(crate) fn most(&self, each: usize) -> Vec<Statement> {
        let most = self.top.borrow().most(each).into_iter();
        most.map(|own| Statement {
            id: own.id,
            text: own.text,
            count: own.sums.count,
            errors: own.sums.errors,
            slow: own.sums.slow,
            rows: own.sums.rows,
            time_us: own.sums.time_us,
            time_us_max: own.sums.time_us_max,
            times: own.times,
            last_ago: own.last_ago,
        })
        .collect()
    }

    /// The numbers of now; of statements, the `statements_max` that took most time together, and as
    /// many that ran most often.
    pub(crate) fn numbers(
        &self,
        tenant: TenantId,
        life: u64,
        totals: Totals,
        most: usize,
    ) -> TenantInsight {
        let mut errors: Vec<_> = self
            .errors
            .borrow()
            .iter()
            .map(|(class, count)| (String::from_utf8_lossy(class).into_owned(), *count))
            .collect();
        errors.sort();
        let top = self.top.borrow();
        TenantInsight {
            tenant,
            life,
            totals,
            times: self.times.times(),
            errors,
            statements: top.most(most),
            rest: top.rest(),
        }
    }
}

/// What a tenant's statements are and do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TenantInsight {
    /// Whose.
    pub tenant: TenantId,
    /// Which time it is in use since the start, as [`TenantStats::life`](crate::TenantStats): all
    /// numbers begin anew with it.
    pub life: u64,
    /// Plain counters.
    pub totals: Totals,
    /// How long statements took, from being passed to the server to the end of the answer. Of
    /// several in one flight, each counts from the end of the one before.
    pub times: Times,
    /// Errors that clients were told, by the class of their SQLSTATE; `??` for those of no known
    /// form, and of further classes when there are very many.
    pub errors: Vec<(String, u64)>,
    /// Those that count most, the most time first.
    pub statements: Vec<StatementInsight>,
    /// All that are or were told apart no more, together; not those that were merely not asked for.
    pub rest: Sums,
}

/// One shape of statements.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StatementInsight {
    /// The same on every proxy and in every release.
    pub id: u64,
    /// Without constants; at most [`statement::SHAPE_BYTES_MAX`] bytes in its encoding. Of one that
    /// PostgreSQL never understood, only the first word.
    pub text: String,
    /// Since it is told apart.
    pub sums: Sums,
    /// How often it took how long, by [`model::insight::BOUNDS_US`].
    pub times: [u64; TIMES],
    /// How long ago it ended last.
    pub last_ago: Duration,
}

/// What runs of statements add up to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sums {
    /// Simple queries, also of several statements, and Executes, answered or refused.
    pub count: u64,
    /// Of them, those that ended with an error.
    pub errors: u64,
    /// Of them, those that took as long as their tenant called slow then, or longer.
    pub slow: u64,
    /// Rows sent or changed.
    pub rows: u64,
    /// All together, microseconds.
    pub time_us: u64,
    /// The longest, microseconds.
    pub time_us_max: u64,
}

impl Sums {
    fn note(&mut self, took_us: u64, outcome: Outcome) {
        self.count += 1;
        self.errors += u64::from(outcome.error.is_some());
        self.slow += u64::from(outcome.is_slow);
        self.rows += outcome.rows;
        self.time_us += took_us;
        self.time_us_max = self.time_us_max.max(took_us);
    }

    fn take_over(&mut self, other: &Self) {
        self.count += other.count;
        self.errors += other.errors;
        self.slow += other.slow;
        self.rows += other.rows;
        self.time_us += other.time_us;
        self.time_us_max = self.time_us_max.max(other.time_us_max);
    }
}
