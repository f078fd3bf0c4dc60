//! The audit log of the real program: who connected, what was done, kills, and `tenantry audit`.

use std::{fs, path::PathBuf, time::Duration};

use kit::{
    Stack, StackConfig,
    program::{Ran, psql, run, wait_for},
};
use serde_json::Value;

/// For a line to be written.
const LINE_MAX: Duration = Duration::from_secs(30);

fn files(stack: &Stack, stream: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(stack.data_dir().join("audit")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(stream)
        })
        .collect();
    files.sort();
    files
}

/// Whole lines.
fn lines(stack: &Stack, stream: &str) -> Vec<Value> {
    let texts = files(stack, stream)
        .into_iter()
        .map(|path| fs::read_to_string(path).unwrap());
    texts
        .flat_map(|text| {
            let lines = text.lines().map(serde_json::from_str::<Value>);
            lines.filter_map(Result::ok).collect::<Vec<_>>()
        })
        .collect()
}

fn audit(stack: &Stack, arguments: &[&str]) -> Ran {
    let dir = stack.data_dir();
    let mut all = vec!["audit"];
    all.extend(arguments);
    all.extend(["--data-dir", dir.to_str().unwrap()]);
    stack.cli(&all)
}

#[test]
fn a_statement_is_found_in_the_log_by_its_hash() {
    let stack = Stack::start();
    let made = stack.create("one");
    let address = text(&made["connection_string"]);
    let asked = ["db", "limits", "set", "one", "statement_audit=on"];
    stack.cli(&asked).ok();
    let hash = |text: &str| audit(&stack, &["hash", text]).ok().trim().to_owned();
    let wanted = hash("select relname from pg_class where relname = 'anything'");
    assert_eq!(wanted.len(), 64, "{wanted}");
    assert_ne!(
        wanted,
        hash("SELECT relname FROM pg_class WHERE relname <> 'anything'")
    );
    let statement = "SELECT relname\nFROM pg_class WHERE relname = 'never in a line'";
    wait_for("the statement's line", LINE_MAX, || {
        run(psql(&address).args(["-c", statement])).ok();
        let seen = lines(&stack, "statements");
        seen.iter()
            .any(|line| line["statement"] == *wanted)
            .then_some(())
    });
    let json = audit(&stack, &["hash", statement, "--json"]).json();
    assert_eq!(json["statement"], *wanted);
    // The key is the installation's: without it there is no hash.
    let nowhere = stack.scratch().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let refused = stack.cli(&["audit", "hash", "SELECT 1", "--data-dir", nowhere]);
    refused.failed(2);
    assert!(refused.stderr.contains("installation.key"), "{refused:?}");
}

