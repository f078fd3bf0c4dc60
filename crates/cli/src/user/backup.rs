//! Backups: create, list, schedule, verify, restore, delete, erase; also of moments that are past.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::{drill::DrillArgs, schedule::ScheduleArgs};
use crate::{
    exit::{Exit, Failure},
    output::{self, Format, Rows},
    user::{
        Context, LOOK_EVERY, WAIT_TOLD_S,
        database::{self, Shown, field, path},
        progress::{Progress, Reasons},
        signals::asked_to_end,
    },
};

mod drill;
mod schedule;

/// How long a backup or a restore is waited for: as long as the server gives a backup, and its queue.
const WAIT_MAX: Duration = Duration::from_secs(12 * 3600);

const RECOVERING: &str = "recovering that moment, and backing it up";

/// What can be done with backups.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Back a database up: one moment of it, while it stays in use.
    Create(CreateBackupArgs),
    /// Show of which moments a database can be had: `backup create --at`, `backup restore --at`, `branch create --at`.
    Moments(MomentsArgs),
    /// List the backups of a database, or all, also those of databases that are gone.
    List(ListBackupsArgs),
    /// Show when a database is backed up by itself, or change that.
    Schedule(ScheduleArgs),
    /// Read all of a backup, and say whether it can be restored.
    Verify(BackupArgs),
    /// Restore a backup where nobody can reach it, compare it, and drop it. For the operator.
    Drill(DrillArgs),
    /// List restore drills and how they went. For the operator.
    Drills,
    /// Make a database what a backup holds, or make a new one of it.
    Restore(RestoreBackupArgs),
    /// Delete a backup. One that is being made is given up.
    Delete(DeleteBackupArgs),
    /// Destroy the key of a database's backups: nothing opens them any more. The database stays.
    Erase(EraseArgs),
}

#[derive(Debug, Args)]
pub(crate) struct MomentsArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateBackupArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// What it was then, like 2026-11-21T09:30:00Z; what it is now, when left out.
    #[arg(long, value_name = "MOMENT")]
    pub(crate) at: Option<String>,
    /// Wait until it is ready.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListBackupsArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// Of all databases.
    #[arg(long, conflicts_with = "db")]
    pub(crate) all: bool,
}

/// One backup.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Its id.
    pub(crate) backup: String,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreBackupArgs {
    /// Its id; with --at, name or id of the database.
    pub(crate) backup: String,
    /// What the database was then, like 2026-11-21T09:30:00Z. A backup of it is made first, and waited for; it goes when the restore has ended.
    #[arg(long, value_name = "MOMENT")]
    pub(crate) at: Option<String>,
    /// Make a new database of this name, and leave the one that was backed up alone.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Do not back up what is replaced.
    #[arg(long, conflicts_with = "name")]
    pub(crate) no_safety_backup: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Wait until the database can be used.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long it may take, in seconds; 21,600 when left out.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Of a new database: print the password and the connection string.
    #[arg(long, requires = "name")]
    pub(crate) show_secrets: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteBackupArgs {
    /// Its id.
    pub(crate) backup: String,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EraseArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// Do not ask.
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// Runs one of them.
pub(super) async fn run(context: &Context, command: BackupCommand) -> Result<(), Failure> {
    match command {
        BackupCommand::Create(args) => create(context, args).await,
        BackupCommand::Moments(args) => moments(context, args).await,
        BackupCommand::List(args) => list(context, args).await,
        BackupCommand::Schedule(args) => schedule::schedule(context, args).await,
        BackupCommand::Verify(args) => verify(context, args).await,
        BackupCommand::Drill(args) => drill::drill(context, args).await,
        BackupCommand::Drills => drill::list(context).await,
        BackupCommand::Restore(args) => restore(context, args).await,
        BackupCommand::Delete(args) => delete(context, args).await,
        BackupCommand::Erase(args) => erase(context, args).await,
    }
}

fn url(kind: &str, id: &str, rest: &str) -> Result<String, Failure> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if id.is_empty() || !id.bytes().all(is_plain) {
        return Err(Failure::usage(
            "that is no id of a backup",
            "`tenantry backup list --all` shows them",
        ));
    }
    Ok(format!("/customer/{kind}/{id}{rest}"))
}

/// Asks a person, unless `yes`. There must be one.
fn confirm(yes: bool, what: &str, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            format!("{what} was not confirmed"),
            "give --yes where nobody can be asked",
        ));
    }
    eprint!("{question} Type yes: ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    if line.trim() == "yes" {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "nothing was done", ""))
}

