//! What the settings of `serve` mean.
//!
//! Owns: parsing each value, the rules between them, and looking at the files and programs that are
//! named. All mistakes are found in one go, and nothing is made.

use std::{
    fmt::Display,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use control::{BackupPlace, BackupSchedule, Issuer, Origins};
use model::{Network, Secret};
use node::{
    CatalogConfig, attached,
    managed::{self, HistoryConfig},
};

use crate::serve::{
    issuers,
    settings::{Mistake, Raw, SETTINGS, Source},
    tls::Identity,
};

/// Settings that can be worked with.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) pg_listen: SocketAddr,
    pub(crate) api_listen: SocketAddr,
    /// The API speaks TLS, with the same certificate.
    pub(crate) api_tls: bool,
    pub(crate) public_host: String,
    pub(crate) pg_bin: Option<PathBuf>,
    pub(crate) pg_user: Option<String>,
    pub(crate) attach: Option<Secret>,
    pub(crate) catalog: Option<CatalogConfig>,
    /// Certificate and key that were given.
    pub(crate) tls: Option<Arc<Identity>>,
    pub(crate) log: LogForm,
    pub(crate) log_filter: String,
    pub(crate) workers: u32,
    pub(crate) clients_max: u32,
    pub(crate) server_connections_max: u32,
    /// 0: no limit, as with the next two.
    pub(crate) address_connections_max: u32,
    pub(crate) address_attempts_per_second_max: u32,
    pub(crate) address_failures_max: u32,
    pub(crate) address_ban: Duration,
    pub(crate) address_limits_not_for: Vec<Network>,
    /// Load balancers.
    pub(crate) proxy_protocol_from: Vec<Network>,
    /// Pages that may use SQL over HTTP.
    pub(crate) sql_origins: Origins,
    /// Whose tokens are taken for SQL over HTTP.
    pub(crate) sql_issuers: Vec<Issuer>,
    /// Proxies in front of the API.
    pub(crate) api_forwarded_from: Vec<Network>,
    pub(crate) retention: Duration,
    pub(crate) audit_sync: audit::Sync,
    /// Zero: for ever.
    pub(crate) audit_keep: Duration,
    /// Bytes, of each of its chains.
    pub(crate) audit_size_max: u64,
    /// `None`: a folder in the data directory.
    pub(crate) backup_store: Option<BackupPlace>,
    pub(crate) backup_schedule: BackupSchedule,
    /// `None`: no history of a PostgreSQL that we run is kept.
    pub(crate) history: Option<HistoryConfig>,
    pub(crate) stuck_after: Duration,
    /// Of a server connection.
    pub(crate) server_idle_max: Duration,
    pub(crate) connect_token_time_max: Duration,
    pub(crate) anonymous_per_hour_max: u32,
    pub(crate) warm_pool: u32,
    pub(crate) drain_limit: Duration,
    /// Entries of the lock table.
    pub(crate) connection_locks_max: u32,
    /// Bytes, of each process of a PostgreSQL that we run.
    pub(crate) process_memory_max: Option<u64>,
    /// Percent.
    pub(crate) notify_queue_max: u32,
    /// Tenants with series of their own.
    pub(crate) metrics_tenants_max: u32,
    pub(crate) insight_statements_max: u32,
    pub(crate) statement_log_keep: Duration,
    /// `/metrics` takes no token.
    pub(crate) metrics_open: bool,
    pub(crate) anonymous: bool,
    /// Clients without TLS are let in.
    pub(crate) plain_pg: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LogForm {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogForm {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err("is neither human nor json"),
        }
    }
}

