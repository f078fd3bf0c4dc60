//! SQL over HTTP.
//!
//! Goes through the proxy's door, so that budget, limits and holds apply as to everybody. Owns: the two
//! endpoints, ours ([`http`]) and that of the driver `@neondatabase/serverless` ([`neon`]); who
//! asks ([`caller`], [`issuer`]); what a request asks for ([`work`]); sessions through the door ([`visit`]); the client side of the
//! protocol as far as that needs ([`client`]); values as JSON, both ways ([`parameter`], [`render`]).

pub(crate) mod caller;
mod client;
pub(crate) mod http;
mod issuer;
pub(crate) mod neon;
mod parameter;
mod render;
mod visit;
mod work;

pub use issuer::{Issuer, KeySource};
pub(crate) use issuer::{Issuers, Pace};
pub(crate) use visit::Places;
