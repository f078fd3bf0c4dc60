//! One connection as bytes: a TCP or unix socket, with or without TLS on it.
//!
//! Owns: reading, writing, what could not be written yet, the TLS handshake, and taking a
//! connection apart so that it can move to another thread with everything unread inside it. Does
//! not own: what the bytes mean.
//!
//! TLS is driven here, not by a wrapper: one buffer of ciphertext per blocked connection, none per
//! idle one, and all records of a turn in one system call.

use std::{
    future::poll_fn,
    io::{self, Read, Write},
    net::TcpStream as StdTcp,
    os::unix::net::UnixStream as StdUnix,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::{TcpStream, UnixStream},
};

/// Bytes read at once during login.
const COLD_READ: usize = 4096;

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// A unix socket that is watched for reading only. A server drains its socket after every
    /// statement; being told each time that we could write would wake us for nothing.
    Quiet {
        fd: AsyncFd<StdUnix>,
        /// A second handle, watched for writing, while a write is blocked.
        blocked: Option<AsyncFd<StdUnix>>,
    },
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    tls: Option<Box<Connection>>,
    /// Accepted for sending, not sent: only while the peer does not read. Without TLS; with it,
    /// the TLS connection keeps them.
    unsent: Vec<u8>,
}

/// A connection that belongs to no event loop.
#[derive(Debug)]
pub(crate) struct Moving {
    socket: MovingSocket,
    tls: Option<Box<Connection>>,
    unsent: Vec<u8>,
}

#[derive(Debug)]
enum MovingSocket {
    Tcp(StdTcp),
    Unix(StdUnix),
}

impl Stream {
    /// Takes over a TCP connection.
    ///
    /// # Errors
    ///
    /// When the event loop does not take it.
    pub(crate) fn tcp(socket: StdTcp) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self::new(Socket::Tcp(TcpStream::from_std(socket)?)))
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
        Ok(Moving {
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
        let mut stream = match moving.socket {
            MovingSocket::Tcp(socket) => Self::tcp(socket)?,
            MovingSocket::Unix(socket) => Self::unix(socket)?,
        };
        stream.tls = moving.tls;
        stream.unsent = moving.unsent;
        Ok(stream)
    }

    /// A second handle of the connection, on no event loop and without TLS: good for ending it and
    /// for noticing its end.
    ///
    /// # Errors
    ///
    /// When the process has no file descriptor left.
    pub(crate) fn second_handle(&self) -> io::Result<Moving> {
        let socket = match &self.socket {
            Socket::Tcp(socket) => {
                MovingSocket::Tcp(socket2::SockRef::from(socket).try_clone()?.into())
            }
            Socket::Unix(socket) => {
                MovingSocket::Unix(socket2::SockRef::from(socket).try_clone()?.into())
            }
            Socket::Quiet { fd, .. } => MovingSocket::Unix(fd.get_ref().try_clone()?),
        };
        Ok(Moving {
            socket,
            tls: None,
            unsent: Vec::new(),
        })
    }

    /// Whether TLS is on it.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// What ALPN settled on.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.alpn_protocol()
    }

    /// First certificate of the other side.
    pub(crate) fn peer_certificate(&self) -> Option<&[u8]> {
        let chain = self.tls.as_ref()?.peer_certificates()?;
        chain.first().map(|certificate| certificate.as_ref())
    }

    /// Whether something accepted by [`Self::send`] has not left.
    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        match &self.tls {
            None => !self.unsent.is_empty(),
            Some(tls) => tls.wants_write(),
        }
    }

    /// Reads what is there. `Ok(0)` is the end.
    #[inline]
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.tls {
            None => self.socket.poll_read(cx, buf),
            Some(tls) => poll_read_tls(tls, &mut self.socket, cx, buf),
        }
    }

    /// Sends what goes now and keeps the rest, without limit: the caller asks
    /// [`Self::is_blocked`] before it takes on more.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    #[inline]
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, mut data: &[u8]) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(data)?;
            let _ = poll_flush_tls(tls, &mut self.socket, cx)?;
            return Ok(());
        }
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

    /// Sends what [`Self::send`] kept.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tls) = &mut self.tls {
            return poll_flush_tls(tls, &mut self.socket, cx);
        }
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.socket.poll_write(cx, &self.unsent[sent..])? {
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
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = poll_fn(|cx| self.poll_flush(cx)).await;
        }
        self.hang_up();
    }

    /// Ends our half of the connection at once.
    pub(crate) fn hang_up(&self) {
        let how = std::net::Shutdown::Write;
        let _ = match &self.socket {
            Socket::Tcp(socket) => socket2::SockRef::from(socket).shutdown(how),
            Socket::Unix(socket) => socket2::SockRef::from(socket).shutdown(how),
            Socket::Quiet { fd, .. } => fd.get_ref().shutdown(how),
        };
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
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        self.handshake(connection.into(), early).await
    }

    /// Runs the client's side of a TLS handshake.
    ///
    /// # Errors
    ///
    /// When the server does not complete it, or shows a certificate we do not accept.
    pub(crate) async fn connect_tls(
        &mut self,
        config: Arc<ClientConfig>,
        name: rustls::pki_types::ServerName<'static>,
    ) -> io::Result<()> {
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        self.handshake(connection.into(), &[]).await
    }

    async fn handshake(&mut self, mut tls: Connection, mut early: &[u8]) -> io::Result<()> {
        // Nothing is taken on while this is blocked, so the limit of rustls is not needed.
        tls.set_buffer_limit(None);
        let mut failed = None;
        while !early.is_empty() && failed.is_none() {
            tls.read_tls(&mut early)?;
            failed = tls.process_new_packets().err();
        }
        let tls = self.tls.insert(Box::new(tls));
        let socket = &mut self.socket;
        poll_fn(|cx| {
            loop {
                // An alert goes out before the reason is returned.
                let flushed = poll_flush_tls(tls, socket, cx)?;
                if let Some(error) = failed.take() {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
                if !tls.is_handshaking() {
                    return flushed.map(Ok);
                }
                if ready!(poll_read_ciphertext(tls, socket, cx))? == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                failed = tls.process_new_packets().err();
            }
        })
        .await
    }

    /// Whether the other side neither hung up nor said anything. One system call.
    pub(crate) fn is_quiet(&mut self) -> bool {
        if let Some(tls) = &mut self.tls
            && tls.reader().read(&mut [0]).is_ok()
        {
            return false;
        }
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = match &self.socket {
            Socket::Tcp(socket) => socket2::SockRef::from(socket).peek(&mut byte),
            Socket::Unix(socket) => socket2::SockRef::from(socket).peek(&mut byte),
            Socket::Quiet { fd, .. } => socket2::SockRef::from(fd.get_ref()).peek(&mut byte),
        };
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Socket {
    #[inline]
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buf);
        match self {
            // Both clear readiness after a short read, which saves the read that gets EAGAIN.
            Self::Tcp(socket) => ready!(Pin::new(socket).poll_read(cx, &mut read))?,
            Self::Unix(socket) => ready!(Pin::new(socket).poll_read(cx, &mut read))?,
            Self::Quiet { fd, .. } => return poll_read_quiet(fd, cx, buf),
        }
        Poll::Ready(Ok(read.filled().len()))
    }

    #[inline]
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, data),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, data),
            Self::Quiet { fd, blocked } => poll_write_quiet(fd, blocked, cx, data),
        }
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Quiet { fd, blocked } => {
                let first = slices.iter().find(|slice| !slice.is_empty());
                poll_write_quiet(fd, blocked, cx, first.map_or(&[], |slice| slice))
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe, because a type could change its descriptor; a socket of \
              the standard library does not"
)]
fn watch(socket: StdUnix, interest: Interest) -> io::Result<AsyncFd<StdUnix>> {
    AsyncFd::with_interest(socket, interest)
}

