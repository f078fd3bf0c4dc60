//! `/customer/adopt-anonymous-databases`: databases of an anonymous project move to the one that asks.
//!
//! Owns: who may ask, what moves, and in how many steps: one transaction. A database keeps its id,
//! address, passwords, keys and open sessions; tokens of the old project no longer reach it.

use std::{collections::HashSet, sync::Arc};

use axum::{extract::State, http::StatusCode};
use deadpool_postgres::Transaction;
use model::{LoginName, ProjectId, Role, TenantId, lifecycle::TenantState};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::store;
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{Json, quoted},
        idempotency::{Kept, Ticket},
    },
    catalog::{self, changes},
    credential,
    keys::token_hash,
    placement::step::{Moment, Step, reached},
    tenant::{
        create::quota_exceeded,
        describe::{DatabaseResponse, describe},
        store as tenants,
        store::{Filter, Tenant},
    },
};

/// Databases in one request, as in DB9.
const DATABASES_MAX: usize = 100;
/// Databases that a preflight looks at.
const LOOK_MAX: i64 = 1000;

/// Which anonymous project.
#[derive(Deserialize, ToSchema)]
pub(crate) struct PreflightRequest {
    /// Its anonymous id (`anon_…`), or its id (`prj_…`).
    anonymous_customer_id: String,
    anonymous_secret: String,
}

/// A database that could move.
#[derive(Serialize, ToSchema)]
pub(crate) struct Adoptable {
    id: String,
    name: String,
    state: &'static str,
    /// The project that asks has a database of this name.
    name_taken: bool,
}

/// What would happen.
#[derive(Serialize, ToSchema)]
pub(crate) struct Preflight {
    /// Whether all of them could move now, in requests of 100.
    eligible: bool,
    /// Those that are not deleted, oldest first, 1,000 at most.
    databases: Vec<Adoptable>,
    /// Databases that the project which asks may still get; null: no limit.
    databases_left: Option<u32>,
    /// Databases in one request.
    databases_per_request_max: usize,
}

/// Which databases move.
#[derive(Deserialize, ToSchema)]
pub(crate) struct AdoptRequest {
    /// Its anonymous id (`anon_…`), or its id (`prj_…`).
    anonymous_customer_id: String,
    anonymous_secret: String,
    /// Ids, 1 to 100. One that is here already is fine.
    database_ids: Vec<String>,
    /// Make new passwords of the role `admin`, shown in this answer only; the old ones of all roles, connect
    /// tokens and shares end.
    #[serde(default)]
    reissue_secrets: bool,
    /// Taken and not needed: what has moved stays moved, however often the request is sent. For the
    /// same answer with the same secrets, send the header `Idempotency-Key`.
    #[allow(dead_code, reason = "part of the documented surface")]
    idempotency_key: Option<String>,
}

/// What moved.
#[derive(Serialize, ToSchema)]
pub(crate) struct Adopted {
    /// Databases that moved now.
    adopted: usize,
    /// Databases that were here already.
    already_here: usize,
    /// All that were asked for, in the order of the request.
    databases: Vec<DatabaseResponse>,
}

/// The anonymous project of a request, whose secret was right.
async fn source(
    transaction: &Transaction<'_>,
    principal: &Principal,
    id: &str,
    secret: &str,
) -> ApiResult<ProjectId> {
    let wrong = || ApiError::with(ErrorCode::InvalidToken, "no such anonymous id and secret");
    let found = store::find_anonymous(transaction, id).await?;
    let (project, known) = found.ok_or_else(wrong)?;
    if !bool::from(known.ct_eq(&token_hash(secret))) {
        return Err(wrong());
    }
    if project == principal.project {
        return Err(ApiError::with(
            ErrorCode::InvalidField,
            "anonymous_customer_id is the project that asks",
        ));
    }
    Ok(project)
}

