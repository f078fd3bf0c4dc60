//! Rows of processes, and of what they have of a node's budget.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use model::{ProcessId, route::Demand};

use super::share::{self, Claim, Others};
use crate::catalog::{self, Catalog, CatalogError};

/// A process as its row says.
pub(super) struct Identity<'a> {
    pub(super) id: &'a ProcessId,
    pub(super) instance: &'a str,
}

/// Says that a process is alive, for `life`, also when others have taken it for gone meanwhile. A crash of
/// the catalog's server may lose it: then it is said again, or others think too early that it may be
/// gone, which alone changes nothing.
pub(super) async fn heartbeat(
    client: &impl GenericClient,
    own: &Identity<'_>,
    life: Duration,
) -> Result<(), CatalogError> {
    let sql = "WITH fast AS (SELECT set_config('synchronous_commit', 'off', true))
        INSERT INTO process (id, instance, version, alive_until)
        SELECT $1, $2, $3, now() + make_interval(secs => $4) FROM fast
        ON CONFLICT (id) DO UPDATE
            SET alive_until = excluded.alive_until, absent_since = NULL";
    let version = env!("CARGO_PKG_VERSION");
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &own.id.as_str(),
        &own.instance,
        &version,
        &life.as_secs_f64(),
    ];
    catalog::execute(client, sql, values).await?;
    Ok(())
}

/// A process that may be gone.
pub(super) struct Suspect {
    pub(super) id: ProcessId,
    /// Of our own instance: it ended before we began.
    pub(super) is_former: bool,
    /// Nothing was heard of it for so long.
    pub(super) silent_for: Duration,
    /// Its session on the node was missing for so long, when somebody last looked.
    pub(super) absent_for: Option<Duration>,
}

/// Those whose time is over, and former ones of our own.
pub(super) async fn suspects(
    client: &impl GenericClient,
    own: &Identity<'_>,
) -> Result<Vec<Suspect>, CatalogError> {
    let sql = "SELECT id, instance = $2,
            extract(epoch FROM now() - alive_until)::float8,
            extract(epoch FROM now() - absent_since)::float8
        FROM process WHERE id <> $1 AND (alive_until < now() OR instance = $2)";
    let rows = catalog::query(client, sql, &[&own.id.as_str(), &own.instance]).await?;
    let time = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let suspects = rows.iter().map(|row| Suspect {
        id: catalog::parse(row.get(0)),
        is_former: row.get(1),
        silent_for: time(row.get(2)),
        absent_for: row.get::<_, Option<f64>>(3).map(time),
    });
    Ok(suspects.collect())
}

/// Notes whether the session of a suspect is on the node.
pub(super) async fn note_presence(
    client: &impl GenericClient,
    process: &ProcessId,
    is_present: bool,
) -> Result<(), CatalogError> {
    let sql = "UPDATE process SET absent_since = CASE WHEN $2 THEN NULL
            ELSE coalesce(absent_since, now()) END
        WHERE id = $1 AND alive_until < now()";
    catalog::execute(client, sql, &[&process.as_str(), &is_present]).await?;
    Ok(())
}

/// Takes what a process had, unless it was heard of again. `is_former`: it cannot be.
pub(super) async fn remove(
    client: &impl GenericClient,
    process: &ProcessId,
    is_former: bool,
) -> Result<bool, CatalogError> {
    let sql = "DELETE FROM process WHERE id = $1 AND (alive_until < now() OR $2)";
    let removed = catalog::execute(client, sql, &[&process.as_str(), &is_former]).await?;
    Ok(removed > 0)
}

/// A process's part of a node's budget, as its row says.
struct Row {
    process: String,
    budget: u32,
    claim: Claim,
    is_live: bool,
}

