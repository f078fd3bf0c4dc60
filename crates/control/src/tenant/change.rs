//! Delete, undelete, suspend, resume, another name or lifetime, and a new password: each one
//! transaction; passes do the rest.

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
    lifetime::Lifetime,
    store::{self, Purpose, Tenant, Undeleted},
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorCode},
        extract::DatabaseKey,
        idempotency::{Kept, Ticket},
    },
    audited, backup, branch,
    catalog::{CatalogError, changes},
    credential,
    limits::store::Party,
    placement,
    placement::step::{Moment, Step, reached},
};

/// Between two looks at the row, should a wake-up be lost or come from another process.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Waits until the state is one that is asked for, at most `wait`; returns the row as it is then.
pub(crate) async fn wait_for(
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
    found.ok_or_else(|| principal.not_found())
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
            TenantState::Active if event == TenantEvent::Undelete => {
                "it is in use; to take back a deleted one that had this name, say by which other name"
            }
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
async fn commit(
    app: &App,
    transaction: Transaction<'_>,
    tenant: &Tenant,
) -> Result<(), CatalogError> {
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
    let (tenant, _) = delete_if(app, principal, key, |_| true).await?;
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

/// Deletes, if it is still what is meant, and waits for nothing. Returns also whether it was deleted
/// here, and not before or not at all.
pub(super) async fn delete_if(
    app: &Arc<App>,
    principal: &Principal,
    key: &DatabaseKey,
    is_meant: impl Fn(&Tenant) -> bool,
) -> ApiResult<(Tenant, bool)> {
    reached(Step::DeleteCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let mut tenant = find(&transaction, principal, key, Purpose::Change).await?;
    let next = after(&tenant, TenantEvent::Delete)?;
    let is_news = next != tenant.state && is_meant(&tenant);
    if is_news {
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
    Ok((tenant, is_news))
}

/// Deletes the one whose lifetime was over first, as if its owner did. False: there is none that
/// nobody else works on.
pub(super) async fn expire_one(app: &App) -> Result<bool, CatalogError> {
    reached(Step::ExpireCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let Some(tenant) = store::lock_expired(&transaction).await? else {
        return Ok(false);
    };
    store::set_deleted(&transaction, &tenant.id, app.config.retention).await?;
    reached(Step::ExpireCommit, Moment::Between).await;
    commit(app, transaction, &tenant).await?;
    tracing::info!(tenant = %tenant.id, "a database expired; its data is kept for now");
    audited::by_itself(app, "expire", &tenant.id, Some(&tenant.project));
    reached(Step::ExpireCommit, Moment::After).await;
    Ok(true)
}

/// What an undelete says beside that it is one.
#[derive(Default)]
pub(super) struct Back {
    /// `None`: the old one.
    pub(super) name: Option<TenantName>,
    /// `None`: an end that is still to come stays, one that has passed is taken away.
    pub(super) lifetime: Option<Lifetime>,
}

/// Waits, at most `wait`, until a delete of the one that a request means is over: it may be taken back at once, and
/// the last sessions may still be ending.
async fn closed(
    app: &App,
    principal: &Principal,
    key: &DatabaseKey,
    purpose: Purpose,
    wait: Duration,
) -> ApiResult<()> {
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let tenant = find(&transaction, principal, key, purpose).await?;
    // Whoever closes it needs the row.
    drop(transaction);
    drop(client);
    wait_for(app, tenant, wait, |state| state != TenantState::Disabling).await?;
    Ok(())
}

/// Takes a delete back, under its old name or another one. What the operator had suspended is
/// suspended again. Waits at most `wait`, first for the end of the delete, then until it can be used.
pub(super) async fn undelete(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
    back: Back,
    wait: Duration,
) -> ApiResult<Tenant> {
    let until = Instant::now() + wait;
    let purpose = Purpose::Undelete {
        is_renamed: back.name.is_some(),
    };
    closed(app, principal, key, purpose, wait).await?;
    reached(Step::UndeleteCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let old = find(&transaction, principal, key, purpose).await?;
    let event = match old.suspended_by {
        Some(Party::Operator) => TenantEvent::UndeleteSuspended,
        Some(Party::Owner) | None => TenantEvent::Undelete,
    };
    let next = after(&old, event)?;
    if store::is_being_purged(&transaction, &old.pid).await? {
        return Err(ApiError::with(
            ErrorCode::WrongState,
            format!("the data of database {} is being removed", old.name),
        )
        .hint("its retention has ended; it cannot be undeleted any more"));
    }
    let name = back.name.unwrap_or_else(|| old.name.clone());
    let expires_at = match back.lifetime {
        Some(lifetime) => Some(lifetime.ends_at(&transaction).await?),
        None => None,
    };
    let quota = principal.quota(app);
    if quota.is_some() {
        store::lock_project(&transaction, &old.project).await?;
    }
    // The name first: whoever has as many as may be wants to hear that this one is another's now.
    let undeleted = Undeleted {
        name: &name,
        state: next,
        expires_at,
    };
    let tenant = store::set_undeleted(&transaction, &old.id, undeleted)
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
    branch::store::begin_again(&transaction, &tenant.id).await?;
    backup::restores::begin_again(&transaction, &tenant.id).await?;
    keep(app, &transaction, ticket, &tenant, Kept::Ahead).await?;
    reached(Step::UndeleteCommit, Moment::Between).await;
    commit(app, transaction, &tenant).await?;
    drop(client);
    tracing::info!(tenant = %tenant.id, "a deleted database was taken back");
    reached(Step::UndeleteCommit, Moment::After).await;
    let wait = until.saturating_duration_since(Instant::now());
    wait_for(app, tenant, wait, |state| {
        !matches!(state, TenantState::Creating | TenantState::Cloning)
    })
    .await
}

/// What is to be another one.
pub(super) struct Other {
    pub(super) name: Option<TenantName>,
    pub(super) lifetime: Option<Lifetime>,
}

/// Gives a tenant another name or another lifetime. Its id, its data and its sessions stay as they are.
/// Twice is as good as once.
pub(super) async fn update(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
    other: Other,
) -> ApiResult<Tenant> {
    let step = match other.name {
        Some(_) => Step::RenameCommit,
        None => Step::ExpiryCommit,
    };
    reached(step, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let mut tenant = find(&transaction, principal, key, Purpose::Change).await?;
    refuse_deleted(&tenant)?;
    if let Some(lifetime) = other.lifetime {
        tenant.expires_at = lifetime.ends_at(&transaction).await?;
        store::set_end(&transaction, &tenant.id, tenant.expires_at).await?;
    }
    if let Some(name) = other.name.filter(|name| *name != tenant.name) {
        store::set_name(&transaction, &tenant.id, &name)
            .await
            .map_err(|error| match not_made(&name, error) {
                taken if taken.code == ErrorCode::NameTaken => taken.hint("choose another name"),
                other => other,
            })?;
        tracing::info!(tenant = %tenant.id, "a database is renamed");
        tenant.name = name;
    }
    keep(app, &transaction, ticket, &tenant, Kept::Last).await?;
    // Proxies know until when it may be used.
    let change = changes::mark(&transaction, &tenant.id).await?;
    reached(step, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    app.changes.announce(change);
    reached(step, Moment::After).await;
    Ok(tenant)
}

/// Refuses connections until it is resumed. What the operator suspends the owner cannot resume, also
/// when the owner was first. Twice is as good as once.
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
    let by = match (tenant.suspended_by, principal.party()) {
        (Some(Party::Operator), _) | (_, Party::Operator) => Party::Operator,
        (_, Party::Owner) => Party::Owner,
    };
    if tenant.state == TenantState::Suspended && tenant.suspended_by == Some(by) {
        return Ok(tenant);
    }
    if tenant.state != TenantState::Suspended {
        tenant.state = after(&tenant, TenantEvent::Suspend)?;
    }
    tenant.suspended_by = Some(by);
    store::set_suspended(&transaction, &tenant.id, by).await?;
    keep(app, &transaction, ticket, &tenant, Kept::Last).await?;
    reached(Step::SuspendCommit, Moment::Between).await;
    commit(app, transaction, &tenant).await?;
    reached(Step::SuspendCommit, Moment::After).await;
    tracing::info!(tenant = %tenant.id, by = by.as_str(), "a database was suspended");
    Ok(tenant)
}

/// Accepts connections again; tries again to make one that failed. Waits at most `wait` until it can be
/// used. Twice is as good as once.
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
    let event = match (tenant.state, tenant.suspended_by, principal.party()) {
        (TenantState::Suspended, Some(Party::Operator), Party::Owner) => {
            return Err(ErrorCode::SuspendedByOperator.into());
        }
        // Resumed before, or on its way for another reason: nothing is to be done but to wait.
        (TenantState::Active | TenantState::Creating | TenantState::Cloning, ..) => None,
        (TenantState::CreateFailed, ..) => Some(TenantEvent::Retry),
        (TenantState::Suspended | TenantState::Disabling | TenantState::Disabled, ..) => {
            Some(TenantEvent::Resume)
        }
    };
    if let Some(event) = event {
        tenant.state = after(&tenant, event)?;
        tenant.state_reason = None;
        tenant.suspended_by = None;
        branch::store::begin_again(&transaction, &tenant.id).await?;
        backup::restores::begin_again(&transaction, &tenant.id).await?;
        store::set_resumed(&transaction, &tenant.id, tenant.state).await?;
        keep(app, &transaction, ticket, &tenant, Kept::Ahead).await?;
        reached(Step::ResumeCommit, Moment::Between).await;
        commit(app, transaction, &tenant).await?;
        reached(Step::ResumeCommit, Moment::After).await;
        tracing::info!(tenant = %tenant.id, "a database was resumed");
    } else {
        drop(transaction);
    }
    drop(client);
    let until = Instant::now() + wait;
    let is_made = |state| !matches!(state, TenantState::Creating | TenantState::Cloning);
    let tenant = wait_for(app, tenant, wait, is_made).await?;
    wait_until_open(app, &tenant, until).await?;
    Ok(tenant)
}

/// Waits until a session could begin: the row says so before the server does.
async fn wait_until_open(app: &App, tenant: &Tenant, until: Instant) -> ApiResult<()> {
    while tenant.state == TenantState::Active && Instant::now() < until {
        let changed = app.passes.changed();
        let client = app.catalog.get().await?;
        if store::is_open(&client, &tenant.pid).await? {
            break;
        }
        // Nobody who waits holds a connection.
        drop(client);
        let look = LOOK_EVERY.min(until - Instant::now());
        let _ = tokio::time::timeout(look, changed).await;
    }
    Ok(())
}

/// A password that takes the place of another.
pub(super) struct NewPassword {
    pub(super) role: Role,
    /// `None`: generated.
    pub(super) password: Option<Secret>,
    /// How long the old one still works.
    pub(super) grace: Duration,
}

/// Gives a role a new password. When the grace ends, or from the commit on where there is none, the old
/// one is refused and its sessions end.
pub(super) async fn reset_password(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
    new: NewPassword,
) -> ApiResult<DatabaseResponse> {
    let NewPassword {
        role,
        password,
        grace,
    } = new;
    reached(Step::ResetPasswordCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let tenant = find(&transaction, principal, key, Purpose::Change).await?;
    refuse_deleted(&tenant)?;
    let password = password.unwrap_or_else(credential::new_password);
    let login = LoginName {
        tenant: tenant.id.clone(),
        login: role.into(),
    };
    let keys = credential::scram_keys(&app.keys, &login, &password);
    credential::store::revoke_passwords(&transaction, &tenant.id, (role, None), grace).await?;
    let maker = principal.maker();
    credential::store::insert_password(&transaction, &login.tenant, (role, None), &keys, maker)
        .await?;
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
    tracing::info!(tenant = %tenant.id, role = %role, grace_s = grace.as_secs(), by = maker, "a password was replaced");
    reached(Step::ResetPasswordCommit, Moment::After).await;
    Ok(answer)
}
