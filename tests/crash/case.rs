//! One kill inside one operation, and what its user may rely on afterwards.
//!
//! Every case ends with the client repeating its request under the same `Idempotency-Key`: whatever
//! the kill left, the second answer is a success and names the one outcome there is.

use control::Moment;
use serde_json::json;

use super::{
    backups, dumps,
    point::{Kept, Operation, Point, operation},
    projects,
    request::{Answer, Request},
    users::{self, USER},
    world::{Tenant, World},
};

/// SQLSTATEs of the refusals that are looked for.
const WRONG_PASSWORD: &str = "28P01";
const DELETED: &str = "3D000";
const SUSPENDED: &str = "55000";

/// Runs one case on a world whose rows are at rest, and leaves it so.
pub(crate) async fn run(world: &mut World, point: Point) {
    let tenant = match operation(point.step) {
        Operation::Create => create(world, point).await,
        Operation::Fill => fill(world, point).await,
        Operation::Delete => delete(world, point).await,
        Operation::Purge => purge(world, point).await,
        Operation::Undelete => undelete(world, point).await,
        Operation::ResetPassword => reset_password(world, point).await,
        Operation::Adopt => projects::adopt(world, point).await,
        Operation::Claim => projects::claim(world, point).await,
        Operation::Suspend => suspend(world, point).await,
        Operation::Resume => resume(world, point).await,
        Operation::Rename => rename(world, point).await,
        Operation::SetExpiry => set_expiry(world, point).await,
        Operation::Expire => expire(world, point).await,
        Operation::Branch => branch(world, point).await,
        Operation::Reset => reset(world, point).await,
        Operation::Backup => backups::create(world, point).await,
        Operation::BackupMoment => backups::of_moment(world, point).await,
        Operation::DeleteBackup => backups::delete(world, point).await,
        Operation::Restore => backups::restore(world, point).await,
        Operation::Drill => backups::drill(world, point).await,
        Operation::Dump => dumps::write(world, point).await,
        Operation::CreateUser => users::create(world, point).await,
        Operation::DeleteUser => users::delete(world, point).await,
    };
    world.wait_settled().await;
    world.assert_sound().await;
    // The next case begins with few open databases to check.
    world.insist(&Request::delete(&tenant)).await;
    if operation(point.step) == Operation::Purge {
        // Or its purge would be taken for that of the next case.
        world.wait_gone(&tenant).await;
    }
    world.wait_settled().await;
}

/// Sends the request, kills where the point says, waits until every row is at rest.
pub(crate) async fn strike(world: &mut World, point: Point, request: &Request) -> Answer {
    world.arm(&point.name());
    let sent = tokio::spawn(world.send(request));
    world.wait_reached(&point.name());
    world.kill_and_return(point.kill);
    let answer = sent.await.expect("a request does not panic");
    world.wait_back().await;
    world.wait_settled().await;
    answer
}

/// Whether the request turned out to be done. An acknowledged one always is.
pub(crate) fn check_kept(point: Point, answer: &Answer, is_done: bool) {
    match point.kept() {
        Kept::Yes => assert!(
            is_done,
            "{point}: it was committed, and is not there: {answer:?}"
        ),
        Kept::No => assert!(
            !is_done,
            "{point}: it was not committed, and is there: {answer:?}"
        ),
        Kept::Either => {}
    }
    if answer.done().is_some() {
        assert!(
            is_done,
            "{point}: it was acknowledged, and is not there: {answer:?}"
        );
    }
}

/// A database with a row in it.
pub(crate) async fn tenant_in_use(world: &mut World) -> Tenant {
    let name = world.new_name();
    let tenant = world.create(&name).await;
    world.write_canary(&tenant).await;
    world.wait_settled().await;
    tenant
}

