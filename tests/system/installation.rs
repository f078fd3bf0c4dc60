//! The key of an installation, and the catalog that belongs to it.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use kit::{
    Stack,
    program::{psql, run},
};

/// Files in `dir` with what is in them, but for the one that says who is at work.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let all = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let of = |path: std::path::PathBuf| {
        let bytes = fs::read(&path).unwrap();
        (path.display().to_string(), bytes)
    };
    all.filter(|path| path.is_file() && !path.ends_with("tenantry.lock"))
        .map(of)
        .collect()
}

/// What has to do with the key, beside the catalog.
fn touched(stack: &Stack) -> [BTreeMap<String, Vec<u8>>; 2] {
    [
        contents(&stack.data_dir()),
        contents(&stack.data_dir().join("audit")),
    ]
}

/// Starts the server in front, for as long as it takes to refuse.
fn refused(stack: &Stack) -> String {
    let mut serve: Command = stack.serve();
    let ran = run(&mut serve);
    let said = ran.failed(10).to_owned();
    assert!(
        said.contains("belongs to another installation.key")
            && said.contains("nothing was changed"),
        "{said}"
    );
    assert!(said.contains("--replace-installation-key"), "{said}");
    said
}

#[test]
fn a_server_with_another_installation_key_does_not_start_and_changes_nothing() {
    let mut stack = Stack::start();
    let address = stack.create_address("main");
    let select = |address: &str| run(psql(address).args(["-c", "SELECT 1"]));
    select(&address).ok();
    stack.stop();
    let file = stack.data_dir().join("installation.key");
    let right = fs::read_to_string(&file).unwrap();

    let digit = if right.starts_with('0') { "1" } else { "0" };
    fs::write(&file, format!("{digit}{}", &right[1..])).unwrap();
    let before = touched(&stack);
    refused(&stack);
    assert!(touched(&stack) == before, "something was changed");

    // Forgotten, where a data directory came back from somewhere: none is made in its place.
    fs::remove_file(&file).unwrap();
    let before = touched(&stack);
    refused(&stack);
    assert!(touched(&stack) == before, "something was changed");

    // The right one, back again.
    let put_back = |text: &str| {
        fs::write(&file, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&file, mode).unwrap();
    };
    put_back(&right);
    stack.start_again();
    let moved = |stack: &Stack, address: &str, old: &str| address.replace(old, &stack.pg_address());
    let old = address
        .split_once('@')
        .unwrap()
        .1
        .split_once('/')
        .unwrap()
        .0;
    select(&moved(&stack, &address, old)).ok();
    let list = stack.listed();
    assert_eq!(list, ["main"]);

    // Lost for good.
    stack.stop();
    fs::remove_file(&file).unwrap();
    stack
        .config_mut()
        .arguments
        .push("--replace-installation-key".into());
    stack.start_again();
    select(&moved(&stack, &address, old)).failed(2);
    let anew = stack
        .cli(&["db", "reset-password", "main", "--json"])
        .json();
    select(anew["connection_string"].as_str().unwrap()).ok();
    assert_ne!(fs::read_to_string(&file).unwrap(), right);
    assert_eq!(stack.log_at(&["WARN"]).len(), 1, "{}", stack.log());
    stack.stop();
    stack.config_mut().arguments.pop();
    stack.start_again();
}
