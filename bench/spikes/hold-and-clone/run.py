#!/usr/bin/env python3
"""Copies a database under 50 writers behind a gate that does by hand what the proxy's hold will do.

usage: sudo PYTHON_WITH_PSYCOPG_3 ./run.py PG_BIN [--mb 30,900] [--repeat 5,3] [--writers 50]
       (python3 -m venv v && v/bin/pip install 'psycopg[binary]'; sudo v/bin/python run.py PG_BIN)

Needs root and mkfs.xfs: the data directory lies on a loop-mounted XFS with reflinks. The server runs
as user postgres, on a unix socket only. Prints one JSON object per figure.

The writers move money between accounts and write a ledger row and a NOTIFY in the same transaction.
A copy is consistent when all balances sum to zero, every balance equals its ledger, and (held copies)
the ledger has exactly as many rows as transactions were acknowledged when the gate had closed.
"""
import argparse, asyncio, json, os, random, shutil, signal, statistics, subprocess, sys, tempfile, time
import psycopg

args = argparse.ArgumentParser(usage=__doc__)
args.add_argument("pg_bin")
args.add_argument("--mb", default="30,900")
args.add_argument("--repeat", default="5,3")
args.add_argument("--writers", type=int, default=50)
args.add_argument("--think-ms", type=int, default=100)
args.add_argument("--drain-s", type=float, default=2.0, help="how long a hold waits for running transactions")
args = args.parse_args()
WORK = tempfile.mkdtemp(prefix="hold-")
os.chmod(WORK, 0o755)
MOUNT, SOCKET, DATA, LOG = f"{WORK}/m", f"{WORK}/s", f"{WORK}/m/data", f"{WORK}/s/log"
DEVICE = ""
ACCOUNTS = 1000
SETTINGS = f"""
listen_addresses = ''
unix_socket_directories = '{SOCKET}'
shared_buffers = '512MB'
max_connections = 200
max_wal_size = '8GB'
"""
SCHEMA = f"""
create table account (id int primary key, balance bigint not null default 0);
insert into account select generate_series(0, {ACCOUNTS - 1});
create table ledger (id bigint generated always as identity primary key, account_from int, account_to int, amount int);
create table filler (id int primary key, body text);
"""
CHECK = """
select (select sum(balance) from account), (select count(*) from ledger),
       (select count(*) from account join
          (select account, sum(amount) from (select account_to account, amount from ledger
             union all select account_from, -amount from ledger) e group by 1) l on id = account
        where balance <> sum)
"""


def out(what, **figures):
    print(json.dumps({"what": what, **figures}), flush=True)


def run(*command, **kw):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **kw).stdout


def connect(db):
    return psycopg.AsyncConnection.connect(host=SOCKET, user="postgres", dbname=db, autocommit=True)


def ms(seconds):
    return round(seconds * 1000, 1)


def percentiles(values):
    values = sorted(values)
    at = lambda q: ms(values[min(len(values) - 1, int(len(values) * q))])
    return {"n": len(values), "p50": at(0.5), "p99": at(0.99), "max": ms(values[-1])} if values else None


class BoundReached(Exception):
    """A transaction was still running when the wait for it ended."""


