//! `/customer/databases/{database}/backups`, `/customer/backups` and `/customer/restores`.

use std::{sync::Arc, time::Duration};

use axum::{extract::State as Has, http::StatusCode};
use chrono::{DateTime, Utc};
use model::{BackupId, RestoreId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::{
    moment,
    restores::{self, Restore},
    start::{self, Asked, Wanted},
    store::{self, Backup, State},
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{BackupKey, DatabaseKey, Json, Params, RestoreKey},
        idempotency::Ticket,
    },
    audited,
    tenant::{
        self,
        describe::{DatabaseResponse, describe},
        http::{parse_name, parse_password, wait_of},
        lifetime::Lifetime,
    },
};

/// Backups in one answer, at most.
const LIST_MAX: i64 = 1000;
/// The longest time that may be asked for.
const TIME_MAX_S: u64 = 7 * 24 * 3600;
/// Between two looks at a row, should a wake-up be lost or come from another process.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A backup.
#[derive(Serialize, ToSchema)]
pub(crate) struct BackupResponse {
    id: String,
    database_id: String,
    /// Of the database, when it was backed up.
    database_name: String,
    /// `manual`; `moment`: of what the database was at `moment`; `safety`: made by a restore, of what it replaced;
    /// `scheduled`.
    kind: String,
    /// `waiting`, `running`, `ready`, `failed` (see `last_error`) or `deleting`.
    state: &'static str,
    created_at: DateTime<Utc>,
    /// When it was ready.
    finished_at: Option<DateTime<Utc>>,
    took_ms: Option<i64>,
    /// Of what is stored, compressed and encrypted.
    size_bytes: Option<i64>,
    /// Of the dump in it.
    dump_bytes: Option<i64>,
    tables: Option<i32>,
    rows: Option<i64>,
    /// Why it is not ready, was not removed, or, while `verifying`, was not read yet; it is tried again unless `state` is
    /// `failed`. Of a ready one that nobody reads: why `verify` gave up; the backup counts as what it was before.
    last_error: Option<String>,
    /// When all of it was read last, by `verify`.
    verified_at: Option<DateTime<Utc>>,
    /// What was wrong with it then; null: nothing. Also, without being read, that it was made under another `installation.key`
    /// than the one in use.
    verify_error: Option<String>,
    /// Whether it is being read now.
    verifying: bool,
    /// When it is deleted by itself; null: never, or `keep` is false and it is still being made.
    expires_at: Option<DateTime<Utc>>,
    /// False: it is deleted by itself once it was restored.
    keep: bool,
    /// When the database was what it holds, by the clock of PostgreSQL: what was confirmed to be committed before is in it. Null:
    /// it is not ready; or it is of a version that did not write that down, and holds a moment between `created_at` and
    /// `finished_at`.
    moment: Option<DateTime<Utc>>,
}

impl From<&Backup> for BackupResponse {
    fn from(backup: &Backup) -> Self {
        Self {
            id: backup.id.to_string(),
            database_id: backup.tenant.to_string(),
            database_name: backup.tenant_name.clone(),
            kind: backup.kind.clone(),
            state: backup.state.as_str(),
            created_at: backup.created_at,
            finished_at: backup.finished_at,
            took_ms: backup.took_ms,
            size_bytes: backup.size_bytes,
            dump_bytes: backup.dump_bytes,
            tables: backup.tables,
            rows: backup.rows,
            last_error: backup.last_error.clone(),
            verified_at: backup.verified_at,
            verify_error: backup.verify_error.clone(),
            verifying: backup.is_to_be_verified,
            expires_at: backup.expires_at,
            moment: backup.moment,
            keep: backup.is_kept,
        }
    }
}

/// A restore.
#[derive(Serialize, ToSchema)]
pub(crate) struct RestoreResponse {
    id: String,
    backup_id: String,
    database_id: String,
    /// `in_place` or `beside`.
    mode: String,
    /// `verifying` (all of the backup is read; nothing is touched yet), `filling`, `done` or `failed`.
    state: String,
    /// Why it failed, or why the last attempt did: as `code` of an error.
    error_code: Option<String>,
    error: Option<String>,
    /// The backup that was made of what is replaced.
    safety_backup_id: Option<String>,
    begun_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    /// From the request to the first possible connection.
    took_ms: Option<i64>,
    /// The database that becomes what the backup holds. With a password in the answer that made it only.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<DatabaseResponse>,
}

