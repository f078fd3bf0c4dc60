//! What a session prepared that makes its database larger.
//!
//! Owns: which of its names do, whichever pool mode it has. Does not own: what a text does
//! (`statement`), or what becomes of it when the database is full (`relay::full`).
//!
//! PostgreSQL knows statements of the protocol and of SQL PREPARE by the same names. A name that is free
//! again is kept: whoever uses it then is told by the server that it is not there.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use model::{limits::Number, route::Storage};
use statement::Effects;

use super::Exceeded;

/// Whether something makes a database larger.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) enum Growth {
    #[default]
    No,
    /// The text does not say.
    Unseen,
    Yes,
}

impl Growth {
    /// Of a text.
    pub(crate) fn of(effects: Effects) -> Self {
        let unseen = Effects::CALLS.with(Effects::RUNS);
        if effects.intersects(Effects::GROWS) {
            Self::Yes
        } else if effects.intersects(unseen) {
            Self::Unseen
        } else {
            Self::No
        }
    }

    pub(crate) fn is_refused(self, storage: Storage) -> bool {
        match storage {
            Storage::Free => false,
            Storage::Full { .. } => self == Self::Yes,
            Storage::Overrun { .. } => self != Self::No,
        }
    }
}

/// Names that are told apart, for each session. With more of them every name counts.
const NAMES_MAX: usize = 1024;

/// Of one session. Nothing is kept for one that prepares nothing of the kind.
#[derive(Debug, Default)]
pub(crate) struct Growing {
    named: Option<Box<Named>>,
    /// The unnamed statement does.
    pub(crate) unnamed: bool,
    /// What was said of the last thing that was refused.
    refused: Option<Box<Refused>>,
}

/// Hashes of names.
#[derive(Debug, Default)]
struct Named {
    hasher: RandomState,
    names: HashSet<u64>,
    /// More than are told apart, or such as the text did not show.
    all: bool,
}

/// What the client is told.
#[derive(Debug)]
struct Refused {
    limit: Exceeded,
    storage: Storage,
}

impl Growing {
    /// A statement was prepared under this name.
    pub(crate) fn prepared(&mut self, name: &[u8], grows: bool) {
        if !grows {
            if let Some(named) = &mut self.named {
                let hash = named.hasher.hash_one(name);
                named.names.remove(&hash);
            }
            return;
        }
        let named = self.named.get_or_insert_default();
        let hash = named.hasher.hash_one(name);
        if named.names.len() < NAMES_MAX || named.names.contains(&hash) {
            named.names.insert(hash);
        } else {
            named.all = true;
        }
    }

    /// Something that grows was prepared, and it is not known under which name.
    pub(crate) fn prepared_somewhere(&mut self) {
        self.named.get_or_insert_default().all = true;
    }

    /// Whether what has this name does.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        self.named
            .as_ref()
            .is_some_and(|named| named.all || named.names.contains(&named.hasher.hash_one(name)))
    }

    /// Whether anything with a name does.
    pub(crate) fn has_any(&self) -> bool {
        let named = self.named.as_ref();
        named.is_some_and(|named| named.all || !named.names.is_empty())
    }

    /// Something is refused because of `storage`.
    pub(crate) fn refuse(&mut self, limit: u64, storage: Storage) {
        let limit = Exceeded {
            limit: Number::Storage,
            value: limit,
        };
        self.refused = Some(Box::new(Refused { limit, storage }));
    }

    /// What the client is told about what was refused last, with a detail.
    pub(crate) fn refused(&self) -> Option<(Exceeded, String)> {
        let refused = self.refused.as_ref()?;
        Some((refused.limit, detail(refused.storage)))
    }
}

/// What is said beside the limit.
fn detail(storage: Storage) -> String {
    match storage {
        Storage::Free => String::new(),
        Storage::Full { bytes } => format!("It took {bytes} bytes when it was measured last."),
        Storage::Overrun { bytes } => format!(
            "It took {bytes} bytes when it was measured last, and grew on while it was full: what may \
             write unseen (functions that are not PostgreSQL's own, DO, CALL) is refused too."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_up_to_a_number() {
        let mut growing = Growing::default();
        assert!(!growing.has(b"a") && !growing.has_any());
        growing.prepared(b"a", false);
        assert!(growing.named.is_none(), "most sessions keep nothing");
        growing.prepared(b"a", true);
        growing.prepared(b"b", true);
        assert!(growing.has(b"a") && growing.has(b"b") && !growing.has(b"c"));
        growing.prepared(b"a", false);
        assert!(!growing.has(b"a") && growing.has_any());
        for i in 0..=NAMES_MAX {
            growing.prepared(format!("n{i}").as_bytes(), true);
        }
        assert!(growing.has(b"c"), "then every name counts");
        assert!(growing.named.unwrap().names.len() <= NAMES_MAX);
    }

    #[test]
    fn what_prepares_under_an_unseen_name_makes_all_of_them_count() {
        let mut growing = Growing::default();
        growing.prepared_somewhere();
        assert!(growing.has(b"a"));
    }
}
