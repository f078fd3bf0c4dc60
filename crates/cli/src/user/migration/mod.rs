//! `tenantry migration`: files of SQL that a database has been through, each once and in order.
//!
//! Owns: the table in the database that says which, one transaction for a file and its record, and
//! one run at a time. Does not own: reading files ([`files`]), what is to be done ([`plan`]), or running
//! SQL (`script`).

mod files;
mod plan;

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    exit::{Exit, Failure},
    output::{self, Format, Rows},
    user::{
        Context,
        script::{self, Blocks, Rules, Session, Source, told},
    },
};
use files::Migration;
use plan::{Record, Status, statuses};

/// The lock of a database that one run holds: transaction by transaction, since a session's server
/// connection is its own for no longer.
const LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(8315161591)";
/// What is applied is said by the admin alone.
const TABLE: &str = "CREATE SCHEMA IF NOT EXISTS tenantry_migrations; \
    CREATE TABLE tenantry_migrations.applied (\
      name text PRIMARY KEY, \
      checksum text NOT NULL, \
      began_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), \
      applied_at timestamptz); \
    COMMENT ON TABLE tenantry_migrations.applied IS \
      'Files that tenantry migration up applied, by SHA-256. Without applied_at: began outside of a transaction.'; \
    REVOKE INSERT, UPDATE, DELETE ON tenantry_migrations.applied FROM tenantry_write";
const HAS_TABLE: &str = "SELECT pg_catalog.to_regclass('tenantry_migrations.applied') IS NOT NULL";
const READ: &str = "SELECT name, checksum, pg_catalog.to_char(applied_at AT TIME ZONE 'UTC', \
    'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM tenantry_migrations.applied";
const UNDONE: &str = "this migration left nothing behind; those before it stay applied";

#[derive(Debug, Args)]
pub(crate) struct Dir {
    /// Directory of the files.
    #[arg(long, default_value = "./migrations", value_name = "DIR")]
    dir: PathBuf,
}

