//! Flows that people try first.

use std::{
    fs::File,
    io::Write as _,
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use kit::{
    Stack, StackConfig,
    postgres::Postgres,
    program::{Ran, psql, resident_bytes, run, server_psql, wait_for},
};

/// F1: a CI run makes a database, takes its address out of the JSON, uses it and deletes it.
#[test]
fn a_ci_run_creates_uses_and_deletes_a_database() {
    for postgres in Postgres::ALL {
        let stack = Stack::start_with(StackConfig::on(postgres));
        let create = |name: &str| {
            stack.cli(&[
                "create",
                "--name",
                name,
                "--show-connection-string",
                "--json",
            ])
        };

        // Two at once, on a machine without credentials: one project is registered, not two.
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| create("ci-1"));
            let second = scope.spawn(|| create("ci-2"));
            (first.join().unwrap(), second.join().unwrap())
        });
        let projects: Vec<_> = [&first, &second]
            .map(|ran| ran.json()["project_id"].clone())
            .into();
        assert_eq!(projects[0], projects[1]);
        let registered = |ran: &Ran| ran.stderr.contains("registered the anonymous");
        assert_eq!(
            u8::from(registered(&first)) + u8::from(registered(&second)),
            1
        );

        let created = first.json();
        let id = created["id"].as_str().unwrap();
        assert_eq!(id.len(), 12);
        assert_eq!(created["state"], "ACTIVE");
        assert!(
            created.get("admin_password").is_none(),
            "it was not asked for"
        );
        let address = created["connection_string"].as_str().unwrap();
        assert!(address.ends_with("sslmode=require"), "{address}");
        let answer =
            run(psql(address).args(["-c", "create table t as select 7 as n", "-c", "table t"]));
        assert_eq!(answer.ok().lines().last(), Some("7"));

        let again = create("ci-1");
        assert!(again.failed(5).contains("(name_taken)"), "{again:?}");
        let existing = stack
            .cli(&[
                "create",
                "ci-1",
                "--if-not-exists",
                "--show-connection-string",
                "--json",
            ])
            .json();
        assert_eq!(existing["id"], id);
        // The server no longer knows the password; the command line kept it.
        assert_eq!(existing["connection_string"], address);

        stack.cli(&["delete", id, "--yes"]).ok();
        stack.cli(&["delete", "ci-2", "--yes"]).ok();
        assert_eq!(
            stack
                .cli(&["list", "--json"])
                .json()
                .as_array()
                .unwrap()
                .len(),
            0
        );
        let refused = run(psql(address).args(["-c", "select 1"]));
        assert_eq!(refused.code, Some(2), "{refused:?}");
        let gone = stack.cli(&["db", "status", id, "--json"]).json();
        assert!(
            ["DISABLING", "DISABLED"].contains(&gone["state"].as_str().unwrap()),
            "{gone}"
        );
        // The name is free at once.
        let anew = create("ci-1").json();
        assert_ne!(anew["id"], id);
        assert_eq!(stack.log_at(&["ERROR"]), Vec::<String>::new());
    }
}

/// Rows of F11.
const ROWS: u64 = 1_000_000;
/// Memory that a million rows (90 MB) may cost the proxy. Buffers are per socket, and few.
const GROWTH_MAX: u64 = 24 << 20;

/// F11: a million rows go out and in through the endpoint, and the proxy's memory stays flat.
#[test]
fn a_million_rows_are_copied_both_ways_in_flat_memory() {
    let stack = Stack::start();
    let address = &stack.create_address("big");
    let fill = format!(
        "create table big as select n, md5(n::text) || md5((n+1)::text) as v from generate_series(1, {ROWS}) n"
    );
    run(psql(address).args(["-q", "-c", &fill])).ok();
    // Everything that is made once is there before the measurement begins.
    run(psql(address).args(["-c", "copy (select 1) to stdout"])).ok();

    let file = stack.scratch().join("big.copy");
    let before = resident_bytes(stack.pid());
    let (_, peak_out) = with_peak(stack.pid(), || {
        let out = File::create(&file).unwrap();
        let status = psql(address)
            .args(["-c", "copy big to stdout"])
            .stdin(Stdio::null())
            .stdout(out)
            .status()
            .unwrap();
        assert!(status.success());
    });
    let size = std::fs::metadata(&file).unwrap().len();
    assert!(size > 70 * ROWS, "{size} bytes came out");

    let (copied, peak_in) = with_peak(stack.pid(), || {
        psql(address)
            .args([
                "-q",
                "-c",
                "create table back (like big)",
                "-c",
                "copy back from stdin",
            ])
            .stdin(File::open(&file).unwrap())
            .status()
            .unwrap()
    });
    assert!(copied.success());
    let same = "select count(*), (select count(*) from big natural join back) from back";
    assert_eq!(
        run(psql(address).args(["-c", same])).ok(),
        format!("{ROWS}|{ROWS}")
    );

    for (way, peak) in [("out", peak_out), ("in", peak_in)] {
        let growth = peak.saturating_sub(before);
        println!("{way}: {size} bytes through, memory grew by {growth} bytes");
        assert!(growth < GROWTH_MAX, "{way}: memory grew by {growth} bytes");
    }
}

