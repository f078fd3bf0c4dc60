//! One login and some queries on each database in turn.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{Targets, ms};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    targets: Targets,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Value> {
    let (mut login, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
    for target in args.targets.load()? {
        let started = Instant::now();
        let mut session = target.connect().await?;
        let logged_in = started.elapsed();
        session.select_1().await?;
        let asked = started.elapsed();
        session.select_1().await?;
        login.push(ms(logged_in));
        first.push(ms(asked - logged_in));
        second.push(ms(started.elapsed() - asked));
        session.close().await?;
    }
    Ok(json!({ "login_ms": login, "first_ms": first, "second_ms": second }))
}
