//! Rows of rules and of targets.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use deadpool_postgres::GenericClient;
use model::{AlertRuleId, ProjectId, Secret, TenantId};
use tokio_postgres::{Row, types::ToSql};

use super::rule::{Kind, Rule, Rules};
use crate::{
    catalog::{self, CatalogError, parse},
    keys::{self, Keys},
};

const RULE: &str =
    "SELECT id, kind, tenant_id, is_on, threshold, for_s, project_id FROM alert_rule";

/// None: of a kind that this program does not know.
fn rule(row: &Row) -> Option<Rule> {
    Some(Rule {
        id: Some(parse(row.get(0))),
        kind: Kind::parse(row.get(1))?,
        tenant: row.get::<_, Option<&str>>(2).map(parse),
        is_on: row.get(3),
        threshold: row.get(4),
        lasting: Duration::from_secs(row.get::<_, i32>(5).unsigned_abs().into()),
    })
}

/// What a project said, oldest first.
pub(super) async fn rules(
    client: &impl GenericClient,
    project: &ProjectId,
) -> Result<Rules, CatalogError> {
    let sql = format!("{RULE} WHERE project_id = $1 ORDER BY created_at, id");
    let rows = catalog::query(client, &sql, &[&project.as_str()]).await?;
    Ok(Rules(rows.iter().filter_map(rule).collect()))
}

/// The rules of those of some projects that have any or a target. Of others, nothing is looked at. The operator
/// is none of them.
pub(super) async fn owners(
    client: &impl GenericClient,
    operator: &ProjectId,
    projects: HashSet<&ProjectId>,
) -> Result<HashMap<ProjectId, Rules>, CatalogError> {
    let projects: Vec<&str> = projects
        .into_iter()
        .filter(|project| *project != operator)
        .map(ProjectId::as_str)
        .collect();
    if projects.is_empty() {
        return Ok(HashMap::new());
    }
    let mut all = HashMap::new();
    let sql = "SELECT project_id FROM alert_target WHERE project_id = ANY ($1)";
    for row in catalog::query(client, sql, &[&projects]).await? {
        all.insert(parse(row.get(0)), Rules::default());
    }
    let sql = format!("{RULE} WHERE project_id = ANY ($1)");
    for row in catalog::query(client, &sql, &[&projects]).await? {
        let project: ProjectId = parse(row.get(6));
        all.entry(project).or_default().0.extend(rule(&row));
    }
    Ok(all)
}

/// Makes a rule in the place of the one of the same kind and database. None: the project has `most`.
pub(super) async fn set_rule(
    client: &impl GenericClient,
    project: &ProjectId,
    new: &Rule,
    most: i64,
) -> Result<Option<AlertRuleId>, CatalogError> {
    let id = AlertRuleId::random(&mut rand::rng());
    let tenant = new.tenant.as_ref().map(TenantId::as_str);
    let lasting = i32::try_from(new.lasting.as_secs()).unwrap_or(i32::MAX);
    let sql =
        "INSERT INTO alert_rule AS own (id, project_id, kind, tenant_id, is_on, threshold, for_s)
        SELECT $1, $2, $3, $4, $5, $6, $7
        WHERE (SELECT count(*) FROM alert_rule r WHERE r.project_id = $2
            AND NOT (r.kind = $3 AND r.tenant_id IS NOT DISTINCT FROM $4)) < $8
        ON CONFLICT ON CONSTRAINT alert_rule_one DO UPDATE
            SET is_on = excluded.is_on, threshold = excluded.threshold, for_s = excluded.for_s
        RETURNING id";
    let values: [&(dyn ToSql + Sync); 8] = [
        &id.as_str(),
        &project.as_str(),
        &new.kind.as_str(),
        &tenant,
        &new.is_on,
        &new.threshold,
        &lasting,
        &most,
    ];
    let row = catalog::query_opt(client, sql, &values).await?;
    Ok(row.map(|row| parse(row.get(0))))
}

/// Takes a rule back. False: the project has none of this id.
pub(super) async fn remove_rule(
    client: &impl GenericClient,
    project: &ProjectId,
    rule: &AlertRuleId,
) -> Result<bool, CatalogError> {
    let sql = "DELETE FROM alert_rule WHERE project_id = $1 AND id = $2";
    let values: [&(dyn ToSql + Sync); 2] = [&project.as_str(), &rule.as_str()];
    Ok(catalog::execute(client, sql, &values).await? == 1)
}

