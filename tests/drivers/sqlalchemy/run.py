"""SQLAlchemy 2 over psycopg2, psycopg 3 and asyncpg: engine, pool, ORM, reflection, streaming.

See tests/drivers/README.md.
"""

import asyncio
import enum
import hashlib
import os
import ssl
import sys
import uuid
from datetime import datetime, timezone
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

import common
from common import ADDRESS, BIG, BIG_SHA256, VERIFY, Cancelling, Raises, ok


class Base(DeclarativeBase):
    pass


class Mood(enum.Enum):
    sad = "sad"
    happy = "happy"


class Author(Base):
    __tablename__ = "sa_author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    mood: Mapped[Mood] = mapped_column(sa.Enum(Mood, name="sa_mood"))
    key: Mapped[uuid.UUID] = mapped_column(default=uuid.uuid4)
    wealth: Mapped[Decimal] = mapped_column(sa.Numeric(12, 2))
    born: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))
    tags: Mapped[list] = mapped_column(pg.ARRAY(sa.Text))
    facts: Mapped[dict] = mapped_column(pg.JSONB)
    photo: Mapped[bytes | None]
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "sa_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("sa_author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


def url(driver, **more):
    return sa.URL.create(
        f"postgresql+{driver}", username=ADDRESS["user"], password=more.pop("password", ADDRESS["password"]),
        host=ADDRESS["host"], port=ADDRESS["port"], database=ADDRESS["dbname"],
    )


def engine_of(driver, **more):
    return sa.create_engine(url(driver), connect_args={**VERIFY, "connect_timeout": 20}, **more)


def code(error):
    raw = error.orig
    return getattr(raw, "sqlstate", None) or raw.pgcode


def author(**more):
    return Author(**{
        "name": "Ünal \\ 'quoted'", "mood": Mood.happy, "wealth": Decimal("12345.67"),
        "born": datetime(1969, 7, 20, 20, 17, 40, 123456, timezone.utc), "tags": ["a", "b,}", "ü"],
        "facts": {"deep": [1, {"x": None}]}, "photo": b"\x00\xff", **more,
    })


def types(engine):
    with Session(engine) as session:
        given = author(books=[Book(title=f"volume {i}") for i in range(3)])
        session.add(given)
        session.commit()
        wanted = {c.key: getattr(given, c.key) for c in sa.inspect(Author).columns}
        number = given.id
    with Session(engine) as session:
        got = session.get(Author, number, options=[selectinload(Author.books)])
        assert {c.key: getattr(got, c.key) for c in sa.inspect(Author).columns} == wanted
        assert [b.title for b in got.books] == ["volume 0", "volume 1", "volume 2"]
        found = session.scalars(sa.select(Author).where(Author.tags.contains(["ü"]), Author.facts["deep"][0].as_integer() == 1))
        assert found.one() is got
    # Reads the catalog with large prepared queries.
    there = sa.inspect(engine)
    assert {"sa_author", "sa_book"} <= set(there.get_table_names())
    columns = {c["name"]: c["type"] for c in there.get_columns("sa_author")}
    assert isinstance(columns["facts"], pg.JSONB) and columns["mood"].enums == ["sad", "happy"]
    assert there.get_foreign_keys("sa_book")[0]["referred_table"] == "sa_author"
    return number


def prepared_and_batch(engine):
    with engine.begin() as c:
        doubled = sa.text("select cast(:n as int) * 2")
        # Often enough for psycopg 3 to prepare it by itself.
        assert [c.scalar(doubled, {"n": n}) for n in range(30)] == [n * 2 for n in range(30)]
        rows = common.rows_of(3000)
        table = sa.Table("sa_batch", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("v", sa.Text))
        table.create(c)
        returned = c.execute(sa.insert(table).returning(table.c.id, sort_by_parameter_order=True),
                             [{"id": i, "v": v} for i, v in rows])
        assert [row.id for row in returned] == list(range(3000))
        assert c.exec_driver_sql(common.SERVER_CHECKSUM.format("sa_batch")).scalar() == common.checksum(rows)
        streamed = c.execute(sa.select(table).order_by(table.c.id), execution_options={"yield_per": 100})
        assert [tuple(row) for row in streamed] == rows
        table.drop(c)


def transaction(engine, number):
    with engine.connect() as c:
        with c.begin() as outer:
            c.execute(sa.update(Author).values(name="changed"))
            with Raises(exc.IntegrityError, "23503", code):
                with c.begin_nested():
                    c.execute(sa.insert(Book).values(title="orphan", author_id=-1))
            with c.begin_nested() as point:
                c.execute(sa.delete(Book))
                point.rollback()
            assert c.scalar(sa.select(sa.func.count()).select_from(Book)) == 3
            outer.rollback()
        assert c.scalar(sa.select(Author.name).where(Author.id == number)) == "Ünal \\ 'quoted'"
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as c:
        assert c.exec_driver_sql("show transaction_isolation").scalar() == "serializable"
    with engine.connect() as c:
        # Whoever gets the connection next does not inherit it.
        assert c.exec_driver_sql("show transaction_isolation").scalar() == "read committed"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        c.execute(sa.update(Author).values(wealth=Decimal("1.00")))
    with Session(engine) as session:
        assert session.get(Author, number, with_for_update=True).wealth == Decimal("1.00")


