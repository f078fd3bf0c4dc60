//! The server's side of an exchange: a client proves to us that it knows a password.
//!
//! [`offer`] → [`AwaitFirst`] → [`AwaitFinal`] → [`Proof`], each consumed by the message that ends
//! it. Nothing here depends on whether the login exists, until [`Proof::evaluate`] is given keys.

use std::fmt;

use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::{
    ChannelBinding, Keys, Nonce, SALT_BYTES, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError,
    attributes::{Attributes, decode_hash, encode, is_printable},
    keys::{hmac, sha256, xor},
};

/// Keys that are evaluated for one login; more are not read.
pub const CANDIDATES_MAX: usize = 128;
/// Keys that are evaluated at least, made-up ones filling the rest: a login that does not exist
/// takes the same steps as one that has up to this many secrets. Each costs about two microseconds.
pub const CANDIDATES_MIN: usize = 4;

/// What a client is offered.
#[derive(Clone, Debug)]
pub struct Offer {
    binding: ChannelBinding,
}

/// Begins an exchange.
pub fn offer(binding: ChannelBinding) -> Offer {
    Offer { binding }
}

impl Offer {
    /// For AuthenticationSASL, the better one first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self.binding {
            ChannelBinding::Unavailable => &[SCRAM_SHA_256],
            ChannelBinding::EndPoint(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
        }
    }

    /// The client chose one.
    ///
    /// # Errors
    ///
    /// [`ScramError::Mechanism`] for one that was not offered.
    pub fn choose(self, mechanism: &[u8]) -> Result<AwaitFirst, ScramError> {
        let plus = mechanism == SCRAM_SHA_256_PLUS.as_bytes();
        match self.binding {
            ChannelBinding::EndPoint(hash) if plus => Ok(AwaitFirst {
                binding: Binding::Required(hash),
            }),
            binding if mechanism == SCRAM_SHA_256.as_bytes() => Ok(AwaitFirst {
                binding: match binding {
                    ChannelBinding::Unavailable => Binding::NotOffered,
                    ChannelBinding::EndPoint(_) => Binding::Declined,
                },
            }),
            _ => Err(ScramError::Mechanism),
        }
    }
}

/// What became of the offer to bind.
#[derive(Clone, Debug)]
enum Binding {
    NotOffered,
    Declined,
    Required(Vec<u8>),
}

/// The mechanism is settled; waiting for client-first-message.
#[derive(Clone, Debug)]
pub struct AwaitFirst {
    binding: Binding,
}

impl AwaitFirst {
    /// Reads client-first-message; returns server-first-message to send.
    ///
    /// # Errors
    ///
    /// Any [`ScramError`] but those about proofs.
    pub fn on_first(
        self,
        message: &[u8],
        nonce: &Nonce,
        salt: &[u8; SALT_BYTES],
        iterations: u32,
    ) -> Result<(AwaitFinal, String), ScramError> {
        self.begin(message, &encode(nonce), salt, iterations)
    }