/// More would be a typing error: no machine serves a thousand workers.
const WORKERS_MAX: u32 = 1024;
/// One address has 65,535 ports; several may be listened on some day.
const CLIENTS_MAX: u32 = 1_000_000;
/// PostgreSQL's `max_connections` ends at 262,143; ten thousand processes is beyond any use.
const SERVER_CONNECTIONS_MAX: u32 = 10_000;
/// About 8 MB of disk each.
const WARM_POOL_MAX: u32 = 1000;
/// A day to notice that the wrong database was deleted.
const RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Somebody who mended a password waits that long at most.
const BAN: Duration = Duration::from_secs(60);
/// What service managers wait before they kill, less a margin.
const DRAIN: Duration = Duration::from_secs(30);
/// Shorter, and nothing else would be done.
const BACKUP_EVERY_MIN: Duration = Duration::from_secs(60);
/// More is meant as any number.
const BACKUP_KEEP_MAX: u32 = 10_000;
/// A week: what happened at the weekend is there on Monday.
const STATEMENT_LOG_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// Less than what it takes to look at them.
const STATEMENT_LOG_KEEP_MIN: Duration = Duration::from_secs(60);
/// Long enough for an audit that comes once a quarter.
const AUDIT_KEEP: Duration = Duration::from_secs(90 * 24 * 3600);
/// Some four million lines.
const AUDIT_SIZE: u64 = 2 << 30;
/// Size of one file.
const AUDIT_SIZE_MIN: u64 = 16 << 20;
/// What PostgreSQL writes while it is noticed that the disk gets full.
const HISTORY_FREE_MIN: u64 = 64 << 20;
/// A create takes milliseconds, a slow disk or a start of PostgreSQL minutes.
const STUCK_AFTER: Duration = Duration::from_secs(600);
/// More is meant as no limit.
const ANONYMOUS_PER_HOUR_MAX: u32 = 1_000_000;
/// Shorter, and what only waits for its turn would fail.
const STUCK_AFTER_MIN: Duration = Duration::from_secs(10);
/// The proxy's own default says why.
const SERVER_IDLE: Duration = Duration::from_secs(30);
/// Shorter, and connections would be opened and closed under load.
const SERVER_IDLE_MIN: Duration = Duration::from_secs(1);
/// Longer, and what nobody uses is kept for ever.
const SERVER_IDLE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Long enough to start a pool of connections, short enough to be of no use to who finds it later.
const CONNECT_TOKEN: Duration = Duration::from_secs(600);
/// Longer than a day it is a password; `share` makes those.
const CONNECT_TOKEN_MAX: Duration = Duration::from_secs(24 * 3600);
/// A hundred years of retention is a typing error; so is a drain of a day.
const RETENTION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const DRAIN_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longer bans are the work of a firewall.
const BAN_MAX: Duration = Duration::from_secs(24 * 3600);
/// Each is compared with every client that comes in.
const NETWORKS_MAX: usize = 64;
/// Fewer and ordinary work is ended: a join of partitioned tables locks dozens of tables and indexes.
const LOCKS_MIN: u32 = 100;
/// More takes gigabytes of PostgreSQL's shared memory.
const LOCKS_MAX: u32 = 100_000;
/// Less, and PostgreSQL's own work, autovacuum for one, does not come to its end.
const PROCESS_MEMORY_MIN: u64 = 128 << 20;
/// More than any machine has is a typing error.
const PROCESS_MEMORY_MAX: u64 = 64 << 40;
/// A table of 10 MB for each database that is full.
const INSIGHT_STATEMENTS_MAX: u32 = 10_000;
/// Thirteen series each: more than a Prometheus server likes to get from one process.
const METRICS_TENANTS_MAX: u32 = 10_000;

impl Config {
    /// Makes sense of `raw`.
    ///
    /// # Errors
    ///
    /// Every mistake, in the order of the settings; never only the first.
    pub(crate) fn validate(raw: Raw) -> Result<Self, Vec<Mistake>> {
        let mut reader = Reader { raw };
        let read = reader.read();
        let mut mistakes = reader.raw.mistakes;
        match read {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => {
                mistakes.sort_by_key(|mistake| match &mistake.source {
                    Source::File { line, .. } => *line,
                    _ => usize::MAX,
                });
                Err(mistakes)
            }
        }
    }
}

/// Takes values out of [`Raw`], and adds mistakes to it.
struct Reader {
    raw: Raw,
}

