//! A worker: one thread, one event loop, and the tenants whose home it is.
//!
//! Owns: what all parts of a worker share, the inbox through which other threads speak to it,
//! and closing what has been idle for long. Nothing here is locked on the way of a query.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    panic::AssertUnwindSafe,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use futures_util::FutureExt;
use model::{Login, TenantId, hold::Order, route::RouteClient};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, mpsc, oneshot},
    time::{Duration, Instant, sleep_until},
};

use crate::{
    accept,
    address::Addresses,
    budget::{Budget, Budgets},
    cancel::{self, Keys},
    config::Config,
    console, drain,
    entrance::Entrance,
    errand::Errand,
    handle::Handle,
    hold,
    insight::{LogRoom, ShapeBytes},
    learn::Learning,
    lease,
    limits::{self, Alarms},
    metrics::{Counted, WorkerCounts},
    pace::Pace,
    parting::{self, Partings},
    pool::Tenant,
    route::{self, Routes},
    session::{self, Arrived},
    stats::{TenantStats, Totals, add},
};

/// Bytes read at once by a relay. One buffer per worker, not per connection.
pub(crate) const SCRATCH: usize = 32 * 1024;
/// Messages to a worker that may wait. Senders wait beyond it; none of them holds anything.
const INBOX_MAX: usize = 1024;
/// Pause before a task that failed is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// What all workers of a process share. Touched at login, when a server connection opens or
/// closes, and for a cancel.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) budgets: Budgets,
    pub(crate) keys: Keys,
    pub(crate) inboxes: Vec<mpsc::Sender<Inbox>>,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) clients: AtomicUsize,
    pub(crate) clients_max: usize,
    pub(crate) consoles: console::Places,
    /// Connections accepted since the start.
    pub(crate) connections: AtomicU64,
    pub(crate) entrance: Entrance,
    /// Idle server connections, per worker.
    pub(crate) idle: Vec<AtomicUsize>,
    pub(crate) mismatches: AtomicU64,
    pub(crate) panics: AtomicU64,
}

impl Shared {
    /// Which worker is home to a tenant.
    pub(crate) fn home_of(&self, tenant: &TenantId) -> usize {
        let mut hasher = DefaultHasher::new();
        tenant.hash(&mut hasher);
        let workers = self.inboxes.len() as u64;
        usize::try_from(hasher.finish() % workers).unwrap_or_default()
    }
}

/// Said to a worker by another thread.
#[derive(Debug)]
pub(crate) enum Inbox {
    /// A connection that another worker accepted.
    Accepted(accept::Accepted),
    /// A client that is logged in, and whose tenant is at home here.
    Client(Box<Arrived>),
    /// Cancel what a session runs.
    Cancel {
        session: i32,
        done: oneshot::Sender<()>,
    },
    /// Close an idle server connection of a node: another worker's tenant waits.
    Evict { budget: Arc<Budget> },
    /// Do something for an operator.
    Errand(Errand),
    /// Tell the numbers.
    Snapshot(oneshot::Sender<Share>),
    /// End all sessions, running transactions by the deadline.
    Drain(Instant),
}

