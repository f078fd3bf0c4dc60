//! `tenantry db connect`: the address of a database, and psql for what is given to it.
//!
//! Owns: reading connection strings, and running psql without its password on the command line.

use std::{
    ffi::OsString,
    io::IsTerminal as _,
    os::unix::fs::FileTypeExt as _,
    path::Path,
    process::{Command, Stdio},
};

use reqwest::Url;
use serde_json::{Value, json};

use crate::{
    args::ConnectArgs,
    exit::{Exit, Failure},
    output::{self, Format},
    user::{Context, database},
};

/// A connection string of ours: `postgresql://<tenant>.<role>[:<password>]@<host>:<port>/postgres?…`.
#[derive(Clone)]
pub(super) struct Address(Url);

impl Address {
    /// Reads the `connection_string` of an answer.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(super) fn read(database: &Value) -> Result<Self, Failure> {
        Self::parse(database::field(database, "connection_string"))
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "postgresql" | "postgres") => Ok(Self(url)),
            // The text may be a secret: not shown.
            _ => Err(Failure::new(
                Exit::Unavailable,
                "the server gave no connection string that can be read",
                "is it a Tenantry of another version?",
            )),
        }
    }

    /// As a client library takes it.
    pub(super) fn text(&self) -> String {
        self.0.to_string()
    }

    /// Whether it can be used as it is.
    pub(super) fn has_password(&self) -> bool {
        self.0.password().is_some()
    }

    /// The same without its password.
    pub(super) fn without_password(&self) -> Self {
        let mut url = self.0.clone();
        // Fails only for addresses without a host, which ours have.
        let _ = url.set_password(None);
        Self(url)
    }

    /// The same with the password of another one.
    ///
    /// # Errors
    ///
    /// When `other` cannot be read.
    pub(super) fn with_password_of(&self, other: &str) -> Result<Self, Failure> {
        let other = Self::parse(other)?;
        let mut url = self.0.clone();
        let _ = url.set_password(other.0.password());
        Ok(Self(url))
    }

    /// The login name, `<id>.<role>`.
    pub(super) fn user(&self) -> String {
        self.0.username().to_owned()
    }

    /// The same for another role of the same database.
    fn with_role(&self, role: model::Role) -> Self {
        let mut url = self.0.clone();
        let tenant = self.0.username().split('.').next().unwrap_or_default();
        let _ = url.set_username(&format!("{tenant}.{role}"));
        Self(url)
    }

    /// The password as PostgreSQL expects it. Ours are letters and digits; anything else would
    /// have come percent-encoded.
    pub(super) fn password(&self) -> Option<String> {
        let encoded = self.0.password()?;
        let mut bytes = Vec::with_capacity(encoded.len());
        let mut rest = encoded.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            let hex = (first == b'%')
                .then(|| tail.get(..2))
                .flatten()
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| u8::from_str_radix(digits, 16).ok());
            match hex {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &tail[2..];
                }
                None => {
                    bytes.push(first);
                    rest = tail;
                }
            }
        }
        String::from_utf8(bytes).ok()
    }

    /// The value of a parameter, such as `sslmode`.
    pub(super) fn option(&self, name: &str) -> Option<String> {
        let mut options = self.0.query_pairs();
        options.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    }

    /// `host`, `port`, `user` or `database`.
    pub(super) fn part(&self, name: &str) -> String {
        match name {
            "host" => self.0.host_str().unwrap_or_default().to_owned(),
            "port" => self
                .0
                .port()
                .map_or_else(|| "5432".into(), |port| port.to_string()),
            "user" => self.user(),
            _ => self.0.path().trim_start_matches('/').to_owned(),
        }
    }
}

/// `tenantry db connect`.
pub(super) async fn connect(context: &Context, args: ConnectArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let mut found = context.api.get(&database::path(&db, "")?).await?;
    let login = Address::read(&found)?.with_role(args.role.into());
    found["connection_string"] = Value::String(login.text());
    database::add_kept(context, &mut found)?;
    let address = Address::read(&found)?;
    if let Some(input) = psql_input(context, &args) {
        return psql(&db, &address, input);
    }
    if !address.has_password() {
        eprintln!(
            "its password is not known here; set PGPASSWORD, or `{}` makes a new one",
            reset(&db, &address)
        );
    }
    print(context, &args, &address)
}

