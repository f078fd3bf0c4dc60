//! Cancelling a statement that runs.
//!
//! Owns: the keys that clients were given, finding the session of one on whichever worker it is,
//! and passing a cancel on to the server. Does not own: sessions.

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{Mutex, PoisonError},
};

use rand::{TryRng, rngs::SysRng};
use tokio::{sync::oneshot, time::timeout};
use wire::{
    message::build,
    startup::{CancelKey, Protocol},
};

use crate::{
    server::{self, CancelTarget},
    stats::add,
    worker::{Inbox, Worker},
};

/// Bytes of a secret for clients that can take more than four.
const LONG_SECRET: usize = 32;

/// The keys of all sessions of a process. As many as there are clients.
#[derive(Debug, Default)]
pub(crate) struct Keys(Mutex<HashMap<i32, (CancelKey, usize)>>);

impl Keys {
    /// A new key for a session on `worker`; `None` when the system gives no random bytes.
    pub(crate) fn issue(&self, protocol: Protocol, worker: usize) -> Option<CancelKey> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut random = [0; 4 + LONG_SECRET];
            SysRng.try_fill_bytes(&mut random).ok()?;
            let (id, secret) = random.split_first_chunk::<4>()?;
            // Positive, like the number of a process.
            let id = (i32::from_be_bytes(*id) & i32::MAX).max(1);
            if keys.contains_key(&id) {
                continue;
            }
            let bytes = if protocol.has_long_cancel_keys() {
                LONG_SECRET
            } else {
                wire::startup::CANCEL_SECRET_BYTES_MIN
            };
            let key = CancelKey::new(id, secret.get(..bytes)?)?;
            keys.insert(id, (key.clone(), worker));
            return Some(key);
        }
    }

    pub(crate) fn forget(&self, id: i32) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
    }

    fn worker_of(&self, key: &CancelKey) -> Option<usize> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (own, worker) = keys.get(&key.process_id())?;
        // Every byte is compared, whichever differs first.
        let same = own.secret().len() == key.secret().len()
            && own
                .secret()
                .iter()
                .zip(key.secret())
                .fold(0, |differs, (a, b)| differs | (a ^ b))
                == 0;
        same.then_some(*worker)
    }
}

/// Serves a CancelRequest. Returns when the server has taken it, or when there is nothing to end.
pub(crate) async fn serve(worker: &Rc<Worker>, key: &CancelKey) {
    let Some(home) = worker.shared.keys.worker_of(key) else {
        return;
    };
    add(&worker.counted.cancels, 1);
    if home == worker.index {
        return at_home(worker, key.process_id()).await;
    }
    let (done, is_done) = oneshot::channel();
    let message = Inbox::Cancel {
        session: key.process_id(),
        done,
    };
    if let Some(inbox) = worker.shared.inboxes.get(home)
        && inbox.send(message).await.is_ok()
    {
        let _ = is_done.await;
    }
}

/// Cancels what the session runs, if it runs something.
pub(crate) async fn at_home(worker: &Rc<Worker>, session: i32) {
    let target = {
        let sessions = worker.sessions.borrow();
        let Some(handle) = sessions.get(&session) else {
            return;
        };
        if handle.cancel_wait() || handle.takes_cancel() {
            return;
        }
        // With nothing asked, the server may be somebody else's a moment later.
        handle.busy_target()
    };
    if let Some(target) = target {
        send(worker, &target).await;
    }
}

/// Sends a cancel to a server, and waits until the server has closed the cancel's connection: from
/// then on it cannot hit a later statement.
pub(crate) async fn send(worker: &Rc<Worker>, target: &Rc<CancelTarget>) {
    InFlight::new(target).send(worker).await;
}

/// A cancel that is to be sent, or is on its way: while there is one, nobody else is lent the server.
pub(crate) struct InFlight(Rc<CancelTarget>);

impl InFlight {
    pub(crate) fn new(target: &Rc<CancelTarget>) -> Self {
        target.in_flight.set(target.in_flight.get() + 1);
        Self(target.clone())
    }

    /// As [`send`].
    pub(crate) async fn send(self, worker: &Rc<Worker>) {
        let target = &self.0;
        let Some(key) = &target.key else {
            return;
        };
        let Ok(_turn) = worker.cancels.acquire().await else {
            return;
        };
        let mut is_sent = false;
        let sent = timeout(worker.config.limits.cancel_time_max, async {
            let mut stream = server::connect(&target.node.address).await?;
            let mut request = Vec::new();
            build::cancel_request(key, &mut request);
            is_sent = true;
            stream.send_all(&request).await?;
            stream.read_more(&mut Vec::new()).await
        })
        .await;
        if !matches!(sent, Ok(Ok(_))) {
            // It may still arrive, and would hit whoever comes next.
            target.is_last.set(target.is_last.get() || is_sent);
            tracing::info!(node = target.node.name, "a cancel did not reach its node");
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_only_its_own_session() {
        let keys = Keys::default();
        let short = keys.issue(Protocol::V3_0, 3).unwrap();
        let long = keys.issue(Protocol::V3_2, 1).unwrap();
        assert_eq!((short.secret().len(), long.secret().len()), (4, 32));
        assert_eq!(keys.worker_of(&short), Some(3));
        assert_eq!(keys.worker_of(&long), Some(1));

        let mut secret = long.secret().to_vec();
        secret[31] ^= 1;
        let wrong = CancelKey::new(long.process_id(), &secret).unwrap();
        assert_eq!(keys.worker_of(&wrong), None);
        let cut = CancelKey::new(long.process_id(), &long.secret()[..4]).unwrap();
        assert_eq!(keys.worker_of(&cut), None);

        keys.forget(long.process_id());
        assert_eq!(keys.worker_of(&long), None);
    }
}
