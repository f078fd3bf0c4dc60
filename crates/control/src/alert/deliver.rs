//! Messages on their way: which is tried next, and what came of it.
//!
//! Of each project one at a time, whoever was tried longest ago first, so that a webhook that hangs holds up its
//! own messages only; of each alert in order. A message that may have arrived is sent again with the same id.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::GenericClient;
use model::{MessageId, ProjectId};
use rand::RngExt;
use tokio::sync::Semaphore;
use tokio_postgres::types::ToSql;

use super::{
    send::{self, SendError, Sender},
    targets,
};
use crate::{
    api::{App, error::chain},
    catalog::{self, CatalogError, parse},
    tasks::Tasks,
};

/// Sent at once, of all projects together.
const SENT_AT_ONCE: usize = 8;
/// How long others leave a message alone that is being sent. Longer than sending takes.
const LEASE: Duration = Duration::from_secs(60);
/// A look at the catalog at least this often.
const TICK: Duration = Duration::from_secs(5);
/// The first pause after a failure. It doubles, up to [`PAUSE_MAX`], and is a fifth longer or shorter by chance, so
/// that webhooks that were away together are not all asked together.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// A message that failed so often is given up: after some three and a half hours.
const ATTEMPTS_MAX: i32 = 12;

/// What a process of this name was sending is anybody's: it ended, and nobody wrote down that it was taken.
pub(crate) async fn void_leases(app: &App) -> Result<(), CatalogError> {
    let client = app.catalog.get().await?;
    let sql = "UPDATE alert_message SET leased_by = NULL, leased_until = NULL WHERE leased_by = $1";
    catalog::execute(&client, sql, &[&app.config.instance]).await?;
    Ok(())
}

/// Sends for ever.
pub(crate) async fn run(app: Arc<App>, tasks: Tasks) {
    let permits = Arc::new(Semaphore::new(SENT_AT_ONCE));
    loop {
        let woken = app.alerts.wake.notified();
        if let Err(error) = pass(&app, &tasks, &permits).await {
            error.tell("alert messages");
        }
        let _ = tokio::time::timeout(TICK, woken).await;
    }
}

async fn pass(app: &Arc<App>, tasks: &Tasks, permits: &Arc<Semaphore>) -> Result<(), CatalogError> {
    let client = app.catalog.get().await?;
    let room = permits.available_permits();
    if room == 0 {
        return Ok(());
    }
    for due in take_due(&client, &app.config.instance, room).await? {
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            // Its lease ends.
            break;
        };
        let app = app.clone();
        tasks.spawn("alert message", async move {
            if let Err(error) = deliver(&app, &due).await {
                tracing::debug!(id = %due.id, error = %chain(&error), "what became of a message is not written");
            }
            drop(permit);
            app.alerts.wake.notify_one();
        });
    }
    Ok(())
}

struct Due {
    id: MessageId,
    project: ProjectId,
    body: String,
    attempts: i32,
}

/// The first message of each project whose time has come, for this process.
async fn take_due(
    client: &impl GenericClient,
    own: &str,
    room: usize,
) -> Result<Vec<Due>, CatalogError> {
    let sql = "UPDATE alert_message SET leased_by = $1, leased_until = now() + make_interval(secs => $2)
        WHERE id IN (
            SELECT d.id FROM (
                SELECT DISTINCT ON (m.project_id) m.id, m.project_id FROM alert_message m
                WHERE m.state = 'waiting' AND m.due_at <= now() AND NOT EXISTS (
                    SELECT FROM alert_message e
                    WHERE e.alert_id = m.alert_id AND e.state = 'waiting' AND e.number < m.number)
                ORDER BY m.project_id, m.number) d
            JOIN alert_target t ON t.project_id = d.project_id
            WHERE NOT EXISTS (SELECT FROM alert_message o
                WHERE o.project_id = d.project_id AND o.state = 'waiting' AND o.leased_until > now())
            ORDER BY t.tried_at NULLS FIRST LIMIT $3)
            AND state = 'waiting' AND due_at <= now() AND (leased_until IS NULL OR leased_until <= now())
        RETURNING id, project_id, body, attempts";
    let room = i64::try_from(room).unwrap_or(i64::MAX);
    let values: [&(dyn ToSql + Sync); 3] = [&own, &LEASE.as_secs_f64(), &room];
    let rows = catalog::query(client, sql, &values).await?;
    let due = rows.iter().map(|row| Due {
        id: parse(row.get(0)),
        project: parse(row.get(1)),
        body: row.get(2),
        attempts: row.get(3),
    });
    Ok(due.collect())
}

