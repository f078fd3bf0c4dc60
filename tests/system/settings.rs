//! Settings of `serve`, and what happens when they, or the machine, are wrong.

use std::{
    fs,
    io::Write as _,
    net::{TcpListener, TcpStream},
    time::Duration,
};

use kit::{
    Scratch, Stack, StackConfig,
    program::{Ran, is_running, run, signal, tenantry, wait_for},
};
use rustix::process::Signal;

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
        "--tls-key",
        "/etc/passwd",
        "--pg-bin",
        "/nowhere",
        "--catalog",
        "postgresql://me:hunter2@host?sslmode=perhaps",
    ]);
    let said = ran.failed(2);
    for part in [
        "line 2: there is no setting 'pg_listen'; did you mean 'pg-listen'?",
        "line 3: workers: '0' is not a number from 1",
        "line 4: retention: 'soon' is not a time",
        "line 5: log takes one text in quotes, not this kind (boolean)",
        "line 6: api-listen: is not a loopback address",
        "line 7: there is no setting 'tls'",
        "--tls-cert: cannot read /nowhere.pem",
        "--tls-key: /etc/passwd holds no private key",
        "--pg-bin: /nowhere: no postgres there",
        "--catalog: sslmode is disable, require, verify-ca or verify-full",
        "10 mistakes",
    ] {
        assert!(said.contains(part), "'{part}' is not in\n{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
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
    let networks = serve(&["--check", "--proxy-protocol-from", "10.0.0.5,2001:db8::/48"]);
    assert_eq!(networks.code, Some(0), "{networks:?}");
    serve(&["--check", "--proxy-protocol-from", "balancer"]).failed(2);
    serve(&["--check", "--address-limits-not-for", "10.0.0.5/8"]).failed(2);
    serve(&["--check", "--attach", "postgresql://host"]).failed(2);
    serve(&["--check", "--pg-bin", "/nowhere"]).failed(2);
}

/// With the certificate that the server made for itself, named in each way there is.
#[test]
fn the_api_over_tls_serves_our_command_line_and_others() {
    let mut stack = Stack::start_with(StackConfig::default().arg("--api-tls"));
    assert!(stack.api_url().starts_with("https://127.0.0.1:"));
    let untrusted = stack.cli(&["list"]);
    assert!(
        untrusted.failed(8).contains("TENANTRY_API_CA"),
        "{untrusted:?}"
    );
    let certificate = stack.certificate().display().to_string();
    stack.cli(&["create", "app", "--api-ca", &certificate]).ok();
    for (name, value) in [
        ("TENANTRY_API_CA", certificate.clone()),
        ("TENANTRY_DATA_DIR", stack.data_dir().display().to_string()),
    ] {
        let list = run(stack.cli_command(&["list"]).env(name, value));
        assert!(list.ok().contains("app"), "{name}: {list:?}");
    }
    stack.cli(&["list", "--api-ca", "/nowhere"]).failed(2);
    // Trusted by name, it is the only one: not also those of the system, or of the data directory.
    let other = Stack::start_with(StackConfig::default().arg("--api-tls").arg("true"));
    let others = other.certificate().display().to_string();
    let refused = run(stack
        .cli_command(&["list", "--api-ca", &others])
        .env("TENANTRY_DATA_DIR", stack.data_dir()));
    refused.failed(8);
    let plain = stack.api_url().replace("https://", "http://");
    let plain = run(stack.cli_command(&["list"]).env("TENANTRY_API_URL", plain));
    assert_ne!(plain.code, Some(0), "{plain:?}");

    let script = "import ssl, sys, urllib.request as r\n\
        c = ssl.create_default_context(cafile=sys.argv[2])\n\
        print(r.urlopen(sys.argv[1] + '/healthz', context=c).status)";
    let python = |certificate: &str| {
        let mut command = std::process::Command::new("python3");
        run(command.args(["-c", script, &stack.api_url(), certificate]))
    };
    assert_eq!(python(&certificate).ok(), "200");
    assert!(
        python(&others)
            .failed(1)
            .contains("CERTIFICATE_VERIFY_FAILED")
    );

    // And said in the file.
    let file = stack.scratch().join("tenantry.toml");
    fs::write(&file, "api-tls = true\n").unwrap();
    stack.stop();
    stack.config_mut().arguments = vec!["--config".to_owned(), file.display().to_string()];
    stack.start_again();
    assert!(stack.api_url().starts_with("https://"));
}

#[test]
fn a_slow_end_of_postgresql_is_told() {
    let mut stack = Stack::start();
    let postmaster = stack.postmaster().expect("it runs");
    let checkpointer = kit::postgres::children(postmaster)
        .into_iter()
        .find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("checkpointer"))
        })
        .expect("PostgreSQL has a checkpointer");
    // It writes the last checkpoint. Stopped, it is as slow as a disk can be.
    signal(checkpointer, Signal::STOP);
    stack.terminate();
    wait_for("a word about the wait", Duration::from_secs(20), || {
        stack
            .log()
            .contains("for PostgreSQL, which writes")
            .then_some(())
    });
    signal(checkpointer, Signal::CONT);
    assert!(stack.wait_end(Duration::from_secs(20)).success());
    assert_eq!(stack.postmaster(), None);
}

