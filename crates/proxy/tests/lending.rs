//! Sessions that never get the same server connection twice running, beside direct connections that
//! are sent the same: every answer and every setting is the same.
//!
//! The scripts are random. A failure prints its seed; `TENANTRY_TEST_SEED` runs that one alone, and with
//! `TENANTRY_TEST_SHRINK` set leaves out whatever the failure does not need. Which seeds are drawn is decided by
//! `TENANTRY_SEED`, if there is one.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::sync::Barrier;

use kit::{
    Stack, Tenant,
    pair::{Pair, comparable, parse, run_prepared},
    raw::{self, Raw},
};
use model::{Role, route::PoolMode};
use proxy::LendingRule;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use wire::{
    message::{Kind, build},
    startup::Protocol,
};

/// Flights of one script.
const STEPS: usize = 120;

const SETTINGS: [(&str, &[&str]); 13] = [
    (
        "TimeZone",
        &[
            "'UTC'",
            "'Asia/Tokyo'",
            "'America/New_York'",
            "3",
            "LOCAL",
            "DEFAULT",
        ],
    ),
    (
        "DateStyle",
        &[
            "'ISO'",
            "'German'",
            "SQL, DMY",
            "'Postgres, MDY'",
            "DEFAULT",
        ],
    ),
    ("IntervalStyle", &["postgres", "sql_standard", "iso_8601"]),
    ("work_mem", &["'1MB'", "2048", "'5000kB'"]),
    (
        "search_path",
        &[
            "s1",
            "s2, public",
            "'s1', \"$user\"",
            "\"S3\", s2",
            "DEFAULT",
        ],
    ),
    ("extra_float_digits", &["0", "3", "-3"]),
    ("app.one", &["'x'", "'it''s'", "''", "5"]),
    ("app.two", &["'y'", "'\u{e4}'"]),
    ("standard_conforming_strings", &["on", "off"]),
    ("bytea_output", &["escape", "hex"]),
    ("lock_timeout", &["'5s'", "100000"]),
    (
        "default_transaction_isolation",
        &["serializable", "'read committed'"],
    ),
    ("client_min_messages", &["error", "notice"]),
];

/// Statements whose answers depend on settings, also on those in force when they were parsed.
const PROBES: [&str; 10] = [
    "SELECT '2024-06-01 12:00'::timestamptz, 'x'",
    "SELECT timestamptz '2024-01-15 00:00+00'",
    "SELECT '01/02/2003'::date",
    "SELECT interval '1 day 2:03:04'",
    "SELECT 0.1::float8 * 3, 1/3.0::float8",
    "SELECT v FROM t ORDER BY v",
    // PostgreSQL forgets no custom name once it was set: where it was null it is empty then.
    "SELECT nullif(current_setting('app.one', true), ''), nullif(current_setting('app.two', true), '')",
    "SELECT '\\x41ff'::bytea, current_user, current_schemas(false)",
    "SELECT 'a\\nb', length('a\\nb')",
    "SELECT current_setting('transaction_isolation'), current_setting('work_mem')",
];

/// What holds a server connection, and what lets go of it.
const HOLDING: [&str; 16] = [
    "CREATE TEMP TABLE IF NOT EXISTS tt AS SELECT 1 AS a",
    "INSERT INTO tt VALUES (2)",
    "SELECT count(*) FROM tt",
    "DROP TABLE IF EXISTS tt",
    "LISTEN some",
    "UNLISTEN *",
    "PREPARE p AS SELECT '2024-06-01 12:00'::timestamptz",
    "EXECUTE p",
    "DEALLOCATE p",
    "SELECT pg_advisory_lock_shared(7)",
    "SELECT pg_advisory_unlock_all()",
    "DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 5)",
    "FETCH 2 FROM c",
    "CLOSE c",
    "DISCARD TEMP",
    "DO $$ BEGIN PERFORM set_config('app.one', 'done', false); END $$",
];

const TRANSACTIONS: [&str; 9] = [
    "BEGIN",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "COMMIT AND CHAIN",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
];

fn pick<'a>(rng: &mut StdRng, list: &[&'a str]) -> &'a str {
    list[rng.random_range(0..list.len())]
}

