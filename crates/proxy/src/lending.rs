//! What one session must find again on whichever server connection it is lent next.
//!
//! Owns: the settings a session has and began with, what it did since its state was last known for
//! certain, and the decision whether its server connection can serve somebody else. Does not own:
//! asking the server (`ask`), the connections (`pool`) or the messages (`relay`).
//!
//! The text of a statement can say that it surely leaves nothing behind, or exactly which setting
//! it changes. Everything else is unclear, and unclear never means a guess: the server connection
//! stays where it is until somebody else needs one, and then the server is asked.

mod leading;
mod outdated;

use std::rc::Rc;

use model::route::PoolMode;
use statement::{Context, Effects, Encoding, Exact, Strings};
use wire::message::build;

use crate::{
    hazard::Hazard,
    knowledge::Defining,
    limits::Growing,
    pins::{Pin, Pins},
    pool::Tenant,
    prepared::Prepared,
    server::{Parameters, Server},
    state::{State, States, TEXT_SEARCH},
    statements::{Statement, Told},
};

use leading::Leading;
pub(crate) use leading::{Runs, mentions_authorization, mentions_reset};

/// Statements prepared under other settings than the session has now that are prepared again with
/// each server connection it gets. With more of them it keeps the one it has.
pub(crate) const ELSEWHERE_MAX: usize = 16;

/// What a session must find again.
#[derive(Debug)]
pub(crate) struct Lending {
    pub(crate) mode: PoolMode,
    /// Of the session, never used again.
    pub(crate) serial: u64,
    /// Which of the tenant's credentials it logged in with.
    pub(crate) credential: u64,
    /// The settings it began with: RESET leads back to them.
    pub(crate) base: Rc<State>,
    /// The settings it has, as far as they are known.
    pub(crate) wanted: Rc<State>,
    /// What the client was told of them, and of others.
    pub(crate) told: Rc<Parameters>,
    /// What the client calls itself, which no server is told.
    pub(crate) application: Box<[u8]>,
    pub(crate) prepared: Prepared,
    pub(crate) growing: Growing,
    /// What it may have done since the server was last asked.
    pub(crate) effects: Effects,
    /// What the server was found to hold for it.
    pub(crate) found: Pins,
    /// It could not be asked, so it may have other settings than are wanted: what is prepared now lives there
    /// alone.
    pub(crate) is_unlearned: bool,
    /// Temporary objects, on the server connection it has.
    pub(crate) may_have_made_temporary: bool,
    /// What holds it for the rest of the session.
    pub(crate) sticky: Pins,
    pub(crate) cycle: Cycle,
    /// Its statements are not looked at, so it may be defining something all the time.
    pub(crate) defining: Option<Defining>,
    /// It called functions while nobody knew what they do.
    pub(crate) called_unknown: bool,
    /// SQL among several statements named what was prepared by the protocol. From then on its named
    /// statements have the client's names on the server connection, which it keeps.
    pub(crate) has_own_names: bool,
    /// Where all its statements were when they were last looked at: see `relay::around::begin`.
    pub(crate) readied: (u64, u64, u64),
    /// Statements may have been prepared under other settings than it has now.
    pub(crate) is_mixed: bool,
    /// An extended-query message was sent and no Sync behind it: the transaction is open, whatever
    /// the server last said.
    pub(crate) is_open: bool,
    /// What was known of definitions when that transaction began. What others define meanwhile counts from
    /// the next one on, or a pipeline could not go on whenever somebody defines something.
    pub(crate) open_hazard: Hazard,
    /// What was sent last has to be answered before anything else is sent.
    pub(crate) barrier: Option<Box<Barrier>>,
    /// A transaction that failed was led back to the savepoint to which the text that comes next leads.
    pub(crate) is_led_out: bool,
    /// To be said behind the next Sync: what the client's statement may take away and its session has.
    pub(crate) follow: Option<Vec<String>>,
    /// What DISCARD ALL takes away in the middle of a pipeline.
    pub(crate) anew: Anew,
    /// What leads settings back and can be run again. Most sessions have nothing of the kind, and no room for it.
    leading: Option<Box<Leading>>,
    /// A server connection that must be made ready in a round trip of its own.
    pub(crate) taken: Option<Box<Server>>,
    /// What it must say on the next one to listen again: a hold has taken the last one.
    pub(crate) listens: Box<[String]>,
    /// The number of the server connection it had last.
    pub(crate) last_server: u64,
    /// It may have had numbers of sequences that it does not find any more.
    pub(crate) numbers: Numbers,
    /// Number under which others find it while it holds a server connection that it may give up.
    pub(crate) reluctant: Option<u64>,
}

