//! The clients of a tenant that wait for a server connection, in the order of their coming.
//!
//! Owns: who is next. Does not own: what they are given (`pool`, `back`), how long they wait, or which tenant is next
//! (`budget`). There is no bound of its own: each stands for one session, and sessions are bounded for
//! the tenant and for the process.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use model::Login;
use tokio::sync::oneshot;

use super::Grant;

/// Nobody in it has left: who does is taken out at once, so that its length is how many wait.
#[derive(Debug, Default)]
pub(super) struct Line {
    next: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    login: Login,
    grant: oneshot::Sender<Grant>,
}

/// Standing in a line. Dropping it is leaving.
#[derive(Debug)]
pub(super) struct Place<'l> {
    line: &'l Line,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.line.waiting.borrow_mut().remove(&self.number);
    }
}

impl Line {
    /// Stands behind all others.
    pub(super) fn join(&self, login: Login) -> (Place<'_>, oneshot::Receiver<Grant>) {
        let (grant, granted) = oneshot::channel();
        let number = self.next.get();
        self.next.set(number + 1);
        self.waiting
            .borrow_mut()
            .insert(number, Waiting { login, grant });
        (Place { line: self, number }, granted)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// For which login the first one waits.
    pub(super) fn first(&self) -> Option<Login> {
        let waiting = self.waiting.borrow();
        waiting.first_key_value().map(|(_, first)| first.login)
    }

    /// Gives it to the first one, or back when nobody is there who could use it: a server connection is for one
    /// login.
    pub(super) fn hand(&self, mut grant: Grant, fits: impl Fn(Login) -> bool) -> Result<(), Grant> {
        while self.first().is_some_and(&fits) {
            // Not in the `let else`: the borrow would live on.
            let first = self.waiting.borrow_mut().pop_first();
            let Some((_, first)) = first else {
                break;
            };
            match first.grant.send(grant) {
                Ok(()) => return Ok(()),
                // Its wait is over, and it has not left yet.
                Err(back) => grant = back,
            }
        }
        Err(grant)
    }
}

#[cfg(test)]
mod tests {
    use model::Role;

    use super::*;

    #[test]
    fn who_leaves_is_out_of_it_and_the_others_keep_their_order() {
        let line = Line::default();
        let joined: Vec<_> = [Role::Admin, Role::Write, Role::Read]
            .map(|role| line.join(Login::Role(role)))
            .into();
        let mut joined = joined.into_iter();
        let (first, mut second, third) = (joined.next(), joined.next(), joined.next());
        assert_eq!(line.len(), 3);
        drop(first);
        assert_eq!(
            (line.len(), line.first()),
            (2, Some(Login::Role(Role::Write)))
        );
        // It waits no more, and still stands there.
        if let Some((_, granted)) = &mut second {
            granted.close();
        }
        drop(third);
        assert_eq!(line.len(), 1);
        drop(second);
        assert!(line.is_empty() && line.first().is_none());
    }
}
