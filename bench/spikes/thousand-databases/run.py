#!/usr/bin/env python3
"""What a PostgreSQL server with many databases costs while nobody uses them.

usage: sudo ./run.py PG_BIN [--databases 1000] [--seconds 60] [--image-gb 24] [--only create,fleet,idle,...]

Needs root: the data directory lies on a loop-mounted ext4 of its own, so that "cold" means freshly
mounted (no cached file, no cached directory entry) and syncfs meets no dirty data but the server's.
The server runs as user postgres, on a unix socket only. Prints one JSON object per figure.

CPU is that of the processes (/proc/<pid>/stat: the postmaster, its children, and the children it
has reaped), so other load on the machine disturbs it little; wall-clock figures are medians.
"""
import argparse, json, os, re, shutil, signal, statistics, subprocess, sys, tempfile, time

args = argparse.ArgumentParser(usage=__doc__)
args.add_argument("pg_bin")
args.add_argument("--databases", type=int, default=1000)
args.add_argument("--seconds", type=int, default=60)
args.add_argument("--image-gb", type=int, default=24)
args.add_argument("--only", default="create,fleet,idle,active,wraparound,crash,forgotten")
args = args.parse_args()
PHASES = args.only.split(",")
TICK = os.sysconf("SC_CLK_TCK")
WORK = tempfile.mkdtemp(prefix="tdb-")
os.chmod(WORK, 0o755)
MOUNT, SOCKET, DATA, LOG = f"{WORK}/m", f"{WORK}/s", f"{WORK}/m/data", f"{WORK}/s/log"
NAMES = [f"x_{i:05d}" for i in range(args.databases)]

DEVICE = ""  # the loop device of the image, without the host's page cache beneath it

SETTINGS = f"""
listen_addresses = ''
unix_socket_directories = '{SOCKET}'
shared_buffers = '512MB'
max_connections = 200
max_wal_size = '4GB'
log_min_messages = debug1      # the only way to see every autovacuum visit
log_checkpoints = off
"""

TEMPLATE = "".join(
    f"create table t{i} (id bigint generated always as identity primary key, name text, n int default 0);"
    for i in range(10))

LOOK_AFTER = r"""
select format('vacuum (analyze, skip_locked) %I.%I', s.schemaname, s.relname)
from pg_stat_user_tables s join pg_class c on c.oid = s.relid
where s.n_dead_tup > 50 + 0.2 * greatest(c.reltuples, 0)
   or s.n_ins_since_vacuum > 1000 + 0.2 * greatest(c.reltuples, 0)
   or s.n_mod_since_analyze > 50 + 0.1 * greatest(c.reltuples, 0) \gexec
"""


def out(what, **figures):
    print(json.dumps({"what": what, **figures}), flush=True)


def run(*command, **kw):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **kw).stdout


def psql(script, db="postgres"):
    return run(f"{args.pg_bin}/psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", SOCKET, "-U", "postgres",
               "-d", db, "-f", "-", input=script).strip()


def postmaster():
    return int(open(f"{DATA}/postmaster.pid").readline())


