//! Roles, the groups behind them, users of a database, and the login name that carries one of them.

use std::{fmt, str::FromStr};

use crate::{Pid, TenantId, UserId};

/// What a credential may do inside its tenant's database.
#[derive(
    Clone, Copy, Debug, Eq, PartialEq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May change the schema.
    Admin,
    /// May change rows.
    Write,
    /// May look.
    Read,
}

impl Role {
    /// All of them, strongest first.
    pub const ALL: [Self; 3] = [Self::Admin, Self::Write, Self::Read];

    /// As it stands in a login name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Write => "write",
            Self::Read => "read",
        }
    }

    /// The group in whose name its sessions work.
    pub fn group(self) -> Group {
        match self {
            Self::Admin => Group::Admin,
            Self::Write => Group::Write,
            Self::Read => Group::Read,
        }
    }

    /// Name of the login in PostgreSQL.
    pub fn login(self, pid: &Pid) -> String {
        format!("{}_{}", pid.database(), self.as_str())
    }

    /// Name in PostgreSQL of the login of a user that has this role. It says the role, so that whoever
    /// looks at a server knows what to expect of it.
    pub fn user_login(self, pid: &Pid, user: &UserId) -> String {
        format!("{}_{user}", self.login(pid))
    }
}

impl FromStr for Role {
    type Err = LoginNameError;
    fn from_str(text: &str) -> Result<Self, LoginNameError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(LoginNameError::Role)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The fixed roles of a server that own, or are granted, everything inside tenant databases, so
/// that nothing inside one names its tenant.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Group {
    /// Owns what a blueprint made.
    Owner,
    /// Of [`Role::Admin`].
    Admin,
    /// Of [`Role::Write`].
    Write,
    /// Of [`Role::Read`].
    Read,
}

impl Group {
    /// Name in PostgreSQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "tenantry_owner",
            Self::Admin => "tenantry_admin",
            Self::Write => "tenantry_write",
            Self::Read => "tenantry_read",
        }
    }
}

/// Most bytes of the name of a user.
pub const USER_NAME_MAX: usize = 32;

/// Names that no user may have: those of roles, and words that mean something here or in PostgreSQL.
/// A word that is added may be somebody's name already: that takes a migration.
const RESERVED: [&str; 12] = [
    "admin", "write", "read", "owner", "deploy", "dump", "fill", "operator", "postgres", "public",
    "none", "tenantry",
];

/// Name of a user of one database: 1 to [`USER_NAME_MAX`] characters of `a-z`, `0-9`, `_` and `-`, the
/// first a letter, and not the name of a role. It never reaches PostgreSQL, whose roles all can read.
///
/// Small and copied, since it is part of what every session and pool is found by.
#[derive(Clone, Copy, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub struct UserName {
    /// Filled up with zeros.
    bytes: [u8; USER_NAME_MAX],
}

/// Why a text is no name of a user, in words for the person who chose it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UserNameError {
    /// Empty, or too long.
    #[error("a user name has 1 to 32 characters")]
    Length,
    /// Something else, or not a letter first.
    #[error("a user name is made of a-z, 0-9, '_' and '-', and begins with a letter")]
    Character,
    /// It means something else.
    #[error("this user name is reserved")]
    Reserved,
}

impl UserName {
    /// The text form.
    pub fn as_str(&self) -> &str {
        let end = self.bytes.iter().position(|byte| *byte == 0);
        let bytes = &self.bytes[..end.unwrap_or(USER_NAME_MAX)];
        std::str::from_utf8(bytes).expect("a user name is ASCII")
    }
}

impl FromStr for UserName {
    type Err = UserNameError;
    fn from_str(text: &str) -> Result<Self, UserNameError> {
        if text.is_empty() || text.chars().count() > USER_NAME_MAX {
            return Err(UserNameError::Length);
        }
        let is_plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        if !text.bytes().all(is_plain) || !text.as_bytes()[0].is_ascii_lowercase() {
            return Err(UserNameError::Character);
        }
        if RESERVED.contains(&text) {
            return Err(UserNameError::Reserved);
        }
        let mut bytes = [0; USER_NAME_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserName({self})")
    }
}

/// As whom somebody logs in to a database. No name is both: names of roles are reserved.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, PartialOrd, Ord)]
pub enum Login {
    /// One of the three that every database has.
    Role(Role),
    /// A user of this database, who has one of the roles.
    User(UserName),
}

impl From<Role> for Login {
    fn from(role: Role) -> Self {
        Self::Role(role)
    }
}

impl From<UserName> for Login {
    fn from(user: UserName) -> Self {
        Self::User(user)
    }
}

impl FromStr for Login {
    type Err = LoginNameError;
    fn from_str(text: &str) -> Result<Self, LoginNameError> {
        if let Ok(role) = text.parse::<Role>() {
            return Ok(role.into());
        }
        let user = text.parse::<UserName>();
        user.map(Self::User).map_err(|_| LoginNameError::Role)
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role) => f.write_str(role.as_str()),
            Self::User(user) => f.write_str(user.as_str()),
        }
    }
}

