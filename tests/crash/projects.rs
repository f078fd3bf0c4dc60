//! Kills while databases go from one project to another, and while a project becomes somebody's.

use kit::api::Api;
use serde_json::{Value, json};

use super::{
    case::{check_kept, strike},
    point::Point,
    request::{Answer, Request},
    world::{Tenant, World},
};

/// An anonymous project, with a database in use: what it was told, who asks in its name, the database.
async fn anonymous(world: &mut World) -> (Value, Api, Tenant) {
    let project = world.stack.nobody();
    let project = project.post("/customer/anonymous-register", json!({}));
    let project = project.await.ok();
    let token = project["token"].as_str().map(str::to_owned);
    let theirs = Api::new(world.stack.api_url(), token);
    let name = json!({ "name": world.new_name() });
    let tenant = Tenant::of(&theirs.post("/customer/databases", name).await.ok());
    world.write_canary(&tenant).await;
    world.wait_settled().await;
    (project, theirs, tenant)
}

/// The database of an anonymous project, its password and its data stay as they are; only whose it is may
/// be the one or the other.
pub(crate) async fn adopt(world: &mut World, point: Point) -> Tenant {
    let (project, theirs, tenant) = anonymous(world).await;
    let body = json!({
        "anonymous_customer_id": project["anonymous_id"],
        "anonymous_secret": project["anonymous_secret"],
        "database_ids": [tenant.id],
    });
    let request = Request::post("/customer/adopt-anonymous-databases", body);
    let answer = strike(world, point, &request).await;
    let is_theirs = async || theirs.get(&tenant.path()).await.status == 200;
    check_kept(point, &answer, !is_theirs().await);
    world.assert_canary(&tenant).await;

    let again = world.insist(&request).await;
    assert_eq!(again["databases"][0]["id"], tenant.id.as_str(), "{point}");
    assert!(!is_theirs().await, "{point}");
    world.assert_canary(&tenant).await;
    tenant
}

/// The code is used if the project is claimed, and only then; whoever was not told asks again and is.
pub(crate) async fn claim(world: &mut World, point: Point) -> Tenant {
    let (project, theirs, tenant) = anonymous(world).await;
    let code = Request::post("/operator/claim-codes", json!({ "label": "ann" }));
    let code = world.insist(&code).await;
    let body = json!({ "code": code["code"] });
    let token = project["token"].as_str().expect("a token");
    let request = Request::post("/customer/claim", body.clone()).by(token);
    let answer = strike(world, point, &request).await;
    let is_claimed = async || theirs.get("/customer/me").await.ok()["is_anonymous"] == json!(false);
    let used_by = async || {
        let codes = world
            .stack
            .operator()
            .get("/operator/claim-codes")
            .await
            .ok();
        let mut codes = codes.as_array().expect("a list").iter();
        let ours = codes.find(|one| one["id"] == code["id"]).expect("the code");
        ours["project_id"].clone()
    };
    let claimed = is_claimed().await;
    check_kept(point, &answer, claimed);
    let user = if claimed {
        project["customer_id"].clone()
    } else {
        Value::Null
    };
    assert_eq!(used_by().await, user, "{point}");
    world.assert_canary(&tenant).await;

    world.insist(&request).await;
    assert!(is_claimed().await, "{point}");
    assert_eq!(used_by().await, project["customer_id"], "{point}");
    // It works once.
    let (other, _, others) = anonymous(world).await;
    let again = Request::post("/customer/claim", body);
    let again = again.by(other["token"].as_str().expect("a token"));
    let refused = world.send(&again).await;
    assert!(
        matches!(refused, Answer::Refused(..)),
        "{point}: {refused:?}"
    );
    world.insist(&Request::delete(&others)).await;
    world.assert_canary(&tenant).await;
    tenant
}
