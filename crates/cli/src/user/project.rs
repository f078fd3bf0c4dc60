//! Whose a project is: `claim`, `adopt`, and the operator's `claim-code`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    exit::{Exit, Failure},
    output::{self, Format},
    user::{
        Context,
        database::field,
        token::{credential_id, said, table},
    },
};

/// Databases in one request.
const ADOPT_MAX: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct ClaimArgs {
    /// The code that the operator gave out.
    pub(crate) code: String,
}

#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// Names or ids of databases of the anonymous project; all of them when none is named.
    #[arg(value_name = "DB")]
    pub(crate) dbs: Vec<String>,
    /// Make new passwords; all that opened the databases before ends.
    #[arg(long)]
    pub(crate) reissue_secrets: bool,
    /// Say what would move, and move nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Codes with which anonymous projects become somebody's.
#[derive(Debug, Subcommand)]
pub(crate) enum ClaimCodeCommand {
    /// Make a code for one claim. It is printed once.
    Create(CreateCodeArgs),
    /// List codes, and the projects that used them.
    List,
    /// Take back a code that nobody has used.
    Revoke(RevokeCodeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateCodeArgs {
    /// Whose it is.
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Days until it can no longer be used, 1 to 3,650.
    #[arg(long, value_name = "DAYS", default_value = "7")]
    pub(crate) expires_in_days: u32,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeCodeArgs {
    /// Id of the code, as `claim-code list` shows it.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// `tenantry claim`.
pub(super) async fn claim(context: &Context, args: ClaimArgs) -> Result<(), Failure> {
    let me = context
        .api
        .post("/customer/claim", &json!({ "code": args.code }))
        .await?;
    said(
        context,
        &me,
        &format!(
            "the project {} is claimed and has no limit of databases; its key is kept as before",
            field(&me, "id")
        ),
    )
}

/// `tenantry adopt`.
pub(super) async fn adopt(context: &Context, args: AdoptArgs) -> Result<(), Failure> {
    let api = &context.api;
    let kept = api.home().server(api.url())?.anonymous;
    let (Some(kept), true) = (kept, api.has_given_key()) else {
        return Err(Failure::new(
            Exit::NotAllowed,
            "adopting needs the anonymous project that is kept here and the token of another one",
            "set TENANTRY_API_KEY to a token of the project that is to have the databases",
        ));
    };
    let whose = json!({
        "anonymous_customer_id": kept.anonymous_id,
        "anonymous_secret": kept.anonymous_secret,
    });
    const PATH: &str = "/customer/adopt-anonymous-databases";
    let preflight = api.post(&format!("{PATH}/preflight"), &whose).await?;
    let chosen = choose(&preflight, &args.dbs)?;
    if args.dry_run {
        if context.format == Format::Json {
            return output::json(&preflight);
        }
        let rows = chosen.into_iter().cloned().collect();
        return table(context, rows, &["id", "name", "state"]);
    }
    let mut moved = Vec::new();
    for databases in chosen.chunks(ADOPT_MAX) {
        let ids: Vec<&str> = databases.iter().map(|db| field(db, "id")).collect();
        let mut body = whose.clone();
        body["database_ids"] = json!(ids);
        body["reissue_secrets"] = json!(args.reissue_secrets);
        let answer = api.post(PATH, &body).await?;
        moved.extend(answer["databases"].as_array().cloned().unwrap_or_default());
    }
    if args.reissue_secrets {
        for database in &moved {
            super::database::keep(context, database)?;
        }
    }
    if context.format != Format::Json && !context.quiet {
        eprintln!("{} databases belong to the other project now", moved.len());
    }
    table(context, moved, &["id", "name", "state"])
}

/// The databases that were named, by name or id, or all.
fn choose<'a>(preflight: &'a Value, named: &[String]) -> Result<Vec<&'a Value>, Failure> {
    let all: Vec<&Value> = preflight["databases"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    if named.is_empty() {
        return Ok(all);
    }
    let find = |name: &String| {
        let is = |db: &&&Value| [field(db, "id"), field(db, "name")].contains(&name.as_str());
        all.iter().find(is).copied().ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                format!(
                    "the anonymous project has no database '{}'",
                    name.escape_default()
                ),
                "`tenantry adopt --dry-run` lists them",
            )
        })
    };
    named.iter().map(find).collect()
}

/// `tenantry claim-code`.
pub(super) async fn claim_code(
    context: &Context,
    command: ClaimCodeCommand,
) -> Result<(), Failure> {
    const PATH: &str = "/operator/claim-codes";
    match command {
        ClaimCodeCommand::Create(args) => {
            let body = json!({ "label": args.label, "expires_in_days": args.expires_in_days });
            let made = context.api.post(PATH, &body).await?;
            if context.format == Format::Json {
                return output::json(&made);
            }
            if !context.quiet {
                eprintln!(
                    "whoever has this code until {} claims one project with `tenantry claim`",
                    field(&made, "expires_at")
                );
            }
            output::line(field(&made, "code"))
        }
        ClaimCodeCommand::List => {
            let codes = context.api.list(PATH).await?;
            let columns = [
                "id",
                "label",
                "created_at",
                "expires_at",
                "used_at",
                "project_id",
            ];
            table(context, codes, &columns)
        }
        ClaimCodeCommand::Revoke(args) => {
            let path = format!("{PATH}/{}", credential_id(&args.id)?);
            let answer = context.api.delete(&path).await?;
            said(context, &answer, &format!("revoked {}", args.id))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_chosen_by_name_or_id_or_all() {
        let preflight = json!({ "databases": [
            { "id": "abcdefghijkl", "name": "a" }, { "id": "bbcdefghijkl", "name": "b" },
        ]});
        let names = |named: &[&str]| {
            let named: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
            let found = choose(&preflight, &named).ok()?;
            Some(found.iter().map(|db| field(db, "name")).collect::<String>())
        };
        assert_eq!(names(&[]).as_deref(), Some("ab"));
        assert_eq!(names(&["bbcdefghijkl"]).as_deref(), Some("b"));
        assert_eq!(names(&["b", "a"]).as_deref(), Some("ba"));
        assert_eq!(names(&["c"]), None);
    }
}
