//! What a tenant's statements are and do is counted exactly, however they are sent, and nothing of
//! their constants is kept.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{collections::BTreeMap, time::Duration};

use kit::{
    Stack, Tenant,
    common::{limit, raw},
    raw::{Message, Raw, code_of},
    wait_until,
};
use model::{Role, route::PoolMode};
use proxy::{StatementInsight, Sums, TenantInsight};
use wire::{
    message::{
        Kind,
        build::{bind_nothing, close, copy_fail, execute, flush, parse, query, sync},
    },
    startup::Protocol,
};

/// The messages that `write` puts together, in one flight; everything up to the last of `syncs`
/// ReadyForQuery.
fn flight(raw: &mut Raw, syncs: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<Message> {
    let mut out = Vec::new();
    write(&mut out);
    raw.send(&out);
    (0..syncs).flat_map(|_| raw.until(b'Z')).collect()
}

fn run(portal: &[u8], statement: &[u8], out: &mut Vec<u8>) {
    bind_nothing(portal, statement, out);
    execute(portal, 0, out);
}

fn copy_data(lines: &str, out: &mut Vec<u8>) {
    out.push(b'd');
    out.extend_from_slice(&(4 + lines.len() as u32).to_be_bytes());
    out.extend_from_slice(lines.as_bytes());
}

fn copy_done(out: &mut Vec<u8>) {
    out.extend_from_slice(b"c\0\0\0\x04");
}

async fn insight(stack: &Stack, tenant: &Tenant) -> TenantInsight {
    let numbers = stack.proxy().numbers();
    numbers.insight(&tenant.id, 1000).await.unwrap()
}

/// Count, errors and rows of statements by their text.
fn by_text(statements: &[StatementInsight]) -> BTreeMap<&str, (u64, u64, u64)> {
    let mut by_text: BTreeMap<_, (u64, u64, u64)> = BTreeMap::new();
    for StatementInsight { text, sums, .. } in statements {
        let own = by_text.entry(text.as_str()).or_default();
        *own = (own.0 + sums.count, own.1 + sums.errors, own.2 + sums.rows);
        assert!(sums.time_us_max <= sums.time_us && sums.time_us <= sums.time_us_max * sums.count);
    }
    by_text
}

fn sum(insight: &TenantInsight) -> Sums {
    let mut all = insight.rest;
    for StatementInsight { sums, .. } in &insight.statements {
        all.count += sums.count;
        all.errors += sums.errors;
        all.rows += sums.rows;
        all.time_us += sums.time_us;
    }
    all
}

async fn counts_are_exact(mode: PoolMode) {
    let stack = Stack::start(|config| config.workers = 2).await;
    let (tenant, other) = (stack.tenant(), stack.tenant());
    for of in [&tenant, &other] {
        stack.set_route(of, Role::Admin, |route| route.pool_mode = mode);
    }
    let mut client = raw(&stack, &tenant);
    let mut beside = raw(&stack, &tenant);
    raw(&stack, &other).query("SELECT 'another tenant'");
    client.query("CREATE TABLE t (a int, b text)");

    // Simple queries: one shape, whatever its constants, from two sessions.
    for i in 1..=3 {
        client.query(&format!(
            "SELECT n FROM generate_series(1, 7) n WHERE n > {i}"
        ));
    }
    beside.query("/* trace 7 */ select n from generate_series(-1, 5) n where n > 5;");
    // Several statements of one text, their rows together.
    let script = "BEGIN; INSERT INTO t VALUES (1, 'hunter2'), (2, 'x'); SELECT * FROM t; COMMIT";
    assert_eq!(code_of(&client.query(script)), "");
    assert_eq!(code_of(&client.query("")), "");
    client.query("UPDATE t SET b = 'hunter2' WHERE a > 0");

    // Errors of simple queries.
    for _ in 0..2 {
        assert_eq!(code_of(&client.query("SELECT 1 / 0")), "22012");
    }
    assert_eq!(
        code_of(&client.query("SELECT 1; SELECT a / 0 FROM t; SELECT 2")),
        "22012"
    );
    assert_eq!(code_of(&client.query("SELECT 'hunter2")), "42601");
    assert_eq!(
        code_of(&client.query("SELECT a FROM t WHERE b = hunter2")),
        "42703"
    );
    assert_eq!(code_of(&client.query("hunter2")), "42601");
    assert_eq!(
        code_of(&client.query("ALTER ROLE nobody PASSWORD 'hunter2'")),
        "42704"
    );

    // A named statement, three times in one flight, and again later.
    let seen = flight(&mut client, 1, |out| {
        parse(
            b"s",
            b"SELECT 'hunter2', n FROM generate_series(1, 3) n",
            &[],
            out,
        );
        for _ in 0..3 {
            run(b"", b"s", out);
        }
        sync(out);
    });
    assert_eq!(code_of(&seen), "");
    let seen = flight(&mut client, 2, |out| {
        run(b"", b"s", out);
        sync(out);
        run(b"p", b"s", out);
        sync(out);
    });
    assert_eq!(code_of(&seen), "");
    // Another one under the same name.
    let seen = flight(&mut client, 1, |out| {
        close(Kind::Statement, b"s", out);
        parse(b"s", b"SELECT 4, 4", &[], out);
        run(b"", b"s", out);
        sync(out);
    });
    assert_eq!(code_of(&seen), "");
    // A portal in three parts, with another one between.
    let seen = flight(&mut client, 1, |out| {
        parse(b"", b"SELECT n, 5 FROM generate_series(1, 5) n", &[], out);
        bind_nothing(b"p", b"", out);
        execute(b"p", 2, out);
        parse(b"", b"SELECT 6, 6, 6", &[], out);
        run(b"", b"", out);
        execute(b"p", 2, out);
        flush(out);
        execute(b"p", 0, out);
        sync(out);
    });
    assert_eq!(code_of(&seen), "");

    // An error in a pipeline: what was before it counts, and itself, and nothing behind it.
    let seen = flight(&mut client, 2, |out| {
        for text in [
            "SELECT 7, 'before'",
            "SELECT 7 / 0, 'error'",
            "SELECT 7, 'behind', 1",
        ] {
            parse(b"", text.as_bytes(), &[], out);
            run(b"", b"", out);
        }
        sync(out);
        parse(b"", b"SELECT 7, 'next', 1, 1", &[], out);
        run(b"", b"", out);
        sync(out);
    });
    assert_eq!(code_of(&seen), "22012");
    // An error of a Parse is that of its statement; without one, only an error.
    let seen = flight(&mut client, 2, |out| {
        parse(b"", b"SELECT missing('hunter2')", &[], out);
        run(b"", b"", out);
        run(b"", b"", out);
        sync(out);
        parse(b"", b"SELECT missing(1, 'hunter2')", &[], out);
        sync(out);
    });
    assert_eq!(code_of(&seen), "42883");
    assert_eq!(code_of(&client.query("SELECT 8, 8, 8, 8, 8")), "");

    // COPY in all its endings, by either protocol.
    let seen = flight(&mut client, 1, |out| {
        query("COPY t FROM STDIN", out);
        copy_data("3\thunter2\n4\tx\n5\ty\n", out);
        copy_done(out);
    });
    assert_eq!(code_of(&seen), "");
    let seen = flight(&mut client, 1, |out| {
        parse(b"", b"COPY t (a) FROM STDIN", &[], out);
        run(b"", b"", out);
        copy_data("6\n", out);
        copy_done(out);
        sync(out);
    });
    assert_eq!(code_of(&seen), "");
    let seen = flight(&mut client, 1, |out| {
        query("COPY t FROM STDIN", out);
        copy_data("7\tx\n", out);
        copy_fail("hunter2", out);
    });
    assert_eq!(code_of(&seen), "57014");
    client.query("COPY t TO STDOUT");

    // The end of a session is the outcome of what it ran.
    let mut out = Vec::new();
    query("SELECT pg_sleep(20)", &mut out);
    beside.send(&out);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE query = 'SELECT pg_sleep(20)' AND state = 'active'";
    wait_until("it runs", || stack.postgres.sql("postgres", end) == "t");
    assert_eq!(code_of(&beside.rest()), "57P01");

    let now = || {
        let numbers = stack.proxy().numbers();
        tokio::task::block_in_place(|| {
            let insight = numbers.insight(&tenant.id, 1000);
            tokio::runtime::Handle::current().block_on(insight).unwrap()
        })
    };
    wait_until("the session has ended", || sum(&now()).errors == 11);
    let seen = insight(&stack, &tenant).await;
    let expected = BTreeMap::from([
        ("CREATE TABLE t (a int, b text)", (1, 0, 0)),
        (
            "SELECT n FROM generate_series($1, $2) n WHERE n > $3",
            (4, 0, 6 + 5 + 4),
        ),
        (
            "BEGIN; INSERT INTO t VALUES ($1, $2) /*, ... */; SELECT * FROM t; COMMIT",
            (1, 0, 4),
        ),
        ("", (1, 0, 0)),
        ("UPDATE t SET b = $1 WHERE a > $2", (1, 0, 2)),
        ("SELECT $1 / $2", (2, 2, 0)),
        ("SELECT $1; SELECT a / $2 FROM t; SELECT $3", (1, 1, 1)),
        ("…", (1, 1, 0)),
        ("ALTER ROLE …", (1, 1, 0)),
        ("SELECT $1, n FROM generate_series($2, $3) n", (5, 0, 15)),
        ("SELECT $1, $2", (2, 0, 2)),
        ("SELECT n, $1 FROM generate_series($2, $3) n", (3, 0, 5)),
        ("SELECT $1, $2, $3", (1, 0, 1)),
        ("SELECT $1 / $2, $3", (1, 1, 0)),
        ("SELECT $1, $2, $3, $4", (1, 0, 1)),
        ("SELECT missing($1)", (1, 1, 0)),
        ("SELECT $1, $2, $3, $4, $5", (1, 0, 1)),
        ("COPY t FROM STDIN", (2, 1, 3)),
        ("COPY t (a) FROM STDIN", (1, 0, 1)),
        ("COPY t TO STDOUT", (1, 0, 6)),
        ("SELECT pg_sleep($1)", (1, 1, 0)),
        // One is broken, the other names what is not there.
        ("SELECT …", (2, 2, 0)),
    ]);
    assert_eq!(by_text(&seen.statements), expected);
    let all = sum(&seen);
    assert_eq!(
        all.count,
        expected.values().map(|(count, ..)| count).sum::<u64>()
    );
    assert_eq!(seen.rest, Sums::default());
    assert_eq!(seen.times.count(), all.count);
    // Each rounded down.
    assert_eq!(seen.times.sum_us, all.time_us);
    let errors = [("22", 4), ("42", 6), ("57", 2)].map(|(class, count)| (class.to_owned(), count));
    assert_eq!(seen.errors, errors);
    assert_eq!(seen.totals.errors, 12);
    assert!(!format!("{seen:?}").contains("hunter2"));
    let of_other = insight(&stack, &other).await;
    assert_eq!(
        by_text(&of_other.statements),
        BTreeMap::from([("SELECT $1", (1, 0, 1))])
    );
    // All of them at once, without statements.
    let mut all = stack.proxy().numbers().insights().await;
    all.sort_by_key(|of| of.errors.len());
    let ids: Vec<_> = all.iter().map(|of| of.tenant.clone()).collect();
    assert_eq!(ids, [other.id.clone(), tenant.id.clone()]);
    assert_eq!((&all[1].errors, &all[1].times), (&seen.errors, &seen.times));
    assert!(all[1].statements.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_exact_in_mode_auto() {
    counts_are_exact(PoolMode::Auto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_exact_in_mode_session() {
    counts_are_exact(PoolMode::Session).await;
}

/// Bounds, what is left over, and nothing at all when it is switched off.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_place_is_summed_up() {
    for (statements_max, bytes_max) in [(4, 1 << 20), (200, 2_000), (200, 0), (0, 1 << 20)] {
        let stack = Stack::start(|config| {
            config.limits.insight_statements_max = statements_max;
            config.limits.insight_bytes_max = bytes_max;
        })
        .await;
        let tenant = stack.tenant();
        let mut client = raw(&stack, &tenant);
        for i in 0..30 {
            client.query(&format!("SELECT 1 AS column_{i}"));
            client.query("SELECT 1, 2");
        }
        let seen = insight(&stack, &tenant).await;
        let all = sum(&seen);
        if statements_max == 0 {
            assert_eq!((all, seen.times.count()), (Sums::default(), 0));
            assert_eq!(seen.totals.statements, 60);
            continue;
        }
        assert_eq!((all.count, all.rows), (60, 60));
        assert_eq!(seen.times.count(), 60);
        let shown: usize = seen
            .statements
            .iter()
            .map(|statement| statement.text.len())
            .sum();
        assert!(seen.statements.len() <= statements_max && shown <= bytes_max);
        // Half of all runs keeps its place, whatever else comes.
        if bytes_max > 0 {
            assert_eq!(by_text(&seen.statements)["SELECT $1, $2"], (30, 0, 30));
        }
    }
}

const PROBE: &str = "SELECT 1 FROM pg_sleep(0.1)";
const PROBE_SHAPE: &str = "SELECT $1 FROM pg_sleep($2)";

/// By what the tenant calls slow when they end, also on sessions that are open.
#[tokio::test(flavor = "multi_thread")]
async fn slow_statements_are_counted_by_shape() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let mut client = raw(&stack, &tenant);
    let slow = async |text: &str| {
        let seen = insight(&stack, &tenant).await;
        let own = seen.statements.into_iter().find(|own| own.text == text);
        own.map(|own| (own.sums.count, own.sums.slow)).unwrap()
    };
    // From when on something else holds is seen by what it makes of others.
    let call_slow = async |client: &mut Raw, time: Option<Duration>| {
        limit(&stack, &tenant, |limits| limits.slow_statement_time = time);
        loop {
            let before = slow(PROBE_SHAPE).await;
            client.query(PROBE);
            if (slow(PROBE_SHAPE).await.1 > before.1) == time.is_some() {
                break;
            }
        }
    };
    client.query(PROBE);
    let both = |client: &mut Raw| {
        client.query("SELECT pg_sleep(0.1)");
        flight(client, 1, |out| {
            parse(b"", b"SELECT pg_sleep(0.1), 2", &[], out);
            run(b"", b"", out);
            run(b"", b"", out);
            sync(out);
        });
    };
    // By default a second, which these do not take.
    both(&mut client);
    call_slow(&mut client, Some(Duration::from_millis(50))).await;
    both(&mut client);
    assert_eq!(
        code_of(&client.query("SELECT 1 / (random() * 0)::int FROM pg_sleep(0.1)")),
        "22012"
    );
    client.query("SELECT 1");
    call_slow(&mut client, None).await;
    both(&mut client);
    assert_eq!(slow("SELECT pg_sleep($1)").await, (3, 1));
    assert_eq!(slow("SELECT pg_sleep($1), $2").await, (6, 2));
    assert_eq!(
        slow("SELECT $1 / (random() * $2)::int FROM pg_sleep($3)").await,
        (1, 1)
    );
    assert_eq!(slow("SELECT $1").await, (1, 0));
    let counts = stack.proxy().numbers().counts().await;
    let own = counts.iter().find(|own| own.tenant == tenant.id).unwrap();
    assert_eq!(own.counts.slow, 4 + slow(PROBE_SHAPE).await.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_shows_statements() {
    let stack = Stack::start(|config| {
        let salt = wire::scram::login_salt(&kit::INSTALLATION_KEY, proxy::OPERATOR);
        let keys = wire::scram::Keys::from_password("operator", &salt, config.scram_iterations);
        config.operator = Some(keys);
        config.limits.insight_statements_max = 1;
    })
    .await;
    let tenant = stack.tenant();
    let mut client = raw(&stack, &tenant);
    client.query("SELECT 'hunter2', 1");
    client.query("SELECT 'hunter2'");
    client.query("SELECT 'hunter2'");
    let parameters = [("user", proxy::OPERATOR), ("database", "tenantry")];
    let mut console = Raw::tls(stack.port, &stack.certificate);
    console.log_in(Protocol::V3_0, &parameters, "operator");
    let seen = console.query("show statements");
    let rows = seen.iter().filter(|(kind, _)| *kind == b'D');
    let rows: Vec<_> = rows
        .map(|(_, body)| String::from_utf8_lossy(body).into_owned())
        .collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows[0].contains(tenant.id.as_str()) && rows[0].ends_with("SELECT $1"));
    assert!(
        rows[1].contains(tenant.id.as_str())
            && rows[1].ends_with("\u{fffd}\u{fffd}\u{fffd}\u{fffd}")
    );
    assert!(!format!("{rows:?}").contains("hunter2"));
}
