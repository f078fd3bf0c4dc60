//! Which answer belongs to which statement of a session.
//!
//! Owns: the shapes of what a session prepared and bound, and of what it sent and has no answer to yet,
//! in order. Does not own: which messages answer which requests (`wire::queue`), which says when one
//! is over.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasherDefault,
    rc::Rc,
};

use model::Login;
use tokio::time::Instant;

use super::{Insight, Outcome, Sqlstate, shape::Shape, top::Itself};
use crate::{audited::Audited, metrics::micros};

/// Statements under way that are told apart, for each session. Of more of them, which only a very
/// long pipeline has, the later ones are counted under no name.
const RUNS_MAX: usize = 1024;
/// Names of prepared statements and of portals that are known, for each session. Those of more are
/// counted under no name.
const NAMES_MAX: usize = 1024;

/// Stands for the code of an error that has none.
const NO_CODE: Sqlstate = *b"?????";

/// Of one session.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    is_on: bool,
    parsed: Parsed,
    /// By a hash of their names.
    statements: Names,
    portals: Names,
    /// What has the empty name, the usual one.
    unnamed: Option<Rc<Shape>>,
    bound: Option<Rc<Shape>>,
    runs: VecDeque<Run>,
    /// Under way behind those, and not told apart. Small, as every idle client has one.
    further: u32,
    /// Of the statement that is being answered.
    outcome: Outcome,
    /// Rows of it that were not counted by its end yet.
    rows: u64,
    /// Statements that ended with what was read last.
    ended: Vec<Ended>,
    last_ended: Option<Instant>,
    /// What was to be prepared, if it is one.
    prepared: Option<Rc<Shape>>,
    /// What is known of it where statements are lines in the audit log.
    pub(crate) audited: Option<Box<Audited>>,
}

/// How many were to be prepared since the server was ready last.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Parsed {
    #[default]
    Nothing,
    One,
    Several,
}

type Names = HashMap<u64, Option<Rc<Shape>>, BuildHasherDefault<Itself>>;

#[derive(Debug)]
struct Run {
    shape: Option<Rc<Shape>>,
    sent: Instant,
}

#[derive(Debug)]
struct Ended {
    run: Run,
    outcome: Outcome,
}

