//! Which moment a backup says that it holds, and what of it is in it, through the API, on a real PostgreSQL server.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use chrono::{DateTime, Utc};
use kit::{Stack, text, wait_for};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// Writers at once, and backups made meanwhile.
const WRITERS: usize = 3;
const BACKUPS: usize = 6;

fn time(value: &Value) -> DateTime<Utc> {
    text(value).parse().unwrap()
}

async fn now(client: &Client) -> DateTime<Utc> {
    let row = client.query_one("SELECT clock_timestamp()", &[]).await;
    row.unwrap().get(0)
}

async fn look_at(stack: &Stack, token: &str, backup: &Value) -> Value {
    let path = format!("/customer/backups/{}", text(&backup["id"]));
    stack.get(&path, token).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_waited_for_a_lock_says_the_moment_it_holds() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let main = stack.create(&token, "main").await;
    let client = stack.login(&main).await.unwrap();
    for sql in [
        "CREATE TABLE t (v int)",
        "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; INSERT INTO t VALUES (1)",
    ] {
        client.batch_execute(sql).await.unwrap();
    }

    let path = "/customer/databases/main/backups";
    let asked = stack.post(path, &token, json!({})).await.ok();
    assert!(asked["moment"].is_null(), "{asked}");
    let catalog = stack.catalog().await;
    wait_for(async || {
        let sql = "SELECT FROM pg_locks WHERE mode = 'AccessShareLock' AND NOT granted";
        let waits = catalog.query_opt(sql, &[]).await.unwrap();
        waits.map(drop)
    })
    .await;
    let before = now(&client).await;
    client.batch_execute("COMMIT").await.unwrap();
    let made = wait_for(async || {
        let seen = look_at(&stack, &token, &asked).await;
        (seen["state"] == "ready").then_some(seen)
    })
    .await;
    let after = now(&client).await;
    // What was committed while it waited is in it, and so its moment is behind that.
    assert_eq!(made["rows"], 1, "{made}");
    let moment = time(&made["moment"]);
    assert!(
        before < moment && moment < after,
        "{before} {after}: {made}"
    );
    assert!(
        time(&made["created_at"]) < before && moment <= time(&made["finished_at"]),
        "{made}"
    );

    // So has what a restore replaces.
    let restore = format!("/customer/backups/{}/restore?wait=60", text(&made["id"]));
    let before = now(&client).await;
    drop(client);
    let done = stack.post(&restore, &token, json!({})).await.ok();
    assert_eq!(done["state"], "done", "{done}");
    let safety = json!({ "id": done["safety_backup_id"] });
    let safety = look_at(&stack, &token, &safety).await;
    let moment = time(&safety["moment"]);
    assert!(before < moment && moment <= time(&safety["finished_at"]));

    // One that is older than this says that it does not know.
    let sql = "UPDATE backup SET moment = NULL WHERE id = $1";
    catalog.execute(sql, &[&text(&made["id"])]).await.unwrap();
    assert!(look_at(&stack, &token, &made).await["moment"].is_null());
    stack.stop().await;
}

/// Whoever was told before its moment that a row is there finds it in the backup.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_before_the_moment_of_a_backup_is_in_it() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let main = stack.create(&token, "main").await;
    let client = stack.login(&main).await.unwrap();
    client
        .batch_execute("CREATE TABLE t (v int)")
        .await
        .unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let client = stack.login(&main).await.unwrap();
        let ends = ends.clone();
        writers.push(tokio::spawn(async move {
            let mut log = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let begun = Utc::now();
                client
                    .batch_execute("INSERT INTO t VALUES (1)")
                    .await
                    .unwrap();
                log.push((begun, Utc::now()));
            }
            log
        }));
    }
    let mut all = Vec::new();
    for _ in 0..BACKUPS {
        let path = "/customer/databases/main/backups?wait=60";
        let made = stack.post(path, &token, json!({})).await.ok();
        assert_eq!(made["state"], "ready", "{made}");
        all.push(made);
    }
    ends.store(true, Ordering::Relaxed);
    let mut log = Vec::new();
    for writer in writers {
        log.extend(writer.await.unwrap());
    }
    for made in all {
        let moment = time(&made["moment"]);
        let surely = log.iter().filter(|(_, told)| *told < moment).count();
        let perhaps = log
            .iter()
            .filter(|(begun, _)| *begun < time(&made["finished_at"]));
        let (perhaps, rows) = (perhaps.count(), made["rows"].as_u64().unwrap());
        assert!(
            (surely..=perhaps).contains(&usize::try_from(rows).unwrap()),
            "{surely} to {perhaps}: {made}"
        );
    }
    stack.stop().await;
}
