//! Settings that are led back to what a session began with, wherever that is said.

use wire::message::{Kind, build};

use crate::{
    end,
    kit::pair::{Pair, parse, run_prepared},
    run, start,
};

/// `SET LOCAL … TO DEFAULT` leads to what the session began with, at once, and to the end of its transaction.
#[tokio::test(flavor = "multi_thread")]
async fn set_local_to_default_leads_to_what_the_session_began_with() {
    let (stack, tenant) = start().await;
    let startup = [
        ("DateStyle", "SQL"),
        ("search_path", "s2"),
        ("TimeZone", "Asia/Tokyo"),
    ];
    const PROBE: &str = "SELECT date '2024-06-01', v, timestamptz '2024-06-01 00:00+00', \
        current_setting('search_path') FROM t";
    tokio::task::block_in_place(|| {
        for mode in ["auto", "session"] {
            for is_by_query in [true, false] {
                let mut pair = Pair::new(&stack, &tenant, mode, &startup);
                for is_set in [false, true] {
                    for default in [
                        "SET LOCAL DateStyle = DEFAULT",
                        "SET LOCAL search_path TO DEFAULT",
                        "SET LOCAL TIME ZONE LOCAL",
                        "SET LOCAL work_mem TO DEFAULT",
                    ] {
                        pair.query(default);
                        pair.query(PROBE);
                        pair.query("BEGIN");
                        if is_set {
                            pair.query("SET DateStyle TO 'German'");
                            pair.query("SET LOCAL search_path TO s1");
                            pair.query("SET TimeZone TO 'America/New_York'");
                        }
                        if is_by_query {
                            pair.query(default);
                        } else {
                            run(&mut pair, default);
                        }
                        pair.query(PROBE);
                        pair.query("COMMIT");
                        pair.query(PROBE);
                        pair.query(&format!(
                            "BEGIN; SET DateStyle TO 'ISO'; SET LOCAL search_path TO s1; {default}; {PROBE}; COMMIT"
                        ));
                        pair.query("SET DateStyle TO 'Postgres'");
                    }
                }
                pair.same_settings();
            }
        }
    });
    end(&stack).await;
}

/// What is said so that settings lead back takes nothing from a transaction that has just begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_behind_begin_leaves_the_isolation_level_to_be_chosen() {
    let (stack, tenant) = start().await;
    let startup = [("DateStyle", "SQL"), ("work_mem", "2MB")];
    tokio::task::block_in_place(|| {
        for mode in ["auto", "session"] {
            let mut pair = Pair::new(&stack, &tenant, mode, &startup);
            for reset in [
                "RESET search_path",
                "RESET DateStyle",
                "SET LOCAL DateStyle TO DEFAULT",
                "SET DateStyle TO ISO; RESET ALL",
                "SET SESSION AUTHORIZATION DEFAULT",
            ] {
                pair.query(&format!("BEGIN; {reset}"));
                pair.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ");
                pair.query("SHOW transaction_isolation");
                pair.query("SHOW DateStyle");
                pair.query("COMMIT");
                pair.same_settings();
            }
        }
    });
    end(&stack).await;
}

/// A transaction may still become another kind of transaction behind a RESET of what the session began with.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_reset_a_transaction_may_still_become_another() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for (mode, path) in [
            ("auto", "s2"),
            ("session", "s2"),
            // Not as PostgreSQL writes it, so that no SET leads there.
            ("auto", "s2,s1"),
            ("session", "s2,s1"),
        ] {
            let startup = [("search_path", path), ("DateStyle", "SQL")];
            for begin in [
                &["BEGIN; RESET search_path"][..],
                &["BEGIN", "RESET search_path"],
                &["BEGIN; RESET ALL"],
                &["BEGIN", "RESET ALL"],
                &["BEGIN", "RESET DateStyle"],
                &["BEGIN", "SET search_path TO DEFAULT"],
                &["BEGIN", "SET LOCAL search_path TO DEFAULT"],
                &["BEGIN; SET LOCAL search_path TO DEFAULT"],
                &["SET DateStyle TO ISO; SET LOCAL IntervalStyle TO iso_8601; ROLLBACK; BEGIN"],
                &["BEGIN; SET LOCAL IntervalStyle TO iso_8601; ROLLBACK; BEGIN"],
            ] {
                if path.contains(',') && begin[0].contains(';') {
                    continue; // Among several statements of one query it is said at once.
                }
                for is_by_query in [true, false] {
                    let mut pair = Pair::new(&stack, &tenant, mode, &startup);
                    pair.query("SET search_path TO s1");
                    for sql in begin {
                        if is_by_query || sql.contains(';') {
                            pair.query(sql);
                        } else {
                            run(&mut pair, sql);
                        }
                    }
                    if is_by_query {
                        pair.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
                    } else {
                        run(&mut pair, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
                    }
                    pair.query("SHOW transaction_isolation");
                    pair.query("SHOW search_path");
                    pair.query("SELECT v FROM t");
                    pair.query("COMMIT");
                    pair.query("SELECT v FROM t");
                    // What is put off is there for whatever comes next, and gone where the transaction is.
                    for next in [
                        "SHOW search_path",
                        "SELECT v FROM t",
                        "SET TRANSACTION ISOLATION LEVEL; SELECT v FROM t",
                        "COMMIT",
                        "ROLLBACK",
                        "SET TRANSACTION ISOLATION LEVEL nonsense",
                        "SAVEPOINT a; SELECT 1/0",
                    ] {
                        pair.query("SET search_path TO s1");
                        begin.iter().for_each(|sql| drop(pair.query(sql)));
                        if is_by_query {
                            pair.query(next);
                        } else if !next.contains(';') {
                            run(&mut pair, next);
                        }
                        pair.query("ROLLBACK");
                        pair.same_settings();
                        run(&mut pair, "SELECT v FROM t");
                    }
                }
            }
        }
    });
    end(&stack).await;
}

