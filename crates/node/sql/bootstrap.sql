-- What a server needs once, before its first tenant.
--
-- Read by `node` and by tests/isolation: product and test run the same text.
-- A line `-- step: <name> | <database> | <transaction or statements>` starts a step; it says where to
-- connect and whether the step is one transaction or single statements (CREATE DATABASE cannot be in
-- one). Every step may be run again (CREATE DATABASE then answers 42P04: done). `{name}` is replaced before sending; nothing that a user chose
-- is ever put here: placeholders are our own names (`[a-z0-9_]`) and SCRAM verifiers.
-- All of it runs as the platform's role with search_path = pg_catalog.
--
-- {catalog}: database of the control plane's catalog, where it lies on this server.
-- {template}: database every tenant is copied from (`tenantry_template`).
-- {locale}: empty (as the server), or a LOCALE clause, of which the server takes the first it knows: on 17+
--   PostgreSQL's own provider with C.UTF-8, before it LC_COLLATE 'C' (order of bytes) with LC_CTYPE 'C.UTF-8'
--   (upper and lower case): neither changes its order with the operating system. See `steps.rs`.

-- step: groups | postgres | transaction
-- The groups own and are granted everything inside tenant databases, so that ownership and grants
-- name no tenant, and a clone needs no rewriting. They are the same on every server. ALTER repeats
-- what CREATE says: a tenant acting as the group can give it a password and settings (neither has an
-- effect on a NOLOGIN role; both are removed again here).
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['tenantry_owner', 'tenantry_admin', 'tenantry_write', 'tenantry_read'] LOOP
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
      EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name);
    END IF;
    EXECUTE pg_catalog.format('ALTER ROLE %I NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE '
      'NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1 PASSWORD NULL', name);
    EXECUTE pg_catalog.format('ALTER ROLE %I RESET ALL', name);
  END LOOP;
END $$;

-- step: doors | postgres | transaction
-- First wall, for what is not a tenant: without this every login role of every tenant may connect to
-- these through PUBLIC.
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;

-- step: catalog_door | postgres | transaction
REVOKE ALL ON DATABASE {catalog} FROM PUBLIC;

-- step: template | postgres | statements
-- Limit 0 from its first moment: datacl is not copied, so PUBLIC may connect until it is revoked.
CREATE DATABASE {template} TEMPLATE template0 ENCODING 'UTF8' {locale} CONNECTION LIMIT 0;

-- step: template_door | postgres | transaction
REVOKE ALL ON DATABASE {template} FROM PUBLIC;

-- step: seal | postgres | transaction
-- After the steps of template.sql. Nobody connects any more, so nothing in it changes and a copy
-- never finds a session in the way; IS_TEMPLATE refuses DROP DATABASE.
ALTER DATABASE {template} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false CONNECTION LIMIT 0;

-- step: unseal | postgres | transaction
-- To bring an older template up to date: unseal, the steps of template.sql, seal.
ALTER DATABASE {template} WITH IS_TEMPLATE true ALLOW_CONNECTIONS true CONNECTION LIMIT 0;
