//! `POST /customer/databases/{database}/sql`.

use std::{fmt::Write, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use model::{LoginName, Role, lifecycle::TenantState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    caller::Caller,
    client::{ServerError, SqlError},
    render,
    visit::{self, Done, Errand, Failed, Visitor},
    work::{Invalid, Isolation, Statement, Stopped, Transaction, Work},
};
use crate::{
    api::{
        App,
        address::Client,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode, chain},
        extract::{DatabaseKey, Json},
    },
    tenant::store::Tenant,
};

/// What to run: one of `query`, `file_content` and `statements`.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SqlRequest {
    /// One or more statements; with `params` exactly one. The result is the last one's.
    query: Option<String>,
    /// A script. The result is the last statement's.
    file_content: Option<String>,
    /// Values for $1, $2, …; an object is sent as JSON, a list as an array or, where the statement
    /// expects `json` or a text, as JSON. A number with more than 15 digits goes as a text.
    #[schema(value_type = Option<Vec<Object>>)]
    params: Option<Vec<Value>>,
    /// A batch: one transaction, in which all is done or nothing; at most 1,000 statements.
    statements: Option<Vec<SqlStatement>>,
    /// Of the batch: `read_committed`, `repeatable_read`, `serializable` or `read_uncommitted`.
    isolation: Option<String>,
    /// Whether the batch may only read.
    read_only: Option<bool>,
    /// To work as less than one may: `read`, `write`, `admin`.
    role: Option<String>,
    /// Time for each statement, in milliseconds; no more than the server's own limit.
    #[schema(minimum = 1)]
    timeout_ms: Option<u64>,
}

/// One statement of a batch.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqlStatement {
    query: String,
    /// As in the request itself.
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

/// The result of the last statement; of a batch, `results` instead. Or why there is none.
#[derive(Serialize, ToSchema)]
pub(crate) struct SqlResult {
    columns: Vec<SqlColumn>,
    /// Integers of up to 32 bits and floats are numbers, `int8` and `numeric` are texts, `json` stands
    /// as it is, arrays are lists, everything else is PostgreSQL's text.
    #[schema(value_type = Vec<Vec<Object>>)]
    rows: Vec<Vec<Value>>,
    /// Rows returned or changed.
    row_count: u64,
    /// `SELECT`, `INSERT`, `CREATE TABLE`, …
    command: String,
    /// Of a batch: the result of each statement, with the four fields above; empty when it failed.
    #[schema(value_type = Option<Vec<Object>>)]
    results: Option<Vec<Value>>,
    /// PostgreSQL refused; the status of the answer is 200 all the same.
    error: Option<SqlErrorDetail>,
}

/// PostgreSQL's words.
#[derive(Serialize, ToSchema)]
pub(crate) struct SqlErrorDetail {
    message: String,
    /// SQLSTATE.
    code: String,
    severity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// Character in the statement, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u32>,
    /// In which function.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraint: Option<String>,
    /// Of a batch: which statement, from 0. Absent when it was none of them, but the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<usize>,
}

/// Runs SQL as the role with the most rights that the token allows: `admin`, or `read` when it may only
/// read; with a token of an issuer, what its scope says.
#[utoipa::path(post, path = "/customer/databases/{database}/sql", tag = "databases",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    request_body = SqlRequest,
    responses((status = 200, body = SqlResult), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 422, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 502, body = ErrorBody), (status = 504, body = ErrorBody)))]
pub(crate) async fn run(
    State(app): State<Arc<App>>,
    caller: Caller,
    Client(address): Client,
    key: DatabaseKey,
    Json(request): Json<SqlRequest>,
) -> ApiResult<Response> {
    let mut counted = app.counted.request("api");
    let result = work(&app, &caller, address, &key, request).await;
    match &result {
        Ok((_, Ok(done))) => counted.done(done.rows()),
        Ok((_, Err(failed))) if failed.is_of_postgres() => counted.failed(),
        Ok((_, Err(_))) | Err(_) => counted.refused(),
    }
    let (work, result) = result?;
    answer(&work, result)
}

async fn work(
    app: &App,
    caller: &Caller,
    address: SocketAddr,
    key: &DatabaseKey,
    request: SqlRequest,
) -> ApiResult<(Work, Result<Done, Failed>)> {
    let most = app.config.limits.sql_time_max;
    let time_max = request.time_max(most)?;
    let role = request.role()?;
    let work = request.work().map_err(invalid)?;
    let (tenant, role) = caller.database(app, key, role).await?;
    let _place = app
        .sql_places
        .take(tenant.id.to_string())
        .map_err(|_| ApiError::from(ErrorCode::TooManyRequests))?;
    let login = LoginName {
        tenant: tenant.id,
        login: role.into(),
    };
    let visitor = Visitor::LetIn {
        login: &login,
        // A token of ours is let in from everywhere; who came by an issuer's is a client like others.
        from: match caller {
            Caller::Principal(_) => None,
            Caller::Issued(_) => Some(address),
        },
    };
    let errand = Errand {
        work: &work,
        time_max,
        is_typed: true,
        has_names: false,
    };
    let result = match visit::open(app, visitor, time_max).await {
        Ok(session) => visit::run(app, session, errand).await,
        Err(failed) => Err(failed),
    };
    Ok((work, result))
}

