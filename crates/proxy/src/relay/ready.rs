//! What a session prepared, made on the server connection before it is used.
//!
//! Owns: when a statement that is not there is made, and what has to be made before other messages. Does not own: the messages (`around`), or
//! statements that are known there by the client's names (`handed`).

use std::rc::Rc;

use statement::Effects;
use wire::{
    frame::{self, HEADER},
    message::{Kind, TransactionStatus, build, parse},
    queue::{Request, Tags},
};

use super::{
    anew::{hand_over_outdated, note_use, ready_discard},
    around::{close_first, first_two, say_in_passing, write_parse},
    up::{Outgoing, Pass},
};
use crate::{
    elsewhere::around_settings,
    hazard::Hazard,
    lending::Lending,
    pool::Tenant,
    prepared::{self, Unnamed},
    server::Server,
    statements::{Statement, Unnamed as Theirs},
};

/// Whether a statement is on the server when the client's message comes to it.
pub(super) enum Readiness {
    Ready,
    /// To be asked again when everything before it is answered.
    Waits,
}

/// Has the server have a named statement of the client's.
#[inline]
pub(super) fn ready_named(
    server: &mut Server,
    lending: &mut Lending,
    (name, statement): (&[u8], &Statement),
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) -> Readiness {
    note_use(server, lending, name, statement);
    // One that lives here alone is here.
    if server.statements.uses(statement.number) || statement.is_private {
        if server.statements.was_refused(statement.number) {
            say_refusal(server, statement, outgoing.before(at));
        }
        return Readiness::Ready;
    }
    // There it is not read anew, and cannot be made. What has no result may still be described.
    if server.status == TransactionStatus::Failed && server.statements.may_have(statement.number) {
        return Readiness::Ready;
    }
    let is_as_wanted = Rc::ptr_eq(&statement.parsing, lending.wanted.parsing());
    // Another role may see other tables, or may not use their schemas.
    let is_by_another = server.status == TransactionStatus::InTransaction
        && lending.may_be_another()
        && statement
            .effects
            .intersects(Effects::UNSEEN.with(Effects::RUNS));
    // What could not be handed over names what is gone, so PostgreSQL would read it anew now as well.
    let is_settled = lending.has_own_names || lending.is_settled(tenant);
    if is_as_wanted && !is_by_another && is_settled {
        make_named(server, lending, statement, outgoing.before(at), tenant);
        return Readiness::Ready;
    }
    if !server.queue.has_none() {
        return Readiness::Waits;
    }
    match server.status {
        // Refused, as the client's own message would be.
        TransactionStatus::Failed => {
            make_named(server, lending, statement, outgoing.before(at), tenant);
        }
        TransactionStatus::InTransaction => {
            let out = outgoing.before(at);
            let (there, back) = around_settings(server, lending, statement, false);
            say_in_passing(server, &there, Tags::NONE, out);
            make_named(server, lending, statement, out, tenant);
            say_in_passing(server, &back, Tags::NONE, out);
        }
        // In a transaction that nobody began and a query of ours would end; between transactions,
        // all of other settings were made when this server connection was taken. If it is not there
        // for all that, the server says so, and the client what it can do about it.
        TransactionStatus::Idle => {}
    }
    Readiness::Ready
}

/// Has the server say once more why it did not take a statement, in the place of the client's message that names it.
/// Should it take it by now, under other settings than were meant, it is not used.
#[cold]
fn say_refusal(server: &mut Server, statement: &Statement, out: &mut Vec<u8>) {
    let name = server.passing_name();
    statement.write_parse(&name, out);
    build::close(Kind::Statement, &name, out);
    server.queue.sent_as(Request::Parse, Tags::OURS);
    server.queue.sent_as(Request::Close, Tags::OURS);
}

/// Most statements that are made before they are asked for. With more of them missing, those that are
/// named by what was read already.
const READY_MAX: usize = 64;

/// The first extended-query message behind a Sync. Where definitions may change settings in the middle
/// of what follows, nothing could be prepared there, so what is missing is made before.
#[inline]
pub(super) fn begin(
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) -> Readiness {
    let is_first = !lending.is_open;
    lending.is_open = true;
    if !is_first || !lending.tracks() {
        return Readiness::Ready;
    }
    lending.open_hazard = tenant.known().hazard;
    if lending.prepared.has_names()
        && let Readiness::Waits = ready_discard(server, lending, at, outgoing, tenant)
    {
        return Readiness::Waits;
    }
    if lending.open_hazard == Hazard::None || server.status != TransactionStatus::Idle {
        return Readiness::Ready;
    }
    let readied = (
        server.number,
        server.statements.losses,
        lending.prepared.gains,
    );
    let named = if lending.prepared.has_names() && lending.readied != readied {
        missing(server, lending, outgoing.bytes, at)
    } else {
        Vec::new()
    };
    let unnamed = missing_unnamed(server, lending, outgoing.bytes, at);
    if !server.queue.are_ours() && (unnamed.is_some() || !named.is_empty()) {
        return Readiness::Waits;
    }
    if !lending.is_settled_under(Hazard::Unknown) {
        return Readiness::Ready;
    }
    make_before(named, server, lending, at, outgoing, tenant);
    make_unnamed_before(unnamed, server, lending, at, outgoing);
    lending.prepared.segment();
    lending.readied = (
        server.number,
        server.statements.losses,
        lending.prepared.gains,
    );
    Readiness::Ready
}

