//! Describes of FETCH, which PostgreSQL does not survive when the cursor is gone.
//!
//! Owns: which statements and portals of a session fetch from cursors, and refusing to have them described where the cursor may
//! be gone. Does not own: the messages (`up`, `text`).
//!
//! `FetchStatementTargetList` (`src/backend/tcop/pquery.c`, 15 to 18) looks the cursor up and takes for granted that it is there. Where it
//! was closed since the Parse or the Bind, the server process crashes, and PostgreSQL ends the sessions of everybody. So a
//! Describe goes directly behind its Parse or Bind, as drivers have it, or is refused; in an open transaction, a Sync may be
//! between. What a name means is never forgotten: whether a Parse or Close succeeds is not waited for.

use std::collections::HashSet;

use statement::{Exact, Lead};
use wire::{
    frame::{HEADER, Head},
    message::{Kind, TransactionStatus, parse},
    queue::Request,
};

use super::{
    around::{NAMES_MAX as BOTH_MAX, first_two, rename},
    up::{Outgoing, Pass},
};
use crate::{prepared, session::Session};

/// Names that are remembered; programs have one or two. With more, all are taken for such.
const NAMES_MAX: usize = 64;

/// So much of a Parse is looked into, of which a name is a small part.
const BEGINNING: usize = 4 * 1024;

/// What a session fetches with.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    fetching: Names,
    /// Of them, those that may do so by EXECUTE, of which no Describe is safe.
    executing: Names,
    /// What these execute.
    executed: Names,
    /// What the last message parsed or bound, Describes aside.
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    kind: Kind,
    name: Box<[u8]>,
    /// Where a message is looked at behind it, it has succeeded, and is just that.
    may: May,
    /// A Sync came behind it, so that holds only where a transaction is open.
    is_synced: bool,
}

impl Last {
    fn is(&self, kind: Kind, name: &[u8]) -> bool {
        self.kind == kind && *self.name == *name
    }
}

#[derive(Debug, Default)]
struct Names {
    statements: HashSet<Box<[u8]>>,
    portals: HashSet<Box<[u8]>>,
    are_all: bool,
}

impl Names {
    fn add(&mut self, kind: Kind, name: &[u8]) {
        let own = match kind {
            Kind::Statement => &mut self.statements,
            Kind::Portal => &mut self.portals,
        };
        if own.len() < NAMES_MAX {
            own.insert(name.into());
        } else {
            self.are_all |= !own.contains(name);
        }
    }

    fn has(&self, kind: Kind, name: &[u8]) -> bool {
        let own = match kind {
            Kind::Statement => &self.statements,
            Kind::Portal => &self.portals,
        };
        self.are_all || own.contains(name)
    }
}

/// What a text does, as far as that matters here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct May {
    fetch: bool,
    execute: bool,
}

impl Cursors {
    /// Whether an EXECUTE that was prepared may lead to a FETCH, by way of others or not.
    fn executes_a_fetch(&self) -> bool {
        let (executed, fetching) = (&self.executed, &self.fetching);
        if executed.are_all || fetching.are_all {
            return fetching.are_all || !fetching.statements.is_empty();
        }
        !executed.statements.is_disjoint(&fetching.statements)
    }
}

/// The statement that EXECUTE names, if that is certain. Behind the text is the rest of its message.
fn executed(text: &[u8]) -> Option<String> {
    let end = memchr::memchr(0, text)?;
    match statement::read(&text[..end], CONTEXT).exact {
        Some(Exact::Execute(name)) if name.is_ascii() => Some(name),
        _ => None,
    }
}

const CONTEXT: statement::Context = statement::Context {
    strings: statement::Strings::Standard,
    encoding: statement::Encoding::AsciiSafe,
};

impl May {
    const NOTHING: Self = Self {
        fetch: false,
        execute: false,
    };
    const ANYTHING: Self = Self {
        fetch: true,
        execute: true,
    };

    /// Of a text, or the beginning of one.
    #[inline]
    fn of(text: &[u8], is_whole: bool) -> Self {
        // Most begin with another letter.
        match text.first() {
            Some(b'f' | b'F' | b'e' | b'E' | b';' | b'-' | b'/' | 0x0b) => {}
            Some(byte) if byte.is_ascii_whitespace() => {}
            _ => return Self::NOTHING,
        }
        match statement::read(text, CONTEXT).lead {
            Lead::Fetch => Self {
                fetch: true,
                execute: false,
            },
            Lead::Execute => Self {
                fetch: false,
                execute: true,
            },
            // A comment that goes on.
            Lead::Nothing | Lead::Unknown if !is_whole => Self::ANYTHING,
            _ => Self::NOTHING,
        }
    }
}

/// Whether a Describe of what is prepared by this text may be about a cursor.
pub(super) fn may_fetch(text: &[u8]) -> bool {
    May::of(text, true) != May::NOTHING
}