async fn leases(client: &impl GenericClient, node: &str) -> Result<Vec<Row>, CatalogError> {
    let sql = "SELECT l.process_id, l.budget, l.held, l.needed, p.alive_until > now()
        FROM budget_lease l JOIN process p ON p.id = l.process_id WHERE l.node = $1";
    let rows = catalog::query(client, sql, &[&node]).await?;
    let number = |value: i32| u32::try_from(value).unwrap_or_default();
    let rows = rows.iter().map(|row| Row {
        process: row.get(0),
        budget: number(row.get(1)),
        claim: Claim {
            held: number(row.get(2)),
            needed: number(row.get(3)),
        },
        is_live: row.get(4),
    });
    Ok(rows.collect())
}

/// What comes of a demand.
struct Decision {
    /// What the row shall say; `None`: what it says.
    row: Option<Claim>,
    /// Whether others can have less by it than before.
    is_more: bool,
    /// How many the process may have.
    part: u32,
}

fn decide(own: &ProcessId, demand: &Demand, leases: &[Row]) -> Decision {
    let (mine, others): (Vec<&Row>, Vec<&Row>) = leases
        .iter()
        .partition(|lease| lease.process == own.as_str());
    let live = others.iter().filter(|other| other.is_live);
    let budget = live
        .clone()
        .map(|other| other.budget)
        .fold(demand.budget, u32::min);
    let lost = others.iter().filter(|other| !other.is_live);
    let others = Others {
        live: live.map(|other| other.claim).collect(),
        lost: lost.map(|other| other.claim.held).sum(),
    };
    let claim = Claim {
        held: demand.held,
        needed: demand.needed,
    };
    let part = share::part_of(budget, claim, &others);
    let mine = mine.first();
    // What it is asked to give up it has until it says so. More than it was given it cannot have: then
    // others took it for gone, and it hears of it now.
    let elsewhere = others.lost + others.live.iter().map(|other| other.held).sum::<u32>();
    let given = mine.map_or(0, |mine| mine.claim.held);
    let most = budget.saturating_sub(elsewhere).max(given);
    let held = part.max(demand.held).min(most);
    let row = Claim { held, ..claim };
    let is_same = mine.is_some_and(|mine| mine.claim == row && mine.budget == demand.budget);
    Decision {
        row: (!is_same).then_some(row),
        is_more: mine.is_none_or(|mine| mine.claim.held < held || mine.budget != demand.budget),
        part,
    }
}

/// How many server connections of a node a process may have, by what it says.
pub(super) async fn lease(
    catalog: &Catalog,
    own: &Identity<'_>,
    demand: &Demand,
    life: Duration,
) -> Result<u32, CatalogError> {
    let mut client = catalog.get().await?;
    heartbeat(&client, own, life).await?;
    let decision = decide(own.id, demand, &leases(&client, &demand.node).await?);
    let Some(row) = decision.row else {
        return Ok(decision.part);
    };
    if !decision.is_more {
        write(&client, own, demand, row).await?;
        return Ok(decision.part);
    }
    let transaction = client.transaction().await?;
    let sql = "INSERT INTO budget (node) VALUES ($1) ON CONFLICT DO NOTHING";
    catalog::execute(&transaction, sql, &[&demand.node]).await?;
    let sql = "SELECT FROM budget WHERE node = $1 FOR UPDATE";
    catalog::query_one(&transaction, sql, &[&demand.node]).await?;
    // Others may have changed theirs before we held it.
    let decision = decide(own.id, demand, &leases(&transaction, &demand.node).await?);
    if let Some(row) = decision.row {
        write(&transaction, own, demand, row).await?;
    }
    transaction.commit().await?;
    Ok(decision.part)
}

async fn write(
    client: &impl GenericClient,
    own: &Identity<'_>,
    demand: &Demand,
    row: Claim,
) -> Result<(), CatalogError> {
    let sql = "INSERT INTO budget_lease (node, process_id, budget, held, needed)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (node, process_id) DO UPDATE
            SET budget = excluded.budget, held = excluded.held, needed = excluded.needed";
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &demand.node,
        &own.id.as_str(),
        &number(demand.budget),
        &number(row.held),
        &number(row.needed),
    ];
    catalog::execute(client, sql, values).await?;
    Ok(())
}
