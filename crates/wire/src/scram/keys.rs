//! Keys made from a password, and PostgreSQL's text form of them.

use std::{fmt, str::FromStr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    attributes::{decode, decode_hash, encode},
    prepare::prepare,
};

/// Rounds of hashing that PostgreSQL takes by default (`scram_iterations`).
pub const ITERATIONS_DEFAULT: u32 = 4096;
/// Bytes in a salt of ours, as in PostgreSQL's.
pub const SALT_BYTES: usize = 16;

/// What a server keeps to recognise a password. Whoever has them can play the server, and can test
/// guesses, but cannot log in.
#[derive(Clone, Eq, PartialEq, Zeroize, ZeroizeOnDrop)]
pub struct Keys {
    /// Recognises the client's proof.
    pub stored_key: [u8; 32],
    /// Proves to the client that we know it.
    pub server_key: [u8; 32],
}

impl Keys {
    /// From a password. Hashes `iterations` times: milliseconds, not microseconds.
    pub fn from_password(password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(password, salt, iterations);
        Self {
            stored_key: sha256(&hmac(&*salted, &[b"Client Key"])),
            server_key: hmac(&*salted, &[b"Server Key"]),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// What a client keeps so that it need not hash a password again. Whoever has them can log in.
#[derive(Clone, Eq, PartialEq, Zeroize, ZeroizeOnDrop)]
pub struct ClientKeys {
    salt: Vec<u8>,
    iterations: u32,
    client_key: [u8; 32],
    server_key: [u8; 32],
}

impl ClientKeys {
    /// From a password. Hashes `iterations` times: milliseconds, not microseconds.
    pub fn from_password(password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(password, salt, iterations);
        Self {
            salt: salt.to_vec(),
            iterations,
            client_key: hmac(&*salted, &[b"Client Key"]),
            server_key: hmac(&*salted, &[b"Server Key"]),
        }
    }

    /// Whether they are those for what a server asks now.
    pub(super) fn fit(&self, salt: &[u8], iterations: u32) -> bool {
        self.salt == salt && self.iterations == iterations
    }

    /// What proves to a server that the client knows the password.
    pub(super) fn proof(&self, auth_message: &[&[u8]]) -> [u8; 32] {
        let stored_key = Zeroizing::new(sha256(&self.client_key));
        xor(self.client_key, &hmac(&*stored_key, auth_message))
    }

    /// What a server that knows the password answers.
    pub(crate) fn server_signature(&self, auth_message: &[&[u8]]) -> [u8; 32] {
        hmac(&self.server_key, auth_message)
    }
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKeys(..)")
    }
}

/// The salt a login name has, whether the login exists or not: nobody learns from a salt who is
/// there, and several passwords of one login can be valid at once.
pub fn login_salt(installation_key: &[u8; 32], login_name: &str) -> [u8; SALT_BYTES] {
    let hash = hmac(
        installation_key,
        &[b"tenantry scram salt\0", login_name.as_bytes()],
    );
    let (salt, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
    *salt
}

/// What PostgreSQL stores as a role's password: `SCRAM-SHA-256$4096:<salt>$<stored>:<server>`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verifier {
    /// Mixed into the password.
    pub salt: Vec<u8>,
    /// Rounds of hashing.
    pub iterations: u32,
    /// The keys themselves.
    pub keys: Keys,
}

/// The text is no verifier of SCRAM-SHA-256.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a SCRAM-SHA-256 verifier")]
pub struct VerifierError;

impl Verifier {
    /// Of a password.
    pub fn from_password(password: &str, salt: &[u8], iterations: u32) -> Self {
        Self {
            salt: salt.to_vec(),
            iterations,
            keys: Keys::from_password(password, salt, iterations),
        }
    }

    /// The text that `ALTER ROLE … PASSWORD` takes as it is.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            encode(&self.salt),
            encode(self.keys.stored_key),
            encode(self.keys.server_key),
        ))
    }
}

impl FromStr for Verifier {
    type Err = VerifierError;
    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let parse = || {
            let rest = text.strip_prefix("SCRAM-SHA-256$")?;
            let (iterations, rest) = rest.split_once(':')?;
            let (salt, rest) = rest.split_once('$')?;
            let (stored_key, server_key) = rest.split_once(':')?;
            Some(Self {
                salt: decode(salt)?,
                iterations: iterations.parse().ok().filter(|count| *count > 0)?,
                keys: Keys {
                    stored_key: decode_hash(stored_key)?,
                    server_key: decode_hash(server_key)?,
                },
            })
        };
        parse().ok_or(VerifierError)
    }
}

/// RFC 5802's `SaltedPassword`. A password that SASLprep refuses is taken as it is, as PostgreSQL
/// and libpq do.
fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Zeroizing<[u8; 32]> {
    let prepared = prepare(password);
    let password = prepared.as_deref().map_or(password, String::as_str);
    let mut salted = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, &mut *salted);
    salted
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(super) fn xor(mut a: [u8; 32], b: &[u8; 32]) -> [u8; 32] {
    for (a, b) in a.iter_mut().zip(b) {
        *a ^= b;
    }
    a
}
