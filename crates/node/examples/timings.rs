//! How long the steps of creating a tenant take on a managed node of this machine.
//!
//! `cargo run --release -p node --example timings -- /usr/lib/postgresql/15/bin [tenants]`

#![allow(clippy::unwrap_used, reason = "a measurement")]

use std::time::Duration;

use model::Pid;
use node::{
    Template,
    managed::{self, ManagedConfig, StopLimit},
};
use tokio::time::Instant;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let bin = arguments.next().expect("a directory of PostgreSQL");
    let tenants = arguments.next().map_or(200, |text| text.parse().unwrap());
    let dir = std::env::temp_dir().join(format!("tenantry-{}", Pid::random(&mut rand::rng())));
    let config = ManagedConfig {
        bin: Some(bin.into()),
        memory_bytes: Some(2 << 30),
        fallback_root: dir.join("elsewhere"),
        ..ManagedConfig::new(dir.join("data"))
    };
    std::fs::create_dir(&dir).unwrap();
    // PostgreSQL's user passes through.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let started = Instant::now();
    let server = managed::start(config.clone()).await.unwrap();
    let node = server.node();
    let version = node.server_version();
    println!(
        "PostgreSQL {}: first start {:?}",
        version.major(),
        started.elapsed()
    );

    let mut steps: [Vec<Duration>; 6] = Default::default();
    for count in 0..tenants {
        let pid = Pid::random(&mut rand::rng());
        let mut at = Instant::now();
        let mut lap = |step: usize| {
            let now = Instant::now();
            steps[step].push(now - at);
            at = now;
        };
        node.create_logins(&pid).await.unwrap();
        lap(0);
        node.create_database(&pid, &Template::Empty).await.unwrap();
        lap(1);
        node.open(&pid).await.unwrap();
        lap(2);
        // Every second one goes again, as in a fleet that is used.
        if count % 2 == 1 {
            node.close(&pid).await.unwrap();
            lap(3);
            node.drop_database(&pid).await.unwrap();
            lap(4);
            node.drop_logins(&pid).await.unwrap();
            lap(5);
        }
    }
    let names = [
        "logins",
        "database",
        "open",
        "close",
        "drop database",
        "drop logins",
    ];
    for (name, times) in names.iter().zip(&mut steps) {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1000.0;
        println!(
            "{name:14} p50 {:6.1} ms  p99 {:6.1} ms  max {:6.1} ms  ({})",
            at(50),
            at(99),
            at(100),
            times.len()
        );
    }
    server.stop(StopLimit::default()).await;
    let started = Instant::now();
    let server = managed::start(config).await.unwrap();
    println!("start again {:?}", started.elapsed());
    server.stop(StopLimit::default()).await;
    std::fs::remove_dir_all(&dir).unwrap();
}
