//! The check of the operator while databases are being restored, through the API, on a real PostgreSQL server.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use control::BackupPlace;
use kit::{
    OPERATOR, Stack,
    s3::{ACCESS_KEY, Bucket},
    text, wait_for,
};
use serde_json::{Value, json};

async fn check(stack: &Stack) -> Value {
    stack.get("/operator/check", OPERATOR).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_under_way_is_told_and_is_no_finding() {
    let bucket = Bucket::default();
    let options = format!(
        "AWS_ACCESS_KEY_ID={ACCESS_KEY}\nAWS_SECRET_ACCESS_KEY=secret\nAWS_REGION=here\n\
         AWS_ENDPOINT_URL=http://{}\n",
        bucket.serve().await
    );
    let place = BackupPlace::parse("s3://bucket/x", Some(&options)).unwrap();
    let stack = Stack::with(move |config| config.backup_place = place.clone()).await;
    let token = stack.token().await;
    let main = stack.create(&token, "main").await;
    let made = stack
        .post(
            "/customer/databases/main/backups?wait=60",
            &token,
            json!({}),
        )
        .await
        .ok();
    assert_eq!(made["state"], "ready", "{made}");
    let quiet = check(&stack).await;
    assert_eq!(
        (&quiet["clean"], &quiet["under_way"]),
        (&json!(true), &json!([])),
        "{quiet}"
    );

    // What is replaced is being read, and the store takes none of it.
    bucket.hold(true);
    let path = format!("/customer/backups/{}/restore", text(&made["id"]));
    let restore = stack.post(&path, &token, json!({})).await.ok();
    let catalog = stack.catalog().await;
    let previous: String = wait_for(async || {
        let sql = "SELECT d.datname::text FROM restore r JOIN pg_database d ON d.datname = 'x_' || r.previous_pid
            JOIN backup b ON b.id = r.safety_id AND b.upload IS NOT NULL
            WHERE d.datallowconn AND EXISTS (SELECT FROM pg_stat_activity WHERE usename = d.datname || '_backup')";
        let row = catalog.query_opt(sql, &[]).await.unwrap();
        row.map(|row| row.get(0))
    })
    .await;
    let seen = check(&stack).await;
    assert_eq!(seen["clean"], true, "{seen}");
    let told = &seen["under_way"][0];
    assert_eq!(
        (&told["kind"], &told["id"], &told["database_id"]),
        (&json!("restore"), &restore["id"], &main["id"]),
        "{seen}"
    );
    // Nobody of the tenant may come in there, whatever is under way.
    let grant = format!("GRANT CONNECT ON DATABASE {previous} TO {previous}_write");
    catalog.batch_execute(&grant).await.unwrap();
    let seen = check(&stack).await;
    assert_eq!(
        (&seen["clean"], &seen["findings"][0]["kind"]),
        (&json!(false), &json!("DatabaseAcl")),
        "{seen}"
    );
    let revoke = format!("REVOKE CONNECT ON DATABASE {previous} FROM {previous}_write");
    catalog.batch_execute(&revoke).await.unwrap();

    bucket.hold(false);
    let path = format!("/customer/restores/{}", text(&restore["id"]));
    wait_for(async || {
        let seen = stack.get(&path, &token).await.ok();
        assert_ne!(seen["state"], "failed", "{seen}");
        (seen["state"] == "done").then_some(())
    })
    .await;
    let over = check(&stack).await;
    assert_eq!(over["under_way"], json!([]), "{over}");
    stack.assert_clean().await;
    stack.stop().await;
}
