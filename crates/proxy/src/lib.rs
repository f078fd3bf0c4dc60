//! The data plane: one file per moment of a connection's life.
//!
//! A client comes in (`accept`) if there is room (`entrance`) and its address may (`address`), speaks (`login`, `stream`) at a pace that leaves queries alone (`pace`), moves to its tenant's home worker
//! (`worker`), gets its settings and greeting (`session`, `settings`, `learn`), a server connection (`pool`,
//! `budget`, `server`), is relayed (`relay`), cancels (`cancel`), waits while its tenant is held (`hold`, `carry`), and leaves or is ended (`session`, `handle`,
//! `route`, `drain`, `parting`). What it may do comes from the control plane through `model::route`.

mod accept;
mod address;
mod ask;
mod audited;
mod budget;
mod cancel;
mod carry;
mod config;
mod console;
mod drain;
mod elsewhere;
mod entrance;
mod errand;
mod error;
mod handle;
mod hazard;
mod hold;
mod insight;
mod journal;
mod knowledge;
mod learn;
mod lease;
mod lend;
mod lending;
mod limits;
mod login;
mod metrics;
mod pace;
mod parting;
mod pause;
mod pins;
mod pool;
mod prepared;
mod relay;
mod route;
mod server;
mod session;
mod settings;
mod shape;
mod state;
mod statements;
mod stats;
mod stream;
mod waiting;
mod words;
mod worker;

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use model::{
    TenantId,
    hold::Holds,
    insight::{Connection, Pools, TenantCounts, TenantDetail, TenantLog},
    route::{Door, RouteClient},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

pub use audited::stand_in;
pub use config::{Config, LendingRule, Limits, StartError, TlsConfig, TlsError};
pub use console::USER as OPERATOR;
pub use error::Refusal;
pub use insight::{StatementInsight, Sums, TenantInsight};
pub use limits::Exceeded;
pub use metrics::{Reader, Times, Words, WorkerCounts};
pub use pins::Pin;
pub use stats::{NodeStats, Snapshot, TenantStats, Totals};

use worker::{Inbox, Shared, Start, Worker};

/// Streams through the door that may wait to be taken in.
const DOOR_MAX: usize = 64;

/// Tenants that a worker counts in one turn of its event loop: some 100 µs.
const COUNTED_AT_ONCE: usize = 100;

/// A proxy that serves.
#[derive(Debug)]
pub struct Proxy {
    addresses: Vec<SocketAddr>,
    door: Door,
    holds: Holds,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts a proxy. Returns when it listens.
///
/// # Errors
///
/// [`StartError`], with nothing left behind.
pub async fn start(config: Config, routes: RouteClient) -> Result<Proxy, StartError> {
    if config.listen.is_empty() || config.workers == 0 {
        return Err(StartError::Nothing);
    }
    if config.require_tls && config.tls.is_none() {
        return Err(StartError::NoCertificate);
    }
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for address in &config.listen {
        let listen = |source| StartError::Listen {
            address: *address,
            source,
        };
        let listener = accept::bind(*address).map_err(listen)?;
        addresses.push(listener.local_addr().map_err(listen)?);
        listeners.push(listener);
    }
    let (inboxes, receivers) = worker::inboxes(config.workers);
    let shared = Arc::new(Shared {
        budgets: budget::Budgets::new(config.limits.connects_max),
        keys: cancel::Keys::default(),
        inboxes,
        addresses: address::Addresses::new(&config),
        clients: AtomicUsize::new(0),
        clients_max: config.limits.clients_max,
        consoles: console::Places::default(),
        connections: AtomicU64::new(0),
        entrance: crate::entrance::Entrance::default(),
        idle: (0..config.workers).map(|_| AtomicUsize::new(0)).collect(),
        mismatches: AtomicU64::new(0),
        panics: AtomicU64::new(0),
    });
    let (door, behind_door) = mpsc::channel(DOOR_MAX);
    let config = Arc::new(config);
    let (holds, orders) = mpsc::channel(model::hold::ORDERS_MAX);
    let mut first = Some((listeners, behind_door, orders));
    let mut threads = Vec::new();
    for (index, inbox) in receivers.into_iter().enumerate() {
        let (listeners, door, orders) = first
            .take()
            .map_or((Vec::new(), None, None), |(l, d, o)| (l, Some(d), Some(o)));
        let start = Start {
            index,
            config: config.clone(),
            shared: shared.clone(),
            routes: routes.clone(),
            inbox,
            listeners,
            door,
            orders,
        };
        threads.push(spawn_worker(start)?);
    }
    Ok(Proxy {
        addresses,
        door,
        holds,
        shared,
        threads,
    })
}

fn spawn_worker(start: Start) -> Result<JoinHandle<()>, StartError> {
    let runtime = |index| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name(format!("proxy-{index}"))
            .build_local(tokio::runtime::LocalOptions::default())
    };
    // Made on the thread itself: it cannot move. What goes wrong comes back here.
    let (told, outcome) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("proxy-{}", start.index))
        .spawn(move || match runtime(start.index) {
            Ok(runtime) => {
                let _ = told.send(Ok(()));
                runtime.block_on(worker::run(start));
            }
            Err(error) => {
                let _ = told.send(Err(error));
            }
        })
        .map_err(StartError::Worker)?;
    match outcome.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(StartError::Worker(error)),
        Err(_) => Err(StartError::Worker(std::io::Error::other(
            "a worker did not start",
        ))),
    }
}