async fn create(world: &mut World, point: Point) -> Tenant {
    let name = world.new_name();
    let request = Request::create(&name);
    let answer = strike(world, point, &request).await;
    let state = world.state(&name).await;
    assert!(
        ["ACTIVE", "gone"].contains(&state.as_str()),
        "{point}: {state}"
    );
    check_kept(point, &answer, state == "ACTIVE");

    let tenant = Tenant::of(&world.insist(&request).await);
    if let Some(first) = answer.done().map(Tenant::of) {
        assert_eq!(
            (&first.id, &first.password),
            (&tenant.id, &tenant.password),
            "{point}"
        );
    }
    assert_eq!(world.state(&name).await, "ACTIVE", "{point}");
    assert_eq!(world.state(&tenant.id).await, "ACTIVE", "{point}");
    world.write_canary(&tenant).await;
    world.assert_canary(&tenant).await;
    tenant
}

/// The create is acknowledged and in use before the kill; what is hit is the refill behind it.
async fn fill(world: &mut World, point: Point) -> Tenant {
    world.arm(&point.name());
    let name = world.new_name();
    let first = world.create(&name).await;
    world.write_canary(&first).await;
    world.wait_reached(&point.name());
    world.kill_and_return(point.kill);
    world.wait_back().await;
    world.wait_settled().await;
    world.assert_canary(&first).await;

    // Every entry that is there now is good, the one that was being made among them.
    let name = world.new_name();
    let second = world.create(&name).await;
    world.write_canary(&second).await;
    world.insist(&Request::delete(&first)).await;
    second
}

async fn delete(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    let request = Request::delete(&tenant);
    let answer = strike(world, point, &request).await;
    let state = world.state(&tenant.id).await;
    check_kept(point, &answer, state == "DISABLED");
    if state != "DISABLED" {
        assert_eq!(state, "ACTIVE", "{point}");
        world.assert_canary(&tenant).await;
    }

    world.insist(&request).await;
    world.wait_settled().await;
    assert_eq!(world.state(&tenant.id).await, "DISABLED", "{point}");
    assert_eq!(
        world.refusal(&tenant.id, &tenant.password).await,
        DELETED,
        "{point}"
    );
    // Deleted is not lost.
    world
        .insist(&Request::act(&tenant, "undelete", json!({})))
        .await;
    world.assert_canary(&tenant).await;
    tenant
}

async fn purge(world: &mut World, point: Point) -> Tenant {
    let name = world.new_name();
    let tenant = world.create(&name).await;
    world.write_canary(&tenant).await;
    world.wait_settled().await;
    world.arm(&point.name());
    let request = Request::delete(&tenant);
    world.insist(&request).await;
    world.wait_reached(&point.name());
    world.kill_and_return(point.kill);
    world.wait_back().await;
    world.wait_settled().await;
    assert_eq!(world.state(&tenant.id).await, "gone", "{point}");
    // As one that never was, or, by a proxy that knew it, as deleted.
    let refusal = world.refusal(&tenant.id, &tenant.password).await;
    assert!(
        [WRONG_PASSWORD, DELETED].contains(&refusal.as_str()),
        "{point}: {refusal}"
    );
    let late = world
        .send(&Request::act(&tenant, "undelete", json!({})))
        .await;
    assert!(matches!(late, Answer::Refused(404, _)), "{point}: {late:?}");
    // Nothing of it is in the next one.
    let next = world.create(&name).await;
    assert_ne!(next.id, tenant.id);
    world.write_canary(&next).await;
    next
}

async fn undelete(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    world.insist(&Request::delete(&tenant)).await;
    world.wait_settled().await;
    let request = Request::act(&tenant, "undelete", json!({}));
    let answer = strike(world, point, &request).await;
    let state = world.state(&tenant.id).await;
    check_kept(point, &answer, state == "ACTIVE");
    if state != "ACTIVE" {
        assert_eq!(state, "DISABLED", "{point}");
        assert_eq!(
            world.refusal(&tenant.id, &tenant.password).await,
            DELETED,
            "{point}"
        );
    }

    world.insist(&request).await;
    assert_eq!(world.state(&tenant.id).await, "ACTIVE", "{point}");
    world.assert_canary(&tenant).await;
    tenant
}

