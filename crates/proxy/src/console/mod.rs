//! The operator's console: a database of that name on the PostgreSQL port, in which commands like
//! PgBouncer's are answered by us.
//!
//! Owns: a console's session, from the end of its login until it leaves: greeting, the protocol, and how
//! many there may be. Does not own: who may come in (`login`, with the operator's own secret and by the
//! same steps as everybody), what the commands are (`command`), what they show (`show`) or do (`act`).

mod act;
mod command;
mod extended;
mod show;
mod table;

use std::{rc::Rc, time::Duration};

use audit::Event;
use model::{Public, TenantId};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use wire::{
    login::client::LoggedIn,
    message::{
        self, TransactionStatus,
        build::{self, Report, Severity},
        client, parse,
    },
    startup::CancelKey,
};

use crate::{
    accept::Peer,
    entrance::Slot,
    error::{Refusal, write_fatal},
    journal,
    stream::Stream,
    worker::{State, Worker},
};
use command::Command;
use extended::Extended;
use table::Table;

/// The user that a console logs in as.
pub const USER: &str = "operator";
/// The database it names.
const DATABASE: &str = "tenantry";
/// Consoles at once, of the whole process: an operator, a few exporters.
pub(crate) const CONSOLES_MAX: usize = 16;
/// Longest message of a console. The longest command has 30 letters; drivers ask much longer things
/// when they connect, which are refused.
const BODY_BYTES_MAX: u32 = 64 * 1024;
/// A console that says nothing for that long is ended.
const IDLE_MAX: Duration = Duration::from_secs(1800);
/// For a client to take an answer.
const SEND_TIME_MAX: Duration = Duration::from_secs(30);

