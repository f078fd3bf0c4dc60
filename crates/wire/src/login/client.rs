//! A client logs in to us.
//!
//! [`AwaitStartup`] → [`Asked`] → [`AwaitInitial`] → [`AwaitFinal`] → [`Proved`] → [`LoggedIn`].
//! The messages before [`Asked`] are read with [`crate::startup::first_packet`], those after it
//! with [`crate::message::split`] and [`super::CLIENT_BODY_BYTES_MAX`].

use crate::{
    message::{Message, build, client, parse},
    scram::{
        ChannelBinding, Keys, Nonce, SALT_BYTES, ScramError,
        server::{self as scram, Match},
    },
    startup::{CancelKey, First, GSSENC_REQUEST, Protocol, SSL_REQUEST, Startup, StartupError},
};

/// Why a client is not let in, apart from its startup packet ([`StartupError`]).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LoginError {
    /// It sent Terminate; nobody is there to be answered.
    #[error("client left during login")]
    Left,
    /// A message of this type has no place here.
    #[error("expected SASL response, got message type {0}")]
    OutOfOrder(u8),
    /// The message around SCRAM is malformed.
    #[error(transparent)]
    Malformed(parse::Malformed),
    /// SCRAM ended it.
    #[error(transparent)]
    Scram(ScramError),
}

impl LoginError {
    /// The code PostgreSQL gives the same mistake.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Left | Self::OutOfOrder(_) | Self::Malformed(_) => "08P01",
            Self::Scram(error) => error.sqlstate(),
        }
    }

    /// More about it; empty when there is nothing.
    pub fn detail(&self) -> &'static str {
        match self {
            Self::Scram(error) => error.detail(),
            _ => "",
        }
    }
}

/// Nothing is known yet but the transport.
#[derive(Debug)]
pub struct AwaitStartup {
    tls: Tls,
    gss_answered: bool,
    first: bool,
}

/// Whether a connection is, or can become, encrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tls {
    Offered,
    NotOffered,
    /// Refused once, or under way.
    Settled,
}

/// What a first packet leads to.
#[derive(Debug)]
pub enum Began {
    /// Send this byte. After `S`, run the TLS handshake; the next packet comes inside.
    Answer {
        /// `S` or `N`.
        byte: u8,
        /// Takes the next packet.
        state: AwaitStartup,
    },
    /// Run the TLS handshake without an answer. ALPN must settle on `postgresql`.
    DirectTls(AwaitStartup),
    /// End something, answer nothing, close.
    Cancel(CancelKey),
    /// Somebody wants a session.
    Asked(Asked),
}

impl AwaitStartup {
    /// A connection that has sent nothing yet.
    pub fn new(tls_offered: bool) -> Self {
        Self {
            tls: if tls_offered {
                Tls::Offered
            } else {
                Tls::NotOffered
            },
            gss_answered: false,
            first: true,
        }
    }

    /// Takes a first packet.
    ///
    /// # Errors
    ///
    /// [`StartupError::Protocol`] for a second request of one kind, and requests inside TLS, as
    /// PostgreSQL; [`StartupError::UnexpectedTls`] for a TLS handshake that is not offered or comes
    /// too late.
    pub fn on(self, first: First) -> Result<Began, StartupError> {
        match (first, self.tls) {
            (First::Ssl, Tls::Offered) => Ok(Began::Answer {
                byte: b'S',
                state: Self::inside_tls(),
            }),
            (First::Ssl, Tls::NotOffered) => Ok(Began::Answer {
                byte: b'N',
                state: Self {
                    tls: Tls::Settled,
                    gss_answered: self.gss_answered,
                    first: false,
                },
            }),
            (First::Ssl, Tls::Settled) => Err(StartupError::Protocol(SSL_REQUEST)),
            (First::Gss, _) if self.gss_answered => Err(StartupError::Protocol(GSSENC_REQUEST)),
            (First::Gss, tls) => Ok(Began::Answer {
                byte: b'N',
                state: Self {
                    tls,
                    gss_answered: true,
                    first: false,
                },
            }),
            (First::DirectTls, Tls::Offered) if self.first => {
                Ok(Began::DirectTls(Self::inside_tls()))
            }
            (First::DirectTls, _) => Err(StartupError::UnexpectedTls),
            (First::Cancel(key), _) => Ok(Began::Cancel(key)),
            (First::Startup(startup), _) => Ok(Began::Asked(Asked { startup: *startup })),
        }
    }

    fn inside_tls() -> Self {
        Self {
            tls: Tls::Settled,
            gss_answered: true,
            first: false,
        }
    }
}

/// The client said who it is.
#[derive(Debug)]
pub struct Asked {
    /// All it said.
    pub startup: Startup,
}

impl Asked {
    /// Asks for a proof. Appends NegotiateProtocolVersion where it is due, and AuthenticationSASL.
    pub fn challenge(self, binding: ChannelBinding, out: &mut Vec<u8>) -> AwaitInitial {
        if self.startup.must_negotiate() {
            build::negotiate_protocol_version(
                self.startup.spoken(),
                self.startup
                    .extensions
                    .iter()
                    .map(|(name, _)| name.as_str()),
                out,
            );
        }
        let offer = scram::offer(binding);
        build::authentication_sasl(offer.mechanisms(), out);
        AwaitInitial {
            startup: self.startup,
            offer,
        }
    }
}

