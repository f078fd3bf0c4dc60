//! Logins of users: nothing beyond their role, carried by a copy, repaired and removed.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::time::Duration;

use kit::{MAJORS, STOP, Scratch, create, login, pid, socket_dir, start, superuser};
use model::{Pid, Role, UserId};
use node::{
    Node,
    check::{Expected, ExpectedState, FindingKind as Kind},
};
use tokio_postgres::Client;

async fn enter(
    node: &Node,
    pid: &Pid,
    (role, user): (Role, &UserId),
    database: &Pid,
) -> Result<Client, tokio_postgres::Error> {
    let login = node.user_server_login(pid, role, user);
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(socket_dir(node))
        .user(&login.user)
        .password(login.password.reveal())
        .dbname(database.database())
        .options(format!("-c role={}", login.group.as_str()));
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn open(pid: &Pid) -> Expected {
    Expected {
        pid: pid.clone(),
        state: ExpectedState::Open,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_a_user_lives_and_dies_on_every_major() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let (a, b) = (create(&node).await, create(&node).await);
        let user = UserId::random(&mut rand::rng());
        // Twice is as good as once, also before the database is opened.
        let early = pid();
        node.create_logins(&early).await.unwrap();
        node.create_user(&early, Role::Read, &user).await.unwrap();
        node.drop_logins(&early).await.unwrap();
        assert!(node.users(&early).await.unwrap().is_empty());
        for role in Role::ALL {
            node.create_user(&a, role, &user).await.unwrap();
            node.create_user(&a, role, &user).await.unwrap();
        }
        assert_eq!(node.users(&a).await.unwrap().len(), 3);
        let clean = node.check(&[open(&a), open(&b)]).await.unwrap();
        assert!(clean.is_empty(), "{clean:#?}");

        let admin = login(&node, &a, Role::Admin).await.unwrap();
        admin.batch_execute("CREATE TABLE t (a int)").await.unwrap();
        for (role, may) in [
            (Role::Admin, true),
            (Role::Write, true),
            (Role::Read, false),
        ] {
            let own = (role, &user);
            let refused = enter(&node, &a, own, &b).await.err().unwrap();
            let code = refused.code().map(|code| code.code().to_owned());
            assert!(["42501", "28000"].contains(&&*code.unwrap()), "{refused:?}");
            let client = enter(&node, &a, own, &a).await.unwrap();
            let wrote = client.batch_execute("INSERT INTO t VALUES (1)").await;
            assert_eq!(wrote.is_ok(), may, "{role}");
            // Without its group it may do nothing.
            client.batch_execute("SET ROLE NONE").await.unwrap();
            assert!(client.batch_execute("SELECT * FROM t").await.is_err());
            for group in [
                "tenantry_admin",
                "tenantry_write",
                "tenantry_read",
                "tenantry_owner",
            ] {
                let took = client.batch_execute(&format!("SET ROLE {group}")).await;
                assert_eq!(
                    took.is_ok(),
                    group == role.group().as_str(),
                    "{role} {group}"
                );
            }
        }

        // What a user did to its own login is found and set back.
        let name = Role::Write.user_login(&a, &user);
        let writer = enter(&node, &a, (Role::Write, &user), &a).await.unwrap();
        let own = format!(
            "SET ROLE NONE; ALTER ROLE {name} PASSWORD 'mine'; ALTER ROLE {name} SET work_mem = '1MB'"
        );
        writer.batch_execute(&own).await.unwrap();
        drop(writer);
        let found = node.repair_logins(&a).await.unwrap();
        let kinds: Vec<Kind> = found.iter().map(|finding| finding.kind).collect();
        assert!(
            kinds.contains(&Kind::RolePassword) && kinds.contains(&Kind::StoredSetting),
            "{found:#?}"
        );
        assert!(node.repair_logins(&a).await.unwrap().is_empty());

        // A copy has the grants, made out to a login of its own, whom nobody of the source is.
        let grant = format!("GRANT USAGE ON SCHEMA public TO {name}; GRANT SELECT ON t TO {name}");
        admin.batch_execute(&grant).await.unwrap();
        drop(admin);
        kit::until("nobody is there", async || {
            node.sessions(&a).await.unwrap() == 0
        })
        .await;
        let copy = pid();
        node.create_logins(&copy).await.unwrap();
        node.copy_database(&copy, &a, Duration::from_secs(60))
            .await
            .unwrap();
        node.adopt(&copy, &a).await.unwrap();
        node.open(&copy).await.unwrap();
        assert!(enter(&node, &a, (Role::Write, &user), &copy).await.is_err());
        let client = enter(&node, &copy, (Role::Write, &user), &copy)
            .await
            .unwrap();
        client
            .batch_execute("SET ROLE NONE; SELECT a FROM t")
            .await
            .unwrap();
        drop(client);
        let all = [open(&a), open(&b), open(&copy)];
        let clean = node.check(&all).await.unwrap();
        assert!(clean.is_empty(), "{clean:#?}");

        // Deleted with a session, an object and grants; then again, though nothing is there.
        let platform = superuser(&node, &a.database()).await;
        let give = format!("GRANT USAGE, CREATE ON SCHEMA public TO {name}");
        platform.batch_execute(&give).await.unwrap();
        let held = enter(&node, &a, (Role::Write, &user), &a).await.unwrap();
        held.batch_execute("SET ROLE NONE; CREATE TABLE own (a int)")
            .await
            .unwrap();
        for _ in 0..2 {
            node.drop_user(&a, Role::Write, &user).await.unwrap();
        }
        kit::until("its session ends", async || held.is_closed()).await;
        let sql = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'own'";
        let owner: String = platform.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(owner, "tenantry_write");
        drop(platform);
        assert_eq!(node.users(&a).await.unwrap().len(), 2);
        assert!(enter(&node, &a, (Role::Write, &user), &a).await.is_err());

        // With the tenant go those that are left.
        node.close(&a).await.unwrap();
        node.drop_database(&a).await.unwrap();
        node.drop_logins(&a).await.unwrap();
        assert!(node.users(&a).await.unwrap().is_empty());
        let clean = node.check(&all[1..]).await.unwrap();
        assert!(clean.is_empty(), "{clean:#?}");
        server.stop(STOP).await;
    }
}
