//! Passwords of server logins: derived from the key of the node, never stored.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use model::Secret;
use rand::{TryRng, rngs::SysRng};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Key of a node: 32 random bytes from which the passwords of all its logins are derived.
///
/// Who has it can log in to every tenant of the node. Losing it loses no data: with another key,
/// [`crate::Node::repair_logins`] sets the passwords anew.
#[derive(Clone)]
pub struct NodeKey(Zeroizing<[u8; 32]>);

impl NodeKey {
    /// From bytes kept elsewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads the key kept at `path` (mode 0600), or makes one and keeps it there.
    ///
    /// # Errors
    ///
    /// Those of the file system; `InvalidData` when the file is something else.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        match read_secret(path)? {
            Some(text) => parse_hex(text.trim())
                .map(Self::from_bytes)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a node key")),
            None => {
                let key = random_bytes::<32>();
                write_secret(path, &hex(&key))?;
                Ok(Self::from_bytes(key))
            }
        }
    }

    /// 256 bits in hexadecimal: a password that needs no stretching and no quoting.
    pub(crate) fn password(&self, login: &str, epoch: u32) -> Secret {
        Secret::new(hex(&self.derive("password", login, epoch)))
    }

    /// What PostgreSQL stores for [`Self::password`] (`pg_authid.rolpassword`). The salt is derived
    /// too, so the whole text is a function of its arguments and can be compared.
    pub(crate) fn verifier(&self, login: &str, epoch: u32) -> String {
        let salt = &self.derive("salt", login, epoch)[..16];
        let password = self.password(login, epoch);
        let mut salted = Zeroizing::new([0; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(password.reveal().as_bytes(), salt, ITERATIONS, &mut *salted);
        let stored_key = Sha256::digest(mac(&*salted, &[b"Client Key"]));
        let server_key = mac(&*salted, &[b"Server Key"]);
        format!(
            "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
            STANDARD.encode(salt),
            STANDARD.encode(stored_key),
            STANDARD.encode(server_key)
        )
    }

    fn derive(&self, purpose: &str, login: &str, epoch: u32) -> [u8; 32] {
        mac(
            &*self.0,
            &[
                purpose.as_bytes(),
                b"\0",
                login.as_bytes(),
                b"\0",
                &epoch.to_be_bytes(),
            ],
        )
    }
}

/// What RFC 7677 asks for at least, and what PostgreSQL uses: other clients insist on it.
const ITERATIONS: u32 = 4096;

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .expect("the operating system has random bytes");
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

/// The file's text, or `None` when there is no file.
pub(crate) fn read_secret(path: &Path) -> io::Result<Option<Zeroizing<String>>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file that only its owner can read; after a crash it is there whole or not at all.
pub(crate) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(parent) = path.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_depends_on_everything() {
        let key = NodeKey::from_bytes([1; 32]);
        let of = |key: &NodeKey, login, epoch| key.password(login, epoch).reveal().to_owned();
        let all = [
            of(&key, "x_a", 0),
            of(&key, "x_b", 0),
            of(&key, "x_a", 1),
            of(&NodeKey::from_bytes([2; 32]), "x_a", 0),
        ];
        for (i, a) in all.iter().enumerate() {
            assert_eq!(a.len(), 64);
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
        assert_eq!(key.verifier("x_a", 0), key.verifier("x_a", 0));
    }

    #[test]
    fn a_key_is_kept() {
        let dir = scratch::Scratch::new();
        let path = dir.join("node.key");
        let first = NodeKey::load_or_create(&path).unwrap();
        let second = NodeKey::load_or_create(&path).unwrap();
        assert_eq!(*first.0, *second.0);
        fs::write(&path, "something else").unwrap();
        assert!(NodeKey::load_or_create(&path).is_err());
    }
}
