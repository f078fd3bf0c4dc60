//! `/customer/databases/{database}/branch`, `…/branches`, `…/reset` and `…/diff`.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use model::lifecycle::TenantState;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    create::{self, Wanted},
    diff::{self, Diff},
    reset,
    store::{self, Known},
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode, chain},
        extract::{DatabaseKey, Json, Params},
        idempotency::Ticket,
    },
    tenant::{
        self,
        describe::{DatabaseResponse, describe},
        http::{parse_name, parse_password, wait_of},
        lifetime::Lifetime,
    },
};

/// Branches in one answer, at most.
const LIST_MAX: i64 = 1000;
/// Differences are asked of two databases, object by object, by two requests at once at most: each takes
/// two of the connections that creates and copies use, too.
const DIFF_TIME_MAX: Duration = Duration::from_secs(60);
/// The longest time that may be asked for: a copy that takes a day is no branch.
const TIME_MAX_S: u64 = 24 * 3600;

/// How a branch was copied.
#[derive(Serialize, ToSchema)]
pub(crate) struct BranchInfo {
    /// Only what the parent is made of, without rows.
    schema_only: bool,
    /// `file_clone` (files that share their blocks with the parent's), `file_copy`, `wal_log` (pages
    /// through PostgreSQL's log) or `stream` (a dump of one moment, beside open sessions). Null until it
    /// is copied.
    path: Option<String>,
    /// Why not a faster one.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_reason: Option<String>,
    /// Of the copy, when it was made.
    size_bytes: Option<i64>,
    /// How long new transactions of the parent may have waited.
    held_ms: Option<i64>,
    /// How long the copy took.
    copy_ms: Option<i64>,
    copied_at: Option<DateTime<Utc>>,
}

impl From<Known> for BranchInfo {
    fn from(known: Known) -> Self {
        Self {
            schema_only: known.schema_only,
            path: known.path,
            path_reason: known.path_reason,
            size_bytes: known.size_bytes,
            held_ms: known.held_ms,
            copy_ms: known.copy_ms,
            copied_at: known.copied_at,
        }
    }
}

