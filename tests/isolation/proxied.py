"""What only exists with a proxy in between: startup packets, cancel keys, connections that are lent on, error texts.

Each is a function of the world, as in sessions.py.
"""

import os
import re
import socket
import struct

from runner import Failure
from server import Connection, PgError, startup_packet
from sessions import collector, equal, refused, until

MECHANISMS = []
mechanism = collector(MECHANISMS, ("proxy",))

PROTOCOL_3_0, PROTOCOL_3_2 = 196608, 196610
CANCEL = 80877102


def read_all(connection, most=1 << 20):
    """What comes until the other side closes; a time-out is the caller's failure."""
    data = b""
    while len(data) < most:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        data += part
    return data


def code_of(answer):
    found = re.search(rb"\0C(\w{5})\0", answer)
    return found[1].decode() if found else None


def told(world, packet, tls=True):
    """Everything the proxy says to one first packet."""
    with world.server.raw(tls=tls) as raw:
        raw.sendall(packet)
        raw.shutdown(socket.SHUT_WR) if not tls else None
        return read_all(raw)


# ------------------------------------------------------------------------------------------- startup packets


@mechanism
def startup_role(world):
    """A startup packet cannot say whose rights a session has."""
    forms = []
    for name in ("role", "session_authorization", "ROLE", "Session_Authorization"):
        for value in ("postgres", world.server.user, "tenantry_owner", "none", f"{world.b.database}_admin"):
            forms += [{"options": f"-c {name}={value}"}, {"options": f"--{name}={value}"}, {"parameters": {name: value}}]
    forms += [{"options": "-c ro\\le=tenantry_owner"}, {"options": "-c role=none -c role=tenantry_admin"},
              {"options": "-c  role=tenantry_owner"}, {"options": "-crole=tenantry_owner"},
              {"options": "-c role = tenantry_owner"}, {"options": "-c \\\nrole=tenantry_owner"},
              {"options": "-c session-authorization=postgres"}]
    for form in forms:
        for role in ("admin", "read"):
            try:
                connection = world.login(world.a, role, **form)
            except PgError as error:
                # 42501 by name; 42601 and 42704 where the text is no setting at all.
                if error.code not in ("42501", "42601", "42704", "22023"):
                    raise Failure(f"{form}: {error}") from error
                continue
            with connection:
                raise Failure(f"{form} as {role}: {connection.query('select current_user, session_user')}")
    with world.login(world.a, "admin", options="-c work_mem=64kB -c own.text=a\\ b") as c:
        equal(c.query("select current_user, current_setting('work_mem'), current_setting('own.text')"),
              [["tenantry_admin", "64kB", "a b"]], "control: an ordinary setting")


@mechanism
def startup_settings(world):
    """A startup packet sets nothing that SET would refuse, and nothing before rights are checked."""
    for setting in ("session_preload_libraries=dblink", "session_replication_role=replica", "log_statement=all",
                    "temp_file_limit=-1", "allow_system_table_mods=on", "ignore_system_indexes=on",
                    "post_auth_delay=600", "pre_auth_delay=600", "log_disconnections=on", "log_connections=on",
                    "jit_provider=x", "shared_preload_libraries=dblink", "zero_damaged_pages=on",
                    "lc_messages=C", "unix_socket_directories=/tmp", "debug_assertions=on", "backtrace_functions=x"):
        name, value = setting.split("=")
        for form in ({"options": f"-c {setting}"}, {"parameters": {name: value}}):
            refused("42501 22023 55P02 42704", lambda: world.login(world.a, "admin", timeout=10, **form), setting)
    # No library of a file system is loaded for a tenant: the setting may be had, and has no effect later on.
    with world.login(world.a, "admin") as c:
        c.query("select 1")
    try:
        world.login(world.a, "admin", options="-c local_preload_libraries=dblink").close()
    except PgError as error:
        if error.code not in ("42501", "55P02", "58P01"):
            raise Failure(str(error)) from error
    # These would make PostgreSQL's own start differ: a debugger's pause, statistics into the log, a floppy of limits.
    for options in ("-W 600", "-P", "-O", "-f s", "-t pl", "-S 1", "-B 1", "-d 5", "-E", "-j", "-F", "-x", "--help",
                    "-c", "-c =", "-c x", "\\", "-c work_mem"):
        refused("42601 42501 22023 42704", lambda: world.login(world.a, "admin", timeout=10, options=options), options)
    for own in ("-c tenantry.tenant=" + world.b.id, "-c tenantry.role=admin", "-c tenantry.pid=" + world.b.database):
        try:
            connection = world.login(world.a, "read", options=own)
        except PgError as error:
            if error.code not in ("42501", "42601", "42704", "42602"):
                raise Failure(f"{own}: {error}") from error
            continue
        with connection:
            equal(connection.query("select current_database(), current_user"),
                  [[world.a.database, "tenantry_read"]], own)


