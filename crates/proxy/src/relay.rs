//! Passing messages between a client and its server connection.
//!
//! Owns: the loop that watches both sides, back-pressure, the record of what the server owes, and
//! the counters of a tenant. Does not own: where the server connection comes from or goes.
//!
//! One buffer per worker is read into; what was read is sent from it at once, in one call. Only
//! headers are looked at. A side that does not read stops the other side from being read, never
//! itself: each direction moves as long as it can.

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
};

use wire::{
    frame,
    message::{TransactionStatus, build, parse},
    queue::{FromClient, Request},
};

use crate::{
    error::Refusal,
    session::{Ended, Session},
    stats::add,
    worker::Worker,
};

/// Reads of both sides before other clients get their turn: 512 kB each way.
const TURNS_MAX: usize = 16;
/// Longest body of a message that is looked into. Half of what is read at once, so that it always
/// fits behind what was kept.
const LOOKED_INTO_MAX: usize = crate::worker::SCRATCH / 2;

/// What a session needs next.
#[derive(Debug)]
pub(crate) enum Turn {
    /// The client asked something and has no server.
    NeedsServer,
    /// It is over.
    Ended(Ended),
}

/// What of a client's messages is read and answered by nobody, after an error of ours that no
/// server knows of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Skip {
    Nothing,
    /// The next one, or the rest of it; then we say that we are ready.
    Message,
    /// All up to the next Sync; then we say that we are ready.
    ToSync,
}

impl Skip {
    /// What an error in answer to a message of this kind leads to ("Message Flow", PostgreSQL
    /// manual, section 55.2).
    pub(crate) fn of(kind: Option<u8>) -> Self {
        match kind {
            None | Some(b'Q' | b'F') => Self::Message,
            _ => Self::ToSync,
        }
    }
}

