//! Who is asking: bearer tokens.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use model::{CredentialId, ProjectId, Role, TenantId};
use subtle::ConstantTimeEq;

use super::{
    App,
    address::client_address,
    error::{ApiError, ApiResult, ErrorCode},
};
use crate::{audited, credential, keys::token_hash, limits::store::Party};

/// What a token may do in its project.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    /// Everything.
    Full,
    /// Look, and run SQL as the role `read`. Of a token with a [`Scope`], more can be true of some
    /// databases; what does not ask for that stays on the safe side.
    Read,
}

/// The databases that a token is bound to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Scope {
    /// Ids, to be looked for.
    databases: Vec<String>,
    /// Those of them where it may run SQL that changes something.
    writable: Vec<TenantId>,
}

impl Scope {
    /// Of these databases; true: it may change rows and schema.
    pub(crate) fn new(databases: &[(TenantId, bool)]) -> Self {
        let writable = databases.iter().filter(|(_, writable)| *writable);
        Self {
            databases: databases.iter().map(|(id, _)| id.to_string()).collect(),
            writable: writable.map(|(id, _)| id.clone()).collect(),
        }
    }
}

/// What a look-up may find.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    /// Only what belongs to it; `None`: the operator, who sees all.
    pub(crate) project: Option<&'a ProjectId>,
    /// Only these of its databases; `None`: all.
    pub(crate) databases: Option<&'a [String]>,
}

impl<'a> Reach<'a> {
    /// Everything, for who proved in another way what is theirs.
    pub(crate) fn everything() -> Self {
        Self {
            project: None,
            databases: None,
        }
    }

    /// All of one project.
    pub(crate) fn project(project: &'a ProjectId) -> Self {
        Self {
            project: Some(project),
            databases: None,
        }
    }
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
        /// Bound to some databases. Its `access` is [`Access::Read`] then.
        scope: Option<Arc<Scope>>,
    },
}

impl Principal {
    /// What a look-up is bound to.
    pub(crate) fn scope(&self) -> Reach<'_> {
        Reach {
            project: match self.kind {
                Kind::Operator => None,
                Kind::Project { .. } => Some(&self.project),
            },
            databases: self.bound_to().map(|scope| &*scope.databases),
        }
    }

    fn bound_to(&self) -> Option<&Scope> {
        match &self.kind {
            Kind::Operator => None,
            Kind::Project { scope, .. } => scope.as_deref(),
        }
    }

    /// What is said when a look-up found nothing. To a token that is bound to some databases, one
    /// that it has nothing to do with and one that does not exist are the same.
    pub(crate) fn not_found(&self) -> ApiError {
        match self.bound_to() {
            None if self.kind == Kind::Operator => ApiError::from(ErrorCode::DatabaseNotFound).hint(
                "the operator finds databases of all projects by id, and by name only those of the operator's own project",
            ),
            None => ErrorCode::DatabaseNotFound.into(),
            Some(_) => ErrorCode::NotInScope.into(),
        }
    }

    /// May it change what the project has: databases, credentials, limits?
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ReadOnlyToken`], [`ErrorCode::ScopedToken`].
    pub(crate) fn may_write(&self) -> ApiResult<()> {
        match &self.kind {
            Kind::Operator
            | Kind::Project {
                access: Access::Full,
                scope: None,
                ..
            } => Ok(()),
            Kind::Project {
                scope: Some(scope), ..
            } if !scope.writable.is_empty() => Err(ErrorCode::ScopedToken.into()),
            Kind::Project { .. } => Err(ErrorCode::ReadOnlyToken.into()),
        }
    }

    /// May it look at what belongs to the project as a whole?
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ScopedToken`].
    pub(crate) fn may_see_project(&self) -> ApiResult<()> {
        match self.bound_to() {
            None => Ok(()),
            Some(_) => Err(ErrorCode::ScopedToken.into()),
        }
    }

    /// The role in which it runs SQL in a database that it may see.
    pub(crate) fn sql_role(&self, database: &TenantId) -> Role {
        match &self.kind {
            Kind::Operator
            | Kind::Project {
                access: Access::Full,
                scope: None,
                ..
            } => Role::Admin,
            Kind::Project {
                scope: Some(scope), ..
            } if scope.writable.contains(database) => Role::Admin,
            Kind::Project { .. } => Role::Read,
        }
    }

    /// Who this is, as it is kept of what it makes: `operator`, or the id of the token.
    pub(crate) fn maker(&self) -> &str {
        match &self.kind {
            Kind::Operator => "operator",
            Kind::Project { token, .. } => token.as_str(),
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

/// Whoever sent no token at all, on the one route where that is allowed. Not somebody whose token is
/// wrong: that is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Nobody;

impl Nobody {
    /// A create that says when it ends, for which a project is made. Without an end it could be meant
    /// for a project whose token was forgotten. Not from a page in a browser, which could make its reader's
    /// machine do it without a word, and never sees the answer.
    fn may_send(request: &Request) -> bool {
        let query = request.uri().query().unwrap_or_default();
        request.method() == Method::POST
            && request.uri().path() == "/customer/databases"
            && !request.headers().contains_key(header::AUTHORIZATION)
            && !request.headers().contains_key(header::ORIGIN)
            && query.split('&').any(|field| field.starts_with("expires="))
    }
}

/// Who creates.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    Known(Principal),
    /// Gets a project of its own.
    Nobody,
}

/// Fails closed, as [`Principal`].
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        match (
            parts.extensions.get::<Principal>(),
            parts.extensions.get::<Nobody>(),
        ) {
            (Some(principal), _) => Ok(Self::Known(principal.clone())),
            (None, Some(Nobody)) => Ok(Self::Nobody),
            (None, None) => Err(ErrorCode::InvalidToken.into()),
        }
    }
}

/// Layer of every route that needs a token.
pub(crate) async fn require(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    if Nobody::may_send(&request) {
        request.extensions_mut().insert(Nobody);
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let from = client_address(&parts, &app.config.forwarded_from);
    let from = from.ok().map(|address| address.ip().to_canonical());
    match principal(&app, &parts.headers, from).await {
        Ok(principal) => {
            parts.extensions.insert(principal);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(error) => {
            audited::refused(&app, &parts, &error);
            error.into_response()
        }
    }
}

/// Longest token that is looked at; ours have under 64 bytes.
const TOKEN_BYTES_MAX: usize = 256;

/// Who sent a request with these headers.
///
/// # Errors
///
/// [`ErrorCode::InvalidToken`], [`ErrorCode::ExpiredToken`], or that the catalog cannot tell.
pub(crate) async fn principal(
    app: &App,
    headers: &HeaderMap,
    from: Option<IpAddr>,
) -> ApiResult<Principal> {
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
    app.used.note(token.id.clone(), from);
    Ok(Principal {
        project: token.project,
        kind: Kind::Project {
            access: token.access,
            anonymous: token.anonymous,
            token: token.id,
            scope: token.scope.map(Arc::new),
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
