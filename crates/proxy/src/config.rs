//! What an operator can set, and every limit of the data plane with its default and the reason.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, RwLock},
    time::Duration,
};

use model::Network;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use wire::scram::ChannelBinding;

/// Largest TLS record towards clients, bytes. libpq reads into a buffer of 8 kB; with larger
/// records some of its asynchronous users wait for a socket whose data TLS already has.
const TLS_RECORD_MAX: usize = 8192;
/// What encryption adds to a record and rustls does not count: nonce and tag of TLS 1.2's AES-GCM;
/// less in TLS 1.3.
const TLS_RECORD_SEAL: usize = 24;

/// Of one proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect. Port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Worker threads. 1: a second one costs CPU as long as one suffices.
    pub workers: usize,
    /// Certificate and key. `None` refuses TLS.
    pub tls: Option<TlsConfig>,
    /// Whether clients without TLS are refused. Default: yes, also on loopback.
    pub require_tls: bool,
    /// Secret from which the SCRAM salt of every login name is made.
    pub installation_key: [u8; 32],
    /// What opens the console: SCRAM keys of the operator's secret, made with the salt of
    /// [`crate::OPERATOR`] and `scram_iterations`. `None`: nothing opens it.
    pub operator: Option<wire::scram::Keys>,
    /// Rounds of hashing, as the stored secrets were made.
    pub scram_iterations: u32,
    /// Load balancers: what connects from there has to say first, by a header of the PROXY protocol
    /// version 2, for whom it speaks, and is believed. From elsewhere such a header is noise.
    pub proxy_protocol_from: Vec<Network>,
    /// Where the limits per address do not hold: many clients share these addresses.
    pub address_limits_not_for: Vec<Network>,
    /// Where it is written down who connects, and what operators do. `None`: nowhere.
    pub audit: Option<audit::Logs>,
    /// Limits.
    pub limits: Limits,
    /// Which server connection a session gets.
    pub lending: LendingRule,
}

/// Which server connection a session gets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LendingRule {
    /// The one it had last, or one with the same settings.
    #[default]
    Usual,
    /// For tests: never the one it had last, unless that was made as new.
    NeverTheSameTwice,
}

/// Limits of one proxy process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients at once. 1,000: each needs a file descriptor, and 1,024 is the usual soft limit.
    pub clients_max: usize,
    /// From accept to ReadyForQuery, waiting for a server connection not counted. 15 s: a login
    /// over a bad line takes 2 s.
    pub login_time_max: Duration,
    /// Connections from one address (of IPv6: one /64). 0: no limit but `clients_max`, since a whole
    /// application may come from one.
    pub address_connections_max: usize,
    /// Attempts to log in from one address in a second. 0: no limit; `login_steps_max` keeps them from
    /// being in the way.
    pub address_attempts_per_second_max: u32,
    /// Failed logins of one user from one address, within `address_failures_window`, that ban this user
    /// there; and, of several users, the address. 20: more than any mistake by hand, and 20
    /// guesses a minute find no password. 0 bans nobody.
    pub address_failures_max: u32,
    /// 60 s.
    pub address_failures_window: Duration,
    /// How long a ban lasts. 60 s: somebody who mended a password waits that long at most.
    pub address_ban: Duration,
    /// Steps of logins in one turn of a worker's event loop, in which every query that is ready goes
    /// on as well. 2: a step is a TLS handshake of 0.2 ms at most, and a query waits for two turns.
    pub login_steps_max: u32,
    /// A server connection nobody used that long is closed. 30 s: opening one takes 4 to 9 ms, and
    /// an idle one holds 2 MB of the server's memory and a place in the budget.
    pub server_idle_max: Duration,
    /// Everything known about a tenant without clients is forgotten after that. 5 min.
    pub tenant_idle_max: Duration,
    /// Longest wait of a statement for a server connection. 10 s: shorter than the usual client
    /// timeout of 30 s, so that the reason arrives.
    pub budget_wait_max: Duration,
    /// A statement that waits so long for a server connection tells its client for what. 3 s: a usual wait
    /// says nothing, and there is time left to do something about it.
    pub wait_notice_after: Duration,
    /// Server connections being opened at once, per node, by all processes together (by each, one at least). 8: each
    /// costs the server a fork and several milliseconds of CPU.
    pub connects_max: usize,
    /// Time to open one server connection, login included. 5 s.
    pub connect_time_max: Duration,
    /// Time to reset a server connection between two clients; a slower one is closed. 5 s.
    pub reset_time_max: Duration,
    /// How long a server may work on after its client left. 10 s, then the statement is cancelled.
    pub abandoned_time_max: Duration,
    /// How long routes are used while the control plane cannot be asked. 1 h.
    pub stale_max: Duration,
    /// How long an answer of the control plane, also "no such login", is used without asking
    /// again. 10 s; a change of the tenant ends it at once.
    pub fresh_max: Duration,
    /// Answers of the control plane that are kept, per worker. 16,384 of 0.5 kB.
    pub routes_max: usize,
    /// Statements told apart for each tenant, by their shape. 200: applications have some 50 to 500,
    /// and the table takes 60 kB when it is full of usual ones. 0: none, and their times are not
    /// measured.
    pub insight_statements_max: usize,
    /// What shapes of statements take per worker, bytes. 32 MB, which is 500 tenants with a full
    /// table; the next ones are counted without their text.
    pub insight_bytes_max: usize,
    /// Lines of a tenant's log that wait to be taken, which happens every ten seconds. 2,000: 200 a second; the
    /// next ones are counted only.
    pub log_lines_max: usize,
    /// The same of all tenants, per worker. 20,000: some 3 MB.
    pub log_lines_worker_max: usize,
    /// Cancel requests under way at once, per worker. 64; others wait their turn.
    pub cancels_max: usize,
    /// Time for one cancel request towards a server. 5 s.
    pub cancel_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients_max: 1000,
            login_time_max: Duration::from_secs(15),
            address_connections_max: 0,
            address_attempts_per_second_max: 0,
            address_failures_max: 20,
            address_failures_window: Duration::from_secs(60),
            address_ban: Duration::from_secs(60),
            login_steps_max: 2,
            server_idle_max: Duration::from_secs(30),
            tenant_idle_max: Duration::from_secs(300),
            budget_wait_max: Duration::from_secs(10),
            wait_notice_after: Duration::from_secs(3),
            connects_max: 8,
            connect_time_max: Duration::from_secs(5),
            reset_time_max: Duration::from_secs(5),
            abandoned_time_max: Duration::from_secs(10),
            stale_max: Duration::from_secs(3600),
            fresh_max: Duration::from_secs(10),
            routes_max: 16_384,
            insight_statements_max: 200,
            insight_bytes_max: 32 << 20,
            log_lines_max: 2_000,
            log_lines_worker_max: 20_000,
            cancels_max: 64,
            cancel_time_max: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// With default limits.
    pub fn new(listen: Vec<SocketAddr>, installation_key: [u8; 32]) -> Self {
        Self {
            listen,
            workers: 1,
            tls: None,
            require_tls: true,
            installation_key,
            operator: None,
            audit: None,
            proxy_protocol_from: Vec::new(),
            address_limits_not_for: Vec::new(),
            scram_iterations: wire::scram::ITERATIONS_DEFAULT,
            limits: Limits::default(),
            lending: LendingRule::default(),
        }
    }
}

