//! A database as it was at a moment that is past: `tenantry branch create --at`, beside neighbours that serve on.

use std::time::Duration;

use kit::{
    Stack, StackConfig,
    postgres::Postgres,
    program::{psql, run, wait_for},
};

/// The first copy of the node, on a busy machine.
const KEPT_MAX: Duration = Duration::from_secs(120);
/// Written by the server's clock, between what was committed before and after.
const NOW: &str =
    "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

#[track_caller]
fn ask(address: &str, sql: &str) -> String {
    run(psql(address).args(["-q", "-c", sql])).ok().to_owned()
}

fn as_it_was(of: Postgres) {
    let mut config = StackConfig::on(of);
    for argument in ["--point-in-time", "1h", "--warm-pool", "0"] {
        config = config.arg(argument);
    }
    let stack = Stack::start_with(config);
    let main = stack.create_address("main");
    let neighbour = stack.create_address("neighbour");
    let moments = ["backup", "moments", "main", "--json"];
    let oldest = wait_for("a history", KEPT_MAX, || {
        let moments = stack.cli(&moments).json();
        moments["oldest"].as_str().map(str::to_owned)
    });
    // What it takes stands where the operator looks at what everything takes.
    let fleet = |form: &[&str]| {
        let mut fleet = stack.cli_command(&[&["fleet"], form].concat());
        run(fleet.env("TENANTRY_API_KEY", stack.operator_key()))
    };
    let seen = fleet(&["--json"]).json();
    let history = &seen["history"];
    assert_eq!(history["state"], "kept", "{seen}");
    assert!(history["bases"].as_u64() >= Some(1), "{history}");
    assert!(history["base_bytes"].as_u64() > Some(1 << 20), "{history}");
    let page = fleet(&[]);
    assert!(
        page.ok().contains("history: every second since "),
        "{page:?}"
    );
    assert_eq!(ask(&neighbour, "CREATE TABLE n (v int)"), "");
    ask(
        &main,
        "CREATE TABLE log (n int PRIMARY KEY, v text); INSERT INTO log VALUES (1, 'first'), (2, 'second')",
    );
    let moment = ask(&main, NOW);
    ask(&main, "INSERT INTO log VALUES (3, 'too late')");
    ask(&main, "DELETE FROM log WHERE n = 1; ALTER TABLE log DROP v");
    ask(&neighbour, "INSERT INTO n VALUES (1)");

    let create = ["branch", "create", "main", "--at"];
    let branch = |name: &str, at: &str| {
        let rest = [at, "--name", name, "--wait", "--json", "--show-secrets"];
        stack.cli(&[&create[..], &rest].concat())
    };
    let then = branch("then", &moment).json();
    let then = then["connection_string"].as_str().unwrap();
    let all = "SELECT string_agg(n || v, ',' ORDER BY n) FROM log";
    assert_eq!(ask(then, all), "1first,2second");
    ask(then, "INSERT INTO log VALUES (9, 'its own')");
    // The name is taken: nothing is recovered to find that out.
    let made = || {
        stack
            .cli(&["backup", "list", "main", "--quiet"])
            .ok()
            .to_owned()
    };
    let before = made();
    let again = branch("then", &moment);
    assert!(again.failed(5).contains("name_taken"), "{again:?}");
    // That of the first one may be gone by now; no other is there.
    let after = made();
    assert!(
        after.lines().all(|id| before.contains(id)),
        "{before} {after}"
    );
    assert_eq!(
        ask(&main, "SELECT array_agg(n ORDER BY n) FROM log"),
        "{2,3}"
    );
    assert_eq!(ask(&neighbour, "SELECT count(*) FROM n"), "1");

    // What was made only to be restored goes; what cannot be had makes nothing.
    let gone = ["backup", "list", "main", "--json"];
    wait_for("the backup to go", KEPT_MAX, || {
        let left = stack.cli(&gone).json();
        left.as_array().is_some_and(Vec::is_empty).then_some(())
    });
    let before = branch("before", "2001-01-01T00:00:00Z");
    assert_ne!(before.code, Some(0));
    let said = format!("{before:?}");
    assert!(
        said.contains("moment_unknown") && said.contains(&oldest[..10]),
        "{said}"
    );
    let status = stack.cli(&["db", "status", "before", "--json"]);
    assert_ne!(status.code, Some(0), "{status:?}");
}

#[test]
fn a_branch_of_a_moment_is_what_its_database_was_then() {
    as_it_was(Postgres::System);
}

#[test]
fn on_18_a_branch_of_a_moment_is_what_its_database_was_then() {
    as_it_was(Postgres::V18);
}
