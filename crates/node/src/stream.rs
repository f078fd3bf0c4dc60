//! Copying a database that has sessions: one snapshot of it, through `pg_dump | pg_restore`.
//!
//! Nobody waits for it, and it takes seconds where a copy of files takes tenths of one. Owns: the two
//! logins it needs, its processes, and the proof that nothing was lost. Does not own: when it is taken
//! (`control`).
//!
//! No text of a user runs with rights of ours: reading logs in as `_dump`, which may only read, writing as
//! `_fill`, which has the rights of the groups in that one database. While the role `_fill` exists, the copy
//! is not complete, whatever else is there.

use std::{io, process::Stdio, time::Duration};

use model::Pid;
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStderr, Command},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    CloneReport, Node, NodeError, Object,
    programs::{Programs, no_programs},
    steps::{BRANCH, TENANT},
    tenant::ClonePath,
};

const STEP: &str = "copy through a dump";
/// How long reading waits for a table that a transaction of the tenant has locked.
pub(crate) const DUMP_LOCK_WAIT_MAX: Duration = Duration::from_secs(20);
/// How much of what a program says is kept: the reason stands in its last line.
const WORDS_MAX: usize = 8 << 10;

/// What is copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Content {
    /// Everything.
    All,
    /// Everything but rows, large objects and the positions of sequences.
    SchemaOnly,
}

impl Node {
    /// Makes the database of `pid`, closed, from one moment of `source`, which stays in use. What an
    /// interrupted one left is made anew. At most `within`.
    ///
    /// # Errors
    ///
    /// [`NodeError::Program`] when `pg_dump` or `pg_restore` failed; [`NodeError::Conflict`] when the
    /// copy is not what the source was, or there are no programs; [`NodeError::Busy`] after `within`.
    /// Repeating begins anew.
    pub async fn stream_copy(
        &self,
        pid: &Pid,
        source: &Pid,
        content: Content,
        within: Duration,
    ) -> Result<CloneReport, NodeError> {
        let started = Instant::now();
        let programs = self.programs().ok_or_else(|| no_programs(STEP))?;
        let filled = async {
            self.begin_copy(pid, source, within).await?;
            self.fill(programs, pid, source, content).await?;
            self.end_fill(pid, source).await
        };
        match tokio::time::timeout(within, filled).await {
            Ok(done) => done?,
            Err(_) => {
                return Err(NodeError::Busy {
                    step: STEP,
                    what: "the copy was not complete",
                    waited: within,
                });
            }
        }
        Ok(CloneReport {
            path: ClonePath::Stream,
            took: started.elapsed(),
        })
    }

    /// Whether a streamed copy of `pid` was begun and not completed.
    pub(crate) async fn is_half_filled(&self, pid: &Pid) -> Result<bool, NodeError> {
        let lease = self.lease(STEP).await?;
        let sql = "SELECT FROM pg_roles WHERE rolname = $1";
        let rows = self.rows(&lease, STEP, sql, &[&login(pid, "fill")]).await?;
        lease.give_back();
        Ok(!rows.is_empty())
    }

    /// Removes what a streamed copy left that was not completed.
    pub(crate) async fn undo_fill(&self, pid: &Pid, source: &Pid) -> Result<(), NodeError> {
        self.drop_database(pid).await?;
        self.drop_visitor(source, "dump").await?;
        let own = [("database", &*pid.database())];
        self.run(STEP, &BRANCH.fill("fill_undo", &own)).await
    }

    pub(crate) async fn drop_visitor(&self, pid: &Pid, kind: &str) -> Result<(), NodeError> {
        let values = [("database", &*pid.database()), ("kind", kind)];
        self.run(STEP, &TENANT.fill("drop_visitor", &values)).await
    }

    async fn begin_copy(&self, pid: &Pid, source: &Pid, within: Duration) -> Result<(), NodeError> {
        self.begin_fill(pid, within).await?;
        let until = self.in_future(within).await?;
        let key = &self.shared.parts.key;
        let values = [
            ("database", &*source.database()),
            ("kind", "dump"),
            (
                "verifier",
                &key.verifier(&login(source, "dump"), Self::EPOCH),
            ),
            ("until", &until),
        ];
        self.run(STEP, &TENANT.fill("visitor_login", &values)).await
    }

