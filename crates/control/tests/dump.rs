//! Dumps that are written for owners, through the API: whole, or no answer that ends.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{Answer, Stack, wait_for};
use reqwest::{Method, Version};
use serde_json::json;

const PATH: &str = "/customer/databases/main/dump-file";
/// Of 40 MB, far more than is on its way to a client that does not read.
const FILL: &str =
    "CREATE TABLE big AS SELECT i, repeat('x', 1000) AS v FROM generate_series(1, 40000) i;
    ALTER TABLE big ENABLE ROW LEVEL SECURITY; ALTER TABLE big FORCE ROW LEVEL SECURITY";

/// Until no login of a dump is left.
async fn wait_gone(stack: &Stack) {
    let catalog = stack.catalog().await;
    wait_for(async || {
        let sql = "SELECT FROM pg_roles WHERE rolname LIKE '%\\_export'";
        let rows = catalog.query(sql, &[]).await.unwrap();
        rows.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_breaks_off_is_no_answer_that_ends() {
    let mut stack = Stack::start().await;
    let token = stack.token().await;
    let main = stack.create(&token, "main").await;
    let client = stack.login(&main).await.unwrap();
    client.batch_execute(FILL).await.unwrap();
    let catalog = stack.catalog().await;
    let ask = |version| {
        let request = stack.request(Method::POST, PATH, &token);
        request
            .version(version)
            .json(&json!({ "schemas": ["public"] }))
    };

    let mut begun = ask(Version::HTTP_11).send().await.unwrap();
    assert_eq!(begun.status(), 200);
    assert!(begun.chunk().await.unwrap().is_some());
    // One of a database at a time.
    let second = Answer::read(ask(Version::HTTP_11).send().await.unwrap()).await;
    second.error(429, "too_many_requests");
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE '%\\_export'";
    assert_eq!(catalog.query(end, &[]).await.unwrap().len(), 1);
    let broken = loop {
        match begun.chunk().await {
            Ok(Some(_)) => {}
            ended => break ended,
        }
    };
    assert!(broken.is_err(), "it ended as if it were whole");
    wait_gone(&stack).await;

    // Nobody reads it any more.
    let begun = ask(Version::HTTP_11).send().await.unwrap();
    assert_eq!(begun.status(), 200);
    drop(begun);
    wait_gone(&stack).await;

    let whole = wait_for(async || {
        let answer = ask(Version::HTTP_11).send().await.unwrap();
        match answer.status().as_u16() {
            200 => Some(answer.text().await.unwrap()),
            429 => None,
            other => panic!("{other}"),
        }
    })
    .await;
    assert!(whole.contains("PostgreSQL database dump complete"));
    assert_eq!(whole.matches("xxxx\n").count(), 40_000);
    wait_gone(&stack).await;

    // What a process leaves that dies is removed by the next one.
    let left = "CREATE ROLE x_abcdefghijkl_export";
    catalog.batch_execute(left).await.unwrap();
    stack.stop_control().await;
    stack.start_control().await;
    wait_gone(&stack).await;
    stack.assert_clean().await;
    stack.stop().await;
}

/// The login of a database's dumps is one: without it, the one that ends takes it from the one that begins.
#[tokio::test(flavor = "multi_thread")]
async fn processes_dump_a_database_one_after_another() {
    let mut stack = Stack::start().await;
    let token = stack.token().await;
    let main = stack.create(&token, "main").await;
    let client = stack.login(&main).await.unwrap();
    let name = client.query_one("SELECT current_database()", &[]).await;
    let name: String = name.unwrap().get(0);
    let pid = name.strip_prefix("x_").unwrap().parse().unwrap();
    let catalog = stack.catalog().await;
    let logins = async || {
        let sql = "SELECT FROM pg_roles WHERE rolname LIKE '%\\_export'";
        catalog.query(sql, &[]).await.unwrap().len()
    };

    // Another process has the turn, and its pg_dump has not logged in yet.
    let node = stack.node();
    let turn = node.export_turn(&pid).await.unwrap().unwrap();
    let login = format!("CREATE ROLE {name}_export");
    catalog.batch_execute(&login).await.unwrap();
    let second = stack.post(PATH, &token, json!({})).await;
    second.error(429, "too_many_requests");
    assert_eq!(logins().await, 1);
    stack.stop_control().await;
    stack.start_control().await;
    node.end_exports().await.unwrap();
    assert_eq!(logins().await, 1);
    turn.end().await;
    let ask = stack.request(Method::POST, PATH, &token).json(&json!({}));
    let answer = ask.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let whole = answer.text().await.unwrap();
    assert!(whole.contains("PostgreSQL database dump complete"));
    wait_gone(&stack).await;

    // One whose process is killed.
    drop(node.export_turn(&pid).await.unwrap().unwrap());
    catalog.batch_execute(&login).await.unwrap();
    wait_for(async || {
        node.end_exports().await.unwrap();
        (logins().await == 0).then_some(())
    })
    .await;
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_dumped_is_refused_before_the_first_byte() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    stack.create(&token, "main").await;
    let ask = async |body| stack.post(PATH, &token, body).await;
    for body in [
        json!({ "format": "tar" }),
        json!({ "ddl_only": true, "data_only": true }),
        json!({ "schemas": [""] }),
        json!({ "schemas": vec!["s"; 101] }),
    ] {
        ask(body).await.error(400, "invalid_field");
    }
    let refused = ask(json!({ "schemas": ["nowhere"] })).await;
    let refused = refused.error(409, "dump_failed");
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("no matching schemas"),
        "{refused}"
    );
    let old = stack.request(Method::POST, PATH, &token);
    let old = old.version(Version::HTTP_10).json(&json!({})).send().await;
    Answer::read(old.unwrap()).await.error(400, "bad_request");
    let limits = "/customer/databases/main/limits";
    stack
        .patch(limits, &token, json!({ "result_rows_max": 10 }))
        .await
        .ok();
    ask(json!({})).await.error(403, "limit_not_allowed");
    stack
        .patch(limits, &token, json!({ "result_rows_max": null }))
        .await
        .ok();
    ask(json!({})).await.ok();
    let suspend = "/customer/databases/main/suspend";
    stack.post(suspend, &token, json!({})).await.ok();
    ask(json!({})).await.error(409, "wrong_state");
    wait_gone(&stack).await;
    stack.stop().await;
}