async fn reset_password(world: &mut World, point: Point) -> Tenant {
    let old = tenant_in_use(world).await;
    let new = Tenant {
        password: format!("new-{:016x}", rand::random::<u64>()),
        ..old.clone()
    };
    let body = json!({ "admin_password": new.password });
    let request = Request::act(&old, "reset-password", body);
    let answer = strike(world, point, &request).await;
    let is_new = world.refusal(&old.id, &old.password).await == WRONG_PASSWORD;
    check_kept(point, &answer, is_new);
    // One of them, never both and never none.
    let (good, bad) = if is_new { (&new, &old) } else { (&old, &new) };
    world.assert_canary(good).await;
    assert_eq!(
        world.refusal(&bad.id, &bad.password).await,
        WRONG_PASSWORD,
        "{point}"
    );

    let again = Tenant::of(&world.insist(&request).await);
    assert_eq!(again.password, new.password, "{point}");
    world.assert_canary(&new).await;
    assert_eq!(
        world.refusal(&old.id, &old.password).await,
        WRONG_PASSWORD,
        "{point}"
    );
    new
}

async fn suspend(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    let request = Request::act(&tenant, "suspend", json!({}));
    let answer = strike(world, point, &request).await;
    let state = world.state(&tenant.id).await;
    check_kept(point, &answer, state == "SUSPENDED");
    if state != "SUSPENDED" {
        world.assert_canary(&tenant).await;
    }

    world.insist(&request).await;
    world.wait_settled().await;
    assert_eq!(world.state(&tenant.id).await, "SUSPENDED", "{point}");
    assert_eq!(
        world.refusal(&tenant.id, &tenant.password).await,
        SUSPENDED,
        "{point}"
    );
    world
        .insist(&Request::act(&tenant, "resume", json!({})))
        .await;
    world.wait_settled().await;
    world.assert_canary(&tenant).await;
    tenant
}

async fn resume(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    world
        .insist(&Request::act(&tenant, "suspend", json!({})))
        .await;
    world.wait_settled().await;
    let request = Request::act(&tenant, "resume", json!({}));
    let answer = strike(world, point, &request).await;
    let state = world.state(&tenant.id).await;
    check_kept(point, &answer, state == "ACTIVE");
    if state != "ACTIVE" {
        assert_eq!(
            world.refusal(&tenant.id, &tenant.password).await,
            SUSPENDED,
            "{point}"
        );
    }

    world.insist(&request).await;
    world.wait_settled().await;
    assert_eq!(world.state(&tenant.id).await, "ACTIVE", "{point}");
    world.assert_canary(&tenant).await;
    tenant
}

async fn rename(world: &mut World, point: Point) -> Tenant {
    let (old, new) = (world.new_name(), world.new_name());
    let tenant = world.create(&old).await;
    world.write_canary(&tenant).await;
    world.wait_settled().await;
    let request = Request::change(&tenant, json!({ "name": new }));
    let answer = strike(world, point, &request).await;
    let is_new = world.state(&new).await == "ACTIVE";
    check_kept(point, &answer, is_new);
    // One of the names, never both and never none.
    let other = world.state(if is_new { &old } else { &new }).await;
    assert_eq!(other, "gone", "{point}");
    world.assert_canary(&tenant).await;

    world.insist(&request).await;
    assert_eq!(world.state(&new).await, "ACTIVE", "{point}");
    // The old name can be had.
    let second = world.create(&old).await;
    world.insist(&Request::delete(&second)).await;
    world.assert_canary(&tenant).await;
    tenant
}