async fn create(context: &Context, args: CreateBackupArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let body = match &args.at {
        Some(at) => json!({ "at": at }),
        None => json!({}),
    };
    let backup = make(context, &db, &body, args.wait).await?;
    show(context, &[backup])
}

/// A backup of what a database was at a moment, ready to be restored once: the server gives it up then. With the `name` of
/// a new database, refused before anything is recovered where that could not be made.
///
/// # Errors
///
/// When it is not kept what databases were then, or the backup could not be made.
pub(super) async fn of_moment(
    context: &Context,
    db: &str,
    at: &str,
    name: Option<&str>,
) -> Result<Value, Failure> {
    let asked = asked_to_end()?;
    let body = json!({ "at": at, "keep": false, "restore_as": name });
    let backup = make(context, db, &body, false).await?;
    let _progress = Progress::wait(RECOVERING, context.quiet);
    let id = field(&backup, "id").to_owned();
    tokio::select! {
        ready = ready(context, backup) => ready,
        () = asked => {
            // Nobody else wants it. Should this not get there, it ends by itself in some minutes.
            let _ = context.api.delete(&url("backups", &id, "")?).await;
            let became = "the recovery of that moment was given up";
            Err(Failure::new(Exit::Failed, "broken off", became))
        }
    }
}

async fn make(context: &Context, db: &str, body: &Value, wait: bool) -> Result<Value, Failure> {
    let wait_s = if wait { WAIT_TOLD_S } else { 0 };
    let asked = path(db, &format!("/backups?wait={wait_s}"))?;
    let what = match body["at"].is_null() {
        true => "backing up",
        false => RECOVERING,
    };
    let _progress = Progress::wait(what, context.quiet || !wait);
    let backup = context.api.post(&asked, body).await?;
    match wait {
        true => ready(context, backup).await,
        false => Ok(backup),
    }
}

/// Waits for a backup that is being made.
async fn ready(context: &Context, mut backup: Value) -> Result<Value, Failure> {
    let until = Instant::now() + WAIT_MAX;
    let mut reasons = Reasons::new(context.quiet);
    while matches!(field(&backup, "state"), "waiting" | "running") {
        reasons.tell(field(&backup, "last_error"));
        if Instant::now() >= until {
            return Err(Failure::new(
                Exit::Unavailable,
                "the backup is still being made",
                "`tenantry backup list` shows when it is ready",
            ));
        }
        sleep(LOOK_EVERY).await;
        let look = url("backups", field(&backup, "id"), "")?;
        backup = context.api.get(&look).await?;
    }
    if field(&backup, "state") == "deleting" {
        let gone = format!(
            "backup {} was deleted while it was being made",
            field(&backup, "id")
        );
        return Err(Failure::new(Exit::Failed, gone, ""));
    }
    if field(&backup, "state") != "ready" {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "backup {} is {}: {}",
                field(&backup, "id"),
                field(&backup, "state"),
                field(&backup, "last_error")
            ),
            "",
        ));
    }
    Ok(backup)
}

async fn moments(context: &Context, args: MomentsArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let moments = context.api.get(&path(&db, "/moments")?).await?;
    if context.format == Format::Json {
        return output::json(&moments);
    }
    let text = match (moments["oldest"].as_str(), moments["latest"].as_str()) {
        (Some(oldest), Some(latest)) => format!("from {oldest} to {latest}\n"),
        _ => "none are kept\n".to_owned(),
    };
    output::text(&text)
}

async fn list(context: &Context, args: ListBackupsArgs) -> Result<(), Failure> {
    let all = match args.all {
        true => "/customer/backups".to_owned(),
        false => path(&context.database(args.db.as_deref())?, "/backups")?,
    };
    let backups = context.api.get(&all).await?;
    if context.format == Format::Json {
        return output::json(&backups);
    }
    show(context, backups.as_array().map_or(&[], Vec::as_slice))
}

