//! TLS as bytes in and bytes out.
//!
//! Owns: one TLS connection, what came in and is not a whole record yet, and what was opened and not
//! asked for yet. Does not own: sockets, or what is sealed and not sent.
//!
//! Rustls' own buffers are not used: they hold 4 kB per connection, idle or not. Here records are
//! opened where they were read, in one buffer per thread, and an idle connection has none.

use std::{cell::RefCell, io, mem};

use rustls::{
    CommonState,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
        UnbufferedStatus, WriteTraffic,
    },
};

/// Bytes read at once, and of a record that is not whole. Two of the longest records.
const INCOMING: usize = 40 * 1024;
/// Fewest bytes read at once, so that a handshake is not read in crumbs.
const READ_MIN: usize = 4096;
/// What is kept for sealing between two calls. Enough for all that a relay sends at once.
const SEALED_KEPT_MAX: usize = 64 * 1024;
/// Longest flight of a handshake. Ours take 3 kB; PostgreSQL clients send certificates of no more.
const HANDSHAKE_MAX: usize = 64 * 1024;

thread_local! {
    /// What a turn reads, before it is opened.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; INCOMING]);
    /// What a turn has sealed, before it is sent.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Which end of the connection we are.
pub(super) enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// One TLS connection.
pub(crate) struct Tls {
    side: Side,
    /// The beginning of a record.
    received: Vec<u8>,
    /// Opened, and more than the reader had room for.
    opened: Vec<u8>,
    /// The other side said that nothing more will come.
    is_closed: bool,
    /// Why nothing more can be opened, while what came before it is read.
    failed: Option<io::Error>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(..)")
    }
}

/// What rustls wants next.
enum Next {
    /// To be asked again.
    Again,
    /// More bytes.
    More,
    /// Nothing: no more will come.
    Closed,
}

impl Tls {
    /// Before the handshake. `early` was read already.
    pub(super) fn new(side: Side, early: &[u8]) -> Self {
        Self {
            side,
            received: early.to_vec(),
            opened: Vec::new(),
            is_closed: false,
            failed: None,
        }
    }

    pub(super) fn state(&self) -> &CommonState {
        match &self.side {
            Side::Server(server) => server,
            Side::Client(client) => client,
        }
    }

    /// Whether something came in that nobody has read.
    pub(super) fn has_unread(&self) -> bool {
        !self.opened.is_empty() || !self.received.is_empty()
    }

    /// Goes on with the handshake after `more` came in; appends to `out` what is to be sent, also
    /// when it fails.
    ///
    /// # Errors
    ///
    /// When the other side does not do its part.
    pub(super) fn shake_hands(&mut self, more: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let mut incoming = mem::take(&mut self.received);
        incoming.extend_from_slice(more);
        if incoming.len() > HANDSHAKE_MAX {
            return Err(invalid("the TLS handshake is too long"));
        }
        let opened = &mut self.opened;
        let mut keep = |payload: &[u8]| opened.extend_from_slice(payload);
        let (used, result) = advance(&mut self.side, &mut incoming, out, &mut keep);
        incoming.drain(..used);
        self.received = incoming;
        self.received.shrink_to_fit();
        match result? {
            Next::Closed if self.state().is_handshaking() => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            // A cancel: the last of the handshake, the request and the end are one flight.
            Next::Closed => {
                self.is_closed = true;
                Ok(())
            }
            Next::Again | Next::More => Ok(()),
        }
    }

