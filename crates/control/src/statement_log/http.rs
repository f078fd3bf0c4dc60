//! `GET /customer/databases/{database}/logs` and `/logs/stats`, in the shape of TenantsDB's.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use chrono::{DateTime, Utc};
use model::{
    Limits,
    limits::{Number, STATEMENT_LOG},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::store::{self, Kept, Kind, Place, Wanted};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{DatabaseKey, Params},
    },
    limits,
    tenant::http::read,
};

/// Lines in an answer, when nobody says how many.
const LIMIT_DEFAULT: i64 = 100;
/// At most.
const LIMIT_MAX: i64 = 1_000;
/// How far back is looked, when nobody says.
const SINCE_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// Kinds of errors that are told apart in sums.
const ERRORS_MAX: usize = 20;

/// Which lines.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// `error`: those that failed; `slow`: those that took as long as the database called slow then; `all` (when left
    /// out).
    #[serde(rename = "type")]
    kind: Option<String>,
    /// How far back: such as `15m`, `1h`, `24h` (when left out) or `7d`.
    since: Option<String>,
    /// 1 to 1,000; 100 when left out.
    limit: Option<i64>,
    /// `next_cursor` of an earlier answer: what comes behind it.
    cursor: Option<String>,
}

/// How far back.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SinceQuery {
    /// Such as `15m`, `1h`, `24h` (when left out) or `7d`.
    since: Option<String>,
}

/// A statement that ended, without its constants.
#[derive(Serialize, ToSchema)]
pub(crate) struct LogEntry {
    /// Of this line, for good.
    id: String,
    /// When it ended.
    timestamp: DateTime<Utc>,
    /// `error`, `slow` or `statement`. One that was slow and failed is an `error`.
    r#type: &'static str,
    is_slow: bool,
    /// As whom it was run.
    user: String,
    /// As in `observability`; null: nobody knows which it was.
    statement_id: Option<String>,
    /// Constants are `$1`.
    query: Option<String>,
    /// From being passed to PostgreSQL to the end of the answer. Null: refused when it was prepared.
    duration_ms: Option<f64>,
    /// Rows sent or changed.
    row_count: u64,
    /// Of the error.
    sqlstate: Option<String>,
}

/// A page of a log, the newest line first.
#[derive(Serialize, ToSchema)]
pub(crate) struct LogPage {
    pub(crate) database_id: String,
    logs: Vec<LogEntry>,
    /// Lines in this answer.
    count: usize,
    /// Whether there are more behind them.
    has_more: bool,
    /// Gets them.
    next_cursor: Option<String>,
}

/// How often something failed.
#[derive(Serialize, ToSchema)]
pub(crate) struct LogErrors {
    sqlstate: String,
    count: u64,
}

/// What is in a log, and what is kept in it.
#[derive(Serialize, ToSchema)]
pub(crate) struct LogStats {
    pub(crate) database_id: String,
    since_seconds: u64,
    /// Lines.
    count: u64,
    error_count: u64,
    slow_count: u64,
    /// Further statements that were to be kept, and for which there was no room.
    dropped_count: u64,
    /// The 20 errors that there are most of.
    errors: Vec<LogErrors>,
    oldest_at: Option<DateTime<Utc>>,
    /// Which statements are kept now: `off`, `errors`, `slow`, `all` or `sampled`.
    statement_log: String,
    statement_log_sample: u64,
    slow_statement_ms: u64,
    /// Lines are removed after this time, or when there are more than `lines_max`.
    keep_seconds: u64,
    lines_max: u64,
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::with(ErrorCode::InvalidField, message)
}

/// No longer than lines are kept.
fn since_of(text: Option<&str>, keep: Duration) -> ApiResult<Duration> {
    let Some(text) = text else {
        return Ok(SINCE_DEFAULT.min(keep));
    };
    let since = humantime::parse_duration(text).ok();
    let since = since.filter(|since| *since >= Duration::from_secs(1));
    let since = since.ok_or_else(|| invalid("since is a time like 15m, 1h, 24h or 7d"))?;
    Ok(since.min(keep))
}

impl LogQuery {
    fn wanted(&self, keep: Duration) -> ApiResult<Wanted> {
        let kind = match self.kind.as_deref() {
            None | Some("all") => Kind::All,
            Some("error") => Kind::Failed,
            Some("slow") => Kind::Slow,
            Some(_) => return Err(invalid("type is error, slow or all")),
        };
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(invalid(format!("limit is 1 to {LIMIT_MAX}")));
        }
        let before = match self.cursor.as_deref() {
            None => None,
            Some(text) => Some(
                Place::parse(text)
                    .ok_or_else(|| invalid("cursor is not one that an answer had"))?,
            ),
        };
        Ok(Wanted {
            kind,
            since: since_of(self.since.as_deref(), keep)?,
            before,
            // One more tells whether there are more.
            most: limit + 1,
        })
    }
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|number| number.parse::<i64>().ok());
        let mut next = || numbers.next().flatten().filter(|number| *number >= 0);
        let place = Self {
            at_us: next()?,
            row: next()?,
            number: next()?,
        };
        let is_time = DateTime::from_timestamp_micros(place.at_us).is_some();
        (is_time && numbers.next().is_none()).then_some(place)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.at_us, self.row, self.number)
    }
}

