//! The startup parameter `options`: settings that were read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::startup::Options;

fuzz_target!(|text: &str| {
    let Ok(options) = Options::parse(text) else {
        return;
    };
    let mut again = String::new();
    for (name, value) in &options.settings {
        again.push_str(" -c ");
        for c in format!("{name}={value}").chars() {
            again.extend(['\\', c]);
        }
    }
    assert_eq!(Options::parse(&again), Ok(options));
});