/// Says where alerts are told. The secret stays, unless there is none or `fresh` takes its place: then it is
/// what is returned.
pub(super) async fn set(
    client: &impl GenericClient,
    keys: &Keys,
    project: &ProjectId,
    url: &str,
    fresh: Option<Secret>,
    made: impl FnOnce() -> Secret,
) -> Result<Option<Secret>, CatalogError> {
    let project = project.as_str();
    if fresh.is_none() {
        let sql = "UPDATE alert_target SET url = $2, set_at = now() WHERE project_id = $1";
        if catalog::execute(client, sql, &[&project, &url]).await? == 1 {
            return Ok(None);
        }
    }
    let secret = fresh.unwrap_or_else(made);
    let sealed = keys::seal(&keys.alerts, project.as_bytes(), secret.reveal().as_bytes());
    let sql = "INSERT INTO alert_target (project_id, url, secret) VALUES ($1, $2, $3)
        ON CONFLICT (project_id) DO UPDATE SET url = excluded.url, secret = excluded.secret, set_at = now()";
    catalog::execute(client, sql, &[&project, &url, &sealed]).await?;
    Ok(Some(secret))
}

/// Where a project's alerts are told, with what was last known of it: URL, times of set, sent, failed, and the
/// error.
pub(super) async fn read(
    client: &impl GenericClient,
    project: &ProjectId,
) -> Result<Option<Row>, CatalogError> {
    let sql = "SELECT url, set_at, sent_at, failed_at, last_error,
            (SELECT count(*) FROM alert_message m WHERE m.project_id = t.project_id AND m.state = 'waiting')
        FROM alert_target t WHERE project_id = $1";
    catalog::query_opt(client, sql, &[&project.as_str()]).await
}

/// Tells nobody any more, and forgets messages. False: nobody was told.
pub(super) async fn remove(
    client: &impl GenericClient,
    project: &ProjectId,
) -> Result<bool, CatalogError> {
    let sql = "DELETE FROM alert_target WHERE project_id = $1";
    Ok(catalog::execute(client, sql, &[&project.as_str()]).await? == 1)
}

/// A test may be sent now; the next one after `pause`. False: too early.
pub(super) async fn begin_test(
    client: &impl GenericClient,
    project: &ProjectId,
    pause: Duration,
) -> Result<bool, CatalogError> {
    let sql = "UPDATE alert_target SET tested_at = now() WHERE project_id = $1
        AND (tested_at IS NULL OR tested_at < now() - make_interval(secs => $2))";
    let values: [&(dyn ToSql + Sync); 2] = [&project.as_str(), &pause.as_secs_f64()];
    Ok(catalog::execute(client, sql, &values).await? == 1)
}

/// Where to, and what to sign with. None: nowhere, or the installation has another key than when it was sealed.
pub(super) async fn open(
    client: &impl GenericClient,
    keys: &Keys,
    project: &ProjectId,
) -> Result<Option<(String, Secret)>, CatalogError> {
    let sql = "SELECT url, secret FROM alert_target WHERE project_id = $1";
    let row = catalog::query_opt(client, sql, &[&project.as_str()]).await?;
    Ok(row.and_then(|row| {
        let sealed: &[u8] = row.get(1);
        let opened = keys::open(&keys.alerts, project.as_str().as_bytes(), sealed)?;
        let secret = std::str::from_utf8(&opened).ok()?;
        Some((row.get(0), Secret::new(secret.to_owned())))
    }))
}

/// The catalog belongs to this key of the installation from now on: whoever is told nothing any more, because the secret
/// was sealed with another one, can see why. Returns how many these are.
pub(crate) async fn belongs_to(
    client: &impl GenericClient,
    keys: &Keys,
) -> Result<i64, CatalogError> {
    let rows = catalog::query(client, "SELECT project_id, secret FROM alert_target", &[]).await?;
    let mut others: Vec<&str> = Vec::new();
    for row in &rows {
        let (project, sealed): (&str, &[u8]) = (row.get(0), row.get(1));
        if keys::open(&keys.alerts, project.as_bytes(), sealed).is_none() {
            others.push(project);
        }
    }
    let sql = "UPDATE alert_target SET failed_at = now(), last_error =
            'nothing is sent: the secret was sealed with another installation.key; make a new one'
        WHERE project_id = ANY($1)";
    catalog::execute(client, sql, &[&others]).await?;
    Ok(i64::try_from(others.len()).unwrap_or(i64::MAX))
}

/// A message was tried; none: it was taken.
pub(super) async fn tried(
    client: &impl GenericClient,
    project: &ProjectId,
    error: Option<&str>,
) -> Result<(), CatalogError> {
    let sql = "UPDATE alert_target SET tried_at = now(), last_error = coalesce($2, last_error),
            sent_at = CASE WHEN $2::text IS NULL THEN now() ELSE sent_at END,
            failed_at = CASE WHEN $2::text IS NULL THEN failed_at ELSE now() END
        WHERE project_id = $1";
    catalog::execute(client, sql, &[&project.as_str(), &error]).await?;
    Ok(())
}
