//! `/customer/databases/{database}/users`: makes, lists, changes and deletes the users of a database.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use model::{LoginName, Role, Secret, UserId, UserName, lifecycle::TenantState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    job,
    store::{self, Due, New, USERS_MAX, User},
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode, chain},
        extract::{DatabaseKey, Json, UserKey, quoted},
        idempotency::{Kept, Ticket},
    },
    catalog::changes,
    credential,
    placement::step::{Moment, Step, reached},
    tenant::{
        change::{find, refuse_deleted},
        describe::connection_string,
        http::{parse_grace, parse_password, read},
        store::{Purpose, Tenant},
    },
};

/// Largest limit of clients that can be said. More than any process serves.
const CLIENTS_MAX: i64 = 1_000_000;
/// How long an answer waits for the server. What is not done by then, a pass does.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// A user to be made.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct CreateUserRequest {
    /// 1 to 32 characters of `a-z`, `0-9`, `_` and `-`, a letter first; not the name of a role.
    username: String,
    /// 12 to 128 characters; generated when left out.
    password: Option<String>,
    /// `write` (or `rw`; when left out), `read` (or `ro`) or `admin`.
    role: Option<String>,
    /// Clients that may be logged in as this user at once, on one proxy; no limit of its own when left out.
    client_connections_max: Option<i64>,
}

/// What is changed of a user.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct ChangeUserRequest {
    /// Clients that may be logged in as this user at once; 0 takes the limit away; it stays when left out.
    /// Sessions that are open stay in any case.
    client_connections_max: Option<i64>,
}

/// Which password.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct ResetUserPasswordRequest {
    /// 12 to 128 characters; generated when left out.
    password: Option<String>,
    /// How long the old password still works, at most 604,800 (seven days). 0 when left out.
    grace_seconds: Option<u32>,
}

/// A user of a database.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserResponse {
    username: String,
    /// What it may do: `admin`, `write` or `read`.
    role: String,
    /// As whom a client logs in.
    user: String,
    /// The name of its login in PostgreSQL: `session_user` of its sessions. Another one when the data is replaced.
    session_user: String,
    /// Clients at once; null: no limit of its own.
    client_connections_max: Option<i64>,
    /// Users that came with a branch have none until it is set.
    has_password: bool,
    created_at: DateTime<Utc>,
    /// `operator`, or the id of the token that made it; null: it came with a branch.
    created_by: Option<String>,
    /// Within some ten seconds.
    last_used_at: Option<DateTime<Utc>>,
    /// The address of the client, as the proxy saw it.
    last_used_from: Option<String>,
}

/// A user with its password, which is shown in this answer only.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserWithPassword {
    #[serde(flatten)]
    user: UserResponse,
    password: String,
    connection_string: String,
}

/// Answer to a delete.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserDeleted {
    message: &'static str,
    username: String,
}

fn login_of(tenant: &Tenant, user: &User) -> LoginName {
    LoginName {
        tenant: tenant.id.clone(),
        login: user.name.into(),
    }
}

fn describe(tenant: &Tenant, user: User) -> UserResponse {
    UserResponse {
        username: user.name.to_string(),
        role: user.role.to_string(),
        user: login_of(tenant, &user).to_string(),
        session_user: user.role.user_login(&tenant.pid, &user.id),
        client_connections_max: user.clients_max,
        has_password: user.has_password,
        created_at: user.created_at,
        created_by: user.created_by,
        last_used_at: user.last_used_at,
        last_used_from: user.last_used_from.map(|address| address.to_string()),
    }
}

fn parse_role(text: Option<&str>) -> ApiResult<Role> {
    match text {
        None | Some("rw") => Ok(Role::Write),
        Some("ro") => Ok(Role::Read),
        Some(text) => text.parse().map_err(|_| {
            ApiError::with(
                ErrorCode::InvalidField,
                "role is admin, write (rw) or read (ro)",
            )
        }),
    }
}

fn parse_clients_max(max: Option<i64>) -> ApiResult<Option<i64>> {
    match max {
        Some(max) if !(1..=CLIENTS_MAX).contains(&max) => Err(ApiError::with(
            ErrorCode::InvalidField,
            format!("client_connections_max is 1 to {CLIENTS_MAX}"),
        )
        .hint("leave it out for no limit of its own")),
        max => Ok(max),
    }
}

