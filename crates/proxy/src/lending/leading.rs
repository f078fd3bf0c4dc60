//! What leads settings back to those that a session began with, and by which names it is run.
//!
//! Owns: names of statements and portals that do so, where that has to be known, and what is said behind them. Does not own: where
//! that goes (`relay`).

use std::rc::Rc;

use model::Literal;
use statement::{Context, Effects, Exact};
use wire::message::TransactionStatus;

use super::{Anew, Later, Lending};
use crate::{
    server::{Parameters, Server, set_role},
    state::{Form, Until},
    words::{has_word, mentions, places},
};

/// Statements prepared by name in mode `session` that lead settings back and are remembered; programs
/// prepare one or none.
const RESETS_MAX: usize = 64;

/// Portals that are open at once and run what is known exactly; programs have one. Of more, the oldest are
/// forgotten, and what they lead back is said when the session is at rest.
const PORTALS_MAX: usize = 64;

/// What leads settings back when it is run, or changes what is prepared.
#[derive(Debug, Default)]
pub(super) struct Leading {
    /// What is prepared, where statements are not kept otherwise.
    prepared: ByName,
    /// What portals run.
    portals: ByName,
}

#[derive(Debug, Default)]
struct ByName(Vec<(Box<[u8]>, Runs)>);

impl ByName {
    fn get(&self, name: &[u8]) -> Option<&Runs> {
        let own = self.0.iter().find(|(own, _)| **own == *name);
        own.map(|(_, runs)| runs)
    }

    /// Adds one whose name is free.
    fn add(&mut self, name: &[u8], runs: Runs) {
        self.0.push((name.into(), runs));
    }

    fn remove(&mut self, name: &[u8]) {
        self.0.retain(|(own, _)| **own != *name);
    }
}

/// What a statement does, where something has to be said because of it.
#[derive(Clone, Debug)]
pub(crate) enum Runs {
    Exactly(Exact),
    /// It may take away what is said by these, which change nothing where it did not.
    Perhaps(Vec<String>),
}

impl Runs {
    /// Whether something has to be said behind it in mode `session`, too.
    pub(crate) fn leads_back(&self) -> bool {
        match self {
            Self::Exactly(exact) => matches!(
                exact,
                Exact::DiscardAll
                    | Exact::ResetAll
                    | Exact::Reset(_)
                    | Exact::ResetLocal(_)
                    | Exact::ResetAuthorization
            ),
            Self::Perhaps(_) => true,
        }
    }
}

impl Lending {
    /// A portal is opened, and runs this.
    #[inline]
    pub(super) fn opens(&mut self, portal: &[u8], runs: Option<Runs>) {
        self.closes(portal);
        if let Some(runs) = runs {
            let portals = &mut self.leading.get_or_insert_default().portals;
            if portals.0.len() >= PORTALS_MAX {
                portals.0.remove(0);
            }
            portals.add(crate::prepared::name(portal), runs);
        }
    }

    /// A portal is closed, or has run what it runs: it can be run once.
    #[inline]
    pub(crate) fn closes(&mut self, portal: &[u8]) {
        if let Some(leading) = &mut self.leading {
            leading.portals.remove(crate::prepared::name(portal));
        }
    }

    /// No transaction is open: no portal is either.
    #[inline]
    pub(crate) fn close_portals(&mut self) {
        if let Some(leading) = &mut self.leading {
            leading.portals.0.clear();
        }
    }

    /// Whether it has to be looked up what a portal runs.
    #[inline]
    pub(crate) fn has_portals(&self) -> bool {
        let leading = self.leading.as_ref();
        leading.is_some_and(|leading| !leading.portals.0.is_empty())
    }

    /// What a portal runs, where something has to be said because of it.
    pub(crate) fn runs(&self, portal: &[u8]) -> Option<Runs> {
        let portals = &self.leading.as_ref()?.portals;
        portals.get(crate::prepared::name(portal)).cloned()
    }

    /// What must be said behind a statement, because it takes away what the session has: its role
    /// in the group, and the settings it began with.
    pub(crate) fn follow_up(
        &self,
        effects: Effects,
        exact: Option<&Exact>,
        text: &[u8],
        server: &Server,
    ) -> Option<Vec<String>> {
        if effects.intersects(Effects::COPY) {
            return None; // What comes behind it would be data.
        }
        let set_role = || set_role(server.login.server.group);
        let base = || self.base.one_by_one().collect();
        match exact {
            Some(Exact::DiscardAll) => Some([vec![set_role()], base()].concat()),
            Some(Exact::ResetAll) if self.base.is_empty() => None,
            Some(
                exact @ (Exact::ResetAll
                | Exact::Reset(_)
                | Exact::ResetLocal(_)
                | Exact::ResetAuthorization),
            ) => {
                let is_alone = server.status == TransactionStatus::Idle && !self.is_open;
                let form = if is_alone { Form::Any } else { Form::NoQuery };
                Some(self.leads_back(exact, server, form))
            }
            _ if effects.contains(Effects::ROLE) && mentions_authorization(text) => {
                // Inside or behind a transaction, and not where a client chose another role, or is
                // somebody else now, who may not take ours.
                Some(vec![role_if_missing(server)])
            }
            // Somewhere in it, nobody knows what was reset.
            None if effects
                .intersects(Effects::SETTINGS.with(Effects::RUNS).with(Effects::CALLS))
                && !self.base.is_empty()
                && mentions_reset(text)
                && mentions_reset_inside(text, server.context) =>
            {
                Some(self.base.if_missing())
            }
            _ => None,
        }
        .filter(|statements: &Vec<String>| !statements.is_empty())
    }