/// Makes statements before what the client says next. What they name may be gone; that is for whoever
/// binds them.
#[cold]
fn make_before(
    named: Vec<Rc<Statement>>,
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) {
    let tags = Tags::OURS.with(Tags::NOTED).with(Tags::TURNED);
    for statement in named {
        if server.statements.contains(statement.number) {
            continue; // Under two names.
        }
        let out = outgoing.before(at);
        close_first(&statement.name, server, out);
        statement.write_parse(&statement.name, out);
        build::sync(out);
        server.statements.add(statement.number, &tenant.statements);
        lending.prepared.made(statement.number);
        server.queue.sent_as(Request::Parse, tags);
        server.queue.sent_as(Request::Sync, Tags::OURS);
    }
}

/// The same with the unnamed statement.
fn make_unnamed_before(
    serial: Option<u64>,
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
) {
    let Some(serial) = serial else {
        return;
    };
    let out = outgoing.before(at);
    write_parse(b"", &lending.prepared.source.body, out);
    build::sync(out);
    lending
        .prepared
        .remade(Theirs::Of(serial), &mut server.statements);
    let tags = Tags::OURS.with(Tags::NOTED).with(Tags::TURNED);
    server.queue.sent_as(Request::Parse, tags);
    server.queue.sent_as(Request::Sync, Tags::OURS);
}

/// The client's unnamed statement, if it can be made now, is not there, and is not made anew by the message at `at`.
fn missing_unnamed(server: &Server, lending: &Lending, bytes: &[u8], at: usize) -> Option<u64> {
    let is_parse = bytes.get(at) == Some(&b'P') && bytes.get(at + HEADER) == Some(&0);
    match lending.prepared.unnamed {
        Unnamed::Kept(serial) if server.statements.unnamed != Theirs::Of(serial) => {
            let wanted = lending.wanted.parsing();
            let is_wanted = !is_parse && lending.prepared.is_unnamed_as_under(wanted);
            is_wanted.then_some(serial)
        }
        _ => None,
    }
}

/// Before a message that changes the role, and that nothing of an open pipeline comes before: whoever the session is
/// then may not see what its statements name.
#[cold]
pub(super) fn ready_before_role(
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) -> Readiness {
    if lending.may_be_another() {
        return Readiness::Ready;
    }
    if lending.has_outdated() && server.status != TransactionStatus::Failed {
        if !server.queue.has_none() {
            return Readiness::Waits;
        }
        hand_over_outdated(server, lending, at, outgoing, tenant);
    } else if server.status == TransactionStatus::Idle
        && server.queue.are_ours()
        && lending.is_settled(tenant)
    {
        let named = missing(server, lending, outgoing.bytes, at);
        make_before(named, server, lending, at, outgoing, tenant);
    }
    Readiness::Ready
}

/// Before a Describe that nothing of an open pipeline comes before. Unlike that, making the statement takes a snapshot, behind
/// which a transaction can no longer be told how isolated it is to be. So it is made in a transaction of its own.
#[inline]
pub(super) fn ready_alone(
    server: &mut Server,
    lending: &mut Lending,
    name: &[u8],
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) -> Option<Pass> {
    let statement = lending.prepared.get(name).cloned()?;
    if !is_missing(&statement, server, lending) || !lending.is_settled(tenant) {
        return None;
    }
    if !server.queue.are_ours() {
        return Some(Pass::Waits);
    }
    if server.status != TransactionStatus::Idle {
        return None;
    }
    make_before(vec![statement], server, lending, at, outgoing, tenant);
    // The server connection is kept until then.
    Some(Pass::Asked)
}

/// Named statements that can be made now and are not there. `bytes` from `at` on: what comes next.
fn missing(server: &Server, lending: &Lending, bytes: &[u8], at: usize) -> Vec<Rc<Statement>> {
    let all = lending.prepared.statements();
    let all = all.filter(|statement| is_missing(statement, server, lending));
    let all: Vec<_> = all.take(READY_MAX + 1).cloned().collect();
    if all.len() <= READY_MAX {
        return all;
    }
    missing_next(server, lending, bytes, at)
}

