//! A text of SQL as it is read: statement after statement, and the data of COPY between them, in
//! bounded memory.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::split::{Found, Scanner, Span};

/// Read at once. Also what a row of COPY that is longer is divided into.
const READ_BYTES: usize = 128 * 1024;
/// The longest statement: a quarter of what PostgreSQL takes at all, and enough for the INSERT of a
/// value of that size.
pub(super) const STATEMENT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Why a text cannot be run as it is. Lines count from 1.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("line {line}: a statement or comment that begins here does not end")]
    Unfinished { line: u64 },
    #[error("line {line}: the data of a COPY ends without its end mark \\.")]
    CopyUnfinished { line: u64 },
    #[error(
        "line {line}: a statement of more than {} MB",
        STATEMENT_BYTES_MAX / 1024 / 1024
    )]
    TooLong { line: u64 },
    #[error("line {line}: it is not in UTF-8")]
    Encoding { line: u64 },
    #[error("line {line}: {command} is a command to psql, and is not run")]
    Meta { line: u64, command: String },
    #[error("it is a dump of pg_dump that ends before its last line")]
    Truncated,
}

/// One statement.
#[derive(Debug)]
pub(super) struct Statement {
    /// From its first token, without `;`.
    pub(super) text: String,
    /// What is known about it. Its offsets say nothing any more.
    pub(super) span: Span,
}

/// A text that is being read.
pub(in crate::user) struct Source {
    input: Pin<Box<dyn AsyncRead + Send>>,
    buffer: Vec<u8>,
    /// Nothing follows what is in the buffer.
    is_end: bool,
    scanner: Scanner,
    read: Arc<AtomicU64>,
    /// Line at which the data of the present COPY begins.
    copy_line: u64,
    is_at_line_start: bool,
}

impl Source {
    /// What `input` gives, with `head` before it.
    pub(in crate::user) fn new(head: &[u8], input: impl AsyncRead + Send + 'static) -> Self {
        Self {
            read: Arc::new(AtomicU64::new(head.len() as u64)),
            buffer: head.to_vec(),
            input: Box::pin(input),
            is_end: false,
            scanner: Scanner::new(),
            copy_line: 0,
            is_at_line_start: true,
        }
    }

    /// Bytes read so far; goes on counting.
    pub(in crate::user) fn read(&self) -> Arc<AtomicU64> {
        self.read.clone()
    }

    /// Whether whoever gives the text has ended it. What was read of it last may not be run yet.
    pub(in crate::user) fn is_at_end(&self) -> bool {
        self.is_end
    }

    /// Whether a dump of pg_dump is being read.
    pub(super) fn is_in_dump(&self) -> bool {
        let (begun, ended) = self.scanner.dumps;
        begun > ended
    }

    /// The next statement, or `None` at the end of the text.
    ///
    /// # Errors
    ///
    /// [`SourceError`]. The text cannot be gone on with.
    pub(super) async fn statement(&mut self) -> Result<Option<Statement>, SourceError> {
        loop {
            let found = self.scanner.scan(&self.buffer, self.is_end);
            let found = found.map_err(|error| SourceError::Unfinished { line: error.line })?;
            match found {
                Found::Statement(span) => return self.take(span).map(Some),
                Found::End if self.is_in_dump() => return Err(SourceError::Truncated),
                Found::End => return Ok(None),
                Found::More => {
                    if self.buffer.len() > STATEMENT_BYTES_MAX {
                        let line = self.scanner.line();
                        return Err(SourceError::TooLong { line });
                    }
                    self.fill().await?;
                }
                Found::Meta {
                    at,
                    line,
                    is_between,
                } => self.meta(at, line, is_between).await?,
            }
        }
    }

    fn take(&mut self, span: Span) -> Result<Statement, SourceError> {
        let text = self.buffer.get(span.start..span.end).unwrap_or_default();
        let text = std::str::from_utf8(text)
            .map_err(|_| SourceError::Encoding { line: span.line })?
            .to_owned();
        self.drop_front(span.next, 0);
        self.copy_line = self.scanner.line();
        Ok(Statement { text, span })
    }

    fn drop_front(&mut self, bytes: usize, lines: u64) {
        self.buffer.drain(..bytes);
        self.scanner.forget(bytes, lines);
    }

    /// Passes what pg_dump writes for psql alone, and refuses any other command: it could run programs
    /// and read files of whoever restores.
    async fn meta(&mut self, at: usize, line: u64, is_between: bool) -> Result<(), SourceError> {
        let length = loop {
            let rest = self.buffer.get(at..).unwrap_or_default();
            if let Some(length) = memchr::memchr(b'\n', rest) {
                break length;
            }
            if self.is_end || rest.len() > READ_BYTES {
                break rest.len();
            }
            self.fill().await?;
        };
        let text = self.buffer.get(at..at + length).unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let command = text.split_whitespace().next().unwrap_or_default();
        if is_between && matches!(command, "\\restrict" | "\\unrestrict") {
            self.scanner.pass(&self.buffer, at + length);
            return Ok(());
        }
        let command = command.chars().filter(|c| !c.is_control()).take(32);
        Err(SourceError::Meta {
            line,
            command: command.collect(),
        })
    }

