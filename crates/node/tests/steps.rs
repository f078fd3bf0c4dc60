//! The steps of a tenant's life, each run twice, on every major.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{MAJORS, STOP, Scratch, code, create, login, login_to, pid, start, superuser};
use model::{Pid, Role};
use node::{ClonePath, DatabaseState, Node, Template};

/// Whether the next session of a database finds the file its caches are filled from.
async fn has_cache_file(node: &Node, pid: &Pid) -> bool {
    let size = "SELECT (pg_stat_file(format('base/%s/pg_internal.init', oid), true)).size IS NOT \
                NULL FROM pg_database WHERE datname = $1";
    let row = superuser(node, "postgres").await;
    let row = row.query_one(size, &[&pid.database()]).await.unwrap();
    row.get(0)
}

/// Create, use, close, drop: each step twice.
#[tokio::test(flavor = "multi_thread")]
async fn every_step_run_twice_is_run_once() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        node.bootstrap().await.unwrap();
        assert_eq!(node.server_version().major(), major);

        let pid = pid();
        assert!(node.physical(&pid).await.unwrap().is_absent());
        for _ in 0..2 {
            node.create_logins(&pid).await.unwrap();
        }
        let first = node.create_database(&pid, &Template::Empty).await.unwrap();
        assert_ne!(first.path, ClonePath::Existing);
        let second = node.create_database(&pid, &Template::Empty).await.unwrap();
        assert_eq!(second.path, ClonePath::Existing);
        let there = node.physical(&pid).await.unwrap();
        assert_eq!(there.database, DatabaseState::Closed);
        assert_eq!((there.logins, there.wall), (Role::ALL.to_vec(), true));
        assert!(!has_cache_file(&node, &pid).await);
        node.warm_up(&pid).await.unwrap();
        assert!(has_cache_file(&node, &pid).await);
        login(&node, &pid, Role::Admin).await.expect_err("closed");
        for _ in 0..2 {
            node.open(&pid).await.unwrap();
        }
        let admin = login(&node, &pid, Role::Admin).await.unwrap();
        admin
            .batch_execute("CREATE TABLE t (v int); INSERT INTO t VALUES (7)")
            .await
            .unwrap();
        let reader = login(&node, &pid, Role::Read).await.unwrap();
        assert_eq!(
            reader
                .query_one("SELECT v FROM t", &[])
                .await
                .unwrap()
                .get::<_, i32>(0),
            7
        );
        let error = reader
            .batch_execute("INSERT INTO t VALUES (8)")
            .await
            .unwrap_err();
        assert_eq!(code(&error), "42501");

        for _ in 0..2 {
            node.close(&pid).await.unwrap();
        }
        admin
            .batch_execute("SELECT 1")
            .await
            .expect_err("its session was ended");
        login(&node, &pid, Role::Admin).await.expect_err("closed");
        node.drop_logins(&pid)
            .await
            .expect_err("its database is there");
        for _ in 0..2 {
            node.drop_database(&pid).await.unwrap();
        }
        for _ in 0..2 {
            node.drop_logins(&pid).await.unwrap();
        }
        assert!(node.physical(&pid).await.unwrap().is_absent());
        assert!(node.inventory().await.unwrap().is_empty());
        node.close(&pid).await.unwrap();
        server.stop(STOP).await;
    }
}

/// Each wall alone holds: `pg_hba.conf` also when PUBLIC may connect.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_reaches_its_own_database_only() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let (a, b) = (create(&node).await, create(&node).await);
        for role in Role::ALL {
            login(&node, &a, role).await.unwrap();
            for database in [
                &*b.database(),
                "postgres",
                "template1",
                "tenantry",
                "tenantry_template",
            ] {
                let error = login_to(&node, &a, role, database)
                    .await
                    .expect_err(database);
                assert!(
                    ["28000", "55000"].contains(&code(&error)),
                    "{database}: {error:?}"
                );
            }
        }
        let platform = kit::superuser(&node, "postgres").await;
        let sql = format!("GRANT CONNECT ON DATABASE {} TO PUBLIC", b.database());
        platform.batch_execute(&sql).await.unwrap();
        let error = login_to(&node, &a, Role::Admin, &b.database())
            .await
            .unwrap_err();
        assert_eq!(code(&error), "28000");
        server.stop(STOP).await;
    }
}

