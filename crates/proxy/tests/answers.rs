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

/// PostgreSQL keeps of a statement how its text was read, and what it returns; only what its words mean is looked up
/// anew behind DISCARD PLANS, under the settings of its next use, whatever transaction that is in.
#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_plan_is_made_of_what_was_read_before() {
    let (stack, tenant) = start().await;
    let database = tenant.pid.database();
    stack.postgres.sql(
        &database,
        "CREATE SCHEMA s3; CREATE TABLE s3.t (v int); INSERT INTO s3.t VALUES (3);
         GRANT USAGE ON SCHEMA s3 TO tenantry_admin; GRANT SELECT ON s3.t TO tenantry_admin",
    );
    const NAMES: [(&str, &str); 5] = [
        ("gone", "SELECT v FROM s1.gone"),
        ("escapes", r"SELECT 'a\nb', length('a\nb')"),
        ("quotes", r"SELECT E'a\'b'"),
        ("time", "SELECT timestamptz '2024-06-01 12:00'"),
        ("table", "SELECT v FROM t"),
    ];
    tokio::task::block_in_place(|| {
        for (before, behind) in [
            ("SELECT 1", &["SET standard_conforming_strings TO off"][..]),
            (
                "SET standard_conforming_strings TO off; SET backslash_quote TO on",
                &[
                    "SET standard_conforming_strings TO on",
                    "SET backslash_quote TO off",
                ],
            ),
            ("SELECT 1", &["SET TimeZone TO 'Asia/Tokyo'"]),
            ("SELECT 1", &["SET search_path TO s3"]),
            (
                "SELECT 1",
                &[
                    "BEGIN",
                    "SET TimeZone TO 'Asia/Tokyo'; SET standard_conforming_strings TO off",
                ],
            ),
            ("SELECT 1", &["BEGIN", "SET LOCAL TimeZone TO 'Asia/Tokyo'"]),
        ] {
            for discard in [
                "behind",
                "between",
                "in a pipeline",
                "by its name",
                "in the middle",
                "in the middle, by its name",
            ] {
                let mut pair = Pair::new(&stack, &tenant, "auto", &[("search_path", "s1")]);
                pair.query(before);
                parse(&mut pair, "discard", "DISCARD PLANS");
                stack.postgres.sql(
                    &database,
                    "CREATE TABLE s1.gone (v int); GRANT SELECT ON s1.gone TO tenantry_admin",
                );
                for (name, sql) in NAMES {
                    parse(&mut pair, name, sql);
                }
                stack.postgres.sql(&database, "DROP TABLE s1.gone");
                if discard == "behind" {
                    behind.iter().for_each(|sql| drop(pair.query(sql)));
                }
                match discard {
                    "in a pipeline" => run(&mut pair, "DISCARD PLANS"),
                    "by its name" => run_prepared(&mut pair, "discard"),
                    "in the middle" | "in the middle, by its name" => {
                        let mut bytes = Vec::new();
                        build::parse(b"", b"SELECT 1", &[], &mut bytes);
                        build::bind_nothing(b"", b"", &mut bytes);
                        build::execute(b"", 0, &mut bytes);
                        let name = if discard == "in the middle" {
                            build::parse(b"", b"DISCARD PLANS", &[], &mut bytes);
                            &b""[..]
                        } else {
                            b"discard"
                        };
                        build::bind_nothing(b"", name, &mut bytes);
                        build::execute(b"", 0, &mut bytes);
                        build::sync(&mut bytes);
                        pair.flight(discard.to_owned(), &bytes, 1);
                    }
                    _ => drop(pair.query("DISCARD PLANS")),
                }
                if discard != "behind" {
                    behind.iter().for_each(|sql| drop(pair.query(sql)));
                }
                for (name, _) in NAMES.iter().rev() {
                    let mut bytes = Vec::new();
                    build::describe(Kind::Statement, name.as_bytes(), &mut bytes);
                    build::sync(&mut bytes);
                    if *name != "gone" {
                        pair.flight(format!("describe {name}"), &bytes, 1);
                    }
                    run_prepared(&mut pair, name);
                }
                pair.query("ROLLBACK");
                pair.query("SET TimeZone TO 'America/New_York'");
                pair.query("SET standard_conforming_strings TO off");
                for (name, _) in &NAMES[1..] {
                    run_prepared(&mut pair, name);
                    run_prepared(&mut pair, name);
                }
            }
        }
    });
    end(&stack).await;
}

