//! `tenantry db inspect`: what a database does.

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{
    exit::Failure,
    output::{self, Format, Rows},
    user::{
        Context,
        database::{field, path},
        sql,
    },
};

/// Which database, and what of it.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Name or id of the database, where it is not the chosen one; then what to see of it, and of which statement.
    #[arg(num_args = 0..=3, value_name = "[DB] [WHAT] [ID]")]
    pub(crate) words: Vec<String>,
    /// What to see, as an option; its last minute when it is left out.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) show: Option<What>,
    /// How many statements at most.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) limit: Option<u32>,
    /// The window that is summed up.
    #[arg(long, value_enum, default_value = "1m")]
    pub(crate) window: WindowArg,
}

/// What can be seen of a database.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum What {
    /// Statements, the last one first.
    Queries,
    /// Statements that took as long as the database calls slow (`slow_statement_ms`), those that did so most often first.
    SlowQueries,
    /// Windows of a minute, an hour and a day, and the statements that took most time together.
    Report,
    /// Schemas, with what is in them.
    Schemas,
    /// Tables, the largest first; rows as PostgreSQL estimates them.
    Tables,
    /// Indexes, the largest first, and how often they were used.
    Indexes,
    /// Locks, and who waits for whom.
    Locks,
    /// Clients at the proxy that answers.
    Connections,
    /// How PostgreSQL would carry out a statement, by its id (`queries` shows it). Nothing is carried out.
    Explain,
}

/// A window of time.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum WindowArg {
    #[value(name = "1m")]
    Minute,
    #[value(name = "1h")]
    Hour,
    #[value(name = "24h")]
    Day,
}

/// Columns of statements.
const COLUMNS: [(&str, &str); 11] = [
    // What `explain` takes.
    ("id", "ID"),
    ("sample_count", "CALLS"),
    ("error_count", "ERRORS"),
    ("slow_count", "SLOW"),
    ("row_count", "ROWS"),
    ("latency_avg_ms", "AVG MS"),
    ("latency_p99_ms", "P99 MS"),
    ("latency_max_ms", "MAX MS"),
    ("total_ms", "TOTAL MS"),
    ("last_seen_ms_ago", "MS AGO"),
    ("query", "QUERY"),
];

const NOTHING: &str = "no statements yet";
const NOTHING_SLOW: &str = "no slow statements; `tenantry db limits set DB slow_statement_ms=200ms` calls more of them slow";

/// Figures of a window, and what they are called.
const FIGURES: [(&str, &str); 14] = [
    ("qps", "QPS"),
    ("tps", "TPS"),
    ("latency_avg_ms", "Latency (avg)"),
    ("latency_p50_ms", "Latency (p50)"),
    ("latency_p95_ms", "Latency (p95)"),
    ("latency_p99_ms", "Latency (p99)"),
    ("statement_count", "Statements"),
    ("txn_commit_count", "Transactions"),
    ("error_count", "Errors"),
    ("slow_count", "Slow"),
    ("row_count", "Rows"),
    ("bytes_from_clients", "Bytes received"),
    ("bytes_to_clients", "Bytes sent"),
    ("login_count", "Logins"),
];

/// The database, and what is wanted: one word alone is what is wanted, if it can be.
fn named(context: &Context, args: &InspectArgs) -> Result<(String, Option<What>), Failure> {
    let what = |word: &str| What::from_str(word, false).ok();
    let unknown = |word: &str| {
        let all = What::value_variants().iter();
        let all = all.filter_map(|what| Some(what.to_possible_value()?.get_name().to_owned()));
        Failure::usage(
            format!(
                "'{}' is nothing that can be inspected",
                word.escape_default()
            ),
            format!("one of {}", all.collect::<Vec<_>>().join(", ")),
        )
    };
    // What is explained stands behind it.
    let words = match &args.words[..] {
        [rest @ .., word, _] if word == "explain" => &args.words[..=rest.len()],
        words => words,
    };
    let (db, asked) = match words {
        [] => (None, args.show),
        [word] if args.show.is_none() && what(word).is_some() => (None, what(word)),
        [db] => (Some(&**db), args.show),
        [db, word] => (Some(&**db), Some(what(word).ok_or_else(|| unknown(word))?)),
        _ => return Err(Failure::usage("name one database", "")),
    };
    Ok((context.database(db)?, asked))
}

