-- The life of one tenant database. Markers and rules: bootstrap.sql.
--
-- {database}: `x_<pid>`. Names the database and its wall role; logins are `{database}_admin`,
--   `{database}_write`, `{database}_read` and, while needed, `{database}_deploy`, `{database}_dump`, `{database}_backup`, `{database}_export`. A user of the
--   tenant has a login `{database}_<role>_<id>`: {login}, which acts as {group}.
-- {source}: the database to copy: {template}, or another tenant's for a branch.
-- {strategy}: `WAL_LOG` or `FILE_COPY`.
-- {admin_verifier}, {write_verifier}, {read_verifier}, {verifier}:
--   `SCRAM-SHA-256$…`, so that no password is sent, logged or stored. {until}: a timestamp.
--
-- Create: roles, database, open (or open_blueprint). Branch: the same with {source}. Statements that
-- hold a verifier must run with log_min_error_statement = panic.

-- step: roles | postgres | transaction
-- The wall role is there for pg_hba's `samerole` only: members of the role named like the database
-- may come in. It has no privileges. On 16+ nobody can SET ROLE to it; on 15 a tenant can, and is then
-- nobody.
-- Logins are NOINHERIT and own nothing: after SET ROLE NONE they may do nothing but connect. With
-- inheritance, what they create then would name the tenant, break the branch and outlive the role.
-- A second run repairs what a tenant can change on its own roles: password and settings.
DO $$
DECLARE
  login text;
  fresh boolean;
  inherit_set text := '';
  inherit_only text := '';
  groups CONSTANT text[] := ARRAY['admin', 'write', 'read'];
  verifiers CONSTANT text[] := ARRAY['{admin_verifier}', '{write_verifier}', '{read_verifier}'];
BEGIN
  IF pg_catalog.current_setting('server_version_num')::int >= 160000 THEN
    inherit_set := ' WITH INHERIT FALSE, SET TRUE';
    inherit_only := ' WITH INHERIT FALSE, SET FALSE';
  END IF;
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{database}') THEN
    CREATE ROLE {database} NOLOGIN;
  END IF;
  ALTER ROLE {database} NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
    CONNECTION LIMIT -1 PASSWORD NULL;
  ALTER ROLE {database} RESET ALL;
  FOR i IN 1 .. 3 LOOP
    login := '{database}_' || groups[i];
    fresh := NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = login);
    IF fresh THEN
      EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', login);
    END IF;
    EXECUTE pg_catalog.format('ALTER ROLE %I LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION '
      'NOBYPASSRLS CONNECTION LIMIT -1 PASSWORD %L', login, verifiers[i]);
    EXECUTE pg_catalog.format('ALTER ROLE %I RESET ALL', login);
    EXECUTE pg_catalog.format('GRANT %I TO %I', 'tenantry_' || groups[i], login) || inherit_set;
    EXECUTE pg_catalog.format('GRANT {database} TO %I', login) || inherit_only;
  END LOOP;
END $$;

-- step: database | postgres | statements
-- Limit 0: until PUBLIC has lost CONNECT, every tenant of the server could come in (superusers are not
-- counted, so the platform can). For a branch of a tenant, CHECKPOINT first, then hold its sessions.
CREATE DATABASE {database} TEMPLATE {source} STRATEGY {strategy} CONNECTION LIMIT 0;

-- step: open | postgres | transaction
-- ACLs of a database are not copied. CONNECT goes to the logins, never to a group: a group is shared by
-- all tenants. CREATE and TEMPORARY go to groups: whoever may not connect here cannot use them here.
-- CREATE lets the admin make schemas and install extensions that are marked trusted.
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {database}_admin, {database}_write, {database}_read;
DO $$
DECLARE
  login name;
BEGIN
  FOR login IN SELECT rolname FROM pg_catalog.pg_roles WHERE rolname ~ '^{database}_(admin|write|read)_[a-z0-9]+$' LOOP
    EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE {database} TO %I', login);
  END LOOP;
END $$;
GRANT CREATE, TEMPORARY ON DATABASE {database} TO tenantry_admin;
GRANT TEMPORARY ON DATABASE {database} TO tenantry_write;
ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true CONNECTION LIMIT -1;

-- step: open_blueprint | postgres | transaction
-- As `open`, but only a deployment (tenantry_owner) may make schemas and install extensions.
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {database}_admin, {database}_write, {database}_read;
DO $$
DECLARE
  login name;
