//! Prepared statements of a tenant, by what they are rather than by what a client calls them.
//!
//! Owns: one value for all statements of the same identity, the name it has on every server
//! connection, and which of them one server connection has. Does not own: the names of a client
//! (`prepared`).
//!
//! Typed constants are read when a statement is parsed, so the same text parsed under another time
//! zone is another statement. Identity is text, parameter types and every setting that decides how
//! it is parsed, as they were when the client prepared it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    ops::Range,
    rc::Rc,
};

use statement::{Effects, Exact};
use wire::message::{Kind, build};

use crate::{shape::Shape, state::State};

/// Text of one tenant's statements that is kept, bytes, with what keeping each takes. Two thousand statements of
/// 4 kB; above it, what is prepared stays on the server connection where it is.
const TEXT_BYTES_MAX: usize = 8 << 20;
/// What keeping a statement takes beside its text.
const EACH_BYTES: usize = 256;
/// Statements that one server connection keeps. Each costs PostgreSQL some 10 to 100 kB; the one
/// that was not used for longest goes.
pub(crate) const PER_SERVER_MAX: usize = 200;
/// Statements that a server connection may have, as far as is remembered; that is forgotten with each reset.
const DOUBTED_MAX: usize = 5 * PER_SERVER_MAX;

/// A statement as a client prepared it.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) number: u64,
    /// What servers know it by.
    pub(crate) name: Box<[u8]>,
    pub(crate) query: Box<[u8]>,
    /// Object ids of its parameter types as they stood in the message, and their number before them.
    types: Box<[u8]>,
    /// Settings in force when it was prepared, as far as they decide how it is parsed.
    pub(crate) parsing: Rc<State>,
    pub(crate) effects: Effects,
    pub(crate) exact: Option<Exact>,
    /// Lives on one server connection only, because it cannot be said under which settings it was
    /// parsed, or its text is not kept.
    pub(crate) is_private: bool,
    /// It has the client's own name, since that could also be one of SQL PREPARE.
    pub(crate) has_own_name: bool,
    /// May change settings until the end of its transaction.
    pub(crate) sets_locally: bool,
    /// See [`is_heeded`].
    pub(crate) heeds_columns: bool,
    /// For whom PostgreSQL has nothing to say beside its Parse: see [`Told`].
    quiet: Cell<u8>,
    texts: Rc<Cell<usize>>,
}

/// Whether the columns of what is prepared by this text are heeded: those of queries, which PostgreSQL reads anew. It must
/// not be asked about `FETCH` from a cursor that is gone: it does not survive that (15.18 and 18.6). One that begins with a
/// comment or a bracket is taken for none.
pub(crate) fn is_heeded(text: &[u8], effects: Effects, exact: Option<&Exact>) -> bool {
    const LEADS: [&[u8]; 8] = [
        b"select", b"with", b"insert", b"update", b"delete", b"values", b"merge", b"table",
    ];
    let text = text.trim_ascii_start();
    let begins = |lead: &&[u8]| {
        let own = text.get(..lead.len());
        own.is_some_and(|own| own.eq_ignore_ascii_case(lead))
    };
    exact.is_none() && !effects.intersects(Effects::RUNS) && LEADS.iter().any(begins)
}

/// What a client is told beside an answer: its `client_min_messages`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Told {
    /// It may be any.
    Unknown = 0,
    Errors = 1,
    /// And warnings, which a Parse may give: `nonstandard use of \\ in a string literal`.
    Warnings = 1 << 1,
    /// And notices: `identifier … will be truncated`.
    Notices = 1 << 2,
    /// Or more than that.
    All = 1 << 3,
    /// Nothing was said of it.
    AsTheServer = 1 << 4,
}

impl Told {
    /// With these settings.
    pub(crate) fn of(settings: &State) -> Self {
        let Some(least) = settings.get("client_min_messages") else {
            return Self::AsTheServer;
        };
        match least.to_ascii_lowercase().as_str() {
            "error" => Self::Errors,
            "warning" => Self::Warnings,
            "notice" => Self::Notices,
            _ => Self::All,
        }
    }
}

