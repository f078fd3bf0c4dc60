//! RESET among several statements of one query.
//!
//! Owns: what is put behind each, inside the text, so that it leads back at once to what the session began
//! with, and keeping that from the client: results of ours, and positions in its text that moved. Does not
//! own: where statements end (`statement`), or what a session began with (`lending`).
//!
//! Only where it is certain which statement does what; otherwise it is said behind the query
//! ([`Lending::follow_up`]).

use std::ops::Range;

use statement::{Context, Effects, Exact};
use wire::{
    frame::{HEADER, Head},
    message::parse::Report,
};

use super::{around::write_query, up::Outgoing};
use crate::{
    lending::{Lending, mentions_authorization, mentions_reset},
    server::Server,
    state::Form,
};

/// What was put into the text of the query that is being answered.
#[derive(Debug, Default)]
pub(crate) struct Inserted {
    places: Vec<Place>,
    /// Statements that are done, ours among them.
    done: usize,
    /// Which of all statements is the client's last, if the last of all are ours: its transaction is over behind them.
    last: Option<usize>,
    /// What the server said of its end.
    held: Vec<u8>,
}

/// What becomes of a message that answers the query.
#[derive(Debug, PartialEq)]
pub(super) enum Passes {
    On,
    /// It is about a statement of ours.
    Not,
    /// The client is told when its transaction is over, which may still fail.
    Later,
    /// It is over: the client is told this in its place.
    With(Vec<u8>),
}

#[derive(Debug)]
struct Place {
    /// Where in the client's text, in bytes and in characters.
    at: usize,
    at_chars: usize,
    /// ASCII: as many bytes as characters.
    sql: String,
    /// Which of all statements these are.
    statements: Range<usize>,
}

/// Whether a text of several statements may hold one that has to be followed by something.
pub(super) fn may_need(text: &[u8], lending: &Lending) -> bool {
    (!lending.base.is_empty() && mentions_reset(text)) || mentions_authorization(text)
}

/// Whether all that such a text takes away is led back by what is put into it, so that nothing has to be said
/// behind it: that would be a query, and a transaction that is begun in the text might no longer become another.
#[cold]
pub(super) fn is_enough(text: &[u8], context: Context, lending: &Lending) -> bool {
    if !lending.base.is_ascii() || memchr::memchr(0, text).is_some() {
        return false;
    }
    let hides = Effects::RUNS.with(Effects::CALLS).with(Effects::DISCARD);
    let pieces = statement::split(text, context);
    pieces.is_some_and(|pieces| {
        pieces.into_iter().all(|place| {
            let piece = &text[place];
            let reading = statement::read(piece, context);
            reading.exact.is_some()
                || !(reading.effects.intersects(hides)
                    || mentions_reset(piece)
                    || mentions_authorization(piece))
        })
    })
}

impl Inserted {
    /// What the text needs; `None` when nothing can, or has to, be put into it.
    #[cold]
    pub(super) fn of(
        text: &[u8],
        context: Context,
        server: &Server,
        lending: &Lending,
    ) -> Option<Self> {
        // A NUL ends the text for the server, which refuses the message then.
        if !lending.base.is_ascii() || memchr::memchr(0, text).is_some() {
            return None;
        }
        let mut inserted = Self::default();
        let mut number = 0;
        for place in statement::split(text, context)? {
            number += 1;
            let exact = statement::read(text.get(place.clone())?, context).exact;
            let own = match exact {
                Some(
                    exact @ (Exact::Reset(_)
                    | Exact::ResetLocal(_)
                    | Exact::ResetAll
                    | Exact::ResetAuthorization),
                ) => lending.leads_back(&exact, server, Form::NoQuery),
                _ => continue,
            };
            if own.is_empty() {
                continue;
            }
            inserted.places.push(Place {
                at: place.end,
                at_chars: characters(&text[..place.end], server)?,
                sql: own.iter().map(|sql| format!(";{sql}")).collect(),
                statements: number..number + own.len(),
            });
            number += own.len();
        }
        let last = inserted.places.last().map(|place| &place.statements);
        inserted.last = last
            .filter(|last| last.end == number)
            .map(|last| last.start - 1);
        (!inserted.places.is_empty()).then_some(inserted)
    }

