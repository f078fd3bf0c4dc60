//! One file of a chain, as it is begun.
//!
//! Owns: making it, with its first line on the disk, and going on behind one that an attempt before left there. Does
//! not own: the lines that follow (`writer`), or the files that are there (`files`).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
};

use chrono::Utc;

use crate::{
    Options,
    event::Event,
    files::{self, Lines, Piece},
    keys::Keys,
    line::{self, Hash, Line, Link},
};

/// A place in the file and in the chain.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) link: Link,
}

/// Where a file is to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Next {
    pub(crate) number: u64,
    /// The line that its first one follows.
    pub(crate) after: Link,
    /// Bytes that are no line at the end of the file before it, which its first line tells of.
    pub(crate) torn_bytes: u64,
}

impl Next {
    /// Goes on behind a file of that number that is there: an attempt to begin it failed, and could not take it back,
    /// since its directory was away. What such an attempt leaves is nothing, a part of the first line, or all of it,
    /// which is a line of the chain then; it stays as it is, as at a start. Nothing else is passed over.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no such file.
    fn pass_over(&mut self, options: &Options) -> io::Result<()> {
        let path = files::path(&options.dir, options.stream, self.number);
        if fs::metadata(&path)?.len() == 0 {
            return fs::remove_file(&path);
        }
        let mut passed = Self {
            number: self.number + 1,
            torn_bytes: 0,
            ..*self
        };
        let mut lines = Lines::open(&path)?;
        while let Some(piece) = lines.next()? {
            match piece {
                Piece::Torn(bytes) => passed.torn_bytes = bytes.len() as u64,
                Piece::Line(bytes) => {
                    let line = Line::read(bytes).filter(|line| self.is_begun_by(line, options));
                    // A second one does not follow the same line.
                    let is_first = passed.after == self.after;
                    let Some(line) = line.filter(|_| is_first) else {
                        let said = format!(
                            "{} was not begun by this log; move it elsewhere",
                            path.display()
                        );
                        return Err(io::Error::new(io::ErrorKind::AlreadyExists, said));
                    };
                    passed.after = line.link;
                }
            }
        }
        *self = passed;
        Ok(())
    }

    /// Whether this is the first line of it, written with our keys.
    fn is_begun_by(&self, line: &Line, options: &Options) -> bool {
        line.computed == line.link.hash
            && options.keys.seal(&line.link.hash) == line.mac
            && line.link.seq == self.after.seq + 1
            && line.prev == self.after.hash
            && line.text("event") == "segment"
            && line.number("segment") == Some(self.number)
    }
}

/// A file with its first line on the disk.
pub(crate) struct Opened {
    pub(crate) number: u64,
    pub(crate) file: File,
    pub(crate) place: Place,
    pub(crate) first: Hash,
}

impl Opened {
    /// Begins the next file. `why`: what its first line says of that.
    ///
    /// # Errors
    ///
    /// It cannot be made or written, or there is one of its number already that nobody here began. Nothing is
    /// overwritten.
    pub(crate) fn begin(options: &Options, mut next: Next, why: &str) -> io::Result<Self> {
        loop {
            match Self::make(options, next, why) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    next.pass_over(options)?;
                }
                made => return made,
            }
        }
    }

    fn make(options: &Options, next: Next, why: &str) -> io::Result<Self> {
        let Next { number, after, .. } = next;
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
            .number("process", u64::from(std::process::id()))
            .text("why", why);
        let event = match next.torn_bytes {
            0 => event,
            torn => event.number("torn_bytes", torn),
        };
        let mut bytes = Vec::new();
        let keys: &Keys = &options.keys;
        let link = line::write(&event, &after, Utc::now(), keys, &mut bytes);
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
            number,
            file,
            place: Place {
                offset: bytes.len() as u64,
                link,
            },
            first: link.hash,
        })
    }
}
