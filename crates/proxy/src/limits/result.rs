//! How large the result of one statement may be.
//!
//! Rows are passed on as they come, up to the limit; what is beyond it goes nowhere. The statement is
//! cancelled (`relay`), and what its server says of that becomes what the limit says. A statement that
//! had come to its end before the cancel did has done what it does: the client is told so, and told no
//! more than that, since it takes the rest of what it asked for not done.

use model::{Limits, limits::Number};

use super::Exceeded;

/// What was passed on of the result that comes in now, if its size is limited.
#[derive(Debug, Default)]
pub(crate) struct Meter(Option<Box<Measured>>);

#[derive(Debug, Default)]
struct Measured {
    rows: u64,
    bytes: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    #[default]
    Within,
    /// The rest of the result is dropped.
    Over(Exceeded),
    /// The client was told in place of the statement's end. Nothing but "ready" may follow.
    Told(Exceeded),
}

/// What becomes of a message that ends a result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// It is passed on.
    Passes,
    /// The client is told this instead: the statement did nothing that lasts, and nothing follows it.
    Told(Exceeded),
    /// The session ends with this: what the statement did may last.
    Fatal(Exceeded),
}

impl Meter {
    /// A row, or a piece of a COPY, of so many bytes. False: it is not passed on. The second value is
    /// there for the first one that is not.
    #[inline]
    pub(crate) fn takes(&mut self, bytes: usize, limits: &Limits) -> (bool, Option<Exceeded>) {
        if limits.result_rows_max.is_none() && limits.result_bytes_max.is_none() {
            return (!self.drops(), None);
        }
        let measured = self.0.get_or_insert_default();
        if measured.stage != Stage::Within {
            return (false, None);
        }
        measured.rows += 1;
        measured.bytes += bytes as u64;
        let over = |limit, value, now| (now > value).then_some(Exceeded { limit, value });
        let rows = limits.result_rows_max;
        let rows = rows.and_then(|value| over(Number::ResultRows, value, measured.rows));
        let bytes = limits.result_bytes_max;
        let exceeded = rows
            .or_else(|| bytes.and_then(|value| over(Number::ResultBytes, value, measured.bytes)));
        match exceeded {
            None => (true, None),
            Some(exceeded) => {
                measured.stage = Stage::Over(exceeded);
                (false, Some(exceeded))
            }
        }
    }

    /// Whether a result is above its limit, and what it still sends is dropped.
    #[inline]
    pub(crate) fn drops(&self) -> bool {
        matches!(self.stage(), Stage::Over(_))
    }

    /// The statement has come to its end, with this tag (none: its portal was suspended).
    #[inline]
    pub(crate) fn ends(&mut self, tag: Option<&[u8]>) -> End {
        let Some(measured) = &mut self.0 else {
            return End::Passes;
        };
        (measured.rows, measured.bytes) = (0, 0);
        match measured.stage {
            Stage::Within => End::Passes,
            Stage::Over(exceeded) if tag.is_none_or(is_reading) => {
                measured.stage = Stage::Told(exceeded);
                End::Told(exceeded)
            }
            Stage::Over(exceeded) | Stage::Told(exceeded) => End::Fatal(exceeded),
        }
    }

    /// The statement has failed. What the client is told if it was because we cancelled it.
    pub(crate) fn fails(&mut self) -> Option<Exceeded> {
        match std::mem::take(self).stage() {
            Stage::Over(exceeded) => Some(exceeded),
            Stage::Within | Stage::Told(_) => None,
        }
    }

    /// Another message for the client comes, which is neither "ready" nor news of the server. `Some`:
    /// it belongs to something that the client takes for not done.
    #[inline]
    pub(crate) fn follows(&self) -> Option<Exceeded> {
        match self.stage() {
            Stage::Told(exceeded) => Some(exceeded),
            Stage::Within | Stage::Over(_) => None,
        }
    }

    /// The server is ready for something else.
    #[inline]
    pub(crate) fn ready(&mut self) {
        if let Some(measured) = &mut self.0 {
            **measured = Measured::default();
        }
    }

    #[inline]
    fn stage(&self) -> Stage {
        self.0
            .as_ref()
            .map_or(Stage::Within, |measured| measured.stage)
    }
}

/// Whether a statement with this tag has only read. One that calls a function that writes is not told
/// apart; the client is told that it was carried out.
fn is_reading(tag: &[u8]) -> bool {
    let word = tag.split(|byte| !byte.is_ascii_uppercase()).next();
    matches!(word, Some(b"SELECT" | b"FETCH" | b"SHOW" | b"COPY"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rows: Option<u64>, bytes: Option<u64>) -> Limits {
        Limits {
            result_rows_max: rows,
            result_bytes_max: bytes,
            ..Limits::default()
        }
    }

    #[test]
    fn what_fits_passes_and_the_rest_does_not() {
        let by_rows = limits(Some(2), None);
        let mut meter = Meter::default();
        assert_eq!(meter.takes(10, &by_rows), (true, None));
        assert_eq!(meter.takes(10, &by_rows), (true, None));
        assert_eq!(meter.ends(Some(b"SELECT 2")), End::Passes);
        // Each result has the whole of it.
        let rows = Exceeded {
            limit: Number::ResultRows,
            value: 2,
        };
        for expected in [
            (true, None),
            (true, None),
            (false, Some(rows)),
            (false, None),
        ] {
            assert_eq!(meter.takes(10, &by_rows), expected);
        }
        assert!(meter.drops());
        assert_eq!(meter.fails(), Some(rows));
        assert_eq!(meter.takes(10, &by_rows), (true, None), "it begins anew");

        let by_bytes = limits(None, Some(1024));
        let mut meter = Meter::default();
        assert_eq!(meter.takes(1024, &by_bytes), (true, None));
        let (passes, exceeded) = meter.takes(1, &by_bytes);
        assert!(!passes && exceeded.unwrap().limit == Number::ResultBytes);
    }

    #[test]
    fn what_was_done_is_told_and_what_follows_it_ends_the_session() {
        let one = limits(Some(1), None);
        let over = |tag: Option<&[u8]>| {
            let mut meter = Meter::default();
            meter.takes(1, &one);
            meter.takes(1, &one);
            let end = meter.ends(tag);
            (meter, end)
        };
        for tag in [&b"SELECT 7"[..], b"FETCH 7", b"COPY 7", b"SHOW"] {
            let (mut meter, end) = over(Some(tag));
            assert!(matches!(end, End::Told(_)), "{tag:?}");
            assert!(meter.follows().is_some());
            meter.ready();
            assert!(meter.follows().is_none());
        }
        assert!(matches!(over(None).1, End::Told(_)));
        for tag in [
            &b"INSERT 0 7"[..],
            b"UPDATE 7",
            b"DELETE 7",
            b"MERGE 7",
            b"CALL",
        ] {
            assert!(matches!(over(Some(tag)).1, End::Fatal(_)), "{tag:?}");
        }
    }
}
