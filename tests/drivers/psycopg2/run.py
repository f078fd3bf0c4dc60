"""psycopg2: libpq, simple queries, parameters put in by the client, large objects by function call.

See tests/drivers/README.md.
"""

import io
import os
import select
import sys
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import psycopg2.pool

import common
from common import ADDRESS, BIG, BIG_SHA256, VERIFY, Cancelling, Raises, ok


def connect(**more):
    return psycopg2.connect(**{**ADDRESS, **VERIFY, "connect_timeout": 20, **more})


def one(c, query, values=None):
    with c.cursor() as cursor:
        cursor.execute(query, values)
        return cursor.fetchone()


def ways_in():
    for name, way in {"require": {"sslmode": "require"}, "verify-full": {}}.items():
        c = connect(**way)
        assert one(c, "select 40 + 2") == (42,)
        assert c.info.ssl_in_use and c.info.dbname == "postgres"
        c.close()
        ok(name)
    with Raises(psycopg2.OperationalError) as refused:
        connect(sslmode="disable")
    assert any(word in str(refused.error).lower() for word in ("tls", "ssl", "encrypt")), refused.error
    ok("plain-refused")


def types(c):
    psycopg2.extras.register_uuid()
    for value in [
        1, 2**62, 1.5, Decimal("123456789.000001"), "naïve € 🐘 \\ ' \"", True, None, [1, 2, None], ["a", "ü,}", None],
        uuid.uuid4(), datetime.now(timezone.utc), date(2024, 2, 29), timedelta(days=3, microseconds=5), "",
    ]:
        # A list of NULL and numbers alone would be text.
        got = one(c, "select %s::int[]" if value == [1, 2, None] else "select %s", [value])[0]
        assert got == value, (got, value)
    assert bytes(one(c, "select %s::bytea", [b"\x00\xff\n\\"])[0]) == b"\x00\xff\n\\"
    assert one(c, "select %s::jsonb", [psycopg2.extras.Json({"a": [1, "ü"]})])[0] == {"a": [1, "ü"]}
    numbers = psycopg2.extras.NumericRange(3, 8)
    assert one(c, "select %s::int4range", [numbers])[0] == numbers
    one_row = one(c, "create type psycopg2_pair as (a int, b text); select (1, 'x')::psycopg2_pair")
    assert one_row == ("(1,x)",), one_row
    # Looks the type up in the catalog.
    psycopg2.extras.register_composite("psycopg2_pair", c)
    assert one(c, "select (1, 'x')::psycopg2_pair")[0] == (1, "x")
    c.rollback()
    c.set_client_encoding("LATIN1")
    assert one(c, "select 'naïve', length('ü')") == ("naïve", 1)
    assert one(c, "show client_encoding") == ("LATIN1",)
    c.set_client_encoding("UTF8")
    ok("types")


def prepared(c):
    with c.cursor() as cursor:
        cursor.execute("prepare psycopg2_p (int) as select $1 + 1")
        for i in range(50):
            cursor.execute("execute psycopg2_p (%s)", [i])
            assert cursor.fetchone() == (i + 1,)
        c.commit()
        cursor.execute("execute psycopg2_p (1)")
        assert cursor.fetchone() == (2,)
        cursor.execute("deallocate psycopg2_p")
        c.commit()
        with Raises(psycopg2.errors.InvalidSqlStatementName, "26000"):
            cursor.execute("execute psycopg2_p (1)")
        c.rollback()
    ok("prepared")


def batch(c):
    rows = common.rows_of(5000)
    with c, c.cursor() as cursor:
        cursor.execute("create table psycopg2_batch (id int primary key, v text)")
        psycopg2.extras.execute_values(cursor, "insert into psycopg2_batch values %s", rows, page_size=500)
        psycopg2.extras.execute_batch(cursor, "update psycopg2_batch set v = v || %s where id = %s",
                                      [("!", i) for i in range(200)])
        cursor.execute(common.SERVER_CHECKSUM.format("psycopg2_batch"))
        changed = [(i, v + "!" if i < 200 else v) for i, v in rows]
        assert cursor.fetchone()[0] == common.checksum(changed)
        # Several statements in one message; the last one's rows are what comes.
        cursor.execute("select 1; select 2 from psycopg2_batch limit 3")
        assert cursor.fetchall() == [(2,)] * 3 and cursor.statusmessage == "SELECT 3"
    ok("batch")


