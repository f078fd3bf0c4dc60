//! The REST API: what all routes share.
//!
//! Owns: the list of routes and their document, who may come in ([`auth`]), errors ([`error`]),
//! repeated requests ([`idempotency`]), and the listener ([`server`], and
//! [`refuse`] for those who do not speak HTTP). Does not own: what a route
//! does; that is in the folder of its noun.

pub(crate) mod address;
pub(crate) mod auth;
pub(crate) mod cors;
pub(crate) mod error;
pub(crate) mod extract;
pub(crate) mod health;
pub(crate) mod idempotency;
pub(crate) mod layers;
pub(crate) mod metrics;
mod refuse;
pub(crate) mod server;

use std::sync::{Arc, atomic::AtomicBool};

use axum::{Router, http::StatusCode, middleware};
use model::{exposition::Pages, route::Door};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use error::{ErrorCode, errors_document};

use crate::{
    Config, Keys, alert, audited, backup, branch,
    catalog::{Catalog, changes::Changes},
    counted::Counted,
    credential::{self, used::Used},
    dump, insight, limits,
    placement::passes::Passes,
    process::Process,
    project, routes, sql, statement_log, tenant, user,
};

/// What every part of the control plane works with. One per process.
pub(crate) struct App {
    pub(crate) config: Arc<Config>,
    pub(crate) keys: Keys,
    /// The operator's own project.
    pub(crate) operator: model::ProjectId,
    pub(crate) catalog: Catalog,
    /// The same catalog, through connections of their own.
    pub(crate) logins: Catalog,
    pub(crate) node: node::Node,
    pub(crate) changes: Changes,
    pub(crate) door: Door,
    /// The page of the proxy.
    pub(crate) pages: Pages,
    pub(crate) insight: insight::Insight,
    pub(crate) statement_log: statement_log::StatementLog,
    pub(crate) audit: audit::Logs,
    pub(crate) metrics: metrics::Last,
    pub(crate) passes: Passes,
    /// The login of a user is not what its row says, and nobody waits for it any more.
    pub(crate) users_left: tokio::sync::Notify,
    pub(crate) counted: Counted,
    pub(crate) holds: Arc<crate::hold::Ways>,
    pub(crate) process: Process,
    pub(crate) one_use: routes::one_use::OneUse,
    pub(crate) used: Used,
    pub(crate) refused: project::pace::Refused,
    pub(crate) working: idempotency::Working,
    pub(crate) sql_places: sql::Places,
    pub(crate) issuers: sql::Issuers,
    pub(crate) sources: branch::copy::Sources,
    pub(crate) backups: backup::Backups,
    pub(crate) dumps: dump::Dumps,
    pub(crate) alerts: alert::Alerts,
    pub(crate) diff_permits: tokio::sync::Semaphore,
    pub(crate) draining: AtomicBool,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tenantry",
        description = "Isolated PostgreSQL databases, created in milliseconds. The paths under \
            /customer follow DB9's. Every error has the shape of `ErrorBody`. Every write under \
            /customer/databases takes an `Idempotency-Key`: the same key with the same request gets \
            the same answer for an hour, with another request 422; answers that are errors are not \
            kept, because nothing was done.",
    ),
    modifiers(&Bearer),
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        document
            .components
            .get_or_insert_default()
            .add_security_scheme(
                "bearer",
                SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
            );
    }
}

/// Routes that need no token, and say why in `tests/refused.rs`.
fn open() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::document))
        // Asks for the token itself, unless the operator wants it open.
        .routes(routes!(metrics::metrics))
        .routes(routes!(project::http::register))
        .routes(routes!(project::http::refresh))
}

/// Routes that take a token of an issuer, too.
fn issued() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(sql::http::run))
}

/// Routes that ask for a password of a database, and read no body before it was given.
fn proving() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(sql::neon::run))
}

