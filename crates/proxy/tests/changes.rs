//! What changes while the proxy runs: routes that were missed, and its certificate.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use kit::{
    Stack, Tenant,
    raw::{self, Raw},
    wait_until,
};
use model::{
    Role,
    route::{Access, Candidate},
};
use wire::{message::build, startup::Protocol};

fn log_in(stack: &Stack, certificate: &str, tenant: &Tenant) -> (Raw, String) {
    let mut raw = Raw::tls(stack.port, certificate);
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
    (raw, raw::code_of(&seen))
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_were_missed_are_looked_for_everywhere() {
    let stack = Stack::start(|config| {
        config.workers = 2;
        config.limits.fresh_max = std::time::Duration::from_secs(3600);
    })
    .await;
    let certificate = stack.certificate.clone();
    let (with_session, without, kept) = (stack.tenant(), stack.tenant(), stack.tenant());
    let (mut session, code) = log_in(&stack, &certificate, &with_session);
    assert_eq!(code, "");
    session.query("SELECT 1");
    // Connections go to the workers in turn: now each knows both.
    for tenant in [&with_session, &without, &without] {
        assert_eq!(log_in(&stack, &certificate, tenant).1, "");
    }
    let (mut bystander, _) = log_in(&stack, &certificate, &kept);
    bystander.query("SELECT 1");
    // Another secret each, and nobody is told: what is known is used on.
    for tenant in [&with_session, &without] {
        stack.set_route(tenant, Role::Admin, |route| route.candidates.clear());
        assert_eq!(log_in(&stack, &certificate, tenant).1, "");
    }
    assert_eq!(raw::value(&session.query("SELECT 2")), "2");

    // On every worker, one after the other.
    wait_until("both are found", || {
        stack.flood_of_changes();
        [&with_session, &without]
            .into_iter()
            .all(|tenant| log_in(&stack, &certificate, tenant).1 == "28P01")
    });
    let rest = session.rest();
    assert_eq!(raw::code_of(&rest), "57P01");
    assert!(String::from_utf8_lossy(&rest[0].1).contains("revoked"));
    assert_eq!(raw::value(&bystander.query("SELECT 3")), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_is_used_from_the_next_handshake_on() {
    let tls = Arc::new(Mutex::new(None));
    let kept = tls.clone();
    let stack = Stack::start(move |config| *kept.lock().unwrap() = config.tls.clone()).await;
    let tls = tls.lock().unwrap().take().unwrap();
    let tenant = stack.tenant();
    let (mut old, code) = log_in(&stack, &stack.certificate, &tenant);
    assert_eq!(code, "");

    assert!(tls.replace(b"", b"").is_err());
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (identity.cert.pem(), identity.signing_key.serialize_pem());
    let wrong_key = other.signing_key.serialize_pem();
    assert!(
        tls.replace(certificate.as_bytes(), wrong_key.as_bytes())
            .is_err()
    );
    // Nothing has changed by that.
    assert_eq!(log_in(&stack, &stack.certificate, &tenant).1, "");

    tls.replace(certificate.as_bytes(), key.as_bytes()).unwrap();
    assert!(Raw::try_tls(stack.port, &stack.certificate).is_err());
    // The proof is bound to the certificate, so the new one is bound to, too.
    let (mut new, code) = log_in(&stack, &certificate, &tenant);
    assert_eq!(code, "");
    assert_eq!(raw::value(&new.query("SELECT 'new'")), "new");
    assert_eq!(raw::value(&old.query("SELECT 'old'")), "old");
}

/// libpq reads 8 kB at a time; see `TLS_RECORD_MAX`.
#[tokio::test(flavor = "multi_thread")]
async fn tls_records_towards_clients_are_short() {
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let (mut raw, records) = Raw::try_tls(stack.port, &stack.certificate).unwrap();
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
    for size in [1, 8_000, 8_192, 100_000, 5_000_000] {
        let seen = raw.query(&format!("SELECT repeat('x', {size})"));
        assert_eq!(raw::value(&seen).len(), size);
    }
    raw.query("SELECT repeat('y', 100) FROM generate_series(1, 50000)");
    let records = records.lock().unwrap();
    assert!(records.iter().sum::<usize>() > 10_000_000);
    assert!(
        records.iter().all(|length| *length <= 8192),
        "{:?}",
        records.iter().max()
    );
    // Nearly full ones, or each byte would cost more than it must.
    assert!(records.iter().any(|length| *length > 8000));
}

/// Whether the session goes on after it or not.
fn first_error(raw: &mut Raw) -> String {
    let mut out = Vec::new();
    build::query("SELECT 1", &mut out);
    raw.send(&out);
    raw::code_of(&raw.until(b'E'))
}

/// A database is shut before everybody has heard why: who meets the shut door is told the reason, not that the
/// server cannot be reached.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_before_the_news_is_told_the_reason() {
    let stack = Stack::start(|config| {
        config.limits.fresh_max = std::time::Duration::from_secs(3600);
    })
    .await;
    let certificate = stack.certificate.clone();
    let shut = |tenant: &Tenant| {
        let database = tenant.pid.database();
        stack.postgres.sql(
            "postgres",
            &format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false"),
        );
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        );
        stack.postgres.sql("postgres", &end);
        wait_until("the server is left", || stack.backends() == 0);
    };
    for (access, code) in [
        (Access::Suspended, "55000"),
        (Access::Deleted, "3D000"),
        // Nobody knows of a reason.
        (Access::Open, "08006"),
    ] {
        let tenant = stack.tenant();
        let (mut known, _) = log_in(&stack, &certificate, &tenant);
        known.query("SELECT 1");
        let (mut waiting, _) = log_in(&stack, &certificate, &tenant);
        drop(known);
        stack.set_route(&tenant, Role::Admin, |route| route.access = access);
        shut(&tenant);
        assert_eq!(first_error(&mut waiting), code);
        // And one that logs in with what was known.
        let (mut late, refused) = log_in(&stack, &certificate, &tenant);
        let said = if refused.is_empty() {
            first_error(&mut late)
        } else {
            refused
        };
        assert_eq!(said, code);
    }
}

fn log_in_with(stack: &Stack, tenant: &Tenant, password: &str) -> (Raw, String) {
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    let seen = raw.log_in(Protocol::V3_0, &parameters, password);
    (raw, raw::code_of(&seen))
}

/// Sessions of a password end with it; those of a connect token do not, whether it expires or is revoked.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_with_their_credential_or_outlive_it() {
    let stack = Stack::start(|config| config.workers = 2).await;
    let tenant = stack.tenant();
    let mut connect = stack.candidate(&tenant, Role::Admin, "connect");
    connect.outlived = true;
    connect.expires_at = Some(SystemTime::now() + Duration::from_secs(2));
    let mut revoked = stack.candidate(&tenant, Role::Admin, "revoked");
    revoked.outlived = true;
    let mut grace = stack.candidate(&tenant, Role::Admin, "grace");
    let old = stack.candidate(&tenant, Role::Admin, "old");
    let (first, second) = (grace.clone(), connect.clone());
    let login = tenant.login(Role::Admin);
    let before = stack.table.lock().unwrap().routes[&login].route.clone();
    let with = |candidates: Vec<Candidate>| {
        stack.set_route(&tenant, Role::Admin, |route| {
            route.candidates.clone_from(&before.candidates);
            route.candidates.extend(candidates);
        });
        stack.announce(&tenant);
    };
    with(vec![connect, revoked, first, old]);
    let open = |password: &str| {
        let (mut session, code) = log_in_with(&stack, &tenant, password);
        assert_eq!(code, "", "{password}");
        session.query("SELECT 1");
        session
    };
    let (mut connected, mut let_in) = (open("connect"), open("revoked"));
    let (mut graced, mut ended, mut own) = (open("grace"), open("old"), open(&tenant.password));

    // One is revoked with its sessions, one without, one gets an end, and one has it coming.
    grace.expires_at = Some(SystemTime::now() + Duration::from_secs(2));
    with(vec![second, grace]);
    assert_eq!(raw::code_of(&ended.rest()), "57P01");
    wait_until("the change is seen", || {
        log_in_with(&stack, &tenant, "revoked").1 == "28P01"
    });
    // By the proxy's own clock: nobody tells it that they expire.
    assert_eq!(raw::code_of(&graced.rest()), "57P01");
    assert_eq!(log_in_with(&stack, &tenant, "grace").1, "28P01");
    wait_until("the token expires", || {
        log_in_with(&stack, &tenant, "connect").1 == "28P01"
    });
    // Also when the tenant is looked at again.
    with(Vec::new());
    assert_eq!(log_in_with(&stack, &tenant, &tenant.password).1, "");
    for session in [&mut connected, &mut let_in, &mut own] {
        assert_eq!(raw::value(&session.query("SELECT 'on'")), "on");
    }
    // What ends the tenant ends them, too.
    stack.set_route(&tenant, Role::Admin, |route| route.access = Access::Deleted);
    stack.announce(&tenant);
    for session in [&mut connected, &mut let_in] {
        assert!(!raw::code_of(&session.rest()).is_empty());
    }
}
