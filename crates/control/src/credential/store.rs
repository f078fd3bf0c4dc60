//! Rows of credentials.

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use model::{CredentialId, ProjectId, Role, TenantId, UserId};

use crate::{
    api::auth::{Access, Scope},
    catalog::{self, CatalogError, parse},
};

/// Tokens without a name, as registration and refresh give them, of one project that are valid at once.
/// More than any use of refresh needs; a new one revokes the oldest.
const TOKENS_MAX: i64 = 20;

/// A token as authentication needs it.
pub(crate) struct Token {
    pub(crate) id: CredentialId,
    pub(crate) project: ProjectId,
    /// What holds where `scope` says nothing.
    pub(crate) access: Access,
    pub(crate) scope: Option<Scope>,
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
                coalesce(c.expires_at <= now(), false),
                array(SELECT tenant_id FROM credential_scope s WHERE s.credential_id = c.id),
                array(SELECT tenant_id FROM credential_scope s
                      WHERE s.credential_id = c.id AND s.access = 'rw')
         FROM credential c JOIN project p ON p.id = c.project_id
         WHERE c.kind = 'token' AND c.token_hash = $1 AND c.revoked_at IS NULL",
        &[&hash.as_slice()],
    )
    .await?;
    let scope = |row: &tokio_postgres::Row| {
        let writable: Vec<&str> = row.get(6);
        let databases = row.get::<_, Vec<&str>>(5).into_iter();
        let databases = databases.map(|id| (parse(id), writable.contains(&id)));
        Scope::new(&databases.collect::<Vec<_>>())
    };
    Ok(row.map(|row| Token {
        scope: (row.get::<_, &str>(2) == "scoped").then(|| scope(&row)),
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

/// Adds a token without a name, with full access to a project; the oldest above the limit are revoked.
pub(crate) async fn insert_session_token(
    client: &impl GenericClient,
    id: &CredentialId,
    project: &ProjectId,
    hash: &[u8; 32],
    expires_at: chrono::DateTime<chrono::Utc>,
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "INSERT INTO credential
             (id, kind, project_id, access, token_hash, expires_at, created_by)
         VALUES ($1, 'token', $2, 'full', $3, $4, 'registration')",
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
             WHERE kind = 'token' AND project_id = $1 AND revoked_at IS NULL AND name IS NULL
             ORDER BY created_at DESC, id OFFSET $2)",
        &[&project.as_str(), &TOKENS_MAX],
    )
    .await?;
    Ok(())
}

/// Adds a password of one role of one tenant, or of one user who has it.
pub(crate) async fn insert_password(
    client: &impl GenericClient,
    tenant: &TenantId,
    (role, user): (Role, Option<&UserId>),
    keys: &wire::scram::Keys,
    maker: &str,
) -> Result<(), CatalogError> {
    let id = CredentialId::random(&mut rand::rng());
    catalog::execute(
        client,
        "INSERT INTO credential
             (id, kind, tenant_id, role, user_id, stored_key, server_key, created_by)
         VALUES ($1, 'password', $2, $3, $4, $5, $6, $7)",
        &[
            &id.as_str(),
            &tenant.as_str(),
            &role.as_str(),
            &user.map(UserId::as_str),
            &keys.stored_key.as_slice(),
            &keys.server_key.as_slice(),
            &maker,
        ],
    )
    .await?;
    Ok(())
}

/// Old passwords of one role that still work, at most. 3: of more, the oldest are revoked, so that
/// resetting often with a long grace does not keep them all.
const GRACED_MAX: i64 = 3;

/// Revokes every password of one role of one tenant, or of one user who has it, now or when the grace ends.
/// None lives longer than it would have.
pub(crate) async fn revoke_passwords(
    client: &impl GenericClient,
    tenant: &TenantId,
    (role, user): (Role, Option<&UserId>),
    grace: std::time::Duration,
) -> Result<(), CatalogError> {
    let kept = if grace.is_zero() { 0 } else { GRACED_MAX };
    let user = user.map(UserId::as_str);
    catalog::execute(
        client,
        "UPDATE credential SET revoked_at = now()
         WHERE id IN (SELECT id FROM credential
             WHERE kind = 'password' AND tenant_id = $1 AND role = $2 AND revoked_at IS NULL
                 AND user_id IS NOT DISTINCT FROM $4
             ORDER BY created_at DESC, id OFFSET $3)",
        &[&tenant.as_str(), &role.as_str(), &kept, &user],
    )
    .await?;
    catalog::execute(
        client,
        "UPDATE credential SET expires_at = least(expires_at, now() + make_interval(secs => $3))
         WHERE kind = 'password' AND tenant_id = $1 AND role = $2 AND revoked_at IS NULL
             AND user_id IS NOT DISTINCT FROM $4",
        &[
            &tenant.as_str(),
            &role.as_str(),
            &grace.as_secs_f64(),
            &user,
        ],
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
         WHERE revoked_at < now() - interval '7 days'
             OR expires_at < now() - CASE kind WHEN 'token' THEN interval '30 days'
                 WHEN 'connect' THEN interval '1 hour' ELSE interval '7 days' END
         LIMIT $1)",
        &[&limit],
    )
    .await?;
    Ok(gone)
}