/// Whom a client says it is: `<tenant_id>.<role>` or `<tenant_id>.<user>`.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct LoginName {
    /// The tenant it asks for; it may not exist.
    pub tenant: TenantId,
    /// As whom.
    pub login: Login,
}

/// Why a user name routes nowhere. Told before login, so it depends on the text alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LoginNameError {
    /// No dot.
    #[error("user name has no role")]
    NoRole,
    /// What stands before the dot cannot be a tenant's id.
    #[error("user name has no tenant id")]
    Tenant,
    /// What stands after the dot is no role, and cannot be the name of a user.
    #[error("user name ends in no known role")]
    Role,
}

impl FromStr for LoginName {
    type Err = LoginNameError;
    fn from_str(text: &str) -> Result<Self, LoginNameError> {
        let (tenant, login) = text.split_once('.').ok_or(LoginNameError::NoRole)?;
        Ok(Self {
            tenant: tenant.parse().map_err(|_| LoginNameError::Tenant)?,
            login: login.parse()?,
        })
    }
}

impl fmt::Display for LoginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.tenant, self.login)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_name_reads_back() {
        let name: LoginName = "abcdefghijkl.write".parse().unwrap();
        assert_eq!(name.login, Role::Write.into());
        assert_eq!(name.to_string(), "abcdefghijkl.write");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, error) in [
            ("postgres", LoginNameError::NoRole),
            ("", LoginNameError::NoRole),
            (".admin", LoginNameError::Tenant),
            ("../etc.admin", LoginNameError::Tenant),
            ("abcdefghijkl.", LoginNameError::Role),
            ("abcdefghijkl.Root", LoginNameError::Role),
            ("abcdefghijkl.postgres", LoginNameError::Role),
            ("abcdefghijkl.admin.", LoginNameError::Role),
        ] {
            assert_eq!(text.parse::<LoginName>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_user_is_told_from_a_role() {
        let name: LoginName = "abcdefghijkl.ann-2_x".parse().unwrap();
        let ann: UserName = "ann-2_x".parse().unwrap();
        assert_eq!(name.login, ann.into());
        assert_eq!(name.to_string(), "abcdefghijkl.ann-2_x");
        assert_eq!(format!("{ann:?}"), "UserName(ann-2_x)");
        let longest = "a".repeat(USER_NAME_MAX);
        let user: UserName = longest.parse().unwrap();
        assert_eq!(user.as_str(), longest);
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(Login::Role(role)));
            assert_eq!(
                role.as_str().parse::<UserName>(),
                Err(UserNameError::Reserved)
            );
        }
    }

    #[test]
    fn the_edges_of_a_user_name() {
        let long = "a".repeat(USER_NAME_MAX + 1);
        for (bad, error) in [
            ("", UserNameError::Length),
            (&*long, UserNameError::Length),
            ("Ann", UserNameError::Character),
            ("1a", UserNameError::Character),
            ("-a", UserNameError::Character),
            ("_a", UserNameError::Character),
            ("a.b", UserNameError::Character),
            ("a b", UserNameError::Character),
            ("a\0", UserNameError::Character),
            ("\u{e4}nn", UserNameError::Character),
            ("postgres", UserNameError::Reserved),
        ] {
            assert_eq!(bad.parse::<UserName>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn the_login_of_a_user_fits_in_postgresql() {
        let (pid, user) = (
            "abcdefghijkl".parse().unwrap(),
            "zbcdefghijkl".parse().unwrap(),
        );
        let name = Role::Admin.user_login(&pid, &user);
        assert_eq!(name, "x_abcdefghijkl_admin_zbcdefghijkl");
        assert!(name.len() < 64);
    }
}
