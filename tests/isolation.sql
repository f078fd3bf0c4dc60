-- What a tenant tries with SQL alone, straight at the server, as the proxy would log it in.
-- Run by tests/isolation.sh, on PostgreSQL 15 and 18; how each is judged is in isolation/runner.py.
--
-- `-- mechanism:` starts one; below it, each line `-- <who>: <what must happen>` heads the statements
-- that follow. Who: tenant.role, where A and B are plain tenants, C is a branch of A, P is a tenant of a
-- blueprint; `platform` (in `postgres`) or `platform@A` is us: the positive control. What must happen:
--   ok              every statement succeeds
--   = text          so, and the last one returns this (columns by |, rows by ,)
--   42501           the statements before succeed, the last is refused with this SQLSTATE
--   42501 "text"    and says this
--   inert           refused, or "succeeds" without effect (GRANT without the right only warns)
-- A refusal is tried four times: as it stands, after SET ROLE NONE, inside DO, and inside DO after
-- SET ROLE NONE; ` plain` at the end of the line keeps it to the first, ` do=25001` tells another code
-- inside DO. `15 ` or `16+ ` before who: on these versions only. After every mechanism roles, databases,
-- settings, memberships and comments of the whole server and the whole of B are byte-equal, B's open
-- session still answers, and nothing that A, C or P received contains B's canary. `-- changes:` marks
-- mechanisms that may change shared rows: repaired by the platform's steps, then compared.
-- {a} {b} {c} {p}: databases; {b_pid}: B's open session.

------------------------------------------------------------------------------------------------- branches

-- mechanism: a branch names no tenant
-- platform@C: = 0
SELECT count(*) FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND r.rolname ~ '^x_';
-- platform@C: = 0
SELECT count(*) FROM pg_class WHERE pg_get_userbyid(relowner) ~ '^x_';
-- C.read: = a
SELECT note FROM kept_for_branch.notes;

------------------------------------------------------------------------------------------------- roles

-- mechanism: SET ROLE to a login of another tenant
-- A.admin A.write A.read C.admin: 42501
SET ROLE {b}_admin;
-- A.admin A.write A.read C.admin: 42501
SET ROLE {b}_read;
-- C.admin: 42501
SET ROLE {a}_admin;
-- B.admin: = tenantry_admin|{b}_admin
SET ROLE NONE;
SET ROLE {b}_admin;
SET ROLE tenantry_admin;
SELECT current_user, session_user;

-- mechanism: SET ROLE to a group that is not one's own
-- A.write A.read: 42501
SET ROLE tenantry_admin;
-- A.read: 42501
SET ROLE tenantry_write;
-- A.admin A.write A.read P.admin: 42501
SET ROLE tenantry_owner;
-- P.deploy: = tenantry_owner
SET ROLE NONE;
SET ROLE tenantry_owner;
SELECT current_user;

-- mechanism: SET ROLE to the platform or a predefined role
-- A.admin A.write A.read P.deploy: 42501
SET ROLE {platform};
-- A.admin A.write A.read: 42501
SET ROLE pg_read_all_data;
-- A.admin A.write A.read: 42501
SET ROLE pg_monitor;
-- A.admin A.write A.read: 42501
SET ROLE pg_signal_backend;
-- A.admin A.write A.read: 42501
SET ROLE pg_execute_server_program;
-- A.admin A.write A.read: 42501
SET ROLE pg_read_server_files;
-- A.admin A.write A.read: 42501
SET ROLE pg_database_owner;
-- platform: ok
SET ROLE pg_monitor;

-- mechanism: SET ROLE through set_config, SET LOCAL and a function's SET clause
-- A.admin A.write A.read: 42501
SELECT set_config('role', '{b}_admin', false);
-- A.admin A.write A.read: 42501
BEGIN;
SET LOCAL ROLE {b}_admin;
-- A.admin: 42501 plain
CREATE FUNCTION pg_temp.become() RETURNS name LANGUAGE sql SET role = '{b}_admin' AS 'SELECT current_user';
-- A.admin: = tenantry_admin
SELECT set_config('role', 'none', false);
SELECT set_config('role', 'tenantry_admin', false);

-- mechanism: the wall role lends nothing
-- 16+ A.admin A.write A.read: 42501
SET ROLE {a};
-- A.admin A.write A.read: 42501
SET ROLE {b};
-- 15 A.admin A.write A.read: 42501 plain
SET ROLE {a};
SELECT * FROM public.notes;
-- 15 A.admin A.write A.read: 42501 plain
SET ROLE {a};
CREATE TEMPORARY TABLE t (i int);
-- 15 A.admin A.write A.read: 42501 plain
SET ROLE {a};
SELECT lo_create(0);
-- A.read: = 1
SELECT count(*) FROM public.notes WHERE note = 'a';

-- mechanism: SET SESSION AUTHORIZATION
-- A.admin A.write A.read P.deploy: 42501
SET SESSION AUTHORIZATION {platform};
-- A.admin A.write A.read: 42501
SET SESSION AUTHORIZATION {b}_admin;
-- A.admin: 42501
SET SESSION AUTHORIZATION tenantry_owner;
-- platform: = {b}_admin
SET SESSION AUTHORIZATION {b}_admin;
SELECT session_user;

-- mechanism: SET ROLE NONE leaves a login that may do nothing
-- A.admin A.write A.read P.deploy: 42501 plain
SET ROLE NONE;
CREATE TABLE public.mine (i int);
-- A.admin A.write A.read P.deploy: 42501 plain
SET ROLE NONE;
CREATE TEMPORARY TABLE mine (i int);
-- A.admin A.write P.deploy: 42501 plain
SET ROLE NONE;
SELECT lo_create(0);
-- A.admin A.write A.read: 42501 plain
SET ROLE NONE;
SELECT * FROM public.notes;
-- A.admin P.deploy: 42501 plain
SET ROLE NONE;
CREATE SCHEMA mine;
-- A.admin A.write: 42501 plain
SET ROLE NONE;
SELECT pg_advisory_lock(1);
-- A.admin: ok
SET ROLE NONE;
RESET ROLE;
CREATE TABLE public.mine (i int);
DROP TABLE public.mine;

-- mechanism: a DO block that leaves the role in the middle
-- A.admin A.write A.read: 42501 plain
DO $$ BEGIN SET ROLE NONE; CREATE TABLE public.mine (i int); END $$;
-- A.admin A.write A.read: 42501 plain
DO $$ BEGIN SET ROLE NONE; SET ROLE {b}_admin; END $$;
-- A.admin: = tenantry_admin
DO $$ BEGIN SET ROLE NONE; RESET ROLE; END $$;
SELECT current_user;

