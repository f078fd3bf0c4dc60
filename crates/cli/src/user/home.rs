//! What is kept between two commands: `credentials.toml` under `TENANTRY_HOME`.
//!
//! Owns: the file, its mode (0600 in a 0700 directory), and its being changed by one command at a
//! time. Does not own: what a server keeps. The server keeps no secret that it could show again,
//! so the connection strings that `create` and `reset-password` return are kept here, and
//! `db connect` finds them here.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    dir: PathBuf,
}

/// The whole file: one entry per server, by the address of its API.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    #[serde(default)]
    servers: BTreeMap<String, Server>,
}

/// What is known about one server.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    /// Chosen with `tenantry use`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) default_database: Option<String>,
    /// The anonymous project that was registered there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) anonymous: Option<Anonymous>,
    /// Connection strings by login name (`<id>.<role>`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) connection_strings: BTreeMap<String, String>,
}

/// An anonymous project: who knows the secret owns it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Anonymous {
    pub(crate) anonymous_id: String,
    pub(crate) anonymous_secret: String,
    pub(crate) token: String,
    /// RFC 3339.
    #[serde(default)]
    pub(crate) expires_at: String,
}

impl std::fmt::Debug for Anonymous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Anonymous({})", self.anonymous_id)
    }
}

impl Home {
    /// The directory named by `TENANTRY_HOME`, else `~/.tenantry`. Nothing is made yet.
    ///
    /// # Errors
    ///
    /// When neither `TENANTRY_HOME` nor `HOME` is set.
    pub(crate) fn open() -> Result<Self, Failure> {
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dir = named("TENANTRY_HOME")
            .map(PathBuf::from)
            .or_else(|| named("HOME").map(|home| PathBuf::from(home).join(".tenantry")))
            .ok_or_else(|| {
                Failure::usage(
                    "there is no place to keep credentials",
                    "set TENANTRY_HOME, or HOME",
                )
            })?;
        Ok(Self { dir })
    }

    /// This directory, whatever the environment says.
    #[cfg(test)]
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where the credentials are.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join("credentials.toml")
    }

    /// Reads what is known about the server at `url`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is readable by others, or is not ours.
    pub(crate) fn server(&self, url: &str) -> Result<Server, Failure> {
        Ok(self.read()?.servers.remove(url).unwrap_or_default())
    }

    /// The database chosen with `tenantry use`.
    ///
    /// # Errors
    ///
    /// As [`Self::server`].
    pub(crate) fn default_database(&self, url: &str) -> Result<Option<String>, Failure> {
        Ok(self.server(url)?.default_database)
    }

    /// Changes what is known about the server at `url`, and writes it durably.
    ///
    /// # Errors
    ///
    /// As [`Self::server`], or when the file cannot be written.
    pub(crate) fn change(
        &self,
        url: &str,
        change: impl FnOnce(&mut Server),
    ) -> Result<(), Failure> {
        let _lock = self.lock()?;
        let mut kept = self.read()?;
        change(kept.servers.entry(url.to_owned()).or_default());
        self.write(&self.file(), &kept)
    }

    /// Moves what is known about the server at `url` into a file of its own, and returns its path.
    ///
    /// # Errors
    ///
    /// As [`Self::change`].
    pub(crate) fn set_aside(&self, url: &str) -> Result<Option<PathBuf>, Failure> {
        let _lock = self.lock()?;
        let mut kept = self.read()?;
        let Some(server) = kept.servers.remove(url) else {
            return Ok(None);
        };
        let stamp = chrono::Utc::now().format("%Y%m%dT%H%M%S%.6f");
        let aside = self.dir.join(format!("credentials-{stamp}.toml"));
        let alone = Kept {
            servers: BTreeMap::from([(url.to_owned(), server)]),
        };
        self.write(&aside, &alone)?;
        self.write(&self.file(), &kept)?;
        Ok(Some(aside))
    }

    /// Held while something is changed, and while a project is registered: two first commands at
    /// once must not register two. Freed by dropping it, also by the death of the process.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or written to.
    pub(crate) fn lock(&self) -> Result<Lock, Failure> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .with_context(|| format!("make {}", self.dir.display()))?;
        let path = self.dir.join("lock");
        let file = private(OpenOptions::new().create(true).truncate(false).write(true))
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .with_context(|| format!("lock {}", path.display()))?;
        Ok(Lock { _file: file })
    }

    /// As [`Self::change`], by a caller that holds the lock.
    ///
    /// # Errors
    ///
    /// As [`Self::change`].
    pub(crate) fn change_locked(
        &self,
        _lock: &Lock,
        url: &str,
        change: impl FnOnce(&mut Server),
    ) -> Result<(), Failure> {
        let mut kept = self.read()?;
        change(kept.servers.entry(url.to_owned()).or_default());
        self.write(&self.file(), &kept)
    }

    fn read(&self) -> Result<Kept, Failure> {
        let path = self.file();
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
            Err(error) => {
                return Err(anyhow::Error::new(error)
                    .context(format!("open {}", path.display()))
                    .into());
            }
        };
        let mode = file.metadata()?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Failure::new(
                Exit::Machine,
                format!("{} can be read by others (mode {mode:o})", path.display()),
                format!(
                    "chmod 600 {0}, and make new passwords if others use this machine",
                    path.display()
                ),
            ));
        }
        let mut text = String::new();
        file.read_to_string(&mut text)
            .with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).map_err(|error| {
            // Its message shows the line, and the line may be a secret.
            let line = error
                .span()
                .map_or(0, |span| text[..span.start].lines().count().max(1));
            Failure::new(
                Exit::Machine,
                format!("{}, line {line}: {}", path.display(), error.message()),
                "mend the file, or move it away to begin anew",
            )
        })
    }

    fn write(&self, path: &Path, kept: &Kept) -> Result<(), Failure> {
        let text = toml::to_string(kept).context("credentials as TOML")?;
        write_private(path, text.as_bytes())
            .with_context(|| format!("write {}", path.display()))?;
        Ok(())
    }
}

