//! The handle to a node: what it is called, how it is reached, and a few connections to it.

use std::{sync::Arc, time::Duration};

use model::route::NodeTarget;

use crate::NodeKey;

/// Why something could not be done on a node, split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The server cannot be reached, is starting, or went away in the middle. Repeat the step
    /// later: every step may be repeated.
    #[error("{step}: the server of node {node} cannot be reached")]
    Unreachable {
        /// Which node.
        node: String,
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// All maintenance connections stayed busy. Repeat the step later.
    #[error("{step}: every maintenance connection stayed busy for {waited:?}")]
    Busy {
        /// What was being done.
        step: &'static str,
        /// How long it waited.
        waited: Duration,
    },
    /// The server refused a statement. Repeating helps only when something was changed in between
    /// (a full disk, a source database in use).
    #[error("{step}: the server refused ({code})")]
    Refused {
        /// What was being done.
        step: &'static str,
        /// SQLSTATE.
        code: String,
        /// The server's words.
        #[source]
        source: Box<tokio_postgres::Error>,
    },
    /// What is there contradicts what we know; a human must look. Nothing was changed.
    #[error("{step}: {what}")]
    Conflict {
        /// What was being done.
        step: &'static str,
        /// What was found.
        what: String,
    },
}

impl NodeError {
    /// Whether the same step may work later with nothing changed by anybody.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. })
    }
}

/// `server_version_num`, for example 150018 or 180006.
#[derive(Clone, Copy, Debug, Eq, PartialEq, PartialOrd, Ord)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// 15 to 18.
    pub fn major(self) -> u32 {
        self.0 / 10_000
    }
}

/// A PostgreSQL server that holds tenants. Cheap to clone; all clones share the connections.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) target: Arc<NodeTarget>,
    pub(crate) key: NodeKey,
}

impl Node {
    /// For logs and metrics.
    pub fn name(&self) -> &str {
        &self.shared.target.name
    }

    /// How the proxy reaches it. Every call returns the same value.
    pub fn target(&self) -> Arc<NodeTarget> {
        self.shared.target.clone()
    }

    /// As the server said when it was last asked.
    pub fn server_version(&self) -> ServerVersion {
        todo!()
    }

    /// How to reach the catalog database `tenantry` of this node. Made by [`Self::bootstrap`].
    pub fn catalog_config(&self) -> CatalogConfig {
        todo!()
    }
}

/// How the control plane connects to the catalog on this node.
#[derive(Clone)]
pub struct CatalogConfig {
    /// Address, user, password and database.
    pub config: tokio_postgres::Config,
    /// TLS as the node's DSN says; not used on a unix socket.
    pub tls: tokio_postgres_rustls::MakeRustlsConnect,
}
