//! The deep checker: compares what is on a server with what should be there. Changes nothing.

use model::Pid;

use crate::{Node, NodeError};

/// What should be on the server for one physical id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expected {
    /// Which.
    pub pid: Pid,
    /// How.
    pub state: ExpectedState,
}

/// How a tenant should be found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExpectedState {
    /// Database open, all logins there.
    Open,
    /// Database there and closed.
    Closed,
    /// A step is under way: whatever is there is not reported as missing or orphaned.
    Changing,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// Name of the database, role or file.
    pub subject: String,
    /// What was found, for the operator. Never holds data of a tenant.
    pub detail: String,
}

/// Kinds of findings.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// A database of ours that nobody expects. Never removed by itself.
    OrphanDatabase,
}

impl Node {
    /// Compares the server with `expected`, which must name every tenant of this node. Connects to
    /// each database in turn.
    pub async fn check(&self, _expected: &[Expected]) -> Result<Vec<Finding>, NodeError> {
        todo!()
    }

    /// Like [`Self::check`], for one tenant: after a create, clone, deployment or restore.
    pub async fn check_tenant(&self, _expected: &Expected) -> Result<Vec<Finding>, NodeError> {
        todo!()
    }

    /// Sets passwords, attributes, memberships and settings of the logins of `pid` back to ours.
    /// Returns what was not as it should be.
    pub async fn repair_logins(&self, _pid: &Pid) -> Result<Vec<Finding>, NodeError> {
        todo!()
    }
}