/// A statement that sets, resets or fails to.
fn setting(rng: &mut StdRng) -> String {
    let (name, values) = SETTINGS[rng.random_range(0..SETTINGS.len())];
    let value = pick(rng, values);
    // As a text, PostgreSQL takes it for what the session began with, which another one did not.
    let text = value.replace("DEFAULT", "UTC").replace('\'', "");
    match rng.random_range(0..16) {
        0..=5 => format!("SET {name} TO {value}"),
        6..=7 => format!("SET LOCAL {name} = {value}"),
        8 => format!("RESET {name}"),
        9 => "RESET ALL".to_owned(),
        10 => format!("SELECT set_config('{name}', '{text}', false)"),
        11 => format!("SELECT set_config('{name}', '{text}', true)"),
        12 => format!("SET {name} TO {value}; SELECT 1; SET app.two TO 'three'"),
        13 => format!("SET {name} TO {value}; SELECT 1/0"),
        14 => "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE".to_owned(),
        _ => "SET DateStyle TO 'nonsense'".to_owned(),
    }
}

/// What is sent at once, in pieces that can be left out: what a piece is, its bytes, and how many answers that say ready it has.
#[derive(Clone, Debug)]
struct Flight(Vec<(String, Vec<u8>, usize)>);

impl Flight {
    fn query(sql: &str) -> Self {
        let mut bytes = Vec::new();
        build::query(sql, &mut bytes);
        Self(vec![(sql.to_owned(), bytes, 1)])
    }

    fn send(&self, pair: &mut Pair) {
        let what: Vec<_> = self.0.iter().map(|(what, ..)| what.as_str()).collect();
        let bytes: Vec<_> = self
            .0
            .iter()
            .flat_map(|(_, bytes, _)| bytes.clone())
            .collect();
        let readies = self.0.iter().map(|(.., readies)| readies).sum();
        pair.flight(what.join(" "), &bytes, readies);
        if what == ["DISCARD ALL"] {
            // To a direct client the group is nothing, and DISCARD ALL ends it.
            let mut bytes = Vec::new();
            build::query("SET ROLE tenantry_admin", &mut bytes);
            pair.direct.send(&bytes);
            pair.direct.until(b'Z');
            pair.query("SELECT current_user");
        }
    }
}

fn step(rng: &mut StdRng, holds: bool) -> Flight {
    let name = |rng: &mut StdRng| format!("s{}", rng.random_range(1..4));
    let sql = match rng.random_range(0..24) {
        0..=4 => setting(rng),
        5..=7 => pick(rng, &PROBES).to_owned(),
        8..=10 => pick(rng, &TRANSACTIONS).to_owned(),
        11 => pick(
            rng,
            &["SELECT 1/0", "SELEC", "", ";;", "SELECT 1; SELECT 2"],
        )
        .to_owned(),
        12 if holds => pick(rng, &HOLDING).to_owned(),
        13 => {
            let name = name(rng);
            match rng.random_range(0..6) {
                0 => "DEALLOCATE ALL".to_owned(),
                1 => "DISCARD PLANS".to_owned(),
                2 if holds => format!("EXECUTE {name}"),
                3 if holds => format!("PREPARE {name} AS SELECT 3"),
                _ => format!("DEALLOCATE {name}"),
            }
        }
        14 => "DISCARD ALL".to_owned(),
        _ => return pipeline(rng, &name),
    };
    Flight::query(&sql)
}

