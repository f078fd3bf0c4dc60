//! What is counted for tenants and their sessions.
//!
//! Owns: counters as plain numbers on the home worker, and the snapshot that is read from outside.
//! Does not own: what is counted for a worker as a whole, or how numbers are written (`metrics`).
//!
//! A session counts for itself, so that it can be told apart; its tenant has what sessions that
//! ended left behind, and its worker what tenants did that were forgotten. Nothing is counted twice.

use std::{
    cell::Cell,
    ops::{Add, AddAssign, Sub},
};

use model::{
    TenantId,
    insight::{Connection, Counts, TenantCounts, TenantDetail},
};

use crate::{
    accept::Peer, handle::Handle, insight::TenantInsight, metrics::WorkerCounts, pins::Pin,
    pool::Tenant,
};

/// Counters of a session, or of all of a tenant that ended.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) statements: Cell<u64>,
    pub(crate) rows: Cell<u64>,
    pub(crate) errors: Cell<u64>,
    pub(crate) bytes_from_clients: Cell<u64>,
    pub(crate) bytes_to_clients: Cell<u64>,
    pub(crate) logins: Cell<u64>,
    pub(crate) transactions: Cell<u64>,
    pub(crate) lends: Cell<u64>,
    pub(crate) waits: Cell<u64>,
    pub(crate) waited_us: Cell<u64>,
    pub(crate) busy_us: Cell<u64>,
    /// Of a tenant: see [`TenantStats::life`].
    pub(crate) life: Cell<u64>,
}

/// Adds to a counter.
#[inline]
pub(crate) fn add(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get().wrapping_add(n));
}

impl Counters {
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            statements: self.statements.get(),
            rows: self.rows.get(),
            errors: self.errors.get(),
            bytes_from_clients: self.bytes_from_clients.get(),
            bytes_to_clients: self.bytes_to_clients.get(),
            logins: self.logins.get(),
            transactions: self.transactions.get(),
            lends: self.lends.get(),
            waits: self.waits.get(),
            waited_us: self.waited_us.get(),
            busy_us: self.busy_us.get(),
        }
    }

    /// Takes over what another one counted.
    pub(crate) fn take_over(&self, other: &Totals) {
        add(&self.statements, other.statements);
        add(&self.rows, other.rows);
        add(&self.errors, other.errors);
        add(&self.bytes_from_clients, other.bytes_from_clients);
        add(&self.bytes_to_clients, other.bytes_to_clients);
        add(&self.logins, other.logins);
        add(&self.transactions, other.transactions);
        add(&self.lends, other.lends);
        add(&self.waits, other.waits);
        add(&self.waited_us, other.waited_us);
        add(&self.busy_us, other.busy_us);
    }
}

/// What was counted since something began.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Statements begun: simple queries' results and Executes.
    pub statements: u64,
    /// Rows sent.
    pub rows: u64,
    /// Errors of the server.
    pub errors: u64,
    /// Bytes read from clients after login.
    pub bytes_from_clients: u64,
    /// Bytes of the server sent to clients.
    pub bytes_to_clients: u64,
    /// Sessions begun.
    pub logins: u64,
    /// Times the server said that no transaction runs any more.
    pub transactions: u64,
    /// Times a session was lent a server connection.
    pub lends: u64,
    /// Times a client waited for a server connection, however short.
    pub waits: u64,
    /// How long all of them together, microseconds.
    pub waited_us: u64,
    /// From a client's question, or several at once, to the end of the answer, all together,
    /// microseconds.
    pub busy_us: u64,
}

/// Field by field, so that none is forgotten.
macro_rules! each {
    ($one:expr, $other:expr, $combine:ident) => {
        Totals {
            statements: $one.statements.$combine($other.statements),
            rows: $one.rows.$combine($other.rows),
            errors: $one.errors.$combine($other.errors),
            bytes_from_clients: $one.bytes_from_clients.$combine($other.bytes_from_clients),
            bytes_to_clients: $one.bytes_to_clients.$combine($other.bytes_to_clients),
            logins: $one.logins.$combine($other.logins),
            transactions: $one.transactions.$combine($other.transactions),
            lends: $one.lends.$combine($other.lends),
            waits: $one.waits.$combine($other.waits),
            waited_us: $one.waited_us.$combine($other.waited_us),
            busy_us: $one.busy_us.$combine($other.busy_us),
        }
    };
}

impl Add for Totals {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        each!(self, other, wrapping_add)
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Totals {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        each!(self, other, saturating_sub)
    }
}

impl std::iter::Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// Numbers of one tenant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TenantStats {
    /// Whose.
    pub tenant: TenantId,
    /// Which time it is in use since the start: a tenant that was forgotten begins anew.
    pub life: u64,
    /// Clients logged in now.
    pub clients: u32,
    /// Server connections now, idle ones included.
    pub servers: u32,
    /// Clients that wait for a server connection now.
    pub waiting: usize,
    /// Since it is in use.
    pub totals: Totals,
    /// How often a session began to keep a server connection between transactions, for each reason.
    pub pins: Vec<(Pin, u64)>,
}