-- mechanism: objects that name a tenant (REASSIGN OWNED, OWNER TO, AUTHORIZATION)
-- A.admin A.write A.read: 42501
REASSIGN OWNED BY tenantry_admin TO {a}_admin;
-- A.admin: 42501
ALTER TABLE public.notes OWNER TO {a}_admin;
-- A.admin: 42501
ALTER TABLE public.notes OWNER TO {b}_admin;
-- A.admin: 42501
CREATE SCHEMA mine AUTHORIZATION {a}_admin;
-- A.admin: 42501
ALTER SCHEMA public OWNER TO {a}_admin;
-- A.admin: 42501
ALTER DEFAULT PRIVILEGES FOR ROLE {b}_admin GRANT SELECT ON TABLES TO PUBLIC;
-- A.admin: ok
ALTER TABLE public.notes OWNER TO tenantry_admin;
REASSIGN OWNED BY tenantry_admin TO tenantry_admin;

-- mechanism: objects handed to the platform (OWNER TO a privileged role)
-- A.admin A.write: 42501
ALTER FUNCTION public.touch() OWNER TO {platform};
-- A.admin: 42501
REASSIGN OWNED BY tenantry_admin TO {platform};
-- A.admin: 42501
ALTER TABLE public.notes OWNER TO tenantry_owner;
-- A.admin: 42501
CREATE SCHEMA mine AUTHORIZATION {platform};
-- A.admin: 42501
ALTER TABLE public.notes OWNER TO pg_read_all_data;
-- platform@A: ok
BEGIN;
ALTER FUNCTION public.touch() OWNER TO tenantry_owner;
ROLLBACK;

-- mechanism: DROP OWNED takes nothing outside the own database
-- A.admin A.write A.read: 42501
DROP OWNED BY {b}_admin;
-- A.write A.read: 42501
DROP OWNED BY tenantry_admin CASCADE;
-- A.admin: 42501
DROP OWNED BY tenantry_read CASCADE;
-- A.admin: 42501
DROP OWNED BY {platform} CASCADE;
-- C.admin: inert
BEGIN;
DROP OWNED BY tenantry_admin CASCADE;
ROLLBACK;
-- C.write C.read: inert
SET ROLE NONE;
DROP OWNED BY {c}_write, {c}_read;
-- C.write: ok
DROP OWNED BY tenantry_write;
-- C.read: ok
DROP OWNED BY tenantry_read;
-- C.admin: ok
CREATE TABLE public.before_drop (i int);
DROP OWNED BY tenantry_admin CASCADE;
-- B.read: ok
SELECT * FROM public.canary;

-- mechanism: ALTER ROLE gives oneself an attribute
-- A.admin A.write A.read: 42501
ALTER ROLE CURRENT_USER SUPERUSER;
-- A.admin A.write A.read: 42501
ALTER ROLE CURRENT_USER CREATEROLE;
-- A.admin A.write A.read: 42501
ALTER ROLE CURRENT_USER CREATEDB;
-- A.admin A.write A.read: 42501
ALTER ROLE CURRENT_USER BYPASSRLS;
-- A.admin A.write A.read: 42501
ALTER ROLE CURRENT_USER REPLICATION;
-- A.admin A.write A.read: 42501
ALTER ROLE CURRENT_USER LOGIN INHERIT;
-- A.admin A.write A.read: 42501
ALTER ROLE SESSION_USER INHERIT;
-- A.admin A.write A.read: 42501
ALTER ROLE SESSION_USER VALID UNTIL 'infinity';
-- A.admin A.write A.read: 42501
ALTER ROLE SESSION_USER CONNECTION LIMIT 1000;
-- platform: ok
BEGIN;
ALTER ROLE {a}_admin INHERIT;
ROLLBACK;

-- mechanism: ALTER, RENAME or DROP another tenant's role
-- A.admin A.write A.read: 42501
ALTER ROLE {b}_admin PASSWORD 'x';
-- A.admin A.write A.read: 42501
ALTER ROLE {b}_admin NOLOGIN;
-- A.admin A.write A.read: 42501
ALTER ROLE {b}_admin SET work_mem = '64kB';
-- A.admin A.write A.read: 42501
ALTER ROLE {b}_admin IN DATABASE {b} SET work_mem = '64kB';
-- A.admin A.write A.read: 42501
ALTER ROLE {b}_admin RENAME TO other;
-- A.write A.read: 42501
ALTER ROLE {a}_admin RENAME TO other;
-- A.admin A.write A.read: 42501
DROP ROLE {b}_admin;
-- A.admin: 42501
DROP ROLE tenantry_read;
-- A.admin A.write A.read: 42501
ALTER ROLE tenantry_owner PASSWORD 'x';
-- A.admin: 42501
ALTER ROLE tenantry_write SET work_mem = '64kB';
-- platform: ok
BEGIN;
ALTER ROLE {b}_admin SET work_mem = '64kB';
ROLLBACK;

-- mechanism: settings and a password on a group are inert and repaired
-- changes: shared
-- A.admin: ok
ALTER ROLE tenantry_admin SET work_mem = '64kB';
ALTER ROLE tenantry_admin IN DATABASE {b} SET statement_timeout = 1;
ALTER ROLE tenantry_admin PASSWORD 'x';
-- A.read: ok
ALTER ROLE tenantry_read SET default_transaction_isolation = 'serializable';
-- B.admin: = {work_mem}|{statement_timeout}
SELECT current_setting('work_mem'), current_setting('statement_timeout');
-- B.read: = read committed
SHOW default_transaction_isolation;
-- platform: = 3
SELECT count(*) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = setrole WHERE rolname LIKE 'tenantry%';

-- mechanism: ALTER DATABASE SET and ALTER ROLE ALL SET
-- A.admin A.write A.read: 42501
ALTER DATABASE {a} SET work_mem = '64kB';
-- A.admin A.write A.read: 42501
ALTER DATABASE {b} SET statement_timeout = 1;
-- A.admin A.write A.read: 42501
ALTER ROLE ALL SET statement_timeout = 1;
-- A.admin A.write A.read: 42501
ALTER ROLE ALL IN DATABASE {b} SET statement_timeout = 1;
-- platform: ok
BEGIN;
ALTER DATABASE {a} SET work_mem = '64kB';
ROLLBACK;

-- mechanism: GRANT of one's own membership
-- A.admin A.write A.read: 42501
GRANT {a}_admin TO {b}_read;
-- A.admin A.write A.read: 42501
GRANT {a}_admin TO tenantry_read;
-- A.admin A.write A.read: 42501
GRANT {a}_read TO tenantry_owner;
-- A.admin A.write A.read: 42501
GRANT tenantry_admin TO {a}_read;
-- A.admin A.write A.read: 42501
GRANT tenantry_owner TO CURRENT_USER;
-- A.admin: 42501
GRANT {a} TO {b}_admin;
-- A.admin: 42501
GRANT {b} TO {a}_admin;
-- A.admin A.write A.read: 42501
GRANT pg_read_all_data TO SESSION_USER;
-- platform: ok
BEGIN;
GRANT tenantry_read TO {a}_admin;
ROLLBACK;

-- mechanism: REVOKE of another tenant's membership
-- A.admin A.write A.read: 42501
REVOKE tenantry_admin FROM {b}_admin;
-- A.admin: 42501
REVOKE {b} FROM {b}_admin;
-- platform: ok
BEGIN;
REVOKE tenantry_admin FROM {b}_admin;
ROLLBACK;

