//! The passes: they make backups that are to be made, read through and remove others, and begin restores in
//! place once their backup was read through.
//!
//! A pass is told that something changed, never what. A process that dies leaves rows from which the next
//! pass goes on: half a backup is under no name that is ever read.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use model::{BackupId, RestoreId};
use tokio::time::Instant;

use super::{
    carry::{self, CarryError},
    moment,
    plan::{self, Plan},
    restores, spent, start,
    store::{self, Backup, Source, State},
};
use crate::{
    api::{App, error::chain},
    catalog::CatalogError,
    placement::step::{Moment, Step, reached},
    tasks::Tasks,
};

/// A pass looks at the catalog at least this often.
const TICK: Duration = Duration::from_secs(5);
/// How long other processes leave a backup alone after its process was last heard of.
const LEASE: Duration = Duration::from_secs(60);
/// How often a lease is renewed while it is worked on.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// First wait after a failure; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest wait after a failure: a store that was away for hours is not asked all the time.
const RETRY_MAX: Duration = Duration::from_secs(600);
/// A backup that failed so often is given up. With the waits above, after about an hour.
const ATTEMPTS_MAX: i32 = 12;

/// What is worked on now.
type Driven = Arc<Mutex<BTreeSet<String>>>;

/// What a process of this name worked on is anybody's: it ended.
pub(crate) async fn void_leases(app: &App) -> Result<(), CatalogError> {
    let client = app.catalog.get().await?;
    store::watch_all(&client).await?;
    store::release_leases(&client, &app.config.instance, &[]).await
}

/// Runs passes for ever.
pub(crate) async fn run(app: Arc<App>, tasks: Tasks) {
    let permits = Arc::new(tokio::sync::Semaphore::new(
        app.config.limits.backups_concurrent_max,
    ));
    let driven = Driven::default();
    let mut plan = Plan::default();
    let look_every = plan::look_every(&app).min(TICK);
    loop {
        let wait = match pass(&app, &tasks, &permits, &driven, &mut plan).await {
            Ok(wait) => wait,
            Err(error) => {
                error.tell("backups");
                Duration::from_secs(1)
            }
        };
        let _ = tokio::time::timeout(wait.min(look_every), app.backups.wake.notified()).await;
    }
}

enum Work {
    Backup(BackupId),
    Restore(RestoreId),
}

async fn pass(
    app: &Arc<App>,
    tasks: &Tasks,
    permits: &Arc<tokio::sync::Semaphore>,
    driven: &Driven,
    plan: &mut Plan,
) -> Result<Duration, CatalogError> {
    let mut client = app.catalog.get().await?;
    spent::go_on(app, &mut client).await?;
    let free = permits.available_permits();
    if free == 0 {
        return Ok(TICK);
    }
    {
        // What no task of ours knows of: the catalog took our lease and its answer was lost.
        let ours: Vec<String> = lock(driven).iter().cloned().collect();
        let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
        store::release_leases(&client, &app.config.instance, &ours).await?;
    }
    let instance = &app.config.instance;
    // Somebody waits for a restore.
    let restores = restores::take_due(&client, instance, LEASE, free).await?;
    let left = free.saturating_sub(restores.len());
    let backups = match left {
        0 => Vec::new(),
        left => {
            // Only who runs the node has its history.
            let has_history = app.node.history().is_some();
            store::take_due(&client, instance, LEASE, left, has_history).await?
        }
    };
    let works = restores.into_iter().map(Work::Restore);
    for work in works.chain(backups.into_iter().map(Work::Backup)) {
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            break;
        };
        let driving = Driving::begin(app.clone(), driven.clone(), &work);
        tasks.spawn("backup", async move {
            drive(&driving, &work).await;
            drop(permit);
            drop(driving);
        });
    }
    let next = store::next_due(&client).await?;
    drop(client);
    // What somebody waits for comes first.
    plan.go_on(app, permits.available_permits()).await?;
    Ok(match permits.available_permits() {
        0 => TICK,
        _ => next.unwrap_or(TICK),
    })
}

fn lock(driven: &Driven) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
    driven.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a task works on. However the task ends, it is noted, and the next pass looks.
