//! Rows of tenants.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use model::{CredentialId, Pid, ProjectId, TenantId, TenantName, lifecycle::TenantState};
use tokio_postgres::Row;

use crate::{
    api::{auth::Reach, extract::DatabaseKey},
    catalog::{self, CatalogError, parse},
    limits::store::Party,
};

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
    /// When it is deleted by itself.
    pub(crate) expires_at: Option<DateTime<Utc>>,
    /// Who keeps it suspended. Also of a deleted one.
    pub(crate) suspended_by: Option<Party>,
    /// What it was copied from, while both are of one project: adopted alone, a branch has no parent.
    pub(crate) parent: Option<TenantId>,
}

const COLUMNS: &str = "id, project_id, name, state, state_reason, pid, created_at, deleted_at,
    purge_after, expires_at, suspended_by,
    (SELECT parent.id FROM tenant parent
        WHERE parent.id = tenant.parent_id AND parent.project_id = tenant.project_id) AS parent_id";

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
            expires_at: row.get("expires_at"),
            suspended_by: row
                .get::<_, Option<&str>>("suspended_by")
                .map(|text| Party::parse(text).expect("the schema allows two parties only")),
            parent: row.get::<_, Option<&str>>("parent_id").map(parse),
        }
    }

    /// Whether it was deleted because its lifetime was over.
    pub(crate) fn has_expired(&self) -> bool {
        self.expires_at
            .zip(self.deleted_at)
            .is_some_and(|(end, deleted)| deleted >= end)
    }
}

/// What a look-up is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// Reading.
    Read,
    /// Changing it in this transaction: its row is locked.
    Change,
    /// The same, and the name may be one that a deleted tenant had; the last one deleted is meant. Whoever
    /// gives it another name means that one also when the name is held again.
    Undelete { is_renamed: bool },
}

/// Finds a tenant by id, or else by the name that it holds. `scope` is what the asker may find; names are
/// those of `own`.
pub(crate) async fn find(
    client: &impl GenericClient,
    scope: Reach<'_>,
    own: &ProjectId,
    key: &DatabaseKey,
    purpose: Purpose,
) -> Result<Option<Tenant>, CatalogError> {
    let lock = match purpose {
        Purpose::Read => "",
        Purpose::Change | Purpose::Undelete { .. } => "FOR UPDATE",
    };
    let (may_be_deleted, is_renamed) = match purpose {
        Purpose::Read | Purpose::Change => (false, false),
        Purpose::Undelete { is_renamed } => (true, is_renamed),
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM tenant
         WHERE ((id = $1 AND ($2::text IS NULL OR project_id = $2))
                OR (project_id = $3 AND name = $4 AND ($5 OR deleted_at IS NULL)))
            AND ($6::text[] IS NULL OR id = ANY($6))
         ORDER BY id = $1 DESC NULLS LAST, $7 AND deleted_at IS NULL,
            deleted_at DESC NULLS FIRST, created_at DESC
         LIMIT 1 {lock}"
    );
    let row = catalog::query_opt(
        client,
        &sql,
        &[
            &key.id.as_ref().map(TenantId::as_str),
            &scope.project.map(ProjectId::as_str),
            &own.as_str(),
            &key.name.as_ref().map(TenantName::as_str),
            &may_be_deleted,
            &scope.databases,
            &is_renamed,
        ],
    )
    .await?;
    Ok(row.as_ref().map(Tenant::read).inspect(touched))
}

/// Reads one again.
pub(crate) async fn read(
    client: &impl GenericClient,
    id: &TenantId,
) -> Result<Option<Tenant>, CatalogError> {
    let sql = format!("SELECT {COLUMNS} FROM tenant WHERE id = $1");
    Ok(catalog::query_opt(client, &sql, &[&id.as_str()])
        .await?
        .as_ref()
        .map(Tenant::read))
}

/// Reads one, and holds its row.
pub(crate) async fn lock(
    client: &impl GenericClient,
    id: &TenantId,
) -> Result<Option<Tenant>, CatalogError> {
    let sql = format!("SELECT {COLUMNS} FROM tenant WHERE id = $1 FOR UPDATE");
    Ok(catalog::query_opt(client, &sql, &[&id.as_str()])
        .await?
        .as_ref()
        .map(Tenant::read)
        .inspect(touched))
}

/// For the audit log: a request has to do with it.
fn touched(tenant: &Tenant) {
    crate::audited::touched(&tenant.id, &tenant.project);
}

