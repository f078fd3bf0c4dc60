"""psycopg 3 on its own libpq: direct TLS, protocol 3.2, channel binding, pipeline, COPY.

See tests/drivers/README.md.
"""

import asyncio
import os
import threading
import time
import uuid
from datetime import datetime, timezone
from decimal import Decimal

import psycopg
import psycopg_pool
from psycopg.types.json import Jsonb

ADDRESS = {
    "host": os.environ["PGHOST_"],
    "port": os.environ["PGPORT_"],
    "user": os.environ["PGUSER_"],
    "password": os.environ["PGPASSWORD_"],
    "dbname": "postgres",
    "connect_timeout": 20,
}
ROOT = {"sslmode": "verify-full", "sslrootcert": os.environ["ROOT_CERT"]}


def connect(**more):
    return psycopg.connect(**{**ADDRESS, "sslmode": "require", **more})


def ways_in():
    ways = {
        "require": {},
        "verify-full": ROOT,
        "channel-binding": {"channel_binding": "require"},
        "direct-tls": {"sslnegotiation": "direct"},
        "direct-tls-verify-full": {"sslnegotiation": "direct", **ROOT},
        "protocol-3.2": {"min_protocol_version": "3.2", "max_protocol_version": "3.2"},
        "protocol-3.0": {"max_protocol_version": "3.0"},
        "all-at-once": {
            "sslnegotiation": "direct",
            "channel_binding": "require",
            "max_protocol_version": "latest",
            **ROOT,
        },
    }
    for name, way in ways.items():
        with connect(**way) as c:
            assert c.execute("select 40 + 2").fetchone() == (42,), name
            assert c.pgconn.ssl_in_use, name
        print("ok", name)
    try:
        connect(sslmode="disable")
    except psycopg.OperationalError as error:
        assert any(word in str(error).lower() for word in ("tls", "ssl", "encrypt")), error
    else:
        raise AssertionError("plain text was let in")
    print("ok plain-refused")


def types():
    now = datetime.now(timezone.utc)
    values = [
        1, 2**62, 1.5, Decimal("123456789.000001"), "naïve € 🐘", b"\x00\xff\n", True, None,
        [1, 2, None], uuid.uuid4(), now, "",
    ]
    with connect() as c:
        for binary in (False, True):
            for value in values:
                got = c.execute("select %s", [value], binary=binary).fetchone()[0]
                assert got == value, (got, value, binary)
            got = c.execute("select %s", [Jsonb({"a": [1, "ü"]})], binary=binary).fetchone()[0]
            assert got == {"a": [1, "ü"]}
    print("ok types")


def prepared():
    with connect() as c:
        for i in range(20):
            assert c.execute("select %s::int + 1", [i], prepare=True).fetchone() == (i + 1,)
        assert c.execute("select count(*) from pg_prepared_statements").fetchone()[0] >= 1
        [name] = c._prepared._names.values()
        assert c.execute("select statement from pg_prepared_statements where statement = 'select $1::int + 1'").fetchone()
    with connect() as c:
        # Whoever is served next by the same server connection has none of that name.
        try:
            c.execute(f'execute "{name.decode()}" (1)')
        except psycopg.errors.InvalidSqlStatementName:
            c.rollback()
        else:
            raise AssertionError("somebody else's statement")
    print("ok prepared")


def transaction():
    with connect(autocommit=True) as c:
        c.execute("create table psycopg_t (id int primary key, v text)")
        with c.transaction():
            c.execute("insert into psycopg_t values (1, 'kept')")
            try:
                with c.transaction():
                    c.execute("insert into psycopg_t values (2, 'lost')")
                    raise psycopg.Rollback
            except psycopg.Rollback:
                pass
        assert c.execute("select array_agg(id) from psycopg_t").fetchone() == ([1],)
    print("ok transaction")


