//! Clients that ask `select 1`, again and again, each on its own connection.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{Targets, ms};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    targets: Targets,
    /// Clients at once.
    #[arg(long)]
    clients: usize,
    /// For how long.
    #[arg(long)]
    seconds: f64,
}

/// Between two questions of a client: it does not measure how much fits in, but how long one takes.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let targets = args.targets.load()?;
    let mut sessions = Vec::new();
    for number in 0..args.clients {
        let mut session = targets[number % targets.len()].connect().await?;
        // With its server connection.
        session.select_1().await?;
        sessions.push(session);
    }
    let started = Instant::now();
    let limit = Duration::from_secs_f64(args.seconds);
    let clients = sessions.into_iter().map(|mut session| async move {
        let mut times = Vec::new();
        while started.elapsed() < limit {
            let asked = Instant::now();
            session.select_1().await?;
            times.push(ms(asked.elapsed()));
            tokio::time::sleep(PAUSE).await;
        }
        session.close().await?;
        anyhow::Ok(times)
    });
    let mut times = Vec::new();
    for result in join_all(clients).await {
        times.extend(result?);
    }
    Ok(json!({ "seconds": started.elapsed().as_secs_f64(), "query_ms": times }))
}
