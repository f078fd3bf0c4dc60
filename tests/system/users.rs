//! Users of a database, made with the command line and used with psql.

use kit::{
    Stack,
    program::{psql, run, wait_for},
};

use crate::credentials::{
    HEARD_MAX, Session, field, is_in, try_login, wait_refused, with_password,
};

/// What one statement answers, or is refused with.
fn ask(address: &str, sql: &str) -> kit::program::Ran {
    run(psql(address).args(["-v", "ON_ERROR_STOP=1", "-c", sql]))
}

#[test]
fn a_user_is_made_limited_given_a_new_password_and_deleted() {
    let stack = Stack::start();
    let app = stack.create_address("app");
    let other = stack.create_address("other");
    ask(&app, "create table t (a int)").ok();
    let made = [
        "db",
        "users",
        "create",
        "app",
        "ann",
        "--role",
        "ro",
        "--connections",
        "2",
        "--json",
    ];
    let made = stack.cli(&made).json();
    let (user, password) = (field(&made, "user"), field(&made, "password"));
    let address = field(&made, "connection_string");
    let text = stack.cli(&["db", "users", "create", "app", "--username", "bob"]);
    let bob = text.ok().trim().to_owned();
    assert!(bob.contains(".bob:"), "{bob}");

    assert_eq!(ask(&address, "select current_user").ok(), "tenantry_read");
    assert_eq!(
        ask(&address, "select session_user").ok(),
        field(&made, "session_user")
    );
    assert!(
        ask(&address, "insert into t values (1)")
            .stderr
            .contains("permission denied")
    );
    ask(&bob, "insert into t values (1)").ok();
    assert!(ask(&bob, "drop table t").stderr.contains("must be owner"));
    assert_eq!(ask(&address, "select count(*) from t").ok(), "1");
    // Its password opens nothing else, and nothing else opens it.
    for user in [
        user.replace(".ann", ".read"),
        user.replace(".ann", ".bob"),
        user.replace(".ann", ".eve"),
    ] {
        let wrong = try_login(&with_password(&app, &user, &password));
        assert!(wrong.failed(2).contains("password authentication failed"));
    }
    let (_, rest) = other.split_once("://").unwrap();
    let (other_id, _) = rest.split_once('.').unwrap();
    let elsewhere = try_login(&with_password(&app, &format!("{other_id}.ann"), &password));
    assert!(
        elsewhere
            .failed(2)
            .contains("password authentication failed")
    );

    // Two clients, not three; others are not concerned.
    let mut first = Session::open(&address);
    let second = Session::open(&address);
    let third = try_login(&address);
    let said = third.failed(2);
    assert!(
        said.contains("too many clients of user \"ann\": it may have 2 at once"),
        "{said}"
    );
    is_in(&bob);
    stack
        .cli(&["db", "users", "set", "app", "ann", "--connections", "3"])
        .ok();
    wait_for("the new limit is heard of", HEARD_MAX, || {
        (try_login(&address).code == Some(0)).then_some(())
    });
    assert_eq!(first.ask(), Some("here".to_owned()));

    // A new password ends the sessions of the old one.
    let reset = stack.cli(&["db", "users", "reset-password", "app", "ann"]);
    let renewed = reset.ok().trim().to_owned();
    first.wait_ended();
    second.wait_ended();
    wait_refused(&address);
    is_in(&renewed);
    wait_for("it is said when it was used", HEARD_MAX, || {
        let listed = stack.cli(&["db", "users", "list", "app", "--json"]).json();
        (listed[0]["username"] == "ann" && listed[0]["last_used_at"].is_string()).then_some(())
    });
    let listed = stack.cli(&["db", "users", "list", "app"]);
    assert!(listed.ok().contains("ann") && !listed.ok().contains(&password));

    // Branches have users without their passwords.
    stack
        .cli(&["branch", "create", "app", "--name", "copy", "--wait"])
        .ok();
    let own = stack.cli(&["db", "users", "reset-password", "copy", "ann"]);
    let own = own.ok().trim().to_owned();
    assert_eq!(ask(&own, "select count(*) from t").ok(), "1");

    // Deleted, its sessions end; the data stays.
    let held = Session::open(&renewed);
    stack.cli(&["db", "users", "delete", "app", "ann"]).ok();
    held.wait_ended();
    wait_refused(&renewed);
    is_in(&own);
    is_in(&bob);
    assert_eq!(ask(&app, "select count(*) from t").ok(), "1");
    assert!(stack.cli(&["db", "users", "delete", "app", "ann"]).code != Some(0));
}