/// What became of the numbers that `currval` and `lastval` know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Numbers {
    /// It has written nothing.
    None,
    /// They are on the server connection it had last.
    There,
    /// Somebody else had that one meanwhile, before anybody had asked for such numbers.
    Lost,
}

/// What happened since the session was last at rest.
#[derive(Debug, Default)]
pub(crate) struct Cycle {
    pub(crate) statements: u32,
    pub(crate) binds: u32,
    /// What the only statement does, and nothing else.
    pub(crate) exact: Option<Exact>,
    pub(crate) effects: Effects,
    /// The server said no to something.
    pub(crate) failed: bool,
    /// To something before what is awaited now.
    pub(crate) failed_before: bool,
    /// The settings in force are not known before the end of the transaction.
    pub(crate) is_unsettled: bool,
    /// The unnamed statement could not be made where it was named.
    pub(crate) misses_unnamed: bool,
    /// `search_path` may be another one to the end of its transaction.
    pub(crate) moves_path: bool,
    /// Constants may be read otherwise to the end of its transaction.
    pub(crate) moves_constants: bool,
    /// It has what may have made the first temporary objects.
    pub(crate) meets_temporary: bool,
    /// Defines something.
    pub(crate) defining: Option<Defining>,
    /// Has changed definitions such that statements may return something else.
    pub(crate) redefines: bool,
}

/// What a session began with and DISCARD ALL took away, when the client says more before its Sync: it is
/// said in a transaction of its own, or an error behind it would take it back.
#[derive(Debug, Default)]
pub(crate) enum Anew {
    #[default]
    No,
    /// To be said before the client's next message.
    Due(Vec<String>),
    /// It is being said.
    Said,
    /// The client does not know yet which of its parameters changed: PostgreSQL tells when it is ready.
    Untold,
    /// To be said in the transaction, before more of the client's than what has no part in it.
    Later(Box<Later>),
}

/// What leads back by a query: behind one, a transaction can no longer become another kind of transaction.
#[derive(Debug)]
pub(crate) struct Later {
    pub(crate) queries: Vec<String>,
    /// Its statement that is such a thing, where statements are not kept otherwise.
    pub(crate) statement: Option<Box<[u8]>>,
    /// Its portal that runs such a thing.
    pub(crate) portal: Option<Box<[u8]>>,
}

/// Something that must be over before the client's next message is looked at.
#[derive(Debug)]
pub(crate) enum Barrier {
    /// What is unanswered.
    Before,
    /// Also this Parse, whose success decides what the name means.
    Named(Box<[u8]>, Option<Runs>),
    /// Also this statement, whose success changes what is prepared.
    Of(Exact),
    /// Also several statements, of which one that succeeds may change that although another fails.
    OfSeveral(Changes),
}

/// What several statements do to what is prepared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Changes {
    /// All of it goes, if none of them fails.
    All,
    /// Plans are discarded.
    Plans,
    /// Nobody knows.
    Some,
}

/// What is to be done with the server connection of a session at rest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It can serve another.
    Free,
    /// Nobody knows before the server is asked.
    Unclear {
        /// The session itself must know before it goes on.
        now: bool,
    },
    /// It stays.
    Kept,
}

