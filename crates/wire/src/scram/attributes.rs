//! The text that SCRAM messages are made of: `a=value,b=value`.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::ScramError;

/// What is left to read of a message. Like PostgreSQL's own reader, so that both accept the same.
pub(super) struct Attributes<'a> {
    whole: &'a str,
    rest: &'a str,
}

impl<'a> Attributes<'a> {
    /// # Errors
    ///
    /// [`ScramError::Malformed`] for messages that are empty, hold a NUL, or are not UTF-8
    /// (RFC 5802, section 5: SCRAM messages are).
    pub(super) fn new(message: &'a [u8]) -> Result<Self, ScramError> {
        if message.is_empty() {
            return Err(ScramError::Malformed("The message is empty."));
        }
        if message.contains(&0) {
            return Err(ScramError::Malformed(
                "Message length does not match input length.",
            ));
        }
        let whole = str::from_utf8(message)
            .map_err(|_| ScramError::Malformed("The message is not UTF-8."))?;
        Ok(Self { whole, rest: whole })
    }

    /// What was not read yet.
    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }

    /// What was read so far, without the comma behind it.
    pub(super) fn read(&self) -> &'a str {
        let read = &self.whole[..self.whole.len() - self.rest.len()];
        read.strip_suffix(',').unwrap_or(read)
    }

    /// Takes `text` if it comes next.
    pub(super) fn skip(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// The value of the attribute that must come next.
    pub(super) fn expect(&mut self, name: char) -> Result<&'a str, ScramError> {
        match self.next()? {
            (own, value) if own == name => Ok(value),
            _ => Err(ScramError::Malformed("Unexpected attribute.")),
        }
    }

    /// Name and value of the attribute that comes next.
    pub(super) fn next(&mut self) -> Result<(char, &'a str), ScramError> {
        let mut chars = self.rest.chars();
        let name = chars
            .next()
            .filter(char::is_ascii_alphabetic)
            .ok_or(ScramError::Malformed("Attribute expected."))?;
        let value = chars
            .as_str()
            .strip_prefix('=')
            .ok_or(ScramError::Malformed("Expected character \"=\"."))?;
        let (value, rest) = value.split_once(',').unwrap_or((value, ""));
        self.rest = rest;
        Ok((name, value))
    }

    /// Passes over optional extensions.
    pub(super) fn skip_all(&mut self) -> Result<(), ScramError> {
        while !self.rest.is_empty() {
            self.next()?;
        }
        Ok(())
    }
}

/// RFC 5802: %x21-2B / %x2D-7E, at least one.
pub(super) fn is_printable(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|b| matches!(b, 0x21..=0x2b | 0x2d..=0x7e))
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A value that is exactly one hash.
pub(super) fn decode_hash(text: &str) -> Option<[u8; 32]> {
    decode(text)?.try_into().ok()
}
