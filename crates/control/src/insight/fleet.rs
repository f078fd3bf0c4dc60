//! `GET /operator/fleet`: how an installation with many databases is doing, on one page.
//!
//! Owns: the figures, where each should be, and what to do when it is not. Does not own: counting.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use model::{
    exposition::Page,
    insight::{Pools, Question},
};
use node::managed::HistoryStatus;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::{store, window::Times};

use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiResult, ErrorBody},
    },
    backup::{
        drilled::DrillResponse,
        drills::{self, Record},
        plan,
        schedule::Survey,
    },
    catalog::{self, CatalogError},
    storage::store::Size,
};

/// Above it, a burst or the loss of a process leaves tenants waiting.
const SERVERS_SHARE_MAX: f64 = 0.7;
/// Above it, so much of the budget waits for tenants that tenants may wait for it.
const IDLE_SHARE_MAX: f64 = 0.2;
/// Of 95 in 100 creates. Longer, and a person waits.
const PROVISIONING_SECONDS_MAX: f64 = 1.0;
/// Databases whose cost is listed.
const COSTS_MAX: i64 = 20;
/// For the proxy of this process. Less than `/metrics` waits for all that the catalog says.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// One figure of the fleet.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Figure {
    /// `server_connections`, `idle_server_connections`, `provisioning`, `backup_age`, `drill_age`, `recovery_time`,
    /// `drills_failed` or `databases_behind`.
    name: &'static str,
    /// `share` (of 1), `seconds` or `count`.
    unit: &'static str,
    /// Null: there is nothing to measure it by; `missing` says why.
    value: Option<f64>,
    /// It should be at most this; null: there is none.
    target: Option<f64>,
    /// Whether it is; null when one of both is.
    is_met: Option<bool>,
    /// Why there is no value.
    missing: Option<&'static str>,
    /// What it is, and what to do when it is above.
    advice: &'static str,
}

/// What a database used in the last day.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cost {
    database_id: String,
    name: String,
    /// How long its clients waited for answers, all together.
    active_seconds: f64,
    /// Received from clients and sent to them.
    bytes: u64,
    statements: u64,
    /// On disk, as measured last; null: never.
    storage_bytes: Option<u64>,
    /// When that was.
    storage_measured_at: Option<DateTime<Utc>>,
}

/// What all databases take on disk, used or not.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Storage {
    /// Those that were measured.
    databases: u64,
    /// Those that were not yet.
    databases_unmeasured: u64,
    /// All together, each as measured last.
    bytes: u64,
    /// When the one was measured that was measured the longest ago.
    oldest_measured_at: Option<DateTime<Utc>>,
}

/// What every second of the last day can be recovered from, and what that takes of the disk: beside `storage`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct History {
    /// `beginning`: the first base backup is being made; `kept`; or `given_up`: nothing is kept for now, the log says why.
    state: &'static str,
    /// The first moment that can be had; null: none.
    oldest: Option<DateTime<Utc>>,
    /// Base backups.
    bases: usize,
    /// On the disk, what they share with each other counted once; less where files share blocks with the data.
    base_bytes: u64,
    /// PostgreSQL's log since then, compressed.
    log_bytes: u64,
}

impl From<HistoryStatus> for History {
    fn from(status: HistoryStatus) -> Self {
        Self {
            state: status.state.as_str(),
            oldest: status.oldest.map(DateTime::from),
            bases: status.bases,
            base_bytes: status.base_bytes,
            log_bytes: status.log_bytes,
        }
    }
}

/// What all did together.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Total {
    /// Databases that did something.
    databases: u64,
    active_seconds: f64,
    bytes: u64,
    statements: u64,
}

/// How an installation is doing.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Fleet {
    figures: Vec<Figure>,
    /// The last restore drill, whatever came of it.
    last_drill: Option<DrillResponse>,
    /// In the last day, all databases together.
    total: Total,
    storage: Storage,
    /// Null: none is kept, or another process than the one that answers runs the node.
    history: Option<History>,
    /// In the last day, the 20 databases that were active longest.
    costs: Vec<Cost>,
}

/// What a figure is, wherever it stands.
struct Kind {
    name: &'static str,
    unit: &'static str,
    target: Option<f64>,
    missing: &'static str,
    advice: &'static str,
}

