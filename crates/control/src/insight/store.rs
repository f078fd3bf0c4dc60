//! Rows of what was counted.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Object};
use model::{
    ProcessId, TenantId,
    insight::{Counts, Pools, TenantCounts},
};

use super::{
    Made,
    window::{DAY, DAYS, GRAINS, Slot},
};
use crate::{
    catalog::{self, CatalogError},
    storage::store::Size,
};

/// Hours of which is kept how long making databases took: a day, and room to write the next one.
const MADE_PLACES: i64 = 26;

/// Adds to the slots of now what was counted of tenants, all or nothing of it. Tenants that are gone are
/// left out. A crash of the catalog's server may lose the last ones: nothing else depends on them.
pub(super) async fn add(
    client: &mut Object,
    counted: &[(TenantId, Counts)],
) -> Result<(), CatalogError> {
    let tenants: Vec<&str> = counted.iter().map(|(tenant, _)| tenant.as_str()).collect();
    let counts: Vec<String> = counted.iter().map(|(_, counts)| array(counts)).collect();
    let grains: Vec<i16> = GRAINS.iter().map(|grain| grain.id).collect();
    let seconds: Vec<i64> = GRAINS.iter().map(|grain| grain.seconds).collect();
    let places: Vec<i64> = GRAINS.iter().map(|grain| grain.places).collect();
    let transaction = client.transaction().await?;
    let fast = "SELECT set_config('synchronous_commit', 'off', true)";
    catalog::query_one(&transaction, fast, &[]).await?;
    // In one order, whoever writes: two that do it at once wait for each other, and never both.
    let sql = "INSERT INTO insight_tenant AS own (tenant_id, counts)
        SELECT t.id, c.counts::bigint[]
        FROM unnest($1::text[], $2::text[]) AS c (id, counts) JOIN tenant t ON t.id = c.id
        ORDER BY t.id
        ON CONFLICT (tenant_id) DO UPDATE SET active_at = now(), has_slots = true,
            counts = insight_sum(own.counts, excluded.counts)";
    catalog::execute(&transaction, sql, &[&tenants, &counts]).await?;
    let sql = "INSERT INTO insight_slot AS own (tenant_id, grain, place, slot, counts)
        SELECT t.id, g.id, now.slot % g.places, now.slot, c.counts::bigint[]
        FROM unnest($1::text[], $2::text[]) AS c (id, counts) JOIN tenant t ON t.id = c.id
        CROSS JOIN unnest($3::smallint[], $4::bigint[], $5::bigint[]) AS g (id, seconds, places)
        CROSS JOIN LATERAL (SELECT floor(extract(epoch FROM now()) / g.seconds)::bigint AS slot) AS now
        ORDER BY t.id, g.id
        ON CONFLICT (tenant_id, grain, place) DO UPDATE SET slot = excluded.slot,
            counts = CASE WHEN own.slot = excluded.slot
                THEN insight_sum(own.counts, excluded.counts) ELSE excluded.counts END";
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&tenants, &counts, &grains, &seconds, &places];
    catalog::execute(&transaction, sql, values).await?;
    let sql = "INSERT INTO insight_day AS own (tenant_id, place, slot, counts)
        SELECT t.id, now.slot % $4, now.slot, c.counts::bigint[]
        FROM unnest($1::text[], $2::text[]) AS c (id, counts) JOIN tenant t ON t.id = c.id
        CROSS JOIN (SELECT floor(extract(epoch FROM now()) / $3::bigint)::bigint AS slot) AS now
        ORDER BY t.id
        ON CONFLICT (tenant_id, place) DO UPDATE SET slot = excluded.slot,
            counts = CASE WHEN own.slot = excluded.slot
                THEN insight_sum(own.counts, excluded.counts) ELSE excluded.counts END";
    catalog::execute(&transaction, sql, &[&tenants, &counts, &DAY, &DAYS]).await?;
    Ok(transaction.commit().await?)
}

/// As PostgreSQL writes an array.
fn array(counts: &Counts) -> String {
    let numbers = counts.numbers().map(|number| signed(number).to_string());
    format!("{{{}}}", numbers.join(","))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn counts_of(numbers: &[i64]) -> Counts {
    let numbers: Vec<u64> = numbers.iter().map(|number| number.unsigned_abs()).collect();
    Counts::of(&numbers)
}

/// What is kept of a tenant.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) slots: Vec<Slot>,
    /// Of the last days, and older ones.
    pub(super) days: Vec<Slot>,
    /// By the clock of the catalog, seconds since 1970.
    pub(super) now: f64,
    pub(super) active_at: Option<DateTime<Utc>>,
    /// As it was measured in its turn.
    pub(super) size: Option<Size>,
    /// At other processes.
    pub(super) clients: u32,
    pub(super) servers: u32,
}

