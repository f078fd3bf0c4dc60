//! Asking for a backup, a restore or an erasure: each one transaction; passes do the rest.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use model::{
    BackupId, LoginName, Pid, ProjectId, Role, Secret, TenantId, TenantName,
    lifecycle::{TenantEvent, TenantState},
};

use super::{
    http::{BackupResponse, RestoreResponse},
    key, moment,
    restores::{self, Restore},
    store::{self, Backup, State},
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorCode},
        extract::DatabaseKey,
        idempotency::{Kept, Ticket},
    },
    audited,
    catalog::{self, CatalogError, changes},
    credential, limits,
    limits::store::Party,
    placement::step::{Moment, Step, reached},
    tenant::{
        change,
        create::{name_taken, not_made, quota_exceeded},
        describe::describe,
        lifetime::Lifetime,
        store::{Purpose, Tenant, count, is_name_taken, lock, lock_project, read},
    },
    user,
};

/// Backups of one database that somebody asked for, at most: each is a file somewhere.
const KEPT_MAX: i64 = 100;
/// Backups of one database that are made only to be restored once, at most: each takes a recovery's time and disk.
const ONCE_MAX: i64 = 10;

/// What a backup is to be of.
#[derive(Clone)]
pub(super) struct Asked {
    /// A database of this name will be made of it: what would refuse that, refuses this.
    pub(super) restore_as: Option<TenantName>,
    /// What the database was then; `None`: what it is.
    pub(super) moment: Option<DateTime<Utc>>,
    /// False: it is given up once it was restored.
    pub(super) is_kept: bool,
}

