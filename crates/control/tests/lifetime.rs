//! Names, lifetimes, suspensions and sweeps of databases, on a real PostgreSQL server.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{Answer, OPERATOR, Stack, text, wait_for};
use reqwest::Method;
use serde_json::{Value, json};

async fn patch(stack: &Stack, key: &str, token: &str, body: Value) -> Answer {
    let path = format!("/customer/databases/{key}");
    stack.patch(&path, token, body).await
}

async fn act(stack: &Stack, key: &str, what: &str, token: &str, body: Value) -> Answer {
    let path = format!("/customer/databases/{key}/{what}");
    stack.post(&path, token, body).await
}

async fn names(stack: &Stack, token: &str) -> Vec<String> {
    let listed = stack.get("/customer/databases", token).await.ok();
    let listed = listed.as_array().unwrap();
    listed.iter().map(|db| text(&db["name"])).collect()
}

/// Makes a database older than it is.
async fn age(stack: &Stack, name: &str, time: &str) {
    let sql = format!(
        "UPDATE tenant SET created_at = now() - interval '{time}' WHERE name = '{name}' AND deleted_at IS NULL"
    );
    stack.catalog().await.batch_execute(&sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_ends_when_its_lifetime_is_over_and_can_be_taken_back() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let path = "/customer/databases?expires=1h";
    let made = stack.post(path, &token, json!({"name": "short"})).await;
    let made = made.ok();
    let id = text(&made["id"]);
    let kept = stack.create(&token, "kept").await;
    assert_eq!(kept["expires_at"], Value::Null);
    let client = stack.login(&made).await.unwrap();
    client
        .batch_execute("CREATE TABLE t AS SELECT 42 AS a")
        .await
        .unwrap();
    for shown in [
        &stack.get("/customer/databases/short", &token).await.ok(),
        &stack.get("/customer/databases", &token).await.ok()[0],
    ] {
        assert_eq!(shown["expires_at"], made["expires_at"]);
    }
    // By the catalog's clock, and to the moment.
    let catalog = stack.catalog().await;
    let is_exact = "SELECT expires_at = created_at + interval '1 h' FROM tenant WHERE id = $1";
    let row = catalog.query_one(is_exact, &[&id]).await.unwrap();
    assert!(row.get::<_, bool>(0));
    // A proxy knows for how long its answer holds.
    let resolved = stack
        .routes
        .resolve(text(&made["admin_user"]).parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let left = resolved.route.expires_in.expect("it ends").as_secs();
    assert!((3500..=3600).contains(&left), "{left} s");

    let mut changes = stack.routes.changes();
    patch(&stack, "short", &token, json!({"expires": "500ms"}))
        .await
        .ok();
    kit::heard(&mut changes, &id).await; // that it changed
    kit::heard(&mut changes, &id).await; // that it is over
    let late =
        "SELECT extract(epoch FROM deleted_at - expires_at)::float8 FROM tenant WHERE id = $1";
    let late: f64 = catalog.query_one(late, &[&id]).await.unwrap().get(0);
    // Milliseconds on a machine that has time.
    assert!((0.0..3.0).contains(&late), "{late} s after its end");
    wait_for(async || client.is_closed().then_some(())).await;
    assert_eq!(stack.login(&made).await.unwrap_err(), "Expired");
    let gone = stack.wait_state(&id, "DISABLED").await;
    assert_eq!(gone["state_reason"], "its lifetime was over");
    assert_eq!(names(&stack, &token).await, ["kept"]);
    patch(&stack, &id, &token, json!({"expires": "2h"}))
        .await
        .error(409, "wrong_state");

    // Taken back, the end that has passed is gone.
    let back = act(&stack, &id, "undelete", &token, json!({})).await.ok();
    assert_eq!(
        (&back["state"], &back["expires_at"], &back["state_reason"]),
        (&json!("ACTIVE"), &Value::Null, &Value::Null)
    );
    let client = stack.login(&made).await.unwrap();
    let row = client.query_one("SELECT a FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    // Or another one is set; and one that has not passed stays.
    stack.delete("/customer/databases/short", &token).await.ok();
    assert_eq!(stack.login(&made).await.unwrap_err(), "Deleted");
    let body = json!({"expires": "2h"});
    let back = act(&stack, &id, "undelete", &token, body).await.ok();
    let end = text(&back["expires_at"]);
    stack.delete("/customer/databases/short", &token).await.ok();
    let back = act(&stack, &id, "undelete", &token, json!({})).await.ok();
    assert_eq!(back["expires_at"], end);
    assert!(stack.login(&kept).await.is_ok());
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_is_set_changed_and_taken_away() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let body = json!({"name": "a", "expires": "2030-01-31T13:00:00+01:00"});
    let made = stack.post("/customer/databases", &token, body).await.ok();
    assert_eq!(made["expires_at"], "2030-01-31T12:00:00Z");
    let set = async |value: Value| {
        let answer = patch(&stack, "a", &token, json!({"expires": value}))
            .await
            .ok();
        answer["expires_at"].clone()
    };
    assert_ne!(set(json!("2h")).await, made["expires_at"]);
    assert_eq!(set(json!("never")).await, Value::Null);
    assert_ne!(set(json!("3s")).await, Value::Null);
    assert_eq!(set(Value::Null).await, Value::Null);
    for wrong in [
        "0s",
        "2001-01-01T00:00:00Z",
        "soon",
        "99y",
        "2099-01-01T00:00:00Z",
    ] {
        patch(&stack, "a", &token, json!({"expires": wrong}))
            .await
            .error(400, "invalid_field");
        let path = format!("/customer/databases?expires={wrong}");
        stack
            .post(&path, &token, json!({}))
            .await
            .error(400, "invalid_field");
    }
    patch(&stack, "a", &token, json!({}))
        .await
        .error(400, "invalid_field");
    let twice = json!({"expires": "1h"});
    stack
        .post("/customer/databases?expires=1h", &token, twice)
        .await
        .error(400, "invalid_field");
    // Get-or-create leaves the lifetime of the one that is there.
    let again = json!({"name": "a", "if_not_exists": true, "expires": "1s"});
    let got = stack.post("/customer/databases", &token, again).await.ok();
    assert_eq!(got["expires_at"], Value::Null);
    assert_eq!(names(&stack, &token).await, ["a"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_its_state_a_database_expires() {
    let stack = Stack::start().await;
    let mut ids = Vec::new();
    for name in ["suspended", "failed"] {
        let made = stack.create(OPERATOR, name).await;
        ids.push(text(&made["id"]));
    }
    act(&stack, "suspended", "suspend", OPERATOR, json!({}))
        .await
        .ok();
    let catalog = stack.catalog().await;
    catalog
        .batch_execute("UPDATE tenant SET state = 'CREATE_FAILED' WHERE name = 'failed'")
        .await
        .unwrap();
    for id in &ids {
        patch(&stack, id, OPERATOR, json!({"expires": "200ms"}))
            .await
            .ok();
    }
    for id in &ids {
        stack.wait_state(id, "DISABLED").await;
    }
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_changes_nothing_else() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let made = stack.create(&token, "old").await;
    let id = text(&made["id"]);
    stack.create(&token, "taken").await;
    let client = stack.login(&made).await.unwrap();
    let renamed = patch(&stack, "old", &token, json!({"name": "new"}))
        .await
        .ok();
    assert_eq!(
        (&renamed["id"], &renamed["name"]),
        (&made["id"], &json!("new"))
    );
    client
        .batch_execute("SELECT 1")
        .await
        .expect("sessions stay");
    assert!(stack.login(&made).await.is_ok(), "and so does the password");
    // Twice is as good as once, by the new name and by the id.
    for key in ["new", id.as_str()] {
        let again = patch(&stack, key, &token, json!({"name": "new"})).await;
        assert_eq!(again.ok()["name"], "new");
    }
    // With a key, the same request has the same answer, although the old name is gone.
    let request = || {
        stack
            .request(Method::PATCH, "/customer/databases/new", &token)
            .header("idempotency-key", "once")
            .json(&json!({"name": "newer"}))
    };
    let first = stack.send(request()).await.ok();
    assert_eq!(stack.send(request()).await.ok(), first);
    stack
        .get("/customer/databases/new", &token)
        .await
        .error(404, "database_not_found");
    for key in ["newer", id.as_str()] {
        let path = format!("/customer/databases/{key}");
        let found = stack.get(&path, &token).await.ok();
        assert_eq!(found["id"], made["id"]);
    }
    patch(&stack, "newer", &token, json!({"name": "taken"}))
        .await
        .error(409, "name_taken");
    patch(&stack, "newer", &token, json!({"name": "No"}))
        .await
        .error(400, "invalid_name");
    // The old name is free, and another project's names are its own.
    let second = stack.create(&token, "old").await;
    assert_ne!(second["id"], made["id"]);
    let other = stack.token().await;
    stack.create(&other, "x").await;
    patch(&stack, "x", &other, json!({"name": "newer"}))
        .await
        .ok();
    // Both at once, or neither.
    let both = json!({"name": "taken", "expires": "1h"});
    patch(&stack, "newer", &token, both)
        .await
        .error(409, "name_taken");
    let seen = stack.get("/customer/databases/newer", &token).await.ok();
    assert_eq!(seen["expires_at"], Value::Null);
    stack.delete("/customer/databases/newer", &token).await.ok();
    patch(&stack, &id, &token, json!({"name": "late"}))
        .await
        .error(409, "wrong_state");
    stack.assert_clean().await;
    stack.stop().await;
}

/// Of two that want one name at the same moment, one gets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_given_once() {
    let stack = Stack::start().await;
    for name in ["a", "b"] {
        stack.create(OPERATOR, name).await;
    }
    let (a, b) = tokio::join!(
        patch(&stack, "a", OPERATOR, json!({"name": "both"})),
        patch(&stack, "b", OPERATOR, json!({"name": "both"}))
    );
    let statuses = [a.status.as_u16(), b.status.as_u16()];
    assert!(
        statuses == [200, 409] || statuses == [409, 200],
        "{statuses:?}"
    );
    stack.stop().await;
}

/// Who gives it another name means the deleted one, although the name is another's by now.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_database_whose_name_was_taken_comes_back_under_another() {
    let stack = Stack::start().await;
    let old = stack.create(OPERATOR, "app").await;
    stack.delete("/customer/databases/app", OPERATOR).await.ok();
    let new = stack.create(OPERATOR, "app").await;
    let listed = stack
        .get("/customer/databases?state=DISABLING,DISABLED", OPERATOR)
        .await
        .ok();
    assert_eq!(listed[0]["id"], old["id"]);
    let refused = act(&stack, "app", "undelete", OPERATOR, json!({})).await;
    refused.error(409, "wrong_state");
    let body = json!({"name": "before"});
    let back = act(&stack, "app", "undelete", OPERATOR, body).await.ok();
    assert_eq!((&back["id"], &back["name"]), (&old["id"], &json!("before")));
    let now = stack.get("/customer/databases/app", OPERATOR).await.ok();
    assert_eq!(now["id"], new["id"]);
    stack.assert_clean().await;
    stack.stop().await;
}

/// Its last sessions may still be ending: nobody who takes a delete back at once has to try again.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_is_taken_back_as_soon_as_it_is_over() {
    let stack = Stack::start().await;
    let made = stack.create(OPERATOR, "app").await;
    let id = text(&made["id"]);
    let catalog = stack.catalog().await;
    let sql = "SELECT 'x_' || pid FROM tenant WHERE id = $1";
    let database: String = catalog.query_one(sql, &[&id]).await.unwrap().get(0);
    // Nothing closes it as long as this is open.
    let held = format!("BEGIN; ALTER DATABASE {database} CONNECTION LIMIT 7");
    catalog.batch_execute(&held).await.unwrap();
    let sweep = "/customer/databases?prefix=app&dry_run=false";
    let swept = stack.delete(sweep, OPERATOR).await.ok();
    assert_eq!(swept["databases"][0]["id"], made["id"]);
    let back = act(&stack, "app", "undelete", OPERATOR, json!({}));
    let over = async {
        // Who will not wait is told to come again, twice: by then the other one is there.
        for _ in 0..2 {
            let path = format!("/customer/databases/{id}/undelete?wait=0");
            let at_once = stack.post(&path, OPERATOR, json!({})).await;
            let refused = at_once.error(409, "wrong_state");
            assert!(text(&refused["hint"]).contains("again in a moment"));
        }
        catalog.batch_execute("ROLLBACK").await.unwrap();
    };
    let (back, ()) = tokio::join!(back, over);
    let back = back.ok();
    assert_eq!(
        (&back["id"], &back["state"]),
        (&made["id"], &json!("ACTIVE"))
    );
    stack.login(&made).await.expect("it is open again");
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_suspends_only_the_operator_resumes() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let made = stack.create(&token, "a").await;
    let id = text(&made["id"]);
    let act = async |what: &str, token: &str| act(&stack, &id, what, token, json!({})).await;
    // The owner's own, twice each.
    for _ in 0..2 {
        let suspended = act("suspend", &token).await.ok();
        assert_eq!(suspended["suspended_by"], "owner");
    }
    for _ in 0..2 {
        let resumed = act("resume", &token).await.ok();
        assert_eq!(resumed["state"], "ACTIVE");
        assert!(resumed.get("suspended_by").is_none());
        stack.login(&made).await.expect("resumed is open");
    }
    // The operator's word counts more, also when the owner spoke first, and last.
    act("suspend", &token).await.ok();
    let suspended = act("suspend", OPERATOR).await.ok();
    assert_eq!(suspended["suspended_by"], "operator");
    let suspended = act("suspend", &token).await.ok();
    assert_eq!(suspended["suspended_by"], "operator");
    act("resume", &token)
        .await
        .error(403, "suspended_by_operator");
    assert_eq!(stack.login(&made).await.unwrap_err(), "Suspended");
    // Nor is a delete a way around it.
    let path = format!("/customer/databases/{id}");
    stack.delete(&path, &token).await.ok();
    let back = act("undelete", &token).await.ok();
    assert_eq!(
        (&back["state"], &back["state_reason"]),
        (&json!("SUSPENDED"), &json!("the operator suspended it"))
    );
    act("resume", &token)
        .await
        .error(403, "suspended_by_operator");
    assert_eq!(stack.login(&made).await.unwrap_err(), "Suspended");
    act("resume", OPERATOR).await.ok();
    assert!(stack.login(&made).await.is_ok());
    stack.delete(&path, &token).await.ok();
    for what in ["suspend", "resume"] {
        act(what, &token).await.error(409, "wrong_state");
    }
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_deletes_what_is_meant_and_nothing_else() {
    let stack = Stack::start().await;
    let token = stack.register().await;
    let token = text(&token["token"]);
    for name in ["ci-1", "ci-2", "ci-new", "app"] {
        stack.create(&token, name).await;
    }
    stack.create(OPERATOR, "ci-theirs").await;
    for name in ["ci-1", "ci-2", "app", "ci-theirs"] {
        age(&stack, name, "2 days").await;
    }
    let sweep = async |query: &str| {
        let path = format!("/customer/databases?{query}");
        stack.delete(&path, &token).await
    };
    let swept = |answer: &Value| -> Vec<String> {
        let all = answer["databases"].as_array().unwrap();
        all.iter().map(|db| text(&db["name"])).collect()
    };
    // Nothing happens unless it is asked for.
    for query in [
        "prefix=ci-&older_than=1d",
        "prefix=ci-&older_than=1d&dry_run=true",
    ] {
        let dry = sweep(query).await.ok();
        assert_eq!(
            (swept(&dry), &dry["dry_run"]),
            (vec!["ci-1".into(), "ci-2".into()], &json!(true))
        );
    }
    assert_eq!(names(&stack, &token).await.len(), 4);
    for wrong in [
        "dry_run=false",
        "prefix=&dry_run=false",
        "prefix=x&older_than=old",
    ] {
        sweep(wrong).await.error(400, "invalid_field");
    }
    // In batches.
    let first = sweep("prefix=ci-&older_than=1d&dry_run=false&limit=1").await;
    let first = first.ok();
    assert_eq!(
        (swept(&first), &first["more"]),
        (vec!["ci-1".into()], &json!(true))
    );
    let rest = sweep("prefix=ci-&older_than=1d&dry_run=false").await.ok();
    assert_eq!(
        (swept(&rest), &rest["more"]),
        (vec!["ci-2".into()], &json!(false))
    );
    let none = sweep("prefix=ci-&older_than=1d&dry_run=false").await.ok();
    assert_eq!(swept(&none), Vec::<String>::new());
    assert_eq!(names(&stack, &token).await, ["app", "ci-new"]);
    assert_eq!(names(&stack, OPERATOR).await, ["ci-theirs"]);
    // The operator sweeps its own project only, and `%` and `_` are letters of a name.
    let path = "/customer/databases?older_than=1s&dry_run=false";
    assert_eq!(
        swept(&stack.delete(path, OPERATOR).await.ok()),
        ["ci-theirs"]
    );
    assert_eq!(names(&stack, &token).await, ["app", "ci-new"]);
    for prefix in ["%25", "c_", "ci_"] {
        let none = sweep(&format!("prefix={prefix}&dry_run=false")).await.ok();
        assert_eq!(swept(&none), Vec::<String>::new(), "{prefix}");
    }
    // What was swept was deleted in the ordinary way.
    let back = act(&stack, "ci-1", "undelete", &token, json!({}))
        .await
        .ok();
    assert_eq!(back["state"], "ACTIVE");
    stack.assert_clean().await;
    stack.stop().await;
}
