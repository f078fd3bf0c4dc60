//! What is put around a client's message.
//!
//! Owns: the messages of ours, and the record of each. Does not own: when they are needed (`up`).

use std::rc::Rc;

use statement::{Effects, Exact, Lead, Reading, Statements};
use wire::{
    frame::{HEADER, Head},
    message::{Kind, TransactionStatus, build},
    queue::{Request, Tags},
};

use super::{
    LOOKED_INTO_MAX,
    up::{Outgoing, Pass},
};
use crate::{
    hazard::may_set_locally,
    lending::{Lending, mentions_authorization},
    pool::Tenant,
    prepared::{self, Unnamed},
    server::Server,
    state::decides_parsing,
    statements::{Parsed, Statement, Unnamed as Theirs},
};

/// Longest names of a portal and a statement together that are looked for.
pub(super) const NAMES_MAX: usize = 2 * 1024;
/// A name that no statement has.
pub(super) const NOBODYS: &[u8] = b"?";

/// The body of a message, as far as it is wanted.
pub(super) enum Body<'a> {
    Whole(&'a [u8]),
    Incomplete,
    TooLarge,
}

#[inline]
pub(super) fn body(bytes: &[u8], at: usize, head: Head) -> Body<'_> {
    if head.body > LOOKED_INTO_MAX {
        return Body::TooLarge;
    }
    match bytes.get(at + HEADER..at + HEADER + head.body) {
        Some(body) => Body::Whole(body),
        None => Body::Incomplete,
    }
}

/// What is known of a text that is not looked into.
pub(super) fn unknown() -> Reading {
    Reading {
        statements: Statements::Several,
        lead: Lead::Unknown,
        effects: Effects::UNKNOWN,
        exact: None,
        custom: Vec::new(),
    }
}

/// Two texts at the beginning of a body.
#[inline]
pub(super) fn first_two(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = body.iter().position(|byte| *byte == 0)?;
    let rest = &body[first + 1..];
    let second = rest.iter().position(|byte| *byte == 0)?;
    Some((&body[..first], &rest[..second]))
}

/// Queries of ours as messages, on record. `tags` are for the last one.
pub(super) fn say(server: &mut Server, queries: &[String], tags: Tags) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, query) in queries.iter().enumerate() {
        build::query(query, &mut out);
        let is_last = i + 1 == queries.len();
        let tags = if is_last { tags } else { Tags::NONE };
        server.queue.sent_as(Request::Query, Tags::OURS.with(tags));
        server.statements.unnamed = Theirs::None;
    }
    out
}

/// Appends a Parse with this name; `rest` is the body of another one behind its name.
pub(super) fn write_parse(name: &[u8], rest: &[u8], out: &mut Vec<u8>) {
    let length = (4 + name.len() + 1 + rest.len()) as u32;
    out.push(b'P');
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(name);
    out.push(0);
    out.extend_from_slice(rest);
}

/// Passes on a message with another name in it. `of`: where the old one begins.
pub(super) fn rename(
    new: &[u8],
    of: usize,
    old: &[u8],
    head: Head,
    at: usize,
    outgoing: &mut Outgoing<'_>,
) {
    let bytes = outgoing.bytes;
    let length = (4 + head.body - old.len() + new.len()) as u32;
    let out = outgoing.before(at);
    out.push(head.kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&bytes[at + HEADER..of]);
    out.extend_from_slice(new);
    outgoing.leave_out(of + old.len());
}

/// Takes a name on the server, so that what the client says about it meets one.
pub(super) fn occupy(name: &[u8], server: &mut Server, out: &mut Vec<u8>) {
    // It may be there by SQL PREPARE; neither of the two can fail.
    build::close(Kind::Statement, name, out);
    server.queue.sent_as(Request::Close, Tags::OURS);
    build::parse(name, b"", &[], out);
    server.queue.sent_as(Request::Parse, Tags::OURS);
}

/// Frees the names that were taken for a moment.
#[inline]
pub(super) fn free_names(
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
) {
    if server.statements.has_stale() {
        for name in server.statements.write_closes(outgoing.before(at)) {
            lending.prepared.freed(name);
            let tags = Tags::OURS.with(Tags::NOTED);
            server.queue.sent_as(Request::Close, tags);
        }
    }
}

/// Where it is not known what the server connection has, a statement is closed before it is made.
pub(super) fn close_first(name: &[u8], server: &mut Server, out: &mut Vec<u8>) {
    if server.statements.is_unsure {
        build::close(Kind::Statement, name, out);
        server.queue.sent_as(Request::Close, Tags::OURS);
    }
}

/// Has the server have a named statement of the client's.
#[inline]
pub(super) fn ready_named(
    server: &mut Server,
    lending: &mut Lending,
    statement: &Statement,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) {
    // One that lives here alone is here; one of other settings was made when this was taken.
    if server.statements.uses(statement.number)
        || statement.is_private
        || !Rc::ptr_eq(&statement.parsing, lending.wanted.parsing())
    {
        return;
    }
    let out = outgoing.before(at);
    close_first(&statement.name, server, out);
    statement.write_parse(&statement.name, out);
    server.statements.add(statement.number, &tenant.statements);
    lending.prepared.made(statement.number);
    let tags = Tags::OURS.with(Tags::NOTED);
    server.queue.sent_as(Request::Parse, tags);
}