@mechanism
def startup_database(world):
    """Another database name leads nowhere, whatever it looks like."""
    for database in (world.b.database, world.c.database, "tenantry", "tenantry_template", "template1", world.b.id,
                     f"{world.b.id}.admin", "../../etc", "postgres/../x", "postgres ", "Postgres", "po\u0455tgres",
                     "postgres;", '"postgres"', "host=/tmp dbname=postgres", "postgresql:///tenantry", "x" * 5000):
        error = refused("3D000 08P01", lambda: world.login(world.a, "admin", database=database), database[:40])
        if world.b.database in error.message and world.b.database != database:
            raise Failure(f"{database}: {error}")
    with world.login(world.a, "admin") as c:
        equal(c.value("select current_database()"), world.a.database, "control")


@mechanism
def startup_user(world):
    """A user name of another form is nobody, and the same nobody as an unknown one."""
    a, b = world.a.id, world.b.id
    for user in (f"{b}.admin", f"{a}.admin.{b}", f"{a}.{b}.admin", f"{a}.superuser", f"{a}.owner", f"{a}.deploy", f"{a}.dump",
                 f"{a}.ADMIN", f"{a.upper()}.admin", f"{a}.admin ", f" {a}.admin", f"{a}", f".{a}.admin", f"{a}.",
                 ".", "..", "tenantry", "postgres", world.a.database, f"{world.a.database}_admin", "tenantry_admin",
                 f"{a}.\u0430dmin", f"{a}\u3002admin", f"{a}.admin\u200b", "x" * 5000, "'; select 1; --.admin"):
        refused("28P01 28000 08P01", lambda: world.login(world.a, "admin", user=user), user[:40])
    # A NUL ends the name; what follows are other parameters, and they count as such.
    secret = world.a.secrets["admin"]
    nul = startup_packet({"user": f"{a}.admin\0role\0tenantry_owner", "database": "postgres"})
    with world.server.raw() as raw:
        raw.sendall(nul)
        raw.settimeout(5)
        answer = raw.recv(65536)
    if answer[:1] not in (b"R", b"E"):
        raise Failure(f"NUL in the user name: {answer[:80]!r}")
    refused("42501", lambda: world.server.proxied(world.a, "admin", user=f"{a}.admin\0role\0tenantry_owner"), "NUL")
    with world.server.proxied(world.a, "admin", password=secret) as c:
        equal(c.value("select 1"), "1", "control")


@mechanism
def startup_unknown(world):
    """Unknown tenant, unknown role of a tenant and wrong password are one answer."""
    answers = {}
    for what, user in (("wrong password", f"{world.b.id}.admin"), ("no such tenant", "zzzzzzzzzzzz.admin")):
        error = refused("28P01", lambda: world.server.proxied(world.a, "admin", user=user, password="guessed-wrong"), what)
        answers[what] = {key: value.replace(user, "USER") for key, value in error.fields.items()}
    equal(answers["no such tenant"], answers["wrong password"], "the answers")


@mechanism
def startup_secrets(world):
    """A secret opens its own tenant and role only, and no secret of the server opens the proxy."""
    a, b = world.a, world.b
    for user in (f"{b.id}.admin", f"{b.id}.read", f"{world.c.id}.admin", f"{a.id}.read", f"{a.id}.write"):
        refused("28P01", lambda: world.server.proxied(a, "admin", user=user), user)
    for password in (a.passwords["admin"], a.verifiers["admin"], world.server.password, world.server.operator,
                     world.server.token, a.secrets["read"], a.secrets["admin"] + " ", ""):
        refused("28P01", lambda: world.server.proxied(a, "admin", password=password), "another secret")
    for role in ("admin", "write", "read"):
        # And the other way: what opens the proxy opens nothing at the server.
        refused("28P01", lambda: world.server.login(a, role, password=a.secrets[role]), "the proxy's secret at the server")
        world.server.proxied(a, role).close()


