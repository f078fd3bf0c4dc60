//! `/customer/databases` and below.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
};
use chrono::{DateTime, Utc};
use model::{ProjectId, Role, Secret, TenantId, TenantName, lifecycle::TenantState};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    change::{self, Back, Other},
    create::{self, Wanted},
    describe::{DatabaseResponse, describe},
    lifetime::{self, Lifetime},
    store::{self, Filter, Purpose, Tenant},
};
use crate::{
    api::{
        App,
        address::Client,
        auth::{Caller, Kind, Principal, Reach},
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{DatabaseKey, Json, Params, quoted},
        idempotency::Ticket,
    },
    branch,
    project::http::Registration,
};

/// Databases in one answer of the list, at most.
const LIST_MAX: u32 = 1000;
/// How long a delete waits for the last session to be gone before it answers.
const DELETE_WAIT: Duration = Duration::from_secs(5);
/// In the answer of the list: there is more, ask with `after=` this.
const NEXT_AFTER: HeaderName = HeaderName::from_static("x-next-after");
/// How long an old password works on. A week: for the slowest of those who have to be told.
const GRACE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Passwords chosen by users: shorter can be guessed, longer is surely a mistake.
const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 12..=128;

/// What to create. Unknown fields are ignored.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct CreateRequest {
    /// 1 to 63 characters of a-z, 0-9, '_' and '-', without '__'; unique in the project; generated
    /// when left out.
    name: Option<String>,
    /// Another project than the token's own; operator only.
    project_id: Option<String>,
    /// 12 to 128 characters; generated when left out.
    admin_password: Option<String>,
    /// Answer with the existing database of that name, without its password, instead of 409.
    #[serde(default)]
    if_not_exists: bool,
    /// When it is deleted by itself: a time from now like 2h, a moment (RFC 3339), or `never`, which is
    /// the default. May stand in the query string instead.
    expires: Option<String>,
    /// Taken and ignored: there is one region.
    #[allow(dead_code, reason = "part of the documented surface")]
    region: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Seconds to wait until it can be used; 0 answers at once. 20 when left out, 60 at most.
    wait: Option<f64>,
}

pub(crate) fn wait_of(app: &App, seconds: Option<f64>) -> ApiResult<Duration> {
    let limits = &app.config.limits;
    let Some(seconds) = seconds else {
        return Ok(limits.wait_default);
    };
    Duration::try_from_secs_f64(seconds)
        .map(|wait| wait.min(limits.wait_max))
        .map_err(|_| {
            ApiError::with(
                ErrorCode::InvalidField,
                "wait is a number of seconds, not below 0",
            )
        })
}

pub(crate) fn parse_name(text: &str) -> ApiResult<TenantName> {
    text.parse().map_err(|error: model::NameError| {
        ApiError::with(ErrorCode::InvalidName, error.to_string())
    })
}

/// A role by its name.
pub(crate) fn parse_role(text: Option<&str>, default: Role) -> ApiResult<Role> {
    text.map_or(Ok(default), |text| {
        text.parse()
            .map_err(|_| ApiError::with(ErrorCode::InvalidField, "role is admin, write or read"))
    })
}

pub(crate) fn parse_password(text: String) -> ApiResult<Secret> {
    let fits =
        PASSWORD_CHARS.contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if !fits {
        return Err(ApiError::with(
            ErrorCode::InvalidField,
            "a password has 12 to 128 characters and no control characters",
        ));
    }
    Ok(Secret::new(text))
}

/// Creates a database. The password is shown in this answer only.
///
/// Without a token, where anonymous registration is on and the query string says when it `expires`: an
/// anonymous project is made with it, whose token and secret are in `anonymous`. Such a request takes no
/// `Idempotency-Key`.
#[utoipa::path(post, path = "/customer/databases", tag = "databases",
    security(("bearer" = []), ()),
    params(CreateQuery), request_body = CreateRequest,
    responses(
        (status = 201, body = DatabaseResponse, description = "Made, or still CREATING at the end of the wait"),
        (status = 200, body = DatabaseResponse, description = "It was there, and if_not_exists was set"),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    client: Client,
    ticket: Ticket,
    Params(query): Params<CreateQuery>,
    Json(request): Json<CreateRequest>,
) -> ApiResult<(StatusCode, axum::Json<DatabaseResponse>)> {
    if let Caller::Known(principal) = &caller {
        principal.may_write()?;
    }
    let lifetime = Lifetime::of_request(query.expires.as_deref(), request.expires.as_deref())?;
    let (principal, registration) = match caller {
        Caller::Known(principal) => (principal, None),
        Caller::Nobody => {
            let registration = Registration::prepare(&app, &client)?;
            (registration.principal(), Some(registration))
        }
    };
    let project = match request.project_id {
        Some(text) => owned_project(&app, &principal, &text).await?,
        None => principal.project.clone(),
    };
    let wanted = Wanted {
        project,
        registration,
        lifetime,
        name: request.name.as_deref().map(parse_name).transpose()?,
        password: request.admin_password.map(parse_password).transpose()?,
        if_not_exists: request.if_not_exists,
        wait: wait_of(&app, query.wait)?,
    };
    if wanted.if_not_exists && wanted.name.is_none() {
        return Err(ApiError::with(
            ErrorCode::InvalidField,
            "if_not_exists needs a name",
        ));
    }
    let (status, body) = create::create(&app, &principal, &ticket, wanted).await?;
    Ok((status, axum::Json(body)))
}

