//! From a client to its server connection.
//!
//! Owns: the order in which messages go, what is recorded about each, and what is put before, behind or in the
//! place of one so that a session finds again what it prepared and set. Does not own: messages that carry a
//! text (`text`), or what is kept of them (`lending`, `prepared`).
//!
//! What needs no change is sent from where it was read. Everything that goes at once goes in one
//! call.

use std::{rc::Rc, task::Context};

use model::route::PoolMode;
use statement::{Effects, Exact};
use wire::{
    frame::{self, HEADER, Head},
    message::{Kind, TransactionStatus, build, parse},
    queue::{FromClient, Now, Request, Tags},
};

use super::{
    Turn,
    anew::{hand_over_elsewhere, ready_outdated},
    around::{
        Body, NAMES_MAX, NOBODYS, body, changes_role, first_two, free_names, rename, say_apart,
        say_behind_sync, say_in_passing,
    },
    described::{Columns, before_bind, columns, heeded_unnamed, refuse_columns},
    handed::{Naming, hand_over_names, name_for_sql},
    note::Flight,
    ready::{
        Readiness, begin, ready_all, ready_alone, ready_before, ready_before_role, ready_named,
        ready_unnamed,
    },
    shown::ready_shown,
    text::{HEEDED, is_name_pending},
};
use crate::{
    audited::cannot_note,
    error::Refusal,
    lending::{Anew, Barrier, Runs},
    prepared::{self, Unnamed},
    session::{Ended, Session},
    statements::Which,
    stats::add,
    worker::Worker,
};

/// Behind what does this, nobody knows the settings in force before the transaction is over, or the session is a role
/// that may not see what its statements name.
pub(super) const UNSETTLING: Effects = Effects::SETTINGS.with(Effects::RUNS).with(Effects::ROLE);

/// What goes to a server at once: pieces of what was read, and what we put between.
pub(super) struct Outgoing<'a> {
    pub(super) bytes: &'a [u8],
    /// Empty as long as nothing was changed.
    out: &'a mut Vec<u8>,
    /// Of `bytes`, what is in `out` or was left out.
    done: usize,
}

impl<'a> Outgoing<'a> {
    /// The place before the byte at `at`.
    pub(super) fn before(&mut self, at: usize) -> &mut Vec<u8> {
        self.out.extend_from_slice(&self.bytes[self.done..at]);
        self.done = at;
        self.out
    }

    /// Leaves out what is before `end`; everything before it was dealt with.
    pub(super) fn leave_out(&mut self, end: usize) {
        self.done = end;
    }

    fn all(&mut self, end: usize) -> &[u8] {
        if self.out.is_empty() && self.done == 0 {
            return &self.bytes[..end];
        }
        self.before(end)
    }
}

/// What is to happen with a message that was looked at.
pub(super) enum Pass {
    /// It goes on, with what was put around it.
    On,
    /// It is answered by us.
    Answered,
    /// The server answers something else in its place, which was put there.
    Refused,
    /// It waits until everything before it is answered.
    Waits,
    /// The same, behind what we asked as part of the client's pipeline.
    Asked,
    /// Not all of it is there.
    Incomplete,
}

