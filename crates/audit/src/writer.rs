//! The thread that writes a chain, and the handle that everybody else has of it.
//!
//! Owns: when lines are written, brought to the disk and signed, when a file is full, and when an old one
//! goes. One lock on the data directory keeps two processes from writing the same chain; that lock is the
//! server's.
//!
//! A file that could not be written to is cut back to the last line that is known to be on the disk, the chain
//! goes on from there, and what was lost is counted in a line of its own. So no line is ever followed by
//! one that does not know it.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    HEAD_EVERY, HEAD_LINES_MAX, Options, QUEUE_MAX, SPARE, STATEMENTS_QUEUE_MAX, SYNC_EVERY,
    Stream, Sync,
    event::Event,
    files::{self, Ending},
    keys::{Keys, SIGNATURE_BYTES},
    line::{self, Hash, Link, hex},
    queue::{Item, Next, Queue, Wait},
};

/// Age at which a file is full, however small: so that old lines go when their time has come.
const SEGMENT_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Between two looks for files to remove, while lines are written.
const TIDY_EVERY: Duration = Duration::from_secs(600);
/// Between two attempts to bring to the disk what could not be.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

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
struct Shared {
    queue: Queue,
    kept: watch::Sender<Kept>,
    lines: AtomicU64,
    lost: AtomicU64,
    is_failing: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    public: crate::PublicKey,
    keys: Keys,
    dir: PathBuf,
    stream: Stream,
    chain: String,
    /// Its first line since it was opened.
    began: AtomicU64,
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

/// A place in the file and in the chain.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    link: Link,
}

struct Writer {
    options: Options,
    shared: Arc<Shared>,
    file: File,
    segment: u64,
    first: Hash,
    began: Instant,
    /// After the last line written.
    written: Place,
    /// After the last line that is on the disk.
    synced: Place,
    /// When what is written has to be on the disk.
    sync_due: Option<Instant>,
    /// What the last head covers, and it itself.
    headed: u64,
    head_due: Option<Instant>,
    tidied: Option<Instant>,
    buffer: Vec<u8>,
}

impl Writer {
    fn open(options: Options, shared: Arc<Shared>) -> io::Result<Self> {
        let mut files = files::list(&options.dir, options.stream)?;
        let mut ending = Ending::default();
        let mut number = 0;
        // A file that was made and never written to says nothing.
        while let Some(last) = files.pop() {
            number = number.max(last.number);
            if fs::metadata(&last.path)?.len() == 0 {
                fs::remove_file(&last.path)?;
                number = files.last().map_or(0, |last| last.number);
                continue;
            }
            let found = files::ending(&last.path)?;
            // Of the newest only: that of an older one has been told.
            if ending.torn_bytes == 0 {
                ending.torn_bytes = found.torn_bytes;
            }
            ending.damaged = ending.damaged.or(found.damaged);
            if found.last.is_some() {
                ending.last = found.last;
                break;
            }
        }
        let link = ending.last.as_ref().map_or(Link::NONE, |(link, _)| *link);
        if let Some(line) = ending.damaged {
            tracing::error!(dir = %options.dir.display(), stream = %options.stream, line,
                "the audit log has a line that cannot be read; `tenantry audit verify` says where");
        }
        let opened = Opened::make(&options, number + 1, link, |event| {
            let event = event.text("why", "start");
            match ending.torn_bytes {
                0 => event,
                torn => event.number("torn_bytes", torn),
            }
        })?;
        let writer = Self {
            shared,
            file: opened.file,
            segment: number + 1,
            first: opened.first,
            began: Instant::now(),
            written: opened.place,
            synced: opened.place,
            sync_due: None,
            headed: 0,
            head_due: Some(Instant::now() + HEAD_EVERY),
            tidied: None,
            buffer: Vec::new(),
            options,
        };
        let began = &writer.shared.began;
        began.store(opened.place.link.seq, Ordering::Relaxed);
        writer.count_lines(1);
        writer.tell(None);
        Ok(writer)
    }

    fn run(&mut self) {
        loop {
            // Those who add nothing while it fails wait for somebody to try.
            let is_failing = self.shared.is_failing.load(Ordering::Relaxed);
            let again = is_failing.then(|| Instant::now() + AGAIN_AFTER);
            let due = [self.sync_due, self.head_due, again];
            match self.shared.queue.next(due.into_iter().flatten().min()) {
                Next::Write { items, lost } => self.write_all(items, lost),
                Next::Due if is_failing => match self.shared.queue.take_lost() {
                    0 => {}
                    lost => self.write_all(VecDeque::new(), lost),
                },
                Next::Due => {}
                Next::Closed => {
                    let stopped = vec![nobody(Event::new("stopped"))];
                    self.write_all(stopped.into(), 0);
                    let _ = self.head();
                    return;
                }
            }
            let now = Instant::now();
            let head_due = self.head_due.is_some_and(|due| due <= now);
            if head_due || self.written.link.seq.saturating_sub(self.headed) >= HEAD_LINES_MAX {
                if self.head().is_err() {
                    self.head_due = Some(now + AGAIN_AFTER);
                }
                self.tidy();
            } else if self.sync_due.is_some_and(|due| due <= now) && self.sync().is_err() {
                self.sync_due = None;
            }
        }
    }