/// A project that the asker may create in.
pub(crate) async fn owned_project(
    app: &App,
    principal: &Principal,
    text: &str,
) -> ApiResult<ProjectId> {
    let unknown = || ApiError::with(ErrorCode::InvalidField, "project_id is no project of yours");
    let id: ProjectId = text.parse().map_err(|_| unknown())?;
    if id == principal.project {
        return Ok(id);
    }
    if principal.kind != Kind::Operator {
        return Err(unknown());
    }
    let client = app.catalog.get().await?;
    let found = crate::project::store::list(&client, Some(&id), None, 1).await?;
    if found.is_empty() {
        Err(unknown())
    } else {
        Ok(id)
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CreateQuery {
    /// Seconds to wait until it can be used; 0 answers at once. 20 when left out, 60 at most.
    wait: Option<f64>,
    /// As in the body.
    expires: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// States, separated by commas. Left out: all but DISABLING, DISABLED and CREATE_FAILED.
    state: Option<String>,
    /// Every state; for the operator also every project.
    all: Option<bool>,
    /// Another project than the token's own; operator only.
    project_id: Option<String>,
    /// Names that begin with this.
    prefix: Option<String>,
    /// Created before this time (RFC 3339).
    created_before: Option<DateTime<Utc>>,
    /// Databases after the one with this id; see the header `x-next-after`.
    after: Option<String>,
    /// At most 1,000, which is also the default.
    limit: Option<u32>,
}

/// Lists databases, oldest first. When there are more, the header `x-next-after` says how to go on.
#[utoipa::path(get, path = "/customer/databases", tag = "databases", security(("bearer" = [])),
    params(ListQuery),
    responses((status = 200, body = Vec<DatabaseResponse>), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    Params(query): Params<ListQuery>,
) -> ApiResult<(HeaderMap, axum::Json<Vec<DatabaseResponse>>)> {
    let all = query.all.unwrap_or(false);
    let project = match &query.project_id {
        Some(text) => Some(owned_project(&app, &principal, text).await?),
        None if all && principal.kind == Kind::Operator => None,
        None => Some(principal.project.clone()),
    };
    let after = query.after.as_deref().map(parse_after).transpose()?;
    let limit = query.limit.unwrap_or(LIST_MAX).clamp(1, LIST_MAX);
    let filter = Filter {
        project: project.as_ref(),
        databases: principal.scope().databases,
        states: states(query.state.as_deref(), all)?,
        prefix: query.prefix.as_deref(),
        created_before: query.created_before,
        older_than: None,
        after: after.as_ref(),
        limit: i64::from(limit) + 1,
    };
    let client = app.catalog.get().await?;
    let mut found = store::list(&client, filter).await?;
    let mut headers = HeaderMap::new();
    if found.len() > limit as usize {
        found.truncate(limit as usize);
        if let Some(last) = found.last() {
            let id = HeaderValue::from_str(last.id.as_str()).expect("an id is plain ASCII");
            headers.insert(NEXT_AFTER, id);
        }
    }
    let body = found
        .iter()
        .map(|tenant| describe(&app, tenant, None))
        .collect();
    Ok((headers, axum::Json(body)))
}

fn parse_after(text: &str) -> ApiResult<TenantId> {
    text.parse()
        .map_err(|_| ApiError::with(ErrorCode::InvalidField, "after is no database id"))
}

fn states(wanted: Option<&str>, all: bool) -> ApiResult<Option<Vec<&'static str>>> {
    match wanted {
        None if all => Ok(None),
        None => Ok(Some(
            TenantState::ALL
                .into_iter()
                .filter(|state| state.holds_name() && *state != TenantState::CreateFailed)
                .map(TenantState::as_str)
                .collect(),
        )),
        Some(text) => text
            .split(',')
            .map(|word| {
                let state = TenantState::parse(&word.trim().to_ascii_uppercase());
                state.map(TenantState::as_str).ok_or_else(|| {
                    let known = TenantState::ALL.map(TenantState::as_str).join(", ");
                    ApiError::with(
                        ErrorCode::InvalidField,
                        format!("state: {} is none of {known}", quoted(word.trim())),
                    )
                    .hint("name one state, or several with commas between them")
                })
            })
            .collect::<ApiResult<Vec<_>>>()
            .map(Some),
    }
}

/// One database, by id or name. Deleted ones are found by id.
#[utoipa::path(get, path = "/customer/databases/{database}", tag = "databases",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    responses((status = 200, body = DatabaseResponse), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<DatabaseResponse>> {
    let tenant = read(&app, &principal, &key).await?;
    let client = app.catalog.get().await?;
    let branch = branch::store::known(&client, &tenant.id).await?;
    Ok(axum::Json(
        describe(&app, &tenant, None).with_branch(branch),
    ))
}

