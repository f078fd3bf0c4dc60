//! A tenant is held in two processes at once: their clients wait and see no error, those that listen go on to
//! hear everything, and all of it is over by itself when whoever held it was killed.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use kit::{Stack, StackConfig, postgres::Postgres, program::wait_for, server::Server};

const WRITERS: usize = 4;
const WAIT_MAX: Duration = Duration::from_secs(30);

fn config(server: &Server) -> StackConfig {
    StackConfig::default()
        .attached(server.dsn())
        .arg("--server-connections-max")
        .arg("20")
        .arg("--warm-pool")
        .arg("0")
}

/// A psql that is told one thing after the other.
struct Psql {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Psql {
    fn start(address: &str) -> Self {
        let mut child = Command::new(Postgres::System.program("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut psql = Self { child, out };
        assert_eq!(psql.ask("SELECT 'there'"), "there");
        psql
    }

    fn say(&mut self, text: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{text}").unwrap();
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    #[track_caller]
    fn ask(&mut self, sql: &str) -> String {
        self.say(&format!("{sql};"));
        self.line()
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Inserts and notifies, a transaction each, as often as it says; every one must be answered.
fn write(stack: &Stack, address: &str, transactions: usize) -> Child {
    let script = stack.scratch().join("write.sql");
    let sql = "BEGIN; INSERT INTO t DEFAULT VALUES; SELECT pg_notify('news', lastval_of.n::text)
        FROM (SELECT max(n) AS n FROM t) AS lastval_of; COMMIT;\n";
    std::fs::write(&script, sql.replace('\n', " ")).unwrap();
    Command::new(Postgres::System.program("pgbench"))
        .args(["-n", "-c", &WRITERS.to_string(), "-t"])
        .arg((transactions / WRITERS).to_string())
        .args(["-R", "200", "-f"])
        .arg(script)
        .arg(address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// A hold as a row: what a process writes that takes one. Returns its id.
fn take(server: &Server, tenant: &str, seconds: u32) -> String {
    let id = "hld_abcdefghijkl";
    server.sql("tenantry", &format!("DELETE FROM hold WHERE id = '{id}'"));
    let sql = format!(
        "INSERT INTO hold VALUES ('{id}', '{tenant}', 'prc_abcdefghijkl', 'drain',
            now() + interval '10 seconds', now() + interval '{seconds} seconds');
        NOTIFY tenantry_hold"
    );
    server.sql("tenantry", &sql);
    all_say(server, "drain");
    step(server, "close");
    id.to_owned()
}

fn step(server: &Server, step: &str) {
    let sql = format!("UPDATE hold SET step = '{step}'; NOTIFY tenantry_hold");
    server.sql("tenantry", &sql);
    all_say(server, step);
}

fn all_say(server: &Server, step: &str) {
    let sql = format!(
        "SELECT count(*) = (SELECT count(*) FROM process) FROM hold_word
        WHERE step = '{step}' AND kept IS NULL"
    );
    wait_for("all processes say so", WAIT_MAX, || {
        (server.sql("tenantry", &sql) == "t").then_some(())
    });
}

#[test]
fn two_processes_hold_together_and_let_go_when_the_holder_was_killed() {
    let server = Server::start(Postgres::System, &["max_connections=120"]);
    let first = Stack::start_with(config(&server));
    let mut second = Stack::not_started(config(&server));
    second.take_keys_of(&first);
    second.start_again();
    let at_first = first.create_address("held");
    first
        .cli(&["db", "limits", "set", "held", "pool_mode=auto"])
        .ok();
    let at_second = at_first.replace(&first.pg_address(), &second.pg_address());
    let tenant = server.sql("tenantry", "SELECT id FROM tenant WHERE name = 'held'");
    let pid = server.sql("tenantry", "SELECT pid FROM tenant WHERE name = 'held'");
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = 'x_{pid}'");
    let rows = || {
        let count = server.sql(&format!("x_{pid}"), "SELECT count(*) FROM t");
        count.parse::<usize>().unwrap()
    };

    let mut one = Psql::start(&at_first);
    assert_eq!(one.ask("CREATE TABLE t (n serial); SELECT 'made'"), "made");
    let mut other = Psql::start(&at_second);
    for psql in [&mut one, &mut other] {
        psql.say("LISTEN news;");
        assert_eq!(psql.ask("SELECT 'listens'"), "listens");
    }

    // Both processes write. They are held three times, and nobody has an error.
    let writers = [
        write(&first, &at_first, 600),
        write(&second, &at_second, 600),
    ];
    let mut seen = 0;
    for _ in 0..3 {
        wait_for("more is written", WAIT_MAX, || {
            (rows() > seen + 50).then_some(())
        });
        take(&server, &tenant, 60);
        wait_for("nobody is left", WAIT_MAX, || {
            (server.sql("postgres", &sessions) == "0").then_some(())
        });
        seen = rows();
        wait_for("it is looked at again", WAIT_MAX, || {
            (server.sql("postgres", &sessions) == "0").then_some(())
        });
        assert_eq!(rows(), seen, "nothing is written");
        assert!(seen < 1200, "there is more to write");
        step(&server, "return");
        server.sql("tenantry", "DELETE FROM hold; NOTIFY tenantry_hold");
    }
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    assert_eq!(rows(), 1200);
    // Who listens heard each of them, in both.
    for psql in [&mut one, &mut other] {
        assert_eq!(psql.ask("SELECT 'all'"), "all");
        let mut heard = 0;
        while heard < 1200 {
            let line = psql.line();
            assert!(
                line.starts_with("Asynchronous notification \"news\""),
                "{line}"
            );
            heard += 1;
        }
    }

    // The second process holds it, and is killed; so is everything that it had. Nobody lets go.
    let writer = write(&first, &at_first, 200);
    wait_for("more is written", WAIT_MAX, || {
        (rows() > 1230).then_some(())
    });
    take(&server, &tenant, 8);
    let held = rows();
    second.kill();
    assert_eq!(server.sql("postgres", &sessions), "0");
    assert_eq!(rows(), held);
    // By its own clock.
    let mut writer = writer;
    assert!(writer.wait().unwrap().success());
    assert_eq!(rows(), 1400);
    assert_eq!(one.ask("SELECT 'all'"), "all");
    wait_for("the row is removed", WAIT_MAX, || {
        (server.sql("tenantry", "SELECT count(*) FROM hold") == "0").then_some(())
    });
    one.end();
    // Started again, it serves.
    second.start_again();
    let mut again = Psql::start(&at_second);
    assert_eq!(again.ask("SELECT count(*) FROM t"), "1400");
    again.end();
    for stack in [&first, &second] {
        assert_eq!(stack.log_at(&["ERROR"]), Vec::<String>::new());
    }
}
