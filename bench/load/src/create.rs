//! From the request to create a database, or a branch of one, to its first answer.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_rustls::TlsConnector;

use crate::{Address, Login, ms, session::Target};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address of the API.
    #[arg(long)]
    api: String,
    /// Token that may create.
    #[arg(long)]
    token: String,
    /// Where the databases are reached.
    #[arg(long)]
    pg: SocketAddr,
    /// Certificate to verify against.
    #[arg(long)]
    root: PathBuf,
    /// Make branches of this database.
    #[arg(long)]
    parent: Option<String>,
    /// What is asked first.
    #[arg(long, default_value = "select 1")]
    query: String,
    /// Callers at once.
    #[arg(long)]
    callers: usize,
    /// Databases of each caller.
    #[arg(long)]
    each: usize,
    /// A caller begins one every so many milliseconds; without it, as soon as the last is done.
    #[arg(long)]
    every_ms: Option<u64>,
    /// Create only; do not connect.
    #[arg(long)]
    no_connect: bool,
    /// Append the logins to this file.
    #[arg(long)]
    save: Option<PathBuf>,
}

/// Times of one create, in milliseconds.
#[derive(Serialize)]
struct Created {
    /// The answer of the API.
    api: f64,
    /// TCP, TLS and SCRAM, the hashing of the new password included.
    login: f64,
    /// The first query.
    query: f64,
    total: f64,
    /// What the server says of how it copied a branch.
    #[serde(skip_serializing_if = "Value::is_null")]
    branch: Value,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let tls = crate::session::tls(&args.root)?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    // The connections of the API exist; what is measured is not their making.
    join_all((0..args.callers).map(|_| http.get(format!("{}/healthz", args.api)).send())).await;
    let started = Instant::now();
    let callers = (0..args.callers).map(|_| caller(&args, &http, &tls));
    let results = join_all(callers).await;
    let wall = started.elapsed();
    let (mut created, mut errors) = (Vec::new(), Vec::new());
    let mut logins = String::new();
    for result in results.into_iter().flatten() {
        match result {
            Ok((times, login)) => {
                created.push(times);
                logins.push_str(&serde_json::to_string(&login)?);
                logins.push('\n');
            }
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    if let Some(path) = &args.save {
        use std::io::Write as _;
        std::fs::File::options()
            .create(true)
            .append(true)
            .open(path)?
            .write_all(logins.as_bytes())?;
    }
    Ok(json!({
        "wall_s": wall.as_secs_f64(),
        "created": created,
        "errors": errors.len(),
        "first_error": errors.first(),
    }))
}

async fn caller(
    args: &Args,
    http: &reqwest::Client,
    tls: &TlsConnector,
) -> Vec<anyhow::Result<(Created, Login)>> {
    let mut pace = args.every_ms.map(|every| {
        let mut pace = interval(Duration::from_millis(every));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace
    });
    let mut results = Vec::with_capacity(args.each);
    for _ in 0..args.each {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        results.push(create(args, http, tls).await);
    }
    results
}

async fn create(
    args: &Args,
    http: &reqwest::Client,
    tls: &TlsConnector,
) -> anyhow::Result<(Created, Login)> {
    let started = Instant::now();
    let name = format!("bench-{:016x}", rand::random::<u64>());
    let path = match &args.parent {
        Some(parent) => format!("/{parent}/branch"),
        None => String::new(),
    };
    let answer = http
        .post(format!("{}/customer/databases{path}?wait=60", args.api))
        .bearer_auth(&args.token)
        .json(&json!({ "name": name }))
        .send()
        .await?;
    let status = answer.status();
    let body: Value = serde_json::from_slice(&answer.bytes().await?)
        .with_context(|| format!("an answer with status {status}"))?;
    anyhow::ensure!(
        status.is_success() && body["state"] == "ACTIVE",
        "status {status}, state {}, {}{}",
        body["state"],
        body["message"],
        body["state_reason"]
    );
    let api = started.elapsed();
    let text =
        |key: &str| Ok::<_, anyhow::Error>(body[key].as_str().context("no login")?.to_owned());
    let login = Login {
        address: Address::Tcp(args.pg),
        user: text("admin_user")?,
        database: "postgres".to_owned(),
        password: text("admin_password")?,
        options: None,
    };
    let (mut logged_in, mut asked) = (api, api);
    if !args.no_connect {
        let mut session = Target::new(login.clone(), Some(tls.clone()))
            .connect()
            .await?;
        logged_in = started.elapsed();
        session.ask(&args.query).await?;
        asked = started.elapsed();
        session.close().await?;
    }
    let times = Created {
        api: ms(api),
        login: ms(logged_in - api),
        query: ms(asked - logged_in),
        total: ms(asked),
        branch: body["branch"].clone(),
    };
    Ok((times, login))
}
