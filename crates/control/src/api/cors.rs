//! What browsers may do: SQL over HTTP from pages of origins that the operator named, and nothing
//! else.
//!
//! There are no cookies, so a page can do no more than its own secrets allow. Still nothing is allowed
//! unless somebody says so: a password in a page is one for everybody.
//!
//! WHATWG, Fetch, section "CORS protocol".

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::App;
use crate::sql;

/// Pages that may use SQL over HTTP.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Origins {
    /// None.
    #[default]
    None,
    /// Those of these origins, as browsers write them: `https://app.example`.
    These(Vec<String>),
    /// All.
    Any,
}

impl Origins {
    fn allow(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::None => false,
            Self::These(these) => these
                .iter()
                .any(|this| this.as_bytes() == origin.as_bytes()),
            Self::Any => true,
        }
    }
}

/// How long a browser may remember that it may. 10 min: a change is seen soon.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const ALLOWED: [&str; 3] = ["authorization", "content-type", "idempotency-key"];
const EXPOSED: HeaderValue = HeaderValue::from_static("x-request-id, retry-after");

/// Outermost, so that errors can be read, too.
pub(crate) async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let origins = &app.config.sql_origins;
    if *origins == Origins::None || !request.uri().path().ends_with("/sql") {
        return next.run(request).await;
    }
    let origin = request.headers().get(header::ORIGIN);
    let allowed = origin.filter(|origin| origins.allow(origin)).cloned();
    let asks = request
        .headers()
        .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let is_preflight = request.method() == Method::OPTIONS && asks;
    let mut response = if is_preflight && allowed.is_some() {
        preflight()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}

fn preflight() -> Response {
    let all = [&ALLOWED[..], &sql::neon::HEADERS].concat().join(", ");
    let all = HeaderValue::from_str(&all).expect("names of headers are plain ASCII");
    let headers = [
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST"),
        ),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, all),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}
