//! Rows of projects.

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use model::ProjectId;

use crate::catalog::{self, Catalog, CatalogError, parse};

/// A project as its owner sees it.
pub(crate) struct Project {
    pub(crate) id: ProjectId,
    pub(crate) kind: String,
    pub(crate) anonymous_id: Option<String>,
    /// Of a claimed one: whose it is.
    pub(crate) label: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    /// Databases that are not deleted.
    pub(crate) databases: i64,
}

/// The operator's project, made if there is none.
pub(crate) async fn ensure_operator(catalog: &Catalog) -> Result<ProjectId, CatalogError> {
    let id = ProjectId::random(&mut rand::rng());
    let client = catalog.get().await?;
    catalog::execute(
        &client,
        "INSERT INTO project (id, kind) VALUES ($1, 'operator')
         ON CONFLICT (kind) WHERE kind = 'operator' DO NOTHING",
        &[&id.as_str()],
    )
    .await?;
    let sql = "SELECT id FROM project WHERE kind = 'operator'";
    let row = catalog::query_one(&client, sql, &[]).await?;
    Ok(parse(row.get(0)))
}

/// Makes an anonymous project.
pub(crate) async fn insert_anonymous(
    client: &impl GenericClient,
    id: &ProjectId,
    anonymous_id: &str,
    secret_hash: &[u8; 32],
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "INSERT INTO project (id, kind, anonymous_id, anonymous_secret_hash)
         VALUES ($1, 'anonymous', $2, $3)",
        &[&id.as_str(), &anonymous_id, &secret_hash.as_slice()],
    )
    .await?;
    Ok(())
}

/// The project with this anonymous id, or this id if it was anonymous once, and the hash of its secret.
pub(crate) async fn find_anonymous(
    client: &impl GenericClient,
    anonymous_id: &str,
) -> Result<Option<(ProjectId, Vec<u8>)>, CatalogError> {
    let row = catalog::query_opt(
        client,
        "SELECT id, anonymous_secret_hash FROM project
         WHERE anonymous_id = $1 OR (id = $1 AND anonymous_id IS NOT NULL)",
        &[&anonymous_id],
    )
    .await?;
    Ok(row.map(|row| (parse(row.get(0)), row.get(1))))
}

/// Projects by age: one, or all (`None`), at most `limit` after `after`.
pub(crate) async fn list(
    client: &impl GenericClient,
    only: Option<&ProjectId>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Project>, CatalogError> {
    let rows = catalog::query(
        client,
        "SELECT p.id, p.kind, p.anonymous_id, p.created_at,
                (SELECT count(*) FROM tenant t
                 WHERE t.project_id = p.id AND t.state NOT IN ('DISABLING', 'DISABLED')),
                p.label
         FROM project p
         WHERE ($1::text IS NULL OR p.id = $1) AND ($2::text IS NULL OR p.id > $2)
         ORDER BY p.id LIMIT $3",
        &[&only.map(ProjectId::as_str), &after, &limit],
    )
    .await?;
    Ok(rows
        .iter()
        .map(|row| Project {
            id: parse(row.get(0)),
            kind: row.get(1),
            anonymous_id: row.get(2),
            created_at: row.get(3),
            databases: row.get(4),
            label: row.get(5),
        })
        .collect())
}
