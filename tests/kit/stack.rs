//! One running `tenantry serve` with its PostgreSQL.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    Scratch,
    api::Api,
    postgres::{self, Postgres},
    program::{self, Ran, is_running, run, run_with_input, signal, wait_for},
};

/// From the start of the process to its ready line, on a busy machine that also runs initdb.
const READY_MAX: Duration = Duration::from_secs(120);
/// For a process to end after a signal that it must obey.
const END_MAX: Duration = Duration::from_secs(60);

/// What a stack is started with.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// Which PostgreSQL it runs.
    pub postgres: Postgres,
    /// Further arguments of `serve`; they come last.
    pub arguments: Vec<String>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
    /// The DSN of a PostgreSQL that somebody else runs; then `postgres` is not run.
    pub attach: Option<String>,
}

impl Default for StackConfig {
    fn default() -> Self {
        Self {
            postgres: Postgres::System,
            arguments: Vec::new(),
            environment: Vec::new(),
            attach: None,
        }
    }
}

impl StackConfig {
    /// A stack on this PostgreSQL.
    pub fn on(postgres: Postgres) -> Self {
        Self {
            postgres,
            ..Self::default()
        }
    }

    /// The same with one more argument of `serve`.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// The same on a PostgreSQL that somebody else runs.
    #[must_use]
    pub fn attached(mut self, dsn: String) -> Self {
        self.attach = Some(dsn);
        self
    }

    /// The same with one more variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }
}

/// A stack. Dropping it ends every process it started and removes its directory.
#[derive(Debug)]
pub struct Stack {
    scratch: Scratch,
    config: StackConfig,
    child: Option<Child>,
    /// What the ready line said; `Null` before the first.
    ready: Value,
}