/// What branch to make. Unknown fields are ignored.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct BranchRequest {
    /// Name of the branch, as of any database of the project.
    name: Option<String>,
    /// 12 to 128 characters; generated when left out. The parent's passwords do not open a branch.
    admin_password: Option<String>,
    /// Copy no rows.
    #[serde(default)]
    schema_only: bool,
    /// How long making it may take, with its wait in the queue, before it is CREATE_FAILED. 300 when left
    /// out, 86,400 at most.
    timeout_seconds: Option<u64>,
    /// When the branch is deleted by itself, as in a create. May stand in the query string instead.
    expires: Option<String>,
    /// Not offered: a branch begins as its parent is now.
    snapshot_at: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct BranchQuery {
    /// Seconds to wait until it can be used, 60 at most; answered at once when left out.
    wait: Option<f64>,
    /// As in the body.
    expires: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ResetQuery {
    /// Seconds to wait until it can be used again, 60 at most; answered at once when left out.
    wait: Option<f64>,
}

fn time_max(wanted: Option<u64>) -> ApiResult<Option<Duration>> {
    match wanted {
        None => Ok(None),
        Some(seconds @ 1..=TIME_MAX_S) => Ok(Some(Duration::from_secs(seconds))),
        Some(_) => Err(ApiError::with(
            ErrorCode::InvalidField,
            format!("timeout_seconds is a number from 1 to {TIME_MAX_S}"),
        )),
    }
}

/// Makes a branch: a database that begins as a copy of this one, with an id, an address and a password of
/// its own, shown in this answer only. The parent stays in use. The answer is given at once, unless `wait`
/// is set; the state is then CREATING, later CLONING, and ACTIVE in the end, or CREATE_FAILED with a reason
/// that says what to do.
#[utoipa::path(post, path = "/customer/databases/{database}/branch", tag = "branches",
    security(("bearer" = [])),
    params(("database" = String, Path, description = "id or name of the parent"), BranchQuery),
    request_body = BranchRequest,
    responses(
        (status = 201, body = DatabaseResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Params(query): Params<BranchQuery>,
    Json(request): Json<BranchRequest>,
) -> ApiResult<(StatusCode, axum::Json<DatabaseResponse>)> {
    principal.may_write()?;
    // Before anything else: whose database it is tells nobody else anything.
    tenant::http::read(&app, &principal, &key).await?;
    if request.snapshot_at.is_some() {
        return Err(ApiError::with(
            ErrorCode::InvalidField,
            "snapshot_at is not offered: a branch begins as its parent is now",
        )
        .hint("leave snapshot_at out"));
    }
    let Some(name) = request.name else {
        return Err(ApiError::with(
            ErrorCode::InvalidField,
            "field 'name' is required",
        ));
    };
    let wanted = Wanted {
        name: parse_name(&name)?,
        password: request.admin_password.map(parse_password).transpose()?,
        schema_only: request.schema_only,
        lifetime: Lifetime::of_request(query.expires.as_deref(), request.expires.as_deref())?,
        time_max: time_max(request.timeout_seconds)?.unwrap_or(app.config.limits.branch_time_max),
        wait: wait_of(&app, Some(query.wait.unwrap_or(0.0)))?,
    };
    let body = create::create(&app, &principal, &ticket, &key, wanted).await?;
    Ok((StatusCode::CREATED, axum::Json(body)))
}

/// Branches of a database, oldest first; also those that failed.
#[utoipa::path(get, path = "/customer/databases/{database}/branches", tag = "branches",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name of the parent")),
    responses((status = 200, body = Vec<DatabaseResponse>), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<Vec<DatabaseResponse>>> {
    // Branches are other databases.
    principal.may_see_project()?;
    let parent = tenant::http::read(&app, &principal, &key).await?;
    let client = app.catalog.get().await?;
    let mut answer = Vec::new();
    for (id, known) in store::of_parent(&client, &parent.id, LIST_MAX).await? {
        let Some(branch) = tenant::store::read(&client, &id).await? else {
            continue;
        };
        if branch.project == parent.project {
            answer.push(describe(&app, &branch, None).with_branch(Some(known)));
        }
    }
    Ok(axum::Json(answer))
}

/// How to reset.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct ResetRequest {
    /// As for making a branch; what it was made with, when left out.
    timeout_seconds: Option<u64>,
}

/// Sets a branch back to what its parent is now. Id, address, passwords and limits stay; its own changes
/// are gone. Its sessions end, and it refuses connections until the new copy is there; should that fail, it
/// is as it was before, and `state_reason` says why.
#[utoipa::path(post, path = "/customer/databases/{database}/reset", tag = "branches",
    security(("bearer" = [])),
    params(("database" = String, Path, description = "id or name of the branch"), ResetQuery),
    request_body = ResetRequest,
    responses((status = 200, body = DatabaseResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn reset(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Params(query): Params<ResetQuery>,
    Json(request): Json<ResetRequest>,
) -> ApiResult<axum::Json<DatabaseResponse>> {
    principal.may_write()?;
    let wait = wait_of(&app, Some(query.wait.unwrap_or(0.0)))?;
    let time = time_max(request.timeout_seconds)?;
    let answer = reset::reset(&app, &principal, &ticket, &key, time, wait).await?;
    Ok(axum::Json(answer))
}

/// How a branch differs from its parent: objects added, removed and changed, and rows per table.
#[utoipa::path(get, path = "/customer/databases/{database}/diff", tag = "branches",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name of the branch")),
    responses((status = 200, body = Diff), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 502, body = ErrorBody),
        (status = 504, body = ErrorBody)))]
pub(crate) async fn diff(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<Diff>> {
    // The parent is another database.
    principal.may_see_project()?;
    let branch = tenant::http::read(&app, &principal, &key).await?;
    let client = app.catalog.get().await?;
    if store::known(&client, &branch.id).await?.is_none() {
        return Err(ApiError::with(
            ErrorCode::WrongState,
            format!("database {} is no branch", branch.name),
        )
        .hint("only a branch has a parent to be compared with"));
    }
    let parent = match &branch.parent {
        Some(parent) => tenant::store::read(&client, parent).await?,
        None => None,
    };
    drop(client);
    let parent = parent.ok_or_else(|| {
        ApiError::with(ErrorCode::WrongState, "the parent of this branch is gone")
            .hint("there is nothing left to compare it with")
    })?;
    for tenant in [&parent, &branch] {
        if tenant.state != TenantState::Active {
            return Err(ApiError::with(
                ErrorCode::WrongState,
                format!("database {} is {}", tenant.name, tenant.state),
            )
            .hint("both are compared when they are ACTIVE"));
        }
    }
    let _permit = app
        .diff_permits
        .try_acquire()
        .map_err(|_| ApiError::from(ErrorCode::TooManyRequests))?;
    let look = async {
        let mut sides = Vec::with_capacity(2);
        for tenant in [&parent, &branch] {
            let objects = app.node.objects(&tenant.pid).await?;
            sides.push((objects, app.node.row_counts(&tenant.pid).await?));
        }
        Ok::<_, node::NodeError>(sides)
    };
    let sides = tokio::time::timeout(DIFF_TIME_MAX, look)
        .await
        .map_err(|_| ApiError::from(ErrorCode::Timeout))?
        .map_err(|error| {
            tracing::warn!(branch = %branch.id, error = %chain(&error), "a branch was not compared");
            ApiError::from(ErrorCode::DatabaseUnreachable)
        })?;
    let [parent, branch] =
        <[_; 2]>::try_from(sides).unwrap_or_else(|_| unreachable!("two were asked"));
    Ok(axum::Json(diff::diff(parent, branch)))
}