/// Runs `work` and tells the largest resident memory of a process meanwhile.
fn with_peak<T>(pid: u32, work: impl FnOnce() -> T) -> (T, u64) {
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(resident_bytes(pid), Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, peak.load(Ordering::Relaxed))
    })
}

/// A reader that stops reading does not make the proxy collect what it cannot pass on.
#[test]
fn a_client_that_stops_reading_costs_no_memory() {
    let stack = Stack::start();
    let address = &stack.create_address("slow");
    let before = resident_bytes(stack.pid());
    let mut reader = psql(address)
        .args([
            "-c",
            "copy (select repeat('x', 1000) from generate_series(1, 10000000)) to stdout",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Nobody reads the pipe: psql stops, then the proxy must, then PostgreSQL.
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'ClientWrite'";
    let postgres = Postgres::System.program("psql");
    wait_for(
        "PostgreSQL to wait for its client",
        Duration::from_secs(60),
        || {
            let seen = run(&mut server_psql(&stack, &postgres, waiting));
            (seen.ok() == "1").then_some(())
        },
    );
    let growth = resident_bytes(stack.pid()).saturating_sub(before);
    assert!(growth < GROWTH_MAX, "memory grew by {growth} bytes");
    reader.kill().unwrap();
    reader.wait().unwrap();
    stack.cli(&["db", "sql", "slow", "-q", "select 1"]).ok();
}

/// F10: the first five databases of an anonymous project are made, the sixth says what to do.
#[test]
fn an_anonymous_project_has_five_databases() {
    let stack = Stack::start();
    for _ in 0..5 {
        stack.cli(&["create", "--quiet"]).ok();
    }
    let sixth = stack.cli(&["create"]);
    assert!(sixth.failed(7).contains("(quota_exceeded)"), "{sixth:?}");
    assert!(sixth.stderr.contains("hint: "), "{sixth:?}");
    assert_eq!(stack.cli(&["list", "--quiet"]).ok().lines().count(), 5);
}

/// F4: all databases whose name begins with a prefix are deleted by one line of shell.
#[test]
fn a_sweep_deletes_what_a_filter_names() {
    let stack = Stack::start();
    for name in ["ci-1", "ci-2", "keep"] {
        stack.cli(&["create", name]).ok();
    }
    let mut sweep = std::process::Command::new("sh");
    let line =
        "\"$T\" list --output raw | awk '$2 ~ /^ci-/ {print $1}' | xargs -n1 \"$T\" delete --yes";
    let template = stack.cli_command(&[]);
    sweep
        .args(["-c", line])
        .env_clear()
        .env("T", template.get_program());
    for (name, value) in template.get_envs() {
        if let Some(value) = value {
            sweep.env(name, value);
        }
    }
    run(&mut sweep).ok();
    assert_eq!(stack.listed(), ["keep"]);
}

/// F5 in the part that is there: a migration from a file, checked with one command.
#[test]
fn a_migration_is_applied_from_standard_input() {
    let stack = Stack::start();
    stack.cli(&["create", "app"]).ok();
    let migration = "create table users (id int primary key);\ninsert into users select generate_series(1, 3);\n";
    stack
        .cli_with_input(&["db", "connect", "app"], migration)
        .ok();
    let count = stack.cli(&["db", "connect", "app", "-c", "select count(*) from users"]);
    assert!(count.ok().contains("     3"), "{count:?}");

    // The first error ends it, with the code for SQL; what follows is not run.
    let broken = "insert into nowhere values (1);\ndrop table users;\n";
    let ran = stack.cli_with_input(&["db", "connect", "app"], broken);
    assert!(ran.failed(9).contains("nowhere"), "{ran:?}");
    stack
        .cli(&["db", "sql", "app", "-q", "select from users"])
        .ok();

    let path = stack.scratch().join("more.sql");
    File::create(&path)
        .unwrap()
        .write_all(b"insert into users values (4)")
        .unwrap();
    stack
        .cli(&["db", "connect", "app", "-f", path.to_str().unwrap()])
        .ok();
    stack
        .cli(&["db", "sql", "app", "-f", path.to_str().unwrap()])
        .failed(9);
    assert_eq!(
        stack
            .cli(&[
                "db",
                "sql",
                "app",
                "-q",
                "select count(*) from users",
                "--output",
                "raw"
            ])
            .ok(),
        "4"
    );
}
