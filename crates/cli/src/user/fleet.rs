//! `tenantry fleet`: how an installation with many databases is doing. For the operator.

use serde_json::Value;

use crate::{
    exit::Failure,
    output::{self, Format, Rows},
    user::{Context, database::field},
};

/// `tenantry fleet`.
pub(super) async fn fleet(context: &Context) -> Result<(), Failure> {
    let seen = context.api.get("/operator/fleet").await?;
    if context.format == Format::Json {
        return output::json(&seen);
    }
    let list = |name: &str| seen[name].as_array().cloned().unwrap_or_default();
    let figures = list("figures");
    let missed = figures.iter().filter(|figure| figure["is_met"] == false);
    let advice: Vec<String> = missed
        .map(|figure| format!("{}: {}", field(figure, "name"), field(figure, "advice")))
        .collect();
    let is_table = context.format == Format::Table;
    let title = |name: &&str| match is_table {
        true => name.to_uppercase(),
        false => (*name).to_owned(),
    };
    let rows = figures.iter().map(|figure| {
        vec![
            Some(field(figure, "name").to_owned()),
            shown(figure, "value"),
            shown(figure, "target"),
            Some(said(figure)),
        ]
    });
    let names = ["figure", "now", "at most", "is met"];
    Rows {
        columns: names.iter().map(title).collect(),
        rows: rows.collect(),
    }
    .print(context.format)?;
    if context.quiet || !is_table {
        return Ok(());
    }
    for line in advice {
        output::line(&line)?;
    }
    let drill = &seen["last_drill"];
    if drill.is_object() {
        output::line(&format!(
            "\nlast restore drill: {} of {} {} at {}",
            field(drill, "backup_id"),
            field(drill, "database_name"),
            match field(drill, "state") {
                "running" => "is running, asked for",
                state => state,
            },
            drill["ended_at"]
                .as_str()
                .unwrap_or_else(|| field(drill, "asked_at")),
        ))?;
    }
    let total = &seen["total"];
    output::line(&format!(
        "\nin the last day {} databases were active: {:.1} s, {} bytes, {} statements",
        total["databases"],
        total["active_seconds"].as_f64().unwrap_or_default(),
        total["bytes"],
        total["statements"],
    ))?;
    let storage = &seen["storage"];
    output::line(&format!(
        "on disk: {} databases take {} bytes{}{}",
        storage["databases"],
        storage["bytes"],
        match storage["oldest_measured_at"].as_str() {
            Some(at) => format!(", none measured before {at}"),
            None => String::new(),
        },
        match storage["databases_unmeasured"].as_u64() {
            None | Some(0) => String::new(),
            Some(rest) => format!("; {rest} were not measured yet"),
        },
    ))?;
    if let Some(line) = history(&seen["history"]) {
        output::line(&line)?;
    }
    let costs = list("costs");
    if costs.is_empty() {
        return Ok(());
    }
    let names = [
        "database_id",
        "name",
        "active_seconds",
        "bytes",
        "statements",
        "storage_bytes",
        "storage_measured_at",
    ];
    let row = |cost: &Value| {
        let value = |name: &&str| match &cost[*name] {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            Value::Number(number) if number.is_f64() => {
                Some(format!("{:.1}", number.as_f64().unwrap_or_default()))
            }
            other => Some(other.to_string()),
        };
        names.iter().map(value).collect()
    };
    let rows = costs.iter().map(row).collect();
    let columns = names.iter().map(title).collect();
    Rows { columns, rows }.print(context.format)
}

/// What can be recovered, and what that takes of the disk. Nothing where none is kept.
fn history(seen: &Value) -> Option<String> {
    let state = seen["state"].as_str()?;
    let since = match (state, seen["oldest"].as_str()) {
        ("kept", Some(oldest)) => format!("every second since {oldest}"),
        ("beginning", _) => "its first base backup is being made".to_owned(),
        _ => "given up for now, the server's log says why".to_owned(),
    };
    Some(format!(
        "history: {since}; {} base backups take {} bytes, the log since then {} bytes",
        seen["bases"], seen["base_bytes"], seen["log_bytes"]
    ))
}

/// A share in percent, a time in seconds.
fn shown(figure: &Value, name: &str) -> Option<String> {
    let value = figure[name].as_f64()?;
    Some(match field(figure, "unit") {
        "share" => format!("{:.1} %", value * 100.0),
        "seconds" => format!("{value} s"),
        _ => value.to_string(),
    })
}

fn said(figure: &Value) -> String {
    match figure["is_met"].as_bool() {
        Some(true) => "yes".to_owned(),
        Some(false) => "no".to_owned(),
        None => field(figure, "missing").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_history_says_what_it_costs_and_none_says_nothing() {
        let mut seen = json!({ "state": "kept", "oldest": "2026-11-22T09:30:00Z", "bases": 2, "base_bytes": 70, "log_bytes": 9 });
        let cost = "2 base backups take 70 bytes, the log since then 9 bytes";
        let kept = format!("history: every second since 2026-11-22T09:30:00Z; {cost}");
        assert_eq!(history(&seen), Some(kept));
        seen["state"] = json!("given_up");
        assert!(history(&seen).is_some_and(|line| line.contains("given up")));
        assert_eq!(history(&Value::Null), None);
    }
}
