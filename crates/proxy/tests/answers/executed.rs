//! EXECUTE of what came by the protocol and changes what is prepared, beside direct connections that are sent the same.

use crate::{
    end,
    kit::pair::{Pair, parse, run_prepared},
    start,
};
use model::Role;
use wire::message::build;

/// How a session executes what it has prepared as `change`.
#[derive(Clone, Copy, Debug)]
enum By {
    Query(&'static str),
    Protocol,
    Prepared,
}

impl By {
    fn run(self, pair: &mut Pair) {
        match self {
            Self::Query(sql) => {
                pair.query(sql);
            }
            Self::Protocol => {
                let mut bytes = Vec::new();
                build::parse(b"", b"EXECUTE change", &[], &mut bytes);
                build::bind_nothing(b"", b"", &mut bytes);
                build::execute(b"", 0, &mut bytes);
                build::sync(&mut bytes);
                pair.flight(format!("{self:?}"), &bytes, 1);
            }
            Self::Prepared => {
                pair.query("SELECT 1; EXPLAIN (COSTS OFF) EXECUTE one");
                run_prepared(pair, "change");
            }
        }
    }
}

/// What EXECUTE takes away is gone, and nothing else: not what other sessions have on that server connection.
#[tokio::test(flavor = "multi_thread")]
async fn what_execute_deallocates_is_gone_and_nobody_elses() {
    let (stack, tenant) = start().await;
    stack.set_route(&tenant, Role::Admin, |route| {
        route.limits.server_connections_max = 2;
    });
    const PROBE: &str = "SELECT timestamptz '2024-06-01 12:00'";
    tokio::task::block_in_place(|| {
        let mut beside = Pair::new(&stack, &tenant, "auto", &[]);
        parse(&mut beside, "one", PROBE);
        for by in [
            By::Query("EXECUTE change"),
            By::Query("EXECUTE /**/ change"),
            By::Query("SELECT 5; EXECUTE change"),
            By::Protocol,
            By::Prepared,
        ] {
            for change in [
                "DEALLOCATE ALL",
                "DEALLOCATE one",
                "DEALLOCATE change",
                "DEALLOCATE nobody",
                "DISCARD PLANS",
                "DISCARD ALL",
                "PREPARE one AS SELECT 3",
                "PREPARE more AS SELECT 3",
            ] {
                let mut pair = Pair::new(&stack, &tenant, "auto", &[]);
                for name in ["one", "other"] {
                    parse(&mut pair, name, PROBE);
                }
                parse(&mut pair, "change", change);
                pair.query("SET TimeZone TO 'Asia/Tokyo'");
                pair.log.push(change.to_owned());
                by.run(&mut pair);
                for _ in 0..2 {
                    for name in ["one", "other"] {
                        run_prepared(&mut beside, "one");
                        run_prepared(&mut pair, name);
                    }
                }
                pair.query("BEGIN");
                by.run(&mut pair);
                pair.query("COMMIT");
                for name in ["one", "other", "change", "more"] {
                    run_prepared(&mut pair, name);
                    parse(&mut pair, name, PROBE);
                    run_prepared(&mut pair, name);
                    run_prepared(&mut beside, "one");
                }
            }
        }
    });
    end(&stack).await;
}
