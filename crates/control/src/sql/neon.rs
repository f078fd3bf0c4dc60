//! `POST /sql`, as the driver `@neondatabase/serverless` speaks it in its HTTP mode.
//!
//! Owns: the driver's headers, the form of its results, and that of the errors it makes into a
//! `NeonDbError`, which it does of answers with the status 400 only. Does not own: whether a password is
//! right. The proxy finds that out, as for everybody, and counts what is wrong for the address of
//! the HTTP client.
//!
//! The driver's documentation: `CONFIG.md` of its package.

use std::{fmt::Write, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use model::{Login as As, LoginName, Secret};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;
use utoipa::ToSchema;

use super::{
    caller,
    client::{Outcome, ServerError, SqlError},
    http::failure,
    render::{self, Types},
    visit::{self, Done, Errand, Failed, Visitor},
    work::{Isolation, Statement, Stopped, Transaction, Work},
};
use crate::api::{
    App,
    address::client_address,
    error::{ApiError, ApiResult, ErrorBody, ErrorCode},
    layers::{self, OwnShape},
};

const CONNECTION_STRING: &str = "neon-connection-string";
const RAW_TEXT_OUTPUT: &str = "neon-raw-text-output";
const ARRAY_MODE: &str = "neon-array-mode";
const ISOLATION_LEVEL: &str = "neon-batch-isolation-level";
const READ_ONLY: &str = "neon-batch-read-only";
const DEFERRABLE: &str = "neon-batch-deferrable";
/// The driver's headers.
pub(crate) const HEADERS: [&str; 6] = [
    CONNECTION_STRING,
    RAW_TEXT_OUTPUT,
    ARRAY_MODE,
    ISOLATION_LEVEL,
    READ_ONLY,
    DEFERRABLE,
];

/// For the body to arrive, behind the login: a place and a session wait for it.
const BODY_TIME_MAX: Duration = Duration::from_secs(20);

/// One query, or several as one transaction.
#[derive(Deserialize, ToSchema)]
pub(crate) struct NeonRequest {
    query: Option<String>,
    /// Values for $1, $2, …
    #[schema(value_type = Option<Vec<Object>>)]
    params: Option<Vec<Value>>,
    /// Rows as lists instead of objects; else the header says so.
    #[serde(rename = "arrayMode")]
    array_mode: Option<bool>,
    queries: Option<Vec<NeonQuery>>,
}

/// One of several.
#[derive(Deserialize, ToSchema)]
pub(crate) struct NeonQuery {
    query: String,
    #[schema(value_type = Option<Vec<Object>>)]
    params: Option<Vec<Value>>,
    #[serde(rename = "arrayMode")]
    array_mode: Option<bool>,
}

/// Runs SQL as the driver `@neondatabase/serverless` sends it: the login is in the connection string. A
/// token of an issuer (`Authorization`, the driver's `authToken`) may stand for the password.
#[utoipa::path(post, path = "/sql", tag = "sql",
    params(
        ("Neon-Connection-String" = String, Header,
            description = "postgresql://<database id>.<role>:<password>@host/postgres"),
        ("Neon-Raw-Text-Output" = Option<bool>, Header, description = "values as PostgreSQL's text"),
        ("Neon-Array-Mode" = Option<bool>, Header, description = "rows as lists"),
        ("Neon-Batch-Isolation-Level" = Option<String>, Header,
            description = "ReadUncommitted, ReadCommitted, RepeatableRead or Serializable"),
        ("Neon-Batch-Read-Only" = Option<bool>, Header, description = "of a batch"),
        ("Neon-Batch-Deferrable" = Option<bool>, Header, description = "of a batch")),
    request_body = NeonRequest,
    responses(
        (status = 200, description = "one result, or `results` of a batch: `fields`, `rows`, `command`, `rowCount`"),
        (status = 400, description = "PostgreSQL refused the login or a statement: `message`, `code` (SQLSTATE), \
            `severity`, `detail`, `hint`, `position` and the other fields of its error"),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 502, body = ErrorBody),
        (status = 504, body = ErrorBody)))]
