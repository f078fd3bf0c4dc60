//! The directory of the socket.
//!
//! Owns: finding one whose path is short enough and which nobody else can enter, and that none is left
//! behind. It lies in the base (see [`super::place`]); when that path is too long for a socket, in `/run` or what
//! `XDG_RUNTIME_DIR` names, else in `/tmp`. Such a directory says in a file whose it is. It goes away with the
//! server; what a killed process left is used again by its next start, and when that never comes, because its base
//! is gone, removed by any other start.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStringExt as _, fs::DirBuilderExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, unlinkat};
use sha2::{Digest, Sha256};

use super::{
    ManagedError, io_error,
    place::{make_dir, own},
    user::RunAs,
};
use crate::key::{hex, random_bytes, write_secret};

/// Longest path of a unix socket, in bytes, without the NUL that ends it.
const SOCKET_PATH_MAX: usize = 107;
/// Name of the socket file. The port is only a part of its name: nothing listens on TCP.
const SOCKET_FILE: &str = ".s.PGSQL.5432";
/// PostgreSQL's own.
const SOCKET_LOCK_FILE: &str = ".s.PGSQL.5432.lock";
/// In the base: which directory elsewhere is its.
const POINTER_FILE: &str = "socket.dir";
/// In a directory elsewhere: the base.
const OWNER_FILE: &str = "base";
/// How a directory elsewhere is called, before what makes it one of many.
const PREFIX: &str = "tenantry-";
/// Longest path that the system takes.
const PATH_MAX: u64 = 4096;

/// Where the socket is. Dropping it removes a directory that lies elsewhere: after the server has ended,
/// while the base is still locked.
#[derive(Debug)]
pub(crate) struct SocketDir {
    path: PathBuf,
    is_elsewhere: bool,
}

impl SocketDir {
    /// Finds or makes one that only PostgreSQL's user (and root) can enter, and removes those of others
    /// that nobody will use again.
    pub(crate) fn take(base: &Path, user: Option<&RunAs>) -> Result<Self, ManagedError> {
        let mut parents = runtime_parents();
        parents.push(PathBuf::from("/tmp"));
        for parent in &parents {
            sweep(parent, uid(user));
        }
        let near = base.join("run");
        if fits(&near) {
            make_dir(&near, 0o700)?;
            own(&near, user)?;
            return Ok(Self {
                path: near,
                is_elsewhere: false,
            });
        }
        Ok(Self {
            path: elsewhere(base, user)?,
            is_elsewhere: true,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The socket itself.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_FILE)
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        if self.is_elsewhere
            && let Ok(dir) = open(&self.path)
        {
            remove(&self.path, &dir);
        }
    }
}

/// PostgreSQL's user.
fn uid(user: Option<&RunAs>) -> u32 {
    user.map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid)
}

fn elsewhere(base: &Path, user: Option<&RunAs>) -> Result<PathBuf, ManagedError> {
    // After a kill it is still there. What is in a directory already is only used when nobody else could
    // have put it there.
    let pointer = base.join(POINTER_FILE);
    let noted = fs::read_to_string(&pointer).unwrap_or_default();
    let noted = Path::new(noted.trim_end_matches('\n'));
    if noted.is_absolute() && fits(noted) && make_private(noted, base, user).is_ok() {
        return Ok(noted.to_owned());
    }
    let dir = make_elsewhere(base, user)?;
    write_secret(&pointer, &format!("{}\n", dir.display()))
        .map_err(|error| io_error("write", &pointer, error))?;
    Ok(dir)
}

/// One with a short path.
fn make_elsewhere(base: &Path, user: Option<&RunAs>) -> Result<PathBuf, ManagedError> {
    let digest = hex(&Sha256::digest(base.as_os_str().as_encoded_bytes()));
    for parent in runtime_parents() {
        let dir = parent.join(format!("{PREFIX}{}", &digest[..12]));
        if fits(&dir) && make_private(&dir, base, user).is_ok() {
            return Ok(dir);
        }
    }
    // Anybody may write here: a name nobody can have guessed.
    let dir = Path::new("/tmp").join(format!("{PREFIX}{}", hex(&random_bytes::<8>())));
    make_private(&dir, base, user).map_err(|error| io_error("make", &dir, error))?;
    Ok(dir)
}

fn fits(dir: &Path) -> bool {
    dir.join(SOCKET_FILE).as_os_str().len() <= SOCKET_PATH_MAX
}

/// Directories in which only we can make something.
fn runtime_parents() -> Vec<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return vec![PathBuf::from("/run")];
    }
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .into_iter()
        .collect()
}

/// Makes `dir` for the socket of `base`, or takes it when it is private to PostgreSQL's user.
fn make_private(dir: &Path, base: &Path, user: Option<&RunAs>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        // Ours alone until it is given away.
        Ok(()) => {
            mark(&open(dir)?, base)?;
            if let Some(user) = user {
                std::os::unix::fs::lchown(dir, Some(user.uid), Some(user.gid))?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = open(dir)?;
    if is_private(&found, uid(user))? {
        mark(&found, base)
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "not a private directory of ours",
        ))
    }
}

/// Writes down whose it is, unless that stands there.
fn mark(dir: &impl AsFd, base: &Path) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, OWNER_FILE, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => fs::File::from(file).write_all(base.as_os_str().as_encoded_bytes()),
        Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The directory itself, not what a link in its place points to.
fn open(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, dir, flags, Mode::empty())?)
}

