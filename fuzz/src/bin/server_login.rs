//! A hostile server that we log in to. It does not know the password, so we never are ready.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{
    login::{
        SERVER_BODY_BYTES_MAX,
        server::{self, Accept, Credentials, Step},
    },
    message,
    scram::ChannelBinding,
    startup::Protocol,
};

fuzz_target!(|bytes: &[u8]| {
    let credentials = Credentials {
        user: "a".into(),
        password: "secret".to_owned().into(),
        cached: None,
        binding: ChannelBinding::Unavailable,
        accept: Accept::default(),
    };
    let out = &mut Vec::new();
    let mut login = server::start(credentials, Protocol::V3_2, &[], [1; 18], out);
    let mut rest = bytes;
    while let Ok(Some(message)) = message::split(rest, SERVER_BODY_BYTES_MAX) {
        // Hashing a hundred thousand times is allowed, and of no interest here.
        if many_iterations(message.body) {
            return;
        }
        rest = &rest[message.size()..];
        match login.on(message, out) {
            Ok(Step::Continue(next)) => login = next,
            Ok(Step::Ready(_)) => panic!("ready for a server that proved nothing"),
            Err(_) => return,
        }
    }
});

fn many_iterations(body: &[u8]) -> bool {
    let digits = body.windows(3).position(|at| at == b",i=");
    digits.is_some_and(|at| {
        body[at + 3..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count()
            > 2
    })
}
