//! `/tenants/{id}/logs`, `/logs/stats` and `/metrics`: what a database did, under the paths and in the envelope of TenantsDB.
//!
//! Owns: the envelope. Does not own: what is in it; that is what `/customer/databases/{id}` answers, for whom it answers it.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::metrics::{self, Metrics};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiResult, ErrorBody},
        extract::{DatabaseKey, Params},
    },
    statement_log::http::{self as logs, LogPage, LogQuery, LogStats, SinceQuery},
};

/// An answer as TenantsDB gives it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Enveloped<T> {
    /// Always true; false in errors.
    success: bool,
    /// The status of the answer again.
    http_status: u16,
    /// Always `ok`.
    code: &'static str,
    /// The same as `database_id`.
    tenant_id: String,
    #[serde(flatten)]
    answer: T,
}

/// What is answered about one database.
trait Of {
    fn database_id(&self) -> &str;
}

impl Of for LogPage {
    fn database_id(&self) -> &str {
        &self.database_id
    }
}

impl Of for LogStats {
    fn database_id(&self) -> &str {
        &self.database_id
    }
}

impl Of for Metrics {
    fn database_id(&self) -> &str {
        &self.database_id
    }
}

type Answer<T> = ApiResult<axum::Json<Enveloped<T>>>;

fn enveloped<T: Of>(answer: ApiResult<axum::Json<T>>) -> Answer<T> {
    let axum::Json(answer) = answer?;
    Ok(axum::Json(Enveloped {
        success: true,
        http_status: 200,
        code: "ok",
        tenant_id: answer.database_id().to_owned(),
        answer,
    }))
}

/// As `/customer/databases/{database}/logs`, where TenantsDB has it.
#[utoipa::path(get, path = "/tenants/{database}/logs", tag = "insight",
    security(("bearer" = [])), operation_id = "list_logs_of_tenant",
    params(("database" = String, Path, description = "id or name"), LogQuery),
    responses((status = 200, body = Enveloped<LogPage>), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(crate) async fn list(
    app: State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    query: Params<LogQuery>,
) -> Answer<LogPage> {
    enveloped(logs::list(app, principal, key, query).await)
}

/// As `/customer/databases/{database}/logs/stats`, where TenantsDB has it.
#[utoipa::path(get, path = "/tenants/{database}/logs/stats", tag = "insight",
    security(("bearer" = [])), operation_id = "log_stats_of_tenant",
    params(("database" = String, Path, description = "id or name"), SinceQuery),
    responses((status = 200, body = Enveloped<LogStats>), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(crate) async fn stats(
    app: State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    query: Params<SinceQuery>,
) -> Answer<LogStats> {
    enveloped(logs::stats(app, principal, key, query).await)
}

/// As `/customer/databases/{database}/metrics`, where TenantsDB has it.
#[utoipa::path(get, path = "/tenants/{database}/metrics", tag = "insight",
    security(("bearer" = [])), operation_id = "tenant_metrics",
    params(("database" = String, Path, description = "id or name")),
    responses((status = 200, body = Enveloped<Metrics>), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn metrics(
    app: State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> Answer<Metrics> {
    enveloped(metrics::metrics(app, principal, key).await)
}
