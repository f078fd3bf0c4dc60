//! What one tenant may use at once, and who says so.
//!
//! Two parties set limits: the operator, and the owner of the tenant. An owner can hold itself to less
//! than the operator allows, never to more. Owns: what follows from both parties' wishes
//! ([`Limits::of`]); names, units and bounds are next door (`set`). Does not own: keeping limits
//! (`proxy`).

mod set;

use std::{net::IpAddr, sync::Arc, time::Duration};

pub use set::{
    ALLOWED_ADDRESSES, LimitError, LimitSet, NETWORKS_MAX, Number, POOL_MODE, Rule, STATEMENT_LOG,
    StatementLog, pool_mode_word,
};

use crate::{Network, network, route::PoolMode};

/// Limits of one tenant, as the proxy keeps them. `None` is no limit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Server connections it may hold at once, in both roles and states together. 12: enough for
    /// an application's pool to be busy, a small part of any node's budget.
    pub server_connections_max: u32,
    /// Server connections that are not taken from it, neither for others nor because they are idle,
    /// once it has them; while it has fewer, it comes before others. 0.
    pub server_connections_min: u32,
    /// How many turns with a server connection it gets for one of a tenant of weight 1, when not all get
    /// what they want. 1; never 0.
    pub server_connections_weight: u32,
    /// Clients it may have at once. 500: half of what one process accepts.
    pub client_connections_max: u32,
    /// How often its clients may begin a statement.
    pub statements: Option<Rate>,
    /// Rows of one result.
    pub result_rows_max: Option<u64>,
    /// Bytes of one result, as they go to the client.
    pub result_bytes_max: Option<u64>,
    /// Bytes of its database on disk. Above it, nothing that makes it larger: see [`Storage`](crate::route::Storage).
    pub storage_bytes_max: Option<u64>,
    /// Bytes of private memory that each of its server processes may have. A statement that wants more fails.
    pub memory_bytes_max: Option<u64>,
    /// Time of one statement.
    pub statement_time_max: Option<Duration>,
    /// Time of one transaction, from its first statement to its end.
    pub transaction_time_max: Option<Duration>,
    /// Time between two statements of a transaction.
    pub idle_in_transaction_time_max: Option<Duration>,
    /// Time of a client without a statement or transaction. 1,800 s.
    pub client_idle_max: Option<Duration>,
    /// From which time on a statement is called slow. `None`: none is. 1 s.
    pub slow_statement_time: Option<Duration>,
    /// Which of its statements are logged. Those that fail or are slow.
    pub statement_log: StatementLog,
    /// Of so many others one, where samples are. 100; never 0.
    pub statement_log_sample: u32,
    /// Whether each of its statements is a line in the audit log. None is.
    pub statement_audit: bool,
    /// Where clients may come from. `None`: from anywhere; an empty list: from nowhere.
    pub addresses: Option<Arc<[Network]>>,
}

/// A bucket of tokens, of which each statement takes one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// Tokens that come back in a second.
    pub per_second: u32,
    /// Tokens it holds when it is full.
    pub burst: u32,
}

