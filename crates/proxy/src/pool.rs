//! The server connections of one tenant, at its home worker.
//!
//! Owns: idle connections per login, which of them fits whom, opening others, and who of the tenant's clients
//! waits and in which order. Giving connections back and closing idle ones is next door (`back`). Does not
//! own: the budget all tenants share (`budget`) or what happens on a connection.

mod back;
mod line;

use std::{
    cell::{Cell, Ref, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use model::{
    Limits, Login, LoginName, TenantId,
    limits::Number,
    route::{Report, Resolved, Storage},
};
use tokio::time::timeout;
use wire::scram::ClientKeys;

use self::line::Line;
use crate::{
    budget::{Budget, Permit, Share},
    config::LendingRule,
    error::Refusal,
    handle::{Handle, When},
    hold::Held,
    insight::Insight,
    knowledge::{Credentials, Custom, Knowledge},
    limits::{self, Bucket, Exceeded, Moment, Postmaster, Processes, Unlimited},
    login::refusal_of,
    metrics::micros,
    pause::Pause,
    server::{self, CancelTarget, Opening, Parameters, Server},
    state::{State, States},
    statements::Statements,
    stats::{Counters, add},
    worker::Worker,
};

/// A server connection that was used so short a time ago is not looked at before it is used again: one
/// that broke meanwhile is as one that breaks while it is used. Under load most are taken again within
/// microseconds; looking is a system call.
const QUIET_FOR: Duration = Duration::from_millis(1);
/// How long it may take to learn why a server lets nobody in: what is said after it is less precise, not
/// wrong.
const UNHEARD_WAIT_MAX: Duration = Duration::from_secs(1);

/// A tenant that is in use on this worker.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) counters: Counters,
    pub(crate) insight: Insight,
    pub(crate) pause: Pause,
    pub(crate) held: RefCell<Option<Box<Held>>>,
    /// What it may use, as was heard last.
    limits: RefCell<Rc<Limits>>,
    pub(crate) bucket: Bucket,
    /// Whether it has room on disk, as was heard last.
    pub(crate) storage: Cell<Storage>,
    /// Those that work for it.
    pub(crate) processes: Processes,
    /// Whether it was said that its limit of memory does not hold.
    is_unlimited: Cell<bool>,
    /// Clients logged in.
    pub(crate) clients: Cell<u32>,
    /// Whether it was at rest when the worker last looked.
    pub(crate) was_at_rest: Cell<bool>,
    /// Changes not reviewed yet.
    pub(crate) reviews: Cell<u64>,
    pub(crate) sessions: RefCell<HashMap<i32, Rc<Handle>>>,
    worker: Weak<Worker>,
    pools: RefCell<HashMap<Login, Pool>>,
    /// Server connections opened or being opened.
    servers: Cell<u32>,
    servers_max: Cell<u32>,
    /// Of them, those that nobody will use any more and that are still there.
    leaving: Cell<u32>,
    share: Cell<Share>,
    budget: RefCell<Option<Arc<Budget>>>,
    line: Line,
    /// Whether it stands in the budget's round.
    queued: Cell<bool>,
    /// Settings of its sessions.
    pub(crate) states: States,
    /// What its sessions prepared.
    pub(crate) statements: Statements,
    pub(crate) knowledge: Knowledge,
    pub(crate) custom: RefCell<Custom>,
    pub(crate) credentials: RefCell<Credentials>,
    /// Names of prepared statements that its sessions have, all together.
    pub(crate) names: Cell<usize>,
}

/// What a session that needs a server connection would like best.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    pub(crate) login: Login,
    pub(crate) session: u64,
    pub(crate) credential: u64,
    pub(crate) state: Rc<State>,
    /// One that nobody used.
    pub(crate) is_blank: bool,
    /// In place of one that a hold has taken.
    pub(crate) returns: bool,
}

/// Fits only when there is no other, and made as new.
const NEVER: u8 = 9;

impl Want {
    /// How well a server connection fits. Less is better.
    fn misfit(&self, server: &Server, rule: LendingRule) -> u8 {
        let Some(last) = server.last else {
            // All its settings have to be made, but nothing has to go.
            return if self.is_blank { 0 } else { 2 };
        };
        if last.session == self.session {
            return if rule == LendingRule::NeverTheSameTwice {
                NEVER
            } else {
                0
            };
        }
        match (self.is_blank, last.credential == self.credential) {
            (true, _) => 3,
            (false, false) => 4,
            // Where somebody wrote, its numbers of sequences stay for it if they can.
            (false, true) if Rc::ptr_eq(&server.has, &self.state) => {
                1 + u8::from(server.has_numbers)
            }
            (false, true) => 3,
        }
    }
}

