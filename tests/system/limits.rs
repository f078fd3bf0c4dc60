//! Limits of a database, set with the program while its clients work.

use std::{process::Stdio, time::Duration};

use kit::{
    Stack, StackConfig,
    postgres::Postgres,
    program::{psql, run, server_psql, wait_for},
};

/// What an owner says holds for a statement that runs already, and goes away again.
#[test]
fn a_limit_holds_for_what_runs_already() {
    let stack = Stack::start_with(StackConfig::on(Postgres::V18));
    let made = stack.create("one");
    let address = made["connection_string"].as_str().unwrap();
    let script = "SET statement_timeout = 0; SELECT pg_sleep(300)";
    let running = psql(address)
        .args(["-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let runs = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let bin = Postgres::V18.bin().join("psql");
    let is_running = |expected: &str| {
        let ran = run(&mut server_psql(&stack, &bin, runs));
        (ran.ok() == expected).then_some(())
    };
    wait_for("it runs", Duration::from_secs(20), || is_running("1"));
    stack
        .cli(&["db", "limits", "set", "one", "statement_ms_max=200"])
        .ok();
    let ended = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("statement_ms_max is 200"), "{said}");
    assert!(said.contains("tenantry db limits"), "{said}");
    wait_for("it is stopped", Duration::from_secs(20), || is_running("0"));

    // One that came later, with what is below the limit beside it; and without the limit again.
    run(psql(address).args(["-c", "SELECT pg_sleep(0.01)"])).ok();
    let ended = run(psql(address).args(["-c", "SELECT pg_sleep(300)"]));
    assert!(ended.failed(1).contains("statement_ms_max is 200"));
    stack
        .cli(&["db", "limits", "set", "one", "statement_ms_max=default"])
        .ok();
    run(psql(address).args(["-c", "SELECT pg_sleep(0.5)"])).ok();
}
