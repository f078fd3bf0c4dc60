//! `/metrics`: numbers for Prometheus, of this process and of the catalog.
//!
//! Owns: who may read them, the numbers of the catalog and of passes, and that reading them often costs
//! little. Does not own: what else the control plane counts (`counted`), or the numbers of the proxy, which
//! come as a page of their own.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use model::{
    exposition::{CONTENT_TYPE, Page},
    lifecycle::TenantState,
};
use node::managed::{HistoryState, HistoryStatus};
use tokio::{
    sync::{Mutex, oneshot},
    time::{Instant, timeout},
};

use super::{
    App, auth,
    error::{ApiResult, ErrorBody},
};
use crate::{
    alert, audited,
    backup::{
        drills::{self, Record},
        plan,
        schedule::Survey,
    },
    catalog::CatalogError,
    insight::fleet::{self, Figure},
    placement::store as placements,
    tenant::store as tenants,
};

/// For how long a page is given to others who ask. Whoever may read it without a token may also ask
/// without end.
const FRESH_FOR: Duration = Duration::from_millis(500);
/// Wait for the catalog. Below the ten seconds that Prometheus waits for all, so that the numbers of
/// the proxy are there also when the catalog is not.
const CATALOG_WAIT_MAX: Duration = Duration::from_secs(3);

/// The last page, and when it was made.
#[derive(Default)]
pub(crate) struct Last(Mutex<Option<(Instant, String)>>);

/// Numbers for Prometheus, in its text format 0.0.4. For the operator, unless the server was started
/// with `metrics-open`. What they mean: `docs/metrics.md`.
#[utoipa::path(get, path = "/metrics", tag = "operator", security(("bearer" = [])),
    responses((status = 200, description = "Prometheus text format", content_type = "text/plain"),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    if !app.config.metrics_open {
        auth::principal(&app, &headers, None).await?.is_operator()?;
    }
    // Held while the page is made: who asks meanwhile gets the same one.
    let mut last = app.metrics.0.lock().await;
    let fresh = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH_FOR);
    let page = match fresh {
        Some((_, page)) => page.clone(),
        None => {
            let page = read(&app).await;
            *last = Some((Instant::now(), page.clone()));
            page
        }
    };
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response())
}

