//! Rows of restores.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use model::{BackupId, Pid, ProjectId, RestoreId, TenantId, lifecycle::TenantState};
use tokio_postgres::Row;

use crate::{
    api::auth::Reach,
    catalog::{self, CatalogError, parse},
};

/// Databases being filled that one answer counts up.
const FILLS_MAX: usize = 100;

/// A restore's row.
#[derive(Clone, Debug)]
pub(crate) struct Restore {
    pub(crate) id: RestoreId,
    pub(crate) backup: BackupId,
    /// The database that becomes what the backup holds.
    pub(crate) tenant: TenantId,
    pub(crate) mode: String,
    /// `verifying`, `filling`, `done` or `failed`.
    pub(crate) state: String,
    pub(crate) safety: Option<BackupId>,
    pub(crate) wants_safety: bool,
    pub(crate) error_code: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) begun_at: DateTime<Utc>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    pub(crate) took_ms: Option<i64>,
    pub(crate) previous: Option<Pid>,
    pub(crate) attempts: i32,
    pub(crate) left: Duration,
}

const COLUMNS: &str =
    "id, backup_id, tenant_id, mode, state, safety_id, wants_safety, error_code, error, begun_at,
    ended_at, took_ms, previous_pid, attempts,
    (time_max_s - extract(epoch FROM now() - begun_at))::float8 AS time_left";

impl Restore {
    fn read(row: &Row) -> Self {
        Self {
            id: parse(row.get("id")),
            backup: parse(row.get("backup_id")),
            tenant: parse(row.get("tenant_id")),
            mode: row.get("mode"),
            state: row.get("state"),
            safety: row.get::<_, Option<&str>>("safety_id").map(parse),
            wants_safety: row.get("wants_safety"),
            error_code: row.get("error_code"),
            error: row.get("error"),
            begun_at: row.get("begun_at"),
            ended_at: row.get("ended_at"),
            took_ms: row.get("took_ms"),
            previous: row.get::<_, Option<&str>>("previous_pid").map(parse),
            attempts: row.get("attempts"),
            left: Duration::try_from_secs_f64(row.get("time_left")).unwrap_or_default(),
        }
    }
}

/// A restore to be done.
pub(super) struct New<'a> {
    pub(super) backup: &'a BackupId,
    pub(super) project: &'a ProjectId,
    pub(super) tenant: &'a TenantId,
    pub(super) mode: &'a str,
    pub(super) wants_safety: bool,
    pub(super) time_max: Duration,
}

/// In place: first the backup is read through. Beside: passes make the new database.
///
/// # Errors
///
/// Violates `restore_under_way` when another one of this database is.
pub(super) async fn insert(
    client: &impl GenericClient,
    new: New<'_>,
) -> Result<Restore, CatalogError> {
    let id = RestoreId::random(&mut rand::rng());
    let sql = format!(
        "INSERT INTO restore (id, backup_id, project_id, tenant_id, mode, state, wants_safety, time_max_s, due_at)
         VALUES ($1, $2, $3, $4, $5, CASE $5 WHEN 'in_place' THEN 'verifying' ELSE 'filling' END, $6, $7,
             CASE $5 WHEN 'in_place' THEN now() END)
         RETURNING {COLUMNS}"
    );
    let row = catalog::query_one(
        client,
        &sql,
        &[
            &id.as_str(),
            &new.backup.as_str(),
            &new.project.as_str(),
            &new.tenant.as_str(),
            &new.mode,
            &new.wants_safety,
            &i32::try_from(new.time_max.as_secs()).unwrap_or(i32::MAX),
        ],
    )
    .await?;
    Ok(Restore::read(&row))
}

/// Finds one that the asker may see.
pub(crate) async fn find(
    client: &impl GenericClient,
    scope: Reach<'_>,
    id: &RestoreId,
) -> Result<Option<Restore>, CatalogError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM restore WHERE id = $1 AND ($2::text IS NULL OR project_id = $2)
            AND ($3::text[] IS NULL OR tenant_id = ANY($3))"
    );
    let project = scope.project.map(ProjectId::as_str);
    let row = catalog::query_opt(client, &sql, &[&id.as_str(), &project, &scope.databases]).await?;
    Ok(row.as_ref().map(Restore::read))
}

/// Reads one again.
pub(crate) async fn read(
    client: &impl GenericClient,
    id: &RestoreId,
) -> Result<Option<Restore>, CatalogError> {
    find(client, Reach::everything(), id).await
}

/// The one by which a database is being filled.
pub(crate) async fn under_way(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Option<Restore>, CatalogError> {
    let sql = format!("SELECT {COLUMNS} FROM restore WHERE tenant_id = $1 AND state = 'filling'");
    let row = catalog::query_opt(client, &sql, &[&tenant.as_str()]).await?;
    Ok(row.as_ref().map(Restore::read))
}

/// Whether restore `r` goes on by itself, and so holds what it reads. One whose new database could not be made, or was
/// deleted, goes on only when somebody asks for it (a resume, an undelete): that must not keep a backup for ever, and
/// finds out should it be gone.
pub(super) const GOES_ON: &str =
    "(r.state IN ('verifying', 'filling') AND NOT (r.mode = 'beside' AND EXISTS (SELECT FROM tenant t
        WHERE t.id = r.tenant_id AND t.state IN ('CREATE_FAILED', 'DISABLING', 'DISABLED'))))";

