//! A copy of a tenant holds all that its source held, and lets nobody of the source in.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::time::Duration;

use kit::{MAJORS, STOP, Scratch, code, create, login, login_to, pid, start, superuser};
use model::{Pid, Role};
use node::{ClonePath, Content, DatabaseState, Node, NodeError, Template};
use tokio_postgres::Client;

const LONG: Duration = Duration::from_secs(60);

/// Of everything that a tenant can make, one; with grants that differ from what the template gives,
/// and some that name a login of the tenant itself.
const WORLD: &str = r#"
CREATE SCHEMA "Sales x";
CREATE EXTENSION hstore SCHEMA "Sales x";
CREATE TYPE mood AS ENUM ('bad', 'good');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE SEQUENCE counter START 5 INCREMENT 3;
CREATE TABLE customer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL COLLATE "C",
  mood mood DEFAULT 'good', n positive, doubled int GENERATED ALWAYS AS (n * 2) STORED, tags "Sales x".hstore);
COMMENT ON TABLE customer IS 'it''s ours';
COMMENT ON COLUMN customer.name IS 'who';
CREATE TABLE "Sales x"."Order" (id serial PRIMARY KEY, customer bigint REFERENCES customer, v text);
ALTER TABLE "Sales x"."Order" ALTER v SET STORAGE EXTERNAL;
CREATE INDEX ON "Sales x"."Order" (lower(v)) WHERE v IS NOT NULL;
CREATE TABLE part (k int, v int) PARTITION BY RANGE (k);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE VIEW good AS SELECT id, name FROM customer WHERE mood = 'good';
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM customer;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.name := upper(NEW.name); RETURN NEW; END';
CREATE TRIGGER touch BEFORE INSERT ON customer FOR EACH ROW EXECUTE FUNCTION touch();
CREATE PROCEDURE noop() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE product(int) (SFUNC = int4mul, STYPE = int, INITCOND = 1);
CREATE RULE quiet AS ON DELETE TO part DO ALSO NOTHING;
CREATE STATISTICS both_columns ON k, v FROM part;
CREATE PUBLICATION pub FOR TABLE customer;
ALTER TABLE customer ENABLE ROW LEVEL SECURITY;
ALTER TABLE customer FORCE ROW LEVEL SECURITY;
CREATE POLICY everybody ON customer USING (true) WITH CHECK (true);
CREATE POLICY mine ON "Sales x"."Order" FOR SELECT TO {me}_read, tenantry_write USING (id > 0);
GRANT SELECT (id) ON customer TO {me}_write;
GRANT SELECT ON "Sales x"."Order" TO {me}_read WITH GRANT OPTION;
GRANT USAGE ON SCHEMA "Sales x" TO {me}_read;
GRANT EXECUTE ON FUNCTION touch() TO {me}_write;
REVOKE ALL ON part FROM tenantry_read;
REVOKE USAGE ON SCHEMA "Sales x" FROM tenantry_read;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_admin GRANT SELECT ON TABLES TO {me}_read;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_admin REVOKE SELECT ON SEQUENCES FROM tenantry_read;
ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_admin IN SCHEMA "Sales x" GRANT TRUNCATE ON TABLES TO tenantry_write;
INSERT INTO customer (name, n, tags) SELECT 'c' || i, i, 'a=>1' FROM generate_series(1, 500) i;
INSERT INTO "Sales x"."Order" (customer, v) SELECT i, repeat('x', i) FROM generate_series(1, 500) i;
INSERT INTO part SELECT i, i FROM generate_series(1, 99) i;
REFRESH MATERIALIZED VIEW totals;
SELECT nextval('counter'), nextval('counter');
SELECT lo_from_bytea(4242, 'a large object');
GRANT SELECT ON LARGE OBJECT 4242 TO tenantry_read, {me}_read;
COMMENT ON LARGE OBJECT 4242 IS 'large'"#;

async fn filled(node: &Node) -> Pid {
    let pid = create(node).await;
    let admin = login(node, &pid, Role::Admin).await.unwrap();
    let sql = WORLD.replace("{me}", &pid.database());
    admin.batch_execute(&sql).await.unwrap();
    // Large objects belong to whoever makes them.
    let writer = login(node, &pid, Role::Write).await.unwrap();
    let sql = "SELECT lo_from_bytea(4243, '\\x00ff00')";
    writer.batch_execute(sql).await.unwrap();
    pid
}

