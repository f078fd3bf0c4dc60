//! Whose turn a key is.
//!
//! Owns: reserving a key, waiting for who has it, and answering for what was done before. Does not
//! own: what is kept ([`super::ticket`]).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use deadpool_postgres::Object;
use tokio::time::Instant;

use super::{Holder, ticket::Reserved};
use crate::{
    api::{
        App,
        error::{ApiError, ApiResult, ErrorCode},
    },
    catalog::{self, CatalogError},
};

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// How long a second request waits for the first with the same key.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Between two looks at whether the first is done.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Keys that requests of this process work on. A key that the catalog holds reserved in our name and
/// that is not here is nobody's: the catalog was away when it should have been given back.
#[derive(Default)]
pub(crate) struct Working(Mutex<HashSet<(String, String)>>);

/// One key that one request of this process works on.
pub(super) struct Hold {
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

pub(super) enum Reservation {
    /// The request is to be done.
    Ours(Hold),
    /// It was done before.
    Answered(Response),
}

/// Reserves the key, or answers for it: with the kept answer, or that it is not available.
pub(super) async fn reserve(app: &Arc<App>, reserved: &Reserved) -> ApiResult<Reservation> {
    let until = Instant::now() + WAIT_MAX;
    let mut refused = false;
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
        let row = catalog::query_opt(
            &client,
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
        if row.is_none() && is_alone {
            // Once, it may have been given back between the two looks.
            if std::mem::replace(&mut refused, true) {
                return Err(no_room(app, &reserved.holder));
            }
        }
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
/// request of this process does. A new one has to find room.
async fn insert(app: &App, client: &Object, reserved: &Reserved) -> Result<bool, CatalogError> {
    let limits = &app.config.limits;
    let inserted = catalog::execute(
        client,
        "INSERT INTO idempotency
             (project_id, key, request_hash, instance, leased_until, expires_at)
         SELECT $1::text, $2::text, $3::bytea, $4::text,
             now() + make_interval(secs => $5), now() + make_interval(secs => $6)
         WHERE EXISTS (SELECT FROM idempotency WHERE project_id = $1 AND key = $2)
             OR $7 > (SELECT count(*) FROM (SELECT FROM idempotency
                 WHERE project_id = $1 AND expires_at > now()
                     AND CASE $8::text WHEN '' THEN strpos(key, ' ') = 0 ELSE starts_with(key, $8) END
                 LIMIT $7) k)
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
            &i64::from(limits.idempotency_keys_max),
            &reserved.holder.prefix(),
        ],
    )
    .await?;
    Ok(inserted == 1)
}

fn no_room(app: &App, holder: &Holder) -> ApiError {
    let keys_max = app.config.limits.idempotency_keys_max;
    let whose = match holder {
        Holder::Project => "project",
        Holder::Token(_) => "token",
    };
    ApiError::with(
        ErrorCode::TooManyRequests,
        format!("the {whose} has {keys_max} Idempotency-Keys in use"),
    )
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