fn show(context: &Context, backups: &[Value]) -> Result<(), Failure> {
    if context.format == Format::Json {
        return output::json(backups.first().unwrap_or(&Value::Null));
    }
    if context.quiet {
        let ids: String = backups
            .iter()
            .map(|backup| format!("{}\n", field(backup, "id")))
            .collect();
        return output::text(&ids);
    }
    const COLUMNS: [&str; 9] = [
        "id",
        "database_name",
        "kind",
        "state",
        "created_at",
        "moment",
        "size_bytes",
        "rows",
        "last_error",
    ];
    let backups: Vec<Value> = backups.iter().map(with_what_is_wrong).collect();
    table(context, &COLUMNS, &backups)
}

/// A table has one place for what is wrong: that a backup could not be made, or that it was read since and is not whole.
fn with_what_is_wrong(backup: &Value) -> Value {
    let mut backup = backup.clone();
    if !backup["verify_error"].is_null() {
        backup["last_error"] = backup["verify_error"].take();
    }
    backup
}

fn table(context: &Context, columns: &[&str], all: &[Value]) -> Result<(), Failure> {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let title = |name: &&str| match context.format {
        Format::Table => name.to_uppercase(),
        _ => (*name).to_owned(),
    };
    let row = |one: &Value| columns.iter().map(|name| Some(text(&one[*name]))).collect();
    Rows {
        columns: columns.iter().map(title).collect(),
        rows: all.iter().map(row).collect(),
    }
    .print(context.format)
}

async fn verify(context: &Context, args: BackupArgs) -> Result<(), Failure> {
    let asked = url(
        "backups",
        &args.backup,
        &format!("/verify?wait={WAIT_TOLD_S}"),
    )?;
    let progress = Progress::wait("reading the backup", context.quiet);
    let mut backup = context.api.post(&asked, &json!({})).await?;
    let until = Instant::now() + WAIT_MAX;
    let mut reasons = Reasons::new(context.quiet);
    while backup["verifying"] == true && Instant::now() < until {
        reasons.tell(field(&backup, "last_error"));
        sleep(LOOK_EVERY).await;
        backup = context.api.get(&url("backups", &args.backup, "")?).await?;
    }
    drop(progress);
    match (&backup["verifying"], field(&backup, "verify_error")) {
        (Value::Bool(true), _) => Err(Failure::new(
            Exit::Unavailable,
            "the backup is still being read",
            "",
        )),
        (_, "") if !backup["last_error"].is_null() => Err(Failure::new(
            Exit::Unavailable,
            format!("the backup was not read: {}", field(&backup, "last_error")),
            "it is what it was before; try again",
        )),
        (_, "") if context.format == Format::Json => output::json(&backup),
        (_, "") => output::text("the backup is whole\n"),
        (_, wrong) => Err(Failure::new(Exit::Failed, wrong.to_owned(), "")),
    }
}

async fn restore(context: &Context, args: RestoreBackupArgs) -> Result<(), Failure> {
    let backup = match &args.at {
        None if args.name.is_some() => args.backup.clone(),
        None => {
            let backup = context.api.get(&url("backups", &args.backup, "")?).await?;
            let question = format!(
                "Replace the data of {} ({}) by what it was {}?",
                field(&backup, "database_name"),
                field(&backup, "database_id"),
                when(&backup)
            );
            confirm(args.yes, "restoring in place", &question)?;
            args.backup.clone()
        }
        Some(at) => {
            if args.name.is_none() {
                let question = format!(
                    "Replace the data of {} by what it was at {at}?",
                    args.backup
                );
                confirm(args.yes, "restoring in place", &question)?;
            }
            let made = of_moment(context, &args.backup, at, args.name.as_deref()).await?;
            field(&made, "id").to_owned()
        }
    };
    let mut body = json!({ "safety_backup": !args.no_safety_backup });
    if let Some(name) = &args.name {
        body["name"] = json!(name);
    }
    if let Some(seconds) = args.timeout {
        body["timeout_seconds"] = json!(seconds);
    }
    let mut restore = restored(context, &backup, &body, args.wait).await?;
    if context.format == Format::Json {
        if !args.show_secrets {
            database::hide(&mut restore["database"], false, false)?;
        }
        return output::json(&restore);
    }
    let shown = Shown {
        password: args.show_secrets,
        address: args.show_secrets,
    };
    database::show(context, restore["database"].take(), shown)
}

