//! What this worker knows about logins, and what happens when it changes.
//!
//! Owns: the cache of routes, one question at a time per login, and ending sessions whose route
//! no longer allows them. Does not own: the answers, which come from the control plane.
//!
//! "No such login" is kept as long as a route is, so an unknown login costs the same look-ups as a
//! known one.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use model::{
    CredentialId, Login, LoginName, Role, TenantId,
    route::{Access, Candidate, Change, Report, Resolved, RouteClient, Unavailable},
};
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep},
};

use crate::{
    accept::Peer, config::Limits, error::Refusal, handle::When, limits, pool::Tenant,
    worker::Worker,
};

/// Changes that are remembered by tenant. Beyond it, every older answer counts as stale.
const CHANGES_KEPT: usize = 4096;
/// How exactly the time is known at which a credential was last used.
const USED_EVERY: Duration = Duration::from_secs(10);
/// First pause and longest pause before a tenant with sessions is asked about again.
const REVIEW_PAUSE_MIN: Duration = Duration::from_millis(100);
const REVIEW_PAUSE_MAX: Duration = Duration::from_secs(5);

/// An answer of the control plane.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// `None`: no such login.
    pub(crate) resolved: Option<Resolved>,
    /// When the question was asked. What changed later is not in it.
    pub(crate) asked: Instant,
}

type Flight = watch::Receiver<Option<Result<Answer, Unavailable>>>;

/// The cache of one worker.
#[derive(Debug)]
pub(crate) struct Routes {
    client: RouteClient,
    known: RefCell<HashMap<LoginName, Answer>>,
    /// Apart from the others, so that guesses cannot push out what is real.
    unknown: RefCell<HashMap<LoginName, Answer>>,
    flights: RefCell<HashMap<LoginName, Flight>>,
    /// When the control plane was last told that a credential is used.
    used: RefCell<HashMap<CredentialId, Instant>>,
    /// When this worker heard that a tenant changed. By the clock, since answers also come from
    /// other workers, which may have heard of more changes or fewer.
    changed: RefCell<HashMap<TenantId, Instant>>,
    /// Answers older than this count as stale, whatever `changed` says.
    floor: Cell<Option<Instant>>,
    fresh_max: Duration,
    stale_max: Duration,
    routes_max: usize,
}

impl Routes {
    pub(crate) fn new(client: RouteClient, limits: &Limits) -> Self {
        Self {
            client,
            known: RefCell::default(),
            unknown: RefCell::default(),
            flights: RefCell::default(),
            used: RefCell::default(),
            changed: RefCell::default(),
            floor: Cell::new(None),
            fresh_max: limits.fresh_max,
            stale_max: limits.stale_max,
            routes_max: limits.routes_max,
        }
    }

    /// The control plane itself.
    pub(crate) fn client(&self) -> &RouteClient {
        &self.client
    }

    /// Tells the control plane that a secret opened a session, at most once in [`USED_EVERY`]: it is
    /// woken for it, which costs as much as a login.
    pub(crate) fn used(&self, candidate: &Candidate, peer: &Peer) {
        let now = Instant::now();
        if !candidate.one_use {
            let mut used = self.used.borrow_mut();
            match used.get_mut(&candidate.id) {
                Some(told) if now.duration_since(*told) < USED_EVERY => return,
                Some(told) => *told = now,
                None => {
                    if used.len() >= self.routes_max {
                        used.retain(|_, told| now.duration_since(*told) < USED_EVERY);
                    }
                    if used.len() < self.routes_max {
                        used.insert(candidate.id.clone(), now);
                    }
                }
            }
        }
        self.client.report(Report::LoggedIn {
            credential: candidate.id.clone(),
            from: peer.ip(),
        });
    }

