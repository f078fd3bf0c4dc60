//! Whatever a former process left behind, the next one goes on from there.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{OPERATOR, Stack, text, wait_for};
use model::{Pid, TenantId};
use node::Template;
use serde_json::json;

/// How far the server got, in steps: 0 nothing, 1 logins, 2 database, 3 open.
async fn make(stack: &Stack, pid: &Pid, steps: usize) {
    let node = stack.managed.node();
    if steps >= 1 {
        node.create_logins(pid).await.unwrap();
    }
    if steps >= 2 {
        node.create_database(pid, &Template::Empty).await.unwrap();
    }
    if steps >= 3 {
        node.open(pid).await.unwrap();
    }
}

struct Left {
    owner: &'static str,
    stage: &'static str,
    state: Option<&'static str>,
    /// On the server.
    steps: usize,
}

impl Left {
    fn tenant(state: &'static str, stage: &'static str, steps: usize) -> Self {
        Self {
            owner: "tenant",
            stage,
            state: Some(state),
            steps,
        }
    }

    /// Without a tenant: the pool's, or nobody's.
    fn other(owner: &'static str, stage: &'static str, steps: usize) -> Self {
        Self {
            owner,
            stage,
            state: None,
            steps,
        }
    }

    /// Writes the rows of it, as a process that was killed would have left them.
    async fn plant(&self, stack: &Stack, catalog: &tokio_postgres::Client) -> Option<String> {
        let pid = Pid::random(&mut rand::rng());
        make(stack, &pid, self.steps).await;
        let sql = "INSERT INTO placement (pid, node, owner, stage, leased_by, leased_until)
            VALUES ($1, $2, $3, $4, 'serve', now() + interval '1 hour')";
        let node = stack.managed.node();
        let row: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&pid.as_str(), &node.name(), &self.owner, &self.stage];
        catalog.execute(sql, &row).await.unwrap();
        let state = self.state?;
        let id = TenantId::random(&mut rand::rng());
        let deleted = matches!(state, "DISABLING" | "DISABLED");
        let sql = "INSERT INTO tenant (id, project_id, name, state, pid, activated_at, deleted_at, purge_after,
                suspended_by)
            SELECT $1, p.id, $1, $2, $3, CASE WHEN $2 <> 'CREATING' THEN now() END,
                CASE WHEN $4 THEN now() END, CASE WHEN $4 THEN now() + interval '1 hour' END,
                CASE WHEN $2 = 'SUSPENDED' THEN 'owner' END
            FROM project p WHERE kind = 'operator'";
        let row: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&id.as_str(), &state, &pid.as_str(), &deleted];
        catalog.execute(sql, &row).await.unwrap();
        Some(id.to_string())
    }
}

const STAGES: [&str; 5] = ["planned", "logins", "closed", "opening", "open"];