BEGIN
  FOR login IN SELECT rolname FROM pg_catalog.pg_roles WHERE rolname ~ '^{database}_(admin|write|read)_[a-z0-9]+$' LOOP
    EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE {database} TO %I', login);
  END LOOP;
END $$;
GRANT CREATE, TEMPORARY ON DATABASE {database} TO tenantry_owner;
REVOKE CREATE ON DATABASE {database} FROM tenantry_admin;
GRANT TEMPORARY ON DATABASE {database} TO tenantry_admin, tenantry_write;
ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true CONNECTION LIMIT -1;

-- step: close | postgres | transaction
-- Delete, first half, and suspend: no new server connections, not even the platform's. `open` undoes it.
ALTER DATABASE {database} WITH ALLOW_CONNECTIONS false CONNECTION LIMIT 0;

-- step: let_backup_in | postgres | transaction
-- Of a closed database: only the login for backups, made just before, may connect, and nobody of the tenant,
-- whose logins get CONNECT again by `open`.
DO $$
DECLARE
  login name;
BEGIN
  REVOKE CONNECT ON DATABASE {database} FROM PUBLIC;
  FOR login IN SELECT rolname FROM pg_catalog.pg_roles
      WHERE rolname ~ '^{database}_(admin|write|read)(_[a-z0-9]+)?$' LOOP
    EXECUTE pg_catalog.format('REVOKE CONNECT ON DATABASE {database} FROM %I', login);
  END LOOP;
END $$;
ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true CONNECTION LIMIT -1;

-- step: sessions | postgres | transaction
-- Whoever is still there.
SELECT pid FROM pg_catalog.pg_stat_activity
WHERE datname = '{database}' AND pid <> pg_catalog.pg_backend_pid();

-- step: disconnect | postgres | transaction
-- Commit `close` first. Repeat until it returns no row.
SELECT pid, pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE datname = '{database}' AND pid <> pg_catalog.pg_backend_pid();

-- step: drop | postgres | statements
DROP DATABASE IF EXISTS {database} WITH (FORCE);

-- step: dependents | postgres | transaction
-- Any tenant can name any role in a GRANT or a policy of its own; then that role cannot be dropped.
-- A branch begins with such grants of its source. These are the databases to run `forget` in; one
-- with connections closed has to be opened for the platform first (limit 0 stays).
SELECT DISTINCT d.datname FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_database d ON d.oid = s.dbid
WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass
  AND s.refobjid IN (SELECT oid FROM pg_catalog.pg_roles WHERE rolname ~ '^{database}(_[a-z0-9_]+)?$');

-- step: forget | each of `dependents` | transaction
-- Takes the roles out of ACLs, default privileges and policies there. They own nothing, so it drops
-- nothing, and it runs no user text. A tenant's open transaction that named the role makes this wait:
-- set lock_timeout, and end that session when it happens.
DO $$
DECLARE
  name text;
BEGIN
  FOR name IN SELECT rolname FROM pg_catalog.pg_roles WHERE rolname ~ '^{database}(_[a-z0-9_]+)?$'
  LOOP
    IF EXISTS (SELECT FROM pg_catalog.pg_shdepend WHERE refclassid = 'pg_catalog.pg_authid'::regclass
        AND refobjid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = name) AND deptype = 'o') THEN
      RAISE 'role % owns objects', name;
    END IF;
    EXECUTE pg_catalog.format('DROP OWNED BY %I', name);
  END LOOP;
END $$;

-- step: drop_roles | postgres | transaction
-- After `drop`, and `forget` where `dependents` names databases.
DO $$
DECLARE
  login name;
BEGIN
  FOR login IN SELECT rolname FROM pg_catalog.pg_roles WHERE rolname ~ '^{database}_(admin|write|read)_[a-z0-9]+$' LOOP
    EXECUTE pg_catalog.format('DROP ROLE %I', login);
  END LOOP;
END $$;
DROP ROLE IF EXISTS {database}_fill, {database}_dump, {database}_backup, {database}_export, {database}_deploy, {database}_read, {database}_write, {database}_admin;
DROP ROLE IF EXISTS {database};

