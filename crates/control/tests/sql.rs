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
            [1, "9007199254740993", "1.10", {"a": [1]}, true, "it's", [1, 2]],
            [2, null, null, null, null, null, [1, 2]]
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
        json!([[42, "x'; DROP TABLE t; --", {"k": [true]}, null, [1, 2]]])
    );

    // A type that the database made itself, an empty query, SHOW, RETURNING.
    sql.query("CREATE TYPE mood AS ENUM ('ok')").await;
    sql.query("CREATE DOMAIN positive AS int CHECK (value > 0)")
        .await;
    let own = sql
        .query("SELECT 'ok'::mood AS m, '{ok,NULL}'::mood[] AS l, '{1}'::positive[] AS p")
        .await;
    assert_eq!(
        own["columns"],
        json!([{"name": "m", "type": "mood"}, {"name": "l", "type": "mood[]"},
            {"name": "p", "type": "positive[]"}])
    );
    assert_eq!(own["rows"], json!([["ok", ["ok", null], [1]]]));
    // A list as a parameter is an array where one is expected.
    let lists = json!({
        "query": "SELECT $1::int[], $2::jsonb, $3::text, $4::mood[]",
        "params": [[[1, 2], [3, null]], [1, {"a": "b"}], ["x"], ["ok"]],
    });
    assert_eq!(
        sql.run(lists).await.ok()["rows"],
        json!([[[[1, 2], [3, null]], [1, {"a": "b"}], "[\"x\"]", ["ok"]]])
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
        json!([["2"]])
    );
    let failed = sql
        .run(json!({"query": "INSERT INTO t (id) VALUES ($1)", "params": [1]}))
        .await
        .ok();
    assert_eq!(failed["error"]["code"], "23505");
    assert!(text(&failed["error"]["detail"]).contains("(id)=(1)"));
    // One statement, and nothing of it when its answer is too large, also without values.
    let body = json!({"query": "INSERT INTO t (id) SELECT g FROM generate_series(5000, 5200) g RETURNING id", "params": []});
    sql.run(body).await.error(422, "result_too_large");
    let none = sql.query("SELECT count(*) FROM t WHERE id >= 5000").await;
    assert_eq!(none["rows"], json!([["0"]]));
    let several = json!({"query": "SELECT 1; SELECT 2", "params": []});
    assert_eq!(sql.run(several).await.ok()["error"]["code"], "42601");
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
        json!([["2"]]),
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
    assert_eq!(read("SELECT count(*) FROM t").await["rows"], json!([["2"]]));
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

