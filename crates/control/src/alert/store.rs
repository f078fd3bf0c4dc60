//! Rows of alerts, and what is known of what they may be about.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Object};
use model::{AlertId, Limits, ProjectId, TenantId};
use serde_json::Value;
use tokio_postgres::{Row, types::ToSql};

use super::{
    look::{Database, Key, Seen, Token},
    rule::Kind,
    step::{Next, Standing},
};
use crate::{
    backup::schedule::{BackupSchedule, Times},
    catalog::{self, CatalogError, parse},
    limits::store::from_row,
};

/// Alerts of one project that have not ended. More are not begun: whoever has so many has one reason.
const STANDING_MAX: i64 = 1_000;
/// Ended ones that are kept of one project, and for how long.
const ENDED_MAX: i64 = 1_000;
const ENDED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// It is this process's turn until `lease` is over: the time of the catalog's clock. `is_asked`: also when it
/// is too early. None: another one is at it, or it is too early.
pub(super) async fn begin_pass(
    client: &impl GenericClient,
    own: &str,
    lease: Duration,
    is_asked: bool,
) -> Result<Option<DateTime<Utc>>, CatalogError> {
    let sql = "UPDATE alert_pass SET leased_by = $1, leased_until = now() + make_interval(secs => $2)
        WHERE (leased_until IS NULL OR leased_until < now() OR leased_by = $1) AND (due_at <= now() OR $3)
        RETURNING now()";
    let row = catalog::query_opt(client, sql, &[&own, &lease.as_secs_f64(), &is_asked]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// It goes on. False: others took it for gone.
pub(super) async fn go_on(
    client: &impl GenericClient,
    own: &str,
    lease: Duration,
) -> Result<bool, CatalogError> {
    let sql = "UPDATE alert_pass SET leased_until = now() + make_interval(secs => $2) WHERE leased_by = $1";
    Ok(catalog::execute(client, sql, &[&own, &lease.as_secs_f64()]).await? == 1)
}

/// It is over; the next one begins after `wait`.
pub(super) async fn end_pass(
    client: &impl GenericClient,
    own: &str,
    wait: Duration,
) -> Result<(), CatalogError> {
    let sql = "UPDATE alert_pass SET leased_by = NULL, leased_until = NULL, due_at = now() + make_interval(secs => $2)
        WHERE leased_by = $1";
    catalog::execute(client, sql, &[&own, &wait.as_secs_f64()]).await?;
    Ok(())
}

/// The next databases in use, by their ids. What they did lately is not among it.
pub(super) async fn databases(
    client: &impl GenericClient,
    schedule: &BackupSchedule,
    after: &str,
    most: i64,
) -> Result<Vec<Database>, CatalogError> {
    let sql = "SELECT t.id, t.name, t.project_id, extract(epoch FROM now() - t.created_at)::float8 / 3600,
            extract(epoch FROM t.expires_at - now())::float8 / 3600, p.storage_bytes, to_json(by_operator), to_json(by_owner),
            (SELECT coalesce(sum(c.clients), 0)::bigint FROM insight_client c JOIN process o ON o.id = c.process_id
             WHERE c.tenant_id = t.id AND o.alive_until > now()),
            extract(epoch FROM now() - coalesce((SELECT max(coalesce(b.moment, b.finished_at)) FROM backup b
                WHERE b.tenant_id = t.id AND b.state = 'ready' AND b.verify_error IS NULL), t.activated_at))::float8 / 3600,
            coalesce((SELECT s.every_s::float8 FROM backup_schedule s WHERE s.tenant_id = t.id), $3),
            coalesce((SELECT l.state = 'failed' FROM backup l
                WHERE l.tenant_id = t.id AND l.state IN ('ready', 'failed') AND l.kind <> 'moment'
                ORDER BY l.created_at DESC, l.id LIMIT 1), false),
            coalesce((SELECT d.state = 'failed' FROM drill d WHERE d.tenant_id = t.id AND d.state <> 'running'
                ORDER BY d.asked_at DESC, d.id LIMIT 1), false)
        FROM tenant t JOIN placement p ON p.pid = t.pid
        LEFT JOIN tenant_limits by_operator ON by_operator.tenant_id = t.id AND by_operator.set_by = 'operator'
        LEFT JOIN tenant_limits by_owner ON by_owner.tenant_id = t.id AND by_owner.set_by = 'owner'
        WHERE t.id > $1 AND t.state = 'ACTIVE' ORDER BY t.id LIMIT $2";
    let every = schedule.every.as_secs_f64();
    let rows = catalog::query(client, sql, &[&after, &most, &every]).await?;
    let set = |row: &Row, column| {
        let json: Option<Value> = row.get(column);
        json.as_ref().map(from_row).unwrap_or_default()
    };
    let age_max = |id: &TenantId, every_s: f64| {
        let every = Duration::try_from_secs_f64(every_s).unwrap_or_default();
        let times = Times::of(id, every, schedule.window)?;
        Some(times.age_max().as_secs_f64() / 3600.0)
    };
    let database = |row: &Row| Database {
        backup_age_hours_max: age_max(&parse(row.get(0)), row.get(10)),
        id: parse(row.get(0)),
        name: row.get(1),
        project: parse(row.get(2)),
        age_hours: row.get(3),
        left_hours: row.get(4),
        bytes: row.get::<_, Option<i64>>(5).map(i64::unsigned_abs),
        limits: Limits::of(&set(row, 6), &set(row, 7)),
        clients: row.get::<_, i64>(8).unsigned_abs(),
        backup_age_hours: row.get(9),
        is_backup_failed: row.get(11),
        is_drill_failed: row.get(12),
        recent: model::insight::Counts::default(),
    };
    Ok(rows.iter().map(database).collect())
}

/// Tokens and keys that expire soonest, of projects that have rules. Those that came with a registration are
/// made anew by it.
pub(super) async fn tokens(
    client: &impl GenericClient,
    operator: &ProjectId,
    within: Duration,
    most: i64,
) -> Result<Vec<Token>, CatalogError> {
    let sql = "SELECT c.id, c.name, p.id, extract(epoch FROM now() - c.created_at)::float8 / 3600,
            extract(epoch FROM c.expires_at - now())::float8 / 3600
        FROM credential c LEFT JOIN tenant t ON t.id = c.tenant_id
        JOIN project p ON p.id = coalesce(c.project_id, t.project_id)
        WHERE c.expires_at > now() AND c.expires_at <= now() + make_interval(secs => $2) AND c.revoked_at IS NULL
            AND (c.kind = 'key' OR c.kind = 'token' AND c.name IS NOT NULL)
            AND (p.id = $1 OR EXISTS (SELECT FROM alert_target a WHERE a.project_id = p.id)
                OR EXISTS (SELECT FROM alert_rule a WHERE a.project_id = p.id))
        ORDER BY c.expires_at, c.id LIMIT $3";
    let values: [&(dyn ToSql + Sync); 3] = [&operator.as_str(), &within.as_secs_f64(), &most];
    let rows = catalog::query(client, sql, &values).await?;
    let token = |row: &Row| Token {
        id: row.get(0),
        name: row.get(1),
        project: parse(row.get(2)),
        age_hours: row.get(3),
        left_hours: row.get(4),
    };
    Ok(rows.iter().map(token).collect())
}

/// An alert that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) id: AlertId,
    pub(super) standing: Standing,
}

const STANDING: &str =
    "SELECT id, project_id, kind, subject, state = 'open', since, gone_since FROM alert";

fn known(row: &Row) -> Option<(Key, Known)> {
    let key = Key {
        project: parse(row.get(1)),
        // Of a newer program; it looks after it.
        kind: Kind::parse(row.get(2))?,
        subject: row.get(3),
    };
    let standing = match row.get(4) {
        true => Standing::Open {
            gone_since: row.get(6),
        },
        false => Standing::Pending { since: row.get(5) },
    };
    let id = parse(row.get(0));
    Some((key, Known { id, standing }))
}

/// Those about some subjects.
pub(super) async fn standing(
    client: &impl GenericClient,
    subjects: &[&str],
) -> Result<HashMap<Key, Known>, CatalogError> {
    let sql = format!("{STANDING} WHERE subject = ANY ($1) AND state <> 'resolved'");
    let rows = catalog::query(client, &sql, &[&subjects]).await?;
    Ok(rows.iter().filter_map(known).collect())
}

/// Those that the pass which began then did not come across: what they are about is gone, or nobody looks at
/// it any more.
pub(super) async fn left_over(
    client: &impl GenericClient,
    began: DateTime<Utc>,
    most: i64,
) -> Result<Vec<Known>, CatalogError> {
    let sql = format!("{STANDING} WHERE state <> 'resolved' AND seen_at < $1 ORDER BY id LIMIT $2");
    let rows = catalog::query(client, &sql, &[&began, &most]).await?;
    let all = rows.iter().filter_map(known);
    Ok(all.map(|(_, known)| known).collect())
}

/// What is written of a page.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Alerts that begin: open, or pending.
    begin: Vec<(Seen, bool)>,
    /// Those that stand, with what is known now.
    keep: Vec<(AlertId, Option<f64>, f64, bool)>,
    open: Vec<AlertId>,
    resolve: Vec<AlertId>,
    forget: Vec<AlertId>,
}

