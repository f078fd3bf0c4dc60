//! `Idempotency-Key`: the same write sent twice is done once.
//!
//! The key is reserved before the handler runs. A handler that changes something writes its answer
//! in the same transaction ([`Ticket::keep_in`]), so after a crash either both are there or
//! neither; the answer that is given in the end replaces it. Answers are kept encrypted for an hour, because they may hold a password; errors are
//! not kept, because nothing was done.
//!
//! The two routes without a token do not keep answers: whoever guessed a key would get another
//! one's token.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use axum::{
    body::{Body, Bytes},
    extract::{FromRequestParts, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use deadpool_postgres::Object;
use model::ProjectId;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_postgres::{GenericClient, types::ToSql};

use super::{
    App,
    auth::Principal,
    error::{ApiError, ApiResult, ErrorCode},
};
use crate::catalog::{Catalog, CatalogError};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// How long a second request waits for the first with the same key.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Between two looks at whether the first is done.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Length of a key; the schema has the same limit.
const KEY_BYTES_MAX: usize = 255;
/// Answers larger than this are not kept: only `/sql` makes them.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// The reserved key of a request; empty when it has none.
#[derive(Clone, Default)]
pub(crate) struct Ticket(Option<Arc<Reserved>>);

struct Reserved {
    project: ProjectId,
    key: String,
    request_hash: [u8; 32],
    keys: crate::Keys,
    keep: Duration,
}

impl<S: Sync> FromRequestParts<S> for Ticket {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

impl Ticket {
    /// Keeps the answer together with what it answers for. Does nothing without a key.
    pub(crate) async fn keep_in(
        &self,
        client: &impl GenericClient,
        status: StatusCode,
        body: &[u8],
    ) -> Result<(), CatalogError> {
        self.write(client, status, body, false).await
    }

    async fn write(
        &self,
        client: &impl GenericClient,
        status: StatusCode,
        body: &[u8],
        settled: bool,
    ) -> Result<(), CatalogError> {
        let Some(reserved) = &self.0 else {
            return Ok(());
        };
        let status = i16::try_from(status.as_u16()).expect("a status has three digits");
        client
            .execute(
                "UPDATE idempotency SET status = $3, response = $4, settled = $6,
                     expires_at = now() + make_interval(secs => $5)
                 WHERE project_id = $1 AND key = $2",
                &[
                    &reserved.project.as_str(),
                    &reserved.key,
                    &status,
                    &reserved.seal(body),
                    &reserved.keep.as_secs_f64(),
                    &settled,
                ],
            )
            .await?;
        Ok(())
    }
}

impl Reserved {
    fn cipher(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, &*self.keys.responses).expect("the key has 32 bytes")
    }

    /// What the answer belongs to; another request cannot be given it.
    fn context(&self) -> Aad<Vec<u8>> {
        let mut context = self.request_hash.to_vec();
        context.extend_from_slice(self.project.as_str().as_bytes());
        context.push(0);
        context.extend_from_slice(self.key.as_bytes());
        Aad::from(context)
    }

    fn seal(&self, body: &[u8]) -> Vec<u8> {
        let mut sealed = body.to_vec();
        let nonce = self
            .cipher()
            .seal_in_place_append_tag(self.context(), &mut sealed)
            .expect("an answer is far shorter than AES-GCM's limit");
        let mut stored = nonce.as_ref().to_vec();
        stored.extend_from_slice(&sealed);
        stored
    }

    /// `None`: it was made under another key of the installation.
    fn open(&self, stored: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = stored.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let body = self
            .cipher()
            .open_in_place(nonce, self.context(), &mut sealed)
            .ok()?;
        Some(body.to_vec())
    }
}

/// Keys that requests of this process work on. A key that the catalog holds reserved in our name and
/// that is not here is nobody's: the catalog was away when it should have been given back.
#[derive(Default)]
pub(crate) struct Working(Mutex<HashSet<(String, String)>>);

/// One key that one request of this process works on.
struct Hold {
    app: Arc<App>,
    key: (String, String),
}

impl Hold {
    /// `None` when another request has it.
    fn take(app: &Arc<App>, reserved: &Reserved) -> Option<Self> {
        let key = (reserved.project.to_string(), reserved.key.clone());
        let Working(working) = &app.working;
        let mut working = working.lock().unwrap_or_else(PoisonError::into_inner);
        working.insert(key.clone()).then(|| Self {
            app: app.clone(),
            key,
        })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Working(working) = &self.app.working;
        let mut working = working.lock().unwrap_or_else(PoisonError::into_inner);
        working.remove(&self.key);
    }
}

/// Layer of every route with a token; stands after authentication and after reading the body.
pub(crate) async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match run(&app, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn run(app: &Arc<App>, request: Request, next: Next) -> ApiResult<Response> {
    if request.method().is_safe() || !request.headers().contains_key(KEY) {
        return Ok(next.run(request).await);
    }
    let (mut parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .map_err(|_| ApiError::from(ErrorCode::BadRequest))?;
    let reserved = Arc::new(Reserved {
        project: parts
            .extensions
            .get::<Principal>()
            .ok_or(ErrorCode::InvalidToken)?
            .project
            .clone(),
        key: key_of(&parts)?,
        request_hash: hash(&parts, &body),
        keys: app.keys.clone(),
        keep: app.config.limits.idempotency_time,
    });
    let hold = match reserve(app, &reserved).await? {
        Reservation::Ours(hold) => hold,
        Reservation::Answered(response) => return Ok(response),
    };
    parts.extensions.insert(Ticket(Some(reserved.clone())));
    let guard = Release {
        app: app.clone(),
        reserved: Some((reserved.clone(), hold)),
    };
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    keep_or_release(app, guard, response).await
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
    let fits = (1..=KEY_BYTES_MAX).contains(&key.len()) && values.next().is_none();
    fits.then(|| key.to_owned()).ok_or_else(invalid)
}

fn hash(parts: &Parts, body: &Bytes) -> [u8; 32] {
    let mut hash = Sha256::new();
    let target = parts
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    for part in [parts.method.as_str().as_bytes(), target.as_bytes(), body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

enum Reservation {
    /// The request is to be done.
    Ours(Hold),
    /// It was done before.
    Answered(Response),
}

/// Reserves the key, or answers for it: with the kept answer, or that it is not available.
async fn reserve(app: &Arc<App>, reserved: &Reserved) -> ApiResult<Reservation> {
    let until = Instant::now() + WAIT_MAX;
    loop {
        // Who is alone finds in our name only what is done, or what nobody works on.
        let hold = Hold::take(app, reserved);
        let is_alone = hold.is_some();
        let client = app.catalog.get().await?;
        if let Some(hold) = hold
            && insert(app, &client, reserved).await?
        {
            return Ok(Reservation::Ours(hold));
        }
        let row = client
            .query_opt(
                "SELECT request_hash, status, response,
                     settled OR leased_until <= now() OR (instance = $3 AND $4)
                 FROM idempotency WHERE project_id = $1 AND key = $2",
                &[
                    &reserved.project.as_str(),
                    &reserved.key,
                    &app.config.instance,
                    &is_alone,
                ],
            )
            .await?;
        drop(client);
        let late = Instant::now() >= until;
        if let Some(row) = row {
            if row.get::<_, &[u8]>(0) != reserved.request_hash {
                return Err(ErrorCode::IdempotencyKeyReused.into());
            }
            if let Some(status) = row.get::<_, Option<i16>>(1)
                && (late || row.get(3))
            {
                return replay(reserved, status, row.get(2)).map(Reservation::Answered);
            }
        }
        if late {
            return Err(ErrorCode::IdempotencyInProgress.into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the key is ours now. One that expired, whose process was not heard of for longer than a
/// request can take, or that is reserved in our name is taken over: the caller holds it, so no other
/// request of this process does.
async fn insert(app: &App, client: &Object, reserved: &Reserved) -> ApiResult<bool> {
    let limits = &app.config.limits;
    let full: bool = client
        .query_one(
            "SELECT count(*) >= $2 FROM (
                 SELECT 1 FROM idempotency WHERE project_id = $1 AND expires_at > now() LIMIT $2) k",
            &[&reserved.project.as_str(), &i64::from(limits.idempotency_keys_max)],
        )
        .await?
        .get(0);
    if full {
        return Err(ApiError::with(
            ErrorCode::TooManyRequests,
            format!(
                "the project has {} Idempotency-Keys in use",
                limits.idempotency_keys_max
            ),
        ));
    }
    let inserted = client
        .execute(
            "INSERT INTO idempotency (project_id, key, request_hash, instance, leased_until, expires_at)
             VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5), now() + make_interval(secs => $6))
             ON CONFLICT (project_id, key) DO UPDATE
                 SET request_hash = $3, instance = $4, status = NULL, response = NULL,
                     settled = false,
                     leased_until = excluded.leased_until, expires_at = excluded.expires_at
                 WHERE idempotency.expires_at <= now()
                     OR (idempotency.status IS NULL AND (
                         idempotency.leased_until <= now() OR idempotency.instance = $4))",
            &[
                &reserved.project.as_str(),
                &reserved.key,
                &reserved.request_hash.as_slice(),
                &app.config.instance,
                &(limits.request_time_max * 2).as_secs_f64(),
                &limits.idempotency_time.as_secs_f64(),
            ],
        )
        .await?;
    Ok(inserted == 1)
}

fn replay(reserved: &Reserved, status: i16, stored: &[u8]) -> ApiResult<Response> {
    let body = reserved.open(stored).ok_or_else(|| {
        tracing::error!(
            "a kept answer cannot be read; was the secret of the installation replaced?"
        );
        ApiError::from(ErrorCode::Internal)
    })?;
    let status = u16::try_from(status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::OK);
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    response
        .headers_mut()
        .insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
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
        client
            .execute(
                "DELETE FROM idempotency WHERE project_id = $1 AND key = $2 AND status IS NULL",
                &whose,
            )
            .await?;
        client
            .execute(
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
        Ticket(Some(reserved))
            .write(&**client, status, body, true)
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
    client
        .execute(
            "DELETE FROM idempotency WHERE instance = $1 AND status IS NULL",
            &[&instance],
        )
        .await?;
    client
        .execute(
            "UPDATE idempotency SET settled = true WHERE instance = $1",
            &[&instance],
        )
        .await?;
    Ok(())
}

/// Forgets expired keys, at most `limit`.
pub(crate) async fn sweep(client: &Object, limit: i64) -> Result<(), CatalogError> {
    client
        .execute(
            "DELETE FROM idempotency WHERE (project_id, key) IN (
                 SELECT project_id, key FROM idempotency WHERE expires_at <= now() LIMIT $1)",
            &[&limit],
        )
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved(key: &str) -> Reserved {
        Reserved {
            project: "prj_abcdefghijkl".parse().unwrap(),
            key: key.to_owned(),
            request_hash: [1; 32],
            keys: crate::Keys::derive(&[9; 32]),
            keep: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_kept_answer_is_unreadable_and_belongs_to_one_request() {
        let stored = reserved("a").seal(b"hunter2");
        assert!(!stored.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(reserved("a").open(&stored).unwrap(), b"hunter2");
        assert_eq!(reserved("b").open(&stored), None);
        assert_eq!(reserved("a").open(b"short"), None);
        assert_ne!(
            stored,
            reserved("a").seal(b"hunter2"),
            "a nonce is never used twice"
        );
    }
}
