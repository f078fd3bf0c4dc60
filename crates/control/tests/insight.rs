//! What proxies count of tenants is added up over processes, kept over restarts, and takes the same room
//! for ever.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{BUDGET, Counted, OPERATOR, Stack, text};
use model::{
    insight::{Counts, TenantCounts},
    route::Demand,
};
use serde_json::Value;

fn of(tenant: &str, life: u64, statements: u64, clients: u32) -> TenantCounts {
    let mut counts = Counts {
        statements,
        times_us: statements * 700,
        ..Counts::default()
    };
    // Between half a millisecond and one.
    counts.times[3] = statements;
    TenantCounts {
        tenant: tenant.parse().unwrap(),
        life,
        clients,
        servers: 1,
        counts,
    }
}

async fn seen(stack: &Stack, base: &str, id: &str) -> Value {
    let url = format!("{base}/customer/databases/{id}/observability");
    let request = stack.http.get(url).bearer_auth(OPERATOR);
    stack.send(request).await.ok()
}

/// Statements of the last day, and clients now.
fn figures(seen: &Value) -> (u64, u64) {
    let number = |value: &Value| value.as_u64().unwrap();
    (
        number(&seen["windows"][2]["statement_count"]),
        number(&seen["summary"]["active_connections"]),
    )
}

async fn rows(stack: &Stack, sql: &str) -> i64 {
    let catalog = stack.catalog().await;
    catalog.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_add_up_and_a_restart_loses_nothing() {
    let mut stack = Stack::start().await;
    let token = stack.token().await;
    let id = text(&stack.create(&token, "app").await["id"]);
    let idle = text(&stack.create(&token, "idle").await["id"]);
    let counted = Counted::default();
    let (other, _routes, _obeys, base) = stack.start_counting("other", counted.clone()).await;

    // Seen at once where it was counted, written or not, and once.
    *stack.counted.lock().unwrap() = vec![of(&id, 1, 100, 2)];
    assert_eq!(figures(&seen(&stack, &stack.base, &id).await), (100, 2));
    stack.control.as_ref().unwrap().remember().await;
    stack.control.as_ref().unwrap().remember().await;
    assert_eq!(figures(&seen(&stack, &stack.base, &id).await), (100, 2));
    assert_eq!(figures(&seen(&stack, &base, &id).await), (100, 2));

    *counted.lock().unwrap() = vec![of(&id, 1, 11, 1)];
    assert_eq!(figures(&seen(&stack, &base, &id).await), (111, 3));
    other.remember().await;
    let now = seen(&stack, &stack.base, &id).await;
    assert_eq!(figures(&now), (111, 3));
    let p50 = now["windows"][2]["latency_p50_ms"].as_f64().unwrap();
    assert!((0.5..=1.0).contains(&p50), "{now}");
    assert_eq!(now["windows"][2]["latency_avg_ms"], 0.7);
    assert_eq!(figures(&seen(&stack, &base, &idle).await), (0, 0));

    // A process that ended has nobody connected, and what it counted stays; one that begins again counts anew.
    other
        .stop(std::time::Duration::from_secs(10))
        .await
        .leave()
        .await;
    assert_eq!(figures(&seen(&stack, &stack.base, &id).await), (111, 2));
    stack.stop_control().await;
    *stack.counted.lock().unwrap() = vec![of(&id, 1, 5, 0)];
    stack.start_control().await;
    assert_eq!(figures(&seen(&stack, &stack.base, &id).await), (116, 0));
    stack.control.as_ref().unwrap().remember().await;
    assert_eq!(figures(&seen(&stack, &stack.base, &id).await), (116, 0));

    // What is kept: a slot of each ring of one tenant. Rings come round: an old slot gives its place.
    let slots = "SELECT count(DISTINCT (tenant_id, grain)) FROM insight_slot";
    assert_eq!(rows(&stack, slots).await, 3);
    let catalog = stack.catalog().await;
    let fill =
        "INSERT INTO insight_slot SELECT $1, g, p, p, (SELECT counts FROM insight_slot LIMIT 1)
        FROM (VALUES (1, 8), (2, 64), (3, 26)) AS g (g, n), generate_series(0, n - 1) p
        ON CONFLICT DO NOTHING";
    catalog.execute(fill, &[&id]).await.unwrap();
    assert_eq!(rows(&stack, "SELECT count(*) FROM insight_slot").await, 98);
    let before = figures(&seen(&stack, &stack.base, &id).await);
    assert_eq!(before, (116, 0), "what is old does not count");
    *stack.counted.lock().unwrap() = vec![of(&id, 1, 6, 0)];
    stack.control.as_ref().unwrap().remember().await;
    assert_eq!(rows(&stack, "SELECT count(*) FROM insight_slot").await, 98);
    assert_eq!(figures(&seen(&stack, &stack.base, &id).await), (117, 0));
    let size = "SELECT sum(pg_column_size(s.*))::bigint FROM insight_slot s";
    let bytes = rows(&stack, size).await;
    assert!(bytes < 98 * 400, "{bytes}");

    // With its tenant, all of it goes.
    catalog
        .execute("DELETE FROM tenant WHERE id = $1", &[&id])
        .await
        .unwrap();
    *stack.counted.lock().unwrap() = vec![of(&id, 1, 8, 4), of(&idle, 1, 3, 0)];
    stack.control.as_ref().unwrap().remember().await;
    assert_eq!(rows(&stack, slots).await, 3, "the other one's");
    assert_eq!(figures(&seen(&stack, &stack.base, &idle).await), (3, 0));
}

async fn fleet(stack: &Stack, base: &str) -> Value {
    let url = format!("{base}/operator/fleet");
    let request = stack.http.get(url).bearer_auth(OPERATOR);
    stack.send(request).await.ok()
}

fn figure<'a>(fleet: &'a Value, name: &str) -> &'a Value {
    let figures = fleet["figures"].as_array().unwrap();
    figures.iter().find(|own| own["name"] == name).unwrap()
}

