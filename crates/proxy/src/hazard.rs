//! Whether what is defined in a tenant's database may change a session unseen.
//!
//! Owns: looking at the functions of a database, and at whatever else could call a function of
//! PostgreSQL's own that changes a session. Does not own: reading a body (`statement`), or when it is
//! looked at again (`pool`).
//!
//! A harmless text can run a view, a trigger, a default or a policy, and these run functions. When
//! none of them does harm, the text is harmless for certain.

use std::{collections::HashSet, fmt::Write as _};

use model::Literal;
use statement::Effects;

use crate::{
    ask,
    server::{ExchangeError, Row, Server},
    words::{mentions, places},
};

/// Functions that are looked at. A database with more is taken for one that may do anything: the
/// look takes some 10 ms per thousand.
const FUNCTIONS_MAX: usize = 5_000;
/// Text of all of them, bytes.
const TEXT_BYTES_MAX: usize = 2 << 20;

/// What definitions of a database may do to a session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Hazard {
    /// Nobody has looked, or something was defined since.
    #[default]
    Unknown,
    /// Nothing.
    None,
    /// Nothing that outlives its transaction, but settings may change inside it.
    InTransaction,
    /// Something.
    Lasting,
}

impl Hazard {
    /// Whether a session that used definitions is as it was before.
    pub(crate) fn is_over_with_transaction(self) -> bool {
        matches!(self, Self::None | Self::InTransaction)
    }
}

/// What definitions may do to a session that the server cannot be asked about: settings of names
/// that nobody knows, seeds, libraries, and whatever other languages keep.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Blind {
    /// Nothing.
    #[default]
    Never,
    /// Only functions of these names do, and only who names them runs them.
    Named(Vec<String>),
    /// Whatever refers to a relation may: a trigger runs them, a default, a view.
    InRelations,
    /// Whatever is evaluated may: an operator runs them, a cast, a domain.
    Anywhere,
}

impl Blind {
    /// What has one of these may run such a function.
    pub(crate) fn effects(&self) -> Effects {
        match self {
            Self::Never | Self::Named(_) => Effects::NONE,
            // A function that is called may refer to a relation.
            Self::InRelations => Effects::TOUCHES.with(Effects::CALLS),
            Self::Anywhere => Effects::UNSEEN,
        }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) hazard: Hazard,
    pub(crate) blind: Blind,
    /// Custom settings that functions name.
    pub(crate) custom: Vec<String>,
    /// Some function reads `currval` or `lastval`.
    pub(crate) reads_sequences: bool,
    /// Something that only reads may advance a sequence.
    pub(crate) reading_writes: bool,
}

impl Findings {
    fn nothing_known() -> Self {
        Self {
            hazard: Hazard::Lasting,
            blind: Blind::Anywhere,
            reading_writes: true,
            ..Self::default()
        }
    }
}

/// A function of the tenant's.
struct Function {
    number: String,
    name: String,
    source: Vec<u8>,
    /// Runs by a trigger.
    is_trigger: bool,
    /// Runs without being named, as `row.function`, or in the place of one of PostgreSQL's own.
    is_everywhere: bool,
}

