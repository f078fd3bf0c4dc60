//! We log in to a PostgreSQL server.
//!
//! [`start`] gives the first bytes and a [`ServerLogin`]; each message of the server consumes it
//! and gives the next, until [`Step::Ready`]. Before [`start`] comes the settling of TLS: send
//! SSLRequest, read one byte with [`tls_answer`].

use std::{fmt, sync::Arc};

use zeroize::Zeroizing;

use crate::{
    message::{Message, TransactionStatus, build, parse, server},
    scram::{ChannelBinding, ClientKeys, Nonce, ScramError, client as scram},
    startup::{CancelKey, Protocol},
};

/// Messages a server may send during one login. PostgreSQL 18 sends about 20; extensions and
/// notices add to it.
pub const MESSAGES_MAX: u32 = 1000;
/// Bytes of names and values of ParameterStatus that are kept. PostgreSQL's are below 1 kB.
pub const PARAMETERS_BYTES_MAX: usize = 65_536;

/// How, and as whom, to log in.
#[derive(Clone)]
pub struct Credentials {
    /// Login role.
    pub user: String,
    /// Its password.
    pub password: Zeroizing<String>,
    /// Keys from an earlier login; used when the server's salt is still the same.
    pub cached: Option<Arc<ClientKeys>>,
    /// Binds SCRAM to TLS.
    pub binding: ChannelBinding,
    /// What else than SCRAM is good enough.
    pub accept: Accept,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Ways to log in that we go along with beside SCRAM. MD5 and Kerberos are never among them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Accept {
    /// The server asks for nothing (`trust`, `peer`): everybody there is everybody.
    pub trust: bool,
    /// The server wants the password itself.
    pub cleartext: bool,
}

/// Why a login did not succeed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ServerLoginError {
    /// The server said so: wrong password, no such database, too many connections.
    #[error("server refused: {code} {message}")]
    Refused {
        /// SQLSTATE; empty when it sent none.
        code: String,
        /// In its words.
        message: String,
    },
    /// It wants, or is content with, something that [`Accept`] does not allow.
    #[error("server does not use SCRAM but {0}")]
    Method(&'static str),
    /// It does not know the password, or plays foul in the exchange.
    #[error(transparent)]
    Scram(ScramError),
    /// A message of this type has no place here.
    #[error("unexpected message {0:#04x} from server")]
    OutOfOrder(u8),
    /// A message is malformed.
    #[error(transparent)]
    Malformed(parse::Malformed),
    /// It wants to speak a version that we did not ask for.
    #[error("server speaks protocol {0}")]
    Protocol(Protocol),
    /// More than [`MESSAGES_MAX`], [`PARAMETERS_BYTES_MAX`] or
    /// [`super::SERVER_BODY_BYTES_MAX`].
    #[error("server sent too much during login")]
    TooMuch,
}

/// The server's answer to SSLRequest.
///
/// # Errors
///
/// [`ServerLoginError::OutOfOrder`] for anything but one `S` or `N`: an old server's error text
/// must not be shown, it came unprotected (CVE-2024-10977); bytes behind the answer were put there
/// by somebody else (CVE-2021-23222).
pub fn tls_answer(bytes: &[u8]) -> Result<Option<bool>, ServerLoginError> {
    match bytes {
        [] => Ok(None),
        b"S" => Ok(Some(true)),
        b"N" => Ok(Some(false)),
        [b'S' | b'N', stray, ..] | [stray, ..] => Err(ServerLoginError::OutOfOrder(*stray)),
    }
}

/// Begins a login: appends StartupMessage with `user` and then `parameters` in their order.
pub fn start(
    credentials: Credentials,
    protocol: Protocol,
    parameters: &[(&str, &str)],
    nonce: Nonce,
    out: &mut Vec<u8>,
) -> ServerLogin {
    let user = credentials.user.clone();
    let user = [("user", user.as_str())].into_iter();
    build::startup(protocol, user.chain(parameters.iter().copied()), out);
    ServerLogin {
        state: Awaiting::Authentication(AwaitAuthentication { credentials, nonce }),
        seen: Seen {
            protocol,
            messages: 0,
            parameters_bytes: 0,
            parameters: Vec::new(),
            cancel_key: None,
            keys: None,
        },
    }
}

/// A login that is under way.
#[derive(Debug)]
pub struct ServerLogin {
    state: Awaiting,
    seen: Seen,
}

#[derive(Debug)]
enum Awaiting {
    Authentication(AwaitAuthentication),
    ServerFirst(AwaitServerFirst),
    ServerFinal(scram::AwaitServerFinal),
    /// The proofs are exchanged, or the password is sent.
    AuthenticationOk,
    /// AuthenticationOk came.
    Ready,
}

#[derive(Debug)]
struct AwaitAuthentication {
    credentials: Credentials,
    nonce: Nonce,
}

#[derive(Debug)]
struct AwaitServerFirst {
    credentials: Credentials,
    exchange: scram::AwaitServerFirst,
}

/// What was learned on the way.
#[derive(Debug)]
struct Seen {
    protocol: Protocol,
    messages: u32,
    parameters_bytes: usize,
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
    cancel_key: Option<CancelKey>,
    keys: Option<Arc<ClientKeys>>,
}

/// After a message.
#[derive(Debug)]
pub enum Step {
    /// Send what was appended, read the next message.
    Continue(ServerLogin),
    /// The server waits for a query.
    Ready(ServerSession),
}

/// A server connection that is ready.
#[derive(Debug)]
pub struct ServerSession {
    /// The version spoken on it.
    pub protocol: Protocol,
    /// Names and values the server reported, in its order, the last of a name only.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Cancels what runs on it. Some poolers between us and a server give none.
    pub cancel_key: Option<CancelKey>,
    /// In [`TransactionStatus::Idle`], always.
    pub status: TransactionStatus,
    /// For the next login's [`Credentials::cached`]; `None` when SCRAM was not used.
    pub keys: Option<Arc<ClientKeys>>,
}

impl ServerLogin {
    /// Takes a message of the server; appends what to answer.
    ///
    /// # Errors
    ///
    /// [`ServerLoginError`]; close the connection.
    pub fn on(mut self, message: Message<'_>, out: &mut Vec<u8>) -> Result<Step, ServerLoginError> {
        self.seen.messages += 1;
        if self.seen.messages > MESSAGES_MAX
            || message.body.len() > super::SERVER_BODY_BYTES_MAX as usize
        {
            return Err(ServerLoginError::TooMuch);
        }
        // Both may come at any time.
        match message.tag {
            server::ERROR_RESPONSE => return Err(refused(message.body)),
            server::NOTICE_RESPONSE => {
                parse::report(message.body).map_err(ServerLoginError::Malformed)?;
                return Ok(Step::Continue(self));
            }
            _ => {}
        }
        let Self { state, mut seen } = self;
        let state = match (state, message.tag) {
            (Awaiting::Authentication(state), server::NEGOTIATE_PROTOCOL_VERSION) => {
                seen.negotiate(message.body)?;
                Awaiting::Authentication(state)
            }
            (Awaiting::Ready, server::READY_FOR_QUERY) => return seen.ready(message.body),
            (Awaiting::Ready, tag) => {
                seen.after_ok(tag, message.body)?;
                Awaiting::Ready
            }
            (state, server::AUTHENTICATION) => {
                let asked =
                    parse::authentication(message.body).map_err(ServerLoginError::Malformed)?;
                state.authenticate(asked, &mut seen, out)?
            }
            (_, tag) => return Err(ServerLoginError::OutOfOrder(tag)),
        };
        Ok(Step::Continue(Self { state, seen }))
    }
}

impl Awaiting {
    fn authenticate(
        self,
        asked: parse::Authentication<'_>,
        seen: &mut Seen,
        out: &mut Vec<u8>,
    ) -> Result<Self, ServerLoginError> {
        use parse::Authentication as Asked;
        match (self, asked) {
            (Self::Authentication(state), Asked::Sasl(mechanisms)) => {
                let started = scram::start(
                    state.credentials.binding.clone(),
                    mechanisms.iter(),
                    &state.nonce,
                )
                .map_err(ServerLoginError::Scram)?;
                let first = started.client_first.as_bytes();
                build::sasl_initial_response(started.mechanism, Some(first), out);
                Ok(Self::ServerFirst(AwaitServerFirst {
                    credentials: state.credentials,
                    exchange: started.state,
                }))
            }
            (Self::ServerFirst(state), Asked::SaslContinue(data)) => {
                let Credentials {
                    password, cached, ..
                } = state.credentials;
                let (exchange, answer) = state
                    .exchange
                    .on_server_first(data, &password, cached)
                    .map_err(ServerLoginError::Scram)?;
                build::sasl_response(answer.as_bytes(), out);
                Ok(Self::ServerFinal(exchange))
            }
            (Self::ServerFinal(exchange), Asked::SaslFinal(data)) => {
                seen.keys = Some(
                    exchange
                        .on_server_final(data)
                        .map_err(ServerLoginError::Scram)?,
                );
                Ok(Self::AuthenticationOk)
            }
            (Self::AuthenticationOk, Asked::Ok) => Ok(Self::Ready),
            (Self::Authentication(state), Asked::Ok) if state.credentials.accept.trust => {
                Ok(Self::Ready)
            }
            (Self::Authentication(state), Asked::CleartextPassword)
                if state.credentials.accept.cleartext =>
            {
                build::password(&state.credentials.password, out);
                Ok(Self::AuthenticationOk)
            }
            (Self::Authentication(_), asked) => Err(ServerLoginError::Method(match asked {
                Asked::Ok => "no password at all",
                Asked::CleartextPassword => "the password itself",
                Asked::Md5Password { .. } => "MD5",
                _ => "a method we do not know",
            })),
            _ => Err(ServerLoginError::OutOfOrder(server::AUTHENTICATION)),
        }
    }
}

impl Seen {
    fn negotiate(&mut self, body: &[u8]) -> Result<(), ServerLoginError> {
        let (protocol, _) =
            parse::negotiate_protocol_version(body).map_err(ServerLoginError::Malformed)?;
        // Down is the only way; and twice makes no sense, but does no harm.
        if protocol < Protocol::V3_0 || protocol > self.protocol {
            return Err(ServerLoginError::Protocol(protocol));
        }
        self.protocol = protocol;
        Ok(())
    }

