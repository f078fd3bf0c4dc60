//! Windows of time, made of slots of rings.
//!
//! Owns: which rings there are, which slots a window has, and what follows from its counts. No clock and
//! no I/O.
//!
//! A ring has a place for every slot that a window needs and some more, so that the one that is written
//! next is never one that is read. The oldest slot of a window lies only partly in it and counts for that
//! part: as if what happened in it was spread evenly.

use model::insight::{BOUNDS_US, Counts, FIRST_TIME, NUMBERS, TIMES};

/// One ring of a tenant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Grain {
    /// As in the catalog.
    pub(super) id: i16,
    /// Length of a slot.
    pub(super) seconds: i64,
    /// Slots that are kept.
    pub(super) places: i64,
    /// Length of the window that it is for: less than all places.
    pub(super) window: i64,
}

/// One minute by ten seconds, one hour by minutes, one day by hours: 98 slots of at most some 400 bytes for
/// each tenant that is always in use.
pub(super) const GRAINS: [Grain; 3] = [
    Grain {
        id: 1,
        seconds: 10,
        places: 8,
        window: 60,
    },
    Grain {
        id: 2,
        seconds: 60,
        places: 64,
        window: 3_600,
    },
    Grain {
        id: 3,
        seconds: 3_600,
        places: 26,
        window: 86_400,
    },
];

/// The ring of hours.
pub(super) const HOURS: i16 = 3;
/// Seconds.
pub(super) const HOUR: i64 = 3_600;
/// Seconds; also the length of a slot of the ring of days, which has no window.
pub(super) const DAY: i64 = 86_400;
/// Slots of it that are kept: a week, and the one that is written next.
pub(super) const DAYS: i64 = 8;

/// What was counted in slots from `first` on, and is not written.
pub(super) fn counted_since<'a>(
    slots: impl Iterator<Item = &'a Slot>,
    first: i64,
    unwritten: &Counts,
) -> Counts {
    let mut sum = *unwritten;
    for slot in slots.filter(|slot| slot.slot >= first) {
        sum.add(&slot.counts);
    }
    sum
}

/// A slot as it is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Slot {
    pub(super) grain: i16,
    pub(super) slot: i64,
    pub(super) counts: Counts,
}

/// What was counted in a window, ending now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    pub(super) seconds: i64,
    numbers: [f64; NUMBERS],
}

impl Window {
    /// Of the slots of all rings, at `now` (seconds since 1970); `unwritten` was counted just now.
    pub(super) fn of(grain: Grain, slots: &[Slot], unwritten: &Counts, now: f64) -> Self {
        let mut numbers = unwritten.numbers().map(|number| number as f64);
        let position = now / grain.seconds as f64;
        let (last, gone) = (position.floor() as i64, position.fract());
        let whole = grain.window / grain.seconds;
        for own in slots.iter().filter(|slot| slot.grain == grain.id) {
            let share = match last - own.slot {
                // The clock of the catalog's server was set back.
                ..0 => 1.0,
                age if age < whole => 1.0,
                age if age == whole => 1.0 - gone,
                _ => 0.0,
            };
            for (sum, number) in numbers.iter_mut().zip(own.counts.numbers()) {
                *sum += number as f64 * share;
            }
        }
        Self {
            seconds: grain.window,
            numbers,
        }
    }

    /// In whole numbers.
    pub(super) fn counts(&self) -> Counts {
        Counts::of(&self.numbers.map(|number| number.round() as u64))
    }

    /// How many in a second.
    pub(super) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds as f64
    }

    /// Times of statements.
    pub(super) fn times(&self) -> Times {
        Times {
            sum_us: self.numbers[FIRST_TIME - 1],
            counts: std::array::from_fn(|place| self.numbers[FIRST_TIME + place]),
        }
    }
}

/// How often something took how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Times {
    pub(super) sum_us: f64,
    pub(super) counts: [f64; TIMES],
}

impl Times {
    fn count(&self) -> f64 {
        self.counts.iter().sum()
    }

    /// Milliseconds; 0 of nothing.
    pub(super) fn average_ms(&self) -> f64 {
        match self.count() {
            count if count > 0.0 => rounded(self.sum_us / count / 1e3),
            _ => 0.0,
        }
    }

    /// The time, in milliseconds, that this share of them did not exceed: within the bounds around it, as
    /// if they were spread evenly between them. What took longer than all bounds counts as the last one.
    /// 0 of nothing.
    pub(super) fn quantile_ms(&self, share: f64) -> f64 {
        let wanted = self.count() * share;
        if wanted <= 0.0 {
            return 0.0;
        }
        let (mut below, mut from) = (0.0, 0_u64);
        for (count, to) in self.counts.iter().zip(BOUNDS_US) {
            if *count > 0.0 && below + count >= wanted {
                let part = (wanted - below) / count;
                return rounded((from as f64 + (to - from) as f64 * part) / 1e3);
            }
            below += count;
            from = to;
        }
        rounded(from as f64 / 1e3)
    }
}

/// To microseconds.
pub(super) fn rounded(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(grain: Grain, slot: i64, statements: u64) -> Slot {
        let counts = Counts {
            statements,
            ..Counts::default()
        };
        Slot {
            grain: grain.id,
            slot,
            counts,
        }
    }

    /// A slot that is read is never the one that is written next.
    #[test]
    fn rings_have_more_places_than_their_windows_read() {
        for grain in GRAINS {
            assert_eq!(grain.window % grain.seconds, 0);
            assert!(grain.places > grain.window / grain.seconds + 1, "{grain:?}");
        }
    }

    #[test]
    fn a_window_has_what_lies_in_it() {
        for grain in GRAINS {
            let whole = grain.window / grain.seconds;
            let last = 1_000_000;
            // A quarter of the last slot is over.
            let now = (last as f64 + 0.25) * grain.seconds as f64;
            let slots = [
                slot(grain, last, 1),
                slot(grain, last - whole + 1, 10),
                slot(grain, last - whole, 400),
                slot(grain, last - whole - 1, 1_000),
            ];
            let unwritten = Counts {
                statements: 5,
                ..Counts::default()
            };
            let window = Window::of(grain, &slots, &unwritten, now);
            assert_eq!(window.counts().statements, 1 + 10 + 300 + 5);
            for other in GRAINS.iter().filter(|other| **other != grain) {
                let window = Window::of(*other, &slots, &Counts::default(), now);
                assert_eq!(window.counts().statements, 0);
            }
        }
    }

    #[test]
    fn quantiles_lie_within_their_bounds() {
        let mut times = Times {
            sum_us: 0.0,
            counts: [0.0; TIMES],
        };
        assert_eq!((times.average_ms(), times.quantile_ms(0.99)), (0.0, 0.0));
        // 90 between 0.5 and 1 ms, 10 between 50 and 100 ms.
        times.counts[3] = 90.0;
        times.counts[9] = 10.0;
        times.sum_us = 90.0 * 700.0 + 10.0 * 80_000.0;
        assert_eq!(times.average_ms(), 8.63);
        let p50 = times.quantile_ms(0.5);
        assert!((0.5..=1.0).contains(&p50), "{p50}");
        assert_eq!(times.quantile_ms(0.9), 1.0);
        for share in [0.95, 0.99, 1.0] {
            let found = times.quantile_ms(share);
            assert!((50.0..=100.0).contains(&found), "{found}");
        }
        times.counts[TIMES - 1] = 1_000.0;
        assert_eq!(times.quantile_ms(0.99), 60_000.0, "the last bound");
    }
}
