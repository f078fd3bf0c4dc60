//! The steps of a tenant's life on a server. Each may run twice, and a crash may fall before or
//! after each: what is done is found done, what is missing is made.

use std::time::Duration;

use model::{Pid, Role, route::ServerLogin};

use crate::{Node, NodeError};

/// What a new database is copied from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Template {
    /// The sealed, empty one.
    Empty,
    /// Another tenant's database. It must have no session: the caller holds it.
    Copy(Pid),
}

/// Which way a database was copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum ClonePath {
    /// It was there already; nothing was copied.
    Existing,
    /// Every page through the log; no checkpoint.
    WalLog,
    /// Files, between two checkpoints.
    FileCopy,
    /// Files that share their blocks with the source until one of them is written.
    FileClone,
}

/// What [`Node::create_database`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CloneReport {
    /// Which way.
    pub path: ClonePath,
    /// How long the statement took.
    pub took: Duration,
}

/// A tenant's database as the server has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum DatabaseState {
    /// There is none.
    Absent,
    /// It is there and refuses all but the platform (`CONNECTION LIMIT 0`).
    Closed,
    /// It is there and its logins may connect.
    Open,
    /// Dropping it was interrupted: it can only be dropped.
    Broken,
}

/// What a server has of one physical id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Physical {
    /// Which.
    pub pid: Pid,
    /// Its database.
    pub database: DatabaseState,
    /// Its logins, strongest first.
    pub logins: Vec<Role>,
    /// Whether the role that the logins are members of (named like the database) is there.
    pub wall: bool,
}

impl Node {
    /// Groups, revokes, the sealed template and the catalog database. Runs at every start; repairs
    /// what drifted, changes nothing that is right.
    pub async fn bootstrap(&self) -> Result<(), NodeError> {
        todo!()
    }

    /// Makes the logins of `pid`, without a database to connect to.
    pub async fn create_logins(&self, _pid: &Pid) -> Result<(), NodeError> {
        todo!()
    }

    /// Makes the database of `pid`, closed.
    pub async fn create_database(
        &self,
        _pid: &Pid,
        _from: &Template,
    ) -> Result<CloneReport, NodeError> {
        todo!()
    }

    /// Puts up the walls around the database of `pid`, then lets its logins in.
    pub async fn open(&self, _pid: &Pid) -> Result<(), NodeError> {
        todo!()
    }

    /// Refuses new sessions on the database of `pid`, then ends those it has. Returns when none is
    /// left. Also fine when there is no such database.
    pub async fn close(&self, _pid: &Pid) -> Result<(), NodeError> {
        todo!()
    }

    /// Removes the database of `pid` and all its data.
    pub async fn drop_database(&self, _pid: &Pid) -> Result<(), NodeError> {
        todo!()
    }

    /// Removes the logins of `pid`. Its database must be gone.
    pub async fn drop_logins(&self, _pid: &Pid) -> Result<(), NodeError> {
        todo!()
    }

    /// Sets passwords, attributes, memberships and settings of the logins of `pid` back to ours.
    /// Returns what was not as it should be.
    pub async fn repair_logins(&self, _pid: &Pid) -> Result<Vec<crate::check::Finding>, NodeError> {
        todo!()
    }

    /// What is on the server, in the order of physical ids.
    pub async fn inventory(&self) -> Result<Vec<Physical>, NodeError> {
        todo!()
    }

    /// What is on the server of one physical id.
    pub async fn physical(&self, _pid: &Pid) -> Result<Physical, NodeError> {
        todo!()
    }

    /// Size of the database of `pid` on disk, in bytes; `None` when there is none. Reads the size
    /// of every file: on demand only.
    pub async fn database_bytes(&self, _pid: &Pid) -> Result<Option<u64>, NodeError> {
        todo!()
    }

    /// How the proxy logs in to the server in the name of `role`. Pure: asks nobody.
    pub fn server_login(&self, _pid: &Pid, _role: Role) -> ServerLogin {
        todo!()
    }
}
