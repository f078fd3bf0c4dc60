//! The queue of NOTIFY, which all tenants of a server share.
//!
//! Owns: noticing that somebody holds it up, and ending them. A session that listens and sits in a
//! transaction keeps every later notification of all databases in the queue; when it is full, NOTIFY
//! fails for everybody. Does not own: when this runs (`control`).

use crate::{Node, NodeError, care::simple, handle::MAINTENANCE_DATABASE};

const STEP: &str = "watch the queue of NOTIFY";

/// The sessions that may hold it: PostgreSQL does not tell who listens, but whoever holds up the
/// queue is in a transaction, and was so for a while. Those that do nothing in it come first, then the oldest. Of tenants only:
/// an attached server has sessions of others.
const HOLDER: &str = "
SELECT session.pid FROM pg_stat_get_activity(NULL) AS session
JOIN pg_roles ON pg_roles.oid = session.usesysid AND pg_roles.rolname ~ '^x_[a-z][a-z0-9]{11}_'
WHERE session.backend_type = 'client backend' AND session.xact_start < clock_timestamp() - interval '1 second'
ORDER BY session.state NOT LIKE 'idle in transaction%', session.xact_start LIMIT 1";

impl Node {
    /// Ends one session that may hold up the queue of NOTIFY, if more than `share_max` (0 to 1) of
    /// it is in use. Returns its process. Repeat while it returns one: each look also moves the
    /// queue on, which nobody else does once it is full.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn end_queue_hog(&self, share_max: f64) -> Result<Option<u32>, NodeError> {
        let mut watcher = self.shared.watcher.lock().await;
        // Taken out while in use: dropped halfway, it is not used again.
        let client = match watcher.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.connect(STEP, MAINTENANCE_DATABASE).await?,
        };
        let first = async |sql: &str| {
            let rows = simple(&client, sql).await;
            let rows = rows.map_err(|error| self.error(STEP, error))?;
            let text = rows.first().and_then(|row| row.get(0).map(str::to_owned));
            Ok::<_, NodeError>(text)
        };
        let used = async || {
            let used = first("SELECT pg_notification_queue_usage()").await?;
            Ok::<f64, NodeError>(used.and_then(|text| text.parse().ok()).unwrap_or(0.0))
        };
        let mut ended = None;
        let is_held = used().await? > share_max && {
            // Listeners that do nothing read on when somebody commits a notification, and only then;
            // what a failed transaction left in the queue they hold up meanwhile. In a full queue
            // there is no room for this one either.
            let _ = first("NOTIFY tenantry_read_on").await;
            used().await? > share_max
        };
        if is_held && let Some(process) = first(HOLDER).await?.and_then(|text| text.parse().ok()) {
            first(&format!("SELECT pg_terminate_backend({process})")).await?;
            ended = Some(process);
        }
        *watcher = Some(client);
        Ok(ended)
    }
}