/// A claimed project has an owner, who would have to be asked.
async fn refuse_claimed(transaction: &Transaction<'_>, project: &ProjectId) -> ApiResult<()> {
    let sql = "SELECT kind = 'anonymous' FROM project WHERE id = $1";
    let row = catalog::query_one(transaction, sql, &[&project.as_str()]).await?;
    if row.get(0) {
        return Ok(());
    }
    Err(ErrorCode::AlreadyClaimed.into())
}

/// Says what adopting all databases of an anonymous project would come to. Changes nothing.
#[utoipa::path(post, path = "/customer/adopt-anonymous-databases/preflight", tag = "project",
    security(("bearer" = [])), operation_id = "preflight_adopt", request_body = PreflightRequest,
    responses((status = 200, body = Preflight), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 409, body = ErrorBody)))]
pub(crate) async fn preflight(
    State(app): State<Arc<App>>,
    principal: Principal,
    Json(request): Json<PreflightRequest>,
) -> ApiResult<axum::Json<Preflight>> {
    principal.may_write()?;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let (id, secret) = (&request.anonymous_customer_id, &request.anonymous_secret);
    let source = source(&transaction, &principal, id, secret).await?;
    refuse_claimed(&transaction, &source).await?;
    let states = TenantState::ALL
        .into_iter()
        .filter(|state| state.holds_name());
    let states: Vec<&str> = states.map(TenantState::as_str).collect();
    let all = async |project| {
        let filter = Filter {
            project: Some(project),
            states: Some(states.clone()),
            limit: LOOK_MAX,
            ..Filter::default()
        };
        tenants::list(&transaction, filter).await
    };
    let theirs = all(&source).await?;
    let own = tenants::names(&transaction, &principal.project).await?;
    let quota = principal.quota(&app);
    let left =
        quota.map(|quota| quota.saturating_sub(u32::try_from(own.len()).unwrap_or(u32::MAX)));
    let databases: Vec<_> = theirs
        .iter()
        .map(|tenant| Adoptable {
            id: tenant.id.to_string(),
            name: tenant.name.to_string(),
            state: tenant.state.as_str(),
            name_taken: own.contains(tenant.name.as_str()),
        })
        .collect();
    Ok(axum::Json(Preflight {
        eligible: databases.iter().all(|database| !database.name_taken)
            && left.is_none_or(|left| databases.len() <= left as usize),
        databases,
        databases_left: left,
        databases_per_request_max: DATABASES_MAX,
    }))
}