-- mechanism: CREATE ROLE
-- A.admin A.write A.read: 42501
CREATE ROLE mine;
-- A.admin A.write A.read: 42501
CREATE USER mine PASSWORD 'x' IN ROLE tenantry_owner;
-- platform: ok
BEGIN;
CREATE ROLE mine;
ROLLBACK;

--------------------------------------------------------------------------------------------- databases

-- mechanism: GRANT and REVOKE on databases
-- A.admin A.write A.read: inert
GRANT CONNECT ON DATABASE {a} TO PUBLIC;
-- A.admin A.write A.read: inert
GRANT ALL ON DATABASE {b} TO {a}_admin;
-- A.admin A.write A.read: inert
REVOKE ALL ON DATABASE {b} FROM {b}_admin, {b}_write, {b}_read;
-- A.admin A.write A.read: inert
REVOKE TEMPORARY ON DATABASE {b} FROM tenantry_write CASCADE;
-- A.admin A.write A.read: inert
GRANT CONNECT ON DATABASE postgres TO {a}_admin;
-- platform: ok
BEGIN;
GRANT CONNECT ON DATABASE {a} TO PUBLIC;
ROLLBACK;

-- mechanism: CREATE DATABASE, also as a copy of another tenant
-- A.admin A.write A.read: 42501 do=25001
CREATE DATABASE mine;
-- A.admin A.write A.read: 42501 do=25001
CREATE DATABASE mine TEMPLATE {b};
-- A.admin: 42501 do=25001
CREATE DATABASE mine TEMPLATE tenantry_template;
-- platform: ok
CREATE DATABASE mine CONNECTION LIMIT 0;
DROP DATABASE mine;

-- mechanism: ALTER DATABASE
-- A.admin A.write A.read: 42501
ALTER DATABASE {a} RENAME TO other;
-- A.admin A.write A.read: 42501
ALTER DATABASE {b} RENAME TO other;
-- A.admin A.write A.read: 42501
ALTER DATABASE {a} OWNER TO CURRENT_USER;
-- A.admin A.write A.read: 42501
ALTER DATABASE {b} OWNER TO CURRENT_USER;
-- A.admin A.write A.read: 42501
ALTER DATABASE {b} CONNECTION LIMIT 0;
-- A.admin A.write A.read: 42501
ALTER DATABASE {b} ALLOW_CONNECTIONS false;
-- A.admin A.write A.read: 42501
ALTER DATABASE {a} IS_TEMPLATE true;
-- A.admin: 42501
ALTER DATABASE {a} REFRESH COLLATION VERSION;
-- platform: ok
BEGIN;
ALTER DATABASE {a} CONNECTION LIMIT 5;
ROLLBACK;

-- mechanism: DROP DATABASE
-- A.admin A.write A.read: 42501 do=25001
DROP DATABASE {b};
-- A.admin A.write A.read: 42501 do=25001
DROP DATABASE {b} WITH (FORCE);
-- A.admin A.write A.read: 42501 do=25001
DROP DATABASE {a};
-- A.admin: 42501 do=25001
DROP DATABASE tenantry_template;
-- platform: ok
CREATE DATABASE mine CONNECTION LIMIT 0;
DROP DATABASE mine;

-- mechanism: COMMENT on databases, roles and tablespaces
-- A.admin A.write A.read: 42501
COMMENT ON DATABASE {a} IS 'x';
-- A.admin A.write A.read: 42501
COMMENT ON DATABASE {b} IS 'x';
-- A.admin A.write A.read: 42501
COMMENT ON ROLE {a}_admin IS 'x';
-- A.admin A.write A.read: 42501
COMMENT ON ROLE tenantry_admin IS 'x';
-- A.admin: 42501
COMMENT ON TABLESPACE pg_default IS 'x';
-- A.admin: ok
COMMENT ON TABLE public.notes IS 'x';
COMMENT ON TABLE public.notes IS NULL;

-- mechanism: SECURITY LABEL on shared objects
-- A.admin A.write A.read: 22023
SECURITY LABEL ON DATABASE {b} IS 'x';
-- A.admin A.write A.read: 22023
SECURITY LABEL ON ROLE {b}_admin IS 'x';
-- platform: = 0
SELECT count(*) FROM pg_shseclabel;

-- mechanism: tablespaces
-- A.admin A.write A.read: 42501 do=25001
CREATE TABLESPACE mine LOCATION '/tmp';
-- A.admin: 42501
ALTER TABLESPACE pg_default SET (random_page_cost = 1);
-- A.admin: 42501
ALTER TABLESPACE pg_default OWNER TO tenantry_admin;
-- A.admin: 42501 plain
CREATE TABLE public.mine (i int) TABLESPACE pg_global;
-- A.admin: ok
CREATE TABLE public.mine (i int) TABLESPACE pg_default;
DROP TABLE public.mine;

-- mechanism: sizes of what belongs to others
-- A.admin A.write A.read: 42501
SELECT pg_database_size('{b}');
-- A.admin A.write A.read: 42501
SELECT pg_database_size('postgres');
-- A.admin A.write A.read: 42501
SELECT pg_tablespace_size('pg_global');
-- B.admin: = t
SET ROLE NONE;
SELECT pg_database_size('{b}') > 0;

-- mechanism: names of databases and roles tell nothing
-- A.read: = 0
SELECT count(*) FROM pg_database WHERE datname !~ '^(x_[a-z0-9]{12}|tenantry|tenantry_template|postgres|template[01])$';
-- A.read: = 0
SELECT count(*) FROM pg_roles WHERE rolname !~ '^(x_[a-z0-9]{12}(_(admin|write|read|deploy|dump))?|tenantry_(owner|admin|write|read)|{platform}|pg_.*)$';
-- A.read: = 0
SELECT count(*) FROM pg_stat_database WHERE datname !~ '^(x_[a-z0-9]{12}|tenantry|tenantry_template|postgres|template[01])$';
-- A.read: = 0
SELECT count(*) FROM pg_shdescription WHERE description !~ '^(default administrative connection database|unmodifiable empty database|default template for new databases|(made by tenantry from|catalog of tenantry) [0-9a-f]{16})$';
-- A.read: = 0
SELECT count(*) FROM pg_db_role_setting WHERE array_to_string(setconfig, ',') <> 'default_transaction_read_only=on,lo_compat_privileges=on';
-- A.read: = 0
SELECT count(*) FROM pg_shseclabel;
-- platform: = t
SELECT count(*) > 5 FROM pg_database;

------------------------------------------------------------------------------------ seeing other sessions

-- mechanism: statements of others in pg_stat_activity
-- A.admin A.write A.read C.admin: = <insufficient privilege>
SELECT DISTINCT query FROM pg_stat_activity WHERE datname = '{b}';
-- A.admin A.write A.read: = t
SET ROLE NONE;
SELECT bool_and(query = '<insufficient privilege>' AND state IS NULL AND client_addr IS NULL AND query_start IS NULL) FROM pg_stat_activity WHERE datname = '{b}';
-- B.admin: = 1
SET ROLE NONE;
SELECT count(*) FROM pg_stat_activity WHERE pid = {b_pid} AND query LIKE '%select%';