#[inline]
fn poll_read_quiet(
    fd: &AsyncFd<StdUnix>,
    cx: &mut Context<'_>,
    buf: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        let mut guard = ready!(fd.poll_read_ready(cx))?;
        match fd.get_ref().read(buf) {
            Ok(read) => {
                if read > 0 && read < buf.len() {
                    guard.clear_ready();
                }
                return Poll::Ready(Ok(read));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

#[inline]
fn poll_write_quiet(
    fd: &AsyncFd<StdUnix>,
    blocked: &mut Option<AsyncFd<StdUnix>>,
    cx: &mut Context<'_>,
    data: &[u8],
) -> Poll<io::Result<usize>> {
    loop {
        match fd.get_ref().write(data) {
            Ok(sent) => return Poll::Ready(Ok(sent)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let handle = match blocked {
                    Some(handle) => handle,
                    None => blocked.insert(watch(fd.get_ref().try_clone()?, Interest::WRITABLE)?),
                };
                ready!(handle.poll_write_ready(cx))?.clear_ready();
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// The socket as rustls wants it: not ready is an error.
struct Now<'a, 'c> {
    socket: &'a mut Socket,
    cx: &'a mut Context<'c>,
}

impl Read for Now<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.socket.poll_read(self.cx, buf) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Now<'_, '_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.socket.poll_write(self.cx, data) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self.socket.poll_write_vectored(self.cx, slices) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn poll_read_ciphertext(
    tls: &mut Connection,
    socket: &mut Socket,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    match tls.read_tls(&mut Now { socket, cx }) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

fn poll_read_tls(
    tls: &mut Connection,
    socket: &mut Socket,
    cx: &mut Context<'_>,
    buf: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        match tls.reader().read(buf) {
            Ok(read) => return Poll::Ready(Ok(read)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The socket ended without TLS saying so: how clients that crash leave. What was
            // read is whole messages, or a message that will never be whole; no harm either way.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Poll::Ready(Ok(0));
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
        ready!(poll_read_ciphertext(tls, socket, cx))?;
        if let Err(error) = tls.process_new_packets() {
            let _ = poll_flush_tls(tls, socket, cx);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        // An answer of TLS itself, to a change of keys for instance.
        if tls.wants_write() {
            let _ = poll_flush_tls(tls, socket, cx)?;
        }
    }
}

#[inline]
fn poll_flush_tls(
    tls: &mut Connection,
    socket: &mut Socket,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while tls.wants_write() {
        match tls.write_tls(&mut Now { socket, cx }) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    if let Socket::Quiet { blocked, .. } = socket {
        *blocked = None;
    }
    Poll::Ready(Ok(()))
}
