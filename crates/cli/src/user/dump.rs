//! `tenantry db dump`: a database as a file that other PostgreSQL servers can take.
//!
//! Owns: what pg_dump is told, and that its file is there as a whole or not at all. What a pg_dump here writes does not
//! pass through this process; where row security hides rows from the admin, the server writes the dump, and its pieces do.
//! Either way its size does not matter.

use std::{
    ffi::OsString,
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    args::RoleArg,
    exit::{Exit, Failure},
    output::{self, Format},
    user::{
        Context,
        beside::Beside,
        database,
        programs::{self, Wanted},
        progress::{Progress, size},
        script::enter,
        signals::asked_to_end,
    },
};

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// Write to this file; standard output when left out. It is there when all of it is.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output_file: Option<PathBuf>,
    /// The text of statements, or PostgreSQL's own compressed form, which `pg_restore` can take parts of.
    #[arg(long, value_enum, default_value = "plain", value_name = "FORMAT")]
    pub(crate) format: DumpFormat,
    /// What it is made of, and no rows.
    #[arg(long, conflicts_with = "data_only")]
    pub(crate) ddl_only: bool,
    /// Rows, and nothing of what they are in.
    #[arg(long)]
    pub(crate) data_only: bool,
    /// This schema only, or those that fit a pattern of pg_dump; may be given several times.
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) schema: Vec<String>,
    /// As whom. Who may not read all of it gets an error, and no part of it.
    #[arg(long, value_enum, default_value = "admin")]
    pub(crate) role: RoleArg,
    /// Directory of PostgreSQL's programs.
    #[arg(long, env = "TENANTRY_PG_BIN", value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
}

/// Forms of a dump.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum DumpFormat {
    Plain,
    Custom,
}

impl DumpFormat {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Custom => "custom",
        }
    }
}

/// `tenantry db dump`.
pub(super) async fn dump(context: &Context, args: DumpArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let file = args
        .output_file
        .as_deref()
        .filter(|file| *file != Path::new("-"));
    if file.is_none() && args.format == DumpFormat::Custom && io::stdout().is_terminal() {
        return Err(Failure::usage(
            "a dump in the form custom is not for a terminal",
            "give -o FILE, or send standard output somewhere",
        ));
    }
    if matches!(args.role, RoleArg::Admin) && !args.ddl_only && hides_rows(context, &db).await? {
        return by_server(context, &db, &args, file).await;
    }
    let major = server_major(context, &db).await?;
    let program = programs::find("pg_dump", Wanted::From(major), args.pg_bin.as_deref()).await?;
    let address = enter(context, &db, args.role.into()).await?;
    let mut pg_dump = Command::new(program);
    pg_dump
        // Roles of this platform exist nowhere else, and grants to them mean nothing elsewhere.
        .args([
            "--no-owner",
            "--no-privileges",
            "--encoding=UTF8",
            "--no-password",
        ])
        .arg(format!("--format={}", args.format.name()))
        .args(
            args.schema
                .iter()
                .map(|schema| format!("--schema={schema}")),
        )
        .args(args.ddl_only.then_some("--schema-only"))
        .args(args.data_only.then_some("--data-only"))
        .arg(format!("--dbname={}", address.without_password().text()))
        // In the environment, where only this user can read it; a command line is read by all.
        .env("PGPASSWORD", address.password().unwrap_or_default())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match file {
        None => run(&mut pg_dump, asked_to_end()?, &unusable(file)).await,
        Some(file) => {
            let bytes = to_file(&mut pg_dump, file, context.quiet).await?;
            said(context, &db, file, args.format, bytes)
        }
    }
}

/// Whether there are tables with rows that their owner does not see (`FORCE ROW LEVEL SECURITY`, or another owner): a
/// pg_dump that logs in as the admin refuses those.
async fn hides_rows(context: &Context, db: &str) -> Result<bool, Failure> {
    let query =
        "SELECT EXISTS (SELECT FROM pg_class WHERE relkind = 'r' AND row_security_active(oid))";
    let path = database::path(db, "/sql")?;
    let answer = context.api.post(&path, &json!({ "query": query })).await?;
    let hides = match &answer["rows"][0][0] {
        Value::Bool(hides) => Some(*hides),
        other => other.as_str().map(|text| text == "t" || text == "true"),
    };
    Ok(hides.context("the database does not say whether row security hides rows")?)
}

