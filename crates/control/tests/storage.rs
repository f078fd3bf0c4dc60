//! What databases take on disk is measured: where there is a limit to it soon, and proxies are told; of all in turn,
//! some at a time.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::{sync::Arc, time::Duration};

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
}

/// Databases that are measured in one round.
const ROUND_MAX: i64 = 5;

/// More than one round takes, by two processes: each gets its turn, no round has more than its share, and nothing
/// else is told to anybody.
#[tokio::test(flavor = "multi_thread")]
async fn every_database_is_measured_in_turn_and_only_some_at_once() {
    let stack = Stack::start().await;
    let (other, _routes) = stack.start_other("other").await;
    let mut ids = Vec::new();
    let mut tokens = Vec::new();
    // A project may have a few.
    for number in 0..12 {
        if number % 4 == 0 {
            tokens.push(stack.token().await);
        }
        let name = format!("app-{number}");
        ids.push(text(&stack.create(&tokens[number / 4], &name).await["id"]));
    }
    let token = &tokens[0];
    let (gone, suspended) = (&ids[0], &ids[3]);
    let path = format!("/customer/databases/{suspended}/suspend");
    stack.post(&path, token, json!({})).await.ok();
    stack.wait_state(suspended, "SUSPENDED").await;
    let catalog = stack.catalog().await;
    // One that somebody removed behind our back is the first one of the lap.
    let sql = "SELECT pid FROM tenant WHERE id = $1";
    let pid: String = catalog.query_one(sql, &[gone]).await.unwrap().get(0);
    let drop = format!("DROP DATABASE \"x_{pid}\" WITH (FORCE)");
    catalog.batch_execute(&drop).await.unwrap();
    let begin = "UPDATE placement SET storage_bytes = NULL, storage_measured_at = NULL,
        storage_due_at = now() - make_interval(secs => CASE WHEN pid = $1 THEN 100 ELSE 1 END)";
    // While it is nobody's turn, nobody measures in turn. That both measure otherwise says that they had the time.
    let hold =
        "INSERT INTO storage_turn SELECT DISTINCT node, 'infinity'::timestamptz FROM placement
        ON CONFLICT (node) DO UPDATE SET due_at = excluded.due_at";
    catalog.execute(hold, &[]).await.unwrap();
    catalog.execute(begin, &[&pid]).await.unwrap();
    for id in &ids[1..3] {
        limit(&stack, id, token, 1 << 20).await;
        becomes(&stack, id, true).await;
        limit(&stack, id, token, 0).await;
    }
    let measured = "SELECT count(*) FROM placement WHERE storage_due_at > now()";
    let measured: i64 = catalog.query_one(measured, &[]).await.unwrap().get(0);
    assert_eq!(measured, 0);
    catalog.execute(begin, &[&pid]).await.unwrap();
    let mut changes = stack.routes.changes();
    let release = "UPDATE storage_turn SET due_at = now()";
    catalog.execute(release, &[]).await.unwrap();

    let count = "SELECT count(storage_bytes) FROM placement WHERE owner = 'tenant'";
    wait_for(async || {
        let row = catalog.query_one(count, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 11).then_some(())
    })
    .await;
    // All of a round are written at one moment.
    let rounds =
        "SELECT count(*), min(storage_bytes), count(*) FILTER (WHERE storage_due_at > now())
        FROM placement WHERE storage_measured_at IS NOT NULL GROUP BY storage_measured_at";
    let rounds = catalog.query(rounds, &[]).await.unwrap();
    assert!(rounds.len() >= 3, "{rounds:?}");
    for round in rounds {
        let measured: i64 = round.get(0);
        assert!(measured <= ROUND_MAX, "{measured} in one round");
        assert!(round.get::<_, i64>(1) > 1 << 20);
        assert_eq!(round.get::<_, i64>(2), measured, "it rests");
    }
    let turns = "SELECT count(*) FROM storage_turn";
    let turns: i64 = catalog.query_one(turns, &[]).await.unwrap().get(0);
    assert_eq!(turns, 1, "of one node, whoever measures");
    assert!(changes.try_recv().is_err(), "nothing follows from it");

    // It is shown with its age, of one that nobody can ask about now, too.
    let limits = format!("/customer/databases/{}/limits", ids[2]);
    let seen = stack.get(&limits, token).await.ok();
    assert!(seen["storage_bytes"].as_u64().unwrap() > 1 << 20, "{seen}");
    assert!(seen["storage_measured_at"].is_string(), "{seen}");
    let known =
        "UPDATE placement SET storage_bytes = 7, storage_measured_at = 'epoch' WHERE pid = $1";
    catalog.execute(known, &[&pid]).await.unwrap();
    let seen = format!("/customer/databases/{gone}/observability");
    let seen = stack.get(&seen, token).await.ok();
    assert_eq!(seen["summary"]["storage_bytes"], 7);
    assert_eq!(
        seen["summary"]["storage_measured_at"],
        "1970-01-01T00:00:00Z"
    );
    let fleet = stack.get("/operator/fleet", OPERATOR).await.ok();
    let sum = "SELECT sum(storage_bytes)::bigint FROM placement WHERE owner = 'tenant'";
    let sum: i64 = catalog.query_one(sum, &[]).await.unwrap().get(0);
    assert_eq!(
        fleet["storage"],
        json!({"databases": 12, "databases_unmeasured": 0, "bytes": sum,
            "oldest_measured_at": "1970-01-01T00:00:00Z"})
    );
    other.stop(Duration::from_secs(10)).await.leave().await;
}

/// A rule about bytes needs no limit.
#[tokio::test(flavor = "multi_thread")]
async fn an_alert_of_bytes_on_disk_begins_without_a_limit() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let id = text(&stack.create(&token, "app").await["id"]);
    let rule = json!({"kind": "size_bytes", "threshold": 1 << 20, "for_seconds": 0});
    stack
        .post("/customer/alerts/rules", &token, rule)
        .await
        .ok();
    let alert = wait_for(async || {
        let control = stack.control.as_ref().unwrap();
        control.look_for_alerts().await.unwrap();
        let all = stack.get("/customer/alerts", &token).await.ok();
        all.as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(
        (&alert["kind"], &alert["subject"]["id"]),
        (&json!("size_bytes"), &json!(id))
    );
    assert!(alert["value"].as_f64().unwrap() > f64::from(1 << 20));
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
