//! `/customer/alerts`: what is open, and what is over.

use std::sync::Arc;

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    http::{invalid, party},
    message::{self, Subject},
    rule::Kind,
    store,
};
use crate::api::{
    App,
    auth::Principal,
    error::{ApiResult, ErrorBody},
    extract::Params,
};

/// Alerts in an answer, when nobody says how many, and at most.
const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1_000;

/// Which alerts.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AlertsQuery {
    /// `open` or `resolved`; both when left out.
    state: Option<String>,
    /// 1 to 1,000; 100 when left out.
    limit: Option<u32>,
}

/// The last message of an alert.
#[derive(Serialize, ToSchema)]
pub(crate) struct AlertMessage {
    /// `opened` or `resolved`.
    event: String,
    /// `waiting`, `sent` or `failed`: given up.
    state: String,
    /// That were made.
    attempts: i32,
    /// Of the last attempt that failed.
    last_error: Option<String>,
}

/// Something that somebody has to look at, or had to.
#[derive(Serialize, ToSchema)]
pub(crate) struct Alert {
    id: String,
    /// As in rules.
    kind: String,
    /// `open` or `resolved`.
    state: String,
    subject: Subject,
    /// As it was seen last, in the unit of its kind.
    value: f64,
    threshold: f64,
    unit: Option<&'static str>,
    /// One line for people.
    text: String,
    /// Its reason is there since then.
    since: DateTime<Utc>,
    opened_at: DateTime<Utc>,
    resolved_at: Option<DateTime<Utc>>,
    /// Null: nobody was told, because no webhook is set.
    message: Option<AlertMessage>,
}

/// Lists alerts, newest first: those that are open, and the last 1,000 that are over, for 30 days.
#[utoipa::path(get, path = "/customer/alerts", tag = "alerts", security(("bearer" = [])),
    operation_id = "list_alerts", params(AlertsQuery),
    responses((status = 200, body = Vec<Alert>), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    Params(query): Params<AlertsQuery>,
) -> ApiResult<axum::Json<Vec<Alert>>> {
    let project = party(&app, &principal)?;
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    let only = query.state.as_deref();
    if !(1..=LIMIT_MAX).contains(&limit)
        || only.is_some_and(|word| !["open", "resolved"].contains(&word))
    {
        return Err(invalid(format!(
            "limit is 1 to {LIMIT_MAX}, state is open or resolved"
        )));
    }
    let client = app.catalog.get().await?;
    let rows = store::list(&client, &project, only, limit.into()).await?;
    let alerts = rows.iter().map(|row| {
        let kind: String = row.get(1);
        let known = Kind::parse(&kind);
        let subject = Subject::read(row);
        let (value, threshold) = (row.get(7), row.get(8));
        let text = known.map(|kind| message::text(kind, &subject, value, threshold));
        let event: Option<String> = row.get(12);
        Alert {
            id: row.get(0),
            state: row.get(2),
            subject,
            value,
            threshold,
            unit: known.map(|kind| kind.said().unit),
            text: text.unwrap_or_else(|| kind.clone()),
            kind,
            since: row.get(9),
            opened_at: row.get(10),
            resolved_at: row.get(11),
            message: event.map(|event| AlertMessage {
                event,
                state: row.get(13),
                attempts: row.get(14),
                last_error: row.get(15),
            }),
        }
    });
    Ok(axum::Json(alerts.collect()))
}