#[test]
fn who_connected_and_what_an_operator_did_can_be_checked_and_carried_away() {
    let mut stack = Stack::start();
    let made = stack.create("one");
    let (address, id) = (text(&made["connection_string"]), text(&made["id"]));
    run(psql(&address).args(["-c", "SELECT 'never in a line'"])).ok();
    let wrong = address.replacen(&text(&made["admin_password"]), "wrong", 1);
    run(psql(&wrong).args(["-c", "SELECT 1"])).failed(2);
    let console = format!(
        "postgresql://operator@{}/tenantry?sslmode=require",
        stack.pg_address()
    );
    let kill = format!("KILL {id}");
    let key = stack.operator_key();
    run(psql(&console).env("PGPASSWORD", &key).args(["-c", &kill])).ok();

    let seen = wait_for("the lines of the connections", LINE_MAX, || {
        let seen = lines(&stack, "connections");
        let is_there = |event: &str| seen.iter().any(|line| line["event"] == event);
        (is_there("disconnect") && is_there("refused")).then_some(seen)
    });
    let session: Vec<_> = seen.iter().filter(|line| line["tenant"] == *id).collect();
    assert_eq!(session[0]["event"], "connect");
    assert_eq!(session[0]["role"], "admin");
    let end = session
        .iter()
        .find(|line| line["event"] == "disconnect")
        .unwrap();
    assert_eq!(
        (&end["ended"], &end["statements"]),
        (&"left".into(), &1.into())
    );
    assert_eq!(end["address"], session[0]["address"]);
    let refused = seen.iter().find(|line| line["event"] == "refused").unwrap();
    assert_eq!(refused["code"], "28P01");
    let commands = lines(&stack, "admin");
    let command = commands
        .iter()
        .find(|line| line["event"] == "command")
        .unwrap();
    assert_eq!(
        (&command["operation"], &command["tenant"]),
        (&"kill".into(), &(*id).into())
    );
    let all = serde_json::to_string(&(seen, commands)).unwrap();
    for secret in ["never in a line", &key, &text(&made["admin_password"])] {
        assert!(!all.contains(secret), "{secret}");
    }

    // Whole, as far as it is written; also killed in the middle of it, and gone on.
    audit(&stack, &["verify"]).ok();
    stack.kill();
    stack.start_again();
    stack.create("two");
    stack.stop();
    let offline = audit(&stack, &["verify"]);
    offline.ok();
    assert!(
        offline
            .stderr
            .contains("not compared with the heads in the catalog"),
        "{offline:?}"
    );
    stack.start_again();
    let report = audit(&stack, &["verify", "--json"]).json();
    assert_eq!(report["whole"], true, "{report}");
    assert!(
        report["heads_of_catalog"].as_u64().unwrap() >= 2,
        "{report}"
    );

    // For somebody else, with the public key alone.
    let copy = stack.scratch().join("copy.jsonl");
    audit(&stack, &["export", "--to", copy.to_str().unwrap()]).ok();
    audit(&stack, &["export", "--to", copy.to_str().unwrap()]).failed(2);
    // And file by file, which goes on; never over something that is not its beginning.
    let kept = stack.scratch().join("kept");
    let url = format!("file://{}", kept.display());
    let mut admin = files(&stack, "admin");
    admin.sort();
    let said = |sent, before| format!("{sent} files of admin sent to {url}, {before} were there");
    let out = audit(&stack, &["export", "--to", &url]).ok().to_owned();
    assert_eq!(out, said(admin.len(), 0));
    let last = admin.last().unwrap();
    let copy_of_last = kept.join(last.file_name().unwrap());
    let first = fs::read_to_string(&copy_of_last).unwrap();
    stack.create("three");
    let out = audit(&stack, &["export", "--to", &url]).ok().to_owned();
    assert_eq!(out, said(1, admin.len() - 1));
    let there = fs::read_to_string(&copy_of_last).unwrap();
    assert!(there.starts_with(&first) && there.len() > first.len() && there.ends_with('\n'));
    assert!(fs::read_to_string(last).unwrap().starts_with(&there));
    audit(&stack, &["verify", kept.to_str().unwrap(), "--offline"]).ok();
    // With what the catalog has, too: one of the three chains is whole, and which are not in it is said. A look is a line of the
    // log itself, and lines that the copy has not look cut off.
    let of_a_part = "it is so with a copy that was made before";
    let verified = wait_for("a copy without newer lines", LINE_MAX, || {
        audit(&stack, &["export", "--to", &url]).ok();
        let verified = audit(&stack, &["verify", kept.to_str().unwrap(), "--json"]);
        let is_old = verified.stderr.contains(of_a_part);
        (!is_old).then(|| verified.json())
    });
    assert_eq!(verified["whole"], true, "{verified}");
    assert!(
        verified["heads_of_catalog"].as_u64() >= Some(1),
        "{verified}"
    );
    let absent = serde_json::json!(["connections", "statements"]);
    assert_eq!(verified["absent"], absent, "{verified}");
    let there = fs::read_to_string(&copy_of_last).unwrap();
    // Of the log itself, a chain that is gone is a chain that was removed.
    let data = stack.data_dir();
    let gone = stack.scratch().join("gone");
    fs::create_dir(&gone).unwrap();
    for file in files(&stack, "connections") {
        fs::rename(&file, gone.join(file.file_name().unwrap())).unwrap();
    }
    for path in [data.join("audit"), data.join("audit/../audit")] {
        let found = audit(&stack, &["verify", path.to_str().unwrap()]);
        found.failed(1);
        let what = "there is no file of connections, and the catalog knows some";
        assert!(found.stdout.contains(what), "{found:?}");
    }
    for file in fs::read_dir(&gone).unwrap().map(|file| file.unwrap()) {
        fs::rename(file.path(), data.join("audit").join(file.file_name())).unwrap();
    }
    fs::write(&copy_of_last, there.replacen('0', "1", 1)).unwrap();
    let refused = audit(&stack, &["export", "--to", &url]);
    refused.failed(1);
    assert!(
        refused.stderr.contains("is not the beginning of it"),
        "{refused:?}"
    );
    fs::write(&copy_of_last, format!("{there}{}", "x".repeat(1 << 20))).unwrap();
    let refused = audit(&stack, &["export", "--to", &url]);
    refused.failed(1);
    assert!(
        refused.stderr.contains("more of it is there"),
        "{refused:?}"
    );
    // Of what somebody changed nothing of that is said.
    let changed = audit(&stack, &["verify", kept.to_str().unwrap()]);
    changed.failed(1);
    assert!(!changed.stderr.contains(of_a_part), "{changed:?}");
    audit(&stack, &["export", "--to", "s3://"]).failed(2);

    let public = audit(&stack, &["key"]).ok().to_owned();
    let check = |path: &str| {
        stack.cli(&[
            "audit",
            "verify",
            path,
            "--public-key",
            &public,
            "--offline",
        ])
    };
    check(copy.to_str().unwrap()).ok();
    // Who is somewhere else has no data directory, and is told of none.
    let elsewhere = ["audit", "verify", copy.to_str().unwrap()];
    let elsewhere = [&elsewhere[..], &["--public-key", &public]].concat();
    let elsewhere = stack.cli(&elsewhere);
    elsewhere.ok();
    assert!(
        elsewhere.stderr.contains("a cut end would not be found")
            && !elsewhere.stderr.contains("operator.key"),
        "{elsewhere:?}"
    );
    let text = fs::read_to_string(&copy).unwrap();
    fs::write(
        &copy,
        text.replacen("\"operation\":\"kill\"", "\"operation\":\"look\"", 1),
    )
    .unwrap();
    let found = check(copy.to_str().unwrap());
    found.failed(1);
    let line = 1 + text
        .lines()
        .position(|line| line.contains("\"kill\""))
        .unwrap();
    assert!(
        found
            .stdout
            .contains(&format!("copy.jsonl:{line}: was changed")),
        "{found:?}"
    );

    // In place: the end of the file of before is cut off.
    let file = &files(&stack, "admin")[1];
    let whole = fs::read_to_string(file).unwrap();
    let kept: Vec<_> = whole.lines().collect();
    fs::write(file, kept[..kept.len() - 3].join("\n") + "\n").unwrap();
    let found = audit(&stack, &["verify"]);
    found.failed(1);
    assert!(
        found.stdout.contains("admin-00000003.jsonl:1: the lines"),
        "{found:?}"
    );
    fs::write(file, whole).unwrap();
    audit(&stack, &["verify"]).ok();
}

/// kill -9 while it writes: what was answered is there, and the chain goes on.
#[test]
fn an_answered_change_is_in_the_log_after_a_kill() {
    let mut stack = Stack::start_with(StackConfig::default());
    let mut made = Vec::new();
    // An anonymous project has five databases at most.
    for round in 0..2 {
        for number in 0..2 {
            let answer = stack.create(&format!("db-{round}-{number}"));
            made.push(text(&answer["id"]));
        }
        stack.kill();
        stack.start_again();
    }
    let written = lines(&stack, "admin");
    for id in &made {
        let answered = written.iter().any(|line| {
            line["event"] == "answer" && line["operation"] == "create" && line["tenant"] == **id
        });
        assert!(answered, "{id}");
    }
    audit(&stack, &["verify"]).ok();
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
