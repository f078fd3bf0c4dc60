//! Giving others a way into a database for some time: `db connect-token`, `share`, and `db access`, which
//! shows and revokes it.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    args::{NamedArgs, RoleArg},
    exit::Failure,
    output::{self, Format},
    user::{
        Context,
        database::{field, path},
        token::{credential_id, said, table},
    },
};

#[derive(Debug, Args)]
pub(crate) struct ConnectTokenArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// As whom: admin may change the schema, write may change rows, read may look.
    #[arg(long, value_enum, default_value = "admin")]
    pub(crate) role: RoleArg,
    /// How long it can be used to log in, such as 30s or 5m; as long as the server allows when it is
    /// left out.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// The address, or network, that clients must come from.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ShareArgs {
    /// Name or id.
    pub(crate) db: Option<String>,
    /// Let it change rows, too.
    #[arg(long)]
    pub(crate) rw: bool,
    /// Days until it ends, 1 to 3,650.
    #[arg(long, value_name = "DAYS", default_value = "7")]
    pub(crate) expires: u32,
    /// What it is for; `share`, the database and the day when it is left out.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The address, or network, that clients must come from.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: Option<String>,
}

/// What opens a database.
#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// List passwords, connect tokens and shares: who made each, when and from where it was last used.
    List(NamedArgs),
    /// Revoke one of them. Sessions of passwords and shares end, those of connect tokens stay.
    Revoke(RevokeAccessArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RevokeAccessArgs {
    /// Name or id of the database, where it is not the chosen one; then the id of what is revoked.
    #[arg(required = true, num_args = 1..=2, value_name = "[DB] ID")]
    pub(crate) words: Vec<String>,
}

/// `tenantry db connect-token`.
pub(super) async fn connect_token(
    context: &Context,
    args: ConnectTokenArgs,
) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let mut body = json!({ "role": model::Role::from(args.role).as_str() });
    if let Some(ttl) = args.ttl {
        body["ttl_seconds"] = json!(ttl.as_secs());
    }
    if let Some(address) = args.address {
        body["address"] = json!(address);
    }
    let made = context
        .api
        .post(&path(&db, "/connect-token")?, &body)
        .await?;
    if context.format == Format::Json {
        return output::json(&made);
    }
    if context.quiet {
        return output::line(field(&made, "connection_string"));
    }
    let port = made["port"].to_string();
    let psql = format!("psql '{}'", field(&made, "connection_string"));
    output::pairs(&[
        ("ID", field(&made, "id").to_owned()),
        ("Host", field(&made, "host").to_owned()),
        ("Port", port),
        ("Database", field(&made, "database").to_owned()),
        ("User", field(&made, "user").to_owned()),
        ("Expires at", field(&made, "expires_at").to_owned()),
        ("Token", field(&made, "token").to_owned()),
        ("psql command", psql),
    ])
}

/// `tenantry share`.
pub(super) async fn share(context: &Context, args: ShareArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let role = if args.rw { "write" } else { "read" };
    let mut body = json!({ "role": role, "expires_in_days": args.expires });
    for (name, value) in [("name", args.name), ("address", args.address)] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    let made = context
        .api
        .post(&path(&db, "/connect-keys")?, &body)
        .await?;
    if context.format == Format::Json {
        return output::json(&made);
    }
    if !context.quiet {
        eprintln!(
            "{} may {} '{db}' until {}; `tenantry db access revoke {db} {}` ends it",
            field(&made, "name"),
            if args.rw {
                "change rows of"
            } else {
                "look into"
            },
            field(&made, "expires_at"),
            field(&made, "id"),
        );
    }
    output::line(field(&made, "connection_string"))
}

/// `tenantry db access`.
pub(super) async fn run(context: &Context, command: AccessCommand) -> Result<(), Failure> {
    match command {
        AccessCommand::List(args) => {
            let db = context.database(args.db.as_deref())?;
            let found = context.api.get(&path(&db, "/access")?).await?;
            let rows = match found {
                Value::Array(rows) => rows,
                _ => Vec::new(),
            };
            table(
                context,
                rows,
                &[
                    "id",
                    "kind",
                    "name",
                    "user",
                    "address",
                    "created_at",
                    "created_by",
                    "expires_at",
                    "last_used_at",
                    "last_used_from",
                ],
            )
        }
        AccessCommand::Revoke(args) => {
            let (db, id) = match &args.words[..] {
                [db, id] => (Some(&**db), id),
                [id] => (None, id),
                _ => {
                    return Err(Failure::usage(
                        "name a database and an id",
                        "`tenantry db access list` shows ids",
                    ));
                }
            };
            let db = context.database(db)?;
            let rest = format!("/access/{}", credential_id(id)?);
            let answer = context.api.delete(&path(&db, &rest)?).await?;
            said(context, &answer, &format!("revoked {id}"))
        }
    }
}
