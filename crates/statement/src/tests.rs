use super::*;

const CONTEXT: Context = Context {
    strings: Strings::Standard,
    encoding: Encoding::AsciiSafe,
};

fn reading(text: &str) -> Reading {
    read(text.as_bytes(), CONTEXT)
}

/// What lasts, without what definitions might do.
#[track_caller]
fn check(text: &str, lasting: Effects) {
    let effects = reading(text).effects;
    let seen = effects.without(Effects::UNSEEN | Effects::WRITES | Effects::TRANSACTION);
    let seen = seen.without(Effects::READS_SEQUENCE | Effects::COPY | Effects::GROWS);
    assert_eq!(seen, lasting, "{text}: {effects:?}");
}

#[track_caller]
fn has(text: &str, effects: Effects) {
    let seen = reading(text).effects;
    assert!(seen.contains(effects), "{text}: {seen:?}");
}

#[track_caller]
fn has_not(text: &str, effects: Effects) {
    let seen = reading(text).effects;
    assert!(!seen.intersects(effects), "{text}: {seen:?}");
}

#[track_caller]
fn exactly(text: &str, exact: Exact) {
    assert_eq!(reading(text).exact, Some(exact), "{text}");
}

fn set(name: &str, value: &str) -> Exact {
    Exact::Set(vec![(name.to_owned(), value.to_owned())])
}

#[test]
fn statements_are_counted_as_postgresql_splits_them() {
    use Statements::{None, One, Several};
    for (text, count) in [
        ("", None),
        (" ;; -- x\n ; /* y */", None),
        ("SELECT 1", One),
        (";SELECT 1;;", One),
        ("SELECT ';' ; ", One),
        ("SELECT $$;$$, \";\", E'\\';', 1 /* ; */ -- ;", One),
        ("SELECT 1; SELECT 2", Several),
        (
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)",
            One,
        ),
        (
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); SELECT 3",
            Several,
        ),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
            One,
        ),
        (
            "CREATE OR REPLACE PROCEDURE f() BEGIN ATOMIC; SELECT CASE WHEN a THEN b END; END;",
            One,
        ),
        (
            "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; END; SELECT 2",
            Several,
        ),
        (
            "CREATE FUNCTION begin() RETURNS int AS 'x'; SELECT 2",
            Several,
        ),
        (
            "CREATE FUNCTION f(begin atomic) RETURNS int AS 'x'; SELECT 2",
            Several,
        ),
        ("BEGIN; SELECT 1", Several),
        ("'unterminated", One),
    ] {
        assert_eq!(reading(text).statements, count, "{text}");
    }
}

#[test]
fn leads() {
    for (text, lead) in [
        ("", Lead::Nothing),
        ("/* a */ ( ( select 1))", Lead::Query),
        ("with x as (select 1) insert into t select 1", Lead::Query),
        ("Update t set a = 1", Lead::Change),
        ("start transaction read only", Lead::Begin),
        ("END", Lead::Commit),
        ("abort", Lead::Rollback),
        ("prepare transaction 'x'", Lead::PrepareTransaction),
        ("prepare x as select 1", Lead::Prepare),
        ("set constraints all deferred", Lead::SetConstraints),
        ("set constraints.x = 1", Lead::Set),
        ("frobnicate", Lead::Unknown),
        ("copy t from stdin", Lead::Copy),
    ] {
        assert_eq!(reading(text).lead, lead, "{text}");
    }
}

#[test]
fn ordinary_statements_leave_nothing() {
    for text in [
        "SELECT 1",
        "SELECT abalance FROM pgbench_accounts WHERE aid = $1",
        "UPDATE t SET a = a + 1, b = now() WHERE c IN (1, 2) RETURNING *",
        "INSERT INTO t (a, b) VALUES ($1, lower($2)) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
        "SELECT count(*) FILTER (WHERE a) OVER (PARTITION BY (b) ORDER BY (c)) FROM t GROUP BY (d)",
        "SELECT * FROM t FOR NO KEY UPDATE SKIP LOCKED",
        "WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a",
        "MERGE INTO t USING u ON true WHEN MATCHED THEN UPDATE SET a = 1",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "COMMIT AND CHAIN",
        "SAVEPOINT a; ROLLBACK TO a; RELEASE a",
        "SET LOCAL work_mem = '1MB'",
        "SET TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SHOW search_path",
        "NOTIFY a, 'b'",
        "LOCK TABLE t IN SHARE MODE",
        "SELECT set_config('a.b', $1, true), set_config('role', $2, TRUE)",
        "SELECT set_config($1, f(a, b), true)",
        "SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(1)",
        "SELECT nextval('s'), setval('s', 1), currval('s')",
        "FETCH 10 FROM c",
        "EXPLAIN (ANALYZE, BUFFERS) SELECT 1",
        "COPY t (a, b) FROM STDIN WITH (FORMAT csv)",
        "TABLE pg_settings",
        "TRUNCATE t; VACUUM; ANALYZE t; REINDEX TABLE t; CHECKPOINT",
    ] {
        check(text, Effects::NONE);
    }
}

