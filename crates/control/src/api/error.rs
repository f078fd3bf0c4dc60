//! Every error that the API can answer with.
//!
//! One code, one HTTP status, one hint; `docs/errors.md` is written from this list. Messages name
//! no node, no address and nothing of another project.

use std::{borrow::Cow, fmt::Write, time::Duration};

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::catalog::CatalogError;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:ident, $message:literal, $hint:literal;)*) => {
        /// Code of an error: stable, for programs.
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* }

        impl ErrorCode {
            /// All of them, by status.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As it stands in an answer.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The HTTP status it is answered with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// The message, where nothing more exact can be said.
            pub fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }

            /// What to do about it.
            pub fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)* }
            }
        }
    };
}

codes! {
    /// hyper refused the request, or a part of it that is no body.
    BadRequest = "bad_request", BAD_REQUEST, "the request cannot be understood",
        "compare it with /openapi.json";
    /// The body is no JSON, or not of the documented shape.
    InvalidBody = "invalid_body", BAD_REQUEST, "the body is not the JSON that is expected here",
        "compare it with /openapi.json";
    /// A field has a value that is not allowed.
    InvalidField = "invalid_field", BAD_REQUEST, "a field has a value that is not allowed",
        "compare it with /openapi.json";
    /// The name of a database breaks the rule.
    InvalidName = "invalid_name", BAD_REQUEST, "a name is 1 to 63 characters of a-z, 0-9, '_' and '-', without '__'",
        "choose another name, or leave it out to get a generated one";
    /// No token, or none that we know.
    InvalidToken = "invalid_token", UNAUTHORIZED, "invalid or expired token",
        "send 'Authorization: Bearer <token>'; an anonymous project gets a new token at /customer/anonymous-refresh";
    /// The token was good once.
    ExpiredToken = "expired_token", UNAUTHORIZED, "the token has expired",
        "an anonymous project gets a new token at /customer/anonymous-refresh";
    /// A token of an issuer that is not plainly right.
    TokenRefused = "token_refused", UNAUTHORIZED, "the token is not valid here",
        "it needs an issuer, an audience and a key that are known here, RS256, ES256 or EdDSA, and exp; the log says what is wrong";
    /// Whether it is, nobody can tell.
    IssuerUnreachable = "issuer_unreachable", UNAUTHORIZED, "the token cannot be checked, because the keys of its issuer cannot be read",
        "send the request again after the time in Retry-After";
    /// The token may only read.
    ReadOnlyToken = "read_only_token", FORBIDDEN, "this token may only read",
        "use a token with full access";
    /// A token of an issuer, for another database or none.
    TokenWrongDatabase = "token_wrong_database", FORBIDDEN, "the token is not for this database",
        "ask the issuer for one whose claim names the id of this database";
    /// It allows less.
    TokenScope = "token_scope", FORBIDDEN, "the token's scope does not allow this",
        "ask the issuer for one with read, write or, where the operator lets it count, admin in its scope";
    /// The token is bound to other databases.
    NotInScope = "not_in_scope", FORBIDDEN, "token does not have access to this database",
        "use a token whose scope has it; the answer is the same for databases that do not exist";
    /// The token is bound to some databases.
    ScopedToken = "scoped_token", FORBIDDEN, "a token that is bound to databases may not do this",
        "use a token of the whole project";
    /// Wrong, used, expired or taken back.
    InvalidClaimCode = "invalid_claim_code", FORBIDDEN, "the claim code is wrong, or it was used or has expired",
        "ask the operator for another one";
    /// Only the operator may.
    OperatorOnly = "operator_only", FORBIDDEN, "only the operator may do this",
        "use the operator's token";
    /// Switched off by the operator.
    RegistrationOff = "registration_off", FORBIDDEN, "anonymous registration is switched off here",
        "the operator can switch it on (allow-anonymous), or make databases with the operator's key";
    /// The project has as many databases as it may.
    QuotaExceeded = "quota_exceeded", FORBIDDEN, "the project has as many databases as it may have",
        "delete one that is not needed, or claim the project: `tenantry claim` with a code of your operator";
    /// Only the operator takes this back.
    SuspendedByOperator = "suspended_by_operator", FORBIDDEN, "the operator suspended this database",
        "ask the operator to resume it";
    /// More than the operator allows.
    LimitNotAllowed = "limit_not_allowed", FORBIDDEN, "the operator does not allow this limit",
        "set it to less, or ask the operator";
    /// The webhook of an owner is near this machine.
    WebhookNotAllowed = "webhook_not_allowed", FORBIDDEN, "the webhook's URL leads to an address that is not public",
        "name one that everybody can reach; the operator may name any";
    /// No such path.
    RouteNotFound = "route_not_found", NOT_FOUND, "there is nothing at this path",
        "the paths are listed in /openapi.json";
    /// No such database in this project.
    DatabaseNotFound = "database_not_found", NOT_FOUND, "database not found",
        "list the databases of the project to see names and ids";
    /// No such token in this project.
    TokenNotFound = "token_not_found", NOT_FOUND, "token not found",
        "list the tokens of the project to see their ids";
    /// No such credential of this database.
    CredentialNotFound = "credential_not_found", NOT_FOUND, "no such credential opens this database",
        "list what opens the database to see ids";
    /// No such user of this database.
    UserNotFound = "user_not_found", NOT_FOUND, "the database has no such user",
        "list the users of the database to see their names";
    /// Forgotten, or never seen at this process.
    StatementNotFound = "statement_not_found", NOT_FOUND, "no such statement is known here",
        "list the statements of the database to see their ids; the process that answers forgets those of a database that nobody used for five minutes";
    /// No such backup in this project.
    BackupNotFound = "backup_not_found", NOT_FOUND, "backup not found",
        "list the backups of the project to see their ids";
    /// No such restore in this project.
    RestoreNotFound = "restore_not_found", NOT_FOUND, "restore not found",
        "the answer that began a restore names its id";
    /// Or of another project.
    AlertRuleNotFound = "alert_rule_not_found", NOT_FOUND, "rule not found",
        "list the rules; what is only a default is not removed, but switched off by a rule";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "this path has no such method",
        "the methods are listed in /openapi.json";
    /// The name is held by another database.
    NameTaken = "name_taken", CONFLICT, "database name already exists",
        "choose another name, or ask with if_not_exists to get the existing one";
    /// The name is held by another user of the database.
    UserExists = "user_exists", CONFLICT, "the database has a user of this name",
        "choose another name, or reset the password of the one that is there";
    /// As many as there may be.
    TooManyUsers = "too_many_users", CONFLICT, "the database has as many users as it may have",
        "delete one that is not needed";
    /// The project is no anonymous one.
    AlreadyClaimed = "already_claimed", CONFLICT, "the project is not anonymous, it has an owner",
        "its owner makes tokens for whoever needs one";
    /// Not allowed in the state that the database is in.
    WrongState = "wrong_state", CONFLICT, "the database is in a state that does not allow this",
        "look at its state first";
    /// As many as there may be.
    TooManyCredentials = "too_many_credentials", CONFLICT, "there are as many credentials of this kind as there may be",
        "revoke one that is not needed";
    /// As many as there may be.
    TooManyBackups = "too_many_backups", CONFLICT, "there are as many backups of this database as somebody may ask for",
        "delete one that is not needed";
    /// Each kind and database has one at most.
    TooManyRules = "too_many_rules", CONFLICT, "the project has as many rules of alerts as it may have",
        "remove one, or write one for all databases";
    /// Alerts are told to nobody.
    NoAlertTarget = "no_alert_target", CONFLICT, "no webhook is set for alerts",
        "set one";
    /// In `error_code` of a restore: what is stored is not what was written, or a part of it is missing.
    BackupDamaged = "backup_damaged", CONFLICT, "the backup is damaged, or a part of it is missing; nothing was touched",
        "restore another backup, and look at where this one is stored";
    /// In `error_code` of a restore: somebody put the backup of another database in its place.
    BackupOfAnotherDatabase = "backup_of_another_database", CONFLICT, "what is stored is a backup of another database; nothing was touched",
        "look at where the backups are stored: files have changed places";
    /// In `error_code` of a restore: made with another key.
    BackupKeyWrong = "backup_key_wrong", CONFLICT, "the backup was made with another key; nothing was touched",
        "the installation needs the installation.key and the catalog that it had when the backup was made";
    /// In `error_code` of a restore: PostgreSQL could not be read or filled.
    BackupFailed = "backup_failed", CONFLICT, "the backup could not be restored",
        "see `error` for the reason; what was to be replaced is as it was";
    /// `pg_dump` said no.
    DumpFailed = "dump_failed", CONFLICT, "the database could not be dumped",
        "the message says why; nothing was changed, and what was sent of the dump is worth nothing";
    /// Before what is kept, or after now.
    MomentUnknown = "moment_unknown", CONFLICT, "what databases were at moments that are past is not kept here",
        "restore a backup; the operator of a server that Tenantry runs can have moments kept (point-in-time)";
    /// All minimums together would leave too little to others.
    MinimumsTooHigh = "minimums_too_high", CONFLICT, "too much of the budget of server connections would be kept by minimums",
        "ask for less, lower the minimum of another database, or raise the budget";
    /// Nobody could keep it on the server of this database.
    LimitImpossible = "limit_impossible", CONFLICT, "this limit cannot be kept where the database is",
        "see the page on limits for what can";
    /// The same key is being worked on.
    IdempotencyInProgress = "idempotency_in_progress", CONFLICT, "a request with this Idempotency-Key is still running",
        "send the same request again after the time in Retry-After";
    /// Passwords are shown once.
    SecretsNotKept = "secrets_not_kept", GONE, "passwords are shown once and not kept",
        "use reset-password to get a new one";
    /// Erased.
    BackupKeyDestroyed = "backup_key_destroyed", GONE, "the key of this database's backups was destroyed",
        "nothing opens them any more";
    /// More bytes than allowed.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "the body is too large",
        "send less at once; large data goes through a PostgreSQL connection with COPY";
    /// Same key, other request.
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "this Idempotency-Key was used with another request",
        "use a new key for a new request";
    /// More rows or bytes than the answer may have.
    ResultTooLarge = "result_too_large", UNPROCESSABLE_ENTITY, "the result is too large",
        "ask for less with LIMIT, or read it through a PostgreSQL connection";
    /// One address registers without end.
    TooManyProjects = "too_many_projects", TOO_MANY_REQUESTS, "too many anonymous projects were made from this address",
        "use the token of one that you have, or come again after the time in Retry-After";
    /// Slower, please.
    TooManyRequests = "too_many_requests", TOO_MANY_REQUESTS, "too many requests at once",
        "send the request again after the time in Retry-After";
    /// hyper refused the head.
    HeadersTooLarge = "headers_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, "the first line and the headers of the request are too large",
        "send less than 32 KiB of them, with no more than 100 headers; long texts go into the body";
    /// Our fault.
    Internal = "internal", INTERNAL_SERVER_ERROR, "an internal error; the request may have had an effect",
        "tell the operator the request_id; it is in the log";
    /// The way into the database failed.
    DatabaseUnreachable = "database_unreachable", BAD_GATEWAY, "the database could not be reached",
        "send the request again";
    /// A test of it.
    WebhookFailed = "webhook_failed", BAD_GATEWAY, "the webhook did not take the message",
        "it has to answer with a status of 200 to 299 within 10 s";
    /// The catalog does not answer.
    CatalogUnavailable = "catalog_unavailable", SERVICE_UNAVAILABLE, "the catalog cannot be reached; connections to databases still work",
        "send the request again after the time in Retry-After";
    /// In `error_code` of a restore: where backups are does not answer.
    BackupStoreUnreachable = "backup_store_unreachable", SERVICE_UNAVAILABLE, "the store of backups cannot be reached",
        "it is tried again; ask your operator";
    /// The database could not be made.
    CreateFailed = "create_failed", SERVICE_UNAVAILABLE, "the database could not be made",
        "look at its state_reason; delete it and create it again, or resume it";
    /// What cannot be written down is not done.
    AuditUnavailable = "audit_unavailable", SERVICE_UNAVAILABLE, "the audit log cannot be written, so nothing is changed",
        "the operator finds the reason in the log, a full disk for one; send the request again after the time in Retry-After";
    /// We are stopping.
    Draining = "draining", SERVICE_UNAVAILABLE, "this server is stopping",
        "send the request again";
    /// It took too long.
    Timeout = "timeout", GATEWAY_TIMEOUT, "the request took too long; it may have had an effect",
        "look at the state of the database before you repeat it";
}

