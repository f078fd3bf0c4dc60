//! Kills inside backups and restores: half a backup is never there, and half a restore never served.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    case::{check_kept, strike, tenant_in_use},
    point::Point,
    request::Request,
    users::{USER, User},
    world::{Tenant, World},
};

/// Between two looks at what a pass of the program does by itself, in seconds: no request waits for the first base
/// backup, or for a backup to be given up.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Until the first base backup is there: it copies a server that holds little, beside all that the tests do.
const BASE_BACKUP_MAX: Duration = Duration::from_secs(180);
/// Until passes have seen that a restore ended.
const GIVEN_UP_MAX: Duration = Duration::from_secs(30);

async fn of(world: &World, tenant: &Tenant) -> Vec<Value> {
    let path = format!("/customer/databases/{}/backups", tenant.id);
    let all = world.operator_get(&path).await;
    all.as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// All of it can be read.
async fn assert_whole(world: &World, backup: &Value) {
    let path = format!("/customer/backups/{}/verify?wait=60", text(&backup["id"]));
    let read = world.insist(&Request::post(path, json!({}))).await;
    assert!(
        read["verifying"] == false && read["verify_error"].is_null(),
        "{read}"
    );
}

pub(crate) async fn create(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    let request = Request::act(&tenant, "backups?wait=60", json!({}));
    let answer = strike(world, point, &request).await;
    let made = of(world, &tenant).await;
    check_kept(point, &answer, !made.is_empty());

    let again = world.insist(&request).await;
    world.wait_settled().await;
    let made = of(world, &tenant).await;
    assert_eq!(made.len(), 1, "{point}: {made:?}");
    assert_eq!(made[0]["id"], again["id"], "{point}");
    assert_eq!(made[0]["state"], "ready", "{point}: {made:?}");
    assert_whole(world, &made[0]).await;
    let name = format!("{}.tntry", text(&made[0]["id"]));
    assert_eq!(world.backup_files(&tenant), [name], "{point}");
    tenant
}

/// A moment in which the database is what it is now, by the clock of its server.
async fn moment(world: &World, tenant: &Tenant) -> Value {
    let moments = format!("/customer/databases/{}/moments", tenant.id);
    let until = Instant::now() + BASE_BACKUP_MAX;
    loop {
        let moments = world.operator_get(&moments).await;
        if moments["latest"].is_string() {
            return moments["latest"].clone();
        }
        assert!(Instant::now() < until, "no moment is kept: {moments}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Of what the database was before it was changed; made only to be restored.
pub(crate) async fn of_moment(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    let at = moment(world, &tenant).await;
    world.change_canary(&tenant).await;
    let request = Request::act(&tenant, "backups", json!({ "at": at, "keep": false }));
    let answer = strike(world, point, &request).await;
    check_kept(point, &answer, !of(world, &tenant).await.is_empty());

    world.insist(&request).await;
    world.wait_settled().await;
    let made = of(world, &tenant).await;
    assert_eq!(made.len(), 1, "{point}: {made:?}");
    assert_eq!(made[0]["state"], "ready", "{point}: {made:?}");
    assert_whole(world, &made[0]).await;
    let path = format!("/customer/backups/{}/restore?wait=60", text(&made[0]["id"]));
    world.insist(&Request::post(path, json!({}))).await;
    world.wait_settled().await;
    world.assert_canary(&tenant).await;
    wait_given_up(world, &tenant, &made[0]["id"]).await;
    assert!(!world.is_a_moment_left(), "{point}");
    tenant
}

pub(crate) async fn delete(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    let create = Request::act(&tenant, "backups?wait=60", json!({}));
    world.insist(&create).await;
    world.wait_settled().await;
    let made = of(world, &tenant).await;
    strike(world, point, &Request::delete_backup(&text(&made[0]["id"]))).await;
    assert_eq!(of(world, &tenant).await, Vec::<Value>::new(), "{point}");
    assert_eq!(world.backup_files(&tenant), Vec::<String>::new(), "{point}");
    tenant
}

pub(crate) async fn restore(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    let user = User::of(&world.insist(&Request::create_user(&tenant, USER)).await);
    // Beside those of moments it is made only for this.
    let body = json!({ "keep": !world.has_history() });
    let create = Request::act(&tenant, "backups?wait=60", body);
    world.insist(&create).await;
    world.wait_settled().await;
    let made = of(world, &tenant).await;
    assert_eq!(made[0]["state"], "ready", "{point}: {made:?}");
    world.change_canary(&tenant).await;
    let path = format!("/customer/backups/{}/restore?wait=60", text(&made[0]["id"]));
    let request = Request::post(path, json!({}));
    let answer = strike(world, point, &request).await;
    assert_eq!(world.state(&tenant.id).await, "ACTIVE", "{point}");
    let canary = world.canary(&tenant).await;
    let is_restored = canary == [tenant.id.as_str()];
    assert!(is_restored || canary == ["changed"], "{point}: {canary:?}");
    check_kept(point, &answer, is_restored);

    world.insist(&request).await;
    world.wait_settled().await;
    assert_eq!(world.state(&tenant.id).await, "ACTIVE", "{point}");
    world.assert_canary(&tenant).await;
    user.assert_reads(world, &tenant).await;
    if world.has_history() {
        wait_given_up(world, &tenant, &made[0]["id"]).await;
    }
    // What was replaced can be had again.
    let all = of(world, &tenant).await;
    let safety = all.iter().find(|backup| backup["kind"] == "safety");
    let safety = safety.unwrap_or_else(|| panic!("{point}: {all:?}"));
    assert_eq!(safety["state"], "ready", "{point}: {all:?}");
    assert_whole(world, safety).await;
    tenant
}

/// Nothing is left of what was made only to be restored.
async fn wait_given_up(world: &World, tenant: &Tenant, id: &Value) {
    let name = format!("{}.tntry", text(id));
    let until = Instant::now() + GIVEN_UP_MAX;
    loop {
        let all = of(world, tenant).await;
        let is_there = all.iter().any(|backup| backup["id"] == *id);
        if !is_there && !world.backup_files(tenant).contains(&name) {
            return;
        }
        assert!(Instant::now() < until, "{id} is still there: {all:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(crate) async fn drill(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    let create = Request::act(&tenant, "backups?wait=60", json!({}));
    world.insist(&create).await;
    world.wait_settled().await;
    let backup = of(world, &tenant).await[0]["id"].clone();
    let body = json!({ "database_id": tenant.id });
    let request = Request::post("/operator/drills?wait=60", body);
    let answer = strike(world, point, &request).await;
    check_kept(point, &answer, !drills(world, &tenant).await.is_empty());

    let again = world.insist(&request).await;
    world.wait_settled().await;
    let done = drills(world, &tenant).await;
    assert_eq!(done.len(), 1, "{point}: {done:?}");
    let [done] = &done[..] else {
        unreachable!("there is one")
    };
    assert_eq!(
        (&done["id"], &done["backup_id"]),
        (&again["id"], &backup),
        "{point}"
    );
    assert!(
        done["state"] == "passed" && done["dropped"] == true,
        "{point}: {done}"
    );
    // The database itself was in use all the time.
    world.assert_canary(&tenant).await;
    tenant
}

async fn drills(world: &World, tenant: &Tenant) -> Vec<Value> {
    let all = world.operator_get("/operator/drills").await;
    let mut all = all.as_array().cloned().unwrap_or_default();
    all.retain(|drill| drill["database_id"] == tenant.id.as_str());
    all
}
