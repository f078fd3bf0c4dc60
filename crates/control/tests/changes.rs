//! Other processes hear of changes, and no change depends on their hearing it.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::time::Duration;

use kit::{OPERATOR, Stack, heard, text};
use serde_json::json;

/// The queue of NOTIFY is shared with all tenants of the server; when it is full, NOTIFY fails. Here it
/// fails because it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_without_notify_and_others_find_them_by_looking() {
    let stack = Stack::start().await;
    let made = stack.create(OPERATOR, "a").await;
    let id = text(&made["id"]);
    let catalog = stack.catalog().await;
    catalog
        .batch_execute("ALTER FUNCTION pg_catalog.pg_notify(text, text) RENAME TO no_notify")
        .await
        .unwrap();
    let mut changes = stack.routes.changes();
    for action in ["suspend", "resume", "reset-password"] {
        let path = format!("/customer/databases/a/{action}");
        stack.post(&path, OPERATOR, json!({})).await.ok();
        heard(&mut changes, &id).await;
    }
    stack.delete("/customer/databases/a", OPERATOR).await.ok();
    stack.wait_state(&id, "DISABLED").await;

    // What another process changes, which cannot say so either.
    let mut changes = stack.routes.changes();
    let sql = "UPDATE tenant SET generation = nextval('change_generation'), changed_at = now()
        WHERE id = $1 RETURNING generation";
    let row = catalog.query_one(sql, &[&id]).await.unwrap();
    let generation = u64::try_from(row.get::<_, i64>(0)).unwrap();
    while heard(&mut changes, &id).await.generation < generation {}
    stack.stop().await;
}

/// What one process changes is notified to all, once, and what this process has announced itself is
/// not announced to its proxies again.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_notified_after_the_commit_and_announced_once() {
    let stack = Stack::start().await;
    let made = stack.create(OPERATOR, "a").await;
    let id = text(&made["id"]);
    let mut config = stack.managed.node().catalog_config().config;
    let (client, mut connection) = config
        .application_name("another process")
        .connect(tokio_postgres::NoTls)
        .await
        .unwrap();
    let (seen, mut notified) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let tokio_postgres::AsyncMessage::Notification(told) = message {
                let _ = seen.send(told.payload().to_owned());
            }
        }
    });
    client
        .batch_execute("LISTEN tenantry_change")
        .await
        .unwrap();
    let mut changes = stack.routes.changes();
    let path = "/customer/databases/a/reset-password";
    for _ in 0..2 {
        stack.post(path, OPERATOR, json!({})).await.ok();
        let change = heard(&mut changes, &id).await;
        let told = tokio::time::timeout(Duration::from_secs(5), notified.recv()).await;
        // Had the first been announced again, from the notification or from a look, `heard` would
        // have given it in place of the second.
        assert_eq!(
            told.unwrap().unwrap(),
            format!("{id} {}", change.generation)
        );
    }
    stack.stop().await;
}
