//! `tenantry db import`: another PostgreSQL's database into one of ours, all of it or nothing.
//!
//! Owns: what must hold before anything is written, the one transaction, and the count of rows on both sides
//! at its end. The source is read from this machine, by pg_dump, with the rights of whoever runs this; its
//! text goes through the database's proxy statement by statement as that of a restore does ([`script`]), and
//! neither memory nor disk keeps it. Does not own: where the source is ([`origin`]).

mod origin;
mod target;

use std::{
    collections::BTreeMap,
    io,
    process::{ExitStatus, Stdio},
    sync::atomic::Ordering,
};

use anyhow::Context as _;
use clap::Args;
use futures_util::future::try_join;
use model::Secret;
use serde_json::json;
use tokio::process::Child;

use crate::{
    exit::{Exit, Failure},
    output::{self, Format},
    user::{
        Context,
        programs::{self, Wanted},
        progress::{Progress, size},
        restore::{LOST, UNDONE},
        script::{self, Blocks, Done, Name, Rules, Session, Source, told},
        signals::asked_to_end,
    },
};
use origin::{Origin, Tables};

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The source: a URL (postgres://user:password@host:port/database?sslmode=…) or keys and values, TCP
    /// only; or `-`: the first line of standard input, which nobody else on this machine can read.
    #[arg(value_name = "DSN", value_parser = secret)]
    pub(crate) source: Secret,
    /// Name or id of the database that takes it.
    #[arg(long, value_name = "DB")]
    pub(crate) into: Option<String>,
    /// What it is made of, and no rows.
    #[arg(long, conflicts_with = "data_only")]
    pub(crate) schema_only: bool,
    /// Rows, for tables that are there.
    #[arg(long)]
    pub(crate) data_only: bool,
    /// This schema only, by its exact name; may be given several times. Then without extensions and large
    /// objects.
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) schema: Vec<String>,
    /// Without this extension; may be given several times. What needs it fails, and with it the import.
    #[arg(long, value_name = "NAME")]
    pub(crate) skip_extension: Vec<String>,
    /// Also into a database that has something already.
    #[arg(long)]
    pub(crate) add: bool,
    /// Directory of PostgreSQL's programs.
    #[arg(long, env = "TENANTRY_PG_BIN", value_name = "DIR")]
    pub(crate) pg_bin: Option<std::path::PathBuf>,
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

/// What was imported.
struct Imported {
    done: Done,
    tables: usize,
    /// `None` where none were to come.
    rows: Option<u64>,
    bytes: u64,
}

/// `tenantry db import`.
pub(super) async fn import(context: &Context, args: ImportArgs) -> Result<(), Failure> {
    let db = context.database(args.into.as_deref())?;
    let asked = asked_to_end()?;
    let imported = tokio::select! {
        imported = whole(context, &db, &args) => imported?,
        // What is dropped here ends its connection, and with it the transaction; pg_dump is killed.
        () = asked => return Err(Failure::new(Exit::Failed, "broken off", UNDONE)),
    };
    said(context, &db, &imported)
}

fn said(context: &Context, db: &str, imported: &Imported) -> Result<(), Failure> {
    match context.format {
        Format::Json => output::json(&json!({
            "database": db,
            "tables": imported.tables,
            "rows": imported.rows,
            "statements": imported.done.statements,
            "bytes": imported.bytes,
        })),
        _ if context.quiet => Ok(()),
        _ => {
            let rows = imported.rows.map_or_else(
                || "without rows".to_owned(),
                |rows| format!("{rows} rows, as many as the source counts"),
            );
            eprintln!(
                "imported into {db}: {} tables, {rows} ({})",
                imported.tables,
                size(imported.bytes)
            );
            Ok(())
        }
    }
}

/// The first line of standard input for `-`.
fn dsn(given: &Secret) -> Result<Secret, Failure> {
    if given.reveal() != "-" {
        return Ok(given.clone());
    }
    let mut line = String::new();
    io::stdin()
        .read_line(&mut line)
        .context("read standard input")?;
    Ok(Secret::new(line.trim()))
}

/// Reads one moment of the source into one transaction of the target.
async fn whole(context: &Context, db: &str, args: &ImportArgs) -> Result<Imported, Failure> {
    let origin = Origin::open(&dsn(&args.source)?).await?;
    let least = Wanted::From(origin.pg_dump_least());
    let program = programs::find("pg_dump", least, args.pg_bin.as_deref()).await?;
    let tables = origin.tables(&args.schema).await?;
    let session = Session::open(context, db, model::Role::Admin).await?;
    let begun = session.client.batch_execute("BEGIN").await;
    begun.map_err(|error| told(&error, None, UNDONE))?;
    let imported = match fits(&origin, &session, &tables, args).await {
        Ok(there) => {
            let mut pg_dump = origin.pg_dump(&program);
            pg_dump.args(what(args));
            filled(context, &origin, &session, &tables, args, &there, pg_dump).await
        }
        Err(failure) => Err(failure),
    };
    match imported {
        Ok(imported) => session.commit(UNDONE, LOST).await.map(|()| imported),
        Err(failure) => {
            // At once, and not when the server notices that nobody is there. It does so, too.
            let _ = session.client.batch_execute("ROLLBACK").await;
            Err(failure)
        }
    }
}

