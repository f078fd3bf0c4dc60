//! What databases do, as their owners and the operator see it.

use std::{process::Stdio, time::Duration};

use kit::{
    Stack,
    api::Api,
    program::{Ran, psql, run, wait_for},
};
use serde_json::Value;

/// For what another process does, on a machine that is busy.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn ask(address: &str, sql: &str) -> Ran {
    run(psql(address).args(["-c", sql]))
}

fn owner(stack: &Stack) -> Api {
    let token = stack.cli(&["token", "show"]).ok().to_owned();
    Api::new(stack.api_url(), Some(token))
}

async fn seen(api: &Api, id: &str, query: &str) -> Value {
    let path = format!("/customer/databases/{id}/observability{query}");
    api.get(&path).await.ok()
}

/// Figures are those of the clients themselves, of this database only, and outlive the process.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_did_is_seen_in_windows_and_after_a_restart() {
    let mut stack = Stack::start();
    let made = stack.create("app");
    let other = stack.create("other");
    let address = made["connection_string"].as_str().unwrap();
    let other_address = other["connection_string"].as_str().unwrap();
    let (id, other) = (made["id"].as_str().unwrap(), other["id"].as_str().unwrap());
    let api = owner(&stack);
    let nothing = seen(&api, id, "").await;
    assert_eq!(nothing["summary"]["statement_count"], 0);
    assert_eq!(nothing["summary"]["last_activity_at"], Value::Null);
    assert_eq!(nothing["samples"], Value::Array(Vec::new()));

    stack
        .cli(&["db", "limits", "set", "app", "slow_statement_ms=250ms"])
        .ok();
    ask(address, "SELECT n FROM generate_series(1, 5) n").ok();
    for number in 1..=3 {
        ask(address, &format!("SELECT {number}, 'hunter2'")).ok();
    }
    assert!(ask(address, "SELECT 1 / 0").stderr.contains("division"));
    ask(address, "SELECT pg_sleep(0.3)").ok();

    // Columns: statements, transactions, errors, rows, logins.
    let figures = |window: &Value| {
        [
            "statement_count",
            "txn_commit_count",
            "error_count",
            "row_count",
            "login_count",
        ]
        .map(|name| window[name].as_u64().unwrap())
    };
    let now = seen(&api, id, "?order=count").await;
    let windows = now["windows"].as_array().unwrap();
    let lengths = windows.iter().map(|window| &window["window_seconds"]);
    assert!(lengths.eq(&[60, 3_600, 86_400]));
    for window in &windows[1..] {
        assert_eq!(figures(window), [5, 6, 1, 9, 6], "{window}");
        let time = |name: &str| window[name].as_f64().unwrap();
        let (p50, p99) = (time("latency_p50_ms"), time("latency_p99_ms"));
        assert!(p50 <= time("latency_p95_ms") && time("latency_p95_ms") <= p99);
        assert!(p99 > 250.0, "one of six took 300 ms: {window}");
        assert!(time("latency_avg_ms") >= 300.0 / 6.0, "{window}");
        assert!(window["bytes_to_clients"].as_u64().unwrap() > 100);
    }
    let day = &windows[2];
    assert_eq!(day["qps"], 5.0 / 86_400.0, "not rounded");
    let summary = &now["summary"];
    assert!(summary["storage_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(summary["cache_hit_ratio"].as_f64().unwrap() <= 1.0);
    assert!(summary["last_activity_at"].is_string());

    let samples = now["samples"].as_array().unwrap();
    let most = &samples[0];
    assert_eq!(most["query"], "SELECT $1, $2");
    assert_eq!(
        (&most["sample_count"], &most["row_count"]),
        (&3.into(), &3.into())
    );
    assert!(most["last_seen_ms_ago"].is_u64() && most["latency_p99_ms"].is_f64());
    assert!(!now.to_string().contains("hunter2"), "no constant is kept");
    assert_eq!(windows[2]["slow_count"], 1, "{}", windows[2]);
    let slow = seen(&api, id, "?order=p99&samples=1").await;
    assert_eq!(slow["samples"][0]["query"], "SELECT pg_sleep($1)");
    let failed = seen(&api, id, "?order=errors&samples=1").await;
    assert_eq!(failed["samples"][0]["error_count"], 1);
    let path = format!("/customer/databases/{id}/observability");
    api.get(&format!("{path}?order=x")).await.code(400);
    assert_eq!(figures(&seen(&api, other, "").await["windows"][2]), [0; 5]);
    let stranger = stack.anonymous().await;
    stranger.get(&path).await.code(404);

    // The same on the command line.
    let shown = stack.cli(&["db", "inspect", "app", "--window", "24h"]);
    let shown = shown.ok();
    assert!(
        shown.contains("86400 seconds") && shown.contains("Latency (p99)"),
        "{shown}"
    );
    let shown = stack.cli(&["inspect", "app", "slow-queries", "--limit", "1"]);
    assert!(shown.ok().contains("SELECT pg_sleep($1)"), "{shown:?}");
    let shown = stack.cli(&["inspect", "app", "slow-queries", "--json"]);
    let slow = shown.json();
    assert_eq!(slow.as_array().unwrap().len(), 1, "{slow}");
    assert_eq!(slow[0]["slow_count"], 1, "{slow}");
    let shown = stack.cli(&["inspect", "other", "slow-queries"]);
    assert!(shown.ok().contains("no slow statements"), "{shown:?}");
    let shown = stack.cli(&["db", "inspect", "app", "report"]);
    assert!(shown.ok().contains("3600 S") && shown.ok().contains("SELECT $1, $2"));
    // Five statements and six transactions, in an hour and in a day.
    let rates = |name| {
        let line = shown
            .ok()
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        line.unwrap().split_whitespace().skip(2).collect::<Vec<_>>()
    };
    assert_eq!(rates("QPS"), ["5/h", "0.21/h"], "{shown:?}");
    assert_eq!(rates("TPS"), ["6/h", "0.25/h"], "{shown:?}");
    let shown = stack.cli(&["-d", "app", "db", "inspect", "queries", "--json"]);
    assert_eq!(shown.json()[0]["query"], "SELECT pg_sleep($1)");
    stack.cli(&["db", "inspect", "app", "nonsense"]).failed(2);

    explain(&stack, other_address);
    inside(&stack, other_address);
    fleet(&stack);

    stack.stop();
    stack.start_again();
    let after = seen(&api, id, "").await;
    assert_eq!(figures(&after["windows"][2]), [5, 6, 1, 9, 6]);
    assert!(after["windows"][2]["latency_p99_ms"].as_f64().unwrap() > 250.0);
    assert!(after["summary"]["last_activity_at"].is_string());
    ask(address, "SELECT 1").ok();
    let after = seen(&api, id, "").await;
    assert_eq!(
        figures(&after["windows"][2]),
        [6, 7, 1, 10, 7],
        "it goes on"
    );
}

/// The plan of a statement that ran, for any values. Nothing of it is carried out.
fn explain(stack: &Stack, address: &str) {
    ask(
        address,
        "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric)",
    )
    .ok();
    ask(
        address,
        "SELECT name FROM item WHERE id = 17 AND name IN ('a', 'b')",
    )
    .ok();
    ask(address, "INSERT INTO item VALUES (1, 'x', 2)").ok();
    ask(address, "SELECT count(*) FROM item; SELECT pg_sleep(0)").ok();
    let shown = stack
        .cli(&["db", "inspect", "other", "queries", "--json"])
        .json();
    let statements = shown.as_array().unwrap();
    let table = stack.cli(&["db", "inspect", "other", "queries"]);
    let table = table.ok();
    let id = statements[0]["id"].as_str().unwrap();
    assert!(table.starts_with("ID ") && table.contains(id), "{table}");
    let plan = |begin: &str| {
        let found = statements
            .iter()
            .find(|own| own["query"].as_str().unwrap().starts_with(begin));
        let id = found.unwrap_or_else(|| panic!("{begin}: {shown:#}"))["id"]
            .as_str()
            .unwrap();
        stack.cli(&["db", "inspect", "other", "explain", id])
    };
    let read = plan("SELECT name FROM item");
    let read = read.ok();
    assert!(
        read.contains("Index Scan using item_pkey on item"),
        "{read}"
    );
    assert!(read.contains("$1"), "{read}");
    for (begin, why) in [
        ("INSERT INTO item", "permission denied"),
        ("CREATE TABLE item", "no plan"),
        ("SELECT count(*) FROM item;", "multiple commands"),
    ] {
        let refused = format!("{:?}", plan(begin));
        assert!(refused.contains(why), "{begin}: {refused}");
    }
    let nothing = ["db", "inspect", "other", "explain", "0123456789abcdef"];
    assert!(stack.cli(&nothing).failed(4).contains("no such statement"));
    stack.cli(&["db", "inspect", "other", "explain"]).failed(2);
    ask(address, "DROP TABLE item").ok();
}

/// What is in database `other`, and who is there, as a token that may only look sees it.
fn inside(stack: &Stack, address: &str) {
    // Names that a user made mean nothing to questions of ours.
    ask(
        address,
        "CREATE SCHEMA shop; CREATE TABLE shop.large (id int PRIMARY KEY, note text);
         INSERT INTO shop.large SELECT n, repeat('x', 100) FROM generate_series(1, 5000) n;
         CREATE TABLE small (id int); CREATE TABLE public.pg_class (oid int); ANALYZE",
    )
    .ok();
    let made = stack.cli(&["token", "create", "--scope", "other:ro", "--json"]);
    let made = made.json();
    let inspect = |what: &str| {
        let mut command = stack.cli_command(&["db", "inspect", "other", what, "--json"]);
        let shown = run(command.env("TENANTRY_API_KEY", made["token"].as_str().unwrap()));
        let shown = shown.json();
        let columns = shown["columns"].as_array().unwrap().clone();
        let rows = shown["rows"].as_array().unwrap().iter().map(|row| {
            let named = columns.iter().zip(row.as_array().unwrap());
            let named = named.map(|(column, value)| {
                (column["name"].as_str().unwrap().to_owned(), value.clone())
            });
            named.collect::<serde_json::Map<_, _>>()
        });
        rows.collect::<Vec<_>>()
    };
    let schemas = inspect("schemas");
    let names: Vec<_> = schemas
        .iter()
        .map(|row| row["schema"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["public", "shop"]);
    let tables = inspect("tables");
    assert_eq!(
        (&tables[0]["table"], &tables[0]["rows_estimated"]),
        (&"large".into(), &"5000".into())
    );
    assert_eq!(tables.len(), 3);
    let indexes = inspect("indexes");
    assert_eq!(
        (&indexes[0]["index"], &indexes[0]["is_primary"]),
        (&"large_pkey".into(), &true.into())
    );

    let mut holder = psql(address)
        .args(["-c", "BEGIN; LOCK TABLE shop.large; SELECT pg_sleep(300)"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lock = wait_for("its lock", WAIT_MAX, || {
        let locks = inspect("locks").into_iter();
        locks
            .into_iter()
            .find(|row| row["relation"] == "shop.large")
    });
    assert_eq!(lock["mode"], "AccessExclusiveLock");
    let connections = inspect("connections");
    let own = connections.iter().find(|row| row["application"] == "psql");
    let own = own.unwrap_or_else(|| panic!("{connections:?}"));
    assert_eq!(
        (&own["state"], &own["process"]),
        (&"active".into(), &lock["process"])
    );
    assert_eq!(own["address"], "127.0.0.1");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let shown = stack.cli(&["db", "inspect", "other", "tables"]);
    assert!(shown.ok().contains("large"), "{shown:?}");
}

/// The installation as its operator sees it, and nobody else.
fn fleet(stack: &Stack) {
    stack.cli(&["fleet"]).failed(3);
    let operator = |args: &[&str]| {
        let mut command = stack.cli_command(args);
        run(command.env("TENANTRY_API_KEY", stack.operator_key()))
    };
    let seen = operator(&["fleet", "--json"]).json();
    let figure = |name: &str| {
        let figures = seen["figures"].as_array().unwrap();
        figures
            .iter()
            .find(|own| own["name"] == name)
            .unwrap()
            .clone()
    };
    let share = figure("server_connections")["value"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{seen:#}");
    assert!(figure("provisioning")["value"].as_f64().unwrap() > 0.0);
    assert_eq!(figure("backup_age")["value"], Value::Null);
    let shown = operator(&["fleet"]).ok().to_owned();
    for text in [
        "server_connections",
        "70.0 %",
        "no database is backed up by schedule",
        "databases were active",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}