/// What a console answers to one command.
enum Answer {
    Rows(Table),
    /// Done; the tag says what.
    Done(&'static str),
    /// Done, but for what the notice says.
    DoneBut(&'static str, String),
    /// Nothing was asked.
    Empty,
}

/// What a console answers to what it does not do.
#[derive(Clone, Debug)]
struct Mistake {
    code: &'static str,
    message: String,
    hint: &'static str,
}

impl Mistake {
    fn write(&self, severity: Severity, out: &mut Vec<u8>) {
        let report = Report {
            severity,
            code: self.code,
            message: &self.message,
            detail: "",
            hint: self.hint,
        };
        build::error_response(&report, out);
    }
}

/// The places of consoles.
#[derive(Debug)]
pub(crate) struct Places(std::sync::Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(std::sync::Arc::new(Semaphore::new(CONSOLES_MAX)))
    }
}

/// An operator who is logged in.
pub(crate) struct Arrived {
    pub(crate) stream: Stream,
    /// Read and not understood yet.
    pub(crate) read: Vec<u8>,
    /// To be sent before the greeting.
    pub(crate) unsent: Vec<u8>,
    pub(crate) peer: Peer,
    pub(crate) slot: Slot,
    pub(crate) logged_in: LoggedIn,
}

struct Console {
    worker: Rc<Worker>,
    peer: Peer,
    stream: Stream,
    read: Vec<u8>,
    key: CancelKey,
    extended: Extended,
    _slot: Slot,
    _place: OwnedSemaphorePermit,
}

impl Drop for Console {
    fn drop(&mut self) {
        let worker = &self.worker;
        worker.shared.keys.forget(self.key.process_id());
        worker.consoles.set(worker.consoles.get() - 1);
        worker.left.notify_waiters();
    }
}

/// Serves an operator until it leaves.
pub(crate) async fn serve(worker: Rc<Worker>, arrived: Arrived) {
    let peer = arrived.peer;
    let Arrived {
        mut stream,
        mut unsent,
        logged_in,
        ..
    } = arrived;
    let database = &logged_in.startup.database;
    let place = worker.shared.consoles.0.clone().try_acquire_owned();
    let key = worker.shared.keys.issue(logged_in.protocol, worker.index);
    let refused = match (&place, &key) {
        _ if database != DATABASE => Some(Mistake {
            code: "3D000",
            message: format!("database \"{database}\" does not exist"),
            hint: "The console is the database \"tenantry\".",
        }),
        _ if worker.state.get() != State::Serving => Some(refusal(&Refusal::Draining)),
        (Err(_), _) => Some(refusal(&Refusal::TooManyClients)),
        (_, None) => Some(refusal(&Refusal::Internal)),
        (Ok(_), Some(_)) => None,
    };
    let (Ok(place), Some(key), None) = (place, key, &refused) else {
        if let Some(refused) = refused {
            worker.counted.logins_refused.add(refused.code);
            journal::refused(worker.audit(), &peer, refused.code, None);
            tracing::info!(from = %peer, code = refused.code, reason = refused.message, "no console");
            refused.write(Severity::Fatal, &mut unsent);
        }
        goodbye(&mut stream, &unsent).await;
        return;
    };
    worker.consoles.set(worker.consoles.get() + 1);
    let mut console = Console {
        worker,
        peer,
        stream,
        read: arrived.read,
        key,
        extended: Extended::default(),
        _slot: arrived.slot,
        _place: place,
    };
    console.greet(&mut unsent);
    tracing::info!(from = %peer, tls = console.stream.tls_version().unwrap_or("none"), "console began");
    journal::console(console.worker.audit(), "connect", &peer);
    let last = console.run(unsent).await;
    journal::console(console.worker.audit(), "disconnect", &peer);
    tracing::info!(from = %peer, "console ended");
    if let Some(refusal) = last {
        let mut out = Vec::new();
        write_fatal(&refusal, &mut out);
        goodbye(&mut console.stream, &out).await;
    }
}

fn refusal(refusal: &Refusal) -> Mistake {
    Mistake {
        code: refusal.sqlstate(),
        message: refusal.message(),
        hint: refusal.hint(),
    }
}

async fn goodbye(stream: &mut Stream, out: &[u8]) {
    let _ = timeout(Duration::from_secs(1), async {
        stream.send_all(out).await?;
        stream.finish().await;
        let mut ignored = Vec::new();
        while stream.read_more(&mut ignored).await? > 0 {
            ignored.clear();
        }
        Ok::<(), std::io::Error>(())
    })
    .await;
}

impl Console {
    /// What PostgreSQL says after a login, as far as drivers look at it.
    fn greet(&self, out: &mut Vec<u8>) {
        for (name, value) in [
            (
                "server_version",
                concat!(env!("CARGO_PKG_VERSION"), "/tenantry"),
            ),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", "off"),
            ("session_authorization", USER),
        ] {
            build::parameter_status(name.as_bytes(), value.as_bytes(), out);
        }
        build::backend_key_data(&self.key, out);
        build::ready_for_query(TransactionStatus::Idle, out);
    }

    /// Until it leaves, breaks, or is told why it is ended.
    async fn run(&mut self, mut out: Vec<u8>) -> Option<Refusal> {
        loop {
            loop {
                match message::split(&self.read, BODY_BYTES_MAX) {
                    Err(_) => {
                        let _ = self.send(&mut out).await;
                        return Some(Refusal::OutOfStep);
                    }
                    Ok(None) => break,
                    Ok(Some(message)) => {
                        let (tag, body) = (message.tag, message.body.to_vec());
                        let size = message.size();
                        self.read.drain(..size);
                        if let Some(end) = self.take(tag, &body, &mut out).await {
                            let _ = self.send(&mut out).await;
                            return end;
                        }
                    }
                }
            }
            self.send(&mut out).await.ok()?;
            let worker = self.worker.clone();
            let draining = worker.draining.notified();
            if worker.state.get() != State::Serving {
                return Some(Refusal::Draining);
            }
            tokio::select! {
                read = timeout(IDLE_MAX, self.stream.read_more(&mut self.read)) => match read {
                    Ok(Ok(1..)) => {}
                    Ok(Ok(0) | Err(_)) => return None,
                    Err(_) => return Some(Refusal::Draining),
                },
                () = draining => return Some(Refusal::Draining),
            }
        }
    }

    async fn send(&mut self, out: &mut Vec<u8>) -> Result<(), ()> {
        let sent = timeout(SEND_TIME_MAX, self.stream.send_all(out)).await;
        out.clear();
        match sent {
            Ok(Ok(())) => Ok(()),
            _ => Err(()),
        }
    }