    fn after_ok(&mut self, tag: u8, body: &[u8]) -> Result<(), ServerLoginError> {
        match tag {
            server::PARAMETER_STATUS => {
                let (name, value) =
                    parse::parameter_status(body).map_err(ServerLoginError::Malformed)?;
                self.parameters_bytes += name.len() + value.len();
                if self.parameters_bytes > PARAMETERS_BYTES_MAX {
                    return Err(ServerLoginError::TooMuch);
                }
                self.parameters.retain(|(own, _)| own != name);
                self.parameters.push((name.to_vec(), value.to_vec()));
                Ok(())
            }
            server::BACKEND_KEY_DATA => {
                let key = parse::backend_key_data(body).map_err(ServerLoginError::Malformed)?;
                if key.secret().len() != 4 && !self.protocol.has_long_cancel_keys() {
                    return Err(ServerLoginError::Malformed(parse::Malformed(
                        "BackendKeyData",
                    )));
                }
                self.cancel_key = Some(key);
                Ok(())
            }
            other => Err(ServerLoginError::OutOfOrder(other)),
        }
    }

    fn ready(self, body: &[u8]) -> Result<Step, ServerLoginError> {
        let status = parse::ready_for_query(body).map_err(ServerLoginError::Malformed)?;
        if status != TransactionStatus::Idle {
            return Err(ServerLoginError::OutOfOrder(server::READY_FOR_QUERY));
        }
        Ok(Step::Ready(ServerSession {
            protocol: self.protocol,
            parameters: self.parameters,
            cancel_key: self.cancel_key,
            status,
            keys: self.keys,
        }))
    }
}

fn refused(body: &[u8]) -> ServerLoginError {
    match parse::report(body) {
        Ok(report) => ServerLoginError::Refused {
            code: report.code().to_owned(),
            message: report.message().into_owned(),
        },
        Err(error) => ServerLoginError::Malformed(error),
    }
}
