//! Restore drills: rows, when there is one by schedule, and which backup it takes.
//!
//! A drill restores a backup into a place of its own, that belongs to no tenant: no route leads there, it is in no list
//! and in no quota. It is compared with the manifest, timed, and dropped. Does not own: the steps (`placement`) or the
//! bytes (`carry`).

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use model::{BackupId, DrillId, Pid, TenantId};
use tokio::time::timeout;
use tokio_postgres::Row;

use super::{
    carry::{self, CarryError},
    store::{self, State},
};
use crate::{
    api::{App, ErrorCode},
    catalog::{self, CatalogError, parse},
    placement::step::{Moment, Step, reached},
};

/// Drills that are remembered.
const ROWS_MAX: i64 = 1_000;
/// How far back failed drills count.
const COUNTED_DAYS: i32 = 30;

/// A drill's row.
#[derive(Clone, Debug)]
pub(crate) struct Drill {
    pub(crate) id: DrillId,
    pub(crate) backup: BackupId,
    pub(crate) tenant: TenantId,
    pub(crate) tenant_name: String,
    pub(crate) by_schedule: bool,
    /// `running`, `passed` or `failed`.
    pub(crate) state: String,
    pub(crate) asked_at: DateTime<Utc>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    pub(crate) took_ms: Option<i64>,
    pub(crate) size_bytes: Option<i64>,
    pub(crate) dump_bytes: Option<i64>,
    pub(crate) tables: Option<i32>,
    pub(crate) rows: Option<i64>,
    pub(crate) error_code: Option<String>,
    pub(crate) error: Option<String>,
    /// What it left is not dropped yet.
    pub(crate) is_there: bool,
}

const COLUMNS: &str =
    "id, backup_id, tenant_id, tenant_name, by_schedule, state, asked_at, ended_at, took_ms,
    size_bytes, dump_bytes, tables, rows, error_code, error, pid IS NOT NULL AS is_there";

impl Drill {
    fn read(row: &Row) -> Self {
        Self {
            id: parse(row.get("id")),
            backup: parse(row.get("backup_id")),
            tenant: parse(row.get("tenant_id")),
            tenant_name: row.get("tenant_name"),
            by_schedule: row.get("by_schedule"),
            state: row.get("state"),
            asked_at: row.get("asked_at"),
            ended_at: row.get("ended_at"),
            took_ms: row.get("took_ms"),
            size_bytes: row.get("size_bytes"),
            dump_bytes: row.get("dump_bytes"),
            tables: row.get("tables"),
            rows: row.get("rows"),
            error_code: row.get("error_code"),
            error: row.get("error"),
            is_there: row.get("is_there"),
        }
    }
}

/// Newest first.
pub(crate) async fn list(
    client: &impl GenericClient,
    limit: i64,
) -> Result<Vec<Drill>, CatalogError> {
    let sql = format!("SELECT {COLUMNS} FROM drill ORDER BY asked_at DESC, id LIMIT $1");
    let rows = catalog::query(client, &sql, &[&limit]).await?;
    Ok(rows.iter().map(Drill::read).collect())
}

pub(crate) async fn read(
    client: &impl GenericClient,
    id: &DrillId,
) -> Result<Option<Drill>, CatalogError> {
    let sql = format!("SELECT {COLUMNS} FROM drill WHERE id = $1");
    let row = catalog::query_opt(client, &sql, &[&id.as_str()]).await?;
    Ok(row.as_ref().map(Drill::read))
}

/// A backup that can be drilled: the newest good one of a database, of this one or of that whose last drill is
/// longest ago.
pub(crate) async fn sample(
    client: &impl GenericClient,
    tenant: Option<&TenantId>,
) -> Result<Option<BackupId>, CatalogError> {
    let sql = "SELECT b.id FROM (
            SELECT DISTINCT ON (tenant_id) id, tenant_id FROM backup
            WHERE state = 'ready' AND ($1::text IS NULL OR tenant_id = $1)
            ORDER BY tenant_id, verify_error IS NOT NULL, finished_at DESC) b
        LEFT JOIN (SELECT tenant_id, max(asked_at) AS at FROM drill GROUP BY tenant_id) d USING (tenant_id)
        ORDER BY d.at NULLS FIRST, random() LIMIT 1";
    let row = catalog::query_opt(client, sql, &[&tenant.map(TenantId::as_str)]).await?;
    Ok(row.map(|row| parse(row.get(0))))
}