#[test]
fn functions_of_the_catalog_are_no_calls_and_others_are() {
    for text in [
        "SELECT lower('A'), pg_catalog.upper('b'), \"length\"('c'), NOW()",
        "SELECT coalesce(a, 1), CAST(a AS numeric(10, 2)), a::varchar(10), ARRAY(SELECT 1)",
        "SELECT 1 IN (1), NOT (a), a AND (b), EXISTS (SELECT 1), extract(year from now())",
        "SELECT a OPERATOR(pg_catalog.+) b",
        "SELECT x.a FROM (VALUES (1)) AS x (a)",
        "SELECT current_setting('a.b', true), version(), pg_backend_pid()",
        "SELECT rank() OVER (ORDER BY (a)), sum(a) FILTER (WHERE b)",
    ] {
        has_not(text, Effects::CALLS | Effects::LASTING);
    }
    for text in [
        "SELECT my_function(1)",
        "SELECT public.lower('A')",
        "SELECT \"Lower\"('A')",
        "SELECT lower /* x */ (1), f -- y\n (2)",
        "SELECT a OPERATOR(public.+) b",
        "SELECT operator(1)",
        "SELECT by(1), over(2)",
        "SELECT (ROW(1)).f, $1.f",
        "SELECT (a)[1].f",
        "CALL p()",
        "SELECT fünction(1)",
        "SELECT db.public.lower('a')",
        "SELECT public.coalesce(1)",
        "SELECT public . values (1)",
    ] {
        has(text, Effects::CALLS);
    }
    // Calls that hide behind a parenthesis: the relation is what tells.
    has("SELECT DISTINCT ON (a) over(1)", Effects::TOUCHES);
    has("SELECT join(1)", Effects::TOUCHES);
}

#[test]
fn relations_and_writes() {
    for text in [
        "SELECT * FROM t",
        "TABLE t",
        "SELECT 1 FROM a JOIN b USING (c)",
        "COPY t TO STDOUT",
    ] {
        has(text, Effects::TOUCHES);
    }
    has_not("SELECT 1 + 1", Effects::TOUCHES | Effects::CALLS);
    has("SELECT 1 + 1", Effects::EVALUATES);
    has_not("BEGIN", Effects::UNSEEN);
    for text in [
        "INSERT INTO t VALUES (1)",
        "SELECT nextval('s')",
        "WITH a AS (UPDATE t SET b = 1) SELECT 1",
    ] {
        has(text, Effects::WRITES);
    }
    has_not("SELECT 1 FROM t FOR UPDATE", Effects::WRITES);
    has("SELECT currval('s')", Effects::READS_SEQUENCE);
    has("SELECT pg_catalog.lastval()", Effects::READS_SEQUENCE);
    for text in [
        "SELECT name FROM pg_prepared_statements",
        "TABLE pg_catalog.\"pg_prepared_statements\"",
        "SELECT 1; SELECT * FROM pg_prepared_statement()",
    ] {
        has(text, Effects::SHOWS_PREPARED);
    }
}

