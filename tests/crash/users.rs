//! Kills inside what is done with a user of a database, and what its branches have of it.

use serde_json::{Value, json};

use super::{
    case::{check_kept, strike, tenant_in_use},
    point::Point,
    request::Request,
    world::{Tenant, World},
};

/// Name of the user in all cases.
pub(crate) const USER: &str = "ann";
/// What whoever is not a user, or not any more, is told.
const WRONG_PASSWORD: &str = "28P01";

/// A user as it knows itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct User {
    /// As whom it logs in.
    user: String,
    password: String,
    /// Its login on the server.
    session_user: String,
}

impl User {
    /// Out of the answer to a create, or to another password.
    #[track_caller]
    pub(crate) fn of(answer: &Value) -> Self {
        let text = |key: &str| {
            let text = answer[key].as_str().map(str::to_owned);
            text.unwrap_or_else(|| panic!("no {key}: {answer}"))
        };
        Self {
            user: text("user"),
            password: text("password"),
            session_user: text("session_user"),
        }
    }

    /// Its password opens the database, and it sees the canary of `canary`.
    pub(crate) async fn assert_reads(&self, world: &World, canary: &Tenant) {
        let client = world.session_as(&self.user, &self.password).await;
        let (client, _) = client.unwrap_or_else(|error| panic!("login of {self:?}: {error:?}"));
        let row = client.query_one("SELECT v FROM canary", &[]).await;
        let row = row.unwrap_or_else(|error| panic!("canary for {self:?}: {error:?}"));
        assert_eq!(row.get::<_, &str>(0), canary.id);
    }

    async fn assert_refused(&self, world: &World, point: Point) {
        let refused = world.session_as(&self.user, &self.password).await;
        let refused = refused.map(|_| ()).expect_err("it is no user");
        let code = refused.code().map(tokio_postgres::error::SqlState::code);
        assert_eq!(code, Some(WRONG_PASSWORD), "{point}: {refused:?}");
    }
}

/// The one user that `tenant` has, or nothing.
async fn listed(world: &World, tenant: &Tenant) -> Option<Value> {
    let path = format!("{}/users", tenant.path());
    let users = world.stack.operator().get(&path).await.ok();
    let users = users.as_array().expect("a list");
    assert!(users.len() <= 1, "{users:?}");
    users.first().cloned()
}

pub(crate) async fn create(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    let request = Request::create_user(&tenant, USER);
    let answer = strike(world, point, &request).await;
    check_kept(point, &answer, listed(world, &tenant).await.is_some());

    let user = User::of(&world.insist(&request).await);
    if let Some(first) = answer.done().map(User::of) {
        assert_eq!(first, user, "{point}");
    }
    world.wait_settled().await;
    user.assert_reads(world, &tenant).await;
    world.assert_canary(&tenant).await;
    tenant
}

pub(crate) async fn delete(world: &mut World, point: Point) -> Tenant {
    let tenant = tenant_in_use(world).await;
    let user = User::of(&world.insist(&Request::create_user(&tenant, USER)).await);
    user.assert_reads(world, &tenant).await;
    // Something that names its login, so that the login cannot go before it is forgotten.
    let owner = world.login(&tenant.id, &tenant.password).await;
    let grant = format!("GRANT UPDATE ON canary TO {}", user.session_user);
    let granted = owner.expect("login").batch_execute(&grant).await;
    granted.expect("a grant to a user");
    let request = Request::delete_user(&tenant, USER);
    let answer = strike(world, point, &request).await;
    let is_there = listed(world, &tenant).await.is_some();
    check_kept(point, &answer, !is_there);
    if is_there {
        user.assert_reads(world, &tenant).await;
    }

    world.insist(&request).await;
    world.wait_settled().await;
    assert_eq!(listed(world, &tenant).await, None, "{point}");
    user.assert_refused(world, point).await;
    world.assert_canary(&tenant).await;
    tenant
}

/// A branch has the user of its parent, with no way in until somebody gives it a password.
pub(crate) async fn assert_carried(world: &World, branch: &Tenant) {
    let user = listed(world, branch).await;
    let user = user.unwrap_or_else(|| panic!("{branch:?} has not got its parent's user"));
    assert_eq!(user["username"], USER);
    assert_eq!(user["has_password"], json!(false), "{user}");
}

/// Gives the user that a branch has from its parent a password of its own.
pub(crate) async fn give_password(world: &World, branch: &Tenant) -> User {
    assert_carried(world, branch).await;
    let path = format!("{}/users/{USER}/reset-password", branch.path());
    let answer = world.insist(&Request::post(path, json!({}))).await;
    User::of(&answer)
}
