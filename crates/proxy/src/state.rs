//! The settings of a session as a value.
//!
//! Owns: which settings differ from those a server connection logs in with, as one shared value
//! that two sessions or connections with the same settings have in common; the SQL that leads from
//! one value to another; which settings decide how a statement is parsed. Does not own: how a value
//! comes to be known (`settings`, `lending`, `ask`).

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    fmt::Write as _,
    hash::{Hash, Hasher},
    rc::Rc,
    time::Duration,
};

use model::Literal;

/// Values that nobody uses are forgotten when this many more than the last time are known.
const FORGET_AFTER: usize = 64;
/// Names and values of one session, with what keeping each takes. What is larger stays on its server connection:
/// it is kept in our memory for every session, copied with each SET, and said again with each loan. Programs set
/// some 100 bytes.
const BYTES_MAX: usize = 64 * 1024;
/// What keeping one takes beside its text.
const EACH_BYTES: usize = 64;
/// With a shorter time limit in force, a statement of ours could be ended by it.
const HASTY: Duration = Duration::from_secs(1);

/// Settings by name, in lower case. Equal ones of a tenant are the same value.
#[derive(Debug, Default)]
pub(crate) struct State {
    settings: Box<[Setting]>,
    /// See [`BYTES_MAX`].
    bytes: usize,
    /// Those that decide how a statement is parsed. `None`: all of them do.
    parsing: Option<Rc<State>>,
}

/// Name, in lower case, and value, as `set_config` takes it.
pub(crate) type Setting = (Box<str>, Box<str>);

/// Values of one tenant.
#[derive(Debug)]
pub(crate) struct States {
    known: RefCell<HashSet<Known>>,
    nothing: Rc<State>,
    forget_at: Cell<usize>,
}

#[derive(Debug)]
struct Known(Rc<State>);

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.0.settings == other.0.settings
    }
}

impl Eq for Known {}

impl Hash for Known {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.settings.hash(hasher);
    }
}

impl std::borrow::Borrow<[Setting]> for Known {
    fn borrow(&self) -> &[Setting] {
        &self.0.settings
    }
}

impl Default for States {
    fn default() -> Self {
        let nothing = Rc::new(State {
            settings: Box::default(),
            bytes: 0,
            parsing: None,
        });
        Self {
            known: RefCell::new(HashSet::from([Known(nothing.clone())])),
            nothing,
            forget_at: Cell::new(FORGET_AFTER),
        }
    }
}

impl States {
    /// Nothing set: what a server connection logs in with.
    pub(crate) fn nothing(&self) -> &Rc<State> {
        &self.nothing
    }

    /// The value that holds these settings. The last of a name counts.
    pub(crate) fn of(&self, settings: impl IntoIterator<Item = Setting>) -> Rc<State> {
        let mut list: Vec<Setting> = Vec::new();
        for (name, value) in settings {
            match list.binary_search_by(|(own, _)| own.cmp(&name)) {
                Ok(at) => list[at].1 = value,
                Err(at) => list.insert(at, (name, value)),
            }
        }
        self.intern(list)
    }

    fn intern(&self, list: Vec<Setting>) -> Rc<State> {
        if let Some(known) = self.known.borrow().get(list.as_slice()) {
            return known.0.clone();
        }
        let relevant: Vec<Setting> = list
            .iter()
            .filter(|(name, _)| decides_parsing(name))
            .cloned()
            .collect();
        let parsing = (relevant.len() < list.len()).then(|| self.intern(relevant));
        let state = Rc::new(State {
            bytes: bytes_of(&list),
            settings: list.into(),
            parsing,
        });
        let mut known = self.known.borrow_mut();
        known.insert(Known(state.clone()));
        if known.len() > self.forget_at.get() {
            known.retain(|known| Rc::strong_count(&known.0) > 1);
            self.forget_at.set(known.len() + FORGET_AFTER);
        }
        state
    }