-- mechanism: statements of others through the functions behind the views
-- A.admin A.write A.read: = <insufficient privilege>
SELECT DISTINCT query FROM pg_stat_get_activity({b_pid});
-- A.admin A.write A.read: = <insufficient privilege>
SELECT DISTINCT pg_stat_get_backend_activity(id) FROM pg_stat_get_backend_idset() id WHERE pg_stat_get_backend_pid(id) = {b_pid};
-- A.admin A.write A.read: = 0
SELECT count(*) FROM pg_stat_get_backend_idset() id WHERE pg_stat_get_backend_pid(id) = {b_pid} AND pg_stat_get_backend_start(id) IS NOT NULL;
-- platform: = t
SELECT bool_or(query LIKE '%select%') FROM pg_stat_get_activity({b_pid});

-- mechanism: the application_name of others is never set by the platform
-- A.admin A.write A.read: = 0
SELECT count(*) FROM pg_stat_activity WHERE application_name <> '' AND datname <> '{a}' AND usename <> '{platform}';
-- A.admin: = 1
SET application_name = 'seen';
SELECT count(*) FROM pg_stat_activity WHERE application_name = 'seen';

-- mechanism: cancel or terminate another tenant's session
-- A.admin A.write A.read C.admin: 42501
SELECT pg_terminate_backend({b_pid});
-- A.admin A.write A.read C.admin: 42501
SELECT pg_cancel_backend({b_pid});
-- A.admin A.write A.read: 42501
SELECT pg_log_backend_memory_contexts({b_pid});
-- A.admin A.write A.read: inert
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IS NULL;
-- A.admin A.write A.read: 42501
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{platform}' AND datname IS NOT NULL;
-- B.admin: = t
SET ROLE NONE;
SELECT pg_cancel_backend({b_pid});

-- mechanism: resetting statistics
-- A.admin A.write A.read: 42501
SELECT pg_stat_reset();
-- A.admin A.write A.read: 42501
SELECT pg_stat_reset_shared('bgwriter');
-- A.admin: 42501
SELECT pg_stat_reset_single_table_counters(1259);
-- platform: ok
SELECT pg_stat_reset_shared('bgwriter');

------------------------------------------------------------------------------------------------ secrets

-- mechanism: password verifiers and the catalogs that hold secrets
-- A.admin A.write A.read: 42501
SELECT rolpassword FROM pg_authid;
-- A.admin A.write A.read: 42501
SELECT passwd FROM pg_shadow;
-- A.admin A.write A.read: 42501
SELECT umoptions FROM pg_user_mapping;
-- A.admin A.write A.read: 42501
SELECT subconninfo FROM pg_subscription;
-- A.admin A.write A.read: 42501
SELECT * FROM pg_statistic;
-- A.admin A.write A.read: 42501
SELECT * FROM pg_largeobject;
-- A.admin: = 1
SELECT count(DISTINCT rolpassword) FROM pg_roles;
-- platform: = t
SELECT count(rolpassword) > 3 FROM pg_authid;

-- mechanism: files of configuration
-- A.admin A.write A.read: 42501
SELECT * FROM pg_hba_file_rules;
-- A.admin A.write A.read: 42501
SELECT * FROM pg_ident_file_mappings;
-- A.admin A.write A.read: 42501
SELECT * FROM pg_file_settings;
-- A.admin A.write A.read: 42501
SELECT * FROM pg_config();
-- A.admin A.write A.read: 42501
SELECT * FROM pg_shmem_allocations;
-- A.admin A.write A.read: 42501
SELECT pg_current_logfile();
-- platform: = t
SELECT count(*) > 1 FROM pg_hba_file_rules;

-- mechanism: settings that only a superuser sees
-- A.admin A.write A.read: 42501
SHOW data_directory;
-- A.admin A.write A.read: 42501
SELECT current_setting('hba_file');
-- A.admin A.write A.read: 42501
SHOW unix_socket_directories;
-- A.admin A.write A.read: 42501
SHOW primary_conninfo;
-- A.admin A.write A.read: = 0
SELECT count(*) FROM pg_settings WHERE name IN ('data_directory', 'config_file', 'hba_file', 'ident_file', 'log_directory', 'primary_conninfo', 'session_preload_libraries', 'dynamic_library_path', 'unix_socket_directories');
-- A.read: ok
SHOW server_version;

-------------------------------------------------------------------------------------- files and programs

-- mechanism: COPY to and from a program
-- A.admin A.write A.read P.deploy: 42501
COPY (SELECT 1) TO PROGRAM 'cat >/dev/null';
-- A.admin A.write P.deploy: 42501
COPY public.notes FROM PROGRAM 'id';
-- platform@A: ok
COPY (SELECT 1) TO PROGRAM 'cat >/dev/null';

-- mechanism: COPY to and from a file of the server
-- A.admin A.write A.read P.deploy: 42501
COPY (SELECT 1) TO '/tmp/tenantry-isolation-out';
-- A.admin A.write: 42501
COPY public.notes FROM '/etc/passwd';
-- A.read: ok
COPY public.notes TO STDOUT;

-- mechanism: reading files by function
-- A.admin A.write A.read P.deploy: 42501
SELECT pg_read_file('postgresql.conf');
-- A.admin A.write A.read: 42501
SELECT pg_read_binary_file('PG_VERSION');
-- A.admin A.write A.read: 42501
SELECT pg_ls_dir('.');
-- A.admin A.write A.read: 42501
SELECT pg_stat_file('PG_VERSION');
-- A.admin A.write A.read: 42501
SELECT * FROM pg_ls_logdir();
-- A.admin A.write A.read: 42501
SELECT * FROM pg_ls_waldir();
-- A.admin A.write A.read: 42501
SELECT * FROM pg_ls_tmpdir();
-- platform: ok
SELECT pg_read_file('PG_VERSION');

-- mechanism: lo_import and lo_export
-- A.admin A.write A.read: 42501
SELECT lo_import('/etc/passwd');
-- A.admin A.write A.read: 42501
SELECT lo_export(1, '/tmp/tenantry-isolation-out');
-- A.admin: ok
BEGIN;
SELECT lo_create(0);
ROLLBACK;

-- mechanism: files by way of text search, time zones and libraries
-- A.admin: 22023 plain
CREATE TEXT SEARCH DICTIONARY public.mine (TEMPLATE = simple, StopWords = '../../../../../../etc/passwd');
-- A.admin A.write A.read: 22023
SET TimeZone = '../../../../etc/passwd';
-- A.admin A.write A.read: 22023
SET timezone_abbreviations = '../../../../etc/passwd';
-- A.admin A.write A.read: 42501
LOAD '/tmp/mine';
-- A.admin A.write A.read: 42501
LOAD 'dblink';
-- A.admin A.write A.read: 42501
LOAD '$libdir/plugins/../dblink';
-- A.admin: ok
CREATE TEXT SEARCH DICTIONARY public.mine (TEMPLATE = simple, StopWords = 'english');
DROP TEXT SEARCH DICTIONARY public.mine;

