//! Whether what is defined in a tenant's database may change a session unseen.
//!
//! Owns: looking at the functions of a database, and at whatever else could call a function of
//! PostgreSQL's own that changes a session. Does not own: reading a body (`statement`), or when it is
//! looked at again (`pool`).
//!
//! A harmless text can run a view, a trigger, a default or a policy, and these run functions. When
//! none of them does harm, the text is harmless for certain.

use std::fmt::Write as _;

use model::Literal;
use statement::Effects;

use crate::server::{ExchangeError, Server};

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

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) hazard: Hazard,
    /// Custom settings that functions name.
    pub(crate) custom: Vec<String>,
    /// Some function reads `currval` or `lastval`.
    pub(crate) reads_sequences: bool,
}

/// Looks.
///
/// # Errors
///
/// [`ExchangeError::Broken`]; what the server says no to is [`Hazard::Lasting`].
pub(crate) async fn look(server: &mut Server) -> Result<Findings, ExchangeError> {
    let rows = match server.rows(&sql(), FUNCTIONS_MAX + 1).await {
        Ok(rows) => rows,
        Err(ExchangeError::Broken) => return Err(ExchangeError::Broken),
        Err(ExchangeError::Said(said)) => {
            tracing::debug!(
                code = said.code,
                "the definitions of a database cannot be judged"
            );
            return Ok(Findings {
                hazard: Hazard::Lasting,
                ..Findings::default()
            });
        }
    };
    let mut findings = Findings {
        hazard: Hazard::None,
        ..Findings::default()
    };
    let mut text = 0;
    for row in &rows {
        let column = |at: usize| row.get(at).and_then(Option::as_deref);
        let (Some(language), Some(source)) = (column(0), column(1)) else {
            findings.hazard = Hazard::Lasting;
            continue;
        };
        text += source.len();
        let language = String::from_utf8_lossy(language);
        let library = column(2).map(String::from_utf8_lossy);
        let body = statement::read_body(&language, source, library.as_deref());
        findings.custom.extend(body.custom);
        findings.reads_sequences |= body.effects.intersects(Effects::READS_SEQUENCE);
        if body.effects.intersects(Effects::LASTING) || text > TEXT_BYTES_MAX {
            findings.hazard = Hazard::Lasting;
        } else if findings.hazard == Hazard::None && may_set_locally(source) {
            findings.hazard = Hazard::InTransaction;
        }
    }
    Ok(findings)
}

/// Whether a text may change settings until the end of its transaction.
pub(crate) fn may_set_locally(text: &[u8]) -> bool {
    [&b"set_config"[..], b"local"].iter().any(|word| {
        text.windows(word.len())
            .any(|piece| piece.eq_ignore_ascii_case(word))
    })
}

/// A row for each function: language, body, library. A row of nulls where something else calls a
/// function of PostgreSQL's own that changes a session.
///
/// Functions of event triggers are left out: they run when something is defined, and then the text
/// says so.
fn sql() -> String {
    let mut names = String::new();
    for name in statement::lasting_functions() {
        let comma = if names.is_empty() { "" } else { "," };
        let _ = write!(names, "{comma}{}", Literal(name));
    }
    let mut sql = format!(
        "WITH own AS MATERIALIZED (SELECT p.oid FROM pg_catalog.pg_proc p \
             WHERE p.oid < 16384 AND p.proname = ANY (ARRAY[{names}]::name[])), \
         calls AS MATERIALIZED (SELECT ':(funcid|opfuncid) (' \
             || pg_catalog.string_agg(oid::text, '|') || ') ' AS tree FROM own) \
         SELECT l.lanname::text, CASE WHEN p.prosqlbody IS NULL THEN p.prosrc \
             ELSE pg_catalog.pg_get_function_sqlbody(p.oid) END, p.probin \
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
         WHERE p.oid >= 16384 AND p.prorettype <> 'pg_catalog.event_trigger'::regtype"
    );
    let trees = [
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
    ];
    for (table, those, tree) in trees {
        let _ = write!(
            sql,
            " UNION ALL SELECT NULL, NULL, NULL FROM calls WHERE EXISTS \
              (SELECT FROM pg_catalog.{table} WHERE {those} AND {tree} ~ calls.tree)"
        );
    }
    let functions = [
        ("pg_operator", "oid >= 16384", "oprcode::oid"),
        ("pg_cast", "oid >= 16384", "castfunc"),
        ("pg_trigger", "true", "tgfoid"),
        ("pg_aggregate", "aggfnoid >= 16384", "aggtransfn::oid"),
        ("pg_aggregate", "aggfnoid >= 16384", "aggfinalfn::oid"),
        ("pg_aggregate", "aggfnoid >= 16384", "aggmtransfn::oid"),
        ("pg_aggregate", "aggfnoid >= 16384", "aggmfinalfn::oid"),
        ("pg_range", "rngtypid >= 16384", "rngsubdiff::oid"),
        ("pg_range", "rngtypid >= 16384", "rngcanonical::oid"),
    ];
    for (table, those, function) in functions {
        let _ = write!(
            sql,
            " UNION ALL SELECT NULL, NULL, NULL WHERE EXISTS \
              (SELECT FROM pg_catalog.{table} WHERE {those} AND {function} IN (SELECT oid FROM own))"
        );
    }
    sql
}
