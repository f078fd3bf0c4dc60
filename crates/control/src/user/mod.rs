//! Users of a database: each a login of its own, with one of the three roles, passwords of its own and, where
//! somebody said so, a limit of clients.
//!
//! Owns: their rows and requests, and that their logins on the server are what the rows say. Does not own:
//! what a login is there (`node::user`), who may come in as one ([`crate::routes`]), or the limit, which
//! the proxy keeps.

pub(crate) mod http;
pub(crate) mod job;
pub(crate) mod store;
