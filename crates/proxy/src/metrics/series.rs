//! Which tenants have series of their own.
//!
//! Owns: the choice, and that every series only rises and all together are the total. A tenant's
//! series begins at 0 when it is chosen: what it did before stays with the others. What it did while
//! it was chosen goes to those who were, when it is not any more.

use std::collections::HashMap;

use model::TenantId;

use crate::stats::{Snapshot, TenantStats, Totals};

/// How much more active than a chosen tenant another one must be to take its place: otherwise two that
/// do the same would take turns, and neither had a series worth looking at.
const TAKES_OVER_AT: u64 = 2;

/// What is remembered of the tenants of the last look.
#[derive(Debug, Default)]
pub(super) struct Series {
    seen: HashMap<TenantId, Seen>,
    /// What tenants did while they were chosen that are not any more.
    former: Totals,
}

#[derive(Debug)]
struct Seen {
    life: u64,
    totals: Totals,
    /// How much it did lately: half of it is forgotten at each look.
    score: u64,
    /// What it had done when it was chosen; `None`: it is not.
    chosen_at: Option<Totals>,
}

impl Seen {
    fn own(&self) -> Totals {
        self.chosen_at
            .map_or_else(Totals::default, |base| self.totals - base)
    }
}

/// The numbers of now, each counted in one place only.
#[derive(Debug)]
pub(super) struct Split<'a> {
    /// Tenants with series of their own.
    pub(super) chosen: Vec<(&'a TenantStats, Totals)>,
    /// All tenants without.
    pub(super) others: Vec<&'a TenantStats>,
    /// What was done by tenants without a series of their own.
    pub(super) other: Totals,
    /// What was done under series that are no more.
    pub(super) former: Totals,
}

