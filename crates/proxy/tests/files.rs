//! No file descriptors left. Alone in its process, because it takes them away from it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    fmt,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kit::{
    Stack,
    raw::{self, Raw},
};
use model::Role;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{Event, Metadata, Subscriber, field::Visit, span};
use wire::startup::Protocol;

/// Counts how often the log says that accepting fails.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Visit for &Counter {
    fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn fmt::Debug) {
        if format!("{value:?}") == "accepting clients fails" {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Subscriber for Counter {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut &*self);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Connections of the flood; 40 file descriptors are left for them.
const SILENT: usize = 300;
const LEFT: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_files_of_the_process_keep_nobody_out() {
    let counter = Counter::default();
    tracing::subscriber::set_global_default(counter.clone()).unwrap();
    let stack = Stack::start(|config| config.limits.clients_max = 10_000).await;
    let tenant = stack.tenant();
    let user = tenant.login(Role::Admin).to_string();
    let mut before = Raw::tls(stack.port, &stack.certificate);
    let parameters = [("user", user.as_str()), ("database", "postgres")];
    before.log_in(Protocol::V3_0, &parameters, &tenant.password);
    assert_eq!(raw::value(&before.query("SELECT 1")), "1");

    // In a process of its own, with files of its own: the flood, and somebody who logs in behind it.
    let mut flood = Command::new("bash")
        .args([
            "-c",
            "read; for i in $(seq $SILENT); do exec {fd}<>/dev/tcp/127.0.0.1/$PORT; done; \
               psql -XAtq \"$DSN\" -c \"SELECT 'let in'\" 2>&1; read",
        ])
        .env("SILENT", SILENT.to_string())
        .env("PORT", stack.port.to_string())
        .env("PGPASSWORD", &tenant.password)
        .env(
            "DSN",
            format!(
                "host=127.0.0.1 port={} user={user} dbname=postgres sslmode=require",
                stack.port
            ),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(flood.stdout.take().unwrap());
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(open + LEFT),
            maximum: limit.maximum,
        },
    )
    .unwrap();
    let mut stdin = flood.stdin.take().unwrap();
    stdin.write_all(b"\n").unwrap();
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "let in\n");
    // Who was there before notices nothing.
    assert_eq!(raw::value(&before.query("SELECT 2")), "2");
    setrlimit(Resource::Nofile, limit).unwrap();
    drop(stdin);
    flood.wait().unwrap();
    // It came to that, and was said once, not 260 times.
    assert_eq!(counter.0.load(Ordering::Relaxed), 1);
}
