//! The files of a chain: their names, and where the last one ended.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    Stream,
    line::{LINE_BYTES_MAX, Line, Link},
};

/// A file of a chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
}

pub(crate) fn path(dir: &Path, stream: Stream, number: u64) -> PathBuf {
    dir.join(format!("{stream}-{number:08}.jsonl"))
}

/// The files of a chain that are there, oldest first.
///
/// # Errors
///
/// The directory cannot be read.
pub(crate) fn list(dir: &Path, stream: Stream) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name
            .and_then(|name| name.strip_prefix(stream.as_str()))
            .and_then(|name| name.strip_prefix('-'))
            .and_then(|name| name.strip_suffix(".jsonl"))
            .and_then(|number| number.parse().ok());
        if let Some(number) = number {
            found.push(Segment { number, path });
        }
    }
    found.sort_by_key(|segment| segment.number);
    Ok(found)
}

/// The files of a chain that are there, oldest first.
///
/// # Errors
///
/// The directory cannot be read.
pub fn segments(dir: &Path, stream: Stream) -> io::Result<Vec<PathBuf>> {
    let found = list(dir, stream)?;
    Ok(found.into_iter().map(|segment| segment.path).collect())
}

/// Number of the oldest file of a chain.
///
/// # Errors
///
/// The directory cannot be read.
pub fn first_segment(dir: &Path, stream: Stream) -> io::Result<Option<u64>> {
    Ok(list(dir, stream)?.first().map(|segment| segment.number))
}

/// What was read in one go.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Piece<'a> {
    /// A line without its end.
    Line(&'a [u8]),
    /// The rest of the file, which no line end follows.
    Torn(&'a [u8]),
}

/// Lines of a file, one after the other, however long somebody made them.
pub(crate) struct Lines {
    file: BufReader<File>,
    line: Vec<u8>,
}

impl Lines {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: BufReader::with_capacity(64 << 10, File::open(path)?),
            line: Vec::new(),
        })
    }

    /// The next one; `None` at the end. What is longer than any line of ours comes cut, and is none.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        self.line.clear();
        let mut limited = (&mut self.file).take(LINE_BYTES_MAX as u64);
        limited.read_until(b'\n', &mut self.line)?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            return Ok(Some(Piece::Line(&self.line[..self.line.len() - 1])));
        }
        if self.line.len() == LINE_BYTES_MAX {
            self.skip_line()?;
            return Ok(Some(Piece::Line(&self.line)));
        }
        Ok(Some(Piece::Torn(&self.line)))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.file.fill_buf()?;
            let (used, done) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.file.consume(used);
            if done {
                return Ok(());
            }
        }
    }
}

/// How a file ends.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// The last line that can be read, and its time.
    pub(crate) last: Option<(Link, String)>,
    /// Bytes after the last end of a line: the process was ended in the middle of one.
    pub(crate) torn_bytes: u64,
    /// Number, in the file, of a line that cannot be read.
    pub(crate) damaged: Option<u64>,
}

/// Looks how a file ends. What it finds is not judged: `verify` does that.
pub(crate) fn ending(path: &Path) -> io::Result<Ending> {
    let mut lines = Lines::open(path)?;
    let mut ending = Ending::default();
    let mut number = 0;
    while let Some(piece) = lines.next()? {
        match piece {
            Piece::Torn(bytes) => ending.torn_bytes = bytes.len() as u64,
            Piece::Line(bytes) => {
                number += 1;
                match Line::read(bytes) {
                    Some(line) => ending.last = Some((line.link, line.text("time").to_owned())),
                    None => ending.damaged = ending.damaged.or(Some(number)),
                }
            }
        }
    }
    Ok(ending)
}