/// EXECUTE of a statement that came by the protocol leads back to what the session began with, as the statement itself does.
#[tokio::test(flavor = "multi_thread")]
async fn execute_of_a_prepared_reset_leads_back_to_what_the_session_began_with() {
    let (stack, tenant) = start().await;
    let startup = [("DateStyle", "SQL"), ("search_path", "s2")];
    tokio::task::block_in_place(|| {
        for sql in [
            "RESET ALL",
            "RESET DateStyle",
            "SET LOCAL DateStyle TO DEFAULT",
        ] {
            for begin in ["", "BEGIN"] {
                for (mode, hands_over) in [
                    ("auto", ""),
                    ("auto", "SELECT 1; DEALLOCATE none"),
                    ("session", ""),
                ] {
                    let mut pair = Pair::new(&stack, &tenant, mode, &startup);
                    parse(&mut pair, "resets", sql);
                    pair.query(hands_over);
                    pair.query("SET DateStyle TO 'German'");
                    pair.query(begin);
                    pair.query("EXECUTE resets");
                    pair.query("SELECT '01/02/2003'::date, current_setting('search_path')");
                    pair.query("COMMIT");
                    pair.query("SET DateStyle TO 'German'");
                    pair.query(begin);
                    run(&mut pair, "EXECUTE resets");
                    pair.query("SELECT '01/02/2003'::date, current_setting('search_path')");
                    pair.query("COMMIT");
                    pair.same_settings();
                }
            }
        }
    });
    end(&stack).await;
}

/// What a session began with is led back to at once also behind a RESET ALL that was prepared by name, where its server
/// connection has that name.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_reset_that_was_handed_over_leads_back_at_once() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for hands_over in [
            "DEALLOCATE none; SET synchronous_commit TO on",
            "DISCARD PLANS",
            "SELECT 1; EXECUTE other",
        ] {
            for is_behind in [false, true] {
                let startup = [("client_encoding", "LATIN1"), ("work_mem", "2MB")];
                let mut pair = Pair::new(&stack, &tenant, "auto", &startup);
                parse(&mut pair, "other", "SELECT 2");
                if is_behind {
                    pair.query(hands_over);
                }
                parse(&mut pair, "resets", "RESET ALL");
                pair.query(hands_over);
                pair.query("SET work_mem TO '3MB'");
                for _ in 0..2 {
                    let mut bytes = Vec::new();
                    for name in [&b"resets"[..], b"other", b"resets"] {
                        build::bind_nothing(b"p", name, &mut bytes);
                        build::describe(Kind::Portal, b"p", &mut bytes);
                        build::execute(b"p", 0, &mut bytes);
                        build::close(Kind::Portal, b"p", &mut bytes);
                    }
                    build::sync(&mut bytes);
                    build::query("SHOW work_mem", &mut bytes);
                    pair.flight("resets, other, resets".to_owned(), &bytes, 2);
                    pair.same_settings();
                }
                pair.query("DEALLOCATE resets");
                parse(&mut pair, "resets", "SELECT 5");
                pair.query("SET work_mem TO '4MB'");
                run_prepared(&mut pair, "resets");
                pair.query("SHOW work_mem");
            }
        }
    });
    end(&stack).await;
}