fn print(context: &Context, args: &ConnectArgs, address: &Address) -> Result<(), Failure> {
    if args.env {
        return output::line(&format!("DATABASE_URL='{}'", address.text()));
    }
    if context.format == Format::Json {
        return output::json(&json!({
            "host": address.part("host"),
            "port": address.0.port().unwrap_or(5432),
            "database": address.part("database"),
            "user": address.part("user"),
            "connection_string": address.text(),
        }));
    }
    if context.quiet || context.format != Format::Table {
        return output::line(&address.text());
    }
    output::pairs(&[
        ("Host", address.part("host")),
        ("Port", address.part("port")),
        ("Database", address.part("database")),
        ("User", address.part("user")),
        ("Connection string", address.text()),
        ("psql", format!("psql '{}'", address.text())),
    ])
}

/// What psql shall run.
enum Input<'a> {
    Commands(&'a [String]),
    File(&'a Path),
    Stdin,
}

fn psql_input<'a>(context: &Context, args: &'a ConnectArgs) -> Option<Input<'a>> {
    if !args.command.is_empty() {
        return Some(Input::Commands(&args.command));
    }
    if let Some(file) = &args.file {
        return Some(Input::File(file));
    }
    // Who asks for the address in one form or another, often `$(…)` inside a script that is itself on
    // standard input, does not want the rest of that script run as SQL.
    let asks_for_address = args.env || context.quiet || context.format != Format::Table;
    (!asks_for_address && stdin_is_given()).then_some(Input::Stdin)
}

/// Whether somebody redirected standard input to us: `< file` or a pipe. What a CI runner or a
/// service manager leaves there (`/dev/null`, a closed descriptor, a socket) asks for nothing.
fn stdin_is_given() -> bool {
    if std::io::stdin().is_terminal() {
        return false;
    }
    std::fs::metadata("/dev/stdin").is_ok_and(|stdin| {
        let kind = stdin.file_type();
        kind.is_file() || kind.is_fifo()
    })
}

/// What makes a new password for the role of `address`, and for no other.
fn reset(db: &str, address: &Address) -> String {
    match address.0.username().split_once('.') {
        Some((_, role)) if role != model::Role::Admin.as_str() => {
            format!("tenantry db reset-password {db} --role {role}")
        }
        _ => format!("tenantry db reset-password {db}"),
    }
}

/// Runs psql to its end. Statements stop at the first error.
fn psql(db: &str, address: &Address, input: Input<'_>) -> Result<(), Failure> {
    let password = address
        .password()
        .or_else(|| std::env::var("PGPASSWORD").ok())
        .ok_or_else(|| {
            Failure::new(
                Exit::NotAllowed,
                format!("the password of '{db}' is not known here"),
                format!(
                    "set PGPASSWORD, or `{}` makes a new one",
                    reset(db, address)
                ),
            )
        })?;
    let mut arguments: Vec<OsString> = [
        "--no-psqlrc",
        "--set",
        "ON_ERROR_STOP=1",
        "--no-password",
        "--dbname",
    ]
    .map(OsString::from)
    .to_vec();
    arguments.push(address.without_password().text().into());
    match input {
        Input::Commands(commands) => {
            for command in commands {
                arguments.extend(["--command".into(), command.into()]);
            }
        }
        Input::File(file) => arguments.extend(["--file".into(), file.into()]),
        Input::Stdin => arguments.extend(["--file".into(), "-".into()]),
    }
    let mut psql = Command::new("psql");
    // In the environment, where only this user can read it; a command line is read by all.
    psql.args(arguments).env("PGPASSWORD", password);
    if !matches!(input, Input::Stdin) {
        psql.stdin(Stdio::null());
    }
    let status = psql.status().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(
            Exit::Machine,
            "psql is not installed",
            "install it (Debian, Ubuntu: apt install postgresql-client), or use `tenantry db sql`",
        ),
        _ => anyhow::Error::new(error).context("run psql").into(),
    })?;
    match status.code() {
        Some(0) => Ok(()),
        // psql's own: the connection was lost or never made.
        Some(2) => Err(Failure::Told(Exit::Unavailable)),
        _ => Err(Failure::Told(Exit::Sql)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "postgresql://abcdefghijkl.admin:s%23cret@127.0.0.1:5433/postgres?sslmode=require";

    #[test]
    fn a_connection_string_loses_and_regains_its_password() {
        let address = Address::parse(TEXT).unwrap();
        assert_eq!(address.password().as_deref(), Some("s#cret"));
        let bare = address.without_password();
        assert_eq!(
            bare.text(),
            "postgresql://abcdefghijkl.admin@127.0.0.1:5433/postgres?sslmode=require"
        );
        assert!(!bare.has_password());
        assert_eq!(bare.with_password_of(TEXT).unwrap().text(), TEXT);
    }

    #[test]
    fn a_text_that_is_none_is_refused_without_showing_it() {
        for text in ["", "hello", "https://h/x"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
