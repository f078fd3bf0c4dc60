//! How often the statements of one tenant may begin.
//!
//! A bucket of tokens, kept as the one moment at which it would be full again: no timer fills it.

use std::{cell::Cell, time::Duration};

use model::limits::Rate;
use tokio::time::Instant;

/// The tokens of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// When it is full again; `None`: nobody took one.
    full_at: Cell<Option<Instant>>,
}

/// How long one token takes to come back.
fn interval(rate: Rate) -> Duration {
    Duration::from_secs(1) / rate.per_second.max(1)
}

impl Bucket {
    /// How long until there is a whole token; zero: there is one.
    pub(crate) fn wait(&self, rate: Rate, now: Instant) -> Duration {
        let Some(full_at) = self.full_at.get() else {
            return Duration::ZERO;
        };
        let missing = full_at.saturating_duration_since(now);
        // With `burst - 1` missing there is one left.
        missing.saturating_sub(interval(rate) * (rate.burst.max(1) - 1))
    }

    /// Takes tokens, also such as are not there: they are owed.
    pub(crate) fn take(&self, tokens: u32, rate: Rate, now: Instant) {
        let full_at = self.full_at.get().map_or(now, |at| at.max(now));
        self.full_at.set(Some(full_at + interval(rate) * tokens));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 10,
        burst: 3,
    };

    #[test]
    fn a_burst_is_there_at_once_and_then_one_in_each_interval() {
        let (bucket, start) = (Bucket::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(bucket.wait(RATE, start), Duration::ZERO);
            bucket.take(1, RATE, start);
        }
        assert_eq!(bucket.wait(RATE, start), Duration::from_millis(100));
        let later = start + Duration::from_millis(100);
        assert_eq!(bucket.wait(RATE, later), Duration::ZERO);
        bucket.take(1, RATE, later);
        assert_eq!(bucket.wait(RATE, later), Duration::from_millis(100));
        // It holds no more than the burst, however long nobody comes.
        let much_later = start + Duration::from_secs(60);
        bucket.take(3, RATE, much_later);
        assert_eq!(bucket.wait(RATE, much_later), Duration::from_millis(100));
    }

    #[test]
    fn what_was_taken_beyond_it_is_owed() {
        let (bucket, start) = (Bucket::default(), Instant::now());
        bucket.take(13, RATE, start);
        assert_eq!(bucket.wait(RATE, start), Duration::from_millis(1100));
    }

    #[test]
    fn another_rate_counts_from_then_on() {
        let (bucket, start) = (Bucket::default(), Instant::now());
        bucket.take(3, RATE, start);
        let faster = Rate {
            per_second: 1000,
            burst: 1000,
        };
        assert_eq!(bucket.wait(faster, start), Duration::ZERO);
        let one = Rate {
            per_second: 1,
            burst: 1,
        };
        assert_eq!(bucket.wait(one, start), Duration::from_millis(300));
    }
}
