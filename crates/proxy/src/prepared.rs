//! What a client has prepared: its names, its unnamed statement, and what is still uncertain.
//!
//! Owns: which statement each name of one session means, and taking back what the server turns out
//! not to have done. Does not own: the statements (`statements`), or the messages (`relay`).

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
};

use statement::{Effects, Exact};
use wire::queue::Notes;

use crate::{
    state::State,
    statements::{Has, Statement, Unnamed as Theirs},
};

/// PostgreSQL takes no more of a name (NAMEDATALEN).
const NAME_MAX: usize = 63;
/// Notes that are searched. With more of them, the client waits until the server has caught up.
const PENDING_MAX: usize = 256;
/// Room for the unnamed statement's text that a session at rest keeps.
const TEXT_KEPT: usize = 1024;

/// The part of a name that counts.
pub(crate) fn name(name: &[u8]) -> &[u8] {
    name.get(..NAME_MAX).unwrap_or(name)
}

/// Statements of one session.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    names: HashMap<Box<[u8]>, Rc<Statement>>,
    pub(crate) unnamed: Unnamed,
    /// What the unnamed statement can be made of again.
    pub(crate) source: Source,
    notes: VecDeque<Note>,
    /// Of the notes, those before the last Sync: whether they hold does not decide whether what is
    /// sent now is looked at.
    before_sync: usize,
    /// Named statements that live on one server connection only.
    private: usize,
}

/// The unnamed statement of a session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Unnamed {
    #[default]
    None,
    /// Can be made again anywhere, from the [`Source`] of this serial number.
    Kept(u64),
    /// Lives on the server connection where it was made.
    There,
}

/// The last unnamed Parse.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// The body of the message behind the name.
    pub(crate) body: Vec<u8>,
    pub(crate) serial: u64,
    /// Settings under which it was parsed, as far as they decide how.
    pub(crate) parsing: Option<Rc<State>>,
    pub(crate) effects: Effects,
    pub(crate) exact: Option<Exact>,
    pub(crate) sets_locally: bool,
}

/// What was assumed when a request was sent, for the case that the server does not do it.
#[derive(Debug)]
enum Note {
    /// The client made `name`; the server connection has the statement if it was sent.
    Named { name: Box<[u8]>, sent: Option<u64> },
    /// The client closed `name`.
    Closed {
        name: Box<[u8]>,
        was: Option<Rc<Statement>>,
    },
    /// We made a statement that the server connection did not have.
    Made(u64),
    /// The unnamed statement was made or dropped.
    Unnamed { was: Unnamed },
    /// We made the unnamed statement again.
    Remade,
    /// We closed what was of no use.
    Freed(Box<[u8]>),
}