/// A transaction may still become another kind of transaction behind a RESET of what the session began with.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_reset_a_transaction_may_still_become_another() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for (mode, path) in [
            ("auto", "s2"),
            ("session", "s2"),
            // Not as PostgreSQL writes it, so that no SET leads there.
            ("auto", "s2,s1"),
            ("session", "s2,s1"),
        ] {
            let startup = [("search_path", path), ("DateStyle", "SQL")];
            for begin in [
                &["BEGIN; RESET search_path"][..],
                &["BEGIN", "RESET search_path"],
                &["BEGIN; RESET ALL"],
                &["BEGIN", "RESET ALL"],
                &["BEGIN", "RESET DateStyle"],
                &["BEGIN", "SET search_path TO DEFAULT"],
                &["BEGIN", "SET LOCAL search_path TO DEFAULT"],
                &["BEGIN; SET LOCAL search_path TO DEFAULT"],
                &["SET DateStyle TO ISO; SET LOCAL IntervalStyle TO iso_8601; ROLLBACK; BEGIN"],
                &["BEGIN; SET LOCAL IntervalStyle TO iso_8601; ROLLBACK; BEGIN"],
            ] {
                if path.contains(',') && begin[0].contains(';') {
                    continue; // Among several statements of one query it is said at once.
                }
                for is_by_query in [true, false] {
                    let mut pair = Pair::new(&stack, &tenant, mode, &startup);
                    pair.query("SET search_path TO s1");
                    for sql in begin {
                        if is_by_query || sql.contains(';') {
                            pair.query(sql);
                        } else {
                            run(&mut pair, sql);
                        }
                    }
                    if is_by_query {
                        pair.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
                    } else {
                        run(&mut pair, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
                    }
                    pair.query("SHOW transaction_isolation");
                    pair.query("SHOW search_path");
                    pair.query("SELECT v FROM t");
                    pair.query("COMMIT");
                    pair.query("SELECT v FROM t");
                    // What is put off is there for whatever comes next, and gone where the transaction is.
                    for next in [
                        "SHOW search_path",
                        "SELECT v FROM t",
                        "SET TRANSACTION ISOLATION LEVEL; SELECT v FROM t",
                        "COMMIT",
                        "ROLLBACK",
                        "SET TRANSACTION ISOLATION LEVEL nonsense",
                        "SAVEPOINT a; SELECT 1/0",
                    ] {
                        pair.query("SET search_path TO s1");
                        begin.iter().for_each(|sql| drop(pair.query(sql)));
                        if is_by_query {
                            pair.query(next);
                        } else if !next.contains(';') {
                            run(&mut pair, next);
                        }
                        pair.query("ROLLBACK");
                        pair.same_settings();
                        run(&mut pair, "SELECT v FROM t");
                    }
                }
            }
        }
    });
    end(&stack).await;
}