/// What must hold before anything is written. Returns the extensions that are not to be made: they are there,
/// or not wanted.
async fn fits(
    origin: &Origin,
    session: &Session,
    tables: &Tables,
    args: &ImportArgs,
) -> Result<Vec<String>, Failure> {
    if args.data_only {
        target::has_tables(session, tables, args.add).await?;
        return Ok(Vec::new());
    }
    if !args.add {
        target::is_empty(session).await?;
    }
    if !args.schema.is_empty() {
        return Ok(Vec::new());
    }
    let mut extensions = origin.extensions().await?;
    extensions.retain(|name| !args.skip_extension.contains(name));
    let triggers = origin.event_triggers().await?;
    let mut left_out = target::extensions(session, &extensions, &triggers).await?;
    left_out.extend_from_slice(&args.skip_extension);
    Ok(left_out)
}

/// What pg_dump is told beside where the source is.
fn what(args: &ImportArgs) -> Vec<String> {
    // An exact name is a pattern in quotes.
    let schemas = args.schema.iter().map(|schema| {
        let name = schema.replace('"', "\"\"");
        format!("--schema=\"{name}\"")
    });
    let only = [
        (args.schema_only, "--schema-only"),
        (args.data_only, "--data-only"),
    ];
    let only = only.iter().filter(|(is, _)| *is);
    schemas
        .chain(only.map(|(_, option)| (*option).to_owned()))
        .collect()
}

async fn filled(
    context: &Context,
    origin: &Origin,
    session: &Session,
    tables: &Tables,
    args: &ImportArgs,
    left_out: &[String],
    mut pg_dump: tokio::process::Command,
) -> Result<Imported, Failure> {
    pg_dump
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = pg_dump.spawn().context("run pg_dump")?;
    let text = child.stdout.take().context("the output of pg_dump")?;
    let mut source = Source::new(b"", text);
    let (read, count) = (source.read(), source.read());
    let _progress = Progress::show("imported", context.quiet, None, move || {
        count.load(Ordering::Relaxed)
    });
    let rules = Rules {
        blocks: Blocks::Absorbed,
        leave_out_owners: true,
        leave_out_extensions: left_out,
        cleans: false,
        became: UNDONE,
    };
    let run = async {
        let ran = script::run(session, &mut source, rules).await;
        if ran.is_err() && !source.is_at_end() {
            return ran;
        }
        // A text that ends too early is told by who ended it.
        ended(&mut child).await?;
        ran
    };
    let counted = async {
        match args.schema_only {
            true => Ok(None),
            false => origin.count(tables).await.map(Some),
        }
    };
    let (done, counted) = try_join(run, counted).await?;
    let rows = match counted {
        Some(counted) => Some(compared(tables, &counted, &done.copied)?),
        None => None,
    };
    if !args.schema_only && args.schema.is_empty() {
        let (there, here) = (
            origin.large_objects().await?,
            target::large_objects(session).await?,
        );
        if there != here {
            return Err(differs("large objects", there, here));
        }
    }
    Ok(Imported {
        done,
        tables: tables.trees(),
        rows,
        bytes: read.load(Ordering::Relaxed),
    })
}

/// What pg_dump wrote is whole when it says so. It tells its errors itself.
async fn ended(pg_dump: &mut Child) -> Result<(), Failure> {
    let status: ExitStatus = pg_dump.wait().await.context("wait for pg_dump")?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Unavailable,
        format!("pg_dump did not reach the end of the source ({status})"),
        UNDONE,
    ))
}

/// Compares what the source counted with what the target took, partitioned tables as a whole: a row may lie in
/// another partition here, where a hash differs. Returns the sum.
fn compared(
    tables: &Tables,
    counted: &BTreeMap<Name, u64>,
    copied: &BTreeMap<Name, u64>,
) -> Result<u64, Failure> {
    let mut here: BTreeMap<&Name, u64> = BTreeMap::new();
    for (table, rows) in copied {
        *here.entry(tables.tree_of(table)).or_default() += rows;
    }
    let mut sum = 0;
    for (tree, there) in counted {
        let here = here.get(tree).copied().unwrap_or(0);
        if here != *there {
            let name = shown(&format!("{}.{}", tree.0, tree.1));
            return Err(differs(&name, *there, here));
        }
        sum += here;
    }
    Ok(sum)
}

fn differs(what: &str, there: u64, here: u64) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("{what}: {there} in the source, {here} were taken here"),
        UNDONE,
    )
}

/// Names that somebody chose, for a terminal: without what would move its cursor.
fn shown(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
