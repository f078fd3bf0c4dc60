//! The steps of a tenant's life, each run twice, on every major.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{MAJORS, STOP, TempDir, code, create, login, login_to, pid, start};
use model::Role;
use node::{ClonePath, DatabaseState, Template};

/// Create, use, close, drop: each step twice.
#[tokio::test(flavor = "multi_thread")]
async fn every_step_run_twice_is_run_once() {
    for major in MAJORS {
        let dir = TempDir::new();
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
        let dir = TempDir::new();
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
