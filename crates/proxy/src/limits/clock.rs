//! How long things may take.
//!
//! Owns: what a session does and since when ([`Pulse`]), when that has to be looked at ([`Alarms`]), and
//! what follows when a limit has passed. A session has one alarm at most, and only while some limit of
//! time holds for it; it is not moved when the session goes on, only looked at again when it rings: a
//! busy session costs one look in each time limit, an idle one none before its half hour is over.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::BinaryHeap,
    num::NonZeroU64,
    rc::Rc,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use model::{Limits, limits::Number, route::Candidate};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::Exceeded;
use crate::{
    cancel::InFlight,
    error::Refusal,
    handle::{Handle, When},
    metrics::micros,
    worker::Worker,
};

/// How long a server may take to stop a statement that was cancelled. 5 s: then it does not listen,
/// as in a COPY whose client sends nothing, and the session ends.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// Between two looks at a session that waits for a server connection, which has a limit of its own.
const WAITING_LOOK: Duration = Duration::from_secs(1);

/// A moment, in microseconds since the first one that was asked for: half as large as an [`Instant`], of
/// which every session would have four.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct Moment(NonZeroU64);

impl Moment {
    fn epoch() -> Instant {
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        *EPOCH.get_or_init(Instant::now)
    }

    #[inline]
    pub(crate) fn now() -> Self {
        Self::of(Instant::now())
    }

    pub(crate) fn of(instant: Instant) -> Self {
        let since = instant.saturating_duration_since(Self::epoch());
        Self(NonZeroU64::MIN.saturating_add(micros(since)))
    }

    fn instant(self) -> Instant {
        // Rounded up: what is looked at by then has passed.
        Self::epoch() + Duration::from_micros(self.0.get())
    }

    fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(micros(time)))
    }

    fn micros_since(self, other: Self) -> u64 {
        self.0.get().saturating_sub(other.0.get())
    }
}

/// What a session does, as far as time counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Doing {
    /// Neither statement nor transaction.
    #[default]
    Nothing,
    /// A transaction, and the client has to say something next.
    InTransaction,
    /// A statement.
    Running,
}

/// What a session does, and since when.
#[derive(Debug)]
pub(crate) struct Pulse {
    doing: Cell<Doing>,
    since: Cell<Moment>,
    /// When the statement that runs began; of several that were sent at once, the one that the server
    /// is at.
    statement: Cell<Moment>,
    /// When the transaction began.
    transaction: Cell<Moment>,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        let now = Moment::now();
        Self {
            doing: Cell::default(),
            since: Cell::new(now),
            statement: Cell::new(now),
            transaction: Cell::new(now),
        }
    }

    #[inline]
    pub(crate) fn doing(&self) -> Doing {
        self.doing.get()
    }

    /// How long it has been doing that.
    pub(crate) fn lasted(&self) -> Duration {
        Duration::from_micros(Moment::now().micros_since(self.since.get()))
    }

    /// Notes what the session does now. When statements ran until now: how long, microseconds.
    #[inline]
    pub(crate) fn set(&self, doing: Doing, now: impl FnOnce() -> Instant) -> Option<u64> {
        let before = self.doing.get();
        if before == doing {
            return None;
        }
        let now = Moment::of(now());
        let took = (before == Doing::Running).then(|| now.micros_since(self.since.get()));
        self.doing.set(doing);
        self.since.set(now);
        if doing == Doing::Running {
            self.statement.set(now);
        }
        if before == Doing::Nothing {
            self.transaction.set(now);
        }
        took
    }

    /// Of several statements that were sent at once, one has ended; `transaction`: and so has a
    /// transaction.
    pub(crate) fn next_statement(&self, transaction: bool) {
        let now = Moment::now();
        self.statement.set(now);
        if transaction {
            self.transaction.set(now);
        }
    }

    /// The limit that passes next, and when.
    fn next(&self, limits: &Limits) -> Option<(Moment, Exceeded)> {
        let at = |since: &Cell<Moment>, limit, time: Option<Duration>| {
            let time = time?;
            let value = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            Some((since.get().after(time), Exceeded { limit, value }))
        };
        let transaction = || {
            at(
                &self.transaction,
                Number::Transaction,
                limits.transaction_time_max,
            )
        };
        let (one, other) = match self.doing.get() {
            Doing::Nothing => {
                let idle = at(&self.since, Number::ClientIdle, limits.client_idle_max);
                (idle, None)
            }
            Doing::InTransaction => {
                let time = limits.idle_in_transaction_time_max;
                let idle = at(&self.since, Number::IdleInTransaction, time);
                (idle, transaction())
            }
            Doing::Running => {
                let time = limits.statement_time_max;
                (at(&self.statement, Number::Statement, time), transaction())
            }
        };
        match (one, other) {
            (Some(one), Some(other)) => Some(if other.0 < one.0 { other } else { one }),
            (one, other) => one.or(other),
        }
    }
}

/// Entries that may be there for each session, beside a few: of those that are no longer looked at
/// some stay until they are in the way.
const ENTRIES_MAX: usize = 2;
/// The few.
const ENTRIES_SPARE: usize = 64;

/// Sessions that have to be looked at, by when. An entry that its session does not name any more says
/// nothing. 16 bytes each, since every idle client has one.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    list: RefCell<BinaryHeap<Reverse<(Moment, i32)>>>,
    /// Told when the first one is earlier than it was.
    changed: Notify,
}

