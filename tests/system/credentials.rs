//! What opens a database and the API, on the real program: two processes on one catalog, real logins,
//! real sessions.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use kit::{
    Stack, StackConfig,
    program::{Ran, psql, run, wait_for},
};
use serde_json::Value;

/// For a change to be heard of, and for what was used to be written down.
pub(super) const HEARD_MAX: Duration = Duration::from_secs(30);

/// Another process with the same catalog, the same PostgreSQL and the same keys.
fn beside(first: &Stack) -> Stack {
    let (socket, user, password) = first.server_login();
    let config = StackConfig::default()
        .attached(format!(
            "host='{socket}' user={user} password={password} dbname=postgres"
        ))
        .arg("--warm-pool")
        .arg("0")
        .arg("--server-connections-max")
        .arg("4");
    let mut second = Stack::not_started(config);
    fs::create_dir_all(second.data_dir()).unwrap();
    for key in ["installation.key", "node.key", "operator.key"] {
        let text = fs::read(first.data_dir().join(key)).unwrap();
        let mut options = fs::File::options();
        let file = options.create_new(true).write(true).mode(0o600);
        let mut file = file.open(second.data_dir().join(key)).unwrap();
        file.write_all(&text).unwrap();
    }
    second.start_again();
    second
}

/// The same login at another process.
fn at(stack: &Stack, address: &str) -> String {
    let (before, rest) = address.rsplit_once('@').unwrap();
    let (_, path) = rest.split_once('/').unwrap();
    format!("{before}@{}/{path}", stack.pg_address())
}

pub(super) fn with_password(address: &str, user: &str, password: &str) -> String {
    let (_, rest) = address.rsplit_once('@').unwrap();
    format!("postgresql://{user}:{password}@{rest}")
}

pub(super) fn try_login(address: &str) -> Ran {
    run(psql(address).args(["-c", "select 'in'"]))
}

#[track_caller]
pub(super) fn is_in(address: &str) {
    assert_eq!(try_login(address).ok(), "in");
}

pub(super) fn wait_refused(address: &str) {
    wait_for("the login is refused", HEARD_MAX, || {
        let ran = try_login(address);
        let why = "password authentication failed";
        (ran.code != Some(0)).then(|| assert!(ran.stderr.contains(why), "{ran:?}"))
    });
}

