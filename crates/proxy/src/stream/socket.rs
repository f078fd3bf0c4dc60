//! The sockets below a connection.
//!
//! Owns: reading and writing without waiting, and being woken when that is possible again. Does not
//! own: what could not be written, or TLS.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream as StdUnix,
    pin::Pin,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::{TcpStream, UnixStream},
};

#[derive(Debug)]
pub(super) enum Socket {
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

impl Socket {
    /// For calls that do not read or write.
    pub(super) fn fd(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(socket) => SockRef::from(socket),
            Self::Unix(socket) => SockRef::from(socket),
            Self::Quiet { fd, .. } => SockRef::from(fd.get_ref()),
        }
    }

    #[inline]
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
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
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, data),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, data),
            Self::Quiet { fd, blocked } => poll_write_quiet(fd, blocked, cx, data),
        }
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe, because a type could change its descriptor; a socket of \
              the standard library does not"
)]
pub(super) fn watch(socket: StdUnix, interest: Interest) -> io::Result<AsyncFd<StdUnix>> {
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
