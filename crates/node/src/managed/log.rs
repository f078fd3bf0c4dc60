//! The server's log: read from its standard error, kept in files that cannot grow without end.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead, BufReader, PipeReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::time::Instant;

/// Size of one file, in bytes.
const FILE_BYTES_MAX: u64 = 10 << 20;
/// Older files kept beside it: 50 MB in all, weeks of what the server says at our settings.
const OLD_FILES_MAX: u32 = 4;
/// Longest line that is kept. The rest is dropped.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Last lines that are kept in memory, to say why a start failed.
const TAIL_LINES_MAX: usize = 20;

/// Time, kind of process, its id.
pub(crate) const LINE_PREFIX: &str = "%m [%b %p] ";

/// Whether a tenant's code may have written this: a LOG message (`RAISE LOG`) of a process that runs
/// statements, or index expressions. At our settings PostgreSQL itself writes none there.
fn is_from_tenant(line: &str) -> bool {
    let Some((prefix, message)) = line.split_once("] ") else {
        return false;
    };
    let Some((_, process)) = prefix.split_once('[') else {
        return false;
    };
    let kind = process
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .trim_end();
    message.starts_with("LOG:") && (kind.ends_with("backend") || kind.ends_with("worker"))
}

/// How long to wait for the last words of a server that ended: a child of it may hold the pipe.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
const LAST_WORDS_POLL: Duration = Duration::from_millis(5);

/// The end of what the server wrote.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// The thread that reads.
    reader: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Tail {
    fn push(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == TAIL_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// Forgets what an earlier process wrote.
    pub(crate) fn clear(&self) {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Returns when what an ended server wrote was read, or after a bound.
    pub(crate) async fn last_words(&self) {
        let reads = || {
            let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.as_ref().is_some_and(|reader| !reader.is_finished())
        };
        let until = Instant::now() + LAST_WORDS_MAX;
        while reads() && Instant::now() < until {
            tokio::time::sleep(LAST_WORDS_POLL).await;
        }
    }

    pub(crate) fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

/// Reads until the last process of the server has closed its end. On a thread of its own: a server
/// whose log is not read stops, and nothing of ours may delay that.
pub(crate) fn follow(pipe: PipeReader, dir: &Path, tail: Tail) -> io::Result<()> {
    let mut file = Rotated::open(dir)?;
    let whose = tail.clone();
    let reader = std::thread::Builder::new()
        .name("postgres log".to_owned())
        .spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            let mut is_tenants = false;
            while let Ok(true) = read_line(&mut reader, &mut line) {
                let text = String::from_utf8_lossy(&line);
                // The further lines of a message begin with a tab.
                if !text.starts_with('\t') {
                    is_tenants = is_from_tenant(&text);
                }
                if is_tenants {
                    continue;
                }
                tail.push(&text);
                // A full disk must not stop the server.
                let _ = file.write_line(&line);
            }
        })?;
    *whose.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
    Ok(())
}

/// One line without its end, cut at the limit. False at the end of the stream.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let available = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = available.iter().position(|b| *b == b'\n');
        let part = &available[..end.unwrap_or(available.len())];
        let room = LINE_BYTES_MAX.saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

struct Rotated {
    path: PathBuf,
    file: fs::File,
    bytes: u64,
}

impl Rotated {
    fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("postgres.log");
        let file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes })
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes >= FILE_BYTES_MAX {
            self.rotate()?;
        }
        let mut whole = line.to_vec();
        whole.push(b'\n');
        self.file.write_all(&whole)?;
        self.bytes += whole.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let old = |n: u32| self.path.with_extension(format!("log.{n}"));
        for n in (1..OLD_FILES_MAX).rev() {
            if old(n).exists() {
                fs::rename(old(n), old(n + 1))?;
            }
        }
        fs::rename(&self.path, old(1))?;
        *self = Self::open(self.path.parent().unwrap_or(Path::new(".")))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_rotated_and_the_oldest_is_dropped() {
        let dir = scratch::Scratch::new();
        let mut file = Rotated::open(dir.path()).unwrap();
        for n in 0..=OLD_FILES_MAX + 1 {
            file.write_line(format!("file {n}").as_bytes()).unwrap();
            file.bytes = FILE_BYTES_MAX;
        }
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(
            read("postgres.log"),
            format!("file {}\n", OLD_FILES_MAX + 1)
        );
        assert_eq!(read("postgres.log.1"), format!("file {OLD_FILES_MAX}\n"));
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            OLD_FILES_MAX as usize + 1
        );
    }

    #[test]
    fn what_a_tenant_writes_is_told_from_what_the_server_writes() {
        for (line, want) in [
            (
                "2026-11-21 08:22:25.923 UTC [client backend 26484] LOG:  canary",
                true,
            ),
            (
                "2026-11-21 08:22:25.923 UTC [autovacuum worker 7] LOG:  canary",
                true,
            ),
            (
                "2026-11-21 08:22:25.923 UTC [parallel worker 7] LOG:  canary",
                true,
            ),
            (
                "2026-11-21 08:22:25.923 UTC [client backend 26484] FATAL:  too many",
                false,
            ),
            (
                "2026-11-21 08:22:25.923 UTC [checkpointer 12] LOG:  checkpoint starting: time",
                false,
            ),
            (
                "2026-11-21 08:22:25.923 UTC [postmaster 1] LOG:  server process (PID 2) exited",
                false,
            ),
            ("postgres: could not find the database system", false),
            ("", false),
        ] {
            assert_eq!(is_from_tenant(line), want, "{line}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut text = vec![b'x'; 3 * LINE_BYTES_MAX];
        text.extend_from_slice(b"\nnext");
        let mut reader = BufReader::new(&text[..]);
        let mut line = Vec::new();
        assert!(read_line(&mut reader, &mut line).unwrap());
        assert_eq!(line.len(), LINE_BYTES_MAX);
        assert!(read_line(&mut reader, &mut line).unwrap());
        assert_eq!(line, b"next");
        assert!(!read_line(&mut reader, &mut line).unwrap());
    }
}
