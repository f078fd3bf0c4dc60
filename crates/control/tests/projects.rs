//! Anonymous projects: how many databases they have, claiming, and adopting.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{Answer, OPERATOR, Stack, heard, text, wait_for};
use serde_json::{Value, json};

async fn refresh(stack: &Stack, project: &Value) -> Answer {
    let url = format!("{}/customer/anonymous-refresh", stack.base);
    let body = json!({
        "anonymous_id": project["anonymous_id"],
        "anonymous_secret": project["anonymous_secret"],
    });
    stack.send(stack.http.post(url).json(&body)).await
}

async fn code(stack: &Stack, label: &str) -> Value {
    let body = json!({ "label": label });
    stack
        .post("/operator/claim-codes", OPERATOR, body)
        .await
        .ok()
}

fn adopt(project: &Value, ids: &[&Value]) -> Value {
    json!({
        "anonymous_customer_id": project["anonymous_id"],
        "anonymous_secret": project["anonymous_secret"],
        "database_ids": ids,
    })
}

const ADOPT: &str = "/customer/adopt-anonymous-databases";
const PREFLIGHT: &str = "/customer/adopt-anonymous-databases/preflight";

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_project_keeps_everything_and_has_no_quota() {
    let stack = Stack::start().await;
    let project = stack.register().await;
    let token = text(&project["token"]);
    let first = stack.create(&token, "db-0").await;
    for i in 1..5 {
        stack.create(&token, &format!("db-{i}")).await;
    }
    let more = json!({ "name": "db-5" });
    let full = stack
        .post("/customer/databases", &token, more.clone())
        .await;
    full.error(403, "quota_exceeded");

    let made = code(&stack, "ann@example.com").await;
    let claim = json!({ "code": made["code"] });
    let wrong = json!({ "code": "claim_wrong" });
    stack
        .post("/customer/claim", &token, wrong)
        .await
        .error(403, "invalid_claim_code");
    let me = stack
        .post("/customer/claim", &token, claim.clone())
        .await
        .ok();
    assert_eq!(
        (&me["id"], &me["kind"]),
        (&project["customer_id"], &json!("claimed"))
    );
    assert_eq!(
        (&me["email"], &me["is_anonymous"]),
        (&json!("ann@example.com"), &json!(false))
    );
    assert_eq!(me["databases_max"], Value::Null);
    // An answer that was lost is asked for again; nobody else can use the code.
    assert_eq!(
        stack
            .post("/customer/claim", &token, claim.clone())
            .await
            .ok(),
        me
    );
    let other = stack.token().await;
    stack
        .post("/customer/claim", &other, claim)
        .await
        .error(403, "invalid_claim_code");
    let again = json!({ "code": code(&stack, "b").await["code"] });
    stack
        .post("/customer/claim", &token, again.clone())
        .await
        .error(409, "already_claimed");
    stack
        .post("/customer/claim", OPERATOR, again.clone())
        .await
        .error(409, "already_claimed");

    stack.post("/customer/databases", &token, more).await.ok();
    stack.login(&first).await.unwrap();
    let fresh = text(&refresh(&stack, &project).await.ok()["token"]);
    assert_eq!(stack.get("/customer/me", &fresh).await.ok()["databases"], 6);

    // Codes are listed without their texts, and taken back.
    let listed = stack.get("/operator/claim-codes", OPERATOR).await.ok();
    assert_eq!(listed[0]["project_id"], project["customer_id"]);
    assert!(!listed.to_string().contains(&text(&made["code"])));
    let path = |one: &Value| format!("/operator/claim-codes/{}", text(&one["id"]));
    stack
        .delete(&path(&listed[0]), OPERATOR)
        .await
        .error(404, "token_not_found");
    stack.delete(&path(&listed[1]), OPERATOR).await.ok();
    stack
        .post("/customer/claim", &other, again)
        .await
        .error(403, "invalid_claim_code");
    let catalog = stack.catalog().await;
    let expired = code(&stack, "late").await;
    let expire = "UPDATE claim_code SET expires_at = now() WHERE id = $1";
    catalog
        .execute(expire, &[&text(&expired["id"])])
        .await
        .unwrap();
    let late = json!({ "code": expired["code"] });
    stack
        .post("/customer/claim", &other, late)
        .await
        .error(403, "invalid_claim_code");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adopted_databases_keep_ids_passwords_and_data() {
    let stack = Stack::start().await;
    let project = stack.register().await;
    let old = text(&project["token"]);
    let (one, two) = (
        stack.create(&old, "one").await,
        stack.create(&old, "two").await,
    );
    let scope = json!({ "databases": [{ "id": one["id"], "access": "rw" }] });
    let bound = stack.post(
        "/customer/tokens",
        &old,
        json!({ "scope_json": scope.to_string() }),
    );
    let bound = text(&bound.await.ok()["token"]);
    let keep = stack.login(&one).await.unwrap();
    keep.batch_execute("create table t (x int); insert into t values (7)")
        .await
        .unwrap();
    let new = stack.token().await;
    stack.create(&new, "two").await;

    let ask = adopt(&project, &[&one["id"], &two["id"]]);
    let preflight = stack.post(PREFLIGHT, &new, ask.clone()).await.ok();
    assert_eq!(preflight["eligible"], false, "{preflight}");
    let taken = preflight["databases"].as_array().unwrap().iter();
    let taken: Vec<_> = taken.map(|db| db["name_taken"].clone()).collect();
    assert_eq!(taken, [json!(false), json!(true)]);
    assert_eq!(preflight["databases_left"], 4);
    // All or none.
    stack.post(ADOPT, &new, ask).await.error(409, "name_taken");
    stack.get("/customer/databases/one", &old).await.ok();

    let mut changes = stack.routes.changes();
    let ask = adopt(&project, &[&one["id"]]);
    let moved = stack.post(ADOPT, &new, ask.clone()).await.ok();
    assert_eq!(
        (&moved["adopted"], &moved["already_here"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(moved["databases"][0]["id"], one["id"]);
    assert!(moved["databases"][0]["admin_password"].is_null());
    heard(&mut changes, &text(&one["id"])).await;
    // Sent again, it has happened.
    let again = stack.post(ADOPT, &new, ask).await.ok();
    assert_eq!(
        (&again["adopted"], &again["already_here"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(
        stack.get("/customer/databases/one", &new).await.ok()["id"],
        one["id"]
    );
    let path = format!("/customer/databases/{}", text(&one["id"]));
    stack
        .get(&path, &old)
        .await
        .error(404, "database_not_found");
    stack.get(&path, &bound).await.error(403, "not_in_scope");
    let client = stack.login(&one).await.unwrap();
    let row = client.query_one("select x from t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);

    // With new secrets, the old ones end.
    stack.delete("/customer/databases/two", &new).await.ok();
    let key = stack
        .post("/customer/databases/two/connect-keys", &old, json!({}))
        .await
        .ok();
    let mut ask = adopt(&project, &[&two["id"]]);
    ask["reissue_secrets"] = json!(true);
    let moved = stack.post(ADOPT, &new, ask).await.ok();
    stack.login(&two).await.unwrap_err();
    stack
        .login_as(&text(&key["user"]), &text(&key["connect_key"]))
        .await
        .unwrap_err();
    stack.login(&moved["databases"][0]).await.unwrap();
    wait_for(async || {
        let report = stack.get("/operator/check", OPERATOR).await.ok();
        (report["clean"] == true).then_some(())
    })
    .await;
    stack.stop().await;
}

/// Its parent stays another project's, whose data is none of the new owner's.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_adopted_alone_has_no_parent() {
    let stack = Stack::start().await;
    let project = stack.register().await;
    let old = text(&project["token"]);
    let parent = stack.create(&old, "main").await;
    let body = json!({ "name": "copy" });
    let path = "/customer/databases/main/branch?wait=60";
    let branch = stack.post(path, &old, body).await;
    assert_eq!(branch.body["state"], "ACTIVE", "{}", branch.body);
    assert_eq!(branch.body["parent_database_id"], parent["id"]);
    let new = stack.token().await;
    let ask = adopt(&project, &[&branch.body["id"]]);
    stack.post(ADOPT, &new, ask).await.ok();

    let own = stack.get("/customer/databases/copy", &new).await.ok();
    assert!(own["parent_database_id"].is_null(), "{own}");
    for (what, path) in [("reset", "reset"), ("diff", "diff")] {
        let path = format!("/customer/databases/copy/{path}");
        let refused = match what {
            "diff" => stack.get(&path, &new).await,
            _ => stack.post(&path, &new, json!({})).await,
        };
        let error = refused.error(409, "wrong_state");
        assert!(error.to_string().contains("is gone"), "{error}");
    }
    // Nor is one copied that failed before.
    let client = stack.login(&parent).await.unwrap();
    // Committed by itself, or a copy by a dump would not see the table and not wait for it.
    client.batch_execute("CREATE TABLE t ()").await.unwrap();
    let lock = "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE";
    client.batch_execute(lock).await.unwrap();
    let body = json!({ "name": "late", "timeout_seconds": 4 });
    let path = "/customer/databases/main/branch";
    let late = stack.post(path, &old, body).await;
    let late = text(&late.body["id"]);
    stack.wait_state(&late, "CREATE_FAILED").await;
    let ask = adopt(&project, &[&json!(late)]);
    stack.post(ADOPT, &new, ask).await.ok();
    drop(client);
    let resume = "/customer/databases/late/resume?wait=60";
    let again = stack.post(resume, &new, json!({})).await.ok();
    assert_eq!(again["state"], "CREATE_FAILED", "{again}");
    assert!(
        text(&again["state_reason"]).contains("the parent was deleted"),
        "{again}"
    );

    // With its parent, it has one again.
    let ask = adopt(&project, &[&parent["id"]]);
    stack.post(ADOPT, &new, ask).await.ok();
    let own = stack.get("/customer/databases/copy", &new).await.ok();
    assert_eq!(own["parent_database_id"], parent["id"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_knows_the_secret_adopts_and_only_within_bounds() {
    let stack = Stack::start().await;
    let project = stack.register().await;
    let theirs = stack.create(&text(&project["token"]), "theirs").await;
    let third = stack.create(&stack.token().await, "third").await;
    let new = stack.token().await;
    let ask = adopt(&project, &[&theirs["id"]]);

    let mut wrong = ask.clone();
    wrong["anonymous_secret"] = json!("sk_anon_wrong");
    for path in [ADOPT, PREFLIGHT] {
        stack
            .post(path, &new, wrong.clone())
            .await
            .error(401, "invalid_token");
        let own = text(&project["token"]);
        stack
            .post(path, &own, ask.clone())
            .await
            .error(400, "invalid_field");
    }
    // The secret of one project opens no other.
    let other = adopt(&project, &[&theirs["id"], &third["id"]]);
    stack
        .post(ADOPT, &new, other)
        .await
        .error(404, "database_not_found");
    let none = adopt(&project, &[]);
    stack
        .post(ADOPT, &new, none)
        .await
        .error(400, "invalid_field");
    let names = adopt(&project, &[&json!("theirs")]);
    stack
        .post(ADOPT, &new, names)
        .await
        .error(400, "invalid_field");
    stack
        .get("/customer/databases/theirs", &text(&project["token"]))
        .await
        .ok();

    for i in 0..5 {
        stack.create(&new, &format!("db-{i}")).await;
    }
    stack
        .post(ADOPT, &new, ask.clone())
        .await
        .error(403, "quota_exceeded");
    let claim = json!({ "code": code(&stack, "ann").await["code"] });
    stack.post("/customer/claim", &new, claim).await.ok();
    // A claimed project is nobody's to take from.
    let claim = json!({ "code": code(&stack, "bob").await["code"] });
    stack
        .post("/customer/claim", &text(&project["token"]), claim)
        .await
        .ok();
    for path in [ADOPT, PREFLIGHT] {
        stack
            .post(path, &new, ask.clone())
            .await
            .error(409, "already_claimed");
    }
    stack.stop().await;
}
