//! Restore drills, on a real PostgreSQL server: what is found, what is told, and that nothing is left.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::time::Duration;

use kit::{OPERATOR, Stack, text, wait_for};
use scratch::Scratch;
use serde_json::{Value, json};

async fn stack(dir: &Scratch, every: Duration) -> Stack {
    let folder = dir.join("kept");
    Stack::with(move |config| {
        config.backup_place = control::BackupPlace::folder(&folder);
        config.backup_schedule.drill_every = every;
        // As many as there will be: a drill takes no one's place.
        config.limits.anonymous_databases_max = 2;
    })
    .await
}

async fn backup(stack: &Stack, token: &str, name: &str) -> Value {
    let path = format!("/customer/databases/{name}/backups?wait=60");
    let made = stack.post(&path, token, json!({})).await.ok();
    assert_eq!(made["state"], "ready", "{made}");
    made
}

/// A database with something in it, and its backup.
async fn backed_up(stack: &Stack, token: &str, name: &str) -> (Value, Value) {
    let database = stack.create(token, name).await;
    let client = stack.login(&database).await.unwrap();
    let sql = "CREATE TABLE t AS SELECT v, repeat('x', v) AS x FROM generate_series(1, 500) v; SELECT lo_create(42)";
    client.batch_execute(sql).await.unwrap();
    let made = backup(stack, token, name).await;
    (database, made)
}

async fn drills(stack: &Stack) -> Vec<Value> {
    let all = stack.get("/operator/drills", OPERATOR).await.ok();
    all.as_array().unwrap().clone()
}

fn figure(fleet: &Value, name: &str) -> Value {
    let figures = fleet["figures"].as_array().unwrap();
    figures
        .iter()
        .find(|one| one["name"] == name)
        .unwrap()
        .clone()
}