const SERVERS: Kind = Kind {
    name: "server_connections",
    unit: "share",
    target: Some(SERVERS_SHARE_MAX),
    missing: "the proxy did not answer, or has no part of the budget yet",
    advice: "server connections of all processes, of the node's budget; above: raise server-connections-max, lower \
             server_connections_max of the busiest databases, or look for transactions that stay open",
};
const IDLE: Kind = Kind {
    name: "idle_server_connections",
    unit: "share",
    target: Some(IDLE_SHARE_MAX),
    missing: SERVERS.missing,
    advice: "server connections that nobody uses, of the node's budget; above, while clients wait: lower \
             server-idle-max",
};
const PROVISIONING: Kind = Kind {
    name: "provisioning",
    unit: "seconds",
    target: Some(PROVISIONING_SECONDS_MAX),
    missing: "no database was made in the last day",
    advice: "from a request for a database to its answer, 95 in 100 of the last day's, branches left out; above: \
             raise warm-pool",
};
const BACKUP_AGE: Kind = Kind {
    name: "backup_age",
    unit: "seconds",
    target: None,
    missing: "no database is backed up by schedule: set backup-every",
    advice: "time since the last good backup of the database that is furthest behind its schedule; above: look in \
             `tenantry backup list --all` for what fails, or make backup-window wider",
};
const DRILL_AGE: Kind = Kind {
    name: "drill_age",
    unit: "seconds",
    target: None,
    missing: "no restore drill has passed: set drill-every, or try `tenantry backup drill`",
    advice: "time since the last restore drill that passed; above: look in `tenantry backup drills` for why",
};
const RECOVERY: Kind = Kind {
    name: "recovery_time",
    unit: "seconds",
    target: None,
    missing: DRILL_AGE.missing,
    advice: "how long the last restore drill that passed took; above: that database is too large, or the disk or the \
             store too slow, for recovery-target",
};
const DRILLS_FAILED: Kind = Kind {
    name: "drills_failed",
    unit: "count",
    target: Some(0.0),
    missing: "there was no restore drill in the last month",
    advice: "databases whose last restore drill failed, in the last month; above: `tenantry backup drills` says why, and \
             a new backup may be needed",
};
const BEHIND: Kind = Kind {
    name: "databases_behind",
    unit: "count",
    target: None,
    missing: "there are no blueprints in this version",
    advice: "databases that are not at the version that they should be at",
};

impl Kind {
    fn figure(&self, value: Option<f64>) -> Figure {
        self.made(value, self.target)
    }

    /// With a target of its own.
    fn with(&self, both: Option<(f64, f64)>) -> Figure {
        let (value, target) = both.unzip();
        self.made(value, target)
    }

    fn made(&self, value: Option<f64>, target: Option<f64>) -> Figure {
        let value = value.map(|value| (value * 1e4).round() / 1e4);
        let both = value.zip(target);
        Figure {
            name: self.name,
            unit: self.unit,
            value,
            target,
            is_met: both.map(|(value, target)| value <= target),
            missing: value.is_none().then_some(self.missing),
            advice: self.advice,
        }
    }
}

impl Figure {
    /// One of them, by its kind's name.
    pub(crate) fn value_in(figures: &[Self], name: &str) -> Option<f64> {
        let figure = figures.iter().find(|figure| figure.name == name);
        figure.and_then(|figure| figure.value)
    }
}

/// A part of a whole that there is.
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The figures of now.
pub(crate) async fn figures(
    app: &App,
    backups: &Survey,
    drills: &Record,
) -> Result<Vec<Figure>, CatalogError> {
    let wanted = app.config.backup_schedule;
    let every = wanted.drill_every;
    let drill_target = (!every.is_zero()).then(|| (every + every / 4).as_secs_f64());
    let own = timeout(ANSWER_TIME_MAX, app.insight.ask(Question::Pools)).await;
    let own = own.ok().flatten();
    let client = app.catalog.get().await?;
    let elsewhere = store::pools_elsewhere(&client, &app.process.id).await?;
    let budget = store::budget(&client, app.node.name()).await?;
    let mut made = store::made(&client).await?;
    drop(client);
    made.add(&app.insight.made());
    let of_budget = |of: fn(&Pools) -> u64| {
        let own = own.as_ref()?;
        share(of(own) + of(&elsewhere), budget?)
    };
    let times = Times {
        sum_us: made.sum_us as f64,
        counts: made.times.map(|count| count as f64),
    };
    let has_made = made.times.iter().any(|count| *count > 0);
    Ok(vec![
        SERVERS.figure(of_budget(|pools| pools.servers)),
        // Counted beside the others, and not at the same moment.
        IDLE.figure(of_budget(|pools| pools.idle.min(pools.servers))),
        PROVISIONING.figure(has_made.then(|| times.quantile_ms(0.95) / 1e3)),
        BACKUP_AGE.with(backups.worst),
        DRILL_AGE.made(drills.passed_age_s, drill_target),
        RECOVERY.made(
            drills.recovery_s,
            Some(wanted.recovery_target.as_secs_f64()),
        ),
        DRILLS_FAILED.figure(drills.failing.map(|count| count as f64)),
        BEHIND.figure(None),
    ])
}

