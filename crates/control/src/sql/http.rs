//! `POST /customer/databases/{database}/sql`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::extract::State;
use model::{LoginName, Role, lifecycle::TenantState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::UnixStream;
use utoipa::ToSchema;

use super::{
    client::{Bounds, Login, Outcome, ServerError, Session, SqlError},
    value,
};
use crate::{
    api::{
        App,
        auth::{Access, Kind, Principal},
        error::{ApiError, ApiResult, ErrorBody, ErrorCode, chain},
        extract::{DatabaseKey, Json},
    },
    tenant,
};

/// Beyond the statement's own limit: waiting for a server connection and reading the result.
const GRACE: Duration = Duration::from_secs(15);
/// For the proxy to take the stream.
const DOOR_WAIT_MAX: Duration = Duration::from_secs(5);
/// Statements are short in this list of parameters; PostgreSQL's own limit is 65,535.
const PARAMETERS_MAX: usize = 65_535;

/// What to run: `query` or `file_content`, not both.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SqlRequest {
    /// One or more statements; with `params` exactly one.
    query: Option<String>,
    /// A script.
    file_content: Option<String>,
    /// Values for $1, $2, …; objects and arrays are sent as JSON.
    #[schema(value_type = Option<Vec<Object>>)]
    params: Option<Vec<Value>>,
}

/// A column of the result.
#[derive(Serialize, ToSchema)]
pub(crate) struct SqlColumn {
    name: String,
    /// As PostgreSQL calls it.
    #[serde(rename = "type")]
    kind: String,
}

/// The result of the last statement, or why there is none.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct SqlResult {
    columns: Vec<SqlColumn>,
    /// Integers are numbers up to 2^53 − 1 and strings above, `numeric` is a string, `json` stands
    /// as it is, everything else is PostgreSQL's text.
    #[schema(value_type = Vec<Vec<Object>>)]
    rows: Vec<Vec<Value>>,
    /// Rows returned or changed.
    row_count: u64,
    /// `SELECT`, `INSERT`, `CREATE TABLE`, …
    command: String,
    /// PostgreSQL refused; the status of the answer is 200 all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<SqlErrorDetail>,
}

/// PostgreSQL's words.
#[derive(Serialize, ToSchema)]
pub(crate) struct SqlErrorDetail {
    message: String,
    /// SQLSTATE.
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// Character in the statement, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u32>,
}

/// Runs SQL as the role `admin`, or as `read` when the token may only read.
#[utoipa::path(post, path = "/customer/databases/{database}/sql", tag = "databases",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    request_body = SqlRequest,
    responses((status = 200, body = SqlResult), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 422, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 502, body = ErrorBody), (status = 504, body = ErrorBody)))]
pub(crate) async fn run(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
    Json(request): Json<SqlRequest>,
) -> ApiResult<axum::Json<SqlResult>> {
    let statement = Statement::read(request)?;
    let tenant = tenant::http::read(&app, &principal, &key).await?;
    if tenant.state != TenantState::Active {
        return Err(ApiError::with(
            ErrorCode::WrongState,
            format!("database {} is {}", tenant.name, tenant.state),
        )
        .hint("it takes SQL when it is ACTIVE"));
    }
    let role = match principal.kind {
        Kind::Project {
            access: Access::Read,
            ..
        } => Role::Read,
        Kind::Operator
        | Kind::Project {
            access: Access::Full,
            ..
        } => Role::Admin,
    };
    let _permit = app
        .sql_permits
        .try_acquire()
        .map_err(|_| ApiError::from(ErrorCode::TooManyRequests))?;
    let login = LoginName {
        tenant: tenant.id,
        role,
    };
    let limit = app.config.limits.sql_time_max + GRACE;
    let result = tokio::time::timeout(limit, statement.run(&app, &login)).await;
    answer(result.map_err(|_| ApiError::from(ErrorCode::Timeout))?)
}

enum Statement {
    Script(String),
    WithParameters(String, Vec<Option<String>>),
}

