//! Statements that PostgreSQL analyses anew when they are used, and under which settings.
//!
//! Owns: whether it has a reason to, as far as a session can tell, and what changes that. Does not own: how they are made
//! as they were (`relay::anew`).

use std::rc::Rc;

use model::route::PoolMode;
use statement::{Effects, Exact};

use super::Lending;
use crate::{
    pins::Pin, pool::Tenant, state::is_part_of_constants, statements::Statement, words::mentions,
};

impl Lending {
    /// A named statement is used.
    #[inline]
    pub(crate) fn uses(&mut self, name: &[u8], tenant: &Tenant) {
        if !self.prepared.heeds_uses() {
            return;
        }
        if self.has_own_names || self.is_settled(tenant) {
            self.prepared
                .read_anew(name, &tenant.statements, &self.wanted);
        } else {
            self.prepared.used_unsettled(name);
        }
    }

    /// Whether something was prepared before there were temporary objects and not used since.
    #[inline]
    pub(crate) fn has_outdated(&self) -> bool {
        let may_have = Effects::TEMP.with(Effects::RUNS);
        self.prepared.has_before_temporary()
            && (self.prepared.has_had_temporary()
                || self.found.contains(Pin::Temporary)
                || (self.effects | self.cycle.effects).intersects(may_have))
    }

    /// Whether PostgreSQL has a reason to analyse a statement anew when it is used now, and its constants under the
    /// settings of now: another `search_path`, or a role that may not see all of it.
    #[inline]
    pub(crate) fn changes(&self, statement: &Statement) -> bool {
        const PATH: &str = "search_path";
        let (own, wanted) = (&statement.parsing, self.wanted.parsing());
        !Rc::ptr_eq(own, wanted) && own.get(PATH) != wanted.get(PATH)
            || self.cycle.moves_path
            || self.may_be_another()
    }

    /// A statement is used where PostgreSQL has a reason to analyse it anew. Its constants are as they were read then
    /// until the next reason: where they were read alike before, it can be made so anywhere, as long as the session
    /// reads constants like that ([`Self::keeps_constants`]); otherwise, on this server connection alone.
    #[cold]
    pub(crate) fn uses_elsewhere(&mut self, name: &[u8], statement: &Statement) {
        if self.mode != PoolMode::Auto || self.has_own_names || !statement.has_constants() {
            return;
        }
        let own = &statement.parsing;
        if !self.cycle.moves_constants && own.reads_constants_as(self.wanted.parsing()) {
            self.prepared.used_elsewhere(name);
        } else {
            self.sticky.add(Pin::Statement);
        }
    }

    /// Whether a text behind which constants may be read otherwise takes away what is known of those of its statements.
    #[inline]
    pub(crate) fn keeps_constants(
        &self,
        effects: Effects,
        exact: Option<&Exact>,
        text: &[u8],
    ) -> bool {
        self.prepared.has_elsewhere() && moves_constants(effects, exact, text)
    }

    /// Whether PostgreSQL analyses one anew when it is used next, since there are temporary objects by now, and reads its
    /// constants otherwise than when it was prepared.
    #[inline]
    pub(crate) fn is_outdated(&self, name: &[u8]) -> bool {
        self.has_outdated() && self.is_read_otherwise(name)
    }

    #[cold]
    fn is_read_otherwise(&self, name: &[u8]) -> bool {
        self.mode == PoolMode::Auto
            && self.prepared.is_before_temporary(name)
            && self.prepared.get(name).is_some_and(|own| {
                let wanted = self.wanted.parsing();
                own.has_constants() && !own.parsing.reads_constants_as(wanted)
            })
    }

    /// A text that changes settings is about to run: takes note of what may be otherwise behind it.
    pub(crate) fn moves(&mut self, effects: Effects, exact: Option<&Exact>, text: &[u8]) {
        self.cycle.moves_path |= moves_path(effects, text) && !self.stays_on_path(exact);
        self.cycle.moves_constants |= moves_constants(effects, exact, text);
    }

