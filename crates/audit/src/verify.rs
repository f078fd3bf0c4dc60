//! Finding what is wrong with a log.
//!
//! Owns: every rule that holds between lines, files and heads. Reads only; goes on after a mistake with what
//! the next line says of itself, so that one change is told once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use crate::{
    Head, Stream,
    files::{self, Lines, Piece},
    keys::{Keys, PublicKey},
    line::{Hash, Line, Link, unhex},
};

/// Problems that are told; more are only counted.
const TOLD_MAX: usize = 100;

/// With which lines and heads are checked.
#[derive(Clone, Debug)]
pub struct With {
    /// Checks the signatures of heads.
    pub public: PublicKey,
    /// Checks every line; whoever is not of the installation has none.
    pub keys: Option<Keys>,
}

impl With {
    /// All that can be checked.
    pub fn keys(keys: Keys) -> Self {
        Self {
            public: keys.public(),
            keys: Some(keys),
        }
    }

    /// What outsiders can.
    pub fn public(public: PublicKey) -> Self {
        Self { public, keys: None }
    }
}

/// What somebody knows of a chain from elsewhere.
#[derive(Clone, Debug)]
pub struct Known {
    /// Who writes it.
    pub chain: String,
    /// Which of its chains.
    pub stream: Stream,
    /// The file.
    pub segment: u64,
    /// Hash of the first line of that file.
    pub first: Hash,
    /// The line.
    pub link: Link,
    /// Of that line.
    pub signature: Vec<u8>,
}

/// What is wrong, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Which file; a directory when a file is missing.
    pub file: PathBuf,
    /// Number of the line in the file; `None`: it is not about one.
    pub line: Option<u64>,
    /// In words.
    pub what: String,
}

/// What was looked at, and found.
#[derive(Debug, Default)]
pub struct Report {
    /// Lines.
    pub lines: u64,
    /// Files.
    pub files: u64,
    /// Heads whose signature is right.
    pub heads: u64,
    /// Heads known from elsewhere that were found in the files.
    pub known: u64,
    /// Problems that are nothing but this: others know of lines that are not there. So it is also with a copy that
    /// is older than what they know.
    pub lacking: u64,
    /// Chains of which a copy has no file.
    pub absent: Vec<Stream>,
    /// Of each chain the last line, and how many lines no signature covers yet.
    pub ends: BTreeMap<Stream, (Link, u64)>,
    /// What is wrong; the first hundred.
    pub problems: Vec<Problem>,
    /// All that is wrong.
    pub problems_count: u64,
    /// What is not wrong and worth knowing.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether all is as it was written.
    pub fn is_whole(&self) -> bool {
        self.problems_count == 0
    }

    fn problem(&mut self, file: &Path, line: Option<u64>, what: impl Into<String>) {
        self.problems_count += 1;
        if self.problems.len() < TOLD_MAX {
            self.problems.push(Problem {
                file: file.to_owned(),
                line,
                what: what.into(),
            });
        }
    }
}

/// Checks all chains of a directory.
///
/// # Errors
///
/// The files cannot be read; there are none.
pub fn directory(dir: &Path, with: &With, known: &[Known]) -> io::Result<Report> {
    chains_of(dir, with, known, true)
}

/// Checks the chains that a copy of such a directory has. It need not have all: those that it has not are in
/// [`Report::absent`].
///
/// # Errors
///
/// As [`directory`].
pub fn copy(dir: &Path, with: &With, known: &[Known]) -> io::Result<Report> {
    chains_of(dir, with, known, false)
}

fn chains_of(dir: &Path, with: &With, known: &[Known], wants_all: bool) -> io::Result<Report> {
    let mut report = Report::default();
    let chains = chains(dir)?;
    // Others may share the catalog; what is known of them is not to be found here.
    let known: Vec<Known> = known
        .iter()
        .filter(|known| chains.contains(&known.chain))
        .cloned()
        .collect();
    let known = &known[..];
    for stream in Stream::ALL {
        let files = files::list(dir, stream)?;
        let mut chain = Chain::new(with, known, &mut report);
        for file in &files {
            chain.file(&file.path, Some((stream, file.number)))?;
        }
        match (files.is_empty(), wants_all) {
            (false, _) => chain.end(dir, stream),
            (true, true) => chain.nothing(dir, stream),
            (true, false) => chain.report.absent.push(stream),
        }
    }
    if report.files == 0 && report.problems_count == 0 {
        let said = format!("{} has no audit log", dir.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, said));
    }
    Ok(report)
}