    /// The server's clock, so much later.
    pub(crate) async fn in_future(&self, within: Duration) -> Result<String, NodeError> {
        let lease = self.lease(STEP).await?;
        let sql = "SELECT to_char(now() AT TIME ZONE 'UTC' + make_interval(secs => $1), \
                   'YYYY-MM-DD HH24:MI:SS+00')";
        let rows = self
            .rows(&lease, STEP, sql, &[&within.as_secs_f64()])
            .await?;
        lease.give_back();
        Ok(rows.first().map(|row| row.get(0)).unwrap_or_default())
    }

    async fn fill(
        &self,
        programs: &Programs,
        pid: &Pid,
        source: &Pid,
        content: Content,
    ) -> Result<(), NodeError> {
        let send = async |client: &tokio_postgres::Client, sql: &str| {
            let sent = client.batch_execute(sql).await;
            sent.map_err(|error| self.error(STEP, error))
        };
        // Open until the end: the snapshot lives as long.
        let inside = self.visit(STEP, &source.database()).await?;
        send(&inside, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let rows = self
            .rows(&inside, STEP, "SELECT pg_export_snapshot()", &[])
            .await?;
        let snapshot: String = rows.first().map(|row| row.get(0)).unwrap_or_default();
        let wanted = self.objects_of(&inside).await?;
        {
            let copy = self.visit(STEP, &pid.database()).await?;
            send(&copy, &BRANCH.fill("fill_bare", &[])).await?;
            if !wanted.iter().any(is_public) {
                send(&copy, "DROP SCHEMA public").await?;
            }
        }
        self.pipe(programs, pid, source, content, &snapshot).await?;
        drop(inside);
        let copy = self.visit(STEP, &pid.database()).await?;
        let own = [("database", &*pid.database())];
        send(&copy, &BRANCH.fill("fill_done", &own)).await?;
        drop(copy);
        self.adopt(pid, source).await?;
        let copy = self.visit(STEP, &pid.database()).await?;
        let got = self.objects_of(&copy).await?;
        same(&wanted, &got, content)
    }

    async fn pipe(
        &self,
        programs: &Programs,
        pid: &Pid,
        source: &Pid,
        content: Content,
        snapshot: &str,
    ) -> Result<(), NodeError> {
        let failed = |program: &'static str, words: String| NodeError::Program {
            step: STEP,
            program,
            words,
        };
        let mut dump = self.program(programs, "pg_dump", source, "dump");
        dump.args(["--format=custom", "--compress=0", "--no-password"])
            .arg(format!("--snapshot={snapshot}"))
            .arg(format!(
                "--lock-wait-timeout={}",
                DUMP_LOCK_WAIT_MAX.as_millis()
            ))
            .stdout(Stdio::piped());
        if content == Content::SchemaOnly {
            dump.arg("--schema-only");
        }
        let mut dump =
            Running::begin(&mut dump).map_err(|error| failed("pg_dump", error.to_string()))?;
        let between = dump
            .child
            .stdout
            .take()
            .map(|stdout| stdout.into_owned_fd());
        let Some(Ok(between)) = between else {
            return Err(failed("pg_dump", "its output cannot be read".to_owned()));
        };
        let mut restore = self.restore_program(programs, pid);
        restore.stdin(Stdio::from(between));
        let mut restore = Running::begin(&mut restore)
            .map_err(|error| failed("pg_restore", error.to_string()))?;
        let (dumped, restored) = tokio::join!(dump.ended(), restore.ended());
        // When one fails, the other one only says that its pipe broke.
        let first = match (dumped, restored) {
            (Ok(()), Ok(())) => return Ok(()),
            (Err(words), Ok(())) => failed("pg_dump", words),
            (Ok(()), Err(words)) => failed("pg_restore", words),
            (Err(dump), Err(restore)) if is_cut(&restore) => failed("pg_dump", dump),
            (Err(_), Err(restore)) => failed("pg_restore", restore),
        };
        Err(first)
    }

