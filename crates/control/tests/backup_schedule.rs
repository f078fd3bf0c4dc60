//! Backups by schedule, and how they end, on a real PostgreSQL server.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::time::Duration;

use control::BackupSchedule;
use kit::{OPERATOR, Stack, text, wait_for};
use serde_json::{Value, json};
use tokio_postgres::Client;

async fn stack(schedule: BackupSchedule) -> Stack {
    Stack::with(move |config| {
        config.backup_schedule = schedule;
        config.limits.anonymous_databases_max = 100;
    })
    .await
}

async fn one(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn backups(stack: &Stack, database: &Value) -> Vec<Value> {
    let path = format!("/customer/databases/{}/backups", text(&database["id"]));
    let all = stack.get(&path, OPERATOR).await.ok();
    all.as_array().unwrap().clone()
}

/// As many of the kind in the state, newest first.
async fn wait_count(stack: &Stack, database: &Value, state: &str, count: usize) -> Vec<Value> {
    wait_for(async || {
        let mut all = backups(stack, database).await;
        all.retain(|one| one["kind"] == "scheduled" && one["state"] == state);
        (all.len() >= count).then_some(all)
    })
    .await
}

/// The last time for which a backup was asked for was long ago.
async fn miss(catalog: &Client, database: &Value) {
    let sql =
        "INSERT INTO backup_schedule (tenant_id, made_for) VALUES ($1, now() - interval '40 days')
        ON CONFLICT (tenant_id) DO UPDATE SET made_for = excluded.made_for";
    let id = text(&database["id"]);
    catalog.execute(sql, &[&id]).await.unwrap();
}

/// Rows as if so many had been made, one a day, the newest so many days ago; ready ones, unless said otherwise.
async fn as_if_made(catalog: &Client, database: &Value, kind: &str, days: std::ops::Range<i32>) {
    let sql = "INSERT INTO backup (id, tenant_id, project_id, tenant_name, kind, state, created_at, finished_at, due_at)
        SELECT 'bkp_a' || substr(md5($1 || $2 || day), 1, 11), id, project_id, name, $2, 'ready',
            now() - make_interval(days => day), now() - make_interval(days => day), NULL
        FROM tenant, generate_series($3::int, $4::int - 1) day WHERE id = $1";
    let id = text(&database["id"]);
    let made = catalog
        .execute(sql, &[&id, &kind, &days.start, &days.end])
        .await;
    assert_eq!(made.unwrap(), days.len() as u64);
}

async fn ages(catalog: &Client, database: &Value, kind: &str) -> Vec<i32> {
    let sql = "SELECT extract(day FROM now() - created_at)::int FROM backup
        WHERE tenant_id = $1 AND kind = $2 ORDER BY created_at DESC";
    let rows = catalog.query(sql, &[&text(&database["id"]), &kind]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Until so old ones are left.
async fn wait_ages(catalog: &Client, database: &Value, wanted: &[i32]) {
    wait_for(async || (ages(catalog, database, "scheduled").await == wanted).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_are_backed_up_by_themselves_and_only_the_last_ones_are_kept() {
    let schedule = BackupSchedule {
        every: Duration::from_secs(2),
        keep: 2,
        ..BackupSchedule::default()
    };
    let stack = stack(schedule).await;
    let token = stack.token().await;
    let mut all = Vec::new();
    for name in ["one", "two", "three", "four"] {
        all.push(stack.create(&token, name).await);
    }
    let by_hand = format!(
        "/customer/databases/{}/backups?wait=60",
        text(&all[0]["id"])
    );
    let by_hand = stack.post(&by_hand, &token, json!({})).await.ok();
    let catalog = stack.catalog().await;
    // Each several times, and old ones go meanwhile: with their files.
    for database in &all {
        wait_for(async || {
            let sql = format!(
                "SELECT count(DISTINCT id) FROM (SELECT id FROM backup WHERE tenant_id = '{0}' AND kind = 'scheduled'
                    AND state = 'ready' ORDER BY created_at DESC LIMIT 1) last
                 WHERE (SELECT extract(epoch FROM made_for - t.activated_at) FROM backup_schedule s JOIN tenant t
                    ON t.id = s.tenant_id WHERE t.id = '{0}') > 6",
                text(&database["id"])
            );
            (one(&catalog, &sql).await == 1).then_some(())
        })
        .await;
    }
    let never = json!({ "every": "never" });
    for database in &all {
        let path = format!(
            "/customer/databases/{}/backup-schedule",
            text(&database["id"])
        );
        let set = stack
            .request(reqwest::Method::PUT, &path, &token)
            .json(&never);
        let set = stack.send(set).await.ok();
        assert_eq!(set["every"], "never", "{set}");
        assert!(
            set["next_at"].is_null() && set["last_at"].is_string(),
            "{set}"
        );
    }
    for database in &all {
        let kept = wait_for(async || {
            let mut all = backups(&stack, database).await;
            all.retain(|one| one["kind"] == "scheduled");
            (all.len() == 2 && all.iter().all(|one| one["state"] == "ready")).then_some(all)
        })
        .await;
        for backup in &kept {
            assert!(backup["expires_at"].is_string(), "{backup}");
            let path = format!("/customer/backups/{}/verify?wait=60", text(&backup["id"]));
            let read = stack.post(&path, &token, json!({})).await.ok();
            assert!(read["verify_error"].is_null(), "{read}");
        }
    }
    let stays = backups(&stack, &all[0]).await;
    assert!(
        stays.iter().any(|one| one["id"] == by_hand["id"]),
        "{stays:?}"
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_make_one_backup_for_one_time() {
    let schedule = BackupSchedule {
        every: Duration::from_secs(30 * 24 * 3600),
        ..BackupSchedule::default()
    };
    let mut stack = stack(schedule).await;
    let token = stack.token().await;
    let mut all = Vec::new();
    for number in 0..6 {
        all.push(stack.create(&token, &format!("db{number}")).await);
    }
    let catalog = stack.catalog().await;
    // All are away when the times of all pass.
    stack.stop_control().await;
    for database in &all {
        miss(&catalog, database).await;
    }
    stack.start_control().await;
    let (second, _routes) = stack.start_other("second").await;
    let (third, _routes) = stack.start_other("third").await;
    for database in &all {
        wait_count(&stack, database, "ready", 1).await;
    }
    // Each has looked at least once more by now: a backup that is asked for is made at once.
    let path = format!(
        "/customer/databases/{}/backups?wait=60",
        text(&all[0]["id"])
    );
    stack.post(&path, &token, json!({})).await.ok();
    let sql = "SELECT count(*) FROM backup WHERE kind = 'scheduled'";
    assert_eq!(one(&catalog, sql).await, 6);
    for other in [second, third] {
        other.stop(Duration::from_secs(10)).await.leave().await;
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_suspended_database_missed_is_made_up_when_it_is_back() {
    let schedule = BackupSchedule {
        every: Duration::from_secs(30 * 24 * 3600),
        ..BackupSchedule::default()
    };
    let mut stack = stack(schedule).await;
    let token = stack.token().await;
    let main = stack.create(&token, "main").await;
    let id = text(&main["id"]);
    let catalog = stack.catalog().await;
    let act = async |what: &str| {
        let path = format!("/customer/databases/{id}/{what}");
        stack.post(&path, &token, json!({})).await.ok();
    };
    act("suspend").await;
    stack.wait_state(&id, "SUSPENDED").await;
    stack.stop_control().await;
    // It was asked for before, and its process died.
    let sql = "INSERT INTO backup (id, tenant_id, project_id, tenant_name, kind, state, begun_at)
        SELECT 'bkp_aaaaaaaaaaaa', id, project_id, name, 'scheduled', 'running', now() FROM tenant WHERE id = $1";
    catalog.execute(sql, &[&id]).await.unwrap();
    let sql = "INSERT INTO backup_schedule (tenant_id, made_for) VALUES ($1, now())";
    catalog.execute(sql, &[&id]).await.unwrap();
    stack.start_control().await;
    wait_for(async || backups(&stack, &main).await.is_empty().then_some(())).await;
    let fleet = stack.get("/operator/fleet", OPERATOR).await.ok();
    assert!(fleet["figures"][3]["missing"].is_string(), "{fleet}");
    miss(&catalog, &main).await;
    let path = format!("/customer/databases/{id}/resume");
    stack.post(&path, &token, json!({})).await.ok();
    wait_count(&stack, &main, "ready", 1).await;
    let fleet = stack.get("/operator/fleet", OPERATOR).await.ok();
    assert_eq!(fleet["figures"][3]["is_met"], true, "{fleet}");
    let page = stack.request(reqwest::Method::GET, "/metrics", OPERATOR);
    let page = page.send().await.unwrap().text().await.unwrap();
    for line in [
        "tenantry_backup_scheduled_databases{state=\"in_time\"} 1",
        "tenantry_backup_scheduled_databases{state=\"late\"} 0",
        "tenantry_fleet_target{figure=\"backup_age\"} 3240000",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_backups_go_by_count_and_age_and_never_the_newest_good_one() {
    let schedule = BackupSchedule {
        keep: 3,
        keep_for: Duration::from_secs(10 * 24 * 3600),
        ..BackupSchedule::default()
    };
    let mut stack = stack(schedule).await;
    let token = stack.token().await;
    let mut made = Vec::new();
    for name in [
        "many",
        "aged",
        "damaged",
        "failing",
        "restoring",
        "own",
        "gone",
    ] {
        made.push(stack.create(&token, name).await);
    }
    let [many, aged, damaged, failing, restoring, own, gone] = &made[..] else {
        unreachable!("as many as were made")
    };
    let catalog = stack.catalog().await;
    let path = format!("/customer/databases/{}/backup-schedule", text(&own["id"]));
    let said = json!({ "every": "6h", "keep": 5, "keep_for": "forever" });
    let set = stack
        .request(reqwest::Method::PUT, &path, &token)
        .json(&said);
    let set = stack.send(set).await.ok();
    assert_eq!((&set["every"], &set["own"]), (&json!("6h"), &said), "{set}");
    assert!(set["next_at"].is_string(), "{set}");
    // Its times are not what is looked at here.
    let sql = "UPDATE backup_schedule SET every_s = 0 WHERE tenant_id = $1";
    catalog.execute(sql, &[&text(&own["id"])]).await.unwrap();
    stack.stop_control().await;

    as_if_made(&catalog, many, "scheduled", 0..6).await;
    as_if_made(&catalog, many, "manual", 0..20).await;
    as_if_made(&catalog, many, "safety", 0..20).await;
    as_if_made(&catalog, aged, "scheduled", 20..22).await;
    as_if_made(&catalog, damaged, "scheduled", 0..5).await;
    as_if_made(&catalog, failing, "scheduled", 0..8).await;
    as_if_made(&catalog, restoring, "scheduled", 15..18).await;
    as_if_made(&catalog, own, "scheduled", 20..30).await;
    as_if_made(&catalog, gone, "scheduled", 9..12).await;
    let newest = "UPDATE backup SET verify_error = 'backup_damaged: x' WHERE tenant_id = $1
        AND created_at > now() - interval '1.5 days'";
    catalog
        .execute(newest, &[&text(&damaged["id"])])
        .await
        .unwrap();
    let failed = "UPDATE backup SET state = 'failed' WHERE tenant_id = $1
        AND created_at > now() - interval '6.5 days'";
    catalog
        .execute(failed, &[&text(&failing["id"])])
        .await
        .unwrap();
    // It is being read: long enough for all of this.
    let sql = "INSERT INTO restore (id, backup_id, project_id, tenant_id, mode, state, wants_safety, time_max_s, due_at)
        SELECT 'rst_aaaaaaaaaaaa', id, project_id, tenant_id, 'in_place', 'verifying', false, 3600, NULL FROM backup
        WHERE tenant_id = $1 ORDER BY created_at LIMIT 1";
    catalog
        .execute(sql, &[&text(&restoring["id"])])
        .await
        .unwrap();
    let project = "UPDATE backup SET tenant_id = 'aaaaaaaaaaaa' WHERE tenant_id = $1";
    catalog
        .execute(project, &[&text(&gone["id"])])
        .await
        .unwrap();
    stack.start_control().await;

    wait_ages(&catalog, many, &[0, 1, 2]).await;
    assert_eq!(ages(&catalog, many, "manual").await.len(), 20);
    assert_eq!(ages(&catalog, many, "safety").await.len(), 20);
    wait_ages(&catalog, aged, &[20]).await;
    // Two that are damaged count for nothing.
    wait_ages(&catalog, damaged, &[0, 1, 2, 3, 4]).await;
    // Of those that could not be made as many rows stay.
    wait_ages(&catalog, failing, &[0, 1, 2, 7]).await;
    wait_ages(&catalog, restoring, &[15, 17]).await;
    wait_ages(&catalog, own, &[20, 21, 22, 23, 24]).await;
    wait_ages(&catalog, &json!({ "id": "aaaaaaaaaaaa" }), &[9]).await;
    // Older than it may be, and its database is gone.
    let sql = "UPDATE backup SET created_at = created_at - interval '3 days',
        finished_at = finished_at - interval '3 days' WHERE tenant_id = 'aaaaaaaaaaaa'";
    catalog.execute(sql, &[]).await.unwrap();
    stack.stop_control().await;
    stack.start_control().await;
    wait_ages(&catalog, &json!({ "id": "aaaaaaaaaaaa" }), &[]).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_schedule_is_refused() {
    let stack = stack(BackupSchedule::default()).await;
    let token = stack.token().await;
    let main = stack.create(&token, "main").await;
    let path = format!("/customer/databases/{}/backup-schedule", text(&main["id"]));
    let put = async |token: &str, body: Value| {
        let request = stack
            .request(reqwest::Method::PUT, &path, token)
            .json(&body);
        stack.send(request).await
    };
    for wrong in [
        json!({ "every": "soon" }),
        json!({ "every": "59m" }),
        json!({ "every": "11y" }),
        json!({ "keep": 101 }),
        json!({ "keep_for": "1s" }),
    ] {
        put(&token, wrong).await.error(400, "invalid_field");
    }
    // The operator may say less than an hour.
    let set = put(OPERATOR, json!({ "every": "59m" })).await.ok();
    assert_eq!(set["every"], "59m");
    let seen = stack.get(&path, &token).await.ok();
    assert_eq!(
        (&seen["keep"], &seen["keep_for"]),
        (&json!(14), &json!("30days"))
    );
    let back = put(&token, json!({})).await.ok();
    assert_eq!(
        (&back["every"], &back["next_at"]),
        (&json!("never"), &Value::Null)
    );
    stack.stop().await;
}
