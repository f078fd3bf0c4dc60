//! What an operator may say.
//!
//! Owns: the list of commands, reading one from text, and what is said to everything else.

use model::TenantId;

use super::Mistake;

/// What there is, for who asked something else.
pub(super) const HINT: &str = "SHOW HELP lists what there is.";

/// One command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Command {
    /// No text.
    Nothing,
    /// What drivers say by themselves; it has no effect. With the tag that PostgreSQL answers.
    Ignored(&'static str),
    Show(Show),
    Act(Act, TenantId),
    Reload,
}

/// What can be shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Show {
    Clients,
    Config,
    Databases,
    Help,
    Lists,
    Pins,
    Pools,
    Servers,
    Statements,
    Stats,
    StatsTotals,
    Tenants,
    Version,
}

/// What can be done to a tenant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Act {
    Kill,
    Pause,
    Reconnect,
    Resume,
}

impl Show {
    pub(super) const ALL: [(Self, &str, &str); 13] = [
        (
            Self::Clients,
            "CLIENTS",
            "every session: who, from where, since when, what it did",
        ),
        (
            Self::Config,
            "CONFIG",
            "limits of this process, and their defaults",
        ),
        (
            Self::Databases,
            "DATABASES",
            "databases in use, as PgBouncer's exporters read them",
        ),
        (Self::Help, "HELP", "this list"),
        (Self::Lists, "LISTS", "how many of everything there are"),
        (
            Self::Pins,
            "PINS",
            "what keeps sessions on their server connections, by database",
        ),
        (
            Self::Pools,
            "POOLS",
            "server connections and clients, by database and role",
        ),
        (
            Self::Servers,
            "SERVERS",
            "every server connection that is idle or serves a session",
        ),
        (
            Self::Statements,
            "STATEMENTS",
            "what databases ran most often and longest, without constants",
        ),
        (
            Self::Stats,
            "STATS",
            "what databases did since they came into use",
        ),
        (
            Self::StatsTotals,
            "STATS_TOTALS",
            "the same under the names that PgBouncer's exporters read",
        ),
        (
            Self::Tenants,
            "TENANTS",
            "databases in use, with their limits and who waits",
        ),
        (Self::Version, "VERSION", "version of this program"),
    ];
}

impl Act {
    pub(super) const ALL: [(Self, &str, &str); 4] = [
        (Self::Kill, "KILL", "end all its sessions (57P01)"),
        (
            Self::Pause,
            "PAUSE",
            "let running transactions end and new ones wait; returns when none runs, or after 5 s",
        ),
        (
            Self::Reconnect,
            "RECONNECT",
            "close its server connections: idle ones now, others when their session gives them back",
        ),
        (Self::Resume, "RESUME", "let those that wait go on"),
    ];

    /// As the audit log calls it.
    pub(super) fn operation(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Reconnect => "reconnect",
            Self::Resume => "unpause",
        }
    }

    pub(super) fn name(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(act, ..)| *act == self)
            .map_or("", |(_, name, _)| name)
    }
}