/// Passes one connection on, as a load balancer does that says for whom: 203.0.113.9, port 40,000.
fn balance(to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
        let header =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x7f\0\0\x01\x9c\x40\x15\x38";
        server.write_all(header).unwrap();
        let (mut back, mut forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
        let _ = std::io::copy(&mut client, &mut server);
    });
    port
}

#[test]
fn the_operator_says_which_load_balancers_are_believed_and_how_many_failures_are_a_ban() {
    let config = StackConfig::default()
        .arg("--proxy-protocol-from=127.0.0.0/8")
        .arg("--address-failures-max=2")
        .arg("--address-ban=5m");
    let stack = Stack::start_with(config);
    let address = stack.create_address("app");
    let (before, behind) = address.rsplit_once(':').unwrap();
    let (port, behind) = behind.split_once('/').unwrap();
    let ask = |password: Option<&str>| {
        let through = balance(port.parse().unwrap());
        let mut psql = kit::program::psql(&format!("{before}:{through}/{behind}"));
        if let Some(password) = password {
            psql.args([
                "--dbname",
                &format!("{before}:{through}/{behind}&password={password}"),
            ]);
        }
        run(psql.args(["-c", "select 'in'"]))
    };
    assert!(ask(None).ok().contains("in"));
    wait_for("the line of the session", Duration::from_secs(20), || {
        stack.log().contains("203.0.113.9:40000").then_some(())
    });
    for _ in 0..2 {
        ask(Some("wrong")).failed(2);
    }
    let banned = ask(None);
    assert!(
        banned.failed(2).contains("retry in 300s") || banned.failed(2).contains("retry in 29"),
        "{banned:?}"
    );
    // Not through it: nobody says who it is.
    let refused = run(kit::program::psql(&address).args(["-c", "select 1"]));
    refused.failed(2);
}

/// One session takes less than the limit that was set and more than the default, another more than
/// both: that one is ended, so the watch has looked, and the first goes on.
#[test]
fn the_limit_on_locks_is_the_operators() {
    let config = StackConfig::default()
        .arg("--connection-locks-max")
        .arg("3000");
    let stack = Stack::start_with(config);
    let address = &stack.create_address("app");
    let take = |count: u32, then: &str| {
        let sql = format!(
            "select count(pg_advisory_lock({count}, i)) from generate_series(1, {count}) i; {then}"
        );
        let mut psql = kit::program::psql(address);
        psql.args(["-c", &sql]).stdin(std::process::Stdio::null());
        psql.stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        psql
    };
    let hog = take(4000, "select pg_sleep(60)").spawn().unwrap();
    let restore = take(2000, "select pg_sleep(5)").spawn().unwrap();
    let ended: Ran = hog.wait_with_output().unwrap().into();
    assert_ne!(ended.code, Some(0), "{ended:?}");
    let restore: Ran = restore.wait_with_output().unwrap().into();
    restore.ok();
    assert_eq!(stack.log().matches("held too many locks").count(), 1);
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
fn all_taken_ports_are_told_before_anything_is_made() {
    let taken = ["127.0.0.1:0"; 2].map(|any| TcpListener::bind(any).unwrap());
    let [pg, api] = taken
        .each_ref()
        .map(|one| one.local_addr().unwrap().to_string());
    let scratch = Scratch::new();
    let data = scratch.path().join("data");
    let ran = serve(&[
        "--data-dir",
        data.to_str().unwrap(),
        "--pg-listen",
        &pg,
        "--api-listen",
        &api,
    ]);
    let said = ran.failed(10);
    for part in [&*pg, &*api, "--pg-listen", "--api-listen"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!data.exists(), "something was made");
}

#[test]
fn a_named_place_without_postgresql_is_a_mistake_of_the_settings() {
    let scratch = Scratch::new();
    let data = scratch.path().join("data");
    let ran = serve(&["--data-dir", data.to_str().unwrap(), "--pg-bin", "/nowhere"]);
    assert_eq!(
        ran.failed(2),
        "error: --pg-bin: /nowhere: no postgres there"
    );
    assert!(!data.exists(), "something was made");
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
        let address = &stack.create_address("app");
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