impl Statement {
    /// Whether a Parse of it, for whom is told this, is answered by just that.
    #[inline]
    pub(crate) fn is_quiet(&self, told: Told) -> bool {
        self.quiet.get() & told as u8 != 0
    }

    /// Takes note that one was, so that who is told less hears nothing either.
    pub(crate) fn was_quiet(&self, told: Told) {
        let less = match told {
            Told::AsTheServer => 0,
            told => (told as u8).saturating_sub(1),
        };
        self.quiet.set(self.quiet.get() | told as u8 | less);
    }

    /// Whether it may have constants that are read under settings: those have quotes around them.
    pub(crate) fn has_constants(&self) -> bool {
        let mut pairs = self.query.windows(2);
        self.query.contains(&b'\'')
            || pairs.any(|pair| pair[0] == b'$' && !pair[1].is_ascii_digit())
    }

    /// How many parameters it has, as far as its text says.
    pub(crate) fn parameters(&self) -> u16 {
        let behind = self.query.split(|byte| *byte == b'$').skip(1);
        let numbers = behind.map(|rest| {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
            digits.fold(0_u16, |all, digit| {
                all.saturating_mul(10).saturating_add((digit - b'0').into())
            })
        });
        numbers.max().unwrap_or(0)
    }

    fn bytes(&self) -> usize {
        EACH_BYTES + self.query.len() + self.types.len()
    }

    /// Appends a Parse of it under this name.
    pub(crate) fn write_parse(&self, name: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(b"P\0\0\0\0");
        for text in [name, &self.query] {
            out.extend_from_slice(text);
            out.push(0);
        }
        out.extend_from_slice(&self.types);
        let length = (out.len() - start - 1) as u32;
        out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        self.texts.set(self.texts.get() - self.bytes());
    }
}

/// The body of a Parse behind the name, and what is to be known about it.
pub(crate) struct Parsed<'a> {
    pub(crate) query: &'a [u8],
    /// The number of parameter types, and the types.
    pub(crate) types: &'a [u8],
    pub(crate) parsing: &'a Rc<State>,
    pub(crate) reading: statement::Reading,
    pub(crate) is_private: bool,
    pub(crate) sets_locally: bool,
}

/// Statements of one tenant.
#[derive(Debug)]
pub(crate) struct Statements {
    known: RefCell<HashMap<u64, Vec<Rc<Statement>>>>,
    hasher: RandomState,
    next: Cell<u64>,
    texts: Rc<Cell<usize>>,
    /// Begins the name of every statement; a client cannot guess it.
    prefix: String,
    /// How often definitions changed such that statements may return something else.
    redefined: Cell<u64>,
}

impl Statements {
    pub(crate) fn new() -> Self {
        Self {
            known: RefCell::default(),
            hasher: RandomState::new(),
            next: Cell::new(1),
            texts: Rc::default(),
            prefix: format!("_t{:08x}_", rand::random::<u32>()),
            redefined: Cell::default(),
        }
    }

    /// Definitions changed. What was prepared before fails with the next use if it returns something else by now, also for
    /// whoever prepares it only now: it is prepared anew everywhere ([`Has::catch_up`]).
    #[cold]
    pub(crate) fn redefine(&self) {
        self.redefined.set(self.redefined.get() + 1);
    }

