//! Rows of backups.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use model::{BackupId, Pid, ProjectId, TenantId};
use tokio_postgres::Row;

use super::key;
use crate::{
    api::auth::Reach,
    catalog::{self, CatalogError, parse},
};

/// Between two notes that somebody waits for a backup.
const WATCHED_EVERY: Duration = Duration::from_secs(15);

/// Where a backup is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// It is to be made.
    Waiting,
    /// It is being made.
    Running,
    /// It can be restored.
    Ready,
    /// It could not be made, and nobody tries any more.
    Failed,
    /// It is to go.
    Deleting,
}

impl State {
    const ALL: [Self; 5] = [
        Self::Waiting,
        Self::Running,
        Self::Ready,
        Self::Failed,
        Self::Deleting,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        }
    }

    fn parse(text: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .expect("the schema allows known states only")
    }
}

/// A backup's row.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    pub(crate) id: BackupId,
    pub(crate) tenant: TenantId,
    pub(crate) project: ProjectId,
    pub(crate) tenant_name: String,
    pub(crate) kind: String,
    pub(crate) state: State,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) finished_at: Option<DateTime<Utc>>,
    pub(crate) took_ms: Option<i64>,
    pub(crate) size_bytes: Option<i64>,
    pub(crate) sha256: Option<Vec<u8>>,
    pub(crate) dump_bytes: Option<i64>,
    pub(crate) tables: Option<i32>,
    pub(crate) rows: Option<i64>,
    pub(crate) upload: Option<String>,
    pub(crate) attempts: i32,
    pub(crate) last_error: Option<String>,
    pub(crate) is_to_be_verified: bool,
    pub(crate) verified_at: Option<DateTime<Utc>>,
    pub(crate) verify_error: Option<String>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    /// What it holds is what the database was then. Of kind `moment` that was asked for; of others it is known once they are
    /// ready. `None` of a ready one: it was made when nobody wrote that down.
    pub(crate) moment: Option<DateTime<Utc>>,
    /// False: it is given up once it was restored ([`super::spent`]).
    pub(crate) is_kept: bool,
    /// Fingerprint of the key of the installation under which it was made; `None`: it was not made yet.
    pub(crate) installation: Option<Vec<u8>>,
}

const COLUMNS: &str =
    "id, tenant_id, project_id, tenant_name, kind, state, created_at, finished_at, took_ms,
    size_bytes, sha256, dump_bytes, tables, rows, upload, attempts, last_error,
    verify_asked_at IS NOT NULL AS is_to_be_verified, verified_at, verify_error, expires_at,
    moment, is_kept, installation";

impl Backup {
    fn read(row: &Row) -> Self {
        Self {
            id: parse(row.get("id")),
            tenant: parse(row.get("tenant_id")),
            project: parse(row.get("project_id")),
            tenant_name: row.get("tenant_name"),
            kind: row.get("kind"),
            state: State::parse(row.get("state")),
            created_at: row.get("created_at"),
            finished_at: row.get("finished_at"),
            took_ms: row.get("took_ms"),
            size_bytes: row.get("size_bytes"),
            sha256: row.get("sha256"),
            dump_bytes: row.get("dump_bytes"),
            tables: row.get("tables"),
            rows: row.get("rows"),
            upload: row.get("upload"),
            attempts: row.get("attempts"),
            last_error: row.get("last_error"),
            is_to_be_verified: row.get("is_to_be_verified"),
            verified_at: row.get("verified_at"),
            verify_error: row.get("verify_error"),
            expires_at: row.get("expires_at"),
            moment: row.get("moment"),
            is_kept: row.get("is_kept"),
            installation: row.get("installation"),
        }
    }
}

/// A backup to be made.
pub(crate) struct New<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) project: &'a ProjectId,
    pub(crate) name: &'a str,
    pub(crate) kind: &'a str,
    /// Of kind `moment`.
    pub(crate) moment: Option<DateTime<Utc>>,
    /// False: only to be restored once.
    pub(crate) is_kept: bool,
    /// Passes make it; otherwise whoever asks does.
    pub(crate) is_due: bool,
}