/// All of it.
pub(super) async fn read(
    client: &impl GenericClient,
    tenant: &TenantId,
    own: &ProcessId,
) -> Result<Kept, CatalogError> {
    let sql = "SELECT extract(epoch FROM now())::float8,
            (SELECT active_at FROM insight_tenant WHERE tenant_id = $1),
            elsewhere.clients, elsewhere.servers, size.storage_bytes, size.storage_measured_at
        FROM (SELECT coalesce(sum(c.clients), 0)::bigint AS clients, coalesce(sum(c.servers), 0)::bigint AS servers
            FROM insight_client c JOIN process p ON p.id = c.process_id
            WHERE c.tenant_id = $1 AND c.process_id <> $2 AND p.alive_until > now()) elsewhere
        LEFT JOIN (SELECT p.storage_bytes, p.storage_measured_at
            FROM tenant t JOIN placement p ON p.pid = t.pid WHERE t.id = $1) size ON true";
    let row = catalog::query_one(client, sql, &[&tenant.as_str(), &own.as_str()]).await?;
    let number = |column| u32::try_from(row.get::<_, i64>(column)).unwrap_or(u32::MAX);
    let sql = "SELECT grain, slot, counts FROM insight_slot WHERE tenant_id = $1";
    let slots = catalog::query(client, sql, &[&tenant.as_str()]).await?;
    let sql = "SELECT 4::smallint, slot, counts FROM insight_day WHERE tenant_id = $1";
    let days = catalog::query(client, sql, &[&tenant.as_str()]).await?;
    let slot = |row: &tokio_postgres::Row| Slot {
        grain: row.get(0),
        slot: row.get(1),
        counts: counts_of(&row.get::<_, Vec<i64>>(2)),
    };
    Ok(Kept {
        slots: slots.iter().map(slot).collect(),
        days: days.iter().map(slot).collect(),
        now: row.get(0),
        active_at: row.get(1),
        size: Size::of(&row, 4),
        clients: number(2),
        servers: number(3),
    })
}

/// What tenants did in the last so many minutes, the one that has begun among them. Those that did nothing are not
/// there.
pub(crate) async fn recent(
    client: &impl GenericClient,
    tenants: &[&str],
    minutes: i64,
) -> Result<HashMap<TenantId, Counts>, CatalogError> {
    let [_, minute, _] = GRAINS;
    let sql = "SELECT tenant_id, counts FROM insight_slot WHERE tenant_id = ANY ($1) AND grain = $2
        AND slot > floor(extract(epoch FROM now())::float8 / $3)::bigint - $4";
    let seconds = minute.seconds as f64;
    let rows = catalog::query(client, sql, &[&tenants, &minute.id, &seconds, &minutes]).await?;
    let mut all = HashMap::<TenantId, Counts>::new();
    for row in rows {
        let counts = counts_of(&row.get::<_, Vec<i64>>(1));
        all.entry(catalog::parse(row.get(0)))
            .or_default()
            .add(&counts);
    }
    Ok(all)
}

/// Says who is connected at a process, of those where that has changed.
pub(super) async fn connect(
    client: &impl GenericClient,
    own: &ProcessId,
    connected: &[TenantCounts],
) -> Result<(), CatalogError> {
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let (some, none): (Vec<_>, Vec<_>) = connected
        .iter()
        .partition(|own| own.clients > 0 || own.servers > 0);
    let ids = |all: &[&TenantCounts]| {
        let ids = all.iter().map(|own| own.tenant.to_string());
        ids.collect::<Vec<_>>()
    };
    if !some.is_empty() {
        let clients: Vec<i32> = some.iter().map(|own| number(own.clients)).collect();
        let servers: Vec<i32> = some.iter().map(|own| number(own.servers)).collect();
        let sql = "INSERT INTO insight_client (process_id, tenant_id, clients, servers)
            SELECT p.id, t.id, c.clients, c.servers
            FROM unnest($2::text[], $3::integer[], $4::integer[]) AS c (id, clients, servers)
            JOIN tenant t ON t.id = c.id JOIN process p ON p.id = $1
            ON CONFLICT (process_id, tenant_id) DO UPDATE
                SET clients = excluded.clients, servers = excluded.servers";
        let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&own.as_str(), &ids(&some), &clients, &servers];
        catalog::execute(client, sql, values).await?;
    }
    if !none.is_empty() {
        let sql = "DELETE FROM insight_client WHERE process_id = $1 AND tenant_id = ANY ($2)";
        catalog::execute(client, sql, &[&own.as_str(), &ids(&none)]).await?;
    }
    Ok(())
}

