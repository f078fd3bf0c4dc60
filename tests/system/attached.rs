//! A PostgreSQL that somebody else runs: its databases are backed up, restored, dumped and branched by the programs of
//! its version on the machine of `tenantry`.

use std::path::Path;

use kit::{
    Stack, StackConfig,
    postgres::Postgres,
    program::{psql, run},
    server::Server,
};

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
    let count = "SELECT count(*), md5(string_agg(v, '' ORDER BY id)) FROM t";
    let beside = ["db", "sql", "copy", "-q", count, "--json"];
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

    let branch = [
        "branch",
        "create",
        "main",
        "--name",
        "shape",
        "--schema-only",
        "--wait",
        "--json",
    ];
    let branch = stack.cli(&branch).json();
    assert_eq!(branch["branch"]["path"], "stream", "{branch}");
    let report = stack.cli_command(&["doctor", "--deep"]);
    let mut report = report;
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
