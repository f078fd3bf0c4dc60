//! Where the cluster of a managed node lies, and that nobody else uses it.
//!
//! ```text
//! <data dir>/              ours: key of the node, superuser's password, log/
//!   tenantry.lock          held while we run
//!   postgres/              base: belongs to us; PostgreSQL's user may pass through and read conf/
//!     conf/                written by us at every start; operator.conf is the operator's
//!     data/                the cluster; belongs to PostgreSQL's user
//!     run/                 the socket, unless its path would be too long (see [`super::socket`])
//! ```
//!
//! When we are root and PostgreSQL's user cannot reach the data directory (it lies below `/root`,
//! for example), the base lies in `/var/lib/tenantry/<random>` instead, and the file `postgres.base`
//! in the data directory says so. Permissions of directories that we did not make are never changed.

use std::{
    fs,
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::fs::FlockOperation;
use tokio::process::Command;

use super::{ManagedError, io_error, socket::SocketDir, user::RunAs};
use crate::key::{hex, random_bytes, write_secret};

/// The directories of a managed node. Holds the locks.
#[derive(Debug)]
pub(crate) struct Place {
    /// Of the installation.
    pub(crate) data_dir: PathBuf,
    /// See the head of this file.
    pub(crate) base: PathBuf,
    /// Where the socket is. Before the locks, so that it goes first.
    pub(crate) socket: SocketDir,
    pub(crate) locks: Vec<fs::File>,
}

const LOCK_FILE: &str = "tenantry.lock";
const POINTER_FILE: &str = "postgres.base";
const OWNER_FILE: &str = "data-dir";

impl Place {
    /// The cluster.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.base.join("data")
    }

    /// Where `initdb` works before its result becomes the cluster.
    pub(crate) fn unfinished(&self) -> PathBuf {
        self.base.join("data.new")
    }

    /// Files of ours that PostgreSQL reads.
    pub(crate) fn conf(&self) -> PathBuf {
        self.base.join("conf")
    }

    /// Logs of the server.
    pub(crate) fn logs(&self) -> PathBuf {
        self.data_dir.join("log")
    }

    /// Makes what is missing and takes the locks. `probe` is a program that `user` can run.
    pub(crate) async fn take(
        data_dir: &Path,
        fallback_root: &Path,
        user: Option<&RunAs>,
        probe: &Path,
    ) -> Result<Self, ManagedError> {
        // Root's own directory lets PostgreSQL's user pass, by name only. What is inside and not for
        // it has mode 0600 or 0700.
        make_dir(data_dir, if user.is_some() { 0o711 } else { 0o700 })?;
        let data_dir = data_dir
            .canonicalize()
            .map_err(|error| io_error("find the data directory", data_dir, error))?;
        let mut locks = vec![lock(&data_dir, &data_dir)?];
        let base = find_base(&data_dir, fallback_root, user, probe).await?;
        locks.push(lock(&base, &data_dir)?);
        if let Some(user) = user {
            chown(&base, None, Some(user.gid))?;
            set_mode(&base, 0o710)?;
        }
        let place = Self {
            socket: SocketDir::take(&base, user)?,
            data_dir,
            base,
            locks,
        };
        make_dir(&place.conf(), 0o700)?;
        make_dir(&place.logs(), 0o700)?;
        if let Some(user) = user {
            chown(&place.conf(), None, Some(user.gid))?;
            set_mode(&place.conf(), 0o750)?;
        }
        Ok(place)
    }
}

