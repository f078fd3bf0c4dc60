//! `/customer/alerts/rules`, `…/target` and `…/test`: the rules, and where alerts are told. What is open is in [`super::listed`].
//!
//! With the operator's token all of it is the operator's: of the node and of all databases.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use model::{MessageId, ProjectId, TenantId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{
    deliver, message,
    rule::{About, Kind, LASTING_MAX, Rule},
    send::{self, Target, TargetError},
    targets,
};
use crate::{
    api::{
        App,
        auth::{Kind as Who, Principal},
        error::{ApiError, ApiResult, ErrorBody, ErrorCode},
        extract::{DatabaseKey, Json, RuleKey, quoted},
        idempotency::{Kept, Ticket},
    },
    credential::new_token,
    tenant::store::{self as tenants, Purpose, lock_project},
};

/// Rules that a project may write.
const RULES_MAX: i64 = 100;
/// Between two tests of one project.
const TEST_EVERY: Duration = Duration::from_secs(5);

/// Whose alerts these are. A token of the operator's project that is not the operator's own does not speak for
/// all databases.
pub(super) fn party(app: &App, principal: &Principal) -> ApiResult<ProjectId> {
    principal.may_see_project()?;
    if principal.project == app.operator && principal.kind != Who::Operator {
        return Err(ErrorCode::OperatorOnly.into());
    }
    Ok(principal.project.clone())
}

/// The same of who wants to change something.
fn writer(app: &App, principal: &Principal) -> ApiResult<ProjectId> {
    principal.may_write()?;
    let project = party(app, principal)?;
    crate::audited::of_project(&project);
    Ok(project)
}

/// A rule: what holds for one kind of alert.
#[derive(Serialize, ToSchema)]
pub(crate) struct AlertRule {
    /// Null: it is the default, which nobody wrote.
    id: Option<String>,
    kind: &'static str,
    /// Id of the database that it is for; null: for all that have no rule of their own.
    database_id: Option<String>,
    /// False: nothing of this kind is an alert.
    enabled: bool,
    /// From this value on it is one; of `expiry`: from there down. Null: of `backup_age`, for each database what its
    /// schedule of backups allows; of `size_bytes`, none until somebody writes one.
    threshold: Option<f64>,
    unit: &'static str,
    /// For so long it has to be so, or to be over, before anybody is told.
    for_seconds: u64,
    /// What is compared with the threshold.
    what: &'static str,
}

fn describe(rule: &Rule) -> AlertRule {
    let said = rule.kind.said();
    AlertRule {
        id: rule.id.as_ref().map(ToString::to_string),
        kind: said.name,
        database_id: rule.tenant.as_ref().map(ToString::to_string),
        enabled: rule.is_on,
        threshold: (rule.id.is_some() || !matches!(rule.kind, Kind::BackupAge | Kind::SizeBytes))
            .then_some(rule.threshold),
        unit: said.unit,
        for_seconds: rule.lasting.as_secs(),
        what: said.what,
    }
}

/// Lists the rules: what was written, and the defaults of kinds for which nothing was written that is for all
/// databases.
#[utoipa::path(get, path = "/customer/alerts/rules", tag = "alerts", security(("bearer" = [])),
    operation_id = "list_alert_rules",
    responses((status = 200, body = Vec<AlertRule>), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody)))]
