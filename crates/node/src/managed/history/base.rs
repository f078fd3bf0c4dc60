//! Base backups: copies of the cluster from which, with the log, any later moment can be recovered.
//!
//! PostgreSQL's manual, "Making a base backup using the low level API". A base is `base/<when finished>/` with
//! `data/`, `backup_label` and `facts`; it has that name when all of it is on the disk, and is `base/new` before.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    copy::{self, Earlier, Wanted, blocking},
    trim::Base,
    wal::Segment,
};
use crate::{Node, NodeError, handle::MAINTENANCE_DATABASE};

const STEP: &str = "take a base backup";
/// Bytes a second that are copied where blocks cannot be shared: a disk has most of its time left.
const PACE: u64 = 64 << 20;
const UNFINISHED: &str = "new";
/// What is being removed.
const GONE: &str = "gone";
const FACTS: &str = "facts";
pub(super) const LABEL: &str = "backup_label";

/// Why there is no new base.
#[derive(Debug, thiserror::Error)]
pub(super) enum BaseError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the files of a base backup")]
    Io(#[from] io::Error),
}

/// Directory of a base.
pub(super) fn dir(bases: &Path, name: &str) -> PathBuf {
    bases.join(name)
}

/// What an interrupted one left is removed. Blocks.
pub(super) fn clean(bases: &Path) -> io::Result<()> {
    remove_dir(&bases.join(UNFINISHED))?;
    remove_dir(&bases.join(GONE))
}

pub(super) fn remove(bases: &Path, name: &str) -> io::Result<()> {
    // First it is none any more: what a crash leaves of it is not taken for one.
    let gone = bases.join(GONE);
    remove_dir(&gone)?;
    match fs::rename(dir(bases, name), &gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => remove_dir(&gone),
    }
}

pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// All of them, the oldest first. Blocks.
pub(super) fn list(bases: &Path) -> io::Result<Vec<Base>> {
    let mut found: Vec<Base> = fs::read_dir(bases)?
        .flatten()
        .filter_map(|entry| read(bases, entry.file_name().to_str()?))
        .collect();
    found.sort_unstable_by_key(|base| base.finished);
    Ok(found)
}

fn facts(bases: &Path, name: &str) -> Option<Vec<(String, String)>> {
    let text = fs::read_to_string(dir(bases, name).join(FACTS)).ok()?;
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.to_owned()))
    };
    text.lines().map(pair).collect()
}

fn read(bases: &Path, name: &str) -> Option<Base> {
    let finished = time(name)?;
    let facts = facts(bases, name)?;
    let value = |key: &str| {
        facts
            .iter()
            .find(|(own, _)| own == key)
            .map(|(_, value)| value)
    };
    Some(Base {
        name: name.to_owned(),
        start: Segment::parse(value("start")?)?,
        begun: time(value("begun")?)?,
        finished,
    })
}

/// Databases that were there when it was begun, by name.
pub(super) fn databases(bases: &Path, name: &str) -> HashMap<String, u32> {
    let facts = facts(bases, name).unwrap_or_default();
    let of = |(key, value): (String, String)| Some((value, key.parse().ok()?));
    facts.into_iter().filter_map(of).collect()
}

/// Which server it was made of.
pub(super) fn system(bases: &Path, name: &str) -> Option<String> {
    let facts = facts(bases, name)?;
    facts
        .into_iter()
        .find(|(key, _)| key == "system")
        .map(|(_, value)| value)
}

fn time(micros: &str) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros.parse().ok()?))
}

pub(super) fn micros(time: SystemTime) -> u64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// How a base would be copied now.
pub(super) fn wanted(cluster: &Path, bases: &Path, newest: Option<&Base>) -> Wanted {
    Wanted {
        from: cluster.to_owned(),
        to: bases.join(UNFINISHED).join("data"),
        earlier: newest.map(|base| Earlier {
            data: dir(bases, &base.name).join("data"),
            begun: base.begun,
        }),
        hollow: std::collections::HashSet::new(),
        owner: None,
    }
}

