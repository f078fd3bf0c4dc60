//! Databases of another PostgreSQL, imported with the command line.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio, time::Duration};

use kit::{
    Stack, StackConfig,
    door::{Door, Then},
    postgres::Postgres,
    program::{Ran, psql, run, signal, wait_for},
    server::Server,
};
use rustix::process::Signal;

/// For a process that was told to end.
const END_MAX: Duration = Duration::from_secs(60);
/// The password of the source; in no message.
const PASSWORD: &str = "r1ght-s3cret";

/// What has gone wrong in somebody's move before. All of it belongs to a role that the target does not have.
const FILL: &str = r#"
create schema app authorization shop;
set role shop;
create type app.mood as enum ('sad', 'ok;');
create domain app.short as text check (length(value) < 10);
create type app.pair as (a int, b app.short);
create table app.people (id bigint generated always as identity primary key, name text not null, feels app.mood,
  initial text generated always as (left(name, 1)) stored, tags text[], two app.pair);
create table app."Odd ""name""" (id int primary key, person bigint not null references app.people deferrable initially deferred);
create table app.secret (id int primary key, owner name, word text);
create table app.events (at date not null, feels app.mood, n int) partition by range (at);
create table app.events_a partition of app.events for values from ('2025-01-01') to ('2026-01-01');
create table app.events_b partition of app.events for values from ('2026-01-01') to ('2027-01-01') partition by hash (feels);
create table app.events_b0 partition of app.events_b for values with (modulus 2, remainder 0);
create table app.events_b1 partition of app.events_b for values with (modulus 2, remainder 1);
create table app.parent (n int); create table app.child (m int) inherits (app.parent);
create function app.stamp() returns trigger language plpgsql as $a$ begin new.name := new.name || '!'; return new; end $a$;
create view app.sad as select id, name from app.people where feels = 'sad';
comment on table app.people is 'naïve € 🐘 ''quoted'' \';
insert into app.people (name, feels, tags, two)
  select E'n' || n || E'\t\\.\n\\' , 'sad', array['a;', null], row(n, 'x')::app.pair from generate_series(1, 20000) n;
create trigger stamp before insert on app.people for each row execute function app.stamp();
insert into app."Odd ""name""" select n, n from generate_series(1, 100) n;
insert into app.secret select n, 'nobody', 'w' || n from generate_series(1, 50) n;
alter table app.secret enable row level security, force row level security;
create policy mine on app.secret using (owner = current_user);
insert into app.events select date '2025-06-01' + n, case when n % 2 = 0 then 'sad' else 'ok;' end::app.mood, n
  from generate_series(1, 400) n;
insert into app.parent select generate_series(1, 3); insert into app.child select n, n from generate_series(4, 9) n;
create materialized view app.totals as select count(*) as n from app.people;
create publication theirs for table app.people;
select lo_from_bytea(4242, sha256('large'));
reset role;
grant select on app.people to public;
"#;

/// All of it in one line, by whoever may see all of it.
const SUM: &str = r#"select (select md5(string_agg(p::text, '|' order by id)) from app.people p),
    (select sum(person) from app."Odd ""name"""), (select n from app.totals), (select count(*) from app.sad),
    (select string_agg(at::text || feels::text || n, ',' order by at) from app.events),
    (select string_agg(n::text, ',' order by n) from only app.parent), (select sum(m) from app.child),
    encode(lo_get(4242), 'hex'), obj_description('app.people'::regclass),
    (select relforcerowsecurity from pg_class where oid = 'app.secret'::regclass)"#;

/// A source with a database `shop` of a role `shop`, and a door to it.
struct Shop {
    server: Server,
    postgres: Postgres,
}

impl Shop {
    fn start(postgres: Postgres, fill: &str) -> Self {
        let server = Server::start(postgres, &[]);
        let role = format!("create role shop login password '{PASSWORD}'");
        server.sql("postgres", &role);
        server.sql("postgres", "create database shop owner shop");
        server.sql("shop", fill);
        Self { server, postgres }
    }

