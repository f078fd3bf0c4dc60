//! Files that grow, kept where backups are: the audit log's.
//!
//! Owns: that what is there is never replaced by something that is not its continuation. Does not own: what is
//! in the files (`audit`), or how a place is reached ([`super::place`]).

use std::path::Path;

use object_store::{ObjectStoreExt, PutPayload};
use tokio::{
    fs,
    io::{AsyncReadExt, AsyncWriteExt},
};

use super::place::{BackupPlace, Kind, PlaceError, gone_is_fine, make_private};

/// What became of a file that was to be kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kept {
    /// As much was there already.
    Before,
    /// It was not there, or a beginning of it was.
    Now,
}

/// Why a file was not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// What is there is not the beginning of the file. It was not touched.
    #[error("what is there is not the beginning of it")]
    Another,
    /// What is there is longer than the file. It was not touched.
    #[error("more of it is there, {there} bytes instead of {here}")]
    Longer {
        /// Bytes that are kept.
        there: u64,
        /// Bytes of the file.
        here: u64,
    },
    /// The place cannot be read or written.
    #[error(transparent)]
    Place(#[from] Unreachable),
}

/// The place cannot be read or written. The source says why, without credentials.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Unreachable(PlaceError);

impl From<PlaceError> for KeepError {
    fn from(error: PlaceError) -> Self {
        Self::Place(Unreachable(error))
    }
}

impl BackupPlace {
    /// Keeps a file under a name without slashes. All of it is in memory, twice at most.
    ///
    /// # Errors
    ///
    /// [`KeepError`]; nothing has changed then. Two that keep the same name at once may both succeed: what is
    /// there then is what one of them had.
    pub async fn keep(&self, name: &str, bytes: Vec<u8>) -> Result<Kept, KeepError> {
        let here = bytes.len() as u64;
        let there = gone_is_nothing(self.size(name).await)?;
        if let Some(there) = there {
            if there > here {
                return Err(KeepError::Longer { there, here });
            }
            let before = self.read(name).await?;
            if !bytes.starts_with(&before) {
                return Err(KeepError::Another);
            }
            if before.len() == bytes.len() {
                return Ok(Kept::Before);
            }
        }
        self.put(name, bytes).await?;
        Ok(Kept::Now)
    }

    async fn size(&self, name: &str) -> Result<u64, PlaceError> {
        Ok(match &self.0 {
            Kind::Folder(root) => fs::metadata(root.join(name)).await?.len(),
            Kind::S3 { client, prefix, .. } => client.head(&object(prefix, name)).await?.size,
        })
    }

    async fn read(&self, name: &str) -> Result<Vec<u8>, PlaceError> {
        match &self.0 {
            Kind::Folder(root) => {
                let mut bytes = Vec::new();
                let mut file = fs::File::open(root.join(name)).await?;
                file.read_to_end(&mut bytes).await?;
                Ok(bytes)
            }
            Kind::S3 { client, prefix, .. } => {
                let found = client.get(&object(prefix, name)).await?;
                Ok(found.bytes().await?.into())
            }
        }
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), PlaceError> {
        match &self.0 {
            Kind::Folder(root) => {
                make_private(root).await?;
                let part = root.join(format!("{name}.part"));
                let done = write(&part, &root.join(name), &bytes).await;
                if done.is_err() {
                    let _ = gone_is_fine(fs::remove_file(&part).await.map_err(PlaceError::from));
                }
                fs::File::open(root).await?.sync_all().await?;
                done
            }
            Kind::S3 { client, prefix, .. } => {
                let path = object(prefix, name);
                client.put(&path, PutPayload::from(bytes)).await?;
                Ok(())
            }
        }
    }
}

async fn write(part: &Path, path: &Path, bytes: &[u8]) -> Result<(), PlaceError> {
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = opened.open(part).await?;
    file.write_all(bytes).await?;
    file.flush().await?;
    file.sync_all().await?;
    Ok(fs::rename(part, path).await?)
}

fn object(prefix: &str, name: &str) -> object_store::path::Path {
    object_store::path::Path::from(format!("{prefix}/{name}"))
}

fn gone_is_nothing<T>(result: Result<T, PlaceError>) -> Result<Option<T>, PlaceError> {
    match result {
        Ok(there) => Ok(Some(there)),
        Err(PlaceError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}
