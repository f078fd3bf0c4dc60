//! A PostgreSQL that somebody else runs: its databases are backed up, restored, dumped and branched by the programs of
//! its version on the machine of `tenantry`.

use std::{path::Path, process::Stdio, time::Duration};

use kit::{
    Stack, StackConfig,
    postgres::Postgres,
    program::{psql, run, wait_for},
    server::Server,
};

/// A program has begun, or a copy is complete, on a busy machine.
const DONE_MAX: Duration = Duration::from_secs(120);

const FILL: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 5000) g; \
    CREATE TABLE hidden (v text); INSERT INTO hidden VALUES ('seen by nobody'); \
    ALTER TABLE hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY";
const SUM: &str = "SELECT count(*), md5(string_agg(v, '' ORDER BY id)) FROM t";

fn stack_of(server: &Server, programs: Option<&Path>) -> Stack {
    let mut config = StackConfig::default()
        .attached(server.dsn())
        .arg("--server-connections-max")
        .arg("20")
        .arg("--warm-pool")
        .arg("0");
    if let Some(programs) = programs {
        config = config.arg("--pg-bin").arg(programs.to_str().unwrap());
    }
    Stack::start_with(config)
}

#[track_caller]
fn ask(address: &str, sql: &str) -> String {
    run(psql(address).args(["-q", "-c", sql])).ok().to_owned()
}

fn comes_back(of: Postgres, programs: Option<&Path>) {
    let server = Server::start(of, &[]);
    let stack = stack_of(&server, programs);
    let main = stack.create_address("main");
    ask(&main, FILL);
    let before = ask(&main, SUM);

    let backup = stack
        .cli(&["backup", "create", "main", "--wait", "--json"])
        .json();
    let backup = backup["id"].as_str().unwrap();
    ask(&main, "DELETE FROM t WHERE id > 7");
    let restore = ["backup", "restore", backup, "--as", "copy", "--wait"];
    stack.cli(&restore).ok();
    let beside = ["db", "sql", "copy", "-q", SUM, "--json"];
    let beside = stack.cli(&beside).json().to_string();
    for part in before.split('|') {
        assert!(beside.contains(part), "{beside}");
    }
    stack
        .cli(&["backup", "restore", backup, "--wait", "--yes"])
        .ok();
    assert_eq!(ask(&main, SUM), before);

    // What row security hides is dumped by the server of Tenantry.
    let file = stack.scratch().join("main.sql");
    let dump = ["db", "dump", "main", "-o", file.to_str().unwrap()];
    run(stack.cli_command(&dump).env("TENANTRY_PG_BIN", of.bin())).ok();
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .contains("seen by nobody")
    );

    let branch = [&BRANCH[..], &["--wait", "--json"]].concat();
    let branch = stack.cli(&branch).json();
    assert_eq!(branch["branch"]["path"], "stream", "{branch}");
    is_clean(&stack);
}

const BRANCH: [&str; 6] = [
    "branch",
    "create",
    "main",
    "--name",
    "shape",
    "--schema-only",
];

fn is_clean(stack: &Stack) {
    let mut report = stack.cli_command(&["doctor", "--deep"]);
    report
        .env("TENANTRY_API_KEY", stack.operator_key())
        .arg("--data-dir")
        .arg(stack.data_dir());
    assert!(run(&mut report).ok().contains("nothing found"));
}

#[test]
fn databases_of_an_attached_server_come_back_from_backups() {
    comes_back(Postgres::System, None);
}

/// Its programs are where nobody would look.
#[test]
fn on_18_databases_of_an_attached_server_come_back_from_backups() {
    comes_back(Postgres::V18, Some(&Postgres::V18.bin()));
}

/// The server goes on, and so does what the dead process had begun: its programs wait for a lock, with sessions of
/// their own.
#[test]
fn a_branch_of_an_attached_server_is_complete_after_a_kill() {
    let server = Server::start(Postgres::System, &[]);
    let mut stack = stack_of(&server, None);
    let main = stack.create_address("main");
    // Of a table without an index, nothing is locked before pg_dump does it.
    ask(&main, "CREATE TABLE t (v text)");
    let source = ask(&main, "SELECT current_database()");
    let count = |sql: &str| server.sql("postgres", &format!("SELECT count(*) FROM {sql}"));
    let comes_to = |what: &str, sql: &str, wanted: &str| {
        wait_for(what, DONE_MAX, || (count(sql) == wanted).then_some(()));
    };
    let logins = "pg_roles WHERE rolname ~ '^x_[a-z0-9]+_(dump|fill)$'";
    let mut holder = server.psql(&source, "BEGIN; LOCK TABLE t; SELECT pg_sleep(300)");
    let mut holder = holder
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let holds = "pg_stat_activity WHERE query LIKE '%pg_sleep(300)' AND wait_event = 'PgSleep'";
    comes_to("the lock", holds, "1");
    let waits =
        format!("pg_stat_activity WHERE usename = '{source}_dump' AND wait_event_type = 'Lock'");
    stack.cli(&BRANCH).ok();
    comes_to("pg_dump to wait for the lock", &waits, "1");
    stack.kill();
    assert_eq!(count(logins), "2");
    stack.start_again();
    server.sql(
        "postgres",
        &format!("SELECT pg_terminate_backend(pid) FROM {holds}"),
    );
    holder.wait().unwrap();
    let show = ["db", "status", "shape", "--json"];
    wait_for("the branch", DONE_MAX, || {
        (stack.cli(&show).json()["state"] == "ACTIVE").then_some(())
    });
    assert_eq!(count(logins), "0");
    let empty = [
        "db",
        "sql",
        "shape",
        "-q",
        "SELECT count(*) AS n FROM t",
        "--json",
    ];
    assert!(stack.cli(&empty).ok().contains('0'));
    is_clean(&stack);
}

/// What a later pg_dump writes, the server may not understand.
#[test]
fn programs_of_another_version_are_not_used() {
    let server = Server::start(Postgres::System, &[]);
    let stack = stack_of(&server, Some(&Postgres::V18.bin()));
    assert!(
        stack
            .log_at(&["WARN"])
            .concat()
            .contains("nothing can be backed up")
    );
    let main = stack.create_address("main");
    ask(&main, "CREATE TABLE t (id int)");
    let said = run(&mut stack.cli_command(&["backup", "create", "main", "--wait"]));
    assert_ne!(said.code, Some(0));
    let said = format!("{said:?}");
    assert!(
        said.contains("pg_dump and pg_restore of this server's version"),
        "{said}"
    );
    assert_eq!(ask(&main, "SELECT count(*) FROM t"), "0");
}
