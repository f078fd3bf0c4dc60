//! `/customer/me`, `/customer/anonymous-register`, `/customer/anonymous-refresh`, `/projects`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use model::{CredentialId, ProjectId, Secret, TenantId};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::{IntoParams, ToSchema};

use super::{pace, store};
use crate::{
    api::{
        App,
        address::Client,
        auth::{Access, Kind, Principal},
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{Json, Params},
    },
    credential,
    keys::token_hash,
};

/// Life of an anonymous project's token. It gets another one as often as it asks.
const TOKEN_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Projects in one answer.
const PROJECTS_MAX: i64 = 1000;

/// The project that a token belongs to.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    /// Id of the project.
    id: String,
    /// `operator`, `anonymous` or `claimed`.
    kind: String,
    /// What the operator wrote on the code that claimed it, as whose it is.
    email: Option<String>,
    /// Always `active`.
    status: &'static str,
    is_anonymous: bool,
    anonymous_id: Option<String>,
    created_at: DateTime<Utc>,
    /// Databases it has, deleted ones not counted.
    databases: i64,
    /// Databases it may have; null: no limit.
    databases_max: Option<u32>,
}

pub(super) fn describe(app: &App, project: store::Project) -> Me {
    let is_anonymous = project.kind == "anonymous";
    Me {
        id: project.id.to_string(),
        kind: project.kind,
        email: project.label,
        status: "active",
        is_anonymous,
        anonymous_id: project.anonymous_id,
        created_at: project.created_at,
        databases: project.databases,
        databases_max: is_anonymous.then_some(app.config.limits.anonymous_databases_max),
    }
}

/// Whose token this is.
#[utoipa::path(get, path = "/customer/me", tag = "project", security(("bearer" = [])),
    responses((status = 200, body = Me), (status = 401, body = ErrorBody)))]
