//! Cases in which what is done is defined where the text does not show it.

use crate::case::*;

/// What is defined where the text does not show it.
pub(crate) fn hidden() -> Vec<Case> {
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