pub(crate) async fn list_rules(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> ApiResult<axum::Json<Vec<AlertRule>>> {
    let project = party(&app, &principal)?;
    let client = app.catalog.get().await?;
    let written = targets::rules(&client, &project).await?.0;
    let mut all = Vec::new();
    for kind in Kind::ALL {
        if !may_have(&app, &project, kind) {
            continue;
        }
        let own = written.iter().filter(|rule| rule.kind == kind);
        if !own.clone().any(|rule| rule.tenant.is_none()) {
            all.push(describe(&Rule::default_of(kind)));
        }
        all.extend(own.map(describe));
    }
    Ok(axum::Json(all))
}

fn may_have(app: &App, project: &ProjectId, kind: Kind) -> bool {
    kind.said().about != About::Node || *project == app.operator
}

/// A rule to be written. It takes the place of the one of the same kind and database.
#[derive(Deserialize, ToSchema)]
pub(crate) struct AlertRuleRequest {
    /// `latency`, `errors`, `connections`, `size`, `backup_age`, `backup_failed`, `drill_failed`, `expiry`; the operator also
    /// `server_connections` and `databases_behind`.
    kind: String,
    /// Id or name of one database; all when left out.
    database: Option<String>,
    /// In the unit of the kind; the default's when left out.
    threshold: Option<f64>,
    /// 0 to 86,400; the default's when left out.
    for_seconds: Option<u64>,
    /// False: nothing of this kind is an alert. True when left out.
    enabled: Option<bool>,
}

pub(super) fn invalid(message: String) -> ApiError {
    ApiError::with(ErrorCode::InvalidField, message)
}

fn read_rule(app: &App, project: &ProjectId, request: &AlertRuleRequest) -> ApiResult<Rule> {
    let kind = Kind::parse(&request.kind).filter(|kind| may_have(app, project, *kind));
    let kind = kind.ok_or_else(|| {
        let known = Kind::ALL.into_iter();
        let known = known.filter(|kind| may_have(app, project, *kind));
        let names: Vec<_> = known.map(Kind::as_str).collect();
        invalid(format!("there is no kind {} here", quoted(&request.kind)))
            .hint(format!("the kinds are {}", names.join(", ")))
    })?;
    let mut rule = Rule::default_of(kind);
    let said = kind.said();
    if let Some(threshold) = request.threshold {
        if !said.range.contains(&threshold) {
            return Err(invalid(format!(
                "threshold of {} is {} to {} {}",
                said.name,
                said.range.start(),
                said.range.end(),
                said.unit
            )));
        }
        rule.threshold = threshold;
    }
    if let Some(seconds) = request.for_seconds {
        rule.lasting = Duration::from_secs(seconds);
        if rule.lasting > LASTING_MAX {
            return Err(invalid(format!(
                "for_seconds is 0 to {}",
                LASTING_MAX.as_secs()
            )));
        }
    }
    if request.database.is_some() && said.about == About::Node {
        return Err(invalid(format!("{} is of no database", said.name)));
    }
    rule.is_on = request.enabled.unwrap_or(true);
    Ok(rule)
}

/// Writes a rule. The next look, within 15 s, goes by it.
#[utoipa::path(post, path = "/customer/alerts/rules", tag = "alerts", security(("bearer" = [])),
    operation_id = "set_alert_rule", request_body = AlertRuleRequest,
    responses((status = 201, body = AlertRule), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn set_rule(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    Json(request): Json<AlertRuleRequest>,
) -> ApiResult<(StatusCode, axum::Json<AlertRule>)> {
    let project = writer(&app, &principal)?;
    let mut rule = read_rule(&app, &project, &request)?;
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    lock_project(&transaction, &project).await?;
    if let Some(database) = &request.database {
        rule.tenant = Some(find(&transaction, &principal, database).await?);
    }
    let id = targets::set_rule(&transaction, &project, &rule, RULES_MAX).await?;
    rule.id = Some(id.ok_or_else(|| {
        ApiError::with(
            ErrorCode::TooManyRules,
            format!("there are {RULES_MAX} rules, which is as many as there may be"),
        )
    })?);
    let answer = describe(&rule);
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::CREATED, &body, Kept::Last)
        .await?;
    transaction.commit().await?;
    if let Some(id) = &rule.id {
        crate::audited::made(id);
    }
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

async fn find(
    transaction: &deadpool_postgres::Transaction<'_>,
    principal: &Principal,
    database: &str,
) -> ApiResult<TenantId> {
    let key = DatabaseKey {
        id: database.parse().ok(),
        name: database.parse().ok(),
    };
    let reach = principal.scope();
    let found = tenants::find(transaction, reach, &principal.project, &key, Purpose::Read).await?;
    Ok(found.ok_or(ErrorCode::DatabaseNotFound)?.id)
}

/// Something is gone.
#[derive(Serialize, ToSchema)]
pub(crate) struct Removed {
    /// Always `Removed`.
    message: &'static str,
}

const REMOVED: Removed = Removed { message: "Removed" };

/// Takes a rule back: the default holds, or the rule for all databases.
#[utoipa::path(delete, path = "/customer/alerts/rules/{rule}", tag = "alerts", security(("bearer" = [])),
    operation_id = "remove_alert_rule", params(("rule" = String, Path, description = "id of the rule")),
    responses((status = 200, body = Removed), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn remove_rule(
    State(app): State<Arc<App>>,
    principal: Principal,
    RuleKey(rule): RuleKey,
) -> ApiResult<axum::Json<Removed>> {
    let project = writer(&app, &principal)?;
    let rule = rule.ok_or(ErrorCode::AlertRuleNotFound)?;
    let client = app.catalog.get().await?;
    match targets::remove_rule(&client, &project, &rule).await? {
        true => Ok(axum::Json(REMOVED)),
        false => Err(ErrorCode::AlertRuleNotFound.into()),
    }
}

/// Where alerts are to be told.
#[derive(Deserialize, ToSchema)]
pub(crate) struct AlertTargetRequest {
    /// `https`, at an address that everybody can reach; the operator's at any, and `http` on its own machine.
    url: String,
    /// Makes a new secret, from the next message on. The first target always has one made.
    new_secret: Option<bool>,
}

/// Where alerts are told.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct AlertTarget {
    /// Null: nowhere.
    url: Option<String>,
    /// What messages are signed with; shown when it is made, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    set_at: Option<DateTime<Utc>>,
    /// A message was taken last.
    sent_at: Option<DateTime<Utc>>,
    /// One was not taken last, and why.
    failed_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
    /// Messages that are not taken yet.
    waiting: i64,
}

async fn target(
    client: &impl deadpool_postgres::GenericClient,
    project: &ProjectId,
) -> ApiResult<AlertTarget> {
    let row = targets::read(client, project).await?;
    Ok(row.map_or_else(AlertTarget::default, |row| AlertTarget {
        url: row.get(0),
        secret: None,
        set_at: row.get(1),
        sent_at: row.get(2),
        failed_at: row.get(3),
        last_error: row.get(4),
        waiting: row.get(5),
    }))
}

/// Where alerts are told, and what became of the last messages.
#[utoipa::path(get, path = "/customer/alerts/target", tag = "alerts", security(("bearer" = [])),
    operation_id = "alert_target",
    responses((status = 200, body = AlertTarget), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody)))]
