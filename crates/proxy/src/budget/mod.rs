//! One budget of server connections per node, shared by all workers and all tenants.
//!
//! Owns: the count, and handing permits to the tenants that wait. Does not own: how much of the node's
//! budget this process is lent (`lease`), the order of tenants (`round`), the pace of opening
//! (`connects`), which client of a tenant is next (`pool`), or which idle connection makes room.
//!
//! Workers have no parts of their own, of which one would lack what another leaves unused. It is locked
//! when a connection is opened or closed, and when a transaction ends while somebody waits; otherwise a
//! query looks at one atomic.

mod connects;
mod round;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::stats::NodeStats;
use connects::Connects;
use model::{TenantId, route::NodeTarget};
use round::{Next, Round};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub(crate) use round::Share;

/// How long a tenant's turn with a server connection lasts when others hold as many for their weight and
/// wait. Giving it to another tenant means closing it and opening one, which takes 4 to 9 ms: with shorter
/// turns most of the time would go there. A transaction is never cut short.
const TURN_TIME: Duration = Duration::from_millis(20);

/// The budgets of all nodes.
#[derive(Debug)]
pub(crate) struct Budgets {
    nodes: Mutex<HashMap<String, Arc<Budget>>>,
    connects_max: usize,
    /// Told when more is wanted of a node than was lent, and when what was asked back is free.
    pub(crate) asks: Arc<Notify>,
}

impl Budgets {
    pub(crate) fn new(connects_max: usize) -> Self {
        Self {
            nodes: Mutex::default(),
            connects_max,
            asks: Arc::default(),
        }
    }

    /// Of all nodes.
    pub(crate) fn all(&self) -> Vec<(String, Arc<Budget>)> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let all = nodes.iter();
        all.map(|(node, budget)| (node.clone(), budget.clone()))
            .collect()
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
                opening: budget.connects.open(),
                tenants_waiting: budget.waiting(),
            }
        });
        usage.collect()
    }

    /// The budget of a node. Of a new one nothing is lent yet; that is asked for at once.
    pub(crate) fn of(&self, node: &NodeTarget) -> Arc<Budget> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = nodes.entry(node.name.clone()).or_insert_with(|| {
            self.asks.notify_one();
            Arc::new(Budget {
                asks: self.asks.clone(),
                state: Mutex::default(),
                is_short: AtomicBool::new(false),
                connects: Connects::new(self.connects_max),
            })
        });
        budget.set_ceiling(node.server_connections_max);
        budget.clone()
    }
}

/// The budget of one node.
#[derive(Debug)]
pub(crate) struct Budget {
    asks: Arc<Notify>,
    state: Mutex<State>,
    /// Whether a tenant waits, or more is in use than there is: the one thing that is looked at when a
    /// transaction ends, without the lock.
    is_short: AtomicBool,
    pub(crate) connects: Connects,
}

#[derive(Debug, Default)]
struct State {
    /// Of all processes together.
    ceiling: u32,
    /// What this one may use, and until when.
    lent: u32,
    lent_until: Option<Instant>,
    used: u32,
    /// Who holds what, and who is next.
    round: Round,
    /// Where those who wait are told.
    grants: HashMap<TenantId, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    share: Share,
    /// So many would be used at once.
    wants: u32,
    grant: oneshot::Sender<Permit>,
}

/// What this process has of a node, and would use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Need {
    /// Of all processes together.
    pub(crate) budget: u32,
    /// Nobody else may have these.
    pub(crate) held: u32,
    /// Used or waited for now.
    pub(crate) needed: u32,
}

/// The right to hold one server connection. Dropping it passes it on.
#[derive(Debug)]
pub(crate) struct Permit {
    /// `None`: given up.
    budget: Option<Arc<Budget>>,
    tenant: TenantId,
    /// When its tenant's turn with it began.
    turn: Instant,
}

impl State {
    /// How many there may be now.
    fn max(&self) -> u32 {
        match self.lent_until {
            Some(until) if Instant::now() < until => self.lent.min(self.ceiling),
            _ => 0,
        }
    }

    /// Whether a tenant other than `tenant` waits.
    fn others_wait(&self, tenant: &TenantId) -> bool {
        let waits = |other: &TenantId| {
            let grant = self.grants.get(other).map(|waiting| &waiting.grant);
            grant.is_some_and(|grant| !grant.is_closed())
        };
        self.round
            .line()
            .any(|other| other != tenant && waits(other))
    }
}