/// Waiting for SASLInitialResponse.
#[derive(Debug)]
pub struct AwaitInitial {
    startup: Startup,
    offer: scram::Offer,
}

/// What the exchange is seeded with.
#[derive(Clone, Copy, Debug)]
pub struct Seed {
    /// Fresh for every exchange: [`crate::scram::nonce`].
    pub nonce: Nonce,
    /// Of the login name: [`crate::scram::login_salt`].
    pub salt: [u8; SALT_BYTES],
    /// As the stored keys were made.
    pub iterations: u32,
}

/// After SASLInitialResponse.
#[derive(Debug)]
pub enum AfterInitial {
    /// It only named a mechanism; client-first-message is still to come.
    First(AwaitFirst),
    /// The challenge is out.
    Final(AwaitFinal),
}

impl AwaitInitial {
    /// Takes a message; appends AuthenticationSASLContinue.
    ///
    /// # Errors
    ///
    /// [`LoginError`].
    pub fn on(
        self,
        message: Message<'_>,
        seed: &Seed,
        out: &mut Vec<u8>,
    ) -> Result<AfterInitial, LoginError> {
        let body = sasl_body(message)?;
        let (mechanism, data) =
            parse::sasl_initial_response(body).map_err(LoginError::Malformed)?;
        let state = AwaitFirst {
            startup: self.startup,
            exchange: self.offer.choose(mechanism).map_err(LoginError::Scram)?,
        };
        match data {
            None => {
                build::authentication_sasl_continue(&[], out);
                Ok(AfterInitial::First(state))
            }
            Some(data) => state.take(data, seed, out).map(AfterInitial::Final),
        }
    }
}

/// Waiting for client-first-message, from a client that only named a mechanism before.
#[derive(Debug)]
pub struct AwaitFirst {
    startup: Startup,
    exchange: scram::AwaitFirst,
}

impl AwaitFirst {
    /// Takes a message; appends AuthenticationSASLContinue.
    ///
    /// # Errors
    ///
    /// [`LoginError`].
    pub fn on(
        self,
        message: Message<'_>,
        seed: &Seed,
        out: &mut Vec<u8>,
    ) -> Result<AwaitFinal, LoginError> {
        self.take(sasl_body(message)?, seed, out)
    }

    fn take(self, data: &[u8], seed: &Seed, out: &mut Vec<u8>) -> Result<AwaitFinal, LoginError> {
        let (exchange, server_first) = self
            .exchange
            .on_first(data, &seed.nonce, &seed.salt, seed.iterations)
            .map_err(LoginError::Scram)?;
        build::authentication_sasl_continue(server_first.as_bytes(), out);
        Ok(AwaitFinal {
            startup: self.startup,
            exchange,
        })
    }
}

/// Waiting for the proof.
#[derive(Debug)]
pub struct AwaitFinal {
    startup: Startup,
    exchange: scram::AwaitFinal,
}

impl AwaitFinal {
    /// Takes a message.
    ///
    /// # Errors
    ///
    /// [`LoginError`].
    pub fn on(self, message: Message<'_>) -> Result<Proved, LoginError> {
        let proof = self
            .exchange
            .on_final(sasl_body(message)?)
            .map_err(LoginError::Scram)?;
        Ok(Proved {
            startup: self.startup,
            proof,
        })
    }
}

/// The client sent a proof; whether it is right depends on the keys.
#[derive(Debug)]
pub struct Proved {
    startup: Startup,
    proof: scram::Proof,
}

impl Proved {
    /// Compares with all candidates; see [`scram::Proof::evaluate`]. May be asked again with
    /// other candidates.
    pub fn evaluate(&self, candidates: &[Keys]) -> Option<Match> {
        self.proof.evaluate(candidates)
    }

    /// What the client said at the start.
    pub fn startup(&self) -> &Startup {
        &self.startup
    }

    /// Lets it in: appends AuthenticationSASLFinal and AuthenticationOk. To refuse it although its
    /// secret is right, send an ErrorResponse instead.
    pub fn accept(self, right: &Match, out: &mut Vec<u8>) -> LoggedIn {
        build::authentication_sasl_final(right.server_final.as_bytes(), out);
        build::authentication_ok(out);
        LoggedIn {
            protocol: self.startup.spoken(),
            startup: self.startup,
            candidate: right.candidate,
        }
    }
}

/// The client is in. ParameterStatus, BackendKeyData and ReadyForQuery are still to be sent.
#[derive(Debug)]
pub struct LoggedIn {
    /// All it said at the start.
    pub startup: Startup,
    /// The version spoken with it.
    pub protocol: Protocol,
    /// Which of the candidates it proved.
    pub candidate: usize,
}

fn sasl_body(message: Message<'_>) -> Result<&[u8], LoginError> {
    match message.tag {
        client::PASSWORD => Ok(message.body),
        client::TERMINATE => Err(LoginError::Left),
        other => Err(LoginError::OutOfOrder(other)),
    }
}