/// What the last of some statements says in a database, as its role `read` and in a transaction that may only
/// read. Each is sent as one statement, and is an error if it is more.
///
/// # Errors
///
/// It is not ready, or cannot be reached. What PostgreSQL refuses is in the answer.
pub(crate) async fn look(app: &App, tenant: &Tenant, statements: &[&str]) -> ApiResult<Response> {
    if tenant.state != TenantState::Active {
        return Err(ApiError::with(
            ErrorCode::WrongState,
            format!("database {} is {}", tenant.name, tenant.state),
        )
        .hint("it can be looked into when it is ACTIVE"));
    }
    let own = |sql: &str| Statement::new(sql.to_owned(), Vec::new()).map_err(invalid);
    let statements: Result<Vec<_>, _> = statements.iter().map(|sql| own(sql)).collect();
    let transaction = Transaction {
        isolation: None,
        read_only: true,
        deferrable: false,
    };
    let work = Work::batch(statements?, transaction).map_err(invalid)?;
    let _place = app
        .sql_places
        .take(tenant.id.to_string())
        .map_err(|_| ApiError::from(ErrorCode::TooManyRequests))?;
    let login = LoginName {
        tenant: tenant.id.clone(),
        login: Role::Read.into(),
    };
    let visitor = Visitor::LetIn {
        login: &login,
        from: None,
    };
    let time_max = app.config.limits.sql_time_max;
    let errand = Errand {
        work: &work,
        time_max,
        is_typed: true,
        has_names: false,
    };
    let result = match visit::open(app, visitor, time_max).await {
        Ok(session) => visit::run(app, session, errand).await,
        Err(failed) => Err(failed),
    };
    let result = result.map(|mut done| {
        done.outcomes.drain(..done.outcomes.len().saturating_sub(1));
        done
    });
    let body = match result {
        Ok(done) => results(false, &done),
        Err(Failed::Work(Stopped {
            error: SqlError::Server(error),
            ..
        })) => refused(false, *error, None),
        Err(failed) => return Err(failure(failed)),
    };
    Ok(json(body))
}

fn invalid(message: Invalid) -> ApiError {
    ApiError::with(ErrorCode::InvalidField, message)
}

impl SqlRequest {
    fn time_max(&self, most: Duration) -> ApiResult<Duration> {
        match self.timeout_ms.map(Duration::from_millis) {
            None => Ok(most),
            Some(asked) if !asked.is_zero() && asked <= most => Ok(asked),
            Some(_) => Err(invalid(format!("timeout_ms is 1 to {}", most.as_millis()))),
        }
    }

    fn role(&self) -> ApiResult<Option<Role>> {
        let role = self.role.as_deref().map(str::parse);
        let unknown = |_| invalid("role is admin, write or read".to_owned());
        role.transpose().map_err(unknown)
    }

    fn work(self) -> Result<Work, Invalid> {
        let one_of = "exactly one of query, file_content and statements is required";
        let is_batch = self.statements.is_some();
        if !is_batch && (self.isolation.is_some() || self.read_only.is_some()) {
            return Err("isolation and read_only go with statements only".to_owned());
        }
        match (self.query, self.file_content, self.statements, self.params) {
            // With `params`, also none of them, it is one statement, and all or nothing of it.
            (Some(query), None, None, Some(params)) => {
                Ok(Work::One(Statement::new(query, params)?))
            }
            (Some(query), None, None, None) => Work::script(query),
            (None, Some(script), None, None) => Work::script(script),
            (None, None, Some(statements), None) => {
                let statements: Result<Vec<_>, _> = statements
                    .into_iter()
                    .map(|one| Statement::new(one.query, one.params.unwrap_or_default()))
                    .collect();
                let isolation = self.isolation.map(|text| {
                    Isolation::parse(&text).ok_or_else(|| {
                        "isolation is read_uncommitted, read_committed, repeatable_read or \
                         serializable"
                            .to_owned()
                    })
                });
                let transaction = Transaction {
                    isolation: isolation.transpose()?,
                    read_only: self.read_only.unwrap_or_default(),
                    deferrable: false,
                };
                Work::batch(statements?, transaction)
            }
            (None, Some(_), None, Some(_)) => Err("params go with query only".to_owned()),
            (None, None, Some(_), Some(_)) => {
                Err("params of a batch stand in each of its statements".to_owned())
            }
            _ => Err(one_of.to_owned()),
        }
    }
}