#[test]
fn what_lasts() {
    let settings = Effects::SETTINGS;
    let unnamed = settings | Effects::UNNAMED;
    let defines = Effects::TEMP | Effects::DDL;
    for (text, effects) in [
        ("SET a.b = 1", settings),
        ("select 1; set work_mem to 1", settings),
        ("RESET ALL", settings),
        ("SELECT set_config('a.b', '1', false)", settings),
        ("SELECT set_config('a.b', '1', $1)", settings),
        ("SELECT set_config($1, '1', false)", unnamed),
        ("SELECT set_config(E'a', '1', false)", unnamed),
        ("SELECT set_config('a' || 'b', '1', false)", unnamed),
        (
            "SELECT set_config(is_local => true, setting_name => 'a', new_value => 'b')",
            unnamed,
        ),
        (
            "SELECT * FROM \"set_config\" ( 'a' , 'b' , 'true' )",
            settings,
        ),
        ("SELECT public.set_config('a', 'b', false)", settings),
        (
            "SELECT set_config('a', set_config('b', 'c', false), true)",
            settings,
        ),
        ("SELECT set_config('seed', '0.5', true)", Effects::SEED),
        ("SET LOCAL seed = 0.5", Effects::SEED),
        ("SET SEED TO 0.5", Effects::SEED),
        ("RESET seed", Effects::SEED),
        ("SELECT setseed(0.5)", Effects::SEED),
        (
            "UPDATE pg_settings SET setting = '1' WHERE name = 'a'",
            settings,
        ),
        (
            "UPDATE pg_catalog.\"pg_settings\" SET setting = '1'",
            settings,
        ),
        (
            "WITH a AS (SELECT 1) UPDATE pg_catalog.pg_settings s SET setting = '1'",
            settings,
        ),
        ("SET ROLE x", Effects::ROLE),
        ("SET SESSION AUTHORIZATION x", Effects::ROLE),
        ("SET role TO x", Effects::ROLE),
        ("SELECT set_config('role', 'x', false)", Effects::ROLE),
        ("RESET SESSION AUTHORIZATION", Effects::ROLE),
        ("RESET ROLE", Effects::ROLE),
        ("LISTEN a", Effects::LISTEN),
        ("UNLISTEN *", Effects::LISTEN),
        ("LOAD 'x'", Effects::LOAD),
        ("SELECT pg_advisory_lock(1)", Effects::ADVISORY),
        ("SELECT pg_advisory_unlock_all()", Effects::ADVISORY),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Effects::HOLD),
        (
            "DECLARE c BINARY SCROLL CURSOR WITH /* x */ HOLD FOR SELECT 1",
            Effects::HOLD,
        ),
        ("DECLARE c CURSOR FOR SELECT 1", Effects::NONE),
        ("CLOSE ALL", Effects::HOLD),
        (
            "PREPARE a AS SELECT set_config('x', 'y', false)",
            Effects::PREPARE | settings,
        ),
        ("EXECUTE a (1)", Effects::RUNS),
        ("EXPLAIN ANALYZE EXECUTE a", Effects::RUNS),
        ("CREATE TABLE t AS EXECUTE a", defines | Effects::RUNS),
        (
            "CREATE TRIGGER t AFTER INSERT ON u EXECUTE FUNCTION f()",
            defines,
        ),
        ("CREATE TABLE t (a int)", defines),
        ("EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1", defines),
        ("SELECT 1 INTO t", Effects::TEMP),
        ("EXPLAIN ANALYZE SELECT 1 INTO TEMP t", Effects::TEMP),
        ("ALTER TABLE t ADD a int", Effects::DDL),
        ("GRANT SELECT ON t TO u", Effects::DDL),
        ("CREATE EXTENSION x", defines | unnamed | Effects::RUNS),
        ("DO $$ BEGIN NULL; END $$", Effects::RUNS),
        (
            "DO LANGUAGE plpgsql 'BEGIN SET a.b = 1; END'",
            Effects::RUNS | settings,
        ),
        (
            "DO 'BEGIN PERFORM setseed(1); END'",
            Effects::RUNS | Effects::SEED,
        ),
        (
            "DO $$ BEGIN EXECUTE 'x'; END $$",
            Effects::RUNS | Effects::UNNAMED,
        ),
        ("DO E'BEGIN NULL; END'", Effects::UNKNOWN),
        ("DO LANGUAGE plperl 'x'", Effects::UNKNOWN),
        (
            "SELECT query_to_xml('x', true, true, '')",
            Effects::RUNS | Effects::UNNAMED,
        ),
        ("DISCARD PLANS", Effects::DISCARD),
        ("DEALLOCATE x", Effects::DEALLOCATE),
        (
            "SELECT U&\"set\\005fconfig\"('a', 'b', false)",
            Effects::UNKNOWN,
        ),
        ("SELECT 'a", Effects::UNKNOWN),
        ("frobnicate", Effects::UNKNOWN),
        (
            "SELECT pg_create_logical_replication_slot('a', 'b', true)",
            Effects::LOAD,
        ),
        ("COPY (SELECT setseed(1)) TO STDOUT", Effects::SEED),
    ] {
        check(text, effects);
    }
}

