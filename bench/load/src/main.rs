//! Load for `./dev bench`.
//!
//! Owns: clients that cost less than what they measure, and times taken where they arise. Each
//! command prints one JSON object. Does not own: starting what is measured, percentiles, tables
//! (the programs in `bench/`).

mod cold;
mod create;
mod crowd;
mod idle;
mod logins;
mod queries;
mod session;

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};

use session::Target;

#[derive(Parser)]
#[command(about = "Load for ./dev bench")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create databases by the API, and ask each for its first `select 1`.
    Create(create::Args),
    /// Log in and out, again and again.
    Logins(logins::Args),
    /// Ask `select 1`, again and again.
    Queries(queries::Args),
    /// Many clients, some tenants more often than others, asking `select 1`.
    Crowd(crowd::Args),
    /// One login and some queries on each database in turn.
    Cold(cold::Args),
    /// Log in and stay until standard input ends.
    Idle(idle::Args),
}

/// Whom to log in to, one JSON object per line of a file.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Login {
    address: Address,
    user: String,
    database: String,
    password: String,
    /// Of the startup packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    options: Option<String>,
}

/// `host:port`, or the path of a socket file, which is never TLS.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Address {
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug, clap::Args)]
struct Targets {
    /// File of logins, one JSON object per line.
    #[arg(long)]
    targets: PathBuf,
    /// Certificate to verify against; without it, no TLS.
    #[arg(long)]
    root: Option<PathBuf>,
}

impl Targets {
    fn load(&self) -> anyhow::Result<Vec<Target>> {
        let tls = self.root.as_deref().map(session::tls).transpose()?;
        let text = fs::read_to_string(&self.targets)
            .with_context(|| format!("read {}", self.targets.display()))?;
        let targets = text
            .lines()
            .map(|line| Ok(Target::new(serde_json::from_str(line)?, tls.clone())))
            .collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::ensure!(!targets.is_empty(), "no logins");
        Ok(targets)
    }
}

fn main() -> anyhow::Result<()> {
    raise_open_files();
    // One thread: the machine's other cores belong to what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        match Args::parse().command {
            Command::Create(args) => create::run(args).await,
            Command::Logins(args) => logins::run(args).await,
            Command::Queries(args) => queries::run(args).await,
            Command::Crowd(args) => crowd::run(args).await,
            Command::Cold(args) => cold::run(args).await,
            Command::Idle(args) => idle::run(args).await,
        }
    })?;
    println!("{result}");
    Ok(())
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// For the output: milliseconds with three decimals.
fn ms(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
