//! Why the server did not start, in sentences for the operator, with what to do.

use std::{error::Error, io, net::SocketAddr, path::Path};

use node::{attached::AttachError, find::INSTALL, managed::ManagedError};

use crate::{
    exit::{Exit, Failure},
    serve::config::Config,
};

/// A failure that the operator mends on this machine.
pub(super) fn machine(what: impl Into<String>, advice: impl Into<String>) -> Failure {
    Failure::new(Exit::Machine, what, advice)
}

/// An error with everything that caused it, on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// The managed PostgreSQL.
pub(super) fn managed(error: &ManagedError) -> Failure {
    match error {
        ManagedError::NotFound(found) => {
            let looked: String = found
                .looked
                .iter()
                .map(|(path, why)| format!("\n  {}: {why}", path.display()))
                .collect();
            machine(format!("{found}; looked at{looked}"), INSTALL)
        }
        ManagedError::InUse { .. } => machine(
            chain(error),
            "one server per data directory: stop the other, or give --data-dir another one",
        ),
        ManagedError::WrongMajor { .. } => machine(
            chain(error),
            "name the programs of its own version with --pg-bin; moving the data to another version is \
             PostgreSQL's pg_upgrade, not done here",
        ),
        ManagedError::Setup(_) | ManagedError::Io { .. } | ManagedError::Program { .. } => {
            machine(chain(error), "`tenantry doctor` looks at the machine")
        }
        ManagedError::Node(_) => machine(
            chain(error),
            "PostgreSQL's own log, in the data directory under log/, may say more",
        ),
    }
}

/// A PostgreSQL that somebody else runs.
pub(super) fn attached(error: &AttachError) -> Failure {
    let advice = match error {
        AttachError::Dsn(_) => {
            "a DSN is like postgresql://user@host:5432/postgres?sslmode=verify-full"
        }
        AttachError::Unfit(_) => "nothing was changed there",
        AttachError::Node(_) => "can the server be reached from here, with this user and password?",
    };
    machine(chain(error), advice)
}

/// A listener.
pub(super) fn listen(flag: &str, address: SocketAddr, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program has it; --{flag} takes another address")
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 are root's; --{flag} takes another address")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; --{flag} takes another one")
        }
        _ => format!("--{flag} takes another address"),
    };
    machine(format!("cannot listen on {address}: {error}"), advice)
}

/// Several listeners: all that is wrong, in one failure.
pub(super) fn listen_all(refused: &[(&str, SocketAddr, io::Error)]) -> Failure {
    let (mut what, mut advice) = (Vec::new(), Vec::new());
    for (flag, address, error) in refused {
        if let Failure::Here { message, hint, .. } = listen(flag, *address, error) {
            what.push(message);
            advice.push(hint);
        }
    }
    machine(what.join("; "), advice.join("; "))
}

/// Why the control plane, or its catalog, is not there.
pub(super) fn control(config: &Config, data_dir: &Path, error: control::StartError) -> Failure {
    match error {
        control::StartError::Listen { address, source } => listen("api-listen", address, &source),
        control::StartError::Catalog(_) if config.catalog.is_some() => machine(
            format!("the catalog: {}", chain(&error)),
            "can the server of --catalog be reached from here, with this user and password?",
        ),
        control::StartError::OtherKey => machine(
            format!("the catalog: {error}; nothing was changed"),
            format!(
                "put the right one back at {}; if it is lost for good, see --replace-installation-key",
                data_dir.join("installation.key").display()
            ),
        ),
        other => machine(format!("the catalog: {}", chain(&other)), ""),
    }
}

/// A file of the installation.
pub(super) fn file(error: &anyhow::Error, data_dir: &Path) -> Failure {
    machine(
        format!("{error:#}"),
        format!("the data directory is {}", data_dir.display()),
    )
}

#[cfg(test)]
mod tests {
    use node::find::FindError;

    use super::*;

    #[test]
    fn a_missing_postgresql_names_each_place_once_and_says_what_to_do() {
        let looked = ["/one", "/two"].map(|place| (place.into(), "no postgres there".to_owned()));
        let failure = managed(&ManagedError::NotFound(FindError {
            looked: looked.into(),
        }));
        let Failure::Here { message, hint, .. } = failure else {
            panic!("{failure:?}")
        };
        for place in ["/one", "/two", "no PostgreSQL 15 to 18"] {
            assert_eq!(message.matches(place).count(), 1, "{message}");
        }
        for way in ["apt install postgresql", "--pg-bin", "--attach"] {
            assert!(hint.contains(way), "{hint}");
        }
    }
}
