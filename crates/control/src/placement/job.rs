//! The passes: they read what should be and do one step per placement, until there is none left.
//!
//! A pass is told that something changed, never what. After a crash it finds the same rows and goes
//! on; every effect may be done twice.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use model::{
    Pid,
    lifecycle::{TenantEvent, TenantState},
};
use node::{DatabaseState, NodeError, Template};
use tokio::time::Instant;

use super::{
    Action, Owner, Stage, is_contradiction, next_action,
    passes::count,
    pool::{Pace, YIELD_FOR},
    step::{self, Moment, reached},
    store::{self, Kind, Room, Work},
};
use crate::{
    api::App,
    backup::{carry::CarryError, drills, fill, restores},
    branch::{
        copy::{self, CopyError},
        store::{self as branches, Copied},
    },
    catalog::{CatalogError, changes::Changes},
    tasks::Tasks,
    user,
};

/// A pass looks at the catalog at least this often, should a wake-up be lost or come from another
/// process.
const TICK: Duration = Duration::from_secs(5);
/// How long other processes leave a placement alone after its process was last heard of.
const LEASE: Duration = Duration::from_secs(60);
/// How often a lease is renewed while a step runs.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// First wait after a failure; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// A pool entry that fails this often is given up: another one is cheaper than the search.
const POOL_ATTEMPTS_MAX: i32 = 5;

/// What a process of this name worked on is anybody's: it ended.
pub(crate) async fn void_leases(app: &App) -> Result<(), CatalogError> {
    let client = app.catalog.get().await?;
    store::release_leases(&client, &app.config.instance, &[]).await
}

/// Takes up what a former process had begun: its leases are void, and what its pool holds is looked
/// at on the server before anybody gets it.
pub(crate) async fn take_up(app: &App) -> Result<(), CatalogError> {
    void_leases(app).await?;
    let client = app.catalog.get().await?;
    let entries = store::pool_entries(&client, app.node.name()).await?;
    if entries.is_empty() {
        return Ok(());
    }
    let found = match app.node.inventory().await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(error = %crate::api::error::chain(&error), "the pool was not looked at; opening it again");
            return store::reopen_pool(&client, app.node.name()).await;
        }
    };
    let complete = |pid: &Pid| {
        found.iter().any(|physical| {
            physical.pid == *pid
                && physical.database == DatabaseState::Open
                && physical.wall
                && physical.logins.len() == model::Role::ALL.len()
        })
    };
    let broken: Vec<&str> = entries
        .iter()
        .filter(|pid| !complete(pid))
        .map(Pid::as_str)
        .collect();
    if !broken.is_empty() {
        tracing::warn!(
            entries = broken.len(),
            "pool entries are not complete; replacing them"
        );
        store::abandon(&client, &broken).await?;
    }
    Ok(())
}

/// Runs passes for ever.
pub(crate) async fn run(app: Arc<App>, tasks: Tasks) {
    let permits = Arc::new(tokio::sync::Semaphore::new(
        app.config.limits.placements_concurrent_max,
    ));
    let mut away = false;
    loop {
        let next = match pass(&app, &tasks, &permits).await {
            Ok(next) => {
                count(&app.passes.counted.passes);
                away = false;
                next
            }
            Err(error) => {
                count(&app.passes.counted.passes_failed);
                app.passes.lost_track.store(true, Ordering::Relaxed);
                if !std::mem::replace(&mut away, true) {
                    tracing::warn!(error = %crate::api::error::chain(&error), "passes wait for the catalog");
                }
                Duration::from_secs(1)
            }
        };
        let mut look_at = Instant::now() + next.min(TICK);
        loop {
            tokio::select! {
                () = app.passes.wake.notified() => break,
                () = app.passes.taken.notified() => {
                    look_at = look_at.min(Instant::now() + YIELD_FOR);
                }
                () = tokio::time::sleep_until(look_at) => break,
            }
        }
    }
}