    /// Writes one batch, and tells everybody who waits for it.
    fn write_all(&mut self, mut items: VecDeque<Item>, lost: u64) {
        if lost > 0 {
            let event = Event::new("lost").number("lines", lost);
            items.push_front(nobody(event));
        }
        let is_full = self.written.offset >= self.options.segment_bytes_max
            || self.began.elapsed() >= SEGMENT_AGE_MAX;
        let done = match is_full {
            true => self.rotate(),
            false => Ok(()),
        };
        let done =
            done.and_then(|()| self.append(items.iter().map(|item| (&item.event, item.time))));
        if done.is_err() {
            let told = items.len() as u64 - u64::from(lost > 0);
            self.shared.queue.count_lost(lost + told);
            self.shared.lost.fetch_add(told, Ordering::Relaxed);
            for item in items {
                item.answer(&Err(Unwritten::Disk));
            }
            return;
        }
        let is_urgent = self.options.sync == Sync::Always
            && items.iter().any(|item| !matches!(item.wait, Wait::Nobody));
        // Those who wait for no disk go on now.
        let mut waiting = Vec::new();
        for item in items {
            match item.wait {
                Wait::Kept(_) if is_urgent => waiting.push(item),
                _ => item.answer(&Ok(())),
            }
        }
        if is_urgent {
            let kept = self.sync().map_err(|_| Unwritten::Disk);
            for item in waiting {
                item.answer(&kept);
            }
        } else if self.options.sync == Sync::Off {
            // Readers may have it, wherever it is.
            self.tell(None);
        } else if self.sync_due.is_none() {
            self.sync_due = Some(Instant::now() + SYNC_EVERY);
        }
        if self.head_due.is_none() {
            self.head_due = Some(Instant::now() + HEAD_EVERY);
        }
    }

    /// Writes lines after the last one, all or none.
    fn append<'a>(
        &mut self,
        lines: impl Iterator<Item = (&'a Event, DateTime<Utc>)>,
    ) -> io::Result<()> {
        let mut link = self.written.link;
        self.buffer.clear();
        for (event, time) in lines {
            link = line::write(event, &link, time, &self.options.keys, &mut self.buffer);
        }
        if let Err(error) = self.file.write_all_at(&self.buffer, self.written.offset) {
            // What is left of it after the end is overwritten by the next one, if this fails too.
            let _ = self.file.set_len(self.written.offset);
            self.failed("write", &error);
            return Err(error);
        }
        self.count_lines(link.seq - self.written.link.seq);
        self.written = Place {
            offset: self.written.offset + self.buffer.len() as u64,
            link,
        };
        self.works();
        Ok(())
    }

    /// Brings to the disk what is written. When that fails, nobody knows what of it is there: the file goes
    /// back to where that is known.
    fn sync(&mut self) -> io::Result<()> {
        self.sync_due = None;
        if let Err(error) = self.file.sync_data() {
            let lines = self.written.link.seq - self.synced.link.seq;
            self.shared.queue.count_lost(lines);
            self.shared.lost.fetch_add(lines, Ordering::Relaxed);
            let _ = self.file.set_len(self.synced.offset);
            self.written = self.synced;
            self.failed("sync", &error);
            return Err(error);
        }
        self.synced = self.written;
        self.tell(None);
        Ok(())
    }

    /// Signs all up to here, and brings it to the disk.
    fn head(&mut self) -> io::Result<()> {
        let link = self.written.link;
        if link.seq > self.headed {
            let text = Head::signed(
                &self.options.chain,
                self.options.stream,
                self.segment,
                &link,
            );
            let signature = self.options.keys.sign(&text);
            let event = Event::new("head").text("signature", hex(&signature));
            self.append([(&event, Utc::now())].into_iter())?;
            self.sync()?;
            self.headed = self.written.link.seq;
            self.tell(Some(Head {
                chain: self.options.chain.clone(),
                stream: self.options.stream,
                segment: self.segment,
                first: self.first,
                link,
                signature,
            }));
        }
        self.head_due = None;
        Ok(())
    }