    fn door(&self, limit: Option<(u64, Then)>) -> Door {
        let socket = self.server.socket_dir().join(".s.PGSQL.5432");
        Door::open(&socket, limit)
    }
}

/// As the superuser, who sees what `force row level security` hides from its owner.
fn boss(door: &Door) -> String {
    format!(
        "postgres://boss@127.0.0.1:{}/shop?sslmode=disable",
        door.port()
    )
}

fn owner(door: &Door, password: &str) -> String {
    format!(
        "postgres://shop:{password}@localhost:{}/shop?sslmode=disable",
        door.port()
    )
}

fn sql(address: &str, text: &str) -> Ran {
    run(psql(address).args(["-q", "-c", text]))
}

/// Runs `tenantry db import` with the programs of this PostgreSQL.
fn import(stack: &Stack, of: Postgres, arguments: &[&str]) -> Ran {
    run(&mut importing(stack, of, arguments))
}

fn importing(stack: &Stack, of: Postgres, arguments: &[&str]) -> std::process::Command {
    let mut command = stack.cli_command(&["db", "import"]);
    command.args(arguments).env("TENANTRY_PG_BIN", of.bin());
    command
}

fn comes_over(from: Postgres, to: Postgres) {
    let shop = Shop::start(from, FILL);
    let stack = Stack::start_with(StackConfig::on(to));
    let door = shop.door(None);
    let dsn = boss(&door);
    let before = shop.server.sql("shop", SUM);

    // Its owner may not read what a policy hides, and nothing of the rest comes.
    let address = stack.create_address("part");
    let hidden = import(&stack, from, &[&owner(&door, PASSWORD), "--into", "part"]);
    let said = format!("{}{}", hidden.stderr, hidden.stdout);
    assert_ne!(hidden.code, Some(0));
    assert!(
        said.contains("row-level security") && said.contains("nothing was changed"),
        "{said}"
    );
    assert_eq!(
        sql(&address, "select to_regclass('app.people') is null").ok(),
        "t"
    );

    let address = stack.create_address("whole");
    let whole = import(&stack, from, &[&dsn, "--into", "whole", "--json"]).json();
    assert_eq!(
        (&whole["tables"], &whole["rows"]),
        (&6.into(), &20_559.into()),
        "{whole}"
    );
    assert_eq!(sql(&address, SUM).ok(), before);
    let rest = "select (select count(distinct relowner) = 1 from pg_class where relnamespace = 'app'::regnamespace), \
        (select count(*) from pg_publication), (select count(*) from app.secret), nextval('app.people_id_seq')";
    assert_eq!(sql(&address, rest).ok(), "t|0|0|20001");
    // Its rows are there, and hidden from their new owner as they were from the old one.
    let rows = "begin; alter table app.secret no force row level security; select count(*) from app.secret; rollback";
    assert_eq!(sql(&address, rows).ok(), "50");

    // What is there is not touched, unless it is said.
    let again = import(&stack, from, &[&dsn, "--into", "whole"]);
    assert!(again.failed(5).contains("not empty") && again.stderr.contains("nothing was changed"));
    let again = import(&stack, from, &[&dsn, "--into", "whole", "--add"]);
    assert!(again.failed(9).contains("already exists"), "{again:?}");
    assert_eq!(sql(&address, SUM).ok(), before);

    // In two steps: what it is made of, then rows.
    let address = stack.create_address("steps");
    let rows_alone = ["--data-only", "--into", "steps", "--schema", "other"];
    shop.server.sql(
        "shop",
        "create schema other; create table other.t as select generate_series(1, 7) as n",
    );
    let early = import(&stack, from, &[&[&*dsn], &rows_alone[..]].concat());
    assert!(early.failed(4).contains("\"other\".\"t\""), "{early:?}");
    let made = [
        "--schema-only",
        "--schema",
        "other",
        "--into",
        "steps",
        "--json",
    ];
    let made = import(&stack, from, &[&[&*dsn], &made[..]].concat()).json();
    assert!(made["rows"].is_null() && made["tables"] == 1, "{made}");
    assert_eq!(sql(&address, "select count(*) from other.t").ok(), "0");
    import(&stack, from, &[&[&*dsn], &rows_alone[..]].concat()).ok();
    let nowhere = [
        "--schema",
        "Other",
        "--schema",
        "app",
        "--schema",
        "no\u{7}where",
    ];
    let nowhere = import(
        &stack,
        from,
        &[&[&*dsn, "--into", "steps", "--add"], &nowhere[..]].concat(),
    );
    let said = nowhere.failed(4);
    assert!(
        said.contains("the source has no schema 'Other', 'no\u{fffd}where'\n"),
        "{said}"
    );
    let twice = import(&stack, from, &[&[&*dsn], &rows_alone[..]].concat());
    assert!(twice.failed(5).contains("has rows already"), "{twice:?}");
    let added = [&[&*dsn], &rows_alone[..], &["--add"]].concat();
    import(&stack, from, &added).ok();
    assert_eq!(sql(&address, "select count(*) from other.t").ok(), "14");
}

