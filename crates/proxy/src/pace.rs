//! How much of logins a worker does before it looks at the network again.
//!
//! Owns: the number of steps of logins in one turn of the event loop, and their order. Does not own:
//! logins (`login`, `session`), or who may log in (`accept`).
//!
//! A step is one look at a login that has something to do: bytes came, or an answer. It may be a TLS
//! handshake, which is ten times the work of a query. A login that waits, for a slow client or for
//! somebody else, takes no step and stands in nobody's way. Queries take none either: in each turn
//! they all go on, and then the next few logins.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::{sync::Notify, task::yield_now};

/// The pace of one worker.
#[derive(Debug)]
pub(crate) struct Pace {
    steps_max: u32,
    /// Steps that may still be taken in this turn. While there are any, nobody waits.
    left: Cell<u32>,
    waiting: RefCell<VecDeque<Rc<Place>>>,
    used_up: Notify,
    delayed: Cell<u64>,
}

/// A login that waits for its next step.
#[derive(Debug)]
struct Place {
    granted: Cell<bool>,
    waker: RefCell<Waker>,
}

impl Pace {
    /// `steps_max` steps in a turn; at least one.
    pub(crate) fn new(steps_max: u32) -> Rc<Self> {
        let steps_max = steps_max.max(1);
        Rc::new(Self {
            steps_max,
            left: Cell::new(steps_max),
            waiting: RefCell::default(),
            used_up: Notify::new(),
            delayed: Cell::new(0),
        })
    }

    /// Steps that had to wait for another turn, since the start.
    pub(crate) fn delayed(&self) -> u64 {
        self.delayed.get()
    }

    /// `work`, which takes a step whenever it goes on.
    pub(crate) fn paced<F: Future>(self: &Rc<Self>, work: Pin<Box<F>>) -> Paced<F> {
        Paced {
            pace: self.clone(),
            place: None,
            work,
        }
    }

    /// Waits until a step may be taken, and takes it.
    pub(crate) async fn step(&self) {
        let mut place = None;
        poll_fn(|cx| self.poll_step(&mut place, cx)).await;
    }

    fn poll_step(&self, place: &mut Option<Rc<Place>>, cx: &mut Context<'_>) -> Poll<()> {
        match place {
            Some(own) if own.granted.get() => {
                *place = None;
                return Poll::Ready(());
            }
            Some(own) => own.waker.borrow_mut().clone_from(cx.waker()),
            None if self.left.get() > 0 => {
                self.left.set(self.left.get() - 1);
                if self.left.get() == 0 {
                    self.used_up.notify_one();
                }
                return Poll::Ready(());
            }
            None => {
                let own = Rc::new(Place {
                    granted: Cell::new(false),
                    waker: RefCell::new(cx.waker().clone()),
                });
                self.waiting.borrow_mut().push_back(own.clone());
                self.delayed.set(self.delayed.get() + 1);
                *place = Some(own);
            }
        }
        Poll::Pending
    }

    /// Gives new steps turn by turn, first to those who wait, in their order. Runs as long as the
    /// worker; asleep while steps are left.
    pub(crate) async fn keep(self: Rc<Self>) {
        loop {
            self.used_up.notified().await;
            // The event loop goes on with this task when it has run all that are ready, or a good
            // number of them, and looked at the network; what came from there stands before it.
            yield_now().await;
            self.renew();
        }
    }

    fn renew(&self) {
        let mut left = self.steps_max;
        while left > 0 {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(next) = next else {
                break;
            };
            // Who left is only remembered here.
            if Rc::strong_count(&next) > 1 {
                next.granted.set(true);
                next.waker.borrow().wake_by_ref();
                left -= 1;
            }
        }
        self.left.set(left);
        if left == 0 {
            self.used_up.notify_one();
        }
    }
}