impl Session {
    /// Passes on what a client sent, and records what must come back.
    #[inline]
    pub(super) fn pass_to_server(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        worker: &Rc<Worker>,
    ) -> Result<Option<Turn>, Ended> {
        let mut out = worker.outgoing.borrow_mut();
        out.clear();
        let mut outgoing = Outgoing {
            bytes,
            out: &mut out,
            done: 0,
        };
        // Settings and the like, for a server connection that was taken for this.
        outgoing.out.append(&mut self.prefix);
        let mut at = self.from_client.begin(bytes.len());
        if self.is_rest_refused {
            outgoing.leave_out(at);
            self.is_rest_refused = !self.from_client.is_between();
        }
        if let Some(server) = self.server.as_deref_mut()
            && server.queue.is_empty()
            && self.from_client.is_between()
        {
            free_names(server, &mut self.lending, at, &mut outgoing);
        }
        if let Anew::Due(_) = self.lending.anew
            && let Some(server) = self.server.as_deref_mut()
            && let Anew::Due(statements) = std::mem::replace(&mut self.lending.anew, Anew::Said)
        {
            say_apart(server, &statements, outgoing.before(at));
            self.handle.shield();
        }
        let mut stop = None;
        let mut flushes = false;
        let mut flight = Flight::of(self);
        while self.lending.barrier.is_none()
            && let Some(head) =
                frame::head(&bytes[at..]).map_err(|_| Ended::Refused(Refusal::OutOfStep))?
        {
            match FromClient::of(head.kind, bytes.get(at + HEADER).copied()) {
                FromClient::Request(request) => {
                    let Some(note) = self.note_of(bytes, at, head, request, &flight) else {
                        break;
                    };
                    // Behind what was sent already, only the end of all of it leaves nothing out.
                    if flight.is_audited && note.is_statement() && cannot_note(worker) {
                        stop = Some(Ended::Refused(Refusal::Unaudited));
                        break;
                    }
                    if request == Request::Execute && self.has_executed {
                        self.part_statements(at, &mut outgoing);
                    }
                    let was_open = self.lending.is_open;
                    match self.look(head, request, at, &mut outgoing) {
                        Pass::On => {
                            self.take_note(note, &mut flight, worker);
                            self.count(head.kind, worker);
                        }
                        pass @ (Pass::Answered | Pass::Refused) => {
                            self.take_note(note, &mut flight, worker);
                            if let Pass::Refused = pass {
                                self.count(head.kind, worker);
                            }
                            outgoing.before(at);
                            at = self.from_client.pass(at, head, bytes.len());
                            outgoing.leave_out(at);
                            self.is_rest_refused = !self.from_client.is_between();
                            continue;
                        }
                        pass @ (Pass::Waits | Pass::Asked) => {
                            self.lending.is_open = was_open || matches!(pass, Pass::Asked);
                            // What is under way may be held back by the server until then.
                            build::flush(outgoing.before(at));
                            self.lending.barrier = Some(Box::new(Barrier::Before));
                            break;
                        }
                        Pass::Incomplete => {
                            self.lending.is_open = was_open;
                            break;
                        }
                    }
                }
                FromClient::Silent => flushes |= head.kind == b'H',
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
            if let Some(follow) = self.behind.take() {
                // Behind the whole message, and part of it to the client.
                outgoing.before(at).extend_from_slice(&follow);
            }
        }
        self.unlist(worker);
        let Some(server) = self.server.as_deref_mut() else {
            return Ok(None);
        };
        if matches!(
            self.lending.barrier.as_deref(),
            Some(Barrier::Of(_) | Barrier::OfSeveral(_) | Barrier::Named(..))
        ) {
            build::flush(outgoing.before(at));
        }
        server.used = true;
        let all = outgoing.all(at);
        if !self.is_server_deaf && !all.is_empty() && server.stream.send(cx, all).is_err() {
            // Its last words may still be there to be read.
            self.is_server_deaf = true;
        }
        drop(out);
        self.beat(worker, || flight.clock.now());
        if let Some(ended) = stop {
            return Err(ended);
        }
        self.parked.extend_from_slice(&bytes[at..]);
        self.answer_now(cx, flushes)?;
        // Nothing may be on the way: what was sent was answered here, or nobody answers it.
        self.after_answers(worker)
    }

    /// Has the server send what it says to the statement before, which it would keep back until the
    /// Sync: each statement has its own time.
    #[inline]
    fn part_statements(&self, at: usize, outgoing: &mut Outgoing<'_>) {
        if self.tenant.limits().statement_time_max.is_some() {
            build::flush(outgoing.before(at));
        }
    }

    /// Takes note of a message that is on its way, for limits.
    #[inline]
    fn count(&mut self, kind: u8, worker: &Worker) {
        if matches!(kind, b'Q' | b'E' | b'F') {
            self.begins(worker);
        }
        self.has_executed |= kind == b'E';
        self.has_executed &= !matches!(kind, b'Q' | b'S');
    }

    /// Gives answers of ours that wait for nobody.
    #[inline]
    fn answer_now(&mut self, cx: &mut Context<'_>, flushes: bool) -> Result<(), Ended> {
        let Some(server) = self.server.as_deref_mut() else {
            return Ok(());
        };
        if !server.queue.is_at_answer()
            || !(flushes || server.queue.waits_for_nobody())
            || !server.frames.is_between()
        {
            return Ok(());
        }
        let mut out = Vec::new();
        while let Some(now) = server.queue.take_now() {
            super::down::write_now(now, &mut out);
        }
        let notes = server.queue.take_notes();
        self.lending
            .prepared
            .became(notes, None, &mut server.statements);
        self.client.send(cx, &out).map_err(|_| Ended::Lost)
    }

    /// Looks into a message, records it, and puts around it what it needs.
    #[inline]
    fn look(
        &mut self,
        head: Head,
        request: Request,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Pass {
        let Some(server) = self.server.as_deref_mut() else {
            return Pass::On;
        };
        // Whoever skips to the next Sync looks at nothing; nor do we.
        if server.queue.is_skipping() && request != Request::Sync {
            if head.kind == b'D' && outgoing.bytes.len() == at + HEADER && head.body > 0 {
                return Pass::Incomplete;
            }
            server.queue.sent(request);
            return Pass::On;
        }
        if let Some(pass) = self.heed_cursors(head, request, at, outgoing) {
            return pass;
        }
        if let Anew::Later(_) = self.lending.anew
            && let Some(pass) = self.say_later(head, request, at, outgoing)
        {
            return pass;
        }
        let reading = match self.look_at_growth(head, request, at, outgoing) {
            Ok(reading) => reading,
            Err(pass) => return pass,
        };
        let Some(server) = self.server.as_deref_mut() else {
            return Pass::On;
        };
        match request {
            Request::Query => self.look_at_query(head, at, outgoing, reading),
            Request::Parse => self.look_at_parse(head, at, outgoing, reading),
            Request::Bind => self.look_at_bind(head, at, outgoing),
            Request::DescribeStatement | Request::DescribePortal | Request::Close => {
                self.look_at_target(head, request, at, outgoing)
            }
            Request::Execute => self.look_at_execute(head, at, outgoing),
            Request::Sync => {
                self.lending.is_open = false;
                self.lending.prepared.segment();
                match self.lending.follow.take() {
                    None => {
                        server.queue.sent(request);
                    }
                    Some(queries) => {
                        server.queue.sent_as(request, Tags::TURNED);
                        self.behind = Some(say_behind_sync(server, &queries).into());
                    }
                }
                Pass::On
            }
            Request::Call => {
                // Functions are called by number here; what they do is not looked up.
                self.lending.query(Effects::UNKNOWN, None);
                server.queue.sent(request);
                Pass::On
            }
            Request::CopyEnd => {
                server.queue.sent(request);
                Pass::On
            }
        }
    }

    fn look_at_bind(&mut self, head: Head, at: usize, outgoing: &mut Outgoing<'_>) -> Pass {
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            return Pass::On;
        };
        let was_open = lending.is_open;
        if let Readiness::Waits = begin(server, lending, at, outgoing, &self.tenant) {
            return Pass::Waits;
        }
        if !lending.tracks() && !lending.has_resets() {
            server.queue.sent(Request::Bind);
            return Pass::On;
        }
        let start = at + HEADER;
        let there = &outgoing.bytes[start..outgoing.bytes.len().min(start + head.body)];
        let names = first_two(there);
        if let Some((portal, name)) = names
            && !lending.tracks()
        {
            lending.binds(portal, prepared::name(name));
            server.queue.sent(Request::Bind);
            return Pass::On;
        }
        lending.prepared.binds(None);
        let Some((portal, name)) = names else {
            if there.len() < head.body && there.len() < NAMES_MAX {
                return Pass::Incomplete;
            }
            server.queue.sent(Request::Bind);
            return Pass::On;
        };
        let of = start + portal.len() + 1;
        let key = prepared::name(name);
        if !was_open
            && lending.is_outdated(key)
            && let Readiness::Waits = ready_outdated(server, lending, at, outgoing, &self.tenant)
        {
            return Pass::Waits;
        }
        lending.uses(key, &self.tenant);
        let (number, does) = lending.prepared.number_and_effects(key);
        if !was_open
            && lending.has_outdated()
            && changes_role(does, lending.prepared.text(key))
            && let Readiness::Waits = ready_before_role(server, lending, at, outgoing, &self.tenant)
        {
            return Pass::Waits;
        }
        if !was_open
            && does.intersects(UNSETTLING)
            && lending.keeps_constants(
                does,
                lending.prepared.exact(key),
                lending.prepared.text(key),
            )
            && let Readiness::Waits =
                hand_over_elsewhere(server, lending, at, outgoing, &self.tenant)
        {
            return Pass::Waits;
        }
        if !was_open
            && does.intersects(UNSETTLING)
            && let Readiness::Waits = ready_before(server, lending, at, outgoing, &self.tenant)
        {
            return Pass::Waits;
        }
        if lending.prepared.is_pending(key, number) {
            return Pass::Waits;
        }
        if does.intersects(Effects::DISCARD)
            && lending.prepared.exact(key) == Some(&Exact::DiscardPlans)
            && lending.mode == PoolMode::Auto
            && (!was_open && server.status == TransactionStatus::Idle
                || server.status == TransactionStatus::InTransaction)
        {
            if !server.queue.has_none() {
                return Pass::Waits;
            }
            hand_over_names(
                server,
                lending,
                &Naming::all(was_open),
                at,
                outgoing,
                &self.tenant,
            );
            lending.cycle.effects |= Effects::DISCARD;
        }
        if let Readiness::Waits = ready_shown(
            server,
            lending,
            (does, was_open),
            at,
            outgoing,
            &self.tenant,
        ) {
            return Pass::Waits;
        }
        if name.is_empty() {
            let readiness = ready_unnamed(server, lending, at, outgoing, &self.tenant);
            if matches!(readiness, Readiness::Waits) {
                return Pass::Waits;
            }
            if let Unnamed::Kept(serial) = lending.prepared.unnamed
                && let Some(pass) = before_bind(
                    (b"", Which::Unnamed(serial)),
                    (name, of),
                    head,
                    at,
                    outgoing,
                    server,
                    lending,
                    &self.tenant,
                )
            {
                return pass;
            }
            let source = &lending.prepared.source;
            let (effects, exact) = (source.effects, source.exact.clone());
            let (effects, exact) = match lending.prepared.unnamed {
                Unnamed::None => (Effects::NONE, None),
                _ => (effects, exact),
            };
            if effects.intersects(UNSETTLING) || lending.prepared.source.sets_locally {
                ready_all(server, lending, at, outgoing, &self.tenant);
                // An unnamed one that is not kept may say anything.
                let is_kept = matches!(lending.prepared.unnamed, Unnamed::Kept(_));
                if is_kept {
                    let text = std::mem::take(&mut lending.prepared.source.body);
                    lending.moves(effects, exact.as_ref(), &text);
                    lending.prepared.source.body = text;
                } else {
                    lending.moves(effects, exact.as_ref(), b"search_path");
                }
            }
            lending.cycle.is_unsettled |= lending.prepared.source.sets_locally;
            lending.bind(portal, effects, exact);
            server.queue.sent(Request::Bind);
            return Pass::On;
        }
        let Some(statement) = lending.prepared.get(key).cloned() else {
            // SQL PREPARE may have made it, or nobody has.
            free_names(server, lending, at, outgoing);
            let mut effects = Effects::NONE;
            if lending.may_have_prepared(self.tenant.known().hazard) {
                effects = self.tenant.heed(Effects::RUNS, &[], b"", lending);
            }
            let exact = lending.handed_over(key);
            lending.bind(portal, effects, exact);
            if self.tenant.statements.is_name(name) {
                rename(NOBODYS, of, name, head, at, outgoing);
            }
            server.queue.sent(Request::Bind);
            return Pass::On;
        };
        let named = (key, &*statement);
        if let Readiness::Waits = ready_named(server, lending, named, at, outgoing, &self.tenant) {
            return Pass::Waits;
        }
        if let Some(pass) = before_bind(
            (&statement.name, Which::Named(statement.number)),
            (name, of),
            head,
            at,
            outgoing,
            server,
            lending,
            &self.tenant,
        ) {
            return pass;
        }
        if portal.is_empty() && statement.heeds_columns {
            lending.prepared.binds(Some(statement.number));
        }
        let mut effects = statement.effects;
        if effects.intersects(HEEDED) {
            effects = self.tenant.heed(effects, &[], &statement.query, lending);
        }
        if effects.intersects(UNSETTLING) || statement.sets_locally {
            ready_all(server, lending, at, outgoing, &self.tenant);
            lending.moves(effects, statement.exact.as_ref(), &statement.query);
        }
        rename(&statement.name, of, name, head, at, outgoing);
        lending.cycle.is_unsettled |= statement.sets_locally;
        lending.bind(portal, effects, statement.exact.clone());
        server.queue.sent(Request::Bind);
        Pass::On
    }

    fn look_at_target(
        &mut self,
        head: Head,
        request: Request,
        at: usize,
        outgoing: &mut Outgoing<'_>,
    ) -> Pass {
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            return Pass::On;
        };
        let body = match body(outgoing.bytes, at, head) {
            Body::Whole(body) => body,
            Body::Incomplete => return Pass::Incomplete,
            Body::TooLarge => b"",
        };
        let was_open = lending.is_open;
        if let Readiness::Waits = begin(server, lending, at, outgoing, &self.tenant) {
            return Pass::Waits;
        }
        let target = parse::target(body);
        let name = match target {
            Ok((Kind::Statement, name)) if lending.tracks() => name,
            target => {
                match target {
                    Ok((Kind::Portal, name)) if request == Request::Close => lending.closes(name),
                    Ok((Kind::Statement, name)) if request == Request::Close => {
                        let name = prepared::name(name);
                        if lending.is_reset(name) {
                            if !server.queue.has_none() {
                                return Pass::Waits;
                            }
                            lending.prepares(name, None);
                        }
                    }
                    // Where the columns of a result are told of with its first use only.
                    Ok((Kind::Portal, b"")) if lending.prepared.is_to_be_told() => {
                        server.queue.sent_as(request, Tags::NOTED);
                        return Pass::On;
                    }
                    _ => {}
                }
                server.queue.sent(request);
                return Pass::On;
            }
        };
        let key = prepared::name(name);
        if request != Request::Close {
            if !was_open
                && lending.is_outdated(key)
                && let Readiness::Waits =
                    ready_outdated(server, lending, at, outgoing, &self.tenant)
            {
                return Pass::Waits;
            }
            if !was_open
                && request == Request::DescribeStatement
                && let Some(pass) = ready_alone(server, lending, key, at, outgoing, &self.tenant)
            {
                return pass;
            }
            lending.uses(key, &self.tenant);
        }
        let number = lending.prepared.get(key).map(|statement| statement.number);
        if lending.prepared.is_pending(key, number) {
            return Pass::Waits;
        }
        if request == Request::Close {
            if name.is_empty() {
                lending.prepared.drop_unnamed(&mut server.statements);
                server.queue.sent_as(request, Tags::NOTED);
                return Pass::On;
            }
            let was = lending.prepared.closed(key);
            if was.as_ref().is_some_and(|was| was.has_own_name) {
                server.queue.sent_as(request, Tags::NOTED);
                return Pass::On;
            }
            if was.is_none() {
                // Perhaps one of SQL PREPARE.
                free_names(server, lending, at, outgoing);
                if !lending.found.is_empty() {
                    lending.effects |= Effects::PREPARE;
                }
                server.queue.sent_as(request, Tags::NOTED);
                return Pass::On;
            }
            server.queue.answer(Now::CloseComplete, Tags::NOTED);
            return Pass::Answered;
        }
        let (of, mut heeded) = (at + HEADER + 1, None);
        if name.is_empty() {
            let readiness = ready_unnamed(server, lending, at, outgoing, &self.tenant);
            if matches!(readiness, Readiness::Waits) {
                return Pass::Waits;
            }
            heeded = heeded_unnamed(&lending.prepared).map(|which| (Box::default(), which));
        } else if let Some(statement) = lending.prepared.get(key).cloned() {
            let named = (key, &*statement);
            if let Readiness::Waits =
                ready_named(server, lending, named, at, outgoing, &self.tenant)
            {
                return Pass::Waits;
            }
            if statement.heeds_columns {
                heeded = Some((statement.name.clone(), Which::Named(statement.number)));
            } else {
                rename(&statement.name, of, name, head, at, outgoing);
            }
        } else if !self.tenant.statements.is_name(name) {
            free_names(server, lending, at, outgoing);
        } else {
            rename(NOBODYS, of, name, head, at, outgoing);
        }
        let Some((own, which)) = heeded else {
            server.queue.sent(request);
            return Pass::On;
        };
        let columns = columns(server, lending, (&own, which), at, outgoing);
        if let Columns::Asked = columns {
            return Pass::Asked;
        }
        if !name.is_empty() {
            rename(&own, of, name, head, at, outgoing);
        }
        if let Columns::Changed = columns {
            self.behind = Some(refuse_columns(which, server, lending, &self.tenant).into());
        } else {
            lending.prepared.described(which, true);
            server.queue.sent_as(request, Tags::NOTED);
        }
        Pass::On
    }

