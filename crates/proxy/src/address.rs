//! What one address may do, and for how long it is turned away after repeated failures.
//!
//! Owns: connections, attempts to log in and failed ones per address, and bans. An address of IPv6 is a
//! /64: that many belong to one customer. Does not own: limits of tenants, which address a client
//! has, or who is told what (`login`).
//!
//! Many applications may share an address, and one of them may have an old password. So a ban is first
//! one of that login at that address; the address as a whole is banned when several logins fail
//! there, as they do when somebody guesses names. A login that succeeds takes back its own failures and
//! nobody else's: whoever has one good password does not buy guesses at others with it. Whether
//! a login exists makes no difference to anything here.
//!
//! It is locked twice or three times for a login, never for a query.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::Network;
use tokio::time::Instant;

use crate::{
    config::{Config, Limits},
    error::Refusal,
};

/// Addresses, and logins at addresses, that are remembered; 100 bytes each. When there are more, the half
/// that matters least is forgotten. Whoever wants its ban forgotten has to get half as many others
/// banned first, each by `address_failures_max` failed logins.
const REMEMBERED_MAX: usize = 65_536;
/// Logins that have to fail before their address is banned as a whole: of each, no more than this
/// part of `address_failures_max` counts for the address.
const FAILING_LOGINS_MIN: u32 = 4;
const SECOND: Duration = Duration::from_secs(1);

/// An address, as far as it tells one customer from another.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
struct Origin(IpAddr);

impl Origin {
    fn of(address: IpAddr) -> Self {
        Self(model::origin(address))
    }
}

/// Of whom something is remembered.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
struct Whose {
    origin: Origin,
    /// Hash of a login, under a key that nobody knows. `None`: the address as a whole.
    login: Option<u64>,
}

/// All addresses of a process.
#[derive(Debug)]
pub(crate) struct Addresses {
    known: Mutex<Known>,
    rules: Rules,
    unlimited: Vec<Network>,
    hasher: RandomState,
    remembered_max: usize,
}

#[derive(Debug, Default)]
struct Known {
    /// Of every address with connections, while they are counted: as many as there are clients.
    connections: HashMap<Origin, usize>,
    remembered: HashMap<Whose, Record>,
    bans: u64,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    connections_max: usize,
    attempts_per_second_max: u32,
    failures_max: u32,
    failures_window: Duration,
    ban: Duration,
}

/// Something counted in a stretch of time that began with the first.
#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    number: u32,
}

impl Count {
    fn is_over(&self, stretch: Duration, now: Instant) -> bool {
        self.number == 0 || now >= self.since + stretch
    }

    /// Counts one more, in this stretch or a new one.
    fn add(&mut self, stretch: Duration, now: Instant) -> u32 {
        if self.is_over(stretch, now) {
            (self.since, self.number) = (now, 0);
        }
        self.number = self.number.saturating_add(1);
        self.number
    }
}

#[derive(Clone, Copy, Debug)]
struct Record {
    attempts: Count,
    failures: Count,
    banned_until: Option<Instant>,
}

/// How much is lost with a record; what is worth least comes first.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
enum Worth {
    Nothing,
    Tried(Instant),
    Failed(u32, Instant),
    Banned(Instant),
}

impl Record {
    fn new(now: Instant) -> Self {
        let none = Count {
            since: now,
            number: 0,
        };
        Self {
            attempts: none,
            failures: none,
            banned_until: None,
        }
    }

    fn banned_until(&self, now: Instant) -> Option<Instant> {
        self.banned_until.filter(|until| *until > now)
    }

    fn worth(&self, rules: &Rules, now: Instant) -> Worth {
        if let Some(until) = self.banned_until(now) {
            Worth::Banned(until)
        } else if !self.failures.is_over(rules.failures_window, now) {
            Worth::Failed(self.failures.number, self.failures.since)
        } else if !self.attempts.is_over(SECOND, now) {
            Worth::Tried(self.attempts.since)
        } else {
            Worth::Nothing
        }
    }
}

impl Known {
    /// What is remembered of somebody, for more to be noted.
    fn record(&mut self, whose: Whose, all: &Addresses, now: Instant) -> &mut Record {
        if self.remembered.len() >= all.remembered_max && !self.remembered.contains_key(&whose) {
            self.forget(&all.rules, all.remembered_max / 2, now);
        }
        let new = || Record::new(now);
        self.remembered.entry(whose).or_insert_with(new)
    }

