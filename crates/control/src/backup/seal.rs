//! The form of a backup: a head and frames, each encrypted and bound to its place.
//!
//! Owns: bytes only. Does not own: where they are (`place`), what is in them (`pack`), or the keys (`key`).
//!
//! ```text
//! head   "TNTRYBK" 1 · tenant (12) · backup (16) · salt (16) · check (8) · zeros (4)          64 bytes
//! frame  word (4: last, manifest, length) · ciphertext · tag (16)                 1 MiB of text at most
//! ```
//!
//! The key of one backup is made of the tenant's key and the whole head, so that a head belongs to its frames.
//! The nonce is the number of the frame; number and word are authenticated with it. A frame that was changed,
//! moved, left out, repeated, or taken from another backup does not open; nor does what has no last frame, or
//! anything behind it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use hmac::{Hmac, KeyInit, Mac};
use model::{BackupId, TenantId};
use rand::{TryRng, rngs::SysRng};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Key of a tenant's backups.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// Text of one frame, at most: what is held in memory of it.
pub(crate) const FRAME_MAX: usize = 1 << 20;
/// Length of a head.
pub(crate) const HEAD_LEN: usize = 64;
const MAGIC: &[u8; 7] = b"TNTRYBK";
const VERSION: u8 = 1;
const TAG_LEN: usize = 16;
const WORD_LEN: usize = 4;
const LAST: u32 = 1 << 31;
const MANIFEST: u32 = 1 << 30;

/// Why bytes are not taken for a backup.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Refused {
    /// They never were one.
    #[error("it is no backup")]
    NoBackup,
    /// Made by a later program.
    #[error("it was made by a newer version of this program")]
    Newer,
    /// Of another tenant.
    #[error("it is a backup of another database")]
    OtherDatabase,
    /// Of the same tenant, and not the one that was meant.
    #[error("it is another backup of this database")]
    OtherBackup,
    /// The key is another one.
    #[error("it was made with another key")]
    OtherKey,
    /// Something in it was changed, or is missing.
    #[error("it was changed, or a part of it is missing")]
    Damaged,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A piece of the dump.
    Data,
    /// A piece of the manifest. All come behind the dump.
    Manifest,
}

/// Writes.
pub(crate) struct Sealer {
    key: LessSafeKey,
    frames: u64,
}

impl Sealer {
    /// With the head, which goes first.
    pub(crate) fn new(key: &Key, tenant: &TenantId, backup: &BackupId) -> (Self, Vec<u8>) {
        let mut salt = [0; 16];
        SysRng
            .try_fill_bytes(&mut salt)
            .expect("the system's random source never fails after boot");
        let mut head = Vec::with_capacity(HEAD_LEN);
        head.extend_from_slice(MAGIC);
        head.push(VERSION);
        head.extend_from_slice(tenant.as_str().as_bytes());
        head.extend_from_slice(backup.as_str().as_bytes());
        head.extend_from_slice(&salt);
        head.extend_from_slice(&check(key, &salt));
        head.resize(HEAD_LEN, 0);
        let sealer = Self {
            key: own_key(key, &head),
            frames: 0,
        };
        (sealer, head)
    }

    /// One frame of `text`, which has at most [`FRAME_MAX`] bytes, behind what is in `out`.
    pub(crate) fn seal(&mut self, kind: Kind, is_last: bool, text: &[u8], out: &mut Vec<u8>) {
        assert!(text.len() <= FRAME_MAX, "a frame has a bound");
        let length = u32::try_from(text.len()).expect("a frame is small");
        let mut word = length;
        if is_last {
            word |= LAST;
        }
        if kind == Kind::Manifest {
            word |= MANIFEST;
        }
        let mut body = text.to_vec();
        self.key
            .seal_in_place_append_tag(nonce(self.frames), aad(word, self.frames), &mut body)
            .expect("a frame is far below the limits of AES-GCM");
        self.frames += 1;
        out.extend_from_slice(&word.to_be_bytes());
        out.extend_from_slice(&body);
    }
}

/// One frame that is what it was.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) text: Vec<u8>,
}

/// Reads. Holds one frame at most, and what was put in beyond.
pub(crate) struct Opener {
    key: Key,
    tenant: TenantId,
    backup: BackupId,
    own: Option<LessSafeKey>,
    frames: u64,
    is_ended: bool,
    in_manifest: bool,
    buffer: Vec<u8>,
    /// How much of it was taken.
    taken: usize,
}

