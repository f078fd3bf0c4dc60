//! Opening a server connection and logging in.
//!
//! Owns: connecting, TLS towards nodes, our own login and the settings it brings. Does not own: the
//! connection once it is there (`server`), or when one may be opened (`budget`).

use std::{cell::Cell, io, rc::Rc, sync::Arc};

use model::route::{NodeAddress, NodeTls, Resolved, ServerLogin};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, timeout},
};
use wire::{
    frame::Frames,
    login::{
        SERVER_BODY_BYTES_MAX,
        server::{self as login, Accept, Credentials, ServerLoginError, Step},
    },
    message::{self, build},
    queue::Queue,
    scram::{ChannelBinding, ClientKeys, nonce},
    startup::Protocol,
};

use super::{CancelTarget, Parameters, Server, context_of};
use crate::{
    budget::Budget, limits::Postmaster, pool::Lease, statements::Has, stream::Stream,
    worker::Worker,
};

/// A node that is silent that long is asked whether it is still there. Shorter than what firewalls
/// forget an idle connection after.
const KEEPALIVE_AFTER: std::time::Duration = std::time::Duration::from_secs(60);

/// Why no server connection was opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The node does not answer, or not in time.
    #[error("connect to node {node}")]
    Down { node: String, source: io::Error },
    /// It answered, but did not let us in.
    #[error("log in to node {node}")]
    Login {
        node: String,
        source: ServerLoginError,
    },
}

impl OpenError {
    /// Whether somebody changed the password, or took away the right to log in.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Login { source: ServerLoginError::Refused { code, .. }, .. }
            if code.starts_with("28"))
    }

    /// Whether the server was there, and did not let us in.
    pub(crate) fn is_of_login(&self) -> bool {
        matches!(self, Self::Login { .. })
    }

    /// Whether the server has no slot left, although the budget did: others use it beside us.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Login { source: ServerLoginError::Refused { code, .. }, .. }
            if code.starts_with("53"))
    }

    /// For metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Down { .. } => "down",
            Self::Login { .. } if self.is_refused() => "refused",
            Self::Login { .. } if self.is_full() => "full",
            Self::Login { .. } => "down",
        }
    }

    /// Whether it may work in a moment: the server is starting, stopping or full.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Down { .. } => true,
            Self::Login { source, .. } => {
                matches!(source, ServerLoginError::Refused { code, .. }
                    if code.starts_with("57P") || code.starts_with("53"))
            }
        }
    }
}

/// What opening needs to know.
pub(crate) struct Opening<'a> {
    pub(crate) resolved: &'a Resolved,
    pub(crate) budget: &'a Budget,
    pub(crate) cached: Option<Arc<ClientKeys>>,
}

/// Opens a server connection and logs in. Waits for a turn first, for `budget_wait_max` at most; see
/// `budget::connects`.
///
/// Returns it with the keys for the next login.
///
/// # Errors
///
/// [`OpenError`].
pub(crate) async fn open(
    opening: Opening<'_>,
    lease: Lease,
    worker: &Worker,
) -> Result<(Box<Server>, Option<Arc<ClientKeys>>), OpenError> {
    let limits = &worker.config.limits;
    let too_late = |_| OpenError::Down {
        node: opening.resolved.node.name.clone(),
        source: io::ErrorKind::TimedOut.into(),
    };
    // While a node does not answer at all, those before us take `connect_time_max` each.
    let turn = timeout(limits.budget_wait_max, opening.budget.connects.turn());
    let turn = turn.await.map_err(too_late)?;
    let opened = connect_and_log_in(&opening, lease, worker);
    let result = match timeout(limits.connect_time_max, opened).await {
        Ok(result) => result,
        Err(elapsed) => Err(too_late(elapsed)),
    };
    turn.connected(!matches!(&result, Err(error) if error.is_passing()));
    result
}

async fn connect_and_log_in(
    opening: &Opening<'_>,
    lease: Lease,
    worker: &Worker,
) -> Result<(Box<Server>, Option<Arc<ClientKeys>>), OpenError> {
    let node = &opening.resolved.node;
    let down = |source| OpenError::Down {
        node: node.name.clone(),
        source,
    };
    let (mut stream, postmaster) = connect_seeing(&node.address).await.map_err(down)?;
    let route = &opening.resolved.route;
    let credentials = Credentials {
        user: route.server.user.clone(),
        password: zeroize::Zeroizing::new(route.server.password.reveal().to_owned()),
        cached: opening.cached.clone(),
        binding: stream
            .peer_certificate()
            .map_or(ChannelBinding::Unavailable, ChannelBinding::of_certificate),
        accept: Accept::default(),
    };
    let session = log_in(&mut stream, credentials, &route.server)
        .await
        .map_err(|error| match error {
            LogInError::Io(source) => down(source),
            LogInError::Login(source) => OpenError::Login {
                node: node.name.clone(),
                source,
            },
        })?;
    let parameters: Parameters = session
        .parameters
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let context = context_of(&parameters);
    let mut lease = lease;
    if let Some(key) = &session.cancel_key {
        lease.is_used_by(key.process_id(), postmaster, worker);
    }
    let server = Box::new(Server {
        stream,
        queue: Queue::default(),
        frames: Frames::default(),
        kept: Vec::new(),
        status: session.status,
        parameters: Rc::new(parameters),
        cancel: Rc::new(CancelTarget {
            node: node.clone(),
            key: session.cancel_key,
            in_flight: Cell::new(0),
            settled: Notify::new(),
            is_last: Cell::new(false),
        }),
        used: false,
        has: lease.states().nothing().clone(),
        statements: Has::default(),
        last: None,
        number: lease.next_serial(),
        has_numbers: false,
        has_temporary_schema: false,
        is_dirty: false,
        idle_since: Instant::now(),
        context,
        overheard: Vec::new(),
        known: true,
        login: route.clone(),
        lease: Some(lease),
        is_gone: false,
        partings: worker.partings.clone(),
    });
    Ok((server, session.keys))
}

