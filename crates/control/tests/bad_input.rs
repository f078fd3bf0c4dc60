//! What cannot be understood gets a clear error with its code, and changes nothing.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::time::Duration;

use kit::{OPERATOR, Stack};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_answered_in_our_words() {
    let stack = Stack::start().await;
    let long = "x".repeat(64);
    for name in [
        "", "A", "a b", "..", "../etc", "a\"b", "a'b", "näme", "a__b", &long, "a\0b", "a;DROP",
    ] {
        let answer = stack
            .post("/customer/databases", OPERATOR, json!({ "name": name }))
            .await;
        answer.error(400, "invalid_name");
    }
    for (body, code) in [
        (json!({"name": 5}), "invalid_body"),
        (json!({"name": {"a": 1}}), "invalid_body"),
        (json!([]), "invalid_body"),
        (json!("text"), "invalid_body"),
        (json!({"if_not_exists": "yes"}), "invalid_body"),
        (json!({"if_not_exists": true}), "invalid_field"),
        (json!({"project_id": "prj_'; DROP"}), "invalid_field"),
        (json!({"admin_password": "short"}), "invalid_field"),
        (
            json!({"admin_password": "has a \n control"}),
            "invalid_field",
        ),
    ] {
        stack
            .post("/customer/databases", OPERATOR, body)
            .await
            .error(400, code);
    }
    // What was expected is said.
    for (body, words) in [
        (
            json!([]),
            "the body is a list, where a JSON object is expected",
        ),
        (json!(["a", null, null, true, null]), "the body is a list"),
        (json!(null), "the body is null"),
        (
            json!({"name": 5}),
            "invalid type: integer `5`, expected a string",
        ),
    ] {
        let answer = stack.post("/customer/databases", OPERATOR, body).await;
        let error = answer.error(400, "invalid_body");
        assert!(kit::text(&error["message"]).contains(words), "{error}");
    }
    for (query, words) in [
        (
            "state=NOPE",
            "state: 'NOPE' is none of CREATING, CLONING, ACTIVE",
        ),
        ("state=a%0Ab", "state: 'a\\nb' is none of"),
        ("limit=many", "query string: limit: invalid digit"),
    ] {
        let path = format!("/customer/databases?{query}");
        let error = stack.get(&path, OPERATOR).await.error(400, "invalid_field");
        assert!(kit::text(&error["message"]).starts_with(words), "{error}");
    }
    let raw = async |method: Method, path: &str, body: Vec<u8>| {
        stack
            .send(stack.request(method, path, OPERATOR).body(body))
            .await
    };
    for body in [
        &b"{"[..],
        b"{\"name\": \"a\"} x",
        b"\xff\xfe",
        b"\0",
        b"nul",
        &b"[".repeat(10_000),
    ] {
        raw(Method::POST, "/customer/databases", body.to_vec())
            .await
            .error(400, "invalid_body");
    }
    raw(Method::POST, "/customer/databases", vec![b'x'; 3 << 20])
        .await
        .error(413, "body_too_large");
    raw(Method::GET, "/nowhere", vec![])
        .await
        .error(404, "route_not_found");
    raw(Method::PATCH, "/customer/databases", vec![])
        .await
        .error(405, "method_not_allowed");
    for path in ["?wait=-1", "?wait=abc", "?wait=NaN"] {
        let path = format!("/customer/databases{path}");
        raw(Method::POST, &path, b"{}".to_vec())
            .await
            .error(400, "invalid_field");
    }
    for key in [
        "..%2f..",
        "%00",
        "%FF",
        "A",
        "a%22b",
        "n%C3%A4me",
        "%27%20OR%201=1",
        &long,
    ] {
        let path = format!("/customer/databases/{key}");
        raw(Method::GET, &path, vec![])
            .await
            .error(404, "database_not_found");
        raw(Method::DELETE, &path, vec![])
            .await
            .error(404, "database_not_found");
    }
    raw(Method::GET, "/customer/databases?limit=many", vec![])
        .await
        .error(400, "invalid_field");
    raw(Method::GET, "/customer/databases?after=x", vec![])
        .await
        .error(400, "invalid_field");
    assert_eq!(
        stack
            .get("/customer/databases?all=true", OPERATOR)
            .await
            .ok(),
        json!([])
    );

    for edge in ["-", "_", "0", &"x".repeat(63)] {
        stack.create(OPERATOR, edge).await;
    }
    let health = reqwest::get(format!("{}/readyz", stack.base))
        .await
        .unwrap();
    assert_eq!(health.status(), 200);
    stack.stop().await;
}

