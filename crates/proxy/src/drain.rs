//! Stopping without losing anything that can be finished.
//!
//! Owns: the order in which a worker stops: no new clients, idle sessions end, running
//! transactions end until the deadline, the rest is cut, server connections close.

use std::rc::Rc;

use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::{
    error::Refusal,
    handle::When,
    worker::{State, Worker},
};

/// After the deadline: time for sessions to say why they end, and for server processes to go.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// Lets nobody in any more, ends idle sessions and marks the others.
pub(crate) fn begin(worker: &Rc<Worker>) {
    worker.state.set(State::Draining);
    worker.draining.notify_waiters();
    for handle in worker.sessions.borrow().values() {
        handle.end(When::AtRest, Refusal::Draining);
    }
}

/// Returns once no session is left, cutting those that are left at the deadline. Never, while
/// not draining.
pub(crate) async fn finished(worker: &Rc<Worker>, deadline: Option<Instant>) {
    let Some(deadline) = deadline else {
        return std::future::pending().await;
    };
    let all_left = async {
        loop {
            let left = worker.left.notified();
            if worker.is_left() {
                return;
            }
            left.await;
        }
    };
    tokio::select! {
        () = all_left => return,
        () = sleep_until(deadline) => {}
    }
    for handle in worker.sessions.borrow().values() {
        handle.end(When::Now, Refusal::Draining);
    }
    tokio::select! {
        () = async {
            loop {
                let left = worker.left.notified();
                if worker.is_left() {
                    return;
                }
                left.await;
            }
        } => {}
        () = sleep(LAST_WORDS_MAX) => {}
    }
}

/// Closes the server connections that are left.
pub(crate) async fn close(worker: &Rc<Worker>) {
    worker.state.set(State::Closing);
    let tenants = worker.all_tenants();
    for tenant in &tenants {
        tenant.close_all(worker);
    }
    let until = Instant::now() + LAST_WORDS_MAX;
    while tenants.iter().any(|tenant| tenant.usage().0 > 0) && Instant::now() < until {
        sleep(Duration::from_millis(5)).await;
    }
}