/// Who has written files of this directory, by their first lines.
fn chains(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut chains = BTreeSet::new();
    for stream in Stream::ALL {
        for file in files::list(dir, stream)? {
            if let Some(Piece::Line(bytes)) = Lines::open(&file.path)?.next()?
                && let Some(line) = Line::read(bytes)
            {
                chains.insert(line.text("chain").to_owned());
            }
        }
    }
    Ok(chains)
}

/// Checks one file: of a log, or one that was exported. It may begin in the middle of a chain.
///
/// # Errors
///
/// The file cannot be read.
pub fn file(path: &Path, with: &With, known: &[Known]) -> io::Result<Report> {
    let mut report = Report::default();
    let mut chain = Chain::new(with, known, &mut report);
    chain.file(path, None)?;
    let stream = chain.stream;
    match stream {
        Some(stream) => chain.end_of_part(path, stream),
        None => chain.report.problem(
            path,
            None,
            "does not begin with the first line of a file of the log",
        ),
    }
    Ok(report)
}

/// A file that lines stand in, as its first line says.
#[derive(Clone)]
struct Of {
    chain: String,
    segment: u64,
    first: Hash,
}

struct Chain<'a> {
    with: &'a With,
    known: &'a [Known],
    report: &'a mut Report,
    stream: Option<Stream>,
    /// The last line, as it says of itself; `None`: nothing is known of what comes next.
    last: Option<Link>,
    of: Option<Of>,
    /// Number of the file before.
    file_before: Option<u64>,
    /// Bytes after the last line of the file before, which the next one has to tell of.
    torn: Option<(PathBuf, u64)>,
    /// The first line of all, and its file.
    began: Option<(u64, Link, Hash)>,
    /// Files that were removed, with their last lines.
    removed: BTreeMap<u64, Link>,
    /// Of `known`, those that were found.
    found: Vec<bool>,
    /// Lines since the last head.
    unsigned: u64,
}

impl<'a> Chain<'a> {
    fn new(with: &'a With, known: &'a [Known], report: &'a mut Report) -> Self {
        Self {
            with,
            known,
            report,
            stream: None,
            last: None,
            of: None,
            file_before: None,
            torn: None,
            began: None,
            removed: BTreeMap::new(),
            found: vec![false; known.len()],
            unsigned: 0,
        }
    }

    /// `named`: what the name of the file says it is.
    fn file(&mut self, path: &Path, named: Option<(Stream, u64)>) -> io::Result<()> {
        self.report.files += 1;
        if let Some((_, number)) = named {
            if let Some(before) = self.file_before
                && number != before + 1
            {
                let what = match number - before {
                    2 => format!("the file number {} before it is missing", before + 1),
                    _ => format!(
                        "the files number {} to {} before it are missing",
                        before + 1,
                        number - 1
                    ),
                };
                self.report.problem(path, None, what);
                self.last = None;
            }
            self.file_before = Some(number);
        }
        let mut lines = Lines::open(path)?;
        let mut number = 0;
        while let Some(piece) = lines.next()? {
            match piece {
                Piece::Torn(bytes) => self.torn = Some((path.to_owned(), bytes.len() as u64)),
                Piece::Line(bytes) => {
                    number += 1;
                    self.report.lines += 1;
                    self.line(path, number, bytes, named);
                }
            }
        }
        if number == 0 && self.torn.is_none() && named.is_some() {
            self.report.problem(path, None, "is empty");
        }
        Ok(())
    }

