//! A directory for one test that is gone when the test is, also when it fails.
//!
//! Owns: its name, its removal, and the end of the processes that still work in it (each process of
//! PostgreSQL works in its data directory). A test that leaves something behind fails. What outlives
//! a test that was killed is found by `tests/tools/leftovers`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own code: what does not work fails the test"
)]

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// For PostgreSQL's processes to end at once after SIGQUIT, which lets them remove their shared
/// memory; then they are killed.
const QUIT_MAX: Duration = Duration::from_secs(5);
/// For killed processes to be gone, on a busy machine.
const KILL_MAX: Duration = Duration::from_secs(20);
/// How often it is looked whether they are.
const LOOK_EVERY: Duration = Duration::from_millis(5);

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
        Self::below(&std::env::temp_dir())
    }

    /// Makes one below `parent`.
    ///
    /// # Panics
    ///
    /// When the file system refuses.
    pub fn below(parent: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            // The process is named, so that a person who finds it can tell whose it was.
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("tenantry-test-{}-{count}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {
                    let open = fs::Permissions::from_mode(0o755);
                    fs::set_permissions(&path, open).expect("open it to all");
                    return Self(path);
                }
                // Of an earlier process of this number, which was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("make {}: {error}", path.display()),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in it.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        end_processes(&self.0);
        // `TENANTRY_TEST_KEEP=1` leaves it for a person to look at.
        if std::env::var_os("TENANTRY_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.0.display());
            return;
        }
        let removed = fs::remove_dir_all(&self.0);
        if !std::thread::panicking() {
            removed.unwrap_or_else(|error| panic!("remove {}: {error}", self.0.display()));
        }
    }
}

/// Ends every process, but this one, whose working directory lies in `dir`. A postmaster that was killed
/// leaves some behind: one that copies a database notices only when it is done.
pub fn end_processes(dir: &Path) {
    for (signal, limit) in [(Signal::QUIT, QUIT_MAX), (Signal::KILL, KILL_MAX)] {
        let until = Instant::now() + limit;
        loop {
            let found = processes(dir);
            if found.is_empty() {
                return;
            }
            if Instant::now() > until {
                break;
            }
            for pid in found {
                // It may have ended by itself in between.
                let _ = kill_process(pid, signal);
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }
}

fn processes(dir: &Path) -> Vec<Pid> {
    let Ok(dir) = dir.canonicalize() else {
        return Vec::new();
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            // Those of others, and those that have ended, do not say.
            let works_in = fs::read_link(entry.path().join("cwd")).ok()?;
            let is_other = u32::try_from(pid).ok()? != std::process::id();
            (is_other && works_in.starts_with(&dir)).then(|| Pid::from_raw(pid))?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        process::{Child, Command, Stdio},
    };

    use super::*;

    /// A process that works in `dir` and hears no SIGQUIT.
    fn stubborn(dir: &Path) -> Child {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' QUIT; echo deaf; exec sleep 600"]);
        shell.current_dir(dir).stdout(Stdio::piped());
        let mut child = shell.spawn().expect("start a shell");
        let mut said = [0; 5];
        let out = child.stdout.as_mut().expect("a pipe was asked for");
        out.read_exact(&mut said).expect("it says so");
        child
    }

    #[test]
    fn a_directory_goes_with_all_that_is_in_it_also_when_the_test_fails() {
        let (send, receive) = std::sync::mpsc::channel();
        let test = std::thread::spawn(move || {
            let scratch = Scratch::new();
            fs::create_dir(scratch.join("inside")).expect("make it");
            send.send(scratch.path().to_owned()).expect("it listens");
            std::panic::resume_unwind(Box::new("a test that fails"));
        });
        assert!(test.join().is_err());
        let path = receive.recv().expect("it was sent");
        assert!(!path.exists(), "{}", path.display());
    }

    #[test]
    fn processes_that_work_in_it_end_and_others_do_not() {
        let (mine, other) = (Scratch::new(), Scratch::new());
        fs::create_dir(mine.join("inside")).expect("make it");
        let mut ended = Command::new("sleep")
            .arg("600")
            .current_dir(mine.join("inside"))
            .spawn()
            .expect("start it");
        let mut stays = Command::new("sleep")
            .arg("600")
            .current_dir(other.path())
            .spawn()
            .expect("start it");
        drop(mine);
        let status = ended.wait().expect("wait for it");
        assert!(!status.success(), "{status}");
        assert!(stays.try_wait().expect("look").is_none());
        drop(other);
        stays.wait().expect("wait for it");
    }

    #[test]
    fn who_does_not_hear_is_killed() {
        let scratch = Scratch::new();
        let mut child = stubborn(scratch.path());
        drop(scratch);
        let status = child.wait().expect("wait for it");
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
    }
}
