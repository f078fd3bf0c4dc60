//! Places of clients in the process.
//!
//! Owns: how many clients there may be, and who of those that have not logged in yet makes room for the
//! next one. Does not own: accepting (`accept`), limits of an address (`address`), of a tenant (`tenant`).
//!
//! Whoever only opens connections shall keep nobody out, and shall not push out who is logging in either. So
//! room is made first by those who have not said who they are; among them by the address that has most
//! of them, a flood thus by itself; and of that address by the oldest.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

use crate::{accept::Peer, address, config::Config, worker::Shared};

/// Clients above `clients_max` that are let as far as being told so. Others are just closed.
const TURNED_AWAY_MAX: usize = 64;
/// Time for who is pushed out to give back its file descriptor.
pub(crate) const ROOM_PAUSE: Duration = Duration::from_millis(1);
/// So often a new one waits for those that were pushed out, before it is turned away itself.
const ROOM_PAUSES_MAX: usize = 100;

/// Connections of one stage, by where they come from: the origin of an address (`model::origin`), `None` for
/// the platform itself.
#[derive(Debug, Default)]
struct Line {
    of: HashMap<Option<IpAddr>, BTreeMap<u64, Arc<Notify>>>,
    /// What `of` has, the one to make room last: how many, and the number of the oldest.
    by_size: BTreeSet<(usize, Reverse<u64>, Option<IpAddr>)>,
}

impl Line {
    fn insert(&mut self, from: Option<IpAddr>, number: u64, pushed: Arc<Notify>) {
        self.change(from, |crowd| crowd.insert(number, pushed));
    }

    fn remove(&mut self, from: Option<IpAddr>, number: u64) -> Option<Arc<Notify>> {
        self.change(from, |crowd| crowd.remove(&number))
    }

    fn pop(&mut self) -> Option<Arc<Notify>> {
        let (_, Reverse(oldest), from) = *self.by_size.last()?;
        self.remove(from, oldest)
    }

    fn change<T>(
        &mut self,
        from: Option<IpAddr>,
        change: impl FnOnce(&mut BTreeMap<u64, Arc<Notify>>) -> T,
    ) -> T {
        let key = |crowd: &BTreeMap<u64, Arc<Notify>>| {
            let (oldest, _) = crowd.first_key_value()?;
            Some((crowd.len(), Reverse(*oldest), from))
        };
        let crowd = self.of.entry(from).or_default();
        if let Some(before) = key(crowd) {
            self.by_size.remove(&before);
        }
        let changed = change(crowd);
        match key(crowd) {
            Some(after) => _ = self.by_size.insert(after),
            None => _ = self.of.remove(&from),
        }
        changed
    }
}

/// Connections that have not logged in yet.
#[derive(Debug, Default)]
struct Waiting {
    silent: Line,
    /// They said who they are, and their address may try that now.
    named: Line,
}