impl Session {
    /// Relays until something else has to happen.
    pub(crate) async fn relay(&mut self, worker: &Rc<Worker>) -> Turn {
        poll_fn(|cx| match self.poll_relay(worker, cx) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(turn)) => Poll::Ready(turn),
            Err(ended) => Poll::Ready(Turn::Ended(ended)),
        })
        .await
    }

    #[inline]
    fn poll_relay(&mut self, worker: &Worker, cx: &mut Context<'_>) -> Result<Poll<Turn>, Ended> {
        self.handle.watch(cx);
        let scratch = &mut *worker.scratch.borrow_mut();
        for _ in 0..TURNS_MAX {
            if let Some(why) = self.handle.ending(self.is_at_rest()) {
                return Err(Ended::Refused(why));
            }
            self.flush(cx)?;
            let mut moved = false;
            if self.may_read_client() {
                if self.is_parked_unseen {
                    // What waited for the server, or came before anybody listened.
                    self.is_parked_unseen = false;
                    let parked = std::mem::take(&mut self.parked);
                    if let Some(turn) = self.take_in(cx, &parked)? {
                        return Ok(Poll::Ready(turn));
                    }
                    moved = true;
                } else if let Some(turn) = self.read_client(cx, scratch, &mut moved)? {
                    return Ok(Poll::Ready(turn));
                }
            }
            if !self.client.is_blocked() {
                moved |= self.read_server(cx, scratch, worker)?;
            }
            if !moved {
                return Ok(Poll::Pending);
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    /// Whether no transaction runs and nothing is on the way.
    #[inline]
    fn is_at_rest(&self) -> bool {
        match &self.server {
            None => self.parked.is_empty(),
            Some(server) => {
                server.queue.is_empty()
                    && server.status == TransactionStatus::Idle
                    && self.from_client.is_between()
            }
        }
    }

    #[inline]
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        if self.client.is_blocked() && matches!(self.client.poll_flush(cx), Poll::Ready(Err(_))) {
            return Err(Ended::Lost);
        }
        if let Some(server) = &mut self.server
            && server.stream.is_blocked()
            && !self.is_server_deaf
            && matches!(server.stream.poll_flush(cx), Poll::Ready(Err(_)))
        {
            self.is_server_deaf = true;
        }
        Ok(())
    }

    #[inline]
    fn may_read_client(&self) -> bool {
        match &self.server {
            None => !self.client.is_blocked(),
            Some(server) => {
                !server.stream.is_blocked() && !server.queue.is_full() && !self.is_server_deaf
            }
        }
    }

    #[inline]
    fn read_client(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        moved: &mut bool,
    ) -> Result<Option<Turn>, Ended> {
        let kept = self.parked.len();
        scratch[..kept].copy_from_slice(&self.parked);
        let read = match self.client.poll_read(cx, &mut scratch[kept..]) {
            Poll::Pending => return Ok(None),
            Poll::Ready(Ok(0)) => return Err(Ended::Left),
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(_)) => return Err(Ended::Lost),
        };
        *moved = true;
        self.parked.clear();
        add(&self.handle.about.counters.bytes_from_clients, read as u64);
        self.take_in(cx, &scratch[..kept + read])
    }

    /// Takes what the client sent, from the last byte that was not understood on.
    #[inline]
    fn take_in(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<Option<Turn>, Ended> {
        if self.server.is_some() {
            self.pass_to_server(cx, bytes)?;
            return Ok(None);
        }
        let bytes = match self.skip {
            Skip::Nothing => bytes,
            Skip::Message | Skip::ToSync => &bytes[self.skip(cx, bytes)?..],
        };
        self.parked.extend_from_slice(bytes);
        if self.skip != Skip::Nothing {
            return Ok(None);
        }
        // Without a server, only the first message matters.
        match frame::head(bytes).map_err(|_| Ended::Refused(Refusal::OutOfStep))? {
            None => Ok(None),
            Some(head) => match FromClient::of(head.kind, None) {
                FromClient::Leave => Err(Ended::Left),
                FromClient::Unknown => Err(Ended::Refused(Refusal::ClientMessage(head.kind))),
                FromClient::Request(_) | FromClient::Silent => Ok(Some(Turn::NeedsServer)),
            },
        }
    }

    /// Drops what nobody answers. Returns how many bytes are done with.
    #[cold]
    fn skip(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, Ended> {
        let mut at = self.from_client.begin(bytes.len());
        // The rest of the message that was refused.
        let mut is_over = self.skip == Skip::Message && at > 0 && self.from_client.is_between();
        while !is_over
            && let Some(head) =
                frame::head(&bytes[at..]).map_err(|_| Ended::Refused(Refusal::OutOfStep))?
        {
            match FromClient::of(head.kind, None) {
                FromClient::Leave => return Err(Ended::Left),
                FromClient::Unknown => {
                    return Err(Ended::Refused(Refusal::ClientMessage(head.kind)));
                }
                FromClient::Request(_) | FromClient::Silent => {}
            }
            at = self.from_client.pass(at, head, bytes.len());
            is_over =
                self.from_client.is_between() && (self.skip == Skip::Message || head.kind == b'S');
        }
        if is_over {
            self.skip = Skip::Nothing;
            let mut out = Vec::new();
            build::ready_for_query(TransactionStatus::Idle, &mut out);
            self.client.send(cx, &out).map_err(|_| Ended::Lost)?;
        }
        Ok(at)
    }

    /// Passes on what a client sent, and records what must come back.
    #[inline]
    fn pass_to_server(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), Ended> {
        let Some(server) = self.server.as_deref_mut() else {
            return Ok(());
        };
        let counters = &self.handle.about.counters;
        let mut at = self.from_client.begin(bytes.len());
        let mut stop = None;
        while let Some(head) =
            frame::head(&bytes[at..]).map_err(|_| Ended::Refused(Refusal::OutOfStep))?
        {
            let first = bytes.get(at + frame::HEADER).copied();
            if head.kind == b'D' && first.is_none() && head.body > 0 {
                break;
            }
            match FromClient::of(head.kind, first) {
                FromClient::Request(request) => {
                    if request == Request::Execute {
                        add(&counters.statements, 1);
                    }
                    server.queue.sent(request);
                }
                FromClient::Silent => {}
                FromClient::Leave => {
                    stop = Some(Ended::Left);
                    break;
                }
                FromClient::Unknown => {
                    stop = Some(Ended::Refused(Refusal::ClientMessage(head.kind)));
                    break;
                }
            }
            at = self.from_client.pass(at, head, bytes.len());
        }
        server.used = true;
        self.handle.is_busy.set(!server.queue.is_empty());
        let _ = self.handle.about.set_busy(!server.queue.is_empty());
        if !self.is_server_deaf && server.stream.send(cx, &bytes[..at]).is_err() {
            // Its last words may still be there to be read.
            self.is_server_deaf = true;
        }
        match stop {
            Some(ended) => Err(ended),
            None => {
                self.parked.extend_from_slice(&bytes[at..]);
                Ok(())
            }
        }
    }

    /// Reads the server once; false when there was nothing.
    #[inline]
    fn read_server(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        worker: &Worker,
    ) -> Result<bool, Ended> {
        let Some(server) = self.server.as_deref_mut() else {
            return Ok(false);
        };
        let kept = server.kept.len();
        scratch[..kept].copy_from_slice(&server.kept);
        let read = match server.stream.poll_read(cx, &mut scratch[kept..]) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(_)) => 0,
        };
        if read == 0 {
            if self.is_server_leaving {
                return Err(Ended::ByServer);
            }
            self.is_server_leaving = true;
            return Err(Ended::Refused(Refusal::ServerLost));
        }
        server.kept.clear();
        self.pass_to_client(cx, &scratch[..kept + read], worker)?;
        Ok(true)
    }

    /// Passes on what the server sent, and checks that each message was asked for.
    #[inline]
    fn pass_to_client(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        worker: &Worker,
    ) -> Result<(), Ended> {
        let Some(server) = self.server.as_deref_mut() else {
            return Ok(());
        };
        let counters = &self.handle.about.counters;
        let mut rows = 0;
        let mut at = server.frames.begin(bytes.len());
        while let Some(head) = frame::head(&bytes[at..]).map_err(|_| out_of_step(worker))? {
            let body = at + frame::HEADER;
            let is_looked_into = matches!(head.kind, b'Z' | b'S' | b'E' | b'C' | b'I');
            let body = if is_looked_into {
                let whole = bytes.get(body..body + head.body);
                if whole.is_none() && head.body <= LOOKED_INTO_MAX {
                    break;
                }
                whole
            } else {
                None
            };
            let answer = server.queue.received(head.kind).map_err(|mismatch| {
                tracing::error!(
                    tenant = %self.tenant.id, %mismatch,
                    "a server connection is out of step, closing both sides"
                );
                out_of_step(worker)
            })?;
            match head.kind {
                b'D' => rows += 1,
                b'Z' | b'S' => match body {
                    Some(body) => {
                        server.learn(head.kind, body);
                        let is_over = head.kind == b'Z' && server.status == TransactionStatus::Idle;
                        add(&counters.transactions, u64::from(is_over));
                    }
                    None => server.known = false,
                },
                b'E' => {
                    add(&counters.errors, 1);
                    let report = body.and_then(|body| parse::report(body).ok());
                    self.is_server_leaving |= report.is_some_and(|report| report.is_fatal());
                }
                b'C' | b'I' if answer.is_to_query() => {
                    add(&counters.statements, 1);
                }
                _ => {}
            }
            at = server.frames.pass(at, head, bytes.len());
        }
        server.kept.extend_from_slice(&bytes[at..]);
        self.handle.is_busy.set(!server.queue.is_empty());
        if let Some(took_us) = self.handle.about.set_busy(!server.queue.is_empty()) {
            worker.counted.busy_time.note(took_us);
        }
        add(&counters.rows, rows);
        add(&counters.bytes_to_clients, at as u64);
        // Here a server connection that is at rest could be lent on: pooling by transaction. With
        // pooling by session it stays until the client leaves.
        self.client.send(cx, &bytes[..at]).map_err(|_| Ended::Lost)
    }
}

#[cold]
fn out_of_step(worker: &Worker) -> Ended {
    let mismatches = &worker.shared.mismatches;
    mismatches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Ended::Refused(Refusal::OutOfStep)
}
