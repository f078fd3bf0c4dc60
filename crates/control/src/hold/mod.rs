//! Holding a tenant: for a short time nobody of it has a server connection, in any process.
//!
//! Owns: taking a hold, the proof that it stands, and letting go. Does not own: what a process does about
//! it (`follow`), or what the hold is for (branch, restore, move).
//!
//! A hold is a row with a deadline. Every process whose row stands in table `process` does what the hold's
//! row asks, step by step, and says so; one that is not there is known to have no server connection. First
//! all wait for running transactions; when nothing runs anywhere, sessions that listen hear the last
//! notifications, and all close; at the end those sessions listen again everywhere before the first
//! transaction begins anywhere. When nobody lets go, every proxy does when the time is over, by its own
//! clock, which never is before that of the holder: it began to count later.

mod follow;
mod store;

use std::{sync::Arc, time::Duration};

use deadpool_postgres::GenericClient;
use model::{
    HoldId, ProcessId, TenantId,
    hold::{Holds, Kept},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use self::store::{Wanted, Word};
use crate::{
    api::{App, error::chain},
    catalog::CatalogError,
};

pub(crate) use follow::{begin, run};
pub(crate) use store::CHANNEL;

/// How long a hold lasts once it stands, at most. 10 s: the longest copy that was measured took three, and
/// clients wait for no longer than they do for a server connection.
const HOLD_TIME_MAX: Duration = Duration::from_secs(10);
/// For processes to say that they have closed their server connections, which takes some milliseconds.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(4);
/// For what a process says at the end of its bound to arrive.
const WORD_TIME_MAX: Duration = Duration::from_secs(1);
/// For sessions to leave the database on the server once they are closed.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(1);
/// For sessions that listen to do so again, which takes some milliseconds. A process that was killed
/// meanwhile has everybody wait for so long.
const RETURN_TIME_MAX: Duration = Duration::from_secs(3);
/// Between two looks at what processes said, or what sessions are left, when nobody says that there is news.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After its deadline, a hold is over in every process: they began to count up to so much later, and have
/// sessions that listen do so first.
const REST: Duration = Duration::from_secs(10);

/// The way to this process's proxy, and news.
pub(crate) struct Ways {
    orders: Holds,
    news: watch::Sender<()>,
}

impl Ways {
    pub(crate) fn new(orders: Holds) -> Self {
        Self {
            orders,
            news: watch::Sender::new(()),
        }
    }

    /// There may be something to see.
    pub(crate) fn poke(&self) {
        self.news.send_replace(());
    }

    fn pokes(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }
}

/// Why there is no hold. Nothing is held when it is returned.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Something kept server connections for the whole bound.
    #[error("in use: {0}")]
    Kept(Kept),
    /// Somebody else holds it now.
    #[error("it is held by another operation")]
    Taken,
    /// A process that may be serving clients did not answer.
    #[error("process {process} does not answer")]
    Silent {
        /// Which.
        process: ProcessId,
    },
    /// Sessions are in its database that no proxy knows of: maintenance, or what a killed process left.
    #[error("{sessions} sessions in its database belong to no proxy")]
    Connected {
        /// How many.
        sessions: u32,
    },
    /// It was there, and its time is over.
    #[error("the time of the hold is over")]
    Over,
    /// The catalog did not answer.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The node did not.
    #[error(transparent)]
    Node(#[from] node::NodeError),
}

impl HoldError {
    /// For metrics.
    fn word(&self) -> &'static str {
        match self {
            Self::Kept(_) => "kept",
            Self::Taken => "taken",
            Self::Silent { .. } => "silent",
            Self::Connected { .. } => "connected",
            Self::Over => "expired",
            Self::Catalog(_) | Self::Node(_) => "failed",
        }
    }
}

/// A tenant that is held. Dropped, it is let go of soon.
#[must_use = "it is let go of when this is dropped"]
pub struct Held {
    app: Arc<App>,
    id: HoldId,
    began: Instant,
    until: Instant,
    /// Processes were told to close their server connections.
    has_closed: bool,
    is_over: bool,
}

/// Holds a tenant: its new transactions wait, running ones may end within `bound`, then its server connections are
/// closed, in all processes, and the node has no session in its database.
///
/// Safe to drop.
///
/// # Errors
///
/// [`HoldError`], with nothing held.
pub(crate) async fn take(
    app: &Arc<App>,
    tenant: &TenantId,
    bound: Duration,
) -> Result<Held, HoldError> {
    let id = HoldId::random(&mut rand::rng());
    let life = bound + WORD_TIME_MAX + CLOSE_TIME_MAX + LEAVE_TIME_MAX + HOLD_TIME_MAX;
    // From before anybody else counts.
    let began = Instant::now();
    let until = began + life;
    let mut held = Held {
        app: app.clone(),
        id,
        began,
        until,
        has_closed: false,
        is_over: false,
    };
    let client = app.catalog.get().await?;
    let times = (bound, life, REST);
    let own = &app.process.id;
    if !store::insert(&client, &held.id, tenant, own, times).await? {
        // There is nothing to let go of.
        held.is_over = true;
        app.counted.hold(HoldError::Taken.word(), None);
        return Err(HoldError::Taken);
    }
    drop(client);
    let drained = held.ask(Wanted::Drain, bound + WORD_TIME_MAX).await;
    let mut held = held.or_let_go(drained).await?;
    held.has_closed = true;
    let closed = held.ask(Wanted::Close, CLOSE_TIME_MAX).await;
    let held = held.or_let_go(closed).await?;
    let left = held.nobody_is_left(tenant).await;
    let held = held.or_let_go(left).await?;
    tracing::info!(%tenant, hold = %held.id, "held");
    Ok(held)
}

