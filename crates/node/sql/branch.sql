-- What turns a copy of a tenant's database into a tenant of its own, and what a streamed copy needs.
-- Markers and rules: bootstrap.sql.
--
-- {database}: the copy, `x_<pid>`. {source}: the database it was copied from.
-- {verifier}: of the password of `{database}_fill`. {until}: a timestamp.

-- step: let_in | postgres | transaction
-- Before `adopt`, for a copy that was closed altogether.
ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true;

-- step: adopt | {database} | transaction
-- Ownership and grants name groups, which all tenants share; but a tenant can name its own logins in a
-- GRANT, in default privileges and in a policy. A copy has these of its source: here they are made out to
-- the logins of the copy. Runs no text of a user: a policy's expressions are not evaluated when its roles
-- are changed. Not DROP OWNED: that would also take CONNECT on the source's own database away.
DO $$
DECLARE
  suffix text;
  old oid;
  new name;
  item record;
  kind text;
  words text;
BEGIN
  FOREACH suffix IN ARRAY ARRAY['', '_admin', '_write', '_read'] || ARRAY(
      SELECT substr(rolname::text, length('{source}') + 1) FROM pg_roles
      WHERE rolname ~ '^{source}_(admin|write|read)_[a-z0-9]+$') LOOP
    SELECT oid INTO old FROM pg_roles WHERE rolname = '{source}' || suffix;
    CONTINUE WHEN old IS NULL;
    new := '{database}' || suffix;

    FOR item IN
      SELECT p.polname, p.polrelid::regclass AS relation, p.polroles
      FROM pg_policy p WHERE old = ANY (p.polroles)
    LOOP
      SELECT string_agg(CASE WHEN one = 0 THEN 'PUBLIC' WHEN one = old THEN quote_ident(new)
          ELSE quote_ident(pg_get_userbyid(one)) END, ', ')
        INTO words FROM unnest(item.polroles) AS one;
      EXECUTE format('ALTER POLICY %I ON %s TO %s', item.polname, item.relation, words);
    END LOOP;

    FOR item IN
      SELECT d.defaclrole, d.defaclnamespace, d.defaclobjtype, a.privilege_type, a.is_grantable
      FROM pg_default_acl d, aclexplode(d.defaclacl) a WHERE a.grantee = old
    LOOP
      words := format('ALTER DEFAULT PRIVILEGES FOR ROLE %I', pg_get_userbyid(item.defaclrole));
      IF item.defaclnamespace <> 0 THEN
        words := words || format(' IN SCHEMA %s', item.defaclnamespace::regnamespace);
      END IF;
      kind := CASE item.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES'
        WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END;
      EXECUTE format('%s GRANT %s ON %s TO %I %s', words, item.privilege_type, kind, new,
        CASE WHEN item.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END);
      EXECUTE format('%s REVOKE %s ON %s FROM %I', words, item.privilege_type, kind, pg_get_userbyid(old));
    END LOOP;

    -- Of a login itself: without effect, since it owns nothing. They go.
    FOR item IN
      SELECT d.defaclnamespace, d.defaclobjtype, coalesce(array_agg(DISTINCT a.grantee) FILTER (WHERE a.grantee <> old), '{}') AS others
      FROM pg_default_acl d LEFT JOIN aclexplode(d.defaclacl) a ON true WHERE d.defaclrole = old GROUP BY 1, 2
    LOOP
      words := format('ALTER DEFAULT PRIVILEGES FOR ROLE %I', pg_get_userbyid(old));
      kind := CASE item.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES'
        WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END;
      IF item.defaclnamespace <> 0 THEN
        words := words || format(' IN SCHEMA %s', item.defaclnamespace::regnamespace);
        EXECUTE format('%s REVOKE ALL ON %s FROM %I', words, kind, pg_get_userbyid(old));
      ELSE
        EXECUTE format('%s GRANT ALL ON %s TO %I', words, kind, pg_get_userbyid(old));
      END IF;
      EXECUTE format('%s REVOKE ALL ON %s FROM PUBLIC', words, kind);
      FOR words IN
        SELECT format('%s REVOKE ALL ON %s FROM %I', words, kind, pg_get_userbyid(one))
        FROM unnest(item.others) one WHERE one <> 0
      LOOP
        EXECUTE words;
      END LOOP;
      IF item.defaclnamespace = 0 AND item.defaclobjtype IN ('f', 'T') THEN
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT ALL ON %s TO PUBLIC', pg_get_userbyid(old), kind);
      END IF;
    END LOOP;

    FOR item IN
      WITH named AS (
        SELECT DISTINCT classid, objid FROM pg_shdepend
        WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND refclassid = 'pg_authid'::regclass AND refobjid = old AND deptype = 'a'
      ), acls AS (
        SELECT n.classid, n.objid, 0 AS sub, c.relacl AS acl FROM named n JOIN pg_class c
          ON n.classid = 'pg_class'::regclass AND c.oid = n.objid
        UNION ALL SELECT n.classid, n.objid, t.attnum, t.attacl FROM named n JOIN pg_attribute t
          ON n.classid = 'pg_class'::regclass AND t.attrelid = n.objid
        UNION ALL SELECT n.classid, n.objid, 0, p.proacl FROM named n JOIN pg_proc p
          ON n.classid = 'pg_proc'::regclass AND p.oid = n.objid
        UNION ALL SELECT n.classid, n.objid, 0, s.nspacl FROM named n JOIN pg_namespace s
          ON n.classid = 'pg_namespace'::regclass AND s.oid = n.objid
        UNION ALL SELECT n.classid, n.objid, 0, y.typacl FROM named n JOIN pg_type y
          ON n.classid = 'pg_type'::regclass AND y.oid = n.objid
        UNION ALL SELECT n.classid, n.objid, 0, l.lomacl FROM named n JOIN pg_largeobject_metadata l
          ON n.classid = 'pg_largeobject'::regclass AND l.oid = n.objid
        UNION ALL SELECT n.classid, n.objid, 0, g.lanacl FROM named n JOIN pg_language g
          ON n.classid = 'pg_language'::regclass AND g.oid = n.objid
        UNION ALL SELECT n.classid, n.objid, 0, w.fdwacl FROM named n JOIN pg_foreign_data_wrapper w
          ON n.classid = 'pg_foreign_data_wrapper'::regclass AND w.oid = n.objid
        UNION ALL SELECT n.classid, n.objid, 0, f.srvacl FROM named n JOIN pg_foreign_server f
          ON n.classid = 'pg_foreign_server'::regclass AND f.oid = n.objid
      )
      SELECT i.type, a.sub, i.identity, r.grantor, r.privilege_type, r.is_grantable,
        (SELECT attname FROM pg_attribute WHERE attrelid = a.objid AND attnum = a.sub) AS column_name,
        CASE WHEN a.sub <> 0 THEN a.objid::regclass END AS relation
      FROM acls a, aclexplode(a.acl) r, pg_identify_object(a.classid, a.objid, 0) i
      WHERE r.grantee = old
    LOOP
      kind := CASE
        WHEN item.type IN ('table', 'view', 'materialized view', 'foreign table') THEN 'TABLE'
        WHEN item.type IN ('function', 'procedure', 'aggregate') THEN 'ROUTINE'
        WHEN item.type = 'type' THEN 'TYPE' WHEN item.type = 'domain' THEN 'DOMAIN'
        WHEN item.type = 'foreign-data wrapper' THEN 'FOREIGN DATA WRAPPER'
        WHEN item.type = 'server' THEN 'FOREIGN SERVER'
        ELSE upper(item.type) END;
      words := item.privilege_type
        || CASE WHEN item.sub <> 0 THEN format(' (%I)', item.column_name) ELSE '' END
        || format(' ON %s %s', kind, coalesce(item.relation::text, item.identity));
      -- A grant is taken back by who gave it.
      EXECUTE format('SET LOCAL ROLE %I', pg_get_userbyid(item.grantor));
      EXECUTE format('GRANT %s TO %I %s', words, new,
        CASE WHEN item.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END);
      EXECUTE format('REVOKE %s FROM %I CASCADE', words, pg_get_userbyid(old));
      RESET ROLE;
    END LOOP;
  END LOOP;
