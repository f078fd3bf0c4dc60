//! Alerts: begun once, told in order to a real webhook, signed, sent again until they are taken or given up, and
//! to nobody who should not be reached.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{
    OPERATOR, Stack,
    hook::{Answer, Hook},
    text, wait_for,
};
use model::insight::{Counts, TenantCounts};
use serde_json::{Value, json};

const TARGET: &str = "/customer/alerts/target";
const RULES: &str = "/customer/alerts/rules";

/// As if backups had been made, the last one last.
async fn backups(stack: &Stack, id: &str, states: &[&str]) {
    let catalog = stack.catalog().await;
    let sql = "DELETE FROM backup WHERE tenant_id = $1";
    catalog.execute(sql, &[&id]).await.unwrap();
    for (number, state) in states.iter().enumerate() {
        let sql = "INSERT INTO backup (id, tenant_id, project_id, tenant_name, kind, state, due_at, created_at, finished_at)
            SELECT 'bkp_' || $2 || substr(id, 2), id, project_id, name, 'scheduled', $3, NULL,
                now() + make_interval(secs => $4), CASE WHEN $3 = 'ready' THEN now() END
            FROM tenant WHERE id = $1";
        let letter = char::from(b'a' + u8::try_from(number).unwrap()).to_string();
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&id, &letter, state, &(number as f64)];
        assert_eq!(catalog.execute(sql, &values).await.unwrap(), 1);
    }
}

async fn look(stack: &Stack) {
    let control = stack.control.as_ref().unwrap();
    control.look_for_alerts().await.unwrap();
}

/// Sets the operator's webhook; returns the secret.
async fn set_target(stack: &Stack, url: &str) -> Value {
    let answer = stack.post(TARGET, OPERATOR, json!({ "url": url })).await;
    answer.ok()["secret"].clone()
}

async fn alerts(stack: &Stack, token: &str) -> Vec<Value> {
    let all = stack.get("/customer/alerts", token).await.ok();
    all.as_array().unwrap().clone()
}

async fn execute(stack: &Stack, sql: &str) -> u64 {
    stack.catalog().await.execute(sql, &[]).await.unwrap()
}

/// Waits until the catalog says so.
async fn wait_true(stack: &Stack, sql: &str) {
    let catalog = stack.catalog().await;
    wait_for(async || {
        let row = catalog.query_opt(sql, &[]).await.unwrap()?;
        row.get::<_, Option<bool>>(0)?.then_some(())
    })
    .await;
}

