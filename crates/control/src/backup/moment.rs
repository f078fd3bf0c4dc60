//! A backup of what a database was at a moment that is past, and `…/moments`: which can be had.
//!
//! Owns: which of the node's databases it was then, and reading it in the server that was recovered for it. Does
//! not own: that server, or what is kept to recover from (`node`); the backup itself is made as any other
//! (`carry`), and restored as any other. A process that dies leaves a row that is due, and begins anew.

use std::sync::Arc;

use axum::extract::State as Has;
use chrono::{DateTime, Utc};
use model::Pid;
use node::{
    Node,
    managed::{HistoryState, Recovered},
};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{
    carry::{self, CarryError},
    store::{self, Backup, Made},
};
use crate::{
    api::{
        App,
        auth::Principal,
        error::{ApiError, ApiResult, ErrorBody, ErrorCode, chain},
        extract::DatabaseKey,
    },
    catalog::parse,
    placement::step::{Moment, Step, reached},
    tenant,
};

/// A moment as it stands in a request (RFC 3339).
pub(super) fn parse_moment(text: &str) -> ApiResult<DateTime<Utc>> {
    let moment = DateTime::parse_from_rfc3339(text.trim()).map_err(|_| {
        ApiError::with(
            ErrorCode::InvalidField,
            "at is a moment like 2026-11-21T09:30:00Z",
        )
    })?;
    Ok(moment.to_utc())
}

/// The first moment that can be had; `None`: nothing is kept.
pub(super) fn kept(app: &App) -> Option<DateTime<Utc>> {
    let status = app.node.history()?;
    let oldest = status
        .oldest
        .filter(|_| status.state == HistoryState::Kept)?;
    Some(oldest.into())
}

/// Refuses a moment that cannot be recovered.
pub(super) fn must_be_kept(app: &App, moment: DateTime<Utc>) -> ApiResult<()> {
    let Some(oldest) = kept(app) else {
        return Err(ErrorCode::MomentUnknown.into());
    };
    let now = Utc::now();
    if (oldest..=now).contains(&moment) {
        return Ok(());
    }
    let form = |time: DateTime<Utc>| time.format("%Y-%m-%dT%H:%M:%SZ");
    Err(ApiError::with(
        ErrorCode::MomentUnknown,
        format!(
            "databases can be had as they were from {} to {}",
            form(oldest + chrono::Duration::seconds(1)),
            form(now)
        ),
    )
    .hint("choose a moment between these, or restore a backup"))
}

/// Makes `backup` of what its database was at `moment`.
pub(super) async fn make(
    app: &App,
    backup: &Backup,
    moment: DateTime<Utc>,
) -> Result<Made, CarryError> {
    let within = app.config.limits.backup_time_max;
    let until = Instant::now() + within;
    let client = app.catalog.get().await?;
    // In most cases it is what it was: then nothing else need be recovered.
    let now = store::place(&client, &backup.tenant).await?;
    drop(client);
    let mut guess = now.clone();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        reached(Step::MomentRead, Moment::Before).await;
        // Dropped, it leaves nothing.
        let found = tokio::select! {
            found = app.node.recover(moment.into(), guess.as_ref(), left) => found?,
            () = carry::unwanted(app, &backup.id) => return Err(CarryError::Unwanted),
        };
        reached(Step::MomentRead, Moment::Between).await;
        let read = read(app, backup, &found, now.as_ref()).await;
        if let Err(error) = found.throw_away().await {
            tracing::warn!(error = %chain(&error), "a recovered moment is removed later");
        }
        reached(Step::MomentRead, Moment::After).await;
        match read? {
            Read::Made(made) => return Ok(made),
            // Twice at most: what was guessed from the catalog of that moment is right.
            Read::Was(pid) => guess = Some(pid),
        }
    }
}

enum Read {
    Made(Made),
    /// It was this one, of which the contents were not recovered.
    Was(Pid),
}

async fn read(
    app: &App,
    backup: &Backup,
    found: &Recovered,
    now: Option<&Pid>,
) -> Result<Read, CarryError> {
    let node = found.node();
    let gone = CarryError::Gone("the database was not there at that moment");
    let Some(pid) = place_then(&node, backup, now).await? else {
        return Err(gone);
    };
    if !found.has(&pid) {
        return Ok(Read::Was(pid));
    }
    if !node.is_complete(&pid).await? {
        return Err(CarryError::Gone(
            "the database was being made at that moment",
        ));
    }
    Ok(Read::Made(
        carry::make(app, &node, backup, &pid, true).await?,
    ))
}

/// Where the database was then, as the catalog said that lies on the node. One that lies elsewhere knows only
/// where it is now.
async fn place_then(
    node: &Node,
    backup: &Backup,
    now: Option<&Pid>,
) -> Result<Option<Pid>, CarryError> {
    let catalog = node.catalog_config();
    let (client, connection) = catalog
        .config
        .connect(catalog.tls)
        .await
        .map_err(crate::catalog::CatalogError::from)?;
    // Ends with the client.
    tokio::spawn(connection);
    const IS_THERE: &str = "SELECT to_regclass('public.tenant') IS NOT NULL";
    let is_there = client.query_one(IS_THERE, &[]).await;
    if !is_there
        .map_err(crate::catalog::CatalogError::from)?
        .get::<_, bool>(0)
    {
        return Ok(now.cloned());
    }
    let sql = "SELECT pid FROM tenant WHERE id = $1";
    let row = client.query_opt(sql, &[&backup.tenant.as_str()]).await;
    let row = row.map_err(crate::catalog::CatalogError::from)?;
    Ok(row.map(|row| parse(row.get(0))))
}

/// Which moments databases can be had of.
#[derive(Serialize, ToSchema)]
pub(crate) struct MomentsResponse {
    /// Whether there are any.
    kept: bool,
    /// The first one.
    oldest: Option<DateTime<Utc>>,
    /// The last one.
    latest: Option<DateTime<Utc>>,
}

/// Of which moments a database can be backed up, and so restored: every one between `oldest` and `latest`. What a
/// database was before it was made, or while it was, is nothing.
#[utoipa::path(get, path = "/customer/databases/{database}/moments", tag = "backups",
    operation_id = "moments_of_database", security(("bearer" = [])),
    params(("database" = String, Path, description = "id or name")),
    responses((status = 200, body = MomentsResponse), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn moments(
    Has(app): Has<Arc<App>>,
    principal: Principal,
    key: DatabaseKey,
) -> ApiResult<axum::Json<MomentsResponse>> {
    let tenant = tenant::http::read(&app, &principal, &key).await?;
    let oldest = kept(&app).map(|oldest| oldest.max(tenant.created_at));
    Ok(axum::Json(MomentsResponse {
        kept: oldest.is_some(),
        oldest,
        latest: oldest.map(|_| Utc::now()),
    }))
}