@mechanism
def startup_replication(world):
    """Replication is refused by the proxy, in every spelling."""
    for value in ("true", "database", "on", "1", "yes", "t", "TRUE"):
        refused("0A000", lambda: world.login(world.a, "admin", parameters={"replication": value}), value)
    for value in ("maybe", "2", "", "Database"):
        refused("0A000 08P01 22023", lambda: world.login(world.a, "admin", parameters={"replication": value}), value)
    world.login(world.a, "admin", parameters={"replication": "false"}).close()


@mechanism
def startup_protocol(world):
    """Protocol options and versions that are unknown are negotiated, not obeyed."""
    with world.server.raw() as raw:
        raw.sendall(startup_packet({"user": f"{world.a.id}.admin", "database": "postgres", "_pq_.tenant": world.b.id,
                                    "_pq_.role": "tenantry_owner"}, PROTOCOL_3_2))
        raw.settimeout(5)
        answer = raw.recv(65536)
        if answer[:1] != b"v" or b"_pq_.tenant" not in answer:
            raise Failure(f"NegotiateProtocolVersion expected: {answer[:80]!r}")
    with world.login(world.a, "read", parameters={"_pq_.role": "tenantry_owner"}) as c:
        equal(c.query("select current_user, current_database()"), [["tenantry_read", world.a.database]], "_pq_.role")
    for version in (0, 1, 131072, 262144, 327680):
        answer = told(world, startup_packet({"user": f"{world.a.id}.admin"}, version))
        if code_of(answer) not in ("0A000", "08P01"):
            raise Failure(f"version {version}: {answer[:80]!r}")


@mechanism
def startup_sizes(world):
    """Startup packets that are too large, too small, unfinished or full of parameters change nothing and cost little."""
    many = {f"x.p{i}": "v" for i in range(3000)}
    refused("08P01", lambda: world.login(world.a, "admin", parameters=many), "3,000 parameters")
    refused("08P01 42601 3D000", lambda: world.login(world.a, "admin", options="-c a.b=" + "x" * 12000), "12 kB of options")
    for packet in (struct.pack("!ii", 0x7FFFFFFF, PROTOCOL_3_0), struct.pack("!ii", -1, 0),
                   struct.pack("!ii", 4, PROTOCOL_3_0), struct.pack("!ii", 9, PROTOCOL_3_0) + b"\0"):
        answer = told(world, packet)
        if answer and code_of(answer) not in ("08P01", "28000"):
            raise Failure(f"{packet[:12]!r}: {answer[:80]!r}")
    refused("28000", lambda: Plain(world), "without TLS")
    world.login(world.a, "admin", parameters={f"x.p{i}": "v" for i in range(20)}).close()


def Plain(world):
    """A login without TLS."""
    answer = told(world, startup_packet({"user": f"{world.a.id}.admin", "database": "postgres"}), tls=False)
    raise PgError({"C": code_of(answer) or "none", "M": repr(answer[:80])})


# Sessions until the next one has the server connection of the one before: a tenant has 12 at most, and of those that
# are idle one that needs no reset is taken first. What came before here may have left that many.
TRIES = 20


# ---------------------------------------------------------------------------------------------------- cancel


def cancel(world, key):
    packet = struct.pack("!ii", len(key) + 8, CANCEL) + key
    for tls in (True, False):
        # A packet that is none may be called so; a key that opens nothing is never told apart.
        answer = told(world, packet, tls)
        if answer and (len(key) == 8 or code_of(answer) != "08P01"):
            raise Failure(f"a cancel request was answered: {answer[:80]!r}")


@mechanism
def cancel_keys(world):
    """A cancel key that is guessed, from another session or stale cancels nothing."""
    b, own = world.login(world.b, "admin"), world.login(world.a, "admin")
    gone = world.login(world.a, "admin")
    with b, own:
        b.query("select 1")
        own.query("select 1")
        b.send("select pg_sleep(1.5)")
        pid = b.key[:4]
        server_pid = struct.pack("!i", int(world.platform.value(
            f"select pid from pg_stat_activity where datname = '{world.b.database}' and query like '%pg_sleep(1.5)%'") or 0)) \
            if _sleeping(world, world.b, 1.5) else None
        for key in (own.key, gone.key, pid + own.key[4:], pid + bytes(len(b.key) - 4), pid + b.key[4:5] * 3 + b"\0",
                    server_pid + b.key[4:], server_pid + bytes(4), pid, pid + b.key[4:] + b"\0", pid + b.key[4:-1],
                    struct.pack("!i", int.from_bytes(pid, "big", signed=True) ^ 1) + b.key[4:]):
            cancel(world, key)
        gone.close()
        cancel(world, gone.key)
        b.receive()
        # Control: the right key cancels.
        b.send("select pg_sleep(10)")
        _sleeping(world, world.b, 10)
        cancel(world, b.key)
        refused("57014", b.receive, "the right key")
        equal(b.value("select 2"), "2", "the session lives")