pub(crate) async fn run(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut counted = app.counted.request("neon");
    let result = handle(&app, request).await;
    match &result {
        Ok((_, rows)) => counted.done(*rows),
        Err(Refused::Server(_)) => counted.failed(),
        Err(Refused::Api(_)) => counted.refused(),
    }
    match result {
        Ok((body, _)) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(Refused::Api(error)) => error.into_response(),
        Err(Refused::Server(error)) => refused(&error),
    }
}

enum Refused {
    /// In the shape of all errors of the API.
    Api(ApiError),
    /// In the driver's.
    Server(Box<ServerError>),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<Failed> for Refused {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Begin(SqlError::Server(error))
            | Failed::Work(Stopped {
                error: SqlError::Server(error),
                ..
            }) => Self::Server(error),
            Failed::Work(Stopped {
                error: SqlError::TooLarge(bound),
                ..
            }) => Self::Server(Box::new(ServerError::own(
                // program_limit_exceeded
                "54000",
                &format!("the result has more than {bound}; nothing was changed"),
                ErrorCode::ResultTooLarge.hint(),
            ))),
            other => Self::Api(failure(other)),
        }
    }
}

/// The answer, and how many rows are in it.
async fn handle(app: &App, request: Request) -> Result<(String, usize), Refused> {
    let (parts, body) = request.into_parts();
    let from = client_address(&parts, &app.config.forwarded_from)?;
    let wanted = Wanted::read(&parts.headers)?;
    let limits = &app.config.limits;
    let time_max = limits.sql_time_max;
    let issued = wanted.login.issued(app, &parts.headers).await?;
    // Nothing but headers has been looked at so far: whoever has no password fills no memory.
    let _place = app.sql_places.take(wanted.login.database_key())?;
    let visitor = match &issued {
        Some(login) => Visitor::LetIn {
            login,
            from: Some(from),
        },
        None => wanted.login.visitor(from)?,
    };
    let session = visit::open(app, visitor, time_max).await?;
    let body = layers::collect(body, limits.sql_body_bytes_max);
    let body = tokio::time::timeout(BODY_TIME_MAX, body).await;
    let body = body
        .map_err(|_| ApiError::with(ErrorCode::BadRequest, "the body did not arrive in time"))??;
    let request: NeonRequest = serde_json::from_slice(&body).map_err(|error| {
        ApiError::with(
            ErrorCode::InvalidBody,
            format!("the body is not as expected: {error}"),
        )
    })?;
    let (work, modes) = request.work(&wanted)?;
    let errand = Errand {
        work: &work,
        time_max,
        is_typed: !wanted.is_raw,
        has_names: modes.contains(&false),
    };
    let done = visit::run(app, session, errand).await?;
    let body = answer(&work, &done, &modes, wanted.is_raw);
    Ok((body, done.rows()))
}

