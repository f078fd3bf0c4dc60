//! What readings say, against what PostgreSQL 15 and 18 do.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod server;

use std::collections::{BTreeMap, BTreeSet};

use server::{MAJORS, Server};
use statement::{
    Context, Effects, Encoding, Exact, Reading, Strings, is_catalog_function, lasting_functions,
    read,
};
use tokio_postgres::{Client, SimpleQueryMessage};

const HARMLESS: &str = include_str!("../src/functions/harmless.txt");
const PLAIN: &str = include_str!("corpus/plain.sql");

/// A new function of a new PostgreSQL has to be looked at by somebody, and put into a list.
#[tokio::test]
async fn every_function_of_the_catalog_is_in_one_of_the_lists() {
    let mut names = BTreeSet::new();
    for major in MAJORS {
        let server = Server::start(major);
        let session = server.session("postgres").await;
        let rows = session
            .query("SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace", &[])
            .await
            .unwrap();
        let here: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let new: Vec<_> = here
            .iter()
            // The triggers of foreign keys cannot be called.
            .filter(|name| !name.starts_with("RI_FKey_") && !is_catalog_function(name))
            .collect();
        assert!(
            new.is_empty(),
            "{major} has functions that nobody judged: {new:?}"
        );
        names.extend(here);
    }
    let lasting: BTreeSet<_> = lasting_functions().collect();
    let gone: Vec<_> = HARMLESS
        .lines()
        .chain(lasting.iter().copied())
        .filter(|name| !names.contains(*name))
        .collect();
    assert!(gone.is_empty(), "no PostgreSQL has {gone:?}");
    let both: Vec<_> = HARMLESS
        .lines()
        .filter(|name| lasting.contains(name))
        .collect();
    assert!(both.is_empty(), "{both:?}");
}

/// PostgreSQL itself marks what reaches into the state of its process: it must not run in
/// parallel. Those of them that are called harmless were read one by one; why they are is said.
#[tokio::test]
async fn functions_that_postgresql_calls_unsafe_are_lasting_or_were_looked_at() {
    const LOOKED_AT: &[(&str, &[&str])] = &[
        (
            "descriptors of large objects end with their transaction",
            &[
                "lo_close",
                "lo_creat",
                "lo_create",
                "lo_export",
                "lo_from_bytea",
                "lo_get",
                "lo_import",
                "lo_lseek",
                "lo_lseek64",
                "lo_open",
                "lo_put",
                "lo_tell",
                "lo_tell64",
                "lo_truncate",
                "lo_truncate64",
                "lo_unlink",
                "loread",
                "lowrite",
            ],
        ),
        (
            "of the transaction",
            &[
                "pg_current_xact_id",
                "pg_current_xact_id_if_assigned",
                "pg_export_snapshot",
                "pg_logical_emit_message",
                "txid_current",
                "txid_current_if_assigned",
            ],
        ),
        (
            "change what is stored or shared by all, not the process",
            &[
                "brin_desummarize_range",
                "gin_clean_pending_list",
                "pg_clear_attribute_stats",
                "pg_clear_relation_stats",
                "pg_drop_replication_slot",
                "pg_import_system_collations",
                "pg_nextoid",
                "pg_replication_origin_advance",
                "pg_replication_origin_create",
                "pg_replication_origin_drop",
                "pg_replication_slot_advance",
                "pg_restore_attribute_stats",
                "pg_restore_relation_stats",
                "pg_stop_making_pinned_objects",
                "pg_sync_replication_slots",
            ],
        ),
        (
            "only read",
            &[
                "current_schema",
                "current_schemas",
                "currtid2",
                "pg_get_sequence_data",
                "pg_replication_origin_progress",
                "pg_replication_origin_session_progress",
                "pg_sequence_last_value",
            ],
        ),
        (
            "cannot be called by SQL, or only from a script of an extension",
            &[
                "dsnowball_init",
                "dsnowball_lexize",
                "pg_extension_config_dump",
                "plpgsql_call_handler",
                "plpgsql_inline_handler",
                "plpgsql_validator",
            ],
        ),
    ];
    let reviewed: BTreeSet<_> = LOOKED_AT
        .iter()
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    for major in MAJORS {
        let server = Server::start(major);
        let session = server.session("postgres").await;
        let rows = session
            .query("SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proparallel = 'u' ORDER BY 1", &[])
            .await
            .unwrap();
        let open: Vec<String> = rows
            .iter()
            .map(|row| row.get(0))
            .filter(|name: &String| HARMLESS.lines().any(|line| line == name))
            .filter(|name| !reviewed.contains(name.as_str()))
            .collect();
        assert!(open.is_empty(), "{major}: {open:?}");
    }
}

