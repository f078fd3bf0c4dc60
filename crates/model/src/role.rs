//! Roles, the groups behind them, and the login name that carries one.

use std::{fmt, str::FromStr};

use crate::{Pid, TenantId};

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

/// Whom a client says it is: `<tenant_id>.<role>`.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct LoginName {
    /// The tenant it asks for; it may not exist.
    pub tenant: TenantId,
    /// The role it asks for.
    pub role: Role,
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
    /// What stands after the dot is no role.
    #[error("user name ends in no known role")]
    Role,
}

impl FromStr for LoginName {
    type Err = LoginNameError;
    fn from_str(text: &str) -> Result<Self, LoginNameError> {
        let (tenant, role) = text.split_once('.').ok_or(LoginNameError::NoRole)?;
        Ok(Self {
            tenant: tenant.parse().map_err(|_| LoginNameError::Tenant)?,
            role: role.parse()?,
        })
    }
}

impl fmt::Display for LoginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.tenant, self.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_name_reads_back() {
        let name: LoginName = "abcdefghijkl.write".parse().unwrap();
        assert_eq!(name.role, Role::Write);
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
            ("abcdefghijkl.root", LoginNameError::Role),
            ("abcdefghijkl.admin.", LoginNameError::Role),
        ] {
            assert_eq!(text.parse::<LoginName>(), Err(error), "{text}");
        }
    }
}
