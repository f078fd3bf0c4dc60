//! Rows of credentials.

use deadpool_postgres::GenericClient;
use model::{CredentialId, ProjectId, Role, TenantId};

use crate::{
    api::auth::Access,
    catalog::{self, CatalogError, parse},
};

/// Tokens of one project that are valid at once. More than any use of refresh needs; a new one
/// revokes the oldest.
const TOKENS_MAX: i64 = 20;

/// A token as authentication needs it.
pub(crate) struct Token {
    pub(crate) id: CredentialId,
    pub(crate) project: ProjectId,
    pub(crate) access: Access,
    pub(crate) anonymous: bool,
    pub(crate) expired: bool,
}

/// The token with this hash, unless it was revoked.
pub(crate) async fn find_token(
    client: &impl GenericClient,
    hash: &[u8; 32],
) -> Result<Option<Token>, CatalogError> {
    let row = catalog::query_opt(
        client,
        "SELECT c.id, c.project_id, c.access, p.kind = 'anonymous',
                coalesce(c.expires_at <= now(), false)
         FROM credential c JOIN project p ON p.id = c.project_id
         WHERE c.kind = 'token' AND c.token_hash = $1 AND c.revoked_at IS NULL",
        &[&hash.as_slice()],
    )
    .await?;
    Ok(row.map(|row| Token {
        id: parse(row.get(0)),
        project: parse(row.get(1)),
        access: match row.get(2) {
            "full" => Access::Full,
            _ => Access::Read,
        },
        anonymous: row.get(3),
        expired: row.get(4),
    }))
}

/// Adds a token with full access to a project; the oldest above the limit are revoked.
pub(crate) async fn insert_token(
    client: &impl GenericClient,
    project: &ProjectId,
    hash: &[u8; 32],
    expires_at: chrono::DateTime<chrono::Utc>,
) -> Result<(), CatalogError> {
    let id = CredentialId::random(&mut rand::rng());
    catalog::execute(
        client,
        "INSERT INTO credential (id, kind, project_id, access, token_hash, expires_at)
         VALUES ($1, 'token', $2, 'full', $3, $4)",
        &[
            &id.as_str(),
            &project.as_str(),
            &hash.as_slice(),
            &expires_at,
        ],
    )
    .await?;
    catalog::execute(
        client,
        "UPDATE credential SET revoked_at = now()
         WHERE id IN (SELECT id FROM credential
             WHERE kind = 'token' AND project_id = $1 AND revoked_at IS NULL
             ORDER BY created_at DESC, id OFFSET $2)",
        &[&project.as_str(), &TOKENS_MAX],
    )
    .await?;
    Ok(())
}

/// Adds a password of one role of one tenant.
pub(crate) async fn insert_password(
    client: &impl GenericClient,
    tenant: &TenantId,
    role: Role,
    keys: &wire::scram::Keys,
) -> Result<(), CatalogError> {
    let id = CredentialId::random(&mut rand::rng());
    catalog::execute(
        client,
        "INSERT INTO credential (id, kind, tenant_id, role, stored_key, server_key)
         VALUES ($1, 'password', $2, $3, $4, $5)",
        &[
            &id.as_str(),
            &tenant.as_str(),
            &role.as_str(),
            &keys.stored_key.as_slice(),
            &keys.server_key.as_slice(),
        ],
    )
    .await?;
    Ok(())
}

/// Revokes every password of one role of one tenant.
pub(crate) async fn revoke_passwords(
    client: &impl GenericClient,
    tenant: &TenantId,
    role: Role,
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "UPDATE credential SET revoked_at = now()
         WHERE kind = 'password' AND tenant_id = $1 AND role = $2 AND revoked_at IS NULL",
        &[&tenant.as_str(), &role.as_str()],
    )
    .await?;
    Ok(())
}

/// Forgets what ended long ago, at most `limit` rows.
pub(crate) async fn sweep(client: &impl GenericClient, limit: i64) -> Result<u64, CatalogError> {
    let gone = catalog::execute(
        client,
        "DELETE FROM credential WHERE id IN (
         SELECT id FROM credential
         WHERE revoked_at < now() - interval '7 days' LIMIT $1)",
        &[&limit],
    )
    .await?;
    Ok(gone)
}
