//! How many anonymous projects one address may make.
//!
//! Owns: the count of each address, in memory and of this process alone: it slows down whoever makes
//! projects without end, and is no account of anything. Does not own: what a project may have.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long an address is remembered for what it made.
const WINDOW: Duration = Duration::from_secs(3600);
/// Addresses that are remembered. Above it, one of them is forgotten, which lets it make more.
const ADDRESSES_MAX: usize = 10_000;

/// What addresses made within the last hour.
#[derive(Default)]
pub(crate) struct Pace(Mutex<HashMap<IpAddr, Made>>);

struct Made {
    count: u32,
    since: Instant,
}

impl Pace {
    /// Counts one more of `address`, of which there may be `max` within an hour; 0 is any number.
    ///
    /// # Errors
    ///
    /// How long it has to wait.
    pub(crate) fn count(&self, address: IpAddr, max: u32) -> Result<(), Duration> {
        if max == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let address = model::origin(address);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= ADDRESSES_MAX && !all.contains_key(&address) {
            all.retain(|_, made| now - made.since < WINDOW);
            if all.len() >= ADDRESSES_MAX {
                let any = all.keys().next().copied();
                any.and_then(|any| all.remove(&any));
            }
        }
        let made = all.entry(address).or_insert(Made {
            count: 0,
            since: now,
        });
        if now - made.since >= WINDOW {
            *made = Made {
                count: 0,
                since: now,
            };
        }
        if made.count >= max {
            return Err(WINDOW.saturating_sub(now - made.since));
        }
        made.count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_makes_so_many_in_an_hour() {
        let pace = Pace::default();
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(pace.count(one, 2), Ok(()));
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(pace.count(one, 2), Ok(()));
        assert_eq!(pace.count(one, 2), Err(Duration::from_secs(3000)));
        assert_eq!(pace.count("192.0.2.2".parse().unwrap(), 2), Ok(()));
        assert_eq!(pace.count(one, 0), Ok(()), "no limit");
        tokio::time::advance(Duration::from_secs(3000)).await;
        assert_eq!(pace.count(one, 2), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_addresses_are_remembered() {
        let pace = Pace::default();
        for number in 0..ADDRESSES_MAX as u32 + 10 {
            let address = IpAddr::V4(number.into());
            assert_eq!(pace.count(address, 1), Ok(()));
        }
        let all = pace.0.lock().unwrap();
        assert_eq!(all.len(), ADDRESSES_MAX);
    }
}