/// Starts what is due; returns how long there is nothing to do.
async fn pass(
    app: &Arc<App>,
    tasks: &Tasks,
    permits: &Arc<tokio::sync::Semaphore>,
) -> Result<Duration, CatalogError> {
    let client = app.catalog.get().await?;
    if app.passes.lost_track.load(Ordering::Relaxed) {
        // Cleared first: what is lost from here on is for the next pass.
        app.passes.lost_track.store(false, Ordering::Relaxed);
        let driven: Vec<String> = app.passes.driven().keys().map(Pid::to_string).collect();
        let driven: Vec<&str> = driven.iter().map(String::as_str).collect();
        store::release_leases(&client, &app.config.instance, &driven).await?;
    }
    let size = store::pool_size(&client, app.node.name()).await?;
    let (target, pace) = app.passes.pool_plan(app, size.ready);
    let missing = target.saturating_sub(size.all);
    let waits = matches!(pace, Pace::Wait(_));
    if missing > 0 && !waits {
        store::plan_pool(&client, app.node.name(), missing).await?;
    }
    let free = permits.available_permits();
    if free == 0 {
        return Ok(TICK);
    }
    let working = |kind: Kind| {
        let driven = app.passes.driven();
        driven.values().filter(|one| **one == kind).count()
    };
    let filling = working(Kind::Pool);
    let copies = (app.config.limits.branches_concurrent_max).saturating_sub(working(Kind::Copy));
    let (fill, wait) = match pace {
        Pace::Wait(wait) => (0, wait),
        Pace::Slow => (1_usize.saturating_sub(filling), TICK),
        Pace::Fast => (free, TICK),
    };
    let room = Room {
        all: free,
        pool: fill,
        copies,
    };
    let leased = store::take_due(&client, &app.config.instance, LEASE, room).await?;
    let copies_left = copies
        > leased
            .iter()
            .filter(|(_, kind)| *kind == Kind::Copy)
            .count();
    for (pid, kind) in leased {
        let permit = permits.clone().try_acquire_owned();
        let driving = Driving::begin(app.clone(), pid, kind);
        tasks.spawn("placement", async move {
            drive(&driving.app, &driving.pid).await;
            drop(permit);
            drop(driving);
        });
    }
    // What is held back is due already; the end of a task, or of the wait, is when to look again.
    let held_back = pace != Pace::Fast && size.all + missing > size.ready;
    let next = store::next_due(&client, !held_back, copies_left).await?;
    Ok(next.unwrap_or(TICK).min(wait))
}

/// A placement that a task works on. However the task ends, it is noted, and the next pass looks.
struct Driving {
    app: Arc<App>,
    pid: Pid,
}

impl Driving {
    fn begin(app: Arc<App>, pid: Pid, kind: Kind) -> Self {
        app.passes.driven().insert(pid.clone(), kind);
        Self { app, pid }
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.app.passes.driven().remove(&self.pid);
        self.app.passes.wake();
    }
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
enum ActError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Fill(#[from] CarryError),
}

impl From<user::job::Failed> for ActError {
    fn from(failed: user::job::Failed) -> Self {
        match failed {
            user::job::Failed::Catalog(error) => Self::Catalog(error),
            user::job::Failed::Node(error) => Self::Node(error),
        }
    }
}

impl From<tokio_postgres::Error> for ActError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Catalog(error.into())
    }
}

/// Takes steps with one placement until it rests, fails or is gone.
async fn drive(app: &Arc<App>, pid: &Pid) {
    loop {
        let written = match step_once(app, pid).await {
            Ok(Progress::Done) => return,
            Ok(Progress::Again) => continue,
            Err((Some(work), error)) => failed(app, &work, &error).await,
            Err((None, error)) => Err(error),
        };
        if let Err(error) = written {
            // Once the catalog is back, a pass gives our lease back, and it is due again.
            tracing::debug!(pid = %pid, error = %error, "a failure was not written down");
            app.passes.lost_track.store(true, Ordering::Relaxed);
        }
        return;
    }
}

enum Progress {
    Again,
    Done,
}

async fn step_once(app: &Arc<App>, pid: &Pid) -> Result<Progress, (Option<Work>, ActError)> {
    let read = async {
        let client = app.catalog.get().await?;
        let work = store::read(&client, pid).await?;
        Ok::<_, CatalogError>(work)
    };
    let Some(work) = read.await.map_err(|error| (None, error.into()))? else {
        return Ok(Progress::Done);
    };
    if is_contradiction(work.owner, work.stage) {
        tracing::error!(pid = %pid, owner = ?work.owner, stage = ?work.stage, "a database has no data where it should; nothing is done");
    }
    let Some(action) = next_action(work.owner, work.origin(), work.stage) else {
        let client = app
            .catalog
            .get()
            .await
            .map_err(|error| (None, error.into()))?;
        let settled = store::settle(&client, pid, work.version).await;
        return match settled {
            Ok(true) => {
                app.passes.changed.notify_waiters();
                Ok(Progress::Done)
            }
            Ok(false) => Ok(Progress::Again),
            Err(error) => Err((None, error.into())),
        };
    };
    let result = tokio::select! {
        result = act(app, &work, action) => result,
        never = keep_lease(app, pid) => match never {},
    };
    match result {
        Ok(()) => {
            tracing::debug!(pid = %pid, tenant = work.tenant.as_ref().map(|id| id.as_str()), action = ?action, "step done");
            count(&app.passes.counted.steps);
            app.passes.changed.notify_waiters();
            Ok(Progress::Again)
        }
        Err(error) => {
            count(&app.passes.counted.steps_failed);
            Err((Some(work), error))
        }
    }
}