pub(crate) async fn insert(
    client: &impl GenericClient,
    new: New<'_>,
) -> Result<Backup, CatalogError> {
    let id = BackupId::random(&mut rand::rng());
    let sql = format!(
        "INSERT INTO backup (id, tenant_id, project_id, tenant_name, kind, due_at, moment, is_kept, watched_at)
         VALUES ($1, $2, $3, $4, $5, CASE WHEN $6 THEN now() END, $7, $8, CASE WHEN NOT $8 THEN now() END)
         RETURNING {COLUMNS}"
    );
    let row = catalog::query_one(
        client,
        &sql,
        &[
            &id.as_str(),
            &new.tenant.as_str(),
            &new.project.as_str(),
            &new.name,
            &new.kind,
            &new.is_due,
            &new.moment,
            &new.is_kept,
        ],
    )
    .await?;
    Ok(Backup::read(&row))
}

/// Until the transaction ends, nobody else decides what becomes of it.
pub(crate) async fn hold(client: &impl GenericClient, id: &BackupId) -> Result<(), CatalogError> {
    let sql = "SELECT FROM backup WHERE id = $1 FOR UPDATE";
    catalog::execute(client, sql, &[&id.as_str()]).await?;
    Ok(())
}

/// Finds one that the asker may see.
pub(crate) async fn find(
    client: &impl GenericClient,
    scope: Reach<'_>,
    id: &BackupId,
) -> Result<Option<Backup>, CatalogError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM backup WHERE id = $1 AND ($2::text IS NULL OR project_id = $2)
            AND ($3::text[] IS NULL OR tenant_id = ANY($3))"
    );
    let project = scope.project.map(ProjectId::as_str);
    let row = catalog::query_opt(client, &sql, &[&id.as_str(), &project, &scope.databases]).await?;
    Ok(row.as_ref().map(Backup::read))
}

/// Reads one again.
pub(crate) async fn read(
    client: &impl GenericClient,
    id: &BackupId,
) -> Result<Option<Backup>, CatalogError> {
    find(client, Reach::everything(), id).await
}

/// When a database was what its newest good one holds.
pub(crate) async fn newest_good(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Option<DateTime<Utc>>, CatalogError> {
    let sql = "SELECT max(coalesce(moment, finished_at)) FROM backup
        WHERE tenant_id = $1 AND state = 'ready' AND verify_error IS NULL";
    Ok(catalog::query_one(client, sql, &[&tenant.as_str()])
        .await?
        .get(0))
}

/// Newest first, no more than `limit`: of one database, or of all that the asker may see.
pub(crate) async fn list(
    client: &impl GenericClient,
    scope: Reach<'_>,
    tenant: Option<&TenantId>,
    limit: i64,
) -> Result<Vec<Backup>, CatalogError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM backup WHERE ($1::text IS NULL OR tenant_id = $1)
            AND ($2::text IS NULL OR project_id = $2) AND ($3::text[] IS NULL OR tenant_id = ANY($3))
         ORDER BY created_at DESC, id LIMIT $4"
    );
    let project = scope.project.map(ProjectId::as_str);
    let tenant = tenant.map(TenantId::as_str);
    let rows = catalog::query(client, &sql, &[&tenant, &project, &scope.databases, &limit]).await?;
    Ok(rows.iter().map(Backup::read).collect())
}

/// Backups of a database that somebody asked for: to be kept, or only to be restored once.
pub(crate) async fn count_asked(
    client: &impl GenericClient,
    tenant: &TenantId,
    is_kept: bool,
) -> Result<i64, CatalogError> {
    let sql = "SELECT count(*) FROM backup
        WHERE tenant_id = $1 AND is_kept = $2 AND kind IN ('manual', 'moment') AND state <> 'deleting'";
    Ok(
        catalog::query_one(client, sql, &[&tenant.as_str(), &is_kept])
            .await?
            .get(0),
    )
}

