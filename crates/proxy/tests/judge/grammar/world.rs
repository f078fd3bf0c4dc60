//! What a session's scripts find in the database: two schemas with the same names in them, whose
//! contents tell them apart, and for wild tenants everything by which a statement can change its
//! session without saying so.

use super::Tribe;
use crate::script::Step;

/// Schemas for temporary objects that are made ahead. A database gets one the first time it is used
/// by a server process of a new number, and that makes PostgreSQL analyse all prepared statements
/// anew. More than processes of clients and others there will be.
pub const TEMPORARY_SCHEMAS: usize = 48;

/// What a database needs before its first script: one connection for each statement, at once.
pub fn prewarm() -> impl Iterator<Item = &'static str> {
    std::iter::repeat_n("CREATE TEMP TABLE prewarmed()", TEMPORARY_SCHEMAS)
}

/// What is made once for each slot.
pub fn once(slot: usize) -> String {
    ['a', 'b'].map(|which| tables(slot, which)).concat()
}

fn tables(slot: usize, which: char) -> String {
    let s = format!("s{slot}_{which}");
    format!(
        "CREATE SCHEMA {s};
         CREATE TABLE {s}.t(id int PRIMARY KEY, v text, n numeric, f float8, d timestamptz);
         CREATE TABLE {s}.log(id serial, note text);
         CREATE TABLE {s}.c(a int, b text);
         CREATE SEQUENCE {s}.q;
         CREATE FUNCTION {s}.who() RETURNS text LANGUAGE sql AS 'SELECT ''{s}''::text';"
    )
}

fn rows(slot: usize, which: char) -> String {
    let s = format!("s{slot}_{which}");
    format!(
        "DELETE FROM {s}.t; DELETE FROM {s}.log; DELETE FROM {s}.c;
         SELECT setval('{s}.q', 1, false), setval('{s}.log_id_seq', 1, false);
         INSERT INTO {s}.t SELECT g, '{s}:' || g, g / 3.0, g / 3.0::float8,
             timestamptz '2020-01-01 00:00+00' + g * interval '100 days'
         FROM generate_series(1, 6) g;"
    )
}

/// What a session does before its script, so that each script finds the same.
pub fn before(tribe: Tribe, slot: usize) -> Vec<Step> {
    let rows = ['a', 'b'].map(|which| rows(slot, which)).concat();
    let mut steps = Vec::new();
    if tribe == Tribe::Wild {
        steps.push(Step::query(&format!(
            "SET client_min_messages TO error;
             DROP SCHEMA IF EXISTS s{slot}_a CASCADE; DROP SCHEMA IF EXISTS s{slot}_b CASCADE;
             {}; {}; RESET client_min_messages",
            once(slot),
            traps(slot)
        )));
    }
    // In the way of nothing that a client sets when it begins.
    steps.push(Step::query(&format!(
        "BEGIN READ WRITE; {rows} SELECT setval('s{slot}_a.q', 1, false); COMMIT"
    )));
    // `currval` is known to be used here: sequences are then the session's.
    steps.push(Step::query("SELECT lastval()"));
    steps.push(Step::query("DISCARD SEQUENCES"));
    steps
}

