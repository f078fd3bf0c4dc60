//! A client from ReadyForQuery until it leaves.
//!
//! Owns: what happens once at the beginning (limits, settings, greeting) and at the end (last
//! words, giving the server connection back), and when a server connection is taken. Does not own:
//! passing messages between the two (`relay`), login (`login`), server connections (`pool`).

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use model::{
    Login, LoginName, Pid, Public,
    route::{Candidate, Resolved},
};
use tokio::time::{Instant, timeout};
use wire::{
    frame::Frames,
    message::{
        TransactionStatus,
        build::{self, Report, Severity},
    },
    startup::{CancelKey, Protocol, Startup},
};

use crate::{
    accept::{self, Peer},
    entrance::Slot,
    error::{Refusal, write_error, write_fatal},
    handle::Handle,
    insight::Watch,
    journal::{self, About},
    learn,
    lending::Lending,
    limits::{self, Meter},
    login::refusal_of,
    metrics::micros,
    pool::Tenant,
    relay::{Cursors, Inserted, Skip, Turn},
    server::{ExchangeError, Said, Server},
    settings::Settings,
    stats::add,
    stream::{Moving, Stream},
    waiting,
    worker::{SCRATCH, State, Worker},
};

/// The database clients name; which one they get is decided by the user name.
const DATABASE: &str = "postgres";
/// Time for a client to take the reason why its session ends.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// A client that is logged in, on the way to its tenant's home.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) moving: Moving,
    /// Read from it and not understood yet.
    pub(crate) read: Vec<u8>,
    pub(crate) peer: Peer,
    pub(crate) slot: Slot,
    pub(crate) began: Instant,
    pub(crate) name: LoginName,
    pub(crate) startup: Startup,
    pub(crate) protocol: Protocol,
    pub(crate) candidate: Candidate,
    pub(crate) resolved: Resolved,
    pub(crate) asked: Instant,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The client left.
    Left,
    /// Its connection broke.
    Lost,
    /// The server ended it and said why; the client has read it.
    ByServer,
    /// We end it, for this reason.
    Refused(Refusal),
    /// The server does not take a setting of the client's.
    Setting(Said),
}

/// Why a session that asked for a server connection got none.
pub(crate) enum NoServer {
    /// What it asked ends with this; the session goes on.
    Statement(Refusal),
    /// The session ends.
    Session(Ended),
}

impl From<Ended> for NoServer {
    fn from(ended: Ended) -> Self {
        Self::Session(ended)
    }
}

/// What is counted and found by others while the session lives.
#[derive(Debug)]
struct Registered {
    worker: Rc<Worker>,
    tenant: Rc<Tenant>,
    key: CancelKey,
    _slot: Slot,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let id = self.key.process_id();
        self.worker.shared.keys.forget(id);
        self.worker.sessions.borrow_mut().remove(&id);
        let session = self.tenant.sessions.borrow_mut().remove(&id);
        if let Some(session) = session {
            self.tenant
                .counters
                .take_over(&session.about.counters.totals());
            let names = &self.tenant.names;
            names.set(names.get() - session.names.get());
        }
        self.tenant.clients.set(self.tenant.clients.get() - 1);
        self.worker.left.notify_waiters();
    }
}

