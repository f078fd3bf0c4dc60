//! What is known about a tenant's database, for all of its sessions.
//!
//! Owns: whether its definitions may change sessions, which custom settings its texts name, whether
//! anybody reads sequences, and the numbers of its credentials. Does not own: finding it out
//! (`hazard`).

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap},
    rc::Rc,
    time::Duration,
};

use model::{CredentialId, route::Candidate};
use statement::Effects;
use tokio::time::Instant;

use crate::{
    hazard::{self, Blind, Hazard},
    lending::{Known, Lending},
    pins::Pin,
    pool::Tenant,
    server::{ExchangeError, Server},
};

/// Custom settings by name that are known of one tenant. Each is asked for with every question; with
/// more, a session that names another one keeps its server connection.
const CUSTOM_MAX: usize = 200;

/// For so long it counts that nothing was defined since the last look, beside what this process
/// passed on: deployments, other proxies and maintenance define things, too. A look takes some
/// milliseconds.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// A look that nobody waits for is taken again after so many times what the last one took: where something is
/// defined all the time, looks would be most of what the server does.
const REST: u32 = 20;

/// Credentials of one tenant whose numbers are remembered. Of further ones each login has another number, which
/// costs a reset of the server connection it is lent.
const CREDENTIALS_MAX: usize = 256;

/// Facts of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    hazard: Cell<Hazard>,
    looked_at: Cell<Option<Instant>>,
    /// When a look that nobody waits for may be taken.
    rests_until: Cell<Option<Instant>>,
    /// Rises with everything that may define something.
    definitions: Cell<u64>,
    /// Sessions that are about to define something.
    defining: Cell<u32>,
    blind: RefCell<Blind>,
    reads_sequences: Cell<bool>,
    reading_writes: Cell<bool>,
    serial: Cell<u64>,
    /// How often a session began to keep a server connection, by reason.
    pub(crate) pins: [Cell<u64>; Pin::ALL.len()],
}

/// A session that is about to define something: what is known is out of date when it is over.
#[derive(Debug)]
pub(crate) struct Defining(Rc<Tenant>);

impl Defining {
    /// From now on until it is dropped.
    pub(crate) fn new(tenant: &Rc<Tenant>) -> Self {
        let knowledge = &tenant.knowledge;
        knowledge.defining.set(knowledge.defining.get() + 1);
        knowledge.forget();
        Self(tenant.clone())
    }
}

impl Drop for Defining {
    fn drop(&mut self) {
        let knowledge = &self.0.knowledge;
        knowledge.defining.set(knowledge.defining.get() - 1);
        knowledge.forget();
    }
}

impl Knowledge {
    #[inline]
    fn hazard(&self) -> Hazard {
        self.hazard_at(Instant::now())
    }

    #[inline]
    fn hazard_at(&self, now: Instant) -> Hazard {
        match self.looked_at.get() {
            Some(at) if now.duration_since(at) < KNOWN_FOR => self.hazard.get(),
            _ => Hazard::Unknown,
        }
    }

    fn forget(&self) {
        self.definitions.set(self.definitions.get() + 1);
        self.hazard.set(Hazard::Unknown);
    }
}

impl Tenant {
    pub(crate) fn known(&self) -> Known {
        let knowledge = &self.knowledge;
        // Asked after every transaction: the clock is read once.
        let now = Instant::now();
        let hazard = knowledge.hazard_at(now);
        let blind = knowledge.blind.borrow();
        Known {
            hazard,
            reads_sequences: knowledge.reads_sequences.get(),
            reading_writes: knowledge.reading_writes.get() || hazard == Hazard::Unknown,
            blind: blind.effects(),
            is_blind_by_name: matches!(*blind, Blind::Named(_)),
            defining: knowledge.defining.get(),
            is_rested: knowledge.rests_until.get().is_none_or(|until| now >= until),
        }
    }

    /// A number that nothing else of this tenant has.
    pub(crate) fn next_serial(&self) -> u64 {
        self.knowledge.serial.set(self.knowledge.serial.get() + 1);
        self.knowledge.serial.get()
    }

    /// The number of a credential. No other one ever has it; the same one may get another, when there were
    /// very many.
    pub(crate) fn credential(&self, candidate: &Candidate) -> u64 {
        let next = self.next_serial();
        if candidate.one_use {
            return next;
        }
        let sessions = self.sessions.borrow();
        let is_used = |id: &CredentialId| sessions.values().any(|own| own.credential == *id);
        let mut credentials = self.credentials.borrow_mut();
        credentials.number(&candidate.id, next, is_used)
    }

    /// Whether somebody asked for the last number of a sequence.
    pub(crate) fn reads_sequences(&self) -> bool {
        self.knowledge.reads_sequences.get()
    }

    /// Somebody did, before the tenant was forgotten.
    pub(crate) fn will_read_sequences(&self) {
        self.knowledge.reads_sequences.set(true);
    }