    /// `state` with `name` set to `value`.
    pub(crate) fn with(&self, state: &Rc<State>, name: &str, value: &str) -> Rc<State> {
        if state.get(name) == Some(value) {
            return state.clone();
        }
        let settings = state.settings.iter().cloned();
        self.of(settings.chain([(name.into(), value.into())]))
    }

    /// `state` without `name`.
    pub(crate) fn without(&self, state: &Rc<State>, name: &str) -> Rc<State> {
        if state.get(name).is_none() {
            return state.clone();
        }
        let settings = state.settings.iter();
        self.of(settings.filter(|(own, _)| **own != *name).cloned())
    }
}

fn bytes_of(settings: &[Setting]) -> usize {
    let each = settings.iter();
    each.map(|(name, value)| EACH_BYTES + name.len() + value.len())
        .sum()
}

/// Whether these are more than is kept of one session.
pub(crate) fn are_too_large(settings: &[Setting]) -> bool {
    bytes_of(settings) > BYTES_MAX
}

/// How to get from one value to another: simple queries, in this order.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Change {
    pub(crate) queries: Vec<String>,
    /// Whether one of them could fail, or be ended by a time limit that is in force: then nothing
    /// of a client's is sent before they are answered.
    pub(crate) may_fail: bool,
}

impl State {
    /// What `name` is set to.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let at = self
            .settings
            .binary_search_by(|(own, _)| (**own).cmp(name))
            .ok()?;
        Some(&self.settings[at].1)
    }

    /// All of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    /// Whether another setting can be kept beside these.
    pub(crate) fn has_room_for(&self, name: &str, value: &str) -> bool {
        self.bytes + EACH_BYTES + name.len() + value.len() <= BYTES_MAX
    }

    /// Of these, what decides how a statement is parsed.
    pub(crate) fn parsing(self: &Rc<Self>) -> &Rc<Self> {
        self.parsing.as_ref().unwrap_or(self)
    }

    /// Whether the constants of a text are read alike under both, whichever schemas it finds its names in.
    pub(crate) fn reads_constants_as(&self, other: &Self) -> bool {
        let beside = |state: &Self| {
            let settings = state.settings.iter();
            let has_part = |(name, _): &&Setting| is_part_of_constants(name);
            settings.filter(has_part).cloned().collect::<Vec<_>>()
        };
        std::ptr::eq(self, other) || beside(self) == beside(other)
    }

    /// Whether a text is the same words under both.
    pub(crate) fn reads_texts_as(&self, other: &Self) -> bool {
        let decides = [
            "backslash_quote",
            "client_encoding",
            "standard_conforming_strings",
        ];
        decides.iter().all(|name| self.get(name) == other.get(name))
    }

    /// Whether all values can be said in any encoding.
    pub(crate) fn is_ascii(&self) -> bool {
        self.settings.iter().all(|(_, value)| value.is_ascii())
    }

    /// Statements that set them, each by itself.
    pub(crate) fn one_by_one(&self) -> impl Iterator<Item = String> {
        self.one_by_one_as(Form::Any)
    }

    /// The same, said so.
    pub(crate) fn one_by_one_as(&self, form: Form) -> impl Iterator<Item = String> {
        // It decides how the others are read.
        let is_encoding = |name: &str| name == "client_encoding";
        let others = self
            .settings
            .iter()
            .filter(move |(name, _)| !is_encoding(name));
        let encoding = self
            .settings
            .iter()
            .filter(move |(name, _)| is_encoding(name));
        let all = others.chain(encoding);
        all.flat_map(move |(name, value)| set(name, value, Until::SessionEnd, form))
    }

    /// The same for one of them, if it is among them.
    pub(crate) fn one(&self, name: &str, until: Until, form: Form) -> Vec<String> {
        let value = self.get(name);
        value.map_or_else(Vec::new, |value| set(name, value, until, form))
    }

    /// Statements that set those of them that are not set.
    pub(crate) fn if_missing(&self) -> Vec<String> {
        let (mut known, mut custom) = (String::new(), String::new());
        for (name, value) in &self.settings {
            let list = if name.contains('.') {
                &mut custom
            } else {
                &mut known
            };
            let comma = if list.is_empty() { "" } else { "," };
            let _ = write!(list, "{comma}({},{})", Literal(name), Literal(value));
        }
        let mut statements = Vec::new();
        if !known.is_empty() {
            statements.push(format!(
                "SELECT pg_catalog.set_config(own.n, own.v, false) FROM (VALUES {known}) own(n, v) \
                 JOIN pg_catalog.pg_settings s ON pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) own.n \
                 WHERE s.source OPERATOR(pg_catalog.<>) 'session'"
            ));
        }
        if !custom.is_empty() {
            statements.push(format!(
                "SELECT pg_catalog.set_config(own.n, own.v, false) FROM (VALUES {custom}) own(n, v) \
                 WHERE coalesce(pg_catalog.current_setting(own.n, true), '') OPERATOR(pg_catalog.=) ''"
            ));
        }
        statements
    }

    /// Whether a time limit is in force that a statement of ours might not keep.
    fn is_hasty(&self) -> bool {
        ["statement_timeout", "transaction_timeout"]
            .iter()
            .any(|name| self.get(name).is_some_and(is_hasty))
    }

    /// From a server connection that has these settings to one that has those of `to`.
    pub(crate) fn change(&self, to: &Self) -> Change {
        let mut change = Change {
            may_fail: self.is_hasty(),
            ..Change::default()
        };
        let (mut set, mut lists) = (String::new(), String::new());
        // Before everything else is said, and behind it, since it decides how it is read.
        let encoding = "client_encoding";
        let encodes_anew = self.get(encoding) != to.get(encoding);
        if encodes_anew {
            change.may_fail = true;
            if self.get(encoding).is_some() {
                change.queries.push("RESET client_encoding".to_owned());
            }
        }
        for (name, _) in &self.settings {
            if to.get(name).is_none() && **name != *encoding {
                change.may_fail |= may_fail(name);
                let _ = write!(set, "RESET {};", Name(name));
            }
        }
        let quotes = self.get(QUOTES).is_some() || to.get(QUOTES).is_some();
        for (name, value) in &to.settings {
            if self.get(name) == Some(value) || **name == *encoding {
                continue;
            }
            change.may_fail |= may_fail(name);
            let is_quoted_by_now = **name == *TEXT_SEARCH && (quotes || is_quoted(value));
            if is_quoted_by_now {
                let how = if is_quoted(value) { "on" } else { "off" };
                let _ = write!(set, "SET {} TO {how};", Name(QUOTES));
            }
            let value = Literal(value);
            if is_list_of_names(name) {
                // SET would take the text for one name.
                let _ = write!(
                    lists,
                    "SELECT pg_catalog.set_config('{name}', {value}, false);"
                );
            } else {
                let _ = write!(set, "SET {} TO {value};", Name(name));
            }
            if is_quoted_by_now {
                let _ = match to.get(QUOTES) {
                    Some(wanted) => write!(set, "SET {} TO {};", Name(QUOTES), Literal(wanted)),
                    None => write!(set, "RESET {};", Name(QUOTES)),
                };
            }
        }
        // SET needs no snapshot, so it neither waits for one nor is it affected by what kind of
        // transactions are the default; those it changes are in force for the SELECTs.
        change.queries.extend([set, lists]);
        change.queries.retain(|query| !query.is_empty());
        if let Some(value) = to.get(encoding)
            && encodes_anew
        {
            change
                .queries
                .push(format!("SET client_encoding TO {}", Literal(value)));
        }
        change
    }
}

