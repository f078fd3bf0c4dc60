//! Who the commands are: chosen database, project, token.

use serde_json::json;

use crate::{
    args::{LogoutArgs, UseArgs},
    exit::{Exit, Failure},
    output::{self, Format},
    user::{Context, database},
};

/// `tenantry use`.
pub(super) async fn choose(context: &Context, args: UseArgs) -> Result<(), Failure> {
    let home = context.api.home();
    let Some(db) = args.db else {
        return home.change(context.api.url(), |server| server.default_database = None);
    };
    // A name that is not there is said now, not by the next command.
    let found = context.api.get(&database::path(&db, "")?).await?;
    let name = database::field(&found, "name").to_owned();
    home.change(context.api.url(), |server| {
        server.default_database = Some(name.clone());
    })?;
    if !context.quiet {
        eprintln!("commands that name no database use '{name}'");
    }
    Ok(())
}

/// `tenantry status`. Registers nothing.
///
/// # Errors
///
/// [`Exit::Unavailable`] when the server is not ready to work, after saying so.
pub(super) async fn status(context: &Context) -> Result<(), Failure> {
    let api = &context.api;
    let kept = api.home().server(api.url())?;
    let ready = api.get_public("/readyz").await;
    let me = match (&ready, api.token()?) {
        (Ok(_), Some(_)) => Some(api.get("/customer/me").await),
        _ => None,
    };
    let server = match &ready {
        Ok(_) => "ready".to_owned(),
        Err(Failure::Api(error)) => error.message.clone(),
        Err(_) => "cannot be reached".to_owned(),
    };
    let source = if api.has_given_key() {
        "TENANTRY_API_KEY".to_owned()
    } else if let Some(anonymous) = &kept.anonymous {
        format!(
            "{} in {}",
            anonymous.anonymous_id,
            api.home().file().display()
        )
    } else {
        "none; the first command registers an anonymous project".to_owned()
    };
    let project = match &me {
        Some(Ok(me)) => database::field(me, "id").to_owned(),
        Some(Err(_)) => "credentials were refused".to_owned(),
        None => "unknown".to_owned(),
    };
    if context.format == Format::Json {
        output::json(&json!({
            "api_url": api.url(),
            "server": server,
            "credentials": source,
            "project": me.as_ref().and_then(|me| me.as_ref().ok()),
            "default_database": kept.default_database,
        }))?;
    } else {
        output::pairs(&[
            ("API", api.url().to_owned()),
            ("Server", server),
            ("Credentials", source),
            ("Project", project),
            (
                "Default database",
                kept.default_database.unwrap_or_else(|| "none".into()),
            ),
        ])?;
    }
    ready?;
    me.transpose()?;
    Ok(())
}

/// `tenantry logout`. Asks no server: whether the project was claimed meanwhile makes no difference to what
/// would be lost.
pub(super) fn logout(context: &Context, args: &LogoutArgs) -> Result<(), Failure> {
    let api = &context.api;
    if let Some(kept) = api.home().server(api.url())?.anonymous
        && !args.force
    {
        return Err(Failure::new(
            Exit::Conflict,
            format!(
                "the project {} was made from here: only the key kept here gets new tokens of it",
                kept.anonymous_id
            ),
            "`tenantry logout --force` sets it aside in a file of its own",
        ));
    }
    match api.home().set_aside(api.url())? {
        Some(file) => output::line(&format!("set aside in {}", file.display())),
        None => output::line("nothing is kept for this server"),
    }
}

/// `tenantry token show`.
pub(super) fn token_show(context: &Context) -> Result<(), Failure> {
    let token = context.api.token()?.ok_or_else(|| {
        Failure::new(
            Exit::NotAllowed,
            "there is no token yet",
            "the first command that needs one registers an anonymous project; or set TENANTRY_API_KEY",
        )
    })?;
    if context.format == Format::Json {
        return output::json(&json!({ "token": token.reveal() }));
    }
    output::line(token.reveal())
}
