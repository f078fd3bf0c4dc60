//! The parts of the process, started and stopped in order.
//!
//! The ports are held before anything is made. PostgreSQL first (it takes the lock of the data directory), then the keys, the proxy (whose port
//! and door the control plane must know), and the control plane. Stopping is the other way round.

use std::{
    cell::Cell,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use control::{Control, Keys};
use node::{
    Node, NodeKey,
    attached::{self, AttachConfig},
    managed::{self, Managed, ManagedConfig, StopLimit},
};
use proxy::{Proxy, TlsConfig};
use serde_json::{Value, json};

use crate::{
    exit::{Exit, Failure},
    serve::{
        config::Config, files, insight, key, metrics, ports, signals::Signals, tls::Identity, told,
    },
};

/// How often the pace of PostgreSQL's background work is fitted to the number of databases: it
/// matters from hundreds on, and hundreds take longer to make.
const PACE_EVERY: Duration = Duration::from_secs(300);

/// A wait of this length makes a person wonder: then it is said what is waited for.
const TELL_AFTER: Duration = Duration::from_secs(2);
/// How often it is said again.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long PostgreSQL may write what it holds in memory when somebody hurries. What it has not written
/// by then it takes from its log at the next start.
const HURRIED_MAX: Duration = Duration::from_secs(5);

/// Everything that runs.
pub(super) struct Parts {
    node: Server,
    proxy: Proxy,
    control: Control,
    audit: audit::Logs,
    identity: Arc<Identity>,
    operator_key: PathBuf,
    data_dir: PathBuf,
    api_scheme: &'static str,
}

/// The PostgreSQL of the tenants.
enum Server {
    Managed {
        managed: Arc<Managed>,
        pace: tokio::task::JoinHandle<()>,
    },
    Attached {
        node: Node,
        _lock: fs::File,
    },
}

impl Server {
    async fn start(config: &Config) -> Result<Self, Failure> {
        match &config.attach {
            None => {
                let mut wanted = ManagedConfig::new(&config.data_dir);
                wanted.bin.clone_from(&config.pg_bin);
                wanted.user.clone_from(&config.pg_user);
                wanted.process_bytes_max = config.process_memory_max;
                wanted.history.clone_from(&config.history);
                wanted.budget = config.server_connections_max;
                wanted.tenant_locks_max = config
                    .connection_locks_max
                    .saturating_mul(model::Limits::default().server_connections_max);
                let managed = managed::start(wanted)
                    .await
                    .map_err(|error| told::managed(&error))?;
                let managed = Arc::new(managed);
                let pace = tokio::spawn(keep_pace(managed.clone()));
                Ok(Self::Managed { managed, pace })
            }
            Some(dsn) => {
                let dir = &config.data_dir;
                let lock = files::take(dir).map_err(|error| told::file(&error, dir))?;
                let key = NodeKey::load_or_create(&dir.join("node.key"))
                    .context("the key of the node, node.key")
                    .map_err(|error| told::file(&error, dir))?;
                let wanted = AttachConfig {
                    name: "attached".to_owned(),
                    dsn: dsn.clone(),
                    key,
                    budget: config.server_connections_max,
                    programs: config.pg_bin.clone(),
                };
                let node = attached::attach(wanted)
                    .await
                    .map_err(|error| told::attached(&error))?;
                node.bootstrap().await.map_err(|error| {
                    told::machine(told::chain(&error), "what was done can be repeated")
                })?;
                if !node.can_stream() {
                    let named = config.pg_bin.as_deref().map(std::path::Path::display);
                    tracing::warn!(
                        pg_bin = named.map(tracing::field::display),
                        postgresql = node.server_version().major(),
                        "no pg_dump and pg_restore of the server's version are on this machine: nothing can be backed up, and no \
                         database in use branched, until they are installed (Debian, Ubuntu: postgresql-client) or named with \
                         --pg-bin, and this is started again"
                    );
                }
                Ok(Self::Attached { node, _lock: lock })
            }
        }
    }

    fn node(&self) -> Node {
        match self {
            Self::Managed { managed, .. } => managed.node(),
            Self::Attached { node, .. } => node.clone(),
        }
    }

    /// Stops it; within [`HURRIED_MAX`] of the end of `hurry`.
    async fn stop(self, hurry: impl Future<Output = ()>) {
        let Self::Managed { managed, pace } = self else {
            return;
        };
        pace.abort();
        let _ = pace.await;
        // The task above held the only other reference.
        let Some(managed) = Arc::into_inner(managed) else {
            return;
        };
        let limit = StopLimit::default();
        let hurry = async {
            hurry.await;
            tokio::time::sleep(HURRIED_MAX).await;
        };
        let until = clock_after(limit.fast);
        let tell = telling(|| {
            tracing::info!(
                "waiting until {until} for PostgreSQL, which writes what it holds in memory to disk before it stops"
            );
        });
        tokio::select! {
            () = managed.stop_unless_hurried(limit, hurry) => {}
            () = tell => {}
        }
    }
}

/// Calls `tell` when somebody begins to wonder, and again and again. Never ends.
async fn telling(tell: impl Fn()) {
    tokio::time::sleep(TELL_AFTER).await;
    let mut ticks = tokio::time::interval(TELL_EVERY);
    loop {
        ticks.tick().await;
        tell();
    }
}

/// What a stop waits for, in words.
fn waited_for(clients: usize, is_control_running: bool) -> String {
    let mut what = match clients {
        0 => Vec::new(),
        1 => vec!["1 client to end its transaction".to_owned()],
        many => vec![format!("{many} clients to end their transactions")],
    };
    if is_control_running {
        what.push("requests and steps of the API".to_owned());
    }
    if what.is_empty() {
        what.push("server connections to close".to_owned());
    }
    what.join(" and ")
}

/// The time of day, so much later.
fn clock_after(limit: Duration) -> String {
    let then = chrono::Utc::now() + limit;
    then.format("%H:%M:%S UTC").to_string()
}

async fn keep_pace(managed: Arc<Managed>) {
    let mut ticks = tokio::time::interval(PACE_EVERY);
    loop {
        ticks.tick().await;
        let databases = match managed.node().inventory().await {
            Ok(found) => u32::try_from(found.len()).unwrap_or(u32::MAX),
            Err(error) => {
                tracing::debug!(error = %told::chain(&error), "databases were not counted");
                continue;
            }
        };
        if let Err(error) = managed.pace(databases).await {
            tracing::warn!(error = %told::chain(&error), "autovacuum was not fitted to the databases");
        }
    }
}

/// Starts everything. What was started before a failure is stopped again.
///
/// # Errors
///
/// A sentence for the operator.
pub(super) async fn start(config: &Config) -> Result<Parts, Failure> {
    let _held = ports::hold(config)?;
    let server = Server::start(config).await?;
    match start_on(config, &server).await {
        Ok((proxy, control, kept)) => Ok(Parts {
            node: server,
            proxy,
            control,
            audit: kept.audit,
            identity: kept.identity,
            operator_key: kept.operator_key,
            data_dir: kept.data_dir,
            api_scheme: if config.api_tls { "https" } else { "http" },
        }),
        Err(failure) => {
            server.stop(std::future::pending()).await;
            Err(failure)
        }
    }
}

/// What lies in the data directory and is named in the ready line.
struct Kept {
    audit: audit::Logs,
    identity: Arc<Identity>,
    operator_key: PathBuf,
    data_dir: PathBuf,
}

async fn start_on(config: &Config, server: &Server) -> Result<(Proxy, Control, Kept), Failure> {
    let dir = fs::canonicalize(&config.data_dir)?;
    let in_dir = |error: anyhow::Error| told::file(&error, &dir);
    let instance = files::instance(&dir.join("instance")).map_err(in_dir)?;
    let catalog = catalog_of(config, server);
    let secret = key::of(config, catalog, &dir).await?;
    let operator_file = dir.join("operator.key");
    let operator_key = files::operator_key(&operator_file).map_err(in_dir)?;
    let identity = match &config.tls {
        Some(given) => given.clone(),
        None => {
            let mut names = vec![config.public_host.clone()];
            if !config.api_listen.ip().is_unspecified() {
                names.push(config.api_listen.ip().to_string());
            }
            Arc::new(Identity::read_or_make(&dir.join("tls"), &names).map_err(in_dir)?)
        }
    };
    if let Some(doubt) = identity.doubt() {
        tracing::warn!("{doubt}");
    }
    if identity.fresh {
        tracing::info!(
            certificate = %identity.file.display(),
            "made a self-signed certificate; clients that verify use it as their root"
        );
    }
    let keys = Keys::derive(&secret);
    let audit = open_audit(config, &dir, &instance, &secret)?;
    let (routes, asked) = model::route::channel();

    let mut wanted = proxy::Config::new(vec![config.pg_listen], *keys.login_salt());
    wanted.workers = config.workers as usize;
    wanted.require_tls = !config.plain_pg;
    wanted.operator = Some(wire::scram::Keys::from_password(
        operator_key.reveal(),
        &wire::scram::login_salt(keys.login_salt(), proxy::OPERATOR),
        wanted.scram_iterations,
    ));
    wanted
        .proxy_protocol_from
        .clone_from(&config.proxy_protocol_from);
    wanted
        .address_limits_not_for
        .clone_from(&config.address_limits_not_for);
    wanted.audit = Some(audit.clone());
    let limits = &mut wanted.limits;
    limits.clients_max = config.clients_max as usize;
    limits.server_idle_max = config.server_idle_max;
    limits.insight_statements_max = config.insight_statements_max as usize;
    limits.address_connections_max = config.address_connections_max as usize;
    limits.address_attempts_per_second_max = config.address_attempts_per_second_max;
    limits.address_failures_max = config.address_failures_max;
    limits.address_ban = config.address_ban;
    wanted.tls = Some(
        TlsConfig::from_pem(&identity.chain_pem, identity.key_pem.reveal().as_bytes())
            .map_err(|error| told::machine(told::chain(&error), "see --tls-cert and --tls-key"))?,
    );
    let proxy = proxy::start(wanted, routes)
        .await
        .map_err(|error| match error {
            proxy::StartError::Listen { address, source } => {
                told::listen("pg-listen", address, &source)
            }
            other => Failure::new(Exit::Failed, told::chain(&other), ""),
        })
        .inspect_err(|_| audit.close())?;

    let started = start_control(
        config,
        server,
        &proxy,
        asked,
        keys,
        operator_key.reveal(),
        Own {
            identity: &identity,
            data_dir: &dir,
            instance,
            audit: audit.clone(),
        },
    );
    match started.await {
        Ok(control) => Ok((
            proxy,
            control,
            Kept {
                audit,
                identity,
                operator_key: operator_file,
                data_dir: dir,
            },
        )),
        Err(failure) => {
            proxy.drain(Duration::ZERO).await;
            audit.close();
            Err(failure)
        }
    }
}

fn catalog_of(config: &Config, server: &Server) -> node::CatalogConfig {
    let own = || server.node().catalog_config();
    config.catalog.clone().unwrap_or_else(own)
}

/// Goes on with the audit log of this data directory.
fn open_audit(
    config: &Config,
    dir: &Path,
    instance: &str,
    secret: &[u8; 32],
) -> Result<audit::Logs, Failure> {
    let keys = audit::Keys::derive(secret);
    let mut options = audit::Options::new(dir.join("audit"), audit::Stream::Admin, instance, keys);
    options.sync = config.audit_sync;
    options.keep = config.audit_keep;
    options.bytes_max = config.audit_size_max;
    audit::Logs::open(options).map_err(|error| {
        told::machine(
            told::chain(&error),
            "without it nothing could be written down: make room, or give it back to the user that serves",
        )
    })
}

/// What this data directory is known by.
struct Own<'a> {
    identity: &'a Identity,
    data_dir: &'a Path,
    instance: String,
    audit: audit::Logs,
}

