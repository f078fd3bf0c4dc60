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

/// Of one database by its limit, of all of them by a setting; whichever is less.
#[test]
fn a_statement_has_the_memory_of_its_database_and_of_the_server() {
    let config = StackConfig::on(Postgres::V18);
    let stack = Stack::start_with(config.arg("--process-memory-max").arg("256MB"));
    let made = stack.create("one");
    let address = made["connection_string"].as_str().unwrap();
    // PostgreSQL holds it twice for a moment.
    let takes = |megabytes: u32| {
        let query = format!("SELECT length(repeat('x', {megabytes} * 1000000))");
        run(psql(address).args(["-v", "VERBOSITY=verbose", "-c", &query]))
    };
    let says = |megabytes: u32, words: &[&str]| {
        wait_for("it is known", Duration::from_secs(20), || {
            let said = takes(megabytes).stderr;
            words.iter().all(|word| said.contains(word)).then_some(said)
        })
    };
    let set = |limit: &str| {
        let limit = format!("memory_bytes_max={limit}");
        stack.cli(&["db", "limits", "set", "one", &limit]).ok();
    };
    takes(90).ok();
    assert!(!says(400, &["53200"]).contains("memory_bytes_max"));
    set("134217728");
    let words = "53200: out of memory: memory_bytes_max is 134217728";
    says(90, &[words, "tenantry db limits"]);
    takes(9).ok();
    // More than the server gives is not to be had.
    set("1000000000");
    wait_for("there is more", Duration::from_secs(20), || {
        (takes(90).code == Some(0)).then_some(())
    });
    assert!(!says(400, &["53200"]).contains("memory_bytes_max"));
}
