//! Many clients on many tenants, some of which are asked much more often than others.
//!
//! A client that is refused goes on; what it was told is counted. One whose connection ends is
//! counted, too, and gone.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{Targets, ms, session::Session};

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
    /// Mean pause of a client between two questions, spread evenly from none to twice this.
    #[arg(long, default_value_t = 0.0)]
    pause_ms: f64,
    /// Exponent of Zipf's law, by which clients choose their target. 0: all targets alike.
    #[arg(long, default_value_t = 0.0)]
    zipf: f64,
    /// Where the random numbers begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Logins under way at once.
const AT_ONCE: usize = 16;

pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let targets = args.targets.load()?;
    let chosen = choices(&args, targets.len());
    let logins = chosen.iter().map(|target| targets[*target].connect());
    let sessions: Vec<_> = stream::iter(logins)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    let mut open = Vec::new();
    for session in sessions {
        match session {
            Ok(session) => open.push(session),
            Err(error) => *errors.entry(format!("login: {error:#}")).or_default() += 1,
        }
    }
    let clients = open.len();
    let started = Instant::now();
    let asked = open.into_iter().enumerate().map(|(number, session)| {
        let rng = StdRng::seed_from_u64(args.seed.wrapping_add(number as u64));
        client(session, &args, started, rng)
    });
    let mut times = Vec::new();
    for (own, refused) in join_all(asked).await {
        times.extend(own);
        for reason in refused {
            *errors.entry(reason).or_default() += 1;
        }
    }
    let used = chosen
        .iter()
        .collect::<std::collections::BTreeSet<_>>()
        .len();
    Ok(json!({
        "seconds": started.elapsed().as_secs_f64(),
        "clients": clients,
        "targets": used,
        "query_ms": times,
        "errors": errors,
    }))
}

/// Which target each client takes.
fn choices(args: &Args, targets: usize) -> Vec<usize> {
    let mut rng = StdRng::seed_from_u64(args.seed);
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=targets)
        .map(|rank| {
            #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
            let rank = rank as f64;
            sum += rank.powf(-args.zipf);
            sum
        })
        .collect();
    (0..args.clients)
        .map(|_| {
            let point = rng.random_range(0.0..sum);
            sums.partition_point(|sum| *sum <= point).min(targets - 1)
        })
        .collect()
}

async fn client(
    mut session: Session,
    args: &Args,
    started: Instant,
    mut rng: StdRng,
) -> (Vec<f64>, Vec<String>) {
    let (mut times, mut refused) = (Vec::new(), Vec::new());
    let limit = Duration::from_secs_f64(args.seconds);
    let mut pause = async || {
        if args.pause_ms > 0.0 {
            let part = rng.random_range(0.0..=2.0);
            tokio::time::sleep(Duration::from_secs_f64(part * args.pause_ms / 1e3)).await;
        }
    };
    // Not all in the same moment.
    pause().await;
    while started.elapsed() < limit {
        let asked = Instant::now();
        match session.ask_1("select 1").await {
            Ok(Ok(())) => times.push(ms(asked.elapsed())),
            Ok(Err(reason)) => refused.push(reason),
            Err(error) => {
                refused.push(format!("lost: {error:#}"));
                return (times, refused);
            }
        }
        pause().await;
    }
    let _ = session.close().await;
    (times, refused)
}