/// Whichever process is asked, and after a restart; what cannot be measured says why.
#[tokio::test(flavor = "multi_thread")]
async fn the_figures_of_the_fleet_are_those_of_all_processes() {
    let mut stack = Stack::start().await;
    let new = fleet(&stack, &stack.base).await;
    for own in new["figures"].as_array().unwrap() {
        assert_eq!(
            (&own["value"], &own["is_met"]),
            (&Value::Null, &Value::Null)
        );
        assert!(own["missing"].is_string(), "{own}");
    }
    assert_eq!(new["figures"].as_array().unwrap().len(), 8);

    let token = stack.token().await;
    let app = text(&stack.create(&token, "app").await["id"]);
    let idle = text(&stack.create(&token, "idle").await["id"]);
    let counted = Counted::default();
    let (other, _routes, _obeys, base) = stack.start_counting("other", counted.clone()).await;
    let catalog = stack.catalog().await;
    let node = catalog.query_one("SELECT min(node) FROM placement", &[]);
    let demand = Demand {
        node: node.await.unwrap().get(0),
        budget: BUDGET,
        held: 0,
        needed: 2,
    };
    stack.routes.lease(demand).await.unwrap();
    let busy = |id: &str, life, servers, clients| TenantCounts {
        servers,
        ..of(id, life, 10, clients)
    };
    let some = BUDGET / 2;
    *stack.counted.lock().unwrap() = vec![busy(&app, 1, some, 3)];
    *counted.lock().unwrap() = vec![busy(&app, 1, BUDGET - some, 1), busy(&idle, 2, 0, 0)];
    other.remember().await;
    stack.control.as_ref().unwrap().remember().await;
    for base in [&stack.base, &base] {
        let seen = fleet(&stack, base).await;
        let servers = figure(&seen, "server_connections");
        assert_eq!(
            (&servers["value"], &servers["is_met"]),
            (&1.0.into(), &false.into())
        );
        let unused = figure(&seen, "idle_server_connections");
        assert_eq!(
            (&unused["value"], &unused["is_met"]),
            (&0.0.into(), &true.into())
        );
        assert_eq!(seen["total"]["databases"], 2);
        assert_eq!(seen["total"]["statements"], 30);
        assert_eq!(seen["costs"].as_array().unwrap().len(), 2);
    }
    *counted.lock().unwrap() = vec![busy(&idle, 2, BUDGET - some, 0)];
    let share = f64::from(BUDGET - some) / f64::from(BUDGET);
    let seen = fleet(&stack, &base).await;
    let unused = figure(&seen, "idle_server_connections");
    assert_eq!(unused["value"], (share * 1e4).round() / 1e4);
    assert_eq!(unused["is_met"], false, "{seen}");

    // Made at one process, known to the other; and a process that is gone has no server connections.
    let provisioning = figure(&seen, "provisioning").clone();
    assert!(provisioning["value"].as_f64().unwrap() > 0.0, "{seen}");
    other
        .stop(std::time::Duration::from_secs(10))
        .await
        .leave()
        .await;
    stack.stop_control().await;
    stack.start_control().await;
    let seen = fleet(&stack, &stack.base).await;
    assert_eq!(
        figure(&seen, "provisioning")["value"],
        provisioning["value"]
    );
    stack.stop().await;
}