/// A few extended-query messages in one flight, sensible or not.
fn pipeline(rng: &mut StdRng, name: &impl Fn(&mut StdRng) -> String) -> Flight {
    let mut pieces = Vec::new();
    let mut add = |what: String, bytes: Vec<u8>, readies| pieces.push((what, bytes, readies));
    let sync = || {
        let mut bytes = Vec::new();
        build::sync(&mut bytes);
        bytes
    };
    for _ in 0..rng.random_range(1..5) {
        let named = rng.random_range(0..3) > 0;
        let name = if named { name(rng) } else { String::new() };
        let statement = name.as_bytes();
        for _ in 0..rng.random_range(1..4) {
            let mut bytes = Vec::new();
            let what = match rng.random_range(0..10) {
                0..=2 => {
                    // Describe of one without result works in a transaction that failed, if it is
                    // there. Where it would have to be made, it cannot be; so none is asked for.
                    let only_probes = name == "s1" || name == "s2";
                    let sql = match rng.random_range(if only_probes { 3 } else { 0 }..8) {
                        0 => setting(rng),
                        1 => pick(rng, &["BEGIN", "COMMIT", "ROLLBACK"]).to_owned(),
                        2 => pick(rng, &["SELEC", "SELECT 1/0", "DEALLOCATE ALL", ""]).to_owned(),
                        _ => pick(rng, &PROBES).to_owned(),
                    };
                    build::parse(statement, sql.as_bytes(), &[], &mut bytes);
                    format!("P[{name}|{sql}]")
                }
                3 if name != "s3" => {
                    build::describe(Kind::Statement, statement, &mut bytes);
                    format!("D[{name}]")
                }
                4 => {
                    build::close(Kind::Statement, statement, &mut bytes);
                    format!("C[{name}]")
                }
                5..=8 => {
                    build::bind_nothing(b"", statement, &mut bytes);
                    build::describe(Kind::Portal, b"", &mut bytes);
                    build::execute(b"", 0, &mut bytes);
                    format!("B[{name}] E")
                }
                _ => {
                    build::flush(&mut bytes);
                    "H".to_owned()
                }
            };
            add(what, bytes, 0);
        }
        if rng.random_range(0..2) == 0 {
            add("S".to_owned(), sync(), 1);
        }
    }
    add("S".to_owned(), sync(), 1);
    if rng.random_range(0..4) == 0 {
        let sql = pick(rng, &PROBES);
        let mut bytes = Vec::new();
        build::query(sql, &mut bytes);
        add(format!("Q[{sql}]"), bytes, 1);
    }
    Flight(pieces)
}

fn script(stack: &Stack, tenant: &Tenant, mode: &str, seed: u64, holds: bool) {
    let mut rng = StdRng::seed_from_u64(seed);
    let startup: &[(&str, &str)] = match rng.random_range(0..3) {
        0 => &[],
        1 => &[("TimeZone", "Europe/Berlin"), ("app.one", "base")],
        _ => &[
            ("extra_float_digits", "2"),
            ("DateStyle", "SQL"),
            ("search_path", "s2"),
        ],
    };
    let flights: Vec<_> = (0..STEPS).map(|_| step(&mut rng, holds)).collect();
    let play = |flights: &[Flight]| {
        let mut pair = Pair::new(stack, tenant, mode, startup);
        pair.log
            .push(format!("seed {seed}, mode {mode}, {startup:?}"));
        for flight in flights {
            flight.send(&mut pair);
        }
        pair.query("ROLLBACK");
        pair.same_settings();
        for sql in PROBES {
            pair.query(sql);
        }
    };
    if std::env::var_os("TENANTRY_TEST_SHRINK").is_some() {
        shrink(flights, |flights| play(flights));
    } else {
        play(&flights);
    }
}