impl Budget {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called with every state that others shall see.
    fn note(&self, state: &State) {
        let is_short = state.round.waiting() > 0 || state.used > state.max();
        self.is_short.store(is_short, Ordering::Relaxed);
    }

    fn set_ceiling(self: &Arc<Self>, ceiling: u32) {
        let mut state = self.state();
        if state.ceiling != ceiling {
            state.ceiling = ceiling;
            self.connects.set_part(state.lent, ceiling);
            drop(state);
            self.asks.notify_one();
            self.serve_round();
        }
    }

    /// What this process has and would use, of which so many are idle.
    pub(crate) fn demand(&self, idle: usize) -> Need {
        let state = self.state();
        let idle = u32::try_from(idle).unwrap_or(u32::MAX).min(state.used);
        let waiting = state.grants.values();
        let waiting = waiting.filter(|waiting| !waiting.grant.is_closed());
        let wants: u32 = waiting.map(|waiting| waiting.wants).sum();
        Need {
            budget: state.ceiling,
            held: state.max().max(state.used),
            needed: (state.used - idle).saturating_add(wants),
        }
    }

    /// Uses so many from now on, until then. Returns how many are to be closed.
    pub(crate) fn lend(self: &Arc<Self>, count: u32, until: Instant) -> u32 {
        let mut state = self.state();
        state.lent = count;
        state.lent_until = Some(until);
        self.connects.set_part(count, state.ceiling);
        let excess = state.used.saturating_sub(state.max());
        drop(state);
        self.serve_round();
        excess
    }

    /// Takes a permit if one is free, which it is only when nobody waits.
    pub(crate) fn try_permit(self: &Arc<Self>, tenant: &TenantId, share: Share) -> Option<Permit> {
        let mut state = self.state();
        if state.used >= state.max() {
            return None;
        }
        Some(self.give(&mut state, tenant.clone(), share))
    }

    /// Stands in the round, for the first of so many that it wants. One place per tenant; whoever calls
    /// sees to that.
    pub(crate) fn queue(
        self: &Arc<Self>,
        tenant: &TenantId,
        share: Share,
        wants: u32,
    ) -> oneshot::Receiver<Permit> {
        let (grant, granted) = oneshot::channel();
        let mut state = self.state();
        let max = state.max();
        state.round.enter(tenant, share, max);
        let waiting = Waiting {
            share,
            wants,
            grant,
        };
        state.grants.insert(tenant.clone(), waiting);
        let could_have_more = max < state.ceiling;
        drop(state);
        self.serve_round();
        if could_have_more {
            self.asks.notify_one();
        }
        granted
    }

    /// Whether a tenant other than `tenant` waits: then nothing is kept that nobody uses.
    pub(crate) fn is_wanted_by_others(&self, tenant: &TenantId) -> bool {
        self.is_short.load(Ordering::Relaxed) && {
            let state = self.state();
            state.used > state.max() || state.others_wait(tenant)
        }
    }

    /// See [`Permit::may_stay`].
    fn may_keep(&self, permit: &mut Permit, has_next: bool) -> bool {
        let mut state = self.state();
        let max = state.max();
        if state.used > max {
            return false;
        }
        if !state.others_wait(&permit.tenant) {
            return true;
        }
        let is_over = permit.turn.elapsed() >= TURN_TIME;
        match state
            .round
            .next_with(&permit.tenant, is_over, has_next, max)
        {
            Next::Same => true,
            Next::Again => {
                permit.turn = Instant::now();
                true
            }
            Next::Other => false,
        }
    }

    /// Whether tenants may keep their minimums from others now.
    pub(crate) fn keeps_minimums(&self) -> bool {
        let state = self.state();
        let max = state.max();
        state.used <= max && state.round.keeps_minimums(max)
    }

    /// Permits given out, and how many there are.
    fn usage(&self) -> (u32, u32) {
        let state = self.state();
        (state.used, state.max())
    }

    /// Tenants that wait.
    fn waiting(&self) -> usize {
        let state = self.state();
        let waiting = state.grants.values();
        waiting.filter(|tenant| !tenant.grant.is_closed()).count()
    }

