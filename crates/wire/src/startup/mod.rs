//! The first packets of a client, before anything else is known about it.
//!
//! Owns: telling a startup packet from a request for TLS, a cancel, and what does not speak
//! PostgreSQL at all; the parameters in it; which protocol version is spoken. Follows
//! `ProcessStartupPacket` of PostgreSQL 18. Does not own: which of these are allowed when
//! ([`crate::login`]) or where a startup leads.

mod options;
mod parameters;

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use zeroize::Zeroizing;

pub use options::{OptionError, Options};
pub use parameters::{Replication, Startup};

/// Longest packet before login, all of it. PostgreSQL's `MAX_STARTUP_PACKET_LENGTH` is the same number
/// and does not count the length word; here the length that a packet announces is what is compared.
pub const STARTUP_PACKET_BYTES_MAX: usize = 10_000;
/// Longest secret of a cancel key (protocol 3.2).
pub const CANCEL_SECRET_BYTES_MAX: usize = 256;
/// Shortest one; the only length protocol 3.0 knows.
pub const CANCEL_SECRET_BYTES_MIN: usize = 4;

/// Request codes stand where the version stands, with a major version no protocol will have.
pub(crate) const CANCEL_REQUEST: Protocol = Protocol::new(1234, 5678);
pub(crate) const SSL_REQUEST: Protocol = Protocol::new(1234, 5679);
pub(crate) const GSSENC_REQUEST: Protocol = Protocol::new(1234, 5680);

/// First byte of a TLS record that carries a handshake. As the first byte of a length it would
/// announce hundreds of megabytes, so the two cannot be confused.
const TLS_HANDSHAKE: u8 = 0x16;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub struct Protocol {
    /// 3 for everything alive.
    pub major: u16,
    /// 0 or 2; clients also send ones that do not exist, to see that servers cope.
    pub minor: u16,
}

impl Protocol {
    /// Of PostgreSQL 7.4 and most clients.
    pub const V3_0: Self = Self::new(3, 0);
    /// Of PostgreSQL 18: cancel keys longer than four bytes. There is no 3.1.
    pub const V3_2: Self = Self::new(3, 2);
    /// The newest we speak.
    pub const LATEST: Self = Self::V3_2;

    /// A version, existing or not.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// As it stands in a packet.
    pub const fn to_bytes(self) -> [u8; 4] {
        let (major, minor) = (self.major.to_be_bytes(), self.minor.to_be_bytes());
        [major[0], major[1], minor[0], minor[1]]
    }

    /// Reads [`Self::to_bytes`] back.
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self::new(
            u16::from_be_bytes([bytes[0], bytes[1]]),
            u16::from_be_bytes([bytes[2], bytes[3]]),
        )
    }

    /// Whether BackendKeyData may carry a secret that is not four bytes long.
    pub fn has_long_cancel_keys(self) -> bool {
        self >= Self::V3_2
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What ends a running statement: BackendKeyData gives it, CancelRequest brings it back.
#[derive(Clone, Eq, PartialEq)]
pub struct CancelKey {
    process_id: i32,
    secret: Zeroizing<Box<[u8]>>,
}

impl CancelKey {
    /// `None` unless the secret has 4 to 256 bytes.
    pub fn new(process_id: i32, secret: &[u8]) -> Option<Self> {
        (CANCEL_SECRET_BYTES_MIN..=CANCEL_SECRET_BYTES_MAX)
            .contains(&secret.len())
            .then(|| Self {
                process_id,
                secret: Zeroizing::new(secret.into()),
            })
    }

    /// The number shown by `pg_backend_pid()`; no secret.
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// The secret part, 4 to 256 bytes.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }
}

impl Hash for CancelKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.process_id.hash(state);
        self.secret().hash(state);
    }
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelKey({}, ..)", self.process_id)
    }
}

/// A first packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum First {
    /// SSLRequest. Nothing followed it: see [`StartupError::UnencryptedData`].
    Ssl,
    /// GSSENCRequest; the same holds.
    Gss,
    /// The connection begins with a TLS handshake, without asking. Nothing is consumed.
    DirectTls,
    /// CancelRequest. No answer is ever sent.
    Cancel(CancelKey),
    /// A session is wanted.
    Startup(Box<Startup>),
}

/// Why there will be no session. Everything but [`Self::Http`] and [`Self::UnexpectedTls`] is
/// answered by an ErrorResponse.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StartupError {
    /// An HTTP request; can be told so in its own language.
    #[error("received an HTTP request")]
    Http,
    /// No packet begins like that. PostgreSQL answers it as a packet that is too long; who sent it
    /// may be a client of PostgreSQL behind something that is broken.
    #[error("expected a startup packet of the PostgreSQL protocol, received something else")]
    NotPostgres,
    /// A TLS handshake where TLS is not offered, or comes too late. Nobody who waits for a TLS
    /// answer can read another one.
    #[error("received a TLS handshake where none is expected")]
    UnexpectedTls,
    /// Too short, too long, or a request whose length is fixed has another one.
    #[error("invalid length of startup packet")]
    Length,
    /// The cancel key is shorter than 4 bytes or longer than 256.
    #[error("invalid length of cancel key in cancel request packet")]
    CancelKeyLength,
    /// Bytes followed a request for encryption before it was answered: a broken client, or
    /// somebody in the middle who puts words into its mouth (CVE-2021-23214).
    #[error("received unencrypted data after {0} request")]
    UnencryptedData(Encryption),
    /// Not major version 3.
    #[error("unsupported frontend protocol {0}: server supports 3.0 to {latest}", latest = Protocol::LATEST)]
    Protocol(Protocol),
    /// Names and values do not end where the packet ends.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// Text that is not UTF-8.
    #[error("invalid byte sequence for encoding \"UTF8\" in startup packet")]
    Encoding,
    /// No user, or an empty one.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// The value of `replication` is neither a boolean nor `database`.
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    Replication(String),
}

