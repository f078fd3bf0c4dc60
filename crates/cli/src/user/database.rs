//! Databases as a whole: create, list, delete, undelete, state, password.

use std::io::{IsTerminal as _, Write as _};

use serde_json::{Value, json};

use crate::{
    args::{
        CreateArgs, DeleteArgs, ExpiresArgs, ListArgs, NamedArgs, RenameArgs, ResetArgs,
        UndeleteArgs,
    },
    exit::{Exit, Failure},
    output::{self, Format, Rows},
    user::{Context, connect::Address, sweep},
};

/// States of databases that were not deleted.
pub(super) const NOT_DELETED: &str = "CREATING,CLONING,ACTIVE,SUSPENDED,CREATE_FAILED";

/// Fields of an answer that are secret; printed when asked for, kept in [`super::home`] always.
const SECRETS: [&str; 2] = ["admin_password", "connection_string"];

/// The path of one database in the API.
///
/// # Errors
///
/// When `db` can be neither a name nor an id, so that no text of a user becomes part of a path.
pub(super) fn path(db: &str, rest: &str) -> Result<String, Failure> {
    if db.parse::<model::TenantName>().is_err() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("no database is called '{}'", db.escape_default()),
            "a name or id is made of a-z, 0-9, '_' and '-'; `tenantry list` shows them",
        ));
    }
    Ok(format!("/customer/databases/{db}{rest}"))
}

/// One field of an answer as text; empty when it is not there.
pub(super) fn field<'a>(database: &'a Value, name: &str) -> &'a str {
    database[name].as_str().unwrap_or_default()
}

/// `tenantry create`.
pub(super) async fn create(context: &Context, args: CreateArgs) -> Result<(), Failure> {
    let name = args.positional.or(args.name);
    if args.if_not_exists && name.is_none() {
        return Err(Failure::usage(
            "--if-not-exists needs a name",
            "tenantry create NAME --if-not-exists",
        ));
    }
    let mut body = json!({});
    if let Some(name) = &name {
        body["name"] = json!(name);
        body["if_not_exists"] = json!(args.if_not_exists);
    }
    if let Some(expires) = &args.expires {
        body["expires"] = json!(expires);
    }
    let mut database = context.api.post("/customer/databases", &body).await?;
    if database.get("admin_password").is_some() {
        keep(context, &database)?;
    } else {
        eprintln!("the database '{}' exists", field(&database, "name"));
        add_kept(context, &mut database)?;
    }
    let show_password = args.show_password || args.show_secrets;
    let show_address = args.show_connection_string || args.show_secrets;
    if show_address && !Address::read(&database)?.has_password() {
        eprintln!(
            "its password is not known here; `tenantry db reset-password {}` makes a new one",
            field(&database, "name")
        );
    }
    hide(&mut database, show_password, show_address)?;
    print(context, &database)
}

/// `tenantry list`.
pub(super) async fn list(context: &Context, args: &ListArgs) -> Result<(), Failure> {
    let states = if args.deleted {
        "DISABLING,DISABLED"
    } else {
        NOT_DELETED
    };
    let path = format!("/customer/databases?state={states}&all={}", args.all);
    let databases = context.api.list(&path).await?;
    if context.format == Format::Json {
        return output::json(&Value::Array(databases));
    }
    if context.quiet {
        let ids: String = databases
            .iter()
            .map(|db| format!("{}\n", field(db, "id")))
            .collect();
        return output::text(&ids);
    }
    let chosen = match &context.database {
        Some(database) => Some(database.clone()),
        None => context.api.home().default_database(context.api.url())?,
    };
    let mark = |db: &Value| {
        let is = |name| chosen.as_deref() == Some(field(db, name));
        if context.format == Format::Table && (is("name") || is("id")) {
            format!("{} *", field(db, "name"))
        } else {
            field(db, "name").to_owned()
        }
    };
    let end = if args.deleted {
        "purge_after"
    } else {
        "expires_at"
    };
    let mut columns = vec!["id", "name", "state", "created_at", end];
    columns.extend(args.all.then_some("project_id"));
    let cell = |db: &Value, name: &str| match name {
        "name" => Some(mark(db)),
        name => db[name].as_str().map(str::to_owned),
    };
    Rows {
        rows: databases
            .iter()
            .map(|db| columns.iter().map(|name| cell(db, name)).collect())
            .collect(),
        columns: columns
            .iter()
            .map(|name| match context.format {
                Format::Table => name.to_uppercase(),
                _ => (*name).to_owned(),
            })
            .collect(),
    }
    .print(context.format)
}

