//! Connections as they come in.
//!
//! Owns: accepting, the number of clients of the process, spreading connections over the workers,
//! and catching what goes wrong in one of them. Does not own: what a client says (`login`).

use std::{
    net::{SocketAddr, TcpStream as StdTcp},
    os::unix::net::UnixStream as StdUnix,
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpListener, sync::mpsc, time::sleep};

use crate::{
    login,
    stream::Stream,
    worker::{Inbox, Shared, Worker},
};

/// Clients above `clients_max` that are let as far as being told so. Others are just closed.
const TURNED_AWAY_MAX: usize = 64;
/// Pause after accepting failed, usually because file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A client that is silent that long is asked whether it is still there, so that one whose network
/// vanished does not hold its place for ever.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);

/// Where a client came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// Over the network.
    Tcp(SocketAddr),
    /// From the platform itself, through the door.
    Door,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Door => f.write_str("door"),
        }
    }
}

/// A connection nobody has spoken on.
#[derive(Debug)]
pub(crate) struct Accepted {
    socket: AcceptedSocket,
    peer: Peer,
    slot: Slot,
}

#[derive(Debug)]
enum AcceptedSocket {
    Tcp(StdTcp),
    Unix(StdUnix),
}

/// A place among the clients of the process; free again when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    shared: Arc<Shared>,
    /// More clients than allowed: this one is only told so.
    pub(crate) is_too_many: bool,
}

impl Slot {
    /// `None` when there is no use in even telling.
    fn take(shared: &Arc<Shared>, clients_max: usize) -> Option<Self> {
        let before = shared.clients.fetch_add(1, Ordering::Relaxed);
        let slot = Self {
            shared: shared.clone(),
            is_too_many: before >= clients_max,
        };
        (before < clients_max + TURNED_AWAY_MAX).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts until it is aborted. Connections go to the workers in turn.
pub(crate) async fn listen(worker: Rc<Worker>, listener: TcpListener) {
    let workers = worker.shared.inboxes.len();
    let mut turn = worker.index;
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a client failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(slot) = Slot::take(&worker.shared, worker.config.limits.clients_max) else {
            tracing::debug!(%peer, "far too many clients");
            continue;
        };
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
        let _ = SockRef::from(&socket).set_tcp_keepalive(&keepalive);
        let Ok(socket) = socket.into_std() else {
            continue;
        };
        let accepted = Accepted {
            socket: AcceptedSocket::Tcp(socket),
            peer: Peer::Tcp(peer),
            slot,
        };
        turn = (turn + 1) % workers;
        if turn == worker.index {
            serve(&worker, accepted);
        } else if worker.shared.inboxes[turn]
            .send(Inbox::Accepted(accepted))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Takes in what the platform runs for users, until it is aborted.
pub(crate) async fn door(worker: Rc<Worker>, mut door: mpsc::Receiver<StdUnix>) {
    while let Some(socket) = door.recv().await {
        if let Some(slot) = Slot::take(&worker.shared, worker.config.limits.clients_max) {
            let accepted = Accepted {
                socket: AcceptedSocket::Unix(socket),
                peer: Peer::Door,
                slot,
            };
            serve(&worker, accepted);
        }
    }
}

/// Serves a connection on this worker.
pub(crate) fn serve(worker: &Rc<Worker>, accepted: Accepted) {
    let stream = match accepted.socket {
        AcceptedSocket::Tcp(socket) => Stream::tcp(socket),
        AcceptedSocket::Unix(socket) => Stream::unix(socket),
    };
    let (worker, peer, slot) = (worker.clone(), accepted.peer, accepted.slot);
    match stream {
        Ok(stream) => spawn(worker.clone(), async move {
            login::serve(&worker, stream, peer, slot).await;
        }),
        Err(error) => tracing::warn!(%error, %peer, "a client was lost"),
    }
}

/// Runs the life of one client. A panic ends that client and nothing else: what it held (its
/// server connection, its place) is dropped with it.
pub(crate) fn spawn(worker: Rc<Worker>, life: impl Future<Output = ()> + 'static) {
    // Not an async block: that would hold `life` twice, once before and once while it runs, and
    // most of an idle client is this.
    let caught = AssertUnwindSafe(life).catch_unwind().map(move |result| {
        if result.is_err() {
            worker.shared.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a session ended by a mistake of ours");
        }
    });
    tokio::task::spawn_local(caught);
}
