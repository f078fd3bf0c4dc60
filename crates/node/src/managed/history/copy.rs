//! Copies of a whole cluster: shared blocks where the file system can, the same file where it did not change,
//! bytes otherwise.
//!
//! Owns: what of a cluster belongs into a copy, and how a file gets there. Does not own: what makes the copies
//! of a running server one moment (`base`, and PostgreSQL's own recovery).

use std::{
    collections::{HashSet, VecDeque},
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;
use tokio::time::Instant;

use crate::managed::user::RunAs;

/// Bytes of one read.
const CHUNK: usize = 1 << 20;
/// Bytes, and files, that are copied before the caller gets a word in.
const TURN_BYTES: u64 = 16 << 20;
const TURN_FILES: u32 = 1_000;
/// A file that changed no earlier than this before the copy that it is compared with may have changed again
/// without its time telling: clocks of file systems go in steps of some milliseconds.
const SETTLED: Duration = Duration::from_secs(2);

/// Directories whose contents belong to one run of the server (PostgreSQL's manual, "Making a base backup
/// using the low level API").
const EMPTY: [&str; 9] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
];
/// Files that do: and settings by ALTER SYSTEM, which are not for a server of ours beside the first.
const LEFT_OUT: [&str; 7] = [
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "tablespace_map",
    "current_logfiles",
    "postgresql.auto.conf",
    "postgresql.auto.conf.tmp",
];
/// Read as the last, and until two reads are the same: it is written in place.
const CONTROL: &str = "global/pg_control";

fn is_left_out(name: &str) -> bool {
    LEFT_OUT.contains(&name)
        || name.starts_with("pgsql_tmp")
        || name.starts_with("pg_internal.init")
        || is_temporary_relation(name)
}

/// `t3_16384`: of one session.
fn is_temporary_relation(name: &str) -> bool {
    let digits = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    name.strip_prefix('t')
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(session, relation)| digits(session) && digits(relation))
}

/// An earlier copy of the same cluster, whose files are never changed.
#[derive(Clone, Debug)]
pub(super) struct Earlier {
    pub(super) data: PathBuf,
    /// When it was begun.
    pub(super) begun: SystemTime,
}

/// What a copy is to be.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
    /// What did not change since then becomes another name of the same file.
    pub(super) earlier: Option<Earlier>,
    /// Databases (by oid) of which only the lengths of files are wanted.
    pub(super) hollow: HashSet<u32>,
    /// Whose the files are to be.
    pub(super) owner: Option<RunAs>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Copied {
    pub(super) files: u64,
    /// Bytes that were read and written.
    pub(super) copied_bytes: u64,
    /// Bytes whose blocks or files are shared.
    pub(super) shared_bytes: u64,
}

/// A copy under way.
#[derive(Debug)]
pub(super) struct Copier {
    wanted: Wanted,
    /// Directories, as paths inside.
    dirs: VecDeque<PathBuf>,
    files: Vec<PathBuf>,
    open: Option<(File, File)>,
    can_share: bool,
    pub(super) copied: Copied,
}

impl Copier {
    /// The directory must not be there.
    pub(super) fn new(wanted: Wanted) -> io::Result<Self> {
        make_dir(&wanted.to, wanted.owner.as_ref())?;
        Ok(Self {
            wanted,
            dirs: VecDeque::from([PathBuf::new()]),
            files: Vec::new(),
            open: None,
            can_share: true,
            copied: Copied::default(),
        })
    }

