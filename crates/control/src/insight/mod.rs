//! What tenants' statements did, in windows of time.
//!
//! Owns: asking the proxy of this process what it counted, adding that to rings in the catalog, where all
//! processes add up and a restart loses nothing (`store`), and windows of them (`window`); telling it
//! ([`http`]), and what is in their databases ([`inspect`]). Does not own: counting (`proxy`).
//!
//! Only tenants that did something since the last pass cost anything: four rows are changed of each. What
//! was not written yet is added to what is read, so nothing is seen late at the process that counted it.

pub(crate) mod explain;
pub(crate) mod fleet;
pub(crate) mod http;
pub(crate) mod inspect;
pub(crate) mod metrics;
mod store;
pub(crate) mod tenants;
mod window;

pub(crate) use store::recent;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use model::{
    TenantId,
    insight::{BOUNDS_US, Counts, Pools, Question, Questions, TIMES, TenantCounts, TenantDetail},
};
use tokio::{
    sync::{RwLock, oneshot},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    api::{App, error::chain},
    catalog::CatalogError,
    statement_log,
};

/// Between two passes: the length of the shortest slots.
const EVERY: Duration = Duration::from_secs(10);
/// Tenants of which something is written in one transaction: some 20 ms of the catalog's time.
const BATCH: usize = 200;
/// Tenants of which something waits to be written. While the catalog is away, more are not asked about,
/// and lose nothing as long as the proxy knows them. 5 MB.
const DUE_MAX: usize = 20_000;
/// For the proxy to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// For writing what was counted last when the process stops.
const LAST_TIME_MAX: Duration = Duration::from_secs(3);
/// Passes after which everything that was said about clients is said again: others may have taken this
/// process for gone, and what it said with it.
const SAID_FOR: u32 = 30;
/// Passes between two looks for slots that count no more, and tenants of which they are removed then.
const SWEEP_EVERY: u32 = 60;
const SWEEP_MAX: i64 = 1_000;

/// What this process knows beside the catalog.
pub(crate) struct Insight {
    proxy: Questions,
    /// Held while rows are written, so that whoever reads sees each number once.
    known: RwLock<Known>,
    /// Of databases made here, and not written.
    made: Mutex<Made>,
}

/// How long making databases took, by [`BOUNDS_US`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Made {
    sum_us: u64,
    times: [u64; TIMES],
}

impl Made {
    fn note(&mut self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.times[BOUNDS_US.partition_point(|bound| *bound < took_us)] += 1;
        self.sum_us = self.sum_us.saturating_add(took_us);
    }

    fn add(&mut self, other: &Self) {
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        for (own, other) in self.times.iter_mut().zip(other.times) {
            *own = own.saturating_add(other);
        }
    }

    fn take_away(&mut self, other: &Self) {
        self.sum_us = self.sum_us.saturating_sub(other.sum_us);
        for (own, other) in self.times.iter_mut().zip(other.times) {
            *own = own.saturating_sub(other);
        }
    }
}

#[derive(Default)]
struct Known {
    seen: HashMap<TenantId, Seen>,
    /// Counted and not written.
    due: BTreeMap<TenantId, Counts>,
    passes: u32,
    /// What was written of this process's pools last.
    pools: Option<Pools>,
}

/// What a proxy said of a tenant last.
struct Seen {
    life: u64,
    counts: Counts,
    /// As others were told.
    said: (u32, u32),
}

/// What is known of a tenant, with the catalog's part.
struct Told {
    kept: store::Kept,
    /// Counted here and not in the catalog.
    unwritten: Counts,
    detail: Option<TenantDetail>,
}

impl Told {
    /// Clients and server connections now, at all processes.
    fn connections(&self) -> (u32, u32) {
        let here = self.detail.as_ref().map(|detail| &detail.counts);
        let (clients, servers) = here.map_or((0, 0), |here| (here.clients, here.servers));
        (self.kept.clients + clients, self.kept.servers + servers)
    }
}