/// Leases backups that are due, one of a database at a time, and no more than there is room for. Those of
/// moments that are past only when they can be recovered here.
pub(crate) async fn take_due(
    client: &impl GenericClient,
    instance: &str,
    lease: Duration,
    room: usize,
    has_history: bool,
) -> Result<Vec<BackupId>, CatalogError> {
    let rows = catalog::query(
        client,
        "UPDATE backup SET leased_by = $1, leased_until = now() + make_interval(secs => $2)
         WHERE id IN (
             SELECT id FROM backup b
             WHERE due_at <= now() AND (leased_until IS NULL OR leased_until < now())
                 AND ($4 OR kind <> 'moment' OR state NOT IN ('waiting', 'running'))
                 AND (state NOT IN ('waiting', 'running') OR id = (
                     SELECT o.id FROM backup o
                     WHERE o.tenant_id = b.tenant_id AND o.state IN ('waiting', 'running') AND o.due_at IS NOT NULL
                     ORDER BY o.created_at, o.id LIMIT 1))
             ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED)
         RETURNING id",
        &[
            &instance,
            &lease.as_secs_f64(),
            &i64::try_from(room).unwrap_or(i64::MAX),
            &has_history,
        ],
    )
    .await?;
    Ok(rows.iter().map(|row| parse(row.get(0))).collect())
}

/// Holds a lease for longer.
pub(crate) async fn renew(
    client: &impl GenericClient,
    id: &str,
    instance: &str,
    lease: Duration,
) -> Result<(), CatalogError> {
    for sql in [
        "UPDATE backup SET leased_until = now() + make_interval(secs => $3) WHERE id = $1 AND leased_by = $2",
        "UPDATE restore SET leased_until = now() + make_interval(secs => $3) WHERE id = $1 AND leased_by = $2",
    ] {
        catalog::execute(client, sql, &[&id, &instance, &lease.as_secs_f64()]).await?;
    }
    Ok(())
}

/// Gives up the leases that a former process of this name had, or that no task of ours knows of.
pub(crate) async fn release_leases(
    client: &impl GenericClient,
    instance: &str,
    driven: &[&str],
) -> Result<(), CatalogError> {
    for sql in [
        "UPDATE backup SET leased_by = NULL, leased_until = NULL WHERE leased_by = $1 AND id <> ALL($2)",
        "UPDATE restore SET leased_by = NULL, leased_until = NULL WHERE leased_by = $1 AND id <> ALL($2)",
    ] {
        catalog::execute(client, sql, &[&instance, &driven]).await?;
    }
    Ok(())
}

/// How long until the next one is due.
pub(crate) async fn next_due(
    client: &impl GenericClient,
) -> Result<Option<Duration>, CatalogError> {
    let sql = "SELECT extract(epoch FROM min(at) - now())::float8 FROM (
            SELECT min(greatest(due_at, leased_until)) AS at FROM backup WHERE due_at IS NOT NULL
            UNION ALL
            SELECT min(greatest(due_at, leased_until)) FROM restore WHERE due_at IS NOT NULL) due";
    let seconds: Option<f64> = catalog::query_one(client, sql, &[]).await?.get(0);
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

