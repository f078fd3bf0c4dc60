"""B works while A tries to use up what all tenants of a node share.

Each is a function of the world, as in sessions.py. *Works* is always the same: B logs in through the proxy, writes
a row and reads it, within WORKS_MAX_S. Where a defence needs a moment to notice (the watch), B may be refused with
53200 or the like within RECOVERS_MAX_S, and the attack goes on meanwhile.
"""

import os
import select
import socket
import struct
import threading
import time
from contextlib import ExitStack, contextmanager

import product
from runner import Failure
from server import PgError, dial
from sessions import collector, equal, refused, refuses, until

MECHANISMS = []
mechanism = collector(MECHANISMS, ("proxy",))

# What a person would still call working, on a machine whose cores are all taken.
WORKS_MAX_S = 10
# From the beginning of an attack that is noticed once a second.
RECOVERS_MAX_S = 20
# model::Limits.
CLIENTS_OF_TENANT_MAX, SERVERS_OF_TENANT_MAX = 500, 12
# product.Product: --clients-max.
CLIENTS_MAX = product.CLIENTS_MAX
# crates/proxy: login_time_max. What is closed sooner was pushed out.
LOGIN_TIME_MAX_S = 15


def works(world, what=""):
    began = time.monotonic()
    token = str(time.monotonic_ns())
    with world.login(world.b, "write", timeout=WORKS_MAX_S) as b:
        b.query(f"INSERT INTO public.work VALUES ('{token}')")
        equal(b.value(f"SELECT v FROM public.work WHERE v = '{token}'"), token, f"B's row {what}")
    took = time.monotonic() - began
    if took > WORKS_MAX_S:
        raise Failure(f"B needed {took:.1f} s {what}")


def works_again(world, what=""):
    """As soon as the defence has noticed."""
    def tried():
        try:
            works(world, what)
            return True
        except (PgError, OSError) as error:
            last.append(str(error))
            return False
    last = []
    try:
        until(tried, f"B works {what}", RECOVERS_MAX_S)
    except Failure as failure:
        raise Failure(f"{failure}: {last[-1:]}") from failure


@contextmanager
def many(world, number, role="admin", **more):
    with ExitStack() as stack:
        yield [stack.enter_context(world.login(world.a, role, **more)) for _ in range(number)]


