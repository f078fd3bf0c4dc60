//! Holding a tenant: its new transactions wait, and it has no server connections.
//!
//! Owns: the steps of a hold at the tenant's home ([`model::hold::Step`]), and letting go when nobody says
//! so in time. Does not own: what a session does with its server connection (`carry`), where
//! transactions wait (`pause`), or that other processes hold it, too (the control plane).

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use model::{
    HoldId,
    hold::{Kept, Order, Step},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    carry::{Carry, Why},
    errand,
    error::Refusal,
    handle::{Handle, When},
    limits::Doing,
    pause::Gate,
    pins::Pin,
    pool::Tenant,
    worker::Worker,
};

/// Between two looks at what is left. A hold lasts for a fraction of a second, and everybody waits.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// For server connections to be gone once nothing runs on them.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(3);
/// For sessions that listen to do so again. One that does not is ended: its client connects again, and knows
/// that it may have missed something.
const RETURN_TIME_MAX: Duration = Duration::from_secs(5);
/// When nobody lets go, transactions go on so much later than sessions listen again: those of other
/// processes do so by then, too.
const RETURN_AHEAD: Duration = Duration::from_secs(2);

/// A hold on a tenant.
#[derive(Debug)]
pub(crate) struct Held {
    id: HoldId,
}

/// Takes orders for as long as the worker lives.
pub(crate) async fn take_orders(worker: Rc<Worker>, mut orders: mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        let home = worker.home_of(&order.tenant);
        // Without a home left, nobody answers.
        errand::on(&worker.shared, home, |worker| obey(worker, order)).await;
    }
}

/// Begins to do what is said. From its return on, no new transaction of the tenant begins.
fn obey(worker: &Rc<Worker>, order: Order) {
    let tenant = match order.step {
        // Also for one that nobody uses yet.
        Step::Drain(_) | Step::Close => {
            let tenant = worker.tenant(&order.tenant);
            tenant.begin_hold(worker, &order);
            Some(tenant)
        }
        Step::Return | Step::End => worker.known_tenant(&order.tenant),
    };
    let Some(tenant) = tenant.filter(|tenant| tenant.is_held_by(&order.hold)) else {
        let _ = order.reply.send(Ok(()));
        return;
    };
    tokio::task::spawn_local(async move {
        let hold = &order.hold;
        let done = match order.step {
            Step::Drain(within) => tenant.drain(hold, within).await,
            Step::Close => tenant.close_held(hold).await,
            Step::Return => {
                let until = Instant::now() + RETURN_TIME_MAX;
                tenant.come_back(hold, until).await;
                Ok(())
            }
            Step::End => {
                tenant.end_hold(hold);
                Ok(())
            }
        };
        let _ = order.reply.send(done);
    });
}

/// What still has a server connection.
#[derive(Debug, Default)]
struct Left {
    /// That listen and nothing else.
    listening: u32,
    /// That are being asked what they keep, or are in the middle of a message.
    unclear: u32,
    running: u32,
    open: u32,
    /// How long the transaction waits for its client that does so for longest.
    open_for: Duration,
    pinned: BTreeMap<&'static str, u32>,
    /// Held by no session: being opened, reset or closed.
    others: u32,
}

impl Left {
    fn is_drained(&self) -> bool {
        self.unclear + self.running + self.open + self.others == 0 && self.pinned.is_empty()
    }

    fn kept(&self) -> Kept {
        let mut words = Vec::new();
        let mut say = |count: u32, one: &str, many: &str| {
            if count > 0 {
                words.push(format!("{count} {}", if count == 1 { one } else { many }));
            }
        };
        say(self.running, "running statement", "running statements");
        say(self.open, "open transaction", "open transactions");
        for (what, count) in &self.pinned {
            say(
                *count,
                &format!("session with {what}"),
                &format!("sessions with {what}"),
            );
        }
        say(
            self.unclear,
            "session in the middle of a message",
            "sessions in the middle of a message",
        );
        if words.is_empty() {
            words.push(format!("{} server connections being closed", self.others));
        }
        Kept {
            what: words.join(", "),
            may_pass: self.pinned.is_empty(),
        }
    }
}

/// What a session keeps, in words for who wanted to hold.
fn words(pin: Pin) -> &'static str {
    match pin {
        Pin::Temporary => "temporary objects",
        Pin::Listen => "more channels than can be carried over",
        Pin::AdvisoryLock => "an advisory lock",
        Pin::Cursor => "a cursor WITH HOLD",
        Pin::Prepare => "a statement prepared by SQL",
        Pin::Role => "another role",
        Pin::Seed => "a seed of random()",
        Pin::Load => "a loaded library",
        Pin::Settings => "settings that cannot be carried over",
        Pin::Sequence => "values of sequences that it may ask for",
        Pin::Statement => "a prepared statement that cannot be carried over",
    }
}

impl Tenant {
    /// Whether this is the hold that it is under.
    fn is_held_by(&self, hold: &HoldId) -> bool {
        let held = self.held.borrow();
        held.as_deref().is_some_and(|held| held.id == *hold)
    }

