//! Numbers and log lines are those of what really happened.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex, OnceLock},
};

use kit::{Stack, Tenant, raw::Raw, wait_until};
use model::Role;
use proxy::{Reader, Snapshot};
use serde_json::Value;
use wire::startup::Protocol;

/// What the process logs, one JSON object per line.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The one of this process: `tracing` has one for all threads.
    fn start() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let start = || {
            let log = Self::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .json()
                .flatten_event(true)
                .with_max_level(tracing::Level::INFO)
                .with_writer(move || writer.clone())
                .init();
            log
        };
        LOG.get_or_init(start).clone()
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Lines about a tenant.
    fn of(&self, tenant: &Tenant) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line["tenant"] == tenant.id.as_str())
            .collect()
    }
}

async fn snapshot(stack: &Stack) -> Snapshot {
    stack.proxy().snapshot().await
}

fn now(stack: &Stack) -> Snapshot {
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(stack.proxy().snapshot())
    })
}

/// Samples of a page by name and labels.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let mut samples = BTreeMap::new();
    for line in lines {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let before = samples.insert(name.to_owned(), value.parse().unwrap());
        assert!(before.is_none(), "{name} is there twice");
    }
    samples
}

fn sum(samples: &BTreeMap<String, f64>, family: &str) -> f64 {
    let own = samples
        .iter()
        .filter(|(name, _)| name.split('{').next() == Some(family));
    own.map(|(_, value)| value).sum()
}

fn raw(stack: &Stack, tenant: &Tenant, password: &str) -> (Raw, String) {
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [
        ("user", user.as_str()),
        ("database", "postgres"),
        ("application_name", "the \"app\"\nof a test"),
    ];
    let mut raw = Raw::tls(stack.port, &stack.certificate);
    let seen = raw.log_in(Protocol::V3_0, &parameters, password);
    (raw, kit::raw::code_of(&seen))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tenants_do_is_counted_for_them_and_for_all() {
    let stack = Stack::start(|config| config.workers = 2).await;
    let tenants = [stack.tenant(), stack.tenant(), stack.tenant()];
    for (number, tenant) in tenants.iter().enumerate() {
        stack.keep_servers(tenant);
        let (mut client, code) = raw(&stack, tenant, &tenant.password);
        assert_eq!(code, "");
        for _ in 0..=number {
            client.query("SELECT n FROM generate_series(1, 7) n");
        }
        client.query("BEGIN");
        client.query("SELECT 1 / 0");
        client.query("ROLLBACK");
    }
    let (_, code) = raw(&stack, &tenants[0], "wrong");
    assert_eq!(code, "28P01");
    wait_until("the sessions have ended", || {
        now(&stack).counts.sessions_ended.values().sum::<u64>() == 3
    });
    let seen = snapshot(&stack).await;
    for (number, tenant) in tenants.iter().enumerate() {
        let of = seen.tenants.iter().find(|of| of.tenant == tenant.id);
        let totals = of.unwrap().totals;
        let selects = number as u64 + 1;
        assert_eq!(totals.logins, 1);
        assert_eq!(totals.statements, selects + 2, "BEGIN and ROLLBACK");
        assert_eq!(totals.transactions, selects + 1);
        assert_eq!(totals.rows, 7 * selects);
        assert_eq!(totals.errors, 1);
        assert!(totals.waits >= 1);
        assert!(totals.bytes_from_clients > 0 && totals.bytes_to_clients > 0);
    }
    assert_eq!(seen.totals.statements, 1 + 2 + 3 + 3 * 2);
    assert_eq!(seen.totals.rows, 7 * 6);
    let counts = &seen.counts;
    assert_eq!(counts.logins_refused.get("28P01"), Some(&1));
    assert_eq!(counts.login_time.count(), 3);
    assert_eq!(counts.wait_time.count(), seen.totals.waits);
    assert_eq!(counts.wait_time.sum_us, seen.totals.waited_us);
    assert_eq!(
        counts.busy_time.count(),
        1 + 2 + 3 + 3 * 3,
        "one for each question"
    );
    assert_eq!(counts.busy_time.sum_us, seen.totals.busy_us);
    assert_eq!(counts.opened, counts.open_time.count());
    assert!(counts.opened >= 3);
    assert_eq!((seen.mismatches, seen.panics), (0, 0));

    // As Prometheus reads it, with a series for one of them.
    let mut reader = Reader::new(1);
    let first = samples(&reader.page(&seen).into_text(""));
    let names = first.keys().filter(|name| name.contains("tenant=\""));
    let names: std::collections::BTreeSet<_> =
        names.filter_map(|name| name.split('"').nth(1)).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.contains("other") && names.contains("former"));
    assert!(names.contains(tenants[2].id.as_str()), "the busiest");
    let (mut client, _) = raw(&stack, &tenants[2], &tenants[2].password);
    client.query("SELECT 1");
    let again = samples(&reader.page(&snapshot(&stack).await).into_text(""));
    let own = |family: &str| again[&format!("{family}{{tenant=\"{}\"}}", tenants[2].id)];
    assert_eq!(own("tenantry_tenant_statements_total"), 1.0);
    assert_eq!(own("tenantry_tenant_clients"), 1.0);
    for page in [&first, &again] {
        for (family, total) in [
            ("statements", "statements"),
            ("transactions", "transactions"),
            ("rows", "rows"),
            ("errors", "errors"),
            ("client_sent_bytes", "client_sent_bytes"),
            ("client_received_bytes", "client_received_bytes"),
            ("logins", "logins"),
        ] {
            let of_tenants = sum(page, &format!("tenantry_tenant_{family}_total"));
            assert_eq!(of_tenants, page[&format!("tenantry_{total}_total")]);
            assert!(of_tenants > 0.0, "{family}");
        }
    }
    assert_eq!(first["tenantry_node_servers_max{node=\"node\"}"], 20.0);
}

