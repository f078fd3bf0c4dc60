//! What must come back on one server connection, in order.
//!
//! Owns: one byte for every request that the server has not answered yet, and the rules by which
//! its messages answer them. Does not own: bytes, or what happens after a [`Mismatch`] (both
//! sides are closed; see ARCHITECTURE.md, "What must hold").
//!
//! The rules follow PostgreSQL's own loop: an error in an extended-query message makes it skip
//! everything up to the next Sync; while it reads COPY data it swallows Sync and Flush; CopyDone
//! and CopyFail outside COPY are ignored ("Message Flow", PostgreSQL manual, section 55.2).

/// Requests that may be unanswered at once. PostgreSQL holds back at most 8 kB of answers, 1,638
/// of its shortest, before it sends them without being asked; so this is never reached because of
/// waiting, only by a client that sends faster than the server works. Then it is not read for a
/// while.
pub const REQUESTS_MAX: usize = 64 * 1024;

/// Slots at the start, and after a burst is over. A pipeline of six statements fits.
const RING_START: usize = 32;
/// A ring larger than this is given back when it is empty.
const RING_KEPT: usize = 1024;

/// A message of a client that the server answers, or that changes what it answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Request {
    /// Simple query.
    Query = QUERY,
    /// Parse.
    Parse = PARSE,
    /// Bind.
    Bind = BIND,
    /// Describe of a statement.
    DescribeStatement = DESCRIBE_STATEMENT,
    /// Describe of a portal.
    DescribePortal = DESCRIBE_ROWS,
    /// Execute.
    Execute = EXECUTE,
    /// Close of a statement or portal.
    Close = CLOSE,
    /// Sync.
    Sync = SYNC,
    /// Function call.
    Call = CALL,
    /// CopyDone or CopyFail. Not answered itself, but ends what the server swallows.
    CopyEnd = COPY_END,
}

/// What a message of a client is to the queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FromClient {
    /// Is recorded.
    Request(Request),
    /// Is passed on and leaves no trace: CopyData, Flush.
    Silent,
    /// Terminate.
    Leave,
    /// No message a client may send now.
    Unknown,
}

impl FromClient {
    /// Of a message of this kind; `first` is the first byte of its body, needed for Describe only.
    #[inline]
    pub fn of(kind: u8, first: Option<u8>) -> Self {
        Self::Request(match kind {
            b'Q' => Request::Query,
            b'P' => Request::Parse,
            b'B' => Request::Bind,
            b'D' if first == Some(b'S') => Request::DescribeStatement,
            // A Describe of neither kind is answered by an error, so either name will do.
            b'D' => Request::DescribePortal,
            b'E' => Request::Execute,
            b'C' => Request::Close,
            b'S' => Request::Sync,
            b'F' => Request::Call,
            b'c' | b'f' => Request::CopyEnd,
            b'd' | b'H' => return Self::Silent,
            b'X' => return Self::Leave,
            _ => return Self::Unknown,
        })
    }
}

/// The server said something that nobody asked for. The stream cannot be trusted any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("message {:?} of the server while {} was awaited", char::from(*.kind), name(*.front))]
pub struct Mismatch {
    /// Kind of the message.
    pub kind: u8,
    front: u8,
}

/// To which request a message of the server belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// To a simple query.
    Query,
    /// To anything else, or to nothing (a notice, a parameter).
    Other,
}

const NOTHING: u8 = 0;
const QUERY: u8 = 1;
const PARSE: u8 = 2;
const BIND: u8 = 3;
const DESCRIBE_STATEMENT: u8 = 4;
/// Describe of a portal, or of a statement whose parameters have come.
const DESCRIBE_ROWS: u8 = 5;
const EXECUTE: u8 = 6;
const CLOSE: u8 = 7;
const SYNC: u8 = 8;
const CALL: u8 = 9;
const COPY_END: u8 = 10;
/// A Sync that the server swallows if it is still reading COPY data when it comes to it.
const SYNC_MAYBE: u8 = 11;
/// A simple query whose server reads COPY data.
const QUERY_IN: u8 = 12;
/// An Execute whose server reads COPY data.
const EXECUTE_IN: u8 = 13;
/// A simple query whose server sends COPY data.
const QUERY_OUT: u8 = 14;
/// An Execute whose server sends COPY data.
const EXECUTE_OUT: u8 = 15;

fn name(code: u8) -> &'static str {
    [
        "nothing",
        "Query",
        "Parse",
        "Bind",
        "Describe",
        "Describe rows",
        "Execute",
        "Close",
        "Sync",
        "FunctionCall",
        "the end of COPY",
        "a Sync inside COPY",
        "Query (COPY in)",
        "Execute (COPY in)",
        "Query (COPY out)",
        "Execute (COPY out)",
    ][usize::from(code & 15)]
}

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
enum Then {
    Mismatch,
    Stay,
    Pop,
    Rows,
    Fail,
    CopyIn,
    CopyOut,
    CopyOver,
    Ready,
}

