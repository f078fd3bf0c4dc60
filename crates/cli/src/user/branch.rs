//! Branches: create, list, delete, reset, and how one differs from its parent.

use std::{fmt::Write as _, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    args::DeleteArgs,
    exit::{Exit, Failure},
    output::{self, Format, Rows},
    user::{
        Context, LOOK_EVERY, WAIT_S, backup,
        database::{self, Shown, field, path, refuse_failed},
        progress::Progress,
    },
};

/// How much longer than its own bound a branch is waited for: it ends by itself.
const WAIT_SURPLUS: Duration = Duration::from_secs(60);
/// As the server's own bound.
const TIMEOUT_DEFAULT_S: u64 = 300;

/// What can be done with branches.
#[derive(Debug, Subcommand)]
pub(crate) enum BranchCommand {
    /// Make a branch: a database that begins as a copy of another one, which stays in use.
    Create(BranchArgs),
    /// List the branches of a database.
    List(ParentArgs),
    /// Delete a branch; the same as `delete`.
    Delete(DeleteArgs),
    /// Set a branch back to what its parent is now. Its id, address and passwords stay.
    Reset(ResetBranchArgs),
    /// Show how a branch differs from its parent: objects, and rows per table.
    Diff(BranchNameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BranchArgs {
    /// Name or id of the parent.
    pub(crate) db: Option<String>,
    /// Name of the branch.
    #[arg(long)]
    pub(crate) name: String,
    /// Copy what it is made of, and no rows.
    #[arg(long)]
    pub(crate) schema_only: bool,
    /// What the parent was then, like 2026-11-21T09:30:00Z. A backup of it is made first and waited for, and goes when the
    /// branch is made, which does not know its parent.
    #[arg(long, value_name = "MOMENT", conflicts_with = "schema_only")]
    pub(crate) at: Option<String>,
    /// Delete it then: after a time like 30m, 2h or 7d, or at a moment like 2030-01-31T12:00:00Z.
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<String>,
    /// Wait until it can be used.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long making it may take, in seconds; 300 when left out.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Print the password.
    #[arg(long)]
    pub(crate) show_password: bool,
    /// Print the connection string, password included.
    #[arg(long)]
    pub(crate) show_connection_string: bool,
    /// The two above.
    #[arg(long)]
    pub(crate) show_secrets: bool,
}

impl BranchArgs {
    fn shown(&self) -> Shown {
        Shown {
            password: self.show_password || self.show_secrets,
            address: self.show_connection_string || self.show_secrets,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ParentArgs {
    /// Name or id of the parent.
    pub(crate) db: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BranchNameArgs {
    /// Name or id of the branch.
    pub(crate) branch: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ResetBranchArgs {
    /// Name or id of the branch.
    pub(crate) branch: Option<String>,
    /// Wait until it can be used again.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long it may take, in seconds; what the branch was made with when left out.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
}

/// Runs one of them.
pub(super) async fn run(context: &Context, command: BranchCommand) -> Result<(), Failure> {
    match command {
        BranchCommand::Create(args) => create(context, args).await,
        BranchCommand::List(args) => list(context, args).await,
        BranchCommand::Delete(args) => database::delete(context, args).await,
        BranchCommand::Reset(args) => reset(context, args).await,
        BranchCommand::Diff(args) => diff(context, args).await,
    }
}

async fn create(context: &Context, args: BranchArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    if let Some(at) = &args.at {
        return create_at(context, &db, at, &args).await;
    }
    let mut body = json!({ "name": args.name, "schema_only": args.schema_only });
    if let Some(seconds) = args.timeout {
        body["timeout_seconds"] = json!(seconds);
    }
    if let Some(expires) = &args.expires {
        body["expires"] = json!(expires);
    }
    let wait = if args.wait { WAIT_S } else { 0 };
    let url = path(&db, &format!("/branch?wait={wait}"))?;
    let progress = Progress::wait("making the branch", context.quiet || !args.wait);
    let made = context.api.post(&url, &body).await?;
    database::keep(context, &made)?;
    let branch = match args.wait {
        true => settled(context, made, args.timeout).await?,
        false => made,
    };
    drop(progress);
    database::show(context, branch, args.shown())
}

/// Of a moment that is past: a new database made of a backup of it.
async fn create_at(
    context: &Context,
    db: &str,
    at: &str,
    args: &BranchArgs,
) -> Result<(), Failure> {
    let backup = backup::of_moment(context, db, at, Some(&args.name)).await?;
    let mut body = json!({ "name": args.name });
    if let Some(seconds) = args.timeout {
        body["timeout_seconds"] = json!(seconds);
    }
    if let Some(expires) = &args.expires {
        body["expires"] = json!(expires);
    }
    let mut restore = backup::restored(context, field(&backup, "id"), &body, args.wait).await?;
    database::show(context, restore["database"].take(), args.shown())
}

/// Waits until nothing is being made of `branch`. Secrets of the first answer are kept in it.
async fn settled(
    context: &Context,
    mut branch: Value,
    timeout: Option<u64>,
) -> Result<Value, Failure> {
    let bound = Duration::from_secs(timeout.unwrap_or(TIMEOUT_DEFAULT_S)) + WAIT_SURPLUS;
    let until = Instant::now() + bound;
    let url = path(field(&branch, "id"), "")?;
    loop {
        match field(&branch, "state") {
            "CREATING" | "CLONING" if Instant::now() < until => {}
            "CREATING" | "CLONING" => {
                return Err(Failure::new(
                    Exit::Unavailable,
                    "the branch is still being made",
                    "`tenantry db status` shows when it is ACTIVE",
                ));
            }
            _ => {
                refuse_failed("branch", &branch)?;
                return Ok(branch);
            }
        }
        sleep(LOOK_EVERY).await;
        let now = context.api.get(&url).await?;
        for name in ["state", "state_reason", "branch"] {
            branch[name] = now[name].clone();
        }
    }
}

async fn list(context: &Context, args: ParentArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let branches = context.api.get(&path(&db, "/branches")?).await?;
    if context.format == Format::Json {
        return output::json(&branches);
    }
    let branches = branches.as_array().cloned().unwrap_or_default();
    if context.quiet {
        let ids: String = branches
            .iter()
            .map(|branch| format!("{}\n", field(branch, "id")))
            .collect();
        return output::text(&ids);
    }
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Rows {
        columns: ["id", "name", "state", "path", "size_bytes", "created_at"]
            .map(|name| match context.format {
                Format::Table => name.to_uppercase(),
                _ => name.to_owned(),
            })
            .to_vec(),
        rows: branches
            .iter()
            .map(|branch| {
                vec![
                    Some(field(branch, "id").to_owned()),
                    Some(field(branch, "name").to_owned()),
                    Some(field(branch, "state").to_owned()),
                    Some(text(&branch["branch"]["path"])),
                    Some(text(&branch["branch"]["size_bytes"])),
                    Some(field(branch, "created_at").to_owned()),
                ]
            })
            .collect(),
    }
    .print(context.format)
}

async fn reset(context: &Context, args: ResetBranchArgs) -> Result<(), Failure> {
    let name = context.database(args.branch.as_deref())?;
    let mut body = json!({});
    if let Some(seconds) = args.timeout {
        body["timeout_seconds"] = json!(seconds);
    }
    let wait = if args.wait { WAIT_S } else { 0 };
    let url = path(&name, &format!("/reset?wait={wait}"))?;
    let progress = Progress::wait("setting the branch back", context.quiet || !args.wait);
    let mut branch = context.api.post(&url, &body).await?;
    if args.wait {
        branch = settled(context, branch, args.timeout).await?;
        drop(progress);
        let reason = field(&branch, "state_reason");
        if !reason.is_empty() {
            return Err(Failure::new(Exit::Failed, reason.to_owned(), ""));
        }
    }
    let nothing = Shown {
        password: false,
        address: false,
    };
    database::show(context, branch, nothing)
}

async fn diff(context: &Context, args: BranchNameArgs) -> Result<(), Failure> {
    let name = context.database(args.branch.as_deref())?;
    let diff = context.api.get(&path(&name, "/diff")?).await?;
    match context.format {
        Format::Json => output::json(&diff),
        _ => output::text(&words(&diff, context.quiet)),
    }
}

/// A difference for people: `+` is in the branch only, `-` in the parent only, `~` in both and not the
/// same. Nothing at all when nothing differs and `quiet` is set.
fn words(diff: &Value, quiet: bool) -> String {
    let mut text = String::new();
    let of = |name: &str| diff[name].as_array().cloned().unwrap_or_default();
    for one in of("added") {
        line(&mut text, "+", &one);
    }
    for one in of("removed") {
        line(&mut text, "-", &one);
    }
    for one in of("changed") {
        line(&mut text, "~", &one);
        if !quiet {
            for (mark, part) in differing(&one["before"], &one["after"]) {
                let _ = writeln!(text, "    {mark} {}", printed(part));
            }
        }
    }
    if quiet {
        return text;
    }
    if text.is_empty() {
        text.push_str("the same objects\n");
    }
    let count = |value: &Value| {
        value
            .as_u64()
            .map_or("?".to_owned(), |rows| rows.to_string())
    };
    for rows in of("rows") {
        let (parent, branch) = (count(&rows["parent"]), count(&rows["branch"]));
        let table = printed(field(&rows, "table"));
        if parent == branch {
            let _ = writeln!(text, "  {table}: {parent} rows");
        } else {
            let _ = writeln!(
                text,
                "  {table}: {parent} rows in the parent, {branch} in the branch"
            );
        }
    }
    text
}

/// The lines that stand between what both texts begin with and what both end with.
fn differing<'a>(before: &'a Value, after: &'a Value) -> Vec<(&'static str, &'a str)> {
    let lines = |side: &'a Value| -> Vec<&'a str> {
        let lines = side.as_array().into_iter().flatten();
        lines.filter_map(Value::as_str).collect()
    };
    let (before, after) = (lines(before), lines(after));
    let same = |pair: &(&&str, &&str)| pair.0 == pair.1;
    let head = before.iter().zip(&after).take_while(same).count();
    let (before, after) = (&before[head..], &after[head..]);
    let tail = before.iter().rev().zip(after.iter().rev());
    let tail = tail.take_while(same).count();
    let old = before[..before.len() - tail]
        .iter()
        .map(|line| ("-", *line));
    let new = after[..after.len() - tail].iter().map(|line| ("+", *line));
    old.chain(new).collect()
}

fn line(text: &mut String, mark: &str, one: &Value) {
    let (kind, name) = (field(one, "kind"), printed(field(one, "name")));
    let _ = writeln!(text, "{mark} {kind} {name}");
}

/// Nothing that a terminal would take for a command.
fn printed(text: &str) -> String {
    text.chars()
        .map(|one| if one.is_control() { '\u{fffd}' } else { one })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_at_both_ends_is_left_out() {
        let told = |before: &[&str], after: &[&str]| {
            let (before, after) = (json!(before), json!(after));
            let told = differing(&before, &after).into_iter();
            told.map(|(mark, line)| format!("{mark}{line}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(told(&["a", "b", "c"], &["a", "x", "y", "c"]), "-b +x +y");
        assert_eq!(told(&["a", "a"], &["a"]), "-a");
        assert_eq!(told(&[], &["a"]), "+a");
        assert_eq!(told(&["a"], &["a"]), "");
    }

    #[test]
    fn a_difference_is_told_in_lines() {
        let diff = json!({
            "same_schema": false,
            "added": [{"kind": "table", "name": "public.a", "definition": ["x"]}],
            "removed": [{"kind": "view", "name": "public.\u{1b}b", "definition": ["x"]}],
            "changed": [{"kind": "column", "name": "public.c.d",
                "before": ["int", "grant select to a", "owner o"],
                "after": ["text", "grant select to a", "owner o"]}],
            "rows": [
                {"table": "public.a", "parent": null, "branch": 3},
                {"table": "public.c", "parent": 2, "branch": 2},
            ],
        });
        assert_eq!(
            words(&diff, false),
            "+ table public.a\n- view public.\u{fffd}b\n~ column public.c.d\n    - int\n    + text\n  \
             public.a: ? rows in the parent, 3 in the branch\n  public.c: 2 rows\n"
        );
        assert_eq!(
            words(&diff, true),
            "+ table public.a\n- view public.\u{fffd}b\n~ column public.c.d\n"
        );
        let same = json!({"added": [], "removed": [], "changed": [], "rows": []});
        assert_eq!(words(&same, true), "");
        assert_eq!(words(&same, false), "the same objects\n");
    }
}
