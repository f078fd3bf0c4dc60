//! Rows of placements.
//!
//! Whoever changes a tenant and its placement locks the tenant's row first.

use std::time::Duration;

use deadpool_postgres::{GenericClient, Transaction};
use model::{
    Pid, TenantId,
    lifecycle::{TenantEvent, TenantState},
    route::Change,
};
use tokio_postgres::Row;

use super::{
    Origin, Owner, Stage,
    stuck::{Care, UnderWay},
};
use crate::{
    backup::restores,
    branch::store::{self as branches, Wanted},
    catalog::{self, CatalogError, changes, parse},
};

/// A placement as a pass sees it.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) pid: Pid,
    pub(crate) owner: Owner,
    pub(crate) stage: Stage,
    /// What it had when it was read: rests only if nobody asked for something else since.
    pub(crate) version: i64,
    /// Failures since the last success.
    pub(crate) attempts: i32,
    /// How long it has not been where it should be.
    pub(crate) unsettled_for: Duration,
    pub(crate) tenant: Option<TenantId>,
    /// Whether the tenant could be used before.
    pub(crate) was_active: bool,
    /// Of a branch: what to copy.
    pub(crate) branch: Option<Wanted>,
    /// A restore is under way: so much is left of its time.
    pub(crate) restore: Option<Duration>,
    /// It is, or was, the place of a restore drill.
    pub(crate) is_drill: bool,
}

const WORK: &str = "
    SELECT p.pid, p.owner, p.stage, p.version, p.attempts,
           coalesce(extract(epoch FROM now() - p.unsettled_since), 0)::float8 AS unsettled,
           t.id, t.state, coalesce(t.activated_at IS NOT NULL, false) AS was_active,
           b.parent_id, b.schema_only, b.source_pid,
           coalesce(b.time_max_s - extract(epoch FROM now() - b.begun_at), 0)::float8 AS time_left,
           (r.time_max_s - extract(epoch FROM now() - r.begun_at))::float8 AS restore_left,
           EXISTS (SELECT FROM drill d WHERE d.pid = p.pid) AS is_drill,
           coalesce(t.state = 'DISABLED'
               AND (t.purge_after <= now() OR p.stage IN ('dropping', 'dropped')), false) AS expired
    FROM placement p LEFT JOIN tenant t ON t.pid = p.pid
        LEFT JOIN branch b ON b.tenant_id = t.id
        LEFT JOIN restore r ON r.tenant_id = t.id AND r.state = 'filling'";

impl Work {
    fn read(row: &Row) -> Self {
        let state = row
            .get::<_, Option<&str>>("state")
            .map(|text| TenantState::parse(text).expect("the schema allows known states only"));
        let owner = match (row.get("owner"), state) {
            ("pool", _) => Owner::Pool,
            ("kept", _) => Owner::Kept,
            ("drill", _) => Owner::Drill,
            ("tenant", Some(_)) if row.get("expired") => Owner::Expired,
            ("tenant", Some(state)) => Owner::Tenant(state),
            // 'nobody', or a claim whose tenant row never came to be, which one transaction forbids.
            (_, _) => Owner::Nobody,
        };
        Self {
            pid: parse(row.get("pid")),
            owner,
            stage: Stage::parse(row.get("stage")).expect("the schema allows known stages only"),
            version: row.get("version"),
            attempts: row.get("attempts"),
            unsettled_for: Duration::try_from_secs_f64(row.get("unsettled")).unwrap_or_default(),
            tenant: row.get::<_, Option<&str>>("id").map(parse),
            was_active: row.get("was_active"),
            branch: row
                .get::<_, Option<&str>>("parent_id")
                .map(|parent| Wanted {
                    parent: parse(parent),
                    schema_only: row.get("schema_only"),
                    left: Duration::try_from_secs_f64(row.get("time_left")).unwrap_or_default(),
                    source: row.get::<_, Option<&str>>("source_pid").map(parse),
                }),
            restore: row
                .get::<_, Option<f64>>("restore_left")
                .map(|left| Duration::try_from_secs_f64(left).unwrap_or_default()),
            is_drill: row.get("is_drill"),
        }
    }

