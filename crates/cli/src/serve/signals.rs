//! SIGTERM and SIGINT: the first asks, the second insists, the third ends the process.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Counts signals from the moment it was made.
#[derive(Debug)]
pub(super) struct Signals {
    count: watch::Receiver<u32>,
}

impl Signals {
    /// Takes both signals over. Must be called on a runtime.
    ///
    /// # Errors
    ///
    /// When the system refuses to hand them over.
    pub(super) fn listen() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (counted, count) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                counted.send_modify(|count| *count += 1);
                if *counted.borrow() > 2 {
                    // Whoever signals three times wants no more of us. PostgreSQL, should it still
                    // run, is stopped by the next start.
                    std::process::exit(1);
                }
            }
        });
        Ok(Self { count })
    }

    /// How many came.
    pub(super) fn count(&self) -> u32 {
        *self.count.borrow()
    }

    /// Waits until so many came, counted from the start.
    pub(super) async fn times(&mut self, times: u32) {
        // The sender lives as long as the runtime.
        let _ = self.count.wait_for(|count| *count >= times).await;
    }
}
