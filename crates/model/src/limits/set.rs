//! What can be limited: names, units, bounds and defaults, and what one party said of them.

use crate::{Network, network::NetworkError, route::PoolMode};

/// How the wishes of operator and owner become one limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rule {
    /// Protects other tenants: what the operator says, or the default, is the most that the owner may
    /// have. 0 is not allowed.
    Ceiling,
    /// Takes from other tenants: the operator alone says it.
    OperatorOnly,
    /// Protects the tenant and its operator: off when it is 0; whoever sets less wins.
    Optional,
    /// Takes from nobody: the owner's word, or else the operator's. Off when it is 0, where that is in its
    /// range.
    Choice,
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $range:expr, $default:literal, $rule:ident;)*) => {
        /// A limit that is a number.
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
        pub enum Number { $($(#[$doc])* $variant,)* }

        impl Number {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As API, command line and catalog call it. Its unit comes last, where it has one.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The least and the most it may be, beside 0 where that means "no limit".
            pub fn range(self) -> std::ops::RangeInclusive<u64> {
                match self { $(Self::$variant => $range,)* }
            }

            /// What it is when nobody says anything.
            pub fn default(self) -> u64 {
                match self { $(Self::$variant => $default,)* }
            }

            /// Whether 0 stands for "none".
            pub fn can_be_off(self) -> bool {
                match self.rule() {
                    Rule::Optional => true,
                    Rule::Choice => *self.range().start() == 0,
                    Rule::Ceiling | Rule::OperatorOnly => false,
                }
            }

            /// Whose wish counts.
            pub fn rule(self) -> Rule {
                match self { $(Self::$variant => Rule::$rule,)* }
            }
        }
    };
}

/// Times are bounded by a week: what is longer was meant to be off.
const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;

numbers! {
    /// Clients at once.
    ClientConnections = "client_connections_max", 1..=100_000, 500, Ceiling;
    /// Server connections at once.
    ServerConnections = "server_connections_max", 1..=1_000, 12, Ceiling;
    /// Server connections that others do not get.
    ServerConnectionsKept = "server_connections_min", 0..=100, 0, OperatorOnly;
    /// How much more than others it gets, when not all get what they want.
    ServerConnectionsWeight = "server_connections_weight", 1..=100, 1, OperatorOnly;
    /// Statements begun in a second, in the long run.
    Statements = "statements_per_second", 1..=1_000_000, 0, Optional;
    /// Statements at once after a pause; 0: as many as in a second.
    StatementsBurst = "statements_burst", 1..=1_000_000, 0, Optional;
    /// Rows of one result.
    ResultRows = "result_rows_max", 1..=1_000_000_000_000, 0, Optional;
    /// Bytes of one result.
    ResultBytes = "result_bytes_max", 1024..=1_000_000_000_000_000, 0, Optional;
    /// Bytes of the database on disk.
    Storage = "storage_bytes_max", 1_048_576..=1_000_000_000_000_000, 0, Optional;
    /// Bytes of private memory of one server process.
    Memory = "memory_bytes_max", 67_108_864..=1_000_000_000_000_000, 0, Optional;
    /// Milliseconds of one statement.
    Statement = "statement_ms_max", 10..=WEEK_MS, 0, Optional;
    /// Milliseconds of one transaction.
    Transaction = "transaction_ms_max", 10..=WEEK_MS, 0, Optional;
    /// Milliseconds between two statements of a transaction.
    IdleInTransaction = "idle_in_transaction_ms_max", 10..=WEEK_MS, 0, Optional;
    /// Milliseconds of a client that does nothing.
    ClientIdle = "client_idle_ms_max", 1000..=WEEK_MS, 1_800_000, Optional;
    /// Milliseconds from which on a statement is called slow. A second: what a person who waits notices.
    SlowStatement = "slow_statement_ms", 0..=WEEK_MS, 1_000, Choice;
    /// Of how many statements that were neither slow nor failed one is logged, where samples are.
    LogSample = "statement_log_sample", 1..=1_000_000, 100, Choice;
    /// 1: every statement is a line in the audit log. Whoever says so first, the other cannot take it back.
    StatementAudit = "statement_audit", 1..=1, 0, Optional;
}

pub(super) const NUMBERS: usize = Number::ALL.len();

/// Networks in one list. More belong in a firewall.
pub const NETWORKS_MAX: usize = 64;

/// Names of the limits that are no numbers.
pub const POOL_MODE: &str = "pool_mode";
/// Another one.
pub const ALLOWED_ADDRESSES: &str = "allowed_addresses";
/// The third.
pub const STATEMENT_LOG: &str = "statement_log";

pub(super) const POOL_MODES: [(PoolMode, &str); 3] = [
    (PoolMode::Auto, "auto"),
    (PoolMode::Session, "session"),
    (PoolMode::Transaction, "transaction"),
];

/// Which statements are kept in the log of a database.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StatementLog {
    /// None.
    Off,
    /// Those that failed.
    Errors,
    /// Those that failed, and those that were slow.
    #[default]
    Slow,
    /// All of them.
    All,
    /// Those that failed or were slow, and one of so many others.
    Sampled,
}

impl StatementLog {
    /// All of them, with their words.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Off, "off"),
        (Self::Errors, "errors"),
        (Self::Slow, "slow"),
        (Self::All, "all"),
        (Self::Sampled, "sampled"),
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == self);
        found.map_or("", |(_, word)| word)
    }

    /// Reads [`Self::as_str`] back.
    pub fn parse(word: &str) -> Option<Self> {
        let found = Self::ALL.into_iter().find(|(_, known)| *known == word);
        found.map(|(known, _)| known)
    }
}