/// Where the base was made, or a new place that PostgreSQL's user can reach.
async fn find_base(
    data_dir: &Path,
    fallback_root: &Path,
    user: Option<&RunAs>,
    probe: &Path,
) -> Result<PathBuf, ManagedError> {
    let near = data_dir.join("postgres");
    let pointer = data_dir.join(POINTER_FILE);
    match fs::read_to_string(&pointer) {
        Ok(base) => {
            let base = PathBuf::from(base.trim_end_matches('\n'));
            if !base.is_dir() {
                return Err(ManagedError::Setup(format!(
                    "{} says that the databases are in {}, but there is no such directory",
                    pointer.display(),
                    base.display()
                )));
            }
            return must_reach(base, user, probe).await;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("read", &pointer, error)),
    }
    let existed = near.is_dir();
    make_dir(&near, 0o700)?;
    let Some(user) = user else { return Ok(near) };
    if existed && near.join("data").exists() {
        return must_reach(near, Some(user), probe).await;
    }
    chown(&near, None, Some(user.gid))?;
    set_mode(&near, 0o710)?;
    if reaches(&near, Some(user), probe).await {
        return Ok(near);
    }
    // Not needed, and misleading when it stays.
    let _ = fs::remove_dir(&near);
    elsewhere(data_dir, fallback_root, user, probe, &pointer).await
}

async fn elsewhere(
    data_dir: &Path,
    fallback_root: &Path,
    user: &RunAs,
    probe: &Path,
    pointer: &Path,
) -> Result<PathBuf, ManagedError> {
    make_dir(fallback_root, 0o755)?;
    settle_leftovers(data_dir, fallback_root);
    let base = fallback_root.join(hex(&random_bytes::<6>()));
    make_dir(&base, 0o700)?;
    chown(&base, None, Some(user.gid))?;
    set_mode(&base, 0o710)?;
    if !reaches(&base, Some(user), probe).await {
        let _ = fs::remove_dir(&base);
        return Err(ManagedError::Setup(format!(
            "the user {} can reach neither {} nor {}: use a data directory below one that all \
             users may enter",
            user.name,
            data_dir.display(),
            fallback_root.display()
        )));
    }
    let named = |path: &Path, text: &Path| {
        let text = format!("{}\n", text.display());
        write_secret(path, &text).map_err(|error| io_error("write", path, error))
    };
    named(&base.join(OWNER_FILE), data_dir)?;
    named(pointer, &base)?;
    tracing::warn!(
        user = user.name, data_dir = %data_dir.display(), base = %base.display(),
        "PostgreSQL's user cannot reach the data directory: the databases are kept elsewhere"
    );
    Ok(base)
}

/// A place elsewhere that no data directory points to any more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leftover {
    /// Where.
    pub base: PathBuf,
    /// Whose it was.
    pub data_dir: PathBuf,
    /// There are databases in it.
    pub has_databases: bool,
}

/// What data directories that were removed left below `root` ([`super::ELSEWHERE`]).
pub fn leftovers(root: &Path) -> Vec<Leftover> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<Leftover> = entries.filter_map(|entry| leftover(entry.path())).collect();
    found.sort_unstable_by(|a, b| a.base.cmp(&b.base));
    found
}

fn leftover(base: PathBuf) -> Option<Leftover> {
    let owner = fs::read_to_string(base.join(OWNER_FILE)).ok()?;
    let data_dir = PathBuf::from(owner.trim_end_matches('\n'));
    match fs::read_to_string(data_dir.join(POINTER_FILE)) {
        Ok(pointer) if Path::new(pointer.trim_end_matches('\n')) == base => None,
        Err(error) if error.kind() != io::ErrorKind::NotFound => None,
        _ => Some(Leftover {
            has_databases: base.join("data").exists(),
            base,
            data_dir,
        }),
    }
}

/// What an interrupted start in this data directory left is removed. Databases are not: a directory
/// that is missing may be a disk that is not mounted. They are told.
fn settle_leftovers(data_dir: &Path, fallback_root: &Path) {
    let ours = leftovers(fallback_root)
        .into_iter()
        .filter(|found| found.data_dir == data_dir);
    for found in ours {
        let base = found.base.display();
        if found.has_databases {
            tracing::warn!(
                %base,
                "databases of an earlier installation in the same data directory, whose keys are gone; \
                 `rm -r` removes them when they are not needed"
            );
        } else if let Err(error) = fs::remove_dir_all(&found.base) {
            tracing::warn!(%base, %error, "what an interrupted start left was not removed");
        }
    }
}

