//! `tenantry db sql`: statements through the API, without psql.

use std::{
    io::{self, IsTerminal as _, Read as _},
    path::Path,
};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{
    args::SqlArgs,
    exit::{ApiError, Exit, Failure},
    output::{self, Format, Rows},
    user::{Context, database},
};

/// `tenantry db sql`.
pub(super) async fn sql(context: &Context, args: SqlArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let path = database::path(&db, "/sql")?;
    let body = match (args.query, args.file) {
        (Some(query), _) => json!({ "query": query }),
        (None, Some(file)) if file.as_os_str() != "-" => {
            json!({ "file_content": read_file(&file)? })
        }
        (None, file) => {
            if file.is_none() && io::stdin().is_terminal() {
                return Err(Failure::usage(
                    "no statement was given",
                    "give -q SQL, -f FILE, or standard input; `tenantry db connect` starts from psql",
                ));
            }
            json!({ "file_content": io::read_to_string(io::stdin()).context("read standard input")? })
        }
    };
    let answer = context.api.post(&path, &body).await.map_err(as_sql_error)?;
    if context.format == Format::Json {
        output::json(&answer)?;
    } else if !context.quiet {
        print(&answer, context.format)?;
    }
    error_in(&answer).map_or(Ok(()), Err)
}

fn read_file(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|mut file| file.read_to_string(&mut text))
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display()), ""))?;
    Ok(text)
}

/// An error of PostgreSQL carries its SQLSTATE as code: five letters and digits.
fn as_sql_error(failure: Failure) -> Failure {
    match failure {
        Failure::Api(error) if is_sqlstate(&error.code) => sql_error(error),
        other => other,
    }
}

fn is_sqlstate(code: &str) -> bool {
    code.len() == 5
        && code
            .bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

fn sql_error(error: ApiError) -> Failure {
    let message = if error.code.is_empty() {
        error.message
    } else {
        format!("{} ({})", error.message, error.code)
    };
    Failure::new(Exit::Sql, message, error.hint)
}

/// The answer of a request that was served may still say that a statement failed.
pub(super) fn error_in(answer: &Value) -> Option<Failure> {
    let error = answer.get("error").filter(|error| !error.is_null())?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let parts = if error.is_object() { error } else { answer };
    let message = error
        .as_str()
        .map_or_else(|| text(&error["message"]), str::to_owned);
    let code = [text(&parts["code"]), text(&parts["sqlstate"])]
        .into_iter()
        .find(|code| !code.is_empty())
        .unwrap_or_default();
    Some(sql_error(ApiError {
        code,
        message,
        hint: text(&parts["hint"]),
        ..ApiError::default()
    }))
}

/// Prints a result.
pub(super) fn print(answer: &Value, format: Format) -> Result<(), Failure> {
    let columns = answer["columns"].as_array().cloned().unwrap_or_default();
    if columns.is_empty() {
        let command = database::field(answer, "command");
        return if command.is_empty() || format != Format::Table {
            Ok(())
        } else {
            output::line(command)
        };
    }
    Rows {
        columns: columns
            .iter()
            .map(|column| {
                column
                    .as_str()
                    .unwrap_or_else(|| database::field(column, "name"))
                    .to_owned()
            })
            .collect(),
        rows: answer["rows"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| row.as_array().into_iter().flatten().map(value).collect())
            .collect(),
    }
    .print(format)
}

fn value(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sqlstate_is_one() {
        assert!(is_sqlstate("42P01"));
        for code in ["", "name_taken", "42p01", "42P011"] {
            assert!(!is_sqlstate(code), "{code}");
        }
    }

    #[test]
    fn an_error_in_an_answer_ends_in_the_code_for_sql() {
        for answer in [
            json!({ "error": "relation does not exist", "code": "42P01" }),
            json!({ "error": { "message": "relation does not exist", "code": "42P01" } }),
        ] {
            assert_eq!(error_in(&answer).unwrap().exit(), Exit::Sql);
        }
        assert!(error_in(&json!({ "error": null })).is_none());
        assert!(error_in(&json!({ "rows": [] })).is_none());
    }
}
