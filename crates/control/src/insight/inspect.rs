//! `GET /customer/databases/{database}/inspect/{what}`: what is in a database, and who is connected to it.
//!
//! Owns: what can be asked, and in which words PostgreSQL is. Does not own: the way there (`sql`): as the
//! role that may only read, through the proxy, as its owner would do it; or sessions, which the proxy knows.

use std::{fmt::Write, sync::Arc};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use model::insight::{Connection, Question};

use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiResult, ErrorBody, ErrorCode},
        extract::{DatabaseKey, WhatKey},
    },
    sql::{self, http::SqlResult},
    tenant::http::read,
};

/// Rows of an answer. What a person looks at; who wants all asks in SQL.
const ROWS_MAX: usize = 1_000;

/// Schemas that a user made, or may use like one.
macro_rules! not_of_the_system {
    () => {
        "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
    };
}

const SCHEMAS: &str = concat!(
    "SELECT n.nspname AS schema, pg_get_userbyid(n.nspowner) AS owner,
        count(*) FILTER (WHERE c.relkind IN ('r', 'p')) AS tables,
        count(*) FILTER (WHERE c.relkind IN ('v', 'm')) AS views,
        count(*) FILTER (WHERE c.relkind = 'S') AS sequences,
        (SELECT count(*) FROM pg_proc f WHERE f.pronamespace = n.oid) AS functions,
        coalesce(sum(pg_total_relation_size(c.oid)) FILTER (WHERE c.relkind IN ('r', 'm')), 0)::bigint AS bytes
    FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid
    WHERE ",
    not_of_the_system!(),
    " GROUP BY n.oid, n.nspname, n.nspowner ORDER BY n.nspname LIMIT 1000"
);
const TABLES: &str = concat!(
    "SELECT n.nspname AS schema, c.relname AS table,
        CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned' ELSE 'materialized view' END AS kind,
        coalesce(nullif(s.n_live_tup, 0), nullif(c.reltuples, -1)::bigint, 0) AS rows_estimated,
        s.n_dead_tup AS rows_dead,
        pg_table_size(c.oid) AS table_bytes, pg_indexes_size(c.oid) AS index_bytes,
        pg_total_relation_size(c.oid) AS total_bytes,
        s.seq_scan AS sequential_scans, s.idx_scan AS index_scans,
        greatest(s.last_vacuum, s.last_autovacuum) AS last_vacuum,
        greatest(s.last_analyze, s.last_autoanalyze) AS last_analyze
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND ",
    not_of_the_system!(),
    " ORDER BY pg_total_relation_size(c.oid) DESC NULLS LAST, 1, 2 LIMIT 1000"
);
const INDEXES: &str = concat!(
    "SELECT n.nspname AS schema, t.relname AS table, c.relname AS index,
        i.indisunique AS is_unique, i.indisprimary AS is_primary, i.indisvalid AS is_valid,
        pg_relation_size(c.oid) AS bytes, s.idx_scan AS scans, s.idx_tup_read AS entries_read,
        pg_get_indexdef(c.oid) AS definition
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
    LEFT JOIN pg_stat_all_indexes s ON s.indexrelid = c.oid
    WHERE c.relpersistence <> 't' AND ",
    not_of_the_system!(),
    " ORDER BY pg_relation_size(c.oid) DESC NULLS LAST, 1, 2, 3 LIMIT 1000"
);
/// Also of transactions, which belong to no database.
const LOCKS: &str = "SELECT l.pid AS process, a.usename AS login, l.locktype AS kind, l.mode, l.granted AS is_granted,
        l.relation::regclass::text AS relation, l.waitstart AS waits_since,
        CASE WHEN NOT l.granted THEN pg_blocking_pids(l.pid) END AS blocked_by
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE a.datname = current_database() AND l.pid <> pg_backend_pid()
        AND l.locktype <> 'virtualxid'
    ORDER BY l.granted, l.waitstart, l.pid, l.locktype, l.mode LIMIT 1000";

/// Puts what is recorded of migrations into a setting of the transaction: a statement that names a table which is not
/// there is an error, and most databases have no such table.
const RECORDED: &str = "DO $$ BEGIN
    IF to_regclass('tenantry_migrations.applied') IS NOT NULL THEN
        EXECUTE $a$SELECT set_config('tenantry.migrations', (SELECT json_agg(a ORDER BY name)::text FROM (
            SELECT name, checksum, began_at, applied_at FROM tenantry_migrations.applied
            ORDER BY name DESC LIMIT 1000) a), true)$a$;
    END IF;
