//! The handle that everybody but its thread has of a log.
//!
//! Owns: opening and ending one, adding lines and waiting for them, and what is known of it from outside.
//! Does not own: when and where lines are written (`writer`), or the queue between the two (`queue`).

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use chrono::Utc;
use tokio::sync::{oneshot, watch};

use crate::{
    Options, QUEUE_MAX, SPARE, STATEMENTS_QUEUE_MAX, Stream,
    event::Event,
    keys::{Keys, SIGNATURE_BYTES},
    line::{Hash, Link},
    queue::{Item, Queue, Wait},
    writer::Writer,
};

/// Why a line is not in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unwritten {
    /// Too many wait before it.
    #[error("the queue of the audit log is full")]
    Full,
    /// The disk is full or broken; the log says which.
    #[error("the audit log cannot be written")]
    Disk,
    /// The server stops.
    #[error("the audit log is closed")]
    Closed,
}

/// Why a log cannot be begun.
#[derive(Debug, thiserror::Error)]
#[error("the audit log in {dir}")]
pub struct OpenError {
    dir: PathBuf,
    #[source]
    source: io::Error,
}

/// A signature that covers all lines of a chain up to one of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Head {
    /// Who writes the chain.
    pub chain: String,
    /// Which of its chains.
    pub stream: Stream,
    /// The file that the line is in.
    pub segment: u64,
    /// Hash of the first line of that file: what tells it from another of the same number.
    pub first: Hash,
    /// The last line that is covered.
    pub link: Link,
    /// Ed25519, of [`Self::signed`].
    pub signature: [u8; SIGNATURE_BYTES],
}

impl Head {
    /// The bytes that are signed.
    pub fn signed(chain: &str, stream: Stream, segment: u64, link: &Link) -> Vec<u8> {
        format!(
            "tenantry audit head 1\n{chain}\n{stream}\n{segment}\n{}\n{}\n",
            link.seq, link.hash
        )
        .into_bytes()
    }
}

/// How far a chain is on the disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept {
    /// The last line that is there.
    pub seq: u64,
    /// The last head; what it covers is there.
    pub head: Option<Head>,
}

/// What a log counted since it was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Lines written.
    pub lines: u64,
    /// Lines that found no place in the queue, or on the disk.
    pub lost: u64,
    /// Whether the last attempt to write failed.
    pub is_failing: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) queue: Queue,
    pub(crate) kept: watch::Sender<Kept>,
    pub(crate) lines: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) is_failing: AtomicBool,
    pub(crate) thread: Mutex<Option<JoinHandle<()>>>,
    pub(crate) public: crate::PublicKey,
    pub(crate) keys: Keys,
    pub(crate) dir: PathBuf,
    pub(crate) stream: Stream,
    pub(crate) chain: String,
    /// Its first line since it was opened.
    pub(crate) began: AtomicU64,
}

/// A chain that is written. Cheap to clone. Closed with the last handle, if nobody did before.
#[derive(Clone, Debug)]
pub struct Log(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Handle {
    fn close(&self) {
        self.queue.close();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!(stream = %self.stream, "the thread of the audit log had panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::ops::Deref for Handle {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Log {
    /// Goes on with the chain in the directory, in a new file, or begins one.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the directory cannot be made, read or written.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let dir = options.dir.clone();
        Self::begin(options).map_err(|source| OpenError { dir, source })
    }

    fn begin(options: Options) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&options.dir)?;
        let (kept, _) = watch::channel(Kept { seq: 0, head: None });
        let shared = Arc::new(Shared {
            queue: Queue::new(match options.stream {
                Stream::Admin | Stream::Connections => QUEUE_MAX,
                Stream::Statements => STATEMENTS_QUEUE_MAX,
            }),
            keys: options.keys.clone(),
            kept,
            lines: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
            thread: Mutex::new(None),
            public: options.keys.public(),
            dir: options.dir.clone(),
            stream: options.stream,
            chain: options.chain.clone(),
            began: AtomicU64::new(0),
        });
        let mut writer = Writer::open(options, shared.clone())?;
        let thread = std::thread::Builder::new()
            .name(format!("audit-{}", shared.stream))
            .spawn(move || {
                let _ends = Ends(writer.shared.clone());
                writer.run();
            })?;
        *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Adds a line and waits for nothing. When there is no place, it is counted, and the count is a line.
    pub fn note(&self, event: Event) {
        let item = Item {
            event,
            time: Utc::now(),
            wait: Wait::Nobody,
        };
        if self.0.queue.add(item).is_err() {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a line that is noted now will be written, as far as anybody can know: for those who do nothing
    /// without a line. Of a log that could not be written it is false until it was.
    pub fn can_take(&self) -> bool {
        !self.0.is_failing.load(Ordering::Relaxed) && self.0.queue.has_room(SPARE)
    }

    /// [`Keys::stand_in`] with its keys.
    pub fn stand_in(&self, number: u64, text: &[u8]) -> Hash {
        self.0.keys.stand_in(number, text)
    }

    /// Adds a line and waits until it has left this process: what ends the process does not take it any more.
    /// It is on its way to the disk then. Safe to drop: the line stays.
    ///
    /// # Errors
    ///
    /// [`Unwritten`]: there is no such line.
    pub async fn announce(&self, event: Event) -> Result<(), Unwritten> {
        self.add(event, Wait::Written).await
    }

    /// Adds a line and waits until it is as safe as the policy says ([`Sync`]). Safe to drop: the line
    /// stays.
    ///
    /// # Errors
    ///
    /// [`Unwritten`]: there is no such line.
    pub async fn record(&self, event: Event) -> Result<(), Unwritten> {
        self.add(event, Wait::Kept).await
    }

    async fn add(
        &self,
        event: Event,
        wait: impl FnOnce(oneshot::Sender<Result<(), Unwritten>>) -> Wait,
    ) -> Result<(), Unwritten> {
        let (done, written) = oneshot::channel();
        let item = Item {
            event,
            time: Utc::now(),
            wait: wait(done),
        };
        self.0.queue.add(item).map_err(|_| Unwritten::Full)?;
        written.await.unwrap_or(Err(Unwritten::Closed))
    }

    /// How far it is on the disk, and each time that changes.
    pub fn kept(&self) -> watch::Receiver<Kept> {
        self.0.kept.subscribe()
    }

    /// What it counted.
    pub fn counts(&self) -> Counts {
        Counts {
            lines: self.0.lines.load(Ordering::Relaxed),
            lost: self.0.lost.load(Ordering::Relaxed),
            is_failing: self.0.is_failing.load(Ordering::Relaxed),
        }
    }

    /// Number of its first line since it was opened.
    pub fn began(&self) -> u64 {
        self.0.began.load(Ordering::Relaxed)
    }

    /// With which others check it.
    pub fn public_key(&self) -> crate::PublicKey {
        self.0.public
    }

    /// Where its files are.
    pub fn dir(&self) -> &std::path::Path {
        &self.0.dir
    }

    /// Which chain.
    pub fn stream(&self) -> Stream {
        self.0.stream
    }

    /// Who writes it.
    pub fn chain(&self) -> &str {
        &self.0.chain
    }

    /// Writes what waits and a last head, and ends the thread. What is noted later is lost. Waits for
    /// the disk.
    pub fn close(&self) {
        self.0.close();
    }
}

/// Also when the thread panics: nobody waits for it then.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.queue.end();
        if std::thread::panicking() {
            self.0.is_failing.store(true, Ordering::Relaxed);
            tracing::error!(stream = %self.0.stream, "the audit log ended; nothing is changed by the API any more");
        }
    }
}
