//! Rows of holds, and of what processes say to them.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use model::{HoldId, Pid, ProcessId, TenantId, hold::Kept};

use crate::catalog::{self, CatalogError};

/// Channel on which processes tell each other to look: nothing is said on it, and nothing depends on it.
pub(crate) const CHANNEL: &str = "tenantry_hold";

/// What the row of a hold asks of processes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Wanted {
    Drain,
    Close,
    Return,
}

impl Wanted {
    fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Close => "close",
            Self::Return => "return",
        }
    }

    fn of(text: &str) -> Self {
        match text {
            "drain" => Self::Drain,
            "close" => Self::Close,
            "return" => Self::Return,
            other => panic!("the catalog lets no step {other} in"),
        }
    }
}

/// A hold as its row says.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: HoldId,
    pub(super) tenant: TenantId,
    pub(super) wanted: Wanted,
    /// For running transactions.
    pub(super) drain_left: Duration,
    /// Zero: nobody let go of it in time. Proxies do so by themselves, when sessions that listen do so again.
    pub(super) left: Duration,
}

/// Takes a hold. False: somebody has it. One whose time was over `rest` ago is nobody's any more.
pub(super) async fn insert(
    client: &impl GenericClient,
    id: &HoldId,
    tenant: &TenantId,
    process: &ProcessId,
    (within, life, rest): (Duration, Duration, Duration),
) -> Result<bool, CatalogError> {
    let sql = "WITH over AS (
            DELETE FROM hold
            WHERE tenant_id = $2 AND deadline < now() - make_interval(secs => $6) RETURNING id)
        INSERT INTO hold (id, tenant_id, process_id, step, drain_until, deadline)
        SELECT $1, $2, $3, 'drain', now() + make_interval(secs => $4), now() + make_interval(secs => $5)
        WHERE (SELECT count(*) FROM over) >= 0
            AND NOT EXISTS (SELECT FROM hold WHERE tenant_id = $2
                AND deadline >= now() - make_interval(secs => $6))
        ON CONFLICT (tenant_id) DO NOTHING";
    let [within, life, rest] = [within, life, rest].map(|time| time.as_secs_f64());
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &id.as_str(),
        &tenant.as_str(),
        &process.as_str(),
        &within,
        &life,
        &rest,
    ];
    Ok(catalog::execute(client, sql, values).await? > 0)
}

/// Asks the next step. False: it is over.
pub(super) async fn advance(
    client: &impl GenericClient,
    id: &HoldId,
    wanted: Wanted,
) -> Result<bool, CatalogError> {
    let sql = "UPDATE hold SET step = $2 WHERE id = $1 AND deadline > now()";
    Ok(catalog::execute(client, sql, &[&id.as_str(), &wanted.as_str()]).await? > 0)
}

/// Ends it.
pub(super) async fn remove(client: &impl GenericClient, id: &HoldId) -> Result<(), CatalogError> {
    let sql = "DELETE FROM hold WHERE id = $1";
    catalog::execute(client, sql, &[&id.as_str()]).await?;
    Ok(())
}

/// Removes rows whose time was over `rest` ago, which whoever took them would have done.
pub(super) async fn sweep(
    client: &impl GenericClient,
    rest: Duration,
) -> Result<u64, CatalogError> {
    let sql = "DELETE FROM hold WHERE deadline < now() - make_interval(secs => $1)";
    catalog::execute(client, sql, &[&rest.as_secs_f64()]).await
}

/// Keeps a hold from ending before the transaction of `client` has. False: it has ended.
pub(super) async fn confirm(
    client: &impl GenericClient,
    id: &HoldId,
) -> Result<bool, CatalogError> {
    let sql = "SELECT FROM hold WHERE id = $1 AND deadline > clock_timestamp() FOR UPDATE";
    let rows = catalog::query(client, sql, &[&id.as_str()]).await?;
    Ok(!rows.is_empty())
}

/// All, also those that nobody let go of in time, until they are removed.
pub(super) async fn all(client: &impl GenericClient) -> Result<Vec<Row>, CatalogError> {
    let sql = "SELECT id, tenant_id, step, extract(epoch FROM drain_until - now())::float8,
            extract(epoch FROM deadline - now())::float8
        FROM hold";
    let rows = catalog::query(client, sql, &[]).await?;
    let time = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let all = rows.iter().map(|row| Row {
        id: catalog::parse(row.get(0)),
        tenant: catalog::parse(row.get(1)),
        wanted: Wanted::of(row.get(2)),
        drain_left: time(row.get(3)),
        left: time(row.get(4)),
    });
    Ok(all.collect())
}

/// Says that a process has taken a step, or why it cannot. Nothing when the hold is over.
pub(super) async fn say(
    client: &impl GenericClient,
    id: &HoldId,
    process: &ProcessId,
    wanted: Wanted,
    done: &Result<(), Kept>,
) -> Result<(), CatalogError> {
    let sql = "INSERT INTO hold_word (hold_id, process_id, step, kept, may_pass)
        SELECT h.id, p.id, $3, $4, $5 FROM hold h, process p WHERE h.id = $1 AND p.id = $2
        ON CONFLICT (hold_id, process_id, step) DO UPDATE
            SET kept = excluded.kept, may_pass = excluded.may_pass";
    let kept = done.as_ref().err();
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &id.as_str(),
        &process.as_str(),
        &wanted.as_str(),
        &kept.map(|kept| kept.what.as_str()),
        &kept.is_none_or(|kept| kept.may_pass),
    ];
    catalog::execute(client, sql, values).await?;
    Ok(())
}

/// What one process said to a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Word {
    Done,
    Kept(Kept),
    /// Nothing yet.
    None,
}

/// What all processes said that may have server connections. `None`: the hold is over.
pub(super) async fn words(
    client: &impl GenericClient,
    id: &HoldId,
    wanted: Wanted,
) -> Result<Option<Vec<(ProcessId, Word)>>, CatalogError> {
    let sql = "SELECT p.id, w.process_id IS NOT NULL, w.kept, coalesce(w.may_pass, true)
        FROM hold h CROSS JOIN process p
        LEFT JOIN hold_word w ON w.hold_id = h.id AND w.process_id = p.id AND w.step = $2
        WHERE h.id = $1 AND h.deadline > now()";
    let rows = catalog::query(client, sql, &[&id.as_str(), &wanted.as_str()]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let words = rows.iter().map(|row| {
        let word = match (row.get(1), row.get(2)) {
            (false, _) => Word::None,
            (true, None) => Word::Done,
            (true, Some(what)) => Word::Kept(Kept {
                what,
                may_pass: row.get(3),
            }),
        };
        (catalog::parse(row.get(0)), word)
    });
    Ok(Some(words.collect()))
}

/// Has all processes look.
pub(super) async fn tell(client: &impl GenericClient) -> Result<(), CatalogError> {
    let sql = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')";
    catalog::execute(client, sql, &[&CHANNEL]).await?;
    Ok(())
}

/// Which database a tenant's data is in. `None`: in none.
pub(super) async fn pid(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Option<Pid>, CatalogError> {
    let sql = "SELECT pid FROM tenant WHERE id = $1 AND pid IS NOT NULL";
    let row = catalog::query_opt(client, sql, &[&tenant.as_str()]).await?;
    Ok(row.map(|row| catalog::parse(row.get(0))))
}
