//! The operating system's user that PostgreSQL runs as.

use std::{fs, process::Stdio};

use tokio::process::Command;

use super::ManagedError;

/// Whom to become before running a program of PostgreSQL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RunAs {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Whom PostgreSQL runs as when we are root and nobody said.
const DEFAULT: &str = "postgres";

impl RunAs {
    /// `None`: as we are. PostgreSQL refuses to run as root, so root becomes `name`.
    pub(crate) async fn choose(name: Option<&str>) -> Result<Option<Self>, ManagedError> {
        if !rustix::process::geteuid().is_root() {
            return match name {
                Some(name) if !is_ourselves(name).await => Err(ManagedError::Setup(format!(
                    "running PostgreSQL as {name} needs root; without --pg-user it runs as you"
                ))),
                _ => Ok(None),
            };
        }
        let wanted = name.unwrap_or(DEFAULT);
        match look_up(wanted).await {
            Some(user) if user.uid == 0 => Err(ManagedError::Setup(format!(
                "PostgreSQL does not run as root, and {wanted} is root: choose another user \
                 with --pg-user"
            ))),
            Some(user) => Ok(Some(user)),
            None => Err(ManagedError::Setup(format!(
                "PostgreSQL does not run as root, and there is no user {wanted} to run it as: \
                 create one (`useradd --system {wanted}`) or choose one with --pg-user"
            ))),
        }
    }

    /// Makes `command` run as `user`, without supplementary groups, in a process group of its own:
    /// Ctrl-C on the terminal is for us, we decide when the server stops.
    pub(crate) fn apply(user: Option<&Self>, command: &mut Command) {
        if let Some(user) = user {
            // The standard library drops the supplementary groups when root changes the user.
            command.uid(user.uid).gid(user.gid);
        }
        command.process_group(0);
    }
}

async fn is_ourselves(name: &str) -> bool {
    let us = rustix::process::geteuid().as_raw();
    look_up(name).await.is_some_and(|user| user.uid == us)
}

/// In `/etc/passwd`, then wherever else the system keeps its users.
async fn look_up(name: &str) -> Option<RunAs> {
    let find = |text: &str| text.lines().find_map(|line| parse(line, name));
    if let Some(user) = fs::read_to_string("/etc/passwd")
        .ok()
        .as_deref()
        .and_then(find)
    {
        return Some(user);
    }
    let mut getent = Command::new("getent");
    getent
        .args(["passwd", "--", name])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = getent.output().await.ok()?;
    find(&String::from_utf8_lossy(&output.stdout))
}

fn parse(line: &str, name: &str) -> Option<RunAs> {
    let mut fields = line.split(':');
    if fields.next()? != name {
        return None;
    }
    let _password = fields.next()?;
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(RunAs {
        name: name.to_owned(),
        uid,
        gid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_passwd_are_read() {
        let line = "postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash";
        let user = parse(line, "postgres").unwrap();
        assert_eq!((user.uid, user.gid), (101, 104));
        assert!(parse(line, "postgre").is_none());
        assert!(parse("broken", "broken").is_none());
    }

    #[tokio::test]
    async fn an_unknown_user_is_an_error() {
        assert!(RunAs::choose(Some("no-such-user-here")).await.is_err());
    }
}