impl Waiting {
    fn remove(&mut self, from: Option<IpAddr>, number: u64) -> Option<Arc<Notify>> {
        let silent = self.silent.remove(from, number);
        silent.or_else(|| self.named.remove(from, number))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Entrance {
    waiting: Mutex<Waiting>,
    /// Pushed out, and not gone yet.
    leaving: AtomicUsize,
}

impl Entrance {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, from: Option<IpAddr>, number: u64) -> Arc<Notify> {
        let pushed = Arc::new(Notify::new());
        self.waiting().silent.insert(from, number, pushed.clone());
        pushed
    }

    fn is_named(&self, from: Option<IpAddr>, number: u64) {
        let waiting = &mut *self.waiting();
        if let Some(pushed) = waiting.silent.remove(from, number) {
            waiting.named.insert(from, number, pushed);
        }
    }

    /// It turned out to come from somewhere else.
    fn moves(&self, (from, to): (Option<IpAddr>, Option<IpAddr>), number: u64) {
        let waiting = &mut *self.waiting();
        if let Some(pushed) = waiting.silent.remove(from, number) {
            waiting.silent.insert(to, number, pushed);
        }
    }

    fn leave(&self, from: Option<IpAddr>, number: u64) {
        if self.waiting().remove(from, number).is_none() {
            self.leaving.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether there was one to push out.
    pub(crate) fn push_out(&self) -> bool {
        let waiting = &mut *self.waiting();
        let Some(pushed) = waiting.silent.pop().or_else(|| waiting.named.pop()) else {
            return false;
        };
        // While the lock is held: it cannot have left before it is counted.
        self.leaving.fetch_add(1, Ordering::Relaxed);
        pushed.notify_one();
        true
    }
}

/// Lets those go first that were pushed out, when they are many: a new connection is not turned away
/// for the sake of places that nobody has any more.
pub(crate) async fn wait_for_room(shared: &Shared, clients_max: usize) {
    for _ in 0..ROOM_PAUSES_MAX {
        if shared.clients.load(Ordering::Relaxed) < clients_max + TURNED_AWAY_MAX
            || shared.entrance.leaving.load(Ordering::Relaxed) == 0
        {
            return;
        }
        sleep(ROOM_PAUSE).await;
    }
}

/// A place among the clients of the process; free again when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    shared: Arc<Shared>,
    /// More clients than allowed, all logged in: this one is only told so.
    pub(crate) is_too_many: bool,
    number: u64,
    /// `None` for the platform itself and for a load balancer, until it has said for whom it speaks.
    pub(crate) from: Option<address::Connection>,
    /// `None` once it has logged in, and when it has no place to give up.
    waits: Option<Box<Waits>>,
}

/// A place that may be given up. Apart, since a client that has logged in is to be small.
#[derive(Debug)]
struct Waits {
    /// Where it stands in the entrance.
    origin: Option<IpAddr>,
    pushed: Arc<Notify>,
}

impl Slot {
    /// `None` when there is no use in even telling.
    pub(crate) fn take(shared: &Arc<Shared>, config: &Config, peer: Peer) -> Option<Self> {
        let clients_max = config.limits.clients_max;
        let from = match peer {
            Peer::Tcp(from) if !peer.speaks_for_others(config) => {
                let connected = shared.addresses.connected(from.ip(), TURNED_AWAY_MAX);
                Some(connected.ok()?)
            }
            Peer::Http(from) => {
                let connected = shared.addresses.connected(from.ip(), TURNED_AWAY_MAX);
                Some(connected.ok()?)
            }
            Peer::Tcp(_) | Peer::Door => None,
        };
        let before = shared.clients.fetch_add(1, Ordering::Relaxed);
        let mut slot = Self {
            shared: shared.clone(),
            is_too_many: false,
            number: shared.connections.fetch_add(1, Ordering::Relaxed),
            from,
            waits: None,
        };
        let staying = before.saturating_sub(shared.entrance.leaving.load(Ordering::Relaxed));
        let has_room = staying < clients_max || shared.entrance.push_out();
        // Dropping the slot takes the count back.
        if before >= clients_max + TURNED_AWAY_MAX {
            return None;
        }
        slot.is_too_many = !has_room;
        if has_room {
            let origin = peer.ip().map(model::origin);
            let pushed = shared.entrance.join(origin, slot.number);
            slot.waits = Some(Box::new(Waits { origin, pushed }));
        }
        Some(slot)
    }

    /// A load balancer said for whom it speaks.
    ///
    /// # Errors
    ///
    /// See [`address::Addresses::connected`].
    pub(crate) fn speaks_for(&mut self, client: SocketAddr) -> Result<(), address::FarTooMany> {
        let addresses = &self.shared.addresses;
        self.from = Some(addresses.connected(client.ip(), TURNED_AWAY_MAX)?);
        if let Some(waits) = &mut self.waits {
            let to = Some(model::origin(client.ip()));
            let from = std::mem::replace(&mut waits.origin, to);
            self.shared.entrance.moves((from, to), self.number);
        }
        Ok(())
    }

    /// The client has said who it is, and may try that: others make room before it does.
    pub(crate) fn is_named(&self) {
        if let Some(waits) = &self.waits {
            self.shared.entrance.is_named(waits.origin, self.number);
        }
    }

    /// The client has logged in: from now on its place is its own.
    pub(crate) fn entered(&mut self) {
        if let Some(waits) = self.waits.take() {
            self.shared.entrance.leave(waits.origin, self.number);
        }
    }

    /// Returns when the place is needed for another one; never once the client has entered.
    pub(crate) async fn pushed_out(&self) {
        match &self.waits {
            Some(waits) => waits.pushed.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.entered();
        self.shared.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some([127, 0, 0, last].into())
    }

    fn is_pushed(pushed: &Notify) -> bool {
        pushed.notified().now_or_never().is_some()
    }

    #[test]
    fn a_crowd_makes_room_before_anybody_else() {
        let entrance = Entrance::default();
        let first = entrance.join(address(1), 0);
        let crowd: Vec<_> = (1..4).map(|n| entrance.join(address(2), n)).collect();
        let last = entrance.join(address(3), 4);
        assert!(entrance.push_out() && entrance.push_out());
        assert_eq!(
            crowd
                .iter()
                .map(|pushed| is_pushed(pushed))
                .collect::<Vec<_>>(),
            [true, true, false]
        );
        assert!(!is_pushed(&first) && !is_pushed(&last));
        // One of each is left: the oldest goes.
        assert!(entrance.push_out() && is_pushed(&first));
    }

    #[test]
    fn who_has_said_its_name_stays_longer() {
        let entrance = Entrance::default();
        let named: Vec<_> = (0..3).map(|n| entrance.join(address(1), n)).collect();
        (0..3).for_each(|n| entrance.is_named(address(1), n));
        let silent = entrance.join(address(2), 3);
        assert!(entrance.push_out() && is_pushed(&silent));
        assert!(entrance.push_out() && is_pushed(&named[0]));
        assert!(entrance.push_out() && entrance.push_out() && !entrance.push_out());
    }

    #[test]
    fn behind_a_load_balancer_everybody_is_counted_for_itself() {
        let entrance = Entrance::default();
        let all: Vec<_> = (0..3).map(|n| entrance.join(address(9), n)).collect();
        entrance.moves((address(9), address(1)), 0);
        assert!(entrance.push_out() && is_pushed(&all[1]));
        entrance.leave(address(9), 1);
        entrance.leave(address(1), 0);
        entrance.leave(address(9), 2);
        assert_eq!(entrance.leaving.load(Ordering::Relaxed), 0);
        assert!(!entrance.push_out());
    }

    proptest! {
        /// Whatever happened before, the lines and their order say the same, and who is taken is the oldest of
        /// a largest crowd.
        #[test]
        fn order_and_crowds_agree(steps in prop::collection::vec((0u8..4, 0u8..4, any::<prop::sample::Index>()), 0..60)) {
            let mut line = Line::default();
            let mut model: Vec<(u64, Option<IpAddr>)> = Vec::new();
            for (number, (what, from, which)) in (0u64..).zip(steps) {
                match what {
                    0 | 1 => {
                        line.insert(address(from), number, Arc::default());
                        model.push((number, address(from)));
                    }
                    2 if !model.is_empty() => {
                        let (number, from) = model.remove(which.index(model.len()));
                        prop_assert!(line.remove(from, number).is_some());
                    }
                    _ => {
                        let size = |of| model.iter().filter(|(_, from)| *from == of).count();
                        let taken = model.iter().copied().max_by_key(|(number, from)| (size(*from), Reverse(*number)));
                        prop_assert_eq!(line.pop().is_some(), taken.is_some());
                        if let Some((number, from)) = taken {
                            prop_assert!(line.remove(from, number).is_none());
                            model.retain(|other| *other != (number, from));
                        }
                    }
                }
                prop_assert_eq!(line.by_size.iter().map(|(size, ..)| size).sum::<usize>(), model.len());
                prop_assert_eq!(line.of.values().map(BTreeMap::len).sum::<usize>(), model.len());
                prop_assert_eq!(line.of.len(), line.by_size.len());
            }
        }
    }
}
