//! Making a tenant: one transaction on a complete pool entry, or a plan that passes carry out.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use model::{LoginName, ProjectId, Role, Secret, TenantId, TenantName, lifecycle::TenantState};
use tokio::time::Instant;

use super::{
    describe::{DatabaseResponse, describe},
    lifetime::Lifetime,
    store::{self, Made, New, Purpose, Tenant},
};
use crate::{
    api::{
        App,
        auth::{Principal, Reach},
        error::{ApiError, ApiResult, ErrorCode},
        extract::DatabaseKey,
        idempotency::{Kept, Ticket},
    },
    catalog::CatalogError,
    credential,
    placement::step::{Moment, Step, reached},
    project::http::{Registered, Registration},
};

/// Generated names that are tried before we say that none is free.
const NAME_TRIES: u32 = 8;

/// What is asked for.
pub(crate) struct Wanted {
    pub(crate) project: ProjectId,
    /// `None`: generated.
    pub(crate) name: Option<TenantName>,
    pub(crate) password: Option<Secret>,
    /// Answer with the existing one instead of an error.
    pub(crate) if_not_exists: bool,
    /// Of a new one.
    pub(crate) lifetime: Lifetime,
    /// The project is made with it.
    pub(crate) registration: Option<Registration>,
    pub(crate) wait: Duration,
}

/// Makes a tenant and waits until it can be used, at most `wanted.wait`.
pub(crate) async fn create(
    app: &Arc<App>,
    principal: &Principal,
    ticket: &Ticket,
    wanted: Wanted,
) -> ApiResult<(StatusCode, DatabaseResponse)> {
    let began = Instant::now();
    if wanted.if_not_exists
        && let Some(existing) = existing(app, &wanted).await?
    {
        return Ok((StatusCode::OK, describe(app, &existing, None)));
    }
    let made = match insert(app, principal, ticket, &wanted).await {
        // Somebody was faster: theirs is the existing one.
        Err(error) if error.code == ErrorCode::NameTaken && wanted.if_not_exists => {
            let existing = existing(app, &wanted).await?.ok_or(error)?;
            return Ok((StatusCode::OK, describe(app, &existing, None)));
        }
        other => other?,
    };
    let tenant = wait_until_made(app, made.tenant, wanted.wait).await?;
    // Of one that is not ready at the end of the wait, the wait: too little, and not nothing.
    if tenant.state == TenantState::Active || !wanted.wait.is_zero() {
        app.insight.database_made(began.elapsed());
    }
    let answer = describe(app, &tenant, Some(&made.password)).with_project(made.registered);
    Ok((StatusCode::CREATED, answer))
}

async fn existing(app: &App, wanted: &Wanted) -> ApiResult<Option<Tenant>> {
    let key = DatabaseKey {
        id: None,
        name: wanted.name.clone(),
    };
    let client = app.catalog.get().await?;
    let project = &wanted.project;
    let found = store::find(
        &client,
        Reach::project(project),
        project,
        &key,
        Purpose::Read,
    )
    .await?;
    // Nobody who waits holds a connection: there are fewer of those than callers.
    drop(client);
    match found {
        Some(tenant) => super::change::wait_for(app, tenant, wanted.wait, |state| {
            !matches!(state, TenantState::Creating | TenantState::Cloning)
        })
        .await
        .map(Some),
        None => Ok(None),
    }
}

struct Acknowledged {
    tenant: Tenant,
    password: Secret,
    registered: Option<Registered>,
}

async fn insert(
    app: &App,
    principal: &Principal,
    ticket: &Ticket,
    wanted: &Wanted,
) -> ApiResult<Acknowledged> {
    let generated = || TenantName::generated(&mut rand::rng());
    let mut tries = 0;
    loop {
        tries += 1;
        let name = wanted.name.clone().unwrap_or_else(generated);
        match insert_named(app, principal, ticket, wanted, &name).await {
            Err(error)
                if error.code == ErrorCode::NameTaken
                    && wanted.name.is_none()
                    && tries < NAME_TRIES => {}
            other => return other,
        }
    }
}

