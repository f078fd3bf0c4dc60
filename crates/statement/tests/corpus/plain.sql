# One text a line, run as one simple query in a session of its own, in a database whose own
# definitions run nothing: tables t (a int, b text) with rows, sequence s, role other.
# `before ==> text`: `before` is run first and not looked at.

# SET in all forms
SET work_mem = '8MB'
SET work_mem TO 8192
set SESSION Work_Mem = '8MB'
SET "work_mem" TO '8MB'
SET work_mem TO DEFAULT
SET work_mem = '8MB' ==> SET work_mem TO DEFAULT
SET LOCAL work_mem = '8MB'
BEGIN; SET LOCAL work_mem = '8MB'; COMMIT
BEGIN; SET work_mem = '8MB'; COMMIT
BEGIN; SET work_mem = '8MB'; ROLLBACK
BEGIN; SAVEPOINT a; SET work_mem = '8MB'; ROLLBACK TO a; COMMIT
SET work_mem FROM CURRENT
SET app.me = '1'
SET App.Me TO 'Me'
SET "App"."me" = 'x', 'y'
SET app . me = 12
SET app.me TO 'it''s'
SET app.me TO $$a b$$
SET app.me TO N'a'
SET app.me = E'a\'b'
SET app.me = 'a' -- comment
SET app.me = true
SET app.me = Yes
SET app.me = -5
SET app.me = +5
SET app.me = -1.50
SET app.me = 2147483648
SET app.me = 00012
SET app.me = 1.0
SET app.me = off, on, 'Mixed Case', plain
SET LOCAL app.me = '1'
BEGIN; SET LOCAL app.me = '1'; COMMIT
SET session.x = '1'
SET local.x = '1'
SET search_path TO public
SET search_path TO "$user", public, pg_catalog
SET search_path = 'a b', "Mixed", lower, "select", "left", "int", public
SET search_path = ''
SET search_path TO ''
SET search_path = "quote""d"
SET search_path = pg_temp, public
SET SCHEMA 'public'
SET SCHEMA 'A b'
SET temp_tablespaces = ''
SET TIME ZONE 'Europe/Berlin'
SET TIME ZONE 'UTC'
SET TIME ZONE utc
SET TIME ZONE -7
SET TIME ZONE 5.5
SET TIME ZONE +3
SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE
SET TIME ZONE LOCAL
SET TIME ZONE DEFAULT
SET TimeZone = 'Asia/Tokyo'
SET LOCAL TIME ZONE 'UTC'
SET NAMES 'LATIN1'
SET NAMES
SET NAMES DEFAULT
SET client_encoding TO latin1
SET client_encoding = 'SQL_ASCII'
SET XML OPTION DOCUMENT
SET XML OPTION CONTENT
SET DateStyle TO ISO, DMY
SET datestyle = german
SET datestyle TO 'SQL, MDY'
SET IntervalStyle = 'iso_8601'
SET intervalstyle TO sql_standard
SET extra_float_digits = 3
SET extra_float_digits = -2
SET bytea_output TO escape
SET statement_timeout = '5min'
SET statement_timeout = 0
SET statement_timeout = 12345
SET lock_timeout TO 1000
SET enable_seqscan = off
SET enable_seqscan TO false
SET enable_seqscan TO 'no'
SET random_page_cost = 1.1
SET seq_page_cost TO 2
SET cursor_tuple_fraction = .5
SET standard_conforming_strings = off
SET escape_string_warning = off
SET backslash_quote = on
SET default_transaction_isolation = 'serializable'
SET default_transaction_read_only = on
SET default_text_search_config = 'pg_catalog.english'
SET default_table_access_method = heap
SET plan_cache_mode = force_generic_plan
SET client_min_messages TO warning
SET log_statement = 'all'
SET session_replication_role = replica
SET row_security = off
SET check_function_bodies = false
SET application_name = 'me'
SET application_name TO "Me Too"
SET jit = off
SET transform_null_equals TO on
SET constraint_exclusion = partition
SET debug_print_parse = on
SET geqo_seed = 0.5
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ UNCOMMITTED
SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY
SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE, DEFERRABLE
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY, NOT DEFERRABLE
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE
BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; COMMIT
SET TRANSACTION READ ONLY
BEGIN; SET transaction_read_only = on; COMMIT
SET transaction_isolation = 'serializable'
SET transaction_deferrable = on
BEGIN; SET CONSTRAINTS ALL DEFERRED; COMMIT
SET CONSTRAINTS ALL IMMEDIATE
SET SEED TO 0.5
SET seed = 0.25
SET ROLE other
SET ROLE 'other'
SET ROLE NONE
SET role TO other
SET role = 'other'
SET LOCAL ROLE other
BEGIN; SET LOCAL ROLE other; COMMIT
SET SESSION ROLE other
SET SESSION AUTHORIZATION other
SET SESSION AUTHORIZATION 'other'
SET LOCAL SESSION AUTHORIZATION other
SET SESSION SESSION AUTHORIZATION other
SET session_authorization = other
SET SESSION AUTHORIZATION other ==> SET SESSION AUTHORIZATION DEFAULT
SET ROLE other ==> RESET ROLE
SET ROLE other ==> SET ROLE NONE
SET SESSION AUTHORIZATION other ==> RESET SESSION AUTHORIZATION
SET work_mem = '8MB' ==> RESET work_mem
SET work_mem = '8MB' ==> RESET ALL
SET work_mem = '8MB' ==> DISCARD ALL
SET app.me = '1' ==> RESET app.me
SET app.me = '1' ==> RESET ALL
SET TIME ZONE 'UTC' ==> RESET TIME ZONE
SET TIME ZONE 'UTC' ==> RESET timezone
SET default_transaction_isolation = serializable ==> RESET TRANSACTION ISOLATION LEVEL
SHOW work_mem
SHOW ALL
SHOW TIME ZONE
SHOW TRANSACTION ISOLATION LEVEL
SELECT 1; SET work_mem = '8MB'
SET work_mem = '8MB'; SELECT 1
SET work_mem = '8MB'; SET app.me = '2'; SELECT 1
/* a */ SET /* b */ work_mem -- c
-- first\nSET work_mem = '8MB'

