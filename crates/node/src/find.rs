//! Finding the programs of PostgreSQL.

use std::path::{Path, PathBuf};

/// PostgreSQL's programs on this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Installation {
    /// Directory with `postgres` and `initdb`.
    pub bin: PathBuf,
    /// 15 to 18.
    pub major: u32,
    /// As `postgres --version` says.
    pub version: String,
}

/// No PostgreSQL that can be used.
#[derive(Debug, thiserror::Error)]
#[error("no PostgreSQL 15 to 18 was found")]
pub struct FindError {
    /// Where it was looked for and what was wrong there.
    pub looked: Vec<(PathBuf, String)>,
}

/// Finds PostgreSQL 15 to 18, the highest major first.
pub async fn find(_explicit: Option<&Path>) -> Result<Installation, FindError> {
    todo!()
}