/// A credential as its owner sees it: everything but the secret.
pub(crate) struct Shown {
    pub(crate) id: CredentialId,
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
    pub(crate) role: Option<String>,
    /// Of a user's password: whose.
    pub(crate) user: Option<String>,
    /// Of a token: `full`, `read` or `scoped`.
    pub(crate) access: Option<String>,
    pub(crate) network: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) created_by: Option<String>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) last_used_at: Option<DateTime<Utc>>,
    pub(crate) last_used_from: Option<std::net::IpAddr>,
    /// Of a token that is bound to databases: id and whether it is `ro` or `rw` there.
    pub(crate) scope: Vec<(String, String)>,
}

const SHOWN: &str = "SELECT c.id, c.kind, c.name, c.role, c.access, c.network::text, c.created_at,
        c.created_by, c.expires_at, c.last_used_at, c.last_used_from,
        array(SELECT tenant_id FROM credential_scope s WHERE s.credential_id = c.id
              ORDER BY tenant_id),
        array(SELECT s.access FROM credential_scope s WHERE s.credential_id = c.id
              ORDER BY tenant_id),
        (SELECT u.name FROM tenant_user u WHERE u.tenant_id = c.tenant_id AND u.id = c.user_id)
    FROM credential c";

impl Shown {
    fn read(row: &tokio_postgres::Row) -> Self {
        let databases: Vec<String> = row.get(11);
        let accesses: Vec<String> = row.get(12);
        Self {
            id: parse(row.get(0)),
            kind: row.get(1),
            name: row.get(2),
            role: row.get(3),
            user: row.get(13),
            access: row.get(4),
            network: row.get(5),
            created_at: row.get(6),
            created_by: row.get(7),
            expires_at: row.get(8),
            last_used_at: row.get(9),
            last_used_from: row.get(10),
            scope: databases.into_iter().zip(accesses).collect(),
        }
    }
}

/// A token to be made.
pub(crate) struct NewToken<'a> {
    pub(crate) project: &'a ProjectId,
    pub(crate) name: &'a str,
    /// `full`, `read` or `scoped`.
    pub(crate) access: &'a str,
    pub(crate) scope: &'a [(TenantId, &'static str)],
    pub(crate) hash: &'a [u8; 32],
    pub(crate) life: std::time::Duration,
    pub(crate) maker: &'a str,
}

/// Adds a token with a name; `None` when the project has `most` already. The caller called
/// [`crate::tenant::store::lock_project`].
pub(crate) async fn insert_token(
    client: &impl GenericClient,
    new: NewToken<'_>,
    most: i64,
) -> Result<Option<Shown>, CatalogError> {
    let id = CredentialId::random(&mut rand::rng());
    let made = catalog::execute(
        client,
        "INSERT INTO credential
             (id, kind, project_id, name, access, token_hash, expires_at, created_by)
         SELECT $1::text, 'token', $2::text, $3::text, $4::text, $5::bytea,
             now() + make_interval(secs => $6), $7::text
         WHERE $8 > (SELECT count(*) FROM credential
             WHERE kind = 'token' AND project_id = $2 AND name IS NOT NULL
                 AND revoked_at IS NULL AND expires_at > now())",
        &[
            &id.as_str(),
            &new.project.as_str(),
            &new.name,
            &new.access,
            &new.hash.as_slice(),
            &new.life.as_secs_f64(),
            &new.maker,
            &most,
        ],
    )
    .await?;
    if made == 0 {
        return Ok(None);
    }
    let (databases, accesses): (Vec<&str>, Vec<&str>) = new
        .scope
        .iter()
        .map(|(id, access)| (id.as_str(), *access))
        .unzip();
    catalog::execute(
        client,
        "INSERT INTO credential_scope (credential_id, tenant_id, access)
         SELECT $1::text, * FROM unnest($2::text[], $3::text[])",
        &[&id.as_str(), &databases, &accesses],
    )
    .await?;
    let sql = format!("{SHOWN} WHERE c.id = $1");
    let row = catalog::query_one(client, &sql, &[&id.as_str()]).await?;
    Ok(Some(Shown::read(&row)))
}

/// Tokens of a project that are not revoked, oldest first; those that have expired are there for some time.
pub(crate) async fn list_tokens(
    client: &impl GenericClient,
    project: &ProjectId,
) -> Result<Vec<Shown>, CatalogError> {
    let sql = format!(
        "{SHOWN} WHERE c.kind = 'token' AND c.project_id = $1 AND c.revoked_at IS NULL
         ORDER BY c.created_at, c.id"
    );
    let rows = catalog::query(client, &sql, &[&project.as_str()]).await?;
    Ok(rows.iter().map(Shown::read).collect())
}