    /// What its database begins as.
    pub(crate) fn origin(&self) -> Origin {
        match (&self.restore, &self.branch) {
            (_, _) if self.is_drill => Origin::Backup,
            (Some(_), _) => Origin::Backup,
            (None, Some(_)) => Origin::Parent,
            (None, None) => Origin::Template,
        }
    }
}

/// What a placement that is worked on is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// An entry of the pool.
    Pool,
    /// A branch that is being copied, or a database that is being restored, be it in a drill.
    Copy,
    /// Any other.
    Other,
}

/// How many of them may be begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Together.
    pub(crate) all: usize,
    pub(crate) pool: usize,
    pub(crate) copies: usize,
}

/// Branches on their way to a copy of their parent's data, and databases on their way to a backup's, be it a drill.
const COPIES: &str = "SELECT pid FROM placement WHERE owner = 'drill' UNION ALL
    SELECT p.pid FROM placement p JOIN tenant t ON t.pid = p.pid
    WHERE (EXISTS (SELECT FROM branch b WHERE b.tenant_id = t.id)
            OR EXISTS (SELECT FROM restore r WHERE r.tenant_id = t.id AND r.state = 'filling'))
        AND p.owner = 'tenant' AND p.stage IN ('planned', 'logins', 'copied')
        AND t.state IN ('CREATING', 'CLONING')";

/// Leases placements that are due, those of tenants first, and no more than there is room for.
pub(crate) async fn take_due(
    client: &impl GenericClient,
    instance: &str,
    lease: Duration,
    room: Room,
) -> Result<Vec<(Pid, Kind)>, CatalogError> {
    let bound = |count| i64::try_from(count).unwrap_or(i64::MAX);
    let sql = format!(
        "UPDATE placement SET leased_by = $1, leased_until = now() + make_interval(secs => $2)
         WHERE pid IN (
             SELECT pid FROM placement
             WHERE due_at <= now() AND (leased_until IS NULL OR leased_until < now())
                 AND (owner <> 'pool' OR pid IN (
                     SELECT pid FROM placement
                     WHERE due_at <= now() AND (leased_until IS NULL OR leased_until < now())
                         AND owner = 'pool'
                     ORDER BY due_at LIMIT $4))
                 AND (pid NOT IN ({COPIES}) OR pid IN (
                     SELECT pid FROM placement
                     WHERE due_at <= now() AND (leased_until IS NULL OR leased_until < now())
                         AND pid IN ({COPIES})
                     ORDER BY due_at LIMIT $5))
             ORDER BY owner = 'tenant' DESC, due_at LIMIT $3 FOR UPDATE SKIP LOCKED)
         RETURNING pid, owner = 'pool', pid IN ({COPIES})"
    );
    let rows = catalog::query(
        client,
        &sql,
        &[
            &instance,
            &lease.as_secs_f64(),
            &bound(room.all),
            &bound(room.pool),
            &bound(room.copies),
        ],
    )
    .await?;
    Ok(rows
        .iter()
        .map(|row| {
            let kind = match (row.get(1), row.get(2)) {
                (true, _) => Kind::Pool,
                (false, true) => Kind::Copy,
                (false, false) => Kind::Other,
            };
            (parse(row.get(0)), kind)
        })
        .collect())
}

/// Holds a lease for longer.
pub(crate) async fn renew(
    client: &impl GenericClient,
    pid: &Pid,
    instance: &str,
    lease: Duration,
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "UPDATE placement SET leased_until = now() + make_interval(secs => $3)
         WHERE pid = $1 AND leased_by = $2",
        &[&pid.as_str(), &instance, &lease.as_secs_f64()],
    )
    .await?;
    Ok(())
}

