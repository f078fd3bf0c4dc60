//! `/metrics` and the log of sessions, as whoever operates an installation finds them.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use kit::{Stack, StackConfig, api::Api, program::psql, program::run, program::wait_for};
use serde_json::json;

/// Samples by name and labels. Every line is one, or a comment of the format.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in page.lines() {
        if line.starts_with("# HELP tenantry_") || line.starts_with("# TYPE tenantry_") {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("tenantry_"), "{line}");
        let before = samples.insert(name.to_owned(), value.parse().unwrap());
        assert!(before.is_none(), "{name} is there twice");
    }
    samples
}

/// What Prometheus' own checker has to say about a page: nothing. Where it is not installed, samples are
/// all that is looked at.
fn check(page: &str) {
    let promtool = Path::new("/usr/bin/promtool");
    if !promtool.exists() {
        return;
    }
    let mut checker = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = checker.stdin.take().unwrap();
    input.write_all(page.as_bytes()).unwrap();
    drop(input);
    let said = checker.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success() && words.is_empty(), "{words}\n{page}");
}

async fn read(api: &Api) -> BTreeMap<String, f64> {
    let answer = api.get("/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    check(&answer.text);
    samples(&answer.text)
}

/// Numbers of both halves of the process, for the operator, also on the console; a line in the log for
/// each session.
#[tokio::test(flavor = "multi_thread")]
async fn the_operator_reads_numbers_and_sessions() {
    let stack = Stack::start();
    let made = stack.create("one");
    let address = made["connection_string"].as_str().unwrap();
    let id = made["id"].as_str().unwrap();
    let query = "SELECT n FROM generate_series(1, 5) n";
    run(psql(address).args(["-c", query])).ok();
    stack.nobody().get("/metrics").await.code(401);
    let owner = Api::new(
        stack.api_url(),
        Some(stack.cli(&["token", "show"]).ok().to_owned()),
    );
    assert_eq!(owner.get("/metrics").await.code(403), "operator_only");

    let seen = read(&stack.operator()).await;
    assert_eq!(seen["tenantry_catalog_up"], 1.0);
    assert_eq!(seen["tenantry_tenants{state=\"ACTIVE\"}"], 1.0);
    let claims = |result: &str| seen[&format!("tenantry_pool_claims_total{{result=\"{result}\"}}")];
    assert_eq!(claims("found") + claims("missed"), 1.0);
    assert!(seen["tenantry_placement_passes_total{result=\"done\"}"] >= 1.0);
    assert!(seen["tenantry_placement_steps_total{result=\"done\"}"] >= 3.0);
    assert!(seen["tenantry_fleet_figure{figure=\"provisioning\"}"] > 0.0);
    assert_eq!(
        seen["tenantry_fleet_target{figure=\"server_connections\"}"],
        0.7
    );
    assert_eq!(seen["tenantry_logins_total"], 1.0);
    assert_eq!(seen["tenantry_rows_total"], 5.0);
    assert_eq!(seen["tenantry_login_seconds_count"], 1.0);
    assert_eq!(
        seen[&format!("tenantry_tenant_logins_total{{tenant=\"{id}\"}}")],
        0.0,
        "its series begins when it is first looked at"
    );
    assert_eq!(seen["tenantry_tenant_logins_total{tenant=\"other\"}"], 1.0);

    let lines = wait_for("the line of the session", Duration::from_secs(20), || {
        let log = stack.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let of_session: Vec<_> = lines
            .filter(|line| line["tenant"] == id && line["target"] == "proxy::journal")
            .collect();
        (!of_session.is_empty()).then_some(of_session)
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["message"], "session ended");
    assert_eq!(lines[0]["application"], "psql");
    let console = format!(
        "postgresql://operator:{}@{}/tenantry?sslmode=require",
        stack.operator_key(),
        stack.pg_address()
    );
    let shown = run(psql(&console).args(["-c", "SHOW STATS_TOTALS"]));
    assert!(shown.ok().contains(id), "{shown:?}");
    let refused = run(psql(&console.replace("tnt_", "tnx_")).args(["-c", "SHOW POOLS"]));
    assert!(refused.failed(2).contains("password authentication failed"));
    assert_eq!(
        (&lines[0]["rows"], &lines[0]["ended"]),
        (&5.into(), &"left".into())
    );
}

/// What was done for a user beside sessions: a copy, the hold that it took, requests.
#[tokio::test(flavor = "multi_thread")]
async fn branches_holds_and_sql_over_http_are_counted() {
    let stack = Stack::start();
    let made = stack.create("one");
    let path = format!("/customer/databases/{}/sql", made["id"].as_str().unwrap());
    let token = stack.cli(&["token", "show"]).ok().to_owned();
    let owner = Api::new(stack.api_url(), Some(token));
    for sql in [
        "CREATE TABLE t AS SELECT n FROM generate_series(1, 5) n",
        "TABLE t",
        "SELECT nonsense",
    ] {
        owner.post(&path, json!({"query": sql})).await.ok();
    }
    let refused = owner.post(&path, json!({"query": "SELECT 1", "role": "nobody"}));
    refused.await.code(400);
    let path = path.replace("/sql", "/branch");
    owner.post(&path, json!({"name": "copy"})).await.ok();

    let seen = wait_for_page(&stack.operator(), "tenantry_branch_copied_bytes_total").await;
    let counts = |result: &str| {
        seen[&format!("tenantry_sql_http_requests_total{{endpoint=\"api\",result=\"{result}\"}}")]
    };
    assert_eq!(["done", "error", "refused"].map(counts), [2.0, 1.0, 1.0]);
    let of_api = |name: &str| seen[&format!("tenantry_sql_http_{name}{{endpoint=\"api\"}}")];
    assert_eq!(of_api("seconds_count"), 4.0);
    assert_eq!(of_api("rows_total"), 5.0);
    assert_eq!(seen["tenantry_holds_total{how=\"held\"}"], 1.0);
    assert_eq!(seen["tenantry_hold_seconds_count"], 1.0);
    assert!(seen["tenantry_hold_seconds_sum"] > 0.0);
    let family = |name: &str| {
        let all = seen.iter().filter(|(own, _)| own.starts_with(name));
        all.map(|(_, value)| value).sum::<f64>()
    };
    assert_eq!(family("tenantry_branch_copy_seconds_count"), 1.0);
    assert!(family("tenantry_branch_copied_bytes_total") > 1e6);
    assert_eq!(family("tenantry_branch_copies_failed_total"), 0.0);
}

/// The page, once it has a sample of this name.
async fn wait_for_page(api: &Api, name: &str) -> BTreeMap<String, f64> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = read(api).await;
        if seen.keys().any(|own| own.starts_with(name)) {
            return seen;
        }
        assert!(Instant::now() < until, "no {name}");
    }
}

/// For a scraper that cannot hold a secret; and numbers of the proxy do not need the catalog.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_can_be_open_and_are_there_without_the_catalog() {
    let stack = Stack::start_with(StackConfig::default().arg("--metrics-open"));
    let nobody = stack.nobody();
    assert_eq!(read(&nobody).await["tenantry_catalog_up"], 1.0);
    nobody.get("/operator/check").await.code(401);
    stack.kill_postgres();
    // PostgreSQL comes back by itself; meanwhile a page says that it was away, or the whole of it.
    let seen = read(&nobody).await;
    assert!(seen.contains_key("tenantry_catalog_up"));
    assert_eq!(seen["tenantry_clients"], 0.0);
    assert!(seen.contains_key("tenantry_login_seconds_bucket{le=\"+Inf\"}"));
}