    /// Reads with `read`, once or until a record is whole, and opens into `buf`. `None` when `read`
    /// has nothing now, `Some(0)` at the end. Appends to `out` what TLS itself has to say, also when
    /// it fails.
    ///
    /// # Errors
    ///
    /// Of `read`, or when what came is no TLS of this connection.
    pub(super) fn read(
        &mut self,
        buf: &mut [u8],
        out: &mut Vec<u8>,
        mut read: impl FnMut(&mut [u8]) -> io::Result<Option<usize>>,
    ) -> io::Result<Option<usize>> {
        if !self.opened.is_empty() {
            let now = self.opened.len().min(buf.len());
            buf[..now].copy_from_slice(&self.opened[..now]);
            self.opened.drain(..now);
            if self.opened.is_empty() {
                self.opened = Vec::new();
            }
            return Ok(Some(now));
        }
        if let Some(error) = self.failed.take() {
            // Whoever reads again finds the end.
            self.is_closed = true;
            return Err(error);
        }
        if self.is_closed {
            return Ok(Some(0));
        }
        READ.with_borrow_mut(|incoming| {
            loop {
                let kept = self.received.len();
                if kept + READ_MIN > incoming.len() {
                    return Err(invalid("a TLS message is too long"));
                }
                incoming[..kept].copy_from_slice(&self.received);
                // What is opened is shorter than what was sealed: no more than there is room for.
                let room = buf.len().saturating_sub(kept).max(READ_MIN);
                let room = room.min(incoming.len() - kept);
                let Some(now) = read(&mut incoming[kept..kept + room])? else {
                    return Ok(None);
                };
                if now == 0 {
                    // Without TLS saying so: how clients that crash leave. What was read is whole
                    // messages, or a message that will never be whole; no harm either way.
                    return Ok(Some(0));
                }
                self.received.clear();
                let incoming = &mut incoming[..kept + now];
                let (mut filled, opened) = (0, &mut self.opened);
                let mut keep = |payload: &[u8]| {
                    let (fits, rest) = payload.split_at(payload.len().min(buf.len() - filled));
                    buf[filled..filled + fits.len()].copy_from_slice(fits);
                    filled += fits.len();
                    opened.extend_from_slice(rest);
                };
                let (used, result) = advance(&mut self.side, incoming, out, &mut keep);
                let rest = &incoming[used..];
                if rest.is_empty() {
                    self.received = Vec::new();
                } else {
                    self.received.extend_from_slice(rest);
                }
                match result {
                    Ok(Next::Closed) => self.is_closed = true,
                    Ok(Next::Again | Next::More) => {}
                    // What came before it is good.
                    Err(error) if filled > 0 => self.failed = Some(error),
                    Err(error) => {
                        self.is_closed = true;
                        return Err(error);
                    }
                }
                if filled > 0 || self.is_closed {
                    return Ok(Some(filled));
                }
            }
        })
    }

    /// Seals `data`, and gives it to `send` with all that TLS has to say before it.
    ///
    /// # Errors
    ///
    /// Of `send`, or when the connection is over.
    pub(super) fn seal<T>(
        &mut self,
        data: &[u8],
        send: impl FnOnce(&[u8]) -> io::Result<T>,
    ) -> io::Result<T> {
        self.write(|traffic, out| traffic.encrypt(data, out), send)
    }

    /// The same for the word that nothing more will be sent.
    pub(super) fn seal_end<T>(
        &mut self,
        send: impl FnOnce(&[u8]) -> io::Result<T>,
    ) -> io::Result<T> {
        self.write(|traffic, out| traffic.queue_close_notify(out), send)
    }

