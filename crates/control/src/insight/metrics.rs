//! `GET /customer/databases/{database}/metrics`: what a database did today, this hour and this week, in the shape of
//! TenantsDB's.

use std::sync::Arc;

use axum::extract::State;
use chrono::{DateTime, Utc};
use model::insight::{BOUNDS_US, Counts};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Told,
    window::{DAY, HOUR, Times, counted_since},
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiResult, ErrorBody},
        extract::DatabaseKey,
    },
    tenant::http::read,
};

/// Of hours, days and weeks by UTC; weeks begin on Mondays.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueryMetrics {
    /// Statements, those that failed among them.
    queries_today: u64,
    queries_this_hour: u64,
    queries_this_week: u64,
    /// Of today, as all that follows. 0 when there were none.
    avg_latency_ms: f64,
    /// As far as it is known: the least of the bounds (100 µs, 250 µs, 500 µs, 1 ms, … 60 s) that none exceeded.
    max_latency_ms: f64,
    /// Percent that did not fail; 100 when there were none.
    success_rate: f64,
    failed_queries: u64,
    /// Those that took as long as the database called slow then.
    slow_queries: u64,
}

/// How large a database is, and how many use it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DatabaseMetrics {
    /// On disk now, or as measured last when the server does not answer; null when it never was.
    storage_bytes: Option<u64>,
    /// When it took that.
    storage_measured_at: Option<DateTime<Utc>>,
    /// Of the blocks that statements needed, the share that PostgreSQL had in its memory; null when none were
    /// needed.
    cache_hit_ratio: Option<f64>,
    /// Clients logged in now.
    active_connections: u32,
    /// Server connections that they share now.
    server_connections: u32,
}

/// What a database did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Metrics {
    pub(crate) database_id: String,
    /// Always `PostgreSQL`.
    database_type: &'static str,
    /// Always 1: a database of its own on a server that others use, too.
    isolation_level: u8,
    query_metrics: QueryMetrics,
    database_metrics: DatabaseMetrics,
}

/// What a database did today, this hour and this week, on all proxies, and how large and busy it is now.
#[utoipa::path(get, path = "/customer/databases/{database}/metrics", tag = "insight",
    security(("bearer" = [])), operation_id = "database_metrics",
    params(("database" = String, Path, description = "id or name")),
    responses((status = 200, body = Metrics), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<Metrics>> {
    let tenant = read(&app, &principal, &key).await?;
    let told = app.insight.read(&app, &tenant.id, 0).await?;
    let figures = super::http::measure(&app, &tenant.pid).await;
    let size = super::http::size(figures.as_ref(), &told);
    let (active_connections, server_connections) = told.connections();
    Ok(axum::Json(Metrics {
        database_id: tenant.id.to_string(),
        database_type: "PostgreSQL",
        isolation_level: 1,
        query_metrics: query_metrics(&told),
        database_metrics: DatabaseMetrics {
            storage_bytes: size.map(|size| size.bytes),
            storage_measured_at: size.map(|size| size.measured_at),
            cache_hit_ratio: figures.as_ref().and_then(super::http::cache_hit_ratio),
            active_connections,
            server_connections,
        },
    }))
}

fn queries(counts: &Counts) -> u64 {
    counts.statements + counts.errors
}

fn query_metrics(told: &Told) -> QueryMetrics {
    let (kept, unwritten) = (&told.kept, &told.unwritten);
    let day = (kept.now / DAY as f64).floor() as i64;
    let hour = (kept.now / HOUR as f64).floor() as i64;
    // The first day of 1970 was a Thursday.
    let monday = day - (day + 3).rem_euclid(7);
    let hours = |first| {
        let of_hours = |slot: &&super::window::Slot| slot.grain == super::window::HOURS;
        counted_since(kept.slots.iter().filter(of_hours), first, unwritten)
    };
    let today = hours(day * DAY / HOUR);
    let week = counted_since(kept.days.iter(), monday, unwritten);
    let times = Times {
        sum_us: today.times_us as f64,
        counts: today.times.map(|count| count as f64),
    };
    let longest = today.times.iter().rposition(|count| *count > 0);
    let bound = longest.map(|place| BOUNDS_US[place.min(BOUNDS_US.len() - 1)]);
    QueryMetrics {
        queries_today: queries(&today),
        queries_this_hour: queries(&hours(hour)),
        queries_this_week: queries(&week),
        avg_latency_ms: times.average_ms(),
        max_latency_ms: bound.map_or(0.0, |us| us as f64 / 1e3),
        success_rate: match queries(&today) {
            0 => 100.0,
            all => (today.statements as f64 / all as f64 * 1e4).round() / 1e2,
        },
        failed_queries: today.errors,
        slow_queries: today.slow,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{store::Kept, window::Slot},
        *,
    };

    fn slot(grain: i16, slot: i64, statements: u64) -> Slot {
        let mut counts = Counts {
            statements,
            errors: 1,
            times_us: statements * 700,
            slow: 2,
            ..Counts::default()
        };
        counts.times[3] = statements;
        Slot {
            grain,
            slot,
            counts,
        }
    }

    /// Wednesday, 2026-11-18 10:30 UTC.
    const NOW: f64 = 1_794_997_800.0;

    #[test]
    fn hours_days_and_weeks_begin_where_those_of_utc_do() {
        let (day, hour) = ((NOW / 86_400.0) as i64, (NOW / 3_600.0) as i64);
        let midnight = day * 24;
        let told = Told {
            kept: Kept {
                now: NOW,
                slots: vec![
                    slot(3, hour, 1),
                    slot(3, midnight, 10),
                    slot(3, midnight - 1, 100),
                    slot(2, NOW as i64 / 60, 1_000),
                ],
                days: vec![
                    slot(4, day, 11),
                    slot(4, day - 2, 20),
                    slot(4, day - 3, 400),
                ],
                ..Kept::default()
            },
            unwritten: Counts {
                statements: 5,
                ..Counts::default()
            },
            detail: None,
        };
        let seen = query_metrics(&told);
        assert_eq!(seen.queries_this_hour, 1 + 1 + 5);
        assert_eq!(seen.queries_today, 1 + 10 + 2 + 5);
        assert_eq!(seen.queries_this_week, 11 + 20 + 2 + 5);
        assert_eq!((seen.failed_queries, seen.slow_queries), (2, 4));
        assert_eq!(seen.success_rate, 88.89);
        assert_eq!((seen.avg_latency_ms, seen.max_latency_ms), (0.7, 1.0));
    }

    #[test]
    fn who_does_nothing_fails_at_nothing() {
        let told = Told {
            kept: Kept {
                now: NOW,
                ..Kept::default()
            },
            unwritten: Counts::default(),
            detail: None,
        };
        let seen = query_metrics(&told);
        assert_eq!((seen.queries_today, seen.success_rate), (0, 100.0));
        assert_eq!((seen.avg_latency_ms, seen.max_latency_ms), (0.0, 0.0));
    }
}
