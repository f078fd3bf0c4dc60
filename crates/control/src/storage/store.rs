//! Rows of what was measured.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Object};
use model::{Limits, Pid, TenantId, route::Storage};
use serde_json::Value;
use tokio_postgres::Row;

use crate::{
    catalog::{self, CatalogError},
    limits::store::from_row,
};

/// What is known of the size of a database.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Measured {
    /// As measured last.
    pub(crate) bytes: Option<u64>,
    /// As it was when it was found above its limit first.
    pub(crate) full_at: Option<u64>,
}

impl Measured {
    /// From two columns.
    pub(crate) fn of(row: &Row, first: usize) -> Self {
        let read = |column| row.get::<_, Option<i64>>(column).map(i64::unsigned_abs);
        Self {
            bytes: read(first),
            full_at: read(first + 1),
        }
    }

    /// What follows from it.
    pub(crate) fn against(self, limits: &Limits) -> Storage {
        Storage::of(limits.storage_bytes_max, self.bytes, self.full_at)
    }
}

/// A tenant with a limit, in use or not.
#[derive(Clone, Debug)]
pub(crate) struct Limited {
    pub(crate) tenant: TenantId,
    pub(crate) pid: Pid,
    pub(crate) limits: Limits,
    pub(crate) measured: Measured,
}

/// All tenants of a node that may be used and have a limit.
pub(crate) async fn limited(
    client: &impl GenericClient,
    node: &str,
) -> Result<Vec<Limited>, CatalogError> {
    let sql = "SELECT t.id, t.pid, to_json(by_operator), to_json(by_owner), p.storage_bytes, p.storage_full_bytes
        FROM (SELECT DISTINCT tenant_id FROM tenant_limits WHERE storage_bytes_max > 0) l
        JOIN tenant t ON t.id = l.tenant_id
        JOIN placement p ON p.pid = t.pid
        LEFT JOIN tenant_limits by_operator
            ON by_operator.tenant_id = t.id AND by_operator.set_by = 'operator'
        LEFT JOIN tenant_limits by_owner ON by_owner.tenant_id = t.id AND by_owner.set_by = 'owner'
        WHERE p.node = $1 AND t.state = 'ACTIVE'";
    let rows = catalog::query(client, sql, &[&node]).await?;
    let set = |row: &Row, column| {
        let json: Option<Value> = row.get(column);
        json.as_ref().map(from_row).unwrap_or_default()
    };
    Ok(rows
        .iter()
        .map(|row| Limited {
            tenant: catalog::parse(row.get(0)),
            pid: catalog::parse(row.get(1)),
            limits: Limits::of(&set(row, 2), &set(row, 3)),
            measured: Measured::of(row, 4),
        })
        .collect())
}

/// What a database took, and when that was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) measured_at: DateTime<Utc>,
}

impl Size {
    /// From two columns, of what was measured ever.
    pub(crate) fn of(row: &Row, first: usize) -> Option<Self> {
        let bytes: Option<i64> = row.get(first);
        Some(Self {
            bytes: bytes?.unsigned_abs(),
            measured_at: row.get::<_, Option<_>>(first + 1)?,
        })
    }
}

/// What a tenant's database took when it was measured last.
pub(crate) async fn size(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Option<Size>, CatalogError> {
    let sql = "SELECT p.storage_bytes, p.storage_measured_at
        FROM tenant t JOIN placement p ON p.pid = t.pid WHERE t.id = $1";
    let row = catalog::query_opt(client, sql, &[&tenant.as_str()]).await?;
    Ok(row.and_then(|row| Size::of(&row, 0)))
}

/// Databases whose turn it is to be measured, limit or not, used or not: the longest ago first.
pub(super) async fn due(
    client: &impl GenericClient,
    node: &str,
    most: i64,
) -> Result<Vec<Pid>, CatalogError> {
    let sql = "SELECT pid FROM placement
        WHERE node = $1 AND owner = 'tenant' AND stage IN ('open', 'closed') AND storage_due_at <= now()
        ORDER BY storage_due_at, pid LIMIT $2";
    let rows = catalog::query(client, sql, &[&node, &most]).await?;
    Ok(rows.iter().map(|row| catalog::parse(row.get(0))).collect())
}

/// Whether it is this process's turn; then it is nobody else's for so long.
pub(super) async fn take_turn(
    client: &impl GenericClient,
    node: &str,
    turn: Duration,
) -> Result<bool, CatalogError> {
    let sql = "INSERT INTO storage_turn AS own (node, due_at) VALUES ($1, now() + make_interval(secs => $2))
        ON CONFLICT (node) DO UPDATE SET due_at = excluded.due_at WHERE own.due_at <= now()";
    Ok(catalog::execute(client, sql, &[&node, &turn.as_secs_f64()]).await? == 1)
}

/// Writes down what was found of some, all or nothing, and that their next turn is after `rest`. Without a
/// size: what was known of it stays. A row that somebody works on is left out, and comes first next time.
pub(super) async fn looked_at(
    client: &mut Object,
    all: &[(Pid, Option<u64>)],
    rest: Duration,
) -> Result<(), CatalogError> {
    let pids: Vec<&str> = all.iter().map(|(pid, _)| pid.as_str()).collect();
    let sizes: Vec<Option<i64>> = all.iter().map(|(_, bytes)| number(*bytes)).collect();
    let transaction = client.transaction().await?;
    // Lost in a crash, it is measured again.
    let fast = "SELECT set_config('synchronous_commit', 'off', true)";
    catalog::query_one(&transaction, fast, &[]).await?;
    let sql = "UPDATE placement p SET storage_due_at = now() + make_interval(secs => $3),
            storage_bytes = coalesce(s.bytes, p.storage_bytes),
            storage_measured_at = CASE WHEN s.bytes IS NULL THEN p.storage_measured_at ELSE now() END,
            storage_changed_at = CASE WHEN s.bytes <> p.storage_bytes OR p.storage_bytes IS NULL AND s.bytes IS NOT NULL
                THEN now() ELSE p.storage_changed_at END
        FROM (SELECT own.pid, found.bytes FROM unnest($1::text[], $2::bigint[]) AS found (pid, bytes)
            JOIN placement own USING (pid) FOR UPDATE OF own SKIP LOCKED) s
        WHERE p.pid = s.pid";
    catalog::execute(&transaction, sql, &[&pids, &sizes, &rest.as_secs_f64()]).await?;
    transaction.commit().await?;
    Ok(())
}

fn number(value: Option<u64>) -> Option<i64> {
    value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}

/// Writes down what was measured. `rest`: in its turn, so that the next one is after that.
pub(super) async fn write(
    client: &impl GenericClient,
    pid: &Pid,
    measured: Measured,
    rest: Option<Duration>,
) -> Result<(), CatalogError> {
    let sql = "UPDATE placement SET storage_bytes = $2, storage_full_bytes = $3,
        storage_changed_at = now(), storage_measured_at = now(),
        storage_due_at = coalesce(now() + make_interval(secs => $4), storage_due_at) WHERE pid = $1";
    let Measured { bytes, full_at } = measured;
    let rest = rest.map(|rest| rest.as_secs_f64());
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&pid.as_str(), &number(bytes), &number(full_at), &rest];
    catalog::execute(client, sql, &values).await?;
    Ok(())
}