/// Names that a project holds.
pub(crate) async fn names(
    client: &impl GenericClient,
    project: &ProjectId,
) -> Result<HashSet<String>, CatalogError> {
    let sql = "SELECT name FROM tenant
        WHERE project_id = $1 AND state NOT IN ('DISABLING', 'DISABLED')";
    let rows = catalog::query(client, sql, &[&project.as_str()]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Gives one to another project, out of reach of tokens that were bound to it. The caller holds its row.
///
/// # Errors
///
/// Violates `tenant_name` when that project holds its name already.
pub(crate) async fn set_project(
    client: &impl GenericClient,
    id: &TenantId,
    project: &ProjectId,
) -> Result<(), CatalogError> {
    let sql = "UPDATE tenant SET project_id = $2 WHERE id = $1";
    catalog::execute(client, sql, &[&id.as_str(), &project.as_str()]).await?;
    let sql = "DELETE FROM credential_scope WHERE tenant_id = $1";
    catalog::execute(client, sql, &[&id.as_str()]).await?;
    Ok(())
}

/// A tenant to be made.
pub(crate) struct New<'a> {
    pub(crate) id: &'a TenantId,
    pub(crate) project: &'a ProjectId,
    pub(crate) name: &'a TenantName,
    /// Verifier of the password of its role `admin`.
    pub(crate) keys: &'a wire::scram::Keys,
    /// Who makes it.
    pub(crate) maker: &'a str,
    /// Where it is to live.
    pub(crate) node: &'a str,
    /// Databases the project may have; the caller called [`lock_project`]. `None`: any number.
    pub(crate) quota: Option<u32>,
    /// When it is deleted by itself.
    pub(crate) expires_at: Option<DateTime<Utc>>,
}

/// What became of a [`New`] one.
pub(crate) enum Made {
    /// Out of the pool, in which so many complete entries are left: it can be used.
    Claimed(Tenant, u32),
    /// The pool was empty: passes make its database.
    Planned(Tenant),
    /// The name is held; nothing was done. Said before anything about the quota.
    NameTaken,
    /// The project has as many as it may; nothing was done.
    QuotaExceeded,
}

/// Makes a tenant, with everything that belongs to it, in one statement: each round trip to the
/// catalog is paid for by everybody who creates at the same moment.
///
/// # Errors
///
/// Violates `tenant_name` when another transaction took the name meanwhile.
pub(crate) async fn make(client: &impl GenericClient, new: New<'_>) -> Result<Made, CatalogError> {
    let sql = format!(
        "WITH held AS (
             SELECT EXISTS (SELECT FROM tenant WHERE project_id = $2 AND name = $3
                        AND state NOT IN ('DISABLING', 'DISABLED')) AS is_taken,
                    $7::bigint <= (SELECT count(*) FROM tenant WHERE project_id = $2
                        AND state NOT IN ('DISABLING', 'DISABLED')) AS is_full),
         entry AS (
             SELECT pid FROM placement
             WHERE owner = 'pool' AND stage = 'open' AND node = $6
                 AND (SELECT NOT is_taken AND is_full IS NOT TRUE FROM held)
             ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED),
         claimed AS (
             UPDATE placement SET owner = 'tenant', version = version + 1
             FROM entry WHERE placement.pid = entry.pid RETURNING placement.pid),
         planned AS (
             INSERT INTO placement (pid, node, owner)
             SELECT $8::text, $6, 'tenant' FROM held
             WHERE NOT is_taken AND is_full IS NOT TRUE AND NOT EXISTS (SELECT FROM claimed)
             RETURNING pid),
         made AS (
             INSERT INTO tenant (id, project_id, name, expires_at, state, pid, activated_at)
             SELECT $1, $2, $3, $10::timestamptz, 'ACTIVE', pid, now() FROM claimed
             UNION ALL SELECT $1, $2, $3, $10, 'CREATING', pid, NULL FROM planned
             RETURNING {COLUMNS}),
         secret AS (
             INSERT INTO credential
                 (id, kind, tenant_id, role, stored_key, server_key, created_by)
             SELECT $9::text, 'password', id, 'admin', $4::bytea, $5::bytea, $11::text FROM made)
         SELECT made.*, is_taken,
                (SELECT count(*) FROM placement
                 WHERE owner = 'pool' AND stage = 'open' AND node = $6) AS ready
         FROM held LEFT JOIN made ON true"
    );
    let pid = Pid::random(&mut rand::rng());
    let credential = CredentialId::random(&mut rand::rng());
    let row = catalog::query_one(
        client,
        &sql,
        &[
            &new.id.as_str(),
            &new.project.as_str(),
            &new.name.as_str(),
            &new.keys.stored_key.as_slice(),
            &new.keys.server_key.as_slice(),
            &new.node,
            &new.quota.map(i64::from),
            &pid.as_str(),
            &credential.as_str(),
            &new.expires_at,
            &new.maker,
        ],
    )
    .await?;
    if row.get("is_taken") {
        return Ok(Made::NameTaken);
    }
    if row.get::<_, Option<&str>>("id").is_none() {
        return Ok(Made::QuotaExceeded);
    }
    let tenant = Tenant::read(&row);
    touched(&tenant);
    if tenant.state != TenantState::Active {
        return Ok(Made::Planned(tenant));
    }
    // The pool was counted as it was before.
    let left = row.get::<_, i64>("ready") - 1;
    Ok(Made::Claimed(tenant, u32::try_from(left).unwrap_or(0)))
}

