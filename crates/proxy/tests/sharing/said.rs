//! Cases in which the text says what is done.

use crate::case::*;

/// What a text says itself.
pub(crate) fn said() -> Vec<Case> {
    let set = "SELECT set_config('work_mem', '77MB', false)";
    vec![
        case("SET", "", &[Query("SET work_mem TO '77MB'")], MEM, Carried),
        case(
            "SET by the extended protocol",
            "",
            &[Pipeline(&["SET work_mem TO '77MB'"])],
            MEM,
            Carried,
        ),
        case(
            "SET TIME ZONE",
            "",
            &[Query("SET TIME ZONE 'Asia/Tokyo'")],
            ZONE,
            Carried,
        ),
        case("set_config", "", &[Query(set)], MEM, Carried),
        case("set_config, prepared", "", &[Named(set)], MEM, Carried),
        case(
            "set_config of a computed name",
            "",
            &[Query("SELECT set_config('work' || '_mem', '77MB', false)")],
            MEM,
            Kept,
        ),
        case(
            "a custom setting",
            "",
            &[Query("SET app.x TO 'secret'")],
            CUSTOM,
            Carried,
        ),
        case(
            "a custom setting of a computed name",
            "",
            &[Query(
                "SELECT set_config('ap' || 'p.hidden', 'secret', false)",
            )],
            COMPUTED,
            Kept,
        ),
        case(
            "among several statements",
            "",
            &[Query(
                "SELECT 1; SET work_mem TO '77MB'; SET app.x TO 'secret'; SELECT 2",
            )],
            MEM,
            Carried,
        ),
        case(
            "in a pipeline",
            "",
            &[Pipeline(&[
                "SELECT 1",
                "SET app.x TO 'secret'",
                "SET work_mem TO '77MB'",
                "SELECT 2",
            ])],
            CUSTOM,
            Carried,
        ),
        case(
            "in a transaction",
            "",
            &[
                Query("BEGIN"),
                Query("SET work_mem TO '77MB'"),
                Query("COMMIT"),
            ],
            MEM,
            Carried,
        ),
        case(
            "in a transaction that is rolled back",
            "",
            &[
                Query("BEGIN"),
                Query("SET work_mem TO '77MB'"),
                Query("ROLLBACK"),
            ],
            MEM,
            Nothing,
        ),
        case(
            "behind a savepoint that is rolled back",
            "",
            &[
                Query("BEGIN"),
                Query("SET app.x TO 'secret'"),
                Query("SAVEPOINT a"),
                Query("SET work_mem TO '77MB'"),
                Query("ROLLBACK TO a"),
                Query("COMMIT"),
            ],
            MEM,
            Nothing,
        ),
        case(
            "behind a savepoint that is released",
            "",
            &[
                Query("BEGIN; SAVEPOINT a"),
                Query("SET work_mem TO '77MB'"),
                Query("RELEASE a; COMMIT"),
            ],
            MEM,
            Carried,
        ),
        case(
            "SET LOCAL",
            "",
            &[
                Query("BEGIN"),
                Query("SET LOCAL work_mem TO '77MB'; SET LOCAL app.x TO 'secret'"),
                Query("COMMIT"),
            ],
            MEM,
            Nothing,
        ),
        case(
            "DO",
            "",
            &[Query(
                "DO $$ BEGIN PERFORM set_config('work_mem', '77MB', false); END $$",
            )],
            MEM,
            Carried,
        ),
        case(
            "DO, and its text is computed",
            "",
            &[Query(
                "DO $$ BEGIN EXECUTE 'SET app.hid' || 'den TO 1'; END $$",
            )],
            "SELECT nullif(current_setting('app.hid' || 'den', true), '')",
            Kept,
        ),
        case(
            "EXECUTE",
            "",
            &[
                Query("PREPARE p AS SELECT set_config('work_mem', '77MB', false)"),
                Query("EXECUTE p"),
                Query("DEALLOCATE p"),
            ],
            MEM,
            Carried,
        ),
        case(
            "EXPLAIN ANALYZE",
            "",
            &[Query(
                "EXPLAIN ANALYZE SELECT set_config('work_mem', '77MB', false)",
            )],
            MEM,
            Carried,
        ),
        case(
            "COPY of a query",
            "",
            &[Query(
                "COPY (SELECT set_config('work_mem', '77MB', false)) TO STDOUT",
            )],
            MEM,
            Carried,
        ),
        case(
            "UPDATE of pg_settings",
            "",
            &[Query(
                "UPDATE pg_settings SET setting = 78848 WHERE name = 'work_mem'",
            )],
            MEM,
            Carried,
        ),
        case(
            "a temporary table",
            "",
            &[Query("CREATE TEMP TABLE tt (a int)")],
            TEMP,
            Kept,
        ),
        case(
            "a temporary table by search_path",
            "",
            &[
                Query("SET search_path TO pg_temp"),
                Query("CREATE TABLE tt (a int)"),
                Query("RESET search_path"),
            ],
            TEMP,
            Kept,
        ),
        case(
            "SELECT INTO TEMP",
            "",
            &[Query("SELECT 1 AS a INTO TEMP tt")],
            TEMP,
            Kept,
        ),
        case(
            "a temporary table that goes at commit",
            "",
            &[Query(
                "BEGIN; CREATE TEMP TABLE tt (a int) ON COMMIT DROP; COMMIT",
            )],
            TEMP,
            Nothing,
        ),
        case(
            "an advisory lock",
            "",
            &[Query("SELECT pg_advisory_lock(7)")],
            LOCKS,
            Kept,
        ),
        case(
            "an advisory lock of a transaction that is rolled back",
            "",
            &[
                Query("BEGIN"),
                Query("SELECT pg_try_advisory_lock(7)"),
                Query("ROLLBACK"),
            ],
            LOCKS,
            Kept,
        ),
        case(
            "an advisory lock that is let go",
            "",
            &[
                Query("SELECT pg_advisory_lock(7)"),
                Query("SELECT pg_advisory_unlock(7)"),
            ],
            LOCKS,
            Nothing,
        ),
        case(
            "an advisory lock of the transaction",
            "",
            &[Query("SELECT pg_advisory_xact_lock(7)")],
            LOCKS,
            Nothing,
        ),
        case("LISTEN", "", &[Query("LISTEN news")], LISTENS, Kept),
        case(
            "LISTEN in a DO",
            "",
            &[Query("DO $$ BEGIN EXECUTE 'LISTEN news'; END $$")],
            LISTENS,
            Kept,
        ),
        case(
            "UNLISTEN",
            "",
            &[Query("LISTEN news"), Query("UNLISTEN *")],
            LISTENS,
            Nothing,
        ),
        case(
            "a cursor WITH HOLD",
            "",
            &[Query("DECLARE c CURSOR WITH HOLD FOR SELECT 1")],
            CURSORS,
            Kept,
        ),
        case(
            "a cursor WITH HOLD that is closed",
            "",
            &[
                Query("DECLARE c CURSOR WITH HOLD FOR SELECT 1"),
                Query("CLOSE c"),
            ],
            CURSORS,
            Nothing,
        ),
        case(
            "PREPARE",
            "",
            &[Query("PREPARE p AS SELECT 1")],
            PREPARED,
            Kept,
        ),
        case(
            "PREPARE and DEALLOCATE",
            "",
            &[Query("PREPARE p AS SELECT 1"), Query("DEALLOCATE p")],
            PREPARED,
            Nothing,
        ),
        case("SET ROLE", "", &[Query("SET ROLE NONE")], ROLE, Kept),
        case(
            "the role by set_config",
            "",
            &[Query("SELECT set_config('role', 'none', false)")],
            ROLE,
            Kept,
        ),
        case(
            "setseed",
            "",
            &[Query("SELECT setseed(0.25)")],
            RANDOM,
            Kept,
        ),
        case("SET seed", "", &[Query("SET seed TO 0.25")], RANDOM, Kept),
        case(
            "currval",
            "CREATE SEQUENCE s",
            &[Query("SELECT nextval('s')")],
            CURRVAL,
            Kept,
        ),
        case(
            "DISCARD ALL",
            "",
            &[
                Query("SET work_mem TO '77MB'"),
                Query("CREATE TEMP TABLE tt (a int)"),
                Query("DISCARD ALL"),
            ],
            MEM,
            Nothing,
        ),
    ]
}
