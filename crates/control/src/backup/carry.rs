//! Carrying the bytes: from a database into a backup, through a backup, and from a backup into a database.
//!
//! Owns: the loops, in constant memory, and what can go wrong in them. Does not own: when (`job`, `fill`).

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use model::{BackupId, Pid};
use node::{Manifest, Node, NodeError, managed::MomentError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

use super::{
    key::{self, KeyError},
    pack::{Packer, Unpacker},
    place::PlaceError,
    seal::{Opener, Refused, Sealer},
    store::{self, Backup, Made},
};
use crate::{
    api::{App, ErrorCode, error::chain},
    catalog::CatalogError,
};

/// Between two looks at whether a backup that is being made is still wanted.
const UNWANTED_LOOK: Duration = Duration::from_secs(1);
/// Bytes of one read of a dump.
const READ: usize = 64 << 10;
const UNREACHABLE: &str = "the database server could not be reached";

/// Why a backup was not made, read or restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CarryError {
    /// What is there is not what was written.
    #[error("the backup cannot be used: {0}")]
    Refused(Refused),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The node was not recovered to a moment that is past.
    #[error(transparent)]
    Moment(#[from] MomentError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A pipe to a program of PostgreSQL's; it says itself why it ended.
    #[error("the way to a program of PostgreSQL's")]
    Pipe(#[source] std::io::Error),
    #[error("it took longer than {0:?}")]
    TooLong(Duration),
    /// There is nothing to read any more, or the backup is not one that can be used.
    #[error("{0}")]
    Gone(&'static str),
    /// It was deleted while it was made.
    #[error("the backup is not wanted any more")]
    Unwanted,
    /// Nothing to read now.
    #[error("{0}")]
    NotNow(&'static str),
}

/// What is wrong stands in the text itself; as a source it would be told twice.
impl From<Refused> for CarryError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl CarryError {
    /// Whether trying again by itself is useless.
    pub(crate) fn is_final(&self, attempts: i32) -> bool {
        match self {
            Self::Refused(_)
            | Self::Key(KeyError::Destroyed | KeyError::Wrapped)
            | Self::Place(PlaceError::Gone)
            | Self::TooLong(_)
            | Self::Unwanted
            | Self::Gone(_) => true,
            Self::Key(KeyError::Catalog(_))
            | Self::Catalog(_)
            | Self::NotNow(_)
            | Self::Place(PlaceError::Folder(_) | PlaceError::Store(_) | PlaceError::NoBucket(_)) => {
                false
            }
            // A lock that was waited for, or a table that went.
            Self::Node(NodeError::Program { .. }) | Self::Pipe(_) => attempts >= 3,
            Self::Moment(MomentError::Unknown { .. } | MomentError::NotKept) => true,
            Self::Moment(_) => attempts >= 3,
            Self::Node(error) => !error.is_temporary() && attempts >= 1,
        }
    }

    /// Whether it says something of the backup, and not of the way to it: then it is no good one.
    pub(crate) fn is_of_the_backup(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::Key(KeyError::Destroyed | KeyError::Wrapped)
                | Self::Place(PlaceError::Gone)
        )
    }

    /// As programs are told.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(Refused::OtherDatabase) => ErrorCode::BackupOfAnotherDatabase,
            Self::Refused(Refused::OtherKey) | Self::Key(KeyError::Wrapped) => {
                ErrorCode::BackupKeyWrong
            }
            Self::Refused(_) | Self::Place(PlaceError::Gone) => ErrorCode::BackupDamaged,
            Self::Key(KeyError::Destroyed) => ErrorCode::BackupKeyDestroyed,
            Self::Key(KeyError::Catalog(_)) | Self::Catalog(_) => ErrorCode::CatalogUnavailable,
            Self::Place(_) => ErrorCode::BackupStoreUnreachable,
            Self::Moment(MomentError::Unknown { .. } | MomentError::NotKept) => {
                ErrorCode::MomentUnknown
            }
            Self::Node(_) | Self::Pipe(_) | Self::Moment(_) => ErrorCode::BackupFailed,
            Self::TooLong(_) => ErrorCode::Timeout,
            Self::Gone(_) | Self::Unwanted | Self::NotNow(_) => ErrorCode::WrongState,
        }
    }

    /// For the user: names no node, no address.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Node(error) if error.is_unreachable() => UNREACHABLE.to_owned(),
            Self::Node(NodeError::Program { words, .. }) => {
                format!("PostgreSQL's own program failed ({words})")
            }
            Self::Node(NodeError::Conflict { what, .. }) => what.clone(),
            Self::Node(NodeError::Refused { code, .. }) => {
                format!("the database server refused ({code})")
            }
            Self::Node(NodeError::Unreachable { .. }) => UNREACHABLE.to_owned(),
            Self::Node(NodeError::Busy { .. }) => "the database server was too busy".to_owned(),
            Self::Catalog(_) | Self::Key(KeyError::Catalog(_)) => {
                "the catalog did not answer".to_owned()
            }
            Self::Pipe(_) => "PostgreSQL's own program ended early".to_owned(),
            // What PostgreSQL said names paths of the node; the log has it.
            Self::Moment(MomentError::Failed(_)) => {
                "PostgreSQL could not recover this moment".to_owned()
            }
            Self::Moment(MomentError::Io(_) | MomentError::Managed(_) | MomentError::Node(_)) => {
                "this moment could not be recovered".to_owned()
            }
            Self::Moment(error) => error.to_string(),
            Self::Place(_)
            | Self::Refused(_)
            | Self::Key(_)
            | Self::TooLong(_)
            | Self::Gone(_)
            | Self::Unwanted
            | Self::NotNow(_) => self.to_string(),
        }
    }
}