    /// The statement of this identity, or a new one. A private one is always new.
    pub(crate) fn of(&self, parsed: Parsed<'_>) -> Rc<Statement> {
        let parsing = parsed.parsing.parsing();
        let hash = self
            .hasher
            .hash_one((parsed.query, parsed.types, Rc::as_ptr(parsing).addr()));
        if !parsed.is_private
            && let Some(same) = self.known.borrow().get(&hash)
            && let Some(statement) = same.iter().find(|own| {
                *own.query == *parsed.query
                    && *own.types == *parsed.types
                    && Rc::ptr_eq(&own.parsing, parsing)
            })
        {
            return statement.clone();
        }
        let size = EACH_BYTES + parsed.query.len() + parsed.types.len();
        if self.texts.get() + size > TEXT_BYTES_MAX {
            self.forget_unused();
        }
        let is_private = parsed.is_private || self.texts.get() + size > TEXT_BYTES_MAX;
        let number = self.next.get();
        self.next.set(number + 1);
        let kept = |bytes: &[u8]| -> Box<[u8]> {
            if is_private {
                Box::default()
            } else {
                bytes.into()
            }
        };
        let (effects, exact) = (parsed.reading.effects, parsed.reading.exact);
        let statement = Rc::new(Statement {
            number,
            name: self.name(number).into(),
            query: kept(parsed.query),
            types: kept(parsed.types),
            parsing: parsing.clone(),
            heeds_columns: !is_private && is_heeded(parsed.query, effects, exact.as_ref()),
            effects,
            exact,
            is_private,
            has_own_name: false,
            sets_locally: parsed.sets_locally,
            quiet: Cell::default(),
            texts: self.texts.clone(),
        });
        self.texts.set(self.texts.get() + statement.bytes());
        if !is_private {
            let mut known = self.known.borrow_mut();
            known.entry(hash).or_default().push(statement.clone());
        }
        statement
    }

    /// The same statement, prepared under other settings. `None`: there is no room for it.
    #[cold]
    pub(crate) fn under(&self, statement: &Statement, wanted: &Rc<State>) -> Option<Rc<Statement>> {
        let reading = statement::Reading {
            statements: statement::Statements::One,
            lead: statement::Lead::Unknown,
            effects: statement.effects,
            exact: statement.exact.clone(),
            custom: Vec::new(),
        };
        let other = self.of(Parsed {
            query: &statement.query,
            types: &statement.types,
            parsing: wanted,
            reading,
            is_private: false,
            sets_locally: statement.sets_locally,
        });
        (!other.is_private).then_some(other)
    }

    /// A statement that lives where it is made, under the name that a client gives it.
    #[cold]
    pub(crate) fn of_own_name(
        &self,
        name: &[u8],
        reading: statement::Reading,
        sets_locally: bool,
    ) -> Rc<Statement> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.texts.set(self.texts.get() + EACH_BYTES);
        Rc::new(Statement {
            number,
            name: name.into(),
            query: Box::default(),
            types: Box::default(),
            parsing: Rc::default(),
            effects: reading.effects,
            exact: reading.exact,
            heeds_columns: false,
            is_private: true,
            has_own_name: true,
            sets_locally,
            quiet: Cell::default(),
            texts: self.texts.clone(),
        })
    }

    /// What servers know a statement by.
    pub(crate) fn name(&self, number: u64) -> Vec<u8> {
        format!("{}{number}", self.prefix).into_bytes()
    }

    /// What no server connection has. A message with this name fails, which says that a statement returns something
    /// else than its client was told.
    pub(crate) fn changed_name(&self) -> Vec<u8> {
        self.name(0)
    }

    /// The same, which says that what fetches from a cursor is described where that may be gone.
    pub(crate) fn fetching_name(&self) -> Vec<u8> {
        self.name(u64::MAX)
    }

    /// Whether a name of a client's looks like one of ours.
    pub(crate) fn is_name(&self, name: &[u8]) -> bool {
        name.starts_with(self.prefix.as_bytes())
    }

    /// Whether a text names one of ours.
    pub(crate) fn are_named(&self, text: &[u8]) -> bool {
        let prefix = self.prefix.as_bytes();
        text.windows(prefix.len()).any(|piece| piece == prefix)
    }

    /// Where a text names one of ours.
    pub(crate) fn find_name(&self, text: &[u8]) -> Option<Range<usize>> {
        let prefix = self.prefix.as_bytes();
        let start = text
            .windows(prefix.len())
            .position(|piece| piece == prefix)?;
        let digits = &text[start + prefix.len()..];
        let digits = digits
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        Some(start..start + prefix.len() + digits)
    }

    fn forget_unused(&self) {
        self.known.borrow_mut().retain(|_, same| {
            same.retain(|statement| Rc::strong_count(statement) > 1);
            !same.is_empty()
        });
    }
}