# set_config
SELECT set_config('work_mem', '8MB', false)
SELECT set_config('Work_Mem', '8MB', FALSE)
SELECT pg_catalog.set_config('work_mem', '8MB', false)
SELECT "pg_catalog"."set_config"('work_mem', '8MB', false)
SELECT set_config('work_mem', '8MB', true)
SELECT set_config('work_mem', '8MB', 'false')
SELECT set_config('work_mem', '8MB', 'f')
SELECT set_config('work_mem', '8MB', 1 = 2)
SELECT set_config('work_mem', '8MB', NULL)
SELECT set_config('work_mem', '8MB', not true)
SELECT set_config('work_mem', '8MB', (true))
SELECT set_config('work_mem', '8MB', true and false)
SELECT set_config('work_mem', '8MB', is_local => false)
SELECT set_config(setting_name => 'work_mem', new_value => '8MB', is_local => false)
SELECT set_config(is_local => false, setting_name => 'work_mem', new_value => '8MB')
SELECT set_config(name, '8MB', false) FROM pg_settings WHERE name = 'work_mem'
SELECT set_config('work' || '_mem', '8MB', false)
SELECT set_config(E'work\x5fmem', '8MB', false)
SELECT set_config(U&'work\005fmem', '8MB', false)
SELECT U&"set\005fconfig"('work_mem', '8MB', false)
SELECT U&"set!005fconfig" UESCAPE '!' ('work_mem', '8MB', false)
SELECT SET_CONFIG ('work_mem', '8MB', false)
SELECT set_config -- x\n ('work_mem', '8MB', false)
SELECT set_config/* ( */('work_mem', '8MB', false)
SELECT * FROM set_config('work_mem', '8MB', false)
SELECT * FROM ROWS FROM (set_config('work_mem', '8MB', false)) AS x (y)
SELECT x FROM (VALUES ('8MB')) v (x), LATERAL set_config('work_mem', x, false)
SELECT 1 WHERE set_config('work_mem', '8MB', false) IS NOT NULL
SELECT 1 ORDER BY set_config('work_mem', '8MB', false)
SELECT 1 LIMIT length(set_config('work_mem', '8MB', false))
SELECT (SELECT set_config('work_mem', '8MB', false))
SELECT CASE WHEN true THEN set_config('work_mem', '8MB', false) END
SELECT coalesce(NULL, set_config('work_mem', '8MB', false))
SELECT ARRAY[set_config('work_mem', '8MB', false)]
SELECT set_config('work_mem', set_config('app.me', '8MB', false), true)
SELECT set_config('app.me', '1', false)
SELECT set_config('app.me', '1', true)
SELECT set_config('app.me', '', false)
SELECT set_config('search_path', 'pg_catalog, "A b"', false)
SELECT set_config('role', 'other', false)
SELECT set_config('session_authorization', 'other', false)
SELECT set_config('TimeZone', 'UTC', false)
SELECT count(set_config('app.me', a::text, false)) FROM t
SELECT sum(length(set_config('app.me', 'x', false))) OVER (ORDER BY a) FROM t
WITH x AS (SELECT set_config('work_mem', '8MB', false) AS y) SELECT y FROM x
WITH x AS MATERIALIZED (SELECT set_config('work_mem', '8MB', false) AS y) SELECT 1 FROM x
VALUES (set_config('work_mem', '8MB', false))
(SELECT set_config('work_mem', '8MB', false))
(((SELECT 1))) UNION ALL SELECT length(set_config('work_mem', '8MB', false))
SELECT DISTINCT ON (1) set_config('work_mem', '8MB', false)
SELECT DISTINCT set_config('work_mem', '8MB', false)
INSERT INTO t VALUES (1, set_config('work_mem', '8MB', false))
INSERT INTO t (a, b) SELECT 1, set_config('work_mem', '8MB', false)
INSERT INTO t VALUES (1, 'x') RETURNING set_config('work_mem', '8MB', false)
UPDATE t SET b = set_config('work_mem', '8MB', false)
DELETE FROM t WHERE set_config('work_mem', '8MB', false) = 'x'
MERGE INTO t USING (SELECT 1 AS x) u ON t.a = u.x WHEN NOT MATCHED THEN INSERT VALUES (9, set_config('work_mem', '8MB', false)) WHEN MATCHED THEN UPDATE SET b = set_config('work_mem', '8MB', false)
COPY (SELECT set_config('work_mem', '8MB', false)) TO '/dev/null'
EXPLAIN ANALYZE SELECT set_config('work_mem', '8MB', false)
EXPLAIN SELECT set_config('work_mem', '8MB', false)
CREATE TABLE z AS SELECT set_config('work_mem', '8MB', false) AS x
CREATE MATERIALIZED VIEW z AS SELECT set_config('work_mem', '8MB', false) AS x
SELECT set_config('work_mem', '8MB', false) INTO z
BEGIN; DECLARE c CURSOR FOR SELECT set_config('work_mem', '8MB', false); FETCH c; COMMIT
BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT set_config('work_mem', '8MB', false); COMMIT
PREPARE p AS SELECT set_config('work_mem', '8MB', false); EXECUTE p
UPDATE pg_settings SET setting = '8MB' WHERE name = 'work_mem'
UPDATE pg_catalog.pg_settings SET setting = '8MB' WHERE name = 'work_mem'
UPDATE ONLY "pg_settings" AS x SET setting = '8MB' WHERE name = 'work_mem'
WITH x AS (SELECT 1) UPDATE pg_settings SET setting = '8MB' WHERE name = 'work_mem'
UPDATE U&"pg\005fsettings" SET setting = '8MB' WHERE name = 'work_mem'
EXPLAIN ANALYZE UPDATE pg_settings SET setting = '8MB' WHERE name = 'work_mem'
SELECT query_to_xml('SELECT set_config(''work_mem'', ''8MB'', false)', true, true, '')
SELECT * FROM ts_stat('SELECT set_config(''work_mem'', ''8MB'', false)::tsvector')
SELECT ts_rewrite('a'::tsquery, 'SELECT set_config(''app.me'', ''a'', false)::tsquery, ''b''::tsquery')
SELECT current_setting('work_mem'), current_setting('app.me', true)

