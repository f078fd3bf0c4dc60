//! The audit log: what was done, in files that tell when somebody changed them.
//!
//! Owns: the form of a line and its place in the chain ([`Event`], `line`), keys ([`Keys`]), the files and
//! the thread that writes them ([`Log`]), and finding what is wrong with them ([`verify`]). Does not own: what
//! is worth a line (`control` for what is done to the installation, `proxy` for its clients), and where
//! heads are kept beside the files (`control`).

mod event;
mod files;
mod keys;
mod line;
mod log;
mod queue;
mod reader;
mod segment;
pub mod verify;
mod writer;

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

pub use event::Event;
pub use files::{first_segment, segments};
pub use keys::{Keys, PublicKey};
pub use line::{Hash, Link};
pub use log::{Counts, Head, Kept, Log, OpenError, Unwritten};
pub use reader::{Reader, Recorded};

/// One of the chains of a data directory. Each has files and a thread of its own, so that no flood of
/// clients can delay what is done by administrators, or push it out of the files.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Stream {
    /// What is done to the installation: requests that change something, commands of the console, what the
    /// program does by itself.
    Admin,
    /// Who connected to what, and who was refused.
    Connections,
    /// What was asked of databases that want every statement noted.
    Statements,
}

impl Stream {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Admin, Self::Connections, Self::Statements];

    /// As it stands in the names of files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Connections => "connections",
            Self::Statements => "statements",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Stream {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|stream| stream.as_str() == text)
            .ok_or("is none of admin, connections and statements")
    }
}

/// When a line is on the disk, and not only on its way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sync {
    /// Before whoever waits for it goes on. Lines that nobody waits for: as with [`Self::Batch`].
    #[default]
    Always,
    /// Within [`SYNC_EVERY`]. What has been written survives the end of the process, not that of the machine.
    Batch,
    /// With the next head.
    Off,
}

impl FromStr for Sync {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "always" => Ok(Self::Always),
            "batch" => Ok(Self::Batch),
            "off" => Ok(Self::Off),
            _ => Err("is neither always, batch nor off"),
        }
    }
}

/// Between two times that lines nobody waits for are brought to the disk: what a loss of power takes.
pub const SYNC_EVERY: Duration = Duration::from_secs(1);
/// From a line to a signature that covers it.
pub const HEAD_EVERY: Duration = Duration::from_secs(10);
/// Lines between two heads, when there are many.
pub const HEAD_LINES_MAX: u64 = 1000;
/// Lines that wait to be written. 4,096 are some 2 MB, and a second of a fast login crowd.
pub const QUEUE_MAX: usize = 4096;
/// Statements that wait to be written: some 10 MB. With fewer, a slow disk would delay databases that are busy.
pub const STATEMENTS_QUEUE_MAX: usize = 16 * 1024;
/// Of them, so many places are left for those that were let through while others were asked about: one for each
/// thread that asks, and many more.
pub(crate) const SPARE: usize = 1024;

/// The chains of a data directory, as they are written. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Logs {
    /// [`Stream::Admin`].
    pub admin: Log,
    /// [`Stream::Connections`].
    pub connections: Log,
    /// [`Stream::Statements`].
    pub statements: Log,
}

impl Logs {
    /// Goes on with all, or begins them. `options`: of the first; the others have the same, but that nobody
    /// waits for their lines.
    ///
    /// # Errors
    ///
    /// [`OpenError`], with nothing left open.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let of = |stream| Options {
            stream,
            ..options.clone()
        };
        let admin = Log::open(of(Stream::Admin))?;
        let connections = Log::open(of(Stream::Connections)).inspect_err(|_| admin.close())?;
        let statements = Log::open(of(Stream::Statements)).inspect_err(|_| {
            admin.close();
            connections.close();
        })?;
        Ok(Self {
            admin,
            connections,
            statements,
        })
    }

    /// All of them.
    pub fn all(&self) -> [&Log; 3] {
        [&self.admin, &self.connections, &self.statements]
    }

    /// [`Log::close`] of all.
    pub fn close(&self) {
        for log in self.all() {
            log.close();
        }
    }
}

/// What a [`Log`] is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its files are; made when it is not there.
    pub dir: PathBuf,
    /// Which chain.
    pub stream: Stream,
    /// Who writes it: the name of the data directory among those that share a catalog.
    pub chain: String,
    /// What it is sealed with.
    pub keys: Keys,
    /// When it is on the disk.
    pub sync: Sync,
    /// Size of a file, bytes, after which the next one begins. 16 MiB: checked in a tenth of a second.
    pub segment_bytes_max: u64,
    /// Age after which files are removed; zero: never.
    pub keep: Duration,
    /// Size of all files, bytes, above which the oldest is removed; 0: no bound.
    pub bytes_max: u64,
}

impl Options {
    /// With the usual bounds: 90 days, 2 GiB.
    pub fn new(dir: PathBuf, stream: Stream, chain: &str, keys: Keys) -> Self {
        Self {
            dir,
            stream,
            chain: chain.to_owned(),
            keys,
            sync: Sync::default(),
            segment_bytes_max: 16 << 20,
            keep: Duration::from_secs(90 * 24 * 3600),
            bytes_max: 2 << 30,
        }
    }
}
