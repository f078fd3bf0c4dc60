//! The pace at which server connections of a node are opened.
//!
//! Owns: how many are opened at once, and waiting while a node cannot be reached. Does not own: how many
//! there may be (`budget`), or opening one (`server::open`).
//!
//! All processes together open so many at once: each has the same part of that as of the node's budget, and one at least.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until},
};

/// First pause after a node could not be reached, and the longest one. A node that restarts is
/// back in a second or two.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Connections of one node that are being opened. While the node cannot be reached, one at a time is
/// tried, with a pause that doubles; the others wait behind it.
#[derive(Debug)]
pub(crate) struct Connects {
    turns: Semaphore,
    /// Of all processes.
    max: usize,
    part: Mutex<Part>,
    /// Who tries while it cannot be reached.
    trial: Semaphore,
    outage: Mutex<Option<Outage>>,
}

/// Turns that there are.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Those that are free and those that somebody has.
    all: usize,
    /// So many there are to be; what is too many ends with those who have it.
    wanted: usize,
}

/// A node that cannot be reached.
#[derive(Clone, Copy, Debug)]
struct Outage {
    pause: Duration,
    /// When the last try failed.
    failed_at: Instant,
}

/// The right to open one connection now.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    connects: &'a Connects,
    began: Instant,
    /// Always there until it is dropped.
    turn: Option<SemaphorePermit<'a>>,
    _trial: Option<SemaphorePermit<'a>>,
}

impl Connects {
    pub(super) fn new(max: usize) -> Self {
        Self {
            turns: Semaphore::new(max),
            max,
            part: Mutex::new(Part {
                all: max,
                wanted: max,
            }),
            trial: Semaphore::new(1),
            outage: Mutex::default(),
        }
    }

    /// Connections being opened, or waiting for the node to come back.
    pub(super) fn open(&self) -> usize {
        self.part()
            .all
            .saturating_sub(self.turns.available_permits())
    }

