//! Sessions beside direct connections that are sent the same, one case each of what random scripts once found.
//! No session gets the same server connection twice running.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{
    Stack, Tenant,
    pair::{Pair, parse, run_prepared},
};
use model::Role;
use proxy::LendingRule;
use wire::message::{Kind, build};

async fn start() -> (Stack, Tenant) {
    let stack = Stack::start(|config| {
        config.lending = LendingRule::NeverTheSameTwice;
        config.require_tls = false;
    })
    .await;
    let tenant = stack.tenant();
    stack.postgres.sql(
        &tenant.pid.database(),
        "CREATE SCHEMA s1; CREATE SCHEMA s2;
         CREATE TABLE s1.t (v text); INSERT INTO s1.t VALUES ('one');
         CREATE TABLE s2.t (v text); INSERT INTO s2.t VALUES ('two');
         GRANT USAGE, CREATE ON SCHEMA s1, s2 TO tenantry_admin;
         GRANT SELECT ON ALL TABLES IN SCHEMA s1, s2 TO tenantry_admin",
    );
    (stack, tenant)
}

async fn end(stack: &Stack) {
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
}

/// A pipeline that prepares this without a name, and runs it.
fn run(pair: &mut Pair, sql: &str) {
    let mut bytes = Vec::new();
    build::parse(b"", sql.as_bytes(), &[], &mut bytes);
    build::bind_nothing(b"", b"", &mut bytes);
    build::execute(b"", 0, &mut bytes);
    build::sync(&mut bytes);
    pair.flight(format!("run {sql}"), &bytes, 1);
}

/// `SET LOCAL … TO DEFAULT` leads to what the session began with, at once, and to the end of its transaction.
#[tokio::test(flavor = "multi_thread")]
async fn set_local_to_default_leads_to_what_the_session_began_with() {
    let (stack, tenant) = start().await;
    let startup = [
        ("DateStyle", "SQL"),
        ("search_path", "s2"),
        ("TimeZone", "Asia/Tokyo"),
    ];
    const PROBE: &str = "SELECT date '2024-06-01', v, timestamptz '2024-06-01 00:00+00', \
        current_setting('search_path') FROM t";
    tokio::task::block_in_place(|| {
        for mode in ["auto", "session"] {
            for is_by_query in [true, false] {
                let mut pair = Pair::new(&stack, &tenant, mode, &startup);
                for is_set in [false, true] {
                    for default in [
                        "SET LOCAL DateStyle = DEFAULT",
                        "SET LOCAL search_path TO DEFAULT",
                        "SET LOCAL TIME ZONE LOCAL",
                        "SET LOCAL work_mem TO DEFAULT",
                    ] {
                        pair.query(default);
                        pair.query(PROBE);
                        pair.query("BEGIN");
                        if is_set {
                            pair.query("SET DateStyle TO 'German'");
                            pair.query("SET LOCAL search_path TO s1");
                            pair.query("SET TimeZone TO 'America/New_York'");
                        }
                        if is_by_query {
                            pair.query(default);
                        } else {
                            run(&mut pair, default);
                        }
                        pair.query(PROBE);
                        pair.query("COMMIT");
                        pair.query(PROBE);
                        pair.query(&format!(
                            "BEGIN; SET DateStyle TO 'ISO'; SET LOCAL search_path TO s1; {default}; {PROBE}; COMMIT"
                        ));
                        pair.query("SET DateStyle TO 'Postgres'");
                    }
                }
                pair.same_settings();
            }
        }
    });
    end(&stack).await;
}

/// What is said so that settings lead back takes nothing from a transaction that has just begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_behind_begin_leaves_the_isolation_level_to_be_chosen() {
    let (stack, tenant) = start().await;
    let startup = [("DateStyle", "SQL"), ("work_mem", "2MB")];
    tokio::task::block_in_place(|| {
        for mode in ["auto", "session"] {
            let mut pair = Pair::new(&stack, &tenant, mode, &startup);
            for reset in [
                "RESET search_path",
                "RESET DateStyle",
                "SET LOCAL DateStyle TO DEFAULT",
                "SET DateStyle TO ISO; RESET ALL",
                "SET SESSION AUTHORIZATION DEFAULT",
            ] {
                pair.query(&format!("BEGIN; {reset}"));
                pair.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ");
                pair.query("SHOW transaction_isolation");
                pair.query("SHOW DateStyle");
                pair.query("COMMIT");
                pair.same_settings();
            }
        }
    });
    end(&stack).await;
}

