//! Branches through the API, on a real PostgreSQL server.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::time::Duration;

use kit::{OPERATOR, Stack, text, wait_for};
use serde_json::{Value, json};

async fn branch(stack: &Stack, token: &str, parent: &str, body: Value) -> Value {
    let path = format!("/customer/databases/{parent}/branch?wait=60");
    let made = stack.post(&path, token, body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(made.body["state"], "ACTIVE", "{}", made.body);
    made.body
}

async fn one(client: &tokio_postgres::Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Until nobody is connected to the database of a tenant.
async fn alone(stack: &Stack, id: &str) {
    let catalog = stack.catalog().await;
    wait_for(async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'x_' || (SELECT pid FROM tenant WHERE id = $1)";
        let row = catalog.query_one(sql, &[&id]).await.unwrap();
        (row.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_is_a_database_of_its_own() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let parent = stack.create(&token, "main").await;
    let parent_id = text(&parent["id"]);
    let client = stack.login(&parent).await.unwrap();
    let sql = "CREATE TABLE t (v int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100); \
         CREATE SEQUENCE s; SELECT nextval('s'); SELECT lo_from_bytea(77, 'large')";
    client.batch_execute(sql).await.unwrap();
    drop(client);
    alone(&stack, &parent_id).await;

    let made = branch(
        &stack,
        &token,
        "main",
        json!({"name": "preview", "expires": "2h"}),
    )
    .await;
    assert!(made["expires_at"].is_string(), "{made}");
    assert_ne!(made["id"], parent["id"]);
    assert_eq!(made["parent_database_id"], parent["id"]);
    assert_ne!(made["admin_password"], parent["admin_password"]);
    let info = &made["branch"];
    assert_eq!(info["path"], "wal_log", "{info}");
    assert_eq!(info["schema_only"], false);
    assert!(info["size_bytes"].as_u64().unwrap() > 1_000_000, "{info}");
    for time in ["held_ms", "copy_ms"] {
        assert!(info[time].as_u64().unwrap() < 30_000, "{info}");
    }
    let client = stack.login(&made).await.unwrap();
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, 100);
    assert_eq!(one(&client, "SELECT nextval('s')").await, 2);
    assert_eq!(one(&client, "SELECT length(lo_get(77))::int8").await, 5);
    // None of the parent's credentials opens it.
    let user = format!("{}.admin", text(&made["id"]));
    let parents = stack
        .login_as(&user, &text(&parent["admin_password"]))
        .await;
    assert_eq!(parents.unwrap_err(), "wrong password");

    // What is done to one is not seen in the other.
    client
        .batch_execute("DELETE FROM t WHERE v > 10")
        .await
        .unwrap();
    let original = stack.login(&parent).await.unwrap();
    assert_eq!(one(&original, "SELECT count(*) FROM t").await, 100);
    drop((client, original));
    alone(&stack, &text(&made["id"])).await;

    // A branch of a branch; the list of each parent.
    let second = branch(&stack, &token, "preview", json!({"name": "second"})).await;
    let client = stack.login(&second).await.unwrap();
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, 10);
    let listed = stack
        .get("/customer/databases/main/branches", &token)
        .await
        .ok();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["name"], "preview");
    assert_eq!(listed[0]["branch"]["path"], "wal_log");
    assert!(listed[0].get("admin_password").is_none());

    // Names are those of all databases of the project, and the quota counts branches.
    let path = "/customer/databases/main/branch";
    let twice = stack.post(path, &token, json!({"name": "preview"})).await;
    twice.error(409, "name_taken");
    stack
        .post(path, &token, json!({}))
        .await
        .error(400, "invalid_field");
    let past = json!({"name": "past", "snapshot_at": "2026-01-01T00:00:00Z"});
    stack
        .post(path, &token, past)
        .await
        .error(400, "invalid_field");
    let endless = json!({"name": "endless", "timeout_seconds": 0});
    stack
        .post(path, &token, endless)
        .await
        .error(400, "invalid_field");
    for name in ["four", "five"] {
        branch(&stack, &token, "main", json!({ "name": name })).await;
    }
    let sixth = stack.post(path, &token, json!({"name": "six"})).await;
    sixth.error(403, "quota_exceeded");

    // The end of a parent leaves its branches alone.
    stack.delete("/customer/databases/main", &token).await.ok();
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, 10);
    let seen = stack.get("/customer/databases/preview", &token).await.ok();
    assert_eq!(
        (&seen["state"], &seen["parent_database_id"]),
        (&json!("ACTIVE"), &parent["id"])
    );
    assert!(stack.login(&made).await.is_ok());
    let gone = stack.post(path, &token, json!({"name": "late"})).await;
    gone.error(404, "database_not_found");
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_in_use_is_copied_beside_its_sessions() {
    let stack = Stack::start().await;
    let parent = stack.create(OPERATOR, "busy").await;
    let client = stack.login(&parent).await.unwrap();
    let sql = "CREATE TABLE t (v int); INSERT INTO t VALUES (1); CREATE TEMP TABLE mine ()";
    client.batch_execute(sql).await.unwrap();
    client
        .batch_execute("BEGIN; INSERT INTO t VALUES (2)")
        .await
        .unwrap();
    let made = branch(&stack, OPERATOR, "busy", json!({"name": "copy"})).await;
    let info = &made["branch"];
    assert_eq!(info["path"], "stream", "{info}");
    assert!(text(&info["path_reason"]).contains("1 sessions"), "{info}");
    // Who else connected was waited for, in vain; that counts.
    assert!(info["held_ms"].as_u64().unwrap() > 0, "{info}");
    // Its transaction went on, and is not in the copy.
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, 2);
    let copy = stack.login(&made).await.unwrap();
    assert_eq!(one(&copy, "SELECT count(*) FROM t").await, 1);

    // The shape alone, whoever is connected.
    let body = json!({"name": "shape", "schema_only": true});
    let shape = branch(&stack, OPERATOR, "busy", body).await;
    assert_eq!(shape["branch"]["schema_only"], true);
    let empty = stack.login(&shape).await.unwrap();
    assert_eq!(one(&empty, "SELECT count(*) FROM t").await, 0);
    stack.assert_clean().await;
    stack.stop().await;
}

