//! A PostgreSQL server that we run ourselves, as our child.
//!
//! Owns: its files (`place`, `cluster`), its settings (`settings`), its processes (`server`)
//! and its log. It listens on a unix socket only.

mod cluster;
pub(crate) mod history;
mod log;
mod machine;
pub(crate) mod moment;
mod orphan;
mod place;
mod server;
pub(crate) mod settings;
mod socket;
mod user;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use model::route::{NodeAddress, NodeTarget, NodeTls};
use tokio::sync::{oneshot, watch};
use tokio_postgres::{Config, config::SslMode};

pub use history::{HistoryConfig, HistoryState, HistoryStatus};
pub(crate) use machine::{memory_bytes, probe_reflink};
pub use moment::{MomentError, Recovered};
pub use place::{Leftover, leftovers};

use crate::{
    Node, NodeError, NodeKey,
    find::{FindError, find},
    handle::{ManagedFacts, NodeParts},
    programs::Programs,
    tls,
};
use place::Place;
use server::Launch;
use settings::Sizes;
use user::RunAs;

/// The platform's role on a managed server. Its password lies in `superuser.password` in the data
/// directory.
pub const SUPERUSER: &str = "tenantry";

/// Where the cluster goes when we are root and PostgreSQL's user cannot reach the data directory.
pub const ELSEWHERE: &str = "/var/lib/tenantry";

/// How to run the managed node.
#[derive(Clone, Debug)]
pub struct ManagedConfig {
    /// Directory of the installation. Made when missing.
    pub data_dir: PathBuf,
    /// Directory of PostgreSQL's programs; found when `None`.
    pub bin: Option<PathBuf>,
    /// User that PostgreSQL runs as when we are root; `postgres` when `None`.
    pub user: Option<String>,
    /// Server connections that all tenants may hold together.
    pub budget: u32,
    /// Server connections kept for the platform: maintenance, catalog, operator.
    pub reserved: u32,
    /// Memory to plan with, in bytes; the machine's or container's when `None`.
    pub memory_bytes: Option<u64>,
    /// Where the cluster goes when we are root and PostgreSQL's user cannot reach `data_dir`.
    pub fallback_root: PathBuf,
    /// Entries of the lock table that all connections of one tenant may hold together. The table, which
    /// all tenants share, is made a third larger.
    pub tenant_locks_max: u32,
    /// Private memory that each process of the server may have, in bytes, those of the platform and of
    /// autovacuum too; an eighth of `memory_bytes` and 512 MiB at least when `None`.
    pub process_bytes_max: Option<u64>,
    /// Every moment of the last hours can be recovered; `None`: none, and what was kept before is removed.
    pub history: Option<HistoryConfig>,
}

impl ManagedConfig {
    /// Defaults for everything but the place.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            bin: None,
            user: None,
            budget: 100,
            reserved: 24,
            memory_bytes: None,
            fallback_root: ELSEWHERE.into(),
            tenant_locks_max: 12_000,
            process_bytes_max: None,
            history: None,
        }
    }
}

/// Why the managed node does not run.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    /// There is no PostgreSQL.
    #[error(transparent)]
    NotFound(#[from] FindError),
    /// Another process uses the data directory.
    #[error("{} is in use by process {pid}", data_dir.display())]
    InUse {
        /// Which.
        data_dir: PathBuf,
        /// Who; 0 when it did not say.
        pid: u32,
    },
    /// The data was made by another major version.
    #[error(
        "the data in {} is of PostgreSQL {found}, but {} is PostgreSQL {have}: name the directory \
         of PostgreSQL {found} with --pg-bin, or choose another data directory",
        data.display(), bin.display()
    )]
    WrongMajor {
        /// Where the data is.
        data: PathBuf,
        /// Whose it is.
        found: String,
        /// What was found.
        bin: PathBuf,
        /// Its major.
        have: u32,
    },
    /// The operator has to change something; says what.
    #[error("{0}")]
    Setup(String),
    /// The file system refused.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// `initdb` or `postgres` failed; its last words.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// The end of what it wrote.
        output: String,
    },
    /// It runs, but a statement of ours failed.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// What is wrong with what an operator named, in words that go on after the name of the setting.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NamedMistakes {
    /// With [`ManagedConfig::bin`].
    pub bin: Option<String>,
    /// With [`ManagedConfig::user`].
    pub user: Option<String>,
}

