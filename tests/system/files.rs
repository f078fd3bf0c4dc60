//! Databases in files: dumped, restored and seeded with the command line.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use kit::{
    Stack, StackConfig,
    postgres::Postgres,
    program::{Ran, psql, resident_bytes, run, signal, wait_for},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// For a process that was told to end.
const END_MAX: Duration = Duration::from_secs(60);

/// What a schema may hold that has gone wrong in somebody's dump before.
const FILL: &str = r#"
create schema app;
do $$ begin create extension pgcrypto; exception when feature_not_supported then null; end $$;
create type app.mood as enum ('sad', 'ok;');
create table app.people (id bigint generated always as identity primary key, name text not null, feels app.mood,
  initial text generated always as (left(name, 1)) stored, tags text[]);
create function app.of_body(n int) returns int begin atomic; select case when n > 1 then 2 else 3 end; end;
create function app.of_text() returns text language sql as $a$ select '\.;' || $$\! id$$ $a$;
create view app.sad as select * from app.people where feels = 'sad';
comment on table app.people is 'naïve € 🐘 ''quoted'' \';
comment on schema public is null;
create table public.t as select 5 as n;
insert into app.people (name, feels, tags)
  select E'n' || n || E'\t\\.\n\\' , 'sad', array['a;', null] from generate_series(1, 30000) n;
select lo_from_bytea(4242, sha256('large'));
create table app.event (id int, day date, primary key (id, day)) partition by range (day);
create table app.event_1 partition of app.event default;
create index on app.event (day);
insert into app.event values (7, '2026-01-01');
"#;

const SUM: &str = "select md5(string_agg(p::text, '|' order by id)), app.of_body(2), app.of_text(), \
    (select count(*) from app.sad), (select n from t), encode(lo_get(4242), 'hex'), obj_description('app.people'::regclass), \
    (select string_agg(e::text, ';') from app.event_1 e) \
    from app.people p";

fn sql(address: &str, text: &str) -> Ran {
    run(psql(address).args(["-q", "-c", text]))
}

/// A stack that also takes clients without TLS, for programs that were built without.
fn stack_on(of: Postgres) -> Stack {
    Stack::start_with(StackConfig::on(of).arg("--allow-plain-pg"))
}

