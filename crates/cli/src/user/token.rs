//! `tenantry token`: keys of the API.
//!
//! Owns: how they are asked for and shown. Does not own: which one commands use ([`super::api`]).

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    exit::{Exit, Failure},
    output::{self, Format, Rows},
    user::{Context, database::field, session},
};

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print the token that commands use.
    Show,
    /// Make a token. It is printed once; the server keeps only a hash of it.
    Create(CreateTokenArgs),
    /// List tokens: who made each, when and from where it was last used. Never their texts.
    List,
    /// Revoke a token. The next request with it is refused.
    Revoke(RevokeTokenArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateTokenArgs {
    /// What it is for; `token` and the day when it is left out.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Days until it expires, 1 to 3,650; 365 when it is left out.
    #[arg(long, value_name = "DAYS")]
    pub(crate) expires_in_days: Option<u32>,
    /// Bind it to a database, by name or id: `ro` may look, `rw` may run any SQL there. May be given
    /// several times. A bound token cannot make, delete or share databases.
    #[arg(long, value_name = "DB:ro|rw", conflicts_with = "read_only")]
    pub(crate) scope: Vec<String>,
    /// A token of the whole project that may only look.
    #[arg(long)]
    pub(crate) read_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeTokenArgs {
    /// Id of the token, as `token list` shows it.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// Runs one of them.
pub(super) async fn run(context: &Context, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Show => session::token_show(context),
        TokenCommand::Create(args) => create(context, args).await,
        TokenCommand::List => list(context).await,
        TokenCommand::Revoke(args) => revoke(context, &args.id).await,
    }
}

/// `prod:ro` as the API takes it.
fn scope_entry(text: &str) -> Result<Value, Failure> {
    match text.rsplit_once(':') {
        Some((db, access @ ("ro" | "rw"))) if !db.is_empty() => {
            Ok(json!({ "id": db, "access": access }))
        }
        _ => Err(Failure::usage(
            format!("'{}' is not DB:ro or DB:rw", text.escape_default()),
            "for example: tenantry token create --scope my-db:ro",
        )),
    }
}

async fn create(context: &Context, args: CreateTokenArgs) -> Result<(), Failure> {
    let mut body = json!({});
    if let Some(name) = args.name {
        body["name"] = json!(name);
    }
    if let Some(days) = args.expires_in_days {
        body["expires_in_days"] = json!(days);
    }
    if args.read_only {
        body["access"] = json!("ro");
    }
    if !args.scope.is_empty() {
        let entries = args.scope.iter().map(|text| scope_entry(text));
        let databases = entries.collect::<Result<Vec<_>, _>>()?;
        body["scope_json"] = json!(json!({ "databases": databases }).to_string());
    }
    let made = context.api.post("/customer/tokens", &body).await?;
    if context.format == Format::Json {
        return output::json(&made);
    }
    if context.quiet {
        return output::line(field(&made, "token"));
    }
    eprintln!("this is the only time the token is shown");
    output::pairs(
        &[
            ("ID", "id"),
            ("Name", "name"),
            ("Scope", "scope"),
            ("Expires", "expires_at"),
            ("Token", "token"),
        ]
        .map(|(title, name)| (title, field(&made, name).to_owned())),
    )
}

async fn list(context: &Context) -> Result<(), Failure> {
    let tokens = context.api.list("/customer/tokens").await?;
    table(
        context,
        tokens,
        &[
            "id",
            "name",
            "scope",
            "created_at",
            "created_by",
            "expires_at",
            "last_used_at",
            "last_used_from",
        ],
    )
}

/// A list of credentials, as every command shows one.
pub(super) fn table(context: &Context, rows: Vec<Value>, columns: &[&str]) -> Result<(), Failure> {
    if context.format == Format::Json {
        return output::json(&Value::Array(rows));
    }
    if context.quiet {
        let ids: String = rows
            .iter()
            .map(|row| format!("{}\n", field(row, "id")))
            .collect();
        return output::text(&ids);
    }
    let title = |name: &&str| match context.format {
        Format::Table => name.to_uppercase(),
        _ => (*name).to_owned(),
    };
    let cell = |row: &Value, name: &str| row[name].as_str().map(str::to_owned);
    Rows {
        columns: columns.iter().map(title).collect(),
        rows: rows
            .iter()
            .map(|row| columns.iter().map(|name| cell(row, name)).collect())
            .collect(),
    }
    .print(context.format)
}

/// An id may become part of a path.
pub(super) fn credential_id(text: &str) -> Result<&str, Failure> {
    match text.parse::<model::CredentialId>() {
        Ok(_) => Ok(text),
        Err(_) => Err(Failure::new(
            Exit::NotFound,
            format!("'{}' is no id of a credential", text.escape_default()),
            "ids look like crd_abcdefghijkl; `token list` and `db access` show them",
        )),
    }
}

async fn revoke(context: &Context, id: &str) -> Result<(), Failure> {
    let path = format!("/customer/tokens/{}", credential_id(id)?);
    let answer = context.api.delete(&path).await?;
    said(context, &answer, &format!("revoked {id}"))
}

/// What was done, where an answer has nothing more to say.
pub(super) fn said(context: &Context, answer: &Value, text: &str) -> Result<(), Failure> {
    match context.format {
        Format::Json => output::json(answer),
        _ if context.quiet => Ok(()),
        _ => output::line(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_names_a_database_and_what_may_be_done() {
        assert_eq!(
            scope_entry("my-db:ro").unwrap(),
            json!({ "id": "my-db", "access": "ro" })
        );
        for wrong in ["my-db", "my-db:", ":ro", "my-db:admin", ""] {
            assert_eq!(
                scope_entry(wrong).unwrap_err().exit(),
                Exit::Usage,
                "{wrong}"
            );
        }
    }

    #[test]
    fn only_an_id_becomes_part_of_a_path() {
        assert!(credential_id("crd_abcdefghijkl").is_ok());
        for wrong in ["", "..", "crd_abc", "crd_abcdefghijkl/x"] {
            assert!(credential_id(wrong).is_err(), "{wrong}");
        }
    }
}
