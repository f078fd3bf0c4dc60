//! F7 to F9: a connect token, the token of an automation, and looking at a database.
//!
//! Of F9 `db inspect` with its views waits; what can be looked at with is `EXPLAIN`.

use kit::{
    Stack,
    program::{psql, run},
};
use serde_json::{Value, json};

use super::shell;

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name}: {value}"))
}

/// F7: what the command prints is enough to log in by hand, its last line is that; the API has the same in
/// fields, for a program that puts them together by itself.
// Two threads: while a program runs here, the connection to the API is looked after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_token_is_all_that_a_login_needs() {
    let stack = Stack::start();
    let api = stack.anonymous().await;
    let made = api.create("app").await;
    let key = api.token().unwrap().to_owned();
    let as_owner = |line: &str| run(shell(&stack, line).env("TENANTRY_API_KEY", &key));

    let printed = as_owner("tenantry db connect-token app").ok().to_owned();
    let value = |name: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("{name}: {printed}"));
        line.trim_start_matches(':').trim().to_owned()
    };
    let (host, port) = stack
        .pg_address()
        .rsplit_once(':')
        .map(|(h, p)| (h.to_owned(), p.to_owned()))
        .unwrap();
    assert_eq!(
        (value("Host"), value("Port"), value("Database")),
        (host.clone(), port.clone(), "postgres".to_owned())
    );
    assert_eq!(value("User"), text(&made, "admin_user"));
    assert!(!value("Expires at").is_empty() && !value("Token").is_empty());
    let ready_line = value("psql command");
    let asked = as_owner(&format!(
        "{ready_line} -Atc 'CREATE TABLE t (n int)' -c 'SELECT 7'"
    ));
    assert_eq!(asked.ok().lines().last(), Some("7"), "{ready_line}");

    let path = format!("/customer/databases/{}/connect-token", text(&made, "id"));
    let token = api
        .post(&path, json!({ "role": "read", "ttl_seconds": 60 }))
        .await
        .ok();
    let port_number: u64 = port.parse().unwrap();
    assert_eq!(
        (text(&token, "host"), token["port"].as_u64()),
        (&*host, Some(port_number))
    );
    assert!(chrono::DateTime::parse_from_rfc3339(text(&token, "expires_at")).is_ok());
    let by_parts = |query: &str| {
        let parts = format!(
            "host={} port={} dbname={} user={} sslmode=require",
            text(&token, "host"),
            token["port"],
            text(&token, "database"),
            text(&token, "user"),
        );
        run(psql(&parts)
            .args(["-c", query])
            .env("PGPASSWORD", text(&token, "token")))
    };
    assert_eq!(by_parts("select count(*) from t").ok(), "0");
    assert!(
        by_parts("insert into t values (1)")
            .failed(1)
            .contains("permission denied")
    );
}

/// F8: a token for an automation that has nothing else: made, exported, used on another machine, listed, revoked.
#[test]
fn an_automation_works_with_its_token_until_that_is_revoked() {
    let stack = Stack::start();
    stack.cli(&["create", "app"]).ok();
    let token = "tenantry token create --name ci-deploy --expires-in-days 90 --quiet";
    let token = run(&mut shell(&stack, token)).ok().to_owned();
    let elsewhere = |line: &str| {
        let mut command = shell(&stack, line);
        run(command
            .env("TENANTRY_HOME", stack.scratch().join("runner"))
            .env("TENANTRY_API_KEY", &token))
    };
    let line = r#"
        tenantry sql app -q 'CREATE TABLE deploys (at timestamptz DEFAULT now())'
        R=$(tenantry create --name deploy-1 --show-connection-string --json)
        psql "$(python3 -c 'import json, sys; print(json.load(sys.stdin)["connection_string"])' <<<"$R")" -Atc 'SELECT 41 + 1'
        tenantry delete deploy-1 --yes >/dev/null
        tenantry list --output raw | cut -f2"#;
    let ran = elsewhere(line);
    let lines: Vec<_> = ran.ok().lines().rev().take(2).collect();
    assert_eq!(lines, ["app", "42"], "{ran:?}");

    let listed = stack.cli(&["token", "list", "--json"]).json();
    let listed = listed.as_array().unwrap();
    let found = listed
        .iter()
        .find(|one| one["name"] == "ci-deploy")
        .unwrap();
    assert_eq!(
        (text(found, "scope"), &found["token"]),
        ("full", &Value::Null)
    );
    let time = |name: &str| chrono::DateTime::parse_from_rfc3339(text(found, name)).unwrap();
    assert_eq!((time("expires_at") - time("created_at")).num_days(), 90);
    stack.cli(&["token", "revoke", text(found, "id")]).ok();
    let refused = elsewhere("tenantry list");
    assert!(refused.failed(3).contains("invalid_token"), "{refused:?}");
    stack.cli(&["list"]).ok();
}

/// F9: a plan by psql, with what it took, and the same by the API.
#[test]
fn a_plan_is_explained_by_psql_and_by_the_api() {
    let stack = Stack::start();
    let line = r#"
        tenantry create app --quiet >/dev/null
        tenantry db connect app -c 'CREATE TABLE users AS SELECT n AS id, md5(n::text) AS email FROM generate_series(1, 20000) n' \
            -c 'CREATE INDEX ON users (email)' -c 'ANALYZE users' >/dev/null
        tenantry db connect app -c "EXPLAIN (ANALYZE, BUFFERS) SELECT id FROM users WHERE email = 'x'"
        tenantry db sql app -q "EXPLAIN (ANALYZE, FORMAT JSON) SELECT id FROM users WHERE email = 'x'" --json"#;
    let ran = run(&mut shell(&stack, line));
    let (plan, json) = ran.ok().split_once("\n{").unwrap();
    assert!(
        plan.contains("Index") && plan.contains("Execution Time"),
        "{plan}"
    );
    let json: Value = serde_json::from_str(&format!("{{{json}")).unwrap();
    let node = &json["rows"][0][0][0]["Plan"];
    assert!(
        text(node, "Node Type").contains("Scan") && node["Actual Rows"].is_number(),
        "{json}"
    );
}
