//! Makes the logins of users on the server what the rows say: at once for whoever asked, and by a pass for
//! what a crash or an error left. Every step may be done twice.

use std::{sync::Arc, time::Duration};

use model::{Pid, TenantId};
use node::NodeError;

use super::store::{self, Due};
use crate::{
    api::{App, error::chain},
    catalog::CatalogError,
    placement::step::{Moment, Step, reached},
};

/// Between two looks at what is left over. Nobody waits for it: the request that asked did the work,
/// unless something went wrong.
const EVERY: Duration = Duration::from_secs(5);
/// Until the next look when something was not done: a server that was away is back in a moment.
const RETRY: Duration = Duration::from_secs(1);
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

/// Passes, for ever; the first at once, for what a former process had begun.
pub(crate) async fn run(app: Arc<App>) {
    loop {
        let wait = match pass(&app).await {
            Ok(true) => EVERY,
            Ok(false) => RETRY,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "users wait for the catalog");
                RETRY
            }
        };
        let _ = tokio::time::timeout(wait, app.users_left.notified()).await;
    }
}

/// Whether everything that was due is done.
async fn pass(app: &App) -> Result<bool, CatalogError> {
    let client = app.catalog.get().await?;
    let due = store::due(&client, DUE_MAX).await?;
    drop(client);
    let mut done = true;
    for due in due {
        if let Err(error) = settle(app, &due).await {
            done = false;
            tracing::warn!(tenant = %due.tenant, user = %due.id, error = %chain(&error),
                "the login of a user is not what it should be; trying again");
        }
    }
    Ok(done)
}

/// Makes or removes one login, then notes that.
pub(crate) async fn settle(app: &App, due: &Due) -> Result<(), Failed> {
    let step = match due.is_deleted {
        true => Step::UserDeleteLogin,
        false => Step::UserLogin,
    };
    reached(step, Moment::Before).await;
    if due.is_deleted {
        app.node.drop_user(&due.pid, due.role, &due.id).await?;
        reached(step, Moment::Between).await;
        let client = app.catalog.get().await?;
        store::forget(&client, &due.tenant, &due.id).await?;
    } else {
        app.node.create_user(&due.pid, due.role, &due.id).await?;
        reached(step, Moment::Between).await;
        let client = app.catalog.get().await?;
        store::made(&client, &due.tenant, &due.id).await?;
    }
    reached(step, Moment::After).await;
    Ok(())
}

/// Makes the logins of all users of a tenant under `pid`: when its data is replaced, or some are missing.
pub(crate) async fn make_all(app: &App, tenant: &TenantId, pid: &Pid) -> Result<(), Failed> {
    let client = app.catalog.get().await?;
    let wanted = store::wanted(&client, tenant).await?;
    drop(client);
    for (role, user) in wanted {
        reached(Step::BranchUser, Moment::Before).await;
        app.node.create_user(pid, role, &user).await?;
        reached(Step::BranchUser, Moment::Between).await;
        let client = app.catalog.get().await?;
        store::made(&client, tenant, &user).await?;
        drop(client);
        reached(Step::BranchUser, Moment::After).await;
    }
    Ok(())
}
