//! One connection as bytes: a TCP or unix socket, with or without TLS on it.
//!
//! Owns: reading, writing, what could not be written yet, the TLS handshake, and taking a
//! connection apart so that it can move to another thread with everything unread inside it. Does
//! not own: what the bytes mean.
//!
//! An idle connection has no buffer of its own, with TLS or without; all records of a turn leave in
//! one system call.

mod socket;
mod tls;

use std::{
    future::poll_fn,
    io,
    net::TcpStream as StdTcp,
    os::unix::net::UnixStream as StdUnix,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    ClientConfig, ServerConfig, client::UnbufferedClientConnection, pki_types::ServerName,
    server::UnbufferedServerConnection,
};
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

use socket::{Socket, watch};
use tls::{Side, Tls};

/// Bytes read at once during login.
const COLD_READ: usize = 4096;

/// A connection.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    tls: Option<Box<Tls>>,
    /// Accepted for sending, sealed if there is TLS, not sent: only while the peer does not read,
    /// or with [`Self::hold`].
    unsent: Vec<u8>,
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) enum Moving {
    /// It stays on the event loop where it is.
    Here(Stream),
    /// It belongs to no event loop.
    Away {
        socket: MovingSocket,
        tls: Option<Box<Tls>>,
        unsent: Vec<u8>,
    },
}

#[derive(Debug)]
pub(crate) enum MovingSocket {
    Tcp(StdTcp),
    Unix(StdUnix),
}