/// Which statements one server connection has.
#[derive(Debug, Default)]
pub(crate) struct Has {
    /// By number.
    used: HashMap<u64, Use>,
    /// When definitions were looked at last: see [`Statements::redefine`].
    as_of: u64,
    clock: u64,
    /// How often one was lost.
    pub(crate) losses: u64,
    /// Names to be closed with the next flight: of no use any more.
    stale: Vec<Box<[u8]>>,
    /// Of those by number, what the server did not take, since what they name is gone, perhaps.
    refused: Vec<u64>,
    /// Of those by number, what PostgreSQL may have analysed anew for whoever has the connection now.
    changed: Vec<u64>,
    /// It may have statements that are not known of.
    pub(crate) is_unsure: bool,
    /// By number, some of those that it may have for all that.
    doubted: Vec<u64>,
    /// Whose unnamed statement it has: a number that is given to each Parse.
    pub(crate) unnamed: Unnamed,
    /// What it returns there, with its serial number, if anybody asked.
    unnamed_shape: Option<(u64, Shape)>,
}

/// What of a session's or a server connection's statements.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Which {
    /// The one of this number.
    Named(u64),
    /// The unnamed one of this serial number.
    Unnamed(u64),
}

/// A statement of a server connection.
#[derive(Clone, Copy, Debug)]
struct Use {
    /// The time of the last one.
    last: u64,
    /// What it returns there, if anybody asked.
    shape: Option<Shape>,
}

/// The unnamed statement of a server connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Unnamed {
    #[default]
    None,
    /// The one of this serial number.
    Of(u64),
    /// Something that was sent may or may not have been looked at.
    Unsure,
}

impl Has {
    /// Whether it has a statement, which counts as a use.
    #[inline]
    pub(crate) fn uses(&mut self, number: u64) -> bool {
        self.clock += 1;
        match self.used.get_mut(&number) {
            Some(own) => {
                own.last = self.clock;
                true
            }
            None => false,
        }
    }

