//! The statements that count most.
//!
//! Owns: a table of bounded size in which whatever has a large share of the runs, or of the time,
//! has a place for certain, without knowing all of them. (Metwally, Agrawal, El Abbadi: "Efficient
//! computation of frequent and top-k elements in data streams", 2005; here each run weighs as much as
//! its share of both.)
//!
//! A newcomer takes the place of the lightest, and its weight. So whatever has more than two places'
//! share (2 / size of the table) of all runs or of all time cannot be driven out by others.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    rc::Rc,
};

use model::insight::TIMES;
use tokio::time::Instant;

use super::{Outcome, StatementInsight, Sums, shape::Shape};
use crate::metrics::place as place_of_time;

/// Weight of one run, before its time is counted.
const RUN: u64 = 64;
/// One run weighs at most as much as so many of average length: a single slow one needs no more to
/// stay for a while.
const AVERAGES_MAX: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Top {
    max: usize,
    places: HashMap<u64, usize, BuildHasherDefault<Itself>>,
    entries: Vec<Entry>,
    /// Of each entry, beside the others so that the lightest is found fast.
    weights: Vec<u64>,
    /// Of those that are not or no longer in the table.
    rest: Sums,
    all: Sums,
}

#[derive(Debug)]
struct Entry {
    shape: Rc<Shape>,
    sums: Sums,
    times: [u32; TIMES],
    last: Instant,
}

impl Top {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            places: HashMap::default(),
            entries: Vec::new(),
            weights: Vec::new(),
            rest: Sums::default(),
            all: Sums::default(),
        }
    }

    /// The shape of this number, if it is in the table.
    pub(super) fn shape(&self, number: u64) -> Option<Rc<Shape>> {
        let place = *self.places.get(&number)?;
        Some(self.entries[place].shape.clone())
    }

    /// Notes one run.
    #[inline]
    pub(super) fn note(
        &mut self,
        run: Option<(&Rc<Shape>, Instant)>,
        took_us: u64,
        outcome: Outcome,
    ) {
        self.all.note(took_us, outcome);
        let Some((shape, now)) = run.filter(|_| self.max > 0) else {
            self.rest.note(took_us, outcome);
            return;
        };
        shape.ended(outcome.error);
        let average = (self.all.time_us / self.all.count).max(1);
        let weight = RUN + (took_us.saturating_mul(RUN) / average).min(AVERAGES_MAX * RUN);
        let place = match self.places.get(&shape.number) {
            Some(place) => *place,
            None => self.admit(shape, now),
        };
        self.weights[place] = self.weights[place].saturating_add(weight);
        let entry = &mut self.entries[place];
        entry.sums.note(took_us, outcome);
        let count = &mut entry.times[place_of_time(took_us)];
        *count = count.saturating_add(1);
        entry.last = now;
    }

    fn admit(&mut self, shape: &Rc<Shape>, now: Instant) -> usize {
        let entry = Entry {
            shape: shape.clone(),
            sums: Sums::default(),
            times: [0; TIMES],
            last: now,
        };
        let place = if self.entries.len() < self.max {
            self.entries.push(entry);
            self.weights.push(0);
            self.entries.len() - 1
        } else {
            let lightest = self
                .weights
                .iter()
                .enumerate()
                .min_by_key(|(_, weight)| **weight);
            let place = lightest.map_or(0, |(place, _)| place);
            let left = std::mem::replace(&mut self.entries[place], entry);
            self.places.remove(&left.shape.number);
            self.rest.take_over(&left.sums);
            place
        };
        self.places.insert(shape.number, place);
        place
    }

    pub(super) fn rest(&self) -> Sums {
        self.rest
    }

    /// Those that took most time together, and as many that ran most often; the most time first.
    pub(super) fn most(&self, each: usize) -> Vec<StatementInsight> {
        if each == 0 {
            return Vec::new();
        }
        let now = Instant::now();
        let mut chosen = vec![false; self.entries.len()];
        let by: [fn(&Sums) -> u64; 2] = [|sums| sums.time_us, |sums| sums.count];
        for by in by {
            let mut order: Vec<_> = (0..self.entries.len()).collect();
            order.sort_by_key(|place| std::cmp::Reverse(by(&self.entries[*place].sums)));
            for place in order.into_iter().take(each) {
                chosen[place] = true;
            }
        }
        let mut most: Vec<_> = self
            .entries
            .iter()
            .zip(chosen)
            .filter(|(_, chosen)| *chosen)
            .map(|(entry, _)| StatementInsight {
                id: entry.shape.number,
                text: entry.shape.text(),
                sums: entry.sums,
                times: entry.times.map(u64::from),
                last_ago: now.saturating_duration_since(entry.last),
            })
            .collect();
        most.sort_by_key(|entry| (std::cmp::Reverse(entry.sums.time_us), entry.id));
        most
    }
}

