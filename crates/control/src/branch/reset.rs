//! Setting a branch back to what its parent is now: a new copy, then the swap. The branch keeps its id,
//! address, passwords and limits. A reset that fails leaves it as it was.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use model::lifecycle::{TenantEvent, TenantState};

use super::{
    create::{is_settled, refuse_suspended},
    store,
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorCode},
        extract::DatabaseKey,
        idempotency::{Kept, Ticket},
    },
    catalog::changes,
    placement::step::{Moment, Step, reached},
    tenant::{
        change,
        describe::{DatabaseResponse, describe},
        store::{Purpose, read},
    },
    user,
};

/// Begins a reset; waits at most `wait` until the branch can be used again.
pub(super) async fn reset(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
    time_max: Option<Duration>,
    wait: Duration,
) -> ApiResult<DatabaseResponse> {
    reached(Step::ResetCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let mut tenant = change::find(&transaction, principal, key, Purpose::Change).await?;
    if store::known(&transaction, &tenant.id).await?.is_none() {
        return Err(ApiError::with(
            ErrorCode::WrongState,
            format!("database {} is no branch", tenant.name),
        )
        .hint("only a branch can be reset to its parent"));
    };
    let next = tenant.state.after(TenantEvent::Reset).map_err(|refused| {
        let hint = match refused.state {
            TenantState::CreateFailed => "resume it to try again, or delete it",
            TenantState::Suspended => "resume it first",
            TenantState::Disabling | TenantState::Disabled => "undelete it first",
            TenantState::Creating | TenantState::Cloning | TenantState::Active => {
                "it is being made; wait until it is ACTIVE"
            }
        };
        ApiError::with(
            ErrorCode::WrongState,
            format!("database {} is {}", tenant.name, refused.state),
        )
        .hint(hint)
    })?;
    let gone = || {
        ApiError::with(ErrorCode::WrongState, "the parent of this branch is gone")
            .hint("undelete the parent first, or create a branch of another database")
    };
    let parent = tenant.parent.as_ref().ok_or_else(gone)?;
    let parent = read(&transaction, parent).await?.ok_or_else(gone)?;
    if matches!(parent.state, TenantState::Disabling | TenantState::Disabled) {
        return Err(gone());
    }
    refuse_suspended(&parent, principal)?;
    user::store::inherit(&transaction, &tenant.id, &parent.id).await?;
    tenant.pid = store::begin_reset(&transaction, &tenant.id, app.node.name(), time_max).await?;
    tenant.state = next;
    tenant.state_reason = None;
    let body = serde_json::to_vec(&describe(app, &tenant, None)).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::OK, &body, Kept::Ahead)
        .await?;
    let change = changes::mark(&transaction, &tenant.id).await?;
    reached(Step::ResetCommit, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    app.changes.announce(change);
    app.passes.wake();
    tracing::info!(tenant = %tenant.id, parent = %parent.id, "a branch is being reset");
    reached(Step::ResetCommit, Moment::After).await;
    let tenant = change::wait_for(app, tenant, wait, is_settled).await?;
    let client = app.catalog.get().await?;
    let known = store::known(&client, &tenant.id).await?;
    Ok(describe(app, &tenant, None).with_branch(known))
}
