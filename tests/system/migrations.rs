//! Migrations: each once, in order, by one run at a time, and what nobody may go past.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use kit::{
    Stack, StackConfig,
    postgres::Postgres,
    program::{Ran, psql, run, wait_for},
};
use serde_json::{Value, json};

/// For what another process is about to do.
const SOON_MAX: Duration = Duration::from_secs(60);

struct Place {
    stack: Stack,
    address: String,
    dir: PathBuf,
}

impl Place {
    fn on(postgres: Postgres) -> Self {
        let stack = Stack::start_with(StackConfig::on(postgres));
        let address = stack.create_address("app");
        let dir = stack.scratch().join("migrations");
        fs::create_dir(&dir).unwrap();
        Self {
            stack,
            address,
            dir,
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).unwrap();
    }

    fn migration(&self, words: &[&str]) -> Ran {
        let dir = ["--dir", self.dir.to_str().unwrap()];
        self.stack.cli(&[&["migration"], words, &dir].concat())
    }

    /// Names that were applied.
    fn up(&self) -> Value {
        self.migration(&["up", "app", "--json"]).json()["applied"].clone()
    }

    /// What each is, by its first word.
    fn statuses(&self) -> Vec<String> {
        let all = self
            .migration(&["status", "app", "--output", "raw"])
            .ok()
            .to_owned();
        let status = |line: &str| line.split('\t').nth(1).unwrap().to_owned();
        all.lines().map(status).collect()
    }

    /// What the API says is recorded, as the role `read` sees it.
    fn recorded(&self) -> Vec<Value> {
        let id = self.address.split(['/', '.']).nth(2).unwrap();
        let path = format!("/customer/databases/{id}/migrations");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let found = runtime.block_on(async { self.stack.operator().get(&path).await.ok() });
        let names = found["columns"].as_array().unwrap();
        let names: Vec<_> = names.iter().map(|column| column["name"].clone()).collect();
        assert_eq!(
            names,
            ["name", "checksum", "began_at", "applied_at"],
            "{found}"
        );
        found["rows"].as_array().unwrap().clone()
    }

    fn ask(&self, sql: &str) -> String {
        run(psql(&self.address).args(["-q", "-c", sql]))
            .ok()
            .to_owned()
    }
}

fn applies(postgres: Postgres) {
    let place = Place::on(postgres);
    let made = place.migration(&["new", "add users"]);
    let first = PathBuf::from(made.ok());
    let first_name = first.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(first_name.ends_with("_add_users.sql"), "{first_name}");
    // Whatever a file sets is not there for the next one.
    fs::write(
        &first,
        "create table users (n int); set search_path = pg_catalog;",
    )
    .unwrap();
    place.write(
        "20990101000000_more.sql",
        "insert into users values (1);\ncopy users from stdin;\n2\n3\n\\.\n",
    );
    assert_eq!(place.statuses(), ["pending", "pending"]);
    assert!(place.recorded().is_empty(), "nothing was applied yet");
    assert_eq!(place.up(), json!([first_name, "20990101000000_more.sql"]));
    assert_eq!(place.ask("select sum(n) from users"), "6");
    assert_eq!(place.up(), json!([]));
    assert_eq!(place.statuses(), ["applied", "applied"]);
    let sums = "select string_agg(checksum, ',' order by name) from tenantry_migrations.applied";
    let listed = place.migration(&["list", "--json"]).json();
    let sum = |n: usize| listed[n]["checksum"].as_str().unwrap().to_owned();
    assert_eq!(place.ask(sums), format!("{},{}", sum(0), sum(1)));
    let recorded = place.recorded();
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    for (row, file) in recorded.iter().zip(listed.as_array().unwrap()) {
        assert_eq!(
            (&row[0], &row[1]),
            (&file["name"], &file["checksum"]),
            "{row}"
        );
        assert!(row[2].is_string() && row[3].is_string(), "{row}");
    }

    // One that fails leaves nothing, and what was before it stays.
    place.write("20990102000000_good.sql", "create table good (n int);");
    place.write(
        "20990103000000_bad.sql",
        "create table bad (n int);\nselect 1 / 0;",
    );
    let failed = place.migration(&["up", "app", "--json"]);
    let said = failed.failed(9);
    assert!(
        said.contains("20990103000000_bad.sql: line 2: division by zero (22012)"),
        "{said}"
    );
    let applied: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!(applied["applied"], json!(["20990102000000_good.sql"]));
    let tables = "select to_regclass('good') is null, to_regclass('bad') is null";
    assert_eq!(place.ask(tables), "f|t");
    place.write(
        "20990103000000_bad.sql",
        "create table bad (n int); commit; select 1;",
    );
    place.migration(&["up", "app"]).failed(6);
    assert_eq!(place.ask(tables), "f|t");
    place.write("20990103000000_bad.sql", "create table bad (n int);");
    assert_eq!(place.up(), json!(["20990103000000_bad.sql"]));

    // Changed, late, gone.
    place.write("20990102000000_good.sql", "create table good (n bigint);");
    place.write("20990104000000_next.sql", "select 1;");
    let said = place.migration(&["up", "app"]);
    let said = said.failed(5);
    assert!(
        said.contains("20990102000000_good.sql was changed"),
        "{said}"
    );
    place.write("20990102000000_good.sql", "create table good (n int);");
    place.write("20980101000000_late.sql", "create table late (n int);");
    let late = place.migration(&["up", "app"]);
    assert!(late.failed(5).contains("20980101000000_late.sql is older"));
    place.migration(&["up", "app", "--out-of-order"]).ok();
    fs::remove_file(place.dir.join("20990102000000_good.sql")).unwrap();
    let mut all = ["applied"; 6];
    all[3] = "missing";
    assert_eq!(place.statuses(), all);
    assert_eq!(place.up(), json!([]));
    // A writer cannot say that something was applied.
    let writer = place.stack.cli(&[
        "db",
        "reset-password",
        "app",
        "--role",
        "write",
        "--show-secrets",
        "--quiet",
    ]);
    let lie = "insert into tenantry_migrations.applied values ('x', 'y')";
    let lie = run(psql(writer.ok()).args(["-c", lie]));
    assert!(
        lie.failed(1).contains("permission denied for table"),
        "{lie:?}"
    );
    place.write("seed.sql", "select 1;");
    place.migration(&["up", "app"]).failed(6);
}