impl Lending {
    /// Of a session that has begun with these settings.
    pub(crate) fn new(
        mode: PoolMode,
        serial: u64,
        credential: u64,
        base: Rc<State>,
        told: Rc<Parameters>,
    ) -> Self {
        Self {
            mode,
            serial,
            credential,
            wanted: base.clone(),
            base,
            told,
            application: Box::default(),
            prepared: Prepared::default(),
            growing: Growing::default(),
            effects: Effects::NONE,
            found: Pins::default(),
            is_unlearned: false,
            may_have_made_temporary: false,
            sticky: Pins::default(),
            cycle: Cycle::default(),
            defining: None,
            called_unknown: false,
            has_own_names: false,
            readied: (0, 0, 0),
            is_mixed: false,
            is_open: false,
            open_hazard: Hazard::Unknown,
            barrier: None,
            is_led_out: false,
            follow: None,
            anew: Anew::No,
            leading: None,
            taken: None,
            listens: Box::default(),
            last_server: 0,
            numbers: Numbers::None,
            reluctant: None,
        }
    }

    /// Whether names of statements are ours to give, and settings ours to know.
    #[inline]
    pub(crate) fn tracks(&self) -> bool {
        self.mode != PoolMode::Session
    }

    /// How the server will read what the client sends now.
    #[inline]
    pub(crate) fn context(&self, server: &Server) -> Context {
        if self.cycle.is_unsettled && !server.queue.has_none() {
            return Context {
                strings: Strings::Undecided,
                encoding: Encoding::Overlapping,
            };
        }
        server.context
    }

    /// A simple query is sent.
    #[inline]
    pub(crate) fn query(&mut self, effects: Effects, exact: Option<Exact>) {
        self.cycle.statements += 1;
        self.cycle.exact = if self.cycle.statements == 1 {
            exact
        } else {
            None
        };
        self.does(effects);
    }

    /// A Bind is sent: its statement may be executed.
    #[inline]
    pub(crate) fn bind(&mut self, portal: &[u8], effects: Effects, exact: Option<Exact>) {
        self.cycle.binds += 1;
        self.opens(portal, exact.map(Runs::Exactly));
        self.does(effects);
    }

    /// An Execute is sent.
    #[inline]
    pub(crate) fn execute(&mut self, exact: Option<&Exact>) {
        self.cycle.statements += 1;
        let is_only = self.cycle.statements == 1 && self.cycle.binds == 1;
        self.cycle.exact = exact.filter(|_| is_only).cloned();
    }

    /// Whether this changes what is prepared, or takes away what has to be said anew, so that nothing goes
    /// behind it before it is answered.
    pub(crate) fn is_awaited(&self, exact: &Exact) -> bool {
        match exact {
            Exact::DiscardAll => true,
            Exact::Deallocate(_) | Exact::DeallocateAll | Exact::DiscardPlans => self.tracks(),
            _ => false,
        }
    }

    /// What was sent last has to be answered before anything else is looked at.
    pub(crate) fn awaits(&mut self, exact: Exact) {
        self.awaits_as(Barrier::Of(exact));
    }

    /// The same, whatever it is.
    pub(crate) fn awaits_as(&mut self, barrier: Barrier) {
        self.cycle.failed_before |= self.cycle.failed;
        self.cycle.failed = false;
        self.barrier = Some(Box::new(barrier));
    }

    #[inline]
    fn does(&mut self, effects: Effects) {
        self.cycle.effects |= effects;
        // Until it is answered, and to the end of a transaction, nobody knows what is in force.
        if effects.intersects(Effects::SETTINGS.with(Effects::RUNS)) {
            self.cycle.is_unsettled = true;
        }
    }

    /// Whether it may act as another role than that of its login, who may not use the same schemas.
    #[inline]
    pub(crate) fn may_be_another(&self) -> bool {
        (self.effects | self.cycle.effects).intersects(Effects::ROLE)
            || self.found.contains(Pin::Role)
    }

    /// The same, also to the end of its transaction.
    #[inline]
    pub(crate) fn may_be_another_locally(&self) -> bool {
        self.cycle.is_unsettled || self.may_be_another()
    }

