//! A session takes a server connection for a transaction and gives it back.
//!
//! Owns: making a server connection what the session had before, deciding at the end of each
//! transaction whether it can go, and asking the server where that is not known. Does not own: which
//! connection it is (`pool`), or what the session has (`lending`).

use std::{rc::Rc, task::Context};

use model::route::PoolMode;
use statement::{Effects, Exact};
use tokio::time::{Instant, timeout};
use wire::{
    message::{TransactionStatus, build},
    queue::{Request, Tags},
};

use crate::{
    ask,
    config::LendingRule,
    elsewhere::make_elsewhere,
    error::Refusal,
    knowledge::Defining,
    lending::{Anew, Barrier, Changes, Known, Lending, Numbers, Verdict},
    pins::{Pin, Pins},
    pool::{Tenant, Want},
    relay::Turn,
    server::{ExchangeError, Last, Said, Server, set_role},
    session::{Ended, NoServer, Session},
    state,
    statements::Unnamed as Theirs,
    stats::add,
    worker::Worker,
};

/// Tries of a statement of ours that a short time limit of the last session may end.
pub(crate) const TRIES_MAX: usize = 5;

/// Names of prepared statements of one session. Each takes some 100 bytes of ours, and some 10 kB of the server
/// process where it is used: programs have hundreds, and who has so many has forgotten to close them.
const NAMES_MAX: usize = 16_384;
/// The same of all sessions of a tenant together: 30 MB. Then sessions that have more than their part end
/// when they make another one, so that others go on.
const TENANT_NAMES_MAX: usize = 262_144;

/// What a server connection needs before a session can go on with it.
#[derive(Debug, Default)]
struct Handover {
    queries: Vec<String>,
    /// Everything that was on it goes.
    resets: bool,
    /// In a round trip of its own.
    is_slow: bool,
}

/// What `lending`'s session needs on `server`. `None`: nothing, which is the usual case.
#[inline]
fn handover(
    server: &Server,
    lending: &Lending,
    tenant: &Tenant,
    rule: LendingRule,
) -> Option<Handover> {
    let is_same_credential = server
        .last
        .is_some_and(|last| last.credential == lending.credential);
    let is_again = server
        .last
        .is_some_and(|last| last.session == lending.serial);
    let is_where_it_was = is_again && lending.last_server == server.number;
    let tells_others_numbers = server.has_numbers && !is_where_it_was;
    if is_same_credential
        && !tells_others_numbers
        && Rc::ptr_eq(&server.has, &lending.wanted)
        && lending.tracks()
        && !lending.is_mixed
        && !server.is_dirty
        && !(rule == LendingRule::NeverTheSameTwice && is_again)
    {
        return None;
    }
    let resets = server.used
        && (!is_same_credential
            || !lending.tracks()
            || server.is_dirty
            || (rule == LendingRule::NeverTheSameTwice && is_again));
    let mut handover = Handover {
        resets,
        ..Handover::default()
    };
    let has = if resets {
        let gone = server.has.change(tenant.states.nothing());
        handover.is_slow |= gone.may_fail;
        let group = server.login.server.group;
        // A message of its own: it cannot run inside a transaction, which several statements are.
        handover.queries = vec!["DISCARD ALL".to_owned(), set_role(group)];
        tenant.states.nothing()
    } else {
        &server.has
    };
    if tells_others_numbers && !resets {
        handover.queries.push("DISCARD SEQUENCES".to_owned());
    }
    if !Rc::ptr_eq(has, &lending.wanted) {
        let change = has.change(&lending.wanted);
        handover.is_slow |= change.may_fail;
        handover.queries.extend(change.queries);
    }
    handover.is_slow |= if resets {
        lending.elsewhere().next().is_some()
    } else {
        lending.misses_statements(server)
    };
    (!handover.queries.is_empty() || handover.is_slow).then_some(handover)
}

impl Session {
    pub(crate) fn want(&self) -> Want {
        Want {
            login: self.handle.login,
            session: self.lending.serial,
            credential: self.lending.credential,
            state: self.lending.wanted.clone(),
            is_blank: !self.lending.tracks(),
            returns: !self.lending.listens.is_empty(),
        }
    }