impl Limits {
    /// Whether clients may come from this address.
    pub fn admits(&self, address: IpAddr) -> bool {
        match &self.addresses {
            None => true,
            Some(networks) => networks.iter().any(|network| network.contains(address)),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(&LimitSet::default(), &LimitSet::default())
    }
}

/// What a number comes to.
fn number(operator: &LimitSet, owner: &LimitSet, number: Number) -> u64 {
    let (most, wish) = (operator.number(number), owner.number(number));
    match number.rule() {
        Rule::OperatorOnly => most.unwrap_or(number.default()),
        Rule::Choice => wish.or(most).unwrap_or(number.default()),
        Rule::Ceiling => {
            let most = most.unwrap_or(number.default());
            wish.unwrap_or(most).min(most)
        }
        Rule::Optional => match (most.filter(|most| *most > 0), wish) {
            (Some(most), Some(wish @ 1..)) => most.min(wish),
            (Some(most), Some(0) | None) => most,
            (None, Some(wish)) => wish,
            (None, None) => most.unwrap_or(number.default()),
        },
    }
}

impl Limits {
    /// What follows from the wishes of both.
    pub fn of(operator: &LimitSet, owner: &LimitSet) -> Self {
        let number = |which| number(operator, owner, which);
        let count = |which| u32::try_from(number(which)).unwrap_or(u32::MAX);
        let limit = |which| Some(number(which)).filter(|value| *value > 0);
        let time = |which| limit(which).map(Duration::from_millis);
        let server_connections_max = count(Number::ServerConnections);
        let per_second = count(Number::Statements);
        let burst = match count(Number::StatementsBurst) {
            0 => per_second,
            burst => burst,
        };
        let addresses = match (&operator.addresses, &owner.addresses) {
            (Some(one), Some(other)) => Some(network::intersect(one, other)),
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        Self {
            server_connections_max,
            server_connections_min: count(Number::ServerConnectionsKept)
                .min(server_connections_max),
            server_connections_weight: count(Number::ServerConnectionsWeight).max(1),
            client_connections_max: count(Number::ClientConnections),
            statements: (per_second > 0).then_some(Rate { per_second, burst }),
            result_rows_max: limit(Number::ResultRows),
            result_bytes_max: limit(Number::ResultBytes),
            storage_bytes_max: limit(Number::Storage),
            memory_bytes_max: limit(Number::Memory),
            statement_time_max: time(Number::Statement),
            transaction_time_max: time(Number::Transaction),
            idle_in_transaction_time_max: time(Number::IdleInTransaction),
            client_idle_max: time(Number::ClientIdle),
            slow_statement_time: time(Number::SlowStatement),
            statement_log: statement_log(operator, owner),
            statement_log_sample: count(Number::LogSample).max(1),
            statement_audit: limit(Number::StatementAudit).is_some(),
            addresses: addresses.map(Arc::from),
        }
    }

    /// The same as one party's wishes would say it, every number named.
    pub fn described(operator: &LimitSet, owner: &LimitSet) -> LimitSet {
        let limits = Self::of(operator, owner);
        let mut set = LimitSet {
            pool_mode: Some(pool_mode(operator, owner)),
            statement_log: Some(limits.statement_log),
            addresses: limits.addresses.map(|networks| networks.to_vec()),
            ..LimitSet::default()
        };
        for which in Number::ALL.iter().copied() {
            set.numbers[which as usize] = Some(number(operator, owner, which));
        }
        if let Some(rate) = limits.statements {
            set.numbers[Number::StatementsBurst as usize] = Some(u64::from(rate.burst));
        }
        set
    }
}

/// How many of a budget of server connections tenants may keep by their minimums, all together: a quarter,
/// and one at least, stays for those who have none.
pub fn minimums_max(budget: u32) -> u32 {
    budget.saturating_sub((budget / 4).max(1))
}

/// The operator's pool mode, or else the owner's, or else the default.
pub fn pool_mode(operator: &LimitSet, owner: &LimitSet) -> PoolMode {
    operator.pool_mode.or(owner.pool_mode).unwrap_or_default()
}

/// What the operator says is logged, or else the owner, or else the default.
fn statement_log(operator: &LimitSet, owner: &LimitSet) -> StatementLog {
    let said = operator.statement_log.or(owner.statement_log);
    said.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        set::{NUMBERS, POOL_MODES},
        *,
    };

    fn set(values: &[(Number, u64)]) -> LimitSet {
        let mut set = LimitSet::default();
        for (number, value) in values {
            set.set_number(*number, Some(*value)).unwrap();
        }
        set
    }