impl Command {
    /// Reads one command; a semicolon may end it.
    ///
    /// # Errors
    ///
    /// A [`Mistake`] that says what there is.
    pub(super) fn read(text: &[u8]) -> Result<Self, Mistake> {
        let text = std::str::from_utf8(text).map_err(|_| Mistake {
            code: "22021",
            message: "the command is not UTF-8".to_owned(),
            hint: HINT,
        })?;
        let text = text.trim().trim_end_matches(';').trim_end();
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let is = |word: &str, name: &str| word.eq_ignore_ascii_case(name);
        match *words.as_slice() {
            [] => Ok(Self::Nothing),
            [show, what] if is(show, "SHOW") => Show::ALL
                .into_iter()
                .find(|(_, name, _)| is(what, name))
                .map(|(show, ..)| Self::Show(show))
                .ok_or_else(unknown),
            [reload] if is(reload, "RELOAD") => Ok(Self::Reload),
            // Drivers that wrap everything in transactions, and those that set their own settings.
            [begin, ..] if is(begin, "BEGIN") => Ok(Self::Ignored("BEGIN")),
            [commit] if is(commit, "COMMIT") => Ok(Self::Ignored("COMMIT")),
            [rollback] if is(rollback, "ROLLBACK") => Ok(Self::Ignored("ROLLBACK")),
            [set, setting, ..] if is(set, "SET") && is_of_drivers(setting) => {
                Ok(Self::Ignored("SET"))
            }
            [act, ref rest @ ..] => {
                let known = Act::ALL.into_iter().find(|(_, name, _)| is(act, name));
                let (act, name, _) = known.ok_or_else(unknown)?;
                match rest {
                    [tenant] => tenant
                        .parse()
                        .map(|tenant| Self::Act(act, tenant))
                        .map_err(|_| Mistake {
                            code: "22023",
                            message: format!("{name} takes the id of a database: 12 characters of a-z and 0-9, the first a letter"),
                            hint: "SHOW TENANTS lists those in use.",
                        }),
                    _ => Err(Mistake {
                        code: "42601",
                        message: format!("{name} takes the id of one database"),
                        hint: "SHOW TENANTS lists those in use.",
                    }),
                }
            }
        }
    }
}

/// Whether it is a setting that drivers make by themselves, and that means nothing here.
fn is_of_drivers(setting: &str) -> bool {
    let name = setting.split('=').next().unwrap_or_default();
    ["application_name", "extra_float_digits", "datestyle"]
        .iter()
        .any(|own| name.eq_ignore_ascii_case(own))
}

/// The text is not repeated: a statement meant for another database may hold anything.
fn unknown() -> Mistake {
    let shows: Vec<&str> = Show::ALL.into_iter().map(|(_, name, _)| name).collect();
    let acts: Vec<&str> = Act::ALL.into_iter().map(|(_, name, _)| name).collect();
    Mistake {
        code: "42601",
        message: format!(
            "syntax error: the console knows SHOW {}, {} <database id>, and RELOAD",
            shows.join("|"),
            acts.join("|")
        ),
        hint: HINT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_in_any_case_with_or_without_a_semicolon() {
        for (text, command) in [
            ("", Command::Nothing),
            (" ; ", Command::Nothing),
            ("show pools", Command::Show(Show::Pools)),
            ("SHOW\n STATS_TOTALS ;", Command::Show(Show::StatsTotals)),
            ("reload;", Command::Reload),
            (
                "KILL abcdefghijkl;",
                Command::Act(Act::Kill, "abcdefghijkl".parse().unwrap()),
            ),
            (
                "begin isolation level serializable",
                Command::Ignored("BEGIN"),
            ),
            ("SET extra_float_digits = 3", Command::Ignored("SET")),
            ("set application_name='me'", Command::Ignored("SET")),
            ("SET datestyle TO 'ISO'", Command::Ignored("SET")),
        ] {
            assert_eq!(Command::read(text.as_bytes()).unwrap(), command, "{text}");
        }
    }

    #[test]
    fn everything_else_is_told_what_there_is_and_not_repeated() {
        for text in [
            "SELECT 'secret'",
            "SHOW",
            "SHOW secret",
            "SHOW POOLS; SHOW POOLS",
            "SHOW POOLS secret",
            "RELOAD secret",
            "SET role = secret",
            "SET secret=application_name",
        ] {
            let mistake = Command::read(text.as_bytes()).unwrap_err();
            assert_eq!(mistake.code, "42601", "{text}");
            assert!(mistake.message.contains("POOLS"), "{}", mistake.message);
            assert!(!mistake.message.contains("secret"), "{}", mistake.message);
        }
        for (text, code) in [
            ("KILL", "42601"),
            ("PAUSE a b", "42601"),
            ("KILL *", "22023"),
            ("KILL ABCDEFGHIJKL", "22023"),
        ] {
            assert_eq!(
                Command::read(text.as_bytes()).unwrap_err().code,
                code,
                "{text}"
            );
        }
        assert_eq!(Command::read(b"SHOW \xff").unwrap_err().code, "22021");
    }
}