-- step: visitor_login | postgres | transaction
-- A login for one piece of the platform's work in one database. {kind} is `deploy`, `dump`, `backup` or `export`. VALID
-- UNTIL, because it outlives nothing.
-- deploy: for deployments, seeds and restores. Logs in unprivileged, acts as tenantry_owner, and the guard
--   lets it pass by its session_user.
-- dump: for logical copies. Reads everything, also what the admin took away from readers and what row
--   security hides (an owner's dump fails under FORCE ROW LEVEL SECURITY), in this database only. It reads
--   under its own name, because BYPASSRLS belongs to the current role: no SET ROLE for this one. Large
--   objects know no pg_read_all_data, hence lo_compat_privileges; every function that writes one is revoked
--   from it.
-- backup: the same as dump, under another name, so that a branch and a backup of one database do not end
--   each other's.
-- export: the same once more, for a dump that goes to whoever the database belongs to.
DO $$
DECLARE
  login CONSTANT text := '{database}_{kind}';
  is_dump CONSTANT boolean := '{kind}' IN ('dump', 'backup', 'export');
  acts_as CONSTANT text := CASE WHEN is_dump THEN 'pg_read_all_data' ELSE 'tenantry_owner' END;
  as_group text := '';
  as_wall text := '';
BEGIN
  IF '{kind}' NOT IN ('deploy', 'dump', 'backup', 'export') THEN
    RAISE 'there is no visitor {kind}';
  END IF;
  IF pg_catalog.current_setting('server_version_num')::int >= 160000 THEN
    as_group := CASE WHEN is_dump THEN ' WITH INHERIT TRUE, SET FALSE' ELSE ' WITH INHERIT FALSE, SET TRUE' END;
    as_wall := ' WITH INHERIT FALSE, SET FALSE';
  END IF;
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = login) THEN
    EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', login);
  END IF;
  EXECUTE pg_catalog.format('ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION %s '
    'PASSWORD %L VALID UNTIL %L', login,
    CASE WHEN is_dump THEN 'INHERIT BYPASSRLS' ELSE 'NOINHERIT NOBYPASSRLS' END, '{verifier}', '{until}');
  EXECUTE pg_catalog.format('ALTER ROLE %I RESET ALL', login);
  IF is_dump THEN
    EXECUTE pg_catalog.format('ALTER ROLE %I SET default_transaction_read_only = on', login);
    EXECUTE pg_catalog.format('ALTER ROLE %I SET lo_compat_privileges = on', login);
  END IF;
  EXECUTE pg_catalog.format('GRANT %I TO %I', acts_as, login) || as_group;
  EXECUTE pg_catalog.format('GRANT {database} TO %I', login) || as_wall;
  EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE {database} TO %I', login);
END $$;

-- step: drop_visitor | postgres | transaction
-- CONNECT is revoked first: a role that is named in an ACL cannot be dropped.
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{database}_{kind}') THEN
    REVOKE ALL ON DATABASE {database} FROM {database}_{kind};
    DROP ROLE {database}_{kind};
  END IF;
END $$;

-- step: export_sessions | postgres | transaction
-- The session of one dump, by the name that only it has. Repeat until it returns no row.
SELECT pid, pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE usename = '{login}' AND application_name = '{name}';

-- step: forget_exports | postgres | transaction
-- Logins of dumps that nobody uses: this one, or with no {login} all but those of which a process has the turn; it may not have logged in yet.
DO $$
DECLARE
  login name;
BEGIN
  FOR login IN SELECT rolname FROM pg_catalog.pg_roles r WHERE r.rolname ~ '^x_[a-z][a-z0-9]{11}_export$'
      AND '{login}' IN ('', r.rolname)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.usename = r.rolname) LOOP
    CONTINUE WHEN '{login}' = ''
      AND NOT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended(login::text, 0));
    IF EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = pg_catalog.left(login, -7)) THEN
      EXECUTE pg_catalog.format('REVOKE ALL ON DATABASE %I FROM %I', pg_catalog.left(login, -7), login);
    END IF;
    EXECUTE pg_catalog.format('DROP ROLE %I', login);
  END LOOP;
END $$;

-- step: user | postgres | transaction
-- A login of a user, as `roles` makes the others: NOINHERIT, owns nothing, may do nothing until it acts as
-- its group. CONNECT comes with `open`; where that was before, here. A second run repairs it.
DO $$
DECLARE
  inherit_set text := '';
  inherit_only text := '';
BEGIN
  IF pg_catalog.current_setting('server_version_num')::int >= 160000 THEN
    inherit_set := ' WITH INHERIT FALSE, SET TRUE';
    inherit_only := ' WITH INHERIT FALSE, SET FALSE';
  END IF;
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{login}') THEN
    CREATE ROLE {login} NOLOGIN;
  END IF;
  ALTER ROLE {login} LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
    CONNECTION LIMIT -1 PASSWORD '{verifier}';
  ALTER ROLE {login} RESET ALL;
  EXECUTE 'GRANT {group} TO {login}' || inherit_set;
  EXECUTE 'GRANT {database} TO {login}' || inherit_only;
  IF EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = '{database}' AND datacl IS NOT NULL) THEN
    GRANT CONNECT ON DATABASE {database} TO {login};
  END IF;