/// How long until the next placement is due; `None` when none ever is. Without `pool` or `copies`, what
/// there is of those that is due already does not count: it is held back.
pub(crate) async fn next_due(
    client: &impl GenericClient,
    pool: bool,
    copies: bool,
) -> Result<Option<Duration>, CatalogError> {
    let sql = format!(
        "SELECT extract(epoch FROM min(greatest(due_at, leased_until)) - now())::float8
         FROM placement
         WHERE due_at IS NOT NULL AND ($1 OR owner <> 'pool' OR due_at > now())
             AND ($2 OR due_at > now() OR pid NOT IN ({COPIES}))"
    );
    let row = catalog::query_one(client, &sql, &[&pool, &copies]).await?;
    let seconds: Option<f64> = row.get(0);
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

/// Gives up the leases held in this name but for those of `driven`: a former process's, or ours
/// that no task of ours knows of.
pub(crate) async fn release_leases(
    client: &impl GenericClient,
    instance: &str,
    driven: &[&str],
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "UPDATE placement SET leased_by = NULL, leased_until = NULL, due_at = now()
         WHERE leased_by = $1 AND pid <> ALL($2)",
        &[&instance, &driven],
    )
    .await?;
    Ok(())
}

/// Reads one placement again.
pub(crate) async fn read(
    client: &impl GenericClient,
    pid: &Pid,
) -> Result<Option<Work>, CatalogError> {
    let sql = format!("{WORK} WHERE p.pid = $1");
    let row = catalog::query_opt(client, &sql, &[&pid.as_str()]).await?;
    Ok(row.as_ref().map(Work::read))
}

/// Plans so many new placements for the pool: the next pass begins to make them.
pub(crate) async fn plan_pool(
    client: &impl GenericClient,
    node: &str,
    count: u32,
) -> Result<(), CatalogError> {
    let pids: Vec<Pid> = (0..count).map(|_| Pid::random(&mut rand::rng())).collect();
    let pids: Vec<&str> = pids.iter().map(Pid::as_str).collect();
    let sql =
        "INSERT INTO placement (pid, node, owner) SELECT unnest($1::text[]), $2::text, 'pool'";
    catalog::execute(client, sql, &[&pids, &node]).await?;
    Ok(())
}

/// What the pool holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PoolSize {
    /// Can be claimed now.
    pub(crate) ready: u32,
    /// Ready or on their way.
    pub(crate) all: u32,
}

pub(crate) async fn pool_size(
    client: &impl GenericClient,
    node: &str,
) -> Result<PoolSize, CatalogError> {
    let row = catalog::query_one(
        client,
        "SELECT count(*) FILTER (WHERE stage = 'open'), count(*)
         FROM placement WHERE owner = 'pool' AND node = $1",
        &[&node],
    )
    .await?;
    let count = |index| u32::try_from(row.get::<_, i64>(index)).unwrap_or(u32::MAX);
    Ok(PoolSize {
        ready: count(0),
        all: count(1),
    })
}

/// Placements that are not where they should be.
pub(crate) async fn count_unsettled(client: &impl GenericClient) -> Result<u64, CatalogError> {
    let sql = "SELECT count(*) FROM placement WHERE due_at IS NOT NULL";
    let row = catalog::query_one(client, sql, &[]).await?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

/// The pool's entries that count as complete.
pub(crate) async fn pool_entries(
    client: &impl GenericClient,
    node: &str,
) -> Result<Vec<Pid>, CatalogError> {
    let rows = catalog::query(
        client,
        "SELECT pid FROM placement WHERE owner = 'pool' AND stage = 'open' AND node = $1",
        &[&node],
    )
    .await?;
    Ok(rows.iter().map(|row| parse(row.get(0))).collect())
}

/// Gives pool entries up: passes remove them.
pub(crate) async fn abandon(
    client: &impl GenericClient,
    pids: &[&str],
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "UPDATE placement SET owner = 'nobody', version = version + 1, due_at = now(),
             attempts = 0, unsettled_since = now()
         WHERE pid = ANY($1) AND owner = 'pool'",
        &[&pids],
    )
    .await?;
    Ok(())
}

/// Has every complete pool entry opened again before it is claimed.
pub(crate) async fn reopen_pool(
    client: &impl GenericClient,
    node: &str,
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "UPDATE placement SET stage = 'opening', version = version + 1, due_at = now()
         WHERE owner = 'pool' AND stage = 'open' AND node = $1",
        &[&node],
    )
    .await?;
    Ok(())
}

/// Says that somebody wants something else of a placement. Part of every transaction that changes
/// its tenant's state.
pub(crate) async fn touch(client: &impl GenericClient, pid: &Pid) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "UPDATE placement SET version = version + 1, due_at = now(), attempts = 0,
             unsettled_since = coalesce(unsettled_since, now())
         WHERE pid = $1",
        &[&pid.as_str()],
    )
    .await?;
    Ok(())
}

