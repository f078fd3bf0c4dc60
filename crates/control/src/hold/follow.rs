//! Carrying out, in this process, what the rows of holds ask.
//!
//! Owns: looking, giving this process's proxy its orders, and saying what came of them. Does not own: the
//! rows (`store`), or taking a hold.

use std::{collections::HashMap, sync::Arc, time::Duration};

use model::{
    HoldId, TenantId,
    hold::{Kept, Order, Step},
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    REST,
    store::{self, Row, Wanted},
};
use crate::{
    api::{App, error::chain},
    catalog::CatalogError,
    tasks::Tasks,
};

/// Between two looks when nobody says that there is something to see.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For the orders of holds that are under way when this process starts: it has no clients yet.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(5);

/// What this process was asked, and does or has done.
#[derive(Default)]
pub(crate) struct Followed(HashMap<HoldId, (TenantId, Option<Wanted>)>);

/// Before the first login can be answered: what is held by others is held here, too.
pub(crate) async fn begin(app: &Arc<App>) -> Result<Followed, CatalogError> {
    let mut followed = Followed::default();
    let rows = store::all(&app.catalog.get().await?).await?;
    for row in rows.into_iter().filter(|row| !row.left.is_zero()) {
        let step = Step::Drain(Duration::ZERO);
        // No answer: then there is no proxy that could serve anybody.
        let _ = timeout(BEGIN_TIME_MAX, give(app, &row, step)).await;
        followed.0.insert(row.id, (row.tenant, None));
    }
    Ok(followed)
}

/// Follows for ever.
pub(crate) async fn run(app: Arc<App>, tasks: Tasks, mut followed: Followed) {
    let mut pokes = app.holds.pokes();
    let mut swept_at = Instant::now();
    loop {
        if let Err(error) = look(&app, &tasks, &mut followed).await {
            // Proxies let go by themselves.
            tracing::debug!(error = %chain(&error), "holds could not be looked at");
        }
        let _ = timeout(LOOK_EVERY, pokes.changed()).await;
        if swept_at.elapsed() >= REST {
            swept_at = Instant::now();
            let _ = sweep(&app).await;
        }
    }
}

async fn sweep(app: &App) -> Result<(), CatalogError> {
    let client = app.catalog.get().await?;
    for _ in 0..store::sweep(&client, REST).await? {
        app.counted.hold("abandoned", None);
        tracing::info!("a hold that nobody let go of was removed");
    }
    Ok(())
}

async fn look(app: &Arc<App>, tasks: &Tasks, followed: &mut Followed) -> Result<(), CatalogError> {
    let rows = store::all(&app.catalog.get().await?).await?;
    let gone: Vec<HoldId> = followed.0.keys().cloned().collect();
    for hold in gone {
        if rows.iter().all(|row| row.id != hold)
            && let Some((tenant, _)) = followed.0.remove(&hold)
        {
            let app = app.clone();
            tasks.spawn("hold", async move {
                let end = order(&app, &hold, &tenant, Step::End, Duration::ZERO);
                let _ = end.await;
            });
        }
    }
    for row in rows.into_iter().filter(|row| !row.left.is_zero()) {
        let known = followed.0.get(&row.id);
        if known.is_some_and(|(_, wanted)| *wanted >= Some(row.wanted)) {
            continue;
        }
        let of = (row.tenant.clone(), Some(row.wanted));
        followed.0.insert(row.id.clone(), of);
        let app = app.clone();
        tasks.spawn("hold", async move {
            if let Err(error) = obey(&app, &row).await {
                tracing::debug!(error = %chain(&error), "what this process did about a hold was not heard");
            }
        });
    }
    Ok(())
}

/// Does what the row asks, and says so.
async fn obey(app: &Arc<App>, row: &Row) -> Result<(), CatalogError> {
    let step = match row.wanted {
        Wanted::Drain => Step::Drain(row.drain_left),
        Wanted::Close => Step::Close,
        Wanted::Return => Step::Return,
    };
    // A proxy that does not answer is one that stops; its process says no word until it is gone.
    let Some(done) = give(app, row, step).await else {
        return Ok(());
    };
    let client = app.catalog.get().await?;
    store::say(&client, &row.id, &app.process.id, row.wanted, &done).await?;
    app.holds.poke();
    store::tell(&client).await
}

async fn give(app: &App, row: &Row, step: Step) -> Option<Result<(), Kept>> {
    order(app, &row.id, &row.tenant, step, row.left).await
}

async fn order(
    app: &App,
    hold: &HoldId,
    tenant: &TenantId,
    step: Step,
    valid_for: Duration,
) -> Option<Result<(), Kept>> {
    let (reply, done) = oneshot::channel();
    let order = Order {
        tenant: tenant.clone(),
        hold: hold.clone(),
        step,
        valid_for,
        reply,
    };
    app.holds.orders.send(order).await.ok()?;
    done.await.ok()
}