async fn keep_lease(app: &App, pid: &Pid) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        if let Ok(client) = app.catalog.get().await {
            let _ = store::renew(&client, pid, &app.config.instance, LEASE).await;
        }
    }
}

/// Does one action: the effect, then the note. Twice is as good as once.
async fn act(app: &Arc<App>, work: &Work, action: Action) -> Result<(), ActError> {
    let step = step::of(work.owner, work.origin(), action, work.was_active);
    let pid = &work.pid;
    let mut copied = None;
    reached(step, Moment::Before).await;
    match action {
        Action::CreateLogins => {
            app.node.create_logins(pid).await?;
            if let Some(tenant) = &work.tenant {
                user::job::make_all(app, tenant, pid).await?;
            }
        }
        Action::CreateDatabase => {
            app.node.create_database(pid, &Template::Empty).await?;
            // Nobody waits for an entry of the pool. Whoever waits for its own database opens the
            // first session anyway.
            if work.tenant.is_none() {
                let _ = app.node.warm_up(pid).await;
            }
        }
        Action::BeginCopy => {}
        Action::Copy => {
            if work.owner == Owner::Drill {
                drills::run(app, pid).await?;
            } else if let (Some(tenant), Some(_)) = (&work.tenant, work.restore) {
                fill::run(app, tenant, pid).await?;
            } else if let (Some(tenant), Some(wanted)) = (&work.tenant, &work.branch) {
                copied = Some(copy::run(app, tenant, pid, wanted).await?);
            }
        }
        // What a backup holds names nobody but the database itself: see `Node::finish_fill`.
        Action::Adopt if work.restore.is_some() => {}
        Action::Adopt => {
            if let Some(source) = work
                .branch
                .as_ref()
                .and_then(|wanted| wanted.source.as_ref())
            {
                app.node.adopt(pid, source).await?;
            }
        }
        Action::Open => {
            let client = app.catalog.get().await?;
            store::set_stage(&client, pid, Stage::Opening).await?;
            drop(client);
            app.node.open(pid).await?;
        }
        Action::Close => app.node.close(pid).await?,
        Action::BeginDrop => {}
        Action::DropDatabase => {
            app.node.close(pid).await?;
            app.node.drop_database(pid).await?;
        }
        Action::DropLogins => app.node.drop_logins(pid).await?,
    }
    reached(step, Moment::Between).await;
    note(app, work, action, copied.as_ref()).await?;
    reached(step, Moment::After).await;
    Ok(())
}

async fn note(
    app: &App,
    work: &Work,
    action: Action,
    copied: Option<&Copied>,
) -> Result<(), ActError> {
    let pid = &work.pid;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let change = match action {
        Action::CreateLogins => {
            store::set_stage(&transaction, pid, Stage::Logins).await?;
            None
        }
        Action::CreateDatabase => {
            store::set_stage(&transaction, pid, Stage::Closed).await?;
            None
        }
        Action::BeginCopy => store::begin_copy(&transaction, pid, work.stage).await?,
        Action::Copy if work.owner == Owner::Drill => {
            store::set_stage(&transaction, pid, Stage::Closed).await?;
            drills::passed(&transaction, pid).await?;
            None
        }
        Action::Copy => {
            if let (Some(tenant), Some(copied)) = (&work.tenant, copied) {
                branches::set_copied(&transaction, tenant, copied).await?;
            }
            store::set_stage(&transaction, pid, Stage::Copied).await?;
            None
        }
        Action::Adopt => {
            store::set_stage(&transaction, pid, Stage::Closed).await?;
            None
        }
        Action::Open => {
            store::reached_stage(&transaction, pid, Stage::Open, TenantEvent::Provisioned).await?
        }
        Action::Close => {
            let stage = store::closed(work.stage);
            store::reached_stage(&transaction, pid, stage, TenantEvent::Closed).await?
        }
        Action::BeginDrop => {
            store::begin_drop(&transaction, pid).await?;
            None
        }
        Action::DropDatabase => {
            store::set_stage(&transaction, pid, Stage::Dropped).await?;
            None
        }
        Action::DropLogins => store::forget(&transaction, pid).await?,
    };
    transaction.commit().await?;
    announce(&app.changes, change);
    if action == Action::DropLogins
        && let Some(tenant) = &work.tenant
    {
        tracing::info!(tenant = %tenant, "the data of a deleted database was removed");
        crate::audited::by_itself(app, "purge", tenant, None);
    }
    Ok(())
}

fn announce(changes: &Changes, change: Option<model::route::Change>) {
    if let Some(change) = change {
        changes.announce(change);
    }
}