async fn start_control(
    config: &Config,
    server: &Server,
    proxy: &Proxy,
    routes: model::route::RouteServer,
    keys: Keys,
    operator_key: &str,
    own: Own<'_>,
) -> Result<Control, Failure> {
    let node = server.node();
    let catalog = catalog_of(config, server);
    let port = proxy.local_addrs().first().map_or(0, SocketAddr::port);
    let mut wanted =
        control::Config::local(config.api_listen, port, control::token_hash(operator_key));
    wanted.instance = own.instance;
    wanted.public_host.clone_from(&config.public_host);
    wanted.anonymous_registration = config.anonymous;
    wanted.metrics_open = config.metrics_open;
    wanted.replace_key = config.replace_installation_key;
    wanted.sql_issuers.clone_from(&config.sql_issuers);
    wanted.sql_origins.clone_from(&config.sql_origins);
    wanted.forwarded_from.clone_from(&config.api_forwarded_from);
    wanted.retention = config.retention;
    wanted.audit_keep = config.audit_keep;
    wanted.statement_log_keep = config.statement_log_keep;
    wanted.backup_place = match &config.backup_store {
        Some(place) => place.clone(),
        None => control::BackupPlace::folder(own.data_dir.join("backups")),
    };
    wanted.backup_schedule = config.backup_schedule;
    wanted.limits.stuck_after = config.stuck_after;
    wanted.limits.connect_token_time_max = config.connect_token_time_max;
    wanted.limits.anonymous_per_hour_max = config.anonymous_per_hour_max;
    wanted.limits.locks_per_server_max = config.connection_locks_max;
    wanted.limits.notify_queue_percent_max = config.notify_queue_max;
    wanted.warm_pool = control::WarmPool {
        min: config.warm_pool,
        max: wanted.warm_pool.max.max(config.warm_pool),
    };
    if config.warm_pool == 0 {
        wanted.warm_pool.max = 0;
    }
    if config.api_tls {
        let tls = own.identity.config(&["http/1.1"]);
        wanted.api_tls = Some(tls.map_err(|error| told::machine(format!("{error:#}"), ""))?);
    }
    let parts = control::Parts {
        node,
        catalog,
        routes,
        door: proxy.door(),
        holds: proxy.holds(),
        pages: metrics::answer(proxy.numbers(), config.metrics_tenants_max as usize),
        insight: insight::answer(proxy.numbers()),
        keys,
        audit: own.audit,
    };
    control::start(wanted, parts)
        .await
        .map_err(|error| told::control(config, own.data_dir, error))
}

