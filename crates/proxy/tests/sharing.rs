//! Two sessions of one tenant and one server connection between them, in mode `auto`: whatever one does
//! to its session, the other does not meet it, and the one does not lose it.
//!
//! Each case is done on a direct connection first, where the same probe must find what was done: a
//! case that does nothing, or whose probe sees nothing, fails. Then two sessions take turns.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use kit::{
    Stack, Tenant,
    raw::{self, Message, Raw},
};
use model::{Role, route::PoolMode};
use wire::{message::build, startup::Protocol};

/// One flight of a client.
#[derive(Clone, Debug)]
enum Flight {
    /// A simple query.
    Query(&'static str),
    /// Parse, Bind, Execute of each, and one Sync behind all.
    Pipeline(&'static [&'static str]),
    /// Prepared under a name in a flight before.
    Named(&'static str),
    /// A function call of the protocol, of a function without arguments.
    Call(&'static str),
}
use Flight::{Call, Named, Pipeline, Query};

/// What has become of the state, for the other session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Then {
    /// It is made again on whichever server connection; so the other one gets the only one.
    Carried,
    /// Its server connection is kept, and the other session is refused.
    Kept,
    /// Nothing is left of it, as on a direct connection.
    Nothing,
}
use Then::{Carried, Kept, Nothing};

struct Case {
    name: &'static str,
    /// By whoever owns the database, before.
    define: &'static str,
    flights: Vec<Flight>,
    probe: &'static str,
    then: Then,
}

fn case(
    name: &'static str,
    define: &'static str,
    flights: &[Flight],
    probe: &'static str,
    then: Then,
) -> Case {
    Case {
        name,
        define,
        flights: flights.to_vec(),
        probe,
        then,
    }
}

const MEM: &str = "SELECT current_setting('work_mem')";
const ZONE: &str = "SELECT current_setting('TimeZone'), '2024-06-01 12:00'::timestamptz";
const CUSTOM: &str = "SELECT nullif(current_setting('app.x', true), '')";
const COMPUTED: &str = "SELECT nullif(current_setting('ap' || 'p.hidden', true), '')";
const TEMP: &str = "SELECT pg_my_temp_schema() <> 0 AND EXISTS \
    (SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema())";
const LOCKS: &str =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
const LISTENS: &str = "SELECT count(*) FROM pg_listening_channels()";
const CURSORS: &str = "SELECT count(*) FROM pg_cursors WHERE is_holdable";
const PREPARED: &str = "SELECT count(*) FROM pg_prepared_statements WHERE from_sql";
const ROLE: &str = "SELECT current_setting('role'), current_user = session_user";
const RANDOM: &str = "SELECT random()";
const CURRVAL: &str = "SELECT currval('s')";

/// What a text says itself.
fn said() -> Vec<Case> {
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

/// What is defined where the text does not show it.
fn hidden() -> Vec<Case> {
    const SETS: &str = "CREATE FUNCTION sets() RETURNS int LANGUAGE plpgsql AS \
        $$ BEGIN PERFORM set_config('work_mem', '77MB', false); RETURN 1; END $$; ";
    macro_rules! sets {
        ($($more:literal)*) => { concat!(
            "CREATE FUNCTION sets() RETURNS int LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM set_config('work_mem', '77MB', false); RETURN 1; END $$; ",
            $($more),*) };
    }
    vec![
        case("a function", SETS, &[Query("SELECT sets()")], MEM, Carried),
        case(
            "a function, by the protocol",
            SETS,
            &[Call("sets")],
            MEM,
            Kept,
        ),
        case(
            "a function in a function",
            sets!("CREATE FUNCTION outer_one() RETURNS int LANGUAGE sql AS 'SELECT sets()'"),
            &[Query("SELECT outer_one()")],
            MEM,
            Carried,
        ),
        case(
            "SET of a function's body",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS \
             $$ BEGIN SET work_mem TO '77MB'; SET app.x TO 'secret'; END $$",
            &[Pipeline(&["SELECT f()"])],
            CUSTOM,
            Carried,
        ),
        case(
            "a function with a body of SQL",
            "CREATE FUNCTION f() RETURNS text LANGUAGE sql \
             BEGIN ATOMIC SELECT set_config('work_mem', '77MB', false); END",
            &[Query("SELECT f()")],
            MEM,
            Kept,
        ),
        case(
            "a procedure",
            "CREATE PROCEDURE p() LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM set_config('work_mem', '77MB', false); COMMIT; END $$",
            &[Query("CALL p()")],
            MEM,
            Carried,
        ),
        case(
            "a view",
            sets!("CREATE VIEW v AS SELECT sets() AS a"),
            &[Query("SELECT * FROM v")],
            MEM,
            Carried,
        ),
        case(
            "a view that calls PostgreSQL's own",
            "CREATE VIEW v AS SELECT set_config('work_mem', '77MB', false) AS a",
            &[Query("SELECT * FROM v")],
            MEM,
            Kept,
        ),
        case(
            "a cursor on a view",
            "CREATE VIEW v AS SELECT set_config('work_mem', '77MB', false) AS a",
            &[
                Query("BEGIN"),
                Query("DECLARE c CURSOR FOR SELECT * FROM v"),
                Query("FETCH 1 FROM c"),
                Query("COMMIT"),
            ],
            MEM,
            Kept,
        ),
        case(
            "a view of the settings",
            "CREATE VIEW v AS SELECT name, setting FROM pg_settings",
            &[Query(
                "UPDATE v SET setting = 78848 WHERE name = 'work_mem'",
            )],
            MEM,
            Carried,
        ),
        case(
            "a trigger",
            "CREATE TABLE t (a int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM set_config('work_mem', '77MB', false); RETURN NEW; END $$; \
             CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
            &[Query("INSERT INTO t VALUES (1)")],
            MEM,
            Carried,
        ),
        case(
            "a trigger at the end of the transaction",
            "CREATE TABLE t (a int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM set_config('work_mem', '77MB', false); RETURN NEW; END $$; \
             CREATE CONSTRAINT TRIGGER t AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION f()",
            &[
                Query("BEGIN"),
                Query("INSERT INTO t VALUES (1)"),
                Query("COMMIT"),
            ],
            MEM,
            Carried,
        ),
        case(
            "what a trigger's condition calls",
            "CREATE TABLE t (a int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RETURN NEW; END $$; CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW \
             WHEN (set_config('work_mem', '77MB', false) IS NOT NULL) EXECUTE FUNCTION f()",
            &[Query("INSERT INTO t VALUES (1)")],
            MEM,
            Kept,
        ),
        case(
            "COPY into a table with a trigger",
            "CREATE TABLE t (a int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM set_config('work_mem', '77MB', false); RETURN NEW; END $$; \
             CREATE TRIGGER t BEFORE TRUNCATE ON t EXECUTE FUNCTION f()",
            &[Query("TRUNCATE t")],
            MEM,
            Carried,
        ),
        case(
            "a rule",
            "CREATE TABLE t (a int); CREATE RULE r AS ON INSERT TO t DO ALSO \
             SELECT set_config('work_mem', '77MB', false)",
            &[Query("INSERT INTO t VALUES (1)")],
            MEM,
            Kept,
        ),
        case(
            "a default",
            "CREATE TABLE t (b int, a text DEFAULT set_config('work_mem', '77MB', false))",
            &[Query("INSERT INTO t VALUES (1)")],
            MEM,
            Kept,
        ),
        case(
            "a check",
            "CREATE TABLE t (a int CHECK (set_config('work_mem', '77MB', false) IS NOT NULL))",
            &[Query("INSERT INTO t VALUES (1)")],
            MEM,
            Kept,
        ),
        case(
            "a policy",
            "CREATE TABLE t (a int); INSERT INTO t VALUES (1); ALTER TABLE t ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY p ON t USING (set_config('work_mem', '77MB', false) IS NOT NULL)",
            &[Query("SELECT * FROM t")],
            MEM,
            Kept,
        ),
        case(
            "an operator",
            sets!(
                "CREATE FUNCTION op(int, int) RETURNS int LANGUAGE sql AS 'SELECT sets()'; \
                   CREATE OPERATOR @@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = op)"
            ),
            &[Query("SELECT 1 @@@ 2")],
            MEM,
            Carried,
        ),
        case(
            "an operator that is PostgreSQL's own function",
            "CREATE OPERATOR @@@ (RIGHTARG = bigint, FUNCTION = pg_advisory_lock)",
            &[Query("SELECT @@@ 7::bigint")],
            LOCKS,
            Kept,
        ),
        case(
            "a domain",
            sets!("CREATE DOMAIN d AS int CHECK (sets() = 1)"),
            &[Query("SELECT 5::d")],
            MEM,
            Carried,
        ),
        case(
            "a cast",
            sets!(
                "CREATE TYPE c AS (a int); CREATE FUNCTION to_c(text) RETURNS c LANGUAGE sql AS \
                   'SELECT row(sets())::c'; CREATE CAST (text AS c) WITH FUNCTION to_c(text)"
            ),
            &[Query("SELECT 'x'::text::c")],
            MEM,
            Carried,
        ),
        case(
            "an aggregate",
            sets!(
                "CREATE FUNCTION step(int, int) RETURNS int LANGUAGE sql AS 'SELECT sets()'; \
                   CREATE AGGREGATE agg(int) (SFUNC = step, STYPE = int, INITCOND = '0')"
            ),
            &[Query("SELECT agg(a) FROM (VALUES (1)) v(a)")],
            MEM,
            Carried,
        ),
        case(
            "a function of the name of PostgreSQL's own",
            sets!(
                "CREATE SCHEMA evil; CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS \
                   'SELECT public.sets()::text'; GRANT USAGE ON SCHEMA evil TO PUBLIC"
            ),
            &[
                Query("SET search_path TO evil, pg_catalog"),
                Query("SELECT lower('X')"),
                Query("RESET search_path"),
            ],
            MEM,
            Carried,
        ),
        case(
            "a function as a column",
            sets!(
                "CREATE TABLE t (a int); INSERT INTO t VALUES (1); CREATE FUNCTION f(t) RETURNS int \
                   LANGUAGE sql AS 'SELECT sets()'"
            ),
            &[Query("SELECT t.f FROM t")],
            MEM,
            Carried,
        ),
        case(
            "an index",
            "CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM set_config('work_mem', '77MB', false); RETURN 1; END $$; \
             CREATE TABLE t (a int); CREATE INDEX i ON t (f(a))",
            &[Query("INSERT INTO t VALUES (1)")],
            MEM,
            Carried,
        ),
        case(
            "statistics",
            "CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM set_config('work_mem', '77MB', false); RETURN 1; END $$; \
             CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 100); \
             CREATE STATISTICS st ON (f(a)) FROM t; ALTER TABLE t OWNER TO tenantry_admin",
            &[Query("ANALYZE t")],
            // What ANALYZE sets, it sets back.
            MEM,
            Nothing,
        ),
        case(
            "an event trigger",
            "CREATE TABLE t (a int); ALTER TABLE t OWNER TO tenantry_admin; \
             CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM set_config('work_mem', '77MB', false); END $$; \
             CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()",
            &[Query("COMMENT ON TABLE t IS 'x'")],
            MEM,
            Carried,
        ),
        case(
            "a function defined on the way",
            "",
            &[
                Query(
                    "CREATE OR REPLACE FUNCTION f() RETURNS text LANGUAGE plpgsql AS \
                       $$ BEGIN RETURN set_config('work_mem', '77MB', false); END $$",
                ),
                Query("SELECT f()"),
            ],
            MEM,
            Carried,
        ),
        case(
            "a function defined in the same transaction, by a computed text",
            "",
            &[
                Query("BEGIN"),
                Query(
                    "DO $$ BEGIN EXECUTE 'CREATE OR REPLACE FUNCTION f() RETURNS text LANGUAGE sql AS ' \
                       || quote_literal('SELECT set_config(''work_mem'', ''77MB'', false)'); END $$",
                ),
                Query("SELECT f()"),
                Query("COMMIT"),
            ],
            MEM,
            Kept,
        ),
        case(
            "a temporary table of a function",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS \
             $$ BEGIN CREATE TEMP TABLE tt (a int); END $$",
            &[Query("SELECT f()")],
            TEMP,
            Kept,
        ),
        case(
            "an advisory lock of a view",
            "CREATE VIEW v AS SELECT pg_try_advisory_lock(7)",
            &[Query("SELECT * FROM v")],
            LOCKS,
            Kept,
        ),
        case(
            "LISTEN of a function",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN LISTEN news; END $$",
            &[Query("SELECT f()")],
            LISTENS,
            Kept,
        ),
        case(
            "a seed of a function",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM setseed(0.25); END $$",
            &[Query("SELECT f()")],
            RANDOM,
            Kept,
        ),
        case(
            "a seed of a view",
            "CREATE VIEW v AS SELECT setseed(0.25)::text",
            &[Query("SELECT * FROM v")],
            RANDOM,
            Kept,
        ),
        case(
            "a custom setting of whatever name, by a function",
            "CREATE FUNCTION f(n text, v text) RETURNS text LANGUAGE plpgsql AS \
             $$ BEGIN RETURN set_config(n, v, false); END $$",
            &[Query("SELECT f('ap' || 'p.hidden', 'secret')")],
            COMPUTED,
            Kept,
        ),
        case(
            "a custom setting of whatever name, by a trigger",
            "CREATE TABLE t (n text); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM set_config(NEW.n, 'secret', false); RETURN NEW; END $$; \
             CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
            &[Query("INSERT INTO t VALUES ('ap' || 'p.hidden')")],
            COMPUTED,
            Kept,
        ),
        case(
            "a sequence behind a view",
            "CREATE SEQUENCE s; CREATE VIEW v AS SELECT nextval('s')",
            &[Query("SELECT * FROM v")],
            CURRVAL,
            Kept,
        ),
    ]
}

fn extended(statements: &[&str], named: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let name: &[u8] = if named { b"mine" } else { b"" };
    for sql in statements {
        if named {
            build::parse(b"mine", sql.as_bytes(), &[], &mut bytes);
            build::sync(&mut bytes);
        } else {
            build::parse(b"", sql.as_bytes(), &[], &mut bytes);
        }
        build::bind_nothing(b"", name, &mut bytes);
        build::execute(b"", 0, &mut bytes);
    }
    build::sync(&mut bytes);
    bytes
}

/// Does it, and asserts that PostgreSQL agreed.
fn fly(raw: &mut Raw, flight: &Flight) {
    let seen = match flight {
        Query(sql) => raw.query(sql),
        Pipeline(list) => {
            raw.send(&extended(list, false));
            raw.until(b'Z')
        }
        Named(sql) => {
            raw.send(&extended(&[sql], true));
            raw.until(b'Z');
            raw.until(b'Z')
        }
        Call(name) => {
            let number = raw.query(&format!("SELECT '{name}'::regproc::oid::int8"));
            let number: u32 = raw::value(&number).parse().unwrap();
            let mut body = number.to_be_bytes().to_vec();
            body.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
            let mut bytes = vec![b'F'];
            bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            bytes.extend_from_slice(&body);
            raw.send(&bytes);
            raw.until(b'Z')
        }
    };
    assert_eq!(raw::code_of(&seen), "", "{flight:?}: {}", words(&seen));
}

fn words(seen: &[Message]) -> String {
    let all = seen
        .iter()
        .map(|(kind, body)| format!("{} {} ", char::from(*kind), String::from_utf8_lossy(body)));
    all.collect()
}

/// The rows of the last statement, or the code of the error.
fn probe(raw: &mut Raw, sql: &str) -> String {
    let seen = raw.query(sql);
    let code = raw::code_of(&seen);
    if code.is_empty() {
        let rows = seen.iter().filter(|(kind, _)| *kind == b'D');
        rows.map(|(_, body)| String::from_utf8_lossy(&body[2..]).into_owned())
            .collect()
    } else {
        code
    }
}

fn session(stack: &Stack, tenant: &Tenant) -> Raw {
    let mut raw = Raw::plain(stack.port);
    let user = tenant.login(Role::Admin).to_string();
    let list = [("user", user.as_str()), ("database", "postgres")];
    let seen = raw.log_in(Protocol::V3_0, &list, &tenant.password);
    assert_eq!(raw::code_of(&seen), "");
    raw
}

fn direct(stack: &Stack, tenant: &Tenant) -> Raw {
    let mut raw = Raw::unix(&stack.postgres.socket());
    let (user, database) = (Role::Admin.login(&tenant.pid), tenant.pid.database());
    let list = [
        ("user", user.as_str()),
        ("database", &database),
        ("options", "-c role=tenantry_admin -c statement_timeout=60s"),
    ];
    let seen = raw.log_in(Protocol::V3_0, &list, &format!("server-{user}"));
    assert_eq!(raw::code_of(&seen), "");
    raw
}

/// Its tables as they were, for the next one to do the same.
fn tenant(stack: &Stack, case: &Case) -> Tenant {
    let tenant = stack.tenant();
    stack.set_route(&tenant, Role::Admin, |route| {
        route.pool_mode = PoolMode::Auto;
        route.limits.server_connections_max = 1;
    });
    let grants = "GRANT ALL ON SCHEMA public TO tenantry_admin; \
        GRANT ALL ON ALL TABLES IN SCHEMA public TO tenantry_admin; \
        GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO tenantry_admin";
    stack.postgres.sql(
        &tenant.pid.database(),
        &format!("{}; {grants}", case.define),
    );
    tenant
}

fn check(stack: &Stack, case: &Case) {
    let tenant = tenant(stack, case);
    let mut control = direct(stack, &tenant);
    for flight in &case.flights {
        fly(&mut control, flight);
    }
    let held = probe(&mut control, case.probe);
    let clean = probe(&mut direct(stack, &tenant), case.probe);
    let is_random = case.probe == RANDOM;
    if case.then == Nothing {
        assert_eq!(held, clean, "nothing was to be left");
    } else {
        assert_ne!(held, clean, "the probe sees nothing on a direct connection");
    }
    drop(control);
    let (mut one, mut two) = (session(stack, &tenant), session(stack, &tenant));
    let is_clean = |seen: &str| {
        if is_random {
            seen != held
        } else {
            seen == clean
        }
    };
    for raw in [&mut two, &mut one] {
        assert_eq!(raw::value(&raw.query("SELECT 1")), "1");
    }
    for flight in &case.flights {
        fly(&mut one, flight);
    }
    // Whether the other session gets the only server connection, and what it finds there.
    let meets = |two: &mut Raw| {
        let seen = probe(two, case.probe);
        if seen == "53300" {
            return Kept;
        }
        assert!(is_clean(&seen), "the other session met {seen}, not {clean}");
        Carried
    };
    let mut then = meets(&mut two);
    let own = probe(&mut one, case.probe);
    // Not for the first time: nobody had asked for such numbers before, so it was lent, and the answer
    // is that there is none. From then on it is kept.
    let is_first_number = case.probe.contains("currval") && own == "55000";
    assert!(own == held || is_first_number, "{own} became of {held}");
    if is_first_number {
        assert_eq!(then, Carried);
        for flight in &case.flights {
            fly(&mut one, flight);
        }
        then = meets(&mut two);
        let own = probe(&mut one, case.probe);
        assert!(!own.is_empty() && own != "55000", "{own}");
    } else if !is_random {
        then = meets(&mut two);
        assert_eq!(probe(&mut one, case.probe), held);
    }
    let expected = if case.then == Nothing {
        Carried
    } else {
        case.then
    };
    assert_eq!(then, expected);
    // Whoever leaves takes it along.
    drop(one);
    kit::wait_until("the server connection is free", || {
        let seen = probe(&mut two, case.probe);
        assert!(seen == "53300" || is_clean(&seen), "{seen} was left");
        seen != "53300"
    });
}

async fn check_all(stack: Stack, cases: Vec<Case>) {
    let names: HashSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len());
    let only = std::env::var("TENANTRY_TEST_CASE").ok();
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if only.as_ref().is_some_and(|only| only != case.name) {
                            continue;
                        }
                        let done = catch_unwind(AssertUnwindSafe(|| check(&stack, case)));
                        if done.is_err() {
                            eprintln!("^ {}", case.name);
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
    });
    let snapshot = stack.proxy().snapshot().await;
    assert_eq!((snapshot.mismatches, snapshot.panics), (0, 0));
    assert_eq!(failed.into_inner(), 0, "cases failed");
}

fn change(config: &mut proxy::Config) {
    config.require_tls = false;
    config.limits.budget_wait_max = Duration::from_millis(150);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_text_says_stays_with_its_session() {
    check_all(Stack::with_budget(40, change).await, said()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_definitions_do_stays_with_the_session() {
    check_all(Stack::with_budget(40, change).await, hidden()).await;
}
