//! What clients of the proxy are told when something is refused or ends.
//!
//! Owns: the one list of refusals with their codes, words and hints. Texts of PostgreSQL itself
//! pass through elsewhere and are not in it.

use model::{LoginNameError, Public, UserName};
use wire::{
    forwarded::ForwardedError,
    login::client::LoginError,
    message::build::{self, Report, Severity},
    startup::{OptionError, StartupError},
};

use crate::limits::Exceeded;

/// Why a client is turned away, its statement refused, or its session ended. Unless
/// [`Self::ends_only_a_statement`], the connection closes behind it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The first packet.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// What a load balancer says first.
    #[error(transparent)]
    Forwarded(#[from] ForwardedError),
    /// A message during login.
    #[error(transparent)]
    Login(LoginError),
    /// The user name routes nowhere.
    #[error(transparent)]
    LoginName(#[from] LoginNameError),
    /// Plain text where TLS is required.
    #[error("this server requires TLS")]
    TlsRequired,
    /// TLS from the first byte without ALPN.
    #[error("TLS without the protocol name \"postgresql\" (ALPN)")]
    Alpn,
    /// Login took longer than `login_time_max`.
    #[error("canceling authentication due to timeout")]
    LoginTimeout,
    /// `clients_max` of this process.
    #[error("sorry, too many clients already")]
    TooManyClients,
    /// `address_connections_max`.
    #[error("too many connections from your IP")]
    TooManyOfAddress,
    /// `address_attempts_per_second_max`.
    #[error("too many login attempts from your IP")]
    TooManyAttempts,
    /// `address_failures_max`. The words are fixed: clients look for them.
    #[error(
        "connection rejected: your IP is temporarily rate-limited after repeated failed auth \
         attempts, retry in {seconds}s"
    )]
    Banned {
        /// What is left of `address_ban`.
        seconds: u64,
    },
    /// `client_connections_max` of the tenant.
    #[error("too many clients of this database")]
    TooManyClientsOfTenant,
    /// `client_connections_max` of the user.
    #[error("too many clients of user \"{user}\": it may have {max} at once")]
    TooManyClientsOfUser {
        /// Its name inside the database.
        user: UserName,
        /// Its limit.
        max: u32,
    },
    /// No such login, or no such secret: the answer is the same.
    #[error("password authentication failed for user \"{user}\"")]
    WrongPassword {
        /// As the client gave it.
        user: String,
    },
    /// The proof matched nothing that is known, and nobody can be asked.
    #[error("logins cannot be checked at the moment")]
    CannotCheck,
    /// Another database name.
    #[error("database \"{database}\" does not exist")]
    NoSuchDatabase {
        /// As the client gave it.
        database: String,
    },
    /// `replication` in the startup packet.
    #[error("replication connections are not supported")]
    Replication,
    /// The startup parameter `options`.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// A setting that decides whose rights a session has.
    #[error("parameter \"{name}\" cannot be set by a client")]
    Setting {
        /// Which.
        name: String,
    },
    /// `tenantry.pool_mode` with a value that is none.
    #[error("invalid value for parameter \"tenantry.pool_mode\"")]
    PoolMode,
    /// The tenant's database is being made.
    #[error("the database is not ready yet")]
    NotReady,
    /// The tenant's database could not be made.
    #[error("the database could not be made")]
    NotMade,
    /// The tenant is suspended.
    #[error("the database is suspended")]
    Suspended,
    /// The tenant was deleted.
    #[error("the database was deleted")]
    Deleted,
    /// The tenant's lifetime is over.
    #[error("the database has expired")]
    Expired,
    /// `allowed_addresses` of the tenant.
    #[error("connections from this address are not allowed")]
    Address,
    /// The credential is good, but not for where the client comes from.
    #[error("this credential may not be used from your address")]
    CredentialAddress,
    /// No server connection became free in time.
    #[error("no server connection became free within {waited_ms} ms")]
    Busy {
        /// `budget_wait_max`.
        waited_ms: u64,
    },
    /// The same, when all that there were are held by open transactions of the application that waits.
    #[error(
        "no server connection became free within {waited_ms} ms: open transactions of this application hold \
         all of them, and wait for it to go on"
    )]
    Nested {
        /// `budget_wait_max`.
        waited_ms: u64,
    },
    /// An operator holds the tenant's new transactions, for longer than a statement waits.
    #[error("the database is paused")]
    Paused,
    /// It has more names of prepared statements than one session may have, or than its part when its tenant has
    /// too many.
    #[error("terminating connection because it has too many prepared statements")]
    TooManyPrepared,
    /// A limit of the tenant that is kept while sessions are open.
    #[error("{0}")]
    Limit(Exceeded),
    /// The same, of a result whose statement was carried out before it could be stopped.
    #[error("terminating connection: {0}")]
    Unseen(Exceeded),
    /// The client cancelled a statement that waited for a server connection.
    #[error("canceling statement due to user request")]
    Cancelled,
    /// The server cannot be reached, or is starting.
    #[error("the database server cannot be reached")]
    ServerDown,
    /// The server refused our own login.
    #[error("the database refuses the platform")]
    ServerLogin,
    /// The server hung up.
    #[error("terminating connection because the database server went away")]
    ServerLost,
    /// Its database wants a line in the audit log for each statement, and there is no place for one. Inside a
    /// transaction the session ends.
    #[error("the audit log cannot be written, so nothing is carried out")]
    Unaudited,
    /// A setting of the session could not be made again on another server connection.
    #[error("terminating connection because a setting of the session could not be restored")]
    StateLost,
    /// The server said what nobody asked for, or the client did not speak the protocol.
    #[error("terminating connection because protocol synchronization was lost")]
    OutOfStep,
    /// A message type that no client may send.
    #[error("invalid frontend message type {0}")]
    ClientMessage(u8),
    /// The secret of the session was changed or revoked.
    #[error("terminating connection because its password or token was changed or revoked")]
    Revoked,
    /// The data of the tenant was replaced or moved.
    #[error("terminating connection because the database was replaced or moved")]
    Replaced,
    /// The tenant was suspended or deleted while the session was open.
    #[error("terminating connection because the database was suspended or deleted")]
    Closed,
    /// The tenant's lifetime ended while the session was open.
    #[error("terminating connection because the database has expired")]
    Ended,
    /// The proxy is stopping.
    #[error("terminating connection due to administrator command")]
    Draining,
    /// A mistake of ours.
    #[error("terminating connection because of an internal error")]
    Internal,
}

