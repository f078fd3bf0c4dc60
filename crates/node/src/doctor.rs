//! Facts about this machine that decide how well a node works on it.

use std::path::{Path, PathBuf};

use crate::{
    find::{FindError, Installation, find},
    managed::{ELSEWHERE, Leftover, leftovers, memory_bytes, probe_reflink},
};

/// What was found. Printed by the command line.
#[derive(Debug)]
pub struct Facts {
    /// PostgreSQL's programs, or where they were looked for.
    pub postgres: Result<Installation, FindError>,
    /// The directory that was looked at: of the cluster, or the nearest above it that exists.
    pub directory: PathBuf,
    /// Whether files there can share blocks: then copies cost almost no time and space (with
    /// PostgreSQL 18). `Err` says why nobody can tell.
    pub reflink: Result<bool, String>,
    /// Open files this process may have: now, and at most. `None`: no limit.
    pub open_files: (Option<u64>, Option<u64>),
    /// Space there, in bytes.
    pub disk: Result<Disk, String>,
    /// Memory of the machine or of the container, whichever is less, in bytes.
    pub memory_bytes: u64,
    /// Databases of data directories that were removed without them.
    pub leftovers: Vec<Leftover>,
}

/// Space of a file system, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Disk {
    /// What an unprivileged user may still write.
    pub free: u64,
    /// All of it.
    pub size: u64,
}

/// Looks. Makes nothing but one pair of small files for the reflink probe, removed at once.
pub async fn facts(data_dir: &Path, bin: Option<&Path>) -> Facts {
    let directory = nearest(data_dir);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Facts {
        postgres: find(bin).await,
        reflink: probe_reflink(&directory).map_err(|error| error.to_string()),
        open_files: (limit.current, limit.maximum),
        disk: rustix::fs::statvfs(&directory)
            .map_err(|error| error.to_string())
            .map(|found| Disk {
                free: found.f_bavail.saturating_mul(found.f_frsize),
                size: found.f_blocks.saturating_mul(found.f_frsize),
            }),
        memory_bytes: memory_bytes(),
        leftovers: leftovers(Path::new(ELSEWHERE)),
        directory,
    }
}

/// Where the cluster lies or would lie.
fn nearest(data_dir: &Path) -> PathBuf {
    let pointed = std::fs::read_to_string(data_dir.join("postgres.base"))
        .map(|text| PathBuf::from(text.trim_end_matches('\n')))
        .ok();
    let wanted = pointed.unwrap_or_else(|| data_dir.join("postgres"));
    let absolute = std::path::absolute(&wanted).unwrap_or(wanted);
    absolute
        .ancestors()
        .find(|dir| dir.is_dir())
        .unwrap_or(Path::new("/"))
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn facts_are_found_before_there_is_a_data_directory() {
        let parent = std::env::temp_dir();
        let facts = facts(
            &parent.join("not/made/yet"),
            Some(Path::new("/nonexistent")),
        )
        .await;
        assert_eq!(facts.directory, parent);
        assert!(facts.postgres.is_err() && facts.reflink.is_ok());
        assert!(
            facts
                .disk
                .is_ok_and(|disk| disk.size >= disk.free && disk.size > 0)
        );
    }
}