/// The whole answer is made before the first byte of it is sent: there are no halves.
fn answer(work: &Work, result: Result<Done, Failed>) -> ApiResult<Response> {
    let is_batch = matches!(work, Work::Batch { .. });
    let body = match result {
        Ok(done) => results(is_batch, &done),
        Err(Failed::Work(Stopped {
            error: SqlError::Server(error),
            statement,
        })) => refused(is_batch, *error, statement),
        Err(failed) => return Err(failure(failed)),
    };
    Ok(json(body))
}

fn json(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn results(is_batch: bool, done: &Done) -> String {
    let mut out = String::new();
    if is_batch {
        out.push_str("{\"results\":[");
    }
    render::separated(&done.outcomes, &mut out, |outcome, out| {
        render::begin_result(outcome, &done.types, out);
        out.push('}');
    });
    if is_batch {
        out.push_str("]}");
    }
    out
}

fn refused(is_batch: bool, error: ServerError, statement: Option<usize>) -> String {
    let detail = SqlErrorDetail {
        message: error.message,
        code: error.code,
        severity: error.severity,
        detail: error.detail,
        hint: error.hint,
        position: error.position,
        context: error.context,
        schema: error.schema,
        table: error.table,
        column: error.column,
        constraint: error.constraint,
        statement,
    };
    let nothing = if is_batch {
        "\"results\":[]"
    } else {
        "\"columns\":[],\"rows\":[],\"row_count\":0,\"command\":\"\""
    };
    let detail = serde_json::to_string(&detail).expect("an error is plain data");
    let mut out = String::new();
    let _ = write!(out, "{{{nothing},\"error\":{detail}}}");
    out
}

/// What is no refusal of PostgreSQL.
pub(super) fn failure(failed: Failed) -> ApiError {
    match failed {
        Failed::Work(Stopped {
            error: SqlError::TooLarge(bound),
            ..
        }) => ApiError::with(
            ErrorCode::ResultTooLarge,
            format!(
                "the result has more than {bound}; a batch, or a statement with params, changed \
                 nothing; a script may have had its effect"
            ),
        ),
        Failed::Begin(SqlError::Server(error)) => refused_login(&error),
        Failed::Begin(error) | Failed::Work(Stopped { error, .. }) => {
            tracing::warn!(error = %chain(&error), "SQL over HTTP lost its session");
            ErrorCode::DatabaseUnreachable.into()
        }
        Failed::Busy => ErrorCode::TooManyRequests.into(),
        Failed::NoDoor => {
            tracing::warn!("the proxy takes no more SQL over HTTP");
            ErrorCode::DatabaseUnreachable.into()
        }
        Failed::Late => ErrorCode::Timeout.into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_one_thing() {
        let read = |json: &str| {
            let request: SqlRequest = serde_json::from_str(json).unwrap();
            request.work().map(drop)
        };
        for right in [
            r#"{"query": "SELECT 1"}"#,
            r#"{"query": "SELECT $1", "params": [1]}"#,
            r#"{"file_content": "SELECT 1"}"#,
            r#"{"statements": [{"query": "SELECT $1", "params": [1]}], "isolation": "serializable"}"#,
            r#"{"statements": [], "read_only": true}"#,
        ] {
            assert_eq!(read(right), Ok(()), "{right}");
        }
        for wrong in [
            r#"{}"#,
            r#"{"query": "SELECT 1", "file_content": "SELECT 1"}"#,
            r#"{"query": "SELECT 1", "statements": []}"#,
            r#"{"query": "SELECT 1", "read_only": true}"#,
            r#"{"query": "SELECT 1", "isolation": "serializable"}"#,
            r#"{"file_content": "SELECT 1", "params": [1]}"#,
            r#"{"statements": [], "params": [1]}"#,
            r#"{"statements": [], "isolation": "snapshot"}"#,
            r#"{"query": "SELECT '\u0000'"}"#,
            r#"{"query": "SELECT $1", "params": ["\u0000"]}"#,
            r#"{"query": "SELECT $1", "params": [["\u0000"]]}"#,
            r#"{"query": "SELECT $1", "params": [12345678901234567890123]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let many = format!(
            r#"{{"statements": [{}]}}"#,
            vec![r#"{"query": ""}"#; 1_001].join(",")
        );
        assert!(read(&many).is_err());
    }
}
