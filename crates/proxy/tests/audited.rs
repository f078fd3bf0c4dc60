//! Each statement of a database that wants it is a line in the audit log, which tells of every change to it and has
//! nothing of a text; and nothing is carried out without one.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{fs, path::Path};

use audit::{
    Event, Keys, Logs, Options,
    verify::{self, With},
};
use kit::{
    Stack,
    common::{limit, raw},
    raw::{Raw, code_of},
    wait_until,
};
use model::{Role, route::PoolMode};
use scratch::Scratch;
use serde_json::Value;
use wire::message::build::{bind_nothing, execute, parse, sync};

const SECRET: [u8; 32] = [9; 32];

fn open(dir: &Path, segment_bytes_max: u64) -> Logs {
    let keys = Keys::derive(&SECRET);
    let options = Options::new(dir.to_owned(), audit::Stream::Admin, "one", keys);
    Logs::open(Options {
        segment_bytes_max,
        ..options
    })
    .unwrap()
}

/// What was asked, in order: which lines share a text, tables, and whether that is all of them.
fn lines(dir: &Path) -> Vec<Value> {
    let files = audit::segments(dir, audit::Stream::Statements).unwrap();
    let all = files.iter().map(|path| fs::read_to_string(path).unwrap());
    let all: String = all.collect();
    for word in ["canary", "SELECT", "select", "7531597531597"] {
        assert!(!all.contains(word), "{word}: {all}");
    }
    let lines = all
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == "statement").collect()
}

/// Two executes of one portal each, and one of a statement that was prepared before.
fn pipeline(client: &mut Raw) {
    let mut out = Vec::new();
    parse(
        b"p",
        b"SELECT a FROM t WHERE a = 'canary' AND 7531597531597 > 1",
        &[],
        &mut out,
    );
    for _ in 0..2 {
        bind_nothing(b"", b"p", &mut out);
        execute(b"", 0, &mut out);
    }
    sync(&mut out);
    client.send(&out);
    assert_eq!(code_of(&client.until(b'Z')), "");
    let mut out = Vec::new();
    bind_nothing(b"c", b"p", &mut out);
    execute(b"c", 0, &mut out);
    sync(&mut out);
    client.send(&out);
    assert_eq!(code_of(&client.until(b'Z')), "");
}