def transaction(c):
    with c.cursor() as cursor:
        cursor.execute("create table psycopg2_t (id int primary key, v text)")
        c.commit()
        cursor.execute("insert into psycopg2_t values (1, 'lost')")
        c.rollback()
        cursor.execute("insert into psycopg2_t values (1, 'kept')")
        cursor.execute("savepoint s")
        with Raises(psycopg2.errors.UniqueViolation, "23505"):
            cursor.execute("insert into psycopg2_t values (1, 'twice')")
        assert c.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_INERROR
        cursor.execute("rollback to savepoint s")
        c.commit()
        cursor.execute("select * from psycopg2_t")
        assert cursor.fetchall() == [(1, "kept")]
        c.rollback()
        c.set_session(isolation_level="SERIALIZABLE", readonly=True)
        cursor.execute("select current_setting('transaction_isolation'), current_setting('transaction_read_only')")
        assert cursor.fetchone() == ("serializable", "on")
        with Raises(psycopg2.errors.ReadOnlySqlTransaction, "25006"):
            cursor.execute("insert into psycopg2_t values (2, 'x')")
        c.rollback()
        c.set_session(isolation_level="DEFAULT", readonly="DEFAULT")
        c.autocommit = True
        cursor.execute("insert into psycopg2_t values (2, 'auto')")
        assert c.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        c.autocommit = False
    ok("transaction")


def cursors(c):
    with c.cursor(name="psycopg2_cursor") as named:
        named.itersize = 300
        named.execute("select n from generate_series(1, 1000) n")
        assert [n for n, in named] == list(range(1, 1001))
    c.rollback()
    # Outlives its transaction.
    held = c.cursor(name="psycopg2_held", withhold=True)
    held.execute("select n from generate_series(1, 1000) n")
    assert held.fetchmany(10) == [(n,) for n in range(1, 11)]
    c.commit()
    assert one(c, "select 7") == (7,)
    c.commit()
    assert held.fetchmany(10) == [(n,) for n in range(11, 21)]
    held.close()
    c.commit()
    ok("cursors")


def settings(c):
    with c.cursor() as cursor:
        cursor.execute("set search_path = pg_catalog; set timezone = 'Asia/Tokyo'")
        c.commit()
        for _ in range(5):
            cursor.execute("select current_setting('search_path'), '2024-01-01 00:00+00'::timestamptz::text")
            assert cursor.fetchone() == ("pg_catalog", "2024-01-01 09:00:00+09")
            c.commit()
        cursor.execute("set timezone = 'UTC'")
        c.rollback()
        assert one(c, "show timezone") == ("Asia/Tokyo",)
        c.commit()
        # ABORT; RESET ALL; SET SESSION AUTHORIZATION DEFAULT
        c.reset()
        assert one(c, "show timezone") != ("Asia/Tokyo",)
        assert one(c, "select count(*) from psycopg2_t") == (2,)
        c.commit()
        cursor.execute("create temp table psycopg2_temp as select 1 as n")
        c.commit()
        for _ in range(5):
            assert one(c, "select n from psycopg2_temp") == (1,)
            c.commit()
        cursor.execute("drop table psycopg2_temp")
        c.commit()
    ok("settings")


def errors(c):
    for statement, error, code in [
        ("select * from nowhere", psycopg2.errors.UndefinedTable, "42P01"),
        ("insert into psycopg2_t values (1, 'twice')", psycopg2.errors.UniqueViolation, "23505"),
        ("select 1/0", psycopg2.errors.DivisionByZero, "22012"),
        ("selekt", psycopg2.errors.SyntaxError, "42601"),
        ("select 'x'::int", psycopg2.errors.InvalidTextRepresentation, "22P02"),
        ("do $$ begin raise exception 'mine' using errcode = 'TN123', detail = 'd', hint = 'h'; end $$",
         psycopg2.Error, "TN123"),
    ]:
        with Raises(error, code) as raised:
            one(c, statement)
        with Raises(psycopg2.errors.InFailedSqlTransaction, "25P02"):
            one(c, "select 1")
        c.rollback()
    diagnosis = raised.error.diag
    assert (diagnosis.message_primary, diagnosis.message_detail, diagnosis.message_hint) == ("mine", "d", "h")
    del c.notices[:]
    with c.cursor() as cursor:
        cursor.execute("do $$ begin raise notice 'a note'; end $$")
    assert c.notices == ["NOTICE:  a note\n"], c.notices
    c.rollback()
    ok("errors")


def cancel(c):
    with Cancelling(c.cancel):
        with Raises(psycopg2.errors.QueryCanceled, "57014"):
            one(c, "select pg_sleep(60)")
    c.rollback()
    assert one(c, "select 5") == (5,)
    c.rollback()
    ok("cancel")


def copy(c):
    rows = common.rows_of(100_000)

    def line(row):
        return "%d\t%s\n" % (row[0], row[1].replace("\\", "\\\\"))

    text = "".join(map(line, rows))
    with c.cursor() as cursor:
        cursor.execute("create table psycopg2_copy (id int, v text)")
        cursor.copy_expert("copy psycopg2_copy from stdin", io.StringIO(text))
        assert cursor.rowcount == len(rows)
        cursor.execute(common.SERVER_CHECKSUM.format("psycopg2_copy"))
        assert cursor.fetchone()[0] == common.checksum(rows)
        back = io.StringIO()
        cursor.copy_expert("copy (select * from psycopg2_copy order by id) to stdout", back)
        assert back.getvalue() == text
        c.commit()
        # Broken off in the middle: the session goes on, and nothing of it is kept.
        with Raises(psycopg2.errors.BadCopyFileFormat, "22P04"):
            cursor.copy_expert("copy psycopg2_copy from stdin", io.StringIO("1\tx\n2\n"))
        c.rollback()

        class Broken(io.StringIO):
            def read(self, *_):
                raise RuntimeError("changed my mind")

        with Raises(psycopg2.Error):
            cursor.copy_expert("copy psycopg2_copy from stdin", Broken())
        c.rollback()
        assert one(c, "select count(*) from psycopg2_copy") == (len(rows),)
        cursor.execute("drop table psycopg2_copy")
        c.commit()
    ok("copy")