    /// Whether it leads to the `search_path` that is in force. PostgreSQL then analyses nothing anew.
    fn stays_on_path(&self, exact: Option<&Exact>) -> bool {
        const PATH: &str = "search_path";
        let now = self.wanted.get(PATH);
        match exact {
            Some(Exact::Set(list)) => {
                let mut others = list.iter().filter(|(name, _)| name == PATH);
                others.all(|(_, value)| now == Some(value))
            }
            Some(Exact::Reset(name) | Exact::ResetLocal(name)) => {
                name != PATH || now == self.base.get(PATH)
            }
            _ => false,
        }
    }

    /// The client sends a text that may make temporary objects, if this says so.
    #[inline]
    pub(crate) fn may_meet_temporary(&mut self, effects: Effects, text: &[u8]) {
        let may_make = Effects::TEMP.with(Effects::RUNS);
        if self.mode == PoolMode::Auto && effects.intersects(may_make) {
            self.meets_temporary(text);
        }
    }

    #[cold]
    fn meets_temporary(&mut self, text: &[u8]) {
        let says_so = |text: &[u8]| mentions(text, b"temp");
        let path = self.wanted.get("search_path").unwrap_or_default();
        if says_so(text) || says_so(path.as_bytes()) {
            self.may_have_made_temporary = true;
            self.cycle.meets_temporary |= self.prepared.meets_temporary();
        }
    }
}

/// Whether a text that changes settings may change `search_path`.
fn moves_path(effects: Effects, text: &[u8]) -> bool {
    effects.intersects(Effects::RUNS.with(Effects::UNNAMED))
        || mentions(text, b"search_path")
        || mentions(text, b"schema")
}

/// Whether constants may be read otherwise behind a text that changes settings.
fn moves_constants(effects: Effects, exact: Option<&Exact>, text: &[u8]) -> bool {
    if effects.intersects(Effects::RUNS.with(Effects::UNNAMED)) {
        return true;
    }
    match exact {
        Some(Exact::Set(list)) => list.iter().any(|(name, _)| is_part_of_constants(name)),
        Some(Exact::Reset(name) | Exact::ResetLocal(name)) => is_part_of_constants(name),
        Some(Exact::ResetAll) => true,
        Some(_) => false,
        None => set_name(text).is_none_or(|name| is_part_of_constants(&name)),
    }
}

/// The name in a text that is `SET LOCAL name` or the like, and nothing else.
fn set_name(text: &[u8]) -> Option<String> {
    let text = str::from_utf8(text).ok()?.trim();
    let text = text.strip_suffix(';').unwrap_or(text);
    let ends = |c: char| c.is_ascii_whitespace() || c == '=';
    let mut words = text.split(ends).filter(|word| !word.is_empty());
    let mut next = || words.next().map(str::to_ascii_lowercase);
    if next()? != "set" || text.contains(';') {
        return None;
    }
    match next()?.as_str() {
        "local" | "session" => next(),
        name => Some(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sets_what_has_no_part_in_constants_moves_none() {
        for (text, name) in [
            ("SET LOCAL search_path TO s1", Some("search_path")),
            ("set session App.User='5';", Some("app.user")),
            ("SET timezone=3", Some("timezone")),
            ("SET LOCAL a TO 1; SET LOCAL TimeZone TO 3", None),
            ("SELECT set_config('a.b', '', true)", None),
            ("SET", None),
        ] {
            assert_eq!(set_name(text.as_bytes()).as_deref(), name, "{text}");
        }
        let moves = |text: &str| moves_constants(Effects::SETTINGS, None, text.as_bytes());
        assert!(!moves("SET LOCAL SCHEMA 's1'") && !moves("SET LOCAL app.user TO '5'"));
        assert!(!moves("SET LOCAL statement_timeout = 5") && moves("SET LOCAL TIME ZONE 'UTC'"));
        assert!(moves("DO $$ BEGIN END $$"));
    }
}
