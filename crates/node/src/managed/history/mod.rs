//! What the node was at any second of the last hours: base backups ([`base`]) and the archived log ([`wal`]).
//!
//! Owns: its directory beside the cluster, the pass that keeps it, and that it never takes the room or the time
//! of the server: before the disk is full, the oldest of it goes, and in the end all of it. Does not own:
//! becoming a moment again ([`super::moment`]).
//!
//! ```text
//! <base>/history/      ours; PostgreSQL's user may pass through
//!   wal/               what the archiver hands over; PostgreSQL's user
//!   packed/            the same, compressed
//!   base/<when>/       a base backup: data/, backup_label, facts
//!   discard            nothing is kept: the archiver throws away
//! ```
//!
//! Decision: docs/decisions/2026-11-22-point-in-time.md.

mod base;
mod copy;
mod pass;
mod trim;
pub(crate) mod wal;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, OwnedMutexGuard},
    time::Instant,
};

pub(crate) use self::pass::keep;
use self::{copy::blocking, trim::Base, wal::Segment};
use super::{
    ManagedError, io_error,
    machine::probe_reflink,
    place::{Place, chown, make_dir, own, set_mode},
    user::RunAs,
};

/// Bytes a second that a recovery writes: somebody waits for it.
const RECOVERY_PACE: u64 = 256 << 20;

/// How a history is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HistoryConfig {
    /// How far back every moment can be recovered. 24 h.
    pub keep: Duration,
    /// Between two base backups. 12 h: a recovery replays 12 hours of the log at most, and where blocks cannot
    /// be shared, what changed is written twice a day.
    pub base_every: Duration,
    /// Bytes of the disk that it leaves free; a tenth of it, between 1 and 20 GB, when `None`.
    pub free_bytes_min: Option<u64>,
    /// Between two looks at what arrived. 5 s: what lies unpacked stays below the log of that time.
    pub look_every: Duration,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(24 * 3600),
            base_every: Duration::from_secs(12 * 3600),
            free_bytes_min: None,
            look_every: Duration::from_secs(5),
        }
    }
}

/// Whether moments can be had.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HistoryState {
    /// The first base backup is being made.
    #[default]
    Beginning,
    /// From [`HistoryStatus::oldest`] on until now.
    Kept,
    /// There is no room, or the archive does not take what the server hands over: nothing is kept for now.
    GivenUp,
}

impl HistoryState {
    /// As programs are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Beginning => "beginning",
            Self::Kept => "kept",
            Self::GivenUp => "given_up",
        }
    }
}

/// What there is, and what it costs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HistoryStatus {
    /// See there.
    pub state: HistoryState,
    /// The first moment that can be recovered.
    pub oldest: Option<SystemTime>,
    /// Base backups.
    pub bases: usize,
    /// Their size on the disk, what they share counted once. On a file system whose files share blocks with
    /// the cluster it is less.
    pub base_bytes: u64,
    /// Size of the archived log on the disk.
    pub log_bytes: u64,
    /// Segments in it, of 16 MB before they were packed.
    pub segments: usize,
    /// Segments that the server could not hand over yet.
    pub waiting: usize,
    /// When the last segment arrived.
    pub archived_at: Option<SystemTime>,
    /// Base backups that failed since the start.
    pub base_failures: u64,
    /// How often all of it was thrown away since the start.
    pub given_up: u64,
}

/// Where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    root: PathBuf,
    cluster: PathBuf,
}

impl Files {
    fn wal(&self) -> PathBuf {
        self.root.join("wal")
    }

    fn packed(&self) -> PathBuf {
        self.root.join("packed")
    }

    fn bases(&self) -> PathBuf {
        self.root.join("base")
    }

    fn discard(&self) -> PathBuf {
        self.root.join(wal::DISCARD)
    }

    fn free_bytes(&self) -> io::Result<(u64, u64)> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok((
            found.f_bavail * found.f_frsize,
            found.f_blocks * found.f_frsize,
        ))
    }
}

/// The history of a node.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) files: Files,
    config: HistoryConfig,
    pub(crate) user: Option<RunAs>,
    pub(crate) can_share: bool,
    status: Mutex<HistoryStatus>,
    bases: Mutex<Vec<Base>>,
    wake: Notify,
    /// Held while a base is cloned: it must not go.
    in_use: tokio::sync::RwLock<()>,
    /// No base is tried before.
    retry_at: Mutex<Option<Instant>>,
    /// How often all of it was thrown away: a base that was begun before is worth nothing.
    forgotten: AtomicU64,
    /// The size of the bases is known.
    is_measured: AtomicBool,
}

/// A base to recover from, and the part of the log that follows it.
#[derive(Debug)]
pub(crate) struct Begin {
    base: Base,
    pub(crate) segments: Vec<Segment>,
}

/// Where the history of `place` is, whether one is kept or not.
pub(crate) fn root(place: &Place) -> PathBuf {
    place.base.join("history")
}

/// None is kept: what there was leads nowhere, since the log has a hole from now on.
pub(crate) fn remove(place: &Place) -> Result<(), ManagedError> {
    let root = root(place);
    if root.exists() {
        tracing::warn!(history = %root.display(), "no history is kept any more; what there was is removed");
    }
    base::remove_dir(&root).map_err(|error| io_error("remove", &root, error))
}

