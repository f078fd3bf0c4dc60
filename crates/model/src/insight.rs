//! What tenants' statements did, as a proxy counts it and the control plane keeps it.
//!
//! Owns: the numbers that are told, and how one part of a process asks another for them. Does not own:
//! counting (`proxy`), or windows of time and what is kept (`control`).

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, oneshot};

use crate::{Login, TenantId};

/// Upper bounds of the times of statements that are told apart, microseconds. Kept counts were made by
/// them: others would need other counts.
pub const BOUNDS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// One for each of the bounds, and one for what took longer than all.
pub const TIMES: usize = BOUNDS_US.len() + 1;
/// Where [`Counts::times`] begin among the numbers; their sum stands before them.
pub const FIRST_TIME: usize = 9;
/// Numbers of a [`Counts`].
pub const NUMBERS: usize = FIRST_TIME + TIMES + 1;
/// Questions that may wait. Whoever asks waits for the answer.
pub const QUESTIONS_MAX: usize = 16;

/// What was counted, since something began or in some time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Statements begun: simple queries' results and Executes.
    pub statements: u64,
    /// Transactions that ended, those that were rolled back among them.
    pub transactions: u64,
    /// Errors of the server.
    pub errors: u64,
    /// Rows sent.
    pub rows: u64,
    /// Bytes read from clients after login.
    pub bytes_from_clients: u64,
    /// Bytes of the server sent to clients.
    pub bytes_to_clients: u64,
    /// Sessions begun.
    pub logins: u64,
    /// From a client's question to the end of the answer, all together, microseconds.
    pub busy_us: u64,
    /// How long the statements took that `times` counts, microseconds.
    pub times_us: u64,
    /// How often a statement took at most as long as each of [`BOUNDS_US`], and longer than the one
    /// before.
    pub times: [u64; TIMES],
    /// Of them, those that took as long as the tenant calls slow, or longer.
    pub slow: u64,
}

impl Counts {
    /// All numbers, in an order that never changes: new ones come last.
    pub fn numbers(&self) -> [u64; NUMBERS] {
        let mut numbers = [0; NUMBERS];
        let first = [
            self.statements,
            self.transactions,
            self.errors,
            self.rows,
            self.bytes_from_clients,
            self.bytes_to_clients,
            self.logins,
            self.busy_us,
            self.times_us,
        ];
        let (sums, rest) = numbers.split_at_mut(first.len());
        sums.copy_from_slice(&first);
        let (times, later) = rest.split_at_mut(TIMES);
        times.copy_from_slice(&self.times);
        later.copy_from_slice(&[self.slow]);
        numbers
    }

    /// From [`Self::numbers`]; those that are missing are 0.
    pub fn of(numbers: &[u64]) -> Self {
        let at = |place: usize| numbers.get(place).copied().unwrap_or_default();
        Self {
            statements: at(0),
            transactions: at(1),
            errors: at(2),
            rows: at(3),
            bytes_from_clients: at(4),
            bytes_to_clients: at(5),
            logins: at(6),
            busy_us: at(7),
            times_us: at(8),
            times: std::array::from_fn(|place| at(FIRST_TIME + place)),
            slow: at(FIRST_TIME + TIMES),
        }
    }

    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let earlier = earlier.numbers();
        let mut numbers = self.numbers();
        for (own, earlier) in numbers.iter_mut().zip(earlier) {
            *own = own.saturating_sub(earlier);
        }
        Self::of(&numbers)
    }

    /// Adds what was counted elsewhere or later.
    pub fn add(&mut self, other: &Self) {
        let mut numbers = self.numbers();
        for (own, other) in numbers.iter_mut().zip(other.numbers()) {
            *own = own.saturating_add(other);
        }
        *self = Self::of(&numbers);
    }

    /// Whether there is nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What a proxy counts of a tenant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TenantCounts {
    /// Whose.
    pub tenant: TenantId,
    /// Which time it is in use since the proxy began: `counts` begin anew with it.
    pub life: u64,
    /// Clients logged in now.
    pub clients: u32,
    /// Server connections now, idle ones included.
    pub servers: u32,
    /// Since it is in use.
    pub counts: Counts,
}

