//! Rows of tenants.

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use model::{Pid, ProjectId, TenantId, TenantName, lifecycle::TenantState};
use tokio_postgres::{GenericClient, Row};

use crate::{api::extract::DatabaseKey, catalog::CatalogError};

/// A tenant's row.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) project: ProjectId,
    pub(crate) name: TenantName,
    pub(crate) state: TenantState,
    pub(crate) state_reason: Option<String>,
    pub(crate) pid: Pid,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) deleted_at: Option<DateTime<Utc>>,
    pub(crate) purge_after: Option<DateTime<Utc>>,
    pub(crate) parent: Option<TenantId>,
}

const COLUMNS: &str = "id, project_id, name, state, state_reason, pid, created_at, deleted_at,
    purge_after, parent_id";

impl Tenant {
    fn read(row: &Row) -> Self {
        Self {
            id: parse(row.get("id")),
            project: parse(row.get("project_id")),
            name: parse(row.get("name")),
            state: TenantState::parse(row.get("state"))
                .expect("the schema allows known states only"),
            state_reason: row.get("state_reason"),
            pid: parse(row.get("pid")),
            created_at: row.get("created_at"),
            deleted_at: row.get("deleted_at"),
            purge_after: row.get("purge_after"),
            parent: row.get::<_, Option<&str>>("parent_id").map(parse),
        }
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> T {
    text.parse()
        .ok()
        .expect("the schema allows well-formed ids and names only")
}

/// What a look-up is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// Reading.
    Read,
    /// Changing it in this transaction: its row is locked.
    Change,
    /// The same, and the name may be one that a deleted tenant had; the last one deleted is meant.
    Undelete,
}

/// Finds a tenant by id, or else by the name that it holds. `scope` is the project of the asker,
/// `None` for the operator; names are those of `own`.
pub(crate) async fn find(
    client: &impl GenericClient,
    scope: Option<&ProjectId>,
    own: &ProjectId,
    key: &DatabaseKey,
    purpose: Purpose,
) -> Result<Option<Tenant>, CatalogError> {
    let lock = match purpose {
        Purpose::Read => "",
        Purpose::Change | Purpose::Undelete => "FOR UPDATE",
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM tenant
         WHERE (id = $1 AND ($2::text IS NULL OR project_id = $2))
            OR (project_id = $3 AND name = $4 AND ($5 OR deleted_at IS NULL))
         ORDER BY id = $1 DESC NULLS LAST, deleted_at DESC NULLS FIRST, created_at DESC
         LIMIT 1 {lock}"
    );
    let row = client
        .query_opt(
            &sql,
            &[
                &key.id.as_ref().map(TenantId::as_str),
                &scope.map(ProjectId::as_str),
                &own.as_str(),
                &key.name.as_ref().map(TenantName::as_str),
                &(purpose == Purpose::Undelete),
            ],
        )
        .await?;
    Ok(row.as_ref().map(Tenant::read))
}

/// Reads one again.
pub(crate) async fn read(
    client: &impl GenericClient,
    id: &TenantId,
) -> Result<Option<Tenant>, CatalogError> {
    let sql = format!("SELECT {COLUMNS} FROM tenant WHERE id = $1");
    Ok(client
        .query_opt(&sql, &[&id.as_str()])
        .await?
        .as_ref()
        .map(Tenant::read))
}

/// A new tenant in `state`, [`TenantState::Creating`] or [`TenantState::Active`].
///
/// # Errors
///
/// Violates `tenant_name` when the name is held.
pub(crate) async fn insert(
    transaction: &Transaction<'_>,
    id: &TenantId,
    project: &ProjectId,
    name: &TenantName,
    pid: &Pid,
    state: TenantState,
) -> Result<Tenant, CatalogError> {
    let sql = format!(
        "INSERT INTO tenant (id, project_id, name, state, pid, activated_at)
         VALUES ($1, $2, $3, $4, $5, CASE WHEN $4 = 'ACTIVE' THEN now() END)
         RETURNING {COLUMNS}"
    );
    let statement = transaction.prepare_cached(&sql).await?;
    let row = transaction
        .query_one(
            &statement,
            &[
                &id.as_str(),
                &project.as_str(),
                &name.as_str(),
                &state.as_str(),
                &pid.as_str(),
            ],
        )
        .await?;
    Ok(Tenant::read(&row))
}

/// Locks a project, so that its databases can be counted and one more be made.
pub(crate) async fn lock_and_count(
    client: &impl GenericClient,
    project: &ProjectId,
) -> Result<i64, CatalogError> {
    client
        .execute(
            "SELECT 1 FROM project WHERE id = $1 FOR UPDATE",
            &[&project.as_str()],
        )
        .await?;
    let row = client
        .query_one(
            "SELECT count(*) FROM tenant
             WHERE project_id = $1 AND state NOT IN ('DISABLING', 'DISABLED')",
            &[&project.as_str()],
        )
        .await?;
    Ok(row.get(0))
}

/// Which tenants to list.
#[derive(Default)]
pub(crate) struct Filter<'a> {
    /// `None`: all projects.
    pub(crate) project: Option<&'a ProjectId>,
    /// `None`: all states.
    pub(crate) states: Option<Vec<&'static str>>,
    pub(crate) prefix: Option<&'a str>,
    pub(crate) created_before: Option<DateTime<Utc>>,
    pub(crate) after: Option<&'a TenantId>,
    pub(crate) limit: i64,
}