/// Holds a project until the transaction ends, so that its databases can be counted and one more be
/// made. A statement before that count: one that waited for the project would count as of before.
pub(crate) async fn lock_project(
    client: &impl GenericClient,
    project: &ProjectId,
) -> Result<(), CatalogError> {
    // Does not wait for who only refers to the project.
    let sql = "SELECT FROM project WHERE id = $1 FOR NO KEY UPDATE";
    catalog::execute(client, sql, &[&project.as_str()]).await?;
    Ok(())
}

/// Databases of a project that are not deleted.
pub(crate) async fn count(
    client: &impl GenericClient,
    project: &ProjectId,
) -> Result<i64, CatalogError> {
    let sql = "SELECT count(*) FROM tenant
        WHERE project_id = $1 AND state NOT IN ('DISABLING', 'DISABLED')";
    let row = catalog::query_one(client, sql, &[&project.as_str()]).await?;
    Ok(row.get(0))
}

/// Whether no other database of the project may have this name.
pub(crate) async fn is_name_taken(
    client: &impl GenericClient,
    project: &ProjectId,
    name: &TenantName,
) -> Result<bool, CatalogError> {
    let sql = "SELECT FROM tenant
        WHERE project_id = $1 AND name = $2 AND state NOT IN ('DISABLING', 'DISABLED')";
    let row = catalog::query_opt(client, sql, &[&project.as_str(), &name.as_str()]).await?;
    Ok(row.is_some())
}

/// How many tenants there are in each state; a state without any may be missing.
pub(crate) async fn count_by_state(
    client: &impl GenericClient,
) -> Result<Vec<(TenantState, u64)>, CatalogError> {
    let sql = "SELECT state, count(*) FROM tenant GROUP BY state";
    let rows = catalog::query(client, sql, &[]).await?;
    let counts = rows.iter().filter_map(|row| {
        let count = row.get::<_, i64>(1).unsigned_abs();
        Some((TenantState::parse(row.get(0))?, count))
    });
    Ok(counts.collect())
}

/// Which tenants to list.
#[derive(Default)]
pub(crate) struct Filter<'a> {
    /// `None`: all projects.
    pub(crate) project: Option<&'a ProjectId>,
    /// Only these; `None`: all.
    pub(crate) databases: Option<&'a [String]>,
    /// `None`: all states.
    pub(crate) states: Option<Vec<&'static str>>,
    pub(crate) prefix: Option<&'a str>,
    pub(crate) created_before: Option<DateTime<Utc>>,
    /// Made at least so long ago.
    pub(crate) older_than: Option<Duration>,
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
           AND ($7::float8 IS NULL OR created_at <= now() - make_interval(secs => $7))
           AND ($5::text IS NULL OR
                (created_at, id) > (SELECT created_at, id FROM tenant WHERE id = $5))
           AND ($8::text[] IS NULL OR id = ANY($8))
         ORDER BY created_at, id LIMIT $6"
    );
    let rows = catalog::query(
        client,
        &sql,
        &[
            &filter.project.map(ProjectId::as_str),
            &filter.states,
            &filter.prefix,
            &filter.created_before,
            &filter.after.map(TenantId::as_str),
            &filter.limit,
            &filter.older_than.map(|time| time.as_secs_f64()),
            &filter.databases,
        ],
    )
    .await?;
    Ok(rows.iter().map(Tenant::read).collect())
}

/// Marks one as deleted. The caller holds its row, and asked [`TenantState::after`].
pub(crate) async fn set_deleted(
    client: &impl GenericClient,
    id: &TenantId,
    retention: Duration,
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "UPDATE tenant SET state = 'DISABLING', state_reason = NULL, deleted_at = now(),
             purge_after = now() + make_interval(secs => $2)
         WHERE id = $1",
        &[&id.as_str(), &retention.as_secs_f64()],
    )
    .await?;
    Ok(())
}

/// What an undelete changes.
pub(crate) struct Undeleted<'a> {
    pub(crate) name: &'a TenantName,
    /// The one that [`TenantState::after`] gave.
    pub(crate) state: TenantState,
    /// `None`: an end that is still to come stays, one that has passed is taken away.
    pub(crate) expires_at: Option<Option<DateTime<Utc>>>,
}

