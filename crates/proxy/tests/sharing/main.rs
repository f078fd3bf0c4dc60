//! Two sessions of one tenant and one server connection between them, in mode `auto`: whatever one does
//! to its session, the other does not meet it, and the one does not lose it.
//!
//! Each case is done on a direct connection first, where the same probe must find what was done: a
//! case that does nothing, or whose probe sees nothing, fails. Then two sessions take turns.

#![allow(clippy::unwrap_used, reason = "a test")]

mod case;
mod hidden;
#[path = "../kit/mod.rs"]
mod kit;
mod said;

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use case::{
    Case,
    Flight::{self, Call, Named, Pipeline, Query},
    RANDOM,
    Then::{Carried, Kept, Nothing},
};
use hidden::hidden;
use kit::{
    Stack, Tenant,
    raw::{self, Message, Raw},
};
use model::{Role, route::PoolMode};
use said::said;
use wire::{message::build, startup::Protocol};

fn extended(statements: &[&str], named: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let name: &[u8] = if named { b"mine" } else { b"" };
    for sql in statements {
        if named {
            build::parse(b"mine", sql.as_bytes(), &[], &mut bytes);
            build::sync(&mut bytes);
        } else {
            build::parse(b"", sql.as_bytes(), &[], &mut bytes);
        }
        build::bind_nothing(b"", name, &mut bytes);
        build::execute(b"", 0, &mut bytes);
    }
    build::sync(&mut bytes);
    bytes
}

/// Does it, and asserts that PostgreSQL agreed.
fn fly(raw: &mut Raw, flight: &Flight) {
    let seen = match flight {
        Query(sql) => raw.query(sql),
        Pipeline(list) => {
            raw.send(&extended(list, false));
            raw.until(b'Z')
        }
        Named(sql) => {
            raw.send(&extended(&[sql], true));
            raw.until(b'Z');
            raw.until(b'Z')
        }
        Call(name) => {
            let number = raw.query(&format!("SELECT '{name}'::regproc::oid::int8"));
            let number: u32 = raw::value(&number).parse().unwrap();
            let mut body = number.to_be_bytes().to_vec();
            body.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
            let mut bytes = vec![b'F'];
            bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            bytes.extend_from_slice(&body);
            raw.send(&bytes);
            raw.until(b'Z')
        }
    };
    assert_eq!(raw::code_of(&seen), "", "{flight:?}: {}", words(&seen));
}

fn words(seen: &[Message]) -> String {
    let all = seen
        .iter()
        .map(|(kind, body)| format!("{} {} ", char::from(*kind), String::from_utf8_lossy(body)));
    all.collect()
}

/// The rows of the last statement, or the code of the error.
fn probe(raw: &mut Raw, sql: &str) -> String {
    let seen = raw.query(sql);
    let code = raw::code_of(&seen);
    if code.is_empty() {
        let rows = seen.iter().filter(|(kind, _)| *kind == b'D');
        rows.map(|(_, body)| String::from_utf8_lossy(&body[2..]).into_owned())
            .collect()
    } else {
        code
    }
}

fn direct(stack: &Stack, tenant: &Tenant) -> Raw {
    let mut raw = Raw::unix(&stack.postgres.socket());
    let (user, database) = (Role::Admin.login(&tenant.pid), tenant.pid.database());
    let list = [
        ("user", user.as_str()),
        ("database", &database),
        ("options", "-c role=tenantry_admin -c statement_timeout=60s"),
    ];
    let seen = raw.log_in(Protocol::V3_0, &list, &format!("server-{user}"));
    assert_eq!(raw::code_of(&seen), "");
    raw
}

/// Its tables as they were, for the next one to do the same.
fn tenant(stack: &Stack, case: &Case) -> Tenant {
    let tenant = stack.tenant();
    stack.set_route(&tenant, Role::Admin, |route| {
        route.pool_mode = PoolMode::Auto;
        route.limits.server_connections_max = 1;
    });
    let grants = "GRANT ALL ON SCHEMA public TO tenantry_admin; \
        GRANT ALL ON ALL TABLES IN SCHEMA public TO tenantry_admin; \
        GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO tenantry_admin";
    stack.postgres.sql(
        &tenant.pid.database(),
        &format!("{}; {grants}", case.define),
    );
    tenant
}

