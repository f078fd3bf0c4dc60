//! Large values and slow readers cost no memory. Alone in its process, because it measures it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::io::{Read, Write};

use kit::{Stack, raw::Raw};
use model::Role;
use wire::{message::build, startup::Protocol};

/// Highest memory since the last call of [`forget_peak`], kB.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn bytes_to_clients(stack: &Stack) -> u64 {
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(stack.proxy().snapshot())
    })
    .tenants
    .iter()
    .map(|tenant| tenant.totals.bytes_to_clients)
    .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_pass_both_ways_in_flat_memory() {
    const VALUE: usize = 50_000_000;
    const GROWTH_KB_MAX: u64 = 6_000;
    let stack = Stack::start(|config| config.require_tls = false).await;
    let tenant = stack.tenant();
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
    raw.query("SELECT 1");
    let mut piece = vec![0; 65_536];
    forget_peak();
    let before = peak_kb();

    // To the client, who does not read at first.
    let sql = format!("SELECT repeat('x', {VALUE})\0");
    raw.send(
        &[
            b"Q",
            &(sql.len() as u32 + 4).to_be_bytes()[..],
            sql.as_bytes(),
        ]
        .concat(),
    );
    let mut seen = 0;
    let mut same = 0;
    // It has stopped when nothing moves between many looks.
    while same < 200 || seen == 0 {
        let now = bytes_to_clients(&stack);
        same = if now == seen { same + 1 } else { 0 };
        seen = now;
        std::thread::yield_now();
    }
    assert!(
        seen < VALUE as u64 / 2,
        "{seen} bytes went to a client that does not read"
    );
    let (mut total, mut tail) = (0, Vec::new());
    while !tail.ends_with(&[b'Z', 0, 0, 0, 5, b'I']) {
        let read = raw.stream.read(&mut piece).unwrap();
        total += read;
        tail.extend_from_slice(&piece[read.saturating_sub(6)..read]);
        tail.drain(..tail.len().saturating_sub(6));
    }
    assert!(total > VALUE);

    // From the client.
    let head = b"SELECT length('";
    let tail = b"')\0";
    let length = (4 + head.len() + VALUE + tail.len()) as u32;
    raw.stream
        .write_all(&[b"Q", &length.to_be_bytes()[..], head].concat())
        .unwrap();
    piece.fill(b'y');
    let mut left = VALUE;
    while left > 0 {
        let now = left.min(piece.len());
        raw.stream.write_all(&piece[..now]).unwrap();
        left -= now;
    }
    raw.send(tail);
    assert_eq!(kit::raw::value(&raw.until(b'Z')), VALUE.to_string());

    let growth = peak_kb() - before;
    assert!(growth < GROWTH_KB_MAX, "memory grew by {growth} kB");
    drop(raw);
    the_largest_values(&stack, &tenant);
}

/// Larger than what the machine of a small installation could keep. In one test with the others, since it measures memory.
fn the_largest_values(stack: &Stack, tenant: &kit::Tenant) {
    const VALUE: usize = 300_000_000;
    const GROWTH_KB_MAX: u64 = 6_000;
    let mut raw = Raw::plain(stack.port);
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
    raw.query("SELECT 1");
    let mut piece = vec![b'z'; 65_536];
    forget_peak();
    let before = peak_kb();

    // A parameter, since PostgreSQL's scanner needs several times the size of a literal.
    let mut out = Vec::new();
    build::parse(b"", b"SELECT octet_length($1::text)", &[], &mut out);
    out.push(b'B');
    out.extend((4 + 2 + 2 + 2 + 4 + VALUE as u32 + 2).to_be_bytes());
    out.extend([0, 0, 0, 0, 0, 1]);
    out.extend((VALUE as u32).to_be_bytes());
    raw.send(&out);
    let mut left = VALUE;
    while left > 0 {
        let now = left.min(piece.len());
        raw.stream.write_all(&piece[..now]).unwrap();
        left -= now;
    }
    let mut out = vec![0, 0];
    build::execute(b"", 0, &mut out);
    build::sync(&mut out);
    raw.send(&out);
    assert_eq!(kit::raw::value(&raw.until(b'Z')), VALUE.to_string());

    let mut out = Vec::new();
    build::query(&format!("SELECT repeat('x', {VALUE})"), &mut out);
    raw.send(&out);
    let (mut total, mut tail) = (0, Vec::new());
    while !tail.ends_with(&[b'Z', 0, 0, 0, 5, b'I']) {
        let read = raw.stream.read(&mut piece).unwrap();
        assert!(read > 0, "hung up after {total} bytes");
        total += read;
        tail.extend_from_slice(&piece[read.saturating_sub(6)..read]);
        tail.drain(..tail.len().saturating_sub(6));
    }
    assert!(total > VALUE);

    let growth = peak_kb() - before;
    assert!(growth < GROWTH_KB_MAX, "memory grew by {growth} kB");
}
