//! The control plane: which tenants there should be, and the passes that make it true.
//!
//! Owns: the catalog, the REST API, and the answers to the proxy's questions ([`model::route`]).
//! Does not own: what is done to a PostgreSQL server (`node`), or any connection of a client
//! (`proxy`); SQL over HTTP goes through the proxy's door like everybody else.

mod alert;
mod api;
mod audited;
mod backup;
mod branch;
mod catalog;
mod config;
mod counted;
mod credential;
mod dump;
mod hold;
mod housekeeping;
mod insight;
mod keys;
mod limits;
mod placement;
mod process;
mod project;
mod routes;
mod sql;
mod statement_log;
mod storage;
mod tasks;
mod tenant;
mod user;
mod watch;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use model::{
    TenantId,
    exposition::Pages,
    hold::Holds,
    insight::Questions,
    route::{Door, RouteServer},
};

pub use api::{ErrorCode, cors::Origins, errors_document, openapi_document};
pub use backup::{
    keep::{KeepError, Kept},
    place::BackupPlace,
    schedule::BackupSchedule,
    window::Window,
};
pub use catalog::{CatalogError, migrate::MigrateError};
pub use config::{Config, ControlLimits, WarmPool};
pub use hold::{Held, HoldError};
pub use keys::{Keys, token_hash};
pub use placement::step::{Moment, Step};
pub use sql::{Issuer, KeySource};

/// What the control plane works with.
pub struct Parts {
    /// Where tenants live.
    pub node: node::Node,
    /// Where the catalog is; its database exists.
    pub catalog: node::CatalogConfig,
    /// The proxy's questions.
    pub routes: RouteServer,
    /// The way into the proxy for SQL over HTTP.
    pub door: Door,
    /// Where the proxy takes orders to hold a tenant.
    pub holds: Holds,
    /// The proxy's part of `/metrics`.
    pub pages: Pages,
    /// Where the proxy says what it counts of tenants.
    pub insight: Questions,
    /// Keys of the installation.
    pub keys: Keys,
    /// Where it is written down what is done.
    pub audit: audit::Logs,
}

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The API's address is taken or not ours.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The catalog does not answer.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Its tables are not, and could not be made, what this program needs.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// It was made with another secret than [`Parts::keys`] are of.
    #[error("it belongs to another installation.key than the one that is here")]
    OtherKey,
}

/// A running control plane.
pub struct Control {
    app: Arc<api::App>,
    server: api::server::Server,
    tasks: tasks::Tasks,
}

/// Says whether a catalog belongs to other keys than these, before anything is begun with them. Changes nothing.
///
/// # Errors
///
/// [`StartError::OtherKey`], and what keeps the catalog from answering.
pub async fn refuse_other_key(address: node::CatalogConfig, keys: &Keys) -> Result<(), StartError> {
    let wait = ControlLimits::default().catalog_wait_max;
    let catalog = catalog::Catalog::new(address, 1, wait);
    let result = catalog::key::refuse_other(&catalog, keys).await;
    catalog.close();
    result
}

/// Migrates the catalog, takes up what a former process had begun, and serves.
///
/// Must be called on a multi-threaded runtime; all tasks live there.
///
/// # Errors
///
/// [`StartError`]; nothing is left running.
pub async fn start(config: Config, parts: Parts) -> Result<Control, StartError> {
    let listener = api::server::listen(config.api_listen)?;
    let limits = config.limits;
    let wait = limits.catalog_wait_max;
    let logins = catalog::Catalog::new(parts.catalog.clone(), limits.login_connections_max, wait);
    let catalog = catalog::Catalog::new(parts.catalog, limits.catalog_connections_max, wait);
    if !config.replace_key {
        catalog::key::refuse_other(&catalog, &parts.keys).await?;
    }
    migrate_catalog(&catalog).await?;
    catalog::key::note(&catalog, &parts.keys, config.replace_key).await?;

    let tasks = tasks::Tasks::default();
    let (changes, outbox) = catalog::changes::Changes::new(parts.routes.changes);
    let holds = Arc::new(hold::Ways::new(parts.holds));
    let operator = project::store::ensure_operator(&catalog).await?;
    let pace = sql::Pace {
        fresh: limits.jwks_fresh,
        stale_max: limits.jwks_stale_max,
        every: limits.jwks_every,
    };
    let issuers = sql::Issuers::new(&config.sql_issuers, pace);
    let app = Arc::new(api::App {
        config: Arc::new(config),
        keys: parts.keys,
        operator,
        catalog: catalog.clone(),
        logins,
        node: parts.node,
        changes: changes.clone(),
        door: parts.door,
        pages: parts.pages,
        insight: insight::Insight::new(parts.insight),
        statement_log: statement_log::StatementLog::default(),
        audit: parts.audit,
        metrics: api::metrics::Last::default(),
        passes: placement::passes::Passes::default(),
        users_left: tokio::sync::Notify::new(),
        counted: counted::Counted::default(),
        process: process::Process::new(),
        holds: holds.clone(),
        one_use: routes::one_use::OneUse::default(),
        used: credential::used::Used::default(),
        refused: project::pace::Refused::default(),
        working: api::idempotency::Working::default(),
        sql_places: sql::Places::new(
            limits.sql_concurrent_max,
            limits.sql_concurrent_per_database_max,
        ),
        issuers,
        sources: branch::copy::Sources::default(),
        backups: backup::Backups::default(),
        dumps: dump::Dumps::new(limits.dumps_concurrent_max, tasks.clone()),
        alerts: alert::Alerts::default(),
        diff_permits: tokio::sync::Semaphore::new(limits.diff_concurrent_max),
        draining: std::sync::atomic::AtomicBool::new(false),
    });
    process::begin(&app).await?;
    // After that: whoever takes a hold now waits for our word, and whoever has taken one is found.
    let followed = hold::begin(&app).await?;
    placement::job::take_up(&app).await?;
    backup::job::void_leases(&app).await?;
    dump::clean(&app).await;
    alert::deliver::void_leases(&app).await?;
    api::idempotency::release_own(&catalog, &app.config.instance).await?;

    tasks.spawn("changes", changes.follow(catalog.clone(), holds));
    tasks.spawn("notify", catalog::changes::Changes::tell(catalog, outbox));
    tasks.spawn("passes", placement::job::run(app.clone(), tasks.clone()));
    tasks.spawn("backups", backup::job::run(app.clone(), tasks.clone()));
    tasks.spawn("alerts", alert::pass::run(app.clone()));
    tasks.spawn("messages", alert::deliver::run(app.clone(), tasks.clone()));
    tasks.spawn("process", process::run(app.clone()));
    tasks.spawn("stuck", placement::stuck::run(app.clone()));
    tasks.spawn("lifetimes", tenant::lifetime::run(app.clone()));
    tasks.spawn("holds", hold::run(app.clone(), tasks.clone(), followed));
    tasks.spawn("housekeeping", housekeeping::run(app.clone()));
    tasks.spawn("users", user::job::run(app.clone()));
    tasks.spawn("watch", watch::hogs(app.clone()));
    tasks.spawn("care", watch::care(app.clone()));
    tasks.spawn("insight", insight::run(app.clone()));
    tasks.spawn("storage", storage::run(app.clone()));
    tasks.spawn("audit", audited::copy::run(app.clone()));
    tasks.spawn(
        "routes",
        routes::serve(app.clone(), parts.routes.requests, tasks.clone()),
    );
    let server = api::server::start(app.clone(), listener, tasks.clone())?;
    Ok(Control { app, server, tasks })
}

