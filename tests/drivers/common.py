"""What the drivers written in Python share: where to connect, and how a step is told.

See tests/drivers/README.md.
"""

import hashlib
import os
import threading

ADDRESS = {
    "host": os.environ["PGHOST_"],
    "port": int(os.environ["PGPORT_"]),
    "user": os.environ["PGUSER_"],
    "password": os.environ["PGPASSWORD_"],
    "dbname": "postgres",
}
VERIFY = {"sslmode": "verify-full", "sslrootcert": os.environ["ROOT_CERT"]}

# 64 MiB; the server is asked for its hash, so that a value which comes back as it was sent was also stored so.
BIG = "0123456789abcdef" * (4 << 20)
BIG_SHA256 = hashlib.sha256(BIG.encode()).hexdigest()

# Ends the connection it runs on, from inside. As oneself: a session's rights are those of a group,
# and the group may not end the login's connections.
END_MYSELF = ("set role none", "select pg_terminate_backend(pg_backend_pid())")


def ok(step):
    print("ok", step, flush=True)


def rows_of(count):
    """Rows with quotes, backslashes, NULs' neighbours and non-ASCII text, the same in every driver."""
    return [(i, f"row {i} ü \\ \" ' {i * 7919 % 1000}") for i in range(count)]


def checksum(rows):
    return hashlib.md5("".join(f"{i}:{v}\n" for i, v in rows).encode()).hexdigest()


# The same sum, made by the server over (id, v).
SERVER_CHECKSUM = "select md5(coalesce(string_agg(id || ':' || v || E'\\n', '' order by id), '')) from {}"


class Cancelling:
    """Calls `cancel` again and again until left: the first may come before the statement does."""

    def __init__(self, cancel):
        self._cancel = cancel
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self._over.wait(0.2):
            self._cancel()

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._over.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "a cancel request hangs"


class Raises:
    """`with Raises(kind, sqlstate)`: exactly this comes out of the block."""

    def __init__(self, kind, code=None, read=lambda error: getattr(error, "sqlstate", None) or error.pgcode):
        self.kind, self.code, self.read = kind, code, read

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        assert error is not None, f"no {self.kind.__name__} came"
        if not isinstance(error, self.kind):
            return False
        if self.code is not None:
            assert self.read(error) == self.code, (self.read(error), self.code, error)
        self.error = error
        return True
