//! A project: owner of tenants. Anonymous until it is claimed.
//!
//! There is always exactly one that belongs to the operator.

pub(crate) mod adopt;
pub(crate) mod claim;
pub(crate) mod http;
pub(crate) mod pace;
pub(crate) mod store;
