//! Whether we live, whether we can work, what we offer, and whether all is as it should be.

use std::sync::{Arc, LazyLock, atomic::Ordering};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use node::check::{Expected, ExpectedState, Finding};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    App,
    auth::Principal,
    error::{ApiError, ApiResult, ErrorBody, ErrorCode},
};
use crate::placement::{Stage, store};

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
    /// Placements that were compared.
    checked: usize,
    /// What is not as it should be.
    findings: Vec<CheckFinding>,
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

/// Compares the catalog with the server. Operator only; changes nothing.
#[utoipa::path(get, path = "/operator/check", tag = "operator", security(("bearer" = [])),
    responses((status = 200, body = CheckReport), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 502, body = ErrorBody)))]
pub(crate) async fn check(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> ApiResult<axum::Json<CheckReport>> {
    principal.is_operator()?;
    let (mut expected, mut findings) = look(&app).await?;
    if !findings.is_empty() {
        // Rows and server cannot be read at one moment: what is made or dropped in between looks
        // wrong. It does not look wrong twice.
        let (again, found) = look(&app).await?;
        expected = again;
        findings.retain(|finding| found.contains(finding));
    }
    Ok(axum::Json(CheckReport {
        clean: findings.is_empty(),
        checked: expected,
        findings: findings
            .into_iter()
            .map(|finding| CheckFinding {
                kind: format!("{:?}", finding.kind),
                subject: finding.subject,
                detail: finding.detail,
            })
            .collect(),
    }))
}

/// Compares once: how many placements there are, and what was found.
async fn look(app: &App) -> ApiResult<(usize, Vec<Finding>)> {
    let client = app.catalog.get().await?;
    let rows = store::expected(&client, app.node.name()).await?;
    drop(client);
    let expected: Vec<Expected> = rows
        .into_iter()
        .map(|(pid, stage, settled)| {
            let state = match stage {
                Stage::Open if settled => ExpectedState::Open,
                Stage::Closed if settled => ExpectedState::Closed,
                _ => ExpectedState::Changing,
            };
            Expected { pid, state }
        })
        .collect();
    let findings = app.node.check(&expected).await.map_err(|error| {
        tracing::warn!(error = %super::error::chain(&error), "the check did not finish");
        ApiError::from(ErrorCode::DatabaseUnreachable)
    })?;
    Ok((expected.len(), findings))
}
