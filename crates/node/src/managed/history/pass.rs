//! The passes that keep a history: one takes in the log and removes what is not needed, or cannot be afforded;
//! one makes base backups, which may take long.
//!
//! What should be there is decided in `trim`. Dropped in the middle of anything, the next start goes on.

use std::{
    fs::{self, File},
    io,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, timeout};

use super::{
    History, HistoryState,
    base::{self, BaseError},
    copy::{self, blocking},
    trim::{self, Base, Room},
    wal::{self, PackError, Segment},
};
use crate::Node;

/// Segments that may wait for the archiver: 4 GB, what the server keeps of its log anyway (`max_wal_size`).
const WAITING_MAX: usize = 256;
/// How long nothing is tried after there was no room.
const ROOM_AFTER: Duration = Duration::from_secs(600);
/// The same after a base failed.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// What a base may take beside the bytes of its files.
const BASE_SLACK: u64 = 64 << 20;
const STEP: &str = "look at the history";

/// Keeps the history, for ever.
pub(crate) async fn keep(node: Node, history: Arc<History>) {
    while !history.went_well(history.must_be_of(&node).await).await {}
    let log = async {
        loop {
            history.went_well(history.look_after_log().await).await;
        }
    };
    let bases = async {
        loop {
            history.went_well(history.base_if_due(&node).await).await;
        }
    };
    tokio::join!(log, bases);
}

