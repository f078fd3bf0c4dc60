//! Messages of a client that carry a text: Query and Parse.
//!
//! Owns: what is recorded of a text when it is sent, and what is put before, behind or into it so that its
//! session finds again what it prepared and set. Does not own: the other messages (`up`), or what a text
//! means (`statement`).

use model::route::PoolMode;
use statement::{Effects, Exact, Lead, Reading, Statements};
use wire::{
    frame::{HEADER, Head},
    message::{Kind, TransactionStatus, build, parse},
    queue::{Now, Request, Tags},
};

use super::{
    LOOKED_INTO_MAX,
    anew::{discards_plans, hand_over_elsewhere, ready_outdated},
    around::{
        Body, body, changes_role, close_first, deallocates_all, free_names, large_parse,
        may_need_follow_up, occupy, say, sets_locally, unknown, write_parse,
    },
    handed::{
        Naming, execute_by_sql, fail, hand_over_behind_failure, hand_over_names, name_for_sql,
        names_statements,
    },
    insert::{self, Inserted},
    ready::{Readiness, begin, ready_before, ready_before_role},
    shown::ready_shown,
    up::{Outgoing, Pass, UNSETTLING},
};
use crate::{
    lending::{Barrier, Changes, Lending, Runs},
    prepared::{self, Sent, Source, Unnamed},
    session::Session,
    statements::{Parsed, Unnamed as Theirs},
    words::mentions,
};

/// What of a statement the tenant as a whole has to know.
pub(super) const HEEDED: Effects = Effects::DDL
    .with(Effects::RUNS)
    .with(Effects::CALLS)
    .with(Effects::READS_SEQUENCE);