/// Finds what a request means, to look at it.
pub(crate) async fn read(app: &App, principal: &Principal, key: &DatabaseKey) -> ApiResult<Tenant> {
    let client = app.catalog.get().await?;
    let found = store::find(
        &client,
        principal.scope(),
        &principal.project,
        key,
        Purpose::Read,
    )
    .await?;
    found.ok_or_else(|| principal.not_found())
}

/// The database with this id, whoever it belongs to: the caller has been found to be allowed to.
///
/// # Errors
///
/// [`ErrorCode::DatabaseNotFound`].
pub(crate) async fn read_any(app: &App, id: TenantId) -> ApiResult<Tenant> {
    let client = app.catalog.get().await?;
    // By its id alone.
    let key = DatabaseKey {
        id: Some(id),
        name: None,
    };
    let found = store::find(
        &client,
        Reach::everything(),
        &app.operator,
        &key,
        Purpose::Read,
    )
    .await?;
    found.ok_or_else(|| ErrorCode::DatabaseNotFound.into())
}

/// A database was deleted.
#[derive(Serialize, ToSchema)]
pub(crate) struct Deleted {
    /// Always `Database disabled`.
    message: &'static str,
    id: String,
    name: String,
    /// DISABLED, or DISABLING while sessions are still being ended.
    state: &'static str,
    /// Until then it can be undeleted.
    purge_after: Option<DateTime<Utc>>,
}

/// Deletes a database: refuses and disconnects at once, and removes the data after the retention.
#[utoipa::path(delete, path = "/customer/databases/{database}", tag = "databases",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    responses((status = 200, body = Deleted), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<Deleted>> {
    principal.may_write()?;
    let tenant = change::delete(&app, &principal, &key, DELETE_WAIT).await?;
    Ok(axum::Json(Deleted {
        message: "Database disabled",
        id: tenant.id.to_string(),
        name: tenant.name.to_string(),
        state: tenant.state.as_str(),
        purge_after: tenant.purge_after,
    }))
}

/// How to undelete.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct UndeleteRequest {
    /// Another name; needed when the old one is held by another database now.
    name: Option<String>,
    /// When it expires, as in a create. Left out: an expiry that is still to come stays, one that has
    /// passed is taken away.
    expires: Option<String>,
}

/// Takes a delete back, until the retention ends. Passwords are the same as before. By name, the
/// database of that name that was deleted last is meant. One whose sessions are still being ended (DISABLING) is waited
/// for, within `wait`.
#[utoipa::path(post, path = "/customer/databases/{database}/undelete", tag = "databases",
    security(("bearer" = [])),
    params(("database" = String, Path, description = "id or name"), WaitQuery),
    request_body = UndeleteRequest,
    responses((status = 200, body = DatabaseResponse), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody)))]
pub(crate) async fn undelete(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Params(query): Params<WaitQuery>,
    Json(request): Json<UndeleteRequest>,
) -> ApiResult<axum::Json<DatabaseResponse>> {
    principal.may_write()?;
    let back = Back {
        name: request.name.as_deref().map(parse_name).transpose()?,
        lifetime: request
            .expires
            .as_deref()
            .map(Lifetime::parse)
            .transpose()?,
    };
    let wait = wait_of(&app, query.wait)?;
    let tenant = change::undelete(&app, &principal, &ticket, &key, back, wait).await?;
    Ok(axum::Json(describe(&app, &tenant, None)))
}

/// What is to be changed of a database. Unknown fields are ignored.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ChangeRequest {
    /// Another name. The id, and with it every connection string, stays.
    name: Option<String>,
    /// When it is deleted by itself: a time from now like 2h, a moment (RFC 3339), or `never` or null.
    #[serde(default, deserialize_with = "lifetime::given")]
    #[schema(value_type = Option<String>)]
    expires: Option<Option<String>>,
}

