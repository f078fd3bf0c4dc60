//! The step of a placement in which a database becomes what a backup holds.
//!
//! Owns: what has to be there before, and giving up. Does not own: the bytes (`carry`), or the steps around
//! it (`placement`).

use std::sync::Arc;

use model::{Pid, TenantId};
use tokio::time::timeout;

use super::{
    carry::{self, CarryError},
    restores::{self, Restore},
    store::{self, State},
};
use crate::{api::App, user};

/// Makes the database `pid` of `tenant`, closed. One that is complete already is left.
pub(crate) async fn run(app: &Arc<App>, tenant: &TenantId, pid: &Pid) -> Result<(), CarryError> {
    let client = app.catalog.get().await?;
    let restore = restores::under_way(&client, tenant).await?;
    drop(client);
    let restore = restore.ok_or(CarryError::Gone("the restore is not wanted any more"))?;
    if restore.left.is_zero() {
        return Err(CarryError::TooLong(app.config.limits.restore_time_max));
    }
    if app.node.is_complete(pid).await? {
        return Ok(());
    }
    let done = timeout(restore.left, fill(app, &restore, pid)).await;
    done.unwrap_or(Err(CarryError::TooLong(restore.left)))
}

async fn fill(app: &Arc<App>, restore: &Restore, pid: &Pid) -> Result<(), CarryError> {
    if let (Some(previous), Some(_)) = (&restore.previous, &restore.safety) {
        safety(app, restore, previous).await?;
    }
    let client = app.catalog.get().await?;
    let backup = store::read(&client, &restore.backup).await?;
    let users = user::store::wanted(&client, &restore.tenant).await?;
    drop(client);
    let backup = backup
        .filter(|backup| backup.state == State::Ready)
        .ok_or(CarryError::Gone("the backup was deleted"))?;
    carry::restore(app, &backup, pid, &users, restore.left).await
}

/// A backup of what is replaced, when nobody writes into it any more.
async fn safety(app: &Arc<App>, restore: &Restore, previous: &Pid) -> Result<(), CarryError> {
    let client = app.catalog.get().await?;
    let backup = match &restore.safety {
        Some(id) => store::read(&client, id).await?,
        None => return Ok(()),
    };
    let backup = backup.ok_or(CarryError::Gone("the safety backup was deleted"))?;
    if backup.state == State::Ready {
        return Ok(());
    }
    if !restores::previous_is_closed(&client, previous).await? {
        return Err(CarryError::NotNow(
            "sessions on what is replaced are still ending",
        ));
    }
    if !store::begin(&client, &backup.id).await? {
        return Err(CarryError::Gone("the safety backup was deleted"));
    }
    drop(client);
    let made = carry::make(app, &app.node, &backup, previous, true).await?;
    let client = app.catalog.get().await?;
    store::made(&client, &backup.id, &made).await?;
    tracing::info!(tenant = %restore.tenant, backup = %backup.id, bytes = made.size_bytes, "what a restore replaces was backed up");
    app.counted.backup_made();
    Ok(())
}