impl Public for Refusal {
    fn sqlstate(&self) -> &'static str {
        match self {
            Self::Startup(error) => error.sqlstate(),
            Self::Login(error) => error.sqlstate(),
            Self::LoginName(_) | Self::TlsRequired | Self::Address | Self::CredentialAddress => {
                "28000"
            } // invalid_authorization_specification
            Self::WrongPassword { .. } => "28P01", // invalid_password
            Self::LoginTimeout | Self::Cancelled => "57014", // query_canceled, as PostgreSQL
            Self::TooManyClients
            | Self::TooManyOfAddress
            | Self::TooManyAttempts
            | Self::Banned { .. }
            | Self::TooManyClientsOfTenant
            | Self::TooManyClientsOfUser { .. }
            | Self::Busy { .. }
            | Self::Nested { .. } => "53300", // too_many_connections
            Self::NoSuchDatabase { .. } | Self::Deleted | Self::Expired => "3D000", // invalid_catalog_name
            Self::Replication => "0A000",    // feature_not_supported
            Self::Options(_) => "42601",     // syntax_error
            Self::Setting { .. } => "42501", // insufficient_privilege
            Self::PoolMode => "22023",       // invalid_parameter_value
            Self::CannotCheck
            | Self::NotReady
            | Self::NotMade
            | Self::Paused
            | Self::ServerLogin => "57P03", // cannot_connect_now
            Self::Suspended => "55000",      // object_not_in_prerequisite_state
            Self::ServerDown => "08006",     // connection_failure
            Self::ServerLost
            | Self::StateLost
            | Self::Revoked
            | Self::Replaced
            | Self::Closed
            | Self::Ended
            | Self::Draining => {
                "57P01" // admin_shutdown
            }
            // protocol_violation
            Self::Forwarded(_) | Self::Alpn | Self::OutOfStep | Self::ClientMessage(_) => "08P01",
            Self::TooManyPrepared => "54000", // program_limit_exceeded
            Self::Unaudited => "58030",       // io_error
            Self::Limit(limit) | Self::Unseen(limit) => limit.sqlstate(),
            Self::Internal => "XX000", // internal_error
        }
    }

    fn message(&self) -> String {
        self.to_string()
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Startup(StartupError::Protocol(_)) => "Use a client that speaks protocol 3.",
            Self::Startup(StartupError::NotPostgres) => {
                "This port is for PostgreSQL clients, with or without TLS."
            }
            Self::Startup(_) | Self::Login(_) => "",
            Self::Forwarded(ForwardedError::Missing) => {
                "Let the load balancer send it, or take its address off proxy-protocol-from."
            }
            Self::Forwarded(_) => "Let the load balancer send version 2 over TCP.",
            Self::LoginName(_) => {
                "The user name is <database id>.<role>, where the role is admin, write or read, or <database id>.<user>."
            }
            Self::TlsRequired => "Connect with sslmode=require.",
            Self::Alpn => "Update the client, or use sslnegotiation=postgres.",
            Self::LoginTimeout | Self::Cancelled => "",
            Self::TooManyClients => "Close unused connections, or try again later.",
            Self::TooManyOfAddress => "Close unused connections, or use fewer of them.",
            Self::TooManyAttempts => "Try again in a second, and keep connections open.",
            Self::Banned { .. } => "Look at the user name and the password before you try again.",
            Self::TooManyClientsOfTenant => {
                "Close unused connections, or raise the database's client_connections_max (tenantry db limits)."
            }
            Self::TooManyClientsOfUser { .. } => {
                "Close unused connections of this user, or raise its limit (tenantry db users set)."
            }
            Self::WrongPassword { .. } => "",
            Self::CannotCheck => "Try again in a few seconds.",
            Self::NoSuchDatabase { .. } => "Connect to the database \"postgres\".",
            Self::Replication => "Connect without the parameter \"replication\".",
            Self::Options(_) => "Use options=-c name=value.",
            Self::Setting { .. } => "Log in with a role that has the rights you need.",
            Self::PoolMode => "It is auto, session or transaction.",
            Self::NotReady => "Try again in a few seconds.",
            Self::NotMade => {
                "Its status says why (tenantry db status). Resume it to try again, or delete it."
            }
            Self::Suspended => "Resume the database first.",
            Self::Deleted => "Undelete the database within its retention.",
            Self::CredentialAddress => {
                "Connect from an address that it was made for, or ask for one for this address."
            }
            Self::Address => {
                "Connect from a network that is in the database's allowed_addresses (tenantry db limits)."
            }
            Self::Busy { .. } => {
                "Close idle connections or use fewer of them, or raise the limits."
            }
            Self::Nested { .. } => {
                "If a transaction waits for what another connection is to do, it waits for ever: use one connection for both, or end the transaction first."
            }
            Self::Paused => "Try again when the operator has resumed it.",
            Self::ServerDown | Self::ServerLogin => "Try again in a few seconds.",
            Self::ServerLost => {
                "Reconnect. A transaction that was committing may have been committed."
            }
            Self::Unaudited => {
                "Try again when the operator has made room; or take statement_audit off the database (tenantry db limits)."
            }
            Self::StateLost => "Reconnect. The last transaction may have been committed.",
            Self::OutOfStep | Self::Internal => "Reconnect, and report it if it happens again.",
            Self::ClientMessage(_) => "",
            Self::Revoked => "Reconnect with the new one.",
            Self::Replaced | Self::Draining => "Reconnect.",
            Self::Closed => "",
            Self::Expired | Self::Ended => {
                "Undelete the database within its retention; that takes away its expiry, or sets a later one."
            }
            Self::TooManyPrepared => {
                "Close those that are not used any more (DEALLOCATE), or have the driver keep fewer."
            }
            Self::Limit(limit) => limit.hint(),
            Self::Unseen(_) => {
                "What was asked may have been carried out. Ask for less, or raise the limit (tenantry db limits)."
            }
        }
    }
}

