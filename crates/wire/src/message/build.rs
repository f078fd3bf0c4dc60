//! Writing messages. Every function appends one whole message to `out`.
//!
//! Texts end at their first NUL, as they would for the reader: no text can break out of its field.

use super::{Kind, TransactionStatus, client, server};
use crate::startup::{self, CancelKey, Protocol};

/// Fields of an ErrorResponse or NoticeResponse. PostgreSQL manual, "Error and Notice Message
/// Fields".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Report<'a> {
    /// How bad.
    pub severity: Severity,
    /// SQLSTATE.
    pub code: &'a str,
    /// Lowercase, no full stop.
    pub message: &'a str,
    /// More about it. Left out when empty.
    pub detail: &'a str,
    /// What to do about it. Left out when empty.
    pub hint: &'a str,
}

/// Severity in a [`Report`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub enum Severity {
    Panic,
    /// The connection ends.
    Fatal,
    /// The statement ends.
    Error,
    Warning,
    Notice,
    Info,
    Log,
    Debug,
}

impl Severity {
    /// As PostgreSQL spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "PANIC",
            Self::Fatal => "FATAL",
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Info => "INFO",
            Self::Log => "LOG",
            Self::Debug => "DEBUG",
        }
    }
}

/// Writes one message: tag, a length that is filled in afterwards, body.
fn message(tag: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    untagged(out, body);
}