/// Has a database backed up.
pub(super) async fn backup(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
    asked: Asked,
) -> ApiResult<Backup> {
    let Asked {
        restore_as,
        moment,
        is_kept,
    } = asked;
    reached(Step::BackupCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let tenant = change::find(&transaction, principal, key, Purpose::Change).await?;
    if let Some(moment) = moment {
        moment::must_be_kept(app, moment)?;
    } else if tenant.state != TenantState::Active {
        return Err(ApiError::with(
            ErrorCode::WrongState,
            format!("database {} is {}", tenant.name, tenant.state),
        )
        .hint("a database is backed up while it is ACTIVE"));
    }
    if let Some(name) = &restore_as {
        // Before hours of work. The restore asks again: by then it may be otherwise.
        must_have_room(app, principal, &transaction, &tenant.project).await?;
        if is_name_taken(&transaction, &tenant.project, name).await? {
            return Err(name_taken(name));
        }
    }
    let most = if is_kept { KEPT_MAX } else { ONCE_MAX };
    if store::count_asked(&transaction, &tenant.id, is_kept).await? >= most {
        return Err(ErrorCode::TooManyBackups.into());
    }
    let new = store::New {
        tenant: &tenant.id,
        project: &tenant.project,
        name: tenant.name.as_str(),
        kind: if moment.is_some() { "moment" } else { "manual" },
        moment,
        is_kept,
        is_due: true,
    };
    let backup = store::insert(&transaction, new).await?;
    let body = serde_json::to_vec(&BackupResponse::from(&backup)).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::CREATED, &body, Kept::Ahead)
        .await?;
    reached(Step::BackupCommit, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    app.backups.wake();
    audited::touched(&tenant.id, &tenant.project);
    audited::made(&backup.id);
    tracing::info!(tenant = %tenant.id, backup = %backup.id, "a backup was asked for");
    reached(Step::BackupCommit, Moment::After).await;
    Ok(backup)
}

/// What is to become of a backup.
pub(super) struct Wanted {
    /// A new database of this name; `None`: the one that it was made of.
    pub(super) name: Option<TenantName>,
    pub(super) password: Option<Secret>,
    pub(super) lifetime: Lifetime,
    pub(super) safety: bool,
    pub(super) time_max: Duration,
}

/// Has a backup restored.
pub(super) async fn restore(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    backup: &BackupId,
    wanted: Wanted,
) -> ApiResult<RestoreResponse> {
    reached(Step::RestoreCommit, Moment::Before).await;
    let id = TenantId::random(&mut rand::rng());
    let password = wanted
        .password
        .clone()
        .unwrap_or_else(credential::new_password);
    let login = LoginName {
        tenant: id.clone(),
        login: Role::Admin.into(),
    };
    let keys = credential::scram_keys(&app.keys, &login, &password);
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    // From here on it is not removed for its age.
    store::hold(&transaction, backup).await?;
    let backup = store::find(&transaction, principal.scope(), backup)
        .await?
        .ok_or(ErrorCode::BackupNotFound)?;
    audited::touched(&backup.tenant, &backup.project);
    must_be_ready(&backup)?;
    must_open(app, &backup)?;
    // What the operator suspended is not got around by way of a backup.
    let source = lock(&transaction, &backup.tenant).await?;
    if let Some(source) = &source
        && source.suspended_by == Some(Party::Operator)
        && principal.party() == Party::Owner
    {
        return Err(ErrorCode::SuspendedByOperator.into());
    }
    let (tenant, shown, mode) = match &wanted.name {
        Some(name) => {
            let new = Beside {
                id: &id,
                name,
                keys: &keys,
                backup: &backup,
                lifetime: wanted.lifetime,
                source: source.as_ref(),
            };
            let tenant = beside(app, principal, &transaction, new).await?;
            (tenant, Some(&password), "beside")
        }
        None => (in_place_of(source)?, None, "in_place"),
    };
    let new = restores::New {
        backup: &backup.id,
        project: &tenant.project,
        tenant: &tenant.id,
        mode,
        wants_safety: wanted.safety && mode == "in_place",
        time_max: wanted.time_max,
    };
    let restore =
        restores::insert(&transaction, new)
            .await
            .map_err(|error| match error.constraint() {
                Some("restore_under_way") => ApiError::with(
                    ErrorCode::WrongState,
                    format!("database {} is being restored", tenant.name),
                )
                .hint("wait until that restore has ended"),
                _ => error.into(),
            })?;
    let answer = RestoreResponse::of(&restore, Some(describe(app, &tenant, shown)));
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::CREATED, &body, Kept::Ahead)
        .await?;
    reached(Step::RestoreCommit, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    app.backups.wake();
    app.passes.wake();
    audited::touched(&tenant.id, &tenant.project);
    audited::made(&restore.id);
    tracing::info!(tenant = %tenant.id, backup = %backup.id, mode, "a restore was asked for");
    reached(Step::RestoreCommit, Moment::After).await;
    Ok(answer)
}

fn must_be_ready(backup: &Backup) -> ApiResult<()> {
    let hint = match backup.state {
        State::Ready => return Ok(()),
        State::Waiting | State::Running => "wait until it is ready",
        State::Failed => "it could not be made; see its last_error",
        State::Deleting => "it was deleted",
    };
    Err(ApiError::with(
        ErrorCode::WrongState,
        format!("backup {} is {}", backup.id, backup.state.as_str()),
    )
    .hint(hint))
}

/// What is known not to open is refused at once.
fn must_open(app: &App, backup: &Backup) -> ApiResult<()> {
    if !key::is_of_another(&app.keys, backup) {
        return Ok(());
    }
    Err(ApiError::with(
        ErrorCode::BackupKeyWrong,
        format!(
            "backup {} was made under another installation.key than the one in use; nothing was touched",
            backup.id
        ),
    )
    .hint("it opens only where that key is back; backups that were made since can be restored"))
}

/// The database that a restore in place replaces.
fn in_place_of(source: Option<Tenant>) -> ApiResult<Tenant> {
    let tenant = source.ok_or_else(|| {
        ApiError::with(ErrorCode::WrongState, "the database of this backup is gone")
            .hint("restore it as a new database: say by which name")
    })?;
    if tenant.state.after(TenantEvent::Reset).is_err() {
        return Err(ApiError::with(
            ErrorCode::WrongState,
            format!("database {} is {}", tenant.name, tenant.state),
        )
        .hint("a database is restored in place while it is ACTIVE; any backup can be restored as a new database"));
    }
    Ok(tenant)
}

/// A new database to be filled.
struct Beside<'a> {
    id: &'a TenantId,
    name: &'a TenantName,
    keys: &'a wire::scram::Keys,
    backup: &'a Backup,
    lifetime: Lifetime,
    /// What the backup was made of, if that is still there.
    source: Option<&'a Tenant>,
}