    /// Whether the settings under which a statement is parsed now can be said.
    #[inline]
    pub(crate) fn is_settled(&self, tenant: &Tenant) -> bool {
        let is_unsaid = !self.is_open || self.cycle.defining.is_some();
        let hazard = if is_unsaid {
            tenant.known().hazard
        } else {
            self.open_hazard
        };
        self.is_settled_under(hazard)
    }

    /// The same, if definitions do this.
    #[inline]
    pub(crate) fn is_settled_under(&self, hazard: Hazard) -> bool {
        !self.cycle.is_unsettled
            && !self.has_own_names
            && !self
                .effects
                .intersects(Effects::SETTINGS.with(Effects::RUNS))
            && (hazard == Hazard::None || !self.cycle.effects.intersects(Effects::UNSEEN))
    }

    /// What the client is told beside an answer to what it sends now.
    #[inline]
    pub(crate) fn is_told(&self, tenant: &Tenant) -> Told {
        if self.is_settled(tenant) {
            Told::of(&self.wanted)
        } else {
            Told::Unknown
        }
    }

    /// The session is at rest: takes note of what it did, and says what is to be done with its
    /// server connection.
    pub(crate) fn rest(&mut self, server: &mut Server, states: &States, tenant: &Known) -> Verdict {
        let cycle = std::mem::take(&mut self.cycle);
        self.close_portals();
        if cycle.meets_temporary && cycle.failed {
            self.prepared.met_no_temporary();
        }
        match &cycle.exact {
            // Where something failed, it may have been another message.
            Some(exact)
                if cycle.statements == 1 && !cycle.failed && self.mode != PoolMode::Session =>
            {
                self.did(exact, cycle.effects, server, states);
            }
            _ => {
                self.effects |= cycle.effects;
                if cycle.effects.intersects(Effects::DISCARD) && self.tracks() {
                    // Perhaps plans.
                    server.statements.doubt();
                }
            }
        }
        let writes = Effects::WRITES.with(Effects::CALLS).with(Effects::RUNS);
        let reads_write = Effects::TOUCHES;
        let has_written = cycle.effects.intersects(writes)
            || (cycle.effects.intersects(reads_write) && tenant.reading_writes);
        if has_written {
            server.has_numbers = true;
            self.numbers = Numbers::There;
        }
        self.prepared.rest();
        match self.mode {
            PoolMode::Session => return Verdict::Kept,
            PoolMode::Transaction => {
                // What it may have left must not reach anybody else.
                server.is_dirty |= self.effects.intersects(Effects::LASTING);
                self.effects = Effects::NONE;
                return Verdict::Free;
            }
            PoolMode::Auto => {}
        }
        if self.has_own_names {
            // It stays here; only what it began with must not be lost.
            let may_reset = Effects::SETTINGS.with(Effects::RUNS).with(Effects::UNSEEN);
            if !self.base.is_empty() && self.effects.intersects(may_reset) {
                return Verdict::Unclear { now: true };
            }
            self.effects = Effects::NONE;
            return Verdict::Kept;
        }
        let effects = self.effects;
        if effects.is_empty() && self.found.is_empty() && self.sticky.is_empty() && !self.is_bound()
        {
            return Verdict::Free;
        }
        for (effect, pin) in [
            (Effects::SEED, Pin::Seed),
            (Effects::LOAD, Pin::Load),
            (Effects::UNNAMED, Pin::Settings),
        ] {
            if effects.intersects(effect) {
                self.sticky.add(pin);
            }
        }
        self.heed_blind(tenant);
        if tenant.reads_sequences && server.has_numbers {
            self.sticky.add(Pin::Sequence);
        }
        // What is defined may run event triggers, which were not looked at.
        let is_unclear = effects.intersects(Effects::LASTING.with(Effects::DDL))
            || (effects.intersects(Effects::UNSEEN) && !tenant.hazard.is_over_with_transaction());
        if is_unclear {
            // What is prepared next is parsed under them, and what was prepared is not.
            let needs_settings = effects.intersects(Effects::SETTINGS)
                || (effects.intersects(Effects::RUNS) && self.prepared.has_names());
            // Once something uses what was defined, it is worth a look, which serves all sessions.
            let may_look = tenant.hazard == Hazard::Unknown
                && tenant.defining == 0
                && tenant.is_rested
                && self.sticky.is_empty()
                && !cycle.effects.intersects(Effects::DDL.with(Effects::RUNS));
            return Verdict::Unclear {
                now: needs_settings || may_look || self.misses_statements(server),
            };
        }
        self.effects = Effects::NONE;
        if self.pins().is_empty() {
            Verdict::Free
        } else if self.misses_statements(server) {
            Verdict::Unclear { now: true }
        } else {
            Verdict::Kept
        }
    }

