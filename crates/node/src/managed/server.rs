//! The life of the postmaster: started as our child, watched, started again, stopped.

use std::{
    fs,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use tokio::{
    process::{Child, Command},
    sync::{oneshot, watch},
    time::Instant,
};

use super::{
    ManagedError, ServerState, StopLimit, history, io_error,
    log::{Tail, follow},
    settings::arguments,
    socket::SocketDir,
    user::RunAs,
};
use crate::Node;

/// First pause before a server that died is started again; it doubles up to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A server that lived as long as this begins again with the first pause.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// How often a starting server is asked whether it answers.
pub(crate) const READY_POLL: Duration = Duration::from_millis(20);
/// How long the first start may take, recovery included.
const START_MAX: Duration = Duration::from_secs(1800);
/// How long an immediate shutdown may take before its processes are killed. It writes nothing.
const IMMEDIATE_MAX: Duration = Duration::from_secs(30);

/// Limits its own memory, then becomes the server, which hands the limit on to every process it makes.
/// From outside the limit could only be set with a capability that containers lack. It counts private
/// memory: neither `shared_buffers` nor what parallel workers share.
const LIMITED: &str = r#"ulimit -d "$0" && exec "$@""#;
const SHELL: &str = "/bin/sh";

/// How the server is to end.
#[derive(Debug, Default)]
pub(crate) struct Stopping {
    pub(crate) limit: StopLimit,
    /// Says that the limit is over now.
    pub(crate) hurry: Option<oneshot::Receiver<()>>,
}

/// What is needed to start a server, again and again.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) bin: PathBuf,
    pub(crate) cluster: PathBuf,
    pub(crate) conf: PathBuf,
    pub(crate) logs: PathBuf,
    /// Where it begins; itself it goes into its cluster.
    pub(crate) base: PathBuf,
    pub(crate) socket: SocketDir,
    /// Where the archiver finds its directory.
    pub(crate) history: Option<PathBuf>,
    /// The locks, held as long as it may run.
    pub(crate) _locks: Vec<fs::File>,
    pub(crate) user: Option<RunAs>,
    pub(crate) process_bytes_max: u64,
    pub(crate) tail: Tail,
}

impl Launch {
    pub(crate) fn start(&self) -> Result<Child, ManagedError> {
        let program = self.bin.join("postgres");
        let failed = |error| io_error("run", &program, error);
        let (log, stderr) = std::io::pipe().map_err(failed)?;
        self.tail.clear();
        follow(log, &self.logs, self.tail.clone()).map_err(failed)?;
        let mut command = Command::new(SHELL);
        command
            .args(["-c", LIMITED])
            .arg(self.process_kb_max().to_string())
            .arg(&program)
            .args(arguments(&self.cluster, &self.conf, self.socket.path()))
            .current_dir(&self.base)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        if let Some(history) = &self.history {
            command.env(history::wal::ENVIRONMENT, history);
        }
        RunAs::apply(self.user.as_ref(), &mut command);
        command.spawn().map_err(failed)
    }

    /// Never more than what we were given ourselves: raising it would need a right.
    fn process_kb_max(&self) -> u64 {
        let given = getrlimit(Resource::Data).maximum.unwrap_or(u64::MAX);
        self.process_bytes_max.min(given) / 1024
    }
}

pub(crate) fn id(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}

/// Starts the server and waits until it answers. The task that returns with it keeps it running.
///
/// Dropped while it waits, or when the sender of `stop` is dropped, the task stops the server.
pub(crate) async fn run(
    launch: Launch,
    node: Node,
    state: watch::Sender<ServerState>,
    pid: Arc<AtomicU32>,
    stop: oneshot::Receiver<Stopping>,
) -> Result<tokio::task::JoinHandle<()>, ManagedError> {
    let tail = launch.tail.clone();
    let mut keeper = Keeper {
        launch,
        node,
        state,
        pid,
    };
    let child = keeper.start()?;
    let (report, ready) = oneshot::channel();
    let task = tokio::spawn(keeper.keep(child, stop, report));
    match ready.await {
        Ok(Ok(())) => Ok(task),
        Ok(Err(why)) => {
            let _ = task.await;
            tail.last_words().await;
            let output = format!("{why}\n{}", tail.text());
            Err(ManagedError::Program {
                program: "postgres",
                output,
            })
        }
        Err(_) => Err(ManagedError::Setup(
            "it was stopped while it started".to_owned(),
        )),
    }
}

struct Keeper {
    launch: Launch,
    node: Node,
    state: watch::Sender<ServerState>,
    pid: Arc<AtomicU32>,
}

