//! Keys of the audit log, made from the secret of the installation.
//!
//! Two for lines, for two readers: with the secret one every line is checked, also the last; with the public one
//! anybody can check all lines up to the last head.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::line::{Hash, hex, unhex};

/// Bytes of a line's seal: half of HMAC-SHA-256, as RFC 2104 allows.
pub(crate) const SEAL_BYTES: usize = 16;
/// Bytes of a signature.
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// What seals lines and signs heads.
#[derive(Clone)]
pub struct Keys {
    seal: Zeroizing<[u8; 32]>,
    texts: Zeroizing<[u8; 32]>,
    pair: Arc<Ed25519KeyPair>,
    public: PublicKey,
}

impl Keys {
    /// Makes them. The same secret makes the same keys for ever.
    pub fn derive(secret: &[u8; 32]) -> Self {
        let seed = derive(secret, b"tenantry audit heads 1");
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).expect("32 bytes are a seed");
        let public = pair.public_key().as_ref().try_into();
        Self {
            seal: derive(secret, b"tenantry audit lines 1"),
            texts: derive(secret, b"tenantry audit statements 1"),
            public: PublicKey(public.expect("a public key has 32 bytes")),
            pair: Arc::new(pair),
        }
    }

    /// What others need to check signatures.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn seal(&self, hash: &Hash) -> [u8; SEAL_BYTES] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*self.seal).expect("HMAC takes keys of every length");
        mac.update(&hash.0);
        let whole: [u8; 32] = mac.finalize().into_bytes().into();
        let mut seal = [0; SEAL_BYTES];
        seal.copy_from_slice(&whole[..SEAL_BYTES]);
        seal
    }

    /// What stands for a text: HMAC-SHA-256. Whoever has no key cannot try texts until one fits.
    pub fn stand_in(&self, number: u64, text: &[u8]) -> Hash {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*self.texts).expect("HMAC takes keys of every length");
        mac.update(&number.to_be_bytes());
        mac.update(text);
        Hash(mac.finalize().into_bytes().into())
    }

    pub(crate) fn sign(&self, text: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.pair.sign(text);
        let bytes = signature.as_ref().try_into();
        bytes.expect("a signature has 64 bytes")
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// With which heads are checked; 64 hex digits. Ed25519.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Whether `signature` is that of `text`.
    pub(crate) fn has_signed(self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(text, signature)
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for PublicKey {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        unhex(text.trim().as_bytes())
            .map(Self)
            .ok_or("is not a key of 64 hex digits, as `tenantry audit key` prints it")
    }
}

fn derive(secret: &[u8; 32], label: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of every length");
    mac.update(label);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_stand_in_for_each_installation() {
        let (keys, others) = (Keys::derive(&[1; 32]), Keys::derive(&[2; 32]));
        let one = keys.stand_in(1, b"SELECT $1");
        assert_eq!(Keys::derive(&[1; 32]).stand_in(1, b"SELECT $1"), one);
        for other in [
            keys.stand_in(2, b"SELECT $1"),
            keys.stand_in(1, b"SELECT $2"),
            others.stand_in(1, b"SELECT $1"),
        ] {
            assert_ne!(other, one);
        }
    }

    #[test]
    fn a_key_is_told_and_checks_what_it_signed_only() {
        let (keys, others) = (Keys::derive(&[1; 32]), Keys::derive(&[2; 32]));
        let told: PublicKey = keys.public().to_string().parse().unwrap();
        let signature = keys.sign(b"text");
        assert!(told.has_signed(b"text", &signature));
        assert!(!told.has_signed(b"texts", &signature));
        assert!(!others.public().has_signed(b"text", &signature));
        assert_eq!(Keys::derive(&[1; 32]).public(), told);
        assert!("12".parse::<PublicKey>().is_err());
        assert_eq!(format!("{keys:?}"), "Keys(..)");
    }
}
