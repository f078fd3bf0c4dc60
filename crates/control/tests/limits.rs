//! Limits are set by two parties, reach the proxies at once, and an owner gets no more than the operator
//! allows.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::{sync::Arc, time::Duration};

use kit::{Answer, OPERATOR, Stack, heard, text};
use model::{Limits, route::Route};
use reqwest::Method;
use serde_json::{Value, json};

async fn change(stack: &Stack, method: Method, token: &str, values: Value) -> Answer {
    let path = "/customer/databases/app/limits";
    let id = if token == OPERATOR {
        // Names are those of the token's own project.
        let all = stack.get("/customer/databases?all=true", token).await.ok();
        format!("/customer/databases/{}/limits", text(&all[0]["id"]))
    } else {
        path.to_owned()
    };
    stack
        .send(stack.request(method, &id, token).json(&values))
        .await
}

/// What a proxy is told.
async fn route(stack: &Stack, id: &str) -> Arc<Route> {
    let login = format!("{id}.admin").parse().unwrap();
    stack.routes.resolve(login).await.unwrap().unwrap().route
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_shown_and_told_to_proxies() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let id = text(&stack.create(&token, "app").await["id"]);
    assert_eq!(route(&stack, &id).await.limits, Limits::default());
    let path = "/customer/databases/app/limits";
    let shown = stack.get(path, &token).await.ok();
    assert_eq!(
        shown["effective"],
        json!({
            "client_connections_max": 500, "server_connections_max": 12, "server_connections_min": 0,
            "server_connections_weight": 1, "statements_per_second": 0, "statements_burst": 0, "result_rows_max": 0,
            "result_bytes_max": 0, "storage_bytes_max": 0, "memory_bytes_max": 0, "statement_ms_max": 0, "transaction_ms_max": 0, "slow_statement_ms": 1000, "statement_log": "slow", "statement_log_sample": 100, "statement_audit": 0,
            "idle_in_transaction_ms_max": 0, "client_idle_ms_max": 1_800_000,
            "pool_mode": shown["effective"]["pool_mode"],
        })
    );
    assert_eq!(
        (&shown["owner"], &shown["operator"]),
        (&json!({}), &json!({}))
    );

    let mut changes = stack.routes.changes();
    let set = json!({
        "server_connections_max": 3, "statements_per_second": 10, "statement_ms_max": 5000,
        "client_idle_ms_max": 0, "pool_mode": "transaction",
        "allowed_addresses": ["192.0.2.0/24", "2001:db8::1"],
    });
    let answer = change(&stack, Method::PATCH, &token, set.clone())
        .await
        .ok();
    assert_eq!(answer["owner"]["server_connections_max"], 3);
    assert_eq!(answer["effective"]["statements_burst"], 10);
    assert_eq!(
        answer["owner"]["allowed_addresses"],
        json!(["192.0.2.0/24", "2001:db8::1/128"])
    );
    let mut again = stack.get(path, &token).await.ok();
    // Its size may be measured between the two.
    for measured in ["storage_bytes", "storage_measured_at"] {
        again[measured] = answer[measured].clone();
    }
    assert_eq!(again, answer);
    // The route that a proxy asks for when it hears of the change has them.
    heard(&mut changes, &id).await;
    let told = route(&stack, &id).await;
    let limits = &told.limits;
    assert_eq!(limits.server_connections_max, 3);
    assert_eq!(limits.statements.unwrap().per_second, 10);
    assert_eq!(limits.statement_time_max, Some(Duration::from_secs(5)));
    assert_eq!(limits.client_idle_max, None);
    assert!(limits.admits("192.0.2.9".parse().unwrap()));
    assert!(!limits.admits("192.0.3.9".parse().unwrap()));
    assert_eq!(told.pool_mode, "transaction".parse().unwrap());

    // PATCH leaves what it does not name, null takes back, PUT takes all else back.
    let patch = json!({"statement_ms_max": null, "result_rows_max": 7});
    let answer = change(&stack, Method::PATCH, &token, patch).await.ok();
    assert_eq!(answer["owner"]["result_rows_max"], 7);
    assert_eq!(answer["owner"].get("statement_ms_max"), None);
    assert_eq!(answer["owner"]["server_connections_max"], 3);
    let put = json!({"client_connections_max": 20});
    let answer = change(&stack, Method::PUT, &token, put.clone()).await.ok();
    assert_eq!(answer["owner"], put);
    let limits = route(&stack, &id).await.limits.clone();
    assert_eq!(
        limits,
        Limits {
            client_connections_max: 20,
            ..Limits::default()
        }
    );
    change(&stack, Method::PUT, &token, json!({})).await.ok();
    assert_eq!(route(&stack, &id).await.limits, Limits::default());
    let rows = "SELECT count(*) FROM tenant_limits";
    let rows = stack.catalog().await.query_one(rows, &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 0, "nothing is kept of nothing");

    // A refused change changes nothing of it.
    for bad in [
        json!({"result_rows_max": 9, "statement_ms_max": "5s"}),
        json!({"result_rows_max": 9, "max_connections": 5}),
        json!({"result_rows_max": 9, "allowed_addresses": ["10.0.0.1/8"]}),
    ] {
        change(&stack, Method::PATCH, &token, bad)
            .await
            .error(400, "invalid_field");
    }
    change(&stack, Method::PUT, &token, json!([]))
        .await
        .error(400, "invalid_body");
    assert_eq!(stack.get(path, &token).await.ok()["owner"], json!({}));

    stack.delete("/customer/databases/app", &token).await.ok();
    stack
        .get(path, &token)
        .await
        .error(404, "database_not_found");
    let path = format!("/customer/databases/{id}/limits");
    let body = json!({"result_rows_max": 9});
    stack
        .send(stack.request(Method::PUT, &path, &token).json(&body))
        .await
        .error(409, "wrong_state");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_gets_no_more_than_the_operator_allows() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let id = text(&stack.create(&token, "app").await["id"]);
    let owner = async |values| change(&stack, Method::PATCH, &token, values).await;
    let operator = async |values| change(&stack, Method::PATCH, OPERATOR, values).await;

    // Without a word of the operator, the defaults are the most of what others share.
    for (values, words) in [
        (
            json!({"server_connections_max": 13}),
            "server_connections_max is 12 at most here",
        ),
        (
            json!({"client_connections_max": 501}),
            "client_connections_max is 500 at most here",
        ),
        (
            json!({"server_connections_min": 1}),
            "server_connections_min is set by the operator",
        ),
        (
            json!({"server_connections_weight": 2}),
            "server_connections_weight is set by the operator",
        ),
    ] {
        let error = owner(values).await.error(403, "limit_not_allowed");
        assert!(text(&error["message"]).contains(words), "{error}");
    }
    operator(json!({"server_connections_max": 40, "server_connections_min": 2}))
        .await
        .ok();
    assert_eq!(route(&stack, &id).await.limits.server_connections_max, 40);
    owner(json!({"server_connections_max": 30, "statement_ms_max": 60_000}))
        .await
        .ok();
    assert_eq!(route(&stack, &id).await.limits.server_connections_max, 30);

    // What was said before does not hold against a new word of the operator.
    let answer = operator(json!({
        "server_connections_max": 4, "statement_ms_max": 1000, "pool_mode": "session",
        "allowed_addresses": ["10.0.0.0/8"],
    }))
    .await
    .ok();
    assert_eq!(answer["owner"]["server_connections_max"], 30);
    assert_eq!(answer["effective"]["server_connections_max"], 4);
    let limits = route(&stack, &id).await.limits.clone();
    assert_eq!(
        (limits.server_connections_max, limits.server_connections_min),
        (4, 2)
    );
    assert_eq!(limits.statement_time_max, Some(Duration::from_secs(1)));
    let answer = owner(json!({"result_rows_max": 9})).await.ok();
    assert_eq!(answer["owner"]["server_connections_max"], 30);
    for values in [
        json!({"statement_ms_max": 0}),
        json!({"statement_ms_max": 2000}),
        json!({"pool_mode": "transaction"}),
    ] {
        owner(values).await.error(403, "limit_not_allowed");
    }
    owner(json!({"statement_ms_max": 100, "server_connections_max": 2, "allowed_addresses": ["10.1.0.0/16", "11.0.0.0/8"]}))
        .await
        .ok();
    let limits = route(&stack, &id).await.limits.clone();
    assert_eq!(limits.statement_time_max, Some(Duration::from_millis(100)));
    assert!(limits.admits("10.1.2.3".parse().unwrap()));
    assert!(!limits.admits("10.2.2.3".parse().unwrap()));
    assert!(!limits.admits("11.1.2.3".parse().unwrap()));
    stack.stop().await;
}