pub(crate) async fn me(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> ApiResult<axum::Json<Me>> {
    let client = app.catalog.get().await?;
    let found = store::list(&client, Some(&principal.project), None, 1).await?;
    let project = found.into_iter().next().ok_or(ErrorCode::InvalidToken)?;
    Ok(axum::Json(describe(&app, project)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ProjectsQuery {
    /// Projects after this id.
    after: Option<String>,
}

/// Projects that the token may see: its own, or all for the operator, 1,000 at a time.
#[utoipa::path(get, path = "/projects", tag = "project", security(("bearer" = [])),
    params(ProjectsQuery),
    responses((status = 200, body = Vec<Me>), (status = 401, body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    Params(query): Params<ProjectsQuery>,
) -> ApiResult<axum::Json<Vec<Me>>> {
    let client = app.catalog.get().await?;
    let found = store::list(
        &client,
        principal.scope().project,
        query.after.as_deref(),
        PROJECTS_MAX,
    )
    .await?;
    Ok(axum::Json(
        found
            .into_iter()
            .map(|project| describe(&app, project))
            .collect(),
    ))
}

/// A new anonymous project. Nothing of this is shown again.
#[derive(Serialize, ToSchema)]
pub(crate) struct Registered {
    /// Id of the project.
    customer_id: String,
    token: String,
    expires_at: DateTime<Utc>,
    is_anonymous: bool,
    anonymous_id: String,
    /// Gets new tokens; losing it loses the databases.
    anonymous_secret: String,
}

/// Makes an anonymous project and its first token.
///
/// Takes no `Idempotency-Key`: a repeated request makes another, empty project.
#[utoipa::path(post, path = "/customer/anonymous-register", tag = "project",
    responses((status = 201, body = Registered), (status = 403, body = ErrorBody),
        (status = 429, body = ErrorBody)))]
pub(crate) async fn register(
    State(app): State<Arc<App>>,
    client: Client,
) -> ApiResult<(StatusCode, axum::Json<Registered>)> {
    let registration = Registration::prepare(&app, &client)?;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let registered = registration.insert(&app, &transaction).await?;
    transaction.commit().await?;
    crate::audited::of_project(&registration.project);
    tracing::info!(project = %registration.project, "an anonymous project was registered");
    Ok((StatusCode::CREATED, axum::Json(registered)))
}

/// An anonymous project that is about to be made.
pub(crate) struct Registration {
    pub(crate) project: ProjectId,
    anonymous_id: String,
    secret: Secret,
    /// Its first token.
    token: CredentialId,
    /// Who asks.
    from: IpAddr,
}

impl Registration {
    /// Writes nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RegistrationOff`]; [`ErrorCode::TooManyProjects`] where that is known already.
    pub(crate) fn prepare(app: &App, Client(from): &Client) -> ApiResult<Self> {
        if !app.config.anonymous_registration {
            return Err(ErrorCode::RegistrationOff.into());
        }
        let from = from.ip();
        if let Some(wait) = app.refused.wait(from) {
            return Err(too_many(wait));
        }
        Ok(Self {
            from,
            project: ProjectId::random(&mut rand::rng()),
            anonymous_id: format!("anon_{}", TenantId::random(&mut rand::rng())),
            secret: credential::new_token("sk_anon_"),
            token: CredentialId::random(&mut rand::rng()),
        })
    }

    /// Who asks in its name, with everything that its token will allow.
    pub(crate) fn principal(&self) -> Principal {
        Principal {
            project: self.project.clone(),
            kind: Kind::Project {
                access: Access::Full,
                anonymous: true,
                token: self.token.clone(),
                scope: None,
            },
        }
    }

    /// Writes it down, with its first token, and counts it.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::TooManyProjects`], and those of the catalog.
    pub(crate) async fn insert(
        &self,
        app: &App,
        transaction: &Transaction<'_>,
    ) -> ApiResult<Registered> {
        let max = app.config.limits.anonymous_per_hour_max;
        if max > 0
            && let Some(wait) = pace::count(transaction, self.from, max).await?
        {
            app.refused.remember(self.from, wait);
            return Err(too_many(wait));
        }
        let hash = token_hash(self.secret.reveal());
        store::insert_anonymous(transaction, &self.project, &self.anonymous_id, &hash).await?;
        let (token, expires_at) = issue(transaction, &self.token, &self.project).await?;
        Ok(Registered {
            customer_id: self.project.to_string(),
            token: token.reveal().to_owned(),
            expires_at,
            is_anonymous: true,
            anonymous_id: self.anonymous_id.clone(),
            anonymous_secret: self.secret.reveal().to_owned(),
        })
    }
}

fn too_many(wait: Duration) -> ApiError {
    ApiError {
        retry_after: Some(wait),
        ..ErrorCode::TooManyProjects.into()
    }
}

async fn issue(
    client: &impl GenericClient,
    id: &CredentialId,
    project: &ProjectId,
) -> ApiResult<(Secret, DateTime<Utc>)> {
    let token = credential::new_token("tnt_");
    let expires_at = Utc::now() + TOKEN_LIFE;
    let hash = token_hash(token.reveal());
    credential::store::insert_session_token(client, id, project, &hash, expires_at).await?;
    Ok((token, expires_at))
}

#[derive(Deserialize, ToSchema)]
pub(crate) struct RefreshRequest {
    anonymous_id: String,
    anonymous_secret: String,
}

/// A new token of an anonymous project.
#[derive(Serialize, ToSchema)]
pub(crate) struct Refreshed {
    token: String,
    expires_at: DateTime<Utc>,
}

/// Gives an anonymous project a new token for 90 days. Earlier ones stay valid until they expire;
/// of more than 20 the oldest is revoked.
#[utoipa::path(post, path = "/customer/anonymous-refresh", tag = "project",
    request_body = RefreshRequest,
    responses((status = 200, body = Refreshed), (status = 401, body = ErrorBody)))]
pub(crate) async fn refresh(
    State(app): State<Arc<App>>,
    Json(request): Json<RefreshRequest>,
) -> ApiResult<axum::Json<Refreshed>> {
    let hash = token_hash(&request.anonymous_secret);
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let found = store::find_anonymous(&transaction, &request.anonymous_id).await?;
    let wrong = || ApiError::with(ErrorCode::InvalidToken, "no such anonymous id and secret");
    let (project, known) = found.ok_or_else(wrong)?;
    if !bool::from(known.ct_eq(&hash)) {
        return Err(wrong());
    }
    let id = CredentialId::random(&mut rand::rng());
    let (token, expires_at) = issue(&transaction, &id, &project).await?;
    transaction.commit().await?;
    crate::audited::of_project(&project);
    crate::audited::made(&id);
    Ok(axum::Json(Refreshed {
        token: token.reveal().to_owned(),
        expires_at,
    }))
}
