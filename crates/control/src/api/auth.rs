//! Who is asking: bearer tokens.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use model::{CredentialId, ProjectId};
use subtle::ConstantTimeEq;

use super::{
    App,
    error::{ApiError, ApiResult, ErrorCode},
};
use crate::{credential, keys::token_hash, limits::store::Party};

/// What a token may do in its project.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// Everything.
    Full,
    /// Look, and run SQL as the role `read`.
    Read,
}

/// Who is asking. Decided once per request, from the token alone.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// The project whose databases are meant when nothing else is said.
    pub(crate) project: ProjectId,
    pub(crate) kind: Kind,
}

/// What kind of token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// The operator: every project.
    Operator,
    /// A project's token.
    Project {
        access: Access,
        anonymous: bool,
        token: CredentialId,
    },
}

impl Principal {
    /// The project that a look-up is bound to; `None`: the operator, who sees all.
    pub(crate) fn scope(&self) -> Option<&ProjectId> {
        match self.kind {
            Kind::Operator => None,
            Kind::Project { .. } => Some(&self.project),
        }
    }

    /// # Errors
    ///
    /// [`ErrorCode::ReadOnlyToken`].
    pub(crate) fn may_write(&self) -> ApiResult<()> {
        match self.kind {
            Kind::Operator
            | Kind::Project {
                access: Access::Full,
                ..
            } => Ok(()),
            Kind::Project {
                access: Access::Read,
                ..
            } => Err(ErrorCode::ReadOnlyToken.into()),
        }
    }

    /// # Errors
    ///
    /// [`ErrorCode::OperatorOnly`].
    pub(crate) fn is_operator(&self) -> ApiResult<()> {
        match self.kind {
            Kind::Operator => Ok(()),
            Kind::Project { .. } => Err(ErrorCode::OperatorOnly.into()),
        }
    }

    /// Whose word it is, where the operator's counts more than the owner's.
    pub(crate) fn party(&self) -> Party {
        match self.kind {
            Kind::Operator => Party::Operator,
            Kind::Project { .. } => Party::Owner,
        }
    }

    /// Databases that the project may have; `None`: any number.
    pub(crate) fn quota(&self, app: &App) -> Option<u32> {
        match self.kind {
            Kind::Project {
                anonymous: true, ..
            } => Some(app.config.limits.anonymous_databases_max),
            Kind::Operator
            | Kind::Project {
                anonymous: false, ..
            } => None,
        }
    }
}

/// A handler that takes a [`Principal`] on a route without [`require`] fails closed.
impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ErrorCode::InvalidToken.into())
    }
}

/// Layer of every route that needs a token.
pub(crate) async fn require(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    match principal(&app, request.headers()).await {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// Longest token that is looked at; ours have under 64 bytes.
const TOKEN_BYTES_MAX: usize = 256;

/// Who sent a request with these headers.
///
/// # Errors
///
/// [`ErrorCode::InvalidToken`], [`ErrorCode::ExpiredToken`], or that the catalog cannot tell.
pub(crate) async fn principal(app: &App, headers: &HeaderMap) -> ApiResult<Principal> {
    let token = bearer(headers).ok_or(ErrorCode::InvalidToken)?;
    let hash = token_hash(token);
    if bool::from(hash.ct_eq(&app.config.operator_token_sha256)) {
        return Ok(Principal {
            project: app.operator.clone(),
            kind: Kind::Operator,
        });
    }
    let client = app.catalog.get().await?;
    let found = credential::store::find_token(&client, &hash).await?;
    let token = found.ok_or(ErrorCode::InvalidToken)?;
    if token.expired {
        return Err(ErrorCode::ExpiredToken.into());
    }
    app.used.note(token.id.clone());
    Ok(Principal {
        project: token.project,
        kind: Kind::Project {
            access: token.access,
            anonymous: token.anonymous,
            token: token.id,
        },
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= TOKEN_BYTES_MAX)
        .then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&str], want: Option<&str>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        assert_eq!(bearer(&headers), want, "{values:?}");
    }

    #[test]
    fn only_one_bearer_token_is_taken() {
        check(&["Bearer abc"], Some("abc"));
        check(&["bearer  abc "], Some("abc"));
        check(&[], None);
        check(&["abc"], None);
        check(&["Bearer "], None);
        check(&["Basic abc"], None);
        check(&["Bearer a", "Bearer b"], None);
        check(&[&format!("Bearer {}", "x".repeat(300))], None);
    }
}