/// The word for a pool mode.
pub fn pool_mode_word(mode: PoolMode) -> &'static str {
    POOL_MODES
        .into_iter()
        .find_map(|(known, word)| (known == mode).then_some(word))
        .unwrap_or_default()
}

/// Why a limit cannot be set so, in words for who wants it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LimitError {
    /// Out of its bounds.
    #[error("{} is a whole number from {} to {}{}", .0.name(), .0.range().start(), .0.range().end(),
        if .0.rule() == Rule::Optional { ", or 0 for no limit" } else { "" })]
    Range(Number),
    /// More than the operator allows.
    #[error("{} is {at_most} at most here", .number.name())]
    AboveOperators {
        /// Which.
        number: Number,
        /// What the operator allows.
        at_most: u64,
    },
    /// Not the owner's to say.
    #[error("{0} is set by the operator here")]
    Operators(&'static str),
    /// Too many networks.
    #[error("allowed_addresses has at most {NETWORKS_MAX} networks")]
    TooManyNetworks,
}

/// What one party said. What it said nothing about is as if it were not there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LimitSet {
    pub(super) numbers: [Option<u64>; NUMBERS],
    /// How sessions share server connections.
    pub pool_mode: Option<PoolMode>,
    /// Which statements are logged.
    pub statement_log: Option<StatementLog>,
    pub(super) addresses: Option<Vec<Network>>,
}

impl LimitSet {
    /// A number that was set.
    pub fn number(&self, number: Number) -> Option<u64> {
        self.numbers.get(number as usize).copied().flatten()
    }

    /// Sets a number, or takes it back.
    ///
    /// # Errors
    ///
    /// [`LimitError::Range`]; nothing changed.
    pub fn set_number(&mut self, number: Number, value: Option<u64>) -> Result<(), LimitError> {
        let is_off = number.rule() == Rule::Optional && value == Some(0);
        if value.is_some_and(|value| !is_off && !number.range().contains(&value)) {
            return Err(LimitError::Range(number));
        }
        self.numbers[number as usize] = value;
        Ok(())
    }

    /// Networks that clients may come from, if any were named.
    pub fn addresses(&self) -> Option<&[Network]> {
        self.addresses.as_deref()
    }

    /// Sets them, or takes them back. An empty list lets nobody in.
    ///
    /// # Errors
    ///
    /// [`LimitError::TooManyNetworks`]; nothing changed.
    pub fn set_addresses(&mut self, networks: Option<Vec<Network>>) -> Result<(), LimitError> {
        if networks
            .as_ref()
            .is_some_and(|networks| networks.len() > NETWORKS_MAX)
        {
            return Err(LimitError::TooManyNetworks);
        }
        self.addresses = networks;
        Ok(())
    }

    /// Reads a list of networks.
    ///
    /// # Errors
    ///
    /// [`NetworkError`] of the first that is none.
    pub fn networks<'a>(
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<Network>, NetworkError> {
        texts.into_iter().map(str::parse).collect()
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this may be an owner's wish, given the operator's.
    ///
    /// # Errors
    ///
    /// The first that is more than the operator allows. What is kept from an earlier time does not
    /// grow by it either: [`Limits::of`](super::Limits::of) holds it to what is allowed now.
    pub fn check_owner(&self, operator: &Self) -> Result<(), LimitError> {
        for number in Number::ALL.iter().copied() {
            let Some(value) = self.number(number) else {
                continue;
            };
            let at_most = match number.rule() {
                Rule::OperatorOnly => return Err(LimitError::Operators(number.name())),
                Rule::Ceiling => Some(operator.number(number).unwrap_or(number.default())),
                Rule::Optional => operator.number(number).filter(|most| *most > 0),
                Rule::Choice => None,
            };
            let is_off = number.rule() == Rule::Optional && value == 0;
            if let Some(at_most) = at_most
                && (is_off || value > at_most)
            {
                if number == Number::StatementAudit {
                    return Err(LimitError::Operators(number.name()));
                }
                return Err(LimitError::AboveOperators { number, at_most });
            }
        }
        if self.pool_mode.is_some()
            && operator
                .pool_mode
                .is_some_and(|mode| self.pool_mode != Some(mode))
        {
            return Err(LimitError::Operators(POOL_MODE));
        }
        if self.statement_log.is_some()
            && operator
                .statement_log
                .is_some_and(|log| self.statement_log != Some(log))
        {
            return Err(LimitError::Operators(STATEMENT_LOG));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_defaults_lie_in_them() {
        for number in Number::ALL.iter().copied() {
            let (least, most) = (*number.range().start(), *number.range().end());
            assert_eq!(Number::ALL[number as usize], number);
            let mut set = LimitSet::default();
            for good in [least, most] {
                set.set_number(number, Some(good)).unwrap();
            }
            assert_eq!(
                set.set_number(number, Some(most + 1)),
                Err(LimitError::Range(number))
            );
            let can_be_off = number.rule() == Rule::Optional || least == 0;
            assert_eq!(
                set.set_number(number, Some(0)).is_ok(),
                can_be_off,
                "{number:?}"
            );
            if least > 1 {
                assert!(set.set_number(number, Some(least - 1)).is_err());
            }
            let default = number.default();
            assert!(default == 0 && can_be_off || number.range().contains(&default));
        }
    }
}
