//! Logs of statements are those of all processes, outlive them, take bounded room, and are for who may see them.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use kit::{Counted, Logged, OPERATOR, Stack, text};
use model::{
    Role,
    insight::{LogLine, TenantLog},
};
use serde_json::Value;

/// So many lines of a database that ended so many seconds ago, one after the other: each third one failed, each
/// fourth one was slow.
fn log(tenant: &str, lines: u32, ago: u64, dropped: u64) -> TenantLog {
    let began = SystemTime::now() - Duration::from_secs(ago);
    let line = |number: u32| LogLine {
        at: began + Duration::from_micros(number.into()),
        login: Role::Write.into(),
        statement: (number % 5 != 4).then_some((number % 2) as usize),
        took_us: Some(1_500),
        rows: number.into(),
        error: (number % 3 == 2).then_some(*b"22012"),
        is_slow: number % 4 == 3,
    };
    TenantLog {
        tenant: tenant.parse().unwrap(),
        lines: (0..lines).map(line).collect(),
        statements: vec![
            (u64::MAX, "SELECT $1".to_owned()),
            (7, "SELECT $1 / $2".to_owned()),
        ],
        dropped,
    }
}

async fn get(stack: &Stack, base: &str, token: &str, path: &str) -> kit::Answer {
    let url = format!("{base}/customer/databases/{path}");
    stack.send(stack.http.get(url).bearer_auth(token)).await
}

async fn page(stack: &Stack, path: &str) -> Value {
    get(stack, &stack.base, OPERATOR, path).await.ok()
}

/// What was written.
async fn write(stack: &Stack, logs: Vec<TenantLog>) {
    *stack.logged.lock().unwrap() = logs;
    stack.control.as_ref().unwrap().remember().await;
}

