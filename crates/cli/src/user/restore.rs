//! `tenantry db restore` and `tenantry db seed`: a file into a database, all of it or nothing.
//!
//! Owns: which kind of file it is, and the one transaction around it. A dump in a form of pg_restore's is
//! made a text by it, without a connection of its own, and run like any other text.

use std::{
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::Ordering,
};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdout, Command},
};

use crate::{
    args::RoleArg,
    exit::{Exit, Failure},
    output::{self, Format},
    user::{
        Context,
        programs::{self, Wanted},
        progress::Progress,
        script::{self, Blocks, Done, Rules, Session, Source, told},
    },
};

/// What became of the data when something went wrong before the end.
pub(super) const UNDONE: &str = "nothing was changed";
/// The same when nobody said whether the end of the transaction was one.
pub(super) const LOST: &str = "it was lost at the very end: look whether the data is there";
/// Enough of a file to know its kind.
const HEAD_BYTES: usize = 512;

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Name or id of the database, where it is not the chosen one; then the file: a dump in the form
    /// plain, custom or tar, or `-` for standard input.
    #[arg(required = true, num_args = 1..=2, value_name = "[DB] FILE")]
    pub(crate) words: Vec<String>,
    /// Drop what the dump has before making it; for dumps in the form custom.
    #[arg(long)]
    pub(crate) clean: bool,
    /// Directory of PostgreSQL's programs.
    #[arg(long, env = "TENANTRY_PG_BIN", value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SeedArgs {
    /// Name or id of the database, where it is not the chosen one; then the file of SQL, or `-` for
    /// standard input.
    #[arg(required = true, num_args = 1..=2, value_name = "[DB] FILE")]
    pub(crate) words: Vec<String>,
    /// As whom: admin may change the schema, write may change rows.
    #[arg(long, value_enum, default_value = "admin")]
    pub(crate) role: RoleArg,
}

/// `tenantry db restore`.
pub(super) async fn restore(context: &Context, args: RestoreArgs) -> Result<(), Failure> {
    let (db, file) = words(context, &args.words)?;
    let mut input = Input::open(&file).await?;
    let kind = Kind::of(&input.head)?;
    if kind == Kind::Text && args.clean {
        return Err(Failure::usage(
            "--clean does nothing with a dump in the form plain",
            "restore into a new database, or make the dump with --format custom",
        ));
    }
    let mut pg_restore = None;
    let mut source = match kind {
        Kind::Text => input.into_source(),
        Kind::Archive => {
            let program = programs::find("pg_restore", Wanted::Highest, args.pg_bin.as_deref());
            let mut command = Command::new(program.await?);
            command.args(["--file=-", "--no-owner", "--no-privileges"]);
            if args.clean {
                command.args(["--clean", "--if-exists"]);
            }
            input.size = None;
            let (child, text) = feed(command, input)?;
            pg_restore = Some(child);
            Source::new(b"", text)
        }
        Kind::Empty => {
            return Err(Failure::new(Exit::Refused, "the file is empty", UNDONE));
        }
    };
    let rules = Rules {
        blocks: Blocks::Absorbed,
        leave_out_owners: true,
        leave_out_extensions: &[],
        cleans: args.clean,
        became: UNDONE,
    };
    let done = whole(
        context,
        &db,
        model::Role::Admin,
        &mut source,
        rules,
        pg_restore,
        "restored",
    );
    let done = done.await?;
    if done.left_out > 0 && !context.quiet {
        eprintln!(
            "{} owners and grants of the dump were left out: they name roles of another server",
            done.left_out
        );
    }
    said(
        context,
        &db,
        "restored",
        &done,
        source.read().load(Ordering::Relaxed),
    )
}

/// `tenantry db seed`.
pub(super) async fn seed(context: &Context, args: SeedArgs) -> Result<(), Failure> {
    let (db, file) = words(context, &args.words)?;
    let input = Input::open(&file).await?;
    if Kind::of(&input.head)? == Kind::Archive {
        return Err(Failure::usage(
            "this is a dump, not SQL",
            "`tenantry db restore` takes it",
        ));
    }
    let mut source = input.into_source();
    let rules = Rules {
        blocks: Blocks::Refused,
        leave_out_owners: false,
        leave_out_extensions: &[],
        cleans: false,
        became: UNDONE,
    };
    let done = whole(
        context,
        &db,
        args.role.into(),
        &mut source,
        rules,
        None,
        "seeded",
    );
    said(
        context,
        &db,
        "seeded",
        &done.await?,
        source.read().load(Ordering::Relaxed),
    )
}

/// Database and file.
fn words(context: &Context, words: &[String]) -> Result<(String, String), Failure> {
    let (db, file) = match words {
        [db, file] => (Some(&**db), file),
        [file] => (None, file),
        _ => return Err(Failure::usage("name a database and a file", "")),
    };
    Ok((context.database(db)?, file.clone()))
}

fn said(context: &Context, db: &str, what: &str, done: &Done, bytes: u64) -> Result<(), Failure> {
    match context.format {
        Format::Json => output::json(&json!({
            "database": db,
            "statements": done.statements,
            "left_out": done.left_out,
            "bytes": bytes,
        })),
        _ if context.quiet => Ok(()),
        _ => {
            eprintln!("{what} {db}: {} statements", done.statements);
            Ok(())
        }
    }
}

