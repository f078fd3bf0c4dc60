//! The first packet of a connection, noise and HTTP included: what it is must not depend on how
//! many pieces it came in, and is decided by the eighth byte unless it is a packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::startup::{First, first_packet};

fuzz_target!(|bytes: &[u8]| {
    let whole = first_packet(bytes);
    for end in 0..bytes.len() {
        match first_packet(&bytes[..end]) {
            Ok(None) => {}
            // Requests for encryption and handshakes go by what was there when they were read.
            Ok(Some((_, First::Ssl | First::Gss | First::DirectTls))) => return,
            early => {
                assert_eq!(early, whole, "after {end} bytes");
                break;
            }
        }
    }
    match whole {
        Ok(Some((size, first))) => {
            assert!(size <= bytes.len());
            if let First::Startup(startup) = first {
                assert!(!startup.user.is_empty() && !startup.database.is_empty());
                let _ = (startup.spoken(), startup.must_negotiate());
                let _ = startup.options();
            }
        }
        Ok(None) if bytes.len() >= 8 => assert_eq!(bytes[..2], [0, 0]),
        Ok(None) | Err(_) => {}
    }
});
