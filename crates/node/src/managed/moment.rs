//! A moment of the node, recovered in a server of its own beside it, and thrown away when it was looked at.
//!
//! Owns: that server, from cloning a base backup to its removal. At most one at a time. Does not own: the
//! history it is made of ([`super::history`]), or what is read from it.
//!
//! Nobody but us reaches it: it has a socket in a directory of its own, the node's own rules for who may log in,
//! and runs nothing of a tenant's by itself: no autovacuum, no workers of extensions or subscriptions.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicU32},
    time::{Duration, SystemTime},
};

use model::{
    Pid, Secret,
    route::{NodeAddress, NodeTarget, NodeTls},
};
use rustix::process::{Signal, kill_process};
use tokio::{
    process::Child,
    sync::OwnedMutexGuard,
    time::{Instant, timeout_at},
};
use tokio_postgres::{Config, config::SslMode};

use super::{
    HistoryStatus, ManagedError, SUPERUSER, cluster,
    history::{Begin, History, wal::Segment},
    log::Tail,
    orphan,
    place::{chown, make_dir, own, set_mode},
    server::{Launch, READY_POLL, id, words},
    socket::SocketDir,
};
use crate::{
    Node, NodeError,
    handle::{ManagedFacts, NodeParts},
    tls,
};

const STEP: &str = "recover a moment";
/// How long the server may take to hand over the segment that it writes.
const ARCHIVED_MAX: Duration = Duration::from_secs(120);
const ARCHIVED_POLL: Duration = Duration::from_millis(50);
/// Memory of its cache: of the machine's, which belongs to the node, but replaying goes through it.
const SHARED_BUFFERS: &str = "128MB";
/// Between two looks at whether what was given up is still being written.
const WRITTEN_POLL: Duration = Duration::from_millis(20);
/// How long it may take to end at once. It writes nothing.
const END_MAX: Duration = Duration::from_secs(10);

/// Why a moment was not recovered.
#[derive(Debug, thiserror::Error)]
pub enum MomentError {
    /// Nobody keeps a history of this node.
    #[error("no history of this node is kept")]
    NotKept,
    /// It lies before what is kept, or after now.
    #[error("this moment is not among those that can be recovered")]
    Unknown {
        /// The first that can be.
        oldest: Option<SystemTime>,
    },
    /// The disk has no room for it beside the node.
    #[error("recovering this moment needs {needed} bytes of disk, and {left} may be used")]
    NoRoom {
        /// What it would write.
        needed: u64,
        /// What there is, without what has to stay free.
        left: u64,
    },
    /// The server did not hand over its log, or the moment did not come up, in time.
    #[error("the moment was not recovered within {0:?}")]
    TooLong(Duration),
    /// PostgreSQL did not get there; its last words.
    #[error("PostgreSQL could not recover this moment: {0}")]
    Failed(String),
    /// The file system refused.
    #[error("the files of a recovery")]
    Io(#[from] io::Error),
    /// Starting the server beside.
    #[error(transparent)]
    Managed(#[from] ManagedError),
    /// A statement on the node failed.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Whoever has it writes where moments are recovered, and nobody else does.
type Turn = Arc<OwnedMutexGuard<()>>;

/// A recovery that is being made. Dropped before [`Self::done`], what it made is removed, once nothing writes there; then the
/// next one has its turn.
struct Making {
    base: PathBuf,
    turn: Option<Turn>,
}

impl Making {
    fn done(mut self) {
        self.turn = None;
    }

    /// Removes what was made.
    async fn undo(mut self) -> Result<(), ManagedError> {
        let removed = match &self.turn {
            Some(turn) => remove(&self.base, turn).await,
            None => Ok(()),
        };
        self.turn = None;
        removed
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        // Without a runtime the process ends, and the next start cleans.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let base = std::mem::take(&mut self.base);
        runtime.spawn(async move {
            if let Err(error) = remove(&base, &turn).await {
                tracing::warn!(%error, "what was recovered of a moment is removed later");
            }
        });
    }
}

/// Removes what was recovered, when nobody but the caller has the turn any more: a write that was begun ends by itself.
async fn remove(base: &Path, turn: &Turn) -> Result<(), ManagedError> {
    while Arc::strong_count(turn) > 1 {
        tokio::time::sleep(WRITTEN_POLL).await;
    }
    clean(base).await
}

/// What recovering needs besides the history.
#[derive(Clone)]
pub(crate) struct Moments {
    base: PathBuf,
    password: Secret,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl std::fmt::Debug for Moments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moments").finish_non_exhaustive()
    }
}

impl Moments {
    pub(crate) fn new(base: &Path, password: Secret) -> Self {
        Self {
            base: base.to_owned(),
            password,
            turn: Arc::default(),
        }
    }
}

fn dir(base: &Path) -> PathBuf {
    base.join("moment")
}

/// Ends and removes what an earlier process left.
pub(crate) async fn clean(base: &Path) -> Result<(), ManagedError> {
    let dir = dir(base);
    if !dir.exists() {
        return Ok(());
    }
    orphan::stop(&dir.join("data")).await?;
    let removed = dir.clone();
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(removed)).await;
    removed
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| super::io_error("remove", &dir, error))
}

