//! What requests and answers are called, and how one byte holds a request.

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
    pub(super) front: u8,
}

/// Whose a request is, and what else is kept about it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tags(pub(super) u8);

impl Tags {
    /// The client's, nothing else.
    pub const NONE: Self = Self(0);
    /// Sent by us. The client gets nothing of its answer, but for an error where it comes in answer
    /// to an extended-query message, which stands for the client's own message behind it.
    pub const OURS: Self = Self(OURS);
    /// The caller keeps a note about it: [`Queue::take_notes`](super::Queue::take_notes) says what became of it.
    pub const NOTED: Self = Self(NOTED);
    /// Its ReadyForQuery goes the other way: kept back from the client, or, of ours, passed on. A
    /// client's request and what we add behind it are one to the client. Of ours, an error in answer
    /// to an extended-query message is kept back, too.
    pub const TURNED: Self = Self(TURNED);

    /// Both together.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Something the client asked that we answer ourselves, in its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Now {
    /// ParseComplete.
    ParseComplete = NOW_PARSE,
    /// CloseComplete.
    CloseComplete = NOW_CLOSE,
}

/// What became of requests that were [`Tags::NOTED`], in their order: first those that are done,
/// then the one that failed, then those that the server skips because of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Notes {
    /// Answered.
    pub done: u32,
    /// Answered by an error.
    pub failed: u32,
    /// Never looked at.
    pub dropped: u32,
}

/// To which request a message of the server belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    pub(super) front: u8,
    pub(super) kind: u8,
}

impl Answer {
    /// Whether it belongs to a simple query of the client.
    #[inline]
    pub fn is_to_query(self) -> bool {
        self.front & OURS == 0 && matches!(self.front & CODE, QUERY | QUERY_IN | QUERY_OUT)
    }

    /// Whether it belongs to a simple query, an Execute or a function call of the client.
    #[inline]
    pub fn is_to_statement(self) -> bool {
        is_statement(self.front)
    }

    /// Whether it belongs to a Parse of the client's.
    #[inline]
    pub fn is_to_parse(self) -> bool {
        self.front & (CODE | OURS) == PARSE
    }

    /// Whether it belongs to a Parse of the client's that is [`Tags::NOTED`].
    #[inline]
    pub fn is_to_noted_parse(self) -> bool {
        self.front & (CODE | OURS | NOTED) == PARSE | NOTED
    }

    /// Whether it belongs to a request of ours.
    #[inline]
    pub fn is_to_ours(self) -> bool {
        self.front & OURS != 0
    }

    /// Whether its ReadyForQuery goes the other way ([`Tags::TURNED`]).
    #[inline]
    pub fn is_turned(self) -> bool {
        self.front & TURNED != 0
    }

    /// Whether the client gets it. Parameters are for the caller to decide: here they are passed on.
    #[inline]
    pub fn is_for_client(self) -> bool {
        if self.front & (OURS | TURNED) == 0 {
            return true;
        }
        let is_ours = self.front & OURS != 0;
        match self.kind {
            b'Z' => is_ours == (self.front & TURNED != 0),
            b'A' | b'S' => true,
            b'E' => {
                !is_ours || (self.front & TURNED == 0 && !matches!(self.front & CODE, QUERY | SYNC))
            }
            _ => !is_ours,
        }
    }
}

pub(super) const NOTHING: u8 = 0;
pub(super) const QUERY: u8 = 1;
pub(super) const PARSE: u8 = 2;
pub(super) const BIND: u8 = 3;
pub(super) const DESCRIBE_STATEMENT: u8 = 4;
/// Describe of a portal, or of a statement whose parameters have come.
pub(super) const DESCRIBE_ROWS: u8 = 5;
pub(super) const EXECUTE: u8 = 6;
pub(super) const CLOSE: u8 = 7;
pub(super) const SYNC: u8 = 8;
pub(super) const CALL: u8 = 9;
pub(super) const COPY_END: u8 = 10;
/// A Sync that the server swallows if it is still reading COPY data when it comes to it.
pub(super) const SYNC_MAYBE: u8 = 11;
/// A simple query whose server reads COPY data.
pub(super) const QUERY_IN: u8 = 12;
/// An Execute whose server reads COPY data.
pub(super) const EXECUTE_IN: u8 = 13;
/// A simple query whose server sends COPY data.
pub(super) const QUERY_OUT: u8 = 14;
/// An Execute whose server sends COPY data.
pub(super) const EXECUTE_OUT: u8 = 15;
/// A Parse that we answer.
pub(super) const NOW_PARSE: u8 = 16;
/// A Close that we answer.
pub(super) const NOW_CLOSE: u8 = 17;

/// What of a byte is the request; the rest are [`Tags`].
pub(super) const CODE: u8 = 0x1f;
pub(super) const NOTED: u8 = 0x20;
pub(super) const OURS: u8 = 0x40;
pub(super) const TURNED: u8 = 0x80;

/// Whether it runs something, and is the client's.
#[inline]
pub(super) fn is_statement(front: u8) -> bool {
    const STATEMENTS: u32 = 1 << QUERY
        | 1 << QUERY_IN
        | 1 << QUERY_OUT
        | 1 << EXECUTE
        | 1 << EXECUTE_IN
        | 1 << EXECUTE_OUT
        | 1 << CALL;
    front & OURS == 0 && STATEMENTS >> (front & CODE) & 1 != 0
}

pub(super) fn name(code: u8) -> &'static str {
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
        "a Parse of ours to answer",
        "a Close of ours to answer",
    ]
    .get(usize::from(code & CODE))
    .copied()
    .unwrap_or("?")
}
