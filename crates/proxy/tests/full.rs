//! A full database: what makes it larger is refused, everything else goes on, and both change for sessions
//! that are open.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{
    Stack, Tenant, code,
    raw::{Message, Raw, code_of, value},
    wait_until,
};
use model::{
    Role,
    route::{PoolMode, Storage},
};
use tokio_postgres::{Client, Error};
use wire::{message::build, startup::Protocol};

const MODES: [PoolMode; 2] = [PoolMode::Session, PoolMode::Auto];
const LIMIT: u64 = 1 << 30;
const FULL: Storage = Storage::Full { bytes: LIMIT + 7 };
const OVERRUN: Storage = Storage::Overrun { bytes: 2 * LIMIT };

/// As the control plane would say it now. `limit`: none before, as far as the tenant is new.
fn told(stack: &Stack, tenant: &Tenant, limit: Option<u64>, storage: Storage) {
    for role in Role::ALL {
        let old = stack.table.lock().unwrap().routes[&tenant.login(role)].clone();
        stack.set_route(tenant, role, |route| {
            route.candidates = old.route.candidates.clone();
            route.pool_mode = old.route.pool_mode;
            route.limits.storage_bytes_max = limit;
            route.storage = storage;
        });
    }
    stack.announce(tenant);
}

/// Changes nothing, and is refused where a real one would be.
const PROBE: &str = "EXPLAIN INSERT INTO t VALUES (1)";

/// The same, and waits until it holds for a session that is open.
fn becomes(stack: &Stack, tenant: &Tenant, client: &Client, storage: Storage) {
    told(stack, tenant, Some(LIMIT), storage);
    let is_full = storage != Storage::Free;
    wait_until("the database is as full as that", || {
        let probe = blocking(client.simple_query(PROBE));
        probe.err().is_some_and(|error| code(&error) == "53100") == is_full
    });
}

fn blocking<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

fn in_mode(stack: &Stack, mode: PoolMode) -> Tenant {
    let tenant = stack.tenant();
    for role in Role::ALL {
        stack.set_route(&tenant, role, |route| route.pool_mode = mode);
    }
    tenant
}

fn raw(stack: &Stack, tenant: &Tenant) -> Raw {
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let said = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
    assert_eq!(code_of(&said), "");
    raw
}

fn asked(sql: &str, out: &mut Vec<u8>) {
    build::parse(b"", sql.as_bytes(), &[], out);
    build::bind_nothing(b"", b"", out);
    build::execute(b"", 0, out);
}

fn kinds(messages: &[Message]) -> String {
    messages.iter().map(|(kind, _)| char::from(*kind)).collect()
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, sql: &str) {
    let Err(error) = result else {
        panic!("{sql} was not refused");
    };
    let said = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(said.code().code(), "53100", "{sql}: {said:?}");
    let words = "the database is full: storage_bytes_max is 1073741824";
    assert_eq!(said.message(), words);
    assert!(said.hint().unwrap().contains("tenantry db limits"));
}

const TABLE: &str = "CREATE TABLE t (a int); CREATE TABLE gone (a int); INSERT INTO t VALUES (1);
    CREATE FUNCTION hidden() RETURNS void LANGUAGE sql AS 'INSERT INTO t VALUES (9)'";

const REFUSED: &[&str] = &[
    "INSERT INTO t VALUES (2)",
    "UPDATE t SET a = 2",
    "WITH x AS (INSERT INTO t VALUES (2) RETURNING a) SELECT * FROM x",
    "MERGE INTO t USING (SELECT 1) x ON false WHEN NOT MATCHED THEN INSERT VALUES (2)",
    "CREATE TABLE u AS SELECT 1",
    "SELECT a INTO u FROM t",
    "CREATE INDEX ON t (a)",
    "SELECT 1; INSERT INTO t VALUES (2)",
    "DO $$ BEGIN INSERT INTO t VALUES (2); END $$",
    "COPY t FROM STDIN",
    "SELECT lo_create(0)",
    "PREPARE late AS INSERT INTO t VALUES (2)",
];

