//! One budget of server connections for all tenants of a node.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use kit::{Stack, code, raw::Raw, wait_until};
use model::{Role, route::PoolMode};
use proxy::Snapshot;
use wire::{message::build, startup::Protocol};

/// Where one waits in vain and another is to be served: more than a busy machine needs to close a server
/// connection and open another.
const WAIT_MAX: Duration = Duration::from_secs(3);

fn snapshot(stack: &Stack) -> Snapshot {
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(stack.proxy().snapshot())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_of_others_make_room() {
    for workers in [1, 3] {
        let stack = Stack::with_budget(2, |config| config.workers = workers).await;
        // More tenants than connections, each used once and then idle.
        for _ in 0..6 {
            let tenant = stack.tenant();
            let client = stack.connect(&tenant, Role::Admin).await;
            client.simple_query("SELECT 1").await.unwrap();
            assert!(stack.backends() <= 2);
        }
        assert!(snapshot(&stack).nodes[0].servers <= 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_gets_the_first_that_becomes_free_and_waiting_has_an_end() {
    let stack = Stack::with_budget(1, |config| {
        config.limits.budget_wait_max = WAIT_MAX;
    })
    .await;
    let (a, b) = (stack.tenant(), stack.tenant());
    // So that the values of its server are known.
    drop(stack.connect(&b, Role::Admin).await);
    let holder = stack.connect(&a, Role::Admin).await;
    holder.batch_execute("BEGIN").await.unwrap();
    let waiting = stack.connect(&b, Role::Admin).await;
    let error = waiting.simple_query("SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "53300");

    let waiting = stack.connect(&b, Role::Admin).await;
    let answer = tokio::spawn(async move { waiting.simple_query("SELECT 1").await });
    wait_until("it waits", || {
        snapshot(&stack).tenants.iter().any(|t| t.waiting == 1)
    });
    drop(holder);
    answer.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_a_limit_of_its_own_and_its_roles_share_it() {
    let stack = Stack::start(|config| {
        config.limits.budget_wait_max = WAIT_MAX;
    })
    .await;
    let tenant = stack.tenant();
    for role in Role::ALL {
        stack.set_route(&tenant, role, |route| {
            route.pool_mode = PoolMode::Session;
            route.limits.server_connections_max = 2;
        });
    }
    let admin = stack.connect(&tenant, Role::Admin).await;
    let write = stack.connect(&tenant, Role::Write).await;
    admin.simple_query("SELECT 1").await.unwrap();
    write.simple_query("SELECT 1").await.unwrap();
    let third = stack.connect(&tenant, Role::Admin).await;
    let error = third.simple_query("SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), "53300");
    // An idle connection of one role makes room for another.
    drop(write);
    let read = stack.connect(&tenant, Role::Read).await;
    read.simple_query("SELECT 1").await.unwrap();
    assert!(stack.backends() <= 2);
}

/// A process uses what it was lent of the node's budget, and gives back what it does not need.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_back_is_closed_when_it_is_idle_and_said_when_it_is() {
    for workers in [1, 3] {
        let stack = Stack::with_budget(10, |config| config.workers = workers).await;
        let tenants: Vec<_> = (0..4).map(|_| stack.tenant()).collect();
        let mut clients = Vec::new();
        for tenant in &tenants {
            let client = stack.connect(tenant, Role::Admin).await;
            client.batch_execute("BEGIN").await.unwrap();
            clients.push(client);
        }
        assert_eq!(stack.backends(), 4);
        let last = || stack.table.lock().unwrap().demands.last().unwrap().clone();
        wait_until("it says what it needs", || last().needed == 4);
        assert_eq!((last().held, last().budget), (10, 10));

        // All are in transactions: none is cut short, and they are said to be held.
        stack.table.lock().unwrap().lent = Some(1);
        wait_until("it says what it has", || last().held == 4);
        let waiting = stack.connect(&tenants[0], Role::Admin).await;
        let answer = tokio::spawn(async move { waiting.simple_query("SELECT 1").await });
        wait_until("it waits", || {
            snapshot(&stack).tenants.iter().any(|t| t.waiting == 1)
        });
        for held in [3, 2, 1] {
            let client = clients.remove(0);
            client.batch_execute("COMMIT").await.unwrap();
            drop(client);
            wait_until("it says that it has less", || last().held == held);
        }
        drop(clients);
        answer.await.unwrap().unwrap();
        wait_until("one is left", || stack.backends() == 1);

        // More again; and when nobody says so for long, nothing.
        stack.table.lock().unwrap().lent = Some(3);
        wait_until("it has more", || last().held == 3);
        stack.table.lock().unwrap().lent_for = Duration::ZERO;
        wait_until("its time is over", || last().held <= 1);
    }
}

/// What a tenant has within its minimum is closed neither for others nor because nobody uses it; what it
/// has above it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_minimum_stays_when_it_is_idle_and_when_others_wait() {
    for workers in [1, 3] {
        let stack = Stack::with_budget(3, |config| {
            config.workers = workers;
            config.limits.server_idle_max = Duration::from_millis(200);
        })
        .await;
        let kept = stack.tenant();
        for role in Role::ALL {
            stack.set_route(&kept, role, |route| {
                route.limits.server_connections_min = 1;
            });
        }
        let has = || {
            let sql = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'",
                kept.pid.database()
            );
            stack.postgres.sql("postgres", &sql)
        };
        let clients = [
            stack.connect(&kept, Role::Admin).await,
            stack.connect(&kept, Role::Admin).await,
        ];
        for client in &clients {
            client.batch_execute("BEGIN").await.unwrap();
        }
        assert_eq!(has(), "2");
        drop(clients);
        wait_until("what is above the minimum is gone", || has() == "1");
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = '{}'",
            kept.pid.database()
        );
        let first = stack.postgres.sql("postgres", &sql);
        let mut others = Vec::new();
        for _ in 0..6 {
            let other = stack.tenant();
            let client = stack.connect(&other, Role::Admin).await;
            client.simple_query("SELECT 1").await.unwrap();
            assert!(stack.backends() <= 3);
            others.push(client);
            if others.len() > 1 {
                others.remove(0);
            }
        }
        drop(others);
        wait_until("the others' are gone", || stack.backends() == 1);
        // It has been idle for longer than any of theirs.
        assert_eq!(stack.postgres.sql("postgres", &sql), first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_does_not_keep_another_tenant_out() {
    /// Statements of the crowd while the other logs in and asks once: a login takes several turns of the
    /// event loop, and in each of them some of the crowd's end.
    const AHEAD_MAX: u32 = 200;
    let stack = Stack::with_budget(2, |_| {}).await;
    let (crowd, quiet) = (stack.tenant(), stack.tenant());
    let (stop, served) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut busy = Vec::new();
    for _ in 0..10 {
        let (config, stop, served) = (stack.config(&crowd, Role::Admin), &stop, &served);
        let connect = |config| {
            let stack = &stack;
            async move { stack.connect_with(&config).await }
        };
        // Each holds a connection for a statement, leaves, and comes back.
        let first = connect(config.clone()).await.unwrap();
        busy.push(async move {
            let mut client = first;
            while !stop.load(Ordering::Relaxed) {
                client.simple_query("SELECT pg_sleep(0.01)").await.unwrap();
                served.fetch_add(1, Ordering::Relaxed);
                drop(client);
                client = connect(config.clone()).await.unwrap();
            }
        });
    }
    let crowd = futures_util::future::join_all(busy);
    let quiet = async {
        for _ in 0..5 {
            let before = served.load(Ordering::Relaxed);
            let client = stack.connect(&quiet, Role::Admin).await;
            client.simple_query("SELECT 1").await.unwrap();
            let ahead = served.load(Ordering::Relaxed) - before;
            assert!(ahead <= AHEAD_MAX, "{ahead} statements came first");
        }
        stop.store(true, Ordering::Relaxed);
    };
    futures_util::future::join(crowd, quiet).await;
    assert_eq!(snapshot(&stack).mismatches, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_clients_leave_while_they_wait() {
    let stack = Stack::with_budget(1, |_| {}).await;
    let (a, b) = (stack.tenant(), stack.tenant());
    drop(stack.connect(&b, Role::Admin).await);
    let holder = stack.connect(&a, Role::Admin).await;
    holder.batch_execute("BEGIN").await.unwrap();
    for _ in 0..5 {
        let mut raw = Raw::tls(stack.port, &stack.certificate);
        let user = b.login(Role::Admin).to_string();
        let parameters = [("user", user.as_str()), ("database", "postgres")];
        raw.log_in(Protocol::V3_0, &parameters, &b.password);
        let mut query = Vec::new();
        build::query("SELECT 1", &mut query);
        raw.send(&query);
        wait_until("it waits", || {
            snapshot(&stack).tenants.iter().any(|t| t.waiting > 0)
        });
        drop(raw);
        wait_until("it has left the line", || {
            snapshot(&stack).tenants.iter().all(|t| t.waiting == 0)
        });
    }
    drop(holder);
    let client = stack.connect(&b, Role::Admin).await;
    client.simple_query("SELECT 1").await.unwrap();
    assert_eq!(snapshot(&stack).nodes[0].servers, 1);
}

/// Opening one costs the node a process: however many tenants want one, so many are opened at once, and
/// the others have their turn behind them. A node that cannot be reached is tried by one.
#[tokio::test(flavor = "multi_thread")]
async fn connects_are_bounded_and_a_node_that_is_down_is_tried_by_one() {
    const AT_ONCE: usize = 3;
    let mut stack = Stack::start(|config| {
        config.workers = 2;
        config.limits.connects_max = AT_ONCE;
        config.limits.connect_time_max = Duration::from_secs(60);
        config.limits.budget_wait_max = Duration::from_secs(30);
    })
    .await;
    let tenants: Vec<_> = (0..8).map(|_| stack.tenant()).collect();
    // It takes who comes, and says nothing.
    let path = stack.postgres.directory().join("silent");
    let silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    silent.set_nonblocking(true).unwrap();
    stack.node = std::sync::Arc::new(model::route::NodeTarget {
        name: "silent".to_owned(),
        address: model::route::NodeAddress::Unix(path.clone()),
        server_connections_max: 20,
    });
    for tenant in &tenants {
        stack.set_route(tenant, Role::Admin, |_| {});
    }
    let connecting: Vec<_> = tenants
        .iter()
        .map(|tenant| {
            let (config, tls) = (stack.config(tenant, Role::Admin), stack.tls());
            tokio::spawn(async move { config.connect(tls).await.map(drop) })
        })
        .collect();
    let node = |name: &str| {
        let nodes = snapshot(&stack).nodes;
        nodes.into_iter().find(|node| node.node == name).unwrap()
    };
    let mut came = Vec::new();
    wait_until("so many came", || {
        came.extend(silent.accept());
        came.len() == AT_ONCE && node("silent").servers == 8
    });
    assert_eq!(node("silent").opening, AT_ONCE);
    assert!(silent.accept().is_err(), "the others wait");
    // They are hung up on: down. One of the others tries, alone, and finds it silent.
    drop(came);
    let mut came = Vec::new();
    wait_until("one tries", || {
        came.extend(silent.accept());
        !came.is_empty() && node("silent").servers == 5
    });
    assert_eq!((came.len(), silent.accept().is_err()), (1, true));
    // When that works, so do they: by the real one, through a socket of the same name.
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(stack.postgres.socket(), &path).unwrap();
    drop((came, silent));
    let mut opened = 0;
    for connecting in connecting {
        opened += usize::from(connecting.await.unwrap().is_ok());
    }
    assert_eq!(opened, 8 - AT_ONCE - 1);
}

/// Whoever comes first to a cold tenant has a server connection opened, to be told its values. A crowd
/// that comes together needs no more than that one, and it serves the first statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_a_cold_tenant_opens_one_server_connection() {
    const CROWD: usize = 20;
    let stack = Stack::start(|_| {}).await;
    let (tenant, other) = (stack.tenant(), stack.tenant());
    let log_ins = (0..CROWD).map(|_| stack.connect(&tenant, Role::Admin));
    let sessions = futures_util::future::join_all(log_ins).await;
    let of = |tenant: &kit::Tenant, now: &proxy::Snapshot| {
        let found = now.tenants.iter().find(|stats| stats.tenant == tenant.id);
        found
            .map(|stats| (stats.totals.logins, stats.servers))
            .unwrap()
    };
    assert_eq!(
        of(&tenant, &stack.proxy().snapshot().await),
        (CROWD as u64, 1)
    );
    assert_eq!(stack.backends(), 1);
    let one: i32 = sessions[0].query_one("SELECT 1", &[]).await.unwrap().get(0);
    assert_eq!((one, stack.backends()), (1, 1));

    // When it cannot be opened, all of the crowd are told so at once, and the next one tries anew.
    stack.set_route(&other, Role::Admin, |route| {
        route.server.password = model::Secret::new("changed meanwhile");
    });
    let configs: Vec<_> = (0..CROWD)
        .map(|_| stack.config(&other, Role::Admin))
        .collect();
    let refused = configs.iter().map(|config| stack.connect_with(config));
    for refused in futures_util::future::join_all(refused).await {
        assert_eq!(kit::code(&refused.err().unwrap()), "57P03");
    }
    stack.set_route(&other, Role::Admin, |_| {});
    stack.announce(&other);
    kit::wait_until("it was noticed", || {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(stack.connect_with(&configs[0]))
        })
        .is_ok()
    });
    assert_eq!(of(&other, &stack.proxy().snapshot().await).1, 1);
}
