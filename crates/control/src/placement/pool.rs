//! How many placements are made ahead of demand.

use std::time::Duration;

use tokio::time::Instant;

use crate::WarmPool;

/// How long the pool stays larger after the last claim.
const QUIET_AFTER: Duration = Duration::from_secs(60);

/// Follows the demand: grows when creates come faster than the pool is refilled, shrinks by one
/// for every quiet minute. What was made is not unmade; it waits.
#[derive(Debug)]
pub(crate) struct Demand {
    bounds: WarmPool,
    target: u32,
    changed_at: Instant,
}

impl Demand {
    pub(crate) fn new(bounds: WarmPool, now: Instant) -> Self {
        Self {
            bounds,
            target: bounds.min,
            changed_at: now,
        }
    }

    /// An entry was taken and `left` stayed. Below half the target, the target doubles, so that
    /// the refill starts before the pool is empty.
    pub(crate) fn claimed(&mut self, left: u32, now: Instant) {
        self.changed_at = now;
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

    #[tokio::test]
    async fn a_pool_that_is_switched_off_stays_off() {
        let now = Instant::now();
        let mut demand = Demand::new(WarmPool { min: 0, max: 0 }, now);
        demand.missed(now);
        assert_eq!(demand.target(now), 0);
    }
}