    /// What is known about `login`, asking when that is old or nothing.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] when nothing usable is known and nobody can be asked.
    pub(crate) async fn get(
        &self,
        worker: &Rc<Worker>,
        login: &LoginName,
    ) -> Result<Answer, Unavailable> {
        if let Some(answer) = self.cached(login, self.fresh_max) {
            return Ok(answer);
        }
        let flight = self.flights.borrow().get(login).cloned();
        let mut flight = match flight {
            Some(flight) => flight,
            None => {
                let (done, flight) = watch::channel(None);
                self.flights
                    .borrow_mut()
                    .insert(login.clone(), flight.clone());
                let (worker, login) = (worker.clone(), login.clone());
                tokio::task::spawn_local(async move {
                    let answer = worker.routes.ask(&login).await;
                    worker.routes.flights.borrow_mut().remove(&login);
                    let _ = done.send(Some(answer));
                });
                flight
            }
        };
        let asked = match flight.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or(Err(Unavailable)),
            Err(_) => {
                // Whoever asked is gone by a mistake of ours: the next one asks anew.
                self.flights.borrow_mut().remove(login);
                Err(Unavailable)
            }
        };
        asked.or_else(|Unavailable| self.cached(login, self.stale_max).ok_or(Unavailable))
    }

    /// Asks the control plane, whatever is known.
    ///
    /// # Errors
    ///
    /// [`Unavailable`].
    pub(crate) async fn ask(&self, login: &LoginName) -> Result<Answer, Unavailable> {
        let asked = Instant::now();
        let resolved = self.client.resolve(login.clone()).await?;
        let answer = Answer { resolved, asked };
        if !self.is_stale(&login.tenant, asked) {
            self.keep(login.clone(), answer.clone());
        }
        Ok(answer)
    }

    /// Whether `tenant` may have changed after something was asked.
    pub(crate) fn is_stale(&self, tenant: &TenantId, asked: Instant) -> bool {
        let changed = self.changed.borrow().get(tenant).copied();
        self.floor.get().max(changed).is_some_and(|at| at >= asked)
    }

    fn cached(&self, login: &LoginName, age_max: Duration) -> Option<Answer> {
        for map in [&self.known, &self.unknown] {
            if let Some(answer) = map.borrow().get(login)
                && answer.asked.elapsed() <= age_max
                && !(matches!(login.login, Login::User(_))
                    && self.is_stale(&login.tenant, answer.asked))
            {
                return Some(answer.clone());
            }
        }
        None
    }

    fn keep(&self, login: LoginName, answer: Answer) {
        self.known.borrow_mut().remove(&login);
        self.unknown.borrow_mut().remove(&login);
        let mut map = match answer.resolved {
            Some(_) => self.known.borrow_mut(),
            None => self.unknown.borrow_mut(),
        };
        if map.len() >= self.routes_max {
            map.retain(|_, answer| answer.asked.elapsed() <= self.fresh_max);
        }
        if map.len() >= self.routes_max {
            // All are in use; any will do.
            let victim = map.keys().next().cloned();
            victim.and_then(|login| map.remove(&login));
        }
        map.insert(login, answer);
    }

    fn forget(&self, tenant: &TenantId) {
        // What is known of users counts as old by the time at which it was asked: `cached`.
        for role in Role::ALL {
            let login = LoginName {
                tenant: tenant.clone(),
                login: role.into(),
            };
            self.known.borrow_mut().remove(&login);
            self.unknown.borrow_mut().remove(&login);
        }
    }

    fn note(&self, change: &Change) {
        self.forget(&change.tenant);
        let now = Instant::now();
        let mut changed = self.changed.borrow_mut();
        if changed.len() >= CHANGES_KEPT {
            changed.clear();
            self.floor.set(Some(now));
        }
        changed.insert(change.tenant.clone(), now);
    }

    fn forget_all(&self) {
        self.known.borrow_mut().clear();
        self.unknown.borrow_mut().clear();
        self.changed.borrow_mut().clear();
        self.floor.set(Some(Instant::now()));
    }
}

