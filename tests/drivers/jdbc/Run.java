// The PostgreSQL JDBC driver: pipelined batches, server-side prepared statements, fetch sizes, fastpath.
// See tests/drivers/README.md.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.sql.*;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.*;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

public class Run {
    interface Body { void run() throws Exception; }

    static void ok(String step) { System.out.println("ok " + step); }

    static void is(Object got, Object wanted) {
        if (!Objects.deepEquals(got, wanted)) throw new AssertionError(got + ", not " + wanted);
    }

    /** Exactly this SQLSTATE comes. */
    static SQLException fails(String state, Body body) throws Exception {
        try {
            body.run();
        } catch (SQLException error) {
            if (!state.equals(error.getSQLState())) throw error;
            return error;
        }
        throw new AssertionError("no error came, not even " + state);
    }

    static Connection connect(String... more) throws SQLException {
        var properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER_"));
        properties.setProperty("password", System.getenv("PGPASSWORD_"));
        properties.setProperty("sslmode", "verify-full");
        properties.setProperty("sslrootcert", System.getenv("ROOT_CERT"));
        properties.setProperty("connectTimeout", "20");
        var options = System.getenv("PGOPTIONS");
        if (options != null && !options.isEmpty()) properties.setProperty("options", options);
        for (int i = 0; i < more.length; i += 2) properties.setProperty(more[i], more[i + 1]);
        return DriverManager.getConnection(
            "jdbc:postgresql://" + System.getenv("PGHOST_") + ":" + System.getenv("PGPORT_") + "/postgres", properties);
    }

    static Object value(Connection c, String query, Object... values) throws SQLException {
        try (var statement = c.prepareStatement(query)) {
            for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
            try (var rows = statement.executeQuery()) {
                rows.next();
                return rows.getObject(1);
            }
        }
    }

    static void run(Connection c, String... statements) throws SQLException {
        try (var statement = c.createStatement()) {
            for (var text : statements) statement.execute(text);
        }
    }

    static String row(int i) { return "row " + i + " ü \\ \" ' " + i * 7919L % 1000; }

    static String checksum(int count) throws Exception {
        var text = new StringBuilder();
        for (int i = 0; i < count; i++) text.append(i).append(':').append(row(i)).append('\n');
        return hex("MD5", text.toString());
    }

    static String hex(String algorithm, String text) throws Exception {
        return HexFormat.of().formatHex(MessageDigest.getInstance(algorithm).digest(text.getBytes(StandardCharsets.UTF_8)));
    }

    /** The same sum, made by the server over (id, v). */
    static String serverChecksum(String table) {
        return "select md5(coalesce(string_agg(id || ':' || v || E'\\n', '' order by id), '')) from " + table;
    }

    static void waysIn() throws Exception {
        for (var mode : List.of("require", "verify-ca", "verify-full")) {
            try (var c = connect("sslmode", mode)) {
                is(value(c, "select 40 + 2"), 42);
            }
            if (!mode.equals("verify-ca")) ok(mode);
        }
        // The simple protocol, and no binary transfer.
        try (var c = connect("preferQueryMode", "simple", "binaryTransfer", "false")) {
            is(value(c, "select ?::int + 2", 40), 42);
        }
        ok("simple-protocol");
        try {
            connect("sslmode", "disable").close();
            throw new AssertionError("plain text was let in");
        } catch (SQLException error) {
            if (!error.getMessage().matches("(?is).*(tls|ssl|encrypt).*")) throw error;
        }
        ok("plain-refused");
    }

