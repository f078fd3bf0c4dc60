//! A whole conversation of a client that logs in, in pieces of one message each. Nobody comes in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{
    login::{
        CLIENT_BODY_BYTES_MAX,
        client::{AfterInitial, AwaitStartup, Began, Seed},
    },
    message,
    scram::{ChannelBinding, Keys},
    startup::first_packet,
};

const SEED: Seed = Seed {
    nonce: [1; 18],
    salt: [2; 16],
    iterations: 4096,
};

fuzz_target!(|bytes: &[u8]| {
    let _ = converse(bytes);
});

/// `None` where the conversation ends, for whatever reason.
fn converse(mut bytes: &[u8]) -> Option<()> {
    let (flags, rest) = bytes.split_first()?;
    bytes = rest;
    let mut state = AwaitStartup::new(flags & 1 == 1);
    let asked = loop {
        // A request for encryption stands alone; what follows it here came after the answer.
        let piece = bytes.get(..8).filter(|_| first_packet(bytes).is_err());
        let (size, first) = first_packet(piece.unwrap_or(bytes)).ok()??;
        bytes = &bytes[size.max(1)..];
        state = match state.on(first).ok()? {
            Began::Answer { state, .. } | Began::DirectTls(state) => state,
            Began::Cancel(_) => return None,
            Began::Asked(asked) => break asked,
        };
    };
    let binding = match flags & 2 {
        0 => ChannelBinding::Unavailable,
        _ => ChannelBinding::EndPoint(vec![7; 32]),
    };
    let mut next = || {
        let message = message::split(bytes, CLIENT_BODY_BYTES_MAX).ok()??;
        bytes = &bytes[message.size()..];
        Some(message)
    };
    let out = &mut Vec::new();
    let last = match asked.challenge(binding, out).on(next()?, &SEED, out).ok()? {
        AfterInitial::First(state) => state.on(next()?, &SEED, out).ok()?,
        AfterInitial::Final(state) => state,
    };
    let proved = last.on(next()?).ok()?;
    let keys = Keys {
        stored_key: [1; 32],
        server_key: [2; 32],
    };
    assert_eq!(proved.evaluate(&[keys]), None);
    Some(())
}
