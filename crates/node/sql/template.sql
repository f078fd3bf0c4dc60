-- What every tenant database begins with. Run in {template} before it is sealed.
-- Markers and rules: bootstrap.sql.

-- step: functions | {template} | transaction
-- What a reader must not call. A reader is meant to be able to do what a hot standby would let it do:
-- each of these writes, burns transaction ids, makes files, or takes entries of the lock table that
-- all tenants of the server share (an unbounded number: until others cannot log in).
-- ACLs of functions are copied by CREATE DATABASE, so tenants and clones have this from birth.
DO $$
DECLARE
  routine regprocedure;
BEGIN
  FOR routine IN
    SELECT oid::regprocedure FROM pg_catalog.pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace
      AND (proname ~ '^pg_(try_)?advisory_'
        OR proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_put', 'lowrite', 'lo_truncate',
          'lo_truncate64', 'lo_unlink', 'pg_logical_emit_message', 'pg_export_snapshot',
          'pg_current_xact_id', 'txid_current'))
  LOOP
    EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', routine);
    EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tenantry_owner, tenantry_admin, tenantry_write', routine);
  END LOOP;
END $$;
-- A copy by `_dump` in several sessions reads one snapshot.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() TO pg_read_all_data;

-- step: public | {template} | transaction
-- Owned by the group, so that `DROP SCHEMA public CASCADE; CREATE SCHEMA public` works: migration
-- tools do that. PUBLIC loses USAGE: a login that has left its group sees nothing.
ALTER SCHEMA public OWNER TO tenantry_admin;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO tenantry_write, tenantry_read;

-- step: defaults | {template} | transaction
-- What write and read may do with everything that the owner will ever make, in every schema, also
-- those made later (hence without IN SCHEMA, and with ON SCHEMAS).
-- Functions: PUBLIC loses EXECUTE, because a SECURITY DEFINER function of the admin would let a reader
-- write. An admin opens one to readers with GRANT EXECUTE … TO tenantry_read.
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_admin, tenantry_owner
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO tenantry_write;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_admin, tenantry_owner
  GRANT SELECT ON TABLES TO tenantry_read;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_admin, tenantry_owner
  GRANT USAGE, SELECT, UPDATE ON SEQUENCES TO tenantry_write;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_admin, tenantry_owner
  GRANT SELECT ON SEQUENCES TO tenantry_read;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_admin, tenantry_owner
  REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_admin, tenantry_owner
  GRANT EXECUTE ON ROUTINES TO tenantry_write;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_admin, tenantry_owner
  GRANT USAGE ON SCHEMAS TO tenantry_write, tenantry_read;
-- Objects of a blueprint belong to tenantry_owner; the admin of such a tenant uses them, no more.
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner
  GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON TABLES TO tenantry_admin;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner
  GRANT USAGE, SELECT, UPDATE ON SEQUENCES TO tenantry_admin;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner
  GRANT EXECUTE ON ROUTINES TO tenantry_admin;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner
  GRANT USAGE ON SCHEMAS TO tenantry_admin;
