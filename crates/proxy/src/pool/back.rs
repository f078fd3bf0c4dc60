//! Server connections that somebody gives back, and closing idle ones.
//!
//! Owns: what has to be true before one is lent again, who is asked to give one up, and in which order idle
//! ones go. Does not own: lending them, or who waits (`pool`).

use std::{rc::Rc, sync::Arc, time::Duration};

use model::{Login, route::Access};
use tokio::time::timeout;

use super::{Grant, Tenant};
use crate::{cancel, server::Server, worker::Worker};

/// How long an idle server may take to go away once told. It needs a millisecond.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

impl Tenant {
    /// Takes a server connection back from a client that left it in a known state. `in_message`:
    /// the client left in the middle of a message.
    pub(crate) fn give_back(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        login: Login,
        server: Box<Server>,
        in_message: bool,
    ) {
        let (worker, tenant) = (worker.clone(), self.clone());
        if in_message || !server.is_at_rest() || !server.known || !server.queue.is_certain() {
            tokio::task::spawn_local(abandon(worker, server, in_message));
            return;
        }
        if !server.used && server.cancel.in_flight.get() == 0 {
            tenant.put(&worker, login, server);
            return;
        }
        tokio::task::spawn_local(async move {
            let mut server = server;
            let clean = timeout(worker.config.limits.reset_time_max, async {
                while server.cancel.in_flight.get() > 0 {
                    server.cancel.settled.notified().await;
                }
                server.reset().await
            })
            .await;
            match clean {
                Ok(Ok(())) => tenant.put(&worker, login, server),
                _ => {
                    tracing::info!(tenant = %tenant.id, "a server connection could not be reset");
                    close(server).await;
                }
            }
        });
    }

    /// Takes a server connection back at the end of a transaction, with what it holds.
    pub(crate) fn release(self: &Rc<Self>, worker: &Rc<Worker>, login: Login, server: Box<Server>) {
        if server.cancel.in_flight.get() == 0 {
            self.put(worker, login, server);
            return;
        }
        // Until the cancel has reached its end it could hit whoever comes next.
        let (worker, tenant) = (worker.clone(), self.clone());
        tokio::task::spawn_local(async move {
            let settled = timeout(worker.config.limits.reset_time_max, async {
                while server.cancel.in_flight.get() > 0 {
                    server.cancel.settled.notified().await;
                }
            });
            match settled.await {
                Ok(()) => tenant.put(&worker, login, server),
                Err(_) => close(server).await,
            }
        });
    }

    /// Whether somebody waits for a server connection that a session keeps only because nobody has
    /// asked what is on it, or an operator has all given up.
    pub(crate) fn is_wanted(&self) -> bool {
        let mut wanted = !self.line.is_empty();
        wanted |= self
            .budget()
            .is_some_and(|budget| budget.is_wanted_by_others(&self.id));
        wanted || self.pause.is_by_operator()
    }

    /// Asks the session that has kept a server connection for longest to give it up, if somebody of
    /// this tenant waits: first one of the same role.
    pub(crate) fn recall(&self, worker: &Worker, login: Login) {
        if !self.line.is_empty() {
            worker.idle.recall(&self.id, login);
        }
    }

    /// Lends a clean connection on, or keeps it idle, or closes it for a tenant that waits, when that
    /// one's turn has come: a crowd of our own clients does not keep others out.
    pub(super) fn put(self: &Rc<Self>, worker: &Rc<Worker>, login: Login, server: Box<Server>) {
        let mut server = server;
        let fits = self.pools.borrow().get(&login).is_some_and(|pool| {
            let (route, node) = (&pool.resolved.route, &pool.resolved.node);
            if route.access != Access::Open {
                return false;
            }
            if Arc::ptr_eq(route, &server.login) && Arc::ptr_eq(node, &server.cancel.node) {
                return true;
            }
            let fits =
                route.server == server.login.server && node.address == server.cancel.node.address;
            if fits {
                // The next look is a short one.
                server.login = route.clone();
            }
            fits
        });
        let is_last = server.cancel.is_last.get() || self.pause.is_on();
        let has_next = !self.line.is_empty();
        if !fits || is_last || worker.is_closing() || !server.may_stay(has_next) {
            self.send_away(server);
            return;
        }
        match self.line.hand(Grant::Server(server), |next| next == login) {
            Ok(()) | Err(Grant::Lease(_)) => return,
            Err(Grant::Server(back)) => server = back,
        }
        if !self.line.is_empty() {
            // Its lease goes to the one who waits.
            self.send_away(server);
            return;
        }
        if let Some(pool) = self.pools.borrow_mut().get_mut(&login) {
            let (number, since) = worker.idle.add(self, login);
            server.idle_since = since;
            pool.idle.push((number, server));
        }
    }

    pub(super) fn send_away(self: &Rc<Self>, server: Box<Server>) {
        self.leaving.set(self.leaving.get() + 1);
        let tenant = self.clone();
        tokio::task::spawn_local(async move {
            close(server).await;
            tenant.leaving.set(tenant.leaving.get() - 1);
        });
    }

    /// Closes the idle connection with this number.
    pub(crate) fn evict(self: &Rc<Self>, login: Login, number: u64) {
        let server = self.pools.borrow_mut().get_mut(&login).and_then(|pool| {
            let at = pool.idle.iter().position(|(own, _)| *own == number)?;
            Some(pool.idle.remove(at).1)
        });
        if let Some(server) = server {
            self.send_away(server);
        }
    }

    /// Whether it has more than its minimum, or minimums do not hold now.
    pub(crate) fn may_lose_one(&self) -> bool {
        let stay = self.servers.get().saturating_sub(self.leaving.get());
        stay > self.share.get().min || !self.budget().is_some_and(|budget| budget.keeps_minimums())
    }

    pub(super) fn evict_own(self: &Rc<Self>, worker: &Rc<Worker>) -> bool {
        let oldest = self
            .pools
            .borrow()
            .iter()
            .filter_map(|(login, pool)| Some((pool.idle.first()?.0, *login)))
            .min();
        let Some((number, login)) = oldest else {
            return false;
        };
        worker.idle.remove(number);
        self.evict(login, number);
        true
    }

    pub(super) fn close_idle(&self, worker: &Rc<Worker>, idle: Vec<(u64, Box<Server>)>) {
        for (number, server) in idle {
            worker.idle.remove(number);
            tokio::task::spawn_local(close(server));
        }
    }

    /// Closes all idle connections.
    pub(crate) fn close_all(&self, worker: &Rc<Worker>) {
        let idle: Vec<_> = self
            .pools
            .borrow_mut()
            .values_mut()
            .flat_map(|pool| std::mem::take(&mut pool.idle))
            .collect();
        self.close_idle(worker, idle);
    }
}

/// Closes a connection that is at rest. Its place in the budget is free once the server process
/// is gone.
async fn close(mut server: Box<Server>) {
    let _ = timeout(CLOSE_TIME_MAX, server.close(false)).await;
}

/// Closes a connection that may be working. As with PostgreSQL itself, what was sent is worked
/// off although nobody waits for it, but not for ever.
async fn abandon(worker: Rc<Worker>, mut server: Box<Server>, in_message: bool) {
    let limits = &worker.config.limits;
    if timeout(limits.abandoned_time_max, server.close(in_message))
        .await
        .is_err()
    {
        cancel::send(&worker, &server.cancel).await;
        let _ = timeout(CLOSE_TIME_MAX, server.close(true)).await;
    }
}