/// What PostgreSQL says beside the answer to a Parse is said each time, also of a statement that another session
/// prepared, to whoever wants to hear it.
#[tokio::test(flavor = "multi_thread")]
async fn notices_of_a_parse_are_given_with_each() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        let long = format!("SELECT 1 AS {}", "x".repeat(70));
        let sql = "SELECT 'a\\nb', length('a\\nb')";
        for levels in [
            ["error", "notice"],
            ["warning", "log"],
            ["DEFAULT", "error"],
        ] {
            let mut first = Pair::new(&stack, &tenant, "auto", &[]);
            let mut second = Pair::new(&stack, &tenant, "auto", &[]);
            for (pair, level) in [(&mut first, levels[0]), (&mut second, levels[1])] {
                pair.query("SET standard_conforming_strings = off");
                pair.query(&format!("SET client_min_messages TO {level}"));
            }
            for pair in [&mut first, &mut second] {
                for name in ["one", "other"] {
                    parse(pair, name, sql);
                    parse(pair, name, "SELECT 2");
                    run_prepared(pair, name);
                    parse(pair, &format!("{name} long"), &long);
                }
                pair.query("SELECT 1");
                // In one flight, behind something that fails, and behind a change of what is told.
                let mut bytes = Vec::new();
                build::parse(b"one", b"SELECT 3", &[], &mut bytes);
                build::parse(b"third", sql.as_bytes(), &[], &mut bytes);
                build::sync(&mut bytes);
                build::parse(b"third", sql.as_bytes(), &[], &mut bytes);
                build::bind_nothing(b"", b"third", &mut bytes);
                build::execute(b"", 0, &mut bytes);
                build::close(Kind::Statement, b"third", &mut bytes);
                build::parse(b"third", sql.as_bytes(), &[], &mut bytes);
                build::sync(&mut bytes);
                pair.flight("third".to_owned(), &bytes, 2);
                pair.query("BEGIN");
                pair.query("SET LOCAL client_min_messages TO notice");
                parse(pair, "fourth", sql);
                pair.query("ROLLBACK");
                for name in ["one", "other", "third", "fourth"] {
                    run_prepared(pair, name);
                }
            }
        }
    });
    end(&stack).await;
}

/// A setting that PostgreSQL writes anew when it is set is shown as it was written then, whatever else is set later.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_search_configuration_is_quoted_as_it_was() {
    let (stack, tenant) = start().await;
    const NAME: &str = "default_text_search_config";
    tokio::task::block_in_place(|| {
        for startup in [&[][..], &[(NAME, "pg_catalog.german")]] {
            for (first, second) in [("off", "on"), ("on", "off"), ("on", "on")] {
                let mut pair = Pair::new(&stack, &tenant, "auto", startup);
                pair.query(&format!("SET quote_all_identifiers TO {first}"));
                pair.query(&format!("SHOW {NAME}"));
                pair.query(&format!("SET {NAME} TO 'simple'"));
                for _ in 0..3 {
                    pair.query(&format!("SHOW {NAME}"));
                }
                pair.query(&format!("SET quote_all_identifiers TO {second}"));
                for _ in 0..3 {
                    pair.query(&format!("SHOW {NAME}"));
                }
                pair.query(&format!("RESET {NAME}"));
                pair.query(&format!("SHOW {NAME}"));
                pair.same_settings();
                pair.query("RESET ALL");
                pair.same_settings();
            }
        }
    });
    end(&stack).await;
}

/// In a transaction that failed, several statements of one query may end it and then meet what came by the protocol.
#[tokio::test(flavor = "multi_thread")]
async fn sql_behind_the_end_of_a_failed_transaction_meets_statements_of_the_protocol() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for end in [
            "ABORT",
            "ROLLBACK",
            "COMMIT",
            "/* . */ ROLLBACK TO SAVEPOINT a",
            "ROLLBACK TO none",
        ] {
            for then in [
                "PREPARE one(int) AS SELECT 5",
                "EXECUTE one",
                "DEALLOCATE one; PREPARE one AS SELECT 6",
                "DEALLOCATE ALL; EXECUTE one",
                "SELECT 1; EXECUTE other",
            ] {
                let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                pair.query("SET TimeZone TO 'Asia/Tokyo'");
                parse(&mut pair, "one", "SELECT timestamptz '2024-06-01 12:00'");
                pair.query("SET TimeZone TO 'UTC'");
                parse(&mut pair, "other", "SELECT v FROM s1.t");
                pair.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
                pair.query("SET DateStyle TO 'German'");
                pair.query("SAVEPOINT a");
                pair.query("SELECT 1/0");
                pair.query(&format!("{end}; {then}"));
                pair.query("SHOW DateStyle");
                pair.query("ROLLBACK");
                for name in ["one", "other"] {
                    run_prepared(&mut pair, name);
                    pair.query(&format!("EXECUTE {name}"));
                }
                pair.same_settings();
            }
        }
    });
    end(&stack).await;
}