impl Reader {
    fn read(&mut self) -> Option<Config> {
        let data_dir = self.path("data-dir").or(Some(PathBuf::from("./data")));
        if let Some(path) = data_dir.as_deref().filter(|path| path.is_file()) {
            self.mistake("data-dir", format!("{} is no directory", path.display()));
        }
        let pg_listen = self.or("pg-listen", ([127, 0, 0, 1], 5433).into(), address);
        let api_listen = self.or("api-listen", ([127, 0, 0, 1], 5480).into(), address);
        if let (Some(pg), Some(api)) = (pg_listen, api_listen)
            && pg == api
            && pg.port() != 0
        {
            self.mistake(
                "api-listen",
                format!("{api} is the address of pg-listen; they need one each"),
            );
        }
        let api_tls = self.switch("api-tls");
        let metrics_open = self.switch("metrics-open");
        let plain = self.switch("allow-plain-http");
        let plain_pg = self.switch("allow-plain-pg");
        let anonymous = self.optional("allow-anonymous", boolean);
        let local_api = api_listen.is_none_or(|address| address.ip().is_loopback());
        if !local_api && !api_tls && !plain {
            self.mistake(
                "api-listen",
                "is not a loopback address, and plain HTTP would show tokens and passwords to the \
                 network; give --api-tls, or --allow-plain-http where something else encrypts"
                    .to_owned(),
            );
        }
        let public_host = self
            .or("public-host", String::new(), public_host)
            .map(|host| {
                if host.is_empty() {
                    pg_listen.map_or_else(String::new, default_public_host)
                } else {
                    host
                }
            });
        let attach = self.dsn("attach", "attach-file").map(|(dsn, _)| dsn);
        let catalog = self
            .dsn("catalog", "catalog-file")
            .map(|(_, catalog)| catalog);
        let (pg_bin, pg_user) = self.programs();
        let tls = self.certificate();
        let log = self.or("log", LogForm::Human, str::parse);
        let log_filter = self.or("log-filter", "info".to_owned(), log_filter);
        let workers = self.or("workers", 1, |text| count(text, 1, WORKERS_MAX));
        let clients_max = self.or("clients-max", 1000, |text| count(text, 1, CLIENTS_MAX));
        let server_connections_max = self.or("server-connections-max", 100, |text| {
            count(text, 4, SERVER_CONNECTIONS_MAX)
        });
        let address_connections_max = self.or("address-connections-max", 0, |text| {
            count(text, 0, CLIENTS_MAX)
        });
        let address_attempts_per_second_max =
            self.or("address-attempts-per-second-max", 0, |text| {
                count(text, 0, CLIENTS_MAX)
            });
        let address_failures_max = self.or("address-failures-max", 20, |text| {
            count(text, 0, CLIENTS_MAX)
        });
        let address_ban = self.or("address-ban", BAN, |text| time(text, BAN_MAX));
        let address_limits_not_for = self.or("address-limits-not-for", Vec::new(), networks);
        let proxy_protocol_from = self.or("proxy-protocol-from", Vec::new(), networks);
        let sql_origins = self.or("sql-origins", Origins::None, origins);
        let sql_issuers = self.or("sql-issuers", Vec::new(), issuers::read);
        let api_forwarded_from = self.or("api-forwarded-from", Vec::new(), networks);
        let connect_token = self.or("connect-token-time-max", CONNECT_TOKEN, |text| {
            time_between(text, Duration::from_secs(1), CONNECT_TOKEN_MAX)
        });
        let retention = self.or("retention", RETENTION, |text| time(text, RETENTION_MAX));
        let audit_sync = self.or("audit-sync", audit::Sync::default(), str::parse);
        let audit_keep = self.or("audit-keep", AUDIT_KEEP, |text| time(text, RETENTION_MAX));
        let audit_size_max = self.or("audit-size-max", AUDIT_SIZE, |text| {
            size(text, AUDIT_SIZE_MIN, PROCESS_MEMORY_MAX)
        });
        let backup_store = self.backup_store();
        let backup_schedule = self.backup_schedule();
        let history = self.history();
        let stuck_after = self.or("stuck-after", STUCK_AFTER, |text| {
            time_between(text, STUCK_AFTER_MIN, DRAIN_MAX)
        });
        let server_idle_max = self.or("server-idle-max", SERVER_IDLE, |text| {
            time_between(text, SERVER_IDLE_MIN, SERVER_IDLE_MAX)
        });
        let anonymous_per_hour_max = self.or("anonymous-per-hour-max", 100, |text| {
            count(text, 0, ANONYMOUS_PER_HOUR_MAX)
        });
        let warm_pool = self.or("warm-pool", 8, |text| count(text, 0, WARM_POOL_MAX));
        let drain_limit = self.or("drain-limit", DRAIN, |text| time(text, DRAIN_MAX));
        let connection_locks_max = self.or("connection-locks-max", 1000, |text| {
            count(text, LOCKS_MIN, LOCKS_MAX)
        });
        let process_memory_max = self.optional("process-memory-max", |text| {
            size(text, PROCESS_MEMORY_MIN, PROCESS_MEMORY_MAX)
        });
        let metrics_tenants_max = self.or("metrics-tenants-max", 200, |text| {
            count(text, 0, METRICS_TENANTS_MAX)
        });
        let insight_statements_max = self.or("insight-statements-max", 200, |text| {
            count(text, 0, INSIGHT_STATEMENTS_MAX)
        });
        let statement_log_keep = self.or("statement-log-keep", STATEMENT_LOG_KEEP, |text| {
            time_between(text, STATEMENT_LOG_KEEP_MIN, RETENTION_MAX)
        });
        let notify_queue_max = self.or("notify-queue-max", 50, |text| count(text, 1, 100));
        // Only now, when every value has been looked at, may a wrong one end this.
        let (pg_listen, api_listen) = (pg_listen?, api_listen?);
        Some(Config {
            data_dir: data_dir?,
            log: log?,
            log_filter: log_filter?,
            workers: workers?,
            clients_max: clients_max?,
            server_connections_max: server_connections_max?,
            address_connections_max: address_connections_max?,
            address_attempts_per_second_max: address_attempts_per_second_max?,
            address_failures_max: address_failures_max?,
            address_ban: address_ban?,
            address_limits_not_for: address_limits_not_for?,
            proxy_protocol_from: proxy_protocol_from?,
            sql_origins: sql_origins?,
            sql_issuers: sql_issuers?,
            api_forwarded_from: api_forwarded_from?,
            retention: retention?,
            audit_sync: audit_sync?,
            audit_keep: audit_keep?,
            audit_size_max: audit_size_max?,
            backup_store,
            backup_schedule: backup_schedule?,
            history: history?,
            stuck_after: stuck_after?,
            server_idle_max: server_idle_max?,
            connect_token_time_max: connect_token?,
            anonymous_per_hour_max: anonymous_per_hour_max?,
            warm_pool: warm_pool?,
            drain_limit: drain_limit?,
            connection_locks_max: connection_locks_max?,
            process_memory_max,
            notify_queue_max: notify_queue_max?,
            metrics_tenants_max: metrics_tenants_max?,
            insight_statements_max: insight_statements_max?,
            statement_log_keep: statement_log_keep?,
            metrics_open,
            pg_listen,
            api_listen,
            api_tls,
            plain_pg,
            anonymous: anonymous.unwrap_or(local_api && pg_listen.ip().is_loopback()),
            public_host: public_host?,
            pg_bin,
            pg_user,
            attach,
            catalog,
            tls,
        })
    }

