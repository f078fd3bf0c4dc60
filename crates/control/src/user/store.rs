//! Rows of users.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use model::{Pid, Role, TenantId, UserId, UserName};
use tokio_postgres::Row;

use crate::catalog::{self, CatalogError, parse};

/// A user as its owner sees it.
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) name: UserName,
    pub(crate) role: Role,
    pub(crate) clients_max: Option<i64>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) created_by: Option<String>,
    /// Whether there is a password with which it can log in.
    pub(crate) has_password: bool,
    pub(crate) last_used_at: Option<DateTime<Utc>>,
    pub(crate) last_used_from: Option<IpAddr>,
}

const USER: &str = "
    SELECT u.id, u.name, u.role, u.client_connections_max, u.created_at, u.created_by,
           EXISTS (SELECT FROM credential c WHERE c.tenant_id = u.tenant_id AND c.user_id = u.id
               AND c.revoked_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > now())),
           l.last_used_at, l.last_used_from
    FROM tenant_user u LEFT JOIN LATERAL (
        SELECT c.last_used_at, c.last_used_from FROM credential c
        WHERE c.tenant_id = u.tenant_id AND c.user_id = u.id
        ORDER BY c.last_used_at DESC NULLS LAST LIMIT 1) l ON true
    WHERE u.tenant_id = $1 AND u.state <> 'deleting'";

impl User {
    fn read(row: &Row) -> Self {
        Self {
            id: parse(row.get(0)),
            name: parse(row.get(1)),
            role: parse(row.get(2)),
            clients_max: row.get(3),
            created_at: row.get(4),
            created_by: row.get(5),
            has_password: row.get(6),
            last_used_at: row.get(7),
            last_used_from: row.get(8),
        }
    }
}

/// Those of a tenant, by name.
pub(crate) async fn list(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Vec<User>, CatalogError> {
    let sql = format!("{USER} ORDER BY u.name");
    let rows = catalog::query(client, &sql, &[&tenant.as_str()]).await?;
    Ok(rows.iter().map(User::read).collect())
}

/// One by its name.
pub(crate) async fn find(
    client: &impl GenericClient,
    tenant: &TenantId,
    name: &UserName,
) -> Result<Option<User>, CatalogError> {
    let sql = format!("{USER} AND u.name = $2");
    let row = catalog::query_opt(client, &sql, &[&tenant.as_str(), &name.as_str()]).await?;
    Ok(row.as_ref().map(User::read))
}

/// A user to be made.
pub(crate) struct New<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) id: &'a UserId,
    pub(crate) name: &'a UserName,
    pub(crate) role: Role,
    pub(crate) clients_max: Option<i64>,
    pub(crate) maker: &'a str,
}

/// Users of a tenant whose login is or will be on the server, those that are being deleted included. The
/// caller holds the tenant's row.
pub(crate) async fn count(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<i64, CatalogError> {
    let sql = "SELECT count(*) FROM tenant_user WHERE tenant_id = $1";
    let row = catalog::query_one(client, sql, &[&tenant.as_str()]).await?;
    Ok(row.get(0))
}

/// Adds one. False: the name is taken.
pub(crate) async fn insert(
    client: &impl GenericClient,
    new: New<'_>,
) -> Result<bool, CatalogError> {
    let made = catalog::execute(
        client,
        "INSERT INTO tenant_user (tenant_id, id, name, role, client_connections_max, created_by)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (tenant_id, name) WHERE state <> 'deleting' DO NOTHING",
        &[
            &new.tenant.as_str(),
            &new.id.as_str(),
            &new.name.as_str(),
            &new.role.as_str(),
            &new.clients_max,
            &new.maker,
        ],
    )
    .await?;
    Ok(made == 1)
}

/// Users of one database. Each is a role of the server, which all its tenants share and which PostgreSQL
/// looks through at every login and GRANT; 50 make a database as heavy as a dozen others.
pub(super) const USERS_MAX: i64 = 50;

/// Gives a branch the users of its parent, without their passwords, as far as there is room: those it has
/// under the same name stay.
pub(crate) async fn inherit(
    client: &impl GenericClient,
    branch: &TenantId,
    parent: &TenantId,
) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "INSERT INTO tenant_user (tenant_id, id, name, role, client_connections_max)
         SELECT $1, p.id, p.name, p.role, p.client_connections_max FROM tenant_user p
         WHERE p.tenant_id = $2 AND p.state <> 'deleting' AND NOT EXISTS (
             SELECT FROM tenant_user b
             WHERE b.tenant_id = $1 AND (b.id = p.id OR b.name = p.name AND b.state <> 'deleting'))
         ORDER BY p.created_at, p.id
         LIMIT greatest(0, $3 - (SELECT count(*) FROM tenant_user WHERE tenant_id = $1))",
        &[&branch.as_str(), &parent.as_str(), &USERS_MAX],
    )
    .await?;
    Ok(())
}