impl Parts {
    /// Lets running work end within `limit`, or until the second signal; then stops everything.
    pub(super) async fn stop(self, limit: Duration, signals: &mut Signals) {
        let (numbers, until) = (self.proxy.numbers(), clock_after(limit));
        let control_stopped = Cell::new(false);
        let drained = async {
            // While the proxy still knows it.
            self.control.remember().await;
            let control = async {
                let stopped = self.control.stop(limit).await;
                control_stopped.set(true);
                stopped
            };
            // Both at once: what the API still runs goes through the proxy.
            let (control, ()) = tokio::join!(control, self.proxy.drain(limit));
            control.leave().await;
        };
        let tell = telling(|| {
            let what = waited_for(numbers.clients(), !control_stopped.get());
            tracing::info!("waiting until {until} for {what}; a second signal stops at once");
        });
        tokio::select! {
            () = drained => {}
            () = signals.times(2) => tracing::warn!("stopping at once"),
            () = tell => {}
        }
        // Done already, unless somebody hurried.
        self.audit.close();
        self.node.stop(signals.times(2)).await;
    }

    fn pg_address(&self) -> String {
        self.proxy
            .local_addrs()
            .first()
            .map_or_else(String::new, SocketAddr::to_string)
    }

    fn api_url(&self) -> String {
        format!("{}://{}", self.api_scheme, self.control.local_addr())
    }

    /// The ready line for people.
    pub(super) fn human(&self) -> String {
        let certificate = if self.identity.self_signed {
            format!("; self-signed certificate {}", self.identity.file.display())
        } else {
            String::new()
        };
        format!(
            "tenantry {} is ready: PostgreSQL {} clients at {}, API at {}{certificate}",
            env!("CARGO_PKG_VERSION"),
            self.postgres_version(),
            self.pg_address(),
            self.api_url(),
        )
    }

    /// The ready line for programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "event": "ready",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "pg": self.pg_address(),
            "api": self.api_url(),
            "postgres": self.postgres_version(),
            "data_dir": self.data_dir,
            "operator_key": self.operator_key,
            "certificate": self.identity.file,
            "self_signed": self.identity.self_signed,
        })
    }

    fn postgres_version(&self) -> String {
        let version = self.node.node().server_version();
        format!("{}.{}", version.major(), version.0 % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_says_what_it_waits_for() {
        for (clients, is_control_running, words) in [
            (0, false, "server connections to close"),
            (1, false, "1 client to end its transaction"),
            (
                2,
                true,
                "2 clients to end their transactions and requests and steps of the API",
            ),
        ] {
            assert_eq!(waited_for(clients, is_control_running), words);
        }
    }
}