    fn source(&self, name: &'static str) -> Source {
        self.raw
            .values
            .get(name)
            .map_or(Source::Default(name), |(_, source)| source.clone())
    }

    fn mistake(&mut self, name: &'static str, what: String) {
        let source = self.source(name);
        let what = match source {
            Source::File { .. } => format!("{name}: {what}"),
            _ => what,
        };
        self.raw.mistakes.push(Mistake { source, what });
    }

    /// The value of a setting, parsed. `None` when it is not given, or given wrongly, which is
    /// noted.
    fn optional<T, E: Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        debug_assert!(SETTINGS.iter().any(|setting| setting.name == name));
        let (text, _) = self.raw.values.get(name)?.clone();
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.mistake(name, error.to_string());
                None
            }
        }
    }

    /// As [`Self::optional`], with what holds when it is not given. `None`: given wrongly.
    fn or<T, E: Display>(
        &mut self,
        name: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        debug_assert!(SETTINGS.iter().any(|setting| setting.name == name));
        if self.raw.values.contains_key(name) {
            self.optional(name, parse)
        } else {
            Some(default)
        }
    }

    /// A switch. Not given, or given wrongly, is off.
    fn switch(&mut self, name: &'static str) -> bool {
        self.optional(name, boolean).unwrap_or(false)
    }

    fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        self.optional(name, |text| text_not_empty(text).map(PathBuf::from))
    }

    /// A value that may hold a password: given directly, or by the path of a file.
    fn secret(&mut self, name: &'static str, file: &'static str) -> Option<Secret> {
        let direct = self.optional(name, |text| text_not_empty(text).map(Secret::new));
        let from_file = self.optional(file, |path| {
            fs::read_to_string(path)
                .map_err(|error| format!("cannot read {path}: {error}"))
                .and_then(|text| text_not_empty(text.trim()).map(Secret::new))
        });
        if direct.is_some() && from_file.is_some() {
            self.mistake(file, format!("stands beside {name}; give one of them"));
        }
        direct.or(from_file)
    }

    /// How to reach a server: as it was given, and read. Its text is not repeated: it may hold a
    /// password.
    fn dsn(&mut self, name: &'static str, file: &'static str) -> Option<(Secret, CatalogConfig)> {
        let given = self.secret(name, file)?;
        match attached::external(&given) {
            Ok(read) => Some((given, read)),
            Err(why) => {
                let direct = self.raw.values.contains_key(name);
                self.mistake(
                    if direct { name } else { file },
                    format!(
                        "{why}; a DSN is like \
                         postgresql://user@host:5432/postgres?sslmode=verify-full"
                    ),
                );
                None
            }
        }
    }

    /// `Some(None)`: nothing is kept.
    fn history(&mut self) -> Option<Option<HistoryConfig>> {
        let default = HistoryConfig::default();
        let keep = self.or("point-in-time", default.keep, |text| {
            time(text, POINT_IN_TIME_MAX)
        });
        let base_every = self.or("point-in-time-base-every", default.base_every, |text| {
            time_between(text, BASE_EVERY_MIN, POINT_IN_TIME_MAX)
        });
        let free_bytes_min = self.optional("point-in-time-free", |text| {
            size(text, HISTORY_FREE_MIN, PROCESS_MEMORY_MAX)
        });
        let (keep, base_every) = (keep?, base_every?);
        let history = HistoryConfig {
            keep,
            base_every,
            free_bytes_min,
            ..default
        };
        Some((!keep.is_zero()).then_some(history))
    }

    /// Where backups are put, looked at as far as that asks nobody.
    fn backup_store(&mut self) -> Option<BackupPlace> {
        let lines = self.optional("backup-store-file", |path| {
            fs::read_to_string(path)
                .map(Secret::new)
                .map_err(|error| format!("cannot read {path}: {error}"))
        });
        let place = self.optional("backup-store", |url| {
            BackupPlace::parse(url, lines.as_ref().map(Secret::reveal))
        });
        if lines.is_some() && !self.raw.values.contains_key("backup-store") {
            self.mistake("backup-store-file", "needs backup-store".to_owned());
        }
        place
    }

    /// When databases are backed up by themselves.
    fn backup_schedule(&mut self) -> Option<BackupSchedule> {
        let default = BackupSchedule::default();
        let every = self.or("backup-every", default.every, |text| match text {
            "never" => Ok(Duration::ZERO),
            text => time_between(text, BACKUP_EVERY_MIN, RETENTION_MAX),
        });
        let window = self.or("backup-window", default.window, str::parse);
        let keep = self.or("backup-keep", default.keep, |text| {
            count(text, 0, BACKUP_KEEP_MAX)
        });
        let keep_for = self.or("backup-keep-for", default.keep_for, |text| {
            time(text, RETENTION_MAX)
        });
        let drill_every = self.or("drill-every", default.drill_every, |text| match text {
            "never" => Ok(Duration::ZERO),
            text => time_between(text, BACKUP_EVERY_MIN, RETENTION_MAX),
        });
        let recovery_target = self.or("recovery-target", default.recovery_target, |text| {
            time_between(text, Duration::from_secs(1), RETENTION_MAX)
        });
        let is_attached = ["attach", "attach-file"]
            .iter()
            .any(|name| self.raw.values.contains_key(name));
        for (name, every) in [("backup-every", every), ("drill-every", drill_every)] {
            if !is_attached || every.is_none_or(|every| every.is_zero()) {
                continue;
            }
            self.mistake(
                name,
                "has no use with --attach: backups need the programs of a PostgreSQL that is run here"
                    .to_owned(),
            );
        }
        Some(BackupSchedule {
            every: every?,
            window: window?,
            keep: keep?,
            keep_for: keep_for?,
            drill_every: drill_every?,
            recovery_target: recovery_target?,
        })
    }

    /// PostgreSQL's programs and whom they run as, looked at when they were named.
    fn programs(&mut self) -> (Option<PathBuf>, Option<String>) {
        let (bin, user) = (self.path("pg-bin"), self.optional("pg-user", text));
        if ["attach", "attach-file"]
            .iter()
            .any(|name| self.raw.values.contains_key(name))
        {
            for name in ["pg-bin", "pg-user", "process-memory-max"] {
                if self.raw.values.contains_key(name) {
                    self.mistake(
                        name,
                        "has no use with --attach: no PostgreSQL is run".to_owned(),
                    );
                }
            }
            return (bin, user);
        }
        if bin.is_some() || user.is_some() {
            let found = look_at_named(bin.as_deref(), user.as_deref());
            for (name, what) in [("pg-bin", found.bin), ("pg-user", found.user)] {
                if let Some(what) = what {
                    self.mistake(name, what);
                }
            }
        }
        (bin, user)
    }

    fn certificate(&mut self) -> Option<Arc<Identity>> {
        let (cert, key) = (self.path("tls-cert"), self.path("tls-key"));
        match (cert, key) {
            (Some(cert), Some(key)) => match Identity::read(&cert, &key) {
                Ok(identity) => Some(Arc::new(identity)),
                Err(wrong) => {
                    for (name, what) in [("tls-cert", wrong.cert), ("tls-key", wrong.key)] {
                        if let Some(what) = what {
                            self.mistake(name, what);
                        }
                    }
                    None
                }
            },
            (Some(_), None) if !self.raw.values.contains_key("tls-key") => {
                self.mistake("tls-cert", "needs tls-key beside it".to_owned());
                None
            }
            (None, Some(_)) if !self.raw.values.contains_key("tls-cert") => {
                self.mistake("tls-key", "needs tls-cert beside it".to_owned());
                None
            }
            _ => None,
        }
    }
}

