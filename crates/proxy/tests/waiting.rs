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
use model::Role;
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
async fn crowded_out(wait_max: Duration, waiting_max: usize) -> (Stack, Tenant, Raw) {
    let stack = Stack::with_budget(1, |config| {
        config.limits.budget_wait_max = wait_max;
        config.limits.waiting_max = waiting_max;
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
    let (stack, tenant, holder) = crowded_out(Duration::from_millis(100), 500).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let (stack, tenant, holder) = crowded_out(Duration::from_secs(20), 1).await;
    let (mut first, _) = log_in(&stack, &tenant);
    let mut out = Vec::new();
    build::query("SELECT 'first'", &mut out);
    first.send(&out);
    wait_until("it waits", || {
        snapshot(&stack).tenants.iter().any(|t| t.waiting == 1)
    });
    let (mut second, _) = log_in(&stack, &tenant);
    let seen = second.query("SELECT 'second'");
    assert_eq!(raw::code_of(&seen), "53300");
    drop(holder);
    assert_eq!(raw::value(&first.until(b'Z')), "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_a_statement_that_waits() {
    let (stack, tenant, holder) = crowded_out(Duration::from_secs(20), 500).await;
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