    /// Takes note of what may have been done that the server cannot be asked about.
    pub(crate) fn heed_blind(&mut self, tenant: &Known) {
        if self.effects.intersects(tenant.blind) || tenant.is_blind_by_name && self.called_unknown {
            self.sticky.add(Pin::Settings);
        }
        if tenant.hazard != Hazard::Unknown {
            self.called_unknown = false;
        }
    }

    /// ParameterStatus for what the client was told and is no longer so. Where the server has no
    /// `application_name`, what the client calls itself stands.
    pub(crate) fn tell(&mut self, now: &Rc<Parameters>, out: &mut Vec<u8>) {
        if Rc::ptr_eq(&self.told, now) {
            return;
        }
        for (name, value) in now.iter() {
            let known = self.told.iter().find(|(own, _)| own == name);
            if known.is_none_or(|(_, told)| told != value) {
                let is_own = **name == *b"application_name" && value.is_empty();
                let value = if is_own { &self.application } else { value };
                build::parameter_status(name, value, out);
            }
        }
        self.told = now.clone();
    }

    /// What holds it, as far as it is known.
    pub(crate) fn pins(&self) -> Pins {
        let mut pins = self.found.with(self.sticky);
        if self.is_bound() || self.elsewhere().count() > ELSEWHERE_MAX {
            pins.add(Pin::Statement);
        }
        pins
    }

    /// Whether something that is prepared lives on the server connection it has, and nowhere else.
    #[inline]
    fn is_bound(&self) -> bool {
        self.prepared.is_bound() || !self.prepared.is_unnamed_as_under(self.wanted.parsing())
    }

    /// Statements that were prepared under other settings than are wanted now.
    pub(crate) fn elsewhere(&self) -> impl Iterator<Item = &Rc<Statement>> {
        let wanted = self.wanted.parsing();
        let all = self.is_mixed.then(|| self.prepared.statements());
        all.into_iter().flatten().filter(move |statement| {
            !statement.is_private && !Rc::ptr_eq(&statement.parsing, wanted)
        })
    }

    /// Whether SQL PREPARE may have made statements.
    pub(crate) fn may_have_prepared(&self, hazard: Hazard) -> bool {
        let effects = self.effects | self.cycle.effects;
        self.has_own_names
            || !self.found.is_empty()
            || effects.intersects(Effects::PREPARE.with(Effects::RUNS))
            || (hazard != Hazard::None && effects.intersects(Effects::UNSEEN))
    }

    /// Whether a text made statements by SQL PREPARE.
    #[inline]
    pub(crate) fn has_sql_prepared(&self) -> bool {
        let effects = self.effects | self.cycle.effects;
        effects.intersects(Effects::PREPARE) || self.found.contains(Pin::Prepare)
    }

    /// Whether a statement that cannot be made in passing is not on this server connection.
    pub(crate) fn misses_statements(&self, server: &Server) -> bool {
        let mut elsewhere = self.elsewhere();
        elsewhere.any(|statement| !server.statements.contains(statement.number))
    }

    /// Other settings are wanted from now on.
    pub(crate) fn want(&mut self, wanted: Rc<State>) {
        let is_other = !Rc::ptr_eq(wanted.parsing(), self.wanted.parsing());
        self.is_mixed |= is_other;
        if is_other {
            // Only what is read under the settings of then was made.
            self.readied = (0, 0, 0);
        }
        self.wanted = wanted;
        let is_mixed = self.elsewhere().next().is_some();
        self.is_mixed = is_mixed;
    }