fn check(stack: &Stack, case: &Case) {
    let tenant = tenant(stack, case);
    let mut control = direct(stack, &tenant);
    for flight in &case.flights {
        fly(&mut control, flight);
    }
    let held = probe(&mut control, case.probe);
    let clean = probe(&mut direct(stack, &tenant), case.probe);
    let is_random = case.probe == RANDOM;
    if case.then == Nothing {
        assert_eq!(held, clean, "nothing was to be left");
    } else {
        assert_ne!(held, clean, "the probe sees nothing on a direct connection");
    }
    drop(control);
    let (mut one, mut two) = (stack.session(&tenant), stack.session(&tenant));
    let is_clean = |seen: &str| {
        if is_random {
            seen != held
        } else {
            seen == clean
        }
    };
    for raw in [&mut two, &mut one] {
        assert_eq!(raw::value(&raw.query("SELECT 1")), "1");
    }
    for flight in &case.flights {
        fly(&mut one, flight);
    }
    // Whether the other session gets the only server connection, and what it finds there.
    let meets = |two: &mut Raw| {
        let seen = probe(two, case.probe);
        if seen == "53300" {
            return Kept;
        }
        assert!(is_clean(&seen), "the other session met {seen}, not {clean}");
        Carried
    };
    let mut then = meets(&mut two);
    let own = probe(&mut one, case.probe);
    // Not for the first time: nobody had asked for such numbers before, so it was lent, and the answer
    // is that there is none. From then on it is kept.
    let is_first_number = case.probe.contains("currval") && own == "55000";
    assert!(own == held || is_first_number, "{own} became of {held}");
    if is_first_number {
        assert_eq!(then, Carried);
        for flight in &case.flights {
            fly(&mut one, flight);
        }
        then = meets(&mut two);
        let own = probe(&mut one, case.probe);
        assert!(!own.is_empty() && own != "55000", "{own}");
    } else if !is_random {
        then = meets(&mut two);
        assert_eq!(probe(&mut one, case.probe), held);
    }
    let expected = if case.then == Nothing {
        Carried
    } else {
        case.then
    };
    assert_eq!(then, expected);
    // Whoever leaves takes it along.
    drop(one);
    kit::wait_until("the server connection is free", || {
        let seen = probe(&mut two, case.probe);
        assert!(seen == "53300" || is_clean(&seen), "{seen} was left");
        seen != "53300"
    });
}

/// How long a session waits for the only server connection: briefly where it is to wait in vain, and where
/// it is to get it, for as long as a busy machine takes to ask the other one's server what it holds.
const IN_VAIN: Duration = Duration::from_millis(400);
const AT_LENGTH: Duration = Duration::from_secs(10);

async fn check_all(cases: Vec<Case>) {
    let names: HashSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len());
    let (kept, carried) = cases.into_iter().partition(|case| case.then == Kept);
    check_with(IN_VAIN, kept).await;
    check_with(AT_LENGTH, carried).await;
}

async fn check_with(wait_max: Duration, cases: Vec<Case>) {
    let stack = Stack::with_budget(40, |config| {
        config.require_tls = false;
        config.limits.budget_wait_max = wait_max;
    })
    .await;
    let only = std::env::var("TENANTRY_TEST_CASE").ok();
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if only.as_ref().is_some_and(|only| only != case.name) {
                            continue;
                        }
                        let done = catch_unwind(AssertUnwindSafe(|| check(&stack, case)));
                        if done.is_err() {
                            eprintln!("^ {}", case.name);
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
    });
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
    assert_eq!(failed.into_inner(), 0, "cases failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_text_says_stays_with_its_session() {
    check_all(said()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_definitions_do_stays_with_the_session() {
    check_all(hidden()).await;
}

/// Nobody had asked before, so the server connection was lent to somebody else. It is never their number, the
/// error says what to do, and from then on who writes keeps its server connection.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_question_for_a_lost_number_says_what_to_do() {
    let stack = Stack::with_budget(10, |config| {
        config.require_tls = false;
        config.limits.budget_wait_max = Duration::from_secs(2);
    })
    .await;
    let case = Case {
        define: "CREATE SEQUENCE q",
        ..said().remove(0)
    };
    let tenant = tenant(&stack, &case);
    tokio::task::block_in_place(|| {
        let (mut one, mut two) = (stack.session(&tenant), stack.session(&tenant));
        for raw in [&mut one, &mut two] {
            assert_eq!(raw::code_of(&raw.query("SELECT nextval('q')")), "");
        }
        let seen = one.query("SELECT lastval()");
        assert_eq!(raw::code_of(&seen), "55000");
        assert!(words(&seen).contains("HIn pool mode auto, such numbers"));
        assert_eq!(raw::value(&one.query("SELECT nextval('q')")), "3");
        assert_eq!(probe(&mut two, "SELECT 1"), "53300");
        assert_eq!(raw::value(&one.query("SELECT lastval()")), "3");
        // What PostgreSQL itself would say has no such hint.
        let seen = one.query("DISCARD SEQUENCES");
        assert_eq!(raw::code_of(&seen), "");
        let seen = one.query("SELECT lastval()");
        assert_eq!(raw::code_of(&seen), "55000");
        assert!(!words(&seen).contains("pool mode"));
    });
}