struct Driving {
    app: Arc<App>,
    driven: Driven,
    id: String,
}

impl Driving {
    fn begin(app: Arc<App>, driven: Driven, work: &Work) -> Self {
        let id = match work {
            Work::Backup(id) => id.to_string(),
            Work::Restore(id) => id.to_string(),
        };
        lock(&driven).insert(id.clone());
        Self { app, driven, id }
    }

    async fn keep_lease(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            if let Ok(client) = self.app.catalog.get().await {
                let _ = store::renew(&client, &self.id, &self.app.config.instance, LEASE).await;
            }
        }
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        lock(&self.driven).remove(&self.id);
        self.app.backups.changed.notify_waiters();
        self.app.backups.wake();
    }
}

async fn drive(driving: &Driving, work: &Work) {
    let app = &driving.app;
    let done = async {
        match work {
            Work::Backup(id) => backup(app, id).await,
            Work::Restore(id) => restore(app, id).await,
        }
    };
    let done = tokio::select! {
        done = done => done,
        never = driving.keep_lease() => match never {},
    };
    if let Err(error) = done {
        // Its lease is given back by the next pass, and it is due again.
        tracing::debug!(id = driving.id, error = %chain(&error), "a backup waits for the catalog");
    }
}

/// Does what is to be done with one backup, and writes down what came of it.
async fn backup(app: &Arc<App>, id: &BackupId) -> Result<(), CatalogError> {
    let client = app.catalog.get().await?;
    let Some(backup) = store::read(&client, id).await? else {
        return Ok(());
    };
    drop(client);
    match backup.state {
        State::Waiting | State::Running => make(app, &backup).await,
        State::Ready if backup.is_to_be_verified => verify(app, &backup).await,
        State::Deleting => remove(app, &backup).await,
        State::Ready | State::Failed => Ok(()),
    }
}

async fn make(app: &Arc<App>, backup: &Backup) -> Result<(), CatalogError> {
    reached(Step::BackupWrite, Moment::Before).await;
    let began = Instant::now();
    let source = {
        let client = app.catalog.get().await?;
        let source = store::source(&client, &backup.tenant).await?;
        if backup.kind == "scheduled" && !matches!(source, Source::Open(_)) {
            return plan::withdraw(&client, backup).await;
        }
        source
    };
    let made = async {
        // Others get theirs when they are made.
        if let Some(at) = backup.moment {
            let client = app.catalog.get().await?;
            if !store::begin(&client, &backup.id).await? {
                return Err(CarryError::Unwanted);
            }
            drop(client);
            return moment::make(app, backup, at).await;
        }
        let pid = match source {
            Source::Open(pid) => pid,
            Source::NotNow => return Err(CarryError::NotNow("the database is not ACTIVE")),
            Source::Gone => return Err(CarryError::Gone("the database was deleted")),
        };
        let client = app.catalog.get().await?;
        if !store::begin(&client, &backup.id).await? {
            return Err(CarryError::Unwanted);
        }
        drop(client);
        carry::make(app, &app.node, backup, &pid, false).await
    };
    let made = made.await;
    reached(Step::BackupWrite, Moment::Between).await;
    let client = app.catalog.get().await?;
    match made {
        Ok(made) => {
            // Otherwise it was deleted meanwhile, and the next pass removes it.
            if store::made(&client, &backup.id, &made).await? {
                tracing::info!(tenant = %backup.tenant, backup = %backup.id, bytes = made.size_bytes,
                    took_ms = made.took.as_millis(), "a database was backed up");
                app.counted.backup_made();
            }
        }
        // The next pass removes it.
        Err(CarryError::Unwanted) => {
            tracing::info!(tenant = %backup.tenant, backup = %backup.id, took_ms = began.elapsed().as_millis(),
                "a backup that was being made is not wanted any more");
        }
        Err(error) => {
            let ends = error.is_final(backup.attempts) || backup.attempts >= ATTEMPTS_MAX;
            let wait = (!ends).then(|| wait(backup.attempts));
            store::fail(&client, &backup.id, &error.reason(), wait).await?;
            app.counted.backup_failed();
            tracing::warn!(tenant = %backup.tenant, backup = %backup.id, given_up = ends, took_ms = began.elapsed().as_millis(),
                error = %chain(&error), "a database was not backed up");
        }
    }
    reached(Step::BackupWrite, Moment::After).await;
    Ok(())
}

