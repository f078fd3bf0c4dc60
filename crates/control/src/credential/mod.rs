//! Secrets: made here, shown once, kept as verifiers and hashes.

pub(crate) mod access;
pub(crate) mod store;
pub(crate) mod tokens;
pub(crate) mod used;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use model::{LoginName, Secret};
use rand::{TryRng, rngs::SysRng};

use crate::keys::Keys;

/// Characters of a password that we make: 26 × log2(62) = 154 bits, safe in a URL.
const PASSWORD_CHARS: usize = 26;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .expect("the system's random source never fails after boot");
    bytes
}

/// A password nobody can guess, of characters that need no escaping anywhere.
pub(crate) fn new_password() -> Secret {
    let mut password = String::with_capacity(PASSWORD_CHARS);
    while password.len() < PASSWORD_CHARS {
        // 248 = 4 × 62: a remainder of more would favour some characters.
        for byte in random_bytes::<32>().into_iter().filter(|byte| *byte < 248) {
            if password.len() < PASSWORD_CHARS {
                password.push(char::from(ALPHABET[usize::from(byte % 62)]));
            }
        }
    }
    Secret::new(password)
}

/// A token: `prefix` and 32 random bytes.
pub(crate) fn new_token(prefix: &str) -> Secret {
    Secret::new(format!(
        "{prefix}{}",
        URL_SAFE_NO_PAD.encode(random_bytes::<32>())
    ))
}

/// What is kept of a password. Takes about a millisecond of CPU.
pub(crate) fn scram_keys(keys: &Keys, login: &LoginName, password: &Secret) -> wire::scram::Keys {
    let salt = wire::scram::login_salt(keys.login_salt(), &login.to_string());
    wire::scram::Keys::from_password(password.reveal(), &salt, wire::scram::ITERATIONS_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_different_and_plain() {
        let (a, b) = (new_password(), new_password());
        assert_ne!(a, b);
        assert_eq!(a.reveal().len(), PASSWORD_CHARS);
        assert!(a.reveal().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let token = new_token("tnt_");
        assert_eq!(token.reveal().len(), 4 + 43);
        assert_ne!(token, new_token("tnt_"));
    }
}