/// Also what they did stays counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_forgotten_leaves_the_totals_as_they_are() {
    let stack = Stack::start(|config| {
        config.limits.tenant_idle_max = std::time::Duration::from_millis(20);
        config.limits.server_idle_max = std::time::Duration::from_millis(20);
    })
    .await;
    let tenant = stack.tenant();
    let (mut client, _) = raw(&stack, &tenant, &tenant.password);
    client.query("SELECT 1");
    let during = snapshot(&stack).await;
    assert_eq!(during.tenants.len(), 1);
    drop(client);
    wait_until("the tenant is forgotten", || now(&stack).tenants.is_empty());
    let after = snapshot(&stack).await;
    assert_eq!(after.totals, during.totals);
    assert_eq!(after.totals.statements, 1);
    assert!(after.counts.expired >= 1);
    let (mut client, _) = raw(&stack, &tenant, &tenant.password);
    client.query("SELECT 1");
    let back = snapshot(&stack).await;
    assert_eq!(back.totals.statements, 2);
    assert_eq!(back.tenants[0].totals.statements, 1);
    assert_ne!(back.tenants[0].life, during.tenants[0].life);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_one_line_of_the_log_with_what_it_did_and_nothing_it_said() {
    let log = Log::start();
    let stack = Stack::start(|_| {}).await;
    let tenant = stack.tenant();
    let (mut client, _) = raw(&stack, &tenant, &tenant.password);
    client.query("SELECT 'its-secret' FROM generate_series(1, 3)");
    client.query("SELECT 'its-secret' / 1");
    client.send(b"X\0\0\0\x04");
    wait_until("it has ended", || !log.of(&tenant).is_empty());
    let lines = log.of(&tenant);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert_eq!(line["message"], "session ended");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["target"], "proxy::journal");
    assert_eq!(line["role"], "admin");
    assert!(line["credential"].as_str().unwrap().starts_with("crd_"));
    assert_eq!(line["placement"], tenant.pid.as_str());
    assert!(line["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(line["tls"], "1.3");
    assert_eq!(line["application"], "the \"app\"\\x0aof a test");
    assert_eq!(
        (&line["statements"], &line["errors"]),
        (&1.into(), &1.into())
    );
    assert_eq!(line["rows"], 3);
    assert!(line["bytes_in"].as_u64().unwrap() > 0);
    assert!(line["bytes_out"].as_u64().unwrap() > 0);
    assert!(line["lasted_ms"].is_u64() && line["busy_ms"].is_u64());
    assert!(line["waited_ms"].is_u64());
    assert_eq!(
        (&line["ended"], &line["reason"]),
        (&"left".into(), &"the client left".into())
    );

    // One that we end says with which words.
    let (mut client, _) = raw(&stack, &tenant, &tenant.password);
    client.query("SELECT 1");
    stack.set_route(&tenant, Role::Admin, |route| {
        route.access = model::route::Access::Suspended;
    });
    stack.announce(&tenant);
    assert_eq!(kit::raw::code_of(&client.rest()), "57P01");
    wait_until("it has ended", || log.of(&tenant).len() == 2);
    assert_eq!(log.of(&tenant)[1]["ended"], "57P01");
    // Who is not let in has a line, too.
    let (_, code) = raw(&stack, &tenant, &tenant.password);
    assert_eq!(code, "55000");
    wait_until("it is written", || log.of(&tenant).len() == 3);
    let lines = log.of(&tenant);
    assert_eq!(
        (&lines[2]["message"], &lines[2]["code"]),
        (&"login refused".into(), &"55000".into())
    );
    let text = log.text();
    assert!(!text.contains("its-secret"), "{text}");
    assert!(!text.contains(&tenant.password), "{text}");
}