    fn give(self: &Arc<Self>, state: &mut State, tenant: TenantId, share: Share) -> Permit {
        state.used += 1;
        let max = state.max();
        state.round.took(&tenant, share, max);
        Permit {
            budget: Some(self.clone()),
            tenant,
            turn: Instant::now(),
        }
    }

    /// Hands free permits to those who wait, in their order.
    fn serve_round(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            let next = (state.used < state.max()).then(|| state.round.next());
            let Some(tenant) = next.flatten() else {
                self.note(&state);
                return;
            };
            let Some(waiting) = state.grants.remove(&tenant) else {
                continue;
            };
            if waiting.grant.is_closed() {
                tracing::trace!(%tenant, "a tenant that waited is gone");
                continue;
            }
            let permit = self.give(&mut state, tenant, waiting.share);
            drop(state);
            // A receiver that has gone this moment leaves the permit to the next one.
            if let Err(permit) = waiting.grant.send(permit) {
                permit.give_up();
            }
        }
    }
}

impl Permit {
    /// Whether it is for that node. A tenant may have moved while it waited.
    pub(crate) fn is_of(&self, budget: &Arc<Budget>) -> bool {
        self.budget
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, budget))
    }

    /// Whether its tenant, whose client has just finished with the connection, may go on with it;
    /// otherwise it is to be closed, for the round. `has_next`: a client of its own waits for it.
    pub(crate) fn may_stay(&mut self, has_next: bool) -> bool {
        match &self.budget {
            Some(budget) if !budget.is_short.load(Ordering::Relaxed) => true,
            Some(budget) => budget.clone().may_keep(self, has_next),
            None => false,
        }
    }

    /// Returns it without looking for somebody who waits: the caller does that.
    fn give_up(mut self) {
        self.take_back();
    }

    fn take_back(&mut self) -> Option<Arc<Budget>> {
        let budget = self.budget.take()?;
        let mut state = budget.state();
        let max = state.max();
        let was_asked_back = state.used > max;
        state.used -= 1;
        state.round.returned(&self.tenant, max);
        drop(state);
        if was_asked_back {
            budget.asks.notify_one();
        }
        Some(budget)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(budget) = self.take_back() {
            budget.serve_round();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max: u32) -> Arc<Budget> {
        let budget = Budgets::new(1).of(&node(max));
        budget.lend(max, Instant::now() + FOR_NOW);
        budget
    }

    fn node(max: u32) -> NodeTarget {
        NodeTarget {
            name: "n".to_owned(),
            address: model::route::NodeAddress::Unix("/nowhere".into()),
            server_connections_max: max,
        }
    }

    const FOR_NOW: Duration = Duration::from_secs(60);

    fn tenant(letter: char) -> TenantId {
        String::from_iter([letter; 12]).parse().unwrap()
    }

    fn take(budget: &Arc<Budget>, letter: char) -> Option<Permit> {
        budget.try_permit(&tenant(letter), Share::default())
    }

    #[test]
    fn never_more_than_the_budget() {
        let budget = budget(2);
        let a = take(&budget, 'z').unwrap();
        let _b = take(&budget, 'z').unwrap();
        assert!(take(&budget, 'z').is_none());
        drop(a);
        assert!(take(&budget, 'z').is_some());
    }

    #[test]
    fn tenants_that_wait_are_served_in_turn_and_nobody_overtakes() {
        let budget = budget(1);
        let held = take(&budget, 'z').unwrap();
        let mut a = budget.queue(&tenant('a'), Share::default(), 1);
        let mut b = budget.queue(&tenant('b'), Share::default(), 1);
        assert!(budget.is_wanted_by_others(&tenant('a')));
        drop(held);
        let permit = a.try_recv().unwrap();
        assert!(b.try_recv().is_err());
        assert!(take(&budget, 'z').is_none());
        drop(permit);
        let permit = b.try_recv().unwrap();
        assert!(!budget.is_wanted_by_others(&tenant('a')));
        drop(permit);
        assert_eq!(budget.usage(), (0, 1));
    }

    #[test]
    fn who_gave_up_waiting_is_passed_over_and_nothing_is_lost() {
        let budget = budget(1);
        let held = take(&budget, 'z').unwrap();
        drop(budget.queue(&tenant('a'), Share::default(), 1));
        let mut b = budget.queue(&tenant('b'), Share::default(), 1);
        drop(held);
        assert!(b.try_recv().is_ok());
        drop(b);
        assert_eq!(budget.usage().0, 0);
        let answered = budget.queue(&tenant('c'), Share::default(), 1);
        // The permit lies in the channel of somebody who leaves without looking.
        drop(answered);
        assert_eq!(budget.usage().0, 0);
    }

    #[test]
    fn a_smaller_budget_holds_for_what_comes_next() {
        let budgets = Budgets::new(1);
        let budget = budgets.of(&node(2));
        budget.lend(2, Instant::now() + FOR_NOW);
        let held = [take(&budget, 'z').unwrap(), take(&budget, 'z').unwrap()];
        budgets.of(&node(1));
        let mut waiting = budget.queue(&tenant('a'), Share::default(), 1);
        let [first, second] = held;
        drop(first);
        assert!(waiting.try_recv().is_err());
        drop(second);
        assert!(waiting.try_recv().is_ok());
    }

    /// With a turn that lasts: the same tenant goes on, however many transactions that are. Then it is
    /// the other's turn.
    #[tokio::test(start_paused = true)]
    async fn a_turn_lasts_long_enough_to_be_worth_a_connection() {
        let budget = budget(1);
        let mut held = take(&budget, 'a').unwrap();
        assert!(held.may_stay(false), "nobody waits");
        let mut b = budget.queue(&tenant('b'), Share::default(), 1);
        assert!(!held.may_stay(false), "nothing lies idle");
        for _ in 0..TURN_TIME.as_millis() {
            assert!(held.may_stay(true));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(!held.may_stay(true));
        drop(held);
        let b = b.try_recv().unwrap();

        // Three turns for one in the long run, and no connection is opened between those of one tenant.
        let shares = [Share { weight: 3, min: 0 }, Share::default()];
        let mut places = [('a', 0), ('c', 1)]
            .map(|(letter, share)| budget.queue(&tenant(letter), shares[share], 1));
        drop(b);
        let mut turns = [0; 2];
        for round in 0..12 {
            let number = round % 2;
            let mut held = places[number].try_recv().unwrap();
            let name = tenant(['a', 'c'][number]);
            while held.may_stay(true) {
                turns[number] += 1;
                tokio::time::advance(TURN_TIME).await;
            }
            places[number] = budget.queue(&name, shares[number], 1);
        }
        assert_eq!(turns, [15, 6]);
    }

    #[test]
    fn what_was_taken_away_is_given_back_before_anything_is_lent_on() {
        let budget = budget(3);
        let mut held: Vec<_> = (0..3).map(|_| take(&budget, 'a').unwrap()).collect();
        budget.set_ceiling(1);
        assert!(!held[0].may_stay(true) && budget.is_wanted_by_others(&tenant('a')));
        assert!(!budget.keeps_minimums());
        held.truncate(1);
        assert!(held[0].may_stay(true));
        assert!(take(&budget, 'a').is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_lent_is_lent_for_a_time() {
        let budget = Budgets::new(1).of(&node(10));
        assert!(take(&budget, 'a').is_none(), "nothing was lent yet");
        let mut a = budget.queue(&tenant('a'), Share::default(), 3);
        let need = |held, needed| Need {
            budget: 10,
            held,
            needed,
        };
        assert_eq!(budget.demand(0), need(0, 3));
        assert_eq!(budget.lend(4, Instant::now() + FOR_NOW), 0);
        let held = [a.try_recv().unwrap(), take(&budget, 'b').unwrap()];
        assert_eq!(budget.demand(1), need(4, 1));
        // More are in use than it is lent from now on: those are still held.
        assert_eq!(budget.lend(1, Instant::now() + FOR_NOW), 1);
        assert_eq!(budget.demand(0), need(2, 2));
        let [first, _second] = held;
        drop(first);
        assert_eq!(budget.demand(0), need(1, 1));
        assert!(take(&budget, 'a').is_none());
        budget.lend(4, Instant::now() + FOR_NOW);
        tokio::time::advance(FOR_NOW).await;
        assert!(take(&budget, 'a').is_none(), "its time is over");
        assert_eq!(budget.demand(0), need(1, 1));
    }
}
