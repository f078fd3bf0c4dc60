//! Delete, undelete, suspend, resume, and a new password: each one transaction; passes do the rest.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use deadpool_postgres::Transaction;
use model::{
    LoginName, Role, Secret, TenantName,
    lifecycle::{TenantEvent, TenantState},
};
use tokio::time::Instant;

use super::{
    create::{not_made, quota_exceeded},
    describe::{DatabaseResponse, describe},
    store::{self, Purpose, Tenant},
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
    credential, placement,
    placement::step::{Moment, Step, reached},
};

/// Between two looks at the row, should a wake-up be lost or come from another process.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Waits until the state is one that is asked for, at most `wait`; returns the row as it is then.
pub(super) async fn wait_for(
    app: &App,
    mut tenant: Tenant,
    wait: Duration,
    done: impl Fn(TenantState) -> bool,
) -> ApiResult<Tenant> {
    let until = Instant::now() + wait;
    loop {
        let changed = app.passes.changed();
        if done(tenant.state) || Instant::now() >= until {
            return Ok(tenant);
        }
        let look = LOOK_EVERY.min(until - Instant::now());
        let _ = tokio::time::timeout(look, changed).await;
        let client = app.catalog.get().await?;
        tenant = store::read(&client, &tenant.id)
            .await?
            .ok_or(ErrorCode::DatabaseNotFound)?;
    }
}

/// Finds what a request means, for a change.
pub(crate) async fn find(
    transaction: &Transaction<'_>,
    principal: &Principal,
    key: &DatabaseKey,
    purpose: Purpose,
) -> ApiResult<Tenant> {
    let found = store::find(
        transaction,
        principal.scope(),
        &principal.project,
        key,
        purpose,
    )
    .await?;
    found.ok_or_else(|| ErrorCode::DatabaseNotFound.into())
}

/// What was deleted is not changed.
pub(crate) fn refuse_deleted(tenant: &Tenant) -> ApiResult<()> {
    if !matches!(tenant.state, TenantState::Disabling | TenantState::Disabled) {
        return Ok(());
    }
    Err(ApiError::with(
        ErrorCode::WrongState,
        format!("database {} was deleted", tenant.name),
    )
    .hint("undelete it first"))
}

/// The state after `event`.
fn after(tenant: &Tenant, event: TenantEvent) -> ApiResult<TenantState> {
    tenant.state.after(event).map_err(|refused| {
        let hint = match refused.state {
            TenantState::Creating | TenantState::Cloning => {
                "it is being made; wait until it is ACTIVE"
            }
            TenantState::Disabling => "it is being closed; send the request again in a moment",
            TenantState::Disabled => "it was deleted; undelete it first",
            TenantState::CreateFailed => "resume it to try again, or delete it",
            TenantState::Suspended => "resume it first",
            TenantState::Active => "it is in use; nothing is left to do",
        };
        ApiError::with(
            ErrorCode::WrongState,
            format!("database {} is {}", tenant.name, refused.state),
        )
        .hint(hint)
    })
}

/// Keeps the answer for a repeated request: after the commit, the same request would find a
/// database that is no longer in the state it asks for.
async fn keep(
    app: &App,
    transaction: &Transaction<'_>,
    ticket: &Ticket,
    tenant: &Tenant,
    kept: Kept,
) -> ApiResult<()> {
    let answer = describe(app, tenant, None);
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    Ok(ticket
        .keep_in(transaction, StatusCode::OK, &body, kept)
        .await?)
}

/// Has the passes look at it, commits, and tells the proxies.
async fn commit(app: &App, transaction: Transaction<'_>, tenant: &Tenant) -> ApiResult<()> {
    placement::store::touch(&transaction, &tenant.pid).await?;
    let change = changes::mark(&transaction, &tenant.id).await?;
    transaction.commit().await?;
    app.changes.announce(change);
    app.passes.wake();
    Ok(())
}

