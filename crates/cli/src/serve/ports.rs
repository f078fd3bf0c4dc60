//! The addresses to listen on, held from before anything is made: a taken port must not leave a data
//! directory behind, and both are told at once.

use std::{fs::File, io, net::SocketAddr, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{FlockOperation, flock},
    net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt},
};

use crate::{
    exit::Failure,
    serve::{config::Config, told},
};

/// Sockets that are bound and do not listen: who connects meanwhile is refused, not kept waiting. What
/// listens later on the same addresses is not in their way.
pub(super) struct Held {
    _sockets: Vec<OwnedFd>,
}

/// Takes all addresses, or tells of each why not.
///
/// # Errors
///
/// [`crate::exit::Exit::Machine`]. None when another server has the data directory: that is the better
/// reason, and told by who takes its lock.
pub(super) fn hold(config: &Config) -> Result<Held, Failure> {
    let mut sockets = Vec::new();
    let mut refused = Vec::new();
    for (flag, address, v6_only) in [
        ("pg-listen", config.pg_listen, true),
        ("api-listen", config.api_listen, false),
    ] {
        match take(address, v6_only) {
            Ok(socket) => sockets.push(socket),
            Err(error) => refused.push((flag, address, error)),
        }
    }
    if refused.is_empty() || is_in_use(&config.data_dir) {
        return Ok(Held { _sockets: sockets });
    }
    Err(told::listen_all(&refused))
}

fn take(address: SocketAddr, v6_only: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    // Not for PostgreSQL, our child, to keep.
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, v6_only)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

/// Whether another server holds the lock of this directory.
fn is_in_use(data_dir: &Path) -> bool {
    File::open(data_dir.join("tenantry.lock")).is_ok_and(|lock| {
        flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    })
}
