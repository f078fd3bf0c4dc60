//! A branch: a tenant that begins as a copy of another one, its parent.
//!
//! Owns: its row, how it is copied ([`copy`]), its routes, and what it differs in from its parent
//! ([`diff`]). Does not own: the steps around the copy (`placement`), which are those of every tenant, or
//! its life afterwards (`tenant`): a branch is a database like any other.

pub(crate) mod copy;
mod create;
pub(crate) mod diff;
pub(crate) mod http;
mod reset;
pub(crate) mod store;
