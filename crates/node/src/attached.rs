//! A PostgreSQL server that somebody else runs.
//!
//! Owns: reading its DSN, and saying what is missing before anything is changed. The second wall
//! (`pg_hba.conf`) is the operator's on such a server; the first one, CONNECT, is ours everywhere.

mod doors;
mod dsn;
mod proof;
mod strangers;

use std::{path::PathBuf, sync::OnceLock};

pub(crate) use doors::advice;
pub use dsn::Dsn;
use model::{Secret, route::NodeTarget};
use tokio_postgres::Client;

use crate::{
    CatalogConfig, Node, NodeError, NodeKey, ServerVersion,
    find::MAJORS,
    handle::{CONNECT_MAX, MAINTENANCE_DATABASE, NodeParts},
    programs::Programs,
    tls,
};

/// How to use an existing server as a node.
#[derive(Clone, Debug)]
pub struct AttachConfig {
    /// For logs and metrics.
    pub name: String,
    /// URL or key-value form, with libpq's `sslmode` and `sslrootcert`. One host.
    pub dsn: Secret,
    /// From which the passwords of its logins are derived.
    pub key: NodeKey,
    /// Server connections that all tenants may hold together.
    pub budget: u32,
    /// Directory of `pg_dump` and `pg_restore` of its version; looked for when `None`. Without them nothing is
    /// backed up, and no database in use branched.
    pub programs: Option<PathBuf>,
}

/// Why a server cannot be a node.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The DSN cannot be used; the operator corrects it. Its text is not repeated: it has a
    /// password.
    #[error("the DSN of the node: {0}")]
    Dsn(String),
    /// The server is no fit; says everything that is missing.
    #[error("the server cannot be used as a node: {}", .0.join("; "))]
    Unfit(Vec<String>),
    /// It cannot be asked.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Connections that somebody else's server needs beside the budget and the slots it keeps free for
/// others: ours (24), and some of its operator's.
const BESIDE_BUDGET: i32 = 32;

/// Connects and checks version, rights and settings; all that is missing is told at once. Changes
/// nothing: [`Node::bootstrap`] does, and says what.
///
/// # Errors
///
/// [`AttachError`].
pub async fn attach(config: AttachConfig) -> Result<Node, AttachError> {
    let dsn = dsn::parse(config.dsn.reveal()).map_err(AttachError::Dsn)?;
    let node = Node::new(NodeParts {
        tls: tls::connector(&dsn.tls).map_err(AttachError::Dsn)?,
        target: NodeTarget {
            name: config.name,
            address: dsn.address,
            server_connections_max: config.budget,
        },
        key: config.key,
        config: dsn.config,
        managed: None,
        programs: OnceLock::new(),
    });
    let missing = missing(&node, &plain(&node).await?, config.budget).await?;
    if !missing.is_empty() {
        return Err(AttachError::Unfit(missing));
    }
    node.ping().await?;
    let major = node.server_version().major();
    if let Some(programs) = Programs::of_major(major, config.programs.as_deref()).await {
        let _ = node.shared.parts.programs.set(programs);
    }
    Ok(node)
}

/// How to reach a database that is on no node of ours, as its DSN says; for a catalog kept elsewhere.
/// Connects to nothing.
///
/// # Errors
///
/// What is wrong with the DSN, without its text.
pub fn external(dsn: &Secret) -> Result<CatalogConfig, String> {
    let dsn = dsn::parse(dsn.reveal())?;
    let tls = tls::connector(&dsn.tls)?;
    let mut config = dsn.config;
    config.application_name("tenantry catalog");
    Ok(CatalogConfig { config, tls })
}

impl Dsn {
    /// Reads the DSN of a server, in the form of a URL or of keys and values, with libpq's `sslmode` and
    /// `sslrootcert`. Connects to nothing.
    ///
    /// # Errors
    ///
    /// What is wrong with it, without its text.
    pub fn read(dsn: &Secret) -> Result<Self, String> {
        dsn::parse(dsn.reveal())
    }
}

/// A connection without the settings of ours, which are for superusers only.
async fn plain(node: &Node) -> Result<Client, NodeError> {
    const STEP: &str = "log in";
    let failed = |error| NodeError::from_server(node.name(), STEP, error);
    let mut config = node.shared.parts.config.clone();
    config
        .dbname(MAINTENANCE_DATABASE)
        .connect_timeout(CONNECT_MAX);
    let connect = config.connect(node.shared.parts.tls.clone());
    let (client, connection) = match tokio::time::timeout(CONNECT_MAX, connect).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(elapsed) => Err(NodeError::Unreachable {
            node: node.name().to_owned(),
            step: STEP,
            source: Box::new(elapsed),
        })?,
    };
    tokio::spawn(connection);
    // Nothing that somebody made there is found without being named.
    let settle = client.batch_execute("SET search_path = pg_catalog").await;
    settle.map_err(failed)?;
    Ok(client)
}

async fn missing(node: &Node, client: &Client, budget: u32) -> Result<Vec<String>, NodeError> {
    const STEP: &str = "look at the server";
    const QUESTION: &str = "SELECT pg_is_in_recovery(), \
           current_setting('max_connections')::int4, current_setting('max_prepared_transactions'), \
           current_setting('transaction_read_only'), \
           current_setting('superuser_reserved_connections')::int4 \
             + coalesce(current_setting('reserved_connections', true), '0')::int4, \
           current_user::text, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), \
           current_setting('server_version_num')::int4";
    let mut missing = Vec::new();
    for row in node.rows(client, STEP, QUESTION, &[]).await? {
        let (name, is_superuser): (&str, bool) = (row.get(5), row.get(6));
        if !is_superuser {
            let role =
                model::Ident::new(name).map_or_else(|_| name.to_owned(), |name| name.to_string());
            missing.push(format!(
                "{name} is no superuser (ALTER ROLE {role} SUPERUSER)"
            ));
        }
        let version = ServerVersion(row.get::<_, i32>(7).unsigned_abs());
        if !MAJORS.contains(&version.major()) {
            missing.push(format!(
                "it is PostgreSQL {}; 15 to 18 are supported",
                version.major()
            ));
        }
        if row.get(0) {
            missing.push("it is a standby".to_owned());
        } else if row.get::<_, &str>(3) == "on" {
            missing
                .push("its transactions are read-only (default_transaction_read_only)".to_owned());
        }
        let (have, want) = (
            row.get::<_, i32>(1),
            budget
                .cast_signed()
                .saturating_add(BESIDE_BUDGET)
                .saturating_add(row.get(4)),
        );
        if have < want {
            missing.push(format!(
                "max_connections is {have}, and a budget of {budget} server connections needs {want}: \
                 raise it, or give --server-connections-max {}",
                (have - want).saturating_add_unsigned(budget).max(1)
            ));
        }
        let prepared: &str = row.get(2);
        if prepared != "0" {
            missing.push(format!(
                "max_prepared_transactions is {prepared}: a tenant could hold locks for ever (set it to 0)"
            ));
        }
    }
    missing.extend(node.strangers(client).await?);
    Ok(missing)
}
