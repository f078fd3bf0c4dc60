"""Runs every mechanism of isolation.sql and sessions.py against one server and says which are closed.

Owns: the four databases, the canary, reading isolation.sql, the four ways to try a refusal, and the
comparison of everything shared before and after each mechanism.
"""

import re
import secrets
import sys
import time
from pathlib import Path

import product
from server import TEMPLATE, Connection, PgError, Server, Tenant

HERE = Path(__file__).resolve().parent

# Byte-equal before and after every mechanism. Counters that the server itself moves are left out.
SHARED = """
SELECT 'roles', string_agg(a::text, E'\\n' ORDER BY a.oid) FROM pg_authid a
UNION ALL SELECT 'memberships', string_agg(m.roleid || ' ' || m.member || ' ' || m.grantor || ' ' || to_jsonb(m)::text, E'\\n' ORDER BY roleid, member) FROM pg_auth_members m
UNION ALL SELECT 'databases', string_agg((to_jsonb(d) - 'datfrozenxid' - 'datminmxid')::text, E'\\n' ORDER BY oid) FROM pg_database d
UNION ALL SELECT 'settings', string_agg(s::text, E'\\n' ORDER BY setdatabase, setrole) FROM pg_db_role_setting s
UNION ALL SELECT 'comments', string_agg(c::text, E'\\n' ORDER BY objoid) FROM pg_shdescription c
UNION ALL SELECT 'labels', string_agg(l::text, E'\\n') FROM pg_shseclabel l
UNION ALL SELECT 'parameters', string_agg(p::text, E'\\n') FROM pg_parameter_acl p
UNION ALL SELECT 'tablespaces', string_agg(t::text, E'\\n' ORDER BY oid) FROM pg_tablespace t
UNION ALL SELECT 'slots', string_agg(slot_name, E'\\n') FROM pg_replication_slots
UNION ALL SELECT 'subscriptions', string_agg(subname, E'\\n') FROM pg_subscription
UNION ALL SELECT 'origins', string_agg(roname, E'\\n') FROM pg_replication_origin
UNION ALL SELECT 'server settings', string_agg(name || '=' || setting, E'\\n' ORDER BY name) FROM pg_settings
  WHERE source NOT IN ('client', 'session') AND name NOT IN ('lock_timeout', 'search_path')
"""
INSIDE = """
SELECT 'classes', string_agg(oid || relname || relowner || relnamespace || coalesce(relacl::text, ''), E'\\n' ORDER BY oid) FROM pg_class
UNION ALL SELECT 'functions', string_agg(oid || proname || proowner || coalesce(proacl::text, '') || prosrc, E'\\n' ORDER BY oid) FROM pg_proc
UNION ALL SELECT 'schemas', string_agg(n::text, E'\\n' ORDER BY oid) FROM pg_namespace n
UNION ALL SELECT 'defaults', string_agg(a::text, E'\\n' ORDER BY oid) FROM pg_default_acl a
UNION ALL SELECT 'extensions', string_agg(e::text, E'\\n' ORDER BY oid) FROM pg_extension e
UNION ALL SELECT 'event triggers', string_agg(e::text, E'\\n' ORDER BY oid) FROM pg_event_trigger e
UNION ALL SELECT 'large objects', string_agg(l::text, E'\\n' ORDER BY oid) FROM pg_largeobject_metadata l
UNION ALL SELECT 'canary', (SELECT string_agg(v, ',') FROM public.canary)
"""

# What an ordinary tenant has inside, made by its admin as the group.
CONTENT = """
CREATE TABLE public.notes (id serial PRIMARY KEY, note text);
INSERT INTO public.notes (note) VALUES ('a');
CREATE VIEW public.notes_view AS SELECT * FROM public.notes;
CREATE FUNCTION public.touch() RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION public.on_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION public.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION public.who() RETURNS text SECURITY DEFINER LANGUAGE sql AS $$SELECT current_user || '|' || session_user$$;
CREATE FUNCTION public.write_for_me() RETURNS void SECURITY DEFINER LANGUAGE sql AS $$UPDATE public.notes SET note = note$$;
CREATE TABLE public.forced (secret text);
INSERT INTO public.forced VALUES ('secret');
ALTER TABLE public.forced ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.forced FORCE ROW LEVEL SECURITY;
REVOKE SELECT ON public.forced FROM tenantry_read;
SELECT lo_from_bytea(0, 'lo');
CREATE SCHEMA kept_for_branch;
CREATE TABLE kept_for_branch.notes AS SELECT * FROM public.notes;
"""
BLUEPRINT = """
CREATE TABLE public.notes (id serial PRIMARY KEY, note text);
INSERT INTO public.notes (note) VALUES ('p');
CREATE FUNCTION public.on_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION public.make_temporary() RETURNS void LANGUAGE plpgsql AS 'BEGIN CREATE TEMPORARY TABLE made (i int); END';
CREATE FUNCTION public.make_temporary_sql() RETURNS void LANGUAGE sql AS 'CREATE TEMPORARY TABLE made_sql (i int)';
"""