/// Writes down how far a placement got.
pub(crate) async fn set_stage(
    client: &impl GenericClient,
    pid: &Pid,
    stage: Stage,
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "UPDATE placement SET stage = $2, attempts = 0, last_error = NULL WHERE pid = $1",
        &[&pid.as_str(), &stage.as_str()],
    )
    .await?;
    Ok(())
}

/// Copying begins, and the tenant says so.
pub(crate) async fn begin_copy(
    transaction: &Transaction<'_>,
    pid: &Pid,
    stage: Stage,
) -> Result<Option<Change>, CatalogError> {
    reached_stage(transaction, pid, stage, TenantEvent::CopyBegun).await
}

/// The stage after closing: what was never open stays what it was.
pub(crate) fn closed(stage: Stage) -> Stage {
    match stage {
        Stage::Opening | Stage::Open => Stage::Closed,
        Stage::Planned
        | Stage::Logins
        | Stage::Copied
        | Stage::Closed
        | Stage::Dropping
        | Stage::Dropped => stage,
    }
}

/// The tenant that a placement is for, held until the transaction ends.
async fn lock_tenant(
    transaction: &Transaction<'_>,
    pid: &Pid,
) -> Result<Option<(TenantId, TenantState)>, CatalogError> {
    let sql = "SELECT id, state FROM tenant WHERE pid = $1 FOR UPDATE";
    let row = catalog::query_opt(transaction, sql, &[&pid.as_str()]).await?;
    Ok(row.map(|row| {
        let state = TenantState::parse(row.get(1)).expect("the schema allows known states only");
        (parse(row.get(0)), state)
    }))
}

/// Writes down the stage, and tells the tenant, if there is one and it cares.
pub(crate) async fn reached_stage(
    transaction: &Transaction<'_>,
    pid: &Pid,
    stage: Stage,
    event: TenantEvent,
) -> Result<Option<Change>, CatalogError> {
    let tenant = lock_tenant(transaction, pid).await?;
    set_stage(transaction, pid, stage).await?;
    let Some((id, state)) = tenant else {
        return Ok(None);
    };
    // A tenant that moved on meanwhile is not interested; the next step follows where it is now.
    let Ok(next) = state.after(event) else {
        return Ok(None);
    };
    set_tenant_state(transaction, &id, next, None).await?;
    if event == TenantEvent::Provisioned {
        branches::end_reset(transaction, &id).await?;
        restores::end(transaction, &id, true).await?;
    }
    changes::mark(transaction, &id).await.map(Some)
}

/// Sets a tenant's state. The caller holds its row, and asked [`TenantState::after`].
pub(crate) async fn set_tenant_state(
    client: &impl GenericClient,
    id: &TenantId,
    state: TenantState,
    reason: Option<&str>,
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "UPDATE tenant SET state = $2, state_reason = $3,
             activated_at = CASE WHEN $2 = 'ACTIVE' THEN coalesce(activated_at, now())
                 ELSE activated_at END
         WHERE id = $1",
        &[&id.as_str(), &state.as_str(), &reason],
    )
    .await?;
    Ok(())
}

/// Begins the removal of data, if it is still wanted. False: somebody took the delete back.
pub(crate) async fn begin_drop(
    transaction: &Transaction<'_>,
    pid: &Pid,
) -> Result<bool, CatalogError> {
    lock_tenant(transaction, pid).await?;
    let begun = catalog::execute(
        transaction,
        "UPDATE placement p SET stage = 'dropping', attempts = 0
         WHERE pid = $1 AND (owner = 'nobody' OR EXISTS (
             SELECT 1 FROM tenant t
             WHERE t.pid = p.pid AND t.state = 'DISABLED' AND t.purge_after <= now()))",
        &[&pid.as_str()],
    )
    .await?;
    Ok(begun == 1)
}