    static void types(Connection c) throws Exception {
        var values = new LinkedHashMap<String, Object>();
        values.put("int4", 7);
        values.put("int8", 1L << 62);
        values.put("float8", 1.5);
        values.put("numeric", new BigDecimal("1234567890.000001"));
        values.put("text", "naïve € 🐘 \\ ' \"");
        values.put("bool", true);
        values.put("uuid", UUID.randomUUID());
        values.put("bytea", new byte[] {0, -1, 10});
        // Often enough that the driver prepares it and changes to binary.
        for (int i = 0; i < 8; i++) {
            for (var entry : values.entrySet()) is(value(c, "select ?::" + entry.getKey(), entry.getValue()), entry.getValue());
        }
        is(value(c, "select ?::text", new Object[] {null}), null);
        try (var statement = c.prepareStatement("select ?::date, ?::timestamptz, ?::int[], ?::jsonb::text, ?::interval")) {
            var moment = OffsetDateTime.of(2024, 2, 29, 12, 0, 0, 1000, ZoneOffset.UTC);
            statement.setObject(1, LocalDate.of(2024, 2, 29));
            statement.setObject(2, moment);
            statement.setArray(3, c.createArrayOf("int4", new Object[] {1, null, 3}));
            statement.setString(4, "{\"a\": [1, \"ü\"]}");
            statement.setString(5, "3 days");
            try (var rows = statement.executeQuery()) {
                rows.next();
                is(rows.getObject(1, LocalDate.class), LocalDate.of(2024, 2, 29));
                is(rows.getObject(2, OffsetDateTime.class), moment);
                is((Object[]) rows.getArray(3).getArray(), new Object[] {1, null, 3});
                is(rows.getString(4), "{\"a\": [1, \"ü\"]}");
                is(rows.getString(5), "3 days");
            }
        }
        // Looks into the catalog with large queries of its own.
        run(c, "create table jdbc_t (id int primary key, v text not null)", "comment on table jdbc_t is 'ü'");
        try (var columns = c.getMetaData().getColumns(null, null, "jdbc_t", null)) {
            var names = new ArrayList<String>();
            while (columns.next()) names.add(columns.getString("COLUMN_NAME") + " " + columns.getString("TYPE_NAME"));
            is(names, List.of("id int4", "v text"));
        }
        ok("types");
    }

    static void prepared() throws Exception {
        try (var c = connect("prepareThreshold", "1");
             var statement = c.prepareStatement("select ?::int * 2, current_setting('search_path')")) {
            for (int i = 0; i < 200; i++) {
                statement.setInt(1, i);
                try (var rows = statement.executeQuery()) {
                    rows.next();
                    is(rows.getInt(1), i * 2);
                }
            }
            is(statement.unwrap(PGStatement.class).isUseServerPrepare(), true);
            // The driver forgets its statements here, and closes them on the server.
            run(c, "set search_path = pg_catalog");
            statement.setInt(1, 4);
            try (var rows = statement.executeQuery()) {
                rows.next();
                is(rows.getInt(1), 8);
                is(rows.getString(2), "pg_catalog");
            }
            run(c, "deallocate all");
            statement.setInt(1, 5);
            try (var rows = statement.executeQuery()) {
                rows.next();
                is(rows.getInt(1), 10);
            }
        }
        // A prepared statement whose table changed: in autocommit the driver heals it by itself.
        try (var c = connect("prepareThreshold", "1", "autosave", "conservative");
             var statement = c.prepareStatement("select * from jdbc_changing")) {
            run(c, "create table jdbc_changing as select 1 as a");
            for (int i = 0; i < 3; i++) {
                try (var rows = statement.executeQuery()) { is(rows.getMetaData().getColumnCount(), 1); }
            }
            run(c, "alter table jdbc_changing add b int");
            try (var rows = statement.executeQuery()) { is(rows.getMetaData().getColumnCount(), 2); }
            run(c, "drop table jdbc_changing");
        }
        ok("prepared");
    }