class Failure(Exception):
    """A mechanism is open, or its positive control does not work."""


class World:
    """The server, the tenants A, B, C, P of the suite, and what must not change.

    `way` says how tenants come in: `hand` (a hand-built server, straight), `server` (the product's server, straight,
    with the server's password) or `proxy` (the product's proxy, over TLS, with the tenant's own password)."""

    def __init__(self, server, way="hand"):
        self.server, self.way = server, way
        self.canary = "canary-" + secrets.token_hex(8)
        self.open = []

    def build(self):
        server = self.server
        if self.way == "hand":
            self.a, self.b, self.c, self.p = (Tenant(letter + "0123456789z") for letter in "abcp")
            server.bootstrap()
            server.create(self.a)
            server.create(self.b)
        else:
            server.register()
            self.a, self.b = server.tenant("a"), server.tenant("b")
            self.c, self.p = (server.derived(Tenant(letter + self.way.ljust(11, "0"))) for letter in "cp")
        self.tenants = {"A": self.a, "B": self.b, "C": self.c, "P": self.p}
        server.create(self.p, blueprint=True)
        server.maintenance_login(self.a, "dump")
        server.maintenance_login(self.p, "deploy")
        with server.login(self.a, "admin") as c:
            c.query(CONTENT)
        with server.login(self.b, "admin") as c:
            c.query(f"CREATE TABLE public.canary (v text); INSERT INTO public.canary VALUES ('{self.canary}');"
                    " CREATE TABLE public.work (v text)")
        with server.login(self.p, "deploy") as c:
            c.query(BLUEPRINT)
        # A branch needs a source without sessions; those just closed may take a moment to end.
        deadline = time.monotonic() + 10
        while True:
            try:
                server.create(self.c, source=self.a.database)
                break
            except PgError as error:
                if error.code != "55006" or time.monotonic() > deadline:
                    raise
        if self.way != "hand":
            server.adopt(self.c, self.a, "c")
            server.adopt(self.p, self.a, "p")
        self.platform = server.platform()
        self.inside = server.platform(self.b.database)
        # The sessions that what follows is compared with. This one stays with the server process that others
        # look at by its number; the others are in the mode that customers get.
        keeps = {"options": "-c tenantry.pool_mode=session"} if self.way == "proxy" else {}
        self.b_session = self.login(self.b, "admin", **keeps)
        self.b_session.query(f"select '{self.canary}'")
        self.b_pid = self.b_session.value("select pg_backend_pid()")
        self.words = {"platform": self.server.user,
                      **{name: self.b_session.value(f"show {name}") for name in ("work_mem", "statement_timeout")}}
        self.b_session.query(f"select '{self.canary}'")
        self.before = self.fingerprint()

    def leave(self):
        for connection in (self.platform, self.inside, self.b_session):
            connection.close()

    def fingerprint(self):
        return {**dict(self.platform.query(SHARED)), **dict(self.inside.query(INSIDE))}

    def login(self, tenant, role, **more):
        """In the way of this run. Deployments and copies always log in straight: they are the platform's."""
        if self.way == "proxy" and role in tenant.secrets:
            return self.server.proxied(tenant, role, **more)
        return self.server.login(tenant, role, **more)

    def connect(self, who, **more):
        if who == "platform":
            return self.server.platform()
        if who.startswith("platform@"):
            return self.server.platform(self.tenants[who[9:]].database)
        tenant, role = who.split(".")
        connection = self.login(self.tenants[tenant], role, **more)
        if tenant != "B":
            self.open.append(connection)
        return connection

    def fill(self, sql):
        names = {"a": self.a.database, "b": self.b.database, "c": self.c.database, "p": self.p.database,
                 "b_pid": self.b_pid, **self.words}
        return re.sub(r"\{(\w+)\}", lambda m: names.get(m[1], m[0]), sql.replace("{{", "{").replace("}}", "}"))

    def repair(self):
        """What the platform's pass does about rows that tenants can change."""
        self.server.step("tenant", "forget_settings")
        self.server.step("bootstrap", "groups")
        for tenant in self.tenants.values():
            self.server.roles(tenant)

    def settle(self):
        """After a mechanism: nothing shared has changed, B works, nothing was seen."""
        now = self.fingerprint()
        changed = [key for key in self.before if now[key] != self.before[key]]
        if changed:
            lines = [line for key in changed for line in
                     set((now[key] or "").split("\n")) ^ set((self.before[key] or "").split("\n"))]
            raise Failure(f"changed: {', '.join(changed)}: {lines[:4]}")
        if self.b_session.value(f"select '{self.canary}'") != self.canary:
            raise Failure("B's session does not answer")
        seen = b"".join(part for connection in self.open for part in connection.seen)
        if self.canary.encode() in seen:
            raise Failure("B's canary was read")

    def close(self):
        for connection in self.open:
            connection.close()

    def forget(self):
        self.open.clear()


