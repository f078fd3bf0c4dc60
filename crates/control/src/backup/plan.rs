//! Backups by schedule, and their end: asks for the backups whose time has come, and removes old ones.
//!
//! Owns: what was said of single databases, and how far each schedule got. Does not own: the times (`schedule`),
//! or making and removing (`job`).
//!
//! Several processes may look at once. Whoever has the database's row writes down for which time it asks;
//! whoever comes later finds that written.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use model::{TenantId, lifecycle::TenantState};
use tokio::time::Instant;

use super::{
    drills,
    restores::GOES_ON,
    schedule::{self, Due, Known, Survey, Times},
    store,
};
use crate::{
    api::App,
    catalog::{self, CatalogError, parse},
    tenant::store::lock,
};

/// Between two looks at all databases, at most.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(30);
/// At least: a look reads a row of each.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(200);
/// Old backups that one look gives up; the next ones go on.
const REMOVE_MAX: i64 = 1_000;

/// What the last look found, in the order in which it is asked for.
#[derive(Default)]
pub(super) struct Plan {
    due: VecDeque<Due>,
    looked_at: Option<Instant>,
    /// When the window closes: what is left then waits for the next one.
    until: Option<Instant>,
}

impl Plan {
    /// Looks again if it is time, and asks for `room` backups at most.
    pub(super) async fn go_on(&mut self, app: &App, room: usize) -> Result<(), CatalogError> {
        let every = look_every(app);
        if self.looked_at.is_none_or(|at| at.elapsed() >= every) {
            let mut client = app.catalog.get().await?;
            remove_old(app, &mut client).await?;
            let window = app.config.backup_schedule.window;
            let (known, now) = known(app, &client, None).await?;
            self.due = schedule::due(&known, window, now).into();
            let begun = Instant::now();
            self.looked_at = Some(begun);
            drop(client);
            drills::go_on(app).await?;
            self.until = begun.checked_add(window.left(now));
        }
        if self.until.is_some_and(|until| until <= Instant::now()) {
            self.due.clear();
        }
        let mut asked = 0;
        while asked < room
            && let Some(due) = self.due.pop_front()
        {
            asked += usize::from(ask(app, &due).await?);
        }
        if asked > 0 {
            app.backups.wake();
        }
        Ok(())
    }
}

/// How long a look may be old.
pub(super) fn look_every(app: &App) -> Duration {
    let wanted = app.config.backup_schedule;
    let often = [wanted.every, wanted.drill_every].into_iter();
    let often = often.filter(|every| !every.is_zero()).min();
    often.map_or(LOOK_EVERY_MAX, |every| {
        (every / 10).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX)
    })
}

/// Databases that can be backed up, or only `one` of them, and the catalog's clock.
async fn known(
    app: &App,
    client: &impl GenericClient,
    one: Option<&TenantId>,
) -> Result<(Vec<Known>, i64), CatalogError> {
    // A suspended one has what its last backup has, or gets one when it is back.
    let sql = "SELECT t.id, coalesce(s.every_s::float8, $1) AS every_s,
            (extract(epoch FROM coalesce(s.made_for, t.activated_at)) * 1000)::bigint AS made_for,
            (extract(epoch FROM coalesce(b.good_at, t.activated_at)) * 1000)::bigint AS good_at,
            coalesce(b.is_under_way, false) AS is_under_way,
            (extract(epoch FROM now()) * 1000)::bigint AS now
        FROM tenant t LEFT JOIN backup_schedule s ON s.tenant_id = t.id
            LEFT JOIN (
                SELECT tenant_id, max(coalesce(moment, finished_at)) FILTER (WHERE state = 'ready' AND verify_error IS NULL) AS good_at,
                    bool_or(kind = 'scheduled' AND state IN ('waiting', 'running')) AS is_under_way
                FROM backup WHERE $2::text IS NULL OR tenant_id = $2 GROUP BY tenant_id) b ON b.tenant_id = t.id
        WHERE t.state = 'ACTIVE' AND coalesce(s.every_s::float8, $1) > 0
            AND ($2::text IS NULL OR t.id = $2)";
    let every = app.config.backup_schedule.every.as_secs_f64();
    let rows = catalog::query(client, sql, &[&every, &one.map(TenantId::as_str)]).await?;
    let now = rows.first().map_or(0, |row| row.get("now"));
    let known = rows.iter().map(|row| Known {
        tenant: parse(row.get("id")),
        every: Duration::try_from_secs_f64(row.get("every_s")).unwrap_or_default(),
        made_for: row.get("made_for"),
        good_at: row.get("good_at"),
        is_under_way: row.get("is_under_way"),
    });
    Ok((known.collect(), now))
}