    async fn fill(&mut self) -> Result<(), SourceError> {
        self.buffer.reserve(READ_BYTES);
        let mut input = (&mut self.input).take(READ_BYTES as u64);
        let bytes = input.read_buf(&mut self.buffer).await;
        let bytes = bytes.map_err(SourceError::Read)?;
        self.is_end |= bytes == 0;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Goes to the line behind a COPY, where its data begins.
    ///
    /// # Errors
    ///
    /// As [`Self::copy_data`].
    pub(super) async fn begin_copy(&mut self) -> Result<(), SourceError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                self.drop_front(end + 1, 1);
                self.is_at_line_start = true;
                return Ok(());
            }
            if self.is_end {
                return Err(self.copy_unfinished());
            }
            self.fill().await?;
        }
    }

    fn copy_unfinished(&self) -> SourceError {
        SourceError::CopyUnfinished {
            line: self.copy_line,
        }
    }

    /// More of the data of a COPY, or `None` behind its last line.
    ///
    /// # Errors
    ///
    /// When the text ends within it.
    pub(super) async fn copy_data(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            if self.is_at_line_start && self.buffer.first() == Some(&b'\\') {
                // `\.` and the end of the line, or of the text.
                let line = memchr::memchr(b'\n', self.buffer.get(..4).unwrap_or(&self.buffer));
                let is_known = self.is_end || self.buffer.len() >= 4 || line.is_some();
                if !is_known {
                    self.fill().await?;
                    continue;
                }
                let end = line.unwrap_or(self.buffer.len().min(4));
                let is_mark = matches!(self.buffer.get(..end), Some(b"\\." | b"\\.\r"))
                    && (line.is_some() || self.is_end);
                if is_mark {
                    self.drop_front((end + 1).min(self.buffer.len()), 1);
                    return Ok(None);
                }
            }
            // Up to the end mark, or to the last line that is there as a whole.
            let mark = memchr::memmem::find(&self.buffer, b"\n\\.").map(|at| at + 1);
            let whole = mark
                .or_else(|| memchr::memrchr(b'\n', &self.buffer).map(|at| at + 1))
                .or((self.buffer.len() >= READ_BYTES).then_some(self.buffer.len()));
            if let Some(bytes) = whole {
                let data = Bytes::copy_from_slice(self.buffer.get(..bytes).unwrap_or_default());
                let lines = memchr::memchr_iter(b'\n', &data).count() as u64;
                self.is_at_line_start = data.last() == Some(&b'\n');
                self.drop_front(bytes, lines);
                return Ok(Some(data));
            }
            if self.is_end {
                return Err(self.copy_unfinished());
            }
            self.fill().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statements, and data of COPY between brackets.
    async fn read(text: &str) -> Result<Vec<String>, SourceError> {
        let text = text.to_owned().into_bytes();
        let mut source = Source::new(b"", io::Cursor::new(text));
        let mut found = Vec::new();
        while let Some(statement) = source.statement().await? {
            found.push(format!("{}:{}", statement.span.line, statement.text));
            if statement.span.from_stdin {
                source.begin_copy().await?;
                let mut data = Vec::new();
                while let Some(some) = source.copy_data().await? {
                    data.extend_from_slice(&some);
                }
                found.push(format!("[{}]", String::from_utf8_lossy(&data)));
            }
        }
        Ok(found)
    }

    #[tokio::test]
    async fn data_of_a_copy_ends_at_its_mark_and_nowhere_else() {
        let found = read("copy t from stdin;\n\\\\.\n\\.x\na;b\n\\.\nselect 1;").await;
        assert_eq!(
            found.unwrap(),
            ["1:copy t from stdin", "[\\\\.\n\\.x\na;b\n]", "6:select 1"]
        );
        let none = read("copy t from stdin;\n\\.\n").await.unwrap();
        assert_eq!(none, ["1:copy t from stdin", "[]"]);
        let end = read("copy t from stdin;\r\n1\r\n\\.\r\nx;").await.unwrap();
        assert_eq!(end, ["1:copy t from stdin", "[1\r\n]", "4:x"]);
        let long = "a".repeat(3 * READ_BYTES);
        let found = read(&format!("copy t from stdin;\n{long}\n\\.")).await;
        assert_eq!(found.unwrap()[1].len(), long.len() + 3);
    }

    #[tokio::test]
    async fn what_ends_too_early_is_refused() {
        let refused = async |text: &str| read(text).await.unwrap_err();
        let copy = refused("copy t from stdin;\n1\n2\n").await;
        assert!(matches!(copy, SourceError::CopyUnfinished { line: 1 }));
        let dump = refused("-- PostgreSQL database dump\nselect 1;").await;
        assert!(matches!(dump, SourceError::Truncated));
        let whole = "-- PostgreSQL database dump\nx;\n-- PostgreSQL database dump complete";
        assert_eq!(read(whole).await.unwrap(), ["2:x"]);
    }

    #[tokio::test]
    async fn no_command_to_psql_is_run_but_the_two_of_pg_dump() {
        let found = read("\\restrict abc\nx;\n\\unrestrict abc\n").await;
        assert_eq!(found.unwrap(), ["2:x"]);
        for text in [
            "\\! touch x",
            "x;\n\\copy t to 'f'\n",
            "x \\gexec",
            "\\connect a",
        ] {
            let refused = read(text).await.unwrap_err();
            assert!(matches!(refused, SourceError::Meta { .. }), "{text}");
        }
    }
}