impl Prepared {
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.names.get(name)
    }

    pub(crate) fn statements(&self) -> impl Iterator<Item = &Rc<Statement>> {
        self.names.values()
    }

    /// Whether something of it lives on the server connection it has, and nowhere else.
    pub(crate) fn is_bound(&self) -> bool {
        self.private > 0 || matches!(self.unnamed, Unnamed::There)
    }

    /// A Sync is sent.
    #[inline]
    pub(crate) fn segment(&mut self) {
        self.before_sync = self.notes.len();
    }

    /// Whether it is still open, and cannot wait, what `name` means or whether the server connection
    /// has the statement of this number. What was sent since the last Sync is skipped together with
    /// what is sent now, so it may be counted on.
    #[inline]
    pub(crate) fn is_pending(&self, name: &[u8], number: Option<u64>) -> bool {
        if self.before_sync == 0 {
            return false;
        }
        self.before_sync > PENDING_MAX
            || self
                .notes
                .iter()
                .take(self.before_sync)
                .any(|note| match note {
                    Note::Named { name: own, sent } => {
                        **own == *name || (sent.is_some() && *sent == number)
                    }
                    Note::Closed { name: own, .. } => **own == *name,
                    Note::Made(made) => Some(*made) == number,
                    Note::Unnamed { .. } | Note::Remade => name.is_empty(),
                    Note::Freed(own) => **own == *name,
                })
    }

    /// The client makes a named statement. `sent`: with a Parse, so that the server connection will
    /// have it.
    pub(crate) fn named(&mut self, name: &[u8], statement: Rc<Statement>, sent: bool) {
        let sent = sent.then_some(statement.number);
        self.private += usize::from(statement.is_private);
        self.insert(name.into(), statement);
        self.notes.push_back(Note::Named {
            name: name.into(),
            sent,
        });
    }

    fn insert(&mut self, name: Box<[u8]>, statement: Rc<Statement>) {
        if let Some(was) = self.names.insert(name, statement) {
            self.private -= usize::from(was.is_private);
        }
    }

    fn take(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        let was = self.names.remove(name)?;
        self.private -= usize::from(was.is_private);
        Some(was)
    }

    /// The client closes a named statement. Returns it.
    pub(crate) fn closed(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        let was = self.take(name);
        self.notes.push_back(Note::Closed {
            name: name.into(),
            was: was.clone(),
        });
        was
    }

    /// We make one that the server connection does not have.
    pub(crate) fn made(&mut self, number: u64) {
        self.notes.push_back(Note::Made(number));
    }

    /// The client makes or drops the unnamed statement. The source was changed before.
    pub(crate) fn unnamed(&mut self, now: Unnamed) {
        let was = std::mem::replace(&mut self.unnamed, now);
        self.notes.push_back(Note::Unnamed { was });
    }

    /// We close what is of no use.
    pub(crate) fn freed(&mut self, name: Box<[u8]>) {
        self.notes.push_back(Note::Freed(name));
    }

    /// We make the unnamed statement again.
    pub(crate) fn remade(&mut self) {
        self.notes.push_back(Note::Remade);
    }

    /// Takes note of what became of requests.
    pub(crate) fn became(&mut self, notes: Notes, has: &mut Has) {
        let all = notes.done + notes.failed + notes.dropped;
        self.before_sync = self.before_sync.saturating_sub(all as usize);
        for _ in 0..notes.done {
            if let Some(Note::Closed { was: Some(was), .. }) = self.notes.pop_front()
                && was.is_private
            {
                // Nobody else can have it.
                has.remove(was.number);
                has.discard(&was.name);
            }
        }
        let taken_back: Vec<_> = (0..notes.failed + notes.dropped)
            .filter_map(|_| self.notes.pop_front())
            .collect();
        // What came last is taken back first.
        for (at, note) in taken_back.into_iter().enumerate().rev() {
            let failed = at == 0 && notes.failed > 0;
            match note {
                Note::Named { name, sent } => {
                    self.take(&name);
                    if let Some(number) = sent {
                        has.remove(number);
                    }
                }
                Note::Closed { name, was } => {
                    if let Some(was) = was {
                        self.private += usize::from(was.is_private);
                        self.insert(name, was);
                    }
                }
                Note::Made(number) => {
                    has.remove(number);
                }
                // One that fails has dropped the one before.
                Note::Unnamed { .. } if failed => {
                    self.unnamed = Unnamed::None;
                    has.unnamed = Theirs::None;
                }
                Note::Unnamed { was } => {
                    self.unnamed = match was {
                        // Its text was overwritten by one that was never looked at.
                        Unnamed::Kept(serial) if serial != self.source.serial => Unnamed::There,
                        was => was,
                    };
                    has.unnamed = Theirs::Unsure;
                }
                Note::Remade => has.unnamed = Theirs::Unsure,
                Note::Freed(name) => has.discard(&name),
            }
        }
    }

    /// The server forgot one named statement, or all of them.
    pub(crate) fn forget(&mut self, name: Option<&[u8]>) {
        match name {
            Some(name) => {
                self.take(name);
            }
            None => {
                self.names.clear();
                self.private = 0;
            }
        }
    }

    /// At the end of a transaction: no more room than a session at rest needs.
    pub(crate) fn rest(&mut self) {
        if self.source.body.capacity() > TEXT_KEPT && self.unnamed == Unnamed::None {
            self.source.body = Vec::new();
        }
    }
}