/// What a session carries, by the kind that a reading must name.
///
/// Not the three settings `transaction_…`: they show the transaction that asks.
type State = BTreeMap<&'static str, String>;

/// Each with the effects of which one explains a change.
const KINDS: &[(&str, Effects, &str)] = &[
    (
        "settings",
        Effects::SETTINGS.with(Effects::ROLE).with(Effects::SEED),
        "SELECT string_agg(name || '=' || setting, E'\\n' ORDER BY name) FROM pg_catalog.pg_settings
         WHERE source = 'session' AND name NOT IN ('role', 'session_authorization')
         AND name NOT LIKE 'transaction\\_%'",
    ),
    (
        "custom",
        Effects::SETTINGS,
        "SELECT pg_catalog.concat_ws(',', nullif(current_setting('app.me', true), ''),
            nullif(current_setting('session.x', true), ''), nullif(current_setting('local.x', true), ''))",
    ),
    (
        "role",
        Effects::ROLE,
        "SELECT pg_catalog.concat_ws(',', session_user, current_user, current_setting('role'))",
    ),
    (
        "temp",
        Effects::TEMP,
        "SELECT string_agg(x, ',' ORDER BY x) FROM (
            SELECT relname::text FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()
            UNION ALL SELECT proname FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema()
            UNION ALL SELECT typname FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema()) AS t (x)",
    ),
    (
        "channels",
        Effects::LISTEN,
        "SELECT string_agg(x, ',' ORDER BY x) FROM pg_catalog.pg_listening_channels() AS t (x)",
    ),
    (
        "cursors",
        Effects::HOLD,
        "SELECT string_agg(name, ',' ORDER BY name) FROM pg_catalog.pg_cursors WHERE is_holdable",
    ),
    (
        "prepared",
        Effects::PREPARE.with(Effects::DEALLOCATE),
        "SELECT string_agg(name, ',' ORDER BY name) FROM pg_catalog.pg_prepared_statements WHERE from_sql",
    ),
    (
        "advisory",
        Effects::ADVISORY,
        "SELECT string_agg(concat_ws('.', classid, objid, mode), ',' ORDER BY 1) FROM (
            SELECT classid, objid, mode FROM pg_catalog.pg_locks
            WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) AS t",
    ),
];

async fn state(session: &Client) -> State {
    let queries: Vec<_> = KINDS.iter().map(|(_, _, query)| *query).collect();
    let answers = session.simple_query(&queries.join(";")).await.unwrap();
    let rows = answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    let state: State = KINDS.iter().map(|(kind, _, _)| *kind).zip(rows).collect();
    assert_eq!(state.len(), KINDS.len());
    state
}

/// Runs `text`, and ends a transaction that it left open. Whether it succeeded.
async fn run(session: &Client, text: &str) -> bool {
    let ran = session.simple_query(text).await.is_ok();
    session.simple_query("COMMIT").await.unwrap();
    ran
}

fn reading(text: &str, strings: Strings) -> Reading {
    let encoding = Encoding::AsciiSafe;
    read(text.as_bytes(), Context { strings, encoding })
}

/// What may change the database itself.
const MAKES: Effects = Effects::TOUCHES.with(Effects::TEMP).with(Effects::RUNS);

/// Everything as at the start, whatever the text before left.
async fn restore(boss: &Client) {
    for text in [
        "ROLLBACK PREPARED 'x'",
        "DROP SCHEMA IF EXISTS public CASCADE",
        "CREATE SCHEMA public;
         GRANT ALL ON SCHEMA public TO other;
         CREATE TABLE t (a int, b text);
         INSERT INTO t VALUES (1, 'one'), (2, 'two');
         CREATE SEQUENCE s",
        "DROP ROLE IF EXISTS z",
        "ALTER ROLE other RESET ALL",
        "ALTER DATABASE plain RESET ALL",
    ] {
        let restored = boss.simple_query(text).await;
        assert!(
            restored.is_ok() || text.starts_with("ROLLBACK"),
            "{text}: {restored:?}"
        );
    }
}

