//! How a branch gets its data: the fastest way that disturbs nobody.
//!
//! Files are copied while the parent has no session; when it keeps some, one moment of it is streamed
//! while it stays in use. Owns: which way, and when to give up. Does not own: the ways (`node`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use model::{Pid, TenantId, lifecycle::TenantState};
use node::{ClonePath, Content, NodeError, Template};
use tokio::time::{Instant, sleep, timeout};

use super::store::{self, Copied, Wanted};
use crate::{
    api::{App, error::chain},
    catalog::CatalogError,
    hold::{self, HoldError},
    placement::Stage,
};

/// How long the parent's new transactions wait for the running ones: longer than that is not one slow
/// statement.
const HOLD_DRAIN_MAX: Duration = Duration::from_secs(2);
/// A copy of files that takes longer has the parent's clients wait for too long; the hold itself lasts a little
/// longer. Three seconds were measured for 1 GB.
const FILES_TIME_MAX: Duration = Duration::from_secs(10);
/// A hold that failed by what may be over a moment later is tried once more.
const HOLD_ATTEMPTS: u32 = 2;
/// Between the two.
const HOLD_PAUSE: Duration = Duration::from_secs(1);
/// Between two branches of one parent its clients go on for as long as they were held, and at most for so
/// long: 20 branches at once are no standstill.
const REST_MAX: Duration = Duration::from_secs(2);

const UNREACHABLE: &str = "the database server could not be reached; resume this branch later";
/// For the user of a branch whose time is over; it may be one that was reset, and has data.
pub(crate) const TOO_LONG: &str = "the copy, with its wait in the queue, took longer than it may; resume this branch when less is going on, or give it more time (--timeout; in the API timeout_seconds): reset it again, or, if it has no data yet, delete it and create it again";

/// Why a branch has no data yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// There is nothing to copy any more.
    #[error("the parent is gone")]
    ParentGone,
    /// It is being made, or reset.
    #[error("the parent is not ready")]
    ParentNotReady,
    /// Only one way is left, and this node does not have it.
    #[error("{0}, and this node has no pg_dump to copy beside them")]
    InUse(String),
    /// Its time is over.
    #[error("the copy took longer than it may")]
    TooLong,
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl CopyError {
    /// Whether trying again by itself is useless.
    pub(crate) fn is_final(&self, attempts: i32) -> bool {
        match self {
            Self::ParentGone | Self::InUse(_) | Self::TooLong => true,
            Self::ParentNotReady | Self::Catalog(_) => false,
            // The first failure may be a lock that was waited for.
            Self::Node(NodeError::Program { .. }) => attempts > 0,
            Self::Node(error) => !error.is_temporary(),
        }
    }

    /// For metrics.
    fn word(&self) -> &'static str {
        match self {
            Self::ParentGone => "parent_gone",
            Self::ParentNotReady => "parent_not_ready",
            Self::InUse(_) => "in_use",
            Self::TooLong => "too_long",
            Self::Catalog(_) => "catalog",
            Self::Node(_) => "node",
        }
    }

    /// For the user: what happened and what to do. Names no node.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::ParentGone => {
                "the parent was deleted before it was copied; undelete it and resume this branch, or delete the branch"
                    .to_owned()
            }
            Self::ParentNotReady => {
                "the parent was not ready to be copied; resume this branch when the parent is ACTIVE".to_owned()
            }
            Self::InUse(_) => format!(
                "{self}; disconnect the parent's clients and resume this branch, or ask your operator"
            ),
            Self::TooLong => TOO_LONG.to_owned(),
            Self::Catalog(_) => "the catalog did not answer; resume this branch".to_owned(),
            Self::Node(NodeError::Unreachable { .. }) => UNREACHABLE.to_owned(),
            Self::Node(error) if error.is_unreachable() => UNREACHABLE.to_owned(),
            Self::Node(NodeError::Busy { .. }) => {
                "the database server was too busy; resume this branch later".to_owned()
            }
            Self::Node(NodeError::Program { words, .. }) => format!(
                "the parent was in use and could not be copied beside its sessions ({words}); resume this branch when no session is open in the parent"
            ),
            Self::Node(NodeError::Conflict { what, .. }) => format!(
                "{what}; resume this branch when no session is open in the parent, or ask your operator"
            ),
            Self::Node(NodeError::Refused { code, .. }) => format!(
                "the database server refused ({code}); resume this branch, or ask your operator"
            ),
        }
    }
}

