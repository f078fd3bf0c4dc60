//! A line of the log, and how it holds on to the one before it.
//!
//! A line is one JSON object: `seq` and `time`, what happened, and last `prev`, `hash` and `mac`, in this
//! order and without spaces. `hash` is SHA-256 over the bytes of the line before `,"hash":`, so that nobody has to
//! agree with us about how JSON is written; since `prev` is the hash of the line before, it stands for all lines up
//! to here. `mac` is HMAC-SHA-256 of the 32 bytes of `hash`, its first 16 bytes: whoever has no key can make a
//! chain that fits, but not this.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::{
    event::Event,
    keys::{Keys, SEAL_BYTES},
};

/// Longest line, with its end. Far above any of ours.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;

/// SHA-256 of a line, and of all before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// What the first line of all follows.
    pub const NONE: Self = Self([0; 32]);
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl std::str::FromStr for Hash {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        unhex(text.as_bytes())
            .map(Self)
            .ok_or("is no hash of 64 hex digits")
    }
}

/// A place in a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// Number of the line; the first one is 1.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Link {
    /// Before the first line.
    pub const NONE: Self = Self {
        seq: 0,
        hash: Hash::NONE,
    };
}

const PREV: &[u8] = b",\"prev\":\"";
const HASH: &[u8] = b"\",\"hash\":\"";
const MAC: &[u8] = b"\",\"mac\":\"";
const END: &[u8] = b"\"}";

/// Adds the line that follows `after`, with its end, and returns its place.
pub(crate) fn write(
    event: &Event,
    after: &Link,
    time: DateTime<Utc>,
    keys: &Keys,
    out: &mut Vec<u8>,
) -> Link {
    let begin = out.len();
    let seq = after.seq + 1;
    let time = time.to_rfc3339_opts(SecondsFormat::Micros, true);
    out.extend_from_slice(format!("{{\"seq\":{seq},\"time\":\"{time}\"").as_bytes());
    event.write(out);
    out.extend_from_slice(PREV);
    out.extend_from_slice(hex(&after.hash.0).as_bytes());
    // The quote that ends `prev` belongs to what is hashed.
    out.push(b'"');
    let hash = Hash(Sha256::digest(&out[begin..]).into());
    out.extend_from_slice(&HASH[1..]);
    out.extend_from_slice(hex(&hash.0).as_bytes());
    out.extend_from_slice(MAC);
    out.extend_from_slice(hex(&keys.seal(&hash)).as_bytes());
    out.extend_from_slice(END);
    out.push(b'\n');
    Link { seq, hash }
}

/// A line as it says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) link: Link,
    pub(crate) prev: Hash,
    pub(crate) mac: [u8; SEAL_BYTES],
    /// What the hash has to be.
    pub(crate) computed: Hash,
    /// All fields.
    pub(crate) fields: Map<String, Value>,
}

impl Line {
    /// Reads a line without its end; `None`: it is none of this log.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_suffix(END)?;
        let (rest, mac) = rest.split_at_checked(rest.len().checked_sub(2 * SEAL_BYTES)?)?;
        let rest = rest.strip_suffix(MAC)?;
        let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let rest = rest.strip_suffix(&HASH[1..])?;
        let computed = Hash(Sha256::digest(rest).into());
        let rest = rest.strip_suffix(b"\"")?;
        let (rest, prev) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        rest.strip_suffix(PREV)?;
        let Ok(Value::Object(fields)) = serde_json::from_slice(bytes) else {
            return None;
        };
        Some(Self {
            link: Link {
                seq: fields.get("seq")?.as_u64()?,
                hash: Hash(unhex(hash)?),
            },
            prev: Hash(unhex(prev)?),
            mac: unhex(mac)?,
            computed,
            fields,
        })
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        let value = self.fields.get(name).and_then(Value::as_str);
        value.unwrap_or_default()
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.fields.get(name)?.as_u64()
    }

    /// Whether it is as it was written, as far as its hash and, with the key, its seal tell.
    #[cfg(test)]
    fn is_whole(&self, keys: Option<&Keys>) -> bool {
        self.computed == self.link.hash
            && keys.is_none_or(|keys| keys.seal(&self.link.hash) == self.mac)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// Lower-case digits only: one value has one form.
pub(crate) fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_every_changed_byte_shows() {
        let keys = Keys::derive(&[3; 32]);
        let event = Event::new("answer")
            .text("resource_id", "a \"quoted\" name\n")
            .number("status", 200)
            .maybe("tenant", None::<&str>);
        let mut bytes = Vec::new();
        let first = write(&event, &Link::NONE, Utc::now(), &keys, &mut bytes);
        assert_eq!(bytes.pop(), Some(b'\n'));
        let line = Line::read(&bytes).unwrap();
        assert!(line.is_whole(Some(&keys)));
        assert_eq!((line.link, line.prev), (first, Hash::NONE));
        assert_eq!(line.text("resource_id"), "a \"quoted\" name\n");
        assert_eq!(line.number("status"), Some(200));
        for at in 0..bytes.len() {
            for other in [bytes[at] ^ 1, b' '] {
                let mut changed = bytes.clone();
                changed[at] = other;
                let whole = Line::read(&changed).is_some_and(|line| line.is_whole(Some(&keys)));
                assert_eq!(whole, changed == bytes, "byte {at}");
            }
        }
        let mut next = Vec::new();
        let second = write(&event, &first, Utc::now(), &keys, &mut next);
        next.pop();
        assert_eq!(Line::read(&next).unwrap().prev, first.hash);
        assert_eq!(second.seq, 2);
        // Another key seals otherwise.
        assert!(!line.is_whole(Some(&Keys::derive(&[4; 32]))));
    }

    #[test]
    fn noise_is_no_line() {
        for noise in ["", "{}", "{\"seq\":1}", "\"}", "x"] {
            assert!(Line::read(noise.as_bytes()).is_none(), "{noise}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let mut bytes = Vec::new();
        Event::new("x")
            .text("name", "ä".repeat(200))
            .write(&mut bytes);
        assert!(bytes.len() < 300, "{}", bytes.len());
        assert!(std::str::from_utf8(&bytes).is_ok());
    }
}
