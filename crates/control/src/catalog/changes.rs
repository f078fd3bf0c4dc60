//! Telling proxies which tenants changed, also when another process changed them.
//!
//! A change is announced at once inside this process. Others hear of it in two ways: by NOTIFY, after
//! the commit and only if that works, since the queue of NOTIFY is shared with all tenants of the
//! server and a full one would make the transaction fail; and by looking at what changed lately,
//! every second. A lost notification is a delay, never a loss.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_postgres::GenericClient;
use futures_util::FutureExt;
use model::{TenantId, route::Change};
use tokio::{
    sync::{broadcast, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_postgres::{AsyncMessage, Row};

use super::{Catalog, CatalogError};
use crate::hold;

/// Channel of the notifications: `<tenant id> <generation>`.
const CHANNEL: &str = "tenantry_change";
/// Between two looks at what changed. A revoked credential is refused everywhere within a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For the answer to that. Above it, the connection counts as lost.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(5);
/// Before connecting again.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// Transactions may commit this much later than the time they wrote down.
const OVERLAP: Duration = Duration::from_secs(90);
/// Notifications not handled yet, and changes not yet sent. Above it, the connection is read more
/// slowly, and changes are not sent: others find them by looking.
const NOTIFICATIONS_MAX: usize = 1024;
/// Changes in one notifying statement.
const SEND_MAX: usize = 256;
/// Tenants whose last announcement is remembered, so that hearing of it again is not announced again.
/// Above it all are forgotten, which costs proxies one look-up for each that they hear of twice.
const ANNOUNCED_MAX: usize = 65_536;

/// What changed a tenant. Announce it with [`Changes::announce`] after the commit.
pub(crate) async fn mark(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Change, CatalogError> {
    let row = super::query_one(
        client,
        "UPDATE tenant SET generation = nextval('change_generation'), changed_at = now()
         WHERE id = $1 RETURNING id, generation",
        &[&tenant.as_str()],
    )
    .await?;
    Ok(read(&row))
}

/// A change from its two columns.
pub(crate) fn read(row: &Row) -> Change {
    Change {
        tenant: super::parse(row.get(0)),
        generation: generation(row.get(1)),
    }
}

/// What was announced, and when.
#[derive(Default)]
struct Announced(HashMap<TenantId, (u64, Instant)>);

impl Announced {
    /// Whether this is news.
    fn is_new(&mut self, change: &Change, now: Instant) -> bool {
        let known = self.0.get(&change.tenant);
        if known.is_some_and(|(generation, _)| *generation >= change.generation) {
            return false;
        }
        if self.0.len() >= ANNOUNCED_MAX {
            self.0.clear();
        }
        self.0
            .insert(change.tenant.clone(), (change.generation, now));
        true
    }

    /// Forgets what no look would find any more.
    fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, (_, at)| now - *at < 2 * OVERLAP);
    }
}

/// Where changes are announced. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Changes(Arc<Shared>);

struct Shared {
    proxies: broadcast::Sender<Change>,
    announced: Mutex<Announced>,
    /// To be told to other processes.
    others: mpsc::Sender<Change>,
}

/// Changes that other processes have not been told of. One reader.
pub(crate) type Outbox = mpsc::Receiver<Change>;

impl Changes {
    pub(crate) fn new(proxies: broadcast::Sender<Change>) -> (Self, Outbox) {
        let (others, outbox) = mpsc::channel(NOTIFICATIONS_MAX);
        let shared = Shared {
            proxies,
            announced: Mutex::default(),
            others,
        };
        (Self(Arc::new(shared)), outbox)
    }

    /// Tells every proxy of this process, and soon those of others. To be called after the commit.
    /// Waits for nothing.
    pub(crate) fn announce(&self, change: Change) {
        if self.pass_on(change.clone()) {
            let _ = self.0.others.try_send(change);
        }
    }

    /// Tells every proxy of this process, unless it was told before. Nobody listening is fine.
    fn pass_on(&self, change: Change) -> bool {
        let is_new = self.announced().is_new(&change, Instant::now());
        if is_new {
            let _ = self.0.proxies.send(change);
        }
        is_new
    }

    /// Hears what proxies of this process are told from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.0.proxies.subscribe()
    }

    fn announced(&self) -> std::sync::MutexGuard<'_, Announced> {
        self.0
            .announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells other processes, for ever. What cannot be told now is left to their looking.
    pub(crate) async fn tell(catalog: Catalog, mut outbox: Outbox) {
        let mut changes = Vec::with_capacity(SEND_MAX);
        loop {
            changes.clear();
            if outbox.recv_many(&mut changes, SEND_MAX).await == 0 {
                return;
            }
            if let Err(error) = notify(&catalog, &changes).await {
                tracing::debug!(error = %crate::api::error::chain(&error), "other processes were not notified of a change");
            }
        }
    }

    /// Hears of other processes' changes for ever. While the catalog is away it tries again; then
    /// it announces what changed in between.
    pub(crate) async fn follow(self, catalog: Catalog, holds: Arc<hold::Ways>) {
        let mut heard_until = Instant::now();
        loop {
            if let Err(error) = self.listen(&catalog, &holds, &mut heard_until).await {
                tracing::debug!(error = %crate::api::error::chain(&error), "lost the catalog's notifications; connecting again");
            }
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }

    async fn listen(
        &self,
        catalog: &Catalog,
        holds: &hold::Ways,
        heard_until: &mut Instant,
    ) -> Result<(), CatalogError> {
        let address = catalog.address();
        let (client, mut connection) = address.config.connect(address.tls.clone()).await?;
        let (notify, mut notifications) = mpsc::channel(NOTIFICATIONS_MAX);
        let drive = async move {
            while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                let AsyncMessage::Notification(notification) = message? else {
                    continue;
                };
                if notification.channel() == hold::CHANNEL {
                    holds.poke();
                } else {
                    let _ = notify.send(notification.payload().to_owned()).await;
                }
            }
            Ok::<(), tokio_postgres::Error>(())
        };
        let hear = async {
            client
                .batch_execute(&format!("LISTEN {CHANNEL}; LISTEN {}", hold::CHANNEL))
                .await?;
            let look = client.prepare(CHANGED).await?;
            let mut ticks = interval(LOOK_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    Some(payload) = notifications.recv() => {
                        if let Some(change) = parse(&payload) {
                            self.pass_on(change);
                        }
                    }
                    _ = ticks.tick() => {
                        let began = Instant::now();
                        let back = heard_until.elapsed() + OVERLAP;
                        let looked = self.look(&client, &look, back);
                        match tokio::time::timeout(LOOK_WAIT_MAX, looked).await {
                            Ok(answer) => answer?,
                            Err(late) => return Err(CatalogError::Unavailable(Box::new(late))),
                        }
                        *heard_until = began;
                    }
                }
            }
        };
        tokio::select! {
            ended = drive.map(|end| end.map_err(CatalogError::from)) => ended,
            ended = hear => ended,
        }
    }

    /// Announces what changed in the time `back` and was not announced.
    async fn look(
        &self,
        client: &tokio_postgres::Client,
        changed: &tokio_postgres::Statement,
        back: Duration,
    ) -> Result<(), CatalogError> {
        let rows = client.query(changed, &[&back.as_secs_f64()]).await?;
        for row in &rows {
            self.pass_on(read(row));
        }
        self.announced().sweep(Instant::now());
        Ok(())
    }
}