# Temporary objects, however spelt
CREATE TEMP TABLE z (a int)
CREATE TEMPORARY TABLE z (a int)
CREATE LOCAL TEMP TABLE z (a int)
CREATE LOCAL TEMPORARY TABLE z (a int)
CREATE GLOBAL TEMP TABLE z (a int)
CREATE GLOBAL TEMPORARY TABLE z (a int)
create /* x */ temp table if not exists z (a int) on commit delete rows
CREATE TEMP TABLE z ON COMMIT DROP AS SELECT 1
CREATE TEMP TABLE z AS SELECT 1
CREATE TEMP TABLE z AS VALUES (1)
CREATE TEMP TABLE z AS TABLE t
CREATE TEMP TABLE z (LIKE t)
CREATE TEMP TABLE z PARTITION OF nothing DEFAULT
CREATE TABLE pg_temp.z (a int)
CREATE TABLE "pg_temp".z (a int)
CREATE TABLE pg_temp.z AS SELECT 1
CREATE UNLOGGED TABLE pg_temp.z (a int)
SELECT 1 AS a INTO TEMP z
SELECT 1 AS a INTO TEMPORARY TABLE z
SELECT 1 AS a INTO LOCAL TEMP z
SELECT 1 AS a INTO GLOBAL TEMPORARY TABLE z
SELECT 1 AS a INTO pg_temp.z
SELECT * INTO pg_temp.z FROM t
WITH x AS (SELECT 1 AS a) SELECT * INTO TEMP z FROM x
EXPLAIN ANALYZE SELECT 1 AS a INTO TEMP z
EXPLAIN ANALYZE CREATE TEMP TABLE z AS SELECT 1
SET search_path = pg_temp, public; CREATE TABLE z (a int)
SET search_path = pg_temp ==> CREATE TABLE z (a int)
SET search_path = pg_temp ==> CREATE TABLE z AS SELECT 1
SET search_path = pg_temp ==> SELECT 1 AS a INTO z
SET search_path = pg_temp ==> CREATE VIEW z AS SELECT 1
SET search_path = pg_temp ==> CREATE SEQUENCE z
SET search_path = pg_temp ==> CREATE TYPE z AS ENUM ('a')
SET search_path = pg_temp ==> CREATE FUNCTION z() RETURNS int LANGUAGE sql AS 'SELECT 1'
SET search_path = pg_temp ==> CREATE DOMAIN z AS int
CREATE TEMP VIEW z AS SELECT 1
CREATE OR REPLACE TEMP VIEW z AS SELECT 1
CREATE TEMP RECURSIVE VIEW z (n) AS SELECT 1
CREATE VIEW pg_temp.z AS SELECT 1
CREATE TEMP SEQUENCE z
CREATE SEQUENCE pg_temp.z
CREATE FUNCTION pg_temp.z() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE FUNCTION pg_temp.z() RETURNS int BEGIN ATOMIC SELECT 1; END
CREATE TYPE pg_temp.z AS (a int)
CREATE DOMAIN pg_temp.z AS int
CREATE AGGREGATE pg_temp.z (int) (SFUNC = int4pl, STYPE = int)
DO $$ BEGIN CREATE TEMP TABLE z (a int); END $$
DO 'BEGIN EXECUTE ''CREATE TEMP TABLE z (a int)''; END'
DO LANGUAGE plpgsql $$ BEGIN CREATE TEMP TABLE z (a int); END $$
CREATE TEMP TABLE z (a int) ==> DROP TABLE z
CREATE TEMP TABLE z (a int) ==> DISCARD TEMP
CREATE TEMP TABLE z (a int) ==> DISCARD ALL
CREATE TEMP TABLE z (a int) ==> CREATE INDEX ON z (a)
PREPARE p AS SELECT 1 AS a; CREATE TEMP TABLE z AS EXECUTE p
BEGIN; CREATE TEMP TABLE z (a int); ROLLBACK
IMPORT FOREIGN SCHEMA x FROM SERVER y INTO pg_temp
ALTER TABLE t SET SCHEMA pg_temp

