//! What is put around a client's message.
//!
//! Owns: the messages of ours, and the record of each. Does not own: when they are needed (`up`).

use std::rc::Rc;

use statement::{Effects, Exact, Lead, Reading, Statements};
use wire::{
    frame::{self, HEADER, Head},
    message::{Kind, TransactionStatus, build, parse},
    queue::{Request, Tags},
};

use super::{
    LOOKED_INTO_MAX,
    anew::{hand_over_outdated, note_use, ready_discard},
    up::{Outgoing, Pass},
};
use crate::{
    elsewhere::around_settings,
    hazard::{Hazard, may_set_locally},
    lending::{Lending, Runs, mentions_authorization, mentions_reset},
    pins::Pin,
    pool::Tenant,
    prepared::{self, Sent, Source, Unnamed},
    server::Server,
    statements::{Statement, Unnamed as Theirs},
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

/// Whether a text may use or change statements by their names in another way than as its only
/// statement.
pub(super) fn names_statements(reading: &Reading, text: &[u8]) -> bool {
    const WORDS: [&[u8]; 3] = [b"prepare", b"deallocate", b"execute"];
    let named = Effects::PREPARE
        .with(Effects::DEALLOCATE)
        .with(Effects::RUNS);
    // What a block does is not seen here.
    let is_block =
        reading.statements == Statements::One && matches!(reading.lead, Lead::Do | Lead::Call);
    reading.exact.is_none()
        && !is_block
        && reading.effects.intersects(named)
        && WORDS.iter().any(|word| mentions(text, word))
}

/// A text whose SQL uses or changes statements by their names.
pub(super) struct Naming<'a> {
    pub(super) text: &'a [u8],
    /// Names that it uses without saying so.
    pub(super) unsaid: &'a [Box<[u8]>],
    /// It may take away any of them, whether it names them or not.
    pub(super) takes_away: bool,
    /// An extended-query message of the client's comes before the Sync.
    pub(super) is_between: bool,
}

impl<'a> Naming<'a> {
    /// Where it is not a text that uses or takes away all of them.
    pub(super) fn all(is_between: bool) -> Self {
        Self {
            text: b"",
            unsaid: &[],
            takes_away: true,
            is_between,
        }
    }

    /// Where it is not a text that uses these, between two flights.
    pub(super) fn of(names: &'a [Box<[u8]>]) -> Self {
        Self {
            text: b"",
            unsaid: names,
            takes_away: false,
            is_between: false,
        }
    }

    /// Whether it may write a name (`U&"\0061"`) as something else than what it is.
    fn has_escapes(&self) -> bool {
        mentions(self.text, b"u&")
    }

    /// Whether it may name this one, by what it is.
    fn may_name(&self, name: &[u8]) -> bool {
        // Otherwise a name can be written in more ways than one.
        let is_plain = name.is_ascii() && !name.contains(&b'"');
        !is_plain || self.unsaid.iter().any(|own| **own == *name) || mentions(self.text, name)
    }
}

/// Has the server know named statements by the client's own names, for the rest of the session: SQL
/// is about to use them in a way that cannot be followed. Everything before is answered, and no
/// transaction failed.
#[cold]
pub(super) fn hand_over_names(
    server: &mut Server,
    lending: &mut Lending,
    naming: &Naming<'_>,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) {
    free_names(server, lending, at, outgoing);
    let out = outgoing.before(at);
    let is_settled = lending.is_settled(tenant);
    let wanted = lending.wanted.clone();
    let is_as_wanted = |own: &Statement| is_settled && Rc::ptr_eq(&own.parsing, wanted.parsing());
    let is_idle = server.status == TransactionStatus::Idle;
    let is_alone = naming.is_between && is_idle;
    // One that is there and stays there is found by the name it has.
    let statements = &server.statements;
    let are_all_needed = naming.takes_away || naming.has_escapes();
    let (own, told) = lending.prepared.hand_over(|name, own| {
        let is_needed = are_all_needed || !statements.contains(own.number) || naming.may_name(name);
        is_needed && (!is_alone || is_as_wanted(own))
    });
    let was_by_login = lending.may_be_another_locally() && !is_alone;
    for (name, statement) in own.iter().chain(&told) {
        // What is run behind it is still known by its name.
        let runs = statement.exact.clone().map(Runs::Exactly);
        let runs = runs.filter(|runs| lending.heeds_handed_over(runs));
        lending.prepares(name, runs);
    }
    for (name, statement) in told {
        let is_now = is_as_wanted(&statement) && !was_by_login;
        // A transaction of the client's must not fail because of what is not there any more.
        let is_around = !is_now || !(is_idle || naming.is_between);
        let (there, back) = around_settings(server, lending, &statement, is_now);
        // Between messages of the client's, an error is told in the place of the one behind it. Otherwise
        // what the statement names may be gone; that is for whoever uses it.
        let kept_back = if naming.is_between {
            Tags::NONE
        } else {
            Tags::TURNED
        };
        let end = |server: &mut Server, out: &mut Vec<u8>| {
            if !naming.is_between {
                build::sync(out);
                server.queue.sent_as(Request::Sync, Tags::OURS);
            }
        };
        if is_around {
            say_in_passing(server, &there, kept_back, out);
        }
        statement.write_parse(&name, out);
        let tags = Tags::OURS.with(Tags::NOTED).with(kept_back);
        server.queue.sent_as(Request::Parse, tags);
        end(server, out);
        if is_around {
            say_in_passing(server, &back, kept_back, out);
            end(server, out);
        }
        lending.prepared.told(name, statement);
    }
    if !naming.is_between {
        lending.prepared.segment();
    }
    lending.has_own_names = true;
    lending.sticky.add(Pin::Prepare);
}

/// A savepoint that no client has.
const NO_SAVEPOINT: &str = "_tenantry_none";

