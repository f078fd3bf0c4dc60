//! Two processes on one catalog and one PostgreSQL: together they never hold more server connections than
//! the node's budget, also when one of them is killed.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kit::{
    Stack, StackConfig,
    postgres::Postgres,
    program::{psql, run, wait_for},
    server::Server,
};

const BUDGET: i64 = 10;
const DATABASES: usize = 5;
/// Lease, absence and some rounds.
const TAKEN_OVER_MAX: Duration = Duration::from_secs(60);

/// Server connections of tenants, and what processes have of the budget.
const SEEN: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND usename LIKE 'x\\_%'";
const LEASED: &str = "SELECT coalesce(sum(held), 0) FROM budget_lease";

fn number(server: &Server, database: &str, sql: &str) -> i64 {
    server.sql(database, sql).parse().unwrap()
}

fn config(server: &Server) -> StackConfig {
    StackConfig::default()
        .attached(server.dsn())
        .arg("--server-connections-max")
        .arg(BUDGET.to_string())
        .arg("--warm-pool")
        .arg("0")
}

/// Clients that run short transactions on a database, more of them than it gets server connections.
struct Load {
    pgbench: Child,
    log: PathBuf,
}

impl Load {
    fn start(stack: &Stack, address: &str, seconds: u32) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let script = stack.scratch().join(format!("short-{number}.sql"));
        fs::write(&script, "SELECT pg_sleep(0.02);\n").unwrap();
        let log = stack.scratch().join(format!("pgbench-{number}"));
        let out = fs::File::create(&log).unwrap();
        let pgbench = Command::new(Postgres::System.program("pgbench"))
            .args(["-n", "-c", "6", "-T", &seconds.to_string(), "-f"])
            .arg(script)
            .arg(address)
            .env("PGCONNECT_TIMEOUT", "20")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Self { pgbench, log }
    }

    /// Every transaction was answered.
    #[track_caller]
    fn finish(mut self) {
        let status = self.pgbench.wait().unwrap();
        let said = fs::read_to_string(&self.log).unwrap();
        assert!(status.success(), "{said}");
        assert!(said.contains("number of failed transactions: 0"), "{said}");
    }

    /// Its server was killed.
    fn give_up(mut self) {
        let _ = self.pgbench.kill();
        let _ = self.pgbench.wait();
    }
}

/// Looks again and again at what the server and the catalog see, until it is told to stop; returns the most
/// of both.
fn watch(server: &Arc<Server>, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<(i64, i64)> {
    let (server, stop) = (server.clone(), stop.clone());
    std::thread::spawn(move || {
        let mut most = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            most.0 = most.0.max(number(&server, "postgres", SEEN));
            most.1 = most.1.max(number(&server, "tenantry", LEASED));
        }
        most
    })
}

#[test]
fn two_processes_share_the_budget_and_one_that_is_killed_gives_it_back() {
    let settings = ["max_connections=120", "client_connection_check_interval=5s"];
    let server = Arc::new(Server::start(Postgres::System, &settings));
    let mut first = Stack::start_with(config(&server));
    let mut second = Stack::not_started(config(&server));
    second.take_keys_of(&first);
    second.start_again();

    let at_first: Vec<String> = (0..DATABASES)
        .map(|number| {
            let name = format!("db{number}");
            let address = first.create_address(&name);
            let limits = ["db", "limits", "set", &name, "pool_mode=auto"];
            first.cli(&limits).ok();
            address
        })
        .collect();
    let (one, other) = (first.pg_address(), second.pg_address());
    let at_second: Vec<String> = at_first
        .iter()
        .map(|address| address.replace(&one, &other))
        .collect();
    assert_ne!(at_first, at_second);
    assert_eq!(run(psql(&at_second[0]).args(["-c", "SELECT 1"])).ok(), "1");

    let stop = Arc::new(AtomicBool::new(false));
    let watching = watch(&server, &stop);
    let load = |stack: &Stack, addresses: &[String], seconds| {
        let each = addresses.iter();
        each.map(|address| Load::start(stack, address, seconds))
            .collect::<Vec<_>>()
    };
    // One after the other wants all there is, then both do.
    load(&first, &at_first, 3)
        .into_iter()
        .for_each(Load::finish);
    load(&second, &at_second, 3)
        .into_iter()
        .for_each(Load::finish);
    let loads = [load(&first, &at_first, 5), load(&second, &at_second, 5)];
    loads.into_iter().flatten().for_each(Load::finish);

    // One is killed while both want more. The other one goes on, and has all of it in the end.
    let lost = load(&first, &at_first, 60);
    let kept = load(&second, &at_second, 24);
    let shared = "SELECT count(*) FROM budget_lease WHERE held >= 4";
    wait_for("both have a part", TAKEN_OVER_MAX, || {
        (number(&server, "tenantry", shared) == 2).then_some(())
    });
    first.kill();
    lost.into_iter().for_each(Load::give_up);
    let alone = "SELECT count(*) = 1 AND max(held) = 10 FROM budget_lease";
    wait_for("the other one has all", TAKEN_OVER_MAX, || {
        (server.sql("tenantry", alone) == "t").then_some(())
    });
    kept.into_iter().for_each(Load::finish);

    first.start_again();
    let loads = [load(&first, &at_first, 3), load(&second, &at_second, 3)];
    loads.into_iter().flatten().for_each(Load::finish);
    stop.store(true, Ordering::Relaxed);
    let (seen, leased) = watching.join().unwrap();
    assert!(seen <= BUDGET, "{seen} server connections at once");
    // All of it was used, or the above says nothing.
    assert!(seen >= BUDGET - 1, "no more than {seen} at once");
    assert_eq!(leased, BUDGET);

    // Who stops gives back what it had, at once.
    first.terminate();
    assert!(first.wait_end(TAKEN_OVER_MAX).success());
    assert_eq!(
        number(&server, "tenantry", "SELECT count(*) FROM process"),
        1
    );
    second.terminate();
    assert!(second.wait_end(TAKEN_OVER_MAX).success());
    assert_eq!(
        number(&server, "tenantry", "SELECT count(*) FROM process"),
        0
    );
    for stack in [&first, &second] {
        assert_eq!(stack.log_at(&["ERROR"]), Vec::<String>::new());
    }
}
