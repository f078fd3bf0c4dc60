//! `tenantry alert`: what somebody has to look at, from when on, and where it is told.
//!
//! Owns: how it is asked for and shown. Does not own: which kinds of rules there are; the server says so. With
//! the operator's key all of it is the operator's: of the node and of all databases.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    exit::{Exit, Failure},
    output::{self, Format, Rows},
    user::{
        Context,
        database::field,
        token::{said, table},
    },
};

/// What can be done with alerts.
#[derive(Debug, Subcommand)]
pub(crate) enum AlertCommand {
    /// List alerts that are open.
    List(ListAlertsArgs),
    /// What is an alert, and from when on.
    #[command(subcommand)]
    Rule(RuleCommand),
    /// Where alerts are told: a webhook.
    #[command(subcommand)]
    Target(TargetCommand),
    /// Send the webhook a message now, and say what it answered.
    Test,
}

#[derive(Debug, Args)]
pub(crate) struct ListAlertsArgs {
    /// Those that are over, too, for 30 days.
    #[arg(long)]
    pub(crate) all: bool,
}

/// What can be done with rules.
#[derive(Debug, Subcommand)]
pub(crate) enum RuleCommand {
    /// Write a rule; it takes the place of the default, or of the one of the same kind and database.
    Add(AddRuleArgs),
    /// List rules, the defaults among them.
    List,
    /// Take a rule back: the default holds again.
    Remove(RemoveRuleArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddRuleArgs {
    /// Such as latency, errors, connections, size, backup_age or expiry; `alert rule list` has them all.
    pub(crate) kind: String,
    /// From this value on, in the unit of the kind; the default's when it is left out.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) threshold: Option<f64>,
    /// For how long it has to be so before anybody is told, such as 0s or 10m; the default's when it is left out.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) lasting: Option<Duration>,
    /// For one database, by name or id; for all when it is left out.
    #[arg(long, value_name = "DB")]
    pub(crate) db: Option<String>,
    /// Nothing of this kind is an alert.
    #[arg(long, conflicts_with_all = ["threshold", "lasting"])]
    pub(crate) off: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveRuleArgs {
    /// Id of the rule, as `alert rule list` shows it.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// What can be done with the webhook.
#[derive(Debug, Subcommand)]
pub(crate) enum TargetCommand {
    /// Say where alerts are told. The secret that messages are signed with is printed once.
    Set(SetTargetArgs),
    /// Show it, and what became of the last messages.
    Show,
    /// Tell nobody any more.
    Remove,
}

#[derive(Debug, Args)]
pub(crate) struct SetTargetArgs {
    /// https, at an address that everybody can reach; the operator's at any, and http on its own machine.
    pub(crate) url: String,
    /// Make a new secret. Without it a secret that there is stays.
    #[arg(long)]
    pub(crate) new_secret: bool,
}

const TARGET: &str = "/customer/alerts/target";
const RULES: &str = "/customer/alerts/rules";

/// Runs one of them.
pub(super) async fn run(context: &Context, command: AlertCommand) -> Result<(), Failure> {
    match command {
        AlertCommand::List(args) => list(context, &args).await,
        AlertCommand::Rule(RuleCommand::Add(args)) => add(context, args).await,
        AlertCommand::Rule(RuleCommand::List) => rules(context).await,
        AlertCommand::Rule(RuleCommand::Remove(args)) => remove(context, &args.id).await,
        AlertCommand::Target(TargetCommand::Set(args)) => set(context, args).await,
        AlertCommand::Target(TargetCommand::Show) => show(context).await,
        AlertCommand::Target(TargetCommand::Remove) => {
            let answer = context.api.delete(TARGET).await?;
            said(context, &answer, "alerts are told to nobody")
        }
        AlertCommand::Test => {
            let answer = context
                .api
                .post("/customer/alerts/test", &json!({}))
                .await?;
            let text = format!(
                "the webhook answered {} after {} ms; the message was {}",
                answer["status"],
                answer["took_ms"],
                field(&answer, "id")
            );
            said(context, &answer, &text)
        }
    }
}

async fn list(context: &Context, args: &ListAlertsArgs) -> Result<(), Failure> {
    let query = if args.all { "" } else { "?state=open" };
    let path = format!("/customer/alerts{query}");
    let mut alerts = context.api.list(&path).await?;
    if context.format != Format::Json {
        for alert in &mut alerts {
            // Told, on its way, given up; or nobody is there to be told.
            alert["told"] = match &alert["message"] {
                Value::Null => json!("no"),
                message => message["state"].clone(),
            };
        }
    }
    table(
        context,
        alerts,
        &["id", "state", "kind", "opened_at", "told", "text"],
    )
}

async fn rules(context: &Context) -> Result<(), Failure> {
    let rules = context.api.list(RULES).await?;
    if context.format == Format::Json {
        return output::json(&Value::Array(rules));
    }
    let is_table = context.format == Format::Table;
    let names = [
        "id",
        "kind",
        "database",
        "threshold",
        "unit",
        "for",
        "enabled",
    ];
    let title = |name: &&str| match is_table {
        true => name.to_uppercase(),
        false => (*name).to_owned(),
    };
    let text = |rule: &Value, name: &str| rule[name].as_str().map(str::to_owned);
    let row = |rule: &Value| {
        let lasting = Duration::from_secs(rule["for_seconds"].as_u64().unwrap_or_default());
        vec![
            text(rule, "id").or(is_table.then(|| "default".to_owned())),
            text(rule, "kind"),
            text(rule, "database_id").or(is_table.then(|| "all".to_owned())),
            // None: for each database what its schedule of backups allows.
            rule["threshold"].as_f64().map(|value| value.to_string()),
            text(rule, "unit"),
            Some(humantime::format_duration(lasting).to_string()),
            Some(rule["enabled"].to_string()),
        ]
    };
    Rows {
        columns: names.iter().map(title).collect(),
        rows: rules.iter().map(row).collect(),
    }
    .print(context.format)
}

async fn add(context: &Context, args: AddRuleArgs) -> Result<(), Failure> {
    let mut body = json!({ "kind": args.kind, "enabled": !args.off });
    if let Some(threshold) = args.threshold {
        body["threshold"] = json!(threshold);
    }
    if let Some(lasting) = args.lasting {
        body["for_seconds"] = json!(lasting.as_secs());
    }
    if let Some(db) = args.db {
        body["database"] = json!(db);
    }
    let made = context.api.post(RULES, &body).await?;
    if context.quiet && context.format != Format::Json {
        return output::line(field(&made, "id"));
    }
    let text = format!("{} {} is a rule", field(&made, "kind"), field(&made, "id"));
    said(context, &made, &text)
}

async fn remove(context: &Context, id: &str) -> Result<(), Failure> {
    // It becomes part of a path.
    if id.parse::<model::AlertRuleId>().is_err() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("'{}' is no id of a rule", id.escape_default()),
            "ids look like alr_abcdefghijkl; `alert rule list` shows them; a default is switched off with \
             `alert rule add KIND --off`",
        ));
    }
    let answer = context.api.delete(&format!("{RULES}/{id}")).await?;
    said(context, &answer, &format!("removed {id}"))
}

async fn set(context: &Context, args: SetTargetArgs) -> Result<(), Failure> {
    let body = json!({ "url": args.url, "new_secret": args.new_secret });
    let set = context.api.post(TARGET, &body).await?;
    if context.format == Format::Json {
        return output::json(&set);
    }
    let Some(secret) = set["secret"].as_str() else {
        return said(
            context,
            &set,
            "alerts are told there; the secret is the one from before",
        );
    };
    if context.quiet {
        return output::line(secret);
    }
    eprintln!("this is the only time the secret is shown");
    output::pairs(&[
        ("URL", field(&set, "url").to_owned()),
        ("Secret", secret.to_owned()),
    ])
}

async fn show(context: &Context) -> Result<(), Failure> {
    let target = context.api.get(TARGET).await?;
    if context.format == Format::Json {
        return output::json(&target);
    }
    if target["url"].is_null() {
        return output::line("alerts are told to nobody: `tenantry alert target set URL`");
    }
    let mut pairs = [
        ("URL", "url"),
        ("Set", "set_at"),
        ("Taken last", "sent_at"),
        ("Failed last", "failed_at"),
        ("Why", "last_error"),
    ]
    .map(|(title, name)| (title, field(&target, name).to_owned()))
    .to_vec();
    pairs.push(("Waiting", target["waiting"].to_string()));
    output::pairs(&pairs)
}