/// Has the server write the dump, which sees all rows.
async fn by_server(
    context: &Context,
    db: &str,
    args: &DumpArgs,
    file: Option<&Path>,
) -> Result<(), Failure> {
    let asked = asked_to_end()?;
    let body = json!({
        "format": args.format.name(),
        "data_only": args.data_only,
        "schemas": args.schema,
    });
    let path = database::path(db, "/dump-file")?;
    let work = async {
        let mut download = context.api.download(&path, &body).await?;
        let Some(file) = file else {
            let mut out = io::stdout().lock();
            while let Some(piece) = download.next().await? {
                out.write_all(&piece)?;
            }
            out.flush()?;
            return Ok::<_, Failure>(None);
        };
        let mut beside = Beside::new(file)?;
        let shown = beside.path().to_owned();
        let progress = Progress::show("dumped", context.quiet, None, move || {
            fs::metadata(&shown).map_or(0, |file| file.len())
        });
        while let Some(piece) = download.next().await? {
            beside.file().write_all(&piece)?;
        }
        drop(progress);
        Ok(Some((file, beside.keep()?)))
    };
    let done = tokio::select! {
        done = work => done?,
        () = asked => return Err(Failure::new(Exit::Failed, "broken off", unusable(file))),
    };
    match done {
        None => Ok(()),
        Some((file, bytes)) => said(context, db, file, args.format, bytes),
    }
}

fn unusable(file: Option<&Path>) -> String {
    match file {
        None => "nothing of what was written can be used".to_owned(),
        Some(file) => format!("{} is as it was", file.display()),
    }
}

fn said(
    context: &Context,
    db: &str,
    file: &Path,
    format: DumpFormat,
    bytes: u64,
) -> Result<(), Failure> {
    match context.format {
        Format::Json => output::json(&json!({
            "database": db,
            "file": file.display().to_string(),
            "format": format.name(),
            "bytes": bytes,
        })),
        _ if context.quiet => Ok(()),
        _ => {
            eprintln!("{db} is in {} ({})", file.display(), size(bytes));
            Ok(())
        }
    }
}

/// Major version of the server that a database is on, as the database itself says.
async fn server_major(context: &Context, db: &str) -> Result<u32, Failure> {
    let body = json!({ "query": "SELECT current_setting('server_version_num')" });
    let answer = context
        .api
        .post(&database::path(db, "/sql")?, &body)
        .await?;
    let version = answer["rows"][0][0].as_str();
    let version: u32 = version
        .and_then(|version| version.parse().ok())
        .context("the database does not say its version")?;
    Ok(version / 10_000)
}

/// Lets `pg_dump` write a file beside `file`, which takes its name when it is whole and on disk.
/// Returns its size in bytes.
async fn to_file(pg_dump: &mut Command, file: &Path, quiet: bool) -> Result<u64, Failure> {
    let asked = asked_to_end()?;
    let beside = Beside::new(file)?;
    let mut option = OsString::from("--file=");
    option.push(beside.path());
    pg_dump.arg(option).stdout(Stdio::null());
    let path = beside.path().to_owned();
    let progress = Progress::show("dumped", quiet, None, move || {
        fs::metadata(&path).map_or(0, |file| file.len())
    });
    let ran = run(pg_dump, asked, &unusable(Some(file))).await;
    drop(progress);
    ran?;
    beside.keep()
}

/// Runs pg_dump to its end, or until somebody ends this program. It tells its errors itself.
async fn run(
    pg_dump: &mut Command,
    asked: impl Future<Output = ()>,
    became: &str,
) -> Result<(), Failure> {
    let mut child = pg_dump.spawn().context("run pg_dump")?;
    let ended: Option<io::Result<ExitStatus>> = tokio::select! {
        status = child.wait() => Some(status),
        () = asked => None,
    };
    match ended {
        Some(Ok(status)) if status.success() => Ok(()),
        Some(Ok(status)) => Err(Failure::new(
            Exit::Failed,
            format!("pg_dump did not end well ({status})"),
            became,
        )),
        Some(Err(error)) => Err(anyhow::Error::new(error).context("wait for pg_dump").into()),
        None => {
            let _ = child.kill().await;
            Err(Failure::new(Exit::Failed, "broken off", became))
        }
    }
}