/// Forgets a placement whose data and logins are gone, and its tenant. Whoever knows a route to that
/// tenant has to hear that there is none any more.
pub(crate) async fn forget(
    client: &impl GenericClient,
    pid: &Pid,
) -> Result<Option<Change>, CatalogError> {
    let pid = pid.as_str();
    // What a reset that never ended had left goes, too.
    let sql = "SELECT id FROM tenant WHERE pid = $1";
    if let Some(row) = catalog::query_opt(client, sql, &[&pid]).await? {
        branches::end_reset(client, &parse(row.get(0))).await?;
        restores::end(client, &parse(row.get(0)), false).await?;
    }
    let sql = "DELETE FROM tenant WHERE pid = $1 RETURNING id, nextval('change_generation')";
    let gone = catalog::query_opt(client, sql, &[&pid]).await?;
    catalog::execute(client, "DELETE FROM placement WHERE pid = $1", &[&pid]).await?;
    Ok(gone.map(|row| changes::read(&row)))
}

/// Rests, unless somebody asked for something else meanwhile. A deleted tenant's placement is
/// looked at again when its retention ends. Returns whether it rests.
pub(crate) async fn settle(
    client: &impl GenericClient,
    pid: &Pid,
    version: i64,
) -> Result<bool, CatalogError> {
    let settled = catalog::execute(
        client,
        "UPDATE placement SET attempts = 0, unsettled_since = NULL, last_error = NULL,
             leased_by = NULL, leased_until = NULL,
             due_at = (SELECT purge_after FROM tenant t
                 WHERE t.pid = placement.pid AND t.state = 'DISABLED')
         WHERE pid = $1 AND version = $2",
        &[&pid.as_str(), &version],
    )
    .await?;
    Ok(settled == 1)
}

/// A step failed: try again after `wait`.
pub(crate) async fn fail(
    client: &impl GenericClient,
    pid: &Pid,
    error: &str,
    wait: Duration,
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "UPDATE placement SET attempts = attempts + 1, last_error = $2,
             due_at = now() + make_interval(secs => $3),
             unsettled_since = coalesce(unsettled_since, now()),
             leased_by = NULL, leased_until = NULL
         WHERE pid = $1",
        &[&pid.as_str(), &error, &wait.as_secs_f64()],
    )
    .await?;
    Ok(())
}

/// A tenant could not be made: it fails, with a reason for its user. A branch that was being reset has
/// again what it had.
pub(crate) async fn fail_tenant(
    transaction: &Transaction<'_>,
    pid: &Pid,
    reason: &str,
) -> Result<Option<Change>, CatalogError> {
    let Some((id, state)) = lock_tenant(transaction, pid).await? else {
        return Ok(None);
    };
    let Ok(next) = state.after(TenantEvent::ProvisionFailed) else {
        return Ok(None);
    };
    if let Ok(as_before) = state.after(TenantEvent::ResetFailed)
        && branches::take_back_reset(transaction, &id).await?
    {
        let reason = format!("the reset failed, and the branch is as it was: {reason}");
        set_tenant_state(transaction, &id, as_before, Some(&reason)).await?;
    } else if let Ok(as_before) = state.after(TenantEvent::ResetFailed)
        && restores::take_back(transaction, &id, reason).await?
    {
        let reason = format!("the restore failed, and the database is as it was: {reason}");
        set_tenant_state(transaction, &id, as_before, Some(&reason)).await?;
    } else {
        set_tenant_state(transaction, &id, next, Some(reason)).await?;
    }
    touch(transaction, pid).await?;
    changes::mark(transaction, &id).await.map(Some)
}

/// Notes why a tenant that is being closed is not closed yet; the next state takes it away.
pub(crate) async fn note_delay(
    client: &impl GenericClient,
    pid: &Pid,
    reason: &str,
) -> Result<(), CatalogError> {
    let sql = "UPDATE tenant SET state_reason = $2 WHERE pid = $1 AND state = 'DISABLING'";
    catalog::execute(client, sql, &[&pid.as_str(), &reason]).await?;
    Ok(())
}

/// Whether tenant `t`, with its branch `b` if it is one, is on its way for longer than it may be: more
/// than `$1` seconds, or, while it is a branch to be copied, more than the time that was asked for.
const IS_OVERDUE: &str = "(t.state_since < now() - make_interval(secs => $1::float8)
    OR (t.state IN ('CREATING', 'CLONING') AND b.begun_at + make_interval(secs => b.time_max_s) < now()))";

