//! What one tenant may use, kept on its open sessions.
//!
//! Owns: what is said when a limit is reached ([`Exceeded`]); how often statements may begin
//! (`rate`), how large a result may be (`result`), how long things may take (`clock`), what makes a
//! database larger (`growing`) and how much memory a server process has (`memory`) are next door. Does not own: which limits there are and who sets them (`model::limits`), counts of
//! connections (`pool`, `session`), or what is done to a session (`handle`, `relay`).
//!
//! Nothing of it is kept by settings of the server, since a tenant can change those; memory is kept by
//! the server's operating system, the rest here. What a
//! limit is now is looked up when it matters, so a change holds for sessions that are open.

mod clock;
mod growing;
mod memory;
mod rate;
mod result;

use model::limits::Number;
use wire::message::build::{self, Report, Severity};

pub(crate) use clock::{Alarms, Doing, Moment, Pulse, expire, ring, watch, watch_stop};
pub(crate) use growing::{Growing, Growth};
pub(crate) use memory::{Postmaster, Processes, Unlimited};
pub(crate) use rate::Bucket;
pub(crate) use result::{End, Meter};

/// A limit that was reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Exceeded {
    /// Which.
    pub limit: Number,
    /// What it is, in its unit.
    pub value: u64,
}

impl std::fmt::Display for Exceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // As far as PostgreSQL has words for it, they are the first.
        f.write_str(match self.limit {
            Number::Statement => "canceling statement due to statement timeout",
            Number::Transaction => "terminating connection due to transaction timeout",
            Number::IdleInTransaction => {
                "terminating connection due to idle-in-transaction timeout"
            }
            Number::ClientIdle => "terminating connection due to idle-session timeout",
            Number::ResultRows => "the result has too many rows",
            Number::ResultBytes => "the result is too large",
            Number::Statements => "too many statements",
            Number::Storage => "the database is full",
            Number::Memory => "out of memory",
            Number::StatementsBurst
            | Number::ClientConnections
            | Number::ServerConnections
            | Number::ServerConnectionsKept
            | Number::ServerConnectionsWeight
            | Number::SlowStatement
            | Number::LogSample
            | Number::StatementAudit => "limit reached",
        })?;
        write!(f, ": {} is {}", self.limit.name(), self.value)
    }
}

impl Exceeded {
    /// PostgreSQL manual, appendix "Error Codes".
    pub(crate) fn sqlstate(self) -> &'static str {
        match self.limit {
            Number::Statement => "57014",                        // query_canceled
            Number::Transaction => "25P04",                      // transaction_timeout
            Number::IdleInTransaction => "25P03", // idle_in_transaction_session_timeout
            Number::ClientIdle => "57P05",        // idle_session_timeout
            Number::ResultRows | Number::ResultBytes => "54000", // program_limit_exceeded
            Number::Storage => "53100",           // disk_full
            Number::Memory => "53200",            // out_of_memory
            Number::Statements
            | Number::StatementsBurst
            | Number::ClientConnections
            | Number::ServerConnections
            | Number::ServerConnectionsKept
            | Number::ServerConnectionsWeight
            | Number::SlowStatement
            | Number::LogSample
            | Number::StatementAudit => "53400", // configuration_limit_exceeded
        }
    }

    /// What can be done about it.
    pub(crate) fn hint(self) -> &'static str {
        match self.limit {
            Number::Statements => {
                "Send fewer, or raise the limit: its owner can, up to what the operator allows (tenantry db limits)."
            }
            Number::ResultRows | Number::ResultBytes => {
                "Ask for less with LIMIT, or raise the limit: its owner can, up to what the operator allows (tenantry db limits)."
            }
            Number::Storage => {
                "DELETE, TRUNCATE, DROP and VACUUM FULL are allowed, and end it within seconds; or raise the limit: its owner can, up to what the operator allows (tenantry db limits)."
            }
            Number::Memory => {
                "Lower work_mem, or have the statement hold less at once; or raise the limit: its owner can, up to what the operator allows (tenantry db limits)."
            }
            _ => {
                "The owner of the database can raise the limit, up to what the operator allows (tenantry db limits)."
            }
        }
    }

    /// Appends what ends a statement with it.
    pub(crate) fn write(self, detail: &str, out: &mut Vec<u8>) {
        let report = Report {
            severity: Severity::Error,
            code: self.sqlstate(),
            message: &self.to_string(),
            detail,
            hint: self.hint(),
        };
        build::error_response(&report, out);
    }

    /// Whether the session goes on.
    pub(crate) fn ends_only_a_statement(self) -> bool {
        matches!(
            self.limit,
            Number::Statement
                | Number::ResultRows
                | Number::ResultBytes
                | Number::Statements
                | Number::Storage
                | Number::Memory
        )
    }

    /// One of every kind that a client can be told.
    pub(crate) fn examples() -> impl Iterator<Item = Self> {
        [
            (Number::Statement, 5_000),
            (Number::Transaction, 60_000),
            (Number::IdleInTransaction, 10_000),
            (Number::ClientIdle, 1_800_000),
            (Number::ResultRows, 10_000),
            (Number::ResultBytes, 1_048_576),
            (Number::Statements, 100),
            (Number::Storage, 1_073_741_824),
            (Number::Memory, 268_435_456),
        ]
        .into_iter()
        .map(|(limit, value)| Self { limit, value })
    }
}
