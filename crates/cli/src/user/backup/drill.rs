//! `tenantry backup drill` and `drills`: whether backups can be restored, and how long that takes.

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::WAIT_MAX;
use crate::{
    exit::{Exit, Failure},
    output::{self, Format},
    user::{
        Context, LOOK_EVERY, WAIT_TOLD_S,
        database::{self, field, path},
        progress::{Progress, Reasons},
    },
};

/// Databases of one name that a message counts up.
const NAMED_MAX: usize = 5;

#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    /// Name, of any project, or id; the database that was drilled longest ago when left out. A deleted one: by its id.
    pub(crate) db: Option<String>,
    /// Wait until it has ended. One that failed is an error.
    #[arg(long)]
    pub(crate) wait: bool,
}

pub(super) async fn drill(context: &Context, args: DrillArgs) -> Result<(), Failure> {
    let body = match &args.db {
        None => json!({}),
        Some(db) => json!({ "database_id": id_of(context, db).await? }),
    };
    let wait = if args.wait { WAIT_TOLD_S } else { 0 };
    let asked = format!("/operator/drills?wait={wait}");
    let progress = Progress::wait("restoring for the drill", context.quiet || !args.wait);
    let mut drill = context.api.post(&asked, &body).await?;
    let until = Instant::now() + WAIT_MAX;
    let mut reasons = Reasons::new(context.quiet);
    while args.wait && field(&drill, "state") == "running" && Instant::now() < until {
        reasons.tell(field(&drill, "error"));
        sleep(LOOK_EVERY).await;
        let all = context.api.get("/operator/drills").await?;
        let mut all = all.as_array().into_iter().flatten();
        let Some(found) = all.find(|one| one["id"] == drill["id"]) else {
            return Err(Failure::new(
                Exit::Failed,
                "the backup was deleted before the drill had ended",
                "",
            ));
        };
        drill = found.clone();
    }
    drop(progress);
    if field(&drill, "state") == "failed" {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "the drill of backup {} failed: {}: {}",
                field(&drill, "backup_id"),
                field(&drill, "error_code"),
                field(&drill, "error")
            ),
            "",
        ));
    }
    if context.format == Format::Json {
        return output::json(&drill);
    }
    show(context, &[drill])
}

/// The id of a database of any project. A drill changes nothing of it, so a name is enough where one database has it.
async fn id_of(context: &Context, db: &str) -> Result<String, Failure> {
    let alone = path(db, "")?;
    let is_id = db.parse::<model::TenantId>().is_ok();
    if is_id
        && let Ok(found) = context.api.get(&alone).await
        && field(&found, "id") == db
    {
        return Ok(db.to_owned());
    }
    let named = format!(
        "/customer/databases?all=true&state={}&prefix={db}",
        database::NOT_DELETED
    );
    let mut named = context.api.list(&named).await?;
    named.retain(|one| field(one, "name") == db);
    match &named[..] {
        [one] => Ok(field(one, "id").to_owned()),
        // One that is gone for good has its id left, and maybe backups.
        [] if is_id => Ok(db.to_owned()),
        [] => Err(Failure::new(
            Exit::NotFound,
            format!("no project has a database called '{db}'"),
            "`tenantry list --all` shows names and ids; one that was deleted is named by its id",
        )),
        several => {
            let ids = several.iter().take(NAMED_MAX);
            let ids: Vec<String> = ids
                .map(|one| format!("{} of {}", field(one, "id"), field(one, "project_id")))
                .collect();
            Err(Failure::usage(
                format!("{} databases are called '{db}'", several.len()),
                format!(
                    "name one by its id: {}; `tenantry list --all` shows all",
                    ids.join(", ")
                ),
            ))
        }
    }
}

pub(super) async fn list(context: &Context) -> Result<(), Failure> {
    let drills = context.api.get("/operator/drills").await?;
    if context.format == Format::Json {
        return output::json(&drills);
    }
    show(context, drills.as_array().map_or(&[], Vec::as_slice))
}

fn show(context: &Context, drills: &[Value]) -> Result<(), Failure> {
    const COLUMNS: [&str; 7] = [
        "id",
        "database_name",
        "backup_id",
        "state",
        "asked_at",
        "took_ms",
        "error",
    ];
    super::table(context, &COLUMNS, drills)
}
