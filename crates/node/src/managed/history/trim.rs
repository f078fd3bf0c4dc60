//! What of a history goes, decided in pure code: what is too old, and what there is no room for.

use std::time::{Duration, SystemTime};

use super::wal::Segment;

/// A base, as far as its age and place matter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Base {
    pub(super) name: String,
    /// First segment that a recovery from it needs.
    pub(super) start: Segment,
    pub(super) begun: SystemTime,
    /// From then on it can be recovered from.
    pub(super) finished: SystemTime,
}

/// How many of the oldest bases are not needed: every moment within `keep` has a base before it without them.
pub(super) fn too_old(bases: &[Base], now: SystemTime, keep: Duration) -> usize {
    let oldest_moment = now.checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH);
    let before = bases
        .iter()
        .filter(|base| base.finished <= oldest_moment)
        .count();
    before.saturating_sub(1)
}

/// How many of the oldest segments nobody needs. Without a base, the first one may be in the making.
pub(super) fn unneeded(segments: &[(Segment, u64)], bases: &[Base]) -> usize {
    let Some(oldest) = bases.first() else {
        return 0;
    };
    segments
        .iter()
        .filter(|(segment, _)| *segment < oldest.start)
        .count()
}

/// How many of the oldest bases end before a hole in the log: what follows a hole cannot be reached from
/// them, so that moments would be offered that cannot be had. What is not archived yet is no hole.
pub(super) fn before_a_hole(segments: &[(Segment, u64)], bases: &[Base]) -> usize {
    let has_hole = |base: &Base| {
        let mut next = base.start.clone();
        let mut after = segments.iter().map(|(segment, _)| segment);
        after.any(|segment| {
            let is_hole = *segment >= base.start && *segment != next;
            if *segment >= base.start {
                next = segment.next();
            }
            is_hole
        })
    };
    bases.iter().filter(|base| has_hole(base)).count()
}

/// What is to be done about the room there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Room {
    Enough,
    /// The oldest base goes, with its part of the log.
    DropOldest,
    /// Not even the newest base can stay, or nothing can be kept at all.
    GiveUp,
}

/// `waiting`: segments that wait for the archiver, of which the server keeps the originals.
pub(super) fn room(
    free: u64,
    floor: u64,
    bases: usize,
    waiting: usize,
    waiting_max: usize,
) -> Room {
    if waiting > waiting_max {
        return Room::GiveUp;
    }
    match (free < floor, bases) {
        (false, _) => Room::Enough,
        (true, 2..) => Room::DropOldest,
        (true, _) => Room::GiveUp,
    }
}

/// Bytes of a file system of this size that a history leaves free: a tenth, so that tenants can go on, but no
/// more than 20 GB, and 1 GB at least.
pub(super) fn floor(total: u64) -> u64 {
    const GB: u64 = 1 << 30;
    (total / 10).clamp(GB, 20 * GB)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn segment(number: u32) -> Segment {
        Segment::parse(&format!("0000000100000000{number:08X}")).unwrap()
    }

    fn base(hour: u32, start: u32) -> Base {
        let finished = SystemTime::UNIX_EPOCH + HOUR * hour;
        Base {
            name: hour.to_string(),
            start: segment(start),
            begun: finished,
            finished,
        }
    }

    #[test]
    fn every_moment_within_the_retention_keeps_a_base_before_it() {
        let bases = [base(10, 1), base(20, 5), base(30, 9)];
        let at = |hour: u32| SystemTime::UNIX_EPOCH + HOUR * hour;
        for (now, go) in [(30, 0), (43, 0), (44, 1), (53, 1), (54, 2), (1000, 2)] {
            assert_eq!(too_old(&bases, at(now), 24 * HOUR), go, "at {now} h");
        }
        assert_eq!(too_old(&[], at(5), 24 * HOUR), 0);
    }

    #[test]
    fn the_log_is_kept_from_the_oldest_base_on() {
        let segments: Vec<_> = (3..9).map(|n| (segment(n), 1)).collect();
        assert_eq!(unneeded(&segments, &[base(1, 5), base(2, 7)]), 2);
        assert_eq!(unneeded(&segments, &[]), 0);
    }

    #[test]
    fn bases_before_a_hole_are_worth_nothing() {
        let some = |numbers: &[u32]| numbers.iter().map(|n| (segment(*n), 1)).collect::<Vec<_>>();
        let bases = [base(1, 3), base(2, 6)];
        for (there, go) in [
            (&[3, 4, 5, 6, 7][..], 0),
            (&[3, 4, 6, 7], 1),
            (&[4, 5, 6], 1),
            (&[3, 4, 5, 6, 8], 2),
            (&[3, 4], 0),
            (&[], 0),
        ] {
            assert_eq!(before_a_hole(&some(there), &bases), go, "{there:?}");
        }
    }

    #[test]
    fn the_oldest_goes_first_and_the_server_goes_before_all() {
        use Room::{DropOldest, Enough, GiveUp};
        for (free, bases, waiting, done) in [
            (10, 3, 0, Enough),
            (9, 3, 0, DropOldest),
            (9, 2, 0, DropOldest),
            (9, 1, 0, GiveUp),
            (9, 0, 0, GiveUp),
            (10, 0, 0, Enough),
            (10, 3, 8, Enough),
            (10, 3, 9, GiveUp),
        ] {
            assert_eq!(
                room(free, 10, bases, waiting, 8),
                done,
                "{free} {bases} {waiting}"
            );
        }
        assert_eq!(
            [0, 50 << 30, 1 << 50].map(floor),
            [1 << 30, 5 << 30, 20 << 30]
        );
    }
}