/// Sends bytes; returns all that comes back until the server closes.
async fn exchange(stack: &Stack, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(stack.control.as_ref().unwrap().local_addr())
        .await
        .unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(5), read)
        .await
        .expect("it closes in time");
    answer
}

/// The last of the answers that a connection gave.
fn last_answer(text: &str) -> kit::Answer {
    let begins = text.rfind("HTTP/1.1 4").expect("an answer in HTTP");
    let (head, body) = text[begins..].split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    kit::Answer {
        status: status.parse().unwrap(),
        headers,
        body: serde_json::from_str(body).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_are_told_where_they_are() {
    let stack = Stack::with(|config| {
        config.limits.header_time_max = Duration::from_secs(1);
        config.limits.body_bytes_max = 1000;
    })
    .await;
    // psql without sslmode asks for encryption first.
    let ssl = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let mut startup = vec![0, 0, 0, 17, 0, 3, 0, 0];
    startup.extend_from_slice(b"user\0me\0\0");
    for packets in [startup.clone(), [&ssl[..], &startup].concat()] {
        let answer = exchange(&stack, &packets).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("FATAL") && text.contains("08P01"), "{text:?}");
        assert!(
            text.contains("this is the port of the HTTP API"),
            "{text:?}"
        );
    }
    // Whoever speaks nothing that is HTTP is answered like everybody else.
    let refused = async |bytes: &[u8], status: u16, code: &str, words: &str| {
        let answer = String::from_utf8(exchange(&stack, bytes).await).unwrap();
        let answer = last_answer(&answer);
        assert!(answer.headers["connection"] == "close");
        let error = answer.error(status, code);
        assert!(kit::text(&error["message"]).contains(words), "{error}");
    };
    let hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196];
    refused(&hello, 400, "bad_request", "this port speaks plain HTTP").await;
    let no_request = "what was sent is no HTTP/1.1 request";
    for garbage in [
        &b"nonsense\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET / HTTP/7.3\r\n\r\n",
        b"\xff\xfe\xfd\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        // Behind a request that was understood.
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n",
    ] {
        refused(garbage, 400, "bad_request", no_request).await;
    }
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(300_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    let path = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    for head in [long, many, path] {
        refused(head.as_bytes(), 431, "headers_too_large", "too large").await;
    }
    // Half a request is not waited for.
    assert_eq!(exchange(&stack, b"GET / HT").await, b"");
    // Nothing at all neither.
    assert_eq!(exchange(&stack, b"").await, b"");

    // An announced length counts as well, and the client gets to read the answer.
    let body = vec![b'x'; 2 << 20];
    let answer = stack
        .send(
            stack
                .request(Method::POST, "/customer/databases", OPERATOR)
                .body(body),
        )
        .await;
    answer.error(413, "body_too_large");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_catalog_the_answer_is_503_and_then_it_goes_on() {
    let stack = Stack::start().await;
    let made = stack.create(OPERATOR, "a").await;
    let admin = {
        let mut config = stack.managed.node().catalog_config().config;
        config.dbname("postgres");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    admin
        .execute("ALTER DATABASE tenantry ALLOW_CONNECTIONS false", &[])
        .await
        .unwrap();
    let kick = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'tenantry'";
    admin.execute(kick, &[]).await.unwrap();
    let down = kit::wait_for(async || {
        let answer = stack.get("/customer/databases/a", OPERATOR).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(down.headers["retry-after"], "1");
    down.error(503, "catalog_unavailable");
    stack
        .get("/readyz", OPERATOR)
        .await
        .error(503, "catalog_unavailable");
    assert_eq!(stack.get("/healthz", OPERATOR).await.status, 200);
    assert!(
        stack.login(&made).await.is_err(),
        "a login cannot be looked up"
    );
    admin
        .execute("ALTER DATABASE tenantry ALLOW_CONNECTIONS true", &[])
        .await
        .unwrap();
    kit::wait_for(async || {
        stack
            .get("/readyz", OPERATOR)
            .await
            .status
            .is_success()
            .then_some(())
    })
    .await;
    let b: Value = stack.create(OPERATOR, "b").await;
    assert!(stack.login(&b).await.is_ok());

    // The listener for other processes' changes is back as well: a change made behind our back.
    let changes = tokio::sync::Mutex::new(stack.routes.changes());
    let catalog = stack.catalog().await;
    kit::wait_for(async || {
        let sql =
            "SELECT pg_notify('tenantry_change', id || ' 7')::text FROM tenant WHERE name = 'a'";
        catalog.execute(sql, &[]).await.unwrap();
        let mut changes = changes.lock().await;
        let heard = tokio::time::timeout(Duration::from_millis(200), changes.recv());
        heard.await.is_ok().then_some(())
    })
    .await;
    stack.stop().await;
}
