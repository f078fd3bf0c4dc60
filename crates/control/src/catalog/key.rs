//! Which installation key a catalog belongs to.
//!
//! With another key no password of a tenant works, no backup opens, and the audit log goes on with lines that nobody
//! can check: whoever comes with one is turned away before anything is written. Does not own: what the key is for
//! ([`crate::keys`]).

use deadpool_postgres::GenericClient;

use super::{Catalog, CatalogError, query_one, query_opt};
use crate::{Keys, StartError, alert, backup};

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
    let mut client = catalog.get().await?;
    let transaction = client.transaction().await.map_err(CatalogError::from)?;
    let sql = "INSERT INTO installation_key AS kept (fingerprint) VALUES ($1) ON CONFLICT (only_one) DO UPDATE
            SET fingerprint = excluded.fingerprint, noted_at = now()
            WHERE $2 AND kept.fingerprint <> excluded.fingerprint
        RETURNING xmax <> 0";
    let written = query_opt(&transaction, sql, &[&&keys.fingerprint[..], &is_replaced]).await?;
    if let Some(row) = written {
        let (backups, databases) = backup::key::belongs_to(&transaction, keys).await?;
        let webhooks = alert::targets::belongs_to(&transaction, keys).await?;
        if row.get(0) {
            tracing::warn!(
                backups,
                databases,
                webhooks,
                "the catalog belongs to this installation.key from now on: all passwords of databases have to be set anew \
                 (`db reset-password`); so many backups of so many databases, made under the former key, cannot be restored \
                 (`backup list --all`): back these databases up; so many webhooks of alerts need a new secret \
                 (`alert target set URL --new-secret`); `audit verify` says of lines written before that they are not of this key"
            );
        }
    }
    transaction.commit().await.map_err(CatalogError::from)?;
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