pub(crate) async fn get_target(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> ApiResult<axum::Json<AlertTarget>> {
    let project = party(&app, &principal)?;
    let client = app.catalog.get().await?;
    Ok(axum::Json(target(&client, &project).await?))
}

/// Says where alerts are told, and from now on they are: also those that are open. The secret is in the answer
/// when it is made, and never shown again.
#[utoipa::path(post, path = "/customer/alerts/target", tag = "alerts", security(("bearer" = [])),
    operation_id = "set_alert_target", request_body = AlertTargetRequest,
    responses((status = 200, body = AlertTarget), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn set_target(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Ticket,
    Json(request): Json<AlertTargetRequest>,
) -> ApiResult<axum::Json<AlertTarget>> {
    let project = writer(&app, &principal)?;
    let url = Target::parse(&request.url, deliver::sender(&app, &project)).map_err(refused)?;
    url.look().await.map_err(refused)?;
    let make = || new_token("whs_");
    let fresh = request.new_secret.unwrap_or(false).then(make);
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    lock_project(&transaction, &project).await?;
    let secret = targets::set(&transaction, &app.keys, &project, url.as_str(), fresh, make).await?;
    let mut answer = target(&transaction, &project).await?;
    answer.secret = secret.map(|secret| secret.reveal().to_owned());
    let body = serde_json::to_vec(&answer).expect("an answer is plain data");
    ticket
        .keep_in(&transaction, StatusCode::OK, &body, Kept::Last)
        .await?;
    transaction.commit().await?;
    app.alerts.wake.notify_one();
    tracing::info!(%project, by = principal.maker(), "a webhook for alerts was set");
    Ok(axum::Json(answer))
}

fn refused(error: TargetError) -> ApiError {
    match error {
        TargetError::NotPublic => ErrorCode::WebhookNotAllowed.into(),
        error => invalid(error.to_string()),
    }
}

/// Tells nobody any more. Messages that wait are forgotten, and the secret.
#[utoipa::path(delete, path = "/customer/alerts/target", tag = "alerts", security(("bearer" = [])),
    operation_id = "remove_alert_target",
    responses((status = 200, body = Removed), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn remove_target(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> ApiResult<axum::Json<Removed>> {
    let project = writer(&app, &principal)?;
    let client = app.catalog.get().await?;
    match targets::remove(&client, &project).await? {
        true => Ok(axum::Json(REMOVED)),
        false => Err(ErrorCode::NoAlertTarget.into()),
    }
}

/// A test was taken.
#[derive(Serialize, ToSchema)]
pub(crate) struct AlertTest {
    /// Of the message.
    id: String,
    /// Of the webhook's answer.
    status: u16,
    took_ms: u64,
}

/// Sends a message of the type `alert.test` now, once, and says what the webhook answered. One in five seconds.
#[utoipa::path(post, path = "/customer/alerts/test", tag = "alerts", security(("bearer" = [])),
    operation_id = "test_alert_target",
    responses((status = 200, body = AlertTest), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 429, body = ErrorBody),
        (status = 502, body = ErrorBody)))]
pub(crate) async fn test(
    State(app): State<Arc<App>>,
    principal: Principal,
) -> ApiResult<axum::Json<AlertTest>> {
    let project = writer(&app, &principal)?;
    let client = app.catalog.get().await?;
    let target = targets::open(&client, &app.keys, &project).await?;
    let (url, secret) = target.ok_or(ErrorCode::NoAlertTarget)?;
    if !targets::begin_test(&client, &project, TEST_EVERY).await? {
        return Err(ApiError {
            retry_after: Some(TEST_EVERY),
            ..ApiError::with(
                ErrorCode::TooManyRequests,
                "a webhook is tested once in five seconds",
            )
        });
    }
    drop(client);
    let id = MessageId::random(&mut rand::rng());
    let body = message::body(&id, "alert.test", Utc::now(), None);
    let began = Instant::now();
    let sender = deliver::sender(&app, &project);
    let sent = send::send(&url, sender, &secret, &id, &body).await;
    app.counted
        .alert_message(if sent.is_ok() { "sent" } else { "given_up" });
    let error = sent.as_ref().err().map(ToString::to_string);
    let client = app.catalog.get().await?;
    targets::tried(&client, &project, error.as_deref()).await?;
    match (sent, error) {
        (Ok(status), _) => Ok(axum::Json(AlertTest {
            id: id.to_string(),
            status,
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        })),
        (Err(_), error) => Err(ApiError::with(
            ErrorCode::WebhookFailed,
            format!(
                "the webhook did not take the message: {}",
                error.unwrap_or_default()
            ),
        )),
    }
}
