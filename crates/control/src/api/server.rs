//! The listener of the API: accepts, looks at the first bytes, and serves HTTP/1.1.
//!
//! axum's own server waits for idle clients when it stops; this one has a deadline.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
};
use tokio_rustls::TlsAcceptor;

use super::App;
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
    let service = TowerToHyperService::new(super::router(app.clone()));
    let limit = loop {
        let permit = tokio::select! {
            permit = connections.clone().acquire_owned() => permit.expect("never closed"),
            limit = &mut draining => break limit.unwrap_or_default(),
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
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
    service: TowerToHyperService<axum::Router>,
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
                    "this port speaks HTTPS; use https:// in the address",
                )
                .await;
            }
            (Speaks::Tls, None) => {
                refuse(
                    stream,
                    "this port speaks plain HTTP; use http:// in the address",
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
        let connection = builder
            .serve_connection(TokioIo::new(stream), self.service)
            .into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(error = %error, "an API connection ended early");
        }
    }
}

/// A short answer in HTTP to whoever speaks the wrong protocol.
async fn refuse(mut stream: TcpStream, message: &str) {
    let error = super::error::ApiError::with(super::ErrorCode::BadRequest, message.to_owned());
    let body = error.plain_body();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    // What the client sent is read, so that it gets the answer and not a reset.
    let mut rest = [0; 1024];
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut rest)).await;
}

/// SSLRequest, and GSSENCRequest; PostgreSQL manual, "Message Formats".
const ENCRYPTION_REQUESTS: [[u8; 4]; 2] =
    [80_877_103_u32.to_be_bytes(), 80_877_104_u32.to_be_bytes()];
/// A startup packet longer than this is refused by PostgreSQL too.
const STARTUP_BYTES_MAX: u32 = 10_000;

/// Answers a PostgreSQL client in its own language: no encryption here, and no database either.
async fn refuse_postgresql(mut stream: TcpStream) -> io::Result<()> {
    // Two requests for encryption at most, then the startup packet.
    for _ in 0..3 {
        let length = stream.read_u32().await?;
        let mut code = [0; 4];
        stream.read_exact(&mut code).await?;
        if length == 8 && ENCRYPTION_REQUESTS.contains(&code) {
            stream.write_all(b"N").await?;
            continue;
        }
        let rest = u64::from(length.min(STARTUP_BYTES_MAX).saturating_sub(8));
        tokio::io::copy(&mut (&mut stream).take(rest), &mut tokio::io::sink()).await?;
        stream.write_all(&error_response()).await?;
        return stream.shutdown().await;
    }
    Ok(())
}

fn error_response() -> Vec<u8> {
    let fields = [
        "SFATAL",
        "VFATAL",
        "C08P01",
        "Mthis is the port of the HTTP API, not of databases",
        "Huse the host and port of the database's connection string",
    ];
    let mut body: Vec<u8> = Vec::new();
    for field in fields {
        body.extend_from_slice(field.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).expect("the message is short");
    let mut message = vec![b'E'];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&body);
    message
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

    #[test]
    fn the_error_for_postgresql_clients_is_well_formed() {
        let message = error_response();
        let length = u32::from_be_bytes(message[1..5].try_into().unwrap());
        assert_eq!(length as usize, message.len() - 1);
        assert!(message.ends_with(b"\0\0"));
    }
}
