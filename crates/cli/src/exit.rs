//! How a command ends: its exit code, and what it says on standard error.
//!
//! Owns: the table of exit codes, which is public and printed by `--help` and `docs/cli.md`. A
//! code is never given another meaning; new reasons get new codes.

use std::{fmt::Write as _, io, process::ExitCode};

/// Exit codes, split by what a script does about them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line or the configuration is wrong. (clap uses the same code.)
    Usage = 2,
    /// No credentials, or they do not allow this.
    NotAllowed = 3,
    /// What was named does not exist.
    NotFound = 4,
    /// It exists already, or is in a state that does not allow this.
    Conflict = 5,
    /// The server refused what was asked as invalid.
    Refused = 6,
    /// A limit was reached.
    Limit = 7,
    /// The server did not answer, or cannot serve now. Trying again may help.
    Unavailable = 8,
    /// PostgreSQL refused a statement.
    Sql = 9,
    /// This machine lacks something, as `tenantry doctor` says.
    Machine = 10,
}

impl Exit {
    /// All of them with the line that documents them.
    pub(crate) const ALL: [(Self, &'static str); 10] = [
        (Self::Failed, "something failed that has no code of its own"),
        (Self::Usage, "wrong command line or configuration"),
        (
            Self::NotAllowed,
            "no credentials, or they do not allow this",
        ),
        (Self::NotFound, "what was named does not exist"),
        (
            Self::Conflict,
            "it exists already, or its state does not allow this",
        ),
        (Self::Refused, "the server refused the request as invalid"),
        (Self::Limit, "a limit was reached"),
        (
            Self::Unavailable,
            "no answer from the server, or not now; trying again may help",
        ),
        (Self::Sql, "PostgreSQL refused a statement"),
        (
            Self::Machine,
            "this machine lacks something (`tenantry doctor`)",
        ),
    ];

    /// The table as `--help` shows it.
    pub(crate) fn table() -> String {
        let mut text = String::from("Exit codes:\n   0  done\n");
        for (code, meaning) in Self::ALL {
            let _ = writeln!(text, "  {:>2}  {meaning}", code as u8);
        }
        text
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What the API answered instead of what was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ApiError {
    /// HTTP status.
    pub(crate) status: u16,
    /// Stable code of the error; empty when the body was not ours.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
    /// What to do; may be empty.
    pub(crate) hint: String,
    /// To quote to the operator; may be empty.
    pub(crate) request_id: String,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server answered with an error.
    Api(ApiError),
    /// Found out here, before or after asking the server.
    Here {
        /// Code to exit with.
        exit: Exit,
        /// What is wrong.
        message: String,
        /// What to do; may be empty.
        hint: String,
    },
    /// It was already told; only the code is left to give.
    Told(Exit),
    /// Anything else.
    Other(anyhow::Error),
}

impl Failure {
    /// A failure found out here.
    pub(crate) fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Here {
            exit,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// The command line is wrong in a way clap cannot know.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, hint)
    }

    /// The code to exit with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Api(error) if error.code == "quota_exceeded" => Exit::Limit,
            Self::Api(error) => match error.status {
                401 | 403 => Exit::NotAllowed,
                404 | 410 => Exit::NotFound,
                409 => Exit::Conflict,
                429 => Exit::Limit,
                400..=499 => Exit::Refused,
                500..=599 => Exit::Unavailable,
                _ => Exit::Failed,
            },
            Self::Here { exit, .. } | Self::Told(exit) => *exit,
            Self::Other(_) => Exit::Failed,
        }
    }

    /// Says it on standard error.
    pub(crate) fn print(&self) {
        if let Some(text) = self.text() {
            use io::Write as _;
            // Nothing can be done about a closed standard error.
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }

    fn text(&self) -> Option<String> {
        let mut text = String::new();
        match self {
            Self::Told(_) => return None,
            Self::Here { message, hint, .. } => {
                let _ = writeln!(text, "error: {message}");
                if !hint.is_empty() {
                    let _ = writeln!(text, "hint: {hint}");
                }
            }
            Self::Api(error) => {
                if error.code.is_empty() {
                    let _ = writeln!(text, "error: {} (HTTP {})", error.message, error.status);
                } else {
                    let _ = writeln!(text, "error: {} ({})", error.message, error.code);
                }
                if !error.hint.is_empty() {
                    let _ = writeln!(text, "hint: {}", error.hint);
                }
                if !error.request_id.is_empty() {
                    let _ = writeln!(text, "request id: {}", error.request_id);
                }
            }
            Self::Other(error) => {
                let _ = writeln!(text, "error: {error:#}");
            }
        }
        Some(text)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        // `tenantry list | head -1` is no failure: whoever read has enough.
        let pipe = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if pipe {
            return Self::Told(Exit::Failed);
        }
        Self::Other(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        anyhow::Error::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_codes() {
        for (status, exit) in [
            (400, Exit::Refused),
            (401, Exit::NotAllowed),
            (403, Exit::NotAllowed),
            (404, Exit::NotFound),
            (409, Exit::Conflict),
            (410, Exit::NotFound),
            (413, Exit::Refused),
            (422, Exit::Refused),
            (429, Exit::Limit),
            (500, Exit::Unavailable),
            (503, Exit::Unavailable),
        ] {
            let failure = Failure::Api(ApiError {
                status,
                ..ApiError::default()
            });
            assert_eq!(failure.exit(), exit, "{status}");
        }
    }

    #[test]
    fn codes_are_counted_up_and_each_is_documented() {
        for (index, (code, _)) in Exit::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index + 1);
        }
    }

    #[test]
    fn everything_the_server_said_is_said() {
        let text = Failure::Api(ApiError {
            status: 409,
            code: "name_taken".into(),
            message: "a database with this name exists".into(),
            hint: "choose another".into(),
            request_id: "req_1".into(),
        })
        .text()
        .unwrap();
        assert_eq!(
            text,
            "error: a database with this name exists (name_taken)\n\
             hint: choose another\nrequest id: req_1\n"
        );
    }
}
