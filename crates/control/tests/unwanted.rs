//! Backups that nobody wants any more while they are made, through the API: what works for them ends.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::{path::PathBuf, time::Duration};

use control::BackupPlace;
use kit::{
    OPERATOR, Stack,
    s3::{ACCESS_KEY, Bucket},
    text, wait_for,
};
use node::managed::{HistoryConfig, HistoryState};
use serde_json::{Value, json};
use tokio_postgres::Client;

async fn stack(bucket: &Bucket) -> Stack {
    let options = format!(
        "AWS_ACCESS_KEY_ID={ACCESS_KEY}\nAWS_SECRET_ACCESS_KEY=secret\nAWS_REGION=here\n\
         AWS_ENDPOINT_URL=http://{}\n",
        bucket.serve().await
    );
    let place = BackupPlace::parse("s3://bucket/x", Some(&options)).unwrap();
    let history = HistoryConfig {
        free_bytes_min: Some(1 << 20),
        look_every: Duration::from_millis(20),
        ..HistoryConfig::default()
    };
    let stack = Stack::with_history(Some(history), move |config| {
        config.backup_place = place.clone();
    })
    .await;
    let node = stack.node();
    wait_for(async || {
        let status = node.history().unwrap();
        (status.state == HistoryState::Kept).then_some(())
    })
    .await;
    stack
}

/// Where moments are recovered.
fn moment_dir(stack: &Stack) -> PathBuf {
    let dir = stack.backups_dir();
    dir.parent().unwrap().join("data/postgres/moment")
}

async fn ask(stack: &Stack, database: &str, at: &str, keep: bool) -> Value {
    let path = format!("/customer/databases/{database}/backups");
    let body = json!({ "at": at, "keep": keep });
    stack.post(&path, OPERATOR, body).await.ok()
}

fn path(backup: &Value) -> String {
    format!("/customer/backups/{}", text(&backup["id"]))
}

/// As the catalog has it: nobody asks for it by this.
async fn state(catalog: &Client, backup: &Value) -> Option<String> {
    let sql = "SELECT state FROM backup WHERE id = $1";
    let row = catalog.query_opt(sql, &[&text(&backup["id"])]).await;
    row.unwrap().map(|row| row.get(0))
}

async fn is_being_made(catalog: &Client, backup: &Value) {
    wait_for(async || {
        let is_running = state(catalog, backup).await.as_deref() == Some("running");
        is_running.then_some(())
    })
    .await;
}

async fn is_gone(catalog: &Client, backup: &Value) {
    wait_for(async || state(catalog, backup).await.is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_for_a_backup_that_nobody_wants_any_more_ends() {
    let bucket = Bucket::default();
    let stack = stack(&bucket).await;
    let main = stack.create(OPERATOR, "main").await;
    stack.create(OPERATOR, "other").await;
    let client = stack.login(&main).await.unwrap();
    client
        .batch_execute("CREATE TABLE t AS SELECT 1 AS v")
        .await
        .unwrap();
    const NOW: &str =
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let at: String = client.query_one(NOW, &[]).await.unwrap().get(0);
    let catalog = stack.catalog().await;
    let asked_before = async |backup: &Value, time: &str| {
        let sql = format!("UPDATE backup SET watched_at = now() - interval '{time}' WHERE id = $1");
        let changed = catalog.execute(&sql, &[&text(&backup["id"])]).await;
        assert_eq!(changed.unwrap(), 1);
    };

    // One has the turn, and the store takes nothing of what it reads; the next one waits for its turn.
    bucket.hold(true);
    let first = ask(&stack, "main", &at, true).await;
    wait_for(async || (bucket.half() == 1 && moment_dir(&stack).exists()).then_some(())).await;
    let second = ask(&stack, "other", &at, true).await;
    is_being_made(&catalog, &second).await;
    let deleted = stack.delete(&path(&second), OPERATOR).await.ok();
    assert_eq!(deleted["state"], "deleting", "{deleted}");
    is_gone(&catalog, &second).await;

    // Made to be restored once, for somebody who was killed; and for somebody who goes on asking.
    let third = ask(&stack, "other", &at, false).await;
    is_being_made(&catalog, &third).await;
    asked_before(&third, "1 hour").await;
    is_gone(&catalog, &third).await;
    let fourth = ask(&stack, "other", &at, false).await;
    is_being_made(&catalog, &fourth).await;
    asked_before(&fourth, "1 minute").await;
    stack.get(&path(&fourth), OPERATOR).await.ok();
    let sql = "SELECT watched_at > now() - interval '30 seconds' FROM backup WHERE id = $1";
    let row = catalog.query_one(sql, &[&text(&fourth["id"])]).await;
    assert!(row.unwrap().get::<_, bool>(0));
    stack.delete(&path(&fourth), OPERATOR).await.ok();
    is_gone(&catalog, &fourth).await;
    // One that is kept is made whether or not anybody asks.
    assert_eq!(state(&catalog, &first).await.as_deref(), Some("running"));

    // What was recovered goes with it, and what it had begun to upload.
    stack.delete(&path(&first), OPERATOR).await.ok();
    is_gone(&catalog, &first).await;
    wait_for(async || (!moment_dir(&stack).exists()).then_some(())).await;
    assert_eq!((bucket.half(), bucket.names().len()), (0, 0));
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname ~ '_backup$'";
    let row = catalog.query_one(roles, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);

    // So it is with a backup of what a database is now.
    let now = json!({});
    let reading = stack.post("/customer/databases/main/backups", OPERATOR, now);
    let reading = reading.await.ok();
    wait_for(async || (bucket.half() == 1).then_some(())).await;
    stack.delete(&path(&reading), OPERATOR).await.ok();
    is_gone(&catalog, &reading).await;
    let row = catalog.query_one(roles, &[]).await.unwrap();
    assert_eq!((bucket.half(), row.get::<_, i64>(0)), (0, 0));

    bucket.hold(false);
    let made = ask(&stack, "main", &at, true).await;
    wait_for(async || {
        let state = state(&catalog, &made).await;
        (state.as_deref() == Some("ready")).then_some(())
    })
    .await;
    stack.assert_clean().await;
    stack.stop().await;
}
