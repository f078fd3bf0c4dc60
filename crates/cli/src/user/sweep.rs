//! `tenantry delete --prefix … --older-than …`: many databases at once.
//!
//! Owns: what is asked of a person before, and going on until nothing is left. Does not own: which ones
//! are meant and how many one request deletes; the server says that.

use serde_json::{Value, json};

use crate::{
    args::DeleteArgs,
    exit::{Exit, Failure},
    output::{self, Format, Rows},
    user::{
        Context,
        database::{confirm, field, path},
    },
};

/// Requests of one command; a hundred databases each.
const BATCHES_MAX: u32 = 1000;

/// Shows, asks, deletes.
pub(super) async fn sweep(context: &Context, args: &DeleteArgs) -> Result<(), Failure> {
    let query = query(args);
    if args.yes {
        return delete_all(context, &query).await;
    }
    let meant = request(context, &query, true).await?;
    if args.dry_run {
        show(context, &meant)?;
        if is_more(&meant) {
            eprintln!("and more than these");
        }
        return Ok(());
    }
    let databases = databases(&meant);
    if databases.is_empty() {
        return show(context, &meant);
    }
    let count = databases.len().to_string();
    let lines = databases
        .iter()
        .map(|db| format!("{}  {}\n", field(db, "id"), field(db, "name")));
    confirm(
        &format!("{count} databases"),
        "give --dry-run to see them, --yes where nobody can be asked",
        &format!(
            "{}Delete these {count} databases? Type {count} to confirm: ",
            lines.collect::<String>()
        ),
        &count,
    )?;
    // Those that were shown, and no others.
    for database in databases {
        let path = path(field(database, "id"), "")?;
        match context.api.delete(&path).await {
            Err(failure) if failure.exit() == Exit::NotFound => {}
            other => drop(other?),
        }
    }
    show(context, &meant)?;
    if is_more(&meant) {
        eprintln!("there are more; run the command again, or with --yes");
    }
    Ok(())
}

async fn delete_all(context: &Context, query: &str) -> Result<(), Failure> {
    let mut all = Vec::new();
    for _ in 0..BATCHES_MAX {
        let mut batch = request(context, query, false).await?;
        // A batch that others were faster with is the last one, too: they go on.
        let is_last = !is_more(&batch) || databases(&batch).is_empty();
        if let Some(databases) = batch["databases"].as_array_mut() {
            all.append(databases);
        }
        if is_last {
            break;
        }
    }
    show(
        context,
        &json!({ "dry_run": false, "databases": all, "more": false }),
    )
}

/// The part of the path that says which ones are meant. Texts of users are escaped.
fn query(args: &DeleteArgs) -> String {
    let mut url = reqwest::Url::parse("http://any/").expect("an address");
    for (name, value) in [("prefix", &args.prefix), ("older_than", &args.older_than)] {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    url.query().unwrap_or_default().to_owned()
}

async fn request(context: &Context, query: &str, dry_run: bool) -> Result<Value, Failure> {
    let path = format!("/customer/databases?{query}&dry_run={dry_run}");
    context.api.delete(&path).await
}

fn databases(answer: &Value) -> &[Value] {
    answer["databases"].as_array().map_or(&[], Vec::as_slice)
}

fn is_more(answer: &Value) -> bool {
    answer["more"] == json!(true)
}

/// What was deleted, or would be.
fn show(context: &Context, answer: &Value) -> Result<(), Failure> {
    let databases = databases(answer);
    if context.format == Format::Json {
        return output::json(answer);
    }
    if context.quiet {
        let ids: String = databases
            .iter()
            .map(|db| format!("{}\n", field(db, "id")))
            .collect();
        return output::text(&ids);
    }
    if databases.is_empty() {
        eprintln!("there are none");
        return Ok(());
    }
    let names = ["id", "name", "state", "created_at"];
    Rows {
        columns: names
            .map(|name| match context.format {
                Format::Table => name.to_uppercase(),
                _ => name.to_owned(),
            })
            .to_vec(),
        rows: databases
            .iter()
            .map(|db| names.map(|name| Some(field(db, name).to_owned())).to_vec())
            .collect(),
    }
    .print(context.format)
}
