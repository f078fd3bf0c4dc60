//! From a server connection to its client.
//!
//! Owns: checking that each message was asked for, keeping back what is ours, and taking note of what
//! the server says about its state. Does not own: what happens when all is answered (`lend`).

use std::{borrow::Cow, rc::Rc, task::Context};

use model::{Limits, limits::Number, route::PoolMode};
use statement::Effects;
use tokio::time::Instant;
use wire::{
    frame::{self, HEADER},
    message::{TransactionStatus, build, parse},
    queue::Now,
};

use super::{
    LOOKED_INTO_MAX,
    described::{self, REFUSED, redefines},
    full,
    insert::Passes,
    note::Clock,
    out_of_step,
};
use crate::{
    error::Refusal,
    lending::{Anew, Numbers},
    limits::{self, End, Exceeded},
    session::{Ended, Session},
    shape::Shape,
    stats::add,
    worker::Worker,
};

/// Appends an answer of ours.
pub(super) fn write_now(now: Now, out: &mut Vec<u8>) {
    match now {
        Now::ParseComplete => build::parse_complete(out),
        Now::CloseComplete => build::close_complete(out),
    }
}

/// What the client is told beside a limit of its result, when the statement ended by itself.
const WAS_DONE: &str = "The statement had come to its end before it could be stopped.";
/// What the client can do about a statement of its own that is not found. What leads there is listed in
/// `docs/limits-of-sharing.md`.
const OUT_OF_REACH: &str = "In pool mode auto, a statement prepared by the protocol is not found everywhere: \
    execute it in a query or a pipeline of its own, or connect with options=-c tenantry.pool_mode=session.";
/// The same about a number of a sequence.
const NUMBER_LOST: &str = "In pool mode auto, such numbers are kept from the first time that one is asked for, which was now. \
    Use RETURNING, ask in the same transaction, or connect with options=-c tenantry.pool_mode=session.";
/// How the server says that there is no unnamed statement.
const UNNAMED: &[u8] = b"unnamed prepared statement";
/// `query_canceled`.
const CANCELLED: &str = "57014";

/// Not of memory that servers share, which has the same code.
fn is_out_of_memory(report: &parse::Report<'_>) -> bool {
    let message = report.field(b'M').unwrap_or_default();
    report.code() == "53200" && message.starts_with(b"out of memory")
}

/// What was in the messages that were read at once.
#[derive(Default)]
struct Seen {
    /// The end of a statement.
    statement: bool,
    /// The end of a transaction.
    transaction: bool,
    /// The first row too many.
    exceeded: Option<Exceeded>,
    /// What ends the session.
    end: Option<Refusal>,
}

/// What goes to a client at once.
struct Incoming<'a> {
    bytes: &'a [u8],
    out: &'a mut Vec<u8>,
    /// Of `bytes`, what is in `out` or was kept back.
    done: usize,
}

impl Incoming<'_> {
    fn before(&mut self, at: usize) -> &mut Vec<u8> {
        self.out.extend_from_slice(&self.bytes[self.done..at]);
        self.done = at;
        self.out
    }

    fn keep_back(&mut self, at: usize, end: usize) {
        self.before(at);
        self.done = end;
    }
}