# ---------------------------------------------------------------------------------------- isolation.sql


HEAD = re.compile(r"^-- (?:(\d+)(\+?) )?((?:(?:[ABCP]\.\w+|platform(?:@[ABCP])?) ?)+): (.+)$")


def parse(text):
    """[(mechanism, may change shared rows, [(only, whos, expect, [statement])])]"""
    mechanisms = []
    for line in text.split("\n"):
        if line.startswith("-- mechanism: "):
            mechanisms.append([line[14:], False, []])
        elif line.startswith("-- changes:"):
            mechanisms[-1][1] = True
        elif head := HEAD.match(line):
            only = (int(head[1]), bool(head[2])) if head[1] else None
            mechanisms[-1][2].append((only, head[3].split(), head[4], []))
        elif mechanisms and not line.startswith("--") and line.strip():
            mechanisms[-1][2][-1][3].append(line)
    return mechanisms


def statements(lines):
    """Statements end with `;` at the end of a line, and no statement here has one inside."""
    joined, out = "", []
    for line in lines:
        joined += ("\n" if joined else "") + line
        if line.endswith(";"):
            out.append(joined[:-1])
            joined = ""
    if joined:
        raise ValueError(f"unfinished statement: {joined}")
    return out


VARIANTS = ("plain", "after SET ROLE NONE", "in DO", "in DO after SET ROLE NONE")


def variant(kind, sqls):
    if kind == "plain":
        return sqls
    left = ["SET ROLE NONE"]
    if kind == "after SET ROLE NONE":
        return left + sqls
    inside = "DO $do$ BEGIN " + ("SET ROLE NONE; " if kind.endswith("NONE") else "")
    return sqls[:-1] + [f"{inside}EXECUTE $x${sqls[-1]}$x$; END $do$"]


def outcome(connection, sqls):
    """Returns the rows of the last statement; an error in an earlier one is the test's own mistake."""
    for sql in sqls[:-1]:
        try:
            connection.query(sql)
        except PgError as error:
            raise Failure(f"preparation failed: {sql}: {error}") from error
    return connection.query(sqls[-1])


