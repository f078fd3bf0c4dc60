//! A database as the API shows it, and how it is connected to.

use chrono::{DateTime, Utc};
use model::{Role, Secret, TenantId, lifecycle::TenantState};
use serde::Serialize;
use utoipa::ToSchema;

use super::store::Tenant;
use crate::{
    api::App,
    branch::{http::BranchInfo, store::Known},
    limits::store::Party,
    project::http::Registered,
};

/// Where clients connect.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
    /// Always `postgresql`.
    #[serde(rename = "type")]
    kind: &'static str,
    enabled: bool,
    region: Option<String>,
}

/// A database.
#[derive(Serialize, ToSchema)]
pub(crate) struct DatabaseResponse {
    /// 12 characters, permanent.
    id: String,
    name: String,
    /// CREATING, CLONING, ACTIVE, SUSPENDED, DISABLING, DISABLED or CREATE_FAILED.
    state: &'static str,
    /// Why it is in that state, where there is more to say.
    state_reason: Option<String>,
    project_id: String,
    region: Option<String>,
    endpoints: Vec<Endpoint>,
    /// User name of the role `admin`, or of the role whose password was reset.
    admin_user: String,
    /// Shown by create and reset-password only, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_password: Option<String>,
    /// With the password where that is shown.
    connection_string: String,
    created_at: DateTime<Utc>,
    /// When it is deleted by itself; null: never.
    expires_at: Option<DateTime<Utc>>,
    /// `owner` or `operator`, while it is SUSPENDED.
    #[serde(skip_serializing_if = "Option::is_none")]
    suspended_by: Option<&'static str>,
    parent_database_id: Option<String>,
    /// How it was copied, when it is a branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<BranchInfo>,
    /// When it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_at: Option<DateTime<Utc>>,
    /// When its data will be removed; until then it can be undeleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    purge_after: Option<DateTime<Utc>>,
    /// The project that was made with it, for a create without a token. Nothing of this is shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    anonymous: Option<Registered>,
}

/// A tenant as the API shows it, with the password of its role `admin` if there is one to show.
pub(crate) fn describe(app: &App, tenant: &Tenant, password: Option<&Secret>) -> DatabaseResponse {
    let config = &app.config;
    let user = format!("{}.{}", tenant.id, Role::Admin);
    DatabaseResponse {
        id: tenant.id.to_string(),
        name: tenant.name.to_string(),
        state: tenant.state.as_str(),
        state_reason: reason(tenant),
        project_id: tenant.project.to_string(),
        region: config.region.clone(),
        endpoints: vec![Endpoint {
            host: config.public_host.clone(),
            port: config.public_port,
            kind: "postgresql",
            enabled: tenant.state == TenantState::Active,
            region: config.region.clone(),
        }],
        connection_string: connection_string(app, &user, password),
        admin_user: user,
        admin_password: password.map(|password| password.reveal().to_owned()),
        created_at: tenant.created_at,
        expires_at: tenant.expires_at,
        suspended_by: suspended_by(tenant).map(Party::as_str),
        parent_database_id: tenant.parent.as_ref().map(TenantId::to_string),
        branch: None,
        deleted_at: tenant.deleted_at,
        purge_after: tenant.purge_after,
        anonymous: None,
    }
}

fn suspended_by(tenant: &Tenant) -> Option<Party> {
    tenant
        .suspended_by
        .filter(|_| tenant.state == TenantState::Suspended)
}

fn reason(tenant: &Tenant) -> Option<String> {
    tenant.state_reason.clone().or_else(|| {
        let said = match suspended_by(tenant) {
            Some(Party::Operator) => "the operator suspended it",
            _ if tenant.has_expired() => "its lifetime was over",
            _ => return None,
        };
        Some(said.to_owned())
    })
}

impl DatabaseResponse {
    /// The same, with what is known of a branch.
    pub(crate) fn with_branch(self, known: Option<Known>) -> Self {
        Self {
            branch: known.map(BranchInfo::from),
            ..self
        }
    }

    /// The same, in the state that it has by now.
    pub(crate) fn in_state_of(self, now: Option<&Self>) -> Self {
        match now {
            Some(now) => Self {
                state: now.state,
                state_reason: now.state_reason.clone(),
                endpoints: now.endpoints.clone(),
                ..self
            },
            None => self,
        }
    }

    /// The same, with the project that was made with it.
    pub(super) fn with_project(self, anonymous: Option<Registered>) -> Self {
        Self { anonymous, ..self }
    }

    /// The same, with the password of `role`.
    pub(super) fn with_password(self, app: &App, role: Role, password: &Secret) -> Self {
        let user = format!("{}.{role}", self.id);
        Self {
            connection_string: connection_string(app, &user, Some(password)),
            admin_user: user,
            admin_password: Some(password.reveal().to_owned()),
            ..self
        }
    }
}

/// A connection string of a user, with a secret if there is one to show.
pub(crate) fn connection_string(app: &App, user: &str, password: Option<&Secret>) -> String {
    let password = password
        .map(|password| format!(":{}", percent(password.reveal())))
        .unwrap_or_default();
    let host = &app.config.public_host;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    let port = app.config.public_port;
    format!("postgresql://{user}{password}@{host}:{port}/postgres?sslmode=require")
}

/// For the user part of a URL: everything but unreserved characters (RFC 3986, section 2.3).
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_safe_in_a_connection_string() {
        assert_eq!(percent("aZ9-._~"), "aZ9-._~");
        assert_eq!(percent("p@ss/wörd:#?"), "p%40ss%2Fw%C3%B6rd%3A%23%3F");
    }
}
