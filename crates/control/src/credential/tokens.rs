//! `/customer/tokens`: keys of the API, with a name, an end and a scope.
//!
//! Owns: making, listing and revoking them. Does not own: what they are good for
//! ([`crate::api::auth`]).

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use model::TenantId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    new_token,
    store::{self, NewToken, Shown},
};
use crate::{
    api::{
        App,
        auth::{Principal, Reach},
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{CredentialKey, DatabaseKey, Json, Params, quoted},
        idempotency::{Kept, Ticket},
    },
    keys::token_hash,
    tenant::{
        http::owned_project,
        store::{self as tenants, Purpose},
    },
};

/// Tokens with a name that a project has at once. 100: one for each person and program of a company.
const NAMED_MAX: i64 = 100;
/// Databases one token is bound to.
const SCOPE_MAX: usize = 100;
/// When nothing else is asked for, as in DB9.
const DAYS_DEFAULT: u32 = 365;
/// Ten years.
const DAYS_MAX: u32 = 3650;
const DAY: Duration = Duration::from_secs(24 * 3600);
const NAME_CHARS_MAX: usize = 63;

/// A token to be made.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct TokenRequest {
    /// 1 to 63 characters; `token` and the day when left out.
    name: Option<String>,
    /// 1 to 3,650; 365 when left out.
    expires_in_days: Option<u32>,
    /// What it may do in the whole project: `rw` (when left out) or `ro`. Not together with
    /// `scope_json`.
    access: Option<String>,
    /// The databases it is bound to, as DB9 writes it: a text with the JSON
    /// `{"databases": [{"id": "…", "access": "ro"}]}`; `access` is `ro` or `rw`; a name is good as an id.
    scope_json: Option<String>,
    /// Another project than the token's own; operator only.
    project_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeJson {
    databases: Vec<ScopeEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeEntry {
    id: String,
    access: String,
}

/// One database of a scope.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScopedDatabase {
    id: String,
    /// `ro` or `rw`.
    access: String,
}

/// A token. Its text is shown by create only, and never again.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenResponse {
    /// Names it without showing it.
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Null: it came with the registration of the project, or its refresh.
    name: Option<String>,
    /// `full`, `read`, or the databases it is bound to, such as `abcdefghijkl:ro,bcdefghijklm:rw`.
    scope: String,
    /// The same as a list; null: the whole project.
    databases: Option<Vec<ScopedDatabase>>,
    created_at: DateTime<Utc>,
    /// `operator`, `registration`, or the id of the token that made it.
    created_by: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    /// Within some ten seconds.
    last_used_at: Option<DateTime<Utc>>,
    /// The address of the client.
    last_used_from: Option<String>,
    /// Whether it is the one that asks.
    is_current: bool,
}

fn describe(shown: Shown, principal: &Principal, token: Option<&model::Secret>) -> TokenResponse {
    let access = shown.access.unwrap_or_default();
    let databases = (access == "scoped").then(|| {
        let entries = shown.scope.into_iter();
        let entries = entries.map(|(id, access)| ScopedDatabase { id, access });
        entries.collect::<Vec<_>>()
    });
    let scope = databases.as_ref().map(|databases| {
        let entries = databases.iter();
        let entries = entries.map(|entry| format!("{}:{}", entry.id, entry.access));
        entries.collect::<Vec<_>>().join(",")
    });
    TokenResponse {
        is_current: principal.maker() == shown.id.as_str(),
        id: shown.id.to_string(),
        token: token.map(|token| token.reveal().to_owned()),
        name: shown.name,
        scope: scope.unwrap_or(access),
        databases,
        created_at: shown.created_at,
        created_by: shown.created_by,
        expires_at: shown.expires_at,
        last_used_at: shown.last_used_at,
        last_used_from: shown.last_used_from.map(|address| address.to_string()),
    }
}

/// A name that a person gives a credential.
pub(crate) fn parse_name(name: String) -> ApiResult<String> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.chars().count())
        && !name.chars().any(char::is_control)
        && name.trim() == name;
    if fits {
        return Ok(name);
    }
    Err(ApiError::with(
        ErrorCode::InvalidField,
        "name has 1 to 63 characters, no control characters, and no spaces at its ends",
    ))
}

