//! Tables that change under statements whose columns a client was told of.

use model::Role;
use wire::message::{Kind, build};

use crate::{
    end,
    kit::{
        Stack,
        pair::{Pair, parse, run_prepared},
        raw::{self, Raw},
    },
    start,
};

/// How a client is told of the columns.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asks {
    /// Once, of the statement.
    Statement,
    /// With the first use, of the portal.
    Portal,
}

fn describe(pair: &mut Pair, name: &str) -> String {
    let mut bytes = Vec::new();
    build::describe(Kind::Statement, name.as_bytes(), &mut bytes);
    build::sync(&mut bytes);
    raw::code_of(&pair.flight(format!("describe {name}"), &bytes, 1))
}

fn run_and_describe(pair: &mut Pair, name: &str) -> String {
    let mut bytes = Vec::new();
    build::bind_nothing(b"", name.as_bytes(), &mut bytes);
    build::describe(Kind::Portal, b"", &mut bytes);
    build::execute(b"", 0, &mut bytes);
    build::sync(&mut bytes);
    raw::code_of(&pair.flight(format!("run and describe {name}"), &bytes, 1))
}

/// Prepares it by this name, and asks what it returns.
fn prepare(pair: &mut Pair, name: &str, sql: &str, asks: Asks) {
    parse(pair, name, sql);
    let code = match asks {
        Asks::Statement => describe(pair, name),
        Asks::Portal => run_and_describe(pair, name),
    };
    assert_eq!(code, "");
    run_prepared(pair, name);
}

/// The code of what running it says, in one flight with something else before it.
fn run_behind(pair: &mut Pair, first: &str, name: &str) -> String {
    let mut bytes = Vec::new();
    build::parse(b"", first.as_bytes(), &[], &mut bytes);
    build::bind_nothing(b"", b"", &mut bytes);
    build::execute(b"", 0, &mut bytes);
    build::bind_nothing(b"", name.as_bytes(), &mut bytes);
    build::execute(b"", 0, &mut bytes);
    build::sync(&mut bytes);
    raw::code_of(&pair.flight(format!("{first}, and run {name}"), &bytes, 1))
}

const CHANGED: &str = "0A000";

/// Whoever was told of columns once reads rows by them, so it is not given rows of other ones, on whichever server
/// connection it meets them. What came before in its transaction is taken back, as with a direct connection.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_other_columns_than_were_told_of_are_refused() {
    let (stack, tenant) = start().await;
    let database = tenant.pid.database();
    let define = |sql: &str| stack.postgres.sql(&database, sql);
    tokio::task::block_in_place(|| {
        for (round, asks) in [Asks::Statement, Asks::Portal].into_iter().enumerate() {
            define(
                "CREATE TABLE s1.c (n int); INSERT INTO s1.c VALUES (7); CREATE TABLE s1.log (n int);
                 GRANT ALL ON s1.c, s1.log TO tenantry_admin",
            );
            let sql = "SELECT * FROM s1.c";
            let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
            for name in ["alone", "behind", "in it", "asked", "open"] {
                prepare(&mut pair, name, &format!("{sql} /* {name} */"), asks);
                prepare(
                    &mut pair,
                    &format!("{name} count"),
                    "SELECT count(*) FROM s1.c",
                    asks,
                );
            }
            define("ALTER TABLE s1.c ALTER n TYPE text USING 'other'");
            let mut bytes = Vec::new();
            build::bind_nothing(b"", b"alone", &mut bytes);
            build::execute(b"", 0, &mut bytes);
            build::sync(&mut bytes);
            let seen = pair.flight("alone".to_owned(), &bytes, 1);
            assert_eq!(raw::code_of(&seen), CHANGED);
            let code = run_behind(&mut pair, "INSERT INTO s1.log VALUES (1)", "behind");
            assert_eq!(code, CHANGED);
            assert_eq!(raw::value(&pair.query("SELECT count(*) FROM s1.log")), "0");
            assert_eq!(describe(&mut pair, "asked"), CHANGED);
            pair.query("BEGIN");
            assert_eq!(run_and_describe(&mut pair, "in it"), CHANGED);
            pair.query("SELECT 1");
            run_prepared(&mut pair, "open");
            pair.query("ROLLBACK");
            define("ALTER TABLE s1.c RENAME n TO m");
            // Those that return the same as before.
            for name in ["alone", "behind", "in it", "asked", "open"] {
                run_prepared(&mut pair, &format!("{name} count"));
            }
            // Between being told of them and its use, without a name.
            parse(&mut pair, "", sql);
            assert_eq!(describe(&mut pair, ""), "");
            define("ALTER TABLE s1.c RENAME m TO n");
            let seen = run_behind(&mut pair, "SELECT 1", "alone count");
            assert_eq!(seen, "");
            parse(&mut pair, "", sql);
            assert_eq!(describe(&mut pair, ""), "");
            define("ALTER TABLE s1.c RENAME n TO m");
            assert_eq!(run_and_describe(&mut pair, ""), CHANGED);
            define("ALTER TABLE s1.c RENAME m TO n");
            // Whoever prepares it now is told of what there is now, also the same session.
            prepare(&mut pair, "now", sql, asks);
            prepare(
                &mut Pair::new(&stack, &tenant, "auto", &[]),
                "now",
                sql,
                asks,
            );
            // It was the other table that had them.
            define(
                "DROP TABLE s1.c; CREATE TABLE s1.c (n text); GRANT ALL ON s1.c TO tenantry_admin",
            );
            run_prepared(&mut pair, "now");
            define("DROP TABLE s1.c, s1.log");
            assert_eq!(describe(&mut pair, "now"), "42P01", "round {round}");
        }
    });
    end(&stack).await;
}