/// Writes a failure down, and gives up where that is right: a pool entry after some tries, a create
/// after `stuck_after`. Everything else is tried for ever, and reported.
async fn failed(app: &App, work: &Work, error: &ActError) -> Result<(), ActError> {
    let words = crate::api::error::chain(error);
    let mut client = app.catalog.get().await?;
    let wait = RETRY_FIRST
        .saturating_mul(1 << work.attempts.clamp(0, 16))
        .min(RETRY_MAX);
    store::fail(&client, &work.pid, &words, wait).await?;
    if let (Some(_), Some(tenant), ActError::Fill(error)) = (work.restore, &work.tenant, error) {
        restores::note(&client, tenant, error.code().as_str(), &error.reason()).await?;
    }
    if work.owner == Owner::Drill {
        let error = match error {
            ActError::Fill(error) => Some(error),
            ActError::Catalog(_) | ActError::Node(_) | ActError::Copy(_) => None,
        };
        let transaction = client.transaction().await?;
        let gave_up = drills::failed(&transaction, &work.pid, work.attempts, error).await?;
        transaction.commit().await?;
        if !gave_up {
            tracing::warn!(pid = %work.pid, attempts = work.attempts, error = words, "a restore drill failed; trying again");
        }
        return Ok(());
    }
    let stuck = match (&work.branch, error) {
        (_, ActError::Fill(error)) if error.is_final(work.attempts) => true,
        (_, _) if is_made(work.owner) && work.restore.is_some() => {
            work.restore.is_some_and(|left| left.is_zero())
        }
        (Some(_), ActError::Copy(error)) if error.is_final(work.attempts) => true,
        (Some(wanted), _) if is_made(work.owner) => wanted.left.is_zero(),
        _ => work.unsettled_for >= app.config.limits.stuck_after,
    };
    match work.owner {
        Owner::Pool if work.attempts >= POOL_ATTEMPTS_MAX => {
            tracing::warn!(pid = %work.pid, error = words, "a pool entry failed for good; it is removed");
            store::abandon(&client, &[work.pid.as_str()]).await?;
        }
        Owner::Tenant(state) if stuck => {
            let transaction = client.transaction().await?;
            let reason = reason(work, error);
            let change = store::fail_tenant(&transaction, &work.pid, &reason).await?;
            store::note_delay(&transaction, &work.pid, &reason).await?;
            transaction.commit().await?;
            let gave_up = change.is_some();
            announce(&app.changes, change);
            app.passes.changed.notify_waiters();
            // A branch that cannot be made is told to its user, who may try again; nobody else has to look.
            if (work.branch.is_some() || work.restore.is_some()) && gave_up {
                tracing::warn!(pid = %work.pid, branch = work.tenant.as_ref().map(|id| id.as_str()), error = words, "a branch was not made, or a backup not restored");
            } else {
                tracing::error!(pid = %work.pid, tenant = work.tenant.as_ref().map(|id| id.as_str()), %state, gave_up, error = words, "a database is stuck");
            }
        }
        _ => {
            tracing::warn!(pid = %work.pid, tenant = work.tenant.as_ref().map(|id| id.as_str()), attempts = work.attempts, error = words, "a step failed; trying again");
        }
    }
    Ok(())
}

/// Whether a tenant is on its way to its first use, or back from a reset.
fn is_made(owner: Owner) -> bool {
    matches!(
        owner,
        Owner::Tenant(TenantState::Creating | TenantState::Cloning)
    )
}

/// For the user: names no node.
fn reason(work: &Work, error: &ActError) -> String {
    if let ActError::Copy(error) = error {
        return error.reason();
    }
    if let ActError::Fill(error) = error {
        return error.reason();
    }
    let what = what(error);
    match work.branch {
        Some(_) => format!("{what}; resume this branch to try again"),
        None => what.to_owned(),
    }
}

fn what(error: &ActError) -> &'static str {
    match error {
        ActError::Copy(_) => "it could not be copied",
        ActError::Fill(_) => "it could not be restored",
        ActError::Catalog(_) => "the catalog did not answer",
        ActError::Node(NodeError::Unreachable { .. }) => "the database server could not be reached",
        ActError::Node(NodeError::Busy { .. }) => "the database server was too busy",
        ActError::Node(NodeError::Refused { .. } | NodeError::Program { .. }) => {
            "the database server refused; ask your operator"
        }
        ActError::Node(NodeError::Conflict { .. }) => {
            "something else stands where the database should be; ask your operator"
        }
    }
}

/// Waits until the pool holds its minimum.
pub(crate) async fn warm(app: &App) {
    loop {
        let changed = app.passes.changed();
        if let Ok(client) = app.catalog.get().await
            && let Ok(size) = store::pool_size(&client, app.node.name()).await
            && size.ready >= app.config.warm_pool.min
        {
            return;
        }
        let _ = tokio::time::timeout(TICK, changed).await;
    }
}
