//! Processes that share a catalog divide the budget of server connections: together they never have more
//! than there is, and what one had that is gone is had by others.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use kit::{BUDGET, Stack, wait_for};
use model::route::{BudgetLease, Demand, RouteClient};

/// What a proxy would say, and what it is told.
async fn lease(routes: &RouteClient, held: u32, needed: u32) -> BudgetLease {
    let demand = Demand {
        node: "node".to_owned(),
        budget: BUDGET,
        held,
        needed,
    };
    routes.lease(demand).await.unwrap()
}

async fn ask(routes: &RouteClient, held: u32, needed: u32) -> u32 {
    lease(routes, held, needed).await.server_connections
}

async fn number(stack: &Stack, sql: &str) -> i64 {
    let catalog = stack.catalog().await;
    catalog.query_one(sql, &[]).await.unwrap().get(0)
}

async fn held(stack: &Stack) -> i64 {
    number(stack, "SELECT coalesce(sum(held), 0) FROM budget_lease").await
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_divide_the_budget_by_what_they_need() {
    let stack = Stack::start().await;
    let budget = i64::from(BUDGET);
    // Alone it has all, before anybody asked for anything.
    assert_eq!(ask(&stack.routes, 0, 0).await, BUDGET);
    let (other, routes) = stack.start_other("other").await;
    assert_eq!(ask(&routes, 0, 0).await, 0, "there is nothing left");
    assert_eq!(held(&stack).await, budget);

    // The first one is told to come down, and nobody gets anything before it has.
    let part = ask(&stack.routes, BUDGET, 3).await;
    assert!((3..BUDGET).contains(&part), "{part}");
    assert_eq!(ask(&routes, 0, 30).await, 0);
    // Five are left to it, so that its next clients wait for nobody.
    assert_eq!(ask(&stack.routes, part, 3).await, 5, "others need more");
    assert_eq!(ask(&routes, 0, 30).await, BUDGET - part);
    assert_eq!(ask(&stack.routes, 5, 3).await, 5);
    assert_eq!(ask(&routes, BUDGET - part, 30).await, BUDGET - 5);
    assert_eq!(held(&stack).await, budget);

    // Both want more than there is: half each, whoever had more.
    assert_eq!(ask(&stack.routes, 5, 30).await, 5);
    assert_eq!(ask(&routes, BUDGET - 5, 30).await, BUDGET / 2);
    // It has not come down all the way: its statements still run.
    assert_eq!(ask(&routes, BUDGET - 7, 30).await, BUDGET / 2);
    assert_eq!(ask(&stack.routes, 5, 30).await, 7);
    assert_eq!(ask(&routes, BUDGET / 2, 30).await, BUDGET / 2);
    assert_eq!(ask(&stack.routes, 7, 30).await, BUDGET / 2);
    assert_eq!(held(&stack).await, budget);

    // The catalog itself lets nobody have more, also one that is mistaken.
    let catalog = stack.catalog().await;
    let more = "UPDATE budget_lease SET held = held + 1";
    let refused = catalog.execute(more, &[]).await.unwrap_err();
    assert_eq!(
        refused.as_db_error().unwrap().constraint(),
        Some("budget_holds")
    );
    // One that has more than the catalog says gets no more than there is.
    assert_eq!(ask(&routes, BUDGET, 30).await, BUDGET / 2);
    assert_eq!(held(&stack).await, budget);

    // One with another idea of the budget: the smaller one holds for who asks.
    let demand = Demand {
        node: "node".to_owned(),
        budget: BUDGET - 6,
        held: BUDGET / 2,
        needed: 30,
    };
    let told = routes.lease(demand).await.unwrap();
    assert_eq!(told.server_connections, BUDGET - 6 - BUDGET / 2);
    assert_eq!(held(&stack).await, budget, "it has not come down yet");

    other
        .stop(std::time::Duration::from_secs(10))
        .await
        .leave()
        .await;
    assert_eq!(
        ask(&stack.routes, BUDGET / 2, 30).await,
        BUDGET,
        "all again"
    );
    assert_eq!(number(&stack, "SELECT count(*) FROM process").await, 1);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_had_is_taken_when_it_is_gone_and_not_when_it_is_cut_off() {
    let stack = Stack::start().await;
    assert_eq!(ask(&stack.routes, 0, 0).await, BUDGET);
    let (other, routes) = stack.start_other("other").await;
    ask(&routes, 0, 9).await;
    assert_eq!(ask(&stack.routes, 11, 3).await, 11);
    assert_eq!(ask(&routes, 0, 9).await, 9);

    // It stopped without a word, as far as the catalog knows, but its session is on the node.
    let other = other.stop(std::time::Duration::from_secs(10)).await;
    let catalog = stack.catalog().await;
    let silent = "UPDATE process SET alive_until = now() - interval '1 second',
        absent_since = now() - interval '1 minute' WHERE instance = 'other'";
    catalog.execute(silent, &[]).await.unwrap();
    let seen = "SELECT count(*) FROM process WHERE instance = 'other' AND absent_since IS NULL";
    wait_for(async || (number(&stack, seen).await == 1).then_some(())).await;
    assert_eq!(ask(&stack.routes, 11, 30).await, 11, "nobody has its part");

    // Its session ends. Only now, and after some time, it is gone.
    drop(other);
    let noted = "SELECT count(*) FROM process WHERE instance = 'other' AND absent_since > now() - interval '1 minute'";
    wait_for(async || (number(&stack, noted).await == 1).then_some(())).await;
    assert_eq!(ask(&stack.routes, 11, 30).await, 11);
    wait_for(async || {
        let all = number(&stack, "SELECT count(*) FROM process").await;
        (all == 1).then_some(())
    })
    .await;
    assert_eq!(ask(&stack.routes, 11, 30).await, BUDGET);

    // One that is silent for longer than anybody may go on without the catalog is gone in any case.
    let (other, routes) = stack.start_other("other").await;
    ask(&routes, 0, 1).await;
    let _cut_off = other.stop(std::time::Duration::from_secs(10)).await;
    let silent =
        "UPDATE process SET alive_until = now() - interval '61 minutes' WHERE instance = 'other'";
    wait_for(async || {
        // Again each time: its last sign of life may still have been on the way.
        catalog.execute(silent, &[]).await.unwrap();
        let all = number(&stack, "SELECT count(*) FROM process").await;
        (all == 1).then_some(())
    })
    .await;
    stack.stop().await;
}

/// A process that was killed and is started again on its directory waits for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_successor_has_at_once_what_its_former_process_had() {
    let mut stack = Stack::start().await;
    assert_eq!(ask(&stack.routes, 0, 0).await, BUDGET);
    // Nothing is said to the catalog, and its session ends as that of a process that was killed.
    let control = stack.control.take().unwrap();
    drop(control.stop(std::time::Duration::from_secs(10)).await);
    stack.start_control().await;
    wait_for(async || {
        let all = number(&stack, "SELECT count(*) FROM process").await;
        (all == 1).then_some(())
    })
    .await;
    assert_eq!(ask(&stack.routes, 0, 0).await, BUDGET);
    stack.stop().await;
}

/// What it was in the middle of is not left alone for the rest of its lease, a minute.
#[tokio::test(flavor = "multi_thread")]
async fn who_stops_leaves_nothing_that_others_must_not_work_on() {
    let stack = Stack::start().await;
    let (other, _routes) = stack.start_other("other").await;
    let leased = "SELECT count(*) FROM placement WHERE leased_by IS NOT NULL";
    wait_for(async || (number(&stack, leased).await == 0).then_some(())).await;
    let catalog = stack.catalog().await;
    let lease =
        "UPDATE placement SET leased_by = 'other', leased_until = now() + interval '1 hour'";
    assert_eq!(catalog.execute(lease, &[]).await.unwrap(), 2);
    let other = other.stop(std::time::Duration::from_secs(10)).await;
    assert_eq!(number(&stack, leased).await, 0);
    other.leave().await;
    stack.stop().await;
}

/// While the catalog is away, a process uses on what it had, as long as the node sees it.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_catalog_a_process_keeps_what_it_had_and_gets_no_more() {
    let stack = Stack::start().await;
    let catalog = stack.catalog().await;
    let (_other, routes) = stack.start_other("other").await;
    assert_eq!(ask(&routes, 0, 3).await, BUDGET);
    assert_eq!(ask(&stack.routes, 0, 3).await, 0);
    let part = ask(&routes, BUDGET, 3).await;
    assert!(part < BUDGET);
    // As if it did not answer.
    catalog
        .batch_execute("ALTER TABLE process RENAME TO process_away")
        .await
        .unwrap();
    let kept = lease(&routes, BUDGET, 30).await;
    assert_eq!(kept.server_connections, part, "what it was told last");
    assert!(kept.valid_for <= std::time::Duration::from_secs(15));
    // Its session on the node ends: then nobody vouches for it.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name LIKE 'tenantry prc%'";
    catalog.query_one(end, &[]).await.unwrap();
    let demand = Demand {
        node: "node".to_owned(),
        budget: BUDGET,
        held: part,
        needed: 1,
    };
    wait_for(async || routes.lease(demand.clone()).await.err()).await;
    catalog
        .batch_execute("ALTER TABLE process_away RENAME TO process")
        .await
        .unwrap();
    wait_for(async || routes.lease(demand.clone()).await.ok()).await;
    stack.stop().await;
}