-- mechanism: extensions that are not trusted
-- A.admin A.write A.read P.deploy: 42501
CREATE EXTENSION dblink SCHEMA public;
-- A.admin A.write A.read: 42501
CREATE EXTENSION postgres_fdw SCHEMA public;
-- A.admin A.write A.read: 42501
CREATE EXTENSION file_fdw SCHEMA public;
-- 15 A.admin A.write A.read: 42501
CREATE EXTENSION adminpack SCHEMA pg_catalog;
-- A.admin A.write A.read: 42501
CREATE EXTENSION pg_stat_statements SCHEMA public;
-- A.admin A.write A.read: 42501
CREATE EXTENSION pageinspect SCHEMA public;
-- A.admin A.write A.read: 42501
CREATE EXTENSION pg_buffercache SCHEMA public;
-- A.write A.read: 42501
CREATE EXTENSION pg_trgm SCHEMA public;
-- A.admin: ok
CREATE EXTENSION pg_trgm;
DROP EXTENSION pg_trgm;
-- platform@A: ok
BEGIN;
CREATE EXTENSION dblink SCHEMA public;
ROLLBACK;

-- mechanism: an extension is not a way to a superuser's objects
-- A.admin: 42501
ALTER EXTENSION plpgsql ADD TABLE public.notes;
-- A.admin: 42501
DROP EXTENSION plpgsql CASCADE;
-- A.admin: 42501 plain
CREATE EXTENSION hstore;
ALTER FUNCTION hstore_out(hstore) OWNER TO tenantry_admin;
-- A.admin: 42501 plain
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE OR REPLACE FUNCTION public.hstore_out(hstore) RETURNS cstring LANGUAGE internal AS 'textout';
-- A.admin: ok
DROP EXTENSION hstore;

-------------------------------------------------------------------------------- code with a higher power

-- mechanism: functions in C or internal, untrusted languages
-- A.admin P.deploy: 42501
CREATE FUNCTION public.mine() RETURNS int LANGUAGE c AS 'libc.so.6', 'getpid';
-- A.admin: 42501
CREATE FUNCTION public.mine(text) RETURNS int LANGUAGE internal AS 'textout';
-- A.admin A.write A.read: 42501
CREATE LANGUAGE mine HANDLER pg_catalog.plpgsql_call_handler;
-- A.admin: 42501
ALTER LANGUAGE plpgsql OWNER TO tenantry_admin;
-- A.admin: inert
GRANT USAGE ON LANGUAGE c TO tenantry_admin;
-- A.admin: ok
CREATE FUNCTION public.mine() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
DROP FUNCTION public.mine();

-- mechanism: LEAKPROOF, access methods, operator classes, base types, parsers
-- A.admin: 42501
CREATE FUNCTION public.mine() RETURNS int LEAKPROOF LANGUAGE sql AS 'SELECT 1';
-- A.admin: 42501
CREATE ACCESS METHOD mine TYPE INDEX HANDLER bthandler;
-- A.admin: 42501
CREATE OPERATOR CLASS public.mine FOR TYPE int USING btree AS OPERATOR 1 <;
-- A.admin: 42501
CREATE OPERATOR FAMILY public.mine USING btree;
-- A.admin: 42501
CREATE TYPE public.mine (INPUT = int4in, OUTPUT = int4out);
-- A.admin: 42501
CREATE TEXT SEARCH PARSER public.mine (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype);
-- A.admin: 42501
CREATE CAST (int AS text) WITHOUT FUNCTION;
-- A.admin: ok
CREATE TYPE public.mine AS ENUM ('a');
DROP TYPE public.mine;

-- mechanism: event triggers
-- A.admin A.write P.deploy: 42501
CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION public.on_ddl();
-- A.admin: 42501
CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION public.on_ddl();
-- platform@A: ok
BEGIN;
CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION public.on_ddl();
ROLLBACK;

-- mechanism: foreign data wrappers, servers, user mappings
-- A.admin A.write A.read P.deploy: 42501
CREATE FOREIGN DATA WRAPPER mine;
-- A.admin A.write A.read: 42704
CREATE SERVER mine FOREIGN DATA WRAPPER postgres_fdw;
-- A.admin A.write A.read: 42704
CREATE USER MAPPING FOR PUBLIC SERVER mine;
-- platform@A: ok
BEGIN;
CREATE FOREIGN DATA WRAPPER mine;
CREATE SERVER mine FOREIGN DATA WRAPPER mine;
ROLLBACK;

-- mechanism: subscriptions
-- A.admin A.write A.read P.deploy: 42501
CREATE SUBSCRIPTION mine CONNECTION 'host=/tmp dbname={b}' PUBLICATION p WITH (connect = false, slot_name = NONE);
-- platform@A: ok
CREATE SUBSCRIPTION mine CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE);
DROP SUBSCRIPTION mine;

-- mechanism: publications of everything
-- A.admin A.write A.read: 42501
CREATE PUBLICATION mine FOR ALL TABLES;
-- A.admin A.write A.read: 42501
CREATE PUBLICATION mine FOR TABLES IN SCHEMA public;
-- A.write A.read: 42501
CREATE PUBLICATION mine FOR TABLE public.notes;
-- A.admin: ok
CREATE PUBLICATION mine FOR TABLE public.notes;
DROP PUBLICATION mine;

-- mechanism: replication slots and origins
-- A.admin A.write A.read: 42501
SELECT pg_create_physical_replication_slot('mine', true);
-- A.admin A.write A.read: 42501
SELECT pg_create_logical_replication_slot('mine', 'pgoutput');
-- A.admin A.write A.read: 42501
SELECT pg_drop_replication_slot('mine');
-- A.admin A.write A.read: 42501
SELECT pg_replication_origin_create('mine');
-- A.admin A.write A.read: 42501
SELECT pg_replication_slot_advance('mine', '0/0');
-- platform: ok
SELECT pg_create_physical_replication_slot('mine');
SELECT pg_drop_replication_slot('mine');

-- mechanism: SECURITY DEFINER cannot change the role, and readers cannot call it
-- A.read: 42501
SELECT public.write_for_me();
-- A.admin: 42501 plain
CREATE FUNCTION pg_temp.climb() RETURNS void SECURITY DEFINER LANGUAGE plpgsql AS 'BEGIN SET ROLE NONE; END';
SELECT pg_temp.climb();
-- A.write: = tenantry_admin|{a}_write
SELECT public.who();
-- A.write: ok
SELECT public.write_for_me();
-- A.admin: ok
GRANT EXECUTE ON FUNCTION public.write_for_me() TO tenantry_read;
-- A.read: ok
SELECT public.write_for_me();
-- A.admin: ok
REVOKE EXECUTE ON FUNCTION public.write_for_me() FROM tenantry_read;