    /// Ends this file with a head, and begins the next one.
    fn rotate(&mut self) -> io::Result<()> {
        self.head()?;
        let next = self.segment + 1;
        let opened = Opened::make(&self.options, next, self.written.link, |event| {
            event.text("why", "full")
        });
        let opened = opened.inspect_err(|error| self.failed("begin", error))?;
        self.file = opened.file;
        self.segment = next;
        self.first = opened.first;
        self.began = Instant::now();
        self.written = opened.place;
        self.synced = opened.place;
        self.count_lines(1);
        self.tell(None);
        self.tidied = None;
        self.tidy();
        Ok(())
    }

    /// Removes files whose time has come, after a line that says so is on the disk.
    fn tidy(&mut self) {
        let is_time = self.tidied.is_none_or(|at| at.elapsed() >= TIDY_EVERY);
        if !is_time {
            return;
        }
        self.tidied = Some(Instant::now());
        if let Err(error) = self.remove_old() {
            tracing::warn!(stream = %self.options.stream, error = %error,
                "old files of the audit log were not removed");
        }
    }

    fn remove_old(&mut self) -> io::Result<()> {
        let mut files = files::list(&self.options.dir, self.options.stream)?;
        files.retain(|file| file.number != self.segment);
        let mut sizes = Vec::new();
        for file in &files {
            sizes.push(fs::metadata(&file.path)?.len());
        }
        let mut all = self.written.offset + sizes.iter().sum::<u64>();
        let too_old = match self.options.keep {
            Duration::ZERO => None,
            keep => Some(Utc::now() - keep),
        };
        for (file, size) in files.into_iter().zip(sizes) {
            let ending = files::ending(&file.path)?;
            let Some((link, time)) = ending.last else {
                return Ok(());
            };
            let time = DateTime::parse_from_rfc3339(&time).ok();
            let is_old = too_old
                .zip(time)
                .is_some_and(|(bound, time)| time.to_utc() < bound);
            let is_too_much = self.options.bytes_max > 0 && all > self.options.bytes_max;
            if !is_old && !is_too_much {
                return Ok(());
            }
            let event = Event::new("removed")
                .number("segment", file.number)
                .number("last_seq", link.seq)
                .text("last_hash", link.hash)
                .text("why", if is_old { "age" } else { "size" });
            self.append([(&event, Utc::now())].into_iter())?;
            self.sync()?;
            self.head_due.get_or_insert(Instant::now() + HEAD_EVERY);
            fs::remove_file(&file.path)?;
            all -= size;
        }
        Ok(())
    }

    fn tell(&self, head: Option<Head>) {
        let seq = match self.options.sync {
            Sync::Off => self.written.link.seq,
            Sync::Always | Sync::Batch => self.synced.link.seq,
        };
        self.shared.kept.send_modify(|kept| {
            kept.seq = seq;
            if head.is_some() {
                kept.head = head;
            }
        });
    }

    fn count_lines(&self, lines: u64) {
        self.shared.lines.fetch_add(lines, Ordering::Relaxed);
    }

    fn failed(&self, what: &str, error: &io::Error) {
        if !self.shared.is_failing.swap(true, Ordering::Relaxed) {
            tracing::error!(stream = %self.options.stream, what, error = %error,
                "the audit log cannot be written; until it can, nothing is changed by the API (admin), and databases with \
                 statement_audit carry out no statement (statements)");
        }
    }

    fn works(&self) {
        if self.shared.is_failing.swap(false, Ordering::Relaxed) {
            tracing::info!(stream = %self.options.stream, "the audit log is written again");
        }
    }
}

impl Item {
    fn answer(self, done: &Result<(), Unwritten>) {
        match self.wait {
            Wait::Nobody => {}
            Wait::Written(reply) | Wait::Kept(reply) => drop(reply.send(done.clone())),
        }
    }
}

fn nobody(event: Event) -> Item {
    Item {
        event,
        time: Utc::now(),
        wait: Wait::Nobody,
    }
}

/// A file with its first line on the disk.
struct Opened {
    file: File,
    place: Place,
    first: Hash,
}

impl Opened {
    fn make(
        options: &Options,
        number: u64,
        after: Link,
        with: impl FnOnce(Event) -> Event,
    ) -> io::Result<Self> {
        let path = files::path(&options.dir, options.stream, number);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let event = Event::new("segment")
            .number("segment", number)
            .text("chain", &options.chain)
            .text("stream", options.stream)
            .number("process", u64::from(std::process::id()));
        let mut bytes = Vec::new();
        let keys: &Keys = &options.keys;
        let link = line::write(&with(event), &after, Utc::now(), keys, &mut bytes);
        let written = file
            .write_all_at(&bytes, 0)
            .and_then(|()| file.sync_all())
            .and_then(|()| File::open(&options.dir)?.sync_all());
        if let Err(error) = written {
            // Nothing follows it yet.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self {
            file,
            place: Place {
                offset: bytes.len() as u64,
                link,
            },
            first: link.hash,
        })
    }
}
