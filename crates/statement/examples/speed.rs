//! How long a reading takes, and writing the shape: `cargo run --release -p statement --example speed`.

use std::{hint::black_box, time::Instant};

use statement::{Context, Encoding, Excerpt, Strings, normalise, read};

const TEXTS: [&str; 7] = [
    "SELECT 1",
    "SELECT abalance FROM pgbench_accounts WHERE aid = 1234567;",
    "UPDATE pgbench_accounts SET abalance = abalance + -1234 WHERE aid = 1234567;",
    "SELECT u.id, u.name, count(*) FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = $1 GROUP BY 1",
    "INSERT INTO events (id, at, kind, body) VALUES ($1, now(), lower($2), coalesce($3, '{}')) RETURNING id",
    "SELECT set_config('request.jwt.claims', $1, true), set_config('role', $2, true)",
    "SET statement_timeout = '30s'",
];
const ROUNDS: u32 = 20_000;
/// The best of so many is told: what a busy machine adds is not ours.
const TRIES: u32 = 50;

fn main() {
    let context = Context {
        strings: Strings::Standard,
        encoding: Encoding::AsciiSafe,
    };
    let mut shape = Vec::new();
    for text in TEXTS {
        let reading = best(|| {
            black_box(read(black_box(text.as_bytes()), context));
        });
        let normalising = best(|| {
            let excerpt = Excerpt {
                bytes: black_box(text.as_bytes()),
                is_whole: true,
                encoding: Encoding::AsciiSafe,
            };
            black_box(normalise(excerpt, &mut shape));
        });
        let length = text.len();
        println!("{reading:>5} and {normalising:>5} ns for {length:>3} bytes: {text}");
    }
}

/// Nanoseconds that one call takes.
fn best(mut call: impl FnMut()) -> u128 {
    let took = (0..TRIES).map(|_| {
        let started = Instant::now();
        for _ in 0..ROUNDS {
            call();
        }
        started.elapsed()
    });
    (took.min().unwrap_or_default() / ROUNDS).as_nanos()
}
