"""A throw-away PostgreSQL server set up like a managed node, and a client that speaks to it.

Owns: initdb, pg_hba, start and stop, running the steps of crates/node/sql, logging in with SCRAM.
Does not own: what is attacked (../isolation.sql, sessions.py) or how it is judged (runner.py).
Python's standard library only, so that a suite about privileges needs nothing but a server.
"""

import base64
import functools
import hashlib
import hmac
import os
import pwd
import re
import secrets
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import time
from pathlib import Path

SQL = Path(__file__).resolve().parents[2] / "crates" / "node" / "sql"
TEMPLATE = "tenantry_template"
CATALOG = "tenantry"

# The order is the wall: the platform by its operating-system user, then members of the role named like
# the database, then nobody. `all` does not match replication connections, so those are refused too.
HBA = """\
local all postgres peer map=platform
local samerole all scram-sha-256
local all all reject
local replication all reject
"""
HBA_OPEN = "local all postgres peer map=platform\nlocal all all scram-sha-256\n"

# Small where exhausting something has to be quick.
CONFIGURATION = """\
listen_addresses = ''
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'
max_connections = 40
superuser_reserved_connections = 5
max_locks_per_transaction = 10
max_prepared_transactions = 0
shared_buffers = 16MB
fsync = off
wal_level = replica
max_wal_senders = 2
max_replication_slots = 2
logging_collector = off
log_min_error_statement = panic
temp_file_limit = 20MB
autovacuum_naptime = 1s
shared_preload_libraries = 'pg_stat_statements'
"""


@functools.lru_cache(1024)
def salted_password(password, salt, rounds):
    return hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), rounds)


def scram_verifier(password):
    """What CREATE ROLE … PASSWORD takes, so that the password itself is never sent."""
    salt, rounds = os.urandom(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    text = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${rounds}:{text[0]}${text[1]}:{text[2]}"


class PgError(Exception):
    def __init__(self, fields):
        super().__init__(f"{fields.get('C')} {fields.get('M')}")
        self.code, self.message, self.fields = fields.get("C"), fields.get("M", ""), fields


# The certificate is the product's own; that it is verified is shown elsewhere.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE


def dial(address, timeout, tls=True, source=None):
    """A socket to a server (a path) or to the proxy (host and port), there encrypted unless said otherwise; from another
    address of this machine if one is named."""
    if isinstance(address, str):
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(timeout)
        plain.connect(address)
        return plain
    plain = socket.create_connection(address, timeout, source and (source, 0))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return plain
    plain.sendall(struct.pack("!ii", 8, 80877103))
    answer = plain.recv(1)
    if answer != b"S":
        plain.close()
        raise PgError({"C": "closed", "M": f"no TLS: {answer!r}"})
    return TLS.wrap_socket(plain)


def startup_packet(parameters, version=196608):
    encoded = [part if isinstance(part, bytes) else part.encode() for pair in parameters.items() for part in pair]
    body = b"".join(part + b"\0" for part in encoded) + b"\0"
    return struct.pack("!ii", len(body) + 8, version) + body


class Connection:
    """One connection, to a server by its socket file or to the proxy by host and port, there with TLS. Simple
    query protocol; everything it ever received is in `seen`."""

    def __init__(self, address, user, database, password=None, options="", parameters=None, timeout=20):
        self.seen, self.notices, self.parameters, self.key = [], [], {}, None
        self.socket = dial(address, timeout)
        self.file = self.socket.makefile("rb")
        startup = {"user": user, "database": database, **(parameters or {})}
        if options:
            startup["options"] = options
        try:
            self.socket.sendall(startup_packet(startup))
            self._login(password)
        except BaseException:
            self.close()
            raise

    def _receive(self):
        try:
            head = self.file.read(5)
        except (ConnectionResetError, ssl.SSLEOFError):
            head = b""
        if len(head) < 5:
            raise PgError({"C": "closed", "M": "server closed the connection"})
        kind, length = head[:1], struct.unpack("!i", head[1:])[0]
        body = self.file.read(length - 4)
        self.seen.append(body)
        if kind == b"E":
            return kind, PgError(self._fields(body))
        return kind, body

    @staticmethod
    def _fields(body):
        return {part[:1].decode(): part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}

    def _send(self, kind, body):
        try:
            self.socket.sendall(kind + struct.pack("!i", len(body) + 4) + body)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            pass  # What the server said before it left is still to be read.

    def _login(self, password):
        first = server_first = nonce = None
        while True:
            kind, body = self._receive()
            if kind == b"E":
                raise body
            if kind == b"Z":
                return
            if kind == b"S":
                name, value = body.split(b"\0")[:2]
                self.parameters[name.decode()] = value.decode()
            elif kind == b"K":
                self.key = body
            if kind != b"R":
                continue
            method = struct.unpack("!i", body[:4])[0]
            if method == 10:
                nonce = secrets.token_urlsafe(18)
                first = f"n=,r={nonce}"
                data = ("n,," + first).encode()
                self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(data)) + data)
            elif method == 11:
                server_first = body[4:].decode()
                fields = dict(part.split("=", 1) for part in server_first.split(","))
                salted = salted_password(password or "", fields["s"], int(fields["i"]))
                key = hmac.digest(salted, b"Client Key", "sha256")
                final = f"c=biws,r={fields['r']}"
                message = f"{first},{server_first},{final}".encode()
                signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
                proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature))).decode()
                self._send(b"p", f"{final},p={proof}".encode())
            elif method not in (0, 12):
                raise PgError({"C": "auth", "M": f"authentication method {method}"})

    def send(self, sql):
        self._send(b"Q", sql.encode() + b"\0")

    def receive(self):
        """Rows (lists of text or None) of the last result; raises the first error after ReadyForQuery."""
        rows, error = [], None
        while True:
            kind, body = self._receive()
            if kind == b"E":
                error = error or body
                if body.fields.get("S") == "FATAL":
                    raise body
            elif kind == b"T":
                rows = []
            elif kind == b"D":
                rows.append(self._row(body))
            elif kind == b"N":
                self.notices.append(self._fields(body))
            elif kind == b"G":  # COPY FROM STDIN: nothing to give
                self._send(b"f", b"no data\0")
            elif kind == b"Z":
                if error:
                    raise error
                return rows

    @staticmethod
    def _row(body):
        count, at, row = struct.unpack("!h", body[:2])[0], 2, []
        for _ in range(count):
            size = struct.unpack("!i", body[at:at + 4])[0]
            at += 4
            row.append(None if size < 0 else body[at:at + size].decode("utf-8", "replace"))
            at += max(size, 0)
        return row

    def query(self, sql):
        self.send(sql)
        return self.receive()

    def value(self, sql):
        rows = self.query(sql)
        return rows[0][0] if rows else None

    def close(self):
        try:
            self.file.close()
            self.socket.close()
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def steps(path):
    """Step name → (database, form, SQL) of one file of crates/node/sql."""
    parts = re.split(r"^-- step: (\w+) \| ([^|\n]+) \| (\w+)\n", path.read_text(), flags=re.M)
    return {name: (where, form, sql) for name, where, form, sql in zip(parts[1::4], parts[2::4], parts[3::4], parts[4::4])}