/// `tenantry delete`.
pub(super) async fn delete(context: &Context, args: DeleteArgs) -> Result<(), Failure> {
    if args.prefix.is_some() || args.older_than.is_some() {
        return sweep::sweep(context, &args).await;
    }
    if args.dry_run {
        return Err(Failure::usage(
            "--dry-run says nothing about one database",
            "give --prefix, --older-than or both",
        ));
    }
    // Never the chosen one: what is deleted has been named.
    let db = args
        .db
        .or_else(|| context.database.clone())
        .ok_or_else(|| {
            Failure::usage(
                "which database is to be deleted?",
                "name it: tenantry delete DB",
            )
        })?;
    let path = path(&db, "")?;
    if !args.yes {
        confirm(
            &format!("'{db}'"),
            "give --yes where nobody can be asked",
            &format!("Delete '{db}'? Type its name to confirm: "),
            &db,
        )?;
    }
    let answer = context.api.delete(&path).await?;
    match context.format {
        Format::Json => output::json(&answer),
        _ if context.quiet => Ok(()),
        _ => output::line(&format!(
            "deleted {db}; until its retention ends, `tenantry undelete` takes this back"
        )),
    }
}

/// Asks a person, who types `answer`, before `what` is deleted. There must be one.
pub(super) fn confirm(
    what: &str,
    hint: &'static str,
    question: &str,
    answer: &str,
) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            format!("deleting {what} was not confirmed"),
            hint,
        ));
    }
    eprint!("{question}");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    if line.trim() == answer {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "not deleted", ""))
}

/// `tenantry undelete`. A deleted database is best named by its id: its name may be another's now.
pub(super) async fn undelete(context: &Context, args: UndeleteArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let mut body = json!({});
    for (name, value) in [("name", args.name), ("expires", args.expires)] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    let mut database = context.api.post(&path(&db, "/undelete")?, &body).await?;
    hide(&mut database, false, false)?;
    print(context, &database)
}

/// `tenantry rename`. Where the database was chosen with `use` by its old name, it stays chosen.
pub(super) async fn rename(context: &Context, args: RenameArgs) -> Result<(), Failure> {
    let body = json!({ "name": args.name });
    let mut database = context.api.patch(&path(&args.db, "")?, &body).await?;
    context.api.home().change(context.api.url(), |server| {
        let chosen = server.default_database.as_deref() == Some(args.db.as_str());
        if chosen && args.db != field(&database, "id") {
            server.default_database = Some(args.name.clone());
        }
    })?;
    hide(&mut database, false, false)?;
    print(context, &database)
}

/// `tenantry db expires`.
pub(super) async fn expires(context: &Context, args: ExpiresArgs) -> Result<(), Failure> {
    let body = json!({ "expires": args.when });
    let mut database = context.api.patch(&path(&args.db, "")?, &body).await?;
    hide(&mut database, false, false)?;
    print(context, &database)
}

/// `tenantry suspend`, `tenantry resume`.
pub(super) async fn act(context: &Context, args: NamedArgs, what: &str) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let path = path(&db, &format!("/{what}"))?;
    let mut database = context.api.post(&path, &json!({})).await?;
    hide(&mut database, false, false)?;
    // Only resuming makes anything.
    refuse_failed("database", &database)?;
    print(context, &database)
}

