//! What is kept of a session in the proxy's own memory is bounded, and beyond the bound nothing goes wrong
//! for others.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::ops::Range;

use kit::{
    Stack, Tenant,
    raw::{Message, Raw, code_of, value},
};
use model::{Role, route::PoolMode};
use wire::{
    message::{Kind, build},
    startup::Protocol,
};

/// Names of prepared statements of one session.
const NAMES_MAX: usize = 16_384;
/// So many are prepared in one flight.
const FLIGHT: usize = 1_024;

fn tenant(stack: &Stack, servers_max: u32) -> Tenant {
    let tenant = stack.tenant();
    stack.set_route(&tenant, Role::Admin, |route| {
        route.pool_mode = PoolMode::Auto;
        route.limits.server_connections_max = servers_max;
    });
    tenant
}

fn raw(stack: &Stack, tenant: &Tenant) -> Raw {
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    assert_eq!(
        code_of(&raw.log_in(Protocol::V3_0, &parameters, &tenant.password)),
        ""
    );
    raw
}

fn name(number: usize) -> Vec<u8> {
    format!("n{number}").into_bytes()
}

/// A flight of Parse messages, of the same statement under other names.
fn prepare(numbers: Range<usize>) -> Vec<u8> {
    let mut out = Vec::new();
    for number in numbers {
        build::parse(&name(number), b"SELECT 1", &[], &mut out);
    }
    build::sync(&mut out);
    out
}

fn execute(raw: &mut Raw, number: usize) -> Vec<Message> {
    let mut out = Vec::new();
    build::bind_nothing(b"", &name(number), &mut out);
    build::execute(b"", 0, &mut out);
    build::sync(&mut out);
    raw.send(&out);
    raw.until(b'Z')
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_prepares_so_many_statements_and_no_more() {
    let stack = Stack::start(|_| {}).await;
    let tenant = tenant(&stack, 2);
    let mut beside = raw(&stack, &tenant);
    beside.send(&prepare(0..1));
    beside.until(b'Z');
    let mut greedy = raw(&stack, &tenant);
    for first in (0..NAMES_MAX).step_by(FLIGHT) {
        greedy.send(&prepare(first..first + FLIGHT));
        assert_eq!(code_of(&greedy.until(b'Z')), "");
    }
    assert_eq!(value(&execute(&mut greedy, NAMES_MAX - 1)), "1");
    // What is closed makes room.
    let mut out = Vec::new();
    build::close(Kind::Statement, &name(0), &mut out);
    out.extend_from_slice(&prepare(0..1));
    greedy.send(&out);
    assert_eq!(code_of(&greedy.until(b'Z')), "");
    greedy.send(&prepare(NAMES_MAX..NAMES_MAX + 1));
    assert_eq!(code_of(&greedy.rest()), "54000");
    assert_eq!(value(&execute(&mut beside, 0)), "1");
}

/// The session has what it set, and statements mean what they mean under it; nobody else has any of it.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_too_large_stay_on_their_server_connection() {
    let stack = Stack::start(|_| {}).await;
    let tenant = tenant(&stack, 2);
    let client = stack.connect(&tenant, Role::Admin).await;
    // Its constant is read when it is prepared.
    let sql = "SELECT extract(epoch FROM timestamptz '2020-01-01 00:00')::int8";
    let ask = async || -> i64 {
        let statement = client.prepare(sql).await.unwrap();
        client.query_one(&statement, &[]).await.unwrap().get(0)
    };
    let set = async |name: &str, value: &str| {
        let sql = format!("SET {name} TO '{value}'");
        client.batch_execute(&sql).await.unwrap();
    };
    set("timezone", "UTC").await;
    let midnight = ask().await;
    for number in 0..4 {
        set(&format!("app.s{number}"), &"x".repeat(16_000)).await;
    }
    set("app.s4", &"x".repeat(1_105)).await;
    assert_eq!(ask().await, midnight);
    let pins = stack.proxy().snapshot().await.counts.pins;
    assert_eq!(pins.get("settings"), None, "so much is carried");
    // Now it is too much, because of something that decides what statements mean.
    set("timezone", "America/Argentina/Buenos_Aires").await;
    assert_eq!(ask().await, midnight + 3 * 3600);
    let pins = stack.proxy().snapshot().await.counts.pins;
    assert_eq!(pins["settings"], 1);

    let others = [
        stack.connect(&tenant, Role::Admin).await,
        stack.connect(&tenant, Role::Admin).await,
    ];
    let has_nothing = "SELECT coalesce(current_setting('app.s3', true), '') = ''
        AND current_setting('timezone') !~ 'America'";
    let check = async |other: &tokio_postgres::Client| {
        let row = other.query_one(has_nothing, &[]).await.unwrap();
        assert!(row.get::<_, bool>(0));
    };
    check(&others[0]).await;
    assert_eq!(ask().await, midnight + 3 * 3600);
    let lengths = "SELECT length(current_setting('app.s0')) + length(current_setting('app.s4'))";
    let row = client.query_one(lengths, &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 17_105);
    // Its server connection goes to others when it has left, or another one does in its place.
    drop(client);
    for other in &others {
        other.batch_execute("BEGIN").await.unwrap();
        check(other).await;
    }
}