/// Parents that are being copied: one after another, so that one branch does not find the session of
/// another one's copy in its way.
#[derive(Default)]
pub(crate) struct Sources(Mutex<HashMap<TenantId, Arc<tokio::sync::Mutex<()>>>>);

impl Sources {
    async fn turn(&self, parent: &TenantId) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| Arc::strong_count(lock) > 1);
            all.entry(parent.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

/// Makes the database `pid` of the branch `id`, closed. One that is complete already is left.
pub(crate) async fn run(
    app: &Arc<App>,
    id: &TenantId,
    pid: &Pid,
    wanted: &Wanted,
) -> Result<Copied, CopyError> {
    if wanted.left.is_zero() {
        return Err(CopyError::TooLong);
    }
    let copy = async {
        if wanted.source.is_some() && app.node.is_complete(pid).await? {
            return Ok(Copied {
                path: ClonePath::Existing,
                reason: None,
                size_bytes: app.node.database_bytes(pid).await?,
                held: Duration::ZERO,
                took: Duration::ZERO,
            });
        }
        let turn = app.sources.turn(&wanted.parent).await;
        let source = source(app, id, &wanted.parent).await?;
        {
            let client = app.catalog.get().await?;
            store::set_source(&client, id, &source).await?;
        }
        if wanted.schema_only {
            return stream(app, pid, &source, Content::SchemaOnly, wanted.left).await;
        }
        let mut held = Duration::ZERO;
        let copied = files(app, pid, &source, wanted, &mut held).await;
        match copied {
            Ok(copied) => {
                tokio::spawn(async move {
                    sleep(held.min(REST_MAX)).await;
                    drop(turn);
                });
                Ok(copied)
            }
            Err(NotQuiet::InUse(why)) if app.node.can_stream() => {
                tracing::info!(branch = %id, parent = %wanted.parent, why, "a parent is in use; it is copied through a dump");
                let copied = stream(app, pid, &source, Content::All, wanted.left).await?;
                Ok(Copied {
                    reason: Some(why),
                    held,
                    ..copied
                })
            }
            Err(NotQuiet::InUse(why)) => Err(CopyError::InUse(why)),
            Err(NotQuiet::Node(error)) => Err(error.into()),
            Err(NotQuiet::Catalog(error)) => Err(error.into()),
        }
    };
    let result = timeout(wanted.left, copy).await;
    let result = result.unwrap_or(Err(CopyError::TooLong));
    match &result {
        // An earlier attempt made it.
        Ok(copied) if copied.path == ClonePath::Existing => {}
        Ok(copied) => {
            let path = copied.path.as_str();
            app.counted.copy(path, copied.took, copied.size_bytes);
        }
        Err(error) => app.counted.copy_failed(error.word()),
    }
    result
}

/// Where the parent's data is. A deleted parent's is there until its retention ends.
async fn source(app: &App, branch: &TenantId, parent: &TenantId) -> Result<Pid, CopyError> {
    let client = app.catalog.get().await?;
    let source = store::source(&client, branch, parent)
        .await?
        .ok_or(CopyError::ParentGone)?;
    match (source.state, source.stage) {
        (
            TenantState::Active
            | TenantState::Suspended
            | TenantState::Disabling
            | TenantState::Disabled,
            Stage::Closed | Stage::Opening | Stage::Open,
        ) => Ok(source.pid),
        (TenantState::Creating | TenantState::Cloning, _) => Err(CopyError::ParentNotReady),
        (
            TenantState::Active
            | TenantState::Suspended
            | TenantState::Disabling
            | TenantState::Disabled
            | TenantState::CreateFailed,
            _,
        ) => Err(CopyError::ParentGone),
    }
}

/// Why files were not copied.
enum NotQuiet {
    InUse(String),
    Node(NodeError),
    Catalog(CatalogError),
}

impl From<NodeError> for NotQuiet {
    fn from(error: NodeError) -> Self {
        if error.is_source_in_use() {
            return Self::InUse("a session came back while the parent was copied".to_owned());
        }
        // The server's own bound on the copy.
        match &error {
            NodeError::Refused { code, .. } if code == "57014" => Self::InUse(
                "copying the parent's files took too long to let its clients wait".to_owned(),
            ),
            _ => Self::Node(error),
        }
    }
}

/// `waited` grows by the time for which the parent's clients were kept waiting, also in vain.
async fn files(
    app: &Arc<App>,
    pid: &Pid,
    source: &Pid,
    wanted: &Wanted,
    waited: &mut Duration,
) -> Result<Copied, NotQuiet> {
    // A checkpoint, where the way begins with one: nobody waits for it yet.
    app.node
        .prepare_copy(&Template::Copy(source.clone()))
        .await?;
    let (held, began) = hold(app, &wanted.parent, waited).await?;
    let within = held.left().min(FILES_TIME_MAX).min(wanted.left);
    // While PostgreSQL copies, whoever connects waits: a hold that ends early spoils nothing.
    let report = app.node.copy_database(pid, source, within).await;
    if let Err(error) = held.release().await {
        tracing::warn!(parent = %wanted.parent, error = %chain(&error), "a hold ends by itself");
    }
    *waited += began.elapsed();
    let report = report?;
    Ok(Copied {
        path: report.path,
        reason: None,
        size_bytes: app.node.database_bytes(pid).await?,
        held: *waited,
        took: report.took,
    })
}

/// Keeps the parent's clients waiting; says also since when. What kept the parent in use for the whole bound
/// is not waited for again where there is another way: that would only stall its clients once more.
async fn hold(
    app: &Arc<App>,
    parent: &TenantId,
    waited: &mut Duration,
) -> Result<(hold::Held, Instant), NotQuiet> {
    let mut attempt = 1;
    loop {
        let began = Instant::now();
        let held = hold::take(app, parent, HOLD_DRAIN_MAX).await;
        if held.is_err() {
            *waited += began.elapsed();
        }
        match held {
            Ok(held) => return Ok((held, began)),
            Err(HoldError::Catalog(error)) => return Err(NotQuiet::Catalog(error)),
            Err(HoldError::Node(error)) => return Err(error.into()),
            Err(HoldError::Kept(kept))
                if kept.may_pass && attempt < HOLD_ATTEMPTS && !app.node.can_stream() =>
            {
                attempt += 1;
                sleep(HOLD_PAUSE).await;
            }
            Err(
                HoldError::Taken
                | HoldError::Connected { .. }
                | HoldError::Silent { .. }
                | HoldError::Over,
            ) if attempt < HOLD_ATTEMPTS => {
                attempt += 1;
                sleep(HOLD_PAUSE).await;
            }
            Err(
                error @ (HoldError::Kept(_)
                | HoldError::Taken
                | HoldError::Connected { .. }
                | HoldError::Silent { .. }
                | HoldError::Over),
            ) => return Err(NotQuiet::InUse(error.to_string())),
        }
    }
}

async fn stream(
    app: &App,
    pid: &Pid,
    source: &Pid,
    content: Content,
    left: Duration,
) -> Result<Copied, CopyError> {
    let began = Instant::now();
    app.node.stream_copy(pid, source, content, left).await?;
    Ok(Copied {
        path: ClonePath::Stream,
        reason: None,
        size_bytes: app.node.database_bytes(pid).await?,
        held: Duration::ZERO,
        took: began.elapsed(),
    })
}
