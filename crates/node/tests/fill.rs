//! Databases that are read and filled for backups: what is on the server meanwhile is known to the checker, and
//! nothing of it stays.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::time::Duration;

use kit::{MAJORS, STOP, Scratch, create, start, superuser};
use model::{Pid, Role, UserId};
use node::{
    Dump, Manifest, Node,
    check::{Expected, ExpectedState, FindingKind as Kind},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const LONG: Duration = Duration::from_secs(300);

async fn kinds(node: &Node, pid: &Pid, state: ExpectedState) -> Vec<Kind> {
    let expected = [Expected {
        pid: pid.clone(),
        state,
    }];
    let found = node.check(&expected).await.unwrap();
    let mut kinds: Vec<Kind> = found.into_iter().map(|one| one.kind).collect();
    kinds.dedup();
    kinds
}

async fn read(node: &Node, pid: &Pid, mut dump: Dump, is_closed: bool) -> (Vec<u8>, Manifest) {
    let mut bytes = Vec::new();
    let mut output = dump.output().unwrap();
    output.read_to_end(&mut bytes).await.unwrap();
    let manifest = node.finish_dump(dump).await.unwrap();
    node.end_dump(pid, is_closed).await.unwrap();
    (bytes, manifest)
}

/// Roles that have the name of what was dropped.
async fn stand_ins(node: &Node, gone: &Pid) -> i64 {
    let sql = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, $1)";
    let platform = superuser(node, "postgres").await;
    let row = platform.query_one(sql, &[&gone.database()]).await;
    row.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_backups_and_restores_need_is_no_finding_while_they_last_and_is_one_afterwards() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let platform = superuser(&node, "postgres").await;
        let run = async |sql: &str| platform.batch_execute(sql).await.unwrap();
        let a = create(&node).await;
        let name = a.database();
        let user = UserId::random(&mut rand::rng());
        node.create_user(&a, Role::Read, &user).await.unwrap();
        let inside = superuser(&node, &name).await;
        let sql = format!(
            "CREATE TABLE t AS SELECT generate_series(1, 100) v; ALTER TABLE t OWNER TO tenantry_admin;
             GRANT SELECT ON t TO {name}_read, {}",
            Role::Read.user_login(&a, &user)
        );
        inside.batch_execute(&sql).await.unwrap();
        drop(inside);

        // What a restore replaces is open while it is read, and to the one that reads it.
        node.close(&a).await.unwrap();
        let dump = node.begin_dump(&a, true, LONG).await.unwrap();
        assert_eq!(kinds(&node, &a, ExpectedState::BackedUp).await, []);
        assert!(
            kinds(&node, &a, ExpectedState::Closed)
                .await
                .contains(&Kind::WrongAccess)
        );
        run(&format!("GRANT CONNECT ON DATABASE {name} TO {name}_admin")).await;
        let found = kinds(&node, &a, ExpectedState::BackedUp).await;
        assert_eq!(found, [Kind::DatabaseAcl]);
        run(&format!(
            "REVOKE CONNECT ON DATABASE {name} FROM {name}_admin"
        ))
        .await;
        let (bytes, manifest) = read(&node, &a, dump, true).await;
        assert_eq!(kinds(&node, &a, ExpectedState::Closed).await, []);

        // What stands in for roles that are gone, of one restore and of two.
        node.drop_database(&a).await.unwrap();
        node.drop_logins(&a).await.unwrap();
        let [b, c] = [kit::pid(), kit::pid()];
        for pid in [&b, &c] {
            node.create_logins(pid).await.unwrap();
        }
        let changing = [&b, &c].map(|pid| Expected {
            pid: pid.clone(),
            state: ExpectedState::Changing,
        });
        let first = node.begin_fill_from(&b, &manifest, LONG).await.unwrap();
        let other = node.begin_fill_from(&c, &manifest, LONG).await.unwrap();
        assert_eq!(stand_ins(&node, &a).await, 5);
        assert_eq!(node.check(&changing).await.unwrap(), []);
        node.abandon_fill(&c, other).await;
        assert_eq!(stand_ins(&node, &a).await, 5, "the first one needs them");
        // The process dies; whoever goes on knows what is there.
        drop(first);
        let mut fill = node.begin_fill_from(&b, &manifest, LONG).await.unwrap();
        let mut input = fill.input().unwrap();
        input.write_all(&bytes).await.unwrap();
        input.shutdown().await.unwrap();
        drop(input);
        let filled = node.finish_fill(&b, fill, &manifest, &[], LONG);
        filled.await.unwrap();
        assert_eq!(stand_ins(&node, &a).await, 0);
        node.drop_database(&c).await.unwrap();
        node.drop_logins(&c).await.unwrap();
        assert_eq!(kinds(&node, &b, ExpectedState::Closed).await, []);

        // One that came to nothing, with a database that names them: they go with its logins.
        node.create_logins(&c).await.unwrap();
        let mut fill = node.begin_fill_from(&c, &manifest, LONG).await.unwrap();
        let mut input = fill.input().unwrap();
        input.write_all(&bytes).await.unwrap();
        input.shutdown().await.unwrap();
        drop(input);
        let half = superuser(&node, &c.database()).await;
        let sql = format!("GRANT CREATE ON SCHEMA public TO {name}_read");
        half.batch_execute(&sql).await.unwrap();
        drop(half);
        node.abandon_fill(&c, fill).await;
        assert!(stand_ins(&node, &a).await > 0);
        node.drop_database(&c).await.unwrap();
        node.drop_logins(&c).await.unwrap();
        assert_eq!(stand_ins(&node, &a).await, 0);

        // What stays behind although nothing is under way is damage.
        run(&format!(
            "CREATE ROLE {name}_read NOLOGIN; COMMENT ON ROLE {name}_read IS 'stands in for: {}'",
            c.database()
        ))
        .await;
        let found = kinds(&node, &b, ExpectedState::Closed).await;
        assert_eq!(found, [Kind::OrphanRole]);
        // Also for one that can do more than it should, while it is needed.
        let mark = format!("{}_fill", b.database());
        run(&format!(
            "CREATE ROLE {mark} NOLOGIN; COMMENT ON ROLE {name}_read IS 'stands in for: {}'",
            b.database()
        ))
        .await;
        assert_eq!(kinds(&node, &b, ExpectedState::Changing).await, []);
        let found = kinds(&node, &b, ExpectedState::Closed).await;
        assert_eq!(found, [Kind::OrphanRole], "a restore that has ended");
        run(&format!("ALTER ROLE {name}_read LOGIN CREATEDB")).await;
        let found = kinds(&node, &b, ExpectedState::Changing).await;
        assert_eq!(found, [Kind::RoleAttributes]);
        run(&format!("DROP ROLE {name}_read, {mark}")).await;
        drop(platform);
        server.stop(STOP).await;
    }
}
