//! What one tenant may use: every limit holds where it is reached, lets pass what is below it, and holds
//! for sessions that are open when it changes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::time::{Duration, Instant};

use kit::{
    Stack, Tenant, code,
    common::{limit, raw},
    raw::{Message, code_of},
    wait_until,
};
use model::{
    Limits, Role,
    limits::{LimitSet, Rate},
    route::PoolMode,
};
use tokio_postgres::{Client, Error};
use wire::message::build;

/// In both, the relay meets the ends of statements and transactions in other places.
const MODES: [PoolMode; 2] = [PoolMode::Session, PoolMode::Auto];

/// A tenant with these limits, in this mode.
fn limited(stack: &Stack, mode: PoolMode, change: impl Fn(&mut Limits)) -> Tenant {
    let tenant = stack.tenant();
    for role in Role::ALL {
        stack.set_route(&tenant, role, |route| {
            route.pool_mode = mode;
            change(&mut route.limits);
        });
    }
    tenant
}

/// Parse, Bind, Describe and Execute, as drivers send them.
fn asked(sql: &str, out: &mut Vec<u8>) {
    build::parse(b"", sql.as_bytes(), &[], out);
    build::bind_nothing(b"", b"", out);
    build::execute(b"", 0, out);
}

fn kinds(messages: &[Message]) -> String {
    messages.iter().map(|(kind, _)| char::from(*kind)).collect()
}

/// What the client is told names the limit and its value, and who can raise it.
#[track_caller]
fn told<T>(result: Result<T, Error>, sqlstate: &str, limit: &str) {
    let error = result.err().unwrap();
    let said = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(said.code().code(), sqlstate, "{said:?}");
    assert!(said.message().contains(limit), "{said:?}");
    assert!(
        said.hint().unwrap().contains("tenantry db limits"),
        "{said:?}"
    );
}

/// Of a session that was ended: what it says to whoever asks it next, or said already.
async fn last_words(client: &Client) -> Error {
    wait_until("the session is ended", || client.is_closed());
    client.batch_execute("SELECT 1").await.err().unwrap()
}

fn ms(ms: u64) -> Option<Duration> {
    Some(Duration::from_millis(ms))
}