/// All rows of all tables, positions of sequences, bytes of large objects.
async fn data(node: &Node, pid: &Pid) -> Vec<String> {
    let client = superuser(node, &pid.database()).await;
    let tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'm', 'S') \
         AND relnamespace IN ('public'::regnamespace, '\"Sales x\"'::regnamespace) ORDER BY 1";
    let mut all = Vec::new();
    for row in client.query(tables, &[]).await.unwrap() {
        let table: String = row.get(0);
        let what = match client
            .query_one(&format!("SELECT last_value, is_called FROM {table}"), &[])
            .await
        {
            Ok(row) => format!("{} {}", row.get::<_, i64>(0), row.get::<_, bool>(1)),
            Err(_) => {
                let sql =
                    format!("SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t");
                let row = client.query_one(&sql, &[]).await.unwrap();
                row.get::<_, Option<String>>(0).unwrap_or_default()
            }
        };
        all.push(format!("{table}: {what}"));
    }
    let large = "SELECT oid::text, md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY 1";
    for row in client.query(large, &[]).await.unwrap() {
        all.push(format!(
            "{}: {}",
            row.get::<_, &str>(0),
            row.get::<_, &str>(1)
        ));
    }
    all
}

async fn finish(node: &Node, pid: &Pid, source: &Pid) {
    for _ in 0..2 {
        // As of a branch that was deleted meanwhile, and taken back.
        node.close(pid).await.unwrap();
        node.adopt(pid, source).await.unwrap();
    }
    for _ in 0..2 {
        node.open(pid).await.unwrap();
    }
}

/// The whole of it: what it is made of, its data, who may come in, and what the checker says.
async fn assert_equal(node: &Node, source: &Pid, copy: &Pid, what: &str) {
    let (wanted, got) = (
        node.objects(source).await.unwrap(),
        node.objects(copy).await.unwrap(),
    );
    // Default privileges of a login are left behind.
    let counts =
        |object: &node::Object| object.kind != "default grants" || !object.name.starts_with("x_");
    let wanted: Vec<_> = wanted.into_iter().filter(counts).collect();
    assert!(wanted.len() > 50, "{} objects", wanted.len());
    for (wanted, got) in wanted.iter().zip(&got) {
        assert_eq!(wanted, got, "{what}");
    }
    assert_eq!(wanted.len(), got.len(), "{what}");
    assert_eq!(data(node, source).await, data(node, copy).await, "{what}");
    let counts = node.row_counts(copy).await.unwrap();
    assert_eq!(counts, node.row_counts(source).await.unwrap());
    let orders = counts
        .iter()
        .find(|count| count.table == "\"Sales x\".\"Order\"");
    assert_eq!(orders.unwrap().rows, Some(500));
    assert_strangers(node, source, copy, what).await;
}

async fn assert_strangers(node: &Node, source: &Pid, copy: &Pid, what: &str) {
    for role in Role::ALL {
        login(node, copy, role).await.unwrap();
        for (who, database) in [(source, copy), (copy, source)] {
            let error = login_to(node, who, role, &database.database()).await;
            let error = error.expect_err("another tenant");
            assert!(
                ["28000", "42501"].contains(&code(&error)),
                "{what}: {error:?}"
            );
        }
    }
    let platform = superuser(node, "postgres").await;
    // No grant, owner, policy or default of the copy names anybody of the source.
    let named = "SELECT count(*) FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid \
         JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = $1 AND r.rolname ~ '^x_' \
         AND NOT starts_with(r.rolname, $1)";
    let row = platform
        .query_one(named, &[&copy.database()])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 0, "{what}");
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname ~ '_(fill|dump|deploy)$'";
    let row = platform.query_one(roles, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0, "{what}: a login of ours is left");
    let expected = node::check::Expected {
        pid: copy.clone(),
        state: node::check::ExpectedState::Open,
    };
    let findings = node.check_tenant(&expected).await.unwrap();
    assert_eq!(findings, [], "{what}");
}