# Statements kept by name
PREPARE p AS SELECT 1
PREPARE p (int) AS INSERT INTO t VALUES ($1)
prepare "P" as table t
PREPARE p AS VALUES (1)
PREPARE p AS SELECT 1 ==> EXECUTE p
PREPARE p AS SELECT 1 ==> DEALLOCATE p
PREPARE p AS SELECT 1 ==> DEALLOCATE PREPARE p
PREPARE p AS SELECT 1 ==> DEALLOCATE ALL
PREPARE p AS SELECT 1 ==> DEALLOCATE PREPARE ALL
PREPARE p AS SELECT 1 ==> DISCARD ALL
PREPARE p AS SELECT 1 ==> DISCARD PLANS
PREPARE prepare AS SELECT 1 ==> DEALLOCATE prepare
PREPARE p AS SELECT set_config('work_mem', '8MB', false) ==> EXECUTE p
PREPARE p AS SELECT set_config('work_mem', '8MB', false) ==> EXPLAIN ANALYZE EXECUTE p
PREPARE p AS SELECT set_config('work_mem', '8MB', false) ==> CREATE TABLE z AS EXECUTE p
PREPARE p (text) AS SELECT $1 ==> EXECUTE p (set_config('work_mem', '8MB', false))
BEGIN; PREPARE p AS SELECT 1; ROLLBACK
DO $$ BEGIN PREPARE p AS SELECT 1; END $$
DO $$ BEGIN EXECUTE 'PREPARE p AS SELECT 1'; END $$
BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'x'
COMMIT PREPARED 'nothing'
ROLLBACK PREPARED 'nothing'

