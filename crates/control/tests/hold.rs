//! A tenant is held by all processes or by none: each step is taken by all before the next one is asked of
//! any, and whatever goes wrong, everybody lets go.

#![allow(clippy::unwrap_used, reason = "a test's own code")]

mod kit;

use std::time::Duration;

use control::HoldError;
use kit::{Answers, Stack, text, wait_for};
use model::{
    TenantId,
    hold::{Kept, Step},
};

const DRAIN: Step = Step::Drain(Duration::ZERO);
const BOUND: Duration = Duration::from_secs(2);

async fn tenant(stack: &Stack) -> TenantId {
    let token = stack.token().await;
    let created = stack.create(&token, "held").await;
    text(&created["id"]).parse().unwrap()
}

async fn rows(stack: &Stack) -> i64 {
    let catalog = stack.catalog().await;
    let row = catalog.query_one("SELECT count(*) FROM hold", &[]).await;
    row.unwrap().get(0)
}

/// Waits until so many orders were given, and takes them.
async fn orders(stack: &Stack, count: usize) -> Vec<(&'static str, Step)> {
    wait_for(async || (stack.orders.lock().unwrap().len() >= count).then_some(())).await;
    let mut orders = std::mem::take(&mut *stack.orders.lock().unwrap());
    // The two of one step come in any order.
    for both in orders.chunks_mut(2) {
        both.sort_by_key(|(name, _)| *name);
    }
    orders
}

fn both(steps: &[Step]) -> Vec<(&'static str, Step)> {
    let each = steps.iter();
    each.flat_map(|step| [("other", *step), ("serve", *step)])
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_processes_take_a_step_before_any_takes_the_next() {
    let stack = Stack::start().await;
    let tenant = tenant(&stack).await;
    let (other, _, obeys) = stack.start_obeying("other").await;
    let control = stack.control.as_ref().unwrap();

    let held = control.hold(&tenant, BOUND).await.unwrap();
    assert_eq!(orders(&stack, 4).await, both(&[DRAIN, Step::Close]));
    assert!(held.left() > Duration::from_secs(10));
    held.stands().await.unwrap();
    // Nobody else holds it, here or there.
    for control in [control, &other] {
        let taken = control.hold(&tenant, BOUND).await.unwrap_err();
        assert!(matches!(taken, HoldError::Taken), "{taken}");
    }
    held.release().await.unwrap();
    assert_eq!(orders(&stack, 4).await, both(&[Step::Return, Step::End]));
    assert_eq!(rows(&stack).await, 0);

    // Something is kept at the other one: everybody goes on at once.
    let kept = Kept {
        what: "1 session with temporary objects".to_owned(),
        may_pass: false,
    };
    obeys.answer(Answers::Keeps(kept.clone()));
    let refused = control.hold(&tenant, BOUND).await.unwrap_err();
    assert!(
        matches!(&refused, HoldError::Kept(why) if *why == kept),
        "{refused}"
    );
    assert_eq!(orders(&stack, 4).await, both(&[DRAIN, Step::End]));
    obeys.answer(Answers::Done);

    // The other one can hold as well; dropped, it is let go of.
    let held = other.hold(&tenant, BOUND).await.unwrap();
    assert_eq!(orders(&stack, 4).await, both(&[DRAIN, Step::Close]));
    drop(held);
    assert_eq!(orders(&stack, 4).await, both(&[Step::Return, Step::End]));
    assert_eq!(rows(&stack).await, 0);

    // Given up while it waits, too.
    obeys.answer(Answers::Silent);
    tokio::select! {
        _ = control.hold(&tenant, Duration::from_secs(30)) => unreachable!("nobody answered"),
        given = orders(&stack, 2) => assert_eq!(given, both(&[DRAIN])),
    }
    assert_eq!(orders(&stack, 2).await, both(&[Step::End]));

    // One that says nothing may have clients.
    let refused = control.hold(&tenant, BOUND).await.unwrap_err();
    let words = refused.to_string();
    assert!(matches!(refused, HoldError::Silent { .. }), "{words}");
    assert_eq!(orders(&stack, 4).await, both(&[DRAIN, Step::End]));
    // Once it is known that it is gone, nobody waits for it.
    other.stop(Duration::from_secs(10)).await.leave().await;
    let held = control.hold(&tenant, BOUND).await.unwrap();
    held.release().await.unwrap();
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_over_at_its_deadline_whoever_took_it() {
    let stack = Stack::start().await;
    let tenant = tenant(&stack).await;
    let control = stack.control.as_ref().unwrap();
    let catalog = stack.catalog().await;

    let held = control.hold(&tenant, BOUND).await.unwrap();
    // A process that starts now has nobody in before it holds, too.
    stack.orders.lock().unwrap().clear();
    let (other, ..) = stack.start_obeying("other").await;
    let begun = stack.orders.lock().unwrap().first().copied();
    assert_eq!(begun, Some(("other", DRAIN)));
    // It is no longer true, and whoever relies on it is told.
    let over = "UPDATE hold SET deadline = now() - interval '1 second'";
    catalog.execute(over, &[]).await.unwrap();
    let refused = held.stands().await.unwrap_err();
    assert!(matches!(refused, HoldError::Over), "{refused}");
    // Those that counted a little later may still be at it.
    let refused = control.hold(&tenant, BOUND).await.unwrap_err();
    assert!(matches!(refused, HoldError::Taken), "{refused}");
    std::mem::forget(held);
    let long_over = "UPDATE hold SET deadline = now() - interval '11 seconds'";
    catalog.execute(long_over, &[]).await.unwrap();
    let held = control.hold(&tenant, BOUND).await.unwrap();
    held.stands().await.unwrap();
    held.release().await.unwrap();

    // What nobody let go of is removed.
    let orphan = "INSERT INTO hold VALUES
        ('hld_abcdefghijkl', $1, 'prc_abcdefghijkl', 'close', now(), now() - interval '1 minute')";
    catalog.execute(orphan, &[&tenant.as_str()]).await.unwrap();
    wait_for(async || (rows(&stack).await == 0).then_some(())).await;

    // A session that no proxy knows of is in the way, and named as such.
    let sql = "SELECT pid FROM tenant WHERE id = $1";
    let row = catalog.query_one(sql, &[&tenant.as_str()]).await.unwrap();
    let pid: String = row.get(0);
    let mut config = stack.managed.node().catalog_config().config;
    config.dbname(format!("x_{pid}"));
    let (stranger, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let drive = tokio::spawn(connection);
    let refused = control.hold(&tenant, BOUND).await.unwrap_err();
    assert!(
        matches!(refused, HoldError::Connected { sessions: 1 }),
        "{refused}"
    );
    assert_eq!(rows(&stack).await, 0);
    drop(stranger);
    drive.await.unwrap().unwrap();
    let held = control.hold(&tenant, BOUND).await.unwrap();
    held.release().await.unwrap();
    other.stop(Duration::from_secs(10)).await.leave().await;
    stack.stop().await;
}