    fn write<T>(
        &mut self,
        write: impl Fn(&mut dyn Traffic, &mut [u8]) -> Result<usize, EncryptError>,
        send: impl FnOnce(&[u8]) -> io::Result<T>,
    ) -> io::Result<T> {
        SEALED.with_borrow_mut(|sealed| {
            let mut own_words = Vec::new();
            let mut written = None;
            while written.is_none() {
                let mut with = |traffic: &mut dyn Traffic| {
                    written = Some(loop {
                        match write(traffic, sealed) {
                            Err(EncryptError::InsufficientSize(InsufficientSizeError {
                                required_size,
                            })) => sealed.resize(required_size, 0),
                            result => break result,
                        }
                    });
                };
                let next = match &mut self.side {
                    Side::Server(server) => {
                        let status = server.process_tls_records(&mut []);
                        handle(status, &mut own_words, &mut |_| {}, &mut with)
                    }
                    Side::Client(client) => {
                        let status = client.process_tls_records(&mut []);
                        handle(status, &mut own_words, &mut |_| {}, &mut with)
                    }
                };
                match next
                    .1
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
                {
                    Next::Again => {}
                    Next::More if written.is_some() => {}
                    // Once only; after it, one may still write.
                    Next::Closed if !mem::replace(&mut self.is_closed, true) => {}
                    Next::More | Next::Closed => return Err(io::ErrorKind::NotConnected.into()),
                }
            }
            let written = match written {
                Some(Ok(written)) => written,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => 0,
            };
            let result = if own_words.is_empty() {
                send(&sealed[..written])
            } else {
                own_words.extend_from_slice(&sealed[..written]);
                send(&own_words)
            };
            if sealed.len() > SEALED_KEPT_MAX {
                *sealed = Vec::new();
            }
            result
        })
    }
}

/// The one state in which application data can be sealed, whichever side we are.
trait Traffic {
    fn encrypt(&mut self, data: &[u8], out: &mut [u8]) -> Result<usize, EncryptError>;
    fn queue_close_notify(&mut self, out: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<Data> Traffic for WriteTraffic<'_, Data> {
    fn encrypt(&mut self, data: &[u8], out: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::encrypt(self, data, out)
    }

    fn queue_close_notify(&mut self, out: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::queue_close_notify(self, out)
    }
}

/// Goes through all that is whole in `incoming`. Returns how much that was.
fn advance(
    side: &mut Side,
    incoming: &mut [u8],
    out: &mut Vec<u8>,
    opened: &mut dyn FnMut(&[u8]),
) -> (usize, io::Result<Next>) {
    let mut used = 0;
    loop {
        let incoming = &mut incoming[used..];
        let (discard, next) = match side {
            Side::Server(server) => {
                let status = server.process_tls_records(incoming);
                handle(status, out, opened, &mut |_| {})
            }
            Side::Client(client) => {
                let status = client.process_tls_records(incoming);
                handle(status, out, opened, &mut |_| {})
            }
        };
        used += discard;
        match next {
            Ok(Next::Again) => {}
            Ok(next) => return (used, Ok(next)),
            Err(error) => {
                say_why(side, out);
                let error = io::Error::new(io::ErrorKind::InvalidData, error);
                return (used, Err(error));
            }
        }
    }
}

/// Appends the alert that rustls prepared for the other side.
fn say_why(side: &mut Side, out: &mut Vec<u8>) {
    loop {
        let (_, next) = match side {
            Side::Server(server) => {
                let status = server.process_tls_records(&mut []);
                handle(status, out, &mut |_| {}, &mut |_| {})
            }
            Side::Client(client) => {
                let status = client.process_tls_records(&mut []);
                handle(status, out, &mut |_| {}, &mut |_| {})
            }
        };
        if !matches!(next, Ok(Next::Again)) {
            return;
        }
    }
}

/// One step: gives away what was opened, appends to `out` what TLS itself has to say.
fn handle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    out: &mut Vec<u8>,
    opened: &mut dyn FnMut(&[u8]),
    with_traffic: &mut dyn FnMut(&mut dyn Traffic),
) -> (usize, Result<Next, rustls::Error>) {
    let mut discard = status.discard;
    let next = match status.state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    opened(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Next::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(&mut data, out);
            Ok(Next::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It stands in `out`, and leaves before anything that is sealed later.
            data.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            with_traffic(&mut traffic);
            Ok(Next::More)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Next::More),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Next::Closed),
        // Early data is not switched on.
        Ok(_) => Err(rustls::Error::General("unexpected state of TLS".into())),
        Err(error) => Err(error),
    };
    (discard, next)
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        match data.encode(&mut out[start..]) {
            Ok(written) => return out.truncate(start + written),
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                out.resize(start + required_size, 0);
            }
            Err(EncodeError::AlreadyEncoded) => return,
        }
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