impl Statement {
    fn read(request: SqlRequest) -> ApiResult<Self> {
        let invalid = |message: &'static str| ApiError::with(ErrorCode::InvalidField, message);
        let (sql, parameters) = match (request.query, request.file_content, request.params) {
            (Some(_), Some(_), _) => {
                return Err(invalid("query and file_content cannot be given together"));
            }
            (None, None, _) => return Err(invalid("query or file_content is required")),
            (None, Some(_), Some(_)) => return Err(invalid("params go with query only")),
            (None, Some(script), None) => (script, Vec::new()),
            (Some(query), None, parameters) => (query, parameters.unwrap_or_default()),
        };
        if parameters.len() > PARAMETERS_MAX {
            return Err(invalid("params has more than 65535 values"));
        }
        let values: Vec<_> = parameters.iter().map(value::to_text).collect();
        let has_nul = |text: &str| text.contains('\0');
        if has_nul(&sql) || values.iter().flatten().any(|value| has_nul(value)) {
            return Err(invalid("PostgreSQL's text cannot hold the character NUL"));
        }
        Ok(if values.is_empty() {
            Self::Script(sql)
        } else {
            Self::WithParameters(sql, values)
        })
    }

    async fn run(&self, app: &App, login: &LoginName) -> Result<Named, Failed> {
        let mut session = begin(app, login).await?;
        let limits = &app.config.limits;
        let bounds = Bounds {
            rows_max: limits.sql_rows_max,
            bytes_max: limits.sql_result_bytes_max,
        };
        let outcome = match self {
            Self::Script(sql) => session.script(sql, bounds).await,
            Self::WithParameters(sql, values) => session.statement(sql, values, bounds).await,
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            // What is left in the session is not worth reading.
            Err(error) => return Err(Failed::Statement(error)),
        };
        let types = type_names(&mut session, &outcome, bounds).await;
        session.end().await;
        Ok(Named { outcome, types })
    }
}

/// A result, and the names of its types.
struct Named {
    outcome: Outcome,
    types: HashMap<u32, String>,
}

enum Failed {
    /// Before the statement began.
    Begin(SqlError),
    /// In it.
    Statement(SqlError),
    /// We have too many at once.
    Busy,
    /// The proxy does not take the stream.
    NoDoor,
}

async fn begin(app: &App, login: &LoginName) -> Result<Session, Failed> {
    let issue = app
        .one_use
        .issue(&app.keys, login)
        .map_err(|_| Failed::Busy)?;
    let lost = |error| Failed::Begin(SqlError::Lost(error));
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(lost)?;
    ours.set_nonblocking(true).map_err(lost)?;
    theirs.set_nonblocking(true).map_err(lost)?;
    let ours = UnixStream::from_std(ours).map_err(lost)?;
    match tokio::time::timeout(DOOR_WAIT_MAX, app.door.send(theirs)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => return Err(Failed::NoDoor),
    }
    let limit = app.config.limits.sql_time_max.as_millis().to_string();
    let login = Login {
        user: &login.to_string(),
        password: &issue.password,
        settings: &[
            ("application_name", "tenantry sql"),
            ("statement_timeout", &limit),
        ],
    };
    Session::begin(ours, login).await.map_err(Failed::Begin)
}

/// Asks the database for the names of types that it made itself.
async fn type_names(
    session: &mut Session,
    outcome: &Outcome,
    bounds: Bounds,
) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    let mut unknown = Vec::new();
    for column in &outcome.columns {
        match value::type_name(column.oid) {
            Some(name) => drop(names.insert(column.oid, name)),
            None => unknown.push(column.oid.to_string()),
        }
    }
    if unknown.is_empty() {
        return names;
    }
    let sql = format!(
        "SELECT oid, pg_catalog.format_type(oid, NULL) FROM pg_catalog.pg_type WHERE oid IN ({})",
        unknown.join(", ")
    );
    // In a transaction that the statement left open or broken there is no answer; then they have
    // no name.
    if let Ok(found) = session.script(&sql, bounds).await {
        for row in found.rows {
            if let [Value::Number(oid), Value::String(name)] = &row[..]
                && let Some(oid) = oid.as_u64().and_then(|oid| u32::try_from(oid).ok())
            {
                names.insert(oid, name.clone());
            }
        }
    }
    names
}