impl History {
    /// Makes its directories, and removes what an interrupted pass left.
    pub(crate) fn open(
        place: &Place,
        config: HistoryConfig,
        user: Option<&RunAs>,
    ) -> Result<Self, ManagedError> {
        let files = Files {
            root: root(place),
            cluster: place.cluster(),
        };
        make_dir(&files.root, 0o700)?;
        if let Some(user) = user {
            chown(&files.root, None, Some(user.gid))?;
            set_mode(&files.root, 0o710)?;
        }
        for dir in [files.wal(), files.packed(), files.bases()] {
            make_dir(&dir, 0o700)?;
        }
        own(&files.wal(), user)?;
        let failed = |error| io_error("read the history in", &files.root, error);
        base::clean(&files.bases()).map_err(failed)?;
        let bases = base::list(&files.bases()).map_err(failed)?;
        // As the first look will find it.
        let status = HistoryStatus {
            state: match (files.discard().exists(), bases.is_empty()) {
                (true, _) => HistoryState::GivenUp,
                (false, true) => HistoryState::Beginning,
                (false, false) => HistoryState::Kept,
            },
            oldest: bases.first().map(|base| base.finished),
            bases: bases.len(),
            ..HistoryStatus::default()
        };
        Ok(Self {
            can_share: probe_reflink(&files.root).unwrap_or(false),
            files,
            config,
            user: user.cloned(),
            status: Mutex::new(status),
            bases: Mutex::new(bases),
            wake: Notify::new(),
            in_use: tokio::sync::RwLock::default(),
            retry_at: Mutex::default(),
            forgotten: AtomicU64::new(0),
            is_measured: AtomicBool::new(false),
        })
    }

    /// Where the archiver puts what it is told to.
    pub(crate) fn root(&self) -> &Path {
        &self.files.root
    }

    pub(crate) fn status(&self) -> HistoryStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn bases(&self) -> Vec<Base> {
        self.bases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn tell(&self, change: impl FnOnce(&mut HistoryStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Bytes that have to stay free.
    pub(crate) fn floor(&self, total: u64) -> u64 {
        self.config
            .free_bytes_min
            .unwrap_or_else(|| trim::floor(total))
    }

    /// Whether so much more can be written.
    pub(crate) fn has_room_for(&self, bytes: u64) -> io::Result<Option<(u64, u64)>> {
        let (free, total) = self.files.free_bytes()?;
        let floor = self.floor(total);
        Ok((free < floor.saturating_add(bytes)).then(|| (bytes, free.saturating_sub(floor))))
    }

    /// Whether this segment has arrived; it is looked at soon.
    pub(crate) fn has_arrived(&self, segment: &Segment) -> bool {
        let is_packed = wal::list(&self.files.packed())
            .is_ok_and(|found| found.iter().any(|(own, _)| own == segment));
        self.wake.notify_waiters();
        is_packed
    }

    /// The newest base before `moment`, and what follows it up to `last`.
    pub(crate) fn begin(&self, moment: SystemTime, last: &Segment) -> io::Result<Option<Begin>> {
        let base = self
            .bases()
            .into_iter()
            .rfind(|base| base.finished <= moment);
        let Some(base) = base else { return Ok(None) };
        let segments = wal::list(&self.files.packed())?;
        let segments = segments
            .into_iter()
            .map(|(segment, _)| segment)
            .filter(|segment| (&base.start..=last).contains(&segment))
            .collect();
        Ok(Some(Begin { base, segments }))
    }

    /// Databases that a recovery of `database` can do without: all but it and ours, if it was there when the
    /// base was begun. One that was made later may be a copy of any other.
    pub(crate) fn hollow(&self, begin: &Begin, database: &str) -> HashSet<u32> {
        /// The first oid of what is not PostgreSQL's own.
        const FIRST: u32 = 16_384;
        let databases: HashMap<String, u32> =
            base::databases(&self.files.bases(), &begin.base.name);
        if !databases.contains_key(database) {
            return HashSet::new();
        }
        let is_needed = |name: &str| name == database || name == crate::CATALOG_DATABASE;
        databases
            .into_iter()
            .filter(|(name, oid)| !is_needed(name) && *oid >= FIRST)
            .map(|(_, oid)| oid)
            .collect()
    }

    /// Makes `to` what the server was when the base was made, with the log that leads on. Returns the bytes that
    /// were written. `None`: it was not begun, for there is no room; says how much it needs, and how much there is.
    pub(crate) async fn clone_to(
        &self,
        begin: &Begin,
        hollow: HashSet<u32>,
        to: &Path,
        turn: &Arc<OwnedMutexGuard<()>>,
    ) -> io::Result<Result<u64, (u64, u64)>> {
        let _kept = self.in_use.read().await;
        let dir = base::dir(&self.files.bases(), &begin.base.name);
        let wanted = copy::Wanted {
            from: dir.join("data"),
            to: to.to_owned(),
            earlier: None,
            hollow,
            owner: self.user.clone(),
        };
        let log_bytes = begin.segments.len() as u64 * wal::SEGMENT_BYTES;
        let own = match self.can_share {
            true => 0,
            false => {
                let wanted = wanted.clone();
                blocking(move || Ok(copy::bytes_to_write(&wanted))).await?
            }
        };
        if let Some(lack) = self.has_room_for(own + log_bytes)? {
            return Ok(Err(lack));
        }
        let copied = copy::copy(wanted, RECOVERY_PACE, turn.clone()).await?;
        let label = std::fs::read(dir.join(base::LABEL))?;
        io::Write::write_all(
            &mut copy::make(&to.join(base::LABEL), self.user.as_ref())?,
            &label,
        )?;
        // One after another: whoever gives up waits for one at most.
        for segment in begin.segments.clone() {
            let (packed, to) = (self.files.packed(), to.join("pg_wal"));
            let (owner, turn) = (self.user.clone(), turn.clone());
            blocking(move || {
                let _turn = turn;
                wal::unpack(&segment, &packed, &to, owner.as_ref())
            })
            .await?;
        }
        Ok(Ok(copied.copied_bytes + log_bytes))
    }
}