/// How long a setting is to hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Until {
    SessionEnd,
    TransactionEnd,
}

/// How a setting is said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    Any,
    /// By no query where that is possible: behind one a transaction can no longer become another kind of transaction.
    NoQuery,
}

/// Statements that set one.
fn set(name: &str, value: &str, until: Until, form: Form) -> Vec<String> {
    let is_local = until == Until::TransactionEnd;
    let is_as_written = name != TEXT_SEARCH || is_quoted(value);
    if is_list_of_names(name)
        && form == Form::NoQuery
        && let Some(names) = names_as_set(value)
    {
        let local = if is_local { "LOCAL " } else { "" };
        return vec![format!("SET {local}{} TO {names}", Name(name))];
    }
    let value = Literal(value);
    if is_list_of_names(name) {
        return vec![format!(
            "SELECT pg_catalog.set_config('{name}', {value}, {is_local})"
        )];
    }
    let local = if is_local { "LOCAL " } else { "" };
    let mut statements = vec![format!("SET {local}{} TO {value}", Name(name))];
    if !is_as_written {
        // Once more, where it was just quoted.
        statements.push(format!(
            "SELECT pg_catalog.set_config('{QUOTES}', own.quotes, {is_local}) FROM \
             (SELECT pg_catalog.current_setting('{QUOTES}') quotes, \
             pg_catalog.set_config('{QUOTES}', 'off', {is_local}), \
             pg_catalog.set_config('{name}', {value}, {is_local}) \
             WHERE pg_catalog.current_setting('{QUOTES}') OPERATOR(pg_catalog.=) 'on' OFFSET 0) own"
        ));
    }
    statements
}