async fn insert_named(
    app: &App,
    principal: &Principal,
    ticket: &Ticket,
    wanted: &Wanted,
    name: &TenantName,
) -> ApiResult<Acknowledged> {
    reached(Step::CreateCommit, Moment::Before).await;
    // Hashing takes a millisecond: before a connection is taken.
    let id = TenantId::random(&mut rand::rng());
    let password = wanted.password.clone();
    let password = password.unwrap_or_else(credential::new_password);
    let login = LoginName {
        tenant: id.clone(),
        login: Role::Admin.into(),
    };
    let keys = credential::scram_keys(&app.keys, &login, &password);
    let quota = principal.quota(app);
    let mut client = app.catalog.get().await?;
    let transaction = client.transaction().await?;
    let registered = match &wanted.registration {
        Some(registration) => Some(registration.insert(app, &transaction).await?),
        None => None,
    };
    if quota.is_some() {
        store::lock_project(&transaction, &wanted.project).await?;
    }
    let expires_at = wanted.lifetime.ends_at(&transaction).await?;
    let new = New {
        id: &id,
        project: &wanted.project,
        name,
        keys: &keys,
        maker: principal.maker(),
        node: app.node.name(),
        quota,
        expires_at,
    };
    let made = store::make(&transaction, new).await;
    let (tenant, left) = match made.map_err(|error| not_made(name, error))? {
        Made::Claimed(tenant, left) => (tenant, Some(left)),
        Made::Planned(tenant) => (tenant, None),
        Made::NameTaken => return Err(name_taken(name)),
        Made::QuotaExceeded => return Err(quota_exceeded(quota.unwrap_or_default())),
    };
    let body = serde_json::to_vec(&describe(app, &tenant, Some(&password)))
        .expect("an answer is plain data");
    let kept = match left {
        Some(_) => Kept::Last,
        None => Kept::Ahead,
    };
    ticket
        .keep_in(&transaction, StatusCode::CREATED, &body, kept)
        .await?;
    reached(Step::CreateCommit, Moment::Between).await;
    transaction.commit().await?;
    drop(client);
    app.passes.claimed(left);
    tracing::info!(tenant = %tenant.id, project = %tenant.project, state = %tenant.state, "a database was created");
    reached(Step::CreateCommit, Moment::After).await;
    Ok(Acknowledged {
        tenant,
        password,
        registered,
    })
}

/// Why a statement that gives a tenant its name failed.
pub(crate) fn not_made(name: &TenantName, error: CatalogError) -> ApiError {
    match error.constraint() {
        Some("tenant_name") => name_taken(name),
        _ => error.into(),
    }
}

pub(crate) fn name_taken(name: &TenantName) -> ApiError {
    ApiError::with(
        ErrorCode::NameTaken,
        format!("database name already exists: {name}"),
    )
}

pub(crate) fn quota_exceeded(quota: u32) -> ApiError {
    ApiError::with(
        ErrorCode::QuotaExceeded,
        format!("anonymous account limit ({quota} databases)"),
    )
}

/// # Errors
///
/// [`ErrorCode::CreateFailed`] when it cannot be made. At the end of the wait it is answered as it
/// is.
async fn wait_until_made(app: &App, tenant: Tenant, wait: Duration) -> ApiResult<Tenant> {
    let tenant = super::change::wait_for(app, tenant, wait, |state| {
        !matches!(state, TenantState::Creating | TenantState::Cloning)
    })
    .await?;
    if tenant.state == TenantState::CreateFailed {
        let reason = tenant
            .state_reason
            .as_deref()
            .unwrap_or("no reason is known");
        return Err(ApiError::with(
            ErrorCode::CreateFailed,
            format!("database {} could not be made: {reason}", tenant.id),
        ));
    }
    Ok(tenant)
}