/// Deletes: new logins are refused from the commit on, open sessions end, and the data is kept until
/// the retention ends. Waits at most `wait` for the last session to be gone. Deleting twice is fine.
pub(super) async fn delete(
    app: &Arc<App>,
    principal: &Principal,
    key: &DatabaseKey,
    wait: Duration,
) -> ApiResult<Tenant> {
    reached(Step::DeleteCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let mut tenant = find(&transaction, principal, key, Purpose::Change).await?;
    let next = after(&tenant, TenantEvent::Delete)?;
    if next != tenant.state {
        store::set_deleted(&transaction, &tenant.id, app.config.retention).await?;
        reached(Step::DeleteCommit, Moment::Between).await;
        commit(app, transaction, &tenant).await?;
        tracing::info!(tenant = %tenant.id, "a database was deleted; its data is kept for now");
        tenant.state = next;
    } else {
        drop(transaction);
    }
    drop(client);
    reached(Step::DeleteCommit, Moment::After).await;
    let id = tenant.id.clone();
    match wait_for(app, tenant, wait, |state| state != TenantState::Disabling).await {
        // Gone altogether: the retention is that short.
        Err(error) if error.code == ErrorCode::DatabaseNotFound => {
            tracing::debug!(tenant = %id, "purged while its delete was answered");
            Err(error)
        }
        other => other,
    }
}

/// Takes a delete back, under its old name or another one.
pub(super) async fn undelete(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
    name: Option<TenantName>,
    wait: Duration,
) -> ApiResult<Tenant> {
    reached(Step::UndeleteCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let mut tenant = find(&transaction, principal, key, Purpose::Undelete).await?;
    let next = after(&tenant, TenantEvent::Undelete)?;
    if store::is_being_purged(&transaction, &tenant.pid).await? {
        return Err(ApiError::with(
            ErrorCode::WrongState,
            format!("the data of database {} is being removed", tenant.name),
        )
        .hint("its retention has ended; it cannot be undeleted any more"));
    }
    let name = name.unwrap_or_else(|| tenant.name.clone());
    let quota = principal.quota(app);
    if quota.is_some() {
        store::lock_project(&transaction, &tenant.project).await?;
    }
    // The name first: whoever has as many as may be wants to hear that this one is another's now.
    store::set_undeleted(&transaction, &tenant.id, &name)
        .await
        .map_err(|error| match not_made(&name, error) {
            taken if taken.code == ErrorCode::NameTaken => taken.hint(
                "another database has this name now: send {\"name\": \"…\"} to undelete under \
                 another one",
            ),
            other => other,
        })?;
    // Counted with this one.
    if let Some(quota) = quota
        && store::count(&transaction, &tenant.project).await? > i64::from(quota)
    {
        return Err(quota_exceeded(quota));
    }
    tenant.state = next;
    tenant.name = name;
    tenant.deleted_at = None;
    tenant.purge_after = None;
    keep(app, &transaction, ticket, &tenant, Kept::Ahead).await?;
    reached(Step::UndeleteCommit, Moment::Between).await;
    commit(app, transaction, &tenant).await?;
    drop(client);
    tracing::info!(tenant = %tenant.id, "a deleted database was taken back");
    reached(Step::UndeleteCommit, Moment::After).await;
    wait_for(app, tenant, wait, |state| state != TenantState::Creating).await
}

/// Refuses connections until it is resumed.
pub(super) async fn suspend(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
) -> ApiResult<Tenant> {
    reached(Step::SuspendCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let mut tenant = find(&transaction, principal, key, Purpose::Change).await?;
    tenant.state = after(&tenant, TenantEvent::Suspend)?;
    placement::store::set_tenant_state(&transaction, &tenant.id, tenant.state, None).await?;
    keep(app, &transaction, ticket, &tenant, Kept::Last).await?;
    reached(Step::SuspendCommit, Moment::Between).await;
    commit(app, transaction, &tenant).await?;
    reached(Step::SuspendCommit, Moment::After).await;
    tracing::info!(tenant = %tenant.id, "a database was suspended");
    Ok(tenant)
}

/// Accepts connections again; tries again to make one that failed. Waits at most `wait` for it.
pub(super) async fn resume(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
    wait: Duration,
) -> ApiResult<Tenant> {
    reached(Step::ResumeCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let mut tenant = find(&transaction, principal, key, Purpose::Change).await?;
    let event = match tenant.state {
        TenantState::CreateFailed => TenantEvent::Retry,
        _ => TenantEvent::Resume,
    };
    tenant.state = after(&tenant, event)?;
    tenant.state_reason = None;
    placement::store::set_tenant_state(&transaction, &tenant.id, tenant.state, None).await?;
    keep(app, &transaction, ticket, &tenant, Kept::Ahead).await?;
    reached(Step::ResumeCommit, Moment::Between).await;
    commit(app, transaction, &tenant).await?;
    drop(client);
    reached(Step::ResumeCommit, Moment::After).await;
    tracing::info!(tenant = %tenant.id, "a database was resumed");
    wait_for(app, tenant, wait, |state| state != TenantState::Creating).await
}

/// Gives a role a new password. The old one is refused from the commit on, and its sessions end.
pub(super) async fn reset_password(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
    role: Role,
    password: Option<Secret>,
) -> ApiResult<DatabaseResponse> {
    reached(Step::ResetPasswordCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let tenant = find(&transaction, principal, key, Purpose::Change).await?;
    refuse_deleted(&tenant)?;
    let password = password.unwrap_or_else(credential::new_password);
    let login = LoginName {
        tenant: tenant.id.clone(),
        role,
    };
    let keys = credential::scram_keys(&app.keys, &login, &password);
    credential::store::revoke_passwords(&transaction, &tenant.id, role).await?;
    credential::store::insert_password(&transaction, &tenant.id, role, &keys).await?;
    let answer = describe(app, &tenant, None).with_password(app, role, &password);
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::OK, &body, Kept::Last)
        .await?;
    let change = changes::mark(&transaction, &tenant.id).await?;
    reached(Step::ResetPasswordCommit, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    app.changes.announce(change);
    tracing::info!(tenant = %tenant.id, role = %role, "a password was replaced");
    reached(Step::ResetPasswordCommit, Moment::After).await;
    Ok(answer)
}
