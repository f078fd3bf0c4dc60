//! `Idempotency-Key`: the same write sent twice is done once.
//!
//! The key is reserved before the handler runs. A handler that changes something writes its answer
//! in the same transaction ([`Ticket::keep_in`]), so after a crash either both are there or
//! neither; where another answer is given in the end, that one replaces it. Answers are kept
//! encrypted for an hour, because they may hold a password; errors are not kept, because nothing was
//! done.
//!
//! Keys are the project's, for tokens that may do everything there: a program repeats a request after it
//! got a new token, too. A token that may do less has keys of its own ([`Holder`]): it neither gets
//! what others were answered, nor is in their way.
//!
//! What may be asked without a token does not keep answers: whoever guessed a key would get another
//! one's token.

mod reserve;
mod ticket;

use std::sync::{Arc, atomic::AtomicBool, atomic::Ordering};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderName, StatusCode, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use deadpool_postgres::Object;
use sha2::{Digest, Sha256};
use tokio_postgres::types::ToSql;

pub(crate) use reserve::Working;
pub(crate) use ticket::{Kept, Ticket};

use self::{
    reserve::{Hold, Reservation, reserve},
    ticket::Reserved,
};
use super::{
    App,
    auth::{Nobody, Principal},
    error::{ApiError, ApiResult, ErrorCode},
};
use crate::catalog::{self, Catalog, CatalogError};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Length of a key; the schema has the same limit.
const KEY_BYTES_MAX: usize = 255;
/// Answers larger than this are not kept: only `/sql` makes them.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// Layer of every route with a token; stands after authentication and after reading the body.
pub(crate) async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match run(&app, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn run(app: &Arc<App>, request: Request, next: Next) -> ApiResult<Response> {
    let keeps =
        request.headers().contains_key(KEY) && request.extensions().get::<Nobody>().is_none();
    if request.method().is_safe() || !keeps {
        return Ok(next.run(request).await);
    }
    let (mut parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .map_err(|_| ApiError::from(ErrorCode::BadRequest))?;
    let principal = parts.extensions.get::<Principal>();
    let principal = principal.ok_or(ErrorCode::InvalidToken)?;
    let holder = Holder::of(principal);
    let reserved = Arc::new(Reserved {
        project: principal.project.clone(),
        key: holder.stored(&key_of(&parts)?),
        holder,
        request_hash: hash(&parts, &body),
        keys: app.keys.clone(),
        keep: app.config.limits.idempotency_time,
        is_settled: AtomicBool::new(false),
    });
    let hold = match reserve(app, &reserved).await? {
        Reservation::Ours(hold) => hold,
        Reservation::Answered(response) => return Ok(response),
    };
    parts.extensions.insert(Ticket::new(reserved.clone()));
    let guard = Release {
        app: app.clone(),
        reserved: Some((reserved.clone(), hold)),
    };
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    keep_or_release(app, guard, response).await
}

/// Whose keys a request uses.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Holder {
    /// Those of the project.
    Project,
    /// Those of one token, that may not do everything there.
    Token(String),
}

impl Holder {
    fn of(principal: &Principal) -> Self {
        match principal.may_write() {
            Ok(()) => Self::Project,
            Err(_) => Self::Token(principal.maker().to_owned()),
        }
    }

    /// A key of it as the catalog has it: no key of another one is the same.
    fn stored(&self, key: &str) -> String {
        match self {
            Self::Project => key.to_owned(),
            // Hashed, so that it fits however long it is.
            Self::Token(_) => self.prefix() + &URL_SAFE_NO_PAD.encode(Sha256::digest(key)),
        }
    }

    /// What its keys begin with in the catalog; those of the project have no space.
    fn prefix(&self) -> String {
        match self {
            Self::Project => String::new(),
            Self::Token(id) => format!("{id} "),
        }
    }
}

fn key_of(parts: &Parts) -> ApiResult<String> {
    let invalid = || {
        ApiError::with(
            ErrorCode::InvalidField,
            format!("Idempotency-Key has 1 to {KEY_BYTES_MAX} visible ASCII characters, once"),
        )
    };
    let mut values = parts.headers.get_all(KEY).iter();
    let key = values
        .next()
        .and_then(|value| value.to_str().ok())
        .ok_or_else(invalid)?;
    // No spaces: by them the keys of a token are told from the project's.
    let fits = (1..=KEY_BYTES_MAX).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_graphic())
        && values.next().is_none();
    fits.then(|| key.to_owned()).ok_or_else(invalid)
}

