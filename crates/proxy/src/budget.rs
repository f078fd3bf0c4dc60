//! One budget of server connections per node, shared by all workers and all tenants.
//!
//! Owns: the count, the fair round of tenants that wait, and the pace of opening connections.
//! Does not own: which client of a tenant is next (`pool`), or which idle connection makes room.
//! It is locked when a connection is opened or closed, never for a query.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::stats::NodeStats;
use model::{TenantId, route::NodeTarget};
use tokio::{sync::Semaphore, sync::oneshot, time::Instant};

/// First pause after a node could not be reached, and the longest one. A node that restarts is
/// back in a second or two.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The budgets of all nodes.
#[derive(Debug)]
pub(crate) struct Budgets {
    nodes: Mutex<HashMap<String, Arc<Budget>>>,
    connects_max: usize,
}

impl Budgets {
    pub(crate) fn new(connects_max: usize) -> Self {
        Self {
            nodes: Mutex::default(),
            connects_max,
        }
    }

    /// Permits given out and the limit, per node.
    pub(crate) fn usage(&self) -> Vec<NodeStats> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = nodes.iter().map(|(node, budget)| {
            let (servers, servers_max) = budget.usage();
            NodeStats {
                node: node.clone(),
                servers,
                servers_max,
                opening: self.connects_max - budget.connects.available_permits(),
                tenants_waiting: budget.waiting(),
            }
        });
        usage.collect()
    }

    /// The budget of a node, with the limit it has now.
    pub(crate) fn of(&self, node: &NodeTarget) -> Arc<Budget> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = nodes.entry(node.name.clone()).or_insert_with(|| {
            Arc::new(Budget {
                state: Mutex::default(),
                connects: Semaphore::new(self.connects_max),
            })
        });
        budget.set_max(node.server_connections_max);
        budget.clone()
    }
}

/// The budget of one node.
#[derive(Debug)]
pub(crate) struct Budget {
    state: Mutex<State>,
    /// Connections being opened.
    connects: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    max: u32,
    used: u32,
    /// Tenants that wait, each once, however many of its clients wait.
    round: VecDeque<Waiting>,
    failures: u32,
    /// No connection is tried before.
    pause_until: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    tenant: TenantId,
    grant: oneshot::Sender<Permit>,
}

/// The right to hold one server connection. Dropping it passes it on.
#[derive(Debug)]
pub(crate) struct Permit(Option<Arc<Budget>>);

impl Budget {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_max(self: &Arc<Self>, max: u32) {
        self.state().max = max;
        self.serve_round();
    }

    /// Takes a permit if one is free and nobody waits for it.
    pub(crate) fn try_permit(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.state();
        state.round.retain(|waiting| !waiting.grant.is_closed());
        if state.used < state.max && state.round.is_empty() {
            state.used += 1;
            return Some(Permit(Some(self.clone())));
        }
        None
    }

    /// Stands in the round. One place per tenant; whoever calls sees to that.
    pub(crate) fn queue(self: &Arc<Self>, tenant: TenantId) -> oneshot::Receiver<Permit> {
        let (grant, granted) = oneshot::channel();
        self.state().round.push_back(Waiting { tenant, grant });
        self.serve_round();
        granted
    }

    /// Whether a tenant other than `tenant` waits: then nothing is kept idle, and nothing goes on
    /// to the next client of the same tenant past the round.
    pub(crate) fn is_wanted_by_others(&self, tenant: &TenantId) -> bool {
        self.state()
            .round
            .iter()
            .any(|waiting| waiting.tenant != *tenant && !waiting.grant.is_closed())
    }

    /// Permits given out, and how many there are.
    fn usage(&self) -> (u32, u32) {
        let state = self.state();
        (state.used, state.max)
    }

    /// Tenants that wait.
    fn waiting(&self) -> usize {
        let state = self.state();
        let waiting = state.round.iter();
        waiting.filter(|tenant| !tenant.grant.is_closed()).count()
    }

