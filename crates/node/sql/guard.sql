-- What turns a fresh copy of the template into a tenant of a blueprint: nobody but a deployment changes
-- its schema. Run in {database} as the platform's role before `open_blueprint`. Markers: bootstrap.sql.
--
-- Plain privileges are the lock: everything belongs to tenantry_owner, and no login but `_deploy` is a
-- member. The triggers make the answer one that helps, and hold if a privilege is ever given by mistake.

-- step: owner | {database} | transaction
ALTER SCHEMA public OWNER TO tenantry_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC, tenantry_admin, tenantry_write, tenantry_read;
GRANT USAGE ON SCHEMA public TO tenantry_admin, tenantry_write, tenantry_read;

-- step: guard | {database} | transaction
-- Exempt by session_user only: the current role is whatever SET ROLE or SECURITY DEFINER made it. The
-- name is derived from the database, so a branch needs no rewriting. Not SECURITY DEFINER, search_path
-- fixed with pg_temp last: it runs with the rights of the session and nothing can be put in its way.
CREATE SCHEMA IF NOT EXISTS tenantry;
REVOKE ALL ON SCHEMA tenantry FROM PUBLIC;

-- Whether objects were temporary is known only at the end, made or dropped; this is what refuses.
CREATE OR REPLACE FUNCTION tenantry.guard_end() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  refused boolean;
BEGIN
  IF session_user = current_database() || '_deploy'
    OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user)
  THEN
    RETURN;
  END IF;
  IF TG_EVENT = 'sql_drop' THEN
    -- The rule of a temporary view is reported as if it were not temporary (15 to 18).
    refused := EXISTS (SELECT FROM pg_event_trigger_dropped_objects()
      WHERE NOT is_temporary AND NOT (object_type = 'rule' AND address_names[1] = 'pg_temp'));
  ELSE
    refused := EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE schema_name IS DISTINCT FROM 'pg_temp');
  END IF;
  IF refused THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = 'DDL not allowed on tenant databases, use workspace mode';
  END IF;
END $$;

-- For the wording only: privileges refuse before the end is reached, with texts such as "must be owner
-- of table". Whatever may concern a temporary object passes here: the session has some, or the statement
-- (or search_path, or a statement around this one) says temp, or a function in SQL hides the text.
-- No SET search_path here, because it has to see the session's: every name and operator is qualified.
CREATE OR REPLACE FUNCTION tenantry.guard_start() RETURNS event_trigger
LANGUAGE plpgsql
AS $$
DECLARE
  around pg_catalog.text;
BEGIN
  IF session_user OPERATOR(pg_catalog.=) (pg_catalog.current_database() OPERATOR(pg_catalog.||) '_deploy'::pg_catalog.text)
    OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) session_user)
    OR pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
  THEN
    RETURN;
  END IF;
  GET DIAGNOSTICS around = PG_CONTEXT;
  IF around OPERATOR(pg_catalog.~*) 'temp|(^|\n)SQL function'
    OR pg_catalog.current_query() OPERATOR(pg_catalog.~*) 'temp'
    OR pg_catalog.current_setting('search_path') OPERATOR(pg_catalog.~*) 'temp'
  THEN
    RETURN;
  END IF;
  RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
    MESSAGE = 'DDL not allowed on tenant databases, use workspace mode';
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tenantry FROM PUBLIC;
DROP EVENT TRIGGER IF EXISTS tenantry_guard_start;
DROP EVENT TRIGGER IF EXISTS tenantry_guard_end;
DROP EVENT TRIGGER IF EXISTS tenantry_guard_drop;
CREATE EVENT TRIGGER tenantry_guard_start ON ddl_command_start EXECUTE FUNCTION tenantry.guard_start();
CREATE EVENT TRIGGER tenantry_guard_end ON ddl_command_end EXECUTE FUNCTION tenantry.guard_end();
CREATE EVENT TRIGGER tenantry_guard_drop ON sql_drop EXECUTE FUNCTION tenantry.guard_end();
