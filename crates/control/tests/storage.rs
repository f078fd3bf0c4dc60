//! What databases take on disk is measured where there is a limit to it, and proxies are told.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::sync::Arc;

use kit::{OPERATOR, Stack, heard, text, wait_for};
use model::route::{Route, Storage};
use reqwest::Method;
use serde_json::{Value, json};

async fn route(stack: &Stack, id: &str) -> Arc<Route> {
    let login = format!("{id}.admin").parse().unwrap();
    stack.routes.resolve(login).await.unwrap().unwrap().route
}

async fn limit(stack: &Stack, id: &str, token: &str, bytes: u64) -> Value {
    let path = format!("/customer/databases/{id}/limits");
    let values = json!({"storage_bytes_max": bytes});
    let request = stack.request(Method::PATCH, &path, token).json(&values);
    stack.send(request).await.ok()
}

async fn becomes(stack: &Stack, id: &str, is_full: bool) -> Option<u64> {
    wait_for(async || {
        let excess = route(stack, id).await.storage.excess();
        (excess.is_some() == is_full).then_some(excess)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_full_when_it_was_measured_above_its_limit_and_no_longer() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let app = stack.create(&token, "app").await;
    let id = text(&app["id"]);
    let other = text(&stack.create(&token, "other").await["id"]);
    let path = format!("/customer/databases/{id}/limits");

    // Nobody asked, so it was not measured.
    assert_eq!(
        stack.get(&path, &token).await.ok()["storage_bytes"],
        Value::Null
    );
    assert_eq!(route(&stack, &id).await.storage, Storage::Free);

    // An empty one takes some megabytes.
    let mut changes = stack.routes.changes();
    limit(&stack, &id, &token, 1 << 20).await;
    heard(&mut changes, &id).await;
    let bytes = becomes(&stack, &id, true).await.unwrap();
    assert!((1 << 20..100 << 20).contains(&bytes), "{bytes}");
    assert_eq!(stack.get(&path, &token).await.ok()["storage_bytes"], bytes);
    assert_eq!(route(&stack, &other).await.storage, Storage::Free);

    // More room is there at once, and less as well: it is known what it takes.
    limit(&stack, &id, &token, bytes + (4 << 20)).await;
    assert_eq!(route(&stack, &id).await.storage, Storage::Free);
    limit(&stack, &id, &token, bytes - 1).await;
    assert_eq!(route(&stack, &id).await.storage, Storage::Full { bytes });
    // The operator's word is the last one.
    limit(&stack, &id, &token, bytes + (4 << 20)).await;
    limit(&stack, &id, OPERATOR, bytes - 1).await;
    assert_eq!(route(&stack, &id).await.storage, Storage::Full { bytes });
    limit(&stack, &id, OPERATOR, 0).await;
    assert_eq!(route(&stack, &id).await.storage, Storage::Free);

    // What is written and removed while it is used is seen without anybody asking.
    let client = stack.login(&app).await.unwrap();
    let mut changes = stack.routes.changes();
    let fill = "CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 10000)";
    client.batch_execute(fill).await.unwrap();
    heard(&mut changes, &id).await;
    let now = becomes(&stack, &id, true).await.unwrap();
    assert!(now > bytes + (4 << 20), "{now}");
    client.batch_execute("DROP TABLE t").await.unwrap();
    heard(&mut changes, &id).await;
    becomes(&stack, &id, false).await;

    // Only those that have a limit cost anything.
    let measured = "SELECT count(*) FROM placement WHERE storage_bytes IS NOT NULL";
    let measured = stack
        .catalog()
        .await
        .query_one(measured, &[])
        .await
        .unwrap();
    assert_eq!(measured.get::<_, i64>(0), 1);
}

/// What was found out outlives the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_database_is_full_after_a_restart_before_it_is_measured() {
    let mut stack = Stack::start().await;
    let token = stack.token().await;
    let id = text(&stack.create(&token, "app").await["id"]);
    limit(&stack, &id, &token, 1 << 20).await;
    let bytes = becomes(&stack, &id, true).await.unwrap();
    stack.stop_control().await;
    stack.start_control().await;
    assert_eq!(route(&stack, &id).await.storage, Storage::Full { bytes });
}