fn entry(tenant: &model::TenantId, kept: Kept) -> LogEntry {
    let (id, query) = kept.shape.unzip();
    LogEntry {
        id: format!("{}.{}", kept.place.row, kept.place.number),
        timestamp: kept.at,
        r#type: match (&kept.error, kept.is_slow) {
            (Some(_), _) => "error",
            (None, true) => "slow",
            (None, false) => "statement",
        },
        is_slow: kept.is_slow,
        user: format!("{tenant}.{}", kept.login),
        statement_id: id.map(|id| format!("{id:016x}")),
        query,
        duration_ms: kept.took_us.map(|took_us| took_us as f64 / 1e3),
        row_count: kept.rows.unsigned_abs(),
        sqlstate: kept.error,
    }
}

/// Statements of a database that are kept in its log, the newest first, without their constants. Which ones,
/// `statement_log` and `slow_statement_ms` of its limits say. A line is there within some ten seconds.
#[utoipa::path(get, path = "/customer/databases/{database}/logs", tag = "insight",
    security(("bearer" = [])), operation_id = "list_logs",
    params(("database" = String, Path, description = "id or name"), LogQuery),
    responses((status = 200, body = LogPage), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    Params(query): Params<LogQuery>,
) -> ApiResult<axum::Json<LogPage>> {
    let wanted = query.wanted(app.config.statement_log_keep)?;
    let tenant = read(&app, &principal, &key).await?;
    let client = app.catalog.get().await?;
    let mut kept = store::read(&client, &tenant.id, &wanted).await?;
    let most = usize::try_from(wanted.most - 1).unwrap_or(0);
    let has_more = kept.len() > most;
    kept.truncate(most);
    let last = kept.last().map(|kept| kept.place.to_string());
    let logs: Vec<LogEntry> = kept
        .into_iter()
        .map(|kept| entry(&tenant.id, kept))
        .collect();
    Ok(axum::Json(LogPage {
        database_id: tenant.id.to_string(),
        count: logs.len(),
        logs,
        has_more,
        next_cursor: last.filter(|_| has_more),
    }))
}

/// How much is in the log of a database, how often statements failed and with what; what is kept in it, and how
/// long.
#[utoipa::path(get, path = "/customer/databases/{database}/logs/stats", tag = "insight",
    security(("bearer" = [])), operation_id = "log_stats",
    params(("database" = String, Path, description = "id or name"), SinceQuery),
    responses((status = 200, body = LogStats), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(crate) async fn stats(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    Params(query): Params<SinceQuery>,
) -> ApiResult<axum::Json<LogStats>> {
    let keep = app.config.statement_log_keep;
    let since = since_of(query.since.as_deref(), keep)?;
    let tenant = read(&app, &principal, &key).await?;
    let client = app.catalog.get().await?;
    let (alike, dropped) = store::sums(&client, &tenant.id, since).await?;
    let wishes = limits::store::read(&client, &tenant.id).await?;
    let holds = Limits::described(&wishes.operator, &wishes.owner);
    let number = |number| holds.number(number).unwrap_or_default();
    let count = |failed_only: bool| -> u64 {
        let counted = alike.iter().filter(|of| !failed_only || of.error.is_some());
        counted.map(|of| of.count).sum()
    };
    let holding = limits::store::to_json(&holds);
    let log = holding[STATEMENT_LOG].as_str().unwrap_or_default();
    Ok(axum::Json(LogStats {
        database_id: tenant.id.to_string(),
        since_seconds: since.as_secs(),
        count: count(false),
        error_count: count(true),
        slow_count: alike.iter().map(|of| of.slow).sum(),
        dropped_count: dropped,
        oldest_at: alike.iter().map(|of| of.oldest).min(),
        statement_log: log.to_owned(),
        statement_log_sample: number(Number::LogSample),
        slow_statement_ms: number(Number::SlowStatement),
        keep_seconds: keep.as_secs(),
        lines_max: app.config.limits.log_lines_max.unsigned_abs(),
        errors: alike
            .into_iter()
            .filter_map(|of| {
                let count = of.count;
                of.error.map(|sqlstate| LogErrors { sqlstate, count })
            })
            .take(ERRORS_MAX)
            .collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_is_one() {
        let place = Place {
            at_us: 1_790_000_000_123_456,
            row: 7,
            number: 2_000,
        };
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        for text in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "1.2.-3",
            "a.b.c",
            "9223372036854775807.1.1",
            "99999999999999999999.1.1",
        ] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }

    #[test]
    fn nobody_looks_further_back_than_lines_are_kept() {
        let keep = Duration::from_secs(7 * 24 * 3600);
        for (text, want) in [
            (None, Some(24 * 3600)),
            (Some("1h"), Some(3600)),
            (Some("7d"), Some(7 * 24 * 3600)),
            (Some("400d"), Some(7 * 24 * 3600)),
            (Some("0s"), None),
            (Some("1"), None),
            (Some("yesterday"), None),
        ] {
            let since = since_of(text, keep).ok().map(|since| since.as_secs());
            assert_eq!(since, want, "{text:?}");
        }
    }
}
