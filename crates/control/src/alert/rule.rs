//! Rules: what is looked at, from when on it is an alert, and what holds when nobody says otherwise.
//!
//! Pure: no clock, no I/O.

use std::{ops::RangeInclusive, time::Duration};

use model::{AlertRuleId, TenantId};

/// What a rule looks at.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    Latency,
    Errors,
    Connections,
    ServerConnections,
    Size,
    SizeBytes,
    BackupAge,
    BackupFailed,
    DrillFailed,
    Expiry,
    DatabasesBehind,
}

/// Of whom a kind of rule may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum About {
    /// Each database.
    Database,
    /// Each database and each token of the project itself; the operator's rule sees those of no other project.
    Own,
    /// The node; the operator's alone.
    Node,
}

/// What there is to say of a kind.
pub(crate) struct Said {
    pub(crate) name: &'static str,
    pub(crate) about: About,
    pub(crate) unit: &'static str,
    /// What its value is, in a sentence.
    pub(crate) what: &'static str,
    /// From this value on; see [`Kind::holds`].
    threshold: f64,
    pub(crate) range: RangeInclusive<f64>,
    lasting: Duration,
}

/// Statements in the window below which it says nothing: of ten, one is ten in a hundred.
pub(crate) const STATEMENTS_MIN: u64 = 100;
/// A rule's time before it is an alert, at most.
pub(crate) const LASTING_MAX: Duration = Duration::from_secs(24 * 3600);
/// Long enough that a burst or one slow report is none.
const BURST: Duration = Duration::from_secs(300);

impl Kind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Latency,
        Self::Errors,
        Self::Connections,
        Self::ServerConnections,
        Self::Size,
        Self::SizeBytes,
        Self::BackupAge,
        Self::BackupFailed,
        Self::DrillFailed,
        Self::Expiry,
        Self::DatabasesBehind,
    ];

    /// All that is said of it.
    pub(crate) fn said(self) -> Said {
        let said = |name, about, unit, what, (threshold, range), lasting| Said {
            name,
            about,
            unit,
            what,
            threshold,
            range,
            lasting,
        };
        let percent = |threshold| (threshold, 0.1..=100.0);
        match self {
            Self::Latency => said(
                "latency",
                About::Database,
                "ms",
                "the 99th percentile of its statements' times in the last 5 minutes",
                // A person notices; what is meant to take longer has a rule of its own.
                (1000.0, 0.1..=60_000.0),
                BURST,
            ),
            Self::Errors => said(
                "errors",
                About::Database,
                "percent",
                "the share of its statements that failed in the last 5 minutes",
                percent(10.0),
                BURST,
            ),
            Self::Connections => said(
                "connections",
                About::Database,
                "percent",
                "the share of its client_connections_max that is in use",
                percent(90.0),
                BURST,
            ),
            Self::ServerConnections => said(
                "server_connections",
                About::Node,
                "percent",
                "the share of the budget of server connections that is in use",
                // As the target of the fleet's figure.
                percent(70.0),
                BURST,
            ),
            Self::Size => said(
                "size",
                About::Database,
                "percent",
                "the share of its storage_bytes_max that it takes on disk",
                percent(90.0),
                // It may swing around the threshold.
                Duration::from_secs(60),
            ),
            Self::SizeBytes => said(
                "size_bytes",
                About::Database,
                "bytes",
                "what it takes on disk",
                // 10 GiB, of a rule that says nothing else. See `look`.
                (10_737_418_240.0, 1.0..=1e18),
                Duration::ZERO,
            ),
            Self::BackupAge => said(
                "backup_age",
                About::Database,
                "hours",
                "the age of its last backup",
                // Of a rule that says nothing else: a day, and time for one to be made. See `look`.
                (26.0, 0.1..=87_600.0),
                Duration::ZERO,
            ),
            Self::BackupFailed => said(
                "backup_failed",
                About::Database,
                "count",
                "1 while its last backup could not be made",
                (1.0, 1.0..=1.0),
                Duration::ZERO,
            ),
            Self::DrillFailed => said(
                "drill_failed",
                About::Database,
                "count",
                "1 while its last restore drill failed",
                (1.0, 1.0..=1.0),
                Duration::ZERO,
            ),
            Self::Expiry => said(
                "expiry",
                About::Own,
                "hours",
                "the time until it expires",
                // A week: somebody reads it on a working day.
                (168.0, 0.1..=720.0),
                Duration::ZERO,
            ),
            Self::DatabasesBehind => said(
                "databases_behind",
                About::Node,
                "count",
                "the number of databases that are not at the version that they should be at",
                (1.0, 1.0..=1_000_000.0),
                BURST,
            ),
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        self.said().name
    }

    /// Reads [`Self::as_str`] back.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Whether a value is one to tell.
    pub(crate) fn holds(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::Expiry => value <= threshold,
            _ => value >= threshold,
        }
    }
}

