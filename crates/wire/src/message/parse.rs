//! Reading messages. Every function takes the body of one message (what follows the length) and
//! borrows from it.
//!
//! Texts are bytes: their encoding is the session's, not ours.

use std::borrow::Cow;

use super::{Kind, TransactionStatus};
use crate::startup::{CancelKey, Protocol};

/// The body is not what the manual says it is. The stream is out of step, or the peer is broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed {0} message")]
pub struct Malformed(pub &'static str);

/// What is left to read of a body.
struct Reader<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl<'a> Reader<'a> {
    fn new(body: &'a [u8], message: &'static str) -> Self {
        Self {
            rest: body,
            message,
        }
    }

    fn malformed(&self) -> Malformed {
        Malformed(self.message)
    }

    fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(0, self.rest).ok_or(self.malformed())?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(self.malformed())?;
        self.rest = rest;
        Ok(*array)
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    fn end<T>(self, value: T) -> Result<T, Malformed> {
        if self.rest.is_empty() {
            Ok(value)
        } else {
            Err(self.malformed())
        }
    }
}

// From servers.

/// Fields of an ErrorResponse or NoticeResponse.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Report<'a> {
    body: &'a [u8],
}

impl<'a> Report<'a> {
    /// The field of a letter.
    pub fn field(&self, letter: u8) -> Option<&'a [u8]> {
        self.fields().find(|(own, _)| *own == letter).map(|f| f.1)
    }

    /// All fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            let (letter, after) = rest.split_first()?;
            let end = memchr::memchr(0, after)?;
            rest = &after[end + 1..];
            (*letter != 0).then(|| (*letter, &after[..end]))
        })
    }

    /// SQLSTATE; empty when the server sent none.
    pub fn code(&self) -> &'a str {
        self.ascii(b'C')
    }

    /// Severity in PostgreSQL's own words whatever the server's language is.
    pub fn severity(&self) -> &'a str {
        match self.ascii(b'V') {
            // Before 9.6.
            "" => self.ascii(b'S'),
            severity => severity,
        }
    }

    /// The message, for logs.
    pub fn message(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.field(b'M').unwrap_or_default())
    }

    /// Whether the connection ends with it.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity(), "FATAL" | "PANIC")
    }

    fn ascii(&self, letter: u8) -> &'a str {
        self.field(letter)
            .and_then(|value| str::from_utf8(value).ok())
            .unwrap_or_default()
    }
}

/// ErrorResponse and NoticeResponse.
///
/// # Errors
///
/// [`Malformed`] when a field does not end, or the list does not end where the message does.
pub fn report(body: &[u8]) -> Result<Report<'_>, Malformed> {
    let mut reader = Reader::new(body, "ErrorResponse");
    loop {
        let [letter] = reader.array()?;
        if letter == 0 {
            return reader.end(Report { body });
        }
        reader.text()?;
    }
}

/// ParameterStatus: name and value.
///
/// # Errors
///
/// [`Malformed`].
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body, "ParameterStatus");
    let parameter = (reader.text()?, reader.text()?);
    reader.end(parameter)
}

/// BackendKeyData.
///
/// # Errors
///
/// [`Malformed`], also when the secret is shorter than 4 bytes or longer than 256.
pub fn backend_key_data(body: &[u8]) -> Result<CancelKey, Malformed> {
    let mut reader = Reader::new(body, "BackendKeyData");
    let process_id = reader.i32()?;
    CancelKey::new(process_id, reader.rest).ok_or(reader.malformed())
}

/// ReadyForQuery.
///
/// # Errors
///
/// [`Malformed`].
pub fn ready_for_query(body: &[u8]) -> Result<TransactionStatus, Malformed> {
    match body {
        [byte] => TransactionStatus::from_byte(*byte),
        _ => None,
    }
    .ok_or(Malformed("ReadyForQuery"))
}

/// What a server asks for at login.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Authentication<'a> {
    /// Nothing, or nothing more.
    Ok,
    /// The password as it is.
    CleartextPassword,
    /// An MD5 hash.
    Md5Password {
        /// Mixed into it.
        salt: [u8; 4],
    },
    /// One of these mechanisms.
    Sasl(Mechanisms<'a>),
    /// The server's next word in the mechanism.
    SaslContinue(&'a [u8]),
    /// Its last word.
    SaslFinal(&'a [u8]),
    /// Kerberos and others that we do not speak.
    Other(i32),
}

/// Mechanisms a server offers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mechanisms<'a>(&'a [u8]);

impl<'a> Mechanisms<'a> {
    /// In the server's order of preference.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.0
            .split(|byte| *byte == 0)
            .take_while(|m| !m.is_empty())
    }

    /// Whether this one is among them.
    pub fn contains(&self, mechanism: &str) -> bool {
        self.iter().any(|own| own == mechanism.as_bytes())
    }
}

/// All messages that begin with `R`.
///
/// # Errors
///
/// [`Malformed`].
pub fn authentication(body: &[u8]) -> Result<Authentication<'_>, Malformed> {
    let mut reader = Reader::new(body, "Authentication");
    match reader.i32()? {
        0 => reader.end(Authentication::Ok),
        3 => reader.end(Authentication::CleartextPassword),
        5 => {
            let salt = reader.array()?;
            reader.end(Authentication::Md5Password { salt })
        }
        10 => {
            let list = Mechanisms(reader.rest);
            while !reader.text()?.is_empty() {}
            reader.end(Authentication::Sasl(list))
        }
        11 => Ok(Authentication::SaslContinue(reader.rest)),
        12 => Ok(Authentication::SaslFinal(reader.rest)),
        other => Ok(Authentication::Other(other)),
    }
}