# Channels
LISTEN a
listen "A"
LISTEN a; LISTEN b
BEGIN; LISTEN a; COMMIT
BEGIN; LISTEN a; ROLLBACK
LISTEN a ==> UNLISTEN a
LISTEN a ==> UNLISTEN *
LISTEN a ==> DISCARD ALL
DO $$ BEGIN LISTEN a; END $$
DO $$ BEGIN EXECUTE 'LISTEN a'; END $$
NOTIFY a
NOTIFY a, 'x'
SELECT pg_notify('a', 'x')
SELECT * FROM pg_listening_channels()

# Advisory locks
SELECT pg_advisory_lock(1)
SELECT pg_catalog.pg_advisory_lock(1, 2)
SELECT pg_advisory_lock_shared(1)
SELECT pg_try_advisory_lock(1)
SELECT pg_try_advisory_lock_shared(1, 2)
SELECT pg_advisory_xact_lock(1)
SELECT pg_try_advisory_xact_lock(1), pg_advisory_xact_lock_shared(2)
SELECT pg_advisory_lock(a) FROM t
SELECT 1 FROM t WHERE pg_try_advisory_lock(a) LIMIT 1
BEGIN; SELECT pg_advisory_lock(1); ROLLBACK
SELECT pg_advisory_lock(1) ==> SELECT pg_advisory_unlock(1)
SELECT pg_advisory_lock(1) ==> SELECT pg_advisory_unlock_all()
SELECT pg_advisory_lock_shared(1) ==> SELECT pg_advisory_unlock_shared(1)
SELECT pg_advisory_lock(1) ==> DISCARD ALL
DO $$ BEGIN PERFORM pg_advisory_lock(1); END $$
UPDATE t SET a = 5 WHERE pg_try_advisory_lock(1)
SELECT count(*) FILTER (WHERE pg_try_advisory_lock(a)) FROM t
EXPLAIN ANALYZE SELECT pg_advisory_lock(7)