/// A tenant that is only new is known to nobody.
const CHANGED: &str = "SELECT id, generation FROM tenant
    WHERE changed_at > now() - make_interval(secs => $1) AND changed_at > created_at
    ORDER BY generation";

/// A transaction of its own, which nobody waits for, not even for the disk.
async fn notify(catalog: &Catalog, changes: &[Change]) -> Result<(), CatalogError> {
    let payloads: Vec<String> = changes
        .iter()
        .map(|change| format!("{} {}", change.tenant, change.generation))
        .collect();
    let client = catalog.get().await?;
    super::execute(
        &client,
        "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, payload)
         FROM unnest($2::text[]) AS payload",
        &[&CHANNEL, &payloads],
    )
    .await?;
    Ok(())
}

fn generation(value: i64) -> u64 {
    u64::try_from(value).expect("the sequence starts at 1")
}

fn parse(payload: &str) -> Option<Change> {
    let (tenant, generation) = payload.split_once(' ')?;
    Some(Change {
        tenant: tenant.parse().ok()?,
        generation: generation.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(generation: u64) -> Change {
        Change {
            tenant: "abcdefghijkl".parse().unwrap(),
            generation,
        }
    }

    #[test]
    fn a_notification_is_read_and_nonsense_is_not() {
        assert_eq!(parse("abcdefghijkl 42"), Some(change(42)));
        for nonsense in [
            "",
            "abcdefghijkl",
            "x 1",
            "abcdefghijkl -1",
            "abcdefghijkl 1 2",
        ] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }

    #[tokio::test]
    async fn what_was_announced_is_not_announced_again() {
        let now = Instant::now();
        let mut announced = Announced::default();
        assert!(announced.is_new(&change(5), now));
        assert!(!announced.is_new(&change(5), now));
        assert!(
            !announced.is_new(&change(4), now),
            "it was in the newer one"
        );
        assert!(announced.is_new(&change(6), now));
        announced.sweep(now + OVERLAP);
        assert!(!announced.is_new(&change(6), now), "a look still finds it");
        announced.sweep(now + 2 * OVERLAP);
        assert!(announced.is_new(&change(6), now));
    }

    /// A full outbox loses only what others find by looking.
    #[tokio::test]
    async fn telling_others_never_waits() {
        let (proxies, mut heard) = broadcast::channel(2 * NOTIFICATIONS_MAX);
        let (changes, _outbox) = Changes::new(proxies);
        for generation in 1..=NOTIFICATIONS_MAX as u64 + 1 {
            changes.announce(change(generation));
            assert_eq!(heard.try_recv().unwrap(), change(generation));
        }
    }
}