    /// Takes an idle server connection if there is one that needs no round trip first.
    pub(crate) fn take_at_once(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Rc<Worker>,
    ) -> Result<bool, Ended> {
        if !self.lending.tracks()
            || self.lending.taken.is_some()
            || self.tenant.pause.is_on()
            || !self.lending.listens.is_empty()
        {
            return Ok(false);
        }
        let Some(server) = self.tenant.take_idle(worker, &self.want(), false) else {
            return Ok(false);
        };
        let handover = handover(&server, &self.lending, &self.tenant, worker.config.lending);
        if handover.as_ref().is_some_and(|handover| handover.is_slow) {
            self.lending.taken = Some(server);
            return Ok(false);
        }
        let out = self.attach_with(server, handover);
        if !out.is_empty() {
            self.client.send(cx, &out).map_err(|_| Ended::Lost)?;
        }
        Ok(true)
    }

    /// Uses a server connection from now on; what it needs goes before what the client sends. Returns
    /// what the client must be told.
    fn attach_with(&mut self, mut server: Box<Server>, handover: Option<Handover>) -> Vec<u8> {
        let mut out = Vec::new();
        self.prefix.clear();
        if let Some(handover) = handover {
            if handover.resets {
                server.is_reset();
            }
            for query in &handover.queries {
                build::query(query, &mut self.prefix);
                server.queue.sent_as(Request::Query, Tags::OURS);
                server.statements.unnamed = Theirs::None;
            }
            server.has = self.lending.wanted.clone();
            server.has_numbers = false;
            self.handle.shield();
        } else {
            self.lending.tell(&server.parameters, &mut out);
        }
        if server.statements.has_stale() {
            for _ in server.statements.write_closes(&mut self.prefix) {
                server.queue.sent_as(Request::Close, Tags::OURS);
            }
        }
        self.attach(server);
        out
    }

    pub(crate) fn attach(&mut self, mut server: Box<Server>) {
        add(&self.handle.about.counters.lends, 1);
        server.used = true;
        // Of whoever left before all was answered.
        server.queue.take_over();
        let last = self.lending.last_server;
        let own = server.last.map(|last| last.session);
        if self.lending.numbers == Numbers::There
            && (last != server.number || own != Some(self.lending.serial))
        {
            self.lending.numbers = Numbers::Lost;
        }
        self.lending.last_server = server.number;
        if !self.lending.tracks() && self.lending.defining.is_none() {
            self.lending.defining = Some(Defining::new(&self.tenant));
        }
        self.handle.set_target(Some(server.cancel.clone()));
        self.server = Some(server);
    }

    /// Waits for a server connection and makes it what the session had.
    pub(crate) async fn take_server(&mut self, worker: &Rc<Worker>) -> Result<(), NoServer> {
        let handle = self.handle.clone();
        let returns = !self.lending.listens.is_empty();
        handle.set_waiting(!returns || !self.parked.is_empty());
        let waited = tokio::select! {
            waited = self.wait_for_server(worker) => waited,
            () = handle.wait_cancelled() => {
                handle.set_waiting(false);
                return Err(NoServer::Statement(Refusal::Cancelled));
            }
        };
        handle.set_waiting(false);
        let server = match waited {
            Ok(server) => server,
            // It may miss something from now on: its client has to know.
            Err(Ended::Refused(refusal)) if returns => {
                self.is_not_back(&refusal.to_string());
                return Err(NoServer::Session(Ended::Refused(Refusal::StateLost)));
            }
            Err(Ended::Refused(refusal)) if refusal.ends_only_a_statement() => {
                return Err(NoServer::Statement(refusal));
            }
            Err(ended) => return Err(NoServer::Session(ended)),
        };
        self.is_parked_unseen = true;
        let mut handover = handover(&server, &self.lending, &self.tenant, worker.config.lending);
        if returns {
            handover.get_or_insert_default().is_slow = true;
        }
        let out = match handover {
            Some(handover) if handover.is_slow => {
                let mut server = server;
                let limit = worker.config.limits.reset_time_max;
                let ready = make_ready(&mut server, handover, &self.lending, &self.tenant);
                let made = self.unless_ended(timeout(limit, ready)).await;
                match made? {
                    Ok(Ok(())) => {
                        let heard = std::mem::take(&mut server.overheard);
                        let mut out = self.attach_with(server, None);
                        out.extend_from_slice(&heard);
                        if returns {
                            self.is_back();
                        }
                        out
                    }
                    Ok(Err(ExchangeError::Said(said))) if returns => {
                        self.is_not_back(&said.code);
                        return Err(NoServer::Session(Ended::Refused(Refusal::StateLost)));
                    }
                    Ok(Err(_)) | Err(_) if returns => {
                        self.is_not_back("a server connection broke, or took too long");
                        return Err(NoServer::Session(Ended::Refused(Refusal::StateLost)));
                    }
                    Ok(Err(ExchangeError::Said(said))) => {
                        return Err(NoServer::Session(Ended::Setting(said)));
                    }
                    Ok(Err(ExchangeError::Broken)) | Err(_) => {
                        return Err(NoServer::Session(Ended::Refused(Refusal::ServerLost)));
                    }
                }
            }
            handover => self.attach_with(server, handover),
        };
        Ok(self.say(&out).await?)
    }