# Cursors
BEGIN; DECLARE c CURSOR FOR SELECT 1; COMMIT
BEGIN; DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1; COMMIT
DECLARE c CURSOR WITH HOLD FOR SELECT 1
DECLARE c BINARY INSENSITIVE NO SCROLL CURSOR WITH HOLD FOR TABLE t
DECLARE "C" SCROLL CURSOR WITH /* hold */ HOLD FOR VALUES (1)
BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT
BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; ROLLBACK
DECLARE c CURSOR WITH HOLD FOR SELECT 1 ==> CLOSE c
DECLARE c CURSOR WITH HOLD FOR SELECT 1 ==> CLOSE ALL
DECLARE c CURSOR WITH HOLD FOR SELECT 1 ==> DISCARD ALL
DECLARE c CURSOR WITH HOLD FOR SELECT 1 ==> FETCH ALL FROM c
DECLARE c CURSOR WITH HOLD FOR SELECT 1 ==> MOVE 1 IN c
DO $$ BEGIN EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT 1'; END $$

# What only works inside its transaction, or on objects
SELECT 1
SELECT * FROM t
SELECT * FROM t FOR UPDATE
TABLE t
VALUES (1), (2)
WITH x AS (INSERT INTO t VALUES (3) RETURNING a) SELECT * FROM x
WITH x AS (UPDATE t SET b = 'y' RETURNING a), y AS (DELETE FROM t RETURNING a) SELECT * FROM x, y
WITH RECURSIVE x (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x WHERE n < 3) SELECT * FROM x
INSERT INTO t VALUES (1, 'a') RETURNING *
INSERT INTO t DEFAULT VALUES
UPDATE t SET (a, b) = (1, 'c')
DELETE FROM t
MERGE INTO t USING (VALUES (1)) u (x) ON a = x WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (x)
TRUNCATE t
LOCK TABLE t
BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; COMMIT
COPY t TO '/dev/null'
COPY t FROM '/dev/null'
COPY (VALUES (1)) TO '/dev/null' WITH (FORMAT csv)
VACUUM
VACUUM (FULL) t
VACUUM ANALYZE t
ANALYZE
REINDEX TABLE t
CLUSTER
CHECKPOINT
EXPLAIN SELECT * FROM t
EXPLAIN (ANALYZE, VERBOSE, FORMAT json) SELECT * FROM t
SELECT nextval('s'), currval('s'), lastval(), setval('s', 5)
SELECT nextval('s') ==> DISCARD SEQUENCES
CREATE TABLE z (a int)
CREATE INDEX ON t (a)
ALTER TABLE t ADD COLUMN c int
DROP TABLE IF EXISTS z
CREATE FUNCTION z() RETURNS int LANGUAGE sql SET work_mem = '9MB' AS 'SELECT 1'
CREATE ROLE z
ALTER ROLE other SET work_mem = '8MB'
ALTER DATABASE plain SET work_mem = '8MB'
ALTER SYSTEM SET work_mem = '8MB'
COMMENT ON TABLE t IS 'x'
GRANT SELECT ON t TO other
REVOKE SELECT ON t FROM other
REASSIGN OWNED BY other TO postgres
SECURITY LABEL ON TABLE t IS 'x'
CREATE EXTENSION pg_trgm
CREATE EXTENSION IF NOT EXISTS plpgsql
LOAD 'auto_explain'
START TRANSACTION; COMMIT AND CHAIN; ROLLBACK
BEGIN READ ONLY; COMMIT
BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE; END
SAVEPOINT a
BEGIN; SAVEPOINT a; RELEASE a; ABORT
DISCARD ALL
DISCARD PLANS
DISCARD TEMP
RESET ALL
SELECT setseed(0.5)
SELECT pg_export_snapshot()
SELECT lo_create(0)
BEGIN; SELECT lo_open(lo_create(0), 131072); COMMIT
SELECT pg_stat_clear_snapshot(), pg_backend_pid(), txid_current()
SELECT table_to_xml('t', true, true, '')
SELECT pg_input_is_valid('1', 'int')
DO $$ BEGIN NULL; END $$
DO $$ BEGIN SET work_mem = '8MB'; END $$
DO $$ BEGIN SET LOCAL work_mem = '8MB'; END $$
DO $$ BEGIN PERFORM set_config('app.me', '1', false); END $$
DO $$ BEGIN PERFORM set_config('app.me', '1', true); END $$
DO $$ DECLARE n text := 'app.me'; BEGIN PERFORM set_config(n, '1', false); END $$
DO $$ BEGIN EXECUTE 'SET app.me = 1'; END $$
DO $$ BEGIN EXECUTE 'SET ROLE other'; END $$
DO $$ BEGIN UPDATE pg_settings SET setting = '8MB' WHERE name = 'work_mem'; END $$
DO E'BEGIN SET work_mem = \'8MB\'; END'
DO 'BEGIN SET work_mem = ''8MB''; END'

