//! The managed server: its place, its locks, its restarts.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use kit::{MAJORS, STOP, Scratch, config, create, login, start, until};
use model::Role;
use node::managed::{self, ManagedConfig, ManagedError, ServerState};
use rustix::process::{Pid as ProcessId, Signal, kill_process, test_kill_process};

fn process(pid: u32) -> ProcessId {
    ProcessId::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

fn is_alive(pid: u32) -> bool {
    test_kill_process(process(pid)).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_stays_and_restarts_are_clean() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        assert_eq!(*server.state().borrow(), ServerState::Up);
        let a = create(&server.node()).await;
        let client = login(&server.node(), &a, Role::Admin).await.unwrap();
        client
            .batch_execute("CREATE TABLE t AS SELECT 'kept' v")
            .await
            .unwrap();
        let postmaster = server.postmaster().unwrap();
        let state = server.state();
        server.stop(STOP).await;
        assert_eq!(*state.borrow(), ServerState::Stopped);
        assert!(!is_alive(postmaster));

        let server = start(major, &dir).await;
        let client = login(&server.node(), &a, Role::Read).await.unwrap();
        let row = client.query_one("SELECT v FROM t", &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "kept");
        let log = fs::read_to_string(dir.path().join("data/log/postgres.log")).unwrap();
        assert!(!log.contains("not properly shut down"), "{log}");

        let rows = kit::superuser(&server.node(), "postgres")
            .await
            .query(
                "SELECT current_setting('data_checksums'), current_setting('listen_addresses'), \
                   current_setting('recovery_init_sync_method'), pg_encoding_to_char(encoding), \
                   datcollate::text, coalesce(to_jsonb(d) ->> 'datlocale', datctype::text) \
                 FROM pg_database d WHERE datname = $1",
                &[&a.database()],
            )
            .await
            .unwrap();
        let text: Vec<&str> = (0..6).map(|i| rows[0].get(i)).collect();
        let mut want = vec!["on", "", "syncfs", "UTF8", "C", "C.UTF-8"];
        assert_eq!(text, want, "{major}");
        want.clear();
        server.stop(STOP).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_comes_back_by_itself() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let a = create(&node).await;
        for _ in 0..2 {
            let client = login(&node, &a, Role::Admin).await.unwrap();
            let postmaster = server.postmaster().unwrap();
            let mut state = server.state();
            state.borrow_and_update();
            kill_process(process(postmaster), Signal::KILL).unwrap();
            tokio::time::timeout(
                Duration::from_secs(60),
                state.wait_for(|state| matches!(state, ServerState::Restarting { .. })),
            )
            .await
            .unwrap()
            .unwrap();
            until("up again", async || {
                *server.state().borrow() == ServerState::Up
            })
            .await;
            assert_ne!(server.postmaster(), Some(postmaster));
            client
                .batch_execute("SELECT 1")
                .await
                .expect_err("its session ended");
            // Every step may meet a connection that died: the next one works.
            until("steps work", async || node.open(&a).await.is_ok()).await;
            login(&node, &a, Role::Admin).await.unwrap();
        }
        server.stop(STOP).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_on_the_same_directory_is_refused() {
    let dir = Scratch::new();
    let server = start(18, &dir).await;
    let error = managed::start(config(18, &dir)).await.unwrap_err();
    assert!(
        matches!(&error, ManagedError::InUse { pid, .. } if *pid == std::process::id()),
        "{error}"
    );
    login(&server.node(), &create(&server.node()).await, Role::Admin)
        .await
        .unwrap();
    server.stop(STOP).await;
}

/// What kill -9 of our process leaves: a postmaster without us. The next start stops it, and never
/// are there two.
#[test]
fn an_orphan_is_stopped_by_the_next_start() {
    for major in MAJORS {
        let dir = Scratch::new();
        let runtime = || tokio::runtime::Runtime::new().unwrap();
        let first = runtime();
        let (postmaster, tenant) = first.block_on(async {
            let server = start(major, &dir).await;
            let tenant = create(&server.node()).await;
            (server.postmaster().unwrap(), {
                // Neither stopped nor dropped; its tasks end with the runtime.
                std::mem::forget(server);
                tenant
            })
        });
        first.shutdown_background();
        assert!(is_alive(postmaster));
        // The lock is released by the end of a process, which cannot be shown inside one.
        let lock = dir.path().join("data/tenantry.lock");
        let base_lock = dir.path().join("data/postgres/tenantry.lock");
        for lock in [&lock, &base_lock] {
            fs::remove_file(lock).unwrap();
        }
        runtime().block_on(async {
            let server = start(major, &dir).await;
            until("the orphan is gone", async || {
                let state = fs::read_to_string(format!("/proc/{postmaster}/stat"));
                state.map_or(true, |text| text.contains(") Z "))
            })
            .await;
            login(&server.node(), &tenant, Role::Admin).await.unwrap();
            server.stop(STOP).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_another_major_is_refused() {
    let dir = Scratch::new();
    start(15, &dir).await.stop(STOP).await;
    let error = managed::start(config(18, &dir)).await.unwrap_err();
    assert!(
        matches!(&error, ManagedError::WrongMajor { found, have: 18, .. } if found == "15"),
        "{error}"
    );
    start(15, &dir).await.stop(STOP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_too_long_for_a_socket_works() {
    let dir = Scratch::new();
    let long = dir.path().join("d".repeat(60)).join("e".repeat(60));
    let config = ManagedConfig {
        data_dir: long.clone(),
        ..config(18, &dir)
    };
    let server = managed::start(config.clone()).await.unwrap();
    let socket_dir = kit::socket_dir(&server.node());
    assert!(socket_dir.exists());
    assert!(!socket_dir.starts_with(&long) && socket_dir.as_os_str().len() < 90);
    assert_eq!(fs::metadata(&socket_dir).unwrap().mode() & 0o777, 0o700);
    let tenant = create(&server.node()).await;
    server.stop(STOP).await;
    let server = managed::start(config).await.unwrap();
    assert_eq!(kit::socket_dir(&server.node()), socket_dir);
    login(&server.node(), &tenant, Role::Admin).await.unwrap();
    server.stop(STOP).await;
    assert!(
        !socket_dir.exists(),
        "left behind: {}",
        socket_dir.display()
    );
}

/// Only root meets this: everybody else runs PostgreSQL as themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_postgres_cannot_enter_works_and_keeps_its_permissions() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = Scratch::new();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let config = ManagedConfig {
        data_dir: closed.join("data"),
        ..config(15, &dir)
    };
    let server = managed::start(config.clone()).await.unwrap();
    assert_eq!(fs::metadata(&closed).unwrap().mode() & 0o777, 0o700);
    let pointer = fs::read_to_string(closed.join("data/postgres.base")).unwrap();
    let base = PathBuf::from(pointer.trim());
    assert!(
        base.starts_with(dir.path().join("elsewhere")) && base.join("data/PG_VERSION").exists()
    );
    let tenant = create(&server.node()).await;
    server.stop(STOP).await;
    let server = managed::start(config).await.unwrap();
    login(&server.node(), &tenant, Role::Admin).await.unwrap();
    server.stop(STOP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_for_postgresql_can_only_be_read_by_us() {
    let dir = Scratch::new();
    let server = start(18, &dir).await;
    let data = dir.path().join("data");
    let mode = |path: &str| fs::metadata(data.join(path)).unwrap().mode() & 0o777;
    for secret in ["node.key", "superuser.password", "log/postgres.log"] {
        assert_eq!(mode(secret), 0o600, "{secret}");
    }
    assert_eq!(mode("postgres/run"), 0o700);
    assert_eq!(mode("log"), 0o700);
    assert_eq!(mode("postgres") & 0o007, 0);
    let owner = |path: &str| fs::metadata(data.join(path)).unwrap().uid();
    let us = rustix::process::geteuid().as_raw();
    assert_eq!(owner("postgres/conf/pg_hba.conf"), us);
    assert!(us != 0 || owner("postgres/data") != 0);
    server.stop(STOP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_no_text_of_a_tenant() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let a = create(&node).await;
        let client = login(&node, &a, Role::Admin).await.unwrap();
        client
            .batch_execute("CREATE TABLE t (v int UNIQUE)")
            .await
            .unwrap();
        for sql in [
            "SELECT 'canary'::int",
            "SELECT canary",
            "DO $$ BEGIN RAISE EXCEPTION 'canary'; END $$",
            "DO $$ BEGIN RAISE LOG E'first\ncanary'; END $$",
            "SET log_min_messages = debug5",
        ] {
            let _ = client.batch_execute(sql).await;
        }
        // The server says which statement a process ran that it lost.
        let row = client
            .query_one("SELECT pg_backend_pid()", &[])
            .await
            .unwrap();
        let backend = u32::try_from(row.get::<_, i32>(0)).unwrap();
        let sleeping = client.batch_execute("SELECT 'canary', pg_sleep(3600)");
        let kill = async {
            let platform = kit::superuser(&node, "postgres").await;
            until("it sleeps", async || {
                const SLEEPS: &str =
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
                platform
                    .query_one(SLEEPS, &[])
                    .await
                    .unwrap()
                    .get::<_, i64>(0)
                    == 1
            })
            .await;
            kill_process(process(backend), Signal::SEGV).unwrap();
        };
        let (slept, ()) = tokio::join!(sleeping, kill);
        slept.expect_err("its server crashed");
        until("recovered", async || node.ping().await.is_ok()).await;
        server.stop(STOP).await;
        let log = fs::read_to_string(dir.path().join("data/log/postgres.log")).unwrap();
        assert!(log.contains("was terminated by signal 11"), "{log}");
        let told: Vec<&str> = log.lines().filter(|line| line.contains("canary")).collect();
        assert!(told.is_empty(), "{told:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_the_operator_are_said_before_anything_is_made() {
    let dir = Scratch::new();
    let nowhere = ManagedConfig {
        bin: Some("/nonexistent".into()),
        ..config(15, &dir)
    };
    assert!(matches!(
        managed::start(nowhere).await,
        Err(ManagedError::NotFound(_))
    ));
    let nobody = ManagedConfig {
        user: Some("no-such-user".into()),
        ..config(15, &dir)
    };
    assert!(matches!(
        managed::start(nobody).await,
        Err(ManagedError::Setup(_))
    ));
    assert!(!dir.path().join("data").exists());
}

/// The configuration of the operator wins over ours, and ours over nothing it rests on.
#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_the_operators_settings_is_told_with_the_servers_words() {
    let dir = Scratch::new();
    start(15, &dir).await.stop(STOP).await;
    let operator = dir.path().join("data/postgres/conf/operator.conf");
    write_readable(&operator, "work_mem = '9MB'\nlisten_addresses = '*'\n");
    let server = start(15, &dir).await;
    let platform = kit::superuser(&server.node(), "postgres").await;
    let row = platform
        .query_one(
            "SELECT current_setting('work_mem'), current_setting('listen_addresses')",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("9MB", ""));
    server.stop(STOP).await;
    write_readable(&operator, "no_such_setting = 1\n");
    let error = managed::start(config(15, &dir)).await.unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

fn write_readable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pace_follows_the_number_of_databases() {
    let dir = Scratch::new();
    let server = start(18, &dir).await;
    let platform = kit::superuser(&server.node(), "postgres").await;
    server.pace(1500).await.unwrap();
    until("reloaded", async || {
        let row = platform
            .query_one("SHOW autovacuum_naptime", &[])
            .await
            .unwrap();
        row.get::<_, &str>(0) == "50min"
    })
    .await;
    server.stop(STOP).await;
}
