//! Which databases are measured next.
//!
//! Those that could be full soon come often, those that nobody uses seldom, all of them at some time: how
//! long one waits follows from the room it has left and whether it is in use. Pure: no clock, no I/O.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use model::{Pid, TenantId, route::Storage};
use tokio::time::Instant;

use super::store::{Limited, Measured};

/// How fast a database in use may be filled, at a guess that is rather too high: what a good disk writes.
const FILLED_PER_SECOND: u64 = 200 << 20;
/// One in use is measured no more often than this, and no more seldom than the other.
const IN_USE_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// One that is full and not in use: vacuum may give space back.
const FULL_EVERY: Duration = Duration::from_secs(10);
/// One that nobody uses.
const AT_REST_EVERY: Duration = Duration::from_secs(600);

/// What is known of all that have a limit.
#[derive(Debug, Default)]
pub(super) struct Plan(HashMap<Pid, Known>);

#[derive(Debug)]
struct Known {
    limited: Limited,
    /// As proxies were told last.
    told: Storage,
    at: Option<Instant>,
    /// In use now, or when it was measured last.
    in_use: bool,
    was_in_use: bool,
}

/// What is to be written down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct News {
    pub(super) measured: Measured,
    /// Something follows from it.
    pub(super) is_told: bool,
    /// It is full now, or no longer.
    pub(super) turned: Option<bool>,
}

impl Known {
    fn storage(&self) -> Storage {
        self.limited.measured.against(&self.limited.limits)
    }

    /// How long after it was measured it is measured again.
    fn interval(&self) -> Duration {
        let (least, most) = IN_USE_EVERY;
        if !(self.in_use || self.was_in_use) {
            return match self.storage() {
                Storage::Free => AT_REST_EVERY,
                Storage::Full { .. } | Storage::Overrun { .. } => FULL_EVERY,
            };
        }
        let limit = self.limited.limits.storage_bytes_max.unwrap_or(u64::MAX);
        let room = limit.saturating_sub(self.limited.measured.bytes.unwrap_or(limit));
        Duration::from_secs(room / FILLED_PER_SECOND).clamp(least, most)
    }

    /// How urgent it is: above 1 it is due.
    fn urgency(&self, now: Instant) -> f64 {
        match self.at {
            None => f64::INFINITY,
            Some(at) => {
                now.saturating_duration_since(at).as_secs_f64() / self.interval().as_secs_f64()
            }
        }
    }
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These have a limit, and no others.
    pub(super) fn know(&mut self, all: Vec<Limited>) {
        let mut before = std::mem::take(&mut self.0);
        for limited in all {
            let known = match before.remove(&limited.pid) {
                Some(mut known) => {
                    known.limited.limits = limited.limits;
                    known
                }
                None => Known {
                    told: limited.measured.against(&limited.limits),
                    limited,
                    at: None,
                    in_use: false,
                    was_in_use: false,
                },
            };
            self.0.insert(known.limited.pid.clone(), known);
        }
    }

    /// These are in use, and no others.
    pub(super) fn see(&mut self, in_use: &HashSet<Pid>) {
        for (pid, known) in &mut self.0 {
            known.was_in_use |= known.in_use;
            known.in_use = in_use.contains(pid);
        }
    }

    /// Whose turn it is, the most urgent first.
    pub(super) fn due(&self, now: Instant, most: usize) -> Vec<Pid> {
        let all = self.0.iter().map(|(pid, known)| (known.urgency(now), pid));
        let mut due: Vec<_> = all.filter(|(urgency, _)| *urgency >= 1.0).collect();
        due.sort_by(|(one, a), (other, b)| other.total_cmp(one).then_with(|| a.cmp(b)));
        due.truncate(most);
        due.into_iter().map(|(_, pid)| pid.clone()).collect()
    }

    /// It was measured: what is to be written down about whom, if anything.
    pub(super) fn measured(
        &mut self,
        pid: &Pid,
        bytes: u64,
        now: Instant,
    ) -> Option<(TenantId, News)> {
        let known = self.0.get_mut(pid)?;
        known.at = Some(now);
        known.was_in_use = false;
        let before = known.limited.measured;
        let limit = known.limited.limits.storage_bytes_max;
        let is_full = limit.is_some_and(|limit| bytes > limit);
        known.limited.measured = Measured {
            bytes: Some(bytes),
            full_at: is_full.then_some(before.full_at.unwrap_or(bytes)),
        };
        let storage = known.storage();
        let is_told = storage != known.told;
        let was_full = known.told.excess().is_some();
        known.told = storage;
        let news = News {
            measured: known.limited.measured,
            is_told,
            turned: (was_full != is_full).then_some(is_full),
        };
        let is_news = is_told || news.measured != before;
        is_news.then(|| (known.limited.tenant.clone(), news))
    }

    /// There was nothing to measure.
    pub(super) fn missed(&mut self, pid: &Pid, now: Instant) {
        if let Some(known) = self.0.get_mut(pid) {
            known.at = Some(now);
        }
    }

    /// What was found out about it is lost.
    pub(super) fn forget(&mut self, pid: &Pid) {
        self.0.remove(pid);
    }
}

