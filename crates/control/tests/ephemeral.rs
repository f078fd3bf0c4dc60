//! A database in one call, for somebody without an account.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{Answer, OPERATOR, Stack, text};
use reqwest::Method;
use serde_json::{Value, json};

/// Sends it without a token.
async fn post(stack: &Stack, path: &str, body: Value) -> Answer {
    let url = format!("{}{path}", stack.base);
    stack.send(stack.http.post(url).json(&body)).await
}

async fn projects(stack: &Stack) -> i64 {
    let sql = "SELECT count(*) FROM project";
    stack
        .catalog()
        .await
        .query_one(sql, &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_without_an_account_makes_a_database_that_works() {
    let stack = Stack::start().await;
    // As `curl -X POST` sends it: without a body and its type.
    let url = format!("{}/customer/databases?expires=1h", stack.base);
    let answer = stack.send(stack.http.post(url)).await;
    assert_eq!(answer.status, 201);
    let made = answer.ok();
    assert_eq!(made["state"], "ACTIVE");
    assert!(made["expires_at"].is_string());
    assert!(text(&made["connection_string"]).contains(&text(&made["admin_password"])));
    stack
        .login(&made)
        .await
        .expect("the connection string works");

    // The project is its maker's, who has what it takes to come back.
    let project = &made["anonymous"];
    assert_eq!(project["customer_id"], made["project_id"]);
    let listed = stack
        .get("/customer/databases", &text(&project["token"]))
        .await
        .ok();
    assert_eq!(listed[0]["id"], made["id"]);
    assert!(listed[0].get("anonymous").is_none());
    // Its password was made by its first token, and not by somebody whom nobody knows.
    let sql = "SELECT count(*) FROM credential p JOIN credential t ON t.id = p.created_by
         WHERE p.kind = 'password' AND p.tenant_id = $1 AND t.kind = 'token' AND t.project_id = $2";
    let made_by = stack
        .catalog()
        .await
        .query_one(sql, &[&text(&made["id"]), &text(&made["project_id"])])
        .await
        .unwrap();
    assert_eq!(made_by.get::<_, i64>(0), 1);
    let refresh = json!({
        "anonymous_id": project["anonymous_id"],
        "anonymous_secret": project["anonymous_secret"],
    });
    let fresh = post(&stack, "/customer/anonymous-refresh", refresh)
        .await
        .ok();
    let path = format!("/customer/databases/{}", text(&made["id"]));
    stack.delete(&path, &text(&fresh["token"])).await.ok();

    // Each call is another project's, with the quota of one.
    let named = json!({"name": "same"});
    let path = "/customer/databases?expires=1h";
    let one = post(&stack, path, named.clone()).await.ok();
    let other = post(&stack, path, named).await.ok();
    assert_ne!(one["project_id"], other["project_id"]);
    let me = stack
        .get("/customer/me", &text(&other["anonymous"]["token"]))
        .await
        .ok();
    assert_eq!(
        (&me["databases"], &me["is_anonymous"]),
        (&json!(1), &json!(true))
    );
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_token_gets_nothing_else() {
    let stack = Stack::start().await;
    let path = "/customer/databases?expires=1h";
    let mine = stack.create(OPERATOR, "mine").await;
    let before = projects(&stack).await;
    // Without an end it is for a project whose token was forgotten.
    for path in ["/customer/databases", "/customer/databases?xexpires=1h"] {
        post(&stack, path, json!({"expires": "1h"}))
            .await
            .error(401, "invalid_token");
    }
    // A wrong token is a wrong token.
    for header in ["Bearer nonsense", "Basic YTpi", ""] {
        let url = format!("{}{path}", stack.base);
        let request = stack.http.post(url).header("authorization", header);
        stack.send(request).await.error(401, "invalid_token");
    }
    // A page in a browser makes nothing on its reader's machine.
    let request = stack.http.post(format!("{}{path}", stack.base));
    let request = request.header("origin", "https://elsewhere.example");
    stack.send(request).await.error(401, "invalid_token");
    for (method, path) in [
        (Method::GET, "/customer/databases?expires=1h"),
        (
            Method::DELETE,
            "/customer/databases?expires=1h&prefix=m&dry_run=false",
        ),
        (Method::PATCH, "/customer/databases/mine?expires=1h"),
        (Method::POST, "/customer/databases/mine/suspend?expires=1h"),
        (Method::POST, "/customer/databases/mine/sql?expires=1h"),
    ] {
        let request = stack.http.request(method, format!("{}{path}", stack.base));
        stack.send(request).await.error(401, "invalid_token");
    }
    // Nor is it let into another one's project.
    let into = json!({"project_id": mine["project_id"]});
    post(&stack, path, into).await.error(400, "invalid_field");
    // What is refused leaves no project.
    post(&stack, "/customer/databases?expires=", json!({}))
        .await
        .error(400, "invalid_field");
    post(&stack, "/customer/databases?expires=99y", json!({}))
        .await
        .error(400, "invalid_field");
    post(
        &stack,
        "/customer/databases?expires=2001-01-01T00:00:00Z",
        json!({}),
    )
    .await
    .error(400, "invalid_field");
    post(&stack, path, json!({"name": "No"}))
        .await
        .error(400, "invalid_name");
    assert_eq!(projects(&stack).await, before);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_where_registration_is_off() {
    let stack = Stack::with(|config| config.anonymous_registration = false).await;
    post(&stack, "/customer/databases?expires=1h", json!({}))
        .await
        .error(403, "registration_off");
    assert_eq!(projects(&stack).await, 1, "the operator's own");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_does_not_make_projects_without_end() {
    let stack = Stack::with(|config| config.limits.anonymous_per_hour_max = 3).await;
    stack.register().await;
    for _ in 0..2 {
        post(&stack, "/customer/databases?expires=1h", json!({}))
            .await
            .ok();
    }
    for path in [
        "/customer/databases?expires=1h",
        "/customer/anonymous-register",
    ] {
        let refused = post(&stack, path, json!({})).await;
        let wait: u64 = refused.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((3000..=3600).contains(&wait), "{wait}");
        refused.error(429, "too_many_projects");
    }
    // Who has a project goes on.
    stack.create(OPERATOR, "a").await;
    stack.stop().await;
}

/// Neither another process nor a restart makes an address begin anew; the end of its hour does.
#[tokio::test(flavor = "multi_thread")]
async fn projects_of_an_address_are_counted_over_all_processes() {
    let mut stack = Stack::with(|config| config.limits.anonymous_per_hour_max = 2).await;
    let register = "/customer/anonymous-register";
    // What is refused for another reason is not counted.
    for _ in 0..3 {
        post(
            &stack,
            "/customer/databases?expires=1h",
            json!({"name": "No"}),
        )
        .await
        .error(400, "invalid_name");
    }
    post(&stack, register, json!({})).await.ok();
    stack.stop_control().await;
    stack.start_control().await;
    post(&stack, register, json!({})).await.ok();
    post(&stack, register, json!({}))
        .await
        .error(429, "too_many_projects");
    // Another one knows nothing of the refusal but what the catalog says.
    stack.stop_control().await;
    stack.start_control().await;
    post(&stack, register, json!({}))
        .await
        .error(429, "too_many_projects");
    let (before, catalog) = (projects(&stack).await, stack.catalog().await);
    let hour = "UPDATE anonymous_pace SET since = since - interval '1 hour'";
    assert_eq!(catalog.execute(hour, &[]).await.unwrap(), 1, "one address");
    stack.stop_control().await;
    stack.start_control().await;
    post(&stack, register, json!({})).await.ok();
    assert_eq!(projects(&stack).await, before + 1);
    stack.stop().await;
}
