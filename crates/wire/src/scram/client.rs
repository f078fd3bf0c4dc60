//! The client's side of an exchange: we prove to a PostgreSQL server that we know a password, and
//! it proves the same to us.
//!
//! [`start`] → [`AwaitServerFirst`] → [`AwaitServerFinal`] → done.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::{
    ChannelBinding, ClientKeys, Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError,
    attributes::{Attributes, decode, decode_hash, encode, is_printable},
};

/// Rounds of hashing we do for a server at most: a third of a second. PostgreSQL's default is
/// 4096; without a limit a hostile server could keep a thread busy for hours.
pub const ITERATIONS_MAX: u32 = 1_000_000;

/// Which of the server's mechanisms was chosen, and the first message to send.
#[derive(Debug)]
pub struct Started {
    /// For SASLInitialResponse.
    pub mechanism: &'static str,
    /// For SASLInitialResponse.
    pub client_first: String,
    /// Takes the server's answer.
    pub state: AwaitServerFirst,
}

/// Begins an exchange. Binds it to the TLS connection when both sides can; when only we can, says
/// so, and a server that was cut off from its offer by somebody will notice.
///
/// # Errors
///
/// [`ScramError::Mechanism`] when the server offers none that we speak.
pub fn start<'a>(
    binding: ChannelBinding,
    offered: impl IntoIterator<Item = &'a [u8]>,
    nonce: &Nonce,
) -> Result<Started, ScramError> {
    let (mut plain, mut plus) = (false, false);
    for mechanism in offered {
        plain |= mechanism == SCRAM_SHA_256.as_bytes();
        plus |= mechanism == SCRAM_SHA_256_PLUS.as_bytes();
    }
    let (mechanism, header, hash) = match binding {
        ChannelBinding::EndPoint(hash) if plus => {
            (SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,", hash)
        }
        ChannelBinding::EndPoint(_) if plain => (SCRAM_SHA_256, "y,,", Vec::new()),
        ChannelBinding::Unavailable if plain => (SCRAM_SHA_256, "n,,", Vec::new()),
        _ => return Err(ScramError::Mechanism),
    };
    let nonce = encode(nonce);
    // PostgreSQL ignores the user name here; libpq leaves it empty too.
    let bare = format!("n=,r={nonce}");
    let client_first = format!("{header}{bare}");
    let mut channel = header.as_bytes().to_vec();
    channel.extend_from_slice(&hash);
    Ok(Started {
        mechanism,
        client_first,
        state: AwaitServerFirst {
            nonce,
            bare,
            channel: encode(channel),
        },
    })
}

/// Waiting for the challenge.
#[derive(Debug)]
pub struct AwaitServerFirst {
    pub(super) nonce: String,
    pub(super) bare: String,
    pub(super) channel: String,
}

impl AwaitServerFirst {
    /// Reads server-first-message; returns client-final-message to send. Hashes the password only
    /// when `cached` does not fit the server's salt and iterations: milliseconds, else microseconds.
    ///
    /// # Errors
    ///
    /// [`ScramError`], for a server that is broken or hostile.
    pub fn on_server_first(
        self,
        message: &[u8],
        password: &str,
        cached: Option<Arc<ClientKeys>>,
    ) -> Result<(AwaitServerFinal, String), ScramError> {
        let mut attributes = Attributes::new(message)?;
        if attributes.rest().starts_with('m') {
            return Err(ScramError::Extension);
        }
        let nonce = attributes.expect('r')?;
        let salt = attributes.expect('s')?;
        let iterations = attributes.expect('i')?;
        attributes.skip_all()?;

        let own_part = nonce.strip_prefix(&self.nonce);
        if !own_part.is_some_and(is_printable) {
            return Err(ScramError::Nonce);
        }
        let salt = decode(salt)
            .filter(|salt| !salt.is_empty())
            .ok_or(ScramError::Malformed("Invalid salt."))?;
        let iterations: u32 = iterations
            .parse()
            .ok()
            .filter(|count| *count > 0)
            .ok_or(ScramError::Malformed("Invalid iteration count."))?;
        if iterations > ITERATIONS_MAX {
            return Err(ScramError::Iterations);
        }
        let keys = cached
            .filter(|keys| keys.fit(&salt, iterations))
            .unwrap_or_else(|| Arc::new(ClientKeys::from_password(password, &salt, iterations)));

        let without_proof = format!("c={},r={nonce}", self.channel);
        let mut auth_message = format!("{},", self.bare).into_bytes();
        auth_message.extend_from_slice(message);
        auth_message.extend_from_slice(format!(",{without_proof}").as_bytes());
        let proof = keys.proof(&[&auth_message]);
        let client_final = format!("{without_proof},p={}", encode(proof));
        let server_signature = keys.server_signature(&[&auth_message]);
        let state = AwaitServerFinal {
            server_signature,
            keys,
        };
        Ok((state, client_final))
    }
}

/// The proof is out; waiting for the server's.
#[derive(Debug)]
pub struct AwaitServerFinal {
    server_signature: [u8; 32],
    keys: Arc<ClientKeys>,
}

impl AwaitServerFinal {
    /// Reads server-final-message. Returns the keys: the next login with them hashes nothing.
    ///
    /// # Errors
    ///
    /// [`ScramError::WrongServer`] when the server does not know the password.
    pub fn on_server_final(self, message: &[u8]) -> Result<Arc<ClientKeys>, ScramError> {
        let mut attributes = Attributes::new(message)?;
        let (name, value) = attributes.next()?;
        attributes.skip_all()?;
        match name {
            'v' => {}
            // PostgreSQL sends an ErrorResponse instead, but RFC 5802 has this.
            'e' => return Err(ScramError::WrongProof),
            _ => return Err(ScramError::Malformed("Unexpected attribute.")),
        }
        let signature =
            decode_hash(value).ok_or(ScramError::Malformed("Malformed server signature."))?;
        if bool::from(signature.ct_eq(&self.server_signature)) {
            Ok(self.keys)
        } else {
            Err(ScramError::WrongServer)
        }
    }
}