def large_object(c):
    # By function call messages, which nothing else here sends.
    content = bytes(range(256)) * 4096
    large = c.lobject(0, "wb")
    large.write(content)
    number = large.oid
    large.close()
    c.commit()
    large = c.lobject(number, "rb")
    large.seek(1 << 19)
    assert large.tell() == 1 << 19 and large.read() == content[1 << 19:]
    large.unlink()
    c.commit()
    with Raises(psycopg2.OperationalError):
        c.lobject(number, "rb")
    c.rollback()
    ok("large-object")


def big_value(c):
    length, digest, back = one(c, "select length(v), encode(sha256(v::bytea), 'hex'), v from (select %s::text) x(v)", [BIG])
    assert (length, digest) == (len(BIG), BIG_SHA256)
    assert back == BIG
    c.rollback()
    ok("big-value")


def notify(c):
    c.autocommit = True
    other = connect()
    other.autocommit = True
    with c.cursor() as cursor, other.cursor() as sender:
        cursor.execute("listen psycopg2_c")
        for i in range(20):
            sender.execute("select pg_notify('psycopg2_c', %s)", [f"hello {i}"])
        got = []
        while len(got) < 20:
            assert select.select([c], [], [], 20)[0], f"only {len(got)} came"
            c.poll()
            got += [(n.channel, n.payload) for n in c.notifies]
            del c.notifies[:]
        assert got == [("psycopg2_c", f"hello {i}") for i in range(20)], got
        cursor.execute("unlisten *")
        sender.execute("notify psycopg2_c, 'unheard'")
        cursor.execute("select 1")
        c.poll()
        assert c.notifies == []
    other.close()
    c.autocommit = False
    ok("notify")


def asynchronous():
    c = connect(async_=True)

    def wait():
        while (state := c.poll()) != psycopg2.extensions.POLL_OK:
            reads = [c] if state == psycopg2.extensions.POLL_READ else []
            writes = [c] if state == psycopg2.extensions.POLL_WRITE else []
            assert any(select.select(reads, writes, [], 20)), "nothing came"

    wait()
    cursor = c.cursor()
    cursor.execute("select n, repeat('x', 1000) from generate_series(1, 20000) n")
    wait()
    rows = cursor.fetchall()
    assert len(rows) == 20000 and rows[-1] == (20000, "x" * 1000)
    c.close()
    ok("asynchronous")


def reconnect():
    pool = psycopg2.pool.ThreadedConnectionPool(1, 3, **ADDRESS, **VERIFY)
    c = pool.getconn()
    c.autocommit = True
    with c.cursor() as cursor:
        cursor.execute(common.END_MYSELF[0])
        # This libpq sometimes sees the end of the connection before the error that came ahead of it.
        with Raises(psycopg2.OperationalError) as ended:
            cursor.execute(common.END_MYSELF[1])
    assert ended.error.pgcode in ("57P01", None) and c.closed, ended.error
    pool.putconn(c)
    c = pool.getconn()
    assert one(c, "select count(*) from psycopg2_t") == (2,)
    pool.putconn(c)
    pool.closeall()
    ok("reconnect")


def wrong_password():
    with Raises(psycopg2.OperationalError) as refused:
        connect(password="wrong")
    assert "authentication failed" in str(refused.error), refused.error
    ok("wrong-password")


def console():
    operator = {"user": "operator", "password": os.environ["OPERATOR_KEY"], "dbname": "tenantry"}
    for autocommit in (False, True):
        c = connect(**operator)
        c.autocommit = autocommit
        with c.cursor() as cursor:
            cursor.execute("SHOW LISTS")
            lists = dict(cursor.fetchall())
            assert lists["used_clients"] >= 1 and lists["databases"] >= 1, lists
            with Raises(psycopg2.errors.SyntaxError):
                cursor.execute("SELECT 1")
        c.commit()
        c.close()
    with Raises(psycopg2.OperationalError):
        connect(**{**operator, "password": ADDRESS["password"]})
    ok("console")


if __name__ == "__main__":
    ways_in()
    connection = connect()
    for part in (types, prepared, batch, transaction, cursors, settings, errors, cancel, copy, large_object,
                 big_value, notify):
        part(connection)
    asynchronous()
    reconnect()
    wrong_password()
    console()
    print("all psycopg2", psycopg2.__version__.split()[0], "libpq", psycopg2.extensions.libpq_version())