def attempt(world, who, expect, sqls):
    words = re.match(r'^(\S+)(?: "(.*)")?( plain)?(?: do=(\w+))?(?: proxy=(\w+))?$', expect)
    if expect == "ok" or expect.startswith("= ") or expect == "inert":
        connection = world.connect(who)
        try:
            if expect == "inert":
                for sql in sqls:
                    try:
                        connection.query(sql)
                    except PgError as error:
                        if error.code not in ("42501", "25P02", "42809"):
                            raise Failure(f"{who}: {error}") from error
                return
            rows = outcome(connection, sqls)
            got = ",".join("|".join("" if v is None else v for v in row) for row in rows)
            if expect != "ok" and got != world.fill(expect[2:]):
                raise Failure(f"{who}: {sqls[-1]}: got {got!r}, expected {expect[2:]!r}")
        except PgError as error:
            raise Failure(f"{who}: {sqls[-1]}: {error}") from error
        finally:
            connection.close()
        return
    code, message, plain, in_do, proxied = words.groups()
    if proxied and world.way == "proxy":
        code, message, in_do = proxied, None, None
    for kind in VARIANTS[:1] if plain else VARIANTS:
        wanted = in_do if in_do and "DO" in kind else code
        connection = world.connect(who)
        try:
            prepared = variant(kind, sqls)
            if kind != "plain" and len(sqls) > 1:
                # After leaving the group even the preparation may be refused: that closes it as well.
                try:
                    for sql in prepared:
                        connection.query(sql)
                except PgError as error:
                    if error.code not in (wanted, "42501"):
                        raise Failure(f"{who}, {kind}: {sqls[-1]}: {error}, expected {wanted}") from error
                    continue
            else:
                outcome(connection, prepared)
            raise Failure(f"{who}, {kind}: {sqls[-1]}: succeeded, expected {wanted}")
        except PgError as error:
            if error.code != wanted:
                raise Failure(f"{who}, {kind}: {sqls[-1]}: {error}, expected {wanted}") from error
            if message and error.message != message:
                raise Failure(f"{who}, {kind}: {sqls[-1]}: {error}, expected {message!r}") from error
        finally:
            connection.close()


def scripted(world, name, steps):
    for only, whos, expect, lines in steps:
        if only and not (world.server.major == only[0] or (only[1] and world.server.major > only[0])):
            continue
        for who in whos:
            attempt(world, who, expect, [world.fill(sql) for sql in statements(lines)])


# ----------------------------------------------------------------------------------------------- the run


def mechanisms(world):
    """[(name, may change shared rows, ways, what to do)]"""
    import exhaustion
    import proxied
    import sessions

    script = parse((HERE.parent / "isolation.sql").read_text())
    cases = [(name, changes, sessions.EVERY, lambda s=steps, n=name: scripted(world, n, s))
             for name, changes, steps in script]
    for module in (sessions, proxied, exhaustion):
        cases += [(name, changes, ways, lambda f=function: f(world)) for name, changes, ways, function in module.MECHANISMS]
    names = [name for name, _, _, _ in cases]
    assert len(set(names)) == len(names), "two mechanisms of one name"
    return cases


class Tally:
    """Counts, and prints one line for each mechanism."""

    def __init__(self, out):
        self.out, self.passed, self.failed = out, 0, 0

    def tell(self, major, way, name, problem):
        if problem:
            self.failed += 1
            self.out(f"not ok {major} {way} {name}\n    {problem}")
        else:
            self.passed += 1
            self.out(f"ok {major} {way} {name}")


def one(world, changes, case):
    """Runs one mechanism; returns what is wrong, or None."""
    problem = None
    try:
        case()
    except Failure as failure:
        problem = str(failure)
    except (PgError, OSError) as error:
        problem = f"{type(error).__name__}: {error}"
    try:
        world.close()
        if changes:
            world.repair()
        world.settle()
    except (Failure, PgError, OSError) as after:
        # Go on from where it left the server, so that one open mechanism is one failure.
        problem = f"{problem or ''} {after}".strip()
        world.repair()
        world.before = world.fingerprint()
    world.forget()
    return problem


def run(bin_dir, ways=None, weaken=(), only=None, out=print):
    """Tries the mechanisms in these ways against one version; returns (passed, failed). Without ways: through the
    proxy, straight at the product's server, and by hand what only a hand-built server shows."""
    tally = Tally(out)
    if not ways or "hand" in ways:
        on_server(Server(bin_dir, weaken), ["hand"], only, tally, rest=not ways)
    wanted = [way for way in ("server", "proxy") if not ways or way in ways]
    if wanted:
        on_server(product.Product(bin_dir), wanted, only, tally)
    return tally.passed, tally.failed


def on_server(server, ways, only, tally, rest=False):
    try:
        server.start()
        # Each way has tenants of its own: what was dropped in one is there in the next.
        for way in ways:
            world = World(server, way)
            world.build()
            for name, changes, of, case in mechanisms(world):
                if way in of and not (rest and "server" in of) and (not only or only in name):
                    tally.tell(server.major, way, name, one(world, changes, case))
            world.leave()
    finally:
        server.stop()
