//! A PostgreSQL server that somebody else runs.

use model::Secret;

use crate::{Node, NodeError, NodeKey};

/// How to use an existing server as a node.
#[derive(Clone, Debug)]
pub struct AttachConfig {
    /// For logs and metrics.
    pub name: String,
    /// URL or key-value form, with libpq's `sslmode` and `sslrootcert`.
    pub dsn: Secret,
    /// From which the passwords of its logins are derived.
    pub key: NodeKey,
    /// Server connections that all tenants may hold together.
    pub budget: u32,
}

/// Why a server cannot be a node.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The DSN cannot be read; the operator corrects it.
    #[error("the DSN of the node: {0}")]
    Dsn(String),
    /// The server is no fit; says what is missing.
    #[error("the server cannot be used as a node: {}", .0.join("; "))]
    Unfit(Vec<String>),
    /// It cannot be asked.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Connects and checks version and rights. Changes nothing.
pub async fn attach(_config: AttachConfig) -> Result<Node, AttachError> {
    todo!()
}