/// Reads the database of `pid` on `node` and writes it into `backup`. What an interrupted one left is removed first.
pub(super) async fn make(
    app: &App,
    node: &Node,
    backup: &Backup,
    pid: &Pid,
    is_closed: bool,
) -> Result<Made, CarryError> {
    let within = app.config.limits.backup_time_max;
    let _turn = app.backups.turn(pid).await;
    let place = &app.config.backup_place;
    let key = {
        let client = app.catalog.get().await?;
        key::of(&client, &app.keys, &backup.tenant).await?
    };
    let (tenant, id) = (&backup.tenant, &backup.id);
    place.clean(tenant, id, backup.upload.as_deref()).await?;
    let begun = Instant::now();
    let mut upload = place.begin(tenant, id).await?;
    let upload_id = upload.id().map(str::to_owned);
    if upload_id.is_some() {
        let client = app.catalog.get().await?;
        store::set_upload(&client, id, upload_id.as_deref()).await?;
    }
    let copy = async {
        let mut dump = node.begin_dump(pid, is_closed, within).await?;
        let Some(mut output) = dump.output() else {
            return Err(CarryError::Gone("the dump cannot be read"));
        };
        let (sealer, head) = Sealer::new(&key, tenant, id);
        let mut packer = Packer::new(sealer, head);
        let mut hash = Context::new(&SHA256);
        let (mut size_bytes, mut dump_bytes) = (0_u64, 0_u64);
        let mut buffer = vec![0; READ];
        loop {
            let count = output.read(&mut buffer).await.map_err(CarryError::Pipe)?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            dump_bytes += count as u64;
            packer.put(bytes);
            let ready = packer.take();
            if !ready.is_empty() {
                size_bytes += ready.len() as u64;
                hash.update(&ready);
                upload.write(ready).await?;
            }
        }
        let moment = dump.moment().into();
        let manifest = node.finish_dump(dump).await?;
        let rest = packer.end(&manifest);
        size_bytes += rest.len() as u64;
        hash.update(&rest);
        upload.write(rest).await?;
        upload.finish().await?;
        let hash = hash.finish();
        Ok(Made {
            size_bytes,
            sha256: hash.as_ref().try_into().expect("the hash has 32 bytes"),
            dump_bytes,
            installation: app.keys.fingerprint,
            tables: manifest.tables.len(),
            rows: manifest.tables.iter().map(|table| table.rows).sum(),
            took: begun.elapsed(),
            moment,
        })
    };
    let result = tokio::select! {
        result = timeout(within, copy) => result,
        () = unwanted(app, id) => Ok(Err(CarryError::Unwanted)),
    };
    let ended = node.end_dump(pid, is_closed).await;
    let result = result.unwrap_or(Err(CarryError::TooLong(within)));
    if result.is_err()
        && let Err(error) = place.clean(tenant, id, upload_id.as_deref()).await
    {
        tracing::debug!(backup = %id, error = %chain(&error), "the rest of a backup is removed later");
    }
    let made = result?;
    ended?;
    Ok(made)
}

