//! Keys of the installation, all made from one secret.

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
}

impl Keys {
    /// Makes the keys. The same secret makes the same keys for ever: a new purpose gets a new
    /// label, and no label changes its meaning.
    pub fn derive(secret: &[u8; 32]) -> Self {
        Self {
            login_salt: derive(secret, b"tenantry login salt 1"),
            responses: derive(secret, b"tenantry kept responses 1"),
            backups: derive(secret, b"tenantry backup keys 1"),
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
        assert_ne!(*keys.login_salt, [7; 32]);
        assert_eq!(*keys.login_salt, *Keys::derive(&[7; 32]).login_salt);
        assert_eq!(format!("{keys:?}"), "Keys(..)");
    }
}