const fn rules() -> [[Then; 128]; 16] {
    let mut rules = [[Then::Mismatch; 128]; 16];
    let mut code = 0;
    while code < 16 {
        // A notice, a parameter and a notification may come at any time; an error too, when the
        // server ends the session.
        rules[code][b'N' as usize] = Then::Stay;
        rules[code][b'S' as usize] = Then::Stay;
        rules[code][b'A' as usize] = Then::Stay;
        rules[code][b'E' as usize] = Then::Fail;
        rules[code][b'Z' as usize] = Then::Ready;
        code += 1;
    }
    let query = QUERY as usize;
    rules[query][b'T' as usize] = Then::Stay;
    rules[query][b'D' as usize] = Then::Stay;
    rules[query][b'C' as usize] = Then::Stay;
    rules[query][b'I' as usize] = Then::Stay;
    rules[query][b'G' as usize] = Then::CopyIn;
    rules[query][b'H' as usize] = Then::CopyOut;
    rules[QUERY_IN as usize][b'C' as usize] = Then::CopyOver;
    rules[QUERY_OUT as usize][b'd' as usize] = Then::Stay;
    rules[QUERY_OUT as usize][b'c' as usize] = Then::Stay;
    rules[QUERY_OUT as usize][b'C' as usize] = Then::CopyOver;
    rules[PARSE as usize][b'1' as usize] = Then::Pop;
    rules[BIND as usize][b'2' as usize] = Then::Pop;
    rules[DESCRIBE_STATEMENT as usize][b't' as usize] = Then::Rows;
    rules[DESCRIBE_ROWS as usize][b'T' as usize] = Then::Pop;
    rules[DESCRIBE_ROWS as usize][b'n' as usize] = Then::Pop;
    let execute = EXECUTE as usize;
    rules[execute][b'D' as usize] = Then::Stay;
    rules[execute][b'C' as usize] = Then::Pop;
    rules[execute][b'I' as usize] = Then::Pop;
    rules[execute][b's' as usize] = Then::Pop;
    rules[execute][b'G' as usize] = Then::CopyIn;
    rules[execute][b'H' as usize] = Then::CopyOut;
    rules[EXECUTE_IN as usize][b'C' as usize] = Then::CopyOver;
    rules[EXECUTE_OUT as usize][b'd' as usize] = Then::Stay;
    rules[EXECUTE_OUT as usize][b'c' as usize] = Then::Stay;
    rules[EXECUTE_OUT as usize][b'C' as usize] = Then::CopyOver;
    rules[CLOSE as usize][b'3' as usize] = Then::Pop;
    rules[CALL as usize][b'V' as usize] = Then::Stay;
    rules
}

static RULES: [[Then; 128]; 16] = rules();

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
        matches!(self.front(), QUERY_IN | EXECUTE_IN)
    }

    /// Records that `request` was passed on to the server.
    #[inline]
    pub fn sent(&mut self, request: Request) {
        let mut code = request as u8;
        if self.skipping {
            if code != SYNC {
                return; // The server will not look at it either.
            }
            self.skipping = false;
        }
        match code {
            SYNC if self.copy_ends == 0 && self.in_copy() => code = SYNC_MAYBE,
            COPY_END if self.len == 0 => return,
            COPY_END => self.copy_ends += 1,
            _ => {}
        }
        self.push(code);
    }

    /// Takes the kind of the server's next message.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] when no request on record is answered by it.
    #[inline]
    pub fn received(&mut self, kind: u8) -> Result<Answer, Mismatch> {
        let front = self.front();
        let answer = match front {
            QUERY | QUERY_IN | QUERY_OUT => Answer::Query,
            _ => Answer::Other,
        };
        if kind >= 128 {
            return Err(Mismatch { kind, front });
        }
        match RULES[usize::from(front & 15)][usize::from(kind)] {
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
        // An end of data with no COPY before it: the server ignores it.
        while self.copy_ends > 0 && self.front() == COPY_END {
            self.pop();
        }
        Ok(answer)
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
                while self.len > 0 && self.front() != SYNC {
                    self.pop();
                }
                self.skipping = self.len == 0;
            }
        }
    }

    /// Takes out the Syncs that the failed COPY may have swallowed.
    fn doubt(&mut self) {
        let before = self.len;
        self.retain(|code| code != SYNC_MAYBE);
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
            match self.ring[at] {
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
                ended = code == COPY_END;
                ends += usize::from(ended);
                !matches!(code, COPY_END | SYNC_MAYBE)
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
        self.ring[at] = code;
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
        self.copy_ends -= usize::from(self.front() == COPY_END);
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
