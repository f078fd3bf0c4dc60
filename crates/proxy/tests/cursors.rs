//! A session cannot have PostgreSQL end everybody's sessions by a Describe of FETCH.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "kit/mod.rs"]
mod kit;

use kit::{
    Stack, Tenant,
    raw::{self, Raw},
};
use model::{Role, route::PoolMode};
use wire::{
    message::{Kind, build},
    startup::Protocol,
};

fn session(stack: &Stack, tenant: &Tenant) -> Raw {
    let mut raw = Raw::plain(stack.port);
    let user = tenant.login(Role::Admin).to_string();
    let list = [("user", user.as_str()), ("database", "postgres")];
    let seen = raw.log_in(Protocol::V3_0, &list, &tenant.password);
    assert_eq!(raw::code_of(&seen), "");
    raw
}

#[derive(Clone, Copy)]
enum Says<'a> {
    Query(&'a str),
    Parse(&'a str, &'a str),
    Bind(&'a str, &'a str),
    Describe(Kind, &'a str),
    Close(Kind, &'a str),
    Sync,
}
use Says::{Bind, Close, Describe, Parse, Query, Sync};

fn say(raw: &mut Raw, all: &[Says<'_>]) -> Vec<String> {
    let mut codes = Vec::new();
    for says in all {
        let mut out = Vec::new();
        match says {
            Query(sql) => build::query(sql, &mut out),
            Parse(name, sql) => build::parse(name.as_bytes(), sql.as_bytes(), &[], &mut out),
            Bind(portal, name) => build::bind_nothing(portal.as_bytes(), name.as_bytes(), &mut out),
            Describe(kind, name) => build::describe(*kind, name.as_bytes(), &mut out),
            Close(kind, name) => build::close(*kind, name.as_bytes(), &mut out),
            Sync => build::sync(&mut out),
        }
        raw.send(&out);
        if matches!(says, Query(_) | Sync) {
            codes.push(raw::code_of(&raw.until(b'Z')));
        }
    }
    codes
}

const BEGIN: Says<'static> = Query("BEGIN; DECLARE c CURSOR FOR SELECT 1 AS n");
const REFUSED: &str = "0A000";

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_gone_is_not_described() {
    let stack = Stack::start(|config| config.require_tls = false).await;
    for mode in [PoolMode::Auto, PoolMode::Session, PoolMode::Transaction] {
        let tenant = stack.tenant();
        stack.set_route(&tenant, Role::Admin, |route| route.pool_mode = mode);
        tokio::task::block_in_place(|| {
            let mut other = session(&stack, &tenant);
            let process = raw::value(&other.query("BEGIN; SELECT pg_backend_pid()"));
            let fetch = "/* one */ ;fetch c";
            let (statement, portal) = (Kind::Statement, Kind::Portal);
            let long = format!("FETCH c /* {} */", "x".repeat(1_000_000));
            let behind = format!("/* {} */ FETCH c", "x".repeat(1_000_000));
            let query = format!("SELECT 1 /* {} */", "x".repeat(1_000_000));
            for (case, (says, expected)) in [
                // Where the cursor is closed behind the Bind, and behind the Parse.
                (
                    &[
                        BEGIN,
                        Parse("", fetch),
                        Bind("p", ""),
                        Close(portal, "c"),
                        Describe(portal, "p"),
                        Sync,
                    ][..],
                    REFUSED,
                ),
                (
                    &[
                        BEGIN,
                        Parse("f", fetch),
                        Sync,
                        Query("CLOSE c"),
                        Describe(statement, "f"),
                        Sync,
                    ],
                    REFUSED,
                ),
                (
                    &[
                        BEGIN,
                        Parse("", fetch),
                        Close(portal, "c"),
                        Describe(statement, ""),
                        Sync,
                    ],
                    REFUSED,
                ),
                // By EXECUTE of it.
                (
                    &[
                        BEGIN,
                        Parse("e", fetch),
                        Sync,
                        Query("CLOSE c"),
                        Parse("", "EXECUTE e"),
                        Bind("", ""),
                        Describe(portal, ""),
                        Sync,
                    ],
                    REFUSED,
                ),
                // By way of another one, under a name that is written otherwise.
                (
                    &[
                        BEGIN,
                        Parse("e f", fetch),
                        Parse("a", "EXECUTE \"e f\""),
                        Sync,
                        Query("CLOSE c"),
                        Parse("", "execute A"),
                        Describe(statement, ""),
                        Sync,
                    ],
                    REFUSED,
                ),
                // What is certain to be something else.
                (
                    &[
                        BEGIN,
                        Parse("f", fetch),
                        Parse("s", "SELECT 1"),
                        Parse("", "EXECUTE s"),
                        Sync,
                        Describe(statement, ""),
                        Sync,
                    ],
                    "",
                ),
                // Each for itself, as libpq has it: of a statement that is there, and of one whose Parse failed.
                (
                    &[
                        BEGIN,
                        Parse("f", fetch),
                        Sync,
                        Describe(statement, "f"),
                        Sync,
                    ],
                    "",
                ),
                (
                    &[
                        BEGIN,
                        Parse("f", fetch),
                        Sync,
                        Query("ROLLBACK"),
                        Parse("f", "SELECT 1"),
                        Sync,
                        Describe(statement, "f"),
                        Sync,
                    ],
                    REFUSED,
                ),
                // A text that is not looked into.
                (
                    &[
                        BEGIN,
                        Parse("l", &long),
                        Bind("p", "l"),
                        Close(portal, "c"),
                        Describe(portal, "p"),
                        Sync,
                    ],
                    REFUSED,
                ),
                (
                    &[
                        BEGIN,
                        Parse("l", &behind),
                        Bind("p", "l"),
                        Close(portal, "c"),
                        Describe(portal, "p"),
                        Sync,
                    ],
                    REFUSED,
                ),
                // The unnamed one is what was parsed last.
                (
                    &[
                        BEGIN,
                        Parse("", fetch),
                        Bind("", ""),
                        Describe(portal, ""),
                        Sync,
                        Query("ROLLBACK"),
                        Parse("", "EXECUTE nothing"),
                        Sync,
                        Parse("", "SELECT 1"),
                        Describe(statement, ""),
                        Bind("", ""),
                        Describe(portal, ""),
                        Sync,
                    ],
                    "",
                ),
                // As drivers have it.
                (
                    &[
                        Parse("", "-- ping"),
                        Describe(statement, ""),
                        Sync,
                        Parse("", "EXECUTE nothing"),
                        Sync,
                        Parse("", "SELECT 1"),
                        Bind("", ""),
                        Describe(portal, ""),
                        Sync,
                    ],
                    "",
                ),
                (
                    &[
                        Parse("", &query),
                        Describe(statement, ""),
                        Sync,
                        Describe(statement, ""),
                        Sync,
                    ],
                    "",
                ),
                (
                    &[BEGIN, Parse("g", fetch), Describe(statement, "g"), Sync],
                    "",
                ),
                (
                    &[
                        BEGIN,
                        Parse("h", fetch),
                        Bind("", "h"),
                        Describe(portal, ""),
                        Sync,
                    ],
                    "",
                ),
                (&[Parse("i", fetch), Describe(statement, "i"), Sync], ""),
                (
                    &[
                        BEGIN,
                        Parse("", "SELECT 1"),
                        Sync,
                        Describe(statement, ""),
                        Sync,
                    ],
                    "",
                ),
            ]
            .into_iter()
            .enumerate()
            {
                let mut raw = session(&stack, &tenant);
                let codes = say(&mut raw, says);
                assert_eq!(
                    codes.last().unwrap(),
                    expected,
                    "case {case} in {mode:?}: {codes:?}"
                );
                assert_eq!(
                    say(&mut raw, &[Query("ROLLBACK"), Query("SELECT 1")])[1],
                    ""
                );
            }
            // Nobody else has noticed anything.
            assert_eq!(raw::value(&other.query("SELECT pg_backend_pid()")), process);
        });
    }
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
}

/// What one session prepared while a cursor was open is not what another one is told of, for whom there is none.
#[tokio::test(flavor = "multi_thread")]
async fn what_fetches_is_prepared_by_each_session() {
    let stack = Stack::start(|config| config.require_tls = false).await;
    let tenant = stack.tenant();
    stack.set_route(&tenant, Role::Admin, |route| {
        route.pool_mode = PoolMode::Auto;
        route.limits.server_connections_max = 1;
    });
    tokio::task::block_in_place(|| {
        let (mut one, mut two) = (session(&stack, &tenant), session(&stack, &tenant));
        let parse_and_describe = [Parse("f", "FETCH c"), Describe(Kind::Statement, "f"), Sync];
        let codes = say(
            &mut one,
            &[
                &[BEGIN][..],
                &[Parse("f", "FETCH c"), Sync, Query("COMMIT")],
            ]
            .concat(),
        );
        assert_eq!(codes, ["", "", ""]);
        assert_eq!(say(&mut two, &parse_and_describe), [""]);
        assert_eq!(say(&mut two, &[Close(Kind::Statement, "f"), Sync]), [""]);
        assert_eq!(say(&mut two, &parse_and_describe), [""]);
        assert_eq!(raw::value(&one.query("SELECT 1")), "1");
    });
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
}