    /// A session that listens has no server connection again: what keeps it from one.
    #[cold]
    fn is_not_back(&self, why: &str) {
        tracing::warn!(tenant = %self.tenant.id, why, "a session that listens has to end");
    }

    /// A server connection for settings that have to be tried: with none of another session.
    pub(crate) async fn make_plain(
        &mut self,
        worker: &Rc<Worker>,
        mut server: Box<Server>,
    ) -> Result<Box<Server>, Ended> {
        let tenant = self.tenant.clone();
        let Some(handover) = handover(&server, &self.lending, &tenant, worker.config.lending)
        else {
            return Ok(server);
        };
        let made = timeout(
            worker.config.limits.reset_time_max,
            make_ready(&mut server, handover, &self.lending, &tenant),
        );
        match self.unless_ended(made).await? {
            Ok(Ok(())) => Ok(server),
            _ => Err(Ended::Refused(Refusal::ServerLost)),
        }
    }

    /// After something was answered: the session may be at rest.
    #[inline]
    pub(crate) fn after_answers(&mut self, worker: &Rc<Worker>) -> Result<Option<Turn>, Ended> {
        if self.lending.prepared.names() != self.handle.names.get() {
            self.count_names()?;
        }
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            return Ok(None);
        };
        if server.queue.has_none()
            && let Some(barrier) = lending.barrier.take()
        {
            lending.is_over(*barrier, server);
            self.is_parked_unseen = !self.parked.is_empty();
        }
        if lending.mode == PoolMode::Session
            && lending.has_portals()
            && server.queue.is_empty()
            && server.status == TransactionStatus::Idle
            && !lending.is_open
        {
            lending.close_portals();
        }
        if lending.mode == PoolMode::Session
            || !server.queue.is_empty()
            || server.status != TransactionStatus::Idle
            || lending.is_open
            || !self.from_client.is_between()
            || !server.is_at_rest()
            || self.is_server_deaf
            || self.is_server_leaving
            || !server.known
            || !server.queue.is_certain()
        {
            return Ok(None);
        }
        let known = self.tenant.known();
        // More was sent already, which goes to the same server connection.
        let goes_on = !self.parked.is_empty();
        match lending.rest(server, &self.tenant.states, &known) {
            // As somebody else's server connection would, it needs what was prepared under other settings.
            Verdict::Free if goes_on => Ok(lending.misses_statements(server).then_some(Turn::Ask)),
            Verdict::Free => {
                self.release(worker);
                Ok(None)
            }
            Verdict::Kept => {
                self.count_pins(worker);
                Ok(None)
            }
            Verdict::Unclear { now: false } if goes_on => Ok(None),
            // Whatever the server would say, it keeps what it has.
            Verdict::Unclear { now: false } if !lending.sticky.is_empty() => {
                self.unlist(worker);
                self.count_pins(worker);
                if self.handle.is_recalled() {
                    self.handle.answer_recall();
                    self.tenant.recall(worker, self.handle.login);
                }
                Ok(None)
            }
            Verdict::Unclear { now } => {
                if lending.reluctant.is_none() {
                    let login = self.handle.login;
                    let idle = worker.idle.add_session(&self.tenant, login, &self.handle);
                    lending.reluctant = Some(idle);
                }
                let is_wanted = now || self.handle.is_recalled() || self.tenant.is_wanted();
                Ok(is_wanted.then_some(Turn::Ask))
            }
        }
    }

    /// Takes note of how many statements are prepared: nobody takes memory without end.
    fn count_names(&self) -> Result<(), Ended> {
        let names = self.lending.prepared.names();
        let before = self.handle.names.replace(names);
        let all = &self.tenant.names;
        all.set(all.get() - before + names);
        let clients = self.tenant.clients.get().max(1) as usize;
        let part = TENANT_NAMES_MAX / clients;
        let is_over = names > NAMES_MAX || (all.get() > TENANT_NAMES_MAX && names > part);
        if names > before && is_over {
            return Err(Ended::Refused(Refusal::TooManyPrepared));
        }
        Ok(())
    }

    /// Gives the server connection back: nothing on it is the session's alone.
    pub(crate) fn release(&mut self, worker: &Rc<Worker>) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        self.unlist(worker);
        self.handle.answer_recall();
        self.handle.set_target(None);
        self.beat(worker, Instant::now);
        self.handle.pins.set(Pins::default());
        server.statements.discard_changed(&self.tenant.statements);
        if std::mem::take(&mut self.lending.may_have_made_temporary)
            && !std::mem::replace(&mut server.has_temporary_schema, true)
        {
            // PostgreSQL has a reason to analyse all of them anew.
            server.statements.doubt();
        }
        server.last = Some(Last {
            session: self.lending.serial,
            credential: self.lending.credential,
        });
        self.tenant.release(worker, self.handle.login, server);
    }

    /// It no longer has a server connection that it may give up.
    pub(crate) fn unlist(&mut self, worker: &Worker) {
        if let Some(number) = self.lending.reluctant.take() {
            worker.idle.remove(number);
        }
    }

    /// Takes note of why it keeps its server connection.
    pub(crate) fn count_pins(&mut self, worker: &Worker) {
        let pins = self.lending.pins();
        for pin in pins.without(self.handle.pins.get()).iter() {
            add(&self.tenant.knowledge.pins[pin as usize], 1);
            worker.counted.pins.add(pin.as_str());
        }
        self.handle.pins.set(pins);
    }

    /// Asks the server what it holds for the session, and gives it back if that is nothing.
    pub(crate) async fn ask(&mut self, worker: &Rc<Worker>) -> Result<(), Ended> {
        self.unlist(worker);
        let tenant = self.tenant.clone();
        let limit = worker.config.limits.reset_time_max;
        let handle = self.handle.clone();
        if self.lending.mode == PoolMode::Session {
            // Nobody tracks what is on it.
            handle.answer_recall();
            return Ok(());
        }
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            handle.answer_recall();
            return Ok(());
        };
        let goes_on = !self.parked.is_empty();
        let asked = timeout(limit, learn(server, lending, &tenant, goes_on));
        let asked = tokio::select! {
            asked = asked => asked,
            why = handle.ended() => return Err(Ended::Refused(why)),
        };
        let mut out = std::mem::take(&mut server.overheard);
        lending.tell(&server.parameters, &mut out);
        match asked {
            Ok(Ok(())) => {}
            Ok(Err(ExchangeError::Said(said))) => {
                tracing::debug!(tenant = %tenant.id, code = said.code, "a session cannot be asked about");
                lending.found.add(Pin::Settings);
                lending.is_unlearned = true;
                lending.effects = Effects::NONE;
            }
            Ok(Err(ExchangeError::Broken)) | Err(_) => {
                return Err(Ended::Refused(Refusal::ServerLost));
            }
        }
        let is_free = lending.pins().is_empty() && self.parked.is_empty();
        self.handle.answer_recall();
        if is_free
            && self
                .server
                .as_ref()
                .is_some_and(|server| server.is_at_rest())
        {
            self.release(worker);
        } else {
            self.count_pins(worker);
            // Somebody else may be able to.
            self.tenant.recall(worker, self.handle.login);
        }
        self.say(&out).await
    }
}

