//! Clients and servers that vanish anywhere, cancels, limits, and more sessions than server
//! connections: every answer that arrives is the one to its own question.
//!
//! Owns: the tenants and their limits, how long it lasts, and what must hold at the end. The sessions
//! and their canaries are in `life`, what is right in `compare`, those who cut and kill in `storm`.

mod compare;
mod life;
mod storm;
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use model::{Role, limits::Rate, route::PoolMode};

use crate::kit::{Stack, Tenant};

/// Server connections for all tenants.
pub const BUDGET: u32 = 5;
const TENANTS: usize = 5;
/// Sessions of each tenant at once.
const SESSIONS: usize = 7;
/// Of the tenant with a limit on them.
const ROWS_MAX: u64 = 1000;
/// Clients of the tenant with a limit on them: fewer than try.
const CLIENTS_MAX: u32 = 4;

/// So many errors, and fewer answers than were to be compared: none will come.
const ERRORS_MAX: u64 = 5_000;

/// When it is over, unless something was found: after this time and this many answers. How long that takes
/// is up to the machine.
#[derive(Clone, Copy, Debug)]
pub struct Enough {
    pub time: Duration,
    pub answers: u64,
}

/// What was seen.
pub struct Tally {
    /// Answers that were compared with what was asked.
    pub answers: AtomicU64,
    pub sessions: AtomicU64,
    /// Errors by SQLSTATE, and connections that just ended.
    pub errors: Mutex<BTreeMap<String, u64>>,
    /// What must not be.
    pub findings: Mutex<Vec<String>>,
    stop: AtomicBool,
    until: Instant,
    answers_min: u64,
}

impl Tally {
    fn new(enough: Enough) -> Self {
        Self {
            answers: AtomicU64::default(),
            sessions: AtomicU64::default(),
            errors: Mutex::default(),
            findings: Mutex::default(),
            stop: AtomicBool::default(),
            until: Instant::now() + enough.time,
            answers_min: enough.answers,
        }
    }

    fn error(&self, code: &str) {
        let mut errors = self.errors.lock().unwrap();
        *errors.entry(code.to_owned()).or_default() += 1;
        if errors.values().sum::<u64>() > ERRORS_MAX
            && self.answers.load(Ordering::Relaxed) < self.answers_min
        {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn found(&self, what: String) {
        self.findings.lock().unwrap().push(what);
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        let has_enough = || {
            Instant::now() > self.until && self.answers.load(Ordering::Relaxed) >= self.answers_min
        };
        self.stop.load(Ordering::Relaxed) || has_enough()
    }
}

/// A tenant as its sessions know it.
pub struct Home {
    tenant: Tenant,
    has_rows_max: bool,
}

fn homes(stack: &Stack, mode: PoolMode) -> Vec<Home> {
    (0..TENANTS)
        .map(|number| {
            let tenant = stack.tenant();
            stack.postgres.sql(
                &tenant.pid.database(),
                &format!(
                    "SET ROLE tenantry_admin;
                     CREATE TABLE canary AS SELECT '{}'::text AS id;
                     CREATE TABLE sink(token text)",
                    tenant.id
                ),
            );
            stack.set_route(&tenant, Role::Admin, |route| {
                route.pool_mode = mode;
                match number {
                    0 => route.limits.result_rows_max = Some(ROWS_MAX),
                    1 => {
                        route.limits.statements = Some(Rate {
                            per_second: 200,
                            burst: 50,
                        });
                    }
                    2 => route.limits.client_connections_max = CLIENTS_MAX,
                    3 => route.limits.server_connections_max = 2,
                    _ => {}
                }
            });
            Home {
                tenant,
                has_rows_max: number == 0,
            }
        })
        .collect()
}

/// Runs it; returns what was seen. `servers_die`: whether server processes and connections to them
/// end, too.
pub fn run(
    stack: &mut Stack,
    mode: PoolMode,
    servers_die: bool,
    enough: Enough,
    seed: u64,
) -> Tally {
    let between = storm::Between::start(stack, seed, servers_die);
    stack.node = between.node(stack, BUDGET);
    let stack = &*stack;
    let homes = homes(stack, mode);
    let tally = Tally::new(enough);
    std::thread::scope(|scope| {
        for number in 0..TENANTS * SESSIONS {
            let (home, tally) = (&homes[number % TENANTS], &tally);
            std::thread::Builder::new()
                .name(format!("session {number}"))
                .spawn_scoped(scope, move || {
                    let mut serial = 0;
                    while !tally.is_over() {
                        let seed = seed
                            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                            .wrapping_add((number as u64) << 32 | serial);
                        life::live(stack, home, tally, seed);
                        serial += 1;
                    }
                })
                .unwrap();
        }
        if servers_die {
            scope.spawn(|| storm::end_servers(stack, &tally, seed));
        }
    });
    if servers_die {
        println!("{} server connections cut", between.cuts());
    }
    tally
}