/// Revokes a token of a project (`None`: of any). False: there is none.
pub(crate) async fn revoke_token(
    client: &impl GenericClient,
    project: Option<&ProjectId>,
    id: &CredentialId,
) -> Result<bool, CatalogError> {
    let revoked = catalog::execute(
        client,
        "UPDATE credential SET revoked_at = now()
         WHERE id = $1 AND kind = 'token' AND revoked_at IS NULL
             AND ($2::text IS NULL OR project_id = $2)",
        &[&id.as_str(), &project.map(ProjectId::as_str)],
    )
    .await?;
    Ok(revoked == 1)
}

/// A connect token or a key to be made.
pub(crate) struct NewAccess<'a> {
    /// `connect` or `key`.
    pub(crate) kind: &'static str,
    pub(crate) tenant: &'a TenantId,
    pub(crate) role: Role,
    pub(crate) name: Option<&'a str>,
    pub(crate) keys: &'a wire::scram::Keys,
    /// Where clients must come from.
    pub(crate) network: Option<&'a str>,
    pub(crate) life: std::time::Duration,
    pub(crate) maker: &'a str,
    /// As many as one login has at once.
    pub(crate) most: i64,
}

/// Adds what opens a tenant for some time. `Err`: the login has as many as it may have; the time until
/// the first of them ends. The caller holds the tenant's row.
pub(crate) async fn insert_access(
    client: &impl GenericClient,
    new: NewAccess<'_>,
) -> Result<Result<Shown, std::time::Duration>, CatalogError> {
    let id = CredentialId::random(&mut rand::rng());
    let made = catalog::execute(
        client,
        "INSERT INTO credential (id, kind, tenant_id, role, name, stored_key, server_key, network,
             expires_at, created_by)
         SELECT $1::text, $2::text, $3::text, $4::text, $5::text, $6::bytea, $7::bytea,
             $8::text::cidr, now() + make_interval(secs => $9), $10::text
         WHERE $11 > (SELECT count(*) FROM credential
             WHERE tenant_id = $3 AND role = $4 AND kind = $2
                 AND revoked_at IS NULL AND expires_at > now())",
        &[
            &id.as_str(),
            &new.kind,
            &new.tenant.as_str(),
            &new.role.as_str(),
            &new.name,
            &new.keys.stored_key.as_slice(),
            &new.keys.server_key.as_slice(),
            &new.network,
            &new.life.as_secs_f64(),
            &new.maker,
            &new.most,
        ],
    )
    .await?;
    if made == 0 {
        let sql = "SELECT greatest(0, extract(epoch FROM min(expires_at) - now()))::float8
            FROM credential WHERE tenant_id = $1 AND role = $2 AND kind = $3
                AND revoked_at IS NULL AND expires_at > now()";
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&new.tenant.as_str(), &new.role.as_str(), &new.kind];
        let row = catalog::query_one(client, sql, &values).await?;
        let wait = row.get::<_, Option<f64>>(0).unwrap_or_default();
        return Ok(Err(std::time::Duration::from_secs_f64(wait)));
    }
    let sql = format!("{SHOWN} WHERE c.id = $1");
    let row = catalog::query_one(client, &sql, &[&id.as_str()]).await?;
    Ok(Ok(Shown::read(&row)))
}

/// What opens a tenant now, oldest first; `kind`: only that kind of it.
pub(crate) async fn list_access(
    client: &impl GenericClient,
    tenant: &TenantId,
    kind: Option<&str>,
) -> Result<Vec<Shown>, CatalogError> {
    let sql = format!(
        "{SHOWN} WHERE c.tenant_id = $1 AND c.kind <> 'token' AND c.revoked_at IS NULL
             AND (c.expires_at IS NULL OR c.expires_at > now())
             AND ($2::text IS NULL OR c.kind = $2)
         ORDER BY c.created_at, c.id"
    );
    let rows = catalog::query(client, &sql, &[&tenant.as_str(), &kind]).await?;
    Ok(rows.iter().map(Shown::read).collect())
}

/// Revokes what opens a tenant; `kind`: only if it is of that kind. False: there is no such thing.
pub(crate) async fn revoke_access(
    client: &impl GenericClient,
    tenant: &TenantId,
    id: &CredentialId,
    kind: Option<&str>,
) -> Result<bool, CatalogError> {
    let revoked = catalog::execute(
        client,
        "UPDATE credential SET revoked_at = now()
         WHERE id = $1 AND tenant_id = $2 AND kind <> 'token' AND revoked_at IS NULL
             AND ($3::text IS NULL OR kind = $3)",
        &[&id.as_str(), &tenant.as_str(), &kind],
    )
    .await?;
    Ok(revoked == 1)
}

/// Revokes everything that opens a tenant.
pub(crate) async fn revoke_all_access(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<(), CatalogError> {
    let sql = "UPDATE credential SET revoked_at = now()
        WHERE tenant_id = $1 AND kind <> 'token' AND revoked_at IS NULL";
    catalog::execute(client, sql, &[&tenant.as_str()]).await?;
    Ok(())
}
