//! The PostgreSQL protocol, both sides, without I/O and without a clock.
//!
//! Owns: what bytes mean ([`forwarded`], [`startup`], [`message`]), who may come in ([`scram`], [`login`]). Does
//! not own: any socket, timer, route or pool; whoever does feeds bytes in and sends bytes out.
//! Every parser is total: arbitrary bytes give a value or an error, never a panic, and a length
//! is checked before anything of that length is kept.

pub mod forwarded;
pub mod frame;
pub mod login;
pub mod message;
pub mod queue;
pub mod scram;
pub mod startup;