impl Refusal {
    /// Whether a session that is told so during a statement goes on behind it.
    pub fn ends_only_a_statement(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::Nested { .. }
            | Self::Paused
            | Self::Cancelled
            | Self::Unaudited => true,
            Self::Limit(limit) => limit.ends_only_a_statement(),
            _ => false,
        }
    }

    /// One of every kind, for `docs/errors.md`.
    pub fn examples() -> Vec<Self> {
        let mut examples = vec![
            Self::Startup(StartupError::Length),
            Self::Startup(StartupError::NotPostgres),
            Self::Forwarded(ForwardedError::Missing),
            Self::Forwarded(ForwardedError::Invalid),
            Self::Forwarded(ForwardedError::TooLong),
            Self::LoginName(LoginNameError::NoRole),
            Self::LoginName(LoginNameError::Tenant),
            Self::LoginName(LoginNameError::Role),
            Self::TlsRequired,
            Self::Alpn,
            Self::LoginTimeout,
            Self::TooManyClients,
            Self::TooManyOfAddress,
            Self::TooManyAttempts,
            Self::Banned { seconds: 47 },
            Self::TooManyClientsOfTenant,
            Self::TooManyClientsOfUser {
                user: "ann".parse().expect("a name of a user"),
                max: 10,
            },
            Self::WrongPassword {
                user: "abcdefghijkl.admin".to_owned(),
            },
            Self::CannotCheck,
            Self::NoSuchDatabase {
                database: "other".to_owned(),
            },
            Self::Replication,
            Self::Options(OptionError::Unsupported("-x".to_owned())),
            Self::Setting {
                name: "role".to_owned(),
            },
            Self::PoolMode,
            Self::NotReady,
            Self::NotMade,
            Self::Suspended,
            Self::Deleted,
            Self::Expired,
            Self::Address,
            Self::CredentialAddress,
            Self::Busy { waited_ms: 10_000 },
            Self::Nested { waited_ms: 10_000 },
            Self::Paused,
            Self::Cancelled,
            Self::TooManyPrepared,
            Self::ServerDown,
            Self::ServerLogin,
            Self::ServerLost,
            Self::Unaudited,
            Self::StateLost,
            Self::OutOfStep,
            Self::ClientMessage(0),
            Self::Revoked,
            Self::Replaced,
            Self::Closed,
            Self::Ended,
            Self::Draining,
            Self::Internal,
        ];
        examples.extend(Exceeded::examples().map(Self::Limit));
        examples.extend(
            Exceeded::examples()
                .filter(|limit| limit.sqlstate() == "54000")
                .map(Self::Unseen),
        );
        examples
    }
}

/// Appends what ends a connection with `error`.
pub(crate) fn write_fatal(error: &Refusal, out: &mut Vec<u8>) {
    write(Severity::Fatal, error, out);
}

/// Appends what ends a statement with `error`.
pub(crate) fn write_error(error: &Refusal, out: &mut Vec<u8>) {
    write(Severity::Error, error, out);
}

fn write(severity: Severity, error: &Refusal, out: &mut Vec<u8>) {
    let detail = match error {
        Refusal::Login(error) => error.detail(),
        _ => "",
    };
    build::error_response(
        &Report {
            severity,
            code: error.sqlstate(),
            message: &error.message(),
            detail,
            hint: error.hint(),
        },
        out,
    );
}