/// `tenantry db inspect`.
pub(super) async fn inspect(context: &Context, args: InspectArgs) -> Result<(), Failure> {
    let (db, what) = named(context, &args)?;
    let (order, samples) = match what {
        None => ("time", Some(0)),
        Some(What::Queries) => ("recent", args.limit),
        Some(What::SlowQueries) => ("slow", args.limit),
        Some(What::Report) => ("time", args.limit.or(Some(10))),
        Some(What::Schemas) => return inside(context, &db, "schemas").await,
        Some(What::Tables) => return inside(context, &db, "tables").await,
        Some(What::Indexes) => return inside(context, &db, "indexes").await,
        Some(What::Locks) => return inside(context, &db, "locks").await,
        Some(What::Connections) => return inside(context, &db, "connections").await,
        Some(What::Explain) => return explain(context, &db, &args.words).await,
    };
    let mut query = format!("/observability?order={order}");
    if let Some(most) = samples {
        query.push_str(&format!("&samples={most}"));
    }
    let seen = context.api.get(&path(&db, &query)?).await?;
    if context.format == Format::Json {
        return match what {
            Some(What::Queries | What::SlowQueries) => output::json(&seen["samples"]),
            _ => output::json(&seen),
        };
    }
    match what {
        None => summary(context, &db, &seen, args.window),
        Some(What::Queries) => statements(context, &seen, NOTHING),
        Some(What::SlowQueries) => statements(context, &seen, NOTHING_SLOW),
        Some(_) => {
            windows(context, &seen)?;
            if context.format == Format::Table {
                output::line("")?;
            }
            statements(context, &seen, NOTHING)
        }
    }
}

/// What is in the database, as a table of the server's.
async fn inside(context: &Context, db: &str, what: &str) -> Result<(), Failure> {
    shown(context, &path(db, &format!("/inspect/{what}"))?).await
}

/// A plan, as lines.
async fn explain(context: &Context, db: &str, words: &[String]) -> Result<(), Failure> {
    let named = match words {
        [.., word, id] if word == "explain" => Some(id),
        _ => None,
    };
    let is_id = |id: &&String| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = named.filter(is_id).ok_or_else(|| {
        Failure::usage(
            "name a statement by its id, 16 hexadecimal digits",
            "tenantry db inspect DB queries shows ids; then: tenantry db inspect DB explain ID",
        )
    })?;
    shown(context, &path(db, &format!("/explain/{id}"))?).await
}

async fn shown(context: &Context, path: &str) -> Result<(), Failure> {
    let seen = context.api.get(path).await?;
    if let Some(failure) = sql::error_in(&seen) {
        return Err(failure);
    }
    match context.format {
        Format::Json => output::json(&seen),
        _ if context.quiet => Ok(()),
        format => sql::print(&seen, format),
    }
}

fn window(seen: &Value, window: WindowArg) -> &Value {
    &seen["windows"][window as usize]
}

/// A rate as people read it, in the unit in which it is 1 at least, an hour at most; of something a second.
fn rate(value: &Value) -> String {
    let Some(a_second) = value.as_f64() else {
        return number(value);
    };
    let (factor, unit) = match a_second {
        rate if rate >= 1.0 || rate <= 0.0 => (1.0, "s"),
        rate if rate * 60.0 >= 1.0 => (60.0, "min"),
        _ => (3600.0, "h"),
    };
    let scaled = a_second * factor;
    // Of less than one an hour, two digits that mean something.
    let places = match scaled {
        scaled if scaled >= 0.01 || scaled <= 0.0 => 2,
        scaled => 1 + (-scaled.log10()).ceil().min(12.0) as usize,
    };
    let text = format!("{scaled:.places$}");
    format!(
        "{}/{unit}",
        text.trim_end_matches('0').trim_end_matches('.')
    )
}

/// One of [`FIGURES`]: for people with its unit, for programs as it is.
fn figure(name: &str, value: &Value, format: Format) -> String {
    match name {
        "qps" | "tps" if format == Format::Table => rate(value),
        "qps" | "tps" => value.to_string(),
        _ => number(value),
    }
}

/// A number as people read it.
fn number(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            let text = format!("{:.3}", number.as_f64().unwrap_or_default());
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        other => other.to_string(),
    }
}

