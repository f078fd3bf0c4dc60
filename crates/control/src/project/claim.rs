//! An anonymous project becomes somebody's: codes that the operator gives out, and `/customer/claim`.
//!
//! Owns: codes and their use. Does not own: moving databases to another project ([`super::adopt`]).

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use model::{CredentialId, ProjectId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::http::{Me, describe};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{CredentialKey, Json},
        idempotency::{Kept, Ticket},
    },
    catalog::{self, CatalogError, parse},
    credential::{
        new_token,
        tokens::{Revoked, parse_days, parse_name},
    },
    keys::token_hash,
    placement::step::{Moment, Step, reached},
    tenant::store::lock_project,
};

/// Codes that nobody has used yet, at once.
const CODES_MAX: i64 = 1000;
/// Life of a code when nothing else is asked for.
const DAYS_DEFAULT: u32 = 7;

/// A code to be made.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct ClaimCodeRequest {
    /// Whose it is, for the operator: 1 to 63 characters.
    label: Option<String>,
    /// 1 to 3,650; 7 when left out.
    expires_in_days: Option<u32>,
}

/// A code that turns one anonymous project into somebody's.
#[derive(Serialize, ToSchema)]
pub(crate) struct ClaimCode {
    id: String,
    /// Shown by create only.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    label: Option<String>,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    used_at: Option<DateTime<Utc>>,
    /// The project that used it.
    project_id: Option<String>,
}

const CODE: &str = "SELECT id, label, created_at, expires_at, used_at, project_id FROM claim_code";

fn read(row: &tokio_postgres::Row, code: Option<&model::Secret>) -> ClaimCode {
    ClaimCode {
        id: row.get(0),
        code: code.map(|code| code.reveal().to_owned()),
        label: row.get(1),
        created_at: row.get(2),
        expires_at: row.get(3),
        used_at: row.get(4),
        project_id: row.get(5),
    }
}

/// Makes a code for one claim. For the operator; shown in this answer only.
#[utoipa::path(post, path = "/operator/claim-codes", tag = "operator", security(("bearer" = [])),
    operation_id = "create_claim_code", request_body = ClaimCodeRequest,
    responses((status = 201, body = ClaimCode), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 409, body = ErrorBody)))]
pub(crate) async fn create_code(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    Json(request): Json<ClaimCodeRequest>,
) -> ApiResult<(StatusCode, axum::Json<ClaimCode>)> {
    principal.is_operator()?;
    let label = request.label.map(parse_name).transpose()?;
    let life = parse_days(request.expires_in_days, DAYS_DEFAULT)?;
    let code = new_token("claim_");
    let id = CredentialId::random(&mut rand::rng());
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    lock_project(&transaction, &principal.project).await?;
    let made = catalog::execute(
        &transaction,
        "INSERT INTO claim_code (id, code_hash, label, expires_at)
         SELECT $1::text, $2::bytea, $3::text, now() + make_interval(secs => $4)
         WHERE $5 > (SELECT count(*) FROM claim_code
             WHERE used_at IS NULL AND expires_at > now())",
        &[
            &id.as_str(),
            &token_hash(code.reveal()).as_slice(),
            &label,
            &life.as_secs_f64(),
            &CODES_MAX,
        ],
    )
    .await?;
    if made == 0 {
        return Err(ApiError::with(
            ErrorCode::TooManyCredentials,
            format!("there are {CODES_MAX} claim codes that nobody has used"),
        ));
    }
    let sql = format!("{CODE} WHERE id = $1");
    let row = catalog::query_one(&transaction, &sql, &[&id.as_str()]).await?;
    let answer = read(&row, Some(&code));
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::CREATED, &body, Kept::Last)
        .await?;
    transaction.commit().await?;
    crate::audited::made(&id);
    tracing::info!(code = %id, "a claim code was made");
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

/// Lists codes that are neither expired nor revoked, oldest first, with the projects that used them.
#[utoipa::path(get, path = "/operator/claim-codes", tag = "operator", security(("bearer" = [])),
    operation_id = "list_claim_codes",
    responses((status = 200, body = Vec<ClaimCode>), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody)))]