/// Looks at what an operator named for a managed node, before anything is made.
pub async fn look_at_named(bin: Option<&Path>, user: Option<&str>) -> NamedMistakes {
    let mut mistakes = NamedMistakes::default();
    let run_as = RunAs::choose(user).await;
    // Without a name it is the machine that lacks a user, not the configuration.
    if let (Some(_), Err(error)) = (user, &run_as) {
        mistakes.user = Some(error.to_string());
    }
    let Some(bin) = bin else { return mistakes };
    mistakes.bin = match (find(Some(bin)).await, run_as) {
        (Err(error), _) => error
            .looked
            .first()
            .map(|(place, why)| format!("{}: {why}", place.display())),
        (Ok(found), Ok(run_as)) => cannot_run(&found.bin, run_as.as_ref()).await,
        (Ok(_), Err(_)) => None,
    };
    mistakes
}

/// Says so when `user` cannot run the server of `bin`.
async fn cannot_run(bin: &Path, user: Option<&RunAs>) -> Option<String> {
    let postgres = bin.join("postgres");
    if place::can_run(&postgres, user).await {
        return None;
    }
    let name = user.map_or("this user", |user| &user.name);
    Some(format!("{name} cannot run {}", postgres.display()))
}

pub(crate) fn io_error(what: &str, path: &Path, source: io::Error) -> ManagedError {
    ManagedError::Io {
        what: format!("{what} {}", path.display()),
        source,
    }
}

/// What the server is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServerState {
    /// It was started and does not answer yet (recovery may take long).
    Starting,
    /// It answers.
    Up,
    /// It died and is started again after a pause.
    Restarting {
        /// How often in a row.
        attempt: u32,
    },
    /// It was stopped by us.
    Stopped,
}

/// How to stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StopLimit {
    /// After this long a fast shutdown becomes an immediate one: the next start recovers.
    pub fast: Duration,
}

impl Default for StopLimit {
    /// Half a minute: the checkpoint of an ordinary shutdown.
    fn default() -> Self {
        Self {
            fast: Duration::from_secs(30),
        }
    }
}

/// The running server. Dropping it stops the server in the background, as long as the runtime
/// lives; what is left running is stopped by the next start.
#[derive(Debug)]
pub struct Managed {
    node: Node,
    state: watch::Receiver<ServerState>,
    pid: Arc<AtomicU32>,
    stop: oneshot::Sender<server::Stopping>,
    keeper: tokio::task::JoinHandle<()>,
    historian: Option<tokio::task::JoinHandle<()>>,
    sizes: Arc<Mutex<Sizes>>,
    conf: PathBuf,
    group: Option<u32>,
}

impl Managed {
    /// The node.
    pub fn node(&self) -> Node {
        self.node.clone()
    }

    /// What it is doing now, and every change.
    pub fn state(&self) -> watch::Receiver<ServerState> {
        self.state.clone()
    }