/// What can be done with migrations.
#[derive(Debug, Subcommand)]
pub(crate) enum MigrationCommand {
    /// Make an empty file, behind all others.
    New(NewArgs),
    /// List the files.
    List(Dir),
    /// Apply what a database has not been through, in order, each file in one transaction.
    Up(UpArgs),
    /// Show which a database has been through.
    Status(StatusArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// What it does, in a word or a few.
    name: String,
    #[command(flatten)]
    dir: Dir,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Name or id.
    db: Option<String>,
    #[command(flatten)]
    dir: Dir,
    /// Also apply files that are older than one that was applied.
    #[arg(long)]
    out_of_order: bool,
    /// Begin this file anew, which broke off outside of a transaction.
    #[arg(long, value_name = "FILE")]
    again: Option<String>,
    /// Take this file for applied, which broke off outside of a transaction and was finished by hand.
    #[arg(long, value_name = "FILE", conflicts_with = "again")]
    done: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Name or id.
    db: Option<String>,
    #[command(flatten)]
    dir: Dir,
}

/// Runs one of them.
pub(super) async fn run(context: &Context, command: MigrationCommand) -> Result<(), Failure> {
    match command {
        MigrationCommand::New(args) => new(context, &args),
        MigrationCommand::List(args) => list(context, &args.dir),
        MigrationCommand::Up(args) => up(context, args).await,
        MigrationCommand::Status(args) => status(context, args).await,
    }
}

fn new(context: &Context, args: &NewArgs) -> Result<(), Failure> {
    let path = files::make(&args.dir.dir, &args.name, chrono::Utc::now())?;
    let path = path.display().to_string();
    match context.format {
        Format::Json => output::json(&json!({ "file": path })),
        _ => output::line(&path),
    }
}

fn list(context: &Context, dir: &Path) -> Result<(), Failure> {
    let found = files::read(dir)?;
    if context.format == Format::Json {
        let all = found.iter().map(|file| {
            json!({
                "name": file.name,
                "checksum": file.checksum,
                "transaction": !file.is_without_transaction(),
            })
        });
        return output::json(&all.collect());
    }
    let row = |file: &Migration| vec![Some(file.name.clone()), Some(file.checksum.clone())];
    table(
        context,
        &["name", "checksum"],
        found.iter().map(row).collect(),
    )
}

fn table(
    context: &Context,
    columns: &[&str],
    rows: Vec<Vec<Option<String>>>,
) -> Result<(), Failure> {
    if context.quiet {
        let names: String = rows
            .iter()
            .filter_map(|row| Some(format!("{}\n", row.first()?.as_deref()?)))
            .collect();
        return output::text(&names);
    }
    let title = |name: &&str| match context.format {
        Format::Table => name.to_uppercase().replace('_', " "),
        _ => (*name).to_owned(),
    };
    Rows {
        columns: columns.iter().map(title).collect(),
        rows,
    }
    .print(context.format)
}

async fn status(context: &Context, args: StatusArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let found = files::read(&args.dir.dir)?;
    let session = Session::open(context, &db, model::Role::Admin).await?;
    let records = match has_table(&session).await? {
        true => records(&session).await?,
        false => Vec::new(),
    };
    let rows = statuses(&found, &records)
        .into_iter()
        .map(|(name, status)| {
            let record = records.iter().find(|record| record.name == name);
            let applied_at = record.and_then(|record| record.applied_at.clone());
            vec![Some(name), Some(status.name().to_owned()), applied_at]
        });
    table(context, &["name", "status", "applied_at"], rows.collect())
}

async fn has_table(session: &Session) -> Result<bool, Failure> {
    let row = session.client.query_typed_one(HAS_TABLE, &[]).await;
    Ok(row.map_err(|error| told(&error, None, ""))?.get(0))
}

async fn records(session: &Session) -> Result<Vec<Record>, Failure> {
    let rows = session.client.query_typed(READ, &[]).await;
    let rows = rows.map_err(|error| told(&error, None, ""))?;
    let record = |row: &tokio_postgres::Row| Record {
        name: row.get(0),
        checksum: row.get(1),
        applied_at: row.get(2),
    };
    Ok(rows.iter().map(record).collect())
}

async fn send(session: &Session, text: &str) -> Result<(), Failure> {
    let sent = session.client.batch_execute(text).await;
    sent.map_err(|error| told(&error, None, UNDONE))
}

/// Begins a transaction that no other run is beside.
async fn begin(session: &Session) -> Result<(), Failure> {
    send(session, "BEGIN").await?;
    let locked = session.client.execute_typed(LOCK, &[]).await;
    locked.map_err(|error| told(&error, None, UNDONE))?;
    Ok(())
}

async fn up(context: &Context, args: UpArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let found = files::read(&args.dir.dir)?;
    let session = Session::open(context, &db, model::Role::Admin).await?;
    begin(&session).await?;
    if !has_table(&session).await? {
        send(&session, TABLE).await?;
    }
    settle(&session, &found, &args).await?;
    send(&session, "COMMIT").await?;
    let mut applied = Vec::new();
    let ended = loop {
        match next(&session, &found, args.out_of_order).await {
            Ok(Some(name)) => {
                if context.format == Format::Table && !context.quiet {
                    eprintln!("applied {name}");
                }
                applied.push(Value::String(name));
            }
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        }
    };
    // Also when a later one failed: these stay.
    match context.format {
        Format::Json => output::json(&json!({ "database": db, "applied": applied }))?,
        Format::Table if ended.is_ok() && applied.is_empty() && !context.quiet => {
            eprintln!("nothing to apply");
        }
        _ => {}
    }
    ended
}

/// Does what `--again` or `--done` says about a migration that broke off.
async fn settle(session: &Session, found: &[Migration], args: &UpArgs) -> Result<(), Failure> {
    let (name, statement) = match (&args.again, &args.done) {
        (Some(name), _) => (
            name,
            "DELETE FROM tenantry_migrations.applied WHERE name = $1 AND applied_at IS NULL AND $2 <> ''",
        ),
        (None, Some(name)) => (
            name,
            "UPDATE tenantry_migrations.applied SET checksum = $2, applied_at = pg_catalog.clock_timestamp() \
             WHERE name = $1 AND applied_at IS NULL",
        ),
        (None, None) => return Ok(()),
    };
    // With its directory, too, as a shell completes it.
    let name = Path::new(name)
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or(name);
    let file = found.iter().find(|file| file.name == name);
    let checksum = file.map_or("", |file| &file.checksum);
    let changed = execute(session, statement, &[name, checksum]).await?;
    if file.is_none() || changed == 0 {
        return Err(Failure::new(
            Exit::Conflict,
            format!("{name} is none that broke off"),
            "`tenantry migration status` shows those: unfinished",
        ));
    }
    Ok(())
}

/// Runs one statement with texts as its parameters.
async fn execute(session: &Session, statement: &str, values: &[&str]) -> Result<u64, Failure> {
    use tokio_postgres::types::{ToSql, Type};
    let values: Vec<(&(dyn ToSql + Sync), Type)> = values
        .iter()
        .map(|value| (value as &(dyn ToSql + Sync), Type::TEXT))
        .collect();
    let done = session.client.execute_typed(statement, &values).await;
    done.map_err(|error| told(&error, None, UNDONE))
}

/// Applies the next migration, and returns its name; `None` when there is none.
async fn next(
    session: &Session,
    found: &[Migration],
    is_out_of_order: bool,
) -> Result<Option<String>, Failure> {
    begin(session).await?;
    let chosen = async {
        // Anew each time: another run may have been first.
        let statuses = statuses(found, &records(session).await?);
        check(&statuses, is_out_of_order)?;
        let next = statuses
            .iter()
            .find(|(_, status)| matches!(status, Status::Pending | Status::Late));
        Ok(next.and_then(|(name, _)| found.iter().find(|file| file.name == *name)))
    };
    let mut is_in_transaction = true;
    let done = match chosen.await {
        Ok(Some(file)) => {
            is_in_transaction = !file.is_without_transaction();
            apply(session, file).await.map(|()| Some(file.name.clone()))
        }
        Ok(None) => Ok(None),
        Err(failure) => Err(failure),
    };
    match done {
        // The next one begins as the first did, whatever this one set.
        Ok(Some(name)) => send(session, "DISCARD ALL").await.map(|()| Some(name)),
        other => {
            // At once. Where there is none to be undone, PostgreSQL would warn of that.
            if is_in_transaction {
                let _ = session.client.batch_execute("ROLLBACK").await;
            }
            other
        }
    }
}

/// Refuses what nobody may go past.
fn check(statuses: &[(String, Status)], is_out_of_order: bool) -> Result<(), Failure> {
    let first = |status: Status| statuses.iter().find(|(_, is)| *is == status);
    if let Some((name, _)) = first(Status::Unfinished) {
        return Err(Failure::new(
            Exit::Conflict,
            format!("{name} began outside of a transaction and has not ended"),
            format!(
                "another run may be at it. If none is, it broke off: look what it did, then give `--again {name}` \
                 to begin it anew, or `--done {name}` when you finished it by hand"
            ),
        ));
    }
    if let Some((name, _)) = first(Status::Changed) {
        return Err(Failure::new(
            Exit::Conflict,
            format!("{name} was changed after it was applied"),
            "give the file its old text back, and put the change into a new migration",
        ));
    }
    if let Some((name, _)) = first(Status::Late).filter(|_| !is_out_of_order) {
        return Err(Failure::new(
            Exit::Conflict,
            format!("{name} is older than a migration that was applied"),
            "rename it to a later time, or apply it all the same with --out-of-order",
        ));
    }
    Ok(())
}

/// Applies one migration, within the transaction that was begun. It is committed then.
async fn apply(session: &Session, file: &Migration) -> Result<(), Failure> {
    const RECORD: &str = "INSERT INTO tenantry_migrations.applied (name, checksum, applied_at) \
        VALUES ($1, $2, pg_catalog.clock_timestamp())";
    const BEGAN: &str = "INSERT INTO tenantry_migrations.applied (name, checksum) VALUES ($1, $2)";
    const ENDED: &str = "UPDATE tenantry_migrations.applied SET applied_at = pg_catalog.clock_timestamp() \
        WHERE name = $1 AND checksum = $2";
    const PARTLY: &str = "what was done before that line stays done, since the file asks for no transaction; \
        mend the database, then give --again or --done";
    let source = io::Cursor::new(file.text.clone());
    let mut source = Source::new(b"", source);
    let values = [file.name.as_str(), file.checksum.as_str()];
    let named = |failure| named(&file.name, failure);
    let mut rules = Rules {
        blocks: Blocks::Refused,
        leave_out_owners: false,
        leave_out_extensions: &[],
        cleans: false,
        became: UNDONE,
    };
    if !file.is_without_transaction() {
        script::run(session, &mut source, rules)
            .await
            .map_err(named)?;
        execute(session, RECORD, &values).await.map_err(named)?;
        return commit(session).await.map_err(named);
    }
    execute(session, BEGAN, &values).await.map_err(named)?;
    commit(session).await.map_err(named)?;
    (rules.blocks, rules.became) = (Blocks::Separate, PARTLY);
    script::run(session, &mut source, rules)
        .await
        .map_err(named)?;
    execute(session, ENDED, &values).await.map_err(named)?;
    Ok(())
}

async fn commit(session: &Session) -> Result<(), Failure> {
    let lost = "`tenantry migration status` shows whether it was applied";
    session.commit(UNDONE, lost).await
}

/// Says which file it was.
fn named(name: &str, failure: Failure) -> Failure {
    match failure {
        Failure::Here {
            exit,
            message,
            hint,
        } => Failure::new(exit, format!("{name}: {message}"), hint),
        other => other,
    }
}