--------------------------------------------------------------------------------------- server and settings

-- mechanism: ALTER SYSTEM
-- A.admin A.write A.read: 42501 do=25001
ALTER SYSTEM SET work_mem = '64kB';
-- A.admin A.write A.read: 42501 do=25001
ALTER SYSTEM RESET ALL;
-- platform: ok
ALTER SYSTEM SET work_mem = '{work_mem}';
ALTER SYSTEM RESET work_mem;

-- mechanism: settings that only a superuser sets
-- A.admin A.write A.read: 42501
SET log_statement = 'all';
-- A.admin A.write A.read: 42501
SET log_min_duration_statement = 0;
-- A.admin A.write A.read: 42501
SET log_min_error_statement = 'debug5';
-- A.admin A.write A.read: 42501
SET session_replication_role = 'replica';
-- A.admin A.write A.read: 42501
SET temp_file_limit = -1;
-- A.admin A.write A.read: 42501
SET deadlock_timeout = '1h';
-- A.admin A.write A.read: 42501
SET track_activities = off;
-- A.admin A.write A.read: 42501
SET lo_compat_privileges = on;
-- A.admin A.write A.read: 42501
SET zero_damaged_pages = on;
-- A.admin A.write A.read: 42501
SET ignore_checksum_failure = on;
-- A.admin A.write A.read: 42501
SET backtrace_functions = 'x';
-- A.admin A.write A.read: 42501
SET lc_messages = 'C';
-- A.admin A.write A.read: 42501
SET commit_delay = 1000;
-- A.admin A.write A.read: 42501
SET log_error_verbosity = 'verbose';
-- A.admin A.write A.read: 42501
SELECT set_config('log_statement', 'all', true);
-- 17+ A.admin A.write A.read: 42501
SET event_triggers = off;
-- A.admin: 42501
CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql SET log_statement = 'all' AS 'SELECT 1';
-- A.admin A.write A.read: 42501
ALTER ROLE SESSION_USER SET log_statement = 'all';
-- A.read: ok
SET work_mem = '1MB';
-- platform: ok
SET log_statement = 'none';

-- mechanism: libraries loaded at the start of a session
-- A.admin A.write A.read: 42501
SET session_preload_libraries = 'dblink';
-- A.admin A.write A.read: 42501
ALTER ROLE SESSION_USER SET session_preload_libraries = 'dblink';
-- A.admin A.write A.read: inert
SET local_preload_libraries = 'dblink';
-- A.admin A.write A.read: 55P02
SET shared_preload_libraries = 'dblink';
-- A.admin A.write A.read: 42501
SET dynamic_library_path = '/tmp';
-- platform: ok
SET dynamic_library_path = '$libdir';

-- mechanism: rights on settings
-- A.admin A.write A.read: 42501
GRANT SET ON PARAMETER log_statement TO tenantry_admin;
-- A.admin A.write A.read: 42501
GRANT ALTER SYSTEM ON PARAMETER work_mem TO PUBLIC;
-- platform: = 0
SELECT count(*) FROM pg_parameter_acl;

-- mechanism: functions that run the server
-- A.admin A.write A.read: 42501
SELECT pg_reload_conf();
-- A.admin A.write A.read: 42501
SELECT pg_rotate_logfile();
-- A.admin A.write A.read: 42501
SELECT pg_switch_wal();
-- A.admin A.write A.read: 42501
SELECT pg_backup_start('x');
-- A.admin A.write A.read: 42501
SELECT pg_create_restore_point('x');
-- A.admin A.write A.read: 42501
SELECT pg_promote();
-- A.admin A.write A.read: 42501
CHECKPOINT;
-- A.admin A.write A.read: 42501
SELECT pg_import_system_collations('public');
-- platform: ok
CHECKPOINT;
SELECT pg_switch_wal();

-- mechanism: prepared transactions
-- A.admin A.write A.read: 55000 plain
BEGIN;
PREPARE TRANSACTION 'mine';
-- platform: 55000 plain
BEGIN;
PREPARE TRANSACTION 'mine';

-- mechanism: writing to system catalogs
-- A.admin A.write A.read: 42501
UPDATE pg_catalog.pg_database SET datacl = NULL;
-- A.admin A.write A.read: 42501
UPDATE pg_catalog.pg_authid SET rolsuper = true;
-- A.admin A.write A.read: 42501
INSERT INTO pg_catalog.pg_db_role_setting VALUES (0, 0, '{{work_mem=64kB}}');
-- A.admin A.write A.read: 42501
DELETE FROM pg_catalog.pg_auth_members;
-- A.admin A.write A.read: 42501
TRUNCATE pg_catalog.pg_largeobject;
-- A.admin A.write A.read: 42501
CREATE TABLE pg_catalog.mine (i int);
-- A.admin: 42501
CREATE FUNCTION pg_catalog.mine() RETURNS int LANGUAGE sql AS 'SELECT 1';
-- A.admin A.write A.read: 42501
ALTER TABLE pg_catalog.pg_class ADD COLUMN mine int;
-- A.admin: 42501
CREATE TRIGGER mine AFTER INSERT ON pg_catalog.pg_class FOR EACH ROW EXECUTE FUNCTION public.on_row();
-- A.admin A.write A.read: 42501
SET allow_system_table_mods = on;
-- A.admin: 42501
ALTER SCHEMA pg_catalog RENAME TO mine;
-- platform: ok
SET allow_system_table_mods = on;

-- mechanism: rights on system functions and catalogs cannot be passed on
-- A.admin A.write: inert
GRANT EXECUTE ON FUNCTION pg_catalog.pg_advisory_lock(bigint) TO tenantry_read;
-- A.admin: inert
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO tenantry_admin;
-- A.admin: inert
GRANT SELECT ON pg_catalog.pg_authid TO PUBLIC;
-- A.admin: 42501
ALTER FUNCTION pg_catalog.pg_read_file(text) OWNER TO tenantry_admin;
-- A.read: 42501 plain
SELECT pg_catalog.pg_advisory_lock(1);
-- platform@A: ok
BEGIN;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_advisory_lock(bigint) TO tenantry_read;
ROLLBACK;

-- mechanism: locks on shared catalogs
-- A.admin A.write A.read: 42501
BEGIN;
LOCK TABLE pg_catalog.pg_database IN ROW EXCLUSIVE MODE;
-- A.admin A.write A.read: 42501
BEGIN;
LOCK TABLE pg_catalog.pg_authid IN ACCESS SHARE MODE;
-- A.admin A.write A.read: 42501
BEGIN;
LOCK TABLE pg_catalog.pg_db_role_setting IN ACCESS EXCLUSIVE MODE;
-- A.admin A.write A.read: 42501
SELECT FROM pg_catalog.pg_database FOR SHARE;
-- A.admin: inert
VACUUM FULL pg_catalog.pg_authid;
-- A.admin: inert
ANALYZE pg_catalog.pg_shdepend;
-- A.admin: 42501
CLUSTER pg_catalog.pg_authid USING pg_authid_oid_index;
-- A.admin: 42501
REINDEX TABLE pg_catalog.pg_authid;
-- A.admin: 42501 do=25001
REINDEX SYSTEM {a};
-- A.admin: ok
BEGIN;
LOCK TABLE public.notes IN ACCESS EXCLUSIVE MODE;
ROLLBACK;

