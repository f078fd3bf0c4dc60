//! `pg_dump` and `pg_restore`, which read and write databases as a login of one of them.
//!
//! Owns: which are taken, and what they know of the server. Does not own: what they are told to do (`stream`,
//! `dump`, `fill`, `export`).

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
};

use model::{
    Pid, Secret,
    route::{NodeAddress, NodeTls},
};
use tokio::process::Command;

use crate::{Node, NodeError, find};

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
        for bin in places.iter().filter_map(|place| home(place)) {
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

/// Where the programs of this directory themselves are; `None`: they are not there. What stands in `PATH` on Debian is
/// another program, which chooses a version by itself, and not the same one once it knows a host.
fn home(place: &Path) -> Option<PathBuf> {
    let [dump, restore] = NEEDED;
    let program = place.join(dump).canonicalize().ok()?;
    if program.file_name()? != dump {
        return None;
    }
    match program.parent() {
        Some(dir) if dir.join(restore).is_file() => Some(dir.to_owned()),
        _ => place.canonicalize().ok(),
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

/// For the user of a database, and for who runs this.
pub(crate) fn no_programs(step: &'static str) -> NodeError {
    NodeError::Conflict {
        step,
        what: "there are no pg_dump and pg_restore of this server's version on the machine of tenantry (its operator \
               installs them, for example as postgresql-client, or names their directory with --pg-bin, and starts it again)"
            .to_owned(),
    }
}

/// Where the server is, and what is checked of it, in the words of libpq's environment.
fn place(address: &NodeAddress) -> Vec<(&'static str, OsString)> {
    let (host, port, tls) = match address {
        NodeAddress::Unix(socket) => (
            socket.parent().unwrap_or(Path::new("/")).into(),
            socket.extension().unwrap_or_default().to_owned(),
            &NodeTls::Disable,
        ),
        NodeAddress::Tcp { host, port, tls } => (host.into(), port.to_string().into(), tls),
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
        ("PGSSLMODE", mode.into()),
    ];
    if let Some(roots) = roots {
        let roots = roots.clone().unwrap_or_else(roots_of_system);
        // They do not run where we do.
        let roots = std::path::absolute(&roots).unwrap_or(roots);
        place.push(("PGSSLROOTCERT", roots.into()));
    }
    place
}

/// The file that our own connections trust, too.
fn roots_of_system() -> PathBuf {
    let named = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty());
    let usual = || ROOTS.iter().find(|file| Path::new(file).is_file());
    named.map_or_else(|| usual().unwrap_or(&ROOTS[0]).into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(address: &NodeAddress) -> Vec<String> {
        let place = place(address).into_iter();
        place
            .map(|(name, value)| format!("{name}={}", value.display()))
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
        let beside = told(&tcp(NodeTls::VerifyCa(Some("ca.pem".into()))));
        let here = std::env::current_dir().unwrap().join("ca.pem");
        assert_eq!(beside[3], format!("PGSSLROOTCERT={}", here.display()));
        let by_system = told(&tcp(NodeTls::VerifyCa(None)));
        assert_eq!(by_system[2], "PGSSLMODE=verify-ca");
        assert!(
            by_system[3].starts_with("PGSSLROOTCERT=/etc/"),
            "{by_system:?}"
        );
    }

    /// As Debian has it: one program under all names.
    #[tokio::test]
    async fn what_chooses_a_version_by_itself_is_not_taken() {
        let found = find::find(None).await.unwrap();
        let fit = async |place: &Path| Programs::of_major(found.major, Some(place)).await;
        let (chooses, links) = (scratch::Scratch::new(), scratch::Scratch::new());
        let wrapper = chooses.path().join("pg_wrapper");
        let exec = format!(
            "#!/bin/sh\nexec {}/${{0##*/}} \"$@\"\n",
            found.bin.display()
        );
        std::fs::write(&wrapper, exec).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&wrapper, mode).unwrap();
        for name in NEEDED {
            std::os::unix::fs::symlink(&wrapper, chooses.path().join(name)).unwrap();
            let link = links.path().join(name);
            std::os::unix::fs::symlink(found.bin.join(name), link).unwrap();
        }
        let told = find::major_of(&chooses.path().join("pg_dump"), "pg_dump").await;
        assert_eq!(told, Some(found.major));
        assert!(fit(chooses.path()).await.is_none());
        assert_eq!(fit(links.path()).await.unwrap().bin, found.bin);
        assert!(
            Programs::of_major(found.major + 1, Some(&found.bin))
                .await
                .is_none()
        );
    }
}