/// Looks.
///
/// # Errors
///
/// [`ExchangeError::Broken`]; what the server says no to is [`Hazard::Lasting`].
pub(crate) async fn look(server: &mut Server) -> Result<Findings, ExchangeError> {
    let found = match rows(server, &sql(), FUNCTIONS_MAX + 1).await {
        Ok(rows) => rows,
        Err(error) => return refused(server, error).await,
    };
    let mut findings = Findings {
        hazard: Hazard::None,
        ..Findings::default()
    };
    let mut functions = Vec::new();
    let mut blind = HashSet::new();
    // What calls such functions of PostgreSQL's own, and is no function itself.
    let mut own = Blind::Never;
    let mut text = 0;
    for row in &found {
        let column = |at: usize| row.get(at).and_then(Option::as_deref);
        let words = |at: usize| column(at).map(String::from_utf8_lossy);
        match (words(0).as_deref(), column(3), column(4)) {
            (Some("writes"), ..) => findings.reading_writes = true,
            (Some("reads"), ..) => findings.reads_sequences = true,
            (Some("blind"), ..) => {
                findings.hazard = Hazard::Lasting;
                own = match words(1).as_deref() {
                    Some("relations") if own != Blind::Anywhere => Blind::InRelations,
                    _ => Blind::Anywhere,
                };
            }
            (Some(number), Some(language), Some(source)) => {
                text += source.len();
                let language = String::from_utf8_lossy(language);
                let body = statement::read_body(&language, source, words(5).as_deref());
                findings.custom.extend(body.custom);
                let is = |effects| body.effects.intersects(effects);
                findings.reads_sequences |= is(Effects::READS_SEQUENCE);
                let is_trigger = words(2).is_some_and(|how| how.contains('t'));
                findings.reading_writes |= is(Effects::WRITES.with(Effects::RUNS)) && !is_trigger;
                let name = words(1).unwrap_or_default().into_owned();
                if is(BLIND) {
                    blind.insert(functions.len());
                }
                functions.push(Function {
                    number: number.to_owned(),
                    is_trigger,
                    is_everywhere: words(2).is_none_or(|how| how.contains('c'))
                        || statement::is_catalog_function(&name),
                    name,
                    source: source.to_vec(),
                });
                if is(Effects::LASTING) || text > TEXT_BYTES_MAX {
                    findings.hazard = Hazard::Lasting;
                } else if findings.hazard == Hazard::None && may_set_locally(source) {
                    findings.hazard = Hazard::InTransaction;
                }
            }
            _ => findings.hazard = Hazard::Lasting,
        }
    }
    findings.blind = if text > TEXT_BYTES_MAX {
        Blind::Anywhere
    } else {
        match reach(&functions, blind) {
            Blind::Named(names) => {
                let reached = |function: &&Function| names.contains(&function.name);
                let numbers: Vec<_> = functions.iter().filter(reached).collect();
                match rows(server, &uses(&numbers), 1).await {
                    Ok(rows) => match rows.first().and_then(|row| row.first()) {
                        Some(Some(found)) if found == b"none" => Blind::Named(names),
                        Some(Some(found)) if found == b"relations" => Blind::InRelations,
                        _ => Blind::Anywhere,
                    },
                    Err(error) => return refused(server, error).await,
                }
            }
            reach => reach,
        }
    };
    findings.blind = match (own, findings.blind) {
        (Blind::Anywhere, _) | (_, Blind::Anywhere) => Blind::Anywhere,
        (Blind::InRelations, _) => Blind::InRelations,
        (_, functions) => functions,
    };
    Ok(findings)
}

/// What the server cannot be asked about.
const BLIND: Effects = Effects::UNNAMED.with(Effects::SEED).with(Effects::LOAD);

/// Who may run one of these functions: whoever names it, or a function that does.
fn reach(functions: &[Function], mut blind: HashSet<usize>) -> Blind {
    let mut new: Vec<_> = blind.iter().copied().collect();
    while let Some(callee) = new.pop() {
        let name = functions[callee].name.as_bytes();
        for (at, function) in functions.iter().enumerate() {
            if !blind.contains(&at) && mentions(&function.source, name) {
                blind.insert(at);
                new.push(at);
            }
        }
    }
    let reached = || blind.iter().map(|at| &functions[*at]);
    if blind.is_empty() {
        Blind::Never
    } else if reached().any(|function| function.is_everywhere) {
        Blind::Anywhere
    } else {
        Blind::Named(blind.iter().map(|at| functions[*at].name.clone()).collect())
    }
}

/// Nothing is known, unless the connection is broken.
async fn refused(server: &mut Server, error: ExchangeError) -> Result<Findings, ExchangeError> {
    let ExchangeError::Said(said) = error else {
        return Err(error);
    };
    tracing::debug!(
        code = said.code,
        "the definitions of a database cannot be judged"
    );
    ask::end_transaction(server).await?;
    Ok(Findings::nothing_known())
}

/// Runs a query in a transaction of its own, whatever the settings of the session are.
async fn rows(
    server: &mut Server,
    query: &str,
    rows_max: usize,
) -> Result<Vec<Row>, ExchangeError> {
    let queries = [ask::BEGIN, &ask::planning(), query, "COMMIT"];
    let mut rows = server.rows(&queries, rows_max + 1).await?;
    rows.remove(0);
    Ok(rows)
}

/// Whether a text may change settings that decide how statements are parsed until the end of its
/// transaction: it says `set_config` or `SET LOCAL`, and not a name with a dot behind it.
pub(crate) fn may_set_locally(text: &[u8]) -> bool {
    const SET_CONFIG: &[u8] = b"set_config";
    const LOCAL: &[u8] = b"local";
    let behind = |at: usize, word: &[u8]| &text[at + word.len()..];
    places(text, SET_CONFIG).any(|at| {
        let name = behind(at, SET_CONFIG).trim_ascii_start().strip_prefix(b"(");
        let name = name.and_then(|rest| rest.trim_ascii_start().strip_prefix(b"'"));
        !name.is_some_and(is_custom)
    }) || places(text, LOCAL).any(|at| {
        let rest = behind(at, LOCAL);
        // What stands before it may be a comment, so it is not looked at.
        let follows = rest
            .first()
            .is_some_and(|byte| byte.is_ascii_whitespace() || *byte == b'/');
        follows && !is_custom(rest.trim_ascii_start())
    })
}

