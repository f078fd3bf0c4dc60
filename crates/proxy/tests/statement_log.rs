//! The log of a tenant's statements has exactly what the tenant wants in it, however they are sent, and nothing of
//! their constants.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::time::Duration;

use kit::{
    Stack, Tenant,
    common::{limit, raw},
    raw::{Raw, code_of},
};
use model::{
    Limits, Role,
    limits::StatementLog::{self, All, Errors, Off, Sampled, Slow},
    route::PoolMode,
};
use wire::message::build::{bind_nothing, execute, parse, sync};

/// No statement takes as long that is not told to, on a machine that has other things to do.
const SLOW: Duration = Duration::from_millis(2_000);

/// Text, SQLSTATE, rows, whether it was slow.
type Seen = (String, String, u64, bool);

/// What is in the log of the tenant since it was last asked for.
async fn take(stack: &Stack, tenant: &Tenant) -> Vec<Seen> {
    let all = stack.proxy().numbers().take_log().await;
    let own = all.into_iter().filter(|own| own.tenant == tenant.id);
    own.flat_map(|log| {
        assert_eq!(log.dropped, 0);
        assert!(!format!("{log:?}").contains("canary"), "{log:?}");
        let lines = log.lines.into_iter().map(|line| {
            assert_eq!(line.login, Role::Admin.into());
            let text = line.statement.map(|place| log.statements[place].1.clone());
            let code = line
                .error
                .map(|code| String::from_utf8_lossy(&code).into_owned());
            // What was refused when it was prepared took no time.
            assert_eq!(line.took_us.is_none(), code.as_deref() == Some("42P01"));
            (
                text.unwrap_or_default(),
                code.unwrap_or_default(),
                line.rows,
                line.is_slow,
            )
        });
        lines.collect::<Vec<_>>()
    })
    .collect()
}

/// A bit of everything; and what is in the log of it when all is.
fn work(client: &mut Raw) -> Vec<Seen> {
    assert_eq!(code_of(&client.query("SELECT 'canary', 1")), "");
    client.query("BEGIN; INSERT INTO t VALUES ('canary'), ('x'); COMMIT");
    // Inside a transaction.
    client.query("BEGIN");
    client.query("SELECT 1 / 0");
    client.query("SELECT 1");
    client.query("ROLLBACK");
    // In one flight: what comes behind an error is not carried out.
    let mut out = Vec::new();
    parse(b"", b"SELECT 'canary'::text", &[], &mut out);
    for _ in 0..2 {
        bind_nothing(b"", b"", &mut out);
        execute(b"", 0, &mut out);
    }
    parse(b"", b"SELECT 2 / 0 FROM t", &[], &mut out);
    for _ in 0..2 {
        bind_nothing(b"", b"", &mut out);
        execute(b"", 0, &mut out);
    }
    sync(&mut out);
    client.send(&out);
    assert_eq!(code_of(&client.until(b'Z')), "22012");
    // Refused when it is prepared: the driver asks for no more.
    let mut out = Vec::new();
    parse(b"named", b"SELECT 'canary' FROM nowhere", &[], &mut out);
    sync(&mut out);
    client.send(&out);
    assert_eq!(code_of(&client.until(b'Z')), "42P01");
    // Somebody forgot the quotes.
    assert_eq!(
        code_of(&client.query("SELECT a FROM t WHERE canary canary")),
        "42601"
    );
    client.query("SELECT pg_sleep(2.1)");
    [
        ("SELECT $1, $2", "", 1, false),
        (
            "BEGIN; INSERT INTO t VALUES ($1) /*, ... */; COMMIT",
            "",
            2,
            false,
        ),
        ("BEGIN", "", 0, false),
        ("SELECT $1 / $2", "22012", 0, false),
        ("SELECT $1", "25P02", 0, false),
        ("ROLLBACK", "", 0, false),
        ("SELECT $1::text", "", 1, false),
        ("SELECT $1::text", "", 1, false),
        ("SELECT $1 / $2 FROM t", "22012", 0, false),
        ("SELECT $1 FROM nowhere", "42P01", 0, false),
        ("SELECT …", "42601", 0, false),
        ("SELECT pg_sleep($1)", "", 1, true),
    ]
    .map(|(text, code, rows, is_slow)| (text.to_owned(), code.to_owned(), rows, is_slow))
    .to_vec()
}

