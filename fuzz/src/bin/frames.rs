//! Finding messages in a stream: the same ones, in however many pieces the bytes come. The first
//! byte says how long the pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{
    frame::{BadLength, Frames, head},
    message,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((step, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = kinds(bytes, bytes.len().max(1));
    let pieces = kinds(bytes, usize::from(*step).max(1));
    assert_eq!(whole, pieces);
    // And by the reader of single messages, as far as they are whole.
    let (mut rest, mut seen) = (bytes, Vec::new());
    while let Ok(Some(message)) = message::split(rest, u32::MAX) {
        seen.push(message.tag);
        rest = &rest[message.size()..];
    }
    assert!(whole.0.starts_with(&seen));
});

/// Kinds of the messages that began, and whether the stream is still in step.
fn kinds(bytes: &[u8], step: usize) -> (Vec<u8>, Result<(), BadLength>) {
    let mut frames = Frames::default();
    let mut kinds = Vec::new();
    let mut kept = Vec::new();
    for piece in bytes.chunks(step) {
        kept.extend_from_slice(piece);
        let mut at = frames.begin(kept.len());
        loop {
            match head(&kept[at..]) {
                Err(error) => return (kinds, Err(error)),
                Ok(None) => break,
                Ok(Some(head)) => {
                    kinds.push(head.kind);
                    at = frames.pass(at, head, kept.len());
                }
            }
        }
        kept.drain(..at);
    }
    (kinds, Ok(()))
}
