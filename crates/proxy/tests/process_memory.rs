//! A statement that wants more memory than its tenant may have fails alone: its session, its database and all
//! neighbours go on.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::path::PathBuf;

use kit::{Stack, Tenant, code, postgres_18, wait_until};
use model::{Role, route::PoolMode};
use tokio_postgres::{Client, SimpleQueryMessage};

const MODES: [PoolMode; 2] = [PoolMode::Session, PoolMode::Auto];
const LIMIT: u64 = 128 << 20;

/// As a tenant may ask; each takes 150 MB or more. A value, an array, an aggregate's hash table, a sort.
const GREEDY: [&str; 4] = [
    "SELECT length(repeat('x', 400000000))",
    "SELECT cardinality(array_agg(repeat('x', 1000000))) FROM generate_series(1, 400)",
    "SELECT count(*) FROM (SELECT i || repeat('x', 1000) FROM generate_series(1, 150000) i GROUP BY 1) g",
    "SELECT count(*) FROM (SELECT i, i || repeat('x', 10000) FROM generate_series(1, 15000) i ORDER BY 2 OFFSET 1) s",
];
/// (Of one column alone, PostgreSQL 18 sorts long texts in memory whatever `work_mem` says.) What lets them: no limit of PostgreSQL's stands in the way.
const AS_MUCH_AS_IT_LIKES: &str = "SET work_mem = '64GB'; SET enable_sort = off";

async fn on(bin: Option<PathBuf>) -> Stack {
    match bin {
        None => Stack::start(|_| {}).await,
        Some(bin) => Stack::start_on(bin, |_| {}).await,
    }
}

fn limited(stack: &Stack, tenant: &Tenant, mode: PoolMode, bytes: Option<u64>) {
    for role in Role::ALL {
        let old = stack.table.lock().unwrap().routes[&tenant.login(role)].clone();
        stack.set_route(tenant, role, |route| {
            route.candidates = old.route.candidates.clone();
            route.pool_mode = mode;
            route.limits.memory_bytes_max = bytes;
        });
    }
    stack.announce(tenant);
}

async fn value(client: &Client, sql: &str) -> String {
    let said = client.simple_query(sql).await.unwrap();
    let mut rows = said.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    rows.next().unwrap().to_owned()
}

/// Bytes from `/proc`: soft, hard.
fn data_limit(process: &str) -> [Option<u64>; 2] {
    let text = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max data size"));
    let mut words = line.unwrap().split_whitespace();
    std::array::from_fn(|_| words.next().unwrap().parse().ok())
}

