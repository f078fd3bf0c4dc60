//! What is known about a tenant's database, for all of its sessions.
//!
//! Owns: whether its definitions may change sessions, which custom settings its texts name, whether
//! anybody reads sequences, and the numbers of its credentials. Does not own: finding it out
//! (`hazard`).

use std::{cell::Cell, collections::BTreeSet, rc::Rc};

use model::CredentialId;
use statement::Effects;

use crate::{
    hazard::{self, Hazard},
    lending::{Known, Lending},
    pins::Pin,
    pool::Tenant,
    server::{ExchangeError, Server},
};

/// Custom settings by name that are known of one tenant. Each is asked for with every question; with
/// more, a session that names another one keeps its server connection.
const CUSTOM_MAX: usize = 200;

/// Facts of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    hazard: Cell<Hazard>,
    /// Rises with everything that may define something.
    definitions: Cell<u64>,
    /// Sessions that are about to define something.
    defining: Cell<u32>,
    reads_sequences: Cell<bool>,
    serial: Cell<u64>,
    /// How often a session began to keep a server connection, by reason.
    pub(crate) pins: [Cell<u64>; Pin::ALL.len()],
}

/// A session that is about to define something: what is known is out of date when it is over.
#[derive(Debug)]
pub(crate) struct Defining(Rc<Tenant>);

impl Defining {
    fn new(tenant: &Rc<Tenant>) -> Self {
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
    fn forget(&self) {
        self.definitions.set(self.definitions.get() + 1);
        self.hazard.set(Hazard::Unknown);
    }
}

impl Tenant {
    pub(crate) fn known(&self) -> Known {
        Known {
            hazard: self.knowledge.hazard.get(),
            reads_sequences: self.knowledge.reads_sequences.get(),
            defining: self.knowledge.defining.get(),
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

    /// Takes note of what a session is about to do that concerns all. Returns its effects, as far as
    /// they can be kept track of.
    #[cold]
    pub(crate) fn heed(
        self: &Rc<Self>,
        effects: Effects,
        custom: &[String],
        lending: &mut Lending,
    ) -> Effects {
        let mut effects = effects;
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
    /// # Errors
    ///
    /// [`ExchangeError::Broken`].
    pub(crate) async fn examine(self: &Rc<Self>, server: &mut Server) -> Result<(), ExchangeError> {
        let knowledge = &self.knowledge;
        if knowledge.hazard.get() != Hazard::Unknown || knowledge.defining.get() > 0 {
            return Ok(());
        }
        let before = knowledge.definitions.get();
        let findings = hazard::look(server).await?;
        let mut hazard = findings.hazard;
        if !self.name(&findings.custom) {
            hazard = Hazard::Lasting;
        }
        if findings.reads_sequences {
            knowledge.reads_sequences.set(true);
        }
        // Something may have been defined while we looked.
        if knowledge.definitions.get() == before {
            knowledge.hazard.set(hazard);
        }
        Ok(())
    }
}

/// Names of custom settings, in lower case.
pub(crate) type Custom = BTreeSet<String>;
