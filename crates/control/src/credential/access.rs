//! What opens a database for some time: `…/connect-token`, `…/connect-keys`, and `…/access`, which lists
//! and revokes all of it.
//!
//! Owns: making connect tokens and keys, and their bounds. Does not own: passwords of roles
//! ([`crate::tenant`]), or what a proxy does with any of them ([`model::route::Candidate`]).

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use model::{LoginName, Network, Role, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    new_token, scram_keys,
    store::{self, NewAccess, Shown},
    tokens::{Revoked, parse_days, parse_name},
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{CredentialKey, DatabaseKey, Json},
        idempotency::{Kept, Ticket},
    },
    catalog::changes,
    tenant::{
        change::{find, refuse_deleted},
        describe::connection_string,
        http::{parse_role, read},
        store::{Purpose, Tenant},
    },
};

/// Connect tokens of one role of one database that work at once. With the other kinds they stay below what
/// one login compares with ([`model::route::CANDIDATES_MAX`]).
const CONNECT_TOKENS_MAX: i64 = 64;
/// Keys of one role of one database.
const KEYS_MAX: i64 = 16;
/// Life of a key when nothing else is asked for.
const KEY_DAYS_DEFAULT: u32 = 7;
/// The database that clients name.
const DATABASE: &str = "postgres";

/// A connect token to be made.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct ConnectTokenRequest {
    /// `admin` (when left out), `write` or `read`.
    role: Option<String>,
    /// From 1 to the bound of the server, 600 unless the operator set another one; the bound when left
    /// out.
    ttl_seconds: Option<u32>,
    /// The address, or network in CIDR notation, that clients must come from.
    address: Option<String>,
}

/// A connect token: the password of a connection. Shown in this answer only.
#[derive(Serialize, ToSchema)]
pub(crate) struct ConnectToken {
    id: String,
    token: String,
    host: String,
    port: u16,
    /// Always `postgres`.
    database: &'static str,
    user: String,
    role: String,
    /// Logins are refused from then on; open sessions stay.
    expires_at: Option<DateTime<Utc>>,
    expires_in_seconds: u64,
    address: Option<String>,
    connection_string: String,
}

/// Makes a password of one role that works for a few minutes, at once and on every proxy. When it expires
/// or is revoked, open sessions stay.
#[utoipa::path(post, path = "/customer/databases/{database}/connect-token", tag = "access",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    request_body = ConnectTokenRequest,
    responses((status = 201, body = ConnectToken), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 429, body = ErrorBody)))]
pub(crate) async fn connect_token(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Json(request): Json<ConnectTokenRequest>,
) -> ApiResult<(StatusCode, axum::Json<ConnectToken>)> {
    principal.may_write()?;
    let role = parse_role(request.role.as_deref(), Role::Admin)?;
    let most = app.config.limits.connect_token_time_max;
    let life = request
        .ttl_seconds
        .map_or(most, |seconds| Duration::from_secs(seconds.into()));
    if life.is_zero() || life > most {
        return Err(ApiError::with(
            ErrorCode::InvalidField,
            format!("ttl_seconds is 1 to {}", most.as_secs()),
        ));
    }
    let network = request.address.as_deref().map(parse_network).transpose()?;
    let wanted = Wanted {
        kind: "connect",
        prefix: "tnc_",
        role,
        name: None,
        network,
        life,
        most: CONNECT_TOKENS_MAX,
    };
    make(&app, &principal, &ticket, &key, wanted, |made| {
        let user = made.login.to_string();
        ConnectToken {
            id: made.shown.id.to_string(),
            connection_string: connection_string(&app, &user, Some(&made.secret)),
            token: made.secret.reveal().to_owned(),
            host: app.config.public_host.clone(),
            port: app.config.public_port,
            database: DATABASE,
            user,
            role: role.to_string(),
            expires_at: made.shown.expires_at,
            expires_in_seconds: life.as_secs(),
            address: made.shown.network,
        }
    })
    .await
}

fn parse_network(text: &str) -> ApiResult<Network> {
    text.parse().map_err(|error: model::NetworkError| {
        ApiError::with(ErrorCode::InvalidField, format!("address: {error}"))
    })
}

/// A key to be made.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct ConnectKeyRequest {
    /// 1 to 63 characters; `share`, the name of the database and the day when left out.
    name: Option<String>,
    /// `read` (when left out), `write` or `admin`.
    role: Option<String>,
    /// 1 to 3,650; 7 when left out.
    expires_in_days: Option<u32>,
    /// The address, or network in CIDR notation, that clients must come from.
    address: Option<String>,
}