#[test]
fn exact_changes_of_settings() {
    for (text, name, value) in [
        ("SET work_mem = '4MB'", "work_mem", "4MB"),
        ("set Session Work_Mem to 4096 ;; -- x", "work_mem", "4096"),
        ("SET \"DateStyle\" TO ISO, dmy", "datestyle", "iso, dmy"),
        (
            "SET search_path TO \"$user\", public, 'A b', \"select\", t_1, left",
            "search_path",
            "\"$user\", public, \"A b\", \"select\", t_1, \"left\"",
        ),
        ("SET search_path = ''", "search_path", "\"\""),
        ("SET SCHEMA 'x y'", "search_path", "\"x y\""),
        ("SET App.User = N'it''s'", "app.user", "it's"),
        ("SET session.user = $$a$$", "session.user", "a"),
        ("SET SESSION local.x TO on", "local.x", "on"),
        ("SET role.x = true", "role.x", "true"),
        ("SET TIME ZONE 'Europe/Berlin'", "timezone", "Europe/Berlin"),
        ("SET TIME ZONE UTC", "timezone", "utc"),
        ("SET TIME ZONE -7", "timezone", "-7"),
        ("SET TIME ZONE +5.5", "timezone", "5.5"),
        ("SET NAMES 'LATIN1'", "client_encoding", "LATIN1"),
        ("SET XML OPTION DOCUMENT", "xmloption", "DOCUMENT"),
        ("SET a.b = 007", "a.b", "7"),
        ("SET a.b = 2147483648", "a.b", "2147483648"),
        (
            "SELECT set_config('Work_Mem', '1MB', false)",
            "work_mem",
            "1MB",
        ),
        (
            "select pg_catalog.set_config('search_path', 'a, B', false);",
            "search_path",
            "a, B",
        ),
    ] {
        exactly(text, set(name, value));
        assert_eq!(
            reading(text).effects.without(Effects::EVALUATES),
            Effects::SETTINGS,
            "{text}"
        );
    }
    let defaults = |pairs: &[(&str, &str)]| {
        let owned = pairs
            .iter()
            .map(|(name, value)| (format!("default_transaction_{name}"), (*value).to_owned()));
        Exact::Set(owned.collect())
    };
    exactly(
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY NOT DEFERRABLE",
        defaults(&[
            ("isolation", "repeatable read"),
            ("read_only", "on"),
            ("deferrable", "off"),
        ]),
    );
    exactly(
        "set session characteristics as transaction read write",
        defaults(&[("read_only", "off")]),
    );
}

#[test]
fn statements_are_cut_where_postgresql_cuts_them() {
    let cut = |text: &str| -> Option<Vec<String>> {
        let places = crate::split(text.as_bytes(), CONTEXT)?;
        Some(places.into_iter().map(|own| text[own].to_owned()).collect())
    };
    let is = |text: &str, list: &[&str]| {
        assert_eq!(cut(text).unwrap(), list, "{text}");
    };
    is("", &[]);
    is(";; -- RESET ALL", &[]);
    is("RESET a", &["RESET a"]);
    is(
        " RESET a /* ; */ ;;SELECT ';' ; ",
        &["RESET a", "SELECT ';'"],
    );
    is(
        "BEGIN; RESET a -- x;\n; COMMIT",
        &["BEGIN", "RESET a", "COMMIT"],
    );
    is(
        "DO $$ BEGIN; END $$; RESET b",
        &["DO $$ BEGIN; END $$", "RESET b"],
    );
    is(
        "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2); RESET b",
        &[
            "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)",
            "RESET b",
        ],
    );
    is(
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; RESET b",
        &[
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
            "RESET b",
        ],
    );
    assert_eq!(cut("RESET a; SELECT 'open"), None);
}

