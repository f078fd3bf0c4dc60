//! Ending early without leaving half of something behind.

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;

/// Ends when somebody asks this program to: by Ctrl-C, by a service manager, or by closing the
/// terminal. Listens from now on, not from when it is waited for.
///
/// # Errors
///
/// When signals cannot be listened for.
pub(super) fn asked_to_end() -> Result<impl Future<Output = ()>, Failure> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
            _ = hung_up.recv() => {}
        }
    })
}
