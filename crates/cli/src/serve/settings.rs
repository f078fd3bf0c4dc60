//! Where the settings of `serve` come from: flags, environment, a TOML file.
//!
//! Owns: the one table of names, so that `--pg-listen`, `TENANTRY_PG_LISTEN` and `pg-listen = …`
//! are the same setting, and the first of them that is given wins. Does not own: what a value
//! means (`serve::config`).

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches};

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// As a flag without its dashes, and as a key of the file.
    pub(crate) name: &'static str,
    /// What stands for its value in the help; `None` for a switch.
    pub(crate) value: Option<&'static str>,
    /// Used when it is not given, in words where it depends on something.
    pub(crate) default: &'static str,
    /// One line.
    pub(crate) help: &'static str,
}

const fn setting(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        value: Some(value),
        default,
        help,
    }
}

const fn switch(name: &'static str, help: &'static str) -> Setting {
    Setting {
        name,
        value: None,
        default: "false",
        help,
    }
}

/// Every setting, in the order of the help.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "data-dir",
        "DIR",
        "./data",
        "Everything that is kept: keys, certificate, PostgreSQL's data",
    ),
    setting(
        "pg-listen",
        "ADDR",
        "127.0.0.1:5433",
        "Address for PostgreSQL clients",
    ),
    setting(
        "api-listen",
        "ADDR",
        "127.0.0.1:5480",
        "Address for the HTTP API",
    ),
    setting(
        "public-host",
        "NAME",
        "the host of pg-listen",
        "Host name in the connection strings that users get",
    ),
    setting(
        "pg-bin",
        "DIR",
        "found",
        "Directory of PostgreSQL's programs (15 to 18)",
    ),
    setting(
        "pg-user",
        "USER",
        "postgres",
        "User that PostgreSQL runs as when tenantry runs as root",
    ),
    setting(
        "attach",
        "DSN",
        "none",
        "Use this PostgreSQL for the tenants instead of running one",
    ),
    setting(
        "attach-file",
        "FILE",
        "none",
        "The same, read from a file, since a DSN may hold a password",
    ),
    setting(
        "catalog",
        "DSN",
        "on the node",
        "The PostgreSQL database where Tenantry keeps its own records",
    ),
    setting(
        "catalog-file",
        "FILE",
        "none",
        "The same, read from a file, since a DSN may hold a password",
    ),
    setting("tls-cert", "FILE", "self-signed", "Certificate chain, PEM"),
    setting("tls-key", "FILE", "self-signed", "Its key, PEM"),
    setting(
        "log",
        "FORM",
        "human",
        "human or json; goes to standard error",
    ),
    setting(
        "log-filter",
        "FILTER",
        "info",
        "What is logged, for example info,proxy=debug",
    ),
    setting(
        "workers",
        "COUNT",
        "1",
        "Threads that serve PostgreSQL clients; one serves some ten thousand queries a second",
    ),
    setting(
        "clients-max",
        "COUNT",
        "1000",
        "PostgreSQL clients at once; each needs an open file and, idle, some 10 kB",
    ),
    setting(
        "server-connections-max",
        "COUNT",
        "100",
        "Server connections that all tenants may hold together",
    ),
    setting(
        "address-connections-max",
        "COUNT",
        "0, none",
        "PostgreSQL clients at once from one address (of IPv6: one /64)",
    ),
    setting(
        "address-attempts-per-second-max",
        "COUNT",
        "0, none",
        "Logins tried from one address in a second; running queries are not delayed by logins in any case",
    ),
    setting(
        "address-failures-max",
        "COUNT",
        "20",
        "Failed logins of one user from one address, within a minute, that ban this user there for a \
         while; those of four and more users together ban the address. 0 bans nobody",
    ),
    setting("address-ban", "TIME", "60s", "How long such a ban lasts"),
    setting(
        "address-limits-not-for",
        "NETWORKS",
        "none",
        "Where the limits per address do not hold: addresses that many clients share, like \
         192.0.2.0/24,2001:db8::1",
    ),
    setting(
        "proxy-protocol-from",
        "NETWORKS",
        "none",
        "Load balancers: what connects from there must begin with a header of the PROXY protocol, \
         version 2, and the address in it counts as the client's. From elsewhere the header is refused",
    ),
    setting(
        "sql-origins",
        "ORIGINS",
        "none",
        "Web pages that browsers let use SQL over HTTP, like https://app.example,https://example.org, or * for \
         all. None: no page may",
    ),
    setting(
        "sql-issuers",
        "FILE",
        "none",
        "Whose JSON Web Tokens are taken for SQL over HTTP: TOML with [[issuer]]; docs/sql-over-http.md shows \
         one",
    ),
    setting(
        "api-forwarded-from",
        "NETWORKS",
        "none",
        "Proxies in front of the API: what comes from there is counted for the address in its \
         X-Forwarded-For, also for the limits per address. From elsewhere that header means nothing",
    ),
    setting(
        "retention",
        "TIME",
        "24h",
        "How long a deleted database can be undeleted",
    ),
    setting(
        "audit-sync",
        "WHEN",
        "always",
        "When lines of the audit log are on the disk. always: before an administrative action is answered, those of connections within a second; batch: all within a second; off: within ten seconds",
    ),
    setting(
        "audit-keep",
        "TIME",
        "90d",
        "How long lines of the audit log are kept; 0s is for ever. Files go as a whole, and a signed line says so",
    ),
    setting(
        "audit-size-max",
        "SIZE",
        "2GB",
        "Size of the files of administrative actions, and of those of connections, above which the oldest is removed; 16MB at least",
    ),
    setting(
        "backup-store",
        "URL",
        "DIR/backups",
        "Where backups are put: file:///folder, or s3://bucket/prefix with the credentials, region and endpoint \
         of AWS_ACCESS_KEY_ID and the like in the environment",
    ),
    setting(
        "backup-store-file",
        "FILE",
        "none",
        "Lines like AWS_ACCESS_KEY_ID=…, which go before those of the environment",
    ),
    setting(
        "backup-every",
        "TIME",
        "never",
        "Between two backups of each database, a minute at least: 24h for one a day. Each has times of its own, \
         spread evenly; a database can have another schedule (`tenantry backup schedule`)",
    ),
    setting(
        "backup-window",
        "HOURS",
        "all",
        "In which backups by schedule begin, in UTC, like 01:00-05:00 or 22:30-04:00. With it a database is \
         backed up once a day at most",
    ),
    setting(
        "backup-keep",
        "COUNT",
        "14",
        "Good backups by schedule that are kept of a database; 0 is any number. What somebody asked for by hand stays",
    ),
    setting(
        "backup-keep-for",
        "TIME",
        "30d",
        "Older backups by schedule are removed, but for the newest good one of a database that is there; 0s: none",
    ),
    setting(
        "point-in-time",
        "TIME",
        "24h",
        "How far back a managed PostgreSQL can be recovered to any second. It costs the log of that time, compressed, \
         and copies of the data of which the unchanged files are shared. 0s keeps nothing, and removes what was kept",
    ),
    setting(
        "point-in-time-base-every",
        "TIME",
        "12h",
        "Between two copies of the data for that: a recovery replays the log of this time at most",
    ),
    setting(
        "point-in-time-free",
        "SIZE",
        "a tenth of the disk, 1GB at least and 20GB at most",
        "What that leaves free of the disk: before it is less, the oldest of it goes, and then all of it",
    ),
    setting(
        "drill-every",
        "TIME",
        "never",
        "Between two restore drills, a minute at least: the last good backup of the database that was drilled longest \
         ago is restored where nobody can reach it, compared, timed and dropped",
    ),
    setting(
        "recovery-target",
        "TIME",
        "1h",
        "How long a restore may take: `tenantry fleet` shows it beside what the last drill took",
    ),
    setting(
        "stuck-after",
        "TIME",
        "10m",
        "How long a database may be on its way (CREATING, CLONING, DISABLING) before it is driven on, or \
         fails with the reason in its status",
    ),
    setting(
        "server-idle-max",
        "TIME",
        "30s",
        "How long a server connection may be used by nobody before it is closed. Opening one takes some \
         milliseconds, an idle one about 2 MB of the server's memory",
    ),
    setting(
        "connect-token-time-max",
        "TIME",
        "10m",
        "How long a connect token can be used to log in, at most, and when nobody asks for less",
    ),
    setting(
        "warm-pool",
        "COUNT",
        "8",
        "Databases made in advance, so that a create takes milliseconds",
    ),
    setting(
        "drain-limit",
        "TIME",
        "30s",
        "How long clients may go on after SIGTERM",
    ),
    setting(
        "connection-locks-max",
        "COUNT",
        "1000",
        "Entries of PostgreSQL's lock table, which all tenants share, that one server connection may hold; \
         with more it is ended. A dump or restore in one transaction takes one for each table, index and \
         sequence. A managed PostgreSQL gets a table that fits",
    ),
    setting(
        "process-memory-max",
        "SIZE",
        "an eighth of the machine's, 512MB at least",
        "Private memory of each process of a managed PostgreSQL; a statement that wants more fails with 53200. \
         A database can have less (memory_bytes_max)",
    ),
    setting(
        "notify-queue-max",
        "PERCENT",
        "50",
        "How full the queue of NOTIFY, which all tenants share, may be before sessions that may hold it up \
         are ended; 100 leaves them",
    ),
    setting(
        "metrics-tenants-max",
        "COUNT",
        "200",
        "Databases with series of their own in /metrics, the most active; the others are added up",
    ),
    setting(
        "insight-statements-max",
        "COUNT",
        "200",
        "Statements told apart for each database, with how often they ran and how long they took, without \
         their constants; those that count most, the others are added up. 0: none, and no times",
    ),
    setting(
        "statement-log-keep",
        "TIME",
        "7d",
        "How long lines of the statement logs of databases are kept, 1m at least; of each database the last 10,000 are, of all \
         together 1,000,000",
    ),
    switch(
        "metrics-open",
        "Let anybody who reaches the API read /metrics, which names databases by their ids; otherwise it \
         takes the operator's key",
    ),
    switch(
        "api-tls",
        "Serve the API over TLS, with the certificate of the PostgreSQL port",
    ),
    switch(
        "allow-plain-http",
        "Serve the API without TLS on an address that is not loopback",
    ),
    switch(
        "allow-plain-pg",
        "Let PostgreSQL clients in without TLS: for measuring, or where something else encrypts",
    ),
    setting(
        "anonymous-per-hour-max",
        "COUNT",
        "100",
        "Anonymous projects that one address (of IPv6: one /64) may make within an hour, counted over all processes; \
         0 is no limit. Behind a reverse proxy set api-forwarded-from, too",
    ),
    Setting {
        name: "allow-anonymous",
        value: None,
        default: "true where both addresses are loopback",
        help: "Let anybody register a project",
    },
];

