//! What idle clients cost. Alone in its process, because it measures it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{Stack, raw::Raw};
use model::Role;
use wire::startup::Protocol;

fn resident_bytes() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: i64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Plain clients, since a TLS client's own side would be measured as well. A raw client here is a
/// socket and no buffer.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_costs_two_kilobytes() {
    const CLIENTS: usize = 300;
    // Some 100 of them are what limits of time and the rate of statements need to know.
    const BYTES_MAX: i64 = 2700;
    let stack = Stack::start(|config| config.require_tls = false).await;
    let tenant = stack.tenant();
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    let log_in = || {
        let mut raw = Raw::plain(stack.port);
        let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
        assert_eq!(kit::raw::code_of(&seen), "");
        raw
    };
    // What is needed once is there before.
    let mut clients: Vec<Raw> = (0..100).map(|_| log_in()).collect();
    let before = resident_bytes();
    clients.extend((0..CLIENTS).map(|_| log_in()));
    let each = (resident_bytes() - before) / CLIENTS as i64;
    println!("{each} bytes per idle client");
    assert!(each < BYTES_MAX, "{each} bytes per idle client");
    // None of them holds a server connection.
    assert!(stack.backends() <= 1);
}