/// A packet from before login: without a tag.
fn untagged(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = i32::try_from(out.len() - start).expect("a message of ours is below 2 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn text(text: &[u8], out: &mut Vec<u8>) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.extend_from_slice(&text[..end]);
    out.push(0);
}

fn authentication(kind: i32, data: &[u8], out: &mut Vec<u8>) {
    message(server::AUTHENTICATION, out, |out| {
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(data);
    });
}

// To clients.

/// AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    authentication(0, &[], out);
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext_password(out: &mut Vec<u8>) {
    authentication(3, &[], out);
}

/// AuthenticationSASL, the mechanisms in order of preference.
pub fn authentication_sasl(mechanisms: &[&str], out: &mut Vec<u8>) {
    message(server::AUTHENTICATION, out, |out| {
        out.extend_from_slice(&10_i32.to_be_bytes());
        for mechanism in mechanisms {
            text(mechanism.as_bytes(), out);
        }
        out.push(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(data: &[u8], out: &mut Vec<u8>) {
    authentication(11, data, out);
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(data: &[u8], out: &mut Vec<u8>) {
    authentication(12, data, out);
}

/// ParameterStatus.
pub fn parameter_status(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    message(server::PARAMETER_STATUS, out, |out| {
        text(name, out);
        text(value, out);
    });
}

/// BackendKeyData. The caller knows which length of secret the client's version allows.
pub fn backend_key_data(key: &CancelKey, out: &mut Vec<u8>) {
    message(server::BACKEND_KEY_DATA, out, |out| {
        out.extend_from_slice(&key.process_id().to_be_bytes());
        out.extend_from_slice(key.secret());
    });
}

/// ReadyForQuery.
pub fn ready_for_query(status: TransactionStatus, out: &mut Vec<u8>) {
    message(server::READY_FOR_QUERY, out, |out| {
        out.push(status.to_byte());
    });
}

/// ErrorResponse.
pub fn error_response(report: &Report<'_>, out: &mut Vec<u8>) {
    message(server::ERROR_RESPONSE, out, |out| fields(report, out));
}

/// NoticeResponse.
pub fn notice_response(report: &Report<'_>, out: &mut Vec<u8>) {
    message(server::NOTICE_RESPONSE, out, |out| fields(report, out));
}

fn fields(report: &Report<'_>, out: &mut Vec<u8>) {
    let severity = report.severity.as_str();
    for (tag, value) in [
        (b'S', severity),
        (b'V', severity),
        (b'C', report.code),
        (b'M', report.message),
        (b'D', report.detail),
        (b'H', report.hint),
    ] {
        if !value.is_empty() {
            out.push(tag);
            text(value.as_bytes(), out);
        }
    }
    out.push(0);
}

/// NegotiateProtocolVersion: the version that is spoken, and the names of the extensions that are
/// not known.
pub fn negotiate_protocol_version<'a>(
    spoken: Protocol,
    unknown: impl IntoIterator<Item = &'a str>,
    out: &mut Vec<u8>,
) {
    message(server::NEGOTIATE_PROTOCOL_VERSION, out, |out| {
        out.extend_from_slice(&spoken.to_bytes());
        let count = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut names = 0_i32;
        for name in unknown {
            text(name.as_bytes(), out);
            names += 1;
        }
        out[count..count + 4].copy_from_slice(&names.to_be_bytes());
    });
}

/// CommandComplete.
pub fn command_complete(tag: &str, out: &mut Vec<u8>) {
    message(server::COMMAND_COMPLETE, out, |out| {
        text(tag.as_bytes(), out);
    });
}

/// EmptyQueryResponse.
pub fn empty_query_response(out: &mut Vec<u8>) {
    message(server::EMPTY_QUERY_RESPONSE, out, |_| {});
}

/// ParseComplete.
pub fn parse_complete(out: &mut Vec<u8>) {
    message(server::PARSE_COMPLETE, out, |_| {});
}

/// CloseComplete.
pub fn close_complete(out: &mut Vec<u8>) {
    message(server::CLOSE_COMPLETE, out, |_| {});
}

/// BindComplete.
pub fn bind_complete(out: &mut Vec<u8>) {
    message(server::BIND_COMPLETE, out, |_| {});
}

/// NoData.
pub fn no_data(out: &mut Vec<u8>) {
    message(server::NO_DATA, out, |_| {});
}

/// PortalSuspended.
pub fn portal_suspended(out: &mut Vec<u8>) {
    message(server::PORTAL_SUSPENDED, out, |_| {});
}

/// ParameterDescription of a statement without parameters.
pub fn no_parameters(out: &mut Vec<u8>) {
    message(server::PARAMETER_DESCRIPTION, out, |out| {
        out.extend_from_slice(&[0; 2]);
    });
}

/// A column of a result that is of no table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a str,
    /// Object id of its type.
    pub type_id: u32,
    /// Bytes of a value; -1: it varies.
    pub size: i16,
    /// 0: text, 1: binary.
    pub format: i16,
}

/// RowDescription.
pub fn row_description<'a>(columns: impl Iterator<Item = Column<'a>>, out: &mut Vec<u8>) {
    counted(server::ROW_DESCRIPTION, columns, out, |column, out| {
        text(column.name.as_bytes(), out);
        // Of no table.
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&column.type_id.to_be_bytes());
        out.extend_from_slice(&column.size.to_be_bytes());
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        out.extend_from_slice(&column.format.to_be_bytes());
    });
}

/// DataRow; `None` is NULL.
pub fn data_row(values: impl Iterator<Item = Option<Vec<u8>>>, out: &mut Vec<u8>) {
    counted(server::DATA_ROW, values, out, |value, out| match value {
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        Some(value) => {
            let length = i32::try_from(value.len()).expect("a value of ours is below 2 GiB");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&value);
        }
    });
}

/// A message of so many things of one kind.
fn counted<T>(
    tag: u8,
    things: impl Iterator<Item = T>,
    out: &mut Vec<u8>,
    write: impl Fn(T, &mut Vec<u8>),
) {
    message(tag, out, |out| {
        let count = out.len();
        out.extend_from_slice(&[0; 2]);
        let mut number = 0_u16;
        for thing in things {
            write(thing, out);
            number += 1;
        }
        out[count..count + 2].copy_from_slice(&number.to_be_bytes());
    });
}

// To servers.

/// StartupMessage, the parameters in the order given.
pub fn startup<'a>(
    protocol: Protocol,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    out: &mut Vec<u8>,
) {
    untagged(out, |out| {
        out.extend_from_slice(&protocol.to_bytes());
        for (name, value) in parameters {
            text(name.as_bytes(), out);
            text(value.as_bytes(), out);
        }
        out.push(0);
    });
}

