//! The test kit: whole stacks of the real binary on free ports, each in a directory of its own.
//!
//! Owns: starting `tenantry serve`, waiting until it is ready, ending it by process id in every
//! way a machine can, and leaving nothing behind. Does not own: any knowledge of what is inside;
//! a stack is used through its ports, its command line and its log.

pub mod api;
pub mod door;
pub mod postgres;
pub mod program;
pub mod server;
pub mod stack;

pub use ::scratch::Scratch;
pub use stack::{Stack, StackConfig};