    fn look_at_execute(&mut self, head: Head, at: usize, outgoing: &mut Outgoing<'_>) -> Pass {
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            return Pass::On;
        };
        let (mut runs, mut executes) = (None, None);
        if lending.has_portals() {
            let body = match body(outgoing.bytes, at, head) {
                Body::Whole(body) => body,
                // What is said behind it must be behind all of it.
                Body::Incomplete => return Pass::Incomplete,
                Body::TooLarge => b"",
            };
            if let Some(end) = memchr::memchr(0, body) {
                let portal = &body[..end];
                runs = lending.runs(portal);
                if let Some(Runs::Exactly(exact @ Exact::Execute(_))) = &runs {
                    executes = Some(exact.clone());
                    let executed = lending.executed(Some(exact)).map(Runs::Exactly);
                    runs = executed
                        .filter(|runs| lending.heeds_handed_over(runs))
                        .or(runs);
                }
                if let Some(Runs::Exactly(exact)) = &runs
                    && (lending.is_awaited(exact) && !server.queue.has_none()
                        || is_name_pending(Some(exact), lending))
                {
                    return Pass::Waits;
                }
                lending.closes(portal);
            }
        }
        add(&self.handle.about.counters.statements, 1);
        lending.is_open = true;
        if lending.tracks() {
            lending.execute(match &runs {
                // What it executes is for the server to say, and what it leads to.
                Some(Runs::Exactly(exact)) => executes.as_ref().or(Some(exact)),
                _ => None,
            });
        }
        let mut behind = Vec::new();
        match runs {
            Some(Runs::Exactly(exact)) => {
                if lending.tracks() {
                    name_for_sql(&exact, at, outgoing, server, lending);
                }
                behind = lending.follow_execute(&exact, server);
                behind = lending.puts_off(behind, server);
                if lending.is_awaited(&exact) {
                    lending.awaits(exact);
                }
            }
            Some(Runs::Perhaps(statements)) => lending.say_behind_sync(statements),
            None => {}
        }
        server.queue.sent(Request::Execute);
        if !behind.is_empty() {
            let mut out = Vec::new();
            say_in_passing(server, &behind, Tags::NONE, &mut out);
            self.behind = Some(out.into());
        }
        Pass::On
    }
}