END $$";
const MIGRATIONS: &str =
    "SELECT a.name, a.checksum, a.began_at, a.applied_at FROM json_to_recordset(
        coalesce(nullif(current_setting('tenantry.migrations', true), ''), '[]')::json)
    AS a (name text, checksum text, began_at timestamptz, applied_at timestamptz)";

/// What is in a database: `schemas`, `tables` (with their sizes, and rows as PostgreSQL estimates them),
/// `indexes`, `locks`; and `connections`: clients at the proxy of this process, those that wait first. At most
/// 1,000 rows. Asked of PostgreSQL as the role that may only read, like a statement of a user's.
#[utoipa::path(get, path = "/customer/databases/{database}/inspect/{what}", tag = "insight",
    security(("bearer" = [])), operation_id = "inspect",
    params(("database" = String, Path, description = "id or name"),
        ("what" = String, Path, description = "schemas, tables, indexes, locks or connections")),
    responses((status = 200, body = SqlResult), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 429, body = ErrorBody), (status = 502, body = ErrorBody),
        (status = 504, body = ErrorBody)))]
pub(crate) async fn inspect(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    WhatKey(what): WhatKey,
) -> ApiResult<Response> {
    let tenant = read(&app, &principal, &key).await?;
    let statement = match what.as_deref() {
        Some("schemas") => SCHEMAS,
        Some("tables") => TABLES,
        Some("indexes") => INDEXES,
        Some("locks") => LOCKS,
        Some("connections") => {
            let question = |reply| Question::Connections {
                tenant: tenant.id.clone(),
                most: ROWS_MAX,
                reply,
            };
            let found = app.insight.ask(question).await;
            let found = found.ok_or(ErrorCode::DatabaseUnreachable)?;
            return Ok(json(connections(&found)));
        }
        _ => return Err(ErrorCode::RouteNotFound.into()),
    };
    // Names are those of `pg_catalog`, whatever the database has under the same ones.
    let statements = ["SET LOCAL search_path = pg_catalog", statement];
    sql::http::look(&app, &tenant, &statements).await
}

/// What `tenantry migration up` recorded in a database: `name`, `checksum` (SHA-256 of the file), `began_at` and `applied_at`
/// (null: it began outside of a transaction, and did not end or is under way), in the order of their names; no rows
/// where nothing was recorded. The last 1,000. Asked of PostgreSQL as the role that may only read.
#[utoipa::path(get, path = "/customer/databases/{database}/migrations", tag = "insight",
    security(("bearer" = [])), operation_id = "list_migrations",
    params(("database" = String, Path, description = "id or name")),
    responses((status = 200, body = SqlResult), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 502, body = ErrorBody), (status = 504, body = ErrorBody)))]
pub(crate) async fn migrations(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<Response> {
    let tenant = read(&app, &principal, &key).await?;
    let statements = ["SET LOCAL search_path = pg_catalog", RECORDED, MIGRATIONS];
    sql::http::look(&app, &tenant, &statements).await
}

fn json(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Columns of connections, and of which type they are.
const CONNECTIONS: [(&str, &str); 11] = [
    ("user", "text"),
    ("application", "text"),
    ("address", "text"),
    ("state", "text"),
    ("process", "int4"),
    ("connected_seconds", "float8"),
    ("waits_seconds", "float8"),
    ("statements", "int8"),
    ("errors", "int8"),
    ("tls", "text"),
    ("pinned_by", "text"),
];

/// In the form of a result of SQL.
fn connections(found: &[Connection]) -> String {
    let columns: Vec<_> = CONNECTIONS
        .iter()
        .map(|(name, kind)| serde_json::json!({ "name": name, "type": kind }))
        .collect();
    let rows: Vec<_> = found
        .iter()
        .map(|of| {
            serde_json::json!([
                of.user,
                of.application,
                of.address,
                of.state,
                of.process,
                of.connected.as_secs_f64(),
                of.waits.map(|time| time.as_secs_f64()),
                of.statements.to_string(),
                of.errors.to_string(),
                of.tls,
                of.pinned_by,
            ])
        })
        .collect();
    let mut body = String::new();
    let _ = write!(
        body,
        "{{\"columns\":{},\"rows\":{},\"row_count\":{},\"command\":\"SELECT\"}}",
        serde_json::Value::from(columns),
        serde_json::Value::from(rows),
        found.len()
    );
    body
}
