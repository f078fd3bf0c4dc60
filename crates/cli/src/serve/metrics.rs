//! The proxy's part of `/metrics`, for the control plane that serves it: neither knows the other.

use model::exposition::{Page, Pages};
use proxy::{Numbers, Reader};
use tokio::sync::mpsc;

/// Requests that may wait. The control plane asks one at a time.
const ASKING_MAX: usize = 4;

/// Answers with the numbers of now, until nobody can ask any more. Series of their own have at most
/// `tenants_max` tenants.
pub(super) fn answer(numbers: Numbers, tenants_max: usize) -> Pages {
    let (pages, mut asked) = mpsc::channel::<tokio::sync::oneshot::Sender<String>>(ASKING_MAX);
    tokio::spawn(async move {
        let mut reader = Reader::new(tenants_max);
        while let Some(reply) = asked.recv().await {
            let page: Page = reader.page(&numbers.snapshot().await);
            let _ = reply.send(page.into_text(""));
        }
    });
    pages
}
