//! A PostgreSQL server that we run ourselves, as our child.

use std::{path::PathBuf, time::Duration};

use tokio::sync::watch;

use crate::{Node, NodeError, find::FindError};

/// How to run the managed node.
#[derive(Clone, Debug)]
pub struct ManagedConfig {
    /// Directory of the installation. Made when missing.
    pub data_dir: PathBuf,
    /// Directory of PostgreSQL's programs; found when `None`.
    pub bin: Option<PathBuf>,
    /// User that PostgreSQL runs as when we are root; `postgres` when `None`.
    pub user: Option<String>,
    /// Server connections that all tenants may hold together.
    pub budget: u32,
    /// Server connections kept for the platform: maintenance, catalog, operator.
    pub reserved: u32,
    /// Memory to plan with, in bytes; the machine's or container's when `None`.
    pub memory_bytes: Option<u64>,
    /// Where the cluster goes when PostgreSQL's user cannot reach `data_dir`.
    pub fallback_root: PathBuf,
}

impl ManagedConfig {
    /// Defaults for everything but the place.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            bin: None,
            user: None,
            budget: 100,
            reserved: 24,
            memory_bytes: None,
            fallback_root: "/var/lib/tenantry".into(),
        }
    }
}

/// Why the managed node does not run.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    /// There is no PostgreSQL.
    #[error(transparent)]
    NotFound(#[from] FindError),
    /// Another process uses the data directory.
    #[error("{} is in use by process {pid}", data_dir.display())]
    InUse {
        /// Which.
        data_dir: PathBuf,
        /// Who; 0 when it did not say.
        pid: u32,
    },
    /// The data was made by another major version.
    #[error("the data in {} is PostgreSQL {found}'s, but {} is PostgreSQL {have}", data.display(), bin.display())]
    WrongMajor {
        /// Where the data is.
        data: PathBuf,
        /// Whose it is.
        found: String,
        /// What was found.
        bin: PathBuf,
        /// Its major.
        have: u32,
    },
    /// The operator has to change something; says what.
    #[error("{0}")]
    Setup(String),
    /// The file system refused.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// `initdb` or `postgres` failed; its last words.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// The end of what it wrote.
        output: String,
    },
    /// It runs but does not answer.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// What the server is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServerState {
    /// It was started and does not answer yet (recovery may take long).
    Starting,
    /// It answers.
    Up,
    /// It died and is started again after a pause.
    Restarting {
        /// How often in a row.
        attempt: u32,
    },
    /// It was stopped by us.
    Stopped,
}

/// The running server. Dropping it without [`Self::stop`] leaves PostgreSQL running; the next
/// start ends it.
#[derive(Debug)]
pub struct Managed {
    node: Node,
    state: watch::Receiver<ServerState>,
}

/// How to stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StopLimit {
    /// After this long a fast shutdown becomes an immediate one: the next start recovers.
    pub fast: Duration,
}

impl Managed {
    /// The node.
    pub fn node(&self) -> Node {
        self.node.clone()
    }

    /// What it is doing now, and every change.
    pub fn state(&self) -> watch::Receiver<ServerState> {
        self.state.clone()
    }

    /// Id of the postmaster's process, while there is one.
    pub fn postmaster(&self) -> Option<u32> {
        todo!()
    }

    /// Fits the pace of background work to the number of databases; reloads when it changes.
    pub async fn pace(&self, _databases: u32) -> Result<(), ManagedError> {
        todo!()
    }

    /// Stops the server: fast, and immediately after the limit.
    pub async fn stop(self, _limit: StopLimit) {
        todo!()
    }
}

/// Starts the server, making the cluster when there is none. Returns when it answers and
/// [`Node::bootstrap`] is done.
pub async fn start(_config: ManagedConfig) -> Result<Managed, ManagedError> {
    todo!()
}