    #[test]
    fn defaults_are_what_was_before_there_were_limits() {
        let limits = Limits::default();
        assert_eq!(
            limits,
            Limits {
                server_connections_max: 12,
                server_connections_min: 0,
                server_connections_weight: 1,
                client_connections_max: 500,
                statements: None,
                result_rows_max: None,
                result_bytes_max: None,
                storage_bytes_max: None,
                memory_bytes_max: None,
                statement_time_max: None,
                transaction_time_max: None,
                idle_in_transaction_time_max: None,
                client_idle_max: Some(Duration::from_secs(1800)),
                slow_statement_time: Some(Duration::from_secs(1)),
                statement_log: StatementLog::Slow,
                statement_log_sample: 100,
                statement_audit: false,
                addresses: None,
            }
        );
        assert!(limits.admits("203.0.113.1".parse().unwrap()));
    }

    /// Columns: what the operator says, what the owner says, what holds, whether the owner may say it.
    #[test]
    fn who_decides() {
        let none = u64::MAX;
        for (number, operator, owner, holds, may) in [
            (Number::ServerConnections, none, none, 12, true),
            (Number::ServerConnections, none, 5, 5, true),
            (Number::ServerConnections, none, 13, 12, false),
            (Number::ServerConnections, 40, none, 40, true),
            (Number::ServerConnections, 40, 30, 30, true),
            (Number::ServerConnections, 2, 5, 2, false),
            (Number::ServerConnectionsKept, none, 5, 0, false),
            (Number::ServerConnectionsKept, 5, none, 5, true),
            (Number::ServerConnectionsWeight, none, none, 1, true),
            (Number::ServerConnectionsWeight, none, 5, 1, false),
            (Number::ServerConnectionsWeight, 3, none, 3, true),
            (Number::Statement, none, none, 0, true),
            (Number::Statement, none, 1000, 1000, true),
            (Number::Statement, 500, none, 500, true),
            (Number::Statement, 500, 1000, 500, false),
            (Number::Statement, 500, 0, 500, false),
            (Number::Statement, 500, 100, 100, true),
            (Number::Statement, 0, 1000, 1000, true),
            (Number::ClientIdle, none, none, 1_800_000, true),
            (Number::ClientIdle, none, 0, 0, true),
            (Number::ClientIdle, 0, none, 0, true),
            (Number::ClientIdle, 60_000, 0, 60_000, false),
            (Number::StatementAudit, none, none, 0, true),
            (Number::StatementAudit, none, 1, 1, true),
            (Number::StatementAudit, 1, none, 1, true),
            (Number::StatementAudit, 1, 0, 1, false),
            (Number::StatementAudit, 0, 1, 1, true),
            (Number::SlowStatement, none, none, 1_000, true),
            (Number::SlowStatement, none, 0, 0, true),
            (Number::SlowStatement, 200, none, 200, true),
            (Number::SlowStatement, 200, 5_000, 5_000, true),
            (Number::SlowStatement, 0, 5_000, 5_000, true),
        ] {
            let wish = |value| {
                if value == none {
                    set(&[])
                } else {
                    set(&[(number, value)])
                }
            };
            let (operator, owner) = (wish(operator), wish(owner));
            let text = format!("{number:?} {operator:?} {owner:?}");
            assert_eq!(super::number(&operator, &owner, number), holds, "{text}");
            assert_eq!(owner.check_owner(&operator).is_ok(), may, "{text}");
            let described = Limits::described(&operator, &owner);
            assert_eq!(described.number(number), Some(holds), "{text}");
        }
    }

    #[test]
    fn a_burst_is_a_second_of_statements_unless_somebody_says_more() {
        let rate = |values: &[_]| Limits::of(&LimitSet::default(), &set(values)).statements;
        assert_eq!(rate(&[(Number::StatementsBurst, 5)]), None);
        let ten = Some(Rate {
            per_second: 10,
            burst: 10,
        });
        assert_eq!(rate(&[(Number::Statements, 10)]), ten);
        let both = [(Number::Statements, 10), (Number::StatementsBurst, 50)];
        assert_eq!(
            rate(&both),
            Some(Rate {
                per_second: 10,
                burst: 50
            })
        );
    }