/// Which encryption a client asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Encryption {
    /// TLS.
    Ssl,
    /// Kerberos.
    Gss,
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ssl => "SSL",
            Self::Gss => "GSSAPI encryption",
        })
    }
}

impl StartupError {
    /// The code PostgreSQL gives the same mistake.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Http
            | Self::NotPostgres
            | Self::UnexpectedTls
            | Self::Length
            | Self::CancelKeyLength
            | Self::UnencryptedData(_)
            | Self::Layout => "08P01", // protocol_violation
            Self::Protocol(_) => "0A000",    // feature_not_supported
            Self::Encoding => "22021",       // character_not_in_repertoire
            Self::NoUser => "28000",         // invalid_authorization_specification
            Self::Replication(_) => "22023", // invalid_parameter_value
        }
    }
}

/// Reads the first packet of a connection, or of a connection whose encryption was just settled.
///
/// Returns how many bytes it took and what it was; `None` when more bytes are needed. What can
/// never become a packet is refused by its first bytes, at the latest by the eighth, so nobody
/// waits for, or keeps, a packet that will be refused.
///
/// # Errors
///
/// Any [`StartupError`]. A request for encryption with bytes behind it is refused whatever the
/// answer would have been, as PostgreSQL does.
pub fn first_packet(buf: &[u8]) -> Result<Option<(usize, First)>, StartupError> {
    match buf.first() {
        None => return Ok(None),
        Some(&TLS_HANDSHAKE) => return Ok(Some((0, First::DirectTls))),
        // A length below 65,536 begins with two zeros.
        Some(0) if buf.get(1).is_none_or(|second| *second == 0) => {}
        Some(_) => return foreign(buf),
    }
    let Some(length) = buf.first_chunk::<4>() else {
        return Ok(None);
    };
    // Counts itself; the code that follows is the least there can be.
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| StartupError::Length)?;
    if !(8..=STARTUP_PACKET_BYTES_MAX).contains(&length) {
        return Err(StartupError::Length);
    }
    let Some(code) = buf.get(4..8).and_then(|code| code.first_chunk::<4>()) else {
        return Ok(None);
    };
    match Protocol::from_bytes(*code) {
        SSL_REQUEST => request(buf, length, Encryption::Ssl).map(Some),
        GSSENC_REQUEST => request(buf, length, Encryption::Gss).map(Some),
        CANCEL_REQUEST => {
            let secret = length.saturating_sub(12);
            if !(CANCEL_SECRET_BYTES_MIN..=CANCEL_SECRET_BYTES_MAX).contains(&secret) {
                return Err(StartupError::CancelKeyLength);
            }
            let Some(body) = buf.get(8..length) else {
                return Ok(None);
            };
            let key = body
                .split_first_chunk::<4>()
                .and_then(|(id, secret)| CancelKey::new(i32::from_be_bytes(*id), secret))
                .ok_or(StartupError::CancelKeyLength)?;
            Ok(Some((length, First::Cancel(key))))
        }
        // PostgreSQL reads the rest of the packet before it says so; the answer is the same.
        protocol if protocol.major != 3 => Err(StartupError::Protocol(protocol)),
        protocol => {
            let Some(body) = buf.get(8..length) else {
                return Ok(None);
            };
            let startup = Startup::parse(protocol, body)?;
            Ok(Some((length, First::Startup(Box::new(startup)))))
        }
    }
}

fn request(buf: &[u8], length: usize, what: Encryption) -> Result<(usize, First), StartupError> {
    if length != 8 {
        return Err(StartupError::Length);
    }
    if buf.len() > length {
        return Err(StartupError::UnencryptedData(what));
    }
    let first = match what {
        Encryption::Ssl => First::Ssl,
        Encryption::Gss => First::Gss,
    };
    Ok((length, first))
}

/// Begins like no packet of ours. Waits for at most four bytes, to tell HTTP from noise.
fn foreign(buf: &[u8]) -> Result<Option<(usize, First)>, StartupError> {
    /// Four bytes of each method, and of the preface of HTTP/2.
    const METHODS: [&[u8; 4]; 10] = [
        b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI ",
    ];
    let head = buf.get(..4).unwrap_or(buf);
    if METHODS.iter().any(|method| method.as_slice() == head) {
        Err(StartupError::Http)
    } else if head.len() < 4 && METHODS.iter().any(|method| method.starts_with(head)) {
        Ok(None)
    } else {
        Err(StartupError::NotPostgres)
    }
}

#[cfg(test)]
mod tests;
