//! A managed server of one major, for one test, in a directory of its own.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a test's own code, of which each binary uses a part"
)]

pub mod foreign;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use model::{Pid, Role};
use node::{
    Node, Template,
    managed::{Managed, ManagedConfig, StopLimit},
};
pub use scratch::Scratch;
use tokio_postgres::{Client, Config};

/// Both majors that every test runs on.
pub const MAJORS: [u32; 2] = [15, 18];

static BIN_18: LazyLock<PathBuf> = LazyLock::new(|| {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools/postgres-18");
    let output = Command::new(tool)
        .output()
        .expect("tests/tools/postgres-18 runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
});

pub fn bin(major: u32) -> PathBuf {
    match major {
        18 => BIN_18.clone(),
        _ => format!("/usr/lib/postgresql/{major}/bin").into(),
    }
}

pub fn config(major: u32, dir: &Scratch) -> ManagedConfig {
    ManagedConfig {
        bin: Some(bin(major)),
        memory_bytes: Some(512 << 20),
        budget: 20,
        fallback_root: dir.path().join("elsewhere"),
        ..ManagedConfig::new(dir.path().join("data"))
    }
}

pub const STOP: StopLimit = StopLimit {
    fast: Duration::from_secs(20),
};

pub async fn start(major: u32, dir: &Scratch) -> Managed {
    node::managed::start(config(major, dir))
        .await
        .unwrap_or_else(|error| panic!("{error:#}"))
}

pub fn pid() -> Pid {
    Pid::random(&mut rand::rng())
}

pub async fn create(node: &Node) -> Pid {
    let pid = pid();
    node.create_logins(&pid).await.unwrap();
    node.create_database(&pid, &Template::Empty).await.unwrap();
    node.open(&pid).await.unwrap();
    pid
}

/// Logs in straight at the server with the tenant's server password.
pub async fn login(node: &Node, pid: &Pid, role: Role) -> Result<Client, tokio_postgres::Error> {
    login_to(node, pid, role, &pid.database()).await
}

pub async fn login_to(
    node: &Node,
    pid: &Pid,
    role: Role,
    database: &str,
) -> Result<Client, tokio_postgres::Error> {
    let login = node.server_login(pid, role);
    let mut config = Config::new();
    config
        .host_path(socket_dir(node))
        .user(&login.user)
        .password(login.password.reveal())
        .dbname(database)
        .options(format!("-c role={}", login.group.as_str()));
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub fn socket_dir(node: &Node) -> PathBuf {
    match &node.target().address {
        model::route::NodeAddress::Unix(socket) => socket.parent().unwrap().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// As the platform, in any database.
pub async fn superuser(node: &Node, database: &str) -> Client {
    let mut config = node.catalog_config().config;
    config.dbname(database);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("none", |code| code.code())
}

/// Until `is` holds, within a bound that only a broken server reaches.
pub async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect(what);
}