/// Steps the server has done when a row says so, or that and one more.
fn steps(stage: &str) -> [usize; 2] {
    match stage {
        "planned" => [0, 1],
        "logins" => [1, 2],
        "closed" => [2, 2],
        _ => [2, 3],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_converges_after_a_crash_at_any_point() {
    let mut stack = Stack::start().await;
    stack.warm().await;
    stack.stop_control().await;
    let catalog = stack.catalog().await;
    let mut goals = Vec::new();
    for stage in STAGES {
        for steps in steps(stage) {
            for (state, goal) in [("CREATING", "ACTIVE"), ("DISABLING", "DISABLED")] {
                let left = Left::tenant(state, stage, steps);
                goals.push((left.plant(&stack, &catalog).await.unwrap(), goal));
            }
            let left = Left::other("nobody", stage, steps);
            left.plant(&stack, &catalog).await;
        }
    }
    for (stage, state) in [
        ("closed", "ACTIVE"),
        ("opening", "ACTIVE"),
        ("open", "SUSPENDED"),
    ] {
        let left = Left::tenant(state, stage, 3);
        goals.push((left.plant(&stack, &catalog).await.unwrap(), state));
    }
    // Data that is being removed, and data that is gone already.
    for (stage, steps) in [
        ("dropping", 3),
        ("dropping", 1),
        ("dropped", 1),
        ("dropped", 0),
    ] {
        let left = Left::other("nobody", stage, steps);
        left.plant(&stack, &catalog).await;
    }
    // Pool entries that only say that they are complete.
    for steps in [0, 1, 2] {
        let left = Left::other("pool", "open", steps);
        left.plant(&stack, &catalog).await;
    }

    stack.start_control().await;
    for (id, goal) in &goals {
        stack.wait_state(id, goal).await;
    }
    wait_for(async || {
        let sql =
            "SELECT count(*) FROM placement WHERE owner = 'nobody' OR unsettled_since IS NOT NULL";
        (catalog.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    stack.warm().await;
    stack.assert_clean().await;
    // Nothing more is done to rows that rest, and what was deleted can be taken back.
    for (id, goal) in &goals {
        if *goal == "DISABLED" {
            let back = stack
                .post(
                    &format!("/customer/databases/{id}/undelete"),
                    OPERATOR,
                    json!({}),
                )
                .await;
            assert_eq!(back.ok()["state"], "ACTIVE");
        }
    }
    stack.assert_clean().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart_and_keys_still_replay() {
    let mut stack = Stack::start().await;
    let token = stack.token().await;
    let create = async |stack: &Stack| {
        let request = stack.request(reqwest::Method::POST, "/customer/databases", &token);
        let request = request
            .header("idempotency-key", "k")
            .json(&json!({"name": "a"}));
        stack.send(request).await.ok()
    };
    let made = create(&stack).await;
    stack.stop_control().await;
    stack.start_control().await;
    assert_eq!(create(&stack).await, made);
    assert!(stack.login(&made).await.is_ok());
    let id = text(&made["id"]);
    stack.wait_state(&id, "ACTIVE").await;
    stack.stop().await;
}

/// A database that rows say is in use, whose data is not there, is reported and never made anew.
#[tokio::test(flavor = "multi_thread")]
async fn lost_data_and_orphans_are_reported_and_left_alone() {
    let mut stack = Stack::start().await;
    stack.warm().await;
    stack.stop_control().await;
    let catalog = stack.catalog().await;
    let lost = Left::tenant("ACTIVE", "planned", 0);
    let lost = lost.plant(&stack, &catalog).await.unwrap();
    let orphan = Pid::random(&mut rand::rng());
    make(&stack, &orphan, 3).await;
    stack.start_control().await;
    let report = wait_for(async || {
        let report = stack.get("/operator/check", OPERATOR).await.ok();
        (report["clean"] == false).then_some(report)
    })
    .await;
    assert!(
        report.to_string().contains(&orphan.database()),
        "{report:#}"
    );
    stack.wait_state(&lost, "ACTIVE").await;
    let sql = "SELECT count(*) FROM pg_database WHERE datname = $1 OR datname =
        (SELECT 'x_' || pid FROM tenant WHERE id = $2)";
    let there = catalog
        .query_one(sql, &[&orphan.database(), &lost])
        .await
        .unwrap();
    assert_eq!(
        there.get::<_, i64>(0),
        1,
        "the orphan stays, the lost one is not made"
    );
    stack.stop().await;
}

/// PostgreSQL goes away in the middle and comes back: nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_die_at_any_time() {
    let stack = Stack::start().await;
    let token = stack.token().await;
    let made = stack.create(&token, "a").await;
    let postmaster = stack.managed.postmaster().unwrap();
    let killed = std::process::Command::new("kill")
        .arg("-9")
        .arg(postmaster.to_string())
        .status();
    assert!(killed.unwrap().success());
    let second = wait_for(async || {
        let answer = stack
            .post("/customer/databases", &token, json!({"name": "b"}))
            .await;
        answer.status.is_success().then_some(answer.body)
    })
    .await;
    for database in [&made, &second] {
        wait_for(async || stack.login(database).await.ok()).await;
    }
    stack.warm().await;
    stack.assert_clean().await;
    stack.stop().await;
}

/// However many databases there are, no request looks at more than it was asked to.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_goes_on_where_its_part_before_ended() {
    let stack = Stack::start().await;
    stack.warm().await;
    let made = stack.create(OPERATOR, "a").await;
    stack.create(OPERATOR, "b").await;
    stack.warm().await;
    stack.assert_clean().await;
    let catalog = stack.catalog().await;
    let sql = "SELECT pid FROM tenant WHERE id = $1";
    let row = catalog.query_one(sql, &[&text(&made["id"])]).await.unwrap();
    let pid: String = row.get(0);
    // What only somebody inside can see.
    let mut inside = stack.managed.node().catalog_config().config;
    inside.dbname(format!("x_{pid}"));
    let (inside, connection) = inside.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let foreign = "CREATE TABLE public.ours (v int)";
    inside.batch_execute(foreign).await.unwrap();
    drop(inside);

    let (mut checked, mut found, mut after) = (0, 0, String::new());
    let total = loop {
        let part = format!("/operator/check?limit=1{after}");
        let report = stack.get(&part, OPERATOR).await.ok();
        assert_eq!(report["checked"], 1, "{report}");
        checked += 1;
        if report["clean"] == false {
            assert!(report["findings"].to_string().contains(&pid), "{report}");
            found += 1;
        }
        match report["next_after"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break report["total"].clone(),
        }
    };
    assert_eq!((total, found), (json!(checked), 1));
    let whole = stack.get("/operator/check", OPERATOR).await.ok();
    assert_eq!(
        (&whole["checked"], &whole["clean"]),
        (&json!(checked), &json!(false))
    );
    assert!(whole["next_after"].is_null(), "{whole}");
    for wrong in ["limit=0", "limit=1001", "after=x_1"] {
        let path = format!("/operator/check?{wrong}");
        stack.get(&path, OPERATOR).await.error(400, "invalid_field");
    }
    stack.stop().await;
}