/// Connects to a node, with TLS as it says.
///
/// # Errors
///
/// Whatever the system or TLS says.
pub(crate) async fn connect(address: &NodeAddress) -> io::Result<Stream> {
    let (stream, _) = connect_seeing(address).await?;
    Ok(stream)
}

/// The same, and who is there, if it is on this machine.
async fn connect_seeing(address: &NodeAddress) -> io::Result<(Stream, Option<Postmaster>)> {
    match address {
        NodeAddress::Unix(path) => {
            let socket = tokio::net::UnixStream::connect(path).await?;
            let postmaster = Postmaster::behind(&socket);
            Ok((Stream::quiet(socket.into_std()?)?, postmaster))
        }
        NodeAddress::Tcp { host, port, tls } => {
            let socket = TcpStream::connect((host.as_str(), *port)).await?;
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
            SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
            let mut stream = Stream::tcp(socket.into_std()?)?;
            if *tls != NodeTls::Disable {
                let config = Arc::new(tls::client_config(tls).map_err(io::Error::other)?);
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                let mut request = Vec::new();
                build::ssl_request(&mut request);
                stream.send_all(&request).await?;
                let mut answer = Vec::new();
                stream.read_more(&mut answer).await?;
                match login::tls_answer(&answer).map_err(io::Error::other)? {
                    Some(true) => stream.connect_tls(config, name).await?,
                    Some(false) => return Err(io::Error::other("the node does not offer TLS")),
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
            Ok((stream, None))
        }
    }
}

enum LogInError {
    Io(io::Error),
    Login(ServerLoginError),
}

async fn log_in(
    stream: &mut Stream,
    credentials: Credentials,
    server: &ServerLogin,
) -> Result<login::ServerSession, LogInError> {
    let nonce = nonce().map_err(|error| LogInError::Io(io::Error::other(error)))?;
    let options = startup_options(server);
    let parameters = [
        ("database", server.database.as_str()),
        ("options", &options),
    ];
    let mut out = Vec::new();
    // 18 answers with a long cancel key. Older ones say in the flight of their first answer that they
    // speak 3.0, so asking costs nothing.
    let mut state = login::start(credentials, Protocol::V3_2, &parameters, nonce, &mut out);
    let mut read = Vec::new();
    loop {
        if !out.is_empty() {
            stream.send_all(&out).await.map_err(LogInError::Io)?;
            out.clear();
        }
        let mut at = 0;
        while let Some(message) = message::split(&read[at..], SERVER_BODY_BYTES_MAX)
            .map_err(|_| LogInError::Login(ServerLoginError::TooMuch))?
        {
            at += message.size();
            match state.on(message, &mut out).map_err(LogInError::Login)? {
                Step::Continue(next) => state = next,
                Step::Ready(session) if at == read.len() => return Ok(session),
                Step::Ready(_) => {
                    return Err(LogInError::Login(ServerLoginError::OutOfOrder(read[at])));
                }
            }
        }
        read.drain(..at);
        if out.is_empty() && stream.read_more(&mut read).await.map_err(LogInError::Io)? == 0 {
            return Err(LogInError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// `-c role=… -c name=value …`, escaped as `pg_split_opts` of PostgreSQL reads it.
fn startup_options(server: &ServerLogin) -> String {
    let mut options = format!("-c role={}", server.group.as_str());
    for (name, value) in &server.settings {
        options.push_str(" -c ");
        for c in name.chars().chain(['=']).chain(value.chars()) {
            if c == '\\' || c.is_ascii_whitespace() || c == '\x0b' {
                options.push('\\');
            }
            options.push(c);
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::{Group, Pid, Secret};

    use super::*;

    #[test]
    fn settings_of_a_route_survive_the_way_through_options() {
        let server = ServerLogin {
            pid: Pid::random(&mut rand::rng()),
            database: "d".to_owned(),
            user: "u".to_owned(),
            password: Secret::new("p"),
            group: Group::Admin,
            settings: BTreeMap::from([
                ("search_path".to_owned(), "\"$user\", public".to_owned()),
                ("x.y".to_owned(), "a\\b\tc".to_owned()),
            ]),
        };
        let options = startup_options(&server);
        let parsed = wire::startup::Options::parse(&options).unwrap();
        assert_eq!(
            parsed.settings,
            [
                ("role".to_owned(), "tenantry_admin".to_owned()),
                ("search_path".to_owned(), "\"$user\", public".to_owned()),
                ("x.y".to_owned(), "a\\b\tc".to_owned()),
            ]
        );
    }
}