fn is_missing(statement: &Statement, server: &Server, lending: &Lending) -> bool {
    !statement.is_private
        && Rc::ptr_eq(&statement.parsing, lending.wanted.parsing())
        && !server.statements.contains(statement.number)
}

/// Of them, those that the messages from `at` on name.
fn missing_next(server: &Server, lending: &Lending, bytes: &[u8], at: usize) -> Vec<Rc<Statement>> {
    let named = named_next(bytes, at).into_iter();
    let named = named.filter_map(|name| lending.prepared.get(prepared::name(name)));
    let missing = named.filter(|statement| is_missing(statement, server, lending));
    missing.cloned().collect()
}

/// Statements that the messages from `at` to the next Sync name, as far as they were read.
#[cold]
fn named_next(bytes: &[u8], mut at: usize) -> Vec<&[u8]> {
    let mut names = Vec::new();
    while let Some(rest) = bytes.get(at..)
        && let Ok(Some(head)) = frame::head(rest)
        && let Some(body) = rest.get(HEADER..HEADER + head.body)
        && !matches!(head.kind, b'S' | b'Q')
        && names.len() < READY_MAX
    {
        match head.kind {
            b'B' => names.extend(first_two(body).map(|(_, name)| name)),
            b'D' => {
                if let Ok((Kind::Statement, name)) = parse::target(body) {
                    names.push(name);
                }
            }
            _ => {}
        }
        at += HEADER + head.body;
    }
    names
}

/// Makes what is missing before the first message of a transaction that nobody began, behind which it could not be
/// made.
#[cold]
pub(super) fn ready_before(
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) -> Readiness {
    if server.status != TransactionStatus::Idle || !lending.is_settled(tenant) {
        return Readiness::Ready;
    }
    let named = missing(server, lending, outgoing.bytes, at);
    let unnamed = missing_unnamed(server, lending, outgoing.bytes, at);
    if named.is_empty() && unnamed.is_none() {
        return Readiness::Ready;
    }
    if !server.queue.are_ours() {
        return Readiness::Waits;
    }
    make_before(named, server, lending, at, outgoing, tenant);
    make_unnamed_before(unnamed, server, lending, at, outgoing);
    lending.prepared.segment();
    Readiness::Ready
}

/// Makes what is missing before a message behind which it could not be made: in a transaction that nobody began,
/// and where others came before it. Only what is named behind it: what cannot be made is told to whoever names it.
#[cold]
pub(super) fn ready_all(
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) {
    if server.status != TransactionStatus::Idle || !lending.is_settled(tenant) {
        return;
    }
    for statement in missing_next(server, lending, outgoing.bytes, at) {
        if server.statements.contains(statement.number) {
            continue; // Under two names.
        }
        make_named(server, lending, &statement, outgoing.before(at), tenant);
    }
}

fn make_named(
    server: &mut Server,
    lending: &mut Lending,
    statement: &Statement,
    out: &mut Vec<u8>,
    tenant: &Tenant,
) {
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
    tenant: &Tenant,
) -> Readiness {
    let serial = match lending.prepared.unnamed {
        Unnamed::There => return Readiness::Ready,
        Unnamed::Kept(serial) if server.statements.unnamed == Theirs::Of(serial) => {
            return Readiness::Ready;
        }
        Unnamed::None if server.statements.unnamed == Theirs::None => return Readiness::Ready,
        Unnamed::Kept(serial) => Some(serial),
        Unnamed::None => None,
    };
    let source = &lending.prepared.source;
    let is_as_wanted = lending
        .prepared
        .is_unnamed_as_under(lending.wanted.parsing());
    let is_settled = lending.prepared.is_unnamed_everywhere() || lending.is_settled(tenant);
    if serial.is_some() && !is_settled && !server.queue.has_none() {
        return Readiness::Waits;
    }
    match serial {
        Some(serial)
            if is_as_wanted && is_settled || server.status == TransactionStatus::Failed =>
        {
            let out = outgoing.before(at);
            write_parse(b"", &source.body, out);
            lending
                .prepared
                .remade(Theirs::Of(serial), &mut server.statements);
            let tags = Tags::OURS.with(Tags::NOTED);
            server.queue.sent_as(Request::Parse, tags);
        }
        // Under the settings of now it would be another statement: better none than that.
        Some(_) | None => {
            lending.cycle.misses_unnamed |= serial.is_some();
            build::close(Kind::Statement, b"", outgoing.before(at));
            lending
                .prepared
                .remade(Theirs::None, &mut server.statements);
            let tags = Tags::OURS.with(Tags::NOTED);
            server.queue.sent_as(Request::Close, tags);
        }
    }
    Readiness::Ready
}
