//! What databases take on disk.
//!
//! Owns: measuring them, never many at once, and writing down what was found (`store`): those with a limit as
//! often as they could be full (`plan` says which), all of them in turn (`sample`).
//! Does not own: what follows from it ([`model::route::Storage`]) and refusing statements (`proxy`, which
//! hears of a change like of any other of the tenant).
//!
//! While no tenant has such a limit and all were measured lately, nothing is asked of the server, and of the
//! catalog two looks at indexes that have nothing to show.

mod plan;
mod sample;
pub(crate) mod store;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    api::{App, error::chain},
    catalog::CatalogError,
};
use plan::Plan;

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks at who has a limit, unless one is known to have changed.
const LIST_EVERY: Duration = Duration::from_secs(5);
/// Databases measured in one round: of a few hundred files each, 20 ms of the server's time.
const MEASURED_MAX: usize = 20;
/// Time for one round. What takes longer, since a database has very many files, is alone in its round.
const ROUND_TIME_MAX: Duration = Duration::from_millis(200);

/// Measures for ever.
pub(crate) async fn run(app: Arc<App>) {
    let mut changes = app.changes.subscribe();
    let (mut plan, mut listed) = (Plan::default(), None::<Instant>);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let has_news = !changes.is_empty();
        // Which it was does not matter: the list says all.
        changes = changes.resubscribe();
        if has_news || listed.is_none_or(|at| at.elapsed() >= LIST_EVERY) {
            match list(&app).await {
                Ok(found) => {
                    plan.know(found);
                    listed = Some(Instant::now());
                }
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "who has a limit of storage could not be read");
                    continue;
                }
            }
        }
        if !plan.is_empty() {
            round(&app, &mut plan).await;
        }
        if let Err(error) = sample::round(&app, &mut plan).await {
            tracing::debug!(error = %chain(&error), "databases were not measured in turn");
        }
    }
}

async fn list(app: &App) -> Result<Vec<store::Limited>, CatalogError> {
    store::limited(&app.catalog.get().await?, app.node.name()).await
}

/// Measures those whose turn it is.
async fn round(app: &App, plan: &mut Plan) {
    match app.node.in_use().await {
        Ok(in_use) => plan.see(&in_use),
        Err(error) => {
            tracing::debug!(error = %chain(&error), "databases were not measured");
            return;
        }
    }
    let began = Instant::now();
    for pid in plan.due(began, MEASURED_MAX) {
        let bytes = match app.node.database_bytes(&pid).await {
            Ok(Some(bytes)) => bytes,
            // It is on its way here, or from here.
            Ok(None) => {
                plan.missed(&pid, Instant::now());
                continue;
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), "a database was not measured");
                return;
            }
        };
        if let Err(error) = note(app, plan, &pid, bytes, None).await {
            tracing::debug!(error = %chain(&error), "what a database takes was not written down");
            return;
        }
        if began.elapsed() >= ROUND_TIME_MAX {
            return;
        }
    }
}

/// One was measured; `rest` as of [`store::write`]. `false`: there was nothing to write down, since it has no limit,
/// or takes what it took.
async fn note(
    app: &App,
    plan: &mut Plan,
    pid: &model::Pid,
    bytes: u64,
    rest: Option<Duration>,
) -> Result<bool, CatalogError> {
    let Some((tenant, now)) = plan.measured(pid, bytes, Instant::now()) else {
        return Ok(false);
    };
    let written = write(app, &tenant, pid, now, rest).await;
    if written.is_err() {
        plan.forget(pid);
    }
    written.map(|()| true)
}

/// Writes down what was measured, and tells proxies if something follows from it.
async fn write(
    app: &App,
    tenant: &model::TenantId,
    pid: &model::Pid,
    now: plan::News,
    rest: Option<Duration>,
) -> Result<(), CatalogError> {
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    store::write(&transaction, pid, now.measured, rest).await?;
    let change = match now.is_told {
        true => Some(crate::catalog::changes::mark(&transaction, tenant).await?),
        false => None,
    };
    transaction.commit().await?;
    if let Some(change) = change {
        app.changes.announce(change);
    }
    let bytes = now.measured.bytes;
    match now.turned {
        Some(true) => tracing::info!(%tenant, ?bytes, "a database is full"),
        Some(false) => tracing::info!(%tenant, ?bytes, "a database is no longer full"),
        None => {}
    }
    Ok(())
}