/// Finds out what the session has. `goes_on`: it sent more already, for this server connection.
pub(crate) async fn learn(
    server: &mut Server,
    lending: &mut Lending,
    tenant: &Rc<Tenant>,
    goes_on: bool,
) -> Result<(), ExchangeError> {
    let known = tenant.examine(server).await?;
    lending.heed_blind(&known);
    let asked = learn_state(server, lending, tenant, &known).await;
    if matches!(asked, Err(ExchangeError::Broken)) {
        return asked;
    }
    let stays = goes_on || !lending.pins().is_empty();
    if stays && lending.misses_statements(server) {
        make_elsewhere(server, lending, tenant).await?;
    }
    asked
}

async fn learn_state(
    server: &mut Server,
    lending: &mut Lending,
    tenant: &Rc<Tenant>,
    known: &Known,
) -> Result<(), ExchangeError> {
    let effects = lending.effects;
    let is_clear = !effects.intersects(Effects::LASTING.with(Effects::DDL))
        && (!effects.intersects(Effects::UNSEEN) || known.hazard.is_over_with_transaction());
    if is_clear {
        lending.effects = Effects::NONE;
        return Ok(());
    }
    let custom = tenant.custom.borrow().clone();
    let held = ask::ask(server, &custom).await?;
    if state::are_too_large(&held.settings) {
        return Err(ExchangeError::Said(Said {
            code: "54000".to_owned(),
            message: "more settings than are carried".to_owned(),
        }));
    }
    let states = &tenant.states;
    let has = states.of(held.settings);
    // What it began with and is not there any more was reset, and begins anew.
    let missing = lending
        .base
        .iter()
        .filter(|(name, _)| has.get(name).is_none());
    let wanted = states.of(has.iter().chain(missing).cloned());
    server.has = has.clone();
    lending.found = held.pins;
    if held.pins.contains(Pin::Temporary) {
        lending.may_have_made_temporary = true;
        lending.prepared.has_temporary();
    }
    lending.is_unlearned = false;
    lending.effects = Effects::NONE;
    if wanted.get("client_encoding").is_some() && !wanted.is_ascii() {
        lending.found.add(Pin::Settings);
    }
    if !Rc::ptr_eq(&has, &wanted) {
        let missing = wanted.iter().filter(|(name, _)| has.get(name).is_none());
        let statements: Vec<_> = states.of(missing.cloned()).one_by_one().collect();
        let statements: Vec<_> = statements.iter().map(String::as_str).collect();
        server.rows(&statements, statements.len()).await?;
        server.has = wanted.clone();
    }
    lending.want(wanted);
    Ok(())
}