#[test]
fn exact_commands() {
    let named = str::to_owned;
    exactly("RESET Work_Mem", Exact::Reset(named("work_mem")));
    exactly("SET a.b TO DEFAULT", Exact::Reset(named("a.b")));
    exactly("SET TIME ZONE LOCAL", Exact::Reset(named("timezone")));
    exactly("RESET TIME ZONE;", Exact::Reset(named("timezone")));
    exactly("SET NAMES", Exact::Reset(named("client_encoding")));
    exactly("RESET ALL", Exact::ResetAll);
    exactly("RESET SESSION AUTHORIZATION", Exact::ResetAuthorization);
    exactly(
        "SET SESSION AUTHORIZATION DEFAULT;",
        Exact::ResetAuthorization,
    );
    for other in [
        "SET SESSION AUTHORIZATION \"default\"",
        "SET SESSION AUTHORIZATION 'default'",
        "SET LOCAL SESSION AUTHORIZATION DEFAULT",
        "RESET SESSION AUTHORIZATION; SELECT 1",
    ] {
        assert_eq!(reading(other).exact, None, "{other}");
    }
    exactly("discard all", Exact::DiscardAll);
    exactly("DISCARD PLANS", Exact::DiscardPlans);
    exactly("DISCARD TEMPORARY", Exact::DiscardTemp);
    exactly("DISCARD SEQUENCES", Exact::DiscardSequences);
    exactly("DEALLOCATE Foo", Exact::Deallocate(named("foo")));
    exactly(
        "DEALLOCATE PREPARE \"Foo\"",
        Exact::Deallocate(named("Foo")),
    );
    exactly("DEALLOCATE prepare", Exact::Deallocate(named("prepare")));
    exactly("DEALLOCATE PREPARE ALL", Exact::DeallocateAll);
    exactly("DEALLOCATE \"all\"", Exact::Deallocate(named("all")));
    exactly(
        "PREPARE Foo (int) AS SELECT $1",
        Exact::Prepare(named("foo")),
    );
    exactly("EXECUTE \"Foo\" (1)", Exact::Execute(named("Foo")));
}

#[test]
fn what_is_not_exact() {
    for text in [
        "SET work_mem = 1; SELECT 1",
        "SELECT 1; SET work_mem = 1",
        "DISCARD ALL; SELECT 1",
        "SET LOCAL work_mem = 1",
        "SET work_mem FROM CURRENT",
        "SET work_mem = E'1'",
        "SET work_mem = 'a'\n'b'",
        "SET work_mem = 'é'",
        "SET work_mem = 0x10",
        "SET work_mem = 1e3",
        "SET search_path = json_table",
        "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",
        "SET transaction_isolation = 'serializable'",
        "RESET transaction_read_only",
        "RESET TRANSACTION ISOLATION LEVEL",
        "SET ROLE x",
        "RESET role",
        "SET seed = 1",
        "SET U&\"a\" = 1",
        "SELECT set_config('a', 'b', true)",
        "SELECT set_config('a', 'b', false), 1",
        "SELECT set_config('a', 'b', false) FROM t",
        "SELECT set_config('a', 'b', false); SELECT 1",
        "SELECT public.set_config('a', 'b', false)",
        "SELECT f(set_config('a', 'b', false))",
        "SELECT set_config('a', NULL, false)",
        "SELECT set_config('role', 'b', false)",
        "VALUES (set_config('a', 'b', false))",
        "EXPLAIN SELECT set_config('a', 'b', false)",
        "SHOW ALL",
        "BEGIN",
        "SET",
        "SET a",
        "SET a =",
        "SET a = 1 2",
    ] {
        assert_eq!(reading(text).exact, None, "{text}");
    }
}

#[test]
fn custom_names() {
    let text =
        "SET App.User = 1; RESET \"App\".x; SHOW a.b.c; SET LOCAL \"d.e\" = 1; SET work_mem = 1;
        SELECT set_config('f.G', $1, true), current_setting('h.i', true), current_setting('plain');
        DO $$ BEGIN PERFORM set_config('j.k', 'x', false); END $$";
    assert_eq!(
        reading(text).custom,
        ["app.user", "app.x", "a.b.c", "d.e", "f.g", "h.i", "j.k"]
    );
}