# Traps of the scanner: each hides or shows a SET or a call
SELECT '; SET work_mem = 1;'
SELECT 'a\'; SET work_mem = '8MB'; --'
SET standard_conforming_strings = off ==> SELECT '\'; SET work_mem = 8192; --'
SELECT E'\''; SET work_mem = '8MB'
SELECT $$; SET work_mem = 1 $$; SET work_mem = '8MB'
SELECT $a$ $b$ $a$; SET work_mem = '8MB' -- $a$
SELECT 1 /* /* */ ; SET work_mem = '8MB' */
SELECT 1 /* ; */; SET work_mem = '8MB'
SELECT 1 -- ; \n; SET work_mem = '8MB'
SELECT 1 AS ";" ; SET work_mem = '8MB'
SELECT 1+/* x */2; SET work_mem = '8MB'
SELECT 2*-1; SET work_mem = '8MB'
SELECT 'a'\n'b'; SET work_mem = '8MB'
SELECT E'a'\n'\''; SET work_mem = '8MB'
SELECT U&'\0061' ; SET work_mem = '8MB'
SELECT U&"\0061" FROM t; SET work_mem = '8MB'
SELECT b'01', x'1F'; SET work_mem = '8MB'
SELECT 1.5e3, .5, 1e-5; SET work_mem = '8MB'
SELECT 1::text; SET work_mem = '8MB'
SELECT ARRAY[1,2][1:2]; SET work_mem = '8MB'
SELECT a$b$c FROM (SELECT 1 AS a$b$c) x; SET work_mem = '8MB'
SELECT 'é', "é" FROM (SELECT 1 AS "é") é; SET work_mem = '8MB'
CREATE FUNCTION z() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; SET work_mem = '8MB'
CREATE FUNCTION z() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END; SET work_mem = '8MB'
CREATE FUNCTION z() RETURNS int BEGIN ATOMIC SELECT 1 AS "end"; END; SET work_mem = '8MB'
CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'; SET work_mem = '8MB'
CREATE RULE z AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2); SET work_mem = '8MB'
;;;SET work_mem = '8MB';;;
;
-- nothing