def _sleeping(world, tenant, seconds):
    look = f"select from pg_stat_activity where datname = '{tenant.database}' and query like '%pg_sleep({seconds})%'"
    until(lambda: world.platform.query(look), "the statement runs")
    return True


@mechanism
def cancel_after(world):
    """A cancel that comes when the session has ended never reaches the next user of its server connection."""
    for _ in range(TRIES):
        first = world.login(world.a, "write")
        process = first.value("select pg_backend_pid()")
        key = first.key
        first.close()
        with world.login(world.a, "write") as second:
            same = second.value("select pg_backend_pid()") == process
            second.send("select pg_sleep(0.05)")
            cancel(world, key)
            second.receive()
        if same:
            return
    raise Failure("no server connection was lent on: this shows nothing")


# ------------------------------------------------------------------------------------- what sessions leave behind


LEAVES = """
CREATE TEMPORARY TABLE left_behind AS SELECT 'secret of a session' AS v;
PREPARE left_statement AS SELECT 'secret of a session';
SET work_mem = '65kB';
SET search_path = left_path;
SET kept.behind = 'secret of a session';
SET TIME ZONE 'Asia/Tokyo';
SET client_encoding = 'LATIN1';
LISTEN left_channel;
SELECT pg_advisory_lock(4711);
DECLARE left_cursor CURSOR WITH HOLD FOR SELECT 'secret of a session';
SELECT setseed(0.5);
SET ROLE NONE
"""
LOOK = """
SELECT current_user || '|' || session_user, to_regclass('pg_temp.left_behind') IS NULL,
  (SELECT count(*) FROM pg_prepared_statements), current_setting('work_mem'), current_setting('search_path'),
  coalesce(current_setting('kept.behind', true), ''), current_setting('TimeZone'), current_setting('client_encoding'),
  (SELECT count(*) FROM pg_listening_channels()),
  (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), (SELECT count(*) FROM pg_cursors)
"""


@mechanism
def leftovers(world):
    """Temporary tables, statements, settings, channels, locks, cursors and the role of a session are gone for the next."""
    for role in ("admin", "write"):
        with world.login(world.a, role) as fresh:
            clean = fresh.query(LOOK)
        for ending in ("", "BEGIN", "BEGIN; SELECT 1/0", "BEGIN; SET LOCAL ROLE NONE", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                       "ALTER ROLE SESSION_USER SET work_mem = '66kB'; ALTER ROLE SESSION_USER RESET work_mem"):
            lent = False
            for _ in range(TRIES):
                first = world.login(world.a, role)
                process = first.value("select pg_backend_pid()")
                first.query("SELECT 1; " + LEAVES.split(";")[0])
                for sql in LEAVES.strip().split(";\n")[1:]:
                    first.query(sql)
                for sql in ending.split("; "):
                    try:
                        sql and first.query(sql)
                    except PgError as error:
                        if error.code != "22012":
                            raise
                first.close()
                with world.login(world.a, role) as second:
                    equal(second.query(LOOK), clean, f"{role} after {ending or 'a session'}")
                    equal(second.value("show transaction_read_only"), "off", "read only")
                    if any(b"secret of a session" in part for part in second.seen):
                        raise Failure("something of the session before was seen")
                    if second.value("select pg_backend_pid()") == process:
                        lent = True
                        break
            if not lent:
                raise Failure("no server connection was lent on: this shows nothing")


@mechanism
def lent_to_one_role(world):
    """A server connection is lent to clients of the same tenant and role only."""
    seen = {}
    for _ in range(3):
        for tenant, name in ((world.a, "A"), (world.b, "B"), (world.c, "C")):
            for role in ("admin", "write", "read"):
                with world.login(tenant, role) as c:
                    pid, who, where = c.query("select pg_backend_pid(), session_user, current_database()")[0]
                    equal([who, where], [f"{tenant.database}_{role}", tenant.database], f"{name}.{role}")
                    if seen.setdefault(pid, (name, role)) != (name, role):
                        raise Failure(f"server connection of {seen[pid]} lent to {(name, role)}")