impl Opener {
    /// Of what should be this backup of this tenant.
    pub(crate) fn new(key: &Key, tenant: &TenantId, backup: &BackupId) -> Self {
        Self {
            key: key.clone(),
            tenant: tenant.clone(),
            backup: backup.clone(),
            own: None,
            frames: 0,
            is_ended: false,
            in_manifest: false,
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// More bytes. Take all frames before the next ones.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; `None`: more bytes are needed, or there are no more.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Refused> {
        if self.own.is_none() {
            let Some(head) = self.buffer.get(..HEAD_LEN) else {
                return Ok(None);
            };
            self.own = Some(self.read_head(head)?);
            self.taken = HEAD_LEN;
        }
        let Some(own) = &self.own else {
            return Ok(None);
        };
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        if self.is_ended {
            return if rest.is_empty() {
                Ok(None)
            } else {
                Err(Refused::Damaged)
            };
        }
        let Some(word) = rest.first_chunk::<WORD_LEN>() else {
            return Ok(None);
        };
        let word = u32::from_be_bytes(*word);
        let length = (word & !(LAST | MANIFEST)) as usize;
        if length > FRAME_MAX {
            return Err(Refused::Damaged);
        }
        let end = WORD_LEN + length + TAG_LEN;
        let Some(body) = rest.get(WORD_LEN..end) else {
            return Ok(None);
        };
        let mut body = body.to_vec();
        own.open_in_place(nonce(self.frames), aad(word, self.frames), &mut body)
            .map_err(|_| Refused::Damaged)?;
        body.truncate(length);
        let kind = match word & MANIFEST {
            0 => Kind::Data,
            _ => Kind::Manifest,
        };
        if self.in_manifest && kind == Kind::Data {
            return Err(Refused::Damaged);
        }
        self.in_manifest = kind == Kind::Manifest;
        self.is_ended = word & LAST != 0;
        self.frames += 1;
        self.taken += end;
        Ok(Some(Frame { kind, text: body }))
    }

    /// All bytes were put in, and all frames taken.
    pub(crate) fn end(&self) -> Result<(), Refused> {
        match (self.is_ended, &self.own) {
            (true, _) if self.taken == self.buffer.len() => Ok(()),
            (_, None) if self.frames == 0 && self.buffer.len() < HEAD_LEN => {
                let known = self.buffer.len().min(MAGIC.len());
                if self.buffer.is_empty() || self.buffer.get(..known) != MAGIC.get(..known) {
                    Err(Refused::NoBackup)
                } else {
                    Err(Refused::Damaged)
                }
            }
            _ => Err(Refused::Damaged),
        }
    }

    fn read_head(&self, head: &[u8]) -> Result<LessSafeKey, Refused> {
        let part = |from: usize, length: usize| head.get(from..from + length).unwrap_or_default();
        if part(0, 7) != MAGIC {
            return Err(Refused::NoBackup);
        }
        match part(7, 1) {
            [VERSION] => {}
            [version] if *version > VERSION => return Err(Refused::Newer),
            _ => return Err(Refused::NoBackup),
        }
        if part(8, 12) != self.tenant.as_str().as_bytes() {
            return Err(Refused::OtherDatabase);
        }
        if part(20, 16) != self.backup.as_str().as_bytes() {
            return Err(Refused::OtherBackup);
        }
        let salt: [u8; 16] = part(36, 16).try_into().map_err(|_| Refused::Damaged)?;
        if !bool::from(check(&self.key, &salt).ct_eq(part(52, 8))) {
            return Err(Refused::OtherKey);
        }
        Ok(own_key(&self.key, head))
    }
}

fn mac(key: &Key, label: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(&**key).expect("HMAC takes keys of every length");
    mac.update(label);
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

/// By which a wrong key is told from damage.
fn check(key: &Key, salt: &[u8; 16]) -> [u8; 8] {
    let full = mac(key, b"tenantry backup check 1", salt);
    std::array::from_fn(|i| full[i])
}

fn own_key(key: &Key, head: &[u8]) -> LessSafeKey {
    let own = Zeroizing::new(mac(key, b"tenantry backup frames 1", head));
    let unbound = UnboundKey::new(&AES_256_GCM, &*own).expect("the key has 32 bytes");
    LessSafeKey::new(unbound)
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn aad(word: u32, number: u64) -> Aad<[u8; 12]> {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&word.to_be_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Aad::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (TenantId, BackupId) {
        (
            "abcdefghijkl".parse().unwrap(),
            "bkp_abcdefghijkl".parse().unwrap(),
        )
    }

    fn key(byte: u8) -> Key {
        Zeroizing::new([byte; 32])
    }

    fn sealed() -> (Vec<u8>, Vec<usize>) {
        let (tenant, backup) = ids();
        let (mut sealer, mut out) = Sealer::new(&key(1), &tenant, &backup);
        let mut starts = Vec::new();
        for (kind, is_last, text) in [
            (Kind::Data, false, "one"),
            (Kind::Data, false, "two"),
            (Kind::Manifest, false, "what"),
            (Kind::Manifest, true, "it is"),
        ] {
            starts.push(out.len());
            sealer.seal(kind, is_last, text.as_bytes(), &mut out);
        }
        starts.push(out.len());
        (out, starts)
    }

    /// In pieces of so many bytes.
    fn open_with(
        opener: &mut Opener,
        bytes: &[u8],
        piece: usize,
    ) -> Result<Vec<(Kind, String)>, Refused> {
        let mut all = Vec::new();
        for piece in bytes.chunks(piece) {
            opener.put(piece);
            while let Some(frame) = opener.next()? {
                all.push((frame.kind, String::from_utf8(frame.text).unwrap()));
            }
        }
        opener.end()?;
        Ok(all)
    }

    fn open(bytes: &[u8]) -> Result<Vec<(Kind, String)>, Refused> {
        let (tenant, backup) = ids();
        open_with(
            &mut Opener::new(&key(1), &tenant, &backup),
            bytes,
            bytes.len().max(1),
        )
    }

    #[test]
    fn what_was_sealed_opens_in_pieces_of_any_size() {
        let (bytes, _) = sealed();
        let whole = open(&bytes).unwrap();
        assert_eq!(whole.len(), 4);
        assert_eq!(whole[1], (Kind::Data, "two".to_owned()));
        assert_eq!(whole[3], (Kind::Manifest, "it is".to_owned()));
        let (tenant, backup) = ids();
        for piece in 1..bytes.len() {
            let mut opener = Opener::new(&key(1), &tenant, &backup);
            assert_eq!(open_with(&mut opener, &bytes, piece).unwrap(), whole);
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (bytes, _) = sealed();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(open(&changed).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn every_missing_end_and_every_surplus_is_found() {
        let (bytes, _) = sealed();
        for length in 0..bytes.len() {
            assert!(open(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut more = bytes.clone();
        more.push(0);
        assert_eq!(open(&more), Err(Refused::Damaged));
        more.pop();
        more.extend_from_slice(&bytes);
        assert_eq!(open(&more), Err(Refused::Damaged));
        assert_eq!(open(b""), Err(Refused::NoBackup));
        assert_eq!(open(&[b'x'; 100]), Err(Refused::NoBackup));
    }

    #[test]
    fn frames_that_were_moved_left_out_or_repeated_are_found() {
        let (bytes, starts) = sealed();
        let frame = |i: usize| &bytes[starts[i]..starts[i + 1]];
        let head = &bytes[..starts[0]];
        for order in [
            &[1, 0, 2, 3][..],
            &[0, 0, 1, 2, 3],
            &[1, 2, 3],
            &[0, 2, 3],
            &[0, 1, 3],
            &[0, 1, 2],
            &[3],
        ] {
            let mut changed = head.to_vec();
            for i in order {
                changed.extend_from_slice(frame(*i));
            }
            assert_eq!(open(&changed), Err(Refused::Damaged), "{order:?}");
        }
        // Of another backup made with the same key.
        let (other, other_starts) = sealed();
        let mut changed = bytes[..starts[1]].to_vec();
        changed.extend_from_slice(&other[other_starts[1]..]);
        assert_eq!(open(&changed), Err(Refused::Damaged));
    }

    #[test]
    fn what_is_not_meant_is_told_apart() {
        let (bytes, _) = sealed();
        let (tenant, backup) = ids();
        let refused = |key: Key, tenant: &TenantId, backup: &BackupId| {
            open_with(&mut Opener::new(&key, tenant, backup), &bytes, bytes.len()).unwrap_err()
        };
        let other = "bbcdefghijkl".parse().unwrap();
        assert_eq!(refused(key(1), &other, &backup), Refused::OtherDatabase);
        let other = "bkp_bbcdefghijkl".parse().unwrap();
        assert_eq!(refused(key(1), &tenant, &other), Refused::OtherBackup);
        assert_eq!(refused(key(2), &tenant, &backup), Refused::OtherKey);
        let mut newer = bytes.clone();
        newer[7] = 2;
        assert_eq!(open(&newer), Err(Refused::Newer));
    }
}
