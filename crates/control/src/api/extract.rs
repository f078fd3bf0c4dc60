//! Reading requests, with errors in our words.

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::request::Parts,
};
use model::{TenantId, TenantName};
use serde::de::DeserializeOwned;

use super::error::{ApiError, ErrorCode};

/// The body as JSON, whatever its content type says. An empty body is an empty object.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = axum::body::Bytes::from_request(request, state)
            .await
            .map_err(|_| ApiError::from(ErrorCode::BadRequest))?;
        let text = if bytes.trim_ascii().is_empty() {
            b"{}"
        } else {
            &bytes[..]
        };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| ApiError::with(ErrorCode::InvalidBody, format!("body: {error}")))
    }
}

/// The query string.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| {
                ApiError::with(
                    ErrorCode::InvalidField,
                    format!("query string: {}", error.body_text()),
                )
            })?;
        Ok(Self(params))
    }
}

/// `{id or name}` in a path. Twelve characters may be either; the id is tried first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DatabaseKey {
    pub(crate) id: Option<TenantId>,
    pub(crate) name: Option<TenantName>,
}

impl<S: Send + Sync> FromRequestParts<S> for DatabaseKey {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // What cannot be a name is a database that does not exist.
        let Path(text): Path<String> = Path::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::from(ErrorCode::DatabaseNotFound))?;
        let key = Self {
            id: text.parse().ok(),
            name: text.parse().ok(),
        };
        if key.id.is_none() && key.name.is_none() {
            return Err(ErrorCode::DatabaseNotFound.into());
        }
        Ok(key)
    }
}
