//! Rows of lines.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Object};
use model::TenantId;

use super::{Part, seconds};
use crate::catalog::{self, CatalogError};

/// Rows that are removed at once because they are old, and how often in one sweep.
const REMOVED_MAX: i64 = 1_000;
const REMOVED_TIMES_MAX: usize = 100;

/// Writes parts, all or none of them, and removes the oldest lines of their tenants that are too many. Those of
/// tenants that are gone are left out; those that were written already are written once. A crash of the catalog's
/// server may lose the last ones: nothing else depends on them.
pub(super) async fn add(
    client: &mut Object,
    parts: &[&Part],
    lines_max: i64,
) -> Result<(), CatalogError> {
    let transaction = client.transaction().await?;
    let fast = "SELECT set_config('synchronous_commit', 'off', true)";
    catalog::query_one(&transaction, fast, &[]).await?;
    for part in parts {
        insert(&transaction, part).await?;
    }
    let mut tenants: Vec<&str> = parts.iter().map(|part| part.log.tenant.as_str()).collect();
    tenants.sort_unstable();
    tenants.dedup();
    let sql = "DELETE FROM statement_log WHERE id IN (
        SELECT id FROM (
            SELECT id, sum(line_count)
                OVER (PARTITION BY tenant_id ORDER BY last_at DESC, id DESC) AS upto
            FROM statement_log WHERE tenant_id = ANY ($1)) AS own
        WHERE upto > $2)";
    catalog::execute(&transaction, sql, &[&tenants, &lines_max]).await?;
    Ok(transaction.commit().await?)
}

async fn insert(client: &impl GenericClient, part: &Part) -> Result<(), CatalogError> {
    let (log, lines) = (&part.log, &part.log.lines);
    let shapes: Vec<i64> = log
        .statements
        .iter()
        .map(|(id, _)| id.cast_signed())
        .collect();
    let texts: Vec<&str> = log.statements.iter().map(|(_, text)| &**text).collect();
    let at: Vec<DateTime<Utc>> = lines.iter().map(|line| line.at.into()).collect();
    let logins: Vec<String> = lines.iter().map(|line| line.login.to_string()).collect();
    let place = |place: usize| i32::try_from(place + 1).unwrap_or(i32::MAX);
    let places: Vec<Option<i32>> = lines.iter().map(|line| line.statement.map(place)).collect();
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let took: Vec<Option<i64>> = lines.iter().map(|line| line.took_us.map(number)).collect();
    let rows: Vec<i64> = lines.iter().map(|line| number(line.rows)).collect();
    let code = |code: &[u8; 5]| String::from_utf8_lossy(code).into_owned();
    let errors: Vec<Option<String>> = lines
        .iter()
        .map(|line| line.error.as_ref().map(code))
        .collect();
    let slow: Vec<bool> = lines.iter().map(|line| line.is_slow).collect();
    let last = at.iter().max().copied().unwrap_or_else(Utc::now);
    let count = i32::try_from(lines.len()).unwrap_or(i32::MAX);
    let sql = "INSERT INTO statement_log (part, tenant_id, last_at, line_count, dropped_count, shapes, texts, at,
            logins, shape_places, took_us, row_counts, errors, are_slow)
        SELECT $1, id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14 FROM tenant WHERE id = $2
        ON CONFLICT (part) DO NOTHING";
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &part.number,
        &log.tenant.as_str(),
        &last,
        &count,
        &number(log.dropped),
        &shapes,
        &texts,
        &at,
        &logins,
        &places,
        &took,
        &rows,
        &errors,
        &slow,
    ];
    catalog::execute(client, sql, values).await?;
    Ok(())
}

/// Removes what is older than is kept, and the oldest of all that are too many.
pub(super) async fn sweep(
    client: &impl GenericClient,
    keep: Duration,
    lines_max: i64,
) -> Result<(), CatalogError> {
    let sql = "DELETE FROM statement_log WHERE id IN (
        SELECT id FROM statement_log WHERE last_at < now() - make_interval(secs => $1)
        ORDER BY last_at LIMIT $2)";
    for _ in 0..REMOVED_TIMES_MAX {
        let removed = catalog::execute(client, sql, &[&seconds(keep), &REMOVED_MAX]).await?;
        if removed < REMOVED_MAX.unsigned_abs() {
            break;
        }
    }
    let sql = "DELETE FROM statement_log WHERE id IN (
        SELECT id FROM (
            SELECT id, sum(line_count) OVER (ORDER BY last_at DESC, id DESC) AS upto FROM statement_log) AS own
        WHERE upto > $1)
        AND (SELECT sum(line_count) FROM statement_log) > $1";
    catalog::execute(client, sql, &[&lines_max]).await?;
    Ok(())
}