    /// `pg_restore` into the database of `pid`, as `_fill`.
    pub(crate) fn restore_program(&self, programs: &Programs, pid: &Pid) -> Command {
        let mut restore = self.program(programs, "pg_restore", pid, "fill");
        restore
            // Row security comes into force after the rows are in; from then on an owner whom it binds
            // makes a materialized view under it, as in the source.
            .args(["--exit-on-error", "--no-password", "--enable-row-security"])
            .arg(format!("--dbname={}", pid.database()))
            // Nothing is lost by it: what is not complete is made anew.
            .env("PGOPTIONS", "-c synchronous_commit=off");
        restore
    }

    async fn end_fill(&self, pid: &Pid, source: &Pid) -> Result<(), NodeError> {
        let name = pid.database();
        self.run(STEP, &format!("ALTER DATABASE {name} CONNECTION LIMIT 0"))
            .await?;
        self.drop_visitor(source, "dump").await?;
        // Last: without it, the copy is complete.
        self.drop_visitor(pid, "fill").await
    }
}

pub(crate) fn login(pid: &Pid, kind: &str) -> String {
    format!("{}_{kind}", pid.database())
}

pub(crate) fn is_public(object: &Object) -> bool {
    object.kind == "schema" && object.name == "public"
}

/// Whether `pg_restore` only says that there is no more to read: nothing at all, or less than was begun.
fn is_cut(words: &str) -> bool {
    words.is_empty() || words.contains("end of file") || words.contains("too short")
}

/// A program of the server's that runs. What it says is read as it comes: more of it than a pipe holds would keep
/// the program from going on, while we wait for its output.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    words: JoinHandle<String>,
}

impl Running {
    pub(crate) fn begin(command: &mut Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let words = tokio::spawn(last_words(child.stderr.take()));
        Ok(Self { child, words })
    }

    /// Waits for its end; what it says when it fails. Once.
    pub(crate) async fn ended(&mut self) -> Result<(), String> {
        let status = self.child.wait().await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err((&mut self.words).await.unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        }
    }
}

async fn last_words(stderr: Option<ChildStderr>) -> String {
    let Some(mut stderr) = stderr else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = stderr.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(WORDS_MAX);
        kept.drain(..surplus);
    }
    let text = String::from_utf8_lossy(&kept);
    // The first complaint is the cause; the statement it came from may follow.
    let line = text
        .lines()
        .find(|line| line.contains("error:"))
        .or_else(|| text.lines().last());
    line.unwrap_or_default().trim().to_owned()
}

/// Whether every object is there, with its owner, grants and comment. Their definitions are what
/// `pg_restore` was given, and it stops at its first error; PostgreSQL may write an expression down in
/// another way the second time.
pub(crate) fn same(wanted: &[Object], got: &[Object], content: Content) -> Result<(), NodeError> {
    let relevant = |object: &&Object| match &*object.kind {
        "large objects" => content == Content::All,
        // Of a login, which owns nothing: left behind.
        "default grants" => !object.name.starts_with("x_"),
        _ => true,
    };
    let key = |object: &Object| {
        let count = (object.kind == "large objects").then(|| object.definition.clone());
        (
            object.kind.clone(),
            object.name.clone(),
            object.rights.clone(),
            count,
        )
    };
    let set = |objects: &[Object]| -> std::collections::BTreeSet<_> {
        objects.iter().filter(relevant).map(key).collect()
    };
    let (wanted, got) = (set(wanted), set(got));
    let mut kinds: Vec<&str> = wanted
        .symmetric_difference(&got)
        .map(|(kind, ..)| kind.as_str())
        .collect();
    if kinds.is_empty() {
        return Ok(());
    }
    for different in wanted.symmetric_difference(&got).take(20) {
        tracing::debug!(?different, "a streamed copy differs");
    }
    kinds.dedup();
    Err(NodeError::Conflict {
        step: STEP,
        what: format!("the copy differs from its source in: {}", kinds.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe holds 64 kB.
    #[tokio::test]
    async fn a_program_that_says_much_goes_on_and_its_reason_is_kept() {
        let mut command = Command::new("sh");
        let script = "head -c 300000 /dev/zero | tr '\\0' x >&2; echo >&2; echo output; echo 'sh: error: why' >&2; exit 1";
        command
            .args(["-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut program = Running::begin(&mut command).unwrap();
        let mut output = String::new();
        let mut stdout = program.child.stdout.take().unwrap();
        stdout.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "output\n");
        assert_eq!(program.ended().await, Err("sh: error: why".to_owned()));
    }
}
