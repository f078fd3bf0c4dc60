//! Statements that SQL names.
//!
//! Owns: having a server connection know what came by the protocol by the names that the client gave it, and EXECUTE of it. Does not own:
//! what is made under names of ours (`ready`).

use std::rc::Rc;

use statement::{Effects, Exact, Lead, Reading, Statements};
use wire::{
    frame::{HEADER, Head},
    message::{TransactionStatus, build},
    queue::{Request, Tags},
};

use super::{
    anew::note_use,
    around::{close_first, free_names, occupy, rename, say_in_passing, write_query},
    ready::Readiness,
    up::Outgoing,
};
use crate::{
    elsewhere::around_settings,
    lending::{Lending, Runs},
    pins::Pin,
    pool::Tenant,
    prepared,
    server::Server,
    statements::{Statement, Unnamed as Theirs},
    words::mentions,
};

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
        WayOut::Chain => {
            server.status = TransactionStatus::InTransaction;
            hand_over_names(server, lending, naming, at, outgoing, tenant);
            fail(server, outgoing.before(at));
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
    /// Another one like it begins at once.
    Chain,
    /// It goes on from a savepoint.
    Savepoint,
}

impl WayOut {
    /// Of a statement that begins so. `None`: it does not, or it is not certain.
    fn of(lead: Lead, statement: &[u8]) -> Option<Self> {
        let says = |own: &[u8]| {
            let mut words = statement.split(|byte| !byte.is_ascii_alphanumeric());
            words.any(|word| word.eq_ignore_ascii_case(own))
        };
        match lead {
            _ if says(b"prepared") => None,
            Lead::Rollback if says(b"to") => Some(Self::Savepoint),
            Lead::Rollback | Lead::Commit if says(b"chain") && !says(b"no") => {
                let has_comment = [&b"--"[..], b"/*"]
                    .iter()
                    .any(|own| memchr::memmem::find(statement, own).is_some());
                (!has_comment).then_some(Self::Chain)
            }
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