/// A crash after any step: repeating all of them from the first gives the same as one straight run.
#[tokio::test(flavor = "multi_thread")]
async fn stopping_after_any_step_converges() {
    let dir = Scratch::new();
    let server = start(18, &dir).await;
    let node = server.node();
    type Step =
        for<'a> fn(&'a node::Node, &'a model::Pid) -> futures_util::future::BoxFuture<'a, bool>;
    let create: [Step; 3] = [
        |node, pid| Box::pin(async { node.create_logins(pid).await.is_ok() }),
        |node, pid| Box::pin(async { node.create_database(pid, &Template::Empty).await.is_ok() }),
        |node, pid| Box::pin(async { node.open(pid).await.is_ok() }),
    ];
    let delete: [Step; 3] = [
        |node, pid| Box::pin(async { node.close(pid).await.is_ok() }),
        |node, pid| Box::pin(async { node.drop_database(pid).await.is_ok() }),
        |node, pid| Box::pin(async { node.drop_logins(pid).await.is_ok() }),
    ];
    for created in 0..=create.len() {
        for deleted in 0..=delete.len() {
            let pid = pid();
            for step in &create[..created] {
                assert!(step(&node, &pid).await);
            }
            for step in &delete[..deleted] {
                assert!(step(&node, &pid).await);
            }
            if (created + deleted) % 2 == 0 {
                for step in &create {
                    assert!(step(&node, &pid).await, "create after {created}, {deleted}");
                }
                login(&node, &pid, Role::Write).await.unwrap();
            }
            for step in &delete {
                assert!(step(&node, &pid).await, "delete after {created}, {deleted}");
            }
            assert!(
                node.physical(&pid).await.unwrap().is_absent(),
                "{created}, {deleted}"
            );
        }
    }
    server.stop(STOP).await;
}

/// A branch has the data and the rights of its source, and none of its logins.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_a_tenant_of_its_own() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let source = create(&node).await;
        let admin = login(&node, &source, Role::Admin).await.unwrap();
        admin
            .batch_execute("CREATE TABLE t AS SELECT generate_series(1, 1000) v")
            .await
            .unwrap();
        let copy = pid();
        node.create_logins(&copy).await.unwrap();
        let from = Template::Copy(source.clone());
        let busy = node.create_database(&copy, &from).await.unwrap_err();
        assert!(busy.is_source_in_use() && busy.is_temporary(), "{busy}");
        node.close(&source).await.unwrap();
        node.open(&source).await.unwrap();
        let report = node.create_database(&copy, &from).await.unwrap();
        assert_eq!(report.path, ClonePath::WalLog);
        node.open(&copy).await.unwrap();
        let reader = login(&node, &copy, Role::Read).await.unwrap();
        let row = reader
            .query_one("SELECT count(*) FROM t", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i64>(0), 1000);
        login_to(&node, &source, Role::Admin, &copy.database())
            .await
            .expect_err("another tenant");
        assert!(node.database_bytes(&copy).await.unwrap().unwrap() > 1_000_000);
        drop(reader);
        node.close(&copy).await.unwrap();
        node.drop_database(&copy).await.unwrap();
        node.drop_logins(&copy).await.unwrap();
        server.stop(STOP).await;
    }
}

/// A login that another tenant's grant names can still be dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_in_another_database_does_not_keep_a_login_alive() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let (a, b) = (create(&node).await, create(&node).await);
        let admin = login(&node, &b, Role::Admin).await.unwrap();
        let sql = format!(
            "CREATE TABLE t (); GRANT SELECT ON t TO {}",
            Role::Read.login(&a)
        );
        admin.batch_execute(&sql).await.unwrap();
        // Also where nobody can connect.
        node.close(&b).await.unwrap();
        node.close(&a).await.unwrap();
        node.drop_database(&a).await.unwrap();
        node.drop_logins(&a).await.unwrap();
        assert!(node.physical(&a).await.unwrap().is_absent());
        assert_eq!(
            node.physical(&b).await.unwrap().database,
            DatabaseState::Closed
        );
        node.open(&b).await.unwrap();
        login(&node, &b, Role::Admin).await.unwrap();
        server.stop(STOP).await;
    }
}