/// One that could not be made is no success, whatever the status of the answer.
pub(super) fn refuse_failed(what: &str, database: &Value) -> Result<(), Failure> {
    if field(database, "state") != "CREATE_FAILED" {
        return Ok(());
    }
    let reason = field(database, "state_reason");
    Err(Failure::new(
        Exit::Failed,
        format!("the {what} could not be made: {reason}"),
        format!("its id is {}", field(database, "id")),
    ))
}

/// `tenantry db status`.
pub(super) async fn status(context: &Context, args: NamedArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let mut database = context.api.get(&path(&db, "")?).await?;
    hide(&mut database, false, true)?;
    if context.quiet {
        return output::line(field(&database, "state"));
    }
    print(context, &database)
}

/// `tenantry db reset-password`.
pub(super) async fn reset_password(context: &Context, args: ResetArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let mut answer = context
        .api
        .post(
            &path(&db, "/reset-password")?,
            &json!({
                "role": model::Role::from(args.role).as_str(),
                "grace_seconds": args.grace.as_secs(),
            }),
        )
        .await?;
    keep(context, &answer)?;
    // Whoever asks in JSON is a program that wants the secret; a terminal is looked at by many.
    let show = args.show_secrets || context.format == Format::Json;
    if context.quiet && show {
        return output::line(field(&answer, "connection_string"));
    }
    hide(&mut answer, show, show)?;
    if !show {
        eprintln!(
            "the new password is kept in {}; `tenantry db connect {db}` uses it, --show-secrets prints it",
            context.api.home().file().display()
        );
    }
    print(context, &answer)
}

/// `tenantry db credentials`: asks, and tells what the server says.
pub(super) async fn credentials(context: &Context, args: NamedArgs) -> Result<(), Failure> {
    let db = context.database(args.db.as_deref())?;
    let answer = context.api.get(&path(&db, "/credentials")?).await?;
    output::json(&answer)
}

/// Keeps the connection string of an answer, so that `db connect` can use it.
pub(super) fn keep(context: &Context, database: &Value) -> Result<(), Failure> {
    let address = Address::read(database)?;
    if !address.has_password() {
        return Ok(());
    }
    context.api.home().change(context.api.url(), |server| {
        server
            .connection_strings
            .insert(address.user(), address.text());
    })
}

/// Gives an answer without password the connection string that was kept for its user, when one was.
pub(super) fn add_kept(context: &Context, database: &mut Value) -> Result<(), Failure> {
    let server = context.api.home().server(context.api.url())?;
    let address = Address::read(database)?;
    if let Some(kept) = server.connection_strings.get(&address.user()) {
        // The server may have moved to another address since; only the password is taken.
        database["connection_string"] = Value::String(address.with_password_of(kept)?.text());
    }
    Ok(())
}

/// Which secrets were asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) password: bool,
    pub(super) address: bool,
}

/// Prints one database, without the secrets that were not asked for.
pub(super) fn show(context: &Context, mut database: Value, shown: Shown) -> Result<(), Failure> {
    hide(&mut database, shown.password, shown.address)?;
    print(context, &database)
}

/// Removes the secrets that were not asked for. An address without its password is no secret.
pub(super) fn hide(database: &mut Value, password: bool, address: bool) -> Result<(), Failure> {
    if !address && database["connection_string"].is_string() {
        database["connection_string"] =
            Value::String(Address::read(database)?.without_password().text());
    }
    if !password && let Some(fields) = database.as_object_mut() {
        fields.remove(SECRETS[0]);
    }
    Ok(())
}