fn summary(context: &Context, db: &str, seen: &Value, of: WindowArg) -> Result<(), Failure> {
    if context.quiet {
        return output::line(field(seen, "database_id"));
    }
    let figures = window(seen, of);
    let mut pairs = vec![
        ("Database", db.to_owned()),
        ("Window", format!("{} seconds", figures["window_seconds"])),
    ];
    for (name, title) in FIGURES {
        let unit = if name.ends_with("_ms") { " ms" } else { "" };
        pairs.push((
            title,
            format!("{}{unit}", figure(name, &figures[name], context.format)),
        ));
    }
    let now = &seen["summary"];
    let share = now["cache_hit_ratio"].as_f64();
    let storage = now["storage_bytes"].as_u64();
    pairs.push(("Active connections", number(&now["active_connections"])));
    pairs.push(("Server connections", number(&now["server_connections"])));
    pairs.push((
        "DB storage",
        storage.map_or_else(
            || "unknown".to_owned(),
            |bytes| {
                let at = now["storage_measured_at"].as_str();
                format!("{bytes} bytes, at {}", at.unwrap_or("an unknown time"))
            },
        ),
    ));
    pairs.push((
        "Cache hits",
        share.map_or_else(
            || "unknown".to_owned(),
            |share| format!("{:.2} %", share * 100.0),
        ),
    ));
    let last = now["last_activity_at"].as_str().unwrap_or("never");
    pairs.push(("Last activity", last.to_owned()));
    if context.format == Format::Table {
        return output::pairs(&pairs);
    }
    let (columns, row): (Vec<_>, Vec<_>) = pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Some(value)))
        .unzip();
    let rows = vec![row];
    Rows { columns, rows }.print(context.format)
}

/// One column for each window.
fn windows(context: &Context, seen: &Value) -> Result<(), Failure> {
    let mut columns = vec![String::new()];
    let all = seen["windows"].as_array().cloned().unwrap_or_default();
    columns.extend(
        all.iter()
            .map(|window| format!("{} S", window["window_seconds"])),
    );
    let row = |(name, title): (&str, &str)| {
        let unit = if name.ends_with("_ms") { " ms" } else { "" };
        let title = Some(format!("{title}{unit}"));
        let values = all
            .iter()
            .map(|window| Some(figure(name, &window[name], context.format)));
        std::iter::once(title).chain(values).collect()
    };
    let rows = FIGURES.into_iter().map(row).collect();
    Rows { columns, rows }.print(context.format)
}

fn statements(context: &Context, seen: &Value, nothing: &str) -> Result<(), Failure> {
    let all = seen["samples"].as_array().cloned().unwrap_or_default();
    if all.is_empty() && context.format == Format::Table {
        return output::line(nothing);
    }
    let title = |(name, title): &(&str, &str)| match context.format {
        Format::Table => (*title).to_owned(),
        _ => (*name).to_owned(),
    };
    let row = |of: &Value| {
        let values = COLUMNS.iter().map(|(name, _)| Some(number(&of[*name])));
        values.collect()
    };
    let columns = COLUMNS.iter().map(title).collect();
    let rows = all.iter().map(row).collect();
    Rows { columns, rows }.print(context.format)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn small_rates_can_be_read() {
        for (a_second, want) in [
            (json!(0.0), "0/s"),
            (json!(1.0), "1/s"),
            (json!(1234.567), "1234.57/s"),
            (json!(0.25), "15/min"),
            (json!(1.0 / 60.0), "1/min"),
            // Once in an hour, twenty times and once in a day, and once in a year.
            (json!(1.0 / 3600.0), "1/h"),
            (json!(20.0 / 86_400.0), "0.83/h"),
            (json!(1.0 / 86_400.0), "0.04/h"),
            (json!(1.0 / 31_536_000.0), "0.00011/h"),
            (Value::Null, ""),
        ] {
            assert_eq!(rate(&a_second), want, "{a_second}");
        }
        let exact = json!(1.0 / 86_400.0);
        assert_eq!(figure("qps", &exact, Format::Csv), exact.to_string());
    }

    #[test]
    fn numbers_are_short() {
        for (value, want) in [
            (json!(1.5), "1.5"),
            (json!(2.0), "2"),
            (json!(0.0004), "0"),
            (json!(12), "12"),
            (json!("SELECT 1"), "SELECT 1"),
            (Value::Null, ""),
        ] {
            assert_eq!(number(&value), want);
        }
    }
}