impl Stack {
    /// Starts a stack with nothing said, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not become ready, with its log.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(StackConfig::default())
    }

    /// Starts a stack, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    #[track_caller]
    pub fn start_with(config: StackConfig) -> Self {
        let mut stack = Self::not_started(config);
        stack.start_again();
        stack
    }

    /// A stack with its directory and no process yet.
    pub fn not_started(config: StackConfig) -> Self {
        Self {
            scratch: Scratch::new(),
            config,
            child: None,
            ready: Value::Null,
        }
    }

    /// What the next start is given.
    pub fn config_mut(&mut self) -> &mut StackConfig {
        &mut self.config
    }

    /// Makes the data directory of a stack that does not run yet with the keys of another one, as
    /// processes that share a catalog need them.
    ///
    /// # Panics
    ///
    /// When the other one has none yet.
    pub fn take_keys_of(&self, other: &Self) {
        fs::create_dir_all(self.data_dir()).expect("make the data directory");
        for name in ["installation.key", "node.key", "operator.key"] {
            let (from, to) = (other.data_dir().join(name), self.data_dir().join(name));
            fs::copy(from, to).expect("copy a key");
        }
    }

    /// The command that starts the server.
    pub fn serve(&self) -> Command {
        let mut command = Command::new(program::tenantry());
        command.arg("serve");
        // A free port, unless it has one already.
        for listen in ["--pg-listen", "--api-listen"] {
            if !self
                .config
                .arguments
                .iter()
                .any(|argument| argument == listen)
            {
                command.args([listen, "127.0.0.1:0"]);
            }
        }
        // A history costs a copy of the data: only tests of it want one.
        let history = "--point-in-time";
        if !self
            .config
            .arguments
            .iter()
            .any(|argument| argument == history)
        {
            command.args([history, "0s"]);
        }
        command
            .args(["--log", "json"])
            .arg("--data-dir")
            .arg(self.data_dir());
        match &self.config.attach {
            Some(dsn) => command.arg("--attach").arg(dsn),
            None => command.arg("--pg-bin").arg(self.config.postgres.bin()),
        };
        command
            .args(&self.config.arguments)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH"))
            .envs(self.config.environment.iter().cloned())
            .env("RUST_BACKTRACE", "1");
        command
    }

    /// Starts the process without waiting until it is ready.
    ///
    /// # Panics
    ///
    /// When one runs already.
    #[track_caller]
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let append = |path| File::options().create(true).append(true).open(path);
        let log = append(self.log_file()).expect("open the log");
        let out = File::create(self.out_file()).expect("open the output");
        let child = self
            .serve()
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(log)
            .spawn()
            .expect("start tenantry");
        self.child = Some(child);
    }

    /// Starts the process on the same directory, and waits until it is ready. It keeps its ports,
    /// so that connection strings stay good.
    ///
    /// # Panics
    ///
    /// As [`Self::start`].
    #[track_caller]
    pub fn start_again(&mut self) {
        if !self.ready.is_null() {
            let ports = [("--pg-listen", "pg"), ("--api-listen", "api")];
            for (flag, key) in ports {
                let address = self.ready[key].as_str().expect("the ready line names it");
                let address = address
                    .rsplit('/')
                    .next()
                    .expect("rsplit gives one")
                    .to_owned();
                if !self
                    .config
                    .arguments
                    .iter()
                    .any(|argument| argument == flag)
                {
                    self.config.arguments.extend([flag.to_owned(), address]);
                }
            }
        }
        self.spawn();
        self.wait_ready();
    }

    /// Waits for the ready line.
    ///
    /// # Panics
    ///
    /// When the process ends or the time does, with its log.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let out = self.out_file();
        let pid = self.pid();
        let ready = wait_for("the ready line", READY_MAX, || {
            if let Some(status) = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().ok())
                .flatten()
            {
                panic!(
                    "tenantry ended ({status}) before it was ready:\n{}",
                    self.log()
                );
            }
            let text = fs::read_to_string(&out).ok()?;
            let line = text.strip_suffix('\n')?.lines().next_back()?.to_owned();
            Some(line)
        });
        self.ready =
            serde_json::from_str(&ready).unwrap_or_else(|error| panic!("{ready}: {error}"));
        assert_eq!(self.ready["event"], "ready", "process {pid}");
    }

    /// What the ready line said.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// Id of the `tenantry` process.
    ///
    /// # Panics
    ///
    /// When none runs.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Id of the postmaster, while there is one.
    pub fn postmaster(&self) -> Option<u32> {
        postgres::postmaster(&postgres::cluster(&self.data_dir()))
    }

    /// Directory of its PostgreSQL cluster.
    pub fn cluster(&self) -> PathBuf {
        postgres::cluster(&self.data_dir())
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// Socket directory, superuser and password of the server itself, for looking past the proxy.
    ///
    /// # Panics
    ///
    /// When the server does not run.
    #[track_caller]
    pub fn server_login(&self) -> (String, String, String) {
        let cluster = postgres::cluster(&self.data_dir());
        let running = fs::read_to_string(cluster.join("postmaster.pid")).expect("it runs");
        // The fifth line, "Database File Layout" in the PostgreSQL manual.
        let socket = running
            .lines()
            .nth(4)
            .expect("a socket directory")
            .to_owned();
        let password = self.data_dir().join("superuser.password");
        let password = fs::read_to_string(password).expect("the superuser's password");
        (socket, "tenantry".to_owned(), password.trim().to_owned())
    }

    /// A place for further files of the test.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// `host:port` for PostgreSQL clients.
    #[track_caller]
    pub fn pg_address(&self) -> String {
        self.ready["pg"]
            .as_str()
            .expect("the ready line names it")
            .to_owned()
    }

    /// Address of the API.
    #[track_caller]
    pub fn api_url(&self) -> String {
        self.ready["api"]
            .as_str()
            .expect("the ready line names it")
            .to_owned()
    }

    /// The certificate that clients verify against.
    pub fn certificate(&self) -> PathBuf {
        self.data_dir().join("tls/server.crt")
    }

    /// The operator's key.
    ///
    /// # Panics
    ///
    /// When there is none yet.
    pub fn operator_key(&self) -> String {
        let path = self.data_dir().join("operator.key");
        fs::read_to_string(path)
            .expect("the operator's key")
            .trim()
            .to_owned()
    }

    /// The API as the operator.
    pub fn operator(&self) -> Api {
        Api::new(self.api_url(), Some(self.operator_key()))
    }

    /// The API as nobody.
    pub fn nobody(&self) -> Api {
        Api::new(self.api_url(), None)
    }

    /// The API as a new anonymous project.
    ///
    /// # Panics
    ///
    /// When it cannot be registered.
    pub async fn anonymous(&self) -> Api {
        let answer = self
            .nobody()
            .post("/customer/anonymous-register", json!({}))
            .await
            .ok();
        let token = answer["token"].as_str().expect("a token").to_owned();
        Api::new(self.api_url(), Some(token))
    }

    /// `tenantry` as a user of this stack, with a home of its own.
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program::tenantry());
        command
            .args(arguments)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH"))
            .env("TENANTRY_HOME", self.scratch.path().join("home"))
            .env("TENANTRY_API_URL", self.api_url());
        command
    }

    /// Runs `tenantry` as a user of this stack.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Ran {
        run(&mut self.cli_command(arguments))
    }

    /// Makes a database as a user of this stack, and returns its description with its secrets.
    #[track_caller]
    pub fn create(&self, name: &str) -> Value {
        self.cli(&["create", name, "--show-secrets", "--json"])
            .json()
    }

    /// Makes a database as a user of this stack, and returns its connection string with its password.
    #[track_caller]
    pub fn create_address(&self, name: &str) -> String {
        let created = self.create(name);
        let address = created["connection_string"].as_str();
        address.expect("a connection string").to_owned()
    }

    /// Names of the databases that a user of this stack has.
    #[track_caller]
    pub fn listed(&self) -> Vec<String> {
        let list = self.cli(&["list", "--json"]).json();
        let all = list.as_array().expect("a list");
        let name = |one: &Value| one["name"].as_str().expect("a name").to_owned();
        all.iter().map(name).collect()
    }

    /// Runs `tenantry` as a user of this stack, with standard input.
    #[track_caller]
    pub fn cli_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        run_with_input(&mut self.cli_command(arguments), input)
    }

    /// Everything the process logged, all starts together.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Lines of the log at these levels (`"ERROR"`, `"WARN"`).
    pub fn log_at(&self, levels: &[&str]) -> Vec<String> {
        self.log()
            .lines()
            .filter(|line| {
                serde_json::from_str::<Value>(line)
                    .is_ok_and(|line| levels.iter().any(|level| line["level"] == *level))
            })
            .map(str::to_owned)
            .collect()
    }

    /// Ends `tenantry` as a power failure would; PostgreSQL is left to itself.
    ///
    /// # Panics
    ///
    /// When none runs.
    #[track_caller]
    pub fn kill(&mut self) {
        signal(self.pid(), Signal::KILL);
        self.wait_end(END_MAX);
    }

    /// Kills the postmaster. Its children notice and end.
    ///
    /// # Panics
    ///
    /// When none runs.
    #[track_caller]
    pub fn kill_postgres(&self) {
        let pid = self.postmaster().expect("PostgreSQL runs");
        signal(pid, Signal::KILL);
        wait_for("the postmaster's end", END_MAX, || {
            (!is_running(pid)).then_some(())
        });
    }

    /// Asks `tenantry` to end, as a service manager does.
    #[track_caller]
    pub fn terminate(&self) {
        signal(self.pid(), Signal::TERM);
    }

    /// Asks `tenantry` to end, and waits until it and its PostgreSQL have.
    ///
    /// # Panics
    ///
    /// When it does not end, or not well.
    #[track_caller]
    pub fn stop(&mut self) {
        self.terminate();
        let status = self.wait_end(END_MAX);
        assert!(status.success(), "{status}:\n{}", self.log());
        assert_eq!(self.postmaster(), None, "PostgreSQL still runs");
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Panics
    ///
    /// After `limit`.
    #[track_caller]
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        wait_for("the end of tenantry", limit, || {
            child.try_wait().expect("wait for it")
        })
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.path().join("serve.log")
    }

    fn out_file(&self) -> PathBuf {
        self.scratch.path().join("serve.out")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        scratch::end_processes(&postgres::cluster(&self.data_dir()));
        if std::thread::panicking() {
            eprintln!(
                "---- end of the log of tenantry\n{}----",
                tail(&self.log_file())
            );
        }
        // A cluster, or a socket, that did not fit into the directory lies elsewhere.
        let cluster = postgres::cluster(&self.data_dir());
        let base = cluster.parent().expect("the cluster lies in its base");
        if let Ok(socket) = fs::read_to_string(base.join("socket.dir")) {
            let _ = fs::remove_dir_all(socket.trim_end());
        }
        if !base.starts_with(self.scratch.path()) {
            let _ = fs::remove_dir_all(base);
        }
    }
}

/// The last lines of a file that may be large.
fn tail(path: &Path) -> String {
    const BYTES: u64 = 16 * 1024;
    let Ok(mut file) = File::open(path) else {
        return String::new();
    };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut text = Vec::new();
    if length > BYTES {
        text = vec![0; BYTES as usize];
        let _ = file.read_exact_at(&mut text, length - BYTES);
    } else {
        let _ = file.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}
