//! A directory that is gone when the test is.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// A new, empty directory that every user may enter: PostgreSQL may run as another one.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one below the system's directory for temporary files.
    ///
    /// # Panics
    ///
    /// When the file system refuses.
    pub fn new() -> Self {
        let name = format!("tenantry-test-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("make a directory for the test");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("open it to all");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // `TENANTRY_TEST_KEEP=1` leaves it for a person to look at.
        if std::env::var_os("TENANTRY_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
