//! What a client hears about its wait for a server connection: before it has lasted too long, and when it
//! has.
//!
//! Owns: why it waits, in words. Does not own: the wait (`pool`), or who is next (`budget`).

use model::Public as _;
use wire::message::build::{self, Report, Severity};

use crate::{
    accept::Peer, config::Limits, error::Refusal, handle::Handle, limits::Doing, pool::Tenant,
};

/// What all server connections are taken by that a client could have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Taken {
    /// Transactions of the same application that wait for it to say something: it may itself be waiting for
    /// this one.
    Itself { servers: u32 },
    /// Clients of the same database, which has as many as it may have.
    Database { servers: u32 },
    /// Others, too.
    All,
    /// None: transactions of the database wait for the end of a hold or a pause.
    Paused,
}

impl Taken {
    fn of(tenant: &Tenant, own: &Handle) -> Self {
        let (servers, _) = tenant.usage();
        let sessions = tenant.sessions.borrow();
        let holders = || {
            let others = sessions.values().filter(|other| other.id != own.id);
            others.filter(|other| other.target().is_some())
        };
        let waits_for_client = |other: &Handle| {
            other.pulse.doing() == Doing::InTransaction && is_of_same_application(own, other)
        };
        let held = u32::try_from(holders().count()).unwrap_or(u32::MAX);
        if tenant.pause.is_on() {
            Self::Paused
        } else if servers > 0 && held == servers && holders().all(|other| waits_for_client(other)) {
            Self::Itself { servers }
        } else if tenant.has_all_it_may() {
            Self::Database { servers }
        } else {
            Self::All
        }
    }
}

/// As far as anybody can tell: from the same address, under the same name.
fn is_of_same_application(one: &Handle, other: &Handle) -> bool {
    let address = |handle: &Handle| match handle.about.peer {
        Peer::Tcp(address) | Peer::Http(address) => Some(address.ip()),
        Peer::Door => None,
    };
    address(one) == address(other) && one.about.application == other.about.application
}

/// Whether a client wants to hear of a wait, by the `client_min_messages` that it has or asks for.
pub(crate) fn wants_notices(least: Option<&str>) -> bool {
    let quiet = ["warning", "error"];
    least.is_none_or(|least| !quiet.iter().any(|word| least.eq_ignore_ascii_case(word)))
}

/// Why a wait was in vain.
pub(crate) fn in_vain(tenant: &Tenant, own: &Handle, refusal: Refusal) -> Refusal {
    match (refusal, Taken::of(tenant, own)) {
        (Refusal::Busy { waited_ms }, Taken::Itself { .. }) => Refusal::Nested { waited_ms },
        (refusal, _) => refusal,
    }
}

/// What a client is told that waits since `wait_notice_after`: for what, and until when.
pub(crate) fn notice(tenant: &Tenant, own: &Handle, limits: &Limits) -> Vec<u8> {
    let taken = Taken::of(tenant, own);
    let what = match taken {
        Taken::Itself { servers } => format!(
            "All {servers} server connections of this database are held by open transactions of this \
             application (the same address and application_name), which wait for it to go on."
        ),
        Taken::Database { servers } => {
            format!("All {servers} server connections that this database may have are in use.")
        }
        Taken::All => "All server connections that databases share are in use.".to_owned(),
        Taken::Paused => {
            "New transactions of this database wait while it is copied, moved or paused by an operator."
                .to_owned()
        }
    };
    let left = limits
        .budget_wait_max
        .saturating_sub(limits.wait_notice_after);
    let until = match taken {
        Taken::Paused => format!("{what} Then the statement goes on."),
        _ => format!(
            "{what} In {:.1} s the statement ends with an error (53300).",
            left.as_secs_f64()
        ),
    };
    let hint = match taken {
        Taken::Itself { .. } => Refusal::Nested { waited_ms: 0 }.hint(),
        Taken::Database { .. } | Taken::All | Taken::Paused => "",
    };
    let report = Report {
        severity: Severity::Notice,
        code: "00000",
        message: "waiting for a server connection",
        detail: &until,
        hint,
    };
    let mut out = Vec::new();
    build::notice_response(&report, &mut out);
    out
}