async fn wait_got(hook: &Hook, count: usize) {
    wait_for(async || (hook.got().len() >= count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_told_once_by_however_many_processes_and_its_end_is_told() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let id = text(&stack.create(&token, "app").await["id"]);
    let (other, _routes) = stack.start_other("other").await;
    let hook = Hook::serve().await;
    let secret = text(&set_target(&stack, &hook.url).await);
    assert!(secret.starts_with("whs_"));

    backups(&stack, &id, &["ready", "failed"]).await;
    for _ in 0..3 {
        let (one, two) = tokio::join!(
            stack.control.as_ref().unwrap().look_for_alerts(),
            other.look_for_alerts()
        );
        one.unwrap();
        two.unwrap();
    }
    wait_got(&hook, 1).await;
    wait_true(&stack, "SELECT bool_and(state = 'sent') FROM alert_message").await;
    let got = hook.got();
    assert_eq!(got.len(), 1, "{got:?}");
    assert!(got[0].is_signed_with(&secret) && !got[0].is_signed_with("whs_other"));
    let message = got[0].json();
    assert_eq!(message["id"], got[0].id);
    assert_eq!(message["type"], "alert.opened");
    let alert = &message["alert"];
    let project = stack.get("/customer/me", &token).await.ok()["id"].clone();
    assert_eq!(
        alert["subject"],
        json!({ "type": "database", "id": id, "name": "app", "project_id": project })
    );
    assert_eq!(
        (&alert["kind"], &alert["value"], &alert["resolved_at"]),
        (&json!("backup_failed"), &json!(1.0), &Value::Null)
    );
    let open = alerts(&stack, OPERATOR).await;
    assert_eq!(open.len(), 1);
    assert_eq!(
        (&open[0]["id"], &open[0]["state"]),
        (&alert["id"], &json!("open"))
    );
    assert_eq!(open[0]["message"]["state"], "sent");
    // Its owner has neither a webhook nor a rule.
    assert_eq!(alerts(&stack, &token).await, Vec::<Value>::new());
    let metrics = stack
        .http
        .get(format!("{}/metrics", stack.base))
        .bearer_auth(OPERATOR);
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    for line in [
        "tenantry_alerts_open{kind=\"backup_failed\"} 1",
        "tenantry_alerts_open{kind=\"latency\"} 0",
        "tenantry_alert_messages_waiting 0",
    ] {
        assert!(metrics.lines().any(|own| own == line), "{line}:\n{metrics}");
    }

    backups(&stack, &id, &["failed", "ready"]).await;
    // A moment that could not be had says nothing of what is backed up.
    let moment = "INSERT INTO backup (id, tenant_id, project_id, tenant_name, kind, state, due_at, created_at, moment)
        SELECT 'bkp_moment', id, project_id, name, 'moment', 'failed', NULL, now() + interval '1 hour', now() FROM tenant";
    assert_eq!(execute(&stack, moment).await, 1);
    look(&stack).await;
    wait_got(&hook, 2).await;
    let resolved = hook.got()[1].json();
    assert_eq!(resolved["type"], "alert.resolved");
    assert_eq!(resolved["alert"]["id"], alert["id"]);
    assert!(resolved["alert"]["resolved_at"].is_string());
    assert_ne!(resolved["id"], message["id"]);
    // The next one of the same kind is another alert. One that is deleted with its database ends.
    backups(&stack, &id, &["failed"]).await;
    look(&stack).await;
    wait_got(&hook, 3).await;
    assert_ne!(hook.got()[2].json()["alert"]["id"], alert["id"]);
    stack
        .delete(&format!("/customer/databases/{id}"), &token)
        .await
        .ok();
    stack.wait_state(&id, "DISABLED").await;
    look(&stack).await;
    wait_got(&hook, 4).await;
    assert_eq!(hook.events()[3], ("alert.resolved".to_owned(), id));
    other
        .stop(std::time::Duration::from_secs(10))
        .await
        .leave()
        .await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_sent_again_until_it_is_taken_in_order_or_given_up() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let id = text(&stack.create(&token, "app").await["id"]);
    let hook = Hook::serve().await;
    hook.answer(&[Answer::Status(500), Answer::Status(302)]);
    let secret = set_target(&stack, &hook.url).await;
    let now = "UPDATE alert_message SET due_at = now() WHERE state = 'waiting'";

    backups(&stack, &id, &["failed"]).await;
    look(&stack).await;
    wait_true(
        &stack,
        "SELECT bool_and(attempts = 1 AND leased_until IS NULL) FROM alert_message",
    )
    .await;
    // When it is tried next is not when a lease ends.
    wait_true(
        &stack,
        "SELECT due_at BETWEEN now() AND now() + interval '12 s' FROM alert_message",
    )
    .await;
    assert_eq!(hook.got().len(), 1);
    let told = alerts(&stack, OPERATOR).await;
    assert_eq!(told[0]["message"]["state"], "waiting");
    assert_eq!(
        told[0]["message"]["last_error"],
        "it answered with status 500"
    );

    // A redirect is no answer; then nobody is there.
    execute(&stack, now).await;
    wait_true(&stack, "SELECT attempts = 2 FROM alert_message").await;
    let error = "SELECT last_error LIKE '%302; redirects%' FROM alert_message";
    wait_true(&stack, error).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    assert_eq!(
        set_target(&stack, &nobody).await,
        Value::Null,
        "the secret stays"
    );
    execute(&stack, now).await;
    wait_true(&stack, "SELECT attempts = 3 FROM alert_message").await;
    let target = stack.get(TARGET, OPERATOR).await.ok();
    let error = text(&target["last_error"]);
    assert!(
        error.contains("refused") && !error.contains(&nobody),
        "{error}"
    );
    assert!(!target.to_string().contains(secret.as_str().unwrap()));

    // It is over meanwhile: that is told behind it, though its own time came first.
    backups(&stack, &id, &["ready"]).await;
    look(&stack).await;
    wait_true(
        &stack,
        "SELECT count(*) = 2 FROM alert_message WHERE state = 'waiting'",
    )
    .await;
    set_target(&stack, &hook.url).await;
    let later = "UPDATE alert_message SET due_at = now() + interval '1 h' WHERE event = 'opened'";
    execute(&stack, later).await;
    let due = "UPDATE alert_message SET due_at = now() WHERE event = 'resolved'";
    execute(&stack, due).await;
    look(&stack).await;
    assert_eq!(hook.got().len(), 2);
    execute(&stack, now).await;
    look(&stack).await;
    wait_got(&hook, 4).await;
    let got = hook.got();
    assert!(
        got[..3]
            .iter()
            .all(|own| own.id == got[0].id && own.body == got[0].body)
    );
    assert_ne!(got[3].id, got[0].id);
    let told: Vec<_> = hook.events().into_iter().map(|event| event.0).collect();
    let opened = "alert.opened".to_owned();
    assert_eq!(told, [&opened, &opened, &opened, "alert.resolved"]);
    assert!(
        got.iter()
            .all(|own| own.is_signed_with(secret.as_str().unwrap()))
    );

    // Given up, with the reason; its end is not told.
    backups(&stack, &id, &["failed"]).await;
    hook.answer(&[Answer::Status(503)]);
    execute(&stack, "DELETE FROM alert_message").await;
    let trigger = "CREATE FUNCTION tired() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN NEW.attempts := 11; RETURN NEW; END';
        CREATE TRIGGER tired BEFORE INSERT ON alert_message FOR EACH ROW EXECUTE FUNCTION tired()";
    stack.catalog().await.batch_execute(trigger).await.unwrap();
    look(&stack).await;
    wait_true(
        &stack,
        "SELECT bool_and(state = 'failed') FROM alert_message",
    )
    .await;
    let open = alerts(&stack, OPERATOR).await;
    assert_eq!(
        open[0]["message"],
        json!({ "event": "opened", "state": "failed", "attempts": 12, "last_error": "it answered with status 503" })
    );
    backups(&stack, &id, &[]).await;
    look(&stack).await;
    look(&stack).await;
    wait_true(
        &stack,
        "SELECT bool_and(untold IS NULL AND state = 'resolved') FROM alert",
    )
    .await;
    assert_eq!(hook.got().len(), 5);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ended_before_it_wrote_down_an_answer_sends_the_same_message_again() {
    let mut stack = Stack::start().await;
    let token = stack.token().await;
    let id = text(&stack.create(&token, "app").await["id"]);
    let hook = Hook::serve().await;
    hook.answer(&[Answer::Hang]);
    // Open before there is a webhook: told when there is one.
    backups(&stack, &id, &["failed"]).await;
    look(&stack).await;
    assert_eq!(alerts(&stack, OPERATOR).await[0]["message"], Value::Null);
    set_target(&stack, &hook.url).await;
    look(&stack).await;
    wait_got(&hook, 1).await;
    wait_true(&stack, "SELECT leased_until > now() FROM alert_message").await;
    stack.stop_control().await;
    wait_true(
        &stack,
        "SELECT attempts = 0 AND state = 'waiting' FROM alert_message",
    )
    .await;
    stack.start_control().await;
    wait_got(&hook, 2).await;
    let got = hook.got();
    assert_eq!((&got[0].id, &got[0].body), (&got[1].id, &got[1].body));
    wait_true(&stack, "SELECT state = 'sent' FROM alert_message").await;
    stack.stop().await;
}

/// Of 200 statements, a fifth with an error, all between 1 and 2.5 s.
fn slow(tenant: &str, clients: u32) -> TenantCounts {
    let mut counts = Counts {
        statements: 200,
        errors: 40,
        ..Counts::default()
    };
    counts.times[13] = 200;
    TenantCounts {
        tenant: tenant.parse().unwrap(),
        life: 1,
        clients,
        servers: 0,
        counts,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_those_of_whoever_wrote_them() {
    let stack = Stack::start().await;
    let (owner, stranger) = (stack.token().await, stack.token().await);
    let id = text(&stack.create(&owner, "app").await["id"]);
    let theirs = text(&stack.create(&stranger, "theirs").await["id"]);
    let rule = async |token: &str, body: Value| stack.post(RULES, token, body).await;

    let defaults = stack.get(RULES, &owner).await.ok();
    assert_eq!(defaults.as_array().unwrap().len(), 9, "{defaults:#}");
    assert_eq!(
        stack
            .get(RULES, OPERATOR)
            .await
            .ok()
            .as_array()
            .unwrap()
            .len(),
        11
    );
    for (body, code) in [
        (json!({ "kind": "weather" }), "invalid_field"),
        (json!({ "kind": "server_connections" }), "invalid_field"),
        (
            json!({ "kind": "latency", "threshold": 0 }),
            "invalid_field",
        ),
        (
            json!({ "kind": "latency", "threshold": 60_001 }),
            "invalid_field",
        ),
        (
            json!({ "kind": "latency", "for_seconds": 86_401 }),
            "invalid_field",
        ),
    ] {
        rule(&owner, body).await.error(400, code);
    }
    let of_theirs = json!({ "kind": "latency", "database": theirs });
    rule(&owner, of_theirs)
        .await
        .error(404, "database_not_found");
    let of_node = json!({ "kind": "server_connections", "database": id });
    rule(OPERATOR, of_node).await.error(400, "invalid_field");

    // For one database, at once; the other kind for all, switched off. The operator's last as long as by default.
    let one = json!({ "kind": "latency", "database": "app", "threshold": 500, "for_seconds": 0 });
    let made = rule(&owner, one).await.ok();
    assert_eq!(made["database_id"], id);
    rule(&owner, json!({ "kind": "errors", "enabled": false }))
        .await
        .ok();
    let again = json!({ "kind": "latency", "database": id, "threshold": 900, "for_seconds": 0 });
    let again = rule(&owner, again).await.ok();
    assert_eq!(
        (&again["id"], &again["threshold"]),
        (&made["id"], &json!(900.0))
    );
    *stack.counted.lock().unwrap() = vec![slow(&id, 480), slow(&theirs, 0)];
    stack.control.as_ref().unwrap().remember().await;
    look(&stack).await;
    let found = alerts(&stack, &owner).await;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        (&found[0]["kind"], &found[0]["threshold"]),
        (&json!("latency"), &json!(900.0))
    );
    let value = found[0]["value"].as_f64().unwrap();
    assert!((1_000.0..=2_500.0).contains(&value), "{value}");
    assert_eq!(alerts(&stack, &stranger).await, Vec::<Value>::new());
    assert_eq!(alerts(&stack, OPERATOR).await, Vec::<Value>::new());
    let pending = "SELECT json_agg(kind || ' ' || subject ORDER BY kind, subject)::text FROM alert WHERE state = 'pending'
        AND project_id = (SELECT id FROM project WHERE kind = 'operator')";
    let catalog = stack.catalog().await;
    let pending: String = catalog.query_one(pending, &[]).await.unwrap().get(0);
    let mut want: Vec<String> = [&id, &theirs]
        .iter()
        .flat_map(|id| [format!("latency {id}"), format!("errors {id}")])
        .chain([format!("connections {id}")])
        .collect();
    want.sort();
    let pending: Vec<String> = serde_json::from_str(&pending).unwrap();
    assert_eq!(pending, want);

    // After its time, by the catalog's clock, and not before.
    execute(&stack, "UPDATE alert SET since = since - interval '290 s'").await;
    look(&stack).await;
    assert_eq!(alerts(&stack, OPERATOR).await, Vec::<Value>::new());
    execute(&stack, "UPDATE alert SET since = since - interval '10 s'").await;
    look(&stack).await;
    assert_eq!(alerts(&stack, OPERATOR).await.len(), 5);

    // A rule that is taken back looks at nothing any more.
    let path = format!("{RULES}/{}", text(&made["id"]));
    stack
        .delete(&path, &stranger)
        .await
        .error(404, "alert_rule_not_found");
    stack.delete(&path, &owner).await.ok();
    stack
        .delete(&path, &owner)
        .await
        .error(404, "alert_rule_not_found");
    rule(&owner, json!({ "kind": "latency", "enabled": false }))
        .await
        .ok();
    look(&stack).await;
    let found = alerts(&stack, &owner).await;
    let latency = found.iter().find(|own| own["kind"] == "latency").unwrap();
    assert_eq!(latency["state"], "resolved");

    // A token of the operator's project is not the operator.
    let token = stack
        .post("/customer/tokens", OPERATOR, json!({}))
        .await
        .ok();
    let token = text(&token["token"]);
    rule(&token, json!({ "kind": "latency" }))
        .await
        .error(403, "operator_only");
    let url = json!({ "url": "http://127.0.0.1:1/" });
    stack
        .post(TARGET, &token, url)
        .await
        .error(403, "operator_only");
    for path in ["/customer/alerts", RULES, TARGET] {
        stack.get(path, &token).await.error(403, "operator_only");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_reaches_nothing_near_this_machine() {
    let stack = Stack::start().await;
    let owner = stack.token().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let urls = [
        "127.0.0.1",
        "127.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "10.0.0.1",
    ]
    .map(|host| format!("https://{host}:{port}/"));
    let set = async |token: &str, url: &str| stack.post(TARGET, token, json!({ "url": url })).await;
    for url in &urls {
        set(&owner, url).await.error(403, "webhook_not_allowed");
    }
    set(&owner, "http://127.0.0.1/")
        .await
        .error(400, "invalid_field");
    set(&owner, "http://hooks.example/")
        .await
        .error(400, "invalid_field");
    let with_password = "https://a:b@hooks.example/";
    set(&owner, with_password).await.error(400, "invalid_field");
    stack
        .post("/customer/alerts/test", &owner, json!({}))
        .await
        .error(409, "no_alert_target");

    // Whatever the row says, and wherever its name leads by then.
    let secret = set(&owner, "https://hooks.invalid/").await.ok()["secret"].clone();
    assert!(secret.is_string());
    let catalog = stack.catalog().await;
    let sql = "SELECT url || encode(secret, 'escape') FROM alert_target";
    let kept: String = catalog.query_one(sql, &[]).await.unwrap().get(0);
    assert!(!kept.contains(&text(&secret)));
    for url in &urls {
        let sql = "UPDATE alert_target SET url = $1, tested_at = NULL";
        catalog.execute(sql, &[url]).await.unwrap();
        let answer = stack.post("/customer/alerts/test", &owner, json!({})).await;
        let error = answer.error(502, "webhook_failed");
        let error = text(&error["message"]);
        assert!(error.contains("not public"), "{url}: {error}");
    }
    stack
        .post("/customer/alerts/test", &owner, json!({}))
        .await
        .error(429, "too_many_requests");
    let accept = tokio::time::timeout(std::time::Duration::ZERO, listener.accept());
    assert!(accept.await.is_err(), "somebody connected");

    // The operator may, and would have been noticed.
    let accepted = tokio::spawn(async move { listener.accept().await.map(drop) });
    set(OPERATOR, &format!("https://localhost:{port}/"))
        .await
        .ok();
    let answer = stack
        .post("/customer/alerts/test", OPERATOR, json!({}))
        .await;
    answer.error(502, "webhook_failed");
    accepted.await.unwrap().unwrap();
    set(OPERATOR, "http://10.0.0.1/")
        .await
        .error(400, "invalid_field");
    stack.stop().await;
}
