//! Where backups are: a folder, or a bucket of an S3-compatible store.
//!
//! Owns: names, and that what is there under its name is whole: a file gets its name when all of it is on
//! disk, an object appears when its last part was confirmed. Does not own: what is in it (`seal`), or which
//! backups there should be (`store`).

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use model::{BackupId, TenantId};
use object_store::{
    ClientOptions, ObjectStoreExt, PutPayload,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    multipart::{MultipartStore, PartId},
};
use tokio::{
    fs,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

/// Bytes of one part of an upload: with 10,000 of them, S3's limit, a backup has 160 GB at most.
const PART: usize = 16 << 20;
/// Bytes of one read.
const READ: u64 = 8 << 20;
/// For one request with its body: a part in this time needs half a megabit per second.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(300);
/// The code of S3 for a bucket that is not there, in the body of a 404.
const NO_BUCKET: &str = "NoSuchBucket";
/// For a connection to the store.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Why a backup could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// It is not there.
    #[error("the backup is not where it should be")]
    Gone,
    /// The folder, or the disk.
    #[error("the folder of backups cannot be written to or read from")]
    Folder(#[source] io::Error),
    /// The store, or the way to it. Its own words may hold addresses, and no credentials.
    #[error("the store of backups did not take or give what was asked of it")]
    Store(#[source] object_store::Error),
    /// The store says so; nothing is known of what is in it.
    #[error("the bucket of backups is not there")]
    NoBucket(#[source] object_store::Error),
}

impl From<io::Error> for PlaceError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone,
            _ => Self::Folder(error),
        }
    }
}

impl From<object_store::Error> for PlaceError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { ref source, .. } => {
                match source.to_string().contains(NO_BUCKET) {
                    true => Self::NoBucket(error),
                    false => Self::Gone,
                }
            }
            other => Self::Store(other),
        }
    }
}

/// Where backups are put, and copies of the audit log.
#[derive(Clone)]
pub struct BackupPlace(pub(super) Kind);

#[derive(Clone)]
pub(super) enum Kind {
    Folder(PathBuf),
    S3 {
        client: Arc<AmazonS3>,
        bucket: String,
        prefix: String,
    },
}

impl fmt::Debug for BackupPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupPlace({})", self.address())
    }
}

