//! `GET /audit-logs` and `GET /operator/audit`.

use std::sync::Arc;

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::store::{self, Filter};
use crate::api::{
    App,
    auth::{Kind, Principal},
    error::{ApiError, ApiResult, ErrorBody, ErrorCode},
    extract::Params,
};

/// Lines in an answer, when nobody says how many.
const LIMIT_DEFAULT: u32 = 50;
/// At most.
const LIMIT_MAX: u32 = 1000;
/// No project has more that the API shows.
const OFFSET_MAX: u32 = 10_000;

/// Which ones.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// About the database with this id.
    tenant_id: Option<String>,
    /// Such as `create` or `revoke`.
    operation_type: Option<String>,
    /// Such as `database` or `token`.
    resource_type: Option<String>,
    /// Whether it was done.
    success: Option<bool>,
    /// 1 to 1,000; 50 when left out.
    limit: Option<u32>,
    /// How many of the newest to leave out; at most 10,000.
    offset: Option<u32>,
}

/// Something that was done, or that somebody tried.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditEntry {
    id: i64,
    created_at: DateTime<Utc>,
    /// Null: of no project; only the operator sees it.
    project_id: Option<String>,
    /// The database; null: it is about none, or about one that was not found.
    tenant_id: Option<String>,
    operation_type: String,
    resource_type: String,
    /// An id, or a name as the request had it.
    resource_id: Option<String>,
    /// `operator`, `token`, `nobody` (no token was needed), `console`, or `tenantry` (by itself).
    actor_type: String,
    /// The id of the token.
    actor_id: Option<String>,
    ip_address: Option<String>,
    success: bool,
    /// HTTP status of the answer; null: nobody waited for one.
    http_status: Option<i32>,
    /// Of the error, as in docs/errors.md.
    code: Option<String>,
    request_id: Option<String>,
}

/// Lists what was done to the project and its databases, newest first. To the operator: to all. An entry is there
/// a moment after its request was answered; the last 10,000 of a project are. Nothing of a request but its path is
/// among them.
#[utoipa::path(get, path = "/audit-logs", tag = "audit", security(("bearer" = [])),
    operation_id = "list_audit_logs", params(AuditQuery),
    responses((status = 200, body = Vec<AuditEntry>), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    Params(query): Params<AuditQuery>,
) -> ApiResult<axum::Json<Vec<AuditEntry>>> {
    principal.may_see_project()?;
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    let offset = query.offset.unwrap_or(0);
    if !(1..=LIMIT_MAX).contains(&limit) || offset > OFFSET_MAX {
        return Err(ApiError::with(
            ErrorCode::InvalidField,
            format!("limit is 1 to {LIMIT_MAX}, offset 0 to {OFFSET_MAX}"),
        ));
    }
    let project = match principal.kind {
        Kind::Operator => None,
        Kind::Project { .. } => Some(principal.project.as_str()),
    };
    let filter = Filter {
        project,
        tenant: query.tenant_id.as_deref(),
        operation: query.operation_type.as_deref(),
        resource: query.resource_type.as_deref(),
        success: query.success,
        limit: limit.into(),
        offset: offset.into(),
    };
    let client = app.catalog.get().await?;
    let rows = store::list(&client, filter).await?;
    let entries = rows.iter().map(|row| AuditEntry {
        id: row.get(0),
        created_at: row.get(1),
        project_id: Some(row.get(2)).filter(|project: &String| !project.is_empty()),
        tenant_id: row.get(3),
        operation_type: row.get(4),
        resource_type: row.get(5),
        resource_id: row.get(6),
        actor_type: row.get(7),
        actor_id: row.get(8),
        ip_address: row.get(9),
        success: row.get(10),
        http_status: row.get(11),
        code: row.get(12),
        request_id: row.get(13),
    });
    Ok(axum::Json(entries.collect()))
}

/// A signature that covers a file of an audit log up to a line.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditHead {
    /// Name of the data directory.
    chain: String,
    /// `admin` or `connections`.
    stream: String,
    /// Number of the file.
    segment: u64,
    /// Hash of its first line.
    first_hash: String,
    /// Number of the line.
    seq: u64,
    /// Its hash.
    hash: String,
    /// Ed25519, 128 hex digits.
    signature: String,
    at: DateTime<Utc>,
}

/// What is known of the audit logs of this installation beside their files.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditHeads {
    /// Ed25519, 64 hex digits.
    public_key: String,
    /// The data directory of the process that answers.
    chain: String,
    heads: Vec<AuditHead>,
}

/// The last head of every file of the audit logs, as the catalog has them. For the operator: `tenantry audit verify`
/// compares the files with them.
#[utoipa::path(get, path = "/operator/audit", tag = "operator", security(("bearer" = [])),
    operation_id = "audit_heads",
    responses((status = 200, body = AuditHeads), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody)))]
pub(crate) async fn heads(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> ApiResult<axum::Json<AuditHeads>> {
    principal.is_operator()?;
    let client = app.catalog.get().await?;
    let heads = store::heads(&client).await?;
    let heads = heads.into_iter().map(|(known, at)| AuditHead {
        chain: known.chain,
        stream: known.stream.to_string(),
        segment: known.segment,
        first_hash: known.first.to_string(),
        seq: known.link.seq,
        hash: known.link.hash.to_string(),
        signature: known
            .signature
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        at,
    });
    Ok(axum::Json(AuditHeads {
        public_key: app.audit.admin.public_key().to_string(),
        chain: app.audit.admin.chain().to_owned(),
        heads: heads.collect(),
    }))
}
