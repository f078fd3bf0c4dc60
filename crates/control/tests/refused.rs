//! Who may not come in does not, at any route of the document.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{Answer, OPERATOR, Stack, text};
use reqwest::Method;
use serde_json::{Value, json};

/// Routes that need no token.
const OPEN: &[(&str, &str)] = &[
    ("GET", "/healthz"),                      // a load balancer has no token
    ("GET", "/readyz"),                       // the same
    ("GET", "/openapi.json"),                 // says nothing of anybody
    ("POST", "/customer/anonymous-register"), // how to get the first token
    ("POST", "/customer/anonymous-refresh"),  // proves the anonymous secret in its body
    ("POST", "/sql"),                         // proves a password in a header: tests/neon.rs
];

/// Routes that answer another project's token, each for itself.
const OWN: &[(&str, &str)] = &[
    ("GET", "/customer/me"),
    ("GET", "/projects"),
    ("GET", "/customer/databases"),
    ("POST", "/customer/databases"),
    ("DELETE", "/customer/databases"), // says what is meant, or is refused
];

/// Routes for the operator alone.
const OPERATOR_ONLY: &[(&str, &str)] = &[("GET", "/operator/check"), ("GET", "/metrics")];

/// Routes that a token which may only read may use.
const READABLE: &[(&str, &str)] = &[
    ("GET", "/customer/me"),
    ("GET", "/projects"),
    ("GET", "/customer/databases"),
    ("GET", "/customer/databases/{database}"),
    ("GET", "/customer/databases/{database}/limits"),
    ("GET", "/customer/databases/{database}/branches"),
    ("GET", "/customer/databases/{database}/diff"), // looks at both, changes neither
    ("GET", "/customer/databases/{database}/credentials"), // 410 for all
    ("POST", "/customer/databases/{database}/credentials"), // 410 for all
    ("POST", "/customer/databases/{database}/sql"), // as the role `read`
];

fn routes() -> Vec<(String, String)> {
    let document: Value = serde_json::from_str(&control::openapi_document()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            routes.push((method.to_uppercase(), path.clone()));
        }
    }
    routes
}

fn is_in(list: &[(&str, &str)], method: &str, path: &str) -> bool {
    list.contains(&(method, path))
}

async fn ask(stack: &Stack, method: &str, path: &str, id: &str, token: Option<&str>) -> Answer {
    let url = format!("{}{}", stack.base, path.replace("{database}", id));
    let mut request = stack
        .http
        .request(Method::from_bytes(method.as_bytes()).unwrap(), url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    match method {
        "POST" => request = request.json(&json!({"query": "SELECT 1"})),
        "PUT" | "PATCH" => request = request.json(&json!({"server_connections_max": 1})),
        _ => {}
    }
    stack.send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reaches_what_is_not_theirs() {
    let stack = Stack::start().await;
    let owner = stack.token().await;
    let made = stack.create(&owner, "mine").await;
    let id = text(&made["id"]);
    let other = stack.token().await;
    let expired = stack.token().await;
    let revoked = stack.token().await;
    let reader = stack.token().await;
    let catalog = stack.catalog().await;
    let set = async |token: &str, change: &str| {
        let sql = format!("UPDATE credential SET {change} WHERE token_hash = $1");
        let hash = control::token_hash(token);
        assert_eq!(catalog.execute(&sql, &[&hash.as_slice()]).await.unwrap(), 1);
    };
    set(&expired, "expires_at = now() - interval '1 second'").await;
    set(&revoked, "revoked_at = now()").await;
    set(
        &reader,
        &format!(
            "access = 'read', project_id = '{}'",
            text(&made["project_id"])
        ),
    )
    .await;

    let snapshot = async || {
        let sql = "SELECT (SELECT json_agg(t ORDER BY id)::text FROM tenant t)
                || coalesce((SELECT json_agg(l)::text FROM tenant_limits l), 'none'),
            (SELECT json_agg(json_build_array(id, revoked_at) ORDER BY id)::text FROM credential c)";
        let row = catalog.query_one(sql, &[]).await.unwrap();
        (row.get::<_, String>(0), row.get::<_, String>(1))
    };
    let before = snapshot().await;
    let routes = routes();
    assert!(routes.len() >= 24, "{routes:?}");
    for (method, path) in &routes {
        let (method, path) = (method.as_str(), path.as_str());
        if is_in(OPEN, method, path) {
            continue;
        }
        let ask = async |token| ask(&stack, method, path, &id, token).await;
        ask(None).await.error(401, "invalid_token");
        ask(Some("nonsense")).await.error(401, "invalid_token");
        ask(Some(&expired)).await.error(401, "expired_token");
        ask(Some(&revoked)).await.error(401, "invalid_token");
        if is_in(OPERATOR_ONLY, method, path) {
            ask(Some(&owner)).await.error(403, "operator_only");
        } else if !is_in(READABLE, method, path) {
            ask(Some(&reader)).await.error(403, "read_only_token");
        }
        if !is_in(OWN, method, path) && !is_in(OPERATOR_ONLY, method, path) {
            // The same answer as for one that does not exist, but for the request's id.
            let mut theirs = ask(Some(&other)).await.error(404, "database_not_found");
            let path = path.replace("{database}", "zzzzzzzzzzzz");
            let mut none = self::ask(&stack, method, &path, "", Some(&other))
                .await
                .error(404, "database_not_found");
            for body in [&mut theirs, &mut none] {
                body["request_id"] = Value::Null;
            }
            assert_eq!(theirs, none);
        }
    }
    assert_eq!(
        snapshot().await,
        before,
        "a refused request changes nothing"
    );

    // Each list names routes that there are.
    for (method, path) in [OPEN, OWN, OPERATOR_ONLY, READABLE].concat() {
        assert!(
            routes.contains(&(method.to_owned(), path.to_owned())),
            "{method} {path}"
        );
    }
    // Another project's own lists show nothing of this one.
    let listed = stack.get("/customer/databases?all=true", &other).await.ok();
    assert_eq!(listed, json!([]));
    let theirs = format!(
        "/customer/databases?project_id={}",
        text(&made["project_id"])
    );
    stack.get(&theirs, &other).await.error(400, "invalid_field");
    let into = json!({"project_id": made["project_id"], "name": "planted"});
    stack
        .post("/customer/databases", &other, into.clone())
        .await
        .error(400, "invalid_field");
    // The operator may.
    assert_eq!(
        stack
            .get(&theirs, OPERATOR)
            .await
            .ok()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let planted = stack.post("/customer/databases", OPERATOR, into).await.ok();
    assert_eq!(planted["project_id"], made["project_id"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_can_be_switched_off() {
    let stack = Stack::with(|config| config.anonymous_registration = false).await;
    let url = format!("{}/customer/anonymous-register", stack.base);
    let answer = stack.send(stack.http.post(url)).await;
    answer.error(403, "registration_off");
    stack.stop().await;
}
