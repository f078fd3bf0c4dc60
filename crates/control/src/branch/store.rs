//! Rows of branches.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use model::{Pid, ProjectId, Role, TenantId, TenantName, lifecycle::TenantState};
use node::ClonePath;
use tokio_postgres::Row;

use crate::{
    catalog::{self, CatalogError, parse},
    credential,
    placement::Stage,
};

/// What a pass has to know to copy a branch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) parent: TenantId,
    pub(crate) schema_only: bool,
    /// What is left of the time of this attempt.
    pub(crate) left: Duration,
    /// Where the copy came from, once it was begun.
    pub(crate) source: Option<Pid>,
}

/// What is known of a branch, for its user.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) schema_only: bool,
    pub(crate) path: Option<String>,
    pub(crate) path_reason: Option<String>,
    pub(crate) size_bytes: Option<i64>,
    pub(crate) held_ms: Option<i64>,
    pub(crate) copy_ms: Option<i64>,
    pub(crate) copied_at: Option<DateTime<Utc>>,
}

impl Known {
    fn read(row: &Row) -> Self {
        Self {
            schema_only: row.get("schema_only"),
            path: row.get("path"),
            path_reason: row.get("path_reason"),
            size_bytes: row.get("size_bytes"),
            held_ms: row.get("held_ms"),
            copy_ms: row.get("copy_ms"),
            copied_at: row.get("copied_at"),
        }
    }
}

const KNOWN: &str =
    "tenant_id, schema_only, path, path_reason, size_bytes, held_ms, copy_ms, copied_at";

/// Reads one; `None`: it is no branch.
pub(crate) async fn known(
    client: &impl GenericClient,
    id: &TenantId,
) -> Result<Option<Known>, CatalogError> {
    let sql = format!("SELECT {KNOWN} FROM branch WHERE tenant_id = $1");
    let row = catalog::query_opt(client, &sql, &[&id.as_str()]).await?;
    Ok(row.as_ref().map(Known::read))
}

/// Ids of the branches of a tenant that were not deleted, oldest first; no more than `limit`.
pub(crate) async fn of_parent(
    client: &impl GenericClient,
    parent: &TenantId,
    limit: i64,
) -> Result<Vec<(TenantId, Known)>, CatalogError> {
    let sql = format!(
        "SELECT {KNOWN} FROM branch b JOIN tenant t ON t.id = b.tenant_id
         WHERE b.parent_id = $1 AND t.deleted_at IS NULL ORDER BY t.created_at, t.id LIMIT $2"
    );
    let rows = catalog::query(client, &sql, &[&parent.as_str(), &limit]).await?;
    Ok(rows
        .iter()
        .map(|row| (parse(row.get("tenant_id")), Known::read(row)))
        .collect())
}

/// A branch to be made.
pub(super) struct New<'a> {
    pub(super) id: &'a TenantId,
    pub(super) project: &'a ProjectId,
    pub(super) name: &'a TenantName,
    pub(super) parent: &'a TenantId,
    /// Verifier of the password of its role `admin`: none of its parent's opens it.
    pub(super) keys: &'a wire::scram::Keys,
    /// Who makes it.
    pub(super) maker: &'a str,
    pub(super) node: &'a str,
    pub(super) schema_only: bool,
    /// When it is deleted by itself.
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) time_max: Duration,
}

/// Makes the rows of a branch; passes make its database.
///
/// # Errors
///
/// Violates `tenant_name` when the name is taken.
pub(super) async fn insert(client: &impl GenericClient, new: New<'_>) -> Result<(), CatalogError> {
    let pid = Pid::random(&mut rand::rng());
    plan(client, &pid, new.node).await?;
    catalog::execute(
        client,
        "INSERT INTO tenant (id, project_id, name, state, pid, parent_id, expires_at)
         VALUES ($1, $2, $3, 'CREATING', $4, $5, $6)",
        &[
            &new.id.as_str(),
            &new.project.as_str(),
            &new.name.as_str(),
            &pid.as_str(),
            &new.parent.as_str(),
            &new.expires_at,
        ],
    )
    .await?;
    let of = (Role::Admin, None);
    credential::store::insert_password(client, new.id, of, new.keys, new.maker).await?;
    catalog::execute(
        client,
        "INSERT INTO branch (tenant_id, parent_id, schema_only, time_max_s) VALUES ($1, $2, $3, $4)",
        &[
            &new.id.as_str(),
            &new.parent.as_str(),
            &new.schema_only,
            &seconds(new.time_max),
        ],
    )
    .await?;
    Ok(())
}

fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX)
}

async fn plan(client: &impl GenericClient, pid: &Pid, node: &str) -> Result<(), CatalogError> {
    let sql = "INSERT INTO placement (pid, node, owner) VALUES ($1, $2, 'tenant')";
    catalog::execute(client, sql, &[&pid.as_str(), &node]).await?;
    Ok(())
}

