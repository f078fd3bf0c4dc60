//! `tenantry backup` as operators and owners type it. What backups are is in `crates/control/tests`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use kit::{
    Stack,
    program::{Ran, run},
};

fn operator(stack: &Stack, arguments: &[&str]) -> Ran {
    run(stack
        .cli_command(arguments)
        .env("TENANTRY_API_KEY", stack.operator_key())
        .env("TENANTRY_HOME", stack.scratch().join("operator")))
}

/// Makes a project of its own, with a database of this name. Returns the database's id.
fn elsewhere(stack: &Stack, name: &str) -> String {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let made = runtime.block_on(async { stack.anonymous().await.create(name).await });
    made["id"].as_str().unwrap().to_owned()
}

#[test]
fn the_operator_drills_a_database_of_any_project_by_its_name() {
    let stack = Stack::start();
    let shop = stack.create("shop")["id"].as_str().unwrap().to_owned();
    let backup = stack.cli(&["backup", "create", "shop", "--wait", "--quiet"]);
    let backup = backup.ok().to_owned();
    let drilled = operator(&stack, &["backup", "drill", "shop", "--wait", "--json"]).json();
    for (name, is) in [
        ("database_id", &*shop),
        ("backup_id", &backup),
        ("state", "passed"),
    ] {
        assert_eq!(drilled[name], is, "{drilled}");
    }

    // What cannot be told apart by its name is told apart by its id.
    let other = elsewhere(&stack, "shop");
    let both = operator(&stack, &["backup", "drill", "shop"]);
    let said = both.failed(2);
    assert!(said.contains(&shop) && said.contains(&other), "{said}");
    operator(&stack, &["backup", "drill", &shop, "--wait"]).ok();
    let unknown = operator(&stack, &["backup", "drill", "sho"]);
    assert!(
        unknown.failed(4).contains("tenantry list --all"),
        "{unknown:?}"
    );
    // It is found, and has no backup.
    let bare = operator(&stack, &["backup", "drill", &other]);
    assert!(bare.failed(4).contains("backup_not_found"), "{bare:?}");
    // Backups stay when their database was deleted.
    stack.cli(&["delete", "shop", "--yes"]).ok();
    operator(&stack, &["backup", "drill", &shop, "--wait"]).ok();

    // Where ids are found, and what a name means elsewhere.
    let listed = operator(&stack, &["list", "--all", "--output", "csv"]);
    let listed = listed.ok();
    assert!(
        listed.starts_with("id,name,state,created_at,expires_at,project_id"),
        "{listed}"
    );
    assert!(
        listed.contains(&other) && !listed.contains(&shop),
        "{listed}"
    );
    assert!(!operator(&stack, &["list"]).ok().contains(&other));
    let named = operator(&stack, &["db", "status", "shop"]);
    assert!(
        named.failed(4).contains("of all projects by id"),
        "{named:?}"
    );
    operator(&stack, &["db", "status", &other]).ok();
    let owner = stack.cli(&["db", "status", "nothing"]);
    assert!(!owner.failed(4).contains("operator"), "{owner:?}");

    let deleted = stack.cli(&["backup", "delete", &backup, "--yes"]);
    assert_eq!(deleted.ok(), format!("deleted backup {backup} of shop"));
}

#[test]
fn who_waits_for_a_store_that_is_away_is_told() {
    let stack = Stack::start();
    stack.create("main");
    let backup = stack.cli(&["backup", "create", "main", "--wait", "--quiet"]);
    let backup = backup.ok().to_owned();
    let store = stack.data_dir().join("backups");
    let away = stack.data_dir().join("away");
    for arguments in [
        &["backup", "verify", &backup][..],
        &["backup", "restore", &backup, "--as", "copy", "--wait"],
        &["backup", "restore", &backup, "--yes", "--wait"],
        &["backup", "create", "main", "--wait"],
    ] {
        fs::rename(&store, &away).unwrap();
        // No folder, and nothing that could be taken for an empty one.
        fs::write(&store, "").unwrap();
        let mut waits = stack.cli_command(arguments);
        let mut waits = waits
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(waits.stderr.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        fs::remove_file(&store).unwrap();
        fs::rename(&away, &store).unwrap();
        let is_why = line.starts_with("waiting: the folder of backups cannot be");
        assert!(is_why, "{arguments:?}: {line}");
        assert!(waits.wait().unwrap().success(), "{arguments:?}");
    }
}
