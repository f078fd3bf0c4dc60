//! Something that is to be done on a worker for somebody who is not there.
//!
//! Owns: the way there and back. For what operators ask; nothing on the way of a query uses it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::atomic::Ordering,
};

use tokio::sync::oneshot;

use crate::worker::{Inbox, Shared, Worker};

/// What is to be done, between two turns of the worker's event loop.
pub(crate) struct Errand(Box<Work>);

type Work = dyn FnOnce(&Rc<Worker>) + Send;

impl std::fmt::Debug for Errand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Errand(..)")
    }
}

impl Errand {
    /// Does it. A mistake in it ends nothing but the errand.
    pub(crate) fn run(self, worker: &Rc<Worker>) {
        if catch_unwind(AssertUnwindSafe(|| (self.0)(worker))).is_err() {
            worker.shared.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!("an errand ended by a mistake of ours");
        }
    }
}

/// Has `errand` done on a worker. `None`: the worker has stopped, or the errand went wrong.
pub(crate) async fn on<T: Send + 'static>(
    shared: &Shared,
    worker: usize,
    errand: impl FnOnce(&Rc<Worker>) -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = oneshot::channel();
    let errand = Errand(Box::new(move |worker| {
        let _ = done.send(errand(worker));
    }));
    let inbox = shared.inboxes.get(worker)?;
    inbox.send(Inbox::Errand(errand)).await.ok()?;
    result.await.ok()
}

/// Has the same errand done on all workers, one after the other.
pub(crate) async fn on_all<T: Send + 'static>(
    shared: &Shared,
    errand: impl Fn(&Rc<Worker>) -> T + Clone + Send + 'static,
) -> Vec<T> {
    let mut results = Vec::new();
    for worker in 0..shared.inboxes.len() {
        results.extend(on(shared, worker, errand.clone()).await);
    }
    results
}
