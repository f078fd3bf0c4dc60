//! PostgreSQL's own programs on this machine: which of several versions fits.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::exit::{Exit, Failure};

/// Majors that are looked for in directories named by them.
const MAJORS: std::ops::RangeInclusive<u32> = 15..=20;

/// Which of several versions is taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// The lowest that is not below this one: a dump says nothing then that its own server would not
    /// understand.
    From(u32),
    /// The highest: it reads what all others wrote.
    Highest,
}

/// Finds the program `name`, in `named` alone when that is given.
///
/// # Errors
///
/// [`Exit::Machine`], with what to install.
pub(super) async fn find(
    name: &str,
    wanted: Wanted,
    named: Option<&Path>,
) -> Result<PathBuf, Failure> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for place in named.map_or_else(usual_places, |place| vec![place.to_owned()]) {
        let program = place.join(name);
        if program.is_file()
            && let Some(major) = major(&program).await
        {
            found.push((major, program));
        }
    }
    let best = match wanted {
        Wanted::From(least) => {
            let fit = found.iter().filter(|(major, _)| *major >= least);
            fit.min_by_key(|(major, _)| *major)
        }
        // Of equals the first, which `max_by_key` would pass over.
        Wanted::Highest => found.iter().rev().max_by_key(|(major, _)| *major),
    };
    if let Some((_, program)) = best {
        return Ok(program.clone());
    }
    let (what, package) = match wanted {
        Wanted::From(least) => (
            format!("{name} of PostgreSQL {least} or later"),
            format!("postgresql-client-{least}"),
        ),
        Wanted::Highest => (name.to_owned(), "postgresql-client".to_owned()),
    };
    let others: Vec<String> = found
        .iter()
        .map(|(major, program)| format!("{} is of {major}", program.display()))
        .collect();
    let others = if others.is_empty() {
        String::new()
    } else {
        format!(" ({})", others.join(", "))
    };
    Err(Failure::new(
        Exit::Machine,
        format!("there is no {what} here{others}"),
        format!(
            "install it (Debian, Ubuntu: apt install {package}; PostgreSQL's own packages have all \
             versions), or name the directory it is in with --pg-bin"
        ),
    ))
}

/// Directories of one version first: what stands in PATH on Debian chooses a version by itself.
fn usual_places() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let homes = ["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin"];
    let brew = [
        "/opt/homebrew/opt/postgresql@{}/bin",
        "/usr/local/opt/postgresql@{}/bin",
    ];
    let versions = homes.iter().chain(&brew).flat_map(|home| {
        MAJORS.map(move |major| PathBuf::from(home.replace("{}", &major.to_string())))
    });
    versions.chain(std::env::split_paths(&path)).collect()
}

async fn major(program: &Path) -> Option<u32> {
    let mut command = Command::new(program);
    command.arg("--version").kill_on_drop(true);
    let output = command.output().await.ok()?;
    version(&String::from_utf8_lossy(&output.stdout))
}

/// `pg_dump (PostgreSQL) 15.18 (Debian …)`
fn version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once(") ")?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_all_of_them_write_it() {
        for (text, is) in [
            (
                "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",
                Some(15),
            ),
            ("pg_restore (PostgreSQL) 18.1\n", Some(18)),
            ("pg_dump (PostgreSQL) 19beta1\n", Some(19)),
            ("something else", None),
        ] {
            assert_eq!(version(text), is, "{text}");
        }
    }
}