/// Lists them, oldest first.
pub(crate) async fn list(
    client: &impl GenericClient,
    filter: Filter<'_>,
) -> Result<Vec<Tenant>, CatalogError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM tenant
         WHERE ($1::text IS NULL OR project_id = $1)
           AND ($2::text[] IS NULL OR state = ANY($2))
           AND ($3::text IS NULL OR starts_with(name, $3))
           AND ($4::timestamptz IS NULL OR created_at < $4)
           AND ($5::text IS NULL OR
                (created_at, id) > (SELECT created_at, id FROM tenant WHERE id = $5))
         ORDER BY created_at, id LIMIT $6"
    );
    let rows = client
        .query(
            &sql,
            &[
                &filter.project.map(ProjectId::as_str),
                &filter.states,
                &filter.prefix,
                &filter.created_before,
                &filter.after.map(TenantId::as_str),
                &filter.limit,
            ],
        )
        .await?;
    Ok(rows.iter().map(Tenant::read).collect())
}

/// Marks one as deleted. The caller holds its row, and asked [`TenantState::after`].
pub(crate) async fn set_deleted(
    client: &impl GenericClient,
    id: &TenantId,
    retention: std::time::Duration,
) -> Result<(), CatalogError> {
    client
        .execute(
            "UPDATE tenant SET state = 'DISABLING', state_reason = NULL, deleted_at = now(),
                 purge_after = now() + make_interval(secs => $2)
             WHERE id = $1",
            &[&id.as_str(), &retention.as_secs_f64()],
        )
        .await?;
    Ok(())
}

/// Takes a delete back. The caller holds its row, and asked [`TenantState::after`].
///
/// # Errors
///
/// Violates `tenant_name` when the name is held by another one now.
pub(crate) async fn set_undeleted(
    client: &impl GenericClient,
    id: &TenantId,
    name: &TenantName,
) -> Result<(), CatalogError> {
    client
        .execute(
            "UPDATE tenant SET state = 'CREATING', name = $2, deleted_at = NULL, purge_after = NULL
             WHERE id = $1",
            &[&id.as_str(), &name.as_str()],
        )
        .await?;
    Ok(())
}

/// Whether the removal of its data has begun.
pub(crate) async fn is_being_purged(
    client: &impl GenericClient,
    pid: &Pid,
) -> Result<bool, CatalogError> {
    let row = client
        .query_opt(
            "SELECT stage IN ('dropping', 'dropped') FROM placement WHERE pid = $1 FOR UPDATE",
            &[&pid.as_str()],
        )
        .await?;
    Ok(row.is_none_or(|row| row.get(0)))
}