/// A directory with the programs of a PostgreSQL. Those of 18 here are built without TLS: they are
/// started with `sslmode=disable`, and are themselves in everything else.
fn programs(stack: &Stack, of: Postgres) -> PathBuf {
    if of == Postgres::System {
        return of.bin();
    }
    let dir = stack.scratch().join("programs");
    if !dir.exists() {
        fs::create_dir(&dir).unwrap();
        for name in ["pg_dump", "pg_restore"] {
            let program = of.program(name);
            let script = format!(
                "#!/bin/bash\nexec {} \"${{@/sslmode=require/sslmode=disable}}\"\n",
                program.display()
            );
            fs::write(dir.join(name), script).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    dir
}

/// `tenantry` with the programs of the stack's own PostgreSQL.
fn with_programs(stack: &Stack, of: Postgres, arguments: &[&str]) -> Ran {
    let programs = programs(stack, of);
    run(stack
        .cli_command(arguments)
        .env("TENANTRY_PG_BIN", programs))
}

fn round_trips(of: Postgres) {
    let stack = stack_on(of);
    let source = stack.create_address("source");
    sql(&source, FILL).ok();
    let before = sql(&source, SUM).ok().to_owned();
    let path = |name: &str| stack.scratch().join(name).to_str().unwrap().to_owned();
    for form in ["plain", "custom"] {
        let file = path(form);
        let dump = [
            "db", "dump", "source", "-o", &file, "--format", form, "--json",
        ];
        let dumped = with_programs(&stack, of, &dump).json();
        assert_eq!(dumped["bytes"], fs::metadata(&file).unwrap().len());
        // From the file, and from standard input.
        for input in [Some(&file), None] {
            let name = format!("{form}-{}", input.map_or("in", |_| "file"));
            let address = stack.create_address(&name);
            let words = ["db", "restore", &name, input.map_or("-", |file| file)];
            let mut command = stack.cli_command(&words);
            command.env("TENANTRY_PG_BIN", programs(&stack, of));
            let restored = if input.is_some() {
                run(&mut command)
            } else {
                let file = fs::File::open(&file).unwrap();
                command.stdin(file).output().unwrap().into()
            };
            restored.ok();
            assert_eq!(sql(&address, SUM).ok(), before, "{name}");
            if name != "plain-file" {
                stack.cli(&["delete", &name, "--yes"]).ok();
            }
        }
        // Once more into the same: refused, and undone with all it had done before.
        let again = with_programs(&stack, of, &["db", "restore", "plain-file", &file]);
        let said = again.failed(9);
        assert!(
            said.contains("already exists") && said.contains("nothing was changed"),
            "{said}"
        );
    }
    let text = fs::read_to_string(path("plain")).unwrap();
    for word in ["OWNER TO", "GRANT ", "tenantry_"] {
        assert!(!text.contains(word), "{word}");
    }
    // Cleared and made again, by name; also what partitions have from their table, which is dropped with them alone.
    let address = sql(&source, "insert into app.people (name) values ('new')");
    address.ok();
    with_programs(
        &stack,
        of,
        &["db", "restore", "source", &path("custom"), "--clean"],
    )
    .ok();
    assert_eq!(sql(&source, SUM).ok(), before);

    // Parts.
    let ddl = ["db", "dump", "source", "--ddl-only", "--schema", "app"];
    let ddl = with_programs(&stack, of, &ddl);
    assert!(ddl.ok().contains("CREATE TABLE app.people") && !ddl.stdout.contains("COPY "));
    assert!(!ddl.stdout.contains("public.t"));
    let public = with_programs(&stack, of, &["db", "dump", "source", "--schema", "public"]);
    assert!(public.ok().contains("CREATE SCHEMA public"));
    let address = stack.create_address("part");
    stack
        .cli_with_input(&["db", "restore", "part", "-"], &public.stdout)
        .ok();
    assert_eq!(sql(&address, "table t").ok(), "5");
}

#[test]
fn a_database_comes_back_from_its_dump_on_15() {
    round_trips(Postgres::System);
}

#[test]
fn a_database_comes_back_from_its_dump_on_18() {
    round_trips(Postgres::V18);
}

/// Rows of `secret` that its owner does not see, and those that are there.
const SEEN: &str = "select count(*) from secret";
const HIDDEN: &str = "alter table secret no force row level security; \
    select count(*), md5(string_agg(s::text, '|' order by id)) from secret s";

/// Rows that row security hides from the owner of a table, too, are in a dump, or there is none.
fn hidden_rows_are_dumped(of: Postgres) {
    let stack = stack_on(of);
    let source = stack.create_address("source");
    sql(&source, FILL).ok();
    let make = "create table secret (id int primary key, owner text default 'somebody'); \
        insert into secret select generate_series(1, 30000); \
        alter table secret enable row level security, force row level security; \
        create policy own on secret using (owner = current_user)";
    sql(&source, make).ok();
    assert_eq!(sql(&source, SEEN).ok(), "0");
    let path = |name: &str| stack.scratch().join(name).to_str().unwrap().to_owned();
    let mut found = Vec::new();
    for form in ["plain", "custom"] {
        let file = path(form);
        let dump = [
            "db", "dump", "source", "-o", &file, "--format", form, "--json",
        ];
        // No program is needed here for it: those of the server write it.
        let dumped = run(stack.cli_command(&dump).env("TENANTRY_PG_BIN", "/nowhere")).json();
        assert_eq!(dumped["bytes"], fs::metadata(&file).unwrap().len());
        let address = stack.create_address(form);
        with_programs(&stack, of, &["db", "restore", form, &file]).ok();
        assert_eq!(sql(&address, SEEN).ok(), "0", "it is hidden again");
        found.push(sql(&address, HIDDEN).ok().to_owned());
        assert_eq!(sql(&address, SUM).ok(), sql(&source, SUM).ok());
    }
    let text = fs::read_to_string(path("plain")).unwrap();
    for word in ["OWNER TO", "GRANT ", "tenantry_"] {
        assert!(!text.contains(word), "{word}");
    }
    // Parts, and to standard output.
    let part = stack.cli(&["db", "dump", "source", "--data-only", "--schema", "app"]);
    assert!(part.ok().contains("COPY app.people") && !part.stdout.contains("secret"));
    // Who may not see all of it gets nothing.
    let file = path("plain");
    let reader = ["db", "dump", "source", "-o", &file, "--role", "read"];
    with_programs(&stack, of, &reader).failed(1);
    stack
        .cli(&["db", "limits", "set", "source", "result_rows_max=10"])
        .ok();
    let refused = stack.cli(&["db", "dump", "source", "-o", &file]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stderr.contains("are limited"), "{refused:?}");
    stack
        .cli(&["db", "limits", "set", "source", "result_rows_max=off"])
        .ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), text);

    // Whoever goes away ends it, and no login is left, nor a file.
    let logins = "select count(*) from pg_roles where rolname like '%export'";
    assert_eq!(sql(&source, logins).ok(), "0");
    let waiting = "select count(*) from pg_stat_activity where usename like '%export'";
    let mut lock = psql(&source)
        .args([
            "-q",
            "-c",
            "begin; lock table secret; select 'locked'; select pg_sleep(600)",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let locked = "select count(*) from pg_locks where granted and mode = 'AccessExclusiveLock' \
        and relation = 'secret'::regclass";
    wait_for("the lock", END_MAX, || {
        (sql(&source, locked).ok() == "1").then_some(())
    });
    let mut dump = stack
        .cli_command(&["db", "dump", "source", "-o", &file])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the dump", END_MAX, || {
        (sql(&source, waiting).ok() == "1").then_some(())
    });
    signal(dump.id(), Signal::TERM);
    assert_eq!(dump.wait().unwrap().code(), Some(1));
    wait_for("its end", END_MAX, || {
        (sql(&source, logins).ok() == "0").then_some(())
    });
    signal(lock.id(), Signal::TERM);
    lock.wait().unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    found.push(sql(&source, HIDDEN).ok().to_owned());
    assert!(found[0].starts_with("30000|"), "{found:?}");
    assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
}