impl RestoreResponse {
    pub(super) fn of(restore: &Restore, database: Option<DatabaseResponse>) -> Self {
        Self {
            id: restore.id.to_string(),
            backup_id: restore.backup.to_string(),
            database_id: restore.tenant.to_string(),
            mode: restore.mode.clone(),
            state: restore.state.clone(),
            error_code: restore.error_code.clone(),
            error: restore.error.clone(),
            safety_backup_id: restore.safety.as_ref().map(BackupId::to_string),
            begun_at: restore.begun_at,
            ended_at: restore.ended_at,
            took_ms: restore.took_ms,
            database,
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.state.as_str(), "done" | "failed")
    }
}

/// What an erasure came to.
#[derive(Serialize, ToSchema)]
pub(crate) struct Erased {
    database_id: String,
    /// Backups that nothing opens any more. What is stored of them is being removed.
    backups: u64,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Seconds to wait until it has ended, 60 at most; answered at once when left out.
    pub(super) wait: Option<f64>,
}

/// How to restore. Unknown fields are ignored.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct RestoreRequest {
    /// Make a new database of this name; in place of the one that was backed up, when left out.
    name: Option<String>,
    /// Of a new database: 12 to 128 characters; generated when left out.
    admin_password: Option<String>,
    /// Of a new database: when it is deleted by itself.
    expires: Option<String>,
    /// In place: back up what is replaced first. True when left out.
    safety_backup: Option<bool>,
    /// How long it may take, with its wait in the queue. 21,600 when left out, 604,800 at most.
    timeout_seconds: Option<u64>,
}

/// What to back up. Unknown fields are ignored.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct BackupRequest {
    /// What the database was at this moment (RFC 3339), recovered from the history of its node; what it is now, when
    /// left out.
    at: Option<String>,
    /// False: it is made only to be restored, by somebody who waits for it. It is given up when nobody asked for it (with its id, or by `wait`) for
    /// five minutes while it was being made, and deleted by itself once its restore has ended, or when nobody restored it for an hour.
    /// True when left out.
    keep: Option<bool>,
    /// A new database of this name will be made of it: refused now, where that would be refused (the name is taken, the project has as many
    /// databases as it may have). Nothing is made of it by itself, and a restore asks again.
    restore_as: Option<String>,
}

