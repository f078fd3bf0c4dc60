//! Why something could not be done on a node.

use std::time::Duration;

use tokio_postgres::error::SqlState;

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The server cannot be reached, is starting, or went away in the middle. Repeat the step
    /// later: every step may be repeated.
    #[error("{step}: the server of node {node} cannot be reached")]
    Unreachable {
        /// Which node.
        node: String,
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something that ends by itself did not end in time. Repeat the step later.
    #[error("{step}: {what} within {waited:?}")]
    Busy {
        /// What was being done.
        step: &'static str,
        /// What was waited for.
        what: &'static str,
        /// How long it waited.
        waited: Duration,
    },
    /// The server refused a statement. Repeating helps only when something else changes in between
    /// (space on the disk, a source database in use); see [`NodeError::is_temporary`].
    #[error("{step}: the server refused ({code})")]
    Refused {
        /// What was being done.
        step: &'static str,
        /// SQLSTATE.
        code: String,
        /// The server's words. They name physical ids only.
        #[source]
        source: Box<tokio_postgres::Error>,
    },
    /// A program of PostgreSQL's failed. Repeating may help: it may have waited for a lock.
    #[error("{step}: {program} failed: {words}")]
    Program {
        /// What was being done.
        step: &'static str,
        /// Which.
        program: &'static str,
        /// Its own words. They may name objects of the tenant, and addresses ([`NodeError::is_unreachable`]).
        words: String,
    },
    /// What is there contradicts what was asked. Nothing was changed.
    #[error("{step}: {what}")]
    Conflict {
        /// What was being done.
        step: &'static str,
        /// What was found.
        what: String,
    },
}

impl NodeError {
    /// Whether the same step may work later with nothing changed by anybody.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } | Self::Program { .. } => true,
            Self::Refused { code, .. } => TEMPORARY.contains(&code.as_str()),
            Self::Conflict { .. } => false,
        }
    }

    /// Whether the server was not reached, neither by us nor by a program of PostgreSQL's; what that says names
    /// addresses, which are for the log.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Program { words, .. } => UNREACHED.iter().any(|said| words.contains(said)),
            Self::Busy { .. } | Self::Refused { .. } | Self::Conflict { .. } => false,
        }
    }

    /// Whether a copy failed because its source has sessions (55006, object_in_use).
    pub fn is_source_in_use(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == SqlState::OBJECT_IN_USE.code())
    }

    pub(crate) fn refused_with(&self, state: &SqlState) -> bool {
        matches!(self, Self::Refused { code, .. } if code == state.code())
    }

    pub(crate) fn from_server(
        node: &str,
        step: &'static str,
        error: tokio_postgres::Error,
    ) -> Self {
        match error.code() {
            Some(code) if !is_loss(code) => Self::Refused {
                step,
                code: code.code().to_owned(),
                source: Box::new(error),
            },
            _ => Self::Unreachable {
                node: node.to_owned(),
                step,
                source: Box::new(error),
            },
        }
    }
}

/// Refusals that end by themselves: out of disk or memory, deadlock, serialization, a lock that was
/// not free in time, an object in use, a statement that was cancelled.
const TEMPORARY: [&str; 8] = [
    "40001", "40P01", "55P03", "55006", "57014", "53100", "53200", "53400",
];

/// How libpq begins to say where it could not connect to.
const UNREACHED: [&str; 2] = ["connection to server", "could not translate host name"];

/// The session ended, or none could begin now.
fn is_loss(code: &SqlState) -> bool {
    code.code().starts_with("08")
        || ["53300", "57P01", "57P02", "57P03", "57P05"].contains(&code.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_reached_no_server_is_told_from_one_that_failed() {
        for (words, is_unreachable) in [
            (
                "pg_dump: error: connection to server at \"10.0.0.5\", port 5432 failed: Connection refused",
                true,
            ),
            (
                "pg_restore: error: could not translate host name \"db.internal\" to address: Name or service not known",
                true,
            ),
            (
                "pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout",
                false,
            ),
        ] {
            let error = NodeError::Program {
                step: "back up",
                program: "pg_dump",
                words: words.to_owned(),
            };
            assert_eq!(error.is_unreachable(), is_unreachable, "{words}");
        }
    }
}
