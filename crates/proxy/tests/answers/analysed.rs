//! Statements that PostgreSQL has a reason to analyse anew: what their text was read as stays, and what it means is of now.

use model::Role;
use wire::message::{Kind, build};

use crate::{
    end,
    kit::pair::{Pair, parse, run_prepared},
    run, start,
};

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
