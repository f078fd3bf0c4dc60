//! When a credential was last used: gathered in memory, written now and then.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use model::CredentialId;

use crate::{api::App, catalog::CatalogError};

/// Credentials used since the last write. Above it, more are not noted: the time is a hint.
const USED_MAX: usize = 10_000;

/// Credentials used since the last [`flush`].
#[derive(Default)]
pub(crate) struct Used(Mutex<HashSet<CredentialId>>);

impl Used {
    pub(crate) fn note(&self, id: CredentialId) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < USED_MAX {
            used.insert(id);
        }
    }

    fn take(&self) -> HashSet<CredentialId> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes them down. What cannot be written is lost; the next use notes it again.
pub(crate) async fn flush(app: &App) -> Result<(), CatalogError> {
    let used = app.used.take();
    if used.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = used.iter().map(CredentialId::as_str).collect();
    app.catalog
        .get()
        .await?
        .execute(
            "UPDATE credential SET last_used_at = now() WHERE id = ANY($1)",
            &[&ids],
        )
        .await?;
    Ok(())
}
