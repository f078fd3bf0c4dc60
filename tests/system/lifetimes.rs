//! Databases that end by themselves, are renamed, suspended and swept: by the command line, and as a
//! client of PostgreSQL sees it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
    time::Duration,
};

use kit::{
    Stack,
    program::{psql, run, wait_for},
};
use serde_json::Value;

/// For what takes a second at most on a machine that has time.
const SOON: Duration = Duration::from_secs(20);

fn status(stack: &Stack, db: &str) -> Value {
    stack.cli(&["db", "status", db, "--json"]).json()
}

#[test]
fn a_session_hears_that_its_database_has_expired_and_undelete_takes_it_back() {
    let stack = Stack::start();
    let made = stack.cli(&[
        "create",
        "agent",
        "--expires",
        "1h",
        "--show-connection-string",
        "--json",
    ]);
    let made = made.json();
    let id = made["id"].as_str().unwrap();
    let address = made["connection_string"].as_str().unwrap();
    let end = made["expires_at"].as_str().unwrap();
    assert!(stack.cli(&["list"]).ok().contains(end));
    assert_eq!(status(&stack, "agent")["expires_at"], end);
    stack.cli(&["db", "expires", "agent", "soon"]).failed(6);

    let mut session = psql(address)
        .args(["-X", "-At"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = session.stdin.take().unwrap();
    let mut output = BufReader::new(session.stdout.take().unwrap());
    writeln!(
        input,
        "create table kept as select 42 as n; select n from kept;"
    )
    .unwrap();
    let mut lines = String::new();
    while !lines.ends_with("42\n") {
        assert_ne!(output.read_line(&mut lines).unwrap(), 0, "{lines}");
    }
    let set = stack
        .cli(&["db", "expires", "agent", "1s", "--json"])
        .json();
    assert_ne!(set["expires_at"], end);
    wait_for("its end", SOON, || {
        (status(&stack, id)["state"] == "DISABLED").then_some(())
    });
    let shown = status(&stack, id);
    assert_eq!(shown["state_reason"], "its lifetime was over");
    // It has been told by now, and reads it when it asks for the next thing.
    writeln!(input, "select 1;").unwrap();
    drop(input);
    let told = session.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("the database has expired"), "{told}");
    let refused = run(psql(address).args(["-c", "select 1"]));
    assert!(
        refused.stderr.contains("the database has expired"),
        "{refused:?}"
    );

    let back = stack.cli(&["undelete", id, "--json"]).json();
    assert_eq!(
        (&back["state"], &back["expires_at"]),
        (&"ACTIVE".into(), &Value::Null)
    );
    let kept = run(psql(address).args(["-At", "-c", "select n from kept"]));
    assert_eq!(kept.ok(), "42");
    let set = stack
        .cli(&["db", "expires", "agent", "2h", "--json"])
        .json();
    assert!(set["expires_at"].is_string());
    let never = stack
        .cli(&["db", "expires", "agent", "never", "--json"])
        .json();
    assert!(never["expires_at"].is_null());
    assert_eq!(stack.log_at(&["ERROR"]), Vec::<String>::new());
}

#[test]
fn a_renamed_database_keeps_its_address_and_stays_chosen() {
    let stack = Stack::start();
    let address = stack.create_address("old");
    stack.create("other");
    stack.cli(&["use", "old"]).ok();
    let renamed = stack.cli(&["rename", "old", "new", "--json"]).json();
    assert_eq!(renamed["name"], "new");
    assert_eq!(stack.cli(&["db", "status", "--json"]).json()["name"], "new");
    assert_eq!(
        run(psql(&address).args(["-At", "-c", "select 7"])).ok(),
        "7"
    );
    assert_eq!(
        stack
            .cli(&["sql", "new", "-q", "select 7", "--output", "raw"])
            .ok(),
        "7"
    );
    stack.cli(&["rename", "new", "new"]).ok();
    stack.cli(&["rename", "new", "other"]).failed(5);
    stack.cli(&["rename", "old", "older"]).failed(4);
    stack.cli(&["rename", "new", "No"]).failed(6);
}

#[test]
fn a_suspended_database_is_resumed_by_who_may() {
    let stack = Stack::start();
    let address = stack.create_address("a");
    let id = status(&stack, "a")["id"].as_str().unwrap().to_owned();
    let connects = || run(psql(&address).args(["-At", "-c", "select 7"]));
    for _ in 0..2 {
        stack.cli(&["suspend", "a"]).ok();
    }
    assert!(connects().stderr.contains("suspended"));
    for _ in 0..2 {
        stack.cli(&["resume", "a"]).ok();
        assert_eq!(connects().ok(), "7");
    }
    let mut operator = stack.cli_command(&["suspend", &id]);
    run(operator.env("TENANTRY_API_KEY", stack.operator_key())).ok();
    let refused = stack.cli(&["resume", "a"]);
    assert!(
        refused.failed(3).contains("(suspended_by_operator)"),
        "{refused:?}"
    );
    assert!(connects().stderr.contains("suspended"));
    let mut operator = stack.cli_command(&["resume", &id]);
    run(operator.env("TENANTRY_API_KEY", stack.operator_key())).ok();
    assert_eq!(connects().ok(), "7");
}

#[test]
fn a_sweep_shows_asks_and_deletes() {
    let stack = Stack::start();
    for name in ["ci-1", "ci-2", "app"] {
        stack.create(name);
    }
    let sweep = |more: &[&str]| stack.cli(&[&["delete", "--prefix", "ci-"], more].concat());
    let shown = sweep(&["--dry-run", "--json"]).json();
    assert_eq!(shown["databases"].as_array().unwrap().len(), 2, "{shown}");
    assert_eq!(
        sweep(&["--older-than", "1d", "--dry-run", "--quiet"]).ok(),
        ""
    );
    // Nobody is there to be asked.
    assert!(sweep(&[]).failed(2).contains("not confirmed"));
    stack.cli(&["delete", "app", "--prefix", "ci-"]).failed(2);
    stack.cli(&["delete", "app", "--dry-run"]).failed(2);
    sweep(&["--older-than", "old", "--yes"]).failed(6);
    assert_eq!(stack.listed(), ["ci-1", "ci-2", "app"]);
    let gone = sweep(&["--yes"]);
    assert!(
        gone.ok().contains("ci-1") && gone.ok().contains("ci-2"),
        "{gone:?}"
    );
    assert_eq!(stack.listed(), ["app"]);
    stack.cli(&["delete", "--older-than", "0s", "--yes"]).ok();
    assert_eq!(stack.listed(), Vec::<String>::new());
    stack.cli(&["undelete", "ci-2", "--name", "kept"]).ok();
    assert_eq!(stack.listed(), ["kept"]);
}

/// As the page says: curl, and psql on what it answers.
#[test]
fn a_database_in_one_call() {
    let stack = Stack::start();
    let url = format!("{}/customer/databases?expires=1h", stack.api_url());
    let made = run(std::process::Command::new("curl").args(["-sSX", "POST", &url])).json();
    let address = made["connection_string"].as_str().unwrap();
    assert_eq!(run(psql(address).args(["-At", "-c", "select 7"])).ok(), "7");
    let token = made["anonymous"]["token"].as_str().unwrap();
    let mut list = stack.cli_command(&["list", "--quiet"]);
    assert_eq!(
        run(list.env("TENANTRY_API_KEY", token)).ok(),
        made["id"].as_str().unwrap()
    );
}