/// Takes a delete back. The caller holds its row, and asked [`TenantState::after`]. Returns the row as
/// it is then.
///
/// # Errors
///
/// Violates `tenant_name` when the name is held by another one now.
pub(crate) async fn set_undeleted(
    client: &impl GenericClient,
    id: &TenantId,
    undeleted: Undeleted<'_>,
) -> Result<Tenant, CatalogError> {
    let sql = format!(
        "UPDATE tenant SET state = $3, state_reason = NULL, name = $2, deleted_at = NULL,
             purge_after = NULL,
             suspended_by = CASE WHEN $3 = 'SUSPENDED' THEN suspended_by END,
             expires_at = CASE WHEN $4 THEN $5 WHEN expires_at > now() THEN expires_at END
         WHERE id = $1 RETURNING {COLUMNS}"
    );
    let row = catalog::query_one(
        client,
        &sql,
        &[
            &id.as_str(),
            &undeleted.name.as_str(),
            &undeleted.state.as_str(),
            &undeleted.expires_at.is_some(),
            &undeleted.expires_at.flatten(),
        ],
    )
    .await?;
    Ok(Tenant::read(&row))
}

/// Suspends one, or notes who keeps it so. The caller holds its row, and asked
/// [`TenantState::after`].
pub(crate) async fn set_suspended(
    client: &impl GenericClient,
    id: &TenantId,
    by: Party,
) -> Result<(), CatalogError> {
    let sql = "UPDATE tenant SET state = 'SUSPENDED', state_reason = NULL, suspended_by = $2
         WHERE id = $1";
    catalog::execute(client, sql, &[&id.as_str(), &by.as_str()]).await?;
    Ok(())
}

/// Lets one go on in `state`. The caller holds its row, and asked [`TenantState::after`].
pub(crate) async fn set_resumed(
    client: &impl GenericClient,
    id: &TenantId,
    state: TenantState,
) -> Result<(), CatalogError> {
    let sql = "UPDATE tenant SET state = $2, state_reason = NULL, suspended_by = NULL
         WHERE id = $1";
    catalog::execute(client, sql, &[&id.as_str(), &state.as_str()]).await?;
    Ok(())
}

/// Gives one another name. The caller holds its row.
///
/// # Errors
///
/// Violates `tenant_name` when the name is held by another one.
pub(crate) async fn set_name(
    client: &impl GenericClient,
    id: &TenantId,
    name: &TenantName,
) -> Result<(), CatalogError> {
    let sql = "UPDATE tenant SET name = $2 WHERE id = $1";
    catalog::execute(client, sql, &[&id.as_str(), &name.as_str()]).await?;
    Ok(())
}

/// Says when one is deleted by itself. The caller holds its row.
pub(crate) async fn set_end(
    client: &impl GenericClient,
    id: &TenantId,
    at: Option<DateTime<Utc>>,
) -> Result<(), CatalogError> {
    let sql = "UPDATE tenant SET expires_at = $2 WHERE id = $1";
    catalog::execute(client, sql, &[&id.as_str(), &at]).await?;
    Ok(())
}

/// How long until the next lifetime is over: zero when one is; `None` when none ever is.
pub(crate) async fn next_end(
    client: &impl GenericClient,
) -> Result<Option<Duration>, CatalogError> {
    let row = catalog::query_one(
        client,
        "SELECT extract(epoch FROM min(expires_at) - now())::float8 FROM tenant
         WHERE expires_at IS NOT NULL AND deleted_at IS NULL",
        &[],
    )
    .await?;
    let seconds: Option<f64> = row.get(0);
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

/// The one whose lifetime was over first, held until the transaction ends; none that somebody else
/// holds.
pub(crate) async fn lock_expired(
    client: &impl GenericClient,
) -> Result<Option<Tenant>, CatalogError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM tenant WHERE expires_at <= now() AND deleted_at IS NULL
         ORDER BY expires_at LIMIT 1 FOR UPDATE SKIP LOCKED"
    );
    let row = catalog::query_opt(client, &sql, &[]).await?;
    Ok(row.as_ref().map(Tenant::read))
}

/// Whether its database is open, and nothing else is wanted of it.
pub(crate) async fn is_open(client: &impl GenericClient, pid: &Pid) -> Result<bool, CatalogError> {
    let sql = "SELECT stage = 'open' AND due_at IS NULL FROM placement WHERE pid = $1";
    let row = catalog::query_opt(client, sql, &[&pid.as_str()]).await?;
    Ok(row.is_some_and(|row| row.get(0)))
}

/// Whether the removal of its data has begun.
pub(crate) async fn is_being_purged(
    client: &impl GenericClient,
    pid: &Pid,
) -> Result<bool, CatalogError> {
    let row = catalog::query_opt(
        client,
        "SELECT stage IN ('dropping', 'dropped') FROM placement WHERE pid = $1 FOR UPDATE",
        &[&pid.as_str()],
    )
    .await?;
    Ok(row.is_none_or(|row| row.get(0)))
}
