//! What is put around a client's message.
//!
//! Owns: the messages of ours, and the record of each. Does not own: when they are needed (`up`).

use statement::{Effects, Lead, Reading, Statements};
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
    lending::{Lending, mentions_authorization, mentions_reset},
    pool::Tenant,
    prepared::{self, Sent, Source, Unnamed},
    server::Server,
    statements::Unnamed as Theirs,
    words::mentions,
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

/// Statements of ours inside a transaction, as messages, on record: the client's unnamed statement and
/// portal stay as they are, which a simple query would drop.
pub(super) fn say_in_passing(
    server: &mut Server,
    statements: &[String],
    tags: Tags,
    out: &mut Vec<u8>,
) {
    let name = server.passing_name();
    for statement in statements {
        build::parse(&name, statement.as_bytes(), &[], out);
        build::bind_nothing(&name, &name, out);
        build::execute(&name, 0, out);
        build::close(Kind::Portal, &name, out);
        build::close(Kind::Statement, &name, out);
        for request in [
            Request::Parse,
            Request::Bind,
            Request::Execute,
            Request::Close,
            Request::Close,
        ] {
            server.queue.sent_as(request, Tags::OURS.with(tags));
        }
    }
}

/// The same in a transaction of its own, in the middle of a pipeline where no other is open.
pub(super) fn say_apart(server: &mut Server, statements: &[String], out: &mut Vec<u8>) {
    say_in_passing(server, statements, Tags::NONE, out);
    build::sync(out);
    server.queue.sent_as(Request::Sync, Tags::OURS);
}

/// The same behind a Sync, as part of it to the client.
pub(super) fn say_behind_sync(server: &mut Server, statements: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    say_in_passing(server, statements, Tags::TURNED, &mut out);
    build::sync(&mut out);
    let tags = Tags::OURS.with(Tags::TURNED);
    server.queue.sent_as(Request::Sync, tags);
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

/// Appends a simple query, in whichever encoding.
pub(super) fn write_query(text: &[u8], out: &mut Vec<u8>) {
    let length = (4 + text.len() + 1) as u32;
    out.push(b'Q');
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text);
    out.push(0);
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
pub(super) fn occupy(name: &[u8], server: &mut Server, lending: &mut Lending, out: &mut Vec<u8>) {
    // Neither of the two can fail.
    build::close(Kind::Statement, name, out);
    server.queue.sent_as(Request::Close, Tags::OURS);
    build::parse(name, b"", &[], out);
    lending.prepared.occupied(name);
    let tags = Tags::OURS.with(Tags::NOTED);
    server.queue.sent_as(Request::Parse, tags);
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
        let source = Source {
            effects: Effects::UNKNOWN,
            sets_locally: true,
            ..Source::default()
        };
        let serial = tenant.next_serial();
        lending
            .prepared
            .unnamed(Unnamed::There, source, serial, &mut server.statements);
        server.queue.sent_as(Request::Parse, Tags::NOTED);
        return Pass::On;
    }
    if let Some(statement) = lending.prepared.get(key)
        && !(lending.has_own_names && statement.has_own_name)
    {
        if !statement.has_own_name {
            occupy(key, server, lending, outgoing.before(at));
        }
        server.queue.sent(Request::Parse);
        return Pass::On;
    }
    free_names(server, lending, at, outgoing);
    let statement = tenant.statements.of_own_name(key, unknown(), true);
    lending.prepared.named(key, statement, Sent::PARSE);
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
    !is_alone && may_set_locally(text)
}

/// Whether a text may change the role, also to the end of its transaction.
pub(super) fn changes_role(effects: Effects, text: &[u8]) -> bool {
    effects.intersects(Effects::ROLE) || mentions(text, b"role") && may_set_locally(text)
}

/// Whether a text says DEALLOCATE ALL.
pub(super) fn deallocates_all(text: &[u8]) -> bool {
    let words = text.split(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'));
    let mut words = words.filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if word.eq_ignore_ascii_case(b"deallocate") {
            let mut next = words.next();
            if next.is_some_and(|word| word.eq_ignore_ascii_case(b"prepare")) {
                next = words.next();
            }
            if next.is_some_and(|word| word.eq_ignore_ascii_case(b"all")) {
                return true;
            }
        }
    }
    false
}

/// Whether a text may take away the role or the settings that a session began with.
#[inline]
pub(super) fn may_need_follow_up(text: &[u8], lending: &Lending) -> bool {
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
        || (!lending.base.is_empty() && mentions_reset(text))
}