fn networks(texts: &[&str]) -> Option<std::sync::Arc<[model::Network]>> {
    let networks = LimitSet::networks(texts.iter().copied()).unwrap();
    Some(networks.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_from_allowed_addresses_only() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    limit(&stack, &tenant, |limits| {
        limits.addresses = networks(&["127.0.0.0/8", "2001:db8::/32"]);
    });
    let inside = stack.connect(&tenant, Role::Write).await;
    inside.batch_execute("SELECT 1").await.unwrap();

    // It holds for those who are there already, and who comes is told so after the password, not before.
    limit(&stack, &tenant, |limits| {
        limits.addresses = networks(&["192.0.2.0/24"])
    });
    wait_until("the session is ended", || inside.is_closed());
    let config = stack.config(&tenant, Role::Write);
    let refused = stack.connect_with(&config).await.err().unwrap();
    assert_eq!(code(&refused), "28000", "{refused:?}");
    assert!(
        refused
            .as_db_error()
            .unwrap()
            .hint()
            .unwrap()
            .contains("allowed_addresses")
    );
    let mut guess = config.clone();
    guess.password("a guess");
    let refused = stack.connect_with(&guess).await.err().unwrap();
    assert_eq!(code(&refused), "28P01");

    limit(&stack, &tenant, |limits| limits.addresses = None);
    stack.connect_with(&config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_takes_no_longer_than_its_time_whatever_the_tenant_sets() {
    let stack = Stack::start(|_| {}).await;
    for mode in MODES {
        let tenant = limited(&stack, mode, |limits| limits.statement_time_max = ms(300));
        let client = stack.connect(&tenant, Role::Admin).await;
        let words = "statement_ms_max is 300";
        client
            .batch_execute("SET statement_timeout = 0; CREATE TABLE t (a int)")
            .await
            .unwrap();
        client.query("SELECT pg_sleep(0.01)", &[]).await.unwrap();
        told(
            client.batch_execute("SELECT pg_sleep(60)").await,
            "57014",
            words,
        );
        told(
            client.query("SELECT pg_sleep(60)", &[]).await,
            "57014",
            words,
        );
        // It is the statement that fails: its transaction does not go on, the session does.
        let failed = client
            .batch_execute("BEGIN; INSERT INTO t VALUES (1); SELECT pg_sleep(60)")
            .await;
        told(failed, "57014", words);
        assert_eq!(
            code(&client.batch_execute("SELECT 1").await.err().unwrap()),
            "25P02"
        );
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(client.query("SELECT a FROM t", &[]).await.unwrap().len(), 0);

        // Each statement has the time, however many are sent at once.
        let mut raw = raw(&stack, &tenant);
        let mut out = Vec::new();
        for _ in 0..12 {
            asked("SELECT pg_sleep(0.05)", &mut out);
        }
        build::sync(&mut out);
        raw.send(&out);
        assert_eq!(kinds(&raw.until(b'Z')), format!("{}Z", "12DC".repeat(12)));
        // Those in one text have it together: the server says nothing before it is through.
        let text = |count| "SELECT pg_sleep(0.05);".repeat(count);
        assert_eq!(code_of(&raw.query(&text(3))), "");
        assert_eq!(code_of(&raw.query(&text(12))), "57014");
        // One that takes longer ends its own pipeline, and none that is begun when that has ended. (One that
        // the server has already may be hit: it is sent the signal twice.)
        let mut out = Vec::new();
        asked("SELECT 1", &mut out);
        asked("SELECT pg_sleep(60)", &mut out);
        asked("INSERT INTO t VALUES (2)", &mut out);
        build::sync(&mut out);
        raw.send(&out);
        let first = raw.until(b'Z');
        assert_eq!(
            (kinds(&first).as_str(), code_of(&first).as_str()),
            ("12DC12EZ", "57014")
        );
        let mut out = Vec::new();
        asked("SELECT 3", &mut out);
        build::sync(&mut out);
        raw.send(&out);
        assert_eq!(kinds(&raw.until(b'Z')), "12DCZ");
        assert_eq!(client.query("SELECT a FROM t", &[]).await.unwrap().len(), 0);
    }
}

/// PostgreSQL hears no cancel while it waits for data: then the session ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_does_not_stop_ends_its_session() {
    let stack = Stack::start(|_| {}).await;
    let tenant = limited(&stack, PoolMode::Auto, |limits| {
        limits.statement_time_max = ms(100)
    });
    let mut raw = raw(&stack, &tenant);
    raw.query("CREATE TABLE t (a int)");
    let mut out = Vec::new();
    build::query("COPY t FROM STDIN", &mut out);
    raw.send(&out);
    raw.until(b'G');
    assert_eq!(code_of(&raw.rest()), "57014");
    wait_until("nothing runs any more", || stack.backends() == 0);
    assert_eq!(
        stack.proxy().snapshot().await.counts.sessions_ended["57014"],
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_takes_no_longer_than_its_time() {
    let stack = Stack::start(|_| {}).await;
    for mode in MODES {
        let tenant = limited(&stack, mode, |limits| limits.transaction_time_max = ms(400));
        let words = "transaction_ms_max is 400";
        let steady = stack.connect(&tenant, Role::Admin).await;
        let running = stack.connect(&tenant, Role::Admin).await;
        told(
            running.batch_execute("BEGIN; SELECT pg_sleep(60)").await,
            "25P04",
            words,
        );
        wait_until("it does not run on", || {
            stack.postgres.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()") == "0"
        });
        // Also while the client thinks, and while it does a little again and again.
        let busy = stack.connect(&tenant, Role::Admin).await;
        busy.batch_execute("BEGIN").await.unwrap();
        let ended = loop {
            if let Err(ended) = busy.query("SELECT pg_sleep(0.01)", &[]).await {
                break ended;
            }
        };
        if !ended.is_closed() {
            told::<()>(Err(ended), "25P04", words);
        }
        // One after the other each has the time, in a pipeline too.
        for _ in 0..10 {
            steady
                .batch_execute("BEGIN; SELECT pg_sleep(0.05); COMMIT")
                .await
                .unwrap();
        }
        let mut raw = raw(&stack, &tenant);
        let mut out = Vec::new();
        for _ in 0..10 {
            asked("SELECT pg_sleep(0.05)", &mut out);
            build::sync(&mut out);
        }
        raw.send(&out);
        for _ in 0..10 {
            assert_eq!(kinds(&raw.until(b'Z')), "12DCZ");
        }
    }
    let counts = stack.proxy().snapshot().await.counts;
    assert_eq!(counts.limits_reached["transaction_ms_max"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_not_left_idle() {
    let stack = Stack::start(|_| {}).await;
    for mode in MODES {
        let tenant = limited(&stack, mode, |limits| {
            limits.idle_in_transaction_time_max = ms(300)
        });
        let resting = stack.connect(&tenant, Role::Admin).await;
        resting.batch_execute("SELECT 1").await.unwrap();
        let working = stack.connect(&tenant, Role::Admin).await;
        let work = working.batch_execute("BEGIN; SELECT pg_sleep(1); COMMIT");
        let mut idle = raw(&stack, &tenant);
        idle.query("BEGIN");
        let mut failed = raw(&stack, &tenant);
        failed.query("BEGIN");
        failed.query("nonsense");
        // Asked something, and never said that this is all: the same.
        let mut open = raw(&stack, &tenant);
        let mut out = Vec::new();
        asked("SELECT 1", &mut out);
        build::flush(&mut out);
        open.send(&out);
        open.until(b'C');
        let (worked, said) = tokio::join!(work, async {
            tokio::task::block_in_place(|| {
                [idle.rest(), failed.rest(), open.rest()].map(|said| code_of(&said))
            })
        });
        assert_eq!(said, ["25P03"; 3]);
        worked.unwrap();
        resting.batch_execute("SELECT 1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_nothing_is_ended() {
    let stack = Stack::start(|_| {}).await;
    for mode in MODES {
        let tenant = limited(&stack, mode, |limits| limits.client_idle_max = None);
        let working = stack.connect(&tenant, Role::Admin).await;
        let holding = stack.connect(&tenant, Role::Admin).await;
        holding.batch_execute("BEGIN").await.unwrap();
        let work = working.batch_execute("SELECT pg_sleep(2.5)");
        let (worked, said) = tokio::join!(work, async {
            tokio::task::block_in_place(|| {
                // These two do something already, however long it took them to begin.
                wait_until("it works", || {
                    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
                    stack.postgres.sql("postgres", sql) == "1"
                });
                limit(&stack, &tenant, |limits| limits.client_idle_max = ms(1000));
                let mut fresh = raw(&stack, &tenant);
                let mut used = raw(&stack, &tenant);
                used.query("SELECT 1");
                [fresh.rest(), used.rest()].map(|said| code_of(&said))
            })
        });
        assert_eq!(said, ["57P05"; 2]);
        worked.unwrap();
        // In a transaction another limit would count.
        holding.batch_execute("COMMIT").await.unwrap();
        // Off.
        limit(&stack, &tenant, |limits| limits.client_idle_max = None);
        let quiet = stack.connect(&tenant, Role::Admin).await;
        let other = stack.connect(&tenant, Role::Admin).await;
        other.batch_execute("SELECT pg_sleep(1.5)").await.unwrap();
        quiet.batch_execute("SELECT 1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_time_hold_for_what_runs_already() {
    let stack = Stack::start(|_| {}).await;
    let tenant = limited(&stack, PoolMode::Auto, |limits| {
        limits.client_idle_max = None
    });
    let resting = stack.connect(&tenant, Role::Admin).await;
    let mut idle = raw(&stack, &tenant);
    idle.query("BEGIN");
    let client = stack.connect(&tenant, Role::Admin).await;
    let running = client.batch_execute("SELECT pg_sleep(60)");
    let change = async {
        let runs = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'";
        wait_until("it runs", || stack.postgres.sql("postgres", runs) == "1");
        limit(&stack, &tenant, |limits| {
            limits.statement_time_max = ms(10);
            limits.idle_in_transaction_time_max = ms(10);
            limits.client_idle_max = ms(10);
        });
    };
    let (stopped, ()) = tokio::join!(running, change);
    told(stopped, "57014", "statement_ms_max is 10");
    assert_eq!(code_of(&idle.rest()), "25P03");
    let _ = last_words(&resting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_has_no_more_rows_than_its_limit() {
    let stack = Stack::start(|_| {}).await;
    for mode in MODES {
        let tenant = limited(&stack, mode, |limits| limits.result_rows_max = Some(1000));
        let client = stack.connect(&tenant, Role::Admin).await;
        let words = "result_rows_max is 1000";
        let rows = |n: u64| format!("SELECT generate_series(1, {n})");
        client
            .batch_execute("CREATE TABLE t (a int)")
            .await
            .unwrap();
        // A short one has come to its end when it is seen; a long one is stopped.
        for n in [1001, 50_000, 1_000_000_000] {
            assert_eq!(client.query(&rows(1000), &[]).await.unwrap().len(), 1000);
            told(client.query(&rows(n), &[]).await, "54000", words);
            assert_eq!(client.simple_query(&rows(1000)).await.unwrap().len(), 1002);
            told(client.simple_query(&rows(n)).await, "54000", words);
        }
        // Each of several results has the whole of it, and so has each piece of a cursor.
        let two = format!("{}; {}", rows(1000), rows(1000));
        assert_eq!(client.simple_query(&two).await.unwrap().len(), 2004);
        let transaction = "BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 3000)";
        client.batch_execute(transaction).await.unwrap();
        for _ in 0..3 {
            assert_eq!(
                client.query("FETCH 1000 FROM c", &[]).await.unwrap().len(),
                1000
            );
        }
        client.batch_execute("COMMIT").await.unwrap();
        // It passes on exactly as many rows as it may.
        let mut raw = raw(&stack, &tenant);
        let said = raw.query(&rows(1_000_000_000));
        assert_eq!(kinds(&said), format!("T{}EZ", "D".repeat(1000)));
        let said = raw.query("COPY (SELECT generate_series(1, 1000)) TO STDOUT");
        assert_eq!(code_of(&said), "");
        let said = raw.query("COPY (SELECT generate_series(1, 1001)) TO STDOUT");
        assert_eq!(
            (kinds(&said), code_of(&said).as_str()),
            (format!("H{}EZ", "d".repeat(1000)), "54000")
        );
        let said = raw.query("COPY (SELECT generate_series(1, 1000000000)) TO STDOUT");
        assert_eq!(code_of(&said), "54000");
        // What was done although the client is not told the end of it ends the session.
        let insert = "INSERT INTO t SELECT generate_series(1, 1001) RETURNING a";
        let said = client.batch_execute(&format!("BEGIN; {insert}")).await;
        told(said, "54000", words);
        let _ = last_words(&client).await;
        // And so does what follows in the same pipeline.
        let mut out = Vec::new();
        asked(&rows(1001), &mut out);
        asked("INSERT INTO t VALUES (2)", &mut out);
        build::sync(&mut out);
        raw.send(&out);
        let said = raw.rest();
        assert_eq!(code_of(&said), "54000");
        assert!(
            !kinds(&said).contains('Z'),
            "the session is not said to go on"
        );
        let client = stack.connect(&tenant, Role::Admin).await;
        let left = client
            .query("SELECT a FROM t WHERE a <> 2", &[])
            .await
            .unwrap();
        assert_eq!(left.len(), 0, "the transaction was rolled back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_has_no_more_bytes_than_its_limit() {
    let stack = Stack::start(|_| {}).await;
    for mode in MODES {
        let tenant = limited(&stack, mode, |limits| {
            limits.result_bytes_max = Some(100_000)
        });
        let client = stack.connect(&tenant, Role::Admin).await;
        let words = "result_bytes_max is 100000";
        // One large value, and many small ones.
        let one = |n: u64| format!("SELECT repeat('x', {n})");
        let many = |n: u64| format!("SELECT repeat('x', 80), generate_series(1, {n})");
        for sql in [one, many] {
            let (below, above, far_above) = if sql(1) == one(1) {
                (sql(99_000), sql(101_000), sql(50_000_000))
            } else {
                (sql(900), sql(1100), sql(10_000_000))
            };
            client.query(&below, &[]).await.unwrap();
            client.simple_query(&below).await.unwrap();
            for above in [above, far_above] {
                told(client.query(&above, &[]).await, "54000", words);
                told(client.simple_query(&above).await, "54000", words);
            }
        }
        // Live, and off.
        limit(&stack, &tenant, |limits| limits.result_bytes_max = None);
        wait_until("it holds no more", || {
            tokio::task::block_in_place(|| {
                let ask = client.simple_query("SELECT repeat('x', 200000)");
                tokio::runtime::Handle::current().block_on(ask).is_ok()
            })
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_begin_no_more_often_than_their_rate() {
    let stack = Stack::start(|_| {}).await;
    for mode in MODES {
        let rate = |per_second, burst| Some(Rate { per_second, burst });
        // One comes back in two minutes: none does while the test runs.
        let slow = |limits: &mut Limits| {
            limits.statements = Some(Rate {
                per_second: 1,
                burst: 6,
            })
        };
        let tenant = limited(&stack, mode, slow);
        let words = "statements_per_second is 1";
        let began = Instant::now();
        let client = stack.connect(&tenant, Role::Admin).await;
        let other = stack.connect(&tenant, Role::Admin).await;
        let mut passed = 0;
        let refused = loop {
            // One bucket for all of a tenant, and both protocols.
            let client = if passed % 2 == 0 { &client } else { &other };
            match client.simple_query("SELECT 1").await {
                Ok(_) => passed += 1,
                Err(refused) => break refused,
            }
        };
        assert!(
            passed >= 6 && passed <= 6 + began.elapsed().as_secs() + 1,
            "{passed}"
        );
        told::<()>(Err(refused), "53400", words);
        told(client.query("SELECT 1", &[]).await, "53400", words);
        let mut raw = raw(&stack, &tenant);
        let mut out = Vec::new();
        asked("SELECT 1", &mut out);
        asked("SELECT 1", &mut out);
        build::sync(&mut out);
        raw.send(&out);
        let said = raw.until(b'Z');
        if code_of(&said) == "53400" {
            assert_eq!(kinds(&said), "EZ", "all up to the Sync is refused at once");
        }

        // Live. In a transaction nothing is refused: it waits.
        limit(&stack, &tenant, |limits| limits.statements = rate(20, 1));
        wait_until("it goes on", || {
            tokio::task::block_in_place(|| {
                let ask = client.batch_execute("BEGIN");
                tokio::runtime::Handle::current().block_on(ask).is_ok()
            })
        });
        let began = Instant::now();
        for _ in 0..10 {
            client.simple_query("SELECT 1").await.unwrap();
        }
        client.simple_query("COMMIT").await.unwrap();
        assert!(
            began.elapsed() >= Duration::from_millis(450),
            "{:?}",
            began.elapsed()
        );
        // Several statements in one text are as many as they are: two seconds' worth.
        let several = "SELECT 1;".repeat(40);
        wait_until("there is one again", || {
            tokio::task::block_in_place(|| {
                let ask = client.simple_query(&several);
                tokio::runtime::Handle::current().block_on(ask).is_ok()
            })
        });
        told(
            client.simple_query("SELECT 1").await,
            "53400",
            "statements_per_second is 20",
        );
        limit(&stack, &tenant, |limits| limits.statements = None);
        wait_until("it is off", || {
            tokio::task::block_in_place(|| {
                let ask = async {
                    for _ in 0..50 {
                        client.simple_query("SELECT 1").await?;
                    }
                    Ok::<_, Error>(())
                };
                tokio::runtime::Handle::current().block_on(ask).is_ok()
            })
        });
    }
}