class Gate:
    """Stands for the proxy: lends server connections to transactions, and can hold new ones."""

    def __init__(self, db):
        self.db, self.open, self.quiet = db, asyncio.Event(), asyncio.Event()
        self.running, self.servers, self.listeners = 0, set(), []
        self.connecting = asyncio.Semaphore(8)
        self.open.set(), self.quiet.set()

    async def enter(self):
        while not self.open.is_set():
            await self.open.wait()
        self.running += 1
        self.quiet.clear()

    def leave(self):
        self.running -= 1
        if not self.running:
            self.quiet.set()

    async def server(self, mine):
        """The client's server connection; a hold closed it, so it may have to be opened again."""
        if mine is None or mine.closed:
            async with self.connecting:
                mine = await connect(self.db)
            self.servers.add(mine)
        return mine

    async def hold(self, copy, admin):
        """Runs `copy` while no transaction runs and no server connection exists; returns phase times."""
        phases, began = {}, time.monotonic()

        def lap(name):
            nonlocal began
            now = time.monotonic()
            phases[name], began = ms(now - began), now
        held_at = time.monotonic()
        self.open.clear()
        try:
            try:
                await asyncio.wait_for(self.quiet.wait(), args.drain_s)
            except asyncio.TimeoutError:
                raise BoundReached from None
            lap("drain")
            # one round trip delivers every notification committed so far, since all commits are over
            for listener in self.listeners:
                await listener.park()
            await asyncio.gather(*(c.close() for c in self.servers))
            self.servers.clear()
            for attempt in range(200):  # a closed backend needs a moment to leave the database
                left = await (await admin.execute(
                    "select pid from pg_stat_activity where datname = %s and backend_type = 'client backend'",
                    [self.db])).fetchall()
                if not left:
                    break
                if attempt == 100:
                    await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                                        [self.db])
                await asyncio.sleep(0.002)
            lap("close")
            await copy()
            lap("copy")
        finally:
            for listener in self.listeners:
                await listener.unpark()
            lap("relisten")
            self.open.set()
            phases["held"] = ms(time.monotonic() - held_at)
        return phases


class Listener:
    """A client that only listens; the hold drains it, closes its server and listens again."""

    def __init__(self, gate):
        self.gate, self.conn, self.got, self.wakeups = gate, None, [], 0

    async def unpark(self):
        if self.conn is None:
            self.conn = await connect(self.gate.db)
            self.conn.add_notify_handler(lambda n: self.got.append(n.payload))
            await self.conn.execute("listen moved")

    async def park(self):
        if self.conn is not None:
            await self.conn.execute("select 1")
            await self.conn.close()
            self.conn = None

    async def run(self, stop):
        """Asks every 50 ms, so that notifications come in also when nothing else is read."""
        while not stop.is_set():
            await asyncio.sleep(0.05)
            if self.conn is not None and self.gate.open.is_set():
                try:
                    await self.conn.execute("select 1")
                except psycopg.Error:
                    pass


class Writers:
    def __init__(self, gate):
        self.gate, self.acked, self.errors, self.samples, self.stop = gate, [], [], [], asyncio.Event()

    async def one(self, number):
        conn, count = None, 0
        rng = random.Random(number)
        while not self.stop.is_set():
            await asyncio.sleep(args.think_ms / 1000 * rng.uniform(0.5, 1.5))
            a, b = sorted(rng.sample(range(ACCOUNTS), 2))
            amount, mark = rng.randint(-100, 100), f"{number}.{count}"
            began = time.monotonic()
            await self.gate.enter()
            try:
                conn = await self.gate.server(conn)
                async with conn.transaction():
                    await conn.execute("update account set balance = balance - %s where id = %s", [amount, a])
                    await conn.execute("update account set balance = balance + %s where id = %s", [amount, b])
                    await conn.execute("insert into ledger (account_from, account_to, amount) values (%s, %s, %s)",
                                       [a, b, amount])
                    await conn.execute("select pg_notify('moved', %s)", [mark])
                self.acked.append(mark)
                count += 1
            except psycopg.Error as error:
                self.errors.append(repr(error))
                conn = None
            finally:
                self.gate.leave()
            self.samples.append((began, time.monotonic() - began))

    def during(self, began, ended):
        """Latencies of the transactions that were waiting or running in that time."""
        return [took for start, took in self.samples if start < ended and start + took > began]


