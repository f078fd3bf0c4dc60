//! What the control plane is told at start.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use model::Network;

use crate::{BackupPlace, BackupSchedule, api::cors::Origins, sql::Issuer};

/// Settings of the control plane. Already validated: files were read, numbers are in range.
#[derive(Clone)]
pub struct Config {
    /// Name of this process among those that share the catalog. What a former process of the same
    /// name had begun is taken up again at once; what one of another name had begun, after its
    /// lease ended.
    pub instance: String,
    /// Where the API listens. Port 0 picks one: see [`crate::Control::local_addr`].
    pub api_listen: SocketAddr,
    /// TLS of the API; `None` is plain HTTP.
    pub api_tls: Option<Arc<rustls::ServerConfig>>,
    /// What connection strings say: where clients reach the proxy.
    pub public_host: String,
    /// What connection strings say.
    pub public_port: u16,
    /// Shown as the region of every database. DB9 keeps it as a hint; so do we.
    pub region: Option<String>,
    /// Whether somebody without credentials may register a project.
    pub anonymous_registration: bool,
    /// Whether `/metrics` is read without a token. It names tenants by their ids.
    pub metrics_open: bool,
    /// Whether the catalog is to belong to the keys that it is started with, when it belonged to others.
    pub replace_key: bool,
    /// Pages that browsers let use SQL over HTTP. None unless the operator names them.
    pub sql_origins: Origins,
    /// Whose tokens are believed for SQL over HTTP, besides our own.
    pub sql_issuers: Vec<Issuer>,
    /// Proxies in front of the API, whose `X-Forwarded-For` says where a client is.
    pub forwarded_from: Vec<Network>,
    /// SHA-256 of the operator's token; see [`crate::token_hash`].
    pub operator_token_sha256: [u8; 32],
    /// How long the data of a deleted database is kept.
    pub retention: Duration,
    /// How long copies of lines of the audit log are shown; zero: for ever.
    pub audit_keep: Duration,
    /// How long lines of statement logs are kept.
    pub statement_log_keep: Duration,
    /// Where backups are put.
    pub backup_place: BackupPlace,
    /// When databases are backed up without being asked, and for how long that is kept.
    pub backup_schedule: BackupSchedule,
    /// Databases made ahead of demand.
    pub warm_pool: WarmPool,
    /// Everything else that has a bound.
    pub limits: ControlLimits,
}

/// Size of the pool of complete, unused databases.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WarmPool {
    /// Kept ready without any demand. 4: about 30 MB of disk, and a person never waits.
    pub min: u32,
    /// Kept ready at most, however great the demand. 32: a burst of 20 callers, with room.
    pub max: u32,
}

impl Default for WarmPool {
    fn default() -> Self {
        Self { min: 4, max: 32 }
    }
}

/// Bounds of the control plane, each with its reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ControlLimits {
    /// Connections to the catalog for the API and the passes. 12: as many short transactions at
    /// once as a small server likes.
    pub catalog_connections_max: usize,
    /// Connections to the catalog for logins, apart, so that no load on the API delays one. 4:
    /// about two thousand logins per second.
    pub login_connections_max: usize,
    /// Wait for one of them. 5 s: longer than any burst, shorter than a client's patience.
    pub catalog_wait_max: Duration,
    /// API connections at once; more wait in the listen queue. 1,024.
    pub api_connections_max: usize,
    /// Size of a request body. 1 MiB; `/sql` has its own.
    pub body_bytes_max: usize,
    /// Size of the body of `/sql`. 16 MiB: a seed file.
    pub sql_body_bytes_max: usize,
    /// Time for one request, all included. 90 s: above the longest `?wait=` and SQL time.
    pub request_time_max: Duration,
    /// Time for the head of a request to arrive. 10 s.
    pub header_time_max: Duration,
    /// `?wait=` at most. 60 s.
    pub wait_max: Duration,
    /// Wait of a create that says nothing else. 20 s.
    pub wait_default: Duration,
    /// Life of a connect token, at most, and when nobody asks for less. 10 min: long enough to start a
    /// pool of connections, short enough to be of no use to who finds it later.
    pub connect_token_time_max: Duration,
    /// Databases of an anonymous project, branches counted. 5, as in DB9.
    pub anonymous_databases_max: u32,
    /// Anonymous projects that one address (of IPv6: one /64) may make within an hour; 0 is any number.
    /// 100: an office behind one address, and no flood.
    pub anonymous_per_hour_max: u32,
    /// Rows of one result of `/sql`. 10,000.
    pub sql_rows_max: usize,
    /// Bytes of all results of one request to `/sql`, as JSON. 8 MiB: 64 requests at once are half a
    /// gigabyte, or twice that while they are written.
    pub sql_result_bytes_max: usize,
    /// Time of one request to `/sql` inside the database. 30 s.
    pub sql_time_max: Duration,
    /// Requests to `/sql` at once; more are told to come again. 64.
    pub sql_concurrent_max: usize,
    /// The same, of one database. 16: a quarter, so that one with slow statements leaves room.
    pub sql_concurrent_per_database_max: usize,
    /// How long keys of an issuer are used before they are read again. 10 min: as long as a key that the
    /// issuer took back may still open something.
    pub jwks_fresh: Duration,
    /// How long they are used on while the issuer cannot be reached. 1 h.
    pub jwks_stale_max: Duration,
    /// Between two attempts to read them. 10 s: a new key works soon, and tokens with made-up keys
    /// make nobody ask the issuer more often.
    pub jwks_every: Duration,
    /// Idempotency keys remembered per project, and per token that may not do everything there. 10,000.
    pub idempotency_keys_max: u32,
    /// How long one is remembered, with its encrypted answer. 1 h: longer than retries take; short,
    /// because the answer may hold a password.
    pub idempotency_time: Duration,
    /// What is on its way for longer than this is driven on when it was forgotten, and fails when it
    /// cannot be made; why is in its `state_reason`. 10 min.
    pub stuck_after: Duration,
    /// Databases worked on at once. 4: more only wait for each other inside PostgreSQL.
    pub placements_concurrent_max: usize,
    /// Branches that are copied at once. 2: each keeps a disk busy, and creates have to go on.
    pub branches_concurrent_max: usize,
    /// How long making a branch may take, with its wait in the queue, unless a request says otherwise. 300 s, as in
    /// DB9.
    pub branch_time_max: Duration,
    /// Backups that are made, read through or removed at once. 2: each keeps a disk and half a core busy, and
    /// creates have to go on.
    pub backups_concurrent_max: usize,
    /// How long making one may take. 6 h: some hundred GB.
    pub backup_time_max: Duration,
    /// Dumps that are written for owners at once; more are told to come again. 2, as of backups; each may take as
    /// long as one.
    pub dumps_concurrent_max: usize,
    /// How long a restore may take, with its wait in the queue, unless a request says otherwise. 6 h.
    pub restore_time_max: Duration,
    /// Lines of the statement log of one database. 10,000: a page to look through, some MB; the oldest are removed.
    pub log_lines_max: i64,
    /// The same of all databases together, within ten minutes. 1,000,000: some 100 MB of the catalog.
    pub log_lines_all_max: i64,
    /// Differences of a branch that are looked for at once; more are told to come again. 2.
    pub diff_concurrent_max: usize,
    /// Entries of the lock table, which all tenants share, that one server connection may hold before
    /// it is ended. 1,000: with it all connections of one tenant (12) stay below the size of the table
    /// of a managed node.
    pub locks_per_server_max: u32,
    /// How much longer than its lease a process that cannot reach the catalog uses what it had of a node's
    /// budget, as long as the node sees it. 1 h: as long as it uses what it knows of tenants.
    pub stale_max: Duration,
    /// How full the queue of NOTIFY, which all tenants share, may be before its holders are ended, in
    /// percent. 50: where PostgreSQL begins to warn.
    pub notify_queue_percent_max: u32,
}

