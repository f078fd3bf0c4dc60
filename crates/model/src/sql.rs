//! Names and values that must stand in SQL which takes no parameters (`CREATE DATABASE …`).

use std::fmt;

/// A name chosen by somebody, safe to place in SQL as an identifier.
///
/// No NUL, 1 to 63 bytes: PostgreSQL would silently cut the rest off ("Identifiers and Key
/// Words", PostgreSQL manual, section 4.1.1).
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct Ident(String);

/// Why a text is no identifier.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an SQL identifier has 1 to 63 bytes and no NUL")]
pub struct IdentError;

impl Ident {
    /// Checks `name` and keeps it as it is, without quotes.
    ///
    /// # Errors
    ///
    /// [`IdentError`] when the name is empty, longer than 63 bytes or has a NUL.
    pub fn new(name: impl Into<String>) -> Result<Self, IdentError> {
        let name = name.into();
        if name.is_empty() || name.len() > 63 || name.contains('\0') {
            return Err(IdentError);
        }
        Ok(Self(name))
    }

    /// The bare name, as PostgreSQL's catalogs show it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

/// A text, safe to place in SQL as a string constant whatever `standard_conforming_strings` says.
///
/// NULs are dropped: PostgreSQL's text cannot hold them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Literal<'a>(pub &'a str);

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.replace('\0', "").replace('\'', "''");
        if text.contains('\\') {
            write!(f, "E'{}'", text.replace('\\', "\\\\"))
        } else {
            write!(f, "'{text}'")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(Ident::new("a\"b").unwrap().to_string(), "\"a\"\"b\"");
        assert_eq!(Literal("it's").to_string(), "'it''s'");
        assert_eq!(Literal(r"a\'b").to_string(), r"E'a\\''b'");
    }

    #[test]
    fn what_postgresql_would_cut_or_refuse_is_refused() {
        assert!(Ident::new("").is_err());
        assert!(Ident::new("a\0b").is_err());
        assert!(Ident::new("a".repeat(63)).is_ok());
        assert!(Ident::new("a".repeat(64)).is_err());
    }
}