async def scenario(admin, db, strategy, clone, repeat, size):
    """Held copies under load; then the same with a transaction that stays open."""
    gate = Gate(db)
    listener, writers = Listener(gate), Writers(gate)
    gate.listeners.append(listener)
    base = (await (await (c := await connect(db)).execute("select count(*) from ledger")).fetchone())[0]
    await c.close()
    await listener.unpark()
    tasks = [asyncio.create_task(writers.one(i)) for i in range(args.writers)]
    tasks.append(asyncio.create_task(listener.run(writers.stop)))
    await asyncio.sleep(3)
    quiet = percentiles([t for _, t in writers.samples])
    rounds, waits, verdicts = [], [], []
    for _ in range(repeat):
        seen = {}

        async def copy():
            seen["acked"] = len(writers.acked)
            await admin.execute(f"create database copy template {db} strategy {strategy} connection limit 0")
        before = time.monotonic()
        await admin.execute("checkpoint")
        checkpoint = ms(time.monotonic() - before)
        began = time.monotonic()
        phases = await gate.hold(copy, admin)
        ended = time.monotonic()
        await asyncio.sleep(1)
        rounds.append(phases | {"checkpoint_before": checkpoint})
        waits += writers.during(began, ended)
        check = await connect("copy")
        total, rows, wrong = await (await check.execute(CHECK)).fetchone()
        await check.close()
        verdicts.append(total == 0 and wrong == 0 and rows == base + seen["acked"])
        await admin.execute("drop database copy")
    middle = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
    writers.stop.set()
    await asyncio.gather(*tasks)
    await listener.park()
    out("held copy", mb=size, strategy=strategy + ("+clone" if clone else ""), median_ms=middle,
        held_max_ms=max(r["held"] for r in rounds), slow_statement=percentiles(waits), quiet=quiet,
        writers_errors=len(writers.errors), first_errors=writers.errors[:2], copies_consistent=verdicts,
        acked=len(writers.acked), notified=len(listener.got), lost=len(set(writers.acked) - set(listener.got)),
        twice=len(listener.got) - len(set(listener.got)))
    await asyncio.gather(*(c.close() for c in gate.servers))


async def open_transaction(admin, db, size):
    """One client stays inside a transaction: hold, bound, let go, again, then a streamed copy."""
    gate = Gate(db)
    writers = Writers(gate)
    tasks = [asyncio.create_task(writers.one(i)) for i in range(args.writers)]
    await gate.enter()
    stayer = await connect(db)
    await stayer.execute("begin")
    await stayer.execute("insert into ledger (account_from, account_to, amount) values (0, 1, 1000000)")
    await asyncio.sleep(2)
    quiet = percentiles([t for _, t in writers.samples])

    async def never():
        raise AssertionError("copied although a transaction was open")
    began = time.monotonic()
    for _ in range(2):
        try:
            await gate.hold(never, admin)
        except BoundReached:
            await asyncio.sleep(1)
    waits = writers.during(began, time.monotonic() - 0.5)
    out("open transaction: two holds ran into the bound", mb=size, slow_statement=percentiles(waits), quiet=quiet,
        writers_errors=len(writers.errors))
    source = f"host={SOCKET} user=postgres dbname={db}"
    target = f"host={SOCKET} user=postgres dbname=copy"
    dump, restore = f"{args.pg_bin}/pg_dump", f"{args.pg_bin}/pg_restore"
    ways = {
        "pg_dump -Fc -Z0 | pg_restore": f"'{dump}' -Fc -Z0 '{source}' | '{restore}' -d '{target}'",
        "the same, target with synchronous_commit=off":
            f"'{dump}' -Fc -Z0 '{source}' | PGOPTIONS='-c synchronous_commit=off' '{restore}' -d '{target}'",
        "pg_dump -Fd -j2 -Z0, then pg_restore -j2":
            f"'{dump}' -Fd -j2 -Z0 -f '{WORK}/m/d' '{source}' && '{restore}' -j2 -d '{target}' '{WORK}/m/d';"
            f" rm -rf '{WORK}/m/d'",
    }
    for way, command in ways.items():
        times, good = [], []
        marks = time.monotonic()
        for _ in range(3 if size < 100 else 1):
            await admin.execute("create database copy template template0 connection limit 10")
            began = time.monotonic()
            process = await asyncio.create_subprocess_shell("set -o pipefail; " + command, executable="/bin/bash")
            code = await process.wait()
            times.append(time.monotonic() - began)
            check = await connect("copy")
            total, rows, wrong = await (await check.execute(CHECK)).fetchone()
            await check.close()
            good.append(code == 0 and total == 0 and wrong == 0)
            await admin.execute("drop database copy")
        out("streamed copy beside an open transaction", mb=size, way=way,
            seconds=round(statistics.median(times), 2), copies_consistent=good,
            writers_meanwhile=percentiles(writers.during(marks, time.monotonic())), writers_errors=len(writers.errors))
    await stayer.execute("rollback")
    gate.leave()
    writers.stop.set()
    await asyncio.gather(*tasks)
    await stayer.close()
    await asyncio.gather(*(c.close() for c in gate.servers))


