"""Mechanisms that need more than one session, a login that fails, or the platform at work.

Each is a function of the world; its docstring's first line is its name. Attack and positive control are
in one function, so that neither can be dropped alone.
"""

import os
import signal
import subprocess
import time
from contextlib import contextmanager

from runner import Failure
from server import CATALOG, HBA, HBA_OPEN, TEMPLATE, Connection, PgError, Tenant

MECHANISMS = []

# The ways of a run: see runner.World.
STRAIGHT = ("hand", "server")
EVERY = ("hand", "server", "proxy")


def collector(mechanisms, default):
    """The decorator of one module. `changes`: may leave rows that the platform repairs."""
    def mechanism(function=None, *, changes=False, ways=default):
        def add(function):
            mechanisms.append((function.__doc__.split("\n")[0].rstrip("."), changes, ways, function))
            return function
        return add(function) if function else add
    return mechanism


mechanism = collector(MECHANISMS, STRAIGHT)


def refused(codes, act, what="the attack"):
    codes = codes.split()
    try:
        result = act()
    except PgError as error:
        if error.code not in codes:
            raise Failure(f"{what}: {error}, expected {' or '.join(codes)}") from error
        return error
    if isinstance(result, Connection):
        result.close()
    raise Failure(f"{what} succeeded, expected {' or '.join(codes)}")


def equal(got, expected, what):
    if got != expected:
        raise Failure(f"{what}: got {got!r}, expected {expected!r}")


def until(condition, what, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds} s: {what}")
        time.sleep(0.02)


@contextmanager
def second_wall_open(world):
    """pg_hba lets everybody in: only CONNECT is left."""
    world.server.hba(HBA_OPEN)
    try:
        yield
    finally:
        world.server.hba(HBA_OPEN if "hba" in world.server.weaken else HBA)


@contextmanager
def terminated(connection, world):
    """Ends that session the way the platform does, and waits for it to be gone."""
    pid = connection.value("select pg_backend_pid()")
    yield
    world.platform.query(f"select pg_terminate_backend({pid})")
    until(lambda: not world.platform.query(f"select from pg_stat_activity where pid = {pid}"), "session still there")


# -------------------------------------------------------------------------------------------- the two walls


OTHERS = ("b", "c", "p")
DOORS = ("postgres", "template1", CATALOG)


@mechanism
def first_wall(world):
    """CONNECT alone keeps tenants out of other databases."""
    with second_wall_open(world):
        for role in ("admin", "write", "read"):
            for other in OTHERS:
                refused("42501", lambda: world.connect(f"A.{role}", database=getattr(world, other).database))
            for door in DOORS:
                refused("42501", lambda: world.connect(f"A.{role}", database=door), f"{role} into {door}")
            refused("42501", lambda: world.connect(f"C.{role}", database=world.a.database), "branch into source")
        for maintenance in ("A.dump", "P.deploy"):
            refused("42501", lambda: world.connect(maintenance, database=world.b.database), maintenance)
        refused("55000 42501", lambda: world.connect("A.admin", database=TEMPLATE), "the template")
        refused("55000 42501", lambda: world.connect("A.admin", database="template0"), "template0")
        world.connect("B.admin").close()