@mechanism
def half_messages(world):
    """A client that leaves in the middle of a message or of a result leaves nothing to the next."""
    for rest in (b"Q\0\0\0\x20select 'secr", b"P\0\0\1\0", b"Q\0\0\0", b"X\0\0\0\4", b"B\0\0\0\x50junk", b"d\0\0\0\5x", b"\0\0\0\0\0"):
        first = world.login(world.a, "write")
        first.query("select 1")
        try:
            first.socket.sendall(rest)
        finally:
            first.close()
        with world.login(world.a, "write") as second:
            equal(second.value("select 'mine'"), "mine", f"after {rest!r}")
    first = world.login(world.a, "write")
    first.send("select repeat('secret', 1000) from generate_series(1, 20000)")
    first.socket.recv(10)
    first.close()
    for _ in range(3):
        with world.login(world.a, "write") as second:
            equal(second.value("select 'mine'"), "mine", "after half a result")
            if any(b"secret" in part for part in second.seen):
                raise Failure("the rest of another client's result")


@mechanism
def application_name(world):
    """The application_name of clients never reaches the server, and the client sees its own."""
    for name in ("secret-app", "x" * 200, "a'b\\c"):
        with world.login(world.a, "read", parameters={"application_name": name}) as c:
            equal(c.parameters.get("application_name"), name, "what the client is told")
            c.query("select 1")
            rows = world.platform.query(
                f"select distinct application_name from pg_stat_activity where datname = '{world.a.database}'")
            equal(rows, [[""]], "what the server knows")
    with world.login(world.a, "read", options="-c application_name=secret-app") as c:
        c.query("select 1")
        equal(world.platform.value("select count(*) from pg_stat_activity where application_name = 'secret-app'"), "0",
              "by options")


@mechanism
def addresses(world):
    """Neither a session's addresses nor its parameters tell where the node is or who else is there."""
    with world.login(world.a, "admin") as c:
        equal(c.query("select inet_server_addr(), inet_client_addr(), inet_server_port()"), [[None] * 3], "addresses")
        said = " ".join(f"{k}={v}" for k, v in c.parameters.items())
        for word in _secrets(world):
            if word in said:
                raise Failure(f"{word} in the parameters of a session")


def _secrets(world):
    """Words that no text towards a tenant may hold."""
    server = world.server
    return [world.b.database, world.b.id, str(server.dir), server.path, os.path.dirname(server.path), server.password,
            str(server.key.hex()), server.operator, world.b.passwords["admin"], "superuser.password", "node.key"]


@mechanism
def error_texts(world):
    """Nothing that A was told during all of this names the node, its files, or B."""
    texts = []
    def hear(act):
        try:
            with act() as c:
                texts.extend(c.seen)
        except PgError as error:
            texts.append(" ".join(error.fields.values()).encode())
    a = world.a
    hear(lambda: world.login(a, "admin", password="wrong-password"))
    hear(lambda: world.login(a, "admin", database="other"))
    hear(lambda: world.login(a, "admin", options="-c role=x"))
    hear(lambda: world.login(a, "admin", options="-c search_path=x -c work_mem=nonsense"))
    hear(lambda: world.login(a, "admin", user="nobody"))
    # A server that refuses us, and one whose database is closed.
    with world.server.platform() as c:
        c.query(f"ALTER ROLE {a.database}_read NOLOGIN")
    try:
        until_no_idle(world, a)
        hear(lambda: asked(world.login(a, "read")))
    finally:
        with world.server.platform() as c:
            c.query(f"ALTER ROLE {a.database}_read LOGIN")
    with world.login(a, "admin") as c:
        for sql in ("select * from nowhere", "select 1/0", f"select * from {world.b.database}.public.canary", "garbage",
                    "copy (select 1) to '/tmp/x'", "select pg_terminate_backend(pg_backend_pid())", "set role tenantry_owner"):
            try:
                c.query(sql)
            except PgError as error:
                texts.append(" ".join(v for k, v in error.fields.items()).encode())
                if error.code in ("57P01", "42501"):
                    continue
    for text in texts:
        for word in _secrets(world):
            # What the client itself said may come back.
            if word.encode() in text.replace(f"{world.b.database}.public".encode(), b""):
                raise Failure(f"{word!r} in {text[:300]!r}")
    if len(texts) < 10:
        raise Failure(f"only {len(texts)} texts: this shows nothing")


def asked(connection):
    """A login that is answered before there is a server connection shows nothing until it asks."""
    connection.query("select 1")
    return connection


