//! The catalog on a PostgreSQL of its own (`--catalog`), and what goes on while that one is away.

use std::{fs, time::Duration};

use kit::{
    Stack, StackConfig,
    postgres::Postgres,
    program::{psql, run, server_psql, signal, wait_for},
};
use rustix::process::Signal;
use serde_json::Value;

/// For PostgreSQL to recover and every row to be where it should be.
const BACK_MAX: Duration = Duration::from_secs(60);

/// Two stacks: the PostgreSQL of the first keeps the records of the second, whose tenants lie elsewhere.
struct Two {
    keeper: Stack,
    server: Stack,
}

impl Two {
    fn start() -> Self {
        let keeper = Stack::start_with(StackConfig::on(Postgres::V18));
        let psql = Postgres::System.program("psql");
        run(&mut server_psql(&keeper, &psql, "create database records")).ok();
        let (socket, user, password) = keeper.server_login();
        let file = keeper.scratch().join("catalog.dsn");
        let dsn = format!("host='{socket}' user={user} password={password} dbname=records");
        fs::write(&file, dsn).unwrap();
        let mut server = Stack::not_started(
            StackConfig::default()
                .arg("--catalog-file")
                .arg(file.display().to_string())
                .arg("--warm-pool")
                .arg("0"),
        );
        let pause = server.scratch().join("pause.at");
        let hook = (
            "TENANTRY_PAUSE_FILE".to_owned(),
            pause.display().to_string(),
        );
        server.config_mut().environment.push(hook);
        server.start_again();
        Self { keeper, server }
    }

    /// kill -9 of the catalog's PostgreSQL, which stays away: who would start it again is stopped.
    fn kill_catalog(&self) {
        signal(self.keeper.pid(), Signal::STOP);
        self.keeper.kill_postgres();
    }

    fn return_catalog(&self) {
        signal(self.keeper.pid(), Signal::CONT);
        wait_for("the catalog's return", BACK_MAX, || {
            (self.readyz() == 200).then_some(())
        });
    }

    fn readyz(&self) -> u16 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(self.server.nobody().get("/readyz")).status
    }

    /// Nothing is on its way, and what is there is what should be.
    fn wait_sound(&self) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let operator = self.server.operator();
        wait_for("a clean check", BACK_MAX, || {
            let report = runtime.block_on(operator.get("/operator/check"));
            (report.body["clean"] == Value::Bool(true)).then_some(())
        });
    }
}

fn row(address: &str, sql: &str) -> String {
    run(psql(address).args(["-c", sql])).ok().to_owned()
}

#[test]
fn a_catalog_on_another_server_may_die_in_the_middle_of_a_create() {
    let mut two = Two::start();
    let known = two.server.create_address("known");
    row(&known, "create table canary as select 5 as n");
    // The records are there, and not beside the tenants.
    let count = "select count(*) from tenant";
    let (socket, user, password) = two.keeper.server_login();
    let records = format!("host='{socket}' user={user} password={password} dbname=records");
    assert_eq!(row(&records, count), "1");

    // A create stands between making its database and writing that down.
    let pause = two.server.scratch().join("pause.at");
    let reached = pause.with_extension("reached");
    fs::write(&pause, "create.database:between").unwrap();
    let mut creating = two.server.cli_command(&["create", "second", "--quiet"]);
    let creating = std::thread::spawn(move || run(&mut creating));
    wait_for("the step", BACK_MAX, || reached.exists().then_some(()));
    two.kill_catalog();
    fs::remove_file(&pause).unwrap();

    // Known tenants go on. Whoever asks is told, the log once.
    for _ in 0..5 {
        assert_eq!(two.readyz(), 503);
    }
    assert_eq!(row(&known, "select n from canary"), "5");
    two.server.cli(&["create", "third"]).failed(8);
    let log = two.server.log();
    let told = |what: &str| log.matches(what).count();
    assert_eq!(told("not ready: the catalog does not answer"), 1);
    assert_eq!(told("ready again"), 0);

    two.return_catalog();
    let _ = creating.join().expect("the command does not panic");
    two.server
        .cli(&["create", "second", "--if-not-exists"])
        .ok();
    two.wait_sound();
    let list = two.server.cli(&["list", "--output", "raw"]);
    let states: Vec<&str> = list
        .ok()
        .lines()
        .filter_map(|line| line.split('\t').nth(2))
        .collect();
    assert_eq!(states, ["ACTIVE", "ACTIVE"], "{list:?}");
    let sql = ["db", "sql", "second", "-q", "select 1", "--output", "raw"];
    assert_eq!(two.server.cli(&sql).ok(), "1");
    assert_eq!(two.server.log().matches("ready again").count(), 1);

    // Both at once, and tenantry, too.
    two.server.kill();
    two.kill_catalog();
    let refused = run(&mut two.server.serve());
    assert!(refused.failed(10).contains("the catalog"), "{refused:?}");
    assert_eq!(two.server.postmaster(), None, "PostgreSQL still runs");
    signal(two.keeper.pid(), Signal::CONT);
    wait_for("its PostgreSQL", BACK_MAX, || two.keeper.postmaster());
    wait_for("its answer", BACK_MAX, || {
        (run(psql(&records).args(["-c", count])).code == Some(0)).then_some(())
    });
    two.server.start_again();
    two.wait_sound();
    assert_eq!(row(&known, "select n from canary"), "5");
    assert!(!two.server.log().contains("panicked"));
}
