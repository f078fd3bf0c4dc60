//! A server that somebody else runs: made and started without the code under test.

use std::{
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid as ProcessId, Signal, kill_process};
use tokio_postgres::{Client, Config, NoTls};

use super::{Scratch, bin, until};

pub const BOSS: &str = "boss";
pub const PASSWORD: &str = "boss's own";

pub struct Foreign {
    pub port: u16,
    pub dir: Scratch,
    server: Child,
    data: PathBuf,
}

impl Foreign {
    /// `hba` is the whole file; `conf` is added to the settings. A `server.pem` and `server.key` in
    /// `tls` are used.
    pub async fn start(major: u32, hba: &str, conf: &str, tls: Option<(&str, &str)>) -> Self {
        let dir = Scratch::new();
        let data = dir.path().join("theirs");
        std::fs::create_dir(&data).unwrap();
        own(&data);
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, PASSWORD).unwrap();
        let output = as_postgres(Command::new(bin(major).join("initdb")))
            .args(["--username", BOSS, "--auth=scram-sha-256", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C", "--no-instructions"])
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&data)
            .current_dir("/")
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words}");
        std::fs::write(data.join("pg_hba.conf"), hba).unwrap();
        let mut settings = conf.to_owned();
        if let Some((chain, key)) = tls {
            for (name, text) in [("server.crt", chain), ("server.key", key)] {
                let path = data.join(name);
                std::fs::write(&path, text).unwrap();
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
                own(&path);
            }
            settings.push_str("\nssl = on");
        }
        // PostgreSQL cannot choose a port itself; held until just before it listens.
        let port = {
            let held = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            held.local_addr().unwrap().port()
        };
        settings.push_str(&format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {port}\nfsync = off\n\
             unix_socket_directories = '{}'\n",
            data.display()
        ));
        std::fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let server = as_postgres(Command::new(bin(major).join("postgres")))
            .arg("-D")
            .arg(&data)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let foreign = Self {
            port,
            dir,
            server,
            data,
        };
        until("their server answers", async || {
            foreign.connect_as(BOSS, PASSWORD, "postgres").await.is_ok()
        })
        .await;
        foreign
    }

    /// By the socket, without TLS.
    pub async fn connect_as(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let mut config = Config::new();
        config
            .host_path(&self.data)
            .port(self.port)
            .user(user)
            .password(password)
            .dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub async fn boss(&self, database: &str) -> Client {
        self.connect_as(BOSS, PASSWORD, database).await.unwrap()
    }

    pub fn set_hba(&self, text: &str) {
        std::fs::write(self.data.join("pg_hba.conf"), text).unwrap();
    }

    pub fn dsn(&self, host: &str, options: &str) -> String {
        let port = self.port;
        format!(
            "host={host} port={port} user={BOSS} password='{}' {options}",
            PASSWORD.replace('\'', "\\'")
        )
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let id = i32::try_from(self.server.id()).unwrap();
        // Not reaped yet, so the number is its own.
        let _ = kill_process(ProcessId::from_raw(id).unwrap(), Signal::QUIT);
        let _ = self.server.wait();
    }
}

/// PostgreSQL refuses to run as root.
fn as_postgres(mut command: Command) -> Command {
    if let Some((uid, gid)) = postgres() {
        command.uid(uid).gid(gid);
    }
    command.env_clear().env("LC_ALL", "C");
    command
}

fn own(path: &std::path::Path) {
    if let Some((uid, gid)) = postgres() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

fn postgres() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    let mut number = || fields.next().unwrap().parse().unwrap();
    Some((number(), number()))
}
