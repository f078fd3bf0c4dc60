//! When an alert begins and ends. Pure: no clock, no I/O.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// What is known of an alert that has not ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// Its reason is there since then, and for too short a time to tell anybody.
    Pending { since: DateTime<Utc> },
    /// Somebody was told, or will be. Its reason may be gone since then.
    Open { gone_since: Option<DateTime<Utc>> },
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Nothing.
    Rest,
    /// It is pending.
    Note,
    /// It is open.
    Open,
    /// Its reason is there.
    Holds,
    /// Its reason is gone, and may come back.
    Gone,
    /// It is resolved.
    Resolve,
    /// It never was one.
    Forget,
}

/// `holds`: its reason is there now. `lasting`: for so long, before anybody is told of either.
pub(super) fn next(
    standing: Option<Standing>,
    holds: bool,
    lasting: Duration,
    now: DateTime<Utc>,
) -> Next {
    let is_over = |since: DateTime<Utc>| {
        let passed = (now - since).to_std().unwrap_or_default();
        passed >= lasting
    };
    match (standing, holds) {
        (None, false) => Next::Rest,
        (None, true) if lasting.is_zero() => Next::Open,
        (None, true) => Next::Note,
        (Some(Standing::Pending { since }), true) if is_over(since) => Next::Open,
        (Some(Standing::Pending { .. }), true) => Next::Rest,
        (Some(Standing::Pending { .. }), false) => Next::Forget,
        (Some(Standing::Open { .. }), true) => Next::Holds,
        (Some(Standing::Open { gone_since }), false) => match gone_since {
            _ if lasting.is_zero() => Next::Resolve,
            None => Next::Gone,
            Some(since) if is_over(since) => Next::Resolve,
            Some(_) => Next::Rest,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    /// As rows would be written, by the second.
    fn told(holds: &[bool], lasting: u64) -> Vec<(usize, Next)> {
        let mut standing = None;
        let mut told = Vec::new();
        for (second, holds) in holds.iter().enumerate() {
            let now = at(second as i64);
            let next = next(standing, *holds, Duration::from_secs(lasting), now);
            standing = match next {
                Next::Rest => standing,
                Next::Note => Some(Standing::Pending { since: now }),
                Next::Open | Next::Holds => Some(Standing::Open { gone_since: None }),
                Next::Gone => Some(Standing::Open {
                    gone_since: Some(now),
                }),
                Next::Resolve | Next::Forget => None,
            };
            if matches!(next, Next::Open | Next::Resolve) {
                told.push((second, next));
            }
        }
        told
    }

    #[test]
    fn what_does_not_last_is_told_to_nobody() {
        let (on, off) = (true, false);
        assert_eq!(told(&[off, on, on, off, on, off], 3), []);
        let lasts = [on, on, on, on, off, on, off, off, off, off, off];
        assert_eq!(told(&lasts, 3), [(3, Next::Open), (9, Next::Resolve)]);
        let flaps = [on, on, on, on, off, on, off, on, off, on];
        assert_eq!(told(&flaps, 3), [(3, Next::Open)]);
        let at_once = [on, on, off, off, on];
        assert_eq!(
            told(&at_once, 0),
            [(0, Next::Open), (2, Next::Resolve), (4, Next::Open)]
        );
    }

    #[test]
    fn a_clock_that_was_set_back_ends_nothing() {
        let standing = Some(Standing::Pending { since: at(100) });
        let next = next(standing, true, Duration::from_secs(3), at(50));
        assert_eq!(next, Next::Rest);
    }
}