/// Refuses one database more than the project may have.
async fn must_have_room(
    app: &App,
    principal: &Principal,
    transaction: &deadpool_postgres::Transaction<'_>,
    project: &ProjectId,
) -> ApiResult<()> {
    let Some(quota) = principal.quota(app) else {
        return Ok(());
    };
    lock_project(transaction, project).await?;
    match count(transaction, project).await? >= i64::from(quota) {
        true => Err(quota_exceeded(quota)),
        false => Ok(()),
    }
}

async fn beside(
    app: &App,
    principal: &Principal,
    transaction: &deadpool_postgres::Transaction<'_>,
    new: Beside<'_>,
) -> ApiResult<Tenant> {
    let project = &new.backup.project;
    must_have_room(app, principal, transaction, project).await?;
    let expires_at = new.lifetime.ends_at(transaction).await?;
    let pid = Pid::random(&mut rand::rng());
    let sql = "INSERT INTO placement (pid, node, owner) VALUES ($1, $2, 'tenant')";
    catalog::execute(transaction, sql, &[&pid.as_str(), &app.node.name()]).await?;
    let sql = "INSERT INTO tenant (id, project_id, name, state, pid, expires_at)
        VALUES ($1, $2, $3, 'CREATING', $4, $5)";
    catalog::execute(
        transaction,
        sql,
        &[
            &new.id.as_str(),
            &project.as_str(),
            &new.name.as_str(),
            &pid.as_str(),
            &expires_at,
        ],
    )
    .await
    .map_err(|error| not_made(new.name, error))?;
    let of = (Role::Admin, None);
    credential::store::insert_password(transaction, new.id, of, new.keys, principal.maker())
        .await?;
    if let Some(source) = new.source {
        limits::store::carry(transaction, &source.id, new.id).await?;
        user::store::inherit(transaction, new.id, &source.id).await?;
    }
    let tenant = read(transaction, new.id).await?;
    tenant.ok_or_else(|| ErrorCode::DatabaseNotFound.into())
}

/// The backup was read through: from here on the database is being replaced.
pub(super) async fn in_place(app: &Arc<App>, restore: &Restore) -> Result<(), CatalogError> {
    reached(Step::RestoreBegin, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let tenant = lock(&transaction, &restore.tenant).await?;
    let tenant = match tenant {
        Some(tenant) if tenant.state.after(TenantEvent::Reset).is_ok() => tenant,
        other => {
            let state = other.map_or("gone".to_owned(), |tenant| tenant.state.to_string());
            let error = format!("the database is {state}, and was not touched");
            let code = ErrorCode::WrongState.as_str();
            restores::refuse(&transaction, &restore.id, code, &error).await?;
            transaction.commit().await?;
            return Ok(());
        }
    };
    let safety = match restore.wants_safety {
        true => {
            let new = store::New {
                tenant: &tenant.id,
                project: &tenant.project,
                name: tenant.name.as_str(),
                kind: "safety",
                moment: None,
                is_kept: true,
                is_due: false,
            };
            Some(store::insert(&transaction, new).await?.id)
        }
        false => None,
    };
    let node = app.node.name();
    restores::begin(&transaction, &restore.id, &tenant.id, node, safety.as_ref()).await?;
    let change = changes::mark(&transaction, &tenant.id).await?;
    reached(Step::RestoreBegin, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    app.changes.announce(change);
    app.passes.wake();
    tracing::info!(tenant = %tenant.id, backup = %restore.backup, "a database is being restored");
    reached(Step::RestoreBegin, Moment::After).await;
    Ok(())
}

/// Destroys the key of a database's backups, and has them removed. Returns how many there were.
pub(super) async fn erase(
    app: &Arc<App>,
    principal: &Principal,
    key: &DatabaseKey,
) -> ApiResult<(Tenant, u64)> {
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let tenant = change::find(&transaction, principal, key, Purpose::Change).await?;
    key::destroy(&transaction, &app.keys, &tenant.id).await?;
    let removed = store::begin_remove_all(&transaction, &tenant.id).await?;
    transaction.commit().await?;
    drop(client);
    app.backups.wake();
    audited::touched(&tenant.id, &tenant.project);
    tracing::info!(tenant = %tenant.id, backups = removed, "the key of a database's backups was destroyed");
    Ok((tenant, removed))
}