    #[test]
    fn addresses_have_to_please_both() {
        let list = |texts: &[&str]| {
            let mut set = LimitSet::default();
            set.set_addresses(Some(LimitSet::networks(texts.iter().copied()).unwrap()))
                .unwrap();
            set
        };
        let open = LimitSet::default();
        let (ten, eleven) = (list(&["10.0.0.0/8"]), list(&["11.0.0.0/8"]));
        let admits =
            |operator, owner, text: &str| Limits::of(operator, owner).admits(text.parse().unwrap());
        assert!(admits(&ten, &open, "10.1.2.3") && admits(&open, &ten, "10.1.2.3"));
        assert!(!admits(&ten, &open, "11.1.2.3") && !admits(&open, &ten, "11.1.2.3"));
        assert!(
            !admits(&ten, &eleven, "10.1.2.3"),
            "nobody is not everybody"
        );
        assert!(!admits(&open, &list(&[]), "10.1.2.3"));
        let many = vec!["::/0".parse().unwrap(); NETWORKS_MAX + 1];
        assert_eq!(
            LimitSet::default().set_addresses(Some(many)),
            Err(LimitError::TooManyNetworks)
        );
    }

    #[test]
    fn the_operator_may_fix_the_pool_mode() {
        let mode = |mode| LimitSet {
            pool_mode: mode,
            ..LimitSet::default()
        };
        let (session, transaction) = (Some(PoolMode::Session), Some(PoolMode::Transaction));
        assert_eq!(
            pool_mode(&mode(None), &mode(transaction)),
            PoolMode::Transaction
        );
        assert_eq!(
            pool_mode(&mode(session), &mode(transaction)),
            PoolMode::Session
        );
        assert!(mode(transaction).check_owner(&mode(session)).is_err());
        assert!(mode(transaction).check_owner(&mode(None)).is_ok());
        for (mode, word) in POOL_MODES {
            assert_eq!((word.parse(), pool_mode_word(mode)), (Ok(mode), word));
        }
    }

    #[test]
    fn the_operator_may_fix_what_is_logged() {
        let log = |log| LimitSet {
            statement_log: log,
            ..LimitSet::default()
        };
        let (off, all) = (Some(StatementLog::Off), Some(StatementLog::All));
        assert_eq!(statement_log(&log(None), &log(None)), StatementLog::Slow);
        assert_eq!(statement_log(&log(None), &log(all)), StatementLog::All);
        assert_eq!(statement_log(&log(off), &log(all)), StatementLog::Off);
        assert!(log(all).check_owner(&log(off)).is_err());
        assert!(log(all).check_owner(&log(None)).is_ok());
        for (own, word) in StatementLog::ALL {
            assert_eq!((StatementLog::parse(word), own.as_str()), (Some(own), word));
        }
        assert_eq!(StatementLog::parse("ALL"), None);
    }

    proptest! {
        /// Whatever an owner says, it gets no more than without a word, where the operator said
        /// something or others would pay for it.
        #[test]
        fn no_owner_gets_more_than_the_operator_allows(
            operator in proptest::collection::vec(proptest::option::of(0..3000_u64), NUMBERS),
            owner in proptest::collection::vec(proptest::option::of(0..3000_u64), NUMBERS),
        ) {
            let set = |values: Vec<Option<u64>>| LimitSet {
                numbers: values.try_into().unwrap(),
                ..LimitSet::default()
            };
            let (operator, owner) = (set(operator), set(owner));
            for which in Number::ALL.iter().copied() {
                let with = number(&operator, &owner, which);
                let without = number(&operator, &LimitSet::default(), which);
                let said = operator.number(which).is_some_and(|most| most > 0);
                match which.rule() {
                    Rule::OperatorOnly => prop_assert_eq!(with, without),
                    Rule::Choice => prop_assert_eq!(with, owner.number(which).unwrap_or(without)),
                    Rule::Ceiling => prop_assert!(with <= without),
                    Rule::Optional if said => prop_assert!(with <= without && with > 0),
                    Rule::Optional => {}
                }
            }
        }
    }
}
