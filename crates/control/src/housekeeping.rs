//! Small, regular work: writing down last uses, forgetting what has expired.

use std::{sync::Arc, time::Duration};

use crate::{
    api::{self, App, error::chain},
    catalog::CatalogError,
    credential, project,
};

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(10);
/// Rows of one kind removed in one round.
const SWEEP_MAX: i64 = 1000;

/// Works for ever.
pub(crate) async fn run(app: Arc<App>) {
    loop {
        tokio::time::sleep(EVERY).await;
        app.one_use.sweep();
        if let Err(error) = round(&app).await {
            tracing::debug!(error = %chain(&error), "housekeeping waits for the catalog");
        }
    }
}

async fn round(app: &App) -> Result<(), CatalogError> {
    credential::used::flush(app).await?;
    let client = app.catalog.get().await?;
    credential::store::sweep(&client, SWEEP_MAX).await?;
    project::claim::sweep(&client, SWEEP_MAX).await?;
    project::pace::sweep(&client, SWEEP_MAX).await?;
    api::idempotency::sweep(&client, SWEEP_MAX).await
}