impl Series {
    /// Looks at the numbers of now; at most `tenants_max` tenants are chosen.
    pub(super) fn split<'a>(&mut self, snapshot: &'a Snapshot, tenants_max: usize) -> Split<'a> {
        self.note(snapshot);
        self.choose(tenants_max);
        let (mut chosen, mut others) = (Vec::new(), Vec::new());
        for stats in &snapshot.tenants {
            match self.seen.get(&stats.tenant) {
                Some(seen) if seen.chosen_at.is_some() => chosen.push((stats, seen.own())),
                _ => others.push(stats),
            }
        }
        let own: Totals = chosen.iter().map(|(_, own)| *own).sum();
        Split {
            chosen,
            others,
            other: snapshot.totals - own - self.former,
            former: self.former,
        }
    }

    fn note(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.seen);
        for stats in &snapshot.tenants {
            let mut seen = Seen {
                life: stats.life,
                totals: stats.totals,
                score: 0,
                chosen_at: None,
            };
            let known = before.remove(&stats.tenant);
            let (known, gone) = match known {
                Some(known) if known.life == stats.life => (Some(known), None),
                other => (None, other),
            };
            self.former += gone.map_or_else(Totals::default, |gone| gone.own());
            let done = |totals: &Totals| totals.statements + totals.logins;
            let since = known.as_ref().map_or(0, |known| done(&known.totals));
            seen.score = done(&seen.totals).saturating_sub(since);
            if let Some(known) = known {
                seen.score += known.score / 2;
                seen.chosen_at = known.chosen_at;
            }
            self.seen.insert(stats.tenant.clone(), seen);
        }
        for gone in before.values() {
            self.former += gone.own();
        }
    }

    fn choose(&mut self, tenants_max: usize) {
        let (mut chosen, mut others): (Vec<_>, Vec<_>) = self
            .seen
            .iter_mut()
            .partition(|(_, seen)| seen.chosen_at.is_some());
        // The same order each time, whatever the map says.
        chosen.sort_by(|(a, x), (b, y)| (y.score, a).cmp(&(x.score, b)));
        others.sort_by(|(a, x), (b, y)| (y.score, a).cmp(&(x.score, b)));
        let mut free = tenants_max.saturating_sub(chosen.len());
        for (_, next) in others {
            if free == 0 {
                let Some((_, weakest)) = chosen.pop() else {
                    break;
                };
                if next.score <= weakest.score.saturating_mul(TAKES_OVER_AT) {
                    break;
                }
                self.former += weakest.own();
                weakest.chosen_at = None;
                free = 1;
            }
            next.chosen_at = Some(next.totals);
            free -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: usize) -> TenantId {
        format!("t{number:011}").parse().unwrap()
    }

    fn totals(n: u64) -> Totals {
        Totals {
            statements: n,
            bytes_to_clients: 7 * n,
            ..Totals::default()
        }
    }

    fn sum(split: &Split<'_>) -> Totals {
        split.other + split.former + split.chosen.iter().map(|(_, own)| *own).sum()
    }

    /// Tenants do something, are forgotten and come back, in any order.
    #[derive(Clone, Debug)]
    enum Event {
        Works(usize, u64),
        IsForgotten(usize),
        Look(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..9_usize, 1..100_u64).prop_map(|(tenant, n)| Event::Works(tenant, n)),
            1 => (0..9_usize).prop_map(Event::IsForgotten),
            2 => (0..5_usize).prop_map(Event::Look),
        ]
    }

    proptest! {
        #[test]
        fn series_are_few_only_rise_and_sum_up_to_the_total(events in prop::collection::vec(event(), 1..200)) {
            let mut live: HashMap<usize, (u64, Totals)> = HashMap::new();
            let (mut all, mut lives) = (Totals::default(), 0);
            let mut series = Series::default();
            let mut last: HashMap<(TenantId, u64), u64> = HashMap::new();
            let (mut other, mut former) = (0, 0);
            let mut cap = 0;
            for event in events {
                match event {
                    Event::Works(tenant, n) => {
                        lives += 1;
                        let (_, own) = live.entry(tenant).or_insert((lives, Totals::default()));
                        *own += totals(n);
                        all += totals(n);
                    }
                    Event::IsForgotten(tenant) => {
                        live.remove(&tenant);
                    }
                    Event::Look(more) => {
                        // The cap of an installation does not shrink while it runs.
                        cap = cap.max(more);
                        let snapshot = Snapshot {
                            tenants: live.iter().map(|(tenant, (life, totals))| TenantStats {
                                tenant: id(*tenant),
                                life: *life,
                                clients: 0,
                                servers: 0,
                                waiting: 0,
                                totals: *totals,
                                pins: Vec::new(),
                            }).collect(),
                            totals: all,
                            ..Snapshot::default()
                        };
                        let split = series.split(&snapshot, cap);
                        prop_assert!(split.chosen.len() <= cap);
                        prop_assert_eq!(split.chosen.len(), cap.min(live.len()));
                        prop_assert_eq!(sum(&split), all);
                        prop_assert!(split.other.statements >= other);
                        prop_assert!(split.former.statements >= former);
                        (other, former) = (split.other.statements, split.former.statements);
                        let mut now = HashMap::new();
                        for (stats, own) in &split.chosen {
                            let key = (stats.tenant.clone(), stats.life);
                            let before = last.get(&key).copied().unwrap_or_default();
                            prop_assert!(own.statements >= before);
                            now.insert(key, own.statements);
                        }
                        last = now;
                    }
                }
            }
        }
    }

    #[test]
    fn the_most_active_are_chosen_and_keep_their_place_until_another_does_twice_as_much() {
        let mut work = [10_u64, 30, 20];
        let mut series = Series::default();
        let mut look = |work: &[u64; 3]| {
            let tenants = (0..3).map(|tenant| TenantStats {
                tenant: id(tenant),
                life: 1,
                clients: 0,
                servers: 0,
                waiting: 0,
                totals: totals(work[tenant]),
                pins: Vec::new(),
            });
            let snapshot = Snapshot {
                tenants: tenants.collect(),
                totals: totals(work.iter().sum()),
                ..Snapshot::default()
            };
            let split = series.split(&snapshot, 2);
            let names = split.chosen.iter().map(|(stats, own)| {
                let name = stats.tenant.as_str().as_bytes();
                (name[name.len() - 1] - b'0', own.statements)
            });
            (
                names.collect::<Vec<_>>(),
                split.other.statements,
                split.former.statements,
            )
        };
        assert_eq!(look(&work), (vec![(1, 0), (2, 0)], 60, 0));
        // As much as the others, and not twice.
        work = [30, 50, 40];
        assert_eq!(look(&work), (vec![(1, 20), (2, 20)], 80, 0));
        work[0] += 1000;
        let (names, other, former) = look(&work);
        assert_eq!(names, vec![(0, 0), (1, 20)]);
        assert_eq!((other, former), (1080, 20));
    }
}
