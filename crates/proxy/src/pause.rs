//! A tenant whose new transactions wait, because an operator said so or because it is held.
//!
//! Owns: whether they wait, and for how long at most. Does not own: where a session asks for a server
//! connection (`pool`), who may say so (`console`), or what a hold is (`hold`).

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::{sync::Notify, time::timeout};

use crate::{error::Refusal, pool::Tenant, worker::Worker};

/// Longest wait of a statement for the end of a pause. Two minutes: work on a database that takes
/// longer is announced, and a client that waits for ever holds up its own users. A hold is over before.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Whether the new transactions of a tenant wait.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    by_operator: Cell<bool>,
    gate: Cell<Gate>,
    waiting: Cell<usize>,
    over: Notify,
}

/// One that waits.
struct Waiter<'a>(&'a Cell<usize>);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What a hold lets through.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Gate {
    /// Everybody: there is none.
    #[default]
    Open,
    /// Nobody.
    Closed,
    /// Sessions that had a server connection before it, so that they listen again.
    Returning,
}

impl Pause {
    pub(crate) fn is_on(&self) -> bool {
        self.by_operator.get() || self.is_held()
    }

    /// Whether an operator said so.
    #[inline]
    pub(crate) fn is_by_operator(&self) -> bool {
        self.by_operator.get()
    }

    /// Whether there is a hold: then also those wait that keep a server connection.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.gate.get() != Gate::Open
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.get()
    }

    pub(crate) fn set_gate(&self, gate: Gate) {
        self.gate.set(gate);
        self.over.notify_waiters();
    }

    /// Whether a session need not wait. `returns`: it had a server connection before the hold.
    pub(crate) fn lets_in(&self, returns: bool) -> bool {
        !self.is_on() || (returns && self.gate.get() == Gate::Returning)
    }

    /// Returns when a session need not wait.
    ///
    /// # Errors
    ///
    /// [`Refusal::Paused`].
    pub(crate) async fn over(&self, returns: bool) -> Result<(), Refusal> {
        if self.lets_in(returns) {
            return Ok(());
        }
        self.waiting.set(self.waiting.get() + 1);
        let _waiter = Waiter(&self.waiting);
        let over = async {
            loop {
                // Before looking: what is told in between is not lost.
                let over = self.over.notified();
                if self.lets_in(returns) {
                    return;
                }
                over.await;
            }
        };
        timeout(WAIT_MAX, over).await.map_err(|_| Refusal::Paused)
    }
}

impl Tenant {
    /// From now on new transactions wait, and server connections that serve none are closed. Sessions that keep
    /// theirs give it up, as far as nothing of theirs is on it; others go on with it.
    pub(crate) fn pause(self: &Rc<Self>, worker: &Rc<Worker>) {
        self.pause.by_operator.set(true);
        self.close_all(worker);
        for handle in self.sessions.borrow().values() {
            if handle.target().is_some() {
                handle.recall();
            }
        }
    }

    /// Those that wait go on, unless there is a hold as well. False: none was told to wait.
    pub(crate) fn resume(&self) -> bool {
        let was_on = self.pause.by_operator.replace(false);
        self.pause.over.notify_waiters();
        was_on
    }
}