END $$;

-- step: named | {database} | transaction
-- What is left that names a role of one tenant which is not this one's.
SELECT count(*) FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND s.refclassid = 'pg_authid'::regclass AND starts_with(r.rolname, '{source}');

-- step: fill_mark | postgres | transaction
-- Before the database is there: while this role exists, the copy is not complete.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{database}_fill') THEN
    CREATE ROLE {database}_fill NOLOGIN;
  END IF;
END $$;

-- step: fill_login | postgres | transaction
-- The login that fills a streamed copy. It restores text of a user, so it has no rights but those of the
-- groups, and may connect to this one database only. It inherits from all of them, because a restore gives
-- each object to its owner; nothing stays its own (`fill_done`). VALID UNTIL, because it outlives nothing.
DO $$
DECLARE
  login CONSTANT text := '{database}_fill';
  with_rights text := '';
  as_wall text := '';
BEGIN
  IF pg_catalog.current_setting('server_version_num')::int >= 160000 THEN
    with_rights := ' WITH INHERIT TRUE, SET TRUE';
    as_wall := ' WITH INHERIT FALSE, SET FALSE';
  END IF;
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = login) THEN
    EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', login);
  END IF;
  EXECUTE pg_catalog.format('ALTER ROLE %I LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION '
    'NOBYPASSRLS PASSWORD %L VALID UNTIL %L', login, '{verifier}', '{until}');
  EXECUTE pg_catalog.format('ALTER ROLE %I RESET ALL', login);
  EXECUTE pg_catalog.format('GRANT tenantry_owner, tenantry_admin, tenantry_write, tenantry_read TO %I', login) || with_rights;
  EXECUTE pg_catalog.format('GRANT {database} TO %I', login) || as_wall;
  REVOKE ALL ON DATABASE {database} FROM PUBLIC;
  GRANT CREATE, TEMPORARY ON DATABASE {database} TO tenantry_admin;
  EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE {database} TO %I', login);