/// One database: its id for `--quiet`, else what is known about it.
fn print(context: &Context, database: &Value) -> Result<(), Failure> {
    if context.format == Format::Json {
        return output::json(database);
    }
    if context.quiet {
        return output::line(field(database, "id"));
    }
    let mut database = database.clone();
    if let Some(fields) = branch_fields(&database) {
        for (name, value) in fields {
            database[name] = Value::String(value);
        }
    }
    let database = &database;
    let (user, password) = login_titles(database);
    let shown: Vec<(&str, &str)> = [
        ("id", "ID"),
        ("name", "Name"),
        ("state", "State"),
        ("state_reason", "Reason"),
        ("created_at", "Created"),
        ("expires_at", "Expires"),
        ("parent_database_id", "Parent"),
        ("branch_path", "Copied by"),
        ("branch_size_bytes", "Size at the copy"),
        ("branch_held_ms", "Parent held"),
        ("branch_copy_ms", "Copy took"),
        ("admin_user", user),
        ("admin_password", password),
        ("connection_string", "Connection string"),
    ]
    .into_iter()
    .filter(|(name, _)| !field(database, name).is_empty())
    .collect();
    if context.format == Format::Table {
        let pairs: Vec<_> = shown
            .into_iter()
            .map(|(name, title)| (title, field(database, name).to_owned()))
            .collect();
        return output::pairs(&pairs);
    }
    Rows {
        columns: shown.iter().map(|(name, _)| (*name).to_owned()).collect(),
        rows: vec![
            shown
                .iter()
                .map(|(name, _)| Some(field(database, name).to_owned()))
                .collect(),
        ],
    }
    .print(context.format)
}

/// What the user and the password in an answer are called: those of the role `admin`, but after the password
/// of another role was reset.
fn login_titles(database: &Value) -> (&'static str, &'static str) {
    match field(database, "admin_user").rsplit_once('.') {
        Some((_, "write")) => ("Write user", "Write password"),
        Some((_, "read")) => ("Read user", "Read password"),
        _ => ("Admin user", "Admin password"),
    }
}

/// What is known of a branch, as fields of its own.
fn branch_fields(database: &Value) -> Option<Vec<(&'static str, String)>> {
    let branch = database["branch"].as_object()?;
    let mut fields = Vec::new();
    if let Some(path) = branch["path"].as_str() {
        let why = branch.get("path_reason").and_then(Value::as_str);
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        fields.push(("branch_path", format!("{path}{why}")));
    }
    for (name, from, unit) in [
        ("branch_size_bytes", "size_bytes", "bytes"),
        ("branch_held_ms", "held_ms", "ms"),
        ("branch_copy_ms", "copy_ms", "ms"),
    ] {
        if let Some(value) = branch.get(from).and_then(Value::as_u64) {
            fields.push((name, format!("{value} {unit}")));
        }
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_user_becomes_a_path() {
        assert_eq!(
            path("my_db-1", "/sql").unwrap(),
            "/customer/databases/my_db-1/sql"
        );
        for text in ["", "..", "a/b", "a%2fb", "A", "a b", "é", "a?b"] {
            assert_eq!(path(text, "").unwrap_err().exit(), Exit::NotFound, "{text}");
        }
    }

    #[test]
    fn a_user_is_called_what_it_is() {
        for (user, title) in [
            ("abcdefghijkl.admin", "Admin user"),
            ("abcdefghijkl.write", "Write user"),
            ("abcdefghijkl.read", "Read user"),
            ("", "Admin user"),
        ] {
            assert_eq!(login_titles(&json!({ "admin_user": user })).0, title);
        }
    }

    #[test]
    fn secrets_are_shown_one_by_one() {
        let answer = json!({
            "id": "abcdefghijkl",
            "admin_password": "s3cret",
            "connection_string": "postgresql://abcdefghijkl.admin:s3cret@h:5433/postgres",
        });
        for (password, address) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut shown = answer.clone();
            hide(&mut shown, password, address).unwrap();
            assert_eq!(shown.get("admin_password").is_some(), password);
            assert_eq!(
                field(&shown, "connection_string").contains("s3cret"),
                address
            );
        }
    }
}