/// Nobody else is connected there.
pub(super) async fn connect_only(
    client: &impl GenericClient,
    own: &ProcessId,
    tenants: &[&str],
) -> Result<(), CatalogError> {
    let sql = "DELETE FROM insight_client WHERE process_id = $1 AND tenant_id <> ALL ($2)";
    catalog::execute(client, sql, &[&own.as_str(), &tenants]).await?;
    Ok(())
}

/// Says what this process's pools have.
pub(super) async fn pools(
    client: &impl GenericClient,
    own: &ProcessId,
    pools: Pools,
) -> Result<(), CatalogError> {
    let sql = "INSERT INTO insight_process (process_id, servers, idle)
        SELECT id, $2, $3 FROM process WHERE id = $1
        ON CONFLICT (process_id) DO UPDATE SET servers = excluded.servers, idle = excluded.idle";
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&own.as_str(), &signed(pools.servers), &signed(pools.idle)];
    catalog::execute(client, sql, values).await?;
    Ok(())
}

/// What those of other processes have together, that are there.
pub(super) async fn pools_elsewhere(
    client: &impl GenericClient,
    own: &ProcessId,
) -> Result<Pools, CatalogError> {
    let sql = "SELECT coalesce(sum(i.servers), 0)::bigint, coalesce(sum(i.idle), 0)::bigint
        FROM insight_process i JOIN process p ON p.id = i.process_id
        WHERE p.id <> $1 AND p.alive_until > now()";
    let row = catalog::query_one(client, sql, &[&own.as_str()]).await?;
    Ok(Pools {
        servers: row.get::<_, i64>(0).unsigned_abs(),
        idle: row.get::<_, i64>(1).unsigned_abs(),
    })
}

/// Server connections that all processes may have on a node; `None`: nobody has asked for any.
pub(super) async fn budget(
    client: &impl GenericClient,
    node: &str,
) -> Result<Option<u64>, CatalogError> {
    let sql =
        "SELECT min(l.budget)::bigint FROM budget_lease l JOIN process p ON p.id = l.process_id
        WHERE l.node = $1 AND p.alive_until > now()";
    let row = catalog::query_one(client, sql, &[&node]).await?;
    Ok(row.get::<_, Option<i64>>(0).map(i64::unsigned_abs))
}

/// Adds to the hour of now how long making databases took.
pub(super) async fn add_made(client: &impl GenericClient, made: &Made) -> Result<(), CatalogError> {
    let sql = "INSERT INTO insight_made AS own (place, slot, counts)
        SELECT slot % $2, slot, $1::text::bigint[]
        FROM (SELECT floor(extract(epoch FROM now()) / 3600)::bigint AS slot) AS now
        ON CONFLICT (place) DO UPDATE SET slot = excluded.slot,
            counts = CASE WHEN own.slot = excluded.slot
                THEN insight_sum(own.counts, excluded.counts) ELSE excluded.counts END";
    let numbers = std::iter::once(&made.sum_us).chain(&made.times);
    let numbers: Vec<_> = numbers.map(|number| signed(*number).to_string()).collect();
    let numbers = format!("{{{}}}", numbers.join(","));
    catalog::execute(client, sql, &[&numbers, &MADE_PLACES]).await?;
    Ok(())
}

/// The same of the last day, to the hour.
pub(super) async fn made(client: &impl GenericClient) -> Result<Made, CatalogError> {
    let sql = "SELECT counts FROM insight_made
        WHERE slot > floor(extract(epoch FROM now()) / 3600)::bigint - 24";
    let mut all = Made::default();
    for row in catalog::query(client, sql, &[]).await? {
        let numbers: Vec<i64> = row.get(0);
        let at = |place: usize| numbers.get(place).map_or(0, |number| number.unsigned_abs());
        all.add(&Made {
            sum_us: at(0),
            times: std::array::from_fn(|place| at(1 + place)),
        });
    }
    Ok(all)
}

/// Removes slots of tenants that were last in use before any window began.
pub(super) async fn sweep(client: &impl GenericClient, most: i64) -> Result<(), CatalogError> {
    let sql = "WITH old AS (
            UPDATE insight_tenant SET has_slots = false
            WHERE has_slots AND active_at < now() - make_interval(hours => 26) AND tenant_id IN (
                SELECT tenant_id FROM insight_tenant
                WHERE has_slots AND active_at < now() - make_interval(hours => 26) LIMIT $1)
            RETURNING tenant_id)
        DELETE FROM insight_slot s USING old WHERE s.tenant_id = old.tenant_id";
    catalog::execute(client, sql, &[&most]).await?;
    let sql = "DELETE FROM insight_day WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM insight_day
        WHERE slot < floor(extract(epoch FROM now()) / $2::bigint)::bigint - $3 LIMIT $1))";
    catalog::execute(client, sql, &[&most, &DAY, &DAYS]).await?;
    Ok(())
}