/// Of which moment a backup is. One of a version that did not write that down waited for locks for nobody knows how long.
fn when(backup: &Value) -> String {
    match backup["moment"].as_str() {
        Some(moment) => format!("at {moment}"),
        None => format!("at or after {}", field(backup, "created_at")),
    }
}

/// Restores a backup as `body` says: with a `name`, into a new database, whose secrets are kept before anything is
/// waited for. With `wait`, until it has ended.
///
/// # Errors
///
/// What the server says; that it failed, or takes longer than any may.
pub(super) async fn restored(
    context: &Context,
    backup: &str,
    body: &Value,
    wait: bool,
) -> Result<Value, Failure> {
    let wait_s = if wait { WAIT_TOLD_S } else { 0 };
    let asked = url("backups", backup, &format!("/restore?wait={wait_s}"))?;
    let _progress = Progress::wait("restoring", context.quiet || !wait);
    let mut restore = context.api.post(&asked, body).await?;
    if body["name"].is_string() {
        database::keep(context, &restore["database"])?;
    }
    if !wait {
        return Ok(restore);
    }
    let until = Instant::now() + WAIT_MAX;
    let mut reasons = Reasons::new(context.quiet);
    while !matches!(field(&restore, "state"), "done" | "failed") && Instant::now() < until {
        reasons.tell(field(&restore, "error"));
        sleep(LOOK_EVERY).await;
        let look = url("restores", field(&restore, "id"), "")?;
        let now = context.api.get(&look).await?;
        for name in [
            "state",
            "error",
            "error_code",
            "took_ms",
            "safety_backup_id",
            "ended_at",
        ] {
            restore[name] = now[name].clone();
        }
        for name in ["state", "state_reason"] {
            restore["database"][name] = now["database"][name].clone();
        }
    }
    match field(&restore, "state") {
        "done" => Ok(restore),
        state => {
            let (code, error) = (field(&restore, "error_code"), field(&restore, "error"));
            Err(Failure::new(
                Exit::Failed,
                format!("the restore is {state}: {code}: {error}"),
                "",
            ))
        }
    }
}

async fn delete(context: &Context, args: DeleteBackupArgs) -> Result<(), Failure> {
    let path = url("backups", &args.backup, "")?;
    let question = format!("Delete backup {}?", args.backup);
    confirm(args.yes, "deleting a backup", &question)?;
    let backup = context.api.delete(&path).await?;
    match context.format {
        Format::Json => output::json(&backup),
        _ if context.quiet => Ok(()),
        _ => output::line(&format!(
            "deleted backup {} of {}",
            field(&backup, "id"),
            field(&backup, "database_name")
        )),
    }
}

async fn erase(context: &Context, args: EraseArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let question = format!("Destroy the key of all backups of {db}? They cannot be restored then.");
    confirm(args.yes, "erasing backups", &question)?;
    let erased = context
        .api
        .post(&path(&db, "/backups/erase")?, &json!({}))
        .await?;
    match context.format {
        Format::Json => output::json(&erased),
        _ if context.quiet => Ok(()),
        _ => output::text(&format!(
            "{} backups cannot be opened any more\n",
            erased["backups"]
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_names_the_moment_that_a_backup_holds() {
        let mut backup = json!({ "created_at": "2026-11-21T09:30:00Z", "moment": null });
        assert_eq!(when(&backup), "at or after 2026-11-21T09:30:00Z");
        backup["moment"] = json!("2026-11-21T09:30:26.5Z");
        assert_eq!(when(&backup), "at 2026-11-21T09:30:26.5Z");
    }

    #[test]
    fn a_table_says_of_a_backup_that_was_made_and_is_not_whole() {
        let wrong = |last: Value, verified: Value| {
            let backup = json!({ "last_error": last, "verify_error": verified });
            with_what_is_wrong(&backup)["last_error"].take()
        };
        assert_eq!(wrong(Value::Null, json!("damaged")), "damaged");
        assert_eq!(wrong(json!("not made"), Value::Null), "not made");
        assert_eq!(wrong(json!("away"), json!("damaged")), "damaged");
        assert_eq!(wrong(Value::Null, Value::Null), Value::Null);
    }
}
