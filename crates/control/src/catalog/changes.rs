//! Telling proxies which tenants changed, also when another process changed them.
//!
//! A change is announced twice: at once inside this process, and by NOTIFY inside the transaction,
//! for all others. Hearing of it twice is harmless.

use std::{future::poll_fn, time::Duration};

use futures_util::FutureExt;
use model::{TenantId, route::Change};
use tokio::{
    sync::{broadcast, mpsc},
    time::Instant,
};
use tokio_postgres::{AsyncMessage, GenericClient};

use super::{Catalog, CatalogError};

/// Channel of the notifications: `<tenant id> <generation>`.
const CHANNEL: &str = "tenantry_change";
/// Between two looks at whether the listening connection still lives.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// For the answer to that, and to connect.
const ALIVE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Before connecting again.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// Transactions may commit this much later than the time they wrote down.
const OVERLAP: Duration = Duration::from_secs(90);
/// Notifications not handled yet. Above it, the connection is read more slowly.
const NOTIFICATIONS_MAX: usize = 1024;

/// Gives the tenant a new generation and tells the other processes when the transaction commits.
/// Tell this process with [`Changes::announce`] after the commit.
pub(crate) async fn mark(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Change, CatalogError> {
    let row = client
        .query_one(
            "WITH changed AS (
                 UPDATE tenant SET generation = nextval('change_generation'), changed_at = now()
                 WHERE id = $1 RETURNING generation)
             SELECT generation, pg_notify($2, $1 || ' ' || generation) FROM changed",
            &[&tenant.as_str(), &CHANNEL],
        )
        .await?;
    Ok(Change {
        tenant: tenant.clone(),
        generation: generation(row.get(0)),
    })
}

/// Where changes are announced. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Changes(broadcast::Sender<Change>);

impl Changes {
    pub(crate) fn new(sender: broadcast::Sender<Change>) -> Self {
        Self(sender)
    }

    /// Tells every proxy of this process. Nobody listening is fine.
    pub(crate) fn announce(&self, change: Change) {
        let _ = self.0.send(change);
    }

    /// Hears of other processes' changes for ever. While the catalog is away it tries again; then
    /// it announces what changed in between.
    pub(crate) async fn follow(self, catalog: Catalog) {
        let mut heard_until: Option<Instant> = None;
        loop {
            if let Err(error) = self.listen(&catalog, &mut heard_until).await {
                tracing::debug!(error = %error, "lost the catalog's notifications; connecting again");
            }
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }

    async fn listen(
        &self,
        catalog: &Catalog,
        heard_until: &mut Option<Instant>,
    ) -> Result<(), CatalogError> {
        let address = catalog.address();
        let (client, mut connection) = address.config.connect(address.tls.clone()).await?;
        let (notify, mut notifications) = mpsc::channel(NOTIFICATIONS_MAX);
        let drive = async move {
            while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message? {
                    let _ = notify.send(notification.payload().to_owned()).await;
                }
            }
            Ok::<(), tokio_postgres::Error>(())
        };
        let hear = async {
            client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
            if let Some(since) = *heard_until {
                self.catch_up(&client, since.elapsed() + OVERLAP).await?;
            }
            loop {
                *heard_until = Some(Instant::now());
                tokio::select! {
                    Some(payload) = notifications.recv() => {
                        if let Some(change) = parse(&payload) {
                            self.announce(change);
                        }
                    }
                    () = tokio::time::sleep(ALIVE_EVERY) => {
                        let alive = client.batch_execute("SELECT 1");
                        match tokio::time::timeout(ALIVE_WAIT_MAX, alive).await {
                            Ok(answer) => answer?,
                            Err(late) => return Err(CatalogError::Unavailable(Box::new(late))),
                        }
                    }
                }
            }
        };
        tokio::select! {
            ended = drive.map(|end| end.map_err(CatalogError::from)) => ended,
            ended = hear => ended,
        }
    }

    async fn catch_up(
        &self,
        client: &tokio_postgres::Client,
        back: Duration,
    ) -> Result<(), CatalogError> {
        let seconds = back.as_secs_f64();
        let rows = client
            .query(
                "SELECT id, generation FROM tenant
                 WHERE changed_at > now() - make_interval(secs => $1) ORDER BY generation",
                &[&seconds],
            )
            .await?;
        for row in &rows {
            if let Ok(tenant) = row.get::<_, &str>(0).parse() {
                self.announce(Change {
                    tenant,
                    generation: generation(row.get(1)),
                });
            }
        }
        Ok(())
    }
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

    #[test]
    fn a_notification_is_read_and_nonsense_is_not() {
        let change = parse("abcdefghijkl 42").unwrap();
        assert_eq!(
            (change.tenant.as_str(), change.generation),
            ("abcdefghijkl", 42)
        );
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
}