/// Whether a text may name this function.
pub(crate) fn says(text: &[u8], name: &str) -> bool {
    // Escapes can stand for any name.
    mentions(text, name.as_bytes()) || mentions(text, b"u&\"")
}

/// Whether a text begins with a name that has a dot in it.
fn is_custom(text: &[u8]) -> bool {
    let end = text
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'));
    end.is_some_and(|end| end > 0 && text[end] == b'.')
}

/// A row for each function: number, name, how it runs without being named, language, body, library. A
/// row of nulls where something else calls a function of PostgreSQL's own that changes a session;
/// one that says `writes` where what reads may advance a sequence.
///
/// Functions of event triggers are left out: they run when something is defined, and then the text
/// says so.
fn sql() -> String {
    let list = |which: &dyn Fn(&str) -> bool| {
        let names = statement::lasting_functions().filter(|name| which(name));
        let names: Vec<_> = names.map(|name| Literal(name).to_string()).collect();
        names.join(",")
    };
    let reads = |name: &str| matches!(name, "currval" | "lastval");
    // Locks can be asked for, and so can numbers not be told to others.
    let is_blind = |name: &str| !reads(name) && !name.contains("advisory");
    let (names, blind) = (list(&|_| true), list(&is_blind));
    let pattern = |functions: &str| {
        format!(
            "(SELECT ':(funcid|opfuncid) (' || string_agg(oid::text, '|') || ') ' \
             FROM pg_proc WHERE oid < 16384 AND proname = ANY (ARRAY[{functions}]::name[]))"
        )
    };
    let mut sql = format!(
        "WITH own AS MATERIALIZED (SELECT oid, proname FROM pg_proc \
             WHERE oid < 16384 AND proname = ANY (ARRAY[{names}]::name[])), \
         calls AS MATERIALIZED (SELECT {} AS tree), \
         blind AS MATERIALIZED (SELECT {} AS tree), \
         reads AS MATERIALIZED (SELECT {} AS tree), \
         writes AS MATERIALIZED (SELECT {} AS tree) \
         SELECT p.oid::text, p.proname::text, \
             CASE WHEN p.prorettype = 'trigger'::regtype THEN 't' \
                  WHEN EXISTS (SELECT FROM pg_type y WHERE y.oid = ANY (p.proargtypes) \
                      AND (y.typtype = 'c' OR y.oid = 'record'::regtype)) THEN 'c' ELSE '' END, \
             l.lanname::text, CASE WHEN p.prosqlbody IS NULL THEN p.prosrc \
             ELSE pg_get_function_sqlbody(p.oid) END, p.probin \
         FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang \
         WHERE p.oid >= 16384 AND p.prorettype <> 'event_trigger'::regtype",
        pattern(&names),
        pattern(&blind),
        pattern(&list(&reads)),
        pattern("'nextval','setval'"),
    );
    for (table, those, tree) in TREES {
        let _ = write!(
            sql,
            " UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL FROM calls WHERE EXISTS \
              (SELECT FROM {table} WHERE {those} AND {tree} ~ calls.tree)"
        );
        let who = match table {
            "pg_type" | "pg_proc" => "everything",
            _ => "relations",
        };
        let _ = write!(
            sql,
            " UNION ALL SELECT 'blind', '{who}', NULL, NULL, NULL, NULL FROM blind WHERE EXISTS \
              (SELECT FROM {table} WHERE {those} AND {tree} ~ blind.tree) \
              UNION ALL SELECT 'reads', NULL, NULL, NULL, NULL, NULL FROM reads WHERE EXISTS \
              (SELECT FROM {table} WHERE {those} AND {tree} ~ reads.tree)"
        );
    }
    sql.push_str(
        " UNION ALL SELECT 'blind', 'everything', NULL, NULL, NULL, NULL FROM blind WHERE EXISTS \
          (SELECT FROM pg_constraint WHERE contypid <> 0 AND oid >= 16384 AND conbin::text ~ blind.tree)",
    );
    // A view of the settings can be updated, which sets them.
    sql.push_str(
        " UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL WHERE EXISTS (SELECT FROM pg_rewrite \
          WHERE ev_class >= 16384 AND ev_action::text ~ \
          (':relid (' || 'pg_settings'::regclass::oid || '|' || 'pg_config'::regclass::oid || ') '))",
    );
    for tree in [
        "pg_rewrite|ev_class >= 16384|ev_action",
        "pg_policy|true|polqual",
    ] {
        let mut parts = tree.split('|');
        let mut part = || parts.next().unwrap_or_default();
        let (table, those, tree) = (part(), part(), part());
        let _ = write!(
            sql,
            " UNION ALL SELECT 'writes', NULL, NULL, NULL, NULL, NULL FROM writes WHERE EXISTS \
              (SELECT FROM {table} WHERE {those} AND {tree}::text ~ writes.tree)"
        );
    }
    for (table, those, function) in CALLERS {
        let _ = write!(
            sql,
            " UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL WHERE EXISTS \
              (SELECT FROM {table} WHERE {those} AND {function} IN (SELECT oid FROM own)) \
              UNION ALL SELECT 'blind', 'everything', NULL, NULL, NULL, NULL WHERE EXISTS \
              (SELECT FROM {table} WHERE {those} AND {function} IN (SELECT oid FROM own \
                  WHERE proname = ANY (ARRAY[{blind}]::name[])))"
        );
    }
    sql
}