    /// What a name that was handed over does, where something has to be said behind it, or it changes what is prepared.
    pub(crate) fn handed_over(&self, name: &[u8]) -> Option<Exact> {
        match self.reset(name) {
            Some(Runs::Exactly(exact)) => Some(exact.clone()),
            _ => None,
        }
    }

    /// What EXECUTE does: what came by the protocol under that name, or was handed over under it.
    pub(crate) fn executed(&self, exact: Option<&Exact>) -> Option<Exact> {
        let Some(Exact::Execute(name)) = exact else {
            return None;
        };
        let key = crate::prepared::name(name.as_bytes());
        let own = self.prepared.exact(key).cloned();
        own.or_else(|| self.handed_over(key))
    }

    /// What has to be known of a statement that is handed over.
    pub(crate) fn heeds_handed_over(&self, runs: &Runs) -> bool {
        runs.leads_back() || matches!(runs, Runs::Exactly(exact) if self.is_awaited(exact))
    }

    /// Names that were handed over may mean something else behind a text that says PREPARE.
    #[inline]
    pub(crate) fn doubt_handed_over(&mut self, text: &[u8]) {
        if let Some(leading) = &mut self.leading
            && !leading.prepared.0.is_empty()
            && has_word(text, b"prepare")
        {
            leading.prepared.0.clear();
        }
    }

    /// In mode `session`, a statement was prepared; in mode `auto`, its name was handed over.
    pub(crate) fn prepares(&mut self, name: &[u8], runs: Option<Runs>) {
        if let Some(leading) = &mut self.leading {
            leading.prepared.remove(name);
        }
        if let Some(runs) = runs {
            let prepared = &mut self.leading.get_or_insert_default().prepared;
            if prepared.0.len() < RESETS_MAX {
                prepared.add(name, runs);
            }
        }
    }

    /// In mode `session`, whether a name is one of a statement that leads settings back.
    pub(crate) fn is_reset(&self, name: &[u8]) -> bool {
        self.reset(name).is_some()
    }

    fn reset(&self, name: &[u8]) -> Option<&Runs> {
        self.leading.as_ref()?.prepared.get(name)
    }

    /// In mode `session`, a statement is bound.
    #[inline]
    pub(crate) fn binds(&mut self, portal: &[u8], name: &[u8]) {
        let runs = self.reset(name).cloned();
        self.opens(portal, runs);
    }

    /// Whether what is bound has to be looked up.
    #[inline]
    pub(crate) fn has_resets(&self) -> bool {
        let leading = self.leading.as_ref();
        leading
            .is_some_and(|leading| !leading.prepared.0.is_empty() || !leading.portals.0.is_empty())
    }

    /// What must be said behind an Execute of just this: statements, one each, for at once, since more may
    /// be executed before the Sync. What DISCARD ALL takes away waits until it has succeeded ([`Anew`]).
    pub(crate) fn follow_execute(&mut self, exact: &Exact, server: &Server) -> Vec<String> {
        match exact {
            Exact::DiscardAll => {
                let role = std::iter::once(set_role(server.login.server.group));
                self.anew = Anew::Due(role.chain(self.base.one_by_one()).collect());
                Vec::new()
            }
            _ => self.leads_back(exact, server, Form::NoQuery),
        }
    }

    /// Statements that lead from where this has led, on this server connection, to what the session began
    /// with.
    pub(crate) fn leads_back(&self, exact: &Exact, server: &Server, form: Form) -> Vec<String> {
        match exact {
            Exact::ResetAll => self.base.one_by_one_as(form).collect(),
            Exact::Reset(name) => self.base.one(name, Until::SessionEnd, form),
            Exact::ResetLocal(name) => self.base.one(name, Until::TransactionEnd, form),
            Exact::ResetAuthorization => vec![set_role(server.login.server.group)],
            _ => Vec::new(),
        }
    }

    /// Of what leads back, keeps what is a query for later, where a transaction may still become another kind of
    /// transaction. Returns the rest.
    pub(crate) fn puts_off(&mut self, statements: Vec<String>, server: &Server) -> Vec<String> {
        let is_query = |statement: &String| statement.starts_with("SELECT ");
        if server.status != TransactionStatus::InTransaction
            || !statements.iter().any(is_query)
            || !matches!(self.anew, Anew::No)
        {
            return statements;
        }
        let (queries, others) = statements.into_iter().partition(is_query);
        self.anew = Anew::Later(Box::new(Later {
            queries,
            statement: None,
            portal: None,
        }));
        others
    }

