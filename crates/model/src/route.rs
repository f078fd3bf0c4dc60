//! What the proxy must know to serve a tenant, and how it learns it.
//!
//! The one thing the control plane and the proxy share. Inside one process the two ends are
//! joined by [`channel`]; between processes something else will carry the same types. The proxy
//! asks for one login at a time and is told which tenants changed; it keeps what it knows, so
//! known tenants keep connecting while the control plane is away.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{CredentialId, Group, Limits, Login, LoginName, Network, Pid, Role, Secret, TenantId};

/// A PostgreSQL server as the proxy reaches it.
#[derive(Debug)]
pub struct NodeTarget {
    /// For logs and metrics; never told to a client.
    pub name: String,
    /// Where it listens.
    pub address: NodeAddress,
    /// Server connections all tenants of the node may hold together.
    pub server_connections_max: u32,
}

/// Where a server listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NodeAddress {
    /// A socket file (`…/.s.PGSQL.5432`).
    Unix(PathBuf),
    /// Host and port, with or without TLS.
    Tcp {
        /// Name or address, as the operator gave it.
        host: String,
        /// Port.
        port: u16,
        /// What the DSN of the node says about TLS.
        tls: NodeTls,
    },
}

/// How the connection to a node is protected. Words of libpq's `sslmode`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NodeTls {
    /// Plain.
    Disable,
    /// Encrypted, whoever answers.
    Require,
    /// Encrypted, and the certificate's chain ends in these roots (PEM), or the system's.
    VerifyCa(Option<PathBuf>),
    /// Also, its name is the host's.
    VerifyFull(Option<PathBuf>),
}

/// Whether sessions may begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Yes.
    Open,
    /// Not until its database is there.
    NotReady,
    /// Making its database failed.
    Failed,
    /// Not until it is resumed.
    Suspended,
    /// It was deleted.
    Deleted,
    /// Its lifetime is over.
    Expired,
}

/// How long a session keeps the server connection it is lent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Hash)]
pub enum PoolMode {
    /// For a transaction, and longer while it holds what cannot be carried to another one.
    #[default]
    Auto,
    /// From its first statement until it ends.
    Session,
    /// For a transaction, whatever the session holds.
    Transaction,
}

/// Not the name of a [`PoolMode`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a pool mode is auto, session or transaction")]
pub struct PoolModeError;

impl PoolMode {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Session => "session",
            Self::Transaction => "transaction",
        }
    }
}

impl std::str::FromStr for PoolMode {
    type Err = PoolModeError;

    fn from_str(text: &str) -> Result<Self, PoolModeError> {
        match text {
            "auto" => Ok(Self::Auto),
            "session" => Ok(Self::Session),
            "transaction" => Ok(Self::Transaction),
            _ => Err(PoolModeError),
        }
    }
}

/// Whether a tenant's database takes more space on disk than it may, as far as it was measured.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Storage {
    /// It does not, or has no limit, or was not measured yet: nothing is refused.
    #[default]
    Free,
    /// It does: what makes it larger is refused.
    Full {
        /// As measured last.
        bytes: u64,
    },
    /// It went on growing although it was full, by what the text of statements does not show: what may
    /// write unseen is refused too.
    Overrun {
        /// As measured last.
        bytes: u64,
    },
}

/// How far a full database grows on before it is [`Storage::Overrun`]: a tenth of its limit, and 64 MiB
/// at least, which is more than statements that ran already leave behind.
const OVERRUN_MIN: u64 = 64 << 20;

impl Storage {
    /// What follows from what was measured. `full_at`: its size when it was found to be full first.
    pub fn of(limit: Option<u64>, bytes: Option<u64>, full_at: Option<u64>) -> Self {
        let (Some(limit), Some(bytes)) = (limit, bytes) else {
            return Self::Free;
        };
        if bytes <= limit {
            return Self::Free;
        }
        let margin = (limit / 10).max(OVERRUN_MIN);
        match full_at {
            Some(full_at) if bytes > full_at.saturating_add(margin) => Self::Overrun { bytes },
            _ => Self::Full { bytes },
        }
    }

    /// What it took when it was measured last, if that is too much.
    pub fn excess(self) -> Option<u64> {
        match self {
            Self::Free => None,
            Self::Full { bytes } | Self::Overrun { bytes } => Some(bytes),
        }
    }
}

