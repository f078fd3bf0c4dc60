//! The file that `sql-issuers` names: whose tokens are believed for SQL over HTTP.
//!
//! Owns: its form. Does not own: what a token has to be (`control`).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use control::{Issuer, KeySource};
use model::ProjectId;
use serde::Deserialize;

/// Issuers in one file. Each is asked for keys of its own.
const ISSUERS_MAX: usize = 16;
/// Projects of one issuer. They are looked through at every request.
const PROJECTS_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Issuers {
    issuer: Vec<One>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct One {
    name: String,
    audience: String,
    jwks_url: Option<String>,
    jwks_file: Option<PathBuf>,
    tenant_claim: Option<String>,
    scope_claim: Option<String>,
    #[serde(default)]
    admin: bool,
    projects: Option<Vec<String>>,
}

/// Reads it.
///
/// # Errors
///
/// What is wrong with it, and where.
pub(crate) fn read(path: &str) -> Result<Vec<Issuer>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let base = Path::new(path).parent().unwrap_or(Path::new("."));
    parse(&text, base).map_err(|error| format!("{path}: {error}"))
}

/// Names of files are relative to `base`.
fn parse(text: &str, base: &Path) -> Result<Vec<Issuer>, String> {
    let Issuers { issuer } = toml::from_str(text).map_err(|error| error.to_string())?;
    if issuer.is_empty() || issuer.len() > ISSUERS_MAX {
        return Err(format!("it names 1 to {ISSUERS_MAX} issuers"));
    }
    let names: BTreeSet<_> = issuer.iter().map(|one| &one.name).collect();
    if names.len() < issuer.len() {
        return Err("two issuers have the same name".to_owned());
    }
    issuer
        .into_iter()
        .map(|one| {
            let name = one.name.clone();
            read_one(one, base).map_err(|error| format!("issuer '{name}': {error}"))
        })
        .collect()
}

fn read_one(one: One, base: &Path) -> Result<Issuer, String> {
    let keys = match (one.jwks_url, one.jwks_file) {
        (Some(url), None) => KeySource::url(&url)?,
        (None, Some(file)) => {
            let file = base.join(file);
            fs::File::open(&file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            KeySource::File(file)
        }
        _ => return Err("one of jwks-url and jwks-file is needed".to_owned()),
    };
    let claim = |given: Option<String>, usual: &str| given.unwrap_or_else(|| usual.to_owned());
    let issuer = Issuer {
        name: one.name,
        audience: one.audience,
        keys,
        tenant_claim: claim(one.tenant_claim, "tenant"),
        scope_claim: claim(one.scope_claim, "scope"),
        admin: one.admin,
        projects: one.projects.map(read_projects).transpose()?,
    };
    let texts = [
        &issuer.name,
        &issuer.audience,
        &issuer.tenant_claim,
        &issuer.scope_claim,
    ];
    if texts.iter().any(|text| text.is_empty()) {
        return Err("a text in it is empty".to_owned());
    }
    Ok(issuer)
}

/// An empty list is no way to say "all": that would be a mistake to notice too late.
fn read_projects(texts: Vec<String>) -> Result<Vec<ProjectId>, String> {
    if texts.is_empty() || texts.len() > PROJECTS_MAX {
        return Err(format!(
            "projects names 1 to {PROJECTS_MAX} projects; without it, the issuer is believed for all"
        ));
    }
    let read = |text: String| {
        text.parse()
            .map_err(|error| format!("project '{text}': {error}"))
    };
    texts.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_are_read_with_what_is_usual() {
        let text = "
            [[issuer]]
            name = \"https://auth.example\"
            audience = \"tenantry\"
            jwks-url = \"https://auth.example/jwks.json\"
            [[issuer]]
            name = \"mine\"
            audience = \"a\"
            jwks-url = \"http://127.0.0.1:1/\"
            tenant-claim = \"db\"
            admin = true
            projects = [\"prj_abcdefghijkl\", \"prj_bbcdefghijkl\"]";
        let issuers = parse(text, Path::new(".")).unwrap();
        assert_eq!(issuers.len(), 2);
        assert_eq!(
            (
                &*issuers[0].tenant_claim,
                &*issuers[0].scope_claim,
                issuers[0].admin
            ),
            ("tenant", "scope", false)
        );
        assert_eq!((&*issuers[1].tenant_claim, issuers[1].admin), ("db", true));
        assert_eq!(issuers[0].projects, None);
        let projects = issuers[1].projects.as_ref().unwrap();
        assert_eq!(projects[1].as_str(), "prj_bbcdefghijkl");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let one = |more: &str| format!("[[issuer]]\nname = \"a\"\naudience = \"b\"\n{more}");
        let url = "jwks-url = \"https://a.example/\"";
        assert!(parse(&one(url), Path::new(".")).is_ok());
        for wrong in [
            String::new(),
            "issuer = []".to_owned(),
            one(""),
            one("jwks-url = \"http://a.example/\""),
            one("jwks-file = \"/nowhere/keys.json\""),
            one(&format!("{url}\njwks-file = \"x\"")),
            one(&format!("{url}\nalgorithm = \"none\"")),
            one(&format!("{url}\ntenant-claim = \"\"")),
            one(&format!("{url}\nprojects = []")),
            one(&format!("{url}\nprojects = \"prj_abcdefghijkl\"")),
            one(&format!("{url}\nprojects = [\"prj_abcdefghijkl\", \"*\"]")),
            one(&format!("{url}\nproject = [\"prj_abcdefghijkl\"]")),
            format!("{}\n{}", one(url), one(url)),
            "[[issuer]]\nname = \"a\"\njwks-url = \"https://a.example/\"".to_owned(),
        ] {
            assert!(parse(&wrong, Path::new(".")).is_err(), "{wrong}");
        }
    }
}