impl Held {
    /// What is left of it. Zero: too late for what relies on it.
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Proves, in the transaction of `client`, that it stands, and has it stand until that has ended, unless it
    /// takes longer than what is [`left`](Self::left).
    ///
    /// # Errors
    ///
    /// [`HoldError::Over`].
    pub(crate) async fn confirm(&self, client: &impl GenericClient) -> Result<(), HoldError> {
        if self.left().is_zero() || !store::confirm(client, &self.id).await? {
            return Err(HoldError::Over);
        }
        Ok(())
    }

    /// Proves that it stands at this moment.
    ///
    /// # Errors
    ///
    /// [`HoldError::Over`].
    pub async fn stands(&self) -> Result<(), HoldError> {
        self.confirm(&self.app.catalog.get().await?).await
    }

    /// Lets go: first sessions listen again that did, in all processes, then transactions go on.
    ///
    /// # Errors
    ///
    /// When the catalog cannot be told: proxies let go at the deadline.
    pub async fn release(mut self) -> Result<(), CatalogError> {
        let told = self.let_go().await;
        self.is_over = true;
        self.count(if self.left().is_zero() {
            "expired"
        } else {
            "held"
        });
        told
    }

    fn count(&self, how: &'static str) {
        self.app.counted.hold(how, Some(self.began.elapsed()));
    }

    async fn let_go(&self) -> Result<(), CatalogError> {
        // A process that does not answer in time ends its sessions that have not come back.
        if self.has_closed
            && let Err(error) = self.ask(Wanted::Return, RETURN_TIME_MAX).await
        {
            tracing::debug!(error = %chain(&error), hold = %self.id, "not all processes have their sessions back");
        }
        let client = self.app.catalog.get().await?;
        store::remove(&client, &self.id).await?;
        self.app.holds.poke();
        store::tell(&client).await
    }

    async fn or_let_go(mut self, done: Result<(), HoldError>) -> Result<Self, HoldError> {
        if let Err(error) = done {
            self.is_over = true;
            // When that fails: at the deadline.
            let _ = self.let_go().await;
            self.count(error.word());
            return Err(error);
        }
        Ok(self)
    }

    /// Asks a step of all processes, and waits until all have taken it.
    async fn ask(&self, wanted: Wanted, within: Duration) -> Result<(), HoldError> {
        let mut pokes = self.app.holds.pokes();
        if wanted != Wanted::Drain {
            let client = self.app.catalog.get().await?;
            if !store::advance(&client, &self.id, wanted).await? {
                return Err(HoldError::Over);
            }
        }
        self.app.holds.poke();
        store::tell(&self.app.catalog.get().await?).await?;
        let until = Instant::now() + within;
        loop {
            match self.silent(wanted).await? {
                None => return Ok(()),
                Some(process) if Instant::now() >= until => {
                    return Err(HoldError::Silent { process });
                }
                Some(_) => {
                    let _ = timeout(LOOK_EVERY, pokes.changed()).await;
                }
            }
        }
    }

    /// One of the processes that have not said yet that they have taken a step.
    async fn silent(&self, wanted: Wanted) -> Result<Option<ProcessId>, HoldError> {
        let client = self.app.catalog.get().await?;
        let words = store::words(&client, &self.id, wanted).await?;
        let mut silent = None;
        for (process, word) in words.ok_or(HoldError::Over)? {
            match word {
                Word::Done => {}
                Word::Kept(kept) => return Err(HoldError::Kept(kept)),
                Word::None => silent = Some(process),
            }
        }
        Ok(silent)
    }

    /// Closed sessions need a moment to leave the server.
    async fn nobody_is_left(&self, tenant: &TenantId) -> Result<(), HoldError> {
        let Some(pid) = store::pid(&self.app.catalog.get().await?, tenant).await? else {
            return Ok(());
        };
        let until = Instant::now() + LEAVE_TIME_MAX;
        loop {
            match self.app.node.sessions(&pid).await? {
                0 => return Ok(()),
                sessions if Instant::now() >= until => {
                    return Err(HoldError::Connected { sessions });
                }
                _ => sleep(LOOK_EVERY).await,
            }
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Held({})", self.id)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let held = Self {
            app: self.app.clone(),
            id: self.id.clone(),
            is_over: true,
            ..*self
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = held.let_go().await;
                held.count("dropped");
            });
        }
    }
}
