//! The command line: what it prints, keeps and exits with.

use std::{fs, os::unix::fs::PermissionsExt as _};

use kit::{Stack, StackConfig, program::run};
use serde_json::Value;

#[test]
fn sql_runs_without_psql_and_prints_every_form() {
    let stack = Stack::start();
    stack.cli(&["create", "hello"]).ok();
    let sql = |more: &[&str]| {
        let query = "select 1 as one, 'a,b' as two, null as three";
        let arguments = [&["db", "sql", "hello", "-q", query], more].concat();
        let mut command = stack.cli_command(&arguments);
        // No psql can be found.
        run(command.env("PATH", "/nowhere")).ok().to_owned()
    };
    assert_eq!(sql(&[]), "one  two  three\n1    a,b");
    assert_eq!(sql(&["--output", "csv"]), "one,two,three\n1,\"a,b\",");
    assert_eq!(sql(&["--output", "raw"]), "1\ta,b");
    let json: Value = serde_json::from_str(&sql(&["--json"])).unwrap();
    assert_eq!(json["rows"][0][0], 1);
    assert_eq!(json["rows"][0][2], Value::Null);

    let piped = stack.cli_with_input(&["sql", "hello", "--output", "raw"], "select 2; select 3;");
    assert_eq!(piped.ok(), "3");
    let refused = stack.cli(&["db", "sql", "hello", "-q", "select * from nowhere"]);
    assert!(refused.failed(9).contains("(42P01)"), "{refused:?}");
}

#[test]
fn a_database_is_named_in_four_ways() {
    let stack = Stack::start();
    let id = stack.cli(&["create", "first", "--quiet"]).ok().to_owned();
    stack.cli(&["create", "second"]).ok();
    let name = |arguments: &[&str]| stack.cli(arguments).json()["name"].clone();

    assert_eq!(name(&["db", "status", "first", "--json"]), "first");
    assert_eq!(name(&["db", "status", &id, "--json"]), "first");
    assert_eq!(name(&["-d", "second", "db", "status", "--json"]), "second");
    stack.cli(&["db", "status"]).failed(2);
    stack.cli(&["use", "second"]).ok();
    assert_eq!(name(&["db", "status", "--json"]), "second");
    assert!(stack.cli(&["list"]).ok().contains("second *"));
    let mut by_variable = stack.cli_command(&["db", "status", "--quiet"]);
    assert_eq!(
        run(by_variable.env("TENANTRY_DATABASE", "first")).ok(),
        "ACTIVE"
    );
    stack.cli(&["use", "--clear"]).ok();
    stack.cli(&["db", "status"]).failed(2);
    stack.cli(&["use", "third"]).failed(4);
}

#[test]
fn each_kind_of_failure_has_its_code() {
    let stack = Stack::start();
    stack.cli(&["create", "there"]).ok();
    stack.cli(&["nonsense"]).failed(2);
    stack.cli(&["db", "status", "missing"]).failed(4);
    stack.cli(&["db", "status", "../me"]).failed(4);
    stack.cli(&["db", "credentials", "there"]).failed(4);
    stack.cli(&["create", "there"]).failed(5);
    for name in [
        "Upper",
        "a__b",
        "späti",
        "a b",
        "a'b",
        "..",
        &"x".repeat(64),
    ] {
        let refused = stack.cli(&["create", name]);
        assert!(
            refused.failed(6).contains("(invalid_name)"),
            "{name}: {refused:?}"
        );
    }
    stack.cli(&["delete", "there"]).failed(2);
    let wrong_key = run(stack
        .cli_command(&["list"])
        .env("TENANTRY_API_KEY", "tnt_wrong"));
    assert!(
        wrong_key.failed(3).contains("request id: "),
        "{wrong_key:?}"
    );
    let nobody = run(stack
        .cli_command(&["list"])
        .env("TENANTRY_API_URL", "http://127.0.0.1:9"));
    assert!(nobody.failed(8).contains("tenantry serve"), "{nobody:?}");
    // The other port: something answers, and it is no API.
    let other = format!("http://{}", stack.pg_address());
    let other = run(stack.cli_command(&["list"]).env("TENANTRY_API_URL", other));
    other.failed(8);
}

