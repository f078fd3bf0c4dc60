//! Connections to PostgreSQL servers: what is known about one, small exchanges of our own, closing.
//!
//! Owns: one server connection and what is known about its state. Does not own: opening it
//! (`open`), who may use it (`pool`) or what clients send over it (`relay`).

mod open;

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    rc::Rc,
    sync::Arc,
    task::{Poll, ready},
};

use model::{Group, route::NodeTarget};
use statement::{Context, Encoding, Strings};
use tokio::{sync::Notify, time::Instant};
use wire::{
    frame::{self, Frames},
    login::SERVER_BODY_BYTES_MAX,
    message::{Kind, TransactionStatus, build, parse},
    queue::{Queue, Request},
    startup::CancelKey,
};

use crate::{
    parting::{Parting, Partings},
    pool::Lease,
    state::State,
    statements::{Has, Unnamed},
    stream::Stream,
};

pub(crate) use open::{Opening, connect, open};

/// Parameters a server reported, and their values. Shared until one changes.
pub(crate) type Parameters = Vec<(Box<[u8]>, Box<[u8]>)>;

/// Values of one row, as text.
pub(crate) type Row = Vec<Option<Vec<u8>>>;

/// A server connection, ready for requests.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) stream: Stream,
    pub(crate) queue: Queue,
    pub(crate) frames: Frames,
    /// The beginning of a message that is wanted whole.
    pub(crate) kept: Vec<u8>,
    pub(crate) status: TransactionStatus,
    pub(crate) parameters: Rc<Parameters>,
    pub(crate) cancel: Rc<CancelTarget>,
    /// Whether a client has used it since it was opened or reset.
    pub(crate) used: bool,
    /// The settings it has, beside those it logged in with.
    pub(crate) has: Rc<State>,
    /// The statements it has.
    pub(crate) statements: Has,
    /// Who had it last.
    pub(crate) last: Option<Last>,
    /// Never that of another one.
    pub(crate) number: u64,
    /// `currval` and `lastval` may have something to say on it.
    pub(crate) has_numbers: bool,
    /// Temporary objects may have been made on it, whose schema stays for good.
    pub(crate) has_temporary_schema: bool,
    /// How it reads statements.
    pub(crate) context: Context,
    /// It may have settings that nobody knows of.
    pub(crate) is_dirty: bool,
    /// When it was last given back.
    pub(crate) idle_since: Instant,
    /// Notifications that came while we asked something.
    pub(crate) overheard: Vec<u8>,
    /// Cleared when something was said that we could not keep track of.
    pub(crate) known: bool,
    /// How its login was made; another one means that it must not be used again.
    pub(crate) login: Arc<model::route::Route>,
    /// `None` once it is somebody else's.
    lease: Option<Lease>,
    /// Whether the server process is known to be gone.
    is_gone: bool,
    partings: Rc<Partings>,
}

impl Drop for Server {
    /// Whoever drops it without closing it, a panic for instance, gives back its place in the budget
    /// only when the server process is gone.
    fn drop(&mut self) {
        if !self.is_gone
            && let Some(lease) = self.lease.take()
            && let Ok(socket) = self.stream.second_handle()
        {
            self.partings.add(Parting {
                socket,
                lease,
                cancel: self.cancel.clone(),
            });
        }
    }
}

/// A session that had a server connection and gave it back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Last {
    pub(crate) session: u64,
    pub(crate) credential: u64,
}

/// Where a statement that runs on a server connection can be cancelled.
#[derive(Debug)]
pub(crate) struct CancelTarget {
    pub(crate) node: Arc<NodeTarget>,
    pub(crate) key: Option<CancelKey>,
    /// Cancels under way. While there are any, the connection serves nobody else.
    pub(crate) in_flight: Cell<u32>,
    pub(crate) settled: Notify,
    /// When whoever has it gives it back, it is closed.
    pub(crate) is_last: Cell<bool>,
}

/// What the server said against a request of ours.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// Why an exchange of ours did not go through.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// The connection is broken, or out of step. Drop it.
    Broken,
    /// The server said no. The connection is in step.
    Said(Said),
}

impl Server {
    /// Sends `bytes`, which hold `requests`, and reads until all are answered.
    ///
    /// # Errors
    ///
    /// [`ExchangeError`]; the first thing the server said.
    pub(crate) async fn exchange(
        &mut self,
        bytes: &[u8],
        requests: &[Request],
    ) -> Result<(), ExchangeError> {
        self.exchange_rows(bytes, requests, |_| {}).await
    }

