//! What must come back on one server connection, in order.
//!
//! Owns: one byte for every request that the server has not answered yet, whose it is (the client's
//! or ours), and the rules by which its messages answer them. Does not own: bytes, or what happens after a [`Mismatch`] (both
//! sides are closed; see ARCHITECTURE.md, "What must hold").
//!
//! The rules follow PostgreSQL's own loop: an error in an extended-query message makes it skip
//! everything up to the next Sync; while it reads COPY data it swallows Sync and Flush; CopyDone
//! and CopyFail outside COPY are ignored ("Message Flow", PostgreSQL manual, section 55.2).

mod kinds;
mod rules;

pub use kinds::{Answer, FromClient, Mismatch, Notes, Now, Request, Tags};

use kinds::*;
use rules::{RULES, Then};

/// Requests that may be unanswered at once. PostgreSQL holds back at most 8 kB of answers, 1,638
/// of its shortest, before it sends them without being asked; so this is never reached because of
/// waiting, only by a client that sends faster than the server works. Then it is not read for a
/// while.
pub const REQUESTS_MAX: usize = 64 * 1024;

/// Slots at the start, and after a burst is over. A pipeline of six statements fits.
const RING_START: usize = 32;
/// A ring larger than this is given back when it is empty.
const RING_KEPT: usize = 1024;

/// The requests a server connection has not answered yet.
#[derive(Debug)]
pub struct Queue {
    /// A ring; its length is a power of two.
    ring: Box<[u8]>,
    head: usize,
    len: usize,
    /// [`COPY_END`]s in the ring.
    copy_ends: usize,
    /// An error came, and the Sync that ends the skipping has not been sent.
    skipping: bool,
    /// ReadyForQuery messages that may or may not come, for Syncs that a COPY which failed may or
    /// may not have swallowed.
    extra: usize,
    /// See [`Self::is_certain`].
    certain: bool,
    notes: Notes,
    /// See [`Self::take_over`].
    over: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            ring: vec![0; RING_START].into_boxed_slice(),
            head: 0,
            len: 0,
            copy_ends: 0,
            skipping: false,
            extra: 0,
            certain: true,
            notes: Notes::default(),
            over: 0,
        }
    }
}