/// A setting whose value PostgreSQL writes anew when it is set: with quotes where [`QUOTES`] is on.
pub(crate) const TEXT_SEARCH: &str = "default_text_search_config";
const QUOTES: &str = "quote_all_identifiers";

/// Whether both names in it are quoted, as they are where [`QUOTES`] was on.
fn is_quoted(value: &str) -> bool {
    value.starts_with('"') && value.ends_with('"') && value.contains("\".\"")
}

/// The name of a setting in SQL.
struct Name<'a>(&'a str);

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, part) in self.0.split('.').enumerate() {
            let dot = if i > 0 { "." } else { "" };
            write!(f, "{dot}\"{}\"", part.replace('"', "\"\""))?;
        }
        Ok(())
    }
}

/// A time limit: a number of milliseconds, or one with a unit. What cannot be read is taken for
/// short.
fn is_hasty(value: &str) -> bool {
    let value = value.trim();
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Ok(number) = value[..digits].parse::<u64>() else {
        return true;
    };
    let milliseconds = match value[digits..].trim() {
        "" | "ms" => number,
        "s" => number.saturating_mul(1000),
        "min" => number.saturating_mul(60_000),
        "h" | "d" => return number == 0,
        _ => return true,
    };
    milliseconds != 0 && u128::from(milliseconds) < HASTY.as_millis()
}

/// Settings whose value is a list of names that PostgreSQL quotes one by one (GUC_LIST_QUOTE).
fn is_list_of_names(name: &str) -> bool {
    matches!(
        name,
        "search_path"
            | "temp_tablespaces"
            | "local_preload_libraries"
            | "session_preload_libraries"
    )
}

/// A list of names for SET, where PostgreSQL writes it as it is.
fn names_as_set(list: &str) -> Option<String> {
    let is_plain = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let names = list.split(", ").map(|name| {
        let within = name
            .strip_prefix('"')
            .and_then(|name| name.strip_suffix('"'));
        match within {
            None => is_plain(name).then(|| format!("\"{name}\"")),
            Some(within) => (!within.is_empty() && !within.contains('"') && !is_plain(within))
                .then(|| name.to_owned()),
        }
    });
    let names: Option<Vec<_>> = names.collect();
    Some(names?.join(", "))
}

/// Settings that take a value on every server connection of a login once they took it on one: their
/// checks look at nothing but the value.
fn may_fail(name: &str) -> bool {
    if let Some((module, _)) = name.split_once('.') {
        // Anything goes, but where a loaded module checks its own.
        return module.starts_with("pg")
            || module.starts_with("pl")
            || matches!(module, "auto_explain" | "hnsw" | "ivfflat" | "postgis");
    }
    !(is_beside_parsing(name) || CHECKED_ALONE.contains(&name))
}

