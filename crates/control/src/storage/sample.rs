//! What databases take on disk, whether there is a limit to it or not: a few in each round, in turn.
//!
//! Owns: how many, how often, and that processes take turns. Does not own: those that could be full soon
//! (`plan`), which are measured beside this.
//!
//! The turns are rows of the catalog, so a restart begins no new lap, and a database that is gone or cannot
//! be measured goes to the end like all others.

use std::time::Duration;

use tokio::time::Instant;

use super::{note, plan::Plan, store};
use crate::{
    api::{App, error::chain},
    catalog::CatalogError,
};

/// Databases measured in one round of a node: some 5 ms of its server's time, of a few hundred files each.
const SAMPLED_MAX: i64 = 5;
/// Between two rounds of a node, by whichever process: a little less than the time between two ticks of
/// one, so that none comes just too early.
const TURN: Duration = Duration::from_millis(900);
/// Time for one round. What takes longer is the last one of its round.
const ROUND_TIME_MAX: Duration = Duration::from_millis(50);
/// After it was measured, a database rests for so long at least. With more than 1,500 of them a lap takes
/// longer.
const REST: Duration = Duration::from_secs(300);

/// Measures those whose turn it is, if it is this process's turn.
pub(super) async fn round(app: &App, plan: &mut Plan) -> Result<(), CatalogError> {
    let client = app.catalog.get().await?;
    let due = store::due(&client, app.node.name(), SAMPLED_MAX).await?;
    // While nobody is due, nothing is written.
    if due.is_empty() || !store::take_turn(&client, app.node.name(), TURN).await? {
        return Ok(());
    }
    drop(client);
    let began = Instant::now();
    let mut looked_at = Vec::new();
    for pid in due {
        let found = app.node.database_bytes(&pid).await;
        let has_failed = found.is_err();
        let bytes = found.unwrap_or_else(|error| {
            tracing::debug!(error = %chain(&error), "a database was not measured");
            None
        });
        let is_written = match bytes {
            Some(bytes) => note(app, plan, &pid, bytes, Some(REST)).await?,
            None => false,
        };
        if !is_written {
            looked_at.push((pid, bytes));
        }
        // Of a server that does not answer, nobody else is asked now.
        if has_failed || began.elapsed() >= ROUND_TIME_MAX {
            break;
        }
    }
    if looked_at.is_empty() {
        return Ok(());
    }
    store::looked_at(&mut app.catalog.get().await?, &looked_at, REST).await
}