/// The same where the transaction failed, in which nothing can be prepared, and the text leads out of it by its first
/// statement. We lead out of it before, and have it fail again, so that the text finds it as it was. One thing
/// may be different then: where the text as a whole is no SQL, a transaction that it would have ended goes on
/// without its savepoints and what it had set.
#[cold]
pub(super) fn hand_over_behind_failure(
    server: &mut Server,
    lending: &mut Lending,
    naming: &Naming<'_>,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) -> Readiness {
    if std::mem::take(&mut lending.is_led_out) {
        return Readiness::Ready; // There is no such savepoint.
    }
    let pieces = statement::split(naming.text, server.context);
    let first = pieces.and_then(|pieces| naming.text.get(pieces.first()?.clone()));
    let Some((first, way_out)) = first.and_then(|first| {
        let lead = statement::read(first, server.context).lead;
        Some((first, WayOut::of(lead, first)?))
    }) else {
        return Readiness::Ready;
    };
    let out = outgoing.before(at);
    write_query(first, out);
    server.queue.sent_as(Request::Query, Tags::OURS);
    server.statements.unnamed = Theirs::None;
    match way_out {
        WayOut::Savepoint => {
            lending.is_led_out = true;
            return Readiness::Waits;
        }
        WayOut::End => {
            // As it is when the server comes to what follows.
            server.status = TransactionStatus::Idle;
            hand_over_names(server, lending, naming, at, outgoing, tenant);
            let out = outgoing.before(at);
            build::query("BEGIN", out);
            server.queue.sent_as(Request::Query, Tags::OURS);
            fail(server, out);
        }
    }
    Readiness::Ready
}

/// Has the transaction fail.
pub(super) fn fail(server: &mut Server, out: &mut Vec<u8>) {
    build::query(&format!("ROLLBACK TO SAVEPOINT {NO_SAVEPOINT}"), out);
    server.queue.sent_as(Request::Query, Tags::OURS);
    server.status = TransactionStatus::Failed;
}

/// How a statement leads out of a transaction that failed.
#[derive(Clone, Copy, Eq, PartialEq)]
enum WayOut {
    /// It is over.
    End,
    /// It goes on from a savepoint.
    Savepoint,
}

impl WayOut {
    /// Of a statement that begins so. `None`: it does not, or begins another transaction at once.
    fn of(lead: Lead, statement: &[u8]) -> Option<Self> {
        let says = |own: &[u8]| {
            let mut words = statement.split(|byte| !byte.is_ascii_alphanumeric());
            words.any(|word| word.eq_ignore_ascii_case(own))
        };
        match lead {
            _ if says(b"chain") || says(b"prepared") => None,
            Lead::Rollback if says(b"to") => Some(Self::Savepoint),
            Lead::Rollback | Lead::Commit => Some(Self::End),
            _ => None,
        }
    }
}

/// SQL that names a statement which came by the protocol meets one of its own name.
pub(super) fn name_for_sql(
    exact: &Exact,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    server: &mut Server,
    lending: &mut Lending,
) {
    let (Exact::Deallocate(name) | Exact::Prepare(name)) = exact else {
        return;
    };
    let name = prepared::name(name.as_bytes());
    let is_elsewhere = |statement: &Rc<Statement>| !statement.has_own_name;
    if lending.prepared.get(name).is_some_and(is_elsewhere) {
        occupy(name, server, lending, outgoing.before(at));
    }
}

/// EXECUTE of a statement which came by the protocol: has the server have it, and says its name there.
/// Returns what it does, or `None` when that cannot be done. Everything before is answered.
#[cold]
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a message, and of a session"
)]
pub(super) fn execute_by_sql(
    name: &str,
    text: &[u8],
    head: Head,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    server: &mut Server,
    lending: &mut Lending,
    tenant: &Tenant,
) -> Option<Effects> {
    let key = prepared::name(name.as_bytes());
    lending.uses(key, tenant);
    let Some(statement) = lending.prepared.get(key).cloned() else {
        return Some(Effects::NONE);
    };
    let is_failed = server.status == TransactionStatus::Failed;
    // As most write it: the word, and the name behind it as it is.
    let written = text.get(..b"execute ".len()).and_then(|word| {
        let rest = &text[word.len()..];
        let is_so = word.eq_ignore_ascii_case(b"execute ")
            && rest
                .get(..name.len())
                .is_some_and(|own| own.eq_ignore_ascii_case(name.as_bytes()))
            && rest
                .get(name.len())
                .is_none_or(|next| !(next.is_ascii_alphanumeric() || b"_$\"".contains(next)));
        is_so.then(|| &rest[..name.len()])
    });
    let Some(written) = written else {
        return is_failed.then_some(statement.effects);
    };
    note_use(server, lending, key, &statement);
    let is_there = server.statements.uses(statement.number) || statement.is_private;
    if !is_there && !is_failed {
        let is_as_wanted = Rc::ptr_eq(&statement.parsing, lending.wanted.parsing());
        if !is_as_wanted || !lending.is_settled(tenant) || lending.is_open {
            return None;
        }
        let out = outgoing.before(at);
        close_first(&statement.name, server, out);
        statement.write_parse(&statement.name, out);
        build::sync(out);
        server.statements.add(statement.number, &tenant.statements);
        lending.prepared.made(statement.number);
        // Should it fail, EXECUTE does too, and that is for the client.
        let tags = Tags::OURS.with(Tags::NOTED).with(Tags::TURNED);
        server.queue.sent_as(Request::Parse, tags);
        server.queue.sent_as(Request::Sync, Tags::OURS);
    }
    let of = at + HEADER + b"execute ".len();
    rename(&statement.name, of, written, head, at, outgoing);
    Some(statement.effects)
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