impl BackupPlace {
    /// A folder, made when it is needed.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Folder(path.into()))
    }

    /// From `file:///folder` or `s3://bucket/prefix`. Credentials, region and endpoint of a store are those of
    /// the environment (`AWS_ACCESS_KEY_ID`, …), with those of `options` before them: lines of the form
    /// `AWS_ACCESS_KEY_ID=…`; empty ones and those that begin with `#` do not count.
    ///
    /// # Errors
    ///
    /// What is wrong with it. Never a value of `options`.
    pub fn parse(url: &str, options: Option<&str>) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("file://") {
            return match path.starts_with('/') {
                true => Ok(Self::folder(path)),
                false => Err("a folder is written like file:///var/backups/tenantry".to_owned()),
            };
        }
        let Some(rest) = url.strip_prefix("s3://") else {
            return Err("it begins with neither file:// nor s3://".to_owned());
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err("a store is written like s3://bucket/prefix".to_owned());
        }
        let mut builder = AmazonS3Builder::from_env();
        for (number, line) in options.unwrap_or_default().lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let known = line.split_once('=').map(|(name, value)| {
                let name = name.trim().to_ascii_lowercase();
                (name, value.trim().to_owned())
            });
            let Some((name, value)) = known else {
                return Err(format!("line {} is not of the form NAME=value", number + 1));
            };
            if name == "aws_allow_http" {
                builder = builder.with_allow_http(value == "true");
                continue;
            }
            let Ok(key) = name.parse::<AmazonS3ConfigKey>() else {
                return Err(format!("line {}: no such name", number + 1));
            };
            builder = builder.with_config(key, value);
        }
        let plain = builder
            .get_config_value(&AmazonS3ConfigKey::Endpoint)
            .is_some_and(|url| is_loopback(&url));
        let options = ClientOptions::new()
            .with_timeout(REQUEST_TIME_MAX)
            .with_connect_timeout(CONNECT_TIME_MAX)
            .with_allow_http(plain);
        let client = builder
            .with_bucket_name(bucket)
            .with_client_options(options)
            // Backups are deleted one by one, and not every store knows the other way.
            .with_disable_bulk_delete(true)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self(Kind::S3 {
            client: Arc::new(client),
            bucket: bucket.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
        }))
    }

    /// For logs and answers to the operator.
    pub fn address(&self) -> String {
        match &self.0 {
            Kind::Folder(path) => format!("file://{}", path.display()),
            Kind::S3 { bucket, prefix, .. } => format!("s3://{bucket}/{prefix}"),
        }
    }

    /// Begins to write a backup. Nothing of it is there under its name before [`Upload::finish`].
    pub(crate) async fn begin(
        &self,
        tenant: &TenantId,
        backup: &BackupId,
    ) -> Result<Upload, PlaceError> {
        Ok(match &self.0 {
            Kind::Folder(root) => {
                let dir = root.join(tenant.as_str());
                make_private(&dir).await?;
                let path = file(root, tenant, backup);
                let part = path.with_extension("part");
                let mut options = fs::OpenOptions::new();
                let opened = options.write(true).create(true).truncate(true).mode(0o600);
                Upload(To::File {
                    file: opened.open(&part).await?,
                    part,
                    path,
                })
            }
            Kind::S3 { client, prefix, .. } => {
                let path = object(prefix, tenant, backup);
                let id = client.create_multipart(&path).await?;
                Upload(To::Object {
                    client: client.clone(),
                    path,
                    id,
                    parts: Vec::new(),
                    buffer: Vec::new(),
                })
            }
        })
    }

    /// Ends what [`Self::begin`] began and nobody finished. Twice is as good as once.
    pub(crate) async fn clean(
        &self,
        tenant: &TenantId,
        backup: &BackupId,
        upload: Option<&str>,
    ) -> Result<(), PlaceError> {
        match &self.0 {
            Kind::Folder(root) => {
                let part = file(root, tenant, backup).with_extension("part");
                gone_is_fine(fs::remove_file(part).await.map_err(PlaceError::from))
            }
            Kind::S3 { client, prefix, .. } => match upload {
                Some(id) => {
                    let path = object(prefix, tenant, backup);
                    let ended = client.abort_multipart(&path, &id.to_owned()).await;
                    gone_is_fine(ended.map_err(PlaceError::from))
                }
                None => Ok(()),
            },
        }
    }

    /// Removes a backup. Twice is as good as once.
    pub(crate) async fn remove(
        &self,
        tenant: &TenantId,
        backup: &BackupId,
    ) -> Result<(), PlaceError> {
        match &self.0 {
            Kind::Folder(root) => {
                let path = file(root, tenant, backup);
                gone_is_fine(fs::remove_file(&path).await.map_err(PlaceError::from))?;
                // Only when nothing is left in it.
                if let Some(dir) = path.parent() {
                    let _ = fs::remove_dir(dir).await;
                }
                Ok(())
            }
            Kind::S3 { client, prefix, .. } => {
                let path = object(prefix, tenant, backup);
                gone_is_fine(client.delete(&path).await.map_err(PlaceError::from))
            }
        }
    }

    /// Reads a backup from its beginning.
    pub(crate) async fn open(
        &self,
        tenant: &TenantId,
        backup: &BackupId,
    ) -> Result<Download, PlaceError> {
        Ok(match &self.0 {
            Kind::Folder(root) => {
                let mut file = match fs::File::open(file(root, tenant, backup)).await {
                    // Without its folder nothing is known of what is in it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        fs::metadata(root).await.map_err(PlaceError::Folder)?;
                        return Err(PlaceError::Gone);
                    }
                    opened => opened?,
                };
                let size = file.metadata().await?.len();
                file.rewind().await?;
                Download {
                    at: 0,
                    size,
                    from: Source::File(file),
                }
            }
            Kind::S3 { client, prefix, .. } => {
                let path = object(prefix, tenant, backup);
                let size = match client.head(&path).await {
                    // What is not there, it or its bucket, stands in the body, which an answer to HEAD has none of.
                    Err(object_store::Error::NotFound { .. }) => client.get(&path).await?.meta.size,
                    found => found?.size,
                };
                Download {
                    at: 0,
                    size,
                    from: Source::Object(client.clone(), path),
                }
            }
        })
    }
}

fn is_loopback(url: &str) -> bool {
    let Ok(url) = url::Url::parse(url) else {
        return false;
    };
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn file(root: &Path, tenant: &TenantId, backup: &BackupId) -> PathBuf {
    root.join(tenant.as_str()).join(format!("{backup}.tntry"))
}

fn object(prefix: &str, tenant: &TenantId, backup: &BackupId) -> object_store::path::Path {
    object_store::path::Path::from(format!("{prefix}/{tenant}/{backup}.tntry"))
}

pub(super) fn gone_is_fine(result: Result<(), PlaceError>) -> Result<(), PlaceError> {
    match result {
        Err(PlaceError::Gone) => Ok(()),
        other => other,
    }
}

/// Only we may look into it.
pub(super) async fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .await
}

/// A backup that is being written.
pub(crate) struct Upload(To);

enum To {
    File {
        file: fs::File,
        part: PathBuf,
        path: PathBuf,
    },
    Object {
        client: Arc<AmazonS3>,
        path: object_store::path::Path,
        id: String,
        parts: Vec<PartId>,
        buffer: Vec<u8>,
    },
}

