//! Copies of the log in the catalog: lines for the API, heads for whoever checks the files.
//!
//! A pass is told that there is more and finds out what: it reads the files from where the catalog says that it
//! is. So nothing is missed while the catalog is away, and a kill costs nothing.

use std::{io, sync::Arc, time::Duration};

use audit::{Kept, Log, Reader, Recorded};
use tokio::sync::watch;

use super::store;
use crate::{
    api::{App, error::chain},
    catalog::CatalogError,
};

/// Lines in one transaction.
const LINES_MAX: usize = 500;
/// After a failure.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Copies that are forgotten after one batch: more than were added, so that they end.
const SWEEP_MAX: i64 = 2 * LINES_MAX as i64;
/// For the last lines of a process that stops. What is left is copied by the next one.
const END_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("read the audit log")]
    Read(#[from] io::Error),
}

/// Copies, for ever.
pub(crate) async fn run(app: Arc<App>) {
    let mut copying = Copying::new(&app);
    let mut is_compared = false;
    loop {
        if !is_compared {
            match compare(&app).await {
                Ok(()) => is_compared = true,
                Err(error) => tell(&error),
            }
        }
        match copying.pass(&app).await {
            Ok(()) => copying.changed().await,
            Err(error) => {
                tell(&error);
                // From where the catalog says.
                copying.reader = None;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// Closes the logs and copies their last lines.
pub(crate) async fn end(app: &App) {
    let logs = app.audit.clone();
    if tokio::task::spawn_blocking(move || logs.close())
        .await
        .is_err()
    {
        tracing::error!("the audit log was not closed");
    }
    let mut copying = Copying::new(app);
    match tokio::time::timeout(END_MAX, copying.pass(app)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tell(&error),
        Err(_) => tracing::debug!("the last lines of the audit log are copied by the next start"),
    }
}

fn tell(error: &CopyError) {
    match error {
        CopyError::Catalog(error) => error.tell("audit"),
        CopyError::Read(_) => {
            tracing::error!(error = %chain(error), "the audit log was not copied to the catalog");
        }
    }
}

/// Whether the files have what the catalog knows of them: a head is kept only after its lines are on the disk.
async fn compare(app: &App) -> Result<(), CopyError> {
    let client = app.catalog.get().await?;
    let heads = store::heads(&client).await?;
    drop(client);
    for log in app.audit.all() {
        let own = heads
            .iter()
            .filter(|(known, _)| known.chain == log.chain() && known.stream == log.stream());
        let Some((known, _)) = own.max_by_key(|(known, at)| (*at, known.link.seq)) else {
            continue;
        };
        let (dir, stream, link) = (log.dir().to_owned(), log.stream(), known.link);
        let found = blocking(move || {
            Reader::after(&dir, stream, link.seq.saturating_sub(1))?.next(link.seq)
        })
        .await?;
        if !found.is_some_and(|line| line.hash == link.hash) {
            tracing::error!(%stream, seq = link.seq,
                "the audit log lacks lines that it had: its end was cut off; see `tenantry audit verify`");
            let event = audit::Event::new("cut")
                .text("stream", stream)
                .number("known_seq", link.seq)
                .text("known_hash", link.hash);
            app.audit.admin.note(event);
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) => Err(io::Error::other(ended)),
    }
}

struct Copying {
    admin: watch::Receiver<Kept>,
    connections: watch::Receiver<Kept>,
    statements: watch::Receiver<Kept>,
    reader: Option<Reader>,
    /// Of which files heads were kept, and how far.
    heads: [u64; 3],
}

impl Copying {
    fn new(app: &App) -> Self {
        Self {
            admin: app.audit.admin.kept(),
            connections: app.audit.connections.kept(),
            statements: app.audit.statements.kept(),
            reader: None,
            heads: [0; 3],
        }
    }

    /// Waits until there may be more.
    async fn changed(&mut self) {
        let closed = tokio::select! {
            changed = self.admin.changed() => changed.is_err(),
            changed = self.connections.changed() => changed.is_err(),
            changed = self.statements.changed() => changed.is_err(),
        };
        if closed {
            // The log has ended; so do we, soon.
            std::future::pending().await
        }
    }

    async fn pass(&mut self, app: &App) -> Result<(), CopyError> {
        self.lines(app).await?;
        let kept = [
            self.admin.borrow_and_update().clone(),
            self.connections.borrow_and_update().clone(),
            self.statements.borrow_and_update().clone(),
        ];
        for ((log, kept), done) in app.audit.all().into_iter().zip(kept).zip(&mut self.heads) {
            let Some(head) = kept.head.filter(|head| head.link.seq > *done) else {
                continue;
            };
            let (dir, stream) = (log.dir().to_owned(), log.stream());
            let oldest = blocking(move || audit::first_segment(&dir, stream)).await?;
            let client = app.catalog.get().await?;
            store::keep_head(&client, &head, oldest.unwrap_or(0)).await?;
            *done = head.link.seq;
        }
        Ok(())
    }

    async fn lines(&mut self, app: &App) -> Result<(), CopyError> {
        let log = &app.audit.admin;
        let last = self.admin.borrow_and_update().seq;
        loop {
            let reader = match self.reader.take() {
                Some(reader) => reader,
                None => begin(app, log).await?,
            };
            let (reader, lines) = blocking(move || read(reader, last)).await?;
            if let Some(newest) = lines.last() {
                let mut client = app.catalog.get().await?;
                let transaction = client.transaction().await.map_err(CatalogError::from)?;
                store::copy(&transaction, log.chain(), &lines, newest.seq).await?;
                transaction.commit().await.map_err(CatalogError::from)?;
                let keep = app.config.audit_keep;
                if !keep.is_zero() {
                    store::sweep(&client, chrono::Utc::now() - keep, SWEEP_MAX).await?;
                }
            }
            self.reader = Some(reader);
            if lines.len() < LINES_MAX {
                return Ok(());
            }
        }
    }
}

async fn begin(app: &App, log: &Log) -> Result<Reader, CopyError> {
    let client = app.catalog.get().await?;
    let copied = store::copied(&client, log.chain()).await?;
    drop(client);
    // What others wrote into these files before is not told again under our name.
    let after = copied.unwrap_or(log.began().saturating_sub(1));
    let (dir, stream) = (log.dir().to_owned(), log.stream());
    Ok(blocking(move || Reader::after(&dir, stream, after)).await?)
}

fn read(mut reader: Reader, last: u64) -> io::Result<(Reader, Vec<Recorded>)> {
    let mut lines = Vec::new();
    while lines.len() < LINES_MAX
        && let Some(line) = reader.next(last)?
    {
        lines.push(line);
    }
    Ok((reader, lines))
}