/// Temporary objects bring a schema into the `search_path`, so what was prepared before is analysed anew when it is used
/// next: by another role that may not see what it names, it is refused. What was prepared behind them is not.
#[tokio::test(flavor = "multi_thread")]
async fn temporary_objects_have_statements_analysed_as_the_role_of_then() {
    let (stack, tenant) = start().await;
    let describe = |pair: &mut Pair, name: &str| {
        let mut bytes = Vec::new();
        build::describe(Kind::Statement, name.as_bytes(), &mut bytes);
        build::sync(&mut bytes);
        pair.flight(format!("describe {name}"), &bytes, 1);
    };
    tokio::task::block_in_place(|| {
        // Their schemas are there already on every server connection.
        let mut all: Vec<_> = (0..4)
            .map(|_| Pair::new(&stack, &tenant, "auto", &[]))
            .collect();
        for pair in &mut all {
            pair.query("CREATE TEMP TABLE own (a int)");
        }
        for pair in &mut all {
            pair.query("DROP TABLE own");
        }
        drop(all);
        for make in [
            "CREATE TEMP TABLE own (a int)",
            "DROP TABLE IF EXISTS own; CREATE TABLE pg_temp.own (a int); RESET extra_float_digits",
            "DO $$ BEGIN CREATE TEMP TABLE own (a int); END $$",
            "SELECT 'temporary'",
        ] {
            for role in [
                "SET ROLE NONE",
                "SELECT set_config('role', 'none', false)",
                "SET LOCAL ROLE NONE",
            ] {
                for (is_by_query, begin) in [(true, ""), (false, ""), (true, "BEGIN")] {
                    if begin.is_empty() && role.contains("LOCAL") {
                        continue;
                    }
                    let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                    parse(&mut pair, "before", "SELECT v, $1::int FROM s1.t");
                    parse(&mut pair, "used", "SELECT v FROM s1.t");
                    pair.query(begin);
                    pair.query(make);
                    if make.contains("RESET") && begin.is_empty() {
                        // They are gone by then; their schema is not.
                        pair.query("DROP TABLE own; RESET extra_float_digits");
                    }
                    parse(&mut pair, "behind", "SELECT v, 1 FROM s2.t");
                    run_prepared(&mut pair, "used");
                    if is_by_query {
                        pair.query(role);
                    } else {
                        run(&mut pair, role);
                    }
                    for name in ["behind", "used", "before", "behind"] {
                        describe(&mut pair, name);
                    }
                    pair.query("ROLLBACK");
                    pair.query("SET ROLE tenantry_admin");
                    for name in ["behind", "used"] {
                        run_prepared(&mut pair, name);
                    }
                    describe(&mut pair, "before");
                }
            }
        }
    });
    end(&stack).await;
}

/// What cannot be planned is no reason for a failed transaction where it is analysed anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_cannot_be_planned_is_analysed_anew_and_nothing_stays_of_it() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for begin in ["", "BEGIN"] {
            for next in [
                "SELECT 1; DEALLOCATE none",
                "SET DateStyle TO 'SQL'",
                "DISCARD ALL",
            ] {
                let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                parse(
                    &mut pair,
                    "fails",
                    "SELECT timestamptz '2024-06-01 12:00', 1/0",
                );
                pair.query("CREATE TEMP TABLE own (a int)");
                pair.query(begin);
                pair.query(next);
                pair.query("SELECT 2");
                pair.query("ROLLBACK");
                pair.query("DISCARD ALL");
                pair.query("SELECT 3");
            }
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

/// A `search_path` that is set to what it is, is no reason to analyse anything anew.
#[tokio::test(flavor = "multi_thread")]
async fn constants_stay_where_the_search_path_is_set_to_what_it_is() {
    let (stack, tenant) = start().await;
    let startup = [("DateStyle", "SQL"), ("search_path", "s2")];
    tokio::task::block_in_place(|| {
        for (number, sql) in [
            "SET search_path TO DEFAULT",
            "SET search_path TO s2",
            "RESET search_path",
            "SET LOCAL search_path TO DEFAULT",
            "SET search_path TO s1",
        ]
        .iter()
        .enumerate()
        {
            let mut pair = Pair::new(&stack, &tenant, "auto", &startup);
            parse(
                &mut pair,
                "one",
                &format!("SELECT '01/02/2003'::date, {number}"),
            );
            pair.query("BEGIN");
            pair.query(sql);
            run_prepared(&mut pair, "one");
            pair.query("COMMIT");
            pair.query("SET DateStyle TO 'German'");
            run_prepared(&mut pair, "one");
            run_prepared(&mut pair, "one");
        }
    });
    end(&stack).await;
}