#[test]
fn a_database_of_18_comes_over_to_15() {
    comes_over(Postgres::V18, Postgres::System);
}

#[test]
fn a_database_of_15_comes_over_to_18() {
    comes_over(Postgres::System, Postgres::V18);
}

#[test]
fn a_source_is_reached_as_its_dsn_says_and_in_no_other_way() {
    let shop = Shop::start(
        Postgres::System,
        "create table t as select 5 as n; alter table t owner to shop",
    );
    let stack = Stack::start();
    let address = stack.create_address("app");
    let door = shop.door(None);
    let of = shop.postgres;
    let refused = |dsn: &str, code: i32| {
        let mut command = importing(&stack, of, &[dsn, "--into", "app"]);
        // What libpq would take from around it: the right password, of its file.
        let pgpass = stack.scratch().join("pgpass");
        fs::write(&pgpass, format!("*:*:*:*:{PASSWORD}\n")).unwrap();
        fs::set_permissions(&pgpass, fs::Permissions::from_mode(0o600)).unwrap();
        let ran = run(command.env("PGPASSFILE", &pgpass).env("PGUSER", "boss"));
        let said = ran.failed(code).to_owned();
        assert!(
            !said.contains("wr0ng") && !said.contains(PASSWORD),
            "{said}"
        );
        said
    };
    let wrong = refused(&owner(&door, "wr0ng-s3cret"), 3);
    assert!(wrong.contains("password authentication failed"), "{wrong}");
    let port = door.port();
    refused(
        &format!("postgres://shop@127.0.0.1:{port}/shop?sslmode=disable"),
        8,
    );
    let socket = shop.server.socket_dir().display();
    let tcp = refused(
        &format!("host={socket} user=shop password=wr0ng dbname=shop"),
        2,
    );
    assert!(tcp.contains("TCP"), "{tcp}");
    for more in [
        "service=x",
        "passfile=/etc/passwd",
        "sslkey=/etc/passwd",
        "hostaddr=127.0.0.1",
    ] {
        refused(
            &format!("host=127.0.0.1 user=shop password=wr0ng {more}"),
            2,
        );
    }
    // It speaks no TLS, and none is asked of a name of this machine only.
    refused(
        &format!("postgres://shop:wr0ng@127.0.0.1:{port}/shop?sslmode=require"),
        8,
    );
    assert_eq!(sql(&address, "select to_regclass('t') is null").ok(), "t");

    // By standard input nobody else can read it.
    let mut command = importing(&stack, of, &["-", "--into", "app"]);
    let input = format!("{}\n", owner(&door, PASSWORD));
    kit::program::run_with_input(&mut command, &input).ok();
    assert_eq!(sql(&address, "table t").ok(), "5");
}

