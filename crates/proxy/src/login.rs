//! From the first byte of a client to the proof of who it is.
//!
//! Owns: the order of startup packets, TLS and SCRAM on a connection, the time all of it may take,
//! and that an unknown login and a wrong password cannot be told apart. Does not own: the messages
//! (`wire::login`), routes (`route`), or what comes after (`session`).

use std::{io, rc::Rc};

use model::{
    LoginName, Public,
    route::{Access, Candidate, Resolved, Route},
};
use tokio::time::{Instant, timeout, timeout_at};
use wire::{
    forwarded::{self, Source},
    login::{
        CLIENT_BODY_BYTES_MAX,
        client::{AfterInitial, Asked, AwaitStartup, Began, LoginError, Proved, Seed},
    },
    message,
    scram::{ChannelBinding, Keys, login_salt, nonce, server::Match},
    startup::{StartupError, first_packet},
};

use crate::{
    accept::{self, Peer},
    cancel, console,
    entrance::Slot,
    error::{Refusal, write_fatal},
    journal,
    session::{self, Arrived},
    stream::Stream,
    worker::{Inbox, Worker},
};

/// Time for a client that is turned away to take the reason.
const LAST_WORDS_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// What an HTTP client reads.
const HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain\r\nconnection: close\r\ncontent-length: 67\r\n\r\n\
    This port speaks the PostgreSQL protocol; the API has another one.\n";

/// Why a login came to nothing.
enum Failed {
    /// The client left, or it speaks something we cannot answer in; nobody is told.
    Silently(io::Error),
    /// It is told.
    With(Refusal),
    /// It spoke HTTP.
    Http,
    /// It was a cancel, which is answered by closing.
    Cancel,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Silently(error)
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::With(refusal)
    }
}

impl From<StartupError> for Failed {
    fn from(error: StartupError) -> Self {
        match error {
            StartupError::Http => Self::Http,
            StartupError::UnexpectedTls => {
                Self::Silently(io::Error::new(io::ErrorKind::InvalidData, error))
            }
            error => Self::With(error.into()),
        }
    }
}

impl From<LoginError> for Failed {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Left => Self::Silently(io::ErrorKind::UnexpectedEof.into()),
            error => Self::With(Refusal::Login(error)),
        }
    }
}

/// Logs a client in and sends it to its tenant's home.
///
/// While it waits for its first bytes it is small: of these there may be thousands.
pub(crate) async fn serve(worker: &Rc<Worker>, stream: Stream, peer: Peer, slot: Slot) {
    let mut slot = slot;
    let mut login = Login {
        worker,
        stream,
        peer,
        read: Vec::new(),
        binding: ChannelBinding::Unavailable,
    };
    let began = Instant::now();
    let deadline = began + worker.config.limits.login_time_max;
    let spoken = tokio::select! {
        biased;
        spoken = timeout_at(deadline, login.spoken()) => spoken,
        () = slot.pushed_out() => return pushed_out(peer),
    };
    let spoken = match spoken {
        Ok(Ok(Source::Client(client))) => {
            login.peer = Peer::Tcp(client);
            if slot.speaks_for(client).is_err() {
                tracing::debug!(peer = %client, "far too many clients of this address");
                return;
            }
            Ok(())
        }
        Ok(Ok(Source::Itself)) => Ok(()),
        Ok(Err(failed)) => Err(failed),
        Err(_) => Err(Failed::With(Refusal::LoginTimeout)),
    };
    Box::pin(login.serve(spoken, slot, began, deadline)).await;
}

/// Not a word to the client: its place is needed now.
fn pushed_out(peer: Peer) {
    tracing::debug!(%peer, "pushed out before it logged in");
}

struct Login<'w> {
    worker: &'w Rc<Worker>,
    stream: Stream,
    peer: Peer,
    /// Read and not understood yet.
    read: Vec<u8>,
    binding: ChannelBinding,
}

/// A client that proved who it is.
struct Entered {
    name: LoginName,
    proved: Proved,
    right: Match,
    candidate: Candidate,
    resolved: Resolved,
    asked: Instant,
}

/// Who came in.
enum In {
    Client(Box<Entered>),
    Operator(Box<Proved>, Match),
}