    /// Runs statements one after the other and returns their rows. The first that is refused is the
    /// last. Everything that is prepared stays, the unnamed statement, too.
    ///
    /// # Errors
    ///
    /// [`ExchangeError`], also when there are more than `rows_max` rows, or one is not understood.
    pub(crate) async fn rows(
        &mut self,
        queries: &[&str],
        rows_max: usize,
    ) -> Result<Vec<Row>, ExchangeError> {
        let lease = self.lease.as_ref().ok_or(ExchangeError::Broken)?;
        let name = lease.passing_name();
        let (mut bytes, mut requests) = (Vec::new(), Vec::new());
        for query in queries {
            build::close(Kind::Statement, &name, &mut bytes);
            build::parse(&name, query.as_bytes(), &[], &mut bytes);
            build::bind_nothing(b"", &name, &mut bytes);
            build::execute(b"", 0, &mut bytes);
            requests.extend([
                Request::Close,
                Request::Parse,
                Request::Bind,
                Request::Execute,
            ]);
        }
        build::close(Kind::Statement, &name, &mut bytes);
        build::sync(&mut bytes);
        requests.extend([Request::Close, Request::Sync]);
        let mut rows = Vec::new();
        let mut is_whole = true;
        let take = |body: Option<&[u8]>| match body.and_then(row) {
            Some(row) if rows.len() < rows_max => rows.push(row),
            _ => is_whole = false,
        };
        self.exchange_rows(&bytes, &requests, take).await?;
        if is_whole {
            Ok(rows)
        } else {
            Err(ExchangeError::Said(Said {
                code: "54000".to_owned(),
                message: "more than can be taken".to_owned(),
            }))
        }
    }

    /// A name for a statement or portal of ours that is gone at once.
    pub(crate) fn passing_name(&self) -> Vec<u8> {
        let lease = self.lease.as_ref();
        lease.map(Lease::passing_name).unwrap_or_default()
    }

    async fn exchange_rows(
        &mut self,
        bytes: &[u8],
        requests: &[Request],
        mut take: impl FnMut(Option<&[u8]>),
    ) -> Result<(), ExchangeError> {
        for request in requests {
            self.queue.sent(*request);
            if *request == Request::Query {
                self.statements.unnamed = Unnamed::None;
            }
        }
        let broken = |_| ExchangeError::Broken;
        self.stream.send_all(bytes).await.map_err(broken)?;
        let mut said = None;
        let mut read = std::mem::take(&mut self.kept);
        while !self.queue.is_empty() {
            if self.stream.read_more(&mut read).await.map_err(broken)? == 0 {
                return Err(ExchangeError::Broken);
            }
            let mut at = self.frames.begin(read.len());
            while let Some(head) = frame::head(&read[at..]).map_err(|_| ExchangeError::Broken)? {
                let end = at + frame::HEADER + head.body;
                if end > read.len() && head.body <= SERVER_BODY_BYTES_MAX as usize {
                    break;
                }
                self.queue
                    .received(head.kind)
                    .map_err(|_| ExchangeError::Broken)?;
                let body = read.get(at + frame::HEADER..end);
                match (head.kind, body) {
                    (b'D', body) => take(body),
                    (b'E', Some(body)) if said.is_none() => {
                        let report = parse::report(body).map_err(|_| ExchangeError::Broken)?;
                        said = Some(Said {
                            code: report.code().to_owned(),
                            message: report.message().into_owned(),
                        });
                    }
                    (b'Z' | b'S', Some(body)) => self.learn(head.kind, body),
                    // For the client, which is told as soon as possible.
                    (b'A', Some(_)) => self.overheard.extend_from_slice(&read[at..end]),
                    _ => {}
                }
                at = self.frames.pass(at, head, read.len());
            }
            read.drain(..at);
        }
        self.kept = read;
        // None of the client's.
        self.queue.take_over();
        match said {
            Some(said) => Err(ExchangeError::Said(said)),
            None => Ok(()),
        }
    }