impl Default for ControlLimits {
    fn default() -> Self {
        Self {
            catalog_connections_max: 12,
            login_connections_max: 4,
            catalog_wait_max: Duration::from_secs(5),
            api_connections_max: 1024,
            body_bytes_max: 1 << 20,
            sql_body_bytes_max: 16 << 20,
            request_time_max: Duration::from_secs(90),
            header_time_max: Duration::from_secs(10),
            wait_max: Duration::from_secs(60),
            wait_default: Duration::from_secs(20),
            connect_token_time_max: Duration::from_secs(600),
            anonymous_databases_max: 5,
            anonymous_per_hour_max: 100,
            sql_rows_max: 10_000,
            sql_result_bytes_max: 8 << 20,
            sql_time_max: Duration::from_secs(30),
            sql_concurrent_max: 64,
            sql_concurrent_per_database_max: 16,
            jwks_fresh: Duration::from_secs(600),
            jwks_stale_max: Duration::from_secs(3600),
            jwks_every: Duration::from_secs(10),
            idempotency_keys_max: 10_000,
            idempotency_time: Duration::from_secs(3600),
            stuck_after: Duration::from_secs(600),
            placements_concurrent_max: 4,
            branches_concurrent_max: 2,
            branch_time_max: Duration::from_secs(300),
            backups_concurrent_max: 2,
            backup_time_max: Duration::from_secs(6 * 3600),
            dumps_concurrent_max: 2,
            restore_time_max: Duration::from_secs(6 * 3600),
            log_lines_max: 10_000,
            log_lines_all_max: 1_000_000,
            diff_concurrent_max: 2,
            locks_per_server_max: 1_000,
            stale_max: Duration::from_secs(3600),
            notify_queue_percent_max: 50,
        }
    }
}

impl Config {
    /// Settings for a process that listens on loopback only.
    pub fn local(
        api_listen: SocketAddr,
        public_port: u16,
        operator_token_sha256: [u8; 32],
    ) -> Self {
        Self {
            instance: "serve".to_owned(),
            api_listen,
            api_tls: None,
            public_host: "127.0.0.1".to_owned(),
            public_port,
            region: None,
            anonymous_registration: true,
            metrics_open: false,
            replace_key: false,
            sql_origins: Origins::None,
            sql_issuers: Vec::new(),
            forwarded_from: Vec::new(),
            operator_token_sha256,
            retention: Duration::from_secs(24 * 3600),
            audit_keep: Duration::from_secs(90 * 24 * 3600),
            statement_log_keep: Duration::from_secs(7 * 24 * 3600),
            backup_place: BackupPlace::folder("backups"),
            backup_schedule: BackupSchedule::default(),
            warm_pool: WarmPool::default(),
            limits: ControlLimits::default(),
        }
    }
}