impl Proxy {
    /// Where clients connect; the ports that were taken where 0 was asked for.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The way in for what the platform runs for users.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// Where it takes orders to hold a tenant.
    pub fn holds(&self) -> Holds {
        self.holds.clone()
    }

    /// The numbers of now.
    pub async fn snapshot(&self) -> Snapshot {
        self.numbers().snapshot().await
    }

    /// Who may be asked for them, also from another task.
    pub fn numbers(&self) -> Numbers {
        Numbers(self.shared.clone())
    }

    /// Stops. No client is let in any more; idle sessions end at once, those with a transaction
    /// when it is over or after `time_max`. Returns when all workers have stopped, at most a few
    /// seconds after `time_max`.
    pub async fn drain(mut self, time_max: Duration) {
        let deadline = Instant::now() + time_max;
        for inbox in &self.shared.inboxes {
            let _ = inbox.send(Inbox::Drain(deadline)).await;
        }
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|thread| {
                let _ = thread.join();
            });
        });
        let _ = joined.await;
    }
}

/// Where the numbers of a proxy are asked for.
#[derive(Clone, Debug)]
pub struct Numbers(Arc<Shared>);

impl Numbers {
    /// Clients that are connected, those that log in among them.
    pub fn clients(&self) -> usize {
        self.0.clients.load(Ordering::Relaxed)
    }

    /// The numbers of now. Each worker answers between two turns of its event loop; one that has
    /// stopped is left out.
    pub async fn snapshot(&self) -> Snapshot {
        let shared = &self.0;
        let (remembered, remembered_max, bans) = shared.addresses.numbers();
        let mut snapshot = Snapshot {
            addresses_remembered: remembered,
            addresses_remembered_max: remembered_max,
            address_bans: bans,
            clients: shared.clients.load(Ordering::Relaxed),
            clients_max: shared.clients_max,
            servers_idle: shared.idle.iter().map(|n| n.load(Ordering::Relaxed)).sum(),
            mismatches: shared.mismatches.load(Ordering::Relaxed),
            panics: shared.panics.load(Ordering::Relaxed),
            nodes: shared.budgets.usage(),
            ..Snapshot::default()
        };
        for inbox in &shared.inboxes {
            let (reply, answer) = oneshot::channel();
            if inbox.send(Inbox::Snapshot(reply)).await.is_ok()
                && let Ok(share) = answer.await
            {
                snapshot.tenants.extend(share.tenants);
                snapshot.totals += share.totals;
                snapshot.counts.take_over(&share.counts);
                snapshot.login_steps_delayed += share.login_steps_delayed;
            }
        }
        snapshot
    }
}

impl Numbers {
    /// What a tenant's statements are and do; of statements, the `most` that took most time
    /// together, and as many that ran most often. `None`: it is not in use.
    pub async fn insight(&self, tenant: &TenantId, most: usize) -> Option<TenantInsight> {
        let home = self.0.home_of(tenant);
        let tenant = tenant.clone();
        let insight = move |worker: &Rc<Worker>| Some(worker.known_tenant(&tenant)?.insight(most));
        errand::on(&self.0, home, insight).await?
    }

