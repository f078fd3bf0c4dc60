//! `tenantry db users`: the users of a database.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use model::UserName;
use serde_json::{Value, json};

use crate::{
    args::NamedArgs,
    exit::{Exit, Failure},
    output::{self, Format},
    user::{
        Context,
        database::{field, path},
        token::{said, table},
    },
};

/// What can be done with users of a database.
#[derive(Debug, Subcommand)]
pub(crate) enum UsersCommand {
    /// Make a user, and print its connection string. Its password is shown this once.
    Create(CreateUserArgs),
    /// List users: what each may do, who made it, when and from where it was last used.
    List(NamedArgs),
    /// Change how many clients a user may have at once.
    Set(SetUserArgs),
    /// Make a new password of a user. The old one no longer works, or until its grace ends.
    ResetPassword(ResetUserArgs),
    /// Delete a user. Its sessions end; what it made stays.
    Delete(UserArgs),
}

/// A user of a database.
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    /// Name or id of the database, where it is not the chosen one; then the name of the user.
    #[arg(num_args = 0..=2, value_name = "[DB] USER")]
    pub(crate) words: Vec<String>,
    /// The name of the user, as an option.
    #[arg(long, value_name = "USER")]
    pub(crate) username: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateUserArgs {
    #[command(flatten)]
    pub(crate) user: UserArgs,
    /// What it may do: admin changes the schema, write (rw) changes rows, read (ro) looks.
    #[arg(long, value_enum, default_value = "write")]
    pub(crate) role: UserRoleArg,
    /// Clients that may be logged in as this user at once; no limit of its own when it is left out.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) connections: Option<u32>,
    /// Its password, 12 to 128 characters; made up when it is left out. Other users of this machine can see it
    /// in the list of processes.
    #[arg(long)]
    pub(crate) password: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SetUserArgs {
    #[command(flatten)]
    pub(crate) user: UserArgs,
    /// Clients that may be logged in as this user at once; 0 takes the limit away.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) connections: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ResetUserArgs {
    #[command(flatten)]
    pub(crate) user: UserArgs,
    /// How long the old password still works, such as 30m or 2d; at most 7d.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) grace: Duration,
}

/// A role, under either of its names.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum UserRoleArg {
    Admin,
    #[value(alias = "rw")]
    Write,
    #[value(alias = "ro")]
    Read,
}

impl From<UserRoleArg> for model::Role {
    fn from(role: UserRoleArg) -> Self {
        match role {
            UserRoleArg::Admin => Self::Admin,
            UserRoleArg::Write => Self::Write,
            UserRoleArg::Read => Self::Read,
        }
    }
}

/// The database and the user that were named.
fn named(context: &Context, args: &UserArgs) -> Result<(String, UserName), Failure> {
    let (db, user) = match (&args.words[..], &args.username) {
        ([db, user], None) | ([db], Some(user)) => (Some(&**db), user),
        ([user], None) | ([], Some(user)) => (None, user),
        _ => {
            return Err(Failure::usage(
                "name a database and a user",
                "`tenantry db users list` shows names",
            ));
        }
    };
    let db = context.database(db)?;
    let user = user.parse().map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("'{}' is no name of a user: {error}", user.escape_default()),
            "`tenantry db users list` shows names",
        )
    })?;
    Ok((db, user))
}

fn of_user(db: &str, user: &UserName, rest: &str) -> Result<String, Failure> {
    path(db, &format!("/users/{user}{rest}"))
}

/// The one showing of a password.
fn shown(context: &Context, made: &Value, what: &str) -> Result<(), Failure> {
    if context.format == Format::Json {
        return output::json(made);
    }
    if !context.quiet {
        eprintln!("{what}; this is shown once");
    }
    output::line(field(made, "connection_string"))
}

/// `tenantry db users`.
pub(super) async fn run(context: &Context, command: UsersCommand) -> Result<(), Failure> {
    match command {
        UsersCommand::Create(args) => {
            let (db, user) = named(context, &args.user)?;
            let role = model::Role::from(args.role);
            let mut body = json!({ "username": user.as_str(), "role": role.as_str() });
            if let Some(most) = args.connections {
                body["client_connections_max"] = json!(most);
            }
            if let Some(password) = args.password {
                body["password"] = json!(password);
            }
            let made = context.api.post(&path(&db, "/users")?, &body).await?;
            shown(context, &made, &format!("made {user}, who has role {role}"))
        }
        UsersCommand::List(args) => {
            let db = context.database(args.db.as_deref())?;
            let rows = match context.api.get(&path(&db, "/users")?).await? {
                Value::Array(rows) => rows,
                _ => Vec::new(),
            };
            list(context, rows)
        }
        UsersCommand::Set(args) => {
            let (db, user) = named(context, &args.user)?;
            let body = json!({ "client_connections_max": args.connections });
            let answer = context.api.patch(&of_user(&db, &user, "")?, &body).await?;
            let most = match args.connections {
                0 => "any number of".to_owned(),
                most => most.to_string(),
            };
            said(
                context,
                &answer,
                &format!("{user} may have {most} clients at once"),
            )
        }
        UsersCommand::ResetPassword(args) => {
            let (db, user) = named(context, &args.user)?;
            let body = json!({ "grace_seconds": args.grace.as_secs() });
            let rest = of_user(&db, &user, "/reset-password")?;
            let made = context.api.post(&rest, &body).await?;
            shown(context, &made, &format!("a new password of {user}"))
        }
        UsersCommand::Delete(args) => {
            let (db, user) = named(context, &args)?;
            let answer = context.api.delete(&of_user(&db, &user, "")?).await?;
            said(context, &answer, &format!("deleted {user}"))
        }
    }
}

fn list(context: &Context, mut rows: Vec<Value>) -> Result<(), Failure> {
    if context.format == Format::Json {
        return output::json(&Value::Array(rows));
    }
    if context.quiet {
        let names = rows
            .iter()
            .map(|row| format!("{}\n", field(row, "username")));
        return output::text(&names.collect::<String>());
    }
    for row in &mut rows {
        // A table has texts.
        let most = row["client_connections_max"].as_u64();
        row["connections"] = most.map_or(Value::Null, |most| json!(most.to_string()));
        let has = row["has_password"].as_bool().unwrap_or_default();
        row["password"] = json!(if has { "yes" } else { "none yet" });
    }
    let columns = [
        "username",
        "role",
        "user",
        "connections",
        "password",
        "created_at",
        "created_by",
        "last_used_at",
        "last_used_from",
    ];
    table(context, rows, &columns)
}
