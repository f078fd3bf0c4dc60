//! Holding a tenant: transactions wait and see no error, nothing is lost that a session has or is to hear,
//! and it ends by itself.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kit::{
    Stack, Tenant,
    raw::{self, Message, Raw},
    wait_until,
};
use model::{
    HoldId, Role,
    hold::{Kept, Order, Step},
    route::PoolMode,
};
use tokio::sync::oneshot;
use wire::{message::build, startup::Protocol};

/// What running transactions have.
const BOUND: Duration = Duration::from_secs(1);
/// A test that waits for this does not end.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);
/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);
/// Longer than a hold takes on a busy machine; a test waits until it is over.
const SHORT: Duration = Duration::from_secs(3);

async fn stack() -> (Stack, Tenant) {
    let stack = Stack::start(|config| config.workers = 2).await;
    let tenant = stack.tenant();
    stack.set_route(&tenant, Role::Admin, |route| {
        route.pool_mode = PoolMode::Auto
    });
    let sql =
        "CREATE TABLE t (n serial); GRANT ALL ON ALL TABLES IN SCHEMA public TO tenantry_admin;
        GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO tenantry_admin";
    stack.postgres.sql(&tenant.pid.database(), sql);
    (stack, tenant)
}

fn log_in(stack: &Stack, tenant: &Tenant) -> Raw {
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let user = tenant.login(Role::Admin).to_string();
    let all = [("user", user.as_str()), ("database", "postgres")];
    let seen = raw.log_in(Protocol::V3_2, &all, &tenant.password);
    assert_eq!(raw::code_of(&seen), "");
    raw
}

fn ask(raw: &mut Raw, sql: &str) {
    let mut out = Vec::new();
    build::query(sql, &mut out);
    raw.send(&out);
}

#[track_caller]
fn ok(raw: &mut Raw, sql: &str) -> String {
    let seen = raw.query(sql);
    assert_eq!(raw::code_of(&seen), "", "{sql}");
    if seen.iter().any(|(kind, _)| *kind == b'D') {
        raw::value(&seen)
    } else {
        String::new()
    }
}

/// What a holder would do.
struct Hold<'a> {
    stack: &'a Stack,
    tenant: &'a Tenant,
    id: HoldId,
    valid_for: Duration,
}

impl<'a> Hold<'a> {
    fn new(stack: &'a Stack, tenant: &'a Tenant) -> Self {
        Self {
            stack,
            tenant,
            id: HoldId::random(&mut rand::rng()),
            valid_for: LONG,
        }
    }

    async fn order(&self, step: Step) -> Result<(), Kept> {
        let (reply, done) = oneshot::channel();
        let order = Order {
            tenant: self.tenant.id.clone(),
            hold: self.id.clone(),
            step,
            valid_for: self.valid_for,
            reply,
        };
        self.stack.proxy().holds().send(order).await.unwrap();
        tokio::time::timeout(LONG, done).await.unwrap().unwrap()
    }

    async fn take(&self) {
        self.order(Step::Drain(LONG)).await.unwrap();
        self.order(Step::Close).await.unwrap();
        // Also the server says so, a moment later.
        wait_until("nobody is left", || self.sessions() == "0");
        let nodes = self.stack.snapshot_now().nodes;
        assert_eq!(nodes[0].servers, 0);
    }

    fn sessions(&self) -> String {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'",
            self.tenant.pid.database()
        );
        self.stack.postgres.sql("postgres", &sql)
    }

    async fn let_go(&self) {
        self.order(Step::Return).await.unwrap();
        self.order(Step::End).await.unwrap();
    }
}

trait Now {
    fn snapshot_now(&self) -> proxy::Snapshot;
    fn waiting(&self) -> usize;
}

impl Now for Stack {
    fn snapshot_now(&self) -> proxy::Snapshot {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(self.proxy().snapshot())
        })
    }

    fn waiting(&self) -> usize {
        self.snapshot_now()
            .tenants
            .iter()
            .map(|tenant| tenant.waiting)
            .sum()
    }
}