/// What the headers say.
struct Wanted {
    login: Login,
    is_raw: bool,
    is_array: bool,
    transaction: Transaction,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> ApiResult<Self> {
        let isolation = headers.get(ISOLATION_LEVEL).map(|value| {
            let known = value.to_str().ok().and_then(Isolation::parse);
            known.ok_or_else(|| invalid("the isolation level is none of PostgreSQL's"))
        });
        let is = |name| headers.get(name).is_some_and(|value| value == "true");
        Ok(Self {
            login: Login::read(headers)?,
            is_raw: is(RAW_TEXT_OUTPUT),
            is_array: is(ARRAY_MODE),
            transaction: Transaction {
                isolation: isolation.transpose()?,
                read_only: is(READ_ONLY),
                deferrable: is(DEFERRABLE),
            },
        })
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::with(ErrorCode::InvalidField, message)
}

/// A login, from a connection string. The host in it is where the request was sent to.
#[derive(Debug, Eq, PartialEq)]
struct Login {
    user: String,
    /// A token of an issuer may stand for it.
    password: Option<Secret>,
    database: String,
    /// `application_name` and `options`; of the others none concerns a session over HTTP.
    settings: Vec<(String, String)>,
}

impl Login {
    /// # Errors
    ///
    /// In words that hold nothing of the connection string.
    fn read(headers: &HeaderMap) -> ApiResult<Self> {
        let mut values = headers.get_all(CONNECTION_STRING).iter();
        let text = values.next().and_then(|value| value.to_str().ok());
        let (Some(text), None) = (text, values.next()) else {
            return Err(invalid(
                "the header Neon-Connection-String is required, once",
            ));
        };
        Self::parse(text).ok_or_else(|| {
            invalid(
                "Neon-Connection-String is not \
                 postgresql://<database id>.<role>:<password>@<host>/postgres",
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return None;
        }
        let decode = |text: &str| {
            let text = percent_decode_str(text).decode_utf8().ok()?.into_owned();
            (!text.is_empty() && !text.contains('\0')).then_some(text)
        };
        let settings = url.query_pairs().filter_map(|(name, value)| {
            (matches!(&*name, "application_name" | "options") && !value.contains('\0'))
                .then(|| (name.into_owned(), value.into_owned()))
        });
        Some(Self {
            user: decode(url.username())?,
            password: match url.password() {
                Some(password) => Some(Secret::new(decode(password)?)),
                None => None,
            },
            database: decode(url.path().trim_start_matches('/'))
                .unwrap_or_else(|| "postgres".to_owned()),
            settings: settings.collect(),
        })
    }

    /// Whose places it takes: until the proxy has looked, those of the database it names.
    fn database_key(&self) -> String {
        let tenant = self.user.split('.').next();
        tenant.unwrap_or_default().to_owned()
    }

    /// Who it is by the token of an issuer, where one is sent. Then no password is looked at.
    async fn issued(&self, app: &App, headers: &HeaderMap) -> ApiResult<Option<LoginName>> {
        if !headers.contains_key(header::AUTHORIZATION) {
            return Ok(None);
        }
        let token = app.issuers.token(headers).ok_or(ErrorCode::TokenRefused)?;
        let grant = app.issuers.verify(token).await?;
        let login: Option<LoginName> = self.user.parse().ok();
        let tenant = login.as_ref().map(|login| &login.tenant);
        let wanted = login.as_ref().map(|login| login.login);
        let role = match wanted {
            Some(As::Role(role)) => Some(role),
            Some(As::User(_)) | None => None,
        };
        grant.role_at(tenant, role)?;
        if grant.projects.is_some() {
            caller::granted(app, &grant).await?;
        }
        // A token opens roles. What a user may do is not the issuer's to say.
        if matches!(wanted, Some(As::User(_))) {
            return Err(ErrorCode::TokenScope.into());
        }
        Ok(login)
    }

    fn visitor(&self, from: SocketAddr) -> ApiResult<Visitor<'_>> {
        let missing = || invalid("the connection string has no password");
        Ok(Visitor::Proves {
            user: &self.user,
            password: self.password.as_ref().ok_or_else(missing)?,
            database: &self.database,
            from,
            settings: &self.settings,
        })
    }
}

impl NeonRequest {
    /// What to do, and which of the results have rows as lists.
    fn work(self, wanted: &Wanted) -> ApiResult<(Work, Vec<bool>)> {
        let statement = |query, params: Option<Vec<Value>>| {
            Statement::new(query, params.unwrap_or_default()).map_err(invalid)
        };
        match (self.query, self.queries) {
            (Some(query), None) => {
                let mode = self.array_mode.unwrap_or(wanted.is_array);
                Ok((Work::One(statement(query, self.params)?), vec![mode]))
            }
            (None, Some(queries)) => {
                let modes = queries
                    .iter()
                    .map(|query| query.array_mode.unwrap_or(wanted.is_array))
                    .collect();
                let statements: ApiResult<Vec<_>> = queries
                    .into_iter()
                    .map(|one| statement(one.query, one.params))
                    .collect();
                let work = Work::batch(statements?, wanted.transaction).map_err(invalid)?;
                Ok((work, modes))
            }
            (Some(_), Some(_)) | (None, None) => {
                Err(invalid("either query or queries is required"))
            }
        }
    }
}

fn answer(work: &Work, done: &Done, modes: &[bool], is_raw: bool) -> String {
    let mut out = String::new();
    let is_batch = matches!(work, Work::Batch { .. });
    if is_batch {
        out.push_str("{\"results\":[");
    }
    let mut modes = modes.iter();
    render::separated(&done.outcomes, &mut out, |outcome, out| {
        let is_array = modes.next().copied().unwrap_or_default();
        let types = (!is_raw).then_some(&done.types);
        result(outcome, types, is_array, out);
    });
    if is_batch {
        out.push_str("]}");
    }
    out
}

/// As node-postgres has it. Without `types`, every value is PostgreSQL's text.
fn result(outcome: &Outcome, types: Option<&Types>, is_array: bool, out: &mut String) {
    out.push_str("{\"fields\":[");
    render::separated(&outcome.columns, out, |column, out| {
        out.push_str("{\"name\":");
        render::string(&column.name, out);
        let _ = write!(
            out,
            ",\"dataTypeID\":{},\"tableID\":{},\"columnID\":{},\"dataTypeSize\":{},\
             \"dataTypeModifier\":{},\"format\":\"text\"}}",
            column.oid, column.table_oid, column.column_id, column.type_size, column.type_modifier,
        );
    });
    out.push_str("],\"rows\":[");
    let (open, close) = if is_array { ('[', ']') } else { ('{', '}') };
    render::separated(&outcome.rows, out, |row, out| {
        out.push(open);
        let mut is_first = true;
        render::each(row, &outcome.columns, |column, value| {
            if !std::mem::replace(&mut is_first, false) {
                out.push(',');
            }
            if !is_array {
                render::string(&column.name, out);
                out.push(':');
            }
            match (value, types) {
                (None, _) => out.push_str("null"),
                (Some(text), None) => render::string(&text, out),
                (Some(text), Some(types)) => types.write(column.oid, &text, out),
            }
        });
        out.push(close);
    });
    out.push_str("],\"command\":");
    let command = outcome.tag.split(' ').next().unwrap_or_default();
    render::string(command, out);
    let count = json!(render::row_count(&outcome.tag));
    let _ = write!(out, ",\"rowCount\":{count},\"rowAsArray\":{is_array}}}");
}

/// The fields that the driver copies to its `NeonDbError`.
fn refused(error: &ServerError) -> Response {
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let body = json!({
        "message": error.message,
        "severity": error.severity,
        "code": error.code,
        "detail": error.detail,
        "hint": error.hint,
        "position": number(error.position),
        "internalPosition": number(error.internal_position),
        "internalQuery": error.internal_query,
        "where": error.context,
        "schema": error.schema,
        "table": error.table,
        "column": error.column,
        "dataType": error.data_type,
        "constraint": error.constraint,
        "file": error.file,
        "line": error.line,
        "routine": error.routine,
    });
    let mut response = (StatusCode::BAD_REQUEST, axum::Json(body)).into_response();
    response.extensions_mut().insert(OwnShape);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_taken_apart() {
        let parse = |text: &str| {
            let login = Login::parse(text)?;
            let password = login.password.map(|password| password.reveal().to_owned());
            Some((
                login.user,
                password.unwrap_or_default(),
                login.database,
                login.settings,
            ))
        };
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            parse(
                "postgresql://abc.admin:p%40ss%2F@h:5433/postgres?sslmode=require&application_name=a%20b&options=-c%20x%3D1"
            ),
            Some((
                "abc.admin".to_owned(),
                "p@ss/".to_owned(),
                "postgres".to_owned(),
                vec![
                    setting("application_name", "a b"),
                    setting("options", "-c x=1")
                ],
            ))
        );
        let plain = (
            "u".to_owned(),
            "p".to_owned(),
            "postgres".to_owned(),
            vec![],
        );
        assert_eq!(parse("postgres://u:p@h"), Some(plain));
        for wrong in [
            "",
            "http://u:p@h/postgres",
            "postgres://:p@h/postgres",
            "postgres://u:%00@h/postgres",
            "postgres://u:%ff@h/postgres",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        // Nothing that is printed shows a password.
        let login = Login::parse("postgres://u:hunter2@h/postgres");
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
