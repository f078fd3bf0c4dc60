//! What rules say of what is known. Pure: no clock, no I/O.

use std::{collections::HashMap, time::Duration};

use model::{Limits, ProjectId, TenantId, insight::Counts};

use super::rule::{Kind, Rules, STATEMENTS_MIN};
use crate::insight;

/// What the catalog knows of a database.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) id: TenantId,
    pub(super) name: String,
    pub(super) project: ProjectId,
    /// Since it was made.
    pub(super) age_hours: f64,
    /// Until it expires.
    pub(super) left_hours: Option<f64>,
    pub(super) bytes: Option<u64>,
    pub(super) limits: Limits,
    /// Clients logged in, at all processes.
    pub(super) clients: u64,
    /// Of the last good backup; without any, its own.
    pub(super) backup_age_hours: f64,
    /// What its schedule allows; none: it has none.
    pub(super) backup_age_hours_max: Option<f64>,
    /// Whether the last one that was to be made failed.
    pub(super) is_backup_failed: bool,
    /// Whether its last restore drill failed.
    pub(super) is_drill_failed: bool,
    /// In the last five minutes.
    pub(super) recent: Counts,
}

/// A token or a key that expires.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) project: ProjectId,
    pub(super) age_hours: f64,
    pub(super) left_hours: f64,
}

/// Somebody with rules.
#[derive(Clone, Debug)]
pub(super) struct Party {
    pub(super) project: ProjectId,
    pub(super) rules: Rules,
}

/// Who has rules, among the projects of a page.
pub(super) struct Parties {
    pub(super) operator: Party,
    pub(super) owners: HashMap<ProjectId, Rules>,
}

/// What an alert is: there is one of it at a time.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key {
    pub(super) project: ProjectId,
    pub(super) kind: Kind,
    pub(super) subject: String,
}

/// A rule was looked at.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) key: Key,
    /// As the catalog says it: `database`, `credential` or `node`.
    pub(super) about: &'static str,
    pub(super) name: Option<String>,
    /// Of the subject.
    pub(super) owner: Option<ProjectId>,
    /// None: there is nothing to measure it by now.
    pub(super) value: Option<f64>,
    pub(super) threshold: f64,
    pub(super) lasting: Duration,
}

impl Seen {
    pub(super) fn holds(&self) -> bool {
        let holds = |value| self.key.kind.holds(value, self.threshold);
        self.value.is_some_and(holds)
    }
}

/// Kinds that are about databases, whoever's.
const OF_DATABASES: [Kind; 8] = [
    Kind::Latency,
    Kind::Errors,
    Kind::Connections,
    Kind::Size,
    Kind::SizeBytes,
    Kind::BackupAge,
    Kind::BackupFailed,
    Kind::DrillFailed,
];

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64 * 100.0)
}

/// To a tenth: what is shown is what was compared.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl Database {
    /// None: it says nothing now.
    fn value(&self, kind: Kind, is_own_rule: bool) -> Option<f64> {
        let counts = &self.recent;
        match kind {
            Kind::Latency => {
                let timed: u64 = counts.times.iter().sum();
                (timed >= STATEMENTS_MIN).then(|| insight::p99_ms(counts))
            }
            Kind::Errors => (counts.statements >= STATEMENTS_MIN)
                .then(|| percent(counts.errors, counts.statements))
                .flatten(),
            Kind::Connections => percent(self.clients, self.limits.client_connections_max.into()),
            Kind::Size => percent(self.bytes?, self.limits.storage_bytes_max?),
            // What is large is for somebody to say.
            Kind::SizeBytes => self.bytes.filter(|_| is_own_rule).map(|bytes| bytes as f64),
            // Whoever makes backups by hand, or none, is told nothing, unless a rule was written.
            Kind::BackupAge => {
                let is_looked_at = is_own_rule || self.backup_age_hours_max.is_some();
                is_looked_at.then_some(self.backup_age_hours)
            }
            Kind::BackupFailed => Some(f64::from(u8::from(self.is_backup_failed))),
            Kind::DrillFailed => Some(f64::from(u8::from(self.is_drill_failed))),
            Kind::Expiry => self.left_hours,
            Kind::ServerConnections | Kind::DatabasesBehind => None,
        }
    }

    /// What everybody's rules say of it.
    pub(super) fn look(&self, parties: &Parties) -> Vec<Seen> {
        let operator = &parties.operator;
        let mut seen = Vec::new();
        let own = parties
            .owners
            .get(&self.project)
            .map(|rules| (&self.project, rules));
        for (project, rules) in own
            .into_iter()
            .chain([(&operator.project, &operator.rules)])
        {
            let expires = (*project == self.project).then_some(Kind::Expiry);
            for kind in OF_DATABASES.into_iter().chain(expires) {
                let Some(rule) = rules.of(kind, Some(&self.id)) else {
                    continue;
                };
                let value = self.value(kind, rule.id.is_some()).filter(|_| {
                    kind != Kind::Expiry || is_long(self.age_hours, self.left_hours, rule.threshold)
                });
                let threshold = match (kind, &rule.id, self.backup_age_hours_max) {
                    (Kind::BackupAge, None, Some(most)) => most,
                    _ => rule.threshold,
                };
                seen.push(Seen {
                    key: Key {
                        project: project.clone(),
                        kind,
                        subject: self.id.to_string(),
                    },
                    about: "database",
                    name: Some(self.name.clone()),
                    owner: Some(self.project.clone()),
                    value: value.map(rounded),
                    threshold,
                    lasting: rule.lasting,
                });
            }
        }
        seen
    }
}