impl Session {
    /// Takes note of what fetches from cursors, and refuses a Describe that the server may not survive.
    #[inline]
    pub(super) fn heed_cursors(
        &mut self,
        head: Head,
        request: Request,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Option<Pass> {
        if request == Request::Parse {
            let start = at + HEADER;
            let there = &outgoing.bytes[start..outgoing.bytes.len().min(start + head.body)];
            if there.len() < head.body.min(BEGINNING) {
                return Some(Pass::Incomplete);
            }
            let (name, text) = match memchr::memchr(0, there) {
                Some(end) => (&there[..end], &there[end + 1..]),
                None => (there, &b""[..]),
            };
            let may = May::of(text, there.len() == head.body);
            if self.cursors.is_some() || may != May::NOTHING {
                self.has_parsed(name, text, may);
            }
            return None;
        }
        if self.cursors.is_some() {
            return self.heed_use(head, request, at, outgoing);
        }
        None
    }

    #[cold]
    fn has_parsed(&mut self, name: &[u8], text: &[u8], may: May) {
        let cursors = self.cursors.get_or_insert_default();
        let name = prepared::name(name);
        if may.fetch {
            cursors.fetching.add(Kind::Statement, name);
        }
        if may.execute {
            cursors.executing.add(Kind::Statement, name);
            match executed(text) {
                Some(target) => {
                    let target = prepared::name(target.as_bytes());
                    cursors.executed.add(Kind::Statement, target);
                }
                None => cursors.executed.are_all = true,
            }
        }
        cursors.last = Some(Last {
            kind: Kind::Statement,
            name: name.into(),
            may,
            is_synced: false,
        });
    }

    #[cold]
    fn heed_use(
        &mut self,
        head: Head,
        request: Request,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Option<Pass> {
        let cursors = self.cursors.as_mut()?;
        let start = at + HEADER;
        let there = &outgoing.bytes[start..outgoing.bytes.len().min(start + head.body)];
        match request {
            Request::Bind => {
                let Some((portal, name)) = first_two(there) else {
                    if there.len() < head.body && there.len() < BOTH_MAX {
                        return Some(Pass::Incomplete);
                    }
                    // PostgreSQL heeds the beginning of longer ones.
                    cursors.fetching.are_all = true;
                    cursors.executing.are_all = true;
                    cursors.last = None;
                    return None;
                };
                let (portal, name) = (prepared::name(portal), prepared::name(name));
                let last = cursors.last.take();
                let parsed = last.filter(|last| last.is(Kind::Statement, name) && !last.is_synced);
                let may = parsed.map_or_else(
                    || May {
                        fetch: cursors.fetching.has(Kind::Statement, name),
                        execute: cursors.executing.has(Kind::Statement, name),
                    },
                    |parsed| parsed.may,
                );
                if may.fetch {
                    cursors.fetching.add(Kind::Portal, portal);
                }
                if may.execute {
                    cursors.executing.add(Kind::Portal, portal);
                }
                cursors.last = Some(Last {
                    kind: Kind::Portal,
                    name: portal.into(),
                    may,
                    is_synced: false,
                });
                None
            }
            Request::DescribeStatement | Request::DescribePortal => {
                if there.len() < head.body && head.body <= super::LOOKED_INTO_MAX {
                    return Some(Pass::Incomplete);
                }
                let (kind, whole) = parse::target(there).ok()?;
                let name = prepared::name(whole);
                let last = cursors.last.as_ref();
                // Had it failed, the transaction had, too; and no cursor went with the Sync.
                let goes_on = self.server.as_ref().is_some_and(|server| {
                    server.status == TransactionStatus::InTransaction && server.queue.has_none()
                });
                let behind =
                    last.filter(|last| last.is(kind, name) && (!last.is_synced || goes_on));
                let (fetches, executes) = match behind {
                    Some(behind) => (false, behind.may.execute),
                    None => (
                        cursors.fetching.has(kind, name),
                        cursors.executing.has(kind, name),
                    ),
                };
                if !(fetches || executes && cursors.executes_a_fetch()) {
                    return None;
                }
                let other = self.tenant.statements.fetching_name();
                let server = self.server.as_deref_mut()?;
                let target = [b"S", &other[..], b"\0"].concat();
                rename(&target, start, &there[..head.body], head, at, outgoing);
                server.queue.sent(Request::DescribeStatement);
                self.lending.is_open = true;
                Some(Pass::On)
            }
            Request::Sync => {
                if let Some(last) = &mut cursors.last {
                    last.is_synced = true;
                }
                None
            }
            _ => {
                cursors.last = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_with_fetch_fetches() {
        let of = |text: &str| {
            let may = May::of(text.as_bytes(), text.len() < BEGINNING);
            (may.fetch, may.execute)
        };
        for text in [
            "FETCH c",
            "fetch 1 from c",
            " /* a */ -- b\n;FETCH c",
            "\u{b}fetch c",
        ] {
            assert_eq!(of(text), (true, false), "{text}");
        }
        for text in [
            "EXPLAIN SELECT 1",
            "SELECT 'fetch'",
            "/* a */ SELECT 1",
            "-- ping",
            ";",
        ] {
            assert_eq!(of(text), (false, false), "{text}");
        }
        assert_eq!(of(" EXECUTE a"), (false, true));
        let long = format!("/* {}", "x".repeat(5000));
        assert_eq!(of(&long), (true, true));
    }
}
