//! RESET and DISCARD ALL lead back to what the startup packet said, and at once, wherever they stand: the
//! same is said through the proxy and on a direct connection, and whatever a client could see is the same.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{
    Stack, Tenant,
    raw::{self, Message, Raw},
};
use model::Role;
use proxy::LendingRule;
use wire::{
    message::{Kind, build, parse},
    startup::Protocol,
};

const GROUP_PASSWORD: &str = "direct";
const BEGUN: &str = "-c TimeZone=Asia/Tokyo -c DateStyle=German -c app.one=begun -c work_mem=2MB";
const SEEN: &str = "SELECT current_setting('TimeZone'), current_setting('DateStyle'), current_user, \
    nullif(current_setting('app.one', true), ''), current_setting('work_mem'), '2020-06-01 12:00'::timestamptz";

/// What goes in one flight, and how often the server then says that it is ready.
struct Flight {
    says: Vec<Vec<u8>>,
    readies: usize,
}

fn message(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes);
    bytes
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(|out| build::parse(name.as_bytes(), sql.as_bytes(), &[], out))
}

fn bind(portal: &str, name: &str) -> Vec<u8> {
    message(|out| build::bind_nothing(portal.as_bytes(), name.as_bytes(), out))
}

fn execute(portal: &str) -> Vec<u8> {
    message(|out| build::execute(portal.as_bytes(), 0, out))
}

fn close(portal: &str) -> Vec<u8> {
    message(|out| build::close(Kind::Portal, portal.as_bytes(), out))
}

/// A portal that is open, and has not run.
fn open(portal: &str, sql: &str) -> Vec<u8> {
    [parse("", sql), bind(portal, "")].concat()
}

fn run(sql: &str) -> Vec<u8> {
    [open("", sql), execute("")].concat()
}

/// Pieces of a pipeline, and one Sync behind all.
fn pipeline(says: &[Vec<u8>]) -> Flight {
    let mut says = says.to_vec();
    says.push(message(build::sync));
    Flight { says, readies: 1 }
}

fn query(sql: &str) -> Flight {
    Flight {
        says: vec![message(|out| build::query(sql, out))],
        readies: 1,
    }
}

fn line((kind, body): &Message) -> Option<String> {
    let text = String::from_utf8_lossy;
    Some(match kind {
        b'S' => {
            let (name, value) = parse::parameter_status(body).unwrap();
            if name == b"session_authorization" {
                return None;
            }
            format!("S {}={}", text(name), text(value))
        }
        b'E' | b'N' => {
            let report = parse::report(body).unwrap();
            let fields = report
                .fields()
                .filter(|(letter, _)| !b"FLR".contains(letter));
            fields
                .map(|(letter, field)| format!("{}{} ", char::from(letter), text(field)))
                .collect()
        }
        kind => format!("{} {}", char::from(*kind), text(body)),
    })
}

/// Parameters that are told in a row have no order among themselves.
fn lines(seen: &[Message]) -> Vec<String> {
    let mut lines: Vec<_> = seen.iter().filter_map(line).collect();
    for told in lines.chunk_by_mut(|a, b| a.starts_with("S ") && b.starts_with("S ")) {
        told.sort();
    }
    lines
}

fn ours(stack: &Stack, tenant: &Tenant, mode: &str) -> Raw {
    let mut raw = Raw::plain(stack.port);
    let user = tenant.login(Role::Admin).to_string();
    let options = format!("{BEGUN} -c tenantry.pool_mode={mode}");
    let list = [
        ("user", user.as_str()),
        ("database", "postgres"),
        ("options", &options),
    ];
    let seen = raw.log_in(Protocol::V3_0, &list, &tenant.password);
    assert_eq!(raw::code_of(&seen), "", "{seen:?}");
    raw
}

/// As the group itself, so that DISCARD ALL is the same there.
fn direct(stack: &Stack, tenant: &Tenant) -> Raw {
    let mut raw = Raw::unix(&stack.postgres.socket());
    let database = tenant.pid.database();
    let options = format!("-c statement_timeout=60s {BEGUN}");
    let list = [
        ("user", "tenantry_admin"),
        ("database", &database),
        ("options", &options),
    ];
    let seen = raw.log_in(Protocol::V3_0, &list, GROUP_PASSWORD);
    assert_eq!(raw::code_of(&seen), "", "{seen:?}");
    raw
}

fn fly(raw: &mut Raw, flight: &Flight, in_bytes: bool) -> Vec<String> {
    let bytes = flight.says.concat();
    if in_bytes {
        bytes.iter().for_each(|byte| raw.send(&[*byte]));
    } else {
        raw.send(&bytes);
    }
    let seen: Vec<_> = (0..flight.readies).flat_map(|_| raw.until(b'Z')).collect();
    lines(&seen)
}

