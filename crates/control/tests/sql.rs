//! SQL over HTTP, through a door that checks logins for real.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{OPERATOR, Stack, text};
use serde_json::{Value, json};

struct Sql {
    stack: Stack,
    token: String,
}

impl Sql {
    async fn run(&self, body: Value) -> kit::Answer {
        self.stack
            .post("/customer/databases/a/sql", &self.token, body)
            .await
    }

    #[track_caller]
    fn query(&self, sql: &str) -> impl Future<Output = Value> {
        let answer = self.run(json!({ "query": sql }));
        async { answer.await.ok() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_scripts_and_errors() {
    let stack = Stack::with(|config| {
        config.limits.sql_rows_max = 100;
        config.limits.sql_result_bytes_max = 10_000;
        config.limits.sql_time_max = std::time::Duration::from_secs(2);
        config.limits.sql_body_bytes_max = 50_000;
        config.limits.body_bytes_max = 1000;
    })
    .await;
    let token = stack.token().await;
    let made = stack.create(&token, "a").await;
    let sql = Sql { stack, token };

    let created = sql
        .query(
            "CREATE TABLE t (id int PRIMARY KEY, big bigint, n numeric, j jsonb, b bool, s text)",
        )
        .await;
    assert_eq!(
        created,
        json!({"columns": [], "rows": [], "row_count": 0, "command": "CREATE TABLE"})
    );
    let script = "INSERT INTO t VALUES (1, 9007199254740993, 1.10, '{\"a\": [1]}', true, 'it''s');\n\
                  INSERT INTO t (id) VALUES (2), (3);";
    let answer = sql.run(json!({"file_content": script})).await.ok();
    assert_eq!(
        (&answer["command"], &answer["row_count"]),
        (&json!("INSERT"), &json!(2))
    );
    let found = sql
        .query("SELECT id, big, n, j, b, s, ARRAY[1,2] AS l FROM t ORDER BY id LIMIT 2")
        .await;
    assert_eq!(
        found["rows"],
        json!([
            [1, "9007199254740993", "1.10", {"a": [1]}, true, "it's", "{1,2}"],
            [2, null, null, null, null, null, "{1,2}"]
        ])
    );
    assert_eq!(
        (&found["command"], &found["row_count"]),
        (&json!("SELECT"), &json!(2))
    );
    let types: Vec<String> = found["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| text(&column["type"]))
        .collect();
    assert_eq!(
        types,
        ["int4", "int8", "numeric", "jsonb", "bool", "text", "int4[]"]
    );

    // Parameters, of every kind.
    let body = json!({
        "query": "SELECT $1::int + 1, $2::text, $3::jsonb, $4::bool, $5::int[] FROM t WHERE id = $6",
        "params": [41, "x'; DROP TABLE t; --", {"k": [true]}, null, "{1,2}", 1],
    });
    let found = sql.run(body).await.ok();
    assert_eq!(
        found["rows"],
        json!([[42, "x'; DROP TABLE t; --", {"k": [true]}, null, "{1,2}"]])
    );

    // A type that the database made itself, an empty query, SHOW, RETURNING.
    sql.query("CREATE TYPE mood AS ENUM ('ok')").await;
    assert_eq!(
        sql.query("SELECT 'ok'::mood AS m").await["columns"],
        json!([{"name": "m", "type": "mood"}])
    );
    assert_eq!(sql.query("").await["command"], "");
    assert_eq!(
        sql.query("SHOW server_encoding").await["rows"],
        json!([["UTF8"]])
    );
    let returned = sql.query("DELETE FROM t WHERE id = 3 RETURNING id").await;
    assert_eq!(
        (&returned["rows"], &returned["command"]),
        (&json!([[3]]), &json!("DELETE"))
    );
    // The last statement's result is answered.
    let last = sql.query("SELECT 1; CREATE TABLE u (a int)").await;
    assert_eq!(
        (&last["columns"], &last["command"]),
        (&json!([]), &json!("CREATE TABLE"))
    );

    // PostgreSQL's refusals come back as they are, and what came before is undone.
    let failed = sql
        .query("INSERT INTO t (id) VALUES (9); SELECT nope FROM t")
        .await;
    assert_eq!(failed["error"]["code"], "42703");
    assert_eq!(failed["error"]["position"], 39);
    assert_eq!(
        sql.query("SELECT count(*) FROM t").await["rows"],
        json!([[2]])
    );
    let failed = sql
        .run(json!({"query": "INSERT INTO t (id) VALUES ($1)", "params": [1]}))
        .await
        .ok();
    assert_eq!(failed["error"]["code"], "23505");
    assert!(text(&failed["error"]["detail"]).contains("(id)=(1)"));
    let several = json!({"query": "SELECT $1::int; SELECT 2", "params": [1]});
    assert_eq!(sql.run(several).await.ok()["error"]["code"], "42601");
    assert_eq!(
        sql.query("SELECT pg_sleep(60)").await["error"]["code"],
        "57014"
    );
    assert_eq!(
        sql.query("COPY t FROM STDIN").await["error"]["code"],
        "57014"
    );
    // Rows that this cannot return are no success.
    for query in ["COPY t TO STDOUT", "SELECT 1; COPY t TO STDOUT; SELECT 2"] {
        assert_eq!(sql.query(query).await["error"]["code"], "0A000", "{query}");
    }
    let copied = json!({"query": "COPY (SELECT 1) TO STDOUT", "params": []});
    assert_eq!(sql.run(copied).await.ok()["error"]["code"], "0A000");

    // Limits.
    sql.run(json!({"query": "SELECT generate_series(1, 101)"}))
        .await
        .error(422, "result_too_large");
    sql.run(json!({"query": "SELECT repeat('x', 20000)"}))
        .await
        .error(422, "result_too_large");
    let body = json!({"query": "INSERT INTO t (id) SELECT g FROM generate_series(1000, 1000 + $1::int) g RETURNING id", "params": [200]});
    sql.run(body).await.error(422, "result_too_large");
    assert_eq!(
        sql.query("SELECT count(*) FROM t").await["rows"],
        json!([[2]]),
        "nothing was changed"
    );
    let script = format!("SELECT 1; -- {}", "x".repeat(10_000));
    sql.run(json!({"file_content": script})).await.ok();
    let script = format!("SELECT 1; -- {}", "x".repeat(60_000));
    sql.run(json!({"file_content": script}))
        .await
        .error(413, "body_too_large");
    sql.run(json!({})).await.error(400, "invalid_field");

    // A token that may only read works as the role `read`.
    let reader = sql.stack.token().await;
    let hash = control::token_hash(&reader);
    let change = format!(
        "UPDATE credential SET access = 'read', project_id = '{}' WHERE token_hash = $1",
        text(&made["project_id"])
    );
    sql.stack
        .catalog()
        .await
        .execute(&change, &[&hash.as_slice()])
        .await
        .unwrap();
    let read = async |query: &str| {
        sql.stack
            .post(
                "/customer/databases/a/sql",
                &reader,
                json!({ "query": query }),
            )
            .await
            .ok()
    };
    assert_eq!(read("SELECT count(*) FROM t").await["rows"], json!([[2]]));
    assert_eq!(
        read("INSERT INTO t (id) VALUES (7)").await["error"]["code"],
        "42501"
    );
    assert_eq!(
        read("CREATE TABLE v (a int)").await["error"]["code"],
        "42501"
    );

    // The operator reaches every database, by id.
    let path = format!("/customer/databases/{}/sql", text(&made["id"]));
    let answer = sql
        .stack
        .post(&path, OPERATOR, json!({"query": "SELECT 1"}))
        .await
        .ok();
    assert_eq!(answer["rows"], json!([[1]]));
    sql.stack.stop().await;
}
