//! Looking after databases in use; attached servers.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::time::Duration;

use kit::{MAJORS, STOP, Scratch, create, login, start, superuser, until};
use model::{Pid, Role, Secret};
use node::{
    Care, ClonePath, NodeKey, Template,
    attached::{AttachConfig, AttachError, attach},
};

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_changed_are_vacuumed_and_others_are_left() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let (busy, idle) = (create(&node).await, create(&node).await);
        for pid in [&busy, &idle] {
            let admin = login(&node, pid, Role::Admin).await.unwrap();
            // The name would be another statement, were it not quoted.
            admin
                .batch_execute("CREATE TABLE \"t\"\"; DROP TABLE u\" (v int)")
                .await
                .unwrap();
        }
        // The end of a session writes its statistics.
        for pid in [&busy, &idle] {
            node.close(pid).await.unwrap();
            node.open(pid).await.unwrap();
        }
        let mut care = Care::default();
        node.look_after(&mut care).await.unwrap();
        let admin = login(&node, &busy, Role::Admin).await.unwrap();
        admin
            .batch_execute(
                "INSERT INTO \"t\"\"; DROP TABLE u\" SELECT generate_series(1, 5000); \
                 UPDATE \"t\"\"; DROP TABLE u\" SET v = v + 1; SELECT pg_stat_force_next_flush()",
            )
            .await
            .unwrap();
        node.close(&busy).await.unwrap();
        node.open(&busy).await.unwrap();
        let cared = node.look_after(&mut care).await.unwrap();
        assert_eq!((cared.changed, cared.tables, cared.failed), (1, 1, 0));
        let inside = superuser(&node, &busy.database()).await;
        let row = inside
            .query_one(
                "SELECT vacuum_count, analyze_count, n_live_tup FROM pg_stat_user_tables",
                &[],
            )
            .await
            .unwrap();
        let counts: [i64; 3] = std::array::from_fn(|i| row.get(i));
        assert_eq!(counts, [1, 1, 5000], "{major}");
        let again = node.look_after(&mut care).await.unwrap();
        assert_eq!(again.tables, 0);
        server.stop(STOP).await;
    }
}

