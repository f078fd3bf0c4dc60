//! `tenantry db logs`: statements of a database that failed, were slow, or are kept for another reason.

use std::{collections::HashSet, time::Duration};

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{
    exit::Failure,
    output::{self, Format, Rows},
    user::{Context, database::path},
};

/// Lines that are asked for at once. The API gives no more.
const PAGE: usize = 1_000;
/// Between two looks for new lines. They are written every ten seconds.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How far back it is looked for new lines: longer than a process takes to write them.
const LOOK_BACK: &str = "5m";

/// Which lines of which database.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Name or id of the database, where it is not the chosen one.
    pub(crate) db: Option<String>,
    /// Only those that failed, or those that were slow.
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub(crate) kind: Option<Kind>,
    /// How far back: such as 15m, 1h or 7d.
    #[arg(long, default_value = "24h", value_name = "TIME")]
    pub(crate) since: String,
    /// How many at most, the newest.
    #[arg(long, default_value = "100", value_name = "NUMBER")]
    pub(crate) limit: usize,
    /// Go on with new lines as they come, each within some ten seconds.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many there are of which kind, and what is kept, instead of lines.
    #[arg(long, conflicts_with_all = ["follow", "kind"])]
    pub(crate) stats: bool,
}

/// By how statements ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Kind {
    /// With an error.
    Error,
    /// After as long as the database calls slow, or longer.
    Slow,
}

impl Kind {
    fn word(kind: Option<Self>) -> &'static str {
        match kind {
            None => "all",
            Some(Self::Error) => "error",
            Some(Self::Slow) => "slow",
        }
    }
}

/// What is shown of a line.
const COLUMNS: [(&str, &str); 7] = [
    ("timestamp", "TIME"),
    ("type", "TYPE"),
    ("duration_ms", "MS"),
    ("row_count", "ROWS"),
    ("sqlstate", "SQLSTATE"),
    ("user", "USER"),
    ("query", "QUERY"),
];

/// `tenantry db logs`.
pub(super) async fn logs(context: &Context, args: LogsArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let since = encoded(&args.since);
    if args.stats {
        let stats = path(&db, &format!("/logs/stats?since={since}"))?;
        return stats_of(context, &context.api.get(&stats).await?);
    }
    let nobody = HashSet::new();
    let mut found = read(context, &db, &args, &since, args.limit, &nobody).await?;
    if !args.follow {
        if context.format == Format::Json {
            return output::json(&Value::Array(found));
        }
        found.reverse();
        return table(context, &found);
    }
    let mut seen: HashSet<String> = found.iter().map(id).collect();
    loop {
        for line in found.iter().rev() {
            print(context, line)?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        found = read(context, &db, &args, LOOK_BACK, usize::MAX, &seen).await?;
        seen.extend(found.iter().map(id));
        if seen.len() > 100 * PAGE {
            // Those that are older than it is looked back are not asked for again.
            seen = read(context, &db, &args, LOOK_BACK, 100 * PAGE, &nobody)
                .await?
                .iter()
                .map(id)
                .collect();
        }
    }
}

/// In a query string, nothing that a time has not.
fn encoded(text: &str) -> String {
    match text.chars().all(|c| c.is_ascii_alphanumeric()) {
        true => text.to_owned(),
        // What it is, the server says.
        false => "invalid".to_owned(),
    }
}

fn id(line: &Value) -> String {
    line["id"].as_str().unwrap_or_default().to_owned()
}

/// The newest lines that were not seen, at most so many. Lines of another process may come behind ones that were.
async fn read(
    context: &Context,
    db: &str,
    args: &LogsArgs,
    since: &str,
    most: usize,
    seen: &HashSet<String>,
) -> Result<Vec<Value>, Failure> {
    let kind = Kind::word(args.kind);
    let mut found: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let limit = (most - found.len()).clamp(1, PAGE);
        let query = format!("/logs?type={kind}&since={since}&limit={limit}{cursor}");
        let page = context.api.get(&path(db, &query)?).await?;
        let lines = page["logs"].as_array().cloned().unwrap_or_default();
        let count = lines.len();
        found.extend(lines.into_iter().filter(|line| !seen.contains(&id(line))));
        match page["next_cursor"].as_str() {
            Some(next) if found.len() < most && count > 0 => cursor = format!("&cursor={next}"),
            _ => return Ok(found),
        }
    }
}

/// One line for one statement.
fn print(context: &Context, line: &Value) -> Result<(), Failure> {
    if context.format == Format::Json {
        return output::line(&line.to_string());
    }
    let fields = COLUMNS.map(|(name, _)| shown(&line[name]).unwrap_or_else(|| "-".to_owned()));
    output::line(&fields.join("  "))
}

/// A value as people read it; `None`: there is none.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn table(context: &Context, lines: &[Value]) -> Result<(), Failure> {
    if lines.is_empty() && context.format == Format::Table {
        return output::line(
            "no statements in the log; `tenantry db logs --stats` says what is kept",
        );
    }
    let title = |(name, title): &(&str, &str)| match context.format {
        Format::Table => (*title).to_owned(),
        _ => (*name).to_owned(),
    };
    let row = |line: &Value| COLUMNS.map(|(name, _)| shown(&line[name])).to_vec();
    let columns = COLUMNS.iter().map(title).collect();
    let rows = lines.iter().map(row).collect();
    Rows { columns, rows }.print(context.format)
}

/// Figures of [`stats_of`], and what they are called.
const STATS: [(&str, &str); 9] = [
    ("count", "Lines"),
    ("error_count", "Errors"),
    ("slow_count", "Slow"),
    ("dropped_count", "No room for"),
    ("oldest_at", "Oldest"),
    ("statement_log", "Kept are"),
    ("statement_log_sample", "One sample of"),
    ("slow_statement_ms", "Slow from (ms)"),
    ("keep_seconds", "Kept for (s)"),
];

fn stats_of(context: &Context, seen: &Value) -> Result<(), Failure> {
    if context.format == Format::Json {
        return output::json(seen);
    }
    let value = |name: &str| shown(&seen[name]).unwrap_or_else(|| "none".to_owned());
    let mut pairs: Vec<(&str, String)> = STATS
        .iter()
        .map(|(name, title)| (*title, value(name)))
        .collect();
    let errors = seen["errors"].as_array().cloned().unwrap_or_default();
    let errors = errors.iter().map(|of| {
        format!(
            "{} {}",
            of["sqlstate"].as_str().unwrap_or_default(),
            of["count"]
        )
    });
    pairs.push(("SQLSTATEs", errors.collect::<Vec<_>>().join(", ")));
    output::pairs(&pairs)
}
