//! Users of a database: made, used, limited, given new passwords, carried by branches and deleted, on a real server.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{OPERATOR, Stack, heard, text, wait_for};
use reqwest::Method;
use serde_json::{Value, json};

fn path(database: &str, rest: &str) -> String {
    format!("/customer/databases/{database}/users{rest}")
}

async fn make(stack: &Stack, token: &str, database: &str, body: Value) -> Value {
    let made = stack.post(&path(database, ""), token, body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body
}

async fn enter(stack: &Stack, user: &Value) -> tokio_postgres::Client {
    try_enter(stack, user).await.unwrap()
}

async fn try_enter(stack: &Stack, user: &Value) -> Result<tokio_postgres::Client, String> {
    let (user, password) = (text(&user["user"]), text(&user["password"]));
    stack.login_as(&user, &password).await
}

async fn one(client: &tokio_postgres::Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}

/// Roles on the server whose names begin like this.
async fn roles(stack: &Stack, like: &str) -> Vec<String> {
    let sql = "SELECT rolname::text FROM pg_roles WHERE starts_with(rolname, $1) ORDER BY 1";
    let rows = stack.catalog().await.query(sql, &[&like]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_its_role_and_no_more_and_goes_without_a_trace() {
    let stack = Stack::start().await;
    let owner = stack.token().await;
    let mine = stack.create(&owner, "mine").await;
    let db = text(&mine["id"]);
    let other = stack.create(&owner, "other").await;
    let admin = stack.login(&mine).await.unwrap();
    admin.batch_execute("CREATE TABLE t (a int)").await.unwrap();

    let request = stack
        .request(Method::POST, &path(&db, ""), &owner)
        .header("Idempotency-Key", "one")
        .json(&json!({ "username": "ann", "role": "ro", "client_connections_max": 3 }));
    let ann = stack.send(request.try_clone().unwrap()).await.ok();
    assert_eq!(
        stack.send(request).await.ok(),
        ann,
        "sent again, it is the same"
    );
    assert_eq!(ann["user"], format!("{db}.ann"));
    assert_eq!(
        (&ann["role"], &ann["client_connections_max"]),
        (&json!("read"), &json!(3))
    );
    let bob = make(&stack, &owner, &db, json!({ "username": "bob" })).await;
    let eve = make(
        &stack,
        &owner,
        &db,
        json!({ "username": "eve", "role": "admin", "password": "of her own choice" }),
    )
    .await;
    assert_eq!(
        (&bob["role"], &eve["password"]),
        (&json!("write"), &json!("of her own choice"))
    );

    // What each may do, under names that all roles of the group share, and one of its own.
    let reader = enter(&stack, &ann).await;
    assert_eq!(
        one(&reader, "SELECT current_user::text").await,
        "tenantry_read"
    );
    assert_eq!(
        one(&reader, "SELECT session_user::text").await,
        text(&ann["session_user"])
    );
    for sql in [
        "INSERT INTO t VALUES (1)",
        "CREATE TABLE u (a int)",
        "SET ROLE tenantry_write",
        "SET ROLE tenantry_admin",
        "RESET ROLE; SET ROLE NONE; INSERT INTO public.t VALUES (1)",
    ] {
        let refused = reader.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&refused), "42501", "{sql}");
        reader
            .batch_execute("SET ROLE tenantry_read")
            .await
            .unwrap();
    }
    let writer = enter(&stack, &bob).await;
    writer
        .batch_execute("INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let refused = writer.batch_execute("CREATE TABLE u (a int)").await;
    assert_eq!(code(&refused.unwrap_err()), "42501");
    let chief = enter(&stack, &eve).await;
    chief
        .batch_execute("CREATE TABLE of_eve (a int)")
        .await
        .unwrap();
    assert_eq!(
        one(
            &chief,
            "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'of_eve'"
        )
        .await,
        "tenantry_admin"
    );

    // Its secret opens no role, no other user, and nothing of another database.
    let password = text(&ann["password"]);
    for user in [
        format!("{db}.read"),
        format!("{db}.bob"),
        format!("{}.read", text(&other["id"])),
    ] {
        assert_eq!(
            stack.login_as(&user, &password).await.err().unwrap(),
            "wrong password"
        );
    }
    let elsewhere = format!("{}.ann", text(&other["id"]));
    assert_eq!(
        stack.login_as(&elsewhere, &password).await.err().unwrap(),
        "no such login"
    );
    let mut wrong = ann.clone();
    wrong["password"] = mine["admin_password"].clone();
    assert_eq!(
        try_enter(&stack, &wrong).await.err().unwrap(),
        "wrong password"
    );

    // Listed, without secrets; so is what opens the database.
    let listed = stack.get(&path(&db, ""), &owner).await.ok();
    let names: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| text(&one["username"]))
        .collect();
    assert_eq!(names, ["ann", "bob", "eve"]);
    assert!(!listed.to_string().contains(&password) && listed[0].get("password").is_none());
    assert!(
        text(&listed[0]["created_by"]).starts_with("crd_"),
        "{listed}"
    );
    let access = stack
        .get(&format!("/customer/databases/{db}/access"), &owner)
        .await
        .ok();
    assert!(
        access
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["user"] == ann["user"]),
        "{access}"
    );
    stack.assert_clean().await;

    // What is wrong is said.
    for (body, status, word) in [
        (json!({}), 400, "invalid_body"),
        (json!({ "username": "Ann" }), 400, "invalid_field"),
        (json!({ "username": "admin" }), 400, "invalid_field"),
        (
            json!({ "username": "carl", "role": "owner" }),
            400,
            "invalid_field",
        ),
        (
            json!({ "username": "carl", "client_connections_max": 0 }),
            400,
            "invalid_field",
        ),
        (
            json!({ "username": "carl", "password": "short" }),
            400,
            "invalid_field",
        ),
        (json!({ "username": "ann" }), 409, "user_exists"),
    ] {
        stack
            .post(&path(&db, ""), &owner, body)
            .await
            .error(status, word);
    }
    for rest in ["/carl", "/Not-A-Name", "/admin"] {
        stack
            .delete(&path(&db, rest), &owner)
            .await
            .error(404, "user_not_found");
    }

    // A new password, the limit, and the grace.
    let mut changes = stack.routes.changes();
    let again = stack
        .post(
            &path(&db, "/ann/reset-password"),
            &owner,
            json!({ "grace_seconds": 600 }),
        )
        .await
        .ok();
    heard(&mut changes, &db).await;
    drop(enter(&stack, &again).await);
    drop(enter(&stack, &ann).await);
    let last = stack
        .post(&path(&db, "/ann/reset-password"), &owner, json!({}))
        .await
        .ok();
    for old in [&ann, &again] {
        let entered = try_enter(&stack, old).await;
        assert_eq!(entered.err().unwrap(), "wrong password");
    }
    drop(enter(&stack, &last).await);
    drop(enter(&stack, &bob).await);
    let request = stack.request(Method::PATCH, &path(&db, "/ann"), &owner);
    let changed = stack
        .send(request.json(&json!({ "client_connections_max": 7 })))
        .await
        .ok();
    assert_eq!(changed["client_connections_max"], 7);
    let resolved = stack
        .routes
        .resolve(text(&ann["user"]).parse().unwrap())
        .await;
    assert_eq!(resolved.unwrap().unwrap().route.clients_max, Some(7));

    // What a login owns by itself stays, as its group's; what names it forgets it.
    let session_user = text(&bob["session_user"]);
    let grants = format!(
        "GRANT USAGE, CREATE ON SCHEMA public TO {session_user};
         GRANT SELECT ON t TO {session_user};
         CREATE POLICY his ON t TO {session_user} USING (true)"
    );
    admin.batch_execute(&grants).await.unwrap();
    let elsewhere = stack.login(&other).await.unwrap();
    let grant = format!("CREATE TABLE t (); GRANT SELECT ON t TO {session_user}");
    elsewhere.batch_execute(&grant).await.unwrap();
    writer
        .batch_execute("SET ROLE NONE; CREATE TABLE his_own AS SELECT 42 AS a")
        .await
        .unwrap();
    stack.delete(&path(&db, "/bob"), &owner).await.ok();
    wait_for(async || writer.is_closed().then_some(())).await;
    assert_eq!(
        stack
            .login_as(&text(&bob["user"]), &text(&bob["password"]))
            .await
            .err()
            .unwrap(),
        "no such login"
    );
    // At once, or soon when something of the server's was in the way.
    wait_for(async || roles(&stack, &session_user).await.is_empty().then_some(())).await;
    let owner_of = "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'his_own'";
    assert_eq!(one(&admin, owner_of).await, "tenantry_write");
    stack
        .delete(&path(&db, "/bob"), &owner)
        .await
        .error(404, "user_not_found");
    // The name is free, and whoever has it now is somebody else.
    let next = make(&stack, &owner, &db, json!({ "username": "bob" })).await;
    assert_ne!(next["session_user"], bob["session_user"]);
    let old = stack
        .login_as(&text(&bob["user"]), &text(&bob["password"]))
        .await;
    assert_eq!(old.err().unwrap(), "wrong password");
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_finished_and_a_purge_leaves_no_role() {
    let stack = Stack::start().await;
    let made = stack.create(OPERATOR, "app").await;
    let db = text(&made["id"]);
    let ann = make(&stack, OPERATOR, &db, json!({ "username": "ann" })).await;
    let bob = make(&stack, OPERATOR, &db, json!({ "username": "bob" })).await;
    let login = text(&ann["session_user"]);
    let catalog = stack.catalog().await;
    let pid: String = {
        let sql = "SELECT pid FROM tenant WHERE id = $1";
        catalog.query_one(sql, &[&db]).await.unwrap().get(0)
    };
    let database = format!("x_{pid}");
    assert_eq!(roles(&stack, &database).await.len(), 4 + 2);

    // As after a crash before the login was made, or while it was removed.
    let drop_login = format!("REVOKE ALL ON DATABASE {database} FROM {login}; DROP ROLE {login}");
    catalog.batch_execute(&drop_login).await.unwrap();
    let sql =
        "UPDATE tenant_user SET state = CASE name WHEN 'ann' THEN 'making' ELSE 'deleting' END";
    catalog.execute(sql, &[]).await.unwrap();
    wait_for(async || {
        let names = roles(&stack, &database).await;
        let bob = text(&bob["session_user"]);
        (names.contains(&login) && !names.contains(&bob)).then_some(())
    })
    .await;
    wait_for(async || {
        let sql = "SELECT string_agg(name || ' ' || state, ', ') FROM tenant_user";
        let states: Option<String> = catalog.query_one(sql, &[]).await.unwrap().get(0);
        (states.as_deref() == Some("ann ready")).then_some(())
    })
    .await;
    drop(enter(&stack, &ann).await);
    // A tenant can change the password of its own login: the proxy's report puts that right, as for roles.
    let own = enter(&stack, &ann).await;
    own.batch_execute(&format!(
        "SET ROLE NONE; ALTER ROLE {login} PASSWORD 'mine'"
    ))
    .await
    .unwrap();
    drop(own);
    assert!(
        stack
            .login_as(&text(&ann["user"]), &text(&ann["password"]))
            .await
            .is_err()
    );
    stack
        .routes
        .report(model::route::Report::ServerLoginRefused {
            tenant: db.parse().unwrap(),
            login: "ann".parse().unwrap(),
        });
    wait_for(async || {
        stack
            .login_as(&text(&ann["user"]), &text(&ann["password"]))
            .await
            .ok()
    })
    .await;
    stack.assert_clean().await;

    // Deleted and taken back, everything is as before; gone for good, no role is left.
    let database_path = format!("/customer/databases/{db}");
    stack.delete(&database_path, OPERATOR).await.ok();
    stack.wait_state(&db, "DISABLED").await;
    stack
        .post(&format!("{database_path}/undelete"), OPERATOR, json!({}))
        .await
        .ok();
    stack.wait_state(&db, "ACTIVE").await;
    wait_for(async || {
        stack
            .login_as(&text(&ann["user"]), &text(&ann["password"]))
            .await
            .ok()
    })
    .await;
    stack.delete(&database_path, OPERATOR).await.ok();
    stack.wait_state(&db, "DISABLED").await;
    let sql = "UPDATE tenant SET purge_after = now() WHERE id = $1";
    catalog.execute(sql, &[&db]).await.unwrap();
    let sql = "UPDATE placement SET due_at = now(), version = version + 1 WHERE pid = $1";
    catalog.execute(sql, &[&pid]).await.unwrap();
    stack.wait_gone(&db).await;
    assert_eq!(roles(&stack, &database).await, [""; 0]);
    let left = catalog.query("SELECT FROM tenant_user", &[]).await.unwrap();
    assert!(left.is_empty());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_has_the_users_but_none_of_their_secrets() {
    let stack = Stack::start().await;
    let made = stack.create(OPERATOR, "app").await;
    let db = text(&made["id"]);
    let ann = make(
        &stack,
        OPERATOR,
        &db,
        json!({ "username": "ann", "role": "ro", "client_connections_max": 2 }),
    )
    .await;
    let admin = stack.login(&made).await.unwrap();
    let sql = format!(
        "CREATE TABLE t (a int); REVOKE ALL ON t FROM tenantry_read; GRANT USAGE ON SCHEMA public TO {0};
         GRANT SELECT ON t TO {0}",
        text(&ann["session_user"])
    );
    admin.batch_execute(&sql).await.unwrap();
    drop(admin);
    let branch = stack
        .post(
            &format!("/customer/databases/{db}/branch"),
            OPERATOR,
            json!({ "name": "copy" }),
        )
        .await
        .ok();
    let copy = text(&branch["id"]);
    stack.wait_state(&copy, "ACTIVE").await;
    let listed = stack.get(&path(&copy, ""), OPERATOR).await.ok();
    assert_eq!(
        (
            &listed[0]["username"],
            &listed[0]["role"],
            &listed[0]["has_password"]
        ),
        (&json!("ann"), &json!("read"), &json!(false)),
        "{listed}"
    );
    assert_eq!(listed[0]["client_connections_max"], 2);
    let user = text(&listed[0]["user"]);
    let refused = stack.login_as(&user, &text(&ann["password"])).await;
    assert_eq!(refused.err().unwrap(), "wrong password");
    let own = stack
        .post(&path(&copy, "/ann/reset-password"), OPERATOR, json!({}))
        .await
        .ok();
    let client = enter(&stack, &own).await;
    assert_eq!(
        one(&client, "SELECT session_user::text").await,
        text(&own["session_user"])
    );
    // What was granted to it by name is granted to it here, and only here.
    client
        .batch_execute("SET ROLE NONE; SELECT * FROM t")
        .await
        .unwrap();
    let named = "SELECT relacl::text FROM pg_class WHERE relname = 't'";
    let acl = one(&client, named).await;
    assert!(acl.contains(&text(&own["session_user"])), "{acl}");
    assert!(!acl.contains(&text(&ann["session_user"])), "{acl}");
    drop(client);

    // A reset keeps its users and their passwords, and brings those that the parent has by now.
    make(&stack, OPERATOR, &db, json!({ "username": "bob" })).await;
    let _ = stack
        .post(
            &format!("/customer/databases/{copy}/reset"),
            OPERATOR,
            json!({}),
        )
        .await
        .ok();
    stack.wait_state(&copy, "ACTIVE").await;
    wait_for(async || stack.login_as(&user, &text(&own["password"])).await.ok()).await;
    let listed = stack.get(&path(&copy, ""), OPERATOR).await.ok();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    stack.delete(&path(&db, "/ann"), OPERATOR).await.ok();
    wait_for(async || stack.login_as(&user, &text(&own["password"])).await.ok()).await;
    stack.assert_clean().await;
    stack.stop().await;
}