/// Moves databases of an anonymous project to the project of the token: all of them, or none. They keep
/// their ids, addresses, passwords and sessions.
#[utoipa::path(post, path = "/customer/adopt-anonymous-databases", tag = "project",
    security(("bearer" = [])), operation_id = "adopt", request_body = AdoptRequest,
    responses((status = 200, body = Adopted), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn adopt(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    Json(request): Json<AdoptRequest>,
) -> ApiResult<axum::Json<Adopted>> {
    principal.may_write()?;
    let ids = parse_ids(&request.database_ids)?;
    reached(Step::AdoptCommit, Moment::Before).await;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let (id, secret) = (&request.anonymous_customer_id, &request.anonymous_secret);
    let source = source(&transaction, &principal, id, secret).await?;
    // In one order, so that two that move towards each other do not wait for each other.
    let mut projects = [&source, &principal.project];
    projects.sort_unstable();
    for project in projects {
        tenants::lock_project(&transaction, project).await?;
    }
    refuse_claimed(&transaction, &source).await?;
    let adopted = adopt_in(
        &app,
        &transaction,
        &principal,
        &source,
        &ids,
        request.reissue_secrets,
    );
    let (answer, announce) = adopted.await?;
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::OK, &body, Kept::Last)
        .await?;
    reached(Step::AdoptCommit, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    for change in announce {
        app.changes.announce(change);
    }
    tracing::info!(from = %source, to = %principal.project, databases = answer.adopted, by = principal.maker(),
        "databases were adopted");
    reached(Step::AdoptCommit, Moment::After).await;
    Ok(axum::Json(answer))
}

fn parse_ids(texts: &[String]) -> ApiResult<Vec<TenantId>> {
    let invalid = |message: String| ApiError::with(ErrorCode::InvalidField, message);
    if !(1..=DATABASES_MAX).contains(&texts.len()) {
        return Err(invalid(format!(
            "database_ids has 1 to {DATABASES_MAX} ids"
        )));
    }
    let mut seen = HashSet::new();
    let ids = texts.iter().map(|text| {
        let id: TenantId = text
            .parse()
            .map_err(|_| invalid(format!("database_ids: {} is no id", quoted(text))))?;
        if seen.insert(id.clone()) {
            Ok(id)
        } else {
            Err(invalid(format!("database_ids: {id} is named twice")))
        }
    });
    ids.collect()
}

async fn adopt_in(
    app: &App,
    transaction: &Transaction<'_>,
    principal: &Principal,
    source: &ProjectId,
    ids: &[TenantId],
    reissue: bool,
) -> ApiResult<(Adopted, Vec<model::route::Change>)> {
    let target = &principal.project;
    let mut answer = Adopted {
        adopted: 0,
        already_here: 0,
        databases: Vec::with_capacity(ids.len()),
    };
    let mut announce = Vec::new();
    for id in ids {
        let found = tenants::lock(transaction, id).await?;
        let mut tenant = found
            .filter(|tenant| tenant.project == *source || tenant.project == *target)
            .filter(|tenant| tenant.state.holds_name())
            .ok_or_else(|| {
                let message = format!("database {id} is not in the anonymous project");
                ApiError::with(ErrorCode::DatabaseNotFound, message)
            })?;
        if tenant.project == *target {
            answer.already_here += 1;
            answer.databases.push(describe(app, &tenant, None));
            continue;
        }
        tenants::set_project(transaction, id, target)
            .await
            .map_err(
                |error| match crate::tenant::create::not_made(&tenant.name, error) {
                    taken if taken.code == ErrorCode::NameTaken => {
                        taken.hint("rename the database in one of the two projects, then adopt it")
                    }
                    other => other,
                },
            )?;
        crate::backup::store::set_project(transaction, id, target).await?;
        tenant.project = target.clone();
        let secret = if reissue {
            Some(reissue_secrets(app, transaction, principal, &tenant).await?)
        } else {
            None
        };
        announce.push(changes::mark(transaction, id).await?);
        answer.adopted += 1;
        answer
            .databases
            .push(describe(app, &tenant, secret.as_ref()));
    }
    // Counted with those that moved.
    if let Some(quota) = principal.quota(app)
        && tenants::count(transaction, target).await? > i64::from(quota)
    {
        return Err(quota_exceeded(quota));
    }
    Ok((answer, announce))
}

/// Ends all that opens a database, and makes a password of its role `admin`.
async fn reissue_secrets(
    app: &App,
    transaction: &Transaction<'_>,
    principal: &Principal,
    tenant: &Tenant,
) -> ApiResult<model::Secret> {
    credential::store::revoke_all_access(transaction, &tenant.id).await?;
    let login = LoginName {
        tenant: tenant.id.clone(),
        login: Role::Admin.into(),
    };
    let password = credential::new_password();
    let keys = credential::scram_keys(&app.keys, &login, &password);
    let maker = principal.maker();
    credential::store::insert_password(
        transaction,
        &login.tenant,
        (Role::Admin, None),
        &keys,
        maker,
    )
    .await?;
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_and_named_once() {
        let ids = |texts: &[&str]| {
            parse_ids(
                &texts
                    .iter()
                    .map(|text| (*text).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(ids(&["abcdefghijkl", "bbcdefghijkl"]).unwrap().len(), 2);
        for wrong in [&[][..], &["name"], &["abcdefghijkl"; 2]] {
            assert_eq!(ids(wrong).unwrap_err().code, ErrorCode::InvalidField);
        }
        let many: Vec<String> = (0..101).map(|i| format!("a{i:011}")).collect();
        assert!(parse_ids(&many).is_err() && parse_ids(&many[..100]).is_ok());
    }
}