STEPS = {file: steps(SQL / f"{file}.sql") for file in ("bootstrap", "template", "tenant", "guard")}


class Tenant:
    """One tenant database and its passwords, as the platform knows them."""

    def __init__(self, pid):
        self.database = f"x_{pid}"
        self.passwords = {role: secrets.token_hex(16) for role in ("admin", "write", "read", "deploy", "dump")}
        self.verifiers = {role: scram_verifier(password) for role, password in self.passwords.items()}


# Defences that --weaken leaves out, one at a time: step, pattern, what stands there instead. `hba` is the
# second wall, a file and not a step.
WEAKENINGS = {
    "hba": None,
    "connect": ("tenant", "open", r"^REVOKE ALL ON DATABASE.*$", ""),
    "doors": ("bootstrap", "doors", r"^REVOKE ALL ON DATABASE.*$", ""),
    "inherit": ("tenant", "roles", r"NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION '", "INHERIT '"),
    "inherit16": ("tenant", "roles", "INHERIT FALSE, SET TRUE", "INHERIT TRUE, SET TRUE"),
    "functions": ("template", "functions", r"EXECUTE pg_catalog.format\('REVOKE.*$", "NULL;"),
    "guard": ("guard", "guard", r"^CREATE EVENT TRIGGER.*$", ""),
    "temporary": ("tenant", "open", r"^(GRANT TEMPORARY .* TO tenantry_write)", r"\1, tenantry_read"),
    "execute": ("template", "defaults", r"REVOKE EXECUTE ON ROUTINES FROM PUBLIC", "GRANT EXECUTE ON ROUTINES TO PUBLIC"),
    "attributes": ("tenant", "roles", "NOCREATEROLE", "CREATEROLE"),
}