    fn line(&mut self, path: &Path, number: u64, bytes: &[u8], named: Option<(Stream, u64)>) {
        let at = Some(number);
        let Some(line) = Line::read(bytes) else {
            self.report
                .problem(path, at, "is no line of this log: it was changed");
            self.last = None;
            return;
        };
        if line.computed != line.link.hash {
            self.report
                .problem(path, at, "was changed: its hash is another");
        } else if let Some(keys) = &self.with.keys
            && keys.seal(&line.link.hash) != line.mac
        {
            self.report.problem(
                path,
                at,
                "was not written with the key of this installation",
            );
        }
        self.follows(path, number, &line);
        let event = line.text("event");
        if event == "segment" {
            self.begins(path, number, &line, named);
        } else if number == 1 && named.is_some() {
            self.report.problem(
                path,
                at,
                "does not begin a file: the lines before it are missing",
            );
        }
        self.began.get_or_insert((
            self.of.as_ref().map_or(0, |of| of.segment),
            line.link,
            line.prev,
        ));
        self.unsigned += 1;
        match event {
            "head" => self.head(path, number, &line),
            "removed" => self.removes(path, number, &line),
            _ => {}
        }
        self.compare(path, number, &line);
        self.last = Some(line.link);
    }

    /// Whether it is the one that comes after the last one.
    fn follows(&mut self, path: &Path, number: u64, line: &Line) {
        let Some(last) = self.last else {
            return;
        };
        let (seq, next) = (line.link.seq, last.seq + 1);
        let what = if seq > next {
            match seq - next {
                1 => format!("the line {next} of the log, before it, is missing"),
                _ => format!(
                    "the lines {next} to {} of the log, before it, are missing",
                    seq - 1
                ),
            }
        } else if seq < next {
            format!(
                "is line {seq} of the log and stands after line {}: the order was changed",
                last.seq
            )
        } else if line.prev != last.hash {
            "does not follow the line before it, which is another than the one that was written"
                .to_owned()
        } else {
            return;
        };
        self.report.problem(path, Some(number), what);
    }

    /// The first line of a file.
    fn begins(&mut self, path: &Path, number: u64, line: &Line, named: Option<(Stream, u64)>) {
        let at = Some(number);
        let segment = line.number("segment").unwrap_or_default();
        if let Some((stream, of_name)) = named
            && (number != 1 || of_name != segment || line.text("stream") != stream.as_str())
        {
            let what = format!(
                "begins the file number {segment} of {}, which is another one",
                line.text("stream")
            );
            self.report.problem(path, at, what);
        }
        self.stream = line.text("stream").parse().ok().or(self.stream);
        let told = line.number("torn_bytes").unwrap_or_default();
        match self.torn.take() {
            Some((_, bytes)) if bytes == told => {}
            // Exported without what was torn.
            None if told == 0 || named.is_none() => {}
            Some((torn, bytes)) => self.report.problem(
                &torn,
                None,
                format!("ends with {bytes} bytes that are no line; {told} were there when the next file began"),
            ),
            None => self.report.problem(
                path,
                at,
                format!("the file before it ended with {told} bytes that are no line, and they are gone"),
            ),
        }
        self.of = Some(Of {
            chain: line.text("chain").to_owned(),
            segment,
            first: line.link.hash,
        });
    }

    fn head(&mut self, path: &Path, number: u64, line: &Line) {
        let (Some(of), Some(stream)) = (&self.of, self.stream) else {
            return;
        };
        let covered = Link {
            seq: line.link.seq.saturating_sub(1),
            hash: line.prev,
        };
        let text = Head::signed(&of.chain, stream, of.segment, &covered);
        let signature = unhex::<64>(line.text("signature").as_bytes());
        if signature.is_some_and(|signature| self.with.public.has_signed(&text, &signature)) {
            self.report.heads += 1;
            self.unsigned = 0;
        } else {
            let what = "the signature of this head is not that of this installation";
            self.report.problem(path, Some(number), what);
        }
    }

