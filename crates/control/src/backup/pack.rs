//! A dump and its manifest as the frames of a backup, and back: compressed, in constant memory.
//!
//! Owns: the order of things inside a backup. Does not own: frames (`seal`), or where the bytes go.

use node::Manifest;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::seal::{FRAME_MAX, Frame, Kind, Opener, Refused, Sealer};

/// Of zstd: 3 is its default, some hundred MB/s of one core.
const LEVEL: i32 = 3;
/// A manifest of as many objects as there may be has some ten MB.
const MANIFEST_MAX: usize = 256 << 20;
/// What is unpacked at once, however well it was packed.
const PIECE: usize = 256 << 10;

/// Makes a backup.
pub(crate) struct Packer {
    sealer: Sealer,
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    ready: Vec<u8>,
}

impl Packer {
    pub(crate) fn new(sealer: Sealer, head: Vec<u8>) -> Self {
        let encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL)
            .expect("memory for a compressor of the default level");
        Self {
            sealer,
            encoder,
            ready: head,
        }
    }

    /// More of the dump.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        use std::io::Write as _;
        self.encoder
            .write_all(bytes)
            .expect("writing into memory does not fail");
        let packed = self.encoder.get_mut();
        let mut taken = 0;
        while packed.len() - taken >= FRAME_MAX {
            let text = &packed[taken..taken + FRAME_MAX];
            self.sealer.seal(Kind::Data, false, text, &mut self.ready);
            taken += FRAME_MAX;
        }
        packed.drain(..taken);
    }

    /// The dump is complete, and so is the backup.
    pub(crate) fn end(mut self, manifest: &Manifest) -> Vec<u8> {
        let packed = self
            .encoder
            .finish()
            .expect("writing into memory does not fail");
        for text in packed.chunks(FRAME_MAX) {
            self.sealer.seal(Kind::Data, false, text, &mut self.ready);
        }
        let manifest = serde_json::to_vec(manifest).expect("a manifest is plain data");
        let manifest = zstd::stream::encode_all(&manifest[..], LEVEL)
            .expect("writing into memory does not fail");
        let mut texts = manifest.chunks(FRAME_MAX).peekable();
        while let Some(text) = texts.next() {
            let is_last = texts.peek().is_none();
            self.sealer
                .seal(Kind::Manifest, is_last, text, &mut self.ready);
        }
        self.ready
    }

    /// What is ready to be written, taken away.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ready)
    }
}

/// Reads a backup.
pub(crate) struct Unpacker {
    opener: Opener,
    decoder: Decoder<'static>,
    manifest: Vec<u8>,
    piece: Vec<u8>,
    /// How much of it holds the last piece.
    filled: usize,
    /// A frame that is being unpacked, and how far.
    frame: Option<(Vec<u8>, usize)>,
}

impl Unpacker {
    pub(crate) fn new(opener: Opener) -> Self {
        Self {
            opener,
            decoder: Decoder::new().expect("memory for a decompressor"),
            manifest: Vec::new(),
            piece: vec![0; PIECE],
            filled: 0,
            frame: None,
        }
    }

    /// More bytes; then [`Self::has_next`] until there is nothing.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.opener.put(bytes);
    }

    /// Whether there is a next piece of the dump: [`Self::piece`].
    pub(crate) fn has_next(&mut self) -> Result<bool, Refused> {
        loop {
            if let Some((text, at)) = &mut self.frame {
                let mut input = InBuffer::around(text.get(*at..).unwrap_or_default());
                let mut output = OutBuffer::around(self.piece.as_mut_slice());
                self.decoder
                    .run(&mut input, &mut output)
                    .map_err(|_| Refused::Damaged)?;
                let (read, written) = (input.pos(), output.pos());
                *at += read;
                // Full to the brim: there may be more in the decoder.
                if *at == text.len() && written < PIECE {
                    self.frame = None;
                } else if read == 0 && written == 0 {
                    return Err(Refused::Damaged);
                }
                if written > 0 {
                    self.filled = written;
                    return Ok(true);
                }
                continue;
            }
            match self.opener.next()? {
                None => return Ok(false),
                Some(Frame {
                    kind: Kind::Data,
                    text,
                }) => self.frame = Some((text, 0)),
                Some(Frame {
                    kind: Kind::Manifest,
                    text,
                }) => {
                    if self.manifest.len() + text.len() > MANIFEST_MAX {
                        return Err(Refused::Damaged);
                    }
                    self.manifest.extend_from_slice(&text);
                }
            }
        }
    }

    /// The piece that [`Self::has_next`] found.
    pub(crate) fn piece(&self) -> Option<&[u8]> {
        self.piece.get(..self.filled)
    }

    /// All bytes were put in, and all pieces taken.
    pub(crate) fn end(self) -> Result<Manifest, Refused> {
        self.opener.end()?;
        let manifest =
            zstd::stream::decode_all(&self.manifest[..]).map_err(|_| Refused::Damaged)?;
        serde_json::from_slice(&manifest).map_err(|_| Refused::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use node::LargeSum;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            source: "abcdefghijkl".to_owned(),
            logins: vec!["_admin".to_owned()],
            server_version: 150_018,
            objects: Vec::new(),
            tables: Vec::new(),
            sequences: Vec::new(),
            large: LargeSum::default(),
        }
    }

    fn round_trip(dump: &[u8], piece: usize) {
        let key = Zeroizing::new([7; 32]);
        let (tenant, backup) = (
            "abcdefghijkl".parse().unwrap(),
            "bkp_abcdefghijkl".parse().unwrap(),
        );
        let (sealer, head) = Sealer::new(&key, &tenant, &backup);
        let mut packer = Packer::new(sealer, head);
        let mut packed = Vec::new();
        for piece in dump.chunks(piece) {
            packer.put(piece);
            packed.extend(packer.take());
        }
        packed.extend(packer.end(&manifest()));
        let mut unpacker = Unpacker::new(Opener::new(&key, &tenant, &backup));
        let mut back = Vec::new();
        for piece in packed.chunks(piece) {
            unpacker.put(piece);
            while unpacker.has_next().unwrap() {
                let piece = unpacker.piece().unwrap();
                assert!(piece.len() <= PIECE);
                back.extend_from_slice(piece);
            }
        }
        assert!(back == dump, "{} of {} bytes", back.len(), dump.len());
        assert_eq!(unpacker.end().unwrap(), manifest());
    }

    #[test]
    fn very_small_and_very_compressible_dumps_come_back() {
        round_trip(b"", 1);
        round_trip(b"x", 1);
        round_trip(&vec![0; 40 << 20], 1 << 20);
    }

    #[test]
    fn a_dump_of_several_frames_comes_back() {
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .take(3 * FRAME_MAX + 17)
        .collect();
        round_trip(&noise, 64 << 10);
    }

    proptest! {
        #[test]
        fn any_dump_comes_back(dump in proptest::collection::vec(any::<u8>(), 0..5000), piece in 1_usize..700) {
            round_trip(&dump, piece);
        }
    }
}