/// Nothing of drills is on the server, nor in the catalog beside their rows.
async fn assert_gone(stack: &Stack) {
    let catalog = stack.catalog().await;
    wait_for(async || {
        let sql = "SELECT (SELECT count(*) FROM placement
                WHERE owner NOT IN ('pool', 'tenant') OR unsettled_since IS NOT NULL)
            + (SELECT count(*) FROM drill WHERE pid IS NOT NULL)";
        let row = catalog.query_one(sql, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    let sql =
        "SELECT count(*) FROM pg_database d FULL JOIN placement p ON d.datname = 'x_' || p.pid
        WHERE (d.datname ~ '^x_' AND p.pid IS NULL) OR d.datname IS NULL";
    let row = catalog.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
    stack.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_where_nobody_can_reach_it_and_timed() {
    let dir = Scratch::new();
    let stack = stack(&dir, Duration::ZERO).await;
    let token = stack.token().await;
    let path = "/operator/drills?wait=60";
    stack
        .post(path, OPERATOR, json!({}))
        .await
        .error(404, "backup_not_found");
    let fleet = stack.get("/operator/fleet", OPERATOR).await.ok();
    for name in ["drill_age", "recovery_time", "drills_failed"] {
        assert!(figure(&fleet, name)["missing"].is_string(), "{fleet}");
    }
    let (main, made) = backed_up(&stack, &token, "main").await;
    let body = json!({ "database_id": main["id"] });
    let drill = stack.post(path, OPERATOR, body).await.ok();
    assert_eq!(drill["state"], "passed", "{drill}");
    assert_eq!(
        (&drill["backup_id"], &drill["database_id"], &drill["rows"]),
        (&made["id"], &main["id"], &made["rows"])
    );
    assert!(drill["took_ms"].as_i64().unwrap() > 0, "{drill}");
    assert_eq!(drill["by_schedule"], false);
    assert_gone(&stack).await;
    let listed = stack.get("/customer/databases", &token).await.ok();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    stack.create(&token, "second").await;

    let fleet = stack.get("/operator/fleet", OPERATOR).await.ok();
    let recovery = figure(&fleet, "recovery_time");
    assert_eq!(
        (&recovery["target"], &recovery["is_met"]),
        (&json!(3600.0), &json!(true))
    );
    assert_eq!(figure(&fleet, "drills_failed")["value"], 0.0);
    assert_eq!(fleet["last_drill"]["id"], drill["id"], "{fleet}");
    assert_eq!(fleet["last_drill"]["dropped"], true, "{fleet}");

    // The newest good one is drilled: one that is known to be damaged only where there is no other.
    let catalog = stack.catalog().await;
    let newer = backup(&stack, &token, "main").await;
    let damaged = "UPDATE backup SET verify_error = 'backup_damaged' WHERE id = $1";
    let changed = catalog.execute(damaged, &[&text(&newer["id"])]).await;
    assert_eq!(changed.unwrap(), 1);
    let drill = stack.post(path, OPERATOR, json!({})).await.ok();
    assert_eq!(drill["backup_id"], made["id"], "{drill}");
    assert_gone(&stack).await;

    // What is being read is not deleted; a second drill waits.
    let sql = "UPDATE drill SET state = 'running' WHERE id = $1";
    let changed = catalog.execute(sql, &[&text(&drill["id"])]).await;
    assert_eq!(changed.unwrap(), 1);
    let backup = format!("/customer/backups/{}", text(&made["id"]));
    stack
        .delete(&backup, &token)
        .await
        .error(409, "wrong_state");
    stack
        .post(path, OPERATOR, json!({}))
        .await
        .error(409, "wrong_state");
    let sql = "UPDATE drill SET state = 'passed'";
    catalog.execute(sql, &[]).await.unwrap();
    stack.delete(&backup, &token).await.ok();
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_finds_a_damaged_backup_and_says_so() {
    let dir = Scratch::new();
    let stack = stack(&dir, Duration::ZERO).await;
    let token = stack.token().await;
    let (main, made) = backed_up(&stack, &token, "main").await;
    let (id, backup) = (text(&main["id"]), text(&made["id"]));
    let path = dir.join(format!("kept/{id}/{backup}.tntry"));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let drill = stack
        .post("/operator/drills?wait=60", OPERATOR, json!({}))
        .await
        .ok();
    assert_eq!(drill["state"], "failed", "{drill}");
    assert_eq!(drill["error_code"], "backup_damaged", "{drill}");
    assert!(
        drill["error"].is_string() && drill["ended_at"].is_string(),
        "{drill}"
    );
    assert_gone(&stack).await;
    let fleet = stack.get("/operator/fleet", OPERATOR).await.ok();
    let failed = figure(&fleet, "drills_failed");
    assert_eq!(
        (&failed["value"], &failed["is_met"]),
        (&json!(1.0), &json!(false))
    );
    let page = stack.request(reqwest::Method::GET, "/metrics", OPERATOR);
    let page = page.send().await.unwrap().text().await.unwrap();
    assert!(page.contains("tenantry_drill_last_passed 0"), "{page}");
    // The database was not touched.
    let client = stack.login(&main).await.unwrap();
    let row = client
        .query_one("SELECT count(*) FROM t", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 500);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drills_by_schedule_take_turns_and_several_processes_make_one() {
    let dir = Scratch::new();
    let stack = stack(&dir, Duration::from_secs(3600)).await;
    let token = stack.token().await;
    let (first, _) = backed_up(&stack, &token, "first").await;
    let (other, _routes) = stack.start_other("other").await;
    let (third, _routes) = stack.start_other("third").await;
    let passed = async |count: usize| {
        wait_for(async || {
            let all = drills(&stack).await;
            let passed = all.iter().filter(|one| one["state"] == "passed").count();
            (passed >= count).then_some(all)
        })
        .await
    };
    let one = passed(1).await;
    assert_eq!(
        (one.len(), &one[0]["by_schedule"]),
        (1, &json!(true)),
        "{one:?}"
    );
    assert_eq!(one[0]["database_id"], first["id"]);
    let (second, _) = backed_up(&stack, &token, "second").await;
    // An hour later, and the one after.
    let catalog = stack.catalog().await;
    let later = "UPDATE drill SET asked_at = asked_at - interval '61 min'";
    catalog.execute(later, &[]).await.unwrap();
    let two = passed(2).await;
    assert_eq!(
        (two.len(), &two[0]["database_id"]),
        (2, &second["id"]),
        "{two:?}"
    );
    catalog.execute(later, &[]).await.unwrap();
    let three = passed(3).await;
    assert_eq!(
        (three.len(), &three[0]["database_id"]),
        (3, &first["id"]),
        "{three:?}"
    );
    // One that somebody asked for is none by schedule: that one comes at its time.
    let asked = "UPDATE drill SET by_schedule = false";
    catalog.execute(asked, &[]).await.unwrap();
    let four = passed(4).await;
    assert_eq!(
        (four.len(), &four[0]["by_schedule"]),
        (4, &json!(true)),
        "{four:?}"
    );
    for other in [other, third] {
        other.stop(Duration::from_secs(10)).await.leave().await;
    }
    assert_gone(&stack).await;
    stack.stop().await;
}
