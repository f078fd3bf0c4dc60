//! What is noted of a message about the statements of a tenant.
//!
//! Owns: finding texts and names in messages for `insight`. Does not own: what becomes of them there.

use statement::Encoding;
use tokio::time::Instant;
use wire::{
    frame::{HEADER, Head},
    queue::Request,
};

use super::around::{NAMES_MAX, first_two};
use crate::{session::Session, worker::Worker};

/// The time of what is read at once, asked for once at most.
#[derive(Debug, Default)]
pub(super) struct Clock(Option<Instant>);

impl Clock {
    #[inline]
    pub(super) fn now(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }
}

/// What is the same for all messages of a client that are read at once.
#[derive(Debug)]
pub(super) struct Flight {
    /// Limits change between two turns of the event loop, never within one.
    pub(super) is_audited: bool,
    pub(super) clock: Clock,
}

impl Flight {
    #[inline]
    pub(super) fn of(session: &Session) -> Self {
        Self {
            is_audited: session.is_audited(),
            clock: Clock::default(),
        }
    }
}

/// What a message says, before anything is done about it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Note<'a> {
    Nothing,
    Query(Text<'a>),
    Call,
    Parse {
        name: &'a [u8],
        text: Text<'a>,
    },
    Bind {
        portal: &'a [u8],
        statement: &'a [u8],
    },
    Execute {
        portal: &'a [u8],
    },
    CloseStatement(&'a [u8]),
    ClosePortal(&'a [u8]),
}

/// As much of a text as was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) is_whole: bool,
    pub(crate) encoding: Encoding,
}

impl Session {
    /// What will be noted of a message, unless it has to be looked at again. `None`: its names are
    /// not all there.
    #[inline]
    pub(super) fn note_of<'a>(
        &self,
        bytes: &'a [u8],
        at: usize,
        head: Head,
        request: Request,
        flight: &Flight,
    ) -> Option<Note<'a>> {
        let Some(server) = self.server.as_deref() else {
            return Some(Note::Nothing);
        };
        // What the server skips is no statement.
        if !(self.watch.is_on() || flight.is_audited) || server.queue.is_skipping() {
            return Some(Note::Nothing);
        }
        let start = at + HEADER;
        let body = &bytes[start..bytes.len().min(start + head.body)];
        let is_whole = body.len() == head.body;
        let text = |bytes: &'a [u8]| {
            let end = memchr::memchr(0, bytes);
            Text {
                bytes: &bytes[..end.unwrap_or(bytes.len())],
                is_whole: end.is_some(),
                encoding: self.lending.context(server).encoding,
            }
        };
        // Names that are longer than any that is looked for are as good as unknown.
        let is_enough = is_whole || body.len() >= NAMES_MAX;
        let note = match request {
            Request::Query => Note::Query(text(body)),
            Request::Call => Note::Call,
            Request::Parse => match memchr::memchr(0, body) {
                Some(end) => Note::Parse {
                    name: &body[..end],
                    text: text(&body[end + 1..]),
                },
                None => Note::Nothing,
            },
            Request::Bind => match first_two(body) {
                Some((portal, statement)) => Note::Bind { portal, statement },
                None if is_enough => Note::Bind {
                    portal: b"",
                    statement: super::around::NOBODYS,
                },
                None => return None,
            },
            Request::Execute => match memchr::memchr(0, body) {
                Some(end) => Note::Execute {
                    portal: &body[..end],
                },
                None if is_enough => Note::Execute {
                    portal: super::around::NOBODYS,
                },
                None => return None,
            },
            Request::Close => match body.split_last() {
                Some((0, [b'S', name @ ..])) => Note::CloseStatement(name),
                Some((0, [b'P', name @ ..])) => Note::ClosePortal(name),
                _ => Note::Nothing,
            },
            Request::DescribeStatement
            | Request::DescribePortal
            | Request::Sync
            | Request::CopyEnd => Note::Nothing,
        };
        Some(note)
    }

    /// Notes it: the message is on its way.
    #[inline]
    pub(super) fn take_note(&mut self, note: Note<'_>, flight: &mut Flight, worker: &Worker) {
        if flight.is_audited {
            self.audit(note, worker);
        }
        let (watch, insight) = (&mut self.watch, &self.tenant.insight);
        if !watch.is_on() {
            return;
        }
        match note {
            Note::Nothing => {}
            Note::Query(text) => {
                let shape = insight.shape(text.bytes, text.is_whole, text.encoding);
                watch.query(shape, flight.clock.now());
            }
            Note::Call => watch.call(flight.clock.now()),
            Note::Parse { name, text } => {
                let shape = insight.shape(text.bytes, text.is_whole, text.encoding);
                watch.parse(name, shape);
            }
            Note::Bind { portal, statement } => watch.bind(portal, statement),
            Note::Execute { portal } => watch.execute(portal, flight.clock.now()),
            Note::CloseStatement(name) => watch.close_statement(name),
            Note::ClosePortal(name) => watch.close_portal(name),
        }
    }
}
