//! Making a branch: its rows in one transaction; passes copy the data.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use model::{LoginName, Role, Secret, TenantId, TenantName, lifecycle::TenantState};

use super::store::{self, New};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorCode},
        extract::DatabaseKey,
        idempotency::{Kept, Ticket},
    },
    credential,
    limits::{self, store::Party},
    placement::step::{Moment, Step, reached},
    tenant::{
        change,
        create::{not_made, quota_exceeded},
        describe::{DatabaseResponse, describe},
        lifetime::Lifetime,
        store::{Purpose, Tenant, count, lock_project, read},
    },
    user,
};

/// What is asked for.
pub(super) struct Wanted {
    pub(super) name: TenantName,
    pub(super) password: Option<Secret>,
    pub(super) schema_only: bool,
    pub(super) lifetime: Lifetime,
    pub(super) time_max: Duration,
    pub(super) wait: Duration,
}

/// Makes a branch of the database that `key` means; waits at most `wanted.wait` until it can be used.
pub(super) async fn create(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
    wanted: Wanted,
) -> ApiResult<DatabaseResponse> {
    reached(Step::BranchCommit, Moment::Before).await;
    let id = TenantId::random(&mut rand::rng());
    let password = wanted.password.unwrap_or_else(credential::new_password);
    let login = LoginName {
        tenant: id.clone(),
        login: Role::Admin.into(),
    };
    let keys = credential::scram_keys(&app.keys, &login, &password);
    let quota = principal.quota(app);
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let parent = change::find(&transaction, principal, key, Purpose::Change).await?;
    may_be_copied(&parent)?;
    refuse_suspended(&parent, principal)?;
    if let Some(quota) = quota {
        lock_project(&transaction, &parent.project).await?;
        if count(&transaction, &parent.project).await? >= i64::from(quota) {
            return Err(quota_exceeded(quota));
        }
    }
    let expires_at = wanted.lifetime.ends_at(&transaction).await?;
    let new = New {
        id: &id,
        project: &parent.project,
        name: &wanted.name,
        parent: &parent.id,
        keys: &keys,
        maker: principal.maker(),
        node: app.node.name(),
        schema_only: wanted.schema_only,
        expires_at,
        time_max: wanted.time_max,
    };
    store::insert(&transaction, new)
        .await
        .map_err(|error| not_made(&wanted.name, error))?;
    limits::store::carry(&transaction, &parent.id, &id).await?;
    user::store::inherit(&transaction, &id, &parent.id).await?;
    let tenant = read(&transaction, &id)
        .await?
        .ok_or(ErrorCode::DatabaseNotFound)?;
    let body = serde_json::to_vec(&describe(app, &tenant, Some(&password)))
        .expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::CREATED, &body, Kept::Ahead)
        .await?;
    reached(Step::BranchCommit, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    app.passes.wake();
    crate::audited::touched(&tenant.id, &tenant.project);
    tracing::info!(tenant = %id, parent = %parent.id, project = %parent.project, "a branch was asked for");
    reached(Step::BranchCommit, Moment::After).await;
    let tenant = change::wait_for(app, tenant, wanted.wait, is_settled).await?;
    let client = app.catalog.get().await?;
    let known = store::known(&client, &tenant.id).await?;
    Ok(describe(app, &tenant, Some(&password)).with_branch(known))
}

/// Whether nothing is being made of it.
pub(super) fn is_settled(state: TenantState) -> bool {
    !matches!(state, TenantState::Creating | TenantState::Cloning)
}

/// # Errors
///
/// [`ErrorCode::WrongState`] when it has no data of its own.
pub(super) fn may_be_copied(parent: &Tenant) -> ApiResult<()> {
    let hint = match parent.state {
        TenantState::Active | TenantState::Suspended => return Ok(()),
        TenantState::Creating | TenantState::Cloning => "wait until it is ACTIVE",
        TenantState::Disabling | TenantState::Disabled => "undelete it first",
        TenantState::CreateFailed => "resume it to try again, or delete it",
    };
    Err(ApiError::with(
        ErrorCode::WrongState,
        format!(
            "database {} is {} and cannot be copied",
            parent.name, parent.state
        ),
    )
    .hint(hint))
}

/// A copy of what the operator suspended would be a way around that.
///
/// # Errors
///
/// [`ErrorCode::SuspendedByOperator`], unless the operator asks.
pub(super) fn refuse_suspended(parent: &Tenant, principal: &Principal) -> ApiResult<()> {
    match (parent.suspended_by, principal.party()) {
        (Some(Party::Operator), Party::Owner) => Err(ErrorCode::SuspendedByOperator.into()),
        (Some(Party::Operator), Party::Operator) | (Some(Party::Owner) | None, _) => Ok(()),
    }
}