/// Where the data of a database is that can be read, and whose it is now; `None`: it cannot be read now.
pub(crate) async fn source(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Source, CatalogError> {
    let sql = "SELECT t.state, p.stage, t.pid FROM tenant t JOIN placement p ON p.pid = t.pid WHERE t.id = $1";
    let row = catalog::query_opt(client, sql, &[&tenant.as_str()]).await?;
    Ok(match row {
        None => Source::Gone,
        Some(row) => match (row.get("state"), row.get("stage")) {
            ("ACTIVE", "open") => Source::Open(parse(row.get("pid"))),
            ("DISABLING" | "DISABLED" | "CREATE_FAILED", _) => Source::Gone,
            (_, _) => Source::NotNow,
        },
    })
}

/// Where the data of a database is now, whatever its state.
pub(crate) async fn place(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Option<Pid>, CatalogError> {
    let sql = "SELECT pid FROM tenant WHERE id = $1";
    let row = catalog::query_opt(client, sql, &[&tenant.as_str()]).await?;
    Ok(row.map(|row| parse(row.get(0))))
}

/// What can be read of a database.
pub(crate) enum Source {
    /// This, and it is in use.
    Open(Pid),
    /// It is being made, or suspended.
    NotNow,
    /// It was deleted.
    Gone,
}

/// It is being made; `false`: it is not wanted any more.
pub(crate) async fn begin(
    client: &impl GenericClient,
    id: &BackupId,
) -> Result<bool, CatalogError> {
    let sql = "UPDATE backup SET state = 'running', begun_at = now() WHERE id = $1 AND state IN ('waiting', 'running')";
    Ok(catalog::execute(client, sql, &[&id.as_str()]).await? == 1)
}

/// Whether it is being made; otherwise nobody wants it any more.
pub(crate) async fn is_running(
    client: &impl GenericClient,
    id: &BackupId,
) -> Result<bool, CatalogError> {
    let sql = "SELECT FROM backup WHERE id = $1 AND state = 'running'";
    Ok(catalog::query_opt(client, sql, &[&id.as_str()])
        .await?
        .is_some())
}

/// Somebody waits for one that is to be restored once ([`super::spent`]).
pub(crate) async fn watch(client: &impl GenericClient, id: &BackupId) -> Result<(), CatalogError> {
    let sql = "UPDATE backup SET watched_at = now()
        WHERE id = $1 AND NOT is_kept AND state IN ('waiting', 'running')
            AND watched_at < now() - make_interval(secs => $2)";
    let every = WATCHED_EVERY.as_secs_f64();
    catalog::execute(client, sql, &[&id.as_str(), &every]).await?;
    Ok(())
}

/// Nobody could ask for anything while no process was there.
pub(crate) async fn watch_all(client: &impl GenericClient) -> Result<(), CatalogError> {
    let sql = "UPDATE backup SET watched_at = now() WHERE NOT is_kept AND state IN ('waiting', 'running')";
    catalog::execute(client, sql, &[]).await?;
    Ok(())
}

/// Writes down by what an upload can be ended.
pub(crate) async fn set_upload(
    client: &impl GenericClient,
    id: &BackupId,
    upload: Option<&str>,
) -> Result<(), CatalogError> {
    let sql = "UPDATE backup SET upload = $2 WHERE id = $1";
    catalog::execute(client, sql, &[&id.as_str(), &upload]).await?;
    Ok(())
}

/// What was made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) size_bytes: u64,
    pub(crate) sha256: [u8; 32],
    pub(crate) dump_bytes: u64,
    /// Fingerprint of the key of the installation.
    pub(crate) installation: [u8; 32],
    pub(crate) tables: usize,
    pub(crate) rows: u64,
    pub(crate) took: Duration,
    /// Of the snapshot: of a recovered node, not what it was recovered to.
    pub(crate) moment: DateTime<Utc>,
}

/// It is there. `false`: it is not wanted any more. One made by a process that runs on under a key which the installation
/// had before is no good one.
pub(crate) async fn made(
    client: &impl GenericClient,
    id: &BackupId,
    made: &Made,
) -> Result<bool, CatalogError> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let changed = catalog::execute(
        client,
        "UPDATE backup SET state = 'ready', finished_at = now(), size_bytes = $2, sha256 = $3, dump_bytes = $4,
             tables = $5, rows = $6, took_ms = $7, moment = coalesce(moment, $8), installation = $9,
             verify_error = CASE WHEN EXISTS (SELECT FROM installation_key WHERE fingerprint <> $9) THEN $10 END,
             upload = NULL, attempts = 0, last_error = NULL, due_at = NULL,
             leased_by = NULL, leased_until = NULL
         WHERE id = $1 AND state = 'running'",
        &[
            &id.as_str(),
            &number(made.size_bytes),
            &&made.sha256[..],
            &number(made.dump_bytes),
            &i32::try_from(made.tables).unwrap_or(i32::MAX),
            &number(made.rows),
            &i64::try_from(made.took.as_millis()).unwrap_or(i64::MAX),
            &made.moment,
            &&made.installation[..],
            &key::wrong(),
        ],
    )
    .await?;
    Ok(changed == 1)
}

