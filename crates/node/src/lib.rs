//! What is done to a PostgreSQL server so that it can hold tenants.
//!
//! Owns: finding and running PostgreSQL ([`managed`]), accepting one that somebody else runs
//! ([`attached`]), and every statement that the platform sends as a superuser ([`Node`]): groups
//! and template, databases and logins, and the checker that compares them with what should be.
//! Does not own: which tenants there should be (`control`), or the connections of clients (`proxy`).

pub mod attached;
pub mod check;
pub mod doctor;
pub mod find;
mod handle;
mod key;
pub mod managed;
mod tenant;

pub use handle::{CatalogConfig, Node, NodeError, ServerVersion};
pub use key::NodeKey;
pub use tenant::{ClonePath, CloneReport, DatabaseState, Physical, Template};
