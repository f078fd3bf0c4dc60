//! When a database is backed up by schedule, and how the fleet does by it.
//!
//! Owns: the times, as pure functions of a database's id, the settings and a moment. Does not own: rows, or who
//! asks for a backup at these times (`plan`).
//!
//! The times of a database are spread over the window by a hash of its id. They are counted in *window time*,
//! in which the hours outside of the window do not pass: no time falls there, and the rest stays even.

use std::time::Duration;

use model::TenantId;
use sha2::{Digest, Sha256};

use super::window::{DAY_MS, Window};

/// What the operator wants of all databases, unless something else was said of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BackupSchedule {
    /// Between two backups of a database; zero: none are made.
    pub every: Duration,
    /// Backups begin within it.
    pub window: Window,
    /// Good ones of a database; older ones are removed. 0: any number.
    pub keep: u32,
    /// Older ones are removed. Zero: none.
    pub keep_for: Duration,
    /// Between two restore drills; zero: there are none.
    pub drill_every: Duration,
    /// A drill should not take longer.
    pub recovery_target: Duration,
}

impl Default for BackupSchedule {
    /// None are made, and there are no drills. Those that some database has by a schedule of its own are kept for two weeks, and for a
    /// month at most: after that, those of a database that is gone go, too.
    fn default() -> Self {
        Self {
            every: Duration::ZERO,
            window: Window::ALL_DAY,
            keep: 14,
            keep_for: Duration::from_secs(30 * 24 * 3600),
            drill_every: Duration::ZERO,
            recovery_target: Duration::from_secs(3600),
        }
    }
}

/// The times of one database, as milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    window: Window,
    /// Between two of them, in window time.
    period: i64,
    /// Of the first one.
    phase: i64,
    /// Between two of them on the clock, on average.
    every: Duration,
}

impl Times {
    /// `None`: it has none. Where there is a window, a database is backed up once a day at most: the hours
    /// outside of it would stay empty anyway.
    pub(crate) fn of(tenant: &TenantId, every: Duration, window: Window) -> Option<Self> {
        if every.is_zero() {
            return None;
        }
        let day = Duration::from_millis(DAY_MS.unsigned_abs());
        let every = if window == Window::ALL_DAY {
            every
        } else {
            every.max(day)
        };
        let every_ms = i64::try_from(every.as_millis()).ok()?.max(1);
        let period = i128::from(every_ms) * i128::from(window.length_ms()) / i128::from(DAY_MS);
        let period = i64::try_from(period).ok()?.max(1);
        let hash = Sha256::digest(format!("backup {tenant}"));
        let hash = hash
            .first_chunk()
            .map_or(0, |first| u64::from_be_bytes(*first));
        Some(Self {
            window,
            period,
            phase: i64::try_from(hash % period.unsigned_abs()).unwrap_or(0),
            every,
        })
    }

    /// The last one up to `now`.
    pub(crate) fn last(&self, now: i64) -> i64 {
        let passed = self.window.passed(now) - self.phase;
        let last = passed.div_euclid(self.period) * self.period + self.phase;
        self.window.moment(last)
    }

    /// The first one after `now`.
    fn following(&self, now: i64) -> i64 {
        let passed = self.window.passed(now) - self.phase;
        let next = (passed.div_euclid(self.period) + 1) * self.period + self.phase;
        self.window.moment(next)
    }

    /// The time for which a backup is to be asked for now: the last one, when none was since. Some that were
    /// missed are one.
    pub(crate) fn due(&self, made_for: i64, now: i64) -> Option<i64> {
        let last = self.last(now);
        (self.window.contains(now) && made_for < last).then_some(last)
    }

    /// When the next backup is asked for.
    pub(crate) fn next(&self, made_for: i64, now: i64) -> i64 {
        if made_for < self.last(now) {
            return self.window.next(now);
        }
        self.following(now)
    }

    /// An older last backup is a late one: a quarter more, for the queue, the backup itself and a second try.
    pub(crate) fn age_max(&self) -> Duration {
        self.every + self.every / 4
    }
}

/// A database that can be backed up.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) tenant: TenantId,
    /// What is said of it, and otherwise of all.
    pub(crate) every: Duration,
    /// The time for which its last scheduled backup was asked for; else when it could first be used.
    pub(crate) made_for: i64,
    /// When its last good backup was ready; else when it could first be used.
    pub(crate) good_at: i64,
    /// One is being made, or waits to be.
    pub(crate) is_under_way: bool,
}

/// A backup that is to be asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Due {
    pub(crate) tenant: TenantId,
    /// The time of the schedule.
    pub(crate) time: i64,
}

