"""What the programs of ./dev bench share: stacks that leave nothing behind, counters of processes, tables.

Owns: starting `tenantry serve` and PgBouncer in directories of their own on free ports, ending them by
process id also after Ctrl-C, reading /proc, printing the machine. Does not own: what is measured.
Nothing here, and nothing that uses it, judges a time: figures are printed, people compare.
"""
import atexit
import base64
import contextlib
import glob
import hashlib
import hmac
import json
import os
import pwd
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LONG = "--long" in sys.argv
READY_MAX_S = 600   # initdb on a busy machine, or a crash recovery while the disk writes for others
END_MAX_S = 90      # a drain, and PostgreSQL's last checkpoint


def find(name, *places):
    for place in places:
        if place and os.access(place, os.X_OK):
            return place
    return shutil.which(name)


def tenantry():
    found = find("tenantry", os.environ.get("TENANTRY_BIN"), f"{ROOT}/target/release/tenantry")
    return found or sys.exit("no tenantry: cargo build --release -p cli, or set TENANTRY_BIN")


def load():
    found = find("load", os.environ.get("TENANTRY_LOAD_BIN"), f"{ROOT}/target/release/load")
    return found or sys.exit("no load generator: cargo build --release -p load, or set TENANTRY_LOAD_BIN")


def pg_bin():
    places = [os.environ.get("TENANTRY_PG_BIN")] + [f"/usr/lib/postgresql/{v}/bin" for v in (18, 17, 16, 15)]
    for place in places:
        if place and os.access(f"{place}/postgres", os.X_OK):
            return place
    found = shutil.which("postgres")
    return os.path.dirname(found) if found else sys.exit("no PostgreSQL: set TENANTRY_PG_BIN")


def pg_tool(name):
    """A client program: beside the server, or of another version."""
    return find(name, f"{pg_bin()}/{name}") or sys.exit(f"no {name}")


def pgbouncer():
    return find("pgbouncer", os.environ.get("PGBOUNCER_BIN"), "/usr/sbin/pgbouncer")


def output(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    return done.stdout.strip()


def machine(title):
    """The head of every program's output."""
    cpu = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read()).group(1)) / 2**20
    changed = "+changes" if output("git", "status", "--porcelain", "--", "crates") else ""
    print(f"# {title}\n")
    print(f"machine   {cpu.group(1) if cpu else os.uname().machine}, {os.cpu_count()} cores, {memory:.0f} GiB, "
          f"Linux {os.uname().release}")
    print(f"software  commit {output('git', 'rev-parse', '--short', 'HEAD') or 'none'}{changed}, "
          f"{output(f'{pg_bin()}/postgres', '--version')}, "
          f"{(output(pgbouncer(), '--version').splitlines() or ['?'])[0] if pgbouncer() else 'no PgBouncer'}")
    print(f"when      {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, load average before: "
          f"{' '.join(f'{x:.1f}' for x in os.getloadavg())}\n", flush=True)


def table(head, rows):
    """Markdown, and readable as it is."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
    print(f"\nload average after: {os.getloadavg()[0]:.1f}\n", flush=True)


def note(text):
    print(text, file=sys.stderr, flush=True)


def quantile(values, q):
    """The smallest value that at least the part q of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(q * 1000) * len(ordered) // 1000) - 1))]


def spread(values, form="{:.2f}"):
    """Median, and the range in brackets."""
    return f"{form.format(statistics.median(values))} ({form.format(min(values))}–{form.format(max(values))})"


# --- processes -------------------------------------------------------------------------------

def cpu_s(pid):
    """CPU seconds of a process so far, all its threads, to the nanosecond."""
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(open(path).read().split()[0])
    return total / 1e9


def tree_cpu_s(pid):
    """CPU seconds of a process, its descendants, and those that these have reaped (ticks of 10 ms)."""
    total, left = 0, [pid]
    while left:
        each = left.pop()
        with contextlib.suppress(OSError):
            fields = open(f"/proc/{each}/stat").read().rsplit(")", 1)[1].split()
            total += sum(int(field) for field in fields[11:15])
            left += children(each)
    return total / os.sysconf("SC_CLK_TCK")


