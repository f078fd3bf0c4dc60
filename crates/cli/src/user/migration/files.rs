//! Migrations as files: their names, their order, what they hold.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::exit::{Exit, Failure};

/// The longest name of a file: what PostgreSQL takes for a name is too short for some, and file
/// systems take no more.
const NAME_BYTES_MAX: usize = 255;
/// Digits of a time as names begin with it, `YYYYMMDDHHMMSS`.
const STAMP_DIGITS: usize = 14;
/// The first line of a migration that must not be in a transaction.
const NO_TRANSACTION: &[u8] = b"-- tenantry: no-transaction";

/// One migration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Migration {
    /// Name of its file.
    pub(super) name: String,
    pub(super) text: Vec<u8>,
    /// SHA-256 of the file, in hexadecimal.
    pub(super) checksum: String,
}

impl Migration {
    fn new(name: String, text: Vec<u8>) -> Self {
        let digest = Sha256::digest(&text);
        let checksum = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            name,
            text,
            checksum,
        }
    }

    /// Whether each of its statements is to be a transaction of its own.
    pub(super) fn is_without_transaction(&self) -> bool {
        let line = self.text.split(|byte| *byte == b'\n').next();
        line.is_some_and(|line| line.trim_ascii() == NO_TRANSACTION)
    }
}

/// The migrations in a directory, in the order in which they are applied: that of their names.
///
/// # Errors
///
/// When the directory cannot be read, or a file in it ends in `.sql` and is not named like a
/// migration: it would never be applied, and nobody would know.
pub(super) fn read(dir: &Path) -> Result<Vec<Migration>, Failure> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).map_err(|error| cannot("read", dir, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| cannot("read", dir, &error))?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".sql") || name.starts_with('.') || path.is_dir() {
            continue;
        }
        if !is_name(&name) {
            return Err(Failure::new(
                Exit::Refused,
                format!("{} is not named like a migration", path.display()),
                "migrations are named YYYYMMDDHHMMSS_name.sql; move other files elsewhere",
            ));
        }
        let text = fs::read(&path).map_err(|error| cannot("read", &path, &error))?;
        found.push(Migration::new(name, text));
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            "`tenantry migration new NAME` makes the first one; --dir names another place"
        }
        _ => "",
    };
    Failure::usage(format!("cannot {what} {}: {error}", path.display()), hint)
}

/// `20260131120000_add_users.sql`
fn is_name(name: &str) -> bool {
    let Some((stamp, rest)) = name.split_at_checked(STAMP_DIGITS) else {
        return false;
    };
    let words = rest
        .strip_prefix('_')
        .and_then(|rest| rest.strip_suffix(".sql"));
    stamp.bytes().all(|byte| byte.is_ascii_digit())
        && name.len() <= NAME_BYTES_MAX
        && words.is_some_and(|words| {
            let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
            !words.is_empty() && words.chars().all(fits)
        })
}

/// Makes an empty migration behind all others, and returns where.
///
/// # Errors
///
/// When `words` cannot be part of a name, or the file cannot be made.
pub(super) fn make(
    dir: &Path,
    words: &str,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<PathBuf, Failure> {
    let words = words.trim().replace(char::is_whitespace, "_");
    fs::create_dir_all(dir).map_err(|error| cannot("make", dir, &error))?;
    let last = read(dir)?.pop().map(|last| last.name);
    let mut moment = now;
    loop {
        let stamp = moment.format("%Y%m%d%H%M%S").to_string();
        let name = format!("{stamp}_{words}.sql");
        if !is_name(&name) {
            return Err(Failure::usage(
                format!(
                    "'{}' cannot be part of a file's name",
                    words.escape_default()
                ),
                "use letters, digits, '_' and '-'",
            ));
        }
        // Two within a second, or a clock that was wrong once.
        let last = last.as_deref().and_then(|last| last.get(..STAMP_DIGITS));
        match last {
            Some(last) if last >= stamp.as_str() => {
                let after = chrono::NaiveDateTime::parse_from_str(last, "%Y%m%d%H%M%S");
                let after = after.map_err(|_| {
                    Failure::new(
                        Exit::Refused,
                        format!("the last migration is of {last}, which is no time"),
                        "rename it",
                    )
                })?;
                moment = after.and_utc() + chrono::TimeDelta::seconds(1);
                continue;
            }
            _ => {}
        }
        let path = dir.join(name);
        fs::File::create_new(&path).map_err(|error| cannot("make", &path, &error))?;
        return Ok(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_migration_is_named_like_one() {
        for (name, is) in [
            ("20260131120000_add_users.sql", true),
            ("20260131120000_ü-1.2.sql", true),
            ("20260131120000_.sql", false),
            ("20260131120000.sql", false),
            ("2026013112000_a.sql", false),
            ("seed.sql", false),
            ("20260131120000_a b.sql", false),
            ("20260131120000_a/b.sql", false),
        ] {
            assert_eq!(is_name(name), is, "{name}");
        }
    }

    #[test]
    fn a_new_one_is_behind_all_others() {
        let dir = scratch::Scratch::new();
        let now = chrono::DateTime::parse_from_rfc3339("2026-01-31T23:59:59Z");
        let now = now.unwrap().to_utc();
        for words in ["first", "second one", "third"] {
            make(dir.path(), words, now).unwrap();
        }
        let names: Vec<String> = read(dir.path())
            .unwrap()
            .into_iter()
            .map(|m| m.name)
            .collect();
        let is = [
            "20260131235959_first.sql",
            "20260201000000_second_one.sql",
            "20260201000001_third.sql",
        ];
        assert_eq!(names, is);
        assert_eq!(
            make(dir.path(), "a/b", now).unwrap_err().exit(),
            Exit::Usage
        );
        fs::write(dir.join("seed.sql"), "").unwrap();
        assert_eq!(read(dir.path()).unwrap_err().exit(), Exit::Refused);
    }

    #[test]
    fn checksums_are_those_of_sha256sum() {
        let one = Migration::new(String::new(), b"abc".to_vec());
        assert_eq!(
            one.checksum,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn the_first_line_alone_says_that_there_is_no_transaction() {
        for (text, is) in [
            ("-- tenantry: no-transaction\nx", true),
            ("-- tenantry: no-transaction\r\nx", true),
            ("\n-- tenantry: no-transaction\nx", false),
            ("-- tenantry: no-transactions", false),
        ] {
            let one = Migration::new(String::new(), text.into());
            assert_eq!(one.is_without_transaction(), is, "{text}");
        }
    }
}