/// Asks for a drill. `None`: there is one, or the backup is not there any more; the transaction is to be
/// rolled back.
pub(crate) async fn ask(
    app: &App,
    transaction: &deadpool_postgres::Transaction<'_>,
    backup: &BackupId,
    by_schedule: bool,
) -> Result<Option<Drill>, CatalogError> {
    // From here on it is not removed for its age.
    store::hold(transaction, backup).await?;
    let pid = Pid::random(&mut rand::rng());
    let sql = "INSERT INTO placement (pid, node, owner) VALUES ($1, $2, 'drill')";
    catalog::execute(transaction, sql, &[&pid.as_str(), &app.node.name()]).await?;
    let id = DrillId::random(&mut rand::rng());
    let sql = format!(
        "INSERT INTO drill (id, backup_id, tenant_id, tenant_name, by_schedule, pid, size_bytes, dump_bytes, tables,
             rows, time_max_s)
         SELECT $1, b.id, b.tenant_id, b.tenant_name, $3, $4, b.size_bytes, b.dump_bytes, b.tables, b.rows, $5
         FROM backup b WHERE b.id = $2 AND b.state = 'ready' RETURNING {COLUMNS}"
    );
    let time_max = app.config.limits.restore_time_max.as_secs();
    let made = catalog::query_opt(
        transaction,
        &sql,
        &[
            &id.as_str(),
            &backup.as_str(),
            &by_schedule,
            &pid.as_str(),
            &i32::try_from(time_max).unwrap_or(i32::MAX),
        ],
    )
    .await;
    match made {
        Ok(row) => Ok(row.as_ref().map(Drill::read)),
        Err(error) if error.constraint() == Some("drill_running") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks for the drill whose time has come. One that was missed is made up; several are one.
pub(super) async fn go_on(app: &App) -> Result<(), CatalogError> {
    let every = app.config.backup_schedule.drill_every;
    if every.is_zero() {
        return Ok(());
    }
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    // Of several processes one looks at a time.
    let sql = "SELECT pg_advisory_xact_lock(hashtextextended('tenantry drill', 0))";
    catalog::execute(&transaction, sql, &[]).await?;
    let sql = "SELECT FROM drill WHERE state = 'running'
        OR (by_schedule AND asked_at > now() - make_interval(secs => $1))";
    if catalog::query_opt(
        &transaction,
        &format!("{sql} LIMIT 1"),
        &[&every.as_secs_f64()],
    )
    .await?
    .is_some()
    {
        return Ok(());
    }
    let Some(backup) = sample(&transaction, None).await? else {
        return Ok(());
    };
    reached(Step::DrillCommit, Moment::Before).await;
    let Some(drill) = ask(app, &transaction, &backup, true).await? else {
        return Ok(());
    };
    let sql = "DELETE FROM drill WHERE state <> 'running' AND pid IS NULL
        AND id IN (SELECT id FROM drill ORDER BY asked_at DESC, id OFFSET $1)";
    catalog::execute(&transaction, sql, &[&ROWS_MAX]).await?;
    reached(Step::DrillCommit, Moment::Between).await;
    transaction.commit().await?;
    app.passes.wake();
    tracing::info!(tenant = %drill.tenant, backup = %backup, drill = %drill.id, "a backup is to be drilled");
    reached(Step::DrillCommit, Moment::After).await;
    Ok(())
}

/// Fills the place, closed, and compares it. Always from the beginning, since it is timed.
pub(crate) async fn run(app: &Arc<App>, pid: &Pid) -> Result<(), CarryError> {
    let client = app.catalog.get().await?;
    let sql = "UPDATE drill SET begun_at = now() WHERE pid = $1 AND state = 'running'
        RETURNING backup_id, (time_max_s - extract(epoch FROM now() - asked_at))::float8";
    let row = catalog::query_opt(&client, sql, &[&pid.as_str()]).await?;
    let row = row.ok_or(CarryError::Gone("the drill is not wanted any more"))?;
    let left = Duration::try_from_secs_f64(row.get(1)).unwrap_or_default();
    let backup = store::read(&client, &parse(row.get(0))).await?;
    drop(client);
    if left.is_zero() {
        return Err(CarryError::TooLong(app.config.limits.restore_time_max));
    }
    let backup = backup
        .filter(|backup| backup.state == State::Ready)
        .ok_or(CarryError::Gone("the backup was deleted"))?;
    let done = timeout(left, carry::restore(app, &backup, pid, &[], left)).await;
    done.unwrap_or(Err(CarryError::TooLong(left)))
}

/// It is what the manifest says. Its place is given up.
pub(crate) async fn passed(client: &impl GenericClient, pid: &Pid) -> Result<(), CatalogError> {
    let sql =
        "UPDATE drill SET state = 'passed', ended_at = now(), error_code = NULL, error = NULL,
            took_ms = extract(epoch FROM now() - begun_at) * 1000
        WHERE pid = $1 AND state = 'running' RETURNING tenant_id, backup_id, took_ms";
    if let Some(row) = catalog::query_opt(client, sql, &[&pid.as_str()]).await? {
        let (tenant, backup): (&str, &str) = (row.get(0), row.get(1));
        let took_ms: i64 = row.get(2);
        tracing::info!(tenant, backup, took_ms, "a restore drill passed");
    }
    give_up(client, pid).await
}

/// An attempt failed: what is known of it is written down, and given up when trying again is useless, which is told.
/// A backup that was deleted meanwhile is none to be drilled.
pub(crate) async fn failed(
    client: &impl GenericClient,
    pid: &Pid,
    attempts: i32,
    error: Option<&CarryError>,
) -> Result<bool, CatalogError> {
    let (code, reason) = match error {
        Some(error) => (error.code().as_str(), error.reason()),
        None => (
            ErrorCode::BackupFailed.as_str(),
            "its place could not be made".to_owned(),
        ),
    };
    let sql = "UPDATE drill SET error_code = $2, error = $3 WHERE pid = $1 AND state = 'running'
        RETURNING tenant_id, backup_id, asked_at + make_interval(secs => time_max_s) <= now(),
            NOT EXISTS (SELECT FROM backup b WHERE b.id = backup_id AND b.state = 'ready')";
    let row = catalog::query_opt(client, sql, &[&pid.as_str(), &code, &reason]).await?;
    if let Some(row) = row {
        let (is_late, is_gone): (bool, bool) = (row.get(2), row.get(3));
        if !is_gone && !is_late && !error.is_some_and(|error| error.is_final(attempts)) {
            return Ok(false);
        }
        let sql = match is_gone {
            true => "DELETE FROM drill WHERE pid = $1",
            false => {
                "UPDATE drill SET state = 'failed', ended_at = now(),
                    took_ms = extract(epoch FROM now() - begun_at) * 1000
                WHERE pid = $1"
            }
        };
        catalog::execute(client, sql, &[&pid.as_str()]).await?;
        if !is_gone {
            let (tenant, backup): (&str, &str) = (row.get(0), row.get(1));
            tracing::error!(tenant, backup, code, reason, "a restore drill failed");
        }
    }
    give_up(client, pid).await?;
    Ok(true)
}

/// Passes drop what is there.
async fn give_up(client: &impl GenericClient, pid: &Pid) -> Result<(), CatalogError> {
    let sql = "UPDATE placement SET owner = 'nobody', version = version + 1, due_at = now(), attempts = 0,
            unsettled_since = now()
        WHERE pid = $1 AND owner = 'drill'";
    catalog::execute(client, sql, &[&pid.as_str()]).await?;
    Ok(())
}

/// How drills went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Since the last one that passed. Seconds.
    pub(crate) passed_age_s: Option<f64>,
    /// How long that took. Seconds.
    pub(crate) recovery_s: Option<f64>,
    /// Databases whose last drill failed, within a month.
    pub(crate) failing: Option<u64>,
    /// The last one.
    pub(crate) last: Option<Drill>,
}

pub(crate) async fn record(client: &impl GenericClient) -> Result<Record, CatalogError> {
    let sql =
        "SELECT extract(epoch FROM now() - ended_at)::float8, took_ms::float8 / 1000 FROM drill
        WHERE state = 'passed' ORDER BY ended_at DESC LIMIT 1";
    let passed = catalog::query_opt(client, sql, &[]).await?;
    let sql = "SELECT count(*) FILTER (WHERE state = 'failed'), count(*) FROM (
            SELECT DISTINCT ON (tenant_id) state FROM drill
            WHERE state <> 'running' AND asked_at > now() - make_interval(days => $1)
            ORDER BY tenant_id, asked_at DESC) last";
    let counts = catalog::query_one(client, sql, &[&COUNTED_DAYS]).await?;
    let (failing, all): (i64, i64) = (counts.get(0), counts.get(1));
    Ok(Record {
        passed_age_s: passed.as_ref().and_then(|row| row.get(0)),
        recovery_s: passed.as_ref().and_then(|row| row.get(1)),
        failing: (all > 0).then_some(failing.unsigned_abs()),
        last: list(client, 1).await?.into_iter().next(),
    })
}
