//! `GET /customer/databases/{database}/observability`: what a database's statements did, and which they are.

use std::{cmp::Reverse, sync::Arc};

use axum::extract::State;
use chrono::{DateTime, Utc};
use model::{Pid, insight::Statement};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Told,
    window::{GRAINS, Times, Window, rounded},
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode, chain},
        extract::{DatabaseKey, Params},
    },
    storage::store::Size,
    tenant::http::read,
};

/// Statements in an answer, when nobody says how many.
const SAMPLES_DEFAULT: usize = 20;
/// At most. As many as a proxy tells apart, unless its operator changed that.
pub(super) const SAMPLES_MAX: usize = 200;

/// Which statements, and how many.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ObservabilityQuery {
    /// What the samples are ordered by, most first: `time` (all together; when left out), `count`, `p99`, `max`,
    /// `errors`, `recent`, or `slow`: only those that took as long as the database calls slow, those that did so most
    /// often first.
    order: Option<String>,
    /// Samples at most: 0 to 200; 20 when left out.
    samples: Option<usize>,
}

/// What a database's statements did in the last so many seconds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct WindowFigures {
    window_seconds: i64,
    statement_count: u64,
    /// Transactions that ended, those that were rolled back among them.
    txn_commit_count: u64,
    /// Errors of PostgreSQL that clients were told.
    error_count: u64,
    /// Statements that took as long as the database called slow then, or longer.
    slow_count: u64,
    /// Statements a second.
    qps: f64,
    /// Transactions a second.
    tps: f64,
    /// From being passed to PostgreSQL to the end of the answer; waiting for a server connection is not in it.
    /// 0 when there were none.
    latency_avg_ms: f64,
    /// Percentiles are estimated from counts between fixed bounds (100 µs, 250 µs, 500 µs, 1 ms, … 60 s).
    latency_p50_ms: f64,
    latency_p95_ms: f64,
    latency_p99_ms: f64,
    /// Rows sent.
    row_count: u64,
    /// Read from clients after login.
    bytes_from_clients: u64,
    /// Sent to clients.
    bytes_to_clients: u64,
    /// Sessions that began.
    login_count: u64,
}

/// The last minute, and what is known of now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Summary {
    #[serde(flatten)]
    window: WindowFigures,
    /// Clients logged in now.
    active_connections: u32,
    /// Server connections that they share now, idle ones included.
    server_connections: u32,
    /// On disk now, or as measured last when the server does not answer; null when it never was.
    storage_bytes: Option<u64>,
    /// When it took that.
    storage_measured_at: Option<DateTime<Utc>>,
    /// Of the blocks that statements needed, the share that PostgreSQL had in its memory, since its
    /// statistics began; null when none were needed.
    cache_hit_ratio: Option<f64>,
    /// When a client last did something; null: never. Within ten seconds.
    last_activity_at: Option<DateTime<Utc>>,
}

/// A shape of statements: constants are `$1`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sample {
    /// 16 hexadecimal digits; the same everywhere and for good.
    id: String,
    query: String,
    /// Since the database came into use at this process, as all numbers of a sample.
    sample_count: u64,
    error_count: u64,
    /// Runs that took as long as the database called slow then, or longer.
    slow_count: u64,
    row_count: u64,
    latency_avg_ms: f64,
    latency_p50_ms: f64,
    latency_p99_ms: f64,
    latency_max_ms: f64,
    /// All together.
    total_ms: f64,
    last_seen_ms_ago: u64,
}

/// What a database does.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Observability {
    database_id: String,
    summary: Summary,
    /// The last minute, hour and day.
    windows: Vec<WindowFigures>,
    samples: Vec<Sample>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Order {
    Time,
    Count,
    P99,
    Max,
    Errors,
    Recent,
    Slow,
}

impl ObservabilityQuery {
    fn order(&self) -> ApiResult<Order> {
        Ok(match self.order.as_deref() {
            None | Some("time") => Order::Time,
            Some("count") => Order::Count,
            Some("p99") => Order::P99,
            Some("max") => Order::Max,
            Some("errors") => Order::Errors,
            Some("recent") => Order::Recent,
            Some("slow") => Order::Slow,
            Some(_) => {
                return Err(ApiError::with(
                    ErrorCode::InvalidField,
                    "order is time, count, p99, max, errors, recent or slow",
                ));
            }
        })
    }

