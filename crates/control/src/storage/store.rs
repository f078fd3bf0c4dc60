//! Rows of what was measured.

use deadpool_postgres::GenericClient;
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

/// What a tenant's database took when it was measured last.
pub(crate) async fn bytes(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Option<u64>, CatalogError> {
    let sql = "SELECT p.storage_bytes, p.storage_full_bytes
        FROM tenant t JOIN placement p ON p.pid = t.pid WHERE t.id = $1";
    let row = catalog::query_opt(client, sql, &[&tenant.as_str()]).await?;
    Ok(row.and_then(|row| Measured::of(&row, 0).bytes))
}

/// Writes down what was measured.
pub(super) async fn write(
    client: &impl GenericClient,
    pid: &Pid,
    bytes: Option<u64>,
    full_at: Option<u64>,
) -> Result<(), CatalogError> {
    let number = |value: Option<u64>| value.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    let sql = "UPDATE placement SET storage_bytes = $2, storage_full_bytes = $3,
        storage_changed_at = now() WHERE pid = $1";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&pid.as_str(), &number(bytes), &number(full_at)];
    catalog::execute(client, sql, &values).await?;
    Ok(())
}
