-- What notes each change of the schema, inside the transaction that makes it. Run by a superuser; the roles are those of
-- the spike.
CREATE ROLE cap_owner NOLOGIN; CREATE ROLE grp_admin NOLOGIN; CREATE ROLE grp_read NOLOGIN;
CREATE ROLE ws LOGIN NOINHERIT IN ROLE grp_admin;
CREATE DATABASE w; 
\c w
REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT ALL ON SCHEMA public TO grp_admin; GRANT CREATE, TEMP ON DATABASE w TO grp_admin; GRANT USAGE ON SCHEMA public TO grp_read;
CREATE SCHEMA cap AUTHORIZATION cap_owner; GRANT USAGE ON SCHEMA cap TO PUBLIC;
SET ROLE cap_owner;
CREATE SEQUENCE cap.s;
CREATE TABLE cap.log (id bigint GENERATED ALWAYS AS IDENTITY, xid xid8 DEFAULT pg_current_xact_id(), at timestamptz, ordinal int, event text, tag text, role text, path text, query text, stack text, commands jsonb);
CREATE FUNCTION cap.note(event pg_catalog.text, tag pg_catalog.text, path pg_catalog.text, role pg_catalog.text, stack pg_catalog.text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE last bigint := 0; micros bigint := (extract(epoch from statement_timestamp() - timestamptz '2026-01-01 00:00Z') * 1000000)::bigint; cmds jsonb; own text;
BEGIN
  IF event = 'sql_drop' THEN
    SELECT jsonb_agg(jsonb_build_object('type', object_type, 'identity', object_identity, 'original', original, 'temp', is_temporary)) INTO cmds FROM pg_event_trigger_dropped_objects();
  ELSE
    SELECT jsonb_agg(jsonb_build_object('tag', command_tag, 'type', object_type, 'identity', object_identity, 'schema', schema_name, 'ext', in_extension)) INTO cmds FROM pg_event_trigger_ddl_commands();
  END IF;
  BEGIN last := currval('cap.s'); EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL; END;
  IF event <> 'sql_drop' THEN
    IF last / 10000 = micros THEN last := last + 1; ELSE last := micros * 10000 + 1; END IF;
    PERFORM setval('cap.s', last);
  END IF;
  INSERT INTO cap.log (at, ordinal, event, tag, role, path, query, stack, commands) VALUES (statement_timestamp(), last % 10000, event, tag, role, path, current_query(), stack, cmds);
END $$;
CREATE FUNCTION cap.saw() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE stack pg_catalog.text;
BEGIN
  GET DIAGNOSTICS stack = PG_CONTEXT;
  PERFORM cap.note(tg_event, tg_tag, pg_catalog.current_setting('search_path'), pg_catalog.current_setting('role'), stack);
END $$;
RESET ROLE;
CREATE EVENT TRIGGER cap_end ON ddl_command_end EXECUTE FUNCTION cap.saw();
CREATE EVENT TRIGGER cap_drop ON sql_drop EXECUTE FUNCTION cap.saw();
