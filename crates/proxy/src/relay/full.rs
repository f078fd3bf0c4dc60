//! What a full database refuses.
//!
//! Owns: whether what a client asks makes its database larger, and what goes to the server in its place.
//! Does not own: which texts do (`statement`), which names do (`limits::growing`), when a database is full
//! (the control plane measures it and says so by the route).
//!
//! What is refused fails on the server: something that is no SQL goes there instead, and its error comes
//! back as ours. So everything that follows from an error is PostgreSQL's own doing: the transaction
//! fails, a pipeline is skipped up to its Sync, a savepoint leads back.

use std::borrow::Cow;

use statement::{Effects, Exact, Reading, Statements};
use wire::{
    frame::{HEADER, Head},
    message::{build, parse},
    queue::{Request, Tags},
};

use super::{
    LOOKED_INTO_MAX,
    around::{Body, NAMES_MAX, body, first_two},
    up::{Outgoing, Pass},
};
use crate::{
    limits::{Exceeded, Growing, Growth},
    prepared::{self, Unnamed},
    session::Session,
    statements::Unnamed as Theirs,
};

/// What goes to the server in place of what is refused: no SQL, and no word of a client's.
const NO_SQL: &str = "tenantry_storage_full";
/// `syntax_error`, which is what the server says to it.
const SYNTAX_ERROR: &str = "42601";

/// Functions that write large objects, by the numbers under which PostgreSQL has them in all versions and
/// drivers call them: `lo_creat`, `lo_create`, `lowrite`, `lo_import`, `lo_from_bytea`, `lo_put`.
const WRITING_FUNCTIONS: [u32; 7] = [957, 715, 955, 764, 767, 3457, 3460];
/// Numbers from here on are functions that somebody made.
const FIRST_NORMAL_OID: u32 = 16384;

/// What of a text is there: all of it, or so much as is looked into.
fn text(bytes: &[u8], at: usize, head: Head) -> Option<&[u8]> {
    match body(bytes, at, head) {
        Body::Whole(body) => Some(body),
        Body::Incomplete => None,
        Body::TooLarge => bytes.get(at + HEADER..at + HEADER + LOOKED_INTO_MAX),
    }
}

/// Whether a text may be `PREPARE`.
fn may_prepare(text: &[u8]) -> bool {
    const WORD: &[u8] = b"prepare";
    let text = text.trim_ascii_start();
    let word = text.get(..WORD.len());
    word.is_some_and(|word| word.eq_ignore_ascii_case(WORD))
        || matches!(text.first(), Some(b'-' | b'/' | b';'))
}