    /// Takes note of ReadyForQuery and ParameterStatus.
    pub(crate) fn learn(&mut self, kind: u8, body: &[u8]) {
        if kind == b'Z' {
            match parse::ready_for_query(body) {
                Ok(status) => self.status = status,
                Err(_) => self.known = false,
            }
        } else if let Ok((name, value)) = parse::parameter_status(body) {
            let parameters = Rc::make_mut(&mut self.parameters);
            match parameters.iter_mut().find(|(own, _)| **own == *name) {
                Some((_, own)) => *own = value.into(),
                None => parameters.push((name.into(), value.into())),
            }
            self.context = context_of(parameters);
        } else {
            self.known = false;
        }
    }

    /// Whether it owes nothing and stands between two messages, both ways.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.queue.is_empty()
            && self.frames.is_between()
            && self.kept.is_empty()
            && !self.stream.is_blocked()
    }

    /// Puts it into the state of a new connection.
    ///
    /// # Errors
    ///
    /// [`ExchangeError`]; it must be closed then.
    pub(crate) async fn reset(&mut self) -> Result<(), ExchangeError> {
        let mut bytes = Vec::new();
        let mut requests = Vec::new();
        if self.status != TransactionStatus::Idle {
            build::query("ROLLBACK", &mut bytes);
            requests.push(Request::Query);
        }
        // A message of its own: it cannot run inside a transaction, which several statements are.
        build::query("DISCARD ALL", &mut bytes);
        requests.push(Request::Query);
        // DISCARD ALL includes SET SESSION AUTHORIZATION DEFAULT, which ends the role as well.
        build::query(&set_role(self.login.server.group), &mut bytes);
        requests.push(Request::Query);
        self.exchange(&bytes, &requests).await?;
        if self.status == TransactionStatus::Idle && self.is_at_rest() && self.known {
            self.is_reset();
            Ok(())
        } else {
            Err(ExchangeError::Broken)
        }
    }

    /// Notes that it is, or will be, in the state of a new one.
    pub(crate) fn is_reset(&mut self) {
        self.used = false;
        self.last = None;
        self.is_dirty = false;
        self.has_numbers = false;
        if let Some(lease) = &self.lease {
            self.has = lease.states().nothing().clone();
        }
        self.statements.is_reset();
    }

    /// Ends it and waits until the server process is gone, so that the budget counts what is
    /// really there. `in_message`: the last message of the client is not whole, so nothing can
    /// follow it.
    pub(crate) async fn close(&mut self, in_message: bool) {
        let mut bytes = Vec::new();
        if !in_message {
            build::terminate(&mut bytes);
        }
        let _ = poll_fn(|cx| {
            let _ = self.stream.send(cx, &bytes);
            bytes.clear();
            // It may not read before we do.
            let mut piece = [0; 4096];
            loop {
                if self.stream.poll_flush(cx).is_ready() {
                    return Poll::Ready(Ok::<(), io::Error>(()));
                }
                if ready!(self.stream.poll_read(cx, &mut piece))? == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
        })
        .await;
        self.stream.hang_up();
        let mut piece = [0; 4096];
        while let Ok(1..) = poll_fn(|cx| self.stream.poll_read(cx, &mut piece)).await {}
        self.is_gone = true;
    }

    /// Whether its tenant may go on with it. See [`Lease::may_stay`].
    pub(crate) fn may_stay(&mut self, has_next: bool) -> bool {
        let lease = self.lease.as_mut();
        lease.is_some_and(|lease| lease.may_stay(has_next))
    }

    /// Its place in the budget, for another one. For a connection that the server has ended.
    pub(crate) fn into_lease(mut self: Box<Self>) -> Lease {
        self.lease.take().expect("only a drop takes it, too")
    }
}

/// How a server with these parameters reads statements.
fn context_of(parameters: &Parameters) -> Context {
    let of = |name: &[u8]| {
        let mut all = parameters.iter();
        all.find(|(own, _)| **own == *name)
            .map(|(_, value)| String::from_utf8_lossy(value))
    };
    Context {
        strings: match of(b"standard_conforming_strings").as_deref() {
            Some("on") => Strings::Standard,
            Some("off") => Strings::Escaping,
            _ => Strings::Undecided,
        },
        encoding: of(b"client_encoding").map_or(Encoding::Overlapping, |own| Encoding::of(&own)),
    }
}

/// The values of a DataRow.
fn row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        row.push(match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => {
                let (value, after) = rest.split_at_checked(length)?;
                rest = after;
                Some(value.to_vec())
            }
            Err(_) => None,
        });
    }
    rest.is_empty().then_some(row)
}

pub(crate) fn set_role(group: Group) -> String {
    format!("SET ROLE {}", group.as_str())
}