impl Session {
    /// `reading`: of its text, if that was read already.
    pub(super) fn look_at_query(
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
            let may_follow = is_read
                && (may_need_follow_up(text, lending)
                    || lending.has_resets() && mentions(text, b"execute"));
            let read = || reading.unwrap_or_else(|| statement::read(text, server.context));
            let reading = may_follow.then(read);
            let (mut inserted, mut is_enough) = (None, false);
            if let Some(reading) = &reading
                && reading.statements == Statements::Several
                && insert::may_need(text, lending)
            {
                if !server.queue.has_none() {
                    return Pass::Waits;
                }
                inserted = Inserted::of(text, server.context, server, lending);
                is_enough = insert::is_enough(text, server.context, lending);
            }
            let follow = reading.filter(|_| !is_enough).and_then(|reading| {
                let executed = lending.executed(reading.exact.as_ref());
                let done = executed.as_ref().or(reading.exact.as_ref());
                lending.follow_up(reading.effects, done, text, server)
            });
            let follow = follow.map(|queries| lending.puts_off(queries, server));
            let follow = follow.filter(|queries| !queries.is_empty());
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
                    self.behind = Some(say(server, &[queries.join(";")], Tags::TURNED).into());
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
        lending.may_meet_temporary(effects, text);
        let executed = lending.executed(reading.exact.as_ref());
        let done = executed.as_ref().or(reading.exact.as_ref());
        let executes_change = executed
            .as_ref()
            .is_some_and(|exact| lending.is_awaited(exact));
        let changes_prepared =
            executes_change || effects.intersects(Effects::DISCARD.with(Effects::DEALLOCATE));
        let executes_change = executes_change || matches!(executed, Some(Exact::Prepare(_)));
        // What is executed among other statements may take them away as well.
        let takes_away = changes_prepared
            || executes_change
            || effects.intersects(Effects::RUNS) && lending.prepared.has_changing();
        let uses_prepared = matches!(reading.exact, Some(Exact::Execute(_)));
        let hands_over = lending.mode == PoolMode::Auto
            && lending.prepared.has_names()
            && (names_statements(&reading, text)
                || discards_plans(&reading, text)
                || executes_change);
        let drops_unnamed =
            server.statements.unnamed != Theirs::None || lending.prepared.unnamed != Unnamed::None;
        let may_insert =
            is_read && reading.statements == Statements::Several && insert::may_need(text, lending);
        if (changes_prepared || uses_prepared || hands_over || may_insert)
            && !server.queue.has_none()
            || lending.prepared.is_pending(b"", None)
            || is_name_pending(done, lending)
        {
            return Pass::Waits;
        }
        if !lending.is_open
            && let Readiness::Waits = ready_shown(
                server,
                lending,
                (effects, false),
                at,
                outgoing,
                &self.tenant,
            )
        {
            return Pass::Waits;
        }
        let may_hand_over = server.status != TransactionStatus::Failed && !lending.is_open;
        if hands_over && !lending.is_open {
            let naming = Naming {
                text,
                unsaid: &[],
                takes_away,
                is_between: false,
            };
            if may_hand_over {
                hand_over_names(server, lending, &naming, at, outgoing, &self.tenant);
                if std::mem::take(&mut lending.is_led_out) {
                    fail(server, outgoing.before(at));
                }
            } else if let Readiness::Waits =
                hand_over_behind_failure(server, lending, &naming, at, outgoing, &self.tenant)
            {
                return Pass::Waits;
            }
        }
        if lending.prepared.has_names()
            && !lending.is_open
            && (effects.intersects(Effects::ROLE)
                || lending.has_outdated() && changes_role(effects, text))
        {
            let readiness = ready_before_role(server, lending, at, outgoing, &self.tenant);
            if let Readiness::Waits = readiness {
                return Pass::Waits;
            }
        }
        let sets_locally = sets_locally(&reading, text, server, lending);
        let changes_settings = sets_locally || effects.intersects(UNSETTLING);
        if changes_settings
            && !lending.is_open
            && lending.keeps_constants(effects, reading.exact.as_ref(), text)
            && let Readiness::Waits =
                hand_over_elsewhere(server, lending, at, outgoing, &self.tenant)
        {
            return Pass::Waits;
        }
        if let Some(Exact::Execute(name)) = &reading.exact
            && !lending.is_open
            && lending.is_outdated(prepared::name(name.as_bytes()))
            && let Readiness::Waits = ready_outdated(server, lending, at, outgoing, &self.tenant)
        {
            return Pass::Waits;
        }
        if effects.intersects(HEEDED) || !reading.custom.is_empty() {
            effects = self.tenant.heed(effects, &reading.custom, text, lending);
        }
        lending.doubt_handed_over(text);
        if effects.intersects(Effects::PREPARE.with(Effects::RUNS)) {
            // What was to be closed may be made again by this.
            free_names(server, lending, at, outgoing);
        }
        if let Some(exact) = done {
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
                    unsaid: &[],
                    takes_away: false,
                    is_between: false,
                };
                hand_over_names(server, lending, &naming, at, outgoing, &self.tenant);
            }
        }
        let leads_away = Effects::SETTINGS.with(Effects::DISCARD).with(Effects::ROLE);
        let may_follow = effects.intersects(leads_away)
            || executed.is_some()
            || matches!(reading.exact, Some(Exact::ResetLocal(_)));
        let is_enough = may_insert && insert::is_enough(text, server.context, lending);
        let follow = (may_follow && !is_enough)
            .then(|| lending.follow_up(effects, done, text, server))
            .flatten();
        let follow = match done {
            Some(Exact::Reset(_) | Exact::ResetLocal(_) | Exact::ResetAll) => follow
                .map(|queries| lending.puts_off(queries, server))
                .filter(|queries| !queries.is_empty()),
            _ => follow,
        };
        if sets_locally || effects.intersects(UNSETTLING) {
            lending.moves(effects, reading.exact.as_ref(), text);
        }
        lending.cycle.is_unsettled |= sets_locally;
        if changes_prepared {
            // Of more than one statement nobody knows which are left, unless none is.
            match done {
                Some(exact) => lending.awaits(exact.clone()),
                None if deallocates_all(text) => {
                    lending.awaits_as(Barrier::OfSeveral(Changes::All));
                }
                None if discards_plans(&reading, text) => {
                    lending.awaits_as(Barrier::OfSeveral(Changes::Plans));
                }
                None => lending.awaits_as(Barrier::OfSeveral(Changes::Some)),
            }
        } else if hands_over && takes_away {
            lending.awaits_as(Barrier::OfSeveral(Changes::Some));
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
        if may_insert && let Some(inserted) = Inserted::of(text, server.context, server, lending) {
            self.inserted = Some(inserted.put(text, head, at, outgoing));
        }
        server.queue.sent_as(Request::Query, tags);
        if let Some(queries) = follow {
            self.behind = Some(say(server, &[queries.join(";")], Tags::TURNED).into());
        }
        Pass::On
    }

    /// `reading`: of its text, if that was read already.
    pub(super) fn look_at_parse(
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
                    if may_need_follow_up(parsed.query, lending)
                        || lending.has_resets() && mentions(parsed.query, b"execute")
                    {
                        let read = || statement::read(parsed.query, server.context);
                        let reading = reading.unwrap_or_else(read);
                        runs = match reading.exact {
                            Some(exact) => {
                                let executed = lending.executed(Some(&exact));
                                Some(Runs::Exactly(executed.unwrap_or(exact)))
                            }
                            None => {
                                let (effects, text) = (reading.effects, parsed.query);
                                let follow = lending.follow_up(effects, None, text, server);
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
        lending.may_meet_temporary(effects, parsed.query);
        let name = prepared::name(parsed.statement);
        if lending.prepared.is_pending(name, None) {
            return Pass::Waits;
        }
        let behind_name = &body[parsed.statement.len() + 1..];
        let sets_locally = sets_locally(&reading, parsed.query, server, lending);
        if !was_open
            && (sets_locally || effects.intersects(UNSETTLING))
            && lending.keeps_constants(effects, reading.exact.as_ref(), parsed.query)
            && let Readiness::Waits =
                hand_over_elsewhere(server, lending, at, outgoing, &self.tenant)
        {
            return Pass::Waits;
        }
        if !was_open
            && (sets_locally || effects.intersects(UNSETTLING))
            && let Readiness::Waits = ready_before(server, lending, at, outgoing, &self.tenant)
        {
            return Pass::Waits;
        }
        let executes = matches!(reading.exact, Some(Exact::Execute(_)))
            || names_statements(&reading, parsed.query);
        if !was_open
            && lending.has_outdated()
            && changes_role(effects, parsed.query)
            && let Readiness::Waits = ready_before_role(server, lending, at, outgoing, &self.tenant)
        {
            return Pass::Waits;
        }
        if let Readiness::Waits = ready_shown(
            server,
            lending,
            (effects, was_open),
            at,
            outgoing,
            &self.tenant,
        ) {
            return Pass::Waits;
        }
        // While nothing is between, all of them can be made.
        let discards = !was_open && discards_plans(&reading, parsed.query);
        if (executes || discards)
            && lending.mode == PoolMode::Auto
            && lending.prepared.has_names()
            && server.status != TransactionStatus::Failed
        {
            if !server.queue.has_none() {
                return Pass::Waits;
            }
            let naming = Naming {
                text: parsed.query,
                unsaid: &[],
                takes_away: discards || lending.prepared.has_changing(),
                is_between: was_open,
            };
            hand_over_names(server, lending, &naming, at, outgoing, &self.tenant);
        }
        lending.doubt_handed_over(parsed.query);
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
        let fetches = reading.lead == Lead::Fetch;
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
            lending.prepares(name, None);
            lending.prepared.named(name, own, Sent::PARSE);
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
        let is_there = server.statements.uses(statement.number);
        let told = lending.is_told(&self.tenant);
        // PostgreSQL keeps of FETCH that it returned something, and must not be asked for that when the cursor is gone.
        if is_there && statement.is_quiet(told) && !fetches {
            let may_fail = server.status != TransactionStatus::Idle
                || lending.cycle.effects.intersects(Effects::TRANSACTION);
            if may_fail && !server.queue.has_none() {
                return Pass::Waits;
            }
            if server.status == TransactionStatus::Failed && !is_way_out {
                // Refused, whatever its name.
                lending.prepared.named(name, statement, Sent::No);
                server.queue.sent_as(Request::Parse, Tags::NOTED);
                return Pass::On;
            }
            lending.prepared.named(name, statement, Sent::No);
            server.queue.answer(Now::ParseComplete, Tags::NOTED);
            return Pass::Answered;
        }
        let end = at + HEADER + head.body;
        let out = outgoing.before(at);
        if is_there {
            // Once more, for what the server says beside it.
            build::close(Kind::Statement, &statement.name, out);
            server.queue.sent_as(Request::Close, Tags::OURS);
            server.statements.is_made_anew(statement.number);
        } else {
            close_first(&statement.name, server, out);
        }
        // One that lives here alone must stay, however long it is not used.
        if !is_there && !statement.is_private {
            let all = &self.tenant.statements;
            server.statements.add(statement.number, all);
        }
        write_parse(&statement.name, behind_name, out);
        outgoing.leave_out(end);
        let sent = Sent::Parse {
            told,
            is_anew: is_there,
        };
        lending.prepared.named(name, statement, sent);
        server.queue.sent_as(Request::Parse, Tags::NOTED);
        Pass::On
    }
}

/// Whether SQL gives a statement a name of which it is still open what it means.
pub(super) fn is_name_pending(exact: Option<&Exact>, lending: &Lending) -> bool {
    match exact {
        Some(Exact::Prepare(name)) => {
            let name = prepared::name(name.as_bytes());
            lending.prepared.is_pending(name, None)
        }
        _ => false,
    }
}