/// Leaves out whatever a failure does not need, and fails with the rest: flights by halves, then pieces of them.
fn shrink(mut flights: Vec<Flight>, play: impl Fn(&[Flight])) {
    let fails = |flights: &[Flight]| {
        let play = std::panic::AssertUnwindSafe(|| play(flights));
        std::panic::catch_unwind(play).is_err()
    };
    if !fails(&flights) {
        return;
    }
    let mut size = flights.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < flights.len() {
            let mut fewer = flights.clone();
            fewer.drain(at..(at + size).min(flights.len()));
            if fails(&fewer) {
                flights = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    for number in 0..flights.len() {
        let mut at = 0;
        while at < flights[number].0.len() {
            let mut fewer = flights.clone();
            let (what, ..) = fewer[number].0.remove(at);
            let behind = fewer[number].0.get(at);
            // Without its last Sync no answer would come.
            let is_needed = what == "S" && behind.is_none_or(|(what, ..)| what.starts_with("Q["));
            if !is_needed && fails(&fewer) {
                flights = fewer;
            } else {
                at += 1;
            }
        }
    }
    eprintln!("\nshrunk, it fails with:");
    play(&flights);
}

/// A tenant with tables of the same name in three schemas.
fn tenant(stack: &Stack) -> Tenant {
    let tenant = stack.tenant();
    stack.postgres.sql(
        &tenant.pid.database(),
        "CREATE SCHEMA s1; CREATE SCHEMA s2; CREATE SCHEMA \"S3\";
         CREATE TABLE s1.t (v text); INSERT INTO s1.t VALUES ('one');
         CREATE TABLE s2.t (v text); INSERT INTO s2.t VALUES ('two'), ('deux');
         CREATE TABLE \"S3\".t (v int); INSERT INTO \"S3\".t VALUES (3);
         GRANT USAGE ON SCHEMA s1, s2, \"S3\" TO tenantry_admin;
         GRANT SELECT ON ALL TABLES IN SCHEMA s1, s2, \"S3\" TO tenantry_admin",
    );
    // The first temporary table of a server process makes a schema, for which every session of the database analyses
    // all it has prepared anew: constants would depend on whether that came before or behind a `SET` of another lane.
    stack.postgres.sql(
        &tenant.pid.database(),
        "SET allow_system_table_mods = on;
         DO $$ BEGIN FOR number IN 0..99 LOOP
             EXECUTE format('CREATE SCHEMA pg_temp_%s', number);
             EXECUTE format('CREATE SCHEMA pg_toast_temp_%s', number);
         END LOOP; END $$",
    );
    tenant
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("TENANTRY_TEST_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => {
            let first = match std::env::var("TENANTRY_SEED") {
                Ok(seed) => seed.parse().unwrap(),
                Err(_) => rand::random(),
            };
            let mut rng = StdRng::seed_from_u64(first);
            (0..count).map(|_| rng.random()).collect()
        }
    }
}

async fn run(bin: Option<std::path::PathBuf>, mode: &'static str, count: u64, holds: bool) {
    let change = |config: &mut proxy::Config| {
        config.lending = LendingRule::NeverTheSameTwice;
        config.require_tls = false;
    };
    let stack = match bin {
        Some(bin) => Stack::start_on(bin, change).await,
        None => Stack::start(change).await,
    };
    let tenant = tenant(&stack);
    let seeds = seeds(count);
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            for lane in 0..3 {
                let (stack, tenant, seeds) = (&stack, &tenant, &seeds);
                scope.spawn(move || {
                    for seed in seeds.iter().skip(lane).step_by(3) {
                        eprintln!("seed {seed}");
                        script(stack, tenant, mode, *seed, holds);
                    }
                });
            }
        });
    });
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_the_same_on_whichever_server_connection() {
    run(None, "auto", 24, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_the_same_with_postgresql_18() {
    run(Some(kit::postgres_18()), "auto", 12, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_its_own_server_connection_is_the_same_too() {
    run(None, "session", 6, true).await;
}

/// More clients than server connections; each puts its own mark into everything it asks.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_mark_of_its_session() {
    const CLIENTS: u64 = 8;
    let stack = Stack::with_budget(2, |config| {
        config.lending = LendingRule::NeverTheSameTwice;
        config.require_tls = false;
    })
    .await;
    let tenant = tenant(&stack);
    stack.set_route(&tenant, Role::Admin, |route| {
        route.pool_mode = PoolMode::Auto
    });
    let began = Barrier::new(CLIENTS as usize);
    let seed: u64 = seeds(1)[0];
    eprintln!("seed {seed}");
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            for mark in 0..CLIENTS {
                let (stack, tenant, began) = (&stack, &tenant, &began);
                scope.spawn(move || marked(stack, tenant, seed.wrapping_add(mark), mark, began));
            }
        });
    });
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
    assert!(snapshot.nodes[0].servers <= 2);
}

