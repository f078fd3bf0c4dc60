//! Backups that are made only to be restored once (`keep` of a request), through the API.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{Stack, text, wait_for};
use serde_json::{Value, json};

/// How many of one database there may be at a time.
const MOST: usize = 10;

async fn backup(stack: &Stack, token: &str, keep: bool) -> Value {
    let path = "/customer/databases/main/backups?wait=60";
    let made = stack.post(path, token, json!({ "keep": keep })).await.ok();
    assert_eq!(made["state"], "ready", "{made}");
    assert_eq!(made["keep"], keep, "{made}");
    made
}

async fn look_at(stack: &Stack, token: &str, backup: &Value) -> Value {
    let path = format!("/customer/backups/{}", text(&backup["id"]));
    stack.get(&path, token).await.ok()
}

fn file(stack: &Stack, backup: &Value) -> std::path::PathBuf {
    let [database, id] = ["database_id", "id"].map(|key| text(&backup[key]));
    stack.backups_dir().join(format!("{database}/{id}.tntry"))
}

async fn restore(stack: &Stack, token: &str, backup: &Value, body: Value) -> Value {
    let path = format!("/customer/backups/{}/restore?wait=60", text(&backup["id"]));
    stack.post(&path, token, body).await.ok()
}

/// Until nothing is left of it: no row, and no file.
async fn wait_gone(stack: &Stack, backup: &Value) {
    let catalog = stack.catalog().await;
    let sql = "SELECT FROM backup WHERE id = $1";
    wait_for(async || {
        let row = catalog.query_opt(sql, &[&text(&backup["id"])]).await;
        row.unwrap().is_none().then_some(())
    })
    .await;
    assert!(!file(stack, backup).exists(), "{backup}");
}

