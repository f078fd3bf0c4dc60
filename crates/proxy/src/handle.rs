//! A session as others see it: whoever revokes, drains or cancels.
//!
//! Owns: asking a session to end, and ending its wait for a server connection. Does not own: the
//! session, which looks here whenever it is polled.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use model::{CredentialId, Pid, Role};

use crate::{error::Refusal, journal::About, server::CancelTarget};

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

/// A session as others see it.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) role: Role,
    pub(crate) credential: CredentialId,
    pub(crate) one_use: bool,
    pub(crate) pid: Pid,
    pub(crate) about: About,
    /// Whether the server owes it an answer.
    pub(crate) is_busy: Cell<bool>,
    wait: Cell<Wait>,
    target: RefCell<Option<Rc<CancelTarget>>>,
    ending: RefCell<Option<(When, Refusal)>>,
    waker: RefCell<Option<Waker>>,
}

impl Handle {
    /// Of a session that begins.
    pub(crate) fn new(
        role: Role,
        credential: CredentialId,
        one_use: bool,
        pid: Pid,
        about: About,
    ) -> Self {
        Self {
            role,
            credential,
            one_use,
            pid,
            about,
            is_busy: Cell::new(false),
            wait: Cell::new(Wait::No),
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

    /// Where to cancel what it runs, if it runs something.
    pub(crate) fn busy_target(&self) -> Option<Rc<CancelTarget>> {
        self.target.borrow().clone().filter(|_| self.is_busy.get())
    }
}