impl Changes {
    /// What follows for an alert that stands, or for none.
    pub(super) fn note(&mut self, seen: Seen, known: Option<&Known>, next: Next) {
        let Some(known) = known else {
            match next {
                Next::Open => self.begin.push((seen, true)),
                Next::Note => self.begin.push((seen, false)),
                _ => {}
            }
            return;
        };
        match next {
            Next::Resolve => self.resolve.push(known.id.clone()),
            Next::Forget => self.forget.push(known.id.clone()),
            Next::Open => self.open.push(known.id.clone()),
            Next::Rest | Next::Note | Next::Holds | Next::Gone => {}
        }
        let holds = seen.holds();
        self.keep
            .push((known.id.clone(), seen.value, seen.threshold, holds));
    }

    /// Nobody looks at it any more.
    pub(super) fn end(&mut self, known: &Known) {
        match known.standing {
            Standing::Pending { .. } => self.forget.push(known.id.clone()),
            Standing::Open { .. } => self.resolve.push(known.id.clone()),
        }
    }
}

fn ids(all: &[AlertId]) -> Vec<&str> {
    all.iter().map(AlertId::as_str).collect()
}

/// Writes it, all or nothing. Done twice, or by two, it is done once.
pub(super) async fn write(
    client: &mut Object,
    changes: &Changes,
    began: DateTime<Utc>,
) -> Result<(), CatalogError> {
    let transaction = client.transaction().await?;
    if !changes.keep.is_empty() {
        let keep = changes.keep.iter();
        let own: Vec<&str> = keep.clone().map(|own| own.0.as_str()).collect();
        let values: Vec<Option<f64>> = keep.clone().map(|own| own.1).collect();
        let thresholds: Vec<f64> = keep.clone().map(|own| own.2).collect();
        let holds: Vec<bool> = keep.map(|own| own.3).collect();
        let sql = "UPDATE alert a SET seen_at = $1, value = coalesce(k.value, a.value), threshold = k.threshold,
                gone_since = CASE WHEN k.holds THEN NULL ELSE coalesce(a.gone_since, $1) END
            FROM unnest($2::text[], $3::float8[], $4::float8[], $5::bool[]) AS k (id, value, threshold, holds)
            WHERE a.id = k.id AND a.state <> 'resolved'";
        let rows: [&(dyn ToSql + Sync); 5] = [&began, &own, &values, &thresholds, &holds];
        catalog::execute(&transaction, sql, &rows).await?;
    }
    if !changes.forget.is_empty() {
        let sql = "DELETE FROM alert WHERE id = ANY ($1) AND state = 'pending'";
        catalog::execute(&transaction, sql, &[&ids(&changes.forget)]).await?;
    }
    if !changes.open.is_empty() {
        let sql = "UPDATE alert SET state = 'open', opened_at = $2, untold = 'opened'
            WHERE id = ANY ($1) AND state = 'pending'";
        catalog::execute(&transaction, sql, &[&ids(&changes.open), &began]).await?;
    }
    if !changes.resolve.is_empty() {
        // Of what nobody was told, nobody is told that it is over.
        let sql = "UPDATE alert SET state = 'resolved', resolved_at = $2,
                untold = CASE WHEN untold IS NULL THEN 'resolved' END
            WHERE id = ANY ($1) AND state = 'open'";
        catalog::execute(&transaction, sql, &[&ids(&changes.resolve), &began]).await?;
    }
    if !changes.begin.is_empty() {
        begin(&transaction, &changes.begin, began).await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn begin(
    client: &impl GenericClient,
    new: &[(Seen, bool)],
    began: DateTime<Utc>,
) -> Result<(), CatalogError> {
    let fresh: Vec<String> = new
        .iter()
        .map(|_| AlertId::random(&mut rand::rng()).to_string())
        .collect();
    let text = |of: fn(&Seen) -> Option<&str>| -> Vec<Option<&str>> {
        new.iter().map(|(seen, _)| of(seen)).collect()
    };
    let projects = text(|seen| Some(seen.key.project.as_str()));
    let kinds = text(|seen| Some(seen.key.kind.as_str()));
    let abouts = text(|seen| Some(seen.about));
    let subjects = text(|seen| Some(&seen.key.subject));
    let names = text(|seen| seen.name.as_deref());
    let owners = text(|seen| seen.owner.as_ref().map(ProjectId::as_str));
    let are_open: Vec<bool> = new.iter().map(|(_, is_open)| *is_open).collect();
    let values: Vec<f64> = new
        .iter()
        .map(|(seen, _)| seen.value.unwrap_or_default())
        .collect();
    let thresholds: Vec<f64> = new.iter().map(|(seen, _)| seen.threshold).collect();
    let sql = "INSERT INTO alert (id, project_id, kind, about, subject, subject_name, subject_project_id, state, value,
            threshold, since, opened_at, seen_at, untold)
        SELECT id, project, kind, about, subject, name, owner, CASE WHEN is_open THEN 'open' ELSE 'pending' END, value,
            threshold, $1::timestamptz, CASE WHEN is_open THEN $1::timestamptz END, $1::timestamptz, CASE WHEN is_open THEN 'opened' END
        FROM (SELECT *, row_number() OVER (PARTITION BY project ORDER BY id)
                + (SELECT count(*) FROM alert a WHERE a.project_id = project AND a.state <> 'resolved') AS number
            FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bool[],
                $10::float8[], $11::float8[])
            AS n (id, project, kind, about, subject, name, owner, is_open, value, threshold)) n
        WHERE number <= $12 AND EXISTS (SELECT FROM project p WHERE p.id = n.project)
        ON CONFLICT (project_id, kind, subject) WHERE state <> 'resolved' DO NOTHING";
    let rows: [&(dyn ToSql + Sync); 12] = [
        &began,
        &fresh,
        &projects,
        &kinds,
        &abouts,
        &subjects,
        &names,
        &owners,
        &are_open,
        &values,
        &thresholds,
        &STANDING_MAX,
    ];
    let begun = catalog::execute(client, sql, &rows).await?;
    let left_out = new.len() as u64 - begun;
    if left_out > 0 {
        tracing::warn!(
            left_out,
            "a project has as many alerts as it may have at once; more were not begun"
        );
    }
    Ok(())
}

