"""The product as the suite meets it: a running `tenantry serve`, with tenants made through its API.

Owns: starting and stopping it, tenants and their passwords, logging in through the proxy over TLS and straight at
its PostgreSQL with the password that is derived from the key of the node (`crates/node/src/key.rs`).
Does not own: what is attacked, or how it is judged.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from server import Connection, Server, Tenant, dial

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("admin", "write", "read")
EPOCH = 1
START_MAX_S = 120

# The product's own walls, with the platform's line as it is there.
HBA_PLATFORM = "local all tenantry scram-sha-256\n"

# For the disk of a test machine; the rest is what an operator gets.
# Lines three and on make quick what would take gigabytes, and let a mechanism show why a library matters.
OPERATOR_CONF = """\
fsync = off
full_page_writes = off
temp_file_limit = '20MB'
shared_preload_libraries = 'pg_stat_statements'
"""


# Fewer than an operator gets, so that the suite reaches the end; more than one tenant may have.
CLIENTS_MAX = 600


class ApiError(Exception):
    pass


def binary():
    given = os.environ.get("TENANTRY_BIN")
    if given:
        return given
    subprocess.run(["cargo", "build", "--quiet", "--package", "cli"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return str(target / "debug" / "tenantry")


def derive(key, purpose, login):
    return hmac.digest(key, purpose + b"\0" + login.encode() + b"\0" + struct.pack("!I", EPOCH), "sha256")


def derived_verifier(key, login):
    """As the product writes it: the salt is derived too."""
    password, salt = derive(key, b"password", login).hex(), derive(key, b"salt", login)[:16]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 4096)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    parts = [base64.b64encode(part).decode() for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))]
    return f"SCRAM-SHA-256$4096:{parts[0]}${parts[1]}:{parts[2]}"


class Product(Server):
    """Stands where the hand-built server stands."""

    user = "tenantry"
    # For another suite on this product. Those who guess and those who are guessed at come from one address here, so
    # that a ban would keep out the victim, and end the attack that is to be shown harmless without it.
    operator_conf = OPERATOR_CONF
    arguments = ("--clients-max", str(CLIENTS_MAX), "--address-failures-max", "0")

    def __init__(self, bin_dir):
        self.bin, self.weaken, self.held = Path(bin_dir), set(), {}
        self.dir = Path(tempfile.mkdtemp(prefix="tenantry-isolation-"))
        os.chmod(self.dir, 0o755)  # PostgreSQL may run as another user.
        self.home = self.dir / "data"
        self.process = None

    # ------------------------------------------------------------------------------------- the process

    def start(self):
        version = subprocess.run([self.program("postgres"), "--version"], capture_output=True, text=True, check=True)
        self.major = int(re.search(r"\) (\d+)", version.stdout).group(1))
        conf = self.home / "postgres" / "conf"
        os.makedirs(conf, mode=0o711)
        (conf / "operator.conf").write_text(
            self.operator_conf + ("max_notify_queue_pages = 65536\n" if self.major >= 17 else ""))
        for path in (self.home, self.home / "postgres", conf, conf / "operator.conf"):
            os.chmod(path, 0o755)
        self.out, self.log = open(self.dir / "out", "wb"), open(self.dir / "log", "wb")
        # No databases made in advance: they would appear while the suite compares what all share.
        self.process = subprocess.Popen(
            [binary(), "serve", "--data-dir", self.home, "--point-in-time", "0s", "--pg-listen", "127.0.0.1:0",
             "--api-listen", "127.0.0.1:0", "--pg-bin", self.bin, "--log", "json", "--warm-pool", "0", "--drain-limit", "1s",
             *self.arguments],
            stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.log)
        deadline = time.monotonic() + START_MAX_S
        while not (line := (self.dir / "out").read_text()).endswith("\n"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.dir / "log").read_text(errors="replace")[-4000:])
            time.sleep(0.02)
        ready = json.loads(line)
        assert int(ready["postgres"].split(".")[0]) == self.major, ready
        host, port = ready["pg"].rsplit(":", 1)
        self.address, self.api = (host, int(port)), ready["api"]
        pointer = self.home / "postgres.base"
        self.base = Path(pointer.read_text().strip()) if pointer.exists() else self.home / "postgres"
        self.data = self.base / "data"
        self.path = str(self.base / "run" / ".s.PGSQL.5432")
        self.password = (self.home / "superuser.password").read_text().strip()
        self.key = bytes.fromhex((self.home / "node.key").read_text().strip())
        self.operator = (self.home / "operator.key").read_text().strip()
        return self

    def stop(self):
        for connection in self.held.values():
            connection.close()
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.out.close()
            self.log.close()
        shutil.rmtree(self.dir)

    def logged(self):
        return (self.dir / "log").read_text(errors="replace")

    def hba(self, text):
        """Only the lines about tenants are changed."""
        file = self.base / "conf" / "pg_hba.conf"
        text = "".join(HBA_PLATFORM if "map=platform" in line else line for line in text.splitlines(True))
        before = file.read_text()
        if text == before:
            return
        file.write_text(text)
        with self.platform() as c:
            mark = c.value("select pg_conf_load_time()")
            c.query("select pg_reload_conf()")
        deadline = time.monotonic() + 10
        while True:
            with self.platform() as c:
                if c.value("select pg_conf_load_time()") != mark:
                    return
            if time.monotonic() > deadline:
                raise RuntimeError("pg_hba.conf was not read again")
            time.sleep(0.02)

    # ------------------------------------------------------------------------------------------- its API

    def register(self):
        """A project for the tenants that are made next."""
        self.token = self.call("POST", "/customer/anonymous-register", {}, token=None)["token"]

    def call(self, method, path, body=None, token=""):
        token = self.token if token == "" else token
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ApiError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error

    def findings(self):
        """What `tenantry doctor --deep` finds, as sorted text."""
        report = self.call("GET", "/operator/check", token=self.operator)
        return sorted(f"{one['kind']} {one['subject']}: {one['detail']}" for one in report["findings"])

    # ----------------------------------------------------------------------------------------- tenants

    def tenant(self, name):
        """Made through the API, with a password for each role."""
        made = self.call("POST", "/customer/databases", {"name": name})
        with self.platform("tenantry", options="") as c:
            pid = c.value(f"select pid from tenant where id = '{made['id']}'")
        return self.known(Tenant(pid), made["id"], {"admin": made["admin_password"]})

    def known(self, tenant, identity, secrets=None):
        """Derives the passwords of the server, and asks the API for those of the proxy that are missing."""
        for role in ROLES:
            login = f"{tenant.database}_{role}"
            tenant.passwords[role] = derive(self.key, b"password", login).hex()
            tenant.verifiers[role] = derived_verifier(self.key, login)
        tenant.id, tenant.secrets = identity, dict(secrets or {})
        for role in ROLES:
            if role not in tenant.secrets:
                answer = self.call("POST", f"/customer/databases/{identity}/reset-password", {"role": role})
                tenant.secrets[role] = answer["admin_password"]
        return tenant

    def adopt(self, tenant, like, name):
        """Makes a tenant known to the product whose database was made with the product's SQL: what it does not
        offer yet (branches, blueprints)."""
        pid = tenant.database[2:]
        identity = "i" + pid[:11]
        with self.platform("tenantry", options="") as c:
            c.query(f"""
                INSERT INTO placement (pid, node, owner, stage, due_at, unsettled_since)
                  SELECT '{pid}', p.node, 'tenant', 'open', NULL, NULL FROM placement p JOIN tenant t ON t.pid = p.pid
                  WHERE t.id = '{like.id}';
                INSERT INTO tenant (id, project_id, name, state, pid, activated_at)
                  SELECT '{identity}', project_id, '{name}', 'ACTIVE', '{pid}', now() FROM tenant WHERE id = '{like.id}'""")
        return self.known(tenant, identity)

    def derived(self, tenant):
        """Before its logins are made: the passwords that the product will use."""
        for role in ROLES:
            login = f"{tenant.database}_{role}"
            tenant.passwords[role] = derive(self.key, b"password", login).hex()
            tenant.verifiers[role] = derived_verifier(self.key, login)
        return tenant

    # ------------------------------------------------------------------------------------ connections

    def proxied(self, tenant, role, user=None, password=None, database="postgres", options="", **more):
        """Over TLS with SCRAM, as a customer does."""
        return Connection(self.address, user or f"{tenant.id}.{role}", database,
                          password=tenant.secrets[role] if password is None else password, options=options, **more)

    def raw(self, tls=True, timeout=20):
        """A socket to the proxy on which nothing of PostgreSQL was said."""
        return dial(self.address, timeout, tls)
