//! Tokens, connect tokens, keys and passwords: made, listed, used, expired and revoked.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::time::{Duration, SystemTime};

use kit::{OPERATOR, Stack, heard, text, wait_for};
use model::route::Candidate;
use serde_json::{Value, json};

async fn make_token(stack: &Stack, token: &str, body: Value) -> (String, Value) {
    let made = stack.post("/customer/tokens", token, body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    (text(&made.body["token"]), made.body)
}

async fn sql(stack: &Stack, token: &str, db: &str, query: &str) -> kit::Answer {
    let path = format!("/customer/databases/{db}/sql");
    stack.post(&path, token, json!({ "query": query })).await
}

/// What a proxy compares a login with.
async fn candidates(stack: &Stack, user: &str) -> Vec<Candidate> {
    let resolved = stack.routes.resolve(user.parse().unwrap()).await;
    resolved.unwrap().unwrap().route.candidates.clone()
}

/// Everything the catalog holds, as text: for what must not be in it.
async fn everything(stack: &Stack) -> String {
    let sql = "SELECT (SELECT json_agg(c)::text FROM credential c)
        || coalesce((SELECT json_agg(i)::text FROM idempotency i), '')";
    stack
        .catalog()
        .await
        .query_one(sql, &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_listed_used_and_revoked() {
    let stack = Stack::start().await;
    let owner = stack.token().await;
    let request = stack
        .request(reqwest::Method::POST, "/customer/tokens", &owner)
        .header("Idempotency-Key", "one")
        .json(&json!({ "name": "ci deploy", "expires_in_days": 30 }));
    let made = stack.send(request.try_clone().unwrap()).await.ok();
    let (token, id) = (text(&made["token"]), text(&made["id"]));
    assert_eq!(made["scope"], "full");
    assert!(
        !everything(&stack).await.contains(&token),
        "only a hash is kept"
    );
    // Sent again, it is the same token.
    assert_eq!(stack.send(request).await.ok()["token"], made["token"]);

    let created = stack.create(&token, "made-by-it").await;
    let listed = stack.get("/customer/tokens", &owner).await.ok();
    let all = listed.as_array().unwrap();
    assert_eq!(
        all.len(),
        2,
        "the one of the registration, and this: {listed}"
    );
    assert_eq!(
        (&all[0]["name"], &all[0]["is_current"]),
        (&Value::Null, &json!(true))
    );
    assert_eq!(all[1]["name"], "ci deploy");
    assert_eq!(all[1]["created_by"], all[0]["id"]);
    assert!(listed.to_string().find(&token).is_none(), "{listed}");
    let days = "SELECT round(extract(epoch FROM expires_at - now()) / 86400)::int
        FROM credential WHERE id = $1";
    let days = stack.catalog().await.query_one(days, &[&id]).await.unwrap();
    assert_eq!(days.get::<_, i32>(0), 30);
    // Who made what is kept with it.
    let path = format!("/customer/databases/{}/access", text(&created["id"]));
    let access = stack.get(&path, &owner).await.ok();
    assert_eq!(access[0]["kind"], "password");
    assert_eq!(access[0]["created_by"], made["id"]);
    // Within a round of housekeeping it says when and from where it was used.
    wait_for(async || {
        let listed = stack.get("/customer/tokens", &owner).await.ok();
        let used = &listed[1];
        (used["last_used_at"].is_string() && used["last_used_from"] == "127.0.0.1").then_some(())
    })
    .await;

    let other = stack.token().await;
    let path = format!("/customer/tokens/{id}");
    stack
        .delete(&path, &other)
        .await
        .error(404, "token_not_found");
    stack.get("/customer/me", &token).await.ok();
    stack.delete(&path, &owner).await.ok();
    stack
        .get("/customer/me", &token)
        .await
        .error(401, "invalid_token");
    stack
        .delete(&path, &owner)
        .await
        .error(404, "token_not_found");
    stack
        .delete("/customer/tokens/x", &owner)
        .await
        .error(404, "token_not_found");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_no_more_than_its_scope() {
    let stack = Stack::start().await;
    let owner = stack.token().await;
    for name in ["a", "b", "c"] {
        stack.create(&owner, name).await;
    }
    for name in ["a", "b"] {
        let made = sql(
            &stack,
            &owner,
            name,
            "create table t (x int); insert into t values (1)",
        );
        assert_eq!(made.await.ok()["error"], Value::Null);
    }
    let scope = json!({ "databases": [
        { "id": "a", "access": "ro" }, { "id": "b", "access": "rw" },
    ]});
    let body = json!({ "scope_json": scope.to_string() });
    let (scoped, made) = make_token(&stack, &owner, body).await;
    assert_eq!(made["databases"].as_array().unwrap().len(), 2);
    let (reader, _) = make_token(&stack, &owner, json!({ "access": "ro" })).await;

    // Looking.
    let names = async |token: &str| {
        let listed = stack.get("/customer/databases", token).await.ok();
        let names = listed.as_array().unwrap().iter();
        names.map(|db| text(&db["name"])).collect::<Vec<_>>()
    };
    assert_eq!(names(&scoped).await, ["a", "b"]);
    assert_eq!(names(&reader).await, ["a", "b", "c"]);
    stack.get("/customer/databases/a", &scoped).await.ok();
    // What is not in its scope is like what does not exist.
    let mut there = stack
        .get("/customer/databases/c", &scoped)
        .await
        .error(403, "not_in_scope");
    let mut not = stack
        .get("/customer/databases/zz", &scoped)
        .await
        .error(403, "not_in_scope");
    for body in [&mut there, &mut not] {
        body["request_id"] = Value::Null;
    }
    assert_eq!(there, not);

    // SQL: rw changes rows and schema, ro changes nothing, whatever it tries.
    let count = "select count(*)::int from t";
    for token in [&scoped, &reader] {
        assert_eq!(sql(&stack, token, "a", count).await.ok()["rows"][0][0], 1);
        for change in [
            "insert into t values (2)",
            "create table u (x int)",
            "set role tenantry_admin; insert into t values (2)",
            "reset role; insert into t values (2)",
        ] {
            let refused = sql(&stack, token, "a", change).await.ok();
            assert!(refused["error"].is_object(), "{change}: {refused}");
        }
        assert_eq!(sql(&stack, &owner, "a", count).await.ok()["rows"][0][0], 1);
    }
    let changed = sql(
        &stack,
        &scoped,
        "b",
        "insert into t values (2); create table u (x int)",
    );
    assert_eq!(changed.await.ok()["error"], Value::Null);
    assert_eq!(sql(&stack, &owner, "b", count).await.ok()["rows"][0][0], 2);
    sql(&stack, &scoped, "c", "select 1")
        .await
        .error(403, "not_in_scope");

    // Managing.
    for (token, code) in [(&scoped, "scoped_token"), (&reader, "read_only_token")] {
        let post = async |path: &str| stack.post(path, token, json!({})).await;
        post("/customer/databases").await.error(403, code);
        post("/customer/tokens").await.error(403, code);
        post("/customer/databases/b/connect-token")
            .await
            .error(403, code);
        post("/customer/databases/b/connect-keys")
            .await
            .error(403, code);
        post("/customer/databases/b/reset-password")
            .await
            .error(403, code);
        let delete = async |path: &str| stack.delete(path, token).await;
        delete("/customer/databases/b").await.error(403, code);
        delete(&format!("/customer/tokens/{}", text(&made["id"])))
            .await
            .error(403, code);
    }
    stack
        .get("/customer/tokens", &scoped)
        .await
        .error(403, "scoped_token");
    stack
        .get("/customer/databases/a/access", &scoped)
        .await
        .error(403, "scoped_token");

    // A kept answer, which may hold a secret, is given only to who could have asked for it: the keys of a
    // token that may do less are its own.
    let reset = async |token: &str| {
        let path = "/customer/databases/b/reset-password";
        let request = stack.request(reqwest::Method::POST, path, token);
        let request = request.header("Idempotency-Key", "same").json(&json!({}));
        stack.send(request).await
    };
    let password = text(&reset(&owner).await.ok()["admin_password"]);
    let replayed = reset(&scoped).await;
    assert!(!replayed.body.to_string().contains(&password));
    replayed.error(403, "scoped_token");

    // A scope of databases that are somebody else's is no scope.
    let other = stack.token().await;
    let body = json!({ "scope_json": scope.to_string() });
    stack
        .post("/customer/tokens", &other, body)
        .await
        .error(404, "database_not_found");
    // What was deleted is gone from the scope, not from the token's bounds.
    stack.delete("/customer/databases/a", &owner).await.ok();
    stack.delete("/customer/databases/b", &owner).await.ok();
    assert_eq!(names(&scoped).await, Vec::<String>::new());
    stack
        .get("/customer/databases/c", &scoped)
        .await
        .error(403, "not_in_scope");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_have_a_bound_and_wrong_wishes_are_refused() {
    let stack = Stack::start().await;
    let owner = stack.token().await;
    for wrong in [
        json!({ "name": "" }),
        json!({ "name": "a\nb" }),
        json!({ "expires_in_days": 0 }),
        json!({ "expires_in_days": 4000 }),
        json!({ "access": "admin" }),
        json!({ "scope_json": "{}" }),
        json!({ "access": "ro", "scope_json": "{\"databases\":[{\"id\":\"a\",\"access\":\"ro\"}]}" }),
        json!({ "project_id": "prj_abcdefghijkl" }),
    ] {
        let answer = stack.post("/customer/tokens", &owner, wrong.clone()).await;
        answer.error(400, "invalid_field");
    }
    let catalog = stack.catalog().await;
    let fill = "INSERT INTO credential (id, kind, project_id, name, access, token_hash, expires_at)
        SELECT 'crd_aaaaaaaaa' || lpad(i::text, 3, '0'), 'token', id, 'n', 'full',
            sha256(i::text::bytea), now() + interval '1 day'
        FROM project, generate_series(1, 100) i WHERE kind = 'anonymous'";
    catalog.execute(fill, &[]).await.unwrap();
    let full = stack.post("/customer/tokens", &owner, json!({})).await;
    full.error(409, "too_many_credentials");
    // Those that have expired take no room, and a refresh is never refused.
    let expire = "UPDATE credential SET expires_at = now() WHERE id = 'crd_aaaaaaaaa001'";
    catalog.execute(expire, &[]).await.unwrap();
    make_token(&stack, &owner, json!({})).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_token_works_at_once_and_ends() {
    let stack = Stack::start().await;
    let owner = stack.token().await;
    let id = text(&stack.create(&owner, "app").await["id"]);
    let path = "/customer/databases/app/connect-token";
    for wrong in [
        json!({ "ttl_seconds": 0 }),
        json!({ "ttl_seconds": 601 }),
        json!({ "role": "owner" }),
        json!({ "address": "here" }),
        json!({ "address": "192.0.2.1/24" }),
    ] {
        stack
            .post(path, &owner, wrong)
            .await
            .error(400, "invalid_field");
    }
    let body = json!({ "role": "read", "ttl_seconds": 60, "address": "2001:db8::/32" });
    let made = stack.post(path, &owner, body).await;
    assert_eq!(made.status, 201);
    let made = made.body;
    let user = text(&made["user"]);
    assert_eq!(user, format!("{id}.read"));
    assert_eq!(
        (&made["expires_in_seconds"], &made["database"]),
        (&json!(60), &json!("postgres"))
    );
    let token = text(&made["token"]);
    assert!(text(&made["connection_string"]).contains(&token));
    assert!(
        !everything(&stack).await.contains(&token),
        "only a verifier is kept"
    );
    stack.login_as(&user, &token).await.unwrap();
    stack
        .login_as(&format!("{id}.admin"), &token)
        .await
        .unwrap_err();

    // What the proxy is told: until when, from where, and that its sessions outlive it.
    let found = candidates(&stack, &user).await;
    assert_eq!(found.len(), 1);
    assert!(found[0].outlived && !found[0].one_use);
    assert_eq!(found[0].network, Some("2001:db8::/32".parse().unwrap()));
    let left = found[0]
        .expires_at
        .unwrap()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(left <= Duration::from_secs(60), "{left:?}");

    // Revoked, it is refused, and proxies hear of it.
    let mut changes = stack.routes.changes();
    let revoke = format!("/customer/databases/app/access/{}", text(&made["id"]));
    let key = revoke.replace("/access/", "/connect-keys/");
    stack
        .delete(&key, &owner)
        .await
        .error(404, "credential_not_found");
    stack.delete(&revoke, &owner).await.ok();
    heard(&mut changes, &id).await;
    assert_eq!(
        stack.login_as(&user, &token).await.unwrap_err(),
        "wrong password"
    );
    stack
        .delete(&revoke, &owner)
        .await
        .error(404, "credential_not_found");

    // Of one role there are 64 at once, and more do not push out the password.
    let longest = json!({});
    for _ in 0..64 {
        assert_eq!(stack.post(path, &owner, longest.clone()).await.status, 201);
    }
    let full = stack.post(path, &owner, longest).await;
    let wait = full.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse::<u64>()
        .unwrap();
    assert!((1..=601).contains(&wait), "{wait}");
    full.error(429, "too_many_requests");
    stack
        .post(path, &owner, json!({ "role": "write" }))
        .await
        .ok();
    let admin = candidates(&stack, &format!("{id}.admin")).await;
    assert_eq!(admin.len(), 65);
    assert!(!admin[0].outlived, "the password comes first");

    stack.delete("/customer/databases/app", &owner).await.ok();
    stack
        .post(path, &owner, json!({}))
        .await
        .error(404, "database_not_found");
    let by_id = format!("/customer/databases/{id}/connect-token");
    stack
        .post(&by_id, &owner, json!({}))
        .await
        .error(409, "wrong_state");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_bounds_the_life_of_connect_tokens() {
    let stack = Stack::with(|config| {
        config.limits.connect_token_time_max = Duration::from_secs(3600);
    })
    .await;
    let owner = stack.token().await;
    stack.create(&owner, "app").await;
    let path = "/customer/databases/app/connect-token";
    let made = stack.post(path, &owner, json!({})).await.ok();
    assert_eq!(made["expires_in_seconds"], 3600);
    let longer = json!({ "ttl_seconds": 3601 });
    stack
        .post(path, &owner, longer)
        .await
        .error(400, "invalid_field");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_looks_for_seven_days_unless_more_is_said() {
    let stack = Stack::start().await;
    let owner = stack.token().await;
    let id = text(&stack.create(&owner, "app").await["id"]);
    let path = "/customer/databases/app/connect-keys";
    let made = stack.post(path, &owner, json!({})).await.ok();
    let key = text(&made["connect_key"]);
    assert_eq!(made["user"], format!("{id}.read"));
    assert!(text(&made["name"]).starts_with("share-app-2"), "{made}");
    let client = stack.login_as(&format!("{id}.read"), &key).await.unwrap();
    let refused = client
        .execute("create table t (x int)", &[])
        .await
        .unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501");
    let found = candidates(&stack, &format!("{id}.read")).await;
    let left = found[0]
        .expires_at
        .unwrap()
        .duration_since(SystemTime::now())
        .unwrap();
    assert_eq!(left.as_secs() / 3600, 7 * 24 - 1);
    assert!(!found[0].outlived, "its sessions end with it");

    let body = json!({ "role": "write", "expires_in_days": 1, "name": "for Ann" });
    let other = stack.post(path, &owner, body).await.ok();
    stack
        .login_as(&format!("{id}.write"), &text(&other["connect_key"]))
        .await
        .unwrap();
    let listed = stack.get(path, &owner).await.ok();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[1]["name"], "for Ann");
    assert!(!listed.to_string().contains(&key));
    assert!(!everything(&stack).await.contains(&key));

    let revoke = format!("{path}/{}", text(&made["id"]));
    stack.delete(&revoke, &owner).await.ok();
    stack
        .login_as(&format!("{id}.read"), &key)
        .await
        .unwrap_err();
    assert_eq!(
        stack.get(path, &owner).await.ok().as_array().unwrap().len(),
        1
    );
    for _ in 0..15 {
        stack
            .post(path, &owner, json!({ "role": "write" }))
            .await
            .ok();
    }
    let full = stack.post(path, &owner, json!({ "role": "write" })).await;
    full.error(409, "too_many_credentials");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_password_works_until_its_grace_ends() {
    let stack = Stack::start().await;
    let owner = stack.token().await;
    let made = stack.create(&owner, "app").await;
    let (user, old) = (text(&made["admin_user"]), text(&made["admin_password"]));
    let path = "/customer/databases/app/reset-password";
    let reset = async |grace: Value| {
        let answer = stack
            .post(path, &owner, json!({ "grace_seconds": grace }))
            .await;
        text(&answer.ok()["admin_password"])
    };
    let second = reset(json!(3600)).await;
    stack.login_as(&user, &old).await.unwrap();
    stack.login_as(&user, &second).await.unwrap();
    let found = candidates(&stack, &user).await;
    assert_eq!(found.len(), 2, "both are compared with at every login");
    assert_eq!(found[0].expires_at, None);
    assert!(found[1].expires_at.is_some() && !found[1].outlived);
    // A longer grace of the next one does not prolong that of the first.
    let until = found[1].expires_at;
    let third = reset(json!(7200)).await;
    let found = candidates(&stack, &user).await;
    assert_eq!((found.len(), found[2].expires_at), (3, until));
    // Without one, all end at once.
    let last = reset(json!(0)).await;
    for gone in [&old, &second, &third] {
        stack.login_as(&user, gone).await.unwrap_err();
    }
    stack.login_as(&user, &last).await.unwrap();
    // Old ones do not pile up.
    for _ in 0..6 {
        reset(json!(3600)).await;
    }
    assert_eq!(candidates(&stack, &user).await.len(), 4);
    stack.login_as(&user, &last).await.unwrap_err();
    let long = json!({ "grace_seconds": 604_801 });
    stack
        .post(path, &owner, long)
        .await
        .error(400, "invalid_field");
    stack.stop().await;
}

/// A token of the operator's own project is no operator.
#[tokio::test(flavor = "multi_thread")]
async fn the_operator_makes_tokens_for_projects() {
    let stack = Stack::start().await;
    let owner = stack.register().await;
    let theirs = text(&owner["customer_id"]);
    let (token, made) = make_token(&stack, OPERATOR, json!({ "project_id": theirs })).await;
    assert_eq!(made["created_by"], "operator");
    assert_eq!(
        stack.get("/customer/me", &token).await.ok()["id"],
        owner["customer_id"]
    );
    let (own, _) = make_token(&stack, OPERATOR, json!({})).await;
    stack
        .get("/operator/check", &own)
        .await
        .error(403, "operator_only");
    let listed = format!("/customer/tokens?project_id={theirs}");
    assert_eq!(
        stack
            .get(&listed, OPERATOR)
            .await
            .ok()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    stack.get(&listed, &own).await.error(400, "invalid_field");
    let revoke = format!("/customer/tokens/{}", text(&made["id"]));
    stack
        .delete(&revoke, &own)
        .await
        .error(404, "token_not_found");
    stack.delete(&revoke, OPERATOR).await.ok();
    stack
        .get("/customer/me", &token)
        .await
        .error(401, "invalid_token");
    stack.stop().await;
}