/// Forgets alerts that ended long ago, and those of a project that has many.
pub(super) async fn sweep(client: &impl GenericClient, most: i64) -> Result<(), CatalogError> {
    let sql = "DELETE FROM alert WHERE id IN (
            SELECT id FROM (
                SELECT id, resolved_at, row_number() OVER (PARTITION BY project_id ORDER BY resolved_at DESC) AS number
                FROM alert WHERE state = 'resolved') a
            WHERE (number > $1 OR resolved_at < now() - make_interval(secs => $2))
                AND NOT EXISTS (SELECT FROM alert_message m WHERE m.alert_id = a.id AND m.state = 'waiting')
            LIMIT $3)";
    catalog::execute(client, sql, &[&ENDED_MAX, &ENDED_KEPT.as_secs_f64(), &most]).await?;
    Ok(())
}

/// What is shown of alerts, newest first: those that are open, or all.
pub(super) async fn list(
    client: &impl GenericClient,
    project: &ProjectId,
    only: Option<&str>,
    most: i64,
) -> Result<Vec<Row>, CatalogError> {
    let sql = "SELECT a.id, a.kind, a.state, a.about, a.subject, a.subject_name, a.subject_project_id, a.value,
            a.threshold, a.since, a.opened_at, a.resolved_at, m.event, m.state, m.attempts, m.last_error
        FROM alert a LEFT JOIN LATERAL (
            SELECT * FROM alert_message m WHERE m.alert_id = a.id ORDER BY m.number DESC LIMIT 1) m ON true
        WHERE a.project_id = $1 AND a.state <> 'pending' AND a.state = coalesce($2, a.state)
        ORDER BY a.opened_at DESC, a.id LIMIT $3";
    catalog::query(client, sql, &[&project.as_str(), &only, &most]).await
}