impl Known {
    /// What a tenant did that was not noted yet.
    fn news(&self, of: &TenantCounts) -> Counts {
        match self.seen.get(&of.tenant) {
            Some(seen) if seen.life == of.life => of.counts.since(&seen.counts),
            _ => of.counts,
        }
    }

    /// Takes in what the proxy says of all. Returns whose clients have changed; `again`: and of whom there
    /// are any.
    fn note(&mut self, all: Vec<TenantCounts>, again: bool) -> Vec<TenantCounts> {
        let mut before = HashMap::with_capacity(all.len());
        let mut changed = Vec::new();
        for of in all {
            let news = self.news(&of);
            let is_new = !self.due.contains_key(&of.tenant);
            let has_room = !is_new || self.due.len() < DUE_MAX;
            let old = self.seen.remove(&of.tenant);
            let said = old.as_ref().map_or((0, 0), |old| old.said);
            if !has_room {
                // What it does meanwhile is noted later.
                if let Some(old) = old.filter(|old| old.life == of.life) {
                    before.insert(of.tenant, old);
                }
                continue;
            }
            if !news.is_nothing() {
                self.due.entry(of.tenant.clone()).or_default().add(&news);
            }
            let seen = Seen {
                life: of.life,
                counts: of.counts,
                said,
            };
            before.insert(of.tenant.clone(), seen);
            let now = (of.clients, of.servers);
            if now != said || (again && now != (0, 0)) {
                changed.push(of);
            }
        }
        // Those that the proxy has forgotten have nobody connected.
        for (tenant, gone) in std::mem::replace(&mut self.seen, before) {
            if gone.said != (0, 0) {
                changed.push(TenantCounts {
                    tenant,
                    life: gone.life,
                    clients: 0,
                    servers: 0,
                    counts: gone.counts,
                });
            }
        }
        changed
    }
}

impl Insight {
    pub(crate) fn new(proxy: Questions) -> Self {
        Self {
            proxy,
            known: RwLock::default(),
            made: Mutex::default(),
        }
    }

    /// Somebody asked for a database, and had it, or had waited to the end, after this time.
    pub(crate) fn database_made(&self, took: Duration) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.note(took);
    }

    /// What was made here and is not written.
    fn made(&self) -> Made {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: the proxy does not answer.
    pub(crate) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.proxy.send(question(reply)).await.ok()?;
            answer.await.ok()
        };
        timeout(ANSWER_TIME_MAX, asked).await.ok().flatten()
    }

    /// What is known of a tenant now, here and in the catalog.
    async fn read(
        &self,
        app: &App,
        tenant: &TenantId,
        statements_max: usize,
    ) -> Result<Told, CatalogError> {
        // In this order, as whoever writes: nobody holds a connection and waits.
        let known = self.known.read().await;
        let client = app.catalog.get().await?;
        let detail = self.ask(|reply| Question::One {
            tenant: tenant.clone(),
            statements_max,
            reply,
        });
        let detail = detail.await.flatten();
        let news = detail.as_ref().map(|detail| known.news(&detail.counts));
        let mut unwritten = news.unwrap_or_default();
        if let Some(due) = known.due.get(tenant) {
            unwritten.add(due);
        }
        let kept = store::read(&client, tenant, &app.process.id).await?;
        Ok(Told {
            kept,
            unwritten,
            detail,
        })
    }
}

/// The time, in milliseconds, that 99 in 100 statements did not exceed.
pub(crate) fn p99_ms(counts: &Counts) -> f64 {
    let times = window::Times {
        sum_us: counts.times_us as f64,
        counts: counts.times.map(|count| count as f64),
    };
    times.quantile_ms(0.99)
}

/// Asks and writes for ever.
pub(crate) async fn run(app: Arc<App>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = round(&app).await {
            tracing::debug!(error = %chain(&error), "what databases did is not written yet");
        }
    }
}

/// What was counted last, when nothing more is asked.
pub(crate) async fn end(app: &App) {
    match timeout(LAST_TIME_MAX, round(app)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(error = %chain(&error), "what databases did last is not written");
        }
        Err(_) => tracing::debug!("what databases did last was not written in time"),
    }
}