/// All there is to know to serve one role, or one user, of one tenant. Shared, never changed: a change
/// makes a new one.
#[derive(Debug)]
pub struct Route {
    /// Whose it is.
    pub tenant: TenantId,
    /// As whom.
    pub login: Login,
    /// What it may do there.
    pub role: Role,
    /// Clients that may be logged in to one proxy as this user at once; those of the tenant as a whole are in
    /// `limits`. `None`: no limit of its own.
    pub clients_max: Option<u32>,
    /// Whether sessions may begin. Told only to those who proved a secret.
    pub access: Access,
    /// How long that lasts, from when it was asked, by the catalog's clock; then it is
    /// [`Access::Expired`], also while the control plane is away. `None`: as long as nothing changes.
    pub expires_in: Option<Duration>,
    /// Secrets that open it. At most [`CANDIDATES_MAX`]; all are evaluated at every login.
    pub candidates: Vec<Candidate>,
    /// Where its data is.
    pub server: ServerLogin,
    /// What it may use.
    pub limits: Limits,
    /// Whether it has room on disk.
    pub storage: Storage,
    /// How its sessions share server connections, unless a client asks for another mode.
    pub pool_mode: PoolMode,
}

/// Secrets valid at once for one login name. More are not read. 128: what may be valid at once of each
/// kind, all together; comparing with that many takes a fraction of a millisecond.
pub const CANDIDATES_MAX: usize = 128;

/// One secret that opens a route: SCRAM-SHA-256 keys (RFC 5802, section 3) over the salt that the
/// login name has.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which one, for logs and for ending its sessions when it is revoked.
    pub id: CredentialId,
    /// SCRAM's `StoredKey`.
    pub stored_key: [u8; 32],
    /// SCRAM's `ServerKey`.
    pub server_key: [u8; 32],
    /// Logins are refused from then on.
    pub expires_at: Option<SystemTime>,
    /// Works once: the proxy asks [`Request::Consume`] before it lets the client in. Its sessions stay
    /// when it is gone, since it is gone because of them.
    pub one_use: bool,
    /// Open sessions stay when it has expired or was revoked; those of others end then.
    pub outlived: bool,
    /// Where clients that use it must come from. `None`: from anywhere.
    pub network: Option<Network>,
}

/// How to log in to the server in the name of a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerLogin {
    /// Which data. Changes when the tenant's data is replaced; sessions on another one are ended.
    pub pid: Pid,
    /// Name of the physical database.
    pub database: String,
    /// Name of the login.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// The group whose rights its sessions have.
    pub group: Group,
    /// Settings for the startup packet, beside `role`, in the order they are given.
    pub settings: BTreeMap<String, String>,
}

/// Asked by the proxy.
#[derive(Debug)]
pub enum Request {
    /// What opens this login, and where does it lead?
    Resolve {
        /// As routed.
        login: LoginName,
        /// `None`: no such login. The asker treats both alike until a secret was proved.
        reply: oneshot::Sender<Result<Option<Resolved>, Unavailable>>,
    },
    /// A one-use credential was proved: is it still unused? It no longer is after this.
    Consume {
        /// Which.
        credential: CredentialId,
        /// Whether the client may go on.
        reply: oneshot::Sender<bool>,
    },
    /// A proxy says how much it has of a node's budget and what it needs: how much may it have?
    Lease {
        /// What it says.
        demand: Demand,
        /// [`Unavailable`]: what it was told before holds, until its time is over.
        reply: oneshot::Sender<Result<BudgetLease, Unavailable>>,
    },
    /// Nothing to answer; the control plane repairs what it finds.
    Report(Report),
}

/// How much a proxy has of a node's budget of server connections, and needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Demand {
    /// [`NodeTarget::name`].
    pub node: String,
    /// [`NodeTarget::server_connections_max`]: what there is for all proxies together.
    pub budget: u32,
    /// So many it has, or may take by what it was told last. Others can have only what is not in here.
    pub held: u32,
    /// So many it would use now.
    pub needed: u32,
}

/// A part of a node's budget, for a time. The sum over all proxies is never more than the budget.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BudgetLease {
    /// So many server connections the proxy may have. When it has more, it opens none, closes those
    /// that are idle, and says with its next [`Demand`] how far it came.
    pub server_connections: u32,
    /// From the moment it asked. Later it opens none until it is told more.
    pub valid_for: Duration,
}

/// The answer to [`Request::Resolve`].
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The route itself.
    pub route: Arc<Route>,
    /// The node it leads to. Equal routes to one node share one value.
    pub node: Arc<NodeTarget>,
}

/// Seen by the proxy, of interest to the control plane.
#[derive(Clone, Debug)]
pub enum Report {
    /// A secret opened a session.
    LoggedIn {
        /// Which secret.
        credential: CredentialId,
        /// From where; `None`: the platform itself.
        from: Option<IpAddr>,
    },
    /// The server refused our own login (28P01, 28000): somebody changed its password.
    ServerLoginRefused {
        /// Whose.
        tenant: TenantId,
        /// Which login.
        login: Login,
    },
}

/// The control plane cannot tell now. Known routes may be used on, within `stale_max`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the catalog cannot be reached")]
pub struct Unavailable;

/// Something about a tenant changed: forget its routes, ask again where it has sessions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Rises with every change.
    pub generation: u64,
    /// Which tenant.
    pub tenant: TenantId,
}

