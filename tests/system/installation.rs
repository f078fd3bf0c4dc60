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

/// The server again, with this key (`None`: with a new one) in place of the one the catalog belongs to.
fn replaced(stack: &mut Stack, key: Option<&str>) {
    stack.stop();
    let file = stack.data_dir().join("installation.key");
    match key {
        Some(key) => fs::write(&file, key).unwrap(),
        None => fs::remove_file(&file).unwrap(),
    }
    let flag = "--replace-installation-key".to_owned();
    stack.config_mut().arguments.push(flag.clone());
    stack.start_again();
    stack.config_mut().arguments.retain(|one| *one != flag);
}

/// What `backup list` says is wrong with a backup.
fn wrong_with(stack: &Stack, id: &str) -> String {
    let listed = stack.cli(&["backup", "list", "main", "--json"]).json();
    let all = listed.as_array().unwrap();
    let one = all.iter().find(|one| one["id"] == id).expect("it is there");
    one["verify_error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn under_another_installation_key_new_backups_begin_anew_and_those_from_before_say_why() {
    let mut stack = Stack::start();
    stack.create("main");
    let create = ["backup", "create", "main", "--wait", "--quiet"];
    let before = stack.cli(&create).ok().to_owned();
    let file = stack.data_dir().join("installation.key");
    let former = fs::read_to_string(&file).unwrap();
    replaced(&mut stack, None);
    let said = stack.log_at(&["WARN"]).join("\n");
    assert!(said.contains(r#""backups":1,"databases":1"#), "{said}");

    let after = stack.cli(&create).ok().to_owned();
    stack.cli(&["backup", "verify", &after]).ok();
    let copy = ["--as", "copy", "--wait"];
    let restore = |id: &str, of: &[&str]| stack.cli(&[&["backup", "restore", id][..], of].concat());
    restore(&after, &copy).ok();
    // There, and what became of it is said wherever it is asked for.
    assert!(wrong_with(&stack, &before).contains("another installation.key"));
    assert_eq!(wrong_with(&stack, &after), "");
    for refused in [
        restore(&before, &["--as", "other"]),
        restore(&before, &["--yes"]),
        stack.cli(&["backup", "verify", &before]),
    ] {
        let said = format!("{refused:?}");
        assert_ne!(refused.code, Some(0), "{said}");
        assert!(said.contains("another installation.key"), "{said}");
    }
    // And nothing was touched.
    assert_eq!(stack.listed(), ["main", "copy"]);

    // Found again.
    replaced(&mut stack, Some(&former));
    assert_eq!(wrong_with(&stack, &before), "");
    assert!(wrong_with(&stack, &after).contains("another installation.key"));
    stack.cli(&["backup", "verify", &before]).ok();
    stack.cli(&["backup", "erase", "main", "--yes"]).ok();
    stack.cli(&create).ok();
}
