//! What is known of an issuer's keys.
//!
//! Owns: when they are asked for anew. At most once in `every`, however many tokens name keys that
//! there are not; once for all who wait. While the issuer cannot be reached, the keys it had are used
//! on, for `stale_max`. Does not own: reading them (`source`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use super::{
    KeySource, Pace,
    source::{self, Key},
};

/// Why there is no key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NoKey {
    /// The issuer has none of that name.
    Unknown,
    /// Nobody can tell.
    Unreachable,
}

/// An issuer's keys.
pub(super) struct Keys {
    source: KeySource,
    pace: Pace,
    known: Mutex<Known>,
    /// Held while they are read.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<String, Arc<Key>>,
    /// When they were read. `None`: never.
    read: Option<Instant>,
    /// When it was last tried, and whether that failed.
    tried: Option<(Instant, bool)>,
}

/// What is to be done about a key.
enum Look {
    Use(Arc<Key>),
    /// Reading them may help; until then there is this one.
    Read(Option<Arc<Key>>),
    Refuse(NoKey),
}

impl Keys {
    pub(super) fn new(source: KeySource, pace: Pace) -> Self {
        Self {
            source,
            pace,
            known: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of this name. Waits for the issuer where that may help.
    pub(super) async fn find(&self, kid: &str) -> Result<Arc<Key>, NoKey> {
        let _reading = match self.look(kid) {
            Look::Use(key) => return Ok(key),
            Look::Refuse(no_key) => return Err(no_key),
            // Who has one already does not wait for another's reading.
            Look::Read(Some(key)) => match self.reading.try_lock() {
                Ok(reading) => reading,
                Err(_) => return Ok(key),
            },
            Look::Read(None) => self.reading.lock().await,
        };
        // Somebody else may have read them meanwhile.
        if let Look::Read(_) = self.look(kid) {
            self.read().await;
        }
        match self.look(kid) {
            Look::Use(key) | Look::Read(Some(key)) => Ok(key),
            Look::Refuse(no_key) => Err(no_key),
            Look::Read(None) => Err(NoKey::Unreachable),
        }
    }

    fn look(&self, kid: &str) -> Look {
        let known = self.known();
        let now = Instant::now();
        let age = known.read.map(|read| now - read);
        let key = match age {
            Some(age) if age < self.pace.stale_max => known.keys.get(kid).cloned(),
            _ => None,
        };
        if let (Some(key), Some(age)) = (&key, age)
            && age < self.pace.fresh
        {
            return Look::Use(key.clone());
        }
        match (known.tried, key) {
            (Some((at, _)), Some(key)) if now - at < self.pace.every => Look::Use(key),
            (Some((at, failed)), None) if now - at < self.pace.every => Look::Refuse(if failed {
                NoKey::Unreachable
            } else {
                NoKey::Unknown
            }),
            (_, key) => Look::Read(key),
        }
    }

    async fn read(&self) {
        let result = source::read(&self.source).await;
        let mut known = self.known();
        let now = Instant::now();
        known.tried = Some((now, result.is_err()));
        match result {
            Ok(keys) => {
                known.keys = keys;
                known.read = Some(now);
            }
            Err(error) => {
                tracing::warn!(error = %crate::api::error::chain(&error), "the keys of an issuer cannot be read");
            }
        }
    }
}