    static void batch() throws Exception {
        for (var rewritten : List.of("false", "true")) {
            try (var c = connect("reWriteBatchedInserts", rewritten)) {
                c.setAutoCommit(false);
                run(c, "create table jdbc_batch (id int primary key, v text)");
                try (var statement = c.prepareStatement("insert into jdbc_batch values (?, ?)")) {
                    for (int i = 0; i < 3000; i++) {
                        statement.setInt(1, i);
                        statement.setString(2, row(i));
                        statement.addBatch();
                    }
                    is(statement.executeBatch().length, 3000);
                }
                is(value(c, serverChecksum("jdbc_batch")), checksum(3000));
                var point = c.setSavepoint();
                try (var statement = c.prepareStatement("insert into jdbc_batch values (?, 'x')")) {
                    for (int i : new int[] {5000, 1, 5001}) {
                        statement.setInt(1, i);
                        statement.addBatch();
                    }
                    fails("23505", statement::executeBatch);
                }
                c.rollback(point);
                is(value(c, "select count(*) from jdbc_batch"), 3000L);
                // A portal that is read in parts.
                try (var statement = c.prepareStatement("select id from jdbc_batch order by id")) {
                    statement.setFetchSize(70);
                    try (var rows = statement.executeQuery()) {
                        for (int i = 0; i < 3000; i++) {
                            is(rows.next(), true);
                            is(rows.getInt(1), i);
                            if (i % 1000 == 0) is(value(c, "select ?::int", i), i);
                        }
                        is(rows.next(), false);
                    }
                }
                c.rollback();
            }
        }
        ok("batch");
    }

    static void transaction(Connection c) throws Exception {
        c.setAutoCommit(false);
        run(c, "insert into jdbc_t values (1, 'lost')");
        c.rollback();
        run(c, "insert into jdbc_t values (1, 'kept')");
        var point = c.setSavepoint("s");
        fails("23505", () -> run(c, "insert into jdbc_t values (1, 'twice')"));
        fails("25P02", () -> run(c, "select 1"));
        c.rollback(point);
        c.commit();
        c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        c.setReadOnly(true);
        is(value(c, "select current_setting('transaction_isolation')"), "serializable");
        fails("25006", () -> run(c, "insert into jdbc_t values (2, 'x')"));
        c.rollback();
        c.setReadOnly(false);
        c.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        c.setAutoCommit(true);
        is(value(c, "select string_agg(v, ',') from jdbc_t"), "kept");
        is(value(c, "select current_setting('transaction_isolation')"), "read committed");
        ok("transaction");
    }

    static void errors(Connection c) throws Exception {
        var statements = new LinkedHashMap<String, String>();
        statements.put("select * from nowhere", "42P01");
        statements.put("insert into jdbc_t values (1, 'twice')", "23505");
        statements.put("insert into jdbc_t values (9, null)", "23502");
        statements.put("select 1/0", "22012");
        statements.put("selekt", "42601");
        for (var entry : statements.entrySet()) {
            fails(entry.getValue(), () -> run(c, entry.getKey()));
            is(value(c, "select 1"), 1);
        }
        try (var statement = c.createStatement()) {
            statement.execute("do $$ begin raise warning 'a note'; end $$");
            is(statement.getWarnings().getMessage(), "a note");
            // Several results of one message.
            statement.execute("select 1; update jdbc_t set v = v; select 2");
            try (var rows = statement.getResultSet()) { rows.next(); is(rows.getInt(1), 1); }
            is(statement.getMoreResults(), false);
            is(statement.getUpdateCount(), 1);
            is(statement.getMoreResults(), true);
            try (var rows = statement.getResultSet()) { rows.next(); is(rows.getInt(1), 2); }
        }
        ok("errors");
    }

    static void cancel(Connection c) throws Exception {
        try (var statement = c.createStatement()) {
            // Again and again: the first may come before the statement does.
            var over = new AtomicBoolean();
            var canceller = new Thread(() -> {
                try {
                    while (!over.get()) {
                        TimeUnit.MILLISECONDS.sleep(200);
                        if (!over.get()) statement.cancel();
                    }
                } catch (SQLException | InterruptedException error) {
                    throw new AssertionError(error);
                }
            });
            canceller.start();
            fails("57014", () -> statement.execute("select pg_sleep(60)"));
            over.set(true);
            canceller.join();
            is(value(c, "select 5"), 5);
            // A limit of the client sends a cancel too.
            statement.setQueryTimeout(1);
            fails("57014", () -> statement.execute("select pg_sleep(60)"));
        }
        is(value(c, "select 6"), 6);
        ok("cancel");
    }

