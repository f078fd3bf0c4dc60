//! Keys of tenants' backups: one for each tenant, random, kept wrapped by the key of the installation.
//!
//! Destroyed, nothing opens the tenant's backups any more, wherever copies of them are. Does not own: who may
//! ask for that.

use deadpool_postgres::GenericClient;
use model::TenantId;
use rand::{TryRng, rngs::SysRng};
use zeroize::Zeroizing;

use super::seal::Key;
use crate::{
    catalog::{self, CatalogError},
    keys::{self, Keys},
};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// It was destroyed, and every backup with it.
    #[error("the key of this database's backups was destroyed")]
    Destroyed,
    /// The installation has another key than when it was wrapped.
    #[error("the key of this installation does not open the key of this database's backups")]
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
    let sql = "INSERT INTO backup_key (tenant_id, wrapped) VALUES ($1, $2) ON CONFLICT (tenant_id) DO UPDATE
        SET wrapped = excluded.wrapped, made_at = now(), destroyed_at = NULL WHERE backup_key.wrapped IS NULL";
    let wrapped = wrap(keys, tenant, &fresh);
    catalog::execute(client, sql, &[&tenant.as_str(), &wrapped]).await?;
    find(client, keys, tenant).await?.ok_or(KeyError::Destroyed)
}

/// The key of a tenant; `None`: it never had one.
pub(crate) async fn find(
    client: &impl GenericClient,
    keys: &Keys,
    tenant: &TenantId,
) -> Result<Option<Key>, KeyError> {
    let sql = "SELECT wrapped FROM backup_key WHERE tenant_id = $1";
    let Some(row) = catalog::query_opt(client, sql, &[&tenant.as_str()]).await? else {
        return Ok(None);
    };
    let wrapped: Option<Vec<u8>> = row.get(0);
    let wrapped = wrapped.ok_or(KeyError::Destroyed)?;
    unwrap(keys, tenant, &wrapped)
        .map(Some)
        .ok_or(KeyError::Wrapped)
}

/// Destroys it, once and for all.
pub(crate) async fn destroy(
    client: &impl GenericClient,
    tenant: &TenantId,
) -> Result<(), CatalogError> {
    let sql = "INSERT INTO backup_key (tenant_id, wrapped, destroyed_at) VALUES ($1, NULL, now())
        ON CONFLICT (tenant_id) DO UPDATE
        SET wrapped = NULL, destroyed_at = coalesce(backup_key.destroyed_at, now())";
    catalog::execute(client, sql, &[&tenant.as_str()]).await?;
    Ok(())
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
