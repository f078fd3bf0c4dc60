//! Deleting many at once: by the beginning of their names, by their age.
//!
//! Owns: which ones are meant, and the bound of one request. Does not own: the delete, which is the
//! ordinary one for each of them ([`super::change`]).

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use model::{TenantId, lifecycle::TenantState};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    change,
    lifetime::parse_time,
    store::{self, Filter, Tenant},
};
use crate::api::{
    App,
    auth::Principal,
    error::{ApiError, ApiResult, ErrorBody, ErrorCode},
    extract::{DatabaseKey, Params},
};

/// Databases in one request: each is a transaction of some milliseconds, and the request stays far
/// below its time.
const SWEEP_MAX: u32 = 100;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SweepQuery {
    /// Names that begin with this. This or `older_than` has to be given.
    prefix: Option<String>,
    /// Made at least so long ago, such as `1d`.
    older_than: Option<String>,
    /// Only say which ones would be deleted. True when left out: `dry_run=false` deletes.
    dry_run: Option<bool>,
    /// At most 100, which is also the default; the oldest first.
    limit: Option<u32>,
}

/// One of them.
#[derive(Serialize, ToSchema)]
pub(crate) struct SweptDatabase {
    id: String,
    name: String,
    /// As it was before.
    state: &'static str,
    created_at: chrono::DateTime<chrono::Utc>,
}

/// What was deleted, or would be.
#[derive(Serialize, ToSchema)]
pub(crate) struct Swept {
    /// Whether nothing was done.
    dry_run: bool,
    databases: Vec<SweptDatabase>,
    /// There are more than one request may delete: send it again.
    more: bool,
}

/// Deletes databases of the token's own project by the beginning of their names, by their age, or both;
/// 100 in a request. Nothing is deleted unless `dry_run=false`. Each can be undeleted until its
/// retention ends.
#[utoipa::path(delete, path = "/customer/databases", tag = "databases", security(("bearer" = [])),
    params(SweepQuery),
    responses((status = 200, body = Swept), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub(crate) async fn sweep(
    State(app): State<Arc<App>>,
    principal: Principal,
    Params(query): Params<SweepQuery>,
) -> ApiResult<axum::Json<Swept>> {
    principal.may_write()?;
    let prefix = query.prefix.as_deref().filter(|prefix| !prefix.is_empty());
    let older_than = query
        .older_than
        .as_deref()
        .map(|text| parse_time("older_than", text))
        .transpose()?;
    if prefix.is_none() && older_than.is_none() {
        return Err(ApiError::with(
            ErrorCode::InvalidField,
            "say which databases are meant: prefix, older_than or both",
        ));
    }
    let limit = query.limit.unwrap_or(SWEEP_MAX).clamp(1, SWEEP_MAX);
    let dry_run = query.dry_run.unwrap_or(true);
    let mut found = meant(&app, &principal, prefix, older_than, limit + 1).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let mut databases = Vec::with_capacity(found.len());
    for tenant in found {
        // Deleted or renamed by somebody else since: not meant any more.
        if dry_run || delete(&app, &principal, &tenant, prefix).await? {
            databases.push(SweptDatabase {
                id: tenant.id.to_string(),
                name: tenant.name.to_string(),
                state: tenant.state.as_str(),
                created_at: tenant.created_at,
            });
        }
    }
    Ok(axum::Json(Swept {
        dry_run,
        databases,
        more,
    }))
}

async fn meant(
    app: &App,
    principal: &Principal,
    prefix: Option<&str>,
    older_than: Option<Duration>,
    limit: u32,
) -> ApiResult<Vec<Tenant>> {
    let not_deleted = TenantState::ALL
        .into_iter()
        .filter(|state| state.holds_name());
    let filter = Filter {
        // Also for the operator: nobody sweeps what is another's.
        project: Some(&principal.project),
        states: Some(not_deleted.map(TenantState::as_str).collect()),
        prefix,
        older_than,
        limit: i64::from(limit),
        ..Filter::default()
    };
    let client = app.catalog.get().await?;
    Ok(store::list(&client, filter).await?)
}

/// Returns whether it was deleted here.
async fn delete(
    app: &Arc<App>,
    principal: &Principal,
    tenant: &Tenant,
    prefix: Option<&str>,
) -> ApiResult<bool> {
    let id: TenantId = tenant.id.clone();
    let key = DatabaseKey {
        id: Some(id),
        name: None,
    };
    let is_meant = |now: &Tenant| {
        now.state.holds_name() && prefix.is_none_or(|prefix| now.name.as_str().starts_with(prefix))
    };
    match change::delete_if(app, principal, &key, is_meant).await {
        Ok((_, is_deleted)) => Ok(is_deleted),
        Err(error) if error.code == ErrorCode::DatabaseNotFound => Ok(false),
        Err(error) => Err(error),
    }
}
