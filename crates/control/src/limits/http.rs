//! `/customer/databases/{database}/limits`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use model::{
    Limits, TenantId,
    limits::{
        self, ALLOWED_ADDRESSES, LimitError, LimitSet, Number, POOL_MODE, STATEMENT_LOG,
        StatementLog,
    },
    route::NodeAddress,
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::store::{self, Party, Wishes};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{DatabaseKey, Json, quoted},
        idempotency::{Kept, Ticket},
    },
    catalog::changes,
    storage::{self, store::Size},
    tenant::{
        change,
        store::{Purpose, Tenant},
    },
};

/// Limits of a database, by name. 0 is no limit. In a request, null is: as if it had never been set.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct LimitValues {
    /// Clients at once, 1 to 100,000. 500 when nobody says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_connections_max: Option<u64>,
    /// Server connections at once, 1 to 1,000. 12 when nobody says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_connections_max: Option<u64>,
    /// Server connections that are not taken from it once it has them, and that it gets before others,
    /// 0 to 100; set by the operator. All together leave a quarter of the budget to others.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_connections_min: Option<u64>,
    /// Turns with a server connection for one of another database, when not all get what they want, 1 to
    /// 100; set by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_connections_weight: Option<u64>,
    /// Statements begun in a second in the long run, up to 1,000,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    statements_per_second: Option<u64>,
    /// Statements at once after a pause, up to 1,000,000; 0: as many as in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    statements_burst: Option<u64>,
    /// Rows of one result.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_rows_max: Option<u64>,
    /// Bytes of one result, from 1,024.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_bytes_max: Option<u64>,
    /// Bytes of the database on disk, from 1,048,576. Above it, what makes it larger is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_bytes_max: Option<u64>,
    /// Bytes of private memory of each server process, from 67,108,864. A statement that wants more fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes_max: Option<u64>,
    /// Milliseconds of one statement, 10 to a week.
    #[serde(skip_serializing_if = "Option::is_none")]
    statement_ms_max: Option<u64>,
    /// Milliseconds of one transaction, 10 to a week.
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_ms_max: Option<u64>,
    /// Milliseconds between two statements of a transaction, 10 to a week.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_in_transaction_ms_max: Option<u64>,
    /// Milliseconds of a client that does nothing, 1,000 to a week. 1,800,000 when nobody says
    /// otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_idle_ms_max: Option<u64>,
    /// Milliseconds from which on a statement is called slow, up to a week; 0: none is. 1,000 when nobody says
    /// otherwise. The owner's word counts, or else the operator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    slow_statement_ms: Option<u64>,
    /// Of how many statements that neither failed nor were slow one is kept, where `statement_log` is `sampled`: 1 to
    /// 1,000,000. 100 when nobody says otherwise. The owner's word counts, or else the operator's.
    #[serde(skip_serializing_if = "Option::is_none")]
    statement_log_sample: Option<u64>,
    /// 1: every statement is a line in the audit log, and none is carried out while that cannot be written. Whoever
    /// says so, owner or operator: it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    statement_audit: Option<u64>,
    /// Which statements are kept in the log: `off`, `errors`, `slow` (and errors), `all` or `sampled` (slow ones and errors,
    /// and some others). `slow` when nobody says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    statement_log: Option<String>,
    /// `auto`, `session` or `transaction`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_mode: Option<String>,
    /// Networks that clients may come from, such as `192.0.2.0/24` or `2001:db8::/32`; 64 at most. An
    /// empty list lets nobody in; without a list everybody may come.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_addresses: Option<Vec<String>>,
}

/// Limits of a database: what holds, and who said what.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LimitsResponse {
    /// The database.
    id: String,
    name: String,
    /// What holds: the owner's wishes, within what the operator allows.
    #[schema(value_type = LimitValues)]
    effective: Map<String, Value>,
    /// What the owner said: tokens of its project.
    #[schema(value_type = LimitValues)]
    owner: Map<String, Value>,
    /// What the operator said.
    #[schema(value_type = LimitValues)]
    operator: Map<String, Value>,
    /// Bytes that it took on disk when it was measured last; null when it never was. Where there is a limit, within
    /// seconds while it is in use; elsewhere in turn with all others.
    storage_bytes: Option<u64>,
    /// When that was.
    storage_measured_at: Option<DateTime<Utc>>,
}