async def main():
    async with await connect("postgres") as admin:
        version = (await (await admin.execute("show server_version")).fetchone())[0]
        out("server", version=version, kernel=os.uname().release, cpus=os.cpu_count(), load=os.getloadavg())
        major = int(version.split(".")[0])
        for size, repeat in zip(map(int, args.mb.split(",")), map(int, args.repeat.split(","))):
            db = f"source_{size}"
            await admin.execute(f"create database {db}")
            async with await connect(db) as c:
                await c.execute(SCHEMA)
                await c.execute("insert into filler select g, repeat(md5(g::text), 30)"
                                f" from generate_series(1, {max(0, size - 8) * 960}) g")
                await c.execute("vacuum analyze")
                real = (await (await c.execute("select pg_database_size(current_database()) / 1000000")).fetchone())[0]
            await asyncio.sleep(0.2)
            for strategy, clone in [("wal_log", False), ("file_copy", False)] + [("file_copy", True)] * (major >= 18):
                if major >= 18:
                    await admin.execute(f"set file_copy_method = {'clone' if clone else 'copy'}")
                await scenario(admin, db, strategy, clone, repeat, real)
            await open_transaction(admin, db, real)
            # what a straggler costs: CREATE DATABASE itself polls every 100 ms, for 5 s, then fails
            straggler = await connect(db)
            began = time.monotonic()
            try:
                await admin.execute(f"create database copy template {db} strategy wal_log")
            except psycopg.Error as error:
                out("a session left in the source", mb=real, seconds=round(time.monotonic() - began, 2),
                    error=error.sqlstate)
            await straggler.close()
            await asyncio.sleep(0.2)
            await admin.execute(f"drop database {db}")
        out("load at the end", load=os.getloadavg())


server = None
signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
try:
    os.makedirs(MOUNT), os.makedirs(SOCKET)
    run("truncate", "-s", "20G", f"{WORK}/image")
    run("mkfs.xfs", "-q", "-m", "reflink=1", f"{WORK}/image")
    DEVICE = run("losetup", "--direct-io=on", "--find", "--show", f"{WORK}/image").strip()
    run("mount", DEVICE, MOUNT)
    os.makedirs(DATA)
    for path in (DATA, SOCKET):
        shutil.chown(path, "postgres", "postgres"), os.chmod(path, 0o700)
    run("runuser", "-u", "postgres", "--", f"{args.pg_bin}/initdb", "-D", DATA, "-U", "postgres", "-A", "trust",
        "-k", "-E", "UTF8", "--locale=C", "-N")
    with open(f"{DATA}/postgresql.conf", "a") as f:
        f.write(SETTINGS)
    log = open(LOG, "a")
    server = subprocess.Popen([f"{args.pg_bin}/postgres", "-D", DATA], stdout=log, stderr=log, user="postgres",
                              group="postgres", extra_groups=[], start_new_session=True)
    for _ in range(200):
        try:
            psycopg.connect(host=SOCKET, user="postgres", dbname="postgres").close()
            break
        except psycopg.OperationalError:
            time.sleep(0.05)
    asyncio.run(main())
finally:
    if server:
        server.send_signal(2), server.wait()
    subprocess.run(["umount", MOUNT], stderr=subprocess.DEVNULL)
    if DEVICE:
        subprocess.run(["losetup", "-d", DEVICE], stderr=subprocess.DEVNULL)
    shutil.rmtree(WORK, ignore_errors=True)
