//! Sessions beside direct connections that are sent the same, one case each of what random scripts once found.
//! No session gets the same server connection twice running.
//!
//! Owns: what all cases begin and end with. The cases are in files by what they are about.

#![allow(clippy::unwrap_used, reason = "a test")]

mod analysed;
mod columns;
mod elsewhere;
mod executed;
#[path = "../kit/mod.rs"]
mod kit;
mod prepared;
mod roles;
mod settings;

use kit::{Stack, Tenant, pair::Pair};
use proxy::LendingRule;
use wire::message::build;

async fn start() -> (Stack, Tenant) {
    let stack = Stack::start(|config| {
        config.lending = LendingRule::NeverTheSameTwice;
        config.require_tls = false;
    })
    .await;
    let tenant = stack.tenant();
    stack.postgres.sql(
        &tenant.pid.database(),
        "CREATE SCHEMA s1; CREATE SCHEMA s2;
         CREATE TABLE s1.t (v text); INSERT INTO s1.t VALUES ('one');
         CREATE TABLE s2.t (v text); INSERT INTO s2.t VALUES ('two');
         GRANT USAGE, CREATE ON SCHEMA s1, s2 TO tenantry_admin;
         GRANT SELECT ON ALL TABLES IN SCHEMA s1, s2 TO tenantry_admin",
    );
    (stack, tenant)
}

async fn end(stack: &Stack) {
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
}

/// A pipeline that prepares this without a name, and runs it.
fn run(pair: &mut Pair, sql: &str) {
    let mut bytes = Vec::new();
    build::parse(b"", sql.as_bytes(), &[], &mut bytes);
    build::bind_nothing(b"", b"", &mut bytes);
    build::execute(b"", 0, &mut bytes);
    build::sync(&mut bytes);
    pair.flight(format!("run {sql}"), &bytes, 1);
}