/// Has a branch copied anew into a new place. What it has now is kept, closed, until that is open. The
/// caller holds the tenant's row, and asked [`TenantState::after`].
pub(super) async fn begin_reset(
    client: &impl GenericClient,
    id: &TenantId,
    node: &str,
    time_max: Option<Duration>,
) -> Result<Pid, CatalogError> {
    let pid = Pid::random(&mut rand::rng());
    plan(client, &pid, node).await?;
    catalog::execute(
        client,
        "UPDATE branch b SET previous_pid = t.pid, begun_at = now(), source_pid = NULL,
             time_max_s = coalesce($2, b.time_max_s)
         FROM tenant t WHERE t.id = $1 AND b.tenant_id = $1",
        &[&id.as_str(), &time_max.map(seconds)],
    )
    .await?;
    catalog::execute(
        client,
        "UPDATE placement SET owner = 'kept', version = version + 1, due_at = now(), attempts = 0,
             unsettled_since = now()
         WHERE pid = (SELECT previous_pid FROM branch WHERE tenant_id = $1)",
        &[&id.as_str()],
    )
    .await?;
    let state = TenantState::Creating.as_str();
    catalog::execute(
        client,
        "UPDATE tenant SET pid = $2, state = $3, state_reason = NULL WHERE id = $1",
        &[&id.as_str(), &pid.as_str(), &state],
    )
    .await?;
    Ok(pid)
}

/// Begins the time of an attempt anew. Nothing happens to a tenant that is no branch.
pub(crate) async fn begin_again(
    client: &impl GenericClient,
    id: &TenantId,
) -> Result<(), CatalogError> {
    let sql = "UPDATE branch SET begun_at = now() WHERE tenant_id = $1";
    catalog::execute(client, sql, &[&id.as_str()]).await?;
    Ok(())
}

/// What a reset left behind is given up: the new copy is open, or the branch is gone.
pub(crate) async fn end_reset(
    client: &impl GenericClient,
    id: &TenantId,
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "WITH old AS (
             SELECT previous_pid AS pid FROM branch WHERE tenant_id = $1 AND previous_pid IS NOT NULL),
         forgotten AS (
             UPDATE branch SET previous_pid = NULL WHERE tenant_id = $1 AND previous_pid IS NOT NULL)
         UPDATE placement SET owner = 'nobody', version = version + 1, due_at = now(), attempts = 0,
             unsettled_since = now()
         FROM old WHERE placement.pid = old.pid",
        &[&id.as_str()],
    )
    .await?;
    Ok(())
}

/// A reset failed: the branch has again what it had. False: none was under way.
pub(crate) async fn take_back_reset(
    client: &impl GenericClient,
    id: &TenantId,
) -> Result<bool, CatalogError> {
    let row = catalog::query_opt(
        client,
        "SELECT b.previous_pid, t.pid FROM branch b JOIN tenant t ON t.id = b.tenant_id
         WHERE b.tenant_id = $1 AND b.previous_pid IS NOT NULL",
        &[&id.as_str()],
    )
    .await?;
    let Some(row) = row else { return Ok(false) };
    let (previous, failed): (&str, &str) = (row.get(0), row.get(1));
    let sql = "UPDATE tenant SET pid = $2 WHERE id = $1";
    catalog::execute(client, sql, &[&id.as_str(), &previous]).await?;
    let sql = "UPDATE branch SET previous_pid = NULL WHERE tenant_id = $1";
    catalog::execute(client, sql, &[&id.as_str()]).await?;
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

/// Where a parent's data is now.
pub(super) struct Source {
    pub(super) state: TenantState,
    pub(super) pid: Pid,
    pub(super) stage: Stage,
}

/// `None`: the parent is gone, or another project's: one of the two was adopted without the other.
pub(super) async fn source(
    client: &impl GenericClient,
    branch: &TenantId,
    parent: &TenantId,
) -> Result<Option<Source>, CatalogError> {
    let row = catalog::query_opt(
        client,
        "SELECT t.state, t.pid, p.stage FROM tenant t JOIN placement p ON p.pid = t.pid
         WHERE t.id = $1 AND t.project_id = (SELECT project_id FROM tenant WHERE id = $2)",
        &[&parent.as_str(), &branch.as_str()],
    )
    .await?;
    Ok(row.map(|row| Source {
        state: TenantState::parse(row.get(0)).expect("the schema allows known states only"),
        pid: parse(row.get(1)),
        stage: Stage::parse(row.get(2)).expect("the schema allows known stages only"),
    }))
}

/// Writes down where a copy comes from, before it is made.
pub(super) async fn set_source(
    client: &impl GenericClient,
    id: &TenantId,
    source: &Pid,
) -> Result<(), CatalogError> {
    let sql =
        "UPDATE branch SET source_pid = $2, path = NULL, path_reason = NULL, size_bytes = NULL,
         held_ms = NULL, copy_ms = NULL, copied_at = NULL WHERE tenant_id = $1";
    catalog::execute(client, sql, &[&id.as_str(), &source.as_str()]).await?;
    Ok(())
}

/// What a copy was.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) path: ClonePath,
    /// Why not the faster way.
    pub(crate) reason: Option<String>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) held: Duration,
    pub(crate) took: Duration,
}

/// Writes down what a copy was; of one that was found done, nothing is known.
pub(crate) async fn set_copied(
    client: &impl GenericClient,
    id: &TenantId,
    copied: &Copied,
) -> Result<(), CatalogError> {
    let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let is_known = copied.path != ClonePath::Existing;
    catalog::execute(
        client,
        "UPDATE branch SET path = $2, path_reason = $3, size_bytes = $4, held_ms = $5, copy_ms = $6,
             copied_at = now()
         WHERE tenant_id = $1",
        &[
            &id.as_str(),
            &is_known.then(|| copied.path.as_str()),
            &copied.reason,
            &copied.size_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            &is_known.then(|| milliseconds(copied.held)),
            &is_known.then(|| milliseconds(copied.took)),
        ],
    )
    .await?;
    Ok(())
}
