//! Statements of a database that wants each of them in the audit log.
//!
//! Owns: what a line says of a statement, and what a session prepared, so that its Executes have lines, too; and
//! that nothing goes to the server without one. Does not own: the log (`audit`), which tables a text names
//! (`statement::tables`), or lines of connections (`journal`).
//!
//! A line is noted before its statement is sent, whatever becomes of that. It has no text: what stands for the
//! text is an HMAC of its shape, which has no constants either. While a database does not want it, a statement
//! pays one look at its limits.

use std::{
    collections::HashMap,
    fmt::Write as _,
    hash::{BuildHasher, RandomState},
    rc::Rc,
};

use audit::{Event, Hash, Keys, Log};
use statement::{Access, Encoding, Excerpt, normalise, tables};

use crate::{
    handle::Handle,
    relay::{Note, Text},
    session::Session,
    worker::Worker,
};

/// Of a longer text, only so much is looked at, and its line says so.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Names of prepared statements and of portals that are known, for each session. Executes of others have lines
/// without one.
const NAMES_MAX: usize = 1024;
/// Tables of one kind of access in a line, bytes; what is longer would be cut in a name.
const TABLES_BYTES_MAX: usize = 256;

/// What a line says of a text.
#[derive(Debug)]
struct Said {
    hash: Hash,
    /// Names, each kind of access for itself.
    tables: [String; 3],
    /// There may be more tables than those, or more text than was looked at.
    is_part: bool,
}

const ACCESSES: [(Access, &str); 3] = [
    (Access::Read, "reads"),
    (Access::Write, "writes"),
    (Access::Define, "ddl"),
];

/// By a hash of their names that no client can aim at: names may be long, and one that stood for another would make a
/// line say what is not so.
type Names = HashMap<u64, Rc<Said>>;

/// Of one session.
#[derive(Debug, Default)]
pub(crate) struct Audited {
    statements: Names,
    portals: Names,
    hasher: RandomState,
    /// For shapes.
    scratch: Vec<u8>,
}

fn keep(names: &mut Names, name: u64, said: Option<Rc<Said>>) {
    match said {
        Some(said) if names.len() < NAMES_MAX || names.contains_key(&name) => {
            names.insert(name, said);
        }
        _ => drop(names.remove(&name)),
    }
}

/// Writes what texts of one shape share to `scratch`, and returns a number that they share, too, with as much of the
/// text as is looked at.
fn shape<'a>(text: Text<'a>, scratch: &mut Vec<u8>) -> (Text<'a>, u64) {
    let (bytes, is_whole) = match text.bytes.get(..TEXT_BYTES_MAX) {
        Some(part) if part.len() < text.bytes.len() => (part, false),
        _ => (text.bytes, text.is_whole),
    };
    let encoding = text.encoding;
    let excerpt = Excerpt {
        bytes,
        is_whole,
        encoding,
    };
    let number = normalise(excerpt, scratch);
    // Texts of one shape may be written in many ways. What this puts together and is not the same, the number
    // tells apart.
    scratch.retain(|byte| !byte.is_ascii_whitespace());
    scratch.make_ascii_lowercase();
    let text = Text {
        bytes,
        is_whole,
        encoding,
    };
    (text, number)
}

/// What stands for a text in lines of statements, by the keys of the installation; the text as a session sends it whose
/// `client_encoding` is UTF-8.
pub fn stand_in(text: &[u8], keys: &Keys) -> Hash {
    let mut scratch = Vec::new();
    let text = Text {
        bytes: text,
        is_whole: true,
        encoding: Encoding::AsciiSafe,
    };
    let (_, number) = shape(text, &mut scratch);
    keys.stand_in(number, &scratch)
}

impl Said {
    fn of(text: Text<'_>, log: &Log, scratch: &mut Vec<u8>) -> Self {
        let encoding = text.encoding;
        let (text, number) = shape(text, scratch);
        let (bytes, is_whole) = (text.bytes, text.is_whole);
        let found = tables(bytes, is_whole, encoding);
        let mut is_part = !found.is_all;
        let tables = ACCESSES.map(|(access, _)| {
            let mut names = String::new();
            for (name, _) in found.named.iter().filter(|own| own.1 == access) {
                if names.len() + 2 + name.len() > TABLES_BYTES_MAX {
                    is_part = true;
                    break;
                }
                let comma = if names.is_empty() { "" } else { ", " };
                let _ = write!(names, "{comma}{name}");
            }
            names
        });
        Self {
            hash: log.stand_in(number, scratch),
            tables,
            is_part,
        }
    }
}

/// The line of a statement. `said`: nobody knows its text.
fn line(handle: &Handle, said: Option<&Said>) -> Event {
    let event = Event::new("statement")
        .text("tenant", &handle.tenant.id)
        .text("role", handle.login)
        .text("credential", &handle.credential)
        .text("address", handle.about.peer)
        .number("session", u64::from(handle.id.unsigned_abs()));
    let Some(said) = said else {
        return event.number("part", 1);
    };
    let mut event = event.text("statement", said.hash);
    for (names, (_, field)) in said.tables.iter().zip(ACCESSES) {
        event = event.maybe(field, (!names.is_empty()).then_some(names));
    }
    match said.is_part {
        true => event.number("part", 1),
        false => event,
    }
}

impl Note<'_> {
    /// Whether something is carried out.
    #[inline]
    pub(crate) fn is_statement(&self) -> bool {
        matches!(self, Self::Query(_) | Self::Call | Self::Execute { .. })
    }
}

/// Whether the log has no place for one more line now.
#[inline]
pub(crate) fn cannot_note(worker: &Worker) -> bool {
    !worker
        .audit()
        .is_some_and(|logs| logs.statements.can_take())
}

impl Session {
    /// Whether its statements are lines in the audit log.
    #[inline]
    pub(crate) fn is_audited(&self) -> bool {
        self.tenant.limits().statement_audit
    }

    /// Whether there would have to be a line for what it asks and cannot be, while nothing of it is under way: that
    /// is refused, and the session goes on.
    #[inline]
    pub(crate) fn is_unaudited(&self, bytes: &[u8], worker: &Worker) -> bool {
        self.is_audited() && cannot_note(worker) && self.begins_something(bytes)
    }

    /// Notes a message that is on its way.
    #[cold]
    pub(crate) fn audit(&mut self, note: Note<'_>, worker: &Worker) {
        let Some(logs) = worker.audit() else { return };
        let log = &logs.statements;
        let own = self.watch.audited.get_or_insert_default();
        let hasher = own.hasher.clone();
        let place = |name: &[u8]| hasher.hash_one(name);
        match note {
            Note::Query(text) => {
                // As PostgreSQL does with it.
                own.statements.remove(&place(b""));
                let said = Said::of(text, log, &mut own.scratch);
                log.note(line(&self.handle, Some(&said)));
            }
            Note::Call => log.note(line(&self.handle, None)),
            Note::Parse { name, text } => {
                let said = Said::of(text, log, &mut own.scratch);
                keep(&mut own.statements, place(name), Some(Rc::new(said)));
            }
            Note::Bind { portal, statement } => {
                let said = own.statements.get(&place(statement)).cloned();
                keep(&mut own.portals, place(portal), said);
            }
            Note::Execute { portal } => {
                let said = own.portals.get(&place(portal));
                log.note(line(&self.handle, said.map(|said| &**said)));
            }
            Note::CloseStatement(name) => drop(own.statements.remove(&place(name))),
            Note::ClosePortal(name) => drop(own.portals.remove(&place(name))),
            Note::Nothing => {}
        }
    }
}