/// Both are told; neither keeps the other from being done.
async fn round(app: &App) -> Result<(), CatalogError> {
    let log = statement_log::round(app).await;
    add_up(app).await.and(log)
}

async fn add_up(app: &App) -> Result<(), CatalogError> {
    let mut known = app.insight.known.write().await;
    known.passes = known.passes.wrapping_add(1);
    let again = known.passes % SAID_FOR == 0;
    let changed = match app.insight.ask(Question::All).await {
        Some(all) => known.note(all, again),
        // It has stopped, or is about to begin: that says nothing of anybody.
        None => Vec::new(),
    };
    let pools = app.insight.ask(Question::Pools).await;
    let mut client = app.catalog.get().await?;
    let made = app.insight.made();
    if made != Made::default() {
        store::add_made(&client, &made).await?;
        let mut left = app
            .insight
            .made
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        left.take_away(&made);
    }
    if let Some(pools) = pools
        && (again || known.pools != Some(pools))
    {
        store::pools(&client, &app.process.id, pools).await?;
        known.pools = Some(pools);
    }
    while !known.due.is_empty() {
        let some: Vec<(TenantId, Counts)> = known
            .due
            .iter()
            .take(BATCH)
            .map(|(tenant, counts)| (tenant.clone(), *counts))
            .collect();
        store::add(&mut client, &some).await?;
        for (tenant, _) in some {
            known.due.remove(&tenant);
        }
    }
    for some in changed.chunks(BATCH) {
        store::connect(&client, &app.process.id, some).await?;
        for of in some {
            if let Some(seen) = known.seen.get_mut(&of.tenant) {
                seen.said = (of.clients, of.servers);
            }
        }
    }
    if again {
        let said = known.seen.iter().filter(|(_, seen)| seen.said != (0, 0));
        let said: Vec<&str> = said.map(|(tenant, _)| tenant.as_str()).collect();
        store::connect_only(&client, &app.process.id, &said).await?;
    }
    if known.passes % SWEEP_EVERY == 0 {
        store::sweep(&client, SWEEP_MAX).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(life: u64, statements: u64, clients: u32) -> TenantCounts {
        TenantCounts {
            tenant: "abcdefghijkl".parse().unwrap(),
            life,
            clients,
            servers: 0,
            counts: Counts {
                statements,
                ..Counts::default()
            },
        }
    }

    fn due(known: &Known) -> u64 {
        known.due.values().map(|counts| counts.statements).sum()
    }

    #[test]
    fn what_a_proxy_counts_is_noted_once() {
        let mut known = Known::default();
        for (life, statements, want) in [(1, 5, 5), (1, 5, 5), (1, 7, 7), (2, 3, 10), (2, 4, 11)] {
            let told = of(life, statements, 0);
            assert_eq!(known.news(&told).statements, want - due(&known));
            known.note(vec![told], false);
            assert_eq!(due(&known), want, "{life} {statements}");
        }
        // It was forgotten, and came into use again.
        known.note(Vec::new(), false);
        known.note(vec![of(3, 2, 0)], false);
        assert_eq!(due(&known), 13);
    }

    #[test]
    fn clients_are_told_when_they_change_and_when_they_are_gone() {
        let mut known = Known::default();
        let said = |known: &mut Known, all, again| {
            let changed = known.note(all, again);
            for of in &changed {
                if let Some(seen) = known.seen.get_mut(&of.tenant) {
                    seen.said = (of.clients, of.servers);
                }
            }
            changed.iter().map(|of| of.clients).collect::<Vec<_>>()
        };
        assert!(said(&mut known, vec![of(1, 0, 0)], false).is_empty());
        assert_eq!(said(&mut known, vec![of(1, 0, 2)], false), [2]);
        assert!(said(&mut known, vec![of(1, 0, 2)], false).is_empty());
        assert_eq!(said(&mut known, vec![of(1, 0, 2)], true), [2]);
        assert_eq!(said(&mut known, Vec::new(), false), [0]);
        assert!(said(&mut known, Vec::new(), true).is_empty());
    }
}