    /// Id of the postmaster's process, while there is one.
    pub fn postmaster(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Fits the pace of background work to the number of databases. Writes and reloads only when
    /// the pace changes by a fifth.
    ///
    /// # Errors
    ///
    /// Those of the file system and of the server.
    pub async fn pace(&self, databases: u32) -> Result<(), ManagedError> {
        let conf = {
            let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
            let new = Sizes {
                databases,
                ..sizes.clone()
            };
            let (old_s, new_s) = (sizes.autovacuum_naptime_s(), new.autovacuum_naptime_s());
            if old_s.abs_diff(new_s) * 5 < old_s {
                return Ok(());
            }
            *sizes = new;
            sizes.conf()
        };
        cluster::write(&self.conf.join("tenantry.conf"), &conf, self.group)?;
        Ok(self.node.run("reload", "SELECT pg_reload_conf()").await?)
    }

    /// Stops the server: fast, and immediately after the limit. Returns when it has ended.
    pub async fn stop(self, limit: StopLimit) {
        self.stop_unless_hurried(limit, std::future::pending())
            .await;
    }

    /// The same, and immediately from when `hurry` ends: the next start recovers then.
    pub async fn stop_unless_hurried(self, limit: StopLimit, hurry: impl Future<Output = ()>) {
        // Before the server, which would wait for a base backup that is being made.
        if let Some(historian) = &self.historian {
            historian.abort();
        }
        let (hurried, hurry_heard) = oneshot::channel();
        let stopping = server::Stopping {
            limit,
            hurry: Some(hurry_heard),
        };
        // The keeper is there until it has stopped the server.
        let _ = self.stop.send(stopping);
        let mut keeper = self.keeper;
        tokio::select! {
            _ = &mut keeper => {}
            () = hurry => {
                let _ = hurried.send(());
                let _ = keeper.await;
            }
        }
    }
}

/// Starts the server, making the cluster when there is none. Returns when it answers and
/// [`Node::bootstrap`] is done.
///
/// # Errors
///
/// [`ManagedError`]. Nothing of ours is left running.
pub async fn start(config: ManagedConfig) -> Result<Managed, ManagedError> {
    let installation = find(config.bin.as_deref()).await?;
    let user = RunAs::choose(config.user.as_deref()).await?;
    let postgres = installation.bin.join("postgres");
    if let Some(why) = cannot_run(&installation.bin, user.as_ref()).await {
        return Err(ManagedError::Setup(why));
    }
    let place = Place::take(
        &config.data_dir,
        &config.fallback_root,
        user.as_ref(),
        &postgres,
    )
    .await?;
    let key_file = place.data_dir.join("node.key");
    let key = NodeKey::load_or_create(&key_file)
        .map_err(|error| io_error("read the key of the node from", &key_file, error))?;
    let password = cluster::prepare(&place, &installation, user.as_ref()).await?;
    orphan::stop(&place.cluster()).await?;
    moment::clean(&place.base).await?;
    let history = match config.history {
        Some(wanted) => Some(Arc::new(history::History::open(
            &place,
            wanted,
            user.as_ref(),
        )?)),
        None => {
            history::remove(&place)?;
            None
        }
    };
    let sizes = Sizes {
        major: installation.major,
        memory_bytes: config.memory_bytes.unwrap_or_else(memory_bytes),
        cpus: machine::cpus(),
        budget: config.budget,
        reserved: config.reserved,
        tenant_locks_max: config.tenant_locks_max,
        process_bytes_max: config.process_bytes_max,
        databases: machine::databases(&place.cluster()),
        reflink: probe_reflink(&place.base).unwrap_or(false),
        has_history: history.is_some(),
    };
    let group = user.as_ref().map(|user| user.gid);
    cluster::configure(&place, &sizes, group)?;
    let process_bytes_max = sizes.process_bytes_max();
    let sizes = Arc::new(Mutex::new(sizes));

    let pid = Arc::new(AtomicU32::new(0));
    let mut connect = Config::new();
    connect
        .host_path(place.socket.path())
        .port(5432)
        .user(SUPERUSER)
        .password(password.reveal())
        .ssl_mode(SslMode::Disable);
    let node = Node::new(NodeParts {
        target: NodeTarget {
            name: "local".to_owned(),
            address: NodeAddress::Unix(place.socket.socket()),
            server_connections_max: config.budget,
        },
        key,
        config: connect,
        tls: tls::connector(&NodeTls::Disable).map_err(ManagedError::Setup)?,
        managed: Some(ManagedFacts {
            hba_file: place.conf().join("pg_hba.conf"),
            hba_text: settings::hba(SUPERUSER),
            conf_file: place.conf().join("tenantry.conf"),
            sizes: sizes.clone(),
            bin: installation.bin.clone(),
            postmaster: pid.clone(),
            history: history.clone(),
            moments: moment::Moments::new(&place.base, password.clone()),
        }),
        programs: OnceLock::from(Programs {
            bin: installation.bin.clone(),
            user: user.as_ref().map(|user| (user.uid, user.gid)),
        }),
    });

    let (state_out, state) = watch::channel(ServerState::Starting);
    let (stop, stopped) = oneshot::channel();
    let conf = place.conf();
    let launch = Launch {
        bin: installation.bin,
        cluster: place.cluster(),
        conf: place.conf(),
        logs: place.logs(),
        base: place.base,
        socket: place.socket,
        history: history.as_ref().map(|history| history.root().to_owned()),
        _locks: place.locks,
        user,
        process_bytes_max,
        tail: log::Tail::default(),
    };
    let keeper = server::run(launch, node.clone(), state_out, pid.clone(), stopped).await?;
    let mut managed = Managed {
        node,
        state,
        pid,
        stop,
        keeper,
        historian: None,
        sizes,
        conf,
        group,
    };
    if let Err(error) = managed.node.bootstrap().await {
        managed.stop(StopLimit::default()).await;
        return Err(error.into());
    }
    managed.historian =
        history.map(|history| tokio::spawn(history::keep(managed.node.clone(), history)));
    Ok(managed)
}