/// Renames a database, or changes when it expires; what is not named stays. Done twice, it is the same.
#[utoipa::path(patch, path = "/customer/databases/{database}", tag = "databases",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    request_body = ChangeRequest,
    responses((status = 200, body = DatabaseResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn patch(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Json(request): Json<ChangeRequest>,
) -> ApiResult<axum::Json<DatabaseResponse>> {
    principal.may_write()?;
    let other = Other {
        name: request.name.as_deref().map(parse_name).transpose()?,
        lifetime: match &request.expires {
            None => None,
            Some(None) => Some(Lifetime::Never),
            Some(Some(text)) => Some(Lifetime::parse(text)?),
        },
    };
    if other.name.is_none() && other.lifetime.is_none() {
        // Whoever may not see it hears that first.
        read(&app, &principal, &key).await?;
        return Err(ApiError::with(
            ErrorCode::InvalidField,
            "say what is to be changed: name, expires or both",
        ));
    }
    let tenant = change::update(&app, &principal, &ticket, &key, other).await?;
    Ok(axum::Json(describe(&app, &tenant, None)))
}

/// Refuses connections and ends sessions; the data stays. Done twice, it is the same. What the operator
/// suspends only the operator resumes.
#[utoipa::path(post, path = "/customer/databases/{database}/suspend", tag = "databases",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    responses((status = 200, body = DatabaseResponse), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody)))]
pub(crate) async fn suspend(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
) -> ApiResult<axum::Json<DatabaseResponse>> {
    principal.may_write()?;
    let tenant = change::suspend(&app, &principal, &ticket, &key).await?;
    Ok(axum::Json(describe(&app, &tenant, None)))
}

/// Accepts connections again. Of a database that could not be made: tries again. Done twice, it is the
/// same.
#[utoipa::path(post, path = "/customer/databases/{database}/resume", tag = "databases",
    security(("bearer" = [])),
    params(("database" = String, Path, description = "id or name"), WaitQuery),
    responses((status = 200, body = DatabaseResponse), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody)))]
pub(crate) async fn resume(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Params(query): Params<WaitQuery>,
) -> ApiResult<axum::Json<DatabaseResponse>> {
    principal.may_write()?;
    let wait = wait_of(&app, query.wait)?;
    let tenant = change::resume(&app, &principal, &ticket, &key, wait).await?;
    Ok(axum::Json(describe(&app, &tenant, None)))
}

/// How long an old password still works.
pub(crate) fn parse_grace(seconds: Option<u32>) -> ApiResult<Duration> {
    let grace = Duration::from_secs(seconds.unwrap_or(0).into());
    if grace > GRACE_MAX {
        return Err(ApiError::with(
            ErrorCode::InvalidField,
            format!("grace_seconds is at most {}", GRACE_MAX.as_secs()),
        ));
    }
    Ok(grace)
}

/// Whose password.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct ResetPasswordRequest {
    /// `admin` (when left out), `write` or `read`.
    role: Option<String>,
    /// 12 to 128 characters; generated when left out.
    admin_password: Option<String>,
    /// How long the old password still works, at most 604,800 (seven days). 0 when left out.
    grace_seconds: Option<u32>,
}

/// Replaces the password of a role. When the grace ends, or at once where there is none, the old one is
/// refused and its sessions end. The new one is shown in this answer only.
#[utoipa::path(post, path = "/customer/databases/{database}/reset-password", tag = "databases",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    request_body = ResetPasswordRequest,
    responses((status = 200, body = DatabaseResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn reset_password(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Json(request): Json<ResetPasswordRequest>,
) -> ApiResult<axum::Json<DatabaseResponse>> {
    principal.may_write()?;
    let grace = parse_grace(request.grace_seconds)?;
    let new = change::NewPassword {
        role: parse_role(request.role.as_deref(), Role::Admin)?,
        password: request.admin_password.map(parse_password).transpose()?,
        grace,
    };
    let answer = change::reset_password(&app, &principal, &ticket, &key, new).await?;
    Ok(axum::Json(answer))
}

/// 410: passwords are shown once and not kept.
#[utoipa::path(get, path = "/customer/databases/{database}/credentials", tag = "databases",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    responses((status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 410, body = ErrorBody)))]
pub(crate) async fn get_credentials(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiError {
    match read(&app, &principal, &key).await {
        Ok(_) => ErrorCode::SecretsNotKept.into(),
        Err(error) => error,
    }
}

/// 410: passwords are shown once and not kept.
#[utoipa::path(post, path = "/customer/databases/{database}/credentials", tag = "databases",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    responses((status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 410, body = ErrorBody)))]
pub(crate) async fn post_credentials(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiError {
    get_credentials(State(app), principal, key).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_and_unknown_ones_refused() {
        assert_eq!(
            states(Some("active, disabled"), false).unwrap().unwrap(),
            ["ACTIVE", "DISABLED"]
        );
        assert_eq!(states(None, true).unwrap(), None);
        assert!(!states(None, false).unwrap().unwrap().contains(&"DISABLED"));
        assert!(states(Some("gone"), false).is_err());
    }
}