/// What a client is told. Log the cause where this is made; it does not travel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) code: ErrorCode,
    pub(crate) message: Cow<'static, str>,
    pub(crate) hint: Cow<'static, str>,
    pub(crate) retry_after: Option<Duration>,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// With a message of its own.
    pub(crate) fn with(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            message: message.into(),
            ..code.into()
        }
    }

    pub(crate) fn hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self {
            hint: hint.into(),
            ..self
        }
    }

    /// Our own mistake: logged here, told without detail.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %chain(error), "a request failed");
        ErrorCode::Internal.into()
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        let retry_after = match code {
            ErrorCode::IdempotencyInProgress
            | ErrorCode::TooManyRequests
            | ErrorCode::AuditUnavailable
            | ErrorCode::CatalogUnavailable => Some(Duration::from_secs(1)),
            ErrorCode::IssuerUnreachable => Some(Duration::from_secs(10)),
            _ => None,
        };
        Self {
            code,
            message: code.message().into(),
            hint: code.hint().into(),
            retry_after,
        }
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        match &error {
            CatalogError::Unavailable(_) => {
                tracing::warn!(error = %chain(&error), "the catalog did not answer");
                ErrorCode::CatalogUnavailable.into()
            }
            CatalogError::Refused(_) => Self::internal(&error),
        }
    }
}

