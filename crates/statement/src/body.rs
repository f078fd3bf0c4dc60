//! What running a function may do, from its entry in `pg_proc`.
//!
//! Owns: which languages and libraries can be judged. Does not own: reading SQL (`scan`).

use crate::{
    Effects,
    scan::{Scan, Source},
};

/// What running the body of a function or procedure may do, as far as its text shows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Body {
    pub effects: Effects,
    /// As [`crate::Reading::custom`].
    pub custom: Vec<String>,
}

/// Libraries of PostgreSQL's own contrib, and of pgvector, whose functions change nothing of a
/// session, apart from those named beside them: they compute, or read what they are shown.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("_int", &[]),
    ("amcheck", &[]),
    ("bloom", &[]),
    ("btree_gin", &[]),
    ("btree_gist", &[]),
    ("citext", &[]),
    ("cube", &[]),
    ("dict_int", &[]),
    ("dict_xsyn", &[]),
    ("fuzzystrmatch", &[]),
    ("hstore", &[]),
    // Whether wrong numbers are accepted, for the rest of the session.
    ("isn", &["accept_weak_input", "weak_input_status"]),
    ("ltree", &[]),
    ("pg_stat_statements", &[]),
    // Sets pg_trgm.similarity_threshold.
    ("pg_trgm", &["set_limit"]),
    ("pgcrypto", &[]),
    ("pgstattuple", &[]),
    ("plpgsql", &[]),
    ("seg", &[]),
    ("tsm_system_rows", &[]),
    ("tsm_system_time", &[]),
    ("unaccent", &[]),
    ("uuid-ossp", &[]),
    ("vector", &[]),
];

/// Reads the body of a function: its language's name, `prosrc` of `pg_proc` (or
/// `pg_get_function_sqlbody(oid)` where `prosqlbody` is not null), and `probin`.
///
/// Expressions that stand beside the body (defaults of arguments) and the parts of an aggregate
/// are not seen here. A body of a language that is not read is [`Effects::UNKNOWN`].
pub fn read_body(language: &str, source: &[u8], library: Option<&str>) -> Body {
    let (effects, custom) = match language {
        "sql" => Scan::body(source, Source::Sql),
        "plpgsql" => Scan::body(source, Source::Plpgsql),
        // What an aggregate and a window function have for a body.
        "internal" if source == b"aggregate_dummy" => (Effects::NONE, Vec::new()),
        "c" if is_harmless_c(source, library) => (Effects::NONE, Vec::new()),
        _ => (Effects::UNKNOWN, Vec::new()),
    };
    Body { effects, custom }
}

/// Whether a function with this body leaves the session as it was, provided that everything it
/// calls and touches does. [`Effects::READS_SEQUENCE`] is no harm of this kind; who cares about
/// it asks [`read_body`].
pub fn body_is_harmless(language: &str, source: &[u8], library: Option<&str>) -> bool {
    let body = read_body(language, source, library);
    !body.effects.intersects(Effects::LASTING)
}

fn is_harmless_c(symbol: &[u8], library: Option<&str>) -> bool {
    let Some(library) = library.and_then(|path| path.strip_prefix("$libdir/")) else {
        return false;
    };
    let library = library.strip_suffix(".so").unwrap_or(library);
    let known = LIBRARIES.iter().find(|(name, _)| *name == library);
    known.is_some_and(|(_, except)| !except.iter().any(|name| name.as_bytes() == symbol))
}

#[cfg(test)]
mod tests;