impl Upload {
    /// By which it can be ended from elsewhere, where that is needed.
    pub(crate) fn id(&self) -> Option<&str> {
        match &self.0 {
            To::File { .. } => None,
            To::Object { id, .. } => Some(id),
        }
    }

    pub(crate) async fn write(&mut self, bytes: Vec<u8>) -> Result<(), PlaceError> {
        match &mut self.0 {
            To::File { file, .. } => Ok(file.write_all(&bytes).await?),
            To::Object {
                client,
                path,
                id,
                parts,
                buffer,
            } => {
                buffer.extend_from_slice(&bytes);
                while buffer.len() >= PART {
                    let rest = buffer.split_off(PART);
                    let part = std::mem::replace(buffer, rest);
                    let sent = client.put_part(path, id, parts.len(), PutPayload::from(part));
                    parts.push(sent.await?);
                }
                Ok(())
            }
        }
    }

    /// Everything is where it survives a loss of power, under its name.
    pub(crate) async fn finish(self) -> Result<(), PlaceError> {
        match self.0 {
            To::File {
                mut file,
                part,
                path,
            } => {
                file.flush().await?;
                file.sync_all().await?;
                fs::rename(&part, &path).await?;
                // The name, and the folder's own.
                for dir in path.ancestors().skip(1).take(2) {
                    fs::File::open(dir).await?.sync_all().await?;
                }
                Ok(())
            }
            To::Object {
                client,
                path,
                id,
                mut parts,
                buffer,
            } => {
                if !buffer.is_empty() || parts.is_empty() {
                    let sent = client.put_part(&path, &id, parts.len(), PutPayload::from(buffer));
                    parts.push(sent.await?);
                }
                client.complete_multipart(&path, &id, parts).await?;
                Ok(())
            }
        }
    }
}

/// A backup that is being read.
pub(crate) struct Download {
    at: u64,
    size: u64,
    from: Source,
}

enum Source {
    File(fs::File),
    Object(Arc<AmazonS3>, object_store::path::Path),
}

impl Download {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<bytes::Bytes>, PlaceError> {
        let length = READ.min(self.size - self.at);
        if length == 0 {
            return Ok(None);
        }
        let bytes = match &mut self.from {
            Source::File(file) => {
                let mut bytes = Vec::new();
                file.take(length).read_to_end(&mut bytes).await?;
                bytes::Bytes::from(bytes)
            }
            Source::Object(client, path) => {
                client.get_range(path, self.at..self.at + length).await?
            }
        };
        // Cut off while we read.
        if bytes.is_empty() {
            self.size = self.at;
            return Ok(None);
        }
        self.at += bytes.len() as u64;
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let address = |url: &str| BackupPlace::parse(url, None).map(|place| place.address());
        assert_eq!(address("file:///a/b").unwrap(), "file:///a/b");
        for wrong in ["", "/a", "file://a", "http://x", "s3://", "s3:///x"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        let options = "# ours\nAWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=hunter2\nAWS_REGION=x\n\
            AWS_ENDPOINT_URL=http://127.0.0.1:1\n";
        let place = BackupPlace::parse("s3://bucket/some/prefix/", Some(options)).unwrap();
        assert_eq!(place.address(), "s3://bucket/some/prefix");
        assert!(!format!("{place:?}").contains("hunter2"));
        let wrong = BackupPlace::parse("s3://bucket", Some("x\n")).unwrap_err();
        assert!(wrong.contains("line 1"), "{wrong}");
        let wrong = BackupPlace::parse("s3://bucket", Some("hunter2=x\n")).unwrap_err();
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }

    #[tokio::test]
    async fn a_file_is_there_when_it_is_whole() {
        let dir = scratch::Scratch::new();
        let place = BackupPlace::folder(dir.join("backups"));
        let (tenant, backup) = (
            "abcdefghijkl".parse().unwrap(),
            "bkp_abcdefghijkl".parse().unwrap(),
        );
        let away = place.open(&tenant, &backup).await;
        assert!(matches!(away, Err(PlaceError::Folder(_))));
        let mut upload = place.begin(&tenant, &backup).await.unwrap();
        upload.write(vec![1; 100]).await.unwrap();
        let none = place.open(&tenant, &backup).await;
        assert!(matches!(none, Err(PlaceError::Gone)));
        drop(upload);
        for _ in 0..2 {
            place.clean(&tenant, &backup, None).await.unwrap();
        }
        let mut upload = place.begin(&tenant, &backup).await.unwrap();
        upload.write(vec![2; 100]).await.unwrap();
        upload.finish().await.unwrap();
        let mut download = place.open(&tenant, &backup).await.unwrap();
        assert_eq!(download.next().await.unwrap().unwrap(), vec![2; 100]);
        assert!(download.next().await.unwrap().is_none());
        for _ in 0..2 {
            place.remove(&tenant, &backup).await.unwrap();
        }
        let left = std::fs::read_dir(dir.join("backups")).unwrap().count();
        assert_eq!(left, 0);
    }
}