def errors():
    with connect() as c:
        for statement, error in [
            ("select * from nowhere", psycopg.errors.UndefinedTable),
            ("insert into psycopg_t values (1, 'twice')", psycopg.errors.UniqueViolation),
            ("select 1/0", psycopg.errors.DivisionByZero),
            ("selekt", psycopg.errors.SyntaxError),
        ]:
            try:
                c.execute(statement)
            except error:
                pass
            else:
                raise AssertionError(statement)
            try:
                c.execute("select 1")
            except psycopg.errors.InFailedSqlTransaction:
                pass
            else:
                raise AssertionError("a failed transaction went on")
            c.rollback()
        assert c.execute("select 1").fetchone() == (1,)
    print("ok errors")


def cancel():
    for way in ({}, {"sslnegotiation": "direct"}, {"max_protocol_version": "3.2"}):
        with connect(**way) as c:
            started = time.monotonic()
            timer = threading.Timer(0.3, c.cancel_safe)
            timer.start()
            try:
                c.execute("select pg_sleep(60)")
            except psycopg.errors.QueryCanceled:
                pass
            else:
                raise AssertionError("not cancelled")
            timer.join()
            assert time.monotonic() - started < 20
            c.rollback()
            assert c.execute("select 5").fetchone() == (5,)
    print("ok cancel")


def pipeline():
    with connect(autocommit=True) as c:
        with c.pipeline() as p:
            results = [c.execute("select %s::int", [i]) for i in range(500)]
            p.sync()
            assert [r.fetchone()[0] for r in results] == list(range(500))
        # An error ends what was sent up to the next sync, and nothing behind it.
        try:
            with c.pipeline():
                c.execute("create temp table before_error (n int)")
                c.execute("select 1/0")
                c.execute("create temp table after_error (n int)")
        except (psycopg.errors.DivisionByZero, psycopg.errors.PipelineAborted):
            pass
        else:
            raise AssertionError("no error came")
        left = "select to_regclass('after_error') is null"
        assert c.execute(left).fetchone() == (True,)
    print("ok pipeline")


def copy():
    rows = 100_000
    with connect() as c:
        c.execute("create table psycopg_copy (id int, v text)")
        with c.cursor().copy("copy psycopg_copy from stdin (format binary)") as out:
            out.set_types(["int4", "text"])
            for i in range(rows):
                out.write_row((i, f"row {i}"))
        with c.cursor().copy("copy (select id, v from psycopg_copy order by id) to stdout") as back:
            back.set_types(["int4", "text"])
            count = 0
            for i, row in enumerate(back.rows()):
                assert row == (i, f"row {i}")
                count += 1
            assert count == rows
        # Broken off by the client: the session goes on.
        try:
            with c.cursor().copy("copy psycopg_copy from stdin") as out:
                out.write_row((1, "x"))
                raise RuntimeError("changed my mind")
        except RuntimeError:
            pass
        c.rollback()
        assert c.execute("select 6").fetchone() == (6,)
    print("ok copy")


def big_value():
    big = "0123456789abcdef" * (4 << 20)
    with connect() as c:
        got = c.execute("select %s::text, length(%s::text)", [big, big]).fetchone()
        assert got == (big, len(big))
    print("ok big-value")


def wrong_password():
    try:
        connect(password="wrong")
    except psycopg.OperationalError as error:
        assert "authentication failed" in str(error), error
    else:
        raise AssertionError("let in")
    print("ok wrong-password")


def notify():
    with connect(autocommit=True) as listener, connect(autocommit=True) as sender:
        listener.execute("listen psycopg_c")
        sender.execute("select pg_notify('psycopg_c', 'hello')")
        for notice in listener.notifies(timeout=20, stop_after=1):
            assert notice.payload == "hello"
            break
        else:
            raise AssertionError("nothing came")
    print("ok notify")


