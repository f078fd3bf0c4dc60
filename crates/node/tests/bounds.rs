//! What one tenant may take of the machine, and what waits end with.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::time::Duration;

use kit::{MAJORS, STOP, Scratch, create, login, start};
use model::Role;
use node::{
    NodeError,
    managed::{self, ManagedConfig},
};
use rustix::process::{Pid as ProcessId, Signal, kill_process};

/// Bytes from `/proc/<pid>/limits`: soft, hard.
fn data_limit(process: u32) -> [u64; 2] {
    let text = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max data size"))
        .unwrap();
    let mut words = line.split_whitespace();
    std::array::from_fn(|_| words.next().unwrap().parse().unwrap_or(u64::MAX))
}

/// The server plans with 4 GB: a cache of 1 GB, and half of one for the private memory of a process.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_much_memory_fails_alone_and_the_cache_is_not_counted() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = managed::start(ManagedConfig {
            memory_bytes: Some(4 << 30),
            ..kit::config(major, &dir)
        })
        .await
        .unwrap();
        let node = server.node();
        assert_eq!(data_limit(server.postmaster().unwrap()), [512 << 20; 2]);

        let a = create(&node).await;
        let admin = login(&node, &a, Role::Admin).await.unwrap();
        let row = admin
            .query_one(
                "SELECT current_setting('shared_buffers'), pg_backend_pid()",
                &[],
            )
            .await
            .unwrap();
        let backend: i32 = row.get(1);
        assert_eq!(row.get::<_, &str>(0), "1GB");
        assert_eq!(data_limit(backend.unsigned_abs())[1], 512 << 20);
        admin
            .batch_execute("CREATE TABLE kept AS SELECT 'kept' v")
            .await
            .unwrap();

        // What a tenant may set; without the limit each of these takes 1 GB and more.
        admin
            .batch_execute("SET work_mem = '64GB'; SET maintenance_work_mem = '64GB'")
            .await
            .unwrap();
        for greedy in [
            "SELECT length(repeat('x', 900000000))",
            "SELECT cardinality(array_agg(repeat('x', 1000000))) FROM generate_series(1, 1000)",
            "SELECT count(*) FROM (SELECT repeat('x', 10000) || i v \
               FROM generate_series(1, 100000) i ORDER BY 1 OFFSET 1) sorted",
        ] {
            let error = admin.batch_execute(greedy).await.expect_err(greedy);
            assert_eq!(kit::code(&error), "53200", "{major}: {greedy}: {error:?}");
            // The same session goes on.
            let row = admin.query_one("SELECT v, pg_backend_pid() FROM kept", &[]);
            let row = row.await.unwrap();
            assert_eq!((row.get(0), row.get(1)), ("kept", backend));
        }
        // An honest one fits.
        admin
            .batch_execute(
                "SET work_mem = '200MB'; SELECT count(*) FROM (SELECT repeat('x', 10000) || i v \
                   FROM generate_series(1, 10000) i ORDER BY 1 OFFSET 1) sorted",
            )
            .await
            .unwrap();
        server.stop(STOP).await;
        let log = std::fs::read_to_string(dir.path().join("data/log/postgres.log")).unwrap();
        assert!(!log.contains("terminated by signal"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_says_busy_when_sessions_do_not_end_in_time() {
    let dir = Scratch::new();
    let server = start(15, &dir).await;
    let node = server.node();
    let a = create(&node).await;
    let client = login(&node, &a, Role::Admin).await.unwrap();
    let row = client.query_one("SELECT pg_backend_pid()", &[]);
    let stuck = ProcessId::from_raw(row.await.unwrap().get(0)).unwrap();
    // As one that waits for a disk that does not answer: it does not look at signals.
    kill_process(stuck, Signal::STOP).unwrap();
    let limit = Duration::from_millis(50);
    let error = node.close_within(&a, limit).await.unwrap_err();
    assert!(
        matches!(error, NodeError::Busy { waited, .. } if waited == limit),
        "{error:?}"
    );
    assert!(error.is_temporary());
    kill_process(stuck, Signal::CONT).unwrap();
    node.close(&a).await.unwrap();
    let refused = login(&node, &a, Role::Admin).await.unwrap_err();
    assert!(
        ["55000", "53300"].contains(&kit::code(&refused)),
        "{refused:?}"
    );
    server.stop(STOP).await;
}

/// Tenants get the whole budget while the platform has all of what is reserved for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_budget_is_there_for_tenants_whatever_the_platform_has_open() {
    for major in MAJORS {
        let dir = Scratch::new();
        let config = kit::config(major, &dir);
        let (budget, reserved) = (config.budget, config.reserved);
        let server = managed::start(config).await.unwrap();
        let node = server.node();
        let tenant = create(&node).await;
        let mut platform = Vec::new();
        for _ in 0..reserved {
            platform.push(kit::superuser(&node, "postgres").await);
        }
        let mut tenants = Vec::new();
        for _ in 0..budget {
            tenants.push(login(&node, &tenant, Role::Read).await.unwrap());
        }
        drop((platform, tenants));
        server.stop(STOP).await;
    }
}