/// Resolves when a backup that is being made is to go. What works on it ends then: nobody would have anything of it.
pub(super) async fn unwanted(app: &App, id: &BackupId) {
    loop {
        if let Ok(client) = app.catalog.get().await
            && let Ok(false) = store::is_running(&client, id).await
        {
            return;
        }
        sleep(UNWANTED_LOOK).await;
    }
}

/// Reads all of a backup: whether it is what was written. Touches nothing.
pub(super) async fn verify(app: &App, backup: &Backup) -> Result<Manifest, CarryError> {
    let mut reader = Reader::open(app, backup).await?;
    while reader.next().await?.is_some() {}
    reader.end()
}

/// Makes the database of `pid`, closed, of what `backup` holds, and compares it with the manifest.
pub(super) async fn restore(
    app: &App,
    backup: &Backup,
    pid: &Pid,
    users: &[(model::Role, model::UserId)],
    within: Duration,
) -> Result<(), CarryError> {
    let manifest = verify(app, backup).await?;
    let mut fill = app.node.begin_fill_from(pid, &manifest, within).await?;
    let fed = async {
        let Some(mut input) = fill.input() else {
            return Err(CarryError::Gone("nothing can be restored"));
        };
        let mut reader = Reader::open(app, backup).await?;
        while let Some(piece) = reader.next().await? {
            input.write_all(piece).await.map_err(CarryError::Pipe)?;
        }
        // What was read is whole, or pg_restore does not see the end of its input.
        reader.end()?;
        input.shutdown().await.map_err(CarryError::Pipe)
    };
    match timeout(within, fed).await {
        Ok(Ok(()) | Err(CarryError::Pipe(_))) => {}
        Ok(Err(error)) => {
            app.node.abandon_fill(pid, fill).await;
            return Err(error);
        }
        Err(_) => {
            app.node.abandon_fill(pid, fill).await;
            return Err(CarryError::TooLong(within));
        }
    }
    let finished = app.node.finish_fill(pid, fill, &manifest, users, within);
    match timeout(within, finished).await {
        Ok(finished) => Ok(finished?),
        Err(_) => Err(CarryError::TooLong(within)),
    }
}

/// A backup that is being read: every byte counts, and the end has to be right.
struct Reader {
    download: super::place::Download,
    unpacker: Unpacker,
    hash: Context,
    wanted: Option<Vec<u8>>,
}

impl Reader {
    async fn open(app: &App, backup: &Backup) -> Result<Self, CarryError> {
        let key = {
            let client = app.catalog.get().await?;
            key::of_backup(&client, &app.keys, backup).await?
        };
        let place = &app.config.backup_place;
        let download = place.open(&backup.tenant, &backup.id).await?;
        // The head says what it is, should it be another one; so the size is no reason to refuse before that.
        Ok(Self {
            download,
            unpacker: Unpacker::new(Opener::new(&key, &backup.tenant, &backup.id)),
            hash: Context::new(&SHA256),
            wanted: backup.sha256.clone(),
        })
    }

    /// The next piece of the dump.
    async fn next(&mut self) -> Result<Option<&[u8]>, CarryError> {
        loop {
            // Asked twice, because what is returned borrows it.
            if self.unpacker.has_next()? {
                return Ok(self.unpacker.piece());
            }
            let Some(bytes) = self.download.next().await? else {
                return Ok(None);
            };
            self.hash.update(&bytes);
            self.unpacker.put(&bytes);
        }
    }

    fn end(self) -> Result<Manifest, CarryError> {
        let manifest = self.unpacker.end()?;
        let hash = self.hash.finish();
        if self.wanted.is_none_or(|wanted| wanted != hash.as_ref()) {
            return Err(Refused::Damaged.into());
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_backup_is_told_once() {
        let error = CarryError::from(Refused::Damaged);
        let said = "the backup cannot be used: it was changed, or a part of it is missing";
        assert_eq!(crate::api::error::chain(&error).to_string(), said);
        assert_eq!(error.reason(), said);
    }
}