def children(pid):
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(open(path).read().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(path.split("/")[2]))
    return found


def rss_kb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read()).group(1))


def pss_kb(pids):
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, AttributeError):
            total += int(re.search(r"Pss:\s+(\d+)", open(f"/proc/{pid}/smaps_rollup").read()).group(1))
    return total


def running(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(what, condition, limit_s=60.0, every_s=0.02):
    until = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise TimeoutError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(every_s)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_postgres():
    """For Popen: run as an ordinary user, where we are root and the program refuses that."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def remove(path):
    # Not shutil: a thousand databases are 350,000 files.
    subprocess.run(["rm", "-rf", "--", path])


class Scratch:
    """A directory that every user may enter, gone afterwards; below `below`, or where temporary files go (`TMPDIR`)."""

    below = None

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="tenantry-bench-", dir=self.below)
        os.chmod(self.path, 0o755)
        return self

    def __exit__(self, *_):
        remove(self.path)


# --- tenantry --------------------------------------------------------------------------------

class Stack(Scratch):
    """One `tenantry serve` with its PostgreSQL: `with Stack("--warm-pool", "32") as stack`.

    `pg` names another PostgreSQL than the one found, `below` another place for its directory.
    """

    def __init__(self, *arguments, pg=None, below=None):
        self.arguments = list(arguments)
        self.pg_bin, self.below = pg or pg_bin(), below
        self.process = None

    def __enter__(self):
        super().__enter__()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, limit_s=READY_MAX_S):
        """Starts the process, waits for its ready line, and returns the seconds that took."""
        log, out = open(f"{self.path}/log", "ab"), open(f"{self.path}/out", "wb")
        env = {key: value for key, value in os.environ.items() if not key.startswith("TENANTRY_")}
        history = [] if "--point-in-time" in self.arguments else ["--point-in-time", "0s"]
        started = time.monotonic()
        # A session of its own: Ctrl-C reaches this program only, which ends what it started.
        self.process = subprocess.Popen(
            [tenantry(), "serve", "--data-dir", self.data, *history, "--pg-listen", "127.0.0.1:0",
             "--api-listen", "127.0.0.1:0", "--log", "json", "--log-filter", "warn", "--pg-bin", self.pg_bin, *self.arguments],
            stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=env, start_new_session=True)

        def ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"tenantry ended before it was ready:\n{self.tail()}")
            text = open(f"{self.path}/out").read()
            return json.loads(text.splitlines()[-1]) if text.endswith("\n") else None

        try:
            self.ready = wait_for("the ready line", ready, limit_s, every_s=0.005)
        except TimeoutError:
            note(f"not ready after {limit_s} s:\n{self.tail()}")
            raise
        self.api, self.pg = self.ready["api"], self.ready["pg"]
        return time.monotonic() - started

    @property
    def data(self):
        return f"{self.path}/data"

    @property
    def pid(self):
        return self.process.pid

    @property
    def certificate(self):
        return f"{self.data}/tls/server.crt"

    @property
    def token(self):
        return open(f"{self.data}/operator.key").read().strip()

    def base(self):
        with contextlib.suppress(OSError):
            return open(f"{self.data}/postgres.base").read().strip()
        return f"{self.data}/postgres"

    def postmaster(self):
        """Process id of the postmaster, while there is one."""
        try:
            pid = int(open(f"{self.base()}/data/postmaster.pid").readline())
            same = os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(f"{self.base()}/data")
            return pid if same else None
        except (OSError, ValueError):
            return None

    def socket_dir(self):
        return open(f"{self.base()}/data/postmaster.pid").read().splitlines()[4]

    def superuser_password(self):
        return open(f"{self.data}/superuser.password").read().strip()

    def sql(self, text, database="tenantry"):
        """Asks PostgreSQL as the platform does, past the proxy."""
        done = subprocess.run([pg_tool("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.socket_dir(), "-U", "tenantry",
                               "-d", database, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env={**os.environ, "PGPASSWORD": self.superuser_password()})
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    def pool_ready(self):
        return int(self.sql("select count(*) from placement where owner = 'pool' and stage = 'open'"))

    def wait_pool(self, count, limit_s=120):
        wait_for(f"{count} databases in the pool", lambda: self.pool_ready() >= count, limit_s, every_s=0.2)

    def wait_pool_at_rest(self, limit_s=120):
        """Nothing is being made any more."""
        wait_for("the pool to rest", lambda: self.sql("select count(*) from placement where due_at is not null") == "0",
                 limit_s, every_s=0.5)

    def made_directly(self):
        """Creates that found the pool empty."""
        return int(self.sql("select count(*) from tenant where activated_at > created_at"))

    def database_of(self, tenant_id):
        return "x_" + self.sql(f"select pid from tenant where id = '{tenant_id}'")

    def get(self, path):
        with urllib.request.urlopen(f"{self.api}{path}", timeout=10) as answer:
            return answer.status

    def is_ready(self):
        try:
            return self.get("/readyz") == 200
        except (urllib.error.URLError, OSError):
            return False

    def create(self, callers, each, *more, connect=True):
        """Creates databases; returns what the load generator measured, and the logins."""
        save = tempfile.mktemp(prefix="logins-", dir=self.path)
        command = ["create", "--api", self.api, "--token", self.token, "--pg", self.pg, "--root", self.certificate,
                   "--callers", str(callers), "--each", str(each), "--save", save, *more]
        result = run_load(*command, *([] if connect else ["--no-connect"]))
        if result["errors"]:
            note(f"{result['errors']} creates failed, the first: {result['first_error']}")
        logins = [json.loads(line) for line in open(save)] if os.path.exists(save) else []
        return result, logins

    def limit(self, tenant_id, **limits):
        """Sets limits of a tenant as the operator."""
        request = urllib.request.Request(f"{self.api}/customer/databases/{tenant_id}/limits", json.dumps(limits).encode(), method="PUT",
                                         headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def direct(self, login):
        """The same database without the proxy, as the platform logs in."""
        return {"address": f"{self.socket_dir()}/.s.PGSQL.5432", "user": "tenantry", "password": self.superuser_password(),
                "database": self.database_of(login["user"].split(".")[0])}

    def targets(self, logins):
        path = tempfile.mktemp(prefix="targets-", dir=self.path)
        with open(path, "w") as file:
            file.writelines(json.dumps(login) + "\n" for login in logins)
        return path

    def kill_all(self):
        """kill -9 of tenantry, the postmaster and every child of it, as when the machine loses power."""
        postmaster = self.postmaster()
        pids = [self.pid, postmaster, *children(postmaster)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_for("their end", lambda: not any(running(pid) for pid in pids), END_MAX_S)

    def tail(self):
        with contextlib.suppress(OSError):
            return "".join(open(f"{self.path}/log", errors="replace").readlines()[-30:])
        return ""

    def __exit__(self, *_):
        if self.process:
            if self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(END_MAX_S)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
            postmaster = self.postmaster()
            if postmaster:
                os.kill(postmaster, signal.SIGQUIT)
                with contextlib.suppress(TimeoutError):
                    wait_for("PostgreSQL's end", lambda: not running(postmaster), 20)
            if os.path.exists(f"{self.data}/postgres.base"):
                remove(self.base())
        super().__exit__()


def begin_load(*arguments, ahead=False):
    """Starts the load generator; `ahead`: it gets a core before others who want one."""
    nice = {"preexec_fn": lambda: os.nice(-10)} if ahead and os.geteuid() == 0 else {}
    return subprocess.Popen([load(), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **nice)


def end_load(process):
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"load: {err}")
    return json.loads(out.splitlines()[-1])


def run_load(*arguments):
    return end_load(begin_load(*arguments))


def option(name, default):
    """The number behind `--name`."""
    return type(default)(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def pooled(logins, mode):
    """The same logins, with this pool mode."""
    return [{**login, "options": f"-c tenantry.pool_mode={mode}"} for login in logins]


def environment(login, tls=False):
    """For psql and pgbench."""
    host, port = os.path.split(login["address"]) if login["address"].startswith("/") else login["address"].rsplit(":", 1)
    return {**os.environ, "PGHOST": host, "PGPORT": port.rsplit(".", 1)[-1], "PGUSER": login["user"],
            "PGDATABASE": login["database"], "PGPASSWORD": login["password"], "PGSSLMODE": "require" if tls else "disable",
            "PGOPTIONS": login.get("options", "")}


# --- PgBouncer -------------------------------------------------------------------------------

class PgBouncer(Scratch):
    """PgBouncer on the same server and the same databases, with the same certificate.

    Clients log in by SCRAM against a stored verifier, as ours do; it logs in to the server as the platform's role by
    the server's unix socket, as we do by ours.
    """

    def __init__(self, stack, tenant_ids, pool_mode="session", pool_size=80):
        self.stack, self.pool_mode, self.pool_size = stack, pool_mode, pool_size
        self.databases = {f"t{i}": stack.database_of(tenant) for i, tenant in enumerate(tenant_ids)}
        self.process = None
        self.password = base64.b64encode(os.urandom(18)).decode()

    def __enter__(self):
        super().__enter__()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        self.port = free_port()
        for name in ("crt", "key"):
            shutil.copy(f"{self.stack.data}/tls/server.{name}", f"{self.path}/server.{name}")
        server = f"host={self.stack.socket_dir()} port=5432 user=tenantry"
        databases = "\n".join(f"{name} = {server} dbname={database}" for name, database in self.databases.items())
        with open(f"{self.path}/users.txt", "w") as file:
            file.write(f'"bench" "{scram_verifier(self.password)}"\n"tenantry" "{self.stack.superuser_password()}"\n')
        with open(f"{self.path}/pgbouncer.ini", "w") as file:
            file.write(f"""[databases]
{databases}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {self.path}/users.txt
pool_mode = {self.pool_mode}
default_pool_size = {self.pool_size}
max_client_conn = 5000
max_prepared_statements = 200
server_round_robin = 0
server_idle_timeout = 20
log_connections = 0
log_disconnections = 0
log_stats = 0
client_tls_sslmode = allow
client_tls_key_file = {self.path}/server.key
client_tls_cert_file = {self.path}/server.crt
client_tls_protocols = secure
ignore_startup_parameters = extra_float_digits
pidfile = {self.path}/pid
""")
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.path, user.pw_uid, user.pw_gid)
            for name in os.listdir(self.path):
                os.chown(f"{self.path}/{name}", user.pw_uid, user.pw_gid)
        for name in ("server.key", "users.txt", "pgbouncer.ini"):
            os.chmod(f"{self.path}/{name}", 0o600)
        log = open(f"{self.path}/log", "ab")
        self.process = subprocess.Popen([pgbouncer(), "-q", f"{self.path}/pgbouncer.ini"], stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log, start_new_session=True, **as_postgres())

        def answers():
            if self.process.poll() is not None:
                raise RuntimeError(f"PgBouncer ended:\n{open(f'{self.path}/log').read()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        wait_for("PgBouncer", answers, 20)

    @property
    def pid(self):
        return self.process.pid

    def logins(self):
        return [{"address": f"127.0.0.1:{self.port}", "user": "bench", "database": name, "password": self.password}
                for name in self.databases]

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        super().__exit__()


def scram_verifier(password, iterations=4096):
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def main(title, run):
    """Runs a program so that Ctrl-C and SIGTERM end what it started, too."""
    def stop(number, _frame):
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    atexit.register(sys.stdout.flush)
    machine(title)
    run()