/// Follows the changes. To be started again if it ends: then it counts on nothing it knew.
pub(crate) async fn follow(worker: Rc<Worker>) {
    let mut changes = worker.routes.client().changes();
    doubt_everything(&worker);
    loop {
        match changes.recv().await {
            Ok(change) => {
                worker.routes.note(&change);
                if let Some(tenant) = worker.known_tenant(&change.tenant) {
                    review(&worker, &tenant);
                }
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(
                    missed,
                    "changes were missed, asking about every tenant again"
                );
                doubt_everything(&worker);
            }
            // The control plane is gone, for good.
            Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// Counts on nothing that is known, and asks again about every tenant that is in use.
pub(crate) fn doubt_everything(worker: &Rc<Worker>) {
    worker.routes.forget_all();
    for tenant in worker.all_tenants() {
        review(worker, &tenant);
    }
}

/// Notes when it is dropped that nobody reviews the tenant any more, also after a mistake of ours:
/// otherwise no later change would be looked at.
struct Reviewing(Rc<Tenant>);

impl Drop for Reviewing {
    fn drop(&mut self) {
        self.0.reviews.set(0);
    }
}

/// Asks again about a tenant that is in use here, and ends what is no longer allowed.
pub(crate) fn review(worker: &Rc<Worker>, tenant: &Rc<Tenant>) {
    tenant.reviews.set(tenant.reviews.get() + 1);
    if tenant.reviews.get() > 1 {
        return; // The one under way will see that something changed again.
    }
    let (worker, reviewing) = (worker.clone(), Reviewing(tenant.clone()));
    tokio::task::spawn_local(async move {
        let tenant = &reviewing.0;
        let mut pause = REVIEW_PAUSE_MIN;
        loop {
            let began = tenant.reviews.get();
            let mut known = true;
            for login in tenant.logins_in_use() {
                let login = LoginName {
                    tenant: tenant.id.clone(),
                    login,
                };
                match worker.routes.ask(&login).await {
                    Ok(answer) => apply(&worker, tenant, login.login, answer.resolved),
                    Err(Unavailable) => known = false,
                }
            }
            if !known {
                sleep(pause).await;
                pause = (pause * 2).min(REVIEW_PAUSE_MAX);
            } else if tenant.reviews.get() == began {
                return;
            }
        }
    });
}

fn apply(worker: &Rc<Worker>, tenant: &Rc<Tenant>, login: Login, resolved: Option<Resolved>) {
    let Some(resolved) = resolved else {
        // Of a user this says that it was deleted, of a role that the whole tenant is gone.
        let why = match login {
            Login::Role(_) => Refusal::Closed,
            Login::User(_) => Refusal::Revoked,
        };
        tenant.end_sessions(|handle| (handle.login == login).then_some((When::Now, why.clone())));
        tenant.drop_pool(worker, login);
        return;
    };
    let route = &resolved.route;
    let pid = &route.server.pid;
    tenant.end_sessions(|handle| {
        if handle.login != login {
            return None;
        }
        let mut candidates = route.candidates.iter();
        let listed = candidates.find(|candidate| candidate.id == handle.credential);
        if let Some(listed) = listed {
            limits::expire(worker, handle, listed);
        }
        let why = if route.access == Access::Expired {
            Refusal::Ended
        } else if route.access == Access::NotReady {
            // A branch that is being reset: it comes back with other data.
            Refusal::Replaced
        } else if route.access != Access::Open {
            Refusal::Closed
        } else if handle.pid != *pid {
            Refusal::Replaced
        } else if listed.is_none() && !handle.outlives {
            Refusal::Revoked
        } else if !handle.about.peer.is_admitted(&route.limits) {
            Refusal::Address
        } else {
            return None;
        };
        Some((When::Now, why))
    });
    if route.access != Access::Open {
        // Whoever closes the database waits for those who leave by themselves.
        tenant.close_all(worker);
    }
    tenant.set_route(worker, login, resolved);
}