/// It did not work: again after `wait`, or never.
pub(crate) async fn fail(
    client: &impl GenericClient,
    id: &BackupId,
    error: &str,
    wait: Option<Duration>,
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "UPDATE backup SET attempts = attempts + 1, last_error = $2, leased_by = NULL, leased_until = NULL,
             state = CASE WHEN $3::float8 IS NULL AND state IN ('waiting', 'running') THEN 'failed' ELSE state END,
             due_at = CASE WHEN state = 'deleting' AND $3::float8 IS NULL THEN now()
                 ELSE now() + make_interval(secs => $3::float8) END
         WHERE id = $1",
        &[&id.as_str(), &error, &wait.map(|wait| wait.as_secs_f64())],
    )
    .await?;
    Ok(())
}

/// It is to be read through.
pub(crate) async fn ask_verify(
    client: &impl GenericClient,
    id: &BackupId,
) -> Result<(), CatalogError> {
    let sql =
        "UPDATE backup SET verify_asked_at = now(), due_at = now(), attempts = 0, last_error = NULL
        WHERE id = $1 AND state = 'ready'";
    catalog::execute(client, sql, &[&id.as_str()]).await?;
    Ok(())
}

/// It could not be read through, for a reason that says nothing of it: it is what it was.
pub(crate) async fn unread(
    client: &impl GenericClient,
    id: &BackupId,
    error: &str,
) -> Result<(), CatalogError> {
    let sql =
        "UPDATE backup SET verify_asked_at = NULL, due_at = NULL, attempts = 0, last_error = $2,
            leased_by = NULL, leased_until = NULL
        WHERE id = $1 AND state = 'ready'";
    catalog::execute(client, sql, &[&id.as_str(), &error]).await?;
    Ok(())
}

/// It was read through.
pub(crate) async fn verified(
    client: &impl GenericClient,
    id: &BackupId,
    error: Option<&str>,
) -> Result<(), CatalogError> {
    let sql = "UPDATE backup SET verify_asked_at = NULL, verified_at = now(), verify_error = $2, due_at = NULL,
            attempts = 0, last_error = NULL, leased_by = NULL, leased_until = NULL
        WHERE id = $1 AND state = 'ready'";
    catalog::execute(client, sql, &[&id.as_str(), &error]).await?;
    Ok(())
}

/// It is to go. Twice is as good as once.
pub(crate) async fn begin_remove(
    client: &impl GenericClient,
    id: &BackupId,
) -> Result<(), CatalogError> {
    let sql = "UPDATE backup SET state = 'deleting', due_at = now(), attempts = 0 WHERE id = $1 AND state <> 'deleting'";
    catalog::execute(client, sql, &[&id.as_str()]).await?;
    Ok(())
}

/// All backups of a database are to go; returns how many.
pub(crate) async fn begin_remove_all(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<u64, CatalogError> {
    let sql = "UPDATE backup SET state = 'deleting', due_at = now(), attempts = 0 WHERE tenant_id = $1 AND state <> 'deleting'";
    catalog::execute(client, sql, &[&tenant.as_str()]).await
}

/// It is gone.
pub(crate) async fn forget(client: &impl GenericClient, id: &BackupId) -> Result<(), CatalogError> {
    let sql = "DELETE FROM backup WHERE id = $1 AND state = 'deleting'";
    catalog::execute(client, sql, &[&id.as_str()]).await?;
    Ok(())
}

/// Backups go with their database to another project.
pub(crate) async fn set_project(
    client: &impl GenericClient,
    tenant: &TenantId,
    project: &ProjectId,
) -> Result<(), CatalogError> {
    for sql in [
        "UPDATE backup SET project_id = $2 WHERE tenant_id = $1",
        "UPDATE restore SET project_id = $2 WHERE tenant_id = $1",
    ] {
        catalog::execute(client, sql, &[&tenant.as_str(), &project.as_str()]).await?;
    }
    Ok(())
}