/// A client and, from its first statement on, its server connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Stream,
    /// Read from the client and not passed on: the beginning of a header, or what waits for a
    /// server.
    pub(crate) parked: Vec<u8>,
    /// Whether there may be whole messages in `parked` that nobody has looked at.
    pub(crate) is_parked_unseen: bool,
    /// What it sends and nobody gets, because it was refused.
    pub(crate) skip: Skip,
    pub(crate) from_client: Frames,
    /// The rest of the message that is being read goes nowhere: it was refused.
    pub(crate) is_rest_refused: bool,
    pub(crate) server: Option<Box<Server>>,
    /// The server no longer reads. What it still says is read.
    pub(crate) is_server_deaf: bool,
    /// The server said that it ends the connection.
    pub(crate) is_server_leaving: bool,
    pub(crate) handle: Rc<Handle>,
    pub(crate) tenant: Rc<Tenant>,
    /// What it must find again on every server connection.
    pub(crate) lending: Box<Lending>,
    /// Of ours, to be sent before what the client sends next.
    pub(crate) prefix: Vec<u8>,
    /// Of ours, to be sent behind the message that is being looked at.
    pub(crate) behind: Option<Box<[u8]>>,
    /// Of ours, in the text of the query that is being answered.
    pub(crate) inserted: Option<Box<Inserted>>,
    /// The rest of the last message of the server is not for the client.
    pub(crate) is_rest_ours: bool,
    /// The server said no to something of ours.
    pub(crate) ours_failed: bool,
    /// Statements and portals of it that fetch from cursors, once there are some.
    pub(crate) cursors: Option<Box<Cursors>>,
    /// Which answer belongs to which statement.
    pub(crate) watch: Box<Watch>,
    pub(crate) meter: Meter,
    /// Statements begun since it was at rest, as far as their number is limited.
    pub(crate) begun: u32,
    /// An Execute was passed on since the last Sync.
    pub(crate) has_executed: bool,
    /// Statements of the simple query that is being answered that are done.
    pub(crate) completed: u32,
    registered: Registered,
}

/// Serves a client that arrived at its tenant's home.
pub(crate) fn serve(worker: &Rc<Worker>, arrived: Box<Arrived>) {
    let worker = worker.clone();
    accept::spawn(worker.clone(), run(worker, arrived));
}

/// What it holds while it waits is most of an idle client: what is only needed at times is boxed, and
/// nothing is kept here that the session knows as well.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn would keep its arguments twice"
)]
fn run(worker: Rc<Worker>, arrived: Box<Arrived>) -> impl Future<Output = ()> {
    async move {
        let begin = worker.pace.paced(Box::pin(begin(&worker, arrived)));
        let Some(mut session) = begin.await else {
            return;
        };
        session.began(&worker);
        let leaving = loop {
            let turn = session.relay(&worker).await;
            if let Some(ended) = Box::pin(session.take_turn(&worker, turn)).await {
                break session.leave(&worker, ended);
            }
        };
        leaving.await;
    }
}

/// Everything between login and ReadyForQuery. A client that is refused has been told.
async fn begin(worker: &Rc<Worker>, arrived: Box<Arrived>) -> Option<Session> {
    let Arrived {
        moving,
        mut read,
        peer,
        slot,
        name,
        startup,
        protocol,
        candidate,
        resolved,
        asked,
        began,
    } = *arrived;
    let mut client = Stream::arrive(moving).ok()?;
    // It is kept as long as the client, and nearly always empty.
    read.shrink_to_fit();
    let entry = Entry {
        peer,
        name: &name,
        startup: &startup,
        candidate: &candidate,
    };
    let pool_mode = resolved.route.pool_mode;
    let result = match entry.admit(worker, resolved, asked).await {
        Ok(admitted) => {
            let about = About::new(peer, began, &client, &startup);
            register(worker, admitted, &entry, (about, protocol, slot))
        }
        Err(refusal) => Err(refusal),
    };
    let refusal = match result {
        Ok((settings, handle, registered)) => {
            let tenant = &registered.tenant;
            let lending = Lending::new(
                settings.pool_mode.unwrap_or(pool_mode),
                tenant.next_serial(),
                tenant.credential(&candidate),
                tenant.states.nothing().clone(),
                Rc::default(),
            );
            let mut session = Session {
                client,
                is_parked_unseen: !read.is_empty(),
                parked: read,
                skip: Skip::Nothing,
                from_client: Frames::default(),
                is_rest_refused: false,
                server: None,
                is_server_deaf: false,
                is_server_leaving: false,
                handle,
                tenant: registered.tenant.clone(),
                lending: Box::new(lending),
                prefix: Vec::new(),
                behind: None,
                inserted: None,
                cursors: None,
                is_rest_ours: false,
                ours_failed: false,
                watch: Box::new(Watch::new(&registered.tenant.insight)),
                meter: Meter::default(),
                begun: 0,
                has_executed: false,
                completed: 0,
                registered,
            };
            match session.greet(worker, settings).await {
                Ok(()) => {
                    journal::began(worker.audit(), &session.tenant, &session.handle);
                    return Some(session);
                }
                Err(ended) => {
                    worker.counted.logins_refused.add(ended.how());
                    journal::ended(worker.audit(), &session.tenant, &session.handle, &ended);
                    session.end(worker, ended).await;
                    return None;
                }
            }
        }
        Err(refusal) => refusal,
    };
    worker.counted.logins_refused.add(refusal.sqlstate());
    tracing::info!(from = %peer, tenant = %name.tenant, role = %name.login, credential = %candidate.id,
        code = refusal.sqlstate(), reason = %refusal, "login refused");
    let proved = Some((&name, &candidate));
    journal::refused(worker.audit(), &peer, refusal.sqlstate(), proved);
    let mut out = Vec::new();
    write_fatal(&refusal, &mut out);
    last_words(&mut client, &out).await;
    None
}