    /// The only statement succeeded outside a transaction.
    fn did(&mut self, exact: &Exact, effects: Effects, server: &mut Server, states: &States) {
        match exact {
            Exact::Set(list) => {
                let mut all = list.iter();
                let is_known = |(name, value): &(String, String)| {
                    self.wanted.has_room_for(name, value) && name != TEXT_SEARCH
                };
                if !all.all(is_known) {
                    // The server is asked. What was too much is so then as well, and the session stays there; of
                    // the other, it says which one was meant.
                    self.effects |= effects;
                    return;
                }
                for (name, value) in list {
                    match name.as_str() {
                        "role" | "session_authorization" | "seed" => self.effects |= effects,
                        // Of the transaction that is over.
                        "transaction_isolation"
                        | "transaction_read_only"
                        | "transaction_deferrable" => {}
                        _ => {
                            // As the server says it, where it does: `ISO` alone is no DateStyle.
                            let reported = server
                                .parameters
                                .iter()
                                .find(|(own, _)| own.eq_ignore_ascii_case(name.as_bytes()));
                            let value = reported
                                .and_then(|(_, value)| str::from_utf8(value).ok())
                                .unwrap_or(value);
                            self.want(states.with(&self.wanted, name, value));
                        }
                    }
                }
                server.has = self.wanted.clone();
            }
            Exact::Reset(name) => {
                let wanted = match self.base.get(name) {
                    Some(value) => states.with(&self.wanted, name, value),
                    None => states.without(&self.wanted, name),
                };
                self.want(wanted);
                server.has = self.wanted.clone();
                self.effects |= effects.without(Effects::SETTINGS);
            }
            Exact::ResetAll => {
                self.want(self.base.clone());
                server.has = self.wanted.clone();
                self.is_unlearned = false;
                // What cannot be seen is gone as well.
                self.sticky.remove(Pin::Settings);
            }
            Exact::DiscardAll => {
                self.want(self.base.clone());
                server.has = self.wanted.clone();
                self.effects = Effects::NONE;
                self.found = Pins::default();
                self.is_unlearned = false;
                self.has_own_names = false;
                self.sticky.remove(Pin::Prepare);
                self.sticky.remove(Pin::Statement);
                self.sticky.remove(Pin::Settings);
                self.sticky.remove(Pin::Sequence);
                server.has_numbers = false;
                self.numbers = Numbers::None;
            }
            Exact::DiscardSequences => {
                self.sticky.remove(Pin::Sequence);
                server.has_numbers = false;
                self.numbers = Numbers::None;
            }
            Exact::DiscardTemp => {
                if !self.pins().is_empty() || self.effects.intersects(Effects::TEMP) {
                    self.effects |= Effects::TEMP;
                }
            }
            // Its statements were dealt with when it was answered.
            Exact::DiscardPlans => {}
            Exact::Deallocate(_) | Exact::DeallocateAll => {
                if *exact == Exact::DeallocateAll {
                    self.sticky.remove(Pin::Statement);
                }
                // SQL PREPARE may have let go.
                if !self.found.is_empty() || self.effects.intersects(Effects::PREPARE) {
                    self.effects |= Effects::PREPARE;
                }
            }
            // It was over with its transaction.
            Exact::ResetLocal(_) => {}
            Exact::Prepare(_) | Exact::Execute(_) | Exact::ResetAuthorization => {
                self.effects |= effects;
            }
        }
    }
}

/// What is known about a tenant's database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) hazard: Hazard,
    pub(crate) reads_sequences: bool,
    /// What only reads may advance a sequence: a view can, or a policy.
    pub(crate) reading_writes: bool,
    /// What has one of these may do what the server cannot be asked about.
    pub(crate) blind: Effects,
    /// So may who names certain functions.
    pub(crate) is_blind_by_name: bool,
    /// Sessions that are defining something now.
    pub(crate) defining: u32,
    /// The last look is long enough ago for one that nobody waits for.
    pub(crate) is_rested: bool,
}
