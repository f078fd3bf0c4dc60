//! Statements that wait for a server connection, in vain or until they are cancelled: the statement
//! ends, the session goes on.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::time::Duration;

use kit::{
    Stack, Tenant,
    raw::{self, Message, Raw},
    wait_until,
};
use model::{Role, route::PoolMode};
use proxy::Snapshot;
use wire::{
    message::{Kind, build},
    startup::Protocol,
};

fn snapshot(stack: &Stack) -> Snapshot {
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(stack.proxy().snapshot())
    })
}

fn log_in(stack: &Stack, tenant: &Tenant) -> (Raw, Vec<Message>) {
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    let seen = raw.log_in(Protocol::V3_2, &parameters, &tenant.password);
    assert_eq!(raw::code_of(&seen), "");
    (raw, seen)
}

fn kinds(messages: &[Message]) -> String {
    messages.iter().map(|(kind, _)| char::from(*kind)).collect()
}

/// A tenant whose clients get no server connection as long as the returned one lives.
async fn crowded_out(wait_max: Duration) -> (Stack, Tenant, Raw) {
    let stack = Stack::with_budget(1, |config| {
        config.limits.budget_wait_max = wait_max;
    })
    .await;
    let (other, tenant) = (stack.tenant(), stack.tenant());
    // So that the values of its server are known.
    log_in(&stack, &tenant).0.send(b"X\0\0\0\x04");
    let (mut holder, _) = log_in(&stack, &other);
    holder.query("BEGIN");
    (stack, tenant, holder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_waits_in_vain_ends_and_the_session_goes_on() {
    let (stack, tenant, holder) = crowded_out(Duration::from_millis(100)).await;
    let (mut raw, _) = log_in(&stack, &tenant);
    let refused = |seen: &[Message]| {
        assert_eq!(kinds(seen), "EZ");
        assert_eq!(raw::code_of(seen), "53300");
        assert!(seen[0].1.starts_with(b"SERROR\0"));
        assert_eq!(seen[1].1, b"I");
    };
    refused(&raw.query("SELECT 1"));

    // Extended: one error, then nothing up to the Sync.
    let mut out = Vec::new();
    build::parse(b"s", b"SELECT 1", &[], &mut out);
    build::describe(Kind::Statement, b"s", &mut out);
    build::flush(&mut out);
    raw.send(&out);
    assert_eq!(kinds(&raw.until(b'E')), "E");
    let mut out = Vec::new();
    build::bind_nothing(b"", b"s", &mut out);
    build::execute(b"", 0, &mut out);
    build::query("SELECT 'skipped'", &mut out);
    build::sync(&mut out);
    for byte in out {
        raw.send(&[byte]);
    }
    assert_eq!(kinds(&raw.until(b'Z')), "Z");

    // Several in one flight: each is answered by itself.
    let mut out = Vec::new();
    build::query("SELECT 1", &mut out);
    build::parse(b"", b"SELECT 1", &[], &mut out);
    build::sync(&mut out);
    build::query("SELECT 2", &mut out);
    raw.send(&out);
    for _ in 0..3 {
        refused(&raw.until(b'Z'));
    }

    // One that is larger than every buffer.
    refused(&raw.query(&format!("SELECT '{}'", "x".repeat(3_000_000))));
    assert_eq!(stack.backends(), 1);

    drop(holder);
    wait_until("the server is free", || {
        let seen = raw.query("SELECT 'served'");
        raw::code_of(&seen).is_empty() && raw::value(&seen) == "served"
    });
    let mut out = Vec::new();
    build::bind_nothing(b"", b"s", &mut out);
    build::sync(&mut out);
    raw.send(&out);
    // The Parse was refused with all the others.
    assert_eq!(raw::code_of(&raw.until(b'Z')), "26000");
    assert_eq!(snapshot(&stack).mismatches, 0);
}

fn log_in_as(stack: &Stack, tenant: &Tenant, parameters: &[(&str, &str)]) -> Raw {
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let user = tenant.login(Role::Admin).to_string();
    let mut all = vec![("user", user.as_str()), ("database", "postgres")];
    all.extend(parameters);
    let seen = raw.log_in(Protocol::V3_2, &all, &tenant.password);
    assert_eq!(raw::code_of(&seen), "");
    raw
}

/// As a client says that it wants no notices.
const QUIET: (&str, &str) = ("client_min_messages", "warning");

/// The first one says for what it waits and until when; the second one, that the same application holds
/// all there is in transactions that wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_announced_and_names_connections_that_wait_for_each_other() {
    for mode in [PoolMode::Session, PoolMode::Auto] {
        let stack = Stack::with_budget(3, |config| {
            config.limits.wait_notice_after = Duration::from_millis(100);
            config.limits.budget_wait_max = Duration::from_millis(1600);
        })
        .await;
        let [tenant, other] = [stack.tenant(), stack.tenant()];
        for tenant in [&tenant, &other] {
            stack.set_route(tenant, Role::Admin, |route| {
                route.pool_mode = mode;
                route.limits.server_connections_max = 2;
            });
        }
        let shop = [("application_name", "shop")];
        let has = |message: &Message, words: &str| {
            let text = String::from_utf8_lossy(&message.1).into_owned();
            assert!(text.contains(words), "{text} has no {words}");
        };
        // To have its setting tried it takes a server connection, which it would keep.
        let mut quiet =
            (mode == PoolMode::Auto).then(|| log_in_as(&stack, &tenant, &[shop[0], QUIET]));
        let mut holders = [(); 2].map(|()| log_in_as(&stack, &tenant, &shop));
        for holder in &mut holders {
            holder.query("BEGIN");
        }
        let mut nested = log_in_as(&stack, &tenant, &shop);
        let seen = nested.query("SELECT 1");
        assert_eq!(kinds(&seen), "NEZ");
        has(&seen[0], "SNOTICE\0");
        has(&seen[0], "waiting for a server connection");
        has(
            &seen[0],
            "All 2 server connections of this database are held by open transactions of this",
        );
        has(&seen[0], "In 1.5 s the statement ends");
        has(&seen[0], "use one connection for both");
        assert_eq!(raw::code_of(&seen[1..]), "53300");
        has(
            &seen[1],
            "open transactions of this application hold all of them",
        );

        // Another application cannot be what they wait for.
        let mut stranger = log_in_as(&stack, &tenant, &[("application_name", "report")]);
        let seen = stranger.query("SELECT 1");
        assert_eq!(kinds(&seen), "NEZ");
        has(
            &seen[0],
            "All 2 server connections that this database may have are in use.",
        );
        has(
            &seen[1],
            "no server connection became free within 1600 ms\0",
        );

        // Nor does one wait for ever whose others work.
        let mut out = Vec::new();
        build::query("SELECT pg_sleep(3)", &mut out);
        holders[0].send(&out);
        let seen = nested.query("SELECT 1");
        assert_eq!(kinds(&seen), "NEZ");
        has(
            &seen[1],
            "no server connection became free within 1600 ms\0",
        );
        assert_eq!(raw::code_of(&holders[0].until(b'Z')), "");

        // Of the node's: what others have is not told.
        let mut third = log_in_as(&stack, &other, &shop);
        third.query("BEGIN");
        let mut shared = log_in_as(&stack, &other, &[("application_name", "report")]);
        let seen = shared.query("SELECT 1");
        has(
            &seen[0],
            "All server connections that databases share are in use.",
        );

        // Who does not want to hear of it, does not: not at login either.
        if let Some(quiet) = &mut quiet {
            assert_eq!(kinds(&quiet.query("SELECT 1")), "EZ");
            let mut late = Raw::tls(stack.port, &stack.certificate);
            let user = tenant.login(Role::Admin).to_string();
            let own = [("user", user.as_str()), ("database", "postgres"), QUIET];
            let seen = late.log_in(Protocol::V3_2, &own, &tenant.password);
            assert_eq!(raw::code_of(&seen), "53300");
            assert!(!kinds(&seen).contains('N'));
        }
        // And the wait goes on behind the notice.
        let mut out = Vec::new();
        build::query("SELECT 'served'", &mut out);
        nested.send(&out);
        nested.until(b'N');
        holders[1].query("COMMIT");
        drop(holders);
        let seen = nested.until(b'Z');
        assert_eq!(raw::code_of(&seen), "");
        assert_eq!(raw::value(&seen), "served");
        assert_eq!(snapshot(&stack).mismatches, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_a_statement_that_waits() {
    let (stack, tenant, holder) = crowded_out(Duration::from_secs(20)).await;
    let (mut raw, seen) = log_in(&stack, &tenant);
    let mut cancel = Vec::new();
    build::cancel_request(&raw::cancel_key(&seen), &mut cancel);
    let mut simple = Vec::new();
    build::query("SELECT 1", &mut simple);
    let mut extended = Vec::new();
    build::parse(b"", b"SELECT 1", &[], &mut extended);
    build::sync(&mut extended);
    for statement in [simple, extended] {
        raw.send(&statement);
        wait_until("it waits", || {
            snapshot(&stack).tenants.iter().any(|t| t.waiting == 1)
        });
        let mut canceller = Raw::tls(stack.port, &stack.certificate);
        canceller.send(&cancel);
        assert!(canceller.rest().is_empty());
        let seen = raw.until(b'Z');
        assert_eq!(kinds(&seen), "EZ");
        assert_eq!(raw::code_of(&seen), "57014");
    }
    assert!(snapshot(&stack).tenants.iter().all(|t| t.waiting == 0));
    drop(holder);
    // Not the next one.
    assert_eq!(raw::value(&raw.query("SELECT 2")), "2");
}

/// Five bytes are a whole message: without a server connection they were once taken for the
/// beginning of one.
#[tokio::test(flavor = "multi_thread")]
async fn the_shortest_message_gets_a_server_connection_too() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    for _ in 0..2 {
        let (mut raw, _) = log_in(&stack, &tenant);
        let mut out = Vec::new();
        build::sync(&mut out);
        raw.send(&out);
        assert_eq!(kinds(&raw.until(b'Z')), "Z");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_with_the_proof_is_answered_without_more() {
    let stack = Stack::start(|config| config.workers = 2).await;
    for _ in 0..4 {
        let tenant = stack.tenant();
        let mut raw = Raw::tls(stack.port, &stack.certificate);
        build::query("SELECT 'early'", &mut raw.eager);
        let user = tenant.login(Role::Admin).to_string();
        let parameters = [("user", user.as_str()), ("database", "postgres")];
        let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
        assert_eq!(raw::code_of(&seen), "");
        assert_eq!(raw::value(&raw.until(b'Z')), "early");
    }
}