/// A look at the machine waits for programs; the settings are read before there is a runtime.
fn look_at_named(bin: Option<&Path>, user: Option<&str>) -> managed::NamedMistakes {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(managed::look_at_named(bin, user)))
        // A machine that has no room for this says so at the start itself.
        .unwrap_or_default()
}

fn text(text: &str) -> Result<String, String> {
    text_not_empty(text).map(str::to_owned)
}

fn text_not_empty(text: &str) -> Result<&str, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(text)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let spelled = text
        .strip_prefix("localhost:")
        .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    spelled.parse().map_err(|_| {
        format!("'{text}' is not an address with a port, like 127.0.0.1:5433, [::1]:5433 or 0.0.0.0:5433")
    })
}

/// What users see in place of the listen address.
fn default_public_host(listen: SocketAddr) -> String {
    match listen.ip() {
        ip if ip.is_unspecified() => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        ip => ip.to_string(),
    }
}

fn public_host(text: &str) -> Result<String, String> {
    let name = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte));
    if text.is_empty() || text.len() > 253 || !name {
        return Err(format!("'{text}' is not a host name"));
    }
    Ok(text.to_owned())
}

/// Longer, and a copy of all the data is kept for weeks; a backup says what was then.
const POINT_IN_TIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// More often, and the disk does little else.
const BASE_EVERY_MIN: Duration = Duration::from_secs(600);