/// See [`Pace::paced`].
#[derive(Debug)]
pub(crate) struct Paced<F> {
    pace: Rc<Pace>,
    place: Option<Rc<Place>>,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for Paced<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let own = &mut *self;
        match own.pace.poll_step(&mut own.place, cx) {
            Poll::Ready(()) => own.work.as_mut().poll(cx),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
        task::spawn_local,
    };

    use super::*;

    const LOGINS: usize = 200;
    /// Steps that each of them takes.
    const STEPS: usize = 5;

    fn on_a_worker<T>(work: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let options = tokio::runtime::LocalOptions::default();
        let runtime = builder.enable_all().build_local(options).unwrap();
        runtime.block_on(work)
    }

    /// Goes on `STEPS` times, each time at once.
    async fn login(number: usize, steps: Rc<RefCell<Vec<usize>>>) {
        for _ in 0..STEPS {
            steps.borrow_mut().push(number);
            let mut again = true;
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::take(&mut again) {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
        }
    }

    /// Most steps of logins between two answers to a query, when all of them log in at once; and
    /// the order of their first steps.
    fn storm(steps_max: u32) -> (usize, Vec<usize>) {
        on_a_worker(async {
            let pace = Pace::new(steps_max);
            spawn_local(pace.clone().keep());
            let (mut client, mut server) = UnixStream::pair().unwrap();
            spawn_local(async move {
                let mut byte = [0];
                while server.read_exact(&mut byte).await.is_ok() {
                    server.write_all(&byte).await.unwrap();
                }
            });
            let steps: Rc<RefCell<Vec<usize>>> = Rc::default();
            let logins: Vec<_> = (0..LOGINS)
                .map(|number| spawn_local(pace.paced(Box::pin(login(number, steps.clone())))))
                .collect();
            let mut most = 0;
            while logins.iter().any(|login| !login.is_finished()) {
                let before = steps.borrow().len();
                client.write_all(b"?").await.unwrap();
                client.read_exact(&mut [0]).await.unwrap();
                most = most.max(steps.borrow().len() - before);
            }
            for login in logins {
                login.await.unwrap();
            }
            let mut first = Vec::new();
            for number in steps.borrow().iter() {
                if !first.contains(number) {
                    first.push(*number);
                }
            }
            (most, first)
        })
    }

    #[test]
    fn queries_go_first_however_many_log_in() {
        // Question and answer are one turn each, and one begins inside a turn.
        for steps_max in [1, 2, 4] {
            let (most, first) = storm(steps_max);
            assert!(most <= 3 * steps_max as usize, "{most} of {steps_max}");
            assert_eq!(first, (0..LOGINS).collect::<Vec<_>>());
        }
        let (unpaced, _) = storm(u32::MAX);
        assert!(unpaced >= LOGINS, "the storm was none: {unpaced}");
    }

    #[test]
    fn who_waits_for_a_slow_client_is_in_nobodys_way_and_who_leaves_neither() {
        on_a_worker(async {
            let pace = Pace::new(1);
            spawn_local(pace.clone().keep());
            let slow: Vec<_> = (0..LOGINS)
                .map(|_| spawn_local(pace.paced(Box::pin(std::future::pending::<()>()))))
                .collect();
            let steps: Rc<RefCell<Vec<usize>>> = Rc::default();
            let gone = spawn_local(pace.paced(Box::pin(login(1, steps.clone()))));
            let quick = spawn_local(pace.paced(Box::pin(login(2, steps.clone()))));
            while pace.waiting.borrow().len() < LOGINS {
                yield_now().await;
            }
            // It stands in the line.
            gone.abort();
            quick.await.unwrap();
            assert_eq!(*steps.borrow(), [2; STEPS]);
            // Nothing is left to be given out: it sleeps, and the next one need not wait.
            while pace.left.get() == 0 {
                yield_now().await;
            }
            let delayed = pace.delayed();
            pace.step().await;
            assert_eq!(pace.delayed(), delayed);
            drop(slow);
        });
    }
}