/// SSLRequest. Nothing may follow it before the answer.
pub fn ssl_request(out: &mut Vec<u8>) {
    untagged(out, |out| {
        out.extend_from_slice(&startup::SSL_REQUEST.to_bytes());
    });
}

/// CancelRequest.
pub fn cancel_request(key: &CancelKey, out: &mut Vec<u8>) {
    untagged(out, |out| {
        out.extend_from_slice(&startup::CANCEL_REQUEST.to_bytes());
        out.extend_from_slice(&key.process_id().to_be_bytes());
        out.extend_from_slice(key.secret());
    });
}

/// PasswordMessage.
pub fn password(password: &str, out: &mut Vec<u8>) {
    message(client::PASSWORD, out, |out| text(password.as_bytes(), out));
}

/// SASLInitialResponse. `None` is the response that is not there, which is not the empty one.
pub fn sasl_initial_response(mechanism: &str, data: Option<&[u8]>, out: &mut Vec<u8>) {
    message(client::PASSWORD, out, |out| {
        text(mechanism.as_bytes(), out);
        let length = data.map_or(-1, |data| {
            i32::try_from(data.len()).expect("a response of ours is below 2 GiB")
        });
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(data.unwrap_or_default());
    });
}

/// SASLResponse.
pub fn sasl_response(data: &[u8], out: &mut Vec<u8>) {
    message(client::PASSWORD, out, |out| out.extend_from_slice(data));
}

/// Query.
pub fn query(sql: &str, out: &mut Vec<u8>) {
    message(client::QUERY, out, |out| text(sql.as_bytes(), out));
}

/// Parse, with the parameter types that are fixed (0: not).
pub fn parse(statement: &[u8], query: &[u8], types: &[u32], out: &mut Vec<u8>) {
    message(client::PARSE, out, |out| {
        text(statement, out);
        text(query, out);
        let count = u16::try_from(types.len()).expect("a statement has at most 65,535 parameters");
        out.extend_from_slice(&count.to_be_bytes());
        for oid in types {
            out.extend_from_slice(&oid.to_be_bytes());
        }
    });
}

/// Bind without parameters, all results as text.
pub fn bind_nothing(portal: &[u8], statement: &[u8], out: &mut Vec<u8>) {
    bind_nulls(portal, statement, 0, out);
}

/// Bind of so many parameters that are null, all results as text.
pub fn bind_nulls(portal: &[u8], statement: &[u8], parameters: u16, out: &mut Vec<u8>) {
    const NULL: [u8; 4] = (-1_i32).to_be_bytes();
    message(client::BIND, out, |out| {
        text(portal, out);
        text(statement, out);
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&parameters.to_be_bytes());
        for _ in 0..parameters {
            out.extend_from_slice(&NULL);
        }
        out.extend_from_slice(&[0; 2]);
    });
}

/// Describe.
pub fn describe(kind: Kind, name: &[u8], out: &mut Vec<u8>) {
    message(client::DESCRIBE, out, |out| target(kind, name, out));
}

/// Close.
pub fn close(kind: Kind, name: &[u8], out: &mut Vec<u8>) {
    message(client::CLOSE, out, |out| target(kind, name, out));
}

fn target(kind: Kind, name: &[u8], out: &mut Vec<u8>) {
    out.push(kind.to_byte());
    text(name, out);
}

/// Execute; 0 rows means all of them.
pub fn execute(portal: &[u8], rows_max: i32, out: &mut Vec<u8>) {
    message(client::EXECUTE, out, |out| {
        text(portal, out);
        out.extend_from_slice(&rows_max.to_be_bytes());
    });
}

/// CopyFail.
pub fn copy_fail(reason: &str, out: &mut Vec<u8>) {
    message(client::COPY_FAIL, out, |out| text(reason.as_bytes(), out));
}

/// Flush.
pub fn flush(out: &mut Vec<u8>) {
    message(client::FLUSH, out, |_| {});
}

/// Sync.
pub fn sync(out: &mut Vec<u8>) {
    message(client::SYNC, out, |_| {});
}

/// Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    message(client::TERMINATE, out, |_| {});
}