/// Another limit of clients; `None`: none of its own.
pub(crate) async fn set_clients_max(
    client: &impl GenericClient,
    tenant: &TenantId,
    id: &UserId,
    clients_max: Option<i64>,
) -> Result<(), CatalogError> {
    let sql = "UPDATE tenant_user SET client_connections_max = $3 WHERE tenant_id = $1 AND id = $2";
    catalog::execute(client, sql, &[&tenant.as_str(), &id.as_str(), &clients_max]).await?;
    Ok(())
}

/// Says that a user is to go, and revokes what opens it.
pub(crate) async fn begin_delete(
    client: &impl GenericClient,
    tenant: &TenantId,
    id: &UserId,
) -> Result<(), CatalogError> {
    for sql in [
        "UPDATE tenant_user SET state = 'deleting' WHERE tenant_id = $1 AND id = $2",
        "UPDATE credential SET revoked_at = now()
         WHERE tenant_id = $1 AND user_id = $2 AND revoked_at IS NULL",
    ] {
        catalog::execute(client, sql, &[&tenant.as_str(), &id.as_str()]).await?;
    }
    Ok(())
}

/// A user whose login is not what its row says.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) tenant: TenantId,
    pub(crate) pid: Pid,
    pub(crate) id: UserId,
    pub(crate) role: Role,
    pub(crate) is_deleted: bool,
}

/// The oldest of them, of databases that are there.
pub(crate) async fn due(client: &impl GenericClient, limit: i64) -> Result<Vec<Due>, CatalogError> {
    let rows = catalog::query(
        client,
        "SELECT t.id, t.pid, u.id, u.role, u.state = 'deleting'
         FROM tenant_user u JOIN tenant t ON t.id = u.tenant_id JOIN placement p ON p.pid = t.pid
         WHERE u.state <> 'ready' AND p.stage IN ('closed', 'open')
         ORDER BY u.created_at LIMIT $1",
        &[&limit],
    )
    .await?;
    let due = rows.iter().map(|row| Due {
        tenant: parse(row.get(0)),
        pid: parse(row.get(1)),
        id: parse(row.get(2)),
        role: parse(row.get(3)),
        is_deleted: row.get(4),
    });
    Ok(due.collect())
}

/// Those of one tenant that are to have a login.
pub(crate) async fn wanted(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<Vec<(Role, UserId)>, CatalogError> {
    let sql = "SELECT role, id FROM tenant_user WHERE tenant_id = $1 AND state <> 'deleting'";
    let rows = catalog::query(client, sql, &[&tenant.as_str()]).await?;
    let users = rows
        .iter()
        .map(|row| (parse(row.get(0)), parse(row.get(1))));
    Ok(users.collect())
}

/// Notes that a login is there; unless the user is to go meanwhile.
pub(crate) async fn made(
    client: &impl GenericClient,
    tenant: &TenantId,
    id: &UserId,
) -> Result<(), CatalogError> {
    let sql = "UPDATE tenant_user SET state = 'ready'
        WHERE tenant_id = $1 AND id = $2 AND state = 'making'";
    catalog::execute(client, sql, &[&tenant.as_str(), &id.as_str()]).await?;
    Ok(())
}

/// Forgets a user whose login is gone.
pub(crate) async fn forget(
    client: &impl GenericClient,
    tenant: &TenantId,
    id: &UserId,
) -> Result<(), CatalogError> {
    let sql = "DELETE FROM tenant_user WHERE tenant_id = $1 AND id = $2 AND state = 'deleting'";
    catalog::execute(client, sql, &[&tenant.as_str(), &id.as_str()]).await?;
    Ok(())
}