/// See [`Home::lock`].
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

/// Replaces a file as a whole: whoever reads sees the old text or the new one, also after a crash.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let mut file =
        private(OpenOptions::new().create(true).truncate(true).write(true)).open(&fresh)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&fresh, path)) {
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A home that is gone when the test is.
    fn scratch() -> (scratch::Scratch, Home) {
        let scratch = scratch::Scratch::new();
        let dir = scratch.join("home");
        (scratch, Home { dir })
    }

    const URL: &str = "http://127.0.0.1:1";

    #[test]
    fn what_was_kept_is_found_by_server_and_by_nobody_else() {
        let (_scratch, home) = scratch();
        home.change(URL, |server| {
            server
                .connection_strings
                .insert("abcdefghijkl".into(), "postgresql://…".into());
        })
        .unwrap();

        assert_eq!(home.server(URL).unwrap().connection_strings.len(), 1);
        assert!(
            home.server("http://other")
                .unwrap()
                .connection_strings
                .is_empty()
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&home.file()), 0o600);
        assert_eq!(mode(&home.dir), 0o700);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_scratch, home) = scratch();
        home.change(URL, |_| {}).unwrap();
        fs::set_permissions(home.file(), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(home.server(URL).unwrap_err().exit(), Exit::Machine);
    }

    #[test]
    fn a_broken_file_is_named_by_line_without_its_text() {
        let (_scratch, home) = scratch();
        home.change(URL, |_| {}).unwrap();
        fs::write(home.file(), "[servers]\nsecret = \"hunter2\n").unwrap();
        let Failure::Here { message, .. } = home.server(URL).unwrap_err() else {
            panic!("another kind")
        };
        assert!(message.contains("line 2"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn set_aside_keeps_everything_in_another_file() {
        let (_scratch, home) = scratch();
        home.change(URL, |server| server.default_database = Some("hello".into()))
            .unwrap();
        let aside = home.set_aside(URL).unwrap().unwrap();
        assert!(fs::read_to_string(aside).unwrap().contains("hello"));
        assert_eq!(home.default_database(URL).unwrap(), None);
        assert_eq!(home.set_aside(URL).unwrap(), None);
    }
}