/// Has the server have the client's unnamed statement, or nobody's.
#[inline]
pub(super) fn ready_unnamed(
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
) {
    match lending.prepared.unnamed {
        Unnamed::There => {}
        Unnamed::Kept(serial) if server.statements.unnamed == Theirs::Of(serial) => {}
        Unnamed::Kept(serial) => {
            let out = outgoing.before(at);
            write_parse(b"", &lending.prepared.source.body, out);
            server.statements.unnamed = Theirs::Of(serial);
            lending.prepared.remade();
            let tags = Tags::OURS.with(Tags::NOTED);
            server.queue.sent_as(Request::Parse, tags);
        }
        Unnamed::None if server.statements.unnamed == Theirs::None => {}
        Unnamed::None => {
            build::close(Kind::Statement, b"", outgoing.before(at));
            server.statements.unnamed = Theirs::None;
            server.queue.sent_as(Request::Close, Tags::OURS);
        }
    }
}

/// Before something that reads what sequences said: if they said it to another session, or to this
/// one on another server connection too, the answer must be that nothing was said.
pub(super) fn forget_numbers(
    server: &mut Server,
    lending: &Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
) {
    // In the middle of a transaction it may have been said to this one since.
    if server.is_foreign && lending.cycle.statements == 0 && lending.cycle.binds == 0 {
        let discard = say(server, &["DISCARD SEQUENCES".to_owned()], Tags::NONE);
        outgoing.before(at).extend_from_slice(&discard);
        server.is_foreign = false;
    }
}

/// SQL that names a statement which came by the protocol meets it under its own name.
pub(super) fn name_for_sql(
    exact: &Exact,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    server: &mut Server,
    lending: &mut Lending,
) {
    let (Exact::Deallocate(name) | Exact::Prepare(name) | Exact::Execute(name)) = exact else {
        return;
    };
    let name = prepared::name(name.as_bytes());
    let Some(statement) = lending.prepared.get(name).cloned() else {
        return;
    };
    let out = outgoing.before(at);
    match exact {
        Exact::Execute(_) if !statement.is_private && !lending.is_open => {
            build::close(Kind::Statement, name, out);
            server.queue.sent_as(Request::Close, Tags::OURS);
            statement.write_parse(name, out);
            server.queue.sent_as(Request::Parse, Tags::OURS);
            // Should it fail, what follows is still looked at.
            build::sync(out);
            server.queue.sent_as(Request::Sync, Tags::OURS);
            lending.cycle.effects |= statement.effects;
        }
        Exact::Execute(_) => {}
        _ => occupy(name, server, out),
    }
    server.statements.discard(name);
}

/// Parse of a statement that is too large to be kept: it lives where it is made.
#[cold]
pub(super) fn large_parse(
    server: &mut Server,
    lending: &mut Lending,
    head: Head,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) -> Pass {
    let start = at + HEADER;
    let there = &outgoing.bytes[start..outgoing.bytes.len().min(start + head.body)];
    let Some(end) = there.iter().position(|byte| *byte == 0) else {
        if there.len() < NAMES_MAX {
            return Pass::Incomplete;
        }
        server.queue.sent(Request::Parse);
        return Pass::On;
    };
    let name = &there[..end];
    let key = prepared::name(name);
    if key.is_empty() {
        let source = &mut lending.prepared.source;
        source.effects = Effects::UNKNOWN;
        source.exact = None;
        source.sets_locally = true;
        lending.prepared.unnamed(Unnamed::There);
        server.statements.unnamed = Theirs::Of(tenant.next_serial());
        server.queue.sent_as(Request::Parse, Tags::NOTED);
        return Pass::On;
    }
    if lending.prepared.get(key).is_some() {
        let out = outgoing.before(at);
        occupy(key, server, out);
        server.statements.discard(key);
        server.queue.sent(Request::Parse);
        return Pass::On;
    }
    let statement = tenant.statements.of(Parsed {
        query: b"",
        types: b"",
        parsing: &lending.wanted,
        reading: unknown(),
        is_private: true,
        sets_locally: true,
    });
    rename(&statement.name, start, name, head, at, outgoing);
    server.statements.add(statement.number, &tenant.statements);
    lending.prepared.named(key, statement, true);
    server.queue.sent_as(Request::Parse, Tags::NOTED);
    Pass::On
}

/// Whether a statement may change settings until the end of its transaction, such that the next one
/// is parsed differently.
pub(super) fn sets_locally(
    reading: &Reading,
    text: &[u8],
    server: &Server,
    lending: &Lending,
) -> bool {
    // Alone, it is over when its transaction is.
    let is_alone = server.status == TransactionStatus::Idle
        && lending.cycle.statements == 0
        && lending.cycle.binds == 0
        && reading.statements != Statements::Several
        && reading.lead != Lead::Begin;
    if is_alone {
        return false;
    }
    if reading.lead == Lead::Set && reading.statements == Statements::One {
        let words = text.split(|byte| !(byte.is_ascii_alphanumeric() || b"_.".contains(byte)));
        let mut words = words.filter(|word| !word.is_empty());
        return match (words.next(), words.next(), words.next()) {
            (Some(_), Some(local), Some(name)) if local.eq_ignore_ascii_case(b"local") => {
                let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                decides_parsing(&name)
            }
            _ => true,
        };
    }
    may_set_locally(text) && reading.custom.len() < occurrences(text, b"set_config").max(1)
}

fn occurrences(text: &[u8], word: &[u8]) -> usize {
    text.windows(word.len())
        .filter(|piece| piece.eq_ignore_ascii_case(word))
        .count()
}

/// Whether a text may take away the role or the settings that a session began with.
#[inline]
pub(super) fn may_need_follow_up(text: &[u8]) -> bool {
    let start = text.trim_ascii_start();
    let begins = |word: &[u8]| {
        start
            .get(..word.len())
            .is_some_and(|own| own.eq_ignore_ascii_case(word))
    };
    let may_be_comment = matches!(start.first(), Some(b'-' | b'/' | b';'));
    may_be_comment
        || begins(b"discard")
        || begins(b"reset")
        || begins(b"set")
        || mentions_authorization(text)
}
