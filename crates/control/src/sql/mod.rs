//! SQL over HTTP.
//!
//! Goes through the proxy's door with a one-use credential, so that budget, limits and holds apply
//! as to everybody. Owns: the client side of the protocol as far as that needs ([`client`]), and
//! values as JSON ([`value`]).

mod client;
pub(crate) mod http;
mod value;
