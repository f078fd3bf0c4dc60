//! What a statement returns, as far as whoever reads its rows has to know.
//!
//! Owns: telling whether two descriptions are of the same columns. Does not own: who was told which (`prepared`,
//! `statements`).
//!
//! PostgreSQL keeps for each prepared statement the columns that it had when it was prepared, and refuses to run it when
//! they would be others ("cached plan must not change result type"; `src/backend/utils/cache/plancache.c`): its client
//! reads rows as they were described once. Prepared again on another server connection it would be run.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Columns of a result. The few bytes of a hash: at worst, two of the same tenant's are taken for one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shape(u64);

impl Shape {
    /// Not known, so that nothing can be said of it.
    pub(crate) const UNKNOWN: Self = Self(0);
    /// No columns.
    const NOTHING: Self = Self(1);

    /// As the server describes it in a message of this kind: RowDescription or NoData.
    pub(crate) fn of(kind: u8, body: Option<&[u8]>) -> Self {
        if kind == b'n' {
            return Self::NOTHING;
        }
        let mut hasher = DefaultHasher::new();
        match body.and_then(|body| hash_columns(body, &mut hasher)) {
            Some(()) => Self(hasher.finish().max(2)),
            None => Self::UNKNOWN,
        }
    }

    /// Whether rows of one cannot be read as rows of the other.
    pub(crate) fn differs(self, other: Self) -> bool {
        self != other && self != Self::UNKNOWN && other != Self::UNKNOWN
    }
}

/// Name, type and modifier of each, which is what PostgreSQL compares. Not the table that it is from, which may have
/// been made anew, nor the format, which is for each Bind to say.
fn hash_columns(body: &[u8], hasher: &mut DefaultHasher) -> Option<()> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    count.hash(hasher);
    for _ in 0..u16::from_be_bytes(*count) {
        let end = memchr::memchr(0, rest)?;
        rest[..end].hash(hasher);
        let (_table, behind) = rest[end + 1..].split_first_chunk::<6>()?;
        let (of_type, behind) = behind.split_first_chunk::<10>()?;
        of_type.hash(hasher);
        let (_format, behind) = behind.split_first_chunk::<2>()?;
        rest = behind;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(columns: &[(&str, u32, u32, u16)]) -> Shape {
        let mut body = (columns.len() as u16).to_be_bytes().to_vec();
        for (name, table, of_type, format) in columns {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.extend_from_slice(&table.to_be_bytes());
            body.extend_from_slice(&1_u16.to_be_bytes());
            body.extend_from_slice(&of_type.to_be_bytes());
            body.extend_from_slice(&4_u16.to_be_bytes());
            body.extend_from_slice(&(-1_i32).to_be_bytes());
            body.extend_from_slice(&format.to_be_bytes());
        }
        Shape::of(b'T', Some(&body))
    }

    #[test]
    fn differs_where_rows_would_be_read_otherwise() {
        let one = described(&[("n", 1, 23, 0)]);
        for same in [described(&[("n", 2, 23, 0)]), described(&[("n", 1, 23, 1)])] {
            assert!(!one.differs(same));
        }
        for other in [
            described(&[("n", 1, 25, 0)]),
            described(&[("m", 1, 23, 0)]),
            described(&[("n", 1, 23, 0), ("n", 1, 23, 0)]),
            described(&[]),
            Shape::of(b'n', Some(b"")),
        ] {
            assert!(one.differs(other) && other.differs(one));
        }
        // Cut off, or too large to be looked into.
        for unknown in [Some(&b"\0\x01n\0"[..]), None] {
            assert!(!one.differs(Shape::of(b'T', unknown)));
        }
    }
}