/// Channel and payload of the notifications.
fn heard(messages: &[Message]) -> Vec<String> {
    let notifications = messages.iter().filter(|(kind, _)| *kind == b'A');
    let texts = notifications.map(|(_, body)| {
        let text = String::from_utf8_lossy(&body[4..]);
        text.trim_end_matches('\0').replace('\0', "=")
    });
    texts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_wait_and_see_no_error() {
    const WRITERS: usize = 6;
    let stop = Arc::new(AtomicBool::new(false));
    let (stack, tenant) = stack().await;
    let clients: Vec<_> = (0..WRITERS).map(|_| log_in(&stack, &tenant)).collect();
    let writers: Vec<_> = clients
        .into_iter()
        .map(|mut raw| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    ok(&mut raw, "INSERT INTO t DEFAULT VALUES");
                    written += 1;
                }
                written
            })
        })
        .collect();
    let rows = || {
        let sql = "SELECT count(*) FROM t";
        stack.postgres.sql(&tenant.pid.database(), sql)
    };
    let mut before = 0;
    for _ in 0..3 {
        wait_until("more is written", || {
            rows().parse::<usize>().unwrap() > before + 50
        });
        let hold = Hold::new(&stack, &tenant);
        hold.take().await;
        before = rows().parse().unwrap();
        wait_until("all wait", || stack.waiting() == WRITERS);
        // Who comes now waits as well, and is not turned away.
        let (config, tls) = (stack.config(&tenant, Role::Admin), stack.tls());
        let late = tokio::spawn(async move {
            let (client, connection) = config.connect(tls).await.unwrap();
            let drive = tokio::spawn(connection);
            client.execute("SELECT 1", &[]).await.unwrap();
            drop(client);
            drive.await.unwrap().unwrap();
        });
        // An order of another hold changes nothing.
        Hold::new(&stack, &tenant).order(Step::End).await.unwrap();
        assert_eq!(rows(), before.to_string());
        assert_eq!(hold.order(Step::Close).await, Ok(()), "twice is fine");
        hold.let_go().await;
        late.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let written = writers.into_iter().map(|writer| writer.join().unwrap());
    assert_eq!(rows(), written.sum::<usize>().to_string());
    assert_eq!(stack.snapshot_now().mismatches, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_given_up_is_named_and_stays() {
    let (stack, tenant) = stack().await;
    let refused = async |what: &str, may_pass: bool| {
        let hold = Hold::new(&stack, &tenant);
        // What will not pass is said at once: nobody waits for as long as the bound.
        let bound = if may_pass { BOUND } else { FOR_EVER };
        let kept = hold.order(Step::Drain(bound)).await.unwrap_err();
        assert_eq!((kept.what.as_str(), kept.may_pass), (what, may_pass));
        hold.let_go().await;
    };

    // Open: it goes on as if nothing had been, and is waited for.
    let mut open = log_in(&stack, &tenant);
    ok(&mut open, "BEGIN");
    ok(&mut open, "INSERT INTO t DEFAULT VALUES");
    refused("1 open transaction", true).await;
    // Its client has said nothing for longer than anybody would wait.
    let hold = Hold::new(&stack, &tenant);
    let kept = hold.order(Step::Drain(Duration::from_millis(1))).await;
    assert!(!kept.unwrap_err().may_pass);
    hold.let_go().await;
    ok(&mut open, "SAVEPOINT s");
    let hold = Hold::new(&stack, &tenant);
    let (drained, ()) = tokio::join!(hold.order(Step::Drain(LONG)), async {
        // Of a transaction that runs, everything goes on.
        tokio::task::block_in_place(|| {
            wait_until("it is held", || {
                ok(&mut open, "SELECT count(*) FROM t") == "1"
            });
            ok(&mut open, "COMMIT");
        });
    });
    assert_eq!(drained, Ok(()));
    hold.order(Step::Close).await.unwrap();
    hold.let_go().await;

    ask(&mut open, "SELECT pg_sleep(3)");
    wait_until("it runs", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3)' AND state = 'active'";
        stack.postgres.sql("postgres", sql) == "1"
    });
    refused("1 running statement", true).await;
    assert_eq!(raw::code_of(&open.until(b'Z')), "");
    drop(open);

    for (make, what, is_there) in [
        (
            "CREATE TEMP TABLE mine AS SELECT 7 AS n",
            "1 session with temporary objects",
            "SELECT count(*) FROM mine",
        ),
        (
            "SELECT pg_advisory_lock(5)",
            "1 session with an advisory lock",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        ),
        (
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "1 session with a cursor WITH HOLD",
            "FETCH c",
        ),
        (
            "PREPARE p AS SELECT 1",
            "1 session with a statement prepared by SQL",
            "EXECUTE p",
        ),
    ] {
        let rows = || {
            let sql = "SELECT count(*) FROM t";
            stack.postgres.sql(&tenant.pid.database(), sql)
        };
        let before = rows();
        let mut pinned = log_in(&stack, &tenant);
        ok(&mut pinned, "LISTEN two");
        ok(&mut pinned, make);
        refused(what, false).await;
        assert_eq!(ok(&mut pinned, is_there), "1");

        // What it begins meanwhile waits like what others begin, although it has a server connection.
        let hold = Hold::new(&stack, &tenant);
        let drain = Step::Drain(Duration::ZERO);
        hold.order(drain).await.unwrap_err();
        let mut other = log_in(&stack, &tenant);
        ask(&mut pinned, "INSERT INTO t DEFAULT VALUES");
        ask(&mut other, "SELECT 1");
        wait_until("the other one waits", || stack.waiting() == 1);
        assert_eq!(rows(), before);
        hold.let_go().await;
        assert_eq!(raw::code_of(&other.until(b'Z')), "");
        assert_eq!(raw::code_of(&pinned.until(b'Z')), "");
        assert_ne!(rows(), before);
        assert_eq!(ok(&mut pinned, "SELECT pg_listening_channels()"), "two");
    }

    // Once they are gone, there is nothing in the way.
    let hold = Hold::new(&stack, &tenant);
    hold.take().await;
    hold.let_go().await;

    stack.set_route(&tenant, Role::Admin, |route| {
        route.pool_mode = PoolMode::Session
    });
    stack.announce(&tenant);
    let mut session = log_in(&stack, &tenant);
    ok(&mut session, "SELECT 1");
    refused("1 session with pool mode session", false).await;
    ok(&mut session, "SELECT 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_is_carried_over_and_misses_nothing() {
    let (stack, tenant) = stack().await;
    let mut listener = log_in(&stack, &tenant);
    ok(&mut listener, "LISTEN news");
    ok(&mut listener, "LISTEN \"Odd \"\"one\"");
    ok(&mut listener, "SET TimeZone TO 'Asia/Tokyo'");
    let mut idle = log_in(&stack, &tenant);
    ok(&mut idle, "LISTEN news");
    let mut writer = log_in(&stack, &tenant);
    let server = |raw: &mut Raw| ok(raw, "SELECT pg_backend_pid()");
    let was = server(&mut listener);
    let rows = || {
        let sql = "SELECT count(*) FROM t";
        stack.postgres.sql(&tenant.pid.database(), sql)
    };

    for round in 0..3 {
        ok(&mut writer, "BEGIN");
        ok(&mut writer, &format!("NOTIFY news, '{round}'"));
        let hold = Hold::new(&stack, &tenant);
        let (drained, ()) = tokio::join!(hold.order(Step::Drain(LONG)), async {
            tokio::task::block_in_place(|| ok(&mut writer, "COMMIT"));
        });
        assert_eq!(drained, Ok(()));
        hold.take().await;
        // They heard it before they were parted, although nobody read them meanwhile.
        let want = format!("news={round}");
        assert_eq!(heard(&listener.until(b'A')), std::slice::from_ref(&want));
        assert_eq!(heard(&idle.until(b'A')), [want]);

        // One asks something meanwhile, and one in the moment they listen again.
        ask(
            &mut listener,
            "INSERT INTO t DEFAULT VALUES RETURNING current_setting('TimeZone')",
        );
        ask(&mut writer, "NOTIFY \"Odd \"\"one\", 'later'");
        wait_until("both wait", || stack.waiting() == 2);
        hold.order(Step::Return).await.unwrap();
        assert_eq!(hold.sessions(), "2", "only those who listen");
        // Although this one has a server connection again, what it asked waits with the others.
        assert_eq!(rows(), round.to_string());
        hold.order(Step::End).await.unwrap();
        assert_eq!(raw::code_of(&writer.until(b'Z')), "");
        let seen = listener.until(b'Z');
        assert_eq!(raw::value(&seen), "Asia/Tokyo");
        let mut all = heard(&seen);
        if all.is_empty() {
            all = heard(&listener.until(b'A'));
        }
        assert_eq!(all, ["Odd \"one=later"]);
        let listens = "SELECT string_agg(c, ',' ORDER BY c) FROM pg_listening_channels() AS c";
        assert_eq!(ok(&mut listener, listens), "Odd \"one,news");
        assert_ne!(server(&mut listener), was, "it is another one");
    }
    // It may stop to listen, as before.
    ok(&mut listener, "UNLISTEN *");
    ok(&mut writer, "NOTIFY news, 'last'");
    assert_eq!(heard(&idle.until(b'A')), ["news=last"]);
    assert_eq!(heard(&listener.query("SELECT 1")), Vec::<String>::new());
    assert_eq!(stack.snapshot_now().mismatches, 0);
}

/// Nobody says that it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_nobody_ends_is_over_when_its_time_is() {
    let (stack, tenant) = stack().await;
    let mut listener = log_in(&stack, &tenant);
    ok(&mut listener, "LISTEN news");
    let mut writer = log_in(&stack, &tenant);
    let mut hold = Hold::new(&stack, &tenant);
    hold.valid_for = SHORT;
    hold.take().await;
    ask(&mut writer, "NOTIFY news, 'after'");
    assert_eq!(raw::code_of(&writer.until(b'Z')), "");
    assert_eq!(heard(&listener.until(b'A')), ["news=after"]);
    // What comes too late changes nothing.
    hold.let_go().await;
    ok(&mut writer, "INSERT INTO t DEFAULT VALUES");

    // One that takes the place of another is not ended by the other's time.
    let mut first = Hold::new(&stack, &tenant);
    first.valid_for = SHORT;
    first.take().await;
    let second = Hold::new(&stack, &tenant);
    second.take().await;
    first.let_go().await;
    ask(&mut writer, "NOTIFY news, 'again'");
    wait_until("it waits", || stack.waiting() == 1);
    // The first one's time has to go by, and nothing happens then that could be waited for.
    tokio::time::sleep(SHORT + Duration::from_secs(1)).await;
    assert_eq!(second.sessions(), "0");
    second.let_go().await;
    assert_eq!(raw::code_of(&writer.until(b'Z')), "");
    assert_eq!(heard(&listener.until(b'A')), ["news=again"]);
}