const PROCESS: &str = "SELECT pg_backend_pid()";

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_much_memory_fails_alone() {
    for (bin, modes) in [(None, &MODES[..]), (Some(postgres_18()), &MODES[1..])] {
        let stack = on(bin).await;
        let neighbour = stack.tenant();
        stack.keep_servers(&neighbour);
        let neighbour = stack.connect(&neighbour, Role::Admin).await;
        neighbour.batch_execute(AS_MUCH_AS_IT_LIKES).await.unwrap();
        let its_process = value(&neighbour, PROCESS).await;
        let started = value(&neighbour, "SELECT pg_postmaster_start_time()").await;

        for mode in modes.iter().copied() {
            let tenant = stack.tenant();
            limited(&stack, &tenant, mode, Some(LIMIT));
            let client = stack.connect(&tenant, Role::Admin).await;
            let other = stack.connect(&tenant, Role::Read).await;
            client
                .batch_execute("CREATE TABLE kept AS SELECT 'kept' v")
                .await
                .unwrap();
            client.batch_execute(AS_MUCH_AS_IT_LIKES).await.unwrap();
            let process = value(&client, PROCESS).await;
            assert_eq!(data_limit(&process)[0], Some(LIMIT));
            let read = client.prepare("SELECT v FROM kept").await.unwrap();
            for greedy in GREEDY {
                for is_extended in [false, true] {
                    let result = if is_extended {
                        client.query(greedy, &[]).await.map(drop)
                    } else {
                        client.simple_query(greedy).await.map(drop)
                    };
                    let error = result.expect_err(greedy);
                    let said = error.as_db_error().unwrap();
                    assert_eq!(code(&error), "53200", "{greedy}: {error:?}");
                    let words = "out of memory: memory_bytes_max is 134217728";
                    assert_eq!(said.message(), words);
                    assert!(said.detail().unwrap().contains("size"), "{said:?}");
                    assert!(said.hint().unwrap().contains("tenantry db limits"));
                    // The same session goes on, and so does what shares its database.
                    let rows = client.query(&read, &[]).await.unwrap();
                    assert_eq!(rows[0].get::<_, &str>(0), "kept");
                    assert_eq!(value(&client, PROCESS).await, process);
                    assert_eq!(value(&other, "SELECT 7").await, "7");
                }
                // Who has no such limit has what it asks for, in the process it had.
                neighbour.simple_query(greedy).await.unwrap();
            }
            // A transaction fails, and what it did is undone.
            let error = client
                .batch_execute(
                    "BEGIN; INSERT INTO kept VALUES ('lost');
                     SELECT length(repeat('x', 400000000)); COMMIT",
                )
                .await
                .unwrap_err();
            assert_eq!(code(&error), "53200");
            client.batch_execute("ROLLBACK").await.unwrap();
            assert_eq!(value(&client, "SELECT count(*) FROM kept").await, "1");
            // An honest one fits, with what PostgreSQL writes to disk.
            client
                .batch_execute("SET work_mem = '16MB'; RESET enable_sort")
                .await
                .unwrap();
            for honest in &GREEDY[2..] {
                assert_eq!(value(&client, "SHOW work_mem").await, "16MB", "{mode:?}");
                let result = client.simple_query(honest).await;
                result.unwrap_or_else(|error| panic!("{mode:?}: {honest}: {error:?}"));
            }
        }
        assert_eq!(value(&neighbour, PROCESS).await, its_process);
        assert_eq!(
            value(&neighbour, "SELECT pg_postmaster_start_time()").await,
            started
        );
        let counts = stack.proxy().snapshot().await.counts;
        let times = modes.len() * (GREEDY.len() * 2 + 1);
        assert_eq!(counts.limits_reached["memory_bytes_max"], times as u64);
        assert!(counts.memory_unlimited.is_empty());
    }
}

/// Raised, taken away and set again, all of it holds for the server connections that there are.
#[tokio::test(flavor = "multi_thread")]
async fn another_limit_holds_for_sessions_that_are_open() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let mode = PoolMode::Session;
    limited(&stack, &tenant, mode, None);
    let clients = [
        stack.connect(&tenant, Role::Admin).await,
        stack.connect(&tenant, Role::Read).await,
    ];
    let mut processes = Vec::new();
    for client in &clients {
        processes.push(value(client, PROCESS).await);
    }
    let [given, most] = data_limit(&processes[0]);
    assert_eq!(given, most, "as its postmaster gave it");
    for bytes in [Some(LIMIT), Some(4 * LIMIT), None, Some(LIMIT)] {
        limited(&stack, &tenant, mode, bytes);
        wait_until("the limit holds", || {
            let mut all = processes.iter().map(|process| data_limit(process));
            all.all(|limits| limits == [bytes.or(most), most])
        });
        for (client, process) in clients.iter().zip(&processes) {
            let greedy = client.simple_query("SELECT length(repeat('x', 200000000))");
            let greedy = greedy.await;
            assert_eq!(greedy.is_err(), bytes == Some(LIMIT), "{bytes:?}");
            assert_eq!(value(client, PROCESS).await, *process);
        }
    }
}

/// A node that is reached by TCP may be anywhere: nobody is kept out, and the operator can see it.
#[tokio::test(flavor = "multi_thread")]
async fn where_it_cannot_hold_it_is_counted() {
    let mut stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = identity.signing_key.serialize_pem();
    let port = stack.postgres.listen_with_tls(&identity.cert.pem(), &key);
    stack.node = std::sync::Arc::new(model::route::NodeTarget {
        name: "far".to_owned(),
        address: model::route::NodeAddress::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
            tls: model::route::NodeTls::Require,
        },
        server_connections_max: 5,
    });
    limited(&stack, &tenant, PoolMode::Session, Some(LIMIT));
    let client = stack.connect(&tenant, Role::Admin).await;
    client.simple_query(GREEDY[0]).await.unwrap();
    let counts = stack.proxy().snapshot().await.counts;
    assert_eq!(counts.memory_unlimited["elsewhere"], 1);
    assert!(counts.limits_reached.is_empty());
}
