//! `tenantry db limits`: what a database may use at once.
//!
//! Owns: how limits are written on a command line and shown. Does not own: which there are
//! ([`model::limits`]) and whether they may be set; the server says so.

use clap::{Args, Subcommand};
use model::limits::{ALLOWED_ADDRESSES, Number, POOL_MODE, STATEMENT_LOG};
use serde_json::{Value, json};

use crate::{
    args::NamedArgs,
    exit::Failure,
    output::{self, Format, Rows},
    user::{Context, database::path},
};

/// What can be done with limits.
#[derive(Debug, Subcommand)]
pub(crate) enum LimitsCommand {
    /// Show what holds, and what its owner and the operator said.
    Show(NamedArgs),
    /// Set some limits; the others stay as they are. Takes hold at once, also on open sessions.
    Set(SetLimitsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SetLimitsArgs {
    /// Name or id of the database, where it is not the chosen one; then the limits: a number, for times
    /// also 5s or 30m, `off` for no limit, `default` to take it back. `allowed_addresses` takes
    /// networks with commas between them, or `nobody`. `limits show` has their names.
    #[arg(required = true, value_name = "[DB] NAME=VALUE")]
    pub(crate) words: Vec<String>,
}

/// Runs one of them.
pub(super) async fn run(context: &Context, command: LimitsCommand) -> Result<(), Failure> {
    match command {
        LimitsCommand::Show(args) => {
            let db = context.database(args.db.as_deref())?;
            let answer = context.api.get(&path(&db, "/limits")?).await?;
            print(context, &answer)
        }
        LimitsCommand::Set(args) => {
            let (db, values) = read(&args.words)?;
            let db = context.database(db)?;
            let answer = context
                .api
                .patch(&path(&db, "/limits")?, &Value::Object(values))
                .await?;
            if context.quiet {
                return Ok(());
            }
            print(context, &answer)
        }
    }
}

type Named = serde_json::Map<String, Value>;

/// The database, if the first word is one, and the limits.
fn read(words: &[String]) -> Result<(Option<&str>, Named), Failure> {
    let (db, words) = match words {
        [first, rest @ ..] if !first.contains('=') => (Some(first.as_str()), rest),
        all => (None, all),
    };
    let mut values = Named::new();
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(Failure::usage(
                format!("'{}' is not NAME=VALUE", word.escape_default()),
                "for example: tenantry db limits set my-db statement_ms_max=5s",
            ));
        };
        if values
            .insert(name.to_owned(), value_of(name, value)?)
            .is_some()
        {
            return Err(Failure::usage(
                format!("{name} is given twice"),
                "once is enough",
            ));
        }
    }
    if values.is_empty() {
        return Err(Failure::usage(
            "no limit was given",
            "for example: tenantry db limits set my-db statement_ms_max=5s",
        ));
    }
    Ok((db, values))
}

/// A value as the API takes it. What is not understood here goes there as a text, and the server says
/// what it expected.
fn value_of(name: &str, value: &str) -> Result<Value, Failure> {
    if value == "default" {
        return Ok(Value::Null);
    }
    if name == ALLOWED_ADDRESSES {
        return match value {
            "nobody" => Ok(json!([])),
            // Somebody's variable was empty; nobody means to be locked out by that.
            "" => Err(Failure::usage(
                format!("{name} is empty"),
                "name networks, `nobody`, or `default` for everybody",
            )),
            list => Ok(list
                .split(',')
                .map(|network| json!(network.trim()))
                .collect()),
        };
    }
    if name == POOL_MODE || name == STATEMENT_LOG {
        return Ok(json!(value));
    }
    let number = match value {
        "off" => Some(0),
        "on" if name == "statement_audit" => Some(1),
        value
            if format!("{name}_").contains("_ms_")
                && !value.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            humantime::parse_duration(value)
                .ok()
                .and_then(|time| u64::try_from(time.as_millis()).ok())
        }
        value => value.parse().ok(),
    };
    Ok(number.map_or_else(|| json!(value), |number: u64| json!(number)))
}

fn print(context: &Context, answer: &Value) -> Result<(), Failure> {
    if context.format == Format::Json {
        return output::json(answer);
    }
    let is_table = context.format == Format::Table;
    let title = |text: &str| {
        if is_table {
            text.to_uppercase()
        } else {
            text.to_owned()
        }
    };
    let names = Number::ALL.iter().map(|number| number.name());
    let rows = names
        .chain([POOL_MODE, STATEMENT_LOG, ALLOWED_ADDRESSES])
        .map(|name| {
            let shown = |who: &str| {
                let value = &answer[who][name];
                match value {
                    Value::Null => None,
                    Value::Array(list) if list.is_empty() => Some("nobody".to_owned()),
                    Value::Array(list) => {
                        let list: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                        Some(list.join(","))
                    }
                    Value::String(text) => Some(text.clone()),
                    value if is_table && *value == json!(0) && can_be_off(name) => {
                        Some("off".to_owned())
                    }
                    value => Some(value.to_string()),
                }
            };
            let holds = shown("effective")
                .or((name == ALLOWED_ADDRESSES && is_table).then(|| "everybody".to_owned()));
            vec![
                Some(name.to_owned()),
                holds,
                shown("owner"),
                shown("operator"),
            ]
        });
    Rows {
        columns: ["limit", "effective", "owner", "operator"]
            .map(title)
            .to_vec(),
        rows: rows.collect(),
    }
    .print(context.format)
}

fn can_be_off(name: &str) -> bool {
    Number::ALL
        .iter()
        .any(|number| number.name() == name && number.can_be_off())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn limits_are_read_from_words() {
        let text = "my-db statement_ms_max=5s transaction_ms_max=1500 result_rows_max=off \
                    pool_mode=session client_idle_ms_max=default allowed_addresses=10.0.0.0/8,::1";
        let words = words(text);
        let (db, values) = read(&words).unwrap();
        assert_eq!(db, Some("my-db"));
        assert_eq!(
            Value::Object(values),
            json!({
                "statement_ms_max": 5000, "transaction_ms_max": 1500, "result_rows_max": 0,
                "pool_mode": "session", "client_idle_ms_max": null,
                "allowed_addresses": ["10.0.0.0/8", "::1"],
            })
        );
        let nobody = self::words("allowed_addresses=nobody");
        let (db, values) = read(&nobody).unwrap();
        assert_eq!((db, &values["allowed_addresses"]), (None, &json!([])));
    }

    #[test]
    fn what_is_no_limit_is_a_usage_error() {
        for text in [
            "my-db",
            "a=1 b",
            "a=1 a=2",
            "my-db other a=1",
            "allowed_addresses=",
        ] {
            assert!(read(&words(text)).is_err(), "{text}");
        }
    }
}