/// What is to be asked for now: what waits longest first.
pub(crate) fn due(known: &[Known], window: Window, now: i64) -> Vec<Due> {
    let mut found: Vec<_> = known
        .iter()
        .filter(|one| !one.is_under_way)
        .filter_map(|one| {
            let times = Times::of(&one.tenant, one.every, window)?;
            let time = times.due(one.made_for, now)?;
            let tenant = one.tenant.clone();
            Some((one.made_for, Due { tenant, time }))
        })
        .collect();
    found.sort_unstable_by(|a, b| (a.0, a.1.time, &a.1.tenant).cmp(&(b.0, b.1.time, &b.1.tenant)));
    found.into_iter().map(|(_, due)| due).collect()
}

/// How the fleet does by its schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Survey {
    /// Databases that should have backups.
    pub(crate) scheduled: u64,
    /// Whose last good one is older than it may be.
    pub(crate) overdue: u64,
    /// Of the one that is furthest above what it may be, or nearest to it: how old its last good backup is, and how
    /// old it may be. Seconds.
    pub(crate) worst: Option<(f64, f64)>,
    /// Until the next one is asked for. Seconds.
    pub(crate) next_s: Option<f64>,
}

/// Looks at all of them.
pub(crate) fn survey(known: &[Known], window: Window, now: i64) -> Survey {
    let mut survey = Survey::default();
    for one in known {
        let Some(times) = Times::of(&one.tenant, one.every, window) else {
            continue;
        };
        let age = (now - one.good_at).max(0) as f64 / 1e3;
        let age_max = times.age_max().as_secs_f64();
        survey.scheduled += 1;
        survey.overdue += u64::from(age > age_max);
        let share = |(age, age_max): (f64, f64)| age / age_max;
        if survey
            .worst
            .is_none_or(|worst| share(worst) < age / age_max)
        {
            survey.worst = Some((age, age_max));
        }
        let next = (times.next(one.made_for, now) - now) as f64 / 1e3;
        survey.next_s = Some(survey.next_s.map_or(next, |known| known.min(next)));
    }
    survey
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const MINUTE_MS: i64 = 60_000;
    /// Some morning of 2026.
    const BEGIN: i64 = 1_774_000_000_000 / DAY_MS * DAY_MS;

    fn fleet(size: usize, every: Duration) -> Vec<Known> {
        let mut seed = 7_u64;
        let mut letter = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + u8::try_from((seed >> 33) % 26).unwrap())
        };
        (0..size)
            .map(|_| Known {
                tenant: (0..12)
                    .map(|_| letter())
                    .collect::<String>()
                    .parse()
                    .unwrap(),
                every,
                made_for: BEGIN,
                good_at: BEGIN,
                is_under_way: false,
            })
            .collect()
    }

    /// Passes each `step` minutes while `is_up`: every one asks for what is due, ten at most. Returns who was asked
    /// for when.
    fn simulate(
        known: &mut [Known],
        window: Window,
        (days, step): (i64, usize),
        is_up: impl Fn(i64) -> bool,
    ) -> Vec<(i64, TenantId)> {
        let mut asked = Vec::new();
        for minute in (0..days * 24 * 60).step_by(step) {
            let now = BEGIN + minute * MINUTE_MS;
            if !is_up(now) {
                continue;
            }
            let due: VecDeque<Due> = due(known, window, now).into();
            for due in due.into_iter().take(10) {
                let one = known
                    .iter_mut()
                    .find(|one| one.tenant == due.tenant)
                    .unwrap();
                assert!(one.made_for < due.time && due.time <= now);
                (one.made_for, one.good_at) = (due.time, now);
                asked.push((now, due.tenant));
            }
        }
        asked
    }

    fn counts(asked: &[(i64, TenantId)]) -> BTreeMap<&TenantId, usize> {
        let mut counts = BTreeMap::new();
        for (_, tenant) in asked {
            *counts.entry(tenant).or_default() += 1;
        }
        counts
    }

    fn hour(at: i64) -> i64 {
        at.rem_euclid(DAY_MS) / 3_600_000
    }

    #[test]
    fn a_fleet_is_spread_over_its_window_and_backed_up_once_a_day() {
        for (text, hours) in [("01:00-05:00", 4), ("22:00-02:00", 4), ("all", 24)] {
            let window: Window = text.parse().unwrap();
            let mut known = fleet(240, DAY);
            let asked = simulate(&mut known, window, (5, 5), |_| true);
            let mut by_hour = BTreeMap::new();
            for (at, _) in &asked {
                assert!(window.contains(*at), "{text}: {at}");
                *by_hour.entry(hour(*at)).or_default() += 1;
            }
            assert_eq!(by_hour.len(), hours, "{text}: {by_hour:?}");
            let even = asked.len() / hours;
            for count in by_hour.values() {
                assert!((even / 2..even * 2).contains(count), "{text}: {by_hour:?}");
            }
            let counts = counts(&asked);
            assert_eq!(counts.len(), known.len());
            assert!(
                counts.values().all(|count| (4..=5).contains(count)),
                "{text}"
            );
        }
    }

    #[test]
    fn times_do_not_depend_on_who_asks_or_when() {
        let window: Window = "01:00-05:00".parse().unwrap();
        for one in fleet(50, 3 * DAY) {
            let times = Times::of(&one.tenant, one.every, window).unwrap();
            let mut all = Vec::new();
            for minute in 0..14 * 24 * 60 {
                let now = BEGIN + minute * MINUTE_MS;
                let last = times.last(now);
                assert!(last <= now && window.contains(last));
                assert!(times.following(now) > now);
                assert_eq!(times.last(times.following(now)), times.following(now));
                if all.last() != Some(&last) {
                    all.push(last);
                }
            }
            for pair in all.windows(2) {
                assert_eq!(pair[1] - pair[0], 3 * DAY_MS);
            }
        }
    }

    #[test]
    fn what_was_missed_is_made_up_within_the_window_and_oldest_first() {
        let window: Window = "01:00-05:00".parse().unwrap();
        let mut known = fleet(100, DAY);
        // Away for two whole nights and half of the third.
        let back = BEGIN + 3 * DAY_MS + 3 * 3_600_000;
        let asked = simulate(&mut known, window, (5, 1), |at| {
            at < BEGIN + DAY_MS || at >= back
        });
        let late: Vec<_> = asked
            .iter()
            .filter(|(at, _)| (back..back + 3_600_000).contains(at))
            .collect();
        // As many as were due at once, ten in a pass, and no one twice for two nights.
        let first: Vec<_> = late.iter().take(40).map(|(_, tenant)| tenant).collect();
        let mut order: Vec<_> = asked
            .iter()
            .filter(|(at, _)| *at < back)
            .map(|(_, tenant)| tenant)
            .collect();
        order.dedup();
        assert!(first.iter().all(|tenant| order.contains(tenant)));
        let place = |tenant| order.iter().rposition(|one| *one == tenant).unwrap();
        let places: Vec<_> = first.iter().map(|tenant| place(*tenant)).collect();
        assert!(places.is_sorted(), "{places:?}");
        assert!(asked.iter().all(|(at, _)| window.contains(*at)));
        // Nothing is due twice for what was missed.
        let counts = counts(&asked);
        assert!(
            counts.values().all(|count| (2..=4).contains(count)),
            "{counts:?}"
        );
        let end = BEGIN + 5 * DAY_MS;
        assert_eq!(survey(&known, window, end).overdue, 0);
    }

    #[test]
    fn outside_of_the_window_nothing_begins() {
        let window: Window = "01:00-05:00".parse().unwrap();
        let known = fleet(20, DAY);
        let noon = BEGIN + 10 * DAY_MS + 12 * 3_600_000;
        assert_eq!(due(&known, window, noon), []);
        let survey = survey(&known, window, noon);
        assert_eq!((survey.scheduled, survey.overdue), (20, 20));
        assert_eq!(survey.next_s, Some(13.0 * 3600.0));
        assert_eq!(due(&known, window, noon + 13 * 3_600_000).len(), 20);
    }

    #[test]
    fn several_times_a_day_need_the_whole_day() {
        let one = &fleet(1, 6 * HOUR)[0];
        let times =
            |window: &str| Times::of(&one.tenant, one.every, window.parse().unwrap()).unwrap();
        let noon = BEGIN + DAY_MS / 2;
        let gap = |times: Times| times.following(noon) - times.last(noon);
        assert_eq!(gap(times("all")), 6 * 3_600_000);
        assert_eq!(gap(times("01:00-05:00")), DAY_MS);
        assert!(Times::of(&one.tenant, Duration::ZERO, Window::ALL_DAY).is_none());
    }

    #[test]
    fn a_new_database_waits_for_its_time_and_one_under_way_is_not_asked_for_again() {
        let mut known = fleet(1, DAY);
        let times = Times::of(&known[0].tenant, DAY, Window::ALL_DAY).unwrap();
        let time = times.following(BEGIN);
        assert_eq!(due(&known, Window::ALL_DAY, time - 1), []);
        let wanted = Due {
            tenant: known[0].tenant.clone(),
            time,
        };
        assert_eq!(due(&known, Window::ALL_DAY, time), [wanted]);
        known[0].is_under_way = true;
        assert_eq!(due(&known, Window::ALL_DAY, time), []);
    }

    #[test]
    fn the_worst_is_the_one_furthest_above_its_own_bound() {
        let mut known = fleet(3, DAY);
        known[0].every = HOUR;
        known[0].good_at = BEGIN - 2 * 3_600_000;
        known[1].good_at = BEGIN - DAY_MS;
        known[2].every = Duration::ZERO;
        let survey = survey(&known, Window::ALL_DAY, BEGIN);
        assert_eq!(survey.worst, Some((7200.0, 4500.0)));
        assert_eq!((survey.scheduled, survey.overdue), (2, 1));
    }
}