fn describe(tenant: &Tenant, wishes: &Wishes, size: Option<Size>) -> LimitsResponse {
    let effective = Limits::described(&wishes.operator, &wishes.owner);
    LimitsResponse {
        id: tenant.id.to_string(),
        name: tenant.name.to_string(),
        effective: store::to_json(&effective),
        owner: store::to_json(&wishes.owner),
        operator: store::to_json(&wishes.operator),
        storage_bytes: size.map(|size| size.bytes),
        storage_measured_at: size.map(|size| size.measured_at),
    }
}

/// The limits of a database.
#[utoipa::path(get, path = "/customer/databases/{database}/limits", tag = "limits",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    responses((status = 200, body = LimitsResponse), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody)))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<LimitsResponse>> {
    let tenant = crate::tenant::http::read(&app, &principal, &key).await?;
    let client = app.catalog.get().await?;
    let wishes = store::read(&client, &tenant.id).await?;
    let size = storage::store::size(&client, &tenant.id).await?;
    Ok(axum::Json(describe(&tenant, &wishes, size)))
}

/// Sets some limits of a database; what is not named stays as it is. Takes hold within a second, also
/// on open sessions. The operator's token says what may be had at most, a project's what it wants.
#[utoipa::path(patch, path = "/customer/databases/{database}/limits", tag = "limits",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    request_body = LimitValues,
    responses((status = 200, body = LimitsResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn patch(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Json(values): Json<Map<String, Value>>,
) -> ApiResult<axum::Json<LimitsResponse>> {
    change(&app, &principal, &ticket, &key, values, Begin::AsItIs).await
}

/// Sets all limits of a database; what is not named is as if it had never been set. Otherwise as PATCH.
#[utoipa::path(put, path = "/customer/databases/{database}/limits", tag = "limits",
    security(("bearer" = [])), params(("database" = String, Path, description = "id or name")),
    request_body = LimitValues,
    responses((status = 200, body = LimitsResponse), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    key: DatabaseKey,
    Json(values): Json<Map<String, Value>>,
) -> ApiResult<axum::Json<LimitsResponse>> {
    change(&app, &principal, &ticket, &key, values, Begin::Anew).await
}

/// What a change begins with.
enum Begin {
    AsItIs,
    Anew,
}

async fn change(
    app: &App,
    principal: &Principal,
    ticket: &Ticket,
    key: &DatabaseKey,
    values: Map<String, Value>,
    begin: Begin,
) -> ApiResult<axum::Json<LimitsResponse>> {
    principal.may_write()?;
    let party = principal.party();
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let tenant = change::find(&transaction, principal, key, Purpose::Change).await?;
    change::refuse_deleted(&tenant)?;
    let mut wishes = store::read(&transaction, &tenant.id).await?;
    let before = wishes.of(party).clone();
    let set = wishes.of(party);
    if let Begin::Anew = begin {
        *set = LimitSet::default();
    }
    let mut named = LimitSet::default();
    for (name, value) in &values {
        apply(set, name, value)?;
        apply(&mut named, name, value)?;
    }
    can_be_kept(&named, &app.node.target().address)?;
    let is_news = *set != before;
    if party == Party::Owner {
        // What it said before, the operator may have overruled since; that is no reason to refuse
        // something else now.
        named.check_owner(&wishes.operator).map_err(refused)?;
    }
    let min = |set: &LimitSet| set.number(Number::ServerConnectionsKept).unwrap_or(0);
    if party == Party::Operator && min(wishes.of(party)) > min(&before) {
        leave_enough(app, &transaction, &tenant.id, min(wishes.of(party))).await?;
    }
    let size = storage::store::size(&transaction, &tenant.id).await?;
    let answer = describe(&tenant, &wishes, size);
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::OK, &body, Kept::Last)
        .await?;
    store::write(&transaction, &tenant.id, party, wishes.of(party)).await?;
    let change = changes::mark(&transaction, &tenant.id).await?;
    transaction.commit().await?;
    app.changes.announce(change);
    if is_news {
        let names: Vec<&String> = values.keys().collect();
        tracing::info!(tenant = %tenant.id, ?party, ?names, "limits were changed");
    }
    Ok(axum::Json(answer))
}

/// Refuses what nobody could keep. A limit of memory is kept by the operating system of the server, where that
/// is ours, too.
fn can_be_kept(named: &LimitSet, address: &NodeAddress) -> ApiResult<()> {
    let memory = named.number(Number::Memory).unwrap_or(0);
    if memory == 0 || matches!(address, NodeAddress::Unix(_)) {
        return Ok(());
    }
    let message = format!(
        "{} cannot be kept here: the PostgreSQL of this database is reached over TCP",
        Number::Memory.name()
    );
    Err(
        ApiError::with(ErrorCode::LimitImpossible, message).hint(
            "the operator can attach it by its unix socket, if it is on the same machine, or bound all its processes \
             with LimitDATA= of its systemd unit",
        ),
    )
}

/// Refuses a minimum that would leave too little of the budget to all who have none.
async fn leave_enough(
    app: &App,
    transaction: &Transaction<'_>,
    tenant: &TenantId,
    min: u64,
) -> ApiResult<()> {
    let budget = app.node.target().server_connections_max;
    let most = u64::from(limits::minimums_max(budget));
    let others = store::minimums_of_others(transaction, tenant, app.node.name()).await?;
    if others.saturating_add(min) <= most {
        return Ok(());
    }
    let message = format!(
        "of {budget} server connections, {most} may be kept by minimums, and other databases have {others} \
         of them"
    );
    let left = most.saturating_sub(others);
    Err(
        ApiError::with(ErrorCode::MinimumsTooHigh, message).hint(format!(
            "ask for {left} at most, lower another database's, or raise the budget"
        )),
    )
}

/// Sets one limit to a value of a request.
fn apply(set: &mut LimitSet, name: &str, value: &Value) -> ApiResult<()> {
    let invalid = |message: String| ApiError::with(ErrorCode::InvalidField, message);
    if let Some(number) = Number::ALL
        .iter()
        .copied()
        .find(|known| known.name() == name)
    {
        let wanted = match value {
            Value::Null => None,
            value => {
                let wanted = value.as_u64();
                Some(wanted.ok_or_else(|| invalid(LimitError::Range(number).to_string()))?)
            }
        };
        return set.set_number(number, wanted).map_err(refused);
    }
    match (name, value) {
        (POOL_MODE, Value::Null) => set.pool_mode = None,
        (POOL_MODE, value) => {
            let mode = value.as_str().and_then(|word| word.parse().ok());
            let mode = mode.ok_or_else(|| {
                invalid(format!("{POOL_MODE} is auto, session, transaction or null"))
            })?;
            set.pool_mode = Some(mode);
        }
        (STATEMENT_LOG, Value::Null) => set.statement_log = None,
        (STATEMENT_LOG, value) => {
            let log = value.as_str().and_then(StatementLog::parse);
            let log = log.ok_or_else(|| {
                let words = StatementLog::ALL.map(|(_, word)| word).join(", ");
                invalid(format!("{STATEMENT_LOG} is {words} or null"))
            })?;
            set.statement_log = Some(log);
        }
        (ALLOWED_ADDRESSES, Value::Null) => set.set_addresses(None).map_err(refused)?,
        (ALLOWED_ADDRESSES, value) => {
            let list = value.as_array().ok_or_else(|| {
                invalid(format!(
                    "{ALLOWED_ADDRESSES} is a list of networks, or null"
                ))
            })?;
            let texts = list.iter().map(|text| text.as_str().unwrap_or_default());
            let networks = LimitSet::networks(texts)
                .map_err(|error| invalid(format!("{ALLOWED_ADDRESSES}: {error}")))?;
            set.set_addresses(Some(networks)).map_err(refused)?;
        }
        _ => {
            let mut known: Vec<&str> = Number::ALL.iter().map(|number| number.name()).collect();
            known.extend([POOL_MODE, ALLOWED_ADDRESSES, STATEMENT_LOG]);
            return Err(invalid(format!("there is no limit {}", quoted(name)))
                .hint(format!("the limits are {}", known.join(", "))));
        }
    }
    Ok(())
}

fn refused(error: LimitError) -> ApiError {
    let code = match error {
        LimitError::Range(_) | LimitError::TooManyNetworks => ErrorCode::InvalidField,
        LimitError::AboveOperators { .. } | LimitError::Operators(_) => ErrorCode::LimitNotAllowed,
    };
    let said = ApiError::with(code, error.to_string());
    match error {
        // No other value of the owner's would do.
        LimitError::Operators(_) => said.hint("leave it out, or ask the operator"),
        _ => said,
    }
}

#[cfg(test)]
mod tests {
    use model::route::NodeTls;

    use super::*;

    /// The document speaks of the limits that there are, by their names.
    #[test]
    fn every_limit_is_documented() {
        let documented = LimitValues {
            client_connections_max: Some(1),
            server_connections_max: Some(1),
            server_connections_min: Some(1),
            server_connections_weight: Some(1),
            statements_per_second: Some(1),
            statements_burst: Some(1),
            result_rows_max: Some(1),
            result_bytes_max: Some(1),
            storage_bytes_max: Some(1),
            memory_bytes_max: Some(1),
            statement_ms_max: Some(1),
            transaction_ms_max: Some(1),
            idle_in_transaction_ms_max: Some(1),
            client_idle_ms_max: Some(1),
            slow_statement_ms: Some(1),
            statement_log_sample: Some(1),
            statement_audit: Some(1),
            statement_log: Some(String::new()),
            pool_mode: Some(String::new()),
            allowed_addresses: Some(Vec::new()),
        };
        let documented = serde_json::to_value(documented).unwrap();
        let documented: Vec<&String> = documented.as_object().unwrap().keys().collect();
        let mut known: Vec<&str> = Number::ALL.iter().map(|number| number.name()).collect();
        known.extend([POOL_MODE, ALLOWED_ADDRESSES, STATEMENT_LOG]);
        known.sort_unstable();
        assert_eq!(documented, known);
    }

    #[test]
    fn memory_is_limited_only_where_the_system_of_the_server_is_ours() {
        let near = NodeAddress::Unix("/run/.s.PGSQL.5432".into());
        let far = NodeAddress::Tcp {
            host: "db.example".to_owned(),
            port: 5432,
            tls: NodeTls::Require,
        };
        for (number, value, refused) in [
            (Number::Memory, Some(1 << 28), true),
            (Number::Memory, Some(0), false),
            (Number::Memory, None, false),
            (Number::Storage, Some(1 << 28), false),
        ] {
            let mut set = LimitSet::default();
            set.set_number(number, value).unwrap();
            assert!(can_be_kept(&set, &near).is_ok());
            let result = can_be_kept(&set, &far);
            assert_eq!(result.is_err(), refused, "{number:?} {value:?}");
            if let Err(error) = result {
                assert_eq!(error.code, ErrorCode::LimitImpossible);
                assert!(!error.message.contains("db.example"), "nobody's address");
            }
        }
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        let check = |name: &str, value: Value, words: &str| {
            let mut set = LimitSet::default();
            let error = apply(&mut set, name, &value).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidField);
            assert!(error.message.contains(words), "{}", error.message);
            assert!(set.is_empty(), "nothing is changed");
        };
        let range = "statement_ms_max is a whole number from 10 to 604800000, or 0 for no limit";
        for value in [
            Value::from(-1),
            Value::from(1.5),
            Value::from("10"),
            Value::from(9),
            Value::from(true),
            Value::from(u64::MAX),
        ] {
            check("statement_ms_max", value, range);
        }
        check("server_connections_max", Value::from(0), "from 1 to 1000");
        check(
            "pool_mode",
            Value::from("statement"),
            "auto, session, transaction",
        );
        check(
            "allowed_addresses",
            Value::from("10.0.0.0/8"),
            "a list of networks",
        );
        check(
            "allowed_addresses",
            serde_json::json!([5]),
            "such as 192.0.2.0/24",
        );
        check(
            "allowed_addresses",
            serde_json::json!(["10.0.0.1/8"]),
            "no bits behind",
        );
        check(
            "max_connections",
            Value::from(1),
            "there is no limit 'max_connections'",
        );
    }
}