/// The user that a path names, for a change. The tenant's row is held.
async fn find_user(
    transaction: &Transaction<'_>,
    principal: &Principal,
    (key, user): (&DatabaseKey, &UserKey),
) -> ApiResult<(Tenant, User)> {
    let tenant = find(transaction, principal, key, Purpose::Change).await?;
    refuse_deleted(&tenant)?;
    let name = user.0.as_ref().ok_or(ErrorCode::UserNotFound)?;
    let user = store::find(transaction, &tenant.id, name).await?;
    Ok((tenant, user.ok_or(ErrorCode::UserNotFound)?))
}

/// Makes a user of a database, with a password that is shown in this answer only.
#[utoipa::path(post, path = "/customer/databases/{database}/users", tag = "users",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    operation_id = "create_user", request_body = CreateUserRequest,
    responses((status = 201, body = UserWithPassword), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Json(request): Json<CreateUserRequest>,
) -> ApiResult<(StatusCode, axum::Json<UserWithPassword>)> {
    principal.may_write()?;
    reached(Step::UserCommit, Moment::Before).await;
    let name: UserName = request.username.parse().map_err(|error| {
        ApiError::with(
            ErrorCode::InvalidField,
            format!("username {}: {error}", quoted(&request.username)),
        )
    })?;
    let role = parse_role(request.role.as_deref())?;
    let clients_max = parse_clients_max(request.client_connections_max)?;
    let password = request.password.map(parse_password).transpose()?;
    let password = password.unwrap_or_else(credential::new_password);
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let tenant = find(&transaction, &principal, &key, Purpose::Change).await?;
    refuse_deleted(&tenant)?;
    if !matches!(tenant.state, TenantState::Active | TenantState::Suspended) {
        return Err(ApiError::with(
            ErrorCode::WrongState,
            format!("database {} is {}", tenant.name, tenant.state),
        )
        .hint("wait until it is ACTIVE"));
    }
    if store::count(&transaction, &tenant.id).await? >= USERS_MAX {
        return Err(ApiError::with(
            ErrorCode::TooManyUsers,
            format!("the database has {USERS_MAX} users, which is as many as it may have"),
        ));
    }
    let id = UserId::random(&mut rand::rng());
    let new = New {
        tenant: &tenant.id,
        id: &id,
        name: &name,
        role,
        clients_max,
        maker: principal.maker(),
    };
    if !store::insert(&transaction, new).await? {
        return Err(ErrorCode::UserExists.into());
    }
    let user = store::find(&transaction, &tenant.id, &name).await?;
    let user = user.ok_or(ErrorCode::UserNotFound)?;
    let answer = give_password(
        &app,
        &transaction,
        (&tenant, user),
        &password,
        principal.maker(),
    )
    .await?;
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::CREATED, &body, Kept::Last)
        .await?;
    let change = changes::mark(&transaction, &tenant.id).await?;
    reached(Step::UserCommit, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    app.changes.announce(change);
    reached(Step::UserCommit, Moment::After).await;
    tracing::info!(tenant = %tenant.id, user = %id, role = %role, by = principal.maker(), "a user was made");
    settle(&app, &tenant, (role, id), false).await;
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

/// Adds a password and says all that is to know.
async fn give_password(
    app: &App,
    transaction: &Transaction<'_>,
    (tenant, user): (&Tenant, User),
    password: &Secret,
    maker: &str,
) -> ApiResult<UserWithPassword> {
    let login = login_of(tenant, &user);
    let keys = credential::scram_keys(&app.keys, &login, password);
    let of = (user.role, Some(&user.id));
    credential::store::insert_password(transaction, &tenant.id, of, &keys, maker).await?;
    let mut user = describe(tenant, user);
    user.has_password = true;
    Ok(UserWithPassword {
        connection_string: connection_string(app, &login.to_string(), Some(password)),
        password: password.reveal().to_owned(),
        user,
    })
}

/// Does what the row says, for whoever waits for the answer. What fails or takes long, a pass does: the
/// request is fulfilled either way.
async fn settle(app: &App, tenant: &Tenant, (role, id): (Role, UserId), is_deleted: bool) {
    let due = Due {
        tenant: tenant.id.clone(),
        pid: tenant.pid.clone(),
        id,
        role,
        is_deleted,
    };
    match tokio::time::timeout(SETTLE_MAX, job::settle(app, &due)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(tenant = %due.tenant, user = %due.id, error = %chain(&error),
                "the login of a user is not what it should be; a pass tries again");
            app.users_left.notify_one();
        }
        Err(_) => {
            tracing::warn!(tenant = %due.tenant, user = %due.id,
                "the login of a user takes long; a pass goes on");
            app.users_left.notify_one();
        }
    }
}

