//! The files of the cluster: made once, of one major version.

use std::{fs, io, path::Path, process::Stdio};

use model::Secret;
use tokio::process::Command;

use super::{
    ManagedError, SUPERUSER, io_error,
    place::{Place, chown, make_dir, own, set_mode},
    settings::{Sizes, hba},
    user::RunAs,
};
use crate::{
    find::Installation,
    key::{hex, random_bytes, read_secret, write_secret},
};

const PASSWORD_FILE: &str = "superuser.password";

/// Makes the cluster when there is none; refuses one of another major version. Returns the password
/// of the superuser.
pub(crate) async fn prepare(
    place: &Place,
    installation: &Installation,
    user: Option<&RunAs>,
) -> Result<Secret, ManagedError> {
    let cluster = place.cluster();
    let path = place.data_dir.join(PASSWORD_FILE);
    let kept = read_secret(&path).map_err(|error| io_error("read", &path, error))?;
    match fs::read_to_string(cluster.join("PG_VERSION")) {
        Ok(version) if version.trim() == installation.major.to_string() => {
            return kept.map(|text| Secret::new(text.trim())).ok_or_else(|| {
                ManagedError::Setup(format!(
                    "{} is missing: without it nobody can log in to the databases in {}",
                    path.display(),
                    cluster.display()
                ))
            });
        }
        Ok(version) => {
            return Err(ManagedError::WrongMajor {
                data: cluster,
                found: version.trim().to_owned(),
                bin: installation.bin.clone(),
                have: installation.major,
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !cluster.exists() => {}
        Err(error) => return Err(io_error("read the version of", &cluster, error)),
    }
    let password = match kept {
        Some(text) => Secret::new(text.trim()),
        None => {
            let text = hex(&random_bytes::<32>());
            write_secret(&path, &text).map_err(|error| io_error("write", &path, error))?;
            Secret::new(text)
        }
    };
    initdb(place, installation, user, &password).await?;
    Ok(password)
}

/// Into a directory of its own that becomes the cluster when everything is in it, so that a crash
/// never leaves half a cluster.
async fn initdb(
    place: &Place,
    installation: &Installation,
    user: Option<&RunAs>,
    password: &Secret,
) -> Result<(), ManagedError> {
    let unfinished = place.unfinished();
    let locales = if installation.major >= 17 {
        &LOCALES[..]
    } else {
        &LOCALES[1..]
    };
    let mut failure = None;
    for locale in locales {
        remove(&unfinished)?;
        make_dir(&unfinished, 0o700)?;
        own(&unfinished, user)?;
        match run_initdb(place, installation, user, password, locale).await? {
            Ok(()) => {
                let cluster = place.cluster();
                fs::rename(&unfinished, &cluster)
                    .map_err(|error| io_error("finish", &cluster, error))?;
                sync(&place.base)?;
                tracing::info!(cluster = %cluster.display(), locale = locale.join(" "), "made a cluster");
                return Ok(());
            }
            Err(output) => failure = Some(output),
        }
        // Only the lack of a locale is answered with another one.
        if !failure
            .as_deref()
            .is_some_and(|output| output.contains("locale"))
        {
            break;
        }
    }
    remove(&unfinished)?;
    Err(ManagedError::Program {
        program: "initdb",
        output: failure.unwrap_or_default(),
    })
}

/// See [`crate::steps::LOCALES`]: the same choices in the words of `initdb`.
const LOCALES: [&[&str]; 3] = [
    &[
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--locale=C",
    ],
    &["--locale=C", "--lc-ctype=C.UTF-8"],
    &["--locale=C"],
];

async fn run_initdb(
    place: &Place,
    installation: &Installation,
    user: Option<&RunAs>,
    password: &Secret,
    locale: &[&str],
) -> Result<Result<(), String>, ManagedError> {
    // A file, because a pipe of root's cannot be opened by another user.
    let password_file = place.conf().join("initdb.password");
    write(&password_file, password.reveal(), user.map(|user| user.gid))?;
    let mut command = Command::new(installation.bin.join("initdb"));
    command
        .args([
            "--username",
            SUPERUSER,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
        ])
        .args(["--data-checksums", "--no-instructions"])
        .args(locale)
        .arg("--pwfile")
        .arg(&password_file)
        .arg("--pgdata")
        .arg(place.unfinished())
        .current_dir("/")
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    RunAs::apply(user, &mut command);
    let output = command.output().await;
    fs::remove_file(&password_file).map_err(|error| io_error("remove", &password_file, error))?;
    let output =
        output.map_err(|error| io_error("run", &installation.bin.join("initdb"), error))?;
    if output.status.success() {
        return Ok(Ok(()));
    }
    Ok(Err(format!(
        "{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

/// Writes the files of ours that the server reads.
pub(crate) fn configure(
    place: &Place,
    sizes: &Sizes,
    group: Option<u32>,
) -> Result<(), ManagedError> {
    let conf = place.conf();
    write(&conf.join("pg_hba.conf"), &hba(SUPERUSER), group)?;
    write(&conf.join("pg_ident.conf"), "", group)?;
    write(&conf.join("tenantry.conf"), &sizes.conf(), group)?;
    let operator = conf.join("operator.conf");
    if !operator.exists() {
        write(
            &operator,
            "# Settings of yours for PostgreSQL. Never changed by tenantry.\n",
            group,
        )?;
    }
    Ok(())
}

/// Whole or not at all; PostgreSQL's group may read it.
pub(crate) fn write(path: &Path, text: &str, group: Option<u32>) -> Result<(), ManagedError> {
    let new = path.with_extension("next");
    write_secret(&new, text).map_err(|error| io_error("write", &new, error))?;
    if group.is_some() {
        chown(&new, None, group)?;
        set_mode(&new, 0o640)?;
    }
    fs::rename(&new, path).map_err(|error| io_error("write", path, error))
}

fn remove(dir: &Path) -> Result<(), ManagedError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", dir, error))
        }
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> Result<(), ManagedError> {
    let file = fs::File::open(dir).map_err(|error| io_error("sync", dir, error))?;
    file.sync_all()
        .map_err(|error| io_error("sync", dir, error))
}
