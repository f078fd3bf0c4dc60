//! A source that nobody uses while it is copied.
//!
//! Owns: waiting until its last session is gone. New sessions are not refused meanwhile: while PostgreSQL
//! copies a database, whoever connects to it waits until the copy is there.

use std::time::Duration;

use model::Pid;
use node::NodeError;
use tokio::time::{Instant, sleep};

use crate::api::App;

/// How long a source may be kept quiet in all: above the longest copy of files worth waiting for.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Between two looks at its sessions: about what one needs to go away.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A source without sessions.
#[must_use]
pub(super) struct Quiet {
    since: Instant,
}

/// Why a source is not quiet.
#[derive(Debug, thiserror::Error)]
pub(super) enum QuietError {
    /// Somebody uses it.
    #[error("{sessions} sessions are open in the parent")]
    InUse { sessions: u32 },
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Waits until `source` has no session, at most `bound`.
pub(super) async fn take(app: &App, source: &Pid, bound: Duration) -> Result<Quiet, QuietError> {
    let since = Instant::now();
    loop {
        let sessions = app.node.sessions(source).await?;
        if sessions == 0 {
            return Ok(Quiet { since });
        }
        if since.elapsed() >= bound {
            return Err(QuietError::InUse { sessions });
        }
        sleep(LOOK_EVERY).await;
    }
}

impl Quiet {
    /// How long it may still be relied on.
    pub(super) fn left(&self) -> Duration {
        TIME_MAX.saturating_sub(self.since.elapsed())
    }

    /// It is over; says how long somebody may have waited.
    pub(super) fn release(self) -> Duration {
        self.since.elapsed()
    }
}