/// A session that cannot listen again, or not in time, is ended: its client must not go
/// on as if it listened.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_listen_again_is_told() {
    let (mut stack, tenant) = stack().await;
    let mut listener = log_in(&stack, &tenant);
    ok(&mut listener, "LISTEN news");
    // Others have begun before it could: as when its process did not answer for long.
    let hold = Hold::new(&stack, &tenant);
    hold.take().await;
    hold.order(Step::End).await.unwrap();
    assert_eq!(raw::code_of(&listener.rest()), "57P01");

    let mut listener = log_in(&stack, &tenant);
    ok(&mut listener, "LISTEN news");
    let mut writer = log_in(&stack, &tenant);
    let hold = Hold::new(&stack, &tenant);
    hold.take().await;
    let (id, orders) = (hold.id.clone(), stack.proxy().holds());
    stack.postgres.crash();
    for step in [Step::Return, Step::End] {
        let (reply, done) = oneshot::channel();
        let order = Order {
            tenant: tenant.id.clone(),
            hold: id.clone(),
            step,
            valid_for: LONG,
            reply,
        };
        orders.send(order).await.unwrap();
        done.await.unwrap().unwrap();
    }
    let seen = listener.rest();
    assert_eq!(raw::code_of(&seen), "57P01");
    stack.postgres.restart();
    ok(&mut writer, "SELECT 1");
}