pub(crate) async fn list_codes(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> ApiResult<axum::Json<Vec<ClaimCode>>> {
    principal.is_operator()?;
    let client = app.catalog.get().await?;
    let sql = format!("{CODE} WHERE expires_at > now() ORDER BY created_at, id");
    let rows = catalog::query(&client, &sql, &[]).await?;
    Ok(axum::Json(rows.iter().map(|row| read(row, None)).collect()))
}

/// Takes back a code that nobody has used.
#[utoipa::path(delete, path = "/operator/claim-codes/{credential}", tag = "operator",
    security(("bearer" = [])), operation_id = "revoke_claim_code",
    params(("credential" = String, Path, description = "id of the code")),
    responses((status = 200, body = Revoked), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn revoke_code(
    State(app): State<Arc<App>>,
    principal: Principal,
    CredentialKey(id): CredentialKey,
) -> ApiResult<axum::Json<Revoked>> {
    principal.is_operator()?;
    let id = id.ok_or(ErrorCode::TokenNotFound)?;
    let client = app.catalog.get().await?;
    let sql = "DELETE FROM claim_code WHERE id = $1 AND used_at IS NULL";
    if catalog::execute(&client, sql, &[&id.as_str()]).await? == 0 {
        return Err(ApiError::with(
            ErrorCode::TokenNotFound,
            "there is no such code, or somebody has used it",
        ));
    }
    Ok(axum::Json(Revoked {
        message: "Revoked",
        id: id.to_string(),
    }))
}

/// How to claim.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ClaimRequest {
    /// As the operator gave it out.
    code: String,
}

/// Makes the anonymous project of the token somebody's: it keeps its id, databases, tokens and secret, and
/// may have any number of databases. Each code works once; the same project may send it again.
#[utoipa::path(post, path = "/customer/claim", tag = "project", security(("bearer" = [])),
    request_body = ClaimRequest,
    responses((status = 200, body = Me), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 409, body = ErrorBody)))]
pub(crate) async fn claim(
    State(app): State<Arc<App>>,
    principal: Principal,
    Json(request): Json<ClaimRequest>,
) -> ApiResult<axum::Json<Me>> {
    principal.may_write()?;
    let project = &principal.project;
    reached(Step::ClaimCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    lock_project(&transaction, project).await?;
    use_code(&transaction, project, &request.code).await?;
    reached(Step::ClaimCommit, Moment::Between).await;
    transaction.commit().await?;
    tracing::info!(project = %project, by = principal.maker(), "a project was claimed");
    reached(Step::ClaimCommit, Moment::After).await;
    let found = super::store::list(&client, Some(project), None, 1).await?;
    let found = found.into_iter().next().ok_or(ErrorCode::InvalidToken)?;
    Ok(axum::Json(describe(&app, found)))
}

/// Uses a code up for a project, which the caller holds. Used by the same project before, it is fine.
async fn use_code(client: &impl GenericClient, project: &ProjectId, code: &str) -> ApiResult<()> {
    let hash = token_hash(code);
    let found = catalog::query_opt(
        client,
        "SELECT id, project_id, label FROM claim_code
         WHERE code_hash = $1 AND (expires_at > now() OR used_at IS NOT NULL) FOR UPDATE",
        &[&hash.as_slice()],
    )
    .await?;
    let row = found.ok_or(ErrorCode::InvalidClaimCode)?;
    match row.get::<_, Option<&str>>(1).map(parse::<ProjectId>) {
        Some(user) if user == *project => return Ok(()),
        Some(_) => return Err(ErrorCode::InvalidClaimCode.into()),
        None => {}
    }
    let claimed = catalog::execute(
        client,
        "UPDATE project SET kind = 'claimed', claimed_at = now(), label = $2
         WHERE id = $1 AND kind = 'anonymous'",
        &[&project.as_str(), &row.get::<_, Option<&str>>(2)],
    )
    .await?;
    if claimed == 0 {
        return Err(ErrorCode::AlreadyClaimed.into());
    }
    catalog::execute(
        client,
        "UPDATE claim_code SET used_at = now(), project_id = $2 WHERE id = $1",
        &[&row.get::<_, &str>(0), &project.as_str()],
    )
    .await?;
    Ok(())
}

/// Forgets codes that expired long ago, at most `limit`.
pub(crate) async fn sweep(client: &impl GenericClient, limit: i64) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "DELETE FROM claim_code WHERE id IN (SELECT id FROM claim_code
             WHERE expires_at < now() - interval '30 days' LIMIT $1)",
        &[&limit],
    )
    .await?;
    Ok(())
}
