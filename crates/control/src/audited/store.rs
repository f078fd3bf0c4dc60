//! The tables of the audit log.

use audit::{Head, Recorded, verify::Known};
use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Transaction};

use crate::catalog::{self, CatalogError};

/// Lines of one project that the API shows: those of months, and a page of the index for each hundred.
const OF_PROJECT_MAX: i64 = 10_000;

/// How far the lines of a chain were copied.
pub(super) async fn copied(
    client: &impl GenericClient,
    chain: &str,
) -> Result<Option<u64>, CatalogError> {
    let sql = "SELECT copied_seq FROM audit_chain WHERE chain = $1";
    let row = catalog::query_opt(client, sql, &[&chain]).await?;
    Ok(row.map(|row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0)))
}

/// What a project is told of a line. `None`: nothing.
struct Row {
    seq: i64,
    at: DateTime<Utc>,
    success: bool,
    status: Option<i32>,
}

impl Row {
    fn of(line: &Recorded) -> Option<Self> {
        let kind = line.text("event")?;
        if !["answer", "also", "left", "done", "command"].contains(&kind) {
            return None;
        }
        let status = line
            .number("status")
            .and_then(|status| status.try_into().ok());
        Some(Self {
            seq: i64::try_from(line.seq).ok()?,
            at: DateTime::parse_from_rfc3339(line.text("time")?)
                .ok()?
                .to_utc(),
            success: match kind {
                "answer" => status.is_some_and(|status: i32| status < 400),
                "left" => false,
                _ => line.text("code").is_none(),
            },
            status,
        })
    }
}

/// Copies lines and says how far, all or nothing.
pub(super) async fn copy(
    transaction: &Transaction<'_>,
    chain: &str,
    lines: &[Recorded],
    until: u64,
) -> Result<(), CatalogError> {
    let sql = "INSERT INTO audit_log (chain, seq, at, project_id, tenant_id, operation, resource,
            resource_id, actor, actor_id, address, success, status, code, request_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
        ON CONFLICT (chain, seq) DO NOTHING";
    let mut projects = Vec::new();
    for line in lines {
        let Some(row) = Row::of(line) else {
            continue;
        };
        let project = line.text("project").unwrap_or_default();
        if !projects.contains(&project) {
            projects.push(project);
        }
        catalog::execute(
            transaction,
            sql,
            &[
                &chain,
                &row.seq,
                &row.at,
                &project,
                &line.text("tenant"),
                &line.text("operation").unwrap_or_default(),
                &line.text("resource").unwrap_or_default(),
                &line.text("resource_id"),
                &line.text("actor").unwrap_or_default(),
                &line.text("actor_id"),
                &line.text("address"),
                &row.success,
                &row.status,
                &line.text("code"),
                &line.text("request"),
            ],
        )
        .await?;
    }
    for project in projects {
        let sql = "DELETE FROM audit_log WHERE project_id = $1 AND id <= (
            SELECT id FROM audit_log WHERE project_id = $1 ORDER BY id DESC OFFSET $2 LIMIT 1)";
        catalog::execute(transaction, sql, &[&project, &OF_PROJECT_MAX]).await?;
    }
    let sql = "INSERT INTO audit_chain (chain, copied_seq) VALUES ($1, $2)
        ON CONFLICT (chain) DO UPDATE SET copied_seq = greatest(audit_chain.copied_seq, $2)";
    let until = i64::try_from(until).unwrap_or(i64::MAX);
    catalog::execute(transaction, sql, &[&chain, &until]).await?;
    Ok(())
}

/// Forgets copies of lines that are older than their log keeps them.
pub(super) async fn sweep(
    client: &impl GenericClient,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<(), CatalogError> {
    let sql = "DELETE FROM audit_log WHERE id IN (
        SELECT id FROM audit_log WHERE at < $1 ORDER BY at LIMIT $2)";
    catalog::execute(client, sql, &[&before, &limit]).await?;
    Ok(())
}

/// Keeps a head, instead of an older one of the same file. `oldest`: the first file that is still there.
pub(super) async fn keep_head(
    client: &impl GenericClient,
    head: &Head,
    oldest: u64,
) -> Result<(), CatalogError> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let sql = "INSERT INTO audit_head (chain, stream, segment, first_hash, seq, hash, signature)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (chain, stream, segment, first_hash) DO UPDATE
            SET seq = excluded.seq, hash = excluded.hash, signature = excluded.signature, at = now()
            WHERE audit_head.seq < excluded.seq";
    catalog::execute(
        client,
        sql,
        &[
            &head.chain,
            &head.stream.as_str(),
            &number(head.segment),
            &head.first.0.as_slice(),
            &number(head.link.seq),
            &head.link.hash.0.as_slice(),
            &head.signature.as_slice(),
        ],
    )
    .await?;
    let sql = "DELETE FROM audit_head WHERE chain = $1 AND stream = $2 AND segment < $3";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&head.chain, &head.stream.as_str(), &number(oldest)];
    catalog::execute(client, sql, &values).await?;
    Ok(())
}

/// The heads that are kept, of all data directories that share the catalog, with the time of each.
pub(super) async fn heads(
    client: &impl GenericClient,
) -> Result<Vec<(Known, DateTime<Utc>)>, CatalogError> {
    let sql = "SELECT chain, stream, segment, first_hash, seq, hash, signature, at FROM audit_head
        ORDER BY chain, stream, segment, at";
    let rows = catalog::query(client, sql, &[]).await?;
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let hash = |bytes: Vec<u8>| {
        let bytes = bytes.try_into().ok();
        audit::Hash(bytes.expect("the schema allows hashes of 32 bytes only"))
    };
    let known = rows.iter().map(|row| {
        let known = Known {
            chain: row.get(0),
            stream: catalog::parse(row.get(1)),
            segment: number(row.get(2)),
            first: hash(row.get(3)),
            link: audit::Link {
                seq: number(row.get(4)),
                hash: hash(row.get(5)),
            },
            signature: row.get(6),
        };
        (known, row.get(7))
    });
    Ok(known.collect())
}

/// Which copies somebody asks for.
pub(super) struct Filter<'a> {
    /// `None`: all.
    pub(super) project: Option<&'a str>,
    pub(super) tenant: Option<&'a str>,
    pub(super) operation: Option<&'a str>,
    pub(super) resource: Option<&'a str>,
    pub(super) success: Option<bool>,
    pub(super) limit: i64,
    pub(super) offset: i64,
}

/// The newest first.
pub(super) async fn list(
    client: &impl GenericClient,
    filter: Filter<'_>,
) -> Result<Vec<tokio_postgres::Row>, CatalogError> {
    let sql =
        "SELECT id, at, project_id, tenant_id, operation, resource, resource_id, actor, actor_id,
            address, success, status, code, request_id
        FROM audit_log
        WHERE ($1::text IS NULL OR project_id = $1) AND ($2::text IS NULL OR tenant_id = $2)
            AND ($3::text IS NULL OR operation = $3) AND ($4::text IS NULL OR resource = $4)
            AND ($5::boolean IS NULL OR success = $5)
        ORDER BY id DESC LIMIT $6 OFFSET $7";
    catalog::query(
        client,
        sql,
        &[
            &filter.project,
            &filter.tenant,
            &filter.operation,
            &filter.resource,
            &filter.success,
            &filter.limit,
            &filter.offset,
        ],
    )
    .await
}