    fn begin_hold(self: &Rc<Self>, worker: &Rc<Worker>, order: &Order) {
        if self.is_held_by(&order.hold) {
            return;
        }
        let until = Instant::now() + order.valid_for;
        *self.held.borrow_mut() = Some(Box::new(Held {
            id: order.hold.clone(),
        }));
        self.pause.set_gate(Gate::Closed);
        for handle in self.sessions.borrow().values() {
            // Those of a hold before may still be without theirs.
            if !handle.carry.get().is_out() {
                handle.carry.set(Carry::No);
            }
        }
        self.close_all(worker);
        let (tenant, hold) = (self.clone(), order.hold.clone());
        tokio::task::spawn_local(async move {
            sleep_until(until).await;
            if tenant.is_held_by(&hold) {
                tracing::warn!(tenant = %tenant.id, %hold, "nobody let go of a hold in time");
                let others_begin = until + RETURN_AHEAD;
                tenant.come_back(&hold, others_begin).await;
                sleep_until(others_begin).await;
                tenant.end_hold(&hold);
            }
        });
    }

    /// Looks at what has a server connection, and has sessions at rest say what they keep.
    fn left(&self) -> Left {
        let mut left = Left::default();
        let mut seen = 0;
        for handle in self.sessions.borrow().values() {
            if handle.target().is_none() {
                continue;
            }
            seen += 1;
            match (handle.pulse.doing(), handle.carry.get()) {
                (Doing::Running, _) => left.running += 1,
                (Doing::InTransaction, _) => {
                    left.open += 1;
                    left.open_for = left.open_for.max(handle.pulse.lasted());
                }
                (Doing::Nothing, Carry::Listens) => left.listening += 1,
                (Doing::Nothing, Carry::Keeps(why)) => {
                    *left.pinned.entry(of(handle, why)).or_default() += 1;
                }
                (Doing::Nothing, carry) => {
                    if carry == Carry::No {
                        handle.wish(Carry::Tell);
                    }
                    left.unclear += 1;
                }
            }
        }
        left.others = self.usage().0.saturating_sub(seen);
        left
    }

    /// Waits until no transaction runs and nothing but LISTEN keeps a server connection.
    ///
    /// Two things are not waited for, because everybody else would, in vain: a transaction whose client has
    /// said nothing for longer than that, and a session at rest that keeps more than LISTEN.
    async fn drain(&self, hold: &HoldId, within: Duration) -> Result<(), Kept> {
        let until = Instant::now() + within;
        let left = self.left();
        if left.open_for > within {
            let may_pass = false;
            return Err(Kept {
                may_pass,
                ..left.kept()
            });
        }
        loop {
            let left = self.left();
            if !self.is_held_by(hold) {
                return Err(over());
            } else if left.is_drained() {
                return Ok(());
            } else if Instant::now() >= until || !left.pinned.is_empty() {
                return Err(left.kept());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Has all server connections closed.
    async fn close_held(&self, hold: &HoldId) -> Result<(), Kept> {
        let until = Instant::now() + CLOSE_TIME_MAX;
        loop {
            let left = self.left();
            for handle in self.sessions.borrow().values() {
                if handle.target().is_some() && handle.carry.get() == Carry::Listens {
                    handle.wish(Carry::Part);
                }
            }
            if !self.is_held_by(hold) {
                return Err(over());
            } else if self.usage().0 == 0 {
                return Ok(());
            } else if Instant::now() >= until || !left.pinned.is_empty() {
                return Err(left.kept());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Has sessions that were parted from their server connection listen again. Later than `until` they
    /// may have missed something: those are ended.
    async fn come_back(&self, hold: &HoldId, until: Instant) {
        if !self.is_held_by(hold) {
            return;
        }
        self.pause.set_gate(Gate::Returning);
        loop {
            let mut out = 0_u32;
            for handle in self.sessions.borrow().values() {
                match handle.carry.get() {
                    Carry::Parted => {
                        handle.wish(Carry::Return);
                        out += 1;
                    }
                    Carry::Return => out += 1,
                    _ => {}
                }
            }
            if !self.is_held_by(hold) {
                // By another one, which has them return.
                return;
            } else if out == 0 || Instant::now() >= until {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        self.end_lost();
    }

    /// Ends sessions that do not listen although they did: from now on they miss something, and their
    /// clients have to know.
    fn end_lost(&self) {
        self.end_sessions(|handle| {
            let is_out = handle.carry.get().is_out();
            is_out.then_some((When::Now, Refusal::StateLost))
        });
    }

    /// Lets go.
    fn end_hold(&self, hold: &HoldId) {
        if !self.is_held_by(hold) {
            return;
        }
        // In other processes transactions have begun, or do now.
        self.end_lost();
        *self.held.borrow_mut() = None;
        self.pause.set_gate(Gate::Open);
        for handle in self.sessions.borrow().values() {
            if !handle.carry.get().is_out() {
                handle.carry.set(Carry::No);
            }
            // Those with a server connection wait for no gate.
            handle.wake();
        }
    }
}

fn of(handle: &Handle, why: Why) -> &'static str {
    match why {
        Why::Mode => "pool mode session",
        Why::Statement => words(Pin::Statement),
        Why::Pins => {
            let mut pins = handle.pins.get().iter();
            let first = pins.find(|pin| *pin != Pin::Listen);
            words(first.unwrap_or(Pin::Listen))
        }
    }
}

fn over() -> Kept {
    Kept {
        what: "the time of the hold".to_owned(),
        may_pass: true,
    }
}
