//! Finding where messages begin and end in bytes that arrive in pieces.
//!
//! Owns: the five-byte header and how far into a body the last piece reached. Does not own: the
//! bytes, which stay where they were read, or what a message means. Nothing is copied and nothing
//! is allocated: a message of 1 GB costs the same as one of five bytes.

/// Header of a message: one byte for its kind, four for its length, which counts itself.
pub const HEADER: usize = 5;

/// A header that was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// First byte.
    pub kind: u8,
    /// Bytes of the body, 0 to 2 GB.
    pub body: usize,
}

/// A length below four: whatever this is, it is not the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a message says it is shorter than its own length")]
pub struct BadLength;

/// Reads the header at the start of `bytes`; `None` when not all of it is there.
///
/// # Errors
///
/// [`BadLength`] when the length is less than four or more than 2 GB.
#[inline]
pub fn head(bytes: &[u8]) -> Result<Option<Head>, BadLength> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    if length < 4 {
        return Err(BadLength);
    }
    Ok(Some(Head {
        kind: header[0],
        body: length as usize - 4,
    }))
}

/// How far one direction of a connection has come.
///
/// For every piece: [`Self::begin`], then [`head`] and [`Self::pass`] until no whole header is
/// left. What is left (fewer than [`HEADER`] bytes, or a message the caller wants whole) is put in
/// front of the next piece by the caller.
#[derive(Debug, Default)]
pub struct Frames {
    /// Bytes still to come of the last message passed.
    left: usize,
}

impl Frames {
    /// Where the first header of a piece of `len` bytes is: behind the rest of the last message.
    #[inline]
    pub fn begin(&mut self, len: usize) -> usize {
        let rest = self.left.min(len);
        self.left -= rest;
        rest
    }

    /// Passes the message whose `head` is at `at` in a piece of `len` bytes. Returns where the
    /// next header is, or `len` when the message goes on in the next piece.
    #[inline]
    pub fn pass(&mut self, at: usize, head: Head, len: usize) -> usize {
        let end = at + HEADER + head.body;
        if end <= len {
            end
        } else {
            self.left = end - len;
            len
        }
    }

    /// Whether the next byte is the first of a message.
    #[inline]
    pub fn is_between(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend((body.len() as u32 + 4).to_be_bytes());
        out.extend(body);
        out
    }

    /// Feeds pieces the way a caller does; returns the kinds and body lengths seen.
    fn scan<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<(u8, usize)> {
        let mut frames = Frames::default();
        let mut seen = Vec::new();
        let mut kept: Vec<u8> = Vec::new();
        for piece in pieces {
            kept.extend(piece);
            let mut at = frames.begin(kept.len());
            while let Some(head) = head(&kept[at..]).unwrap() {
                seen.push((head.kind, head.body));
                at = frames.pass(at, head, kept.len());
            }
            kept.drain(..at);
            assert!(kept.len() < HEADER);
        }
        assert!(kept.is_empty() && frames.is_between());
        seen
    }

    #[test]
    fn a_stream_split_at_every_pair_of_bytes_reads_the_same() {
        let mut stream = Vec::new();
        let mut want = Vec::new();
        for (kind, len) in [
            (b'Q', 9),
            (b'S', 0),
            (b'd', 1),
            (b'D', 4),
            (b'Z', 1),
            (b'H', 0),
        ] {
            stream.extend(message(kind, &vec![0x53; len]));
            want.push((kind, len));
        }
        for i in 0..=stream.len() {
            for j in i..=stream.len() {
                let pieces = [&stream[..i], &stream[i..j], &stream[j..]];
                assert_eq!(scan(pieces.into_iter()), want, "split at {i} and {j}");
            }
        }
        assert_eq!(scan(stream.chunks(1)), want);
    }

    #[test]
    fn a_length_that_cannot_be_is_refused() {
        for length in [0u32, 3, 0x8000_0000, u32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(head(&bytes), Err(BadLength), "{length}");
        }
        assert_eq!(head(b"Q\0\0\0"), Ok(None));
        let longest = head(&[b'd', 0x7f, 0xff, 0xff, 0xff]).unwrap().unwrap();
        assert_eq!(longest.body, 0x7fff_ffff - 4);
    }
}
