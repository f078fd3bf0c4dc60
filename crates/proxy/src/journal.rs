//! One line in the log for every session that ended: who, from where, how long, how much, and why.
//!
//! And what the audit log has of every connection, which is less: who, from where, to what, how it ended.
//!
//! Owns: what is known of a session beside what it may do, and the fields of these lines, which
//! `docs/logs.md` and `docs/audit.md` describe. They are names, numbers and words of ours, and the name that the client
//! gave itself; no statement, parameter or secret is among them.

use std::cell::Cell;

use audit::{Event, Logs};
use model::{LoginName, Public, route::Candidate};
use tokio::time::Instant;
use wire::startup::Startup;

use crate::{
    accept::Peer, handle::Handle, metrics::micros, pool::Tenant, session::Ended, stats::Counters,
    stream::Stream,
};

/// What is kept of the name that a client gives itself; PostgreSQL keeps as much.
const APPLICATION_BYTES_MAX: usize = 63;

/// Where a session comes from and what it did, for those who look.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) peer: Peer,
    /// When its connection was accepted.
    pub(crate) began: Instant,
    /// The version of TLS; `None`: plain text.
    pub(crate) tls: Option<&'static str>,
    /// As the client calls itself: whatever it likes, in printable ASCII.
    pub(crate) application: Box<str>,
    pub(crate) counters: Counters,
    /// Since when it waits for a server connection.
    pub(crate) waits_since: Cell<Option<Instant>>,
}

impl About {
    pub(crate) fn new(peer: Peer, began: Instant, client: &Stream, startup: &Startup) -> Self {
        let mut names = startup.parameters.iter();
        let application = names.find(|(name, _)| name.eq_ignore_ascii_case("application_name"));
        let application = application.map_or("", |(_, value)| value);
        Self {
            peer,
            began,
            tls: client.tls_version(),
            application: application[..application.floor_char_boundary(APPLICATION_BYTES_MAX)]
                .into(),
            counters: Counters::default(),
            waits_since: Cell::new(None),
        }
    }
}

impl Ended {
    /// For metrics and for programs that read the log.
    pub(crate) fn how(&self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Lost => "lost",
            Self::ByServer => "server",
            Self::Refused(refusal) => refusal.sqlstate(),
            Self::Setting(_) => "setting",
        }
    }

    /// For people. What the server says may repeat what the client sent, so it is not in it.
    fn reason(&self) -> String {
        match self {
            Self::Left => "the client left".to_owned(),
            Self::Lost => "the connection of the client broke".to_owned(),
            Self::ByServer => "the server ended it".to_owned(),
            Self::Refused(refusal) => refusal.to_string(),
            Self::Setting(said) => format!("a setting was refused ({})", said.code),
        }
    }
}

/// Notes a session that begins.
pub(crate) fn began(audit: Option<&Logs>, tenant: &Tenant, handle: &Handle) {
    if let Some(audit) = audit {
        audit
            .connections
            .note(of_session("connect", tenant, handle));
    }
}

/// Notes a client that got no session; `proved`: whose secret it had.
pub(crate) fn refused(
    audit: Option<&Logs>,
    peer: &Peer,
    code: &str,
    proved: Option<(&LoginName, &Candidate)>,
) {
    let Some(audit) = audit else {
        return;
    };
    let event = Event::new("refused")
        .text("address", peer)
        .text("code", code);
    let event = match proved {
        Some((name, candidate)) => event
            .text("tenant", &name.tenant)
            .text("role", name.login)
            .text("credential", &candidate.id),
        None => event,
    };
    audit.connections.note(event);
}

/// Notes a console that begins or ends.
pub(crate) fn console(audit: Option<&Logs>, kind: &'static str, peer: &Peer) {
    if let Some(audit) = audit {
        let event = Event::new(kind)
            .text("address", peer)
            .text("role", crate::OPERATOR);
        audit.connections.note(event);
    }
}

fn of_session(kind: &'static str, tenant: &Tenant, handle: &Handle) -> Event {
    Event::new(kind)
        .text("address", handle.about.peer)
        .text("tenant", &tenant.id)
        .text("role", handle.login)
        .text("credential", &handle.credential)
        .text("tls", handle.about.tls.unwrap_or("none"))
}

/// Writes the line of a session that ended, and notes it.
pub(crate) fn ended(audit: Option<&Logs>, tenant: &Tenant, handle: &Handle, ended: &Ended) {
    let about = &handle.about;
    let did = about.counters.totals();
    tracing::info!(
        from = %about.peer,
        tenant = %tenant.id,
        role = %handle.login,
        credential = %handle.credential,
        placement = %handle.pid,
        tls = about.tls.unwrap_or("none"),
        application = %about.application,
        lasted_ms = micros(about.began.elapsed()) / 1000,
        busy_ms = did.busy_us / 1000,
        waited_ms = did.waited_us / 1000,
        statements = did.statements,
        errors = did.errors,
        rows = did.rows,
        bytes_in = did.bytes_from_clients,
        bytes_out = did.bytes_to_clients,
        ended = ended.how(),
        reason = ended.reason(),
        "session ended"
    );
    if let Some(audit) = audit {
        let event = of_session("disconnect", tenant, handle)
            .number("lasted_ms", micros(about.began.elapsed()) / 1000)
            .number("statements", did.statements)
            .text("ended", ended.how());
        audit.connections.note(event);
    }
}
