//! How many placements are made ahead of demand.

use std::time::Duration;

use tokio::time::Instant;

use crate::WarmPool;

/// How long the pool stays larger after the last claim.
const QUIET_AFTER: Duration = Duration::from_secs(60);
/// How long after a claim nothing is made for the pool: making a database takes the disk and a
/// core for as long as a create and its first login take, of which there may be many at that moment.
pub(super) const YIELD_FOR: Duration = Duration::from_millis(300);
/// For how long claims without a pause hold the filling up: a burst is over by then, and one caller
/// after the other would otherwise empty the pool.
const YIELD_MAX: Duration = Duration::from_millis(500);

/// Follows the demand: grows when creates come faster than the pool is refilled, shrinks by one
/// for every quiet minute. What was made is not unmade; it waits.
#[derive(Debug)]
pub(crate) struct Demand {
    bounds: WarmPool,
    target: u32,
    changed_at: Instant,
    burst: Option<Burst>,
}

/// Claims that follow each other closely.
#[derive(Debug)]
struct Burst {
    began_at: Instant,
    last_at: Instant,
}

/// How fast the pool is to be filled now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pace {
    /// Not at all, for so long.
    Wait(Duration),
    /// One entry after the other: there is no hurry, and callers want the machine.
    Slow,
    /// As many at once as passes may work on.
    Fast,
}

impl Demand {
    pub(crate) fn new(bounds: WarmPool, now: Instant) -> Self {
        Self {
            bounds,
            target: bounds.min,
            changed_at: now,
            burst: None,
        }
    }

    /// An entry was taken and `left` stayed. Below half the target, the target doubles, so that
    /// the refill starts before the pool is empty.
    pub(crate) fn claimed(&mut self, left: u32, now: Instant) {
        self.changed_at = now;
        match &mut self.burst {
            Some(burst) if now - burst.last_at < YIELD_FOR => burst.last_at = now,
            _ => {
                self.burst = Some(Burst {
                    began_at: now,
                    last_at: now,
                });
            }
        }
        if left * 2 < self.target {
            self.target = (self.target * 2).clamp(self.bounds.min, self.bounds.max);
        }
    }

    /// Somebody found it empty.
    pub(crate) fn missed(&mut self, now: Instant) {
        self.changed_at = now;
        self.target = (self.target * 2)
            .max(1)
            .clamp(self.bounds.min, self.bounds.max);
    }

    /// How fast to fill a pool of which `ready` entries can be claimed. An empty one is filled at
    /// once: whoever creates now waits for a database of its own anyway.
    pub(crate) fn pace(&self, ready: u32, now: Instant) -> Pace {
        if ready == 0 {
            return Pace::Fast;
        }
        if let Some(burst) = &self.burst {
            let until = (burst.last_at + YIELD_FOR).min(burst.began_at + YIELD_MAX);
            if now < until {
                return Pace::Wait(until - now);
            }
        }
        if ready * 2 >= self.target {
            Pace::Slow
        } else {
            Pace::Fast
        }
    }

    /// Entries that should be there or on their way.
    pub(crate) fn target(&mut self, now: Instant) -> u32 {
        while self.target > self.bounds.min && now - self.changed_at >= QUIET_AFTER {
            self.target -= 1;
            self.changed_at += QUIET_AFTER;
        }
        self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: WarmPool = WarmPool { min: 2, max: 10 };

    #[tokio::test]
    async fn it_grows_under_demand_up_to_its_bound() {
        let now = Instant::now();
        let mut demand = Demand::new(BOUNDS, now);
        assert_eq!(demand.target(now), 2);
        demand.claimed(1, now);
        assert_eq!(demand.target(now), 2, "half is left");
        for want in [4, 8, 10, 10] {
            demand.claimed(0, now);
            assert_eq!(demand.target(now), want);
        }
    }

    #[tokio::test]
    async fn it_shrinks_when_it_is_quiet_but_not_below_its_bound() {
        let now = Instant::now();
        let mut demand = Demand::new(BOUNDS, now);
        demand.missed(now);
        assert_eq!(demand.target(now), 4);
        assert_eq!(demand.target(now + QUIET_AFTER), 3);
        assert_eq!(demand.target(now + QUIET_AFTER * 100), 2);
    }

    /// Decided here, by order and numbers; nothing waits.
    #[tokio::test]
    async fn the_filling_yields_to_claims_for_a_bounded_time() {
        let now = Instant::now();
        let mut demand = Demand::new(BOUNDS, now);
        assert_eq!(
            demand.pace(0, now),
            Pace::Fast,
            "nobody is served by waiting"
        );
        assert_eq!(demand.pace(1, now), Pace::Slow, "half is there");
        demand.claimed(1, now);
        assert_eq!(demand.pace(1, now), Pace::Wait(YIELD_FOR));
        assert_eq!(demand.pace(0, now), Pace::Fast);
        assert_eq!(demand.pace(1, now + YIELD_FOR), Pace::Slow);

        // Claims without a pause: it waits for the last one, and no longer than the bound.
        let mut at = now;
        while at < now + YIELD_MAX {
            demand.claimed(3, at);
            at += YIELD_FOR / 2;
        }
        assert_eq!(demand.pace(3, now + YIELD_MAX), Pace::Slow);
        demand.claimed(0, at);
        assert_eq!(demand.target(at), 4);
        assert_eq!(demand.pace(1, at + YIELD_FOR), Pace::Fast, "less than half");
    }

    #[tokio::test]
    async fn a_pool_that_is_switched_off_stays_off() {
        let now = Instant::now();
        let mut demand = Demand::new(WarmPool { min: 0, max: 0 }, now);
        demand.missed(now);
        assert_eq!(demand.target(now), 0);
    }
}