/// PostgreSQL does not survive a Describe of FETCH from a cursor that is gone, so none of ours is such a one. A client's own
/// are answered directly behind what they are about.
#[tokio::test(flavor = "multi_thread")]
async fn columns_of_a_cursor_are_not_asked_for() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
        for name in ["f", ""] {
            for _ in 0..3 {
                pair.query("BEGIN; DECLARE c CURSOR FOR SELECT 1 AS n");
                if name.is_empty() || pair.log.len() == 1 {
                    let mut bytes = Vec::new();
                    build::parse(name.as_bytes(), b"FETCH c", &[], &mut bytes);
                    build::describe(Kind::Statement, name.as_bytes(), &mut bytes);
                    build::sync(&mut bytes);
                    let seen = pair.flight(format!("parse and describe {name}"), &bytes, 1);
                    assert_eq!(raw::code_of(&seen), "");
                }
                assert_eq!(run_and_describe(&mut pair, name), "");
                pair.query("COMMIT");
                // Without a Describe: this is what ends a server.
                run_prepared(&mut pair, name);
            }
        }
    });
    end(&stack).await;
}

/// Whoever prepares a statement behind a change of its table is not told that it changed since somebody else prepared it
/// on that server connection; who was told of other columns is, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_prepared_behind_a_change_is_as_new() {
    let stack = Stack::start(|config| config.require_tls = false).await;
    let tenant = stack.tenant();
    stack.set_route(&tenant, Role::Admin, |route| {
        route.limits.server_connections_max = 1;
    });
    stack.postgres.sql(
        &tenant.pid.database(),
        "CREATE SCHEMA s1; GRANT ALL ON SCHEMA s1 TO tenantry_admin",
    );
    tokio::task::block_in_place(|| {
        let mut other = stack.session(&tenant);
        let mut does = |sql: &str| assert_eq!(raw::code_of(&other.query(sql)), "", "{sql}");
        does(
            "CREATE TABLE s1.c (n int); INSERT INTO s1.c VALUES (7); CREATE VIEW s1.v AS SELECT n FROM s1.c",
        );
        for (table, change) in [
            ("c", &["ALTER TABLE s1.c ADD more int"][..]),
            ("c", &["BEGIN", "ALTER TABLE s1.c DROP more", "COMMIT"]),
            (
                "v",
                &["CREATE OR REPLACE VIEW s1.v AS SELECT n, n AS m FROM s1.c"],
            ),
            (
                "c",
                &["DROP TABLE s1.c CASCADE; CREATE TABLE s1.c (t text, u text)"],
            ),
        ] {
            let sql = format!("SELECT * FROM s1.{table}");
            let mut before = stack.session(&tenant);
            let say = |raw: &mut Raw, bytes: &[u8]| {
                raw.send(bytes);
                raw::code_of(&raw.until(b'Z'))
            };
            let mut prepare = Vec::new();
            build::parse(b"a", sql.as_bytes(), &[], &mut prepare);
            build::describe(Kind::Statement, b"a", &mut prepare);
            build::sync(&mut prepare);
            let mut run = Vec::new();
            build::bind_nothing(b"", b"a", &mut run);
            build::execute(b"", 0, &mut run);
            build::sync(&mut run);
            assert_eq!(say(&mut before, &prepare), "");
            assert_eq!(say(&mut before, &run), "");
            for sql in change {
                does(sql);
            }
            let mut new = stack.session(&tenant);
            assert_eq!(
                say(&mut new, &[&prepare[..], &run].concat()),
                "",
                "{change:?}"
            );
            new.until(b'Z');
            assert_eq!(say(&mut before, &run), CHANGED, "{change:?}");
            assert_eq!(say(&mut before, &run), "", "{change:?}");
            assert_eq!(say(&mut new, &run), "", "{change:?}");
        }
    });
    end(&stack).await;
}