    /// Hands free permits to those who wait, in their order.
    fn serve_round(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            if state.used >= state.max {
                return;
            }
            let Some(waiting) = state.round.pop_front() else {
                return;
            };
            state.used += 1;
            drop(state);
            // A receiver that is gone drops the permit, which comes back here.
            if let Err(permit) = waiting.grant.send(Permit(Some(self.clone()))) {
                tracing::trace!(tenant = %waiting.tenant, "a tenant that waited is gone");
                permit.give_up();
            }
        }
    }

    /// Waits for the turn to open a connection.
    pub(crate) async fn connect_turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let turn = self.connects.acquire().await.ok()?;
        let until = self.state().pause_until;
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
        Some(turn)
    }

    /// Tells how it went, so that a node that is down is not hammered.
    pub(crate) fn connected(&self, ok: bool) {
        let mut state = self.state();
        if ok {
            state.failures = 0;
            state.pause_until = None;
        } else {
            let pause = PAUSE_MIN * 2u32.saturating_pow(state.failures.min(8));
            state.failures += 1;
            state.pause_until = Some(Instant::now() + pause.min(PAUSE_MAX));
        }
    }
}

impl Permit {
    /// Whether it is for that node. A tenant may have moved while it waited.
    pub(crate) fn is_of(&self, budget: &Arc<Budget>) -> bool {
        self.0.as_ref().is_some_and(|own| Arc::ptr_eq(own, budget))
    }

    /// Returns it without looking for somebody who waits: the caller does that.
    fn give_up(mut self) {
        if let Some(budget) = self.0.take() {
            budget.state().used -= 1;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(budget) = self.0.take() {
            budget.state().used -= 1;
            budget.serve_round();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max: u32) -> Arc<Budget> {
        Budgets::new(1).of(&NodeTarget {
            name: "n".to_owned(),
            address: model::route::NodeAddress::Unix("/nowhere".into()),
            server_connections_max: max,
        })
    }

    fn tenant(letter: char) -> TenantId {
        String::from_iter([letter; 12]).parse().unwrap()
    }

    #[test]
    fn never_more_than_the_budget() {
        let budget = budget(2);
        let a = budget.try_permit().unwrap();
        let _b = budget.try_permit().unwrap();
        assert!(budget.try_permit().is_none());
        drop(a);
        assert!(budget.try_permit().is_some());
    }

    #[test]
    fn tenants_that_wait_are_served_in_turn_and_nobody_overtakes() {
        let budget = budget(1);
        let held = budget.try_permit().unwrap();
        let mut a = budget.queue(tenant('a'));
        let mut b = budget.queue(tenant('b'));
        assert!(budget.is_wanted_by_others(&tenant('a')));
        drop(held);
        let permit = a.try_recv().unwrap();
        assert!(b.try_recv().is_err());
        assert!(budget.try_permit().is_none());
        drop(permit);
        let permit = b.try_recv().unwrap();
        assert!(!budget.is_wanted_by_others(&tenant('a')));
        drop(permit);
        assert_eq!(budget.usage(), (0, 1));
    }

    #[test]
    fn who_gave_up_waiting_is_passed_over_and_nothing_is_lost() {
        let budget = budget(1);
        let held = budget.try_permit().unwrap();
        drop(budget.queue(tenant('a')));
        let mut b = budget.queue(tenant('b'));
        drop(held);
        assert!(b.try_recv().is_ok());
        drop(b);
        assert_eq!(budget.usage().0, 0);
        let answered = budget.queue(tenant('c'));
        // The permit lies in the channel of somebody who leaves without looking.
        drop(answered);
        assert_eq!(budget.usage().0, 0);
    }

    #[test]
    fn a_smaller_budget_holds_for_what_comes_next() {
        let budgets = Budgets::new(1);
        let node = |max| NodeTarget {
            name: "n".to_owned(),
            address: model::route::NodeAddress::Unix("/nowhere".into()),
            server_connections_max: max,
        };
        let budget = budgets.of(&node(2));
        let held = [budget.try_permit().unwrap(), budget.try_permit().unwrap()];
        budgets.of(&node(1));
        let mut waiting = budget.queue(tenant('a'));
        let [first, second] = held;
        drop(first);
        assert!(waiting.try_recv().is_err());
        drop(second);
        assert!(waiting.try_recv().is_ok());
    }
}