END $$;
ALTER DATABASE {database} WITH ALLOW_CONNECTIONS true CONNECTION LIMIT -1;

-- step: fill_bare | {database} | transaction
-- A dump says what differs from a fresh database of PostgreSQL, not from our template: what the template
-- grants, and the source may have taken back, goes first.
DO $$
DECLARE
  item record;
  words text;
  kind text;
BEGIN
  FOR item IN
    SELECT d.defaclrole, d.defaclnamespace, d.defaclobjtype, a.grantee
    FROM pg_default_acl d, aclexplode(d.defaclacl) a WHERE a.grantee NOT IN (0, d.defaclrole)
    GROUP BY 1, 2, 3, 4
  LOOP
    words := format('ALTER DEFAULT PRIVILEGES FOR ROLE %I', pg_get_userbyid(item.defaclrole));
    kind := CASE item.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES'
      WHEN 'T' THEN 'TYPES' ELSE 'SCHEMAS' END;
    EXECUTE format('%s REVOKE ALL ON %s FROM %I', words, kind, pg_get_userbyid(item.grantee));
  END LOOP;
  FOR item IN SELECT DISTINCT defaclrole FROM pg_default_acl WHERE defaclobjtype = 'f' LOOP
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT EXECUTE ON ROUTINES TO PUBLIC',
      pg_get_userbyid(item.defaclrole));
  END LOOP;
END $$;
REVOKE ALL ON SCHEMA public FROM tenantry_write, tenantry_read;
GRANT USAGE ON SCHEMA public TO PUBLIC;

-- step: fill_done | {database} | transaction
-- What the dump gave to nobody (extensions) belongs to the admin, as in the source.
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{database}_fill') THEN
    REASSIGN OWNED BY {database}_fill TO tenantry_admin;
  END IF;
END $$;

-- step: fill_undo | postgres | transaction
-- After its database was dropped.
DROP ROLE IF EXISTS {database}_fill;

-- step: stand_in | postgres | transaction
-- A dump names roles of the database it was made of. One that is gone since has to be there for as long as
-- the dump is read: it may not log in, and is in nothing. Its comment names those that it is made for, so that the checker knows, and
-- whoever is the last one removes it, also when the process that made it died. Several restores may need one.
DO $$
DECLARE
  made_for text;
BEGIN
  PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('{role}', 0));
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{role}') THEN
    CREATE ROLE {role} NOLOGIN;
    COMMENT ON ROLE {role} IS 'stands in for: {database}';
    RETURN;
  END IF;
  made_for := pg_catalog.shobj_description('{role}'::regrole, 'pg_authid');
  IF pg_catalog.starts_with(made_for, 'stands in for: ')
      AND '{database}' <> ALL (pg_catalog.string_to_array(made_for, ' ')) THEN
    EXECUTE pg_catalog.format('COMMENT ON ROLE {role} IS %L', made_for || ' {database}');
  END IF;
END $$;

-- step: stand_ins_drop | postgres | transaction
-- What {database} needed. One that something still names stays, and says whom it was made for.
DO $$
DECLARE
  role name;
  made_for text;
BEGIN
  FOR role IN SELECT r.rolname FROM pg_catalog.pg_roles r
      WHERE r.rolname ~ '^x_[a-z][a-z0-9]{11}(_|$)'
        AND '{database}' = ANY (pg_catalog.string_to_array(pg_catalog.shobj_description(r.oid, 'pg_authid'), ' '))
      ORDER BY 1 LOOP
    PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(role::text, 0));
    SELECT pg_catalog.shobj_description(r.oid, 'pg_authid') INTO made_for FROM pg_catalog.pg_roles r WHERE r.rolname = role;
    CONTINUE WHEN made_for IS NULL OR NOT pg_catalog.starts_with(made_for, 'stands in for: ');
    made_for := pg_catalog.array_to_string(
      pg_catalog.array_remove(pg_catalog.string_to_array(made_for, ' '), '{database}'), ' ');
    IF made_for <> 'stands in for:' THEN
      EXECUTE pg_catalog.format('COMMENT ON ROLE %I IS %L', role, made_for);
      CONTINUE;
    END IF;
    BEGIN
      EXECUTE pg_catalog.format('DROP ROLE %I', role);
    EXCEPTION WHEN dependent_objects_still_exist THEN
      NULL;
    END;
  END LOOP;
END $$;
