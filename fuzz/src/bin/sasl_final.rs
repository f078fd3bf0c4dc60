//! client-final-message, with the nonce of the exchange put where the input has `@`, so that what
//! lies behind the comparison is reached. Nobody comes in without the password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::scram::{ChannelBinding, Keys, server};

fuzz_target!(|bytes: &[u8]| {
    let Some((tls, message)) = bytes.split_first() else {
        return;
    };
    let (binding, mechanism, hello) = match tls % 3 {
        0 => (ChannelBinding::Unavailable, "SCRAM-SHA-256", "n,,n=,r=abc"),
        1 => (ChannelBinding::Unavailable, "SCRAM-SHA-256", "y,,n=,r=abc"),
        _ => (
            ChannelBinding::EndPoint(vec![7; 32]),
            "SCRAM-SHA-256-PLUS",
            "p=tls-server-end-point,,n=,r=abc",
        ),
    };
    let chosen = server::offer(binding)
        .choose(mechanism.as_bytes())
        .expect("it is on offer");
    let (state, answer) = chosen
        .on_first(hello.as_bytes(), &[1; 18], &[2; 16], 4096)
        .expect("well formed");
    let nonce = &answer[2..answer.find(',').expect("the salt comes next")];
    let mut whole = Vec::new();
    for byte in message {
        match byte {
            b'@' => whole.extend_from_slice(nonce.as_bytes()),
            byte => whole.push(*byte),
        }
    }
    if let Ok(proof) = state.on_final(&whole) {
        let keys = Keys {
            stored_key: [1; 32],
            server_key: [2; 32],
        };
        assert_eq!(proof.evaluate(&[keys]), None);
        assert_eq!(proof.evaluate(&[]), None);
    }
});