/// How the fleet does by its schedule.
pub(crate) async fn survey(app: &App, client: &impl GenericClient) -> Result<Survey, CatalogError> {
    let (known, now) = known(app, client, None).await?;
    let window = app.config.backup_schedule.window;
    Ok(schedule::survey(&known, window, now))
}

/// Asks for one backup. False: somebody did already, or it cannot be made now.
async fn ask(app: &App, due: &Due) -> Result<bool, CatalogError> {
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let Some(tenant) = lock(&transaction, &due.tenant).await? else {
        return Ok(false);
    };
    if tenant.state != TenantState::Active {
        return Ok(false);
    }
    let sql = "SELECT FROM backup
        WHERE tenant_id = $1 AND kind = 'scheduled' AND state IN ('waiting', 'running')";
    if catalog::query_opt(&transaction, sql, &[&due.tenant.as_str()])
        .await?
        .is_some()
    {
        return Ok(false);
    }
    let sql = "INSERT INTO backup_schedule (tenant_id, made_for) VALUES ($1, to_timestamp($2::float8 / 1000))
        ON CONFLICT (tenant_id) DO UPDATE SET made_for = excluded.made_for
        WHERE backup_schedule.made_for IS NULL OR backup_schedule.made_for < excluded.made_for";
    let time = due.time as f64;
    if catalog::execute(&transaction, sql, &[&due.tenant.as_str(), &time]).await? == 0 {
        return Ok(false);
    }
    let new = store::New {
        tenant: &tenant.id,
        project: &tenant.project,
        name: tenant.name.as_str(),
        kind: "scheduled",
        moment: None,
        is_kept: true,
        is_due: true,
    };
    let backup = store::insert(&transaction, new).await?;
    transaction.commit().await?;
    tracing::debug!(tenant = %tenant.id, backup = %backup.id, "the time of a backup has come");
    Ok(true)
}

/// Its database cannot be read any more, which is no failure: suspended, deleted, or being restored. Once it is
/// back, it is backed up.
pub(super) async fn withdraw(
    client: &impl GenericClient,
    backup: &store::Backup,
) -> Result<(), CatalogError> {
    store::begin_remove(client, &backup.id).await?;
    let sql = "UPDATE backup_schedule SET made_for = NULL WHERE tenant_id = $1";
    catalog::execute(client, sql, &[&backup.tenant.as_str()]).await?;
    Ok(())
}

/// Gives old scheduled backups up. Never: what somebody asked for, what a restore replaced, what is being read, and
/// the newest good one of a database that is still there.
async fn remove_old(app: &App, client: &mut deadpool_postgres::Object) -> Result<(), CatalogError> {
    let wanted = app.config.backup_schedule;
    let (keep, keep_for) = (i64::from(wanted.keep), wanted.keep_for.as_secs_f64());
    // Of those that could not be made only rows are left, and as many are enough.
    let sql = "WITH known AS (
            SELECT b.id, b.kind, b.finished_at, b.expires_at, b.state, t.id IS NOT NULL AS is_there,
                coalesce(s.keep::bigint, $1) AS keep,
                nullif(coalesce(s.keep_for_s::float8, $2), 0) AS keep_for,
                b.state = 'ready' AND b.verify_error IS NULL AS is_good,
                count(*) FILTER (WHERE b.state = 'ready' AND b.verify_error IS NULL) OVER newer AS newer_good,
                count(*) FILTER (WHERE b.state = 'failed') OVER newer AS newer_failed,
                coalesce(b.finished_at, b.created_at) AS at
            FROM backup b LEFT JOIN tenant t ON t.id = b.tenant_id
                LEFT JOIN backup_schedule s ON s.tenant_id = b.tenant_id
            WHERE b.kind = 'scheduled'
            WINDOW newer AS (PARTITION BY b.tenant_id ORDER BY b.created_at DESC, b.id
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)),
        shown AS (
            UPDATE backup SET expires_at = k.at + make_interval(secs => k.keep_for)
            FROM known k WHERE k.id = backup.id AND k.state = 'ready'
                AND k.expires_at IS DISTINCT FROM k.at + make_interval(secs => k.keep_for))
        SELECT id FROM known
        WHERE state IN ('ready', 'failed') AND NOT (is_there AND is_good AND newer_good = 0)
            AND ((keep > 0 AND newer_good >= keep) OR (state = 'failed' AND newer_failed >= greatest(keep, 1))
                OR at + make_interval(secs => keep_for) <= now())
        ORDER BY at LIMIT $3";
    let transaction = client.transaction().await?;
    let rows = catalog::query(&transaction, sql, &[&keep, &keep_for, &REMOVE_MAX]).await?;
    if rows.is_empty() {
        return Ok(transaction.commit().await?);
    }
    let ids: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let removed = remove_unneeded(&transaction, &ids).await?;
    transaction.commit().await?;
    if removed > 0 {
        tracing::info!(backups = removed, "scheduled backups were kept long enough");
        app.backups.wake();
    }
    Ok(())
}