fn marked(stack: &Stack, tenant: &Tenant, seed: u64, mark: u64, began: &Barrier) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut raw = Raw::plain(stack.port);
    let user = tenant.login(Role::Admin).to_string();
    let list = [("user", user.as_str()), ("database", "postgres")];
    raw.log_in(Protocol::V3_0, &list, &tenant.password);
    raw.query(&format!("SET app.mark TO '{mark}'"));
    let mut bytes = Vec::new();
    let sql = format!("SELECT '{mark}'");
    build::parse(b"mine", sql.as_bytes(), &[], &mut bytes);
    build::sync(&mut bytes);
    raw.send(&bytes);
    raw.until(b'Z');
    began.wait();
    for _ in 0..150 {
        let seen = match rng.random_range(0..5) {
            0 => raw.query("SELECT current_setting('app.mark')"),
            1 => raw.query(&format!("BEGIN; SELECT '{mark}'; COMMIT")),
            2 => {
                raw.query("BEGIN");
                let seen = raw.query("SELECT current_setting('app.mark')");
                raw.query(["COMMIT", "ROLLBACK"][rng.random_range(0..2)]);
                seen
            }
            3 => {
                // A failure leaves the next answer where it belongs.
                let seen = raw.query("SELECT 1/0");
                assert_eq!(raw::code_of(&seen), "22012", "{:?}", comparable(&seen));
                continue;
            }
            _ => {
                let mut bytes = Vec::new();
                build::bind_nothing(b"", b"mine", &mut bytes);
                build::execute(b"", 0, &mut bytes);
                build::sync(&mut bytes);
                raw.send(&bytes);
                raw.until(b'Z')
            }
        };
        assert_eq!(raw::value(&seen), mark.to_string());
    }
}

/// After DISCARD PLANS a statement is read as it would be now, once it is used; those of other sessions, on whichever
/// server connection they are, stay what they were.
#[tokio::test(flavor = "multi_thread")]
async fn discarded_plans_are_made_under_the_settings_of_then() {
    let stack = Stack::start(|config| {
        config.lending = LendingRule::NeverTheSameTwice;
        config.require_tls = false;
    })
    .await;
    let tenant = tenant(&stack);
    stack.set_route(&tenant, Role::Admin, |route| {
        route.limits.server_connections_max = 2;
    });
    tokio::task::block_in_place(|| {
        for mode in ["auto", "transaction"] {
            let mut beside = Pair::new(&stack, &tenant, mode, &[]);
            let mut pair = Pair::new(&stack, &tenant, mode, &[]);
            let sql = "SELECT timestamptz '2024-06-01 12:00'";
            for pair in [&mut beside, &mut pair] {
                for name in ["one", "other"] {
                    parse(pair, name, sql);
                }
                pair.query("SET TimeZone TO 'America/New_York'");
                run_prepared(pair, "one");
            }
            pair.query("DISCARD PLANS");
            run_prepared(&mut pair, "one");
            pair.query("SET TimeZone TO 'Asia/Tokyo'");
            run_prepared(&mut pair, "one");
            run_prepared(&mut pair, "other");
            pair.query("SET TimeZone TO 'UTC'");
            pair.query("EXECUTE other");
            run_prepared(&mut pair, "one");
            for _ in 0..4 {
                run_prepared(&mut beside, "one");
                run_prepared(&mut beside, "other");
            }
            // Also where nobody can tell what was discarded.
            pair.query("DISCARD PLANS; DISCARD SEQUENCES");
            for _ in 0..4 {
                run_prepared(&mut beside, "one");
                run_prepared(&mut beside, "other");
            }
        }
    });
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
}