    /// Keeps the `most` that matter most. Takes a time that grows with their number, and is not due
    /// again before as many came anew.
    fn forget(&mut self, rules: &Rules, most: usize, now: Instant) {
        let worth = |record: &Record| record.worth(rules, now);
        self.remembered
            .retain(|_, record| worth(record) > Worth::Nothing);
        let excess = self.remembered.len().saturating_sub(most);
        if excess == 0 {
            return;
        }
        let mut all: Vec<Worth> = self.remembered.values().map(worth).collect();
        let (_, limit, _) = all.select_nth_unstable(excess - 1);
        let limit = *limit;
        // What is worth less goes for certain, and of what is worth as much, so many as are left.
        let less = all.iter().filter(|worth| **worth < limit).count();
        let mut left = excess - less;
        self.remembered.retain(|_, record| {
            let worth = worth(record);
            let goes = worth < limit || (worth == limit && left > 0);
            left -= usize::from(goes && worth == limit);
            !goes
        });
    }
}

impl Addresses {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        Self::remembering(
            REMEMBERED_MAX,
            &config.limits,
            &config.address_limits_not_for,
        )
    }

    fn remembering(remembered_max: usize, limits: &Limits, unlimited: &[Network]) -> Arc<Self> {
        Arc::new(Self {
            known: Mutex::default(),
            rules: Rules {
                connections_max: limits.address_connections_max,
                attempts_per_second_max: limits.address_attempts_per_second_max,
                failures_max: limits.address_failures_max,
                failures_window: limits.address_failures_window,
                ban: limits.address_ban,
            },
            unlimited: unlimited.to_vec(),
            hasher: RandomState::new(),
            remembered_max,
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection came from there.
    ///
    /// # Errors
    ///
    /// [`FarTooMany`]: its address has so many that this one need not even be told; the first `told_max`
    /// of those too many are.
    pub(crate) fn connected(
        self: &Arc<Self>,
        from: IpAddr,
        told_max: usize,
    ) -> Result<Connection, FarTooMany> {
        let origin = Origin::of(from);
        let is_limited = !self.unlimited.iter().any(|network| network.contains(from));
        let max = self.rules.connections_max;
        let mut connection = Connection {
            addresses: self.clone(),
            origin,
            is_limited,
            is_counted: false,
            is_too_many: false,
        };
        if max == 0 || !is_limited {
            return Ok(connection);
        }
        let mut known = self.known();
        let count = known.connections.entry(origin).or_default();
        if *count >= max + told_max {
            return Err(FarTooMany);
        }
        connection.is_too_many = *count >= max;
        connection.is_counted = true;
        *count += 1;
        Ok(connection)
    }

    /// For operators: what is remembered, how much can be, and bans since the start.
    pub(crate) fn numbers(&self) -> (usize, usize, u64) {
        let known = self.known();
        (known.remembered.len(), self.remembered_max, known.bans)
    }
}

/// See [`Addresses::connected`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FarTooMany;

/// A connection from an address; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    addresses: Arc<Addresses>,
    origin: Origin,
    is_limited: bool,
    is_counted: bool,
    /// More than the address may have: this one is only told so.
    is_too_many: bool,
}

impl Connection {
    fn whole(&self) -> Whose {
        Whose {
            origin: self.origin,
            login: None,
        }
    }

    fn login(&self, user: &str) -> Whose {
        Whose {
            origin: self.origin,
            login: Some(self.addresses.hasher.hash_one(user)),
        }
    }

    /// Whether this connection may try to log in as `user` now.
    ///
    /// # Errors
    ///
    /// [`Refusal::TooManyOfAddress`], [`Refusal::Banned`], [`Refusal::TooManyAttempts`].
    pub(crate) fn may_try(&self, user: &str) -> Result<(), Refusal> {
        self.may_try_at(user, Instant::now())
    }

    fn may_try_at(&self, user: &str, now: Instant) -> Result<(), Refusal> {
        if self.is_too_many {
            return Err(Refusal::TooManyOfAddress);
        }
        self.may_go_on_at(user, now)?;
        let all = &self.addresses;
        let max = all.rules.attempts_per_second_max;
        if max > 0 && self.is_limited {
            let mut known = all.known();
            let own = known.record(self.whole(), all, now);
            if own.attempts.add(SECOND, now) > max {
                return Err(Refusal::TooManyAttempts);
            }
        }
        Ok(())
    }

    /// Whether no ban began meanwhile: of those who guess at once, not all are answered.
    ///
    /// # Errors
    ///
    /// [`Refusal::Banned`].
    pub(crate) fn may_go_on(&self, user: &str) -> Result<(), Refusal> {
        self.may_go_on_at(user, Instant::now())
    }

    fn may_go_on_at(&self, user: &str, now: Instant) -> Result<(), Refusal> {
        if !self.is_limited {
            return Ok(());
        }
        let known = self.addresses.known();
        let until = |whose| known.remembered.get(&whose)?.banned_until(now);
        let Some(until) = until(self.whole()).max(until(self.login(user))) else {
            return Ok(());
        };
        // As people count: a begun second is one.
        let left = until.duration_since(now).as_millis().div_ceil(1000);
        Err(Refusal::Banned {
            seconds: u64::try_from(left).unwrap_or(u64::MAX),
        })
    }

    /// The secret of `user` was wrong, or there is no such login.
    pub(crate) fn failed(&self, user: &str) {
        self.failed_at(user, Instant::now());
    }

    fn failed_at(&self, user: &str, now: Instant) {
        let all = &self.addresses;
        if all.rules.failures_max == 0 || !self.is_limited {
            return;
        }
        let (failures_max, share) = (all.rules.failures_max, self.share());
        let mut known = all.known();
        // What was on its way when the ban began does not count.
        let Some(number) = self.note_failure(&mut known, self.login(user), now) else {
            return;
        };
        if number >= failures_max {
            tracing::info!(address = %self.origin.0, login = user, ban_s = all.rules.ban.as_secs(),
                "repeated failed logins: this login is banned for a while at this address");
        }
        if number <= share && self.note_failure(&mut known, self.whole(), now) == Some(failures_max)
        {
            tracing::info!(address = %self.origin.0, ban_s = all.rules.ban.as_secs(),
                "repeated failed logins of several users: the address is banned for a while");
        }
    }

    /// How many failures of one login count for the address.
    fn share(&self) -> u32 {
        (self.addresses.rules.failures_max / FAILING_LOGINS_MIN).max(1)
    }

    /// Returns how many there were, this one included; as many as are allowed are a ban. `None` while
    /// there is one.
    fn note_failure(&self, known: &mut Known, whose: Whose, now: Instant) -> Option<u32> {
        let rules = &self.addresses.rules;
        let own = known.record(whose, &self.addresses, now);
        if own.banned_until(now).is_some() {
            return None;
        }
        if own.banned_until.take().is_some() {
            // It begins anew behind the ban.
            own.failures.number = 0;
        }
        let number = own.failures.add(rules.failures_window, now);
        if number >= rules.failures_max {
            own.banned_until = Some(now + rules.ban);
            known.bans += 1;
        }
        Some(number)
    }

    /// `user` logged in: what failed before was a mistake, or another program with an old password.
    pub(crate) fn succeeded(&self, user: &str) {
        self.succeeded_at(user, Instant::now());
    }

    fn succeeded_at(&self, user: &str, now: Instant) {
        let all = &self.addresses;
        if all.rules.failures_max == 0 || !self.is_limited {
            return;
        }
        let mut known = all.known();
        let login = self.login(user);
        let Some(own) = known.remembered.get(&login).copied() else {
            return;
        };
        // It was on its way when the ban began.
        if own.banned_until(now).is_some() {
            return;
        }
        known.remembered.remove(&login);
        let whole = known.remembered.get_mut(&self.whole());
        if let Some(whole) = whole
            && own.failures.since >= whole.failures.since
        {
            let taken_back = own.failures.number.min(self.share());
            whole.failures.number = whole.failures.number.saturating_sub(taken_back);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        let mut known = self.addresses.known();
        if let Some(count) = known.connections.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                known.connections.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests;