const ALLOWED: &[&str] = &[
    "SELECT a FROM t FOR UPDATE",
    "BEGIN; DELETE FROM t WHERE a = 5; COMMIT",
    "BEGIN; DELETE FROM t; ROLLBACK",
    "TRUNCATE gone",
    "ALTER TABLE t SET (fillfactor = 90)",
    "VACUUM FULL t",
    "SET work_mem = '5MB'; SHOW work_mem",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_a_full_database_larger_is_refused_and_nothing_else() {
    let stack = Stack::start(|_| {}).await;
    for mode in MODES {
        let tenant = in_mode(&stack, mode);
        let client = stack.connect(&tenant, Role::Admin).await;
        client.batch_execute(TABLE).await.unwrap();
        // Prepared before anybody thought of a limit.
        let insert = client
            .prepare("INSERT INTO t VALUES ($1::int)")
            .await
            .unwrap();
        let read = client.prepare("SELECT a FROM t").await.unwrap();
        let prepare = "PREPARE ins AS INSERT INTO t VALUES (2); PREPARE sel AS SELECT a FROM t";
        for prepare in prepare.split("; ") {
            client.batch_execute(prepare).await.unwrap();
        }

        becomes(&stack, &tenant, &client, FULL);
        for sql in REFUSED {
            refused(client.batch_execute(sql).await, sql);
            if !sql.contains(';') {
                refused(client.query(*sql, &[]).await, sql);
            }
        }
        refused(
            client.execute(&insert, &[&2]).await,
            "prepared by the protocol",
        );
        refused(client.batch_execute("EXECUTE ins").await, "prepared by SQL");
        refused(client.query("EXECUTE ins", &[]).await, "both");
        for sql in ALLOWED {
            client.simple_query(sql).await.unwrap();
        }
        // Unseen, and so not refused yet.
        client.batch_execute("SELECT hidden()").await.unwrap();
        client
            .batch_execute("DELETE FROM t WHERE a = 9; DROP TABLE gone")
            .await
            .unwrap();
        assert_eq!(client.query(&read, &[]).await.unwrap().len(), 1);
        client.batch_execute("EXECUTE sel").await.unwrap();
        // A new one is told the same.
        let other = stack.connect(&tenant, Role::Write).await;
        refused(
            other.batch_execute("INSERT INTO t VALUES (2)").await,
            "a new session",
        );

        // It is over as it began.
        becomes(&stack, &tenant, &client, Storage::Free);
        client.execute(&insert, &[&2]).await.unwrap();
        client.batch_execute("EXECUTE ins").await.unwrap();
        assert_eq!(client.query(&read, &[]).await.unwrap().len(), 3);
    }
    let counts = stack.proxy().snapshot().await.counts;
    assert!(counts.limits_reached["storage_bytes_max"] >= 2 * REFUSED.len() as u64);
}

/// What follows from an error is PostgreSQL's own doing.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_error_like_any_other_of_the_server() {
    let stack = Stack::start(|_| {}).await;
    for mode in MODES {
        let tenant = in_mode(&stack, mode);
        let client = stack.connect(&tenant, Role::Admin).await;
        client.batch_execute(TABLE).await.unwrap();
        let mut raw = raw(&stack, &tenant);
        raw.query("BEGIN; INSERT INTO t VALUES (2); SAVEPOINT s");
        becomes(&stack, &tenant, &client, FULL);

        // The transaction has failed, and leads back where it may.
        let said = raw.query("INSERT INTO t VALUES (3)");
        assert_eq!(
            (kinds(&said).as_str(), code_of(&said).as_str()),
            ("EZ", "53100")
        );
        assert_eq!(said[1].1, b"E");
        assert_eq!(code_of(&raw.query("SELECT 1")), "25P02");
        let said = raw.query("ROLLBACK TO s; DELETE FROM t WHERE a = 1; COMMIT");
        assert_eq!(code_of(&said), "");
        assert_eq!(value(&raw.query("SELECT array_agg(a)::text FROM t")), "{2}");

        // Of a pipeline all up to the Sync, and nothing behind it.
        let mut out = Vec::new();
        asked("SELECT 1", &mut out);
        asked("INSERT INTO t VALUES (4)", &mut out);
        asked("DELETE FROM t", &mut out);
        build::sync(&mut out);
        asked("SELECT 2", &mut out);
        build::sync(&mut out);
        raw.send(&out);
        let said = raw.until(b'Z');
        assert_eq!(
            (kinds(&said).as_str(), code_of(&said).as_str()),
            ("12DCEZ", "53100")
        );
        assert_eq!(kinds(&raw.until(b'Z')), "12DCZ");
        assert_eq!(value(&raw.query("SELECT array_agg(a)::text FROM t")), "{2}");

        // Also one that is too large to be looked at as a whole, in pieces.
        let large = format!("INSERT INTO t VALUES {}(5)", "(5), ".repeat(100_000));
        for _ in 0..2 {
            assert_eq!(code_of(&raw.query(&large)), "53100");
            let mut out = Vec::new();
            asked(&large, &mut out);
            build::sync(&mut out);
            asked("SELECT 2", &mut out);
            build::sync(&mut out);
            for piece in out.chunks(10_007) {
                raw.send(piece);
            }
            let said = raw.until(b'Z');
            assert_eq!(
                (kinds(&said).as_str(), code_of(&said).as_str()),
                ("EZ", "53100")
            );
            assert_eq!(kinds(&raw.until(b'Z')), "12DCZ");
        }
        // A large one that reads is read.
        let rows = "(1), ".repeat(20_000);
        let large = format!("SELECT count(*) FROM (VALUES {rows}(1)) x");
        assert_eq!(value(&raw.query(&large)), "20001");
        assert_eq!(kinds(&raw.query("COPY t TO STDOUT")), "HdcCZ");

        // The unnamed statement is what it was.
        let mut out = Vec::new();
        build::parse(b"", b"SELECT 7", &[], &mut out);
        build::sync(&mut out);
        build::parse(b"n", b"UPDATE t SET a = 1", &[], &mut out);
        build::sync(&mut out);
        build::bind_nothing(b"", b"", &mut out);
        build::execute(b"", 0, &mut out);
        build::sync(&mut out);
        raw.send(&out);
        assert_eq!(kinds(&raw.until(b'Z')), "1Z");
        assert_eq!(kinds(&raw.until(b'Z')), "EZ");
        assert_eq!(kinds(&raw.until(b'Z')), "2DCZ");

        // Large objects, as drivers write them.
        let numbers = "SELECT string_agg(oid::text, ',' ORDER BY oid) FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN
            ('lo_creat', 'lo_create', 'lowrite', 'lo_import', 'lo_from_bytea', 'lo_put')";
        assert_eq!(value(&raw.query(numbers)), "715,764,767,955,957,3457,3460");
        let mut call = 957_u32.to_be_bytes().to_vec();
        // No formats, one argument of four bytes, a text back.
        call.extend([0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0]);
        let mut out = vec![b'F'];
        out.extend((call.len() as u32 + 4).to_be_bytes());
        out.extend(&call);
        raw.send(&out);
        let said = raw.until(b'Z');
        assert_eq!(
            (kinds(&said).as_str(), code_of(&said).as_str()),
            ("EZ", "53100")
        );

        // The words that stand for it mean nothing by themselves.
        assert_eq!(code_of(&client_words(&stack)), "42601");
    }
}