/// One shape of statements, without constants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statement {
    /// The same on every proxy and in every release.
    pub id: u64,
    /// Its text.
    pub text: String,
    /// How often it ended, with an error or without.
    pub count: u64,
    /// Of them, with an error.
    pub errors: u64,
    /// Of them, those that took as long as the tenant called slow then, or longer.
    pub slow: u64,
    /// Rows sent or changed.
    pub rows: u64,
    /// All together, microseconds.
    pub time_us: u64,
    /// The longest, microseconds.
    pub time_us_max: u64,
    /// How often it took how long, as [`Counts::times`].
    pub times: [u64; TIMES],
    /// How long ago it ended last.
    pub last_ago: Duration,
}

/// What a proxy knows of a tenant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TenantDetail {
    /// Counted.
    pub counts: TenantCounts,
    /// Those that take most time together, and those that run most often, the most time first.
    pub statements: Vec<Statement>,
}

/// A client at a proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// As whom it logged in.
    pub user: String,
    /// As it calls itself.
    pub application: String,
    /// Where it comes from; `None`: from the platform itself.
    pub address: Option<IpAddr>,
    /// `active` (PostgreSQL owes it an answer), `waiting` (for a server connection) or `idle`.
    pub state: &'static str,
    /// The number of the server process that it has now.
    pub process: Option<i32>,
    /// Since it connected.
    pub connected: Duration,
    /// Since it waits.
    pub waits: Option<Duration>,
    /// Statements since it logged in.
    pub statements: u64,
    /// Errors since then.
    pub errors: u64,
    /// The version of TLS; `None`: plain text.
    pub tls: Option<&'static str>,
    /// What keeps it on the server connection it has.
    pub pinned_by: Option<String>,
}

/// A statement that ended, without its constants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogLine {
    /// When it ended.
    pub at: SystemTime,
    /// Who ran it.
    pub login: Login,
    /// Which of [`TenantLog::statements`]; `None`: it is not known.
    pub statement: Option<usize>,
    /// How long it took, microseconds; `None`: that was not measured.
    pub took_us: Option<u64>,
    /// Rows sent or changed.
    pub rows: u64,
    /// With which SQLSTATE it failed.
    pub error: Option<[u8; 5]>,
    /// Whether it took as long as the tenant called slow then.
    pub is_slow: bool,
}

/// What a tenant wants to have noted of its statements.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TenantLog {
    /// Whose.
    pub tenant: TenantId,
    /// In the order in which they ended.
    pub lines: Vec<LogLine>,
    /// Shapes of these statements, each once: its number and its text.
    pub statements: Vec<(u64, String)>,
    /// Further lines that there was no room for.
    pub dropped: u64,
}

/// Server connections of a proxy now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pools {
    /// All of them, also those being opened or closed.
    pub servers: u64,
    /// Those that nobody uses.
    pub idle: u64,
}

/// What a proxy is asked. An answer that is dropped says that it is gone.
#[derive(Debug)]
pub enum Question {
    /// Of its pools.
    Pools(oneshot::Sender<Pools>),
    /// Of all tenants in use or used lately.
    All(oneshot::Sender<Vec<TenantCounts>>),
    /// Of one; `None`: it is not in use.
    One {
        /// Which.
        tenant: TenantId,
        /// Statements by time, and as many by count.
        statements_max: usize,
        /// The answer.
        reply: oneshot::Sender<Option<TenantDetail>>,
    },
    /// Lines of all tenants that nobody took yet. Whoever asks has them, and nobody else.
    Log(oneshot::Sender<Vec<TenantLog>>),
    /// Clients of one now, those that wait first, then those that are active.
    Connections {
        /// Which.
        tenant: TenantId,
        /// At most so many.
        most: usize,
        /// The answer.
        reply: oneshot::Sender<Vec<Connection>>,
    },
}

/// Where a proxy is asked.
pub type Questions = mpsc::Sender<Question>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_there_and_back_and_add_up() {
        let numbers: [u64; NUMBERS] = std::array::from_fn(|place| place as u64 + 1);
        let counts = Counts::of(&numbers);
        assert_eq!(counts.numbers(), numbers);
        assert_eq!((counts.statements, counts.times[TIMES - 1]), (1, 28));
        let mut twice = counts;
        twice.add(&counts);
        assert_eq!(twice.since(&counts), counts);
        assert!(counts.since(&twice).is_nothing(), "it never falls");
        assert_eq!(Counts::of(&[7]).statements, 7);
        assert!(Counts::of(&[]).is_nothing());
    }
}