/// The node as it was, until this is thrown away. Dropped, the server ends; its files go before the next one.
#[derive(Debug)]
pub struct Recovered {
    server: Server,
    base: PathBuf,
    _turn: Turn,
}

#[derive(Debug)]
struct Server {
    node: Node,
    child: Ending,
    /// The database beside which the others are hollow.
    only: Option<Pid>,
    wrote_bytes: u64,
    /// Its socket's directory goes with it.
    _launch: Launch,
}

/// Ends when it is dropped.
#[derive(Debug)]
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(pid) = id(&self.0) {
            // Not reaped yet, so the number is still its own.
            let _ = kill_process(pid, Signal::QUIT);
        }
    }
}

impl Recovered {
    /// To be read from. Nothing that is done to it lasts.
    pub fn node(&self) -> Node {
        self.server.node.clone()
    }

    /// Whether only the database that was asked for, and the catalog, have their contents.
    pub fn is_partial(&self) -> bool {
        self.server.only.is_some()
    }

    /// Whether the database of `pid` has its contents.
    pub fn has(&self, pid: &Pid) -> bool {
        self.server.only.as_ref().is_none_or(|only| only == pid)
    }

    /// Bytes that recovering wrote to the disk.
    pub fn wrote_bytes(&self) -> u64 {
        self.server.wrote_bytes
    }

    /// Ends the server and removes its files.
    ///
    /// # Errors
    ///
    /// Those of the file system; the next recovery, or the next start, removes what is left.
    pub async fn throw_away(mut self) -> Result<(), MomentError> {
        end(&mut self.server.child.0).await;
        Ok(clean(&self.base).await?)
    }
}

impl Node {
    /// What is kept of this node's past; `None`: nothing.
    pub fn history(&self) -> Option<HistoryStatus> {
        let managed = self.shared.parts.managed.as_ref()?;
        Some(managed.history.as_ref()?.status())
    }

    /// Makes the node what it was at `moment`, in a server of its own: all that was committed by then, and
    /// nothing that was committed later. Waits for its turn: there is one at a time. With the database of
    /// `wanted`, others need not be copied, and are [not usable](Recovered::is_partial) then.
    ///
    /// Safe to cancel: what was made is removed, and the next recovery waits for that.
    ///
    /// # Errors
    ///
    /// [`MomentError`]. Nothing of it is left.
    pub async fn recover(
        &self,
        moment: SystemTime,
        wanted: Option<&Pid>,
        within: Duration,
    ) -> Result<Recovered, MomentError> {
        let facts = self
            .shared
            .parts
            .managed
            .as_ref()
            .ok_or(MomentError::NotKept)?;
        let history = facts.history.clone().ok_or(MomentError::NotKept)?;
        let until = Instant::now() + within;
        let too_long = |_| MomentError::TooLong(within);
        let turn = facts.moments.turn.clone().lock_owned();
        let turn = Arc::new(timeout_at(until, turn).await.map_err(too_long)?);
        let making = Making {
            base: facts.moments.base.clone(),
            turn: Some(turn.clone()),
        };
        let base = &facts.moments.base;
        clean(base).await?;
        let begun = Instant::now();
        let recovered = async {
            let last = self.hand_over(&history, moment).await?;
            let unknown = || MomentError::Unknown {
                oldest: history.status().oldest,
            };
            let begin = history.begin(moment, &last)?.ok_or_else(unknown)?;
            let hollow = wanted.map(|pid| history.hollow(&begin, &pid.database()));
            let hollow = hollow.unwrap_or_default();
            let only = wanted.filter(|_| !hollow.is_empty());
            let recovery = Recovery {
                node: self,
                facts,
                history: &history,
                begin: &begin,
                moment,
                turn,
            };
            recovery.make(hollow, only.cloned()).await
        };
        let recovered = timeout_at(until, recovered).await;
        match recovered.map_err(too_long).flatten() {
            Ok((server, turn)) => {
                making.done();
                tracing::info!(
                    took_ms = begun.elapsed().as_millis(),
                    wrote_bytes = server.wrote_bytes,
                    partial = server.only.is_some(),
                    "recovered a moment of the node"
                );
                Ok(Recovered {
                    server,
                    base: base.clone(),
                    _turn: turn,
                })
            }
            Err(error) => {
                making.undo().await?;
                Err(error)
            }
        }
    }

