//! Statements whose columns are no longer those that their client was told of.
//!
//! Owns: asking a server connection what a statement returns there before it is used, and the error in its place where
//! that is something else. Does not own: what was told (`prepared`), or what is there (`statements`).
//!
//! A client that was told the columns of a statement does not ask again, and would read rows of other ones wrongly. So it
//! is told as PostgreSQL tells it, and once: from then on it gets what there is.

use wire::{
    frame::Head,
    message::{Kind, TransactionStatus, build},
    queue::{Request, Tags},
};

use super::{
    around::rename,
    up::{Outgoing, Pass},
};
use crate::{
    lending::Lending,
    pool::Tenant,
    prepared::{Prepared, Unnamed},
    server::Server,
    statements::{Statements, Which, is_heeded},
};

/// The unnamed statement of a session, if the columns that its client asks for are heeded.
pub(super) fn heeded_unnamed(prepared: &Prepared) -> Option<Which> {
    let source = &prepared.source;
    match prepared.unnamed {
        Unnamed::Kept(serial) if is_heeded(&source.body, source.effects, source.exact.as_ref()) => {
            Some(Which::Unnamed(serial))
        }
        _ => None,
    }
}

/// What is to be done with a message that names a statement which is there.
pub(super) enum Columns {
    AsTold,
    /// To be asked again when everything before it is answered.
    Asked,
    Changed,
}

/// Compares what the client was told of it with what the server connection has, by this name.
#[inline]
pub(super) fn columns(
    server: &mut Server,
    lending: &mut Lending,
    (name, which): (&[u8], Which),
    at: usize,
    outgoing: &mut Outgoing<'_>,
) -> Columns {
    let Some(told) = lending.prepared.shape(which) else {
        return Columns::AsTold;
    };
    // In a transaction that failed, nothing is run; what is not there, the server is about to say why.
    if server.status == TransactionStatus::Failed || !server.statements.has(which) {
        return Columns::AsTold;
    }
    match server.statements.shape(which) {
        Some(now) if now.differs(told) => Columns::Changed,
        Some(_) => Columns::AsTold,
        None => {
            build::describe(Kind::Statement, name, outgoing.before(at));
            let tags = Tags::OURS.with(Tags::NOTED);
            server.queue.sent_as(Request::DescribeStatement, tags);
            lending.prepared.described(which, false);
            Columns::Asked
        }
    }
}

/// Before a Bind that names it: what is to be done with that message, if it does not go on. `there`: its name on the server
/// connection; `name` and `of`: that in the message, and where it begins.
#[inline]
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a message, and of a session"
)]
pub(super) fn before_bind(
    (there, which): (&[u8], Which),
    (name, of): (&[u8], usize),
    head: Head,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    server: &mut Server,
    lending: &mut Lending,
    tenant: &Tenant,
) -> Option<Pass> {
    match columns(server, lending, (there, which), at, outgoing) {
        Columns::AsTold => None,
        Columns::Asked => Some(Pass::Asked),
        Columns::Changed => {
            let other = tenant.statements.changed_name();
            rename(&other, of, name, head, at, outgoing);
            lending.prepared.changed(which);
            server.queue.sent_as(Request::Bind, Tags::NOTED);
            Some(Pass::On)
        }
    }
}

/// Has the server refuse a Describe of it, which has the right name already: its parameters are told of before. Returns what
/// goes behind it.
#[cold]
pub(super) fn refuse_columns(
    which: Which,
    server: &mut Server,
    lending: &mut Lending,
    tenant: &Tenant,
) -> Vec<u8> {
    lending.prepared.changed(which);
    server
        .queue
        .sent_as(Request::DescribeStatement, Tags::NOTED);
    let mut fails = Vec::new();
    build::bind_nothing(b"", &tenant.statements.changed_name(), &mut fails);
    server.queue.sent_as(Request::Bind, Tags::OURS);
    fails
}

/// `feature_not_supported`.
pub(super) const REFUSED: &str = "0A000";

/// What the client is told in place of an error (26000) that was had on purpose.
#[cold]
pub(super) fn instead(message: &[u8], all: &Statements) -> Option<Vec<u8>> {
    let named = &message[all.find_name(message)?];
    let (message, hint) = if *named == *all.changed_name() {
        // As PostgreSQL says it.
        ("cached plan must not change result type", "")
    } else if *named == *all.fetching_name() {
        (
            "FETCH is described only directly behind its Parse or Bind",
            "PostgreSQL ends the sessions of everybody where the cursor is gone by then.",
        )
    } else {
        return None;
    };
    let report = build::Report {
        severity: build::Severity::Error,
        code: REFUSED,
        message,
        detail: "",
        hint,
    };
    let mut out = Vec::new();
    build::error_response(&report, &mut out);
    Some(out)
}

/// Whether a command of this tag may change what statements return.
#[inline]
pub(super) fn redefines(tag: &[u8]) -> bool {
    matches!(tag.first(), Some(b'A' | b'C' | b'D'))
        && [&b"ALTER "[..], b"DROP ", b"CREATE VIEW", b"CREATE FUNCTION"]
            .iter()
            .any(|own| tag.starts_with(own))
}