impl Tenant {
    /// What its sessions did, those that ended and those that live.
    pub(crate) fn totals(&self) -> Totals {
        let sessions = self.sessions.borrow();
        let live: Totals = sessions
            .values()
            .map(|own| own.about.counters.totals())
            .sum();
        self.counters.totals() + live
    }

    pub(crate) fn insight(&self, most: usize) -> TenantInsight {
        let life = self.counters.life.get();
        self.insight
            .numbers(self.id.clone(), life, self.totals(), most)
    }

    /// What is told of it to whoever keeps it.
    pub(crate) fn counts(&self) -> TenantCounts {
        let totals = self.totals();
        let times = self.insight.times();
        TenantCounts {
            tenant: self.id.clone(),
            life: self.counters.life.get(),
            clients: self.clients.get(),
            servers: self.usage().0,
            counts: Counts {
                statements: totals.statements,
                transactions: totals.transactions,
                errors: totals.errors,
                rows: totals.rows,
                bytes_from_clients: totals.bytes_from_clients,
                bytes_to_clients: totals.bytes_to_clients,
                logins: totals.logins,
                busy_us: totals.busy_us,
                times_us: times.sum_us,
                times: times.counts,
                slow: self.insight.slow(),
            },
        }
    }

    /// The same, with `most` statements by time and as many by count.
    pub(crate) fn detail(&self, most: usize) -> TenantDetail {
        TenantDetail {
            counts: self.counts(),
            statements: self.insight.most(most),
        }
    }

    /// Its clients, at most so many: those that wait first, then those that are active.
    pub(crate) fn connections(&self, most: usize) -> Vec<Connection> {
        let sessions = self.sessions.borrow();
        let mut order: Vec<_> = sessions.iter().collect();
        order.sort_by_key(|(id, own)| (!own.is_waiting(), !own.is_busy.get(), **id));
        let first = order.into_iter().take(most);
        first.map(|(_, own)| connection(&self.id, own)).collect()
    }

    pub(crate) fn stats(&self) -> TenantStats {
        let (servers, waiting) = self.usage();
        TenantStats {
            tenant: self.id.clone(),
            life: self.counters.life.get(),
            clients: self.clients.get(),
            servers,
            waiting,
            totals: self.totals(),
            pins: Pin::ALL
                .map(|pin| (pin, self.knowledge.pins[pin as usize].get()))
                .into(),
        }
    }
}

fn connection(tenant: &TenantId, own: &Handle) -> Connection {
    let about = &own.about;
    let waits = about.waits_since.get().map(|since| since.elapsed());
    let totals = about.counters.totals();
    let pins: Vec<&str> = own.pins.get().iter().map(Pin::as_str).collect();
    let target = own.target();
    Connection {
        user: format!("{tenant}.{}", own.login),
        application: about.application.clone().into(),
        address: match about.peer {
            Peer::Tcp(peer) | Peer::Http(peer) => Some(peer.ip()),
            Peer::Door => None,
        },
        state: match (waits, own.is_busy.get()) {
            (Some(_), _) => "waiting",
            (None, true) => "active",
            (None, false) => "idle",
        },
        process: target.and_then(|target| Some(target.key.as_ref()?.process_id())),
        connected: about.began.elapsed(),
        waits,
        statements: totals.statements,
        errors: totals.errors,
        tls: about.tls,
        pinned_by: (!pins.is_empty()).then(|| pins.join(",")),
    }
}

/// Numbers of one node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeStats {
    /// Which.
    pub node: String,
    /// Server connections of all tenants now, also those being opened or closed.
    pub servers: u32,
    /// Its budget of them.
    pub servers_max: u32,
    /// Server connections being opened now.
    pub opening: usize,
    /// Tenants that wait for a place in the budget now.
    pub tenants_waiting: usize,
}

/// Numbers of one proxy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// Connections of clients now, also those that are logging in.
    pub clients: usize,
    /// `clients_max`.
    pub clients_max: usize,
    /// Addresses, and logins at addresses, of which attempts or failures are remembered now.
    pub addresses_remembered: usize,
    /// How many can be.
    pub addresses_remembered_max: usize,
    /// Bans after repeated failed logins, since the start.
    pub address_bans: u64,
    /// Idle server connections now.
    pub servers_idle: usize,
    /// Answers of servers that nobody had asked for, since the start. Anything but 0 is a mistake
    /// of ours or of the server's.
    pub mismatches: u64,
    /// Sessions that ended by a panic, since the start.
    pub panics: u64,
    /// Steps of logins that had to wait for another turn of their worker, since the start. It rises
    /// while more log in than `login_steps_max` lets through beside queries.
    pub login_steps_delayed: u64,
    /// Nodes that were used.
    pub nodes: Vec<NodeStats>,
    /// Tenants in use or used lately.
    pub tenants: Vec<TenantStats>,
    /// Of all tenants, also those that were forgotten, since the start.
    pub totals: Totals,
    /// What workers counted, since the start.
    pub counts: WorkerCounts,
}
