//! How many anonymous projects one address may make within an hour, in whichever process.
//!
//! Owns: the rows that count them, and what this process remembers of refusals: whoever goes on asking is
//! refused without a question to the catalog. Does not own: what a project may have.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use deadpool_postgres::GenericClient;
use tokio::time::Instant;

use crate::catalog::{self, CatalogError};

/// How long an address is remembered for what it made.
const WINDOW: Duration = Duration::from_secs(3600);
/// Addresses whose refusal is remembered. Above it one is forgotten, and the catalog refuses it again.
const REFUSED_MAX: usize = 10_000;

/// Counts one more of `address`, of which there may be `max` within an hour, together with what the caller's
/// transaction does: what is not made is not counted. Two at once from one address wait for each other.
///
/// Returns how long it has to wait, if it has; nothing is counted then.
pub(super) async fn count(
    client: &impl GenericClient,
    address: IpAddr,
    max: u32,
) -> Result<Option<Duration>, CatalogError> {
    let (address, max) = (
        model::origin(address),
        i32::try_from(max).unwrap_or(i32::MAX),
    );
    let counted = catalog::query_opt(
        client,
        "INSERT INTO anonymous_pace AS p (address, made, since) VALUES ($1, 1, clock_timestamp())
         ON CONFLICT (address) DO UPDATE SET
             made = CASE WHEN p.since + make_interval(secs => $3) <= clock_timestamp()
                 THEN 1 ELSE p.made + 1 END,
             since = CASE WHEN p.since + make_interval(secs => $3) <= clock_timestamp()
                 THEN clock_timestamp() ELSE p.since END
         WHERE p.made < $2 OR p.since + make_interval(secs => $3) <= clock_timestamp()
         RETURNING made",
        &[&address, &max, &WINDOW.as_secs_f64()],
    )
    .await?;
    if counted.is_some() {
        return Ok(None);
    }
    let since = catalog::query_opt(
        client,
        "SELECT extract(epoch FROM clock_timestamp() - since)::float8 FROM anonymous_pace
         WHERE address = $1",
        &[&address],
    )
    .await?;
    let since: f64 = since.map_or(0.0, |row| row.get(0));
    let since = Duration::from_secs_f64(since.max(0.0));
    Ok(Some(WINDOW.saturating_sub(since)))
}

/// Forgets addresses whose hour is over, at most `limit`.
pub(crate) async fn sweep(client: &impl GenericClient, limit: i64) -> Result<(), CatalogError> {
    catalog::execute(
        client,
        "DELETE FROM anonymous_pace WHERE address IN (SELECT address FROM anonymous_pace
             WHERE since + make_interval(secs => $2) <= now() LIMIT $1)",
        &[&limit, &WINDOW.as_secs_f64()],
    )
    .await?;
    Ok(())
}

/// Addresses that have to wait, and until when.
#[derive(Default)]
pub(crate) struct Refused(Mutex<HashMap<IpAddr, Instant>>);

impl Refused {
    /// How long `address` has to wait still, as far as this process knows.
    pub(super) fn wait(&self, address: IpAddr) -> Option<Duration> {
        let now = Instant::now();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = all.get(&model::origin(address))?;
        (*until > now).then(|| *until - now)
    }

    /// The catalog has refused `address` for so long.
    pub(super) fn remember(&self, address: IpAddr, wait: Duration) {
        let now = Instant::now();
        let address = model::origin(address);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REFUSED_MAX && !all.contains_key(&address) {
            all.retain(|_, until| *until > now);
            if all.len() >= REFUSED_MAX {
                let any = all.keys().next().copied();
                any.and_then(|any| all.remove(&any));
            }
        }
        all.insert(address, now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_remembered_until_its_end() {
        let refused = Refused::default();
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(refused.wait(one), None);
        refused.remember(one, Duration::from_secs(600));
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(refused.wait(one), Some(Duration::from_secs(400)));
        assert_eq!(refused.wait("192.0.2.2".parse().unwrap()), None);
        tokio::time::advance(Duration::from_secs(400)).await;
        assert_eq!(refused.wait(one), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_refusals_are_remembered() {
        let refused = Refused::default();
        for number in 0..REFUSED_MAX as u32 + 10 {
            let address = IpAddr::V4(number.into());
            refused.remember(address, Duration::from_secs(60));
            assert!(refused.wait(address).is_some());
        }
        assert_eq!(refused.0.lock().unwrap().len(), REFUSED_MAX);
    }
}
