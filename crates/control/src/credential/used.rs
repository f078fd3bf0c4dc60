//! When a credential was last used, and from where: gathered in memory, written now and then.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use model::CredentialId;

use crate::{
    api::App,
    catalog::{self, CatalogError},
};

/// Credentials used since the last write. Above it, more are not noted: the time is a hint.
const USED_MAX: usize = 10_000;

/// Credentials used since the last [`flush`], and the address of the last use; `None`: the platform itself.
#[derive(Default)]
pub(crate) struct Used(Mutex<HashMap<CredentialId, Option<IpAddr>>>);

impl Used {
    pub(crate) fn note(&self, id: CredentialId, from: Option<IpAddr>) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < USED_MAX || used.contains_key(&id) {
            used.insert(id, from);
        }
    }

    fn take(&self) -> HashMap<CredentialId, Option<IpAddr>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes them down. What cannot be written is lost; the next use notes it again.
pub(crate) async fn flush(app: &App) -> Result<(), CatalogError> {
    let used = app.used.take();
    if used.is_empty() {
        return Ok(());
    }
    let (ids, from): (Vec<&str>, Vec<Option<IpAddr>>) =
        used.iter().map(|(id, from)| (id.as_str(), *from)).unzip();
    let client = app.catalog.get().await?;
    catalog::execute(
        &client,
        "UPDATE credential c SET last_used_at = now(),
             last_used_from = coalesce(used.from_address, last_used_from)
         FROM unnest($1::text[], $2::inet[]) AS used (id, from_address) WHERE c.id = used.id",
        &[&ids, &from],
    )
    .await?;
    Ok(())
}