impl Queue {
    /// Whether the server owes nothing, and skips nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0 && !self.skipping
    }

    /// Whether so much is unanswered that the client should not be read for a while.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len >= REQUESTS_MAX
    }

    /// Whether everything sent was answered, or is skipped.
    #[inline]
    pub fn has_none(&self) -> bool {
        self.len == 0
    }

    /// Requests on record.
    pub fn len(&self) -> usize {
        self.len
    }

    /// False once it could not be known how often the server will say that it is ready: a COPY
    /// failed with a Sync behind it, which the server may have swallowed or not. The session can go
    /// on; the connection can never serve another.
    pub fn is_certain(&self) -> bool {
        self.certain
    }

    /// Whether the request being answered reads COPY data from the client.
    pub fn in_copy(&self) -> bool {
        matches!(self.front() & CODE, QUERY_IN | EXECUTE_IN)
    }

    /// Whether an error came and the server looks at nothing before the next Sync.
    #[inline]
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether the request being answered is ours, not the client's.
    #[inline]
    pub fn is_at_ours(&self) -> bool {
        self.front() & OURS != 0
    }

    /// Whether everything unanswered was sent by us.
    pub fn are_ours(&self) -> bool {
        (0..self.len).all(|i| self.ring[self.slot(i)] & OURS != 0)
    }

    /// Whether an answer of ours is due.
    #[inline]
    pub fn is_at_answer(&self) -> bool {
        self.front() & CODE >= NOW_PARSE
    }

    /// Whether the request being answered is [`Tags::NOTED`].
    #[inline]
    pub fn is_at_noted(&self) -> bool {
        self.front() & NOTED != 0
    }

    /// Whether [`Self::take_notes`] has something to say.
    #[inline]
    pub fn has_notes(&self) -> bool {
        self.notes != Notes::default()
    }

    /// Records that `request` of the client was passed on to the server.
    #[inline]
    pub fn sent(&mut self, request: Request) {
        self.sent_as(request, Tags::NONE);
    }

    /// Records something that the client asked and we answer, once all before it is answered.
    /// False when the server skips up to the next Sync: then it is not answered at all.
    pub fn answer(&mut self, now: Now, tags: Tags) -> bool {
        if self.skipping {
            return false;
        }
        self.push(now as u8 | tags.0);
        true
    }

    /// The next answer of ours that is due. To be asked before every message of the server, and
    /// when nothing more may come.
    #[inline]
    pub fn take_now(&mut self) -> Option<Now> {
        let now = match self.front() & CODE {
            NOW_PARSE => Now::ParseComplete,
            NOW_CLOSE => Now::CloseComplete,
            _ => return None,
        };
        self.pop();
        self.drop_stray_ends();
        Some(now)
    }

    /// Whether all that is unanswered is ours to answer.
    pub fn waits_for_nobody(&self) -> bool {
        (0..self.len).all(|i| self.ring[self.slot(i)] & CODE >= NOW_PARSE)
    }

    /// What became of noted requests since the last call.
    #[inline]
    pub fn take_notes(&mut self) -> Notes {
        std::mem::take(&mut self.notes)
    }

    /// Simple queries, Executes and function calls of the client that are over since the last call,
    /// in order: the first is the one that was answered, or that an error came before; the others
    /// were skipped because of that error.
    #[inline]
    pub fn take_over(&mut self) -> u32 {
        std::mem::take(&mut self.over)
    }

    /// Records that `request` was passed on to the server. False when the server skips it.
    #[inline]
    pub fn sent_as(&mut self, request: Request, tags: Tags) -> bool {
        let mut code = request as u8;
        if self.skipping {
            if code != SYNC {
                return false; // The server will not look at it either.
            }
            self.skipping = false;
        }
        match code {
            SYNC if self.copy_ends == 0 && self.in_copy() => code = SYNC_MAYBE,
            COPY_END if self.len == 0 => return true,
            COPY_END => self.copy_ends += 1,
            _ => {}
        }
        self.push(code | tags.0);
        true
    }

    /// Takes the kind of the server's next message.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] when no request on record is answered by it.
    #[inline]
    pub fn received(&mut self, kind: u8) -> Result<Answer, Mismatch> {
        let answer = Answer {
            front: self.front(),
            kind,
        };
        let front = answer.front & CODE;
        if kind >= 128 {
            return Err(Mismatch { kind, front });
        }
        match RULES[usize::from(front)][usize::from(kind)] {
            Then::Stay => {}
            Then::Pop => self.pop(),
            Then::Rows => self.set_front(DESCRIBE_ROWS),
            Then::Fail => self.fail(front),
            Then::CopyIn => self.copy_in(front),
            Then::CopyOut => self.set_front(if front == QUERY {
                QUERY_OUT
            } else {
                EXECUTE_OUT
            }),
            // It cannot have read the end of data that nobody sent.
            Then::CopyOver if self.in_copy() && self.copy_ends == 0 => {
                return Err(Mismatch { kind, front });
            }
            Then::CopyOver => self.copy_over(front),
            Then::Ready => self.ready(front)?,
            Then::Mismatch => return Err(Mismatch { kind, front }),
        }
        self.drop_stray_ends();
        Ok(answer)
    }

    /// An end of data with no COPY before it: the server ignores it.
    #[inline]
    fn drop_stray_ends(&mut self) {
        while self.copy_ends > 0 && self.front() & CODE == COPY_END {
            self.pop();
        }
    }

    #[inline]
    fn ready(&mut self, front: u8) -> Result<(), Mismatch> {
        match front {
            QUERY | SYNC | CALL => self.pop(),
            _ if self.extra > 0 => {
                self.extra -= 1;
                self.skipping = false;
            }
            _ => return Err(Mismatch { kind: b'Z', front }),
        }
        Ok(())
    }

    #[cold]
    fn fail(&mut self, front: u8) {
        match front {
            // Nothing was asked: the server is going away. Of the others, the ReadyForQuery is
            // still to come.
            NOTHING | QUERY | CALL | SYNC => {}
            QUERY_OUT => self.set_front(QUERY),
            QUERY_IN => {
                self.set_front(QUERY);
                self.doubt();
            }
            _ => {
                if front == EXECUTE_IN {
                    self.doubt();
                }
                let Notes { done, dropped, .. } = self.notes;
                let failed = u32::from(self.front() & NOTED != 0);
                while self.len > 0 && self.front() & CODE != SYNC {
                    self.pop();
                }
                let skipped = self.notes.done - done - failed;
                self.notes = Notes {
                    done,
                    failed: self.notes.failed + failed,
                    dropped: dropped + skipped,
                };
                self.skipping = self.len == 0;
            }
        }
    }

    /// Takes out the Syncs that the failed COPY may have swallowed.
    fn doubt(&mut self) {
        let before = self.len;
        self.retain(|code| code & CODE != SYNC_MAYBE);
        self.extra += before - self.len;
        if self.extra > 0 {
            self.certain = false;
        }
    }

    /// CopyInResponse: every Sync sent before CopyDone or CopyFail is now in danger.
    #[cold]
    fn copy_in(&mut self, front: u8) {
        self.set_front(if front == QUERY { QUERY_IN } else { EXECUTE_IN });
        for i in 1..self.len {
            let at = self.slot(i);
            match self.ring[at] & CODE {
                SYNC => self.ring[at] = SYNC_MAYBE,
                COPY_END => break,
                _ => {}
            }
        }
    }

    /// CommandComplete of a COPY: what was sent up to its end has been read as part of it.
    #[cold]
    fn copy_over(&mut self, front: u8) {
        if matches!(front, QUERY_IN | EXECUTE_IN) {
            let mut ended = false;
            let mut ends = 0;
            self.retain(|code| {
                if ended {
                    return true;
                }
                ended = code & CODE == COPY_END;
                ends += usize::from(ended);
                !matches!(code & CODE, COPY_END | SYNC_MAYBE)
            });
            self.copy_ends -= ends;
        }
        if matches!(front, QUERY_IN | QUERY_OUT) {
            self.set_front(QUERY);
        } else {
            self.pop();
        }
    }

    #[inline]
    fn slot(&self, i: usize) -> usize {
        (self.head + i) & (self.ring.len() - 1)
    }

    #[inline]
    fn front(&self) -> u8 {
        if self.len == 0 {
            NOTHING
        } else {
            self.ring[self.slot(0)]
        }
    }

    #[inline]
    fn set_front(&mut self, code: u8) {
        let at = self.slot(0);
        self.ring[at] = code | self.ring[at] & !CODE;
    }

    #[inline]
    fn push(&mut self, code: u8) {
        if self.len == self.ring.len() {
            self.resize(self.ring.len() * 2);
        }
        let at = self.slot(self.len);
        self.ring[at] = code;
        self.len += 1;
    }

    #[inline]
    fn pop(&mut self) {
        let front = self.front();
        self.copy_ends -= usize::from(front & CODE == COPY_END);
        self.notes.done += u32::from(front & NOTED != 0);
        self.over += u32::from(is_statement(front));
        self.head = self.slot(1);
        self.len -= 1;
        if self.len == 0 && self.ring.len() > RING_KEPT {
            self.resize(RING_START);
        }
    }

    fn retain(&mut self, mut keep: impl FnMut(u8) -> bool) {
        let mut kept = 0;
        for i in 0..self.len {
            let code = self.ring[self.slot(i)];
            if keep(code) {
                let at = self.slot(kept);
                self.ring[at] = code;
                kept += 1;
            }
        }
        self.len = kept;
    }

    #[cold]
    fn resize(&mut self, slots: usize) {
        let mut ring = vec![0; slots].into_boxed_slice();
        for (i, slot) in ring.iter_mut().enumerate().take(self.len) {
            *slot = self.ring[self.slot(i)];
        }
        self.ring = ring;
        self.head = 0;
    }
}

#[cfg(test)]
mod tests;