#[test]
fn each_file_is_applied_once_and_in_order_on_15() {
    applies(Postgres::System);
}

#[test]
fn each_file_is_applied_once_and_in_order_on_18() {
    applies(Postgres::V18);
}

/// The second one waits for the first, and finds everything applied.
#[test]
fn two_runs_at_once_apply_each_file_once() {
    let place = Place::on(Postgres::System);
    place.write(
        "20260101000000_a.sql",
        "create table a (n int); select pg_advisory_xact_lock(5);",
    );
    place.write("20260102000000_b.sql", "create table b (n int);");
    // Until this lets go, whoever is first is in the middle of it.
    let mut gate = psql(&place.address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = gate.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"begin; select pg_advisory_xact_lock(5);\n").unwrap();
    let locks = |sql: &str, count: &str| {
        let sql = format!("select count(*) from pg_locks where locktype = 'advisory' and {sql}");
        wait_for("locks", SOON_MAX, || {
            (place.ask(&sql) == count).then_some(())
        });
    };
    locks("granted", "1");
    let dir = place.dir.to_str().unwrap();
    let runs = [(); 2].map(|()| {
        place
            .stack
            .cli_command(&["migration", "up", "app", "--json", "--dir", dir])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    // One at the gate, and one that waits for that one.
    locks("not granted", "2");
    drop(input);
    gate.wait().unwrap();
    let applied = runs.map(|run| {
        let ran = Ran::from(run.wait_with_output().unwrap()).json();
        ran["applied"].as_array().unwrap().len()
    });
    assert_eq!(applied.iter().sum::<usize>(), 2, "{applied:?}");
    let count = "select count(*) from tenantry_migrations.applied";
    assert_eq!(place.ask(count), "2");
}

#[test]
fn what_breaks_off_outside_of_a_transaction_is_gone_on_with_by_hand() {
    let place = Place::on(Postgres::System);
    let name = "20260101000000_index.sql";
    let head = "-- tenantry: no-transaction\ncreate table if not exists t (n int);\n\
        create index concurrently if not exists i on t (n);\n";
    place.write(name, &format!("{head}select 1 / 0;\n"));
    place.write("20260102000000_next.sql", "create table next (n int);");
    let failed = place.migration(&["up", "app"]);
    let said = failed.failed(9);
    assert!(
        said.contains("line 4: division by zero") && said.contains("--again"),
        "{said}"
    );
    assert!(!said.contains("no transaction in progress"), "{said}");
    assert_eq!(place.ask("select to_regclass('i') is null"), "f");
    assert_eq!(place.statuses(), ["unfinished", "pending"]);
    let refused = place.migration(&["up", "app"]);
    assert!(refused.failed(5).contains("has not ended"), "{refused:?}");

    place.write(name, head);
    place
        .migration(&["up", "app", "--again", "20260102000000_next.sql"])
        .failed(5);
    let as_completed = format!("./migrations/{name}");
    place
        .migration(&["up", "app", "--again", &as_completed])
        .ok();
    assert_eq!(place.statuses(), ["applied", "applied"]);
    // Finished by hand.
    let late = "20260103000000_vacuum.sql";
    place.write(
        late,
        "-- tenantry: no-transaction\nvacuum t;\nselect 1 / 0;",
    );
    place.migration(&["up", "app"]).failed(9);
    place.migration(&["up", "app", "--done", late]).ok();
    assert_eq!(place.statuses(), ["applied"; 3]);
    place.migration(&["up", "app", "--done", late]).failed(5);
}
