//! What is done through the API is written down, before it is done, and shown to whom it belongs.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::fs;

use audit::{
    Keys, Stream,
    verify::{self, Known, With},
};
use kit::{OPERATOR, SECRET, Stack, text, wait_for};
use reqwest::Method;
use serde_json::{Value, json};

/// In every body and header that is sent, and in no line.
const CANARY: &str = "canary-in-a-coal-mine";

/// Every line of a chain that is on the disk.
fn lines(stack: &Stack, stream: Stream) -> Vec<Value> {
    let files = audit::segments(&stack.audit_dir("serve"), stream).unwrap();
    let texts = files.iter().map(|path| fs::read_to_string(path).unwrap());
    texts
        .collect::<String>()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn of_request<'a>(lines: &'a [Value], id: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["request"] == id).collect()
}

/// Every method and path of the document.
fn routes() -> Vec<(Method, String)> {
    let document: Value = serde_json::from_str(&control::openapi_document()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            routes.push((method.to_uppercase().parse().unwrap(), path.clone()));
        }
    }
    routes
}

/// The session of a statement is a line among the connections; the proxy writes that.
const STATEMENTS: [&str; 2] = ["/sql", "/customer/databases/{database}/sql"];

#[tokio::test(flavor = "multi_thread")]
async fn every_request_that_changes_something_leaves_two_lines_and_no_secret() {
    let stack = Stack::start().await;
    let registered = stack.register().await;
    let owner = text(&registered["token"]);
    let made = stack.create(&owner, "watched").await;
    let password = text(&made["admin_password"]);
    let database = text(&made["id"]);
    let token = stack.post("/customer/tokens", &owner, json!({})).await.ok();
    let mut changes = 0;
    for (method, path) in routes() {
        let is_change = method != Method::GET && !STATEMENTS.contains(&&*path);
        let token = if path.starts_with("/operator") || path == "/metrics" {
            OPERATOR
        } else {
            &owner
        };
        let filled = path
            .replace("{database}", &database)
            .replace("{username}", "nobody")
            .replace("{credential}", "crd_zzzzzzzzzzzz");
        let body = json!({ "password": CANARY, "expires": CANARY, "name": CANARY, "code": CANARY,
            "anonymous_id": CANARY, "anonymous_secret": CANARY, "anonymous_customer_id": CANARY });
        let request = stack.request(method.clone(), &filled, token).json(&body);
        let response = request.header("x-other", CANARY).send().await.unwrap();
        let status = response.status().as_u16();
        let id = response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let written = lines(&stack, Stream::Admin);
        let own = of_request(&written, &id);
        if !is_change {
            assert!(
                own.iter().all(|line| line["event"] == "answer"),
                "{method} {path}"
            );
            continue;
        }
        changes += 1;
        let events: Vec<_> = own.iter().map(|line| text(&line["event"])).collect();
        assert_eq!(events, ["request", "answer"], "{method} {path}");
        assert_eq!(own[1]["status"], status, "{method} {path}");
        assert_eq!(own[0]["route"], format!("{method} {path}"));
        assert_ne!(own[0]["resource"], "other", "{method} {path}");
        assert_eq!(own[0]["address"], "127.0.0.1");
        let is_open = path.contains("/anonymous-re");
        let actor = match token {
            _ if is_open => "nobody",
            OPERATOR => "operator",
            _ => "token",
        };
        assert_eq!(own[0]["actor"], actor, "{method} {path}");
    }
    assert!(changes > 20, "{changes}");
    let all = Stream::ALL.map(|stream| lines(&stack, stream));
    let all = serde_json::to_string(&all).unwrap();
    let secrets = [
        &owner,
        &password,
        &text(&token["token"]),
        &text(&registered["anonymous_secret"]),
    ];
    for secret in secrets
        .into_iter()
        .map(String::as_str)
        .chain([OPERATOR, CANARY])
    {
        assert!(!all.contains(secret), "{secret} is in the log");
    }
    // What was made is named, by its id.
    assert!(all.contains(&text(&token["id"])) && all.contains(&database));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_sees_what_was_done_to_it_and_nothing_else() {
    let stack = Stack::start().await;
    let (owner, other) = (stack.token().await, stack.token().await);
    let database = text(&stack.create(&owner, "mine").await["id"]);
    let theirs = text(&stack.create(&other, "theirs").await["id"]);
    let path = format!("/customer/databases/{database}");
    stack
        .post(&format!("{path}/suspend"), OPERATOR, json!({}))
        .await
        .ok();
    stack
        .post(&format!("{path}/resume"), &owner, json!({}))
        .await
        .error(403, "suspended_by_operator");
    // Nobody's, and wrong: not the project's business, and there for the operator.
    stack
        .delete(&path, "nonsense")
        .await
        .error(401, "invalid_token");

    let list = async |query: &str, token: &str| {
        let answer = stack.get(&format!("/audit-logs{query}"), token).await.ok();
        answer.as_array().unwrap().clone()
    };
    let mine = wait_for(async || {
        let found = list("", &owner).await;
        (found
            .iter()
            .any(|entry| entry["code"] == "suspended_by_operator"))
        .then_some(found)
    })
    .await;
    let told: Vec<_> = mine
        .iter()
        .filter(|entry| entry["resource_type"] != "audit_log")
        .map(|entry| {
            let [operation, resource, actor] =
                ["operation_type", "resource_type", "actor_type"].map(|field| text(&entry[field]));
            (
                format!("{operation} {resource} {actor}"),
                entry["success"].as_bool().unwrap(),
            )
        })
        .collect();
    let want = [
        ("resume database token", false),
        ("suspend database operator", true),
        ("create database token", true),
        ("create project nobody", true),
    ];
    assert_eq!(
        told,
        want.map(|(words, success)| (words.to_owned(), success))
    );
    assert!(mine.iter().all(|entry| entry["tenant_id"] != *theirs));
    // By every field; of the other database nothing is told, whoever names it.
    let suspended = list("?operation_type=suspend", &owner).await;
    assert_eq!(suspended[0]["tenant_id"], database);
    assert_eq!(suspended[0]["http_status"], 200);
    assert_eq!(
        list("?success=false&resource_type=database", &owner)
            .await
            .len(),
        1
    );
    assert_eq!(list(&format!("?tenant_id={theirs}"), &owner).await.len(), 0);
    assert_eq!(
        list("?operation_type=create&limit=1&offset=1", &owner)
            .await
            .len(),
        1
    );
    stack
        .get("/audit-logs?limit=0", &owner)
        .await
        .error(400, "invalid_field");
    // The operator sees all.
    wait_for(async || {
        let all = list("?operation_type=create&resource_type=database", OPERATOR).await;
        (all.len() == 2).then_some(())
    })
    .await;
    let refused = lines(&stack, Stream::Connections);
    let refused = refused.iter().filter(|line| line["event"] == "api_refused");
    assert!(
        refused
            .into_iter()
            .any(|line| line["path"] == *path && line["code"] == "invalid_token")
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_program_does_by_itself_is_there_too() {
    let stack = Stack::start().await;
    let owner = stack.token().await;
    let body = json!({ "name": "brief", "expires": "1s" });
    let id = text(&stack.post("/customer/databases", &owner, body).await.ok()["id"]);
    let entry = wait_for(async || {
        let path = format!("/audit-logs?operation_type=expire&tenant_id={id}");
        let found = stack.get(&path, &owner).await.ok();
        found.get(0).cloned()
    })
    .await;
    assert_eq!(
        (&entry["actor_type"], &entry["success"]),
        (&json!("tenantry"), &json!(true))
    );
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_is_not_done() {
    let stack = Stack::start().await;
    let owner = stack.token().await;
    let id = text(&stack.create(&owner, "kept").await["id"]);
    stack.audit.as_ref().unwrap().admin.close();
    let path = format!("/customer/databases/{id}");
    let refused = stack.delete(&path, &owner).await;
    assert_eq!(refused.headers["retry-after"], "1");
    refused.error(503, "audit_unavailable");
    stack
        .post("/customer/databases", &owner, json!({}))
        .await
        .error(503, "audit_unavailable");
    // Reading goes on, and shows that nothing happened.
    assert_eq!(stack.get(&path, &owner).await.ok()["state"], "ACTIVE");
    let all = stack.get("/customer/databases", &owner).await.ok();
    assert_eq!(all.as_array().unwrap().len(), 1);
    stack.stop().await;
}

/// What `tenantry audit verify` gets from the server.
async fn known(stack: &Stack) -> Vec<Known> {
    let answer = stack.get("/operator/audit", OPERATOR).await.ok();
    assert_eq!(
        answer["public_key"],
        Keys::derive(&SECRET).public().to_string()
    );
    let heads = answer["heads"].as_array().unwrap();
    let bytes = |text: &str| -> Vec<u8> {
        let pairs = (0..text.len()).step_by(2);
        pairs
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    };
    heads
        .iter()
        .map(|head| Known {
            chain: text(&head["chain"]),
            stream: text(&head["stream"]).parse().unwrap(),
            segment: head["segment"].as_u64().unwrap(),
            first: text(&head["first_hash"]).parse().unwrap(),
            link: audit::Link {
                seq: head["seq"].as_u64().unwrap(),
                hash: text(&head["hash"]).parse().unwrap(),
            },
            signature: bytes(head["signature"].as_str().unwrap()),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_end_is_found_by_the_catalog_and_told_at_the_next_start() {
    let mut stack = Stack::start().await;
    let owner = stack.token().await;
    stack.create(&owner, "before").await;
    stack.stop_control().await;
    stack.start_control().await;
    let dir = stack.audit_dir("serve");
    let with = With::keys(Keys::derive(&SECRET));
    let heads = known(&stack).await;
    // All chains of the first start are covered to their ends.
    assert!(
        heads.iter().filter(|head| head.segment == 1).count() == Stream::ALL.len(),
        "{heads:?}"
    );
    let report = verify::directory(&dir, &with, &heads).unwrap();
    assert!(report.is_whole() && report.known >= 2, "{report:?}");
    // Lines of before are shown once, also after a restart.
    let all = stack
        .get(
            "/audit-logs?operation_type=create&resource_type=database",
            &owner,
        )
        .await;
    assert_eq!(all.ok().as_array().unwrap().len(), 1);

    stack.stop_control().await;
    let file = audit::segments(&dir, Stream::Admin).unwrap().pop().unwrap();
    let whole = fs::read_to_string(&file).unwrap();
    let first = whole.lines().next().unwrap();
    fs::write(&file, format!("{first}\n")).unwrap();
    stack.start_control().await;
    wait_for(async || {
        let written = lines(&stack, Stream::Admin);
        written
            .iter()
            .any(|line| line["event"] == "cut")
            .then_some(())
    })
    .await;
    let heads = known(&stack).await;
    let report = verify::directory(&dir, &with, &heads).unwrap();
    let told = report
        .problems
        .iter()
        .map(|problem| &*problem.what)
        .collect::<String>();
    assert!(told.contains("the end was cut off"), "{report:?}");
    stack.stop().await;
}