impl Setting {
    /// What a value in the file has to be: in TOML `5` is a number and no path.
    fn kind(&self) -> &'static str {
        match self.value {
            None => "true or false",
            Some("COUNT" | "PERCENT") => "a number",
            Some(_) => "one text in quotes",
        }
    }

    /// A value of the file as it would be given on the command line; numbers and switches may stand in
    /// quotes, too. `None`: of another kind.
    fn text(&self, value: &toml::de::DeValue<'_>) -> Option<String> {
        let text = value.as_str().map(str::to_owned);
        match self.value {
            None => text.or_else(|| value.as_bool().map(|value| value.to_string())),
            Some("COUNT" | "PERCENT") => {
                text.or_else(|| value.as_integer().map(|value| value.as_str().to_owned()))
            }
            Some(_) => text,
        }
    }

    /// Its environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("TENANTRY_{}", self.name.replace('-', "_").to_uppercase())
    }
}

/// What the command line of `serve` gave.
#[derive(Debug)]
pub(crate) struct ServeArgs {
    given: BTreeMap<&'static str, String>,
    config: Option<PathBuf>,
    check: bool,
}

/// Where a value came from, as the operator would name it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// A flag.
    Flag(&'static str),
    /// A variable.
    Environment(String),
    /// A line of the file.
    File { path: PathBuf, line: usize },
    /// Nothing said: the default.
    Default(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Default(name) => write!(f, "--{name}"),
            Self::Environment(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
        }
    }
}