fn log_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("'{text}' is not a log filter: {error}"))
}

/// Separated by commas.
fn networks(text: &str) -> Result<Vec<Network>, String> {
    let networks: Vec<Network> = text
        .split(',')
        .map(|one| {
            let one = one.trim();
            one.parse().map_err(|error| format!("'{one}': {error}"))
        })
        .collect::<Result<_, _>>()?;
    if networks.len() > NETWORKS_MAX {
        return Err(format!("has more than {NETWORKS_MAX} networks"));
    }
    Ok(networks)
}

/// Most origins in the list. Each request of a browser is compared with all of them.
const ORIGINS_MAX: usize = 64;

fn origins(text: &str) -> Result<Origins, String> {
    if text.trim() == "*" {
        return Ok(Origins::Any);
    }
    let origin = |one: &str| {
        let one = one.trim();
        let host = one
            .strip_prefix("https://")
            .or_else(|| one.strip_prefix("http://"));
        // As browsers write it; with a slash at the end it would match nothing.
        let is_host = |host: &str| {
            let plain =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
            !host.is_empty() && host.chars().all(plain)
        };
        host.filter(|host| is_host(host))
            .map(|_| one.to_owned())
            .ok_or_else(|| format!("'{one}' is no origin, like https://app.example"))
    };
    let all: Vec<_> = text.split(',').map(origin).collect::<Result<_, _>>()?;
    if all.len() > ORIGINS_MAX {
        return Err(format!("has more than {ORIGINS_MAX} origins"));
    }
    Ok(Origins::These(all))
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is neither true nor false"))
}

fn count(text: &str, min: u32, max: u32) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|count| (min..=max).contains(count))
        .ok_or_else(|| format!("'{text}' is not a number from {min} to {max}"))
}

/// As PostgreSQL writes memory: a whole number and a unit, of which each is 1,024 of the one before.
fn size(text: &str, min: u64, max: u64) -> Result<u64, String> {
    const UNITS: [(&str, u32); 4] = [("kB", 10), ("MB", 20), ("GB", 30), ("TB", 40)];
    let bytes = UNITS.into_iter().find_map(|(unit, bits)| {
        let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(1 << bits)
    });
    let bytes = bytes.ok_or_else(|| format!("'{text}' is not a size like 512MB or 2GB"))?;
    if bytes < min {
        return Err(format!("'{text}' is less than {}MB", min >> 20));
    }
    if bytes > max {
        return Err(format!("'{text}' is more than {}TB", max >> 40));
    }
    Ok(bytes)
}

fn time_between(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let time = time(text, max)?;
    if time < min {
        let min = humantime::format_duration(min);
        return Err(format!("'{text}' is less than {min}"));
    }
    Ok(time)
}

