//! A database that was left on its way is found, and driven on or failed with the reason.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::time::Duration;

use kit::{OPERATOR, Stack, text};
use serde_json::json;

/// Leaves a database in a state, its placement at a stage, long ago, with nobody who would look at it.
async fn leave(stack: &Stack, id: &str, state: &str, stage: &str) {
    let deleted = match state {
        "DISABLING" => "now()",
        _ => "NULL::timestamptz",
    };
    let sql = format!(
        "BEGIN;
         UPDATE tenant SET state = '{state}', deleted_at = {deleted},
             purge_after = {deleted} + interval '1 day' WHERE id = '{id}';
         UPDATE placement SET stage = '{stage}', due_at = NULL, unsettled_since = NULL,
             leased_by = NULL, leased_until = NULL WHERE pid = (SELECT pid FROM tenant WHERE id = '{id}');
         UPDATE tenant SET state_since = now() - interval '1 hour' WHERE id = '{id}';
         COMMIT"
    );
    stack.catalog().await.batch_execute(&sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_on_its_way_arrives() {
    let stack = Stack::with(|config| config.limits.stuck_after = Duration::from_secs(4)).await;
    let mut left = Vec::new();
    for (state, stage, end) in [
        ("CREATING", "planned", "ACTIVE"),
        ("CREATING", "logins", "ACTIVE"),
        ("CREATING", "closed", "ACTIVE"),
        ("CREATING", "opening", "ACTIVE"),
        ("CREATING", "open", "ACTIVE"),
        ("CLONING", "closed", "ACTIVE"),
        ("CLONING", "open", "ACTIVE"),
        ("DISABLING", "open", "DISABLED"),
        ("DISABLING", "closed", "DISABLED"),
    ] {
        let name = format!("{state}-{stage}").to_lowercase();
        let made = stack.create(OPERATOR, &name).await;
        leave(&stack, &text(&made["id"]), state, stage).await;
        left.push((name, made, end));
    }
    for (name, made, end) in left {
        let arrived = stack.wait_state(&text(&made["id"]), end).await;
        assert!(arrived["state_reason"].is_null(), "{name}: {arrived}");
        if end == "ACTIVE" {
            assert!(stack.login(&made).await.is_ok(), "{name}");
        }
    }
    stack.assert_clean().await;
    stack.stop().await;
}

/// What cannot arrive says why, and can be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_arrive_fails_with_the_reason() {
    let stack = Stack::with(|config| config.limits.stuck_after = Duration::from_secs(2)).await;
    for state in ["CREATING", "CLONING"] {
        let made = stack.create(OPERATOR, &state.to_lowercase()).await;
        let id = text(&made["id"]);
        leave(&stack, &id, state, "dropped").await;
        let failed = stack.wait_state(&id, "CREATE_FAILED").await;
        let reason = text(&failed["state_reason"]);
        assert!(reason.contains("its data is not there"), "{reason}");
        let path = format!("/customer/databases/{id}");
        stack.delete(&path, OPERATOR).await.ok();
        stack.wait_state(&id, "DISABLED").await;
    }
    // Somebody is said to work on it, and says so no more: it is taken from him when his lease ends, and
    // until then left alone.
    let made = stack.create(OPERATOR, "leased").await;
    let id = text(&made["id"]);
    leave(&stack, &id, "CREATING", "open").await;
    let lease = "UPDATE placement SET leased_by = 'gone', due_at = now(),
         leased_until = now() + interval '3 seconds'
         WHERE pid = (SELECT pid FROM tenant WHERE id = $1)";
    stack.catalog().await.execute(lease, &[&id]).await.unwrap();
    let arrived = stack.wait_state(&id, "ACTIVE").await;
    assert!(arrived["state_reason"].is_null(), "{arrived}");
    assert!(stack.login(&made).await.is_ok());
    stack.stop().await;
}

/// A branch may wait for its turn as long as its user said, and no longer; how long anything else may take
/// does not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_waits_in_the_queue_as_long_as_it_may() {
    let stack = Stack::with(|config| {
        config.limits.stuck_after = Duration::from_secs(1);
        // Nobody's turn comes.
        config.limits.branches_concurrent_max = 0;
    })
    .await;
    stack.create(OPERATOR, "parent").await;
    let branch = async |name: &str, seconds: u32| {
        let body = json!({"name": name, "timeout_seconds": seconds});
        let path = "/customer/databases/parent/branch";
        text(&stack.post(path, OPERATOR, body).await.ok()["id"])
    };
    let patient = branch("patient", 3600).await;
    let hasty = branch("hasty", 4).await;
    let failed = stack.wait_state(&hasty, "CREATE_FAILED").await;
    let reason = text(&failed["state_reason"]);
    assert!(reason.contains("its wait in the queue"), "{reason}");
    // In its state for longer than twice `stuck-after`.
    let path = format!("/customer/databases/{patient}");
    let waits = stack.get(&path, OPERATOR).await.ok();
    assert_eq!(waits["state"], "CREATING", "{waits}");

    // It has its whole time once more.
    let path = format!("/customer/databases/{hasty}/resume?wait=0");
    stack.post(&path, OPERATOR, json!({})).await.ok();
    let began = tokio::time::Instant::now();
    stack.wait_state(&hasty, "CREATE_FAILED").await;
    assert!(began.elapsed() > Duration::from_secs(3));
    stack.stop().await;
}

/// The time that it took is not the time since it was made.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_as_old_as_its_last_change() {
    let stack = Stack::start().await;
    let made = stack.create(OPERATOR, "a").await;
    let id = text(&made["id"]);
    let catalog = stack.catalog().await;
    let old = "UPDATE tenant SET state_since = now() - interval '1 hour' WHERE id = $1";
    catalog.execute(old, &[&id]).await.unwrap();
    let age = async || {
        let sql =
            "SELECT extract(epoch FROM now() - state_since)::float8 FROM tenant WHERE id = $1";
        catalog
            .query_one(sql, &[&id])
            .await
            .unwrap()
            .get::<_, f64>(0)
    };
    let path = "/customer/databases/a/suspend";
    stack.post(path, OPERATOR, json!({})).await.ok();
    assert!(age().await < 60.0);
    catalog.execute(old, &[&id]).await.unwrap();
    stack.post(path, OPERATOR, json!({})).await.ok();
    assert!(age().await > 3000.0, "nothing changed");
    stack.stop().await;
}
