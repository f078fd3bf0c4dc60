//! Real clients against a running stack, on every PostgreSQL that tests run on.
//!
//! Owns: starting the stack and the drivers, and what each must show. What a driver does is in its
//! own folder, in its own language.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "tokio-postgres/run.rs"]
mod tokio_postgres_driver;

use std::{path::PathBuf, process::Command};

use kit::{
    Stack, StackConfig,
    postgres::Postgres,
    program::{Ran, run},
};

/// Where to connect, as the drivers are told.
struct Address {
    host: String,
    port: String,
    user: String,
    password: String,
    root: PathBuf,
}

fn start(postgres: Postgres) -> (Stack, Address) {
    let stack = Stack::start_with(StackConfig::on(postgres));
    let created = stack
        .cli(&["create", "drivers", "--show-password", "--json"])
        .json();
    let text = |name: &str| created[name].as_str().expect("a string").to_owned();
    let (host, port) = {
        let address = stack.pg_address();
        let (host, port) = address.rsplit_once(':').expect("host:port");
        (host.to_owned(), port.to_owned())
    };
    let address = Address {
        host,
        port,
        user: text("admin_user"),
        password: text("admin_password"),
        root: stack.certificate(),
    };
    (stack, address)
}

/// Where `./dev test` puts what the drivers need.
fn tools() -> PathBuf {
    let dir = std::env::var_os("TENANTRY_TEST_TOOLS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/test-tools")),
        PathBuf::from,
    );
    assert!(
        dir.join("stamp").exists(),
        "the drivers' libraries are not in {}: `./dev test` fetches them",
        dir.display()
    );
    dir
}

/// Runs a driver on every PostgreSQL. It must show everything in `shows`.
fn drive(mut driver: Command, shows: &[&str]) {
    for postgres in Postgres::ALL {
        let (stack, address) = start(postgres);
        driver
            .env("PGHOST_", &address.host)
            .env("PGPORT_", &address.port)
            .env("PGUSER_", &address.user)
            .env("PGPASSWORD_", &address.password)
            .env("ROOT_CERT", &address.root)
            // Whoever runs the tests may have their own.
            .env("HOME", stack.scratch());
        let ran = run(&mut driver);
        check(&ran, shows, postgres);
    }
}

fn check(ran: &Ran, shows: &[&str], postgres: Postgres) {
    println!("{postgres:?}:\n{}", ran.stdout);
    assert_eq!(ran.code, Some(0), "on {postgres:?}: {ran:#?}");
    for name in shows {
        let line = format!("ok {name}");
        assert!(
            ran.stdout.lines().any(|l| l == line),
            "'{line}' is missing on {postgres:?}: {ran:#?}"
        );
    }
}

fn script(program: PathBuf, path: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("drivers")
            .join(path),
    );
    command
}

const BASICS: [&str; 9] = [
    "require",
    "verify-full",
    "types",
    "prepared",
    "transaction",
    "errors",
    "cancel",
    "big-value",
    "wrong-password",
];

fn basics_and(more: &[&'static str]) -> Vec<&'static str> {
    [&BASICS, more].concat()
}

#[test]
fn psql() {
    drive(
        script("bash".into(), "psql/run.sh"),
        &basics_and(&["copy", "plain-refused"]),
    );
}

#[test]
fn psycopg() {
    let shows = basics_and(&[
        "copy",
        "plain-refused",
        "channel-binding",
        "direct-tls",
        "direct-tls-verify-full",
        "protocol-3.2",
        "protocol-3.0",
        "all-at-once",
        "pipeline",
        "notify",
    ]);
    drive(
        script(tools().join("venv/bin/python3"), "psycopg/run.py"),
        &shows,
    );
}

#[test]
fn asyncpg() {
    let shows = basics_and(&["copy", "direct-tls", "notify", "pool"]);
    drive(
        script(tools().join("venv/bin/python3"), "asyncpg/run.py"),
        &shows,
    );
}

#[test]
fn node_postgres() {
    let shows = basics_and(&[
        "copy",
        "plain-refused",
        "channel-binding",
        "direct-tls",
        "pool",
    ]);
    let mut driver = script("node".into(), "node-postgres/run.js");
    driver.env("NODE_MODULES", tools().join("node"));
    drive(driver, &shows);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokio_postgres() {
    for postgres in Postgres::ALL {
        let (_stack, address) = start(postgres);
        tokio_postgres_driver::run(&address).await;
    }
}
