//! Logging in: a client to us ([`client`]), us to a PostgreSQL server ([`server`]).
//!
//! Owns: which message may come in which state, and what is answered. A state is a struct; a
//! message consumes it and gives the next, so a login that failed cannot be continued. Does not
//! own: reading and writing sockets, TLS, time limits, or who may come in.

pub mod client;
pub mod server;

/// Longest body of a message from a client that is logging in: PostgreSQL's
/// `PG_MAX_SASL_MESSAGE_LENGTH`.
pub const CLIENT_BODY_BYTES_MAX: u32 = 1024;
/// Longest body of a message from a server that is logging us in. The longest are errors with a
/// context; PostgreSQL's own client takes 30,000.
pub const SERVER_BODY_BYTES_MAX: u32 = 65_536;

#[cfg(test)]
mod tests;
