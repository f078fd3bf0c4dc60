//! What is known about a tenant's database, for all of its sessions.
//!
//! Owns: whether its definitions may change sessions, which custom settings its texts name, whether
//! anybody reads sequences, and the numbers of its credentials. Does not own: finding it out
//! (`hazard`).

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
    time::Duration,
};

use model::CredentialId;
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

    /// The number of a credential.
    pub(crate) fn credential(&self, id: &CredentialId) -> u32 {
        let mut credentials = self.credentials.borrow_mut();
        let next = u32::try_from(credentials.len()).unwrap_or(u32::MAX);
        *credentials.entry(id.clone()).or_insert(next)
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

/// Names of custom settings, in lower case.
pub(crate) type Custom = BTreeSet<String>;