#[test]
fn encodings_in_which_a_quote_may_hide_are_not_read() {
    let overlapping = Context {
        encoding: Encoding::of("SJIS"),
        ..CONTEXT
    };
    assert_eq!(read(b"SELECT 1", overlapping).effects, Effects::EVALUATES);
    // The second byte of a character in SJIS is a backslash.
    assert_eq!(
        read(b"SELECT '\x95\\'", overlapping).effects,
        Effects::UNKNOWN
    );
    for name in [
        "SJIS",
        "BIG5",
        "GBK",
        "UHC",
        "GB18030",
        "JOHAB",
        "SHIFT_JIS_2004",
        "new",
    ] {
        assert_eq!(Encoding::of(name), Encoding::Overlapping, "{name}");
    }
    for name in ["UTF8", "utf8", "LATIN1", "EUC_JP", "SQL_ASCII", "WIN1252"] {
        assert_eq!(Encoding::of(name), Encoding::AsciiSafe, "{name}");
    }
}

#[test]
fn a_setting_on_its_way_makes_only_ambiguous_text_unknown() {
    let undecided = Context {
        strings: Strings::Undecided,
        ..CONTEXT
    };
    assert_eq!(
        read(b"SELECT 'a', E'\\''", undecided).effects,
        Effects::EVALUATES
    );
    assert_eq!(
        read(b"SELECT 'a\\'", undecided).effects,
        Effects::EVALUATES | Effects::UNKNOWN
    );
    let escaping = Context {
        strings: Strings::Escaping,
        ..CONTEXT
    };
    let hidden = b"SELECT '\\', setseed(1), '";
    assert!(read(hidden, CONTEXT).effects.contains(Effects::UNKNOWN));
    assert_eq!(read(hidden, escaping).effects, Effects::EVALUATES);
    let shown = b"SELECT '\\'', setseed(1), '\\''";
    assert!(!read(shown, CONTEXT).effects.contains(Effects::SEED));
    assert!(read(shown, escaping).effects.contains(Effects::SEED));
}

#[test]
fn what_makes_a_database_larger_is_told_from_what_does_not() {
    for text in [
        "INSERT INTO t VALUES (1)",
        "insert into t select 1 from u",
        "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2",
        "UPDATE t SET a = 1",
        "MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE",
        "WITH x AS (INSERT INTO t VALUES (1) RETURNING a) SELECT * FROM x",
        "WITH x AS (UPDATE t SET a = 1 RETURNING a) DELETE FROM t USING x",
        "SELECT 1; /* and */ INSERT INTO t VALUES (1)",
        "EXPLAIN ANALYZE INSERT INTO t VALUES (1)",
        "PREPARE p AS INSERT INTO t VALUES ($1)",
        "COPY t FROM STDIN",
        "COPY t (a, b) FROM '/tmp/x' (FORMAT csv)",
        "SELECT a INTO u FROM t",
        "CREATE TABLE t (a int)",
        "CREATE TEMP TABLE t AS SELECT 1",
        "CREATE INDEX ON t (a)",
        "EXPLAIN ANALYZE CREATE TABLE u AS SELECT 1",
        "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO y",
        "REFRESH MATERIALIZED VIEW m",
        "SELECT lo_create(0)",
        "SELECT pg_catalog.lowrite(0, 'x')",
        "DO $$ BEGIN INSERT INTO t VALUES (1); END $$",
        "DO $$ BEGIN IF true THEN CREATE TABLE u (a int); END IF; END $$",
    ] {
        has(text, Effects::GROWS);
    }
    for text in [
        "SELECT * FROM t FOR UPDATE",
        "SELECT * FROM t FOR NO KEY UPDATE",
        "SELECT \"insert\", t.update FROM t",
        "DELETE FROM t",
        "TRUNCATE t",
        "DROP TABLE t",
        "VACUUM FULL t",
        "REINDEX TABLE t",
        "CLUSTER t",
        "ALTER TABLE t DROP COLUMN a",
        "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u ON UPDATE CASCADE",
        "GRANT INSERT, UPDATE ON t TO PUBLIC",
        "REVOKE INSERT ON t FROM PUBLIC",
        "COPY t TO STDOUT",
        "COPY (SELECT a FROM t) TO STDOUT",
        "COMMIT",
        "ROLLBACK",
        "DO $$ DECLARE n int; BEGIN SELECT 1 INTO n; DELETE FROM t; END $$",
        "EXECUTE p",
        "SELECT lo_unlink(1)",
    ] {
        has_not(text, Effects::GROWS);
    }
}