    /// Has everything up to `moment` archived, with a commit after it: a recovery that finds none cannot tell
    /// that it saw all of that moment. Returns the last segment.
    async fn hand_over(
        &self,
        history: &History,
        moment: SystemTime,
    ) -> Result<Segment, MomentError> {
        let status = history.status();
        if moment > SystemTime::now() || status.oldest.is_none_or(|oldest| moment < oldest) {
            return Err(MomentError::Unknown {
                oldest: status.oldest,
            });
        }
        let lease = self.lease(STEP).await?;
        // Each a transaction of its own; the first one commits something, though it changes nothing.
        self.rows(&lease, STEP, "SELECT pg_current_xact_id()::text", &[])
            .await?;
        let last = "SELECT pg_walfile_name(pg_switch_wal() - 1)";
        let rows = self.rows(&lease, STEP, last, &[]).await?;
        lease.give_back();
        let last = rows.first().and_then(|row| Segment::parse(row.get(0)));
        let last = last.ok_or_else(|| MomentError::Failed("the server has no log".to_owned()))?;
        let until = Instant::now() + ARCHIVED_MAX;
        while !history.has_arrived(&last) {
            if Instant::now() >= until {
                return Err(MomentError::TooLong(ARCHIVED_MAX));
            }
            tokio::time::sleep(ARCHIVED_POLL).await;
        }
        Ok(last)
    }

    /// As PostgreSQL reads it in a setting.
    async fn written(&self, moment: SystemTime) -> Result<String, NodeError> {
        let micros = moment
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros();
        let micros = i64::try_from(micros).unwrap_or(i64::MAX);
        let lease = self.lease(STEP).await?;
        let sql = "SELECT to_char((timestamptz 'epoch' + $1 * interval '1 microsecond') AT TIME ZONE 'UTC', \
                   'YYYY-MM-DD HH24:MI:SS.US+00')";
        let rows = self.rows(&lease, STEP, sql, &[&(micros as f64)]).await?;
        lease.give_back();
        Ok(rows.first().map(|row| row.get(0)).unwrap_or_default())
    }
}

/// One recovery.
struct Recovery<'a> {
    node: &'a Node,
    facts: &'a ManagedFacts,
    history: &'a History,
    begin: &'a Begin,
    moment: SystemTime,
    turn: Turn,
}