    /// Whether it has a statement.
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.used.contains_key(&number)
    }

    /// What it returns there. `None`: nobody asked.
    pub(crate) fn shape(&self, which: Which) -> Option<Shape> {
        match which {
            Which::Named(number) => self.used.get(&number)?.shape,
            Which::Unnamed(serial) => {
                let (of, shape) = self.unnamed_shape?;
                (of == serial).then_some(shape)
            }
        }
    }

    /// Notes what it returns there.
    pub(crate) fn describe(&mut self, which: Which, shape: Shape) {
        match which {
            Which::Named(number) => {
                if let Some(own) = self.used.get_mut(&number) {
                    own.shape = Some(shape);
                }
            }
            Which::Unnamed(serial) => self.unnamed_shape = Some((serial, shape)),
        }
    }

    /// Notes that it is made anew: what it returns there, nobody has asked.
    pub(crate) fn is_made_anew(&mut self, number: u64) {
        if let Some(own) = self.used.get_mut(&number) {
            own.shape = None;
        }
    }

    /// Whether it is there.
    pub(crate) fn has(&self, which: Which) -> bool {
        match which {
            Which::Named(number) => self.contains(number),
            Which::Unnamed(serial) => self.unnamed == Unnamed::Of(serial),
        }
    }

    /// Before it is lent: what was prepared before definitions changed is closed with the next flight.
    #[inline]
    pub(crate) fn catch_up(&mut self, statements: &Statements) {
        if self.as_of != statements.redefined.get() {
            self.close_all(statements);
        }
    }

    #[cold]
    fn close_all(&mut self, statements: &Statements) {
        self.as_of = statements.redefined.get();
        self.losses += 1;
        let all = self.used.drain();
        self.stale
            .extend(all.map(|(number, _)| statements.name(number).into()));
        self.refused.clear();
        self.changed.clear();
    }

    /// Notes that it will have it. Another one may have to go.
    pub(crate) fn add(&mut self, number: u64, statements: &Statements) {
        if self.used.len() >= PER_SERVER_MAX
            && let Some((&oldest, _)) = self.used.iter().min_by_key(|(_, own)| own.last)
        {
            self.used.remove(&oldest);
            self.losses += 1;
            self.stale.push(statements.name(oldest).into());
        }
        self.clock += 1;
        let own = Use {
            last: self.clock,
            shape: None,
        };
        self.used.insert(number, own);
    }

    /// Notes that it was to have it and the server said no. Whoever uses it hears why.
    pub(crate) fn refuse(&mut self, number: u64, statements: &Statements) {
        self.add(number, statements);
        self.refused.push(number);
    }

    /// Whether the server said no to it. That is so once: it is tried again for the next loan.
    #[inline]
    pub(crate) fn was_refused(&mut self, number: u64) -> bool {
        !self.refused.is_empty() && self.takes_refused(number)
    }

    #[cold]
    fn takes_refused(&mut self, number: u64) -> bool {
        let is_refused = self.refused.contains(&number) && self.used.contains_key(&number);
        self.refused.retain(|own| *own != number);
        is_refused && self.remove(number)
    }

    /// Notes that PostgreSQL may analyse it anew, for whoever has the connection now.
    #[cold]
    pub(crate) fn change(&mut self, number: u64) {
        if !self.changed.contains(&number) {
            self.changed.push(number);
        }
    }

    /// Somebody else may have the connection now: what is not what it was before is of no use.
    #[inline]
    pub(crate) fn discard_changed(&mut self, statements: &Statements) {
        for number in std::mem::take(&mut self.changed) {
            if self.remove(number) {
                self.discard(&statements.name(number));
            }
        }
    }

    /// Notes that it does not have it after all.
    pub(crate) fn remove(&mut self, number: u64) -> bool {
        self.losses += 1;
        self.used.remove(&number).is_some()
    }

    /// Notes that the statement of this name is of no use any more.
    pub(crate) fn discard(&mut self, name: &[u8]) {
        self.stale.push(name.into());
    }

    /// Notes that one of no use is closed.
    pub(crate) fn is_closed(&mut self, name: &[u8]) {
        self.stale.retain(|own| **own != *name);
    }

    /// Notes that it is, or will be, as a new one. That counts as a loss: whoever remembers what it had was here before.
    pub(crate) fn is_reset(&mut self) {
        *self = Self {
            losses: self.losses + 1,
            as_of: self.as_of,
            ..Self::default()
        };
    }

    /// Notes that it has no named ones any more.
    pub(crate) fn clear(&mut self) {
        self.losses += 1;
        self.used.clear();
        self.refused.clear();
        self.changed.clear();
        self.stale.clear();
        self.doubted.clear();
        self.is_unsure = false;
    }

    /// Notes that nobody knows which named ones it has.
    pub(crate) fn doubt(&mut self) {
        self.losses += 1;
        let room = DOUBTED_MAX - self.doubted.len();
        let all = self.used.drain().map(|(number, _)| number);
        self.doubted.extend(all.take(room));
        self.refused.clear();
        self.changed.clear();
        self.is_unsure = true;
    }

    /// Whether it had this one before nobody knew.
    pub(crate) fn may_have(&self, number: u64) -> bool {
        self.doubted.contains(&number)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.used.len()
    }

    #[inline]
    pub(crate) fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Whether it may have any that has a name of ours.
    #[inline]
    pub(crate) fn may_have_some(&self) -> bool {
        !(self.used.is_empty() && self.stale.is_empty() && self.doubted.is_empty())
    }

    /// Appends a Close for each that it may have under a name of ours; returns how many. Closing what is not there does nothing.
    #[cold]
    pub(crate) fn write_all_closes(&mut self, all: &Statements, out: &mut Vec<u8>) -> usize {
        let own = self.used.keys().chain(&self.doubted);
        let mut names: Vec<Box<[u8]>> = own.map(|number| all.name(*number).into()).collect();
        names.append(&mut self.stale);
        for name in &names {
            build::close(Kind::Statement, name, out);
        }
        let is_unsure = self.is_unsure;
        self.clear();
        self.is_unsure = is_unsure;
        names.len()
    }

    /// Appends a Close for each that is of no use; returns their names.
    pub(crate) fn write_closes(&mut self, out: &mut Vec<u8>) -> Vec<Box<[u8]>> {
        let names = std::mem::take(&mut self.stale);
        for name in &names {
            build::close(Kind::Statement, name, out);
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use statement::{Context, Encoding, Strings};

    use super::*;
    use crate::state::States;

    const CONTEXT: Context = Context {
        strings: Strings::Standard,
        encoding: Encoding::AsciiSafe,
    };

    fn parsed<'a>(query: &'a [u8], types: &'a [u8], parsing: &'a Rc<State>) -> Parsed<'a> {
        Parsed {
            query,
            types,
            parsing,
            reading: statement::read(query, CONTEXT),
            is_private: false,
            sets_locally: false,
        }
    }

    #[test]
    fn identity_is_text_types_and_what_decides_parsing() {
        let (states, all) = (States::default(), Statements::new());
        let nothing = states.nothing();
        let zone = states.with(nothing, "timezone", "Asia/Tokyo");
        let beside = states.with(nothing, "work_mem", "1MB");
        let one = all.of(parsed(b"SELECT 1", b"\0\0", nothing));
        let same = all.of(parsed(b"SELECT 1", b"\0\0", &beside));
        assert!(Rc::ptr_eq(&one, &same));
        for other in [
            parsed(b"SELECT 2", b"\0\0", nothing),
            parsed(b"SELECT 1", b"\0\x01\0\0\0\x17", nothing),
            parsed(b"SELECT 1", b"\0\0", &zone),
            Parsed {
                is_private: true,
                ..parsed(b"SELECT 1", b"\0\0", nothing)
            },
        ] {
            let other = all.of(other);
            assert_ne!(one.number, other.number);
            assert_ne!(one.name, other.name);
        }
        let mut out = Vec::new();
        one.write_parse(b"x", &mut out);
        assert_eq!(out, b"P\0\0\0\x11x\0SELECT 1\0\0\0");
    }

    #[test]
    fn text_is_bounded_and_what_nobody_uses_is_forgotten() {
        let (states, all) = (States::default(), Statements::new());
        let text = |i: usize| format!("SELECT '{i}{}'", "x".repeat(100_000)).into_bytes();
        let mut held = Vec::new();
        for i in 0..200 {
            held.push(all.of(parsed(&text(i), b"\0\0", states.nothing())));
            // Of those that stay where they are, no text is kept.
            assert!(all.texts.get() <= TEXT_BYTES_MAX + i * EACH_BYTES);
        }
        assert!(held.last().unwrap().is_private);
        assert!(!held[0].is_private);
        held.clear();
        assert!(
            !all.of(parsed(&text(7000), b"\0\0", states.nothing()))
                .is_private
        );
        assert!(all.texts.get() < 200_000);
    }

    #[test]
    fn a_server_keeps_those_used_last() {
        let all = Statements::new();
        let mut has = Has::default();
        for number in 0..PER_SERVER_MAX as u64 {
            has.add(number, &all);
        }
        assert!(has.uses(0) && !has.has_stale());
        has.add(1000, &all);
        assert!(has.uses(0) && !has.uses(1) && has.uses(2));
        let mut out = Vec::new();
        assert_eq!(has.write_closes(&mut out).len(), 1);
        assert_eq!(has.len(), PER_SERVER_MAX);
        assert!(out.ends_with(b"_1\0"));
    }
}
