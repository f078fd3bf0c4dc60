//! SASLInitialResponse and the client-first-message in it. The first byte says whether TLS is
//! there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{
    message::parse,
    scram::{ChannelBinding, server},
};

fuzz_target!(|bytes: &[u8]| {
    let Some((tls, body)) = bytes.split_first() else {
        return;
    };
    let binding = match tls & 1 {
        0 => ChannelBinding::Unavailable,
        _ => ChannelBinding::EndPoint(vec![7; 32]),
    };
    let Ok((mechanism, data)) = parse::sasl_initial_response(body) else {
        return;
    };
    let Ok(chosen) = server::offer(binding).choose(mechanism) else {
        return;
    };
    let data = data.unwrap_or_default();
    if let Ok((_, answer)) = chosen.on_first(data, &[1; 18], &[2; 16], 4096) {
        let theirs = answer.strip_prefix("r=").expect("the nonce comes first");
        let (nonce, rest) = theirs.split_once(',').expect("the salt comes next");
        assert!(nonce.ends_with(&"AQEB".repeat(6)) && nonce.len() > 24);
        assert_eq!(rest, "s=AgICAgICAgICAgICAgICAg==,i=4096");
    }
});