---------------------------------------------------------------------------------- what a reader must not do

-- mechanism: a reader takes no advisory lock
-- A.read: 42501
SELECT pg_advisory_lock(generate_series(1, 100000));
-- A.read: 42501
SELECT pg_advisory_lock_shared(1, 2);
-- A.read: 42501
SELECT pg_try_advisory_lock(1);
-- A.read: 42501
SELECT pg_try_advisory_xact_lock_shared(1);
-- A.read: 42501
SELECT pg_advisory_xact_lock(1);
-- A.write A.admin C.write: ok
SELECT pg_advisory_lock(1);
SELECT pg_advisory_unlock(1);

-- mechanism: a reader writes no large object
-- A.read: 42501
SELECT lo_create(0);
-- A.read: 42501
SELECT lo_creat(-1);
-- A.read: 42501
SELECT lo_from_bytea(0, 'x');
-- A.read: 42501
SELECT lo_put(1, 0, 'x');
-- A.read: 42501
SELECT lowrite(0, 'x');
-- A.read: 42501
SELECT lo_truncate(0, 0);
-- A.read: 42501
SELECT lo_truncate64(0, 0);
-- A.read: 42501
SELECT lo_unlink(1);
-- A.write A.admin C.write: ok
BEGIN;
SELECT lo_unlink(lo_from_bytea(0, 'x'));
ROLLBACK;

-- mechanism: a reader writes no WAL message
-- A.read: 42501
SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000));
-- A.write A.admin: ok
SELECT pg_logical_emit_message(false, 'x', 'x');

-- mechanism: a reader burns no transaction ids and exports no snapshots
-- A.read: 42501
SELECT pg_current_xact_id();
-- A.read: 42501
SELECT txid_current();
-- A.read: 42501
BEGIN;
SELECT pg_export_snapshot();
-- A.write A.admin A.dump: ok
BEGIN;
SELECT pg_export_snapshot();
ROLLBACK;

-- mechanism: a reader has no temporary objects
-- A.read: 42501
CREATE TEMPORARY TABLE t (i int);
-- A.read: 42501
CREATE TABLE pg_temp.t (i int);
-- A.read: 42501
CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
-- A.read: 42501
SELECT 1 AS i INTO TEMPORARY t;
-- A.read: 42501
SET search_path = pg_temp;
CREATE TABLE t (i int);
-- A.write A.admin: ok
CREATE TEMPORARY TABLE t (i int);
INSERT INTO t VALUES (1);

-- mechanism: a reader changes no row
-- A.read: 42501
INSERT INTO public.notes (note) VALUES ('r');
-- A.read: 42501
UPDATE public.notes SET note = 'r';
-- A.read: 42501
DELETE FROM public.notes;
-- A.read: 42501
TRUNCATE public.notes;
-- A.read: 42501
WITH gone AS (DELETE FROM public.notes RETURNING *) SELECT * FROM gone;
-- A.read: 42501
MERGE INTO public.notes USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE;
-- A.read: 42501 do=0A000
COPY public.notes (note) FROM STDIN;
-- A.read: 42501
UPDATE public.notes_view SET note = 'r';
-- A.read: 42501
SELECT * FROM public.notes FOR UPDATE;
-- A.read: 42501
SELECT * FROM public.notes FOR KEY SHARE;
-- A.read: 42501
SELECT nextval('public.notes_id_seq');
-- A.read: 42501
SELECT setval('public.notes_id_seq', 1);
-- A.read: 42501
BEGIN;
LOCK TABLE public.notes IN ROW SHARE MODE;
-- A.write: ok
BEGIN;
INSERT INTO public.notes (note) VALUES ('w');
UPDATE public.notes SET note = 'w';
MERGE INTO public.notes USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE;
SELECT nextval('public.notes_id_seq');
ROLLBACK;

-- mechanism: a writer changes no schema and no rights
-- A.write A.read: 42501
CREATE TABLE public.mine (i int);
-- A.write A.read: 42501
CREATE SCHEMA mine;
-- A.write A.read: 42501
ALTER TABLE public.notes ADD COLUMN mine int;
-- A.write A.read: 42501
DROP TABLE public.notes;
-- A.write A.read: 42501
TRUNCATE public.notes;
-- A.write A.read: 42501
CREATE INDEX ON public.notes (note);
-- A.write A.read: 42501
CREATE TRIGGER mine BEFORE INSERT ON public.notes FOR EACH ROW EXECUTE FUNCTION public.on_row();
-- A.write A.read: 42501
CREATE POLICY mine ON public.notes;
-- A.write A.read: 42501
CREATE OR REPLACE FUNCTION public.touch() RETURNS void LANGUAGE sql AS '';
-- A.write A.read: 42501
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_admin GRANT ALL ON TABLES TO PUBLIC;
-- A.write A.read: inert
GRANT ALL ON public.notes TO tenantry_read;
-- A.write A.read: 42501
DROP SCHEMA public CASCADE;
-- A.admin: ok
BEGIN;
ALTER TABLE public.notes ADD COLUMN mine int;
ROLLBACK;

-- mechanism: write and read reach what is made later, also in new schemas
-- A.admin: ok
CREATE SCHEMA later;
CREATE TABLE later.t (id serial, i int);
CREATE VIEW later.v AS SELECT * FROM later.t;
CREATE FUNCTION later.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
-- A.write: ok
INSERT INTO later.t (i) VALUES (5);
SELECT later.f();
-- A.read: = 5
SELECT i FROM later.v;
-- A.read: 42501
INSERT INTO later.t (i) VALUES (6);
-- A.read: 42501
SELECT later.f();
-- A.admin: ok
DROP SCHEMA later CASCADE;
-- C.admin: ok
CREATE SCHEMA later;

-- mechanism: an admin may replace schema public
-- A.admin: ok
CREATE SCHEMA spare;
ALTER SCHEMA public RENAME TO kept;
CREATE SCHEMA public;
CREATE TABLE public.t (i int);
INSERT INTO public.t VALUES (3);
-- A.read: = 3
SELECT * FROM public.t;
-- A.admin: ok
DROP SCHEMA public CASCADE;
ALTER SCHEMA kept RENAME TO public;
DROP SCHEMA spare;

------------------------------------------------------------------------------------- tenants of a blueprint

-- mechanism: blueprint: no role of the tenant creates
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
CREATE TABLE public.mine (i int);
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
CREATE TABLE public.mine AS SELECT 1 AS i;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
SELECT 1 AS i INTO public.mine;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
CREATE SCHEMA mine;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1';
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
CREATE VIEW public.mine AS SELECT 1;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
CREATE TYPE public.mine AS ENUM ('a');
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
CREATE EXTENSION hstore;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
CREATE PUBLICATION mine;
-- P.deploy: ok
CREATE TABLE public.mine (i int);
CREATE SCHEMA mine;
DROP TABLE public.mine;
DROP SCHEMA mine;

