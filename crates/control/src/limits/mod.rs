//! Limits of a tenant: what its operator and its owner said of them.
//!
//! Owns: their rows and routes. Does not own: what follows from them ([`model::limits`]), and keeping
//! them (`proxy`, which hears of a change like of any other of the tenant).

pub(crate) mod http;
pub(crate) mod store;
