//! Databases that are many transactions old.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::os::unix::{fs::MetadataExt, process::CommandExt};

use kit::{MAJORS, STOP, Scratch, create, login, start, superuser};
use model::Role;
use node::{
    NodeError, TEMPLATE_AGE_MAX,
    check::{Expected, ExpectedState, FindingKind},
};

/// Transactions in one file of `pg_xact`. The first of a file needs none to be there.
const XACT_FILE: u32 = 1 << 20;

/// Makes the next transaction of a stopped server the first of a file. The numbers in between were
/// never used, which is all that ages care about.
fn set_next_transaction(major: u32, dir: &Scratch, file: u32) {
    let cluster = dir.path().join("data/postgres/data");
    let owner = std::fs::metadata(&cluster).unwrap();
    let mut command = std::process::Command::new(kit::bin(major).join("pg_resetwal"));
    command
        .arg("-x")
        .arg((file * XACT_FILE).to_string())
        .arg(&cluster)
        .current_dir("/");
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
}

async fn age(client: &tokio_postgres::Client, database: &str) -> i32 {
    let sql = "SELECT age(datfrozenxid) FROM pg_database WHERE datname = $1";
    client.query_one(sql, &[&database]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_template_is_frozen_again_and_very_old_databases_are_reported() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let before = create(&node).await;
        assert!(!node.refresh_template(TEMPLATE_AGE_MAX).await.unwrap());
        server.stop(STOP).await;
        // Autovacuum would freeze at once what is meant to stay old.
        std::fs::write(
            dir.path().join("data/postgres/conf/operator.conf"),
            "autovacuum = off\nautovacuum_freeze_max_age = 2000000000\n",
        )
        .unwrap();

        set_next_transaction(major, &dir, 60);
        let server = start(major, &dir).await;
        let node = server.node();
        let platform = superuser(&node, "postgres").await;
        assert!(age(&platform, "tenantry_template").await > 60_000_000);
        // What an interrupted one leaves at two of its steps.
        platform
            .batch_execute(
                "CREATE DATABASE tenantry_template_next TEMPLATE tenantry_template CONNECTION LIMIT 0",
            )
            .await
            .unwrap();
        platform
            .batch_execute(
                "CREATE DATABASE tenantry_template_last CONNECTION LIMIT 0 IS_TEMPLATE true",
            )
            .await
            .unwrap();
        assert!(node.refresh_template(TEMPLATE_AGE_MAX).await.unwrap());
        assert!(!node.refresh_template(TEMPLATE_AGE_MAX).await.unwrap());
        assert!(age(&platform, "tenantry_template").await < 1000);
        let row = platform
            .query_one(
                "SELECT count(*), bool_and(datistemplate AND NOT datallowconn) FROM pg_database \
                 WHERE datname ~ '^tenantry_template'",
                &[],
            )
            .await
            .unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (1, true));
        // Tenants made from it are young, and what they should be.
        let after = create(&node).await;
        assert!(age(&platform, &after.database()).await < 1000);
        login(&node, &after, Role::Write).await.unwrap();
        let expected = [&before, &after].map(|pid| Expected {
            pid: pid.clone(),
            state: ExpectedState::Open,
        });
        assert_eq!(node.check(&expected).await.unwrap(), []);

        // Somebody else's database is not touched.
        platform
            .batch_execute("CREATE DATABASE tenantry_template_next")
            .await
            .unwrap();
        let error = node.refresh_template(0).await.unwrap_err();
        assert!(matches!(error, NodeError::Conflict { .. }), "{error:?}");
        platform
            .batch_execute("DROP DATABASE tenantry_template_next")
            .await
            .unwrap();
        drop(platform);
        server.stop(STOP).await;

        set_next_transaction(major, &dir, 560);
        let server = start(major, &dir).await;
        let node = server.node();
        assert!(node.refresh_template(TEMPLATE_AGE_MAX).await.unwrap());
        let findings = node.check(&expected).await.unwrap();
        let old: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.kind == FindingKind::TransactionAge)
            .map(|finding| &*finding.subject)
            .collect();
        assert!(old.contains(&&*before.database()), "{findings:#?}");
        assert!(!old.contains(&"tenantry_template"), "{findings:#?}");
        server.stop(STOP).await;
    }
}