#[derive(Debug)]
struct Pool {
    resolved: Resolved,
    /// For logging in without hashing.
    keys: Option<Arc<ClientKeys>>,
    /// What servers of this tenant and login report.
    seen: Option<Rc<Parameters>>,
    /// Last one back is first out, so that the others can grow old.
    idle: Vec<(u64, Box<Server>)>,
}

/// What a client that waits gets.
#[derive(Debug)]
enum Grant {
    Server(Box<Server>),
    Lease(Lease),
}

/// The right of a tenant to hold one server connection. Dropping it lets the next one have it.
#[derive(Debug)]
pub(crate) struct Lease {
    permit: Option<Permit>,
    tenant: Rc<Tenant>,
    /// The server process that has it now.
    process: Option<i32>,
}

impl Lease {
    fn new(permit: Permit, tenant: &Rc<Tenant>) -> Self {
        tenant.servers.set(tenant.servers.get() + 1);
        Self {
            permit: Some(permit),
            tenant: tenant.clone(),
            process: None,
        }
    }

    /// A server process has it now, which the tenant's limits hold for.
    pub(crate) fn is_used_by(&mut self, id: i32, postmaster: Option<Postmaster>, worker: &Worker) {
        let tenant = &self.tenant;
        if let Some(before) = self.process.replace(id) {
            tenant.processes.remove(before);
        }
        let bytes = tenant.limits().memory_bytes_max;
        tenant.note_unlimited(worker, tenant.processes.add(id, postmaster, bytes));
    }

    /// A name for a statement of ours that is gone at once.
    pub(crate) fn passing_name(&self) -> Vec<u8> {
        self.tenant.statements.name(0)
    }

    /// Settings of whoever may use it.
    pub(crate) fn states(&self) -> &States {
        &self.tenant.states
    }

    /// A number that nothing else of the tenant has.
    pub(crate) fn next_serial(&self) -> u64 {
        self.tenant.next_serial()
    }

    /// Whether its tenant may go on with the server connection. See [`Permit::may_stay`].
    pub(crate) fn may_stay(&mut self, has_next: bool) -> bool {
        let permit = self.permit.as_mut();
        permit.is_some_and(|permit| permit.may_stay(has_next))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.tenant.servers.set(self.tenant.servers.get() - 1);
        if let Some(process) = self.process {
            self.tenant.processes.remove(process);
        }
        // First the others in the round, then we: whoever had it goes to the end.
        self.permit = None;
        self.tenant.seek();
    }
}

impl Tenant {
    pub(crate) fn new(id: TenantId, worker: &Rc<Worker>) -> Self {
        let statements_max = worker.config.limits.insight_statements_max;
        let insight = Insight::new(statements_max, &worker.shapes, &worker.log_room);
        insight.heed(&Limits::default());
        Self {
            id,
            counters: Counters::default(),
            insight,
            pause: Pause::default(),
            held: RefCell::default(),
            limits: RefCell::default(),
            bucket: Bucket::default(),
            storage: Cell::default(),
            processes: Processes::default(),
            is_unlimited: Cell::new(false),
            clients: Cell::new(0),
            was_at_rest: Cell::new(false),
            reviews: Cell::new(0),
            sessions: RefCell::default(),
            worker: Rc::downgrade(worker),
            pools: RefCell::default(),
            servers: Cell::new(0),
            servers_max: Cell::new(0),
            leaving: Cell::new(0),
            share: Cell::default(),
            budget: RefCell::new(None),
            line: Line::default(),
            queued: Cell::new(false),
            states: States::default(),
            statements: Statements::new(),
            knowledge: Knowledge::default(),
            custom: RefCell::default(),
            credentials: RefCell::default(),
            names: Cell::new(0),
        }
    }

    /// Server connections it holds, and clients that wait for one.
    pub(crate) fn usage(&self) -> (u32, usize) {
        (self.servers.get(), self.line.len() + self.pause.waiting())
    }

    /// Whether it holds as many server connections as it may, whatever others do.
    pub(crate) fn has_all_it_may(&self) -> bool {
        self.servers.get() >= self.servers_max.get()
    }

