//! A hold as the control plane has its proxy carry it out: for a short time nobody of a tenant has a
//! server connection.
//!
//! Owns: the words between the two. Does not own: who may hold, or that all processes do (the control
//! plane), or how sessions wait (the proxy).

use std::{fmt, time::Duration};

use tokio::sync::{mpsc, oneshot};

use crate::{HoldId, TenantId};

/// Where a proxy takes orders.
pub type Holds = mpsc::Sender<Order>;

/// Orders that may wait to be taken.
pub const ORDERS_MAX: usize = 64;

/// What a proxy is to do. Each may be given twice.
#[derive(Debug)]
pub struct Order {
    /// Whose clients wait.
    pub tenant: TenantId,
    /// Which hold. One that is unknown begins with [`Step::Drain`] or [`Step::Close`], and takes the place of
    /// another one.
    pub hold: HoldId,
    /// What is to be done.
    pub step: Step,
    /// The proxy lets go by itself so much later, counted from the order that began it.
    pub valid_for: Duration,
    /// When it is done, or cannot be. Nobody answers: the proxy is stopping.
    pub reply: oneshot::Sender<Result<(), Kept>>,
}

/// The steps of a hold, in this order; [`Step::End`] follows on any.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// New transactions wait. Done when none runs, and sessions keep a server connection for LISTEN only;
    /// [`Kept`] when that is not so within this time.
    Drain(Duration),
    /// Those sessions hear what was notified until now; then all server connections are closed.
    Close,
    /// Those sessions have a server connection again, and listen.
    Return,
    /// Transactions go on. Sessions that were parted and did not return are ended: elsewhere somebody
    /// may have notified what they listened to.
    End,
}

/// What kept server connections from being closed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept {
    /// In words, without a name.
    pub what: String,
    /// It may be over a moment later. False: a session keeps what no other server connection can be
    /// given, for as long as its client likes, or a transaction whose client has long said nothing.
    pub may_pass: bool,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