fn time(text: &str, max: Duration) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("'{text}' is not a time like 30s, 15m, 24h or 7d"))
        .and_then(|time| {
            if time <= max {
                Ok(time)
            } else {
                Err(format!(
                    "'{text}' is more than {}",
                    humantime::format_duration(max)
                ))
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(given: &[(&'static str, &str)]) -> Result<Config, Vec<String>> {
        let mut raw = Raw::default();
        for (name, value) in given {
            raw.values
                .insert(name, ((*value).to_owned(), Source::Flag(name)));
        }
        Config::validate(raw).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nothing_given_is_a_local_server_that_anybody_on_it_can_use() {
        let config = validate(&[]).unwrap();
        assert_eq!(config.pg_listen.to_string(), "127.0.0.1:5433");
        assert_eq!(config.public_host, "127.0.0.1");
        assert!(config.anonymous && !config.api_tls && !config.plain_pg);
    }

    #[test]
    fn the_history_of_a_day_is_kept_unless_none_is_wanted() {
        let history = |given: &[(&'static str, &str)]| validate(given).map(|told| told.history);
        assert_eq!(history(&[]), Ok(Some(HistoryConfig::default())));
        assert_eq!(history(&[("point-in-time", "0s")]), Ok(None));
        let free = history(&[("point-in-time-free", "64MB")]).map(Option::unwrap_or_default);
        assert_eq!(
            free.map(|history| history.free_bytes_min),
            Ok(Some(64 << 20))
        );
        let told = history(&[("point-in-time-base-every", "9m"), ("point-in-time", "31d")]);
        let told = told.unwrap_err().concat();
        assert!(
            told.contains("--point-in-time: '31d' is more than 30days"),
            "{told}"
        );
        assert!(
            told.contains("--point-in-time-base-every: '9m' is less than 10m"),
            "{told}"
        );
    }

    #[test]
    fn all_mistakes_are_told_together() {
        let mistakes = validate(&[
            ("pg-listen", "5433"),
            ("workers", "0"),
            ("retention", "soon"),
            ("log", "xml"),
            ("allow-anonymous", "maybe"),
            ("tls-cert", "/nowhere/cert.pem"),
            ("attach-file", "/nowhere/dsn"),
            ("catalog", "postgresql://me:hunter2@host?sslmode=maybe"),
            ("data-dir", "/etc/passwd"),
            ("log-filter", "a=b=c"),
            ("address-ban", "2d"),
            ("address-failures-max", "-1"),
            ("address-limits-not-for", ""),
            ("proxy-protocol-from", "10.0.0.0/8, 192.0.2.1/24"),
        ])
        .unwrap_err();
        for part in [
            "--pg-listen: '5433' is not an address",
            "--workers: '0' is not a number from 1",
            "--retention: 'soon' is not a time",
            "--log: is neither",
            "--allow-anonymous: 'maybe'",
            "--tls-cert: needs tls-key",
            "--attach-file: cannot read",
            "--catalog: sslmode is disable, require, verify-ca or verify-full; a DSN is like",
            "--data-dir: /etc/passwd is no directory",
            "--log-filter: 'a=b=c'",
            "--address-ban: '2d' is more than 1day",
            "--address-failures-max: '-1' is not a number from 0",
            "--address-limits-not-for: '': a network is an address and a length",
            "--proxy-protocol-from: '192.0.2.1/24': a network has no bits behind its length",
        ] {
            assert!(
                mistakes.iter().any(|m| m.contains(part)),
                "{part}: {mistakes:?}"
            );
        }
        assert_eq!(mistakes.len(), 14, "{mistakes:?}");
        assert!(!mistakes.iter().any(|m| m.contains("hunter2")));
    }

    #[test]
    fn an_idle_server_connection_has_between_a_second_and_a_day() {
        let idle = |text| validate(&[("server-idle-max", text)]).map(|told| told.server_idle_max);
        assert_eq!(validate(&[]).unwrap().server_idle_max, SERVER_IDLE);
        assert_eq!(idle("1s"), Ok(SERVER_IDLE_MIN));
        assert_eq!(idle("24h"), Ok(SERVER_IDLE_MAX));
        let told = |text| idle(text).unwrap_err().concat();
        assert!(told("999ms").contains("--server-idle-max: '999ms' is less than 1s"));
        assert!(told("25h").contains("--server-idle-max: '25h' is more than 1day"));
    }

    #[test]
    fn memory_is_written_as_postgresql_writes_it() {
        let read = |text| validate(&[("process-memory-max", text)]);
        assert_eq!(validate(&[]).unwrap().process_memory_max, None);
        for (text, bytes) in [
            ("128MB", 128 << 20),
            ("131072kB", 128 << 20),
            ("2 GB", 2 << 30),
            ("64TB", 64 << 40),
        ] {
            assert_eq!(read(text).unwrap().process_memory_max, Some(bytes));
        }
        for (text, why) in [
            ("512", "'512' is not a size like 512MB or 2GB"),
            ("512mb", "is not a size"),
            ("1.5GB", "is not a size"),
            ("-1GB", "is not a size"),
            ("99999999999999TB", "is not a size"),
            ("127MB", "'127MB' is less than 128MB"),
            ("65TB", "'65TB' is more than 64TB"),
        ] {
            let told = read(text).unwrap_err().concat();
            assert!(
                told.contains("--process-memory-max: ") && told.contains(why),
                "{told}"
            );
        }
        let attached = [
            ("attach", "postgresql://me@h"),
            ("process-memory-max", "1GB"),
        ];
        let told = validate(&attached).unwrap_err().concat();
        assert!(told.contains("--process-memory-max: has no use with --attach"));
    }

    #[test]
    fn files_and_programs_that_are_named_are_looked_at() {
        let mistakes = validate(&[
            ("tls-cert", "/nowhere/cert.pem"),
            ("tls-key", "/etc/passwd"),
            ("pg-bin", "/nowhere"),
            ("pg-user", "no-such-user"),
            (
                "catalog",
                "host=h user=me sslmode=verify-ca sslrootcert=/nowhere/ca.pem",
            ),
        ])
        .unwrap_err();
        for part in [
            "--tls-cert: cannot read /nowhere/cert.pem",
            "--tls-key: /etc/passwd holds no private key in PEM form",
            "--pg-bin: /nowhere: no postgres there",
            "no-such-user",
            "--catalog: sslrootcert /nowhere/ca.pem",
        ] {
            assert!(
                mistakes.iter().any(|m| m.contains(part)),
                "{part}: {mistakes:?}"
            );
        }
        assert_eq!(mistakes.len(), 5, "{mistakes:?}");
        // Not looked at: it has no use.
        let mistakes = validate(&[("attach", "postgresql://me@h"), ("pg-bin", "/nowhere")]);
        let mistakes = mistakes.unwrap_err();
        assert!(
            mistakes.len() == 1 && mistakes[0].contains("no use"),
            "{mistakes:?}"
        );
    }

    #[test]
    fn on_the_network_nothing_is_open_that_was_not_opened_by_name() {
        let refused = validate(&[("api-listen", "0.0.0.0:5480")]).unwrap_err();
        assert!(refused[0].contains("--allow-plain-http"), "{refused:?}");
        let config = validate(&[("api-listen", "0.0.0.0:5480"), ("api-tls", "true")]).unwrap();
        assert!(config.api_tls && !config.anonymous);
        let config = validate(&[("pg-listen", "0.0.0.0:5433")]).unwrap();
        assert!(!config.anonymous);
        let config = validate(&[
            ("api-listen", "[::]:5480"),
            ("allow-plain-http", "true"),
            ("allow-anonymous", "true"),
        ])
        .unwrap();
        assert!(config.anonymous && !config.api_tls);
    }

    #[test]
    fn switching_plain_http_off_by_name_does_not_switch_it_on() {
        assert!(validate(&[("api-listen", "0.0.0.0:1"), ("allow-plain-http", "false")]).is_err());
        assert!(validate(&[("api-listen", "0.0.0.0:1"), ("api-tls", "false")]).is_err());
    }

    #[test]
    fn networks_are_separated_by_commas() {
        let config = validate(&[("proxy-protocol-from", "10.0.0.0/8, 2001:db8::1")]).unwrap();
        let networks: Vec<_> = config
            .proxy_protocol_from
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(networks, ["10.0.0.0/8", "2001:db8::1/128"]);
        assert!(config.address_limits_not_for.is_empty());
    }

    #[test]
    fn origins_are_written_as_browsers_do() {
        let read = |text: &str| validate(&[("sql-origins", text)]).map(|config| config.sql_origins);
        let two = ["https://app.example", "http://localhost:3000"].map(str::to_owned);
        assert_eq!(
            read("https://app.example, http://localhost:3000").unwrap(),
            Origins::These(two.to_vec())
        );
        assert_eq!(read("*").unwrap(), Origins::Any);
        for wrong in [
            "",
            "app.example",
            "https://app.example/",
            "https://A.example",
            "https://",
            "*,x",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_address_cannot_serve_two() {
        assert!(validate(&[("pg-listen", "127.0.0.1:1"), ("api-listen", "127.0.0.1:1")]).is_err());
        assert!(validate(&[("pg-listen", "127.0.0.1:0"), ("api-listen", "127.0.0.1:0")]).is_ok());
    }
}