/// Runs all of `source` in one transaction, and commits when it and `pg_restore` ended well.
async fn whole(
    context: &Context,
    db: &str,
    role: model::Role,
    source: &mut Source,
    rules: Rules<'_>,
    mut pg_restore: Option<Child>,
    what: &'static str,
) -> Result<Done, Failure> {
    let session = Session::open(context, db, role).await?;
    let read = source.read();
    let progress = Progress::show(what, context.quiet, None, move || {
        read.load(Ordering::Relaxed)
    });
    let begun = session.client.batch_execute("BEGIN").await;
    begun.map_err(|error| told(&error, None, UNDONE))?;
    let ran = match script::run(&session, source, rules).await {
        Ok(done) => ended(pg_restore.as_mut()).await.map(|()| done),
        Err(failure) => Err(failure),
    };
    drop(progress);
    match ran {
        Ok(done) => session.commit(UNDONE, LOST).await.map(|()| done),
        Err(failure) => {
            // At once, and not when the server notices that nobody is there. It does so, too.
            let _ = session.client.batch_execute("ROLLBACK").await;
            Err(failure)
        }
    }
}

/// A text is whole when whoever made it says so.
async fn ended(pg_restore: Option<&mut Child>) -> Result<(), Failure> {
    let Some(child) = pg_restore else {
        return Ok(());
    };
    let status = child.wait().await.context("wait for pg_restore")?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Refused,
        format!("pg_restore cannot read the dump ({status})"),
        UNDONE,
    ))
}

/// What a file begins as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Text,
    /// For pg_restore: custom, or tar.
    Archive,
    Empty,
}

impl Kind {
    fn of(head: &[u8]) -> Result<Self, Failure> {
        let compressed: [(&[u8], &str); 4] = [
            (b"\x1f\x8b", "gunzip"),
            (b"\x28\xb5\x2f\xfd", "unzstd"),
            (b"\xfd7zXZ\0", "unxz"),
            (b"BZh", "bunzip2"),
        ];
        if let Some((_, program)) = compressed.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(Failure::new(
                Exit::Refused,
                "the file is compressed",
                format!("{program} < FILE | tenantry db restore DB -"),
            ));
        }
        if head.is_empty() {
            return Ok(Self::Empty);
        }
        // PostgreSQL's own mark; and the first entry of its tar.
        if head.starts_with(b"PGDMP") || head.starts_with(b"toc.dat\0") {
            return Ok(Self::Archive);
        }
        Ok(Self::Text)
    }
}

/// A file or standard input, of which the beginning has been looked at.
struct Input {
    head: Vec<u8>,
    rest: Box<dyn AsyncRead + Send + Unpin>,
    /// The file itself, at its beginning: pg_restore can then go to and fro in it.
    file: Option<std::fs::File>,
    size: Option<u64>,
}

impl Input {
    async fn open(name: &str) -> Result<Self, Failure> {
        let cannot = |error: io::Error| Failure::usage(format!("cannot read {name}: {error}"), "");
        let (mut rest, file, size): (Box<dyn AsyncRead + Send + Unpin>, _, _) = if name == "-" {
            if io::stdin().is_terminal() {
                return Err(Failure::usage(
                    "nothing is on standard input",
                    "name a file, or send one: < FILE",
                ));
            }
            let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?;
            (Box::new(File::from_std(stdin.into())), None, None)
        } else {
            if Path::new(name).is_dir() {
                return Err(Failure::usage(
                    format!("{name} is a directory"),
                    "a dump in the form directory can be had as one file: pg_dump --format=custom",
                ));
            }
            let file = std::fs::File::open(name).map_err(cannot)?;
            let size = file.metadata().map_err(cannot)?.len();
            let again = std::fs::File::open(name).map_err(cannot)?;
            (Box::new(File::from_std(file)), Some(again), Some(size))
        };
        let mut head = Vec::with_capacity(HEAD_BYTES);
        let mut first = (&mut rest).take(HEAD_BYTES as u64);
        first.read_to_end(&mut head).await.map_err(cannot)?;
        Ok(Self {
            head,
            rest,
            file,
            size,
        })
    }

    fn into_source(self) -> Source {
        // Written by editors of another system; PostgreSQL would take it for a word.
        let head = self
            .head
            .strip_prefix(b"\xef\xbb\xbf")
            .unwrap_or(&self.head);
        Source::new(head, self.rest)
    }
}

/// Starts `pg_restore` on what `input` has. It tells its errors itself.
fn feed(mut command: Command, input: Input) -> Result<(Child, ChildStdout), Failure> {
    let Input {
        head,
        mut rest,
        file,
        ..
    } = input;
    let is_file = file.is_some();
    command
        .stdin(file.map_or_else(Stdio::piped, Stdio::from))
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().context("run pg_restore")?;
    if !is_file && let Some(mut pipe) = child.stdin.take() {
        tokio::spawn(async move {
            // It may have read enough, or given up and said why.
            if pipe.write_all(&head).await.is_ok() {
                let _ = tokio::io::copy(&mut rest, &mut pipe).await;
            }
        });
    }
    let text = child.stdout.take().context("the output of pg_restore")?;
    Ok((child, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_file_is_seen_by_how_it_begins() {
        for (head, is) in [
            (&b"PGDMP\x01"[..], Kind::Archive),
            (b"toc.dat\0\0", Kind::Archive),
            (b"--\n", Kind::Text),
            (b"", Kind::Empty),
        ] {
            assert_eq!(Kind::of(head).unwrap(), is);
        }
        assert_eq!(Kind::of(b"\x1f\x8b\x08").unwrap_err().exit(), Exit::Refused);
    }
}