/// EXECUTE of a statement that came by the protocol leads back to what the session began with, as the statement itself does.
#[tokio::test(flavor = "multi_thread")]
async fn execute_of_a_prepared_reset_leads_back_to_what_the_session_began_with() {
    let (stack, tenant) = start().await;
    let startup = [("DateStyle", "SQL"), ("search_path", "s2")];
    tokio::task::block_in_place(|| {
        for sql in [
            "RESET ALL",
            "RESET DateStyle",
            "SET LOCAL DateStyle TO DEFAULT",
        ] {
            for begin in ["", "BEGIN"] {
                for hands_over in ["", "SELECT 1; DEALLOCATE none"] {
                    let mut pair = Pair::new(&stack, &tenant, "auto", &startup);
                    parse(&mut pair, "resets", sql);
                    pair.query(hands_over);
                    pair.query("SET DateStyle TO 'German'");
                    pair.query(begin);
                    pair.query("EXECUTE resets");
                    pair.query("SELECT '01/02/2003'::date, current_setting('search_path')");
                    pair.query("COMMIT");
                    pair.same_settings();
                }
            }
        }
    });
    end(&stack).await;
}

/// Whoever a session is behind a change of its role may not see what its statements name. They are there before it also
/// where another session has the server connection on which they were prepared.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_role_finds_statements_there_on_another_server_connection() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for (role, way) in [
            ("SET ROLE NONE", "query"),
            ("SET ROLE NONE", "unnamed"),
            ("SET ROLE NONE", "named"),
            ("SELECT set_config('role', 'none', false)", "query"),
            ("SELECT set_config('role', 'none', false)", "unnamed"),
            ("SELECT set_config('role', 'none', false)", "named"),
        ] {
            for was_another in [false, true] {
                let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                let mut other = Pair::new(&stack, &tenant, "auto", &[]);
                let sql = format!("SELECT v, '{way} {role} {was_another}' FROM s2.t");
                parse(&mut pair, "theirs", &sql);
                parse(&mut pair, "changes", role);
                if was_another {
                    pair.query("SET ROLE NONE");
                    pair.query("SET ROLE tenantry_admin");
                    pair.query("SELECT 1");
                }
                other.query("BEGIN");
                let mut bytes = Vec::new();
                match way {
                    "query" => build::query(role, &mut bytes),
                    name => {
                        let name = if name == "named" { "changes" } else { "" };
                        if name.is_empty() {
                            build::parse(b"", role.as_bytes(), &[], &mut bytes);
                        }
                        build::bind_nothing(b"", name.as_bytes(), &mut bytes);
                        build::execute(b"", 0, &mut bytes);
                        build::sync(&mut bytes);
                    }
                }
                pair.flight(format!("{role}, {way}"), &bytes, 1);
                let mut bytes = Vec::new();
                build::describe(Kind::Statement, b"theirs", &mut bytes);
                build::sync(&mut bytes);
                pair.flight("describe theirs".to_owned(), &bytes, 1);
                other.query("COMMIT");
                pair.query("SET ROLE tenantry_admin");
                run_prepared(&mut pair, "theirs");
            }
        }
    });
    end(&stack).await;
}

/// What a role of one transaction may not see was prepared by the role before.
#[tokio::test(flavor = "multi_thread")]
async fn statements_are_what_they_were_under_the_role_of_a_transaction() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for role in [
            "SET LOCAL ROLE NONE",
            "SELECT set_config('role', 'none', true)",
            "SET ROLE NONE",
        ] {
            for is_by_query in [true, false] {
                let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                parse(&mut pair, "one", "SELECT v, current_user FROM s1.t");
                pair.query("BEGIN");
                if is_by_query {
                    pair.query(role);
                } else {
                    run(&mut pair, role);
                }
                let mut bytes = Vec::new();
                build::describe(Kind::Statement, b"one", &mut bytes);
                build::sync(&mut bytes);
                pair.flight("describe one".to_owned(), &bytes, 1);
                pair.query("SELECT current_user = session_user");
                pair.query("ROLLBACK");
                run_prepared(&mut pair, "one");
            }
        }
    });
    end(&stack).await;
}

