//! What is done to a PostgreSQL server so that it can hold tenants.
//!
//! Owns: finding and running PostgreSQL ([`managed`]), accepting one that somebody else runs
//! ([`attached`]), and every statement that the platform sends as a superuser ([`Node`]): groups
//! and template, databases and logins, and the checker that compares them with what should be.
//! Does not own: which tenants there should be (`control`), or the connections of clients (`proxy`).

pub mod attached;
mod bootstrap;
mod branch;
mod care;
pub mod check;
pub mod doctor;
mod dump;
mod error;
pub mod export;
mod fill;
pub mod find;
mod handle;
mod inventory;
mod key;
pub mod managed;
mod notifications;
mod objects;
mod presence;
mod programs;
mod steps;
mod stream;
mod template;
mod tenant;
mod tls;
mod user;

pub use care::{Care, Cared, LockHog};
pub use dump::{DUMPED_TABLES_MAX, Dump, LargeSum, Last, Made, Manifest, Position, TableSum};
pub use error::NodeError;
pub use fill::Fill;
pub use handle::{
    CATALOG_DATABASE, CatalogConfig, MAINTENANCE_MAX, Node, ServerVersion, TEMPLATE_DATABASE,
};
pub use inventory::{Figures, Physical};
pub use key::NodeKey;
pub use objects::{COUNTED_TABLES_MAX, OBJECTS_MAX, Object, RowCount};
pub use presence::Presence;
pub use stream::Content;
pub use template::TEMPLATE_AGE_MAX;
pub use tenant::{ClonePath, CloneReport, DatabaseState, Template};