fn is_private(dir: &impl AsFd, uid: u32) -> io::Result<bool> {
    let found = fstat(dir)?;
    Ok(found.st_uid == uid && found.st_mode & 0o077 == 0)
}

/// Removes the directories in `parent` whose base is gone or has another one by now.
fn sweep(parent: &Path, uid: u32) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
        {
            continue;
        }
        let path = entry.path();
        if let Ok(dir) = open(&path)
            && matches!(is_private(&dir, uid), Ok(true))
            && is_abandoned(&path, &dir)
        {
            tracing::debug!(dir = %path.display(), "removed the socket directory of a server that is gone");
            remove(&path, &dir);
        }
    }
}

fn is_abandoned(path: &Path, dir: &OwnedFd) -> bool {
    let Ok(base) = owner(dir) else { return false };
    let has_other = match fs::read_to_string(base.join(POINTER_FILE)) {
        Ok(pointer) => Path::new(pointer.trim_end_matches('\n')) != path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => !base.exists(),
        Err(_) => false,
    };
    // The base may be away only for now, like a disk that is not mounted: without it no server
    // runs either, and the next start makes another directory.
    has_other && UnixStream::connect(path.join(SOCKET_FILE)).is_err()
}

/// The base that a directory belongs to.
fn owner(dir: &OwnedFd) -> io::Result<PathBuf> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(dir, OWNER_FILE, flags, Mode::empty())?;
    let mut text = Vec::new();
    fs::File::from(file).take(PATH_MAX).read_to_end(&mut text)?;
    let base = PathBuf::from(std::ffi::OsString::from_vec(text));
    if base.is_absolute() {
        Ok(base)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "no path"))
    }
}

/// Removes what is ours in it, and the directory when nothing else is.
fn remove(path: &Path, dir: &OwnedFd) {
    // A server that was killed leaves the first two; a running one, left behind, needs neither to be stopped.
    for file in [SOCKET_FILE, SOCKET_LOCK_FILE, OWNER_FILE] {
        let _ = unlinkat(dir, file, AtFlags::empty());
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use scratch::Scratch;

    use super::*;
    use crate::managed::place::set_mode;

    #[test]
    fn a_socket_path_of_108_bytes_is_too_long() {
        let dir = |length: usize| PathBuf::from(format!("/{}", "d".repeat(length - 1)));
        let longest = SOCKET_PATH_MAX - SOCKET_FILE.len() - 1;
        assert!(fits(&dir(longest)));
        assert!(!fits(&dir(longest + 1)));
    }

    #[test]
    fn a_directory_elsewhere_is_found_again_unless_it_is_somebody_elses() {
        let root = Scratch::new();
        let base = root.join("d".repeat(100));
        fs::create_dir_all(&base).unwrap();
        let noted = root.join("run");
        fs::write(base.join(POINTER_FILE), format!("{}\n", noted.display())).unwrap();
        assert_eq!(elsewhere(&base, None).unwrap(), noted);
        set_mode(&noted, 0o755).unwrap();
        let other = elsewhere(&base, None).unwrap();
        assert_ne!(other, noted);
        let again = SocketDir::take(&base, None).unwrap();
        assert_eq!(again.path(), other);
        fs::write(again.socket(), "").unwrap();
        drop(again);
        assert!(!other.exists());
    }

    #[test]
    fn a_prepared_link_is_not_a_private_directory() {
        let root = Scratch::new();
        let base = root.join("base");
        let link = root.join("link");
        symlink("/root", &link).unwrap();
        assert!(make_private(&link, &base, None).is_err());
        let open = root.join("open");
        fs::create_dir(&open).unwrap();
        set_mode(&open, 0o755).unwrap();
        assert!(make_private(&open, &base, None).is_err());
        assert!(make_private(&root.join("new"), &base, None).is_ok());
        assert!(make_private(&root.join("new"), &base, None).is_ok());
    }

    #[test]
    fn only_what_nobody_will_use_again_is_swept() {
        let root = Scratch::new();
        let (parent, base) = (root.join("parent"), root.join("base"));
        for dir in [&parent, &base] {
            fs::create_dir(dir).unwrap();
        }
        let dir = |name: &str| parent.join(format!("{PREFIX}{name}"));
        for (name, base) in [
            ("used", base.clone()),
            ("former", base.clone()),
            ("gone", root.join("gone")),
            ("listens", root.join("gone")),
            ("holds-more", root.join("gone")),
            ("open", root.join("gone")),
        ] {
            make_private(&dir(name), &base, None).unwrap();
        }
        fs::write(
            base.join(POINTER_FILE),
            format!("{}\n", dir("used").display()),
        )
        .unwrap();
        fs::write(dir("gone").join(SOCKET_FILE), "").unwrap();
        let _listens = UnixListener::bind(dir("listens").join(SOCKET_FILE)).unwrap();
        fs::write(dir("holds-more").join("theirs"), "").unwrap();
        set_mode(&dir("open"), 0o755).unwrap();
        fs::create_dir(dir("unsaid")).unwrap();
        set_mode(&dir("unsaid"), 0o700).unwrap();
        make_private(&root.join("target"), &root.join("gone"), None).unwrap();
        symlink(root.join("target"), dir("link")).unwrap();

        sweep(&parent, uid(None));

        let mut left: Vec<String> = fs::read_dir(&parent)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort_unstable();
        let stay = ["holds-more", "link", "listens", "open", "unsaid", "used"];
        assert_eq!(left, stay.map(|name| format!("{PREFIX}{name}")));
        assert!(root.join("target").join(OWNER_FILE).exists());
    }
}