/// Numbers of shapes are hashes already.
#[derive(Debug, Default)]
pub(super) struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::shape::ShapeBytes, *};

    const MAX: usize = 16;

    fn shapes(count: usize) -> Vec<Rc<Shape>> {
        let bytes = ShapeBytes::new(1 << 20);
        let shape = |number| Shape::new(number as u64, b"SELECT 1", &bytes);
        (0..count).map(|number| shape(number).unwrap()).collect()
    }

    fn outcome(rows: u64) -> Outcome {
        Outcome {
            rows,
            ..Outcome::default()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        /// Whoever has a large share of the runs, or of the time, is there, whatever the order and the
        /// others; and nothing is lost.
        #[test]
        fn what_counts_most_has_a_place(
            runs in prop::collection::vec((0_usize..400, 0_u64..100), 500..2000),
            frequent in 4_usize..7,
            slow in 20_usize..40,
        ) {
            let shapes = shapes(402);
            let mut top = Top::new(MAX);
            let mut all = Sums::default();
            let now = Instant::now();
            let mut run = |shape: usize, took_us: u64| {
                top.note(Some((&shapes[shape], now)), took_us, outcome(1));
                all.note(took_us, outcome(1));
            };
            for (i, (other, took_us)) in runs.iter().enumerate() {
                run(*other, *took_us);
                if i % frequent == 0 {
                    run(400, 1);
                }
                if i % slow == 0 {
                    run(401, 2_000);
                }
            }
            prop_assert!(top.entries.len() <= MAX && top.weights.len() == top.entries.len());
            let most = top.most(MAX);
            for kept in [400, 401] {
                prop_assert!(most.iter().any(|entry| entry.id == kept), "{kept} {most:?}");
            }
            for entry in &most {
                prop_assert_eq!(entry.times.iter().sum::<u64>(), entry.sums.count);
            }
            prop_assert!(most.is_sorted_by_key(|entry| std::cmp::Reverse(entry.sums.time_us)));
            let mut sum = top.rest();
            most.iter().for_each(|entry| sum.take_over(&entry.sums));
            prop_assert_eq!(sum, all);
        }
    }

    #[test]
    fn the_most_by_time_and_by_count_are_told() {
        let shapes = shapes(6);
        let mut top = Top::new(MAX);
        for (place, shape) in shapes.iter().enumerate() {
            for _ in 0..=place {
                top.note(
                    Some((shape, Instant::now())),
                    600 / (1 << place),
                    outcome(0),
                );
            }
        }
        let ids = |each| {
            let most = top.most(each);
            most.iter().map(|entry| entry.id).collect::<Vec<_>>()
        };
        assert!(ids(0).is_empty());
        // Times: 600, 600, 450, 300, 185, 108.
        assert_eq!(ids(1), [0, 5]);
        assert_eq!(ids(2), [0, 1, 4, 5]);
        assert_eq!(ids(100).len(), 6);
    }
}