/// A copy is no way around what the operator decided for its parent.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_has_its_parents_limits_and_none_is_made_of_what_the_operator_suspended() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let parent = stack.create(&token, "small").await;
    let id = text(&parent["id"]);
    let path = format!("/customer/databases/{id}/limits");
    let set = json!({"storage_bytes_max": 20_000_000, "server_connections_min": 2});
    stack.patch(&path, OPERATOR, set).await.ok();
    let set = json!({"allowed_addresses": ["192.0.2.0/24"], "statements_per_second": 5});
    stack.patch(&path, &token, set).await.ok();
    let made = branch(&stack, &token, "small", json!({"name": "copy"})).await;
    let copy = text(&made["id"]);
    let path = |id: &str| format!("/customer/databases/{id}/limits");
    let mut theirs = stack.get(&path(&id), OPERATOR).await.ok();
    let own = stack.get(&path(&copy), OPERATOR).await.ok();
    assert_eq!(theirs["operator"]["server_connections_min"], 2);
    let values = theirs["operator"].as_object_mut().unwrap();
    values.remove("server_connections_min");
    assert_eq!(own["operator"], theirs["operator"]);
    assert_eq!(own["owner"], theirs["owner"]);

    let suspend = format!("/customer/databases/{id}/suspend");
    stack.post(&suspend, OPERATOR, json!({})).await.ok();
    let more = format!("/customer/databases/{id}/branch?wait=60");
    let body = json!({"name": "around"});
    stack
        .post(&more, &token, body.clone())
        .await
        .error(403, "suspended_by_operator");
    let reset = format!("/customer/databases/{copy}/reset");
    stack
        .post(&reset, &token, json!({}))
        .await
        .error(403, "suspended_by_operator");
    let made = stack.post(&more, OPERATOR, body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_cannot_be_made_says_why_and_can_be_tried_again() {
    let stack = Stack::start().await;
    let parent = stack.create(OPERATOR, "locked").await;
    let client = stack.login(&parent).await.unwrap();
    client
        .batch_execute("CREATE TABLE t (v int)")
        .await
        .unwrap();
    let lock = "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE";
    client.batch_execute(lock).await.unwrap();
    let body = json!({"name": "late", "timeout_seconds": 6});
    let path = "/customer/databases/locked/branch";
    let began = stack.post(path, OPERATOR, body).await.ok();
    assert_eq!(began["state"], "CREATING", "it is answered at once");
    let id = text(&began["id"]);
    stack.wait_state(&id, "CLONING").await;
    let failed = stack.wait_state(&id, "CREATE_FAILED").await;
    let reason = text(&failed["state_reason"]);
    assert!(
        reason.contains("took longer") && reason.contains("timeout_seconds"),
        "{reason}"
    );
    let listed = stack
        .get("/customer/databases/locked/branches", OPERATOR)
        .await
        .ok();
    assert_eq!(listed[0]["state"], "CREATE_FAILED");
    client.batch_execute("COMMIT").await.unwrap();
    drop(client);
    let resume = format!("/customer/databases/{id}/resume?wait=60");
    // Its six seconds are few on a machine with much to do: as often as it takes.
    let mut made = failed;
    for _ in 0..20 {
        made = stack.post(&resume, OPERATOR, json!({})).await.ok();
        if made["state"] == "ACTIVE" {
            break;
        }
    }
    assert_eq!(made["state"], "ACTIVE", "{made}");
    // The password of the first answer.
    let copy = stack.login(&began).await.unwrap();
    assert_eq!(one(&copy, "SELECT count(*) FROM t").await, 0);

    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_brings_the_parents_now_to_the_same_address() {
    let stack = Stack::start().await;
    let parent = stack.create(OPERATOR, "main").await;
    let client = stack.login(&parent).await.unwrap();
    client
        .batch_execute("CREATE TABLE t (v int); INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let made = branch(&stack, OPERATOR, "main", json!({"name": "work"})).await;
    let id = text(&made["id"]);
    let work = stack.login(&made).await.unwrap();
    let sql = "DROP TABLE t; CREATE TABLE scratch (v int); INSERT INTO scratch VALUES (1), (2)";
    work.batch_execute(sql).await.unwrap();
    client
        .batch_execute("INSERT INTO t VALUES (2), (3); CREATE INDEX ON t (v)")
        .await
        .unwrap();

    let diff = stack
        .get("/customer/databases/work/diff", OPERATOR)
        .await
        .ok();
    assert_eq!(diff["same_schema"], false);
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap();
        list.iter()
            .map(|one| format!("{} {}", text(&one["kind"]), text(&one["name"])))
            .collect()
    };
    assert_eq!(
        names(&diff["added"]),
        ["column public.scratch.v", "table public.scratch"]
    );
    assert_eq!(
        names(&diff["removed"]),
        [
            "column public.t.v",
            "index public.t_v_idx",
            "table public.t"
        ]
    );
    assert_eq!(
        diff["rows"],
        json!([{"table": "public.scratch", "parent": null, "branch": 2}, {"table": "public.t", "parent": 3, "branch": null}])
    );
    let none = stack.get("/customer/databases/main/diff", OPERATOR).await;
    none.error(409, "wrong_state");
    let none = stack
        .post("/customer/databases/main/reset", OPERATOR, json!({}))
        .await;
    none.error(409, "wrong_state");

    let reset = stack
        .post(
            "/customer/databases/work/reset?wait=60",
            OPERATOR,
            json!({}),
        )
        .await
        .ok();
    assert_eq!(
        (&reset["state"], &reset["id"]),
        (&json!("ACTIVE"), &json!(id)),
        "{reset}"
    );
    assert!(reset.get("admin_password").is_none());
    // Same id, same password, the parent's data; what it had is gone, and so are its sessions.
    let work_again = stack.login(&made).await.unwrap();
    assert_eq!(one(&work_again, "SELECT count(*) FROM t").await, 3);
    wait_for(async || work.is_closed().then_some(())).await;
    let diff = stack
        .get("/customer/databases/work/diff", OPERATOR)
        .await
        .ok();
    assert_eq!(
        (&diff["same_schema"], &diff["added"]),
        (&json!(true), &json!([]))
    );
    wait_for(async || {
        let catalog = stack.catalog().await;
        let sql = "SELECT count(*) FROM placement WHERE owner IN ('kept', 'nobody')";
        let row = catalog.query_one(sql, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    stack.assert_clean().await;

    // A reset that fails leaves the branch as it was.
    work_again
        .batch_execute("INSERT INTO t VALUES (4)")
        .await
        .unwrap();
    client
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let body = json!({"timeout_seconds": 5});
    let failed = stack
        .post("/customer/databases/work/reset?wait=60", OPERATOR, body)
        .await
        .ok();
    assert_eq!(failed["state"], "ACTIVE", "{failed}");
    assert!(
        text(&failed["state_reason"]).contains("as it was"),
        "{failed}"
    );
    let last = wait_for(async || stack.login(&made).await.ok()).await;
    assert_eq!(one(&last, "SELECT count(*) FROM t").await, 4);
    client.batch_execute("ROLLBACK").await.unwrap();
    wait_for(async || {
        let catalog = stack.catalog().await;
        let sql = "SELECT count(*) FROM placement WHERE owner IN ('kept', 'nobody')";
        let row = catalog.query_one(sql, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    stack.assert_clean().await;
    stack.stop().await;
}

/// More at once than are copied at once; a create is not held up by them.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_branches_at_once_are_made() {
    let stack = Stack::start().await;
    stack.warm().await;
    let parent = stack.create(OPERATOR, "many").await;
    let client = stack.login(&parent).await.unwrap();
    client
        .batch_execute("CREATE TABLE t AS SELECT generate_series(1, 1000) v")
        .await
        .unwrap();
    drop(client);
    alone(&stack, &text(&parent["id"])).await;
    let began = std::time::Instant::now();
    let asked = (0..20).map(|n| {
        let body = json!({ "name": format!("b{n}") });
        stack.post("/customer/databases/many/branch?wait=60", OPERATOR, body)
    });
    let all = futures_util::future::join_all(asked);
    let beside = async {
        let began = std::time::Instant::now();
        stack.create(OPERATOR, "beside").await;
        began.elapsed()
    };
    let (all, beside) = tokio::join!(all, beside);
    let took = began.elapsed();
    let mut copies: Vec<u64> = Vec::new();
    for answer in all {
        let made = answer.ok();
        assert_eq!(made["state"], "ACTIVE", "{made}");
        copies.push(made["branch"]["copy_ms"].as_u64().unwrap());
        let client = stack.login(&made).await.unwrap();
        assert_eq!(one(&client, "SELECT count(*) FROM t").await, 1000);
    }
    copies.sort_unstable();
    eprintln!(
        "20 branches at once: {} ms; one copy {} ms (median), {} ms (slowest); a create beside them {} ms",
        took.as_millis(),
        copies[10],
        copies[19],
        beside.as_millis()
    );
    assert!(beside < Duration::from_secs(20), "{beside:?}");
    stack.assert_clean().await;
    stack.stop().await;
}
