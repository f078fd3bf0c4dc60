"""A throw-away node whose one tenant may do everything, as PostgreSQL's regression suite needs it.

Owns: the running product, the tenant, its superuser rights, the state that every run begins in, and how psql gets
in: straight at the server with exactly what the proxy says there, or through the proxy. Does not own: what is run.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "isolation"))

import product  # noqa: E402

# What the suite's own server has; the product's settings would change plans.
OPERATOR_CONF = """\
fsync = off
full_page_writes = off
temp_file_limit = -1
work_mem = '4MB'
maintenance_work_mem = '64MB'
max_parallel_workers_per_gather = 2
shared_buffers = '128MB'
effective_cache_size = '4GB'
lc_monetary = 'C'
lc_numeric = 'C'
lc_time = 'C'
"""

# PostgreSQL's own program for running the suite (`pg_regress`) says this to every session.
LOCAL = {"PGTZ": "America/Los_Angeles", "PGDATESTYLE": "Postgres, MDY", "LC_MESSAGES": "C"}
OPTIONS = "-c intervalstyle=postgres_verbose"
# The same: nothing of the machine's language gets into results.
UNSET = re.compile(r"^(LC_|LANG|PG(?!_))")


class Node(product.Product):
    operator_conf = OPERATOR_CONF

    def start(self):
        super().start()
        self.register()
        self.one = self.tenant("regress")
        self._all_powerful()
        with self.platform() as c:
            self.before = self._shared(c)
        return self

    def _all_powerful(self):
        """The login and its group become superusers, and stay so."""
        with self.platform() as c:
            # The product takes that away within seconds; for this it needs a view in the database it does it from. (A
            # lock in its way would also be in the way of tests that lock catalogs all databases share.)
            c.query("SET allow_system_table_mods = on")
            c.query("ALTER VIEW pg_catalog.pg_roles RENAME TO pg_roles_of_before")
            for role in ("tenantry_admin", f"{self.one.database}_admin"):
                c.query(f"ALTER ROLE {role} SUPERUSER")

    # --------------------------------------------------------------------------------- the same beginning

    def fresh(self):
        """As `pg_regress` makes its database. What an earlier run left on the server is gone."""
        name = self.one.database
        with self.platform() as c:
            if c.query("SELECT FROM pg_subscription"):
                self._unsubscribe()
            c.query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            for _, sql in sorted(self._shared(c) - self.before):
                c.query(sql)
            c.query(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
            left = self._shared(c) - self.before
        if left:
            raise RuntimeError(f"still there: {left}")

    def _unsubscribe(self):
        """A test that was ended may have left a subscription, with which no database can be dropped."""
        with self.platform(self.one.database) as c:
            for (name,) in c.query("SELECT quote_ident(subname) FROM pg_subscription"):
                for what in ("DISABLE", "SET (slot_name = NONE)"):
                    c.query(f"ALTER SUBSCRIPTION {name} {what}")
                c.query(f"DROP SUBSCRIPTION {name}")

    @staticmethod
    def _shared(c):
        """What would drop the objects that lie outside the database, in this order."""
        rows = c.query("""
            SELECT 1, format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database
            UNION SELECT 2, format('DROP TABLESPACE %I', spcname) FROM pg_tablespace
            UNION SELECT 3, format('REVOKE ALL ON PARAMETER %s FROM %s', parname, grantee::regrole)
              FROM pg_parameter_acl, aclexplode(paracl)
            UNION SELECT 4, format('SELECT pg_replication_origin_drop(%L)', roname) FROM pg_replication_origin
            UNION SELECT 5, format('SELECT pg_drop_replication_slot(%L)', slot_name) FROM pg_replication_slots
            UNION SELECT 6, format('DROP ROLE %I', rolname) FROM pg_authid""")
        return {(int(rank), sql) for rank, sql in rows}

    # ------------------------------------------------------------------------------------------- ways in

    def environment(self):
        kept = {name: value for name, value in os.environ.items() if not UNSET.match(name)}
        # No file of a user's has a say.
        return {**kept, **LOCAL, "HOME": str(self.dir), "PSQLRC": os.devnull}

    def straight(self):
        """psql at the server itself, with the startup packet that the proxy sends."""
        with self.proxied(self.one, "admin") as c:
            said = c.query("SELECT name, setting FROM pg_settings WHERE source = 'client' AND name <> 'application_name'"
                           " UNION SELECT 'role', current_setting('role')")
        words = ["-c " + re.sub(r"([\s\\])", r"\\\1", f"{name}={value}") for name, value in said]
        return {**self.environment(), "PGHOST": os.path.dirname(self.path), "PGPORT": "5432",
                "PGUSER": f"{self.one.database}_admin", "PGPASSWORD": self.one.passwords["admin"],
                "PGDATABASE": self.one.database, "PGOPTIONS": " ".join([*words, OPTIONS])}

    def through(self, mode, servers):
        """psql at the proxy, as a customer who has so many server connections."""
        limits = f"/customer/databases/{self.one.id}/limits"
        self.call("PATCH", limits, {"server_connections_max": servers}, token=self.operator)
        host, port = self.address
        options = f"{OPTIONS} -c tenantry.pool_mode={mode}"
        return {**self.environment(), "PGHOST": host, "PGPORT": str(port), "PGUSER": f"{self.one.id}.admin",
                "PGPASSWORD": self.one.secrets["admin"], "PGDATABASE": "postgres", "PGSSLMODE": "require",
                "PGOPTIONS": options}
