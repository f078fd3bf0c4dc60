//! The end of backups that were made only to be restored once.
//!
//! Owns: when such a backup has done what it was made for, and that one nobody waits for is not made to its end. Does not own: its removal, which is that of any other
//! (`job`). Whoever asked for it may be gone, and so may the process that restored it: what counts is what rows say.

use std::time::Duration;

use super::plan;
use crate::{
    api::App,
    catalog::{self, CatalogError},
};

/// How long one is there that nobody restores: its user went away, or reads why it failed.
const UNUSED_MAX: Duration = Duration::from_secs(3600);
/// How long one is made for somebody who has not asked for it since: a client asks every second or so, and one that was killed never
/// does again. Several minutes, for one that lost its way to us.
const UNWATCHED_MAX: Duration = Duration::from_secs(300);
/// Backups that one look gives up; the next ones go on.
const REMOVE_MAX: i64 = 1_000;

/// Gives up those that nobody waits for; those whose restore has ended, however it did, and those that nobody restored in time.
pub(super) async fn go_on(
    app: &App,
    client: &mut deadpool_postgres::Object,
) -> Result<(), CatalogError> {
    let sql = "WITH timed AS (
            UPDATE backup SET expires_at = now() + make_interval(secs => $1)
            WHERE NOT is_kept AND expires_at IS NULL AND state IN ('ready', 'failed'))
        SELECT id FROM backup b WHERE NOT is_kept AND state IN ('ready', 'failed')
            AND (expires_at <= now()
                OR EXISTS (SELECT FROM restore r WHERE r.backup_id = b.id AND r.state IN ('done', 'failed')))
        LIMIT $2";
    let unwatched = "UPDATE backup SET state = 'deleting', due_at = now(), attempts = 0
        WHERE NOT is_kept AND state IN ('waiting', 'running') AND watched_at < now() - make_interval(secs => $1)
        RETURNING id";
    let unwatched_s = UNWATCHED_MAX.as_secs_f64();
    for row in catalog::query(&*client, unwatched, &[&unwatched_s]).await? {
        let id: &str = row.get(0);
        tracing::info!(
            backup = id,
            "nobody waits for a backup that was to be restored once"
        );
    }
    let transaction = client.transaction().await?;
    let unused_s = UNUSED_MAX.as_secs_f64();
    let rows = catalog::query(&transaction, sql, &[&unused_s, &REMOVE_MAX]).await?;
    let ids: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let removed = match ids.is_empty() {
        true => 0,
        false => plan::remove_unneeded(&transaction, &ids).await?,
    };
    transaction.commit().await?;
    if removed > 0 {
        tracing::info!(
            backups = removed,
            "backups made to be restored once did their work"
        );
        app.backups.wake();
    }
    Ok(())
}