/// A database of its own with a table `t`, and a token for it.
async fn with_table(change: fn(&mut control::Config)) -> Sql {
    let stack = Stack::with(change).await;
    let token = stack.token().await;
    stack.create(&token, "a").await;
    let sql = Sql { stack, token };
    sql.query("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, s text)")
        .await;
    sql
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_transaction() {
    let sql = with_table(|config| {
        config.limits.sql_rows_max = 100;
        config.limits.sql_time_max = std::time::Duration::from_secs(5);
    })
    .await;
    let count = async || {
        sql.query("SELECT count(*) FROM t").await["rows"][0][0]
            .as_str()
            .unwrap()
            .to_owned()
    };

    let body = json!({"statements": [
        {"query": "INSERT INTO t VALUES ($1, $2), (2, 'b')", "params": [1, "a"]},
        {"query": "SAVEPOINT s"},
        {"query": "DELETE FROM t"},
        {"query": "ROLLBACK TO SAVEPOINT s"},
        {"query": "SELECT id, s FROM t ORDER BY id"},
        {"query": ""},
        {"query": "SELECT pg_current_xact_id_if_assigned() IS NOT NULL, current_setting('transaction_isolation')"},
    ], "isolation": "repeatable_read"});
    let done = sql.run(body).await.ok();
    let results = done["results"].as_array().unwrap();
    assert_eq!(results.len(), 7);
    assert_eq!(
        (&results[0]["command"], &results[0]["row_count"]),
        (&json!("INSERT"), &json!(2))
    );
    assert_eq!(results[4]["rows"], json!([[1, "a"], [2, "b"]]));
    assert_eq!(results[6]["rows"], json!([[true, "repeatable read"]]));
    assert_eq!(count().await, "2");

    // One that fails undoes all, and says which it was.
    let failing = async |statements: Value| {
        let answer = sql.run(json!({ "statements": statements })).await.ok();
        assert_eq!(answer["results"], json!([]), "{answer}");
        (
            text(&answer["error"]["code"]),
            answer["error"]["statement"].clone(),
        )
    };
    let insert = |id: i32| json!({"query": "INSERT INTO t VALUES ($1)", "params": [id]});
    let wrong = json!([insert(3), {"query": "SELECT nope"}, insert(4)]);
    assert_eq!(failing(wrong).await, ("42703".to_owned(), json!(1)));
    // The commit itself fails: no statement is to blame.
    let doubled = json!([insert(5), insert(5)]);
    assert_eq!(failing(doubled).await, ("23505".to_owned(), Value::Null));
    // Nobody ends the transaction from inside, and nothing before it stays.
    for end in [
        "COMMIT",
        "/* x */ end",
        "ROLLBACK",
        "BEGIN",
        "; commit and chain",
    ] {
        let ended = json!([insert(6), {"query": end}, insert(7)]);
        assert_eq!(
            failing(ended).await,
            ("2D000".to_owned(), json!(1)),
            "{end}"
        );
    }
    let body = json!({"statements": [insert(8)], "read_only": true});
    let read_only = sql.run(body).await.ok();
    assert_eq!(read_only["error"]["code"], "25006");
    let two = json!([{"query": "SELECT 1; SELECT 2"}]);
    assert_eq!(failing(two).await, ("42601".to_owned(), json!(0)));
    // The limits hold for all results together, and beyond them nothing is done.
    let large = json!({"statements": [
        insert(9),
        {"query": "SELECT generate_series(1, 60)"},
        {"query": "SELECT generate_series(1, 60)"},
    ]});
    let told = sql.run(large).await.error(422, "result_too_large");
    assert!(text(&told["message"]).contains("100 rows"), "{told}");
    assert_eq!(count().await, "2", "nothing of all that stays");

    // The time is the caller's to shorten.
    let body = json!({"query": "SELECT pg_sleep(60)", "timeout_ms": 50});
    assert_eq!(sql.run(body).await.ok()["error"]["code"], "57014");
    for wrong in [json!(0), json!(5_001)] {
        let body = json!({"query": "SELECT 1", "timeout_ms": wrong});
        sql.run(body).await.error(400, "invalid_field");
    }
    let body = json!({"statements": []});
    assert_eq!(sql.run(body).await.ok(), json!({"results": []}));
    sql.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_carry_what_postgresql_says() {
    let sql = with_table(|_| {}).await;
    sql.query("CREATE TABLE u (a int CONSTRAINT positive CHECK (a > 0))")
        .await;
    let refused = sql.query("INSERT INTO u VALUES (-1)").await;
    let error = &refused["error"];
    assert_eq!(
        (&error["code"], &error["severity"], &error["schema"]),
        (&json!("23514"), &json!("ERROR"), &json!("public"))
    );
    assert_eq!(
        (&error["table"], &error["constraint"]),
        (&json!("u"), &json!("positive"))
    );
    assert_eq!(refused["rows"], json!([]));
    let inside =
        "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'AB123', DETAIL = 'd', HINT = 'h'; END $$";
    let error = &sql.query(inside).await["error"];
    assert_eq!(
        (&error["code"], &error["detail"], &error["hint"]),
        (&json!("AB123"), &json!("d"), &json!("h"))
    );
    assert!(text(&error["where"]).contains("inline_code_block"));
    // Big numbers keep every digit: as a text they go in, as a text they come out.
    let body =
        json!({"query": "SELECT $1::numeric, $2::int8", "params": ["12345678901234567890.10", 7]});
    assert_eq!(
        sql.run(body).await.ok()["rows"],
        json!([["12345678901234567890.10", "7"]])
    );
    let raw = r#"{"query": "SELECT $1::numeric", "params": [12345678901234567890123]}"#;
    let request = sql
        .stack
        .request(
            reqwest::Method::POST,
            "/customer/databases/a/sql",
            &sql.token,
        )
        .body(raw);
    sql.stack.send(request).await.error(400, "invalid_field");
    // What is not UTF-8 is an error and not another text.
    for query in [
        "SET client_encoding = 'LATIN1'; SELECT 'ü'",
        "SET client_encoding = 'SJIS'",
    ] {
        assert_eq!(sql.query(query).await["error"]["code"], "22P05", "{query}");
    }
    // Bytes count as they are written: a control character has six.
    let escaped = sql
        .run(json!({"query": "SELECT repeat(chr(1), 2000000)"}))
        .await;
    let told = escaped.error(422, "result_too_large");
    assert!(text(&told["message"]).contains("bytes"), "{told}");
    let kinds = sql
        .query(
            "SELECT '\\x00ff'::bytea, '2024-02-29 12:00:00.5+00'::timestamptz, 'NaN'::float8, 1e20::float8,
                 row(1, 'a'), '[1,3)'::int4range, NULL::int, '{}'::text[], '1 2'::int2vector, interval '1 day'",
        )
        .await;
    let first = kinds["rows"][0].as_array().unwrap();
    assert_eq!(first[0], "\\x00ff");
    assert!(text(&first[1]).starts_with("2024-02-29 "), "{}", first[1]);
    assert_eq!(
        first[2..],
        json!(["NaN", 1e20, "(1,a)", "[1,3)", null, [], "1 2", "1 day"])
            .as_array()
            .unwrap()[..]
    );
    sql.stack.stop().await;
}