    /// With a nonce as text, so that published exchanges can be replayed.
    pub(super) fn begin(
        self,
        message: &[u8],
        nonce: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Result<(AwaitFinal, String), ScramError> {
        let mut attributes = Attributes::new(message)?;
        let gs2_flag = self.read_flag(&mut attributes)?;
        if attributes.rest().starts_with('a') {
            return Err(ScramError::AuthorizationIdentity);
        }
        if !attributes.skip(",") {
            return Err(ScramError::Malformed(
                "Unexpected attribute in client-first-message.",
            ));
        }
        let bare = attributes.rest();
        if bare.starts_with('m') {
            return Err(ScramError::Extension);
        }
        attributes.expect('n')?;
        let client_nonce = attributes.expect('r')?;
        if !is_printable(client_nonce) {
            return Err(ScramError::Malformed(
                "Non-printable characters in SCRAM nonce.",
            ));
        }
        attributes.skip_all()?;

        // What the client must repeat: its own header, and what it is bound to.
        let mut channel = format!("{gs2_flag},,").into_bytes();
        if let Binding::Required(hash) = &self.binding {
            channel.extend_from_slice(hash);
        }
        let nonce = format!("{client_nonce}{nonce}");
        let server_first = format!("r={nonce},s={},i={iterations}", encode(salt));
        let state = AwaitFinal {
            bound: matches!(self.binding, Binding::Required(_)),
            channel: encode(channel),
            nonce,
            first_messages: format!("{bare},{server_first},"),
        };
        Ok((state, server_first))
    }

    fn read_flag(&self, attributes: &mut Attributes<'_>) -> Result<&'static str, ScramError> {
        const NOT_BOUND: ScramError = ScramError::Malformed(
            "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include \
             channel binding data.",
        );
        let rest = attributes.rest();
        match rest.as_bytes().first() {
            Some(b'n' | b'y') if matches!(self.binding, Binding::Required(_)) => Err(NOT_BOUND),
            Some(b'y') if matches!(self.binding, Binding::Declined) => {
                Err(ScramError::BindingDowngrade)
            }
            Some(b'n') if attributes.skip("n,") => Ok("n"),
            Some(b'y') if attributes.skip("y,") => Ok("y"),
            Some(b'n' | b'y') => Err(ScramError::Malformed("Comma expected.")),
            Some(b'p') if !matches!(self.binding, Binding::Required(_)) => {
                Err(ScramError::Malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM \
                     message includes channel binding data.",
                ))
            }
            Some(b'p') => match attributes.expect('p')? {
                "tls-server-end-point" => Ok("p=tls-server-end-point"),
                _ => Err(ScramError::BindingType),
            },
            _ => Err(ScramError::Malformed("Unexpected channel-binding flag.")),
        }
    }
}

/// The challenge is out; waiting for client-final-message.
#[derive(Clone, Debug)]
pub struct AwaitFinal {
    bound: bool,
    /// The one right value of `c=`.
    channel: String,
    /// The one right value of `r=`.
    nonce: String,
    /// client-first-message-bare and server-first-message, a comma behind each.
    first_messages: String,
}

impl AwaitFinal {
    /// Reads client-final-message.
    ///
    /// # Errors
    ///
    /// [`ScramError::Malformed`], [`ScramError::Nonce`], [`ScramError::BindingMismatch`].
    pub fn on_final(self, message: &[u8]) -> Result<Proof, ScramError> {
        let mut attributes = Attributes::new(message)?;
        if attributes.expect('c')? != self.channel {
            return Err(if self.bound {
                ScramError::BindingMismatch
            } else {
                ScramError::Malformed(
                    "Unexpected SCRAM channel-binding attribute in client-final-message.",
                )
            });
        }
        let nonce = attributes.expect('r')?;
        let (without_proof, proof) = loop {
            let without_proof = attributes.read();
            if let ('p', value) = attributes.next()? {
                break (without_proof, value);
            }
        };
        let proof = decode_hash(proof).ok_or(ScramError::Malformed(
            "Malformed proof in client-final-message.",
        ))?;
        if !attributes.rest().is_empty() {
            return Err(ScramError::Malformed(
                "Garbage found at the end of client-final-message.",
            ));
        }
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        Ok(Proof {
            auth_message: (self.first_messages + without_proof).into_bytes(),
            proof,
        })
    }
}

/// A proof, well formed and of this exchange; whether it is right depends on the keys.
///
/// May be evaluated more than once: against the keys that are known, and, when none matches,
/// against those that the catalog has meanwhile.
#[derive(Clone)]
pub struct Proof {
    auth_message: Vec<u8>,
    proof: [u8; 32],
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(..)")
    }
}

/// The password was right.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Match {
    /// Which of the candidates it was, the first of several equal ones.
    pub candidate: usize,
    /// server-final-message to send: we know the password too.
    pub server_final: String,
}

impl Proof {
    /// Compares with every candidate, whichever matches, in the same time. At most
    /// [`CANDIDATES_MAX`] are read, at least [`CANDIDATES_MIN`] are evaluated.
    pub fn evaluate(&self, candidates: &[Keys]) -> Option<Match> {
        /// Nobody knows what hashes to it, and a match would not count.
        const MADE_UP: [u8; 32] = [0; 32];
        let candidates = &candidates[..candidates.len().min(CANDIDATES_MAX)];
        let real = candidates
            .iter()
            .map(|keys| (&keys.stored_key, &keys.server_key));
        let made_up = (candidates.len()..CANDIDATES_MIN).map(|_| (&MADE_UP, &MADE_UP));

        let none = u32::MAX;
        let mut found = none;
        let mut signature = [0; 32];
        for (index, (stored_key, server_key)) in (0_u32..).zip(real.chain(made_up)) {
            let auth_message = [self.auth_message.as_slice()];
            let client_key = xor(self.proof, &hmac(stored_key, &auth_message));
            let server_signature = hmac(server_key, &auth_message);
            let matches = sha256(&client_key).ct_eq(stored_key) & found.ct_eq(&none);
            found.conditional_assign(&index, matches);
            for (kept, new) in signature.iter_mut().zip(&server_signature) {
                kept.conditional_assign(new, matches);
            }
        }
        let candidate = found as usize;
        (candidate < candidates.len()).then(|| Match {
            candidate,
            server_final: format!("v={}", encode(signature)),
        })
    }
}