/// What lives no longer than twice the notice, like a preview of a day, was made to end.
fn is_long(age_hours: f64, left_hours: Option<f64>, threshold: f64) -> bool {
    left_hours.is_some_and(|left| age_hours + left > 2.0 * threshold)
}

impl Token {
    /// What its project's rules say of it. `rules`: of all projects that have some.
    pub(super) fn look(&self, parties: &Parties) -> Option<Seen> {
        let operator = &parties.operator;
        let rules = match self.project == operator.project {
            true => &operator.rules,
            false => parties.owners.get(&self.project)?,
        };
        let rule = rules.of(Kind::Expiry, None)?;
        let is_long = is_long(self.age_hours, Some(self.left_hours), rule.threshold);
        Some(Seen {
            key: Key {
                project: self.project.clone(),
                kind: Kind::Expiry,
                subject: self.id.clone(),
            },
            about: "credential",
            name: self.name.clone(),
            owner: Some(self.project.clone()),
            value: is_long.then(|| rounded(self.left_hours)),
            threshold: rule.threshold,
            lasting: rule.lasting,
        })
    }
}

/// What the operator's rules say of a node, of which figures are known.
pub(super) fn node(operator: &Party, name: &str, figures: &[(Kind, Option<f64>)]) -> Vec<Seen> {
    let seen = figures.iter().filter_map(|(kind, value)| {
        let rule = operator.rules.of(*kind, None)?;
        Some(Seen {
            key: Key {
                project: operator.project.clone(),
                kind: *kind,
                subject: name.to_owned(),
            },
            about: "node",
            name: None,
            owner: None,
            value: value.map(rounded),
            threshold: rule.threshold,
            lasting: rule.lasting,
        })
    });
    seen.collect()
}

#[cfg(test)]
mod tests {
    use super::{super::rule::Rule, *};

    const OWNER: &str = "prj_abcdefghijkl";
    const OPERATOR: &str = "prj_operatorabcd";

    fn database() -> Database {
        Database {
            id: "abcdefghijkl".parse().unwrap(),
            name: "app".to_owned(),
            project: OWNER.parse().unwrap(),
            age_hours: 1_000.0,
            left_hours: None,
            bytes: None,
            limits: Limits::default(),
            clients: 0,
            backup_age_hours: 1_000.0,
            backup_age_hours_max: None,
            is_backup_failed: false,
            is_drill_failed: false,
            recent: Counts::default(),
        }
    }

    fn parties(owner: Option<Vec<Rule>>) -> Parties {
        let owner = owner.map(|rules| (OWNER.parse().unwrap(), Rules(rules)));
        Parties {
            operator: Party {
                project: OPERATOR.parse().unwrap(),
                rules: Rules::default(),
            },
            owners: owner.into_iter().collect(),
        }
    }

    /// Whose and which ones hold.
    fn held(database: &Database, parties: &Parties) -> Vec<(String, &'static str)> {
        let seen = database.look(parties).into_iter().filter(Seen::holds);
        seen.map(|seen| (seen.key.project.to_string(), seen.key.kind.as_str()))
            .collect()
    }

    #[track_caller]
    fn check(database: &Database, want: Option<&'static str>) {
        let found = held(database, &parties(Some(Vec::new())));
        let want: Vec<_> = want
            .into_iter()
            .flat_map(|kind| match kind {
                "expiry" => vec![(OWNER.to_owned(), kind)],
                _ => vec![(OWNER.to_owned(), kind), (OPERATOR.to_owned(), kind)],
            })
            .collect();
        assert_eq!(found, want, "{database:?}");
    }