/// The share of one worker in the numbers of the process, all of one moment.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) tenants: Vec<TenantStats>,
    /// Of them, and of all that were forgotten.
    pub(crate) totals: Totals,
    pub(crate) counts: WorkerCounts,
    pub(crate) login_steps_delayed: u64,
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) config: Arc<Config>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) routes: Routes,
    pub(crate) pace: Rc<Pace>,
    pub(crate) counted: Counted,
    pub(crate) learning: Learning,
    pub(crate) partings: Rc<Partings>,
    pub(crate) alarms: Alarms,
    pub(crate) sessions: RefCell<HashMap<i32, Rc<Handle>>>,
    pub(crate) idle: IdleList,
    pub(crate) cancels: Semaphore,
    /// Of the shapes of all tenants here.
    pub(crate) shapes: Rc<ShapeBytes>,
    /// For lines of their logs.
    pub(crate) log_room: Rc<LogRoom>,
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// For what goes to a server, or to a client, and is not as it was read.
    pub(crate) outgoing: RefCell<Vec<u8>>,
    pub(crate) incoming: RefCell<Vec<u8>>,
    pub(crate) state: Cell<State>,
    /// Operators who are served here.
    pub(crate) consoles: Cell<u32>,
    /// Told when a session or a console ends.
    pub(crate) left: Notify,
    /// Told when the worker lets nobody in any more.
    pub(crate) draining: Notify,
    tenants: RefCell<HashMap<TenantId, Rc<Tenant>>>,
    /// Tenants that were forgotten here, but for this: they ask for the last numbers of sequences.
    readers: RefCell<HashSet<TenantId>>,
    this: Weak<Worker>,
}

/// Tenants of [`Worker::readers`], some 100 bytes each. With more of them it begins anew: each of them
/// then learns again at the first question.
const READERS_MAX: usize = 10_000;

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    Serving,
    Draining,
    Closing,
}

impl Worker {
    /// Where it is written down who connects.
    pub(crate) fn audit(&self) -> Option<&audit::Logs> {
        self.config.audit.as_ref()
    }

    pub(crate) fn new(
        index: usize,
        config: Arc<Config>,
        shared: Arc<Shared>,
        routes: RouteClient,
    ) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            index,
            routes: Routes::new(routes, &config.limits),
            pace: Pace::new(config.limits.login_steps_max),
            counted: Counted::default(),
            learning: Learning::default(),
            partings: Rc::default(),
            alarms: Alarms::default(),
            sessions: RefCell::default(),
            idle: IdleList::new(index, shared.clone()),
            cancels: Semaphore::new(config.limits.cancels_max),
            shapes: ShapeBytes::new(config.limits.insight_bytes_max),
            log_room: LogRoom::new(&config.limits),
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            outgoing: RefCell::default(),
            incoming: RefCell::default(),
            state: Cell::new(State::Serving),
            consoles: Cell::new(0),
            left: Notify::new(),
            draining: Notify::new(),
            tenants: RefCell::default(),
            readers: RefCell::default(),
            this: this.clone(),
            config,
            shared,
        })
    }

    /// Which worker is home to a tenant.
    pub(crate) fn home_of(&self, tenant: &TenantId) -> usize {
        self.shared.home_of(tenant)
    }

    /// The tenant, at its home.
    pub(crate) fn tenant(&self, id: &TenantId) -> Rc<Tenant> {
        let this = self.this.upgrade().expect("a worker that is asked exists");
        self.tenants
            .borrow_mut()
            .entry(id.clone())
            .or_insert_with(|| {
                // There is somebody to forget one day.
                self.idle.changed.notify_one();
                add(&self.counted.lives, 1);
                let tenant = Tenant::new(id.clone(), &this);
                tenant.counters.life.set(self.counted.lives.get());
                if self.readers.borrow().contains(id) {
                    tenant.will_read_sequences();
                }
                Rc::new(tenant)
            })
            .clone()
    }

    pub(crate) fn known_tenant(&self, id: &TenantId) -> Option<Rc<Tenant>> {
        self.tenants.borrow().get(id).cloned()
    }

    pub(crate) fn all_tenants(&self) -> Vec<Rc<Tenant>> {
        self.tenants.borrow().values().cloned().collect()
    }

    /// Whether no session and no console is left.
    pub(crate) fn is_left(&self) -> bool {
        self.sessions.borrow().is_empty() && self.consoles.get() == 0
    }

    /// Whether nothing is to be begun or kept any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.state.get() == State::Closing
    }

    /// Closes one idle server connection of the node, here or at another worker.
    pub(crate) fn make_room(&self, budget: &Arc<Budget>) {
        if self.evict_here(budget) {
            return;
        }
        let idle = &self.shared.idle;
        let most = (0..idle.len())
            .filter(|other| *other != self.index)
            .map(|other| (idle[other].load(Ordering::Relaxed), other))
            .max();
        if let Some((1.., other)) = most {
            // A full inbox means a worker that is busy returning connections anyway.
            let _ = self.shared.inboxes[other].try_send(Inbox::Evict {
                budget: budget.clone(),
            });
        }
    }

    fn evict_here(&self, budget: &Arc<Budget>) -> bool {
        let Some(number) = self.idle.oldest_of(budget) else {
            return false;
        };
        self.idle.give_up(number);
        add(&self.counted.evicted, 1);
        true
    }

    fn share(&self) -> Share {
        let tenants: Vec<_> = self
            .tenants
            .borrow()
            .values()
            .map(|tenant| tenant.stats())
            .collect();
        Share {
            totals: tenants.iter().map(|stats| stats.totals).sum::<Totals>()
                + self.counted.forgotten.get(),
            tenants,
            counts: self.counted.counts(),
            login_steps_delayed: self.pace.delayed(),
        }
    }
}