class Server:
    """One PostgreSQL with the product's SQL and a small configuration; the product itself is in product.py."""

    # The platform's role.
    user = "postgres"

    def __init__(self, bin_dir, weaken=()):
        self.bin, self.weaken = Path(bin_dir), set(weaken)
        self.dir = Path(tempfile.mkdtemp(prefix="tenantry-isolation-"))
        self.data = self.dir / "data"
        self.root = os.geteuid() == 0
        if self.root:
            account = pwd.getpwnam("postgres")
            os.chown(self.dir, account.pw_uid, account.pw_gid)
        self.process = None
        self.path = str(self.dir / ".s.PGSQL.5432")
        self.held = {}

    def _as_server(self, *command):
        return ["runuser", "-u", "postgres", "--", *command] if self.root else list(command)

    def program(self, name):
        return str(self.bin / name)

    def start(self):
        version = subprocess.run([self.program("postgres"), "--version"], capture_output=True, text=True, check=True)
        self.major = int(re.search(r"\) (\d+)", version.stdout).group(1))
        locale = (["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C.UTF-8"] if self.major >= 17
                  else ["--locale=C.UTF-8"])
        subprocess.run(self._as_server(
            self.program("initdb"), "-D", str(self.data), "-U", "postgres", "--data-checksums", "--encoding=UTF8",
            "--auth=scram-sha-256", "--auth-local=peer", "--no-sync", "--no-instructions", *locale),
            check=True, stdout=subprocess.DEVNULL, cwd=self.dir)
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(CONFIGURATION + f"unix_socket_directories = '{self.dir}'\n")
            if self.major >= 17:
                conf.write("max_notify_queue_pages = 64\n")
        user = pwd.getpwuid(os.geteuid()).pw_name
        (self.data / "pg_ident.conf").write_text(f"platform {user} postgres\n")
        self.hba(HBA_OPEN if "hba" in self.weaken else HBA)
        self.log = open(self.dir / "log", "wb")
        self.process = subprocess.Popen(self._as_server(self.program("postgres"), "-D", str(self.data)),
                                        stdout=self.log, stderr=self.log, cwd=self.dir)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.platform().close()
                return self
            except (OSError, PgError):
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError((self.dir / "log").read_text(errors="replace"))
                time.sleep(0.05)

    def hba(self, text):
        (self.data / "pg_hba.conf").write_text(text)
        if self.process:
            with self.platform() as c:
                c.query("select pg_reload_conf()")
                # The postmaster reads the file when the signal reaches it; the view reads the file itself.
                mark = c.value("select pg_conf_load_time()")
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with self.platform() as c:
                    if c.value("select pg_conf_load_time()") != mark:
                        return
                time.sleep(0.02)
            raise RuntimeError("pg_hba.conf was not read again")

    def stop(self):
        for connection in self.held.values():
            connection.close()
        if self.process:
            postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
            os.kill(postmaster, 2)
            self.process.wait(30)
            self.log.close()
        shutil.rmtree(self.dir)

    # Of the platform's role; by hand it is let in by its operating-system user.
    password = None

    def platform(self, database="postgres", options="-c search_path=pg_catalog -c lock_timeout=3s", **more):
        """As maintenance connects: nothing of a tenant's is in its search_path."""
        return Connection(self.path, self.user, database, password=self.password, options=options, **more)

    def login(self, tenant, role, database=None, options=None, user=None, password=None, **more):
        """As the proxy connects: the group, the timeouts and search_path are in the startup packet."""
        group = {"deploy": "tenantry_owner"}.get(role, f"tenantry_{role}")
        if options is None:
            options = "-c statement_timeout=20s -c search_path=\"$user\",public"
            options += "" if role == "dump" else f" -c role={group}"
        return Connection(self.path, user or f"{tenant.database}_{role}", database or tenant.database,
                          password=tenant.passwords[role] if password is None else password, options=options, **more)

    def step(self, file, name, at=None, **values):
        where = STEPS[file][name][0].replace("{template}", TEMPLATE).replace("{database}", values.get("database", ""))
        with self.platform(at or where) as c:
            return self.step_on(c, file, name, **values)

    def step_on(self, connection, file, name, **values):
        """One simple query is one transaction; a single statement stands alone in its step."""
        sql = self._weakened(file, name, STEPS[file][name][2])
        for key, value in values.items():
            sql = sql.replace("{" + key + "}", value)
        return connection.query(sql)

    def _weakened(self, file, name, sql):
        """Takes one defence away, to see that the suite notices. Never used without --weaken."""
        for weak in self.weaken:
            edit = WEAKENINGS[weak]
            if edit and edit[:2] == (file, name):
                sql = re.sub(edit[2], edit[3], sql, flags=re.M)
        return sql

    def bootstrap(self):
        self.step("bootstrap", "groups")
        self.step("bootstrap", "doors")
        with self.platform() as c:
            c.query(f"create database {CATALOG}")
        self.step("bootstrap", "catalog_door", catalog=CATALOG)
        self.step("bootstrap", "template", template=TEMPLATE, locale="")
        self.step("bootstrap", "template_door", template=TEMPLATE)
        for name in STEPS["template"]:
            self.step("template", name, template=TEMPLATE)
        self.step("bootstrap", "seal", template=TEMPLATE)

    def roles(self, tenant):
        self.step("tenant", "roles", database=tenant.database,
                  **{f"{role}_verifier": verifier for role, verifier in tenant.verifiers.items()})

    def create(self, tenant, source=TEMPLATE, blueprint=False, strategy="WAL_LOG"):
        self.roles(tenant)
        self.step("tenant", "database", database=tenant.database, source=source, strategy=strategy)
        if blueprint and source == TEMPLATE:
            for name in STEPS["guard"]:
                self.step("guard", name, database=tenant.database)
        self.step("tenant", "open_blueprint" if blueprint else "open", database=tenant.database)

    def maintenance_login(self, tenant, role):
        self.step("tenant", "visitor_login", database=tenant.database, kind=role, until="infinity",
                  verifier=tenant.verifiers[role])

    def drop(self, tenant):
        name = tenant.database
        self.step("tenant", "close", database=name)
        self.step("tenant", "disconnect", database=name)
        self.step("tenant", "drop", database=name)
        for (database,) in self.step("tenant", "dependents", database=name):
            self.step("tenant", "forget", at=database, database=name)
        self.step("tenant", "drop_roles", database=name)