/// Certificate and key of the proxy. Copies share one value, so [`Self::replace`] reaches all.
#[derive(Clone)]
pub struct TlsConfig(Arc<RwLock<Identity>>);

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsConfig(..)")
    }
}

#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) binding: ChannelBinding,
}

/// Why a certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of them cannot be read.
    #[error("read the certificate or key")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// There is no certificate.
    #[error("no certificate in the file")]
    Empty,
    /// They do not fit, or are of a kind that is not supported.
    #[error("use the certificate and key")]
    Unusable(#[source] rustls::Error),
}

impl TlsConfig {
    /// From a chain (leaf first) and its key, both PEM.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Identity::from_pem(chain, key).map(|identity| Self(Arc::new(RwLock::new(identity))))
    }

    /// Uses another certificate and key from the next handshake on.
    ///
    /// # Errors
    ///
    /// [`TlsError`], with nothing changed.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
        let identity = Identity::from_pem(chain, key)?;
        *self.0.write().unwrap_or_else(|lock| lock.into_inner()) = identity;
        Ok(())
    }

    pub(crate) fn now(&self) -> Identity {
        self.0
            .read()
            .unwrap_or_else(|lock| lock.into_inner())
            .clone()
    }
}

impl Identity {
    fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(TlsError::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(TlsError::Pem)?;
        let binding = ChannelBinding::of_certificate(chain.first().ok_or(TlsError::Empty)?);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(TlsError::Unusable)?;
        server.alpn_protocols = vec![b"postgresql".to_vec()];
        // Clients of PostgreSQL do not resume; tickets would be memory and bytes for nothing.
        server.send_tls13_tickets = 0;
        server.max_fragment_size = Some(TLS_RECORD_MAX - TLS_RECORD_SEAL);
        Ok(Self {
            server: Arc::new(server),
            binding,
        })
    }
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing to listen on, or no worker.
    #[error("a proxy needs an address and at least one worker")]
    Nothing,
    /// TLS is required but there is no certificate.
    #[error("TLS is required but there is no certificate")]
    NoCertificate,
    /// An address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A thread or its event loop cannot be made.
    #[error("start a worker")]
    Worker(#[source] io::Error),
}