fn answer(result: Result<Named, Failed>) -> ApiResult<axum::Json<SqlResult>> {
    match result {
        Ok(Named { outcome, types }) => Ok(axum::Json(SqlResult {
            columns: outcome
                .columns
                .into_iter()
                .map(|column| SqlColumn {
                    name: column.name,
                    kind: types
                        .get(&column.oid)
                        .cloned()
                        .unwrap_or_else(|| "unknown".to_owned()),
                })
                .collect(),
            row_count: row_count(&outcome.tag, outcome.rows.len()),
            rows: outcome.rows,
            command: command(&outcome.tag),
            error: None,
        })),
        Err(Failed::Statement(SqlError::Server(error))) => Ok(axum::Json(SqlResult {
            error: Some(detail(*error)),
            ..SqlResult::default()
        })),
        Err(Failed::Statement(SqlError::TooLarge(bound))) => Err(ApiError::with(
            ErrorCode::ResultTooLarge,
            format!(
                "the result has more than {bound}; a statement that changes data may have had its effect"
            ),
        )),
        Err(Failed::Begin(SqlError::Server(error))) => Err(refused_login(&error)),
        Err(Failed::Begin(error) | Failed::Statement(error)) => {
            tracing::warn!(error = %chain(&error), "SQL over HTTP lost its session");
            Err(ErrorCode::DatabaseUnreachable.into())
        }
        Err(Failed::Busy) => Err(ErrorCode::TooManyRequests.into()),
        Err(Failed::NoDoor) => {
            tracing::warn!("the proxy takes no more SQL over HTTP");
            Err(ErrorCode::DatabaseUnreachable.into())
        }
    }
}

fn refused_login(error: &ServerError) -> ApiError {
    match error.code.as_str() {
        // too_many_connections: a budget is used up.
        "53300" => ApiError::with(ErrorCode::TooManyRequests, error.message.clone()),
        // cannot_connect_now: its state changed since we looked.
        "57P03" => ApiError::with(ErrorCode::WrongState, error.message.clone()),
        _ => {
            tracing::warn!(code = error.code, "SQL over HTTP was refused at login");
            ErrorCode::DatabaseUnreachable.into()
        }
    }
}

fn detail(error: ServerError) -> SqlErrorDetail {
    SqlErrorDetail {
        message: error.message,
        code: error.code,
        detail: error.detail,
        hint: error.hint,
        position: error.position,
    }
}

/// `INSERT 0 3` → 3; statements without a count have as many as came back.
fn row_count(tag: &str, rows: usize) -> u64 {
    let last = tag.rsplit(' ').next().and_then(|word| word.parse().ok());
    last.unwrap_or(rows as u64)
}

/// `INSERT 0 3` → `INSERT`
fn command(tag: &str) -> String {
    tag.trim_end_matches(|c: char| c.is_ascii_digit() || c == ' ')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_taken_apart() {
        for (tag, name, count) in [
            ("SELECT 2", "SELECT", 2),
            ("INSERT 0 3", "INSERT", 3),
            ("CREATE TABLE", "CREATE TABLE", 0),
            ("", "", 0),
        ] {
            assert_eq!(
                (command(tag).as_str(), row_count(tag, 0)),
                (name, count),
                "{tag}"
            );
        }
    }

    #[test]
    fn a_request_says_one_thing() {
        let read = |json: &str| Statement::read(serde_json::from_str(json).unwrap()).map(drop);
        assert!(read(r#"{"query": "SELECT 1"}"#).is_ok());
        assert!(read(r#"{"query": "SELECT $1", "params": [1]}"#).is_ok());
        assert!(read(r#"{"file_content": "SELECT 1"}"#).is_ok());
        for wrong in [
            r#"{}"#,
            r#"{"query": "SELECT 1", "file_content": "SELECT 1"}"#,
            r#"{"file_content": "SELECT 1", "params": [1]}"#,
            r#"{"query": "SELECT '\u0000'"}"#,
            r#"{"query": "SELECT $1", "params": ["\u0000"]}"#,
        ] {
            assert_eq!(
                read(wrong).unwrap_err().code,
                ErrorCode::InvalidField,
                "{wrong}"
            );
        }
    }
}
