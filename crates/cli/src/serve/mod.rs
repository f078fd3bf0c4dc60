//! `tenantry serve`: one process with the control plane, the proxy, and PostgreSQL as its child.
//!
//! Owns: the order in which the parts start and stop. What is read at start is in [`settings`] and
//! [`config`], what is kept in [`files`] and [`tls`]; the parts themselves are crates of their own.

mod config;
pub(crate) mod files;
mod insight;
mod issuers;
mod key;
mod metrics;
mod parts;
mod ports;
mod settings;
mod signals;
mod tls;
mod told;

use std::{io::Write as _, time::Duration};

use config::{Config, LogForm};
use signals::Signals;
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt as _, registry,
    util::SubscriberInitExt as _,
};

use crate::exit::{Exit, Failure};

#[cfg(test)]
pub(crate) use settings::SETTINGS;
pub(crate) use settings::ServeArgs;

/// Threads of the control plane. Its work waits for PostgreSQL most of the time; two let one hash
/// passwords while the other answers.
const CONTROL_THREADS: usize = 2;
/// After everything was stopped: for tasks that wait for nothing any more.
const LAST_TASKS_MAX: Duration = Duration::from_secs(2);

/// Runs the server until it is told to stop.
///
/// # Errors
///
/// [`Exit::Usage`] for mistakes in the settings, all of them; else why it could not start.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = read_settings(args)?;
    if args.check_only() {
        if let Some(doubt) = config.tls.as_ref().and_then(|given| given.doubt()) {
            eprintln!("note: {doubt}");
        }
        eprintln!("the settings are right");
        return Ok(());
    }
    start_log(&config);
    let open_files = raise_open_files(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    let done = runtime.block_on(serve(config, open_files));
    runtime.shutdown_timeout(LAST_TASKS_MAX);
    done
}

fn read_settings(args: &ServeArgs) -> Result<Config, Failure> {
    let raw = args.gather(|name| std::env::var_os(name));
    Config::validate(raw).map_err(|mistakes| {
        for mistake in &mistakes {
            eprintln!("error: {mistake}");
        }
        if mistakes.len() > 1 {
            eprintln!("{} mistakes; nothing was started", mistakes.len());
        }
        Failure::Told(Exit::Usage)
    })
}

/// Logs go to standard error, so that standard output has the ready line only.
fn start_log(config: &Config) {
    use std::io::IsTerminal as _;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = fmt::layer().with_writer(std::io::stderr);
    let log = registry()
        .with(EnvFilter::new(&config.log_filter))
        .with(filter_fn(|line| {
            may_be_logged(line.target(), *line.level())
        }));
    match config.log {
        LogForm::Human => log.with(lines.with_ansi(colours).compact()).init(),
        LogForm::Json => log.with(lines.json().flatten_event(true)).init(),
    }
}

/// Whatever `log-filter` says: this library logs statements and their parameters, verifiers and
/// names of users among them.
fn may_be_logged(target: &str, level: Level) -> bool {
    level <= Level::WARN || !target.starts_with("tokio_postgres")
}

/// Every client and every server connection is an open file, and the usual limit is 1,024. It may
/// be raised up to the hard one; PostgreSQL, our child, is content with either.
fn raise_open_files(config: &Config) -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let _ = setrlimit(Resource::Nofile, raised);
    let now = getrlimit(Resource::Nofile).current;
    let wanted = u64::from(config.clients_max) + u64::from(config.server_connections_max) + 256;
    if let Some(now) = now
        && now < wanted
    {
        tracing::warn!(
            open_files = now,
            wanted,
            "too few open files for clients-max; raise the hard limit (ulimit -Hn, LimitNOFILE=)"
        );
    }
    now
}

async fn serve(config: Config, open_files: Option<u64>) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), open_files, "starting");

    // A signal while starting is obeyed when the start is over: PostgreSQL is then a child that
    // can be stopped, not one that is being born.
    let parts = tokio::select! {
        parts = parts::start(&config) => parts?,
        () = signals.times(2) => {
            return Err(Failure::new(Exit::Failed, "stopped while starting", "PostgreSQL, if it was started, is stopped by the next start"));
        }
    };
    if signals.count() == 0 {
        tell_ready(&config, &parts)?;
        signals.times(1).await;
    }
    tracing::info!(
        limit_s = config.drain_limit.as_secs(),
        "stopping; a second signal stops at once"
    );
    parts.stop(config.drain_limit, &mut signals).await;
    tracing::info!("stopped");
    Ok(())
}

/// The one line on standard output. Scripts and service managers wait for it.
fn tell_ready(config: &Config, parts: &parts::Parts) -> Result<(), Failure> {
    let line = match config.log {
        LogForm::Human => parts.human(),
        LogForm::Json => parts.json().to_string(),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
