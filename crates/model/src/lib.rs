//! The nouns of Tenantry and the rules they obey.
//!
//! Owns: names, ids, the life cycle of a tenant, limits, [`route`] and [`hold`], all that the control plane
//! and the proxy share, and [`exposition`], how both write their numbers. Does not own: any socket, file,
//! clock or SQL. Every crate may depend on this one; it depends on none of ours.

pub mod exposition;
pub mod hold;
mod id;
pub mod insight;
pub mod lifecycle;
pub mod limits;
mod name;
mod network;
mod public;
mod role;
pub mod route;
mod secret;
mod sql;

pub use id::{
    AlertId, AlertRuleId, BackupId, CredentialId, DrillId, HoldId, IdError, MessageId, Pid,
    ProcessId, ProjectId, RestoreId, TenantId, UserId,
};
pub use limits::Limits;
pub use name::{NameError, TenantName};
pub use network::{Network, NetworkError, origin};
pub use public::Public;
pub use role::{
    Group, Login, LoginName, LoginNameError, Role, USER_NAME_MAX, UserName, UserNameError,
};
pub use secret::Secret;
pub use sql::{Ident, IdentError, Literal};