/// Tenants that have been on their way for longer than `bound`, or than a branch was to take; at most
/// `limit`, and first those about which most likely something is to be done.
///
/// A branch is late when its own time is over, in which its wait in the queue is counted; everything else
/// after twice `bound`, of which it was driven on for one.
pub(crate) async fn under_way(
    client: &impl GenericClient,
    bound: Duration,
    limit: i64,
) -> Result<Vec<UnderWay>, CatalogError> {
    let sql = format!(
        "SELECT t.id, t.pid, t.state, p.stage, b.tenant_id IS NOT NULL AS is_branch,
                p.due_at IS NULL AS forgotten,
                coalesce(p.leased_until > now(), false) AS leased,
                coalesce(r.begun_at + make_interval(secs => r.time_max_s) < now(),
                    b.begun_at + make_interval(secs => b.time_max_s) < now(),
                    t.state_since < now() - make_interval(secs => 2 * $1::float8)
                        AND p.unsettled_since < now() - make_interval(secs => $1::float8),
                    false) AS late
         FROM tenant t JOIN placement p ON p.pid = t.pid LEFT JOIN branch b ON b.tenant_id = t.id
             LEFT JOIN restore r ON r.tenant_id = t.id AND r.state = 'filling'
         WHERE t.state IN ('CREATING', 'CLONING', 'DISABLING') AND {IS_OVERDUE}
         ORDER BY leased, forgotten DESC, late DESC, t.state_since LIMIT $2"
    );
    let rows = catalog::query(client, &sql, &[&bound.as_secs_f64(), &limit]).await?;
    Ok(rows
        .iter()
        .map(|row| UnderWay {
            tenant: parse(row.get("id")),
            pid: parse(row.get("pid")),
            state: TenantState::parse(row.get("state"))
                .expect("the schema allows known states only"),
            stage: Stage::parse(row.get("stage")).expect("the schema allows known stages only"),
            is_branch: row.get("is_branch"),
            care: match (row.get("leased"), row.get("forgotten")) {
                (true, _) => Care::Working,
                (false, true) => Care::Nobody,
                (false, false) => Care::Due,
            },
            is_late: row.get("late"),
        })
        .collect())
}

/// Whether a tenant is still on its way for longer than it may be, as [`under_way`] says, now that its row
/// is held.
pub(crate) async fn is_still_under_way(
    transaction: &Transaction<'_>,
    tenant: &TenantId,
    bound: Duration,
) -> Result<bool, CatalogError> {
    let sql = format!(
        "SELECT FROM tenant t LEFT JOIN branch b ON b.tenant_id = t.id
         WHERE t.id = $2 AND {IS_OVERDUE} FOR UPDATE OF t"
    );
    let row =
        catalog::query_opt(transaction, &sql, &[&bound.as_secs_f64(), &tenant.as_str()]).await?;
    Ok(row.is_some())
}

/// How a placement should be found on its node.
pub(crate) struct Should {
    pub(crate) pid: Pid,
    pub(crate) stage: Stage,
    pub(crate) is_settled: bool,
    /// It is what a restore replaces, and that is backed up first: whoever reads it is let in for that.
    pub(crate) is_backed_up: bool,
}

/// What should be on the node, for the checker.
pub(crate) async fn expected(
    client: &impl GenericClient,
    node: &str,
) -> Result<Vec<Should>, CatalogError> {
    let rows = catalog::query(
        client,
        "SELECT p.pid, p.stage, p.unsettled_since IS NULL, EXISTS (
             SELECT FROM restore r JOIN backup b ON b.id = r.safety_id
             WHERE r.previous_pid = p.pid AND r.state = 'filling' AND b.state = 'running')
         FROM placement p WHERE p.node = $1",
        &[&node],
    )
    .await?;
    Ok(rows
        .iter()
        .map(|row| Should {
            pid: parse(row.get(0)),
            stage: Stage::parse(row.get(1)).expect("the schema allows known stages only"),
            is_settled: row.get(2),
            is_backed_up: row.get(3),
        })
        .collect())
}
