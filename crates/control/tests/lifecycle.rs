//! A database's life through the API, on a real PostgreSQL server.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::time::Duration;

use control::WarmPool;
use kit::{OPERATOR, Stack, text, wait_for};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_made_used_deleted_and_taken_back() {
    let stack = Stack::start().await;
    stack.warm().await;
    let token = stack.token().await;

    let made = stack.create(&token, "hello").await;
    let id = text(&made["id"]);
    assert_eq!(made["state"], "ACTIVE");
    assert_eq!(
        made["connection_string"],
        format!(
            "postgresql://{id}.admin:{}@127.0.0.1:5433/postgres?sslmode=require",
            text(&made["admin_password"])
        )
    );
    let client = stack.login(&made).await.unwrap();
    client
        .batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (42)")
        .await
        .unwrap();

    // Neither the list nor a look shows a secret.
    let listed = stack.get("/customer/databases", &token).await.ok();
    assert_eq!(listed[0]["id"], id);
    let seen = stack.get("/customer/databases/hello", &token).await.ok();
    assert_eq!(seen["endpoints"][0]["enabled"], true);
    for body in [&listed[0], &seen] {
        assert!(body.get("admin_password").is_none());
        assert!(!text(&body["connection_string"]).contains(&text(&made["admin_password"])));
    }
    stack
        .get("/customer/databases/hello/credentials", &token)
        .await
        .error(410, "secrets_not_kept");

    // Deleting ends sessions and refuses new ones; the name is free at once.
    let deleted = stack.delete("/customer/databases/hello", &token).await.ok();
    assert_eq!(
        (&deleted["message"], &deleted["state"]),
        (&json!("Database disabled"), &json!("DISABLED"))
    );
    wait_for(async || client.is_closed().then_some(())).await;
    assert_eq!(stack.login(&made).await.unwrap_err(), "Deleted");
    stack
        .get("/customer/databases/hello", &token)
        .await
        .error(404, "database_not_found");
    stack
        .delete("/customer/databases/hello", &token)
        .await
        .error(404, "database_not_found");
    assert_eq!(
        stack
            .delete(&format!("/customer/databases/{id}"), &token)
            .await
            .ok()["state"],
        "DISABLED"
    );
    stack
        .post(
            &format!("/customer/databases/{id}/reset-password"),
            &token,
            json!({}),
        )
        .await
        .error(409, "wrong_state");
    let second = stack.create(&token, "hello").await;
    assert_ne!(second["id"], made["id"]);

    // The old name is held by another one now.
    let undelete = format!("/customer/databases/{id}/undelete");
    let error = stack
        .post(&undelete, &token, json!({}))
        .await
        .error(409, "name_taken");
    assert!(text(&error["hint"]).contains("another one"));
    let back = stack
        .post(&undelete, &token, json!({"name": "hello-again"}))
        .await
        .ok();
    assert_eq!(
        (&back["state"], &back["name"]),
        (&json!("ACTIVE"), &json!("hello-again"))
    );
    let client = stack
        .login(&made)
        .await
        .expect("the old password is good again");
    let row = client.query_one("SELECT a FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    stack
        .post(&undelete, &token, json!({}))
        .await
        .error(409, "wrong_state");

    // By name, the last one deleted is meant.
    stack
        .delete("/customer/databases/hello-again", &token)
        .await
        .ok();
    let back = stack
        .post(
            "/customer/databases/hello-again/undelete",
            &token,
            json!({}),
        )
        .await
        .ok();
    assert_eq!(back["id"], id);
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_works_at_once_and_the_old_one_no_more() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let made = stack.create(&token, "a").await;
    let mut changes = stack.routes.changes();
    let path = "/customer/databases/a/reset-password";
    let reset = stack.post(path, &token, json!({})).await.ok();
    assert_eq!(changes.recv().await.unwrap().tenant.as_str(), made["id"]);
    assert!(stack.login(&reset).await.is_ok());
    assert_eq!(stack.login(&made).await.unwrap_err(), "wrong password");

    let read = stack.post(path, &token, json!({"role": "read"})).await.ok();
    assert_eq!(read["admin_user"], format!("{}.read", text(&made["id"])));
    let client = stack.login(&read).await.unwrap();
    assert!(
        client
            .batch_execute("CREATE TABLE t (a int)")
            .await
            .is_err()
    );
    assert!(
        stack.login(&reset).await.is_ok(),
        "another role's password is untouched"
    );

    let chosen = json!({"admin_password": "correct horse @:/ battery"});
    let reset = stack.post(path, &token, chosen).await.ok();
    assert!(text(&reset["connection_string"]).contains(":correct%20horse%20%40%3A%2F%20battery@"));
    assert!(stack.login(&reset).await.is_ok());
    stack
        .post(path, &token, json!({"role": "root"}))
        .await
        .error(400, "invalid_field");
    stack
        .post(path, &token, json!({"admin_password": "short"}))
        .await
        .error(400, "invalid_field");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspend_refuses_and_resume_lets_in() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let made = stack.create(&token, "a").await;
    let id = text(&made["id"]);
    let client = stack.login(&made).await.unwrap();
    stack
        .post("/customer/databases/a/suspend", &token, json!({}))
        .await
        .ok();
    assert_eq!(stack.login(&made).await.unwrap_err(), "Suspended");
    wait_for(async || client.is_closed().then_some(())).await;
    stack
        .post(
            "/customer/databases/a/sql",
            &token,
            json!({"query": "SELECT 1"}),
        )
        .await
        .error(409, "wrong_state");
    assert_eq!(
        stack
            .post("/customer/databases/a/resume", &token, json!({}))
            .await
            .ok()["state"],
        "ACTIVE"
    );
    stack.login(&made).await.expect("resumed is open");
    // A suspended one can be deleted and taken back.
    stack
        .post("/customer/databases/a/suspend", &token, json!({}))
        .await
        .ok();
    stack.delete("/customer/databases/a", &token).await.ok();
    let back = stack
        .post(
            &format!("/customer/databases/{id}/undelete"),
            &token,
            json!({}),
        )
        .await
        .ok();
    assert_eq!(back["state"], "ACTIVE");
    assert!(stack.login(&made).await.is_ok());
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_pool_means_a_direct_create() {
    let stack = Stack::with(|config| config.warm_pool = WarmPool { min: 0, max: 0 }).await;
    let made = stack.create(OPERATOR, "direct").await;
    assert_eq!(made["state"], "ACTIVE");
    assert!(stack.login(&made).await.is_ok());
    // Without a wait the answer comes at once; the password is good as soon as it is ACTIVE.
    let made = stack
        .post("/customer/databases?wait=0", OPERATOR, json!({}))
        .await
        .ok();
    assert_eq!(made["state"], "CREATING");
    stack.wait_state(&text(&made["id"]), "ACTIVE").await;
    assert!(stack.login(&made).await.is_ok());
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_goes_when_the_retention_ends_and_not_before() {
    let stack = Stack::with(|config| config.retention = Duration::from_secs(3)).await;
    let token = stack.token().await;
    let made = stack.create(&token, "short").await;
    let id = text(&made["id"]);
    let kept = stack.create(&token, "kept").await;
    let pid: String = stack
        .catalog()
        .await
        .query_one("SELECT pid FROM tenant WHERE id = $1", &[&id])
        .await
        .unwrap()
        .get(0);
    let mut changes = stack.routes.changes();
    stack.delete("/customer/databases/short", &token).await.ok();
    stack.wait_state(&id, "DISABLED").await;
    // Deleted, then closed.
    kit::heard(&mut changes, &id).await;
    let last = kit::heard(&mut changes, &id).await.generation;
    assert!(exists(&stack, &pid).await);
    stack.wait_gone(&id).await;
    // Whoever knows a route to it hears that there is none any more.
    let gone = kit::heard(&mut changes, &id).await;
    assert!(gone.generation > last);
    assert!(!exists(&stack, &pid).await);
    let undelete = format!("/customer/databases/{id}/undelete");
    stack
        .post(&undelete, &token, json!({}))
        .await
        .error(404, "database_not_found");
    assert!(stack.login(&kept).await.is_ok());
    stack.assert_clean().await;
    stack.stop().await;
}

async fn exists(stack: &Stack, pid: &str) -> bool {
    let sql = "SELECT count(*) FROM pg_database WHERE datname = 'x_' || $1";
    stack
        .catalog()
        .await
        .query_one(sql, &[&pid])
        .await
        .unwrap()
        .get::<_, i64>(0)
        == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_refills_and_follows_the_demand() {
    let stack = Stack::start().await;
    stack.warm().await;
    let catalog = stack.catalog().await;
    let size = async || {
        let sql = "SELECT count(*) FROM placement WHERE owner = 'pool' AND stage = 'open'";
        catalog.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    assert_eq!(size().await, 2);
    for number in 0..6 {
        assert_eq!(
            stack.create(OPERATOR, &format!("n{number}")).await["state"],
            "ACTIVE"
        );
    }
    wait_for(async || (size().await == 4).then_some(())).await;
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anonymous_project_has_five_databases_and_is_told_what_to_do() {
    let stack = Stack::start().await;
    let registered = stack.register().await;
    let token = text(&registered["token"]);
    for number in 0..5 {
        stack.create(&token, &format!("n{number}")).await;
    }
    let sixth = stack.post("/customer/databases", &token, json!({})).await;
    let error = sixth.error(403, "quota_exceeded");
    assert_eq!(error["message"], "anonymous account limit (5 databases)");
    // A name that is held is said to be held, and get-or-create still gets.
    let held = stack
        .post("/customer/databases", &token, json!({"name": "n3"}))
        .await;
    held.error(409, "name_taken");
    let body = json!({"name": "n3", "if_not_exists": true});
    let got = stack.post("/customer/databases", &token, body).await;
    assert_eq!(
        (got.status.as_u16(), &got.body["name"]),
        (200, &json!("n3"))
    );
    let me = stack.get("/customer/me", &token).await.ok();
    assert_eq!(
        (&me["databases"], &me["databases_max"], &me["is_anonymous"]),
        (&json!(5), &json!(5), &json!(true))
    );
    // One less is one more; but then the deleted one cannot come back.
    stack.delete("/customer/databases/n0", &token).await.ok();
    stack.create(&token, "n5").await;
    let back = stack
        .post("/customer/databases/n0/undelete", &token, json!({}))
        .await;
    back.error(403, "quota_exceeded");
    let back = stack
        .post(
            "/customer/databases/n0/undelete",
            &token,
            json!({"name": "n1"}),
        )
        .await;
    back.error(409, "name_taken");

    // A new token from the anonymous secret; the old one is still good.
    let refresh = json!({
        "anonymous_id": registered["anonymous_id"],
        "anonymous_secret": registered["anonymous_secret"],
    });
    let fresh = stack
        .post("/customer/anonymous-refresh", "none", refresh)
        .await
        .ok();
    for token in [&token, &text(&fresh["token"])] {
        assert_eq!(
            stack
                .get("/customer/databases", token)
                .await
                .ok()
                .as_array()
                .unwrap()
                .len(),
            5
        );
    }
    for wrong in [
        json!({"anonymous_id": registered["anonymous_id"], "anonymous_secret": "sk_anon_wrong"}),
        json!({"anonymous_id": "anon_abcdefghijkl", "anonymous_secret": "sk_anon_wrong"}),
    ] {
        stack
            .post("/customer/anonymous-refresh", "none", wrong)
            .await
            .error(401, "invalid_token");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged() {
    let stack = Stack::start().await;
    for name in ["ci-1", "ci-2", "app"] {
        stack.create(OPERATOR, name).await;
    }
    let token = stack.token().await;
    stack.create(&token, "theirs").await;
    let names = async |query: &str| {
        let body = stack
            .get(&format!("/customer/databases{query}"), OPERATOR)
            .await
            .ok();
        body.as_array()
            .unwrap()
            .iter()
            .map(|db| text(&db["name"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(names("").await, ["ci-1", "ci-2", "app"]);
    assert_eq!(names("?prefix=ci-").await, ["ci-1", "ci-2"]);
    assert_eq!(names("?all=true").await, ["ci-1", "ci-2", "app", "theirs"]);
    assert_eq!(names("?created_before=2020-01-01T00:00:00Z").await, [""; 0]);
    stack.delete("/customer/databases/app", OPERATOR).await.ok();
    assert_eq!(names("").await, ["ci-1", "ci-2"]);
    assert_eq!(names("?state=DISABLED").await, ["app"]);
    stack
        .get("/customer/databases?state=GONE", OPERATOR)
        .await
        .error(400, "invalid_field");

    let first = stack.get("/customer/databases?limit=1", OPERATOR).await;
    let next = first.headers["x-next-after"].to_str().unwrap().to_owned();
    assert_eq!(names(&format!("?limit=1&after={next}")).await, ["ci-2"]);
    let last = stack.get("/customer/databases?limit=2", OPERATOR).await;
    assert!(!last.headers.contains_key("x-next-after"));
    let projects = stack.get("/projects", OPERATOR).await.ok();
    assert_eq!(projects.as_array().unwrap().len(), 2);
    assert_eq!(
        stack
            .get("/projects", &token)
            .await
            .ok()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    stack.stop().await;
}
