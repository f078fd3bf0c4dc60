//! What the judge found, made small: each beside a direct connection that is sent the same.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{Stack, pair::Pair};
use proxy::LendingRule;
use wire::message::{Kind, build};

async fn stack() -> Stack {
    Stack::start(|config| {
        config.lending = LendingRule::NeverTheSameTwice;
        config.require_tls = false;
    })
    .await
}

fn use_it(portal: &[u8], name: &[u8], bytes: &mut Vec<u8>) {
    build::bind_nothing(portal, name, bytes);
    build::execute(portal, 0, bytes);
}

/// In a failed transaction nothing is read anew and nothing can be made, also where plans were perhaps discarded: what
/// has no result is still described, and what is closed is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_closed_in_a_failed_transaction_is_gone() {
    let stack = stack().await;
    let tenant = stack.tenant();
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

#[tokio::test(flavor = "multi_thread")]
async fn names_of_nothing_lead_back_to_what_the_session_began_with() {
    let stack = stack().await;
    let tenant = stack.tenant();
    tokio::task::block_in_place(|| {
        for sql in [
            "SET NAMES",
            "SET NAMES; SELECT 1",
            "SELECT 1; SET NAMES DEFAULT; SELECT 2",
            "SET NAMES; CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 42'; COMMIT AND NO CHAIN; SELECT 3",
            "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 42'; COMMIT AND NO CHAIN; SELECT 3",
            "SET client_encoding TO DEFAULT; COMMIT AND NO CHAIN; SELECT 3",
            "RESET client_encoding; COMMIT; SELECT 3",
        ] {
            let mut pair = Pair::new(&stack, &tenant, "auto", &[("client_encoding", "LATIN1")]);
            pair.query(sql);
            pair.same_settings();
            pair.query("SET client_encoding TO UTF8");
            pair.query(sql);
            pair.same_settings();
        }
    });
}
