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
    collections::VecDeque,
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

/// A place that may be given up: what its connection and the entrance both know of it.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// Where the connection comes from: the origin of its address (`model::origin`), `None` for the platform itself.
    origin: Option<IpAddr>,
    pushed: Notify,
}

/// Connections of one stage. What is kept of them is sorted and in one piece each, so that a login takes no
/// memory for it.
#[derive(Debug, Default)]
struct Line {
    /// By origin, the oldest of each first.
    all: VecDeque<(u64, Arc<Place>)>,
    /// Of each origin how many, and the number of the oldest; the one to make room last.
    crowds: VecDeque<(usize, Reverse<u64>, Option<IpAddr>)>,
}

impl Line {
    fn insert(&mut self, number: u64, place: Arc<Place>) {
        let origin = place.origin;
        self.change(origin, |all| {
            let at = all.partition_point(|(other, of)| (of.origin, *other) < (origin, number));
            all.insert(at, (number, place));
        });
    }

    fn remove(&mut self, origin: Option<IpAddr>, number: u64) -> Option<Arc<Place>> {
        let key = |(other, place): &(u64, Arc<Place>)| (place.origin, *other);
        let at = self.all.binary_search_by_key(&(origin, number), key).ok()?;
        self.change(origin, |all| all.remove(at))
            .map(|(_, place)| place)
    }

    fn pop(&mut self) -> Option<Arc<Place>> {
        let (_, Reverse(oldest), origin) = *self.crowds.back()?;
        self.remove(origin, oldest)
    }

    /// Changes what is there of this origin.
    fn change<T>(
        &mut self,
        origin: Option<IpAddr>,
        change: impl FnOnce(&mut VecDeque<(u64, Arc<Place>)>) -> T,
    ) -> T {
        let crowd = |all: &VecDeque<(u64, Arc<Place>)>| {
            let begin = all.partition_point(|(_, place)| place.origin < origin);
            let end = all.partition_point(|(_, place)| place.origin <= origin);
            (begin < end).then(|| (end - begin, Reverse(all[begin].0), origin))
        };
        if let Some(before) = crowd(&self.all)
            && let Ok(at) = self.crowds.binary_search(&before)
        {
            self.crowds.remove(at);
        }
        let changed = change(&mut self.all);
        if let Some(after) = crowd(&self.all) {
            let at = self.crowds.partition_point(|other| *other < after);
            self.crowds.insert(at, after);
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
    fn remove(&mut self, origin: Option<IpAddr>, number: u64) -> Option<Arc<Place>> {
        let silent = self.silent.remove(origin, number);
        silent.or_else(|| self.named.remove(origin, number))
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

    fn join(&self, origin: Option<IpAddr>, number: u64) -> Arc<Place> {
        let place = Arc::new(Place {
            origin,
            ..Place::default()
        });
        self.waiting().silent.insert(number, place.clone());
        place
    }

    fn is_named(&self, place: &Place, number: u64) {
        let waiting = &mut *self.waiting();
        if let Some(place) = waiting.silent.remove(place.origin, number) {
            waiting.named.insert(number, place);
        }
    }

    /// It turned out to come from somewhere else: its place is another one now, if it still has one.
    fn moves(&self, place: &mut Arc<Place>, to: Option<IpAddr>, number: u64) {
        let waiting = &mut *self.waiting();
        if waiting.silent.remove(place.origin, number).is_some() {
            *place = Arc::new(Place {
                origin: to,
                ..Place::default()
            });
            waiting.silent.insert(number, place.clone());
        }
    }

    fn leave(&self, place: &Place, number: u64) {
        if self.waiting().remove(place.origin, number).is_none() {
            self.leaving.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether there was one to push out.
    pub(crate) fn push_out(&self) -> bool {
        let waiting = &mut *self.waiting();
        let Some(place) = waiting.silent.pop().or_else(|| waiting.named.pop()) else {
            return false;
        };
        // While the lock is held: it cannot have left before it is counted.
        self.leaving.fetch_add(1, Ordering::Relaxed);
        place.pushed.notify_one();
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
    /// `None` once it has logged in, and when it has none to give up.
    place: Option<Arc<Place>>,
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
            place: None,
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
            slot.place = Some(shared.entrance.join(origin, slot.number));
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
        if let Some(place) = &mut self.place {
            let to = Some(model::origin(client.ip()));
            self.shared.entrance.moves(place, to, self.number);
        }
        Ok(())
    }

    /// The client has said who it is, and may try that: others make room before it does.
    pub(crate) fn is_named(&self) {
        if let Some(place) = &self.place {
            self.shared.entrance.is_named(place, self.number);
        }
    }

    /// The client has logged in: from now on its place is its own.
    pub(crate) fn entered(&mut self) {
        if let Some(place) = self.place.take() {
            self.shared.entrance.leave(&place, self.number);
        }
    }

    /// Returns when the place is needed for another one; never once the client has entered.
    pub(crate) async fn pushed_out(&self) {
        match &self.place {
            Some(place) => place.pushed.notified().await,
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

    fn is_pushed(place: &Place) -> bool {
        place.pushed.notified().now_or_never().is_some()
    }

    #[test]
    fn a_crowd_makes_room_before_anybody_else() {
        let entrance = Entrance::default();
        let first = entrance.join(address(1), 0);
        let crowd: Vec<_> = (1..4).map(|n| entrance.join(address(2), n)).collect();
        let last = entrance.join(address(3), 4);
        assert!(entrance.push_out() && entrance.push_out());
        let are_pushed: Vec<_> = crowd.iter().map(|place| is_pushed(place)).collect();
        assert_eq!(are_pushed, [true, true, false]);
        assert!(!is_pushed(&first) && !is_pushed(&last));
        // One of each is left: the oldest goes.
        assert!(entrance.push_out() && is_pushed(&first));
    }

    #[test]
    fn who_has_said_its_name_stays_longer() {
        let entrance = Entrance::default();
        let named: Vec<_> = (0..3).map(|n| entrance.join(address(1), n)).collect();
        for (number, place) in (0..).zip(&named) {
            entrance.is_named(place, number);
        }
        let silent = entrance.join(address(2), 3);
        assert!(entrance.push_out() && is_pushed(&silent));
        assert!(entrance.push_out() && is_pushed(&named[0]));
        assert!(entrance.push_out() && entrance.push_out() && !entrance.push_out());
    }

    #[test]
    fn behind_a_load_balancer_everybody_is_counted_for_itself() {
        let entrance = Entrance::default();
        let mut all: Vec<_> = (0..3).map(|n| entrance.join(address(9), n)).collect();
        entrance.moves(&mut all[0], address(1), 0);
        assert!(entrance.push_out() && is_pushed(&all[1]));
        // Too late for this one: it is told where it waits.
        entrance.moves(&mut all[1], address(1), 1);
        assert!(entrance.push_out() && is_pushed(&all[0]));
        for (number, place) in (0..).zip(&all) {
            entrance.leave(place, number);
        }
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
                        line.insert(number, Arc::new(Place { origin: address(from), ..Place::default() }));
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
                prop_assert_eq!(line.crowds.iter().map(|(size, ..)| size).sum::<usize>(), model.len());
                prop_assert_eq!(line.all.len(), model.len());
                prop_assert!(line.crowds.iter().is_sorted());
            }
        }
    }
}
