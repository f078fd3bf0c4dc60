//! Clients that log in and stay.

use std::io;

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::Targets;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    targets: Targets,
    /// Clients, spread evenly over the targets.
    #[arg(long)]
    clients: usize,
}

/// Logins under way at once: enough to be quick, too few for any listen queue to overflow.
const AT_ONCE: usize = 16;

pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let targets = args.targets.load()?;
    let logins = (0..args.clients).map(|i| targets[i % targets.len()].connect());
    let sessions: Vec<_> = stream::iter(logins)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let sessions = sessions.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    println!("{}", json!({ "ready": sessions.len() }));
    // Its own thread: this one keeps serving the sessions.
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    let count = sessions.len();
    for session in sessions {
        session.close().await?;
    }
    Ok(json!({ "closed": count }))
}
