//! Alerts: what somebody has to look at, told to a webhook.
//!
//! Owns: the rules ([`rule`]), looking at what they speak of ([`look`]) again and again ([`pass`]), when an
//! alert begins and ends ([`step`]), and the messages ([`message`], [`queue`], [`deliver`], [`send`]). Does not
//! own: any figure. All of them are in the catalog already; no database of a tenant is asked.
//!
//! A pass of one process at a time looks at everything, page by page, and writes down what began and what
//! ended; what has to be told stands in the same row until its message is written. So a crash loses nothing and
//! tells nothing twice under another id.

pub(crate) mod deliver;
pub(crate) mod http;
pub(crate) mod listed;
mod look;
mod message;
pub(crate) mod pass;
mod queue;
mod rule;
mod send;
mod step;
mod store;
pub(crate) mod targets;

pub(crate) use queue::{Numbers, numbers, write_metrics};

use std::sync::atomic::AtomicU32;

use tokio::sync::{Mutex, Notify};

/// What passes of one process share.
#[derive(Default)]
pub(crate) struct Alerts {
    /// There may be messages to send.
    wake: Notify,
    /// Held by the pass of this process.
    looking: Mutex<()>,
    /// That it made.
    passes: AtomicU32,
}