impl Login<'_> {
    async fn serve(
        mut self,
        spoken: Result<(), Failed>,
        mut slot: Slot,
        began: Instant,
        deadline: Instant,
    ) {
        let result = match spoken {
            Ok(()) => tokio::select! {
                biased;
                result = timeout_at(deadline, self.run(&slot)) => {
                    result.unwrap_or(Err(Failed::With(Refusal::LoginTimeout)))
                }
                () = slot.pushed_out() => return pushed_out(self.peer),
            },
            Err(failed) => Err(failed),
        };
        if let (Err(Failed::With(Refusal::WrongPassword { user })), Some(from)) =
            (&result, &slot.from)
        {
            from.failed(user);
        }
        match result {
            Ok(In::Client(entered)) => {
                if let Some(from) = &slot.from {
                    from.succeeded(&entered.proved.startup().user);
                }
                slot.entered();
                self.move_home(*entered, slot, began).await;
            }
            Ok(In::Operator(proved, right)) => {
                if let Some(from) = &slot.from {
                    from.succeeded(&proved.startup().user);
                }
                slot.entered();
                self.open_console(*proved, &right, slot);
            }
            Err(failed) => self.turn_away(failed).await,
        }
    }

    async fn run(&mut self, slot: &Slot) -> Result<In, Failed> {
        let asked = self.startup().await?;
        if asked.startup.user == console::USER && matches!(self.peer, Peer::Tcp(_)) {
            // Also when there are too many clients: that is when somebody has to look.
            return self.operator(asked, slot).await;
        }
        let entered = self.client(asked, slot).await?;
        Ok(In::Client(Box::new(entered)))
    }

    async fn client(&mut self, asked: Asked, slot: &Slot) -> Result<Entered, Failed> {
        if slot.is_too_many {
            return Err(Refusal::TooManyClients.into());
        }
        if let Some(from) = &slot.from {
            from.may_try(&asked.startup.user)?;
        }
        slot.is_named();
        let name: LoginName = asked.startup.user.parse().map_err(Refusal::LoginName)?;
        // Asked for before the proof comes, and for every login: the time it takes tells nothing.
        let first = self.worker.routes.get(self.worker, &name).await;
        let proved = self.exchange(asked).await?;
        // Guesses that came together are not all answered.
        if let Some(from) = &slot.from {
            from.may_go_on(&proved.startup().user)?;
        }

        if let Ok(answer) = &first
            && let Some(entered) = check(&proved, answer.resolved.as_ref())
        {
            return self.enter(name, proved, entered, answer.asked).await;
        }
        // A secret made a moment ago must work, so nobody is refused on what may be old.
        match self.worker.routes.ask(&name).await {
            Ok(answer) => match check(&proved, answer.resolved.as_ref()) {
                Some(entered) => self.enter(name, proved, entered, answer.asked).await,
                None => Err(wrong(&proved)),
            },
            Err(_) => Err(Refusal::CannotCheck.into()),
        }
    }

    /// By the same steps as everybody, and refused with the same words. Only the operator's own secret
    /// opens the console; no tenant's route is looked at.
    async fn operator(&mut self, asked: Asked, slot: &Slot) -> Result<In, Failed> {
        if let Some(from) = &slot.from {
            from.may_go_on(&asked.startup.user)?;
        }
        slot.is_named();
        let proved = self.exchange(asked).await?;
        let keys = self.worker.config.operator.as_slice();
        match proved.evaluate(keys) {
            Some(right) => Ok(In::Operator(Box::new(proved), right)),
            None => Err(wrong(&proved)),
        }
    }

    fn open_console(self, proved: Proved, right: &Match, slot: Slot) {
        let mut unsent = Vec::new();
        let logged_in = proved.accept(right, &mut unsent);
        let arrived = console::Arrived {
            stream: self.stream,
            read: self.read,
            unsent,
            peer: self.peer,
            slot,
            logged_in,
        };
        let worker = self.worker.clone();
        accept::spawn(self.worker.clone(), console::serve(worker, arrived));
    }

    /// Until the first bytes of the client came. A load balancer says before them for whom it speaks.
    async fn spoken(&mut self) -> Result<Source, Failed> {
        self.more().await?;
        if !self.peer.speaks_for_others(&self.worker.config) {
            return Ok(Source::Itself);
        }
        loop {
            match forwarded::split(&self.read).map_err(Refusal::Forwarded)? {
                Some((size, source)) => {
                    self.read.drain(..size);
                    return Ok(source);
                }
                None => self.more().await?,
            }
        }
    }

    /// First packets, until the client says who it is.
    async fn startup(&mut self) -> Result<Asked, Failed> {
        let config = &self.worker.config;
        let from_network = matches!(self.peer, Peer::Tcp(_));
        let tls = config.tls.as_ref().filter(|_| from_network);
        let mut state = AwaitStartup::new(tls.is_some());
        loop {
            let (size, first) = loop {
                if let Some(first) = first_packet(&self.read)? {
                    break first;
                }
                self.more().await?;
            };
            self.read.drain(..size);
            match state.on(first)? {
                Began::Answer { byte, state: next } => {
                    self.stream.send_all(&[byte]).await?;
                    if byte == b'S' {
                        self.encrypt().await?;
                    }
                    state = next;
                }
                Began::DirectTls(next) => {
                    self.encrypt().await?;
                    if self.stream.alpn() != Some(b"postgresql") {
                        return Err(Refusal::Alpn.into());
                    }
                    state = next;
                }
                Began::Cancel(key) => {
                    cancel::serve(self.worker, &key).await;
                    return Err(Failed::Cancel);
                }
                Began::Asked(asked) => {
                    if from_network && config.require_tls && !self.stream.is_encrypted() {
                        return Err(Refusal::TlsRequired.into());
                    }
                    return Ok(asked);
                }
            }
        }
    }

    async fn encrypt(&mut self) -> Result<(), Failed> {
        let Some(tls) = &self.worker.config.tls else {
            return Err(StartupError::UnexpectedTls.into());
        };
        let identity = tls.now();
        let early = std::mem::take(&mut self.read);
        self.stream.accept_tls(identity.server, &early).await?;
        self.binding = identity.binding;
        Ok(())
    }

    /// SCRAM, up to the client's proof.
    async fn exchange(&mut self, asked: Asked) -> Result<Proved, Failed> {
        let seed = Seed {
            nonce: nonce().map_err(io::Error::other)?,
            salt: login_salt(&self.worker.config.installation_key, &asked.startup.user),
            iterations: self.worker.config.scram_iterations,
        };
        let mut out = Vec::new();
        let initial = asked.challenge(self.binding.clone(), &mut out);
        self.stream.send_all(&out).await?;
        out.clear();

        let message = self.message().await?;
        let after = initial.on(as_message(&message), &seed, &mut out)?;
        self.stream.send_all(&out).await?;
        out.clear();

        let last = match after {
            AfterInitial::Final(state) => state,
            AfterInitial::First(state) => {
                let message = self.message().await?;
                let state = state.on(as_message(&message), &seed, &mut out)?;
                self.stream.send_all(&out).await?;
                state
            }
        };
        let message = self.message().await?;
        Ok(last.on(as_message(&message))?)
    }

    async fn enter(
        &self,
        name: LoginName,
        proved: Proved,
        (right, candidate, resolved): (Match, Candidate, Resolved),
        asked: Instant,
    ) -> Result<Entered, Failed> {
        if !self.peer.may_use(&candidate) {
            return Err(Refusal::CredentialAddress.into());
        }
        let client = self.worker.routes.client();
        if candidate.one_use && !client.consume(candidate.id.clone()).await {
            return Err(wrong(&proved));
        }
        self.worker.routes.used(&candidate, &self.peer);
        Ok(Entered {
            name,
            proved,
            right,
            candidate,
            resolved,
            asked,
        })
    }

    async fn move_home(mut self, entered: Entered, slot: Slot, began: Instant) {
        let mut out = Vec::new();
        let logged_in = entered.proved.accept(&entered.right, &mut out);
        // It leaves with the greeting, or with the reason why there is none.
        if self.stream.hold(&out).is_err() {
            return;
        }
        let home = self.worker.home_of(&entered.name.tenant);
        let is_home = home == self.worker.index;
        let moving = if is_home {
            self.stream.stay()
        } else {
            match self.stream.depart() {
                Ok(moving) => moving,
                Err(_) => return,
            }
        };
        let arrived = Box::new(Arrived {
            moving,
            read: self.read,
            peer: self.peer,
            slot,
            began,
            name: entered.name,
            startup: logged_in.startup,
            protocol: logged_in.protocol,
            candidate: entered.candidate,
            resolved: entered.resolved,
            asked: entered.asked,
        });
        if is_home {
            session::serve(self.worker, arrived);
        } else {
            // A worker that is gone drops the client with the message.
            let _ = self.worker.shared.inboxes[home]
                .send(Inbox::Client(arrived))
                .await;
        }
    }

    async fn turn_away(mut self, failed: Failed) {
        let mut out = Vec::new();
        let peer = self.peer;
        let refused = &self.worker.counted.logins_refused;
        match failed {
            Failed::Silently(error) => {
                refused.add("left");
                tracing::debug!(%peer, %error, "no login");
            }
            Failed::With(refusal) => {
                refused.add(refusal.sqlstate());
                tracing::info!(from = %peer, code = refusal.sqlstate(), reason = %refusal, "login refused");
                journal::refused(self.worker.audit(), &peer, refusal.sqlstate(), None);
                write_fatal(&refusal, &mut out);
            }
            Failed::Http => {
                refused.add("http");
                journal::refused(self.worker.audit(), &peer, "http", None);
                tracing::info!(from = %peer, "HTTP request on the PostgreSQL port");
                out.extend_from_slice(HTTP_ANSWER);
            }
            Failed::Cancel => {}
        }
        let _ = timeout(LAST_WORDS_MAX, async {
            if !out.is_empty() {
                self.stream.send_all(&out).await?;
            }
            self.stream.finish().await;
            // Closing with unread bytes would reset the connection and lose the reason.
            while self.stream.read_more(&mut self.read).await? > 0 && self.read.len() < 65_536 {}
            Ok::<(), io::Error>(())
        })
        .await;
    }

    async fn more(&mut self) -> Result<(), Failed> {
        if self.stream.read_more(&mut self.read).await? == 0 {
            return Err(Failed::Silently(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// The next message, whole.
    async fn message(&mut self) -> Result<(u8, Vec<u8>), Failed> {
        loop {
            let split = message::split(&self.read, CLIENT_BODY_BYTES_MAX)
                .map_err(|_| Failed::With(Refusal::Startup(StartupError::Length)))?;
            if let Some(message) = split {
                let (tag, body, size) = (message.tag, message.body.to_vec(), message.size());
                self.read.drain(..size);
                return Ok((tag, body));
            }
            self.more().await?;
        }
    }
}

fn as_message((tag, body): &(u8, Vec<u8>)) -> message::Message<'_> {
    message::Message { tag: *tag, body }
}

fn wrong(proved: &Proved) -> Failed {
    Failed::With(Refusal::WrongPassword {
        user: proved.startup().user.clone(),
    })
}

/// Compares with every candidate of a route, or with none, in the same way. Only what is valid
/// now may match.
fn check(proved: &Proved, resolved: Option<&Resolved>) -> Option<(Match, Candidate, Resolved)> {
    let now = std::time::SystemTime::now();
    let valid: Vec<&Candidate> = resolved
        .map(|resolved| {
            let all = resolved.route.candidates.iter();
            all.filter(|candidate| candidate.expires_at.is_none_or(|at| at > now))
                .collect()
        })
        .unwrap_or_default();
    let keys: Vec<Keys> = valid
        .iter()
        .map(|candidate| Keys {
            stored_key: candidate.stored_key,
            server_key: candidate.server_key,
        })
        .collect();
    let right = proved.evaluate(&keys)?;
    let candidate = (*valid.get(right.candidate)?).clone();
    Some((right, candidate, resolved?.clone()))
}

/// What a proved client is told about a tenant that cannot be used, by a route that was asked for then.
pub(crate) fn refusal_of(route: &Route, asked: Instant) -> Option<Refusal> {
    match route.access {
        Access::Open => {
            let is_over = route.expires_in.is_some_and(|time| asked.elapsed() >= time);
            is_over.then_some(Refusal::Expired)
        }
        Access::Expired => Some(Refusal::Expired),
        Access::NotReady => Some(Refusal::NotReady),
        Access::Failed => Some(Refusal::NotMade),
        Access::Suspended => Some(Refusal::Suspended),
        Access::Deleted => Some(Refusal::Deleted),
    }
}
