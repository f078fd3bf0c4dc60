//! Whether a process of ours can reach this server, as the server sees it.
//!
//! Owns: one session for each process, which ends with the process whatever becomes of it, and looking for
//! those of others. A process that the catalog has not heard of for long may be gone, or only be cut
//! off from the catalog; in the second case its session here is still there, and so may be its
//! connections to tenants. Does not own: what follows from that (`control`).

use model::ProcessId;
use tokio_postgres::Client;

use crate::{Node, NodeError, handle::MAINTENANCE_DATABASE};

const STEP: &str = "show that this process is there";

/// The session of a process. Others see it for as long as this is kept.
#[derive(Debug)]
pub struct Presence {
    client: Client,
}

impl Presence {
    /// Whether it is there now, by asking the server.
    pub async fn is_there(&self) -> bool {
        self.client.simple_query("").await.is_ok()
    }
}

/// What the session is called. Tenants may see it; it says nothing. None of them has our role.
fn name(process: &ProcessId) -> String {
    format!("tenantry {process}")
}

impl Node {
    /// Opens the session of a process, beside the maintenance connections.
    ///
    /// # Errors
    ///
    /// Those of connecting.
    pub async fn be_present(&self, process: &ProcessId) -> Result<Presence, NodeError> {
        let client = self.connect(STEP, MAINTENANCE_DATABASE).await?;
        const NAME: &str = "SELECT set_config('application_name', $1, false), \
            set_config('idle_session_timeout', '0', false)";
        let named = client.query_one(NAME, &[&name(process)]).await;
        named.map_err(|error| self.error(STEP, error))?;
        Ok(Presence { client })
    }

    /// Which of these processes have a session here.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn present(&self, processes: &[ProcessId]) -> Result<Vec<ProcessId>, NodeError> {
        const SQL: &str = "SELECT application_name FROM pg_stat_activity
            WHERE usename = current_user AND application_name = ANY ($1)";
        let names: Vec<String> = processes.iter().map(name).collect();
        let lease = self.lease(STEP).await?;
        let rows = lease.query(SQL, &[&names]).await;
        lease.give_back();
        let rows = rows.map_err(|error| self.error(STEP, error))?;
        let is_present = |process: &&ProcessId| {
            let name = name(process);
            rows.iter().any(|row| row.get::<_, &str>(0) == name)
        };
        Ok(processes.iter().filter(is_present).cloned().collect())
    }
}
