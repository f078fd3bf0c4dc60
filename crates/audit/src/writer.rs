//! The thread that writes a chain.
//!
//! Owns: when lines are written, brought to the disk and signed, when a file is full, and when an old one
//! goes. Does not own: how a file begins (`segment`), or the handle that everybody else has (`log`). One lock on the data
//! directory keeps two processes from writing the same chain; that lock is the server's.
//!
//! A file that could not be written to is cut back to the last line that is known to be on the disk, the chain
//! goes on from there, and what was lost is counted in a line of its own. So no line is ever followed by
//! one that does not know it.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::{
    HEAD_EVERY, HEAD_LINES_MAX, Options, SYNC_EVERY, Sync,
    event::Event,
    files::{self, Ending},
    line::{self, Hash, Link, hex},
    log::{Head, Shared, Unwritten},
    queue::{Item, Next, Wait},
    segment::{self, Opened, Place},
};

/// Age at which a file is full, however small: so that old lines go when their time has come.
const SEGMENT_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Between two looks for files to remove, while lines are written.
const TIDY_EVERY: Duration = Duration::from_secs(600);
/// Between two attempts to bring to the disk what could not be.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

pub(crate) struct Writer {
    options: Options,
    pub(crate) shared: Arc<Shared>,
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
    failed_of: Option<io::ErrorKind>,
    buffer: Vec<u8>,
}

impl Writer {
    pub(crate) fn open(options: Options, shared: Arc<Shared>) -> io::Result<Self> {
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
        let next = segment::Next {
            number: number + 1,
            after: link,
            torn_bytes: ending.torn_bytes,
        };
        let opened = Opened::begin(&options, next, "start")?;
        let writer = Self {
            shared,
            file: opened.file,
            segment: opened.number,
            first: opened.first,
            began: Instant::now(),
            written: opened.place,
            synced: opened.place,
            sync_due: None,
            headed: 0,
            head_due: Some(Instant::now() + HEAD_EVERY),
            tidied: None,
            failed_of: None,
            buffer: Vec::new(),
            options,
        };
        let began = &writer.shared.began;
        began.store(opened.place.link.seq, Ordering::Relaxed);
        writer.count_lines(1);
        writer.tell(None);
        Ok(writer)
    }

    pub(crate) fn run(&mut self) {
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
        let next = segment::Next {
            number: self.segment + 1,
            after: self.written.link,
            torn_bytes: 0,
        };
        let opened = Opened::begin(&self.options, next, "full");
        let opened = opened.inspect_err(|error| self.failed("begin", error))?;
        let begun = opened.place.link.seq - self.written.link.seq;
        self.file = opened.file;
        self.segment = opened.number;
        self.first = opened.first;
        self.began = Instant::now();
        self.written = opened.place;
        self.synced = opened.place;
        self.count_lines(begun);
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

    fn failed(&mut self, what: &str, error: &io::Error) {
        let was_failing = self.shared.is_failing.swap(true, Ordering::Relaxed);
        // What it fails of now may be another thing than at first, and need something else to be done.
        let was_told = self.failed_of.replace(error.kind()) == Some(error.kind());
        if !(was_failing && was_told) {
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
