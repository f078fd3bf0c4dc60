//! A tenant: one isolated database, as its owner sees it.
//!
//! Owns: its row and the routes that change it. Does not own: its data ([`crate::placement`]) and
//! its passwords ([`crate::credential`]).

pub(crate) mod change;
pub(crate) mod create;
pub(crate) mod describe;
pub(crate) mod http;
pub(crate) mod lifetime;
pub(crate) mod store;
pub(crate) mod sweep;