/// Transactions counted in the databases of `pids`.
async fn transactions(platform: &tokio_postgres::Client, pids: &[Pid]) -> Vec<i64> {
    let names: Vec<String> = pids.iter().map(Pid::database).collect();
    let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database \
               WHERE datname = ANY ($1) ORDER BY datname";
    let rows = platform.query(sql, &[&names]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Nobody connects to the databases in this test, so what is counted there is autovacuum's.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_autovacuum_is_told_its_databases_once() {
    for major in MAJORS {
        let dir = Scratch::new();
        start(major, &dir).await.stop(STOP).await;
        std::fs::write(
            dir.path().join("data/postgres/conf/operator.conf"),
            "autovacuum_naptime = 4s\n",
        )
        .unwrap();
        let server = start(major, &dir).await;
        let node = server.node();
        let mut pids = Vec::new();
        for _ in 0..4 {
            pids.push(create(&node).await);
            login(&node, &pids[pids.len() - 1], Role::Admin)
                .await
                .unwrap();
        }
        let mut care = Care::default();
        let first = node.look_after(&mut care).await.unwrap();
        assert!(!first.lost_statistics, "a clean start loses nothing");

        let postmaster = i32::try_from(server.postmaster().unwrap()).unwrap();
        let postmaster = rustix::process::Pid::from_raw(postmaster).unwrap();
        rustix::process::kill_process(postmaster, rustix::process::Signal::KILL).unwrap();
        until("up again", async || {
            node.look_after(&mut care)
                .await
                .is_ok_and(|cared| cared.lost_statistics)
        })
        .await;
        assert!(!node.look_after(&mut care).await.unwrap().lost_statistics);
        let platform = superuser(&node, "postgres").await;
        assert_eq!(transactions(&platform, &pids).await, [0; 4]);

        assert_eq!(node.help_autovacuum(Duration::ZERO).await.unwrap(), 4);
        until("all are visited", async || {
            transactions(&platform, &pids).await.iter().all(|n| *n > 0)
        })
        .await;
        let met = transactions(&platform, &pids).await;
        until("autovacuum visits each", async || {
            let now = transactions(&platform, &pids).await;
            now.iter().zip(&met).all(|(now, met)| now > met)
        })
        .await;
        // One process that crashes takes the statistics with it, too; the postmaster lives.
        let hog = login(&node, &pids[0], Role::Admin).await.unwrap();
        let row = hog.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
        let backend = rustix::process::Pid::from_raw(row.get(0)).unwrap();
        rustix::process::kill_process(backend, rustix::process::Signal::SEGV).unwrap();
        until("recovered", async || {
            node.look_after(&mut care)
                .await
                .is_ok_and(|cared| cared.lost_statistics)
        })
        .await;
        server.stop(STOP).await;
        // And not after a clean stop.
        let server = start(major, &dir).await;
        let mut fresh = Care::default();
        let cared = server.node().look_after(&mut fresh).await.unwrap();
        assert!(!cared.lost_statistics);
        server.stop(STOP).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_fills_the_lock_table_is_ended_alone() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let (a, b) = (create(&node).await, create(&node).await);
        let hog = login(&node, &a, Role::Admin).await.unwrap();
        let other = login(&node, &b, Role::Admin).await.unwrap();
        assert_eq!(node.end_lock_hogs(400).await.unwrap(), []);
        // Session locks outlive the statement that could get no more.
        let full = hog
            .batch_execute("SELECT count(pg_advisory_lock(i)) FROM generate_series(1, 1000000) i")
            .await
            .unwrap_err();
        assert_eq!(kit::code(&full), "53200");
        let suffers = other
            .batch_execute("SELECT pg_advisory_lock(1)")
            .await
            .unwrap_err();
        assert_eq!(kit::code(&suffers), "53200");
        let ended = node.end_lock_hogs(400).await.unwrap();
        assert_eq!(ended.len(), 1);
        assert!(
            ended[0].pid.as_ref() == Some(&a) && ended[0].locks >= 500,
            "{ended:?}"
        );
        until("it has ended", async || {
            hog.batch_execute("SELECT 1").await.is_err()
        })
        .await;
        until("others go on", async || {
            other
                .batch_execute("SELECT pg_advisory_lock(1)")
                .await
                .is_ok()
        })
        .await;
        server.stop(STOP).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_server_is_used_by_its_dsn_and_refused_with_what_is_missing() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let password = std::fs::read_to_string(dir.path().join("data/superuser.password")).unwrap();
        let host = kit::socket_dir(&server.node()).display().to_string();
        let config = |user: &str, password: &str, budget| AttachConfig {
            name: "attached".to_owned(),
            dsn: Secret::new(format!("host='{host}' user={user} password={password}")),
            key: NodeKey::load_or_create(&dir.path().join("data/node.key")).unwrap(),
            budget,
            programs: None,
        };
        let node = attach(config("tenantry", &password, 10)).await.unwrap();
        node.bootstrap().await.unwrap();
        let pid = create(&node).await;
        login(&node, &pid, Role::Admin).await.unwrap();
        assert_eq!(node.name(), "attached");

        let unfit = attach(config("tenantry", &password, 1000))
            .await
            .unwrap_err();
        assert!(unfit.to_string().contains("max_connections"), "{unfit}");
        let wrong = attach(config("tenantry", "wrong", 10)).await.unwrap_err();
        assert!(matches!(wrong, AttachError::Node(_)), "{wrong}");
        // An ordinary role that pg_hba lets in: a member of a role named like the database.
        let platform = superuser(&node, "postgres").await;
        platform
            .batch_execute(
                "CREATE ROLE postgres; CREATE ROLE plain LOGIN PASSWORD 'plain'; \
                 GRANT postgres TO plain; GRANT CONNECT ON DATABASE postgres TO plain",
            )
            .await
            .unwrap();
        let unfit = attach(config("plain", "plain", 10)).await.unwrap_err();
        assert!(unfit.to_string().contains("no superuser"), "{unfit}");
        server.stop(STOP).await;
    }
}

/// On a file system without reflinks the kernel copies; the way is the same.
#[tokio::test(flavor = "multi_thread")]
async fn where_files_can_be_cloned_they_are() {
    let dir = Scratch::new();
    start(18, &dir).await.stop(STOP).await;
    let operator = dir.path().join("data/postgres/conf/operator.conf");
    std::fs::write(operator, "file_copy_method = clone\n").unwrap();
    let server = start(18, &dir).await;
    let node = server.node();
    assert_eq!(
        node.prepare_copy(&Template::Empty).await.unwrap(),
        ClonePath::FileClone
    );
    let pid = kit::pid();
    node.create_logins(&pid).await.unwrap();
    let report = node.create_database(&pid, &Template::Empty).await.unwrap();
    assert_eq!(report.path, ClonePath::FileClone);
    node.open(&pid).await.unwrap();
    login(&node, &pid, Role::Admin).await.unwrap();
    server.stop(STOP).await;
}