fn wait(attempts: i32) -> Duration {
    RETRY_FIRST
        .saturating_mul(1 << attempts.clamp(0, 16))
        .min(RETRY_MAX)
}

async fn verify(app: &Arc<App>, backup: &Backup) -> Result<(), CatalogError> {
    let verified = carry::verify(app, backup).await;
    let client = app.catalog.get().await?;
    match verified {
        Ok(_) => store::verified(&client, &backup.id, None).await,
        Err(error) if error.is_of_the_backup() => {
            tracing::warn!(tenant = %backup.tenant, backup = %backup.id, error = %chain(&error), "a backup cannot be used");
            let said = format!("{}: {}", error.code().as_str(), error.reason());
            store::verified(&client, &backup.id, Some(&said)).await
        }
        // Nobody knows more of it than before.
        Err(error) if error.is_final(backup.attempts) || backup.attempts >= ATTEMPTS_MAX => {
            tracing::warn!(tenant = %backup.tenant, backup = %backup.id, error = %chain(&error), "a backup was not read through");
            let said = format!("{}: {}", error.code().as_str(), error.reason());
            store::unread(&client, &backup.id, &said).await
        }
        Err(error) => {
            tracing::warn!(tenant = %backup.tenant, backup = %backup.id, error = %chain(&error), "a backup was not read; trying again");
            let wait = Some(wait(backup.attempts));
            store::fail(&client, &backup.id, &error.reason(), wait).await
        }
    }
}

async fn remove(app: &Arc<App>, backup: &Backup) -> Result<(), CatalogError> {
    reached(Step::BackupRemove, Moment::Before).await;
    let place = &app.config.backup_place;
    let removed = async {
        let upload = backup.upload.as_deref();
        place.clean(&backup.tenant, &backup.id, upload).await?;
        place.remove(&backup.tenant, &backup.id).await
    };
    let removed = removed.await;
    reached(Step::BackupRemove, Moment::Between).await;
    let client = app.catalog.get().await?;
    match removed {
        Ok(()) => store::forget(&client, &backup.id).await?,
        // For ever: it is not to be there.
        Err(error) => {
            tracing::warn!(tenant = %backup.tenant, backup = %backup.id, error = %chain(&error), "a backup was not removed; trying again");
            let wait = Some(wait(backup.attempts));
            store::fail(&client, &backup.id, &error.to_string(), wait).await?;
        }
    }
    reached(Step::BackupRemove, Moment::After).await;
    Ok(())
}

/// Reads the backup through; then the restore begins.
async fn restore(app: &Arc<App>, id: &RestoreId) -> Result<(), CatalogError> {
    let client = app.catalog.get().await?;
    let Some(restore) = restores::read(&client, id).await? else {
        return Ok(());
    };
    let backup = store::read(&client, &restore.backup).await?;
    drop(client);
    let verified = async {
        if restore.left.is_zero() {
            return Err(CarryError::TooLong(app.config.limits.restore_time_max));
        }
        let backup = backup
            .filter(|backup| backup.state == State::Ready)
            .ok_or(CarryError::Gone("the backup was deleted"))?;
        carry::verify(app, &backup).await
    };
    match verified.await {
        Ok(_) => start::in_place(app, &restore).await,
        Err(error) if error.is_final(restore.attempts) => {
            tracing::warn!(tenant = %restore.tenant, backup = %restore.backup, error = %chain(&error), "a restore was refused; nothing was touched");
            let client = app.catalog.get().await?;
            restores::refuse(&client, id, error.code().as_str(), &error.reason()).await
        }
        Err(error) => {
            tracing::warn!(tenant = %restore.tenant, backup = %restore.backup, error = %chain(&error), "a backup was not read; trying again");
            let client = app.catalog.get().await?;
            let told = (error.code().as_str(), &*error.reason());
            restores::retry(&client, id, told, wait(restore.attempts)).await
        }
    }
}
