//! Passing messages between a client and its server connection.
//!
//! Owns: the loop that watches both sides, back-pressure, the record of what the server owes, and
//! the counters of a tenant; what goes to the server is in `up`, what comes back in `down`. Does not
//! own: where the server connection comes from or goes (`lend`).
//!
//! One buffer per worker is read into; what was read is sent from it at once, in one call. Only
//! headers are looked at. A side that does not read stops the other side from being read, never
//! itself: each direction moves as long as it can.

mod anew;
mod around;
mod cursors;
mod described;
mod down;
mod full;
mod handed;
mod insert;
mod later;
mod note;
mod ready;
mod shown;
mod text;
mod up;

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
};

use model::limits::Number;
use tokio::time::Instant;
use wire::{
    frame,
    message::{TransactionStatus, build},
    queue::{FromClient, Request},
};

pub(crate) use cursors::Cursors;
pub(crate) use insert::Inserted;
pub(crate) use note::{Note, Text};

use crate::{
    carry::Carry,
    error::Refusal,
    limits::{self, Doing, Exceeded, Growth, Moment},
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
    /// What the client asks now is refused with this.
    Refused(Refusal),
    /// The server has to be asked what it holds for the session.
    Ask,
    /// A hold wants something of it.
    Hold,
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
    pub(crate) fn relay(&mut self, worker: &Rc<Worker>) -> impl Future<Output = Turn> {
        poll_fn(|cx| match self.poll_relay(worker, cx) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(turn)) => Poll::Ready(turn),
            Err(ended) => Poll::Ready(Turn::Ended(ended)),
        })
    }

    #[inline]
    fn poll_relay(
        &mut self,
        worker: &Rc<Worker>,
        cx: &mut Context<'_>,
    ) -> Result<Poll<Turn>, Ended> {
        self.handle.watch(cx);
        let scratch = &mut *worker.scratch.borrow_mut();
        for _ in 0..TURNS_MAX {
            if let Some(why) = self.handle.ending(self.is_at_rest()) {
                return Err(Ended::Refused(why));
            }
            self.flush(cx)?;
            if self.handle.is_recalled() && self.is_at_rest() && self.server.is_some() {
                return Ok(Poll::Ready(Turn::Ask));
            }
            if self.handle.carry.get() != Carry::No
                && let Some(turn) = self.heeds_hold()
            {
                return Ok(Poll::Ready(turn));
            }
            let mut moved = false;
            if self.tenant.pause.is_held() && self.server.is_some() && self.is_at_rest() {
                self.overhear(cx, scratch)?;
            } else if self.may_read_client() {
                if self.is_parked_unseen {
                    // What waited for the server, or came before anybody listened.
                    self.is_parked_unseen = false;
                    let parked = std::mem::take(&mut self.parked);
                    if let Some(turn) = self.take_in(cx, &parked, worker)? {
                        return Ok(Poll::Ready(turn));
                    }
                    moved = true;
                } else if let Some(turn) = self.read_client(cx, scratch, &mut moved, worker)? {
                    return Ok(Poll::Ready(turn));
                }
            }
            if !self.client.is_blocked()
                && let Some(turn) = self.read_server(cx, scratch, &mut moved, worker)?
            {
                return Ok(Poll::Ready(turn));
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
    pub(crate) fn is_at_rest(&self) -> bool {
        match &self.server {
            None => self.parked.is_empty(),
            Some(server) => {
                server.queue.is_empty()
                    && server.status == TransactionStatus::Idle
                    && self.from_client.is_between()
                    && !self.lending.is_open
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
            None => !self.client.is_blocked() && self.handle.may_be_read(false),
            Some(server) => {
                !server.stream.is_blocked()
                    && self.handle.may_be_read(server.queue.in_copy())
                    && !server.queue.is_full()
                    && !self.is_server_deaf
                    && self.lending.barrier.is_none()
            }
        }
    }

    #[inline]
    fn read_client(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        moved: &mut bool,
        worker: &Rc<Worker>,
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
        self.take_in(cx, &scratch[..kept + read], worker)
    }

    /// Takes what the client sent, from the last byte that was not understood on.
    #[inline]
    fn take_in(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        worker: &Rc<Worker>,
    ) -> Result<Option<Turn>, Ended> {
        let bytes = match self.skip {
            Skip::Nothing => bytes,
            Skip::Message | Skip::ToSync => &bytes[self.skip(cx, bytes)?..],
        };
        if self.skip == Skip::Nothing
            && let Some(refusal) = self.is_too_often(bytes)
        {
            worker.counted.limits_reached.add(refusal.limit.name());
            self.parked.extend_from_slice(bytes);
            return Ok(Some(Turn::Refused(Refusal::Limit(refusal))));
        }
        if self.skip == Skip::Nothing && self.is_unaudited(bytes, worker) {
            self.parked.extend_from_slice(bytes);
            return Ok(Some(Turn::Refused(Refusal::Unaudited)));
        }
        if self.skip == Skip::Nothing && self.server.is_some() {
            return self.pass_to_server(cx, bytes, worker);
        }
        let bytes = &bytes[self.drop_strays(bytes)?..];
        if self.skip == Skip::Nothing
            && let Some(head) =
                frame::head(bytes).map_err(|_| Ended::Refused(Refusal::OutOfStep))?
        {
            // Without a server, only the first message matters.
            match FromClient::of(head.kind, None) {
                FromClient::Leave => return Err(Ended::Left),
                FromClient::Unknown => {
                    return Err(Ended::Refused(Refusal::ClientMessage(head.kind)));
                }
                FromClient::Request(_) | FromClient::Silent => {}
            }
            if self.take_at_once(cx, worker)? {
                return self.pass_to_server(cx, bytes, worker);
            }
            self.parked.extend_from_slice(bytes);
            return Ok(Some(Turn::NeedsServer));
        }
        self.parked.extend_from_slice(bytes);
        Ok(None)
    }

    /// Takes note of what the session does now, for those who look, and for limits of time.
    #[inline]
    pub(crate) fn beat(&mut self, worker: &Worker, now: impl FnOnce() -> Instant) {
        let doing = match &self.server {
            Some(server) if !server.queue.has_none() => Doing::Running,
            Some(server)
                if server.status != TransactionStatus::Idle
                    || server.queue.is_skipping()
                    || self.lending.is_open =>
            {
                Doing::InTransaction
            }
            _ => Doing::Nothing,
        };
        let handle = &self.handle;
        let is_busy = matches!(&self.server, Some(server) if !server.queue.is_empty());
        handle.is_busy.set(is_busy);
        if handle.pulse.doing() == doing {
            return;
        }
        if let Some(took_us) = handle.pulse.set(doing, now) {
            add(&handle.about.counters.busy_us, took_us);
            worker.counted.busy_time.note(took_us);
            handle.has_stopped();
            handle.growth.set(Growth::No);
        }
        limits::watch(worker, handle);
    }

    /// Whether what the client asks now is one statement too many in this second. Inside a transaction
    /// it never is: there it waits ([`Self::begins`]), so that nothing is left out of one.
    #[inline]
    fn is_too_often(&mut self, bytes: &[u8]) -> Option<Exceeded> {
        let rate = self.tenant.limits().statements?;
        if !self.begins_something(bytes) {
            return None;
        }
        self.begun = 0;
        (!self.tenant.bucket.wait(rate, Instant::now()).is_zero()).then(|| Exceeded {
            limit: Number::Statements,
            value: rate.per_second.into(),
        })
    }

    /// Whether it asks for something while nothing of it is under way.
    pub(crate) fn begins_something(&self, bytes: &[u8]) -> bool {
        // After a FATAL there is nothing more to say than why the connection ends.
        if self.is_server_leaving
            || !self.from_client.is_between()
            || self.handle.pulse.doing() != Doing::Nothing
        {
            return false;
        }
        let Ok(Some(head)) = frame::head(bytes) else {
            return false;
        };
        matches!(FromClient::of(head.kind, None), FromClient::Request(request) if request != Request::Sync)
    }

    /// A statement begins, or has turned out to be one more.
    #[inline]
    fn begins(&mut self, worker: &Worker) {
        let Some(rate) = self.tenant.limits().statements else {
            return;
        };
        let now = Instant::now();
        self.tenant.bucket.take(1, rate, now);
        self.begun += 1;
        let wait = self.tenant.bucket.wait(rate, now);
        if self.begun > 1 && !wait.is_zero() {
            let until = Moment::of(now + wait);
            self.handle.hold(until);
            worker.alarms.set(worker, &self.handle, until);
        }
    }

    /// Drops what a client says into a COPY that is over, and Flush where nothing is on the way:
    /// PostgreSQL ignores both. Returns how many bytes are done with.
    fn drop_strays(&mut self, bytes: &[u8]) -> Result<usize, Ended> {
        let mut at = self.from_client.begin(bytes.len());
        while let Some(head) =
            frame::head(&bytes[at..]).map_err(|_| Ended::Refused(Refusal::OutOfStep))?
            && matches!(head.kind, b'd' | b'c' | b'f' | b'H')
        {
            at = self.from_client.pass(at, head, bytes.len());
        }
        Ok(at)
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

    /// Reads the server once.
    #[inline]
    fn read_server(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        moved: &mut bool,
        worker: &Rc<Worker>,
    ) -> Result<Option<Turn>, Ended> {
        let Some(server) = self.server.as_deref_mut() else {
            return Ok(None);
        };
        let kept = server.kept.len();
        scratch[..kept].copy_from_slice(&server.kept);
        let read = match server.stream.poll_read(cx, &mut scratch[kept..]) {
            Poll::Pending => return Ok(None),
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
        *moved = true;
        server.kept.clear();
        self.pass_to_client(cx, &scratch[..kept + read], worker)?;
        self.after_answers(worker)
    }
}

#[cold]
fn out_of_step(worker: &Worker) -> Ended {
    let mismatches = &worker.shared.mismatches;
    mismatches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Ended::Refused(Refusal::OutOfStep)
}