async fn read(app: &App) -> String {
    let mut page = Page::default();
    page.gauge("tenantry_build_info", "1, with the version of the program.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
    let seen = timeout(CATALOG_WAIT_MAX, look(app)).await;
    let seen = match seen {
        Ok(Ok(seen)) => Some(seen),
        // The API and the passes say in the log what is wrong with it.
        Ok(Err(_)) | Err(_) => None,
    };
    page.gauge("tenantry_catalog_up", "1 while the catalog answers.")
        .sample(&[], u32::from(seen.is_some()));
    if let Some(seen) = &seen {
        write(&mut page, seen);
    }
    passes(&mut page, app);
    app.counted.write(&mut page);
    audited::write_metrics(&mut page, &app.audit);
    if let Some(history) = app.node.history() {
        write_history(&mut page, &history);
    }
    let (reply, proxy) = oneshot::channel();
    let proxy = match app.pages.send(reply).await {
        Ok(()) => proxy.await.unwrap_or_default(),
        Err(_) => String::new(),
    };
    page.into_text(&proxy)
}

/// What the catalog says.
struct Seen {
    tenants: Vec<(TenantState, u64)>,
    pool: placements::PoolSize,
    unsettled: u64,
    backups: Survey,
    drills: Record,
    fleet: Vec<Figure>,
    alerts: alert::Numbers,
}

async fn look(app: &App) -> Result<Seen, CatalogError> {
    let client = app.catalog.get().await?;
    let backups = plan::survey(app, &client).await?;
    let drills = drills::record(&client).await?;
    drop(client);
    let fleet = fleet::figures(app, &backups, &drills).await?;
    let client = app.catalog.get().await?;
    Ok(Seen {
        backups,
        drills,
        tenants: tenants::count_by_state(&client).await?,
        pool: placements::pool_size(&client, app.node.name()).await?,
        unsettled: placements::count_unsettled(&client).await?,
        fleet,
        alerts: alert::numbers(&client, &app.operator).await?,
    })
}

fn write(page: &mut Page, seen: &Seen) {
    let mut family = page.gauge("tenantry_tenants", "Tenants by state.");
    for state in TenantState::ALL {
        let found = seen.tenants.iter().find(|(own, _)| *own == state);
        let count = found.map_or(0, |(_, count)| *count);
        family.sample(&[("state", state.as_str())], count);
    }
    page.gauge(
        "tenantry_pool_databases",
        "Databases made ahead of demand: ready, and on their way.",
    )
    .sample(&[("state", "ready")], seen.pool.ready)
    .sample(
        &[("state", "making")],
        seen.pool.all.saturating_sub(seen.pool.ready),
    );
    page.gauge(
        "tenantry_placements_unsettled",
        "Databases that are not yet as they should be.",
    )
    .sample(&[], seen.unsettled);
    fleet::write(page, &seen.fleet);
    alert::write_metrics(page, &seen.alerts);
    let backups = &seen.backups;
    page.gauge(
        "tenantry_backup_scheduled_databases",
        "Databases that are backed up by schedule; late: whose last good backup is older than it may be.",
    )
    .sample(
        &[("state", "in_time")],
        backups.scheduled.saturating_sub(backups.overdue),
    )
    .sample(&[("state", "late")], backups.overdue);
    let mut family = page.gauge(
        "tenantry_backup_next_seconds",
        "Until the next backup by schedule begins. Not there: none is to be made.",
    );
    if let Some(seconds) = backups.next_s {
        family.sample(&[], seconds);
    }
    let last = seen
        .drills
        .last
        .as_ref()
        .filter(|last| last.state != "running");
    let mut family = page.gauge(
        "tenantry_drill_last_passed",
        "1 when the last restore drill passed, 0 when it failed. Not there: there was none.",
    );
    if let Some(last) = last {
        family.sample(&[], u32::from(last.state == "passed"));
    }
}

/// Of the node, if it is ours.
fn write_history(page: &mut Page, seen: &HistoryStatus) {
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_secs_f64()
    };
    page.gauge(
        "tenantry_history_kept",
        "1 while moments can be recovered from tenantry_history_oldest_timestamp_seconds on.",
    )
    .sample(&[], u32::from(seen.state == HistoryState::Kept));
    if let Some(oldest) = seen.oldest {
        page.gauge(
            "tenantry_history_oldest_timestamp_seconds",
            "The first moment that can be recovered.",
        )
        .sample(&[], seconds(oldest));
    }
    page.gauge(
        "tenantry_history_bytes",
        "Disk that the history of the node takes: base backups, and the archived log.",
    )
    .sample(&[("part", "bases")], seen.base_bytes)
    .sample(&[("part", "log")], seen.log_bytes);
    page.gauge(
        "tenantry_history_bases",
        "Base backups that moments can be recovered from.",
    )
    .sample(&[], seen.bases as u64);
    page.gauge(
        "tenantry_history_waiting_segments",
        "Segments of the log, of 16 MB, that PostgreSQL could not hand over yet.",
    )
    .sample(&[], seen.waiting as u64);
    if let Some(archived) = seen.archived_at {
        page.gauge(
            "tenantry_history_archived_timestamp_seconds",
            "When the last segment of the log arrived.",
        )
        .sample(&[], seconds(archived));
    }
    page.counter(
        "tenantry_history_base_failures_total",
        "Base backups that failed; they are tried again.",
    )
    .sample(&[], seen.base_failures);
    page.counter(
        "tenantry_history_thrown_away_total",
        "How often all of the history was given up, for want of room or because it could not be written.",
    )
    .sample(&[], seen.given_up);
}

fn passes(page: &mut Page, app: &App) {
    let counts = app.passes.counts();
    page.gauge(
        "tenantry_placements_worked_on",
        "Databases that this process works on.",
    )
    .sample(&[], counts.working);
    page.counter(
        "tenantry_placement_passes_total",
        "Looks for databases that are not as they should be; failed: the catalog did not answer.",
    )
    .sample(&[("result", "done")], counts.passes)
    .sample(&[("result", "failed")], counts.passes_failed);
    page.counter(
        "tenantry_placement_steps_total",
        "Steps taken with databases on their way to what they should be.",
    )
    .sample(&[("result", "done")], counts.steps)
    .sample(&[("result", "failed")], counts.steps_failed);
    page.counter(
        "tenantry_pool_claims_total",
        "Creates that found a database made ahead of demand, and that did not.",
    )
    .sample(&[("result", "found")], counts.claims)
    .sample(&[("result", "missed")], counts.claims_missed);
}
