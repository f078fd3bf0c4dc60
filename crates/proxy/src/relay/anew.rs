//! Statements that PostgreSQL reads or analyses anew, and what has to be true of a server connection then.
//!
//! Owns: when a session's statements are handed over for it, and how they are made as they were on another server
//! connection. Does not own: handing over (`around`), or what is known of where a statement was used (`prepared`).

use model::route::PoolMode;
use statement::{Effects, Exact, Reading};
use wire::{
    frame::{self, HEADER},
    message::{Kind, TransactionStatus, build, parse},
    queue::{Request, Tags},
};

use super::{
    around::{first_two, say_in_passing},
    cursors::may_fetch,
    handed::{Naming, hand_over_names},
    ready::Readiness,
    up::Outgoing,
};
use crate::{
    ask, elsewhere::around, lending::Lending, pool::Tenant, prepared, server::Server,
    statements::Statement, words::mentions,
};

/// Takes note of where a named statement is used.
#[inline]
pub(super) fn note_use(
    server: &mut Server,
    lending: &mut Lending,
    name: &[u8],
    statement: &Statement,
) {
    if statement.is_private {
        return;
    }
    if lending.changes(statement) {
        server.statements.change(statement.number);
        lending.uses_elsewhere(name, statement);
    } else {
        lending.prepared.used_at_home(name);
    }
}

/// Whether a text discards plans. What PostgreSQL keeps of a statement then, how its text was read and what it returns,
/// is nowhere but where the statement is.
pub(super) fn discards_plans(reading: &Reading, text: &[u8]) -> bool {
    match reading.exact {
        Some(Exact::DiscardPlans) => true,
        Some(_) => false,
        None => reading.effects.intersects(Effects::DISCARD) && mentions(text, b"plans"),
    }
}

/// Before the first message of a pipeline: where plans are discarded in the middle of it, what was prepared under other
/// settings could not be handed over any more, and what cannot be made would end the pipeline.
#[inline]
pub(super) fn ready_discard(
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) -> Readiness {
    if lending.mode != PoolMode::Auto
        || server.status == TransactionStatus::Failed
        || !discards_plans_next(outgoing.bytes, at, server, lending)
    {
        return Readiness::Ready;
    }
    if !server.queue.has_none() {
        return Readiness::Waits;
    }
    hand_over_names(server, lending, &Naming::all(false), at, outgoing, tenant);
    Readiness::Ready
}

/// Whether the messages behind the one at `at`, to the next Sync, discard plans, as far as they were read.
fn discards_plans_next(bytes: &[u8], mut at: usize, server: &Server, lending: &Lending) -> bool {
    if let Some(rest) = bytes.get(at..)
        && let Ok(Some(first)) = frame::head(rest)
    {
        at += HEADER + first.body;
    }
    while let Some(rest) = bytes.get(at..)
        && let Ok(Some(head)) = frame::head(rest)
        && let Some(body) = rest.get(HEADER..HEADER + head.body)
        && !matches!(head.kind, b'S' | b'Q')
    {
        let discards = match head.kind {
            b'P' => parse::parse(body).is_ok_and(|parsed| {
                let text = parsed.query;
                mentions(text, b"plans")
                    && discards_plans(&statement::read(text, lending.context(server)), text)
            }),
            b'B' if lending.prepared.has_discarding() => {
                first_two(body).is_some_and(|(_, name)| {
                    lending.prepared.exact(prepared::name(name)) == Some(&Exact::DiscardPlans)
                })
            }
            _ => false,
        };
        if discards {
            return true;
        }
        at += HEADER + head.body;
    }
    false
}

/// Before the first message of a pipeline that uses what PostgreSQL analyses anew now, since there are temporary objects.
#[cold]
pub(super) fn ready_outdated(
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) -> Readiness {
    if server.status == TransactionStatus::Failed || lending.has_own_names {
        return Readiness::Ready;
    }
    if !server.queue.has_none() {
        return Readiness::Waits;
    }
    hand_over_outdated(server, lending, at, outgoing, tenant);
    Readiness::Ready
}

/// Hands over what was prepared before there were temporary objects, and not used since. PostgreSQL has a reason to
/// analyse it anew when it is used next: their schema is in the `search_path` now. Where it is made only now,
/// the server connection has such a schema already, so it is given another reason.
#[cold]
pub(super) fn hand_over_outdated(
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) {
    let names = lending.prepared.take_before_temporary();
    let parameters = names.iter().filter_map(|name| {
        let own = lending.prepared.get(name)?;
        may_be_analysed(own).then(|| (name.clone(), own.parameters()))
    });
    let named: Vec<_> = parameters.collect();
    hand_over_names(server, lending, &Naming::of(&names), at, outgoing, tenant);
    let reason = if lending.prepared.has_had_temporary() {
        ask::longer_path()
    } else {
        ask::longer_path_if_temporary()
    };
    analyse(server, &named, Some(reason), outgoing.before(at));
}

/// Before a message behind which constants may be read otherwise, and that nothing of an open pipeline comes before:
/// hands over what PostgreSQL has analysed anew since it was prepared, as it is.
#[cold]
pub(super) fn hand_over_elsewhere(
    server: &mut Server,
    lending: &mut Lending,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) -> Readiness {
    if server.status == TransactionStatus::Failed {
        return Readiness::Ready; // It is refused, or ends the transaction first.
    }
    if !server.queue.has_none() {
        return Readiness::Waits;
    }
    let named = lending.prepared.take_elsewhere();
    let names: Vec<_> = named.iter().map(|(name, _)| name.clone()).collect();
    hand_over_names(server, lending, &Naming::of(&names), at, outgoing, tenant);
    for (name, statement) in named.into_iter().filter(|(_, own)| may_be_analysed(own)) {
        // What came back is analysed once more when it is used next, under the settings of then.
        let is_back = !lending.changes(&statement);
        let reason = is_back.then(ask::longer_path);
        let parameters = statement.parameters();
        analyse(server, &[(name, parameters)], reason, outgoing.before(at));
    }
    Readiness::Ready
}

/// Whether a server may be asked about it: not about what fetches from a cursor that may be gone (`cursors`). Of those whose
/// text is not kept, such a one has no effects.
fn may_be_analysed(statement: &Statement) -> bool {
    if statement.has_own_name {
        !statement.effects.is_empty()
    } else {
        !may_fetch(&statement.query)
    }
}

/// Has PostgreSQL analyse statements that the server connection knows by these names and that have so many parameters,
/// behind `reason`. Nothing is left of that. What returns nothing is analysed for a Bind only.
fn analyse(
    server: &mut Server,
    names: &[(Box<[u8]>, u16)],
    reason: Option<String>,
    out: &mut Vec<u8>,
) {
    let (mut there, back) = around(server);
    there.extend(reason);
    say_in_passing(server, &there, Tags::TURNED, out);
    let tags = Tags::OURS.with(Tags::TURNED);
    // One of its own: where planning fails, it is there to the end of the transaction.
    let portal = [&server.passing_name()[..], b"p"].concat();
    for (name, parameters) in names {
        build::describe(Kind::Statement, name, out);
        build::bind_nulls(&portal, name, *parameters, out);
        build::close(Kind::Portal, &portal, out);
        for request in [Request::DescribeStatement, Request::Bind, Request::Close] {
            server.queue.sent_as(request, tags);
        }
    }
    build::sync(out);
    server.queue.sent_as(Request::Sync, Tags::OURS);
    say_in_passing(server, &back, Tags::TURNED, out);
    build::sync(out);
    server.queue.sent_as(Request::Sync, Tags::OURS);
}
