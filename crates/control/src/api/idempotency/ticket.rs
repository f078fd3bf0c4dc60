//! What a handler has of the reserved key: it keeps its answer together with what it did.
//!
//! Owns: the encryption of kept answers. Does not own: whose turn a key is ([`mod@super::reserve`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use deadpool_postgres::GenericClient;
use model::ProjectId;

use super::Holder;
use crate::{
    api::error::ApiError,
    catalog::{self, CatalogError},
};

/// The reserved key of a request; empty when it has none.
#[derive(Clone, Default)]
pub(crate) struct Ticket(Option<Arc<Reserved>>);

/// A key that one request works on.
pub(super) struct Reserved {
    pub(super) project: ProjectId,
    pub(super) holder: Holder,
    /// As the catalog has it.
    pub(super) key: String,
    pub(super) request_hash: [u8; 32],
    pub(super) keys: crate::Keys,
    /// How long the answer is kept.
    pub(super) keep: Duration,
    /// The handler kept the last word itself.
    pub(super) is_settled: AtomicBool,
}

impl<S: Sync> FromRequestParts<S> for Ticket {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// Whether an answer that is kept with its change is the one that will be given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kept {
    /// The one that is given in the end replaces it.
    Ahead,
    /// It is what is given: nothing has to be written a second time.
    Last,
}

impl Ticket {
    pub(super) fn new(reserved: Arc<Reserved>) -> Self {
        Self(Some(reserved))
    }

    /// Keeps the answer together with what it answers for. Does nothing without a key.
    pub(crate) async fn keep_in(
        &self,
        client: &impl GenericClient,
        status: StatusCode,
        body: &[u8],
        kept: Kept,
    ) -> Result<(), CatalogError> {
        let Some(reserved) = &self.0 else {
            return Ok(());
        };
        let status = i16::try_from(status.as_u16()).expect("a status has three digits");
        catalog::execute(
            client,
            "UPDATE idempotency SET status = $3, response = $4, settled = $6,
                 expires_at = now() + make_interval(secs => $5)
             WHERE project_id = $1 AND key = $2",
            &[
                &reserved.project.as_str(),
                &reserved.key,
                &status,
                &reserved.seal(body),
                &reserved.keep.as_secs_f64(),
                &(kept == Kept::Last),
            ],
        )
        .await?;
        // Should the transaction fail after this, the answer is an error, and those are not kept.
        reserved
            .is_settled
            .store(kept == Kept::Last, Ordering::Relaxed);
        Ok(())
    }
}

impl Reserved {
    fn cipher(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, &*self.keys.responses).expect("the key has 32 bytes")
    }

    /// What the answer belongs to; another request cannot be given it.
    fn context(&self) -> Aad<Vec<u8>> {
        let mut context = self.request_hash.to_vec();
        context.extend_from_slice(self.project.as_str().as_bytes());
        context.push(0);
        context.extend_from_slice(self.key.as_bytes());
        Aad::from(context)
    }

    fn seal(&self, body: &[u8]) -> Vec<u8> {
        let mut sealed = body.to_vec();
        let nonce = self
            .cipher()
            .seal_in_place_append_tag(self.context(), &mut sealed)
            .expect("an answer is far shorter than AES-GCM's limit");
        let mut stored = nonce.as_ref().to_vec();
        stored.extend_from_slice(&sealed);
        stored
    }

    /// `None`: it was made under another key of the installation.
    pub(super) fn open(&self, stored: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = stored.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let body = self
            .cipher()
            .open_in_place(nonce, self.context(), &mut sealed)
            .ok()?;
        Some(body.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved(key: &str) -> Reserved {
        Reserved {
            project: "prj_abcdefghijkl".parse().unwrap(),
            holder: Holder::Project,
            key: key.to_owned(),
            request_hash: [1; 32],
            keys: crate::Keys::derive(&[9; 32]),
            keep: Duration::from_secs(1),
            is_settled: AtomicBool::new(false),
        }
    }

    #[test]
    fn a_kept_answer_is_unreadable_and_belongs_to_one_request() {
        let stored = reserved("a").seal(b"hunter2");
        assert!(!stored.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(reserved("a").open(&stored).unwrap(), b"hunter2");
        assert_eq!(reserved("b").open(&stored), None);
        assert_eq!(reserved("a").open(b"short"), None);
        assert_ne!(
            stored,
            reserved("a").seal(b"hunter2"),
            "a nonce is never used twice"
        );
    }
}