/// Makes a server connection what the session had, where that may fail or takes a look at the answer.
async fn make_ready(
    server: &mut Server,
    handover: Handover,
    lending: &Lending,
    tenant: &Tenant,
) -> Result<(), ExchangeError> {
    for query in &handover.queries {
        run(server, query).await?;
    }
    if handover.resets {
        server.is_reset();
    }
    server.has = lending.wanted.clone();
    server.has_numbers = false;
    make_elsewhere(server, lending, tenant).await?;
    for listen in &lending.listens {
        run(server, listen).await?;
    }
    Ok(())
}

async fn run(server: &mut Server, query: &str) -> Result<(), ExchangeError> {
    let mut bytes = Vec::new();
    build::query(query, &mut bytes);
    for tries in 1.. {
        match server.exchange(&bytes, &[Request::Query]).await {
            // A time limit that this very statement is to lift.
            Err(ExchangeError::Said(said)) if is_cancelled(&said) && tries < TRIES_MAX => {}
            result => return result,
        }
    }
    Ok(())
}

/// Whether a time limit ended it, or the client did.
pub(crate) fn is_cancelled(said: &Said) -> bool {
    said.code == "57014"
}

impl Lending {
    /// What had to be answered is.
    fn is_over(&mut self, barrier: Barrier, server: &mut Server) {
        if matches!(barrier, Barrier::Before) {
            return;
        }
        let failed = self.cycle.failed;
        self.cycle.failed |= self.cycle.failed_before;
        let exact = match barrier {
            Barrier::Of(exact) => exact,
            Barrier::Named(name, runs) => {
                if !failed {
                    self.prepares(&name, runs);
                }
                return;
            }
            Barrier::OfSeveral(changes) => {
                match changes {
                    Changes::All if !failed => {
                        self.prepared.forget(None);
                        server.statements.clear();
                    }
                    Changes::Plans => {
                        server.statements.doubt();
                        self.prepared.discard_plans();
                    }
                    Changes::All | Changes::Some => server.statements.doubt(),
                }
                return;
            }
            Barrier::Before => return,
        };
        if failed {
            self.anew = Anew::No;
            return;
        }
        match exact {
            Exact::DiscardAll => {
                self.prepared.forget(None);
                self.is_discarded();
                server.statements.clear();
            }
            Exact::DeallocateAll => {
                self.prepared.forget(None);
                server.statements.clear();
            }
            Exact::Deallocate(name) => {
                self.prepared
                    .forget(Some(crate::prepared::name(name.as_bytes())));
            }
            // PostgreSQL reads statements anew when they are used next: ours, and those of others that are on this
            // server connection, under settings that are not theirs.
            Exact::DiscardPlans => {
                server.statements.doubt();
                self.prepared.discard_plans();
            }
            _ => server.statements.doubt(),
        }
    }
}
