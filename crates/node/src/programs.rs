//! `pg_dump` and `pg_restore`, which read and write databases as a login of one of them.
//!
//! Owns: which are taken, and what they know of the server. Does not own: what they are told to do (`stream`,
//! `dump`, `fill`, `export`).

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use model::{
    Pid, Secret,
    route::{NodeAddress, NodeTls},
};
use tokio::process::Command;

use crate::{Node, find};

/// Where they are, and whom they run as (`None`: us).
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) bin: PathBuf,
    pub(crate) user: Option<(u32, u32)>,
}

/// Some distributions put them into a package of their own.
const NEEDED: [&str; 2] = ["pg_dump", "pg_restore"];
/// Where systems keep the roots they trust; libpq knows no other way to name them before version 16.
const ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

impl Programs {
    /// Those for a server of this major that somebody else runs: in `named` alone, if that is given. Of the same
    /// major, since what a later one writes an earlier server may not understand.
    pub(crate) async fn of_major(major: u32, named: Option<&Path>) -> Option<Self> {
        let places = match named {
            Some(place) => vec![place.to_owned()],
            None => find::usual_places(),
        };
        for bin in places {
            let mut fit = 0;
            for name in NEEDED {
                fit += usize::from(find::major_of(&bin.join(name), name).await == Some(major));
            }
            if fit == NEEDED.len() {
                return Some(Self { bin, user: None });
            }
        }
        None
    }
}

impl Node {
    /// Whether a database in use can be copied, backed up and restored: that needs programs of the server's version.
    pub fn can_stream(&self) -> bool {
        self.programs().is_some()
    }

    pub(crate) fn programs(&self) -> Option<&Programs> {
        let programs = self.shared.parts.programs.get()?;
        let is_there = |name: &&str| programs.bin.join(name).is_file();
        NEEDED.iter().all(is_there).then_some(programs)
    }

    /// A program of the server's, as the login `kind` of `pid`, with nothing of our environment.
    pub(crate) fn program(
        &self,
        programs: &Programs,
        name: &str,
        pid: &Pid,
        kind: &str,
    ) -> Command {
        let parts = &self.shared.parts;
        let user = crate::stream::login(pid, kind);
        let password: Secret = parts.key.password(&user, Self::EPOCH);
        let mut command = Command::new(programs.bin.join(name));
        command
            .env_clear()
            .envs([
                ("LC_ALL", "C"),
                ("PATH", "/usr/bin:/bin"),
                ("HOME", "/nonexistent"),
            ])
            .envs([("PGPASSFILE", "/dev/null"), ("PGGSSENCMODE", "disable")])
            .envs([("PGAPPNAME", "tenantry"), ("PGCONNECT_TIMEOUT", "10")])
            .envs(place(&parts.target.address))
            .env("PGUSER", &user)
            .env("PGPASSWORD", password.reveal())
            .env("PGDATABASE", pid.database())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some((uid, gid)) = programs.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// Where the server is, and what is checked of it, in the words of libpq's environment.
fn place(address: &NodeAddress) -> Vec<(&'static str, String)> {
    let (host, port, tls) = match address {
        NodeAddress::Unix(socket) => {
            let dir = socket.parent().unwrap_or(Path::new("/"));
            let port = socket.extension().unwrap_or_default();
            let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
            (text(dir.as_os_str()), text(port), &NodeTls::Disable)
        }
        NodeAddress::Tcp { host, port, tls } => (host.clone(), port.to_string(), tls),
    };
    let (mode, roots) = match tls {
        NodeTls::Disable => ("disable", None),
        NodeTls::Require => ("require", None),
        NodeTls::VerifyCa(roots) => ("verify-ca", Some(roots)),
        NodeTls::VerifyFull(roots) => ("verify-full", Some(roots)),
    };
    let mut place = vec![
        ("PGHOST", host),
        ("PGPORT", port),
        ("PGSSLMODE", mode.to_owned()),
    ];
    if let Some(roots) = roots {
        let is_there = |place: &&str| Path::new(place).is_file();
        let of_system = || {
            PathBuf::from(
                *ROOTS
                    .iter()
                    .find(|place| is_there(place))
                    .unwrap_or(&ROOTS[0]),
            )
        };
        let roots = roots.clone().unwrap_or_else(of_system);
        place.push(("PGSSLROOTCERT", roots.display().to_string()));
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(address: &NodeAddress) -> Vec<String> {
        let place = place(address).into_iter();
        place
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn what_is_checked_of_a_server_is_checked_by_its_programs() {
        let socket = NodeAddress::Unix("/run/pg/.s.PGSQL.5433".into());
        assert_eq!(
            told(&socket),
            ["PGHOST=/run/pg", "PGPORT=5433", "PGSSLMODE=disable"]
        );
        let tcp = |tls| NodeAddress::Tcp {
            host: "db.internal".to_owned(),
            port: 5432,
            tls,
        };
        let (host, port) = ("PGHOST=db.internal", "PGPORT=5432");
        assert_eq!(
            told(&tcp(NodeTls::Require)),
            [host, port, "PGSSLMODE=require"]
        );
        assert_eq!(
            told(&tcp(NodeTls::VerifyFull(Some("/own/ca.pem".into())))),
            [
                host,
                port,
                "PGSSLMODE=verify-full",
                "PGSSLROOTCERT=/own/ca.pem"
            ]
        );
        let by_system = told(&tcp(NodeTls::VerifyCa(None)));
        assert_eq!(by_system[2], "PGSSLMODE=verify-ca");
        assert!(
            by_system[3].starts_with("PGSSLROOTCERT=/etc/"),
            "{by_system:?}"
        );
    }
}
