//! Keys of the installation, all made from one secret.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What the control plane needs of the secret of the installation. The secret itself stays where
/// it was read.
#[derive(Clone)]
pub struct Keys {
    pub(crate) login_salt: Zeroizing<[u8; 32]>,
    pub(crate) responses: Zeroizing<[u8; 32]>,
    /// Wraps the keys of tenants' backups.
    pub(crate) backups: Zeroizing<[u8; 32]>,
    /// Seals what messages of alerts are signed with.
    pub(crate) alerts: Zeroizing<[u8; 32]>,
    /// Tells this secret from others, and nothing of it.
    pub(crate) fingerprint: [u8; 32],
}

impl Keys {
    /// Makes the keys. The same secret makes the same keys for ever: a new purpose gets a new
    /// label, and no label changes its meaning.
    pub fn derive(secret: &[u8; 32]) -> Self {
        Self {
            login_salt: derive(secret, b"tenantry login salt 1"),
            responses: derive(secret, b"tenantry kept responses 1"),
            backups: derive(secret, b"tenantry backup keys 1"),
            alerts: derive(secret, b"tenantry alert secrets 1"),
            fingerprint: *derive(secret, b"tenantry key fingerprint 1"),
        }
    }

    /// Makes the salt of a login name; the proxy needs the same one.
    pub fn login_salt(&self) -> &[u8; 32] {
        &self.login_salt
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

fn derive(secret: &[u8; 32], label: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of every length");
    mac.update(label);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn cipher(key: &[u8; 32]) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, key).expect("the key has 32 bytes")
}

/// A short secret as it is stored: only with the key and the same context it is read again.
pub(crate) fn seal(key: &[u8; 32], context: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut sealed = secret.to_vec();
    let nonce = cipher(key)
        .seal_in_place_append_tag(Aad::from(context), &mut sealed)
        .expect("a secret is short");
    let mut stored = nonce.as_ref().to_vec();
    stored.extend_from_slice(&sealed);
    stored
}

/// Reads [`seal`] back.
pub(crate) fn open(key: &[u8; 32], context: &[u8], stored: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = stored.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let secret = cipher(key).open_in_place(nonce, Aad::from(context), &mut sealed);
    secret.ok().map(|secret| Zeroizing::new(secret.to_vec()))
}

/// What is stored of a token: it has 256 random bits, so a fast hash is enough.
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_purpose_has_a_key_of_its_own() {
        let keys = Keys::derive(&[7; 32]);
        assert_ne!(*keys.login_salt, *keys.responses);
        assert_ne!(*keys.backups, *keys.responses);
        assert_ne!(*keys.backups, *keys.login_salt);
        assert_ne!(*keys.alerts, *keys.backups);
        assert_ne!(*keys.login_salt, [7; 32]);
        assert_eq!(*keys.login_salt, *Keys::derive(&[7; 32]).login_salt);
        assert_eq!(format!("{keys:?}"), "Keys(..)");
    }
}
