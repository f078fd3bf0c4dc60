//! Where the settings of `serve` come from: flags, environment, a TOML file.
//!
//! Owns: that `--pg-listen`, `TENANTRY_PG_LISTEN` and `pg-listen = …` are the same setting, and that the first of them
//! that is given wins. Does not own: which settings there are (`table`), or what a value means (`serve::config`).

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches};

mod table;

pub(crate) use table::SETTINGS;

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
mod tests;
