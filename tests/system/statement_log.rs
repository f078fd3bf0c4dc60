//! The log of a database's statements, from a client's statement to the command line, and nothing of its constants.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::Duration,
};

use kit::{
    Stack,
    program::{Ran, psql, run, wait_for},
};
use serde_json::Value;

/// For what is written every ten seconds, on a machine that is busy.
const WAIT_MAX: Duration = Duration::from_secs(120);

fn ask(address: &str, sql: &str) -> Ran {
    run(psql(address).args(["-c", sql]))
}

/// Lines, the newest first.
fn logs(stack: &Stack, arguments: &[&str]) -> Vec<Value> {
    let mut command = vec!["db", "logs", "app", "--json"];
    command.extend(arguments);
    stack.cli(&command).json().as_array().unwrap().clone()
}

fn queries(lines: &[Value]) -> Vec<&str> {
    let queries = lines.iter().map(|line| line["query"].as_str().unwrap());
    queries.collect()
}

/// What fails or is slow is there within seconds, and after a restart; what somebody wants all of, is there too.
#[tokio::test(flavor = "multi_thread")]
async fn what_failed_or_was_slow_is_in_the_log() {
    let mut stack = Stack::start();
    let made = stack.create("app");
    let address = made["connection_string"].as_str().unwrap().to_owned();
    let address = &*address;
    stack
        .cli(&["db", "limits", "set", "app", "slow_statement_ms=2s"])
        .ok();
    let mut follow = stack
        .cli_command(&["db", "logs", "app", "--follow", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut followed = BufReader::new(follow.stdout.take().unwrap()).lines();

    assert!(
        ask(address, "SELECT 'canary', 1 / 0")
            .stderr
            .contains("division")
    );
    ask(address, "SELECT 'canary', pg_sleep(2.2)").ok();
    ask(address, "SELECT 'canary'").ok();
    let seen = wait_for("both lines", WAIT_MAX, || {
        Some(logs(&stack, &[])).filter(|lines| lines.len() >= 2)
    });
    assert_eq!(
        queries(&seen),
        ["SELECT $1, pg_sleep($2)", "SELECT $1, $2 / $3"]
    );
    assert_eq!(
        (&seen[0]["type"], &seen[1]["type"]),
        (&"slow".into(), &"error".into())
    );
    assert!(seen[0]["duration_ms"].as_f64().unwrap() >= 2_200.0);
    assert_eq!(seen[1]["sqlstate"], "22012");
    assert_eq!(logs(&stack, &["--type", "error"]), seen[1..]);
    assert_eq!(
        logs(&stack, &["--type", "slow", "--since", "1h"]),
        seen[..1]
    );
    let shown = stack.cli(&["db", "logs", "app"]);
    assert!(shown.ok().contains("SELECT $1, pg_sleep($2)"), "{shown:?}");
    let shown = stack.cli(&["db", "logs", "app", "--stats"]);
    assert!(shown.ok().contains("22012 1"), "{shown:?}");
    stack
        .cli(&["db", "logs", "app", "--since", "yesterday"])
        .failed(6);
    let next: Value = serde_json::from_str(&followed.next().unwrap().unwrap()).unwrap();
    assert_eq!(next, seen[1], "the oldest first");
    let next: Value = serde_json::from_str(&followed.next().unwrap().unwrap()).unwrap();
    assert_eq!(next, seen[0]);
    follow.kill().unwrap();
    follow.wait().unwrap();

    // A process that stops writes what it has.
    stack
        .cli(&["db", "limits", "set", "app", "statement_log=all"])
        .ok();
    let all = wait_for("all of them", WAIT_MAX, || {
        ask(address, "SELECT 'canary', 'kept'").ok();
        Some(logs(&stack, &[])).filter(|lines| lines.len() > 2)
    });
    assert_eq!(all[0]["type"], "statement");
    ask(address, "SELECT 'canary' AS last").ok();
    stack.stop();
    stack.start_again();
    let kept = logs(&stack, &["--limit", "1"]);
    assert_eq!(queries(&kept), ["SELECT $1 AS last"]);
    assert!(!format!("{:?}", logs(&stack, &["--limit", "1000"])).contains("canary"));

    let token = stack.cli(&["token", "show"]).ok().to_owned();
    let api = kit::api::Api::new(stack.api_url(), Some(token));
    let metrics = api.get("/customer/databases/app/metrics").await.ok();
    let queries = &metrics["query_metrics"];
    assert_eq!(
        (&queries["failed_queries"], &queries["slow_queries"]),
        (&1.into(), &1.into())
    );
    assert!(queries["queries_today"].as_u64().unwrap() >= 5, "{metrics}");
    assert!(queries["queries_this_week"].as_u64() >= queries["queries_this_hour"].as_u64());
    assert!(queries["success_rate"].as_f64().unwrap() < 100.0);
    assert!(queries["max_latency_ms"].as_f64().unwrap() >= 2_200.0);
    assert!(
        metrics["database_metrics"]["storage_bytes"]
            .as_u64()
            .unwrap()
            > 1 << 20
    );
}