    /// Takes note of what a session is about to do that concerns all. Returns its effects, as far as
    /// they can be kept track of.
    #[cold]
    pub(crate) fn heed(
        self: &Rc<Self>,
        effects: Effects,
        custom: &[String],
        text: &[u8],
        lending: &mut Lending,
    ) -> Effects {
        let mut effects = effects;
        let calls = effects.intersects(Effects::CALLS.with(Effects::RUNS));
        lending.called_unknown |= calls && self.knowledge.hazard() == Hazard::Unknown;
        if calls
            && let Blind::Named(names) = &*self.knowledge.blind.borrow()
            && names.iter().any(|name| hazard::says(text, name))
        {
            effects |= Effects::UNNAMED;
        }
        if effects.intersects(Effects::DDL.with(Effects::RUNS)) && lending.cycle.defining.is_none()
        {
            lending.cycle.defining = Some(Defining::new(self));
        }
        if effects.intersects(Effects::READS_SEQUENCE) {
            self.knowledge.reads_sequences.set(true);
        }
        if !self.name(custom) && effects.intersects(Effects::SETTINGS) {
            effects |= Effects::UNNAMED;
        }
        effects
    }

    /// Remembers names of custom settings; false when there are too many.
    fn name(&self, custom: &[String]) -> bool {
        let mut known = self.custom.borrow_mut();
        custom.iter().all(|name| {
            let name = name.to_ascii_lowercase();
            known.contains(&name) || (known.len() < CUSTOM_MAX && known.insert(name))
        })
    }

    /// Looks at what is defined, unless that is known.
    ///
    /// While somebody defines something, what is found holds for what was done so far, and only for
    /// that.
    ///
    /// # Errors
    ///
    /// [`ExchangeError::Broken`].
    pub(crate) async fn examine(
        self: &Rc<Self>,
        server: &mut Server,
    ) -> Result<Known, ExchangeError> {
        let knowledge = &self.knowledge;
        if knowledge.hazard() != Hazard::Unknown {
            return Ok(self.known());
        }
        let before = knowledge.definitions.get();
        let looked_at = Instant::now();
        let findings = hazard::look(server).await?;
        let rest = looked_at.elapsed() * REST;
        knowledge.rests_until.set(Some(Instant::now() + rest));
        let mut hazard = findings.hazard;
        if !self.name(&findings.custom) {
            hazard = Hazard::Lasting;
        }
        if findings.reads_sequences {
            knowledge.reads_sequences.set(true);
        }
        let known = Known {
            hazard,
            reading_writes: findings.reading_writes,
            blind: findings.blind.effects(),
            is_blind_by_name: matches!(findings.blind, Blind::Named(_)),
            ..self.known()
        };
        // Something may have been defined while we looked.
        if knowledge.definitions.get() == before && knowledge.defining.get() == 0 {
            knowledge.hazard.set(hazard);
            knowledge.looked_at.set(Some(looked_at));
            knowledge.reading_writes.set(findings.reading_writes);
            *knowledge.blind.borrow_mut() = findings.blind;
        }
        Ok(known)
    }
}

/// Numbers of credentials.
#[derive(Debug, Default)]
pub(crate) struct Credentials(HashMap<CredentialId, u64>);

impl Credentials {
    /// The one it has, or else `next`.
    fn number(
        &mut self,
        id: &CredentialId,
        next: u64,
        is_used: impl Fn(&CredentialId) -> bool,
    ) -> u64 {
        if let Some(number) = self.0.get(id) {
            return *number;
        }
        if self.0.len() >= CREDENTIALS_MAX {
            self.0.retain(|known, _| is_used(known));
        }
        if self.0.len() < CREDENTIALS_MAX {
            self.0.insert(id.clone(), next);
        }
        next
    }
}

/// Names of custom settings, in lower case.
pub(crate) type Custom = BTreeSet<String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_credentials_are_bounded_and_never_given_twice() {
        let mut credentials = Credentials::default();
        let mut ids = (0..CREDENTIALS_MAX + 2).map(|_| CredentialId::random(&mut rand::rng()));
        let first = ids.next().unwrap();
        let is_first = |id: &CredentialId| *id == first;
        assert_eq!(credentials.number(&first, 1, is_first), 1);
        let mut given = vec![1];
        for (id, next) in ids.zip(2..) {
            given.push(credentials.number(&id, next, is_first));
            assert!(credentials.0.len() <= CREDENTIALS_MAX);
        }
        assert_eq!(
            credentials.number(&first, 1_000, is_first),
            1,
            "it is in use"
        );
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), CREDENTIALS_MAX + 2);
        // Where all are in use, further ones are not remembered.
        let all = |_: &CredentialId| true;
        while credentials.0.len() < CREDENTIALS_MAX {
            credentials.number(&CredentialId::random(&mut rand::rng()), 0, all);
        }
        let another = CredentialId::random(&mut rand::rng());
        assert_eq!(credentials.number(&another, 5_000, all), 5_000);
        assert_eq!(credentials.number(&another, 5_001, all), 5_001);
        assert_eq!(credentials.0.len(), CREDENTIALS_MAX);
    }
}