async fn deliver(app: &App, due: &Due) -> Result<(), CatalogError> {
    let client = app.catalog.get().await?;
    let target = targets::open(&client, &app.keys, &due.project).await?;
    drop(client);
    let sent = match &target {
        Some((url, secret)) => {
            let sender = sender(app, &due.project);
            send::send(url, sender, secret, &due.id, &due.body).await
        }
        None => Err(SendError::Http(
            "the key of this installation does not open the secret of the webhook: set it anew"
                .to_owned(),
        )),
    };
    let is_last = due.attempts + 1 >= ATTEMPTS_MAX;
    let result = match &sent {
        Ok(_) => "sent",
        Err(_) if is_last => "given_up",
        Err(_) => "failed",
    };
    app.counted.alert_message(result);
    let error = sent.as_ref().err().map(ToString::to_string);
    if let Some(error) = &error {
        tracing::warn!(id = %due.id, project = %due.project, attempt = due.attempts + 1, is_last, error,
            "a message of an alert was not taken");
    }
    let pause = pause(due.attempts, rand::rng().random_range(-0.2..0.2));
    let mut client = app.catalog.get().await?;
    // Whoever sees an attempt counted also sees what the webhook said to it. The target comes first, as where a
    // target is removed with its messages: in the other order the two wait for each other.
    let transaction = client.transaction().await?;
    targets::tried(&transaction, &due.project, error.as_deref()).await?;
    let sql = "UPDATE alert_message SET leased_by = NULL, leased_until = NULL, attempts = attempts + 1, last_error = $3,
            state = CASE WHEN $3::text IS NULL THEN 'sent' WHEN $4 THEN 'failed' ELSE state END,
            ended_at = CASE WHEN $3::text IS NULL OR $4 THEN now() END,
            due_at = now() + make_interval(secs => $5)
        WHERE id = $1 AND leased_by = $2 AND state = 'waiting'";
    let values: [&(dyn ToSql + Sync); 5] = [
        &due.id.as_str(),
        &app.config.instance,
        &error,
        &is_last,
        &pause.as_secs_f64(),
    ];
    catalog::execute(&transaction, sql, &values).await?;
    Ok(transaction.commit().await?)
}

/// Whose word sends it there: only the operator sets the target of the operator's project.
pub(super) fn sender(app: &App, project: &ProjectId) -> Sender {
    match *project == app.operator {
        true => Sender::Operator,
        false => Sender::Owner,
    }
}

/// After so many attempts and one that failed. `chance`: −0.2 to 0.2.
fn pause(attempts: i32, chance: f64) -> Duration {
    let doubled = PAUSE_FIRST.saturating_mul(1 << attempts.clamp(0, 20));
    doubled.min(PAUSE_MAX).mul_f64(1.0 + chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_end_after_some_hours() {
        let all: Vec<u64> = (0..ATTEMPTS_MAX - 1)
            .map(|attempts| pause(attempts, 0.0).as_secs())
            .collect();
        assert_eq!(all, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        assert_eq!(pause(i32::MAX, 0.2), PAUSE_MAX.mul_f64(1.2));
        assert_eq!(pause(0, -0.2), Duration::from_secs(8));
    }
}
