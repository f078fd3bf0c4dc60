//! How much memory a server process may have.
//!
//! PostgreSQL has no limit for the memory of a statement: `work_mem` counts for each sort and hash anew, and is
//! the client's to set. The system has one for the private memory of a process (`RLIMIT_DATA`), and
//! PostgreSQL answers 53200 where it gets no more; the session goes on. So a limit of a tenant is set on each of its server
//! processes, by the number that the process names at its login, where its postmaster is on this machine.
//!
//! Owns: which server processes a tenant has ([`Processes`]), and limiting them. Does not own: what all
//! processes of a server we run have from its start (`node::managed`), or what a client is told (`relay`).
//!
//! Only the soft limit is set, so that it can be raised again without a right. A process could raise its own, but
//! what a tenant's text can make PostgreSQL do does not include that.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io::{self, Error},
};

use rustix::{
    process::{Gid, Pid, Resource, Rlimit, Uid, geteuid, prlimit},
    thread::{set_thread_res_gid, set_thread_res_uid},
};
use tokio::net::UnixStream;

/// Who listens at the other end of a unix socket, as the system says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Postmaster {
    process: Pid,
    user: Uid,
    group: Gid,
}

impl Postmaster {
    /// `None` when the system does not show it to us: it is in another container.
    pub(crate) fn behind(socket: &UnixStream) -> Option<Self> {
        let peer = socket.peer_cred().ok()?;
        Some(Self {
            process: Pid::from_raw(peer.pid().filter(|id| *id > 0)?)?,
            user: Uid::from_raw(peer.uid()),
            group: Gid::from_raw(peer.gid()),
        })
    }
}

/// Why a server process has no limit of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unlimited {
    /// It is on another machine, in another container, or no child of who we talk to (a pooler).
    #[error("the server process is not on this machine, as far as can be seen")]
    Elsewhere,
    /// The system does not let us.
    #[error("the system does not let us limit the server process")]
    Refused(#[source] Error),
}

impl Unlimited {
    /// For metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Elsewhere => "elsewhere",
            Self::Refused(_) => "refused",
        }
    }
}

/// What a process comes to first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Limited {
    /// Its tenant's limit.
    ByUs,
    /// What its postmaster gave it, if anything.
    ByItsServer,
}

#[derive(Clone, Copy, Debug)]
struct Process {
    id: Pid,
    postmaster: Postmaster,
}

/// Server processes of one tenant. As many as it has server connections.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    /// By their numbers.
    all: RefCell<HashMap<i32, Process>>,
    are_limited: Cell<bool>,
}

impl Processes {
    /// There is one more, which may have so many bytes.
    ///
    /// # Errors
    ///
    /// [`Unlimited`], if there is a limit and it does not hold.
    pub(crate) fn add(
        &self,
        id: i32,
        postmaster: Option<Postmaster>,
        bytes: Option<u64>,
    ) -> Result<(), Unlimited> {
        let known = Pid::from_raw(id.max(0)).zip(postmaster);
        let Some((pid, postmaster)) = known else {
            return bytes.map_or(Ok(()), |_| Err(Unlimited::Elsewhere));
        };
        let process = Process {
            id: pid,
            postmaster,
        };
        self.all.borrow_mut().insert(id, process);
        match bytes {
            // As it came from its postmaster.
            None => Ok(()),
            bytes => self.note(limit(&[process], bytes)),
        }
    }

    /// One has ended.
    pub(crate) fn remove(&self, id: i32) {
        self.all.borrow_mut().remove(&id);
    }

    /// Whether it is our limit that a process reaches, not one of its postmaster's.
    pub(crate) fn are_limited(&self) -> bool {
        self.are_limited.get()
    }

    fn note(&self, result: Result<Limited, Unlimited>) -> Result<(), Unlimited> {
        self.are_limited.set(matches!(result, Ok(Limited::ByUs)));
        result.map(drop)
    }

    /// From now on each may have so many bytes; `None`: what its postmaster gave it. What a process has
    /// already, it keeps: the next thing that it asks for fails.
    ///
    /// # Errors
    ///
    /// The first [`Unlimited`], after all were tried.
    pub(crate) fn limit_all(&self, bytes: Option<u64>) -> Result<(), Unlimited> {
        let all: Vec<Process> = self.all.borrow().values().copied().collect();
        self.note(limit(&all, bytes))
    }
}