    fn part(&self) -> MutexGuard<'_, Part> {
        self.part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process has so many of the server connections of the node.
    pub(super) fn set_part(&self, lent: u32, of: u32) {
        let (lent, of) = (lent as usize, of as usize);
        let wanted = (self.max * lent.min(of) / of.max(1)).max(1);
        let mut part = self.part();
        part.wanted = wanted;
        if part.all < wanted {
            self.turns.add_permits(wanted - part.all);
            part.all = wanted;
        } else {
            part.all -= self.turns.forget_permits(part.all - wanted);
        }
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to open a connection, first come first served. Safe to drop.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        const NEVER_CLOSED: &str = "the semaphore is never closed";
        let turn = self.turns.acquire().await.expect(NEVER_CLOSED);
        let mut trial = None;
        if self.outage().is_some() {
            let only = self.trial.acquire().await.expect(NEVER_CLOSED);
            // The one before may have reached it.
            let outage = *self.outage();
            if let Some(outage) = outage {
                sleep_until(outage.failed_at + outage.pause).await;
                trial = Some(only);
            }
        }
        Turn {
            connects: self,
            began: Instant::now(),
            turn: Some(turn),
            _trial: trial,
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut part = self.connects.part();
        if part.all > part.wanted
            && let Some(turn) = self.turn.take()
        {
            turn.forget();
            part.all -= 1;
        }
    }
}

impl Turn<'_> {
    /// Tells how it went, so that a node that is down is not hammered.
    pub(crate) fn connected(self, ok: bool) {
        let mut outage = self.connects.outage();
        if ok {
            *outage = None;
            return;
        }
        let now = Instant::now();
        let pause = match *outage {
            None => PAUSE_MIN,
            // It began before that was known: the same failure, seen by another one.
            Some(known) if self.began <= known.failed_at => return,
            Some(known) => (known.pause * 2).min(PAUSE_MAX),
        };
        *outage = Some(Outage {
            pause,
            failed_at: now,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    use super::*;

    /// What a node sees of those who connect.
    #[derive(Default)]
    struct Node {
        is_up: AtomicBool,
        now: AtomicUsize,
        most: AtomicUsize,
        /// When each try began, milliseconds.
        tries: Mutex<Vec<u128>>,
    }

    /// Connects until it works; a try takes 10 ms.
    async fn connect(connects: Arc<Connects>, node: Arc<Node>, epoch: Instant) {
        loop {
            let turn = connects.turn().await;
            let now = node.now.fetch_add(1, Ordering::Relaxed) + 1;
            node.most.fetch_max(now, Ordering::Relaxed);
            node.tries.lock().unwrap().push(epoch.elapsed().as_millis());
            tokio::time::sleep(Duration::from_millis(10)).await;
            node.now.fetch_sub(1, Ordering::Relaxed);
            let ok = node.is_up.load(Ordering::Relaxed);
            turn.connected(ok);
            if ok {
                return;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_and_one_at_a_time_while_the_node_is_down() {
        let (connects, node) = (Arc::new(Connects::new(4)), Arc::new(Node::default()));
        node.is_up.store(true, Ordering::Relaxed);
        let epoch = Instant::now();
        let crowd = |count| {
            let each = (0..count).map(|_| connect(connects.clone(), node.clone(), epoch));
            futures_util::future::join_all(each.collect::<Vec<_>>())
        };
        crowd(20).await;
        assert_eq!(node.most.load(Ordering::Relaxed), 4);
        assert_eq!(epoch.elapsed(), Duration::from_millis(50), "and no slower");

        // Four find it down together, which is one failure; then one tries, and waits twice as long
        // each time.
        node.is_up.store(false, Ordering::Relaxed);
        node.tries.lock().unwrap().clear();
        let (epoch, back) = (Instant::now(), node.clone());
        let each = (0..20).map(|_| connect(connects.clone(), node.clone(), epoch));
        let crowd = futures_util::future::join_all(each.collect::<Vec<_>>());
        let returns = async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            back.is_up.store(true, Ordering::Relaxed);
        };
        tokio::join!(crowd, returns);
        let tries = node.tries.lock().unwrap().clone();
        let down: Vec<_> = tries.iter().filter(|at| **at < 9000).collect();
        // After each failure, 10 ms later: 50, 100, 200, 400, 800, 1600, 2000, 2000.
        assert_eq!(
            down,
            [
                &0, &0, &0, &0, &60, &170, &380, &790, &1600, &3210, &5220, &7230
            ]
        );
        // Back again, the trial comes through and all others behind it, four at once.
        assert_eq!(tries.len() - down.len(), 20);
        assert_eq!(tries[down.len()], 9240);
        assert!(epoch.elapsed() < Duration::from_millis(9240 + 10 * 7));
        assert_eq!(node.most.load(Ordering::Relaxed), 4);
        assert_eq!(connects.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_opens_its_part_at_once() {
        let (connects, node) = (Arc::new(Connects::new(8)), Arc::new(Node::default()));
        node.is_up.store(true, Ordering::Relaxed);
        let at_once = async || {
            node.most.store(0, Ordering::Relaxed);
            let each = (0..20).map(|_| connect(connects.clone(), node.clone(), Instant::now()));
            futures_util::future::join_all(each.collect::<Vec<_>>()).await;
            node.most.load(Ordering::Relaxed)
        };
        for (lent, of, most) in [
            (10, 40, 2),
            (40, 40, 8),
            (13, 40, 2),
            (0, 40, 1),
            (50, 40, 8),
        ] {
            connects.set_part(lent, of);
            assert_eq!(at_once().await, most, "{lent} of {of}");
            assert_eq!(connects.open(), 0);
        }

        // What others have meanwhile is no longer ours when it is given back.
        let held = futures_util::future::join_all((0..8).map(|_| connects.turn())).await;
        connects.set_part(20, 40);
        assert_eq!(connects.open(), 8);
        let mut next = std::pin::pin!(connects.turn());
        let mut held = held.into_iter();
        for left in (4..8).rev() {
            drop(held.next());
            assert_eq!(connects.open(), left);
            assert!(futures_util::poll!(next.as_mut()).is_pending());
        }
        drop(held.next());
        assert!(futures_util::poll!(next.as_mut()).is_ready());
    }
}
