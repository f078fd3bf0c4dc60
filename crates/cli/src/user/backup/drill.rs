//! `tenantry backup drill` and `drills`: whether backups can be restored, and how long that takes.

use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::WAIT_MAX;
use crate::{
    exit::{Exit, Failure},
    output::{self, Format},
    user::{
        Context, LOOK_EVERY, WAIT_S,
        database::{field, path},
        progress::Progress,
    },
};

#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    /// Name or id; the database that was drilled longest ago when left out.
    pub(crate) db: Option<String>,
    /// Wait until it has ended. One that failed is an error.
    #[arg(long)]
    pub(crate) wait: bool,
}

pub(super) async fn drill(context: &Context, args: DrillArgs) -> Result<(), Failure> {
    let body = match &args.db {
        None => json!({}),
        Some(db) => {
            let database = context.api.get(&path(db, "")?).await?;
            json!({ "database_id": database["id"] })
        }
    };
    let wait = if args.wait { WAIT_S } else { 0 };
    let asked = format!("/operator/drills?wait={wait}");
    let progress = Progress::wait("restoring for the drill", context.quiet || !args.wait);
    let mut drill = context.api.post(&asked, &body).await?;
    let until = Instant::now() + WAIT_MAX;
    while args.wait && field(&drill, "state") == "running" && Instant::now() < until {
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