#[cfg(test)]
mod tests {
    use model::Limits;

    use super::*;

    const LIMIT: u64 = 100 << 30;

    fn pid(i: usize) -> Pid {
        format!("p{i:011}").parse().unwrap()
    }

    fn limited(i: usize, bytes: Option<u64>) -> Limited {
        Limited {
            tenant: format!("t{i:011}").parse().unwrap(),
            pid: pid(i),
            limits: Limits {
                storage_bytes_max: Some(LIMIT),
                ..Limits::default()
            },
            measured: Measured {
                bytes,
                full_at: None,
            },
        }
    }

    fn plan(sizes: &[u64], now: Instant) -> Plan {
        let mut plan = Plan::default();
        plan.know((0..sizes.len()).map(|i| limited(i, None)).collect());
        for (i, size) in sizes.iter().enumerate() {
            plan.measured(&pid(i), *size, now);
        }
        plan
    }

    #[test]
    fn what_is_unknown_comes_first_and_only_so_many_at_once() {
        let now = Instant::now();
        let mut plan = Plan::default();
        plan.know((0..50).map(|i| limited(i, Some(1))).collect());
        let first = plan.due(now, 20);
        assert_eq!(first.len(), 20);
        for pid in &first {
            plan.measured(pid, 1, now);
        }
        let second = plan.due(now, 20);
        assert!(second.iter().all(|pid| !first.contains(pid)));
        for pid in &second {
            plan.missed(pid, now);
        }
        assert_eq!(plan.due(now, 20).len(), 10);
        // What another process measured meanwhile, and what became of the limits, changes no turn.
        plan.know((0..50).map(|i| limited(i, Some(1))).collect());
        assert_eq!(plan.due(now, 20).len(), 10);
        plan.know(Vec::new());
        assert!(plan.is_empty());
    }

    /// Columns: bytes, in use, seconds until its turn.
    #[test]
    fn those_that_could_be_full_soon_come_often() {
        let start = Instant::now();
        for (bytes, in_use, seconds) in [
            (1 << 20, true, 30),
            (LIMIT - (2000 << 20), true, 10),
            (LIMIT - (100 << 20), true, 1),
            (LIMIT + 1, true, 1),
            (LIMIT + 1, false, 10),
            (LIMIT - 1, false, 600),
            (0, false, 600),
        ] {
            let mut plan = plan(&[bytes], start);
            if in_use {
                plan.see(&HashSet::from([pid(0)]));
            }
            let at = |seconds| plan.due(start + Duration::from_secs(seconds), 1).len();
            assert_eq!((at(seconds - 1), at(seconds)), (0, 1), "{bytes} {in_use}");
        }
    }

    #[test]
    fn one_that_was_used_since_is_measured_once_more() {
        let start = Instant::now();
        let mut plan = plan(&[LIMIT - 1], start);
        plan.see(&HashSet::from([pid(0)]));
        plan.see(&HashSet::new());
        let later = start + Duration::from_secs(1);
        assert_eq!(plan.due(later, 1), [pid(0)]);
        plan.measured(&pid(0), LIMIT - 1, later);
        assert_eq!(plan.due(later + Duration::from_secs(100), 1), []);
    }

    #[test]
    fn the_most_urgent_comes_first_and_nobody_is_left_out() {
        let start = Instant::now();
        let mut plan = plan(&[LIMIT + 1, 0, 0], start);
        plan.see(&HashSet::from([pid(0), pid(1)]));
        let order = plan.due(start + Duration::from_secs(700), 3);
        assert_eq!(order, [pid(0), pid(1), pid(2)]);
        // With room for one in each round, and one that is always due.
        let mut now = start;
        let mut met = HashSet::new();
        for _ in 0..2000 {
            now += Duration::from_secs(1);
            for pid in plan.due(now, 1) {
                let bytes = plan.0[&pid].limited.measured.bytes.unwrap();
                plan.measured(&pid, bytes, now);
                met.insert(pid);
            }
        }
        assert_eq!(met.len(), 3);
    }

    #[test]
    fn proxies_are_told_when_something_follows() {
        let now = Instant::now();
        let mut plan = plan(&[10], now);
        let mut measure = |bytes| {
            let news = plan.measured(&pid(0), bytes, now).map(|(_, news)| news);
            news.map(|news| (news.measured.full_at, news.is_told, news.turned))
        };
        assert_eq!(measure(10), None, "nothing is new");
        assert_eq!(measure(20), Some((None, false, None)));
        let (one, two) = (LIMIT + 1, LIMIT + 2);
        assert_eq!(measure(one), Some((Some(one), true, Some(true))));
        assert_eq!(measure(one), None);
        assert_eq!(measure(two), Some((Some(one), true, None)));
        assert_eq!(measure(LIMIT), Some((None, true, Some(false))));
        // As the catalog has it after a restart.
        let mut after = limited(0, Some(two));
        after.measured.full_at = Some(one);
        let mut plan = Plan::default();
        plan.know(vec![after]);
        assert_eq!(plan.measured(&pid(0), two, now), None);
    }
}