END $$;

-- step: user_close | postgres | transaction
-- Deleting a user, first step: nobody comes in under its login any more.
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{login}') THEN
    ALTER ROLE {login} NOLOGIN PASSWORD NULL;
    IF EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = '{database}') THEN
      REVOKE ALL ON DATABASE {database} FROM {login};
    END IF;
  END IF;
END $$;

-- step: user_sessions | postgres | transaction
-- Whoever is still there.
SELECT pid FROM pg_catalog.pg_stat_activity WHERE usename = '{login}';

-- step: user_disconnect | postgres | transaction
-- Repeat until it returns no row.
SELECT pid, pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename = '{login}';

-- step: user_dependents | postgres | transaction
-- Databases where something names it: its own, and those whose tenant granted it something.
SELECT DISTINCT d.datname FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_database d ON d.oid = s.dbid
WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass
  AND s.refobjid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = '{login}');

-- step: user_forget | each of `user_dependents` | transaction
-- It owns something only where the admin let its login itself create, and it left its group to do so. That
-- goes to the group that it acted as, not to the admin: what the user wrote (functions, views, expressions of
-- indexes) runs with rights of the owner, and must not gain any by this. Then grants and policies.
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{login}') THEN
    IF pg_catalog.current_database() = '{database}' THEN
      REASSIGN OWNED BY {login} TO {group};
    ELSIF EXISTS (SELECT FROM pg_catalog.pg_shdepend WHERE refclassid = 'pg_catalog.pg_authid'::regclass
        AND refobjid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = '{login}') AND deptype = 'o'
        AND dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())) THEN
      RAISE 'role {login} owns objects elsewhere';
    END IF;
    DROP OWNED BY {login};
  END IF;
END $$;

-- step: user_drop | postgres | transaction
DROP ROLE IF EXISTS {login};

-- step: stored_settings | postgres | transaction
-- What tenants stored as defaults on roles of ours. Nothing relies on it: the proxy's startup options come
-- last. Not empty: report it, then `forget_settings`.
SELECT r.rolname, d.datname, s.setconfig FROM pg_catalog.pg_db_role_setting s
JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
WHERE r.rolname ~ '^(x_[a-z0-9]{12}((_admin|_write|_read)(_[a-z0-9]+)?|_deploy)?|tenantry_(owner|admin|write|read))$';

-- step: forget_settings | postgres | transaction
-- With lock_timeout: an open transaction that stores one holds the row.
DO $$
DECLARE
  stored record;
BEGIN
  FOR stored IN
    SELECT r.rolname, d.datname FROM pg_catalog.pg_db_role_setting s
    JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
    LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
    WHERE r.rolname ~ '^(x_[a-z0-9]{12}((_admin|_write|_read)(_[a-z0-9]+)?|_deploy)?|tenantry_(owner|admin|write|read))$'
  LOOP
    IF stored.datname IS NULL THEN
      EXECUTE pg_catalog.format('ALTER ROLE %I RESET ALL', stored.rolname);
    ELSE
      EXECUTE pg_catalog.format('ALTER ROLE %I IN DATABASE %I RESET ALL', stored.rolname, stored.datname);
    END IF;
  END LOOP;
END $$;

-- step: watch_locks | postgres | statements
-- {locks_per_server_max}: entries of the shared lock table one server connection may hold. Returns pid,
-- entries, database oid, role oid of each tenant session above it. Runs once a second on a connection
-- that is already open: with a full lock table nobody logs in, the platform included. It reads
-- functions only: pg_stat_activity and pg_database are shared relations, and to lock one needs an entry
-- that is no longer there. For the same reason pg_terminate_backend fails (it looks the role up in
-- pg_authid): end the session by SIGTERM where the server is ours, elsewhere by a cancel request and by
-- closing its socket; neither takes a lock.
SELECT holder.pid, holder.entries, session.datid, session.usesysid
FROM (
  SELECT pid, count(*) AS entries FROM pg_lock_status()
  WHERE NOT fastpath GROUP BY pid HAVING count(*) > {locks_per_server_max}
) AS holder
JOIN pg_stat_get_activity(NULL) AS session ON session.pid = holder.pid
WHERE session.backend_type = 'client backend'
  AND session.usesysid <> (SELECT usesysid FROM pg_stat_get_activity(pg_backend_pid()));
