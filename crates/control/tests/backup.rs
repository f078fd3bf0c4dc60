//! Backups and restores through the API, on a real PostgreSQL server, in a folder and in an S3-compatible store.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use control::{BackupPlace, KeepError, Kept};
use kit::{
    OPERATOR, Stack,
    s3::{ACCESS_KEY, Bucket},
    text, wait_for,
};
use scratch::Scratch;
use serde_json::{Value, json};
use tokio_postgres::Client;

/// What tenants make, with everything that could be lost on the way.
const WORLD: &str = r#"
CREATE SCHEMA "Sales x";
CREATE EXTENSION hstore SCHEMA "Sales x";
CREATE TYPE mood AS ENUM ('bad', 'good');
CREATE SEQUENCE counter START 5 INCREMENT 3;
CREATE TABLE customer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL,
  mood mood DEFAULT 'good', n int, doubled int GENERATED ALWAYS AS (n * 2) STORED, tags "Sales x".hstore,
  f float8, at timestamptz, b bytea, j jsonb, m money);
CREATE TABLE "Sales x"."Order" (id serial PRIMARY KEY, customer bigint REFERENCES customer, v text);
CREATE TABLE part (k int, v int) PARTITION BY RANGE (k);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TABLE part_2 (v int, k int);
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (100) TO (200);
CREATE TABLE above (a int, b text);
CREATE TABLE below (c int) INHERITS (above);
ALTER TABLE above ADD COLUMN d int;
CREATE TABLE nothing ();
CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM customer;
ALTER TABLE customer ENABLE ROW LEVEL SECURITY;
ALTER TABLE customer FORCE ROW LEVEL SECURITY;
CREATE POLICY nobody ON customer FOR SELECT USING (name = current_user);
CREATE POLICY anybody ON customer FOR INSERT WITH CHECK (true);
CREATE FUNCTION spy("Sales x"."Order") RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'a cast ran'; END $$;
CREATE CAST ("Sales x"."Order" AS text) WITH FUNCTION spy;
INSERT INTO customer (name, n, tags, f, at, b, j, m) SELECT 'c' || i, i, 'a=>1', 1.0 / i, now(), '\x00ff', '{"a": 1}', 5
  FROM generate_series(1, 500) i;
INSERT INTO "Sales x"."Order" (v) SELECT repeat('x', i) FROM generate_series(1, 500) i;
INSERT INTO part SELECT i, i FROM generate_series(1, 199) i;
INSERT INTO below VALUES (1, 'two', 3, 4);
INSERT INTO nothing DEFAULT VALUES;
SELECT nextval('counter'), nextval('counter');
SELECT lo_from_bytea(4242, 'a large object');
SELECT lo_put(4242, 100000, 'far away');
"#;

async fn stack(dir: &Scratch) -> Stack {
    let folder = dir.join("kept");
    Stack::with(move |config| {
        config.backup_place = BackupPlace::folder(&folder);
        config.limits.anonymous_databases_max = 100;
    })
    .await
}