    /// Takes one message. `Some`: it is the last one.
    async fn take(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Option<Option<Refusal>> {
        match tag {
            client::TERMINATE => return Some(None),
            client::QUERY => {
                let Ok(text) = parse::query(body) else {
                    return Some(Some(Refusal::OutOfStep));
                };
                let answer = match Command::read(text) {
                    Ok(command) => self.answer(command).await,
                    Err(mistake) => Err(mistake),
                };
                self.extended.forget_unnamed();
                match answer {
                    Ok(answer) => answer.write(out),
                    Err(mistake) => mistake.write(Severity::Error, out),
                }
                build::ready_for_query(TransactionStatus::Idle, out);
            }
            client::FUNCTION_CALL => {
                let mistake = Mistake {
                    code: "0A000",
                    message: "the console has no functions".to_owned(),
                    hint: command::HINT,
                };
                mistake.write(Severity::Error, out);
                build::ready_for_query(TransactionStatus::Idle, out);
            }
            // PostgreSQL ignores them outside COPY.
            client::COPY_DATA | client::COPY_DONE | client::COPY_FAIL => {}
            client::PARSE
            | client::BIND
            | client::DESCRIBE
            | client::EXECUTE
            | client::CLOSE
            | client::FLUSH
            | client::SYNC => {
                if extended::take(self, tag, body, out).await.is_err() {
                    return Some(Some(Refusal::OutOfStep));
                }
            }
            other => return Some(Some(Refusal::ClientMessage(other))),
        }
        None
    }

    /// Writes down what is about to be done; what cannot be, is not done.
    async fn record(
        &self,
        operation: &'static str,
        tenant: Option<&TenantId>,
    ) -> Result<(), Mistake> {
        let Some(audit) = self.worker.audit() else {
            return Ok(());
        };
        let event = Event::new("command")
            .text("operation", operation)
            .text(
                "resource",
                if tenant.is_some() {
                    "database"
                } else {
                    "routes"
                },
            )
            .text("actor", "console")
            .text("address", self.peer)
            .maybe("tenant", tenant);
        audit.admin.record(event).await.map_err(|error| {
            tracing::error!(%error, "a command was refused because it cannot be written down");
            Mistake {
                code: "58030", // io_error
                message: "the audit log cannot be written, so nothing is done".to_owned(),
                hint: "The reason is in the log, a full disk for one.",
            }
        })
    }

    async fn answer(&self, command: Command) -> Result<Answer, Mistake> {
        match command {
            Command::Nothing => Ok(Answer::Empty),
            Command::Ignored(tag) => Ok(Answer::Done(tag)),
            Command::Show(what) => Ok(Answer::Rows(show::show(&self.worker, what).await)),
            Command::Act(act, tenant) => {
                self.record(act.operation(), Some(&tenant)).await?;
                act::act(&self.worker, act, tenant).await
            }
            Command::Reload => {
                self.record("reload", None).await?;
                act::reload(&self.worker).await;
                Ok(Answer::Done("RELOAD"))
            }
        }
    }
}

impl Answer {
    /// As the answer to a simple query.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Rows(table) => {
                table.describe(&[], out);
                table.rows(0..table.len(), &[], out);
                table.note(out);
                build::command_complete("SHOW", out);
            }
            Self::Done(_) | Self::DoneBut(..) | Self::Empty => self.complete(out),
        }
    }

    /// The end of an answer without rows.
    fn complete(&self, out: &mut Vec<u8>) {
        match self {
            Self::Rows(_) => build::command_complete("SHOW", out),
            Self::Done(tag) => build::command_complete(tag, out),
            Self::DoneBut(tag, note) => {
                notice(note, out);
                build::command_complete(tag, out);
            }
            Self::Empty => build::empty_query_response(out),
        }
    }
}

fn notice(message: &str, out: &mut Vec<u8>) {
    let report = Report {
        severity: Severity::Notice,
        code: "00000",
        message,
        detail: "",
        hint: "",
    };
    build::notice_response(&report, out);
}
