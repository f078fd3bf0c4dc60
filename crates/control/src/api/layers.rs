//! What happens to every request before and after its handler.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, StreamExt};
use tracing::Instrument;

use super::{
    App,
    error::{ApiError, ErrorCode, REQUEST_ID},
};

/// What is read and thrown away of a body that is too large, so that the client gets to read the
/// answer instead of a reset connection.
const DISCARD_BYTES_MAX: usize = 64 << 20;
/// For how long.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// Mark of an answer that is an error in a shape of its own, which another's clients read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnShape;

/// The id of a request.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// Gives the request an id, catches panics, renders errors in their one shape.
pub(crate) async fn finish(mut request: Request, next: Next) -> Response {
    let id = new_request_id();
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id, %method);
    let handled = AssertUnwindSafe(next.run(request))
        .catch_unwind()
        .instrument(span.clone())
        .await;
    let _in_span = span.enter();
    let response = handled.unwrap_or_else(|_| {
        tracing::error!(path, "a handler panicked");
        ApiError::from(ErrorCode::Internal).into_response()
    });
    let status = response.status();
    tracing::debug!(path, status = status.as_u16(), "answered");
    let mut response = match response.extensions().get::<ApiError>() {
        Some(error) => error.render(&id),
        None if response.extensions().get::<OwnShape>().is_some() => response,
        // What axum itself refuses, without going through our extractors.
        None if status.is_client_error() || status.is_server_error() => {
            ApiError::from(code_of(status)).render(&id)
        }
        None => response,
    };
    let id = HeaderValue::from_str(&id).expect("an id is plain ASCII");
    response.headers_mut().insert(REQUEST_ID, id);
    // Answers hold secrets and states; no cache between us and the client may keep them.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn code_of(status: StatusCode) -> ErrorCode {
    match status {
        StatusCode::NOT_FOUND => ErrorCode::RouteNotFound,
        StatusCode::METHOD_NOT_ALLOWED => ErrorCode::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::BodyTooLarge,
        status if status.is_client_error() => ErrorCode::BadRequest,
        _ => ErrorCode::Internal,
    }
}

/// An id for a request, or for what should have been one.
pub(super) fn new_request_id() -> String {
    format!("req_{}", model::TenantId::random(&mut rand::rng()))
}

/// No request takes longer than `request_time_max`.
pub(crate) async fn limit_time(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    match tokio::time::timeout(app.config.limits.request_time_max, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::from(ErrorCode::Timeout).into_response(),
    }
}

/// Reads the whole body, up to the route's limit, before anything is done.
pub(crate) async fn read_body(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let limit = if parts.uri.path().ends_with("/sql") {
        app.config.limits.sql_body_bytes_max
    } else {
        app.config.limits.body_bytes_max
    };
    match collect(body, limit).await {
        Ok(bytes) => {
            next.run(Request::from_parts(parts, Body::from(bytes)))
                .await
        }
        Err(error) => error.into_response(),
    }
}

pub(crate) async fn collect(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut bytes = bytes::BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| {
            ApiError::with(
                ErrorCode::BadRequest,
                "the body ended before its announced length",
            )
        })?;
        if bytes.len() + chunk.len() > limit {
            drop(bytes);
            discard(stream, chunk.len()).await;
            return Err(ApiError::with(
                ErrorCode::BodyTooLarge,
                format!("the body is larger than {limit} bytes"),
            ));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

async fn discard(mut stream: axum::body::BodyDataStream, mut seen: usize) {
    let read = async {
        while let Some(Ok(chunk)) = stream.next().await {
            seen += chunk.len();
            if seen > DISCARD_BYTES_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, read).await;
}

/// No such path.
pub(crate) async fn no_route() -> ApiError {
    ErrorCode::RouteNotFound.into()
}

/// The path exists, the method does not.
pub(crate) async fn no_method(method: Method) -> ApiError {
    ApiError::with(
        ErrorCode::MethodNotAllowed,
        format!("this path has no method {method}"),
    )
}