/// The proxy's end.
#[derive(Clone, Debug)]
pub struct RouteClient {
    /// Bounded: a full queue makes the asker wait.
    pub requests: mpsc::Sender<Request>,
    changes: broadcast::Sender<Change>,
}

impl RouteClient {
    /// Changes from now on. A receiver that lags has missed some: it forgets all its routes.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Asks what opens `login`.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] when the catalog, or the control plane as a whole, cannot be reached.
    pub async fn resolve(&self, login: LoginName) -> Result<Option<Resolved>, Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request::Resolve { login, reply })
            .await
            .map_err(|_| Unavailable)?;
        answer.await.map_err(|_| Unavailable)?
    }

    /// Uses up a one-use credential. False when it was used before, or nobody can tell.
    pub async fn consume(&self, credential: CredentialId) -> bool {
        let (reply, answer) = oneshot::channel();
        if self
            .requests
            .send(Request::Consume { credential, reply })
            .await
            .is_err()
        {
            return false;
        }
        answer.await.unwrap_or(false)
    }

    /// Asks for a part of a node's budget.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] when the catalog, or the control plane as a whole, cannot be reached.
    pub async fn lease(&self, demand: Demand) -> Result<BudgetLease, Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request::Lease { demand, reply })
            .await
            .map_err(|_| Unavailable)?;
        answer.await.map_err(|_| Unavailable)?
    }

    /// Tells what was seen. Dropped when the queue is full: reports are hints.
    pub fn report(&self, report: Report) {
        let _ = self.requests.try_send(Request::Report(report));
    }
}

/// The control plane's end.
#[derive(Debug)]
pub struct RouteServer {
    /// To be answered, in any order.
    pub requests: mpsc::Receiver<Request>,
    /// Tells every worker of every proxy.
    pub changes: broadcast::Sender<Change>,
}

/// Questions waiting for an answer. Above it, logins wait in their own tasks.
const REQUESTS_MAX: usize = 1024;
/// Changes a worker may be behind before it forgets everything it knows.
const CHANGES_MAX: usize = 4096;

/// Joins a proxy and a control plane inside one process.
pub fn channel() -> (RouteClient, RouteServer) {
    let (requests_in, requests) = mpsc::channel(REQUESTS_MAX);
    let (changes, _) = broadcast::channel(CHANGES_MAX);
    (
        RouteClient {
            requests: requests_in,
            changes: changes.clone(),
        },
        RouteServer { requests, changes },
    )
}

/// A way into the proxy for SQL over HTTP: each visit is served like a client that came over TLS.
pub type Door = mpsc::Sender<Visit>;

/// Somebody who comes through the [`Door`].
#[derive(Debug)]
pub struct Visit {
    /// Speaks the PostgreSQL protocol.
    pub stream: UnixStream,
    /// The address of the HTTP client. The proxy's limits per address, its bans, and the addresses that
    /// the tenant allows hold for it. `None`: the platform has let it in by itself, and vouches for
    /// it with a one-use credential.
    pub from: Option<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_full_only_above_its_limit_and_never_unmeasured() {
        const GIB: u64 = 1 << 30;
        let full = Storage::Full { bytes: GIB + 1 };
        for (limit, bytes, full_at, storage) in [
            (None, None, None, Storage::Free),
            (None, Some(GIB), Some(1), Storage::Free),
            (Some(GIB), None, None, Storage::Free),
            (Some(GIB), None, Some(GIB), Storage::Free),
            (Some(GIB), Some(GIB), None, Storage::Free),
            (Some(GIB), Some(GIB), Some(1), Storage::Free),
            (Some(GIB), Some(GIB + 1), None, full),
            (Some(GIB), Some(GIB + 1), Some(GIB + 1), full),
        ] {
            assert_eq!(Storage::of(limit, bytes, full_at), storage);
        }
        // A limit that was lowered far below what is there is no overrun; growing on is.
        let lowered = |bytes| Storage::of(Some(GIB), Some(bytes), Some(9 * GIB));
        assert_eq!(lowered(9 * GIB), Storage::Full { bytes: 9 * GIB });
        let margin = GIB / 10;
        let within = 9 * GIB + margin;
        assert_eq!(lowered(within), Storage::Full { bytes: within });
        let beyond = within + 1;
        assert_eq!(lowered(beyond), Storage::Overrun { bytes: beyond });
        assert_eq!(lowered(beyond).excess(), Some(beyond));
        // Of small databases 64 MiB.
        let small = |bytes| Storage::of(Some(1 << 20), Some(bytes), Some(2 << 20));
        assert_eq!(small(66 << 20), Storage::Full { bytes: 66 << 20 });
        assert_eq!(small(67 << 20), Storage::Overrun { bytes: 67 << 20 });
    }
}
