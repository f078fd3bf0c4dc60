//! The listener of the API: accepts, looks at the first bytes, and serves HTTP/1.1.
//!
//! axum's own server waits for idle clients when it stops; this one has a deadline.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::{
    App,
    address::Peer,
    refuse::{Answering, refuse, refuse_postgresql},
};
use crate::{StartError, tasks::Tasks};

/// Size of the head of a request.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// After accept failed for lack of files or memory.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A running listener.
pub(crate) struct Server {
    pub(crate) local_addr: SocketAddr,
    drain: std::sync::Mutex<Option<oneshot::Sender<Duration>>>,
    drained: tokio::sync::watch::Receiver<bool>,
}

/// Takes the address.
pub(crate) fn listen(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| StartError::Listen { address, source })
}

/// Serves until [`Server::drain`].
pub(crate) fn start(
    app: Arc<App>,
    listener: std::net::TcpListener,
    tasks: Tasks,
) -> Result<Server, StartError> {
    let address = app.config.api_listen;
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let local_addr = listener.local_addr().map_err(failed)?;
    let (drain, draining) = oneshot::channel();
    let (done, drained) = tokio::sync::watch::channel(false);
    let accept = accept(app, listener, tasks.clone(), draining);
    tasks.spawn("api", async move {
        accept.await;
        let _ = done.send(true);
    });
    Ok(Server {
        local_addr,
        drain: std::sync::Mutex::new(Some(drain)),
        drained,
    })
}

impl Server {
    /// Accepts no more; running requests may finish within `limit`. Returns when they have, or when
    /// it is over.
    pub(crate) async fn drain(&self, limit: Duration) {
        let drain = self
            .drain
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(drain) = drain {
            let _ = drain.send(limit);
        }
        let mut drained = self.drained.clone();
        let _ = tokio::time::timeout(limit, drained.wait_for(|drained| *drained)).await;
    }
}

async fn accept(
    app: Arc<App>,
    listener: TcpListener,
    tasks: Tasks,
    mut draining: oneshot::Receiver<Duration>,
) {
    let connections = Arc::new(Semaphore::new(app.config.limits.api_connections_max));
    let graceful = GracefulShutdown::new();
    let tls = app.config.api_tls.clone().map(TlsAcceptor::from);
    let service = super::router(app.clone());
    let limit = loop {
        let permit = tokio::select! {
            permit = connections.clone().acquire_owned() => permit.expect("never closed"),
            limit = &mut draining => break limit.unwrap_or_default(),
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error = %error, "the API could not accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                    continue;
                }
            },
            limit = &mut draining => break limit.unwrap_or_default(),
        };
        let _ = stream.set_nodelay(true);
        let watcher = graceful.watcher();
        let connection = Connection {
            service: service.clone(),
            peer: Peer(peer),
            head_time_max: app.config.limits.header_time_max,
            tls: tls.clone(),
        };
        tasks.spawn("api connection", async move {
            connection.serve(stream, watcher).await;
            drop(permit);
        });
    };
    drop(listener);
    let _ = tokio::time::timeout(limit, graceful.shutdown()).await;
}

struct Connection {
    service: axum::Router,
    peer: Peer,
    head_time_max: Duration,
    tls: Option<TlsAcceptor>,
}

/// What a client seems to speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Speaks {
    /// TLS: a handshake record.
    Tls,
    /// PostgreSQL: a packet length below 64 kB and a known code, or the beginning of one.
    PostgreSql,
    /// Anything else; HTTP will say.
    Other,
}

/// PostgreSQL's packets begin with a length of four bytes, whose first is 0; no text does.
fn speaks(first: u8) -> Speaks {
    match first {
        0x16 => Speaks::Tls,
        0x00 => Speaks::PostgreSql,
        _ => Speaks::Other,
    }
}

impl Connection {
    async fn serve(self, stream: TcpStream, watcher: hyper_util::server::graceful::Watcher) {
        let mut first = [0; 1];
        let seen = match tokio::time::timeout(self.head_time_max, stream.peek(&mut first)).await {
            Ok(Ok(1)) => speaks(first[0]),
            _ => return,
        };
        match (seen, self.tls.clone()) {
            (Speaks::PostgreSql, _) => {
                let _ = tokio::time::timeout(self.head_time_max, refuse_postgresql(stream)).await;
            }
            (Speaks::Tls, Some(acceptor)) => {
                let handshake = tokio::time::timeout(self.head_time_max, acceptor.accept(stream));
                if let Ok(Ok(stream)) = handshake.await {
                    self.http(stream, watcher).await;
                }
            }
            (Speaks::Other, Some(_)) => {
                refuse(
                    stream,
                    "this port speaks HTTPS",
                    "use https:// in the address",
                )
                .await;
            }
            (Speaks::Tls, None) => {
                refuse(
                    stream,
                    "this port speaks plain HTTP, not TLS",
                    "use http:// in the address",
                )
                .await;
            }
            (Speaks::Other, None) => self.http(stream, watcher).await,
        }
    }

    async fn http(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        watcher: hyper_util::server::graceful::Watcher,
    ) {
        let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_time_max)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX);
        let peer = self.peer;
        let service = self
            .service
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(peer);
                request
            });
        let service = TowerToHyperService::new(service);
        let connection = builder
            .serve_connection(TokioIo::new(Answering::new(stream)), service)
            .into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(error = %error, "an API connection ended early");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_protocols_apart() {
        assert_eq!(speaks(b'G'), Speaks::Other);
        assert_eq!(speaks(0x16), Speaks::Tls);
        assert_eq!(speaks(0), Speaks::PostgreSql);
    }
}