/// Enough of a hash for names within a session: FNV-1a.
fn hash(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn keep(names: &mut Names, name: &[u8], shape: Option<Rc<Shape>>) {
    let name = hash(name);
    if names.len() < NAMES_MAX || names.contains_key(&name) {
        names.insert(name, shape);
    }
}

impl Watch {
    pub(crate) fn new(insight: &Insight) -> Self {
        Self {
            is_on: insight.is_on,
            ..Self::default()
        }
    }

    /// Whether anything is to be noted.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// A simple query is sent.
    #[inline]
    pub(crate) fn query(&mut self, shape: Option<Rc<Shape>>, now: Instant) {
        self.unnamed = None;
        self.push(shape, now);
    }

    /// A function call is sent, which has no text.
    pub(crate) fn call(&mut self, now: Instant) {
        self.push(None, now);
    }

    /// A Parse is sent.
    #[inline]
    pub(crate) fn parse(&mut self, name: &[u8], shape: Option<Rc<Shape>>) {
        (self.parsed, self.prepared) = match self.parsed {
            Parsed::Nothing => (Parsed::One, shape.clone()),
            Parsed::One | Parsed::Several => (Parsed::Several, None),
        };
        match name {
            b"" => self.unnamed = shape,
            _ => keep(&mut self.statements, name, shape),
        }
    }

    /// A Bind is sent.
    #[inline]
    pub(crate) fn bind(&mut self, portal: &[u8], statement: &[u8]) {
        let shape = match statement {
            b"" => self.unnamed.clone(),
            _ => self.statements.get(&hash(statement)).cloned().flatten(),
        };
        match portal {
            b"" => self.bound = shape,
            _ => keep(&mut self.portals, portal, shape),
        }
    }

    /// An Execute is sent.
    #[inline]
    pub(crate) fn execute(&mut self, portal: &[u8], now: Instant) {
        let shape = match portal {
            b"" => self.bound.clone(),
            _ => self.portals.get(&hash(portal)).cloned().flatten(),
        };
        self.push(shape, now);
    }

    /// A Close of a statement is sent.
    pub(crate) fn close_statement(&mut self, name: &[u8]) {
        match name {
            b"" => self.unnamed = None,
            _ => drop(self.statements.remove(&hash(name))),
        }
    }

    /// A Close of a portal is sent.
    pub(crate) fn close_portal(&mut self, name: &[u8]) {
        if !name.is_empty() {
            self.portals.remove(&hash(name));
        }
    }

    #[inline]
    fn push(&mut self, shape: Option<Rc<Shape>>, sent: Instant) {
        if self.runs.len() < RUNS_MAX && self.further == 0 {
            self.runs.push_back(Run { shape, sent });
        } else {
            self.further += 1;
        }
    }

    /// A row is passed to the client.
    #[inline]
    pub(crate) fn row(&mut self) {
        self.rows += 1;
    }

    /// A statement of the text that is being answered is complete, or suspended. `tag`: the body of
    /// CommandComplete.
    #[inline]
    pub(crate) fn complete(&mut self, tag: Option<&[u8]>) {
        let rows = tag.and_then(rows_of).unwrap_or(0);
        self.outcome.rows += rows.max(self.rows);
        self.rows = 0;
    }

    /// The client is told of an error.
    #[cold]
    pub(crate) fn error(&mut self, insight: &Insight, code: Option<&str>) {
        let code = code.and_then(|code| code.as_bytes().try_into().ok());
        let code = code.unwrap_or(NO_CODE);
        insight.failed(code);
        self.outcome.error.get_or_insert(code);
        self.complete(None);
    }

    /// So many statements are over: the first is the one that was answered, or whose preparation
    /// failed; the others were skipped because of that.
    #[inline]
    pub(crate) fn over(&mut self, count: u32, insight: &Insight, login: &Login) {
        if !self.is_on {
            return;
        }
        for i in 0..count {
            let run = match self.runs.pop_front() {
                Some(run) => Some(run),
                None => {
                    self.further = self.further.saturating_sub(1);
                    None
                }
            };
            if i > 0 {
                continue;
            }
            let outcome = std::mem::take(&mut self.outcome);
            match run {
                Some(run) => self.ended.push(Ended { run, outcome }),
                None => insight.ended(None, 0, outcome, login),
            }
        }
    }

    /// What the server said is over that had no statement in it: an error of a Parse alone (`is_parse`), or of
    /// something else. Many drivers prepare first, and hear only of this error.
    pub(crate) fn nothing_over(&mut self, is_parse: bool, insight: &Insight, login: &Login) {
        let outcome = std::mem::take(&mut self.outcome);
        self.rows = 0;
        // Of several, nobody knows which.
        let shape = self.prepared.as_ref().filter(|_| is_parse);
        if self.is_on && outcome.error.is_some() {
            insight.refused(shape, outcome, login);
        }
    }

    /// The client is told that the server is ready.
    #[inline]
    pub(crate) fn ready(&mut self) {
        if self.parsed != Parsed::Nothing {
            self.parsed = Parsed::Nothing;
            self.prepared = None;
        }
    }

    /// Everything that was read is dealt with. Statements that ended together share the time.
    #[inline]
    pub(crate) fn settle(
        &mut self,
        insight: &Insight,
        login: &Login,
        now: impl FnOnce() -> Instant,
    ) {
        let Some(first) = self.ended.first() else {
            return;
        };
        let now = now();
        let since = self
            .last_ended
            .map_or(first.run.sent, |last| last.max(first.run.sent));
        let took_us = micros(now.saturating_duration_since(since)) / self.ended.len() as u64;
        for ended in self.ended.drain(..) {
            let shape = ended.run.shape.as_ref();
            let run = shape.map(|shape| (shape, now));
            insight.ended(run, took_us, ended.outcome, login);
        }
        self.last_ended = Some(now);
    }

    /// The session is over. What was under way has no outcome, unless its end was the outcome.
    pub(crate) fn lost(&mut self, insight: &Insight, login: &Login) {
        if self.outcome.error.is_some() && (!self.runs.is_empty() || self.further > 0) {
            self.over(1, insight, login);
            self.settle(insight, login, Instant::now);
        }
    }
}

/// The number at the end of a command tag: `INSERT 0 5`, `COPY 7`.
fn rows_of(tag: &[u8]) -> Option<u64> {
    let tag = tag.strip_suffix(b"\0").unwrap_or(tag);
    let mut rows = None;
    let mut unit = 1_u64;
    for byte in tag.iter().rev() {
        match byte {
            b'0'..=b'9' => {
                let digit = u64::from(byte - b'0');
                rows = Some(rows.unwrap_or(0_u64).wrapping_add(digit.wrapping_mul(unit)));
                unit = unit.wrapping_mul(10);
            }
            b' ' => return rows,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_the_end_of_a_tag() {
        for (tag, rows) in [
            (&b"INSERT 0 5\0"[..], Some(5)),
            (b"SELECT 1234567890123\0", Some(1_234_567_890_123)),
            (b"UPDATE 0\0", Some(0)),
            (b"CREATE TABLE\0", None),
            (b"BEGIN\0", None),
            (b"5\0", None),
            (b"X5\0", None),
            (b"\0", None),
            (b"", None),
            (
                b"X 99999999999999999999999999\0",
                rows_of(b"X 99999999999999999999999999"),
            ),
        ] {
            assert_eq!(rows_of(tag), rows, "{tag:?}");
        }
    }
}