/// How a wait ended.
enum Event {
    /// The postmaster ended by itself.
    Died(std::io::Result<ExitStatus>),
    /// We are to stop it.
    Stop(Stopping),
    /// It answers.
    Ready,
}

impl Keeper {
    fn set(&self, state: ServerState) {
        self.state.send_replace(state);
    }

    fn start(&mut self) -> Result<Child, ManagedError> {
        self.set(ServerState::Starting);
        let child = self.launch.start()?;
        self.pid.store(child.id().unwrap_or(0), Ordering::Relaxed);
        Ok(child)
    }

    /// Until it is told to stop, or never came up. `report` learns whether it did.
    async fn keep(
        mut self,
        mut child: Child,
        mut stop: oneshot::Receiver<Stopping>,
        report: oneshot::Sender<Result<(), String>>,
    ) {
        let first = tokio::time::timeout(START_MAX, self.next(&mut child, &mut stop)).await;
        match first {
            Ok(Event::Ready) => {
                self.set(ServerState::Up);
                let _ = report.send(Ok(()));
                self.keep_up(child, stop).await;
            }
            Ok(Event::Stop(stopping)) => self.end(&mut child, stopping).await,
            Ok(Event::Died(status)) => {
                let _ = report.send(Err(words(status)));
            }
            Err(_) => {
                self.end(&mut child, Stopping::default()).await;
                let _ = report.send(Err(format!("it did not answer within {START_MAX:?}")));
            }
        }
        self.pid.store(0, Ordering::Relaxed);
        self.set(ServerState::Stopped);
    }

    async fn keep_up(&mut self, child: Child, mut stop: oneshot::Receiver<Stopping>) {
        let mut child = Some(child);
        let mut started = Instant::now();
        let mut attempt = 0;
        let stopping = loop {
            let Some(running) = child.as_mut() else {
                attempt += 1;
                self.set(ServerState::Restarting { attempt });
                tokio::select! {
                    () = tokio::time::sleep(backoff(attempt)) => {}
                    stopping = &mut stop => break stopping.unwrap_or_default(),
                }
                started = Instant::now();
                match self.start() {
                    Ok(started) => child = Some(started),
                    Err(error) => tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "PostgreSQL cannot be started"
                    ),
                }
                continue;
            };
            match self.next(running, &mut stop).await {
                Event::Ready => {
                    tracing::info!("PostgreSQL answers again");
                    self.set(ServerState::Up);
                }
                Event::Stop(stopping) => break stopping,
                Event::Died(status) => {
                    self.pid.store(0, Ordering::Relaxed);
                    let status = words(status);
                    tracing::error!(status, "PostgreSQL ended by itself; starting it again");
                    if started.elapsed() >= STABLE_AFTER {
                        attempt = 0;
                    }
                    child = None;
                }
            }
        };
        if let Some(mut child) = child {
            self.end(&mut child, stopping).await;
        }
    }

    async fn next(&self, child: &mut Child, stop: &mut oneshot::Receiver<Stopping>) -> Event {
        let starting = *self.state.borrow() == ServerState::Starting;
        tokio::select! {
            status = child.wait() => Event::Died(status),
            stopping = stop => Event::Stop(stopping.unwrap_or_default()),
            () = self.answers(), if starting => Event::Ready,
        }
    }

    async fn answers(&self) {
        while self.node.ping().await.is_err() {
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Fast; after the limit, or when it is hurried, immediately.
    async fn end(&self, child: &mut Child, stopping: Stopping) {
        let mut hurried = std::pin::pin!(hurried(stopping.hurry));
        for (signal, limit) in [
            (Signal::INT, stopping.limit.fast),
            (Signal::QUIT, IMMEDIATE_MAX),
            (Signal::KILL, Duration::MAX),
        ] {
            let Some(pid) = id(child) else { return };
            // Not reaped yet, so the number is still its own.
            let _ = kill_process(pid, signal);
            tokio::select! {
                _ = child.wait() => return,
                () = tokio::time::sleep(limit) => {
                    tracing::warn!(?signal, "PostgreSQL did not stop in time");
                }
                () = &mut hurried, if signal == Signal::INT => {}
            }
        }
    }
}

/// Never, when nobody hurries.
async fn hurried(hurry: Option<oneshot::Receiver<()>>) {
    if let Some(hurry) = hurry
        && hurry.await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

pub(crate) fn words(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

fn backoff(attempt: u32) -> Duration {
    BACKOFF_MIN
        .saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)))
        .min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses: Vec<u128> = [1, 2, 3, 8, 1000].map(|n| backoff(n).as_millis()).into();
        assert_eq!(pauses, [100, 200, 400, 10_000, 10_000]);
    }
}