/// Has a database backed up: one moment of it, while it stays in use. With `at`, a moment that is past: then
/// the node is recovered to it in a server of its own, and what the database was is read there. The answer is
/// given at once, unless `wait` is set.
#[utoipa::path(post, path = "/customer/databases/{database}/backups", tag = "backups",
    operation_id = "create_backup", security(("bearer" = [])),
    params(("database" = String, Path, description = "id or name"), WaitQuery),
    request_body = BackupRequest,
    responses((status = 201, body = BackupResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn create(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Params(query): Params<WaitQuery>,
    Json(request): Json<BackupRequest>,
) -> ApiResult<(StatusCode, axum::Json<BackupResponse>)> {
    principal.may_write()?;
    let wait = wait_of(&app, Some(query.wait.unwrap_or(0.0)))?;
    let moment = request.at.as_deref().map(moment::parse_moment);
    let restore_as = request.restore_as.as_deref().map(parse_name);
    let asked = Asked {
        restore_as: restore_as.transpose()?,
        moment: moment.transpose()?,
        is_kept: request.keep.unwrap_or(true),
    };
    let backup = start::backup(&app, &principal, &ticket, &key, asked).await?;
    let done = |backup: &Backup| !matches!(backup.state, State::Waiting | State::Running);
    let backup = wait_for(&app, backup, wait, done).await?;
    Ok((StatusCode::CREATED, axum::Json((&backup).into())))
}

/// Backups of a database, newest first.
#[utoipa::path(get, path = "/customer/databases/{database}/backups", tag = "backups",
    operation_id = "list_backups_of_database", security(("bearer" = [])),
    params(("database" = String, Path, description = "id or name")),
    responses((status = 200, body = Vec<BackupResponse>), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn list(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<Vec<BackupResponse>>> {
    let tenant = tenant::http::read(&app, &principal, &key).await?;
    let client = app.catalog.get().await?;
    let found = store::list(&client, principal.scope(), Some(&tenant.id), LIST_MAX).await?;
    Ok(axum::Json(found.iter().map(BackupResponse::from).collect()))
}

/// Destroys the key of a database's backups: nothing opens them any more, wherever copies of them are. What
/// is stored is removed. The database itself stays; a later backup of it gets a key of its own.
#[utoipa::path(post, path = "/customer/databases/{database}/backups/erase", tag = "backups",
    operation_id = "erase_backups", security(("bearer" = [])),
    params(("database" = String, Path, description = "id or name")),
    responses((status = 200, body = Erased), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn erase(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<Erased>> {
    principal.may_write()?;
    let (tenant, backups) = start::erase(&app, &principal, &key).await?;
    Ok(axum::Json(Erased {
        database_id: tenant.id.to_string(),
        backups,
    }))
}

/// Backups of all databases, also of those that are gone; newest first.
#[utoipa::path(get, path = "/customer/backups", tag = "backups", operation_id = "list_backups",
    security(("bearer" = [])),
    responses((status = 200, body = Vec<BackupResponse>), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody)))]
pub(crate) async fn list_all(
    Has(app): Has<Arc<App>>,
    principal: Principal,
) -> ApiResult<axum::Json<Vec<BackupResponse>>> {
    principal.may_see_project()?;
    let client = app.catalog.get().await?;
    let found = store::list(&client, principal.scope(), None, LIST_MAX).await?;
    Ok(axum::Json(found.iter().map(BackupResponse::from).collect()))
}

/// One backup.
#[utoipa::path(get, path = "/customer/backups/{backup}", tag = "backups", operation_id = "get_backup",
    security(("bearer" = [])), params(("backup" = String, Path, description = "id")),
    responses((status = 200, body = BackupResponse), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn get(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    BackupKey(key): BackupKey,
) -> ApiResult<axum::Json<BackupResponse>> {
    let backup = find(&app, &principal, key).await?;
    if !backup.is_kept {
        store::watch(&app.catalog.get().await?, &backup.id).await?;
    }
    Ok(axum::Json((&backup).into()))
}

/// Deletes a backup. One that is being made is given up at once, with all that works for it. Deleting twice is fine while it is
/// being removed.
#[utoipa::path(delete, path = "/customer/backups/{backup}", tag = "backups", operation_id = "delete_backup",
    security(("bearer" = [])), params(("backup" = String, Path, description = "id")),
    responses((status = 200, body = BackupResponse), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn delete(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    BackupKey(key): BackupKey,
) -> ApiResult<axum::Json<BackupResponse>> {
    principal.may_write()?;
    let backup = find(&app, &principal, key).await?;
    let client = app.catalog.get().await?;
    if restores::needs(&client, &backup.id).await? {
        return Err(ApiError::with(
            ErrorCode::WrongState,
            format!("backup {} is being restored", backup.id),
        )
        .hint("wait until the restore, or the restore drill, has ended"));
    }
    store::begin_remove(&client, &backup.id).await?;
    drop(client);
    app.backups.wake();
    let backup = Backup {
        state: State::Deleting,
        ..backup
    };
    Ok(axum::Json((&backup).into()))
}

/// Has all of a backup read: whether it is what was written, and opens. Touches nothing.
#[utoipa::path(post, path = "/customer/backups/{backup}/verify", tag = "backups", operation_id = "verify_backup",
    security(("bearer" = [])), params(("backup" = String, Path, description = "id"), WaitQuery),
    responses((status = 200, body = BackupResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn verify(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    BackupKey(key): BackupKey,
    Params(query): Params<WaitQuery>,
) -> ApiResult<axum::Json<BackupResponse>> {
    principal.may_write()?;
    let wait = wait_of(&app, Some(query.wait.unwrap_or(0.0)))?;
    let backup = find(&app, &principal, key).await?;
    if backup.state != State::Ready {
        return Err(ApiError::with(
            ErrorCode::WrongState,
            format!("backup {} is {}", backup.id, backup.state.as_str()),
        )
        .hint("a backup is verified when it is ready"));
    }
    let client = app.catalog.get().await?;
    store::ask_verify(&client, &backup.id).await?;
    drop(client);
    app.backups.wake();
    let asked = Backup {
        is_to_be_verified: true,
        ..backup
    };
    let backup = wait_for(&app, asked, wait, |backup| !backup.is_to_be_verified).await?;
    Ok(axum::Json((&backup).into()))
}

/// Restores a backup: as a new database, or in place of the one that was backed up, whose id, address,
/// passwords and limits stay. First all of the backup is read; one that is damaged, of another database, or
/// made with another key is refused before anything is touched. In place, sessions end then, what is replaced
/// is backed up, and nobody comes in until the database is whole again; should it fail, it is as it was
/// before. The answer is given at once, unless `wait` is set.
#[utoipa::path(post, path = "/customer/backups/{backup}/restore", tag = "backups", operation_id = "restore_backup",
    security(("bearer" = [])), params(("backup" = String, Path, description = "id"), WaitQuery),
    request_body = RestoreRequest,
    responses((status = 201, body = RestoreResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn restore(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    BackupKey(key): BackupKey,
    Params(query): Params<WaitQuery>,
    Json(request): Json<RestoreRequest>,
) -> ApiResult<(StatusCode, axum::Json<RestoreResponse>)> {
    principal.may_write()?;
    let time_max = match request.timeout_seconds {
        None => app.config.limits.restore_time_max,
        Some(seconds @ 1..=TIME_MAX_S) => Duration::from_secs(seconds),
        Some(_) => {
            return Err(ApiError::with(
                ErrorCode::InvalidField,
                format!("timeout_seconds is a number from 1 to {TIME_MAX_S}"),
            ));
        }
    };
    let wanted = Wanted {
        name: request.name.as_deref().map(parse_name).transpose()?,
        password: request.admin_password.map(parse_password).transpose()?,
        lifetime: Lifetime::of_request(None, request.expires.as_deref())?,
        safety: request.safety_backup.unwrap_or(true),
        time_max,
    };
    let wait = wait_of(&app, Some(query.wait.unwrap_or(0.0)))?;
    let id = key.ok_or(ErrorCode::BackupNotFound)?;
    let mut answer = start::restore(&app, &principal, &ticket, &id, wanted).await?;
    let until = Instant::now() + wait;
    while !answer.has_ended() && Instant::now() < until {
        // What is heard of is a step of a placement, or the end of reading a backup.
        let (passes, backups) = (app.passes.changed(), app.backups.changed());
        let heard = async {
            tokio::select! { () = passes => {}, () = backups => {} }
        };
        let look = LOOK_EVERY.min(until - Instant::now());
        let _ = tokio::time::timeout(look, heard).await;
        let Ok(id) = answer.id.parse() else { break };
        let now = look_at(&app, &id).await?;
        let shown = answer.database.take();
        let state = now.database.as_ref();
        answer = RestoreResponse {
            database: shown.map(|shown| shown.in_state_of(state)),
            ..now
        };
    }
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

/// One restore, with its database as it is now.
#[utoipa::path(get, path = "/customer/restores/{restore}", tag = "backups", operation_id = "get_restore",
    security(("bearer" = [])), params(("restore" = String, Path, description = "id")),
    responses((status = 200, body = RestoreResponse), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn get_restore(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    RestoreKey(key): RestoreKey,
) -> ApiResult<axum::Json<RestoreResponse>> {
    let id = key.ok_or(ErrorCode::RestoreNotFound)?;
    let client = app.catalog.get().await?;
    let found = restores::find(&client, principal.scope(), &id).await?;
    drop(client);
    found.ok_or_else(|| not_found(&principal, ErrorCode::RestoreNotFound))?;
    Ok(axum::Json(look_at(&app, &id).await?))
}

async fn look_at(app: &App, id: &RestoreId) -> ApiResult<RestoreResponse> {
    let client = app.catalog.get().await?;
    let restore = restores::read(&client, id)
        .await?
        .ok_or(ErrorCode::RestoreNotFound)?;
    let tenant = tenant::store::read(&client, &restore.tenant).await?;
    let mut answer = RestoreResponse::of(
        &restore,
        tenant.as_ref().map(|tenant| describe(app, tenant, None)),
    );
    // A new database that could not be made: the restore goes on when it is resumed.
    if let Some(tenant) = tenant
        && tenant.state == model::lifecycle::TenantState::CreateFailed
        && answer.state == "filling"
    {
        answer.state = "failed".to_owned();
    }
    Ok(answer)
}

/// To a token that is bound to some databases, what is another's and what does not exist are the same.
fn not_found(principal: &Principal, code: ErrorCode) -> ApiError {
    match principal.not_found() {
        bound if bound.code == ErrorCode::NotInScope => bound,
        _ => code.into(),
    }
}

async fn find(app: &App, principal: &Principal, key: Option<BackupId>) -> ApiResult<Backup> {
    let id = key.ok_or(ErrorCode::BackupNotFound)?;
    let client = app.catalog.get().await?;
    let found = store::find(&client, principal.scope(), &id).await?;
    let found = found.ok_or_else(|| not_found(principal, ErrorCode::BackupNotFound))?;
    audited::touched(&found.tenant, &found.project);
    Ok(found)
}

/// Waits until `done` says so, at most `wait`; returns the row as it is then.
async fn wait_for(
    app: &App,
    mut backup: Backup,
    wait: Duration,
    done: impl Fn(&Backup) -> bool,
) -> ApiResult<Backup> {
    let until = Instant::now() + wait;
    loop {
        let changed = app.backups.changed();
        if done(&backup) || Instant::now() >= until {
            return Ok(backup);
        }
        let look = LOOK_EVERY.min(until - Instant::now());
        let _ = tokio::time::timeout(look, changed).await;
        let client = app.catalog.get().await?;
        if !backup.is_kept {
            store::watch(&client, &backup.id).await?;
        }
        backup = store::read(&client, &backup.id)
            .await?
            .ok_or(ErrorCode::BackupNotFound)?;
    }
}