async fn count(stack: &Stack, id: &str) -> u64 {
    let seen = page(stack, &format!("{id}/logs/stats?since=7d")).await;
    seen["count"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_those_of_all_processes_and_outlive_them() {
    let mut stack = Stack::start().await;
    let token = stack.token().await;
    let id = text(&stack.create(&token, "app").await["id"]);
    let idle = text(&stack.create(&token, "idle").await["id"]);
    let empty = page(&stack, &format!("{id}/logs")).await;
    assert_eq!(
        (&empty["count"], &empty["has_more"]),
        (&0.into(), &false.into())
    );
    let seen = page(&stack, &format!("{id}/metrics")).await;
    assert_eq!(seen["query_metrics"]["success_rate"], 100.0);

    let logged = Logged::default();
    let (other, _routes, _obeys, base) = stack
        .start_logging("other", Counted::default(), logged.clone())
        .await;
    write(&stack, vec![log(&id, 12, 30, 2), log(&idle, 1, 5, 0)]).await;
    *logged.lock().unwrap() = vec![log(&id, 12, 3 * 3_600, 0), log("zzzzzzzzzzzz", 5, 5, 0)];
    other.remember().await;

    // The same at both, the newest first, by pages that fit together.
    for base in [&stack.base, &base] {
        let all = get(&stack, base, &token, "app/logs").await.ok();
        let all = all["logs"].as_array().unwrap().clone();
        assert_eq!(all.len(), 24);
        let first = &all[0];
        assert_eq!(
            (&first["row_count"], &first["type"], &first["sqlstate"]),
            (&11.into(), &"error".into(), &"22012".into())
        );
        assert_eq!(
            (&first["is_slow"], &first["duration_ms"]),
            (&true.into(), &1.5.into())
        );
        assert_eq!(
            (&first["query"], &first["statement_id"]),
            (&"SELECT $1 / $2".into(), &"0000000000000007".into())
        );
        assert_eq!(first["user"], format!("{id}.write"));
        assert_eq!(all[1]["statement_id"], "ffffffffffffffff");
        assert_eq!(
            (&all[2]["query"], &all[2]["statement_id"]),
            (&Value::Null, &Value::Null)
        );
        let times: Vec<DateTime<Utc>> = all
            .iter()
            .map(|line| line["timestamp"].as_str().unwrap().parse().unwrap())
            .collect();
        assert!(times.is_sorted_by(|one, next| one >= next), "{times:?}");
        let mut paged = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("app/logs?limit=5{cursor}");
            let page = get(&stack, base, &token, &path).await.ok();
            let lines = page["logs"].as_array().unwrap();
            assert_eq!(page["count"], lines.len());
            paged.extend(lines.clone());
            assert_eq!(page["has_more"], page["next_cursor"].is_string());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(paged, all);
    }
    for (query, want) in [
        ("?type=error", 8),
        ("?type=slow", 6),
        ("?type=all&since=1h", 12),
        ("?type=error&since=1h", 4),
        ("?since=7d&limit=1000", 24),
    ] {
        let seen = page(&stack, &format!("{id}/logs{query}")).await;
        assert_eq!(seen["count"], want, "{query}");
    }
    for query in [
        "type=x",
        "since=x",
        "since=0s",
        "limit=0",
        "limit=1001",
        "cursor=x",
    ] {
        let answer = get(&stack, &stack.base, &token, &format!("app/logs?{query}")).await;
        answer.error(400, "invalid_field");
    }
    let stats = page(&stack, &format!("{id}/logs/stats?since=24h")).await;
    for (name, want) in [
        ("count", 24),
        ("error_count", 8),
        ("slow_count", 6),
        ("dropped_count", 2),
        ("slow_statement_ms", 1_000),
        ("keep_seconds", 7 * 24 * 3600),
    ] {
        assert_eq!(stats[name], want, "{name}: {stats}");
    }
    assert_eq!(stats["errors"][0]["sqlstate"], "22012");
    // Lines of half a minute ago, and what had no room then, are none of the last ten seconds.
    let none = page(&stack, &format!("{id}/logs/stats?since=10s")).await;
    for name in ["count", "error_count", "slow_count", "dropped_count"] {
        assert_eq!(none[name], 0, "{name}: {none}");
    }
    assert_eq!(stats["statement_log"], "slow");

    // The same where TenantsDB has it, in its envelope.
    let of_tenant = async |path: &str, token: &str| {
        let url = format!("{}/tenants/{path}", stack.base);
        stack.send(stack.http.get(url).bearer_auth(token)).await
    };
    for path in ["logs?type=error&limit=3", "logs/stats?since=24h", "metrics"] {
        let mut enveloped = of_tenant(&format!("app/{path}"), &token).await.ok();
        for (name, want) in [
            ("success", Value::from(true)),
            ("http_status", 200.into()),
            ("code", "ok".into()),
            ("tenant_id", id.as_str().into()),
        ] {
            let was = enveloped.as_object_mut().unwrap().remove(name);
            assert_eq!(was, Some(want), "{path}: {name}");
        }
        let mut plain = page(&stack, &format!("{id}/{path}")).await;
        for answer in [&mut enveloped, &mut plain] {
            // Measured while it is asked for.
            let measured = answer.as_object_mut().unwrap().remove("database_metrics");
            assert_eq!(measured.is_some(), path == "metrics", "{path}");
        }
        assert_eq!(enveloped, plain, "{path}");
    }
    let refused = of_tenant("app/logs?type=x", &token).await;
    refused.error(400, "invalid_field");

    // Nobody else's.
    let stranger = stack.token().await;
    for path in ["logs", "logs/stats", "metrics"] {
        let path = format!("{id}/{path}");
        let answer = get(&stack, &stack.base, &stranger, &path).await;
        answer.error(404, "database_not_found");
        let answer = of_tenant(&path, &stranger).await;
        answer.error(404, "database_not_found");
    }
    assert_eq!(count(&stack, &idle).await, 1);

    other.stop(Duration::from_secs(10)).await.leave().await;
    stack.stop_control().await;
    stack.start_control().await;
    assert_eq!(count(&stack, &id).await, 24);
    let catalog = stack.catalog().await;
    let delete = "DELETE FROM tenant WHERE id = $1";
    catalog.execute(delete, &[&id]).await.unwrap();
    let left = catalog.query_one("SELECT count(*) FROM statement_log", &[]);
    assert_eq!(
        left.await.unwrap().get::<_, i64>(0),
        1,
        "with its database, all of it goes"
    );
    stack.stop().await;
}

/// By age, for each database, and for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn logs_take_bounded_room() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let id = text(&stack.create(&token, "app").await["id"]);
    let other = text(&stack.create(&token, "other").await["id"]);
    let catalog = stack.catalog().await;

    // Six parts of 2,000 lines: the oldest two go, when the last one comes.
    let parts = |id: &str, count: u64| {
        let part = |number| log(id, 2_000, 1_000 - number, 0);
        (0..count).map(part).collect::<Vec<_>>()
    };
    write(&stack, parts(&id, 5)).await;
    assert_eq!(count(&stack, &id).await, 10_000);
    write(&stack, vec![log(&id, 1, 10, 0), log(&other, 7, 2_000, 0)]).await;
    assert_eq!(count(&stack, &id).await, 8_001);
    assert_eq!(count(&stack, &other).await, 7, "others have theirs");
    let newest = page(&stack, &format!("{id}/logs?limit=1")).await;
    assert_eq!(newest["logs"][0]["row_count"], 0);

    // As if they were of all databases together.
    let many = "INSERT INTO statement_log (part, tenant_id, last_at, line_count, dropped_count, shapes, texts, at, logins,
            shape_places, took_us, row_counts, errors, are_slow)
        SELECT n, $1, now() - make_interval(hours => n), 250000, 0, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}'
        FROM generate_series(1, 4) n";
    let big = text(&stack.create(&token, "big").await["id"]);
    catalog.execute(many, &[&big]).await.unwrap();
    // More than is written without a look at all.
    let mut news = parts(&id, 5);
    news.extend(parts(&other, 5));
    write(&stack, news).await;
    let sum = "SELECT sum(line_count)::bigint, (count(*) FILTER (WHERE tenant_id = $1))::bigint FROM statement_log";
    let row = catalog.query_one(sum, &[&big]).await.unwrap();
    let (lines, left): (i64, i64) = (row.get(0), row.get(1));
    assert!(lines <= 1_000_000 && lines > 20_000, "{lines}");
    assert_eq!(left, 3, "the oldest goes first");

    // By age.
    let old =
        "UPDATE statement_log SET last_at = last_at - interval '8 days' WHERE tenant_id <> $1";
    catalog.execute(old, &[&id]).await.unwrap();
    write(&stack, parts(&id, 10)).await;
    let row = catalog.query_one("SELECT count(DISTINCT tenant_id) FROM statement_log", &[]);
    assert_eq!(row.await.unwrap().get::<_, i64>(0), 1);
    // The line of a moment ago, and four parts: with a fifth there would be one line too many.
    assert_eq!(count(&stack, &id).await, 8_001);
    stack.stop().await;
}
