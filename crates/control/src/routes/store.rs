//! One query answers a login: the same one whether it exists or not.

use std::time::Duration;

use model::{
    CredentialId, Limits, Login, LoginName, Pid, Role, UserId,
    lifecycle::TenantState,
    limits::LimitSet,
    route::{Access, CANDIDATES_MAX, Candidate},
};

use crate::{
    api::App,
    catalog::{self, CatalogError},
    limits::{self, store::Wishes},
    storage::store::Measured,
};

/// What the catalog says of a login.
pub(super) struct Found {
    pub(super) pid: Pid,
    /// What the login may do.
    pub(super) role: Role,
    /// Of a user: which, and how many clients it may have.
    pub(super) user: Option<(UserId, Option<u32>)>,
    pub(super) access: Access,
    pub(super) expires_in: Option<Duration>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) wishes: Wishes,
    pub(super) measured: Measured,
}

impl Found {
    pub(super) fn limits(&self) -> Limits {
        Limits::of(&self.wishes.operator, &self.wishes.owner)
    }
}

/// Of a role or of a user, whichever is given: secrets of the one never open the other.
///
/// Connect tokens come last, then the oldest: of more than [`CANDIDATES_MAX`] they are not read. There are
/// not that many: [`crate::credential`] bounds each kind.
const RESOLVE: &str = "
    SELECT t.pid, t.state, c.id, c.stored_key, c.server_key, c.expires_at,
           to_json(by_operator), to_json(by_owner),
           extract(epoch FROM t.expires_at - now())::float8, t.deleted_at >= t.expires_at,
           p.storage_bytes, p.storage_full_bytes, c.kind = 'connect', c.network::text,
           u.id, u.role, u.client_connections_max
    FROM tenant t
    JOIN placement p ON p.pid = t.pid
    LEFT JOIN tenant_user u ON u.tenant_id = t.id AND u.name = $4 AND u.state <> 'deleting'
    LEFT JOIN tenant_limits by_operator
        ON by_operator.tenant_id = t.id AND by_operator.set_by = 'operator'
    LEFT JOIN tenant_limits by_owner ON by_owner.tenant_id = t.id AND by_owner.set_by = 'owner'
    LEFT JOIN credential c ON c.tenant_id = t.id AND c.kind <> 'token'
        AND c.role = coalesce(u.role, $2) AND c.user_id IS NOT DISTINCT FROM u.id
        AND c.revoked_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > now())
    WHERE t.id = $1 AND ($4::text IS NULL OR u.id IS NOT NULL)
    ORDER BY c.kind = 'connect', c.created_at DESC LIMIT $3";

pub(super) async fn resolve(app: &App, login: &LoginName) -> Result<Option<Found>, CatalogError> {
    let one_use = app.one_use.candidates(login);
    let limit = i64::try_from(CANDIDATES_MAX.saturating_sub(one_use.len()))
        .unwrap_or(0)
        .max(1);
    let (role, user) = match &login.login {
        Login::Role(role) => (Some(role.as_str()), None),
        Login::User(user) => (None, Some(user.as_str())),
    };
    let client = app.logins.get().await?;
    let rows = catalog::query(
        &client,
        RESOLVE,
        &[&login.tenant.as_str(), &role, &limit, &user],
    )
    .await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let state = TenantState::parse(first.get(1)).expect("the schema allows known states only");
    let mut candidates: Vec<Candidate> = rows.iter().filter_map(candidate).collect();
    candidates.extend(one_use);
    candidates.truncate(CANDIDATES_MAX);
    let left: Option<f64> = first.get(8);
    let left = left.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let is_over = match state {
        // Deleted for it, and not by somebody who was earlier.
        TenantState::Disabling | TenantState::Disabled => {
            first.get::<_, Option<bool>>(9) == Some(true)
        }
        _ => left == Some(Duration::ZERO),
    };
    let user = first.get::<_, Option<&str>>(14).map(|id| {
        let clients_max = first.get::<_, Option<i64>>(16);
        let clients_max = clients_max.map(|max| u32::try_from(max).unwrap_or(u32::MAX));
        (catalog::parse(id), clients_max)
    });
    let role = first.get::<_, Option<&str>>(15).or(role);
    Ok(Some(Found {
        role: catalog::parse(role.expect("a login is a role, or a user who has one")),
        user,
        pid: first
            .get::<_, &str>(0)
            .parse()
            .expect("the schema allows well-formed ids only"),
        access: if is_over {
            Access::Expired
        } else {
            access(state)
        },
        expires_in: left,
        candidates,
        wishes: Wishes {
            operator: wishes(first, 6),
            owner: wishes(first, 7),
        },
        measured: Measured::of(first, 10),
    }))
}

fn wishes(row: &tokio_postgres::Row, column: usize) -> LimitSet {
    row.get::<_, Option<serde_json::Value>>(column)
        .as_ref()
        .map(limits::store::from_row)
        .unwrap_or_default()
}

/// `None` for a tenant without any: the row that the outer join made up.
fn candidate(row: &tokio_postgres::Row) -> Option<Candidate> {
    let id: CredentialId = row.get::<_, Option<&str>>(2)?.parse().ok()?;
    // One whose network cannot be read opens nothing.
    let network = row.get::<_, Option<&str>>(13).map(str::parse).transpose();
    Some(Candidate {
        id,
        stored_key: row.get::<_, &[u8]>(3).try_into().ok()?,
        server_key: row.get::<_, &[u8]>(4).try_into().ok()?,
        expires_at: row.get::<_, Option<std::time::SystemTime>>(5),
        one_use: false,
        outlived: row.get::<_, Option<bool>>(12).unwrap_or(false),
        network: network.ok()?,
    })
}

fn access(state: TenantState) -> Access {
    match state {
        TenantState::Active => Access::Open,
        TenantState::Creating | TenantState::Cloning => Access::NotReady,
        TenantState::CreateFailed => Access::Failed,
        TenantState::Suspended => Access::Suspended,
        TenantState::Disabling | TenantState::Disabled => Access::Deleted,
    }
}
