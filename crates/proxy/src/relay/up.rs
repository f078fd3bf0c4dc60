//! From a client to its server connection.
//!
//! Owns: what is recorded about every message, and what is put before, behind or in the place of one
//! so that a session finds again what it prepared and set. Does not own: what a text means
//! (`statement`), or what is kept of it (`lending`, `prepared`).
//!
//! What needs no change is sent from where it was read. Everything that goes at once goes in one
//! call.

use std::{rc::Rc, task::Context};

use model::route::PoolMode;
use statement::{Effects, Exact, Lead, Reading, Statements};
use wire::{
    frame::{self, HEADER, Head},
    message::{Kind, TransactionStatus, build, parse},
    queue::{FromClient, Now, Request, Tags},
};

use super::{
    LOOKED_INTO_MAX, Turn,
    around::{
        Body, NAMES_MAX, NOBODYS, Naming, Readiness, begin, body, close_first, deallocates_all,
        execute_by_sql, first_two, free_names, hand_over_names, large_parse, may_need_follow_up,
        name_for_sql, names_statements, occupy, ready_all, ready_before_role, ready_named,
        ready_unnamed, rename, say, say_apart, say_behind_sync, say_in_passing, sets_locally,
        unknown, write_parse,
    },
    insert::{self, Inserted},
    note::Clock,
};
use crate::{
    error::Refusal,
    lending::{Anew, Barrier, Lending, Runs},
    prepared::{self, Source, Unnamed},
    session::{Ended, Session},
    statements::{Parsed, Unnamed as Theirs},
    stats::add,
    worker::Worker,
};

/// What of a statement the tenant as a whole has to know.
const HEEDED: Effects = Effects::DDL
    .with(Effects::RUNS)
    .with(Effects::CALLS)
    .with(Effects::READS_SEQUENCE);

