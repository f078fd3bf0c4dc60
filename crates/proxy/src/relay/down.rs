//! From a server connection to its client.
//!
//! Owns: checking that each message was asked for, keeping back what is ours, and taking note of what
//! the server says about its state. Does not own: what happens when all is answered (`lend`).

use std::{rc::Rc, task::Context};

use wire::{
    frame::{self, HEADER},
    message::{TransactionStatus, build, parse},
    queue::Now,
};

use super::{LOOKED_INTO_MAX, note::Clock, out_of_step};
use crate::{
    error::Refusal,
    session::{Ended, Session, write_differences},
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
        let mut rows = 0;
        let mut at = server.frames.begin(bytes.len());
        if self.is_rest_ours {
            incoming.done = at;
        }
        while let Some(head) = frame::head(&bytes[at..]).map_err(|_| out_of_step(worker))? {
            let start = at + HEADER;
            let is_looked_into = matches!(head.kind, b'Z' | b'S' | b'E' | b'C' | b'I');
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
            let answer = server.queue.received(head.kind).map_err(|mismatch| {
                tracing::error!(
                    tenant = %self.tenant.id, %mismatch,
                    "a server connection is out of step, closing both sides"
                );
                out_of_step(worker)
            })?;
            if server.queue.has_notes() {
                let notes = server.queue.take_notes();
                lending.prepared.became(notes, &mut server.statements);
            }
            let mut is_for_client = answer.is_for_client();
            match head.kind {
                b'D' if is_for_client => {
                    rows += 1;
                    self.watch.row();
                }
                b'Z' | b'S' => {
                    match body {
                        Some(body) => {
                            server.learn(head.kind, body);
                        }
                        None => server.known = false,
                    }
                    if head.kind == b'S' {
                        // While it is made what the session had, only what differs is news.
                        is_for_client = !answer.is_to_ours() && !answer.is_turned();
                        if is_for_client {
                            lending.told = server.parameters.clone();
                        }
                    } else if !answer.is_to_ours() {
                        let is_over = server.status == TransactionStatus::Idle;
                        add(&counters.transactions, u64::from(is_over));
                    } else {
                        // In a transaction that failed, nothing can be said that would count.
                        if self.ours_failed && server.status != TransactionStatus::Failed {
                            return Err(Ended::Refused(Refusal::StateLost));
                        }
                        self.ours_failed = false;
                        if !server.queue.is_at_ours()
                            && !Rc::ptr_eq(&lending.told, &server.parameters)
                        {
                            let out = incoming.before(at);
                            write_differences(&lending.told, &server.parameters, out);
                            lending.told = server.parameters.clone();
                        }
                    }
                }
                b'E' => {
                    let report = body.and_then(|body| parse::report(body).ok());
                    let is_fatal = report.is_some_and(|report| report.is_fatal());
                    self.is_server_leaving |= is_fatal;
                    is_for_client |= is_fatal;
                    if is_for_client {
                        add(&counters.errors, 1);
                        lending.cycle.failed = true;
                        let insight = &self.tenant.insight;
                        self.watch
                            .error(insight, report.map(|report| report.code()));
                        if let Some(report) = report {
                            let message = report.field(b'M').unwrap_or_default();
                            // A plan that is of no use any more, or a name of ours that is not
                            // what we take it for.
                            if report.code() == "0A000"
                                || (matches!(report.code(), "26000" | "42P05")
                                    && self.tenant.statements.are_named(message))
                            {
                                server.statements.doubt();
                            }
                        }
                    } else {
                        self.ours_failed = true;
                    }
                }
                b'C' | b'I' | b's' if is_for_client => {
                    add(&counters.statements, u64::from(answer.is_to_query()));
                    self.watch.complete(body);
                }
                _ => {}
            }
            let over = server.queue.take_over();
            if over > 0 {
                self.watch.over(over, &self.tenant.insight);
            } else if head.kind == b'E' && !answer.is_to_statement() {
                self.watch.nothing_over();
            }
            let end = server.frames.pass(at, head, bytes.len());
            if is_for_client {
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
            lending.prepared.became(notes, &mut server.statements);
        }
        server.kept.extend_from_slice(&bytes[at..]);
        self.handle.is_busy.set(!server.queue.is_empty());
        let mut clock = Clock::default();
        self.watch.settle(&self.tenant.insight, || clock.now());
        let about = &self.handle.about;
        if let Some(took_us) = about.set_busy(!server.queue.is_empty(), || clock.now()) {
            worker.counted.busy_time.note(took_us);
        }
        add(&counters.rows, rows);
        let all = if incoming.done == 0 && incoming.out.is_empty() {
            &bytes[..at]
        } else {
            incoming.before(at)
        };
        add(&counters.bytes_to_clients, all.len() as u64);
        if all.is_empty() {
            return Ok(());
        }
        self.client.send(cx, all).map_err(|_| Ended::Lost)
    }
}
