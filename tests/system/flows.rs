//! Flows that people try first, each walked from its first command to its last, as its user would.
//!
//! | flow | here | in `sdk/typescript/test/flows.test.ts` | waits |
//! | --- | --- | --- | --- |
//! | F1 CI run | commands | | |
//! | F2 database of a user, F3 of a task | | with the client | |
//! | F4 sweep | commands, API | with the client | |
//! | F5 preview branch | commands, API ([`branches`]) | | |
//! | F6 before a migration | commands ([`branches`]) | | |
//! | F7 connect token | commands, API ([`access`]) | with the client | |
//! | F8 token of an automation | commands ([`access`]) | | |
//! | F9 looking | `EXPLAIN`, by psql and by the API ([`access`]) | | `db inspect` and its views |
//! | F10 anonymous first | commands | | |
//! | F11 export | psql | | |

mod access;
mod branches;

use std::{
    fs::File,
    os::unix::fs::symlink,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use kit::{
    Stack, StackConfig,
    api::Api,
    postgres::Postgres,
    program::{Ran, psql, resident_bytes, run, server_psql, wait_for},
};

/// A line of shell as a user of the stack types it, with `tenantry` on the path, in the stack's directory.
fn shell(stack: &Stack, line: &str) -> Command {
    let template = stack.cli_command(&[]);
    let bin = stack.scratch().join("bin");
    if std::fs::create_dir(&bin).is_ok() {
        symlink(template.get_program(), bin.join("tenantry")).unwrap();
    }
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", line])
        .current_dir(stack.scratch())
        .env_clear();
    for (name, value) in template.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", bin.display()));
    command
}

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

fn sorted(stack: &Stack) -> Vec<String> {
    let mut names = stack.listed();
    names.sort_unstable();
    names
}

/// F10: on a machine without credentials five databases are made, the sixth says what to do, and is made
/// once the project was claimed.
#[test]
fn an_anonymous_project_has_five_databases_and_more_when_it_is_claimed() {
    let stack = Stack::start();
    let create = "for n in 1 2 3 4 5; do tenantry create --quiet; done";
    let ids = run(&mut shell(&stack, create)).ok().to_owned();
    assert_eq!(ids.lines().count(), 5);
    let sixth = stack.cli(&["create", "sixth"]);
    assert!(sixth.failed(7).contains("(quota_exceeded)"), "{sixth:?}");
    let hint = sixth.stderr.lines().find(|line| line.starts_with("hint: "));
    assert!(hint.is_some_and(|hint| hint.contains("claim")), "{sixth:?}");
    assert_eq!(stack.cli(&["list", "--quiet"]).ok().lines().count(), 5);

    let code = "tenantry claim-code create --label ann@example.com --quiet";
    let code = run(shell(&stack, code).env("TENANTRY_API_KEY", stack.operator_key()));
    assert_ne!(stack.cli(&["claim", "wrong"]).code, Some(0));
    stack.cli(&["create", "sixth"]).failed(7);
    stack.cli(&["claim", code.ok()]).ok();
    stack.cli(&["create", "sixth"]).ok();
    stack.cli(&["sql", "sixth", "-q", "select 1"]).ok();
    let all = stack.cli(&["list", "--quiet"]).ok().to_owned();
    assert!(ids.lines().all(|id| all.contains(id)), "{ids}\n{all}");
    assert_eq!(all.lines().count(), 6);
}

/// F4: what has a prefix and was made a day ago goes: by the list and deletes of the API, by a line of shell, and
/// by the one command for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_deletes_what_has_the_prefix_and_the_age() {
    let stack = Stack::start();
    // Claimed, so that there may be more than five.
    stack.cli(&["create", "keep"]).ok();
    let code = "tenantry claim-code create --quiet";
    let code = run(shell(&stack, code).env("TENANTRY_API_KEY", stack.operator_key()));
    stack.cli(&["claim", code.ok()]).ok();
    let old = ["ci-1", "ci-2", "run-1", "run-2", "job-1", "job-2"];
    for name in old.iter().chain(&["ci-new", "run-new", "job-new"]) {
        stack.cli(&["create", name]).ok();
    }
    // As if all this had begun the day before yesterday.
    let names = format!("'keep', '{}'", old.join("', '"));
    let aged = format!(
        "update tenant set created_at = now() - interval '25 hours' where name in ({names})"
    );
    let postgres = Postgres::System.program("psql");
    run(server_psql(&stack, &postgres, &aged).args(["--dbname", "tenantry"])).ok();

    let api = Api::new(
        stack.api_url(),
        Some(stack.cli(&["token", "show"]).ok().to_owned()),
    );
    let day_ago = chrono::Utc::now() - chrono::TimeDelta::days(1);
    let all = api.get("/customer/databases").await.ok();
    for one in all.as_array().unwrap() {
        let created = one["created_at"].as_str().unwrap();
        let created = chrono::DateTime::parse_from_rfc3339(created).unwrap();
        if one["name"].as_str().unwrap().starts_with("job-") && created < day_ago {
            let path = format!("/customer/databases/{}", one["id"].as_str().unwrap());
            api.delete(&path).await.ok();
        }
    }
    assert_eq!(
        sorted(&stack),
        [
            "ci-1", "ci-2", "ci-new", "job-new", "keep", "run-1", "run-2", "run-new"
        ]
    );

    let line = "tenantry list --json \
        | python3 -c 'import json, sys; [print(one[\"id\"]) for one in json.load(sys.stdin) \
              if one[\"name\"].startswith(\"run-\") and one[\"created_at\"] < sys.argv[1]]' \
              \"$(date -u -d '1 day ago' +%Y-%m-%dT%H:%M:%S)\" \
        | xargs -n1 tenantry delete --yes";
    run(&mut shell(&stack, line)).ok();
    assert_eq!(
        sorted(&stack),
        ["ci-1", "ci-2", "ci-new", "job-new", "keep", "run-new"]
    );

    let look = "tenantry delete --prefix ci- --older-than 1d --dry-run --quiet";
    assert_eq!(run(&mut shell(&stack, look)).ok().lines().count(), 2);
    assert_eq!(stack.listed().len(), 6);
    run(&mut shell(
        &stack,
        "tenantry delete --prefix ci- --older-than 1d --yes",
    ))
    .ok();
    assert_eq!(sorted(&stack), ["ci-new", "job-new", "keep", "run-new"]);
}