@contextmanager
def meanwhile(number, act):
    """Runs `act(stop)` in threads until the block ends. What they raise is the attacker's own affair."""
    stop = threading.Event()
    def run():
        while not stop.is_set():
            try:
                act(stop)
            except (PgError, OSError):
                pass
    threads = [threading.Thread(target=run, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def end_all(world):
    """Ends what A still runs, so that the next mechanism begins at rest."""
    look = f"from pg_stat_activity where datname = '{world.a.database}'"
    world.platform.query(f"select pg_terminate_backend(pid) {look}")
    until(lambda: world.platform.value(f"select count(*) {look}") == "0", "A's sessions end", 20)


def memory(world):
    """Resident memory of the proxy's process, in MB."""
    with open(f"/proc/{world.server.process.pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)


# ------------------------------------------------------------------------------------------------ connections


@mechanism
def all_clients(world):
    """A opens as many clients as it may; B works, and A is told so."""
    with many(world, CLIENTS_OF_TENANT_MAX, "read"):
        refused("53300", lambda: world.login(world.a, "read"), "one more client of A")
        works(world, "beside all clients of A")
    until(lambda: not refuses_login(world.a, world), "A works again")


def refuses_login(tenant, world):
    try:
        world.login(tenant, "read").close()
        return False
    except PgError:
        return True


@mechanism
def all_servers(world):
    """A holds every server connection it may have and more clients wait; B works, and so does A when it lets go."""
    with many(world, SERVERS_OF_TENANT_MAX) as holders, many(world, 40, "write") as waiting:
        for holder in holders:
            holder.query("BEGIN; SELECT 1")
        for one in waiting:
            one.send("SELECT 'served'")
        works(world, "while A's clients wait")
        count = world.platform.value(f"select count(*) from pg_stat_activity where datname = '{world.a.database}'")
        equal(count, str(SERVERS_OF_TENANT_MAX), "server connections of A")
        for holder in holders:
            holder.close()
        equal(waiting[0].receive(), [["served"]], "control: who waited is served")


@mechanism
def all_slots(world):
    """With the server's own password A takes every slot of the server; the platform and B's open session still work."""
    # Not a tenant's way: the socket is the platform's and the password never leaves it.
    b = world.login(world.b, "admin")
    b.query("select 1")
    with ExitStack() as stack:
        error = None
        for _ in range(200):
            try:
                stack.enter_context(world.server.login(world.a, "read"))
            except PgError as refusal:
                error = refusal
                break
        equal(error and error.code, "53300", "the end of the slots")
        equal(b.value("select 2"), "2", "B's open session")
        with world.server.platform() as c:
            equal(c.value("select 3"), "3", "the platform, out of its reserve")
        world.server.call("GET", "/customer/databases")
        b.close()
    until(lambda: world.platform.value("select count(*) < 50 from pg_stat_activity") == "t", "slots are free")
    works_again(world, "after the slots came free")


def slow(world, number, first, source=None):
    """Connections to the port on which only `first` was said."""
    sockets = []
    for _ in range(number):
        try:
            one = dial(world.server.address, 5, tls=False, source=source)
            one.sendall(first)
            sockets.append(one)
        except OSError:
            break
    return sockets


def is_closed(one):
    """Whether the other side ended this connection."""
    if not select.select([one], [], [], 0)[0]:
        return False
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


@mechanism
def slow_logins(world):
    """Connections that begin a startup packet, a TLS handshake or a login and never end it; B works."""
    tls_request = struct.pack("!ii", 8, 80877103)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20)
    sockets = []
    try:
        # More than the process takes: the last ones push the first ones out.
        began = time.monotonic()
        sockets += slow(world, CLIENTS_MAX + 50, b"")
        equal(len(sockets), CLIENTS_MAX + 50, "connections that are let as far as that")
        until(lambda: all(is_closed(one) for one in sockets[:50]), "the first ones are pushed out", LOGIN_TIME_MAX_S)
        if time.monotonic() - began >= LOGIN_TIME_MAX_S:
            raise Failure("the first ones may just have been too slow: this shows nothing")
        equal([is_closed(one) for one in sockets[-50:]], [False] * 50, "the last ones are closed")
        for first in (b"", b"\0", b"\0\0\0\x40\0\x03", tls_request, b"\x16\x03\x01\x02", tls_request + hello[:30]):
            sockets += slow(world, CLIENTS_MAX // 4, first)
            works(world, f"beside {len(sockets)} connections that never log in ({first[:12]!r})")
        # Faster than anybody logs in, and from somewhere else: a flood pushes out what is of the flood.
        with meanwhile(2, lambda stop: sockets.extend(slow(world, 50, b"\0", "127.0.0.2"))):
            for _ in range(10):
                works(world, "while such connections keep coming")
    finally:
        for one in sockets:
            one.close()


@mechanism
def wrong_passwords(world):
    """A storm of logins with wrong passwords in the name of A and of nobody; B works, and so does A."""
    def guess(stop):
        for user in (f"{world.a.id}.admin", "zzzzzzzzzzzz.admin"):
            refused("28P01 53300", lambda: world.server.proxied(world.a, "admin", user=user, password="guess", timeout=30))
    with meanwhile(8, guess):
        for _ in range(3):
            works(world, "beside wrong passwords")
            world.login(world.a, "read", timeout=WORKS_MAX_S).close()


@mechanism
def cancel_storm(world):
    """A storm of cancel requests, with A's keys and with guesses; B works."""
    with many(world, 4) as own:
        for c in own:
            c.query("select 1")
        def storm(stop):
            for key in [c.key for c in own] + [os.urandom(8), world.b_session.key[:4] + os.urandom(4)]:
                with dial(world.server.address, 5, tls=False) as raw:
                    raw.sendall(struct.pack("!ii", len(key) + 8, 80877102) + key)
        def run(stop):
            with world.login(world.a, "write") as c:
                c.query("select pg_sleep(0.01)")
        with meanwhile(6, storm), meanwhile(2, run):
            for _ in range(5):
                works(world, "in the storm")


# ------------------------------------------------------------------------------------------------ shared tables


@mechanism
def locks(world):
    """A fills the lock table again and again; the product ends its sessions, and B works."""
    ended = []
    def fill(stop):
        with world.login(world.a, "write", timeout=60) as c:
            try:
                for start in range(0, 1_000_000, 1000):
                    c.query(f"SELECT count(pg_advisory_lock(g)) FROM generate_series({start}, {start + 999}) g")
                    if stop.is_set():
                        return
            except PgError as error:
                ended.append(error.code)
                if error.code == "53200":
                    # The table is full: stay and keep it so.
                    while not stop.is_set():
                        c.query("SELECT pg_sleep(0.1)")
                raise
    with meanwhile(3, fill):
        until(lambda: ended, "the attack begins", 20)
        works_again(world, "while A fills the lock table")
    if "53200" not in ended and "57P01" not in ended:
        raise Failure(f"nothing was ended: {ended}")
    works_again(world, "after the attack")


@mechanism
def many_tables(world):
    """A locks thousands of tables in one transaction; the product ends it, and B works."""
    with world.login(world.a, "admin", timeout=60) as c:
        c.query("BEGIN")
        def lock():
            for start in range(0, 20000, 500):
                c.query(f"DO $$ BEGIN FOR i IN {start}..{start + 499} LOOP EXECUTE 'CREATE TABLE public.many_' || i || ' ()'; END LOOP; END $$")
        refused("57P01 53200 closed", lock, "thousands of tables")
        works_again(world, "beside thousands of tables")
    works_again(world, "after thousands of tables")


@mechanism
def queue(world):
    """A listener of A that sits in a transaction fills the queue of NOTIFY; the product ends it, and B can notify."""
    payload = "SELECT count(pg_notify('c', i || repeat('x', 7000))) FROM generate_series(1, {}) i"
    with world.login(world.a, "read") as sitter, world.login(world.a, "read", timeout=60) as writer:
        sitter.query("LISTEN c")
        process = sitter.value("SELECT pg_backend_pid()")
        sitter.query("BEGIN; SELECT 1")
        if world.server.major >= 17:  # max_notify_queue_pages makes it small enough: 8 GB on 15.
            with meanwhile(1, lambda stop: writer.query(payload.format(500))):
                until(lambda: held(world) > 0.25, "the queue fills", 60)
                with world.login(world.b, "write") as b:
                    b.query(payload.format(1))
                until(lambda: is_gone(world, process), "the listener is ended", RECOVERS_MAX_S)
            until(lambda: held(world) < 0.25, "the queue is read on", RECOVERS_MAX_S)
        else:
            writer.query(payload.format(100))
            if held(world) <= 0:
                raise Failure("nothing is held: this shows nothing")
        works(world, "beside a queue that is held")
    with world.login(world.b, "write") as b:
        b.query("LISTEN d")
        b.query("NOTIFY d, 'heard'")
        b.query("select 1")
        if not any(b"heard" in part for part in b.seen):
            raise Failure("B does not hear itself")


def held(world):
    return float(world.platform.value("select pg_notification_queue_usage()"))


def is_gone(world, process):
    return not world.platform.query(f"select from pg_stat_activity where pid = {process}")


@mechanism
def old_transaction(world):
    """A transaction of A that stays open holds back nothing of B's own tables, and no create."""
    with world.login(world.a, "admin") as a, world.login(world.b, "admin") as b:
        a.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id(); SELECT count(*) FROM pg_class")
        b.query("DELETE FROM public.work; INSERT INTO public.work SELECT 'x' FROM generate_series(1, 1000); DELETE FROM public.work")
        b.query("VACUUM (VERBOSE) public.work")
        text = " ".join(notice.get("M", "") + notice.get("D", "") for notice in b.notices)
        if "dead" not in text or " 0 are dead but not yet removable" not in text:
            raise Failure(f"rows of B were kept: {text}")
        works(world, "beside an old transaction")


@mechanism(changes=True)
def shared_rows(world):
    """A transaction of A that holds rows of the shared catalogs stops no login, no create and no reset-password."""
    with world.login(world.a, "admin") as a:
        a.query("BEGIN")
        a.query("ALTER ROLE tenantry_admin SET work_mem = '64kB'")
        a.query("ALTER ROLE tenantry_admin PASSWORD 'x'")
        works(world, "beside locked roles")
        world.server.register()
        made = world.server.call("POST", "/customer/databases", {"name": "meanwhile"})
        world.server.call("POST", f"/customer/databases/{made['id']}/reset-password", {"role": "read"})
        world.server.call("DELETE", f"/customer/databases/{made['id']}")
        a.query("ROLLBACK")
    # The compared state has that database in it, on its way out.
    with world.server.platform("tenantry", options="") as c:
        until(lambda: c.value(f"select stage from placement join tenant using (pid) where tenant.id = '{made['id']}'")
              == "closed", "the delete is done")
    world.before = world.fingerprint()


@mechanism
def deadlocks(world):
    """Deadlocks of A among its own rows; B works."""
    with world.login(world.a, "admin") as c:
        c.query("CREATE TABLE public.dead AS SELECT i FROM generate_series(1, 20) i")
    try:
        def collide(stop):
            with world.login(world.a, "write", timeout=60) as c:
                order = "asc" if threading.get_ident() % 2 else "desc"
                c.query("BEGIN")
                for i in range(1, 21):
                    c.query(f"UPDATE public.dead SET i = i WHERE i = {i if order == 'asc' else 21 - i}")
        with meanwhile(8, collide):
            for _ in range(3):
                works(world, "beside deadlocks")
    finally:
        end_all(world)
        with world.login(world.a, "admin") as c:
            c.query("DROP TABLE public.dead")


@mechanism
def many_objects(world):
    """A makes and drops thousands of objects; B works and databases can still be created."""
    def churn(stop):
        with world.login(world.a, "admin", timeout=60) as c:
            name = f"churn_{threading.get_ident()}"
            c.query(f"CREATE SCHEMA {name}")
            c.query(f"DO $$ BEGIN FOR i IN 1..200 LOOP EXECUTE 'CREATE TABLE {name}.t' || i || ' (i int PRIMARY KEY)'; END LOOP; END $$")
            c.query(f"DROP SCHEMA {name} CASCADE")
    with meanwhile(4, churn):
        for _ in range(3):
            works(world, "beside thousands of objects")


# --------------------------------------------------------------------------------- memory, disk, processor, network


@mechanism
def processor(world):
    """A keeps every server connection it may have busy for ever; B works, and what A left behind is ended."""
    with many(world, SERVERS_OF_TENANT_MAX, "read") as busy:
        for c in busy:
            c.send("DO $$ BEGIN LOOP END LOOP; END $$")
        look = f"select count(*) from pg_stat_activity where datname = '{world.a.database}' and state = 'active'"
        until(lambda: world.platform.value(look) == str(SERVERS_OF_TENANT_MAX), "all are busy", 20)
        for _ in range(2):
            works(world, "beside busy loops")
    # Nobody waits for these any more: abandoned_time_max, then a cancel.
    until(lambda: world.platform.value(look) == "0", "abandoned statements end", 30)


@mechanism
def statement_memory(world):
    """A statement of A that wants all memory gets 53200 and its session lives; B works."""
    with world.login(world.a, "read", timeout=120) as c:
        process = c.value("select pg_backend_pid()")
        with open(f"/proc/{process}/limits") as limits:
            line = next(line for line in limits if line.startswith("Max data size"))
        if line.split()[3] == "unlimited":
            raise Failure("a server process may take all memory")
        c.send("SELECT array_length(array_agg(repeat('x', 100000) || i), 1) FROM generate_series(1, 200000) i")
        works(world, "beside a greedy statement")
        refused("53200", c.receive, "a greedy statement")
        equal(c.value("select 1"), "1", "its session")
    works(world, "after a greedy statement")


@mechanism
def temporary_space(world):
    """Sorts of A that spill end at temp_file_limit; B works, and a node says a limit unless its operator does."""
    big = "SELECT count(*) FROM (SELECT i, repeat('x', 200) FROM generate_series(1, 400000) i ORDER BY 2, 1 DESC) s"
    ours = (world.server.base / "conf" / "tenantry.conf").read_text()
    if "temp_file_limit = '" not in ours or "temp_file_limit = '-1" in ours:
        raise Failure("no limit of temporary files")
    with many(world, 6, "read") as sorting:
        for c in sorting:
            c.query("SET work_mem = '64kB'")
            c.send(big)
        works(world, "beside sorts")
        for c in sorting:
            refused("53400", c.receive, "a sort")


@mechanism
def slow_readers(world):
    """Clients of A ask for gigabytes and read nothing; B works and the proxy's memory stays flat."""
    before = memory(world)
    with many(world, SERVERS_OF_TENANT_MAX, "read") as readers:
        for c in readers:
            c.send("SELECT repeat('x', 100000) FROM generate_series(1, 1000000)")
        works(world, "beside slow readers")
        # One value that is larger than any buffer.
        readers[0].socket.recv(100)
        works(world, "beside slow readers")
        grown = memory(world) - before
        if grown > 64:
            raise Failure(f"the proxy grew by {grown:.0f} MB")
    end_all(world)


@mechanism
def large_messages(world):
    """Clients of A send statements of many megabytes; B works and the proxy's memory stays flat."""
    before = memory(world)
    text = "SELECT length('" + "x" * (64 << 20) + "')"
    with many(world, 3, "read", timeout=60) as senders:
        threads = [threading.Thread(target=c.send, args=(text,)) for c in senders]
        for thread in threads:
            thread.start()
        works(world, "beside large statements")
        for thread, c in zip(threads, senders):
            thread.join()
            equal(c.receive(), [[str(64 << 20)]], "control: it is answered")
        # A message that never becomes whole.
        for c in senders:
            c.socket.sendall(b"Q\x3f\xff\xff\xff" + b"x" * (1 << 20))
        works(world, "beside messages without end")
        grown = memory(world) - before
        if grown > 64:
            raise Failure(f"the proxy grew by {grown:.0f} MB")


@mechanism
def prepared_statements(world):
    """Thousands of prepared statements, portals and settings in one session; B works, and the next client has none."""
    with world.login(world.a, "write", timeout=60) as c:
        for start in range(0, 4000, 500):
            c.query(";".join(f"PREPARE p{i} AS SELECT {i}, '{'x' * 500}'" for i in range(start, start + 500)))
        c.query("SELECT set_config('own.s' || i, repeat('x', 1000), false) FROM generate_series(1, 2000) i")
        works(world, "beside prepared statements")
    with world.login(world.a, "write") as c:
        equal(c.query("select (select count(*) from pg_prepared_statements), (select count(*) from pg_settings where name like 'own.%')"),
              [["0", "0"]], "the next client")


@mechanism
def write_ahead_log(world):
    """A writes log as fast as it can; B works."""
    def write(stop):
        with world.login(world.a, "write", timeout=60) as c:
            c.query("SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, 20)")
    with meanwhile(4, write):
        for _ in range(4):
            works(world, "beside a flood of WAL")


@mechanism
def many_databases(world):
    """A project creates databases until it is refused; B works."""
    world.server.register()
    made = []
    try:
        error = None
        for i in range(20):
            try:
                made.append(world.server.call("POST", "/customer/databases", {"name": f"more-{i}"})["id"])
            except product.ApiError as refusal:
                error = str(refusal)
                break
            works(world, "beside creates")
        if not error or " 4" not in error:
            raise Failure(f"{len(made)} databases, then {error}")
    finally:
        for identity in made:
            world.server.call("DELETE", f"/customer/databases/{identity}")
        with world.server.platform("tenantry", options="") as c:
            until(lambda: c.value("select count(*) from placement join tenant using (pid) where state like 'DISABL%'"
                                  " and stage <> 'closed'") == "0", "the deletes are done", 30)
        world.before = world.fingerprint()
