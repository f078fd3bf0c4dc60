//! Backups: what a database was at one moment, kept elsewhere, and made a database again.
//!
//! Owns: their rows ([`store`], [`restores`]), when there should be new and fewer
//! of them ([`schedule`], [`plan`]), the passes that make and remove them ([`job`]), their form
//! ([`seal`], [`pack`]), keys ([`key`]) and place ([`place`], [`keep`]), and filling a database from one ([`fill`]),
//! also to see whether that works ([`drills`]).
//! A moment that is past is recovered for one ([`moment`]), and what was made only to be restored once goes then ([`spent`]).
//! Does not own: reading and filling databases (`node`), or the steps around a database that is being filled
//! (`placement`), which are those of every tenant.

pub(crate) mod carry;
pub(crate) mod drilled;
pub(crate) mod drills;
pub(crate) mod fill;
pub(crate) mod http;
pub(crate) mod job;
pub(crate) mod keep;
pub(crate) mod key;
pub(crate) mod moment;
pub(crate) mod pack;
pub(crate) mod place;
pub(crate) mod plan;
pub(crate) mod restores;
pub(crate) mod schedule;
pub(crate) mod scheduled;
pub(crate) mod seal;
pub(crate) mod spent;
pub(crate) mod start;
pub(crate) mod store;
pub(crate) mod window;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use model::Pid;
use tokio::sync::Notify;

/// What passes of backups are woken by, and what is being read.
#[derive(Default)]
pub(crate) struct Backups {
    wake: Notify,
    changed: Notify,
    /// Databases that are being read: one after another, since each reader logs in under the same name.
    reading: Mutex<HashMap<Pid, Arc<tokio::sync::Mutex<()>>>>,
}

impl Backups {
    /// Something changed. Cheap, and may be called too often.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Resolves at the next change after this call. Call it before looking.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    async fn turn(&self, pid: &Pid) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| Arc::strong_count(lock) > 1);
            all.entry(pid.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }
}