/// Whether a backup is needed by one that has not ended.
pub(crate) async fn needs(
    client: &impl GenericClient,
    backup: &BackupId,
) -> Result<bool, CatalogError> {
    let sql = format!(
        "SELECT FROM restore r WHERE (r.backup_id = $1 OR r.safety_id = $1) AND {GOES_ON}
        UNION ALL SELECT FROM drill WHERE backup_id = $1 AND state = 'running'"
    );
    Ok(catalog::query_opt(client, &sql, &[&backup.as_str()])
        .await?
        .is_some())
}

/// A database that is being filled from a backup.
pub(crate) struct Fill {
    /// `restore` or `drill`.
    pub(crate) kind: String,
    pub(crate) id: String,
    /// Whose backup it is, or that becomes it.
    pub(crate) tenant: TenantId,
    pub(crate) pid: Pid,
    pub(crate) begun_at: DateTime<Utc>,
}

/// Which databases are being filled, those that began first before others, no more than [`FILLS_MAX`].
pub(crate) async fn fills(client: &impl GenericClient) -> Result<Vec<Fill>, CatalogError> {
    let sql = format!(
        "SELECT 'restore', r.id, r.tenant_id, t.pid, r.begun_at FROM restore r JOIN tenant t ON t.id = r.tenant_id
         WHERE r.state = 'filling' AND {GOES_ON}
         UNION ALL SELECT 'drill', id, tenant_id, pid, coalesce(begun_at, asked_at) FROM drill
         WHERE state = 'running' AND pid IS NOT NULL
         ORDER BY 5, 2 LIMIT {FILLS_MAX}"
    );
    let rows = catalog::query(client, &sql, &[]).await?;
    let fill = |row: &Row| Fill {
        kind: row.get(0),
        id: row.get(1),
        tenant: parse(row.get(2)),
        pid: parse(row.get(3)),
        begun_at: row.get(4),
    };
    Ok(rows.iter().map(fill).collect())
}

/// Leases restores in place whose backup is to be read through.
pub(crate) async fn take_due(
    client: &impl GenericClient,
    instance: &str,
    lease: Duration,
    room: usize,
) -> Result<Vec<RestoreId>, CatalogError> {
    let rows = catalog::query(
        client,
        "UPDATE restore SET leased_by = $1, leased_until = now() + make_interval(secs => $2)
         WHERE id IN (
             SELECT id FROM restore WHERE due_at <= now() AND (leased_until IS NULL OR leased_until < now())
             ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED)
         RETURNING id",
        &[
            &instance,
            &lease.as_secs_f64(),
            &i64::try_from(room).unwrap_or(i64::MAX),
        ],
    )
    .await?;
    Ok(rows.iter().map(|row| parse(row.get(0))).collect())
}

/// The database's old place is kept, and a new one is planned. The caller holds the tenant's row, and asked
/// [`TenantState::after`].
pub(super) async fn begin(
    client: &impl GenericClient,
    restore: &RestoreId,
    tenant: &TenantId,
    node: &str,
    safety: Option<&BackupId>,
) -> Result<(), CatalogError> {
    let pid = Pid::random(&mut rand::rng());
    let sql = "INSERT INTO placement (pid, node, owner) VALUES ($1, $2, 'tenant')";
    catalog::execute(client, sql, &[&pid.as_str(), &node]).await?;
    catalog::execute(
        client,
        "UPDATE restore r SET state = 'filling', previous_pid = t.pid, safety_id = $3, due_at = NULL,
             attempts = 0, error_code = NULL, error = NULL, leased_by = NULL, leased_until = NULL
         FROM tenant t WHERE r.id = $1 AND t.id = $2",
        &[
            &restore.as_str(),
            &tenant.as_str(),
            &safety.map(BackupId::as_str),
        ],
    )
    .await?;
    catalog::execute(
        client,
        "UPDATE placement SET owner = 'kept', version = version + 1, due_at = now(), attempts = 0,
             unsettled_since = now()
         WHERE pid = (SELECT pid FROM tenant WHERE id = $1)",
        &[&tenant.as_str()],
    )
    .await?;
    let state = TenantState::Creating.as_str();
    let sql = "UPDATE tenant SET pid = $2, state = $3, state_reason = NULL WHERE id = $1";
    catalog::execute(client, sql, &[&tenant.as_str(), &pid.as_str(), &state]).await?;
    Ok(())
}

/// Whether what the database had before is closed: nobody writes into it any more.
pub(super) async fn previous_is_closed(
    client: &impl GenericClient,
    previous: &Pid,
) -> Result<bool, CatalogError> {
    let sql = "SELECT FROM placement WHERE pid = $1 AND owner = 'kept' AND stage = 'closed'";
    Ok(catalog::query_opt(client, sql, &[&previous.as_str()])
        .await?
        .is_some())
}

