//! Running programs: `tenantry`, psql, drivers; and the state of processes.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// The `tenantry` binary under test: `TENANTRY_BIN`, or the one of this build, built when needed.
///
/// # Panics
///
/// When it cannot be built.
pub fn tenantry() -> PathBuf {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        if let Some(bin) = std::env::var_os("TENANTRY_BIN") {
            return bin.into();
        }
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "cli"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .status()
            .expect("run cargo");
        assert!(status.success(), "cargo build --package cli");
        // …/target/debug/deps/system-0123 → …/target/debug/tenantry
        let this = std::env::current_exe().expect("path of the test");
        let debug = this.ancestors().nth(2).expect("target/debug/deps");
        debug.join("tenantry")
    })
    .clone()
}

/// What a program said and how it ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output without the line end, of a program that succeeded.
    ///
    /// # Panics
    ///
    /// When it did not, with all it said.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout.trim_end()
    }

    /// Standard output of a program that succeeded, as JSON.
    ///
    /// # Panics
    ///
    /// When it did not succeed, or wrote no JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.ok()).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// Standard error of a program that ended with `code`.
    ///
    /// # Panics
    ///
    /// When it ended otherwise.
    #[track_caller]
    pub fn failed(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self.stderr.trim_end()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end with nothing on standard input.
///
/// # Panics
///
/// When it cannot be started.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    command.stdin(Stdio::null());
    let output = command.output();
    output
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
        .into()
}

/// Runs a command to its end with `input` on standard input.
///
/// # Panics
///
/// When it cannot be started.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe was asked for");
    let input = input.to_owned();
    // Beside reading its output, so neither side waits for the other. It may end before it has
    // read everything.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("wait for it");
    writer.join().expect("the writer does not panic");
    output.into()
}

/// psql without an address, alike for clients and for the operator.
fn plain_psql(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args([
            "--no-psqlrc",
            "--no-password",
            "--tuples-only",
            "--no-align",
        ])
        .args(["--set", "ON_ERROR_STOP=1"]);
    command
}

/// psql for a client, that asks nobody and reads nobody's settings, stopping at the first error.
pub fn psql(dsn: &str) -> Command {
    let mut command = plain_psql(Path::new("psql"));
    command
        .args(["--dbname", dsn])
        .env_remove("PGPASSWORD")
        .env("PGCONNECT_TIMEOUT", "20");
    command
}

/// psql straight at the server of a stack, as its superuser: the operator's view, past the proxy.
///
/// # Panics
///
/// When the stack keeps no superuser's password where this kit looks for it.
pub fn server_psql(stack: &crate::Stack, psql: &Path, query: &str) -> Command {
    let (socket, user, password) = stack.server_login();
    let mut command = plain_psql(psql);
    command
        .args(["--command", query])
        .arg("--host")
        .arg(socket)
        .args([
            "--port",
            "5432",
            "--username",
            &user,
            "--dbname",
            "postgres",
        ])
        .env("PGPASSWORD", password);
    command
}

/// Waits until `condition` gives something.
///
/// # Panics
///
/// After `limit`, naming `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}");
        // Between two looks at another process there is nothing to be woken by.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Sends a signal to one process. It may be gone.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process runs; one that ended and waits for its parent does not.
pub fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with(['Z', 'X'])))
        .is_some_and(|ended| !ended)
}

/// Memory of a process that lies in RAM, in bytes; 0 when it is gone.
pub fn resident_bytes(pid: u32) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kilobytes| kilobytes * 1024)
}