def asynchronous():
    async def all_of_it():
        async with await psycopg.AsyncConnection.connect(**{**ADDRESS, **ROOT}, autocommit=True) as c:
            async with c.pipeline():
                cursors = [await c.execute("select %s::int * 2", [i]) for i in range(300)]
            assert [(await cursor.fetchone())[0] for cursor in cursors] == [i * 2 for i in range(300)]
            # A task that is given up cancels its statement, and the connection goes on.
            sleeping = asyncio.create_task(c.execute("select pg_sleep(60)"))
            await asyncio.sleep(0.3)
            sleeping.cancel()
            try:
                await sleeping
            except (asyncio.CancelledError, psycopg.errors.QueryCanceled):
                pass
            else:
                raise AssertionError("not cancelled")
            assert await (await c.execute("select 5")).fetchone() == (5,)
            async with c.cursor(name="psycopg_named") as named:
                async with c.transaction():
                    await named.execute("select n from generate_series(1, 1000) n")
                    assert [n async for (n,) in named] == list(range(1, 1001))
            async with c.transaction(), c.cursor().copy("copy (select n from generate_series(1, 50000) n) to stdout") as out:
                received = b"".join([bytes(part) async for part in out])
            assert received == b"".join(b"%d\n" % n for n in range(1, 50001))

        async with psycopg_pool.AsyncConnectionPool(
            kwargs={**ADDRESS, **ROOT}, min_size=1, max_size=4, open=False, check=psycopg_pool.AsyncConnectionPool.check_connection,
        ) as pool:
            async def one(n):
                async with pool.connection() as c:
                    return (await (await c.execute("select %s::int + 1", [n])).fetchone())[0]

            assert await asyncio.gather(*(one(n) for n in range(100))) == list(range(1, 101))

    asyncio.run(all_of_it())
    print("ok asynchronous")


def reconnect():
    with psycopg_pool.ConnectionPool(kwargs={**ADDRESS, **ROOT, "autocommit": True}, min_size=1, max_size=2) as pool:
        with pool.connection() as c:
            c.execute("set role none")
            try:
                c.execute("select pg_terminate_backend(pg_backend_pid())")
            except psycopg.errors.AdminShutdown as error:
                assert error.sqlstate == "57P01"
            else:
                raise AssertionError("not ended")
            assert c.closed and c.broken
        for i in range(20):
            with pool.connection() as c:
                assert c.execute("select %s::int, count(*) from psycopg_t", [i]).fetchone() == (i, 1)
    print("ok pool")
    print("ok reconnect")


def console():
    operator = {"user": "operator", "password": os.environ["OPERATOR_KEY"], "dbname": "tenantry"}
    tenant = ADDRESS["user"].split(".")[0]
    with connect() as busy:
        busy.execute("select 1")
        # With a transaction around it, as this driver does unless told otherwise; and without.
        for autocommit in (False, True):
            with connect(**operator, autocommit=autocommit, row_factory=psycopg.rows.dict_row) as c:
                for binary in (False, True):
                    rows = c.execute("SHOW CLIENTS", binary=binary).fetchall()
                    own = [row for row in rows if row["database"] == tenant]
                    assert [row["user"] for row in own] == [ADDRESS["user"]], rows
                    assert own[0]["statements"] >= 1 and own[0]["port"] > 0, own
                    pools = c.execute("SHOW POOLS", binary=binary, prepare=True).fetchall()
                    assert tenant in [row["database"] for row in pools], pools
                c.execute("RELOAD")
                try:
                    c.execute("SELECT 1")
                except psycopg.errors.SyntaxError as error:
                    assert "SHOW" in str(error), error
                else:
                    raise AssertionError("the console is no database")
                c.rollback()
                c.execute("KILL " + tenant)
            try:
                busy.execute("select 1")
            except psycopg.OperationalError as error:
                assert error.sqlstate in ("57P01", None), error
            else:
                raise AssertionError("not ended")
            busy = connect()
            busy.execute("select 1")
        busy.close()
    for who in ({**operator, "password": ADDRESS["password"]}, {"dbname": "tenantry"}):
        try:
            connect(**who)
        except psycopg.OperationalError:
            pass
        else:
            raise AssertionError("the console let in somebody else")
    print("ok console")


if __name__ == "__main__":
    for part in (ways_in, types, prepared, transaction, errors, cancel, pipeline, copy, big_value,
                 notify, asynchronous, reconnect, wrong_password, console):
        part()
    with connect(autocommit=True) as c:
        c.execute("drop table psycopg_t; drop table if exists psycopg_copy")
    print("all psycopg", psycopg.__version__, "libpq", psycopg.pq.version())