/// Something the operator has to correct.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mistake {
    /// Where.
    pub(crate) source: Source,
    /// What, and what would be right.
    pub(crate) what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.what)
    }
}

/// Values as texts, with their sources, and the mistakes made so far.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    pub(crate) values: BTreeMap<&'static str, (String, Source)>,
    pub(crate) mistakes: Vec<Mistake>,
}

impl clap::Args for ServeArgs {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        command = command
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("TOML file with the settings below under the same names [env: TENANTRY_CONFIG=]"),
            )
            .arg(
                Arg::new("check")
                    .long("check")
                    .action(ArgAction::SetTrue)
                    .help("Only say whether the settings are right"),
            );
        // A setting given twice is the last one: scripts put what a person adds behind their own.
        command = command.args_override_self(true);
        for setting in SETTINGS {
            let help = match setting.value {
                Some(_) => format!("{} [default: {}]", setting.help, setting.default),
                None => setting.help.to_owned(),
            };
            let arg = Arg::new(setting.name)
                .long(setting.name)
                .help(help)
                .help_heading("Settings (also in the file, and as TENANTRY_… in the environment)");
            command = command.arg(match setting.value {
                Some(value) => arg.value_name(value),
                // `--api-tls`, `--api-tls=false` and, as in the file, `--api-tls false`.
                None => arg
                    .num_args(0..=1)
                    .default_missing_value("true")
                    .value_name("BOOL")
                    .hide_possible_values(true),
            });
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = SETTINGS
            .iter()
            .filter_map(|setting| {
                let value = matches.get_one::<String>(setting.name)?;
                Some((setting.name, value.clone()))
            })
            .collect();
        Ok(Self {
            given,
            config: matches.get_one::<PathBuf>("config").cloned(),
            check: matches.get_flag("check"),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl ServeArgs {
    /// Whether only the settings shall be checked.
    pub(crate) fn check_only(&self) -> bool {
        self.check
    }

    /// Puts the three places together: a flag before a variable before the file.
    pub(crate) fn gather(&self, environment: impl Fn(&str) -> Option<OsString>) -> Raw {
        let mut raw = Raw::default();
        let file = self.config.clone().or_else(|| {
            environment("TENANTRY_CONFIG")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        });
        if let Some(path) = file {
            read_file(&path, &mut raw);
        }
        for setting in SETTINGS {
            let name = setting.variable();
            let Some(value) = environment(&name).filter(|value| !value.is_empty()) else {
                continue;
            };
            let source = Source::Environment(name);
            match value.into_string() {
                Ok(value) => {
                    raw.values.insert(setting.name, (value, source));
                }
                Err(_) => raw.mistakes.push(Mistake {
                    source,
                    what: "is not UTF-8".into(),
                }),
            }
        }
        for (name, value) in &self.given {
            raw.values.insert(name, (value.clone(), Source::Flag(name)));
        }
        raw
    }
}

/// Reads a file of settings; what is wrong in it becomes mistakes, and the rest is used, so that
/// all mistakes show at once.
fn read_file(path: &Path, raw: &mut Raw) {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            raw.mistakes.push(Mistake {
                source: Source::Flag("config"),
                what: format!("cannot read {}: {error}", path.display()),
            });
            return;
        }
    };
    let at = |offset: usize| Source::File {
        path: path.to_owned(),
        line: text[..offset.min(text.len())].matches('\n').count() + 1,
    };
    let (table, errors) = toml::de::DeTable::parse_recoverable(&text);
    // What it was to be is guesswork where the syntax is broken: only that is told, then.
    let is_broken = !errors.is_empty();
    for error in errors {
        raw.mistakes.push(Mistake {
            source: at(error.span().map_or(0, |span| span.start)),
            what: error.message().to_owned(),
        });
    }
    for (key, value) in table.get_ref() {
        let source = at(key.span().start);
        let name = key.get_ref().as_ref();
        let setting = SETTINGS.iter().find(|setting| setting.name == name);
        let value = value.get_ref();
        let what = match setting {
            None => unknown(name),
            Some(setting) => match setting.text(value) {
                Some(text) => {
                    raw.values.insert(setting.name, (text, source));
                    continue;
                }
                None => format!(
                    "{name} takes {}, not this kind ({})",
                    setting.kind(),
                    value.type_str()
                ),
            },
        };
        if !is_broken {
            raw.mistakes.push(Mistake { source, what });
        }
    }
}

fn unknown(name: &str) -> String {
    let nearest = SETTINGS
        .iter()
        .map(|setting| (distance(name, setting.name), setting.name))
        .min();
    match nearest {
        Some((distance, nearest)) if distance <= 3 => {
            format!("there is no setting '{name}'; did you mean '{nearest}'?")
        }
        _ => format!("there is no setting '{name}'; `tenantry serve --help` lists them"),
    }
}

/// Levenshtein's distance, a `_` for a `-` being free.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<_>, Vec<_>) = (a.replace('_', "-").bytes().collect(), b.bytes().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(given: &[(&'static str, &str)]) -> ServeArgs {
        ServeArgs {
            given: given.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
            config: None,
            check: false,
        }
    }

    /// Reads `text` as a file and tells line and text of each mistake.
    fn mistakes(text: &str) -> Vec<(usize, String)> {
        let scratch = scratch::Scratch::new();
        let path = scratch.join("settings.toml");
        std::fs::write(&path, text).unwrap();
        let mut raw = Raw::default();
        read_file(&path, &mut raw);
        raw.mistakes
            .into_iter()
            .map(|mistake| match mistake.source {
                Source::File { line, .. } => (line, mistake.what),
                other => panic!("{other}"),
            })
            .collect()
    }

    /// All ways to say yes or no, for every switch there is.
    #[test]
    fn switches_are_said_alone_with_a_value_or_in_the_file() {
        use clap::FromArgMatches as _;
        for setting in SETTINGS.iter().filter(|setting| setting.value.is_none()) {
            let flag = format!("--{}", setting.name);
            for (words, value) in [
                (vec![flag.clone()], "true"),
                (vec![flag.clone(), "true".into()], "true"),
                (vec![flag.clone(), "false".into()], "false"),
                (vec![format!("{flag}=false")], "false"),
                (vec![flag.clone(), "--workers".into(), "2".into()], "true"),
            ] {
                let command = <ServeArgs as clap::Args>::augment_args(clap::Command::new("serve"));
                let words = [vec!["serve".to_owned()], words].concat();
                let matches = command.try_get_matches_from(&words).unwrap();
                let raw = ServeArgs::from_arg_matches(&matches)
                    .unwrap()
                    .gather(|_| None);
                assert_eq!(raw.values[setting.name].0, value, "{words:?}");
            }
            let mut raw = Raw::default();
            let scratch = scratch::Scratch::new();
            let path = scratch.join("switch.toml");
            std::fs::write(&path, format!("{} = true\n", setting.name)).unwrap();
            read_file(&path, &mut raw);
            assert_eq!(
                (raw.values[setting.name].0.as_str(), raw.mistakes),
                ("true", vec![])
            );
        }
    }

    #[test]
    fn a_flag_beats_a_variable() {
        let environment = |name: &str| match name {
            "TENANTRY_PG_LISTEN" => Some("127.0.0.1:1".into()),
            "TENANTRY_WORKERS" => Some("2".into()),
            "TENANTRY_LOG" => Some(OsString::new()),
            _ => None,
        };
        let raw = args(&[("pg-listen", "127.0.0.1:2")]).gather(environment);
        assert_eq!(raw.values["pg-listen"].0, "127.0.0.1:2");
        assert_eq!(raw.values["workers"].0, "2");
        assert!(
            !raw.values.contains_key("log"),
            "an empty variable says nothing"
        );
    }

    #[test]
    fn every_mistake_of_a_file_is_told_with_its_line() {
        let found = mistakes(
            "pg_listen = \"127.0.0.1:1\"\n# fine\nworkers = 2\nworker = 3\nretention = [1]\nfoo-bar-baz = 1\n[log]\nx = 1\n",
        );
        let has = |line: usize, part: &str| {
            assert!(
                found
                    .iter()
                    .any(|(l, what)| *l == line && what.contains(part)),
                "line {line}, {part}: {found:?}"
            );
        };
        has(1, "did you mean 'pg-listen'");
        has(4, "did you mean 'workers'");
        has(5, "(array)");
        has(6, "--help");
        has(7, "log takes one text");
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn a_value_of_another_kind_is_refused() {
        for (line, want) in [
            (
                "data-dir = 5",
                "data-dir takes one text in quotes, not this kind (integer)",
            ),
            (
                "data-dir = true",
                "data-dir takes one text in quotes, not this kind (boolean)",
            ),
            (
                "retention = 24",
                "retention takes one text in quotes, not this kind (integer)",
            ),
            (
                "workers = true",
                "workers takes a number, not this kind (boolean)",
            ),
            (
                "workers = 1.5",
                "workers takes a number, not this kind (float)",
            ),
            (
                "api-tls = 1",
                "api-tls takes true or false, not this kind (integer)",
            ),
        ] {
            assert_eq!(mistakes(line), [(1, want.to_owned())], "{line}");
        }
        for line in [
            "data-dir = '5'",
            "workers = 2",
            "workers = '2'",
            "api-tls = true",
        ] {
            assert_eq!(mistakes(line), [], "{line}");
        }
    }

    #[test]
    fn broken_toml_is_told_with_its_line_too() {
        let found = mistakes("workers = 2\nlog = \nnonsense = 1\n");
        assert!(found.iter().any(|(line, _)| *line == 2), "{found:?}");
        for text in ["a = [", "data-dir = [\nworker = 3\n"] {
            let found = mistakes(text);
            assert!(
                !found.is_empty()
                    && !found
                        .iter()
                        .any(|(_, what)| what.contains("mean") || what.contains("takes")),
                "{found:?}"
            );
        }
    }
}
