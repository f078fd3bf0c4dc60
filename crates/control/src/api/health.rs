//! Whether we live, whether we can work, what we offer, and whether all is as it should be.

use std::{
    sync::{Arc, LazyLock, atomic::Ordering},
    time::Duration,
};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use model::Pid;
use node::{
    NodeError,
    check::{Checked, Expected, ExpectedState, Part},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::{
    App,
    auth::Principal,
    error::{ApiError, ApiResult, ErrorBody, ErrorCode},
    extract::Params,
};
use crate::{
    backup::restores,
    placement::{Stage, store},
};

/// A word about our state.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Health)))]
pub(crate) async fn healthz() -> axum::Json<Health> {
    axum::Json(Health { status: "ok" })
}

/// The catalog answers, and we are not stopping.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = Health), (status = 503, body = ErrorBody)))]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> ApiResult<axum::Json<Health>> {
    if app.draining.load(Ordering::Relaxed) {
        return Err(ErrorCode::Draining.into());
    }
    if !app.catalog.answers().await {
        return Err(ErrorCode::CatalogUnavailable.into());
    }
    Ok(axum::Json(Health { status: "ok" }))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "health",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub(crate) async fn document() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(super::openapi_document);
    (
        [(header::CONTENT_TYPE, "application/json")],
        DOCUMENT.as_str(),
    )
        .into_response()
}

/// What the checker found.
#[derive(Serialize, ToSchema)]
pub(crate) struct CheckReport {
    /// Whether nothing was found.
    clean: bool,
    /// Databases that were compared, in this part.
    checked: usize,
    /// Databases on the server.
    total: usize,
    /// Of a check in parts: ask with this as `after` for the next one; null: this was the last.
    next_after: Option<String>,
    /// What is not as it should be.
    findings: Vec<CheckFinding>,
    /// Restores and restore drills that fill a database now, 100 at most, in the first part: what they make on the server, and open for
    /// themselves, is no finding until they have ended.
    under_way: Vec<CheckUnderWay>,
}

/// What changes the server while it is compared.
#[derive(Serialize, ToSchema)]
pub(crate) struct CheckUnderWay {
    /// `restore` or `drill`.
    kind: String,
    /// Of the restore or the drill.
    id: String,
    database_id: String,
    /// Name of the database on the server that is filled.
    subject: String,
    begun_at: DateTime<Utc>,
}

/// One thing that is not as it should be.
#[derive(Serialize, ToSchema)]
pub(crate) struct CheckFinding {
    /// What kind.
    kind: String,
    /// Name of the database, role or file.
    subject: String,
    /// What was found.
    detail: String,
}

/// Most databases in one part of a check.
const PART_MAX: usize = 1000;
/// When a look at a part ends, however many databases were asked for. There are two looks at most, and one
/// database may take longer than this: the answer comes before the request's own end, and says how far it went.
const PART_TIME_MAX: Duration = Duration::from_secs(10);

/// Which part of a check.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CheckQuery {
    /// So many databases at most, 1 to 1,000, and fewer after ten seconds: a check in parts. All of them when
    /// left out, which is too long a request for hundreds of databases.
    limit: Option<usize>,
    /// `next_after` of the part before. The first part also compares what all databases share.
    after: Option<String>,
}

/// Compares the catalog with the server. Operator only; changes nothing.
#[utoipa::path(get, path = "/operator/check", tag = "operator", security(("bearer" = [])),
    params(CheckQuery),
    responses((status = 200, body = CheckReport), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 502, body = ErrorBody)))]
pub(crate) async fn check(
    State(app): State<Arc<App>>,
    principal: Principal,
    Params(query): Params<CheckQuery>,
) -> ApiResult<axum::Json<CheckReport>> {
    principal.is_operator()?;
    let after = query.after.as_deref().map(str::parse::<Pid>).transpose();
    let after = after.map_err(|_| {
        ApiError::with(
            ErrorCode::InvalidField,
            "after is what another part answered as next_after",
        )
    })?;
    if query
        .limit
        .is_some_and(|limit| !(1..=PART_MAX).contains(&limit))
    {
        return Err(ApiError::with(
            ErrorCode::InvalidField,
            format!("limit is 1 to {PART_MAX}"),
        ));
    }
    let part = || {
        query.limit.map_or(Part::ALL, |count| Part {
            count,
            until: Some(Instant::now() + PART_TIME_MAX),
        })
    };
    // Before the look, so that what ends meanwhile is told, too.
    let under_way = match after {
        None => restores::fills(&app.catalog.get().await?).await?,
        Some(_) => Vec::new(),
    };
    let mut checked = look(&app, after.as_ref(), part()).await?;
    if !checked.findings.is_empty() {
        // Rows and server cannot be read at one moment: what is made or dropped in between looks
        // wrong. It does not look wrong twice.
        let again = look(&app, after.as_ref(), part()).await?;
        // Only what both got to was looked at twice.
        let shorter = [&checked, &again].into_iter().min_by_key(|one| one.count);
        let next_after = shorter.and_then(|one| one.next_after.clone());
        checked.findings.retain(|one| again.findings.contains(one));
        checked = Checked {
            findings: checked.findings,
            next_after,
            count: checked.count.min(again.count),
            total: again.total,
        };
    }
    Ok(axum::Json(CheckReport {
        clean: checked.findings.is_empty(),
        checked: checked.count,
        total: checked.total,
        next_after: checked.next_after.map(|pid| pid.to_string()),
        findings: checked
            .findings
            .into_iter()
            .map(|finding| CheckFinding {
                kind: format!("{:?}", finding.kind),
                subject: finding.subject,
                detail: finding.detail,
            })
            .collect(),
        under_way: under_way
            .into_iter()
            .map(|fill| CheckUnderWay {
                kind: fill.kind,
                id: fill.id,
                database_id: fill.tenant.to_string(),
                subject: fill.pid.database(),
                begun_at: fill.begun_at,
            })
            .collect(),
    }))
}

/// Compares once. A part that begins behind some database leaves out what all share.
async fn look(app: &App, after: Option<&Pid>, part: Part) -> ApiResult<Checked> {
    let failed = |error: NodeError| {
        tracing::warn!(error = %super::error::chain(&error), "the check did not finish");
        ApiError::from(ErrorCode::DatabaseUnreachable)
    };
    let shared = match after {
        Some(_) => Vec::new(),
        None => {
            let expected = expected(app).await?;
            app.node.check_server(&expected).await.map_err(failed)?
        }
    };
    let mut checked = app.node.check_some(after, part).await.map_err(failed)?;
    checked.findings.extend(shared);
    checked.findings.sort_unstable();
    Ok(checked)
}

async fn expected(app: &App) -> ApiResult<Vec<Expected>> {
    let client = app.catalog.get().await?;
    let rows = store::expected(&client, app.node.name()).await?;
    drop(client);
    let expected = rows
        .into_iter()
        .map(|should| {
            let state = match should.stage {
                Stage::Open if should.is_settled => ExpectedState::Open,
                Stage::Closed if should.is_settled && should.is_backed_up => {
                    ExpectedState::BackedUp
                }
                Stage::Closed if should.is_settled => ExpectedState::Closed,
                _ => ExpectedState::Changing,
            };
            Expected {
                pid: should.pid,
                state,
            }
        })
        .collect();
    Ok(expected)
}