    static void copy(Connection c) throws Exception {
        int count = 100_000;
        var lines = new StringBuilder();
        for (int i = 0; i < count; i++) lines.append(i).append('\t').append(row(i).replace("\\", "\\\\")).append('\n');
        var text = lines.toString().getBytes(StandardCharsets.UTF_8);
        var copies = c.unwrap(PGConnection.class).getCopyAPI();
        run(c, "create table jdbc_copy (id int, v text)");
        is(copies.copyIn("copy jdbc_copy from stdin", new ByteArrayInputStream(text)), (long) count);
        is(value(c, serverChecksum("jdbc_copy")), checksum(count));
        var back = new ByteArrayOutputStream();
        copies.copyOut("copy (select * from jdbc_copy order by id) to stdout", back);
        is(Arrays.equals(back.toByteArray(), text), true);
        var broken = copies.copyIn("copy jdbc_copy from stdin");
        broken.writeToCopy("1\tx\n".getBytes(), 0, 4);
        broken.cancelCopy();
        is(value(c, "select count(*) from jdbc_copy"), (long) count);
        run(c, "drop table jdbc_copy");
        ok("copy");
    }

    static void largeObject(Connection c) throws Exception {
        // By function call messages.
        var content = new byte[1 << 20];
        new Random(1).nextBytes(content);
        c.setAutoCommit(false);
        LargeObjectManager large = c.unwrap(PGConnection.class).getLargeObjectAPI();
        long number = large.createLO();
        try (LargeObject object = large.open(number)) { object.write(content); }
        c.commit();
        try (LargeObject object = large.open(number, LargeObjectManager.READ)) {
            object.seek(1 << 19);
            is(object.read(1 << 20), Arrays.copyOfRange(content, 1 << 19, 1 << 20));
        }
        large.delete(number);
        c.commit();
        c.setAutoCommit(true);
        ok("large-object");
    }

    static void bigValue(Connection c) throws Exception {
        var big = "0123456789abcdef".repeat(4 << 20);
        try (var statement = c.prepareStatement("select encode(sha256(v::bytea), 'hex'), v from (select ?::text) x(v)")) {
            statement.setString(1, big);
            try (var rows = statement.executeQuery()) {
                rows.next();
                is(rows.getString(1), hex("SHA-256", big));
                is(rows.getString(2).equals(big), true);
            }
        }
        ok("big-value");
    }

    static void hears(Connection c) throws Exception {
        run(c, "listen jdbc_c");
        try (var other = connect()) {
            for (int i = 0; i < 20; i++) value(other, "select pg_notify('jdbc_c', ?)", "hello " + i);
        }
        var got = new ArrayList<String>();
        for (int tries = 0; got.size() < 20 && tries < 20; tries++) {
            PGNotification[] some = c.unwrap(PGConnection.class).getNotifications(1000);
            for (var one : some == null ? new PGNotification[0] : some) got.add(one.getName() + " " + one.getParameter());
        }
        var wanted = new ArrayList<String>();
        for (int i = 0; i < 20; i++) wanted.add("jdbc_c hello " + i);
        is(got, wanted);
        run(c, "unlisten *");
        ok("notify");
    }

    static void reconnect() throws Exception {
        var c = connect();
        run(c, "set role none");
        fails("57P01", () -> run(c, "select pg_terminate_backend(pg_backend_pid())"));
        is(c.isValid(5), false);
        try (var next = connect()) {
            is(next.isValid(5), true);
            is(value(next, "select count(*) from jdbc_t"), 1L);
        }
        ok("reconnect");
    }

    public static void main(String[] arguments) throws Exception {
        waysIn();
        try (var c = connect()) {
            types(c);
            prepared();
            batch();
            transaction(c);
            errors(c);
            cancel(c);
            copy(c);
            largeObject(c);
            bigValue(c);
            hears(c);
            reconnect();
            fails("28P01", () -> connect("password", "wrong").close());
            ok("wrong-password");
            run(c, "drop table jdbc_t");
            System.out.println("all JDBC " + c.getMetaData().getDriverVersion() + ", Java " + System.getProperty("java.version"));
        }
    }
}