    /// The same of all tenants in use or used lately, without their statements.
    pub async fn insights(&self) -> Vec<TenantInsight> {
        let insights = |worker: &Rc<Worker>| {
            let tenants = worker.all_tenants();
            let insights = tenants.iter().map(|tenant| tenant.insight(0));
            insights.collect::<Vec<_>>()
        };
        errand::on_all(&self.0, insights).await.concat()
    }
}

impl Numbers {
    /// Server connections now.
    pub fn pools(&self) -> Pools {
        let nodes = self.0.budgets.usage();
        let idle = self.0.idle.iter();
        Pools {
            servers: nodes.iter().map(|node| u64::from(node.servers)).sum(),
            idle: idle.map(|n| n.load(Ordering::Relaxed) as u64).sum(),
        }
    }

    /// What was counted of all tenants in use or used lately. A worker counts some of them between two
    /// turns of its event loop, and then others, so that no query waits for all.
    pub async fn counts(&self) -> Vec<TenantCounts> {
        let known = |worker: &Rc<Worker>| {
            let tenants = worker.all_tenants();
            let ids = tenants.iter().map(|tenant| tenant.id.clone());
            ids.collect::<Vec<_>>()
        };
        let mut all = Vec::new();
        for worker in 0..self.0.inboxes.len() {
            let ids = errand::on(&self.0, worker, known).await;
            for some in ids.unwrap_or_default().chunks(COUNTED_AT_ONCE) {
                let some = some.to_vec();
                let counts = move |worker: &Rc<Worker>| {
                    let tenants = some.iter().filter_map(|id| worker.known_tenant(id));
                    tenants.map(|tenant| tenant.counts()).collect::<Vec<_>>()
                };
                let counts = errand::on(&self.0, worker, counts).await;
                all.extend(counts.unwrap_or_default());
            }
        }
        all
    }

    /// Lines of the logs of all tenants, which are no longer here. A worker gives those of one tenant between two
    /// turns of its event loop.
    pub async fn take_log(&self) -> Vec<TenantLog> {
        let with_lines = |worker: &Rc<Worker>| {
            let tenants = worker.all_tenants().into_iter();
            let tenants = tenants.filter(|tenant| tenant.insight.has_log());
            tenants.map(|tenant| tenant.id.clone()).collect::<Vec<_>>()
        };
        let mut all = Vec::new();
        for worker in 0..self.0.inboxes.len() {
            let ids = errand::on(&self.0, worker, with_lines).await;
            for id in ids.unwrap_or_default() {
                let take = move |worker: &Rc<Worker>| {
                    let tenant = worker.known_tenant(&id)?;
                    Some(tenant.insight.take_log(&id))
                };
                all.extend(errand::on(&self.0, worker, take).await.flatten());
            }
        }
        all
    }

    /// What is known of a tenant, with the `most` statements that took most time together, and as many
    /// that ran most often. `None`: it is not in use.
    pub async fn detail(&self, tenant: &TenantId, most: usize) -> Option<TenantDetail> {
        let home = self.0.home_of(tenant);
        let tenant = tenant.clone();
        let detail = move |worker: &Rc<Worker>| Some(worker.known_tenant(&tenant)?.detail(most));
        errand::on(&self.0, home, detail).await?
    }

    /// Clients of a tenant, at most so many: those that wait first, then those that are active.
    pub async fn connections(&self, tenant: &TenantId, most: usize) -> Vec<Connection> {
        let home = self.0.home_of(tenant);
        let tenant = tenant.clone();
        let connections = move |worker: &Rc<Worker>| {
            let tenant = worker.known_tenant(&tenant);
            tenant.map_or_else(Vec::new, |tenant| tenant.connections(most))
        };
        let found = errand::on(&self.0, home, connections).await;
        found.unwrap_or_default()
    }
}

impl Drop for Proxy {
    /// Cuts everything, if it was not drained.
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            for inbox in &self.shared.inboxes {
                let _ = inbox.try_send(Inbox::Drain(Instant::now()));
            }
        }
    }
}
