//! Finding the programs of PostgreSQL.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::Command;

/// Majors that are known to work.
pub const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

/// PostgreSQL's programs on this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Installation {
    /// Directory with `postgres` and `initdb`.
    pub bin: PathBuf,
    /// 15 to 18.
    pub major: u32,
    /// As `postgres --version` says, for example `18.6`.
    pub version: String,
}

/// No PostgreSQL that can be used. Prints as one line; who tells it tells the places, too.
#[derive(Clone, Debug)]
pub struct FindError {
    /// Where it was looked for and what was wrong there.
    pub looked: Vec<(PathBuf, String)>,
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no PostgreSQL 15 to 18 was found")
    }
}

/// What an operator does about it.
pub const INSTALL: &str = "install one (Debian, Ubuntu: `apt install postgresql`, after setting \
    `create_main_cluster = false` in /etc/postgresql-common/createcluster.conf, or it starts a server of \
    its own), name the directory of its programs with --pg-bin, or use a server that runs already with \
    --attach";

impl std::error::Error for FindError {}

/// How long `postgres --version` may take. It reads one file.
const ASK_MAX: Duration = Duration::from_secs(10);
/// Where Debian and Ubuntu keep all majors side by side.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Finds PostgreSQL.
///
/// A place that is named (`explicit`, from `--pg-bin`; then the environment's `TENANTRY_PG_BIN`) is the only one
/// looked at. Otherwise: the directories of `PATH` and Debian's, the highest major first, `PATH`
/// first among equals.
///
/// # Errors
///
/// [`FindError`], with every place.
pub async fn find(explicit: Option<&Path>) -> Result<Installation, FindError> {
    let named = explicit.map(Path::to_owned).or_else(|| {
        std::env::var_os("TENANTRY_PG_BIN")
            .filter(|v| !v.is_empty())
            .map(Into::into)
    });
    let places = match named {
        Some(place) => vec![place],
        None => usual_places(),
    };
    let mut looked = Vec::new();
    let mut best: Option<Installation> = None;
    for place in places {
        match ask(&place).await {
            Ok(found) if best.as_ref().is_none_or(|best| found.major > best.major) => {
                best = Some(found);
            }
            Ok(_) => {}
            Err(why) => looked.push((place, why)),
        }
    }
    best.ok_or(FindError { looked })
}

pub(crate) fn usual_places() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .collect();
    for major in MAJORS.rev() {
        places.push(Path::new(DEBIAN).join(major.to_string()).join("bin"));
    }
    let mut seen = std::collections::HashSet::new();
    places.retain(|place| seen.insert(place.clone()));
    places
}

/// The major version of a program of PostgreSQL's that is there.
pub(crate) async fn major_of(program: &Path, name: &str) -> Option<u32> {
    if !program.is_file() {
        return None;
    }
    let told = version_of(program).await.ok()?;
    let (_, major) = parse_version(name, &told)?;
    Some(major)
}

/// What it prints when asked for its version.
async fn version_of(program: &Path) -> Result<String, String> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(ASK_MAX, command.output()).await {
        Ok(Ok(output)) => Ok(format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
        Ok(Err(error)) => Err(format!("{name} cannot be run: {error}")),
        Err(_) => Err(format!("{name} --version does not answer")),
    }
}

async fn ask(place: &Path) -> Result<Installation, String> {
    for program in ["postgres", "initdb"] {
        if !place.join(program).is_file() {
            return Err(format!("no {program} there"));
        }
    }
    let told = version_of(&place.join("postgres")).await?;
    let Some((version, major)) = parse_version("postgres", &told) else {
        return Err(format!("postgres --version says {:?}", told.trim()));
    };
    if !MAJORS.contains(&major) {
        return Err(format!("PostgreSQL {version} is not supported"));
    }
    // A link to `postgres` alone leads to where its other programs are, `pg_dump` among them.
    let real = place.join("postgres").canonicalize();
    let real = real.map_err(|error| error.to_string())?;
    let bin = match real.parent() {
        Some(dir) if dir.join("initdb").is_file() => dir.to_owned(),
        _ => place.canonicalize().map_err(|error| error.to_string())?,
    };
    Ok(Installation {
        bin,
        major,
        version,
    })
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` is 15.18 of major 15.
fn parse_version(name: &str, text: &str) -> Option<(String, u32)> {
    let version = text
        .strip_prefix(name)?
        .strip_prefix(" (PostgreSQL) ")?
        .split_whitespace()
        .next()?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((version.to_owned(), digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, want) in [
            (
                "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",
                Some(("15.18", 15)),
            ),
            ("postgres (PostgreSQL) 18beta1\n", Some(("18beta1", 18))),
            ("postgres (EnterpriseDB) 15.1\n", None),
            ("", None),
        ] {
            let got = parse_version("postgres", text);
            assert_eq!(got.as_ref().map(|(v, m)| (v.as_str(), *m)), want, "{text}");
        }
    }

    #[tokio::test]
    async fn links_are_followed_to_all_programs() {
        let found = find(None).await.unwrap();
        let links = scratch::Scratch::new();
        for program in ["postgres", "initdb"] {
            std::os::unix::fs::symlink(found.bin.join(program), links.path().join(program))
                .unwrap();
        }
        assert_eq!(find(Some(links.path())).await.unwrap(), found);
    }

    #[tokio::test]
    async fn a_named_place_without_it_is_the_only_one_looked_at() {
        let error = find(Some(Path::new("/nonexistent"))).await.unwrap_err();
        let looked = [("/nonexistent".into(), "no postgres there".to_owned())];
        assert_eq!(error.looked, looked);
    }
}