#[test]
fn rows_that_row_security_hides_from_their_owner_are_in_a_dump_on_15() {
    hidden_rows_are_dumped(Postgres::System);
}

#[test]
fn rows_that_row_security_hides_from_their_owner_are_in_a_dump_on_18() {
    hidden_rows_are_dumped(Postgres::V18);
}

/// Names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let all = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = all
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_dump_that_breaks_off_leaves_the_file_as_it_was() {
    let stack = Stack::start();
    let address = stack.create_address("app");
    sql(&address, "create table t as select 5 as n").ok();
    let dir = stack.scratch().join("dumps");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("app.sql");
    fs::write(&file, "old").unwrap();
    let name = file.to_str().unwrap();

    // pg_dump refuses: a table that it may not lock is in the way for as long as this session lives.
    let ended = stack.cli(&["db", "dump", "app", "-o", name, "--schema", "nowhere"]);
    assert!(ended.failed(1).contains("as it was"), "{ended:?}");
    assert_eq!(
        (names(&dir), fs::read(&file).unwrap()),
        (vec!["app.sql".into()], b"old".to_vec())
    );

    let mut holder = psql(&address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = holder.stdin.take().unwrap();
    writeln!(input, "begin; lock table t;").unwrap();
    let is_locked = "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and relation = 't'::regclass::oid and granted";
    wait_for("the lock", END_MAX, || {
        (sql(&address, is_locked).ok() == "1").then_some(())
    });
    let mut dump = stack
        .cli_command(&["db", "dump", "app", "-o", name])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let waits = "select count(*) from pg_locks where relation = 't'::regclass::oid and not granted";
    wait_for("pg_dump", END_MAX, || {
        (sql(&address, waits).ok() == "1").then_some(())
    });
    signal(dump.id(), Signal::TERM);
    assert_eq!(dump.wait().unwrap().code(), Some(1));
    assert_eq!(
        (names(&dir), fs::read(&file).unwrap()),
        (vec!["app.sql".into()], b"old".to_vec())
    );
    drop(input);
    holder.wait().unwrap();

    // A version that is too old is not tried.
    let newer = stack_on(Postgres::V18);
    newer.cli(&["create", "app"]).ok();
    let old = Postgres::System.bin();
    let refused = run(newer
        .cli_command(&["db", "dump", "app"])
        .env("TENANTRY_PG_BIN", &old));
    let said = refused.failed(10);
    assert!(
        said.contains("PostgreSQL 18 or later") && said.contains("postgresql-client-18"),
        "{said}"
    );
}

#[test]
fn what_a_file_tells_psql_to_do_is_not_done_and_nothing_of_the_file_stays() {
    let stack = Stack::start();
    let address = stack.create_address("app");
    let proof = stack.scratch().join("proof");
    let file = stack.scratch().join("evil.sql");
    let shell = format!("\\! touch {}\n", proof.display());
    let copy = format!("\\copy t to '{}'\n", proof.display());
    let gexec = "select 'select 1' \\gexec\n".to_owned();
    for evil in [
        shell,
        copy,
        gexec,
        "\\connect other\n".to_owned(),
        "rollback;\n".to_owned(),
    ] {
        fs::write(&file, format!("create table t (n int);\n{evil}select 1;\n")).unwrap();
        let name = file.to_str().unwrap();
        for command in ["restore", "seed"] {
            let ran = stack.cli(&["db", command, "app", name]);
            let said = ran.failed(6);
            assert!(
                said.contains("line 2") && said.contains("nothing was changed"),
                "{evil}: {said}"
            );
        }
    }
    assert!(!proof.exists());
    assert_eq!(sql(&address, "select to_regclass('t') is null").ok(), "t");

    // A custom dump is made a text by pg_restore, and its names may hold what they want.
    sql(
        &address,
        "create table \"a\n\\! touch proof\n\" as select 1 as n",
    )
    .ok();
    for form in ["plain", "custom"] {
        let dump = stack.scratch().join(form);
        let dump = dump.to_str().unwrap();
        stack
            .cli(&["db", "dump", "app", "-o", dump, "--format", form])
            .ok();
        let other = stack.create_address(form);
        stack.cli(&["db", "restore", form, dump]).ok();
        assert_eq!(
            sql(
                &other,
                "select count(*) from pg_tables where schemaname = 'public'"
            )
            .ok(),
            "1"
        );
    }
    assert!(!proof.exists());
}

#[test]
fn a_restore_that_breaks_off_leaves_nothing() {
    let stack = Stack::start();
    let source = stack.create_address("source");
    sql(
        &source,
        "create table t as select n, repeat('x', 100) as x from generate_series(1, 50000) n",
    )
    .ok();
    let target = stack.create_address("target");
    let is_empty = || assert_eq!(sql(&target, "select to_regclass('t') is null").ok(), "t");
    let path = |name: &str| stack.scratch().join(name).to_str().unwrap().to_owned();
    for form in ["plain", "custom"] {
        let whole = path(form);
        stack
            .cli(&["db", "dump", "source", "-o", &whole, "--format", form])
            .ok();
        let bytes = fs::read(&whole).unwrap();
        // Within the rows, and before the last line.
        for length in [bytes.len() / 2, bytes.len() - 200] {
            let part = path("part");
            fs::write(&part, &bytes[..length]).unwrap();
            let ran = stack.cli(&["db", "restore", "target", &part]);
            let said = ran.failed(6);
            assert!(
                said.contains("nothing was changed"),
                "{form} {length}: {said}"
            );
            is_empty();
        }
    }

    // Ended by the machine while rows are on their way.
    let text = fs::read_to_string(path("plain")).unwrap();
    let half = &text[..text.len() / 2];
    let mut restore = stack
        .cli_command(&["db", "restore", "target", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = restore.stdin.take().unwrap();
    input.write_all(half.as_bytes()).unwrap();
    let copies = "select count(*) from pg_stat_progress_copy where datname = current_database()";
    wait_for("the copy", END_MAX, || {
        (sql(&target, copies).ok() == "1").then_some(())
    });
    signal(restore.id(), Signal::KILL);
    restore.wait().unwrap();
    drop(input);
    wait_for("its end", END_MAX, || {
        (sql(&target, copies).ok() == "0").then_some(())
    });
    is_empty();
    stack.cli(&["db", "restore", "target", &path("plain")]).ok();
    assert_eq!(sql(&target, "select count(*) from t").ok(), "50000");
}

#[test]
fn a_stranger_s_dump_is_restored_without_its_roles_and_sql_is_run_as_it_is() {
    let stack = Stack::start();
    let address = stack.create_address("app");
    // As pg_dump 18 writes one of a server that somebody else runs, restored on an older server.
    let dump = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\nSET statement_timeout = 0;\n\
        SET transaction_timeout = 0;\nSET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n\
        SELECT pg_catalog.set_config('search_path', '', false);\nSET row_security = off;\n\
        CREATE TABLE public.t (n integer);\nALTER TABLE public.t OWNER TO alice;\n\
        COPY public.t (n) FROM stdin;\n1\n2\n\\.\n\n\
        GRANT SELECT ON TABLE public.t TO bob;\nREVOKE ALL ON TABLE public.t FROM PUBLIC;\n\
        ALTER DEFAULT PRIVILEGES FOR ROLE alice GRANT SELECT ON TABLES TO bob;\n\
        --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n";
    let restored = stack.cli_with_input(&["db", "restore", "app", "-", "--json"], dump);
    assert_eq!(restored.json()["left_out"], 4, "{restored:?}");
    assert_eq!(sql(&address, "select sum(n) from t").ok(), "3");
    assert_eq!(
        sql(
            &address,
            "select tableowner from pg_tables where tablename = 't'"
        )
        .ok(),
        "tenantry_admin"
    );

    // SQL that somebody wrote says what it means.
    let owner = stack.cli_with_input(
        &["db", "seed", "app", "-"],
        "select 1;\nalter table t owner to alice;",
    );
    let said = owner.failed(9);
    assert!(
        said.contains("line 2: role \"alice\" does not exist (42704)"),
        "{said}"
    );
    let late = "insert into t values (5); create table u (n int unique deferrable initially deferred);\n\
        insert into u values (1), (1);";
    let late = stack.cli_with_input(&["db", "seed", "app", "-"], late);
    assert!(late.failed(9).contains("(23505)"), "{late:?}");
    assert_eq!(
        sql(&address, "select sum(n), to_regclass('u') is null from t").ok(),
        "3|t"
    );
    let seed = "insert into t values (5); copy t from stdin;\n6\n\\.\ninsert into t values (7)";
    stack
        .cli_with_input(&["db", "seed", "app", "-", "--role", "write"], seed)
        .ok();
    assert_eq!(sql(&address, "select sum(n) from t").ok(), "21");
    let begun = stack.cli_with_input(
        &["db", "seed", "app", "-"],
        "begin; insert into t values (1); commit;",
    );
    begun.failed(6);
}

fn exports(of: Postgres) {
    let stack = Stack::start_with(StackConfig::on(of));
    let address = stack.create_address("app");
    let fill = r#"
create table "Odd ""name""" (id bigint, t text, n numeric, b bool, j json, a int[], at timestamptz, raw bytea, nothing text);
insert into "Odd ""name""" values
  (1, E'a,"b"\nc\\\t', 1.50, true, E'{"x":\n [1,\r\n 2]}', '{1,null}', '2026-01-31 12:00:00+02', '\x0102', null),
  (2, '', 'NaN', null, 'null', '{}', 'infinity', '', '\.');
create table guarded (n int);
alter table guarded enable row level security, force row level security;
"#;
    sql(&address, fill).ok();
    let table = r#""Odd ""name""""#;
    let csv = stack.cli(&["db", "export", "app", table]);
    assert_eq!(
        csv.ok(),
        "id,t,n,b,j,a,at,raw,nothing\n\
         1,\"a,\"\"b\"\"\nc\\\t\",1.50,t,\"{\"\"x\"\":\n [1,\r\n 2]}\",\"{1,NULL}\",2026-01-31 10:00:00+00,\\x0102,\n\
         2,\"\",NaN,,null,{},infinity,\\x,\\."
    );
    let file = stack.scratch().join("rows.ndjson");
    let name = file.to_str().unwrap();
    let said = [
        "db", "export", "app", table, "--format", "ndjson", "-o", name, "--json",
    ];
    let said = stack.cli(&said).json();
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(said["bytes"], text.len());
    let rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let is = json!([
        {"id": 1, "t": "a,\"b\"\nc\\\t", "n": 1.5, "b": true, "j": {"x": [1, 2]}, "a": [1, null],
         "at": "2026-01-31T10:00:00+00:00", "raw": "\\x0102", "nothing": null},
        {"id": 2, "t": "", "n": "NaN", "b": null, "j": null, "a": [], "at": "infinity", "raw": "\\x",
         "nothing": "\\."},
    ]);
    assert_eq!(Value::Array(rows), is);

    let query = |query: &str, more: &[&str]| {
        let words = ["db", "export", "app", "--query", query];
        stack.cli(&[&words[..], more].concat())
    };
    assert_eq!(
        query("select 1 as a union select 2 order by a; -- all", &[])
            .failed(9)
            .lines()
            .count(),
        2
    );
    assert_eq!(query("select 1 as a -- all\n;", &[]).ok(), "a\n1");
    query("select 1 as a, 2 as a", &["--format", "ndjson"]).failed(6);
    query("select 1 as a, 2 as a", &[]).ok();
    let written = query(
        "with x as (delete from guarded returning n) select n from x",
        &[],
    );
    written.failed(9);
    // Hidden rows are an error, and the file stays what it was.
    let hidden = stack.cli(&["db", "export", "app", "guarded", "-o", name]);
    assert!(
        hidden.failed(9).contains("row-level security"),
        "{hidden:?}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    stack.cli(&["db", "export", "app", "nowhere"]).failed(4);
    stack
        .cli(&["db", "export", "app", "a; drop table guarded"])
        .failed(4);
}

#[test]
fn rows_are_exported_as_they_are_on_15() {
    exports(Postgres::System);
}

#[test]
fn rows_are_exported_as_they_are_on_18() {
    exports(Postgres::V18);
}

/// Memory of a process on the way of 100 MB: its program, with what of the file of an unoptimised build lies in
/// RAM, TLS, and what is on its way. Less than what passes.
const RESIDENT_BYTES_MAX: u64 = 100 * 1024 * 1024;

#[test]
fn what_goes_in_and_out_is_not_kept_in_memory() {
    let stack = Stack::start();
    stack.create_address("app");
    let rows = "select n, repeat('x', 1000) as x from generate_series(1, 100000) n";
    let mut export = stack
        .cli_command(&["db", "export", "app", "--query", rows])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    stack
        .cli(&["db", "sql", "app", "-q", "create table t (n int, x text)"])
        .ok();
    let mut restore = stack
        .cli_command(&["db", "restore", "app", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut from, mut to) = (export.stdout.take().unwrap(), restore.stdin.take().unwrap());
    to.write_all(b"copy t from stdin (format csv, header);\n")
        .unwrap();
    let mut buffer = vec![0; 1024 * 1024];
    let (mut bytes, mut most) = (0, 0);
    loop {
        let read = from.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        to.write_all(&buffer[..read]).unwrap();
        bytes += read;
        most = most
            .max(resident_bytes(export.id()))
            .max(resident_bytes(restore.id()));
    }
    to.write_all(b"\\.\n").unwrap();
    drop(to);
    assert!(export.wait().unwrap().success() && restore.wait().unwrap().success());
    assert!(
        bytes > 100_000_000 && most < RESIDENT_BYTES_MAX,
        "{bytes} {most}"
    );
    let count = stack.cli(&[
        "db",
        "sql",
        "app",
        "-q",
        "select count(*) from t",
        "--output",
        "raw",
    ]);
    assert_eq!(count.ok(), "100000");
}
