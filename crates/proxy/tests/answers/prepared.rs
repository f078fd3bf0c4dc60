//! What is prepared, found and told of on whichever server connection.

use model::Role;
use wire::message::{Kind, build};

use crate::{
    end,
    kit::{
        pair::{Pair, parse, run_prepared},
        raw,
    },
    run, start,
};

fn use_it(portal: &[u8], name: &[u8], bytes: &mut Vec<u8>) {
    build::bind_nothing(portal, name, bytes);
    build::execute(portal, 0, bytes);
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
        for startup in [
            &[][..],
            &[(NAME, "pg_catalog.german")],
            &[(NAME, "pg_catalog.german"), ("quote_all_identifiers", "on")],
            &[("quote_all_identifiers", "on"), (NAME, "pg_catalog.german")],
        ] {
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

/// What a flight names behind a change of settings was prepared before it, on another server connection: also without a name.
#[tokio::test(flavor = "multi_thread")]
async fn the_unnamed_statement_is_found_behind_a_change_of_settings() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for sql in [
            "SET lock_timeout TO '5s'",
            "SELECT set_config('lock_timeout', '5s', false)",
            "SET ROLE tenantry_admin",
        ] {
            let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
            let mut other = Pair::new(&stack, &tenant, "auto", &[]);
            let mut bytes = Vec::new();
            build::parse(b"sets", sql.as_bytes(), &[], &mut bytes);
            build::parse(b"", b"SELECT 'unnamed'", &[], &mut bytes);
            build::sync(&mut bytes);
            pair.flight(format!("sets: {sql}, unnamed"), &bytes, 1);
            other.query("BEGIN");
            let mut bytes = Vec::new();
            for name in [&b"sets"[..], b""] {
                build::bind_nothing(b"", name, &mut bytes);
                build::execute(b"", 0, &mut bytes);
            }
            build::sync(&mut bytes);
            pair.flight("sets, unnamed".to_owned(), &bytes, 1);
            other.query("COMMIT");
        }
    });
    end(&stack).await;
}

/// What a session prepared is found behind something of the same flight that changes how it is read.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_prepared_is_found_behind_a_change_of_settings_in_the_same_flight() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for change in [
            "SET TimeZone TO 'Asia/Tokyo'",
            "SET search_path TO s2",
            "RESET ALL",
            "SELECT set_config('DateStyle', 'German', false)",
            "DO $$ BEGIN SET IntervalStyle TO 'iso_8601'; END $$",
            "BEGIN; SET TimeZone TO 'Asia/Tokyo'; COMMIT",
        ] {
            for is_by_query in [true, false] {
                if !is_by_query && change.starts_with("BEGIN") {
                    continue; // Several statements.
                }
                let mut pair = Pair::new(&stack, &tenant, "auto", &[("search_path", "s1")]);
                pair.query("SET TimeZone TO 'America/New_York'");
                parse(
                    &mut pair,
                    "one",
                    "SELECT v, timestamptz '2024-06-01 12:00' FROM t",
                );
                parse(&mut pair, "two", "SELECT interval '1 day'");
                let mut bytes = Vec::new();
                if is_by_query {
                    build::query(change, &mut bytes);
                } else {
                    build::parse(b"", change.as_bytes(), &[], &mut bytes);
                    build::bind_nothing(b"", b"", &mut bytes);
                    build::execute(b"", 0, &mut bytes);
                    build::sync(&mut bytes);
                }
                for name in [b"one", b"two"] {
                    build::describe(Kind::Statement, name, &mut bytes);
                    build::bind_nothing(b"", name, &mut bytes);
                    build::execute(b"", 0, &mut bytes);
                    build::sync(&mut bytes);
                }
                pair.flight(format!("{change}, by a query: {is_by_query}"), &bytes, 3);
                run_prepared(&mut pair, "one");
                pair.same_settings();
            }
        }
    });
    end(&stack).await;
}

/// A session is shown what it prepared itself, by its own names, on whichever server connection.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_prepared_is_shown_as_the_session_prepared_it() {
    const SHOW: &str = "SELECT name, statement, parameter_types::text, from_sql \
        FROM pg_prepared_statements ORDER BY name";
    let (stack, tenant) = start().await;
    stack.set_route(&tenant, Role::Admin, |route| {
        route.limits.server_connections_max = 2;
    });
    let show = |pair: &mut Pair, how: usize| match how {
        0 => drop(pair.query(SHOW)),
        1 => run(pair, SHOW),
        2 => drop(pair.query(&format!("SELECT 1; {SHOW}; SELECT 2"))),
        3 => {
            parse(pair, "show", SHOW);
            run_prepared(pair, "show");
        }
        4 => {
            // Both behind something else of the same pipeline.
            let mut bytes = Vec::new();
            for sql in ["SELECT 3", SHOW] {
                build::parse(b"", sql.as_bytes(), &[], &mut bytes);
                build::bind_nothing(b"", b"", &mut bytes);
                build::execute(b"", 0, &mut bytes);
            }
            build::sync(&mut bytes);
            pair.flight("in a pipeline".to_owned(), &bytes, 1);
        }
        _ => {
            pair.query("BEGIN; SET LOCAL search_path TO s2");
            pair.query(SHOW);
            pair.query("COMMIT");
        }
    };
    tokio::task::block_in_place(|| {
        for mode in 0..6 {
            // Others, on both.
            let mut beside = Pair::new(&stack, &tenant, "auto", &[]);
            for text in ["SELECT 'a secret of its own'", "SELECT v FROM s2.t"] {
                parse(&mut beside, text, text);
                beside.query("SELECT 1");
            }
            let mut pair = Pair::new(&stack, &tenant, "auto", &[("search_path", "s1")]);
            show(&mut pair, mode);
            parse(&mut pair, "one", "SELECT v, $1::int, $2::date FROM t");
            parse(&mut pair, "Two", "SELECT timestamptz '2024-06-01 12:00'");
            run_prepared(&mut pair, "Two");
            show(&mut pair, mode);
            parse(&mut pair, "three", "SELECT 3");
            show(&mut pair, mode);
            run_prepared(&mut pair, "Two");
            pair.query("DEALLOCATE one");
            pair.query("PREPARE four AS SELECT 4");
            show(&mut pair, mode);
            pair.query("DISCARD ALL; SELECT 1");
            pair.query("ROLLBACK");
            pair.query("DISCARD ALL");
            pair.query("SET ROLE tenantry_admin");
            show(&mut pair, mode);
            // They are made again for whoever prepared them.
            for text in ["SELECT 'a secret of its own'", "SELECT v FROM s2.t"] {
                run_prepared(&mut beside, text);
            }
        }
    });
    end(&stack).await;
}

