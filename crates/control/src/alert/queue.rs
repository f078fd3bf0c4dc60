//! Messages that are to be sent: written once for each alert that opened or ended, with their text as it is sent
//! every time; and their numbers.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Object};
use model::{AlertId, MessageId, ProjectId, exposition::Page};
use tokio_postgres::Row;

use super::{
    message::{self, Subject, Told},
    rule::Kind,
};
use crate::{
    api::App,
    catalog::{self, CatalogError, parse},
};

/// Messages of one project that wait. What opens meanwhile is told when there is room, or never if it is over by
/// then.
const WAITING_MAX: i64 = 1_000;
/// Written in one transaction.
const BATCH: i64 = 200;

/// Columns of an alert, for [`told`].
const ALERT: &str =
    "a.id, a.kind, a.about, a.subject, a.subject_name, a.subject_project_id, a.value, a.threshold,
    a.since, a.opened_at, a.resolved_at";

fn told(row: &Row) -> Option<Told> {
    let kind = Kind::parse(row.get(1))?;
    let subject = Subject::read(row);
    let (value, threshold) = (row.get(6), row.get(7));
    Some(Told {
        id: row.get(0),
        kind: kind.as_str(),
        text: message::text(kind, &subject, value, threshold),
        subject,
        value,
        threshold,
        unit: kind.said().unit,
        since: row.get(8),
        opened_at: row.get(9),
        resolved_at: row.get(10),
    })
}

/// Writes messages of all that is untold and has somebody to be told to.
pub(super) async fn fill(app: &App) -> Result<(), CatalogError> {
    let mut client = app.catalog.get().await?;
    while fill_some(&mut client).await? == BATCH as usize {}
    Ok(())
}

async fn fill_some(client: &mut Object) -> Result<usize, CatalogError> {
    let transaction = client.transaction().await?;
    // The end of what could not be told is not told.
    let sql = "UPDATE alert a SET untold = NULL WHERE untold = 'resolved' AND NOT EXISTS (
            SELECT FROM alert_message m WHERE m.alert_id = a.id AND m.event = 'opened' AND m.state <> 'failed')";
    catalog::execute(&transaction, sql, &[]).await?;
    let sql = format!(
        "SELECT {ALERT}, a.untold, a.project_id, now() FROM alert a JOIN alert_target t ON t.project_id = a.project_id
        WHERE a.untold IS NOT NULL AND (SELECT count(*) FROM alert_message m
            WHERE m.project_id = a.project_id AND m.state = 'waiting') < $1
        ORDER BY a.opened_at, a.id LIMIT $2 FOR UPDATE OF a SKIP LOCKED"
    );
    let rows = catalog::query(&transaction, &sql, &[&WAITING_MAX, &BATCH]).await?;
    for row in &rows {
        let id: AlertId = parse(row.get(0));
        let (event, project): (&str, ProjectId) = (row.get(11), parse(row.get(12)));
        if let Some(told) = told(row) {
            write(&transaction, &project, event, row.get(13), &told).await?;
        }
        let sql = "UPDATE alert SET untold = NULL WHERE id = $1";
        catalog::execute(&transaction, sql, &[&id.as_str()]).await?;
    }
    transaction.commit().await?;
    Ok(rows.len())
}

async fn write(
    client: &impl GenericClient,
    project: &ProjectId,
    event: &str,
    now: DateTime<Utc>,
    told: &Told,
) -> Result<(), CatalogError> {
    let id = MessageId::random(&mut rand::rng());
    let body = message::body(&id, &format!("alert.{event}"), now, Some(told));
    let sql = "INSERT INTO alert_message (id, alert_id, project_id, event, body) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (alert_id, event) DO NOTHING";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&id.as_str(), &told.id, &project.as_str(), &event, &body];
    catalog::execute(client, sql, &values).await?;
    Ok(())
}

/// What `/metrics` tells, of the catalog.
pub(crate) struct Numbers {
    /// The operator's open alerts, by kind.
    open: BTreeMap<String, u64>,
    waiting: u64,
}

/// The numbers of now.
pub(crate) async fn numbers(
    client: &impl GenericClient,
    operator: &ProjectId,
) -> Result<Numbers, CatalogError> {
    let sql =
        "SELECT kind, count(*) FROM alert WHERE project_id = $1 AND state = 'open' GROUP BY kind";
    let rows = catalog::query(client, sql, &[&operator.as_str()]).await?;
    let open = rows
        .iter()
        .map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs()));
    let open = open.collect();
    let sql = "SELECT count(*) FROM alert_message WHERE state = 'waiting'";
    let waiting = catalog::query_one(client, sql, &[]).await?;
    Ok(Numbers {
        open,
        waiting: waiting.get::<_, i64>(0).unsigned_abs(),
    })
}

/// Their part of the page.
pub(crate) fn write_metrics(page: &mut Page, numbers: &Numbers) {
    let mut family = page.gauge(
        "tenantry_alerts_open",
        "Open alerts of the operator's rules, by kind.",
    );
    for kind in Kind::ALL {
        let open = numbers.open.get(kind.as_str()).copied().unwrap_or(0);
        family.sample(&[("kind", kind.as_str())], open);
    }
    page.gauge(
        "tenantry_alert_messages_waiting",
        "Messages of alerts that no webhook has taken yet, of all projects.",
    )
    .sample(&[], numbers.waiting);
}
