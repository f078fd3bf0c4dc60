//! A server that outlived the process that ran it.
//!
//! It is stopped, not adopted: its log goes nowhere, its settings may be old, and its clients went
//! away with us. Its lock file is never touched; PostgreSQL itself clears what a dead one left.

use std::{fs, os::fd::OwnedFd, path::Path, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use tokio::time::Instant;

use super::ManagedError;

/// How long a fast shutdown may take; it writes a checkpoint. Then an immediate one, from which the
/// next start recovers.
const FAST_MAX: Duration = Duration::from_secs(60);
/// How long an immediate one may take. It writes nothing.
const IMMEDIATE_MAX: Duration = Duration::from_secs(30);

/// How long one that has ended may stay in the list of processes, until its parent (`init`, since
/// the process that ran it is gone) takes notice.
const REAP_MAX: Duration = Duration::from_secs(10);
const REAP_POLL: Duration = Duration::from_millis(20);

/// Stops the postmaster of `cluster`, when there is one.
pub(crate) async fn stop(cluster: &Path) -> Result<(), ManagedError> {
    let stopped = stop_running(cluster).await;
    // PostgreSQL takes a process that is still in the list for one that runs, and does not start.
    let until = Instant::now() + REAP_MAX;
    while ended_but_listed(cluster) && Instant::now() < until {
        tokio::time::sleep(REAP_POLL).await;
    }
    stopped
}

async fn stop_running(cluster: &Path) -> Result<(), ManagedError> {
    let Some((pid, process)) = find(cluster) else {
        return Ok(());
    };
    tracing::warn!(
        pid,
        "an earlier PostgreSQL still runs on the data; stopping it"
    );
    for (signal, limit) in [(Signal::INT, FAST_MAX), (Signal::QUIT, IMMEDIATE_MAX)] {
        // It may have ended by itself in between.
        let _ = pidfd_send_signal(&process, signal);
        if ended(&process, limit).await {
            return Ok(());
        }
    }
    Err(ManagedError::Setup(format!(
        "process {pid}, an earlier PostgreSQL on {}, does not stop: end it by hand",
        cluster.display()
    )))
}

/// Whether the process that `postmaster.pid` names has ended and is still listed, as a zombie.
fn ended_but_listed(cluster: &Path) -> bool {
    let is_zombie = || {
        let text = fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
        let pid: u32 = text.lines().next()?.trim().parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may hold anything; the state follows.
        Some(stat.rsplit_once(") ")?.1.starts_with('Z'))
    };
    is_zombie().unwrap_or(false)
}

/// The process that `postmaster.pid` names, if it is a postmaster of this very directory: every
/// postmaster's working directory is its cluster. The number alone could be anybody's by now.
fn find(cluster: &Path) -> Option<(i32, OwnedFd)> {
    let text = fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    // Held before it is looked at, so the number cannot pass to another process in between.
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let is_postgres = program
        .file_name()
        // An upgrade of the package while it runs.
        .is_some_and(|name| name == "postgres" || name == "postgres (deleted)");
    (is_postgres && cwd == cluster.canonicalize().ok()?).then_some((pid, process))
}

/// A process descriptor becomes readable when the process has ended.
async fn ended(process: &OwnedFd, limit: Duration) -> bool {
    let Ok(process) = process.try_clone() else {
        return false;
    };
    let limit = Timespec {
        tv_sec: limit.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let wait = move || poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit));
    matches!(tokio::task::spawn_blocking(wait).await, Ok(Ok(1)))
}