/// Whenever a text leaves a session different, its reading has said so by itself: no definition
/// of this database does anything.
#[tokio::test]
async fn whatever_changes_a_session_was_said() {
    let texts: Vec<_> = PLAIN
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert!(texts.len() > 400);
    let mut wrong = Vec::new();
    for major in MAJORS {
        let server = Server::start(major);
        let postgres = server.session("postgres").await;
        postgres.simple_query("CREATE ROLE other").await.unwrap();
        postgres
            .simple_query("CREATE DATABASE plain")
            .await
            .unwrap();
        let boss = server.session("plain").await;
        let (mut ran, mut changed, mut exact) = (0, 0, 0);
        let mut dirty = true;
        let untouched = state(&boss).await;
        for line in &texts {
            let line = line.replace("\\n", "\n");
            let (first, text) = line.split_once(" ==> ").unwrap_or(("", &line));
            if dirty {
                restore(&boss).await;
            }
            let session = server.session("plain").await;
            if !first.is_empty() {
                session.simple_query(first).await.unwrap();
            }
            let strings = match first.contains("standard_conforming_strings = off") {
                true => Strings::Escaping,
                false => Strings::Standard,
            };
            let reading = reading(text, strings);
            dirty = reading.effects.intersects(MAKES);
            let before = match first {
                "" => untouched.clone(),
                _ => state(&session).await,
            };
            let succeeded = run(&session, text).await;
            let after = state(&session).await;
            ran += usize::from(succeeded);
            changed += usize::from(before != after);
            for (kind, explains, _) in KINDS {
                let said = explains.with(Effects::RUNS).with(Effects::DISCARD);
                if before[kind] != after[kind] && !reading.effects.intersects(said) {
                    wrong.push(format!(
                        "{major}: {line}: {kind} from '{}' to '{}', read {:?}",
                        before[kind], after[kind], reading.effects
                    ));
                }
            }
            let Some(Exact::Set(pairs)) = reading.exact else {
                continue;
            };
            if !succeeded {
                continue;
            }
            exact += 1;
            // The same by the words that were read.
            let other = server.session("plain").await;
            other.simple_query(first).await.unwrap();
            for (name, value) in &pairs {
                let literal =
                    |text: &str| format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
                let text = format!(
                    "SELECT pg_catalog.set_config({}, {}, false)",
                    literal(name),
                    literal(value)
                );
                other.simple_query(&text).await.unwrap();
            }
            let same = state(&other).await;
            if same != after {
                wrong.push(format!(
                    "{major}: {line}: read as {pairs:?}: {same:?} is not {after:?}"
                ));
            }
        }
        println!(
            "{major}: {} texts, {ran} succeeded, {changed} changed something, {exact} exact",
            texts.len()
        );
        assert!(
            ran > 380 && changed > 220 && exact > 70,
            "{major}: the texts no longer do what they are for"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Definitions that change the session of whoever uses them: what cannot be seen in a text is
/// said by one of the three effects for the unseen.
#[tokio::test]
async fn what_definitions_do_is_said_to_be_unseen() {
    const DEFINITIONS: &str = "
        CREATE FUNCTION quiet(text) RETURNS text LANGUAGE sql
            AS $$ SELECT set_config('app.me', $1, false) $$;
        CREATE FUNCTION lower(int) RETURNS text LANGUAGE sql AS 'SELECT quiet(''lower'')';
        CREATE PROCEDURE proc() LANGUAGE sql AS 'SELECT quiet(''proc'')';
        CREATE TABLE t (a int, b text DEFAULT quiet('default'));
        INSERT INTO t VALUES (1, 'x');
        CREATE FUNCTION of_row(t) RETURNS text LANGUAGE sql AS 'SELECT quiet(''row'')';
        CREATE TABLE u (a int);
        CREATE FUNCTION trig() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN PERFORM quiet('trigger'); RETURN NULL; END $$;
        CREATE TRIGGER trig AFTER INSERT OR TRUNCATE ON u EXECUTE FUNCTION trig();
        CREATE TABLE late (a int);
        CREATE CONSTRAINT TRIGGER trig AFTER INSERT ON late
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION trig();
        CREATE VIEW direct AS SELECT set_config('app.me', 'view', false) AS x;
        CREATE OPERATOR === (FUNCTION = set_op, LEFTARG = int, RIGHTARG = int);
        CREATE FUNCTION set_cast(u) RETURNS text LANGUAGE sql AS 'SELECT quiet(''cast'')';
        CREATE CAST (u AS text) WITH FUNCTION set_cast(u);
        CREATE DOMAIN dom AS text CHECK (quiet(VALUE) IS NOT NULL);
        CREATE VIEW settings AS SELECT * FROM pg_settings;
        CREATE AGGREGATE agg (text) (SFUNC = agg_step, STYPE = text);
        CREATE FUNCTION event() RETURNS event_trigger LANGUAGE plpgsql
            AS $$ BEGIN PERFORM quiet('event'); END $$;
        CREATE EVENT TRIGGER event ON ddl_command_end EXECUTE FUNCTION event();";
    let calls = [
        "SELECT quiet('x')",
        "SELECT public.quiet('x')",
        "SELECT \"quiet\" ('x')",
        "SELECT quiet /* ( */ ('x')",
        "SELECT (quiet('x'))",
        "CALL proc()",
        "SELECT agg('x')",
        "SELECT agg('x') OVER ()",
        "SELECT (ROW(1, 'x')::t).of_row",
        "SELECT ((ARRAY[ROW(1, 'x')::t])[1]).of_row",
        "SELECT DISTINCT ON (1) quiet('x')",
        "SELECT 1 OPERATOR(public.===) 2",
        "SELECT public.lower(1)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT quiet('x')",
        "PREPARE p AS SELECT quiet('x'); EXECUTE p",
        "EXPLAIN ANALYZE SELECT quiet('x')",
        "COPY (SELECT quiet('x')) TO '/dev/null'",
        "VALUES (quiet('x'))",
    ];
    let touches = [
        "SELECT * FROM direct",
        "TABLE direct",
        "SELECT (SELECT x FROM direct)",
        "COPY (TABLE direct) TO '/dev/null'",
        "SELECT t.of_row FROM t",
        "INSERT INTO t (a) VALUES (1)",
        "INSERT INTO t DEFAULT VALUES",
        "UPDATE t SET b = DEFAULT",
        "COPY t (a) FROM PROGRAM 'echo 1'",
        "INSERT INTO u VALUES (1)",
        "INSERT INTO late VALUES (1)",
        "BEGIN; INSERT INTO late VALUES (1); SET CONSTRAINTS ALL IMMEDIATE; COMMIT",
        "TRUNCATE u",
        "MERGE INTO u USING (SELECT 1) x ON false WHEN NOT MATCHED THEN INSERT VALUES (1)",
        "WITH x AS (INSERT INTO u VALUES (1) RETURNING 1) SELECT 1",
        "UPDATE settings SET setting = '8MB' WHERE name = 'work_mem'",
        "ALTER TABLE t ADD c text DEFAULT quiet('x')",
        "CREATE INDEX ON t (a)",
        "COMMENT ON TABLE t IS 'x'",
        "GRANT SELECT ON t TO other",
        "DROP TABLE late",
    ];
    let evaluates = [
        "SELECT 1 === 2",
        "SELECT lower(1)",
        "SELECT 'x'::dom",
        "SELECT CAST('x' AS dom)",
        "SELECT ROW(1)::u::text",
        "SELECT json_populate_record(NULL::t, '{}'), 'x'::dom",
        "PREPARE p AS SELECT 1 === 2; EXECUTE p",
        "EXPLAIN ANALYZE SELECT 1 === 2",
    ];
    let all = calls.iter().map(|text| (text, Effects::CALLS));
    let all = all.chain(touches.iter().map(|text| (text, Effects::TOUCHES)));
    let all: Vec<_> = all
        .chain(evaluates.iter().map(|text| (text, Effects::EVALUATES)))
        .collect();
    for major in MAJORS {
        let server = Server::start(major);
        let postgres = server.session("postgres").await;
        let base = "CREATE ROLE other; CREATE FUNCTION set_op(int, int) RETURNS text LANGUAGE sql \
            AS $$ SELECT set_config('app.me', 'operator', false) $$; \
            CREATE FUNCTION agg_step(text, text) RETURNS text LANGUAGE sql \
            AS $$ SELECT set_config('app.me', 'aggregate', false) $$;";
        postgres.simple_query(base).await.unwrap();
        postgres.simple_query(DEFINITIONS).await.unwrap();
        for (text, effect) in &all {
            let session = server.session("postgres").await;
            let before = state(&session).await;
            session.simple_query("BEGIN").await.unwrap();
            let inside = !text.starts_with("BEGIN");
            if !inside {
                session.simple_query("ROLLBACK").await.unwrap();
            }
            let ran = session.simple_query(text).await;
            assert!(ran.is_ok(), "{major}: {text}: {ran:?}");
            session.simple_query("COMMIT").await.unwrap();
            assert_ne!(
                state(&session).await,
                before,
                "{major}: {text} does nothing any more"
            );
            let seen = reading(text, Strings::Standard).effects;
            assert!(seen.contains(*effect), "{major}: {text}: {seen:?}");
        }
    }
}
