//! Reading requests, with errors in our words.

use std::collections::HashMap;

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::request::Parts,
};
use model::{AlertRuleId, BackupId, CredentialId, RestoreId, TenantId, TenantName, UserName};
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
        // A list of the right values in the right order would pass for an object.
        if let Some(other) = not_an_object(text) {
            return Err(ApiError::with(
                ErrorCode::InvalidBody,
                format!("the body is {other}, where a JSON object is expected, such as {{}}"),
            ));
        }
        serde_json::from_slice(text).map(Self).map_err(|error| {
            ApiError::with(
                ErrorCode::InvalidBody,
                format!("the body is not as expected: {error}"),
            )
        })
    }
}

/// What kind of JSON a text begins, if it is JSON at all and no object.
fn not_an_object(text: &[u8]) -> Option<&'static str> {
    match text.trim_ascii().first()? {
        b'[' => Some("a list"),
        b'"' => Some("a text"),
        b'0'..=b'9' | b'-' => Some("a number"),
        b't' | b'f' => Some("true or false"),
        b'n' => Some("null"),
        _ => None,
    }
    .filter(|_| serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok())
}

/// A text of a client inside a message: short and without anything that is not plain.
pub(crate) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let shown: String = text.chars().take(CHARS_MAX).collect();
    let more = if text.chars().nth(CHARS_MAX).is_some() {
        "…"
    } else {
        ""
    };
    format!("'{}{more}'", shown.escape_default())
}

/// The query string.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| {
                // Its own words for "this is a query string" come first.
                let text = error.body_text();
                let what = text.split_once(": ").map_or(&*text, |(_, what)| what);
                ApiError::with(ErrorCode::InvalidField, format!("query string: {what}"))
            })?;
        Ok(Self(params))
    }
}

/// A named part of the path.
async fn path_part<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Option<String> {
    let found = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
    found.ok()?.0.remove(name)
}

/// `{credential}` in a path.
pub(crate) struct CredentialKey(pub(crate) Option<CredentialId>);

/// What cannot be an id is the id of nothing.
impl<S: Send + Sync> FromRequestParts<S> for CredentialKey {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let text = path_part(parts, state, "credential").await;
        Ok(Self(text.and_then(|text| text.parse().ok())))
    }
}

/// `{backup}` in a path.
pub(crate) struct BackupKey(pub(crate) Option<BackupId>);

/// What cannot be an id is the id of nothing.
impl<S: Send + Sync> FromRequestParts<S> for BackupKey {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let text = path_part(parts, state, "backup").await;
        Ok(Self(text.and_then(|text| text.parse().ok())))
    }
}

/// `{restore}` in a path.
pub(crate) struct RestoreKey(pub(crate) Option<RestoreId>);

/// What cannot be an id is the id of nothing.
impl<S: Send + Sync> FromRequestParts<S> for RestoreKey {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let text = path_part(parts, state, "restore").await;
        Ok(Self(text.and_then(|text| text.parse().ok())))
    }
}

/// `{rule}` in a path.
pub(crate) struct RuleKey(pub(crate) Option<AlertRuleId>);

/// What cannot be an id is the id of nothing.
impl<S: Send + Sync> FromRequestParts<S> for RuleKey {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let text = path_part(parts, state, "rule").await;
        Ok(Self(text.and_then(|text| text.parse().ok())))
    }
}

/// `{username}` in a path.
pub(crate) struct UserKey(pub(crate) Option<UserName>);

/// What cannot be a name is the name of nobody.
impl<S: Send + Sync> FromRequestParts<S> for UserKey {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let text = path_part(parts, state, "username").await;
        Ok(Self(text.and_then(|text| text.parse().ok())))
    }
}

/// `{what}` in a path.
pub(crate) struct WhatKey(pub(crate) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for WhatKey {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(path_part(parts, state, "what").await))
    }
}

/// `{statement}` in a path: 16 hexadecimal digits.
pub(crate) struct StatementKey(pub(crate) Option<u64>);

/// What cannot be an id is the id of nothing.
impl<S: Send + Sync> FromRequestParts<S> for StatementKey {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let text = path_part(parts, state, "statement").await;
        let digits = text
            .filter(|text| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        Ok(Self(
            digits.and_then(|text| u64::from_str_radix(&text, 16).ok()),
        ))
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
        let text = path_part(parts, state, "database")
            .await
            .ok_or(ErrorCode::DatabaseNotFound)?;
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