/// A key. Its text is shown by create only.
#[derive(Serialize, ToSchema)]
pub(crate) struct ConnectKey {
    #[serde(flatten)]
    access: AccessResponse,
    connect_key: String,
    host: String,
    port: u16,
    /// Always `postgres`.
    database: &'static str,
    connection_string: String,
}

/// Shares a database: a password of its own, to look unless another role is asked for, that works for
/// some days. When it ends or is revoked, its sessions end.
#[utoipa::path(post, path = "/customer/databases/{database}/connect-keys", tag = "access",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    operation_id = "create_connect_key", request_body = ConnectKeyRequest,
    responses((status = 201, body = ConnectKey), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn create_key(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Json(request): Json<ConnectKeyRequest>,
) -> ApiResult<(StatusCode, axum::Json<ConnectKey>)> {
    principal.may_write()?;
    let wanted = Wanted {
        kind: "key",
        prefix: "tnk_",
        role: parse_role(request.role.as_deref(), Role::Read)?,
        name: Some(request.name.map(parse_name).transpose()?),
        network: request.address.as_deref().map(parse_network).transpose()?,
        life: parse_days(request.expires_in_days, KEY_DAYS_DEFAULT)?,
        most: KEYS_MAX,
    };
    make(&app, &principal, &ticket, &key, wanted, |made| ConnectKey {
        connection_string: connection_string(&app, &made.login.to_string(), Some(&made.secret)),
        access: describe(&made.login.tenant, made.shown),
        connect_key: made.secret.reveal().to_owned(),
        host: app.config.public_host.clone(),
        port: app.config.public_port,
        database: DATABASE,
    })
    .await
}

struct Wanted {
    kind: &'static str,
    /// What its text begins with.
    prefix: &'static str,
    role: Role,
    /// `None`: it has none. `Some(None)`: made up.
    name: Option<Option<String>>,
    network: Option<Network>,
    life: Duration,
    most: i64,
}

struct Made {
    login: LoginName,
    secret: model::Secret,
    shown: Shown,
}

/// Makes what is wanted and answers it, in one transaction. No proxy is told: a login that matches
/// nothing asks again before it fails.
async fn make<T: Serialize>(
    app: &App,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
    wanted: Wanted,
    answer: impl FnOnce(Made) -> T,
) -> ApiResult<(StatusCode, axum::Json<T>)> {
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let tenant = find(&transaction, principal, key, Purpose::Change).await?;
    refuse_deleted(&tenant)?;
    let login = LoginName {
        tenant: tenant.id.clone(),
        login: wanted.role.into(),
    };
    let secret = new_token(wanted.prefix);
    let name = wanted
        .name
        .clone()
        .map(|name| name.unwrap_or_else(|| made_up_name(&tenant)));
    let network = wanted.network.map(|network| network.to_string());
    let new = NewAccess {
        kind: wanted.kind,
        tenant: &tenant.id,
        role: wanted.role,
        name: name.as_deref(),
        keys: &scram_keys(&app.keys, &login, &secret),
        network: network.as_deref(),
        life: wanted.life,
        maker: principal.maker(),
        most: wanted.most,
    };
    let shown = store::insert_access(&transaction, new).await?;
    let shown = shown.map_err(|wait| too_many(&wanted, wait))?;
    crate::audited::made(&shown.id);
    tracing::info!(tenant = %tenant.id, role = %wanted.role, kind = wanted.kind, credential = %shown.id,
        by = principal.maker(), "access was given");
    let body = answer(Made {
        login,
        secret,
        shown,
    });
    let text = serde_json::to_vec(&body).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::CREATED, &text, Kept::Last)
        .await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(body)))
}

fn made_up_name(tenant: &Tenant) -> String {
    let day = Utc::now().format("%Y%m%d");
    let name: String = tenant.name.as_str().chars().take(48).collect();
    format!("share-{name}-{day}")
}

fn too_many(wanted: &Wanted, wait: Duration) -> ApiError {
    let (role, most) = (wanted.role, wanted.most);
    if wanted.kind == "connect" {
        return ApiError {
            retry_after: Some(wait + Duration::from_secs(1)),
            ..ApiError::with(
                ErrorCode::TooManyRequests,
                format!("the role {role} of this database has {most} connect tokens at once"),
            )
            .hint("use one for several connections, ask for a shorter ttl_seconds, or wait for one to expire")
        };
    }
    ApiError::with(
        ErrorCode::TooManyCredentials,
        format!(
            "the role {role} of this database has {most} keys, which is as many as it may have"
        ),
    )
}