/// Those of `ids` that nobody reads or is about to read are to go; returns how many.
pub(super) async fn remove_unneeded(
    transaction: &deadpool_postgres::Transaction<'_>,
    ids: &[&str],
) -> Result<u64, CatalogError> {
    // A restore that is about to begin holds its backup's row: what it reads is left, or it finds it gone.
    let sql = "SELECT id FROM backup WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED";
    let rows = catalog::query(transaction, sql, &[&ids]).await?;
    let ids: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let sql = format!(
        "UPDATE backup b SET state = 'deleting', due_at = now(), attempts = 0
        WHERE id = ANY($1) AND state IN ('ready', 'failed') AND verify_asked_at IS NULL
            AND NOT EXISTS (SELECT FROM restore r WHERE r.backup_id = b.id AND {GOES_ON})
            AND NOT EXISTS (SELECT FROM drill d WHERE d.backup_id = b.id AND d.state = 'running')"
    );
    catalog::execute(transaction, &sql, &[&ids]).await
}

/// What was said of one database.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Own {
    /// Zero: never.
    pub(super) every: Option<Duration>,
    /// 0: any number.
    pub(super) keep: Option<u32>,
    /// Zero: for ever.
    pub(super) keep_for: Option<Duration>,
}

/// What was said of a database.
pub(super) async fn own(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Own, CatalogError> {
    let sql = "SELECT every_s, keep, keep_for_s FROM backup_schedule WHERE tenant_id = $1";
    let row = catalog::query_opt(client, sql, &[&tenant.as_str()]).await?;
    let seconds = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
    Ok(row.map_or_else(Own::default, |row| Own {
        every: row.get::<_, Option<i64>>(0).map(seconds),
        keep: row.get::<_, Option<i32>>(1).map(i32::unsigned_abs),
        keep_for: row.get::<_, Option<i64>>(2).map(seconds),
    }))
}

/// Writes it down.
pub(super) async fn set_own(
    client: &impl GenericClient,
    tenant: &TenantId,
    own: Own,
) -> Result<(), CatalogError> {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let sql =
        "INSERT INTO backup_schedule (tenant_id, every_s, keep, keep_for_s) VALUES ($1, $2, $3, $4)
        ON CONFLICT (tenant_id) DO UPDATE
        SET every_s = excluded.every_s, keep = excluded.keep, keep_for_s = excluded.keep_for_s";
    catalog::execute(
        client,
        sql,
        &[
            &tenant.as_str(),
            &own.every.map(seconds),
            &own.keep.map(|keep| i32::try_from(keep).unwrap_or(i32::MAX)),
            &own.keep_for.map(seconds),
        ],
    )
    .await?;
    Ok(())
}

/// When a database is backed up next; `None`: it has no schedule now.
pub(super) async fn next(
    app: &App,
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Option<DateTime<Utc>>, CatalogError> {
    let (known, now) = known(app, client, Some(tenant)).await?;
    let window = app.config.backup_schedule.window;
    Ok(known.first().and_then(|one| {
        let times = Times::of(tenant, one.every, window)?;
        DateTime::from_timestamp_millis(times.next(one.made_for, now))
    }))
}
