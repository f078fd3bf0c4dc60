//! What has to be done on a node again and again, because its tenants share it.
//!
//! Owns: when. Does not own: what is done (`node`). Nothing here depends on another round: what one
//! misses, the next one does.

use std::{sync::Arc, time::Duration};

use node::Care;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::api::{App, error::chain};

/// Between two looks at what one session can use up for all: the lock table is full within a second of
/// trying, and the look costs less than a millisecond.
const HOGS_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at what tenants can change on roles that are ours. None of it has an effect on
/// others, so it may wait.
const REPAIR_EVERY: Duration = Duration::from_secs(20);
/// Between two rounds through the databases that changed, as often as autovacuum would come by.
const CARE_EVERY: Duration = Duration::from_secs(60);
/// Between two databases that are visited after a crash of the server: 10 ms of its CPU each.
const HELP_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at the age of the template.
const TEMPLATE_EVERY: Duration = Duration::from_secs(3600);

/// Ends sessions that take too much of what all tenants share; works for ever.
pub(crate) async fn hogs(app: Arc<App>) {
    let limits = &app.config.limits;
    let queue_share_max = f64::from(limits.notify_queue_percent_max) / 100.0;
    let mut ticks = interval(HOGS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match app.node.end_lock_hogs(limits.locks_per_server_max).await {
            Ok(ended) => {
                for hog in ended {
                    tracing::warn!(pid = ?hog.pid, locks = hog.locks,
                        "ended a server connection that held too many locks");
                }
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), "the lock table was not looked at")
            }
        }
        match app.node.end_queue_hog(queue_share_max).await {
            Ok(Some(process)) => {
                tracing::warn!(
                    process,
                    "ended a server connection that held up the queue of NOTIFY"
                );
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(error = %chain(&error), "the queue of NOTIFY was not looked at")
            }
        }
    }
}

/// Sets back what tenants changed on roles, looks after databases in use, keeps the template young,
/// helps autovacuum after a crash; works for ever.
pub(crate) async fn care(app: Arc<App>) {
    let crashed = Notify::new();
    tokio::join!(rounds(&app, &crashed), help(&app, &crashed));
}

/// Beside the rounds, because it takes a second for each database.
async fn help(app: &App, crashed: &Notify) {
    loop {
        crashed.notified().await;
        while let Err(error) = app.node.help_autovacuum(HELP_PAUSE).await {
            tracing::debug!(error = %chain(&error), "autovacuum could not be helped yet");
            tokio::time::sleep(CARE_EVERY).await;
        }
    }
}

async fn rounds(app: &App, crashed: &Notify) {
    let mut care = Care::default();
    let (mut cared, mut young) = (Instant::now(), None::<Instant>);
    let mut ticks = interval(REPAIR_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match app.node.repair_shared().await {
            Ok(found) if !found.is_empty() => {
                tracing::warn!(
                    findings = found.len(),
                    "tenants had changed roles or their stored settings; they were set back to ours"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(error = %chain(&error), "roles were not looked at"),
        }
        if cared.elapsed() >= CARE_EVERY {
            cared = Instant::now();
            match app.node.look_after(&mut care).await {
                Ok(cared) if cared.lost_statistics => crashed.notify_one(),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "databases were not looked after");
                }
            }
        }
        if young.is_none_or(|at| at.elapsed() >= TEMPLATE_EVERY) {
            young = Some(Instant::now());
            if let Err(error) = app.node.refresh_template(node::TEMPLATE_AGE_MAX).await {
                tracing::debug!(error = %chain(&error), "the template was not frozen again");
            }
        }
    }
}