fn hash(parts: &Parts, body: &Bytes) -> [u8; 32] {
    let mut hash = Sha256::new();
    let target = parts
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let method = parts.method.as_str().as_bytes();
    for part in [method, target.as_bytes(), body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Gives a reserved key back when nothing was answered: the client went away, or a panic.
struct Release {
    app: Arc<App>,
    reserved: Option<(Arc<Reserved>, Hold)>,
}

impl Drop for Release {
    fn drop(&mut self) {
        if let (Some((reserved, hold)), Ok(runtime)) =
            (self.reserved.take(), tokio::runtime::Handle::try_current())
        {
            let app = self.app.clone();
            runtime.spawn(async move {
                release(&app, &reserved).await;
                // Not before: the next request would be the one whose key is given back.
                drop(hold);
            });
        }
    }
}

/// An answer that the handler kept stays, and is the last word.
async fn release(app: &App, reserved: &Reserved) {
    let result = async {
        let client = app.catalog.get().await?;
        let whose: [&(dyn ToSql + Sync); 2] = [&reserved.project.as_str(), &reserved.key];
        catalog::execute(
            &client,
            "DELETE FROM idempotency WHERE project_id = $1 AND key = $2 AND status IS NULL",
            &whose,
        )
        .await?;
        catalog::execute(
            &client,
            "UPDATE idempotency SET settled = true WHERE project_id = $1 AND key = $2",
            &whose,
        )
        .await?;
        Ok::<(), CatalogError>(())
    };
    if let Err(error) = result.await {
        tracing::debug!(error = %error, "an Idempotency-Key was not given back; the next request takes it over");
    }
}

async fn keep_or_release(app: &App, mut guard: Release, response: Response) -> ApiResult<Response> {
    let Some((reserved, _)) = &guard.reserved else {
        return Ok(response);
    };
    let reserved = reserved.clone();
    if !response.status().is_success() {
        release(app, &reserved).await;
        guard.reserved = None;
        return Ok(response);
    }
    if reserved.is_settled.load(Ordering::Relaxed) {
        guard.reserved = None;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .map_err(|_| ApiError::from(ErrorCode::Internal))?;
    if body.len() <= RESPONSE_BYTES_MAX {
        keep(app, reserved, parts.status, &body).await;
    } else {
        release(app, &reserved).await;
    }
    guard.reserved = None;
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// The change is made and most handlers kept their answer with it; that this newer one cannot be
/// kept is no reason to withhold it.
async fn keep(app: &App, reserved: Arc<Reserved>, status: StatusCode, body: &[u8]) {
    let result = async {
        let client = app.catalog.get().await?;
        Ticket::new(reserved)
            .keep_in(&client, status, body, Kept::Last)
            .await
    };
    if let Err(error) = result.await {
        tracing::warn!(error = %super::error::chain(&error), "an answer was not kept for its Idempotency-Key");
    }
}

/// Gives back what a former process of this name had reserved and not answered; what it had done is
/// answered as it was written down.
pub(crate) async fn release_own(catalog: &Catalog, instance: &str) -> Result<(), CatalogError> {
    let client = catalog.get().await?;
    catalog::execute(
        &client,
        "DELETE FROM idempotency WHERE instance = $1 AND status IS NULL",
        &[&instance],
    )
    .await?;
    catalog::execute(
        &client,
        "UPDATE idempotency SET settled = true WHERE instance = $1",
        &[&instance],
    )
    .await?;
    Ok(())
}

/// Forgets expired keys, at most `limit`.
pub(crate) async fn sweep(client: &Object, limit: i64) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "DELETE FROM idempotency WHERE (project_id, key) IN (
         SELECT project_id, key FROM idempotency WHERE expires_at <= now() LIMIT $1)",
        &[&limit],
    )
    .await?;
    Ok(())
}