/// Something that opens a database.
#[derive(Serialize, ToSchema)]
pub(crate) struct AccessResponse {
    id: String,
    /// `password`, `connect` (a connect token) or `key`.
    kind: String,
    name: Option<String>,
    role: String,
    user: String,
    /// Where clients must come from; null: from anywhere.
    address: Option<String>,
    created_at: DateTime<Utc>,
    /// `operator`, or the id of the token that made it.
    created_by: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    /// Within some ten seconds.
    last_used_at: Option<DateTime<Utc>>,
    /// The address of the client, as the proxy saw it.
    last_used_from: Option<String>,
}

fn describe(tenant: &TenantId, shown: Shown) -> AccessResponse {
    let role = shown.role.unwrap_or_default();
    let login = shown.user.as_ref().unwrap_or(&role);
    AccessResponse {
        id: shown.id.to_string(),
        kind: shown.kind,
        name: shown.name,
        user: format!("{tenant}.{login}"),
        role,
        address: shown.network,
        created_at: shown.created_at,
        created_by: shown.created_by,
        expires_at: shown.expires_at,
        last_used_at: shown.last_used_at,
        last_used_from: shown.last_used_from.map(|address| address.to_string()),
    }
}

async fn list_kind(
    app: &App,
    principal: &Principal,
    key: &DatabaseKey,
    kind: Option<&str>,
) -> ApiResult<axum::Json<Vec<AccessResponse>>> {
    principal.may_see_project()?;
    let tenant = read(app, principal, key).await?;
    let client = app.catalog.get().await?;
    let found = store::list_access(&client, &tenant.id, kind).await?;
    let found = found.into_iter();
    let found = found.map(|shown| describe(&tenant.id, shown));
    Ok(axum::Json(found.collect()))
}

/// Lists what opens a database now (passwords, connect tokens, keys), oldest first, without the secrets.
#[utoipa::path(get, path = "/customer/databases/{database}/access", tag = "access",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    operation_id = "list_access",
    responses((status = 200, body = Vec<AccessResponse>), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<Vec<AccessResponse>>> {
    list_kind(&app, &principal, &key, None).await
}

/// Lists the keys of a database.
#[utoipa::path(get, path = "/customer/databases/{database}/connect-keys", tag = "access",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    operation_id = "list_connect_keys",
    responses((status = 200, body = Vec<AccessResponse>), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn list_keys(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<Vec<AccessResponse>>> {
    list_kind(&app, &principal, &key, Some("key")).await
}

async fn revoke_kind(
    app: &App,
    principal: &Principal,
    key: &DatabaseKey,
    id: CredentialKey,
    kind: Option<&str>,
) -> ApiResult<axum::Json<Revoked>> {
    principal.may_write()?;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let tenant = find(&transaction, principal, key, Purpose::Change).await?;
    let id = id.0.ok_or(ErrorCode::CredentialNotFound)?;
    if !store::revoke_access(&transaction, &tenant.id, &id, kind).await? {
        return Err(ErrorCode::CredentialNotFound.into());
    }
    let change = changes::mark(&transaction, &tenant.id).await?;
    transaction.commit().await?;
    app.changes.announce(change);
    tracing::info!(tenant = %tenant.id, credential = %id, by = principal.maker(), "access was revoked");
    Ok(axum::Json(Revoked {
        message: "Revoked",
        id: id.to_string(),
    }))
}

/// Revokes what opens a database: it is refused on every proxy within a second. Sessions of passwords and
/// keys end; those of connect tokens stay.
#[utoipa::path(delete, path = "/customer/databases/{database}/access/{credential}", tag = "access",
    security(("bearer" = [])), operation_id = "revoke_access",
    params(("database" = String, Path, description = "id or name"),
        ("credential" = String, Path, description = "id of what is listed")),
    responses((status = 200, body = Revoked), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    id: CredentialKey,
) -> ApiResult<axum::Json<Revoked>> {
    revoke_kind(&app, &principal, &key, id, None).await
}

/// Revokes a key; its sessions end.
#[utoipa::path(delete, path = "/customer/databases/{database}/connect-keys/{credential}",
    tag = "access", security(("bearer" = [])), operation_id = "revoke_connect_key",
    params(("database" = String, Path, description = "id or name"),
        ("credential" = String, Path, description = "id of the key")),
    responses((status = 200, body = Revoked), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn revoke_key(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    id: CredentialKey,
) -> ApiResult<axum::Json<Revoked>> {
    revoke_kind(&app, &principal, &key, id, Some("key")).await
}
