//! A PostgreSQL of its own for one test: in a directory of its own, gone with it.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::{fs::chown, net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use scratch::Scratch;

/// Of the superuser `postgres`. SASLprep changes it.
pub(crate) const PASSWORD: &str = "s\u{e9}cret\u{a0}\u{2168}";
/// Longer than any step takes on a busy machine; a test that waits longer hangs.
const STEP_MAX: Duration = Duration::from_secs(60);

/// Which PostgreSQL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    /// The distribution's, with TLS.
    System,
    /// The one fetched by `tests/tools/postgres-18`, without.
    V18,
}

impl Version {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::System, Self::V18];

    fn bin(self) -> PathBuf {
        match self {
            Self::System => (15..=18)
                .map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")))
                .find(|bin| bin.join("postgres").exists())
                .expect("PostgreSQL 15 to 18 of the distribution"),
            Self::V18 => match std::env::var_os("TENANTRY_PG18_BIN") {
                Some(bin) => bin.into(),
                None => {
                    let tool =
                        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools/postgres-18");
                    let output = Command::new(tool).output().unwrap();
                    assert!(output.status.success(), "tests/tools/postgres-18 failed");
                    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
                }
            },
        }
    }
}

/// A running server.
pub(crate) struct Server {
    dir: Scratch,
    bin: PathBuf,
    port: u16,
}

impl Server {
    /// Makes a cluster and starts it.
    pub(crate) fn start(version: Version) -> Self {
        let dir = Scratch::new();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            dir,
            bin: version.bin(),
            port: port.local_addr().unwrap().port(),
        };
        drop(port);
        server.write("password", PASSWORD);
        if let Some((user, group)) = postgres_user() {
            chown(server.dir.path(), Some(user), Some(group)).unwrap();
        }
        let data = server.path("data");
        let password = server.path("password");
        server.run(
            "initdb",
            &[
                "--no-sync",
                "-U",
                "postgres",
                "-A",
                "scram-sha-256",
                "-E",
                "UTF8",
                "--locale=C",
                "-D",
                &data,
                "--pwfile",
                &password,
            ],
        );
        let socket = server.path("");
        let mut options = format!(
            "-k {socket} -p {} -c fsync=off -c listen_addresses=",
            server.port
        );
        if version == Version::System {
            let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            server.write("data/server.crt", &key.cert.pem());
            server.write("data/server.key", &key.signing_key.serialize_pem());
            options.push_str("127.0.0.1 -c ssl=on");
        }
        let log = server.path("log");
        server.run(
            "pg_ctl",
            &["start", "-w", "-D", &data, "-l", &log, "-o", &options],
        );
        server
    }

    /// By its socket file.
    pub(crate) fn socket(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path(&format!(".s.PGSQL.{}", self.port))).unwrap();
        stream.set_read_timeout(Some(STEP_MAX)).unwrap();
        stream
    }

    /// By its port.
    pub(crate) fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(STEP_MAX)).unwrap();
        stream
    }

    /// The one it shows.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.path("data/server.crt")).unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, mode).unwrap();
        if let Some((user, group)) = postgres_user() {
            chown(&path, Some(user), Some(group)).unwrap();
        }
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(self.bin.join(program));
        command.args(arguments).current_dir(self.dir.path());
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

/// PostgreSQL does not run as root: as root, the user of the distribution's package.
fn postgres_user() -> Option<(u32, u32)> {
    let own = fs::metadata("/proc/self").unwrap();
    if std::os::unix::fs::MetadataExt::uid(&own) != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.expect("a user postgres").split(':').skip(2);
    let mut number = || fields.next().unwrap().parse().unwrap();
    Some((number(), number()))
}