impl Alarms {
    /// Has a session looked at no later than then.
    pub(crate) fn set(&self, worker: &Worker, handle: &Handle, at: Moment) {
        if handle.alarm.get().is_some_and(|own| own <= at) {
            return;
        }
        handle.alarm.set(Some(at));
        let mut list = self.list.borrow_mut();
        let sessions = worker.sessions.borrow();
        if list.len() > sessions.len() * ENTRIES_MAX + ENTRIES_SPARE {
            list.retain(|Reverse((at, id))| {
                let handle = sessions.get(id);
                handle.is_some_and(|handle| handle.alarm.get() == Some(*at))
            });
        }
        list.push(Reverse((at, handle.id)));
        if list.peek().is_some_and(|Reverse((first, _))| *first == at) {
            self.changed.notify_one();
        }
    }

    fn first(&self) -> Option<Moment> {
        self.list.borrow().peek().map(|Reverse((at, _))| *at)
    }

    fn pop(&self, now: Moment) -> Option<(Moment, i32)> {
        let mut list = self.list.borrow_mut();
        let Reverse(first) = *list.peek().filter(|Reverse((at, _))| *at <= now)?;
        list.pop();
        Some(first)
    }
}

/// Looks at sessions when it is time. Without one, it sleeps without a timer.
pub(crate) async fn ring(worker: Rc<Worker>) {
    loop {
        let changed = worker.alarms.changed.notified();
        match worker.alarms.first() {
            None => changed.await,
            Some(at) => {
                tokio::select! {
                    () = sleep_until(at.instant()) => {}
                    () = changed => continue,
                }
            }
        }
        let now = Moment::now();
        while let Some((at, id)) = worker.alarms.pop(now) {
            let handle = worker.sessions.borrow().get(&id).cloned();
            if let Some(handle) = handle.filter(|handle| handle.alarm.get() == Some(at)) {
                handle.alarm.set(None);
                look(&worker, &handle, now);
            }
        }
    }
}

/// Has a session looked at when its next limit passes.
#[inline]
pub(crate) fn watch(worker: &Worker, handle: &Handle) {
    let next = handle.pulse.next(&handle.tenant.limits());
    if let Some((at, _)) = next {
        worker.alarms.set(worker, handle, at);
    }
}

/// Has a session ended whose statement does not stop.
pub(crate) fn watch_stop(worker: &Worker, handle: &Handle) {
    let at = Moment::now().after(STOP_TIME_MAX);
    worker.alarms.set(worker, handle, at);
}

/// Has a session ended when its credential expires, by our own clock: also while nobody can be asked.
pub(crate) fn expire(worker: &Worker, handle: &Handle, candidate: &Candidate) {
    let at = candidate.expires_at.filter(|_| !handle.outlives).map(|at| {
        let left = at.duration_since(SystemTime::now()).unwrap_or_default();
        Moment::now().after(left)
    });
    handle.expires.set(at);
    if let Some(at) = at {
        worker.alarms.set(worker, handle, at);
    }
}

fn look(worker: &Rc<Worker>, handle: &Rc<Handle>, now: Moment) {
    let Some(expires) = handle.expires.get() else {
        return look_at_limits(worker, handle, now);
    };
    if expires <= now {
        end_running(worker, handle);
        return handle.end(When::Now, Refusal::Revoked);
    }
    look_at_limits(worker, handle, now);
    worker.alarms.set(worker, handle, expires);
}

fn look_at_limits(worker: &Rc<Worker>, handle: &Rc<Handle>, now: Moment) {
    let tenant = &handle.tenant;
    let again = |at| worker.alarms.set(worker, handle, at);
    let limits = tenant.limits().clone();
    if handle.held_until().is_some() {
        // It waits for us, so nothing else counts.
        let rate = limits.statements;
        let wait = rate.map_or(Duration::ZERO, |rate| {
            tenant.bucket.wait(rate, now.instant())
        });
        if !wait.is_zero() {
            return again(now.after(wait));
        }
        handle.let_go();
        return again(now.after(WAITING_LOOK));
    }
    if let Some((why, since)) = handle.stopping() {
        return if now >= since.after(STOP_TIME_MAX) {
            end(worker, handle, why);
        } else {
            again(since.after(STOP_TIME_MAX))
        };
    }
    if handle.is_waiting() {
        return again(now.after(WAITING_LOOK));
    }
    match handle.pulse.next(&limits) {
        None => {}
        Some((at, _)) if at > now => again(at),
        Some((_, why)) => {
            if why.limit != Number::Statement {
                return end(worker, handle, why);
            }
            if handle.stop(worker, why) {
                again(now.after(STOP_TIME_MAX));
            } else {
                // What runs is not the client's statement but ours, for milliseconds.
                again(now.after(Duration::from_millis(10)));
            }
        }
    }
}

/// Ends a session, and what it runs.
fn end(worker: &Rc<Worker>, handle: &Rc<Handle>, why: Exceeded) {
    worker.counted.limits_reached.add(why.limit.name());
    end_running(worker, handle);
    handle.end(When::Now, Refusal::Limit(why));
}

/// Nobody waits for what it runs, and it is not to go on.
fn end_running(worker: &Rc<Worker>, handle: &Handle) {
    if let Some(target) = handle.busy_target() {
        let worker = worker.clone();
        let cancel = InFlight::new(&target);
        tokio::task::spawn_local(async move { cancel.send(&worker).await });
    }
}