/// Behind what does this, nobody knows the settings in force before the transaction is over.
const UNSETTLING: Effects = Effects::SETTINGS.with(Effects::RUNS);

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
        let mut clock = Clock::default();
        while self.lending.barrier.is_none()
            && let Some(head) =
                frame::head(&bytes[at..]).map_err(|_| Ended::Refused(Refusal::OutOfStep))?
        {
            match FromClient::of(head.kind, bytes.get(at + HEADER).copied()) {
                FromClient::Request(request) => {
                    let Some(note) = self.note_of(bytes, at, head, request) else {
                        break;
                    };
                    if request == Request::Execute && self.has_executed {
                        self.part_statements(at, &mut outgoing);
                    }
                    let was_open = self.lending.is_open;
                    match self.look(head, request, at, &mut outgoing) {
                        Pass::On => {
                            self.take_note(note, &mut clock);
                            self.count(head.kind, worker);
                        }
                        pass @ (Pass::Answered | Pass::Refused) => {
                            self.take_note(note, &mut clock);
                            if let Pass::Refused = pass {
                                self.count(head.kind, worker);
                            }
                            outgoing.before(at);
                            at = self.from_client.pass(at, head, bytes.len());
                            outgoing.leave_out(at);
                            self.is_rest_refused = !self.from_client.is_between();
                            continue;
                        }
                        Pass::Waits => {
                            self.lending.is_open = was_open;
                            // What is under way may be held back by the server until then.
                            build::flush(outgoing.before(at));
                            self.lending.barrier = Some(Barrier::Before);
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
            if let Some(follow) = &mut self.behind {
                // Behind the whole message, and part of it to the client.
                outgoing.before(at).append(follow);
                self.behind = None;
            }
        }
        self.unlist(worker);
        let Some(server) = self.server.as_deref_mut() else {
            return Ok(None);
        };
        if matches!(
            self.lending.barrier,
            Some(Barrier::Of(_) | Barrier::Named(..))
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
        self.beat(worker, || clock.now());
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
        self.lending.prepared.became(notes, &mut server.statements);
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
                        self.behind = Some(say_behind_sync(server, &queries));
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

    /// `reading`: of its text, if that was read already.
    fn look_at_query(
        &mut self,
        head: Head,
        at: usize,
        outgoing: &mut Outgoing<'_>,
        reading: Option<Reading>,
    ) -> Pass {
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            return Pass::On;
        };
        let text = match body(outgoing.bytes, at, head) {
            Body::Whole(body) => body.strip_suffix(b"\0").unwrap_or(body),
            Body::Incomplete => return Pass::Incomplete,
            Body::TooLarge => b"",
        };
        let is_read = head.body <= LOOKED_INTO_MAX;
        if !lending.tracks() {
            let may_follow = is_read && may_need_follow_up(text, lending);
            let read = || reading.unwrap_or_else(|| statement::read(text, server.context));
            let reading = may_follow.then(read);
            let mut inserted = None;
            if let Some(reading) = &reading
                && reading.statements == Statements::Several
                && insert::may_need(text, lending)
            {
                if !server.queue.has_none() {
                    return Pass::Waits;
                }
                let states = &self.tenant.states;
                inserted = Inserted::of(text, server.context, server, lending, states);
            }
            let follow = reading.and_then(|reading| {
                lending.follow_up(
                    reading.effects,
                    reading.exact.as_ref(),
                    text,
                    server,
                    &self.tenant.states,
                )
            });
            lending.is_open = false;
            if let Some(inserted) = inserted {
                self.inserted = Some(inserted.put(text, head, at, outgoing));
            }
            match follow {
                None => {
                    server.queue.sent(Request::Query);
                }
                Some(queries) => {
                    server.queue.sent_as(Request::Query, Tags::TURNED);
                    self.behind = Some(say(server, &[queries.join(";")], Tags::TURNED));
                }
            }
            return Pass::On;
        }
        let reading = match reading {
            _ if !is_read => unknown(),
            Some(reading) => reading,
            None => statement::read(text, lending.context(server)),
        };
        let mut effects = reading.effects;
        let changes_prepared = effects.intersects(Effects::DISCARD.with(Effects::DEALLOCATE));
        let uses_prepared = matches!(reading.exact, Some(Exact::Execute(_)));
        let hands_over = lending.mode == PoolMode::Auto
            && lending.prepared.has_names()
            && names_statements(&reading, text);
        let drops_unnamed =
            server.statements.unnamed != Theirs::None || lending.prepared.unnamed != Unnamed::None;
        let may_insert =
            is_read && reading.statements == Statements::Several && insert::may_need(text, lending);
        if (changes_prepared || uses_prepared || hands_over || may_insert)
            && !server.queue.has_none()
            || drops_unnamed && lending.prepared.is_pending(b"", None)
            || is_name_pending(reading.exact.as_ref(), lending)
        {
            return Pass::Waits;
        }
        let may_hand_over = server.status != TransactionStatus::Failed && !lending.is_open;
        if hands_over && may_hand_over {
            let naming = Naming {
                text,
                takes_away: changes_prepared,
                is_between: false,
            };
            hand_over_names(server, lending, &naming, at, outgoing, &self.tenant);
        }
        if effects.intersects(Effects::ROLE) && lending.prepared.has_names() {
            ready_before_role(server, lending, at, outgoing, &self.tenant);
        }
        if effects.intersects(HEEDED) || !reading.custom.is_empty() {
            effects = self.tenant.heed(effects, &reading.custom, text, lending);
        }
        if effects.intersects(Effects::PREPARE.with(Effects::RUNS)) {
            // What was to be closed may be made again by this.
            free_names(server, lending, at, outgoing);
        }
        if let Some(exact) = &reading.exact {
            name_for_sql(exact, at, outgoing, server, lending);
        }
        if let Some(Exact::Execute(name)) = &reading.exact {
            let does = execute_by_sql(
                name,
                text,
                head,
                at,
                outgoing,
                server,
                lending,
                &self.tenant,
            );
            effects |= does.unwrap_or(Effects::UNKNOWN);
            if does.is_none() && may_hand_over && lending.mode == PoolMode::Auto {
                let naming = Naming {
                    text,
                    takes_away: false,
                    is_between: false,
                };
                hand_over_names(server, lending, &naming, at, outgoing, &self.tenant);
            }
        }
        let follow =
            if effects.intersects(Effects::SETTINGS.with(Effects::DISCARD).with(Effects::ROLE)) {
                lending.follow_up(
                    effects,
                    reading.exact.as_ref(),
                    text,
                    server,
                    &self.tenant.states,
                )
            } else {
                None
            };
        lending.cycle.is_unsettled |= sets_locally(&reading, text, server, lending);
        if changes_prepared {
            // Of more than one statement nobody knows which are left, unless none is.
            let among_several = if deallocates_all(text) {
                Exact::DeallocateAll
            } else {
                Exact::DiscardPlans
            };
            lending.awaits(reading.exact.clone().unwrap_or(among_several));
        }
        lending.query(effects, reading.exact);
        lending.is_open = false;
        let mut tags = Tags::NONE;
        if drops_unnamed {
            // A simple query drops the unnamed statement.
            lending.prepared.drop_unnamed(&mut server.statements);
            tags = tags.with(Tags::NOTED);
        }
        if follow.is_some() {
            tags = tags.with(Tags::TURNED);
        }
        if may_insert {
            let (context, states) = (server.context, &self.tenant.states);
            if let Some(inserted) = Inserted::of(text, context, server, lending, states) {
                self.inserted = Some(inserted.put(text, head, at, outgoing));
            }
        }
        server.queue.sent_as(Request::Query, tags);
        if let Some(queries) = follow {
            self.behind = Some(say(server, &[queries.join(";")], Tags::TURNED));
        }
        Pass::On
    }

    /// `reading`: of its text, if that was read already.
    fn look_at_parse(
        &mut self,
        head: Head,
        at: usize,
        outgoing: &mut Outgoing<'_>,
        reading: Option<Reading>,
    ) -> Pass {
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            return Pass::On;
        };
        let was_open = lending.is_open;
        if let Readiness::Waits = begin(server, lending, at, outgoing, &self.tenant) {
            return Pass::Waits;
        }
        if !lending.tracks() {
            if head.body <= LOOKED_INTO_MAX {
                let Body::Whole(body) = body(outgoing.bytes, at, head) else {
                    return Pass::Incomplete;
                };
                if let Ok(parsed) = parse::parse(body) {
                    let mut runs = None;
                    if may_need_follow_up(parsed.query, lending) {
                        let read = || statement::read(parsed.query, server.context);
                        let reading = reading.unwrap_or_else(read);
                        runs = match reading.exact {
                            Some(exact) => Some(Runs::Exactly(exact)),
                            None => {
                                let states = &self.tenant.states;
                                let (effects, text) = (reading.effects, parsed.query);
                                let follow = lending.follow_up(effects, None, text, server, states);
                                follow.map(Runs::Perhaps)
                            }
                        };
                    }
                    let runs = runs.filter(Runs::leads_back);
                    let name = prepared::name(parsed.statement);
                    if runs.is_some() || lending.is_reset(name) {
                        // What it means is decided by the server: a name may be taken.
                        if !server.queue.has_none() {
                            return Pass::Waits;
                        }
                        lending.awaits_as(Barrier::Named(name.into(), runs));
                    }
                }
            }
            server.queue.sent(Request::Parse);
            return Pass::On;
        }
        let body = match body(outgoing.bytes, at, head) {
            Body::Whole(body) => body,
            Body::Incomplete => return Pass::Incomplete,
            Body::TooLarge => {
                return large_parse(server, lending, head, at, outgoing, &self.tenant);
            }
        };
        let Ok(parsed) = parse::parse(body) else {
            // The server says what is wrong with it.
            server.queue.sent(Request::Parse);
            return Pass::On;
        };
        let read = || statement::read(parsed.query, lending.context(server));
        let reading = reading.unwrap_or_else(read);
        let effects = if reading.effects.intersects(HEEDED) || !reading.custom.is_empty() {
            self.tenant
                .heed(reading.effects, &reading.custom, parsed.query, lending)
        } else {
            reading.effects
        };
        let name = prepared::name(parsed.statement);
        if lending.prepared.is_pending(name, None) {
            return Pass::Waits;
        }
        let behind_name = &body[parsed.statement.len() + 1..];
        let sets_locally = sets_locally(&reading, parsed.query, server, lending);
        let executes = matches!(reading.exact, Some(Exact::Execute(_)))
            || names_statements(&reading, parsed.query);
        if executes
            && lending.mode == PoolMode::Auto
            && lending.prepared.has_names()
            && server.status != TransactionStatus::Failed
        {
            if !server.queue.has_none() {
                return Pass::Waits;
            }
            let naming = Naming {
                text: parsed.query,
                takes_away: false,
                is_between: was_open,
            };
            hand_over_names(server, lending, &naming, at, outgoing, &self.tenant);
        }
        // What EXECUTE returns is read from the statement that has the name now.
        let is_private = lending.mode == PoolMode::Auto
            && (executes
                || reading
                    .effects
                    .intersects(Effects::UNSEEN.with(Effects::RUNS))
                    && (lending.may_be_another()
                        || lending.is_unlearned
                        || !lending.is_settled(&self.tenant)));
        if name.is_empty() {
            let serial = self.tenant.next_serial();
            let mut source = Source {
                effects,
                exact: reading.exact,
                sets_locally,
                ..Source::default()
            };
            let now = if is_private {
                Unnamed::There
            } else {
                source.body = lending.prepared.room();
                source.body.extend_from_slice(behind_name);
                source.parsing = Some(lending.wanted.parsing().clone());
                Unnamed::Kept(serial)
            };
            lending
                .prepared
                .unnamed(now, source, serial, &mut server.statements);
            server.queue.sent_as(Request::Parse, Tags::NOTED);
            return Pass::On;
        }
        if let Some(statement) = lending.prepared.get(name)
            && !(lending.has_own_names && statement.has_own_name)
        {
            // The server says so, after all that may be wrong with it otherwise.
            if !statement.has_own_name {
                occupy(name, server, lending, outgoing.before(at));
            }
            server.queue.sent(Request::Parse);
            return Pass::On;
        }
        let mut reading = reading;
        reading.effects = effects;
        // Not refused in a transaction that failed.
        let is_way_out = matches!(
            reading.lead,
            Lead::Commit | Lead::Rollback | Lead::PrepareTransaction | Lead::Nothing
        );
        let types = &behind_name[parsed.query.len() + 1..];
        if is_private || lending.has_own_names || lending.has_sql_prepared() {
            // It lives here alone, or among those of SQL PREPARE, where it may be one too many: SQL
            // finds it by its name.
            free_names(server, lending, at, outgoing);
            let own = self
                .tenant
                .statements
                .of_own_name(name, reading, sets_locally);
            lending.prepared.named(name, own, true);
            server.queue.sent_as(Request::Parse, Tags::NOTED);
            return Pass::On;
        }
        let statement = self.tenant.statements.of(Parsed {
            query: parsed.query,
            types,
            parsing: &lending.wanted,
            reading,
            is_private: false,
            sets_locally,
        });
        if lending.prepared.is_pending(name, Some(statement.number)) {
            return Pass::Waits;
        }
        if server.statements.uses(statement.number) {
            let may_fail = server.status != TransactionStatus::Idle
                || lending.cycle.effects.intersects(Effects::TRANSACTION);
            if may_fail && !server.queue.has_none() {
                return Pass::Waits;
            }
            if server.status == TransactionStatus::Failed && !is_way_out {
                // Refused, whatever its name.
                lending.prepared.named(name, statement, false);
                server.queue.sent_as(Request::Parse, Tags::NOTED);
                return Pass::On;
            }
            lending.prepared.named(name, statement, false);
            server.queue.answer(Now::ParseComplete, Tags::NOTED);
            return Pass::Answered;
        }
        let end = at + HEADER + head.body;
        let out = outgoing.before(at);
        close_first(&statement.name, server, out);
        // One that lives here alone must stay, however long it is not used.
        if !statement.is_private {
            let all = &self.tenant.statements;
            server.statements.add(statement.number, all);
        }
        write_parse(&statement.name, behind_name, out);
        outgoing.leave_out(end);
        lending.prepared.named(name, statement, true);
        server.queue.sent_as(Request::Parse, Tags::NOTED);
        Pass::On
    }

    fn look_at_bind(&mut self, head: Head, at: usize, outgoing: &mut Outgoing<'_>) -> Pass {
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            return Pass::On;
        };
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
        let Some((portal, name)) = names else {
            if there.len() < head.body && there.len() < NAMES_MAX {
                return Pass::Incomplete;
            }
            server.queue.sent(Request::Bind);
            return Pass::On;
        };
        let of = start + portal.len() + 1;
        let key = prepared::name(name);
        lending.uses(key, &self.tenant);
        let number = lending.prepared.get(key).map(|statement| statement.number);
        if lending.prepared.is_pending(key, number) {
            return Pass::Waits;
        }
        if name.is_empty() {
            let readiness = ready_unnamed(server, lending, at, outgoing, &self.tenant);
            if matches!(readiness, Readiness::Waits) {
                return Pass::Waits;
            }
            let source = &lending.prepared.source;
            let (effects, exact) = (source.effects, source.exact.clone());
            let (effects, exact) = match lending.prepared.unnamed {
                Unnamed::None => (Effects::NONE, None),
                _ => (effects, exact),
            };
            if effects.intersects(UNSETTLING) || lending.prepared.source.sets_locally {
                ready_all(server, lending, at, outgoing, &self.tenant);
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
            lending.bind(portal, effects, None);
            if self.tenant.statements.is_name(name) {
                rename(NOBODYS, of, name, head, at, outgoing);
            }
            server.queue.sent(Request::Bind);
            return Pass::On;
        };
        if let Readiness::Waits =
            ready_named(server, lending, &statement, at, outgoing, &self.tenant)
        {
            return Pass::Waits;
        }
        let mut effects = statement.effects;
        if effects.intersects(HEEDED) {
            effects = self.tenant.heed(effects, &[], &statement.query, lending);
        }
        if effects.intersects(UNSETTLING) || statement.sets_locally {
            ready_all(server, lending, at, outgoing, &self.tenant);
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
                    _ => {}
                }
                server.queue.sent(request);
                return Pass::On;
            }
        };
        let key = prepared::name(name);
        if request != Request::Close {
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
        if name.is_empty() {
            let readiness = ready_unnamed(server, lending, at, outgoing, &self.tenant);
            if matches!(readiness, Readiness::Waits) {
                return Pass::Waits;
            }
        } else if let Some(statement) = lending.prepared.get(key).cloned() {
            let of = at + HEADER + 1;
            match ready_named(server, lending, &statement, at, outgoing, &self.tenant) {
                Readiness::Ready => rename(&statement.name, of, name, head, at, outgoing),
                Readiness::Waits => return Pass::Waits,
            }
        } else if !self.tenant.statements.is_name(name) {
            free_names(server, lending, at, outgoing);
        } else {
            rename(NOBODYS, at + HEADER + 1, name, head, at, outgoing);
        }
        server.queue.sent(request);
        Pass::On
    }

    fn look_at_execute(&mut self, head: Head, at: usize, outgoing: &mut Outgoing<'_>) -> Pass {
        let (Some(server), lending) = (self.server.as_deref_mut(), &mut self.lending) else {
            return Pass::On;
        };
        let mut runs = None;
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
                Some(Runs::Exactly(exact)) => Some(exact),
                _ => None,
            });
        }
        let mut behind = Vec::new();
        match runs {
            Some(Runs::Exactly(exact)) => {
                if lending.tracks() {
                    name_for_sql(&exact, at, outgoing, server, lending);
                }
                behind = lending.follow_execute(&exact, server, &self.tenant.states);
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
            self.behind = Some(out);
        }
        Pass::On
    }
}

/// Whether SQL gives a statement a name of which it is still open what it means.
fn is_name_pending(exact: Option<&Exact>, lending: &Lending) -> bool {
    match exact {
        Some(Exact::Prepare(name)) => {
            let name = prepared::name(name.as_bytes());
            lending.prepared.is_pending(name, None)
        }
        _ => false,
    }
}