async fn set_expiry(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    let request = Request::change(&tenant, json!({ "expires": "1h" }));
    let answer = strike(world, point, &request).await;
    let is_set = world.describe(&tenant.id).await["expires_at"].is_string();
    check_kept(point, &answer, is_set);
    world.assert_canary(&tenant).await;

    let again = world.insist(&request).await;
    let shown = world.describe(&tenant.id).await;
    assert_eq!(shown["expires_at"], again["expires_at"], "{point}");
    world.assert_canary(&tenant).await;
    tenant
}

/// Whoever is killed when, what has expired is deleted once, and can be taken back.
async fn expire(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    world.arm(&point.name());
    world
        .insist(&Request::change(&tenant, json!({ "expires": "1s" })))
        .await;
    world.wait_reached(&point.name());
    world.kill_and_return(point.kill);
    world.wait_back().await;
    world.wait_state(&tenant, "DISABLED").await;
    world.wait_settled().await;
    assert_eq!(
        world.refusal(&tenant.id, &tenant.password).await,
        DELETED,
        "{point}"
    );
    let shown = world.describe(&tenant.id).await;
    assert_eq!(shown["state_reason"], "its lifetime was over", "{point}");

    let back = Request::act(&tenant, "undelete", json!({}));
    let back = world.insist(&back).await;
    assert!(back["expires_at"].is_null(), "{point}: {back}");
    world.assert_canary(&tenant).await;
    tenant
}

/// A database whose data a branch begins with. One that is in use is copied through a dump, one that is
/// suspended by its files: both ways are killed.
async fn parent(world: &mut World, point: Point) -> Tenant {
    let parent = tenant_in_use(world).await;
    world.insist(&Request::create_user(&parent, USER)).await;
    if point.moment == Moment::Between {
        world
            .insist(&Request::act(&parent, "suspend", json!({})))
            .await;
        world.wait_settled().await;
    }
    parent
}

async fn branch(world: &mut World, point: Point) -> Tenant {
    let parent = parent(world, point).await;
    let name = world.new_name();
    let request = Request::act(&parent, "branch?wait=60", json!({ "name": name }));
    let answer = strike(world, point, &request).await;
    let state = world.state(&name).await;
    assert!(
        ["ACTIVE", "gone"].contains(&state.as_str()),
        "{point}: {state}"
    );
    check_kept(point, &answer, state == "ACTIVE");

    let tenant = Tenant::of(&world.insist(&request).await);
    if let Some(first) = answer.done().map(Tenant::of) {
        assert_eq!(
            (&first.id, &first.password),
            (&tenant.id, &tenant.password),
            "{point}"
        );
    }
    world.wait_settled().await;
    assert_eq!(world.state(&tenant.id).await, "ACTIVE", "{point}");
    world.assert_canary_of(&tenant, &parent).await;
    users::assert_carried(world, &tenant).await;
    world.insist(&Request::delete(&parent)).await;
    // The end of its parent leaves it alone.
    world.assert_canary_of(&tenant, &parent).await;
    tenant
}

async fn reset(world: &mut World, point: Point) -> Tenant {
    let parent = parent(world, point).await;
    let name = world.new_name();
    let request = Request::act(&parent, "branch?wait=60", json!({ "name": name }));
    let tenant = Tenant::of(&world.insist(&request).await);
    world.wait_settled().await;
    let user = users::give_password(world, &tenant).await;
    world.change_canary(&tenant).await;
    let request = Request::act(&tenant, "reset?wait=60", json!({}));
    let answer = strike(world, point, &request).await;
    assert_eq!(world.state(&tenant.id).await, "ACTIVE", "{point}");
    let is_reset = world.canary(&tenant).await == [parent.id.as_str()];
    check_kept(point, &answer, is_reset);

    world.insist(&request).await;
    world.wait_settled().await;
    assert_eq!(world.state(&tenant.id).await, "ACTIVE", "{point}");
    world.assert_canary_of(&tenant, &parent).await;
    // Its users and their passwords stay, on logins that were made anew.
    user.assert_reads(world, &parent).await;
    world.insist(&Request::delete(&parent)).await;
    tenant
}
