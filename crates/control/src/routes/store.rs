//! One query answers a login: the same one whether it exists or not.

use std::time::Duration;

use model::{
    CredentialId, Limits, LoginName, Pid,
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

/// Connect tokens come last, then the oldest: of more than [`CANDIDATES_MAX`] they are not read. There are
/// not that many: [`crate::credential`] bounds each kind.
const RESOLVE: &str = "
    SELECT t.pid, t.state, c.id, c.stored_key, c.server_key, c.expires_at,
           to_json(by_operator), to_json(by_owner),
           extract(epoch FROM t.expires_at - now())::float8, t.deleted_at >= t.expires_at,
           p.storage_bytes, p.storage_full_bytes, c.kind = 'connect', c.network::text
    FROM tenant t
    JOIN placement p ON p.pid = t.pid
    LEFT JOIN tenant_limits by_operator
        ON by_operator.tenant_id = t.id AND by_operator.set_by = 'operator'
    LEFT JOIN tenant_limits by_owner ON by_owner.tenant_id = t.id AND by_owner.set_by = 'owner'
    LEFT JOIN credential c ON c.tenant_id = t.id AND c.role = $2 AND c.kind <> 'token'
        AND c.revoked_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > now())
    WHERE t.id = $1
    ORDER BY c.kind = 'connect', c.created_at DESC LIMIT $3";

pub(super) async fn resolve(app: &App, login: &LoginName) -> Result<Option<Found>, CatalogError> {
    let one_use = app.one_use.candidates(login);
    let limit = i64::try_from(CANDIDATES_MAX.saturating_sub(one_use.len()))
        .unwrap_or(0)
        .max(1);
    let client = app.logins.get().await?;
    let rows = catalog::query(
        &client,
        RESOLVE,
        &[&login.tenant.as_str(), &login.role.as_str(), &limit],
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
    Ok(Some(Found {
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
