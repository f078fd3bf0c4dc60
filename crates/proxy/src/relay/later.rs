//! What leads settings back by a query, and waits for more of the client's.
//!
//! Owns: which messages go before it. Does not own: what leads back (`lending`), or what the client is told meanwhile
//! (`down`).

use statement::{Context, Lead, Statements};
use wire::{
    frame::Head,
    message::{Kind, TransactionStatus, build, parse},
    queue::{Request, Tags},
};

use super::{
    around::{Body, body, first_two, say_in_passing},
    up::{Outgoing, Pass},
};
use crate::{lending::Anew, prepared, session::Session};

/// Whether a text says what kind of transaction it is in, and nothing else.
fn says_which_transaction(text: &[u8], context: Context) -> bool {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let reading = statement::read(text, context);
    reading.statements == Statements::One && reading.lead == Lead::Set && reading.effects.is_empty()
}

impl Session {
    /// Says what was put off, unless this message is about the kind of transaction.
    #[cold]
    pub(super) fn say_later(
        &mut self,
        head: Head,
        request: Request,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Option<Pass> {
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            return None;
        };
        let body = match body(outgoing.bytes, at, head) {
            Body::Whole(body) => body,
            Body::Incomplete => return Some(Pass::Incomplete),
            Body::TooLarge => b"",
        };
        let context = lending.context(server);
        let is_such = |text: &[u8]| says_which_transaction(text, context);
        let Anew::Later(later) = &mut lending.anew else {
            return None;
        };
        let goes_before = match request {
            Request::Query => is_such(body),
            Request::Parse => parse::parse(body).is_ok_and(|parsed| {
                let is_such = is_such(parsed.query);
                later.statement = is_such.then(|| parsed.statement.into());
                is_such
            }),
            Request::Bind => first_two(body).is_some_and(|(portal, name)| {
                let is_such = later.statement.as_deref() == Some(name)
                    || is_such(lending.prepared.text(prepared::name(name)));
                later.portal = is_such.then(|| portal.into());
                is_such
            }),
            Request::DescribeStatement => parse::target(body).is_ok_and(|(kind, name)| {
                kind == Kind::Statement && is_such(lending.prepared.text(prepared::name(name)))
            }),
            Request::DescribePortal => {
                parse::target(body).is_ok_and(|(_, portal)| later.portal.as_deref() == Some(portal))
            }
            Request::Execute => {
                let portal = body.split(|byte| *byte == 0).next();
                later.portal.as_deref() == portal
            }
            Request::Close | Request::Sync => true,
            Request::Call | Request::CopyEnd => false,
        };
        if goes_before {
            return None;
        }
        if !server.queue.has_none() {
            // The transaction may have failed by what is not answered yet.
            return Some(Pass::Waits);
        }
        let queries = std::mem::take(&mut later.queries);
        lending.anew = Anew::Untold;
        // Where the transaction failed, what was to be led back is as it was before.
        if server.status != TransactionStatus::Failed {
            let out = outgoing.before(at);
            say_in_passing(server, &queries, Tags::NONE, out);
            if request == Request::Query && !lending.is_open {
                // A time limit may end it, and what is behind it must be looked at for all that.
                build::sync(out);
                server.queue.sent_as(Request::Sync, Tags::OURS);
            }
            self.handle.shield();
        }
        None
    }
}