    /// Goes on for a turn; blocks. False: it is complete. What vanishes meanwhile is left out: the server
    /// removed it, and its log says so.
    pub(super) fn turn(&mut self) -> io::Result<bool> {
        let until = self.copied.copied_bytes + TURN_BYTES;
        let mut files = 0;
        while self.copied.copied_bytes < until && files < TURN_FILES {
            if let Some((from, to)) = &mut self.open {
                let bytes = piece(from, to)?;
                self.copied.copied_bytes += bytes;
                if bytes == 0 {
                    let (from, to) = self.open.take().expect("it was looked at just now");
                    self.end(&from.metadata()?, &to)?;
                }
            } else if let Some(path) = self.files.pop() {
                files += 1;
                absent(self.file(&path))?;
            } else if let Some(dir) = self.dirs.pop_front() {
                absent(self.list(&dir))?;
            } else {
                self.control()?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn list(&mut self, dir: &Path) -> io::Result<()> {
        let is_empty = dir.to_str().is_some_and(|dir| EMPTY.contains(&dir));
        for entry in fs::read_dir(self.wanted.from.join(dir))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let path = dir.join(&name);
            let kind = entry.file_type()?;
            if kind.is_dir() && (!is_empty || dir == Path::new("pg_wal")) {
                make_dir(&self.wanted.to.join(&path), self.wanted.owner.as_ref())?;
                // Of the log only its directory for the archiver's notes, and nothing in it.
                if !is_empty {
                    self.dirs.push_back(path);
                }
            } else if kind.is_file()
                && !is_empty
                && !is_left_out(&name)
                && path != Path::new(CONTROL)
            {
                self.files.push(path);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        let from = open(&self.wanted.from.join(path))?;
        let found = from.metadata()?;
        let target = self.wanted.to.join(path);
        self.copied.files += 1;
        if self.is_hollow(path) {
            let to = make(&target, self.wanted.owner.as_ref())?;
            to.set_len(found.len())?;
            return Ok(());
        }
        if self.is_as_earlier(path, &found)
            && let Some(earlier) = &self.wanted.earlier
            && fs::hard_link(earlier.data.join(path), &target).is_ok()
        {
            self.copied.shared_bytes += found.len();
            return Ok(());
        }
        let to = make(&target, self.wanted.owner.as_ref())?;
        if self.can_share && found.len() > 0 {
            match rustix::fs::ioctl_ficlone(&to, &from) {
                Ok(()) => {
                    self.copied.shared_bytes += found.len();
                    return self.end(&found, &to);
                }
                // Not here; then nowhere in this cluster.
                Err(_) => self.can_share = false,
            }
        }
        self.open = Some((from, to));
        Ok(())
    }

    /// The same time, so that the next copy sees whether it changed.
    fn end(&self, found: &fs::Metadata, to: &File) -> io::Result<()> {
        to.set_modified(found.modified()?)
    }

    fn is_hollow(&self, path: &Path) -> bool {
        let oid = path.strip_prefix("base").ok().and_then(|rest| {
            let oid = rest.components().next()?;
            oid.as_os_str().to_str()?.parse().ok()
        });
        oid.is_some_and(|oid| self.wanted.hollow.contains(&oid))
    }

    fn is_as_earlier(&self, path: &Path, found: &fs::Metadata) -> bool {
        let Some(earlier) = &self.wanted.earlier else {
            return false;
        };
        let Ok(theirs) = fs::symlink_metadata(earlier.data.join(path)) else {
            return false;
        };
        let is_settled = found
            .modified()
            .is_ok_and(|changed| changed + SETTLED < earlier.begun);
        theirs.is_file()
            && is_settled
            && theirs.len() == found.len()
            && (theirs.mtime(), theirs.mtime_nsec()) == (found.mtime(), found.mtime_nsec())
    }

    fn control(&mut self) -> io::Result<()> {
        const READS_MAX: usize = 100;
        let path = self.wanted.from.join(CONTROL);
        let mut last = fs::read(&path)?;
        for _ in 0..READS_MAX {
            let next = fs::read(&path)?;
            if next == last {
                let target = self.wanted.to.join(CONTROL);
                return make(&target, self.wanted.owner.as_ref())?.write_all(&next);
            }
            last = next;
        }
        Err(io::Error::other("pg_control changes all the time"))
    }
}

/// Bytes that a copy will have to write, unless blocks can be shared. Blocks.
pub(super) fn bytes_to_write(wanted: &Wanted) -> u64 {
    let dry = Copier {
        wanted: wanted.clone(),
        dirs: VecDeque::new(),
        files: Vec::new(),
        open: None,
        can_share: false,
        copied: Copied::default(),
    };
    let mut bytes = 0;
    let mut left = vec![PathBuf::new()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(wanted.from.join(&dir))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = dir.join(entry.file_name());
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.is_dir() {
                if !dry.is_hollow(&path) && path != Path::new("pg_wal") {
                    left.push(path);
                }
            } else if !dry.is_as_earlier(&path, &found) {
                bytes += found.len();
            }
        }
    }
    bytes
}

fn piece(from: &mut File, to: &mut File) -> io::Result<u64> {
    io::copy(&mut from.take(CHUNK as u64), to)
}

/// Copies, at most `pace` bytes a second. Dropped, it ends after its turn and leaves what it has done.
/// What is `held` is let go when the last turn has ended, also when nobody waits for it any more.
pub(super) async fn copy(
    wanted: Wanted,
    pace: u64,
    held: impl Clone + Send + 'static,
) -> io::Result<Copied> {
    let holds = held.clone();
    let mut copier = blocking(move || {
        let _held = holds;
        Copier::new(wanted)
    })
    .await?;
    loop {
        let holds = held.clone();
        let (begun, before) = (Instant::now(), copier.copied.copied_bytes);
        let (back, is_more) = blocking(move || {
            let _held = holds;
            let is_more = copier.turn()?;
            Ok((copier, is_more))
        })
        .await?;
        copier = back;
        if !is_more {
            return Ok(copier.copied);
        }
        let bytes = copier.copied.copied_bytes - before;
        let due = Duration::from_micros(bytes.saturating_mul(1_000_000) / pace.max(1));
        tokio::time::sleep_until(begun + due).await;
    }
}

/// Work with files, away from the event loop.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Never what a link points to: the cluster belongs to another user than us.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

pub(super) fn make(path: &Path, owner: Option<&RunAs>) -> io::Result<File> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    if let Some(owner) = owner {
        std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(file)
}

pub(super) fn make_dir(path: &Path, owner: Option<&RunAs>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    if let Some(owner) = owner {
        std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(())
}

/// Bytes on the disk of all files below some directories; what has several names counts once.
pub(super) fn disk_bytes(dirs: &[PathBuf]) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut left: Vec<PathBuf> = dirs.to_vec();
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.is_dir() {
                left.push(entry.path());
            } else if found.nlink() == 1 || seen.insert((found.dev(), found.ino())) {
                bytes += found.blocks() * 512;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_all(wanted: Wanted) -> Copied {
        let mut copier = Copier::new(wanted).unwrap();
        while copier.turn().unwrap() {}
        copier.copied
    }

    fn cluster(root: &Path) -> PathBuf {
        let data = root.join("data");
        for dir in [
            "global",
            "base/1",
            "base/2",
            "pg_wal/archive_status",
            "pg_stat_tmp",
        ] {
            fs::create_dir_all(data.join(dir)).unwrap();
        }
        for (file, text) in [
            ("global/pg_control", "control"),
            ("base/1/16384", "one"),
            ("base/2/16384", "two"),
            ("base/2/t3_16385", "temporary"),
            ("pg_wal/000000010000000000000001", "log"),
            ("postmaster.pid", "1"),
            ("pg_stat_tmp/x", "x"),
            ("PG_VERSION", "18"),
        ] {
            fs::write(data.join(file), text).unwrap();
        }
        data
    }

    fn wanted(from: &Path, to: PathBuf, earlier: Option<Earlier>) -> Wanted {
        Wanted {
            from: from.to_owned(),
            to,
            earlier,
            hollow: HashSet::new(),
            owner: None,
        }
    }

    #[test]
    fn what_belongs_to_one_run_of_the_server_is_left_out() {
        let root = scratch::Scratch::new();
        let data = cluster(root.path());
        let to = root.join("copy");
        copy_all(Wanted {
            hollow: HashSet::from([2]),
            ..wanted(&data, to.clone(), None)
        });
        let text = |file: &str| fs::read_to_string(to.join(file)).ok();
        assert_eq!(text("base/1/16384").as_deref(), Some("one"));
        assert_eq!(text("base/2/16384").as_deref(), Some("\0\0\0"));
        assert_eq!(text("global/pg_control").as_deref(), Some("control"));
        for absent in [
            "base/2/t3_16385",
            "postmaster.pid",
            "pg_stat_tmp/x",
            "pg_wal/000000010000000000000001",
        ] {
            assert_eq!(text(absent), None, "{absent}");
        }
        assert!(to.join("pg_wal/archive_status").is_dir());
    }

    /// A file is shared with the copy before only when it was at rest long before that one began.
    #[test]
    fn only_what_did_not_change_is_shared_with_the_copy_before() {
        let root = scratch::Scratch::new();
        let data = cluster(root.path());
        let age = |file: &str, seconds: u64| {
            let to = File::options().write(true).open(data.join(file)).unwrap();
            to.set_modified(SystemTime::now() - Duration::from_secs(seconds))
                .unwrap();
        };
        age("base/1/16384", 100);
        age("base/2/16384", 1);
        let begun = SystemTime::now();
        let first = root.join("first");
        copy_all(wanted(&data, first.clone(), None));
        let earlier = || {
            Some(Earlier {
                data: first.clone(),
                begun,
            })
        };
        let again = |name: &str| {
            let to = root.join(name);
            copy_all(wanted(&data, to.clone(), earlier()));
            let is_shared = |file: &str| {
                fs::metadata(to.join(file)).unwrap().ino()
                    == fs::metadata(first.join(file)).unwrap().ino()
            };
            ["base/1/16384", "base/2/16384"].map(is_shared)
        };
        assert_eq!(again("second"), [true, false]);
        // Of the same length, and even of an old time.
        fs::write(data.join("base/1/16384"), "eno").unwrap();
        age("base/1/16384", 50);
        assert_eq!(again("third"), [false, false]);
        assert_eq!(
            fs::read_to_string(root.join("third/base/1/16384")).unwrap(),
            "eno"
        );
    }
}