async fn execute(stack: &Stack, sql: &str, backup: &Value) {
    let catalog = stack.catalog().await;
    let changed = catalog.execute(sql, &[&text(&backup["id"])]).await;
    assert_eq!(changed.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_kept_goes_when_its_restore_has_ended_however_it_did() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    stack.create(&token, "main").await;
    let kept = backup(&stack, &token, true).await;

    let beside = backup(&stack, &token, false).await;
    let done = restore(&stack, &token, &beside, json!({ "name": "beside" })).await;
    assert_eq!(done["state"], "done", "{done}");
    wait_gone(&stack, &beside).await;

    let in_place = backup(&stack, &token, false).await;
    let body = json!({ "safety_backup": false });
    let done = restore(&stack, &token, &in_place, body.clone()).await;
    assert_eq!(done["state"], "done", "{done}");
    wait_gone(&stack, &in_place).await;

    let damaged = backup(&stack, &token, false).await;
    let mut bytes = std::fs::read(file(&stack, &damaged)).unwrap();
    bytes.pop();
    std::fs::write(file(&stack, &damaged), bytes).unwrap();
    let failed = restore(&stack, &token, &damaged, body.clone()).await;
    assert_eq!(failed["error_code"], "backup_damaged", "{failed}");
    wait_gone(&stack, &damaged).await;

    // One that is kept can be restored as often as anybody wants to.
    for name in ["first", "second"] {
        let done = restore(&stack, &token, &kept, json!({ "name": name })).await;
        assert_eq!(done["state"], "done", "{done}");
    }
    let kept = look_at(&stack, &token, &kept).await;
    assert!(
        kept["state"] == "ready" && kept["expires_at"].is_null(),
        "{kept}"
    );
    stack.stop().await;
}

/// A restore beside that ended in CREATE_FAILED goes on only if somebody resumes its database: until then its backup is
/// anybody's to delete, and afterwards the restore says what it lacks.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_failed_lets_go_of_its_backup_and_goes_on_while_that_is_there() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    stack.create(&token, "main").await;
    let fail = async |name: &str, backup: &Value, whole: &[u8]| {
        std::fs::write(file(&stack, backup), &whole[..whole.len() - 1]).unwrap();
        let failed = restore(&stack, &token, backup, json!({ "name": name })).await;
        assert_eq!(failed["error_code"], "backup_damaged", "{failed}");
        assert_eq!(failed["database"]["state"], "CREATE_FAILED", "{failed}");
    };
    let resume = async |name: &str| {
        let path = format!("/customer/databases/{name}/resume?wait=60");
        stack.post(&path, &token, json!({})).await.ok()
    };

    // Held by nobody, it can be deleted; what was to come of it says so when it is resumed.
    let kept = backup(&stack, &token, true).await;
    let whole = std::fs::read(file(&stack, &kept)).unwrap();
    fail("mended", &kept, &whole).await;
    std::fs::write(file(&stack, &kept), &whole).unwrap();
    let mended = resume("mended").await;
    assert_eq!(mended["state"], "ACTIVE", "{mended}");
    fail("failed", &kept, &whole).await;
    let path = format!("/customer/backups/{}", text(&kept["id"]));
    stack.delete(&path, &token).await.ok();
    wait_gone(&stack, &kept).await;
    let again = resume("failed").await;
    assert_eq!(again["state"], "CREATE_FAILED", "{again}");
    let reason = text(&again["state_reason"]);
    assert!(reason.contains("the backup was deleted"), "{again}");

    // One that ends by itself does, also when the database that failed was deleted and is kept.
    let once = backup(&stack, &token, false).await;
    let whole = std::fs::read(file(&stack, &once)).unwrap();
    fail("deleted", &once, &whole).await;
    stack
        .delete("/customer/databases/deleted", &token)
        .await
        .ok();
    let expire = "UPDATE backup SET expires_at = now() WHERE id = $1";
    execute(&stack, expire, &once).await;
    wait_gone(&stack, &once).await;
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_kept_and_that_nobody_restores_goes_in_time_and_never_while_it_is_read()
 {
    let stack = Stack::start().await;
    let token = stack.token().await;
    stack.create(&token, "main").await;
    let [needed, unused] = [
        backup(&stack, &token, false).await,
        backup(&stack, &token, false).await,
    ];
    for one in [&needed, &unused] {
        wait_for(async || {
            let now = look_at(&stack, &token, one).await;
            now["expires_at"].is_string().then_some(())
        })
        .await;
    }
    // As if a database were being filled from it.
    let begun = "INSERT INTO restore (id, backup_id, project_id, tenant_id, mode, state, wants_safety, time_max_s)
        SELECT 'rst_x', id, project_id, 'somebody', 'beside', 'filling', false, 3600 FROM backup WHERE id = $1";
    execute(&stack, begun, &needed).await;
    let expire = "UPDATE backup SET expires_at = now() WHERE id = $1";
    execute(&stack, expire, &needed).await;
    execute(&stack, expire, &unused).await;
    // One look decides of both.
    wait_gone(&stack, &unused).await;
    let now = look_at(&stack, &token, &needed).await;
    assert_eq!(now["state"], "ready", "{now}");
    let ended = "UPDATE restore SET state = 'failed' WHERE backup_id = $1";
    execute(&stack, ended, &needed).await;
    wait_gone(&stack, &needed).await;

    // So many at a time; and those that are kept are not fewer for it.
    let path = "/customer/databases/main/backups";
    for _ in 0..MOST {
        let asked = stack.post(path, &token, json!({ "keep": false })).await;
        asked.ok();
    }
    let refused = stack.post(path, &token, json!({ "keep": false })).await;
    refused.error(409, "too_many_backups");
    backup(&stack, &token, true).await;
    stack.stop().await;
}

/// What would be refused when the backup is made is refused before that: a moment takes long to recover.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_for_a_database_that_could_not_be_made_is_refused_at_once() {
    let stack = Stack::with(|config| config.limits.anonymous_databases_max = 2).await;
    let token = stack.token().await;
    stack.create(&token, "main").await;
    let path = "/customer/databases/main/backups";
    let ask = async |name: &str| {
        let body = json!({ "keep": false, "restore_as": name });
        stack.post(path, &token, body).await
    };
    ask("main").await.error(409, "name_taken");
    ask("No name").await.error(400, "invalid_name");
    ask("second").await.ok();
    let third = stack.create(&token, "third").await;
    ask("second").await.error(403, "quota_exceeded");
    let made = stack.get(path, &token).await.ok();
    assert_eq!(made.as_array().unwrap().len(), 1, "{made}");

    // By the time it is restored it may be otherwise.
    let kept = backup(&stack, &token, true).await;
    let restore_path = format!("/customer/backups/{}/restore", text(&kept["id"]));
    let restore = async || {
        let body = json!({ "name": "second" });
        stack.post(&restore_path, &token, body).await
    };
    restore().await.error(403, "quota_exceeded");
    let third = format!("/customer/databases/{}?wait=30", text(&third["id"]));
    stack.delete(&third, &token).await.ok();
    ask("second").await.ok();
    restore().await.ok();
    stack.stop().await;
}
