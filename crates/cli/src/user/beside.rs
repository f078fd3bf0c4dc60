//! A file that is there as a whole or not at all.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::exit::{Exit, Failure};

/// A file beside the one that is to be; removed unless it became that one.
pub(super) struct Beside {
    to_be: PathBuf,
    path: PathBuf,
    file: File,
    is_kept: bool,
}

impl Beside {
    /// Makes an empty one, for the owner only: what others may not read in the database they may not
    /// read here.
    ///
    /// # Errors
    ///
    /// When `to_be` is no place for a file.
    pub(super) fn new(to_be: &Path) -> Result<Self, Failure> {
        if to_be.is_dir() {
            return Err(Failure::usage(
                format!("{} is a directory", to_be.display()),
                "",
            ));
        }
        let name = to_be
            .file_name()
            .ok_or_else(|| Failure::usage("the file has no name", ""))?;
        let name = format!(".{}.{}.part", name.to_string_lossy(), std::process::id());
        let path = to_be.with_file_name(name);
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let file = options
            .open(&path)
            .map_err(|error| cannot("write", to_be, &error))?;
        Ok(Self {
            to_be: to_be.to_owned(),
            path,
            file,
            is_kept: false,
        })
    }

    /// Where it is for now.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// For writing.
    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives it its name, when it is on disk. Returns its size in bytes.
    ///
    /// # Errors
    ///
    /// Those of the disk; the file of that name is as it was.
    pub(super) fn keep(mut self) -> Result<u64, Failure> {
        let kept = self.file.sync_all().and_then(|()| {
            let bytes = self.file.metadata()?.len();
            fs::rename(&self.path, &self.to_be)?;
            Ok(bytes)
        });
        let bytes = kept.map_err(|error| cannot("write", &self.to_be, &error))?;
        self.is_kept = true;
        Ok(bytes)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("cannot {what} {}: {error}", path.display()),
        "",
    )
}
