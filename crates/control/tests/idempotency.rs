//! The same write sent twice is done once.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::sync::Arc;

use kit::{Answer, OPERATOR, Stack, text};
use reqwest::Method;
use serde_json::{Value, json};

async fn create(stack: &Stack, token: &str, key: &str, body: Value) -> Answer {
    let request = stack.request(Method::POST, "/customer/databases", token);
    stack
        .send(request.header("idempotency-key", key).json(&body))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_gets_the_same_answer_and_another_request_none() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let first = create(&stack, &token, "k1", json!({"name": "a"})).await;
    assert_eq!(first.status, 201);
    let again = create(&stack, &token, "k1", json!({"name": "a"})).await;
    assert_eq!(again.status, 201);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.body, first.body, "password and all");
    assert!(stack.login(&again.body).await.is_ok());
    create(&stack, &token, "k1", json!({"name": "b"}))
        .await
        .error(422, "idempotency_key_reused");
    // Keys of another project are other keys.
    let other = stack.token().await;
    let theirs = create(&stack, &other, "k1", json!({"name": "a"}))
        .await
        .ok();
    assert_ne!(theirs["id"], first.body["id"]);
    // An error is not kept: nothing was done.
    create(&stack, &token, "k2", json!({"name": "a"}))
        .await
        .error(409, "name_taken");
    stack.delete("/customer/databases/a", &token).await.ok();
    create(&stack, &token, "k2", json!({"name": "a"}))
        .await
        .ok();
    for bad in ["", "ä", "a b", &"x".repeat(256)] {
        let request = stack.request(Method::POST, "/customer/databases", &token);
        let answer = stack
            .send(request.header("idempotency-key", bad).json(&json!({})))
            .await;
        answer.error(400, "invalid_field");
    }

    // A replaced password is shown again, and replaced once.
    let reset = async || {
        let path = "/customer/databases/a/reset-password";
        let request = stack
            .request(Method::POST, path, &token)
            .header("idempotency-key", "r");
        stack.send(request).await.ok()
    };
    let once = reset().await;
    assert_eq!(once, reset().await);
    assert!(stack.login(&once).await.is_ok());
    // What is stored is not readable.
    let stored: Vec<u8> = stack
        .catalog()
        .await
        .query_one("SELECT response FROM idempotency WHERE key = 'r'", &[])
        .await
        .unwrap()
        .get(0);
    let password = text(&once["admin_password"]);
    assert!(
        !stored
            .windows(password.len())
            .any(|window| window == password.as_bytes())
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_once_with_one_key_make_one_database() {
    let stack = Arc::new(Stack::start().await);
    let answers = at_once(&stack, |stack| async move {
        create(&stack, OPERATOR, "same", json!({"name": "one"}))
            .await
            .ok()
    })
    .await;
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(
        stack
            .get("/customer/databases", OPERATOR)
            .await
            .ok()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    Arc::into_inner(stack).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_once_with_one_name_make_one_database() {
    let stack = Arc::new(Stack::start().await);
    let answers = at_once(&stack, |stack| async move {
        stack
            .post("/customer/databases", OPERATOR, json!({"name": "one"}))
            .await
    })
    .await;
    let mut won = 0;
    for answer in answers {
        if answer.status == 201 {
            won += 1;
        } else {
            answer.error(409, "name_taken");
        }
    }
    assert_eq!(won, 1);
    // Get-or-create: all get the same one, and only its maker sees a password.
    let answers = at_once(&stack, |stack| async move {
        let body = json!({"name": "two", "if_not_exists": true});
        stack.post("/customer/databases", OPERATOR, body).await.ok()
    })
    .await;
    assert!(
        answers
            .iter()
            .all(|answer| answer["id"] == answers[0]["id"])
    );
    let made = answers
        .iter()
        .filter(|answer| answer.get("admin_password").is_some())
        .count();
    assert_eq!(made, 1);
    // The losers gave their pool entries back.
    stack.assert_clean().await;
    Arc::into_inner(stack).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_has_a_bounded_number_of_keys() {
    let stack = Stack::with(|config| config.limits.idempotency_keys_max = 2).await;
    let token = stack.token().await;
    for key in ["a", "b"] {
        create(&stack, &token, key, json!({})).await.ok();
    }
    create(&stack, &token, "c", json!({}))
        .await
        .error(429, "too_many_requests");
    create(&stack, OPERATOR, "c", json!({})).await.ok();
    stack.stop().await;
}

/// Tokens that may do everything share the project's keys; one that may do less has its own, is answered
/// nothing that others were, and takes nothing of their room.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_do_less_has_keys_of_its_own() {
    let stack = Stack::with(|config| config.limits.idempotency_keys_max = 3).await;
    let owner = stack.token().await;
    let made = create(&stack, &owner, "k", json!({"name": "a"})).await.ok();
    let token = async |body: Value| {
        let made = stack.post("/customer/tokens", &owner, body).await.ok();
        text(&made["token"])
    };
    let second = token(json!({})).await;
    let again = create(&stack, &second, "k", json!({"name": "a"})).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.ok()["admin_password"], made["admin_password"]);

    let readers = [
        token(json!({"access": "ro"})).await,
        token(json!({"access": "ro"})).await,
    ];
    let select = async |token: &str, key: &str, value: u32| {
        let path = "/customer/databases/a/sql";
        let body = json!({"query": format!("SELECT {value}")});
        let request = stack.request(Method::POST, path, token).json(&body);
        stack.send(request.header("idempotency-key", key)).await
    };
    // The same key, and other requests: each gets what it asked for.
    for (token, value) in [(&readers[0], 1), (&readers[1], 2)] {
        for _ in 0..2 {
            let answer = select(token, "k", value).await.ok();
            assert_eq!(answer["rows"], json!([[value]]));
        }
        select(token, "k", 7)
            .await
            .error(422, "idempotency_key_reused");
    }
    let long = "l".repeat(255);
    for key in ["k2", &long] {
        select(&readers[0], key, 1).await.ok();
    }
    select(&readers[0], "k4", 1)
        .await
        .error(429, "too_many_requests");
    select(&readers[1], "k2", 1).await.ok();
    for key in ["k2", "k3"] {
        create(&stack, &owner, key, json!({})).await.ok();
    }
    create(&stack, &owner, "k4", json!({}))
        .await
        .error(429, "too_many_requests");
    stack.stop().await;
}

async fn at_once<T, F>(stack: &Arc<Stack>, ask: impl Fn(Arc<Stack>) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let tasks: Vec<_> = (0..20).map(|_| tokio::spawn(ask(stack.clone()))).collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}
