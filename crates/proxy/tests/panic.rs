//! A mistake of ours in one session. It is provoked by the one who listens to the log: alone in its
//! process, because there is one log per process.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use kit::{
    Stack,
    raw::{self, Raw},
    wait_until,
};
use model::Role;
use proxy::Snapshot;
use tracing::{Event, Metadata, Subscriber, field::Visit, span};
use wire::startup::Protocol;

/// Panics inside the event whose text and tenant it was given, once.
#[derive(Clone, Default)]
struct Saboteur(Arc<Mutex<Option<(&'static str, String)>>>);

#[derive(Default)]
struct Fields {
    message: String,
    tenant: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "tenant" => self.tenant = format!("{value:?}"),
            _ => {}
        }
    }
}

impl Subscriber for Saboteur {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut armed = self.0.lock().unwrap();
        let hit = armed
            .take_if(|(message, tenant)| *message == fields.message && *tenant == fields.tenant);
        drop(armed);
        assert!(hit.is_none(), "provoked by the test");
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn snapshot(stack: &Stack) -> Snapshot {
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(stack.proxy().snapshot())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_one_session_and_nothing_else() {
    let saboteur = Saboteur::default();
    tracing::subscriber::set_global_default(saboteur.clone()).unwrap();
    let stack = Stack::with_budget(3, |config| {
        config.limits.budget_wait_max = Duration::from_millis(50);
    })
    .await;
    let (tenant, other) = (stack.tenant(), stack.tenant());
    for tenant in [&tenant, &other] {
        stack.keep_servers(tenant);
    }
    let log_in = |tenant: &kit::Tenant, work_mem: &str| {
        let mut raw = Raw::tls(stack.port, &stack.certificate);
        let user = tenant.login(Role::Admin).to_string();
        // An unusual setting: the session has its server from the beginning.
        let parameters = [
            ("user", user.as_str()),
            ("database", "postgres"),
            ("work_mem", work_mem),
        ];
        let seen = raw.log_in(Protocol::V3_0, &parameters, &tenant.password);
        (raw, raw::code_of(&seen))
    };
    let (mut same, _) = log_in(&tenant, "5MB");
    let (mut bystander, _) = log_in(&other, "6MB");
    same.query("BEGIN");
    let before = snapshot(&stack);
    let backends = stack.backends();
    assert_eq!(
        (before.clients, before.nodes[0].servers, backends),
        (2, 2, 2)
    );

    // With a server connection in its hands.
    *saboteur.0.lock().unwrap() = Some(("session began", tenant.id.to_string()));
    let (mut victim, code) = log_in(&tenant, "7MB");
    assert_eq!(code, "");
    assert!(victim.rest().is_empty());
    wait_until("the counters are right and its server is gone", || {
        let now = snapshot(&stack);
        let tenants = now.tenants.iter().all(|t| t.clients == 1 && t.servers == 1);
        now.panics == 1 && now.clients == 2 && now.nodes[0].servers == 2 && tenants
    });
    wait_until("its server process is gone", || stack.backends() == 2);

    // While it is told that it waited in vain.
    let (mut third, code) = log_in(&other, "8MB");
    assert_eq!(code, "");
    let mut waiter = Raw::tls(stack.port, &stack.certificate);
    let user = tenant.login(Role::Admin).to_string();
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    waiter.log_in(Protocol::V3_0, &parameters, &tenant.password);
    *saboteur.0.lock().unwrap() = Some(("statement refused", tenant.id.to_string()));
    let mut query = Vec::new();
    wire::message::build::query("SELECT 1", &mut query);
    waiter.send(&query);
    assert!(waiter.rest().is_empty());
    wait_until("the counters are right", || {
        let now = snapshot(&stack);
        now.panics == 2 && now.clients == 3 && now.nodes[0].servers == 3
    });

    assert_eq!(raw::value(&same.query("SHOW work_mem")), "5MB");
    assert_eq!(raw::value(&bystander.query("SHOW work_mem")), "6MB");
    assert_eq!(raw::value(&third.query("SHOW work_mem")), "8MB");
    drop(third);
    // The place in the budget serves others.
    wait_until("another one is served", || {
        let (mut next, code) = log_in(&tenant, "9MB");
        code.is_empty() && raw::value(&next.query("SELECT 1")) == "1"
    });

    // Its server works on for nobody: the place is taken until the process is gone.
    wait_until("all others are gone", || {
        let now = snapshot(&stack);
        now.clients == 2 && stack.backends() == now.nodes[0].servers as usize
    });
    let before = snapshot(&stack).nodes[0].servers;
    same.query("SELECT pg_advisory_lock(7)");
    let (mut victim, code) = log_in(&tenant, "7MB");
    assert_eq!(code, "");
    let mut query = Vec::new();
    wire::message::build::query("SELECT pg_advisory_lock(7)", &mut query);
    victim.send(&query);
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    wait_until("it waits for the lock", || {
        stack.postgres.sql("postgres", waits) == "1"
    });
    let with_it = snapshot(&stack).nodes[0].servers;
    *saboteur.0.lock().unwrap() = Some(("session ended", tenant.id.to_string()));
    drop(victim);
    wait_until("it ended", || snapshot(&stack).panics == 3);
    assert_eq!(snapshot(&stack).nodes[0].servers, with_it);
    assert_eq!(stack.postgres.sql("postgres", waits), "1");
    same.query("SELECT pg_advisory_unlock(7)");
    wait_until("the place is free", || {
        snapshot(&stack).nodes[0].servers < with_it
    });
    assert!(stack.backends() <= before as usize);
    assert_eq!(snapshot(&stack).mismatches, 0);
}