/// NegotiateProtocolVersion: the newest version the server speaks with us, and how many of our
/// extensions it does not know.
///
/// # Errors
///
/// [`Malformed`], also when the names are not as many as announced.
pub fn negotiate_protocol_version(body: &[u8]) -> Result<(Protocol, u32), Malformed> {
    let mut reader = Reader::new(body, "NegotiateProtocolVersion");
    let protocol = Protocol::from_bytes(reader.array()?);
    let unknown = u32::try_from(reader.i32()?).map_err(|_| reader.malformed())?;
    for _ in 0..unknown {
        reader.text()?;
    }
    reader.end((protocol, unknown))
}

/// NotificationResponse.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Notification<'a> {
    /// Who sent it.
    pub process_id: i32,
    /// Where.
    pub channel: &'a [u8],
    /// What.
    pub payload: &'a [u8],
}

/// NotificationResponse.
///
/// # Errors
///
/// [`Malformed`].
pub fn notification_response(body: &[u8]) -> Result<Notification<'_>, Malformed> {
    let mut reader = Reader::new(body, "NotificationResponse");
    let notification = Notification {
        process_id: reader.i32()?,
        channel: reader.text()?,
        payload: reader.text()?,
    };
    reader.end(notification)
}

/// Tag of CommandComplete.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CommandTag<'a> {
    /// As it came: `SELECT 5`, `INSERT 0 1`, `BEGIN`.
    pub text: &'a [u8],
    /// Its last word when that is a number.
    pub rows: Option<u64>,
}

/// CommandComplete.
///
/// # Errors
///
/// [`Malformed`].
pub fn command_complete(body: &[u8]) -> Result<CommandTag<'_>, Malformed> {
    let mut reader = Reader::new(body, "CommandComplete");
    let text = reader.text()?;
    let rows = memchr::memrchr(b' ', text)
        .and_then(|space| str::from_utf8(&text[space + 1..]).ok())
        .and_then(|number| number.parse().ok());
    reader.end(CommandTag { text, rows })
}

// From clients.

/// Query: the text of its statements.
///
/// # Errors
///
/// [`Malformed`].
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body, "Query");
    let text = reader.text()?;
    reader.end(text)
}

/// Parse.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parse<'a> {
    /// Name it will have; empty for the unnamed one.
    pub statement: &'a [u8],
    /// Its text.
    pub query: &'a [u8],
    /// Object ids of the parameter types that are fixed, as they stand in the message: four bytes
    /// each.
    pub types: &'a [u8],
}

impl Parse<'_> {
    /// Object ids of the parameter types; 0 where the server is to decide.
    pub fn type_ids(&self) -> impl ExactSizeIterator<Item = u32> {
        self.types
            .as_chunks::<4>()
            .0
            .iter()
            .map(|oid| u32::from_be_bytes(*oid))
    }
}

/// Parse.
///
/// # Errors
///
/// [`Malformed`].
pub fn parse(body: &[u8]) -> Result<Parse<'_>, Malformed> {
    let mut reader = Reader::new(body, "Parse");
    let (statement, query) = (reader.text()?, reader.text()?);
    let count = usize::from(u16::from_be_bytes(reader.array()?));
    if reader.rest.len() != count * 4 {
        return Err(reader.malformed());
    }
    Ok(Parse {
        statement,
        query,
        types: reader.rest,
    })
}

/// The beginning of Bind, which may be read before the rest has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bind<'a> {
    /// Name the portal will have; empty for the unnamed one.
    pub portal: &'a [u8],
    /// Name of the statement.
    pub statement: &'a [u8],
    /// Formats, values and result formats, unread.
    pub rest: &'a [u8],
}

/// The beginning of Bind.
///
/// # Errors
///
/// [`Malformed`].
pub fn bind(body: &[u8]) -> Result<Bind<'_>, Malformed> {
    let mut reader = Reader::new(body, "Bind");
    Ok(Bind {
        portal: reader.text()?,
        statement: reader.text()?,
        rest: reader.rest,
    })
}

/// Describe and Close: what, and its name.
///
/// # Errors
///
/// [`Malformed`].
pub fn target(body: &[u8]) -> Result<(Kind, &[u8]), Malformed> {
    let mut reader = Reader::new(body, "Describe or Close");
    let [kind] = reader.array()?;
    let kind = Kind::from_byte(kind).ok_or(reader.malformed())?;
    let name = reader.text()?;
    reader.end((kind, name))
}

/// Execute: the portal, and how many rows (0: all).
///
/// # Errors
///
/// [`Malformed`].
pub fn execute(body: &[u8]) -> Result<(&[u8], i32), Malformed> {
    let mut reader = Reader::new(body, "Execute");
    let execute = (reader.text()?, reader.i32()?);
    reader.end(execute)
}

/// PasswordMessage.
///
/// # Errors
///
/// [`Malformed`].
pub fn password(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body, "Password");
    let password = reader.text()?;
    reader.end(password)
}

/// SASLInitialResponse: the mechanism, and the response if there is one.
///
/// # Errors
///
/// [`Malformed`], also when the response is shorter or longer than announced.
pub fn sasl_initial_response(body: &[u8]) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let mut reader = Reader::new(body, "SASLInitialResponse");
    let mechanism = reader.text()?;
    let length = reader.i32()?;
    if length == -1 {
        return reader.end((mechanism, None));
    }
    if usize::try_from(length) == Ok(reader.rest.len()) {
        Ok((mechanism, Some(reader.rest)))
    } else {
        Err(reader.malformed())
    }
}
