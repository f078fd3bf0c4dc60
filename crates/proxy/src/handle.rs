//! A session as others see it: whoever revokes, drains or cancels.
//!
//! Owns: asking a session to end or to give up its server connection, ending its wait for one, and
//! keeping a cancel from what we say for the session. Does not own: the session, which looks here
//! whenever it is polled.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use model::{CredentialId, Login, Pid, route::Candidate};

use crate::{
    cancel::{self, InFlight},
    carry::Carry,
    error::Refusal,
    journal::About,
    limits::{Exceeded, Growth, Moment, Pulse},
    pins::Pins,
    pool::Tenant,
    server::CancelTarget,
    worker::Worker,
};

/// When a session is to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, PartialOrd, Ord)]
pub(crate) enum When {
    /// When no transaction runs.
    AtRest,
    /// At once.
    Now,
}

/// Whether a statement waits for a server connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wait {
    No,
    Waiting,
    /// The client asked to cancel it.
    Cancelled,
}

/// Whether a cancel would hit what we say for the session rather than its statement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shield {
    Down,
    Up,
    /// The client asked to cancel its statement meanwhile.
    Hit,
}

/// Whether a session goes on as fast as it can.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Course {
    stop: Stop,
    /// Its client is not read until then.
    held: Option<Moment>,
}

/// Whether we stop the statement of a session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stop {
    #[default]
    No,
    /// A cancel is on its way: what the client asks next must not meet it. `Some`: the statement goes on.
    Sending(Option<(Exceeded, Moment)>),
    /// It has arrived.
    Sent(Exceeded, Moment),
}

/// A session as others see it.
pub(crate) struct Handle {
    /// The number in the key for cancelling.
    pub(crate) id: i32,
    /// Whose it is. It knows its sessions until they end.
    pub(crate) tenant: Rc<Tenant>,
    pub(crate) login: Login,
    pub(crate) credential: CredentialId,
    /// Its sessions stay when its credential is gone.
    pub(crate) outlives: bool,
    /// When its credential expires, and the session with it.
    pub(crate) expires: Cell<Option<Moment>>,
    pub(crate) pid: Pid,
    pub(crate) about: About,
    /// Whether the server owes it an answer.
    pub(crate) is_busy: Cell<bool>,
    /// Why it keeps its server connection between transactions.
    pub(crate) pins: Cell<Pins>,
    /// Names of prepared statements that it had when they were last counted.
    pub(crate) names: Cell<usize>,
    /// Whether what it runs makes its database larger.
    pub(crate) growth: Cell<Growth>,
    pub(crate) pulse: Pulse,
    /// What a hold wants of it.
    pub(crate) carry: Cell<Carry>,
    /// When it is looked at because of some limit.
    pub(crate) alarm: Cell<Option<Moment>>,
    /// Kept only while it is not the usual one.
    course: RefCell<Option<Box<Course>>>,
    wait: Cell<Wait>,
    shield: Cell<Shield>,
    recalled: Cell<bool>,
    target: RefCell<Option<Rc<CancelTarget>>>,
    ending: RefCell<Option<(When, Refusal)>>,
    waker: RefCell<Option<Waker>>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not its tenant, which would show its sessions.
        write!(f, "Handle({})", self.id)
    }
}

