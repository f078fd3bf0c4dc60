//! How much of a node's budget this process may use.
//!
//! Owns: asking the control plane for it again and again, and giving back what others need more. Does
//! not own: dividing it among processes (the control plane), or among tenants (`budget`).
//!
//! A process first uses less and then says so; it first is told that it may have more and then uses it.
//! So the sum over all processes is never above the budget.

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use model::route::Demand;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    budget::Budget,
    worker::{Inbox, Shared, Worker},
};

/// Between two times it asks when nothing happens. What another process needs is free so much later.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Between two times it asks when a tenant waits, or something was given back.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// For an answer. The catalog is asked with limits of its own.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// What is needed is the most of so many looks, so that a pause of a moment gives nothing away.
const LOOKS: usize = 5;

/// Asks for ever.
pub(crate) async fn keep(worker: Rc<Worker>) {
    let budgets = &worker.shared.budgets;
    let mut looks: HashMap<String, VecDeque<u32>> = HashMap::new();
    loop {
        let began = Instant::now();
        for (node, budget) in budgets.all() {
            ask(
                &worker,
                &node,
                &budget,
                looks.entry(node.clone()).or_default(),
            )
            .await;
        }
        sleep_until(began + ASK_PAUSE).await;
        tokio::select! {
            () = sleep_until(began + ASK_EVERY), if !looks.is_empty() => {}
            () = budgets.asks.notified() => {}
        }
    }
}

async fn ask(worker: &Rc<Worker>, node: &str, budget: &Arc<Budget>, looks: &mut VecDeque<u32>) {
    let shared = &worker.shared;
    loop {
        let idle = shared.idle.iter().map(|idle| idle.load(Ordering::Relaxed));
        let need = budget.demand(idle.sum());
        looks.truncate(LOOKS - 1);
        looks.push_front(need.needed);
        let demand = Demand {
            node: node.to_owned(),
            budget: need.budget,
            held: need.held,
            needed: looks.iter().copied().max().unwrap_or_default(),
        };
        let asked = Instant::now();
        let answer = timeout(ANSWER_TIME_MAX, worker.routes.client().lease(demand)).await;
        let Ok(Ok(lease)) = answer else {
            // What it was told before holds until its time is over.
            return;
        };
        let excess = budget.lend(lease.server_connections, asked + lease.valid_for);
        make_room(shared, budget, excess);
        let was_lowered = lease.server_connections < need.held;
        if !was_lowered || budget.demand(0).held >= need.held {
            return;
        }
        // Somebody waits for what it just gave up.
    }
}

/// Has so many idle server connections closed, as far as there are any.
fn make_room(shared: &Shared, budget: &Arc<Budget>, excess: u32) {
    let mut excess = excess as usize;
    for (inbox, idle) in shared.inboxes.iter().zip(&shared.idle) {
        let here = idle.load(Ordering::Relaxed).min(excess);
        excess -= here;
        for _ in 0..here {
            // A full inbox means a worker that is busy returning connections anyway.
            let _ = inbox.try_send(Inbox::Evict {
                budget: budget.clone(),
            });
        }
    }
}