#[test]
fn credentials_are_kept_for_the_owner_only() {
    let stack = Stack::start();
    stack.cli(&["create", "mine"]).ok();
    let home = stack.scratch().join("home");
    let file = home.join("credentials.toml");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&home), mode(&file)), (0o700, 0o600));

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let open = stack.cli(&["list"]);
    assert!(
        open.failed(10).contains("can be read by others"),
        "{open:?}"
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    stack.cli(&["list"]).ok();
}

/// A token that was lost or expired is replaced with the secret of the project, once.
#[test]
fn a_refused_token_is_refreshed() {
    let stack = Stack::start();
    stack.cli(&["create", "mine"]).ok();
    let file = stack.scratch().join("home/credentials.toml");
    let token = stack.cli(&["token", "show"]).ok().to_owned();
    let broken = fs::read_to_string(&file)
        .unwrap()
        .replace(&token, "tnt_expired");
    fs::write(&file, broken).unwrap();

    assert_eq!(stack.listed(), ["mine"]);
    let fresh = stack.cli(&["token", "show"]).ok().to_owned();
    assert!(fresh != token && fresh != "tnt_expired", "{fresh}");
}

#[test]
fn a_project_of_another_data_directory_is_set_aside_by_name() {
    let old = Stack::start();
    old.cli(&["create", "old"]).ok();
    let new = Stack::start();
    let (from, to) = (old.scratch().join("home"), new.scratch().join("home"));
    fs::create_dir(&to).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o700)).unwrap();
    let kept = fs::read_to_string(from.join("credentials.toml")).unwrap();
    fs::write(
        to.join("credentials.toml"),
        kept.replace(&old.api_url(), &new.api_url()),
    )
    .unwrap();
    fs::set_permissions(
        to.join("credentials.toml"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();

    let refused = new.cli(&["create", "hello"]);
    assert!(refused.failed(3).contains("logout --force"), "{refused:?}");
    let refused = new.cli(&["logout"]);
    let why = refused.failed(5);
    assert!(
        why.contains("only the key kept here") && why.contains("anon_"),
        "{why}"
    );
    let aside = new.cli(&["logout", "--force"]);
    let aside = aside
        .ok()
        .strip_prefix("set aside in ")
        .expect("it says where");
    assert!(fs::read_to_string(aside).unwrap().contains("anon_"));
    new.cli(&["create", "hello"]).ok();
}

#[test]
fn a_reset_password_opens_and_the_old_one_no_longer_does() {
    let stack = Stack::start();
    let before = stack.create("app");
    let hidden = stack.cli(&["db", "reset-password", "app"]);
    assert!(!hidden.ok().contains("assword:"), "{hidden:?}");
    let other = stack.cli(&["db", "reset-password", "app", "--role", "write"]);
    assert!(
        other.ok().contains("Write user") && !other.ok().contains("Admin"),
        "{other:?}"
    );
    let shown = stack.cli(&["db", "reset-password", "app", "--json"]).json();
    assert_ne!(before["admin_password"], shown["admin_password"]);

    let opens = |created: &Value| {
        let address = created["connection_string"].as_str().unwrap();
        run(kit::program::psql(address).args(["-c", "select 1"])).code == Some(0)
    };
    assert!(opens(&shown) && !opens(&before));
    stack.cli(&["db", "connect", "app", "-c", "select 1"]).ok();
}

#[test]
fn a_role_that_may_only_read_has_a_password_of_its_own() {
    let stack = Stack::start();
    stack.cli(&["create", "app"]).ok();
    stack
        .cli(&[
            "db",
            "connect",
            "app",
            "-c",
            "create table t as select 5 as n",
        ])
        .ok();
    stack
        .cli(&["db", "connect", "app", "--role", "read", "-c", "table t"])
        .failed(3);
    stack
        .cli(&["db", "reset-password", "app", "--role", "read"])
        .ok();
    stack
        .cli(&["db", "connect", "app", "--role", "read", "-c", "table t"])
        .ok();
    let refused = stack.cli(&[
        "db",
        "connect",
        "app",
        "--role",
        "read",
        "-c",
        "delete from t",
    ]);
    assert!(
        refused.failed(9).contains("permission denied"),
        "{refused:?}"
    );
    // The admin's is as it was.
    stack
        .cli(&["db", "connect", "app", "-c", "delete from t"])
        .ok();
}

#[test]
fn delete_is_taken_back_with_its_data() {
    let stack = Stack::start();
    let id = stack.cli(&["create", "app", "--quiet"]).ok().to_owned();
    stack
        .cli(&["db", "sql", "app", "-q", "create table t as select 5 as n"])
        .ok();
    stack.cli(&["delete", "app", "--yes"]).ok();
    stack.cli(&["db", "sql", "app", "-q", "select 1"]).failed(4);
    stack.cli(&["undelete", &id]).ok();
    assert_eq!(
        stack
            .cli(&["db", "sql", "app", "-q", "table t", "--output", "raw"])
            .ok(),
        "5"
    );
    // The password is as good as before.
    stack.cli(&["db", "connect", "app", "-c", "table t"]).ok();
}

#[test]
fn no_password_is_on_a_command_line_or_in_the_log() {
    let stack = Stack::start_with(StackConfig::default().arg("--log-filter").arg("trace"));
    let created = stack.create("app");
    let password = created["admin_password"].as_str().unwrap();
    // psql sees its own command line.
    let look = "\\! tr '\\0' ' ' < /proc/$PPID/cmdline\nselect pg_backend_pid();\n";
    let ran = stack.cli_with_input(&["db", "connect", "app"], look);
    assert!(
        ran.ok().contains("psql") && !ran.stdout.contains(password),
        "{ran:?}"
    );
    stack.cli(&["db", "reset-password", "app"]).ok();
    let log = stack.log();
    for secret in [
        password,
        stack.operator_key().as_str(),
        stack.cli(&["token", "show"]).ok(),
    ] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
    assert!(!log.contains("SCRAM-SHA-256$"), "a verifier is in the log");
    assert!(
        !log.contains("executing statement"),
        "statements are in the log"
    );
}

#[test]
fn completions_are_printed_for_three_shells() {
    let stack = Stack::start();
    for (shell, part) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef tenantry"),
        ("fish", "complete -c tenantry"),
    ] {
        let script = stack.cli(&["completion", shell]);
        assert!(script.ok().contains(part), "{shell}");
        assert!(script.stdout.contains("reset-password"), "{shell}");
    }
}

#[test]
fn the_doctor_looks_at_the_machine_and_at_every_database() {
    let stack = Stack::start();
    stack.cli(&["create", "app"]).ok();
    let data = stack.data_dir();
    let arguments = ["doctor", "--data-dir", data.to_str().unwrap(), "--json"];
    let report = stack.cli(&arguments).json();
    let verdict = |report: &Value, name: &str| {
        let checks = report.as_array().unwrap();
        let check = checks.iter().find(|check| check["check"] == name);
        check.unwrap_or_else(|| panic!("{name}: {report:#}"))["verdict"].clone()
    };
    for name in ["PostgreSQL", "Server", "Memory"] {
        assert_eq!(verdict(&report, name), "ok", "{name}");
    }
    let deep = [&arguments[..], &["--deep"]].concat();
    // Nothing is wrong with the machine: the credentials do not allow it.
    stack.cli(&deep).failed(3);
    let bare = run(stack
        .cli_command(&deep)
        .env("TENANTRY_HOME", stack.scratch().join("bare")));
    bare.failed(3);
    let report = run(stack
        .cli_command(&deep)
        .env("TENANTRY_API_KEY", stack.operator_key()))
    .json();
    assert_eq!(verdict(&report, "Databases"), "ok", "{report:#}");
}