async fn every_statement_is_a_line(pool_mode: PoolMode) {
    let scratch = Scratch::new();
    let dir = scratch.path().join("audit");
    let logs = open(&dir, 16 << 20);
    let own = logs.clone();
    let stack = Stack::start(|config| {
        config.workers = 2;
        // Whether statements are told apart is something else.
        config.limits.insight_statements_max = 0;
        config.audit = Some(own);
    })
    .await;
    let (tenant, other) = (stack.tenant(), stack.tenant());
    for role in Role::ALL {
        stack.set_route(&tenant, role, |route| route.pool_mode = pool_mode);
    }
    let (mut client, mut stranger) = (raw(&stack, &tenant), raw(&stack, &other));
    client.query("SELECT 'canary before anybody asked for it'");
    limit(&stack, &tenant, |limits| limits.statement_audit = true);
    // It takes hold on open sessions.
    wait_until("a line is there", || {
        client.query("ROLLBACK");
        logs.statements.counts().lines > 1
    });
    stranger.query("SELECT 'canary' FROM pg_class");
    client.query("CREATE TABLE t (a text)");
    client.query("SELECT 'canary', a FROM public.t");
    client.query("select  'other' , a from public.t");
    client.query("INSERT INTO t VALUES ('canary'), ('x'); SELECT 7531597531597");
    client.query("BEGIN");
    assert_eq!(
        code_of(&client.query("SELECT 1 / 0 FROM t WHERE 'canary' > ''")),
        "22012"
    );
    client.query("ROLLBACK");
    pipeline(&mut client);
    client.query("DO $$ BEGIN PERFORM 'canary'; END $$");
    assert_eq!(
        code_of(&client.query("UPDATE nowhere SET a = 'canary'")),
        "42P01"
    );
    logs.close();

    let all = lines(&dir);
    let begin = all.iter().position(|line| !line["ddl"].is_null()).unwrap();
    let all = &all[begin..];
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or("").to_owned();
    let seen: Vec<_> = all
        .iter()
        .map(|line| {
            let tables = ["reads", "writes", "ddl"].map(|name| text(line, name));
            (tables.join("/"), line["part"] == 1)
        })
        .collect();
    let want = [
        ("//t", false),
        ("public.t//", false),
        ("public.t//", false),
        ("/t/", false),
        ("//", false),
        ("t//", false),
        ("//", false),
        ("t//", false),
        ("t//", false),
        ("t//", false),
        ("//", true),
        ("/nowhere/", false),
    ];
    assert_eq!(seen, want.map(|(tables, part)| (tables.to_owned(), part)));
    for line in all {
        assert_eq!(text(line, "tenant"), tenant.id.to_string());
        assert_eq!(text(line, "role"), "admin");
        assert!(line["address"].is_string() && line["session"].is_u64());
        assert_eq!(text(line, "statement").len(), 64);
    }
    assert_eq!(all[1]["statement"], all[2]["statement"], "one shape");
    assert_ne!(all[0]["statement"], all[1]["statement"]);
    assert_eq!(all[7]["statement"], all[9]["statement"], "prepared once");
    // Whoever has the keys finds a text again, with whatever constants; nobody else does.
    for (line, asked) in [
        (0, "create table T (A TEXT)"),
        (1, "SELECT 'another',  a FROM public.t -- and a comment"),
        (7, "SELECT a FROM t WHERE a = '' AND 1 > 2"),
        (7, "SELECT a FROM t WHERE a = $1 AND $2 > 3"),
    ] {
        let stand_in = |secret| proxy::stand_in(asked.as_bytes(), &Keys::derive(secret));
        assert_eq!(
            text(&all[line], "statement"),
            stand_in(&SECRET).to_string(),
            "{asked}"
        );
        assert_ne!(
            text(&all[line], "statement"),
            stand_in(&[8; 32]).to_string(),
            "{asked}"
        );
    }

    // A changed line is found.
    let with = With::keys(Keys::derive(&SECRET));
    let is_whole = || verify::directory(&dir, &with, &[]).unwrap().is_whole();
    assert!(is_whole());
    let files = audit::segments(&dir, audit::Stream::Statements).unwrap();
    let before = fs::read_to_string(&files[0]).unwrap();
    for (from, to) in [
        ("\"writes\":\"t\"", "\"writes\":\"u\""),
        ("\"role\":\"admin\"", "\"role\":\"reads\""),
    ] {
        fs::write(&files[0], before.replacen(from, to, 1)).unwrap();
        assert!(!is_whole(), "{from}");
    }
    fs::write(&files[0], before).unwrap();
    assert!(is_whole());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_is_a_line_from_when_it_is_wanted_on() {
    every_statement_is_a_line(PoolMode::Auto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_is_a_line_in_pool_mode_session() {
    every_statement_is_a_line(PoolMode::Session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_have_no_line_is_not_carried_out() {
    let scratch = Scratch::new();
    let dir = scratch.path().join("audit");
    // Every line begins a file.
    let logs = open(&dir, 1);
    let own = logs.clone();
    let stack = Stack::start(|config| config.audit = Some(own)).await;
    let (tenant, other) = (stack.tenant(), stack.tenant());
    limit(&stack, &tenant, |limits| limits.statement_audit = true);
    let (mut client, mut inside) = (raw(&stack, &tenant), raw(&stack, &tenant));
    let mut stranger = raw(&stack, &other);
    client.query("CREATE TABLE t (a int)");
    wait_until("a line is there", || {
        client.query("ROLLBACK");
        logs.statements.counts().lines > 1
    });
    inside.query("BEGIN");
    assert_eq!(code_of(&inside.query("INSERT INTO t VALUES (1)")), "");

    // Nothing is on its way to a file while they are moved.
    for log in logs.all() {
        log.announce(Event::new("answer")).await.unwrap();
    }
    let away = scratch.path().join("away");
    fs::rename(&dir, &away).unwrap();
    // The first one may be carried out: nobody knew.
    wait_until("the log fails", || {
        client.query("INSERT INTO t VALUES (2)");
        logs.statements.counts().is_failing
    });
    for _ in 0..10 {
        let refused = client.query("INSERT INTO t VALUES (3)");
        assert_eq!(code_of(&refused), "58030");
    }
    // In one flight, too, and the session goes on behind it.
    let mut out = Vec::new();
    parse(b"", b"INSERT INTO t VALUES (3)", &[], &mut out);
    bind_nothing(b"", b"", &mut out);
    execute(b"", 0, &mut out);
    sync(&mut out);
    client.send(&out);
    assert_eq!(code_of(&client.until(b'Z')), "58030");
    // Nothing of a transaction is left when a part of it cannot be.
    let mut out = Vec::new();
    wire::message::build::query("INSERT INTO t VALUES (3)", &mut out);
    inside.send(&out);
    assert_eq!(code_of(&inside.rest()), "58030");
    assert_eq!(code_of(&stranger.query("SELECT 1")), "", "others go on");

    fs::rename(&away, &dir).unwrap();
    wait_until("it is written again", || {
        code_of(&client.query("SELECT 1")).is_empty()
    });
    let kept = client.query("SELECT count(*) FILTER (WHERE a <> 2) FROM t");
    assert_eq!(kit::raw::value(&kept), "0");
    logs.close();
    let lost = logs.statements.counts().lost;
    assert!(lost > 0);
    let with = With::keys(Keys::derive(&SECRET));
    assert!(verify::directory(&dir, &with, &[]).unwrap().is_whole());
    let files = audit::segments(&dir, audit::Stream::Statements).unwrap();
    let all: String = files
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    assert!(
        all.contains(&format!("\"event\":\"lost\",\"lines\":{lost}")),
        "{all}"
    );
}