/// Everything that changes its session and does not say so.
fn traps(slot: usize) -> String {
    let s = format!("s{slot}_a");
    format!(
        "CREATE FUNCTION {s}.does(sql text) RETURNS int LANGUAGE plpgsql AS
             'BEGIN EXECUTE sql; RETURN 7; END';
         CREATE FUNCTION {s}.sets(name text, value text) RETURNS text LANGUAGE sql AS
             'SELECT set_config(name, value, false)';
         CREATE FUNCTION {s}.plainly() RETURNS void LANGUAGE plpgsql AS
             'BEGIN SET work_mem TO ''1234kB''; END';
         CREATE FUNCTION {s}.locally() RETURNS text LANGUAGE plpgsql SET work_mem TO '999kB' AS
             'BEGIN SET application_name TO ''inner''; RETURN current_setting(''work_mem''); END';
         CREATE FUNCTION {s}.back() RETURNS text LANGUAGE plpgsql AS
             'BEGIN BEGIN PERFORM set_config(''work_mem'', ''888kB'', false); RAISE division_by_zero;
              EXCEPTION WHEN division_by_zero THEN NULL; END; RETURN current_setting(''work_mem''); END';
         CREATE PROCEDURE {s}.commits(value text) LANGUAGE plpgsql AS
             'BEGIN PERFORM set_config(''app.two'', value, false); COMMIT;
              PERFORM set_config(''app.one'', value, false); ROLLBACK; END';
         CREATE TABLE {s}.hot(name text, value text);
         CREATE FUNCTION {s}.fires() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM set_config(NEW.name, NEW.value, false); RETURN NEW; END';
         CREATE TRIGGER fires BEFORE INSERT OR UPDATE ON {s}.hot FOR EACH ROW
             EXECUTE FUNCTION {s}.fires();
         CREATE TABLE {s}.late(name text, value text);
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {s}.late DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION {s}.fires();
         CREATE VIEW {s}.seen AS SELECT set_config('work_mem', '345kB', false) AS a;
         CREATE VIEW {s}.over AS SELECT * FROM {s}.seen;
         CREATE TABLE {s}.ruled(a int);
         CREATE RULE ruled AS ON INSERT TO {s}.ruled DO ALSO
             SELECT set_config('app.two', NEW.a::text, false);
         CREATE FUNCTION {s}.checked(value int) RETURNS boolean LANGUAGE plpgsql AS
             'BEGIN PERFORM set_config(''app.one'', ''checked '' || value, false); RETURN true; END';
         CREATE DOMAIN {s}.dom AS int CHECK ({s}.checked(VALUE));
         CREATE TABLE {s}.filled(id int, x text DEFAULT {s}.sets('DateStyle', 'German'));
         CREATE TABLE {s}.guarded(id int);
         INSERT INTO {s}.guarded VALUES (1), (2);
         ALTER TABLE {s}.guarded ENABLE ROW LEVEL SECURITY;
         ALTER TABLE {s}.guarded FORCE ROW LEVEL SECURITY;
         CREATE POLICY guarded ON {s}.guarded USING ({s}.checked(id));
         CREATE FUNCTION {s}.joined(a int, b int) RETURNS int LANGUAGE plpgsql AS
             'BEGIN PERFORM set_config(''app.two'', (a + b)::text, false); RETURN a + b; END';
         CREATE OPERATOR {s}.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = {s}.joined);
         CREATE AGGREGATE {s}.gathered(int) (SFUNC = {s}.joined, STYPE = int, INITCOND = '0');
         CREATE TYPE {s}.pair AS (a int, b int);
         CREATE FUNCTION {s}.told(p {s}.pair) RETURNS text LANGUAGE plpgsql AS
             'BEGIN PERFORM set_config(''app.one'', ''cast'', false); RETURN p.a; END';
         CREATE CAST ({s}.pair AS text) WITH FUNCTION {s}.told({s}.pair) AS ASSIGNMENT;
         CREATE FUNCTION {s}.upper(text) RETURNS text LANGUAGE sql AS
             'SELECT set_config(''hidden.one'', $1, false)';
         CREATE FUNCTION {s}.lower(bigint) RETURNS text LANGUAGE sql AS
             'SELECT set_config(''hidden.one'', ''low'' || $1, false)';
         CREATE FUNCTION {s}.makes() RETURNS void LANGUAGE plpgsql AS
             'BEGIN CREATE TEMP TABLE IF NOT EXISTS made(a int); INSERT INTO made VALUES (1); END';
         CREATE FUNCTION {s}.holds(key int) RETURNS void LANGUAGE sql AS
             'SELECT pg_advisory_lock(key)';
         CREATE FUNCTION {s}.harmless(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + 1';
         CREATE TABLE {s}.grows(a int); INSERT INTO {s}.grows VALUES (1)"
    )
}
