//! Settings of `serve`, and what happens when they, or the machine, are wrong.

use std::{fs, net::TcpListener, time::Duration};

use kit::{
    Scratch, Stack, StackConfig,
    program::{Ran, is_running, run, tenantry, wait_for},
};

fn serve(arguments: &[&str]) -> Ran {
    let mut command = std::process::Command::new(tenantry());
    run(command
        .arg("serve")
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin"))
}

#[test]
fn all_mistakes_are_reported_together_and_nothing_is_started() {
    let scratch = Scratch::new();
    let data = scratch.path().join("data");
    let file = scratch.path().join("tenantry.toml");
    let text = format!(
        "data-dir = \"{}\"\npg_listen = \"127.0.0.1:0\"\nworkers = 0\nretention = \"soon\"\nlog = true\n\
         api-listen = \"0.0.0.0:5480\"\n[tls]\ncert = \"x\"\n",
        data.display()
    );
    fs::write(&file, text).unwrap();
    let ran = serve(&[
        "--config",
        file.to_str().unwrap(),
        "--tls-cert",
        "/nowhere.pem",
    ]);
    let said = ran.failed(2);
    for part in [
        "line 2: there is no setting 'pg_listen'; did you mean 'pg-listen'?",
        "line 3: workers: '0' is not a number from 1",
        "line 4: retention: 'soon' is not a time",
        "line 5: log: is neither human nor json",
        "line 6: api-listen: is not a loopback address",
        "line 7: there is no setting 'tls'",
        "--tls-cert: needs tls-key",
        "7 mistakes",
    ] {
        assert!(said.contains(part), "'{part}' is not in\n{said}");
    }
    assert!(!data.exists(), "something was made");
}

#[test]
fn check_says_that_settings_are_right_and_makes_nothing() {
    let scratch = Scratch::new();
    let data = scratch.path().join("data");
    let ran = serve(&["--check", "--data-dir", data.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!data.exists(), "something was made");
    serve(&["--check", "--workers", "none"]).failed(2);
}

#[test]
fn a_second_server_on_the_same_data_is_refused_with_the_reason() {
    let stack = Stack::start();
    let second = run(&mut stack.serve());
    let said = second.failed(10);
    assert!(
        said.contains("in use") && said.contains("--data-dir"),
        "{said}"
    );
    // The first is not bothered.
    stack.cli(&["create", "app"]).ok();
    assert_eq!(stack.log_at(&["ERROR"]), Vec::<String>::new());
}

#[test]
fn a_taken_port_is_named_and_nothing_is_left_running() {
    for (flag, listener) in [("pg-listen", "--pg-listen"), ("api-listen", "--api-listen")] {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let config = StackConfig::default().arg(listener).arg(&address);
        let mut stack = Stack::not_started(config);
        let ran = run(&mut stack.serve());
        let said = ran.failed(10);
        assert!(said.contains(&address) && said.contains(flag), "{said}");
        assert_eq!(stack.postmaster(), None, "PostgreSQL still runs");
        drop(taken);
        stack.config_mut().arguments.clear();
        stack.start_again();
    }
}

#[test]
fn a_missing_postgresql_says_where_it_was_looked_for_and_what_to_install() {
    let scratch = Scratch::new();
    let data = scratch.path().join("data");
    let ran = serve(&[
        "--data-dir",
        data.to_str().unwrap(),
        "--pg-bin",
        "/nowhere",
        "--pg-listen",
        "127.0.0.1:0",
        "--api-listen",
        "127.0.0.1:0",
    ]);
    let said = ran.failed(10);
    for part in [
        "no PostgreSQL 15 to 18",
        "/nowhere",
        "apt install postgresql",
        "--attach",
    ] {
        assert!(said.contains(part), "'{part}' is not in\n{said}");
    }
}

#[test]
fn a_stopped_server_starts_again_with_all_its_data_keys_and_certificate() {
    let mut stack = Stack::start();
    stack.cli(&["create", "app"]).ok();
    stack
        .cli(&["db", "connect", "app", "-c", "create table t as select 1"])
        .ok();
    let certificate = fs::read(stack.certificate()).unwrap();
    let key = stack.operator_key();
    let postmaster = stack.postmaster().expect("it runs");
    stack.stop();
    assert!(!is_running(postmaster));

    stack.start_again();
    stack.cli(&["db", "connect", "app", "-c", "table t"]).ok();
    assert_eq!(fs::read(stack.certificate()).unwrap(), certificate);
    assert_eq!(stack.operator_key(), key);
    assert_eq!(stack.log_at(&["ERROR"]), Vec::<String>::new());
}

/// A session in a transaction may end it; an idle one is told to come again, and ends.
#[test]
fn a_stop_waits_for_running_transactions_and_a_second_signal_does_not() {
    for signals in [1, 2] {
        let mut stack = Stack::start();
        let created = stack
            .cli(&["create", "app", "--show-secrets", "--json"])
            .json();
        let address = created["connection_string"].as_str().unwrap();
        let seconds = if signals == 1 { 3 } else { 60 };
        let sleeper = kit::program::psql(address)
            .args(["-c", &format!("select 'awake' from pg_sleep({seconds})")])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let postgres = kit::postgres::Postgres::System.program("psql");
        let sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        wait_for("the sleeper", Duration::from_secs(30), || {
            let seen = run(&mut kit::program::server_psql(&stack, &postgres, sleeping));
            (seen.ok() == "1").then_some(())
        });
        stack.terminate();
        wait_for(
            "the first signal to be seen",
            Duration::from_secs(10),
            || stack.log().contains("stopping").then_some(()),
        );
        if signals == 2 {
            stack.terminate();
        }
        let status = stack.wait_end(Duration::from_secs(25));
        assert!(status.success(), "{status}");
        let slept: Ran = sleeper.wait_with_output().unwrap().into();
        if signals == 1 {
            assert_eq!(slept.ok(), "awake");
        } else {
            assert_ne!(slept.code, Some(0), "{slept:?}");
        }
        assert_eq!(stack.postmaster(), None);
    }
}