/// Server connections of all tenants of a worker that are idle, or that a session keeps only because
/// nobody has asked what is on them; the oldest first.
#[derive(Debug)]
pub(crate) struct IdleList {
    list: RefCell<BTreeMap<u64, Idle>>,
    next: Cell<u64>,
    worker: usize,
    shared: Arc<Shared>,
    changed: Notify,
}

#[derive(Debug)]
struct Idle {
    tenant: Rc<Tenant>,
    login: Login,
    since: Instant,
    /// Who keeps it.
    session: Option<Rc<Handle>>,
}

impl IdleList {
    fn new(worker: usize, shared: Arc<Shared>) -> Self {
        Self {
            list: RefCell::default(),
            next: Cell::new(0),
            worker,
            shared,
            changed: Notify::new(),
        }
    }

    /// Adds one; returns the number it is known by, and when.
    pub(crate) fn add(&self, tenant: &Rc<Tenant>, login: Login) -> (u64, Instant) {
        self.shared.idle[self.worker].fetch_add(1, Ordering::Relaxed);
        self.insert(tenant, login, None)
    }

    /// Adds one that `session` keeps.
    pub(crate) fn add_session(
        &self,
        tenant: &Rc<Tenant>,
        login: Login,
        session: &Rc<Handle>,
    ) -> u64 {
        self.insert(tenant, login, Some(session.clone())).0
    }

    fn insert(
        &self,
        tenant: &Rc<Tenant>,
        login: Login,
        session: Option<Rc<Handle>>,
    ) -> (u64, Instant) {
        let number = self.next.get();
        self.next.set(number + 1);
        let since = Instant::now();
        let idle = Idle {
            tenant: tenant.clone(),
            login,
            since,
            session,
        };
        let mut list = self.list.borrow_mut();
        if list.is_empty() {
            self.changed.notify_one();
        }
        list.insert(number, idle);
        (number, since)
    }

