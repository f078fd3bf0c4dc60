//! Makes the logins of users on the server what the rows say: at once for whoever asked, and by a pass for
//! what a crash or an error left. Every step may be done twice.

use std::{sync::Arc, time::Duration};

use model::{Pid, TenantId};
use node::NodeError;

use super::store::{self, Due};
use crate::{
    api::{App, error::chain},
    catalog::CatalogError,
};

/// Between two looks at what is left over. Nobody waits for it: the request that asked did the work,
/// unless something went wrong.
const EVERY: Duration = Duration::from_secs(5);
/// Users looked at in one pass. They are done one after another; the next pass goes on.
const DUE_MAX: i64 = 20;

/// Why the login of a user is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Passes, for ever.
pub(crate) async fn run(app: Arc<App>) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = pass(&app).await {
            tracing::debug!(error = %chain(&error), "users wait for the catalog");
        }
    }
}

async fn pass(app: &App) -> Result<(), CatalogError> {
    let client = app.catalog.get().await?;
    let due = store::due(&client, DUE_MAX).await?;
    drop(client);
    for due in due {
        if let Err(error) = settle(app, &due).await {
            tracing::warn!(tenant = %due.tenant, user = %due.id, error = %chain(&error),
                "the login of a user is not what it should be; trying again");
        }
    }
    Ok(())
}

/// Makes or removes one login, then notes that.
pub(crate) async fn settle(app: &App, due: &Due) -> Result<(), Failed> {
    if due.is_deleted {
        app.node.drop_user(&due.pid, due.role, &due.id).await?;
        let client = app.catalog.get().await?;
        store::forget(&client, &due.tenant, &due.id).await?;
    } else {
        app.node.create_user(&due.pid, due.role, &due.id).await?;
        let client = app.catalog.get().await?;
        store::made(&client, &due.tenant, &due.id).await?;
    }
    Ok(())
}

/// Makes the logins of all users of a tenant under `pid`: when its data is replaced, or some are missing.
pub(crate) async fn make_all(app: &App, tenant: &TenantId, pid: &Pid) -> Result<(), Failed> {
    let client = app.catalog.get().await?;
    let wanted = store::wanted(&client, tenant).await?;
    drop(client);
    for (role, user) in wanted {
        app.node.create_user(pid, role, &user).await?;
        let client = app.catalog.get().await?;
        store::made(&client, tenant, &user).await?;
    }
    Ok(())
}