impl Stream {
    /// Takes over a TCP connection to a server.
    ///
    /// # Errors
    ///
    /// When the event loop does not take it.
    pub(crate) fn tcp(socket: StdTcp) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self::new(Socket::Tcp(TcpStream::from_std(socket)?)))
    }

    /// Takes over a TCP connection that this event loop accepted; it is set up as its listener is.
    pub(crate) fn accepted(socket: TcpStream) -> Self {
        Self::new(Socket::Tcp(socket))
    }

    /// Takes over a connected unix socket of a client.
    ///
    /// # Errors
    ///
    /// When the event loop does not take it.
    pub(crate) fn unix(socket: StdUnix) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::new(Socket::Unix(UnixStream::from_std(socket)?)))
    }

    /// Takes over a connected unix socket to a server.
    ///
    /// # Errors
    ///
    /// When the event loop does not take it.
    pub(crate) fn quiet(socket: StdUnix) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let fd = watch(socket, Interest::READABLE)?;
        Ok(Self::new(Socket::Quiet { fd, blocked: None }))
    }

    fn new(socket: Socket) -> Self {
        Self {
            socket,
            tls: None,
            unsent: Vec::new(),
        }
    }

    /// Leaves it on this thread's event loop.
    pub(crate) fn stay(self) -> Moving {
        Moving::Here(self)
    }

    /// Takes the connection off this thread's event loop.
    ///
    /// # Errors
    ///
    /// When the event loop does not let go.
    pub(crate) fn depart(self) -> io::Result<Moving> {
        let socket = match self.socket {
            Socket::Tcp(socket) => MovingSocket::Tcp(socket.into_std()?),
            Socket::Unix(socket) => MovingSocket::Unix(socket.into_std()?),
            Socket::Quiet { fd, .. } => MovingSocket::Unix(fd.into_inner()),
        };
        Ok(Moving::Away {
            socket,
            tls: self.tls,
            unsent: self.unsent,
        })
    }

    /// Puts a connection on this thread's event loop. What was unread or unsent still is.
    ///
    /// # Errors
    ///
    /// When the event loop does not take it.
    pub(crate) fn arrive(moving: Moving) -> io::Result<Self> {
        match moving {
            Moving::Here(stream) => Ok(stream),
            Moving::Away {
                socket,
                tls,
                unsent,
            } => {
                let mut stream = match socket {
                    MovingSocket::Tcp(socket) => Self::tcp(socket)?,
                    MovingSocket::Unix(socket) => Self::unix(socket)?,
                };
                stream.tls = tls;
                stream.unsent = unsent;
                Ok(stream)
            }
        }
    }

    /// A second handle of the connection, on no event loop and without TLS: good for ending it and
    /// for noticing its end.
    ///
    /// # Errors
    ///
    /// When the process has no file descriptor left.
    pub(crate) fn second_handle(&self) -> io::Result<Moving> {
        let socket = self.socket.fd().try_clone()?;
        let socket = match &self.socket {
            Socket::Tcp(_) => MovingSocket::Tcp(socket.into()),
            Socket::Unix(_) | Socket::Quiet { .. } => MovingSocket::Unix(socket.into()),
        };
        Ok(Moving::Away {
            socket,
            tls: None,
            unsent: Vec::new(),
        })
    }

    /// Whether TLS is on it.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// The version of TLS that is on it, as its standard writes it; `None`: plain text.
    pub(crate) fn tls_version(&self) -> Option<&'static str> {
        Some(match self.tls.as_ref()?.state().protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => "1.2",
            rustls::ProtocolVersion::TLSv1_3 => "1.3",
            _ => "other",
        })
    }

    /// What ALPN settled on.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.state().alpn_protocol()
    }

    /// First certificate of the other side.
    pub(crate) fn peer_certificate(&self) -> Option<&[u8]> {
        let chain = self.tls.as_ref()?.state().peer_certificates()?;
        chain.first().map(|certificate| certificate.as_ref())
    }

    /// Whether something accepted by [`Self::send`] has not left.
    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads what is there. `Ok(0)` is the end.
    #[inline]
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.tls.is_none() {
            return self.socket.poll_read(cx, buf);
        }
        self.poll_read_tls(cx, buf)
    }

    fn poll_read_tls(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(tls) = &mut self.tls else {
            return self.socket.poll_read(cx, buf);
        };
        let socket = &mut self.socket;
        // An alert, an answer to a change of keys: nearly always empty.
        let mut out = Vec::new();
        let read = tls.read(buf, &mut out, |piece| match socket.poll_read(cx, piece) {
            Poll::Ready(read) => read.map(Some),
            Poll::Pending => Ok(None),
        });
        if !out.is_empty() {
            let sent = self.send_as_is(cx, &out);
            if read.is_ok() {
                sent?;
            }
        }
        match read? {
            Some(read) => Poll::Ready(Ok(read)),
            None => Poll::Pending,
        }
    }

    /// Sends what goes now and keeps the rest, without limit: the caller asks
    /// [`Self::is_blocked`] before it takes on more.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    #[inline]
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> io::Result<()> {
        // Not a byte is sealed for nothing: an empty record would be sent.
        if self.tls.is_none() || data.is_empty() {
            return self.send_as_is(cx, data);
        }
        self.send_sealed(cx, data)
    }

    fn send_sealed(&mut self, cx: &mut Context<'_>, data: &[u8]) -> io::Result<()> {
        let Some(mut tls) = self.tls.take() else {
            return Ok(());
        };
        let sent = tls.seal(data, |sealed| self.send_as_is(cx, sealed));
        self.tls = Some(tls);
        sent
    }

    #[inline]
    fn send_as_is(&mut self, cx: &mut Context<'_>, mut data: &[u8]) -> io::Result<()> {
        if self.unsent.is_empty() {
            while !data.is_empty() {
                match self.socket.poll_write(cx, data)? {
                    Poll::Ready(sent) => data = data.get(sent..).unwrap_or_default(),
                    Poll::Pending => break,
                }
            }
        }
        self.unsent.extend_from_slice(data);
        Ok(())
    }

    /// Keeps `data` to leave with what is sent next.
    ///
    /// # Errors
    ///
    /// When the connection is over.
    pub(crate) fn hold(&mut self, data: &[u8]) -> io::Result<()> {
        let unsent = &mut self.unsent;
        match &mut self.tls {
            None => unsent.extend_from_slice(data),
            Some(tls) => tls.seal(data, |sealed| {
                unsent.extend_from_slice(sealed);
                Ok(())
            })?,
        }
        Ok(())
    }

    /// Sends what [`Self::send`] kept.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.socket.poll_write(cx, &self.unsent[sent..])? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(now) => sent += now,
                Poll::Pending => {
                    self.unsent.drain(..sent);
                    return Poll::Pending;
                }
            }
        }
        self.unsent = Vec::new();
        if let Socket::Quiet { blocked, .. } = &mut self.socket {
            *blocked = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Appends what comes next to `buf`. `Ok(0)` is the end.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub(crate) async fn read_more(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut piece = [0; COLD_READ];
            let read = ready!(self.poll_read(cx, &mut piece))?;
            buf.extend_from_slice(&piece[..read]);
            Poll::Ready(Ok(read))
        })
        .await
    }

    /// Sends all of `data`.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub(crate) async fn send_all(&mut self, data: &[u8]) -> io::Result<()> {
        poll_fn(|cx| Poll::Ready(self.send(cx, data))).await?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(&mut self) {
        if self.hold_end() {
            let _ = poll_fn(|cx| self.poll_flush(cx)).await;
        }
        self.hang_up();
    }

    /// Says so to a client that said goodbye, and does not wait until it has heard it.
    pub(crate) async fn part(mut self) {
        if self.hold_end() || self.is_blocked() {
            let _ = poll_fn(|cx| Poll::Ready(self.poll_flush(cx).is_ready())).await;
        }
    }

    /// Whether there was something to be said for TLS.
    fn hold_end(&mut self) -> bool {
        let unsent = &mut self.unsent;
        let Some(tls) = &mut self.tls else {
            return false;
        };
        let said = tls.seal_end(|sealed| {
            unsent.extend_from_slice(sealed);
            Ok(())
        });
        said.is_ok()
    }

    /// Ends our half of the connection at once.
    pub(crate) fn hang_up(&self) {
        let _ = self.socket.fd().shutdown(std::net::Shutdown::Write);
    }

    /// Runs the server's side of a TLS handshake. `early` was read already.
    ///
    /// # Errors
    ///
    /// When the client does not complete it.
    pub(crate) async fn accept_tls(
        &mut self,
        config: Arc<ServerConfig>,
        early: &[u8],
    ) -> io::Result<()> {
        let server = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        self.handshake(Side::Server(server), early).await
    }

    /// Runs the client's side of a TLS handshake.
    ///
    /// # Errors
    ///
    /// When the server does not complete it, or shows a certificate we do not accept.
    pub(crate) async fn connect_tls(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<()> {
        let client = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        self.handshake(Side::Client(client), &[]).await
    }

    async fn handshake(&mut self, side: Side, early: &[u8]) -> io::Result<()> {
        let mut tls = Box::new(Tls::new(side, early));
        let mut out = Vec::new();
        let mut step = tls.shake_hands(&[], &mut out);
        loop {
            // An alert goes out before the reason is returned.
            if !out.is_empty() {
                poll_fn(|cx| Poll::Ready(self.send_as_is(cx, &out))).await?;
                poll_fn(|cx| self.poll_flush(cx)).await?;
                out.clear();
            }
            step?;
            if !tls.state().is_handshaking() {
                self.tls = Some(tls);
                return Ok(());
            }
            step = poll_fn(|cx| {
                let mut piece = [0; COLD_READ];
                let read = ready!(self.socket.poll_read(cx, &mut piece))?;
                if read == 0 {
                    let end = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Poll::Ready(Err(end));
                }
                Poll::Ready(Ok(tls.shake_hands(&piece[..read], &mut out)))
            })
            .await?;
        }
    }

    /// Whether the other side neither hung up nor said anything. One system call.
    pub(crate) fn is_quiet(&mut self) -> bool {
        if self.tls.as_ref().is_some_and(|tls| tls.has_unread()) {
            return false;
        }
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = self.socket.fd().peek(&mut byte);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[cfg(test)]
mod tests;
