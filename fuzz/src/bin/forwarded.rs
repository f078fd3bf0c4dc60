//! The header that load balancers send: what it says must not depend on how many pieces it came in,
//! and nothing behind it is touched.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::forwarded::{HEADER_BYTES_MAX, split};

fuzz_target!(|bytes: &[u8]| {
    let whole = split(bytes);
    for end in 0..bytes.len() {
        match split(&bytes[..end]) {
            Ok(None) => assert!(end < HEADER_BYTES_MAX),
            early => {
                assert_eq!(early, whole, "after {end} bytes");
                break;
            }
        }
    }
    if let Ok(Some((size, _))) = whole {
        assert!(size <= bytes.len());
        assert_eq!(split(&bytes[..size]), whole);
    }
});
