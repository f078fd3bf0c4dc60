//! Server connections that were dropped without being closed: after a mistake of ours, out of step, or
//! when the server said that it goes away.
//!
//! Owns: that such a connection keeps its place in the budget until the server process is gone, and
//! that this takes a bounded time. Does not own: orderly closing (`pool`, `server`).

use std::{cell::RefCell, io, rc::Rc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::Notify, time::timeout};

use crate::{
    cancel,
    pool::Lease,
    server::CancelTarget,
    stream::{Moving, Stream},
    worker::Worker,
};

/// Time for a server to go away once what it ran was cancelled. It needs a millisecond.
const GONE_AFTER_CANCEL_MAX: Duration = Duration::from_secs(1);

/// What was dropped on a worker and not looked at yet. At most the budget.
#[derive(Debug, Default)]
pub(crate) struct Partings {
    dropped: RefCell<Vec<Parting>>,
    more: Notify,
}

/// A server process that may still be there, and its place in the budget.
#[derive(Debug)]
pub(crate) struct Parting {
    /// Another handle of the connection. Nothing is ever sent on it.
    pub(crate) socket: Moving,
    pub(crate) lease: Lease,
    pub(crate) cancel: Rc<CancelTarget>,
}

impl Partings {
    pub(crate) fn add(&self, parting: Parting) {
        self.dropped.borrow_mut().push(parting);
        self.more.notify_one();
    }
}

/// Sees all of them off, for as long as the worker lives.
pub(crate) async fn see_off(worker: Rc<Worker>) {
    let mut leaving = FuturesUnordered::new();
    loop {
        let dropped = worker.partings.dropped.take();
        leaving.extend(dropped.into_iter().map(|parting| part(&worker, parting)));
        tokio::select! {
            () = worker.partings.more.notified() => {}
            Some(()) = leaving.next() => {}
        }
    }
}

/// As when a client leaves in the middle of a statement: what runs may come to its end, but not take
/// for ever.
async fn part(worker: &Rc<Worker>, parting: Parting) {
    let Parting {
        socket,
        lease,
        cancel,
    } = parting;
    if let Ok(mut stream) = Stream::arrive(socket)
        && timeout(worker.config.limits.abandoned_time_max, gone(&mut stream))
            .await
            .is_err()
    {
        cancel::send(worker, &cancel).await;
        if timeout(GONE_AFTER_CANCEL_MAX, gone(&mut stream))
            .await
            .is_err()
        {
            tracing::warn!(
                node = cancel.node.name,
                "a server process does not end; its place in the budget is given away"
            );
        }
    }
    drop(lease);
}

/// Returns when the other side is gone. What it still says is of no interest.
async fn gone(stream: &mut Stream) {
    stream.hang_up();
    let mut ignored = Vec::new();
    while let Ok::<usize, io::Error>(1..) = stream.read_more(&mut ignored).await {
        ignored.clear();
    }
}
