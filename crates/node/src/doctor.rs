//! Facts about this machine that decide how well a node works on it.

use std::path::{Path, PathBuf};

use crate::find::{FindError, Installation};

/// What was found. Printed by the command line.
#[derive(Debug)]
pub struct Facts {
    /// PostgreSQL's programs, or where they were looked for.
    pub postgres: Result<Installation, FindError>,
    /// Where the data lies or would lie.
    pub data_dir: PathBuf,
    /// Whether files there can share blocks. `Err` says why nobody can tell.
    pub reflink: Result<bool, String>,
    /// Open files this process may have: now, and at most.
    pub open_files: (u64, u64),
    /// Free bytes for an unprivileged user, and size of the file system.
    pub disk: Option<(u64, u64)>,
    /// Memory of the machine or of the container, whichever is less, in bytes.
    pub memory: u64,
}

/// Looks. Creates nothing but one short-lived file pair for the reflink probe.
pub async fn facts(_data_dir: &Path, _bin: Option<&Path>) -> Facts {
    todo!()
}