/// Which lines are wanted.
pub(super) struct Wanted {
    pub(super) kind: Kind,
    pub(super) since: Duration,
    /// Only those before this one.
    pub(super) before: Option<Place>,
    pub(super) most: i64,
}

/// By how they ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    All,
    Failed,
    Slow,
}

/// Where a line stands: newer ones come first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// Microseconds since 1970.
    pub(super) at_us: i64,
    pub(super) row: i64,
    pub(super) number: i64,
}

/// A line as it is kept.
pub(super) struct Kept {
    pub(super) at: DateTime<Utc>,
    pub(super) place: Place,
    pub(super) login: String,
    /// Number and text.
    pub(super) shape: Option<(u64, String)>,
    pub(super) took_us: Option<i64>,
    pub(super) rows: i64,
    pub(super) error: Option<String>,
    pub(super) is_slow: bool,
}

/// The newest of them first.
pub(super) async fn read(
    client: &impl GenericClient,
    tenant: &TenantId,
    wanted: &Wanted,
) -> Result<Vec<Kept>, CatalogError> {
    let sql = "SELECT l.at, c.id, l.number, l.login, c.shapes[l.place], c.texts[l.place], l.took_us, l.row_count,
            l.error, l.is_slow
        FROM statement_log c CROSS JOIN LATERAL
            unnest(c.at, c.logins, c.shape_places, c.took_us, c.row_counts, c.errors, c.are_slow)
            WITH ORDINALITY AS l (at, login, place, took_us, row_count, error, is_slow, number)
        WHERE c.tenant_id = $1 AND c.last_at >= now() - make_interval(secs => $2)
            AND l.at >= now() - make_interval(secs => $2)
            AND (NOT $3 OR l.error IS NOT NULL) AND (NOT $4 OR l.is_slow)
            AND ($5::timestamptz IS NULL OR (l.at, c.id, l.number) < ($5, $6, $7))
        ORDER BY l.at DESC, c.id DESC, l.number DESC LIMIT $8";
    let before = wanted.before;
    let at = before.and_then(|place| DateTime::from_timestamp_micros(place.at_us));
    let (row, number) = before.map_or((0, 0), |place| (place.row, place.number));
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[
        &tenant.as_str(),
        &seconds(wanted.since),
        &(wanted.kind == Kind::Failed),
        &(wanted.kind == Kind::Slow),
        &at,
        &row,
        &number,
        &wanted.most,
    ];
    let rows = catalog::query(client, sql, values).await?;
    Ok(rows.iter().map(kept).collect())
}

fn kept(row: &tokio_postgres::Row) -> Kept {
    let at: DateTime<Utc> = row.get(0);
    let id: Option<i64> = row.get(4);
    Kept {
        at,
        place: Place {
            at_us: at.timestamp_micros(),
            row: row.get(1),
            number: row.get(2),
        },
        login: row.get(3),
        shape: id.map(i64::cast_unsigned).zip(row.get(5)),
        took_us: row.get(6),
        rows: row.get(7),
        error: row.get(8),
        is_slow: row.get(9),
    }
}

/// Lines that ended in the same way, together.
pub(super) struct Alike {
    pub(super) error: Option<String>,
    pub(super) count: u64,
    pub(super) slow: u64,
    pub(super) oldest: DateTime<Utc>,
}

/// What lines since then are, those of which there are most first, and how many had no room.
pub(super) async fn sums(
    client: &impl GenericClient,
    tenant: &TenantId,
    since: Duration,
) -> Result<(Vec<Alike>, u64), CatalogError> {
    let sql = "SELECT l.error, count(*), count(*) FILTER (WHERE l.is_slow), min(l.at)
        FROM statement_log c CROSS JOIN LATERAL unnest(c.at, c.errors, c.are_slow) AS l (at, error, is_slow)
        WHERE c.tenant_id = $1 AND c.last_at >= now() - make_interval(secs => $2)
            AND l.at >= now() - make_interval(secs => $2)
        GROUP BY l.error ORDER BY count(*) DESC, l.error";
    let since = seconds(since);
    let rows = catalog::query(client, sql, &[&tenant.as_str(), &since]).await?;
    let number = |row: &tokio_postgres::Row, column| row.get::<_, i64>(column).unsigned_abs();
    let alike = rows.iter().map(|row| Alike {
        error: row.get(0),
        count: number(row, 1),
        slow: number(row, 2),
        oldest: row.get(3),
    });
    let sql = "SELECT coalesce(sum(dropped_count), 0)::bigint FROM statement_log
        WHERE tenant_id = $1 AND last_at >= now() - make_interval(secs => $2)";
    let dropped = catalog::query_one(client, sql, &[&tenant.as_str(), &since]).await?;
    Ok((alike.collect(), number(&dropped, 0)))
}
