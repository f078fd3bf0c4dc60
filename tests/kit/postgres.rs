//! PostgreSQL for tests: which one, and the process that a stack runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// A major version that tests run on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Postgres {
    /// The distribution's (15 on Debian 12): what most will run. With TLS.
    System,
    /// PostgreSQL 18, fetched once by `tests/tools/postgres-18`.
    V18,
}

impl Postgres {
    /// Both.
    pub const ALL: [Self; 2] = [Self::System, Self::V18];

    /// Directory of its programs.
    ///
    /// # Panics
    ///
    /// When there is none: a test on a version that is missing must not pass.
    pub fn bin(self) -> PathBuf {
        match self {
            Self::System => system().expect("PostgreSQL 15 to 18 of the distribution"),
            Self::V18 => v18(),
        }
    }

    /// The program `name` of this version.
    ///
    /// # Panics
    ///
    /// As [`Self::bin`].
    pub fn program(self, name: &str) -> PathBuf {
        self.bin().join(name)
    }
}

fn system() -> Option<PathBuf> {
    // The lowest first: 18 is tested by the other variant.
    (15..=18)
        .map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")))
        .find(|bin| bin.join("postgres").exists())
}

fn v18() -> PathBuf {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        if let Some(bin) = std::env::var_os("TENANTRY_PG18_BIN") {
            return bin.into();
        }
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/postgres-18");
        let output = Command::new(tool)
            .output()
            .expect("run tests/tools/postgres-18");
        assert!(output.status.success(), "tests/tools/postgres-18 failed");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
    .clone()
}

/// Directory of the cluster that belongs to a data directory.
pub(crate) fn cluster(data_dir: &Path) -> PathBuf {
    match fs::read_to_string(data_dir.join("postgres.base")) {
        Ok(base) => PathBuf::from(base.trim_end()).join("data"),
        Err(_) => data_dir.join("postgres/data"),
    }
}

/// Process id of the postmaster that runs on a cluster, when one does.
pub(crate) fn postmaster(cluster: &Path) -> Option<u32> {
    let text = fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let pid: u32 = text.lines().next()?.trim().parse().ok()?;
    // The number alone could be another process's by now.
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (cwd == cluster.canonicalize().ok()?).then_some(pid)
}

/// The processes that `parent` made and that still run.
pub fn children(parent: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; state and parent follow it.
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    rest.nth(1)?.parse().ok()
}