/// Lists the users of a database by name, without passwords.
#[utoipa::path(get, path = "/customer/databases/{database}/users", tag = "users",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    operation_id = "list_users",
    responses((status = 200, body = Vec<UserResponse>), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<Vec<UserResponse>>> {
    principal.may_see_project()?;
    let tenant = read(&app, &principal, &key).await?;
    let client = app.catalog.get().await?;
    let users = store::list(&client, &tenant.id).await?.into_iter();
    Ok(axum::Json(
        users.map(|user| describe(&tenant, user)).collect(),
    ))
}

/// Gives a user another limit of clients, or none of its own.
#[utoipa::path(patch, path = "/customer/databases/{database}/users/{username}", tag = "users",
    security(("bearer" = [])), operation_id = "change_user", request_body = ChangeUserRequest,
    params(("database" = String, Path, description = "id or name"),
        ("username" = String, Path, description = "name of the user")),
    responses((status = 200, body = UserResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    user: UserKey,
    Json(request): Json<ChangeUserRequest>,
) -> ApiResult<axum::Json<UserResponse>> {
    principal.may_write()?;
    let asked = request.client_connections_max;
    let clients_max = parse_clients_max(asked.filter(|max| *max != 0))?;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let (tenant, mut user) = find_user(&transaction, &principal, (&key, &user)).await?;
    if asked.is_none() {
        return Ok(axum::Json(describe(&tenant, user)));
    }
    store::set_clients_max(&transaction, &tenant.id, &user.id, clients_max).await?;
    let change = changes::mark(&transaction, &tenant.id).await?;
    transaction.commit().await?;
    app.changes.announce(change);
    user.clients_max = clients_max;
    Ok(axum::Json(describe(&tenant, user)))
}

/// Replaces the password of a user. When the grace ends, or at once where there is none, the old one is
/// refused and its sessions end. The new one is shown in this answer only.
#[utoipa::path(post, path = "/customer/databases/{database}/users/{username}/reset-password",
    tag = "users", security(("bearer" = [])), operation_id = "reset_user_password",
    request_body = ResetUserPasswordRequest,
    params(("database" = String, Path, description = "id or name"),
        ("username" = String, Path, description = "name of the user")),
    responses((status = 200, body = UserWithPassword), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn reset_password(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    user: UserKey,
    Json(request): Json<ResetUserPasswordRequest>,
) -> ApiResult<axum::Json<UserWithPassword>> {
    principal.may_write()?;
    let grace = parse_grace(request.grace_seconds)?;
    let password = request.password.map(parse_password).transpose()?;
    let password = password.unwrap_or_else(credential::new_password);
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let (tenant, user) = find_user(&transaction, &principal, (&key, &user)).await?;
    let id = user.id.clone();
    let of = (user.role, Some(&id));
    credential::store::revoke_passwords(&transaction, &tenant.id, of, grace).await?;
    let maker = principal.maker();
    let answer = give_password(&app, &transaction, (&tenant, user), &password, maker).await?;
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::OK, &body, Kept::Last)
        .await?;
    let change = changes::mark(&transaction, &tenant.id).await?;
    transaction.commit().await?;
    app.changes.announce(change);
    tracing::info!(tenant = %tenant.id, user = %id, grace_s = grace.as_secs(), by = maker, "a user's password was replaced");
    Ok(axum::Json(answer))
}

/// Deletes a user: it is refused on every proxy within a second and its sessions end. What it owns stays, as
/// its role's.
#[utoipa::path(delete, path = "/customer/databases/{database}/users/{username}", tag = "users",
    security(("bearer" = [])), operation_id = "delete_user",
    params(("database" = String, Path, description = "id or name"),
        ("username" = String, Path, description = "name of the user")),
    responses((status = 200, body = UserDeleted), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody)))]
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    user: UserKey,
) -> ApiResult<axum::Json<UserDeleted>> {
    principal.may_write()?;
    reached(Step::UserDeleteCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let (tenant, user) = find_user(&transaction, &principal, (&key, &user)).await?;
    store::begin_delete(&transaction, &tenant.id, &user.id).await?;
    let answer = UserDeleted {
        message: "User deleted",
        username: user.name.to_string(),
    };
    // With it: who was not told and asks again is not told that there never was such a user.
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::OK, &body, Kept::Last)
        .await?;
    let change = changes::mark(&transaction, &tenant.id).await?;
    reached(Step::UserDeleteCommit, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    app.changes.announce(change);
    reached(Step::UserDeleteCommit, Moment::After).await;
    let maker = principal.maker();
    tracing::info!(tenant = %tenant.id, user = %user.id, by = maker, "a user was deleted");
    settle(&app, &tenant, (user.role, user.id), true).await;
    Ok(axum::Json(answer))
}
