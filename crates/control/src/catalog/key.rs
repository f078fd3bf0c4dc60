//! Which installation key a catalog belongs to.
//!
//! With another key no password of a tenant works, no backup opens, and the audit log goes on with lines that nobody
//! can check: whoever comes with one is turned away before anything is written. Does not own: what the key is for
//! ([`crate::keys`]).

use deadpool_postgres::GenericClient;

use super::{Catalog, query_one, query_opt};
use crate::{Keys, StartError};

/// Asks a catalog that may be an old one, or empty, whether it belongs to another key. Changes nothing.
///
/// # Errors
///
/// [`StartError::OtherKey`].
pub(crate) async fn refuse_other(catalog: &Catalog, keys: &Keys) -> Result<(), StartError> {
    let client = catalog.get().await?;
    let sql = "SELECT pg_catalog.to_regclass('installation_key') IS NOT NULL";
    let is_kept: bool = query_one(&client, sql, &[]).await?.get(0);
    match is_kept {
        true => same(&client, keys).await,
        false => Ok(()),
    }
}

/// Notes the key, of a catalog that has none noted, or, when it is to be replaced, of any.
///
/// # Errors
///
/// [`StartError::OtherKey`]: another process was faster, with another one.
pub(crate) async fn note(
    catalog: &Catalog,
    keys: &Keys,
    is_replaced: bool,
) -> Result<(), StartError> {
    let client = catalog.get().await?;
    let sql = "INSERT INTO installation_key AS kept (fingerprint) VALUES ($1) ON CONFLICT (only_one) DO UPDATE
            SET fingerprint = excluded.fingerprint, noted_at = now()
            WHERE $2 AND kept.fingerprint <> excluded.fingerprint
        RETURNING xmax <> 0";
    let written = query_opt(&client, sql, &[&&keys.fingerprint[..], &is_replaced]).await?;
    if written.is_some_and(|row| row.get(0)) {
        tracing::warn!(
            "the catalog belongs to this installation.key from now on: passwords have to be set anew, and backups made \
             before cannot be restored"
        );
    }
    same(&client, keys).await
}

async fn same(client: &impl GenericClient, keys: &Keys) -> Result<(), StartError> {
    let sql = "SELECT NOT EXISTS (SELECT FROM installation_key WHERE fingerprint <> $1)";
    let row = query_one(client, sql, &[&&keys.fingerprint[..]]).await?;
    let is_same: bool = row.get(0);
    match is_same {
        true => Ok(()),
        false => Err(StartError::OtherKey),
    }
}