impl Handle {
    /// Of a session that begins.
    pub(crate) fn new(
        id: i32,
        tenant: Rc<Tenant>,
        login: Login,
        candidate: &Candidate,
        pid: Pid,
        about: About,
    ) -> Self {
        Self {
            id,
            tenant,
            login,
            credential: candidate.id.clone(),
            outlives: candidate.one_use || candidate.outlived,
            expires: Cell::default(),
            pid,
            about,
            is_busy: Cell::new(false),
            pins: Cell::default(),
            names: Cell::default(),
            growth: Cell::default(),
            pulse: Pulse::new(),
            carry: Cell::default(),
            alarm: Cell::default(),
            course: RefCell::default(),
            wait: Cell::new(Wait::No),
            shield: Cell::new(Shield::Down),
            recalled: Cell::new(false),
            target: RefCell::new(None),
            ending: RefCell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// Notes where to cancel what the session runs from now on.
    pub(crate) fn set_target(&self, target: Option<Rc<CancelTarget>>) {
        *self.target.borrow_mut() = target;
    }

    /// Notes whether a statement waits for a server connection.
    pub(crate) fn set_waiting(&self, waits: bool) {
        self.wait.set(if waits { Wait::Waiting } else { Wait::No });
    }

    /// Asks the session to end. The first reason counts, the nearer time wins.
    pub(crate) fn end(&self, when: When, why: Refusal) {
        let mut ending = self.ending.borrow_mut();
        match &mut *ending {
            Some((own, _)) => *own = (*own).max(when),
            None => *ending = Some((when, why)),
        }
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether it is to end, given whether it is at rest.
    #[inline]
    pub(crate) fn ending(&self, is_at_rest: bool) -> Option<Refusal> {
        match &*self.ending.borrow() {
            Some((When::Now, why)) => Some(why.clone()),
            Some((When::AtRest, why)) if is_at_rest => Some(why.clone()),
            _ => None,
        }
    }

    /// Has the task of `cx` woken by [`Self::end`].
    #[inline]
    pub(crate) fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(own) => own.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    /// Returns once the session is to end although it is not at rest.
    pub(crate) async fn ended(&self) -> Refusal {
        poll_fn(|cx| {
            self.watch(cx);
            self.ending(false).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Ends the wait of a statement for a server connection; false when none waits.
    pub(crate) fn cancel_wait(&self) -> bool {
        if self.wait.get() == Wait::No {
            return false;
        }
        self.wait.set(Wait::Cancelled);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
        true
    }

    /// Returns once the client asked to cancel the statement that waits.
    pub(crate) async fn wait_cancelled(&self) {
        poll_fn(|cx| {
            self.watch(cx);
            match self.wait.get() {
                Wait::Cancelled => Poll::Ready(()),
                Wait::No | Wait::Waiting => Poll::Pending,
            }
        })
        .await;
    }

    /// Its server connection.
    pub(crate) fn target(&self) -> Option<Rc<CancelTarget>> {
        self.target.borrow().clone()
    }

    /// Whether a statement of it waits for a server connection.
    pub(crate) fn is_waiting(&self) -> bool {
        self.about.waits_since.get().is_some()
    }

    #[inline]
    fn course(&self) -> Course {
        self.course.borrow().as_deref().copied().unwrap_or_default()
    }

    fn change_course(&self, change: impl FnOnce(&mut Course)) {
        let mut course = self.course();
        change(&mut course);
        *self.course.borrow_mut() = (course != Course::default()).then(|| Box::new(course));
    }

    fn set_stop(&self, stop: Stop) {
        self.change_course(|course| course.stop = stop);
    }

    /// Stops the statement that runs. False: what runs is ours.
    pub(crate) fn stop(self: &Rc<Self>, worker: &Rc<Worker>, why: Exceeded) -> bool {
        if self.shield.get() != Shield::Down {
            return false;
        }
        let Some(target) = self
            .busy_target()
            .filter(|_| self.course().stop == Stop::No)
        else {
            return true;
        };
        worker.counted.limits_reached.add(why.limit.name());
        self.set_stop(Stop::Sending(Some((why, Moment::now()))));
        let (worker, handle) = (worker.clone(), self.clone());
        let cancel = InFlight::new(&target);
        tokio::task::spawn_local(async move {
            cancel.send(&worker).await;
            handle.set_stop(match handle.course().stop {
                Stop::Sending(Some((why, since))) => Stop::Sent(why, since),
                _ => Stop::No,
            });
            handle.wake();
        });
        true
    }

    /// Why its statement is being stopped, and since when.
    #[inline]
    pub(crate) fn stopping(&self) -> Option<(Exceeded, Moment)> {
        match self.course().stop {
            Stop::Sending(Some(stop)) => Some(stop),
            Stop::Sent(why, since) => Some((why, since)),
            Stop::No | Stop::Sending(None) => None,
        }
    }

    /// The statement has come to an end, one way or the other.
    #[inline]
    pub(crate) fn has_stopped(&self) {
        match self.course().stop {
            Stop::No | Stop::Sending(None) => {}
            Stop::Sending(Some(_)) => self.set_stop(Stop::Sending(None)),
            Stop::Sent(..) => self.set_stop(Stop::No),
        }
    }

    /// Has its client not read until then.
    pub(crate) fn hold(&self, until: Moment) {
        self.change_course(|course| course.held = Some(until));
    }

    /// Until when its client is not read.
    #[inline]
    pub(crate) fn held_until(&self) -> Option<Moment> {
        self.course().held
    }

    /// Has it read again.
    pub(crate) fn let_go(&self) {
        self.change_course(|course| course.held = None);
        self.wake();
    }

    /// Whether its client is to be read now. `in_copy`: the statement that runs waits for it.
    #[inline]
    pub(crate) fn may_be_read(&self, in_copy: bool) -> bool {
        let course = self.course();
        course.held.is_none() && (in_copy || !matches!(course.stop, Stop::Sending(_)))
    }

    /// Has it look here.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Asks the session to give up the server connection that it keeps between transactions.
    pub(crate) fn recall(&self) {
        self.recalled.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether it was asked to.
    #[inline]
    pub(crate) fn is_recalled(&self) -> bool {
        self.recalled.get()
    }

    /// It did, or it cannot.
    pub(crate) fn answer_recall(&self) {
        self.recalled.set(false);
    }

    /// What the server does next is ours. A cancel waits until it is done.
    pub(crate) fn shield(&self) {
        self.shield.set(Shield::Up);
    }

    /// What the server does next is the client's.
    #[inline]
    pub(crate) fn unshield(&self, worker: &Rc<Worker>) {
        if self.shield.get() == Shield::Down {
            return;
        }
        if self.shield.replace(Shield::Down) == Shield::Hit {
            let (worker, id) = (worker.clone(), self.id);
            tokio::task::spawn_local(async move { cancel::at_home(&worker, id).await });
        }
    }

    /// Whether a cancel has to wait; it is sent then as soon as it can.
    pub(crate) fn takes_cancel(&self) -> bool {
        if self.shield.get() == Shield::Down {
            return false;
        }
        self.shield.set(Shield::Hit);
        true
    }

    /// Where to cancel what it runs, if it runs something.
    pub(crate) fn busy_target(&self) -> Option<Rc<CancelTarget>> {
        self.target.borrow().clone().filter(|_| self.is_busy.get())
    }
}
