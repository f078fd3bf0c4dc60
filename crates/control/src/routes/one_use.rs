//! Credentials that work once, for what the platform runs for a user. They live in memory only, for
//! seconds.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use model::{CredentialId, LoginName, Secret, route::Candidate};
use tokio::time::Instant;

use crate::{credential, keys::Keys};

/// From its making to the login. The login follows at once; this bounds a lost one.
const LIFE: Duration = Duration::from_secs(10);
/// Unused ones of one login at once; the route takes 64 candidates in all.
const PER_LOGIN_MAX: usize = 32;

struct Issued {
    candidate: Candidate,
    until: Instant,
}

/// All that were not used yet.
#[derive(Default)]
pub(crate) struct OneUse(Mutex<HashMap<LoginName, Vec<Issued>>>);

/// A one-use password. Taken back when dropped, used or not.
pub(crate) struct Issue<'a> {
    pub(crate) password: Secret,
    id: CredentialId,
    from: &'a OneUse,
}

impl Drop for Issue<'_> {
    fn drop(&mut self) {
        self.from.consume(&self.id);
    }
}

/// The login has as many unused ones as it may have.
#[derive(Debug)]
pub(crate) struct Full;

impl OneUse {
    /// A password that opens `login` once.
    pub(crate) fn issue(&self, keys: &Keys, login: &LoginName) -> Result<Issue<'_>, Full> {
        let password = credential::new_password();
        let scram = credential::scram_keys(keys, login, &password);
        let id = CredentialId::random(&mut rand::rng());
        let candidate = Candidate {
            id: id.clone(),
            stored_key: scram.stored_key,
            server_key: scram.server_key,
            expires_at: Some(SystemTime::now() + LIFE),
            one_use: true,
            outlived: true,
            network: None,
        };
        let mut all = self.lock();
        let issued = all.entry(login.clone()).or_default();
        issued.retain(|issued| issued.until > Instant::now());
        if issued.len() >= PER_LOGIN_MAX {
            return Err(Full);
        }
        issued.push(Issued {
            candidate,
            until: Instant::now() + LIFE,
        });
        drop(all);
        Ok(Issue {
            password,
            id,
            from: self,
        })
    }

    /// Those of one login that still work.
    pub(super) fn candidates(&self, login: &LoginName) -> Vec<Candidate> {
        let all = self.lock();
        let now = Instant::now();
        all.get(login).map_or_else(Vec::new, |issued| {
            issued
                .iter()
                .filter(|issued| issued.until > now)
                .map(|issued| issued.candidate.clone())
                .collect()
        })
    }

    /// Uses one up. False: it was used, taken back or expired.
    pub(super) fn consume(&self, id: &CredentialId) -> bool {
        let mut all = self.lock();
        let now = Instant::now();
        let mut found = false;
        all.retain(|_, issued| {
            issued.retain(|issued| {
                let this = issued.candidate.id == *id;
                found |= this && issued.until > now;
                !this
            });
            !issued.is_empty()
        });
        found
    }

    /// Forgets expired ones.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|_, issued| {
            issued.retain(|issued| issued.until > now);
            !issued.is_empty()
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LoginName, Vec<Issued>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> LoginName {
        "abcdefghijkl.admin".parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_works_once_and_not_for_long() {
        let all = OneUse::default();
        let keys = Keys::derive(&[1; 32]);
        let issue = all.issue(&keys, &login()).unwrap();
        assert_eq!(all.candidates(&login()).len(), 1);
        assert!(
            all.candidates(&"abcdefghijkl.read".parse().unwrap())
                .is_empty()
        );
        assert!(all.consume(&issue.id));
        assert!(!all.consume(&issue.id));

        let late = all.issue(&keys, &login()).unwrap();
        tokio::time::advance(LIFE).await;
        assert!(all.candidates(&login()).is_empty());
        assert!(!all.consume(&late.id));
    }

    #[tokio::test]
    async fn it_is_taken_back_when_dropped() {
        let all = OneUse::default();
        let keys = Keys::derive(&[1; 32]);
        drop(all.issue(&keys, &login()).unwrap());
        assert!(all.candidates(&login()).is_empty());
    }

    #[tokio::test]
    async fn one_login_cannot_have_too_many() {
        let all = OneUse::default();
        let keys = Keys::derive(&[1; 32]);
        let held: Vec<_> = (0..PER_LOGIN_MAX)
            .map(|_| all.issue(&keys, &login()).unwrap())
            .collect();
        assert!(all.issue(&keys, &login()).is_err());
        drop(held);
        assert!(all.issue(&keys, &login()).is_ok());
    }
}