struct Entry<'a> {
    peer: Peer,
    name: &'a LoginName,
    startup: &'a Startup,
    candidate: &'a Candidate,
}

struct Admitted {
    tenant: Rc<Tenant>,
    /// The secret as it is now.
    candidate: Candidate,
    settings: Settings,
    pid: Pid,
}

impl Entry<'_> {
    /// What can be refused once the secret was proved.
    async fn admit(
        &self,
        worker: &Rc<Worker>,
        resolved: Resolved,
        asked: Instant,
    ) -> Result<Admitted, Refusal> {
        let (resolved, asked) = self.renew(worker, resolved, asked).await?;
        // Not before: while it waited, a tenant at rest could be forgotten, and what is registered
        // on a forgotten one hears of no change.
        let tenant = worker.tenant(&self.name.tenant);
        tenant.was_at_rest.set(false);
        if worker.state.get() != State::Serving {
            return Err(Refusal::Draining);
        }
        if let Some(refusal) = refusal_of(&resolved.route, asked) {
            return Err(refusal);
        }
        if !self.peer.is_admitted(&resolved.route.limits) {
            return Err(Refusal::Address);
        }
        // A client that names none asks for one named like its user.
        let database = &self.startup.database;
        if database != DATABASE && *database != self.startup.user {
            return Err(Refusal::NoSuchDatabase {
                database: database.clone(),
            });
        }
        let settings = Settings::of(self.startup)?;
        if tenant.clients.get() >= resolved.route.limits.client_connections_max {
            return Err(Refusal::TooManyClientsOfTenant);
        }
        let of_user = resolved.route.clients_max;
        if let (Login::User(user), Some(max)) = (self.name.login, of_user)
            && tenant.clients_of(self.name.login) >= max as usize
        {
            return Err(Refusal::TooManyClientsOfUser { user, max });
        }
        let pid = resolved.route.server.pid.clone();
        let mut candidates = resolved.route.candidates.iter();
        let candidate = candidates.find(|own| own.id == self.candidate.id);
        let candidate = candidate.unwrap_or(self.candidate).clone();
        tenant.set_route(worker, self.name.login, resolved);
        Ok(Admitted {
            tenant,
            candidate,
            settings,
            pid,
        })
    }

    /// Asks again when the tenant changed while the client was logging in. Returns also when that was.
    async fn renew(
        &self,
        worker: &Rc<Worker>,
        mut resolved: Resolved,
        mut asked: Instant,
    ) -> Result<(Resolved, Instant), Refusal> {
        while worker.routes.is_stale(&self.name.tenant, asked) {
            let answer = worker.routes.ask(self.name).await;
            let answer = answer.map_err(|_| Refusal::CannotCheck)?;
            asked = answer.asked;
            let listed = answer.resolved.filter(|resolved| {
                let mut candidates = resolved.route.candidates.iter();
                self.candidate.one_use || candidates.any(|own| own.id == self.candidate.id)
            });
            resolved = listed.ok_or(Refusal::Revoked)?;
        }
        Ok((resolved, asked))
    }
}

