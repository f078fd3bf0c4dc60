"""asyncpg: its own protocol code, binary everywhere, prepared statements by default.

See tests/drivers/README.md.
"""

import asyncio
import io
import os
import ssl
import uuid
from datetime import datetime, timezone
from decimal import Decimal

import asyncpg

ADDRESS = {
    "host": os.environ["PGHOST_"],
    "port": int(os.environ["PGPORT_"]),
    "user": os.environ["PGUSER_"],
    "password": os.environ["PGPASSWORD_"],
    "database": "postgres",
    "timeout": 20,
}
VERIFY = ssl.create_default_context(cafile=os.environ["ROOT_CERT"])


if options := os.environ.get("PGOPTIONS"):
    ADDRESS["server_settings"] = {"options": options}


async def connect(**more):
    return await asyncpg.connect(**{**ADDRESS, "ssl": "require", **more})


async def ways_in():
    for name, way in {
        "require": {},
        "verify-full": {"ssl": VERIFY},
        "direct-tls": {"ssl": VERIFY, "direct_tls": True},
    }.items():
        if name == "direct-tls":
            # asyncpg sends no ALPN of its own; PostgreSQL asks for it.
            context = ssl.create_default_context(cafile=os.environ["ROOT_CERT"])
            context.set_alpn_protocols(["postgresql"])
            way = {"ssl": context, "direct_tls": True}
        c = await connect(**way)
        assert await c.fetchval("select 42") == 42
        await c.close()
        print("ok", name)


async def types(c):
    for kind, value in [
        ("int8", 2**62), ("float8", 1.5), ("numeric", Decimal("1.000001")), ("text", "naïve € 🐘"),
        ("bytea", b"\x00\xff"), ("bool", True), ("int4", None), ("int4[]", [1, None, 3]),
        ("uuid", uuid.uuid4()), ("timestamptz", datetime.now(timezone.utc)), ("jsonb", '{"a": 1}'),
    ]:
        got = await c.fetchval(f"select $1::{kind}", value)
        assert got == value, (kind, got, value)
    await c.execute("create type asyncpg_mood as enum ('sad', 'ok')")
    # Makes asyncpg look types up in the catalog.
    assert await c.fetchval("select 'ok'::asyncpg_mood") == "ok"
    assert await c.fetchval("select array['ok', 'sad']::asyncpg_mood[]") == ["ok", "sad"]
    print("ok types")


async def prepared(c):
    statement = await c.prepare("select $1::int * 2")
    for i in range(200):
        assert await statement.fetchval(i) == i * 2
    print("ok prepared")


async def transaction(c):
    await c.execute("create table asyncpg_t (id int primary key, v text)")
    try:
        async with c.transaction():
            await c.execute("insert into asyncpg_t values (1, 'lost')")
            raise KeyError
    except KeyError:
        pass
    async with c.transaction():
        await c.executemany("insert into asyncpg_t values ($1, $2)", [(i, str(i)) for i in range(500)])
        cursor = await c.cursor("select id from asyncpg_t order by id")
        assert [row[0] for row in await cursor.fetch(10)] == list(range(10))
    assert await c.fetchval("select count(*) from asyncpg_t") == 500
    print("ok batch")
    print("ok transaction")


async def errors(c):
    for statement, error in [
        ("select * from nowhere", asyncpg.UndefinedTableError),
        ("insert into asyncpg_t values (1, 'twice')", asyncpg.UniqueViolationError),
        ("selekt", asyncpg.PostgresSyntaxError),
    ]:
        try:
            await c.execute(statement)
        except error:
            pass
        else:
            raise AssertionError(statement)
        assert await c.fetchval("select 1") == 1
    print("ok errors")


async def cancel(c):
    # A time limit of the client: asyncpg sends a cancel and goes on with the same connection.
    try:
        await c.execute("select pg_sleep(60)", timeout=0.5)
    except (asyncio.TimeoutError, asyncpg.QueryCanceledError):
        pass
    else:
        raise AssertionError("not cancelled")
    assert await c.fetchval("select 5", timeout=20) == 5
    print("ok cancel")


async def copy(c):
    rows = [(i, f"row {i}") for i in range(100_000)]
    await c.execute("create table asyncpg_copy (id int, v text)")
    await c.copy_records_to_table("asyncpg_copy", records=rows)
    out = io.BytesIO()
    await c.copy_from_query("select * from asyncpg_copy order by id", output=out)
    assert out.getvalue() == "".join(f"{i}\t{v}\n" for i, v in rows).encode()
    print("ok copy")


async def big_value(c):
    big = "0123456789abcdef" * (4 << 20)
    assert await c.fetchval("select $1::text", big) == big
    print("ok big-value")


async def notify(c):
    got = asyncio.get_running_loop().create_future()
    await c.add_listener("asyncpg_c", lambda *event: got.set_result(event[3]))
    other = await connect()
    await other.execute("select pg_notify('asyncpg_c', 'hello')")
    assert await asyncio.wait_for(got, 20) == "hello"
    await other.close()
    print("ok notify")


async def pool():
    async with asyncpg.create_pool(**{**ADDRESS, "ssl": VERIFY}, min_size=2, max_size=4) as pool:
        async def one(i):
            async with pool.acquire() as c:
                return await c.fetchval("select $1::int", i)
        assert await asyncio.gather(*(one(i) for i in range(100))) == list(range(100))
        print("ok pool")
        async with pool.acquire() as c:
            await c.execute("set role none")
            try:
                await c.execute("select pg_terminate_backend(pg_backend_pid())")
            except (asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError) as error:
                assert "terminating connection due to administrator command" in str(error), error
            else:
                raise AssertionError("not ended")
        assert await asyncio.gather(*(one(i) for i in range(100))) == list(range(100))
        print("ok reconnect")


async def wrong_password():
    try:
        await connect(password="wrong")
    except asyncpg.InvalidPasswordError:
        print("ok wrong-password")
    else:
        raise AssertionError("let in")


async def main():
    await ways_in()
    c = await connect(ssl=VERIFY)
    for part in (types, prepared, transaction, errors, cancel, copy, big_value, notify):
        await part(c)
    await c.execute("drop table asyncpg_t; drop table asyncpg_copy; drop type asyncpg_mood")
    await c.close()
    await pool()
    await wrong_password()
    print("all asyncpg", asyncpg.__version__)


asyncio.run(main())
