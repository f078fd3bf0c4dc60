//! `tenantry audit export`: the log's lines in another place.
//!
//! Owns: whole lines only, as they are, and what is said of them. Does not own: what may stand where a copy is
//! already (`control::BackupPlace::keep`).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use audit::Stream;
use clap::Args;
use control::{BackupPlace, KeepError, Kept};
use model::Secret;

use super::DataDir;
use crate::{
    exit::{Exit, Failure},
    output,
};

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Where to: a file that is not there yet, - for standard output, or file:///folder and s3://bucket/prefix, where
    /// each file of the log is kept under its name and goes on from where the last export ended.
    #[arg(long, value_name = "FILE|URL")]
    to: String,
    /// Lines like AWS_ACCESS_KEY_ID=…, for a store; they go before those of the environment.
    #[arg(long, value_name = "FILE")]
    store_file: Option<PathBuf>,
    /// Which lines: admin, what was done; connections, who connected; statements, of databases that want them.
    #[arg(long, default_value = "admin", value_name = "STREAM")]
    stream: Stream,
    #[command(flatten)]
    data: DataDir,
}

/// Copies whole lines, whatever is in them: what somebody changed is to be seen in the copy.
pub(super) async fn run(args: &ExportArgs) -> Result<(), Failure> {
    let dir = args.data.audit();
    let unreadable = |error: io::Error| {
        Failure::usage(
            format!("{}: {error}", dir.display()),
            "name the data directory with --data-dir",
        )
    };
    let files = audit::segments(&dir, args.stream).map_err(unreadable)?;
    if files.is_empty() {
        return Err(unreadable(io::ErrorKind::NotFound.into()));
    }
    if let Some(place) = place(args)? {
        return keep(&place, &files, args.stream).await;
    }
    let lines = match &*args.to {
        "-" => write(&files, &mut io::stdout().lock())?,
        path => new_file(&files, Path::new(path))?,
    };
    eprintln!(
        "{lines} lines of {} from {} files",
        args.stream,
        files.len()
    );
    Ok(())
}

fn place(args: &ExportArgs) -> Result<Option<BackupPlace>, Failure> {
    let wrong = |why: String, hint: &str| Failure::usage(why, hint);
    if !args.to.contains("://") {
        return match args.store_file {
            None => Ok(None),
            Some(_) => Err(wrong(
                "--store-file is for a store".to_owned(),
                "give --to s3://bucket/prefix",
            )),
        };
    }
    let lines = args.store_file.as_ref().map(|path| {
        fs::read_to_string(path)
            .map(Secret::new)
            .map_err(|error| wrong(format!("{}: {error}", path.display()), "see --store-file"))
    });
    let lines = lines.transpose()?;
    let place = BackupPlace::parse(&args.to, lines.as_ref().map(Secret::reveal));
    let hint = "as for `backup-store`: docs/backups.md";
    place.map(Some).map_err(|why| wrong(why, hint))
}

/// The lines of a file that have an end.
fn whole(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = fs::read(file).with_context(|| file.display().to_string())?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    bytes.truncate(end.map_or(0, |at| at + 1));
    Ok(bytes)
}

fn write(files: &[PathBuf], out: &mut dyn io::Write) -> anyhow::Result<usize> {
    let mut lines = 0;
    for file in files {
        let whole = whole(file)?;
        lines += whole.iter().filter(|byte| **byte == b'\n').count();
        out.write_all(&whole).context("write the lines")?;
    }
    out.flush().context("write the lines")?;
    Ok(lines)
}

fn new_file(files: &[PathBuf], path: &Path) -> Result<usize, Failure> {
    let mut options = fs::OpenOptions::new();
    let made = options.write(true).create_new(true).open(path);
    let file = made.map_err(|error| {
        Failure::usage(
            format!("{}: {error}", path.display()),
            "name a file that is not there yet",
        )
    })?;
    let done = write(files, &mut &file).and_then(|lines| {
        file.sync_all().context("write the lines")?;
        Ok(lines)
    });
    if done.is_err() {
        // A part would pass for all of it.
        let _ = fs::remove_file(path);
    }
    Ok(done?)
}

/// Oldest first, and no further than the first that is refused.
async fn keep(place: &BackupPlace, files: &[PathBuf], stream: Stream) -> Result<(), Failure> {
    let (mut sent, mut before) = (0, 0);
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let whole = whole(file)?;
        if whole.is_empty() {
            continue;
        }
        match place.keep(&name, whole).await {
            Ok(Kept::Now) => sent += 1,
            Ok(Kept::Before) => before += 1,
            Err(KeepError::Place(error)) => {
                let to = format!("keep {name} at {}", place.address());
                return Err(anyhow::Error::new(error).context(to).into());
            }
            Err(error @ (KeepError::Another | KeepError::Longer { .. })) => {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("{name} is another one than at {}: {error}", place.address()),
                    "one of the two was changed, and neither was touched now; `tenantry audit verify` says which",
                ));
            }
        }
    }
    output::line(&format!(
        "{sent} files of {stream} sent to {}, {before} were there",
        place.address()
    ))
}
