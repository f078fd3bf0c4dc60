//! Keys of tenants' backups: one for each tenant, random, kept wrapped by the key of the installation.
//!
//! When the installation gets another key ([`belongs_to`]), a tenant begins with another one, too; what the former key
//! wrapped stays, for the case that it is found again. Destroyed, nothing opens the tenant's backups any more, wherever copies
//! of them are. Does not own: who may ask for that.

use deadpool_postgres::GenericClient;
use model::TenantId;
use rand::{TryRng, rngs::SysRng};
use zeroize::Zeroizing;

use super::{seal::Key, store::Backup};
use crate::{
    api::ErrorCode,
    catalog::{self, CatalogError},
    keys::{self, Keys},
};

/// What is wrong with backups that were made before the installation got another key.
const OTHER_INSTALLATION: &str =
    "it was made under another installation.key than the one in use, and opens with that one only";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// It was destroyed, and every backup with it.
    #[error("the key of this database's backups was destroyed")]
    Destroyed,
    /// The installation has another key than when it was wrapped.
    #[error("{OTHER_INSTALLATION}")]
    Wrapped,
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// The key of a tenant, made when there is none, or when it was destroyed: that one does not come back.
pub(crate) async fn of(
    client: &impl GenericClient,
    keys: &Keys,
    tenant: &TenantId,
) -> Result<Key, KeyError> {
    let mut fresh = Zeroizing::new([0; 32]);
    SysRng
        .try_fill_bytes(&mut *fresh)
        .expect("the system's random source never fails after boot");
    let sql = "INSERT INTO backup_key (tenant_id, installation, wrapped) VALUES ($1, $2, $3)
        ON CONFLICT (tenant_id, installation) DO UPDATE
        SET wrapped = excluded.wrapped, made_at = now(), destroyed_at = NULL WHERE backup_key.wrapped IS NULL";
    let wrapped = wrap(keys, tenant, &fresh);
    let ours = &keys.fingerprint[..];
    catalog::execute(client, sql, &[&tenant.as_str(), &ours, &wrapped]).await?;
    find(client, keys, tenant).await?.ok_or(KeyError::Destroyed)
}

/// The key of a tenant under that of the installation; `None`: it never had one.
async fn find(
    client: &impl GenericClient,
    keys: &Keys,
    tenant: &TenantId,
) -> Result<Option<Key>, KeyError> {
    let sql = "SELECT wrapped FROM backup_key WHERE tenant_id = $1 AND installation = $2";
    let ours = &keys.fingerprint[..];
    let Some(row) = catalog::query_opt(client, sql, &[&tenant.as_str(), &ours]).await? else {
        return Ok(None);
    };
    let wrapped: Option<Vec<u8>> = row.get(0);
    let wrapped = wrapped.ok_or(KeyError::Destroyed)?;
    unwrap(keys, tenant, &wrapped)
        .map(Some)
        .ok_or(KeyError::Wrapped)
}

/// The key that opens a backup.
pub(super) async fn of_backup(
    client: &impl GenericClient,
    keys: &Keys,
    backup: &Backup,
) -> Result<Key, KeyError> {
    if is_of_another(keys, backup) {
        return Err(KeyError::Wrapped);
    }
    let found = find(client, keys, &backup.tenant).await?;
    found.ok_or(KeyError::Destroyed)
}

/// Whether it was made under another key of the installation.
pub(super) fn is_of_another(keys: &Keys, backup: &Backup) -> bool {
    let installation = backup.installation.as_deref();
    installation.is_some_and(|installation| installation != keys.fingerprint)
}

/// Destroys it, once and for all; also what former keys of the installation wrapped.
pub(crate) async fn destroy(
    client: &impl GenericClient,
    keys: &Keys,
    tenant: &TenantId,
) -> Result<(), CatalogError> {
    let sql = "INSERT INTO backup_key (tenant_id, installation, wrapped, destroyed_at) VALUES ($1, $2, NULL, now())
        ON CONFLICT (tenant_id, installation) DO NOTHING";
    let ours = &keys.fingerprint[..];
    catalog::execute(client, sql, &[&tenant.as_str(), &ours]).await?;
    let sql = "UPDATE backup_key SET wrapped = NULL, destroyed_at = coalesce(destroyed_at, now()) WHERE tenant_id = $1";
    catalog::execute(client, sql, &[&tenant.as_str()]).await?;
    Ok(())
}

/// The catalog belongs to this key of the installation from now on. What was made under another one is no good backup
/// any more, and says so; what was made under this one, which is back, is one again. Returns how many there are of the
/// others, and of how many databases.
///
/// What nobody knows of is of this key: the catalog had none noted.
pub(crate) async fn belongs_to(
    client: &impl GenericClient,
    keys: &Keys,
) -> Result<(i64, i64), CatalogError> {
    let ours = &keys.fingerprint[..];
    for sql in [
        "UPDATE backup_key SET installation = $1 WHERE installation = ''",
        "UPDATE backup SET installation = $1 WHERE installation = ''",
    ] {
        catalog::execute(client, sql, &[&ours]).await?;
    }
    let wrong = wrong();
    let sql = "UPDATE backup SET verify_error = NULL WHERE installation = $1 AND verify_error = $2";
    catalog::execute(client, sql, &[&ours, &wrong]).await?;
    let sql =
        "UPDATE backup SET verify_error = coalesce(verify_error, $2) WHERE installation <> $1";
    catalog::execute(client, sql, &[&ours, &wrong]).await?;
    let sql = "SELECT count(*), count(DISTINCT tenant_id) FROM backup WHERE installation <> $1 AND state = 'ready'";
    let row = catalog::query_one(client, sql, &[&ours]).await?;
    Ok((row.get(0), row.get(1)))
}

/// As `verify` would say it.
pub(super) fn wrong() -> String {
    let code = ErrorCode::BackupKeyWrong.as_str();
    format!("{code}: {OTHER_INSTALLATION}")
}

fn wrap(keys: &Keys, tenant: &TenantId, key: &Key) -> Vec<u8> {
    keys::seal(&keys.backups, tenant.as_str().as_bytes(), &**key)
}

fn unwrap(keys: &Keys, tenant: &TenantId, stored: &[u8]) -> Option<Key> {
    let key = keys::open(&keys.backups, tenant.as_str().as_bytes(), stored)?;
    Some(Zeroizing::new(<[u8; 32]>::try_from(&key[..]).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_key_belongs_to_one_tenant_of_one_installation() {
        let (ours, others) = (Keys::derive(&[1; 32]), Keys::derive(&[2; 32]));
        let tenant: TenantId = "abcdefghijkl".parse().unwrap();
        let stored = wrap(&ours, &tenant, &Zeroizing::new([7; 32]));
        assert!(!stored.windows(8).any(|window| window == [7; 8]));
        assert_eq!(*unwrap(&ours, &tenant, &stored).unwrap(), [7; 32]);
        assert!(unwrap(&others, &tenant, &stored).is_none());
        assert!(unwrap(&ours, &"bbcdefghijkl".parse().unwrap(), &stored).is_none());
        assert!(unwrap(&ours, &tenant, &stored[1..]).is_none());
    }
}