/// Makes the session known. From here on changes reach it.
fn register(
    worker: &Rc<Worker>,
    admitted: Admitted,
    entry: &Entry<'_>,
    (about, protocol, slot): (About, Protocol, Slot),
) -> Result<(Settings, Rc<Handle>, Registered), Refusal> {
    let tenant = admitted.tenant;
    let key = worker
        .shared
        .keys
        .issue(protocol, worker.index)
        .ok_or(Refusal::Internal)?;
    let id = key.process_id();
    let handle = Rc::new(Handle::new(
        id,
        tenant.clone(),
        entry.name.login,
        &admitted.candidate,
        admitted.pid,
        about,
    ));
    worker.sessions.borrow_mut().insert(id, handle.clone());
    tenant.sessions.borrow_mut().insert(id, handle.clone());
    tenant.clients.set(tenant.clients.get() + 1);
    add(&tenant.counters.logins, 1);
    limits::watch(worker, &handle);
    limits::expire(worker, &handle, &admitted.candidate);
    let registered = Registered {
        worker: worker.clone(),
        tenant,
        key,
        _slot: slot,
    };
    Ok((admitted.settings, handle, registered))
}

impl Session {
    fn began(&self, worker: &Rc<Worker>) {
        let about = &self.handle.about;
        worker
            .counted
            .login_time
            .note(micros(about.began.elapsed()));
        tracing::debug!(from = %about.peer, tenant = %self.tenant.id, role = %self.handle.login, "session began");
    }

    /// Does what the relay stopped for. Returns how the session ended, if it did.
    async fn take_turn(&mut self, worker: &Rc<Worker>, turn: Turn) -> Option<Ended> {
        match turn {
            Turn::NeedsServer => match self.take_server(worker).await {
                Ok(()) => None,
                Err(NoServer::Statement(refusal)) => {
                    self.refuse_statement(worker, refusal).await.err()
                }
                Err(NoServer::Session(ended)) => Some(ended),
            },
            Turn::Refused(refusal) => self.refuse_statement(worker, refusal).await.err(),
            Turn::Ask => self.ask(worker).await.err(),
            Turn::Hold => self.heed_hold(worker).await.err(),
            Turn::Ended(ended) => Some(ended),
        }
    }

    fn leave(self, worker: &Rc<Worker>, ended: Ended) -> Pin<Box<impl Future<Output = ()>>> {
        worker.counted.sessions_ended.add(ended.how());
        journal::ended(worker.audit(), &self.tenant, &self.handle, &ended);
        Box::pin(self.end(worker, ended))
    }