/// In a failed transaction nothing is read anew and nothing can be made, also where plans were perhaps discarded: what
/// has no result is still described, and what is closed is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_closed_in_a_failed_transaction_is_gone() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for begin in ["BEGIN", "SELECT 1"] {
            for fails in [
                "ROLLBACK TO SAVEPOINT b; DISCARD SEQUENCES; SET IntervalStyle TO DEFAULT",
                "SELECT 1 / 0",
                "ROLLBACK TO SAVEPOINT b; SELECT 1",
                "ROLLBACK TO SAVEPOINT b; SET IntervalStyle TO DEFAULT",
                "ROLLBACK TO SAVEPOINT b; DISCARD SEQUENCES",
                "SELECT 1/0; DISCARD SEQUENCES",
                "SELECT 1/0; DISCARD ALL",
                "DISCARD ALL",
                "SELECT 1/0; DISCARD PLANS",
                "ROLLBACK TO SAVEPOINT b",
            ] {
                for describes in [true, false] {
                    let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                    let mut bytes = Vec::new();
                    build::parse(b"s2", begin.as_bytes(), &[], &mut bytes);
                    use_it(b"p1", b"s2", &mut bytes);
                    build::sync(&mut bytes);
                    pair.flight(begin.to_owned(), &bytes, 1);
                    if begin != "BEGIN" {
                        pair.query("BEGIN");
                    }
                    pair.query(fails);
                    let mut bytes = Vec::new();
                    if describes {
                        build::describe(Kind::Statement, b"s2", &mut bytes);
                    }
                    build::close(Kind::Statement, b"s2", &mut bytes);
                    build::sync(&mut bytes);
                    pair.flight(format!("close, describes {describes}"), &bytes, 1);
                    let mut bytes = Vec::new();
                    build::describe(Kind::Statement, b"s2", &mut bytes);
                    build::sync(&mut bytes);
                    pair.flight("describe".to_owned(), &bytes, 1);
                    pair.query("ROLLBACK");
                    pair.flight("describe".to_owned(), &bytes, 1);
                }
            }
        }
    });
}

/// Making a statement takes a snapshot, which having it described does not.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_describe_a_transaction_is_as_isolated_as_was_said() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
        parse(&mut pair, "there", "SELECT v FROM s1.t");
        parse(&mut pair, "gone", "SELECT v FROM s1.gone");
        parse(&mut pair, "dropped", "SELECT v FROM s2.t");
        let describe_and_begin = |name: &str| {
            let mut bytes = Vec::new();
            build::describe(Kind::Statement, name.as_bytes(), &mut bytes);
            build::parse(
                b"",
                b"BEGIN ISOLATION LEVEL REPEATABLE READ",
                &[],
                &mut bytes,
            );
            use_it(b"", b"", &mut bytes);
            build::sync(&mut bytes);
            bytes
        };
        for name in ["there", "gone"] {
            let bytes = describe_and_begin(name);
            pair.flight(format!("describe {name}, and begin"), &bytes, 1);
            pair.query("SHOW transaction_isolation");
            pair.query("ROLLBACK");
        }
        // The parameters, which a direct connection tells before the error, are not told of.
        stack
            .postgres
            .sql(&tenant.pid.database(), "DROP TABLE s2.t");
        pair.ours.send(&describe_and_begin("dropped"));
        assert_eq!(raw::code_of(&pair.ours.until(b'Z')), "42P01");
    });
    end(&stack).await;
}

/// In a transaction that failed nothing can be handed over to SQL, and in the one that follows it at once it can.
#[tokio::test(flavor = "multi_thread")]
async fn sql_behind_a_chain_knows_what_was_prepared() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
        parse(&mut pair, "one", "SELECT 'one'");
        for sql in [
            "ROLLBACK AND CHAIN; PREPARE one AS SELECT 2",
            "COMMIT AND CHAIN; EXECUTE one; SELECT 3",
            "ROLLBACK AND NO CHAIN; EXECUTE one",
            "ABORT AND CHAIN; DEALLOCATE one",
        ] {
            pair.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
            pair.query("SELECT 1/0");
            pair.query(sql);
            pair.query("SHOW transaction_isolation");
            pair.query("ROLLBACK");
            run_prepared(&mut pair, "one");
        }
    });
    end(&stack).await;
}