/// Minimums are kept from others, so all together they may not be more than the budget can spare.
#[tokio::test(flavor = "multi_thread")]
async fn minimums_leave_a_part_of_the_budget_to_others() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let [one, two] = ["one", "two"];
    let mut paths = Vec::new();
    for name in [one, two] {
        let id = text(&stack.create(&token, name).await["id"]);
        paths.push(format!("/customer/databases/{id}/limits"));
    }
    let set = async |path: &str, values| {
        let request = stack.request(Method::PATCH, path, OPERATOR).json(&values);
        stack.send(request).await
    };
    let budget = kit::BUDGET;
    let most = budget - (budget / 4).max(1);
    let first = json!({"server_connections_min": most - 2, "server_connections_weight": 3});
    let answer = set(&paths[0], first).await.ok();
    assert_eq!(answer["effective"]["server_connections_weight"], 3);
    let error = set(&paths[1], json!({"server_connections_min": 3})).await;
    let error = error.error(409, "minimums_too_high");
    let words = format!("of {budget} server connections, {most} may be kept");
    assert!(text(&error["message"]).contains(&words), "{error}");
    assert!(
        text(&error["hint"]).contains("ask for 2 at most"),
        "{error}"
    );
    // Two at once cannot have what there is for one.
    set(&paths[0], json!({"server_connections_min": 0}))
        .await
        .ok();
    let wish = json!({"server_connections_min": most});
    let (a, b) = tokio::join!(set(&paths[0], wish.clone()), set(&paths[1], wish));
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses.map(|status| status.as_u16()), [200, 409]);
    // Less of it is never refused, and other limits are not either.
    for path in &paths {
        set(path, json!({"result_rows_max": 7})).await.ok();
        set(path, json!({"server_connections_min": null}))
            .await
            .ok();
    }
    stack.stop().await;
}
