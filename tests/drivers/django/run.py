"""Django over psycopg 3: migrations, models, transactions, server-side cursors, its own pool.

Three ways of connecting: as it comes, with parameters bound by the server, and with its pool.
See tests/drivers/README.md.
"""

import hashlib
import os
import sys
import threading
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

import django
from django.conf import settings

import common
from common import ADDRESS, BIG, BIG_SHA256, VERIFY, Cancelling, Raises, ok


def database(**options):
    health = {} if options.get("pool") else {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}
    return {
        "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": ADDRESS["user"],
        "PASSWORD": ADDRESS["password"], "HOST": ADDRESS["host"], "PORT": ADDRESS["port"],
        "OPTIONS": {**VERIFY, "connect_timeout": 20, **options}, **health,
    }


settings.configure(
    DATABASES={
        "default": database(),
        "bound": database(server_side_binding=True),
        "pooled": database(pool={"min_size": 1, "max_size": 3, "timeout": 30}),
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.postgres"],
    USE_TZ=True,
    # The usual one is meant to be slow.
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.auth.models import Group, Permission, User
from django.contrib.postgres.fields import ArrayField, DateRangeField
from django.core.management import call_command
from django.db import (DataError, IntegrityError, InterfaceError, OperationalError, ProgrammingError,
                       connection, connections, models, transaction)
from django.db.models import Count, F, Q, Sum
from psycopg.types.range import Range


class Everything(models.Model):
    flag = models.BooleanField()
    small = models.SmallIntegerField(null=True)
    large = models.BigIntegerField()
    real = models.FloatField()
    price = models.DecimalField(max_digits=14, decimal_places=4)
    text = models.TextField()
    raw = models.BinaryField()
    key = models.UUIDField(unique=True)
    day = models.DateField()
    moment = models.DateTimeField()
    span = models.DurationField()
    facts = models.JSONField()
    tags = ArrayField(models.CharField(max_length=20, null=True))
    stay = DateRangeField()
    address = models.GenericIPAddressField()
    owner = models.ForeignKey(User, models.CASCADE)

    class Meta:
        app_label = "contenttypes"
        db_table = "django_everything"
        constraints = [models.CheckConstraint(condition=Q(large__gte=0), name="django_not_negative")]


def code(error):
    return error.__cause__.sqlstate


def types(alias):
    owner = User.objects.db_manager(alias).create_user(f"user-{alias}", password="päss")
    assert owner.check_password("päss")
    given = dict(
        flag=True, small=None, large=2**62, real=1.5, price=Decimal("1234567890.0001"), text="naïve € 🐘 \\ ' \" %s",
        raw=b"\x00\xff\n", key=uuid.uuid4(), day=date(2024, 2, 29), moment=datetime(2024, 2, 29, 12, 0, 0, 1, timezone.utc),
        span=timedelta(days=3, microseconds=7), facts={"a": [1, None, {"ü": 2}]}, tags=["a", None, "b,}"],
        stay=Range(date(2024, 1, 1), date(2024, 1, 9)), address="2001:db8::1", owner_id=owner.pk,
    )
    pk = Everything.objects.using(alias).create(**given).pk
    got = Everything.objects.using(alias).get(pk=pk)
    for name, value in given.items():
        read = getattr(got, name)
        assert (bytes(read) if name == "raw" else read) == value, (name, read, value)
    found = Everything.objects.using(alias).filter(facts__a__2__has_key="ü", tags__contains=["a"], stay__contains=date(2024, 1, 5), key=given["key"])
    assert found.get().pk == pk
    return pk


def batch(alias):
    rows = common.rows_of(3000)
    Group.objects.using(alias).bulk_create([Group(name=f"{alias} {i} {v}") for i, v in rows], batch_size=500)
    names = Group.objects.using(alias).filter(name__startswith=f"{alias} ").order_by("pk").values_list("name", flat=True)
    # A cursor of the server; WITH HOLD, because no transaction is open.
    streamed = list(names.iterator(chunk_size=100))
    assert streamed == [f"{alias} {i} {v}" for i, v in rows]
    with transaction.atomic(using=alias):
        assert list(names.iterator(chunk_size=700)) == streamed
    digest = hashlib.md5("".join(streamed).encode()).hexdigest()
    with connections[alias].cursor() as cursor:
        cursor.execute("select md5(string_agg(name, '' order by id)) from auth_group where name like %s", [f"{alias} %"])
        assert cursor.fetchone() == (digest,)
    summed = Permission.objects.using(alias).values("content_type__model").annotate(n=Count("pk")).aggregate(Sum("n"))
    assert summed["n__sum"] == Permission.objects.using(alias).count() > 0


def transactions(alias, pk):
    mine = Everything.objects.using(alias)
    done = []
    with transaction.atomic(using=alias):
        mine.filter(pk=pk).update(small=F("large") % 7)
        transaction.on_commit(lambda: done.append(mine.get(pk=pk).small), using=alias)
        with Raises(IntegrityError, "23514", code):
            with transaction.atomic(using=alias):
                mine.filter(pk=pk).update(large=-1)
        try:
            with transaction.atomic(using=alias):
                mine.filter(pk=pk).delete()
                raise KeyError
        except KeyError:
            pass
        assert mine.select_for_update().get(pk=pk).small == 4
    assert done == [4]
    try:
        with transaction.atomic(using=alias):
            mine.filter(pk=pk).delete()
            raise KeyError
    except KeyError:
        pass
    assert mine.filter(pk=pk).exists()
    _, is_new = mine.update_or_create(pk=pk, defaults={"text": "changed"})
    assert not is_new and mine.get(pk=pk).text == "changed"


def errors(alias):
    with connections[alias].cursor() as cursor:
        for statement, kind, state in [
            ("select * from nowhere", ProgrammingError, "42P01"),
            ("select 1/0", DataError, "22012"),
            ("selekt", ProgrammingError, "42601"),
            ("insert into auth_group (name) select name from auth_group limit 1", IntegrityError, "23505"),
        ]:
            with Raises(kind, state, code):
                cursor.execute(statement)
            cursor.execute("select 1")
            assert cursor.fetchone() == (1,)


def cancel(alias):
    with connections[alias].cursor() as cursor:
        with Cancelling(connections[alias].connection.cancel_safe):
            with Raises(OperationalError, "57014", code):
                cursor.execute("select pg_sleep(60)")
        cursor.execute("select 5")
        assert cursor.fetchone() == (5,)


def big_value(alias, pk):
    mine = Everything.objects.using(alias).filter(pk=pk)
    mine.update(text=BIG)
    assert mine.get().text == BIG
    with connections[alias].cursor() as cursor:
        cursor.execute("select encode(sha256(text::bytea), 'hex') from django_everything where id = %s", [pk])
        assert cursor.fetchone() == (BIG_SHA256,)
    mine.update(text="")


def reconnect(alias):
    connections[alias].ensure_connection()
    with Raises((OperationalError, InterfaceError)):
        with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
            cursor.execute("set local role none")
            cursor.execute(common.END_MYSELF[1])
    # What Django does between two requests.
    connections[alias].close_if_unusable_or_obsolete()
    assert User.objects.using(alias).filter(username=f"user-{alias}").exists()


def threads(alias):
    """Every thread has a connection of its own; the pool lends three to ten of them."""
    wrong = []

    def work(n):
        try:
            for i in range(20):
                with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
                    cursor.execute("select %s::int, pg_sleep(0.001)", [n * 100 + i])
                    if cursor.fetchone()[0] != n * 100 + i:
                        wrong.append(n)
                connections[alias].close()
        except Exception as error:
            wrong.append(error)

    started = [threading.Thread(target=work, args=[n]) for n in range(10)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(120)
    assert wrong == [] and not any(thread.is_alive() for thread in started), wrong


def notify():
    raw = connection.cursor().connection
    with connection.cursor() as cursor, connections["bound"].cursor() as sender:
        cursor.execute("listen django_c")
        sender.execute("select pg_notify('django_c', %s)", ["hello"])
        got = [notice.payload for notice in raw.notifies(timeout=20, stop_after=1)]
        assert got == ["hello"], got
        cursor.execute("unlisten *")


def wrong_password():
    connections.settings["wrong"] = {**connections.settings["default"], "PASSWORD": "wrong"}
    with Raises(OperationalError) as refused:
        connections["wrong"].ensure_connection()
    assert "authentication failed" in str(refused.error), refused.error


if __name__ == "__main__":
    with connection.cursor() as first:
        first.execute("select 40 + 2")
        assert first.fetchone() == (42,)
        assert connection.connection.pgconn.ssl_in_use
    ok("verify-full")
    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:
        editor.create_model(Everything)
    tables = connection.introspection.table_names()
    assert {"auth_user", "django_migrations", "django_everything"} <= set(tables)
    ok("migrate")
    for name in ("default", "bound", "pooled"):
        row = types(name)
        ok(f"{name} types")
        batch(name)
        ok(f"{name} batch")
        transactions(name, row)
        ok(f"{name} transaction")
        errors(name)
        ok(f"{name} errors")
        cancel(name)
        ok(f"{name} cancel")
        reconnect(name)
        ok(f"{name} reconnect")
        threads(name)
        ok(f"{name} threads")
    big_value("bound", row)
    ok("big-value")
    notify()
    ok("notify")
    wrong_password()
    ok("wrong-password")
    # Undoes the migrations, as a developer does.
    with connection.schema_editor() as editor:
        editor.delete_model(Everything)
    call_command("migrate", "auth", "zero", verbosity=0)
    assert "auth_user" not in connection.introspection.table_names()
    ok("migrate-back")
    connections["pooled"].close_pool()
    connections.close_all()
    print("all Django", django.__version__, "over psycopg")