/// What all databases used in the last day, and those that used most.
async fn costs(client: &impl GenericClient) -> Result<(Total, Vec<Cost>), CatalogError> {
    // Numbers as in model::insight::Counts: statements, bytes both ways, time.
    let sql = "WITH used AS (
            SELECT tenant_id, sum(counts[8])::float8 / 1e6 AS seconds,
                sum(counts[5] + counts[6]) AS bytes, sum(counts[1]) AS statements
            FROM insight_slot
            WHERE grain = 3 AND slot > floor(extract(epoch FROM now()) / 3600)::bigint - 24
            GROUP BY tenant_id)
        SELECT t.id, t.name, u.seconds, u.bytes::bigint, u.statements::bigint, count(*) OVER (),
            sum(u.seconds) OVER (), (sum(u.bytes) OVER ())::bigint, (sum(u.statements) OVER ())::bigint,
            p.storage_bytes, p.storage_measured_at
        FROM used u JOIN tenant t ON t.id = u.tenant_id JOIN placement p ON p.pid = t.pid
        ORDER BY u.seconds DESC, t.id LIMIT $1";
    let rows = catalog::query(client, sql, &[&COSTS_MAX]).await?;
    let number = |row: &tokio_postgres::Row, column| row.get::<_, i64>(column).unsigned_abs();
    let total = rows.first().map(|row| Total {
        databases: number(row, 5),
        active_seconds: row.get(6),
        bytes: number(row, 7),
        statements: number(row, 8),
    });
    let costs = rows.iter().map(|row| {
        let size = Size::of(row, 9);
        Cost {
            database_id: row.get(0),
            name: row.get(1),
            active_seconds: row.get(2),
            bytes: number(row, 3),
            statements: number(row, 4),
            storage_bytes: size.map(|size| size.bytes),
            storage_measured_at: size.map(|size| size.measured_at),
        }
    });
    Ok((total.unwrap_or_default(), costs.collect()))
}

/// What all databases take on disk.
async fn storage(client: &impl GenericClient) -> Result<Storage, CatalogError> {
    let sql = "SELECT count(storage_measured_at), count(*) - count(storage_measured_at),
            coalesce(sum(storage_bytes) FILTER (WHERE storage_measured_at IS NOT NULL), 0)::bigint, min(storage_measured_at)
        FROM placement WHERE owner = 'tenant'";
    let row = catalog::query_one(client, sql, &[]).await?;
    let number = |column| row.get::<_, i64>(column).unsigned_abs();
    Ok(Storage {
        databases: number(0),
        databases_unmeasured: number(1),
        bytes: number(2),
        oldest_measured_at: row.get(3),
    })
}

/// How the installation is doing: figures with their targets and what to do, and what databases cost.
#[utoipa::path(get, path = "/operator/fleet", tag = "operator", security(("bearer" = [])),
    operation_id = "fleet",
    responses((status = 200, body = Fleet), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody)))]
pub(crate) async fn fleet(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> ApiResult<axum::Json<Fleet>> {
    principal.is_operator()?;
    let client = app.catalog.get().await?;
    let backups = plan::survey(&app, &client).await?;
    let drills = drills::record(&client).await?;
    drop(client);
    let figures = figures(&app, &backups, &drills).await?;
    let client = app.catalog.get().await?;
    let (total, costs) = costs(&client).await?;
    let storage = storage(&client).await?;
    Ok(axum::Json(Fleet {
        figures,
        last_drill: drills.last.as_ref().map(DrillResponse::from),
        total,
        storage,
        history: app.node.history().map(History::from),
        costs,
    }))
}

/// The figures for Prometheus.
pub(crate) fn write(page: &mut Page, figures: &[Figure]) {
    let mut family = page.gauge(
        "tenantry_fleet_figure",
        "Figures of the fleet, where there is something to measure them by: shares of 1, and seconds.",
    );
    for figure in figures {
        if let Some(value) = figure.value {
            family.sample(&[("figure", figure.name)], value);
        }
    }
    let mut family = page.gauge(
        "tenantry_fleet_target",
        "Each of them should be at most this.",
    );
    for figure in figures {
        if let Some(target) = figure.target {
            family.sample(&[("figure", figure.name)], target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_met_up_to_its_target_and_says_why_it_is_missing() {
        for (kind, value, is_met) in [
            (&SERVERS, Some(0.7), Some(true)),
            (&SERVERS, Some(0.701), Some(false)),
            (&SERVERS, None, None),
            (&BACKUP_AGE, None, None),
        ] {
            let figure = kind.figure(value);
            assert_eq!(figure.is_met, is_met, "{figure:?}");
            assert_eq!(figure.missing.is_some(), value.is_none(), "{figure:?}");
        }
        let late = BACKUP_AGE.with(Some((7200.0, 4500.0)));
        assert_eq!((late.target, late.is_met), (Some(4500.0), Some(false)));
        assert!(BACKUP_AGE.with(None).missing.is_some());
        assert_eq!(share(1, 0), None);
    }
}