fn is_kept(mode: StatementLog, (_, code, _, is_slow): &Seen) -> bool {
    match mode {
        Off => false,
        Errors => !code.is_empty(),
        // Of others, one in a million.
        Slow | Sampled => *is_slow || !code.is_empty(),
        All => true,
    }
}

fn log(stack: &Stack, tenant: &Tenant, mode: StatementLog, sample: u32) {
    limit(stack, tenant, |limits: &mut Limits| {
        limits.statement_log = mode;
        limits.statement_log_sample = sample;
        limits.slow_statement_time = Some(SLOW);
    });
}

/// Waits until a change is heard by an open session: it shows in what is kept.
async fn heard(stack: &Stack, tenant: &Tenant, client: &mut Raw, mode: StatementLog) {
    for _ in 0..1_000 {
        take(stack, tenant).await;
        client.query("SELECT 7");
        client.query("SELECT 7 / 0");
        let want = match mode {
            Off => 0,
            Errors | Slow | Sampled => 1,
            All => 2,
        };
        if take(stack, tenant).await.len() == want {
            return;
        }
    }
    panic!("{mode:?} was not heard of");
}

async fn each_mode_keeps_what_it_says(pool_mode: PoolMode, modes: &[StatementLog]) {
    let stack = Stack::start(|config| config.workers = 2).await;
    let (tenant, other) = (stack.tenant(), stack.tenant());
    for role in Role::ALL {
        stack.set_route(&tenant, role, |route| route.pool_mode = pool_mode);
    }
    let mut client = raw(&stack, &tenant);
    let mut stranger = raw(&stack, &other);
    client.query("CREATE TABLE t (a text)");
    for mode in modes {
        log(&stack, &tenant, *mode, 1_000_000);
        heard(&stack, &tenant, &mut client, *mode).await;
        stranger.query("SELECT 1 / 0, 'canary'");
        let mut want = work(&mut client);
        want.retain(|seen| is_kept(*mode, seen));
        assert_eq!(take(&stack, &tenant).await, want, "{mode:?}");
        assert!(take(&stack, &tenant).await.is_empty(), "it is given once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_keeps_what_it_says_on_an_open_session() {
    each_mode_keeps_what_it_says(PoolMode::Auto, &[All, Errors, Off, Slow, Sampled]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_keeps_what_it_says_in_pool_mode_session() {
    each_mode_keeps_what_it_says(PoolMode::Session, &[All]).await;
}

/// Whoever says nothing has those that fail or are slow; and samples are one in so many.
#[tokio::test(flavor = "multi_thread")]
async fn samples_are_one_in_so_many() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let mut client = raw(&stack, &tenant);
    client.query("SELECT 7");
    client.query("SELECT 7 / 0");
    let seen = take(&stack, &tenant).await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].1, "22012");
    log(&stack, &tenant, Off, 4);
    heard(&stack, &tenant, &mut client, Off).await;
    log(&stack, &tenant, Sampled, 4);
    loop {
        client.query("SELECT 7 / 0");
        if !take(&stack, &tenant).await.is_empty() {
            break;
        }
    }
    for _ in 0..400 {
        client.query("SELECT 7");
    }
    let kept = take(&stack, &tenant).await.len();
    assert!((99..=101).contains(&kept), "{kept}");
}

/// Nothing waits for whoever takes the lines.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_counted() {
    let stack = Stack::start(|config| config.limits.log_lines_max = 10).await;
    let tenant = stack.tenant();
    let mut client = raw(&stack, &tenant);
    log(&stack, &tenant, All, 1);
    heard(&stack, &tenant, &mut client, All).await;
    for _ in 0..30 {
        client.query("SELECT 7");
    }
    for _ in 0..30 {
        client.query("SELECT 7 / 0");
    }
    let all = stack.proxy().numbers().take_log().await;
    let own = all.iter().find(|own| own.tenant == tenant.id).unwrap();
    let failed = own.lines.iter().filter(|line| line.error.is_some()).count();
    assert_eq!((own.lines.len(), failed, own.dropped), (10, 5, 50));
    assert_eq!(own.statements.len(), 2);
}
