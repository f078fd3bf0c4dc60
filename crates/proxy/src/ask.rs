//! Asking a server what a session holds that no other server connection can be given.
//!
//! Owns: the question and its answer. Does not own: what follows from it (`lend`).

use std::{collections::BTreeSet, fmt::Write as _};

use model::Literal;
use wire::message::TransactionStatus;

use crate::{
    pins::{Pin, Pins},
    server::{ExchangeError, Server},
    state::Setting,
};

/// Rows of one answer: settings, and one for each kind of thing held. There are about 400 settings.
const ROWS_MAX: usize = 2_000;

/// What a session has, as the server says.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// All settings that differ from what the connection logged in with.
    pub(crate) settings: Vec<Setting>,
    pub(crate) pins: Pins,
}

/// Asks. `custom`: the names of custom settings that may have been set, which are listed nowhere.
///
/// # Errors
///
/// [`ExchangeError::Broken`]; what the server says no to is returned, and the connection is as it was.
pub(crate) async fn ask(
    server: &mut Server,
    custom: &BTreeSet<String>,
) -> Result<Held, ExchangeError> {
    let group = server.login.server.group;
    let user = server.login.server.user.clone();
    let held = held(&user);
    let settings = settings(custom);
    let rows = server
        .rows(&[BEGIN, &settings, &planning(), &held, "COMMIT"], ROWS_MAX)
        .await;
    end_transaction(server).await?;
    let mut held = Held::default();
    for row in rows? {
        let text = |at: usize| {
            let value = row.get(at).and_then(Option::as_deref)?;
            str::from_utf8(value).ok()
        };
        match (text(0), text(1), text(2)) {
            (Some("setting"), Some(name), Some(value)) => {
                held.settings
                    .push((name.to_ascii_lowercase().into(), value.into()));
            }
            (Some("planning"), ..) => {}
            (Some("role"), Some(role), _) if role == group.as_str() => {}
            (Some(what), ..) => held.pins.add(pin(what)),
            (None, ..) => held.pins.add(Pin::Settings),
        }
    }
    Ok(held)
}

/// Ends the transaction of a query of ours that was refused.
pub(crate) async fn end_transaction(server: &mut Server) -> Result<(), ExchangeError> {
    if server.status != TransactionStatus::Idle {
        server.rows(&["ROLLBACK"], 0).await?;
    }
    Ok(())
}

fn pin(what: &str) -> Pin {
    match what {
        "role" => Pin::Role,
        "temporary" => Pin::Temporary,
        "listen" => Pin::Listen,
        "cursor" => Pin::Cursor,
        "prepare" => Pin::Prepare,
        "lock" => Pin::AdvisoryLock,
        // A setting whose value is not UTF-8.
        _ => Pin::Settings,
    }
}

/// The transaction says what it is, since the session's defaults are in force.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY, NOT DEFERRABLE";

/// Until the end of the transaction, settings of the session that could make a question of ours slow, or
/// mean something else, are not in force. One row, that begins with `planning`.
pub(crate) fn planning() -> String {
    let mut sql = String::from("SELECT 'planning'");
    for (name, value) in PLANNING {
        let _ = write!(sql, ", pg_catalog.set_config('{name}', '{value}', true)");
    }
    sql
}

/// As PostgreSQL has them unless somebody says otherwise.
const PLANNING: [(&str, &str); 25] = [
    ("search_path", "pg_catalog, pg_temp"),
    // Whoever cannot be asked in that time keeps its server connection. Most answers take a
    // millisecond, and none of several waits longer than a dead server is waited for.
    ("statement_timeout", "1s"),
    ("lock_timeout", "0"),
    ("work_mem", "4MB"),
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("join_collapse_limit", "8"),
    ("from_collapse_limit", "8"),
    ("seq_page_cost", "1"),
    ("random_page_cost", "4"),
    ("cpu_tuple_cost", "0.01"),
    ("cpu_index_tuple_cost", "0.005"),
    ("cpu_operator_cost", "0.0025"),
    ("enable_bitmapscan", "on"),
    ("enable_hashagg", "on"),
    ("enable_hashjoin", "on"),
    ("enable_indexonlyscan", "on"),
    ("enable_indexscan", "on"),
    ("enable_material", "on"),
    ("enable_memoize", "on"),
    ("enable_mergejoin", "on"),
    ("enable_nestloop", "on"),
    ("enable_seqscan", "on"),
    ("enable_sort", "on"),
    ("standard_conforming_strings", "on"),
];

/// One row for each setting: what, name, value. Every name says its schema, since the session's
/// `search_path` is in force.
fn settings(custom: &BTreeSet<String>) -> String {
    let mut sql = String::from(
        "SELECT 'setting', name, setting FROM pg_catalog.pg_settings \
             WHERE source OPERATOR(pg_catalog.=) 'session' AND name OPERATOR(pg_catalog.<>) ALL \
             (ARRAY['transaction_isolation', 'transaction_read_only', 'transaction_deferrable'])",
    );
    for name in custom {
        // One that was never set is null.
        let name = Literal(name);
        let _ = write!(
            sql,
            " UNION ALL SELECT 'setting', {name}, pg_catalog.current_setting({name}, true) \
              WHERE pg_catalog.current_setting({name}, true) IS NOT NULL"
        );
    }
    sql
}

/// Whether there are temporary objects of the session.
const HAS_TEMPORARY: &str = "pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 \
    AND (EXISTS (SELECT FROM pg_catalog.pg_class \
        WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
    OR EXISTS (SELECT FROM pg_catalog.pg_proc \
        WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
    OR EXISTS (SELECT FROM pg_catalog.pg_type \
        WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
    OR EXISTS (SELECT FROM pg_catalog.pg_operator \
        WHERE oprnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()))";

/// Has one more schema be last in the `search_path` to the end of the transaction. Everything is found where it was.
pub(crate) fn longer_path() -> String {
    "SELECT pg_catalog.set_config('search_path', \
         CASE WHEN own.path OPERATOR(pg_catalog.=) '' THEN 'information_schema' \
             ELSE own.path OPERATOR(pg_catalog.||) ', information_schema' END, true) \
     FROM (SELECT pg_catalog.current_setting('search_path') path) own"
        .to_owned()
}

/// The same, where there are temporary objects.
pub(crate) fn longer_path_if_temporary() -> String {
    format!("{} WHERE {HAS_TEMPORARY}", longer_path())
}

/// One row for each kind of thing held. `user`: the login.
fn held(user: &str) -> String {
    format!(
        "SELECT 'role', pg_catalog.current_setting('role'), '' \
         UNION ALL SELECT 'role', '', '' WHERE session_user OPERATOR(pg_catalog.<>) {} \
         UNION ALL SELECT 'temporary', '', '' WHERE {HAS_TEMPORARY} \
         UNION ALL SELECT 'listen', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
         UNION ALL SELECT 'cursor', '', '' WHERE EXISTS \
             (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
         UNION ALL SELECT 'prepare', '', '' WHERE EXISTS \
             (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql) \
         UNION ALL SELECT 'lock', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
             WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
             AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
        Literal(user)
    )
}