impl Node {
    /// Copies the cluster while it is in use. `is_fast`: with a checkpoint at once, instead of one that takes
    /// its time. Dropped, it leaves an unfinished one.
    pub(super) async fn take_base(
        &self,
        bases: &Path,
        wanted: Wanted,
        is_fast: bool,
    ) -> Result<Base, BaseError> {
        let begun = SystemTime::now();
        let session = self.connect(STEP, MAINTENANCE_DATABASE).await?;
        let ask = async |sql: &str| self.rows(&session, STEP, sql, &[]).await;
        // A checkpoint that takes its time takes minutes.
        session
            .batch_execute("SET statement_timeout = 0")
            .await
            .map_err(|error| self.error(STEP, error))?;
        let elsewhere =
            ask("SELECT spcname FROM pg_tablespace WHERE oid NOT IN (1663, 1664)").await?;
        if !elsewhere.is_empty() {
            return Err(BaseError::Node(NodeError::Conflict {
                step: STEP,
                what: "there is a tablespace outside the data directory, which is not copied"
                    .to_owned(),
            }));
        }
        let unfinished = bases.join(UNFINISHED);
        let made = unfinished.clone();
        blocking(move || {
            remove_dir(&made)?;
            copy::make_dir(&made, None)
        })
        .await?;
        let system = ask("SELECT system_identifier::text FROM pg_control_system()").await?;
        let system: String = system.first().map(|row| row.get(0)).unwrap_or_default();
        let databases = ask("SELECT oid, datname::text FROM pg_database").await?;
        ask(&format!("SELECT pg_backup_start('tenantry', {is_fast})")).await?;
        let copied = copy::copy(wanted, PACE, ()).await?;
        let rows = ask("SELECT labelfile FROM pg_backup_stop(false)").await?;
        let label: String = rows.first().map(|row| row.get(0)).unwrap_or_default();
        let finished = SystemTime::now();
        let start =
            start_of(&label).ok_or_else(|| io::Error::other("a backup label without a segment"))?;
        let mut facts = format!(
            "start {}\nbegun {}\nsystem {system}\n",
            start.as_str(),
            micros(begun)
        );
        for row in databases {
            let (oid, name): (u32, &str) = (row.get(0), row.get(1));
            facts.push_str(&format!("{oid} {name}\n"));
        }
        let base = Base {
            name: format!("{:016}", micros(finished)),
            start,
            begun,
            finished,
        };
        let (to, bases) = (dir(bases, &base.name), bases.to_owned());
        blocking(move || {
            let write = |name: &str, text: &str| {
                copy::make(&unfinished.join(name), None)?.write_all(text.as_bytes())
            };
            write(LABEL, &label)?;
            write(FACTS, &facts)?;
            // All of it, in one call instead of one for each file.
            rustix::fs::syncfs(File::open(&unfinished)?)?;
            fs::rename(&unfinished, &to)?;
            File::open(&bases)?.sync_all()
        })
        .await?;
        tracing::info!(
            files = copied.files,
            copied_bytes = copied.copied_bytes,
            shared_bytes = copied.shared_bytes,
            "took a base backup of the node"
        );
        Ok(base)
    }
}

/// `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)`
fn start_of(label: &str) -> Option<Segment> {
    let line = label
        .lines()
        .find(|line| line.starts_with("START WAL LOCATION"))?;
    let (_, rest) = line.split_once("(file ")?;
    Segment::parse(rest.strip_suffix(')')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_where_the_log_begins() {
        let label = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2\n";
        assert_eq!(start_of(label), Segment::parse("000000010000000000000002"));
        assert_eq!(start_of("nothing"), None);
    }

    #[test]
    fn only_what_was_finished_is_a_base() {
        let root = scratch::Scratch::new();
        for name in [
            "new",
            "0000000000000200",
            "0000000000000100",
            "0000000000000300",
        ] {
            fs::create_dir(root.join(name)).unwrap();
            let facts = "start 000000010000000000000002\nbegun 50\nsystem 7\n16384 x_a\n";
            if name != "0000000000000300" {
                fs::write(root.join(name).join(FACTS), facts).unwrap();
            }
        }
        let names = || -> Vec<String> {
            list(root.path())
                .unwrap()
                .into_iter()
                .map(|base| base.name)
                .collect()
        };
        assert_eq!(names(), ["0000000000000100", "0000000000000200"]);
        assert_eq!(
            databases(root.path(), "0000000000000100").get("x_a"),
            Some(&16384)
        );
        remove(root.path(), "0000000000000100").unwrap();
        remove(root.path(), "0000000000000100").unwrap();
        clean(root.path()).unwrap();
        assert_eq!(names(), ["0000000000000200"]);
    }
}