const CHECKED_ALONE: [&str; 12] = [
    "array_nulls",
    "backslash_quote",
    "bytea_output",
    "datestyle",
    "escape_string_warning",
    "intervalstyle",
    "search_path",
    "standard_conforming_strings",
    "timezone",
    "transform_null_equals",
    "xmlbinary",
    "xmloption",
];

/// Whether a setting may have a part in how a constant is read: not where names are looked up.
pub(crate) fn is_part_of_constants(name: &str) -> bool {
    decides_parsing(name) && !matches!(name, "search_path" | "role" | "schema")
}

/// Whether a setting has a part in how a statement is parsed.
pub(crate) fn decides_parsing(name: &str) -> bool {
    // No type whose input a tenant can define looks at settings.
    !(name.contains('.') || is_beside_parsing(name))
}

/// Settings that surely have no part in how a statement is read and analysed, and none whose value
/// could be refused later.
fn is_beside_parsing(name: &str) -> bool {
    name.starts_with("enable_")
        || name.starts_with("geqo")
        || name.starts_with("jit_")
        || name.starts_with("cpu_")
        || name.starts_with("vacuum_cost_")
        || name.starts_with("default_transaction_")
        || (name.ends_with("_timeout") && name != "authentication_timeout")
        || matches!(
            name,
            "application_name"
                | "client_min_messages"
                | "constraint_exclusion"
                | "cursor_tuple_fraction"
                | "effective_cache_size"
                | "effective_io_concurrency"
                | "extra_float_digits"
                | "from_collapse_limit"
                | "gin_fuzzy_search_limit"
                | "gin_pending_list_limit"
                | "hash_mem_multiplier"
                | "jit"
                | "join_collapse_limit"
                | "maintenance_work_mem"
                | "max_parallel_maintenance_workers"
                | "max_parallel_workers"
                | "max_parallel_workers_per_gather"
                | "min_parallel_index_scan_size"
                | "min_parallel_table_scan_size"
                | "parallel_leader_participation"
                | "parallel_setup_cost"
                | "parallel_tuple_cost"
                | "plan_cache_mode"
                | "quote_all_identifiers"
                | "random_page_cost"
                | "row_security"
                | "seq_page_cost"
                | "synchronize_seqscans"
                | "synchronous_commit"
                | "tcp_keepalives_count"
                | "tcp_keepalives_idle"
                | "tcp_keepalives_interval"
                | "work_mem"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(states: &States, list: &[(&str, &str)]) -> Rc<State> {
        states.of(list
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn equal_settings_are_one_value() {
        let states = States::default();
        let one = state(&states, &[("b", "1"), ("a", "2"), ("b", "3")]);
        let other = state(&states, &[("a", "2"), ("b", "3")]);
        assert!(Rc::ptr_eq(&one, &other));
        let more = states.with(&one, "c", "4");
        assert!(Rc::ptr_eq(&states.without(&more, "c"), &one));
        assert!(Rc::ptr_eq(&states.with(&one, "a", "2"), &one));
        let empty = states.without(&states.without(&one, "a"), "b");
        assert!(Rc::ptr_eq(&empty, states.nothing()));
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let states = States::default();
        let kept = state(&states, &[("kept", "1")]);
        for i in 0..1000 {
            state(&states, &[("a", &i.to_string())]);
        }
        assert!(states.known.borrow().len() < 300);
        assert!(Rc::ptr_eq(&kept, &state(&states, &[("kept", "1")])));
    }

    #[test]
    fn what_decides_parsing() {
        let states = States::default();
        let settings = [
            ("app.tenant", "5"),
            ("application_name", "x"),
            ("enable_seqscan", "off"),
            ("statement_timeout", "5s"),
            ("work_mem", "1MB"),
        ];
        assert!(Rc::ptr_eq(
            state(&states, &settings).parsing(),
            states.nothing()
        ));
        for name in [
            "timezone",
            "datestyle",
            "intervalstyle",
            "search_path",
            "client_encoding",
            "standard_conforming_strings",
            "xmloption",
            "array_nulls",
            "lc_monetary",
            "default_text_search_config",
        ] {
            let mixed = state(&states, &[(name, "x"), ("work_mem", "1MB")]);
            assert!(Rc::ptr_eq(mixed.parsing(), &state(&states, &[(name, "x")])));
        }
    }

    #[track_caller]
    fn check(from: &[(&str, &str)], to: &[(&str, &str)], queries: &[&str], may_fail: bool) {
        let states = States::default();
        let change = state(&states, from).change(&state(&states, to));
        assert_eq!(change.queries, queries);
        assert_eq!(change.may_fail, may_fail);
    }

    #[test]
    fn only_differences_are_said() {
        check(&[], &[], &[], false);
        check(
            &[("work_mem", "1MB"), ("timezone", "UTC"), ("a.b", "1")],
            &[
                ("work_mem", "1MB"),
                ("timezone", "O'Higgins"),
                ("c.d", r"\"),
            ],
            &[r#"RESET "a"."b";SET "c"."d" TO E'\\';SET "timezone" TO 'O''Higgins';"#],
            false,
        );
        check(
            &[],
            &[("search_path", "\"$user\", public")],
            &["SELECT pg_catalog.set_config('search_path', '\"$user\", public', false);"],
            false,
        );
    }

    #[test]
    fn what_is_quoted_when_it_is_set_was_so_before() {
        let name = TEXT_SEARCH;
        let (plain, quoted) = ("pg_catalog.simple", r#""pg_catalog"."simple""#);
        let (text, all) = (format!("\"{name}\""), format!("\"{QUOTES}\""));
        check(
            &[],
            &[(name, plain)],
            &[&format!("SET {text} TO '{plain}';")],
            true,
        );
        check(
            &[(QUOTES, "on")],
            &[(QUOTES, "on"), (name, plain)],
            &[&format!(
                "SET {all} TO off;SET {text} TO '{plain}';SET {all} TO 'on';"
            )],
            true,
        );
        check(
            &[],
            &[(name, quoted)],
            &[&format!(
                "SET {all} TO on;SET {text} TO '{quoted}';RESET {all};"
            )],
            true,
        );
    }

    #[test]
    fn a_list_of_names_is_set_by_no_query_where_it_stays_as_it_is() {
        for (list, names) in [
            ("s2", Some(r#""s2""#)),
            (r#""$user", public"#, Some(r#""$user", "public""#)),
            (r#"_a1, "B c""#, Some(r#""_a1", "B c""#)),
            ("s1,s2", None),
            ("S1", None),
            ("", None),
            ("s1, ", None),
            (r#""s1""#, None),
            (r#""a""b""#, None),
            (r#""a, b""#, None),
            ("'a'", None),
        ] {
            assert_eq!(names_as_set(list).as_deref(), names, "{list}");
        }
    }

    #[test]
    fn what_may_fail_is_asked_first() {
        for (name, value) in [
            ("default_tablespace", "x"),
            ("role", "x"),
            ("temp_buffers", "1MB"),
            ("plpgsql.extra_errors", "all"),
        ] {
            check(
                &[(name, value)],
                &[],
                &[&format!("RESET {};", Name(name))],
                true,
            );
        }
        // Ours might not be done in time.
        check(
            &[("statement_timeout", "5ms")],
            &[],
            &["RESET \"statement_timeout\";"],
            true,
        );
        for value in ["1ms", "999", "0.5s", "x"] {
            assert!(is_hasty(value), "{value}");
        }
        for value in ["0", "1s", "1000", "5 min", "2h"] {
            assert!(!is_hasty(value), "{value}");
        }
    }

    #[test]
    fn an_encoding_changes_around_everything_else() {
        check(
            &[("client_encoding", "LATIN1")],
            &[("a.b", "ü")],
            &["RESET client_encoding", "SET \"a\".\"b\" TO 'ü';"],
            true,
        );
        check(
            &[("a.b", "x")],
            &[("client_encoding", "SJIS")],
            &["RESET \"a\".\"b\";", "SET client_encoding TO 'SJIS'"],
            true,
        );
    }
}
