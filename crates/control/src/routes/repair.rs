//! A tenant can change the password of its own login on the server and so lock the proxy out of
//! itself. The proxy reports it; here it is put right, at a bounded pace.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use model::{Login, Pid, TenantId};
use tokio::time::Instant;

use crate::{
    api::{App, error::chain},
    catalog::{CatalogError, changes},
    tasks::Tasks,
    user,
};

/// Between two repairs of one tenant. Its own doing, so it may wait.
const EVERY: Duration = Duration::from_secs(5);
/// Tenants whose last repair is remembered; above it, reports are dropped until some are old.
const TENANTS_MAX: usize = 1024;

/// When each tenant was last repaired.
#[derive(Default)]
pub(super) struct Repair(Mutex<HashMap<TenantId, Instant>>);

impl Repair {
    /// Whether it may begin now.
    fn may_begin(&self, tenant: &TenantId) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        last.retain(|_, at| now - *at < EVERY);
        if last.contains_key(tenant) || last.len() >= TENANTS_MAX {
            return false;
        }
        last.insert(tenant.clone(), now);
        true
    }
}

/// Starts a repair, unless there was one just now.
pub(super) fn begin(
    repair: &Repair,
    app: &Arc<App>,
    tasks: &Tasks,
    tenant: TenantId,
    login: Login,
) {
    if !repair.may_begin(&tenant) {
        return;
    }
    let app = app.clone();
    tasks.spawn("repair", async move {
        match run(&app, &tenant).await {
            Ok(findings) => tracing::warn!(
                tenant = %tenant, role = %login, findings,
                "the server refused our own login; its logins were set back to ours"
            ),
            Err(error) => tracing::error!(
                tenant = %tenant, role = %login, error = %chain(&*error),
                "the server refused our own login, and it could not be repaired"
            ),
        }
    });
}

async fn run(
    app: &App,
    tenant: &TenantId,
) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
    let client = app.catalog.get().await?;
    let row = client
        .query_opt("SELECT pid FROM tenant WHERE id = $1", &[&tenant.as_str()])
        .await
        .map_err(CatalogError::from)?;
    drop(client);
    let Some(row) = row else { return Ok(0) };
    let pid: Pid = row.get::<_, &str>(0).parse()?;
    let findings = app.node.repair_logins(&pid).await?;
    // Of a user it may never have been made.
    user::job::make_all(app, tenant, &pid).await?;
    let client = app.catalog.get().await?;
    app.changes.announce(changes::mark(&client, tenant).await?);
    Ok(findings.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tenant_is_repaired_at_a_bounded_pace() {
        let repair = Repair::default();
        let tenant: TenantId = "abcdefghijkl".parse().unwrap();
        assert!(repair.may_begin(&tenant));
        assert!(!repair.may_begin(&tenant));
        assert!(repair.may_begin(&"bbcdefghijkl".parse().unwrap()));
        tokio::time::advance(EVERY).await;
        assert!(repair.may_begin(&tenant));
    }
}
