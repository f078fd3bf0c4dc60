//! Names that users give their tenants.

use std::{fmt, str::FromStr};

use rand::{Rng, RngExt};

/// Name of a tenant, unique in its project: 1 to 63 characters of `a-z`, `0-9`, `_` and `-`,
/// without `__`, which separates a blueprint from a tenant in TenantsDB's form of an address.
#[derive(Clone, Debug, Eq, PartialEq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct TenantName(Box<str>);

/// Why a text is no name, in words for the person who chose it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameError {
    /// Empty, or more than 63 characters.
    #[error("a name has 1 to 63 characters")]
    Length,
    /// Something other than `a-z0-9_-`.
    #[error("a name is made of a-z, 0-9, '_' and '-'")]
    Character,
    /// `__` inside.
    #[error("a name has no two underscores in a row")]
    Separator,
}

const ADJECTIVES: [&str; 32] = [
    "able", "brave", "bright", "calm", "clear", "clever", "cosy", "crisp", "eager", "early",
    "fair", "fresh", "gentle", "glad", "grand", "happy", "keen", "kind", "lively", "lucky",
    "merry", "mild", "neat", "noble", "proud", "quick", "quiet", "rapid", "sharp", "still",
    "swift", "warm",
];
const ANIMALS: [&str; 32] = [
    "badger", "beaver", "bison", "crane", "deer", "dolphin", "eagle", "falcon", "ferret", "finch",
    "fox", "gecko", "heron", "ibex", "jaguar", "koala", "lark", "lemur", "lynx", "marten", "moose",
    "newt", "orca", "otter", "owl", "panda", "puffin", "raven", "robin", "seal", "stork", "tiger",
];

impl TenantName {
    /// A readable one, like `brave-tiger-42`: one of 921,600. The caller tries again when taken.
    pub fn generated(rng: &mut impl Rng) -> Self {
        let adjective = ADJECTIVES[rng.random_range(0..ADJECTIVES.len())];
        let animal = ANIMALS[rng.random_range(0..ANIMALS.len())];
        let number = rng.random_range(100..1000);
        Self(format!("{adjective}-{animal}-{number}").into())
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.chars().count() > 63 {
            return Err(NameError::Length);
        }
        if !text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
        {
            return Err(NameError::Character);
        }
        if text.contains("__") {
            return Err(NameError::Separator);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_names() {
        let mut rng = rand::rng();
        for _ in 0..1000 {
            let name = TenantName::generated(&mut rng);
            assert_eq!(name.as_str().parse(), Ok(name.clone()));
        }
    }

    #[test]
    fn the_edges_of_the_rule() {
        for good in ["a", "0", "-", "_", "a_b-c", &"x".repeat(63)] {
            assert!(good.parse::<TenantName>().is_ok(), "{good}");
        }
        for (bad, error) in [
            ("", NameError::Length),
            (&*"x".repeat(64), NameError::Length),
            ("A", NameError::Character),
            ("a b", NameError::Character),
            ("..", NameError::Character),
            ("a\"b", NameError::Character),
            ("n\u{e4}me", NameError::Character),
            ("a__b", NameError::Separator),
        ] {
            assert_eq!(bad.parse::<TenantName>(), Err(error), "{bad}");
        }
    }
}