-- mechanism: blueprint: no role of the tenant changes or drops
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
ALTER TABLE public.notes ADD COLUMN mine int;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
DROP TABLE public.notes;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
ALTER TABLE public.notes RENAME TO mine;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
ALTER TABLE public.notes DISABLE TRIGGER ALL;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
CREATE INDEX ON public.notes (note);
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
DROP SCHEMA public CASCADE;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
COMMENT ON TABLE public.notes IS 'x';
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
DROP OWNED BY tenantry_owner;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
CREATE TRIGGER mine BEFORE INSERT ON public.notes FOR EACH ROW EXECUTE FUNCTION public.on_row();
-- P.admin P.write P.read: 42501
TRUNCATE pg_catalog.pg_class;
-- P.write P.read: 42501
TRUNCATE public.notes;
-- P.admin: ok
BEGIN;
TRUNCATE public.notes;
ROLLBACK;
-- P.deploy: ok
ALTER TABLE public.notes ADD COLUMN mine int;
ALTER TABLE public.notes DROP COLUMN mine;

-- mechanism: blueprint: no role of the tenant changes rights
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
GRANT ALL ON public.notes TO PUBLIC;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
REVOKE SELECT ON public.notes FROM tenantry_read;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
CREATE POLICY mine ON public.notes;
-- P.admin P.write P.read: 42501 "DDL not allowed on tenant databases, use workspace mode"
ALTER TABLE public.notes DISABLE ROW LEVEL SECURITY;
-- P.deploy: ok
BEGIN;
GRANT SELECT ON public.notes TO tenantry_read;
ROLLBACK;

-- mechanism: blueprint: temporary objects are the session's own affair
-- P.admin P.write: ok
CREATE TEMPORARY TABLE t (id serial PRIMARY KEY, i int);
CREATE INDEX ON t (i);
ALTER TABLE t ADD COLUMN j int DEFAULT 1;
INSERT INTO t (i) VALUES (1);
CREATE TEMPORARY VIEW v AS SELECT * FROM t;
DROP VIEW v;
DROP TABLE t;
-- P.admin P.write: ok
SET search_path = pg_temp;
CREATE TABLE t (i int);
-- P.admin P.write: ok
SELECT 1 AS i INTO TEMPORARY t;
-- P.write: ok
DO $$ BEGIN CREATE TEMPORARY TABLE t (i int); END $$;
-- P.write: ok
SELECT public.make_temporary();
-- P.write: ok
SELECT public.make_temporary_sql();
-- P.admin P.write: 42501 plain
CREATE TEMPORARY TABLE t (i int);
ALTER TABLE t SET SCHEMA public;
-- P.read: 42501
CREATE TEMPORARY TABLE t (i int);

-- mechanism: blueprint: the word temp does not open anything
-- P.admin P.write P.read: 42501
CREATE TABLE public.temp (i int);
-- P.admin P.write P.read: 42501
SET search_path = public, pg_temp;
CREATE TABLE public.mine (i int);
-- P.admin P.write: 42501
CREATE TEMPORARY TABLE t (i int);
DROP TABLE public.notes;
-- P.admin P.write: 42501 plain
CREATE TEMPORARY TABLE t (i int);
CREATE VIEW public.mine AS SELECT 1;
-- P.deploy: ok
CREATE TABLE public.temp (i int);
DROP TABLE public.temp;

-- mechanism: blueprint: the guard cannot be taken away
-- P.admin P.write P.read P.deploy: 42501
DROP EVENT TRIGGER tenantry_guard_end;
-- P.admin P.write P.read P.deploy: 42501
ALTER EVENT TRIGGER tenantry_guard_end DISABLE;
-- P.admin P.write P.read P.deploy: 42501
CREATE OR REPLACE FUNCTION tenantry.guard_end() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
-- P.admin P.write P.read P.deploy: 42501
DROP SCHEMA tenantry CASCADE;
-- P.admin P.write P.read P.deploy: 42501
ALTER FUNCTION tenantry.guard_end() RENAME TO mine;
-- P.admin P.write P.read P.deploy: 42501
SET session_replication_role = 'replica';
-- P.admin P.write P.read: 42501
SET ROLE {p}_deploy;
-- platform@P: ok
BEGIN;
DROP EVENT TRIGGER tenantry_guard_end;
ROLLBACK;

-- mechanism: blueprint: what shadows the guard's names changes nothing
-- P.admin P.write: 42501 plain
CREATE TEMPORARY TABLE pg_roles (rolname name, rolsuper bool);
INSERT INTO pg_roles SELECT session_user, true;
SET search_path = pg_temp, pg_catalog;
DROP TABLE public.notes;
-- P.admin P.write: 42501 plain
CREATE FUNCTION pg_temp.current_database() RETURNS name LANGUAGE sql AS 'SELECT ''x''::name';
SET search_path = pg_temp, pg_catalog;
CREATE TABLE public.mine (i int);
-- platform@P: = 3
SELECT count(*) FROM pg_event_trigger WHERE evtenabled = 'O';

--------------------------------------------------------------------------------------------- maintenance

-- mechanism: the copying login reads everything here and writes nothing
-- A.dump: = secret
SET row_security = off;
SELECT secret FROM public.forced;
-- A.admin: 42501 plain
SET row_security = off;
SELECT secret FROM public.forced;
-- A.dump: = 6c6f
SELECT encode(lo_get(oid), 'hex') FROM pg_largeobject_metadata;
-- A.dump: 25006 plain
INSERT INTO public.notes (note) VALUES ('d');
-- A.dump: 42501 plain
SET default_transaction_read_only = off;
INSERT INTO public.notes (note) VALUES ('d');
-- A.dump: 42501 plain
SET default_transaction_read_only = off;
SELECT lo_put(oid, 0, 'x') FROM pg_largeobject_metadata;
-- A.dump: 42501 plain
SET default_transaction_read_only = off;
SELECT lo_create(0);
-- A.dump: 42501 plain
SET default_transaction_read_only = off;
CREATE TEMPORARY TABLE t (i int);
-- A.dump: 42501 plain
SET default_transaction_read_only = off;
SELECT public.write_for_me();
-- A.dump: 42501 plain
SET ROLE tenantry_admin;
-- A.dump: 42501 plain
COPY (SELECT 1) TO PROGRAM 'cat >/dev/null';
-- A.dump: 42501 plain
SELECT pg_read_file('PG_VERSION');

-- mechanism: the deployment's login is nobody outside its group
-- P.deploy: 42501
CREATE ROLE mine;
-- P.deploy: 42501
SET ROLE tenantry_admin;
-- P.deploy: 42501
SELECT pg_terminate_backend({b_pid});
-- P.deploy: 42501
ALTER DATABASE {p} SET work_mem = '64kB';
-- P.deploy: = tenantry_owner|{p}_deploy
SELECT current_user, session_user;