async fn must_reach(
    base: PathBuf,
    user: Option<&RunAs>,
    probe: &Path,
) -> Result<PathBuf, ManagedError> {
    if reaches(&base, user, probe).await {
        return Ok(base);
    }
    let name = user.map_or("this user", |user| &user.name);
    Err(ManagedError::Setup(format!(
        "{name} can no longer enter {}: let it pass through every directory above it again \
         (chmod a+x), or move the data directory",
        base.display()
    )))
}

/// Whether `user` can enter `dir`, found by doing it: permissions, ACLs and mounts all count.
async fn reaches(dir: &Path, user: Option<&RunAs>, probe: &Path) -> bool {
    let mut command = Command::new(probe);
    // The directory is changed after the user.
    command.arg("--version").current_dir(dir);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    RunAs::apply(user, &mut command);
    command.status().await.is_ok_and(|status| status.success())
}

/// Whether `user` can run `program` at all.
pub(crate) async fn can_run(program: &Path, user: Option<&RunAs>) -> bool {
    reaches(Path::new("/"), user, program).await
}

/// Takes the lock of `dir` until the process ends, however it ends.
fn lock(dir: &Path, data_dir: &Path) -> Result<fs::File, ManagedError> {
    let path = dir.join(LOCK_FILE);
    let failed = |error| io_error("lock", &path, error);
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            return Err(ManagedError::InUse {
                data_dir: data_dir.to_owned(),
                pid: text.trim().parse().unwrap_or(0),
            });
        }
        Err(error) => return Err(failed(error.into())),
    }
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// Makes `dir` and what is missing above it. One that exists keeps its mode.
pub(crate) fn make_dir(dir: &Path, mode: u32) -> Result<(), ManagedError> {
    let made = |error| io_error("make the directory", dir, error);
    match fs::DirBuilder::new().mode(mode).create(dir) {
        // The umask may have taken bits away.
        Ok(()) => set_mode(dir, mode),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = dir.parent() {
                fs::create_dir_all(parent).map_err(made)?;
            }
            fs::DirBuilder::new().mode(mode).create(dir).map_err(made)?;
            set_mode(dir, mode)
        }
        Err(error) => Err(made(error)),
    }
}

/// Gives `path` to PostgreSQL's user.
pub(crate) fn own(path: &Path, user: Option<&RunAs>) -> Result<(), ManagedError> {
    match user {
        Some(user) => chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

pub(crate) fn chown(path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), ManagedError> {
    std::os::unix::fs::lchown(path, uid, gid).map_err(|error| io_error("give away", path, error))
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), ManagedError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| io_error("set the mode of", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_told_and_what_never_held_databases_is_removed() {
        let root = scratch::Scratch::new();
        let data_dir = root.join("data-dir");
        fs::create_dir_all(&data_dir).unwrap();
        let elsewhere = root.join("elsewhere");
        for (name, owner) in [
            ("used", &data_dir),
            ("old", &data_dir),
            ("begun", &data_dir),
            ("gone", &root.join("gone")),
        ] {
            let base = elsewhere.join(name);
            fs::create_dir_all(&base).unwrap();
            fs::write(base.join(OWNER_FILE), format!("{}\n", owner.display())).unwrap();
        }
        for name in ["used", "old", "gone"] {
            fs::create_dir(elsewhere.join(name).join("data")).unwrap();
        }
        let pointed = elsewhere.join("used").display().to_string();
        fs::write(data_dir.join(POINTER_FILE), format!("{pointed}\n")).unwrap();
        let names = || -> Vec<(String, bool)> {
            let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            let found = leftovers(&elsewhere);
            found
                .iter()
                .map(|one| (name(&one.base), one.has_databases))
                .collect()
        };
        let all = [("begun", false), ("gone", true), ("old", true)];
        assert_eq!(names(), all.map(|(name, has)| (name.to_owned(), has)));
        settle_leftovers(&data_dir, &elsewhere);
        let left = &all[1..];
        assert_eq!(
            names(),
            left.iter()
                .map(|(name, has)| ((*name).to_owned(), *has))
                .collect::<Vec<_>>()
        );
        assert!(elsewhere.join("used/data").exists());
    }
}