async fn reads_orders(client: &Client) -> bool {
    let sql = "SELECT count(*) FROM \"Sales x\".\"Order\"";
    client.query_one(sql, &[]).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_files_is_equal_and_apart() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let source = filled(&node).await;
        // Without effect, and in the way of nothing: the login owns nothing.
        let admin = login(&node, &source, Role::Admin).await.unwrap();
        let sql = "SET ROLE NONE; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO tenantry_read; \
             ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC";
        admin.batch_execute(sql).await.unwrap();
        node.close(&source).await.unwrap();
        node.open(&source).await.unwrap();
        let copy = pid();
        node.create_logins(&copy).await.unwrap();
        for path in [ClonePath::WalLog, ClonePath::Existing] {
            let report = node.copy_database(&copy, &source, LONG).await.unwrap();
            assert_eq!(report.path, path, "PostgreSQL {major}");
        }
        finish(&node, &copy, &source).await;
        assert_equal(&node, &source, &copy, &format!("copy on {major}")).await;

        // A grant to a login was made out to the copy's own; the source still has its own.
        for pid in [&source, &copy] {
            let database = pid.database();
            let client = superuser(&node, &database).await;
            let sql = format!(
                "SELECT has_table_privilege('{database}_read', '\"Sales x\".\"Order\"', 'SELECT WITH GRANT OPTION'), \
                   has_column_privilege('{database}_write', 'customer', 'id', 'SELECT'), \
                   has_function_privilege('{database}_write', 'touch()', 'EXECUTE')"
            );
            let row = client.query_one(&sql, &[]).await.unwrap();
            assert_eq!((row.get(0), row.get(1), row.get(2)), (true, true, true));
        }
        // What readers lost in the source, they lost in the copy.
        let reader = login(&node, &copy, Role::Read).await.unwrap();
        assert!(!reads_orders(&reader).await);

        // A copy of a copy, and the end of the source does not touch either.
        drop(reader);
        let second = pid();
        node.close(&copy).await.unwrap();
        node.create_logins(&second).await.unwrap();
        node.copy_database(&second, &copy, LONG).await.unwrap();
        finish(&node, &second, &copy).await;
        node.open(&copy).await.unwrap();
        assert_equal(&node, &copy, &second, &format!("copy of a copy on {major}")).await;
        node.close(&source).await.unwrap();
        node.drop_database(&source).await.unwrap();
        node.drop_logins(&source).await.unwrap();
        assert!(node.physical(&source).await.unwrap().is_absent());
        assert_equal(&node, &copy, &second, "after the end of their source").await;
        server.stop(STOP).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_copy_is_equal_while_its_source_is_in_use() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let source = filled(&node).await;
        // Somebody has a transaction open; what it did is not in the copy.
        let busy = login(&node, &source, Role::Admin).await.unwrap();
        busy.batch_execute("BEGIN; INSERT INTO part VALUES (5, 5)")
            .await
            .unwrap();
        let copy = pid();
        node.create_logins(&copy).await.unwrap();
        let refused = node.copy_database(&copy, &source, LONG).await.unwrap_err();
        assert!(refused.is_source_in_use(), "{refused}");
        assert!(node.sessions(&source).await.unwrap() >= 1);
        for _ in 0..2 {
            let report = node
                .stream_copy(&copy, &source, Content::All, LONG)
                .await
                .unwrap_or_else(|error| panic!("{major}: {error}"));
            assert_eq!(report.path, ClonePath::Stream);
        }
        busy.batch_execute("ROLLBACK").await.unwrap();
        finish(&node, &copy, &source).await;
        assert_equal(&node, &source, &copy, &format!("stream on {major}")).await;

        // Its shape alone.
        let shape = pid();
        node.create_logins(&shape).await.unwrap();
        node.stream_copy(&shape, &source, Content::SchemaOnly, LONG)
            .await
            .unwrap();
        finish(&node, &shape, &source).await;
        let shown = async |pid| {
            let mut objects = node.objects(pid).await.unwrap();
            objects.retain(|object| object.kind != "large objects");
            objects
        };
        assert_eq!(shown(&source).await, shown(&shape).await);
        let counts = node.row_counts(&shape).await.unwrap();
        let filled: Vec<_> = counts
            .iter()
            .filter(|count| count.rows != Some(0))
            .collect();
        // One row, which says 0.
        assert_eq!(
            filled.len(),
            usize::from(counts.iter().any(|count| count.table == "totals"))
        );
        assert_strangers(&node, &source, &shape, "schema only").await;
        server.stop(STOP).await;
    }
}

/// Wherever a streamed copy stops, the next attempt of either way begins anew and is complete.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_copy_is_never_taken_for_a_whole_one() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let source = filled(&node).await;
        let holder = login(&node, &source, Role::Admin).await.unwrap();
        let copy = pid();
        node.create_logins(&copy).await.unwrap();
        // The dump waits for the lock until its time is over.
        holder
            .batch_execute("BEGIN; LOCK TABLE part IN ACCESS EXCLUSIVE MODE")
            .await
            .unwrap();
        let late = node
            .stream_copy(&copy, &source, Content::All, Duration::from_secs(3))
            .await
            .unwrap_err();
        assert!(matches!(late, NodeError::Busy { .. }), "{late}");
        assert!(late.is_temporary());
        let half = node.physical(&copy).await.unwrap();
        assert_ne!(half.database, DatabaseState::Absent, "it had begun");
        assert!(!node.is_complete(&copy).await.unwrap());
        holder.batch_execute("ROLLBACK").await.unwrap();
        drop(holder);
        kit::until("the source has no session", async || {
            node.sessions(&source).await.unwrap() == 0
        })
        .await;
        let report = node.copy_database(&copy, &source, LONG).await.unwrap();
        assert_ne!(
            report.path,
            ClonePath::Existing,
            "half a copy was taken for a whole one"
        );
        assert!(node.is_complete(&copy).await.unwrap());
        finish(&node, &copy, &source).await;
        assert_equal(
            &node,
            &source,
            &copy,
            &format!("after half a stream on {major}"),
        )
        .await;
        server.stop(STOP).await;
    }
}

