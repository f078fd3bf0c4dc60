//! What passes are woken by, what they work on, and what was counted of them.
//!
//! Owns: no rows and no steps; those are in [`super::job`].

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use model::Pid;
use tokio::{sync::Notify, time::Instant};

use super::{
    pool::{Demand, Pace},
    store::Kind,
};
use crate::api::App;

/// How passes are woken, and how others hear of what they did.
pub(crate) struct Passes {
    pub(super) wake: Notify,
    /// A pool entry was taken: the pool is to be filled, but not before its pace says so.
    pub(super) taken: Notify,
    pub(super) changed: Notify,
    demand: Mutex<Option<Demand>>,
    /// Placements that a task of this process works on, and what they are.
    driven: Mutex<BTreeMap<Pid, Kind>>,
    /// The catalog did not take or give an answer, so it may say that we work on what we do not.
    pub(super) lost_track: AtomicBool,
    pub(super) counted: Counted,
}

/// Counted since the start.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) passes: AtomicU64,
    pub(super) passes_failed: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) steps_failed: AtomicU64,
    pub(super) claims: AtomicU64,
    pub(super) claims_missed: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What was counted since the start, and what is under way.
pub(crate) struct PassCounts {
    /// Placements worked on now.
    pub(crate) working: usize,
    pub(crate) passes: u64,
    pub(crate) passes_failed: u64,
    pub(crate) steps: u64,
    pub(crate) steps_failed: u64,
    /// Tenants that got a pool entry.
    pub(crate) claims: u64,
    /// Tenants that found none.
    pub(crate) claims_missed: u64,
}

impl Default for Passes {
    fn default() -> Self {
        Self {
            wake: Notify::new(),
            taken: Notify::new(),
            changed: Notify::new(),
            demand: Mutex::new(None),
            driven: Mutex::new(BTreeMap::new()),
            lost_track: AtomicBool::new(false),
            counted: Counted::default(),
        }
    }
}

impl Passes {
    /// Something changed. Cheap, and may be called too often.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Resolves at the next step that is done after this call. Call it before looking.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// A tenant took a pool entry and so many are left, or found none.
    pub(crate) fn claimed(&self, left: Option<u32>) {
        count(match left {
            Some(_) => &self.counted.claims,
            None => &self.counted.claims_missed,
        });
        let now = Instant::now();
        let mut demand = self.demand();
        match (demand.as_mut(), left) {
            (Some(demand), Some(left)) => demand.claimed(left, now),
            (Some(demand), None) => demand.missed(now),
            (None, _) => {}
        }
        drop(demand);
        match left {
            Some(_) => self.taken.notify_one(),
            None => self.wake(),
        }
    }

    pub(crate) fn counts(&self) -> PassCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PassCounts {
            working: self.driven().len(),
            passes: read(&self.counted.passes),
            passes_failed: read(&self.counted.passes_failed),
            steps: read(&self.counted.steps),
            steps_failed: read(&self.counted.steps_failed),
            claims: read(&self.counted.claims),
            claims_missed: read(&self.counted.claims_missed),
        }
    }

    fn demand(&self) -> std::sync::MutexGuard<'_, Option<Demand>> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn driven(&self) -> std::sync::MutexGuard<'_, BTreeMap<Pid, Kind>> {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many entries the pool should have, and how fast they are to be made.
    pub(super) fn pool_plan(&self, app: &App, ready: u32) -> (u32, Pace) {
        let now = Instant::now();
        let mut demand = self.demand();
        let demand = demand.get_or_insert_with(|| Demand::new(app.config.warm_pool, now));
        (demand.target(now), demand.pace(ready, now))
    }
}
