//! A tenant whose new transactions wait because an operator said so.
//!
//! Owns: whether they wait, and for how long at most. Does not own: where a session asks for a server
//! connection (`pool`), or who may say so (`console`).

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::{sync::Notify, time::timeout};

use crate::{error::Refusal, pool::Tenant, worker::Worker};

/// Longest wait of a statement for the end of a pause. Two minutes: work on a database that takes
/// longer is announced, and a client that waits for ever holds up its own users.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Whether the new transactions of a tenant wait.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    is_on: Cell<bool>,
    over: Notify,
}

impl Pause {
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// Returns when they need not wait.
    ///
    /// # Errors
    ///
    /// [`Refusal::Paused`].
    pub(crate) async fn over(&self) -> Result<(), Refusal> {
        if !self.is_on.get() {
            return Ok(());
        }
        let over = async {
            loop {
                // Before looking: what is told in between is not lost.
                let over = self.over.notified();
                if !self.is_on.get() {
                    return;
                }
                over.await;
            }
        };
        timeout(WAIT_MAX, over).await.map_err(|_| Refusal::Paused)
    }
}

impl Tenant {
    /// From now on new transactions wait, and server connections that serve none are closed.
    pub(crate) fn pause(self: &Rc<Self>, worker: &Rc<Worker>) {
        self.pause.is_on.set(true);
        self.close_all(worker);
    }

    /// Those that wait go on. False: none was told to wait.
    pub(crate) fn resume(&self) -> bool {
        let was_on = self.pause.is_on.replace(false);
        self.pause.over.notify_waiters();
        was_on
    }
}