/// Routes that need one.
fn closed() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(project::http::me))
        .routes(routes!(project::http::list))
        .routes(routes!(project::claim::claim))
        .routes(routes!(
            project::claim::list_codes,
            project::claim::create_code
        ))
        .routes(routes!(project::claim::revoke_code))
        .routes(routes!(project::adopt::preflight))
        .routes(routes!(project::adopt::adopt))
        .routes(routes!(
            credential::tokens::list,
            credential::tokens::create
        ))
        .routes(routes!(credential::tokens::revoke))
        .routes(routes!(credential::access::connect_token))
        .routes(routes!(
            credential::access::list_keys,
            credential::access::create_key
        ))
        .routes(routes!(credential::access::revoke_key))
        .routes(routes!(credential::access::list))
        .routes(routes!(credential::access::revoke))
        .routes(routes!(
            tenant::http::list,
            tenant::http::create,
            tenant::sweep::sweep
        ))
        .routes(routes!(
            tenant::http::get,
            tenant::http::patch,
            tenant::http::delete
        ))
        .routes(routes!(tenant::http::undelete))
        .routes(routes!(tenant::http::suspend))
        .routes(routes!(tenant::http::resume))
        .routes(routes!(tenant::http::reset_password))
        .routes(routes!(
            tenant::http::get_credentials,
            tenant::http::post_credentials
        ))
        .routes(routes!(user::http::list, user::http::create))
        .routes(routes!(user::http::change, user::http::delete))
        .routes(routes!(user::http::reset_password))
        .routes(routes!(
            limits::http::get,
            limits::http::put,
            limits::http::patch
        ))
        .routes(routes!(insight::http::observability))
        .routes(routes!(insight::inspect::inspect))
        .routes(routes!(insight::inspect::migrations))
        .routes(routes!(insight::metrics::metrics))
        .routes(routes!(statement_log::http::list))
        .routes(routes!(statement_log::http::stats))
        .routes(routes!(insight::tenants::list))
        .routes(routes!(insight::tenants::stats))
        .routes(routes!(insight::tenants::metrics))
        .routes(routes!(insight::explain::explain))
        .routes(routes!(dump::dump))
        .routes(routes!(branch::http::create))
        .routes(routes!(branch::http::list))
        .routes(routes!(branch::http::reset))
        .routes(routes!(branch::http::diff))
        .routes(routes!(backup::http::list, backup::http::create))
        .routes(routes!(backup::moment::moments))
        .routes(routes!(backup::http::erase))
        .routes(routes!(backup::scheduled::get, backup::scheduled::put))
        .routes(routes!(backup::http::list_all))
        .routes(routes!(backup::http::get, backup::http::delete))
        .routes(routes!(backup::http::verify))
        .routes(routes!(backup::http::restore))
        .routes(routes!(backup::http::get_restore))
        .routes(routes!(alert::listed::list))
        .routes(routes!(alert::http::list_rules, alert::http::set_rule))
        .routes(routes!(alert::http::remove_rule))
        .routes(routes!(
            alert::http::get_target,
            alert::http::set_target,
            alert::http::remove_target
        ))
        .routes(routes!(alert::http::test))
        .routes(routes!(health::check))
        .routes(routes!(insight::fleet::fleet))
        .routes(routes!(backup::drilled::list, backup::drilled::create))
        .routes(routes!(audited::http::list))
        .routes(routes!(audited::http::heads))
}

/// All routes with all layers.
pub(crate) fn router(app: Arc<App>) -> Router {
    // The last layer is the first to see a request.
    let behind_a_token = |routes: OpenApiRouter<Arc<App>>| {
        let routes = routes.split_for_parts().0;
        routes
            .route_layer(middleware::from_fn_with_state(
                app.clone(),
                idempotency::layer,
            ))
            .route_layer(middleware::from_fn_with_state(
                app.clone(),
                layers::read_body,
            ))
    };
    let audited = || middleware::from_fn_with_state(app.clone(), audited::layer::layer);
    let closed = behind_a_token(closed())
        .route_layer(audited())
        .route_layer(middleware::from_fn_with_state(app.clone(), auth::require));
    let issued = behind_a_token(issued()).route_layer(middleware::from_fn_with_state(
        app.clone(),
        sql::caller::require,
    ));
    let open = open()
        .split_for_parts()
        .0
        .route_layer(middleware::from_fn_with_state(
            app.clone(),
            layers::read_body,
        ))
        .route_layer(audited());
    open.merge(closed)
        .merge(issued)
        .merge(proving().split_for_parts().0)
        .fallback(layers::no_route)
        .method_not_allowed_fallback(layers::no_method)
        .layer(middleware::from_fn_with_state(
            app.clone(),
            layers::limit_time,
        ))
        .layer(middleware::from_fn(layers::finish))
        .layer(middleware::from_fn_with_state(app.clone(), cors::layer))
        .with_state(app)
}

/// The OpenAPI 3.1 document, as `/openapi.json` serves it.
pub fn openapi_document() -> String {
    let mut document = Document::openapi();
    document.merge(open().split_for_parts().1);
    document.merge(closed().split_for_parts().1);
    document.merge(issued().split_for_parts().1);
    document.merge(proving().split_for_parts().1);
    let mut document = serde_json::to_value(document).expect("the document is plain data");
    describe_responses(&mut document);
    let mut text = serde_json::to_string_pretty(&document).expect("the document is plain data");
    text.push('\n');
    text
}

/// A response must have a description (OpenAPI 3.1, section 4.8.17); where the code says none, it is
/// the name of its status.
fn describe_responses(document: &mut serde_json::Value) {
    let Some(paths) = document["paths"].as_object_mut() else {
        return;
    };
    for operations in paths
        .values_mut()
        .filter_map(serde_json::Value::as_object_mut)
    {
        for operation in operations.values_mut() {
            let Some(responses) = operation
                .get_mut("responses")
                .and_then(serde_json::Value::as_object_mut)
            else {
                continue;
            };
            for (status, response) in responses {
                if response["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty())
                {
                    continue;
                }
                let status = status
                    .parse()
                    .ok()
                    .and_then(|code| StatusCode::from_u16(code).ok());
                let name = status.and_then(|status| status.canonical_reason());
                response["description"] = name.unwrap_or("Answer").into();
            }
        }
    }
}
