//! `/operator/drills`: restore drills, and asking for one.

use std::{sync::Arc, time::Duration};

use axum::{extract::State as Has, http::StatusCode};
use chrono::{DateTime, Utc};
use model::TenantId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{
    drills::{self, Drill},
    http::WaitQuery,
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{Json, Params},
        idempotency::{Kept, Ticket},
    },
    audited,
    placement::step::{Moment, Step, reached},
    tenant::http::wait_of,
};

/// Drills in one answer.
const LIST_MAX: i64 = 100;
/// Between two looks at a row, should a wake-up be lost or come from another process.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A restore drill.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DrillResponse {
    id: String,
    backup_id: String,
    database_id: String,
    /// Of the database, when it was backed up.
    database_name: String,
    by_schedule: bool,
    /// `running`, `passed` or `failed`.
    state: String,
    asked_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    /// From the first byte that was read to the end of the comparison: so long a restore takes.
    took_ms: Option<i64>,
    /// Of the backup, as it is stored.
    size_bytes: Option<i64>,
    /// Of the dump in it.
    dump_bytes: Option<i64>,
    tables: Option<i32>,
    rows: Option<i64>,
    /// Why it failed, or why the last attempt did: as `code` of an error.
    error_code: Option<String>,
    error: Option<String>,
    /// Whether nothing is left of what it made.
    dropped: bool,
}

impl From<&Drill> for DrillResponse {
    fn from(drill: &Drill) -> Self {
        Self {
            id: drill.id.to_string(),
            backup_id: drill.backup.to_string(),
            database_id: drill.tenant.to_string(),
            database_name: drill.tenant_name.clone(),
            by_schedule: drill.by_schedule,
            state: drill.state.clone(),
            asked_at: drill.asked_at,
            ended_at: drill.ended_at,
            took_ms: drill.took_ms,
            size_bytes: drill.size_bytes,
            dump_bytes: drill.dump_bytes,
            tables: drill.tables,
            rows: drill.rows,
            error_code: drill.error_code.clone(),
            error: drill.error.clone(),
            dropped: !drill.is_there,
        }
    }
}

/// What to drill. Unknown fields are ignored.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct DrillRequest {
    /// The newest good backup of this database; of the one that was drilled longest ago, when left out.
    database_id: Option<String>,
}

/// The last 100 restore drills, newest first.
#[utoipa::path(get, path = "/operator/drills", tag = "operator", operation_id = "list_drills",
    security(("bearer" = [])),
    responses((status = 200, body = Vec<DrillResponse>), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody)))]
pub(crate) async fn list(
    Has(app): Has<Arc<App>>,
    principal: Principal,
) -> ApiResult<axum::Json<Vec<DrillResponse>>> {
    principal.is_operator()?;
    let client = app.catalog.get().await?;
    let found = drills::list(&client, LIST_MAX).await?;
    Ok(axum::Json(found.iter().map(DrillResponse::from).collect()))
}

/// Restores a backup where nobody can reach it, compares it with what was counted and hashed when it was made, notes
/// how long that took, and drops it. There is one drill at a time. The answer is given at once, unless `wait` is set.
#[utoipa::path(post, path = "/operator/drills", tag = "operator", operation_id = "create_drill",
    security(("bearer" = [])), params(WaitQuery), request_body = DrillRequest,
    responses((status = 201, body = DrillResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn create(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    Params(query): Params<WaitQuery>,
    Json(request): Json<DrillRequest>,
) -> ApiResult<(StatusCode, axum::Json<DrillResponse>)> {
    principal.is_operator()?;
    let wait = wait_of(&app, Some(query.wait.unwrap_or(0.0)))?;
    let tenant = match &request.database_id {
        None => None,
        Some(id) => Some(
            id.parse::<TenantId>()
                .map_err(|_| ErrorCode::BackupNotFound)?,
        ),
    };
    let mut drill = ask(&app, &ticket, tenant.as_ref()).await?;
    let until = Instant::now() + wait;
    while drill.state == "running" && Instant::now() < until {
        let look = LOOK_EVERY.min(until - Instant::now());
        let _ = tokio::time::timeout(look, app.passes.changed()).await;
        let client = app.catalog.get().await?;
        let Some(now) = drills::read(&client, &drill.id).await? else {
            break;
        };
        drill = now;
    }
    Ok((StatusCode::CREATED, axum::Json((&drill).into())))
}

async fn ask(app: &App, ticket: &Ticket, tenant: Option<&TenantId>) -> ApiResult<Drill> {
    reached(Step::DrillCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let backup = drills::sample(&transaction, tenant).await?.ok_or_else(|| {
        ApiError::with(
            ErrorCode::BackupNotFound,
            "there is no backup that is ready",
        )
        .hint("back a database up first")
    })?;
    let asked = drills::ask(app, &transaction, &backup, false).await?;
    let drill = asked.ok_or_else(|| {
        ApiError::with(ErrorCode::WrongState, "a restore drill is under way")
            .hint("there is one at a time; wait until it has ended")
    })?;
    let body = serde_json::to_vec(&DrillResponse::from(&drill)).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::CREATED, &body, Kept::Ahead)
        .await?;
    reached(Step::DrillCommit, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    app.passes.wake();
    audited::made(&drill.id);
    tracing::info!(tenant = %drill.tenant, backup = %backup, drill = %drill.id, "a restore drill was asked for");
    reached(Step::DrillCommit, Moment::After).await;
    Ok(drill)
}