/// A word in a comment leads nothing back: what the session has emptied stays empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_comment_about_a_reset_resets_nothing() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for mode in ["auto", "session"] {
            for comment in ["-- DISCARD ALL\n", "/* reset */ ", ";; -- TO DEFAULT\n"] {
                let mut pair = Pair::new(&stack, &tenant, mode, &[("app.one", "begun")]);
                pair.query(&format!(
                    "{comment}SELECT g, set_config('app.one', '', false) FROM generate_series(1, 2) g"
                ));
                pair.query("SHOW app.one");
                pair.query(&format!("{comment}SELECT 1"));
                pair.query("SHOW app.one");
            }
        }
    });
    end(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_nothing_lead_back_to_what_the_session_began_with() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for sql in [
            "SET NAMES",
            "SET NAMES; SELECT 1",
            "SELECT 1; SET NAMES DEFAULT; SELECT 2",
            "SET NAMES; CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 42'; COMMIT AND NO CHAIN; SELECT 3",
            "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 42'; COMMIT AND NO CHAIN; SELECT 3",
            "SET client_encoding TO DEFAULT; COMMIT AND NO CHAIN; SELECT 3",
            "RESET client_encoding; COMMIT; SELECT 3",
        ] {
            let mut pair = Pair::new(&stack, &tenant, "auto", &[("client_encoding", "LATIN1")]);
            pair.query(sql);
            pair.same_settings();
            pair.query("SET client_encoding TO UTF8");
            pair.query(sql);
            pair.same_settings();
        }
    });
}

/// The last of several statements is told to have ended when their transaction has, which may still fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_at_the_end_of_what_fails_at_its_commit_is_not_told_to_be_done() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for mode in ["auto", "session"] {
            let startup = [("work_mem", "2MB"), ("DateStyle", "SQL")];
            let mut pair = Pair::new(&stack, &tenant, mode, &startup);
            for reset in [
                "RESET ALL",
                "RESET work_mem",
                "SET SESSION AUTHORIZATION DEFAULT",
            ] {
                // Its rows are read at the commit: the only text is as long as that.
                for length in [4, 3] {
                    let hold = format!(
                        "DECLARE c CURSOR WITH HOLD FOR SELECT 1/(length(v) - {length}) FROM s1.t"
                    );
                    pair.query("SET work_mem TO '3MB'");
                    pair.query(&format!("{hold}; {reset}"));
                    pair.query("SHOW work_mem");
                    pair.query(&format!("CLOSE ALL; {hold}; {reset}; SELECT 1"));
                    pair.query(&format!("CLOSE ALL; BEGIN; {hold}; COMMIT; {reset}"));
                    pair.query("ROLLBACK; CLOSE ALL");
                }
            }
            pair.same_settings();
        }
    });
    end(&stack).await;
}

/// What leads back, and waits for more of a transaction, is not said where that fails meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_led_back_in_a_transaction_that_failed_in_the_same_flight() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for mode in ["auto", "session"] {
            let mut pair = Pair::new(&stack, &tenant, mode, &[("bytea_output", "escape")]);
            for fails in [
                "SELECT set_config('work_mem', '1MB', 1 > 2), set_config(is_local => 'f')",
                "RESET bytea_output; SELECT 1/0",
                "RESET bytea_output; RESET nothing_like_it",
            ] {
                pair.query("BEGIN");
                let mut bytes = Vec::new();
                build::sync(&mut bytes);
                build::query(fails, &mut bytes);
                build::execute(b"", 0, &mut bytes);
                build::sync(&mut bytes);
                pair.flight(format!("{fails}, and no portal"), &bytes, 3);
                pair.query("ROLLBACK");
                pair.same_settings();
            }
        }
    });
    end(&stack).await;
}

/// A RESET ALL by name that is there under that name leads back before the client is told of any parameter.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_was_shown_leads_back_before_anything_is_told() {
    let (stack, tenant) = start().await;
    tokio::task::block_in_place(|| {
        for _ in 0..10 {
            let startup = [("client_encoding", "LATIN1"), ("work_mem", "2MB")];
            let mut pair = Pair::new(&stack, &tenant, "auto", &startup);
            parse(&mut pair, "s3", "RESET ALL");
            pair.query("SELECT name FROM pg_catalog.pg_prepared_statements ORDER BY 1");
            let mut bytes = Vec::new();
            build::bind_nothing(b"p1", b"s3", &mut bytes);
            build::execute(b"p1", 2, &mut bytes);
            build::sync(&mut bytes);
            build::query("BEGIN ISOLATION LEVEL SERIALIZABLE", &mut bytes);
            let seen = pair.flight("s3, and BEGIN".to_owned(), &bytes, 2);
            assert!(seen.iter().all(|(kind, _)| *kind != b'S'), "{seen:?}");
            pair.query("COMMIT");
        }
    });
    end(&stack).await;
}
