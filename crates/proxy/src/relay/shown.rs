//! What a session is shown of what it has prepared (`pg_prepared_statements`).
//!
//! Owns: that the server connection has its statements by its own names then, and nobody else's. Does not own: handing over
//! (`around`). What shows them unseen, a view or a function, shows what is there.

use statement::Effects;
use wire::{
    message::{TransactionStatus, build},
    queue::{Request, Tags},
};

use model::route::PoolMode;

use super::{
    handed::{Naming, hand_over_names},
    ready::Readiness,
    up::Outgoing,
};
use crate::{lending::Lending, pool::Tenant, server::Server};

/// Before what does this. `is_between`: a message of the client's comes before it and no Sync.
#[inline]
pub(super) fn ready_shown(
    server: &mut Server,
    lending: &mut Lending,
    (does, is_between): (Effects, bool),
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) -> Readiness {
    if !does.intersects(Effects::SHOWS_PREPARED)
        || lending.mode != PoolMode::Auto
        || server.status == TransactionStatus::Failed
        || !(server.statements.may_have_some() || lending.prepared.has_names())
    {
        return Readiness::Ready;
    }
    if !server.queue.has_none() {
        return Readiness::Waits;
    }
    show_own(server, lending, is_between, at, outgoing, tenant);
    Readiness::Ready
}

#[cold]
fn show_own(
    server: &mut Server,
    lending: &mut Lending,
    is_between: bool,
    at: usize,
    outgoing: &mut Outgoing<'_>,
    tenant: &Tenant,
) {
    let out = outgoing.before(at);
    let closed = server.statements.write_all_closes(&tenant.statements, out);
    for _ in 0..closed {
        server.queue.sent_as(Request::Close, Tags::OURS);
    }
    if closed > 0 && !is_between {
        build::sync(out);
        server.queue.sent_as(Request::Sync, Tags::OURS);
    }
    if lending.prepared.has_names() {
        hand_over_names(
            server,
            lending,
            &Naming::all(is_between),
            at,
            outgoing,
            tenant,
        );
    }
}