#[test]
fn what_the_target_cannot_have_is_named_before_anything_is_written() {
    let fill = "create extension dblink; create extension citext; create table t (n citext);
        create function f() returns event_trigger language plpgsql as 'begin end';
        create event trigger watch on ddl_command_end execute function f()";
    let shop = Shop::start(Postgres::System, fill);
    let stack = Stack::start();
    let address = stack.create_address("app");
    let door = shop.door(None);
    let dsn = boss(&door);
    let refused = import(&stack, shop.postgres, &[&dsn, "--into", "app"]);
    let said = refused.failed(6);
    assert!(
        said.contains("the extensions dblink; the event triggers watch"),
        "{said}"
    );
    shop.server
        .sql("shop", "drop event trigger watch; drop function f");
    import(
        &stack,
        shop.postgres,
        &[&dsn, "--into", "app", "--skip-extension", "dblink"],
    )
    .ok();
    let there = "select string_agg(extname, ',' order by extname) from pg_extension";
    assert_eq!(sql(&address, there).ok(), "citext,plpgsql");
}

#[test]
fn rows_that_do_not_arrive_undo_the_import() {
    let shop = Shop::start(
        Postgres::System,
        "create table t as select generate_series(1, 9) as n",
    );
    let stack = Stack::start();
    let address = stack.create_address("app");
    // A pg_dump that loses a row.
    let programs = stack.scratch().join("programs");
    fs::create_dir(&programs).unwrap();
    let program = programs.join("pg_dump");
    let script = format!(
        "#!/bin/bash\n{} \"$@\" | sed '/^7$/d'\n",
        shop.postgres.program("pg_dump").display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let door = shop.door(None);
    let dsn = boss(&door);
    let mut command = importing(&stack, shop.postgres, &[&dsn, "--into", "app"]);
    let lost = run(command.env("TENANTRY_PG_BIN", &programs));
    let said = lost.failed(1);
    assert!(
        said.contains("public.t: 9 in the source, 8 were taken here"),
        "{said}"
    );
    assert_eq!(sql(&address, "select to_regclass('t') is null").ok(), "t");
}

#[test]
fn an_import_that_breaks_off_leaves_nothing() {
    // 20 MB, more than all buffers on the way together.
    let fill =
        "create table t as select n, repeat('x', 1000) as x from generate_series(1, 20000) n";
    let shop = Shop::start(Postgres::System, fill);
    let stack = Stack::start();
    let address = stack.create_address("app");
    let half = 10 * 1024 * 1024;
    let is_empty = || assert_eq!(sql(&address, "select to_regclass('t') is null").ok(), "t");

    let door = shop.door(Some((half, Then::Lost)));
    let lost = import(&stack, shop.postgres, &[&boss(&door), "--into", "app"]);
    assert!(lost.failed(8).contains("nothing was changed"), "{lost:?}");
    is_empty();

    for with in [Signal::KILL, Signal::TERM] {
        let door = shop.door(Some((half, Then::Stuck)));
        let mut child = importing(&stack, shop.postgres, &[&boss(&door), "--into", "app"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let copies =
            "select count(*) from pg_stat_progress_copy where datname = current_database()";
        let count = |is: &'static str| {
            wait_for("the copy", END_MAX, || {
                (sql(&address, copies).ok() == is).then_some(())
            });
        };
        count("1");
        signal(child.id(), with);
        let status = child.wait().unwrap();
        assert_eq!(status.code(), (with == Signal::TERM).then_some(1));
        count("0");
        is_empty();
    }
    let door = shop.door(None);
    import(&stack, shop.postgres, &[&boss(&door), "--into", "app"]).ok();
    assert_eq!(sql(&address, "select count(*) from t").ok(), "20000");
}