def until_no_idle(world, tenant):
    """Ends the server connections that are kept for the tenant, so that the next client needs a new one."""
    world.platform.query(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{tenant.database}'")
    until(lambda: world.platform.value(
        f"select count(*) from pg_stat_activity where datname = '{tenant.database}'") == "0", "sessions ended")


# ----------------------------------------------------------------------------------------------------- repair


@mechanism(changes=True)
def locked_out(world):
    """A tenant that changes the password of its login locks nobody else out, and the product sets it back by itself."""
    a = world.a
    with world.login(a, "write") as c:
        c.query("SET ROLE NONE")
        c.query(f"ALTER ROLE {a.database}_write PASSWORD 'mine'")
    until_no_idle(world, a)
    world.login(world.b, "write").close()
    try:
        asked(world.login(a, "write")).close()
    except PgError as error:
        if error.code != "57P03":
            raise Failure(f"the first login: {error}") from error
    def works():
        try:
            asked(world.login(a, "write")).close()
            return True
        except PgError as error:
            if error.code not in ("57P03", "08006"):
                raise
            return False
    until(works, "the product repairs the login", 20)
    refused("28P01", lambda: world.server.login(a, "write", password="mine"), "the tenant's own password")
    clean(world, a)


@mechanism(changes=True)
def stored_settings(world):
    """Settings that a tenant stores on its login change neither role, search_path nor time-outs of later sessions."""
    a, login = world.a, f"{world.a.database}_admin"
    stored = {"search_path": "evil", "statement_timeout": "1", "lock_timeout": "1", "role": "none",
              "idle_in_transaction_session_timeout": "1", "idle_session_timeout": "1"}
    look = "select current_user, " + ", ".join(f"current_setting('{name}')" for name in stored if name != "role")
    with world.login(a, "admin") as c:
        wanted = c.query(look)
        c.query("SET ROLE NONE")
        for name, value in stored.items():
            c.query(f"ALTER ROLE {login} SET {name} = '{value}'")
            c.query(f"ALTER ROLE {login} IN DATABASE {a.database} SET {name} = '{value}'")
        c.query(f"ALTER ROLE {login} SET work_mem = '66kB'")
    until_no_idle(world, a)
    with world.login(a, "admin") as c:
        equal(c.query(look), wanted, "a new session")
        c.query("RESET ALL")
        c.query("DISCARD ALL")
        equal(c.query(look), wanted, "after DISCARD ALL")
        # Control: what nobody overrides did take effect, until the pass.
        equal(c.value("show work_mem"), "66kB", "control")
    until(lambda: not [one for one in world.server.findings() if a.database in one], "the product sets them back", 90)


@mechanism(changes=True)
def groups_repaired(world):
    """A password and settings put on a group have no effect, and the product removes them by itself."""
    with world.login(world.a, "admin") as c:
        c.query("ALTER ROLE tenantry_admin PASSWORD 'mine'")
        c.query("ALTER ROLE tenantry_admin SET search_path = evil")
        c.query(f"ALTER ROLE tenantry_admin IN DATABASE {world.b.database} SET statement_timeout = 1")
    with world.login(world.b, "admin") as c:
        equal(c.query("select current_setting('search_path'), current_setting('statement_timeout'), current_user"),
              [['"$user", public', "0", "tenantry_admin"]], "B")
    refused("28000 28P01", lambda: Connection(world.server.path, "tenantry_admin", world.a.database, password="mine"),
            "the group as a login")
    look = "select rolpassword is null and rolconfig is null from pg_authid join pg_roles using (oid) where pg_authid.rolname = 'tenantry_admin'"
    look = ("select (select rolpassword is null from pg_authid where rolname = 'tenantry_admin') and not exists"
            " (select from pg_db_role_setting where setrole = 'tenantry_admin'::regrole)")
    equal(world.platform.value(look), "f", "control: it was changed")
    until(lambda: world.platform.value(look) == "t", "the product sets them back", 90)


def clean(world, tenant):
    """The deep check has nothing to say about a tenant."""
    equal([one for one in world.server.findings() if tenant.database in one], [], "findings of the deep check")


@mechanism
def deep_check(world):
    """After all of this the deep check finds nothing about A and B."""
    clean(world, world.a)
    clean(world, world.b)
    with world.server.platform() as c:
        c.query(f"GRANT CONNECT ON DATABASE {world.b.database} TO PUBLIC")
        try:
            found = [one for one in world.server.findings() if world.b.database in one]
        finally:
            c.query(f"REVOKE CONNECT ON DATABASE {world.b.database} FROM PUBLIC")
    if not any(one.startswith("PublicAccess") for one in found):
        raise Failure(f"control: an open wall is not found: {found}")