/// The same flights both ways, whole and byte by byte.
async fn check(cases: Vec<(&str, Vec<Flight>)>) {
    let stack = Stack::with_budget(10, |config| {
        config.require_tls = false;
        config.lending = LendingRule::NeverTheSameTwice;
    })
    .await;
    let tenant = stack.tenant();
    let database = tenant.pid.database();
    stack.postgres.sql(
        "postgres",
        &format!(
            "ALTER ROLE tenantry_admin LOGIN PASSWORD '{GROUP_PASSWORD}';
             GRANT {database} TO tenantry_admin;
             GRANT CONNECT ON DATABASE {database} TO tenantry_admin"
        ),
    );
    tokio::task::block_in_place(|| {
        for mode in ["auto", "session"] {
            for (name, flights) in &cases {
                for in_bytes in [false, true] {
                    let mut raw = ours(&stack, &tenant, mode);
                    let mut control = direct(&stack, &tenant);
                    let probe = query(SEEN);
                    for (at, flight) in flights.iter().chain([&probe]).enumerate() {
                        let one = fly(&mut raw, flight, in_bytes);
                        let other = fly(&mut control, flight, false);
                        assert_eq!(
                            one, other,
                            "{name}, flight {at}, mode {mode}, ours and direct"
                        );
                    }
                }
            }
        }
    });
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_pipeline_a_session_is_back_where_it_began_at_once() {
    let utc = || query("SET TimeZone TO 'UTC'; SET DateStyle TO 'ISO'; SET work_mem TO '3MB'");
    let reset = |sql: &str| vec![utc(), pipeline(&[run("SELECT 1"), run(sql), run(SEEN)])];
    check(vec![
        ("RESET", reset("RESET TimeZone")),
        ("DEFAULT", reset("SET DateStyle TO DEFAULT")),
        ("RESET ALL", reset("RESET ALL")),
        ("RESET ROLE", reset("RESET ROLE")),
        (
            "RESET that is rolled back",
            vec![
                utc(),
                pipeline(&[run("RESET ALL"), run(SEEN), run("SELECT 1/0"), run(SEEN)]),
            ],
        ),
        (
            "RESET SESSION AUTHORIZATION",
            reset("RESET SESSION AUTHORIZATION"),
        ),
        (
            "SET SESSION AUTHORIZATION DEFAULT",
            reset("SET SESSION AUTHORIZATION DEFAULT"),
        ),
        (
            "session authorization in a transaction",
            vec![
                query("BEGIN"),
                pipeline(&[run("RESET SESSION AUTHORIZATION"), run(SEEN)]),
                query("ROLLBACK"),
            ],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_discard_all_in_a_pipeline_a_session_is_as_it_began() {
    let changed = || query("SET TimeZone TO 'UTC'; SET app.one TO 'changed'");
    check(vec![
        ("alone", vec![changed(), pipeline(&[run("DISCARD ALL")])]),
        (
            "and more behind it",
            vec![
                changed(),
                pipeline(&[run("DISCARD ALL"), run(SEEN), run("SHOW TimeZone")]),
                pipeline(&[run(SEEN)]),
            ],
        ),
        // What it did is done, whatever fails behind it.
        (
            "and an error behind it",
            vec![
                changed(),
                pipeline(&[run("DISCARD ALL"), run("SELECT 1/0"), run(SEEN)]),
            ],
        ),
        (
            "and a change behind it",
            vec![pipeline(&[
                run("DISCARD ALL"),
                run("SET TimeZone TO 'UTC'"),
                run("SET work_mem TO '7MB'"),
                run(SEEN),
            ])],
        ),
        (
            "where it is refused",
            vec![
                changed(),
                pipeline(&[run("SELECT 1"), run("DISCARD ALL"), run(SEEN)]),
                query("BEGIN"),
                pipeline(&[run("DISCARD ALL"), run(SEEN)]),
                query("ROLLBACK"),
            ],
        ),
        (
            "again, by the same statement",
            vec![
                changed(),
                pipeline(&[run("DISCARD ALL"), bind("", ""), execute(""), run(SEEN)]),
            ],
        ),
        (
            "by a name, which is gone behind it",
            vec![
                pipeline(&[parse("mine", "DISCARD ALL"), parse("other", "SELECT 5")]),
                changed(),
                pipeline(&[bind("", "mine"), execute(""), run(SEEN)]),
                pipeline(&[bind("", "other"), execute("")]),
                pipeline(&[bind("", "mine"), execute("")]),
            ],
        ),
        (
            "and a query instead of a Sync",
            vec![
                changed(),
                Flight {
                    says: vec![run("DISCARD ALL"), query(SEEN).says.concat()],
                    readies: 1,
                },
            ],
        ),
        (
            "and a transaction",
            vec![
                changed(),
                pipeline(&[
                    run("DISCARD ALL"),
                    run("BEGIN"),
                    run("SET TimeZone TO 'UTC'"),
                    run("ROLLBACK"),
                    run(SEEN),
                ]),
            ],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_portal_runs_what_was_bound_to_it() {
    let changed = || query("SET TimeZone TO 'UTC'; SET DateStyle TO 'ISO'");
    check(vec![
        (
            "not the last that was bound",
            vec![
                changed(),
                pipeline(&[
                    open("one", "RESET TimeZone"),
                    open("two", "SHOW TimeZone"),
                    execute("one"),
                    execute("two"),
                    run(SEEN),
                ]),
            ],
        ),
        (
            "not the one that was bound to a RESET",
            vec![
                changed(),
                pipeline(&[
                    open("two", "SHOW TimeZone"),
                    open("one", "RESET ALL"),
                    execute("two"),
                    run(SEEN),
                ]),
            ],
        ),
        (
            "one of an earlier pipeline",
            vec![
                changed(),
                query("BEGIN"),
                pipeline(&[open("one", "RESET DateStyle")]),
                pipeline(&[run("SELECT 1"), execute("one"), run(SEEN)]),
                query("COMMIT"),
            ],
        ),
        (
            "one that is closed and bound anew",
            vec![
                changed(),
                query("BEGIN"),
                pipeline(&[
                    open("one", "RESET ALL"),
                    close("one"),
                    open("one", "SHOW DateStyle"),
                    execute("one"),
                    run(SEEN),
                ]),
                query("COMMIT"),
            ],
        ),
        (
            "one that is run twice",
            vec![
                changed(),
                pipeline(&[open("one", "RESET ALL"), execute("one"), execute("one")]),
            ],
        ),
        (
            "a name that was taken",
            vec![
                pipeline(&[parse("mine", "RESET ALL")]),
                pipeline(&[parse("mine", "SHOW TimeZone")]),
                pipeline(&[parse("other", "SHOW TimeZone")]),
                pipeline(&[parse("other", "RESET ALL")]),
                changed(),
                pipeline(&[bind("", "other"), execute(""), run(SEEN)]),
                pipeline(&[bind("", "mine"), execute(""), run(SEEN)]),
            ],
        ),
        (
            "DISCARD ALL beside another",
            vec![
                changed(),
                pipeline(&[
                    open("one", "DISCARD ALL"),
                    open("two", "SHOW TimeZone"),
                    execute("one"),
                    run(SEEN),
                ]),
            ],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn among_several_statements_a_reset_leads_back_at_once() {
    let changed = || query("SET TimeZone TO 'UTC'; SET DateStyle TO 'ISO'; SET work_mem TO '3MB'");
    let several = |sql: &str| vec![changed(), query(sql)];
    let seen = |first: &str, last: &str| several(&format!("{first}; {SEEN}; {last}"));
    check(vec![
        ("RESET", seen("RESET TimeZone", "SELECT 1")),
        (
            "RESET ALL",
            seen("/* a; b */ RESET ALL -- c;\n", "SELECT 1;"),
        ),
        ("DEFAULT", seen(" SET DateStyle TO DEFAULT ", "RESET ALL")),
        ("LOCAL", seen("SET TIME ZONE LOCAL", "SET TIME ZONE 'UTC'")),
        (
            "session authorization",
            seen("RESET SESSION AUTHORIZATION", "SELECT 1"),
        ),
        (
            "in a transaction that is rolled back",
            several(&format!("BEGIN; RESET ALL; {SEEN}; ROLLBACK; {SEEN}")),
        ),
        (
            "before an error",
            several(&format!("RESET ALL; {SEEN}; SELECT 1/0; {SEEN}")),
        ),
        // Its position is that in the client's text.
        (
            "before one that names a place",
            several("RESET TimeZone; SELECT nothing"),
        ),
        (
            "before one that names a place behind other characters",
            several("SELECT 'zw\u{f6}lf'; RESET ALL; SELECT '\u{fc}', nothing; RESET ALL"),
        ),
        (
            "beside what cannot be read",
            several("RESET ALL; SELEC 1; RESET ALL"),
        ),
        (
            "beside what does not end",
            several("RESET ALL; SELECT 'open"),
        ),
        (
            "beside a copy",
            several(&format!(
                "RESET ALL; COPY ({SEEN}) TO STDOUT; RESET DateStyle; {SEEN}"
            )),
        ),
        (
            "beside a refused DISCARD ALL",
            several(&format!("RESET ALL; DISCARD ALL; {SEEN}")),
        ),
        (
            "twice in one flight",
            vec![
                changed(),
                Flight {
                    says: [
                        "SELECT 1; RESET TimeZone; SHOW TimeZone",
                        "SELECT 2; SET TimeZone TO 'UTC'",
                        "SELECT 3; RESET ALL; SHOW DateStyle; SELECT x",
                        SEEN,
                    ]
                    .iter()
                    .flat_map(|sql| query(sql).says)
                    .collect(),
                    readies: 4,
                },
            ],
        ),
    ])
    .await;
}