/// The system asks for the right to do so with processes of others, which root in a container does not
/// have; so whoever may be anybody else is their owner for a moment.
fn limit(all: &[Process], bytes: Option<u64>) -> Result<Limited, Unlimited> {
    match limit_as_we_are(all, bytes) {
        Err(Unlimited::Refused(_)) if geteuid().is_root() => {}
        result => return result,
    }
    let Some(Process { postmaster, .. }) = all.first() else {
        return Ok(Limited::ByItsServer);
    };
    let (user, group) = (postmaster.user, postmaster.group);
    // To the system the ids are the thread's. It ends with them: there is no way back to forget.
    std::thread::scope(|scope| {
        let limiting = std::thread::Builder::new().name("limit".to_owned());
        let limiting = limiting.spawn_scoped(scope, || {
            let refused = |error: rustix::io::Errno| Unlimited::Refused(error.into());
            // The real ids are what it looks at. With the effective ones it would be killed and traced by them.
            set_thread_res_gid(group, None, None).map_err(refused)?;
            set_thread_res_uid(user, None, None).map_err(refused)?;
            limit_as_we_are(all, bytes)
        });
        let ended = limiting.map_err(Unlimited::Refused)?.join();
        ended.unwrap_or_else(|_| Err(Unlimited::Refused(io::ErrorKind::Other.into())))
    })
}

fn limit_as_we_are(all: &[Process], bytes: Option<u64>) -> Result<Limited, Unlimited> {
    let mut result = Ok(Limited::ByUs);
    for process in all {
        let one = process.limit(bytes);
        result = match (result, one) {
            (Ok(Limited::ByUs), one) => one,
            (Ok(Limited::ByItsServer), Err(error)) => Err(error),
            (result, _) => result,
        };
    }
    result
}

impl Process {
    fn limit(&self, bytes: Option<u64>) -> Result<Limited, Unlimited> {
        // The number is what somebody at the other end of a socket said: it must not hit another process.
        if self.parent() != Some(self.postmaster.process) {
            return Err(Unlimited::Elsewhere);
        }
        let maximum = self.maximum()?;
        let (current, limited) = match (bytes, maximum) {
            (Some(bytes), Some(maximum)) if maximum <= bytes => {
                (Some(maximum), Limited::ByItsServer)
            }
            (Some(bytes), _) => (Some(bytes), Limited::ByUs),
            (None, maximum) => (maximum, Limited::ByItsServer),
        };
        prlimit(Some(self.id), Resource::Data, Rlimit { current, maximum })
            .map(|_| limited)
            .map_err(|error| Unlimited::Refused(error.into()))
    }

    fn parent(&self) -> Option<Pid> {
        let text = self.look("stat").ok()?;
        // Number, name in parentheses, state, parent. The name may hold anything.
        let (_, rest) = text.rsplit_once(')')?;
        Pid::from_raw(rest.split_ascii_whitespace().nth(1)?.parse().ok()?)
    }

    /// The hard limit, which its postmaster gave it; `None`: there is none.
    fn maximum(&self) -> Result<Option<u64>, Unlimited> {
        let text = self.look("limits").map_err(|_| Unlimited::Elsewhere)?;
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix("Max data size"));
        let hard = line.and_then(|line| line.split_ascii_whitespace().nth(1));
        Ok(hard.and_then(|hard| hard.parse().ok()))
    }

    fn look(&self, file: &str) -> io::Result<String> {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.id.as_raw_nonzero()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child of ours stands for a server process, and we for its postmaster.
    #[test]
    fn only_a_child_of_who_we_talk_to_is_limited_and_its_limit_can_be_raised_again() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let id = i32::try_from(child.id()).unwrap();
        let us = Postmaster {
            process: rustix::process::getpid(),
            user: rustix::process::getuid(),
            group: rustix::process::getgid(),
        };
        let process = Process {
            id: Pid::from_raw(id).unwrap(),
            postmaster: us,
        };
        let soft = || {
            let text = process.look("limits").unwrap();
            let line = text.lines().find(|line| line.starts_with("Max data size"));
            let word = line.unwrap().split_ascii_whitespace().nth(3).unwrap();
            word.parse::<u64>().ok()
        };
        let given = soft();
        let all = Processes::default();
        all.add(id, Some(us), None).unwrap();
        assert_eq!(soft(), given);
        for bytes in [Some(64 << 20), Some(96 << 20), Some(80 << 20)] {
            all.limit_all(bytes).unwrap();
            assert_eq!(soft(), bytes);
            assert!(all.are_limited());
        }
        all.limit_all(None).unwrap();
        assert!(!all.are_limited());
        assert_eq!(soft(), process.maximum().unwrap());
        all.remove(id);
        all.limit_all(Some(64 << 20)).unwrap();
        assert_eq!(
            soft(),
            process.maximum().unwrap(),
            "it is not ours any more"
        );

        // Nobody's child that we would know of; and numbers that are none.
        let other = Postmaster {
            process: process.id,
            ..us
        };
        for (id, postmaster) in [(id, Some(other)), (id, None), (0, Some(us)), (-1, Some(us))] {
            let all = Processes::default();
            all.add(id, postmaster, None).unwrap();
            let error = all.add(id, postmaster, Some(64 << 20)).unwrap_err();
            assert_eq!(error.word(), "elsewhere");
        }
        assert_eq!(soft(), process.maximum().unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        let error = all.add(id, Some(us), Some(64 << 20)).unwrap_err();
        assert_eq!(error.word(), "elsewhere");
    }
}