fn client_words(stack: &Stack) -> Vec<Message> {
    raw(stack, &stack.tenant()).query("tenantry_storage_full")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fills_a_database_is_stopped_when_it_turns_out_to_be_full() {
    let stack = Stack::start(|_| {}).await;
    for mode in MODES {
        let tenant = in_mode(&stack, mode);
        told(&stack, &tenant, Some(LIMIT), Storage::Free);
        let [client, filling, prepared, reading] = {
            let connect = || stack.connect(&tenant, Role::Admin);
            [
                connect().await,
                connect().await,
                connect().await,
                connect().await,
            ]
        };
        client.batch_execute(TABLE).await.unwrap();
        let slow = "INSERT INTO t SELECT 1 FROM pg_sleep(60)";
        let running = || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'
                AND query LIKE '%pg_sleep(%' AND pid <> pg_backend_pid()";
            stack.postgres.sql("postgres", sql)
        };
        // Each in a task of its own, since the wait keeps this one busy.
        let simple = tokio::spawn(async move { (filling.batch_execute(slow).await, filling) });
        let extended = tokio::spawn(async move { (prepared.execute(slow, &[]).await, prepared) });
        let read = tokio::spawn(async move {
            let read = reading.query("SELECT 1 FROM pg_sleep(2)", &[]).await;
            (read, reading)
        });
        wait_until("all run", || running() == "3");
        told(&stack, &tenant, Some(LIMIT), FULL);
        let (simple, filling) = simple.await.unwrap();
        let (extended, prepared) = extended.await.unwrap();
        read.await.unwrap().0.unwrap();
        refused(simple, slow);
        refused(extended, slow);
        for client in [&filling, &prepared] {
            client.batch_execute("SELECT 1").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_grows_on_unseen_gets_no_more_of_it() {
    let stack = Stack::start(|_| {}).await;
    for mode in MODES {
        let tenant = in_mode(&stack, mode);
        let client = stack.connect(&tenant, Role::Admin).await;
        client.batch_execute(TABLE).await.unwrap();
        becomes(&stack, &tenant, &client, FULL);
        let unseen = ["SELECT hidden()", "DO $$ BEGIN PERFORM hidden(); END $$"];
        for sql in unseen {
            client.batch_execute(sql).await.unwrap();
        }
        told(&stack, &tenant, Some(LIMIT), OVERRUN);
        wait_until("it is heard", || {
            blocking(client.batch_execute("SELECT hidden() WHERE false")).is_err()
        });
        for sql in unseen {
            let error = client.batch_execute(sql).await.err().unwrap();
            let said = error.as_db_error().unwrap();
            assert_eq!(said.code().code(), "53100");
            assert!(said.detail().unwrap().contains("grew on"), "{said:?}");
        }
        for sql in [
            "SELECT count(*), lower('A') FROM t",
            "DELETE FROM t",
            "TRUNCATE t",
        ] {
            client.simple_query(sql).await.unwrap();
        }
        // A limit that is taken away takes everything with it.
        told(&stack, &tenant, None, Storage::Free);
        wait_until("it is free", || {
            blocking(client.batch_execute("SELECT hidden()")).is_ok()
        });
        client
            .batch_execute("INSERT INTO t VALUES (2)")
            .await
            .unwrap();
    }
}