    #[test]
    fn each_default_holds_from_its_threshold_on_for_owner_and_operator() {
        let base = database();
        check(&base, None);
        let slow = |count| {
            let mut counts = Counts {
                statements: count,
                ..Counts::default()
            };
            // Between 1 and 2.5 s.
            counts.times[13] = count;
            Database {
                recent: counts,
                ..base.clone()
            }
        };
        check(&slow(STATEMENTS_MIN - 1), None);
        check(&slow(STATEMENTS_MIN), Some("latency"));
        let failing = |errors| Database {
            recent: Counts {
                statements: 1_000,
                errors,
                ..Counts::default()
            },
            ..base.clone()
        };
        check(&failing(99), None);
        check(&failing(100), Some("errors"));
        let crowded = |clients| Database {
            clients,
            ..base.clone()
        };
        check(&crowded(449), None);
        check(&crowded(450), Some("connections"));
        let full = |bytes| Database {
            bytes: Some(bytes),
            limits: Limits {
                storage_bytes_max: Some(1_000),
                ..Limits::default()
            },
            ..base.clone()
        };
        check(&full(899), None);
        check(&full(900), Some("size"));
        let unlimited = Limits::default();
        check(
            &Database {
                limits: unlimited,
                ..full(900)
            },
            None,
        );
        let failed = Database {
            is_backup_failed: true,
            ..base.clone()
        };
        check(&failed, Some("backup_failed"));
        let failed = Database {
            is_drill_failed: true,
            ..base.clone()
        };
        check(&failed, Some("drill_failed"));
        let expires = |left| Database {
            left_hours: Some(left),
            ..base.clone()
        };
        check(&expires(169.0), None);
        check(&expires(168.0), Some("expiry"));
        let preview = Database {
            age_hours: 20.0,
            ..expires(4.0)
        };
        check(&preview, None);
        // The operator hears of its own, once.
        let own = Database {
            project: OPERATOR.parse().unwrap(),
            ..expires(4.0)
        };
        let found = held(&own, &parties(None));
        assert_eq!(found, [(OPERATOR.to_owned(), "expiry")]);
    }

    #[test]
    fn the_age_of_backups_counts_by_schedule_or_where_a_rule_was_written() {
        let base = database();
        let scheduled = |age| Database {
            backup_age_hours_max: Some(7.5),
            backup_age_hours: age,
            ..base.clone()
        };
        check(&scheduled(7.4), None);
        check(&scheduled(7.5), Some("backup_age"));
        check(&base, None);
        let rule = Rule {
            id: Some("alr_abcdefghijkl".parse().unwrap()),
            ..Rule::default_of(Kind::BackupAge)
        };
        let parties = parties(Some(vec![rule]));
        let found = held(&base, &parties);
        assert_eq!(found, [(OWNER.to_owned(), "backup_age")]);
        let found = held(&scheduled(25.9), &parties);
        assert_eq!(found, [(OPERATOR.to_owned(), "backup_age")]);
        let new = Database {
            backup_age_hours: 25.9,
            ..base.clone()
        };
        assert_eq!(held(&new, &parties), []);
    }

    #[test]
    fn bytes_on_disk_count_without_a_limit_where_a_rule_was_written() {
        let base = database();
        let large = |bytes| Database {
            bytes: Some(bytes),
            ..base.clone()
        };
        check(&large(1 << 50), None);
        let rule = Rule {
            id: Some("alr_abcdefghijkl".parse().unwrap()),
            threshold: 5e9,
            ..Rule::default_of(Kind::SizeBytes)
        };
        let parties = parties(Some(vec![rule]));
        assert_eq!(held(&large(4_999_999_999), &parties), []);
        let found = held(&large(5_000_000_000), &parties);
        assert_eq!(found, [(OWNER.to_owned(), "size_bytes")]);
        assert_eq!(held(&base, &parties), [], "it was never measured");
    }

    #[test]
    fn a_node_is_the_operators_and_tokens_are_their_projects() {
        let parties = parties(Some(Vec::new()));
        let figures = [
            (Kind::ServerConnections, Some(70.0)),
            (Kind::DatabasesBehind, None),
        ];
        let seen = node(&parties.operator, "local", &figures);
        let held: Vec<_> = seen.iter().map(|seen| seen.holds()).collect();
        assert_eq!(held, [true, false]);
        let token = |project: &str, left_hours| Token {
            id: "crd_abcdefghijkl".to_owned(),
            name: None,
            project: project.parse().unwrap(),
            age_hours: 1_000.0,
            left_hours,
        };
        for (project, left, want) in [
            (OWNER, 5.0, Some(true)),
            (OWNER, 500.0, Some(false)),
            (OPERATOR, 5.0, Some(true)),
            ("prj_bbcdefghijkl", 5.0, None),
        ] {
            let seen = token(project, left).look(&parties);
            assert_eq!(seen.map(|seen| seen.holds()), want, "{project} {left}");
        }
    }
}