/// What a restore runs is a user's text: it gets no further than that user does.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_runs_without_rights() {
    for major in MAJORS {
        let dir = Scratch::new();
        let server = start(major, &dir).await;
        let node = server.node();
        let (source, victim) = (create(&node).await, create(&node).await);
        let admin = login(&node, &source, Role::Admin).await.unwrap();
        // An expression of an index is evaluated when the index is made anew.
        let sql = "CREATE FUNCTION attack(v int) RETURNS int LANGUAGE plpgsql AS $$
            BEGIN
              IF current_database() <> '{me}' THEN
                BEGIN CREATE ROLE stolen SUPERUSER; EXCEPTION WHEN OTHERS THEN END;
                BEGIN ALTER ROLE {victim}_admin PASSWORD 'x'; EXCEPTION WHEN OTHERS THEN END;
                BEGIN ALTER ROLE {me}_admin PASSWORD 'x'; EXCEPTION WHEN OTHERS THEN END;
                BEGIN GRANT {victim} TO CURRENT_USER; EXCEPTION WHEN OTHERS THEN END;
                BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''true'''; CREATE TABLE reached_program ();
                  EXCEPTION WHEN OTHERS THEN END;
                BEGIN EXECUTE 'RESET ROLE'; EXECUTE 'ALTER ROLE {victim}_read SUPERUSER'; EXCEPTION WHEN OTHERS THEN END;
                BEGIN EXECUTE 'ALTER ROLE tenantry_admin CREATEROLE'; EXCEPTION WHEN OTHERS THEN END;
                CREATE TABLE IF NOT EXISTS public.ran AS SELECT session_user::text AS who;
              END IF;
              RETURN v;
            END $$;
            CREATE FUNCTION innocent(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN public.attack(v); END';
            CREATE TABLE t (v int); INSERT INTO t VALUES (1), (2); CREATE INDEX ON t (innocent(v))"
            .replace("{me}", &source.database())
            .replace("{victim}", &victim.database());
        admin.batch_execute(&sql).await.unwrap();
        let copy = pid();
        node.create_logins(&copy).await.unwrap();
        // What it made is one thing more than the source has: no copy, and it says so.
        let error = node
            .stream_copy(&copy, &source, Content::All, LONG)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("differs from its source"),
            "{error}"
        );
        let inside = superuser(&node, &copy.database()).await;
        let row = inside.query_one("SELECT who FROM ran", &[]).await.unwrap();
        assert_eq!(
            row.get::<_, String>(0),
            format!("{}_fill", copy.database()),
            "it ran"
        );
        let row = inside
            .query_one("SELECT to_regclass('public.reached_program') IS NULL", &[])
            .await
            .unwrap();
        assert!(row.get::<_, bool>(0), "no program of ours was run");
        drop(inside);
        for pid in [&source, &victim] {
            for role in Role::ALL {
                login(&node, pid, role).await.unwrap();
            }
            let findings = node
                .check_tenant(&node::check::Expected {
                    pid: pid.clone(),
                    state: node::check::ExpectedState::Open,
                })
                .await
                .unwrap();
            assert_eq!(findings, [], "{major}");
        }
        assert_eq!(node.repair_shared().await.unwrap(), [], "{major}");
        let platform = superuser(&node, "postgres").await;
        let sql = "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = 'stolen') \
             + (SELECT count(*) FROM pg_database WHERE datname = 'stolen')";
        let row = platform.query_one(sql, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 0);
        server.stop(STOP).await;
    }
}

/// Nothing to copy from, or not for long enough: it fails, and nothing is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_be_leaves_nothing() {
    let dir = Scratch::new();
    let server = start(18, &dir).await;
    let node = server.node();
    let (gone, copy) = (pid(), pid());
    node.create_logins(&copy).await.unwrap();
    node.copy_database(&copy, &gone, LONG).await.unwrap_err();
    node.stream_copy(&copy, &gone, Content::All, LONG)
        .await
        .unwrap_err();
    node.drop_database(&copy).await.unwrap();
    node.drop_logins(&copy).await.unwrap();
    assert!(node.physical(&copy).await.unwrap().is_absent());
    let source = filled(&node).await;
    kit::until("the source has no session", async || {
        node.sessions(&source).await.unwrap() == 0
    })
    .await;
    node.create_logins(&copy).await.unwrap();
    let late = node
        .copy_database(&copy, &source, Duration::from_millis(1))
        .await
        .unwrap_err();
    assert!(late.is_temporary(), "{late}");
    assert_eq!(
        node.physical(&copy).await.unwrap().database,
        DatabaseState::Absent
    );
    let empty = node.create_database(&copy, &Template::Empty).await.unwrap();
    assert_ne!(empty.path, ClonePath::Existing);
    server.stop(STOP).await;
}
