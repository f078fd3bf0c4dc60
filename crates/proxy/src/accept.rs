//! Connections as they come in.
//!
//! Owns: accepting, spreading connections over the workers, and catching what goes wrong in one of them.
//! Does not own: how many there may be (`entrance`), and what a client says (`login`).

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener, TcpStream as StdTcp},
    os::unix::net::UnixStream as StdUnix,
    panic::AssertUnwindSafe,
    rc::Rc,
    sync::atomic::Ordering,
    time::Duration,
};

use futures_util::FutureExt;
use model::route::{Candidate, Visit};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    config::Config,
    entrance::{self, ROOM_PAUSE, Slot},
    login,
    stream::Stream,
    worker::{Inbox, Worker},
};

/// Connections the kernel keeps for us while we are busy. Larger than any burst one worker takes
/// in a few milliseconds.
const BACKLOG: i32 = 1024;
/// Pause after accepting failed although nobody could be pushed out: file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Failures of accepting are logged no more often.
const ACCEPT_LOG_EVERY: Duration = Duration::from_secs(10);
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
    /// Over HTTP, through the door, with a secret of its own: an HTTP client at this address.
    Http(SocketAddr),
}

impl Peer {
    /// Whether it has to say first for whom it speaks.
    pub(crate) fn speaks_for_others(&self, config: &Config) -> bool {
        let Self::Tcp(address) = self else {
            return false;
        };
        let mut trusted = config.proxy_protocol_from.iter();
        trusted.any(|network| network.contains(address.ip()))
    }

    /// Whether a tenant with these limits lets it in. What the platform runs for a user has been let in
    /// by the platform.
    pub(crate) fn is_admitted(&self, limits: &model::Limits) -> bool {
        match self {
            Self::Tcp(address) | Self::Http(address) => limits.admits(address.ip()),
            Self::Door => true,
        }
    }
}

impl Peer {
    /// The client's address; `None`: it is the platform itself.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) | Self::Http(address) => Some(address.ip().to_canonical()),
            Self::Door => None,
        }
    }

    /// Whether a secret works from there. What the platform runs for a user it may run anywhere.
    pub(crate) fn may_use(&self, candidate: &Candidate) -> bool {
        match (self, &candidate.network) {
            (Self::Tcp(address) | Self::Http(address), Some(network)) => {
                network.contains(address.ip())
            }
            (Self::Tcp(_) | Self::Http(_), None) | (Self::Door, _) => true,
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Door => f.write_str("door"),
            Self::Http(address) => write!(f, "{address} over HTTP"),
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
    /// By this worker, and on its event loop already.
    Here(TcpStream),
    Tcp(StdTcp),
    Unix(StdUnix),
}

/// A socket that listens, set up as the connections that come from it shall be: Linux hands these
/// settings down, and a login is spared three calls.
///
/// # Errors
///
/// What the system says.
pub(crate) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // A restart finds its port again although old connections linger.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Accepts until it is aborted. Connections go to the workers in turn.
pub(crate) async fn listen(worker: Rc<Worker>, listener: TcpListener) {
    let workers = worker.shared.inboxes.len();
    let mut turn = worker.index;
    let mut told: Option<Instant> = None;
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client left before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= ACCEPT_LOG_EVERY) {
                    told = Some(Instant::now());
                    tracing::warn!(%error, "accepting clients fails");
                }
                // Whoever logs in gets the place of one that only holds its connection open.
                let made_room = worker.shared.entrance.push_out();
                sleep(if made_room { ROOM_PAUSE } else { ACCEPT_PAUSE }).await;
                continue;
            }
        };
        // In line with those that are logging in: they come to their end before more come in.
        worker.pace.step().await;
        entrance::wait_for_room(&worker.shared, worker.config.limits.clients_max).await;
        let Some(slot) = Slot::take(&worker.shared, &worker.config, Peer::Tcp(peer)) else {
            tracing::debug!(%peer, "far too many clients");
            continue;
        };
        turn = (turn + 1) % workers;
        let socket = if turn == worker.index {
            AcceptedSocket::Here(socket)
        } else {
            match socket.into_std() {
                Ok(socket) => AcceptedSocket::Tcp(socket),
                Err(_) => continue,
            }
        };
        let accepted = Accepted {
            socket,
            peer: Peer::Tcp(peer),
            slot,
        };
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
pub(crate) async fn door(worker: Rc<Worker>, mut door: mpsc::Receiver<Visit>) {
    while let Some(visit) = door.recv().await {
        let peer = visit.from.map_or(Peer::Door, Peer::Http);
        if let Some(slot) = Slot::take(&worker.shared, &worker.config, peer) {
            let accepted = Accepted {
                socket: AcceptedSocket::Unix(visit.stream),
                peer,
                slot,
            };
            serve(&worker, accepted);
        }
    }
}

/// Serves a connection on this worker.
pub(crate) fn serve(worker: &Rc<Worker>, accepted: Accepted) {
    let stream = match accepted.socket {
        AcceptedSocket::Here(socket) => Ok(Stream::accepted(socket)),
        AcceptedSocket::Tcp(socket) => Stream::tcp(socket),
        AcceptedSocket::Unix(socket) => Stream::unix(socket),
    };
    let (worker, peer, slot) = (worker.clone(), accepted.peer, accepted.slot);
    match stream {
        Ok(stream) => {
            let (pace, spawner) = (worker.pace.clone(), worker.clone());
            let login = async move { login::serve(&worker, stream, peer, slot).await };
            spawn(spawner, pace.paced(Box::pin(login)));
        }
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

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    /// Nobody sets it on each connection, so it must come from the listener.
    #[tokio::test]
    async fn what_is_accepted_is_set_up_as_its_listener() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = match bind(address.parse().unwrap()) {
                Ok(listener) => TcpListener::from_std(listener).unwrap(),
                // A machine without IPv6.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => continue,
                Err(error) => panic!("{error}"),
            };
            let client = TcpStream::connect(listener.local_addr().unwrap());
            let (client, accepted) = tokio::join!(client, listener.accept());
            client.unwrap();
            let (accepted, _) = accepted.unwrap();
            let socket = SockRef::from(&accepted);
            assert!(socket.tcp_nodelay().unwrap());
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_AFTER);
        }
    }
}
