//! Ids: permanent, opaque, made by us.

use std::{fmt, str::FromStr};

use rand::{Rng, RngExt};

/// Why a text is no id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an id: {expected}")]
pub struct IdError {
    expected: &'static str,
}

const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const LETTERS_AND_DIGITS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// 12 characters of `[a-z0-9]`, the first a letter: 61 bits.
fn random12(rng: &mut impl Rng) -> String {
    let pick = |set: &[u8], rng: &mut _| {
        let index = RngExt::random_range(rng, 0..set.len());
        char::from(set[index])
    };
    (0..12)
        .map(|i| pick(if i == 0 { LETTERS } else { LETTERS_AND_DIGITS }, rng))
        .collect()
}

fn is_random12(text: &str) -> bool {
    text.len() == 12
        && text.as_bytes()[0].is_ascii_lowercase()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, PartialEq, Hash, PartialOrd, Ord, serde::Serialize)]
        pub struct $name(Box<str>);

        impl $name {
            /// A new one. `rng` must be cryptographically secure where guessing matters.
            pub fn random(rng: &mut impl Rng) -> Self {
                Self(format!("{}{}", $prefix, random12(rng)).into())
            }

            /// The text form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                match text.strip_prefix($prefix) {
                    Some(rest) if is_random12(rest) => Ok(Self(text.into())),
                    _ => Err(IdError { expected: $expected }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// Id of a tenant, permanent: 12 characters of `[a-z0-9]`, the first a letter.
    TenantId, "", "12 characters of a-z and 0-9, the first a letter"
}
id! {
    /// Physical id: names the database and the roles of a tenant inside PostgreSQL, so that
    /// neither a customer's name nor a tenant's id shows in `pg_database`, which all can read.
    /// A tenant gets another one when its data is replaced.
    Pid, "", "12 characters of a-z and 0-9, the first a letter"
}
id! {
    /// Id of a project, the owner of tenants: `prj_` and 12 characters.
    ProjectId, "prj_", "prj_ and 12 characters of a-z and 0-9, the first a letter"
}
id! {
    /// Id of one secret (password, token, key), so that it can be named without being shown.
    CredentialId, "crd_", "crd_ and 12 characters of a-z and 0-9, the first a letter"
}
id! {
    /// Id of one running process of ours, from its start to its end: `prc_` and 12 characters.
    ProcessId, "prc_", "prc_ and 12 characters of a-z and 0-9, the first a letter"
}

id! {
    /// Id of one hold on a tenant: `hld_` and 12 characters.
    HoldId, "hld_", "hld_ and 12 characters of a-z and 0-9, the first a letter"
}

id! {
    /// Id of one backup of a tenant: `bkp_` and 12 characters.
    BackupId, "bkp_", "bkp_ and 12 characters of a-z and 0-9, the first a letter"
}

id! {
    /// Id of one restore of a backup: `rst_` and 12 characters.
    RestoreId, "rst_", "rst_ and 12 characters of a-z and 0-9, the first a letter"
}

id! {
    /// Id of one alert, from its beginning to its end: `alt_` and 12 characters.
    AlertId, "alt_", "alt_ and 12 characters of a-z and 0-9, the first a letter"
}

id! {
    /// Id of a rule of alerts: `alr_` and 12 characters.
    AlertRuleId, "alr_", "alr_ and 12 characters of a-z and 0-9, the first a letter"
}

id! {
    /// Id of one message to a webhook, the same however often it is sent: `alm_` and 12 characters.
    MessageId, "alm_", "alm_ and 12 characters of a-z and 0-9, the first a letter"
}

id! {
    /// Id of one restore drill: `drl_` and 12 characters.
    DrillId, "drl_", "drl_ and 12 characters of a-z and 0-9, the first a letter"
}

id! {
    /// Names a user of a database inside PostgreSQL, where the user's own name never stands. A branch
    /// has its parent's users under the same ids.
    UserId, "", "12 characters of a-z and 0-9, the first a letter"
}

impl Pid {
    /// Name of the database, and of the role whose members are its logins.
    pub fn database(&self) -> String {
        format!("x_{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_id_can_be_read_back() {
        let mut rng = rand::rng();
        for _ in 0..1000 {
            let id = TenantId::random(&mut rng);
            assert_eq!(id.as_str().parse(), Ok(id.clone()));
            let project = ProjectId::random(&mut rng);
            assert_eq!(project.as_str().parse(), Ok(project.clone()));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "abc",
            "1bcdefghijkl",
            "Abcdefghijkl",
            "abcdefghijklm",
            "abcdefghijk\u{e9}",
            "abcdef-hijkl",
        ] {
            assert!(text.parse::<TenantId>().is_err(), "{text}");
        }
        assert!("abcdefghijkl".parse::<ProjectId>().is_err());
    }
}
