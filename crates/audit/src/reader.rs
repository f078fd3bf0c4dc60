//! Reading a chain that is being written, from a line on.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::{
    Stream,
    files::{self, Lines, Piece},
    line::{Hash, Line},
};

/// A line, as it was read.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// All its fields.
    pub fields: Map<String, Value>,
    /// The line itself, without its end.
    pub bytes: Vec<u8>,
}

impl Recorded {
    /// A field that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }

    /// A field that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.fields.get(name)?.as_u64()
    }
}

/// Goes through a chain, file by file. What is no line is passed over: `verify` tells of it.
pub struct Reader {
    dir: PathBuf,
    stream: Stream,
    waiting: VecDeque<files::Segment>,
    /// The file that is read, and its number.
    open: Option<(u64, Lines)>,
    /// The last one given out.
    seq: u64,
}

impl Reader {
    /// For lines after `seq`.
    ///
    /// # Errors
    ///
    /// The files cannot be read.
    pub fn after(dir: &Path, stream: Stream, seq: u64) -> io::Result<Self> {
        let mut files: VecDeque<_> = files::list(dir, stream)?.into();
        // A file that begins at or before that line makes those before it of no interest.
        while let Some(second) = files.get(1) {
            match first_seq(&second.path)? {
                Some(first) if first <= seq + 1 => drop(files.pop_front()),
                _ => break,
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            stream,
            waiting: files,
            open: None,
            seq,
        })
    }

    /// The next line up to number `last`; `None`: there is none, for now. The chain has to be on the disk
    /// as far as `last`.
    ///
    /// # Errors
    ///
    /// The files cannot be read.
    pub fn next(&mut self, last: u64) -> io::Result<Option<Recorded>> {
        while self.seq < last {
            let Some((number, lines)) = &mut self.open else {
                if !self.open_next(0)? {
                    return Ok(None);
                }
                continue;
            };
            let number = *number;
            let Some(Piece::Line(bytes)) = lines.next()? else {
                // The end of this file, or of what is written of it: a line in the making begins after `last`.
                if !self.open_next(number)? {
                    return Ok(None);
                }
                continue;
            };
            if let Some(line) = Line::read(bytes)
                && line.link.seq > self.seq
            {
                let recorded = Recorded {
                    seq: line.link.seq,
                    hash: line.link.hash,
                    bytes: bytes.to_vec(),
                    fields: line.fields,
                };
                self.seq = recorded.seq;
                return Ok(Some(recorded));
            }
        }
        Ok(None)
    }

    fn open_next(&mut self, after: u64) -> io::Result<bool> {
        if self.waiting.is_empty() {
            let mut files = files::list(&self.dir, self.stream)?;
            files.retain(|file| file.number > after);
            self.waiting = files.into();
        }
        match self.waiting.pop_front() {
            Some(file) => {
                self.open = Some((file.number, Lines::open(&file.path)?));
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

fn first_seq(path: &Path) -> io::Result<Option<u64>> {
    let mut lines = Lines::open(path)?;
    match lines.next()? {
        Some(Piece::Line(bytes)) => Ok(Line::read(bytes).map(|line| line.link.seq)),
        _ => Ok(None),
    }
}
