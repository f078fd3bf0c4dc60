//! The files of an installation that are not PostgreSQL's: made once, kept for its life.
//!
//! | in the data directory | what | mode |
//! | --- | --- | --- |
//! | `installation.key` | the secret that login salts are derived from | 0600 |
//! | `operator.key` | the operator's token for the API | 0600 |
//! | `instance` | by which processes that share a catalog know each other apart | 0600 |
//! | `tls/server.crt`, `tls/server.key` | the self-signed certificate, when none was given | 0644, 0600 |
//! | `node.key` | the secret that server passwords are derived from | 0600 |
//! | `superuser.password` | of the platform's own role in PostgreSQL | 0600 |
//! | `postgres/` | PostgreSQL's data, settings and socket; `postgres.base` names another place when its user cannot come here | 0710 |
//! | `audit/` | who did what, in files that show when they were changed | 0700 |
//! | `log/` | PostgreSQL's log, rotated | 0700 |
//! | `tenantry.lock` | held while a server runs on this directory | |

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use model::Secret;
use rand::{TryRng as _, rngs::SysRng};

/// Makes the data directory and takes its lock, for a server without a PostgreSQL of its own; a
/// managed node does the same for itself. The lock is free when the file is dropped.
///
/// # Errors
///
/// When another process has it, or the file system refuses.
pub(super) fn take(dir: &Path) -> anyhow::Result<File> {
    let what = || dir.display().to_string();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(what)?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join("tenantry.lock"))
        .with_context(what)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("{} is in use by another server", dir.display()))?;
    Ok(lock)
}

/// Reads the secret of 32 bytes at `path`, hex, making it when there is none.
///
/// # Errors
///
/// When it cannot be read or made, can be read by others, or is not 64 hex digits.
pub(super) fn installation_key(path: &Path) -> anyhow::Result<[u8; 32]> {
    let text = read_or_make(path, || Ok(format!("{}\n", hex(&random()?))))?;
    parse_installation_key(&text, path)
}

/// The same, of an installation that is there; nothing is made.
///
/// # Errors
///
/// When it cannot be read, can be read by others, or is not 64 hex digits.
pub(crate) fn read_installation_key(path: &Path) -> anyhow::Result<[u8; 32]> {
    let missing = || {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        Err(missing).with_context(|| path.display().to_string())
    };
    let text = read_or_make(path, missing)?;
    parse_installation_key(&text, path)
}

fn parse_installation_key(text: &Secret, path: &Path) -> anyhow::Result<[u8; 32]> {
    let mut key = [0; 32];
    let digits = text.reveal().trim();
    let valid = digits.len() == 64
        && key.iter_mut().enumerate().all(|(i, byte)| {
            let parsed = digits
                .get(2 * i..2 * i + 2)
                .and_then(|digits| u8::from_str_radix(digits, 16).ok());
            parsed.map(|value| *byte = value).is_some()
        });
    if !valid {
        bail!(
            "{} is not a key of this software (64 hex digits); restore it from a backup: without it \
             no tenant of this installation can log in",
            path.display()
        );
    }
    Ok(key)
}

/// Reads the operator's token at `path`, making it when there is none.
///
/// # Errors
///
/// When it cannot be read or made, or can be read by others.
pub(super) fn operator_key(path: &Path) -> anyhow::Result<Secret> {
    let text = read_or_make(path, || Ok(format!("tnt_{}\n", hex(&random()?))))?;
    let token = text.reveal().trim();
    if !token.starts_with("tnt_") || token.len() < 36 {
        bail!(
            "{} holds no token of this software; remove it and the next start makes another",
            path.display()
        );
    }
    Ok(Secret::new(token))
}

/// Name of this data directory among those whose servers share a catalog, made when there is none. A copy of
/// the directory has another one: the file's number in its file system is part of it.
///
/// # Errors
///
/// When the file cannot be read or made, or can be read by others.
pub(super) fn instance(path: &Path) -> anyhow::Result<String> {
    let text = read_or_make(path, || Ok(format!("{}\n", &hex(&random()?)[..16])))?;
    let number = fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .ino();
    Ok(format!("{}-{number:x}", text.reveal().trim()))
}

/// A file that only its owner may read; made durably, and by one of two that start at once.
fn read_or_make(
    path: &Path,
    make: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<Secret> {
    let what = || path.display().to_string();
    if !path.try_exists().with_context(what)? {
        match write_once(path, make()?.as_bytes(), 0o600) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(what);
            }
            _ => {}
        }
    }
    let mode = fs::metadata(path).with_context(what)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!(
            "{} can be read by others (mode {mode:o}); chmod 600 it, and think about who may have",
            path.display()
        );
    }
    Ok(Secret::new(fs::read_to_string(path).with_context(what)?))
}

/// Writes a file that was not there. A crash leaves nothing or all of it.
pub(super) fn write_once(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)?;
    let done = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        // Unlike a rename, a link fails when there is a file already.
        .and_then(|()| fs::hard_link(&fresh, path));
    let _ = fs::remove_file(&fresh);
    done?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    SysRng
        .try_fill_bytes(&mut bytes)
        .context("random bytes of the operating system")?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn in_scratch(test: impl FnOnce(&Path)) {
        let scratch = scratch::Scratch::new();
        test(&scratch.join("key"));
    }

    #[test]
    fn a_key_is_made_once_and_read_ever_after() {
        in_scratch(|path| {
            let first = installation_key(path).unwrap();
            assert_eq!(first, installation_key(path).unwrap());
            assert_ne!(first, [0; 32]);
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
        });
    }

    #[test]
    fn a_copied_directory_is_another_instance() {
        in_scratch(|path| {
            let first = instance(path).unwrap();
            assert_eq!(first, instance(path).unwrap());
            let copy = path.with_extension("copy");
            fs::copy(path, &copy).unwrap();
            assert_ne!(first, instance(&copy).unwrap());
        });
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        in_scratch(|path| {
            write_once(path, b"abc\n", 0o600).unwrap();
            assert!(installation_key(path).is_err());
            assert_eq!(fs::read(path).unwrap(), b"abc\n");
        });
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        in_scratch(|path| {
            operator_key(path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(operator_key(path).is_err());
        });
    }
}