/// Statements are read anew, under the settings of then, also where their plans were discarded beside other things,
/// and whether these failed or not. Those of others stay what they were.
#[tokio::test(flavor = "multi_thread")]
async fn plans_are_discarded_among_other_statements() {
    let (stack, tenant) = start().await;
    stack.set_route(&tenant, Role::Admin, |route| {
        route.limits.server_connections_max = 2;
    });
    tokio::task::block_in_place(|| {
        for discard in [
            "DISCARD PLANS; SELECT 1",
            "SELECT 1; DISCARD PLANS; SELECT 1/0",
            "SET TimeZone TO 'Asia/Tokyo'; DISCARD PLANS",
            "DO $$ BEGIN DISCARD PLANS; END $$",
        ] {
            for is_inside in [false, true] {
                let mut beside = Pair::new(&stack, &tenant, "auto", &[]);
                let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                for pair in [&mut beside, &mut pair] {
                    parse(pair, "one", "SELECT timestamptz '2024-06-01 12:00'");
                    pair.query("SET TimeZone TO 'America/New_York'");
                    run_prepared(pair, "one");
                }
                if is_inside {
                    pair.query("BEGIN");
                }
                pair.query(discard);
                run_prepared(&mut pair, "one");
                pair.query("ROLLBACK");
                for _ in 0..3 {
                    run_prepared(&mut pair, "one");
                    run_prepared(&mut beside, "one");
                }
            }
        }
        for is_by_query in [true, false] {
            let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
            parse(&mut pair, "one", "SELECT timestamptz '2024-06-01 12:00'");
            pair.query("BEGIN");
            pair.query("SET TimeZone TO 'America/New_York'");
            if is_by_query {
                pair.query("DISCARD PLANS");
            } else {
                run(&mut pair, "DISCARD PLANS");
            }
            run_prepared(&mut pair, "one");
            pair.query("COMMIT");
            pair.query("SET TimeZone TO 'UTC'");
            run_prepared(&mut pair, "one");
        }
    });
    end(&stack).await;
}

/// A statement whose table is gone is nobody's trouble but of who names it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_cannot_be_made_again_is_told_to_who_names_it() {
    let (stack, tenant) = start().await;
    let database = tenant.pid.database();
    tokio::task::block_in_place(|| {
        for sql in [
            "SET TimeZone TO 'Asia/Tokyo'",
            "SELECT set_config('TimeZone', 'Asia/Tokyo', false)",
            "DO $$ BEGIN PERFORM 1; END $$",
        ] {
            let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
            stack.postgres.sql(
                &database,
                "CREATE TABLE s1.gone (v int); GRANT SELECT ON s1.gone TO tenantry_admin",
            );
            parse(&mut pair, "gone", "SELECT v FROM s1.gone");
            parse(&mut pair, "there", "SELECT v FROM s1.t");
            parse(&mut pair, "sets", sql);
            stack.postgres.sql(&database, "DROP TABLE s1.gone");
            for _ in 0..2 {
                pair.query("SELECT 1");
                run_prepared(&mut pair, "sets");
                pair.query("SELECT 1");
                run(&mut pair, sql);
            }
            pair.query("SELECT 1");
            let mut bytes = Vec::new();
            for name in [&b"there"[..], b"sets", b"there"] {
                build::bind_nothing(b"", name, &mut bytes);
                build::execute(b"", 0, &mut bytes);
            }
            build::sync(&mut bytes);
            pair.flight("there, sets, there".to_owned(), &bytes, 1);
            run_prepared(&mut pair, "gone");
            run_prepared(&mut pair, "there");
        }
    });
    end(&stack).await;
}
