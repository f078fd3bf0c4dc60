//! What the settings of `serve` mean.
//!
//! Owns: which value each one has, its bounds, and the rules between them. Does not own: how values are written
//! (`values`), or those that several make together and the files and programs that are named (`parts`). All
//! mistakes are found in one go, and nothing is made.

use std::{fmt::Display, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use control::{BackupPlace, BackupSchedule, Issuer, Origins};
use model::{Network, Secret};
use node::{CatalogConfig, managed::HistoryConfig};

use self::values::{
    address, boolean, count, default_public_host, log_filter, networks, origins, public_host, size,
    text_not_empty, time, time_between,
};
use crate::serve::{
    issuers,
    settings::{Mistake, Raw, SETTINGS, Source},
    tls::Identity,
};

mod parts;
mod values;

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
    pub(crate) replace_installation_key: bool,
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
        let replace_installation_key = self.switch("replace-installation-key");
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
            replace_installation_key,
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
}

#[cfg(test)]
mod tests;
