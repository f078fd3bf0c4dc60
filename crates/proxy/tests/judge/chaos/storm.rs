//! Those who end servers: one between proxy and PostgreSQL who cuts connections after any number of
//! bytes, and one who ends and cancels server processes.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use model::route::{NodeAddress, NodeTarget};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use wire::startup::Protocol;

use super::Tally;
use crate::kit::{Stack, raw::Raw};

/// One connection in so many is cut.
const CUT_ONE_IN: u32 = 3;
/// After how many bytes at most, in one direction. Most sooner: each power of two is as likely.
const CUT_WITHIN_POWER: u32 = 18;

/// A socket before that of PostgreSQL.
pub struct Between {
    socket: PathBuf,
    is_over: Arc<AtomicBool>,
    cuts: Arc<AtomicU64>,
}

impl Between {
    pub fn start(stack: &Stack, seed: u64, cuts_any: bool) -> Self {
        let socket = stack.postgres.directory().join("between");
        let listener = UnixListener::bind(&socket).unwrap();
        let between = Self {
            socket,
            is_over: Arc::default(),
            cuts: Arc::default(),
        };
        let (is_over, cuts) = (between.is_over.clone(), between.cuts.clone());
        let target = stack.postgres.socket();
        std::thread::spawn(move || {
            let mut rng = StdRng::seed_from_u64(seed);
            for client in listener.incoming() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, UnixStream::connect(&target)) else {
                    continue;
                };
                let mut limits = [u64::MAX; 2];
                if cuts_any && rng.random_ratio(1, CUT_ONE_IN) {
                    let power = rng.random_range(0..=CUT_WITHIN_POWER);
                    limits[rng.random_range(0..2)] = rng.random_range(0..=1 << power);
                }
                let (a, b) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                for (from, to, limit) in [(client, server, limits[0]), (b, a, limits[1])] {
                    let cuts = cuts.clone();
                    std::thread::spawn(move || pass(from, to, limit, &cuts));
                }
            }
        });
        between
    }

    /// PostgreSQL as the proxy is to reach it.
    pub fn node(&self, stack: &Stack, budget: u32) -> Arc<NodeTarget> {
        Arc::new(NodeTarget {
            name: stack.node.name.clone(),
            address: NodeAddress::Unix(self.socket.clone()),
            server_connections_max: budget,
        })
    }

    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(&self.socket);
    }
}

/// Passes on `limit` bytes, then ends both sides.
fn pass(mut from: UnixStream, mut to: UnixStream, mut limit: u64, cuts: &AtomicU64) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let most = usize::try_from(limit).map_or(buffer.len(), |limit| limit.min(buffer.len()));
        if most == 0 {
            cuts.fetch_add(1, Ordering::Relaxed);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
        match from.read(&mut buffer[..most]) {
            Ok(read @ 1..) if to.write_all(&buffer[..read]).is_ok() => limit -= read as u64,
            _ => {
                let _ = from.shutdown(Shutdown::Read);
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}

/// Now and then ends, or cancels in, a server process of the tenants, whatever it is doing.
pub fn end_servers(stack: &Stack, tally: &Tally, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ 1);
    let mut platform = Raw::unix(&stack.postgres.socket());
    let list = [("user", "platform"), ("database", "postgres")];
    platform.log_in(Protocol::V3_0, &list, "");
    while !tally.is_over() {
        let what = if rng.random_ratio(1, 2) {
            "pg_terminate_backend"
        } else {
            "pg_cancel_backend"
        };
        platform.query(&format!(
            "SELECT {what}(pid) FROM pg_stat_activity
             WHERE datname LIKE 'x\\_%' ORDER BY random() LIMIT 1"
        ));
        pause(Duration::from_millis(rng.random_range(1..60)));
    }
}

/// So that what comes next comes at any moment of what others do.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing is waited for: the moment is what is random"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
