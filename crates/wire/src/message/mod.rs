//! Messages: what we write ourselves ([`build`]) and the few we look into ([`parse`]).
//!
//! Owns: the bytes of one message each. Does not own: finding messages in a stream that is being
//! relayed, or what order they come in. Both halves work on one message; [`split`] is for the
//! moments, like login, when a handful of small ones are read whole.

pub mod build;
pub mod parse;

/// First bytes of messages that clients send.
pub mod client {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    /// PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse share it.
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// First bytes of messages that servers send.
pub mod server {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// Status in ReadyForQuery.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum TransactionStatus {
    /// No transaction.
    Idle,
    /// In a transaction.
    InTransaction,
    /// In a transaction that can only be rolled back.
    Failed,
}

impl TransactionStatus {
    /// As it stands in the message.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }

    /// Reads [`Self::to_byte`] back.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What Describe and Close speak of.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Kind {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

impl Kind {
    /// As it stands in the message.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Statement => b'S',
            Self::Portal => b'P',
        }
    }

    /// Reads [`Self::to_byte`] back.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'S' => Some(Self::Statement),
            b'P' => Some(Self::Portal),
            _ => None,
        }
    }
}

/// One message, whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message<'a> {
    /// Its first byte.
    pub tag: u8,
    /// What follows the length.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Bytes it took in the stream, with tag and length.
    pub fn size(&self) -> usize {
        self.body.len() + HEADER_BYTES
    }
}

/// Tag and length.
pub const HEADER_BYTES: usize = 5;

/// Why the bytes at hand are no message that may be read whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SplitError {
    /// The length does not even count itself; the stream is out of step.
    #[error("invalid message length")]
    Length,
    /// Longer than the caller is ready to keep.
    #[error("message with a body of {body_bytes} bytes is longer than {body_bytes_max}")]
    TooLong {
        /// As announced.
        body_bytes: u32,
        /// As allowed.
        body_bytes_max: u32,
    },
}

/// The first message in `buf`; `None` when more bytes are needed. Refuses by the header alone.
///
/// # Errors
///
/// [`SplitError`]: nothing after this place in the stream can be trusted.
pub fn split(buf: &[u8], body_bytes_max: u32) -> Result<Option<Message<'_>>, SplitError> {
    let Some((&[tag, a, b, c, d], rest)) = buf.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    // Signed on the wire, and it counts itself, but not the tag.
    let body_bytes = i32::from_be_bytes([a, b, c, d])
        .checked_sub(4)
        .and_then(|bytes| u32::try_from(bytes).ok())
        .ok_or(SplitError::Length)?;
    if body_bytes > body_bytes_max {
        return Err(SplitError::TooLong {
            body_bytes,
            body_bytes_max,
        });
    }
    Ok(rest
        .get(..body_bytes as usize)
        .map(|body| Message { tag, body }))
}

#[cfg(test)]
mod tests;
