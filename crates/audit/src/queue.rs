//! What waits to be written: a bounded queue between everybody and the one thread that writes.
//!
//! Whoever adds to it holds a lock for as long as it takes to move a few words, and never waits for a disk;
//! the thread takes all that is there at once.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use tokio::{sync::oneshot, time::Instant};

use crate::{event::Event, log::Unwritten};

/// What somebody waits for.
#[derive(Debug)]
pub(crate) enum Wait {
    /// Nobody does.
    Nobody,
    /// For the line to have left this process; the disk follows at once.
    Written(oneshot::Sender<Result<(), Unwritten>>),
    /// For the line to be as safe as the policy says.
    Kept(oneshot::Sender<Result<(), Unwritten>>),
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) event: Event,
    pub(crate) time: DateTime<Utc>,
    pub(crate) wait: Wait,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    is_closed: bool,
    /// Lines that found no place since the last one was told.
    lost: u64,
}

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    added: Condvar,
    max: usize,
}

/// What the thread does next.
pub(crate) enum Next {
    /// Write these, after as many were lost.
    Write { items: VecDeque<Item>, lost: u64 },
    /// It is time.
    Due,
    /// Nothing comes any more.
    Closed,
}

impl Queue {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            state: Mutex::default(),
            added: Condvar::new(),
            max,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, or gives it back when there is no place. One that nobody waits for is counted then.
    pub(crate) fn add(&self, item: Item) -> Result<(), Item> {
        let mut state = self.state();
        if state.is_closed || state.items.len() >= self.max {
            if matches!(item.wait, Wait::Nobody) {
                state.lost += 1;
            }
            return Err(item);
        }
        state.items.push_back(item);
        drop(state);
        self.added.notify_one();
        Ok(())
    }

    /// Whether so many more would find a place.
    pub(crate) fn has_room(&self, lines: usize) -> bool {
        let state = self.state();
        !state.is_closed && state.items.len() + lines <= self.max
    }

    /// Lines that were lost since the last time that somebody took the count.
    pub(crate) fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.state().lost)
    }

    /// Counts lines that were taken and could not be written.
    pub(crate) fn count_lost(&self, lines: u64) {
        self.state().lost += lines;
    }

    /// Nothing is taken any more.
    pub(crate) fn close(&self) {
        self.state().is_closed = true;
        self.added.notify_one();
    }

    /// Nobody writes any more: whoever waits is told by the loss of its answer.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.items.clear();
    }

    /// Waits for something to write, until `due`.
    pub(crate) fn next(&self, due: Option<Instant>) -> Next {
        let mut state = self.state();
        loop {
            if !state.items.is_empty() {
                return Next::Write {
                    items: std::mem::take(&mut state.items),
                    lost: std::mem::take(&mut state.lost),
                };
            }
            if state.is_closed {
                return Next::Closed;
            }
            let Some(due) = due else {
                let waited = self.added.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Due;
            }
            let waited = self.added.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
