//! Who asks for SQL: a token of ours, or one of an issuer that the operator named.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Request, State},
    http::request::Parts,
    middleware::Next,
    response::{IntoResponse, Response},
};
use model::{Role, lifecycle::TenantState};

use super::issuer::{Grant, rank};
use crate::{
    api::{
        App,
        auth::{self, Principal},
        error::{ApiError, ApiResult, ErrorCode},
        extract::DatabaseKey,
    },
    tenant::{self, store::Tenant},
};

/// Who asks. Decided once per request, from the token alone.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// By a token of ours.
    Principal(Principal),
    /// By an issuer's.
    Issued(Grant),
}

/// A handler that takes a [`Caller`] on a route without [`require`] fails closed.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if let Some(grant) = parts.extensions.get::<Grant>() {
            return Ok(Self::Issued(grant.clone()));
        }
        Principal::from_request_parts(parts, state)
            .await
            .map(Self::Principal)
    }
}

/// Layer of the routes that take both.
pub(crate) async fn require(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(token) = app.issuers.token(request.headers()) else {
        return auth::require(State(app), request, next).await;
    };
    // Kept answers are the project's, and this is nobody of it.
    if request.headers().contains_key("idempotency-key") {
        let message = "a token of an issuer goes without Idempotency-Key";
        return ApiError::with(ErrorCode::InvalidField, message).into_response();
    }
    match app.issuers.verify(token).await {
        Ok(grant) => {
            request.extensions_mut().insert(grant);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

impl Caller {
    /// The database, and the role to work as there: the one asked for, or the one with the most rights.
    ///
    /// # Errors
    ///
    /// It is not there for this caller, or not ready; or the caller may not have that role.
    pub(super) async fn database(
        &self,
        app: &App,
        key: &DatabaseKey,
        asked: Option<Role>,
    ) -> ApiResult<(Tenant, Role)> {
        let (tenant, role) = match self {
            Self::Principal(principal) => {
                let tenant = tenant::http::read(app, principal, key).await?;
                let role = role_of(principal, &tenant, asked)?;
                (tenant, role)
            }
            Self::Issued(grant) => {
                let role = grant.role_at(key.id.as_ref(), asked)?;
                (granted(app, grant).await?, role)
            }
        };
        if tenant.state != TenantState::Active {
            return Err(ApiError::with(
                ErrorCode::WrongState,
                format!("database {} is {}", tenant.name, tenant.state),
            )
            .hint("it takes SQL when it is ACTIVE"));
        }
        Ok((tenant, role))
    }
}

/// The database that a token of an issuer is for, where that issuer speaks for its project. To one that
/// speaks for some projects only, a database of another one is the same as none at all.
///
/// # Errors
///
/// [`ErrorCode::TokenWrongDatabase`], [`ErrorCode::DatabaseNotFound`].
pub(super) async fn granted(app: &App, grant: &Grant) -> ApiResult<Tenant> {
    let found = tenant::http::read_any(app, grant.tenant.clone()).await;
    match found {
        Ok(tenant) if !grant.is_for(&tenant.project) => Err(ErrorCode::TokenWrongDatabase.into()),
        Err(error) if error.code == ErrorCode::DatabaseNotFound && grant.projects.is_some() => {
            Err(ErrorCode::TokenWrongDatabase.into())
        }
        found => found,
    }
}

fn role_of(principal: &Principal, tenant: &Tenant, asked: Option<Role>) -> ApiResult<Role> {
    let most = principal.sql_role(&tenant.id);
    let role = asked.unwrap_or(most);
    if rank(role) > rank(most) {
        return Err(ErrorCode::ReadOnlyToken.into());
    }
    Ok(role)
}