    /// Tells the client all that PostgreSQL tells after login. Opens a server first where its
    /// values are not known, or where a setting has to be tried.
    async fn greet(&mut self, worker: &Rc<Worker>, mut settings: Settings) -> Result<(), Ended> {
        let login = self.handle.login;
        let tenant = self.tenant.clone();
        let learned = learn::parameters(worker, &tenant, login);
        let mut values = self.unless_gone(learned).await?;
        settings.subtract(&values);
        if !settings.are_surely_valid() {
            let server = self.wait_for(worker, settings.wants_notices()).await?;
            let mut server = self.make_plain(worker, server).await?;
            let applied = self.unless_ended(settings.apply(&mut server)).await;
            values = server.parameters.clone();
            let base = settings.as_state(&values, &tenant.states);
            server.has = base;
            self.attach(server);
            match applied? {
                Ok(()) => {}
                Err(ExchangeError::Said(said)) => return Err(Ended::Setting(said)),
                Err(ExchangeError::Broken) => return Err(Ended::Refused(Refusal::ServerLost)),
            }
        }
        let base = settings.as_state(&values, &tenant.states);
        self.lending.base = base.clone();
        self.lending.wanted = base;
        self.lending.told = values.clone();
        self.lending.application = settings
            .application_name
            .as_deref()
            .unwrap_or_default()
            .as_bytes()
            .into();
        // It is lent for a transaction, and there is none.
        self.after_answers(worker)?;
        let mut out = Vec::new();
        for (name, value) in values.iter() {
            let own = settings.application_name.as_deref();
            let value = match own {
                Some(own) if **name == *b"application_name" => own.as_bytes(),
                _ => value,
            };
            build::parameter_status(name, value, &mut out);
        }
        build::backend_key_data(&self.registered.key, &mut out);
        build::ready_for_query(TransactionStatus::Idle, &mut out);
        match timeout(
            worker.config.limits.login_time_max,
            self.client.send_all(&out),
        )
        .await
        {
            Ok(Ok(())) => Ok(()),
            _ => Err(Ended::Lost),
        }
    }

    /// Ends what the client asked with an error, as PostgreSQL would: a simple query is answered,
    /// and behind an extended one all is skipped up to the Sync.
    async fn refuse_statement(&mut self, worker: &Worker, refusal: Refusal) -> Result<(), Ended> {
        worker.counted.statements_refused.add(refusal.sqlstate());
        tracing::debug!(from = %self.handle.about.peer, tenant = %self.tenant.id, reason = %refusal,
            "statement refused");
        let mut out = Vec::new();
        write_error(&refusal, &mut out);
        self.skip = Skip::of(self.parked.first().copied());
        self.is_parked_unseen = true;
        self.say(&out).await
    }

    /// Says something between two messages of the server.
    pub(crate) async fn say(&mut self, out: &[u8]) -> Result<(), Ended> {
        let handle = self.handle.clone();
        tokio::select! {
            sent = self.client.send_all(out) => sent.map_err(|_| Ended::Lost),
            why = handle.ended() => Err(Ended::Refused(why)),
        }
    }

    pub(crate) async fn wait_for_server(
        &mut self,
        worker: &Rc<Worker>,
    ) -> Result<Box<Server>, Ended> {
        if let Some(server) = self.lending.taken.take() {
            return Ok(server);
        }
        let least = self.lending.wanted.get("client_min_messages");
        let wants_notices = waiting::wants_notices(least);
        self.wait_for(worker, wants_notices).await
    }

    async fn wait_for(
        &mut self,
        worker: &Rc<Worker>,
        wants_notices: bool,
    ) -> Result<Box<Server>, Ended> {
        let (tenant, want) = (self.tenant.clone(), self.want());
        let asked = Instant::now();
        self.handle.about.waits_since.set(Some(asked));
        let mut work = pin!(tenant.server_for(worker, &want));
        let notice_after = worker.config.limits.wait_notice_after;
        let early = timeout(notice_after, self.unless_gone(work.as_mut())).await;
        let got = match early {
            Ok(got) => got,
            Err(_) if !wants_notices => self.unless_gone(work).await,
            Err(_) => match self.tell_that_it_waits(worker).await {
                Ok(()) => self.unless_gone(work).await,
                Err(ended) => Err(ended),
            },
        };
        let got = got.map_err(|ended| match ended {
            Ended::Refused(why) => Ended::Refused(waiting::in_vain(&tenant, &self.handle, why)),
            ended => ended,
        });
        self.handle.about.waits_since.set(None);
        let waited_us = micros(asked.elapsed());
        add(&self.handle.about.counters.waits, 1);
        add(&self.handle.about.counters.waited_us, waited_us);
        worker.counted.wait_time.note(waited_us);
        got
    }

