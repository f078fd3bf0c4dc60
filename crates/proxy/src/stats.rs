//! What is counted.
//!
//! Owns: counters per tenant, kept as plain numbers on its home worker, and the snapshot that is
//! read from outside.

use std::cell::Cell;

use model::TenantId;

/// Counters of one tenant since it was last at rest for long.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) statements: Cell<u64>,
    pub(crate) rows: Cell<u64>,
    pub(crate) errors: Cell<u64>,
    pub(crate) bytes_from_clients: Cell<u64>,
    pub(crate) bytes_to_clients: Cell<u64>,
    pub(crate) logins: Cell<u64>,
}

/// Adds to a counter.
#[inline]
pub(crate) fn add(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get().wrapping_add(n));
}

/// Numbers of one tenant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TenantStats {
    /// Whose.
    pub tenant: TenantId,
    /// Clients logged in now.
    pub clients: u32,
    /// Server connections now, idle ones included.
    pub servers: u32,
    /// Clients that wait for a server connection now.
    pub waiting: usize,
    /// Statements begun: simple queries' results and Executes.
    pub statements: u64,
    /// Rows sent.
    pub rows: u64,
    /// Errors of the server.
    pub errors: u64,
    /// Bytes read from clients after login.
    pub bytes_from_clients: u64,
    /// Bytes of the server sent to clients.
    pub bytes_to_clients: u64,
    /// Sessions begun.
    pub logins: u64,
}

/// Numbers of one node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeStats {
    /// Which.
    pub node: String,
    /// Server connections of all tenants now.
    pub servers: u32,
    /// Its budget of them.
    pub servers_max: u32,
}

/// Numbers of one proxy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// Connections of clients now, also those that are logging in.
    pub clients: usize,
    /// Idle server connections now.
    pub servers_idle: usize,
    /// Answers of servers that nobody had asked for, since the start. Anything but 0 is a mistake
    /// of ours or of the server's.
    pub mismatches: u64,
    /// Sessions that ended by a panic, since the start.
    pub panics: u64,
    /// Steps of logins that had to wait for another turn of their worker, since the start. It rises
    /// while more log in than `login_steps_max` lets through beside queries.
    pub login_steps_delayed: u64,
    /// Nodes that were used.
    pub nodes: Vec<NodeStats>,
    /// Tenants in use or used lately.
    pub tenants: Vec<TenantStats>,
}
