//! Processes of ours that share a catalog, and what each has of a node's budget of server connections.
//!
//! Owns: saying that this process is there, in the catalog and on the node; its part of the budget
//! ([`lease`]); and taking what others had when they are gone. Does not own: how a budget is divided
//! (`share`), or who gets a server connection inside a process (the proxy).
//!
//! A process that the catalog hears nothing of has ended, or is only cut off from the catalog. In the second
//! case its clients go on, so nobody may have its part. The node knows: a session of each process stands
//! there. Three things follow.
//!
//! - Taken is the part of a process whose time in the catalog is over and whose session was missing on the node
//!   for [`ABSENT_FOR`].
//! - A process that cannot reach the catalog uses what it had for [`LIFE`], and after that for as long as its
//!   session is there, which it looks at each time, and was there without a break.
//! - After `stale_max` more, it uses nothing, and its part is taken in any case.

mod share;
mod store;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::{
    ProcessId,
    route::{BudgetLease, Demand, Unavailable},
};
use node::{Node, Presence};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::store::Identity;
use crate::{
    api::{App, error::chain},
    catalog::CatalogError,
};

/// How long a process counts as there after it was last heard of. 10 s: ten of its messages are lost, or
/// the catalog was away; and what a process had that was killed is had by others that much later.
const LIFE: Duration = Duration::from_secs(10);
/// Between two times that it says so, and looks at others.
const EVERY: Duration = Duration::from_secs(1);
/// How long a process uses its part after it saw its own session on the node.
const VOUCHED_FOR: Duration = Duration::from_secs(4);
/// How long a session is missing before its process counts as gone: longer than [`VOUCHED_FOR`], and with
/// [`LIFE`] longer than a managed server runs a statement on whose client has gone (10 s).
const ABSENT_FOR: Duration = Duration::from_secs(5);
/// For the catalog to answer a proxy, before what it was told last is looked at.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// For the last word of a process.
pub(crate) const LEAVE_TIME_MAX: Duration = Duration::from_secs(2);

/// This process, among those that share the catalog.
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    state: Mutex<State>,
    presence: tokio::sync::Mutex<Option<Presence>>,
}

#[derive(Default)]
struct State {
    /// Since when its session on the node is there without a break.
    present_since: Option<Instant>,
    /// What it was told of each node, and when it asked.
    told: HashMap<String, (u32, Instant)>,
}

impl Process {
    pub(crate) fn new() -> Self {
        Self {
            id: ProcessId::random(&mut rand::rng()),
            state: Mutex::default(),
            presence: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn identity<'a>(&'a self, app: &'a App) -> Identity<'a> {
        Identity {
            id: &self.id,
            instance: &app.config.instance,
        }
    }

    /// Whether its session is on the node; opens it when it is not.
    async fn be_present(&self, node: &Node) {
        let mut presence = self.presence.lock().await;
        if let Some(session) = presence.as_ref()
            && session.is_there().await
        {
            return;
        }
        *presence = None;
        self.state().present_since = None;
        match node.be_present(&self.id).await {
            Ok(session) => {
                *presence = Some(session);
                self.state().present_since = Some(Instant::now());
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), "no session on the node says that we are there");
            }
        }
    }

    /// Whether its session on the node is there, and was since `then`.
    async fn was_present_since(&self, then: Instant) -> bool {
        let presence = self.presence.lock().await;
        let Some(session) = presence.as_ref() else {
            return false;
        };
        let unbroken = self
            .state()
            .present_since
            .is_some_and(|since| since <= then);
        unbroken && session.is_there().await
    }
}

/// Answers a proxy of this process.
///
/// # Errors
///
/// [`Unavailable`] when neither the catalog nor the node can vouch for what it had.
pub(crate) async fn lease(app: &App, demand: &Demand) -> Result<BudgetLease, Unavailable> {
    let process = &app.process;
    let asked = Instant::now();
    let own = process.identity(app);
    let answer = timeout(
        ANSWER_TIME_MAX,
        store::lease(&app.catalog, &own, demand, LIFE),
    )
    .await;
    match answer {
        Ok(Ok(part)) => {
            let told = (part, asked);
            process.state().told.insert(demand.node.clone(), told);
            Ok(BudgetLease {
                server_connections: part,
                valid_for: LIFE,
            })
        }
        Ok(Err(error)) => {
            tracing::debug!(error = %chain(&error), "the catalog says nothing about the budget");
            vouch(app, demand, asked).await
        }
        Err(_) => vouch(app, demand, asked).await,
    }
}

/// What a proxy was told last, as far as it still holds.
async fn vouch(app: &App, demand: &Demand, asked: Instant) -> Result<BudgetLease, Unavailable> {
    let process = &app.process;
    let told = process.state().told.get(&demand.node).copied();
    let (part, told_at) = told.ok_or(Unavailable)?;
    let last = LIFE + app.config.limits.stale_max;
    if !process.was_present_since(told_at).await || told_at.elapsed() >= last {
        return Err(Unavailable);
    }
    // From `asked`, as the proxy counts.
    let by_session = (asked.elapsed() + VOUCHED_FOR).min(last - told_at.elapsed());
    let by_catalog = LIFE.saturating_sub(asked - told_at);
    Ok(BudgetLease {
        server_connections: part,
        valid_for: by_session.max(by_catalog),
    })
}

/// Says that this process is there, and looks at others, for ever.
pub(crate) async fn run(app: Arc<App>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        app.process.be_present(&app.node).await;
        if let Err(error) = round(&app).await {
            tracing::debug!(error = %chain(&error), "the catalog did not hear that this process is there");
        }
    }
}

/// The same once, before anything is served.
pub(crate) async fn begin(app: &App) -> Result<(), CatalogError> {
    app.process.be_present(&app.node).await;
    round(app).await
}

async fn round(app: &App) -> Result<(), CatalogError> {
    let own = app.process.identity(app);
    let client = app.catalog.get().await?;
    store::heartbeat(&client, &own, LIFE).await?;
    let suspects = store::suspects(&client, &own).await?;
    if suspects.is_empty() {
        return Ok(());
    }
    let ids: Vec<ProcessId> = suspects.iter().map(|suspect| suspect.id.clone()).collect();
    // A node that does not answer tells nothing.
    let present = app.node.present(&ids).await.ok();
    for suspect in suspects {
        let is_present = present.as_ref().map(|all| all.contains(&suspect.id));
        let is_former = suspect.is_former && is_present == Some(false);
        let is_stale = suspect.silent_for > app.config.limits.stale_max;
        let absent_for = suspect.absent_for.filter(|_| is_present == Some(false));
        let is_gone = is_former || is_stale || absent_for.is_some_and(|time| time >= ABSENT_FOR);
        if is_gone && store::remove(&client, &suspect.id, is_former).await? {
            tracing::info!(process = %suspect.id, "a process is gone; others have its server connections now");
        } else if let Some(is_present) = is_present {
            store::note_presence(&client, &suspect.id, is_present).await?;
        }
    }
    Ok(())
}

/// The last word of this process: nothing of it uses a server connection any more.
pub(crate) async fn leave(app: &App) {
    let own = &app.process.id;
    let said = async {
        let client = app.catalog.get().await?;
        store::remove(&client, own, true).await
    };
    match timeout(LEAVE_TIME_MAX, said).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::debug!(error = %chain(&error), "the catalog did not hear that this process ends");
        }
        Err(_) => tracing::debug!("the catalog did not hear in time that this process ends"),
    }
    *app.process.presence.lock().await = None;
}
