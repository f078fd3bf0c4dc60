//! The handle to a node: what it is called, how it is reached, and a few connections to it.
//!
//! Owns: the bounded set of maintenance connections, all as the platform's role. Does not own: what
//! is said over them.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use model::route::NodeTarget;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    NodeError, NodeKey,
    managed::{history::History, moment::Moments, settings::Sizes},
    programs::Programs,
};

/// Maintenance connections at once. Four: creating databases is bound by the disk, more would only
/// take from the reserved share that catalog and operator also live on.
pub const MAINTENANCE_MAX: usize = 4;
/// How long a step waits for one of them. Longer than nearly every step takes.
const LEASE_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long connecting may take.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a statement may take on the server, in milliseconds; copying has its own limit.
pub(crate) const STATEMENT_MAX_MS: u32 = 60_000;
/// How long a statement may wait for a lock that a tenant may hold, in milliseconds.
const LOCK_WAIT_MAX_MS: u32 = 5_000;

/// `server_version_num`, for example 150018 or 180006.
#[derive(Clone, Copy, Debug, Eq, PartialEq, PartialOrd, Ord)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// 15 to 18.
    pub fn major(self) -> u32 {
        self.0 / 10_000
    }
}

/// How the control plane connects to the catalog on this node.
#[derive(Clone)]
pub struct CatalogConfig {
    /// Address, user, password and database.
    pub config: Config,
    /// TLS as the node's DSN says. Without effect on a unix socket.
    pub tls: MakeRustlsConnect,
}

impl fmt::Debug for CatalogConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogConfig").finish_non_exhaustive()
    }
}

/// A PostgreSQL server that holds tenants. Cheap to clone; all clones share the connections.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
}

/// What makes a node.
pub(crate) struct NodeParts {
    pub(crate) target: NodeTarget,
    pub(crate) key: NodeKey,
    /// Address, user and password; no database.
    pub(crate) config: Config,
    pub(crate) tls: MakeRustlsConnect,
    /// What should stand in the files of ours that the server reads; `None` when it is not ours.
    pub(crate) managed: Option<ManagedFacts>,
    /// Empty while none of its version are known on this machine.
    pub(crate) programs: OnceLock<Programs>,
}

/// What is only known of a server that we run.
#[derive(Clone, Debug)]
pub(crate) struct ManagedFacts {
    pub(crate) hba_file: std::path::PathBuf,
    pub(crate) hba_text: String,
    pub(crate) conf_file: std::path::PathBuf,
    /// What `conf_file` is written from.
    pub(crate) sizes: Arc<Mutex<Sizes>>,
    /// Directory of `postgres`.
    pub(crate) bin: std::path::PathBuf,
    /// Its process, or 0.
    pub(crate) postmaster: Arc<AtomicU32>,
    /// What it was before; `None`: nobody keeps that.
    pub(crate) history: Option<Arc<History>>,
    pub(crate) moments: Moments,
}

