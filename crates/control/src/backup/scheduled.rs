//! `/customer/databases/{database}/backup-schedule`: what is said of one database, beside the operator's settings.

use std::{sync::Arc, time::Duration};

use axum::{extract::State as Has, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    plan::{self, Own},
    store,
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{DatabaseKey, Json},
        idempotency::{Kept, Ticket},
    },
    catalog::CatalogError,
    limits::store::Party,
    tenant::{
        self, change,
        lifetime::{LIFETIME_MAX, parse_time},
        store::{Purpose, Tenant},
    },
};

/// Each reads all of a database; an owner who could ask for more would keep the disks of all busy.
const EVERY_MIN_OWNER: Duration = Duration::from_secs(3600);
/// What the operator may say: a pass looks each few seconds.
const EVERY_MIN: Duration = Duration::from_secs(60);
/// As many as may be asked for by hand.
const KEEP_MAX: u32 = 100;

/// What is said of one database; what is left out, or null, is as the installation has it.
#[derive(Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct ScheduleRequest {
    /// Between two backups, such as `6h`: an hour at least, and for the operator a minute. `never`: none are made.
    every: Option<String>,
    /// Good ones that are kept, 1 to 100; 0: any number.
    keep: Option<u32>,
    /// Older ones are removed, such as `30d`. `forever`: none.
    keep_for: Option<String>,
}

/// When a database is backed up, and for how long that is kept.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScheduleResponse {
    database_id: String,
    /// Between two backups; `never`: none are made by schedule.
    every: String,
    /// In which they begin, in UTC; `all`: the whole day. Where it is not, a database is backed up once a day at most.
    window: String,
    /// Good ones that are kept; 0: any number.
    keep: u32,
    /// Older ones are removed; `forever`: none. The newest good one stays as long as the database.
    keep_for: String,
    /// What was said of this database.
    own: ScheduleRequest,
    /// Which moment its newest good backup holds, whoever asked for it.
    last_at: Option<DateTime<Utc>>,
    /// When the next one is made; null: there is no schedule, or the database is not ACTIVE.
    next_at: Option<DateTime<Utc>>,
}

/// The schedule by which a database is backed up.
#[utoipa::path(get, path = "/customer/databases/{database}/backup-schedule", tag = "backups",
    operation_id = "get_backup_schedule", security(("bearer" = [])),
    params(("database" = String, Path, description = "id or name")),
    responses((status = 200, body = ScheduleResponse), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn get(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<ScheduleResponse>> {
    let tenant = tenant::http::read(&app, &principal, &key).await?;
    let client = app.catalog.get().await?;
    Ok(axum::Json(describe(&app, &client, &tenant).await?))
}

/// Sets the schedule by which a database is backed up. What is not named is as the installation has it.
#[utoipa::path(put, path = "/customer/databases/{database}/backup-schedule", tag = "backups",
    operation_id = "set_backup_schedule", security(("bearer" = [])),
    params(("database" = String, Path, description = "id or name")), request_body = ScheduleRequest,
    responses((status = 200, body = ScheduleResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn put(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Json(request): Json<ScheduleRequest>,
) -> ApiResult<axum::Json<ScheduleResponse>> {
    principal.may_write()?;
    let own = read(&request, principal.party())?;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let tenant = change::find(&transaction, &principal, &key, Purpose::Change).await?;
    change::refuse_deleted(&tenant)?;
    plan::set_own(&transaction, &tenant.id, own).await?;
    let answer = describe(&app, &transaction, &tenant).await?;
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::OK, &body, Kept::Last)
        .await?;
    transaction.commit().await?;
    app.backups.wake();
    tracing::info!(tenant = %tenant.id, every = answer.every, "the schedule of a database's backups was changed");
    Ok(axum::Json(answer))
}

fn wrong(what: String) -> ApiError {
    ApiError::with(ErrorCode::InvalidField, what)
}

fn read(request: &ScheduleRequest, party: Party) -> ApiResult<Own> {
    let time = |field: &str, text: &Option<String>, none: &str, min: Duration| match text {
        None => Ok(None),
        Some(text) if text == none => Ok(Some(Duration::ZERO)),
        Some(text) => match parse_time(field, text)? {
            time if (min..=LIFETIME_MAX).contains(&time) => Ok(Some(time)),
            _ => Err(wrong(format!(
                "{field} is {none}, or a time from {} to ten years",
                humantime::format_duration(min)
            ))),
        },
    };
    let every_min = match party {
        Party::Operator => EVERY_MIN,
        Party::Owner => EVERY_MIN_OWNER,
    };
    if request.keep.is_some_and(|keep| keep > KEEP_MAX) {
        return Err(wrong(format!("keep is a number from 0 to {KEEP_MAX}")));
    }
    Ok(Own {
        every: time("every", &request.every, "never", every_min)?,
        keep: request.keep,
        keep_for: time("keep_for", &request.keep_for, "forever", EVERY_MIN)?,
    })
}

async fn describe(
    app: &App,
    client: &impl deadpool_postgres::GenericClient,
    tenant: &Tenant,
) -> Result<ScheduleResponse, CatalogError> {
    let own = plan::own(client, &tenant.id).await?;
    let all = app.config.backup_schedule;
    let shown = |time: Duration, none: &str| match time {
        Duration::ZERO => none.to_owned(),
        time => humantime::format_duration(time).to_string(),
    };
    Ok(ScheduleResponse {
        database_id: tenant.id.to_string(),
        every: shown(own.every.unwrap_or(all.every), "never"),
        window: all.window.to_string(),
        keep: own.keep.unwrap_or(all.keep),
        keep_for: shown(own.keep_for.unwrap_or(all.keep_for), "forever"),
        own: ScheduleRequest {
            every: own.every.map(|time| shown(time, "never")),
            keep: own.keep,
            keep_for: own.keep_for.map(|time| shown(time, "forever")),
        },
        last_at: store::newest_good(client, &tenant.id).await?,
        next_at: plan::next(app, client, &tenant.id).await?,
    })
}