/// The database is open: the restore is done, and what it had before is given up. Also when the database is
/// gone, with all that belonged to it.
pub(crate) async fn end(
    client: &impl GenericClient,
    tenant: &TenantId,
    is_done: bool,
) -> Result<(), CatalogError> {
    let state = if is_done { "done" } else { "failed" };
    catalog::execute(
        client,
        "WITH old AS (
             SELECT id, previous_pid AS pid FROM restore
             WHERE tenant_id = $1 AND state IN ('verifying', 'filling')),
         ended AS (
             UPDATE restore SET state = $2, previous_pid = NULL, ended_at = now(), due_at = NULL,
                 leased_by = NULL, leased_until = NULL, error = CASE WHEN $2 = 'failed' THEN coalesce(error, 'the database was deleted') END,
                 error_code = CASE WHEN $2 = 'failed' THEN coalesce(error_code, 'wrong_state') END,
                 took_ms = extract(epoch FROM now() - begun_at) * 1000
             WHERE id IN (SELECT id FROM old))
         UPDATE placement SET owner = 'nobody', version = version + 1, due_at = now(), attempts = 0,
             unsettled_since = now()
         FROM old WHERE placement.pid = old.pid",
        &[&tenant.as_str(), &state],
    )
    .await?;
    Ok(())
}

/// A restore in place failed: the database has again what it had. False: none was under way.
pub(crate) async fn take_back(
    client: &impl GenericClient,
    tenant: &TenantId,
    reason: &str,
) -> Result<bool, CatalogError> {
    let row = catalog::query_opt(
        client,
        "SELECT r.id, r.previous_pid, t.pid FROM restore r JOIN tenant t ON t.id = r.tenant_id
         WHERE r.tenant_id = $1 AND r.state = 'filling' AND r.previous_pid IS NOT NULL",
        &[&tenant.as_str()],
    )
    .await?;
    let Some(row) = row else { return Ok(false) };
    let (id, previous, failed): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
    let sql = "UPDATE tenant SET pid = $2 WHERE id = $1";
    catalog::execute(client, sql, &[&tenant.as_str(), &previous]).await?;
    let sql = "UPDATE restore SET state = 'failed', previous_pid = NULL, ended_at = now(), error = $2,
            error_code = coalesce(error_code, 'backup_failed'), took_ms = extract(epoch FROM now() - begun_at) * 1000
        WHERE id = $1";
    catalog::execute(client, sql, &[&id, &reason]).await?;
    catalog::execute(
        client,
        "UPDATE placement SET owner = CASE WHEN pid = $1 THEN 'tenant' ELSE 'nobody' END,
             version = version + 1, due_at = now(), attempts = 0, unsettled_since = now()
         WHERE pid IN ($1, $2)",
        &[&previous, &failed],
    )
    .await?;
    Ok(true)
}

/// Why the last attempt failed. A restore beside goes on when its database is resumed.
pub(crate) async fn note(
    client: &impl GenericClient,
    tenant: &TenantId,
    code: &str,
    error: &str,
) -> Result<(), CatalogError> {
    let sql =
        "UPDATE restore SET error_code = $2, error = $3 WHERE tenant_id = $1 AND state = 'filling'";
    catalog::execute(client, sql, &[&tenant.as_str(), &code, &error]).await?;
    Ok(())
}

/// Nothing was touched, and nothing will be.
pub(super) async fn refuse(
    client: &impl GenericClient,
    id: &RestoreId,
    code: &str,
    error: &str,
) -> Result<(), CatalogError> {
    let sql = "UPDATE restore SET state = 'failed', error_code = $2, error = $3, ended_at = now(), due_at = NULL,
            leased_by = NULL, leased_until = NULL, took_ms = extract(epoch FROM now() - begun_at) * 1000
        WHERE id = $1 AND state = 'verifying'";
    catalog::execute(client, sql, &[&id.as_str(), &code, &error]).await?;
    Ok(())
}

/// Reading the backup through did not work: again after `wait`. Why is told to whoever asks meanwhile.
pub(super) async fn retry(
    client: &impl GenericClient,
    id: &RestoreId,
    (code, error): (&str, &str),
    wait: Duration,
) -> Result<(), CatalogError> {
    let sql =
        "UPDATE restore SET attempts = attempts + 1, due_at = now() + make_interval(secs => $2),
            error_code = $3, error = $4, leased_by = NULL, leased_until = NULL
        WHERE id = $1 AND state = 'verifying'";
    let wait_s = wait.as_secs_f64();
    catalog::execute(client, sql, &[&id.as_str(), &wait_s, &code, &error]).await?;
    Ok(())
}

/// Begins the time of an attempt anew. Nothing happens to a tenant that is not being restored.
pub(crate) async fn begin_again(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<(), CatalogError> {
    let sql = "UPDATE restore SET begun_at = now(), error = NULL, error_code = NULL
        WHERE tenant_id = $1 AND state = 'filling'";
    catalog::execute(client, sql, &[&tenant.as_str()]).await?;
    Ok(())
}