async fn one(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn backup(stack: &Stack, token: &str, database: &str) -> Value {
    let path = format!("/customer/databases/{database}/backups?wait=60");
    let made = stack.post(&path, token, json!({})).await.ok();
    assert_eq!(made["state"], "ready", "{made}");
    made
}

async fn restore(stack: &Stack, token: &str, backup: &Value, body: Value) -> Value {
    let path = format!("/customer/backups/{}/restore?wait=60", text(&backup["id"]));
    stack.post(&path, token, body).await.ok()
}

async fn pid(stack: &Stack, database: &Value) -> String {
    let catalog = stack.catalog().await;
    let sql = "SELECT pid FROM tenant WHERE id = $1";
    let row = catalog.query_one(sql, &[&text(&database["id"])]).await;
    row.unwrap().get(0)
}

/// Until every placement rests.
async fn rest(stack: &Stack) {
    let catalog = stack.catalog().await;
    wait_for(async || {
        let sql = "SELECT count(*) FROM placement WHERE unsettled_since IS NOT NULL OR owner IN ('nobody', 'kept')";
        (one(&catalog, sql).await == 0).then_some(())
    })
    .await;
}

async fn assert_world(client: &Client) {
    for (sql, wanted) in [
        ("SELECT count(*) FROM \"Sales x\".\"Order\"", 500),
        ("SELECT count(*) FROM part", 199),
        ("SELECT count(*) FROM ONLY above", 0),
        ("SELECT sum(a + c + d) FROM below", 8),
        ("SELECT count(*) FROM nothing", 1),
        // Row security binds even its owner.
        ("SELECT count(*) FROM customer", 0),
        ("SELECT nextval('counter')", 11),
        (
            "SELECT nextval(pg_get_serial_sequence('customer', 'id'))",
            501,
        ),
        ("SELECT length(lo_get(4242))::int8", 100_008),
    ] {
        assert_eq!(one(client, sql).await, wanted, "{sql}");
    }
    client
        .batch_execute("ALTER TABLE customer DISABLE ROW LEVEL SECURITY")
        .await
        .unwrap();
    assert_eq!(
        one(client, "SELECT sum(doubled) FROM customer").await,
        250_500
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_its_database_again_or_a_new_one() {
    let dir = Scratch::new();
    let stack = stack(&dir).await;
    let token = stack.token().await;
    let main = stack.create(&token, "main").await;
    let neighbour = stack.create(&token, "neighbour").await;
    let (main_id, neighbour_pid) = (text(&main["id"]), pid(&stack, &neighbour).await);
    let users = format!("/customer/databases/{main_id}/users");
    for name in ["ann", "bob"] {
        let user = json!({ "username": name });
        stack.post(&users, &token, user).await.ok();
    }
    let client = stack.login(&main).await.unwrap();
    client.batch_execute(WORLD).await.unwrap();
    // Grants that name logins of this database, one of which will be gone.
    let logins = "SELECT rolname::text FROM pg_roles WHERE rolname ~ ('^' || current_database() || '_(read|write)')";
    for row in client.query(logins, &[]).await.unwrap() {
        let login: String = row.get(0);
        let sql = format!(
            "GRANT SELECT ON part TO \"{login}\"; CREATE POLICY \"{login}\" ON part TO \"{login}\" USING (true)"
        );
        client.batch_execute(&sql).await.unwrap();
    }

    // Somebody goes on writing.
    client
        .batch_execute("CREATE TABLE busy (v bigserial, pair int)")
        .await
        .unwrap();
    let writer = stack.login(&main).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writes = tokio::spawn({
        let stop = stop.clone();
        async move {
            while !stop.load(Ordering::Relaxed) {
                let sql = "BEGIN; INSERT INTO busy (pair) VALUES (1); INSERT INTO busy (pair) VALUES (-1); COMMIT";
                writer.batch_execute(sql).await.unwrap();
            }
        }
    });
    let made = backup(&stack, &token, "main").await;
    stop.store(true, Ordering::Relaxed);
    writes.await.unwrap();
    assert!(made["rows"].as_i64().unwrap() >= 1200, "{made}");
    let verify = format!("/customer/backups/{}/verify?wait=60", text(&made["id"]));
    let read = stack.post(&verify, &token, json!({})).await.ok();
    assert!(
        read["verified_at"].is_string() && read["verify_error"].is_null(),
        "{read}"
    );

    // Everything changes, and one of the users goes.
    client
        .batch_execute("DROP TABLE part; TRUNCATE customer CASCADE; SELECT lo_unlink(4242); CREATE TABLE later ()")
        .await
        .unwrap();
    drop(client);
    stack
        .delete(&format!("{users}/bob?wait=10"), &token)
        .await
        .ok();

    let restored = restore(&stack, &token, &made, json!({})).await;
    assert_eq!(restored["state"], "done", "{restored}");
    assert_eq!(restored["mode"], "in_place");
    assert_eq!(restored["database"]["id"], main["id"]);
    let client = stack.login(&main).await.unwrap();
    assert_world(&client).await;
    assert_eq!(
        one(&client, "SELECT coalesce(sum(pair), 0) FROM busy").await,
        0
    );
    let later = "SELECT count(*) FROM pg_class WHERE relname = 'later'";
    assert_eq!(one(&client, later).await, 0);
    let named = "SELECT count(*) FROM pg_policies WHERE tablename = 'part'";
    assert_eq!(one(&client, named).await, 3);
    drop(client);
    rest(&stack).await;
    assert_eq!(pid(&stack, &neighbour).await, neighbour_pid);
    stack.assert_clean().await;

    // What it was before is a backup, too.
    let path = format!("/customer/databases/{main_id}/backups");
    let all = stack.get(&path, &token).await.ok();
    let safety = all
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["kind"] == "safety");
    let safety = safety.unwrap().clone();
    assert_eq!(safety["id"], restored["safety_backup_id"]);
    let before = restore(&stack, &token, &safety, json!({ "name": "before" })).await;
    assert_eq!(before["state"], "done", "{before}");
    let client = stack.login(&before["database"]).await.unwrap();
    assert_eq!(one(&client, later).await, 1);
    drop(client);

    // The database goes, with its roles; its backup does not.
    let retention = "UPDATE tenant SET purge_after = now() WHERE id = $1";
    stack
        .delete(&format!("/customer/databases/{main_id}?wait=30"), &token)
        .await
        .ok();
    let catalog = stack.catalog().await;
    catalog.execute(retention, &[&main_id]).await.unwrap();
    let touch =
        "UPDATE placement SET due_at = now() WHERE pid = (SELECT pid FROM tenant WHERE id = $1)";
    catalog.execute(touch, &[&main_id]).await.unwrap();
    stack.wait_gone(&main_id).await;
    let path = format!("/customer/backups/{}/restore", text(&made["id"]));
    stack
        .post(&path, &token, json!({}))
        .await
        .error(409, "wrong_state");
    let again = restore(&stack, &token, &made, json!({ "name": "again" })).await;
    assert_eq!(again["state"], "done", "{again}");
    let client = stack.login(&again["database"]).await.unwrap();
    assert_world(&client).await;
    drop(client);
    rest(&stack).await;
    stack.assert_clean().await;
    let listed = stack.get("/customer/backups", &token).await.ok();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    stack.stop().await;
}

fn file(dir: &Scratch, backup: &Value) -> std::path::PathBuf {
    let name = format!(
        "kept/{}/{}.tntry",
        text(&backup["database_id"]),
        text(&backup["id"])
    );
    dir.join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_was_written_is_refused_before_anything_is_touched() {
    let dir = Scratch::new();
    let stack = stack(&dir).await;
    let token = stack.token().await;
    let main = stack.create(&token, "main").await;
    let other = stack.create(&token, "other").await;
    let client = stack.login(&main).await.unwrap();
    client
        .batch_execute("CREATE TABLE t AS SELECT generate_series(1, 10) v")
        .await
        .unwrap();
    let ours = backup(&stack, &token, "main").await;
    let second = backup(&stack, &token, "main").await;
    let theirs = backup(&stack, &token, "other").await;
    client
        .batch_execute("DELETE FROM t WHERE v > 3")
        .await
        .unwrap();
    let path = file(&dir, &ours);
    let whole = std::fs::read(&path).unwrap();
    let before = pid(&stack, &main).await;

    let flipped = {
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    let mut longer = whole.clone();
    longer.push(0);
    for (what, bytes, code) in [
        ("a flipped bit", flipped, "backup_damaged"),
        (
            "no end",
            whole[..whole.len() - 1].to_vec(),
            "backup_damaged",
        ),
        ("half", whole[..whole.len() / 2].to_vec(), "backup_damaged"),
        ("nothing", Vec::new(), "backup_damaged"),
        ("more", longer, "backup_damaged"),
        (
            "another's",
            std::fs::read(file(&dir, &theirs)).unwrap(),
            "backup_of_another_database",
        ),
        (
            "another one",
            std::fs::read(file(&dir, &second)).unwrap(),
            "backup_damaged",
        ),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let refused = restore(&stack, &token, &ours, json!({})).await;
        assert_eq!(refused["state"], "failed", "{what}: {refused}");
        assert_eq!(refused["error_code"], code, "{what}: {refused}");
        let verify = format!("/customer/backups/{}/verify?wait=60", text(&ours["id"]));
        let read = stack.post(&verify, &token, json!({})).await.ok();
        assert!(
            text(&read["verify_error"]).starts_with(code),
            "{what}: {read}"
        );
    }
    // A key that is another's.
    std::fs::write(&path, &whole).unwrap();
    let catalog = stack.catalog().await;
    let keep = "SELECT wrapped FROM backup_key WHERE tenant_id = $1";
    let key: Vec<u8> = catalog
        .query_one(keep, &[&text(&main["id"])])
        .await
        .unwrap()
        .get(0);
    let swap = "UPDATE backup_key SET wrapped = (SELECT wrapped FROM backup_key WHERE tenant_id = $2) WHERE tenant_id = $1";
    catalog
        .execute(swap, &[&text(&main["id"]), &text(&other["id"])])
        .await
        .unwrap();
    let refused = restore(&stack, &token, &ours, json!({})).await;
    assert_eq!(refused["error_code"], "backup_key_wrong", "{refused}");

    // Nothing was touched: the session goes on where it was.
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, 3);
    assert_eq!(pid(&stack, &main).await, before);
    let all = format!("/customer/databases/{}/backups", text(&main["id"]));
    let all = stack.get(&all, &token).await.ok();
    assert!(
        all.as_array()
            .unwrap()
            .iter()
            .all(|one| one["kind"] == "manual"),
        "{all}"
    );

    // The right key, the right file.
    let back = "UPDATE backup_key SET wrapped = $2 WHERE tenant_id = $1";
    catalog
        .execute(back, &[&text(&main["id"]), &key])
        .await
        .unwrap();
    let body = json!({ "safety_backup": false });
    let done = restore(&stack, &token, &ours, body).await;
    assert_eq!(done["state"], "done", "{done}");
    assert!(done["safety_backup_id"].is_null());
    drop(client);
    let client = stack.login(&main).await.unwrap();
    assert_eq!(one(&client, "SELECT count(*) FROM t").await, 10);

    // Erased: copies of the files are worth nothing.
    let erase = format!("/customer/databases/{}/backups/erase", text(&main["id"]));
    let erased = stack.post(&erase, &token, json!({})).await.ok();
    assert_eq!(erased["backups"], 2);
    wait_for(async || (!path.exists()).then_some(())).await;
    let gone = format!("/customer/backups/{}", text(&ours["id"]));
    wait_for(async || (stack.get(&gone, &token).await.status == 404).then_some(())).await;
    let as_before =
        "INSERT INTO backup (id, tenant_id, project_id, tenant_name, kind, state, due_at)
        SELECT $2, id, project_id, name, 'manual', 'ready', NULL FROM tenant WHERE id = $1";
    catalog
        .execute(as_before, &[&text(&main["id"]), &text(&ours["id"])])
        .await
        .unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, &whole).unwrap();
    let refused = restore(&stack, &token, &ours, json!({})).await;
    assert_eq!(refused["error_code"], "backup_key_destroyed", "{refused}");
    // A later backup has a key of its own, which does not open them either.
    backup(&stack, &token, "main").await;
    let refused = restore(&stack, &token, &ours, json!({})).await;
    assert_eq!(refused["error_code"], "backup_key_wrong", "{refused}");
    rest(&stack).await;
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test]
async fn a_file_that_grows_is_kept_in_an_s3_compatible_store_and_never_replaced() {
    let bucket = Bucket::default();
    let endpoint = bucket.serve().await;
    let place = BackupPlace::parse("s3://bucket/logs", Some(&store_options(endpoint))).unwrap();
    let keep = async |text: &str| place.keep("one.jsonl", text.into()).await;
    assert_eq!(keep("a\n").await.unwrap(), Kept::Now);
    assert_eq!(keep("a\n").await.unwrap(), Kept::Before);
    assert_eq!(keep("a\nb\n").await.unwrap(), Kept::Now);
    let longer = keep("a\n").await.unwrap_err();
    assert!(
        matches!(longer, KeepError::Longer { there: 4, here: 2 }),
        "{longer:?}"
    );
    let another = keep("A\nb\nc\n").await.unwrap_err();
    assert!(matches!(another, KeepError::Another), "{another:?}");
    assert_eq!(bucket.names(), ["bucket/logs/one.jsonl"]);
    bucket.change("bucket/logs/one.jsonl", |kept| {
        assert_eq!(kept, b"a\nb\n");
        kept
    });
    let wrong = store_options(endpoint).replace(ACCESS_KEY, "somebody");
    let place = BackupPlace::parse("s3://bucket/logs", Some(&wrong)).unwrap();
    let refused = place.keep("two.jsonl", b"a\n".to_vec()).await.unwrap_err();
    assert!(matches!(refused, KeepError::Place(_)), "{refused:?}");
}

fn store_options(endpoint: std::net::SocketAddr) -> String {
    format!(
        "AWS_ACCESS_KEY_ID={ACCESS_KEY}\nAWS_SECRET_ACCESS_KEY=secret\nAWS_REGION=here\n\
         AWS_ENDPOINT_URL=http://{endpoint}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_kept_in_an_s3_compatible_store() {
    let bucket = Bucket::default();
    let endpoint = bucket.serve().await;
    let options = store_options(endpoint);
    let place = BackupPlace::parse("s3://bucket/some/prefix", Some(&options)).unwrap();
    let stack = Stack::with(move |config| config.backup_place = place.clone()).await;
    let token = stack.token().await;
    let main = stack.create(&token, "main").await;
    let client = stack.login(&main).await.unwrap();
    // More than one part, since it cannot be made smaller.
    let sql = "CREATE TABLE big AS SELECT decode(string_agg(md5(random()::text), ''), 'hex') AS v
        FROM generate_series(1, 1500000) i GROUP BY i / 50000";
    client.batch_execute(sql).await.unwrap();
    bucket.refuse(2);
    let made = backup(&stack, &token, "main").await;
    assert_eq!(bucket.refused(), 2);
    assert!(made["size_bytes"].as_i64().unwrap() > 20_000_000, "{made}");
    let name = format!(
        "bucket/some/prefix/{}/{}.tntry",
        text(&main["id"]),
        text(&made["id"])
    );
    assert_eq!(bucket.names(), std::slice::from_ref(&name));
    assert_eq!(bucket.half(), 0);
    let sum = "SELECT sum(hashtextextended(v::text, 0))::text FROM big";
    let wanted: String = client.query_one(sum, &[]).await.unwrap().get(0);
    client.batch_execute("DROP TABLE big").await.unwrap();
    drop(client);
    let body = json!({ "safety_backup": false });
    let done = restore(&stack, &token, &made, body).await;
    assert_eq!(done["state"], "done", "{done}");
    let client = stack.login(&main).await.unwrap();
    let got: String = client.query_one(sum, &[]).await.unwrap().get(0);
    assert_eq!(got, wanted);
    drop(client);

    // A bucket that is away says nothing of what is in it.
    let path = format!("/customer/backups/{}", text(&made["id"]));
    bucket.be_gone(true);
    let verify = format!("{path}/verify");
    stack.post(&verify, &token, json!({})).await.ok();
    let away = wait_for(async || {
        let seen = stack.get(&path, &token).await.ok();
        let is_told = !seen["last_error"].is_null() || !seen["verify_error"].is_null();
        is_told.then_some(seen)
    })
    .await;
    assert!(
        text(&away["last_error"]).contains("the bucket of backups is not there")
            && away["verifying"] == true,
        "{away}"
    );
    let body = json!({ "safety_backup": false });
    let again = stack
        .post(&format!("{path}/restore"), &token, body)
        .await
        .ok();
    let again = format!("/customer/restores/{}", text(&again["id"]));
    let waits = wait_for(async || {
        let seen = stack.get(&again, &token).await.ok();
        (!seen["error"].is_null()).then_some(seen)
    })
    .await;
    assert_eq!(waits["state"], "verifying", "{waits}");
    assert_eq!(waits["error_code"], "backup_store_unreachable", "{waits}");
    bucket.be_gone(false);
    let done = wait_for(async || {
        let seen = stack.get(&again, &token).await.ok();
        (seen["state"] == "done").then_some(seen)
    })
    .await;
    assert!(
        done["error"].is_null() && done["error_code"].is_null(),
        "{done}"
    );
    let back = wait_for(async || {
        let seen = stack.get(&path, &token).await.ok();
        (seen["verifying"] == false).then_some(seen)
    })
    .await;
    assert!(
        back["verify_error"].is_null() && back["last_error"].is_null(),
        "{back}"
    );

    // Not even when it stays away for longer than anybody tries: the last time, which others follow after 35 minutes.
    bucket.be_gone(true);
    stack.post(&verify, &token, json!({})).await.ok();
    let catalog = stack.catalog().await;
    let last = "UPDATE backup SET attempts = 12, due_at = now() WHERE id = $1 AND attempts > 0 AND attempts < 12 AND leased_by IS NULL";
    let unread = wait_for(async || {
        catalog.execute(last, &[&text(&made["id"])]).await.unwrap();
        let seen = stack.get(&path, &token).await.ok();
        (seen["verifying"] == false).then_some(seen)
    })
    .await;
    assert!(
        text(&unread["last_error"]).starts_with("backup_store_unreachable"),
        "{unread}"
    );
    for of_before in ["state", "verified_at", "verify_error"] {
        assert_eq!(unread[of_before], back[of_before], "{unread}");
    }
    bucket.be_gone(false);
    let waits = format!("{verify}?wait=60");
    let again = stack.post(&waits, &token, json!({})).await.ok();
    assert!(
        again["last_error"].is_null() && again["verified_at"] != back["verified_at"],
        "{again}"
    );

    bucket.change(&name, |mut bytes| {
        bytes.truncate(bytes.len() - 1);
        bytes
    });
    let refused = restore(&stack, &token, &made, json!({})).await;
    assert_eq!(refused["error_code"], "backup_damaged", "{refused}");
    stack.delete(&path, &token).await.ok();
    wait_for(async || bucket.names().is_empty().then_some(())).await;
    wait_for(async || (stack.get(&path, OPERATOR).await.status == 404).then_some(())).await;
    rest(&stack).await;
    stack.assert_clean().await;
    stack.stop().await;
}