    fn removes(&mut self, path: &Path, number: u64, line: &Line) {
        let removed = (
            line.number("segment"),
            line.number("last_seq"),
            line.text("last_hash").parse(),
        );
        match removed {
            (Some(segment), Some(seq), Ok(hash)) => {
                self.removed.insert(segment, Link { seq, hash });
            }
            _ => self
                .report
                .problem(path, Some(number), "says of no file that it was removed"),
        }
    }

    /// With what is known from elsewhere.
    fn compare(&mut self, path: &Path, number: u64, line: &Line) {
        let (Some(of), Some(stream)) = (&self.of, self.stream) else {
            return;
        };
        for (known, found) in self.known.iter().zip(&mut self.found) {
            let is_it = !*found
                && known.link.seq == line.link.seq
                && known.stream == stream
                && known.chain == of.chain
                && known.segment == of.segment
                && known.first == of.first;
            if !is_it {
                continue;
            }
            *found = true;
            if known.link.hash == line.link.hash {
                self.report.known += 1;
            } else {
                let what = "is another line than the one whose hash the catalog has";
                self.report.problem(path, Some(number), what);
            }
        }
    }

    /// A chain of which there is no file.
    fn nothing(&mut self, dir: &Path, stream: Stream) {
        if self.known.iter().any(|known| known.stream == stream) {
            self.report.lacking += 1;
            let what = format!("there is no file of {stream}, and the catalog knows some");
            self.report.problem(dir, None, what);
        }
    }

    fn end_of_part(&mut self, path: &Path, stream: Stream) {
        if let Some((_, first, _)) = self.began
            && first.seq > 1
        {
            self.report.notes.push(format!(
                "{} begins with line {} of the log",
                path.display(),
                first.seq
            ));
        }
        self.tell_end(stream);
    }

    fn end(&mut self, dir: &Path, stream: Stream) {
        let Some((segment, first, prev)) = self.began else {
            self.report
                .problem(dir, None, format!("no file of {stream} has a line"));
            return;
        };
        self.begins_rightly(dir, stream, segment, first, prev);
        for (known, found) in self.known.iter().zip(&self.found) {
            let is_missing = known.stream == stream && !found && known.segment >= segment;
            if !is_missing {
                continue;
            }
            let text = Head::signed(&known.chain, stream, known.segment, &known.link);
            let what = if self.with.public.has_signed(&text, &known.signature) {
                self.report.lacking += 1;
                format!(
                    "line {} (file number {}) was signed, the catalog knows it, and it is not there: the end was cut off, or the file was replaced",
                    known.link.seq, known.segment
                )
            } else {
                format!(
                    "the catalog has a head of line {} that this installation did not sign",
                    known.link.seq
                )
            };
            let file = files::path(dir, stream, known.segment);
            self.report.problem(&file, None, what);
        }
        self.tell_end(stream);
    }

    /// Files may be missing at the beginning when a line says of the last of them that it was removed.
    fn begins_rightly(
        &mut self,
        dir: &Path,
        stream: Stream,
        segment: u64,
        first: Link,
        prev: Hash,
    ) {
        if segment <= 1 {
            if first.seq != 1 || prev != Hash::NONE {
                let file = files::path(dir, stream, segment);
                self.report
                    .problem(&file, Some(1), "is not the first line of the log");
            }
            return;
        }
        let removed = self.removed.get(&(segment - 1));
        let is_right = removed.is_some_and(|last| last.hash == prev && last.seq + 1 == first.seq);
        if is_right {
            let what = format!(
                "{stream}: the lines before {} were removed by age or size",
                first.seq
            );
            self.report.notes.push(what);
        } else {
            let file = files::path(dir, stream, segment - 1);
            let what = "is missing, and no line says that it was removed by age or size";
            self.report.problem(&file, None, what);
        }
    }

    fn tell_end(&mut self, stream: Stream) {
        if let Some((path, bytes)) = self.torn.take() {
            self.report.notes.push(format!(
                "{} ends with {bytes} bytes that are no line: it is being written, or the server was killed; \
                 the next start says so in the log",
                path.display()
            ));
        }
        if let Some(last) = self.last {
            self.report.ends.insert(stream, (last, self.unsigned));
        }
    }
}