/// PostgreSQL analyses a statement anew under another `search_path`, as another role and once there are temporary
/// objects, its constants under the settings of then. Another session that prepared the same does not meet that.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_statement_becomes_for_one_session_it_is_not_for_another() {
    let (stack, tenant) = start().await;
    stack.set_route(&tenant, Role::Admin, |route| {
        route.limits.server_connections_max = 2;
    });
    tokio::task::block_in_place(|| {
        for (both, one, back) in [
            ("SET search_path TO s2", "SELECT 1", "SELECT 1"),
            (
                "SELECT 1",
                "BEGIN; SET LOCAL search_path TO s2",
                "COMMIT; SET search_path TO s2",
            ),
            (
                "SELECT 1",
                "BEGIN; SELECT set_config('search_path', 's2', true)",
                "COMMIT; SET search_path TO s2",
            ),
            (
                "SELECT 1",
                "CREATE TEMP TABLE own (a int)",
                "DROP TABLE own",
            ),
        ] {
            let sql = format!("SELECT timestamptz '2024-06-01 12:00', 'behind {one}'");
            let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
            let mut other = Pair::new(&stack, &tenant, "auto", &[]);
            for pair in [&mut pair, &mut other] {
                parse(pair, "one", &sql);
                pair.query(both);
            }
            for _ in 0..4 {
                // On each server connection.
                run_prepared(&mut other, "one");
                pair.query("SELECT 1");
            }
            pair.query("SET TimeZone TO 'Asia/Tokyo'");
            pair.query(one);
            run_prepared(&mut pair, "one");
            pair.query(back);
            if back.contains("search_path") {
                other.query("SET search_path TO s2");
            }
            for _ in 0..4 {
                run_prepared(&mut other, "one");
                pair.query("SELECT 1");
            }
        }
    });
    end(&stack).await;
}

/// What a session began with is led back to at once also behind a RESET ALL that was prepared by name, where its server
/// connection has that name.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_reset_that_was_handed_over_leads_back_at_once() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for hands_over in [
            "DEALLOCATE none; SET synchronous_commit TO on",
            "DISCARD PLANS",
            "SELECT 1; EXECUTE other",
        ] {
            for is_behind in [false, true] {
                let startup = [("client_encoding", "LATIN1"), ("work_mem", "2MB")];
                let mut pair = Pair::new(&stack, &tenant, "auto", &startup);
                parse(&mut pair, "other", "SELECT 2");
                if is_behind {
                    pair.query(hands_over);
                }
                parse(&mut pair, "resets", "RESET ALL");
                pair.query(hands_over);
                pair.query("SET work_mem TO '3MB'");
                for _ in 0..2 {
                    let mut bytes = Vec::new();
                    for name in [&b"resets"[..], b"other", b"resets"] {
                        build::bind_nothing(b"p", name, &mut bytes);
                        build::describe(Kind::Portal, b"p", &mut bytes);
                        build::execute(b"p", 0, &mut bytes);
                        build::close(Kind::Portal, b"p", &mut bytes);
                    }
                    build::sync(&mut bytes);
                    build::query("SHOW work_mem", &mut bytes);
                    pair.flight("resets, other, resets".to_owned(), &bytes, 2);
                    pair.same_settings();
                }
                pair.query("DEALLOCATE resets");
                parse(&mut pair, "resets", "SELECT 5");
                pair.query("SET work_mem TO '4MB'");
                run_prepared(&mut pair, "resets");
                pair.query("SHOW work_mem");
            }
        }
    });
    end(&stack).await;
}