def errors(engine):
    with engine.connect() as c:
        for statement, kind, state in [
            ("select * from nowhere", exc.ProgrammingError, "42P01"),
            ("select 1/0", exc.DataError, "22012"),
            ("selekt", exc.ProgrammingError, "42601"),
            ("insert into sa_book (title, author_id) values ('x', null)", exc.IntegrityError, "23502"),
        ]:
            with Raises(kind, state, code):
                c.exec_driver_sql(statement)
            with Raises(exc.DBAPIError, "25P02", code):
                c.exec_driver_sql("select 1")
            c.rollback()
        assert c.exec_driver_sql("select 1").scalar() == 1


def cancel(engine):
    with engine.connect() as c:
        raw = c.connection.driver_connection
        with Cancelling(raw.cancel), Raises(exc.OperationalError, "57014", code):
            c.exec_driver_sql("select pg_sleep(60)")
        c.rollback()
        assert c.exec_driver_sql("select 5").scalar() == 5


def big_value(engine):
    with engine.connect() as c:
        row = c.execute(sa.text("select encode(sha256(v::bytea), 'hex'), v from (select cast(:v as text)) x(v)"), {"v": BIG}).one()
        assert row[0] == BIG_SHA256 and row[1] == BIG


def reconnect(driver):
    engine = engine_of(driver, pool_size=2, max_overflow=0, pool_pre_ping=True)
    ended = sa.text(common.END_MYSELF[1])
    with engine.connect() as c:
        with Raises(exc.OperationalError) as raised, c.begin():
            c.exec_driver_sql("set local role none")
            c.execute(ended)
        assert raised.error.connection_invalidated
    with engine.connect() as c:
        assert c.scalar(sa.select(sa.func.count()).select_from(Book)) == 3
    # Ended while it lay in the pool: the ping notices, and nobody else does.
    with engine.connect() as c:
        raw = c.connection.driver_connection
    raw.close()
    with engine.connect() as c:
        assert c.exec_driver_sql("select 9").scalar() == 9
    engine.dispose()


def wrong_password(driver):
    engine = sa.create_engine(url(driver, password="wrong"), connect_args=VERIFY)
    with Raises(exc.OperationalError) as refused:
        engine.connect()
    assert "authentication failed" in str(refused.error)


def run(driver):
    engine = engine_of(driver, pool_size=3)
    with engine.connect() as c:
        assert c.exec_driver_sql("select 40 + 2").scalar() == 42
        ok(f"{driver} verify-full")
    Base.metadata.create_all(engine)
    number = types(engine)
    ok(f"{driver} types")
    prepared_and_batch(engine)
    ok(f"{driver} prepared")
    ok(f"{driver} batch")
    transaction(engine, number)
    ok(f"{driver} transaction")
    errors(engine)
    ok(f"{driver} errors")
    cancel(engine)
    ok(f"{driver} cancel")
    big_value(engine)
    ok(f"{driver} big-value")
    reconnect(driver)
    ok(f"{driver} reconnect")
    Base.metadata.drop_all(engine)
    assert "sa_author" not in sa.inspect(engine).get_table_names()
    engine.dispose()


async def run_async():
    """asyncpg prepares everything under names of its own, and looks types up by prepared queries."""
    arguments = {"ssl": ssl.create_default_context(cafile=VERIFY["sslrootcert"]), "timeout": 20}
    if options := os.environ.get("PGOPTIONS"):
        arguments["server_settings"] = {"options": options}
    engine = create_async_engine(url("asyncpg"), connect_args=arguments, pool_size=3)
    async with engine.begin() as c:
        await c.run_sync(Base.metadata.create_all)
    ok("asyncpg verify-full")
    async with AsyncSession(engine, expire_on_commit=False) as session:
        given = author(books=[Book(title="one")])
        session.add(given)
        await session.commit()
    async with AsyncSession(engine) as session:
        got = await session.get(Author, given.id, options=[selectinload(Author.books)])
        for column in sa.inspect(Author).columns:
            assert getattr(got, column.key) == getattr(given, column.key), column
    ok("asyncpg types")

    async def one(n):
        async with engine.connect() as c:
            return await c.scalar(sa.text("select cast(:n as int) + 1"), {"n": n})

    assert await asyncio.gather(*(one(n) for n in range(60))) == list(range(1, 61))
    ok("asyncpg prepared")
    async with engine.connect() as c:
        rows = await c.stream(sa.text("select n from generate_series(1, 500) n"))
        assert [row.n async for row in rows] == list(range(1, 501))
        await c.rollback()
        with Raises(exc.IntegrityError, "23505", code):
            await c.execute(sa.insert(Author).values(
                name=given.name, mood=Mood.sad, wealth=1, born=given.born, tags=[], facts={}))
        await c.rollback()
        ok("asyncpg errors")
        # Of a statement that the task waiting for it gave up.
        raw = (await c.get_raw_connection()).driver_connection
        with Raises(asyncio.TimeoutError):
            await raw.execute("select pg_sleep(60)", timeout=0.5)
        assert await raw.fetchval("select 5", timeout=20) == 5
        ok("asyncpg cancel")
        await c.rollback()
        row = (await c.execute(sa.text("select encode(sha256(v::bytea), 'hex'), v from (select cast(:v as text)) x(v)"), {"v": BIG})).one()
        assert hashlib.sha256(row[1].encode()).hexdigest() == row[0] == BIG_SHA256
        ok("asyncpg big-value")
    async with engine.begin() as c:
        await c.run_sync(Base.metadata.drop_all)
    await engine.dispose()


if __name__ == "__main__":
    for name in ("psycopg2", "psycopg"):
        run(name)
    asyncio.run(run_async())
    wrong_password("psycopg")
    ok("wrong-password")
    print("all SQLAlchemy", sa.__version__, "over psycopg2, psycopg, asyncpg")
