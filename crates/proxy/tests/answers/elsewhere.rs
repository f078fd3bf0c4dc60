//! What a session prepared under other settings than it has now, beside direct connections that are sent the same. No
//! session gets the same server connection twice running.

use crate::{
    end,
    kit::pair::{Pair, parse, run_prepared},
    start,
};
use wire::message::build;

const PROBE: &str = "SELECT timestamptz '2024-06-01 12:00', bytea '\\x41ff'";

fn prepare(name: &str, sql: &str, bytes: &mut Vec<u8>) {
    build::parse(name.as_bytes(), sql.as_bytes(), &[], bytes);
}

fn use_it(name: &str, bytes: &mut Vec<u8>) {
    build::bind_nothing(b"", name.as_bytes(), bytes);
    build::execute(b"", 0, bytes);
}

/// Where a transaction ends and nobody knows which settings are in force then, the unnamed statement that was prepared
/// there stays, and those with names are made under the settings of then: also for what was sent already.
#[tokio::test(flavor = "multi_thread")]
async fn the_unnamed_statement_stays_while_others_are_made_under_their_settings() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for (inside, end) in [
            ("SET TimeZone TO 'America/New_York'", "COMMIT"),
            (
                "SET statement_timeout TO '50ms'; SET DateStyle TO 'German'",
                "COMMIT",
            ),
            ("SET TimeZone TO 'America/New_York'", "ROLLBACK"),
            // It fails, and takes the transaction with it.
            ("DISCARD ALL", "ROLLBACK"),
        ] {
            for is_one_flight in [false, true] {
                let startup = [("DateStyle", "SQL"), ("search_path", "public")];
                let mut pair = Pair::new(&stack, &tenant, "auto", &startup);
                parse(&mut pair, "end", end);
                parse(&mut pair, "first", PROBE);
                pair.query("SET TimeZone TO 'Asia/Tokyo'");
                parse(&mut pair, "second", PROBE);
                pair.query("SET bytea_output TO escape");
                parse(&mut pair, "third", PROBE);
                pair.query("BEGIN");
                pair.query(inside);
                let mut flights = vec![(Vec::new(), 1)];
                let bytes = &mut flights[0].0;
                use_it("end", bytes);
                prepare("", PROBE, bytes);
                use_it("", bytes);
                build::sync(bytes);
                for names in [["", "first"], ["second", ""], ["third", ""]] {
                    let mut bytes = Vec::new();
                    for name in names {
                        use_it(name, &mut bytes);
                    }
                    build::sync(&mut bytes);
                    flights.push((bytes, 1));
                }
                if is_one_flight {
                    let all: Vec<_> = flights
                        .iter()
                        .flat_map(|(bytes, _)| bytes.clone())
                        .collect();
                    flights = vec![(all, flights.len())];
                }
                for (bytes, readies) in flights {
                    let what = format!("{inside}, {end}, in one flight: {is_one_flight}");
                    pair.flight(what, &bytes, readies);
                }
                pair.same_settings();
                for name in ["", "first", "second", "third", ""] {
                    run_prepared(&mut pair, name);
                }
            }
        }
    });
    end(&stack).await;
}