    /// What the client is told in the meantime: as if it had been said.
    #[cold]
    pub(crate) fn tell_ahead(&mut self, now: &Parameters, out: &mut Vec<u8>) {
        const PATH: &str = "search_path";
        let mut now = now.clone();
        let path = now.iter_mut().find(|(name, _)| **name == *PATH.as_bytes());
        if let (Some((_, value)), Some(own)) = (path, self.base.get(PATH)) {
            *value = own.as_bytes().into();
        }
        self.tell(&Rc::new(now), out);
    }

    /// To be said behind the next Sync, beside what is already.
    pub(crate) fn say_behind_sync(&mut self, statements: Vec<String>) {
        let all = self.follow.get_or_insert_default();
        for statement in statements {
            if !all.contains(&statement) {
                all.push(statement);
            }
        }
    }

    /// DISCARD ALL, by an Execute, has done what it does.
    pub(crate) fn is_discarded(&mut self) {
        if let Some(leading) = &mut self.leading {
            // The unnamed one stays.
            leading.prepared.0.retain(|(name, _)| name.is_empty());
        }
        self.close_portals();
    }
}

/// Whether a text may lead settings back to what a server connection logged in with.
pub(crate) fn mentions_reset(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 3] = [b"reset", b"default", b"discard"];
    WORDS.iter().any(|word| mentions(text, word))
        // Of a time zone. That of SET LOCAL leads back to what the session has.
        || places(text, b"local").any(|at| !is_behind_set(&text[..at]))
        // SET NAMES of nothing.
        || places(text, b"names").any(|at| {
            let behind = text[at + b"names".len()..].trim_ascii_start();
            matches!(behind.first(), None | Some(b';' | b'-' | b'/'))
        })
}

/// The same of its statements, without what stands around them: a comment resets nothing.
#[cold]
fn mentions_reset_inside(text: &[u8], context: Context) -> bool {
    statement::split(text, context)
        .is_none_or(|own| own.into_iter().any(|place| mentions_reset(&text[place])))
}

/// Whether a text ends with the word SET and blanks.
fn is_behind_set(text: &[u8]) -> bool {
    let word = text.trim_ascii_end();
    let Some(before) = word.len().checked_sub(3) else {
        return false;
    };
    word.len() < text.len()
        && word[before..].eq_ignore_ascii_case(b"set")
        && word[..before]
            .last()
            .is_none_or(|byte| byte.is_ascii_whitespace() || *byte == b';')
}

/// Its role in the group, if the session has none.
fn role_if_missing(server: &Server) -> String {
    let login = &server.login.server;
    format!(
        "SELECT pg_catalog.set_config('role', '{}', false) WHERE \
         pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) 'none' \
         AND session_user OPERATOR(pg_catalog.=) {}",
        login.group.as_str(),
        Literal(&login.user)
    )
}

/// Whether a text may say SESSION AUTHORIZATION, other than to have it shown.
pub(crate) fn mentions_authorization(text: &[u8]) -> bool {
    places(text, b"authorization").any(|at| !is_shown(&text[..at]))
}

/// Whether what comes before the word is `SHOW SESSION`.
fn is_shown(before: &[u8]) -> bool {
    let mut words = before
        .rsplit(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let mut is_next = |own: &[u8]| {
        words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case(own))
    };
    before.last().is_some_and(u8::is_ascii_whitespace) && is_next(b"session") && is_next(b"show")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_for_a_transaction_resets_nothing() {
        for (text, mentions) in [
            ("SET LOCAL IntervalStyle TO iso_8601", false),
            ("begin;set\n local a = 1", false),
            ("SET LOCAL a = 1; SET TIME ZONE LOCAL", true),
            ("SET LOCAL TIME ZONE LOCAL", true),
            ("SET LOCAL a TO DEFAULT", true),
            ("SELECT offset local", true),
            ("SELECT 'set', local", true),
            ("SET/**/LOCAL a = 1", true),
            ("setlocal", true),
            ("LOCAL", true),
            ("Discard plans", true),
            ("set names; SELECT 1", true),
            ("SET NAMES -- none", true),
            ("SET NAMES 'UTF8'; SELECT 1", false),
            ("SELECT names, 1", false),
            ("SELECT 1", false),
        ] {
            assert_eq!(mentions_reset(text.as_bytes()), mentions, "{text}");
        }
    }

    #[test]
    fn showing_who_one_is_mentions_nothing() {
        for (text, mentions) in [
            ("SHOW SESSION AUTHORIZATION", false),
            ("set role none; show  session\nauthorization", false),
            ("SET SESSION AUTHORIZATION DEFAULT", true),
            (
                "SHOW SESSION AUTHORIZATION; RESET SESSION AUTHORIZATION",
                true,
            ),
            ("RESET/**/SESSION/**/AUTHORIZATION", true),
            ("SHOW/**/SESSION AUTHORIZATION", true),
            ("SELECT 1", false),
        ] {
            assert_eq!(mentions_authorization(text.as_bytes()), mentions, "{text}");
        }
    }
}
