//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: RFC 5802, RFC 7677, and what PostgreSQL makes of them.
//!
//! Owns: keys and verifiers ([`Keys`], [`Verifier`]), the server's side ([`server`]), the client's
//! side ([`client`]), the hash that binds an exchange to a certificate ([`end_point_hash`]). Does
//! not own: the messages it travels in ([`crate::login`]) or which keys belong to whom. The user
//! name inside the exchange is ignored, as in PostgreSQL: the startup packet has it.

pub(crate) mod attributes;
mod certificate;
pub mod client;
mod keys;
mod prepare;
pub mod server;

pub use certificate::end_point_hash;
pub use keys::{
    ClientKeys, ITERATIONS_DEFAULT, Keys, SALT_BYTES, Verifier, VerifierError, login_salt,
};

use rand::{TryRng, rngs::SysRng};

/// Name of the mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// Name of the mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Fresh randomness for one exchange; 18 bytes are 24 characters on the wire.
pub type Nonce = [u8; 18];

/// What [`nonce`] and [`salt`] are made from failed; there is nothing safe left to do.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness(#[source] rand::rngs::SysError);

/// A new nonce from the system's generator.
///
/// # Errors
///
/// [`NoRandomness`].
pub fn nonce() -> Result<Nonce, NoRandomness> {
    random()
}

/// A new salt from the system's generator.
///
/// # Errors
///
/// [`NoRandomness`].
pub fn salt() -> Result<[u8; SALT_BYTES], NoRandomness> {
    random()
}

fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}

/// Whether, and how, an exchange can be bound to the TLS connection it runs over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ChannelBinding {
    /// No TLS, or a certificate without a hash (see [`end_point_hash`]).
    Unavailable,
    /// `tls-server-end-point`, with this hash of the server's certificate.
    EndPoint(Vec<u8>),
}

impl ChannelBinding {
    /// Of a connection whose server showed this certificate (DER).
    pub fn of_certificate(certificate: &[u8]) -> Self {
        end_point_hash(certificate).map_or(Self::Unavailable, Self::EndPoint)
    }
}

/// Why an exchange ended without success.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ScramError {
    /// The peer does not speak SCRAM as it should. Says what is wrong with its message.
    #[error("malformed SCRAM message")]
    Malformed(&'static str),
    /// The peer answers another exchange.
    #[error("invalid SCRAM response")]
    Nonce,
    /// The client chose a mechanism that was not offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// The client wants to act as somebody else.
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    /// The peer insists on an extension.
    #[error("client requires an unsupported SCRAM extension")]
    Extension,
    /// A kind of channel binding other than `tls-server-end-point`.
    #[error("unsupported SCRAM channel-binding type")]
    BindingType,
    /// The client could bind but was told that we cannot: somebody between us cut our offer.
    #[error("SCRAM channel binding negotiation error")]
    BindingDowngrade,
    /// The client is bound to another certificate: somebody between us has one.
    #[error("SCRAM channel binding check failed")]
    BindingMismatch,
    /// No key matched. Also for logins that do not exist.
    #[error("password authentication failed")]
    WrongProof,
    /// The server does not know our password; it only asked for it.
    #[error("server did not prove that it knows the password")]
    WrongServer,
    /// The server asks for more hashing than [`client::ITERATIONS_MAX`].
    #[error("server asks for too many SCRAM iterations")]
    Iterations,
}

impl ScramError {
    /// The code PostgreSQL gives the same mistake.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Nonce | Self::Mechanism | Self::BindingType => "08P01",
            Self::AuthorizationIdentity | Self::Extension => "0A000",
            Self::BindingDowngrade | Self::BindingMismatch => "28000",
            Self::WrongProof => "28P01",
            Self::WrongServer | Self::Iterations => "08P01",
        }
    }

    /// More about it, as PostgreSQL says it; empty when there is nothing.
    pub fn detail(&self) -> &'static str {
        match self {
            Self::Malformed(detail) => detail,
            Self::Nonce => "Nonce does not match.",
            Self::BindingDowngrade => {
                "The client supports SCRAM channel binding but thinks the server does not.  \
                 However, this server does support channel binding."
            }
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests;
