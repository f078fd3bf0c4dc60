//! `GET /customer/databases/{database}/explain/{statement}`: how PostgreSQL would carry out a statement that ran.
//!
//! Owns: which statements can be explained, and with which words PostgreSQL is asked. Does not own: the
//! statements and their ids (`proxy`), or the way to the database (`sql`).
//!
//! Nothing is carried out: there is no ANALYZE, the plan is the one for any values, the transaction may only
//! read, and the role is the one that may only read.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use model::insight::Question;

use super::http::SAMPLES_MAX;
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{DatabaseKey, StatementKey},
    },
    sql::{self, http::SqlResult},
    tenant::http::read,
};

/// Parameters of one statement. A list of constants is one of them.
const PARAMETERS_MAX: usize = 1_000;

/// How PostgreSQL would carry out a statement of `samples`, by its `id`: EXPLAIN without ANALYZE, for any values
/// of its constants and parameters, with the names that a new session finds. Asked as the role that may only
/// read, which is refused the plans of statements that write. Rows of one column, `QUERY PLAN`.
#[utoipa::path(get, path = "/customer/databases/{database}/explain/{statement}", tag = "insight",
    security(("bearer" = [])), operation_id = "explain",
    params(("database" = String, Path, description = "id or name"),
        ("statement" = String, Path, description = "id of a statement, as observability shows it")),
    responses((status = 200, body = SqlResult), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 429, body = ErrorBody), (status = 502, body = ErrorBody),
        (status = 504, body = ErrorBody)))]
pub(crate) async fn explain(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    StatementKey(id): StatementKey,
) -> ApiResult<Response> {
    let tenant = read(&app, &principal, &key).await?;
    let detail = app.insight.ask(|reply| Question::One {
        tenant: tenant.id.clone(),
        statements_max: SAMPLES_MAX,
        reply,
    });
    let known = detail.await.flatten().map(|detail| detail.statements);
    let mut known = known.unwrap_or_default().into_iter();
    let found = known.find(|own| Some(own.id) == id);
    let text = found.ok_or(ErrorCode::StatementNotFound)?.text;
    let [prepare, explain] = words(&text).map_err(|why| {
        ApiError::with(ErrorCode::InvalidField, why).hint(
            "what can be explained is one whole SELECT, INSERT, UPDATE, DELETE, MERGE or VALUES",
        )
    })?;
    let statements = [
        "SET LOCAL plan_cache_mode = force_generic_plan",
        &prepare,
        &explain,
    ];
    sql::http::look(&app, &tenant, &statements).await
}

/// What PostgreSQL is asked, from the shape of a statement. That it is one, and of a kind that has a plan, is
/// for PostgreSQL to see: whatever it is, PREPARE does not carry it out.
fn words(text: &str) -> Result<[String; 2], &'static str> {
    if text.contains('…') {
        return Err(
            "the statement is kept in part only: it is too long, or PostgreSQL never understood it",
        );
    }
    let first = text.split(|c: char| !c.is_ascii_alphabetic()).next();
    let first = first.unwrap_or_default().to_ascii_uppercase();
    if !matches!(
        &*first,
        "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "VALUES" | "WITH" | ""
    ) {
        return Err("the statement is of a kind that has no plan");
    }
    let count = parameters(text);
    if count > PARAMETERS_MAX {
        return Err("the statement has more than 1,000 parameters");
    }
    let values = match count {
        0 => String::new(),
        _ => format!("({})", vec!["NULL"; count].join(", ")),
    };
    Ok([
        format!("PREPARE tenantry_explain AS {text}"),
        format!("EXPLAIN EXECUTE tenantry_explain{values}"),
    ])
}

/// The highest `$n` of a shape, which has no constants and no comments with a `$`: only names may hold one.
fn parameters(text: &str) -> usize {
    let (mut highest, mut is_quoted, mut is_name) = (0, false, false);
    for (at, c) in text.char_indices() {
        if c == '"' {
            is_quoted = !is_quoted;
        } else if c == '$' && !is_quoted && !is_name {
            let digits = text[at + 1..].split(|c: char| !c.is_ascii_digit()).next();
            let number = digits.and_then(|digits| digits.parse().ok());
            highest = highest.max(number.unwrap_or(0));
        }
        is_name = c.is_alphanumeric() || c == '_' || c == '$';
    }
    highest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_where_they_are_some() {
        for (text, count) in [
            ("SELECT a FROM t", 0),
            ("SELECT $2, $1", 2),
            ("SELECT a IN ($1 /*, ... */), b=$12", 12),
            ("SELECT \"a$7\", b$8, $1::text", 1),
            ("SELECT \"a\"\"$7\" = $3", 3),
            ("SELECT $", 0),
            ("SELECT $99999999999999999999999", 0),
        ] {
            assert_eq!(parameters(text), count, "{text}");
        }
    }

    #[test]
    fn what_is_no_whole_statement_with_a_plan_is_not_asked() {
        let asked = words("SELECT a FROM t WHERE b = $1 AND c = $2").unwrap();
        assert_eq!(asked[1], "EXPLAIN EXECUTE tenantry_explain(NULL, NULL)");
        assert_eq!(
            words("(SELECT $1)").unwrap()[0],
            "PREPARE tenantry_explain AS (SELECT $1)"
        );
        assert_eq!(
            words("VALUES (a)").unwrap()[1],
            "EXPLAIN EXECUTE tenantry_explain"
        );
        for text in [
            "SELECT …",
            "VACUUM",
            "CREATE TABLE t (a int)",
            "EXPLAIN ANALYZE SELECT 1",
            "BEGIN",
        ] {
            assert!(words(text).is_err(), "{text}");
        }
        assert!(words(&format!("SELECT ${}", PARAMETERS_MAX + 1)).is_err());
    }
}