/// One row that says who runs one of these functions without naming it: `everything`, `relations`, or
/// `none`.
fn uses(functions: &[&Function]) -> String {
    let numbers: Vec<_> = functions.iter().map(|own| own.number.as_str()).collect();
    let (any, list) = (numbers.join("|"), numbers.join(","));
    let (mut relations, mut everything) = (String::from("false"), String::from("false"));
    if functions.iter().any(|function| function.is_trigger) {
        relations.push_str(" OR true");
    }
    for (table, those, tree) in TREES {
        let there = match table {
            "pg_type" | "pg_proc" => &mut everything,
            _ => &mut relations,
        };
        let _ = write!(
            there,
            " OR EXISTS (SELECT FROM {table} WHERE {those} AND {tree} ~ ':(funcid|opfuncid) ({any}) ')"
        );
    }
    let _ = write!(
        everything,
        " OR EXISTS (SELECT FROM pg_constraint WHERE contypid <> 0 AND oid >= 16384 \
          AND conbin::text ~ ':(funcid|opfuncid) ({any}) ')"
    );
    for (table, those, function) in CALLERS {
        let there = match table {
            "pg_trigger" | "pg_amproc" => &mut relations,
            _ => &mut everything,
        };
        let _ = write!(
            there,
            " OR EXISTS (SELECT FROM {table} WHERE {those} AND {function} IN ({list}))"
        );
    }
    format!(
        "SELECT CASE WHEN {everything} THEN 'everything' WHEN {relations} THEN 'relations' \
         ELSE 'none' END"
    )
}

/// Where expressions are kept.
const TREES: [(&str, &str, &str); 13] = [
    ("pg_rewrite", "ev_class >= 16384", "ev_action::text"),
    ("pg_rewrite", "ev_class >= 16384", "ev_qual::text"),
    ("pg_attrdef", "true", "adbin::text"),
    ("pg_constraint", "oid >= 16384", "conbin::text"),
    ("pg_policy", "true", "polqual::text"),
    ("pg_policy", "true", "polwithcheck::text"),
    ("pg_trigger", "true", "tgqual::text"),
    ("pg_index", "indrelid >= 16384", "indexprs::text"),
    ("pg_index", "indrelid >= 16384", "indpred::text"),
    ("pg_partitioned_table", "true", "partexprs::text"),
    ("pg_proc", "oid >= 16384", "proargdefaults::text"),
    ("pg_type", "oid >= 16384", "typdefaultbin::text"),
    ("pg_statistic_ext", "true", "stxexprs::text"),
];

/// What names a function, and runs it.
const CALLERS: [(&str, &str, &str); 13] = [
    ("pg_operator", "oid >= 16384", "oprcode::oid"),
    ("pg_operator", "oid >= 16384", "oprrest::oid"),
    ("pg_operator", "oid >= 16384", "oprjoin::oid"),
    ("pg_cast", "oid >= 16384", "castfunc"),
    ("pg_trigger", "true", "tgfoid"),
    ("pg_aggregate", "aggfnoid >= 16384", "aggtransfn::oid"),
    ("pg_aggregate", "aggfnoid >= 16384", "aggfinalfn::oid"),
    ("pg_aggregate", "aggfnoid >= 16384", "aggmtransfn::oid"),
    ("pg_aggregate", "aggfnoid >= 16384", "aggminvtransfn::oid"),
    ("pg_aggregate", "aggfnoid >= 16384", "aggmfinalfn::oid"),
    ("pg_amproc", "oid >= 16384", "amproc::oid"),
    ("pg_range", "rngtypid >= 16384", "rngsubdiff::oid"),
    ("pg_range", "rngtypid >= 16384", "rngcanonical::oid"),
];