/// SQL finds a statement that came by the protocol as whoever prepared it did, whatever role and transaction
/// the session is in when it names it, and the transaction outlives one whose table is gone.
#[tokio::test(flavor = "multi_thread")]
async fn sql_meets_statements_of_the_protocol_under_any_role_and_in_any_transaction() {
    let stack = Stack::start(|config| {
        config.lending = LendingRule::NeverTheSameTwice;
        config.require_tls = false;
    })
    .await;
    let tenant = tenant(&stack);
    tokio::task::block_in_place(|| {
        for (begin, end) in [("SELECT 1", "SELECT 2"), ("BEGIN", "COMMIT")] {
            for change in ["SET ROLE NONE", "SET TimeZone TO 'Asia/Tokyo'", "SELECT 3"] {
                let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                parse(
                    &mut pair,
                    "one",
                    "SELECT v, '2024-06-01'::timestamptz FROM s1.t",
                );
                parse(&mut pair, "other", "SELECT v FROM s2.t");
                stack.postgres.sql(
                    &tenant.pid.database(),
                    "CREATE TABLE s1.gone (v int); GRANT SELECT ON s1.gone TO tenantry_admin",
                );
                parse(&mut pair, "gone", "SELECT v FROM s1.gone");
                let drop = "DROP TABLE s1.gone";
                stack.postgres.sql(&tenant.pid.database(), drop);
                pair.query(begin);
                pair.query(change);
                // The wall role of the login may not use the schemas: that is for whoever executes.
                pair.query("SELECT 5; EXPLAIN (COSTS OFF) EXECUTE one");
                pair.query("SELECT 5");
                pair.query(end);
                pair.query("RESET ROLE; SET ROLE tenantry_admin");
                for name in ["one", "other"] {
                    run_prepared(&mut pair, name);
                }
                pair.query(begin);
                pair.query("SELECT 6; EXECUTE one");
                pair.query("SELECT 7; DEALLOCATE other");
                run_prepared(&mut pair, "one");
                pair.query(end);
                run_prepared(&mut pair, "other");
                pair.query("SELECT 8; DEALLOCATE ALL");
                run_prepared(&mut pair, "one");
                pair.same_settings();
            }
        }
    });
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
}

/// A Close that is skipped because of an error before it closes nothing, and SQL in the same flight knows.
#[tokio::test(flavor = "multi_thread")]
async fn sql_meets_a_name_that_a_failed_pipeline_did_not_come_to_close() {
    let stack = Stack::start(|config| {
        config.lending = LendingRule::NeverTheSameTwice;
        config.require_tls = false;
    })
    .await;
    let tenant = tenant(&stack);
    tokio::task::block_in_place(|| {
        let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
        for is_by_query in [true, false] {
            let mut bytes = Vec::new();
            build::parse(b"one", b"SELECT 1", &[], &mut bytes);
            build::execute(b"there is none", 0, &mut bytes);
            build::close(Kind::Statement, b"one", &mut bytes);
            build::sync(&mut bytes);
            let prepare = "PREPARE one AS SELECT 2";
            if is_by_query {
                build::query(prepare, &mut bytes);
            } else {
                build::parse(b"", prepare.as_bytes(), &[], &mut bytes);
                build::bind_nothing(b"", b"", &mut bytes);
                build::execute(b"", 0, &mut bytes);
                build::sync(&mut bytes);
            }
            pair.flight(format!("by a query: {is_by_query}"), &bytes, 2);
            pair.query("DISCARD PLANS; DEALLOCATE ALL");
        }
    });
}

/// Where definitions may change settings, what a pipeline names is made before it. What a session has readied on a server
/// connection is gone behind a reset.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_readied_is_made_again_behind_a_reset() {
    let stack = Stack::start(|config| {
        config.lending = LendingRule::NeverTheSameTwice;
        config.require_tls = false;
    })
    .await;
    let tenant = tenant(&stack);
    stack.postgres.sql(
        &tenant.pid.database(),
        "CREATE FUNCTION public.sets() RETURNS void LANGUAGE plpgsql
         AS $$ BEGIN PERFORM set_config('TimeZone', 'UTC', false); END $$",
    );
    // Each loan is of the same one, and what the other session may have left on it is reset.
    stack.set_route(&tenant, Role::Admin, |route| {
        route.limits.server_connections_max = 1;
    });
    tokio::task::block_in_place(|| {
        let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
        let mut other = Pair::new(&stack, &tenant, "transaction", &[]);
        parse(&mut pair, "one", "SELECT v FROM s1.t");
        for time in 0..4 {
            other.query("DO $$ BEGIN SET work_mem TO '1MB'; END $$");
            let mut bytes = Vec::new();
            build::parse(b"", b"SELECT v FROM s2.t", &[], &mut bytes);
            for name in [&b""[..], b"one"] {
                build::bind_nothing(b"", name, &mut bytes);
                build::execute(b"", 0, &mut bytes);
            }
            build::sync(&mut bytes);
            pair.flight(format!("pipeline {time}"), &bytes, 1);
        }
    });
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
}