/// What holds for somebody.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    /// None: nobody said it.
    pub(crate) id: Option<AlertRuleId>,
    pub(crate) kind: Kind,
    /// Of one database; none: of all that have no rule of their own.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) is_on: bool,
    pub(crate) threshold: f64,
    /// For how long it has to be so, and then not to be so, before anybody is told.
    pub(crate) lasting: Duration,
}

impl Rule {
    /// What holds when nobody says otherwise.
    pub(crate) fn default_of(kind: Kind) -> Self {
        let said = kind.said();
        Self {
            id: None,
            kind,
            tenant: None,
            is_on: true,
            threshold: said.threshold,
            lasting: said.lasting,
        }
    }
}

/// The rules of one project.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(pub(crate) Vec<Rule>);

impl Rules {
    /// What holds for a database, or for what is none: its own rule, or that of all, or the default. None: it
    /// is not looked at.
    pub(crate) fn of(&self, kind: Kind, tenant: Option<&TenantId>) -> Option<Rule> {
        let find = |tenant: Option<&TenantId>| {
            let mut own = self.0.iter();
            own.find(|rule| rule.kind == kind && rule.tenant.as_ref() == tenant)
        };
        let own = tenant.and_then(|tenant| find(Some(tenant)));
        let rule = own.or_else(|| find(None)).cloned();
        let rule = rule.unwrap_or_else(|| Rule::default_of(kind));
        rule.is_on.then_some(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_and_a_default_within_its_bounds() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
            let rule = Rule::default_of(kind);
            assert!(kind.said().range.contains(&rule.threshold), "{kind:?}");
            assert!(rule.lasting <= LASTING_MAX && rule.is_on);
            assert!(kind.holds(rule.threshold, rule.threshold), "{kind:?}");
        }
        assert_eq!(Kind::parse("weather"), None);
        assert!(Kind::Expiry.holds(1.0, 2.0) && !Kind::Expiry.holds(3.0, 2.0));
        assert!(!Kind::Latency.holds(1.0, 2.0) && Kind::Latency.holds(3.0, 2.0));
    }

    #[test]
    fn the_rule_of_one_database_comes_before_that_of_all_and_the_default() {
        let (one, other) = ("abcdefghijkl", "bbcdefghijkl");
        let (one, other): (TenantId, TenantId) = (one.parse().unwrap(), other.parse().unwrap());
        let of = |tenant: Option<&TenantId>, threshold, is_on| Rule {
            tenant: tenant.cloned(),
            threshold,
            is_on,
            ..Rule::default_of(Kind::Latency)
        };
        let threshold = |rules: &Rules, tenant| {
            let rule = rules.of(Kind::Latency, Some(tenant));
            rule.map(|rule| rule.threshold)
        };
        let mut rules = Rules::default();
        assert_eq!(threshold(&rules, &one), Some(1000.0));
        rules.0.push(of(Some(&one), 5.0, true));
        assert_eq!(threshold(&rules, &one), Some(5.0));
        assert_eq!(threshold(&rules, &other), Some(1000.0));
        rules.0.push(of(None, 7.0, false));
        assert_eq!(threshold(&rules, &one), Some(5.0));
        assert_eq!(threshold(&rules, &other), None, "switched off");
        rules.0[0].is_on = false;
        assert_eq!(threshold(&rules, &one), None);
        assert!(rules.of(Kind::Errors, Some(&one)).is_some());
    }
}