    /// Does not wait for the client: whatever is free meanwhile would have to.
    async fn tell_that_it_waits(&mut self, worker: &Worker) -> Result<(), Ended> {
        let notice = waiting::notice(&self.tenant, &self.handle, &worker.config.limits);
        let sent = poll_fn(|cx| Poll::Ready(self.client.send(cx, &notice)));
        sent.await.map_err(|_| Ended::Lost)
    }

    /// Waits for `work`, unless the client leaves or the session is to end.
    async fn unless_gone<T>(
        &mut self,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Ended> {
        let (client, parked) = (&mut self.client, &mut self.parked);
        // Who leaves must leave the line. What else it sends waits with the rest, to a limit.
        let left = async {
            while parked.len() < SCRATCH / 2 {
                match client.read_more(parked).await {
                    Ok(0) => return Ended::Left,
                    Ok(_) => {}
                    Err(_) => return Ended::Lost,
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            done = work => done.map_err(Ended::Refused),
            why = self.handle.ended() => Err(Ended::Refused(why)),
            ended = left => Err(ended),
        }
    }

    pub(crate) async fn unless_ended<T>(&self, work: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::select! {
            done = work => Ok(done),
            why = self.handle.ended() => Err(Ended::Refused(why)),
        }
    }

    /// Gives the server connection back and tells the client why it ends.
    async fn end(mut self, worker: &Rc<Worker>, ended: Ended) {
        self.handle.set_target(None);
        self.unlist(worker);
        self.watch.lost(&self.tenant.insight, &self.handle.login);
        if let Some(server) = self.lending.taken.take() {
            self.tenant.release(worker, self.handle.login, server);
        }
        // Between two messages of the server, ours can stand; inside one it would be read as data.
        let mut can_speak = true;
        if let Some(server) = self.server.take() {
            can_speak = server.frames.is_between();
            let in_message = !self.from_client.is_between() || self.is_server_deaf;
            if self.is_server_leaving || matches!(ended, Ended::Refused(Refusal::OutOfStep)) {
                drop(server);
            } else {
                self.tenant
                    .give_back(worker, self.handle.login, server, in_message);
            }
        }
        let mut out = Vec::new();
        match &ended {
            Ended::Refused(refusal) => write_fatal(refusal, &mut out),
            Ended::Setting(said) => build::error_response(
                &Report {
                    severity: Severity::Fatal,
                    code: &said.code,
                    message: &said.message,
                    detail: "",
                    hint: "",
                },
                &mut out,
            ),
            Ended::Left | Ended::Lost | Ended::ByServer => {}
        }
        if !can_speak {
            out.clear();
        }
        match ended {
            Ended::Lost => {}
            // Who said goodbye, or hung up, waits for no words.
            Ended::Left => self.client.part().await,
            _ => last_words(&mut self.client, &out).await,
        }
    }
}

async fn last_words(client: &mut Stream, out: &[u8]) {
    let _ = timeout(LAST_WORDS_MAX, async {
        client.send_all(out).await?;
        client.finish().await;
        // Closing with unread bytes would reset the connection and lose the reason.
        let mut ignored = Vec::new();
        while client.read_more(&mut ignored).await? > 0 {
            ignored.clear();
        }
        Ok::<(), std::io::Error>(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With what tokio adds to it, a task of 512 bytes: it grows in steps of 128.
    #[test]
    fn a_client_that_is_idle_is_small() {
        const TASK_BYTES_MAX: usize = 512;
        const TOKIO_BYTES: usize = 112;
        fn size<A, B, T>(_: fn(A, B) -> T) -> usize {
            size_of::<T>()
        }
        assert!(size(run) + TOKIO_BYTES <= TASK_BYTES_MAX, "{}", size(run));
    }
}