/// How long something lives that is measured in days.
pub(crate) fn parse_days(days: Option<u32>, default: u32) -> ApiResult<Duration> {
    let days = days.unwrap_or(default);
    if (1..=DAYS_MAX).contains(&days) {
        return Ok(DAY * days);
    }
    Err(ApiError::with(
        ErrorCode::InvalidField,
        format!("expires_in_days is 1 to {DAYS_MAX}"),
    ))
}

fn parse_access(text: &str) -> ApiResult<&'static str> {
    match text {
        "ro" => Ok("ro"),
        "rw" => Ok("rw"),
        other => Err(ApiError::with(
            ErrorCode::InvalidField,
            format!("access: {} is neither ro nor rw", quoted(other)),
        )),
    }
}

fn parse_scope(text: &str) -> ApiResult<Vec<(DatabaseKey, &'static str)>> {
    let wrong = |what: String| {
        ApiError::with(ErrorCode::InvalidField, format!("scope_json: {what}"))
            .hint(r#"it is a text with the JSON {"databases": [{"id": "…", "access": "ro"}]}"#)
    };
    let scope: ScopeJson = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    if !(1..=SCOPE_MAX).contains(&scope.databases.len()) {
        return Err(wrong(format!("databases has 1 to {SCOPE_MAX} entries")));
    }
    let entries = scope.databases.into_iter().map(|entry| {
        let key = DatabaseKey {
            id: entry.id.parse().ok(),
            name: entry.id.parse().ok(),
        };
        Ok((key, parse_access(&entry.access)?))
    });
    entries.collect()
}

/// The databases of a scope, which must be there and belong to the project.
async fn find_scope(
    transaction: &Transaction<'_>,
    project: &model::ProjectId,
    wanted: &[(DatabaseKey, &'static str)],
) -> ApiResult<Vec<(TenantId, &'static str)>> {
    let mut scope: Vec<(TenantId, &'static str)> = Vec::with_capacity(wanted.len());
    for (key, access) in wanted {
        let reach = Reach::project(project);
        let found = tenants::find(transaction, reach, project, key, Purpose::Read).await?;
        let tenant = found.ok_or(ErrorCode::DatabaseNotFound)?;
        if scope.iter().any(|(id, _)| *id == tenant.id) {
            return Err(ApiError::with(
                ErrorCode::InvalidField,
                format!("scope_json: database {} is named twice", tenant.name),
            ));
        }
        scope.push((tenant.id, access));
    }
    Ok(scope)
}

/// Makes a token. Its text is shown in this answer only.
#[utoipa::path(post, path = "/customer/tokens", tag = "tokens", security(("bearer" = [])),
    operation_id = "create_token", request_body = TokenRequest,
    responses((status = 201, body = TokenResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    Json(request): Json<TokenRequest>,
) -> ApiResult<(StatusCode, axum::Json<TokenResponse>)> {
    principal.may_write()?;
    let project = match &request.project_id {
        Some(text) => owned_project(&app, &principal, text).await?,
        None => principal.project.clone(),
    };
    let life = parse_days(request.expires_in_days, DAYS_DEFAULT)?;
    let name = request.name.map(parse_name).transpose()?;
    let name = name.unwrap_or_else(|| format!("token-{}", Utc::now().format("%Y%m%d")));
    let wanted = request.scope_json.as_deref().map(parse_scope).transpose()?;
    let access = match (
        &wanted,
        request.access.as_deref().map(parse_access).transpose()?,
    ) {
        (Some(_), Some(_)) => {
            return Err(ApiError::with(
                ErrorCode::InvalidField,
                "access and scope_json cannot be given together",
            )
            .hint("scope_json says ro or rw for each database"));
        }
        (Some(_), None) => "scoped",
        (None, Some("ro")) => "read",
        (None, _) => "full",
    };
    let token = new_token("tnt_");
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    tenants::lock_project(&transaction, &project).await?;
    let scope = find_scope(
        &transaction,
        &project,
        wanted.as_deref().unwrap_or_default(),
    )
    .await?;
    let new = NewToken {
        project: &project,
        name: &name,
        access,
        scope: &scope,
        hash: &token_hash(token.reveal()),
        life,
        maker: principal.maker(),
    };
    let made = store::insert_token(&transaction, new, NAMED_MAX).await?;
    let made = made.ok_or_else(|| {
        ApiError::with(
            ErrorCode::TooManyCredentials,
            format!("the project has {NAMED_MAX} tokens, which is as many as it may have"),
        )
    })?;
    let id = made.id.clone();
    let answer = describe(made, &principal, Some(&token));
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::CREATED, &body, Kept::Last)
        .await?;
    transaction.commit().await?;
    crate::audited::made(&id);
    tracing::info!(project = %project, token = %id, access, by = principal.maker(), "a token was made");
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TokensQuery {
    /// Another project than the token's own; operator only.
    project_id: Option<String>,
}

/// Lists the tokens of the project that are not revoked, oldest first, without their texts.
#[utoipa::path(get, path = "/customer/tokens", tag = "tokens", security(("bearer" = [])),
    operation_id = "list_tokens", params(TokensQuery),
    responses((status = 200, body = Vec<TokenResponse>), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    Params(query): Params<TokensQuery>,
) -> ApiResult<axum::Json<Vec<TokenResponse>>> {
    principal.may_see_project()?;
    let project = match &query.project_id {
        Some(text) => owned_project(&app, &principal, text).await?,
        None => principal.project.clone(),
    };
    let client = app.catalog.get().await?;
    let found = store::list_tokens(&client, &project).await?;
    let found = found.into_iter();
    let found = found.map(|shown| describe(shown, &principal, None));
    Ok(axum::Json(found.collect()))
}

/// A credential was revoked.
#[derive(Serialize, ToSchema)]
pub(crate) struct Revoked {
    /// Always `Revoked`.
    pub(crate) message: &'static str,
    pub(crate) id: String,
}

/// Revokes a token; the next request that carries it is refused.
#[utoipa::path(delete, path = "/customer/tokens/{credential}", tag = "tokens",
    security(("bearer" = [])), operation_id = "revoke_token",
    params(("credential" = String, Path, description = "id of the token")),
    responses((status = 200, body = Revoked), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    principal: Principal,
    CredentialKey(id): CredentialKey,
) -> ApiResult<axum::Json<Revoked>> {
    principal.may_write()?;
    let id = id.ok_or(ErrorCode::TokenNotFound)?;
    let client = app.catalog.get().await?;
    let project = principal.scope().project;
    if !store::revoke_token(&client, project, &id).await? {
        return Err(ErrorCode::TokenNotFound.into());
    }
    tracing::info!(token = %id, by = principal.maker(), "a token was revoked");
    Ok(axum::Json(Revoked {
        message: "Revoked",
        id: id.to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_and_what_is_none_refused() {
        let one = r#"{"databases": [{"id": "abcdefghijkl", "access": "ro"}]}"#;
        let scope = parse_scope(one).unwrap();
        assert_eq!(scope.len(), 1);
        assert_eq!(scope[0].1, "ro");
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"databases": []}"#,
            r#"{"databases": [{"id": "a"}]}"#,
            r#"{"databases": [{"id": "a", "access": "admin"}]}"#,
            r#"{"databases": [{"id": "a", "access": "ro", "role": "admin"}]}"#,
            r#"{"databases": [{"id": "a", "access": "ro"}], "project": "rw"}"#,
        ] {
            let error = parse_scope(wrong).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidField, "{wrong}");
        }
    }

    #[test]
    fn names_and_days_have_bounds() {
        assert!(parse_name("ci deploy".to_owned()).is_ok());
        for wrong in ["", " a", "a ", "a\nb", &"x".repeat(64)] {
            assert!(parse_name(wrong.to_owned()).is_err(), "{wrong:?}");
        }
        assert_eq!(parse_days(None, 7).unwrap(), DAY * 7);
        assert!(parse_days(Some(0), 7).is_err() && parse_days(Some(3651), 7).is_err());
    }
}
