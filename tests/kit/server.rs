//! A PostgreSQL that somebody else runs, for stacks that attach to it. Made without the code under test.

use std::{
    fs::{self, File},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    Scratch,
    postgres::Postgres,
    program::{run, signal, wait_for},
};

/// Its superuser.
const BOSS: &str = "boss";
/// On a busy machine.
const READY_MAX: Duration = Duration::from_secs(60);
/// Everybody by password, on its socket only.
const HBA: &str = "local all boss trust\nlocal samerole all scram-sha-256\nlocal all all reject\n";

/// A running server, on a socket in a directory of its own. Dropping it ends it and removes all.
#[derive(Debug)]
pub struct Server {
    dir: Scratch,
    postgres: Postgres,
    child: Child,
}

impl Server {
    /// Makes and starts one with these settings.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[track_caller]
    pub fn start(postgres: Postgres, settings: &[&str]) -> Self {
        let dir = Scratch::new();
        own(dir.path());
        let data = dir.path().join("theirs");
        let mut initdb = unprivileged(&postgres.program("initdb"));
        initdb
            .args(["--username", BOSS, "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C", "--no-instructions"])
            .arg("--pgdata")
            .arg(&data)
            .current_dir("/");
        run(&mut initdb).ok();
        fs::write(data.join("pg_hba.conf"), HBA).expect("write pg_hba.conf");
        let log = File::create(dir.path().join("log")).expect("a log");
        let mut server = unprivileged(&postgres.program("postgres"));
        server.arg("-D").arg(&data).current_dir("/");
        let socket = format!("unix_socket_directories={}", dir.path().display());
        for setting in ["fsync=off", "listen_addresses=", "port=5432", &socket] {
            server.args(["-c", setting]);
        }
        for setting in settings {
            server.args(["-c", setting]);
        }
        let server = server
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = server.spawn().expect("start PostgreSQL");
        let server = Self {
            dir,
            postgres,
            child,
        };
        wait_for("their server", READY_MAX, || {
            (run(&mut server.psql("postgres", "SELECT 1")).code == Some(0)).then_some(())
        });
        server
    }

    /// For `--attach`.
    pub fn dsn(&self) -> String {
        format!("host={} user={BOSS}", self.dir.path().display())
    }

    /// Directory of its socket.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the superuser is answered.
    ///
    /// # Panics
    ///
    /// When the statement fails.
    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        run(&mut self.psql(database, sql)).ok().to_owned()
    }

    /// A session of the superuser.
    pub fn psql(&self, database: &str, sql: &str) -> Command {
        let psql: PathBuf = self.postgres.program("psql");
        let mut command = Command::new(psql);
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", BOSS, "-p", "5432"])
            .arg("-h")
            .arg(self.dir.path())
            .args(["-d", database, "-c", sql]);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Immediate: its data goes anyway. Not waited for yet, so the number is its own.
        signal(self.child.id(), Signal::QUIT);
        let _ = self.child.wait();
    }
}

/// PostgreSQL refuses to run as root. It ends with us.
fn unprivileged(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .args(["--pdeathsig", "INT"])
        .arg(program);
    command
}

fn own(path: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.expect("a user postgres").split(':').skip(2);
    let mut number = || fields.next().and_then(|text| text.parse().ok());
    let (user, group) = (number(), number());
    chown(path, user, group).expect("give it to postgres");
}