@mechanism
def second_wall(world):
    """pg_hba alone keeps tenants out where PUBLIC may connect."""
    databases = [world.b.database, world.c.database, *DOORS]
    world.platform.query(f"GRANT CONNECT ON DATABASE {', '.join(databases)} TO PUBLIC")
    try:
        for role in ("admin", "write", "read"):
            for database in databases:
                refused("28000", lambda: world.connect(f"A.{role}", database=database), f"{role} into {database}")
        for maintenance in ("A.dump", "P.deploy"):
            refused("28000", lambda: world.connect(maintenance, database=world.b.database), maintenance)
        world.connect("B.read").close()
        with second_wall_open(world):
            # The attack is real: without both walls A is in, and there the groups make him B.
            with world.server.login(world.a, "read", database=world.b.database) as c:
                equal(c.value("select v from public.canary"), world.canary, "A in B without walls")
    finally:
        for database in databases:
            world.platform.query(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")


@mechanism
def fresh_copy(world):
    """A fresh copy is open to PUBLIC, and its connection limit keeps everybody out."""
    with second_wall_open(world):
        for source in (TEMPLATE, world.c.database):
            for limit, expected in ((0, "53300"), (-1, None)):
                world.platform.query(f"CREATE DATABASE fresh TEMPLATE {source} CONNECTION LIMIT {limit}")
                try:
                    if expected:
                        refused(expected, lambda: world.connect("A.admin", database="fresh"), "a fresh copy")
                    else:
                        world.connect("A.admin", database="fresh").close()
                finally:
                    world.platform.query("DROP DATABASE fresh WITH (FORCE)")
    fresh = Tenant("fresh0000000")
    world.server.roles(fresh)
    world.server.step("tenant", "database", database=fresh.database, source=TEMPLATE, strategy="WAL_LOG")
    try:
        with second_wall_open(world):
            refused("53300", lambda: world.connect("A.read", database=fresh.database), "between create and open")
            world.server.step("tenant", "open", database=fresh.database)
            refused("42501", lambda: world.connect("A.read", database=fresh.database), "after open")
        world.server.login(fresh, "read").close()
    finally:
        world.server.drop(fresh)


@mechanism
def replication_protocol(world):
    """Replication connections are refused."""
    refused("28000", lambda: world.connect("A.admin", parameters={"replication": "true"}, options=""))
    refused("28000", lambda: world.connect("A.admin", database=world.b.database,
                                           parameters={"replication": "database"}, options=""))
    # To the own database `samerole` lets it through, and the missing attribute stops it.
    refused("42501", lambda: world.connect("A.admin", parameters={"replication": "database"}, options=""))
    with second_wall_open(world):
        world.server.hba(HBA_OPEN + "local replication all scram-sha-256\n")
        for wanted in ("true", "database"):
            refused("42501", lambda: world.connect("A.admin", parameters={"replication": wanted}, options=""))
    world.server.platform(parameters={"replication": "database"}).close()


@mechanism
def roles_without_login(world):
    """Groups, wall roles and the platform cannot be logged in as."""
    for user in ("tenantry_admin", "tenantry_owner", "tenantry_read", world.a.database, world.b.database):
        refused("28000 28P01", lambda: world.connect("A.admin", user=user, options=""), user)
    with second_wall_open(world):
        for user in ("tenantry_admin", "tenantry_owner", world.a.database):
            refused("28000 28P01", lambda: world.connect("A.admin", user=user, options=""), user)
    refused("28000", lambda: world.connect("A.admin", user="pg_read_all_data", options=""))


@mechanism
def passwords(world):
    """A password opens its own login only."""
    for role in ("admin", "write", "read"):
        refused("28P01", lambda: world.connect("B.admin", password=world.a.passwords[role]))
        refused("28P01", lambda: world.connect(f"A.{role}", password="x"))
    refused("28P01", lambda: world.connect("A.admin", password=world.a.passwords["read"]))
    refused("28P01", lambda: world.connect("A.admin", password=world.a.verifiers["admin"]), "the verifier as password")
    refused("28P01", lambda: world.connect("A.admin", password=""))
    world.connect("A.admin").close()


@mechanism
def startup_options(world):
    """Startup options give nothing that SET would refuse."""
    for setting in ("log_statement=all", "session_preload_libraries=dblink", "session_replication_role=replica",
                    "role=tenantry_owner", f"role={world.b.database}_admin", "role=postgres", "temp_file_limit=-1",
                    "allow_system_table_mods=on", "ignore_system_indexes=on", "session_authorization=postgres",
                    "local_preload_libraries=dblink", "role=pg_read_all_data"):
        name = setting.split("=")[0]
        try:
            connection = world.connect("A.admin", options=f"-c {setting}")
        except PgError as error:
            if error.code not in ("42501", "22023", "58P01", "55P02"):
                raise Failure(f"{setting}: {error}") from error
            continue
        with connection:
            current = connection.query("select current_user, session_user")[0]
            if name != "ignore_system_indexes" and current != [f"{world.a.database}_admin"] * 2:
                raise Failure(f"{setting} succeeded: {current}")
    with world.connect("A.admin", options="-c role=tenantry_admin -c work_mem=64kB") as c:
        equal(c.query("select current_user, current_setting('work_mem')"), [["tenantry_admin", "64kB"]], "control")


# --------------------------------------------------------------------------------- settings, roles, passwords


@mechanism(changes=True)
def own_settings(world):
    """Settings stored on one's own login are overridden by the startup options, and removed."""
    login = f"{world.a.database}_admin"
    with world.connect("A.admin") as c:
        c.query("SET ROLE NONE")
        c.query(f"ALTER ROLE {login} SET statement_timeout = '1h'")
        c.query(f"ALTER ROLE {login} SET search_path = mine")
        c.query(f"ALTER ROLE {login} IN DATABASE {world.a.database} SET role = 'none'")
        c.query(f"ALTER ROLE {login} SET work_mem = '64kB'")
    wanted = [["tenantry_admin", "20s", '"$user",public', "64kB"]]
    look = ("select current_user, current_setting('statement_timeout'), current_setting('search_path'),"
            " current_setting('work_mem')")
    with world.connect("A.admin") as c:
        equal(c.query(look), wanted, "startup options against role settings")
        for undo in ("RESET ALL", "DISCARD ALL", "RESET ROLE", "SET SESSION AUTHORIZATION DEFAULT", "SET role TO DEFAULT"):
            c.query(undo)
            equal(c.query(look), wanted, f"after {undo}")
    # Control: what nobody overrides did take effect (work_mem above), until the pass.
    equal(len(world.server.step("tenant", "stored_settings")), 2, "rows to report")
    world.server.step("tenant", "forget_settings")
    equal(world.server.step("tenant", "stored_settings"), [], "after the pass")
    with world.connect("A.admin") as c:
        equal(c.value("show work_mem"), world.words["work_mem"], "after the pass")


@mechanism(ways=EVERY)
def discard_all(world):
    """RESET ALL and DISCARD ALL fall back to the group, never to more."""
    for role in ("admin", "write", "read"):
        with world.connect(f"A.{role}") as c:
            for undo in ("RESET ALL", "DISCARD ALL", "RESET SESSION AUTHORIZATION", "RESET ROLE"):
                c.query("SET ROLE NONE")
                c.query(undo)
                if undo in ("DISCARD ALL", "RESET ROLE"):
                    equal(c.value("select current_user"), f"tenantry_{role}", undo)
            c.query("SET ROLE NONE")
            equal(c.value("select current_user"), f"{world.a.database}_{role}", "SET ROLE NONE")


@mechanism(changes=True)
def password_change(world):
    """A tenant can lock its own login, no other, and the step that creates it repairs it."""
    with world.connect("A.read") as c:
        c.query("SET ROLE NONE")
        c.query(f"ALTER ROLE {world.a.database}_read PASSWORD 'mine'")
    refused("28P01", lambda: world.connect("A.read"), "the proxy's password")
    world.connect("A.admin").close()
    world.connect("B.read").close()
    world.server.roles(world.a)
    world.connect("A.read").close()
    refused("28P01", lambda: world.connect("A.read", password="mine"), "the tenant's own password")


@mechanism(changes=True)
def wall_role_password(world):
    """A password and settings put on the wall role open nothing, and are removed."""
    wall = world.a.database
    with world.connect("A.admin") as c:
        if world.server.major >= 16:
            refused("42501", lambda: c.query(f"SET ROLE {wall}"))
            return
        c.query(f"SET ROLE {wall}; ALTER ROLE {wall} PASSWORD 'known'; ALTER ROLE {wall} SET work_mem = '64kB'")
    error = refused("28000", lambda: world.connect("A.admin", user=wall, password="known", options=""))
    if "not permitted to log in" not in error.message:
        raise Failure(f"{error}: the password was not right, so this shows nothing")
    world.server.roles(world.a)
    refused("28P01", lambda: world.connect("A.admin", user=wall, password="known", options=""), "after repair")


@mechanism(changes=True, ways=EVERY)
def held_rows(world):
    """A transaction that stays open over a shared role blocks no login, no create, and repair only for lock_timeout."""
    with world.connect("A.admin") as holder, terminated(holder, world):
        holder.query("BEGIN")
        holder.query("ALTER ROLE tenantry_admin PASSWORD 'x'")
        holder.query("ALTER ROLE tenantry_admin SET work_mem = '64kB'")
        world.connect("B.admin").close()
        other = Tenant("other0000000")
        world.server.create(other)
        world.server.login(other, "admin").close()
        world.server.drop(other)
        refused("55P03", lambda: world.server.step("bootstrap", "groups"), "repair under the lock")
    world.server.step("bootstrap", "groups")


@mechanism(ways=EVERY)
def named_in_grants(world):
    """A role that another tenant names in its grants and policies can still be dropped."""
    victim = Tenant("victim000000")
    world.server.create(victim)
    with world.connect("A.admin") as c:
        c.query(f"GRANT SELECT ON public.notes TO {victim.database}_read")
        c.query(f"CREATE POLICY named ON public.notes TO {victim.database}_admin, {world.b.database}_read")
        c.query(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {victim.database}_write, {victim.database}")
        c.query("GRANT SELECT ON public.forced TO " + victim.database + "_admin")
    refused("28000", lambda: world.server.login(victim, "read", database=world.a.database), "the named role into A")
    world.server.step("tenant", "drop", database=victim.database)
    refused("2BP01", lambda: world.server.step("tenant", "drop_roles", database=victim.database),
            "dropping without forgetting")
    with world.connect("A.admin") as holder, terminated(holder, world):
        holder.query("BEGIN")
        holder.query(f"GRANT SELECT ON public.notes_view TO {victim.database}_read")
        for (database,) in world.server.step("tenant", "dependents", database=victim.database):
            world.server.step("tenant", "forget", at=database, database=victim.database)
        refused("55P03 2BP01", lambda: world.server.step("tenant", "drop_roles", database=victim.database),
                "dropping while a transaction names it")
    world.server.step("tenant", "drop_roles", database=victim.database)
    with world.connect("A.admin") as c:
        c.query("DROP POLICY named ON public.notes")
    equal(world.platform.query("select rolname from pg_roles where rolname ~ 'victim'"), [], "roles left")


@mechanism
def two_step_drop(world):
    """A deleted tenant is refused and disconnected at once, and comes back unharmed."""
    gone = Tenant("gone00000000")
    world.server.create(gone)
    session = world.server.login(gone, "admin")
    session.query("CREATE TABLE t AS SELECT 1 AS i")
    world.server.step("tenant", "close", database=gone.database)
    world.server.step("tenant", "disconnect", database=gone.database)
    until(lambda: not world.server.step("tenant", "disconnect", database=gone.database), "sessions ended")
    refused("57P01 closed", lambda: session.query("select 1"), "the open session")
    session.close()
    refused("55000 53300", lambda: world.server.login(gone, "read"), "a new session")
    world.server.step("tenant", "open", database=gone.database)
    with world.server.login(gone, "read") as c:
        equal(c.value("select i from t"), "1", "after undelete")
    world.server.drop(gone)
    refused("28P01 3D000 28000", lambda: world.server.login(gone, "admin"), "after the drop")


# --------------------------------------------------------------------------- what of ours might run user text


HOSTILE = """
CREATE TABLE public.seen (who text, why text);
CREATE FUNCTION public.climb(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  BEGIN EXECUTE 'ALTER ROLE ' || quote_ident(session_user) || ' SET application_name = ''climbed'''; EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN EXECUTE 'SET ROLE postgres'; EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN EXECUTE 'ALTER ROLE tenantry_admin SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN EXECUTE 'CREATE ROLE climbed SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN RAISE WARNING 'as %', current_user; END;
  RETURN i;
END $$;
CREATE TABLE public.trap (i int);
INSERT INTO public.trap VALUES (1), (2);
CREATE INDEX trap_i ON public.trap (public.climb(i));
CREATE MATERIALIZED VIEW public.trap_view AS SELECT public.climb(i) FROM public.trap;
"""


@mechanism(ways=EVERY)
def maintenance_runs_as_owner(world):
    """Index expressions and materialized views run as the group under our ANALYZE, VACUUM, REINDEX and REFRESH."""
    with world.connect("A.admin") as c:
        c.query(HOSTILE)
    ran = 0
    with world.server.platform(world.a.database) as c:
        for sql in ("ANALYZE public.trap", "VACUUM FULL public.trap", "REINDEX TABLE public.trap",
                    "CLUSTER public.trap USING trap_i", "REFRESH MATERIALIZED VIEW public.trap_view",
                    "VACUUM (ANALYZE) public.trap", "REINDEX INDEX public.trap_i"):
            c.notices.clear()
            c.query(sql)
            said = {n["M"] for n in c.notices if n["M"].startswith("as ")}
            ran += bool(said)
            if said - {"as tenantry_admin"}:
                raise Failure(f"{sql}: ran {said}")
    if ran < 4:
        raise Failure("the trap did not run: this shows nothing")
    equal(world.platform.query("select rolname from pg_roles where rolname = 'climbed'"), [], "a role was made")
    with world.connect("A.admin") as c:
        c.query("DROP TABLE public.trap CASCADE; DROP TABLE public.seen; DROP FUNCTION public.climb")


@mechanism(ways=EVERY)
def shadowed_names(world):
    """Names a tenant puts in public are not found by our maintenance, whose search_path is pg_catalog."""
    with world.connect("A.admin") as c:
        c.query("CREATE FUNCTION public.length(anyelement) RETURNS int LANGUAGE sql AS 'SELECT -1'")
        c.query("CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE plpgsql AS "
                "$$BEGIN RETURN 'as ' || current_user; END$$")
    probe = "select lower('X'::varchar)"
    with world.server.platform(world.a.database, options="") as c:
        # The attack is real: with the default search_path the better match wins, with our rights.
        equal(c.value(probe), f"as {world.server.user}", "without the defence")
    with world.server.platform(world.a.database) as c:
        equal(c.value(probe), "x", "with search_path = pg_catalog")
        c.query("set search_path = pg_catalog, pg_temp")
        equal(c.value(probe), "x", "with pg_temp last")
    with world.connect("A.admin") as c:
        c.query("DROP FUNCTION public.length(anyelement); DROP FUNCTION public.lower(varchar)")


@mechanism(ways=EVERY)
def cascade_and_views(world):
    """Foreign-key cascades, views, rules and triggers of a tenant run as group or caller, never as more."""
    with world.connect("A.admin") as c:
        c.query("""
CREATE TABLE public.parent (id int PRIMARY KEY);
CREATE TABLE public.child (id int REFERENCES public.parent ON DELETE CASCADE, who text);
CREATE TABLE public.log (who text, session text);
CREATE FUNCTION public.note_who() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.log VALUES (current_user, session_user); RETURN OLD; END $$;
CREATE TRIGGER t BEFORE DELETE ON public.child FOR EACH ROW EXECUTE FUNCTION public.note_who();
CREATE VIEW public.me AS SELECT current_user AS c, session_user AS s;
INSERT INTO public.parent VALUES (1); INSERT INTO public.child VALUES (1);""")
    with world.connect("A.write") as c:
        c.query("DELETE FROM public.parent")
    with world.connect("A.read") as c:
        equal(c.query("SELECT * FROM public.log"), [["tenantry_admin", f"{world.a.database}_write"]], "the cascade")
        equal(c.query("SELECT * FROM public.me"), [["tenantry_read", f"{world.a.database}_read"]], "the view")
    with world.connect("A.admin") as c:
        c.query("DROP TABLE public.parent, public.child, public.log; DROP VIEW public.me; DROP FUNCTION public.note_who")


OWNED = """
SELECT c.classid::regclass || ' ' || c.objid || ' ' || r.rolname FROM pg_shdepend c JOIN pg_roles r ON r.oid = c.refobjid
WHERE c.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND c.deptype = 'o'
  AND r.rolname NOT IN ('tenantry_owner', 'tenantry_admin', 'tenantry_write', 'tenantry_read')
UNION ALL
SELECT 'pg_proc ' || p.oid::regprocedure FROM pg_proc p WHERE p.oid >= 16384 AND p.proowner = 10
  AND p.pronamespace <> coalesce(to_regnamespace('tenantry'), 0::oid)
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT 'pg_class ' || c.oid::regclass FROM pg_class c WHERE c.oid >= 16384 AND c.relowner = 10 AND c.relnamespace <> 'pg_toast'::regnamespace
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = c.reltype AND d.deptype = 'e')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT 'pg_namespace ' || nspname FROM pg_namespace n WHERE n.oid >= 16384 AND n.nspowner = 10 AND nspname <> 'tenantry'
  AND nspname !~ '^pg_(toast_)?temp_'
"""


@mechanism
def privileged_owners(world):
    """No object of a tenant is owned by a privileged role, also in a branch and in a blueprint's tenant."""
    for tenant in (world.a, world.b, world.c, world.p):
        with world.server.platform(tenant.database) as c:
            equal(c.query(OWNED), [], tenant.database)
    with world.server.platform(world.a.database) as c:
        c.query("BEGIN; CREATE TABLE public.ours (i int)")
        if not c.query(OWNED):
            raise Failure("the checker sees nothing")
        c.query("ROLLBACK")


@mechanism
def trusted_extensions(world):
    """Every trusted extension on this server brings no SECURITY DEFINER function, table or view of a superuser."""
    names = [row[0] for row in world.platform.query(
        "select distinct name from pg_available_extension_versions where trusted and superuser and not installed"
        " and name not like '%plperl%' and name not like '%pltcl%' order by 1")]
    if len(names) < 10:
        raise Failure(f"only {names}")
    taker = Tenant("taker0000000")
    world.server.create(taker)
    try:
        with world.server.login(taker, "admin") as c:
            for name in names:
                c.query(f'CREATE EXTENSION "{name}" CASCADE')
            equal(c.query("select distinct pg_get_userbyid(extowner) from pg_extension where extname <> 'plpgsql'"),
                  [["tenantry_admin"]], "owner of the extensions")
        with world.server.platform(taker.database) as c:
            equal(c.query("select oid::regprocedure from pg_proc where oid >= 16384 and prosecdef and proowner = 10"),
                  [], "SECURITY DEFINER functions")
            equal(c.query("select oid::regclass from pg_class where oid >= 16384 and relowner = 10 and relkind in"
                          " ('r', 'v', 'm', 'f', 'p') and relnamespace <> 'pg_toast'::regnamespace"), [], "relations")
            equal(c.query(OWNED), [], "the checker")
        with world.server.login(taker, "read") as c:
            equal(c.value("select similarity('a', 'a')"), "1", "a reader uses them")
    finally:
        world.server.drop(taker)


@mechanism
def guard_behind_privileges(world):
    """The guard refuses at the end what privileges let through by mistake."""
    with world.server.platform(world.p.database) as c:
        c.query("GRANT CREATE ON SCHEMA public TO tenantry_write; CREATE TABLE public.slip (i int);"
                " ALTER TABLE public.slip OWNER TO tenantry_write; ALTER TABLE public.slip OWNER TO tenantry_admin")
    try:
        for role, sql in (("write", "CREATE TABLE public.temp (i int)"),
                          ("write", "SELECT 1 AS temp INTO public.mine"),
                          ("write", "DO $$ BEGIN CREATE TEMPORARY TABLE t (i int); CREATE TABLE public.mine (i int); END $$"),
                          ("write", "SET search_path = public, pg_temp; CREATE TABLE mine (i int)"),
                          ("write", "CREATE FUNCTION public.temp() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
                          ("admin", "DROP TABLE public.slip -- temp"),
                          ("admin", "ALTER TABLE public.slip ADD COLUMN temp int"),
                          ("admin", "ALTER TABLE public.slip DROP COLUMN i -- temp"),
                          ("admin", "CREATE RULE temp AS ON INSERT TO public.slip DO INSTEAD NOTHING"),
                          ("admin", "GRANT ALL ON public.slip TO PUBLIC -- temp"),
                          ("admin", "COMMENT ON TABLE public.slip IS 'temp'"),
                          ("admin", "DROP OWNED BY tenantry_admin -- temp")):
            with world.connect(f"P.{role}") as c:
                error = refused("42501", lambda: c.query(sql), sql)
                equal(error.message, "DDL not allowed on tenant databases, use workspace mode", sql)
    finally:
        with world.server.platform(world.p.database) as c:
            c.query("DROP TABLE public.slip; REVOKE CREATE ON SCHEMA public FROM tenantry_write")
    with world.connect("P.deploy") as c:
        c.query("CREATE TABLE public.fine (i int); DROP TABLE public.fine")


@mechanism
def maintenance_logins_end(world):
    """The logins of deployments and copies are gone when they are dropped."""
    brief = Tenant("brief0000000")
    world.server.create(brief, blueprint=True)
    try:
        for role in ("deploy", "dump"):
            world.server.maintenance_login(brief, role)
            with world.server.login(brief, role) as c:
                equal(c.value("select session_user"), f"{brief.database}_{role}", "the login")
            world.server.step("tenant", "drop_visitor", database=brief.database, kind=role)
            refused("28P01 28000", lambda: world.server.login(brief, role), f"{role} after the drop")
        world.server.step("tenant", "visitor_login", database=brief.database, kind="deploy", until="2000-01-01",
                          verifier=brief.verifiers["deploy"])
        refused("28P01", lambda: world.server.login(brief, "deploy"), "an expired login")
    finally:
        world.server.drop(brief)


@mechanism
def dump_under_forced_rls(world):
    """pg_dump as the copying login is complete where the admin's own fails, and reaches no other database."""
    def dump(role, database):
        return subprocess.run(
            [world.server.program("pg_dump"), "-h", os.path.dirname(world.server.path), "-U", f"{world.a.database}_{role}",
             "--no-owner", "--no-acl", database],
            env={**os.environ, "PGPASSWORD": world.a.passwords[role],
                 "PGOPTIONS": "" if role == "dump" else f"-c role=tenantry_{role}"}, capture_output=True, text=True)
    whole = dump("dump", world.a.database)
    equal(whole.returncode, 0, whole.stderr)
    if "secret" not in whole.stdout.split("COPY public.forced")[1]:
        raise Failure("the dump is not complete")
    if "lowrite" not in whole.stdout:
        raise Failure("large objects are missing")
    if world.a.database in whole.stdout:
        raise Failure("the dump names the tenant's database")
    owner = dump("admin", world.a.database)
    if owner.returncode == 0 or "row-level security" not in owner.stderr:
        raise Failure(f"the admin's dump: {owner.stderr}")
    if dump("dump", world.b.database).returncode == 0:
        raise Failure("the copying login of A dumped B")


# -------------------------------------------------------------------------------------- what tenants share


@mechanism(ways=("hand",))
def lock_table(world):
    """A full lock table is seen on a connection that is open, and emptied by ending the holder."""
    watch = lambda: world.server.step_on(world.platform, "tenant", "watch_locks", locks_per_server_max="100")  # noqa: E731
    for how in ("signal", "socket"):
        with world.connect("A.write", timeout=60) as holder:
            pid, taken = holder.value("select pg_backend_pid()"), 0

            def keeps_out(login):
                """Fills what is free, also what others let go since the last time, and tries."""
                nonlocal taken
                for size in (1000, 100, 10, 1):
                    while not refuses(holder, f"SELECT pg_advisory_lock(g) FROM generate_series({taken + 1}, {taken + size}) g"):
                        taken += size
                try:
                    login().close()
                except PgError as error:
                    if error.code != "53200":
                        raise
                    return True
                return False

            # The attack is real: neither B nor the platform gets in, and SQL cannot end the holder.
            until(lambda: keeps_out(lambda: world.server.login(world.b, "read")), "B is refused while the table is full")
            until(lambda: keeps_out(world.server.platform), "the platform is refused while the table is full")
            seen = watch()
            equal([row[0] for row in seen], [pid], "sessions the watch sees")
            if how == "signal":
                os.kill(int(pid), signal.SIGTERM)
        # Leaving the block closed the socket: all that `socket` does.
        until(lambda: not watch(), "the holder is gone")
    with world.server.login(world.b, "admin") as c:
        c.query("begin; lock public.canary in access exclusive mode; rollback")


def refuses(connection, sql):
    try:
        connection.query(sql)
    except PgError as error:
        if error.code != "53200":
            raise
        return True
    return False


@mechanism(ways=EVERY)
def advisory_keys(world):
    """Advisory locks of one tenant do not block another's of the same key."""
    with world.connect("A.admin") as a, world.connect("C.admin") as c:
        a.query("SELECT pg_advisory_lock(42)")
        equal(c.value("SELECT pg_try_advisory_lock(42)"), "t", "the branch")
        equal(world.b_session.value("SELECT pg_try_advisory_lock(42)"), "t", "B")
        world.b_session.query("SELECT pg_advisory_unlock(42)")
        with world.connect("A.write") as own:
            equal(own.value("SELECT pg_try_advisory_lock(42)"), "f", "control: the same tenant")


@mechanism(ways=EVERY)
def notifications(world):
    """NOTIFY reaches no listener of another tenant."""
    with world.connect("C.admin") as c, world.connect("A.read") as a, world.connect("A.write") as own:
        for listener in (c, own, world.b_session):
            listener.query("LISTEN shared")
        a.query("NOTIFY shared, 'from a'")
        a.query("SELECT pg_notify('shared', 'again')")
        own.query("select 1")
        if not any(b"from a" in part for part in own.seen):
            raise Failure("the same tenant hears nothing")
        for listener in (c, world.b_session):
            listener.query("select 1")
            if any(b"from a" in part for part in listener.seen):
                raise Failure("another tenant heard it")
        world.b_session.query("UNLISTEN *")


@mechanism(ways=("hand",))
def notify_queue(world):
    """A listener that sits in a transaction holds the shared NOTIFY queue, and ending it frees the queue."""
    payload = "SELECT pg_notify('c', i || repeat('x', 7000)) FROM generate_series(1, 60) i"
    with world.connect("A.read") as sitter, world.connect("A.read") as writer, terminated(sitter, world):
        sitter.query("LISTEN c")
        sitter.query("BEGIN")
        writer.query(payload)
        usage = "select pg_notification_queue_usage() > 0"
        equal(world.platform.value(usage), "t", "the queue is held")
        if world.server.major >= 17:  # max_notify_queue_pages makes it small enough to fill
            refused("54000", lambda: writer.query(payload), "filling it")
            with world.server.login(world.b, "admin") as b:
                refused("54000", lambda: b.query(payload), "B while it is full")
    # Nothing moves the tail of a full queue but this look at it: the watch has to look again after it ended
    # a session, or NOTIFY keeps failing for everybody.
    until(lambda: world.platform.value("select pg_notification_queue_usage() < 0.1") == "t", "queue freed")
    with world.server.login(world.b, "admin") as b:
        b.query(payload)


@mechanism(ways=EVERY)
def snapshots(world):
    """A snapshot of one tenant cannot be imported by another."""
    with world.connect("C.admin") as c, world.connect("A.admin") as a, world.connect("A.admin") as own:
        a.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
        snapshot = a.value("SELECT pg_export_snapshot()")
        c.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
        refused("0A000 22023", lambda: c.query(f"SET TRANSACTION SNAPSHOT '{snapshot}'"))
        own.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
        own.query(f"SET TRANSACTION SNAPSHOT '{snapshot}'")


@mechanism(ways=EVERY)
def temporary_files(world):
    """Temporary files of one statement end at temp_file_limit, which a tenant cannot raise."""
    big = "SELECT count(*) FROM (SELECT i, repeat('x', 200) FROM generate_series(1, 400000) i ORDER BY 2, 1 DESC) s"
    for role in ("read", "write", "admin"):
        with world.connect(f"A.{role}") as c:
            c.query("SET work_mem = '64kB'")
            refused("53400", lambda: c.query(big), role)
            refused("42501", lambda: c.query("SET temp_file_limit = -1"))
    with world.server.platform() as c:
        c.query("SET temp_file_limit = -1; SET work_mem = '64kB'")
        equal(c.value(big), "400000", "control")


@mechanism(ways=EVERY)
def external_entities(world):
    """XML with an external entity reads no file."""
    probe = world.server.data / "PG_VERSION"
    sql = (f"SELECT xmlparse(document '<!DOCTYPE f [<!ENTITY x SYSTEM \"file://{probe}\">]><f>&x;</f>')::text")
    for role in ("admin", "read"):
        with world.connect(f"A.{role}") as c:
            try:
                if f">{world.server.major}" in (c.value(sql) or ""):
                    raise Failure("the file was read")
            except PgError as error:
                if error.code not in ("0A000", "2200M"):
                    raise Failure(str(error)) from error
    with world.server.platform() as c:
        equal(c.value(f"select trim(pg_read_file('{probe}'), E'\\n')"), str(world.server.major), "control")


@mechanism(ways=EVERY)
def statement_statistics(world):
    """pg_stat_statements, which would show all tenants' statements to each, is out of reach."""
    look = "SELECT count(*) FROM public.pg_stat_statements WHERE query LIKE '%by_b%' AND query NOT LIKE '%LIKE%'"
    with world.connect("A.admin") as c:
        refused("42501", lambda: c.query("CREATE EXTENSION pg_stat_statements SCHEMA public"))
        refused("42P01", lambda: c.query(look))
        refused("42501", lambda: c.query("LOAD 'pg_stat_statements'"))
        refused("42501", lambda: c.query("CREATE FUNCTION public.f(bool) RETURNS SETOF record LANGUAGE c AS"
                                         " '$libdir/pg_stat_statements', 'pg_stat_statements_1_10'"))
    # The attack is real: the library counts for the current role, and all tenants share that.
    with world.server.platform(world.a.database) as c:
        c.query("CREATE EXTENSION pg_stat_statements SCHEMA public; SELECT public.pg_stat_statements_reset()")
        world.b_session.query("SELECT 1 AS by_b")
        with world.connect("A.admin") as a:
            equal(a.value(look), "1", "A reads B's statement where the platform installed the extension")
        c.query("DROP EXTENSION pg_stat_statements")


@mechanism(ways=EVERY)
def own_sessions(world):
    """A login ends its own sessions after SET ROLE NONE, and not those of the tenant's other logins."""
    with world.connect("A.admin") as one, world.connect("A.admin") as two, world.connect("A.read") as reader:
        pid = one.value("select pg_backend_pid()")
        refused("42501", lambda: two.query(f"select pg_cancel_backend({pid})"), "as the group")
        reader.query("SET ROLE NONE")
        refused("42501", lambda: reader.query(f"select pg_terminate_backend({pid})"), "the reader")
        two.query("SET ROLE NONE")
        equal(two.value(f"select pg_terminate_backend({pid})"), "t", "control")
        refused("57P01 closed", lambda: one.query("select 1"), "the ended session")