/// A session that stays open.
pub(super) struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    pub(super) fn open(address: &str) -> Self {
        let mut command = psql(address);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut session = Self {
            child,
            input,
            output,
        };
        assert_eq!(session.ask(), Some("here".to_owned()));
        session
    }

    /// `None`: it has ended.
    pub(super) fn ask(&mut self) -> Option<String> {
        self.input.write_all(b"select 'here';\n").ok()?;
        let mut line = String::new();
        let size = self.output.read_line(&mut line).ok()?;
        (size > 0).then(|| line.trim().to_owned())
    }

    pub(super) fn wait_ended(mut self) {
        wait_for("the session ends", HEARD_MAX, || {
            self.ask().is_none().then_some(())
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn field(value: &Value, name: &str) -> String {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name}: {value}"))
        .to_owned()
}

/// Made at one process, a secret is good at the other at once, whatever that one knew before; revoked or
/// expired, it is refused at both. Sessions of connect tokens stay, those of passwords and shares end.
#[test]
fn secrets_hold_at_every_process_of_a_catalog() {
    let first = Stack::start();
    let second = beside(&first);
    let address = first.create_address("app");
    let made = first.create("other");
    // Both know the routes of the database from now on.
    for stack in [&first, &second] {
        for role in ["admin", "read"] {
            let user = format!(
                "{}.{role}",
                field(&first.cli(&["db", "status", "app", "--json"]).json(), "id")
            );
            let wrong = with_password(&at(stack, &address), &user, "wrong");
            assert!(
                try_login(&wrong)
                    .failed(2)
                    .contains("password authentication failed")
            );
        }
        is_in(&at(stack, &address));
    }
    let token = |more: &[&str]| {
        let arguments = [&["db", "connect-token", "app", "--json"], more].concat();
        first.cli(&arguments).json()
    };

    // Connect tokens.
    let long = token(&["--role", "read", "--ttl", "5m"]);
    let long_address = field(&long, "connection_string");
    is_in(&at(&second, &long_address));
    is_in(&at(&first, &long_address));
    let write = run(psql(&at(&second, &long_address)).args(["-c", "create table t (x int)"]));
    assert!(write.stderr.contains("permission denied"), "{write:?}");
    let elsewhere = with_password(
        &at(&second, &long_address),
        &field(&made, "admin_user"),
        &field(&long, "token"),
    );
    assert!(
        try_login(&elsewhere)
            .failed(2)
            .contains("password authentication failed")
    );
    let short = token(&["--role", "read", "--ttl", "4s"]);
    let short_address = field(&short, "connection_string");
    let mut kept: Vec<Session> = [&first, &second]
        .into_iter()
        .flat_map(|stack| {
            [
                Session::open(&at(stack, &long_address)),
                Session::open(&at(stack, &short_address)),
            ]
        })
        .collect();
    first
        .cli(&["db", "access", "revoke", "app", &field(&long, "id")])
        .ok();
    for stack in [&first, &second] {
        wait_refused(&at(stack, &long_address));
        wait_refused(&at(stack, &short_address));
    }
    // Something else changes, so that every session is looked at again.
    first
        .cli(&["db", "limits", "set", "app", "statement_ms_max=60s"])
        .ok();
    wait_for("the list has no expired or revoked one", HEARD_MAX, || {
        let listed = first.cli(&["db", "access", "list", "app", "--json"]).json();
        (listed.as_array().unwrap().len() == 1).then_some(())
    });
    for session in &mut kept {
        assert_eq!(session.ask(), Some("here".to_owned()));
    }
    drop(kept);
    let near = token(&["--address", "127.0.0.0/8"]);
    is_in(&at(&second, &field(&near, "connection_string")));
    let far = token(&["--address", "192.0.2.1"]);
    let far = try_login(&at(&second, &field(&far, "connection_string")));
    assert!(
        far.failed(2)
            .contains("this credential may not be used from your address")
    );

    // A share looks, and its sessions end with it.
    let shared = first
        .cli(&["share", "app", "--json", "--name", "for Ann"])
        .json();
    let shared_address = at(&second, &field(&shared, "connection_string"));
    is_in(&shared_address);
    let mut look = Session::open(&shared_address);
    assert_eq!(look.ask(), Some("here".to_owned()));
    first
        .cli(&["db", "access", "revoke", "app", &field(&shared, "id")])
        .ok();
    look.wait_ended();
    wait_refused(&shared_address);

    // A password and its grace.
    let mut sessions = [&first, &second].map(|stack| Session::open(&at(stack, &address)));
    let reset = ["db", "reset-password", "app", "--grace", "5s", "--json"];
    let renewed = field(&first.cli(&reset).json(), "connection_string");
    for stack in [&first, &second] {
        is_in(&at(stack, &address));
        is_in(&at(stack, &renewed));
    }
    for session in &mut sessions {
        assert_eq!(session.ask(), Some("here".to_owned()));
    }
    for session in sessions {
        session.wait_ended();
    }
    for stack in [&first, &second] {
        wait_refused(&at(stack, &address));
        is_in(&at(stack, &renewed));
    }

    // Who made it, when and from where it was used: also what the other process saw.
    let seen = wait_for("the use is written down", HEARD_MAX, || {
        let listed = first.cli(&["db", "access", "list", "app", "--json"]).json();
        let used = |one: &Value| one["kind"] == "connect" && one["last_used_from"] == "127.0.0.1";
        listed
            .as_array()
            .unwrap()
            .iter()
            .find(|one| used(one))
            .cloned()
    });
    assert!(
        seen["last_used_at"].is_string() && seen["created_by"].is_string(),
        "{seen}"
    );
}

#[test]
fn tokens_of_the_api_are_made_and_used_on_the_command_line() {
    let stack = Stack::start();
    stack.create("app");
    stack.create("beside");
    let token = |more: &[&str]| {
        let arguments = [&["token", "create", "--quiet"], more].concat();
        stack.cli(&arguments).ok().to_owned()
    };
    let with = |token: &str, arguments: &[&str]| {
        let mut command = stack.cli_command(arguments);
        run(command.env("TENANTRY_API_KEY", token))
    };
    let (reader, writer) = (
        token(&["--scope", "app:ro", "--name", "reader"]),
        token(&["--scope", "app:rw"]),
    );
    with(&writer, &["sql", "app", "-q", "create table t (x int)"]).ok();
    let refused = with(&reader, &["sql", "app", "-q", "insert into t values (1)"]);
    assert!(refused.failed(9).contains("(42501)"), "{refused:?}");
    with(&reader, &["sql", "app", "-q", "select * from t"]).ok();
    let refused = with(&writer, &["sql", "beside", "-q", "select 1"]);
    assert!(
        refused.failed(3).contains("does not have access"),
        "{refused:?}"
    );
    with(&writer, &["delete", "app", "--yes"]).failed(3);
    let all = token(&["--read-only", "--expires-in-days", "1"]);
    assert_eq!(
        with(&all, &["list", "--output", "raw"])
            .ok()
            .lines()
            .count(),
        2
    );
    with(&all, &["create", "more"]).failed(3);

    let listed = stack.cli(&["token", "list", "--json"]).json();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 4);
    let found = listed.iter().find(|one| one["name"] == "reader").unwrap();
    assert!(stack.cli(&["token", "list"]).ok().contains(":ro"));
    assert!(
        !stack.log().contains(&reader) && !stack.cli(&["token", "list"]).ok().contains(&reader)
    );
    stack.cli(&["token", "revoke", &field(found, "id")]).ok();
    with(&reader, &["list"]).failed(3);
    stack
        .cli(&["token", "revoke", &field(found, "id")])
        .failed(4);
    stack.cli(&["token", "create", "--scope", "app"]).failed(2);
}