async fn migrate_catalog(catalog: &catalog::Catalog) -> Result<(), StartError> {
    let address = catalog.address();
    let (mut client, connection) = address
        .config
        .connect(address.tls.clone())
        .await
        .map_err(CatalogError::from)?;
    let drive = tokio::spawn(connection);
    let result = catalog::migrate::run(&mut client).await;
    drop(client);
    let _ = drive.await;
    Ok(result?)
}

impl Control {
    /// Where the API listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr
    }

    /// Waits until the warm pool holds its minimum. Creating works before, only slower.
    pub async fn warm(&self) {
        placement::job::warm(&self.app).await;
    }

    /// Holds a tenant: its clients wait, and nobody has a server connection, in any process. Running
    /// transactions may end within `bound`. Safe to drop.
    ///
    /// # Errors
    ///
    /// [`HoldError`], with nothing held.
    pub async fn hold(&self, tenant: &TenantId, bound: Duration) -> Result<Held, HoldError> {
        hold::take(&self.app, tenant, bound).await
    }

    /// Looks at everything that there are rules of alerts for, unless another process is at it.
    ///
    /// # Errors
    ///
    /// The catalog did not answer; the next look finds the same.
    pub async fn look_for_alerts(&self) -> Result<(), CatalogError> {
        alert::pass::pass(&self.app, true).await
    }

    /// Writes down what the proxy counted of tenants up to now. It has to be there still; what is counted
    /// later is lost when the process ends. Takes a few seconds at most.
    pub async fn remember(&self) {
        insight::end(&self.app).await;
    }

    /// Accepts nothing new, lets running requests finish within `limit`, then ends everything. What is
    /// left tells other processes that this one has ended: when its proxy has, too.
    pub async fn stop(self, limit: Duration) -> Stopped {
        self.app
            .draining
            .store(true, std::sync::atomic::Ordering::Relaxed);
        self.server.drain(limit).await;
        if self.tasks.stop(limit).await {
            give_up_leases(&self.app).await;
        } else {
            tracing::warn!("tasks of the control plane did not end in time");
        }
        if let Err(error) = credential::used::flush(&self.app).await {
            tracing::debug!(error = %error, "last uses of credentials were not written");
        }
        self.app.logins.close();
        Stopped(self.app)
    }
}

/// Nothing works on them any more: other processes need not wait until their time is over.
async fn give_up_leases(app: &api::App) {
    let said = async {
        placement::job::void_leases(app).await?;
        backup::job::void_leases(app).await?;
        alert::deliver::void_leases(app).await
    };
    match tokio::time::timeout(process::LEAVE_TIME_MAX, said).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error.tell("leases to give up"),
        Err(_) => tracing::debug!("the catalog did not hear in time that leases were given up"),
    }
}

/// A control plane that has stopped, of a process whose proxy may still have server connections.
/// Dropped, others take what it had of the budget when its time is over.
#[must_use = "others wait for what this process had"]
pub struct Stopped(Arc<api::App>);

impl Stopped {
    /// Closes the audit log, and gives what this process had of the budget to others. Nothing of it uses a
    /// server connection any more.
    pub async fn leave(self) {
        audited::copy::end(&self.0).await;
        process::leave(&self.0).await;
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.catalog.close();
    }
}