impl Recovery<'_> {
    async fn make(
        self,
        hollow: HashSet<u32>,
        only: Option<Pid>,
    ) -> Result<(Server, Turn), MomentError> {
        let (parts, facts) = (&self.node.shared.parts, self.facts);
        let dir = dir(&facts.moments.base);
        let user = self.history.user.as_ref();
        let [conf, logs, cluster] = ["conf", "log", "data"].map(|name| dir.join(name));
        for made in [&dir, &conf, &logs] {
            make_dir(made, 0o700)?;
        }
        for passed in [&dir, &conf] {
            if let Some(user) = user {
                chown(passed, None, Some(user.gid))?;
                set_mode(passed, 0o750)?;
            }
        }
        let cloned = self
            .history
            .clone_to(self.begin, hollow, &cluster, &self.turn)
            .await?;
        let wrote_bytes = cloned.map_err(|(needed, left)| MomentError::NoRoom { needed, left })?;
        let group = user.map(|user| user.gid);
        let moment = self.node.written(self.moment).await?;
        let text = conf_text(self.node.server_version().major(), &moment);
        cluster::write(&conf.join("tenantry.conf"), &text, group)?;
        cluster::write(&conf.join("pg_hba.conf"), &facts.hba_text, group)?;
        cluster::write(&conf.join("pg_ident.conf"), "", group)?;
        let signal = cluster.join("recovery.signal");
        std::fs::write(&signal, "")?;
        own(&signal, user)?;
        let launch = Launch {
            bin: facts.bin.clone(),
            cluster,
            conf: conf.clone(),
            logs,
            socket: SocketDir::take(&dir, user)?,
            base: dir,
            history: None,
            _locks: Vec::new(),
            user: user.cloned(),
            process_bytes_max: process_bytes_max(facts),
            tail: Tail::default(),
        };
        let mut connect = Config::new();
        connect
            .host_path(launch.socket.path())
            .port(5432)
            .user(SUPERUSER)
            .password(facts.moments.password.reveal())
            .ssl_mode(SslMode::Disable);
        let mut child = Ending(launch.start()?);
        let node = Node::new(NodeParts {
            target: NodeTarget {
                name: "moment".to_owned(),
                address: NodeAddress::Unix(launch.socket.socket()),
                server_connections_max: 0,
            },
            key: parts.key.clone(),
            config: connect,
            tls: tls::connector(&NodeTls::Disable).map_err(ManagedError::Setup)?,
            managed: Some(ManagedFacts {
                conf_file: conf.join("tenantry.conf"),
                hba_file: conf.join("pg_hba.conf"),
                postmaster: Arc::new(AtomicU32::new(child.0.id().unwrap_or(0))),
                history: None,
                ..facts.clone()
            }),
            programs: parts.programs.clone(),
        });
        let up = tokio::select! {
            status = child.0.wait() => Err(words(status)),
            () = is_up(&node) => Ok(()),
        };
        if let Err(status) = up {
            launch.tail.last_words().await;
            return Err(MomentError::Failed(format!(
                "{status}\n{}",
                launch.tail.text()
            )));
        }
        let server = Server {
            node,
            child,
            only,
            wrote_bytes,
            _launch: launch,
        };
        Ok((server, self.turn))
    }
}

fn process_bytes_max(facts: &ManagedFacts) -> u64 {
    let sizes: &Mutex<_> = &facts.sizes;
    sizes
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .process_bytes_max()
}

/// It refuses everybody until the moment is reached.
async fn is_up(node: &Node) {
    while node.run(STEP, "SELECT 1").await.is_err() {
        tokio::time::sleep(READY_POLL).await;
    }
}

/// At once: nothing of it is wanted any more.
async fn end(child: &mut Child) {
    for signal in [Signal::QUIT, Signal::KILL] {
        let Some(pid) = id(child) else { return };
        // Not reaped yet, so the number is still its own.
        let _ = kill_process(pid, signal);
        if tokio::time::timeout(END_MAX, child.wait()).await.is_ok() {
            return;
        }
    }
}

/// Nothing in it lasts, so nothing waits for the disk.
fn conf_text(major: u32, moment: &str) -> String {
    let mut text = format!(
        "recovery_target_time = '{moment}'\nrecovery_target_inclusive = on\nrecovery_target_action = promote\n\
         recovery_target_timeline = current\n\
         # All of the log lies in pg_wal already.\n\
         restore_command = 'exit 1'\n\
         wal_recycle = off\narchive_mode = off\nhot_standby = off\nfsync = off\nfull_page_writes = off\n\
         synchronous_commit = off\nmax_wal_senders = 0\nautovacuum = off\nmax_worker_processes = 0\n\
         max_logical_replication_workers = 0\nmax_parallel_workers_per_gather = 0\nmax_connections = 16\n\
         max_locks_per_transaction = 1024\nshared_buffers = '{SHARED_BUFFERS}'\njit = off\n\
         checkpoint_timeout = '1h'\ntimezone = 'UTC'\nlog_timezone = 'UTC'\nlc_messages = 'C'\n\
         password_encryption = 'scram-sha-256'\n\
         log_destination = 'stderr'\nlogging_collector = off\nlog_line_prefix = '{}'\nlog_min_messages = log\n\
         log_min_error_statement = panic\nlog_error_verbosity = terse\n",
        super::log::LINE_PREFIX
    );
    if major >= 18 {
        text.push_str("io_method = sync\n");
    }
    text
}