    /// Takes one off the list: it is used or closed.
    pub(crate) fn remove(&self, number: u64) {
        if let Some(idle) = self.list.borrow_mut().remove(&number)
            && idle.session.is_none()
        {
            self.shared.idle[self.worker].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Closes one, or asks the session that keeps it to give it up.
    fn give_up(&self, number: u64) {
        let found = {
            let list = self.list.borrow();
            let found = list.get(&number);
            found.map(|idle| (idle.tenant.clone(), idle.login, idle.session.clone()))
        };
        self.remove(number);
        match found {
            Some((_, _, Some(session))) => session.recall(),
            Some((tenant, login, None)) => tenant.evict(login, number),
            None => {}
        }
    }

    /// Asks the session of a tenant that has kept a server connection for longest to give it up, one
    /// of `role` if there is one.
    pub(crate) fn recall(&self, tenant: &TenantId, login: Login) {
        let number = {
            let list = self.list.borrow();
            let kept = || {
                list.iter()
                    .filter(|(_, idle)| idle.session.is_some() && idle.tenant.id == *tenant)
            };
            let same_login = kept().find(|(_, idle)| idle.login == login);
            same_login
                .or_else(|| kept().next())
                .map(|(number, _)| *number)
        };
        if let Some(number) = number {
            self.give_up(number);
        }
    }

    fn oldest_of(&self, budget: &Arc<Budget>) -> Option<u64> {
        self.list
            .borrow()
            .iter()
            .find(|(_, idle)| {
                let own = idle.tenant.budget();
                own.is_some_and(|own| Arc::ptr_eq(&own, budget)) && idle.tenant.may_lose_one()
            })
            .map(|(number, _)| *number)
    }

    fn oldest(&self) -> Option<(u64, Instant)> {
        self.list
            .borrow()
            .iter()
            .min_by_key(|(_, idle)| idle.since)
            .map(|(number, idle)| (*number, idle.since))
    }

    /// Whether its tenant has more than its minimum.
    fn may_go(&self, number: u64) -> bool {
        let list = self.list.borrow();
        list.get(&number)
            .is_none_or(|idle| idle.tenant.may_lose_one())
    }

    /// One stays for its tenant's minimum: its time begins anew.
    fn keep(&self, number: u64) {
        if let Some(idle) = self.list.borrow_mut().get_mut(&number) {
            idle.since = Instant::now();
        }
    }
}

/// Closes server connections that nobody uses, and forgets tenants at rest. Sleeps without a
/// timer while there is nothing to watch.
async fn sweep(worker: Rc<Worker>) {
    let limits = &worker.config.limits;
    let mut forget_at = None;
    loop {
        let oldest = worker.idle.oldest();
        if oldest.is_some() || !worker.tenants.borrow().is_empty() {
            forget_at.get_or_insert_with(|| Instant::now() + limits.tenant_idle_max);
        }
        let wake = match (&oldest, forget_at) {
            (Some((_, since)), Some(at)) => Some((*since + limits.server_idle_max).min(at)),
            (None, at) => at,
            (Some((_, since)), None) => Some(*since + limits.server_idle_max),
        };
        match wake {
            Some(wake) => {
                tokio::select! {
                    () = sleep_until(wake) => {}
                    () = worker.idle.changed.notified(), if oldest.is_none() => continue,
                }
            }
            None => {
                worker.idle.changed.notified().await;
                continue;
            }
        }
        let now = Instant::now();
        if let Some((number, since)) = oldest
            && now >= since + limits.server_idle_max
        {
            if worker.idle.may_go(number) {
                // It may have been taken and returned under another number meanwhile.
                worker.idle.give_up(number);
                add(&worker.counted.expired, 1);
            } else {
                worker.idle.keep(number);
            }
        }
        if forget_at.is_some_and(|at| now >= at) {
            forget_at = None;
            worker.tenants.borrow_mut().retain(|_, tenant| {
                let keep = !tenant.is_at_rest() || !tenant.was_at_rest.replace(true);
                if !tenant.is_at_rest() {
                    tenant.was_at_rest.set(false);
                }
                if !keep {
                    if tenant.reads_sequences() {
                        let mut readers = worker.readers.borrow_mut();
                        if readers.len() >= READERS_MAX {
                            readers.clear();
                        }
                        readers.insert(tenant.id.clone());
                    }
                    worker.counted.forget(tenant.totals());
                }
                keep
            });
        }
    }
}

/// Runs `task` for as long as the worker lives. Without it, revoked secrets would stay valid and
/// idle connections open, so a mistake in it must not end it.
async fn always<T: Future<Output = ()>>(worker: Rc<Worker>, task: impl Fn(Rc<Worker>) -> T) {
    loop {
        let once = AssertUnwindSafe(task(worker.clone())).catch_unwind().await;
        if once.is_err() {
            worker.shared.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a task of a worker ended by a mistake of ours, starting it again");
        }
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

/// What a worker starts with.
pub(crate) struct Start {
    pub(crate) index: usize,
    pub(crate) config: Arc<Config>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) routes: RouteClient,
    pub(crate) inbox: mpsc::Receiver<Inbox>,
    /// All of the process at the first worker, none at the others.
    pub(crate) listeners: Vec<std::net::TcpListener>,
    pub(crate) door: Option<mpsc::Receiver<model::route::Visit>>,
    pub(crate) orders: Option<mpsc::Receiver<Order>>,
}

/// An inbox for every worker.
pub(crate) fn inboxes(workers: usize) -> (Vec<mpsc::Sender<Inbox>>, Vec<mpsc::Receiver<Inbox>>) {
    (0..workers).map(|_| mpsc::channel(INBOX_MAX)).unzip()
}

/// Runs a worker until it has drained.
pub(crate) async fn run(start: Start) {
    let worker = Worker::new(start.index, start.config, start.shared, start.routes);
    let spawn = tokio::task::spawn_local::<std::pin::Pin<Box<dyn Future<Output = ()>>>>;
    let keep = |worker: Rc<Worker>| worker.pace.clone().keep();
    let lasting = [
        spawn(Box::pin(always(worker.clone(), route::follow))),
        spawn(Box::pin(always(worker.clone(), keep))),
        spawn(Box::pin(always(worker.clone(), parting::see_off))),
        spawn(Box::pin(always(worker.clone(), limits::ring))),
    ];
    let leasing = (start.index == 0).then(|| spawn(Box::pin(always(worker.clone(), lease::keep))));
    // When it ends by a mistake of ours nobody answers, so nothing is held.
    let orders = start.orders;
    let holding = orders.map(|orders| spawn(Box::pin(hold::take_orders(worker.clone(), orders))));
    let mut helpers = vec![spawn(Box::pin(always(worker.clone(), sweep)))];
    for listener in start.listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => helpers.push(spawn(Box::pin(accept::listen(worker.clone(), listener)))),
            Err(error) => tracing::error!(%error, "a listener was lost"),
        }
    }
    if let Some(door) = start.door {
        helpers.push(spawn(Box::pin(accept::door(worker.clone(), door))));
    }
    let mut inbox = start.inbox;
    let mut draining = None;
    loop {
        let message = tokio::select! {
            message = inbox.recv() => message,
            () = drain::finished(&worker, draining) => break,
        };
        match message {
            Some(Inbox::Drain(deadline)) => {
                // Listeners and the door close with their tasks.
                helpers.drain(..).for_each(|helper| helper.abort());
                drain::begin(&worker);
                draining = Some(deadline);
            }
            Some(message) => handle(&worker, message),
            // The proxy was dropped without being drained.
            None if draining.is_none() => {
                drain::begin(&worker);
                draining = Some(Instant::now());
            }
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    helpers.iter().for_each(|helper| helper.abort());
    drain::close(&worker).await;
    lasting
        .iter()
        .chain(&leasing)
        .chain(&holding)
        .for_each(|helper| helper.abort());
}

fn handle(worker: &Rc<Worker>, message: Inbox) {
    match message {
        Inbox::Accepted(accepted) => accept::serve(worker, accepted),
        Inbox::Client(arrived) => session::serve(worker, arrived),
        Inbox::Cancel { session, done } => {
            let worker = worker.clone();
            tokio::task::spawn_local(async move {
                cancel::at_home(&worker, session).await;
                let _ = done.send(());
            });
        }
        Inbox::Evict { budget } => {
            worker.evict_here(&budget);
        }
        Inbox::Errand(errand) => errand.run(worker),
        Inbox::Snapshot(reply) => {
            let _ = reply.send(worker.share());
        }
        // Handled where the loop is.
        Inbox::Drain(_) => {}
    }
}