impl From<tokio_postgres::Error> for ApiError {
    fn from(error: tokio_postgres::Error) -> Self {
        CatalogError::from(error).into()
    }
}

/// Body of every answer that is an error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// Always false.
    success: bool,
    /// The status of the answer again.
    http_status: u16,
    /// Stable; see docs/errors.md.
    #[schema(example = "database_not_found")]
    code: &'static str,
    /// The same as `message`.
    error: String,
    /// For people.
    message: String,
    /// What to do.
    hint: String,
    /// Quote it to your operator; it is in the server's log.
    request_id: String,
}

impl ApiError {
    /// The whole answer. `request_id` also stands in a header.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let status = self.code.status();
        let mut response = (status, axum::Json(self.body(request_id))).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(wait.as_secs().max(1)),
            );
        }
        if self.code == ErrorCode::BodyTooLarge {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl ApiError {
    fn body(&self, request_id: &str) -> ErrorBody {
        ErrorBody {
            success: false,
            http_status: self.code.status().as_u16(),
            code: self.code.as_str(),
            error: self.message.to_string(),
            message: self.message.to_string(),
            hint: self.hint.to_string(),
            request_id: request_id.to_owned(),
        }
    }

    /// The body, for an answer that is written without HTTP's machinery.
    pub(crate) fn plain_body(&self, request_id: &str) -> String {
        serde_json::to_string(&self.body(request_id)).expect("an error is plain data")
    }
}

/// Only a mark: the outermost layer, which knows the request's id, renders it.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Header with the id of a request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// The part of `docs/errors.md` that lists the codes of the API, as a table in Markdown.
pub fn errors_document() -> String {
    let mut text =
        String::from("| HTTP | code | message | what to do |\n| --- | --- | --- | --- |\n");
    for code in ErrorCode::ALL {
        let _ = writeln!(
            text,
            "| {} | `{}` | {} | {} |",
            code.status().as_u16(),
            code.as_str(),
            code.message().replace('|', "\\|"),
            code.hint().replace('|', "\\|"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_sorted_by_status() {
        let mut codes: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorCode::ALL.len());
        assert!(ErrorCode::ALL.is_sorted_by_key(|code| code.status()));
    }

    #[test]
    fn every_code_says_what_to_do() {
        for code in ErrorCode::ALL {
            assert!(
                !code.hint().is_empty() && !code.message().is_empty(),
                "{code:?}"
            );
            assert!(!code.message().ends_with('.'), "{code:?}");
        }
    }
}