impl Session {
    /// Takes note of what is prepared, and refuses what makes a full database larger. Otherwise it goes on
    /// as if there were no limit, with what was read of its text, if all of that was: nobody has to read it
    /// again.
    ///
    /// # Errors
    ///
    /// What is to happen with the message.
    #[inline]
    pub(super) fn look_at_growth(
        &mut self,
        head: Head,
        request: Request,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Result<Option<Reading>, Pass> {
        let is_limited = self.tenant.limits().storage_bytes_max.is_some();
        let there = outgoing.bytes.get(at + HEADER..).unwrap_or_default();
        match request {
            Request::Query if is_limited || may_prepare(there) => {
                self.look_at_growing_query(head, at, outgoing)
            }
            // Where names are followed, it is known what they do.
            Request::Parse
                if is_limited || !(self.lending.tracks() || there.first() == Some(&0)) =>
            {
                self.look_at_growing_parse(head, at, outgoing)
            }
            Request::Bind if is_limited => {
                let pass = self.look_at_growing_bind(head, at, outgoing);
                pass.map_or(Ok(None), Err)
            }
            Request::Call if is_limited => {
                let pass = self.look_at_growing_call(head, at, outgoing);
                pass.map_or(Ok(None), Err)
            }
            _ => Ok(None),
        }
    }

    fn read(&self, text: &[u8]) -> Option<Reading> {
        let server = self.server.as_deref()?;
        Some(statement::read(text, self.lending.context(server)))
    }

    #[cold]
    fn look_at_growing_query(
        &mut self,
        head: Head,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Result<Option<Reading>, Pass> {
        let Some(text) = text(outgoing.bytes, at, head) else {
            return Err(Pass::Incomplete);
        };
        let is_cut = text.len() < head.body;
        let Some(reading) = self.read(text.strip_suffix(b"\0").unwrap_or(text)) else {
            return Ok(None);
        };
        let mut growth = Growth::of(reading.effects);
        let names = &mut self.lending.growing;
        match &reading.exact {
            Some(Exact::Prepare(name)) => {
                names.prepared(prepared::name(name.as_bytes()), growth == Growth::Yes);
            }
            Some(Exact::Execute(name)) if !is_cut => {
                let name = prepared::name(name.as_bytes());
                let known = self.lending.prepared.get(name);
                growth = match known.map(|own| Growth::of(own.effects)) {
                    _ if names.has(name) => Growth::Yes,
                    known => known.unwrap_or(Growth::No),
                };
            }
            _ => {
                if reading
                    .effects
                    .contains(Effects::PREPARE.with(Effects::GROWS))
                {
                    names.prepared_somewhere();
                }
                let may_execute = reading.statements == Statements::Several
                    && reading.effects.intersects(Effects::RUNS);
                if may_execute && names.has_any() {
                    growth = Growth::Yes;
                }
            }
        }
        if is_cut && growth == Growth::No {
            growth = Growth::Unseen;
        }
        let pass = self.refuse_or_note(growth, Request::Query, at, outgoing);
        pass.map_or(Ok((!is_cut).then_some(reading)), Err)
    }

    #[cold]
    fn look_at_growing_parse(
        &mut self,
        head: Head,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Result<Option<Reading>, Pass> {
        let Some(there) = text(outgoing.bytes, at, head) else {
            return Err(Pass::Incomplete);
        };
        let parsed = parse::parse(there);
        let is_whole = parsed.is_ok();
        let (name, text) = match parsed {
            Ok(parsed) => (parsed.statement, parsed.query),
            // Too large to be all there, or nothing that PostgreSQL takes.
            Err(_) => match memchr::memchr(0, there) {
                Some(end) => (&there[..end], &there[end + 1..]),
                None => return Ok(None),
            },
        };
        let Some(reading) = self.read(text) else {
            return Ok(None);
        };
        let mut growth = Growth::of(reading.effects);
        if there.len() < head.body && growth == Growth::No {
            growth = Growth::Unseen;
        }
        let names = &mut self.lending.growing;
        let name = prepared::name(name);
        let grows = match &reading.exact {
            // A statement of the protocol that makes or runs one of SQL.
            Some(Exact::Prepare(inside)) => {
                names.prepared(prepared::name(inside.as_bytes()), growth == Growth::Yes);
                growth == Growth::Yes
            }
            Some(Exact::Execute(inside)) => names.has(prepared::name(inside.as_bytes())),
            _ => growth == Growth::Yes,
        };
        if grows {
            growth = Growth::Yes;
        } else if matches!(reading.exact, Some(Exact::Execute(_))) {
            growth = Growth::No;
        }
        if growth.is_refused(self.tenant.storage.get()) {
            let pass = self.refuse(Request::Parse, at, outgoing);
            return pass.map_or(Ok(None), Err);
        }
        let names = &mut self.lending.growing;
        if name.is_empty() {
            names.unnamed = grows;
        } else {
            names.prepared(name, grows);
        }
        Ok(is_whole.then_some(reading))
    }

    #[cold]
    fn look_at_growing_bind(
        &mut self,
        head: Head,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Option<Pass> {
        let there = outgoing.bytes.get(at + HEADER..).unwrap_or_default();
        let there = &there[..there.len().min(head.body)];
        let Some((_, name)) = first_two(there) else {
            let is_enough = there.len() == head.body || there.len() >= NAMES_MAX;
            return (!is_enough).then_some(Pass::Incomplete);
        };
        let name = prepared::name(name);
        let (names, known) = (&self.lending.growing, &self.lending.prepared);
        let effects = match (self.lending.tracks(), name.is_empty()) {
            (false, _) => Effects::NONE,
            (true, true) => known.source.effects,
            (true, false) => known.get(name).map_or(Effects::NONE, |own| own.effects),
        };
        let is_known_to_grow = match name.is_empty() {
            true => names.unnamed,
            false => names.has(name),
        };
        let growth = match is_known_to_grow {
            true => Growth::Yes,
            false => Growth::of(effects),
        };
        // A Parse instead: to the queue, an extended-query message that fails is as good as another.
        self.refuse_or_note(growth, Request::Parse, at, outgoing)
    }

    #[cold]
    fn look_at_growing_call(
        &mut self,
        head: Head,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Option<Pass> {
        let start = at + HEADER;
        let number = outgoing.bytes.get(start..start + 4);
        let Some(number) = number.and_then(|bytes| bytes.try_into().ok()) else {
            return (head.body >= 4).then_some(Pass::Incomplete);
        };
        let number = u32::from_be_bytes(number);
        let growth = if WRITING_FUNCTIONS.contains(&number) {
            Growth::Yes
        } else if number >= FIRST_NORMAL_OID {
            Growth::Unseen
        } else {
            Growth::No
        };
        // As a function call, a simple query has a ReadyForQuery of its own.
        self.refuse_or_note(growth, Request::Query, at, outgoing)
    }

    fn refuse_or_note(
        &mut self,
        growth: Growth,
        instead: Request,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Option<Pass> {
        if growth.is_refused(self.tenant.storage.get()) {
            return self.refuse(instead, at, outgoing);
        }
        // Until it is over, it can be stopped when the database turns out to be full.
        let known = self.handle.growth.get();
        self.handle.growth.set(known.max(growth));
        None
    }

    /// Puts what fails in the place of the message at `at`.
    fn refuse(&mut self, instead: Request, at: usize, outgoing: &mut Outgoing<'_>) -> Option<Pass> {
        let limit = self.tenant.limits().storage_bytes_max?;
        let (server, lending) = (self.server.as_deref_mut()?, &mut self.lending);
        lending.growing.refuse(limit, self.tenant.storage.get());
        let out = outgoing.before(at);
        if instead == Request::Query {
            build::query(NO_SQL, out);
            lending.is_open = false;
            let mut tags = Tags::NONE;
            if lending.tracks() {
                lending.query(Effects::NONE, None);
                if server.statements.unnamed != Theirs::None
                    || lending.prepared.unnamed != Unnamed::None
                {
                    // A simple query drops the unnamed statement, also one that is none.
                    lending.prepared.drop_unnamed(&mut server.statements);
                    tags = Tags::NOTED;
                }
            }
            server.queue.sent_as(Request::Query, tags);
        } else {
            // With a name, so that the unnamed statement stays what it is.
            build::parse(NO_SQL.as_bytes(), NO_SQL.as_bytes(), &[], out);
            lending.is_open = true;
            server.queue.sent(Request::Parse);
        }
        Some(Pass::Refused)
    }
}

/// What the client is told instead of what the server said about [`NO_SQL`].
pub(super) fn translate(
    growing: &Growing,
    code: Option<&str>,
    message: &[u8],
) -> Option<(Exceeded, Cow<'static, str>)> {
    if code != Some(SYNTAX_ERROR) || memchr::memmem::find(message, NO_SQL.as_bytes()).is_none() {
        return None;
    }
    let (exceeded, detail) = growing.refused()?;
    Some((exceeded, detail.into()))
}
