//! A PostgreSQL of its own for one test: in a directory of its own, gone with it.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use scratch::Scratch;
use tokio_postgres::{Client, Config, NoTls};

/// Both majors that statements are read for the oldest and the newest of.
pub(crate) const MAJORS: [u32; 2] = [15, 18];

pub(crate) struct Server {
    dir: Scratch,
    bin: PathBuf,
    /// Only names the socket.
    port: u16,
}

impl Server {
    /// Makes a cluster and starts it.
    pub(crate) fn start(major: u32) -> Self {
        let dir = Scratch::new();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            dir,
            bin: bin(major),
            port: port.local_addr().unwrap().port(),
        };
        if let Some((user, group)) = postgres_user() {
            chown(server.dir.path(), Some(user), Some(group)).unwrap();
        }
        let data = server.path("data");
        server.run(
            "initdb",
            &[
                "--no-sync",
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-D",
                &data,
            ],
        );
        let options = format!(
            "-k {} -p {} -c fsync=off -c listen_addresses= -c max_prepared_transactions=5 \
             -c wal_level=logical",
            server.path(""),
            server.port
        );
        let log = server.path("log");
        server.run(
            "pg_ctl",
            &["start", "-w", "-D", &data, "-l", &log, "-o", &options],
        );
        server
    }

    /// A new session of the superuser.
    pub(crate) async fn session(&self, database: &str) -> Client {
        let mut config = Config::new();
        config
            .host_path(self.dir.path())
            .port(self.port)
            .user("postgres")
            .dbname(database);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(self.bin.join(program));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env("LC_ALL", "C");
        // Not a pipe: the server inherits it and would keep it open.
        let output = fs::File::create(self.dir.join(format!("{program}.out"))).unwrap();
        command
            .stdin(Stdio::null())
            .stderr(output.try_clone().unwrap())
            .stdout(output);
        if let Some((user, group)) = postgres_user() {
            command.uid(user).gid(group);
        }
        let status = command.status().unwrap();
        let said = fs::read_to_string(self.dir.join(format!("{program}.out"))).unwrap();
        assert!(status.success(), "{program}: {said}");
    }
}

fn bin(major: u32) -> PathBuf {
    if major != 18 {
        return (15..=18)
            .map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")))
            .find(|bin| bin.join("postgres").exists())
            .expect("PostgreSQL 15 to 18 of the distribution");
    }
    if let Some(bin) = std::env::var_os("TENANTRY_PG18_BIN") {
        return bin.into();
    }
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools/postgres-18");
    let output = Command::new(tool).output().unwrap();
    assert!(output.status.success(), "tests/tools/postgres-18 failed");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// PostgreSQL refuses to run as root.
fn postgres_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    let mut number = || fields.next().unwrap().parse().unwrap();
    Some((number(), number()))
}