impl History {
    /// Says what failed, and waits until it is time to look again.
    async fn went_well(&self, done: Result<(), BaseError>) -> bool {
        if let Err(error) = &done {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "the history of the node was not looked after"
            );
        }
        let _ = timeout(self.config.look_every, self.wake.notified()).await;
        done.is_ok()
    }

    /// After the cluster was replaced by another one, nothing of its predecessor is of any use.
    async fn must_be_of(&self, node: &Node) -> Result<(), BaseError> {
        const SYSTEM: &str = "SELECT system_identifier::text FROM pg_control_system()";
        let Some(newest) = self.bases().pop() else {
            return Ok(());
        };
        let lease = node.lease(STEP).await?;
        let rows = node.rows(&lease, STEP, SYSTEM, &[]).await?;
        lease.give_back();
        let system: Option<String> = rows.first().map(|row| row.get(0));
        if system != base::system(&self.files.bases(), &newest.name) {
            self.forget("it is that of another server").await?;
        }
        Ok(())
    }

    async fn look_after_log(&self) -> Result<(), BaseError> {
        let (from, to) = (self.files.wal(), self.files.packed());
        let packed = tokio::task::spawn_blocking(move || wal::pack(&from, &to)).await;
        match packed {
            Ok(Ok(0)) => {}
            Ok(Ok(_)) => self.tell(|status| status.archived_at = Some(SystemTime::now())),
            Ok(Err(PackError::Io(error))) => return Err(error.into()),
            Ok(Err(PackError::Other)) => self.forget("the log is not that of the server").await?,
            Err(error) => return Err(io::Error::other(error).into()),
        }
        if !self.files.discard().exists() {
            self.trim().await?;
        }
        self.look().await
    }

    async fn trim(&self) -> Result<(), BaseError> {
        loop {
            let (segments, bases) = (wal::list(&self.files.packed())?, self.bases());
            let worthless = trim::before_a_hole(&segments, &bases);
            if worthless > 0 {
                tracing::warn!(
                    bases = worthless,
                    "a part of the archived log is missing; what lies before it was removed"
                );
            }
            let old = trim::too_old(&bases, SystemTime::now(), self.config.keep);
            let (free, total) = self.files.free_bytes()?;
            let waiting = wal::waiting(&self.files.cluster);
            let room = trim::room(free, self.floor(total), bases.len(), waiting, WAITING_MAX);
            let go = match room {
                Room::Enough => worthless.max(old),
                Room::DropOldest => {
                    tracing::warn!(
                        free,
                        "the disk fills: the oldest part of the history was removed"
                    );
                    worthless.max(old).max(1)
                }
                Room::GiveUp => return self.give_up(free, waiting).await,
            };
            self.remove_bases(&bases[..go]).await?;
            let unneeded = trim::unneeded(&segments, &self.bases());
            self.remove_segments(&segments[..unneeded]).await?;
            if room == Room::Enough {
                return Ok(());
            }
        }
    }

    async fn remove_bases(&self, bases: &[Base]) -> io::Result<()> {
        if bases.is_empty() {
            return Ok(());
        }
        let _alone = self.in_use.write().await;
        self.bases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|base| !bases.contains(base));
        self.is_measured.store(false, Ordering::Relaxed);
        let dir = self.files.bases();
        let names: Vec<String> = bases.iter().map(|base| base.name.clone()).collect();
        blocking(move || names.iter().try_for_each(|name| base::remove(&dir, name))).await
    }

    async fn remove_segments(&self, segments: &[(Segment, u64)]) -> io::Result<()> {
        if segments.is_empty() {
            return Ok(());
        }
        let _alone = self.in_use.write().await;
        let packed = self.files.packed();
        let gone: Vec<Segment> = segments
            .iter()
            .map(|(segment, _)| segment.clone())
            .collect();
        blocking(move || {
            gone.iter()
                .try_for_each(|segment| wal::remove(segment, &packed))
        })
        .await
    }

    /// From here on the archiver throws away, and nothing that was kept leads to later moments.
    async fn give_up(&self, free: u64, waiting: usize) -> Result<(), BaseError> {
        File::create(self.files.discard())?.sync_all()?;
        File::open(&self.files.root)?.sync_all()?;
        self.try_after(ROOM_AFTER);
        let why = match waiting > WAITING_MAX {
            true => "the archive does not take what the server hands over",
            false => "the disk is too full for it",
        };
        tracing::error!(
            free,
            waiting,
            why,
            "moments in time cannot be recovered for now"
        );
        self.forget(why).await
    }

    fn try_after(&self, wait: Duration) {
        let mut retry_at = self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        *retry_at = Some(Instant::now() + wait);
    }

    async fn forget(&self, why: &str) -> Result<(), BaseError> {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        let (bases, segments) = (self.bases(), wal::list(&self.files.packed())?);
        tracing::warn!(
            why,
            bases = bases.len(),
            segments = segments.len(),
            "the history of the node was thrown away"
        );
        self.remove_bases(&bases).await?;
        self.remove_segments(&segments).await?;
        for entry in fs::read_dir(self.files.wal())?.flatten() {
            // The archiver may be writing one just now.
            let _ = fs::remove_file(entry.path());
        }
        self.tell(|status| status.given_up += 1);
        Ok(())
    }

    async fn base_if_due(&self, node: &Node) -> Result<(), BaseError> {
        let newest = self.bases().pop();
        let is_due = newest
            .as_ref()
            .is_none_or(|base| base.finished + self.config.base_every <= SystemTime::now());
        let retry_at = *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_due || retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let wanted = base::wanted(&self.files.cluster, &self.files.bases(), newest.as_ref());
        let asked = wanted.clone();
        let bytes = match self.can_share {
            true => 0,
            false => blocking(move || Ok(copy::bytes_to_write(&asked))).await?,
        };
        if let Some((needed, left)) = self.has_room_for(bytes + BASE_SLACK)? {
            tracing::warn!(
                needed,
                left,
                "there is no room for a base backup of the node"
            );
            self.try_after(ROOM_AFTER);
            // Without a base the log is of no use.
            return match newest.is_none() && !self.files.discard().exists() {
                true => self.give_up(left, 0).await,
                false => Ok(()),
            };
        }
        // What is handed over from here on is kept.
        match fs::remove_file(self.files.discard()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let forgotten = self.forgotten.load(Ordering::Relaxed);
        match node
            .take_base(&self.files.bases(), wanted, newest.is_none())
            .await
        {
            // A part of the log that it needs may be among what was thrown away.
            Ok(base) if self.forgotten.load(Ordering::Relaxed) != forgotten => {
                let bases = self.files.bases();
                Ok(blocking(move || base::remove(&bases, &base.name)).await?)
            }
            Ok(base) => {
                self.bases
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(base);
                self.is_measured.store(false, Ordering::Relaxed);
                self.wake.notify_waiters();
                Ok(())
            }
            Err(error) => {
                self.try_after(RETRY_AFTER);
                self.tell(|status| status.base_failures += 1);
                Err(error)
            }
        }
    }

    /// What there is now. Walking through the bases is done when they changed.
    async fn look(&self) -> Result<(), BaseError> {
        if !self.is_measured.swap(true, Ordering::Relaxed) {
            let dirs = vec![self.files.bases()];
            let bytes = blocking(move || Ok(copy::disk_bytes(&dirs))).await?;
            self.tell(|status| status.base_bytes = bytes);
        }
        let (bases, segments) = (self.bases(), wal::list(&self.files.packed())?);
        let waiting = wal::waiting(&self.files.cluster);
        let is_given_up = self.files.discard().exists();
        self.tell(|status| {
            status.oldest = bases.first().map(|base| base.finished);
            status.bases = bases.len();
            status.segments = segments.len();
            status.log_bytes = segments.iter().map(|(_, bytes)| bytes).sum();
            status.waiting = waiting;
            status.state = match (is_given_up, bases.is_empty()) {
                (true, _) => HistoryState::GivenUp,
                (false, true) => HistoryState::Beginning,
                (false, false) => HistoryState::Kept,
            };
        });
        Ok(())
    }
}
