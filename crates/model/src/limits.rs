//! What one tenant may use at once.

/// Limits of one tenant. More come with the issue that enforces them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Server connections it may hold at once, in both roles and states together. 12: enough for
    /// an application's pool to be busy, a small part of any node's budget.
    pub server_connections_max: u32,
    /// Clients it may have at once. 500: half of what one process accepts.
    pub client_connections_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            server_connections_max: 12,
            client_connections_max: 500,
        }
    }
}