def stat(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return int(fields[1]), [int(f) / TICK for f in fields[11:15]]  # ppid, [utime stime cutime cstime]


def children(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if stat(entry)[0] == pid:
                    found.append(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                pass
    return found


def cpu():
    """CPU seconds the server has used since it started, reaped children included."""
    main = postmaster()
    total = sum(stat(main)[1])
    for child in children(main):
        try:
            total += sum(stat(child)[1][:2])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total


def pss_mb():
    total = 0
    for pid in [postmaster(), *children(postmaster())]:
        try:
            total += int(re.search(r"Pss:\s+(\d+)", open(f"/proc/{pid}/smaps_rollup").read())[1])
        except (FileNotFoundError, ProcessLookupError, TypeError):
            pass
    return round(total / 1024, 1)


def visits():
    return open(LOG, errors="replace").read().count("autovacuum: processing database")


def start(**settings):
    """Starts the server and returns the seconds until it accepts a statement."""
    with open(f"{DATA}/spike.conf", "w") as f:
        f.write(SETTINGS + "".join(f"{k} = '{v}'\n" for k, v in settings.items()))
    began = time.monotonic()
    log = open(LOG, "a")
    subprocess.Popen([f"{args.pg_bin}/postgres", "-D", DATA], stdout=log, stderr=log,
                     user="postgres", group="postgres", extra_groups=[], start_new_session=True)
    while subprocess.run([f"{args.pg_bin}/psql", "-XqAt", "-h", SOCKET, "-U", "postgres", "-c", "select 1",
                          "postgres"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        if time.monotonic() - began > 600:
            sys.exit("server did not start; see " + LOG)
        time.sleep(0.005)
    return time.monotonic() - began


def stop(how="fast"):
    run("runuser", "-u", "postgres", "--", f"{args.pg_bin}/pg_ctl", "-D", DATA, "-m", how, "-w", "-t", "600", "stop")


def kill9():
    """Kills the postmaster and all its children at once, as a power cut of the process tree."""
    main = postmaster()
    pids = [main, *children(main)]
    os.kill(main, signal.SIGSTOP)
    for pid in [*pids, *children(main)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    while any(os.path.exists(f"/proc/{p}") and "Z" not in open(f"/proc/{p}/stat").read().rsplit(")", 1)[1][:3]
              for p in pids):
        time.sleep(0.01)


def remount():
    run("umount", MOUNT)
    run("mount", DEVICE, MOUNT)


def touch_all(statement="select count(*) from t0"):
    psql("".join(f"\\c {name}\n{statement};\n" for name in NAMES))


def du_mb(path):
    return int(run("du", "-sk", path).split()[0]) / 1024


def timed(statement):
    began = time.monotonic()
    psql(statement)
    return (time.monotonic() - began) * 1000


def measure_create():
    """One more database: time, disk, WAL and checkpoints, per strategy; then with dirty buffers."""
    for fsync in ("on", "off"):
        start(fsync=fsync, autovacuum="off")
        for strategy in ("wal_log", "file_copy"):
            before, lsn, disk = cpu(), psql("select pg_current_wal_lsn()"), du_mb(f"{DATA}/base")
            # one psql process per statement: about 8 ms of these figures are its start and login
            times = [timed(f"create database c_{strategy}_{i} template seed strategy {strategy}") for i in range(12)]
            psql("checkpoint")
            wal = float(psql(f"select pg_current_wal_lsn() - '{lsn}'::pg_lsn"))
            out("create", fsync=fsync, strategy=strategy, ms_p50=round(statistics.median(times)),
                ms_max=round(max(times)), cpu_ms=round((cpu() - before) / 12 * 1000, 1),
                disk_mb=round((du_mb(f"{DATA}/base") - disk) / 12, 2), wal_mb=round(wal / 12 / 2**20, 2))
            drops = [timed(f"drop database c_{strategy}_{i}") for i in range(12)]
            out("drop", fsync=fsync, strategy=strategy, ms_p50=round(statistics.median(drops)))
        for strategy in ("wal_log", "file_copy"):
            times = []
            for i in range(3):
                psql("create table dirt as select g, repeat('x', 900) as f"
                     " from generate_series(1, 300000) g")
                times.append(timed(f"create database dirty template seed strategy {strategy}"))
                psql("drop database dirty"); psql("drop table dirt")
            out("create beside about 300 MB of dirty buffers", fsync=fsync, strategy=strategy,
                ms=[round(t) for t in times])
        stop()


def make_fleet():
    start(fsync="off", autovacuum="off")
    began, before = time.monotonic(), cpu()
    psql("".join(f"create database {n} template seed strategy file_copy connection limit 5;\n" for n in NAMES))
    out("fleet made, fsync off", databases=args.databases, seconds=round(time.monotonic() - began),
        cpu_s=round(cpu() - before, 1), base_gb=round(du_mb(f"{DATA}/base") / 1024, 2), files=int(
            run("bash", "-c", f"find {DATA} -type f | wc -l")))
    stop()
    run("sync", "-f", MOUNT)


def idle(label, seconds=None, **settings):
    """CPU, visits and memory over a minute in which nobody connects."""
    start(**settings)
    time.sleep(5)
    seen, used, began = visits(), cpu(), time.monotonic()
    time.sleep(seconds or args.seconds)
    took, used, seen = time.monotonic() - began, cpu() - used, visits() - seen
    out(label, **settings, cpu_percent_of_a_core=round(used / took * 100, 2), visits_per_s=round(seen / took, 2),
        cpu_ms_per_visit=round(used / seen * 1000, 2) if seen else None, pss_mb=pss_mb())
    stop()


def measure_idle():
    idle("idle, never connected to", autovacuum_naptime="60s")
    start()
    mb, before, began = pss_mb(), cpu(), time.monotonic()
    touch_all()
    first = cpu() - before, time.monotonic() - began
    before, began = cpu(), time.monotonic()
    touch_all()
    out("connect to each once", pss_mb_before=mb, pss_mb_after=pss_mb(),
        first_ms_each=round(first[1] / args.databases * 1000, 2), first_cpu_ms=round(first[0] / args.databases * 1000, 2),
        again_ms_each=round((time.monotonic() - began) / args.databases * 1000, 2),
        again_cpu_ms=round((cpu() - before) / args.databases * 1000, 2),
        base_gb=round(du_mb(f"{DATA}/base") / 1024, 2))
    stop()
    idle("idle, each connected to once", autovacuum_naptime="60s")
    idle("idle, each connected to once", autovacuum_naptime=f"{args.databases}s")
    idle("idle, each connected to once", autovacuum="off", seconds=15)


def measure_active():
    """Paced launcher plus our own pass: who looks after 20 busy databases, and what does it cost?"""
    busy = NAMES[:20]
    load = "".join(f"\\c {n}\ninsert into t1(name) select g::text from generate_series(1, 2000) g;"
                   f"update t1 set n = n + 1;\n" for n in busy)
    health = "select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables;"
    for naptime, limit in (("60s", 110), (f"{args.databases}s", 45)):
        start(autovacuum_naptime=naptime)
        psql(load)
        began, left = time.monotonic(), len(busy)
        while left and time.monotonic() - began < limit:
            time.sleep(5)
            left = sum(int(v) > 0 for v in psql("".join(f"\\c {n}\n{health}\n" for n in busy)).split())
        out("20 busy databases, the launcher alone", autovacuum_naptime=naptime, not_yet_vacuumed=left,
            after_s=round(time.monotonic() - began))
        stop()
    start(autovacuum_naptime=f"{args.databases}s")
    look = "select datname, tup_inserted + tup_updated + tup_deleted from pg_stat_database where datname like 'x\\_%'"
    counters = lambda: dict(line.split("|") for line in psql(look).splitlines())
    known = counters()
    psql(load)
    before, began = cpu(), time.monotonic()
    now = counters()
    scan = cpu() - before
    changed = [n for n in now if now[n] != known[n]]
    before = cpu()
    for name in changed:
        psql(LOOK_AFTER, name)
    left = sum(int(v) > 0 for v in psql("".join(f"\\c {n}\n{health}\n" for n in busy)).split())
    out("20 busy databases, our pass", changed=len(changed), not_yet_vacuumed=left, scan_cpu_ms=round(scan * 1000),
        cpu_ms_per_database=round((cpu() - before) / max(1, len(changed)) * 1000, 1),
        seconds=round(time.monotonic() - began, 2))
    before = cpu()
    for _ in range(20):
        counters()
    out("our pass when nothing changed", cpu_ms=round((cpu() - before) / 20 * 1000, 2))
    stop()


def measure_wraparound():
    """All clones carry the template's age, so all become due at the same transaction."""
    for settings in ({"autovacuum_naptime": f"{args.databases}s"}, {"autovacuum_naptime": "60s"},
                     {"autovacuum": "off"}):
        start(autovacuum_freeze_max_age=100000, vacuum_freeze_min_age=1000, vacuum_freeze_table_age=50000, **settings)
        psql("set synchronous_commit = off; do $$ begin for i in 1..220000 loop"
             " perform pg_current_xact_id(); commit; end loop; end $$")
        due = lambda: int(psql("select count(*) from pg_database where age(datfrozenxid) > 100000"))
        a, seen, used, began = due(), visits(), cpu(), time.monotonic()
        time.sleep(20)
        took, used, seen = time.monotonic() - began, cpu() - used, visits() - seen
        out("every database due for freezing", **settings, due_before=a, due_after=due(),
            visits_per_s=round(seen / took, 2), cpu_percent_of_a_core=round(used / took * 100, 1),
            cpu_ms_per_visit=round(used / seen * 1000, 1) if seen else None)
        stop()


def measure_crash():
    start()
    for method in ("fsync", "syncfs"):
        for cache in ("warm", "cold"):
            for load in ("idle", "after writes"):
                if load == "after writes":
                    psql("checkpoint")
                    touch_all("insert into t2(name) select g::text from generate_series(1, 100) g")
                    time.sleep(1)
                kill9()
                log_end = os.path.getsize(LOG)
                if cache == "cold":
                    remount()
                ready = start(recovery_init_sync_method=method)
                redo = re.findall(r"redo done at .* elapsed: ([\d.]+) s", open(LOG, errors="replace").read()[log_end:])
                out("kill -9 to ready", method=method, cache=cache, load=load, seconds=round(ready, 2),
                    redo_s=redo[-1] if redo else None)
    stop()
    out("clean stop to ready", seconds=round(start(), 2))
    stop("fast")
    run("sync", "-f", MOUNT)
    remount()
    out("clean stop to ready, cold", seconds=round(start(), 2))
    stop()


def measure_forgotten():
    """A crash discards the statistics, and the launcher visits only databases that have some."""
    start(autovacuum_naptime="1s")
    touch_all()
    time.sleep(3)
    seen = visits()
    time.sleep(10)
    before, seen = (visits() - seen) / 10, 0
    kill9()
    start(autovacuum_naptime="1s", recovery_init_sync_method="syncfs")
    time.sleep(3)
    seen = visits()
    time.sleep(10)
    seen = (visits() - seen) / 10
    out("visits/s with naptime 1 s, before and after a crash", before=round(before, 1), after=round(seen, 1),
        databases_with_sessions=int(psql("select count(*) from pg_stat_database where sessions > 0")),
        recovered="automatic recovery in progress" in open(LOG, errors="replace").read(),
        dead_tuples_known=psql("select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables", NAMES[0]))
    stop()
    # due for freezing with no statistics: does the launcher find them, and how fast?
    for remedy in ("none", "connect to each, reload"):
        start(recovery_init_sync_method="syncfs")
        kill9()
        start(autovacuum_naptime=f"{args.databases}s", recovery_init_sync_method="syncfs",
              autovacuum_freeze_max_age=100000, vacuum_freeze_min_age=1000, vacuum_freeze_table_age=50000)
        if remedy != "none":
            touch_all()
            psql("select pg_reload_conf()")  # the launcher makes its list anew
        psql("set synchronous_commit = off; do $$ begin for i in 1..220000 loop"
             " perform pg_current_xact_id(); commit; end loop; end $$")
        seen = visits()
        time.sleep(20)
        out("due for freezing after a crash", remedy=remedy, visits_in_20_s=visits() - seen,
            left=int(psql("select count(*) from pg_database where age(datfrozenxid) > 100000")))
        stop()


def main():
    os.makedirs(MOUNT); os.makedirs(SOCKET)
    run("truncate", "-s", f"{args.image_gb}G", f"{WORK}/image")
    run("mkfs.ext4", "-q", "-i", "16384", f"{WORK}/image")
    global DEVICE
    DEVICE = run("losetup", "--direct-io=on", "--find", "--show", f"{WORK}/image").strip()
    run("mount", DEVICE, MOUNT)
    os.makedirs(DATA)
    for path in (DATA, SOCKET):
        shutil.chown(path, "postgres", "postgres"); os.chmod(path, 0o700)
    run("runuser", "-u", "postgres", "--", f"{args.pg_bin}/initdb", "-D", DATA, "-U", "postgres", "-A", "trust",
        "-k", "-E", "UTF8", "--locale=C", "-N")
    with open(f"{DATA}/postgresql.conf", "a") as f:
        f.write("include 'spike.conf'\n")
    start(fsync="off")
    out("server", version=psql("show server_version"), kernel=os.uname().release, cpus=os.cpu_count(),
        load=os.getloadavg())
    psql("create database seed"); psql(TEMPLATE, "seed"); psql("checkpoint")
    stop()
    steps = {"create": measure_create, "fleet": make_fleet, "idle": measure_idle, "active": measure_active,
             "wraparound": measure_wraparound, "crash": measure_crash, "forgotten": measure_forgotten}
    for phase in PHASES:
        steps[phase]()
    out("load at the end", load=os.getloadavg())


signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
try:
    main()
finally:
    if os.path.exists(f"{DATA}/postmaster.pid"):
        try:
            kill9()
        except (FileNotFoundError, ProcessLookupError):
            pass
    subprocess.run(["umount", MOUNT], stderr=subprocess.DEVNULL)
    subprocess.run(["losetup", "-d", DEVICE], stderr=subprocess.DEVNULL)
    shutil.rmtree(WORK, ignore_errors=True)