pub(crate) struct Shared {
    pub(crate) parts: NodeParts,
    target: Arc<NodeTarget>,
    version: AtomicU32,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Client>>,
    /// The connection of [`Node::end_lock_hogs`].
    pub(crate) watcher: tokio::sync::Mutex<Option<Client>>,
    /// Databases of others on an attached server, as that connection last saw them.
    pub(crate) others: Mutex<Vec<u32>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.target.name)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Connects to nothing yet.
    pub(crate) fn new(parts: NodeParts) -> Self {
        let target = Arc::new(NodeTarget {
            name: parts.target.name.clone(),
            address: parts.target.address.clone(),
            server_connections_max: parts.target.server_connections_max,
        });
        Self {
            shared: Arc::new(Shared {
                parts,
                target,
                version: AtomicU32::new(0),
                permits: Arc::new(Semaphore::new(MAINTENANCE_MAX)),
                idle: Mutex::new(Vec::new()),
                watcher: tokio::sync::Mutex::new(None),
                others: Mutex::new(Vec::new()),
            }),
        }
    }

    /// For logs and metrics.
    pub fn name(&self) -> &str {
        &self.shared.target.name
    }

    /// How the proxy reaches it. Every call returns the same value.
    pub fn target(&self) -> Arc<NodeTarget> {
        self.shared.target.clone()
    }

    /// As the server said when we last connected.
    pub fn server_version(&self) -> ServerVersion {
        ServerVersion(self.shared.version.load(Ordering::Relaxed))
    }

    /// How to reach the catalog database of this node. Made by [`Self::bootstrap`].
    pub fn catalog_config(&self) -> CatalogConfig {
        let mut config = self.shared.parts.config.clone();
        config
            .dbname(CATALOG_DATABASE)
            .application_name("tenantry catalog");
        CatalogConfig {
            config,
            tls: self.shared.parts.tls.clone(),
        }
    }

    /// Whether the server answers now.
    ///
    /// # Errors
    ///
    /// Those of connecting.
    pub async fn ping(&self) -> Result<(), NodeError> {
        self.run("ping", "SELECT 1").await
    }

    /// A connection to `postgres`, first come first served.
    pub(crate) async fn lease(&self, step: &'static str) -> Result<Lease, NodeError> {
        let permit = self.permit(step).await?;
        let idle = loop {
            match self.idle().pop() {
                Some(client) if client.is_closed() => {}
                other => break other,
            }
        };
        let client = match idle {
            Some(client) => client,
            None => self.connect(step, MAINTENANCE_DATABASE).await?,
        };
        Ok(Lease {
            client,
            node: self.clone(),
            _permit: permit,
        })
    }

    /// A connection to another database, out of the same number. Closed when dropped.
    pub(crate) async fn visit(
        &self,
        step: &'static str,
        database: &str,
    ) -> Result<Visit, NodeError> {
        let permit = self.permit(step).await?;
        Ok(Visit {
            client: self.connect(step, database).await?,
            _permit: permit,
        })
    }

    /// Sends `sql`, one transaction unless it says otherwise, to `postgres`.
    pub(crate) async fn run(&self, step: &'static str, sql: &str) -> Result<(), NodeError> {
        let lease = self.lease(step).await?;
        let result = lease.batch_execute(sql).await;
        lease.give_back();
        result.map_err(|error| self.error(step, error))
    }

    pub(crate) fn error(&self, step: &'static str, error: tokio_postgres::Error) -> NodeError {
        NodeError::from_server(self.name(), step, error)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.shared
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn permit(&self, step: &'static str) -> Result<OwnedSemaphorePermit, NodeError> {
        let acquire = self.shared.permits.clone().acquire_owned();
        match tokio::time::timeout(LEASE_WAIT_MAX, acquire).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(NodeError::Busy {
                step,
                what: "no maintenance connection came free",
                waited: LEASE_WAIT_MAX,
            }),
        }
    }

    pub(crate) async fn connect(
        &self,
        step: &'static str,
        database: &str,
    ) -> Result<Client, NodeError> {
        let mut config = self.shared.parts.config.clone();
        // Nothing a tenant made is found without being named, and no statement is logged with its
        // values, whatever the server's own settings are.
        config
            .dbname(database)
            .application_name("tenantry")
            .connect_timeout(CONNECT_MAX)
            .options(format!(
                "-c search_path=pg_catalog -c statement_timeout={STATEMENT_MAX_MS} \
                 -c lock_timeout={LOCK_WAIT_MAX_MS} -c log_min_error_statement=panic \
                 -c log_statement=none -c log_min_duration_statement=-1 -c jit=off"
            ));
        let connect = async {
            let (client, connection) = config.connect(self.shared.parts.tls.clone()).await?;
            // Ends with the client, or with the server: its error reaches the client's queries.
            tokio::spawn(connection);
            let row = client
                .query_one("SELECT current_setting('server_version_num')::int4", &[])
                .await?;
            Ok((client, row.get::<_, i32>(0)))
        };
        match tokio::time::timeout(CONNECT_MAX, connect).await {
            Ok(Ok((client, version))) => {
                self.shared
                    .version
                    .store(version.unsigned_abs(), Ordering::Relaxed);
                Ok(client)
            }
            Ok(Err(error)) => Err(self.error(step, error)),
            Err(elapsed) => Err(NodeError::Unreachable {
                node: self.name().to_owned(),
                step,
                source: Box::new(elapsed),
            }),
        }
    }
}

/// Where maintenance statements are sent.
pub(crate) const MAINTENANCE_DATABASE: &str = "postgres";
/// Database of the control plane's catalog.
pub const CATALOG_DATABASE: &str = "tenantry";
/// What every tenant's database begins as.
pub const TEMPLATE_DATABASE: &str = "tenantry_template";

/// A maintenance connection. Dropped without [`Self::give_back`] (an early return, a cancelled
/// caller), it is closed, because something may still run on it.
pub(crate) struct Lease {
    client: Client,
    node: Node,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// For the next step. Nothing may be under way on it.
    pub(crate) fn give_back(self) {
        if !self.client.is_closed() {
            self.node.idle().push(self.client);
        }
    }
}

impl Deref for Lease {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A connection for one purpose.
pub(crate) struct Visit {
    client: Client,
    _permit: OwnedSemaphorePermit,
}

impl Deref for Visit {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}