    fn samples(&self) -> ApiResult<usize> {
        match self.samples {
            None => Ok(SAMPLES_DEFAULT),
            Some(most) if most <= SAMPLES_MAX => Ok(most),
            Some(_) => Err(ApiError::with(
                ErrorCode::InvalidField,
                format!("samples is 0 to {SAMPLES_MAX}"),
            )),
        }
    }
}

/// What a database's statements did in the last minute, hour and day, on all proxies; how large and how busy
/// it is; and the statements that count most on the proxy of this process, without their constants.
#[utoipa::path(get, path = "/customer/databases/{database}/observability", tag = "insight",
    security(("bearer" = [])), operation_id = "observability",
    params(("database" = String, Path, description = "id or name"), ObservabilityQuery),
    responses((status = 200, body = Observability), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(crate) async fn observability(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    Params(query): Params<ObservabilityQuery>,
) -> ApiResult<axum::Json<Observability>> {
    let (order, most) = (query.order()?, query.samples()?);
    let tenant = read(&app, &principal, &key).await?;
    let statements_max = if most == 0 { 0 } else { SAMPLES_MAX };
    let told = app.insight.read(&app, &tenant.id, statements_max).await?;
    let figures = measure(&app, &tenant.pid).await;
    let size = size(figures.as_ref(), &told);
    let windows: Vec<WindowFigures> = GRAINS
        .iter()
        .map(|grain| {
            let slots = &told.kept.slots;
            describe(&Window::of(*grain, slots, &told.unwritten, told.kept.now))
        })
        .collect();
    let (active_connections, server_connections) = told.connections();
    let summary = Summary {
        window: windows[0].clone(),
        active_connections,
        server_connections,
        storage_bytes: size.map(|size| size.bytes),
        storage_measured_at: size.map(|size| size.measured_at),
        cache_hit_ratio: figures.as_ref().and_then(cache_hit_ratio),
        last_activity_at: last_activity(&told),
    };
    let statements = told.detail.map(|detail| detail.statements);
    Ok(axum::Json(Observability {
        database_id: tenant.id.to_string(),
        summary,
        windows,
        samples: samples(statements.unwrap_or_default(), order, most),
    }))
}

/// `None`: it is not there, or the server did not answer.
pub(super) async fn measure(app: &App, pid: &Pid) -> Option<node::Figures> {
    match app.node.database_figures(pid).await {
        Ok(figures) => figures,
        Err(error) => {
            tracing::debug!(error = %chain(&error), "a database was not measured");
            None
        }
    }
}

/// As it is now, or as it was when it was measured last.
pub(super) fn size(figures: Option<&node::Figures>, told: &Told) -> Option<Size> {
    let now = figures.map(|of| Size {
        bytes: of.bytes,
        measured_at: Utc::now(),
    });
    now.or(told.kept.size)
}

/// Of the blocks that were needed, the share that was in memory; `None`: none were.
pub(super) fn cache_hit_ratio(of: &node::Figures) -> Option<f64> {
    let all = of.blocks_hit + of.blocks_read;
    (all > 0).then(|| (of.blocks_hit as f64 / all as f64 * 1e4).round() / 1e4)
}

/// What was not written yet was done since the last pass.
fn last_activity(told: &Told) -> Option<DateTime<Utc>> {
    match told.unwritten.is_nothing() {
        true => told.kept.active_at,
        false => Some(Utc::now()),
    }
}

fn describe(window: &Window) -> WindowFigures {
    let counts = window.counts();
    let times = window.times();
    WindowFigures {
        window_seconds: window.seconds,
        statement_count: counts.statements,
        txn_commit_count: counts.transactions,
        error_count: counts.errors,
        slow_count: counts.slow,
        qps: window.per_second(counts.statements),
        tps: window.per_second(counts.transactions),
        latency_avg_ms: times.average_ms(),
        latency_p50_ms: times.quantile_ms(0.5),
        latency_p95_ms: times.quantile_ms(0.95),
        latency_p99_ms: times.quantile_ms(0.99),
        row_count: counts.rows,
        bytes_from_clients: counts.bytes_from_clients,
        bytes_to_clients: counts.bytes_to_clients,
        login_count: counts.logins,
    }
}

fn samples(mut statements: Vec<Statement>, order: Order, most: usize) -> Vec<Sample> {
    if order == Order::Slow {
        statements.retain(|of| of.slow > 0);
    }
    let p99 = |statement: &Statement| (times(statement).quantile_ms(0.99) * 1e3) as u64;
    statements.sort_by_cached_key(|of| {
        let first = match order {
            Order::Time => of.time_us,
            Order::Count => of.count,
            Order::P99 => p99(of),
            Order::Max => of.time_us_max,
            Order::Errors => of.errors,
            Order::Slow => of.slow,
            Order::Recent => u64::MAX - of.last_ago.as_millis() as u64,
        };
        (Reverse(first), Reverse(of.time_us), of.id)
    });
    statements.truncate(most);
    statements.into_iter().map(sample).collect()
}

fn times(statement: &Statement) -> Times {
    Times {
        sum_us: statement.time_us as f64,
        counts: statement.times.map(|count| count as f64),
    }
}

fn sample(of: Statement) -> Sample {
    let times = times(&of);
    let max_ms = rounded(of.time_us_max as f64 / 1e3);
    Sample {
        id: format!("{:016x}", of.id),
        sample_count: of.count,
        error_count: of.errors,
        slow_count: of.slow,
        row_count: of.rows,
        latency_avg_ms: times.average_ms(),
        // Within bounds, one may come out above all that there were.
        latency_p50_ms: times.quantile_ms(0.5).min(max_ms),
        latency_p99_ms: times.quantile_ms(0.99).min(max_ms),
        latency_max_ms: max_ms,
        total_ms: rounded(of.time_us as f64 / 1e3),
        last_seen_ms_ago: u64::try_from(of.last_ago.as_millis()).unwrap_or(u64::MAX),
        query: of.text,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::insight::TIMES;

    use super::*;

    /// Columns: count, errors, all time, longest, seconds since its end.
    fn statement(id: u64, of: (u64, u64, u64, u64, u64)) -> Statement {
        let mut times = [0; TIMES];
        times[BUCKET[id as usize]] = of.0;
        Statement {
            id,
            text: format!("SELECT {id}"),
            count: of.0,
            errors: of.1,
            slow: of.1 / 3,
            rows: 0,
            time_us: of.2,
            time_us_max: of.3,
            times,
            last_ago: Duration::from_secs(of.4),
        }
    }

    const BUCKET: [usize; 3] = [2, 4, 6];

    #[test]
    fn samples_come_in_the_order_that_is_asked_for() {
        let statements = vec![
            statement(0, (100, 0, 50_000, 900, 30)),
            statement(1, (10, 5, 20_000, 90_000, 20)),
            statement(2, (3, 1, 21_000, 8_000, 10)),
        ];
        for (order, want) in [
            (Order::Time, [0, 2, 1]),
            (Order::Count, [0, 1, 2]),
            (Order::P99, [2, 1, 0]),
            (Order::Max, [1, 2, 0]),
            (Order::Errors, [1, 2, 0]),
            (Order::Recent, [2, 1, 0]),
        ] {
            let found = samples(statements.clone(), order, 3);
            let ids: Vec<_> = found.iter().map(|of| of.id.clone()).collect();
            let want = want.map(|id| format!("{id:016x}"));
            assert_eq!(ids, want, "{order:?}");
        }
        let slow = samples(statements.clone(), Order::Slow, 3);
        assert_eq!(slow.len(), 1, "only those that were slow");
        assert_eq!((&*slow[0].query, slow[0].slow_count), ("SELECT 1", 1));
        assert_eq!(samples(statements, Order::Time, 1).len(), 1);
    }
}