    /// Sends the query at `at`, of which this is the text, with it.
    pub(super) fn put(
        self,
        text: &[u8],
        head: Head,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Box<Self> {
        write_query(&self.text(text), outgoing.before(at));
        outgoing.leave_out(at + HEADER + head.body);
        Box::new(self)
    }

    /// The text with it.
    fn text(&self, text: &[u8]) -> Vec<u8> {
        let (mut all, mut done) = (Vec::new(), 0);
        for place in &self.places {
            all.extend_from_slice(&text[done..place.at]);
            all.extend_from_slice(place.sql.as_bytes());
            done = place.at;
        }
        all.extend_from_slice(&text[done..]);
        all
    }

    /// A message of this kind in answer to the query; `body`: of a CommandComplete.
    pub(super) fn passes(&mut self, kind: u8, body: Option<&[u8]>) -> Passes {
        let done = self.done;
        let is_ours = self.is_ours(done);
        match kind {
            b'C' => {
                self.done += 1;
                if self.last == Some(done)
                    && let Some(body) = body
                {
                    self.held = body.to_vec();
                    Passes::Later
                } else if !is_ours {
                    Passes::On
                } else if self.held.is_empty() || self.is_ours(self.done) {
                    Passes::Not
                } else {
                    Passes::With(std::mem::take(&mut self.held))
                }
            }
            b'T' | b'D' if is_ours => Passes::Not,
            _ => Passes::On,
        }
    }

    fn is_ours(&self, statement: usize) -> bool {
        let mut places = self.places.iter();
        places.any(|place| place.statements.contains(&statement))
    }

    /// A report of this kind that names a place in the text, as one about the client's own text.
    pub(super) fn renumbered(&self, kind: u8, report: &Report<'_>) -> Option<Vec<u8>> {
        let position = str::from_utf8(report.field(b'P')?).ok()?;
        let position = self.position(position.parse().ok()?).to_string();
        let mut out = vec![kind, 0, 0, 0, 0];
        for (letter, text) in report.fields() {
            out.push(letter);
            out.extend_from_slice(if letter == b'P' {
                position.as_bytes()
            } else {
                text
            });
            out.push(0);
        }
        out.push(0);
        let length = (out.len() - 1) as u32;
        out[1..5].copy_from_slice(&length.to_be_bytes());
        Some(out)
    }

    /// Of a character in the text that was sent, counted from 1, in the client's.
    fn position(&self, position: usize) -> usize {
        let mut moved = 0;
        for place in &self.places {
            let start = place.at_chars + moved;
            if position > start + place.sql.len() {
                moved += place.sql.len();
            } else if position > start {
                return place.at_chars + 1;
            } else {
                break;
            }
        }
        position - moved
    }
}

/// How many characters these are to the server, where that can be said.
fn characters(text: &[u8], server: &Server) -> Option<usize> {
    if text.is_ascii() {
        return Some(text.len());
    }
    let mut all = server.parameters.iter();
    let (_, encoding) = all.find(|(name, _)| **name == *b"client_encoding")?;
    match &**encoding {
        b"UTF8" => Some(str::from_utf8(text).ok()?.chars().count()),
        // A byte each.
        name if [&b"LATIN"[..], b"WIN125", b"KOI8", b"ISO_8859"]
            .iter()
            .any(|own| name.starts_with(own)) =>
        {
            Some(text.len())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_of_the_client_s_own_text() {
        let text = "RESET a; SELECT é; RESET b; SELEC";
        let place = |end: &str, sql: &str, statements| {
            let at = text.find(end).unwrap() + end.len();
            Place {
                at,
                at_chars: text[..at].chars().count(),
                sql: sql.to_owned(),
                statements,
            }
        };
        let inserted = Inserted {
            places: vec![
                place("RESET a", ";SET a TO '1'", 1..2),
                place("RESET b", ";SET b TO '2';SET c TO '3'", 4..6),
            ],
            ..Inserted::default()
        };
        let sent = String::from_utf8(inserted.text(text.as_bytes())).unwrap();
        assert_eq!(
            sent,
            "RESET a;SET a TO '1'; SELECT é; RESET b;SET b TO '2';SET c TO '3'; SELEC"
        );
        for word in ["RESET a", "SELECT", "é", "RESET b", "SELEC", "C; RES"] {
            let position = |text: &str| {
                let at = text.rfind(word);
                at.map(|at| text[..at].chars().count() + 1)
            };
            let Some(in_sent) = position(&sent) else {
                continue;
            };
            assert_eq!(Some(inserted.position(in_sent)), position(text), "{word}");
        }
        // Behind the last character.
        let end = sent.chars().count() + 1;
        assert_eq!(inserted.position(end), text.chars().count() + 1);
    }

    #[test]
    fn results_of_ours_are_kept_back() {
        let mut inserted = Inserted {
            places: vec![Place {
                at: 0,
                at_chars: 0,
                sql: String::new(),
                statements: 1..3,
            }],
            ..Inserted::default()
        };
        // RESET; SET, SELECT set_config(…) of ours; SELECT.
        let passed: Vec<_> = b"CCTDCTDC"
            .iter()
            .map(|kind| inserted.passes(*kind, Some(b"")) == Passes::On)
            .collect();
        assert_eq!(passed[0..1], [true]);
        assert_eq!(passed[1..5], [false; 4]);
        assert_eq!(passed[5..8], [true; 3]);
    }

    #[test]
    fn the_end_of_the_last_statement_is_told_when_ours_have_ended() {
        let mut inserted = Inserted {
            places: vec![Place {
                at: 0,
                at_chars: 0,
                sql: String::new(),
                statements: 2..4,
            }],
            last: Some(1),
            ..Inserted::default()
        };
        // SELECT; RESET; SET, SELECT set_config(…) of ours.
        let passed: Vec<_> = b"TDCCCTDC"
            .iter()
            .map(|kind| inserted.passes(*kind, Some(b"tag")))
            .collect();
        assert!(passed[..3].iter().all(|passes| *passes == Passes::On));
        assert_eq!(passed[3], Passes::Later);
        assert!(passed[4..7].iter().all(|passes| *passes == Passes::Not));
        assert_eq!(passed[7], Passes::With(b"tag".to_vec()));
    }
}