impl Session {
    /// Passes on what the server sent, and checks that each message was asked for.
    #[inline]
    pub(super) fn pass_to_client(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        worker: &Rc<Worker>,
    ) -> Result<(), Ended> {
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            return Ok(());
        };
        let counters = &self.handle.about.counters;
        let mut out = worker.incoming.borrow_mut();
        out.clear();
        let mut incoming = Incoming {
            bytes,
            out: &mut out,
            done: 0,
        };
        let limits = self.tenant.limits();
        let mut rows = 0;
        let mut seen = Seen::default();
        let mut at = server.frames.begin(bytes.len());
        if self.is_rest_ours {
            incoming.done = at;
        }
        while let Some(head) = frame::head(&bytes[at..]).map_err(|_| out_of_step(worker))? {
            let start = at + HEADER;
            let is_looked_into = matches!(head.kind, b'Z' | b'S' | b'E' | b'C' | b'I')
                || (head.kind == b'N' && self.inserted.is_some())
                || (head.kind == b'T' && server.queue.is_at_noted());
            let body = if is_looked_into {
                let whole = bytes.get(start..start + head.body);
                if whole.is_none() && head.body <= LOOKED_INTO_MAX {
                    break;
                }
                whole
            } else {
                None
            };
            while let Some(now) = server.queue.take_now() {
                write_now(now, incoming.before(at));
            }
            let tells_columns = matches!(head.kind, b'T' | b'n') && server.queue.is_at_noted();
            let is_changed = tells_columns && lending.prepared.is_at_changed();
            let answer = server.queue.received(head.kind).map_err(|mismatch| {
                tracing::error!(
                    tenant = %self.tenant.id, %mismatch,
                    "a server connection is out of step, closing both sides"
                );
                out_of_step(worker)
            })?;
            if server.queue.has_notes() {
                let notes = server.queue.take_notes();
                let shape = tells_columns.then(|| Shape::of(head.kind, body));
                lending
                    .prepared
                    .became(notes, shape, &mut server.statements);
            }
            let mut is_for_client = answer.is_for_client() && !is_changed;
            let (mut renamed, mut ended) = (None, None);
            if let Some(inserted) = &mut self.inserted
                && answer.is_to_query()
            {
                match inserted.passes(head.kind, body) {
                    Passes::On => {}
                    Passes::Not | Passes::Later => is_for_client = false,
                    Passes::With(end) => {
                        let mut told = Vec::new();
                        let tag = end.strip_suffix(b"\0").unwrap_or(&end);
                        build::command_complete(&String::from_utf8_lossy(tag), &mut told);
                        renamed = Some(told);
                        ended = Some(end);
                    }
                }
                if matches!(head.kind, b'E' | b'N') {
                    let report = body.and_then(|body| parse::report(body).ok());
                    renamed = report.and_then(|report| inserted.renumbered(head.kind, &report));
                } else if head.kind == b'Z' {
                    self.inserted = None;
                }
            }
            let body = ended.as_deref().or(body);
            if is_for_client
                && let Some(over) = self.meter.follows()
                && !matches!(head.kind, b'Z' | b'S' | b'N' | b'A')
            {
                // The client takes it for not done.
                seen.end = Some(Refusal::Unseen(over));
                break;
            }
            let mut instead = None;
            match head.kind {
                b'D' | b'd' if is_for_client => {
                    let (passes, over) = self.meter.takes(HEADER + head.body, &limits);
                    if head.kind == b'D' {
                        rows += u64::from(passes);
                        self.watch.row();
                    }
                    is_for_client = passes;
                    seen.exceeded = seen.exceeded.or(over);
                }
                b'c' if is_for_client => is_for_client = !self.meter.drops(),
                b'Z' | b'S' => {
                    match body {
                        Some(body) => {
                            server.learn(head.kind, body);
                        }
                        None => server.known = false,
                    }
                    if head.kind == b'S' {
                        // While it is made what the session had, only what differs is news.
                        is_for_client = !answer.is_to_ours()
                            && !answer.is_turned()
                            && matches!(lending.anew, Anew::No);
                        if is_for_client {
                            lending.told = server.parameters.clone();
                        }
                    } else if !answer.is_to_ours() {
                        if server.status == TransactionStatus::Idle
                            && std::mem::take(&mut lending.cycle.redefines)
                        {
                            self.tenant.statements.redefine();
                        }
                        match lending.anew {
                            // Where the transaction failed, it is as it was before, and nothing is left to be said.
                            Anew::Later(_) if server.status == TransactionStatus::Failed => {
                                lending.anew = Anew::No;
                                lending.tell(&server.parameters, incoming.before(at));
                            }
                            Anew::Untold => {
                                lending.anew = Anew::No;
                                lending.tell(&server.parameters, incoming.before(at));
                            }
                            Anew::Later(_) => {
                                lending.tell_ahead(&server.parameters, incoming.before(at));
                            }
                            Anew::No | Anew::Due(_) | Anew::Said => {}
                        }
                        let is_over = server.status == TransactionStatus::Idle;
                        add(&counters.transactions, u64::from(is_over));
                        self.meter.ready();
                        self.watch.ready();
                        self.completed = 0;
                        seen.transaction |= is_over;
                    } else {
                        // In a transaction that failed, nothing can be said that would count.
                        if self.ours_failed && server.status != TransactionStatus::Failed {
                            return Err(Ended::Refused(Refusal::StateLost));
                        }
                        self.ours_failed = false;
                        if let Anew::Said = lending.anew {
                            lending.anew = Anew::Untold;
                        } else if !server.queue.is_at_ours()
                            && !Rc::ptr_eq(&lending.told, &server.parameters)
                        {
                            match lending.anew {
                                Anew::Later(_) => {
                                    lending.tell_ahead(&server.parameters, incoming.before(at));
                                }
                                _ => lending.tell(&server.parameters, incoming.before(at)),
                            }
                        }
                    }
                }
                b'E' => {
                    let report = body.and_then(|body| parse::report(body).ok());
                    let is_fatal = report.is_some_and(|report| report.is_fatal());
                    self.is_server_leaving |= is_fatal;
                    if let Anew::Said = lending.anew
                        && answer.is_to_ours()
                    {
                        // Without it, nothing that the client says next would mean the same.
                        is_for_client = false;
                    }
                    is_for_client |= is_fatal;
                    if is_for_client {
                        add(&counters.errors, 1);
                        lending.cycle.failed = true;
                        seen.statement = true;
                        let over = self.meter.fails();
                        let mut code = report.map(|report| report.code());
                        if code == Some(CANCELLED)
                            && let Some((why, _)) = self.handle.stopping()
                        {
                            self.handle.has_stopped();
                            let why = over.unwrap_or(why);
                            code = Some(why.sqlstate());
                            instead = Some((why, Cow::Borrowed("")));
                        }
                        let message = report.and_then(|report| report.field(b'M'));
                        if let Some((why, detail)) =
                            full::translate(&lending.growing, code, message.unwrap_or_default())
                        {
                            worker.counted.limits_reached.add(why.limit.name());
                            code = Some(why.sqlstate());
                            instead = Some((why, detail));
                        }
                        if let Some(value) = limits.memory_bytes_max
                            && self.tenant.processes.are_limited()
                            && let Some(report) = report.filter(|_| !is_fatal)
                            && is_out_of_memory(&report)
                        {
                            let limit = Number::Memory;
                            worker.counted.limits_reached.add(limit.name());
                            let why = Exceeded { limit, value };
                            let detail = report.field(b'D').unwrap_or_default();
                            instead = Some((why, String::from_utf8_lossy(detail)));
                        }
                        let refused = (code == Some("26000"))
                            .then(|| described::instead(message?, &self.tenant.statements))
                            .flatten();
                        let is_refused = refused.is_some();
                        if is_refused {
                            code = Some(REFUSED);
                            renamed = refused;
                        }
                        self.watch.error(&self.tenant.insight, code);
                        if let Some(report) = report
                            && !is_refused
                        {
                            let message = report.field(b'M').unwrap_or_default();
                            let all = &self.tenant.statements;
                            let is_named = all.are_named(message);
                            let is_out_of_reach = report.code() == "26000"
                                && lending.mode == PoolMode::Auto
                                && (lending.cycle.misses_unnamed && message.starts_with(UNNAMED)
                                    || lending.prepared.is_out_of_reach(
                                        message,
                                        all,
                                        &server.statements,
                                    ));
                            let is_number_lost = report.code() == "55000"
                                && lending.mode == PoolMode::Auto
                                && lending.numbers == Numbers::Lost
                                && lending.cycle.effects.intersects(Effects::READS_SEQUENCE);
                            if is_named || is_out_of_reach || is_number_lost {
                                let hint = is_out_of_reach
                                    .then_some(OUT_OF_REACH)
                                    .or(is_number_lost.then_some(NUMBER_LOST));
                                let said = lending.prepared.as_the_client_names(&report, all, hint);
                                renamed = Some(said);
                            }
                            // A plan that is of no use any more, or a name of ours that is not
                            // what we take it for.
                            let is_wrong = is_named && !is_out_of_reach;
                            if report.code() == "0A000"
                                || (matches!(report.code(), "26000" | "42P05") && is_wrong)
                            {
                                server.statements.doubt();
                            }
                        }
                    } else if !answer.is_turned() {
                        self.ours_failed = true;
                    }
                }
                b'C' | b'I' | b's' if is_for_client => {
                    if answer.is_to_query() {
                        add(&counters.statements, 1);
                        if self.completed > 0
                            && let Some(rate) = limits.statements
                        {
                            // One more than it looked like.
                            self.tenant.bucket.take(1, rate, Instant::now());
                        }
                        self.completed += 1;
                    }
                    self.watch.complete(body);
                    lending.cycle.redefines |= body.is_some_and(redefines);
                    seen.statement = true;
                    let tag = (head.kind != b's').then_some(body.unwrap_or_default());
                    match self.meter.ends(tag) {
                        End::Passes => {}
                        End::Told(over) => instead = Some((over, WAS_DONE.into())),
                        End::Fatal(over) => {
                            seen.end = Some(Refusal::Unseen(over));
                            break;
                        }
                    }
                }
                b'N' if answer.is_to_noted_parse() => lending.prepared.is_noticed(),
                _ => {}
            }
            let over = server.queue.take_over();
            if over > 0 {
                self.watch
                    .over(over, &self.tenant.insight, &self.handle.login);
            } else if head.kind == b'E' && !answer.is_to_statement() {
                let (insight, login) = (&self.tenant.insight, &self.handle.login);
                self.watch
                    .nothing_over(answer.is_to_parse(), insight, login);
            }
            let end = server.frames.pass(at, head, bytes.len());
            if let Some((over, detail)) = instead {
                incoming.keep_back(at, end);
                self.is_rest_ours = true;
                over.write(&detail, incoming.before(end));
            } else if let Some(report) = renamed {
                incoming.keep_back(at, end);
                self.is_rest_ours = true;
                incoming.before(end).extend_from_slice(&report);
            } else if is_for_client {
                self.is_rest_ours = false;
            } else {
                incoming.keep_back(at, end);
                self.is_rest_ours = true;
            }
            at = end;
        }
        if !server.queue.is_at_ours() {
            self.handle.unshield(worker);
        }
        if server.queue.waits_for_nobody() && server.queue.is_at_answer() {
            while let Some(now) = server.queue.take_now() {
                write_now(now, incoming.before(at));
            }
            let notes = server.queue.take_notes();
            lending.prepared.became(notes, None, &mut server.statements);
        }
        server.kept.extend_from_slice(&bytes[at..]);
        let mut clock = Clock::default();
        self.watch
            .settle(&self.tenant.insight, &self.handle.login, || clock.now());
        add(&counters.rows, rows);
        let all = if incoming.done == 0 && incoming.out.is_empty() {
            &bytes[..at]
        } else {
            incoming.before(at)
        };
        add(&counters.bytes_to_clients, all.len() as u64);
        if !all.is_empty() {
            self.client.send(cx, all).map_err(|_| Ended::Lost)?;
        }
        if seen.statement || seen.exceeded.is_some() {
            self.heed(worker, &seen, &limits);
        }
        drop((limits, out));
        self.beat(worker, || clock.now());
        seen.end.map_or(Ok(()), |end| Err(Ended::Refused(end)))
    }

    /// What limits follow from what the server said.
    #[inline]
    fn heed(&self, worker: &Rc<Worker>, seen: &Seen, limits: &Limits) {
        let handle = &self.handle;
        if seen.statement {
            // A cancel that comes too late for it has missed.
            handle.has_stopped();
            if limits.statement_time_max.is_some() || limits.transaction_time_max.is_some() {
                handle.pulse.next_statement(seen.transaction);
            }
        }
        let Some(exceeded) = seen.exceeded else {
            return;
        };
        if !self.meter.drops() {
            worker.counted.limits_reached.add(exceeded.limit.name());
        } else if handle.stop(worker, exceeded) {
            limits::watch_stop(worker, handle);
        }
    }
}