    /// Whether nothing of it is in use.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.clients.get() == 0 && self.servers.get() == 0 && !self.pause.is_on()
    }

    pub(crate) fn logins_in_use(&self) -> Vec<Login> {
        let mut logins: Vec<Login> = self.pools.borrow().keys().copied().collect();
        logins.sort_unstable();
        logins
    }

    /// Clients logged in as `login`.
    pub(crate) fn clients_of(&self, login: Login) -> usize {
        let sessions = self.sessions.borrow();
        sessions.values().filter(|own| own.login == login).count()
    }

    /// Its roles and users in use, where they lead, and their idle connections.
    pub(crate) fn look(&self) -> Vec<(Login, Resolved, Vec<Rc<CancelTarget>>)> {
        let pools = self.pools.borrow();
        let look = pools.iter().map(|(login, pool)| {
            let idle = pool.idle.iter().map(|(_, server)| server.cancel.clone());
            (*login, pool.resolved.clone(), idle.collect())
        });
        let mut look: Vec<_> = look.collect();
        look.sort_by_key(|(login, ..)| *login);
        look
    }

    /// What it may use.
    #[inline]
    pub(crate) fn limits(&self) -> Ref<'_, Rc<Limits>> {
        self.limits.borrow()
    }

    /// Other limits hold from now on, for sessions that are open too.
    fn set_limits(self: &Rc<Self>, worker: &Worker, limits: &Limits) {
        self.servers_max.set(limits.server_connections_max);
        if **self.limits.borrow() == *limits {
            return;
        }
        let bytes = limits.memory_bytes_max;
        let has_other_memory = self.limits.borrow().memory_bytes_max != bytes;
        *self.limits.borrow_mut() = Rc::new(limits.clone());
        self.insight.heed(limits);
        if has_other_memory {
            self.is_unlimited.set(false);
            self.note_unlimited(worker, self.processes.limit_all(bytes));
        }
        let now = Moment::now();
        for handle in self.sessions.borrow().values() {
            worker.alarms.set(worker, handle, now);
        }
    }

    /// Tells the operator where the limit of memory does not hold: in the log once, until there is another.
    fn note_unlimited(&self, worker: &Worker, result: Result<(), Unlimited>) {
        let Err(error) = result else { return };
        worker.counted.memory_unlimited.add(error.word());
        if !self.is_unlimited.replace(true) {
            tracing::warn!(
                tenant = %self.id,
                error = &error as &dyn std::error::Error,
                "memory_bytes_max does not hold"
            );
        }
    }

    /// Whether there is room on disk from now on. Statements that run and would fill it further are
    /// stopped.
    fn set_storage(&self, worker: &Rc<Worker>, storage: Storage, limit: Option<u64>) {
        self.storage.set(storage);
        let why = Exceeded {
            limit: Number::Storage,
            value: limit.unwrap_or_default(),
        };
        for handle in self.sessions.borrow().values() {
            if handle.growth.get().is_refused(storage) && handle.stop(worker, why) {
                limits::watch_stop(worker, handle);
            }
        }
    }

    /// What servers of a login report, once one was there.
    pub(crate) fn seen(&self, login: Login) -> Option<Rc<Parameters>> {
        self.pools.borrow().get(&login)?.seen.clone()
    }

    /// Uses another route from now on. Idle connections made by another login are closed.
    pub(crate) fn set_route(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        login: Login,
        resolved: Resolved,
    ) {
        let limits = &resolved.route.limits;
        self.share.set(Share {
            weight: limits.server_connections_weight,
            min: limits.server_connections_min,
        });
        self.set_limits(worker, limits);
        self.set_storage(worker, resolved.route.storage, limits.storage_bytes_max);
        *self.budget.borrow_mut() = Some(worker.shared.budgets.of(&resolved.node));
        let mut stale = Vec::new();
        match self.pools.borrow_mut().entry(login) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Pool {
                    resolved,
                    keys: None,
                    seen: None,
                    idle: Vec::new(),
                });
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let pool = entry.get_mut();
                if pool.resolved.route.server != resolved.route.server
                    || pool.resolved.node.address != resolved.node.address
                {
                    pool.keys = None;
                    pool.seen = None;
                    stale = std::mem::take(&mut pool.idle);
                }
                pool.resolved = resolved;
            }
        }
        self.close_idle(worker, stale);
        self.seek();
    }

    /// Forgets a login that no longer exists.
    pub(crate) fn drop_pool(self: &Rc<Self>, worker: &Rc<Worker>, login: Login) {
        let pool = self.pools.borrow_mut().remove(&login);
        self.close_idle(worker, pool.map(|pool| pool.idle).unwrap_or_default());
    }

    /// Ends sessions, each as `decide` says.
    pub(crate) fn end_sessions(&self, decide: impl Fn(&Handle) -> Option<(When, Refusal)>) {
        for handle in self.sessions.borrow().values() {
            if let Some((when, why)) = decide(handle) {
                handle.end(when, why);
            }
        }
    }

    /// A server connection of `login` in the state of a new one: an idle one, or one that is
    /// opened, or, when the tenant or the node has no more, the first that becomes free.
    ///
    /// First come first served within the tenant; tenants in a fair round. Safe to drop.
    ///
    /// # Errors
    ///
    /// [`Refusal::Busy`], [`Refusal::ServerDown`],
    /// [`Refusal::ServerLogin`], or why nobody is let in.
    pub(crate) async fn server(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        login: Login,
    ) -> Result<Box<Server>, Refusal> {
        let want = Want {
            login,
            session: 0,
            credential: self.next_serial(),
            state: self.states.nothing().clone(),
            is_blank: true,
            returns: false,
        };
        self.server_for(worker, &want).await
    }

    /// The same, the one that fits best if there are several, and in whatever state it is.
    ///
    /// # Errors
    ///
    /// As [`Self::server`].
    pub(crate) async fn server_for(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        want: &Want,
    ) -> Result<Box<Server>, Refusal> {
        loop {
            self.pause.over(want.returns).await?;
            let mut server = self.any_server_for(worker, want).await?;
            server.statements.catch_up(&self.statements);
            if self.pause.lets_in(want.returns) {
                return Ok(server);
            }
            // While it waited for this one, somebody has said that it is to wait.
            self.release(worker, want.login, server);
        }
    }

    async fn any_server_for(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        want: &Want,
    ) -> Result<Box<Server>, Refusal> {
        if let Some(server) = self.take_idle(worker, want, false) {
            return Ok(server);
        }
        let lease = match self.try_lease() {
            Some(lease) => lease,
            None if worker.config.lending == LendingRule::NeverTheSameTwice
                && let Some(server) = self.take_idle(worker, want, true) =>
            {
                return Ok(server);
            }
            None => match self.wait(worker, want.login).await? {
                Grant::Lease(lease) => lease,
                Grant::Server(mut server) => {
                    if server.stream.is_quiet() {
                        return Ok(server);
                    }
                    server.into_lease()
                }
            },
        };
        self.open(worker, want.login, lease).await
    }

    /// The idle server connection that fits best; `again`: be it one that it must not have.
    #[inline]
    pub(crate) fn take_idle(
        &self,
        worker: &Worker,
        want: &Want,
        again: bool,
    ) -> Option<Box<Server>> {
        let rule = worker.config.lending;
        loop {
            let (number, mut server) = {
                let mut pools = self.pools.borrow_mut();
                let idle = &mut pools.get_mut(&want.login)?.idle;
                // Of equal ones the last one back, so that the others can grow old.
                let mut best = None;
                for (at, (_, server)) in idle.iter().enumerate().rev() {
                    let misfit = want.misfit(server, rule);
                    if best.is_none_or(|(_, least)| misfit < least) {
                        best = Some((at, misfit));
                    }
                    if misfit == 0 {
                        break;
                    }
                }
                let (at, misfit) = best?;
                if misfit == NEVER && !again {
                    return None;
                }
                idle.remove(at)
            };
            worker.idle.remove(number);
            // A server that restarted has hung up on us meanwhile.
            if server.idle_since.elapsed() < QUIET_FOR || server.stream.is_quiet() {
                server.statements.catch_up(&self.statements);
                return Some(server);
            }
        }
    }

    /// A lease if one can be had at once and no client of the tenant waits.
    fn try_lease(self: &Rc<Self>) -> Option<Lease> {
        if self.line.is_empty() && self.servers.get() < self.servers_max.get() {
            let budget = self.budget.borrow();
            let permit = budget.as_ref()?.try_permit(&self.id, self.share.get())?;
            return Some(Lease::new(permit, self));
        }
        None
    }

    async fn wait(self: &Rc<Self>, worker: &Rc<Worker>, login: Login) -> Result<Grant, Refusal> {
        let limits = &worker.config.limits;
        let (_place, granted) = self.line.join(login);
        if self.servers.get() >= self.servers_max.get() && !self.evict_own(worker) {
            // An idle connection of another role makes room, or one that a session keeps.
            self.recall(worker, login);
        }
        let stands_in_round = self.queued.get();
        self.seek();
        if !self.line.is_empty() {
            self.recall(worker, login);
            // Since it began to stand there, one of another role may have become idle.
            if stands_in_round && let Some(budget) = self.budget() {
                worker.make_room(&budget);
            }
        }
        match timeout(limits.budget_wait_max, granted).await {
            Ok(Ok(grant)) => Ok(grant),
            _ => Err(Refusal::Busy {
                waited_ms: u64::try_from(limits.budget_wait_max.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }

    /// Why the server lets nobody in, when that is because of a change that this worker has not heard of
    /// yet: it was suspended or deleted a moment ago.
    async fn unheard(&self, worker: &Rc<Worker>, login: Login) -> Option<Refusal> {
        let login = LoginName {
            tenant: self.id.clone(),
            login,
        };
        let answer = timeout(UNHEARD_WAIT_MAX, worker.routes.ask(&login)).await;
        let answer = answer.ok()?.ok()?;
        match answer.resolved {
            None => Some(match login.login {
                Login::Role(_) => Refusal::Deleted,
                Login::User(_) => Refusal::Revoked,
            }),
            Some(resolved) => refusal_of(&resolved.route, answer.asked),
        }
    }

    async fn open(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        login: Login,
        lease: Lease,
    ) -> Result<Box<Server>, Refusal> {
        let (resolved, cached) = {
            let pools = self.pools.borrow();
            let pool = pools.get(&login).ok_or(Refusal::Closed)?;
            (pool.resolved.clone(), pool.keys.clone())
        };
        let budget = worker.shared.budgets.of(&resolved.node);
        let opening = Opening {
            resolved: &resolved,
            budget: &budget,
            cached,
        };
        let started = tokio::time::Instant::now();
        match server::open(opening, lease, worker).await {
            Ok((server, keys)) => {
                worker.counted.open_time.note(micros(started.elapsed()));
                add(&worker.counted.opened, 1);
                if let Some(pool) = self.pools.borrow_mut().get_mut(&login) {
                    pool.keys = keys;
                    pool.seen = Some(server.parameters.clone());
                }
                let mut server = server;
                if self.known().defining > 0 {
                    return Ok(server);
                }
                let look = timeout(
                    worker.config.limits.reset_time_max,
                    self.examine(&mut server),
                );
                match look.await {
                    Ok(Ok(_)) => Ok(server),
                    _ => Err(self
                        .unheard(worker, login)
                        .await
                        .unwrap_or(Refusal::ServerDown)),
                }
            }
            Err(error) => {
                if error.is_of_login()
                    && let Some(refusal) = self.unheard(worker, login).await
                {
                    return Err(refusal);
                }
                tracing::warn!(
                    tenant = %self.id,
                    error = &error as &dyn std::error::Error,
                    "no server connection"
                );
                worker.counted.opens_failed.add(error.word());
                if error.is_refused() {
                    worker.routes.client().report(Report::ServerLoginRefused {
                        tenant: self.id.clone(),
                        login,
                    });
                    return Err(Refusal::ServerLogin);
                }
                if error.is_full() {
                    let waited_ms = started.elapsed().as_millis() as u64;
                    return Err(Refusal::Busy { waited_ms });
                }
                Err(Refusal::ServerDown)
            }
        }
    }

    /// Gets permits for the clients that wait, now or by standing in the round.
    fn seek(self: &Rc<Self>) {
        let Some(worker) = self.worker.upgrade() else {
            return;
        };
        if worker.is_closing() {
            return;
        }
        loop {
            if self.line.is_empty()
                || self.queued.get()
                || self.servers.get() >= self.servers_max.get()
            {
                return;
            }
            let Some(budget) = self.budget.borrow().clone() else {
                return;
            };
            if let Some(permit) = budget.try_permit(&self.id, self.share.get()) {
                self.hand(permit);
                continue;
            }
            self.queued.set(true);
            let more = self.servers_max.get() - self.servers.get();
            let waiting = u32::try_from(self.line.len()).unwrap_or(u32::MAX);
            let granted = budget.queue(&self.id, self.share.get(), waiting.min(more));
            worker.make_room(&budget);
            let tenant = self.clone();
            tokio::task::spawn_local(async move {
                let permit = granted.await;
                tenant.queued.set(false);
                let now = tenant.budget();
                if let Ok(permit) = permit
                    && now.is_some_and(|budget| permit.is_of(&budget))
                {
                    tenant.hand(permit);
                }
                tenant.seek();
            });
            return;
        }
    }

    /// Gives a permit to the first client that still waits.
    fn hand(self: &Rc<Self>, permit: Permit) {
        // With nobody there it goes back.
        let lease = Grant::Lease(Lease::new(permit, self));
        drop(self.line.hand(lease, |_| true));
    }

    /// The node that a role's connections lead to.
    pub(crate) fn budget(&self) -> Option<Arc<Budget>> {
        self.budget.borrow().clone()
    }
}
