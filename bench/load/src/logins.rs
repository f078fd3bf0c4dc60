//! Log in and out, again and again.

use std::{cell::Cell, time::Duration};

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
    callers: usize,
    /// For how long.
    #[arg(long)]
    seconds: f64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let targets = args.targets.load()?;
    // Passwords are hashed now, once for each target.
    for target in &targets {
        target.connect().await?.close().await?;
    }
    let started = Instant::now();
    let limit = Duration::from_secs_f64(args.seconds);
    let next = Cell::new(0);
    let callers = (0..args.callers).map(|_| async {
        let mut times = Vec::new();
        while started.elapsed() < limit {
            let target = &targets[next.replace(next.get() + 1) % targets.len()];
            let began = Instant::now();
            let session = target.connect().await?;
            times.push(ms(began.elapsed()));
            session.close().await?;
        }
        anyhow::Ok(times)
    });
    let mut times = Vec::new();
    for result in join_all(callers).await {
        times.extend(result?);
    }
    Ok(json!({ "seconds": started.elapsed().as_secs_f64(), "login_ms": times }))
}