/// A statement that PostgreSQL analyses anew, under another `search_path` or since there are temporary objects, keeps its
/// constants as they were read then, to the next such reason.
#[tokio::test(flavor = "multi_thread")]
async fn constants_stay_as_they_were_read_when_a_statement_was_analysed_anew() {
    let (stack, tenant) = start().await;
    stack.postgres.sql(
        &tenant.pid.database(),
        "CREATE TABLE public.never (at timestamptz CHECK (at IS NULL), a int);
         GRANT ALL ON public.never TO tenantry_admin",
    );
    let refused = "INSERT INTO public.never VALUES ('2024-06-01 12:00', 5)";
    let cases: [&[&str]; 11] = [
        &[
            "SET search_path TO s2",
            "run",
            "SET TimeZone TO 'Asia/Tokyo'",
        ],
        &[
            "SET TimeZone TO 'Asia/Tokyo'",
            "SET search_path TO s2",
            "run",
            "SET TimeZone TO 3",
        ],
        &[
            "BEGIN; SET LOCAL search_path TO s2",
            "run",
            "COMMIT",
            "SET TimeZone TO 'Asia/Tokyo'",
            "run",
            "SET TimeZone TO 3",
        ],
        &[
            "SET search_path TO s2",
            "BEGIN; SET LOCAL TimeZone TO 3",
            "run",
            "COMMIT",
        ],
        &[
            "SET search_path TO s2",
            "run",
            "BEGIN; SET LOCAL TimeZone TO 3",
            "run",
            "COMMIT",
        ],
        &[
            "SET search_path TO s2",
            "run",
            "BEGIN",
            "SET TimeZone TO 3",
            "ROLLBACK",
        ],
        &[
            "SET search_path TO s2",
            "run",
            "DO $$ BEGIN SET TimeZone TO 3; END $$",
        ],
        &[
            "SET search_path TO s2",
            "run",
            "SELECT set_config('TimeZone', '3', false)",
        ],
        &[
            "SET search_path TO s2",
            "run",
            "SET search_path TO s1",
            "run",
            "SET TimeZone TO 3",
        ],
        &[
            "SET TimeZone TO 3",
            "CREATE TEMP TABLE own (a int)",
            "run",
            "SET TimeZone TO 4",
        ],
        &[
            "CREATE TEMP TABLE own (a int)",
            "SET TimeZone TO 3",
            "run",
            "SET TimeZone TO 4",
        ],
    ];
    tokio::task::block_in_place(|| {
        for (number, case) in cases.iter().enumerate() {
            for sql in [
                &format!("SELECT timestamptz '2024-06-01 12:00', {number}"),
                refused,
            ] {
                // Twice, since server connections that had temporary objects have a schema for them.
                for _ in 0..2 {
                    let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                    parse(&mut pair, "one", sql);
                    parse(
                        &mut pair,
                        "two",
                        "SELECT timestamptz '2024-06-01 12:00', $1::int",
                    );
                    for step in case.iter().copied().chain(["run", "SELECT 1", "run"]) {
                        if step == "run" {
                            run_prepared(&mut pair, "one");
                        } else {
                            pair.query(step);
                        }
                    }
                    pair.query("EXECUTE two(7)");
                    pair.query("DISCARD ALL");
                    pair.same_settings();
                }
            }
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

/// A word in a comment leads nothing back: what the session has emptied stays empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_comment_about_a_reset_resets_nothing() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for mode in ["auto", "session"] {
            for comment in ["-- DISCARD ALL\n", "/* reset */ ", ";; -- TO DEFAULT\n"] {
                let mut pair = Pair::new(&stack, &tenant, mode, &[("app.one", "begun")]);
                pair.query(&format!(
                    "{comment}SELECT g, set_config('app.one', '', false) FROM generate_series(1, 2) g"
                ));
                pair.query("SHOW app.one");
                pair.query(&format!("{comment}SELECT 1"));
                pair.query("SHOW app.one");
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
