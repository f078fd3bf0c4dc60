//! The pass that looks at everything that there are rules for: one process at a time, page by page.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use model::ProjectId;

use super::{
    look::{Parties, Party, Seen, node},
    queue,
    rule::Kind,
    step::next,
    store::{self, Changes},
    targets,
};
use crate::{
    api::App,
    backup::{drills::Record, schedule::Survey},
    catalog::CatalogError,
    insight::{self, fleet},
};

/// From the end of a pass to the next one, whichever process makes it.
const EVERY: Duration = Duration::from_secs(15);
/// How long other processes leave it to one that was not heard of.
const LEASE: Duration = Duration::from_secs(60);
/// Between two looks whether it is time.
const TICK: Duration = Duration::from_secs(5);
/// Databases in one page: a hundred kilobytes, and some milliseconds of the catalog's time.
const PAGE: i64 = 500;
/// The window of statements.
const RECENT_MINUTES: i64 = 5;
/// Tokens of which it is looked when they expire, the soonest first.
const TOKENS_MAX: i64 = 1_000;
/// The longest notice that a rule can ask for.
const NOTICE_MAX: Duration = Duration::from_secs(720 * 3600);
/// Alerts that nobody looks at any more, ended in one pass.
const LEFT_OVER_MAX: i64 = 1_000;
/// Passes between two looks for alerts to forget, and how many are forgotten then.
const SWEEP_EVERY: u32 = 40;
const SWEEP_MAX: i64 = 1_000;

/// Looks for ever.
pub(crate) async fn run(app: Arc<App>) {
    loop {
        tokio::time::sleep(TICK).await;
        if let Err(error) = pass(&app, false).await {
            error.tell("alerts");
        }
    }
}

/// Looks once, if it is time, or if somebody asks for it, and it is no other process's turn.
pub(crate) async fn pass(app: &App, is_asked: bool) -> Result<(), CatalogError> {
    let _looking = app.alerts.looking.lock().await;
    let own = app.process.id.as_str();
    let client = app.catalog.get().await?;
    let Some(began) = store::begin_pass(&client, own, LEASE, is_asked).await? else {
        return Ok(());
    };
    drop(client);
    let looked = look(app, began).await;
    let client = app.catalog.get().await?;
    store::end_pass(&client, own, EVERY).await?;
    looked?;
    let passes = app.alerts.passes.fetch_add(1, Ordering::Relaxed);
    if passes.is_multiple_of(SWEEP_EVERY) {
        store::sweep(&client, SWEEP_MAX).await?;
    }
    drop(client);
    queue::fill(app).await?;
    app.alerts.wake.notify_one();
    Ok(())
}

async fn look(app: &App, began: DateTime<Utc>) -> Result<(), CatalogError> {
    // Before anything is written: all that is asked of others than the catalog.
    // Of backups it is looked below, database by database.
    let figures = fleet::figures(app, &Survey::default(), &Record::default()).await?;
    let client = app.catalog.get().await?;
    let operator = Party {
        project: app.operator.clone(),
        rules: targets::rules(&client, &app.operator).await?,
    };
    drop(client);
    let mut parties = Parties {
        operator,
        owners: Default::default(),
    };
    let mut after = String::new();
    loop {
        let client = app.catalog.get().await?;
        if !store::go_on(&client, app.process.id.as_str(), LEASE).await? {
            return Ok(());
        }
        let mut page = store::databases(&client, &app.config.backup_schedule, &after, PAGE).await?;
        let Some(last) = page.last() else {
            break;
        };
        after = last.id.to_string();
        let ids: Vec<&str> = page.iter().map(|own| own.id.as_str()).collect();
        let mut recent = insight::recent(&client, &ids, RECENT_MINUTES).await?;
        let projects: HashSet<&ProjectId> = page.iter().map(|own| &own.project).collect();
        parties.owners = targets::owners(&client, &app.operator, projects).await?;
        drop(client);
        let mut seen = Vec::new();
        for database in &mut page {
            database.recent = recent.remove(&database.id).unwrap_or_default();
            seen.extend(database.look(&parties));
        }
        write(app, seen, began).await?;
    }
    let client = app.catalog.get().await?;
    let tokens = store::tokens(&client, &app.operator, NOTICE_MAX, TOKENS_MAX).await?;
    let projects: HashSet<&ProjectId> = tokens.iter().map(|own| &own.project).collect();
    parties.owners = targets::owners(&client, &app.operator, projects).await?;
    drop(client);
    let seen = tokens.iter().filter_map(|own| own.look(&parties));
    write(app, seen.collect(), began).await?;

    let share = |name| fleet::Figure::value_in(&figures, name);
    let servers = share("server_connections").map(|share| share * 100.0);
    let figures = [
        (Kind::ServerConnections, servers),
        (Kind::DatabasesBehind, share("databases_behind")),
    ];
    let seen = node(&parties.operator, app.node.name(), &figures);
    write(app, seen, began).await?;

    let mut client = app.catalog.get().await?;
    let mut changes = Changes::default();
    for known in store::left_over(&client, began, LEFT_OVER_MAX).await? {
        changes.end(&known);
    }
    store::write(&mut client, &changes, began).await
}

/// Writes down what began, goes on and ended, of a page.
async fn write(app: &App, seen: Vec<Seen>, began: DateTime<Utc>) -> Result<(), CatalogError> {
    if seen.is_empty() {
        return Ok(());
    }
    let mut client = app.catalog.get().await?;
    let subjects: HashSet<&str> = seen.iter().map(|own| &*own.key.subject).collect();
    let subjects: Vec<&str> = subjects.into_iter().collect();
    let standing = store::standing(&client, &subjects).await?;
    let mut changes = Changes::default();
    for seen in seen {
        let known = standing.get(&seen.key);
        let holds = seen.holds();
        let next = next(
            known.map(|known| known.standing),
            holds,
            seen.lasting,
            began,
        );
        changes.note(seen, known, next);
    }
    store::write(&mut client, &changes, began).await
}
